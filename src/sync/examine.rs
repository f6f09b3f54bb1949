//! Looks at what is about to be written before it is (`--verify`): every transaction goes to a
//! kernel in memory first, and only what keeps the promises there is carried out.
//!
//! What the kernel in memory has of ours is made by the same drivers, from nothing whenever the
//! real kernel is written from nothing, and by the same transactions from then on. What a driver
//! has to read in the middle of its work is read from the real kernel, to which everything before
//! that has gone by then. Who judges is an `Examiner`; nothing here knows a promise.
//! Tests: `verify::tests`.

use std::collections::BTreeMap;

use super::family::FamilySync;
use super::{Options, Proxy, Report, mode_options};
use crate::backend::program::{Frontend, Program};
use crate::kernel::{Capabilities, Error, ErrorKind, Facts, Kernel, Query, Receipt, Transaction};
use crate::model::{NamespacedName, Notice, Reason};
use crate::track::{Changes, Cluster};

/// How much is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extent {
    /// Nothing.
    #[default]
    Off,
    /// Services that changed, and a few others in turn.
    Sample,
    /// Every Service at every change.
    Full,
}

impl Extent {
    /// The extent of this name.
    pub fn of(name: &str) -> Option<Extent> {
        match name {
            "off" => Some(Extent::Off),
            "sample" => Some(Extent::Sample),
            "full" => Some(Extent::Full),
            _ => None,
        }
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Extent::Off => "off",
            Extent::Sample => "sample",
            Extent::Full => "full",
        }
    }
}

/// What is known when something is examined.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// How it is programmed.
    pub options: &'a Options,
}

/// A Service whose promise would be broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The Service.
    pub service: NamespacedName,
    /// A packet that shows it, with what was promised and what would become of it.
    pub example: String,
}

