//! iptables mode's rules by our own hand: read and written over netlink, in tables that the nf_tables
//! flavour of the tool knows as its own. What was read is only written upon if nobody changed
//! anything meanwhile. It must never know what a rule is for.
//! Tests: `tests.rs` here, `proptests`, `netlab`.

use std::collections::BTreeSet;

use super::Report;
use crate::backend::iptables::chain::Table;
use crate::backend::iptables::dump::{Dump, Listing};
use crate::backend::iptables::plan::{self, Applied, Change};
use crate::backend::iptables::shape::Shape;
use crate::backend::iptables::wire::{Trouble, Wire, concerns, guarded};
use crate::backend::program::Frontend;
use crate::backend::ruleset::Wants;
use crate::kernel::drift::Touched;
use crate::kernel::{
    Depth, Error, ErrorKind, Facts, Kernel, NftBatch, Query, RuleFact, Transaction, XtablesWriter,
};
use crate::model::Family;

/// How often what is there is read anew because somebody changed something meanwhile. After that it
/// is written whatever comes in between, as the tool does too.
const TRIES: usize = 4;
/// Stands for any generation.
const ANY: u32 = 0;

/// Whether this kernel's rules are written so.
pub(super) fn writes(kernel: &dyn Kernel) -> bool {
    kernel.capabilities().xtables_writer == XtablesWriter::Netlink
}

/// Whether somebody's change may be in what was written.
pub(super) fn minds(family: Family, change: &Touched) -> bool {
    let ours = |table| change.object.is_empty() || concerns(table, &change.object);
    change.family == family && Table::named(&change.table).is_some_and(ours)
}

/// What is there of a family's tables.
pub(super) fn listing(kernel: &mut dyn Kernel, family: Family) -> Result<Listing, Error> {
    let mut listing = Listing::default();
    for table in Table::ALL {
        let query = Query::Table(family, table.name().to_owned(), Depth::Chains);
        let found = match kernel.read(&query)? {
            Facts::Table(found) => found,
            other => super::unreachable_answer("a table", &other)?,
        };
        listing.table(table);
        let chains = found.map(|found| found.chains).unwrap_or_default();
        for chain in chains.iter().filter(|chain| concerns(table, &chain.name)) {
            listing.chain(&chain.name, &rules(kernel, (family, table), &chain.name)?);
        }
    }
    Ok(listing)
}

fn rules(
    kernel: &mut dyn Kernel,
    (family, table): (Family, Table),
    chain: &str,
) -> Result<Vec<RuleFact>, Error> {
    let query = Query::Rules(family, table.name().to_owned(), Some(chain.to_owned()));
    match kernel.read(&query) {
        Ok(Facts::Rules(rules)) => Ok(rules),
        Ok(other) => super::unreachable_answer("rules", &other),
        Err(error) if error.kind == ErrorKind::Absent => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// From what is there to what is wanted; gives what is there then.
pub(super) fn adopt(
    kernel: &mut dyn Kernel,
    (wants, shape): (&dyn Wants, &Shape),
    report: &mut Report,
) -> Result<Applied, Error> {
    let family = shape.family;
    retried(|last| {
        let generation = generation(kernel)?;
        let listing = listing(kernel, family)?;
        let dump = Dump::heard(&listing);
        let mut wire = Wire::new(family, Some(&dump));
        let applied = Applied::adopt(wants, shape.clone(), &dump, &mut wire);
        let batches = wire.finish(&[]).map_err(error)?;
        send(kernel, (batches, if last { ANY } else { generation }), report)?;
        Ok(applied)
    })
}

/// Writes what keeps strangers from this process's ports, if it is not there.
pub(super) fn guard(kernel: &mut dyn Kernel, shape: &Shape) -> Result<(), Error> {
    retried(|last| {
        let generation = generation(kernel)?;
        let listing = listing(kernel, shape.family)?;
        let dump = Dump::heard(&listing);
        let mut wire = Wire::new(shape.family, Some(&dump));
        plan::guard(shape, &dump, &mut wire);
        let batches = wire.finish(&[]).map_err(error)?;
        send(kernel, (batches, if last { ANY } else { generation }), &mut Report::default())
    })
}

/// From what was written to what is wanted; `None` if it is not there any more.
pub(super) fn change(
    kernel: &mut dyn Kernel,
    (applied, (wants, shape, changed)): (&Applied, (&dyn Wants, &Shape, &BTreeSet<Frontend>)),
    report: &mut Report,
) -> Result<Option<Change>, Error> {
    retried(|last| {
        let mut wire = Wire::new(shape.family, None);
        let change = applied.change((wants, shape.clone()), changed.clone(), &mut wire);
        let chains = wire.to_be_listed();
        let read = !chains.is_empty() && !last;
        let generation = if read { generation(kernel)? } else { ANY };
        let mut listed = Vec::new();
        for (table, chain) in chains {
            let rules = rules(kernel, (shape.family, table), &chain)?;
            listed.extend(rules.into_iter().map(|rule| (table, rule)));
        }
        match wire.finish(&listed) {
            Ok(batches) => send(kernel, (batches, generation), report).map(|()| Some(change)),
            Err(Trouble::Missing(what)) => {
                tracing::warn!("{} {what} is gone; all of them are read", shape.family);
                Ok(None)
            }
            Err(trouble) => Err(error(trouble)),
        }
    })
}

/// Tries again while somebody else comes in between.
fn retried<T>(mut attempt: impl FnMut(bool) -> Result<T, Error>) -> Result<T, Error> {
    for _ in 1..TRIES {
        match attempt(false) {
            Err(error) if error.kind == ErrorKind::Busy => {
                tracing::debug!(%error, "somebody else changed rules meanwhile; once more");
            }
            other => return other,
        }
    }
    attempt(true)
}

fn generation(kernel: &mut dyn Kernel) -> Result<u32, Error> {
    match kernel.read(&Query::Generation)? {
        Facts::Number(number) => Ok(number as u32),
        other => super::unreachable_answer("a generation", &other),
    }
}

/// Carries out one after the other, each upon the generation that the one before made.
fn send(
    kernel: &mut dyn Kernel,
    (batches, mut generation): (Vec<NftBatch>, u32),
    report: &mut Report,
) -> Result<(), Error> {
    for batch in batches {
        report.bytes += batch.bytes.len();
        report.transactions += 1;
        let guarded = guarded(batch, generation);
        report.operations += kernel.apply(&Transaction::Nft(guarded))?.operations;
        if generation != ANY {
            // As the kernel counts: 0 is left out (`nf_tables_commit`).
            generation = generation.wrapping_add(1).max(1);
        }
    }
    Ok(())
}

fn error(trouble: Trouble) -> Error {
    let (kind, what) = match trouble {
        Trouble::Missing(what) => (ErrorKind::Absent, what),
        Trouble::Unwritable(rule) => (ErrorKind::Unsupported, format!("the rule{rule}")),
    };
    Error::new(kind, "write iptables' rules over netlink", what)
}
