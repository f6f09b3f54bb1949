//! The connection table: finds or opens the connection of a packet, moves its state, confirms it, forgets it.
//! Facts from net/netfilter/nf_conntrack_core.c. It must never know rules or routes; NAT lives in `nat`.
//! Tests: tests/conntrack.rs.

mod adopt;
mod confirm;
mod connection;
pub(crate) mod nat;
mod state;
mod timers;
mod tuple;

pub(crate) use confirm::Entering;
pub use connection::{Connection, status};
use state::History;
pub use state::State;
pub(crate) use state::{SECOND, Verdict};
pub use timers::Timers;
pub use tuple::Tuple;

use crate::hash::FastMap;
use crate::packet::{Packet, Transport, flags, protocol};
use crate::sysctls::Sysctls;
use std::fmt;
use std::time::Duration;

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
    /// In which order sources were bound; the youngest mapping is found first.
    pub(crate) bound: u64,
    pub(crate) history: History,
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

/// The source end of a connection's first packet: address, port, protocol.
type Source = (std::net::IpAddr, u16, u8);

/// What connection tracking makes of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Admission {
    Tracked(Ct),
    /// It fits no connection and opens none.
    Invalid,
    /// It is never tracked.
    Untracked,
    /// The table is full: the packet is dropped.
    Full,
}

/// A packet's connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ct {
    pub(crate) id: u32,
    pub(crate) reply: bool,
    pub(crate) standing: Standing,
}

impl fmt::Display for Admission {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Admission::Tracked(ct) if ct.reply => write!(out, "{:?}, reply", ct.standing),
            Admission::Tracked(ct) => write!(out, "{:?}", ct.standing),
            Admission::Invalid => out.write_str("invalid"),
            Admission::Untracked => out.write_str("not tracked"),
            Admission::Full => out.write_str("the table is full"),
        }
    }
}

