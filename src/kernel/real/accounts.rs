//! Makes and reads nfacct objects: counters that rules refer to by name
//! (`include/uapi/linux/netfilter/nfnetlink_acct.h`). Knows no rule. Tests: `proptests` on the real
//! kernel, `netlab`.

use super::socket::Netlink;
use crate::kernel::{Error, ErrorKind, Receipt};
use crate::netlink::read::u64_be;
use crate::netlink::write::{Head, Writer};
use crate::netlink::{ACK, CREATE, REQUEST, SUBSYS_ACCT};

/// `NFNL_MSG_ACCT_NEW`.
const NEW: u16 = 0;
/// `NFNL_MSG_ACCT_GET`.
const GET: u16 = 1;
/// `NFACCT_NAME`.
const NAME: u16 = 1;
/// `NFACCT_PKTS`.
const PACKETS: u16 = 2;

/// Makes a counter, unless there is one of this name.
pub(super) fn make(netfilter: &mut Netlink, name: &str) -> Result<Receipt, Error> {
    let request = request(netfilter, (NEW, CREATE), name);
    let made = netfilter.ask::<()>((&format!("make counter {name}"), &request), |_, _| {});
    match made {
        Err(e) if e.kind == ErrorKind::Busy || e.kind == ErrorKind::Exists => Ok(Receipt::of(0)),
        made => made.map(|_| Receipt::of(1)),
    }
}

/// How many packets a counter has counted.
pub(super) fn packets(netfilter: &mut Netlink, name: &str) -> Result<u64, Error> {
    let request = request(netfilter, (GET, 0), name);
    let what = format!("read counter {name}");
    let told = netfilter.ask((&what, &request), |out, message| {
        out.extend(message.attributes().get(PACKETS).and_then(u64_be));
    })?;
    told.into_iter().next().ok_or_else(|| Error::new(ErrorKind::Broken, what, "no answer"))
}

fn request(netfilter: &mut Netlink, (kind, flags): (u16, u16), name: &str) -> Vec<u8> {
    let mut w = Writer::new();
    let open = w.open_message(Head {
        kind: SUBSYS_ACCT | kind,
        flags: REQUEST | ACK | flags,
        sequence: netfilter.next_sequence(),
        family: 0,
        resource: 0,
    });
    w.text(NAME, name);
    w.close_message(open);
    w.as_bytes().to_vec()
}
