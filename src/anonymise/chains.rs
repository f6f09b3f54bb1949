//! Names of the chains that iptables mode has for endpoints. Their letters are a hash of the Service
//! port and the endpoint's address, by which whoever tries all addresses finds the right one. So they
//! become those that the other address would have, or, of an endpoint that nobody knows any more,
//! letters of chance. Tests: `tests.rs`.

use std::collections::BTreeMap;

use super::tree::Others;
use crate::backend::xtables::chain::{Chain, Kind, Name, Names};
use crate::kernel::Socket;
use crate::model::{EndpointSlice, Event, Service};
use crate::track::Tracker;

/// The other names.
pub(super) struct Chains {
    by_name: BTreeMap<String, String>,
    seed: u64,
}

impl Chains {
    /// Those of all endpoints that the objects have.
    pub(super) fn new(events: &[Event], others: &Others, seed: u64) -> Chains {
        let mut chains = Chains { by_name: BTreeMap::new(), seed };
        let mut tracker = Tracker::new("".into());
        events.iter().cloned().for_each(|event| tracker.feed(event));
        let cluster = tracker.cluster();
        for service in cluster.services() {
            for slice in cluster.slices(&service.name) {
                chains.note(service, slice, others);
            }
        }
        chains
    }

    fn note(&mut self, service: &Service, slice: &EndpointSlice, others: &Others) {
        for port in &service.ports {
            let names = Names::new(&service.port_name(port));
            for at in slice.ports.iter().filter(|at| at.name == port.name) {
                let chain = |address| {
                    let socket = Socket { address, port: at.port };
                    names.endpoint(&socket.to_string()).to_string()
                };
                for endpoint in &slice.endpoints {
                    let other = others.of(endpoint.address);
                    self.by_name.insert(chain(endpoint.address), chain(other));
                }
            }
        }
    }

    /// What a chain is called.
    pub(super) fn of(&self, name: &str) -> String {
        let unknown = || {
            let letters = Name::of(&[&self.seed.to_string(), name]);
            Chain::Of(Kind::Endpoint, letters).to_string()
        };
        self.by_name.get(name).cloned().unwrap_or_else(unknown)
    }
}
