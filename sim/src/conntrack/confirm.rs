//! How a connection enters the table at the end of its first packet's way, and what happens where another, of a packet that
//! was faster, has its tuples (nf_conntrack_tuple_taken, __nf_conntrack_confirm, nf_ct_resolve_clash).
//! It must never know packets. Tests: tests/clash.rs, tests/conntrack.rs.

use super::{SECOND, Tracker, Tuple, source, status};
use crate::packet::protocol;

/// What becomes of a connection that would enter the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entering {
    /// It is in, or it was before.
    Done,
    /// It is the same as this one, which its packet belongs to from now on.
    Merged(u32),
    /// Another has its tuples: the packet is dropped.
    Refused,
}

impl Tracker {
    /// Would NAT have to choose another tuple? Not where a connection of the same first direction has it: that is another packet
    /// of this flow, and the end of the way sees to it.
    #[inline]
    pub(crate) fn taken(&self, tuple: &Tuple, own: u32, now: u64) -> bool {
        let Some(holder) = self.holder(tuple, own, now) else { return false };
        let original = |id: u32| self.get(id).map(|conn| conn.original);
        original(holder) != original(own)
    }

    /// The connection, other than this one, that has the tuple.
    #[inline]
    fn holder(&self, tuple: &Tuple, own: u32, now: u64) -> Option<u32> {
        let &(id, _) = self.index.get(tuple)?;
        (id != own && self.get(id).is_some_and(|conn| conn.expires > now)).then_some(id)
    }

    /// The end of postrouting and input: the connection enters the table.
    pub(crate) fn confirm(&mut self, id: u32, now: u64) -> Entering {
        let Some(conn) = self.get(id) else { return Entering::Done };
        if conn.has(status::CONFIRMED | status::DYING) {
            return Entering::Done;
        }
        let (original, reply, expires) = (conn.original, conn.reply, conn.expires);
        let holder = self.holder(&original, id, now).or_else(|| self.holder(&reply, id, now));
        if let Some(holder) = holder {
            return self.resolve(id, holder, now);
        }
        if let Some(conn) = self.get_mut(id) {
            conn.status |= status::CONFIRMED;
        }
        self.enter(id);
        self.next_expiry = self.next_expiry.min(expires);
        Entering::Done
    }

    /// Two connections of one flow: they become one if they are the same in both directions; else the slower one is
    /// kept for a second, for its answers only. Protocols that know an order of packets have no such mercy.
    fn resolve(&mut self, id: u32, holder: u32, now: u64) -> Entering {
        let Some(loser) = self.get(id) else { return Entering::Refused };
        let ordered = [protocol::TCP, protocol::SCTP, protocol::ICMP, protocol::ICMPV6]
            .contains(&loser.original.protocol);
        if ordered {
            return Entering::Refused;
        }
        let reply = loser.reply;
        if self.are_one(id, holder) {
            return Entering::Merged(holder);
        }
        if let Some(other) = self.holder(&reply, id, now) {
            return if self.are_one(id, other) {
                Entering::Merged(other)
            } else {
                Entering::Refused
            };
        }
        if let Some(loser) = self.get_mut(id) {
            loser.status |= status::CONFIRMED | status::FIXED_TIMEOUT | status::NAT_CLASH;
            loser.expires = now + SECOND;
        }
        self.enter(id);
        self.next_expiry = self.next_expiry.min(now + SECOND);
        Entering::Done
    }

    /// Whether packets of one may belong to the other: nobody translates the other, or both are translated alike.
    fn are_one(&self, id: u32, holder: u32) -> bool {
        let (Some(loser), Some(winner)) = (self.get(id), self.get(holder)) else { return false };
        let translated = winner.has(status::SRC_NAT_DONE | status::DST_NAT_DONE);
        let alike = (winner.original, winner.reply) == (loser.original, loser.reply);
        !winner.has(status::DYING) && (!translated || alike)
    }

    /// Puts a connection's tuples and its mapping where they are found.
    pub(super) fn enter(&mut self, id: u32) {
        let Some(conn) = self.get(id) else { return };
        let (original, reply, bound) = (conn.original, conn.reply, conn.bound);
        let (mapped, hidden) = (conn.has(status::SRC_NAT), conn.has(status::NAT_CLASH));
        if !hidden {
            self.index.insert(original, (id, false));
        }
        self.index.insert(reply, (id, true));
        if mapped {
            let mut held = self.by_source.remove(&source(&original)).unwrap_or_default();
            let older = |one: &u32| self.get(*one).is_some_and(|conn| conn.bound < bound);
            let place = held.iter().take_while(|one| older(one)).count();
            held.insert(place, id);
            self.by_source.insert(source(&original), held);
        }
    }
}
