//! Which functions stand at each hook of a host, in the order in which packets meet them: by priority, and of equals the one
//! registered later first (nf_hook_entries_grow). Base chains, connection tracking, the NAT core and other facilities stand
//! in one list; functions that look up translations stand in the NAT core's own list (nf_nat_register_fn), for every facility.
//! It must never run anything (that is `path`). Tests: below and tests/hooks.rs.

use crate::facilities::Facility;
use crate::nft::{ChainType, Hook, Store};
use std::cmp::Reverse;

/// What stands at a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HookFunction {
    /// A base chain of nf_tables.
    Chain { table: u32, chain: u32 },
    /// Connection tracking: finds or opens the connection.
    Conntrack,
    /// The NAT core: asks its lookups for a new connection, then rewrites.
    Nat,
    /// The connection enters the table.
    Confirm,
    /// Function of another facility, by the facility's own number.
    Other(Facility, u16),
}

/// A function with its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attached {
    pub(crate) priority: i32,
    /// When it was registered.
    pub(crate) since: u64,
    pub(crate) function: HookFunction,
}

/// A hook of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) ipv6: bool,
    pub(crate) hook: Hook,
}

/// Is a function called at its hook, or by the NAT core there?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "facilities beside nf_tables use it")]
pub(crate) enum List {
    Hook,
    /// It looks up translations for the NAT core.
    Nat,
}

#[derive(Clone, Debug, Default)]
struct Order {
    hook: Vec<Attached>,
    nat: Vec<Attached>,
}

/// Everything that stands at the hooks of one host.
#[derive(Default)]
pub(crate) struct Hooks {
    clock: u64,
    others: Vec<(At, List, Attached)>,
    /// How many users beside nf_tables need connection tracking, for each family.
    trackers: [u32; 2],
    tracked_since: [Option<u64>; 2],
    nat_since: [Option<u64>; 2],
    orders: [[Order; 5]; 2],
}

#[allow(dead_code, reason = "facilities beside nf_tables use it")]
impl Hooks {
    /// Registers a function of a facility beside nf_tables. `order` must follow.
    pub(crate) fn register(
        &mut self,
        at: At,
        list: List,
        priority: i32,
        function: (Facility, u16),
    ) {
        self.clock += 1;
        let function = HookFunction::Other(function.0, function.1);
        self.others.push((at, list, Attached { priority, since: self.clock, function }));
    }

    /// Takes a facility's functions of one family away. `order` must follow.
    pub(crate) fn unregister(
        &mut self,
        ipv6: bool,
        facility: Facility,
        gone: impl Fn(u16) -> bool,
    ) {
        let stays = |one: &(At, List, Attached)| match one.2.function {
            HookFunction::Other(owner, number) => {
                owner != facility || one.0.ipv6 != ipv6 || !gone(number)
            }
            _ => true,
        };
        self.others.retain(stays);
    }

    /// One more user of connection tracking (nf_ct_netns_get). `order` must follow.
    pub(crate) fn need_tracking(&mut self, ipv6: bool) {
        self.trackers[usize::from(ipv6)] += 1;
    }

    /// One user less (nf_ct_netns_put). `order` must follow.
    pub(crate) fn need_tracking_no_more(&mut self, ipv6: bool) {
        let count = &mut self.trackers[usize::from(ipv6)];
        *count = count.saturating_sub(1);
    }
}

impl Hooks {
    /// The functions at a hook.
    #[inline]
    pub(crate) fn at(&self, ipv6: bool, hook: Hook) -> &[Attached] {
        &self.orders[usize::from(ipv6)][hook as usize].hook
    }

    /// The functions the NAT core asks at a hook.
    #[inline]
    pub(crate) fn nat(&self, ipv6: bool, hook: Hook) -> &[Attached] {
        &self.orders[usize::from(ipv6)][hook as usize].nat
    }

    /// The moment of the last registration, which nf_tables counts on from.
    pub(crate) fn clock(&self) -> u64 {
        self.clock
    }

    /// After a batch: orders anew if base chains, or the need of connection tracking, have changed.
    pub(crate) fn follow(&mut self, store: &mut Store) {
        self.clock = self.clock.max(store.last_attached);
        let moved = std::mem::take(&mut store.reattached);
        if moved
            || [false, true].iter().any(|&ipv6| {
                self.wants_tracking(store, ipv6) != self.tracked_since[usize::from(ipv6)].is_some()
            })
        {
            self.order(store);
        }
    }

    fn wants_tracking(&self, store: &Store, ipv6: bool) -> bool {
        self.trackers[usize::from(ipv6)] > 0 || store.wants_tracking(ipv6)
    }

    /// Orders everything anew.
    pub(crate) fn order(&mut self, store: &Store) {
        for ipv6 in [false, true] {
            let mut orders: [Order; 5] = Default::default();
            for (hook, chain_type, attached) in store.attached(ipv6) {
                let order = &mut orders[hook as usize];
                if chain_type == ChainType::Nat {
                    order.nat.push(attached)
                } else {
                    order.hook.push(attached)
                }
            }
            for (at, list, attached) in self.others.iter().filter(|(at, ..)| at.ipv6 == ipv6) {
                let order = &mut orders[at.hook as usize];
                if *list == List::Nat {
                    order.nat.push(*attached)
                } else {
                    order.hook.push(*attached)
                }
            }
            self.add_core(store, ipv6, &mut orders);
            for order in &mut orders {
                order.hook.sort_by_key(|one| (one.priority, Reverse(one.since)));
                order.nat.sort_by_key(|one| (one.priority, Reverse(one.since)));
            }
            self.orders[usize::from(ipv6)] = orders;
        }
    }

    /// Connection tracking and the NAT core, at their own priorities (nf_conntrack_proto.c, nf_nat_proto.c).
    fn add_core(&mut self, store: &Store, ipv6: bool, orders: &mut [Order; 5]) {
        let family = usize::from(ipv6);
        let first = orders.iter().flat_map(|order| &order.nat).map(|one| one.since).min();
        // NAT stays where it was first attached as long as any lookup is left.
        self.nat_since[family] =
            first.map(|first| self.nat_since[family].map_or(first, |known| known.min(first)));
        self.tracked_since[family] =
            match (self.wants_tracking(store, ipv6), self.tracked_since[family]) {
                (true, None) => {
                    self.clock += 1;
                    Some(self.clock)
                }
                (true, known) => known,
                (false, _) => None,
            };
        let mut put = |hook: Hook, since: Option<u64>, priority: i32, function: HookFunction| {
            let attached = since.map(|since| Attached { priority, since, function });
            orders[hook as usize].hook.extend(attached);
        };
        for hook in [Hook::Prerouting, Hook::Output] {
            put(hook, self.tracked_since[family], -200, HookFunction::Conntrack);
            put(hook, self.nat_since[family], -100, HookFunction::Nat);
        }
        for hook in [Hook::Input, Hook::Postrouting] {
            put(hook, self.nat_since[family], 100, HookFunction::Nat);
            put(hook, self.tracked_since[family], i32::MAX, HookFunction::Confirm);
        }
    }
}
