//! The connections of IPVS and the templates that keep persistent clients: found, made, moved, expired.
//! Facts from ip_vs_conn.c. It must never know services' options. Tests: tests/ipvs.rs.

use super::service::ServiceKey;
use super::state::IpvsState;
use super::table::{DestId, Ipvs, Undo};
use crate::conntrack::{SECOND, Tracker, Tuple};
use crate::hash::FastMap;
use std::net::IpAddr;
use std::time::Duration;

/// The client's side of a connection, which names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Flow {
    pub(super) protocol: u8,
    pub(super) client: (IpAddr, u16),
    pub(super) virt: (IpAddr, u16),
}

/// The other side: what answers look like.
type Back = (u8, (IpAddr, u16), (IpAddr, u16));

/// A connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conn {
    pub(super) dest: DestId,
    pub(super) real: (IpAddr, u16),
    pub(super) state: IpvsState,
    pub(super) timeout: u64,
    pub(super) expires: u64,
    pub(super) active: bool,
    /// It keeps its entry in connection tracking (IP_VS_CONN_F_NFCT).
    pub(super) tracked: bool,
    /// The template it came by.
    pub(super) control: Option<u64>,
}

/// A client that stays with its destination.
#[derive(Clone, Copy, Debug)]
pub(super) struct Template {
    pub(super) key: TemplateKey,
    pub(super) dest: DestId,
    pub(super) port: u16,
    pub(super) timeout: u64,
    pub(super) expires: u64,
    /// How many connections came by it.
    pub(super) controls: u32,
    /// New connections may find it.
    pub(super) valid: bool,
}

/// What finds a template: the client's network and the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct TemplateKey {
    pub(super) service: ServiceKey,
    pub(super) protocol: u8,
    pub(super) client: IpAddr,
    pub(super) virt: Option<(IpAddr, u16)>,
}

/// All connections and templates.
#[derive(Debug, Default)]
pub(super) struct Flows {
    conns: FastMap<Flow, Conn>,
    backs: FastMap<Back, Flow>,
    templates: FastMap<u64, Template>,
    found: FastMap<TemplateKey, u64>,
    last_template: u64,
    /// Lower bound of the next moment at which something expires.
    next_expiry: u64,
}

/// A connection, as read from outside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IpvsConnection {
    /// IANA number of the protocol; 0 of a template of marked packets.
    pub protocol: u8,
    /// The client; port 0 marks the template of a persistent client.
    pub client: (IpAddr, u16),
    /// The virtual address and port; port 65535 of a template that is no longer used.
    pub virt: (IpAddr, u16),
    /// The destination.
    pub real: (IpAddr, u16),
    /// Its state.
    pub state: IpvsState,
    /// How long it lives if no packet comes.
    pub timeout: Duration,
}

impl Flow {
    fn back(&self, real: (IpAddr, u16)) -> Back {
        (self.protocol, real, self.client)
    }
}

impl Ipvs {
    pub(super) fn conn(&self, flow: &Flow) -> Option<Conn> {
        self.flows.conns.get(flow).copied()
    }

    /// The connection whose destination sends this.
    pub(super) fn conn_of_answer(
        &self,
        protocol: u8,
        real: (IpAddr, u16),
        client: (IpAddr, u16),
    ) -> Option<(Flow, Conn)> {
        let flow = *self.flows.backs.get(&(protocol, real, client))?;
        Some((flow, self.conn(&flow)?))
    }

    /// Writes a connection; a dry run takes it back.
    pub(super) fn put_conn(&mut self, flow: Flow, conn: Conn) {
        self.remember_flow(&flow);
        self.flows.next_expiry = self.flows.next_expiry.min(conn.expires);
        self.flows.write(flow, Some(conn));
    }

    fn remember_flow(&mut self, flow: &Flow) {
        if let Some(journal) = &mut self.journal {
            journal.push(Undo::Flow(*flow, self.flows.conns.get(flow).copied().map(Box::new)));
        }
    }

    fn remember_template(&mut self, id: u64) {
        if let Some(journal) = &mut self.journal {
            journal.push(Undo::Template(id, self.flows.templates.get(&id).copied().map(Box::new)));
        }
    }

