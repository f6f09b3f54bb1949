//! Two answers to one question, by the rules that are there and by those that are wanted: in what they
//! differ. It must never say which of them is right. Tests: `tests.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::answer::{Answer, By, Ending, Kind};
use crate::kernel::Socket;

/// What becomes of packets to one endpoint, or of those that reach none, where it is not the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The endpoint; none: packets whose destination was left as it was.
    pub endpoint: Option<Socket>,
    /// By the rules that are there; empty: that never happens.
    pub live: Vec<String>,
    /// By the rules that are wanted.
    pub desired: Vec<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = |ways: &[String]| match ways {
            [] => "never".to_owned(),
            some => some.join(", or "),
        };
        match self.endpoint {
            Some(endpoint) => write!(f, "→ {endpoint}: ")?,
            None => write!(f, "no endpoint: ")?,
        }
        write!(f, "live {}; desired {}", said(&self.live), said(&self.desired))
    }
}

/// In what two answers differ: endpoints, shares, fates, masquerade, and whose rule ended it.
pub fn differences(live: &Answer, desired: &Answer) -> Vec<Difference> {
    let (live, desired) = (ways(live), ways(desired));
    let endpoints: BTreeSet<_> = live.keys().chain(desired.keys()).copied().collect();
    let of = |all: &Ways, endpoint| {
        let ways = all.get(&endpoint).into_iter().flatten();
        ways.map(words).collect::<Vec<String>>()
    };
    let other =
        endpoints.into_iter().filter(|endpoint| live.get(endpoint) != desired.get(endpoint));
    let difference = |endpoint| Difference {
        endpoint,
        live: of(&live, endpoint),
        desired: of(&desired, endpoint),
    };
    other.map(difference).collect()
}

/// One way to end: what becomes of the packet, how likely that is, whether its source is changed, and who
/// ended it. The handle of a rule of ours says nothing: it is another in every world.
type Way = (Kind, String, bool, Option<(bool, String)>);
type Ways = BTreeMap<Option<Socket>, BTreeSet<Way>>;

fn ways(answer: &Answer) -> Ways {
    let mut all = Ways::new();
    for ending in &answer.endings {
        let Ending { fate, probability, masquerade, by, endpoint, .. } = ending;
        let by = by.as_ref().map(|by| (by.ours, whose(by)));
        let way = (*fate, probability.clone(), masquerade.to.is_some(), by);
        all.entry(*endpoint).or_default().insert(way);
    }
    all
}

fn whose(by: &By) -> String {
    match by.ours {
        true => "a rule of kube-proxy".to_owned(),
        false => format!("{}, chain {}, {}", by.table, by.chain, by.rule),
    }
}

fn words((fate, share, masqueraded, by): &Way) -> String {
    let fate = match fate {
        Kind::Delivered => "delivered",
        Kind::Forwarded => "forwarded",
        Kind::Rejected => "refused",
        Kind::Dropped => "dropped",
        Kind::Unknown => "not to be told",
    };
    let masqueraded = if *masqueraded { ", masqueraded" } else { "" };
    let by = by.as_ref().map(|(_, whose)| format!(" by {whose}")).unwrap_or_default();
    format!("{fate}{by} ({share}{masqueraded})")
}
