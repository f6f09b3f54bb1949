//! Changes that are supposed before they are made, and what they would change for whom: the same
//! questions are asked of the world as it is wanted now and as it would be.
//!
//! It must never change anything itself. Tests: `tests.rs`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use super::Case;
use crate::kernel::Socket;
use crate::model::{Event, Family, Mode};
use crate::promise::{Face, Promises};
use crate::sync::Options;
use crate::trace::World;

/// A change that is supposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Another proxy mode.
    Mode(Mode),
    /// A node's pods are gone.
    NodeDrain(Arc<str>),
    /// An endpoint answers no more.
    EndpointDown(IpAddr),
}

/// What a change does to one Service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Effect {
    /// The Service port.
    pub service: String,
    /// Its frontend.
    pub frontend: String,
    /// What it was and what it would be.
    pub words: String,
}

impl Change {
    /// Reads `NAME=VALUE`.
    pub fn parse(text: &str) -> Result<Change, String> {
        let forms = "mode=NAME, node-drain=NAME or endpoint-down=IP";
        let (name, value) =
            text.split_once('=').ok_or(format!("--what-if {text}: expected {forms}"))?;
        match name {
            "mode" => {
                let mode = [Mode::Nftables, Mode::Iptables, Mode::Ipvs, Mode::Userspace];
                let mode = mode.into_iter().find(|mode| mode.as_str() == value);
                mode.map(Change::Mode).ok_or(format!("--what-if {text}: there is no such mode"))
            }
            "node-drain" => Ok(Change::NodeDrain(value.into())),
            "endpoint-down" => {
                let address = value
                    .parse()
                    .map_err(|_| format!("--what-if {text}: expected an IP address"))?;
                Ok(Change::EndpointDown(address))
            }
            _ => Err(format!("--what-if {text}: expected {forms}")),
        }
    }

    /// Makes the change in the objects and options; says whether anything was there to change.
    pub fn apply(&self, events: &mut [Event], options: &mut Options) -> bool {
        let mut touched = false;
        match self {
            Change::Mode(mode) => {
                touched = options.mode != *mode;
                options.mode = *mode;
            }
            Change::NodeDrain(_) | Change::EndpointDown(_) => {
                for event in events {
                    let Event::Slice(slice) = event else { continue };
                    for endpoint in &mut slice.endpoints {
                        let hit = match self {
                            Change::NodeDrain(node) => endpoint.node.as_deref() == Some(node),
                            Change::EndpointDown(address) => endpoint.address == *address,
                            Change::Mode(_) => false,
                        };
                        if hit {
                            touched = true;
                            endpoint.conditions.ready = false;
                            endpoint.conditions.serving = false;
                        }
                    }
                }
            }
        }
        touched
    }
}

type Reached = BTreeMap<(Family, crate::promise::Frontend), (String, Face, Vec<Socket>, bool)>;

/// What is different for whom between two cases, on the node of a world.
pub fn effects(world: &World, before: &Case<'_>, after: &Case<'_>) -> Vec<Effect> {
    let (before, after) = (reached(world, before), reached(world, after));
    let mut effects = Vec::new();
    for (key, (service, _, was, any)) in &before {
        let Some((_, _, is, still)) = after.get(key) else { continue };
        if was == is && any == still {
            continue;
        }
        let (address, protocol, port) = key.1;
        let at = address.map_or_else(
            || format!("node port {port}"),
            |a| Socket { address: a, port }.to_string(),
        );
        let words = format!("now {}, then {}", served(was.len(), *any), served(is.len(), *still));
        effects.push(Effect {
            service: service.clone(),
            frontend: format!("{at} {protocol}"),
            words,
        });
    }
    effects
}

/// How many endpoints there are, and what becomes of connections where there is none.
fn served(count: usize, any: bool) -> String {
    match (count, any) {
        (0, false) => "refused: no endpoint".to_owned(),
        (0, true) => "dropped: no endpoint on this node".to_owned(),
        (1, _) => "1 endpoint".to_owned(),
        (several, _) => format!("{several} endpoints"),
    }
}

fn reached(world: &World, case: &Case<'_>) -> Reached {
    let tracker = case.tracker();
    let node = super::node(case.options, world);
    let promises = Promises::new(tracker.cluster(), &node);
    let mut all = Reached::new();
    for family in Family::ALL {
        for (frontend, claim) in promises.claims(family) {
            let local = match claim.face {
                Face::Cluster => claim.service.internal_policy,
                Face::External | Face::NodePort => claim.service.external_policy,
            };
            let list = match local {
                crate::model::TrafficPolicy::Local => &claim.reach.local,
                crate::model::TrafficPolicy::Cluster => &claim.reach.cluster,
            };
            let sockets = list.iter().map(|backend| backend.socket).collect();
            let name = claim.service.port_name(claim.port).to_string();
            all.insert((family, *frontend), (name, claim.face, sockets, claim.reach.any));
        }
    }
    all
}
