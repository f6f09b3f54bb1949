//! Links, addresses, routes and sysctls of one host, and the questions the packet path asks of them.
//! Facts from net/ipv4/fib_frontend.c, devinet.c (inet_select_addr) and net/ipv6/addrconf.c.
//! It must never know packets' transports, rules or connections. Tests: tests/routing.rs.

use crate::hash::FastMap;
use crate::source;
use crate::sysctls::Sysctls;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Index of the loopback link, as on Linux.
pub const LOOPBACK: u32 = 1;

/// A network interface.
#[derive(Clone, Debug)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: Arc<str>,
    /// What `ip link` calls its kind: `dummy`; empty for any other.
    pub kind: &'static str,
    /// Addresses with their prefix lengths, the primary first.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Those of them that are no source: of IPv6 while there is another (`IFA_F_DEPRECATED`), of IPv4 never
    /// (`RT_SCOPE_HOST`).
    pub hidden: Vec<IpAddr>,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hop {
    /// Outgoing link.
    pub link: u32,
    /// The neighbour the packet is handed to: the gateway, or the destination itself.
    pub next: IpAddr,
}

/// What the host does with a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Local,
    Broadcast,
    Multicast,
    Via(Hop),
    Unreachable,
}

#[derive(Clone, Copy, Debug)]
struct Route {
    network: IpAddr,
    prefix: u8,
    gateway: Option<IpAddr>,
    link: u32,
    source: Option<IpAddr>,
}

/// Links and routes of one host.
#[derive(Clone, Debug)]
pub(crate) struct Net {
    /// By index, which is never given again.
    links: Vec<Link>,
    made: u32,
    routes: Vec<Route>,
    /// The local table: each address of a link, and each network's broadcast address, with how often it is there.
    locals: FastMap<IpAddr, u32>,
    broadcasts: FastMap<IpAddr, u32>,
    pub(crate) sysctls: Sysctls,
}

impl Net {
    pub(crate) fn new() -> Self {
        let lo = Link {
            index: LOOPBACK,
            name: "lo".into(),
            kind: "",
            addresses: vec![(Ipv4Addr::LOCALHOST.into(), 8), (Ipv6Addr::LOCALHOST.into(), 128)],
            hidden: Vec::new(),
        };
        let locals = lo.addresses.iter().map(|(address, _)| (*address, 1)).collect();
        Net {
            links: vec![lo],
            made: LOOPBACK,
            routes: Vec::new(),
            locals,
            broadcasts: FastMap::default(),
            sysctls: Sysctls::default(),
        }
    }

    pub(crate) fn links(&self) -> &[Link] {
        &self.links
    }

    pub(crate) fn link(&self, index: u32) -> Option<&Link> {
        let slot = index.checked_sub(1)? as usize;
        match self.links.get(slot) {
            Some(link) if link.index == index => Some(link),
            // A link before it was deleted.
            _ => self.links.get(self.place(index)?),
        }
    }

    fn place(&self, index: u32) -> Option<usize> {
        self.links.binary_search_by_key(&index, |link| link.index).ok()
    }

