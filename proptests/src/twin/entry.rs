//! A conntrack entry as text, the same from both kernels. Tests: `super::tests`.

use sim::conntrack::status;
use sim::packet::protocol;

/// What is compared of a connection.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) protocol: u8,
    pub(super) state: String,
    pub(super) original: String,
    pub(super) reply: String,
    pub(super) mark: u32,
    pub(super) status: u32,
    pub(super) timeout: u64,
}

/// The entry as text; its timeout rounded up to ten seconds, since a run takes time.
pub(super) fn text(entry: &Entry) -> String {
    let protocol = match entry.protocol {
        protocol::TCP => "tcp",
        protocol::UDP => "udp",
        protocol::SCTP => "sctp",
        protocol::ICMP => "icmp",
        protocol::ICMPV6 => "icmp6",
        _ => "other",
    };
    let Entry { state, original, reply, mark, .. } = entry;
    let timeout = entry.timeout.div_ceil(10) * 10;
    let mut text =
        format!("{protocol} {state} {original} reply {reply} mark {mark:#x} timeout {timeout}");
    let named = [
        (status::SEEN_REPLY, " replied"),
        (status::ASSURED, " assured"),
        (status::SRC_NAT, " snat"),
        (status::DST_NAT, " dnat"),
    ];
    for (_, name) in named.iter().filter(|(bit, _)| entry.status & bit != 0) {
        text.push_str(name);
    }
    text
}
