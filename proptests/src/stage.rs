//! A simulated kernel on a stage: handed to a proxy, yet still in the test's hands. Faults can be
//! scheduled, exchanges are recorded, and every state between two transactions can be looked at.
//! Tests: the properties.

use std::sync::{Arc, Mutex, MutexGuard};

use kube_proxy::kernel::fault::Fault;
use kube_proxy::kernel::record::Record;
use kube_proxy::kernel::{Capabilities, Error, Facts, Kernel, Query, Receipt, Transaction};

use crate::cluster::Setup;
use crate::host::node;
use crate::simulated::Simulated;

/// Looks at a host between two transactions.
type Watcher = Box<dyn FnMut(&mut sim::Host) + Send>;

/// A kernel whose every intermediate state is looked at.
pub struct Watched {
    inner: Simulated,
    watcher: Option<Watcher>,
}

impl Kernel for Watched {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        let outcome = self.inner.apply(transaction);
        if let Some(watcher) = &mut self.watcher {
            watcher(self.inner.host_mut());
        }
        outcome
    }

    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        self.inner.read(query)
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }
}

/// The layers of the stage, the outermost first.
type Layers = Fault<Record<Watched>>;

/// A kernel that a test and a proxy share.
#[derive(Clone)]
pub struct Stage {
    layers: Arc<Mutex<Layers>>,
    capabilities: Capabilities,
}

impl Stage {
    /// An empty node of a setup; one transaction may have `largest` bytes.
    pub fn new(setup: &Setup, largest: usize) -> Stage {
        let inner = Simulated::new(node(setup, 1)).limited_to(largest);
        let capabilities = inner.capabilities().clone();
        let layers = Fault::new(Record::new(Watched { inner, watcher: None }));
        Stage { layers: Arc::new(Mutex::new(layers)), capabilities }
    }

    fn lock(&self) -> MutexGuard<'_, Layers> {
        self.layers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Does something with the layers: schedule faults, take what was recorded.
    pub fn with<T>(&self, work: impl FnOnce(&mut Fault<Record<Watched>>) -> T) -> T {
        work(&mut self.lock())
    }

    /// Does something with the host.
    pub fn host<T>(&self, work: impl FnOnce(&mut sim::Host) -> T) -> T {
        work(self.lock().inner().inner().inner.host_mut())
    }

    /// Looks at the host after each transaction from now on.
    pub fn watch(&self, watcher: impl FnMut(&mut sim::Host) + Send + 'static) {
        self.lock().inner().inner().watcher = Some(Box::new(watcher));
    }

    /// Looks no more.
    pub fn look_away(&self) {
        self.lock().inner().inner().watcher = None;
    }
}

impl Kernel for Stage {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        self.lock().apply(transaction)
    }

    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        self.lock().read(query)
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
}