    pub(crate) fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| &*link.name == name)
    }

    pub(crate) fn add_link(&mut self, name: &str, kind: &'static str) -> u32 {
        self.made += 1;
        let index = self.made;
        self.links.push(Link {
            index,
            name: name.into(),
            kind,
            addresses: Vec::new(),
            hidden: Vec::new(),
        });
        index
    }

    /// Deletes a link with its addresses and routes.
    pub(crate) fn remove_link(&mut self, index: u32) {
        let Some(place) = self.place(index) else { return };
        for (address, _) in self.links[place].addresses.clone() {
            self.remove_address(index, address);
        }
        self.links.remove(place);
        self.routes.retain(|route| route.link != index);
    }

    pub(crate) fn add_address(&mut self, link: u32, address: IpAddr, prefix: u8) {
        let prefix = prefix.min(width(address));
        let Some(place) = self.place(link) else { return };
        let found = &mut self.links[place];
        found.addresses.push((address, prefix));
        *self.locals.entry(address).or_default() += 1;
        if let Some(last) = broadcast(address, prefix) {
            *self.broadcasts.entry(last).or_default() += 1;
        }
        if prefix < width(address) {
            self.insert_route(Route {
                network: masked(address, prefix),
                prefix,
                gateway: None,
                link,
                source: Some(address),
            });
        }
    }

    pub(crate) fn hide_address(&mut self, link: u32, address: IpAddr) {
        let found = self.links.iter_mut().find(|candidate| candidate.index == link);
        found.into_iter().for_each(|link| link.hidden.push(address));
    }

    pub(crate) fn remove_address(&mut self, link: u32, address: IpAddr) {
        let Some(found) = self.links.iter_mut().find(|candidate| candidate.index == link) else {
            return;
        };
        let (gone, kept): (Vec<_>, Vec<_>) =
            found.addresses.drain(..).partition(|(known, _)| *known == address);
        found.addresses = kept;
        found.hidden.retain(|known| *known != address);
        for (address, prefix) in gone {
            forget(&mut self.locals, address);
            broadcast(address, prefix)
                .into_iter()
                .for_each(|last| forget(&mut self.broadcasts, last));
        }
        self.routes.retain(|route| {
            !(route.link == link && route.gateway.is_none() && route.source == Some(address))
        });
    }

    pub(crate) fn add_route(&mut self, network: (IpAddr, u8), gateway: Option<IpAddr>, link: u32) {
        let (address, prefix) = (network.0, network.1.min(width(network.0)));
        self.insert_route(Route {
            network: masked(address, prefix),
            prefix,
            gateway,
            link,
            source: None,
        });
    }

    /// Longest prefix first; among equals the older first.
    fn insert_route(&mut self, route: Route) {
        let place = self.routes.partition_point(|known| known.prefix >= route.prefix);
        self.routes.insert(place, route);
    }

    #[inline]
    pub(crate) fn is_local(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) if v4.is_loopback() => true,
            _ => self.locals.contains_key(&address),
        }
    }

    fn is_broadcast(&self, address: IpAddr) -> bool {
        self.broadcasts.contains_key(&address)
            || matches!(address, IpAddr::V4(v4) if v4.is_broadcast())
    }

    /// The routing decision for a destination (local table, then main, longest prefix).
    pub(crate) fn route(&self, destination: IpAddr) -> Decision {
        if self.is_local(destination) {
            Decision::Local
        } else if destination.is_multicast() {
            Decision::Multicast
        } else if self.is_broadcast(destination) {
            Decision::Broadcast
        } else {
            match self.matching(destination) {
                Some(route) => Decision::Via(Hop {
                    link: route.link,
                    next: route.gateway.unwrap_or(destination),
                }),
                None => Decision::Unreachable,
            }
        }
    }

    fn matching(&self, destination: IpAddr) -> Option<&Route> {
        self.routes.iter().find(|route| {
            route.network.is_ipv4() == destination.is_ipv4()
                && masked(destination, route.prefix) == route.network
        })
    }

    /// The source address a local process gets when it names none.
    pub(crate) fn source_for(&self, destination: IpAddr) -> Option<IpAddr> {
        if self.is_local(destination) {
            return Some(destination);
        }
        let route = self.matching(destination)?;
        let next = route.gateway.unwrap_or(destination);
        let own = route.source.filter(|source| source.is_ipv4());
        own.or_else(|| self.address_towards(Hop { link: route.link, next }, destination))
    }

    /// The address a packet to `destination` leaving over `hop` is given. Of IPv4: the first address of the link whose
    /// network holds the next hop, else the link's first, else the first of another link, of the loopback network never.
    pub(crate) fn address_towards(&self, hop: Hop, destination: IpAddr) -> Option<IpAddr> {
        if let IpAddr::V6(destination) = destination {
            return source::choose(&self.links, hop.link, destination).map(IpAddr::V6);
        }
        let usable = |(address, _): &&(IpAddr, u8)| address.is_ipv4() && !is_host_scope(*address);
        let on_link = self.link(hop.link)?.addresses.iter().filter(usable);
        let near = on_link
            .clone()
            .find(|(address, prefix)| masked(*address, *prefix) == masked(hop.next, *prefix));
        let first = || on_link.clone().next();
        let elsewhere = || {
            let shown = |link: &'_ Link| {
                link.addresses.iter().find(|a| usable(a) && !link.hidden.contains(&a.0)).copied()
            };
            self.links.iter().find_map(shown)
        };
        near.or_else(first).copied().or_else(elsewhere).map(|(address, _)| address)
    }

    /// Would Linux take a packet of IPv4 with this source from this link, to this destination?
    /// (ip_route_input_slow, fib_validate_source; link-local answers over lo keep their route and are not asked)
    pub(crate) fn accepts(&self, source: Ipv4Addr, destination: Ipv4Addr, link: u32) -> bool {
        let sysctls = &self.sysctls;
        let foreign = source.is_multicast() || source.is_broadcast() || source.octets()[0] == 0;
        let loopback = source.is_loopback() || destination.is_loopback();
        if link == LOOPBACK {
            return true;
        }
        if foreign || destination.octets()[0] == 0 || loopback && !sysctls.route_localnet {
            return false;
        }
        if sysctls.rp_filter == 0 {
            return sysctls.accept_local || !self.locals.contains_key(&source.into());
        }
        match self.route(source.into()) {
            Decision::Local if !sysctls.accept_local => false,
            Decision::Local => sysctls.rp_filter == 2 || self.holds(link, source.into()),
            Decision::Via(hop) => sysctls.rp_filter == 2 || hop.link == link,
            Decision::Broadcast | Decision::Multicast | Decision::Unreachable => false,
        }
    }

    /// Does the link have the address?
    pub(crate) fn holds(&self, link: u32, address: IpAddr) -> bool {
        self.link(link)
            .is_some_and(|found| found.addresses.iter().any(|(known, _)| *known == address))
    }

    /// The type of an address as `fib … type` reports it (RTN_* of linux/rtnetlink.h).
    #[inline]
    pub(crate) fn address_type(&self, address: IpAddr, link: Option<u32>) -> u32 {
        let on_link = |wanted: u32| {
            self.link(wanted)
                .is_some_and(|found| found.addresses.iter().any(|(known, _)| *known == address))
        };
        match (self.route(address), link) {
            (Decision::Local, Some(link)) if !on_link(link) => 1,
            (Decision::Local, _) => 2,
            (Decision::Broadcast, _) => 3,
            (Decision::Multicast, _) => 5,
            (Decision::Via(_), _) => 1,
            (Decision::Unreachable, _) if address.is_ipv6() => 7,
            // IPv4 asks the local table only, so what is not there is unicast (__inet_dev_addr_type).
            (Decision::Unreachable, _) => 1,
        }
    }
}

/// The last address of a network of IPv4, where it is a broadcast address.
fn broadcast(address: IpAddr, prefix: u8) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) if prefix < 31 => {
            Some(Ipv4Addr::from(u32::from(v4) | (u32::MAX >> prefix)).into())
        }
        _ => None,
    }
}

fn forget(counts: &mut FastMap<IpAddr, u32>, address: IpAddr) {
    if let Some(count) = counts.get_mut(&address) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&address);
        }
    }
}

/// Loopback addresses have host scope: never chosen as a source towards others.
fn is_host_scope(address: IpAddr) -> bool {
    address.is_loopback()
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address with the bits after the prefix cleared.
pub(crate) fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            Ipv4Addr::from(u32::from(v4) & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            Ipv6Addr::from(u128::from(v6) & mask).into()
        }
    }
}
