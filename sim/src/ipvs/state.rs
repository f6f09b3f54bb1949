//! What packets make of an IPVS connection: its states and how long each lives. Facts from ip_vs_proto_{tcp,udp,sctp}.c.
//! It must never know addresses. Tests: tests/ipvs.rs, against tests/fixtures/ipvs/answers.txt.

use super::service::IpvsTimeouts;
use crate::conntrack::SECOND;
use crate::packet::{Transport, flags};

/// State of an IPVS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are ipvsadm's own")]
pub enum IpvsState {
    None,
    SynSent,
    SynRecv,
    Established,
    FinWait,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Udp,
    Init,
    CookieSent,
    CookieReplied,
    ShutdownSent,
    ShutdownReceived,
    ShutdownAckSent,
}

use IpvsState::{Close, CloseWait, Established, FinWait, LastAck, SynRecv, SynSent, TimeWait};

/// Which way the packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From the client.
    In,
    /// From the destination.
    Out,
}

impl IpvsState {
    /// The state after a packet.
    pub(super) fn after(self, transport: &Transport, way: Way) -> IpvsState {
        match transport {
            Transport::Tcp { flags, .. } => self.after_segment(*flags, way),
            Transport::Sctp { chunk, .. } => self.after_chunk(*chunk, way),
            _ => IpvsState::Udp,
        }
    }

    fn after_segment(self, bits: u8, way: Way) -> IpvsState {
        let is = |flag: u8| bits & flag != 0;
        match (way, self) {
            (Way::In, SynRecv | LastAck) if is(flags::RST) => self,
            (Way::Out, SynSent | TimeWait) if is(flags::RST) => self,
            _ if is(flags::RST) => Close,
            (Way::In, _) if is(flags::SYN) => match self {
                Established | SynSent => Established,
                _ => SynRecv,
            },
            (Way::Out, _) if is(flags::SYN) => match self {
                Established | SynRecv => self,
                _ => SynSent,
            },
            _ if is(flags::FIN) => self.after_fin(way),
            _ if !is(flags::ACK) => Close,
            (Way::In, IpvsState::None | LastAck) => Close,
            (Way::Out, IpvsState::None) | (_, SynRecv) => Established,
            _ => self,
        }
    }

    fn after_fin(self, way: Way) -> IpvsState {
        match (way, self) {
            (_, SynSent | Close | LastAck) => self,
            (Way::In, IpvsState::None) => Close,
            (Way::In, Established | CloseWait) => CloseWait,
            (Way::Out, Established | FinWait) => FinWait,
            _ => TimeWait,
        }
    }

    fn after_chunk(self, chunk: u8, way: Way) -> IpvsState {
        match (chunk, way) {
            (1, _) => IpvsState::Init,
            (2, Way::Out) => IpvsState::CookieSent,
            (10, Way::In) => IpvsState::CookieReplied,
            (11, Way::Out) if self == IpvsState::CookieReplied => Established,
            (7, Way::In) => IpvsState::ShutdownReceived,
            (7, Way::Out) => IpvsState::ShutdownSent,
            (8, _) => IpvsState::ShutdownAckSent,
            (6 | 14, _) => Close,
            (0, _) if self == IpvsState::None => Established,
            _ => self,
        }
    }

    /// Does it count as an active connection of its destination?
    pub(super) fn is_active(self, protocol: u8) -> bool {
        match self {
            Established => true,
            SynSent | SynRecv => protocol == crate::packet::protocol::TCP,
            _ => false,
        }
    }

    /// Nanoseconds without a packet after which the connection is forgotten.
    pub(super) fn timeout(self, timeouts: &IpvsTimeouts, protocol: u8) -> u64 {
        let set = |duration: std::time::Duration| {
            u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
        };
        let tcp = protocol == crate::packet::protocol::TCP;
        let seconds = match self {
            Established if tcp => return set(timeouts.tcp),
            FinWait => return set(timeouts.tcp_fin),
            IpvsState::Udp => return set(timeouts.udp),
            Established => 900,
            SynSent | TimeWait => 120,
            IpvsState::None => 2,
            Close => 10,
            LastAck => 30,
            _ => 60,
        };
        seconds * SECOND
    }

    /// The name ipvsadm prints.
    pub fn name(self) -> &'static str {
        match self {
            IpvsState::None => "NONE",
            SynSent => "SYN_SENT",
            SynRecv => "SYN_RECV",
            Established => "ESTABLISHED",
            FinWait => "FIN_WAIT",
            TimeWait => "TIME_WAIT",
            Close => "CLOSE",
            CloseWait => "CLOSE_WAIT",
            LastAck => "LAST_ACK",
            IpvsState::Udp => "UDP",
            IpvsState::Init => "INIT",
            IpvsState::CookieSent => "C-SENT",
            IpvsState::CookieReplied => "C-REPL",
            IpvsState::ShutdownSent => "S-SENT",
            IpvsState::ShutdownReceived => "S-RECV",
            IpvsState::ShutdownAckSent => "S-ACK-SENT",
        }
    }
}
