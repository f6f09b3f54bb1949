//! Conversations: a client connects, a server answers, both say something and close. Each packet must reach the very socket it is
//! for, with the addresses that socket knows; anything else is answered as Linux answers it (reset, port unreachable, abort).
//! It must never know how packets travel (that is `carry`). Tests: tests/world.rs.

use super::carry::Arrival;
use super::{HostId, Leg, Next, Stranger, World, has_sockets};
use crate::answer::{self, Unreachable};
use crate::packet::{Packet, Transport, flags, protocol};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// One end of a conversation: the host and the addresses its socket knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The host.
    pub host: HostId,
    /// The socket's own address.
    pub local: SocketAddr,
    /// The other end, as this one knows it.
    pub remote: SocketAddr,
}

/// Who served a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Name of the host.
    pub host: Arc<str>,
    /// Name of the socket.
    pub socket: Arc<str>,
    /// The server's end: the address it was reached at, and who it believes it talks to.
    pub flow: Flow,
}

/// How a conversation stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything said so far arrived.
    Fine,
    /// A reset or an abort reached the one who had sent.
    Reset,
    /// An ICMP error reached the one who had sent.
    Unreachable {
        /// ICMP type.
        kind: u8,
        /// ICMP code.
        code: u8,
        /// Who said so.
        from: IpAddr,
    },
    /// Nothing came back: the leg (by its place) where the packet was last seen.
    Silent(usize),
}

/// A client and, when one was found, its server.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// IANA protocol number.
    pub protocol: u8,
    /// The client's end.
    pub client: Flow,
    /// Who serves it.
    pub served: Option<Served>,
    /// Every packet on every host.
    pub legs: Vec<Leg>,
    /// How it stands.
    pub end: Ending,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Client,
    Server,
}

use Who::{Client, Server};

/// A packet of a conversation: TCP flags, or the SCTP chunk, and payload bytes.
type Line = (Who, u8, u16);

const SYN_ACK: u8 = flags::SYN | flags::ACK;
const DATA: u8 = flags::PSH | flags::ACK;
const FIN: u8 = flags::FIN | flags::ACK;

/// What is said after the first packet, to open, to talk, to close: for TCP, SCTP, and all that answers packet by packet.
const OPENING: [&[Line]; 3] = [
    &[(Server, SYN_ACK, 0), (Client, flags::ACK, 0)],
    &[(Server, 2, 0), (Client, 10, 0), (Server, 11, 0)],
    &[(Server, 0, 10)],
];
const TALKING: [&[Line]; 3] = [
    &[(Client, DATA, 100), (Server, flags::ACK, 0), (Server, DATA, 200), (Client, flags::ACK, 0)],
    &[(Client, 0, 100), (Server, 3, 0), (Server, 0, 200), (Client, 3, 0)],
    &[(Client, 0, 100), (Server, 0, 200)],
];
const CLOSING: [&[Line]; 3] = [
    &[(Client, FIN, 0), (Server, flags::ACK, 0), (Server, FIN, 0), (Client, flags::ACK, 0)],
    &[(Client, 7, 0), (Server, 8, 0), (Client, 14, 0)],
    &[],
];

fn script(number: u8) -> usize {
    match number {
        protocol::TCP => 0,
        protocol::SCTP => 1,
        _ => 2,
    }
}

impl World {
    /// A whole conversation: opened, something said both ways, closed. An unspecified source address follows from the route,
    /// a source port of zero is a fresh one; for ICMP echoes the source port is the identifier.
    pub fn connect(
        &mut self,
        from: HostId,
        src: SocketAddr,
        dst: SocketAddr,
        protocol: u8,
    ) -> Result<Conversation, Stranger> {
        let mut talk = self.open(from, src, dst, protocol)?;
        self.talk(&mut talk);
        self.finish(&mut talk);
        Ok(talk)
    }

    /// Opens a conversation and leaves it open.
    pub fn open(
        &mut self,
        from: HostId,
        src: SocketAddr,
        dst: SocketAddr,
        protocol: u8,
    ) -> Result<Conversation, Stranger> {
        let mut local = src;
        if let Some(source) =
            self.host(from)?.source_for(dst.ip()).filter(|_| src.ip().is_unspecified())
        {
            local.set_ip(source);
        }
        if local.port() == 0 {
            local.set_port(self.fresh_port());
        }
        let mut client = Flow { host: from, local, remote: dst };
        if matches!(protocol, protocol::ICMP | protocol::ICMPV6) {
            client.remote.set_port(local.port());
        }
        let mut talk =
            Conversation { protocol, client, served: None, legs: Vec::new(), end: Ending::Fine };
        let first = match protocol {
            protocol::SCTP => 1,
            _ => flags::SYN,
        };
        self.say(&mut talk, (Client, first, 0));
        self.speak(&mut talk, OPENING[script(protocol)]);
        Ok(talk)
    }

    /// Something is said, both ways, in a conversation that is open.
    pub fn talk(&mut self, talk: &mut Conversation) {
        self.speak(talk, TALKING[script(talk.protocol)]);
    }

    /// Both ends close.
    pub fn finish(&mut self, talk: &mut Conversation) {
        self.speak(talk, CLOSING[script(talk.protocol)]);
    }

    fn speak(&mut self, talk: &mut Conversation, lines: &[Line]) {
        for line in lines {
            if talk.end != Ending::Fine {
                return;
            }
            self.say(talk, *line);
        }
    }

