//! ipvs mode's driver: one family's virtual servers, sets, addresses and rules, what is known to be
//! in the kernel, and the way to what is wanted. All is listed at the start, after an error, and
//! when house is kept, to find what others changed; otherwise only destinations that are leaving are
//! asked for their connections.
//! It knows nothing of the other family. Tests: `ipvs_tests.rs` here, `proptests`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Report;
use super::driver::{Driver, Wanted};
use super::sysctls;
use crate::backend::Options;
use crate::backend::ipvs::adopt::Found;
use crate::backend::ipvs::plan::{Applied, Steps};
use crate::backend::ipvs::rules::Rules;
use crate::backend::xtables::rule::SourcePort;
use crate::kernel::drift::{Foreign, Touched};
use crate::kernel::{
    Capability, DestinationFact, Error, ErrorKind, Facts, IpsetOperation, IpvsTimeouts, Kernel,
    LinkFact, Query, Scheduler, Socket, Transaction, VirtualServer, XtablesText,
};
use crate::model::{Family, Notice};

/// What every kernel is set to (`pkg/proxy/ipvs/proxier.go`): IPVS' connections can be masqueraded;
/// those of destinations that are gone go too; persistence ends with a destination's weight.
const SETTINGS: [(&str, &str); 4] = [
    ("net/ipv4/vs/conntrack", "1"),
    ("net/ipv4/vs/expire_nodest_conn", "1"),
    ("net/ipv4/vs/expire_quiescent_template", "1"),
    ("net/ipv4/ip_forward", "1"),
];
const STRICT_ARP: [(&str, &str); 2] =
    [("net/ipv4/conf/all/arp_ignore", "1"), ("net/ipv4/conf/all/arp_announce", "2")];
/// Of how many virtual servers destinations are asked for in one go: a change waits meanwhile.
const SLICE: usize = 128;
const REUSE: &str = "net/ipv4/vs/conn_reuse_mode";

/// One family of ipvs mode.
#[derive(Debug)]
pub(super) struct Ipvs {
    family: Family,
    /// `None`: what is in the kernel has to be listed before anything is written.
    applied: Option<Applied>,
    /// The rules that were written.
    rules: Option<Rules>,
    /// What sysctls and timeouts were set for.
    settings: Option<(bool, IpvsTimeouts)>,
    /// Schedulers of which is known whether the kernel has them.
    asked: BTreeSet<Scheduler>,
    lacking: BTreeSet<Scheduler>,
    /// Addresses that the node was seen to have, other than those known.
    addresses: Option<BTreeSet<IpAddr>>,
    /// Virtual servers that this process made, when it is not known any more what is in the kernel.
    made: BTreeSet<VirtualServer>,
    /// Virtual servers whose destinations are still to be looked at in this round.
    unseen: Vec<VirtualServer>,
}

impl Driver for Ipvs {
    fn is_unknown(&self) -> bool {
        self.applied.is_none()
    }

    fn is_behind(&self) -> bool {
        self.addresses.is_some()
    }

    fn distrust(&mut self) {
        self.made.extend(self.applied.iter().flat_map(Applied::made));
        (self.applied, self.rules, self.settings) = (None, None, None);
        self.unseen.clear();
    }

    fn look(&mut self, kernel: &mut dyn Kernel) -> Result<Option<String>, Error> {
        let Some(applied) = &self.applied else { return Ok(None) };
        let found = list_alone(kernel, self.family)?;
        let seen = found.node_addresses(self.family);
        self.addresses = (!applied.knows_addresses(&seen)).then_some(seen);
        if let Some(other) = applied.drift(&found) {
            return Ok(Some(other));
        }
        if self.unseen.is_empty() {
            self.unseen = applied.looked_at().collect();
        }
        match self.settings_differ(kernel)? {
            None => match self.look_closer(kernel)? {
                None => self.look_on(kernel),
                other => Ok(other),
            },
            other => Ok(other),
        }
    }

    fn looks_on(&self) -> bool {
        !self.unseen.is_empty()
    }

