//! One kernel in memory: links, routes, tables, connections, a clock that is set from outside, and chance from a seed.
//! The verbs of the crate are its methods. It must never read a clock or the world. Tests: tests/.

use crate::chance::{Chance, Probability, Script};
use crate::conntrack::{Connection, Tracker};
use crate::facilities::Facilities;
use crate::hash::FastMap;
use crate::hooks::Hooks;
use crate::journey::{Fate, Journey, Outcome, Outcomes, Silent, Sink, Step};
use crate::net::{Decision, Hop, Link, Net};
use crate::nft::{self, Hook, NftError, Store, read::Nft};
use crate::packet::{Entry, Packet};
use crate::path::{Overtaking, Path};
use crate::sysctls::Sysctls;
use crate::xtables::{XtCounters, XtError, XtFamily, XtRestore, XtTable};
use std::net::IpAddr;
use std::time::Duration;

/// The most branches exhaustive mode walks before it gives up.
const MOST_BRANCHES: usize = 1 << 20;

/// A Linux host.
pub struct Host {
    net: Net,
    store: Store,
    hooks: Hooks,
    facilities: Facilities,
    tracker: Tracker,
    chance: Chance,
    now: u64,
}

impl Host {
    /// A host with a loopback link and nothing else. The same seed gives the same run.
    pub fn new(seed: u64) -> Self {
        Host {
            net: Net::new(),
            store: Store::new(),
            hooks: Hooks::default(),
            facilities: Facilities::default(),
            tracker: Tracker::default(),
            chance: Chance::Seeded(seed),
            now: 1,
        }
    }

    /// Adds a link and returns its index.
    pub fn add_link(&mut self, name: &str) -> u32 {
        self.net.add_link(name, "")
    }

    /// Adds a dummy link and returns its index: packets that leave by it are gone.
    pub fn add_dummy(&mut self, name: &str) -> u32 {
        self.net.add_link(name, "dummy")
    }

    /// Deletes a link with its addresses and routes. An unknown link changes nothing.
    pub fn remove_link(&mut self, link: u32) {
        self.net.remove_link(link);
    }

    /// Adds an address with its prefix to a link, with the route to its network. An unknown link changes nothing.
    pub fn add_address(&mut self, link: u32, address: IpAddr, prefix: u8) {
        self.net.add_address(link, address, prefix);
    }

    /// Makes an address of a link one that is no source of packets that name none: of IPv6 while there is another, as
    /// one that was added with `preferred_lft 0`, of IPv4 as one that was added with `scope host`.
    pub fn hide_address(&mut self, link: u32, address: IpAddr) {
        self.net.hide_address(link, address);
    }

    /// Removes an address from a link, with the route it brought.
    pub fn remove_address(&mut self, link: u32, address: IpAddr) {
        self.net.remove_address(link, address);
    }

    /// Adds a route to a network, over a gateway or directly.
    pub fn add_route(&mut self, network: (IpAddr, u8), gateway: Option<IpAddr>, link: u32) {
        self.net.add_route(network, gateway, link);
    }

    /// Links, by index.
    pub fn links(&self) -> &[Link] {
        self.net.links()
    }

