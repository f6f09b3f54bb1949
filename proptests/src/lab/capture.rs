//! Sockets that send hand-made packets and see packets pass: packet sockets see what reaches a
//! namespace, raw sockets what is delivered to the node itself. No unsafe: `nix` only.
//! Tests: with `lab`.

use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType,
    SockaddrIn6, SockaddrStorage, recv, recvfrom, recvmsg, sendto, setsockopt, socket, sockopt,
};

use kube_proxy::model::Protocol;

use super::Namespace;
use super::wire::{Sighting, recognise, recognise_body};

/// Where a packet was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// On the link of the sources.
    AtTheSources,
    /// On the link of the endpoints.
    AtTheEndpoints,
    /// Delivered to the node itself.
    OnTheNode,
    /// On a link of the node: only refusals count there.
    PassingTheNode,
}

/// Room for everything a round can bring, since listening begins after the last packet is sent.
const ROOM: usize = 16 << 20;

/// `PACKET_OUTGOING` of linux/if_packet.h.
const OUTGOING: u8 = 4;

enum Ear {
    Link(Place, OwnedFd),
    Delivered4(OwnedFd),
    Delivered6(Protocol, OwnedFd),
}

/// Every socket that listens.
pub(super) struct Capture {
    ears: Vec<Ear>,
}

impl Capture {
    pub(super) fn open(
        sources: &Namespace,
        node: &Namespace,
        endpoints: &Namespace,
    ) -> Result<Capture, String> {
        let mut ears = vec![
            Ear::Link(Place::AtTheSources, sources.run(packet_socket)??),
            Ear::Link(Place::PassingTheNode, node.run(packet_socket)??),
            Ear::Link(Place::AtTheEndpoints, endpoints.run(packet_socket)??),
        ];
        for protocol in Protocol::ALL {
            ears.push(Ear::Delivered4(
                node.run(move || raw_socket(AddressFamily::Inet, protocol))??,
            ));
            let six = node.run(move || raw_socket(AddressFamily::Inet6, protocol))??;
            setsockopt(&six, sockopt::Ipv6RecvPacketInfo, &true)
                .map_err(|e| format!("IPV6_RECVPKTINFO: {e}"))?;
            ears.push(Ear::Delivered6(protocol, six));
        }
        for ear in &ears {
            setsockopt(ear.fd(), sockopt::RcvBufForce, &ROOM)
                .map_err(|e| format!("SO_RCVBUFFORCE: {e}"))?;
        }
        Ok(Capture { ears })
    }

    /// Everything seen until nothing new was for `silence`.
    pub(super) fn listen(&mut self, silence: Duration) -> Result<Vec<(Place, Sighting)>, String> {
        let mut seen = Vec::new();
        let mut quiet_at = Instant::now() + silence;
        let last = Instant::now() + silence * 10;
        loop {
            let now = Instant::now();
            if now >= quiet_at.min(last) {
                return Ok(seen);
            }
            self.wait(quiet_at - now)?;
            let before = seen.len();
            for ear in &self.ears {
                while let Some(heard) = hear(ear)? {
                    seen.extend(heard);
                }
            }
            if seen.len() > before {
                quiet_at = Instant::now() + silence;
            }
        }
    }

    fn wait(&self, most: Duration) -> Result<(), String> {
        let mut fds: Vec<PollFd> =
            self.ears.iter().map(|e| PollFd::new(e.fd().as_fd(), PollFlags::POLLIN)).collect();
        let most = PollTimeout::try_from(most.as_millis().max(1)).unwrap_or(PollTimeout::ZERO);
        match poll(&mut fds, most) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(e) => Err(format!("poll: {e}")),
        }
    }
}

impl Ear {
    fn fd(&self) -> &OwnedFd {
        match self {
            Ear::Link(_, fd) | Ear::Delivered4(fd) | Ear::Delivered6(_, fd) => fd,
        }
    }
}

fn packet_socket() -> Result<OwnedFd, String> {
    socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll)
        .map_err(|e| format!("packet socket: {e}"))
}