    fn look_on(&mut self, kernel: &mut dyn Kernel) -> Result<Option<String>, Error> {
        let Some(applied) = &self.applied else { return Ok(None) };
        let some = self.unseen.len().saturating_sub(SLICE);
        for server in self.unseen.split_off(some) {
            let found = destinations(kernel, server)?;
            if let Some(other) = applied.destinations_drift(server, &found) {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }

    /// Of all that others change the kernel tells of rules only: nothing else is looked at for it.
    fn look_closer(&mut self, kernel: &mut dyn Kernel) -> Result<Option<String>, Error> {
        let Some(rules) = &self.rules else { return Ok(None) };
        let wrong = rules.text(&dump(kernel, self.family)?).operations;
        Ok((wrong > 0).then(|| format!("{wrong} rules or chains of iptables are not as written")))
    }

    fn minds(&self, _change: &Touched) -> bool {
        // IPVS and ipset tell nobody. Chains are shared with others: `suspects` has them looked at.
        false
    }

    fn suspects(&mut self, foreign: &Foreign) -> bool {
        let Some(rules) = &self.rules else { return false };
        let concerns = |touched: &Touched| {
            touched.family == self.family && rules.concern(&touched.table, &touched.object)
        };
        foreign.more || foreign.touched.iter().any(concerns)
    }

    fn bring(
        &mut self,
        kernel: &mut dyn Kernel,
        wanted: Wanted<'_>,
        report: &mut Report,
    ) -> Result<(), Error> {
        self.set(kernel, wanted.options, report)?;
        let mut applied = match self.applied.take() {
            Some(applied) => applied,
            None => find(kernel, (self.family, wanted.options), (&self.made, &mut *report))?,
        };
        self.made.clear();
        if let Some(addresses) = self.addresses.take() {
            applied.set_addresses(addresses);
        }
        let things = (wanted.ruleset, wanted.options);
        self.ask_schedulers(kernel, applied.asked_schedulers(things, &wanted.changed))?;
        self.lacking.iter().for_each(|scheduler| applied.lacks(*scheduler));
        let steps = applied.plan(things, wanted.changed);
        let leaving = self.carry_out(kernel, (steps, wanted.options), report)?;
        for server in leaving {
            finish_leaving(kernel, &mut applied, server, report)?;
        }
        self.applied = Some(applied);
        Ok(())
    }

    /// Deletes destinations whose connections have ended.
    fn tidy(&mut self, kernel: &mut dyn Kernel, report: &mut Report) -> Result<(), Error> {
        let Some(applied) = &mut self.applied else { return Ok(()) };
        for server in applied.leaving.clone() {
            finish_leaving(kernel, applied, server, report)?;
        }
        Ok(())
    }

    fn notices(&self) -> Vec<Notice> {
        let notices = self.applied.iter().flat_map(Applied::notices);
        notices.cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }
}

impl Ipvs {
    pub(super) fn new(family: Family) -> Ipvs {
        Ipvs {
            family,
            applied: None,
            rules: None,
            settings: None,
            asked: BTreeSet::new(),
            lacking: BTreeSet::new(),
            addresses: None,
            made: BTreeSet::new(),
            unseen: Vec::new(),
        }
    }

    /// Sysctls and timeouts, once and where they are other.
    fn set(
        &mut self,
        kernel: &mut dyn Kernel,
        options: &Options,
        report: &mut Report,
    ) -> Result<(), Error> {
        let wanted = (options.ipvs.strict_arp, options.ipvs.timeouts);
        if self.settings == Some(wanted) {
            return Ok(());
        }
        set_sysctls(kernel, options.ipvs.strict_arp, report)?;
        if options.ipvs.timeouts != IpvsTimeouts::default() {
            let operation = crate::kernel::IpvsOperation::SetTimeouts(options.ipvs.timeouts);
            apply(kernel, Transaction::Ipvs(vec![operation]), report)?;
        }
        self.settings = Some(wanted);
        Ok(())
    }

    /// What of sysctls and timeouts is not as it was set.
    fn settings_differ(&self, kernel: &mut dyn Kernel) -> Result<Option<String>, Error> {
        let Some((strict_arp, timeouts)) = &self.settings else { return Ok(None) };
        for (path, wanted) in sysctls_of(kernel, *strict_arp)? {
            let is = sysctls::value(kernel, path)?;
            if let Some(is) = is.filter(|is| is != wanted) {
                return Ok(Some(format!("sysctl {path} is {is} instead of {wanted}")));
            }
        }
        if *timeouts == IpvsTimeouts::default() {
            return Ok(None);
        }
        let is = match kernel.read(&Query::IpvsTimeouts)? {
            Facts::IpvsTimeouts(is) => is,
            other => super::unreachable_answer("timeouts", &other)?,
        };
        let pairs = [
            ("TCP", timeouts.tcp, is.tcp),
            ("TCP after a FIN", timeouts.tcp_fin, is.tcp_fin),
            ("UDP", timeouts.udp, is.udp),
        ];
        let other = pairs.into_iter().find(|(_, wanted, is)| *wanted != 0 && wanted != is);
        Ok(other.map(|(of, wanted, is)| {
            format!("IPVS's timeout of {of} is {is} s instead of {wanted}")
        }))
    }

    /// Finds out whether the kernel has schedulers that were not asked for before.
    fn ask_schedulers(
        &mut self,
        kernel: &mut dyn Kernel,
        wanted: BTreeSet<Scheduler>,
    ) -> Result<(), Error> {
        let new: Vec<Capability> =
            wanted.difference(&self.asked).map(|s| Capability::IpvsScheduler(*s)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let lacks = match kernel.read(&Query::Lacks(new))? {
            Facts::Lacks(lacks) => lacks,
            other => super::unreachable_answer("lacks", &other)?,
        };
        self.asked.extend(wanted);
        self.lacking.extend(lacks.iter().filter_map(|(lack, _)| match lack {
            Capability::IpvsScheduler(scheduler) => Some(*scheduler),
            _ => None,
        }));
        Ok(())
    }

    /// Carries out the steps; rules come behind the sets they ask. Gives the servers of which
    /// destinations begin to leave.
    fn carry_out(
        &mut self,
        kernel: &mut dyn Kernel,
        (steps, options): (Steps, &Options),
        report: &mut Report,
    ) -> Result<BTreeSet<VirtualServer>, Error> {
        apply_sets(kernel, steps.sets, report)?;
        self.write_rules(kernel, options, report)?;
        if !steps.servers.is_empty() {
            apply(kernel, Transaction::Ipvs(steps.servers), report)?;
        }
        if !steps.links.is_empty() {
            apply(kernel, Transaction::Links(steps.links), report)?;
        }
        apply_sets(kernel, steps.last_sets, report)?;
        Ok(steps.leaving)
    }

    fn write_rules(
        &mut self,
        kernel: &mut dyn Kernel,
        options: &Options,
        report: &mut Report,
    ) -> Result<(), Error> {
        let port = match kernel.capabilities().has(Capability::XtablesRandomFully) {
            true => SourcePort::Random,
            false => SourcePort::AsTheKernelLikes,
        };
        let rules = Rules::new(self.family, options, port);
        if self.rules.as_ref() == Some(&rules) {
            return Ok(());
        }
        let written = rules.text(&dump(kernel, self.family)?);
        if written.operations > 0 {
            let (text, operations) = (written.text, written.operations);
            report.bytes += text.len();
            let text = XtablesText { family: self.family, text, operations };
            apply(kernel, Transaction::Xtables(text), report)?;
        }
        self.rules = Some(rules);
        Ok(())
    }
}

/// Lists what is there and takes it over.
fn find(
    kernel: &mut dyn Kernel,
    (family, options): (Family, &Options),
    (made, report): (&BTreeSet<VirtualServer>, &mut Report),
) -> Result<Applied, Error> {
    let found = list(kernel, family)?;
    if let Some(strange) = found.strange_sets(family).first() {
        let what = format!("take over ipset {strange}");
        let said = "its type is not ours; remove it (ipset destroy), with the rules that ask it";
        return Err(Error::new(ErrorKind::Exists, what, said));
    }
    apply_sets(kernel, found.unfinished_sets(family), report)?;
    Ok(found.adopt((family, options), made))
}

/// Everything of one family that ipvs mode has to do with.
pub(super) fn list(kernel: &mut dyn Kernel, family: Family) -> Result<Found, Error> {
    list_by(kernel, Query::VirtualServers(family))
}

/// The same without destinations.
fn list_alone(kernel: &mut dyn Kernel, family: Family) -> Result<Found, Error> {
    list_by(kernel, Query::VirtualServersAlone(family))
}

fn list_by(kernel: &mut dyn Kernel, servers: Query) -> Result<Found, Error> {
    let servers = match kernel.read(&servers)? {
        Facts::VirtualServers(servers) => servers,
        other => super::unreachable_answer("virtual servers", &other)?,
    };
    let sets = match kernel.read(&Query::Ipsets("KUBE-".to_owned()))? {
        Facts::Ipsets(sets) => sets,
        other => super::unreachable_answer("ipsets", &other)?,
    };
    Ok(Found { servers, sets, links: links(kernel)? })
}

fn links(kernel: &mut dyn Kernel) -> Result<Vec<LinkFact>, Error> {
    match kernel.read(&Query::Links)? {
        Facts::Links(links) => Ok(links),
        other => super::unreachable_answer("links", &other),
    }
}

/// The tables of iptables as text.
pub(super) fn dump(kernel: &mut dyn Kernel, family: Family) -> Result<String, Error> {
    match kernel.read(&Query::Xtables(family))? {
        Facts::Text(text) => Ok(text),
        other => super::unreachable_answer("tables of iptables", &other),
    }
}

fn destinations(
    kernel: &mut dyn Kernel,
    server: VirtualServer,
) -> Result<Vec<DestinationFact>, Error> {
    match kernel.read(&Query::Destinations(server))? {
        Facts::Destinations(destinations) => Ok(destinations),
        other => super::unreachable_answer("destinations", &other),
    }
}

/// Deletes destinations of a server that are leaving and have no connection left. Their weight is 0
/// already, so that they get no new one meanwhile.
fn finish_leaving(
    kernel: &mut dyn Kernel,
    applied: &mut Applied,
    server: VirtualServer,
    report: &mut Report,
) -> Result<(), Error> {
    let there = destinations(kernel, server)?;
    let busy = there.iter().filter(|fact| fact.active + fact.inactive > 0);
    let busy: BTreeSet<Socket> = busy.map(|fact| fact.destination.socket).collect();
    let gone = applied.finish_leaving(server, &busy);
    if gone.is_empty() {
        return Ok(());
    }
    apply(kernel, Transaction::Ipvs(gone), report)
}

/// What `conn_reuse_mode` has to be on this kernel; `None` where it is not there. Before Linux 5.9 a
/// client's port that comes again waits a second if it is 1 (issue 81775); later a client's port
/// that comes again goes to a destination that may be gone if it is 0.
fn reuse_mode(release: &str) -> Option<&'static str> {
    let mut parts = release.split(['.', '-']).map(|part| part.parse::<u32>().ok());
    let version = (parts.next().flatten(), parts.next().flatten());
    match version {
        (Some(major), Some(minor)) if (major, minor) < (4, 1) => None,
        (Some(major), Some(minor)) if (major, minor) < (5, 9) => Some("0"),
        _ => Some("1"),
    }
}

/// Sets the sysctls that the mode needs, where they are other.
pub(super) fn set_sysctls(
    kernel: &mut dyn Kernel,
    strict_arp: bool,
    report: &mut Report,
) -> Result<(), Error> {
    let wanted = sysctls_of(kernel, strict_arp)?;
    wanted.into_iter().try_for_each(|sysctl| set_sysctl(kernel, sysctl, report))
}

/// The sysctls that the mode needs on this kernel.
fn sysctls_of(
    kernel: &mut dyn Kernel,
    strict_arp: bool,
) -> Result<Vec<(&'static str, &'static str)>, Error> {
    let release = sysctls::value(kernel, "kernel/osrelease")?.unwrap_or_default();
    let arp = STRICT_ARP.into_iter().filter(|_| strict_arp);
    let reuse = reuse_mode(&release).map(|value| (REUSE, value));
    Ok(SETTINGS.into_iter().chain(arp).chain(reuse).collect())
}

fn set_sysctl(
    kernel: &mut dyn Kernel,
    (path, value): (&str, &str),
    report: &mut Report,
) -> Result<(), Error> {
    if sysctls::value(kernel, path)?.as_deref() == Some(value) {
        return Ok(());
    }
    apply(kernel, Transaction::Sysctl(path.to_owned(), value.to_owned()), report)
}

fn apply_sets(
    kernel: &mut dyn Kernel,
    operations: Vec<IpsetOperation>,
    report: &mut Report,
) -> Result<(), Error> {
    if operations.is_empty() {
        return Ok(());
    }
    apply(kernel, Transaction::Ipset(operations), report)
}

fn apply(
    kernel: &mut dyn Kernel,
    transaction: Transaction,
    report: &mut Report,
) -> Result<(), Error> {
    report.transactions += 1;
    let receipt = kernel.apply(&transaction)?;
    report.operations += receipt.operations;
    report.waited += receipt.waited;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_come_again_are_treated_as_the_kernel_can() {
        for (release, mode) in [
            ("3.10.0-1160.el7.x86_64", None),
            ("4.19.0", Some("0")),
            ("5.8.18", Some("0")),
            ("5.9.0", Some("1")),
            ("6.18.5-amd64", Some("1")),
            ("unheard of", Some("1")),
        ] {
            assert_eq!(reuse_mode(release), mode, "{release}");
        }
    }
}
