//! An answer for people: a few lines that say where the packet goes and why, colour only where it
//! is asked for. It must never say more than the answer does. Tests: `tests.rs`.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::answer::{Answer, Ending, Kind};
use super::names::Directory;

/// Whether to use a terminal's colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Yes.
    On,
    /// No.
    Off,
}

impl Colour {
    fn paint(self, kind: Kind, text: &str) -> String {
        let code = match kind {
            Kind::Delivered | Kind::Forwarded => "32",
            Kind::Rejected => "33",
            Kind::Dropped => "31",
            Kind::Unknown => "35",
        };
        match self {
            Colour::On => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Colour::Off => text.to_owned(),
        }
    }
}

/// The answer in words.
pub fn text(answer: &Answer, directory: &Directory<'_>, colour: Colour) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    line(answer.packet.clone());
    line(format!("  enters      {}", answer.enters));
    let foreign = answer.endings.iter().any(|e| e.by.as_ref().is_some_and(|by| !by.ours));
    line(match &answer.service {
        Some(name) => format!("  service     {name}"),
        None if foreign => "  service     none was asked for before it ended".to_owned(),
        None => "  service     none: no rule of kube-proxy has a place for it".to_owned(),
    });
    if let Some(connection) = &answer.connection {
        line(format!("  connection  {connection}"));
    }
    for group in groups(&answer.endings) {
        group_lines(&group, directory, colour).into_iter().for_each(&mut line);
    }
    for doubt in &answer.gaps {
        line(format!("  not known   {}: {}", doubt.what, doubt.why));
    }
    out
}

/// Endings that differ in nothing but endpoint and probability.
fn groups(endings: &[Ending]) -> Vec<Vec<&Ending>> {
    let mut by_likeness: BTreeMap<String, Vec<&Ending>> = BTreeMap::new();
    let mut order = Vec::new();
    for ending in endings {
        let verb = ending.words.split(' ').next().unwrap_or_default();
        let to = ending.masquerade.to.map(|to| to.address);
        let like =
            format!("{:?} {verb} {to:?} {} {:?}", ending.fate, ending.masquerade.why, ending.by);
        let group = by_likeness.entry(like.clone()).or_default();
        if group.is_empty() {
            order.push(like);
        }
        group.push(ending);
    }
    order.into_iter().filter_map(|like| by_likeness.remove(&like)).collect()
}

fn group_lines(group: &[&Ending], directory: &Directory<'_>, colour: Colour) -> Vec<String> {
    let Some(first) = group.first() else { return Vec::new() };
    let mut lines = Vec::new();
    let translated = group.iter().filter(|ending| ending.endpoint.is_some());
    for ending in translated {
        let Some(endpoint) = ending.endpoint else { continue };
        let pod = directory.pod_at(endpoint.address);
        let pod = pod.map(|name| format!("pod {name}, ")).unwrap_or_default();
        let words = colour.paint(ending.fate, &ending.words);
        lines.push(format!("  {:>5}       → {endpoint}: {pod}{words}", ending.probability));
        for to in &ending.carried_to {
            let pod = directory.pod_at(to.address);
            let pod = pod.map(|name| format!(": pod {name}")).unwrap_or_default();
            lines.push(format!("              to {to}{pod}"));
        }
    }
    if first.endpoint.is_none() {
        let words = colour.paint(first.fate, &first.words);
        lines.push(format!("  {:>5}       {words}", first.probability));
    }
    if let Some(by) = &first.by {
        let comment =
            if by.comment.is_empty() { String::new() } else { format!(" \"{}\"", by.comment) };
        let whose = if by.ours { "kube-proxy's own" } else { "foreign" };
        lines.push(format!(
            "  by          {}, chain {}, {}{comment} ({whose})",
            by.table, by.chain, by.rule
        ));
    }
    match (&first.masquerade.to, first.masquerade.why.as_str()) {
        (Some(to), why) => lines.push(format!("  masquerade  as {}: {why}", to.address)),
        (None, "") => {}
        (None, why) => lines.push(format!("  masquerade  no: {why}")),
    }
    lines
}
