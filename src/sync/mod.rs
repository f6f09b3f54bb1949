//! When and in what order the kernel is brought up to what the cluster wants.
//!
//! `Proxy` is the whole of it for one node: events in, transactions out. It reads no clock and
//! starts no thread; `run` does, around it. What is in the kernel is believed only after the
//! kernel said so, and after an error it is read anew. Tests: `proptests`, `netlab`.

pub mod cleanup;
pub mod conntrack;
pub mod examine;
pub mod flows;
pub mod run;
pub mod schedule;
pub mod scribe;
pub mod sysctls;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod budgets;
mod driver;
mod family;
mod iptables;
mod iptables_netlink;
mod ipvs;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod ipvs_tests;
mod nftables;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod run_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests;
mod userspace;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::backend;
pub use crate::backend::ipvs::choice::{Choice, ROUND_ROBIN};
pub use crate::backend::options::{IpvsOptions, LocalWithoutEndpoints};
use crate::kernel::drift::Foreign;
use crate::kernel::{Error, Facts, Kernel, RelayOperation, Transaction};
pub use crate::kernel::{IpvsTimeouts, RelaySettings};
use crate::model::{Event, Family, LocalDetector, Mode, NodePortAddresses, Notice, Steering};
use crate::track::{Changes, Cluster, Tracker};
use examine::{Before, Examined, Known, Tee};
use family::FamilySync;
use flows::Suspects;
pub use iptables::counted_packets;
use scribe::{Act, Scribe};

/// What the node's configuration says about programming.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Options {
    /// This node's name: endpoints with it are local.
    pub node_name: Arc<str>,
    /// How packets are programmed.
    pub mode: Mode,
    /// The fwmark bit, 0 to 31, that says a packet is to be masqueraded.
    pub masquerade_bit: u8,
    /// Whether all traffic to cluster IPs is masqueraded.
    pub masquerade_all: bool,
    /// How local pods are told from the rest.
    pub detector: LocalDetector,
    /// Which of the node's addresses take node port traffic.
    pub node_port_addresses: NodePortAddresses,
    /// What only ipvs mode heeds.
    pub ipvs: IpvsOptions,
    /// Whether node ports are wanted on loopback addresses (IPv4 and iptables mode only).
    pub localhost_node_ports: bool,
    /// How userspace mode carries connections.
    pub relay: RelaySettings,
    /// Whose rules lead packets to userspace mode's ports.
    #[serde(default)]
    pub steering: Steering,
    /// The families to program.
    pub families: Vec<Family>,
}

impl Default for Options {
    /// The reference's defaults, on a node without a name.
    fn default() -> Self {
        Options {
            node_name: "".into(),
            mode: Mode::Nftables,
            masquerade_bit: 14,
            masquerade_all: false,
            detector: LocalDetector::None,
            node_port_addresses: NodePortAddresses::Primary,
            ipvs: IpvsOptions::default(),
            localhost_node_ports: true,
            relay: RelaySettings::default(),
            steering: Steering::default(),
            families: Family::ALL.to_vec(),
        }
    }
}

/// What one sync did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Services looked at.
    pub services: usize,
    /// Transactions carried out.
    pub transactions: usize,
    /// Objects added, changed or removed in the kernel.
    pub operations: usize,
    /// Bytes sent.
    pub bytes: usize,
    /// Conntrack entries and remembered clients that were forgotten.
    pub forgotten: usize,
    /// How long other programs that change rules were waited for.
    pub waited: Duration,
    /// Rules of iptables' tables that are ours, and how many of them this sync wrote.
    pub rules: BTreeMap<(Family, &'static str), (usize, usize)>,
    /// Families whose rules somebody else had changed and that were put right.
    pub repaired: usize,
    /// Why stale conntrack entries could not be forgotten; the next sync tries again.
    pub not_forgotten: Option<Error>,
}

