//! Tables, chains and rules as they stand; the order in which base chains see packets is made in `hooks`.
//! Facts from net/netfilter/nf_tables_api.c and core.c. It must never know how they came (batch) or what they do (eval).
//! Tests: tests/batch.rs, tests/hooks.rs.

use super::change::Undo;
use super::expr::Expr;
use super::set::Set;
use crate::hash::FastMap;
use crate::hooks::{Attached, HookFunction};
use crate::xtables::part::RecentList;
use std::sync::Arc;

/// Address families of tables (linux/netfilter.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

impl Family {
    pub(crate) fn from_number(number: u8) -> Option<Family> {
        match number {
            1 => Some(Family::Inet),
            2 => Some(Family::Ip),
            10 => Some(Family::Ip6),
            _ => None,
        }
    }

    pub(crate) fn sees(self, ipv6: bool) -> bool {
        match self {
            Family::Inet => true,
            Family::Ip => !ipv6,
            Family::Ip6 => ipv6,
        }
    }

    /// The word nft uses.
    pub fn name(self) -> &'static str {
        match self {
            Family::Inet => "inet",
            Family::Ip => "ip",
            Family::Ip6 => "ip6",
        }
    }
}

/// Netfilter hooks, in the kernel's numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// After a packet arrived, before routing.
    Prerouting = 0,
    /// To a local process.
    Input = 1,
    /// Through this host.
    Forward = 2,
    /// From a local process.
    Output = 3,
    /// Before a packet leaves.
    Postrouting = 4,
}

impl Hook {
    /// All hooks.
    pub const ALL: [Hook; 5] =
        [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];

    /// The word nft uses.
    pub fn name(self) -> &'static str {
        ["prerouting", "input", "forward", "output", "postrouting"][self as usize]
    }
}

/// Types of base chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are nft's own")]
pub enum ChainType {
    Filter,
    Nat,
    Route,
}

/// How a base chain is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// The hook it is attached to.
    pub hook: Hook,
    /// Lower runs earlier.
    pub priority: i32,
    /// Its type.
    pub chain_type: ChainType,
    /// True: packets that reach its end are accepted; false: dropped.
    pub policy_accepts: bool,
}

#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) handle: u64,
    pub(crate) exprs: Vec<Expr>,
    pub(crate) raw: Box<[u8]>,
    pub(crate) userdata: Option<Box<[u8]>>,
    pub(crate) batch_id: Option<u32>,
}

#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) name: Arc<str>,
    pub(crate) handle: u64,
    pub(crate) base: Option<BaseChain>,
    /// When it was attached: among equal priorities the later runs first (nf_hook_entries_grow).
    pub(crate) attached: u64,
    pub(crate) rules: Vec<Rule>,
    /// Jumps and verdict elements that lead here.
    pub(crate) uses: u32,
    pub(crate) userdata: Option<Box<[u8]>>,
}

#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) family: Family,
    pub(crate) name: Arc<str>,
    pub(crate) handle: u64,
    pub(crate) dormant: bool,
    pub(crate) userdata: Option<Box<[u8]>>,
    pub(crate) chains: Slots<Chain>,
    pub(crate) sets: Slots<Set>,
    pub(crate) chain_names: FastMap<Arc<str>, u32>,
    pub(crate) set_names: FastMap<Arc<str>, u32>,
    pub(crate) last_handle: u64,
    /// How many expressions of its rules need connection tracking.
    pub(crate) trackers: u32,
}

/// Values with lasting numbers.
#[derive(Debug)]
pub(crate) struct Slots<T>(Vec<Option<T>>);

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots(Vec::new())
    }
}

impl<T> Slots<T> {
    #[inline]
    pub(crate) fn get(&self, slot: u32) -> Option<&T> {
        self.0.get(slot as usize)?.as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.0.get_mut(slot as usize)?.as_mut()
    }

    /// The number the next value will have: a hole, or a new one.
    pub(crate) fn vacant(&self) -> u32 {
        self.0.iter().position(Option::is_none).unwrap_or(self.0.len()) as u32
    }

    pub(crate) fn put(&mut self, slot: u32, value: T) {
        while self.0.len() <= slot as usize {
            self.0.push(None);
        }
        self.0[slot as usize] = Some(value);
    }

    pub(crate) fn take(&mut self, slot: u32) -> Option<T> {
        self.0.get_mut(slot as usize)?.take()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.0.iter().enumerate().filter_map(|(slot, value)| Some((slot as u32, value.as_ref()?)))
    }
}

/// All tables of a host.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) tables: Slots<Table>,
    pub(crate) generation: u32,
    pub(crate) last_table_handle: u64,
    pub(crate) last_attached: u64,
    /// Base chains came or went since `Hooks` looked.
    pub(crate) reattached: bool,
    /// A rule has named a list of recent addresses: who changes rules has to see which lists are named then.
    pub(crate) names_lists: bool,
    /// In a dry run, how to take back what rules did to sets.
    pub(crate) journal: Option<Vec<Undo>>,
}

impl Store {
    /// Nothing yet; generations are counted from 1 (nf_tables_init_net).
    pub(crate) fn new() -> Store {
        Store { generation: 1, ..Store::default() }
    }

    pub(crate) fn find(&self, family: Family, name: &str) -> Option<u32> {
        self.tables
            .iter()
            .find(|(_, table)| table.family == family && &*table.name == name)
            .map(|(slot, _)| slot)
    }

    /// The lists of recent addresses that rules name, one for each rule.
    pub(crate) fn recent_lists(&self) -> Vec<RecentList> {
        let tables = self.tables.iter().map(|(_, table)| table);
        let chains = tables.flat_map(|table| table.chains.iter().map(|(_, chain)| chain));
        let exprs = chains.flat_map(|chain| &chain.rules).flat_map(|rule| &rule.exprs);
        exprs.filter_map(Expr::recent_list).collect()
    }

    /// Does a rule need connection tracking? Such rules attach it (nf_ct_netns_get).
    pub(crate) fn wants_tracking(&self, ipv6: bool) -> bool {
        self.tables.iter().any(|(_, table)| table.family.sees(ipv6) && table.trackers > 0)
    }

    /// The base chains packets of a family meet, in no order.
    pub(crate) fn attached(&self, ipv6: bool) -> impl Iterator<Item = (Hook, ChainType, Attached)> {
        let awake =
            self.tables.iter().filter(move |(_, table)| table.family.sees(ipv6) && !table.dormant);
        awake.flat_map(|(table, held)| {
            held.chains.iter().filter_map(move |(chain, known)| {
                let base = known.base?;
                let function = HookFunction::Chain { table, chain };
                Some((
                    base.hook,
                    base.chain_type,
                    Attached { priority: base.priority, since: known.attached, function },
                ))
            })
        })
    }
}

impl Table {
    pub(crate) fn next_handle(&mut self) -> u64 {
        self.last_handle += 1;
        self.last_handle
    }

    pub(crate) fn chain_named(&self, name: &str) -> Option<u32> {
        self.chain_names.get(name).copied()
    }

    pub(crate) fn set_named(&self, name: &str) -> Option<u32> {
        self.set_names.get(name).copied()
    }
}
