//! A decorator that remembers what was asked of a kernel and what it answered.
//! It changes nothing on the way. Tests: used by `proptests` (budgets, second sync writes nothing).

use super::{Capabilities, Error, Facts, Kernel, Query, Receipt, Transaction};

/// One exchange with the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// A change and its outcome.
    Applied(Transaction, Result<Receipt, Error>),
    /// A question and its answer.
    Read(Query, Result<Facts, Error>),
}

/// A kernel with a memory.
#[derive(Debug)]
pub struct Record<K> {
    inner: K,
    exchanges: Vec<Exchange>,
}

impl<K: Kernel> Record<K> {
    /// Around a kernel, with nothing remembered.
    pub fn new(inner: K) -> Record<K> {
        Record { inner, exchanges: Vec::new() }
    }

    /// What was said since the last call, oldest first.
    pub fn take(&mut self) -> Vec<Exchange> {
        std::mem::take(&mut self.exchanges)
    }

    /// The kernel inside.
    pub fn inner(&mut self) -> &mut K {
        &mut self.inner
    }

    /// The kernel inside, for good.
    pub fn into_inner(self) -> K {
        self.inner
    }
}

impl<K: Kernel> Kernel for Record<K> {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        let outcome = self.inner.apply(transaction);
        self.exchanges.push(Exchange::Applied(transaction.clone(), outcome.clone()));
        outcome
    }

    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        let answer = self.inner.read(query);
        self.exchanges.push(Exchange::Read(query.clone(), answer.clone()));
        answer
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }
}
