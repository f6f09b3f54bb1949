//! Makes nfacct objects: counters that rules refer to by name
//! (`include/uapi/linux/netfilter/nfnetlink_acct.h`). Knows no rule. Tests: `proptests` on the real
//! kernel, `netlab`.

use super::socket::Netfilter;
use crate::kernel::{Error, ErrorKind, Receipt};
use crate::netlink::write::{Head, Writer};
use crate::netlink::{ACK, CREATE, REQUEST, SUBSYS_ACCT};

/// `NFNL_MSG_ACCT_NEW`.
const NEW: u16 = 0;
/// `NFACCT_NAME`.
const NAME: u16 = 1;

/// Makes a counter, unless there is one of this name.
pub(super) fn make(netfilter: &mut Netfilter, name: &str) -> Result<Receipt, Error> {
    let mut w = Writer::new();
    let open = w.open_message(Head {
        kind: SUBSYS_ACCT | NEW,
        flags: REQUEST | ACK | CREATE,
        sequence: netfilter.next_sequence(),
        family: 0,
        resource: 0,
    });
    w.text(NAME, name);
    w.close_message(open);
    let made = netfilter.ask::<()>((&format!("make counter {name}"), w.as_bytes()), |_, _| {});
    match made {
        Err(e) if e.kind == ErrorKind::Busy || e.kind == ErrorKind::Exists => Ok(Receipt::of(0)),
        made => made.map(|_| Receipt::of(1)),
    }
}
