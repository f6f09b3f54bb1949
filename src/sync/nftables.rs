//! nftables mode's driver: one family's table, what is known to be in the kernel, and the way to
//! what is wanted. It knows nothing of the other family. Tests: `tests.rs` here, `proptests`.

use std::collections::BTreeSet;

use super::Report;
use super::driver::{Driver, Goal, Steers, Wanted};
use crate::backend::Options;
use crate::backend::nftables;
use crate::backend::nftables::affinity;
use crate::backend::nftables::elements::Key;
use crate::backend::nftables::layout::{STANDBY, Set, TABLE, table_comment};
use crate::backend::nftables::plan::{Applied, Plan};
use crate::backend::program::Frontend;
use crate::backend::userspace::{GUARD, guard};
use crate::kernel::drift::Touched;
use crate::kernel::{
    Depth, ElementFact, Error, ErrorKind, Facts, Kernel, NftBatch, Query, Transaction,
};
use crate::model::Family;

/// Remembered clients that one transaction forgets: 64 KiB of it, which every socket takes.
const FORGOTTEN_AT_ONCE: usize = 1000;

/// Whether a table is built in one transaction or in several.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AtOnce {
    Yes,
    No,
}

/// One family's table.
#[derive(Debug)]
pub(super) struct Nftables {
    family: Family,
    /// `None`: what is in the kernel has to be read before anything is written.
    applied: Option<Applied>,
    /// Whether a second table stands in, or did until a moment ago.
    stood_in: bool,
    forget_clients: bool,
    look_again: bool,
    /// Whether it keeps strangers from this process's ports as well.
    guards: bool,
}

impl Driver for Nftables {
    fn is_unknown(&self) -> bool {
        self.applied.is_none()
    }

    fn is_behind(&self) -> bool {
        self.forget_clients || self.stood_in
    }

    fn distrust(&mut self) {
        self.applied = None;
    }

    fn look(&mut self, kernel: &mut dyn Kernel) -> Result<Option<String>, Error> {
        let query = Query::Table(self.family, TABLE.to_owned(), Depth::Head);
        let ours = match kernel.read(&query)? {
            Facts::Table(table) => table.is_some_and(|table| table.comment == table_comment()),
            other => super::unreachable_answer("a table", &other)?,
        };
        Ok((!ours).then(|| "the table kube-proxy is gone or not ours any more".to_owned()))
    }

    fn minds(&self, change: &Touched) -> bool {
        let guard = self.guards && change.table == GUARD;
        change.family == self.family && (guard || change.table == TABLE)
    }

    fn bring(
        &mut self,
        kernel: &mut dyn Kernel,
        mut wanted: Wanted<'_>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let changed = std::mem::take(&mut wanted.changed);
        self.steer(kernel, (wanted.ruleset, wanted.options), changed, report)
    }

    fn settle(&mut self, kernel: &mut dyn Kernel, report: &mut Report) -> Result<(), Error> {
        self.forget_clients(kernel, report)
    }

    fn tidy(&mut self, kernel: &mut dyn Kernel, report: &mut Report) -> Result<(), Error> {
        self.look_again(kernel, report)?;
        let Some(applied) = &mut self.applied else { return Ok(()) };
        let Some(batch) = applied.idle_chains() else { return Ok(()) };
        match apply(kernel, batch, report) {
            // Old kernels may still count what let go of these chains: then the next time.
            Err(e) if e.kind == ErrorKind::Busy => Ok(()),
            Err(e) => Err(e),
            Ok(()) => {
                applied.forget_idle_chains();
                Ok(())
            }
        }
    }
}

impl Steers for Nftables {
    fn guard(&mut self, kernel: &mut dyn Kernel, _: &Options) -> Result<(), Error> {
        self.guards = true;
        kernel.apply(&Transaction::Nft(guard(self.family))).map(drop)
    }

