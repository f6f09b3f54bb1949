//! What IPVS does with packets: requests to a virtual service are sent on to a destination, answers get the virtual address
//! back, ICMP errors follow their connection. Facts from ip_vs_core.c (ip_vs_in, ip_vs_out), ip_vs_xmit.c (ip_vs_nat_xmit) and
//! ip_vs_nfct.c. It must never know how services are changed. Tests: tests/ipvs.rs.

use super::conn::{Conn, Flow, Template, TemplateKey};
use super::schedule::Ends;
use super::service::{ServiceKey, flags};
use super::state::{IpvsState, Way};
use super::table::{DestId, Ipvs};
use crate::chance::Chance;
use crate::conntrack::{SECOND, Tracker, status};
use crate::facilities::Function;
use crate::journey::{Sink, Step};
use crate::net::{Decision, masked};
use crate::nft::{Hook, RejectWith};
use crate::packet::{self, Entry, Packet, Transport, protocol};
use crate::skb::{End, Env, Place, Skb};
use std::net::{IpAddr, Ipv4Addr};

/// Answers of destinations: LOCAL_IN 98, LOCAL_OUT -99, FORWARD 100.
pub(super) const REPLY: u16 = 0;
/// Requests: LOCAL_IN 99, LOCAL_OUT -98.
pub(super) const REQUEST: u16 = 1;
/// ICMP errors that pass by: FORWARD 99.
pub(super) const FORWARD_ICMP: u16 = 2;

/// Where the functions stand (ip_vs_ops4 and ip_vs_ops6).
pub(super) const PLACES: [(Hook, i32, u16); 6] = [
    (Hook::Input, 98, REPLY),
    (Hook::Input, 99, REQUEST),
    (Hook::Output, -99, REPLY),
    (Hook::Output, -98, REQUEST),
    (Hook::Forward, 99, FORWARD_ICMP),
    (Hook::Forward, 100, REPLY),
];

impl Function for Ipvs {
    fn run<S: Sink>(&mut self, function: u16, env: &mut Env<'_, S>, skb: &mut Skb) -> End {
        if skb.ipvs {
            return End::Accept;
        }
        match function {
            _ if skb.packet.is_icmp_error() => self.error(function, env, skb),
            REPLY => self.answer(env, skb),
            REQUEST => self.request(env, skb),
            _ => End::Accept,
        }
    }

    fn begin_dry(&mut self) {
        self.journal = Some(Vec::new());
    }

    fn end_dry(&mut self) {
        for undo in self.journal.take().into_iter().flatten().rev() {
            self.undo(undo);
        }
    }
}

/// What becomes of a request without a connection.
enum Found {
    Conn(Flow, Conn),
    /// It is none of IPVS' business.
    Pass,
    /// The service has no destination for it.
    Nobody,
    /// A client's connection that connection tracking still knows.
    Drop,
}

impl Ipvs {
    fn request<S: Sink>(&mut self, env: &mut Env<'_, S>, skb: &mut Skb) -> End {
        let Some(flow) = Flow::of(&skb.packet) else { return End::Accept };
        let found = match self.usable(&flow, env, skb) {
            Found::Pass => self.schedule(&flow, env, skb),
            found => found,
        };
        match found {
            Found::Conn(flow, conn) => self.send(flow, conn, env, skb),
            Found::Pass => End::Accept,
            Found::Nobody => {
                env.sink.note(|| Step::Verdict("ipvs: no destination".into()));
                End::Reject(RejectWith::UnreachableX(1), place(env.hook, "no destination"))
            }
            Found::Drop => End::Drop(place(env.hook, "the destination is gone")),
        }
    }

    /// The connection the packet belongs to, unless it is to be scheduled anew.
    fn usable<S: Sink>(&mut self, flow: &Flow, env: &mut Env<'_, S>, skb: &mut Skb) -> Found {
        let Some(mut conn) = self.conn(flow) else { return Found::Pass };
        let real = self.real(conn.dest);
        let (available, weight) = real.map_or((false, 0), |real| (real.available, real.weight));
        let nodest = self.sysctls.expire_nodest_conn;
        let reused = self.sysctls.conn_reuse_mode & 1 != 0 && conn.is_over(flow.protocol);
        let anew = opens(&skb.packet) && (nodest && weight == 0 || reused);
        if !anew && available {
            return Found::Conn(*flow, conn);
        }
        if !anew && !nodest {
            return Found::Drop;
        }
        let known = conn.tracked && confirmed(env.tracker, skb);
        if !known && conn.tracked {
            conn.tracked = false;
            self.put_conn(*flow, conn);
        }
        self.expire(flow, env.tracker);
        if known {
            skb.ct = None;
            return Found::Drop;
        }
        Found::Pass
    }

