//! One family: what is wanted of it, what of that has changed, and the driver that brings it into
//! the kernel. It knows nothing of the other family, and no mode. Tests: `proptests`.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::Report;
use super::conntrack::is_looked_after;
use super::driver::{Driver, Wanted, driver};
use crate::backend::Options;
use crate::backend::program::{Frontend, Program, compile, without_nested};
use crate::backend::ruleset::Ruleset;
use crate::kernel::drift::{Foreign, Process, Touched};
use crate::kernel::{Error, Kernel, Socket};
use crate::model::{Family, Mode, NamespacedName, Notice, Steering};
use crate::track::Cluster;

/// One family.
#[derive(Debug)]
pub(super) struct FamilySync {
    how: (Mode, Steering),
    family: Family,
    ruleset: Ruleset,
    changed: BTreeSet<Frontend>,
    behind: bool,
    /// Whether somebody else changed what was written, and it was not put right yet.
    drifted: bool,
    drifts: u64,
    /// Who may have changed what was written; to be looked at.
    suspect: Option<String>,
    driver: Box<dyn Driver>,
}

impl FamilySync {
    pub(super) fn new(how: (Mode, Steering), family: Family) -> FamilySync {
        FamilySync {
            how,
            family,
            ruleset: Ruleset::default(),
            changed: BTreeSet::new(),
            behind: true,
            drifted: false,
            drifts: 0,
            suspect: None,
            driver: driver(how, family),
        }
    }

    pub(super) fn family(&self) -> Family {
        self.family
    }

    pub(super) fn ruleset(&self) -> &Ruleset {
        &self.ruleset
    }

    pub(super) fn is_behind(&self) -> bool {
        self.behind || self.driver.is_unknown() || self.driver.is_behind()
    }

    /// Whether the rules are those that are wanted; remainders may still have to be taken away.
    pub(super) fn is_written(&self) -> bool {
        !self.behind && !self.driver.is_unknown()
    }

    pub(super) fn is_unknown(&self) -> bool {
        self.driver.is_unknown()
    }

    /// What cannot be done as asked.
    pub(super) fn notices(&self) -> impl Iterator<Item = Notice> {
        self.ruleset.notices().into_iter().chain(self.driver.notices())
    }

    /// Sees whether what was written is still there.
    pub(super) fn look(&mut self, kernel: &mut dyn Kernel) -> Result<(), Error> {
        self.see(|driver| driver.look(kernel))
    }

    /// Looks at what somebody else may have changed.
    pub(super) fn look_closer(&mut self, kernel: &mut dyn Kernel) -> Result<(), Error> {
        self.see(|driver| driver.look_closer(kernel))
    }

    /// Whether something is left to be looked at.
    pub(super) fn looks_on(&self) -> bool {
        self.driver.looks_on()
    }

    /// Looks at some more of it.
    pub(super) fn look_on(&mut self, kernel: &mut dyn Kernel) -> Result<(), Error> {
        self.see(|driver| driver.look_on(kernel))
    }

