//! The way of a packet through the host. It reads like the netfilter diagram, top to bottom:
//!
//! ```text
//! link → prerouting → route ─┬→ input → delivered
//!                            └→ forward → postrouting → link
//! process → route → output → route again → postrouting ─┬→ link
//!                                                       └→ lo → prerouting → input → delivered
//! ```
//!
//! Facts from net/ipv4/ip_{input,forward,output}.c, nf_nat_core.c (nf_nat_inet_fn) and nf_nat_proto.c.
//! It must never know what rules say. Tests: tests/hooks.rs, tests/conntrack.rs, tests/routing.rs.

use crate::chance::Chance;
use crate::conntrack::nat::{Manip, translate};
use crate::conntrack::{Standing, Tracker, status};
use crate::journey::{Fate, Outcome, Sink, Step};
use crate::net::{Decision, Hop, LOOPBACK, Net};
use crate::nft::eval::{End, Env, Skb, run};
use crate::nft::{Attached, Hook, Store};
use crate::packet::{Entry, Packet};
use std::net::IpAddr;

/// What a packet meets on its way.
pub(crate) struct Path<'h, S> {
    pub(crate) store: &'h mut Store,
    pub(crate) net: &'h Net,
    pub(crate) tracker: &'h mut Tracker,
    pub(crate) chance: &'h mut Chance,
    pub(crate) sink: &'h mut S,
    pub(crate) now: u64,
    pub(crate) dry: bool,
}

/// The end of the way, when it comes early.
type Stopped = Result<(), Fate>;

/// What stands at a hook beside the chains of tables.
#[derive(Clone, Copy)]
enum Core {
    Conntrack,
    Nat,
    Confirm,
}