    fn steer(
        &mut self,
        kernel: &mut dyn Kernel,
        goal: Goal<'_>,
        changed: BTreeSet<Frontend>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let mut remembered = Vec::new();
        if self.applied.is_none() {
            remembered = self.make_room(kernel, goal, report)?;
        } else {
            self.dismiss(kernel, report)?;
        }
        let absent = || Applied::absent(self.family);
        let applied = self.applied.get_or_insert_with(absent);
        let mut plan = Plan::new(applied, goal, changed);
        if self.stood_in {
            plan.hook_in_last();
        }
        plan.limit_to(kernel.capabilities().largest_batch);
        plan.carry_over(remembered);
        while let Some(batch) = plan.next_batch() {
            apply(kernel, batch, report)?;
        }
        self.forget_clients |= plan.forgets_clients;
        Ok(())
    }
}

impl Nftables {
    pub(super) fn new(family: Family) -> Nftables {
        Nftables {
            family,
            applied: None,
            stood_in: false,
            forget_clients: false,
            look_again: false,
            guards: false,
        }
    }

    /// Sees to it that there is no table, and gives the clients that were remembered. What there
    /// was goes only when a complete table stands in for it. To list what is there and write the
    /// differences would take longer: the kernel's listing grows with the square of a set's size
    /// (30 s at 500,000 elements, against 1.2 s to write them).
    fn make_room(
        &mut self,
        kernel: &mut dyn Kernel,
        goal: Goal<'_>,
        report: &mut Report,
    ) -> Result<Vec<ElementFact>, Error> {
        let ours = found(kernel, self.family, TABLE)?;
        let mut standby = found(kernel, self.family, STANDBY)?;
        let serves = |table: &Option<Found>| table.as_ref().is_some_and(|found| found.hooked);
        // Left behind by a process that was killed: of use only if it had gone on to replace ours.
        if standby.is_some() && (serves(&ours) || !serves(&standby)) {
            apply(kernel, nftables::removal(self.family, STANDBY), report)?;
            standby = None;
        }
        if let (Some(ours), None) = (&ours, &standby)
            && ours.hooked
        {
            let remembered = remembered(kernel, self.family, (TABLE, &ours.comment))?;
            self.stand_in(kernel, (goal, remembered), report)?;
            standby = Some(Found { comment: table_comment(), hooked: true });
        }
        self.stood_in = standby.is_some();
        let remembered = match &standby {
            Some(found) => remembered(kernel, self.family, (STANDBY, &found.comment))?,
            None => Vec::new(),
        };
        if ours.is_some() {
            apply(kernel, nftables::removal(self.family, TABLE), report)?;
        }
        Ok(remembered)
    }

