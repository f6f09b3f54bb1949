//! What each protocol makes of a packet in a connection: new states, timeouts, or "invalid".
//! Facts from net/netfilter/nf_conntrack_proto_{tcp,udp,sctp,icmp,icmpv6}.c; sequence numbers are not modelled.
//! It must never know addresses, rules or NAT. Tests: tests/conntrack.rs.

use crate::packet::{Packet, Transport, flags};

/// One second in the unit of the clock.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// A connection's protocol state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// No packet taken yet.
    None,
    /// TCP: SYN seen.
    SynSent,
    /// TCP: SYN seen from both ends.
    SynSent2,
    /// TCP: SYN-ACK seen.
    SynRecv,
    /// TCP or SCTP: open.
    Established,
    /// TCP: the first FIN was seen.
    FinWait,
    /// TCP: the first FIN was acknowledged.
    CloseWait,
    /// TCP: the second FIN was seen.
    LastAck,
    /// TCP: both ends closed.
    TimeWait,
    /// TCP or SCTP: reset or closed.
    Close,
    /// SCTP: INIT seen.
    CookieWait,
    /// SCTP: COOKIE ECHO seen.
    CookieEchoed,
    /// SCTP: shutting down.
    Shutdown,
    /// SCTP: heartbeat of an unknown association.
    HeartbeatSent,
    /// UDP, ICMP and others: there is only one state.
    Stateless,
}

/// What becomes of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It belongs to the connection, which now has this state and lives this much longer.
    Move(State, u64),
    /// It belongs to the connection and changes nothing.
    Ignore,
    /// It does not fit: the packet goes on without a connection.
    Invalid,
    /// The old connection is over: forget it and look again.
    Reopen,
}

use State::{
    Close, CloseWait, Established, FinWait, LastAck, SynRecv, SynSent, SynSent2, TimeWait,
};

impl State {
    /// The state a first packet makes, or nothing when it may not open a connection.
    pub(crate) fn opening(packet: &Packet, loose: bool) -> Option<(State, u64)> {
        match packet.transport {
            Transport::Tcp { flags: bits, .. } => match Segment::of(bits)? {
                Segment::Syn => Some((SynSent, tcp_timeout(SynSent))),
                Segment::Ack if loose => Some((Established, 300 * SECOND)),
                _ => None,
            },
            Transport::Udp { .. } => Some((State::Stateless, 30 * SECOND)),
            Transport::Sctp { chunk, .. } => sctp_opening(chunk),
            Transport::Icmp { kind, .. } if packet.dst.is_ipv4() => {
                matches!(kind, 8 | 13 | 15 | 17).then_some((State::Stateless, 30 * SECOND))
            }
            Transport::Icmp { kind, .. } => {
                matches!(kind, 128 | 139).then_some((State::Stateless, 30 * SECOND))
            }
            Transport::Other(_) => Some((State::Stateless, 600 * SECOND)),
        }
    }

    /// What a further packet does, in the original or the reply direction.
    pub(crate) fn after(self, packet: &Packet, reply: bool) -> Verdict {
        match packet.transport {
            Transport::Tcp { flags: bits, .. } => match Segment::of(bits) {
                Some(segment) => self.after_segment(segment, reply),
                None => Verdict::Invalid,
            },
            Transport::Sctp { chunk, .. } => self.after_chunk(chunk, reply),
            Transport::Udp { .. } | Transport::Icmp { .. } => Verdict::Move(self, 30 * SECOND),
            Transport::Other(_) => Verdict::Move(self, 600 * SECOND),
        }
    }

