//! A survey into a simulated host. Links keep their indexes, so that rules that name them mean the
//! same; settings of a link are set when a packet comes from it.
//!
//! What the simulator refuses is kept as a `Gap` at its place. Tests: `tests.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::time::Duration;

use super::{iptables, replay, turns};
use crate::kernel::is_relay_address;
use crate::kernel::simulated::Simulated;
use crate::kernel::survey::{ConnectionFact, Survey};

/// The highest link index for which places are kept: rules may name links by index.
const MOST_LINKS: u32 = 1 << 16;

/// Where a rule stands, as the simulator names it: table with its family (`ip kube-proxy`,
/// `iptables nat`), chain, handle or number.
pub type Whereabouts = (String, String, u64);

/// Whose rule it is, in the words of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maker {
    /// Such as `nft table inet firewall` or `iptables table filter`.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// Such as `handle 12` or `rule 3`.
    pub rule: String,
    /// The rule's comment, empty for none.
    pub comment: String,
    /// What of it has no model, if it stands for a gap.
    pub gap: Option<String>,
}

/// Something of the node that the simulator cannot say anything about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gap {
    /// What, with its place.
    pub what: String,
    /// Why.
    pub why: String,
}

/// A node in memory.
pub struct World {
    /// The host.
    pub host: sim::Host,
    /// What it was made from.
    pub survey: Survey,
    /// Rules of nf_tables by where they stand in the host.
    pub(super) makers: BTreeMap<Whereabouts, Maker>,
    /// The same of iptables, made when somebody asks: there may be half a million of them.
    pub(super) iptables_makers: OnceLock<BTreeMap<Whereabouts, Maker>>,
    /// Sets that are left out, with the reason.
    pub(super) absent_sets: Vec<Gap>,
    /// What may concern any packet: it has no place on the way.
    pub gaps: Vec<Gap>,
    /// What the last journeys depend on that is not known.
    pub(super) unsure: Vec<Gap>,
    /// Whether the client's port is one that was asked for, not one that stands for any.
    pub(super) port_given: bool,
    /// What of rules of iptables has no model, by the number in the comment of the drop that stands
    /// for it.
    pub(super) cut: Vec<String>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("gaps", &self.gaps).finish_non_exhaustive()
    }
}

/// Makes a host of a survey.
pub fn load(mut survey: Survey) -> World {
    let mut world = World {
        host: sim::Host::new(1),
        makers: BTreeMap::new(),
        iptables_makers: OnceLock::new(),
        absent_sets: Vec::new(),
        gaps: survey
            .lacks
            .iter()
            .map(|l| Gap { what: l.what.clone(), why: l.why.clone() })
            .collect(),
        survey: Survey::default(),
        unsure: Vec::new(),
        port_given: false,
        cut: Vec::new(),
    };
    wire(&mut world, &survey);
    turns::load(&mut world, &survey);
    let texts = iptables::load(&mut world, &survey);
    let objects = std::mem::take(&mut survey.nft);
    replay::replay(&mut world, &objects, &texts);
    survey.nft = objects;
    let unlike = |fact: &&ConnectionFact| !adopt(&mut world.host, fact);
    let left_out = survey.flows.iter().filter(unlike).count();
    if left_out > 0 {
        let what = format!("{left_out} conntrack entries");
        world.gap(what, "their addresses are in use by another entry");
    }
    world.survey = survey;
    world
}

impl World {
    /// Notes something that has no place on a packet's way.
    pub(super) fn gap(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.gaps.push(Gap { what: what.into(), why: why.into() });
    }

    /// The host as a kernel, to have rules put into it; an empty one stands here meanwhile.
    pub fn lend_host(&mut self) -> Simulated {
        Simulated::new(std::mem::replace(&mut self.host, sim::Host::new(1)))
    }

    /// Takes in one more conntrack entry; false if the addresses are in use by another one.
    pub fn take_flow(&mut self, fact: ConnectionFact) -> bool {
        let taken = adopt(&mut self.host, &fact);
        self.survey.flows.push(fact);
        taken
    }

    /// The name of a link.
    pub fn link_name(&self, index: u32) -> &str {
        let named = self.survey.links.iter().find(|link| link.index == index);
        named.map_or("?", |link| &link.name)
    }

    /// Whether connections to an address are carried on by kube-proxy itself (userspace mode).
    pub fn is_relay(&self, address: std::net::IpAddr) -> bool {
        self.host.is_local(address) && is_relay_address(address)
    }

    /// Whose rule stands there.
    pub fn maker(&self, table: &str, chain: &str, rule: u64) -> Option<&Maker> {
        let place = (table.to_owned(), chain.to_owned(), rule);
        match table.starts_with("iptables ") || table.starts_with("ip6tables ") {
            true => self.iptables_makers.get_or_init(|| iptables::names(self)).get(&place),
            false => self.makers.get(&place),
        }
    }

