//! A decorator that tells how long each dealing with a kernel took, its locks included, and how it
//! failed. It reads the clock and changes nothing. Tests: below.

use std::time::{Duration, Instant};

use super::{Capabilities, Error, ErrorKind, Facts, Kernel, Query, Receipt, Transaction};

/// Is told what was asked, how long it took, and the kind of the error if there was one.
pub type Tell = Box<dyn FnMut(&'static str, Duration, Option<ErrorKind>) + Send>;

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
        operation: &'static str,
        call: impl FnOnce(&mut K) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let begun = Instant::now();
        let outcome = call(&mut self.inner);
        (self.tell)(operation, begun.elapsed(), outcome.as_ref().err().map(|error| error.kind));
        outcome
    }
}

impl<K: Kernel> Kernel for Meter<K> {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        let operation = match transaction {
            Transaction::Nft(_) => "nft",
            Transaction::ForgetFlows(_) => "forget-flows",
            Transaction::Sysctl(..) => "sysctl",
        };
        self.take_time(operation, |kernel| kernel.apply(transaction))
    }

    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        self.take_time("read", |kernel| kernel.read(query))
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::simulated::Simulated;
    use std::sync::{Arc, Mutex};

    #[test]
    fn each_call_is_told_once() {
        let told: Arc<Mutex<Vec<_>>> = Arc::default();
        let keep = told.clone();
        let tell: Tell = Box::new(move |operation, _, error| {
            keep.lock().expect("nobody panics").push((operation, error));
        });
        let mut kernel = Meter::new(Simulated::new(sim::Host::new(1)), tell);
        assert!(kernel.read(&Query::Sysctl("net/absent".into())).is_err());
        assert!(kernel.apply(&Transaction::Sysctl("net/x".into(), "1".into())).is_ok());
        let expected = [("read", Some(ErrorKind::Absent)), ("sysctl", None)];
        assert_eq!(*told.lock().expect("nobody panics"), expected);
    }
}
