//! A simulated node laid out as the lab's real one, and packets through it: every outcome with its
//! probability, in the words of `fate`. Must never look at a rule. Tests: the properties.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use kube_proxy::kernel::Socket;
use kube_proxy::model::Protocol;

use crate::cluster::Setup;
use crate::fate::{Entry, Extent, Outcome, Packet, Seen};
use crate::vectors::ARRIVAL;

/// Source port of every packet that is asked about.
const SPORT: u16 = 20_000;

/// The lab's node in memory: links `src0` and `dst0`, the node's addresses, everything else lies
/// behind `dst0`.
pub fn node(setup: &Setup, seed: u64) -> sim::Host {
    let mut host = sim::Host::new(seed);
    let parse = |text: &str| text.parse::<IpAddr>().expect("a constant address");
    for (name, net) in [(ARRIVAL, 1), ("dst0", 2)] {
        let link = host.add_link(name);
        host.add_address(link, parse(&format!("198.18.{net}.1")), 30);
        host.add_address(link, parse(&format!("fd5a:{net}::1")), 64);
        if name == "dst0" {
            host.add_route((parse("0.0.0.0"), 0), Some(parse("198.18.2.2")), link);
            host.add_route((parse("::"), 0), Some(parse("fd5a:2::2")), link);
        }
    }
    for own in setup.addresses.iter().filter(|a| !a.is_loopback()) {
        host.add_address(sim::LOOPBACK, *own, if own.is_ipv4() { 32 } else { 128 });
    }
    host
}

/// A packet in the simulator's words, if the host has the link it arrives on.
pub fn packet(host: &sim::Host, packet: &Packet) -> Result<sim::Packet, String> {
    packet_from(host, packet, SPORT)
}

/// The same, of another connection: from this port.
pub fn packet_from(
    host: &sim::Host,
    packet: &Packet,
    source_port: u16,
) -> Result<sim::Packet, String> {
    let source = SocketAddr::new(packet.source, source_port);
    let dest = SocketAddr::new(packet.dest, packet.port);
    let made = match packet.protocol {
        Protocol::Tcp => sim::Packet::tcp(source, dest),
        Protocol::Udp => sim::Packet::udp(source, dest),
        Protocol::Sctp => sim::Packet::sctp(source, dest),
    };
    match &packet.entry {
        Entry::Node => Ok(made),
        Entry::Link(name) => {
            let link = host.link(name).ok_or_else(|| format!("the host has no link {name}"))?;
            Ok(made.arriving(link.index))
        }
    }
}

/// Everything that can become of a packet. The host stays as it is.
pub fn ask(host: &mut sim::Host, asked: &Packet, marks: Marks) -> Result<Seen, String> {
    let sent = packet(host, asked)?.marked(marks.before);
    let mut outcomes = Vec::new();
    for (probability, outcome) in host.outcomes(&sent) {
        let fate = fate(host, asked, &outcome);
        marks.are_kept(&outcome).map_err(|why| format!("{why} ({fate})"))?;
        outcomes.push((fate, probability.as_f64()));
    }
    Ok(Seen { outcomes, extent: Extent::Every, journey: String::new() })
}

/// How long nobody is remembered by IPVS, whatever his affinity is: two days.
const FORGOTTEN_AFTER: std::time::Duration = std::time::Duration::from_secs(2 * 86_400);

/// What becomes of so many packets, of a new connection each and long after the one before. For
/// IPVS, which draws no lots but takes turns: in as many turns as there are endpoints each has one.
pub fn ask_in_turns(
    host: &mut sim::Host,
    asked: &Packet,
    (marks, turns): (Marks, usize),
) -> Result<Seen, String> {
    let sent = packet(host, asked)?.marked(marks.before);
    let mut counts: std::collections::BTreeMap<Outcome, usize> = Default::default();
    for _ in 0..turns {
        host.advance(FORGOTTEN_AFTER);
        let outcome = host.fate(&sent);
        let fate = fate(host, asked, &outcome);
        marks.are_kept(&outcome).map_err(|why| format!("{why} ({fate})"))?;
        *counts.entry(fate).or_default() += 1;
    }
    let share = |count: usize| count as f64 / turns as f64;
    let outcomes = counts.into_iter().map(|(fate, count)| (fate, share(count))).collect();
    Ok(Seen { outcomes, extent: Extent::Every, journey: String::new() })
}

