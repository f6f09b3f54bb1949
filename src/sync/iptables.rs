//! iptables mode's driver: one family's chains, what is known to be in the kernel, and the way to
//! what is wanted. It knows nothing of the other family. Tests: `tests.rs` here, `proptests`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Report;
use super::driver::{Driver, Goal, Steers, Wanted};
use super::iptables_netlink as netlink;
use super::sysctls;
use crate::backend::Options;
use crate::backend::iptables::chain::Table;
use crate::backend::iptables::dump::Dump;
use crate::backend::iptables::pen::{Blocks, Text};
use crate::backend::iptables::plan::{Applied, guard};
use crate::backend::iptables::rule::SourcePort;
use crate::backend::iptables::shape::{
    Ability, Counting, INVALID_DROPPED, LOCALHOST_ACCEPTED, Shape,
};
use crate::backend::program::Frontend;
use crate::kernel::drift::{Foreign, Touched};
use crate::kernel::{
    Capability, Error, ErrorKind, Facts, Kernel, Query, Transaction, XtablesFlavour, XtablesText,
    XtablesWriter,
};
use crate::model::Family;

/// Lets packets from elsewhere reach 127.0.0.0/8: what node ports on localhost need (issue 90259).
const ROUTE_LOCALNET: &str = "net/ipv4/conf/all/route_localnet";
/// Whether packets out of window count as valid.
const BE_LIBERAL: &str = "net/netfilter/nf_conntrack_tcp_be_liberal";

/// One family's chains.
#[derive(Debug)]
pub(super) struct Iptables {
    family: Family,
    ability: Ability,
    /// Where this process takes connections, if rules lead to it and not to endpoints.
    relay: Option<IpAddr>,
    /// `None`: what is in the kernel has to be read before anything is written.
    applied: Option<Applied>,
    /// Looks that are left out until the next one: a large table takes the tool seconds.
    looks_left_out: usize,
    /// Who wrote what is known.
    writer: XtablesWriter,
}

/// To list so many rules costs the tool about as much as a look may cost.
const RULES_A_LOOK: usize = 10_000;

impl Driver for Iptables {
    fn is_unknown(&self) -> bool {
        self.applied.is_none()
    }

    fn distrust(&mut self) {
        self.applied = None;
    }

    fn look(&mut self, kernel: &mut dyn Kernel) -> Result<Option<String>, Error> {
        let Some(applied) = &self.applied else { return Ok(None) };
        if self.looks_left_out > 0 {
            self.looks_left_out -= 1;
            return Ok(None);
        }
        self.looks_left_out = applied.size() / RULES_A_LOOK;
        if netlink::writes(kernel) {
            let listing = netlink::listing(kernel, self.family)?;
            return Ok(applied.drift(&Dump::heard(&listing)));
        }
        let text = read(kernel, self.family)?;
        Ok(applied.drift(&Dump::read(&text)))
    }

    fn minds(&self, change: &Touched) -> bool {
        // Of what the tool writes, chains are shared with others, kubelet first of all: `suspects`
        // has them looked at.
        self.writer == XtablesWriter::Netlink && netlink::minds(self.family, change)
    }

    fn suspects(&mut self, foreign: &Foreign) -> bool {
        let concerns = |touched: &Touched| touched.family == self.family && may_hold_ours(touched);
        let suspects = foreign.more || foreign.touched.iter().any(concerns);
        if suspects {
            self.looks_left_out = 0;
        }
        suspects
    }

    fn bring(
        &mut self,
        kernel: &mut dyn Kernel,
        wanted: Wanted<'_>,
        report: &mut Report,
    ) -> Result<(), Error> {
        self.steer(kernel, (wanted.ruleset, wanted.options), wanted.changed, report)
    }

    fn tidy(&mut self, _: &mut dyn Kernel, _: &mut Report) -> Result<(), Error> {
        Ok(())
    }
}

