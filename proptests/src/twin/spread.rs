//! How chance spreads packets: counted on Linux, expected by the simulator, compared within five standard
//! deviations (of right answers one in two million differs). Knows neither kernel. Tests: below.

use std::collections::BTreeMap;

use sim::packet::{Packet, Transport};

/// The tags of such packets' flows begin here, beyond those of steps.
pub(super) const FIRST_FLOW: usize = 0x4000;
/// Beyond it the next answer is wrong, or Linux is.
const DEVIATIONS: f64 = 5.0;

/// The n-th packet: from a port of its own.
pub(super) fn nth(packet: &Packet, n: usize) -> Packet {
    let mut packet = packet.clone();
    match &mut packet.transport {
        Transport::Tcp { sport, .. }
        | Transport::Udp { sport, .. }
        | Transport::Sctp { sport, .. } => {
            *sport = sport.wrapping_add(n as u16);
        }
        Transport::Icmp { id, .. } => *id = id.wrapping_add(n as u16),
        _ => {}
    }
    packet.payload = super::wire::payload(&packet);
    packet
}

/// A fate without the port of its packet's source, which each has of its own.
pub(super) fn without_source_port(fate: &str) -> String {
    let Some((head, dest)) = fate.trim_end_matches('?').split_once(" > ") else {
        return fate.trim_end_matches('?').to_owned();
    };
    let source = head.rsplit_once(':').map_or(head, |(source, _)| source);
    format!("{source} > {dest}")
}

/// Fates by how often they were seen, or by how often they are expected.
#[derive(Debug, Default)]
pub(super) struct Tally(BTreeMap<String, (f64, f64)>);

impl Tally {
    /// One packet that has this fate with this probability.
    pub(super) fn add(&mut self, fate: &str, probability: f64) {
        let (mean, variance) = self.0.entry(without_source_port(fate)).or_default();
        *mean += probability;
        *variance += probability * (1.0 - probability);
    }

    /// `spread COUNT~DEVIATION FATE, …`.
    pub(super) fn text(&self) -> String {
        let one = |(fate, (mean, variance)): (&String, &(f64, f64))| {
            format!("{mean:.1}~{:.1} {fate}", variance.max(0.0).sqrt())
        };
        format!("spread {}", self.0.iter().map(one).collect::<Vec<_>>().join(", "))
    }
}

fn read(text: &str) -> Option<BTreeMap<&str, (f64, f64)>> {
    let one = |part: &'_ str| -> Option<(f64, f64)> {
        let (mean, deviation) = part.split_once('~')?;
        Some((mean.parse().ok()?, deviation.parse().ok()?))
    };
    let parts = text.strip_prefix("spread ")?.split(", ");
    parts.map(|part| part.split_once(' ').and_then(|(n, fate)| Some((fate, one(n)?)))).collect()
}

/// Can what was seen come of what is expected? Nothing if they are no spreads.
pub(super) fn fits(seen: &str, expected: &str) -> Option<bool> {
    let (seen, expected) = (read(seen)?, read(expected)?);
    let near = |(fate, (mean, deviation)): (&&str, &(f64, f64))| {
        let count = seen.get(fate).map_or(0.0, |(count, _)| *count);
        (count - mean).abs() <= DEVIATIONS * deviation + 0.5
    };
    let known = seen.keys().all(|fate| expected.contains_key(fate));
    Some(known && expected.iter().all(near))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_fit_within_five_deviations() {
        let expected = "spread 100.0~8.0 leaves l1 a > b, 200.0~8.0 leaves l1 a > c";
        for (seen, fit) in [
            ("spread 100.0~0.0 leaves l1 a > b, 200.0~0.0 leaves l1 a > c", true),
            ("spread 60.0~0.0 leaves l1 a > b, 240.0~0.0 leaves l1 a > c", true),
            ("spread 59.0~0.0 leaves l1 a > b, 241.0~0.0 leaves l1 a > c", false),
            ("spread 300.0~0.0 leaves l1 a > c", false),
            ("spread 100.0~0.0 leaves l1 a > b, 200.0~0.0 leaves l1 a > c, 1.0~0.0 nothing", false),
        ] {
            assert_eq!(fits(seen, expected), Some(fit), "{seen}");
        }
        assert_eq!(fits("taken", expected), None);
    }
}
