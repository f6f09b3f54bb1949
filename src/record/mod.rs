//! A record: what a proxy was told, when it acted, and what the kernel answered, one JSON value a
//! line, so that the same can be played again on the simulator (`kube-proxy replay`).
//!
//! ```text
//! Proxy ─told, begins, ended─▶ Recorder ─▶ ring of two files      replay ─▶ the same Proxy over sim
//! Kernel ─asked, answered────▶ Listener ─▶      ″
//! ```
//!
//! A file always begins with everything that was known then; when it is full, it becomes the older
//! half of the ring and a new one begins. It must never know a rule or a mode.
//! Tests: `tests.rs`, and the lab (`record-is-played-again`).

pub mod replay;
pub mod ring;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::kernel::drift::Lookout;
use crate::kernel::{Capabilities, Error, Facts, Kernel, Query, Receipt, Transaction};
use crate::model::{Event, Family};
use crate::sync::examine::Known;
use crate::sync::scribe::{Act, Scribe};
use crate::sync::{Options, Report};
use ring::Ring;

/// The version of the format. A reader takes this one only.
pub const VERSION: u32 = 1;
/// The format's name, in the first line.
pub const FORMAT: &str = "kube-proxy record";

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// The first one.
    Record {
        /// `kube-proxy record`.
        format: String,
        /// Its version.
        version: u32,
        /// The node's name as its kernel has it.
        host: String,
        /// The kernel's release.
        kernel: String,
        /// What the kernel can do.
        capabilities: Box<Capabilities>,
        /// The node's addresses when the proxy began.
        addresses: Vec<IpAddr>,
    },
    /// How the proxy is set up from here on.
    Options(Box<Options>),
    /// A piece of news.
    Event(Box<Event>),
    /// Something is done; milliseconds since 1970, and the families of which it is not known what is
    /// in the kernel.
    Begins(u64, Act, Vec<Family>),
    /// The kernel was asked to change something.
    Applied(Applied),
    /// The kernel was asked something.
    Read(Box<Query>, Box<Result<Facts, Error>>),
    /// What was begun is done.
    Ended(u64, Done),
}

/// A transaction and what became of it. Its bytes are not kept: who plays the same again makes the
/// same again, and sees by the digest that it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Such as `nft`: [`Transaction::kind`].
    pub kind: String,
    /// How many bytes it had, where it is bytes.
    pub bytes: usize,
    /// What tells it from others.
    pub digest: String,
    /// What became of it.
    pub outcome: Result<Receipt, Error>,
}

/// What an act came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Done {
    /// It succeeded: transactions, operations, bytes.
    Well(usize, usize, usize),
    /// It failed.
    Failed(Error),
}

impl Done {
    /// In the words of a record.
    pub fn of(outcome: &Result<Report, Error>) -> Done {
        match outcome {
            Ok(report) => Done::Well(report.transactions, report.operations, report.bytes),
            Err(error) => Done::Failed(error.clone()),
        }
    }
}

impl Applied {
    /// In the words of a record.
    pub fn of(transaction: &Transaction, outcome: &Result<Receipt, Error>) -> Applied {
        let (bytes, digest) = match transaction {
            Transaction::Nft(batch) => (batch.bytes.len(), digest(&batch.bytes)),
            Transaction::Xtables(text) => (text.text.len(), digest(text.text.as_bytes())),
            _ => (0, digest(format!("{transaction:?}").as_bytes())),
        };
        let kind = transaction.kind().to_owned();
        let outcome = outcome.clone();
        Applied { kind, bytes, digest: format!("{digest:016x}"), outcome }
    }
}

/// FNV-1a, 64 bits: the same everywhere and always, which std's hash does not promise.
fn digest(bytes: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// Milliseconds since 1970, as somebody tells them.
pub type Clock = Box<dyn Fn() -> u64 + Send>;

/// A ring that proxy and kernel write to.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<Ring>>);

impl Shared {
    /// Around a ring.
    pub fn new(ring: Ring) -> Shared {
        Shared(Arc::new(Mutex::new(ring)))
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // A line is whole in the buffer before the next: a panic elsewhere leaves it usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes down what a proxy is told and does.
pub struct Recorder {
    ring: Shared,
    clock: Clock,
    /// The first line of each file.
    head: Line,
    options: Option<Options>,
}

impl Recorder {
    /// One that writes to a ring, of a kernel; `host` and `release` are this node's.
    pub fn new(
        ring: Shared,
        clock: Clock,
        (host, release): (String, String),
        kernel: &mut dyn Kernel,
    ) -> Recorder {
        let addresses = match kernel.read(&Query::Addresses) {
            Ok(Facts::Addresses(addresses)) => addresses,
            _ => Vec::new(),
        };
        let head = Line::Record {
            format: FORMAT.to_owned(),
            version: VERSION,
            host,
            kernel: release,
            capabilities: Box::new(kernel.capabilities().clone()),
            addresses,
        };
        Recorder { ring, clock, head, options: None }
    }

    /// Begins a file, with everything that is known.
    fn begin(&mut self, known: Known<'_>) {
        let mut ring = self.ring.ring();
        ring.begin(&self.head);
        ring.put(&Line::Options(Box::new(known.options.clone())));
        for event in known.cluster.events() {
            ring.put(&Line::Event(Box::new(event)));
        }
        self.options = Some(known.options.clone());
    }
}

impl Scribe for Recorder {
    fn told(&mut self, event: &Event) {
        // Before the first act nothing is written: it begins with all that is known then.
        if self.options.is_some() && !matches!(event, Event::Notices(..)) {
            self.ring.ring().put(&Line::Event(Box::new(event.clone())));
        }
    }

    fn begins(&mut self, act: Act, anew: &[Family], known: Known<'_>) {
        if self.options.is_none() || self.ring.ring().is_full() {
            self.begin(known);
        } else if self.options.as_ref() != Some(known.options) {
            self.options = Some(known.options.clone());
            self.ring.ring().put(&Line::Options(Box::new(known.options.clone())));
        }
        let mut ring = self.ring.ring();
        ring.put(&Line::Begins((self.clock)(), act, anew.to_vec()));
        ring.acting = true;
    }

    fn ended(&mut self, outcome: &Result<Report, Error>) {
        let mut ring = self.ring.ring();
        ring.put(&Line::Ended((self.clock)(), Done::of(outcome)));
        ring.acting = false;
        ring.flush();
    }
}

/// A kernel whose answers are written down.
pub struct Listener<K> {
    inner: K,
    ring: Shared,
}

impl<K: Kernel> Listener<K> {
    /// Around a kernel.
    pub fn new(inner: K, ring: Shared) -> Listener<K> {
        Listener { inner, ring }
    }
}

impl<K: Kernel> Kernel for Listener<K> {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        let outcome = self.inner.apply(transaction);
        self.ring.ring().put(&Line::Applied(Applied::of(transaction, &outcome)));
        outcome
    }

    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        let answer = self.inner.read(query);
        // Flows come and go by themselves; who plays this again has none. A look between two acts
        // changes nothing, and in ipvs mode lists every virtual server.
        let mut ring = self.ring.ring();
        if ring.acting && !matches!(query, Query::Flows(..)) {
            let answer = Box::new(answer.clone());
            ring.put(&Line::Read(Box::new(query.clone()), answer));
        }
        answer
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn lookout(&mut self) -> Result<Option<Box<dyn Lookout>>, Error> {
        self.inner.lookout()
    }

    fn aside(&mut self) -> Result<Option<Box<dyn Kernel + Send>>, Error> {
        self.inner.aside()
    }
}
