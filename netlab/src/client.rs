//! Clients: ask once, or keep a connection and go on asking. They say what became of it in the
//! four ways a person outside can tell apart. Run inside a namespace by the caller.
//! Tests: with `echo`.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// What a pod answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The pod's name.
    pub pod: String,
    /// The client's address as the pod saw it.
    pub peer: SocketAddr,
    /// The address at which the pod was asked.
    pub local: SocketAddr,
    /// The client's address as the client knows it.
    pub own: SocketAddr,
}

/// What became of one attempt, as seen by the one who made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A pod answered.
    Answered(Answer),
    /// A reset or an ICMP port unreachable: somebody said no.
    Refused,
    /// Any other ICMP error.
    Unreachable,
    /// Nothing, until patience ended.
    Silence,
    /// Something else, in words.
    Broken(String),
}

impl Outcome {
    pub(crate) fn of_error(error: &io::Error) -> Outcome {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Outcome::Refused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                Outcome::Unreachable
            }
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Outcome::Silence,
            _ => Outcome::Broken(error.to_string()),
        }
    }
}

/// Reads what an echo server said.
pub(crate) fn answer_of(line: &str, own: SocketAddr) -> Option<Answer> {
    let mut words = line.trim_end().split(' ');
    let pod = words.next()?.strip_prefix("pod=")?.to_owned();
    let peer = words.next()?.strip_prefix("peer=")?.parse().ok()?;
    let local = words.next()?.strip_prefix("local=")?.parse().ok()?;
    Some(Answer { pod, peer, local, own })
}

fn outcome_of(line: &str, own: SocketAddr) -> Outcome {
    match answer_of(line, own) {
        Some(answer) => Outcome::Answered(answer),
        None => Outcome::Broken(format!("a pod said {line:?}")),
    }
}

fn socket(kind: Type, source: Option<IpAddr>, to: SocketAddr) -> io::Result<Socket> {
    let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
    let socket = Socket::new(Domain::for_address(to), kind, Some(protocol))?;
    let any =
        if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let source = source.unwrap_or(any);
    // Some ports are taken; as many in a row are not.
    let mut bound = Ok(());
    for _ in 0..TRIES {
        bound = socket.bind(&SocketAddr::new(source, next_port()).into());
        if !matches!(&bound, Err(e) if e.kind() == io::ErrorKind::AddrInUse) {
            break;
        }
    }
    bound.map(|()| socket)
}

/// Ports that clients use, and how many are tried for one of them.
const PORTS: Range<u32> = 32_768..61_000;
const TRIES: usize = 100;

/// The kernel would give a client a port that another one has just let go of, by chance. Its peer or
/// connection tracking may still know that one's connection, and what comes of it is no fault of
/// rules. So all clients of the lab use all ports in turn.
fn next_port() -> u16 {
    static USED: AtomicU32 = AtomicU32::new(0);
    let offset = USED.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
    (PORTS.start + offset) as u16
}

/// A connection that is kept, one question and answer at a time.
pub struct Conversation {
    reader: BufReader<TcpStream>,
    /// What the pod said first.
    pub answer: Answer,
}

impl Conversation {
    /// Connects and reads the first line.
    pub fn open(
        source: Option<IpAddr>,
        to: SocketAddr,
        patience: Duration,
    ) -> Result<Conversation, Outcome> {
        let made = socket(Type::STREAM, source, to).and_then(|socket| {
            socket.set_tcp_nodelay(true)?;
            Ok(socket)
        });
        Conversation::over(made.map_err(|e| Outcome::of_error(&e))?, to, patience)
    }

    /// The same over any socket that connects and carries lines.
    pub(crate) fn over(
        socket: Socket,
        to: SocketAddr,
        patience: Duration,
    ) -> Result<Conversation, Outcome> {
        let connect = || -> io::Result<(TcpStream, SocketAddr)> {
            socket.connect_timeout(&to.into(), patience)?;
            let stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(patience))?;
            let own = stream.local_addr()?;
            Ok((stream, own))
        };
        let (stream, own) = connect().map_err(|e| Outcome::of_error(&e))?;
        let mut reader = BufReader::new(stream);
        let line = read_line(&mut reader).map_err(|e| Outcome::of_error(&e))?;
        match outcome_of(&line, own) {
            Outcome::Answered(answer) => Ok(Conversation { reader, answer }),
            other => Err(other),
        }
    }

    /// Says something and hears it back from the same pod.
    pub fn say(&mut self, what: &str) -> Result<(), String> {
        let ask = |reader: &mut BufReader<TcpStream>| -> io::Result<String> {
            reader.get_mut().write_all(format!("{what}\n").as_bytes())?;
            read_line(reader)
        };
        let line = ask(&mut self.reader).map_err(|e| format!("connection broke: {e}"))?;
        let same = answer_of(&line, self.answer.own).is_some_and(|a| a.pod == self.answer.pod);
        if same && line.trim_end().ends_with(&format!("said={what}")) {
            return Ok(());
        }
        Err(format!("connection to {} was answered {line:?}", self.answer.pod))
    }
}

fn read_line(reader: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line)
}

/// One TCP connection: connects, hears who answers, resets. A load would otherwise use up the
/// client's ports and fill the connection table with connections that wait for their end.
pub fn ask_tcp(source: Option<IpAddr>, to: SocketAddr, patience: Duration) -> Outcome {
    heard_once(Conversation::open(source, to, patience))
}

/// What came of a connection that was to hear one line; it ends with a reset (of SCTP: an abort).
pub(crate) fn heard_once(conversation: Result<Conversation, Outcome>) -> Outcome {
    match conversation {
        Ok(conversation) => {
            let stream = conversation.reader.get_ref();
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            Outcome::Answered(conversation.answer)
        }
        Err(outcome) => outcome,
    }
}

/// One UDP question from a new port.
pub fn ask_udp(source: Option<IpAddr>, to: SocketAddr, patience: Duration) -> Outcome {
    let open = || -> io::Result<UdpSocket> {
        let socket = socket(Type::DGRAM, source, to)?;
        socket.connect(&to.into())?;
        Ok(socket.into())
    };
    match open().and_then(|socket| ask_udp_again(&socket, patience)) {
        Ok((line, own)) => outcome_of(&line, own),
        Err(error) => Outcome::of_error(&error),
    }
}

/// One more question on a connected UDP socket.
pub fn ask_udp_again(socket: &UdpSocket, patience: Duration) -> io::Result<(String, SocketAddr)> {
    socket.set_read_timeout(Some(patience))?;
    socket.send(b"hello")?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer)?;
    Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), socket.local_addr()?))
}
