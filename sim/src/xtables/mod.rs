//! xtables: the tables raw, mangle, nat and filter of both families, changed by texts for iptables-restore, printed as
//! iptables-save prints them, and run over packets. Both flavours of the tool make the same of such a text, so one model
//! serves both. Reading (`words`, `rule`, `restore`), standing (`table`, `verify`), printing (`save`), running (`eval`).
//! It must never know Kubernetes, nor how packets travel between hooks. Tests: tests/xtables_texts.rs, tests/xtables_packets.rs.

mod error;
mod eval;
mod head;
mod matches;
mod objects;
pub(crate) mod part;
mod places;
mod restore;
mod rule;
mod save;
mod table;
mod targets;
mod verify;
mod words;

pub use error::{XtError, XtErrorKind};
pub(crate) use objects::{Sets, Side};
pub use save::XtCounters;

use crate::facilities::Facility;
use crate::hooks::{At, Hooks, List};
use crate::journey::{Sink, Step};
use crate::nft::Hook;
use crate::skb::{End, Env, Skb};
use matches::Look;
pub(crate) use matches::addrtype::ADDRESS_TYPES;
use matches::recent::Recents;
use objects::Accounts;
use restore::Restore;
use rule::Spec;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use table::Table;

/// Which tool: iptables or ip6tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum XtFamily {
    /// iptables
    V4,
    /// ip6tables
    V6,
}

impl XtFamily {
    fn name(self) -> &'static str {
        if self == XtFamily::V4 { "IPv4" } else { "IPv6" }
    }
}

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are Linux's own")]
pub enum XtTable {
    Raw,
    Mangle,
    Nat,
    Filter,
}

impl XtTable {
    /// Every table that is modelled.
    pub const ALL: [XtTable; 4] = [XtTable::Raw, XtTable::Mangle, XtTable::Nat, XtTable::Filter];

    /// The table of a name.
    pub fn named(name: &str) -> Option<XtTable> {
        XtTable::ALL.into_iter().find(|table| table.name() == name)
    }

    /// Its name, as in `*name`.
    pub fn name(self) -> &'static str {
        ["raw", "mangle", "nat", "filter"][self as usize]
    }

    /// The hooks of its built-in chains, in the order of iptables-save.
    fn hooks(self) -> &'static [Hook] {
        match self {
            XtTable::Raw => &[Hook::Prerouting, Hook::Output],
            XtTable::Mangle => &Hook::ALL,
            XtTable::Nat => &[Hook::Prerouting, Hook::Input, Hook::Output, Hook::Postrouting],
            XtTable::Filter => &[Hook::Input, Hook::Forward, Hook::Output],
        }
    }

    fn priority(self, hook: Hook) -> i32 {
        match (self, hook) {
            (XtTable::Raw, _) => -300,
            (XtTable::Mangle, _) => -150,
            (XtTable::Nat, Hook::Prerouting | Hook::Output) => -100,
            (XtTable::Nat, _) => 100,
            (XtTable::Filter, _) => 0,
        }
    }
}

/// How iptables-restore is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XtRestore {
    /// `--noflush`: what the text does not name stays.
    pub noflush: bool,
    /// `--counters`: counters are taken from the text.
    pub counters: bool,
}

/// The tables of one host, with what their rules share.
#[derive(Debug, Default)]
pub(crate) struct Xtables {
    tables: [[Option<Table>; 4]; 2],
    names: [Option<Arc<str>>; 4],
    recents: Recents,
    accounts: Accounts,
    /// Rules that ask each set.
    set_users: BTreeMap<Arc<str>, usize>,
    /// Rules that need connection tracking, and whether hooks know that.
    trackers: [(usize, bool); 2],
    /// Tables whose hooks are registered.
    attached: [[bool; 4]; 2],
}

impl Xtables {
    /// Takes a text for iptables-restore.
    pub(crate) fn restore(
        &mut self,
        to: (XtFamily, XtRestore),
        text: &str,
        sets: &dyn Sets,
    ) -> Result<(), XtError> {
        Restore { xtables: self, family: to.0, how: to.1, sets }.run(text)
    }

    /// The text of a table; one that is not there yet has its built-in chains.
    pub(crate) fn save(
        &self,
        of: (XtFamily, XtTable),
        counters: XtCounters,
        seconds: u64,
    ) -> String {
        match &self.tables[of.0 as usize][of.1 as usize] {
            Some(table) => save::print(of, table, counters, seconds),
            None => save::print(of, &Table::new(of.1), counters, seconds),
        }
    }

