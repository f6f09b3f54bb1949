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

use crate::answer;
use crate::chance::Chance;
use crate::conntrack::nat::{Manip, translate};
use crate::conntrack::{Admission, Ct, Entering, Standing, Tracker, status};
use crate::facilities::Facilities;
use crate::hooks::{Attached, HookFunction, Hooks};
use crate::journey::{Fate, Journey, Outcome, Sink, Step};
use crate::net::{Decision, Hop, LOOPBACK, Net};
use crate::nft::eval::run;
use crate::nft::{Hook, RejectWith, Store};
use crate::packet::{Entry, Packet};
use crate::skb::{End, Env, Place, Skb};
use std::net::IpAddr;

/// What a packet meets on its way.
pub(crate) struct Path<'h, S> {
    pub(crate) store: &'h mut Store,
    pub(crate) hooks: &'h Hooks,
    pub(crate) facilities: &'h mut Facilities,
    pub(crate) net: &'h Net,
    pub(crate) tracker: &'h mut Tracker,
    pub(crate) chance: &'h mut Chance,
    pub(crate) sink: &'h mut S,
    pub(crate) now: u64,
    pub(crate) dry: bool,
    /// Who overtakes the packet, and where.
    pub(crate) overtaking: Option<Overtaking<'h>>,
    /// What became of those who did.
    pub(crate) overtook: Vec<Outcome>,
}

/// Packets that go all their way while another stands at a hook, before what is there from this priority on.
#[derive(Clone, Copy)]
pub(crate) struct Overtaking<'h> {
    pub(crate) hook: Hook,
    pub(crate) priority: i32,
    pub(crate) by: &'h [Packet],
}

/// Why the way does not go on as usual.
enum Stop {
    /// It ends here.
    End(Fate),
    /// A facility sends the packet anew from the output hook.
    Resend,
}

impl From<Fate> for Stop {
    fn from(fate: Fate) -> Stop {
        Stop::End(fate)
    }
}

/// How often a packet may be sent anew before it counts as looping.
const RESENDS: u32 = 4;

