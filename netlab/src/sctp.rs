//! SCTP: by the kernel's own sockets where it has them (the guest has), else by hand: an INIT and its
//! INIT ACK as raw packets, so that NAT of SCTP is seen on real packets anyway. The pod's line then
//! travels as the state cookie. Knows RFC 9260 as far as those two chunks. Tests: below (the codec).

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::client::{Conversation, Outcome, answer_of, heard_once};
use crate::echo::line;
use crate::namespace::Namespace;

const SCTP: i32 = 132;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const COOKIE: u16 = 7;
/// Common header, chunk header and the fixed part of INIT and INIT ACK.
const FIXED: usize = 12 + 4 + 16;

/// An INIT or INIT ACK.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Packet {
    ports: (u16, u16),
    tag: u32,
    chunk: u8,
    own_tag: u32,
    cookie: Vec<u8>,
}

/// CRC-32C (Castagnoli), bit by bit: these packets are few.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

fn encode(packet: &Packet) -> Vec<u8> {
    let mut cookie = Vec::new();
    if !packet.cookie.is_empty() {
        let length = (packet.cookie.len() + 4) as u16;
        cookie.extend(COOKIE.to_be_bytes());
        cookie.extend(length.to_be_bytes());
        cookie.extend(&packet.cookie);
        cookie.resize(cookie.len().next_multiple_of(4), 0);
    }
    let mut bytes = Vec::with_capacity(FIXED + cookie.len());
    bytes.extend(packet.ports.0.to_be_bytes());
    bytes.extend(packet.ports.1.to_be_bytes());
    bytes.extend(packet.tag.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend([packet.chunk, 0]);
    bytes.extend(((20 + cookie.len()) as u16).to_be_bytes());
    bytes.extend(packet.own_tag.to_be_bytes());
    bytes.extend(65536u32.to_be_bytes());
    bytes.extend([0, 1, 0, 1]);
    bytes.extend(1u32.to_be_bytes());
    bytes.extend(cookie);
    let sum = crc32c(&bytes);
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Packet> {
    let fixed = bytes.get(..FIXED)?;
    let pair = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
    let four =
        |at: usize| u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let mut cookie = Vec::new();
    if let Some(head) = bytes.get(FIXED..FIXED + 4)
        && u16::from_be_bytes([head[0], head[1]]) == COOKIE
    {
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        cookie = bytes.get(FIXED + 4..FIXED + length)?.to_vec();
    }
    Some(Packet {
        ports: (pair(0), pair(2)),
        tag: four(4),
        chunk: fixed[12],
        own_tag: four(16),
        cookie,
    })
}

/// A raw SCTP socket. It is held as a `UdpSocket`, which is a descriptor with the same calls.
fn raw(domain: Domain, own: Option<IpAddr>) -> io::Result<UdpSocket> {
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(SCTP)))?;
    if let Some(own) = own {
        socket.bind(&SocketAddr::new(own, 0).into())?;
    }
    Ok(socket.into())
}

/// The SCTP part of what a raw socket received: IPv4 gives the IP header too.
fn payload(datagram: &[u8], ipv4: bool) -> &[u8] {
    let header =
        if ipv4 { usize::from(datagram.first().copied().unwrap_or(0) & 15) * 4 } else { 0 };
    datagram.get(header..).unwrap_or_default()
}

/// Whether this kernel has SCTP sockets; found out once.
pub fn has_sockets() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| stream(Domain::IPV4).is_ok())
}

/// A socket of one association, which has the same calls as one of TCP.
fn stream(domain: Domain) -> io::Result<Socket> {
    Socket::new(domain, Type::STREAM, Some(Protocol::from(SCTP)))
}

/// A listening socket of the kernel's own SCTP, made in the calling thread's namespace.
pub fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = stream(Domain::for_address(at))?;
    socket.bind(&at.into())?;
    socket.listen(64)?;
    Ok(socket.into())
}

/// One association over the kernel's own SCTP: hears who answers, and aborts.
fn ask_by_socket(source: Option<IpAddr>, to: SocketAddr, patience: Duration) -> Outcome {
    let made = stream(Domain::for_address(to)).and_then(|socket| {
        source.map_or(Ok(()), |own| socket.bind(&SocketAddr::new(own, 0).into()))?;
        Ok(socket)
    });
    let over = |socket| Conversation::over(socket, to, patience);
    heard_once(made.map_err(|e| Outcome::of_error(&e)).and_then(over))
}

