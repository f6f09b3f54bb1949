//! What a kernel answered: the fate of each packet, the errno of each batch, the connections at the
//! end, as words both kernels use; and how two lists of answers are compared.
//! Knows no kernel. Tests: `super::tests`.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use sim::packet::{Packet, Transport};

/// What became of all steps of a case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// For each step all that can become of it: one answer, or several where chance decides; empty
    /// where nothing is said.
    pub steps: Vec<Vec<String>>,
    /// The connections at the end.
    pub entries: Vec<String>,
    /// Ends of connections that chance decided: they are not compared.
    pub chance: BTreeSet<String>,
}

/// The ends of a packet: an echo's identifier stands for its port.
pub(super) fn ends(packet: &Packet) -> String {
    let (sport, dport) = match packet.transport {
        Transport::Icmp { id, .. } => (id, 0),
        _ => (packet.sport(), packet.dport()),
    };
    format!("{} > {}", SocketAddr::new(packet.src, sport), SocketAddr::new(packet.dst, dport))
}

/// Ports that chance may have chosen become `*`: those that no line of the case names.
#[derive(Debug, Default)]
pub struct Ports {
    known: BTreeSet<u16>,
    free: bool,
}

impl Ports {
    /// The ports a case names; nothing is free where its text has nothing random in it.
    pub fn of(text: &str) -> Ports {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric());
        let free = ["random", "masquerade", "port ", "MASQUERADE", "SNAT"];
        let free = free.iter().any(|word| text.contains(word));
        Ports { known: words.filter_map(|w| w.parse().ok()).collect(), free }
    }

    /// The text with ports of chance as `*`.
    pub fn blur(&self, text: &str) -> String {
        if !self.free {
            return text.to_owned();
        }
        let blurred = text.split(' ').map(|word| match word.rsplit_once(':') {
            Some((head, port)) if port.parse().is_ok_and(|p| !self.known.contains(&p)) => {
                format!("{head}:*")
            }
            _ => word.to_owned(),
        });
        blurred.collect::<Vec<_>>().join(" ")
    }
}

/// Linux names every message it refuses; it is enough if one errno of them is said.
fn refused(seen: &str, can: &str) -> bool {
    match (seen.strip_prefix("refused "), can.strip_prefix("refused ")) {
        (Some(seen), Some(can)) => seen.split(' ').any(|errno| errno == can),
        _ => false,
    }
}

/// The same, where a port of chance may be any port: also one that the case names.
fn same(one: &str, other: &str) -> bool {
    let word = |(a, b): (&str, &str)| {
        let free = |a: &str, b: &str| {
            a.strip_suffix('*').is_some_and(|head| {
                b.strip_prefix(head).is_some_and(|port| !port.is_empty() && !port.contains(':'))
            })
        };
        a == b || free(a, b) || free(b, a)
    };
    one.split(' ').count() == other.split(' ').count()
        && one.split(' ').zip(other.split(' ')).all(word)
}

/// Of these, what has no partner among the others.
fn alone<'a>(these: &'a BTreeSet<String>, others: &'a BTreeSet<String>) -> Vec<&'a String> {
    let mut free: Vec<&String> = others.difference(these).collect();
    let partnered = |one: &&String| {
        let partner = free.iter().position(|other| same(one, other));
        partner.map(|at| free.swap_remove(at)).is_none()
    };
    these.difference(others).filter(partnered).collect()
}

/// Where two lists of answers differ, in words. Of `one` each step has one answer; of `other` all
/// that can be. What follows from a step where chance decided is not compared.
pub fn differences(one: &Answers, other: &Answers, ports: &Ports) -> Vec<String> {
    let mut found = Vec::new();
    for (step, (seen, can)) in one.steps.iter().zip(&other.steps).enumerate() {
        let blurred: Vec<String> = can.iter().map(|c| ports.blur(c)).collect();
        for seen in seen.iter().map(|s| ports.blur(s)) {
            if let [expected] = &can[..]
                && let Some(fits) = super::spread::fits(&seen, expected)
            {
                if !fits {
                    found.push(format!("step {step}: {seen} | {expected}"));
                }
                continue;
            }
            let silent = can.iter().any(|c| c == "*" || c.ends_with('?') && seen == "nothing");
            let said =
                blurred.iter().any(|c| same(c.trim_end_matches('?'), &seen) || refused(&seen, c));
            if !can.is_empty() && !silent && !said {
                found.push(format!("step {step}: {seen} | {}", blurred.join(" or ")));
            }
        }
    }
    let chosen = |e: &&String| !other.chance.iter().any(|ends| e.contains(ends.as_str()));
    let list = |answers: &Answers| -> BTreeSet<String> {
        answers.entries.iter().filter(chosen).map(|e| ports.blur(e)).collect()
    };
    let (left, right) = (list(one), list(other));
    found.extend(alone(&left, &right).into_iter().map(|e| format!("entry: {e} | -")));
    found.extend(alone(&right, &left).into_iter().map(|e| format!("entry: - | {e}")));
    found
}