impl<S: Sink> Path<'_, S> {
    /// Takes a packet from where it enters to its end.
    pub(crate) fn travel(&mut self, packet: &Packet) -> Outcome {
        let before = self.tracker.peek(packet, self.now).map(|conn| conn.view(self.now));
        let mut skb = Skb::new(packet);
        let fate = self.walk(&mut skb);
        self.outcome(fate, skb, before)
    }

    fn walk(&mut self, skb: &mut Skb) -> Fate {
        let mut end = match (skb.packet.src, skb.packet.dst, skb.packet.entry) {
            (IpAddr::V4(_), IpAddr::V6(_), _) | (IpAddr::V6(_), IpAddr::V4(_), _) => {
                Err(Fate::Unmodelled("a packet of two families").into())
            }
            (_, _, Entry::Link(link)) if self.net.link(link).is_none() => {
                Err(Fate::Unmodelled("a link that is not there").into())
            }
            (_, _, Entry::Link(link)) => self.arrive(skb, link),
            (_, _, Entry::Local) => self.depart(skb),
        };
        for _ in 0..RESENDS {
            if !matches!(end, Err(Stop::Resend)) {
                break;
            }
            end = self.resend(skb);
        }
        let fate = match end {
            Ok(fate) | Err(Stop::End(fate)) => fate,
            Err(Stop::Resend) => Fate::Unmodelled("a packet that is sent anew without end"),
        };
        if let Fate::Rejected(RejectWith::TcpReset, _) = fate {
            self.close(skb);
        }
        fate
    }

    /// Who sends a reset for somebody else ends the connection (nf_conntrack_tcp_set_closing).
    fn close(&mut self, skb: &Skb) {
        let routed = !matches!(self.net.route(skb.packet.src), Decision::Unreachable);
        if let Some(ct) = skb.ct.filter(|_| routed && answer::reset(&skb.packet).is_some()) {
            self.tracker.close(ct.id, self.now, &self.net.sysctls.timers);
        }
    }

    fn outcome(
        &mut self,
        fate: Fate,
        skb: Skb,
        before: Option<crate::conntrack::Connection>,
    ) -> Outcome {
        let conn = skb.ct.and_then(|ct| self.tracker.get(ct.id));
        let translated = |bit: u32, end: fn(&crate::conntrack::Tuple) -> (IpAddr, u16)| {
            conn.filter(|conn| conn.has(bit)).map(|conn| end(&conn.reply))
        };
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

    fn arrive(&mut self, skb: &mut Skb, link: u32) -> Result<Fate, Stop> {
        skb.in_link = Some(link);
        if let (IpAddr::V6(src), IpAddr::V6(dst)) = (skb.packet.src, skb.packet.dst)
            && (src.is_multicast() || link != LOOPBACK && (src.is_loopback() || dst.is_loopback()))
        {
            return Err(Fate::Martian.into());
        }
        self.hook(Hook::Prerouting, skb)?;
        if let (IpAddr::V4(src), IpAddr::V4(dst)) = (skb.packet.src, skb.packet.dst)
            && !self.net.accepts(src, dst, link)
        {
            return Err(Fate::Martian.into());
        }
        let decision = self.net.route(skb.packet.dst);
        self.sink.note(|| Step::Route(format!("{} → {decision:?}", skb.packet.dst)));
        match decision {
            Decision::Local | Decision::Broadcast => self.deliver(skb),
            Decision::Via(hop) => self.through(skb, hop),
            Decision::Multicast => Err(Fate::Unmodelled("multicast").into()),
            Decision::Unreachable => Err(Fate::NoRoute.into()),
        }
    }

    fn deliver(&mut self, skb: &mut Skb) -> Result<Fate, Stop> {
        skb.out = None;
        self.hook(Hook::Input, skb)?;
        Ok(Fate::Delivered)
    }

    fn through(&mut self, skb: &mut Skb, hop: Hop) -> Result<Fate, Stop> {
        let sysctls = &self.net.sysctls;
        let forwarding =
            if skb.packet.dst.is_ipv4() { sysctls.ip_forward } else { sysctls.ipv6_forwarding };
        if !forwarding {
            return Err(Fate::NotForwarded.into());
        }
        if skb.packet.ttl <= 1 {
            return Err(Fate::Expired.into());
        }
        skb.packet.ttl -= 1;
        skb.rewrite();
        skb.out = Some(hop);
        self.hook(Hook::Forward, skb)?;
        self.hook(Hook::Postrouting, skb)?;
        Ok(Fate::Forwarded(hop))
    }

    fn depart(&mut self, skb: &mut Skb) -> Result<Fate, Stop> {
        if skb.packet.src.is_unspecified()
            && let Some(source) = self.net.source_for(skb.packet.dst)
        {
            skb.packet.src = source;
            skb.rewrite();
        }
        self.output(skb)?;
        self.leave(skb)
    }

    /// The output hook; a packet it gives another destination or mark is routed again.
    fn output(&mut self, skb: &mut Skb) -> Result<(), Stop> {
        skb.out = Some(self.hop_for(skb)?);
        let (dst, mark) = (skb.packet.dst, skb.packet.mark);
        self.hook(Hook::Output, skb)?;
        if (dst, mark) != (skb.packet.dst, skb.packet.mark) {
            skb.out = Some(self.hop_for(skb)?);
        }
        Ok(())
    }

    /// What a facility has taken out of a hook goes to the output hook as if it were sent here.
    fn resend(&mut self, skb: &mut Skb) -> Result<Fate, Stop> {
        let arrived = matches!(skb.packet.entry, Entry::Link(_));
        skb.in_link = None;
        self.output(skb)?;
        match self.leave(skb)? {
            Fate::Sent(hop) if arrived => Ok(Fate::Forwarded(hop)),
            fate => Ok(fate),
        }
    }

    fn leave(&mut self, skb: &mut Skb) -> Result<Fate, Stop> {
        self.hook(Hook::Postrouting, skb)?;
        if let Some(hop) = skb.out.filter(|hop| hop.link != LOOPBACK) {
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
            Decision::Broadcast | Decision::Multicast => {
                Err(Fate::Unmodelled("broadcast and multicast"))
            }
            Decision::Unreachable => Err(Fate::NoRoute),
        }
    }

    /// All that stands at a hook, in order.
    fn hook(&mut self, hook: Hook, skb: &mut Skb) -> Result<(), Stop> {
        self.sink.note(|| Step::Hook(hook));
        let hooks = self.hooks;
        for attached in hooks.at(skb.packet.dst.is_ipv6(), hook) {
            if self.overtaking.is_some() {
                self.let_past(hook, attached.priority);
            }
            self.function(hook, *attached, skb)?;
        }
        Ok(())
    }

    /// Those who overtake go by here, if this is the place.
    fn let_past(&mut self, hook: Hook, priority: i32) {
        let here = |one: &mut Overtaking<'_>| one.hook == hook && one.priority <= priority;
        let Some(overtaking) = self.overtaking.take_if(here) else { return };
        for packet in overtaking.by {
            self.sink.note(|| Step::Overtaken(packet.to_string()));
            let outcome = self.travel(packet);
            self.overtook.push(outcome);
        }
        self.sink.note(|| Step::Hook(hook));
    }

    #[inline]
    fn function(&mut self, hook: Hook, attached: Attached, skb: &mut Skb) -> Result<(), Stop> {
        match attached.function {
            HookFunction::Chain { .. } | HookFunction::Other(..) => {
                self.facility(hook, attached, skb)
            }
            HookFunction::Conntrack => self.track(hook, skb),
            HookFunction::Nat => self.nat(hook, skb),
            HookFunction::Confirm => self.confirm(hook, skb),
        }
    }

    fn confirm(&mut self, hook: Hook, skb: &mut Skb) -> Result<(), Stop> {
        let Some(ct) = skb.ct.filter(|ct| !ct.reply) else { return Ok(()) };
        match self.tracker.confirm(ct.id, self.now) {
            Entering::Done => Ok(()),
            Entering::Merged(id) => {
                self.tracker.release(ct.id);
                skb.ct = Some(Ct { id, ..ct });
                Ok(())
            }
            Entering::Refused => Err(Fate::Unconfirmed(hook).into()),
        }
    }

    /// Connection tracking finds or opens the packet's connection, unless it brings one along.
    fn track(&mut self, hook: Hook, skb: &mut Skb) -> Result<(), Stop> {
        if skb.ct.is_some() || skb.untracked {
            return Ok(());
        }
        let admission = self.tracker.admit(&skb.packet, self.now, &self.net.sysctls);
        self.sink.note(|| Step::Conntrack(admission.to_string()));
        match admission {
            Admission::Tracked(ct) => skb.ct = Some(ct),
            Admission::Invalid => {}
            Admission::Untracked => skb.untracked = true,
            Admission::Full => return Err(Fate::Unconfirmed(hook).into()),
        }
        Ok(())
    }

    /// A base chain, or a function of a facility beside nf_tables.
    fn facility(&mut self, hook: Hook, attached: Attached, skb: &mut Skb) -> Result<(), Stop> {
        let mut env = Env {
            net: self.net,
            tracker: self.tracker,
            chance: self.chance,
            sink: self.sink,
            now: self.now,
            hook,
            dry: self.dry,
        };
        let end = match attached.function {
            HookFunction::Chain { table, chain } => {
                env.sink.note(|| base_chain(self.store, (table, chain), attached.priority));
                run((self.store, self.facilities), &mut env, skb, (table, chain))
            }
            HookFunction::Other(facility, number) => {
                self.facilities.run((facility, number), &mut env, skb)
            }
            HookFunction::Conntrack | HookFunction::Nat | HookFunction::Confirm => End::Accept,
        };
        match end {
            End::Accept => Ok(()),
            End::Drop(place) => Err(Fate::Dropped(place).into()),
            End::Reject(with, place) => Err(Fate::Rejected(with, place).into()),
            End::Resend => Err(Stop::Resend),
        }
    }

    /// The NAT core: a new connection asks the NAT chains until one binds it, then the packet is rewritten.
    fn nat(&mut self, hook: Hook, skb: &mut Skb) -> Result<(), Stop> {
        let Some(ct) = skb.ct else { return Ok(()) };
        let (manip, done) = match hook {
            Hook::Prerouting | Hook::Output => (Manip::Destination, status::DST_NAT_DONE),
            _ => (Manip::Source, status::SRC_NAT_DONE),
        };
        let is_done = |tracker: &Tracker| tracker.get(ct.id).is_none_or(|conn| conn.has(done));
        // An error is translated as its connection is, and asks nobody (nf_nat_icmp_reply_translation).
        let quoting = ct.standing == Standing::Related && skb.packet.is_icmp_error();
        if !quoting && ct.standing != Standing::Established && !is_done(self.tracker) {
            let hooks = self.hooks;
            for attached in hooks.nat(skb.packet.dst.is_ipv6(), hook) {
                self.facility(hook, *attached, skb)?;
                if is_done(self.tracker) {
                    break;
                }
            }
            if !is_done(self.tracker) {
                self.tracker.bind_null(ct.id, manip, (self.chance, self.now));
            }
        } else if self.left_by_another_link(hook, skb) {
            self.tracker.kill(ct.id);
            let place = Place {
                hook,
                table: "".into(),
                chain: "masquerade: the outgoing link changed".into(),
                rule: None,
            };
            return Err(Fate::Dropped(place).into());
        }
        let Some(conn) = self.tracker.get(ct.id) else { return Ok(()) };
        if translate(&mut skb.packet, conn, ct.reply, manip) {
            skb.rewrite();
            self.sink.note(|| Step::Rewritten(skb.packet.to_string()));
        }
        Ok(())
    }

    /// A masqueraded connection whose packets now leave elsewhere is over (nf_nat_oif_changed).
    fn left_by_another_link(&self, hook: Hook, skb: &Skb) -> bool {
        let Some(ct) = skb.ct.filter(|ct| !ct.reply && hook == Hook::Postrouting) else {
            return false;
        };
        let link = self.tracker.get(ct.id).and_then(|conn| conn.masquerade_link);
        matches!((link, skb.out), (Some(link), Some(out)) if link != out.link)
    }
}

