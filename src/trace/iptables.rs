//! Rules of iptables, as its tools print them, into the simulator. A rule with a match or target
//! that is not modelled is cut before it and ends in a drop that stands for "cannot be told".
//!
//! It must never change what a rule means. Tests: `tests.rs`, and the lab.

use std::collections::{BTreeMap, BTreeSet};

use super::load::{Maker, Whereabouts, World};
use crate::kernel::survey::{Flavour, IptablesText, Survey};
use crate::model::Family;

/// Loads ipsets and texts; gives the tables of nf_tables that need not be looked at any more.
pub(super) fn load(world: &mut World, survey: &Survey) -> BTreeSet<(u8, String)> {
    if !survey.ipsets.is_empty()
        && let Err(error) = world.host.ipset_restore(&survey.ipsets)
    {
        world.gap("ipsets", error.to_string());
    }
    let mut by_table: BTreeMap<(Family, &str), Vec<&IptablesText>> = BTreeMap::new();
    for text in &survey.iptables {
        by_table.entry((text.family, &text.table)).or_default().push(text);
    }
    let mut done = BTreeSet::new();
    for ((family, table), mut texts) in by_table {
        // Of two flavours with a table of one name, one that does nothing can be left out.
        if texts.len() > 1 {
            texts.retain(|text| decides(&text.text));
        }
        match texts.as_slice() {
            [] => {}
            [one] => restore(world, one),
            _ => world.gap(
                format!("table {table} of {family} in iptables-legacy and in iptables-nft"),
                "both have rules, and one table of a name is modelled",
            ),
        }
        done.insert((crate::netlink::nfproto(family), table.to_owned()));
    }
    let nft = |text: &IptablesText| text.flavour == Flavour::Nft;
    done.retain(|(number, table)| {
        let of = |text: &&IptablesText| {
            crate::netlink::nfproto(text.family) == *number && text.table == *table
        };
        survey.iptables.iter().filter(of).any(nft)
    });
    done
}

/// Whether a table has rules, or a policy other than accept.
fn decides(text: &str) -> bool {
    text.lines()
        .any(|line| line.starts_with("-A") || line.starts_with(':') && line.contains(" DROP "))
}

fn restore(world: &mut World, text: &IptablesText) {
    let family = match text.family {
        Family::V4 => sim::XtFamily::V4,
        Family::V6 => sim::XtFamily::V6,
    };
    let how = sim::XtRestore { noflush: true, ..sim::XtRestore::default() };
    let mut lines: Vec<String> = text.text.lines().map(str::to_owned).collect();
    // Counters by name that rules refer to; what they count decides nothing.
    for line in &lines {
        let after = line.split("--nfacct-name ").nth(1).map(str::trim_start);
        if let Some(name) = after.and_then(|rest| rest.split(' ').next()) {
            world.host.add_nfacct(name);
        }
    }
    let mut gaps: BTreeMap<usize, usize> = BTreeMap::new();
    loop {
        let whole = lines.join("\n") + "\n";
        let Err(error) = world.host.iptables_restore(family, &whole, how) else { break };
        let place = error.line.saturating_sub(1);
        // Nothing can be dropped in nat, so that nothing there can stand for a gap at its place.
        if text.table == "nat" && lines.get(place).is_some_and(|line| line.starts_with("-A ")) {
            let rule = std::mem::take(&mut lines[place]);
            world.gap(format!("table nat of {}, rule `{rule}`", text.family), error.detail);
            continue;
        }
        let number = gaps.get(&place).copied();
        let marker = marker(number.unwrap_or(world.cut.len()));
        let shorter = lines.get(place).and_then(|line| cut(line, (number.is_some(), &marker)));
        let Some(shorter) = shorter else {
            return world.gap(
                format!("iptables table {} of {}", text.table, text.family),
                error.to_string(),
            );
        };
        lines[place] = shorter;
        if number.is_none() {
            gaps.insert(place, world.cut.len());
            world.cut.push(error.detail);
        }
    }
}

/// The match that says which gap a rule stands for, wherever the rule is listed later.
fn marker(number: usize) -> String {
    format!(" -m comment --comment \"{NOT_MODELLED}{number}\"")
}

const NOT_MODELLED: &str = "not modelled: ";

/// Names the rules, by what the host lists.
pub(super) fn names(world: &World) -> BTreeMap<Whereabouts, Maker> {
    let mut makers = BTreeMap::new();
    for (tool, of) in [("iptables", sim::XtFamily::V4), ("ip6tables", sim::XtFamily::V6)] {
        for table in sim::XtTable::ALL {
            let text = world.host.iptables_save(of, table);
            name_rules(&mut makers, (tool, table.name()), (&text, &world.cut));
        }
    }
    makers
}

/// A rule with a drop for a target; one that was cut before, without its last match as well. None
/// where nothing is left to cut.
fn cut(line: &str, (was_cut, marker): (bool, &str)) -> Option<String> {
    let line = line.replacen(marker, "", 1);
    let body = line.strip_prefix("-A ")?;
    let target = body.rfind(" -j ").or_else(|| body.rfind(" -g "))?;
    let mut shorter = &body[..target];
    if was_cut {
        let (before, _) = shorter.rsplit_once(" -")?;
        shorter = before.trim_end_matches(" -").trim_end_matches(" !");
    }
    Some(format!("-A {shorter}{marker} -j DROP"))
}

fn name_rules(
    makers: &mut BTreeMap<Whereabouts, Maker>,
    (tool, name): (&str, &str),
    (text, cut): (&str, &[String]),
) {
    let mut numbers: BTreeMap<&str, u64> = BTreeMap::new();
    for line in text.lines() {
        let Some(chain) = line.strip_prefix("-A ").and_then(|rest| rest.split(' ').next()) else {
            continue;
        };
        let number = numbers.entry(chain).or_default();
        *number += 1;
        let maker = Maker {
            table: format!("{tool} table {name}"),
            chain: chain.to_owned(),
            rule: format!("rule {number}"),
            comment: comment(line),
            gap: gap(line).and_then(|number| cut.get(number)).cloned(),
        };
        makers.insert((format!("{tool} {name}"), chain.to_owned(), *number), maker);
    }
}

/// The number of the gap that a rule stands for.
fn gap(line: &str) -> Option<usize> {
    let rest = line.split(NOT_MODELLED).nth(1)?;
    rest.split('"').next()?.parse().ok()
}

/// What stands behind `--comment`.
fn comment(line: &str) -> String {
    let rest = line.split(" --comment ").nth(1).unwrap_or_default();
    match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next().unwrap_or_default().to_owned(),
        None => rest.split(' ').next().unwrap_or_default().to_owned(),
    }
}