    fn table_mut(&mut self, family: XtFamily, table: XtTable) -> Option<&mut Table> {
        self.tables[family as usize][table as usize].as_mut()
    }

    fn table_or_new(&mut self, family: XtFamily, table: XtTable) -> &mut Table {
        self.names[table as usize].get_or_insert_with(|| table.name().into());
        self.tables[family as usize][table as usize].get_or_insert_with(|| Table::new(table))
    }

    /// A table was committed: what its rules refer to learns which came and which went, the new before the old.
    fn follow(&mut self, of: (XtFamily, XtTable), moved: Vec<(Arc<Spec>, bool)>) {
        let (came, went): (Vec<_>, Vec<_>) = moved.into_iter().partition(|(_, came)| *came);
        for (spec, came) in came.iter().chain(&went) {
            let trackers = &mut self.trackers[of.0 as usize].0;
            if spec.tracks() {
                *trackers = if *came { *trackers + 1 } else { trackers.saturating_sub(1) };
            }
            for list in spec.lists() {
                if *came { self.recents.hold(&list) } else { self.recents.release(&list.name) }
            }
            for set in spec.sets() {
                let users = self.set_users.entry(set.clone()).or_default();
                *users = if *came { *users + 1 } else { users.saturating_sub(1) };
            }
        }
        self.set_users.retain(|_, users| *users > 0);
    }

    /// Do rules ask this set? Then it cannot be destroyed.
    pub(crate) fn asks_set(&self, set: &str) -> bool {
        self.set_users.contains_key(set)
    }

    /// Is there something hooks do not know yet?
    pub(crate) fn is_unattached(&self) -> bool {
        let tables = self.tables.iter().flatten().zip(self.attached.iter().flatten());
        tables.into_iter().any(|(table, attached)| table.is_some() && !attached)
            || self.trackers.iter().any(|(rules, known)| (*rules > 0) != *known)
    }

    /// Registers what is new at the hooks.
    pub(crate) fn attach(&mut self, hooks: &mut Hooks) {
        for (family, ipv6) in [(0, false), (1, true)] {
            for table in XtTable::ALL {
                let attached = &mut self.attached[family][table as usize];
                if *attached || self.tables[family][table as usize].is_none() {
                    continue;
                }
                *attached = true;
                for hook in table.hooks() {
                    let list = if table == XtTable::Nat { List::Nat } else { List::Hook };
                    let number = (family * 4 + table as usize) as u16;
                    hooks.register(
                        At { ipv6, hook: *hook },
                        list,
                        table.priority(*hook),
                        (Facility::Xtables, number),
                    );
                }
            }
            let (rules, known) = &mut self.trackers[family];
            match (*rules > 0, *known) {
                (true, false) => hooks.need_tracking(ipv6),
                (false, true) => hooks.need_tracking_no_more(ipv6),
                _ => {}
            }
            *known = *rules > 0;
        }
    }

    /// Runs the table that was registered under this number.
    pub(crate) fn run<S: Sink>(
        &mut self,
        number: u16,
        sets: &dyn Sets,
        on: (&mut Env<'_, S>, &mut Skb),
    ) -> End {
        let (env, skb) = on;
        let (family, index) = (usize::from(number / 4), usize::from(number % 4));
        let table = self.tables.get(family).and_then(|tables| tables.get(index)?.as_ref());
        let Some((table, name)) = table.zip(self.names.get(index).and_then(|name| name.as_ref()))
        else {
            return End::Accept;
        };
        let hook = env.hook;
        let Some((base, _)) = table.built_in().find(|(_, known)| *known == hook) else {
            return End::Accept;
        };
        env.sink.note(|| Step::Chain {
            table: format!("{} {name}", if family == 0 { "iptables" } else { "ip6tables" }),
            chain: hook.name().to_ascii_uppercase(),
            priority: XtTable::ALL[index].priority(hook),
        });
        let mut look =
            Look { env, skb, recents: &mut self.recents, accounts: &self.accounts, sets };
        eval::run((name, table), base, &mut look)
    }

    /// From now on nothing may stay: rules are told by `Env::dry`, lists are copied as they are touched.
    pub(crate) fn end_dry(&mut self) {
        self.recents.end_dry();
    }

    pub(crate) fn add_account(&mut self, name: &str) {
        self.accounts.entry(name.into()).or_default();
    }

    pub(crate) fn account(&self, name: &str) -> Option<(u64, u64)> {
        self.accounts.get(name).map(|[packets, bytes]| (packets.load(Relaxed), bytes.load(Relaxed)))
    }

    pub(crate) fn recent(&self, name: &str) -> Vec<(IpAddr, u64)> {
        self.recents.read(name)
    }
}
