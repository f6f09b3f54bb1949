//! A packet on its way through one host, what a function at a hook may see and change of that host, and what it may decide.
//! Every facility (nf_tables, xtables, IPVS) speaks these words. It must never know any of them.
//! Tests: those of the facilities, and tests/hooks.rs.

use crate::chance::Chance;
use crate::conntrack::{Ct, Tracker};
use crate::net::{Hop, Net};
use crate::nft::{Hook, RejectWith};
use crate::packet::{Headers, Packet};
use std::sync::Arc;

/// A packet on its way through the host.
pub(crate) struct Skb {
    pub(crate) packet: Packet,
    pub(crate) headers: Headers,
    pub(crate) ct: Option<Ct>,
    pub(crate) in_link: Option<u32>,
    pub(crate) out: Option<Hop>,
    /// A rule said accept.
    pub(crate) accepted: bool,
    /// A rule or IPVS wants no connection for it (IP_CT_UNTRACKED); `ct` is nothing then.
    pub(crate) untracked: bool,
    /// IPVS has handled it (skb->ipvs_property), so that its hooks let it pass.
    #[allow(dead_code, reason = "IPVS uses it")]
    pub(crate) ipvs: bool,
}

impl Skb {
    pub(crate) fn new(packet: &Packet) -> Skb {
        let (packet, headers) = (packet.clone(), packet.headers());
        Skb {
            packet,
            headers,
            ct: None,
            in_link: None,
            out: None,
            accepted: false,
            untracked: false,
            ipvs: false,
        }
    }

    /// The packet was changed: its header bytes are written anew.
    #[inline]
    pub(crate) fn rewrite(&mut self) {
        self.headers = self.packet.headers();
    }
}

/// Everything of the host but the facilities' own state.
pub(crate) struct Env<'h, S> {
    pub(crate) net: &'h Net,
    pub(crate) tracker: &'h mut Tracker,
    pub(crate) chance: &'h mut Chance,
    pub(crate) sink: &'h mut S,
    pub(crate) now: u64,
    pub(crate) hook: Hook,
    /// Counters and limits stand still.
    pub(crate) dry: bool,
}

/// Which rule decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The hook the packet was at.
    pub hook: Hook,
    /// Name of the table; empty where no table decided.
    pub table: Arc<str>,
    /// Name of the chain.
    pub chain: Arc<str>,
    /// Handle of the rule; nothing: the chain's policy.
    pub rule: Option<u64>,
}

/// What a function at a hook makes of a packet.
pub(crate) enum End {
    /// The next function sees it (NF_ACCEPT).
    Accept,
    Drop(Place),
    Reject(RejectWith, Place),
    /// The function has rewritten the packet and sends it itself: a route is looked up for its destination, then it passes
    /// the output hook from its start, and postrouting (NF_STOLEN with NF_HOOK(NF_INET_LOCAL_OUT), as ip_vs_xmit.c does).
    #[allow(dead_code, reason = "facilities beside nf_tables give it")]
    Resend,
}
