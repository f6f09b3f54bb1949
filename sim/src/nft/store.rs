//! Tables, chains and rules as they stand, and the order in which base chains see packets.
//! Facts from net/netfilter/nf_tables_api.c and core.c. It must never know how they came (batch) or what they do (eval).
//! Tests: tests/batch.rs, tests/hooks.rs.

use super::change::Undo;
use super::expr::Expr;
use super::set::Set;
use crate::hash::FastMap;
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
    pub const ALL: [Hook; 5] = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];

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

/// A base chain in the order of a hook.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attached {
    pub(crate) priority: i32,
    pub(crate) attached: u64,
    pub(crate) table: u32,
    pub(crate) chain: u32,
}

/// The base chains of one hook and family.
#[derive(Clone, Debug, Default)]
pub(crate) struct HookChains {
    /// Filter and route chains.
    pub(crate) filter: Vec<Attached>,
    /// NAT chains; they run where the NAT core is attached, whatever their priorities.
    pub(crate) nat: Vec<Attached>,
}

/// All tables of a host.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) tables: Slots<Table>,
    pub(crate) generation: u32,
    pub(crate) last_table_handle: u64,
    pub(crate) last_attached: u64,
    hooks: [[HookChains; 5]; 2],
    /// When the NAT core was attached, for each family.
    nat_since: [Option<u64>; 2],
    /// When connection tracking was attached, for each family: rules that need it attach it (nf_ct_netns_get).
    tracked_since: [Option<u64>; 2],
    /// In a dry run, how to take back what rules did to sets.
    pub(crate) journal: Option<Vec<Undo>>,
}

impl Store {
    pub(crate) fn find(&self, family: Family, name: &str) -> Option<u32> {
        self.tables.iter().find(|(_, table)| table.family == family && &*table.name == name).map(|(slot, _)| slot)
    }

    #[inline]
    pub(crate) fn hook(&self, ipv6: bool, hook: Hook) -> &HookChains {
        &self.hooks[usize::from(ipv6)][hook as usize]
    }

    /// Is there NAT for the family, and since when?
    #[inline]
    pub(crate) fn nat_since(&self, ipv6: bool) -> Option<u64> {
        self.nat_since[usize::from(ipv6)]
    }

    /// Is there connection tracking for the family, and since when?
    #[inline]
    pub(crate) fn tracked_since(&self, ipv6: bool) -> Option<u64> {
        self.tracked_since[usize::from(ipv6)]
    }

    /// Attaches or detaches connection tracking, after a batch.
    pub(crate) fn attach_tracking(&mut self) {
        for ipv6 in [false, true] {
            let wanted = self.tables.iter().any(|(_, table)| table.family.sees(ipv6) && table.trackers > 0);
            let slot = &mut self.tracked_since[usize::from(ipv6)];
            if wanted && slot.is_none() {
                self.last_attached += 1;
                *slot = Some(self.last_attached);
            } else if !wanted {
                *slot = None;
            }
        }
    }

    /// Orders the base chains anew, after a batch that added or removed some.
    pub(crate) fn attach(&mut self) {
        for ipv6 in [false, true] {
            let mut hooks: [HookChains; 5] = Default::default();
            for (table, held) in self.tables.iter().filter(|(_, table)| table.family.sees(ipv6) && !table.dormant) {
                for (chain, known) in held.chains.iter() {
                    let Some(base) = known.base else { continue };
                    let here = Attached { priority: base.priority, attached: known.attached, table, chain };
                    let chains = &mut hooks[base.hook as usize];
                    if base.chain_type == ChainType::Nat { chains.nat.push(here) } else { chains.filter.push(here) }
                }
            }
            for chains in &mut hooks {
                let order = |one: &Attached| (one.priority, std::cmp::Reverse(one.attached));
                chains.filter.sort_by_key(order);
                chains.nat.sort_by_key(order);
            }
            let since = hooks.iter().flat_map(|chains| &chains.nat).map(|one| one.attached).min();
            // NAT stays where it was first attached as long as any NAT chain is left.
            let slot = &mut self.nat_since[usize::from(ipv6)];
            *slot = since.map(|since| slot.map_or(since, |known| known.min(since)));
            self.hooks[usize::from(ipv6)] = hooks;
        }
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
