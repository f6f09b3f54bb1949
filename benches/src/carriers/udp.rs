//! Datagrams in bulk: one client with so many under way as a window allows, as QUIC has it, and a pod that says how many
//! have come. Both take and send what the kernel lets them at once. Tests: below, over loopback.

use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::UdpGroSegment;
use nix::sys::socket::{
    ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, recvmsg, sendmmsg, sendmsg, setsockopt,
};

/// The bytes of a datagram: what fits everywhere with QUIC's headers.
const LENGTH: usize = 1200;
/// Datagrams that are sent at once, and after so many the pod says how many have come.
const BURST: usize = 32;
/// Datagrams that may be under way: so many find room in any socket.
const WINDOW: u64 = 2 * BURST as u64;
/// After so long those under way are lost.
const PATIENCE: Duration = Duration::from_millis(20);

/// How a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sends {
    /// Each datagram is a packet (`sendmmsg`).
    Alone,
    /// A burst is a packet until it leaves the machine or arrives (UDP_SEGMENT).
    Together,
}

/// Says after each burst how many datagrams have come from its sender; until the socket breaks.
pub fn answer(socket: &UdpSocket) -> std::io::Result<()> {
    setsockopt(socket, UdpGroSegment, &true)?;
    let mut come: HashMap<SocketAddr, u64> = HashMap::new();
    let mut room = vec![0; 65_536];
    loop {
        let mut rooms = [IoSliceMut::new(&mut room)];
        let (fd, flags) = (socket.as_raw_fd(), MsgFlags::empty());
        let message = recvmsg::<SockaddrIn>(fd, &mut rooms, None, flags)?;
        let Some(from) = message.address.map(|a| SocketAddr::from((a.ip(), a.port()))) else {
            continue;
        };
        let count = come.entry(from).or_default();
        let before = *count / BURST as u64;
        *count += message.bytes.div_ceil(LENGTH) as u64;
        if *count / BURST as u64 > before {
            // Who is gone hears nothing.
            let _ = socket.send_to(&count.to_le_bytes(), from);
        }
    }
}

/// Datagrams a second that came to the pod.
pub fn carry(to: SocketAddr, time: Duration, sends: Sends) -> Result<f64, String> {
    let failed = |e: std::io::Error| format!("datagrams to {to}: {e}");
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(failed)?;
    socket.connect(to).map_err(failed)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let (mut sent, mut come) = (0, 0);
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BURST, None);
    let began = Instant::now();
    while began.elapsed() < time {
        while sent - come + BURST as u64 <= WINDOW {
            sent += burst(&socket, sends, &mut headers).map_err(failed)? as u64;
        }
        let mut told = [0; 8];
        match socket.recv(&mut told) {
            Ok(8) => come = come.max(u64::from_le_bytes(told)),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => sent = come,
            Err(e) => return Err(failed(e)),
        }
        // What was given up may come after all.
        sent = sent.max(come);
    }
    let took = began.elapsed().as_secs_f64();
    if come == 0 { Err(format!("no datagram came to {to}")) } else { Ok(come as f64 / took) }
}

fn burst(
    socket: &UdpSocket,
    sends: Sends,
    headers: &mut MultiHeaders<SockaddrIn>,
) -> std::io::Result<usize> {
    static BYTES: [u8; LENGTH] = [b'x'; LENGTH];
    let (fd, flags) = (socket.as_raw_fd(), MsgFlags::empty());
    match sends {
        Sends::Alone => {
            let rooms: [[IoSlice<'_>; 1]; BURST] = std::array::from_fn(|_| [IoSlice::new(&BYTES)]);
            Ok(sendmmsg(fd, headers, rooms.iter(), [None; BURST], [], flags)?.count())
        }
        Sends::Together => {
            let rooms = [IoSlice::new(&BYTES); BURST];
            let each = [ControlMessage::UdpGsoSegments(&(LENGTH as u16))];
            sendmsg::<SockaddrIn>(fd, &rooms, &each, flags, None)?;
            Ok(BURST)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may say so")]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_sending_are_counted() {
        let pod = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = pod.local_addr().unwrap();
        std::thread::spawn(move || answer(&pod));
        for sends in [Sends::Alone, Sends::Together] {
            assert!(carry(to, Duration::from_millis(50), sends).unwrap() > 1000.0);
        }
    }
}