    fn write_template(&mut self, id: u64, template: Option<Template>) {
        self.remember_template(id);
        self.flows.write_template(id, template);
    }

    /// One connection more at a destination.
    pub(super) fn bind(&mut self, id: DestId) {
        let Some(real) = self.real_mut(id) else { return };
        real.inactive += 1;
        if real.upper > 0 && real.active + real.inactive >= real.upper {
            real.overloaded = true;
        }
    }

    fn unbind(&mut self, id: DestId, active: bool) {
        if let Some(real) = self.real_mut(id) {
            let count = if active { &mut real.active } else { &mut real.inactive };
            *count = count.saturating_sub(1);
            let total = u64::from(real.active) + u64::from(real.inactive);
            let some_again = match (real.lower, real.upper) {
                (0, 0) => true,
                (0, upper) => total * 4 < u64::from(upper) * 3,
                (lower, _) => total < u64::from(lower),
            };
            real.overloaded &= !some_again;
        }
        self.empty_trash(id);
    }

    /// The connection counts as active, or no longer.
    pub(super) fn count(&mut self, conn: &mut Conn, active: bool) {
        if conn.active == active {
            return;
        }
        conn.active = active;
        if let Some(real) = self.real_mut(conn.dest) {
            let (up, down) = if active {
                (&mut real.active, &mut real.inactive)
            } else {
                (&mut real.inactive, &mut real.active)
            };
            *up += 1;
            *down = down.saturating_sub(1);
        }
    }

    /// Forgets a connection, and its entry in connection tracking with it.
    pub(super) fn expire(&mut self, flow: &Flow, tracker: &mut Tracker) {
        let Some(conn) = self.conn(flow) else { return };
        self.remember_flow(flow);
        self.flows.write(*flow, None);
        if let Some(mut template) =
            conn.control.and_then(|id| self.flows.templates.get(&id).copied())
        {
            template.controls = template.controls.saturating_sub(1);
            self.write_template(conn.control.unwrap_or(0), Some(template));
        }
        self.unbind(conn.dest, conn.active);
        if conn.tracked {
            let (client, virt) = (flow.client, flow.virt);
            tracker.forget(&Tuple {
                src: client.0,
                sport: client.1,
                dst: virt.0,
                dport: virt.1,
                protocol: flow.protocol,
            });
        }
    }

    /// The template a client has, and its number.
    pub(super) fn template(&self, key: &TemplateKey) -> Option<(u64, Template)> {
        let id = *self.flows.found.get(key)?;
        Some((id, *self.flows.templates.get(&id)?))
    }

    /// A new template; its destination counts it.
    pub(super) fn add_template(&mut self, template: Template) -> u64 {
        let id = self.flows.last_template + 1;
        self.flows.last_template = id;
        if let Some(real) = self.real_mut(template.dest) {
            real.persistent += 1;
        }
        self.flows.next_expiry = self.flows.next_expiry.min(template.expires);
        self.write_template(id, Some(template));
        id
    }

    /// A connection came by the template: it lives its time anew.
    pub(super) fn use_template(&mut self, id: u64, now: u64) {
        if let Some(mut template) = self.flows.templates.get(&id).copied() {
            template.controls += 1;
            template.expires = now + template.timeout;
            self.write_template(id, Some(template));
        }
    }

    /// Nobody finds it any more; it goes when its time is over.
    pub(super) fn invalidate(&mut self, id: u64) {
        if let Some(mut template) = self.flows.templates.get(&id).copied() {
            template.valid = false;
            self.write_template(id, Some(template));
        }
    }

    /// Forgets what has expired, in the order of time.
    pub(crate) fn sweep(&mut self, now: u64, tracker: &mut Tracker) {
        while self.flows.next_expiry <= now {
            let mut due: Vec<(u64, Flow)> = self
                .flows
                .conns
                .iter()
                .filter(|(_, conn)| conn.expires <= now)
                .map(|(flow, conn)| (conn.expires, *flow))
                .collect();
            due.sort_unstable();
            due.iter().for_each(|(_, flow)| self.expire(flow, tracker));
            let mut old: Vec<u64> = self
                .flows
                .templates
                .iter()
                .filter(|(_, template)| template.expires <= now)
                .map(|(id, _)| *id)
                .collect();
            old.sort_unstable();
            old.into_iter().for_each(|id| self.expire_template(id, now));
            self.flows.next_expiry = self.flows.earliest();
        }
    }