    /// Builds the table that stands in: at once, so that it is complete if it is there; where the
    /// socket does not take that much, step by step.
    fn stand_in(
        &self,
        kernel: &mut dyn Kernel,
        (goal, remembered): (Goal<'_>, Vec<ElementFact>),
        report: &mut Report,
    ) -> Result<(), Error> {
        let with = (goal, &remembered[..]);
        let built = match self.build_standby(kernel, (with, AtOnce::Yes), report) {
            Ok(false) => self.build_standby(kernel, (with, AtOnce::No), report),
            other => other,
        };
        if built.is_err() {
            // Half of it must not be taken for all of it; where nothing is there, this fails.
            let _ = apply(kernel, nftables::removal(self.family, STANDBY), report);
        }
        built.map(|_| ())
    }

    /// Gives whether it could be built that way.
    fn build_standby(
        &self,
        kernel: &mut dyn Kernel,
        ((goal, remembered), at_once): ((Goal<'_>, &[ElementFact]), AtOnce),
        report: &mut Report,
    ) -> Result<bool, Error> {
        let largest = kernel.capabilities().largest_batch;
        let mut standby = Applied::absent_standby(self.family);
        let mut plan = Plan::new(&mut standby, goal, BTreeSet::new());
        match at_once {
            AtOnce::Yes => plan.at_once(),
            AtOnce::No => plan.limit_to(largest),
        }
        plan.hook_in_last();
        plan.carry_over(remembered.to_vec());
        while let Some(batch) = plan.next_batch() {
            if at_once == AtOnce::Yes && batch.bytes.len() > largest {
                return Ok(false);
            }
            apply(kernel, batch, report)?;
        }
        Ok(true)
    }

    /// Takes away the table that stood in: at the next turn, when no packet is under way any more
    /// that entered a hook before ours was complete.
    fn dismiss(&mut self, kernel: &mut dyn Kernel, report: &mut Report) -> Result<(), Error> {
        if !std::mem::take(&mut self.stood_in) {
            return Ok(());
        }
        match apply(kernel, nftables::removal(self.family, STANDBY), report) {
            Err(e) if e.kind == ErrorKind::Absent => Ok(()),
            other => other,
        }
    }

    /// Removes remembered clients whose endpoint is gone.
    fn forget_clients(
        &mut self,
        kernel: &mut dyn Kernel,
        report: &mut Report,
    ) -> Result<(), Error> {
        let Some(applied) = self.applied.as_ref().filter(|_| self.forget_clients) else {
            return Ok(());
        };
        let set = Set::Affinity.name().to_owned();
        let entries = match kernel.read(&Query::Elements(self.family, TABLE.to_owned(), set))? {
            Facts::Elements(entries) => entries,
            other => super::unreachable_answer("elements", &other)?,
        };
        let stale = affinity::stale(applied, &entries);
        for some in stale.chunks(FORGOTTEN_AT_ONCE) {
            forget(kernel, self.family, some, report)?;
        }
        self.forget_clients = false;
        self.look_again = !stale.is_empty();
        Ok(())
    }

    /// A connection that was let through before the last look may have been written down after it,
    /// when it left; and it would be gone on with for as long as its client comes again.
    fn look_again(&mut self, kernel: &mut dyn Kernel, report: &mut Report) -> Result<(), Error> {
        self.forget_clients |= std::mem::take(&mut self.look_again);
        self.forget_clients(kernel, report)
    }
}

/// Forgets these clients. One whose time ran out meanwhile fails the transaction it is in, so the
/// rest of them is tried in halves.
fn forget(
    kernel: &mut dyn Kernel,
    family: Family,
    clients: &[Key],
    report: &mut Report,
) -> Result<(), Error> {
    match apply(kernel, affinity::forget(family, clients), report) {
        Ok(()) => {
            report.forgotten += clients.len();
            Ok(())
        }
        Err(e) if e.kind == ErrorKind::Absent => {
            let (left, right) = clients.split_at(clients.len() / 2);
            let halves = [left, right].into_iter().filter(|half| half.len() < clients.len());
            halves
                .filter(|half| !half.is_empty())
                .try_for_each(|half| forget(kernel, family, half, report))
        }
        Err(e) => Err(e),
    }
}

/// A table that is there.
struct Found {
    comment: String,
    /// Whether packets meet it. What is built while another stands in is complete if they do.
    hooked: bool,
}

fn found(kernel: &mut dyn Kernel, family: Family, table: &str) -> Result<Option<Found>, Error> {
    match kernel.read(&Query::Table(family, table.to_owned(), Depth::Chains))? {
        Facts::Table(table) => Ok(table.map(|table| Found {
            hooked: table.chains.iter().any(|chain| chain.hook.is_some()),
            comment: table.comment,
        })),
        other => super::unreachable_answer("a table", &other),
    }
}

/// The clients a table remembers, if it is one of ours.
fn remembered(
    kernel: &mut dyn Kernel,
    family: Family,
    (table, comment): (&str, &str),
) -> Result<Vec<ElementFact>, Error> {
    if comment != table_comment() {
        return Ok(Vec::new());
    }
    let set = Set::Affinity.name().to_owned();
    match kernel.read(&Query::Elements(family, table.to_owned(), set)) {
        Ok(Facts::Elements(remembered)) => Ok(remembered),
        // Somebody removed the set from our table: nothing is remembered.
        Err(e) if e.kind == ErrorKind::Absent => Ok(Vec::new()),
        Err(e) => Err(e),
        Ok(other) => super::unreachable_answer("elements", &other),
    }
}

fn apply(kernel: &mut dyn Kernel, batch: NftBatch, report: &mut Report) -> Result<(), Error> {
    report.bytes += batch.bytes.len();
    report.transactions += 1;
    let receipt = kernel.apply(&Transaction::Nft(batch))?;
    report.operations += receipt.operations;
    Ok(())
}
