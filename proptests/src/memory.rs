//! Session affinity over time: clients come and come again, endpoints go and return, the proxy
//! restarts. Within its timeout a client meets the endpoint it had, if that is still there; after it,
//! every endpoint alike. Must never look at a rule. Tests: `tests/properties.rs`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use kube_proxy::api::decode::Decoder;
use kube_proxy::model::{Kind, Protocol};
use kube_proxy::sync::Proxy;

use crate::cluster::{Mode, Setup};
use crate::fate::{Entry, Outcome, Packet, Seen};
use crate::host::{Marks, ask, packet_from};
use crate::stage::Stage;
use crate::vectors::ARRIVAL;
use crate::world::{Objects, synced, told};

/// Most endpoints of the Service, and most clients.
const ENDPOINTS: usize = 4;
const CLIENTS: u8 = 5;

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Moment {
    /// Time goes by: so many quarters of the timeout, and two seconds.
    Wait(u64),
    /// A client opens a new connection.
    Visit(u8),
    /// These endpoints are there from now on, by number; there is always one at least.
    Endpoints(Vec<bool>),
    /// The proxy ends and another one starts.
    Restart,
}

/// A Service with session affinity and what it lives through.
#[derive(Clone, Debug)]
pub struct Memory {
    /// Who programs the node.
    pub mode: Mode,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its affinity timeout, in seconds.
    pub timeout: u64,
    /// Which of its addresses the clients know.
    pub to: (IpAddr, u16),
    /// What happens.
    pub moments: Vec<Moment>,
}

/// Any such life in a mode.
pub fn memory(mode: Mode) -> impl Strategy<Value = Memory> {
    let moment = prop_oneof![
        6 => (0..CLIENTS).prop_map(Moment::Visit),
        3 => select(vec![0u64, 1, 2, 3, 4, 5, 12]).prop_map(Moment::Wait),
        2 => vec(any::<bool>(), ENDPOINTS).prop_map(Moment::Endpoints),
        1 => Just(Moment::Restart),
    ];
    let to = select(vec![("172.30.0.41", 80), ("203.0.113.41", 80), ("192.168.0.2", 30_041)]);
    let protocol = select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp]);
    (protocol, select(vec![40u64, 600, 10_800, 86_400]), to, vec(moment, 4..40)).prop_map(
        move |(protocol, timeout, (address, port), moments)| {
            let to = (address.parse().expect("a constant address"), port);
            Memory { mode, protocol, timeout, to, moments }
        },
    )
}

/// Whom a client met, and when.
struct Met {
    endpoint: IpAddr,
    at: u64,
}

struct Life<'a> {
    memory: &'a Memory,
    setup: Setup,
    stage: Stage,
    proxy: Proxy,
    there: Vec<bool>,
    now: u64,
    connections: u16,
    met: BTreeMap<u8, Met>,
}

/// Lives through it. The error names the moment at which a client was forgotten too early or
/// remembered too long.
pub fn live(memory: &Memory) -> Result<(), String> {
    let setup = Setup { mode: memory.mode, ..Setup::default() };
    let stage = Stage::new(&setup, usize::MAX);
    let there = vec![true; ENDPOINTS];
    let proxy = synced(Box::new(stage.clone()), &setup, &objects(memory, &there))?;
    let mut life =
        Life { memory, setup, stage, proxy, there, now: 0, connections: 0, met: BTreeMap::new() };
    memory.moments.iter().enumerate().try_for_each(|(number, moment)| {
        life.moment(moment).map_err(|why| format!("moment {number}, {moment:?}: {why}"))
    })
}

fn address(endpoint: usize) -> IpAddr {
    [10, 180, 0, endpoint as u8 + 1].into()
}

fn objects(memory: &Memory, there: &[bool]) -> Objects {
    Objects {
        services: vec![json!({
            "metadata": {"namespace": "ns", "name": "sticky"},
            "spec": {
                "type": "NodePort",
                "clusterIP": "172.30.0.41",
                "externalIPs": ["203.0.113.41"],
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": memory.timeout}},
                "ports": [{"name": "p", "protocol": memory.protocol.to_string(), "port": 80, "nodePort": 30_041}],
            },
        })],
        slices: vec![slice(memory, there)],
        service_cidrs: Vec::new(),
    }
}

