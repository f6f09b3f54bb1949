//! Session affinity over time: clients come and come again, endpoints go and return, the proxy
//! restarts. Within its timeout a client meets the endpoint it had, if that is still there; after it,
//! every endpoint alike. Must never look at a rule. Tests: `tests/properties.rs`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use kube_proxy::api::decode::Decoder;
use kube_proxy::kernel::Socket;
use kube_proxy::model::{Kind, Protocol};
use kube_proxy::relay::Balancer;
use kube_proxy::sync::Proxy;

use crate::cluster::{Mode, Setup};
use crate::fate::{Entry, Outcome, Packet, Seen};
use crate::host::{Marks, ask, packet_from};
use crate::sim_heart::carried_on;
use crate::stage::Stage;
use crate::vectors::ARRIVAL;
use crate::world::{Objects, synced, told};

/// Most endpoints of the Service, and most clients.
const ENDPOINTS: usize = 4;
const CLIENTS: u8 = 5;

/// How long IPVS knows a connection of one packet, at most: UDP's five minutes.
const LONGEST_IPVS_CONNECTION: u64 = 300;

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
    let protocols = match mode {
        // It carries no SCTP.
        Mode::Userspace => vec![Protocol::Tcp, Protocol::Udp],
        _ => Protocol::ALL.to_vec(),
    };
    let protocol = select(protocols);
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
    /// The endpoint was not there for a while.
    left: bool,
}

struct Life<'a> {
    memory: &'a Memory,
    setup: Setup,
    stage: Stage,
    proxy: Proxy,
    there: Vec<bool>,
    now: u64,
    connections: u16,
    /// Whom userspace mode remembers; gone with its process.
    relay: Balancer,
    met: BTreeMap<u8, Met>,
}

/// Lives through it. The error names the moment at which a client was forgotten too early or
/// remembered too long.
pub fn live(memory: &Memory) -> Result<(), String> {
    let setup = Setup { mode: memory.mode, ..Setup::default() };
    let stage = Stage::new(&setup, usize::MAX);
    let there = vec![true; ENDPOINTS];
    let proxy = synced(Box::new(stage.clone()), &setup, &objects(memory, &there))?;
    let mut life = Life {
        memory,
        setup,
        stage,
        proxy,
        there,
        now: 0,
        connections: 0,
        relay: Balancer::default(),
        met: BTreeMap::new(),
    };
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
                for met in self.met.values_mut() {
                    met.left |=
                        !(0..ENDPOINTS).any(|n| self.there[n] && address(n) == met.endpoint);
                }
                Ok(())
            }
            Moment::Restart => {
                if self.memory.mode == Mode::Userspace {
                    self.relay = Balancer::default();
                    self.met.clear();
                }
                let objects = objects(self.memory, &self.there);
                self.proxy = synced(Box::new(self.stage.clone()), &self.setup, &objects)?;
                // What stood in for the old table goes.
                self.proxy.sync().map(drop).map_err(|e| format!("sync: {e}"))
            }
        }
    }

    fn asked(&self, client: u8) -> Packet {
        Packet {
            protocol: self.memory.protocol,
            source: [10, 240, 0, client + 1].into(),
            entry: Entry::Link(ARRIVAL.to_owned()),
            dest: self.memory.to.0,
            port: self.memory.to.1,
        }
    }

    /// Everything that could become of a client's visit now; nothing changes.
    fn could(&self, client: u8) -> Result<Seen, String> {
        let (asked, marks) = (self.asked(client), Marks::none(&self.setup));
        let mut seen = self.stage.host(|host| ask(host, &asked, marks))?;
        seen.outcomes = carried_on(|at| self.stage.relayed(asked.protocol, at), seen.outcomes);
        Ok(seen)
    }

    /// Everything the visit could come to is asked first, then it takes place.
    fn visit(&mut self, client: u8) -> Result<(), String> {
        let (could, stranger) = (self.could(client)?, self.could(CLIENTS)?);
        let asked = self.asked(client);
        self.connections += 1;
        let port = self.connections;
        let went = self.stage.host(|host| {
            let sent = packet_from(host, &asked, 20_000 + port)?;
            Ok::<_, String>(host.fate(&sent))
        })?;
        let endpoint = match went.fate {
            sim::Fate::Forwarded(_) => went.packet.dst,
            sim::Fate::Delivered if self.memory.mode == Mode::Userspace => {
                self.carried(&asked, went.packet.dst, went.packet.dport())?
            }
            other => return Err(format!("it reached no endpoint: {other}")),
        };
        self.fits(client, (&could, &stranger), endpoint)?;
        self.met.insert(client, Met { endpoint, at: self.now, left: false });
        Ok(())
    }

    /// Where the relay takes a connection that came to this port of its own.
    fn carried(&mut self, asked: &Packet, address: IpAddr, port: u16) -> Result<IpAddr, String> {
        let serving = self.stage.relayed(asked.protocol, Socket { address, port });
        let serving = serving.ok_or("delivered to a port that nobody serves")?;
        let to = |s: &Socket| SocketAddr::new(s.address, s.port);
        self.relay.set(serving.endpoints.iter().map(to).collect(), serving.affinity);
        let now = Duration::from_secs(self.now);
        let chosen = self.relay.choose(asked.source, &[], now).ok_or("no endpoint")?;
        self.relay.worked(asked.source, chosen, now);
        Ok(chosen.ip())
    }

    fn fits(
        &self,
        client: u8,
        (could, stranger): (&Seen, &Seen),
        went: IpAddr,
    ) -> Result<(), String> {
        let Some(met) = self.met.get(&client) else {
            return self.any(could, stranger);
        };
        let gone_by = self.now - met.at;
        if met.left {
            // IPVS takes a client back to an endpoint that comes back.
            let may_be_taken_back = self.memory.mode == Mode::Ipvs && gone_by <= self.remembered();
            return if may_be_taken_back { Ok(()) } else { self.any(could, stranger) };
        }
        if gone_by + 1 < self.memory.timeout {
            return if went == met.endpoint {
                Ok(())
            } else {
                Err(format!("client {client} met {} {gone_by} s ago and now {went}", met.endpoint))
            };
        }
        if gone_by <= self.remembered() { Ok(()) } else { self.any(could, stranger) }
    }

    /// How long a client may be remembered. IPVS keeps him while one of his connections is known, and looks
    /// after that once a minute (`ip_vs_conn_expire`).
    fn remembered(&self) -> u64 {
        match self.memory.mode {
            Mode::Ipvs => self.memory.timeout.max(LONGEST_IPVS_CONNECTION) + 120,
            _ => self.memory.timeout + 1,
        }
    }

    /// Each endpoint with the same chance. IPVS takes turns: there nobody knows a client who is sent where a
    /// stranger would be sent at this moment.
    fn any(&self, could: &Seen, stranger: &Seen) -> Result<(), String> {
        if self.memory.mode == Mode::Ipvs {
            return if could.outcomes == stranger.outcomes {
                Ok(())
            } else {
                Err(format!("a stranger meets {:?}, he {:?}", stranger.outcomes, could.outcomes))
            };
        }
        let there = self.there.iter().filter(|there| **there).count();
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
