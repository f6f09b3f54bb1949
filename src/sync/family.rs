//! One family: what is wanted of it, what of that has changed, and the driver that brings it into
//! the kernel. It knows nothing of the other family, and no mode. Tests: `proptests`.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::Report;
use super::driver::{Driver, Wanted, driver};
use crate::backend::Options;
use crate::backend::program::{Frontend, compile, without_nested};
use crate::backend::ruleset::Ruleset;
use crate::kernel::{Error, Kernel};
use crate::model::{Family, Mode, NamespacedName, Notice, Protocol};
use crate::track::Cluster;

/// One family.
#[derive(Debug)]
pub(super) struct FamilySync {
    family: Family,
    ruleset: Ruleset,
    changed: BTreeSet<Frontend>,
    behind: bool,
    drifts: u64,
    driver: Box<dyn Driver>,
}

impl FamilySync {
    pub(super) fn new(mode: Mode, family: Family) -> FamilySync {
        FamilySync {
            family,
            ruleset: Ruleset::default(),
            changed: BTreeSet::new(),
            behind: true,
            drifts: 0,
            driver: driver(mode, family),
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

    pub(super) fn is_unknown(&self) -> bool {
        self.driver.is_unknown()
    }

    /// What cannot be done as asked.
    pub(super) fn notices(&self) -> impl Iterator<Item = Notice> {
        self.ruleset.conflicts().into_iter().chain(self.driver.notices())
    }

    /// Sees whether what was written is still there.
    pub(super) fn look(&mut self, kernel: &mut dyn Kernel) -> Result<(), Error> {
        if self.driver.is_unknown() {
            return Ok(());
        }
        if let Some(wrong) = self.driver.look(kernel)? {
            tracing::warn!("{} {wrong}; it is put right", self.family);
            self.drifts += 1;
            self.distrust();
        }
        Ok(())
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
    /// Gives the Services that now have the UDP frontends it has or had.
    pub(super) fn compile(
        &mut self,
        cluster: &Cluster,
        name: &NamespacedName,
    ) -> BTreeSet<NamespacedName> {
        let service = cluster.service(name);
        let programs = service.map(|s| compile(cluster, s, self.family)).unwrap_or_default();
        let health = service
            .filter(|s| s.cluster_ip(self.family).is_some())
            .and_then(|s| s.health_check_node_port);
        self.behind |= self.ruleset.set_health_check_port(name, health);
        let touched = self.ruleset.replace(name, programs);
        self.behind |= !touched.is_empty();
        let concerned = self.ruleset.claimed(name).chain(&touched);
        let udp = concerned.filter(|frontend| frontend.protocol == Protocol::Udp);
        let owners = udp.filter_map(|frontend| self.ruleset.program(frontend));
        let owners = owners.map(|program| program.origin.service.clone()).collect();
        self.changed.extend(touched);
        owners
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
        if !self.is_behind() {
            return Ok(());
        }
        let changed = std::mem::take(&mut self.changed);
        let wanted = Wanted { ruleset: &self.ruleset, options, changed };
        match self.driver.bring(kernel, wanted, report) {
            Ok(()) => {
                self.behind = false;
                Ok(())
            }
            Err(error) => {
                self.distrust();
                Err(error)
            }
        }
    }

    /// Removes what nobody needs any more; for when there is nothing else to do.
    pub(super) fn tidy(
        &mut self,
        kernel: &mut dyn Kernel,
        report: &mut Report,
    ) -> Result<(), Error> {
        let tidied = self.driver.tidy(kernel, report);
        if tidied.is_err() {
            self.distrust();
        }
        tidied
    }
}