fn slice(memory: &Memory, there: &[bool]) -> Value {
    let endpoints: Vec<Value> = (0..there.len())
        .filter(|number| there[*number])
        .map(|number| json!({"addresses": [address(number)], "nodeName": "other"}))
        .collect();
    json!({
        "metadata": {
            "namespace": "ns",
            "name": "sticky-1",
            "labels": {"kubernetes.io/service-name": "sticky"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "p", "protocol": memory.protocol.to_string(), "port": 8080}],
        "endpoints": endpoints,
    })
}

impl Life<'_> {
    fn moment(&mut self, moment: &Moment) -> Result<(), String> {
        match moment {
            Moment::Wait(quarters) => {
                let seconds = self.memory.timeout * quarters / 4 + 2;
                self.now += seconds;
                self.stage.host(|host| host.advance(Duration::from_secs(seconds)));
                Ok(())
            }
            Moment::Visit(client) => self.visit(*client),
            Moment::Endpoints(there) => {
                self.there.clone_from(there);
                self.there[0] |= !there.contains(&true);
                let mut decoder = Decoder::new(self.setup.node_name.as_str());
                let slice = slice(self.memory, &self.there);
                let events = told(Kind::EndpointSlice, &slice, &mut decoder);
                events.into_iter().for_each(|event| self.proxy.feed(event));
                self.proxy.sync().map_err(|e| format!("sync: {e}"))?;
                let there = &self.there;
                self.met.retain(|_, met| {
                    (0..ENDPOINTS).any(|n| there[n] && address(n) == met.endpoint)
                });
                Ok(())
            }
            Moment::Restart => {
                let objects = objects(self.memory, &self.there);
                self.proxy = synced(Box::new(self.stage.clone()), &self.setup, &objects)?;
                // What stood in for the old table goes.
                self.proxy.sync().map(drop).map_err(|e| format!("sync: {e}"))
            }
        }
    }

    /// Everything the visit could come to is asked first, then it takes place.
    fn visit(&mut self, client: u8) -> Result<(), String> {
        let asked = Packet {
            protocol: self.memory.protocol,
            source: [10, 240, 0, client + 1].into(),
            entry: Entry::Link(ARRIVAL.to_owned()),
            dest: self.memory.to.0,
            port: self.memory.to.1,
        };
        self.connections += 1;
        let port = self.connections;
        let (could, went) = self.stage.host(|host| {
            let could = ask(host, &asked, Marks::default())?;
            let sent = packet_from(host, &asked, 20_000 + port)?;
            Ok::<_, String>((could, host.fate(&sent)))
        })?;
        if !matches!(went.fate, sim::Fate::Forwarded(_)) {
            return Err(format!("it reached no endpoint: {}", went.fate));
        }
        let endpoint = went.packet.dst;
        self.fits(client, &could, endpoint)?;
        self.met.insert(client, Met { endpoint, at: self.now });
        Ok(())
    }

    fn fits(&self, client: u8, could: &Seen, went: IpAddr) -> Result<(), String> {
        let there = self.there.iter().filter(|there| **there).count();
        let Some(met) = self.met.get(&client) else {
            return self.any(could, there);
        };
        let gone_by = self.now - met.at;
        if gone_by + 1 < self.memory.timeout {
            return if went == met.endpoint {
                Ok(())
            } else {
                Err(format!("client {client} met {} {gone_by} s ago and now {went}", met.endpoint))
            };
        }
        if gone_by <= self.memory.timeout + 1 { Ok(()) } else { self.any(could, there) }
    }

    /// Each endpoint with the same chance. IPVS takes turns and keeps a client while one of its
    /// connections is known: there only the endpoint itself can be looked at.
    fn any(&self, could: &Seen, there: usize) -> Result<(), String> {
        if self.memory.mode == Mode::Ipvs {
            return Ok(());
        }
        let fair = 1.0 / there as f64;
        let fits = |(outcome, chance): &(Outcome, f64)| {
            matches!(outcome, Outcome::Dnat { .. }) && (chance - fair).abs() < 1e-6
        };
        if could.outcomes.len() == there && could.outcomes.iter().all(fits) {
            return Ok(());
        }
        Err(format!("not {there} endpoints alike but {:?}", could.outcomes))
    }
}
