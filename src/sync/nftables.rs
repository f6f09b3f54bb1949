//! nftables mode's driver: one family's table, what is known to be in the kernel, and the way to
//! what is wanted. It knows nothing of the other family. Tests: `tests.rs` here, `proptests`.

use std::collections::BTreeSet;

use super::Report;
use super::driver::{Driver, Wanted};
use crate::backend::Options;
use crate::backend::nftables;
use crate::backend::nftables::affinity;
use crate::backend::nftables::elements::Key;
use crate::backend::nftables::layout::{Set, TABLE, table_comment};
use crate::backend::nftables::plan::{Applied, Plan, Start};
use crate::backend::program::Frontend;
use crate::backend::ruleset::Wants;
use crate::kernel::{
    Depth, ElementFact, Error, ErrorKind, Facts, Kernel, NftBatch, Query, Transaction,
};
use crate::model::Family;

/// Remembered clients that one transaction forgets: 64 KiB of it, which every socket takes.
const FORGOTTEN_AT_ONCE: usize = 1000;

/// One family's table.
#[derive(Debug)]
pub(super) struct Nftables {
    family: Family,
    /// `None`: what is in the kernel has to be read before anything is written.
    applied: Option<Applied>,
    forget_clients: bool,
    look_again: bool,
}

impl Driver for Nftables {
    fn is_unknown(&self) -> bool {
        self.applied.is_none()
    }

    fn is_behind(&self) -> bool {
        self.forget_clients
    }

    fn distrust(&mut self) {
        self.applied = None;
    }

    fn look(&mut self, kernel: &mut dyn Kernel) -> Result<Option<String>, Error> {
        let ours = match kernel.read(&Query::Table(self.family, TABLE.to_owned(), Depth::Head))? {
            Facts::Table(table) => table.is_some_and(|table| table.comment == table_comment()),
            other => super::unreachable_answer("a table", &other)?,
        };
        Ok((!ours).then(|| "the table kube-proxy is gone or not ours any more".to_owned()))
    }

    fn bring(
        &mut self,
        kernel: &mut dyn Kernel,
        mut wanted: Wanted<'_>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let changed = std::mem::take(&mut wanted.changed);
        self.bring_to(kernel, (wanted.ruleset, wanted.options), changed, report)
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

impl Nftables {
    pub(super) fn new(family: Family) -> Nftables {
        Nftables { family, applied: None, forget_clients: false, look_again: false }
    }

    /// Brings the table to what is wanted, whoever wants it.
    pub(super) fn bring_to(
        &mut self,
        kernel: &mut dyn Kernel,
        wanted: (&dyn Wants, &Options),
        changed: BTreeSet<Frontend>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let largest = kernel.capabilities().largest_batch;
        let (mut start, mut remembered) = (Start::Known, Vec::new());
        let applied = match &mut self.applied {
            Some(applied) => applied,
            None => {
                (start, remembered) = read_start(kernel, self.family)?;
                self.applied.insert(Applied::new(self.family, start))
            }
        };
        let mut plan = Plan::new(applied, wanted, changed);
        plan.limit_to(largest);
        plan.carry_over(remembered);
        while let Some(batch) = plan.next_batch() {
            let too_large = start == Start::Replace && batch.bytes.len() > largest;
            match apply(kernel, batch, report) {
                Err(e) if too_large && e.kind == ErrorKind::Invalid => {
                    return self.build_anew(kernel, wanted, report);
                }
                applied => applied?,
            }
        }
        self.forget_clients |= plan.forgets_clients;
        self.forget_clients(kernel, report)
    }

    /// Takes the table away and builds it step by step, where the socket does not take enough to
    /// replace it at once: outside the first user namespace `net.core.wmem_max` is its limit. For
    /// some milliseconds there is no Service; else there would be none of what changed, for ever.
    fn build_anew(
        &mut self,
        kernel: &mut dyn Kernel,
        wanted: (&dyn Wants, &Options),
        report: &mut Report,
    ) -> Result<(), Error> {
        tracing::warn!(
            "the {} table is too large to be replaced at once and is built anew, which new \
             connections notice for a moment; raise net.core.wmem_max to avoid it",
            self.family
        );
        apply(kernel, nftables::removal(self.family), report)?;
        self.applied = Some(Applied::new(self.family, Start::Absent));
        self.bring_to(kernel, wanted, BTreeSet::new(), report)
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

/// What stands in the table's place, and the clients it remembers if it is one of ours.
fn read_start(kernel: &mut dyn Kernel, family: Family) -> Result<(Start, Vec<ElementFact>), Error> {
    let comment = match kernel.read(&Query::Table(family, TABLE.to_owned(), Depth::Head))? {
        Facts::Table(Some(table)) => table.comment,
        Facts::Table(None) => return Ok((Start::Absent, Vec::new())),
        other => return super::unreachable_answer("a table", &other),
    };
    if comment != table_comment() {
        return Ok((Start::Replace, Vec::new()));
    }
    let set = Set::Affinity.name().to_owned();
    match kernel.read(&Query::Elements(family, TABLE.to_owned(), set)) {
        Ok(Facts::Elements(remembered)) => Ok((Start::Replace, remembered)),
        // Somebody removed the set from our table: nothing is remembered.
        Err(e) if e.kind == ErrorKind::Absent => Ok((Start::Replace, Vec::new())),
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