impl<S: Sink> Path<'_, S> {
    /// Takes a packet from where it enters to its end.
    pub(crate) fn travel(&mut self, packet: &Packet) -> Outcome {
        let before = self.tracker.peek(packet, self.now).map(|conn| conn.view(self.now));
        let mut skb = Skb { packet: packet.clone(), headers: packet.headers(), ct: None, in_link: None, out: None, accepted: false };
        let fate = match (packet.src, packet.dst, packet.entry) {
            (IpAddr::V4(_), IpAddr::V6(_), _) | (IpAddr::V6(_), IpAddr::V4(_), _) => Err(Fate::Unmodelled("a packet of two families")),
            (_, _, Entry::Link(link)) if self.net.link(link).is_none() => Err(Fate::Unmodelled("a link that is not there")),
            (_, _, Entry::Link(link)) => self.arrive(&mut skb, link),
            (_, _, Entry::Local) => self.depart(&mut skb),
        };
        self.outcome(fate.unwrap_or_else(|fate| fate), skb, before)
    }

    fn outcome(&mut self, fate: Fate, skb: Skb, before: Option<crate::conntrack::Connection>) -> Outcome {
        let conn = skb.ct.and_then(|ct| self.tracker.get(ct.id));
        let translated = |bit: u32, end: fn(&crate::conntrack::Tuple) -> (IpAddr, u16)| conn.filter(|conn| conn.has(bit)).map(|conn| end(&conn.reply));
        let outcome = Outcome {
            fate,
            dnat: translated(status::DST_NAT, |reply| (reply.src, reply.sport)),
            snat: translated(status::SRC_NAT, |reply| (reply.dst, reply.dport)),
            before,
            after: conn.map(|conn| conn.view(self.now)),
            accepted: skb.accepted,
            packet: skb.packet,
        };
        if let Some(ct) = skb.ct {
            self.tracker.release(ct.id);
        }
        outcome
    }

    fn arrive(&mut self, skb: &mut Skb, link: u32) -> Result<Fate, Fate> {
        skb.in_link = Some(link);
        self.hook(Hook::Prerouting, skb)?;
        let packet = &skb.packet;
        let foreign_loopback = packet.dst.is_loopback() && link != LOOPBACK && !(self.net.sysctls.route_localnet && packet.dst.is_ipv4());
        if !self.net.accepts_source(packet.src, link) || foreign_loopback {
            return Err(Fate::Martian);
        }
        let decision = self.net.route(packet.dst);
        self.sink.note(|| Step::Route(format!("{} → {decision:?}", skb.packet.dst)));
        match decision {
            Decision::Local | Decision::Broadcast => self.deliver(skb),
            Decision::Via(hop) => self.through(skb, hop),
            Decision::Multicast => Err(Fate::Unmodelled("multicast")),
            Decision::Unreachable => Err(Fate::NoRoute),
        }
    }

    fn deliver(&mut self, skb: &mut Skb) -> Result<Fate, Fate> {
        skb.out = None;
        self.hook(Hook::Input, skb)?;
        Ok(Fate::Delivered)
    }

    fn through(&mut self, skb: &mut Skb, hop: Hop) -> Result<Fate, Fate> {
        let sysctls = &self.net.sysctls;
        let forwarding = if skb.packet.dst.is_ipv4() { sysctls.ip_forward } else { sysctls.ipv6_forwarding };
        if !forwarding {
            return Err(Fate::NotForwarded);
        }
        if skb.packet.ttl <= 1 {
            return Err(Fate::Expired);
        }
        skb.packet.ttl -= 1;
        skb.headers = skb.packet.headers();
        skb.out = Some(hop);
        self.hook(Hook::Forward, skb)?;
        self.hook(Hook::Postrouting, skb)?;
        Ok(Fate::Forwarded(hop))
    }

    fn depart(&mut self, skb: &mut Skb) -> Result<Fate, Fate> {
        if skb.packet.src.is_unspecified()
            && let Some(source) = self.net.source_for(skb.packet.dst)
        {
            skb.packet.src = source;
            skb.headers = skb.packet.headers();
        }
        let mut hop = self.hop_for(skb)?;
        skb.out = Some(hop);
        let (dst, mark) = (skb.packet.dst, skb.packet.mark);
        self.hook(Hook::Output, skb)?;
        if (dst, mark) != (skb.packet.dst, skb.packet.mark) {
            hop = self.hop_for(skb)?;
        }
        skb.out = Some(hop);
        self.hook(Hook::Postrouting, skb)?;
        if hop.link != LOOPBACK {
            return Ok(Fate::Sent(hop));
        }
        // Loopback: the packet comes back in with its connection, and its route (to here) stays.
        skb.in_link = Some(LOOPBACK);
        skb.out = None;
        self.hook(Hook::Prerouting, skb)?;
        self.deliver(skb)
    }

    fn hop_for(&mut self, skb: &Skb) -> Result<Hop, Fate> {
        let decision = self.net.route(skb.packet.dst);
        self.sink.note(|| Step::Route(format!("{} → {decision:?}", skb.packet.dst)));
        match decision {
            Decision::Local => Ok(Hop { link: LOOPBACK, next: skb.packet.dst }),
            Decision::Via(hop) => Ok(hop),
            Decision::Broadcast | Decision::Multicast => Err(Fate::Unmodelled("broadcast and multicast")),
            Decision::Unreachable => Err(Fate::NoRoute),
        }
    }

    /// All that stands at a hook, by priority; of equals the one attached later comes first.
    fn hook(&mut self, hook: Hook, skb: &mut Skb) -> Stopped {
        self.sink.note(|| Step::Hook(hook));
        let ipv6 = skb.packet.dst.is_ipv6();
        let since = self.store.nat_since(ipv6);
        let nat = |priority: i32| since.map(|since| (priority, since, Core::Nat));
        let tracked = self.store.tracked_since(ipv6);
        let tracking = |priority: i32, step: Core| tracked.map(|since| (priority, since, step));
        let core = match hook {
            Hook::Prerouting | Hook::Output => [tracking(-200, Core::Conntrack), nat(-100)],
            Hook::Input | Hook::Postrouting => [nat(100), tracking(i32::MAX, Core::Confirm)],
            Hook::Forward => [None, None],
        };
        let mut core = core.into_iter().flatten().peekable();
        let mut next = 0;
        loop {
            let chain = self.store.hook(ipv6, hook).filter.get(next).copied();
            match (chain, core.peek()) {
                (Some(chain), Some((priority, since, _))) if before(chain, *priority, *since) => self.chain(hook, chain, skb)?,
                (Some(chain), None) => self.chain(hook, chain, skb)?,
                (_, Some((.., step))) => {
                    let step = *step;
                    core.next();
                    self.core(hook, step, skb)?;
                    continue;
                }
                (None, None) => return Ok(()),
            }
            next += 1;
        }
    }

    fn chain(&mut self, hook: Hook, chain: Attached, skb: &mut Skb) -> Stopped {
        self.sink.note(|| {
            let table = self.store.tables.get(chain.table);
            let name = table.and_then(|table| table.chains.get(chain.chain)).map(|chain| chain.name.to_string());
            let table = table.map(|table| format!("{} {}", table.family.name(), table.name));
            Step::Chain { table: table.unwrap_or_default(), chain: name.unwrap_or_default(), priority: chain.priority }
        });
        let mut env = Env { net: self.net, tracker: self.tracker, chance: self.chance, sink: self.sink, now: self.now, hook, dry: self.dry };
        match run(self.store, &mut env, skb, chain) {
            End::Accept => Ok(()),
            End::Drop(place) => Err(Fate::Dropped(place)),
            End::Reject(with, place) => Err(Fate::Rejected(with, place)),
        }
    }

    fn core(&mut self, hook: Hook, step: Core, skb: &mut Skb) -> Stopped {
        match step {
            Core::Conntrack => {
                if skb.ct.is_none() {
                    skb.ct = self.tracker.admit(&skb.packet, self.now, self.net.sysctls.nf_conntrack_tcp_loose);
                    self.sink.note(|| Step::Conntrack(skb.ct.map_or("invalid".into(), |ct| format!("{:?}{}", ct.standing, if ct.reply { ", reply" } else { "" }))));
                }
                Ok(())
            }
            Core::Nat => self.nat(hook, skb),
            Core::Confirm => match skb.ct {
                Some(ct) if !self.tracker.confirm(ct.id, self.now, self.net.sysctls.nf_conntrack_max) => Err(Fate::Unconfirmed(hook)),
                _ => Ok(()),
            },
        }
    }

    /// The NAT core: a new connection asks the NAT chains until one binds it, then the packet is rewritten.
    fn nat(&mut self, hook: Hook, skb: &mut Skb) -> Stopped {
        let Some(ct) = skb.ct else { return Ok(()) };
        let (manip, done) = match hook {
            Hook::Prerouting | Hook::Output => (Manip::Destination, status::DST_NAT_DONE),
            _ => (Manip::Source, status::SRC_NAT_DONE),
        };
        let is_done = |tracker: &Tracker| tracker.get(ct.id).is_none_or(|conn| conn.has(done));
        if ct.standing != Standing::Established && !is_done(self.tracker) {
            let ipv6 = skb.packet.dst.is_ipv6();
            let mut next = 0;
            while let Some(chain) = self.store.hook(ipv6, hook).nat.get(next).copied() {
                next += 1;
                self.chain(hook, chain, skb)?;
                if is_done(self.tracker) {
                    break;
                }
            }
            if !is_done(self.tracker) {
                self.tracker.bind_null(ct.id, manip, (self.chance, self.now));
            }
        } else if self.left_by_another_link(hook, skb) {
            self.tracker.kill(ct.id);
            return Err(Fate::Dropped(crate::nft::eval::Place { hook, table: "".into(), chain: "masquerade: the outgoing link changed".into(), rule: None }));
        }
        let Some(conn) = self.tracker.get(ct.id) else { return Ok(()) };
        if translate(&mut skb.packet, conn, ct.reply, manip) {
            skb.headers = skb.packet.headers();
            self.sink.note(|| Step::Rewritten(skb.packet.to_string()));
        }
        Ok(())
    }

    /// A masqueraded connection whose packets now leave elsewhere is over (nf_nat_oif_changed).
    fn left_by_another_link(&self, hook: Hook, skb: &Skb) -> bool {
        let Some(ct) = skb.ct.filter(|ct| !ct.reply && hook == Hook::Postrouting) else { return false };
        let link = self.tracker.get(ct.id).and_then(|conn| conn.masquerade_link);
        matches!((link, skb.out), (Some(link), Some(out)) if link != out.link)
    }
}

/// Does the chain run before a core step?
fn before(chain: Attached, priority: i32, since: u64) -> bool {
    (chain.priority, std::cmp::Reverse(chain.attached)) < (priority, std::cmp::Reverse(since))
}
