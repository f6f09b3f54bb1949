//! What becomes of a packet: as promised, and as seen. The words the oracle, the vectors and the
//! two kernels share, and the one place where a promise is held against what was seen.
//! Knows no ruleset and no cluster. Tests: below.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use kube_proxy::kernel::Socket;
use kube_proxy::model::{Family, Protocol};

/// How a packet gets onto the node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    /// Made on the node itself (output path).
    Node,
    /// Arrives over the interface of this name (prerouting path).
    Link(String),
}

/// The first packet of a new connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packet {
    /// How it gets onto the node.
    pub entry: Entry,
    /// Source address.
    pub source: IpAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Destination address.
    pub dest: IpAddr,
    /// Destination port.
    pub port: u16,
}

impl Packet {
    /// The family both addresses are of.
    pub fn family(&self) -> Family {
        Family::of(self.dest)
    }

    /// Destination address and port.
    pub fn target(&self) -> Socket {
        Socket { address: self.dest, port: self.port }
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.protocol, self.source, self.target())?;
        match &self.entry {
            Entry::Node => f.write_str(" (made on the node)"),
            Entry::Link(name) => write!(f, " (arriving on {name})"),
        }
    }
}

/// What must become of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Promise {
    /// It goes to any of these endpoints and no other; true: with its source rewritten.
    Dnat(BTreeMap<Socket, bool>),
    /// It is refused with an answer.
    Reject,
    /// It vanishes.
    Drop,
    /// A rule of ours lets it through as it is.
    Accept,
    /// No rule of ours changes or stops it.
    Untouched,
}

impl Promise {
    /// All of these endpoints, all masqueraded or none.
    pub fn dnat(endpoints: impl IntoIterator<Item = Socket>, masquerade: Masquerade) -> Promise {
        let rewritten = masquerade == Masquerade::Yes;
        Promise::Dnat(endpoints.into_iter().map(|e| (e, rewritten)).collect())
    }
}

/// Whether a packet's source is rewritten to the node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masquerade {
    /// It is.
    Yes,
    /// It is not.
    No,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Promise::Dnat(endpoints) => {
                f.write_str("dnat to one of")?;
                for (endpoint, masquerade) in endpoints {
                    write!(f, " {endpoint}{}", if *masquerade { "(masqueraded)" } else { "" })?;
                }
                Ok(())
            }
            Promise::Reject => f.write_str("reject"),
            Promise::Drop => f.write_str("drop"),
            Promise::Accept => f.write_str("accept"),
            Promise::Untouched => f.write_str("untouched"),
        }
    }
}

/// What became of one packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It reached this endpoint; `masquerade` is `None` for an endpoint on the node itself:
    /// from outside it never passes postrouting, and from the node the source is its own anyway.
    Dnat {
        /// The endpoint.
        endpoint: Socket,
        /// Whether its source was rewritten, where that can be seen.
        masquerade: Option<bool>,
    },
    /// An ICMP error or a TCP reset came back.
    Reject,
    /// Nothing came of it.
    Drop,
    /// It went where it was addressed, and a rule of ours had said accept.
    Accept,
    /// It went where it was addressed.
    Untouched,
    /// It went nowhere, and not by a rule: no route, a martian, no room in conntrack.
    Lost(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Dnat { endpoint, masquerade } => {
                let word = match masquerade {
                    Some(true) => "masqueraded",
                    Some(false) => "not masqueraded",
                    None => "masquerade not visible",
                };
                write!(f, "dnat to {endpoint} ({word})")
            }
            Outcome::Reject => f.write_str("reject"),
            Outcome::Drop => f.write_str("drop"),
            Outcome::Accept => f.write_str("accept"),
            Outcome::Untouched => f.write_str("untouched"),
            Outcome::Lost(why) => write!(f, "lost: {why}"),
        }
    }
}

/// How much of what can happen was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Every outcome a packet can have, each with its probability.
    Every,
    /// A few packets sent; an accept cannot be told from an untouched packet.
    Samples,
}