    fn schedule<S: Sink>(&mut self, flow: &Flow, env: &mut Env<'_, S>, skb: &Skb) -> Found {
        let sloppy = self.sysctls.sloppy_tcp && !is_reset(&skb.packet);
        if !opens(&skb.packet) && !sloppy {
            return Found::Pass;
        }
        let Some(key) = self.service_for(flow, skb.packet.mark) else { return Found::Pass };
        let local = skb.in_link.is_none_or(|link| link == crate::net::LOOPBACK);
        let answered = Flow { client: flow.virt, virt: flow.client, ..*flow };
        if local && self.conn(&answered).is_some() {
            return Found::Pass;
        }
        let service = &self.services[&key].service;
        let (bits, port) = (service.flags, service.port());
        if bits & flags::PERSISTENT != 0 {
            return self.stick(flow, &key, (env.now, &mut *env.chance));
        }
        if port.is_some_and(|port| port != flow.virt.1) {
            return Found::Nobody;
        }
        match self.choose(&key, &flow.ends(), (env.now, &mut *env.chance)) {
            Some(dest) => self.open((*flow, &key), dest, None, env.now),
            None => Found::Nobody,
        }
    }

    /// A mark first, then the very address and port, then the address with port 0.
    fn service_for(&self, flow: &Flow, mark: u32) -> Option<ServiceKey> {
        let marked = ServiceKey::Mark { ipv6: flow.virt.0.is_ipv6(), mark };
        let exact = ServiceKey::new(flow.protocol, flow.virt.0, flow.virt.1);
        let any = ServiceKey::new(flow.protocol, flow.virt.0, 0);
        let candidates = [(mark != 0).then_some(marked), Some(exact), Some(any)];
        candidates.into_iter().flatten().find(|key| self.services.contains_key(key))
    }

    /// A persistent service: the client's template decides, or makes one (ip_vs_sched_persist).
    fn stick(&mut self, flow: &Flow, key: &ServiceKey, (now, chance): (u64, &mut Chance)) -> Found {
        let Some(service) = self.services.get(key).map(|one| one.service.clone()) else {
            return Found::Pass;
        };
        let client = network(flow.client.0, service.netmask);
        let own_port = service.port() == Some(flow.virt.1);
        let (protocol, virt) = match key {
            ServiceKey::Mark { .. } if !own_port => (0, None),
            _ => (flow.protocol, Some((flow.virt.0, if own_port { flow.virt.1 } else { 0 }))),
        };
        let wanted = TemplateKey { service: *key, protocol, client, virt };
        let known = self.template(&wanted);
        let known = known.filter(|(_, template)| self.keeps(template.dest));
        let (id, dest) = match known {
            Some((id, template)) => (id, template.dest),
            None => {
                if let Some((id, _)) = self.template(&wanted) {
                    self.invalidate(id);
                }
                let Some(dest) = self.choose(key, &flow.ends(), (now, chance)) else {
                    return Found::Nobody;
                };
                let port = if own_port { self.real(dest).map_or(0, |real| real.port) } else { 0 };
                let timeout = u64::from(service.timeout) * SECOND;
                let template = Template {
                    key: wanted,
                    dest,
                    port,
                    timeout,
                    expires: now + timeout,
                    controls: 0,
                    valid: true,
                };
                (self.add_template(template), dest)
            }
        };
        self.open((*flow, key), dest, Some(id), now)
    }

    /// May a template go on with its destination? (ip_vs_check_template)
    fn keeps(&self, dest: DestId) -> bool {
        let quiet = self.sysctls.expire_quiescent_template;
        self.real(dest).is_some_and(|real| real.available && !(quiet && real.weight == 0))
    }

    fn open(
        &mut self,
        at: (Flow, &ServiceKey),
        dest: DestId,
        control: Option<u64>,
        now: u64,
    ) -> Found {
        let (flow, key) = at;
        let Some(real) = self.real(dest).copied() else { return Found::Nobody };
        let own = match key {
            ServiceKey::Address { port, .. } => *port == flow.virt.1 || control.is_none(),
            ServiceKey::Mark { .. } => control.is_none(),
        };
        let port = if own && real.port != 0 { real.port } else { flow.virt.1 };
        self.bind(dest);
        if let Some(id) = control {
            self.use_template(id, now);
        }
        self.remember_service(key);
        if let Some(service) = self.services.get_mut(key) {
            service.stats.connections += 1;
        }
        if let Some(real) = self.real_mut(dest) {
            real.stats.connections += 1;
        }
        let conn = Conn {
            dest,
            real: (real.address, port),
            state: IpvsState::None,
            timeout: 0,
            expires: now,
            active: false,
            tracked: self.sysctls.conntrack,
            control,
        };
        Found::Conn(flow, conn)
    }