/// The service proxy of one node.
pub struct Proxy {
    kernel: Box<dyn Kernel + Send>,
    options: Options,
    tracker: Tracker,
    families: Vec<FamilySync>,
    /// Through whom flows may be stale that nobody looks for yet.
    suspects: Suspects,
    last_changes: Changes,
    /// Who looks at everything before it is written.
    examined: Option<Examined>,
    /// Who writes down what happens.
    scribe: Option<Box<dyn Scribe>>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Proxy {
    /// A proxy that knows nothing yet and has done nothing.
    pub fn new(kernel: Box<dyn Kernel + Send>, options: Options) -> Proxy {
        let how = (options.mode, options.steering);
        Proxy {
            kernel,
            tracker: Tracker::new(options.node_name.clone()),
            families: options.families.iter().map(|f| FamilySync::new(how, *f)).collect(),
            options,
            suspects: Suspects::default(),
            last_changes: Changes::default(),
            examined: None,
            scribe: None,
        }
    }

    /// Has everything written down that it is told and does.
    pub fn recorded_by(self, scribe: Box<dyn Scribe>) -> Proxy {
        Proxy { scribe: Some(scribe), ..self }
    }

    /// Takes in one piece of news; nothing is programmed by it.
    pub fn feed(&mut self, event: Event) {
        if let Some(scribe) = &mut self.scribe {
            scribe.told(&event);
        }
        self.tracker.feed(event);
    }

    /// Whether every kind of object has been listed once, so that programming may begin.
    pub fn ready(&self) -> bool {
        self.tracker.ready()
    }

    /// Whether something is known that was not programmed yet.
    pub fn has_changes(&self) -> bool {
        let behind = self.families.iter().any(FamilySync::is_behind);
        behind || self.tracker.has_changes() || self.has_stale_flows()
    }

    /// What is known of the cluster.
    pub fn cluster(&self) -> &Cluster {
        self.tracker.cluster()
    }

    /// The tracker, for what only it knows (trigger times).
    pub fn tracker(&mut self) -> &mut Tracker {
        &mut self.tracker
    }

    /// The kernel.
    pub fn kernel(&mut self) -> &mut dyn Kernel {
        &mut *self.kernel
    }

    /// Everything that could not be done as asked, sorted.
    pub fn notices(&self) -> Vec<Notice> {
        let of_families = self.families.iter().flat_map(FamilySync::notices);
        let of_examiner = self.examined.iter().flat_map(Examined::notices);
        let all = self.cluster().notices().cloned().chain(of_families).chain(of_examiner);
        let all: BTreeSet<Notice> = all.collect();
        all.into_iter().collect()
    }

    /// What the last sync took in.
    pub fn last_changes(&self) -> &Changes {
        &self.last_changes
    }

    /// The node's addresses on which health check node ports listen; `0.0.0.0` and `::` are all.
    pub fn health_check_addresses(&mut self) -> BTreeSet<IpAddr> {
        let all = self.node_port_addresses().unwrap_or_default();
        let options = mode_options(&self.options, self.tracker.cluster());
        let of = |family: Family| match (options.node_port_cidrs(family), family) {
            (None, Family::V4) => vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
            (None, Family::V6) => vec![IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
            (Some(_), _) => all.iter().copied().filter(|a| Family::of(*a) == family).collect(),
        };
        self.options.families.iter().copied().flat_map(of).collect()
    }

    /// How many times rules of ours were found changed by somebody else.
    pub fn drifts(&self) -> u64 {
        self.families.iter().map(FamilySync::drifts).sum()
    }

    /// The options as they are now.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Whether the next sync programs everything and not only what changed.
    pub fn is_unsynced(&self) -> bool {
        self.families.iter().any(FamilySync::is_unknown)
    }

    /// Families whose rules the next sync programs anew; behind a sync, those for which it failed.
    pub fn unsynced_families(&self) -> BTreeSet<Family> {
        self.families.iter().filter(|f| f.is_unknown()).map(FamilySync::family).collect()
    }

    /// Looks whether what was written is still there; what is not is made anew by the next sync.
    pub fn check_kernel(&mut self) -> Result<(), Error> {
        for family in &mut self.families {
            family.look(&mut *self.kernel)?;
        }
        Ok(())
    }

    /// Takes in what somebody else did in the kernel. What of it is in our rules is put right by
    /// the next sync; where not all of it is known, it is looked whether our tables are there.
    pub fn suspect(&mut self, foreign: &Foreign) -> Result<(), Error> {
        for family in &mut self.families {
            family.suspect(foreign);
            if foreign.more && !family.is_suspicious() {
                family.look(&mut *self.kernel)?;
            }
        }
        Ok(())
    }

    /// Whether somebody else did something that has to be looked at: [`Proxy::look_closer`].
    pub fn is_suspicious(&self) -> bool {
        self.families.iter().any(FamilySync::is_suspicious)
    }

    /// Looks at what somebody else may have changed; what is wrong is put right by the next sync.
    pub fn look_closer(&mut self) -> Result<(), Error> {
        for family in self.families.iter_mut().filter(|family| family.is_suspicious()) {
            family.look_closer(&mut *self.kernel)?;
        }
        Ok(())
    }

    /// Whether [`Proxy::check_kernel`] left something to be looked at: [`Proxy::look_on`].
    pub fn looks_on(&self) -> bool {
        self.families.iter().any(FamilySync::looks_on)
    }

    /// Looks at some more of what was written.
    pub fn look_on(&mut self) -> Result<(), Error> {
        for family in self.families.iter_mut().filter(|family| family.looks_on()) {
            family.look_on(&mut *self.kernel)?;
        }
        Ok(())
    }

    /// Changes the options; the next sync brings the rules up to them.
    pub fn set_options(&mut self, options: Options) {
        if options != self.options {
            self.options = options;
            self.families.iter_mut().for_each(FamilySync::mark_behind);
        }
    }

    /// Makes the next sync read the kernel's state and put right what is not as it should be.
    pub fn distrust_kernel(&mut self) {
        self.families.iter_mut().for_each(FamilySync::distrust);
    }

    /// The same for some families.
    pub fn distrust_families(&mut self, families: &[Family]) {
        let concerned = self.families.iter_mut().filter(|f| families.contains(&f.family()));
        concerned.filter(|family| !family.is_unknown()).for_each(FamilySync::distrust);
    }

    /// Brings the kernel up to what is known: the rules, and then the flows that they hold for.
    /// Before everything was listed once it does nothing. An error in one family does not stop the
    /// other; the first one is given back, and what was not carried out is tried again by the next
    /// call.
    pub fn sync(&mut self) -> Result<Report, Error> {
        let report = self.sync_rules();
        let flows = self.forget_flows();
        let mut report = report?;
        match flows {
            Ok(forgotten) => report.forgotten += forgotten,
            Err(error) => report.not_forgotten = Some(error),
        }
        Ok(report)
    }

    /// The first half of [`Proxy::sync`].
    pub fn sync_rules(&mut self) -> Result<Report, Error> {
        if !self.ready() {
            return Ok(Report::default());
        }
        self.written_down(Act::Sync, Proxy::program)
    }

    /// Does something, and has it written down.
    fn written_down(
        &mut self,
        act: Act,
        work: fn(&mut Proxy) -> Result<Report, Error>,
    ) -> Result<Report, Error> {
        if let Some(scribe) = &mut self.scribe {
            let known = Known { cluster: self.tracker.cluster(), options: &self.options };
            let anew = self.families.iter().filter(|family| family.is_unknown());
            let anew: Vec<Family> = anew.map(FamilySync::family).collect();
            scribe.begins(act, &anew, known);
        }
        let done = work(self);
        if let Some(scribe) = &mut self.scribe {
            scribe.ended(&done);
        }
        done
    }

    fn program(&mut self) -> Result<Report, Error> {
        let mut report = Report::default();
        let before = self.compile(&mut report);
        match self.examined.take() {
            None => self.bring_families(&mut report)?,
            Some(mut examined) => {
                let synced = self.sync_examined(&mut examined, &before, &mut report);
                self.examined = Some(examined);
                synced?;
            }
        }
        Ok(report)
    }

    fn bring_families(&mut self, report: &mut Report) -> Result<(), Error> {
        let mut outcome = Ok(());
        for family in &mut self.families {
            let options = mode_options(&self.options, self.tracker.cluster());
            let brought = family.bring(&mut *self.kernel, &options, report);
            outcome = outcome.and(brought);
        }
        outcome
    }

    /// Says goodbye before the process ends. Rules stay in place; connections that the process itself
    /// carries get their time to end.
    pub fn farewell(&mut self) -> Result<(), Error> {
        if self.options.mode != Mode::Userspace {
            return Ok(());
        }
        let drain = RelayOperation::Drain(self.options.relay.drain);
        self.kernel.apply(&Transaction::Relay(vec![drain])).map(|_| ())
    }

    /// Removes what other modes left behind, once this one is complete; gives how much there was.
    pub fn leave_only_this_mode(&mut self) -> Result<usize, Error> {
        let stays = (self.options.mode, self.options.steering);
        cleanup::leave_only(&mut *self.kernel, stays, &self.options.ipvs.excluded)
    }

    /// Removes chains that nobody needs any more: cheap, but better done when nothing waits.
    pub fn tidy(&mut self) -> Result<Report, Error> {
        self.written_down(Act::Tidy, Proxy::tidy_families)
    }

    fn tidy_families(&mut self) -> Result<Report, Error> {
        let mut report = Report::default();
        for family in &mut self.families {
            let kernel = &mut *self.kernel;
            match &mut self.examined {
                None => family.tidy(kernel, &mut report)?,
                Some(examined) => family.tidy(&mut Tee { kernel, examined }, &mut report)?,
            }
        }
        Ok(report)
    }

    /// Takes the changes into what is wanted of each family; gives what Services wanted before, if
    /// somebody wants to know.
    fn compile(&mut self, report: &mut Report) -> Before {
        let mut before = Before::new();
        let mut changes = self.tracker.take_changes();
        let cluster = self.tracker.cluster();
        if changes.everything || changes.node {
            changes.services.extend(cluster.services().map(|s| s.name.clone()));
        }
        report.services = changes.services.len();
        for name in &changes.services {
            if self.examined.is_some() {
                let was = self.families.iter().map(|family| family.wanted_of(name)).collect();
                before.insert(name.clone(), was);
            }
            for family in &mut self.families {
                let (owners, gone) = family.compile(cluster, name);
                self.suspects.services.extend(owners);
                let gone = gone.into_iter().map(|frontend| (family.family(), frontend));
                self.suspects.gone.extend(gone);
            }
        }
        if changes.service_cidrs || changes.everything {
            let cidrs: Vec<IpNet> = cluster.service_cidrs();
            self.families.iter_mut().for_each(|family| family.set_service_cidrs(&cidrs));
        }
        if changes.node {
            self.families.iter_mut().for_each(FamilySync::mark_behind);
        }
        self.last_changes = changes;
        before
    }
}

/// Sets what a mode needs of the node and what takes more rights than rules do: where a container sees
/// sysctls without the right to write them, `--init-only` comes first.
pub fn prepare_node(kernel: &mut dyn Kernel, options: &Options) -> Result<(), Error> {
    let cluster = Tracker::new(options.node_name.clone());
    let of_mode = mode_options(options, cluster.cluster());
    match options.mode {
        Mode::Iptables => iptables::allow_localhost(kernel, &of_mode),
        Mode::Ipvs => ipvs::set_sysctls(kernel, of_mode.ipvs.strict_arp, &mut Report::default()),
        Mode::Userspace => userspace::reuse_ports(kernel),
        Mode::Nftables => Ok(()),
    }
}

/// A heart that answers another question than it was asked is broken; say so instead of panicking.
fn unreachable_answer<T>(asked: &str, got: &Facts) -> Result<T, Error> {
    let source = format!("asked for {asked}, got {got:?}");
    Err(Error::new(crate::kernel::ErrorKind::Broken, "read from the kernel", source))
}

/// The options of the rules, with what depends on the Node filled in.
fn mode_options(options: &Options, cluster: &Cluster) -> backend::Options {
    let cidrs = |family: Family| node_port_cidrs(options, cluster, family);
    backend::Options {
        masquerade_bit: options.masquerade_bit,
        masquerade_all: options.masquerade_all,
        detector: options.detector.clone(),
        node_port_addresses: Family::ALL.map(cidrs),
        ipvs: options.ipvs.clone(),
        localhost_node_ports: options.localhost_node_ports,
        relay: options.relay.clone(),
    }
}

/// Which addresses take node port traffic; `None`: all of the node's. A family for which the
/// setting names nothing takes all (`pkg/proxy/util/nodeport_addresses.go`).
fn node_port_cidrs(options: &Options, cluster: &Cluster, family: Family) -> Option<Vec<IpNet>> {
    let cidrs: Vec<IpNet> = match &options.node_port_addresses {
        NodePortAddresses::Primary => {
            let primary = cluster.node().and_then(|node| node.primary(family));
            primary.into_iter().filter(|ip| !ip.is_loopback()).map(IpNet::from).collect()
        }
        NodePortAddresses::Cidrs(cidrs) => {
            cidrs.iter().copied().filter(|cidr| Family::of(cidr.addr()) == family).collect()
        }
    };
    let all = cidrs.is_empty() || cidrs.iter().any(|cidr| cidr.prefix_len() == 0);
    (!all).then_some(cidrs)
}