impl Steers for Iptables {
    /// The chain that does it is the first thing that is written.
    fn guard(&mut self, kernel: &mut dyn Kernel, options: &Options) -> Result<(), Error> {
        let shape = self.shape(options);
        if netlink::writes(kernel) {
            return netlink::guard(kernel, &shape);
        }
        let text = read(kernel, self.family)?;
        let mut pen = Text::new(self.family, blocks(kernel));
        guard(&shape, &Dump::read(&text), &mut pen);
        apply(kernel, pen, &mut Report::default())
    }

    fn steer(
        &mut self,
        kernel: &mut dyn Kernel,
        goal: Goal<'_>,
        changed: BTreeSet<Frontend>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let shape = self.shape(goal.1);
        let Some(applied) = &mut self.applied else {
            return self.begin(kernel, goal, report);
        };
        if shape.localhost && !applied.shape().localhost {
            route_localnet(kernel)?;
        }
        if netlink::writes(kernel) {
            let towards = (goal.0, &shape, &changed);
            let Some(change) = netlink::change(kernel, (applied, towards), report)? else {
                return self.begin(kernel, goal, report);
            };
            applied.take(change);
            return Ok(());
        }
        let mut pen = Text::new(self.family, blocks(kernel));
        let change = applied.change((goal.0, shape), changed, &mut pen);
        let written = count(pen.rules());
        apply(kernel, pen, report)?;
        applied.take(change);
        tell(report, (self.family, applied), written);
        Ok(())
    }
}

impl Iptables {
    pub(super) fn new(family: Family) -> Iptables {
        Iptables {
            family,
            ability: Ability::default(),
            relay: None,
            applied: None,
            looks_left_out: 0,
            writer: XtablesWriter::Tool,
        }
    }

    /// Rules that lead to this process, which takes connections at an address.
    pub(super) fn leading_to(family: Family, relay: IpAddr) -> Iptables {
        Iptables { relay: Some(relay), ..Iptables::new(family) }
    }

    fn shape(&self, options: &Options) -> Shape {
        let shape = Shape::new(options, self.family, self.ability);
        match self.relay {
            Some(relay) => shape.leading_to(relay),
            None => shape,
        }
    }

    /// From what is there to what is wanted.
    fn begin(
        &mut self,
        kernel: &mut dyn Kernel,
        goal: Goal<'_>,
        report: &mut Report,
    ) -> Result<(), Error> {
        self.ability = ability(kernel)?;
        let shape = self.shape(goal.1);
        if shape.localhost {
            route_localnet(kernel)?;
        }
        self.writer = kernel.capabilities().xtables_writer;
        if self.writer == XtablesWriter::Netlink {
            self.applied = Some(netlink::adopt(kernel, (goal.0, &shape), report)?);
            return Ok(());
        }
        let text = read(kernel, self.family)?;
        let mut pen = Text::new(self.family, blocks(kernel));
        let applied = Applied::adopt(goal.0, shape, &Dump::read(&text), &mut pen);
        drop(text);
        let written = count(pen.rules());
        apply(kernel, pen, report)?;
        tell(report, (self.family, &applied), written);
        self.applied = Some(applied);
        Ok(())
    }
}

/// By table.
type Counts = BTreeMap<&'static str, usize>;

fn count(rules: impl Iterator<Item = (Table, usize)>) -> Counts {
    rules.map(|(table, rules)| (table.name(), rules)).collect()
}

/// How many rules are ours, and how many were written.
fn tell(report: &mut Report, (family, applied): (Family, &Applied), written: Counts) {
    let all = count(applied.rules()).into_iter();
    let both = all.map(|(table, all)| ((family, table), (all, written[table])));
    report.rules.extend(both);
}