impl Path<'_, Vec<Step>> {
    /// As `travel`; the packet this host answers with by itself goes its way too, with the connection of the one it answers
    /// (nf_ct_attach).
    pub(crate) fn travel_and_answer(&mut self, packet: &Packet) -> (Outcome, Option<Journey>) {
        let before = self.tracker.peek(packet, self.now).map(|conn| conn.view(self.now));
        let mut skb = Skb::new(packet);
        let fate = self.walk(&mut skb);
        let mut last: Option<Journey> = None;
        let (mut ended, mut ct) = ((fate.clone(), skb.packet.clone()), skb.ct);
        // An answer may be rejected too, and that is answered: a reset by an error, an error by nothing.
        while let Some(packet) = answer::to(&ended.0, &ended.1, self.net.is_local(ended.1.dst)) {
            let (mut journey, of) = self.answer(packet, ct);
            if let Some(earlier) = last {
                journey.steps.splice(0..0, earlier.steps);
            }
            ended = (journey.outcome.fate.clone(), journey.outcome.packet.clone());
            ct = of;
            last = Some(journey);
        }
        (self.outcome(fate, skb, before), last)
    }

    /// One answer on its way, with the connection of the packet it answers.
    fn answer(&mut self, packet: Packet, of: Option<Ct>) -> (Journey, Option<Ct>) {
        let mut skb = Skb::new(&packet);
        skb.ct = of.map(|ct| Ct { reply: !ct.reply, standing: Standing::Related, ..ct });
        let before = std::mem::take(self.sink);
        let fate = self.walk(&mut skb);
        let steps = std::mem::replace(self.sink, before);
        // The connection is released with the packet that is answered.
        let ct = skb.ct.take();
        (Journey { packet, steps, outcome: self.outcome(fate, skb, None) }, ct)
    }
}

fn base_chain(store: &Store, at: (u32, u32), priority: i32) -> Step {
    let table = store.tables.get(at.0);
    let chain = table
        .and_then(|table| table.chains.get(at.1))
        .map(|chain| chain.name.to_string())
        .unwrap_or_default();
    let table =
        table.map(|table| format!("{} {}", table.family.name(), table.name)).unwrap_or_default();
    Step::Chain { table, chain, priority }
}
