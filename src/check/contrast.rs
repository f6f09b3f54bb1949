//! Two promises to one client, in words: which endpoints go and come, what is masqueraded, and why
//! there are none. It must never know how a change is made. Tests: `what_if_tests.rs`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::kernel::Socket;
use crate::model::{Mode, Protocol, TrafficPolicy};
use crate::promise::{Claim, Face, Promise};

/// How two promises differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Contrast {
    /// In words.
    pub words: String,
    /// Endpoints that are reached no more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<Socket>,
    /// Endpoints that are reached then.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub come: Vec<Socket>,
}

/// A promise with what it comes from.
pub(super) struct Side<'a> {
    pub(super) promise: Promise,
    pub(super) claim: Option<&'a Claim<'a>>,
    pub(super) mode: Mode,
}

/// So many endpoints are named in a row.
const NAMED: usize = 5;

/// How two promises differ, if they do.
pub(super) fn contrast(
    sides: &[Side<'_>; 2],
    name: impl Fn(&Socket) -> String,
) -> Option<Contrast> {
    let [was, is] = sides;
    if was.promise == is.promise {
        return None;
    }
    let none = BTreeMap::new();
    let of = |side: &'_ Side<'_>| match &side.promise {
        Promise::Endpoints(endpoints) => endpoints.clone(),
        _ => none.clone(),
    };
    let (old, new) = (of(was), of(is));
    let without = |a: &BTreeMap<Socket, bool>, b: &BTreeMap<Socket, bool>| {
        a.keys().filter(|socket| !b.contains_key(socket)).copied().collect::<Vec<_>>()
    };
    let (gone, come) = (without(&old, &new), without(&new, &old));
    let words = match (old.is_empty(), new.is_empty()) {
        (false, false) => {
            let changes = [among(&old, &new, (&gone, &come), &name), masquerade(&old, &new, &name)];
            changes.into_iter().flatten().collect::<Vec<_>>().join("; ")
        }
        _ => format!("now {}, then {}", said(was, &name), said(is, &name)),
    };
    Some(Contrast { words, gone, come })
}

/// Which endpoints go and come.
fn among(
    old: &BTreeMap<Socket, bool>,
    new: &BTreeMap<Socket, bool>,
    (gone, come): (&[Socket], &[Socket]),
    name: impl Fn(&Socket) -> String,
) -> Option<String> {
    if gone.is_empty() && come.is_empty() {
        return None;
    }
    let part = |word: &str, sockets: &[Socket]| {
        (!sockets.is_empty()).then(|| format!("{word} {}", list(sockets, &name)))
    };
    let parts = [part("without", gone), part("with", come)];
    let parts = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    Some(format!("now {}, then {}: {parts}", count(old.len()), new.len()))
}

/// Whose source is masqueraded then and was not, or the other way round. Of endpoints that come
/// what counts is how it was with all that there were.
fn masquerade(
    old: &BTreeMap<Socket, bool>,
    new: &BTreeMap<Socket, bool>,
    name: impl Fn(&Socket) -> String,
) -> Option<String> {
    let kinds: BTreeSet<bool> = old.values().copied().collect();
    let usual = kinds.first().copied().filter(|_| kinds.len() == 1);
    let turned = |to: bool| {
        let other = |(socket, masked): &(&Socket, &bool)| {
            let before = old.get(socket).copied().or(usual);
            **masked == to && before.is_some_and(|before| before != to)
        };
        new.iter().filter(other).map(|(socket, _)| *socket).collect::<Vec<_>>()
    };
    let part = |to: bool| {
        let sockets = turned(to);
        let words = match to {
            true => "the source is seen now, then masqueraded",
            false => "the source is masqueraded now, then seen",
        };
        match sockets.len() {
            0 => None,
            all if all == new.len() => Some(words.to_owned()),
            _ => Some(format!("{words}, by {}", list(&sockets, &name))),
        }
    };
    let parts: Vec<String> = [true, false].into_iter().filter_map(part).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn count(endpoints: usize) -> String {
    match endpoints {
        1 => "1 endpoint".to_owned(),
        several => format!("{several} endpoints"),
    }
}

fn list(sockets: &[Socket], name: impl Fn(&Socket) -> String) -> String {
    let named: Vec<String> = sockets.iter().take(NAMED).map(name).collect();
    match sockets.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// What becomes of a client's packets, and why.
fn said(side: &Side<'_>, name: impl Fn(&Socket) -> String) -> String {
    match &side.promise {
        Promise::Endpoints(endpoints) => {
            let sockets: Vec<Socket> = endpoints.keys().copied().collect();
            let how = match endpoints.values().filter(|masked| **masked).count() {
                0 => "",
                all if all == endpoints.len() => ", masqueraded",
                _ => ", some of them masqueraded",
            };
            format!("{} ({}){how}", count(sockets.len()), list(&sockets, name))
        }
        Promise::Reject => {
            format!("refused{}", side.claim.map_or("", |claim| refusal(side, claim)))
        }
        Promise::Drop => format!("dropped{}", side.claim.map_or("", |claim| drop_reason(claim))),
        Promise::Accept => "let in".to_owned(),
        Promise::Untouched => "left alone by kube-proxy".to_owned(),
    }
}

fn refusal(side: &Side<'_>, claim: &Claim<'_>) -> &'static str {
    match (claim.reach.any, side.mode) {
        (false, _) => ": no endpoint",
        (true, Mode::Userspace) if claim.port.protocol == Protocol::Sctp => {
            ": userspace mode carries no SCTP"
        }
        (true, _) => "",
    }
}

fn drop_reason(claim: &Claim<'_>) -> &'static str {
    let policy = match claim.face {
        Face::Cluster => claim.service.internal_policy,
        Face::External | Face::NodePort => claim.service.external_policy,
    };
    let fenced = claim.face == Face::External && !claim.service.source_ranges.is_empty();
    match policy {
        TrafficPolicy::Local if claim.reach.local.is_empty() => ": no endpoint on this node",
        _ if fenced => ": not of its source ranges",
        _ => "",
    }
}