/// Who judges what is about to be written.
pub trait Examiner: Send {
    /// A node with nothing of ours: the kernel in memory begins anew. It is to be able to do what
    /// the real one can.
    fn begin(&mut self, kernel: &mut dyn Kernel, known: Known<'_>);

    /// The kernel in memory.
    fn shadow(&mut self) -> &mut dyn Kernel;

    /// Holds what is in memory against the promises: of the Services that changed and, as far as it
    /// takes the time, of others.
    fn examine(&mut self, known: Known<'_>, changes: &Changes) -> Vec<Broken>;

    /// These have been kept from being programmed as they are: what they had before stays until they
    /// change again, and is not what is promised.
    fn held_back(&mut self, services: &[NamespacedName]);

    /// Hears what was found, and what was not programmed for it.
    fn found(&mut self, known: Known<'_>, broken: &[Broken]);

    /// The kernel in memory would not take something, so that nothing is looked at until everything
    /// is written anew.
    fn refused(&mut self, error: &Error);
}

/// An examiner, and whether what it has in memory is what is in the kernel.
pub(super) struct Examined {
    examiner: Box<dyn Examiner>,
    /// The options by which the kernel in memory began; `None`: it is not to be believed.
    begun: Option<Options>,
    /// What was found of each Service, until it is found well.
    notices: BTreeMap<NamespacedName, Notice>,
}

impl Examined {
    pub(super) fn by(examiner: Box<dyn Examiner>) -> Examined {
        Examined { examiner, begun: None, notices: BTreeMap::new() }
    }

    /// What was found and still holds.
    pub(super) fn notices(&self) -> impl Iterator<Item = Notice> {
        self.notices.values().cloned()
    }

    fn suspend(&mut self, error: &Error) {
        self.examiner.refused(error);
        self.begun = None;
    }

    /// Holds what is in memory against the promises, and says what is wrong; gives those that have
    /// something to go back to.
    fn look(
        &mut self,
        known: Known<'_>,
        changes: &Changes,
        before: &Before,
    ) -> Vec<NamespacedName> {
        let broken = self.examiner.examine(known, changes);
        for name in &changes.services {
            self.notices.remove(name);
        }
        let mut held = Vec::new();
        for Broken { service, example } in &broken {
            let instead = match before.contains_key(service) {
                true => "what was programmed for it before stays",
                false => "it is programmed all the same: there is nothing to go back to",
            };
            let notice = Notice {
                kind: "Service",
                object: service.clone(),
                field: String::new(),
                reason: Reason::PromiseBroken,
                message: format!("{example}; {instead}; this is a bug of kube-proxy's"),
            };
            self.notices.insert(service.clone(), notice);
            held.extend(before.contains_key(service).then(|| service.clone()));
        }
        self.examiner.held_back(&held);
        if !broken.is_empty() {
            self.examiner.found(known, &broken);
        }
        held
    }
}

/// What Services had in each family before they changed.
pub(super) type Before = BTreeMap<NamespacedName, Vec<Vec<(Frontend, Program)>>>;

impl Proxy {
    /// Has everything looked at before it is written.
    pub fn examined_by(mut self, examiner: Box<dyn Examiner>) -> Proxy {
        self.examined = Some(Examined::by(examiner));
        self
    }

    /// [`Proxy::sync_rules`] under the eyes of an examiner.
    pub(super) fn sync_examined(
        &mut self,
        examined: &mut Examined,
        before: &Before,
        report: &mut Report,
    ) -> Result<(), Error> {
        if !self.families.iter().any(FamilySync::is_behind) {
            return Ok(());
        }
        let anew = self.families.iter().any(FamilySync::is_unknown);
        if !anew && examined.begun.as_ref() == Some(&self.options) && !self.last_changes.node {
            return self.stage(examined, before, report);
        }
        if !anew && examined.begun.is_none() {
            // It was said when it began to be so.
            return self.bring_families(report);
        }
        self.begin(examined, &[]);
        self.bring_families(report)
    }

    /// Makes everything in memory from nothing, and has it looked at, but for what is held back.
    fn begin(&mut self, examined: &mut Examined, held: &[NamespacedName]) {
        self.distrust_kernel();
        let cluster = self.tracker.cluster();
        let known = Known { cluster, options: &self.options };
        examined.examiner.begin(&mut *self.kernel, known);
        let options = mode_options(&self.options, cluster);
        for family in &self.families {
            let shadow = examined.examiner.shadow();
            if let Err(error) = family.rehearse(&mut *shadow, &options) {
                return examined.suspend(&error);
            }
        }
        examined.begun = Some(self.options.clone());
        let mut changes = self.last_changes.clone();
        changes.services.retain(|service| !held.contains(service));
        examined.look(known, &changes, &Before::new());
    }

    /// Carries a change out in memory, has it looked at, and only then carries it out.
    fn stage(
        &mut self,
        examined: &mut Examined,
        before: &Before,
        report: &mut Report,
    ) -> Result<(), Error> {
        let options = mode_options(&self.options, self.tracker.cluster());
        let mut waiting = Vec::new();
        let mut refused = None;
        for family in &mut self.families {
            let mut stage = Stage::new(&mut *self.kernel, examined.examiner.shadow());
            let written = family.write(&mut stage, &options, report);
            report.waited += stage.waited;
            refused = refused.or(stage.refused.take());
            waiting.push(std::mem::take(&mut stage.waiting));
            if let Err(error) = written {
                examined.begun = None;
                self.distrust_kernel();
                return Err(error);
            }
        }
        let known = Known { cluster: self.tracker.cluster(), options: &self.options };
        match refused {
            Some(error) => examined.suspend(&error),
            None => {
                let held = examined.look(known, &self.last_changes, before);
                if !held.is_empty() {
                    self.take_back(&held, before);
                    self.begin(examined, &held);
                    return self.bring_families(report);
                }
            }
        }
        self.commit(waiting, report)
    }

    /// Carries out what was looked at.
    fn commit(&mut self, waiting: Vec<Vec<Transaction>>, report: &mut Report) -> Result<(), Error> {
        let mut outcome = Ok(());
        for (family, transactions) in self.families.iter_mut().zip(waiting) {
            let kernel = &mut *self.kernel;
            let carried_out = transactions.iter().try_for_each(|transaction| {
                report.waited += kernel.apply(transaction)?.waited;
                Ok(())
            });
            let settled = family.or_distrust(carried_out);
            outcome = outcome.and(settled.and_then(|()| family.settle(kernel, report)));
        }
        outcome
    }

    fn take_back(&mut self, held: &[NamespacedName], before: &Before) {
        for service in held {
            let programs = before.get(service).into_iter().flatten();
            for (family, programs) in self.families.iter_mut().zip(programs) {
                family.take_back(service, programs.clone());
            }
        }
    }
}

/// Two kernels: what is asked of the one in memory waits to be asked of the real one.
struct Stage<'a> {
    kernel: &'a mut dyn Kernel,
    shadow: &'a mut dyn Kernel,
    waiting: Vec<Transaction>,
    /// What the kernel in memory would not take.
    refused: Option<Error>,
    waited: std::time::Duration,
}

impl<'a> Stage<'a> {
    fn new(kernel: &'a mut dyn Kernel, shadow: &'a mut dyn Kernel) -> Stage<'a> {
        let waited = std::time::Duration::ZERO;
        Stage { kernel, shadow, waiting: Vec::new(), refused: None, waited }
    }
}

impl Kernel for Stage<'_> {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        self.waiting.push(transaction.clone());
        let rehearsed = rehearse(self.shadow, transaction);
        Ok(rehearsed.unwrap_or_else(|error| {
            self.refused.get_or_insert(error);
            Receipt::default()
        }))
    }

    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        for transaction in std::mem::take(&mut self.waiting) {
            self.waited += self.kernel.apply(&transaction)?.waited;
        }
        self.kernel.read(query)
    }

    fn capabilities(&self) -> &Capabilities {
        self.kernel.capabilities()
    }
}

/// Carries out in memory what was or will be carried out. A table that stood in is one that never was
/// in memory.
fn rehearse(shadow: &mut dyn Kernel, transaction: &Transaction) -> Result<Receipt, Error> {
    let removes = matches!(transaction, Transaction::Nft(batch) if batch.operations <= 1);
    match shadow.apply(transaction) {
        Err(error) if error.kind == ErrorKind::Absent && removes => Ok(Receipt::default()),
        other => other,
    }
}

/// Two kernels that are told the same, the real one first.
pub(super) struct Tee<'a> {
    pub(super) kernel: &'a mut dyn Kernel,
    pub(super) examined: &'a mut Examined,
}

impl Kernel for Tee<'_> {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        let receipt = self.kernel.apply(transaction)?;
        if self.examined.begun.is_some()
            && let Err(error) = rehearse(self.examined.examiner.shadow(), transaction)
        {
            self.examined.suspend(&error);
        }
        Ok(receipt)
    }

    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        self.kernel.read(query)
    }

    fn capabilities(&self) -> &Capabilities {
        self.kernel.capabilities()
    }
}
