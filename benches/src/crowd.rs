//! Fills a namespace's conntrack table over ctnetlink, faster than packets would
//! (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`). Knows no Service. Tests: by running `flows`.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use kube_proxy::model::Family;
use kube_proxy::netlink::write::{Head, Writer};
use kube_proxy::netlink::{CREATE, REQUEST, SUBSYS_CTNETLINK, nfproto};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, socket,
};

/// `IPCTNL_MSG_CT_NEW`, and attributes of `enum ctattr_type`, `ctattr_ip` and `ctattr_l4proto`.
const NEW: u16 = 0;
const TUPLES: [u16; 2] = [1, 2];
const IP: u16 = 1;
const PROTO: u16 = 2;
const TIMEOUT: u16 = 7;
const UDP: u8 = 17;
/// Seconds that they stay.
const LASTING: u32 = 3600;
/// Messages of one datagram: the kernel carries them out one after the other.
const AT_ONCE: usize = 200;
/// The most entries that all namespaces may have.
const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// A UDP flow: who asks, whom he asks, and who answers.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// The client.
    pub client: (Ipv4Addr, u16),
    /// Whom it asked.
    pub asked: (Ipv4Addr, u16),
    /// Who answers in his place.
    pub answers: (Ipv4Addr, u16),
}

/// Puts flows into the table of the calling thread's namespace.
pub fn fill(flows: impl Iterator<Item = Flow>) -> Result<(), String> {
    let failed = |e: nix::errno::Errno| format!("ctnetlink: {e}");
    let (family, protocol) = (AddressFamily::Netlink, SockProtocol::NetlinkNetFilter);
    let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).map_err(failed)?;
    let send = |bytes: &[u8]| {
        let to = NetlinkAddr::new(0, 0);
        sendto(socket.as_raw_fd(), bytes, &to, MsgFlags::empty()).map(drop).map_err(failed)
    };
    let mut writer = Writer::new();
    for (number, flow) in flows.enumerate() {
        write(&mut writer, &flow, number as u32);
        if number % AT_ONCE == AT_ONCE - 1 {
            send(writer.as_bytes())?;
            writer = Writer::new();
        }
    }
    if writer.is_empty() { Ok(()) } else { send(writer.as_bytes()) }
}

fn write(w: &mut Writer, flow: &Flow, sequence: u32) {
    let open = w.open_message(Head {
        kind: SUBSYS_CTNETLINK | NEW,
        flags: REQUEST | CREATE,
        sequence,
        family: nfproto(Family::V4),
        resource: 0,
    });
    let ways = [(flow.client, flow.asked), (flow.answers, flow.client)];
    for (tuple, (from, to)) in TUPLES.into_iter().zip(ways) {
        w.nest(tuple, |w| {
            w.nest(IP, |w| {
                w.bytes(1, &from.0.octets());
                w.bytes(2, &to.0.octets());
            });
            w.nest(PROTO, |w| {
                w.bytes(1, &[UDP]);
                w.bytes(2, &from.1.to_be_bytes());
                w.bytes(3, &to.1.to_be_bytes());
            });
        });
    }
    w.be32(TIMEOUT, LASTING);
    w.close_message(open);
}

/// Room for more entries than the machine allows by itself, for as long as this lives.
#[derive(Debug)]
pub struct Room {
    before: String,
}

impl Room {
    /// Room for so many, and some.
    pub fn for_entries(entries: usize) -> Result<Room, String> {
        let failed = |e: std::io::Error| format!("{MAX}: {e}");
        let before = std::fs::read_to_string(MAX).map_err(failed)?;
        let now: usize = before.trim().parse().map_err(|e| format!("{MAX}: {before:?}: {e}"))?;
        let wanted = (entries + 100_000).max(now);
        std::fs::write(MAX, wanted.to_string()).map_err(failed)?;
        Ok(Room { before })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = std::fs::write(MAX, self.before.trim());
    }
}