/// What was seen of a packet, or of several alike.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Outcomes with their probability (or frequency).
    pub outcomes: Vec<(Outcome, f64)>,
    /// How much was seen.
    pub extent: Extent,
    /// The way the packet took, as a person can read it.
    pub journey: String,
}

impl Seen {
    /// Holds what was seen against a promise. The error says in one line what is wrong.
    pub fn keeps(&self, promise: &Promise) -> Result<(), String> {
        if self.outcomes.is_empty() {
            return Err(format!("promised: {promise}; nothing was seen at all"));
        }
        for (outcome, _) in &self.outcomes {
            self.allowed(outcome, promise)?;
        }
        match (promise, self.extent) {
            (Promise::Dnat(endpoints), Extent::Every) => self.spread(endpoints),
            _ => Ok(()),
        }
    }

    fn allowed(&self, outcome: &Outcome, promise: &Promise) -> Result<(), String> {
        let fits = match (promise, outcome) {
            (Promise::Dnat(endpoints), Outcome::Dnat { endpoint, masquerade }) => endpoints
                .get(endpoint)
                .is_some_and(|promised| masquerade.is_none_or(|seen| seen == *promised)),
            (Promise::Reject, Outcome::Reject)
            | (Promise::Drop, Outcome::Drop)
            | (Promise::Accept, Outcome::Accept)
            | (Promise::Untouched, Outcome::Untouched) => true,
            (Promise::Accept, Outcome::Untouched) => self.extent == Extent::Samples,
            _ => false,
        };
        if fits { Ok(()) } else { Err(format!("promised: {promise}; seen: {outcome}")) }
    }

    /// Each endpoint must have its equal share.
    fn spread(&self, endpoints: &BTreeMap<Socket, bool>) -> Result<(), String> {
        let mut shares: BTreeMap<Socket, f64> = BTreeMap::new();
        for (outcome, probability) in &self.outcomes {
            if let Outcome::Dnat { endpoint, .. } = outcome {
                *shares.entry(*endpoint).or_default() += probability;
            }
        }
        let missing: BTreeSet<_> = endpoints.keys().filter(|e| !shares.contains_key(e)).collect();
        if let Some(first) = missing.first() {
            return Err(format!("promised: {first} among others; it is never reached"));
        }
        let fair = 1.0 / endpoints.len() as f64;
        match shares.iter().find(|(_, share)| (**share - fair).abs() > 1e-3 * fair) {
            Some((endpoint, share)) => {
                Err(format!("{endpoint} has probability {share:.6} instead of {fair:.6}"))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn socket(last: u8) -> Socket {
        Socket { address: [10, 0, 0, last].into(), port: 80 }
    }

    fn seen(extent: Extent, outcomes: &[(Outcome, f64)]) -> Seen {
        Seen { outcomes: outcomes.to_vec(), extent, journey: String::new() }
    }

    fn to(last: u8) -> Outcome {
        Outcome::Dnat { endpoint: socket(last), masquerade: Some(false) }
    }

    #[test]
    fn shares_must_be_equal_where_all_outcomes_are_known() {
        let promise = Promise::dnat([socket(1), socket(2)], Masquerade::No);
        seen(Extent::Every, &[(to(1), 0.5), (to(2), 0.5)]).keeps(&promise).unwrap();
        assert!(seen(Extent::Every, &[(to(1), 0.6), (to(2), 0.4)]).keeps(&promise).is_err());
        assert!(seen(Extent::Every, &[(to(1), 1.0)]).keeps(&promise).is_err());
        seen(Extent::Samples, &[(to(1), 1.0)]).keeps(&promise).unwrap();
        assert!(seen(Extent::Samples, &[(to(3), 1.0)]).keeps(&promise).is_err());
    }

    #[test]
    fn masquerade_counts_where_it_can_be_seen() {
        let promise = Promise::dnat([socket(1)], Masquerade::Yes);
        assert!(seen(Extent::Every, &[(to(1), 1.0)]).keeps(&promise).is_err());
        let hidden = Outcome::Dnat { endpoint: socket(1), masquerade: None };
        seen(Extent::Every, &[(hidden, 1.0)]).keeps(&promise).unwrap();
    }
}
