//! A connection as it is read from outside: its two directions, its status, what it says of itself.
//! Facts from linux/netfilter/nf_conntrack_common.h. It must never know the table.
//! Tests: tests/conntrack.rs.

use super::{State, Tuple};
use std::fmt;
use std::time::Duration;

/// Status bits of a connection (linux/netfilter/nf_conntrack_common.h).
pub mod status {
    /// A packet of the reply direction was seen.
    pub const SEEN_REPLY: u32 = 1 << 1;
    /// Never dropped early.
    pub const ASSURED: u32 = 1 << 2;
    /// The first packet has left the host.
    pub const CONFIRMED: u32 = 1 << 3;
    /// The source is translated.
    pub const SRC_NAT: u32 = 1 << 4;
    /// The destination is translated.
    pub const DST_NAT: u32 = 1 << 5;
    /// The source's translation is decided.
    pub const SRC_NAT_DONE: u32 = 1 << 7;
    /// The destination's translation is decided.
    pub const DST_NAT_DONE: u32 = 1 << 8;
    /// Removed from the table.
    pub const DYING: u32 = 1 << 9;
    /// Its time to live is not renewed by packets.
    pub const FIXED_TIMEOUT: u32 = 1 << 10;
    /// Another connection has its original direction: only answers find it, and no listing shows it.
    pub const NAT_CLASH: u32 = 1 << 12;
}

/// A connection, as read from outside.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Connection {
    /// The direction of the first packet.
    pub original: Tuple,
    /// The direction of the answers.
    pub reply: Tuple,
    /// Bits of [`status`].
    pub status: u32,
    /// The connection's mark.
    pub mark: u32,
    /// Protocol state.
    pub state: State,
    /// How long it lives if no packet comes.
    pub timeout: Duration,
}

impl fmt::Display for Connection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} {} {}s {} {}",
            self.original.protocol,
            self.state.name(),
            self.timeout.as_secs(),
            self.original,
            self.reply
        )?;
        let named = [
            (status::ASSURED, " [ASSURED]"),
            (status::SRC_NAT, " snat"),
            (status::DST_NAT, " dnat"),
        ];
        if self.status & status::SEEN_REPLY == 0 {
            out.write_str(" [UNREPLIED]")?;
        }
        named
            .iter()
            .filter(|(bit, _)| self.status & bit != 0)
            .try_for_each(|(_, text)| out.write_str(text))
    }
}
