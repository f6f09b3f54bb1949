//! The connection table: finds or opens the connection of a packet, moves its state, confirms it, forgets it.
//! Facts from net/netfilter/nf_conntrack_core.c. It must never know rules or routes; NAT lives in `nat`.
//! Tests: tests/conntrack.rs.

pub(crate) mod nat;
mod state;
mod tuple;

pub use state::State;
pub(crate) use state::{SECOND, Verdict};
pub use tuple::Tuple;

use crate::hash::FastMap;
use crate::packet::{Packet, Transport, flags, protocol};
use std::fmt;
use std::time::Duration;

/// Status bits of a connection (linux/netfilter/nf_conntrack_common.h).
pub mod status {
    /// A packet of the reply direction was seen.
    pub const SEEN_REPLY: u32 = 1 << 1;
    /// Never dropped early.
    pub const ASSURED: u32 = 1 << 2;
    /// The first packet has left the host.
    pub const CONFIRMED: u32 = 1 << 3;
    /// The source is translated.
    pub const SRC_NAT: u32 = 1 << 4;
    /// The destination is translated.
    pub const DST_NAT: u32 = 1 << 5;
    /// The source's translation is decided.
    pub const SRC_NAT_DONE: u32 = 1 << 7;
    /// The destination's translation is decided.
    pub const DST_NAT_DONE: u32 = 1 << 8;
    /// Removed from the table.
    pub const DYING: u32 = 1 << 9;
}

/// A connection, as read from outside.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Connection {
    /// The direction of the first packet.
    pub original: Tuple,
    /// The direction of the answers.
    pub reply: Tuple,
    /// Bits of [`status`].
    pub status: u32,
    /// The connection's mark.
    pub mark: u32,
    /// Protocol state.
    pub state: State,
    /// How long it lives if no packet comes.
    pub timeout: Duration,
}

impl fmt::Display for Connection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} {} {}s {} {}",
            self.original.protocol,
            self.state.name(),
            self.timeout.as_secs(),
            self.original,
            self.reply
        )?;
        let named = [
            (status::ASSURED, " [ASSURED]"),
            (status::SRC_NAT, " snat"),
            (status::DST_NAT, " dnat"),
        ];
        if self.status & status::SEEN_REPLY == 0 {
            out.write_str(" [UNREPLIED]")?;
        }
        named
            .iter()
            .filter(|(bit, _)| self.status & bit != 0)
            .try_for_each(|(_, text)| out.write_str(text))
    }
}

/// A connection in the table.
#[derive(Clone, Debug)]
pub(crate) struct Conn {
    pub(crate) original: Tuple,
    pub(crate) reply: Tuple,
    pub(crate) status: u32,
    pub(crate) mark: u32,
    pub(crate) state: State,
    pub(crate) expires: u64,
    pub(crate) opened: u64,
    pub(crate) masquerade_link: Option<u32>,
}

impl Conn {
    #[inline]
    pub(crate) fn tuple(&self, reply: bool) -> &Tuple {
        if reply { &self.reply } else { &self.original }
    }

    pub(crate) fn has(&self, bits: u32) -> bool {
        self.status & bits != 0
    }

    pub(crate) fn view(&self, now: u64) -> Connection {
        let timeout = Duration::from_nanos(self.expires.saturating_sub(now));
        Connection {
            original: self.original,
            reply: self.reply,
            status: self.status,
            mark: self.mark,
            state: self.state,
            timeout,
        }
    }
}

/// How a packet stands to its connection (IP_CT_ESTABLISHED, RELATED, NEW).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Established,
    Related,
    New,
}

/// A packet's connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ct {
    pub(crate) id: u32,
    pub(crate) reply: bool,
    pub(crate) standing: Standing,
}

/// The connection table of one host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tracker {
    slots: Vec<Option<Conn>>,
    free: Vec<u32>,
    index: FastMap<Tuple, (u32, bool)>,
    /// Lower bound of the next moment at which something expires.
    next_expiry: u64,
    journal: Option<Vec<(u32, Option<Box<Conn>>)>>,
}

impl Tracker {
    #[inline]
    pub(crate) fn get(&self, id: u32) -> Option<&Conn> {
        self.slots.get(id as usize)?.as_ref()
    }

    /// For a change: in a dry run the slot is remembered first.
    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut Conn> {
        self.remember(id);
        self.slots.get_mut(id as usize)?.as_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.index.len() / 2
    }

