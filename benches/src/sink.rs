//! A kernel that is empty, takes everything and does nothing: what is left is our own time.
//! It can keep the batches, so that they can be given to a real kernel without compiling them again.
//! Tests: with its users.

use std::sync::{Arc, Mutex, PoisonError};

use kube_proxy::kernel::{
    Capabilities, Error, Facts, IpvsTimeouts, Kernel, NftBatch, Query, Receipt, Transaction,
};

/// Where batches are kept.
pub type Kept = Arc<Mutex<Vec<NftBatch>>>;

/// The kernel.
#[derive(Debug, Default)]
pub struct Sink {
    capabilities: Capabilities,
    kept: Option<Kept>,
}

impl Sink {
    /// One that keeps the batches it is given.
    pub fn keeping(kept: &Kept) -> Sink {
        Sink { kept: Some(kept.clone()), ..Sink::default() }
    }
}

impl Kernel for Sink {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        let Transaction::Nft(batch) = transaction else { return Ok(Receipt::default()) };
        if let Some(kept) = &self.kept {
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(batch.clone());
        }
        Ok(Receipt::of(batch.operations))
    }

    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        Ok(match query {
            Query::RelayPorts(_) => Facts::RelayPorts(Vec::new()),
            Query::Table(..) => Facts::Table(None),
            Query::Elements(..) => Facts::Elements(Vec::new()),
            Query::Rules(..) => Facts::Rules(Vec::new()),
            Query::Flows(..) => Facts::Flows(Vec::new()),
            Query::Sysctl(_) | Query::Xtables(_) => Facts::Text(String::new()),
            Query::Addresses => Facts::Addresses(Vec::new()),
            Query::VirtualServers(_) | Query::VirtualServersAlone(_) => {
                Facts::VirtualServers(Vec::new())
            }
            Query::IpvsTimeouts => Facts::IpvsTimeouts(IpvsTimeouts::default()),
            Query::Ipsets(_) => Facts::Ipsets(Vec::new()),
            Query::Links => Facts::Links(Vec::new()),
            Query::Destinations(_) => Facts::Destinations(Vec::new()),
            Query::Lacks(_) => Facts::Lacks(Vec::new()),
            Query::Cpus | Query::ConntrackBuckets | Query::Generation | Query::Account(_) => {
                Facts::Number(1)
            }
        })
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
}