    /// Sends a request to its destination with the source it has (ip_vs_nat_xmit).
    fn send<S: Sink>(
        &mut self,
        flow: Flow,
        conn: Conn,
        env: &mut Env<'_, S>,
        skb: &mut Skb,
    ) -> End {
        let conn = self.advance(flow, conn, Way::In, (&skb.packet, env.now));
        let once = self.is_one_packet(&flow, &skb.packet, &conn);
        let end = self.transmit(&flow, &conn, env, skb);
        if once {
            self.expire(&flow, env.tracker);
        }
        end
    }

    fn transmit<S: Sink>(
        &mut self,
        flow: &Flow,
        conn: &Conn,
        env: &mut Env<'_, S>,
        skb: &mut Skb,
    ) -> End {
        let decision = env.net.route(conn.real.0);
        env.sink.note(|| {
            Step::Nat(format!(
                "ipvs: {} → {} port {}, {}",
                flow.virt.0,
                conn.real.0,
                conn.real.1,
                conn.state.name()
            ))
        });
        let local = match decision {
            Decision::Local => true,
            Decision::Via(_) => false,
            _ => {
                return End::Reject(
                    RejectWith::UnreachableX(2),
                    place(env.hook, "no route to the destination"),
                );
            }
        };
        let came_in = matches!(skb.packet.entry, Entry::Link(link) if link != crate::net::LOOPBACK);
        if local && conn.real.0.is_loopback() && came_in {
            return End::Drop(place(env.hook, "a loopback destination of a foreign packet"));
        }
        if !local && skb.packet.src.is_loopback() {
            return End::Drop(place(env.hook, "a loopback source would leave the host"));
        }
        if !local && skb.packet.ttl <= 1 {
            return End::Drop(place(env.hook, "time to live exceeded"));
        }
        skb.packet.ttl -= u8::from(!local);
        skb.packet.set_destination(conn.real.0, conn.real.1);
        skb.ipvs = true;
        skb.rewrite();
        settle(conn.tracked, Some(conn.real), env.tracker, skb);
        env.sink.note(|| Step::Rewritten(skb.packet.to_string()));
        if local { End::Accept } else { End::Resend }
    }

    fn answer<S: Sink>(&mut self, env: &mut Env<'_, S>, skb: &mut Skb) -> End {
        let Some(back) = Flow::of(&skb.packet) else { return End::Accept };
        let Some((flow, conn)) = self.conn_of_answer(back.protocol, back.client, back.virt) else {
            return End::Accept;
        };
        let conn = self.advance(flow, conn, Way::Out, (&skb.packet, env.now));
        skb.packet.set_source(flow.virt.0, flow.virt.1);
        skb.ipvs = true;
        skb.rewrite();
        settle(conn.tracked, None, env.tracker, skb);
        env.sink.note(|| Step::Rewritten(skb.packet.to_string()));
        End::Accept
    }

    /// The packet moves its connection, which lives its time anew.
    fn advance(&mut self, flow: Flow, mut conn: Conn, way: Way, seen: (&Packet, u64)) -> Conn {
        let (packet, now) = seen;
        conn.state = conn.state.after(&packet.transport, way);
        conn.timeout = conn.state.timeout(&self.timeouts, flow.protocol);
        conn.expires = now + conn.timeout;
        let active = conn.state.is_active(flow.protocol);
        self.count(&mut conn, active);
        self.put_conn(flow, conn);
        self.tally(conn.dest, way, u64::from(packet.length()));
        conn
    }

    fn tally(&mut self, dest: DestId, way: Way, bytes: u64) {
        let Some(real) = self.real_mut(dest) else { return };
        let count = |stats: &mut super::IpvsStats| match way {
            Way::In => {
                (stats.in_packets, stats.in_bytes) = (stats.in_packets + 1, stats.in_bytes + bytes)
            }
            Way::Out => {
                (stats.out_packets, stats.out_bytes) =
                    (stats.out_packets + 1, stats.out_bytes + bytes)
            }
        };
        count(&mut real.stats);
        let key = real.service;
        self.remember_service(&key);
        if let Some(service) = self.services.get_mut(&key) {
            count(&mut service.stats);
        }
    }

    fn is_one_packet(&self, flow: &Flow, packet: &Packet, conn: &Conn) -> bool {
        let service = self.real(conn.dest).and_then(|real| self.services.get(&real.service));
        flow.protocol == protocol::UDP
            && matches!(packet.transport, Transport::Udp { .. })
            && service.is_some_and(|one| one.service.flags & flags::ONE_PACKET != 0)
    }

