//! A simulated kernel on a stage: handed to a proxy, yet still in the test's hands. Faults can be
//! scheduled, exchanges are recorded, and every state between two transactions can be looked at.
//! Tests: the properties.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube_proxy::kernel::fault::Fault;
use kube_proxy::kernel::record::Record;
use kube_proxy::kernel::simulated::Simulated;
use kube_proxy::kernel::{
    Capabilities, Error, Facts, Kernel, Query, Receipt, RelayServing, Socket, Transaction,
    XtablesFlavour, XtablesWriter,
};
use kube_proxy::model::Protocol;

use crate::cluster::Setup;
use crate::host::node;

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
            watcher(&mut self.inner.host());
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
pub type Layers = Fault<Record<Watched>>;

/// A kernel that a test and a proxy share.
#[derive(Clone)]
pub struct Stage {
    layers: Arc<Mutex<Layers>>,
    kernel: Simulated,
}

impl Stage {
    /// An empty node of a setup; one transaction may have `largest` bytes.
    pub fn new(setup: &Setup, largest: usize) -> Stage {
        Stage::written_by(setup, largest, XtablesWriter::Tool)
    }

    /// The same, where iptables mode's rules are written by the tool or over netlink.
    pub fn written_by(setup: &Setup, largest: usize, xtables_writer: XtablesWriter) -> Stage {
        // A kernel that takes little at once stands for an iptables that takes texts in parts.
        let xtables = (largest != usize::MAX).then_some(XtablesFlavour::Nft);
        let capabilities = Capabilities {
            largest_batch: largest,
            xtables,
            xtables_writer,
            ..Capabilities::default()
        };
        let kernel = Simulated::new(node(setup, 1)).with_capabilities(capabilities);
        let watched = Watched { inner: kernel.clone(), watcher: None };
        let layers = Arc::new(Mutex::new(Fault::new(Record::new(watched))));
        Stage { layers, kernel }
    }

    fn lock(&self) -> MutexGuard<'_, Layers> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the layers: schedule faults, take what was recorded.
    pub fn with<T>(&self, work: impl FnOnce(&mut Layers) -> T) -> T {
        work(&mut self.lock())
    }

    /// Does something with the host.
    pub fn host<T>(&self, work: impl FnOnce(&mut sim::Host) -> T) -> T {
        work(&mut self.kernel.host())
    }

    /// What the relay serves at a local address and port.
    pub fn relayed(&self, protocol: Protocol, at: Socket) -> Option<RelayServing> {
        self.kernel.relayed(protocol, at)
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
        self.kernel.capabilities()
    }
}
