//! Sockets of `twin` on the real kernel: raw ones that send, packet and raw ones that hear, and
//! sockets that take what is delivered without an answer. No unsafe. Tests: `super::tests`.

use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType,
    SockaddrIn6, SockaddrStorage, recv, recvfrom, recvmsg, sendto, setsockopt, socket, sockopt,
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::wire::{Heard, read, read_body};

/// `PACKET_OUTGOING` of linux/if_packet.h.
const OUTGOING: u8 = 4;
const ROOM: usize = 16 << 20;

/// Sends packets that are made by hand.
#[derive(Debug)]
pub(super) struct Mouth {
    four: OwnedFd,
    six: OwnedFd,
    mark: u32,
}

impl Mouth {
    /// In the namespace of the calling thread.
    pub(super) fn open() -> Result<Mouth, String> {
        let open = |family| {
            socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)
                .map_err(|e| format!("raw socket: {e}"))
        };
        Ok(Mouth { four: open(AddressFamily::Inet)?, six: open(AddressFamily::Inet6)?, mark: 0 })
    }

    /// Sends one. What the kernel refuses at once (a drop in the output hook) counts as sent.
    pub(super) fn send(&mut self, dest: IpAddr, bytes: &[u8], mark: u32) -> Result<(), String> {
        if mark != self.mark {
            for fd in [&self.four, &self.six] {
                setsockopt(fd, sockopt::Mark, &mark).map_err(|e| format!("SO_MARK: {e}"))?;
            }
            self.mark = mark;
        }
        let fd = if dest.is_ipv4() { &self.four } else { &self.six };
        let to = SockaddrStorage::from(SocketAddr::new(dest, 0));
        let _ = sendto(fd.as_raw_fd(), bytes, &to, MsgFlags::empty());
        Ok(())
    }
}

/// Hears packets.
#[derive(Debug)]
pub(super) enum Ear {
    /// All that comes in on the links of a namespace.
    Link(OwnedFd),
    /// What is delivered, of IPv4.
    Four(OwnedFd),
    /// What is delivered, of IPv6 and this protocol: the kernel gives it without its header.
    Six(u8, OwnedFd),
}

impl Ear {
    /// An ear for a namespace's links.
    pub(super) fn on_links() -> Result<Ear, String> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthAll)
            .map_err(|e| format!("packet socket: {e}"))?;
        Ok(Ear::Link(fd).roomy())
    }

    /// Ears for what is delivered.
    pub(super) fn inside() -> Result<Vec<Ear>, String> {
        let open = |domain, number: i32| -> Result<OwnedFd, String> {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(number)))
                .map_err(|e| format!("raw socket {number}: {e}"))?;
            socket.set_nonblocking(true).map_err(|e| e.to_string())?;
            Ok(socket.into())
        };
        let mut ears = Vec::new();
        for number in [1, 6, 17, 132] {
            ears.push(Ear::Four(open(Domain::IPV4, number)?).roomy());
        }
        for number in [58, 6, 17, 132] {
            let fd = open(Domain::IPV6, number)?;
            setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true).map_err(|e| e.to_string())?;
            ears.push(Ear::Six(number as u8, fd).roomy());
        }
        Ok(ears)
    }

    fn roomy(self) -> Ear {
        let _ = setsockopt(self.fd(), sockopt::RcvBufForce, &ROOM);
        self
    }

    fn fd(&self) -> &OwnedFd {
        match self {
            Ear::Link(fd) | Ear::Four(fd) | Ear::Six(_, fd) => fd,
        }
    }

    /// The next packet, if one comes in time.
    pub(super) fn wait(&self, most: Duration) -> Result<Option<Heard>, String> {
        let mut bytes = [0; 2048];
        if let Some(heard) = self.hear(&mut bytes) {
            return Ok(heard);
        }
        let mut fds = [PollFd::new(self.fd().as_fd(), PollFlags::POLLIN)];
        let most = PollTimeout::try_from(most.as_millis()).unwrap_or(PollTimeout::NONE);
        match poll(&mut fds, most) {
            Ok(_) | Err(Errno::EINTR) => Ok(self.hear(&mut bytes).flatten()),
            Err(e) => Err(format!("poll: {e}")),
        }
    }

    /// One packet: nothing when there is none, an empty option inside if it cannot be read.
    fn hear(&self, bytes: &mut [u8]) -> Option<Option<Heard>> {
        match self {
            Ear::Link(fd) => {
                let (len, from) = recvfrom::<LinkAddr>(fd.as_raw_fd(), bytes).ok()?;
                let leaving = from.is_some_and(|f| f.pkttype() == OUTGOING);
                Some(read(&bytes[..len]).filter(|_| !leaving))
            }
            Ear::Four(fd) => {
                let len = recv(fd.as_raw_fd(), bytes, MsgFlags::empty()).ok()?;
                Some(read(&bytes[..len]))
            }
            Ear::Six(protocol, fd) => {
                let mut control: Vec<u8> = nix::cmsg_space!(nix::libc::in6_pktinfo);
                let mut parts = [IoSliceMut::new(bytes)];
                let (len, source, dest) = {
                    let flags = MsgFlags::empty();
                    let control = Some(control.as_mut_slice());
                    let message =
                        recvmsg::<SockaddrIn6>(fd.as_raw_fd(), &mut parts, control, flags).ok()?;
                    let dest = message.cmsgs().ok()?.find_map(|c| match c {
                        ControlMessageOwned::Ipv6PacketInfo(p) => Some(p.ipi6_addr.s6_addr),
                        _ => None,
                    });
                    (message.bytes, message.address.map(|a| a.ip()), dest)
                };
                let (Some(source), Some(dest)) = (source, dest) else { return Some(None) };
                let ends = (source.into(), IpAddr::from(Ipv6Addr::from(dest)));
                Some(read_body(ends, (*protocol, 64), &bytes[..len]))
            }
        }
    }
}

/// Everything that was heard, with the number of the ear.
pub(super) fn listen(ears: &[Ear]) -> Vec<(usize, Heard)> {
    let mut found = Vec::new();
    let mut bytes = [0; 2048];
    for (number, ear) in ears.iter().enumerate() {
        while let Some(heard) = ear.hear(&mut bytes) {
            found.extend(heard.map(|heard| (number, heard)));
        }
    }
    found
}

/// Sockets on these ports that take everything and answer nothing: a filter drops it behind the
/// hooks, before TCP or UDP look at it.
pub(super) fn silent_sockets(ports: &[u16]) -> Result<Vec<Socket>, String> {
    let open = |kind: Type, port: u16| -> std::io::Result<Socket> {
        let socket = Socket::new(Domain::IPV6, kind, None)?;
        socket.set_only_v6(false)?;
        // BPF_RET | BPF_K with 0: keep no byte.
        socket.attach_filter(&[SockFilter::new(6, 0, 0, 0)])?;
        socket.bind(&SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port).into())?;
        if kind == Type::STREAM {
            socket.listen(1)?;
        }
        Ok(socket)
    };
    let both = ports.iter().flat_map(|port| [(Type::STREAM, *port), (Type::DGRAM, *port)]);
    both.map(|(kind, port)| open(kind, port).map_err(|e| format!("socket on port {port}: {e}")))
        .collect()
}