fn raw_socket(family: AddressFamily, protocol: Protocol) -> Result<OwnedFd, String> {
    let number = match protocol {
        Protocol::Tcp => SockProtocol::Tcp,
        Protocol::Udp => SockProtocol::Udp,
        Protocol::Sctp => SockProtocol::Sctp,
    };
    socket(family, SockType::Raw, SockFlag::SOCK_NONBLOCK, number)
        .map_err(|e| format!("raw socket: {e}"))
}

/// One packet of one socket: `None` when there is none, an empty list if it is none of ours.
fn hear(ear: &Ear) -> Result<Option<Vec<(Place, Sighting)>>, String> {
    let mut bytes = [0u8; 2048];
    let found = match ear {
        Ear::Link(place, fd) => match recvfrom::<LinkAddr>(fd.as_raw_fd(), &mut bytes) {
            Ok((len, from)) => {
                let leaving = from.is_some_and(|f| f.pkttype() == OUTGOING);
                let sighting = recognise(&bytes[..len]).filter(|_| !leaving);
                let passing = *place == Place::PassingTheNode;
                sighting
                    .filter(|s| !passing || matches!(s, Sighting::Refusal { .. }))
                    .map(|s| (*place, s))
            }
            Err(e) => return nothing(e),
        },
        Ear::Delivered4(fd) => match recv(fd.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
            Ok(len) => plain(recognise(&bytes[..len])),
            Err(e) => return nothing(e),
        },
        Ear::Delivered6(protocol, fd) => match delivered6(*protocol, fd, &mut bytes) {
            Ok(sighting) => plain(sighting),
            Err(e) => return nothing(e),
        },
    };
    Ok(Some(found.into_iter().collect()))
}

fn plain(sighting: Option<Sighting>) -> Option<(Place, Sighting)> {
    sighting.filter(|s| matches!(s, Sighting::Plain { .. })).map(|s| (Place::OnTheNode, s))
}

fn nothing<T>(errno: Errno) -> Result<Option<T>, String> {
    if errno == Errno::EAGAIN { Ok(None) } else { Err(format!("receive: {errno}")) }
}

fn delivered6(
    protocol: Protocol,
    fd: &OwnedFd,
    bytes: &mut [u8],
) -> Result<Option<Sighting>, Errno> {
    let mut control = nix::cmsg_space!(nix::libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(bytes)];
    let (len, source, dest) = {
        let message = recvmsg::<SockaddrIn6>(
            fd.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::empty(),
        )?;
        let dest = message.cmsgs()?.find_map(|c| match c {
            ControlMessageOwned::Ipv6PacketInfo(p) => Some(p.ipi6_addr.s6_addr),
            _ => None,
        });
        (message.bytes, message.address.map(|a| a.ip()), dest)
    };
    let (Some(source), Some(dest)) = (source, dest) else { return Ok(None) };
    Ok(recognise_body(protocol, source.into(), IpAddr::from(dest), &bytes[..len]))
}

/// Sends packets made by hand. A packet that the kernel refuses at once (a drop in the output
/// hook is EPERM) counts as sent.
pub(super) fn send(mail: &[(IpAddr, Vec<u8>)]) -> Result<(), String> {
    let open = |family| {
        socket(family, SockType::Raw, SockFlag::empty(), SockProtocol::Raw)
            .map_err(|e| format!("raw socket: {e}"))
    };
    let (four, six) = (open(AddressFamily::Inet)?, open(AddressFamily::Inet6)?);
    for (dest, bytes) in mail {
        let fd = if dest.is_ipv4() { &four } else { &six };
        let to = SockaddrStorage::from(SocketAddr::new(*dest, 0));
        match sendto(fd.as_raw_fd(), bytes, &to, MsgFlags::empty()) {
            Ok(_) | Err(Errno::EPERM | Errno::ECONNREFUSED | Errno::EHOSTUNREACH) => {}
            Err(e) => return Err(format!("cannot send to {dest}: {e}")),
        }
    }
    Ok(())
}
