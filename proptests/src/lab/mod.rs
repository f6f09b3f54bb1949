//! The real kernel: a node in a namespace between a world of sources and a world of endpoints, real
//! packets through it, and their fate seen from outside. Whatever programs the node is the
//! caller's. Needs root, `ip`; makes and touches only its own namespaces. Tests: below.

mod capture;
mod carried;
mod heart;
mod namespace;
pub mod wire;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

pub use heart::RealHeart;
pub use namespace::Namespace;

use crate::cluster::Setup;
use crate::fate::{Entry, Extent, Outcome, Packet, Seen};
use crate::vectors::ARRIVAL;
use capture::{Capture, Place};
use wire::Sighting;

/// Packets sent for each question, to see several endpoints.
const PACKETS: u32 = 8;
/// After this silence nothing more is expected.
const SILENCE: Duration = Duration::from_millis(60);
/// Before a surprise is believed, it is asked again with this much patience.
const PATIENCE: Duration = Duration::from_millis(400);

/// Three namespaces: sources, the node, endpoints.
#[derive(Debug)]
pub struct Ground {
    sources: Namespace,
    /// Where the proxy runs.
    pub node: Namespace,
    endpoints: Namespace,
    setup: Setup,
    next: u32,
}

const NODE_SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    // No ICMP error of ours may be held back: limit only types that do not occur here.
    ("net/ipv4/icmp_ratelimit", "0"),
    ("net/ipv4/icmp_ratemask", "0"),
    ("net/ipv6/icmp/ratelimit", "0"),
    ("net/ipv6/icmp/ratemask", "128"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
];

const FAR_SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
];

impl Ground {
    /// Lays the ground: the node has its addresses, `endpoints` lie behind one link and `sources`
    /// behind the other; everything else goes where the endpoints are.
    pub fn new(setup: &Setup, endpoints: &[IpAddr], sources: &[IpAddr]) -> Result<Self, String> {
        let ground = Ground {
            sources: Namespace::new()?,
            node: Namespace::new()?,
            endpoints: Namespace::new()?,
            setup: setup.clone(),
            next: 0,
        };
        ground.node.sysctls(NODE_SYSCTLS)?;
        ground.sources.sysctls(FAR_SYSCTLS)?;
        ground.endpoints.sysctls(FAR_SYSCTLS)?;
        let (near, far) = (&ground.sources.path, &ground.endpoints.path);
        let mut node = String::from("link set lo up\n");
        node += &link(ARRIVAL, 1, &near.display().to_string());
        node += &link("dst0", 2, &far.display().to_string());
        for own in setup.addresses.iter().filter(|a| !a.is_loopback()) {
            let _ = writeln!(node, "address add {} dev lo", whole(*own));
        }
        ground.node.command("ip -batch -", &node)?;
        ground.sources.command("ip -batch -", &far_end(1))?;
        ground.endpoints.command("ip -batch -", &far_end(2))?;
        let mut routes = neighbours(ARRIVAL, 1) + &neighbours("dst0", 2);
        routes += "route add default via 198.18.2.2 dev dst0\n";
        routes += "route add default via fd5a:2::2 dev dst0\n";
        for endpoint in endpoints.iter().filter(|e| !setup.is_own(**e)) {
            routes += &route(*endpoint, 2, "dst0");
        }
        for source in sources.iter().filter(|s| !setup.is_own(**s) && !endpoints.contains(s)) {
            routes += &route(*source, 1, ARRIVAL);
        }
        ground.node.command("ip -batch -", &routes)?;
        Ok(ground)
    }

    /// Sends a few packets of each kind and says what became of them. `surprising` is asked about
    /// each answer; what surprises is asked again with more patience.
    pub fn ask(
        &mut self,
        packets: &[Packet],
        surprising: impl Fn(usize, &Seen) -> bool,
    ) -> Result<Vec<Seen>, String> {
        let all: Vec<usize> = (0..packets.len()).collect();
        let mut seen = self.round(packets, &all, SILENCE)?;
        let again: Vec<usize> = all.iter().copied().filter(|i| surprising(*i, &seen[i])).collect();
        if !again.is_empty() {
            seen.extend(self.round(packets, &again, PATIENCE)?);
        }
        Ok(seen.into_values().collect())
    }