    /// Every connection in the table, in the order of the original tuples.
    pub(crate) fn all(&self, now: u64) -> Vec<Connection> {
        let live = |conn: &&Conn| {
            conn.has(status::CONFIRMED) && !conn.has(status::DYING) && conn.expires > now
        };
        let mut all: Vec<_> =
            self.slots.iter().flatten().filter(live).map(|conn| conn.view(now)).collect();
        all.sort();
        all
    }

    /// The connection of a packet as it stands, without any effect.
    pub(crate) fn peek(&self, packet: &Packet, now: u64) -> Option<&Conn> {
        let (id, _) = self.index.get(&Tuple::of(packet))?;
        self.get(*id).filter(|conn| conn.expires > now)
    }

    /// The conntrack hook: which connection the packet belongs to. Nothing: invalid or not tracked.
    pub(crate) fn admit(&mut self, packet: &Packet, now: u64, loose: bool) -> Option<Ct> {
        if packet.is_icmp_error() {
            return self.related(packet, now);
        }
        if untracked(packet) {
            return None;
        }
        let tuple = Tuple::of(packet);
        let Some((id, reply)) = self.find(&tuple, now) else {
            return self.open(packet, tuple, now, loose);
        };
        let state = self.get(id)?.state;
        match state.after(packet, reply) {
            Verdict::Invalid => return None,
            Verdict::Reopen => {
                self.kill(id);
                self.release(id);
                return self.open(packet, tuple, now, loose);
            }
            Verdict::Ignore => {}
            Verdict::Move(next, timeout) => self.advance(id, packet, (next, timeout), now),
        }
        let conn = self.get_mut(id)?;
        let standing = if reply || conn.has(status::SEEN_REPLY) {
            Standing::Established
        } else {
            Standing::New
        };
        if reply {
            conn.status |= status::SEEN_REPLY;
        }
        Some(Ct { id, reply, standing })
    }

    fn advance(&mut self, id: u32, packet: &Packet, to: (State, u64), now: u64) {
        let (next, mut timeout) = to;
        let Some(conn) = self.get_mut(id) else { return };
        let old = std::mem::replace(&mut conn.state, next);
        let replied = conn.has(status::SEEN_REPLY);
        match packet.transport {
            Transport::Tcp { flags: bits, .. } => {
                if !replied && bits & flags::RST != 0 {
                    return self.kill(id);
                }
                if !replied && next == State::Established {
                    timeout = timeout.min(300 * SECOND);
                }
                if replied
                    && matches!(old, State::SynRecv | State::Established)
                    && next == State::Established
                {
                    conn.status |= status::ASSURED;
                }
            }
            Transport::Udp { .. } if replied && now > conn.opened + 2 * SECOND => {
                timeout = 120 * SECOND;
                conn.status |= status::ASSURED;
            }
            Transport::Sctp { .. } if next == State::Established => conn.status |= status::ASSURED,
            _ => {}
        }
        conn.expires = now + timeout;
        self.next_expiry = self.next_expiry.min(now + timeout);
    }

    fn open(&mut self, packet: &Packet, tuple: Tuple, now: u64, loose: bool) -> Option<Ct> {
        let (state, timeout) = State::opening(packet, loose)?;
        let conn = Conn {
            original: tuple,
            reply: tuple.inverse(),
            status: 0,
            mark: 0,
            state,
            expires: now + timeout,
            opened: now,
            masquerade_link: None,
        };
        let id = self.free.pop().unwrap_or(self.slots.len() as u32);
        self.remember(id);
        match self.slots.get_mut(id as usize) {
            Some(slot) => *slot = Some(conn),
            None => self.slots.push(Some(conn)),
        }
        Some(Ct { id, reply: false, standing: Standing::New })
    }

    /// An ICMP error belongs to the connection whose packet it quotes (nf_conntrack_inet_error).
    fn related(&mut self, packet: &Packet, now: u64) -> Option<Ct> {
        let Transport::Icmp { inner: Some(inner), .. } = &packet.transport else { return None };
        let (id, reply) = self.find(&Tuple::of(inner).inverse(), now)?;
        let fits = self.get(id)?.tuple(reply).dst == packet.dst;
        fits.then_some(Ct { id, reply, standing: Standing::Related })
    }

    fn find(&mut self, tuple: &Tuple, now: u64) -> Option<(u32, bool)> {
        let &(id, reply) = self.index.get(tuple)?;
        if self.get(id).is_some_and(|conn| conn.expires > now) {
            return Some((id, reply));
        }
        self.kill(id);
        self.release(id);
        None
    }