/// A thread that answers INITs; it ends when this is dropped.
pub struct Server {
    stop: Arc<AtomicBool>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Answers INITs to an address of a pod.
pub fn serve(pod: &str, namespace: &Namespace, at: SocketAddr) -> Result<Server, String> {
    let failed = |e: io::Error| format!("pod {pod}: no raw SCTP socket: {e}");
    let socket = namespace.run(|| raw(Domain::for_address(at), Some(at.ip()))).map_err(failed)?;
    socket.set_read_timeout(Some(Duration::from_millis(200))).map_err(failed)?;
    let stop = Arc::new(AtomicBool::new(false));
    let (seen, pod) = (stop.clone(), pod.to_owned());
    std::thread::spawn(move || {
        while !seen.load(Ordering::Relaxed) {
            answer(&socket, &pod, at);
        }
    });
    Ok(Server { stop })
}

fn answer(socket: &UdpSocket, pod: &str, at: SocketAddr) {
    let mut buffer = [0; 2048];
    let Ok((length, mut peer)) = socket.recv_from(&mut buffer) else { return };
    let Some(packet) = decode(payload(&buffer[..length], at.is_ipv4())) else { return };
    if packet.chunk != INIT || packet.ports.1 != at.port() {
        return;
    }
    peer.set_port(packet.ports.0);
    let reply = Packet {
        ports: (packet.ports.1, packet.ports.0),
        tag: packet.own_tag,
        chunk: INIT_ACK,
        own_tag: 1,
        cookie: line(pod, peer, at, "").into_bytes(),
    };
    // A raw IPv6 socket takes no port in its address.
    peer.set_port(0);
    let _ = socket.send_to(&encode(&reply), peer);
}

/// Asks once: by a socket, or sends one INIT and waits for its INIT ACK.
pub fn ask(source: Option<IpAddr>, to: SocketAddr, patience: Duration) -> Outcome {
    if has_sockets() {
        ask_by_socket(source, to, patience)
    } else {
        ask_by_hand(source, to, patience)
    }
}

fn ask_by_hand(source: Option<IpAddr>, to: SocketAddr, patience: Duration) -> Outcome {
    static PORT: AtomicU16 = AtomicU16::new(20000);
    let port = PORT.fetch_add(1, Ordering::Relaxed);
    let tag = 0x4e45_0000 | u32::from(port);
    let init =
        Packet { ports: (port, to.port()), tag: 0, chunk: INIT, own_tag: tag, cookie: vec![] };
    let send = || -> io::Result<(UdpSocket, SocketAddr)> {
        let socket = raw(Domain::for_address(to), source)?;
        socket.connect(SocketAddr::new(to.ip(), 0))?;
        socket.send(&encode(&init))?;
        let mut own = socket.local_addr()?;
        own.set_port(port);
        Ok((socket, own))
    };
    match send().and_then(|(socket, own)| {
        let said = hear(&socket, (tag, to.is_ipv4()), patience)?;
        Ok(answer_of(&said, own))
    }) {
        Ok(Some(answer)) => Outcome::Answered(answer),
        Ok(None) => Outcome::Broken("an INIT ACK without a pod's line".to_owned()),
        Err(error) => Outcome::of_error(&error),
    }
}

fn hear(socket: &UdpSocket, (tag, ipv4): (u32, bool), patience: Duration) -> io::Result<String> {
    let end = Instant::now() + patience;
    let mut buffer = [0; 2048];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let length = socket.recv(&mut buffer)?;
        let packet = decode(payload(&buffer[..length], ipv4));
        if let Some(packet) = packet.filter(|p| p.chunk == INIT_ACK && p.tag == tag) {
            return Ok(String::from_utf8_lossy(&packet.cookie).into_owned());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnoli() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn packets_come_back() {
        let packet = Packet {
            ports: (1, 2),
            tag: 3,
            chunk: INIT_ACK,
            own_tag: 4,
            cookie: b"abcde".to_vec(),
        };
        assert_eq!(decode(&encode(&packet)).unwrap(), packet);
        assert_eq!(decode(&encode(&packet)[..20]), None);
    }
}