    fn round(
        &mut self,
        packets: &[Packet],
        which: &[usize],
        silence: Duration,
    ) -> Result<BTreeMap<usize, Seen>, String> {
        let mut capture = Capture::open(&self.sources, &self.node, &self.endpoints)?;
        let mut sent: BTreeMap<u32, usize> = BTreeMap::new();
        let mut mail: [Vec<(IpAddr, Vec<u8>)>; 2] = [Vec::new(), Vec::new()];
        for index in which {
            let packet = &packets[*index];
            for _ in 0..PACKETS {
                self.next += 1;
                let tag = 0x6b70_0000 + self.next;
                let sport = 20_000 + (self.next % 10_000) as u16;
                sent.insert(tag, *index);
                let side = usize::from(packet.entry == Entry::Node);
                mail[side].push((packet.dest, wire::build(packet, sport, tag)));
            }
        }
        let [outside, inside] = mail;
        self.sources.run(move || capture::send(&outside))??;
        self.node.run(move || capture::send(&inside))??;
        let sightings = capture.listen(silence)?;
        Ok(which
            .iter()
            .map(|index| {
                let tags = sent.iter().filter(|(_, i)| *i == index).map(|(tag, _)| *tag);
                (*index, self.judge(&packets[*index], tags, &sightings))
            })
            .collect())
    }

    fn judge(
        &self,
        packet: &Packet,
        tags: impl Iterator<Item = u32>,
        sightings: &[(Place, Sighting)],
    ) -> Seen {
        let mut counts: BTreeMap<Outcome, u32> = BTreeMap::new();
        let mut journey = String::new();
        for tag in tags {
            let outcome = outcome(packet, tag, sightings, &mut journey);
            *counts.entry(outcome).or_default() += 1;
        }
        let outcomes =
            counts.into_iter().map(|(o, n)| (o, f64::from(n) / f64::from(PACKETS))).collect();
        Seen { outcomes, extent: Extent::Samples, journey }
    }

    /// The node's own setup, as the ground was laid for.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }
}

/// The fate of one packet by where it was seen: at an endpoint or on the node it has arrived,
/// whatever the node's own stack then answers; else a refusal counts; else it is lost.
fn outcome(
    packet: &Packet,
    tag: u32,
    sightings: &[(Place, Sighting)],
    journey: &mut String,
) -> Outcome {
    let mut refused = false;
    for (place, sighting) in sightings {
        match *sighting {
            Sighting::Refusal { tag: t } if t == tag => {
                let _ = writeln!(journey, "    {tag:x}: refused, seen {place:?}");
                refused = true;
            }
            Sighting::Plain { tag: t, source, dest } if t == tag => {
                let _ = writeln!(journey, "    {tag:x}: {source} -> {dest} seen {place:?}");
                let kept = source.address == packet.source;
                if dest == packet.target() && kept {
                    return Outcome::Untouched;
                }
                // What is delivered from outside never passes postrouting, and what the node sends
                // itself has one of its addresses either way.
                let visible = *place != Place::OnTheNode;
                return Outcome::Dnat { endpoint: dest, masquerade: visible.then_some(!kept) };
            }
            _ => {}
        }
    }
    if refused { Outcome::Reject } else { Outcome::Drop }
}

fn mac(net: u8, end: u8) -> String {
    format!("02:00:00:00:0{net}:0{end}")
}

fn link(name: &str, net: u8, far: &str) -> String {
    let (near_mac, far_mac) = (mac(net, 1), mac(net, 2));
    format!(
        "link add {name} address {near_mac} type veth peer name eth0 address {far_mac} netns {far}\n\
         address add 198.18.{net}.1/30 dev {name}\n\
         address add fd5a:{net}::1/64 dev {name} nodad\n\
         link set {name} up\n"
    )
}

fn far_end(net: u8) -> String {
    format!(
        "link set lo up\n\
         address add 198.18.{net}.2/30 dev eth0\n\
         address add fd5a:{net}::2/64 dev eth0 nodad\n\
         link set eth0 up\n\
         neighbour replace 198.18.{net}.1 lladdr {mac} dev eth0 nud permanent\n\
         neighbour replace fd5a:{net}::1 lladdr {mac} dev eth0 nud permanent\n\
         route add default via 198.18.{net}.1 dev eth0\n\
         route add default via fd5a:{net}::1 dev eth0\n",
        mac = mac(net, 1),
    )
}

fn neighbours(device: &str, net: u8) -> String {
    let mac = mac(net, 2);
    format!(
        "neighbour replace 198.18.{net}.2 lladdr {mac} dev {device} nud permanent\n\
         neighbour replace fd5a:{net}::2 lladdr {mac} dev {device} nud permanent\n"
    )
}

fn whole(address: IpAddr) -> String {
    if address.is_ipv4() { format!("{address}/32") } else { format!("{address}/128 nodad") }
}

fn route(address: IpAddr, net: u8, device: &str) -> String {
    if address.is_ipv4() {
        format!("route replace {address}/32 via 198.18.{net}.2 dev {device}\n")
    } else {
        format!("route replace {address}/128 via fd5a:{net}::2 dev {device}\n")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
