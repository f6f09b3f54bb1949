//! A decorator that tells how long each dealing with a kernel took, its locks included, and how it
//! failed. It reads the clock and changes nothing. Tests: below.

use std::time::{Duration, Instant};

use super::{Capabilities, Error, ErrorKind, Facts, Kernel, Query, Receipt, Transaction};
use crate::model::Family;

/// One dealing with a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dealing {
    /// What was asked, in a word or two.
    pub operation: &'static str,
    /// The family it was about, where it was about conntrack entries of one.
    pub family: Option<Family>,
    /// How long it took.
    pub took: Duration,
    /// How many objects were changed, or how it failed.
    pub outcome: Result<usize, ErrorKind>,
}

/// Is told of each.
pub type Tell = Box<dyn FnMut(Dealing) + Send>;

/// A kernel whose time is taken.
pub struct Meter<K> {
    inner: K,
    tell: Tell,
}

impl<K> std::fmt::Debug for Meter<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter").finish_non_exhaustive()
    }
}

impl<K: Kernel> Meter<K> {
    /// Around a kernel.
    pub fn new(inner: K, tell: Tell) -> Meter<K> {
        Meter { inner, tell }
    }

    fn take_time<T>(
        &mut self,
        (operation, family): (&'static str, Option<Family>),
        call: impl FnOnce(&mut K) -> Result<T, Error>,
        changed: impl FnOnce(&T) -> usize,
    ) -> Result<T, Error> {
        let begun = Instant::now();
        let answer = call(&mut self.inner);
        let outcome = answer.as_ref().map(changed).map_err(|error| error.kind);
        (self.tell)(Dealing { operation, family, took: begun.elapsed(), outcome });
        answer
    }
}

impl<K: Kernel> Kernel for Meter<K> {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        let family = match transaction {
            Transaction::ForgetFlows(flows) => flows.first().map(|flow| flow.family),
            Transaction::Xtables(text) => Some(text.family),
            _ => None,
        };
        let what = (transaction.kind(), family);
        let changed = |receipt: &Receipt| receipt.operations;
        self.take_time(what, |kernel| kernel.apply(transaction), changed)
    }

    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        let what = match query {
            Query::Flows(family, ..) => ("read-flows", Some(*family)),
            _ => ("read", None),
        };
        self.take_time(what, |kernel| kernel.read(query), |_| 0)
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::FlowsTo;
    use crate::kernel::simulated::Simulated;
    use crate::model::Protocol;
    use std::sync::{Arc, Mutex};

    #[test]
    fn each_call_is_told_once() {
        let told: Arc<Mutex<Vec<_>>> = Arc::default();
        let keep = told.clone();
        let tell: Tell = Box::new(move |told| {
            keep.lock().expect("nobody panics").push((told.operation, told.family, told.outcome));
        });
        let mut kernel = Meter::new(Simulated::new(sim::Host::new(1)), tell);
        assert!(kernel.read(&Query::Sysctl("net/absent".into())).is_err());
        assert!(kernel.apply(&Transaction::Sysctl("net/x".into(), "1".into())).is_ok());
        assert!(kernel.read(&Query::Flows(Family::V6, Protocol::Udp, FlowsTo::Any)).is_ok());
        let expected = [
            ("read", None, Err(ErrorKind::Absent)),
            ("sysctl", None, Ok(1)),
            ("read-flows", Some(Family::V6), Ok(0)),
        ];
        assert_eq!(*told.lock().expect("nobody panics"), expected);
    }
}