    /// An ICMP error about a packet of a connection goes where that packet came from (ip_vs_in_icmp, ip_vs_out_icmp).
    fn error<S: Sink>(&mut self, function: u16, env: &mut Env<'_, S>, skb: &mut Skb) -> End {
        let Transport::Icmp { inner: Some(inner), .. } = &skb.packet.transport else {
            return End::Accept;
        };
        let Some(quoted) = Flow::of(inner) else { return End::Accept };
        if function == REPLY {
            // It quotes what the destination was sent.
            let Some((flow, conn)) =
                self.conn_of_answer(quoted.protocol, quoted.virt, quoted.client)
            else {
                return End::Accept;
            };
            if skb.packet.src == conn.real.0 {
                skb.packet.src = flow.virt.0;
            }
            requote(&mut skb.packet, |inner| inner.set_destination(flow.virt.0, flow.virt.1));
            skb.ipvs = true;
            skb.rewrite();
            settle(conn.tracked, None, env.tracker, skb);
            return End::Accept;
        }
        // It quotes what the client was sent.
        let flow = Flow { client: quoted.virt, virt: quoted.client, protocol: quoted.protocol };
        let Some(conn) = self.conn(&flow) else { return End::Accept };
        requote(&mut skb.packet, |inner| inner.set_source(conn.real.0, conn.real.1));
        skb.packet.dst = conn.real.0;
        skb.ipvs = true;
        skb.rewrite();
        settle(conn.tracked, None, env.tracker, skb);
        if env.net.route(conn.real.0) == Decision::Local { End::Accept } else { End::Resend }
    }
}

fn requote(packet: &mut Packet, change: impl FnOnce(&mut Packet)) {
    if let Transport::Icmp { inner: Some(inner), .. } = &mut packet.transport {
        change(inner);
    }
}

impl Conn {
    /// Is it closed, so that the client's port may come again? Persistent ones keep to their template.
    fn is_over(&self, protocol_number: u8) -> bool {
        let closed = match protocol_number {
            protocol::TCP => matches!(self.state, IpvsState::TimeWait | IpvsState::Close),
            protocol::SCTP => self.state == IpvsState::Close,
            _ => false,
        };
        closed && self.control.is_none()
    }
}

impl Flow {
    fn of(packet: &Packet) -> Option<Flow> {
        let (sport, dport) = packet.ports()?;
        Some(Flow {
            protocol: packet.protocol(),
            client: (packet.src, sport),
            virt: (packet.dst, dport),
        })
    }

    fn ends(&self) -> Ends {
        Ends { client: self.client, virt: self.virt }
    }
}

impl super::Service {
    fn port(&self) -> Option<u16> {
        match self.key {
            ServiceKey::Address { port, .. } => Some(port),
            ServiceKey::Mark { .. } => None,
        }
    }
}

/// May the packet open a connection?
fn opens(packet: &Packet) -> bool {
    match packet.transport {
        Transport::Tcp { flags, .. } => {
            flags & (packet::flags::SYN | packet::flags::RST) == packet::flags::SYN
        }
        Transport::Sctp { chunk, .. } => chunk == 1,
        _ => true,
    }
}

fn is_reset(packet: &Packet) -> bool {
    !matches!(packet.transport, Transport::Tcp { flags, .. } if flags & packet::flags::RST == 0)
}

fn confirmed(tracker: &Tracker, skb: &Skb) -> bool {
    skb.ct.and_then(|ct| tracker.get(ct.id)).is_some_and(|conn| conn.has(status::CONFIRMED))
}

/// A connection that is tracked learns that the destination will answer (ip_vs_update_conntrack); another is not tracked.
fn settle(tracked: bool, real: Option<(IpAddr, u16)>, tracker: &mut Tracker, skb: &mut Skb) {
    let Some(ct) = skb.ct else {
        skb.untracked |= !tracked;
        return;
    };
    if !tracked {
        tracker.release(ct.id);
        (skb.ct, skb.untracked) = (None, true);
        return;
    }
    let is_new = !confirmed(tracker, skb) && !ct.reply;
    if let Some((address, port)) = real.filter(|_| is_new)
        && let Some(conn) = tracker.get_mut(ct.id)
    {
        (conn.reply.src, conn.reply.sport) = (address, port);
    }
}

/// The client's network: a mask for IPv4, as it stands in memory, and a prefix length for IPv6.
fn network(address: IpAddr, netmask: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) & netmask).into(),
        IpAddr::V6(_) => masked(address, netmask.min(128) as u8),
    }
}

fn place(hook: Hook, why: &str) -> Place {
    Place { hook, table: "ipvs".into(), chain: why.into(), rule: None }
}
