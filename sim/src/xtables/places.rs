//! Where in a long chain the rules stand that a destination could meet: the others name another one address, and a packet
//! passes them without effect. A packet that is not told step by step need not walk them.
//! It must never know what rules do. Tests: tests/xtables_packets.rs.

use super::head::Head;
use super::rule::Rule;
use crate::hash::FastMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Shorter chains are walked.
pub(super) const LONG: usize = 64;

/// Rules of a chain, by place, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    of_one: FastMap<IpAddr, Vec<u32>>,
    of_all: Vec<u32>,
}

impl Places {
    pub(super) fn of(rules: &[Arc<Rule>]) -> Places {
        let mut places = Places::default();
        for (rule, place) in rules.iter().zip(0..) {
            match one_destination(&rule.spec.head) {
                Some(address) => places.of_one.entry(address).or_default().push(place),
                None => places.of_all.push(place),
            }
        }
        places
    }

    /// The first place from this one on whose rule the destination could meet.
    pub(super) fn next(&self, from: usize, destination: IpAddr) -> Option<usize> {
        let first = |places: &[u32]| {
            let at = places.partition_point(|place| (*place as usize) < from);
            places.get(at).copied()
        };
        let one = self.of_one.get(&destination).and_then(|places| first(places));
        one.into_iter().chain(first(&self.of_all)).min().map(|place| place as usize)
    }
}

/// The one address a rule is for.
fn one_destination(head: &Head) -> Option<IpAddr> {
    let network = head.destination.as_ref().filter(|network| !network.not)?;
    let whole = if network.address.is_ipv6() { 128 } else { 32 };
    (network.prefix() == Some(whole)).then_some(network.address)
}
