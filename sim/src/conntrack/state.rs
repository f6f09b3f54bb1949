//! What each protocol makes of a packet in a connection: new states, timeouts, or "invalid".
//! Facts from net/netfilter/nf_conntrack_proto_{tcp,udp,sctp,icmp,icmpv6}.c; sequence numbers are not modelled.
//! It must never know addresses, rules or NAT. Tests: tests/conntrack.rs.

use super::timers::Timers;
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
    /// SCTP: the opener shuts down.
    ShutdownSent,
    /// SCTP: the other end shuts down.
    ShutdownReceived,
    /// SCTP: a shutdown was acknowledged.
    ShutdownAckSent,
    /// SCTP: heartbeat of an unknown association.
    HeartbeatSent,
    /// UDP, ICMP and others: there is only one state.
    Stateless,
}

/// What a connection remembers of its packets beside the state.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct History {
    /// TCP: an end closed in good order (IP_CT_TCP_FLAG_CLOSE_INIT).
    closing: bool,
    /// TCP: the kind of the last packet that was taken, and whether it was of the reply direction.
    last: Option<(Segment, bool)>,
    /// TCP: it was opened by a SYN, so that what either end may acknowledge is known.
    opened: bool,
    /// TCP: a packet of the other end moved the state, so that what it sent is known.
    answered: bool,
    /// SCTP: the tag the opener must use was seen; before that only few chunks of it fit.
    tagged: bool,
}

impl History {
    /// May a SYN open the connection anew? Only after a good end, or after a reset by the same end.
    pub(crate) fn reopens(self, reply: bool) -> bool {
        self.closing || self.last == Some((Segment::Rst, reply))
    }

    /// Does an SCTP packet's tag fit? (Senders are taken to be honest: they use the tag as soon as there is one.)
    pub(crate) fn fits(self, packet: &Packet, reply: bool) -> bool {
        match packet.transport {
            Transport::Sctp { chunk, .. } => reply || self.tagged || matches!(chunk, 1 | 4 | 5 | 8),
            _ => true,
        }
    }

    /// TCP: does it acknowledge what the other end never sent? (tcp_in_window; elsewhere the state alone says so.)
    pub(crate) fn premature(self, packet: &Packet, reply: bool) -> bool {
        let Transport::Tcp { flags: bits, .. } = packet.transport else { return false };
        let answered = reply || self.answered || !self.opened;
        !answered && bits & (flags::ACK | flags::RST) == flags::ACK
    }

    /// Does it answer a SYN that was ignored? Then both ends are in step, and the table was not
    /// (TCP_CONNTRACK_IGNORE in nf_conntrack_tcp_packet; it must acknowledge just that SYN).
    pub(crate) fn in_step(self, packet: &Packet, reply: bool) -> bool {
        let Transport::Tcp { flags: bits, .. } = packet.transport else { return false };
        let answers = Segment::of(bits) == Some(Segment::SynAck) && !packet.out_of_window;
        answers && self.last == Some((Segment::Syn, !reply))
    }

    /// A packet moved the state.
    pub(crate) fn moved(&mut self, reply: bool) {
        self.answered |= reply;
    }

    /// What the first packet of a connection tells.
    pub(crate) fn begun(packet: &Packet, state: State) -> History {
        let mut history = History { opened: state == SynSent, ..History::default() };
        history.note(packet, false, state);
        history
    }

    /// The packet was taken, and the connection is in this state now.
    pub(crate) fn note(&mut self, packet: &Packet, reply: bool, now: State) {
        match packet.transport {
            Transport::Tcp { flags: bits, .. } => {
                self.closing |= now == FinWait;
                self.last = Segment::of(bits).map(|segment| (segment, reply));
            }
            Transport::Sctp { chunk: 1 | 2, .. } => self.tagged |= reply,
            Transport::Sctp { chunk: 4 | 5, .. } => self.tagged |= !reply,
            _ => {}
        }
    }
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
    pub(crate) fn opening(packet: &Packet, loose: bool, timers: &Timers) -> Option<(State, u64)> {
        let ipv6 = packet.dst.is_ipv6();
        match packet.transport {
            Transport::Tcp { flags: bits, .. } => match Segment::of(bits)? {
                Segment::Syn => Some((SynSent, timers.tcp(SynSent))),
                Segment::Ack if loose => {
                    Some((Established, timers.unacknowledged().min(timers.tcp(Established))))
                }
                _ => None,
            },
            Transport::Udp { .. } => Some((State::Stateless, timers.udp())),
            Transport::Sctp { chunk, .. } => {
                // A first packet of any other kind has no tag that fits.
                let state =
                    sctp(State::None, chunk, false).filter(|_| matches!(chunk, 1 | 4 | 5 | 8))?;
                Some((state, timers.sctp(state)))
            }
            Transport::Icmp { kind, .. } => {
                let opens =
                    if ipv6 { matches!(kind, 128 | 139) } else { matches!(kind, 8 | 13 | 15 | 17) };
                opens.then_some((State::Stateless, timers.icmp(ipv6)))
            }
            Transport::Other(_) => Some((State::Stateless, timers.generic())),
        }
    }

    /// What a further packet does, in the original or the reply direction.
    pub(crate) fn after(self, packet: &Packet, reply: bool, timers: &Timers) -> Verdict {
        match packet.transport {
            Transport::Tcp { flags: bits, .. } => match Segment::of(bits) {
                Some(segment) => self.after_segment(segment, reply, timers),
                None => Verdict::Invalid,
            },
            Transport::Sctp { chunk, .. } => match sctp(self, chunk, reply) {
                Some(next) => Verdict::Move(next, timers.sctp(next)),
                None => Verdict::Invalid,
            },
            Transport::Udp { .. } => Verdict::Move(self, timers.udp()),
            Transport::Icmp { .. } => Verdict::Move(self, timers.icmp(packet.dst.is_ipv6())),
            Transport::Other(_) => Verdict::Move(self, timers.generic()),
        }
    }

    fn after_segment(self, segment: Segment, reply: bool, timers: &Timers) -> Verdict {
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
        Verdict::Move(next, timers.tcp(next))
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
            State::ShutdownSent => "SHUTDOWN_SENT",
            State::ShutdownReceived => "SHUTDOWN_RECD",
            State::ShutdownAckSent => "SHUTDOWN_ACK_SENT",
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

/// The table sctp_conntracks: the next state, or nothing for a packet that does not fit. Chunks that are not in it change nothing.
fn sctp(state: State, chunk: u8, reply: bool) -> Option<State> {
    use State::{
        CookieEchoed as CE, CookieWait as CW, HeartbeatSent as HS, None as NO,
        ShutdownAckSent as SA, ShutdownReceived as SR, ShutdownSent as SS,
    };
    let known = matches!(chunk, 1 | 2 | 4..=11 | 14);
    let next = match (chunk, reply, state) {
        (1, false, HS) => CW,
        (1, false, SS | SR) => Close,
        (14, _, SA) => Close,
        (4, _, HS) | (4, false, NO) | (5, false, HS) => HS,
        (5, true, HS) => Established,
        (8, false, NO | HS) => SA,
        (_, true, NO | HS) if known => return None,
        (6, ..) => Close,
        (_, false, NO | HS) if known => Close,
        (2, true, Close) => CW,
        (7, false, Established) => SS,
        (7, true, Established) => SR,
        (8, _, SS | SR) => SA,
        (9, true, CE) => Close,
        (10, _, CW) => CE,
        (11, _, CE) => Established,
        (.., other) => other,
    };
    Some(next)
}