    /// Is the tuple in use, by a connection other than this one?
    #[inline]
    pub(crate) fn taken(&self, tuple: &Tuple, own: u32, now: u64) -> bool {
        match self.index.get(tuple) {
            Some(&(id, _)) => id != own && self.get(id).is_some_and(|conn| conn.expires > now),
            None => false,
        }
    }

    /// The end of postrouting and input: the connection enters the table. False: another took its tuples, or the table is full.
    pub(crate) fn confirm(&mut self, id: u32, now: u64, room: usize) -> bool {
        let Some(conn) = self.get(id) else { return true };
        if conn.has(status::CONFIRMED | status::DYING) {
            return true;
        }
        let (original, reply, expires) = (conn.original, conn.reply, conn.expires);
        if self.taken(&original, id, now) || self.taken(&reply, id, now) || self.len() >= room {
            return false;
        }
        if let Some(conn) = self.get_mut(id) {
            conn.status |= status::CONFIRMED;
        }
        self.index.insert(original, (id, false));
        self.index.insert(reply, (id, true));
        self.next_expiry = self.next_expiry.min(expires);
        true
    }

    /// Takes the connection out of the table; the packet at hand may still hold it.
    pub(crate) fn kill(&mut self, id: u32) {
        let Some(conn) = self.get_mut(id) else { return };
        conn.status |= status::DYING;
        let tuples = [conn.original, conn.reply];
        for tuple in tuples {
            if self.index.get(&tuple).is_some_and(|(owner, _)| *owner == id) {
                self.index.remove(&tuple);
            }
        }
    }

    /// The packet is done: a connection that is not in the table is forgotten.
    #[inline]
    pub(crate) fn release(&mut self, id: u32) {
        let gone = |conn: &Conn| !conn.has(status::CONFIRMED) || conn.has(status::DYING);
        if self.get(id).is_some_and(gone) {
            self.remember(id);
            self.slots[id as usize] = None;
            self.free.push(id);
        }
    }

    /// Forgets what has expired.
    pub(crate) fn sweep(&mut self, now: u64) {
        if self.next_expiry > now {
            return;
        }
        self.remove_where(|conn| conn.expires <= now);
        self.next_expiry =
            self.slots.iter().flatten().map(|conn| conn.expires).min().unwrap_or(u64::MAX);
    }

    /// Removes the connections a filter names; how many went.
    pub(crate) fn remove_where(&mut self, unwanted: impl Fn(&Conn) -> bool) -> usize {
        let doomed = |(id, slot): (usize, &Option<Conn>)| {
            slot.as_ref().is_some_and(&unwanted).then_some(id as u32)
        };
        let ids: Vec<u32> = self.slots.iter().enumerate().filter_map(doomed).collect();
        for &id in &ids {
            self.kill(id);
            self.release(id);
        }
        ids.len()
    }

    /// Forgets the connection of a tuple, if there is one.
    pub(crate) fn forget(&mut self, tuple: &Tuple) {
        if let Some(&(id, _)) = self.index.get(tuple) {
            self.kill(id);
            self.release(id);
        }
    }

    /// From now on changes are noted, to be taken back.
    pub(crate) fn begin_dry(&mut self) {
        self.journal = Some(Vec::new());
    }

    /// Takes back everything since `begin_dry`.
    pub(crate) fn end_dry(&mut self) {
        let Some(journal) = self.journal.take() else { return };
        for (id, before) in journal.into_iter().rev() {
            self.kill(id);
            if id as usize == self.slots.len() {
                continue;
            }
            if let Some(conn) = before
                .as_ref()
                .filter(|conn| conn.has(status::CONFIRMED) && !conn.has(status::DYING))
            {
                self.index.insert(conn.original, (id, false));
                self.index.insert(conn.reply, (id, true));
            }
            let now_held =
                std::mem::replace(&mut self.slots[id as usize], before.map(|conn| *conn)).is_some();
            match (now_held, self.slots[id as usize].is_some()) {
                (true, false) => self.free.push(id),
                (false, true) => drop(
                    self.free
                        .iter()
                        .rposition(|known| *known == id)
                        .map(|place| self.free.remove(place)),
                ),
                _ => {}
            }
        }
    }

    fn remember(&mut self, id: u32) {
        if let Some(journal) = &mut self.journal {
            let before = self.slots.get(id as usize).and_then(|slot| slot.clone().map(Box::new));
            journal.push((id, before));
        }
    }
}

/// Neighbour discovery is never tracked (nf_conntrack_proto_icmpv6.c).
fn untracked(packet: &Packet) -> bool {
    let discovery = matches!(packet.transport, Transport::Icmp { kind: 130..=137 | 143, .. });
    discovery && packet.protocol() == protocol::ICMPV6
}
