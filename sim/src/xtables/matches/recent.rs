//! `recent`: lists of addresses with the times they were seen. Facts from xt_recent.c, libxt_recent.c.
//! A list keeps as many stamps as its rules can count. It must never know why an address is remembered.
//! Tests: tests/xtables_texts.rs, tests/xtables_packets.rs.

use super::{Context, Known, Look};
use crate::conntrack::SECOND;
use crate::xtables::XtFamily;
use crate::xtables::error::{Refusal, Taken};
use crate::xtables::head::{and, prefix_mask};
use crate::xtables::words::{Opt, print_not};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

/// Addresses a list holds (ip_list_tot), of both families together.
const LONGEST: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Set,
    Check,
    Update,
    Remove,
}

/// `-m recent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::xtables) struct Recent {
    action: Option<Action>,
    not: bool,
    seconds: u32,
    reap: bool,
    hits: u32,
    ttl: bool,
    name: Arc<str>,
    mask: Option<IpAddr>,
    destination: bool,
}

impl Default for Recent {
    fn default() -> Self {
        Recent {
            action: None,
            not: false,
            seconds: 0,
            reap: false,
            hits: 0,
            ttl: false,
            name: "DEFAULT".into(),
            mask: None,
            destination: false,
        }
    }
}

impl Recent {
    pub(super) fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        let action = match opt.name {
            "set" => Action::Set,
            "rcheck" => Action::Check,
            "update" => Action::Update,
            "remove" => Action::Remove,
            _ => return self.other_option(opt),
        };
        if self.action.is_some() {
            return Err(Refusal::syntax(
                opt.word.column,
                "recent: only one of --set, --rcheck, --update and --remove",
            ));
        }
        (self.action, self.not) = (Some(action), opt.not);
        Ok(Known::Yes)
    }

    fn other_option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        match opt.name {
            "seconds" => {
                let word = opt.plain_value()?;
                self.seconds = word.number(u32::MAX)?;
                if self.seconds == 0 {
                    return Err(word.refuse("a number of seconds from 1"));
                }
            }
            "hitcount" => self.hits = opt.plain_value()?.number(65_535)?,
            "reap" => self.reap = true,
            "rttl" => self.ttl = true,
            "rsource" => self.destination = false,
            "rdest" => self.destination = true,
            "name" => {
                let word = opt.plain_value()?;
                let fits = |name: &str| {
                    !name.is_empty()
                        && name.len() < 200
                        && !name.contains('/')
                        && name != "."
                        && name != ".."
                };
                self.name = Some(word.text.as_str())
                    .filter(|name| fits(name))
                    .map(Arc::from)
                    .ok_or_else(|| word.refuse("a name for a list"))?;
            }
            "mask" => {
                let word = opt.plain_value()?;
                self.mask = Some(
                    word.text.parse().map_err(|_| word.refuse("a mask, written as an address"))?,
                );
            }
            _ => return Ok(Known::No),
        }
        opt.plain().map(|()| Known::Yes)
    }

    pub(super) fn check(&mut self, context: &Context<'_>) -> Taken<()> {
        let family = context.family;
        let full = prefix_mask(family, if family == XtFamily::V6 { 128 } else { 32 });
        self.mask = self.mask.or(full);
        let refuse = |detail: &str| Err(Refusal::invalid(context.column, detail));
        let asks = self.seconds != 0 || self.hits != 0 || self.ttl || self.reap;
        match self.action {
            _ if self.mask.is_some_and(|mask| mask.is_ipv6() != (family == XtFamily::V6)) => {
                refuse("recent: the mask is of another family")
            }
            None => refuse(
                "recent: you must specify one of `--set', `--rcheck' `--update' or `--remove'",
            ),
            _ if self.reap && self.seconds == 0 => {
                refuse("recent: option \"--reap\" also requires \"--seconds\".")
            }
            Some(Action::Set | Action::Remove) if asks => {
                refuse("recent: --set and --remove look at no time, count or TTL")
            }
            _ => Ok(()),
        }
    }

    pub(super) fn print(&self, out: &mut String) {
        print_not(out, self.not);
        out.push_str(match self.action {
            Some(Action::Set) | None => " --set",
            Some(Action::Check) => " --rcheck",
            Some(Action::Update) => " --update",
            Some(Action::Remove) => " --remove",
        });
        if self.seconds != 0 {
            let _ = write!(out, " --seconds {}", self.seconds);
        }
        out.push_str(if self.reap { " --reap" } else { "" });
        if self.hits != 0 {
            let _ = write!(out, " --hitcount {}", self.hits);
        }
        out.push_str(if self.ttl { " --rttl" } else { "" });
        let _ = write!(out, " --name {}", self.name);
        if let Some(mask) = self.mask {
            let _ = write!(out, " --mask {}", Full(mask));
        }
        out.push_str(if self.destination { " --rdest" } else { " --rsource" });
    }

    /// The list the rule holds on to, with the address mask and the stamps it would have.
    pub(in crate::xtables) fn list(&self) -> Wanted {
        Wanted {
            name: self.name.clone(),
            mask: self.mask,
            stamps: (self.hits as usize).next_power_of_two(),
        }
    }

    pub(super) fn fits<S>(&self, look: &mut Look<'_, '_, S>) -> bool {
        let (now, dry) = (look.env.now, look.env.dry);
        let packet = &look.skb.packet;
        // A TTL as it was before this host forwarded.
        let ttl = packet
            .ttl
            .saturating_add(u8::from(look.skb.out.is_some() && look.skb.in_link.is_some()));
        let address = if self.destination { packet.dst } else { packet.src };
        let Some(list) = look.recents.touch(&self.name, dry) else { return self.not };
        let address = list.mask.map_or(address, |mask| and(address, mask));
        let found = list.entries.get(&address).is_some_and(|entry| !self.ttl || entry.ttl == ttl);
        let hit = found && self.hit(list, (address, now));
        match self.action {
            Some(Action::Set) => list.see(address, ttl, now),
            Some(Action::Remove) if found => list.remove(address),
            // The kernel updates where the match as a whole fits, `!` included.
            Some(Action::Update) if found && hit != self.not => list.see(address, ttl, now),
            _ => {}
        }
        (hit || self.action == Some(Action::Set)) != self.not
    }

    /// Was the address seen as often as wanted, in the time wanted? Forgets the eldest, where that is asked.
    fn hit(&self, list: &mut List, at: (IpAddr, u64)) -> bool {
        let (address, now) = at;
        if matches!(self.action, Some(Action::Set | Action::Remove)) {
            return true;
        }
        let since = if self.seconds == 0 {
            0
        } else {
            now.saturating_sub(u64::from(self.seconds) * SECOND)
        };
        let seen = list
            .entries
            .get(&address)
            .map_or(0, |entry| entry.stamps.iter().filter(|stamp| **stamp >= since).count());
        let hit = seen >= (self.hits as usize).max(1);
        if self.reap {
            list.reap(
                since,
                (self.action == Some(Action::Update) && hit != self.not).then_some(address),
            );
        }
        hit
    }
}