    /// One that still controls connections lives a minute more.
    fn expire_template(&mut self, id: u64, now: u64) {
        let Some(mut template) = self.flows.templates.get(&id).copied() else { return };
        if template.controls > 0 {
            template.timeout = 60 * SECOND;
            let minutes = (now - template.expires) / template.timeout + 1;
            template.expires += minutes * template.timeout;
            return self.write_template(id, Some(template));
        }
        self.write_template(id, None);
        if let Some(real) = self.real_mut(template.dest) {
            real.persistent = real.persistent.saturating_sub(1);
        }
        self.empty_trash(template.dest);
    }

    /// With `expire_nodest_conn`: the connections of destinations that are gone go too.
    pub(super) fn expire_lost(&mut self, tracker: &mut Tracker) {
        let lost = |conn: &Conn| self.real(conn.dest).is_none_or(|real| !real.available);
        let mut flows: Vec<Flow> =
            self.flows.conns.iter().filter(|(_, conn)| lost(conn)).map(|(flow, _)| *flow).collect();
        flows.sort_unstable();
        flows.iter().for_each(|flow| self.expire(flow, tracker));
    }

    /// Takes back what a dry run did.
    pub(super) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Real(id, before) => {
                if let Some(real) = self.reals.get_mut(id as usize) {
                    *real = before.map(|real| *real);
                }
            }
            Undo::Cursor(key, cursor, stats) => {
                if let Some(service) = self.services.get_mut(&key) {
                    (service.cursor, service.stats) = (cursor, stats);
                }
            }
            Undo::Kept(key, to, before) => self.unkeep(&key, to, before.map(|kept| *kept)),
            Undo::Flow(flow, before) => self.flows.write(flow, before.map(|conn| *conn)),
            Undo::Template(id, before) => {
                self.flows.write_template(id, before.map(|template| *template))
            }
        }
    }

    /// Everything in the table, templates too.
    pub(super) fn connections(&self, now: u64) -> Vec<IpvsConnection> {
        let left = |expires: u64| Duration::from_nanos(expires.saturating_sub(now));
        let conns = self.flows.conns.iter().map(|(flow, conn)| IpvsConnection {
            protocol: flow.protocol,
            client: flow.client,
            virt: flow.virt,
            real: conn.real,
            state: conn.state,
            timeout: left(conn.expires),
        });
        let templates = self.flows.templates.values().map(|template| {
            let in_use = template.valid;
            let (address, port) = template.key.virt.unwrap_or((template.key.client, 0));
            let real = self.real(template.dest).map_or(template.key.client, |real| real.address);
            IpvsConnection {
                protocol: template.key.protocol,
                client: (template.key.client, 0),
                virt: (address, if in_use { port } else { 65_535 }),
                real: (real, if in_use { template.port } else { 65_535 }),
                state: IpvsState::None,
                timeout: left(template.expires),
            }
        });
        let mut all: Vec<_> = conns.chain(templates).collect();
        all.sort();
        all
    }
}

impl Flows {
    fn write(&mut self, flow: Flow, conn: Option<Conn>) {
        if let Some(old) = self.conns.remove(&flow) {
            let back = flow.back(old.real);
            if self.backs.get(&back) == Some(&flow) {
                self.backs.remove(&back);
            }
        }
        if let Some(conn) = conn {
            self.backs.insert(flow.back(conn.real), flow);
            self.conns.insert(flow, conn);
        }
    }

    fn write_template(&mut self, id: u64, template: Option<Template>) {
        if let Some(old) = self.templates.remove(&id)
            && self.found.get(&old.key) == Some(&id)
        {
            self.found.remove(&old.key);
        }
        if let Some(template) = template {
            self.templates.insert(id, template);
            if template.valid {
                self.found.insert(template.key, id);
            }
        }
    }

    fn earliest(&self) -> u64 {
        let conns = self.conns.values().map(|conn| conn.expires);
        conns
            .chain(self.templates.values().map(|template| template.expires))
            .min()
            .unwrap_or(u64::MAX)
    }
}
