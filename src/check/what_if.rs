//! Changes that are supposed before they are made, and what they would change for whom: the same
//! questions are asked of the world as it is wanted now and as it would be.
//!
//! It must never change anything itself. Tests: `tests.rs`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use super::Case;
use super::set_field::{FORM, SetField};
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
    /// A field of a Service has another value.
    SetField(SetField),
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
        let forms = format!("mode=NAME, node-drain=NAME, endpoint-down=IP or {FORM}");
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
            "set-field" => SetField::parse(value)
                .map(Change::SetField)
                .map_err(|why| format!("--what-if {text}: {why}")),
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
            Change::SetField(change) => {
                for event in events {
                    match event {
                        Event::Service(service) if service.name == change.service => {
                            touched |= change.apply(service);
                        }
                        _ => {}
                    }
                }
            }
            Change::NodeDrain(_) | Change::EndpointDown(_) => {
                for event in events {
                    let Event::Slice(slice) = event else { continue };
                    for endpoint in &mut slice.endpoints {
                        let hit = match self {
                            Change::NodeDrain(node) => endpoint.node.as_deref() == Some(node),
                            Change::EndpointDown(address) => endpoint.address == *address,
                            Change::Mode(_) | Change::SetField(_) => false,
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

/// What there is behind a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Behind {
    service: String,
    endpoints: Vec<Socket>,
    /// Whether the whole cluster has any.
    any: bool,
    affinity: Option<u32>,
    /// The only sources that may come, of a load balancer.
    sources: Vec<IpNet>,
}

type Reached = BTreeMap<(Family, crate::promise::Frontend), Behind>;

/// What is different for whom between two cases, on the node of a world.
pub fn effects(world: &World, before: &Case<'_>, after: &Case<'_>) -> Vec<Effect> {
    let (before, after) = (reached(world, before), reached(world, after));
    let mut keys: Vec<_> = before.keys().chain(after.keys()).collect();
    keys.sort();
    keys.dedup();
    let effect = |key: &(Family, crate::promise::Frontend)| {
        let (was, is) = (before.get(key), after.get(key));
        let (address, protocol, port) = key.1;
        let at = address.map_or_else(
            || format!("node port {port}"),
            |a| Socket { address: a, port }.to_string(),
        );
        Some(Effect {
            service: is.or(was)?.service.clone(),
            frontend: format!("{at} {protocol}"),
            words: differences(was, is)?,
        })
    };
    keys.into_iter().filter_map(effect).collect()
}

/// How two states of a frontend differ, if they do.
fn differences(was: Option<&Behind>, is: Option<&Behind>) -> Option<String> {
    let (was, is) = match (was, is) {
        (Some(was), Some(is)) => (was, is),
        (None, Some(is)) => return Some(format!("now not there, then {}", is.served())),
        (Some(was), None) => return Some(format!("now {}, then not there", was.served())),
        (None, None) => return None,
    };
    let mut words = Vec::new();
    if was.service != is.service {
        words.push(format!("now of {}, then of {}", was.service, is.service));
    }
    if (&was.endpoints, was.any) != (&is.endpoints, is.any) {
        words.push(format!("now {}, then {}", was.served(), is.served()));
    }
    if was.affinity != is.affinity {
        let said = |seconds: Option<u32>| match seconds {
            None => "not at all".to_owned(),
            Some(seconds) => format!("for {seconds} s"),
        };
        words.push(format!(
            "clients remembered now {}, then {}",
            said(was.affinity),
            said(is.affinity)
        ));
    }
    if was.sources != is.sources {
        let said = |ranges: &[IpNet]| match ranges {
            [] => "everybody".to_owned(),
            some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        words.push(format!("open now to {}, then to {}", said(&was.sources), said(&is.sources)));
    }
    (!words.is_empty()).then(|| words.join("; "))
}

impl Behind {
    /// How many endpoints there are, and what becomes of connections where there is none.
    fn served(&self) -> String {
        match (self.endpoints.len(), self.any) {
            (0, false) => "refused: no endpoint".to_owned(),
            (0, true) => "dropped: no endpoint on this node".to_owned(),
            (1, _) => "1 endpoint".to_owned(),
            (several, _) => format!("{several} endpoints"),
        }
    }
}

fn reached(world: &World, case: &Case<'_>) -> Reached {
    let tracker = case.tracker();
    let node = super::node(case.options, world);
    let promises = Promises::new(tracker.cluster(), &node);
    let mut all = Reached::new();
    for family in Family::ALL {
        for (frontend, claim) in promises.claims(family) {
            let service = claim.service;
            let local = match claim.face {
                Face::Cluster => service.internal_policy,
                Face::External | Face::NodePort => service.external_policy,
            };
            let list = match local {
                crate::model::TrafficPolicy::Local => &claim.reach.local,
                crate::model::TrafficPolicy::Cluster => &claim.reach.cluster,
            };
            let fenced = frontend.0.is_some_and(|ip| service.load_balancer_ips.contains(&ip));
            let ranges = service.source_ranges.iter().filter(|_| fenced);
            let behind = Behind {
                service: service.port_name(claim.port).to_string(),
                endpoints: list.iter().map(|backend| backend.socket).collect(),
                any: claim.reach.any,
                affinity: service.affinity,
                sources: ranges.filter(|r| Family::of(r.addr()) == family).copied().collect(),
            };
            all.insert((family, *frontend), behind);
        }
    }
    all
}