/// An IPv6 mask prints in full where `Display` would shorten it to the same.
struct Full(IpAddr);

impl std::fmt::Display for Full {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}", self.0)
    }
}

/// A list a rule needs.
#[derive(Clone, Debug)]
pub(in crate::xtables) struct Wanted {
    pub(in crate::xtables) name: Arc<str>,
    pub(in crate::xtables) mask: Option<IpAddr>,
    pub(in crate::xtables) stamps: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    stamps: VecDeque<u64>,
    ttl: u8,
    /// Moves with each touch: the smallest is the eldest.
    touched: u64,
}

#[derive(Clone, Debug)]
pub(in crate::xtables) struct List {
    /// Of the first rule that named the list.
    mask: Option<IpAddr>,
    most_stamps: usize,
    rules: usize,
    entries: BTreeMap<IpAddr, Entry>,
    touches: u64,
}

impl List {
    fn see(&mut self, address: IpAddr, ttl: u8, now: u64) {
        if self.entries.len() >= LONGEST && !self.entries.contains_key(&address) {
            let eldest = self.eldest();
            eldest.into_iter().for_each(|eldest| self.remove(eldest));
        }
        self.touches += 1;
        let entry = self.entries.entry(address).or_insert(Entry {
            stamps: VecDeque::new(),
            ttl,
            touched: 0,
        });
        if entry.stamps.len() >= self.most_stamps {
            entry.stamps.pop_front();
        }
        entry.stamps.push_back(now);
        (entry.ttl, entry.touched) = (ttl, self.touches);
    }

