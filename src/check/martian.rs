//! Why a packet is not taken from its link: which setting of which link keeps it out.
//! Facts from net/ipv4/fib_frontend.c (`__fib_validate_source`) and include/linux/inetdevice.h: of
//! these settings the greater of a link's own and that of `all` counts.
//!
//! It must never decide whether a packet is taken. Tests: `surroundings_tests.rs`.

use std::net::IpAddr;

use crate::trace::World;

/// The cause in words, of a packet as it was when it was refused; without a packet's own address, so that all
/// packets of one cause have one.
pub(super) fn cause(world: &World, packet: &sim::Packet) -> String {
    let sim::Entry::Link(index) = packet.entry else {
        return "a packet of this node is not taken: its source or destination cannot be"
            .to_owned();
    };
    let link = world.link_name(index);
    let name = |setting: &str| Setting::of(world, link, setting);
    if packet.src.is_ipv6() {
        let words = "its source or destination is a loopback or multicast address";
        return format!("packets are not taken from {link}: {words}");
    }
    if packet.src.is_loopback() || packet.dst.is_loopback() {
        let setting = name("route_localnet");
        let cause = format!(
            "packets of loopback addresses are not taken from {link}: {setting}; set it to 1, or ask \
             another address"
        );
        return if setting.value == 0 { cause } else { odd(link) };
    }
    let (filter, local) = (name("rp_filter"), name("accept_local"));
    match back(world, packet.src) {
        Back::Here if local.value == 0 => format!(
            "packets from {link} with a source that is an address of this node are not taken: {local}; \
             does somebody else have this node's address? Else set it to 1"
        ),
        Back::Here if filter.value == 1 => format!(
            "packets from {link} with a source that is an address of another link are not taken: {filter} (strict); \
             set it to 2 or 0"
        ),
        Back::By(other) if filter.value == 1 && other != link => format!(
            "packets from {link} are not taken, since the way back to their source is by {other}: {filter} (strict); \
             set it to 2 or 0, or mend the route"
        ),
        Back::Nowhere if filter.value != 0 => format!(
            "packets from {link} are not taken, since there is no way back to their source: {filter}; \
             set it to 0, or add a route"
        ),
        _ => odd(link),
    }
}

fn odd(link: &str) -> String {
    format!("packets are not taken from {link}: their source or destination cannot be")
}

/// By where answers to an address would leave.
enum Back<'w> {
    Here,
    By(&'w str),
    Nowhere,
}

fn back(world: &World, source: IpAddr) -> Back<'_> {
    if world.host.is_local(source) {
        return Back::Here;
    }
    match world.host.route_to(source) {
        Some(hop) => Back::By(world.link_name(hop.link)),
        None => Back::Nowhere,
    }
}

/// The setting that counts for a link.
struct Setting {
    /// With dots.
    name: String,
    value: u32,
    /// Whether it is known at all; what is not is 0.
    known: bool,
}

impl Setting {
    fn of(world: &World, link: &str, setting: &str) -> Setting {
        let read = |scope: &str| -> Option<u32> {
            let path = format!("net/ipv4/conf/{scope}/{setting}");
            world.survey.sysctls.get(&path)?.parse().ok()
        };
        let (own, all) = (read(link), read("all"));
        let scope = if all.unwrap_or(0) > own.unwrap_or(0) { "all" } else { link };
        // A link's name may have dots itself; sysctl writes them as slashes.
        let name = format!("net.ipv4.conf.{}.{setting}", scope.replace('.', "/"));
        Setting { name, value: own.max(all).unwrap_or(0), known: own.or(all).is_some() }
    }
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Setting { name, value, .. } = self;
        if self.known {
            write!(f, "{name} is {value}")
        } else {
            write!(f, "{name} is not known, and taken for {value}")
        }
    }
}
