//! Which Services claim which addresses and node ports: kept here and not asked of the rules, since
//! it judges those. Tests: below.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;

use crate::model::{NamespacedName, Protocol, Service};
use crate::promise::Frontend;

/// Frontends by Service, and the other way round.
#[derive(Debug, Default)]
pub(super) struct Index {
    frontends: BTreeMap<NamespacedName, Box<[Frontend]>>,
    places: BTreeMap<Place, BTreeSet<NamespacedName>>,
}

/// What Services can share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Address(IpAddr),
    NodePort(Protocol, u16),
}

fn place((address, protocol, port): &Frontend) -> Place {
    address.map_or(Place::NodePort(*protocol, *port), Place::Address)
}

impl Index {
    /// Takes in what a Service is now; gives the frontends that it has no more.
    pub(super) fn set(&mut self, name: &NamespacedName, now: Option<&Service>) -> Vec<Frontend> {
        let now: BTreeSet<Frontend> = now.map(frontends).unwrap_or_default();
        let before = self.frontends.remove(name).unwrap_or_default();
        for frontend in &before {
            let place = place(frontend);
            let sharing = self.places.entry(place).or_default();
            sharing.remove(name);
            if sharing.is_empty() {
                self.places.remove(&place);
            }
        }
        for frontend in &now {
            self.places.entry(place(frontend)).or_default().insert(name.clone());
        }
        let gone = before.into_iter().filter(|frontend| !now.contains(frontend)).collect();
        if !now.is_empty() {
            self.frontends.insert(name.clone(), now.into_iter().collect());
        }
        gone
    }

    /// Services of a range of names.
    pub(super) fn services(
        &self,
        range: (Bound<&NamespacedName>, Bound<&NamespacedName>),
    ) -> impl Iterator<Item = &NamespacedName> {
        self.frontends.range::<NamespacedName, _>(range).map(|(name, _)| name)
    }

    /// These Services and all that have an address or node port of theirs.
    pub(super) fn sharing(&self, of: &BTreeSet<NamespacedName>) -> BTreeSet<NamespacedName> {
        let frontends = of.iter().filter_map(|name| self.frontends.get(name)).flatten();
        frontends.flat_map(|frontend| self.at(frontend)).chain(of).cloned().collect()
    }

    /// Services that have a frontend's address or node port.
    pub(super) fn at(&self, frontend: &Frontend) -> impl Iterator<Item = &NamespacedName> {
        self.places.get(&place(frontend)).into_iter().flatten()
    }

    /// Whether a Service has this address.
    pub(super) fn has_address(&self, address: &IpAddr) -> bool {
        self.places.contains_key(&Place::Address(*address))
    }
}

/// Everything a Service claims.
fn frontends(service: &Service) -> BTreeSet<Frontend> {
    let addresses = service.cluster_ips.iter();
    let addresses = addresses.chain(&service.external_ips).chain(&service.load_balancer_ips);
    let mut all = BTreeSet::new();
    for address in addresses {
        all.extend(service.ports.iter().map(|port| (Some(*address), port.protocol, port.port)));
    }
    let node_port = |port: &crate::model::ServicePort| Some((None, port.protocol, port.node_port?));
    all.extend(service.ports.iter().filter_map(node_port));
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::{Decoder, decode_text};
    use crate::model::Event;
    use crate::sync::tests;

    fn service(name: &str, address: &str, node_port: Option<u16>) -> Service {
        let text = tests::service(name, address, "");
        let events = decode_text(&text, &mut Decoder::new(tests::NODE));
        let found = events.into_iter().find_map(|event| match event {
            Event::Service(service) => Some(*service),
            _ => None,
        });
        let mut service = found.unwrap();
        service.ports[0].node_port = node_port;
        service
    }

    #[test]
    fn who_shares_an_address_or_a_node_port_is_known_until_it_is_gone() {
        let mut index = Index::default();
        let (a, b) = (service("a", "10.0.0.1", Some(30_000)), service("b", "10.0.0.1", None));
        let c = service("c", "10.0.0.3", Some(30_000));
        for service in [&a, &b, &c] {
            assert_eq!(index.set(&service.name, Some(service)), []);
        }
        let sharing = |index: &Index| index.sharing(&BTreeSet::from([a.name.clone()]));
        assert_eq!(sharing(&index).len(), 3);
        let gone = index.set(&c.name, None);
        assert_eq!(gone.len(), 2);
        assert_eq!(sharing(&index), BTreeSet::from([a.name.clone(), b.name.clone()]));
        assert_eq!(index.at(&gone[0]).count() + index.at(&gone[1]).count(), 1);
        assert!(!index.has_address(&c.cluster_ips[0]));
    }
}
