//! A decorator that lets a kernel fail when told to: before a change, or after it was carried out
//! but before the answer came back. Deterministic. Tests: used by `proptests` (crash, converge).

use std::collections::VecDeque;

use super::{Capabilities, Error, ErrorKind, Facts, Kernel, Query, Receipt, Transaction};

/// What becomes of one call of `apply` or `read`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is passed on.
    Pass,
    /// It fails and is not passed on.
    Refuse(ErrorKind),
    /// It is passed on, and then reported as failed.
    LoseAnswer(ErrorKind),
}

/// A kernel that fails as scheduled; with an empty schedule it never does.
#[derive(Debug)]
pub struct Fault<K> {
    inner: K,
    schedule: VecDeque<Fate>,
}

impl<K: Kernel> Fault<K> {
    /// Around a kernel, with nothing scheduled.
    pub fn new(inner: K) -> Fault<K> {
        Fault { inner, schedule: VecDeque::new() }
    }

    /// Schedules the fates of the next calls.
    pub fn schedule(&mut self, fates: impl IntoIterator<Item = Fate>) {
        self.schedule.extend(fates);
    }

    /// Forgets what was scheduled and has not come yet.
    pub fn heal(&mut self) {
        self.schedule.clear();
    }

    /// The kernel inside.
    pub fn inner(&mut self) -> &mut K {
        &mut self.inner
    }

    fn meet<T>(&mut self, call: impl FnOnce(&mut K) -> Result<T, Error>) -> Result<T, Error> {
        let injected = |kind| Error::new(kind, "injected fault", format!("{kind:?}"));
        match self.schedule.pop_front().unwrap_or(Fate::Pass) {
            Fate::Pass => call(&mut self.inner),
            Fate::Refuse(kind) => Err(injected(kind)),
            Fate::LoseAnswer(kind) => call(&mut self.inner).and(Err(injected(kind))),
        }
    }
}

impl<K: Kernel> Kernel for Fault<K> {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        self.meet(|kernel| kernel.apply(transaction))
    }

    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        self.meet(|kernel| kernel.read(query))
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }
}