    /// Whether an outcome stands for something that has no model. Without the packet's steps a
    /// table is known by its bare name, so that of two tables of one name either may be meant.
    pub fn is_unknown(&self, outcome: &sim::Outcome) -> bool {
        let place = match &outcome.fate {
            sim::Fate::Dropped(place) => place,
            sim::Fate::Unmodelled(_) | sim::Fate::Unexplored => return true,
            _ => return false,
        };
        let families = match outcome.packet.dst.is_ipv4() {
            true => ["ip", "inet", "iptables"],
            false => ["ip6", "inet", "ip6tables"],
        };
        // Of iptables none is named where none was cut.
        let families = if self.cut.is_empty() { &families[..2] } else { &families[..] };
        let gap = |rule: u64| {
            let mut named = families.iter().map(|family| format!("{family} {}", place.table));
            named.any(|table| {
                self.maker(&table, &place.chain, rule).is_some_and(|maker| maker.gap.is_some())
            })
        };
        place.rule.is_some_and(gap)
    }

    /// Sets what counts for a packet.
    pub fn aim_at(&mut self, packet: &sim::Packet) {
        self.aim(match packet.entry {
            sim::Entry::Local => None,
            sim::Entry::Link(index) => Some(index),
        });
    }

    /// Sets what counts for packets from a link: Linux has these settings for each link.
    pub fn aim(&mut self, link: Option<u32>) {
        let name = link.map(|index| self.link_name(index).to_owned()).unwrap_or_default();
        let number = |scope: &str, setting: &str| -> u32 {
            let path = format!("net/ipv4/conf/{scope}/{setting}");
            self.survey.sysctls.get(&path).and_then(|v| v.parse().ok()).unwrap_or(0)
        };
        // Which of the two counts: IN_DEV_RPFILTER is their greater, the next two are either,
        // forwarding is the link's own (include/linux/inetdevice.h).
        let greater = |setting: &str| number("all", setting).max(number(&name, setting));
        let (rp_filter, route_localnet, accept_local) =
            (greater("rp_filter"), greater("route_localnet"), greater("accept_local"));
        let own = format!("net/ipv4/conf/{name}/forwarding");
        let forwarding = self.survey.sysctls.get(&own).map(|value| value != "0");
        let sysctls = self.host.sysctls_mut();
        sysctls.rp_filter = rp_filter.min(2) as u8;
        sysctls.route_localnet = route_localnet != 0;
        sysctls.accept_local = accept_local != 0;
        if let Some(on) = forwarding {
            sysctls.ip_forward = on;
        }
    }
}

/// Links, addresses, routes, and settings of the whole host.
fn wire(world: &mut World, survey: &Survey) {
    let by_index: BTreeMap<u32, _> = survey.links.iter().map(|link| (link.index, link)).collect();
    let last = by_index.keys().next_back().copied().unwrap_or(1);
    for index in 2..=last.min(MOST_LINKS) {
        // Indexes of links that are gone are kept free.
        match by_index.get(&index) {
            Some(link) if link.kind == "dummy" => world.host.add_dummy(&link.name),
            link => world.host.add_link(link.map_or("", |link| &link.name)),
        };
    }
    if last > MOST_LINKS {
        world.gap("links with large indexes", "places are kept for 65536 links");
    }
    let known: BTreeSet<_> = world.host.links().iter().flat_map(|l| l.addresses.clone()).collect();
    for link in by_index.values() {
        for (address, prefix) in link.addresses.iter().filter(|a| !known.contains(a)) {
            world.host.add_address(link.index, *address, *prefix);
        }
        for address in &link.hidden {
            world.host.hide_address(link.index, *address);
        }
    }
    for route in &survey.routes {
        world.host.add_route(route.network, route.gateway, route.link);
    }
    for (path, value) in &survey.sysctls {
        // Those the simulator does not know decide nothing in it; `check` looks at them itself.
        let _ = crate::kernel::simulated::set_sysctl(&mut world.host, path, value);
    }
}

fn adopt(host: &mut sim::Host, fact: &ConnectionFact) -> bool {
    let tuple = |[from, to]: [(std::net::IpAddr, u16); 2]| sim::conntrack::Tuple {
        src: from.0,
        dst: to.0,
        sport: from.1,
        dport: to.1,
        protocol: fact.protocol,
    };
    let state = match fact.protocol {
        6 => sim::conntrack::State::of_tcp(fact.state),
        132 => Some(sim::conntrack::State::Established),
        _ => Some(sim::conntrack::State::Stateless),
    };
    host.adopt_connection(&sim::Connection {
        original: tuple(fact.original),
        reply: tuple(fact.reply),
        status: fact.status,
        mark: fact.mark,
        state: state.unwrap_or(sim::conntrack::State::None),
        timeout: Duration::from_secs(u64::from(fact.timeout)),
    })
}