    fn see(
        &mut self,
        look: impl FnOnce(&mut dyn Driver) -> Result<Option<String>, Error>,
    ) -> Result<(), Error> {
        let suspect = self.suspect.take();
        if self.driver.is_unknown() {
            return Ok(());
        }
        if let Some(wrong) = look(&mut *self.driver)? {
            let by = suspect.map(|who| format!(" after a change by {who}")).unwrap_or_default();
            tracing::warn!("{} {wrong}{by}; it is put right", self.family);
            self.drifted = true;
            self.drifts += 1;
            self.distrust();
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn driver(&mut self) -> &mut dyn Driver {
        &mut *self.driver
    }

    /// Takes in what somebody else did; what of it is in our rules is put right by the next sync.
    pub(super) fn suspect(&mut self, foreign: &Foreign) {
        let who = foreign.process.as_ref().map_or("somebody".to_owned(), Process::to_string);
        if self.driver.suspects(foreign) && !self.driver.is_unknown() {
            self.suspect.get_or_insert_with(|| who.clone());
        }
        let minds = |touched: &Touched| self.driver.minds(touched);
        let Some(touched) = foreign.touched.iter().find(|touched| minds(touched)) else { return };
        // Whatever comes before that sync is put right by it as well.
        if self.driver.is_unknown() {
            return;
        }
        tracing::warn!(
            "{who} changed the {} table {} ({}); it is put right",
            self.family,
            touched.table,
            if touched.object.is_empty() { "all of it" } else { &touched.object },
        );
        self.drifted = true;
        self.drifts += 1;
        self.distrust();
    }

    /// Whether a change by somebody else is to be looked at.
    pub(super) fn is_suspicious(&self) -> bool {
        self.suspect.is_some()
    }

    /// The local sockets by which this process answers for frontends.
    pub(super) fn answers(&self) -> Vec<(Frontend, Socket)> {
        self.driver.answers()
    }

    /// How many times somebody else's changes were found.
    pub(super) fn drifts(&self) -> u64 {
        self.drifts
    }

    pub(super) fn mark_behind(&mut self) {
        self.behind = true;
    }

    pub(super) fn distrust(&mut self) {
        self.driver.distrust();
        self.behind = true;
    }

    /// Takes one Service's state into what is wanted.
    ///
    /// Gives the Services that now have the frontends it has or had, of protocols whose flows are
    /// looked after, and those of them that nobody has any more.
    pub(super) fn compile(
        &mut self,
        cluster: &Cluster,
        name: &NamespacedName,
    ) -> (BTreeSet<NamespacedName>, Vec<Frontend>) {
        let service = cluster.service(name);
        let programs = service.map(|s| compile(cluster, s, self.family)).unwrap_or_default();
        let health = service
            .filter(|s| s.cluster_ip(self.family).is_some())
            .and_then(|s| s.health_check_node_port);
        self.behind |= self.ruleset.set_health_check_port(name, health);
        // Of one that is gone nobody knows afterwards what was wanted of its flows.
        let mut concerned = self.looked_after(self.ruleset.claimed(name));
        let touched = self.ruleset.replace(name, programs);
        self.behind |= !touched.is_empty();
        concerned.extend(self.looked_after(self.ruleset.claimed(name).chain(&touched)));
        let mut owners = BTreeSet::new();
        let mut gone = Vec::new();
        for frontend in &concerned {
            match self.ruleset.program(frontend) {
                Some(program) => {
                    owners.insert(program.origin.service.clone());
                }
                None => gone.push(*frontend),
            }
        }
        self.changed.extend(touched);
        (owners, gone)
    }

    /// Those of some frontends whose flows are looked after.
    fn looked_after<'f>(&self, of: impl Iterator<Item = &'f Frontend>) -> BTreeSet<Frontend> {
        let wanted = |frontend: &Frontend| {
            let program = self.ruleset.program(frontend);
            let forgets = program.is_some_and(|program| program.forget_tcp_flows);
            is_looked_after(frontend.protocol, forgets)
        };
        of.filter(|frontend| wanted(frontend)).copied().collect()
    }

    pub(super) fn set_service_cidrs(&mut self, cidrs: &[IpNet]) {
        let own = cidrs.iter().copied().filter(|cidr| Family::of(cidr.addr()) == self.family);
        self.ruleset.service_cidrs = without_nested(own);
        self.behind = true;
    }

    /// Brings the kernel up to what is wanted.
    pub(super) fn bring(
        &mut self,
        kernel: &mut dyn Kernel,
        options: &Options,
        report: &mut Report,
    ) -> Result<(), Error> {
        self.write(kernel, options, report)?;
        self.settle(kernel, report)
    }

    /// The first half of `bring`: the rules.
    pub(super) fn write(
        &mut self,
        kernel: &mut dyn Kernel,
        options: &Options,
        report: &mut Report,
    ) -> Result<(), Error> {
        if !self.is_behind() {
            return Ok(());
        }
        let changed = std::mem::take(&mut self.changed);
        let wanted = Wanted { ruleset: &self.ruleset, options, changed };
        match self.driver.bring(kernel, wanted, report) {
            Ok(()) => {
                self.behind = false;
                report.repaired += usize::from(std::mem::take(&mut self.drifted));
                Ok(())
            }
            Err(error) => {
                self.distrust();
                Err(error)
            }
        }
    }

    /// The second half: what the rules ask for beside them.
    pub(super) fn settle(
        &mut self,
        kernel: &mut dyn Kernel,
        report: &mut Report,
    ) -> Result<(), Error> {
        let settled = self.driver.settle(kernel, report);
        self.or_distrust(settled)
    }

    /// After an error it is not known any more what is in the kernel.
    pub(super) fn or_distrust(&mut self, outcome: Result<(), Error>) -> Result<(), Error> {
        outcome.inspect_err(|_| self.distrust())
    }

    /// Makes what is wanted from nothing, in another kernel; nothing is remembered of it.
    pub(super) fn rehearse(&self, kernel: &mut dyn Kernel, options: &Options) -> Result<(), Error> {
        let mut driver = driver(self.how, self.family);
        let wanted = Wanted { ruleset: &self.ruleset, options, changed: BTreeSet::new() };
        driver.bring(kernel, wanted, &mut Report::default())
    }

    /// What a Service wants now.
    pub(super) fn wanted_of(&self, service: &NamespacedName) -> Vec<(Frontend, Program)> {
        self.ruleset.wanted_of(service)
    }

    /// Goes back to what a Service wanted before.
    pub(super) fn take_back(
        &mut self,
        service: &NamespacedName,
        programs: Vec<(Frontend, Program)>,
    ) {
        let touched = self.ruleset.replace(service, programs);
        self.behind |= !touched.is_empty();
        self.changed.extend(touched);
    }

    /// Removes what nobody needs any more; for when there is nothing else to do.
    pub(super) fn tidy(
        &mut self,
        kernel: &mut dyn Kernel,
        report: &mut Report,
    ) -> Result<(), Error> {
        let tidied = self.driver.tidy(kernel, report);
        self.or_distrust(tidied)
    }
}