    /// The link of a name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.net.link_named(name)
    }

    /// Is this one of the host's own addresses?
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.net.is_local(address)
    }

    /// Settings, to read.
    pub fn sysctls(&self) -> &Sysctls {
        &self.net.sysctls
    }

    /// Settings, to change.
    pub fn sysctls_mut(&mut self) -> &mut Sysctls {
        &mut self.net.sysctls
    }

    /// The clock: time since the host began.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.now - 1)
    }

    /// Moves the clock on; what expires meanwhile is forgotten.
    pub fn advance(&mut self, by: Duration) {
        self.set_now(self.now().saturating_add(by));
    }

    /// Sets the clock. It never goes back.
    pub fn set_now(&mut self, now: Duration) {
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX / 2).min(u64::MAX / 2);
        self.now = self.now.max(nanos + 1);
        self.tracker.sweep(self.now);
        self.facilities.ipvs.sweep(self.now, &mut self.tracker);
    }

    /// Applies an nf_tables batch: the bytes a program sends to its netlink socket. All of it, or nothing.
    pub fn nft_batch(&mut self, bytes: &[u8]) -> Result<(), NftError> {
        self.store.last_attached = self.hooks.clock();
        nft::apply(&mut self.store, bytes, self.now)?;
        if self.store.names_lists {
            self.facilities.xtables.follow_parts(&self.store.recent_lists());
        }
        self.hooks.follow(&mut self.store);
        Ok(())
    }

    /// Takes a text for iptables-restore or ip6tables-restore. Each `COMMIT` is kept or refused as a whole; tables committed
    /// before an error stay changed, as with the tool.
    pub fn iptables_restore(
        &mut self,
        family: XtFamily,
        text: &str,
        how: XtRestore,
    ) -> Result<(), XtError> {
        let Facilities { xtables, ipsets, .. } = &mut self.facilities;
        let done = xtables.restore((family, how), text, ipsets);
        if self.facilities.xtables.is_unattached() {
            self.facilities.xtables.attach(&mut self.hooks);
            self.hooks.order(&self.store);
        }
        done
    }

    /// A table as iptables-save prints it, without the counters of rules. The clock counts from 1970.
    pub fn iptables_save(&self, family: XtFamily, table: XtTable) -> String {
        self.iptables_save_with(family, table, XtCounters::Hide)
    }

    /// A table as iptables-save prints it, with or without the counters of rules.
    pub fn iptables_save_with(
        &self,
        family: XtFamily,
        table: XtTable,
        counters: XtCounters,
    ) -> String {
        self.facilities.xtables.save((family, table), counters, self.now().as_secs())
    }

    /// Makes an accounting object (`nfacct add`); one that is there stays.
    pub fn add_nfacct(&mut self, name: &str) {
        self.facilities.xtables.add_account(name);
    }

    /// Packets and bytes an accounting object has counted.
    pub fn nfacct(&self, name: &str) -> Option<(u64, u64)> {
        self.facilities.xtables.account(name)
    }

    /// The addresses of a `recent` list, each with the time since it was last seen.
    pub fn recent(&self, name: &str) -> Vec<(IpAddr, Duration)> {
        let since = |stamp: u64| Duration::from_nanos(self.now.saturating_sub(stamp));
        self.facilities
            .xtables
            .recent(name)
            .into_iter()
            .map(|(address, stamp)| (address, since(stamp)))
            .collect()
    }

    /// The tables, to read.
    pub fn nft(&self) -> Nft<'_> {
        Nft::new(&self.store, self.now)
    }

    /// Moves with each batch that changed something.
    pub fn nft_generation(&self) -> u32 {
        self.store.generation
    }

    /// A packet arrives on a link.
    pub fn receive(&mut self, packet: &Packet, link: u32) -> Outcome {
        self.fate(&packet.clone().arriving(link))
    }

    /// A process of this host sends a packet.
    pub fn emit(&mut self, packet: &Packet) -> Outcome {
        self.fate(&packet.clone().sent_here())
    }

    /// What becomes of a packet, without a record of the way.
    pub fn fate(&mut self, packet: &Packet) -> Outcome {
        self.travel(packet, &mut Silent)
    }

    /// What becomes of a packet, with every step.
    pub fn send(&mut self, packet: &Packet) -> Journey {
        let mut steps = Vec::new();
        let outcome = self.travel(packet, &mut steps);
        Journey { packet: packet.clone(), steps, outcome }
    }

    /// As [`Host::send`], with what the host answers by itself on its way back: an ICMP error or a reset.
    pub fn send_and_answer(&mut self, packet: &Packet) -> (Journey, Option<Journey>) {
        let mut steps = Vec::new();
        let (outcome, answer) = self.path(&mut steps).travel_and_answer(packet);
        (Journey { packet: packet.clone(), steps, outcome }, answer)
    }

    /// A packet that others overtake, as where two processors carry packets at the same moment: while it stands at a hook, before
    /// what is there from a priority on, they go all their way. What became of it, and of each of them; of none, if it did
    /// not get there.
    pub fn overtaken(
        &mut self,
        packet: &Packet,
        (hook, priority): (Hook, i32),
        by: &[Packet],
    ) -> (Journey, Vec<Outcome>) {
        let mut steps = Vec::new();
        let mut path = self.path(&mut steps);
        path.overtaking = Some(Overtaking { hook, priority, by });
        let outcome = path.travel(packet);
        let overtook = path.overtook;
        (Journey { packet: packet.clone(), steps, outcome }, overtook)
    }

    /// Where packets to a destination leave; nothing: it is this host's own, or there is no route.
    pub fn route_to(&self, destination: IpAddr) -> Option<Hop> {
        match self.net.route(destination) {
            Decision::Via(hop) => Some(hop),
            _ => None,
        }
    }

    /// The source address a local process gets towards a destination when it names none.
    pub fn source_for(&self, destination: IpAddr) -> Option<IpAddr> {
        self.net.source_for(destination)
    }

    /// Every outcome the packet can have, each with its probability, most likely first. Nothing on the host changes.
    /// Source ports that masquerading draws are no branches.
    pub fn outcomes(&mut self, packet: &Packet) -> Outcomes {
        let found = self.branches(packet, |host| (host.dry(packet, &mut Silent), ()));
        let mut outcomes: Outcomes =
            found.into_iter().map(|(outcome, (probability, ()))| (probability, outcome)).collect();
        outcomes.sort_by(likeliest);
        outcomes
    }

    /// As [`Host::outcomes`], each with the steps of one way that leads there.
    pub fn journeys(&mut self, packet: &Packet) -> Vec<(Probability, Journey)> {
        let found = self.branches(packet, |host| {
            let mut steps = Vec::new();
            (host.dry(packet, &mut steps), steps)
        });
        let mut outcomes: Vec<(Probability, Outcome, Vec<Step>)> =
            found.into_iter().map(|(outcome, (p, steps))| (p, outcome, steps)).collect();
        outcomes.sort_by(|one, two| likeliest(&(one.0, one.1.clone()), &(two.0, two.1.clone())));
        let journey = |(probability, outcome, steps)| {
            (probability, Journey { packet: packet.clone(), steps, outcome })
        };
        outcomes.into_iter().map(journey).collect()
    }

    /// Walks every branch: each outcome with its probability and what the first way there gave.
    fn branches<T: Default>(
        &mut self,
        packet: &Packet,
        mut walk: impl FnMut(&mut Host) -> (Outcome, T),
    ) -> FastMap<Outcome, (Probability, T)> {
        let seeded = std::mem::replace(&mut self.chance, Chance::Scripted(Script::default()));
        let mut found: FastMap<Outcome, (Probability, T)> = FastMap::default();
        let mut left = 1.0;
        for branch in 0.. {
            let (outcome, way) = walk(self);
            let Chance::Scripted(script) = &self.chance else { break };
            let probability = script.probability();
            left -= probability.as_f64();
            let known = found.entry(outcome).or_insert((Probability::ZERO, way));
            known.0 = known.0.plus(probability);
            match script.clone().advance() {
                Some(_) if branch == MOST_BRANCHES => {
                    let rest =
                        Probability::new((left.max(0.0) * (1u64 << 53) as f64) as u64, 1 << 53);
                    found.insert(unexplored(packet), (rest, T::default()));
                    break;
                }
                Some(next) => self.chance = Chance::Scripted(next),
                None => break,
            }
        }
        self.chance = seeded;
        found
    }

    /// One branch, taken back at once.
    fn dry<S: Sink>(&mut self, packet: &Packet, sink: &mut S) -> Outcome {
        self.tracker.begin_dry();
        self.store.begin_dry();
        self.facilities.begin_dry();
        let mut path = self.path(sink);
        path.dry = true;
        let outcome = path.travel(packet);
        self.tracker.end_dry();
        self.store.end_dry();
        self.facilities.end_dry();
        outcome
    }

    fn travel<S: Sink>(&mut self, packet: &Packet, sink: &mut S) -> Outcome {
        self.path(sink).travel(packet)
    }

    fn path<'h, S>(&'h mut self, sink: &'h mut S) -> Path<'h, S> {
        Path {
            store: &mut self.store,
            hooks: &self.hooks,
            facilities: &mut self.facilities,
            net: &self.net,
            tracker: &mut self.tracker,
            chance: &mut self.chance,
            sink,
            now: self.now,
            dry: false,
            overtaking: None,
            overtook: Vec::new(),
        }
    }

    /// Changes what stands at the hooks beside nf_tables, and orders it anew.
    #[allow(dead_code, reason = "facilities beside nf_tables use it")]
    pub(crate) fn with_hooks(&mut self, change: impl FnOnce(&mut Hooks)) {
        change(&mut self.hooks);
        self.hooks.order(&self.store);
    }

    /// The facilities beside nf_tables, to read.
    pub(crate) fn facilities(&self) -> &Facilities {
        &self.facilities
    }

    /// The facilities beside nf_tables, to change.
    pub(crate) fn facilities_mut(&mut self) -> &mut Facilities {
        &mut self.facilities
    }

    /// IPVS with what it needs of the host to change.
    pub(crate) fn ipvs_parts(&mut self) -> (&mut crate::ipvs::Ipvs, &mut Tracker) {
        (&mut self.facilities.ipvs, &mut self.tracker)
    }

    /// The clock in its own unit; never zero.
    pub(crate) fn nanos(&self) -> u64 {
        self.now
    }

    #[cfg(test)]
    pub(crate) fn probe(&self) -> &crate::facilities::tests::Probe {
        &self.facilities.probe
    }

    /// Every connection, by its original direction.
    pub fn connections(&self) -> Vec<Connection> {
        self.tracker.all(self.now)
    }

    /// Takes on a connection that another kernel had. False: one of its tuples is in use.
    pub fn adopt_connection(&mut self, told: &Connection) -> bool {
        self.tracker.adopt(told, self.now)
    }

    /// Forgets the connections a filter names; how many went.
    pub fn forget_connections(&mut self, unwanted: impl Fn(&Connection) -> bool) -> usize {
        let now = self.now;
        self.tracker.remove_where(|conn| unwanted(&conn.view(now)))
    }
}

/// The more likely outcome first.
fn likeliest(one: &(Probability, Outcome), two: &(Probability, Outcome)) -> std::cmp::Ordering {
    two.0.as_f64().total_cmp(&one.0.as_f64()).then_with(|| one.1.cmp(&two.1))
}

/// Where did it enter, and nothing more is known.
fn unexplored(packet: &Packet) -> Outcome {
    let packet = Packet { entry: Entry::Local, ..packet.clone() };
    Outcome {
        fate: Fate::Unexplored,
        packet,
        dnat: None,
        snat: None,
        before: None,
        after: None,
        accepted: false,
    }
}