/// Whether a change may have been to a chain that has rules of ours, or is ours.
fn may_hold_ours(touched: &Touched) -> bool {
    const KUBELETS: [&str; 3] = ["KUBE-FIREWALL", "KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"];
    const HOOKED: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
    let object = touched.object.as_str();
    let ours = object.starts_with("KUBE-") && !KUBELETS.contains(&object);
    let tables = ["filter", "nat", "mangle"].contains(&touched.table.as_str());
    tables && (object.is_empty() || ours || HOOKED.contains(&object))
}

/// How this iptables takes long texts best.
pub(super) fn blocks(kernel: &dyn Kernel) -> Blocks {
    match kernel.capabilities().xtables {
        Some(XtablesFlavour::Nft) => Blocks::Many,
        Some(XtablesFlavour::Legacy) | None => Blocks::One,
    }
}

fn ability(kernel: &mut dyn Kernel) -> Result<Ability, Error> {
    let has = |what| kernel.capabilities().has(what);
    let source_port = match has(Capability::XtablesRandomFully) {
        true => SourcePort::Random,
        false => SourcePort::AsTheKernelLikes,
    };
    let counting = counting(kernel)?;
    let liberal = sysctls::value(kernel, BE_LIBERAL)?.is_some_and(|value| value != "0");
    let drops_invalid = (!liberal).then_some(counting);
    Ok(Ability { source_port, drops_invalid, counts_localhost: counting })
}

/// Makes the counters that rules refer to; without them nothing else is missing.
fn counting(kernel: &mut dyn Kernel) -> Result<Counting, Error> {
    let mut names = [INVALID_DROPPED, LOCALHOST_ACCEPTED].into_iter();
    match names.try_for_each(|name| kernel.apply(&Transaction::Account(name)).map(drop)) {
        Ok(()) => Ok(Counting::Counted),
        // A kernel without nfacct calls the message invalid.
        Err(error) if matches!(error.kind, ErrorKind::Unsupported | ErrorKind::Invalid) => {
            tracing::info!(%error, "no nfacct: dropped and localhost packets are not counted");
            Ok(Counting::Uncounted)
        }
        Err(error) => Err(error),
    }
}

/// Packets dropped for being invalid, and connections to node ports on loopback addresses, as the
/// kernel has counted them; `None` where it does not count.
pub fn counted_packets(kernel: &mut dyn Kernel) -> [Option<u64>; 2] {
    [INVALID_DROPPED, LOCALHOST_ACCEPTED].map(|name| {
        match kernel.read(&Query::Account(name.to_owned())) {
            Ok(Facts::Number(packets)) => Some(packets),
            Ok(_) | Err(_) => None,
        }
    })
}

/// Writes the sysctl, if these options ask for it.
pub(super) fn allow_localhost(kernel: &mut dyn Kernel, options: &Options) -> Result<(), Error> {
    let wanted = Shape::new(options, Family::V4, Ability::default()).localhost;
    if wanted { route_localnet(kernel) } else { Ok(()) }
}

fn route_localnet(kernel: &mut dyn Kernel) -> Result<(), Error> {
    if sysctls::value(kernel, ROUTE_LOCALNET)?.as_deref() != Some("1") {
        kernel.apply(&Transaction::Sysctl(ROUTE_LOCALNET.to_owned(), "1".to_owned()))?;
    }
    Ok(())
}

pub(super) fn read(kernel: &mut dyn Kernel, family: Family) -> Result<String, Error> {
    match kernel.read(&Query::Xtables(family))? {
        Facts::Text(text) => Ok(text),
        other => super::unreachable_answer("tables", &other),
    }
}

pub(super) fn apply(kernel: &mut dyn Kernel, pen: Text, report: &mut Report) -> Result<(), Error> {
    let (family, operations) = (pen.family(), pen.operations());
    let text = pen.finish();
    if text.is_empty() {
        return Ok(());
    }
    report.bytes += text.len();
    report.transactions += 1;
    let receipt = kernel.apply(&Transaction::Xtables(XtablesText { family, text, operations }))?;
    report.operations += receipt.operations;
    report.waited += receipt.waited;
    Ok(())
}