    /// One packet, from one end to the other.
    fn say(&mut self, talk: &mut Conversation, line: Line) {
        let served = talk.served.as_ref().map(|served| served.flow);
        let (speaker, hearer) = match line.0 {
            Client => (Some(talk.client), served),
            Server => (served, Some(talk.client)),
        };
        let Some(speaker) = speaker else { return };
        let packet = packet(talk.protocol, speaker, line);
        let first = talk.legs.len();
        let arrivals = self.carry(speaker.host, &packet, &mut talk.legs);
        let mut end = None;
        for arrival in arrivals {
            end = end.or(self.hear(talk, &arrival, (speaker, hearer)));
        }
        let last = talk.legs.len().saturating_sub(1).max(first);
        talk.end = end.unwrap_or(Ending::Silent(last));
    }

    /// What a delivered packet means to the conversation; strangers are answered.
    fn hear(
        &mut self,
        talk: &mut Conversation,
        arrival: &Arrival,
        ends: (Flow, Option<Flow>),
    ) -> Option<Ending> {
        let (speaker, hearer) = ends;
        if let Some(end) = refusal(arrival, speaker) {
            talk.legs[arrival.leg].next = Next::Known;
            return Some(end);
        }
        let packet = &arrival.packet;
        if packet.protocol() != talk.protocol || packet.is_icmp_error() {
            self.name_socket(arrival, &mut talk.legs);
            return None;
        }
        let (local, remote) = ends_of(packet);
        let reached = Flow { host: arrival.at, local, remote };
        if hearer.is_some_and(|hearer| hearer == reached) {
            talk.legs[arrival.leg].next = Next::Known;
            return Some(Ending::Fine);
        }
        self.name_socket(arrival, &mut talk.legs);
        let socket = match &talk.legs[arrival.leg].next {
            Next::Socket(name) => Some(name.clone()),
            _ if !has_sockets(talk.protocol) => Some("kernel".into()),
            _ => None,
        };
        match socket.filter(|_| hearer.is_none()) {
            Some(socket) => {
                let host = talk.legs[arrival.leg].host.clone();
                talk.served = Some(Served { host, socket, flow: reached });
                Some(Ending::Fine)
            }
            None => self.refuse(talk, arrival, speaker),
        }
    }

    /// Linux's answer to a packet no socket waits for, and whether it reached the speaker.
    fn refuse(
        &mut self,
        talk: &mut Conversation,
        arrival: &Arrival,
        speaker: Flow,
    ) -> Option<Ending> {
        let packet = &arrival.packet;
        let answer = match packet.transport {
            Transport::Tcp { .. } => answer::reset(packet),
            Transport::Udp { .. } => answer::unreachable(packet, Unreachable::Port, true),
            Transport::Sctp { chunk: 6, .. } | Transport::Icmp { .. } => None,
            Transport::Sctp { sport, dport, .. } => {
                let abort = Transport::Sctp { sport: dport, dport: sport, chunk: 6 };
                Some(Packet::new(packet.dst, packet.src, abort))
            }
            Transport::Other(_) => answer::unreachable(packet, Unreachable::Protocol, true),
        }?;
        let arrivals = self.carry(arrival.at, &answer, &mut talk.legs);
        let mut end = None;
        for arrival in &arrivals {
            self.name_socket(arrival, &mut talk.legs);
            end = end.or(refusal(arrival, speaker));
        }
        end
    }
}

/// Does the packet tell the speaker that it was refused?
fn refusal(arrival: &Arrival, speaker: Flow) -> Option<Ending> {
    let packet = &arrival.packet;
    if arrival.at != speaker.host {
        return None;
    }
    let mine = (speaker.local, speaker.remote);
    match &packet.transport {
        Transport::Tcp { flags: bits, .. } if bits & flags::RST != 0 => {
            (ends_of(packet) == mine).then_some(Ending::Reset)
        }
        Transport::Sctp { chunk: 6, .. } => (ends_of(packet) == mine).then_some(Ending::Reset),
        Transport::Icmp { kind, code, inner: Some(inner), .. } => {
            let (remote, local) = ends_of(inner);
            let quoted = (local, remote) == mine;
            quoted.then_some(Ending::Unreachable { kind: *kind, code: *code, from: packet.src })
        }
        _ => None,
    }
}

/// The receiver's and the sender's end of a packet; for ICMP the identifier stands for both ports.
fn ends_of(packet: &Packet) -> (SocketAddr, SocketAddr) {
    let (sport, dport) = match packet.transport {
        Transport::Icmp { id, .. } => (id, id),
        _ => (packet.sport(), packet.dport()),
    };
    (SocketAddr::new(packet.dst, dport), SocketAddr::new(packet.src, sport))
}

/// The packet of a line.
fn packet(number: u8, speaker: Flow, line: Line) -> Packet {
    let (who, what, payload) = line;
    let (sport, dport) = (speaker.local.port(), speaker.remote.port());
    let transport = match number {
        protocol::TCP => Transport::Tcp { sport, dport, flags: what },
        protocol::UDP => Transport::Udp { sport, dport },
        protocol::SCTP => Transport::Sctp { sport, dport, chunk: what },
        protocol::ICMP => Transport::Icmp {
            kind: if who == Client { 8 } else { 0 },
            code: 0,
            id: sport,
            inner: None,
        },
        protocol::ICMPV6 => Transport::Icmp {
            kind: if who == Client { 128 } else { 129 },
            code: 0,
            id: sport,
            inner: None,
        },
        other => Transport::Other(other),
    };
    Packet { payload, ..Packet::new(speaker.local.ip(), speaker.remote.ip(), transport) }
}

impl fmt::Display for Conversation {
    /// Every leg with its journey, and how it ended.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, leg) in self.legs.iter().enumerate() {
            writeln!(out, "[{number}] {}: {}\n    → {:?}", leg.host, leg.journey, leg.next)?;
        }
        match &self.served {
            Some(served) => writeln!(out, "served by {} on {}", served.socket, served.host)?,
            None => writeln!(out, "served by nobody")?,
        }
        write!(out, "{:?}", self.end)
    }
}