    fn after_segment(self, segment: Segment, reply: bool) -> Verdict {
        let next = match (segment, reply) {
            (Segment::Syn, false) => match self {
                SynSent => SynSent,
                SynSent2 => SynSent2,
                TimeWait | Close => return Verdict::Reopen,
                _ => return Verdict::Ignore,
            },
            (Segment::Syn, true) => match self {
                SynSent | SynSent2 => SynSent2,
                TimeWait => return Verdict::Reopen,
                _ => return Verdict::Invalid,
            },
            (Segment::SynAck, false) => match self {
                SynRecv | SynSent2 => SynRecv,
                _ => return Verdict::Invalid,
            },
            (Segment::SynAck, true) => match self {
                SynSent | SynSent2 => SynRecv,
                _ => return Verdict::Ignore,
            },
            (Segment::Fin, _) => match self {
                SynRecv | Established => FinWait,
                FinWait | CloseWait | LastAck => LastAck,
                TimeWait => TimeWait,
                Close => Close,
                _ => return Verdict::Invalid,
            },
            (Segment::Ack, _) => match self {
                SynSent | SynSent2 if reply => return Verdict::Ignore,
                SynSent | SynSent2 => return Verdict::Invalid,
                SynRecv if reply => SynRecv,
                SynRecv | Established => Established,
                FinWait | CloseWait => CloseWait,
                LastAck | TimeWait => TimeWait,
                Close => Close,
                _ => return Verdict::Invalid,
            },
            (Segment::Rst, _) => Close,
        };
        Verdict::Move(next, tcp_timeout(next))
    }

    fn after_chunk(self, chunk: u8, reply: bool) -> Verdict {
        use State::{CookieEchoed, CookieWait, HeartbeatSent, Shutdown};
        let next = match (chunk, self) {
            (1, CookieWait | Close | HeartbeatSent) => CookieWait,
            (2, CookieWait) if reply => CookieWait,
            (6, _) => Close,
            (7, Established | Shutdown) => Shutdown,
            (8, Shutdown) => Shutdown,
            (14, Shutdown) => Close,
            (10, CookieWait | CookieEchoed) => CookieEchoed,
            (11, CookieEchoed) if reply => Established,
            (5, HeartbeatSent) if reply => Established,
            (_, state) => state,
        };
        Verdict::Move(next, sctp_timeout(next))
    }

    /// A short name, as the conntrack tool prints it.
    pub fn name(self) -> &'static str {
        match self {
            State::None => "NONE",
            State::SynSent => "SYN_SENT",
            State::SynSent2 => "SYN_SENT2",
            State::SynRecv => "SYN_RECV",
            State::Established => "ESTABLISHED",
            State::FinWait => "FIN_WAIT",
            State::CloseWait => "CLOSE_WAIT",
            State::LastAck => "LAST_ACK",
            State::TimeWait => "TIME_WAIT",
            State::Close => "CLOSE",
            State::CookieWait => "COOKIE_WAIT",
            State::CookieEchoed => "COOKIE_ECHOED",
            State::Shutdown => "SHUTDOWN_SENT",
            State::HeartbeatSent => "HEARTBEAT_SENT",
            State::Stateless => "-",
        }
    }
}

/// The kinds of TCP segment the state table distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Segment {
    Syn,
    SynAck,
    Fin,
    Ack,
    Rst,
}

impl Segment {
    /// Nothing for combinations that no sane end sends.
    fn of(bits: u8) -> Option<Segment> {
        match bits & (flags::SYN | flags::ACK | flags::FIN | flags::RST) {
            flags::SYN => Some(Segment::Syn),
            bits if bits == flags::SYN | flags::ACK => Some(Segment::SynAck),
            bits if bits & !flags::ACK == flags::RST => Some(Segment::Rst),
            bits if bits == flags::FIN | flags::ACK => Some(Segment::Fin),
            flags::ACK => Some(Segment::Ack),
            _ => None,
        }
    }
}

/// Seconds of tcp_timeouts.
fn tcp_timeout(state: State) -> u64 {
    let seconds = match state {
        SynRecv | CloseWait => 60,
        Established => 432_000,
        LastAck => 30,
        Close => 10,
        _ => 120,
    };
    seconds * SECOND
}

/// Seconds of sctp_timeouts.
fn sctp_timeout(state: State) -> u64 {
    let seconds = match state {
        State::CookieWait | State::CookieEchoed | State::Shutdown => 3,
        Established => 210,
        State::HeartbeatSent => 30,
        _ => 10,
    };
    seconds * SECOND
}

fn sctp_opening(chunk: u8) -> Option<(State, u64)> {
    let state = match chunk {
        1 => State::CookieWait,
        4 => State::HeartbeatSent,
        2 | 6 | 7 | 8 | 9 | 10 | 11 | 14 => Close,
        _ => return None,
    };
    Some((state, sctp_timeout(state)))
}