/// The mark a packet has before it meets us: it must have the same one when it leaves.
#[derive(Clone, Copy, Debug)]
pub struct Marks {
    before: u32,
    ours: u32,
}

impl Marks {
    /// None at all.
    pub fn none(setup: &Setup) -> Marks {
        Marks { before: 0, ours: 1 << setup.masquerade_bit }
    }

    /// One that somebody else might use: every bit but the one that is ours.
    pub fn foreign(setup: &Setup) -> Marks {
        let ours = 1 << setup.masquerade_bit;
        Marks { before: !ours, ours }
    }

    /// Nothing of it is changed, whatever becomes of the packet. Only where nobody looks at the
    /// masquerade bit any more, on delivery or at a packet's end, may that bit have come to it.
    fn are_kept(&self, outcome: &sim::Outcome) -> Result<(), String> {
        let left = matches!(outcome.fate, sim::Fate::Forwarded(_) | sim::Fate::Sent(_));
        let may_have_come = if left { 0 } else { self.ours };
        if outcome.packet.mark & !may_have_come == self.before {
            return Ok(());
        }
        Err(format!("mark {:#x} came out as {:#x}", self.before, outcome.packet.mark))
    }
}

/// One way the packet can take, as a person can read it. Changes the host: the packet is sent.
pub fn journey(host: &mut sim::Host, asked: &Packet) -> String {
    let mut out = String::new();
    match packet(host, asked) {
        Ok(sent) => {
            for line in host.send(&sent).to_string().lines() {
                let _ = writeln!(out, "    {line}");
            }
        }
        Err(why) => out.push_str(&why),
    }
    out
}

fn fate(host: &sim::Host, asked: &Packet, outcome: &sim::Outcome) -> Outcome {
    let packet = &outcome.packet;
    let dest = Socket { address: packet.dst, port: packet.dport() };
    let kept = packet.src == asked.source;
    match outcome.fate {
        sim::Fate::Rejected(..) => Outcome::Reject,
        sim::Fate::Dropped(_) => Outcome::Drop,
        // What is delivered as it came has the source it came with.
        sim::Fate::Delivered if dest == asked.target() && kept => {
            if outcome.accepted {
                Outcome::Accept
            } else {
                Outcome::Untouched
            }
        }
        sim::Fate::Delivered => Outcome::Dnat { endpoint: dest, masquerade: None },
        sim::Fate::Forwarded(_) | sim::Fate::Sent(_) if dest == asked.target() && kept => {
            Outcome::Untouched
        }
        sim::Fate::Forwarded(_) | sim::Fate::Sent(_) => {
            let own = host.is_local(dest.address);
            Outcome::Dnat { endpoint: dest, masquerade: (!own).then_some(!kept) }
        }
        ref other => Outcome::Lost(other.to_string()),
    }
}

/// The tables of a host as text: what a failure prints.
pub fn ruleset(host: &sim::Host) -> String {
    let mut out = String::new();
    for service in host.ipvs_services() {
        let to = host.ipvs_destinations(&service.key);
        let _ = writeln!(out, "  virtual server {service:?} -> {to:?}");
    }
    let sets = host.ipset_save();
    out.extend(sets.lines().map(|line| format!("  ipset {line}\n")));
    for family in [sim::XtFamily::V4, sim::XtFamily::V6] {
        for table in [sim::XtTable::Filter, sim::XtTable::Nat, sim::XtTable::Mangle] {
            let text = host.iptables_save(family, table);
            let rules = text.lines().filter(|line| line.starts_with("-A"));
            out.extend(rules.map(|line| format!("  {family:?} {table:?} {line}\n")));
        }
    }
    for table in host.nft().tables() {
        let _ = writeln!(out, "  table {:?} {}", table.family(), table.name());
        for set in table.sets() {
            let elements = set.elements();
            if elements.is_empty() {
                continue;
            }
            let _ = writeln!(out, "    {}", set.name());
            for element in elements {
                let comment = element.comment().unwrap_or_default();
                let _ = writeln!(out, "      {} # {comment}", element.describe());
            }
        }
    }
    out
}