    fn eldest(&self) -> Option<IpAddr> {
        self.entries.iter().min_by_key(|(_, entry)| entry.touched).map(|(address, _)| *address)
    }

    fn remove(&mut self, address: IpAddr) {
        self.entries.remove(&address);
    }

    /// Forgets the eldest entry if it was last seen before `since`, unless it is about to be updated (recent_entry_reap).
    fn reap(&mut self, since: u64, spared: Option<IpAddr>) {
        let Some(eldest) = self.eldest().filter(|eldest| Some(*eldest) != spared) else { return };
        if self
            .entries
            .get(&eldest)
            .and_then(|entry| entry.stamps.back())
            .is_some_and(|stamp| *stamp < since)
        {
            self.remove(eldest);
        }
    }
}

/// All lists of a host; both families share them.
#[derive(Debug, Default)]
pub(in crate::xtables) struct Recents {
    lists: BTreeMap<Arc<str>, List>,
    /// In a dry run: the lists as they were.
    before: BTreeMap<Arc<str>, List>,
}

impl Recents {
    /// A rule that names a list has come.
    pub(in crate::xtables) fn hold(&mut self, wanted: &Wanted) {
        let new = || List {
            mask: wanted.mask,
            most_stamps: 1,
            rules: 0,
            entries: BTreeMap::new(),
            touches: 0,
        };
        let list = self.lists.entry(wanted.name.clone()).or_insert_with(new);
        list.rules += 1;
        if wanted.stamps > list.most_stamps {
            // The kernel flushes a list that is to keep more (recent_table_flush).
            list.most_stamps = wanted.stamps;
            list.entries.clear();
        }
    }

    /// A rule that named a list has gone; without rules a list goes.
    pub(in crate::xtables) fn release(&mut self, name: &str) {
        let Some(list) = self.lists.get_mut(name) else { return };
        list.rules = list.rules.saturating_sub(1);
        if list.rules == 0 {
            self.lists.remove(name);
        }
    }

    /// Beside those that rules of a text hold, these lists are there, and no others.
    pub(in crate::xtables) fn hold_only(&mut self, wanted: &[&Wanted]) {
        for list in wanted {
            self.hold(list);
            if let Some(list) = self.lists.get_mut(&list.name) {
                list.rules -= 1;
            }
        }
        let named: BTreeSet<&Arc<str>> = wanted.iter().map(|list| &list.name).collect();
        self.lists.retain(|name, list| list.rules > 0 || named.contains(name));
    }

    fn touch(&mut self, name: &Arc<str>, dry: bool) -> Option<&mut List> {
        let list = self.lists.get_mut(name)?;
        if dry && !self.before.contains_key(name) {
            self.before.insert(name.clone(), list.clone());
        }
        Some(list)
    }

    /// Takes back what a dry run did.
    pub(in crate::xtables) fn end_dry(&mut self) {
        self.lists.append(&mut self.before);
    }

    /// The addresses a list holds with the times they were last seen.
    pub(in crate::xtables) fn read(&self, name: &str) -> Vec<(IpAddr, u64)> {
        let entries = self.lists.get(name).into_iter().flat_map(|list| &list.entries);
        entries
            .map(|(address, entry)| (*address, entry.stamps.back().copied().unwrap_or(0)))
            .collect()
    }
}
