//! A real kernel that keeps what its relay serves, so that a packet that came to a port of the proxy itself
//! can be said to go on to the endpoints of that port. Tests: `proptests -- vectors --mode userspace --kernel real`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use kube_proxy::kernel::real::Real;
use kube_proxy::kernel::{
    Capabilities, Error, Facts, Kernel, Query, Receipt, RelayKey, RelayOperation, RelayServing,
    Socket, Transaction,
};
use kube_proxy::model::Protocol;

/// What is served: by name, and the port of each.
#[derive(Debug, Default)]
struct Known {
    served: BTreeMap<RelayKey, RelayServing>,
    ports: BTreeMap<RelayKey, u16>,
}

/// What a kernel's relay serves; clones know the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Ports(Arc<Mutex<Known>>);

impl Ports {
    /// What is served at a local socket.
    pub(super) fn at(&self, protocol: Protocol, socket: Socket) -> Option<RelayServing> {
        self.with(|known| {
            let of = |(key, port): (&RelayKey, &u16)| {
                let serving = known.served.get(key)?;
                let here = serving.address == socket.address && *port == socket.port;
                (here && key.origin.protocol == protocol).then(|| serving.clone())
            };
            known.ports.iter().find_map(of)
        })
    }

    fn with<T>(&self, what: impl FnOnce(&mut Known) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The kernel.
pub(super) struct Carrying {
    pub(super) real: Real,
    pub(super) ports: Ports,
}

impl Kernel for Carrying {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        if let Transaction::Relay(operations) = transaction {
            self.ports.with(|known| {
                for operation in operations {
                    if let RelayOperation::Serve(key, serving) = operation {
                        known.served.insert(key.clone(), serving.clone());
                    }
                }
            });
        }
        self.real.apply(transaction)
    }

    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        let facts = self.real.read(query)?;
        if let Facts::RelayPorts(ports) = &facts {
            self.ports.with(|known| {
                let open = |fact: &kube_proxy::kernel::RelayFact| {
                    Some((fact.key.clone(), *fact.port.as_ref().ok()?))
                };
                known.ports.extend(ports.iter().filter_map(open));
            });
        }
        Ok(facts)
    }

    fn capabilities(&self) -> &Capabilities {
        self.real.capabilities()
    }
}