/// The connection table of one host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tracker {
    slots: Vec<Option<Conn>>,
    free: Vec<u32>,
    index: FastMap<Tuple, (u32, bool)>,
    /// Connections with a translated source, by that source; the youngest last (nf_nat_bysource).
    by_source: FastMap<Source, Vec<u32>>,
    last_bound: u64,
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
            let listed =
                conn.has(status::CONFIRMED) && !conn.has(status::DYING | status::NAT_CLASH);
            listed && conn.expires > now
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

    /// The conntrack hook: which connection the packet belongs to (nf_conntrack_in).
    pub(crate) fn admit(&mut self, packet: &Packet, now: u64, sysctls: &Sysctls) -> Admission {
        if packet.is_icmp_error() {
            return self.related(packet, now).map_or(Admission::Invalid, Admission::Tracked);
        }
        if untracked(packet) {
            return Admission::Untracked;
        }
        let tuple = Tuple::of(packet);
        let Some((id, reply)) = self.find(&tuple, now) else {
            return self.open(packet, tuple, now, sysctls);
        };
        let Some(conn) = self.get(id) else { return Admission::Invalid };
        let history = conn.history;
        let outside = packet.out_of_window && packet.protocol() == protocol::TCP
            || history.premature(packet, reply);
        let verdict = match history.fits(packet, reply) {
            true => conn.state.after(packet, reply, &sysctls.timers),
            false => Verdict::Invalid,
        };
        let verdict = match verdict {
            Verdict::Ignore if history.in_step(packet, reply) => {
                Verdict::Move(State::SynRecv, sysctls.timers.tcp(State::SynRecv))
            }
            other => other,
        };
        match verdict {
            Verdict::Invalid => return Admission::Invalid,
            Verdict::Reopen if history.reopens(reply) => {
                self.kill(id);
                self.release(id);
                return self.open(packet, tuple, now, sysctls);
            }
            Verdict::Ignore | Verdict::Reopen => {}
            Verdict::Move(..) if outside && !sysctls.nf_conntrack_tcp_be_liberal => {
                return Admission::Invalid;
            }
            Verdict::Move(next, timeout) => {
                self.advance(id, packet, (next, timeout), (now, &sysctls.timers));
            }
        }
        let Some(conn) = self.get_mut(id) else { return Admission::Invalid };
        if matches!(verdict, Verdict::Move(..)) {
            conn.history.moved(reply);
        }
        conn.history.note(packet, reply, conn.state);
        let seen = conn.has(status::SEEN_REPLY);
        let standing = if reply || seen { Standing::Established } else { Standing::New };
        if reply {
            conn.status |= status::SEEN_REPLY;
        }
        Admission::Tracked(Ct { id, reply, standing })
    }

    fn advance(&mut self, id: u32, packet: &Packet, to: (State, u64), clock: (u64, &Timers)) {
        let (now, timers) = clock;
        let (next, mut timeout) = to;
        let Some(conn) = self.get_mut(id) else { return };
        let old = std::mem::replace(&mut conn.state, next);
        let replied = conn.has(status::SEEN_REPLY);
        match packet.transport {
            Transport::Tcp { flags: bits, .. } => {
                if !replied && bits & flags::RST != 0 {
                    return self.kill(id);
                }
                if bits & flags::RST != 0 {
                    timeout = timers.tcp(State::Close);
                }
                // A SYN that is sent again lives no longer.
                if !replied && old == State::SynSent && next == State::SynSent {
                    return;
                }
                if !replied && next == State::Established {
                    timeout = timeout.min(timers.unacknowledged());
                }
                if replied
                    && matches!(old, State::SynRecv | State::Established)
                    && next == State::Established
                {
                    conn.status |= status::ASSURED;
                }
            }
            Transport::Udp { .. } if replied && now > conn.opened + 2 * SECOND => {
                timeout = timers.udp_stream();
                if !conn.has(status::NAT_CLASH) {
                    conn.status |= status::ASSURED;
                }
            }
            Transport::Sctp { .. } if next == State::Established => conn.status |= status::ASSURED,
            _ => {}
        }
        if conn.has(status::FIXED_TIMEOUT) {
            return;
        }
        conn.expires = now + timeout;
        self.next_expiry = self.next_expiry.min(now + timeout);
    }

    /// A connection in the table counts as closed, since a reset was sent in its name.
    pub(crate) fn close(&mut self, id: u32, now: u64, timers: &Timers) {
        let timeout = timers.tcp(State::Close);
        let Some(conn) = self.get_mut(id).filter(|conn| conn.has(status::CONFIRMED)) else {
            return;
        };
        if std::mem::replace(&mut conn.state, State::Close) != State::Close {
            conn.expires = now + timeout;
            self.next_expiry = self.next_expiry.min(now + timeout);
        }
    }

    fn open(&mut self, packet: &Packet, tuple: Tuple, now: u64, sysctls: &Sysctls) -> Admission {
        let opening = State::opening(packet, sysctls.nf_conntrack_tcp_loose, &sysctls.timers);
        let Some((state, timeout)) = opening else { return Admission::Invalid };
        if sysctls.nf_conntrack_max != 0 && self.len() >= sysctls.nf_conntrack_max {
            return Admission::Full;
        }
        let conn = Conn {
            original: tuple,
            reply: tuple.inverse(),
            status: 0,
            mark: 0,
            state,
            expires: now + timeout,
            opened: now,
            masquerade_link: None,
            bound: 0,
            history: History::begun(packet, state),
        };
        let id = self.free.pop().unwrap_or(self.slots.len() as u32);
        self.remember(id);
        match self.slots.get_mut(id as usize) {
            Some(slot) => *slot = Some(conn),
            None => self.slots.push(Some(conn)),
        }
        Admission::Tracked(Ct { id, reply: false, standing: Standing::New })
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

    /// Takes the connection out of the table; the packet at hand may still hold it.
    pub(crate) fn kill(&mut self, id: u32) {
        let Some(conn) = self.get_mut(id) else { return };
        conn.status |= status::DYING;
        let tuples = [conn.original, conn.reply];
        if conn.has(status::SRC_NAT)
            && let Some(held) = self.by_source.get_mut(&source(&tuples[0]))
        {
            held.retain(|one| *one != id);
            if held.is_empty() {
                self.by_source.remove(&source(&tuples[0]));
            }
        }
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
            let in_table = before
                .as_ref()
                .is_some_and(|conn| conn.has(status::CONFIRMED) && !conn.has(status::DYING));
            let slot = &mut self.slots[id as usize];
            let held = std::mem::replace(slot, before.map(|conn| *conn)).is_some();
            match (held, self.slots[id as usize].is_some()) {
                (true, false) => self.free.push(id),
                (false, true) => {
                    let place = self.free.iter().rposition(|known| *known == id);
                    place.map(|place| self.free.remove(place));
                }
                _ => {}
            }
            if in_table {
                self.enter(id);
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

fn source(original: &Tuple) -> Source {
    (original.src, original.sport, original.protocol)
}

/// Neighbour discovery is never tracked (nf_conntrack_proto_icmpv6.c).
fn untracked(packet: &Packet) -> bool {
    let discovery = matches!(packet.transport, Transport::Icmp { kind: 130..=136 | 143, .. });
    discovery && packet.protocol() == protocol::ICMPV6
}
