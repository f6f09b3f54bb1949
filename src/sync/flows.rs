//! What has to be done about stale flows, apart from the `Proxy`: as a piece of work that can be
//! carried out while the proxy goes on, and the thread that does so.
//!
//! The kernel looks at every entry of its table to answer; with half a million of them that takes
//! longer than a sync does. Which flows are stale says `conntrack`. Tests: `tests.rs`, `netlab`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::conntrack::{Frontends, stale};
use super::family::FamilySync;
use super::{Proxy, mode_options};
use crate::backend::ipvs::adopt::node_addresses;
use crate::backend::program::Frontend;
use crate::kernel::{Capability, Error, Facts, Kernel, Query, Transaction};
use crate::model::{Family, Mode, NamespacedName, Protocol};

/// Through whom flows may be stale.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suspects {
    /// Services that flows may slip past, or go on through to endpoints that are gone.
    pub services: BTreeSet<NamespacedName>,
    /// Frontends that flows may go on through although nobody has them any more.
    pub gone: BTreeSet<(Family, Frontend)>,
}

impl Suspects {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.gone.is_empty()
    }

    /// Takes in others.
    pub fn extend(&mut self, others: Suspects) {
        self.services.extend(others.services);
        self.gone.extend(others.gone);
    }
}

/// Stale flows that are to be found and forgotten.
#[derive(Clone, Debug)]
pub struct Work {
    /// Where flows of the suspects go, and where they may go on to.
    pub frontends: Frontends,
    /// Families whose rules are in: flows of others would come back as they were.
    pub families: Vec<Family>,
    /// What it is about, for whoever has to try again.
    pub suspects: Suspects,
}

impl Work {
    /// Does it; gives how many flows were forgotten. After an error some may be left.
    pub fn carry_out(&self, kernel: &mut dyn Kernel) -> Result<usize, Error> {
        let mut forgotten = 0;
        let kinds = self.families.iter().flat_map(|f| Protocol::ALL.map(|protocol| (*f, protocol)));
        for (family, protocol) in kinds {
            for to in self.frontends.questions(family, protocol) {
                let flows = match kernel.read(&Query::Flows(family, protocol, to))? {
                    Facts::Flows(flows) => flows,
                    other => super::unreachable_answer("flows", &other)?,
                };
                let stale = stale(&self.frontends, &flows);
                if !stale.is_empty() {
                    forgotten += stale.len();
                    kernel.apply(&Transaction::ForgetFlows(stale))?;
                }
            }
        }
        Ok(forgotten)
    }
}

/// Work that was carried out, or that could not be.
#[derive(Debug)]
pub struct Done {
    /// How many flows were forgotten, or why not all that are stale.
    pub outcome: Result<usize, Error>,
    /// How long it took.
    pub took: Duration,
    /// What it was about.
    pub suspects: Suspects,
}

/// A thread that carries out one piece of work after the other. It ends when this is dropped.
#[derive(Debug)]
pub struct Forgetter {
    work: std::sync::mpsc::Sender<Work>,
    done: mpsc::UnboundedReceiver<Done>,
    busy: bool,
}

impl Forgetter {
    /// Starts the thread with a way to the kernel of its own.
    pub fn start(mut kernel: Box<dyn Kernel + Send>) -> std::io::Result<Forgetter> {
        let (work, given) = std::sync::mpsc::channel::<Work>();
        let (sender, done) = mpsc::unbounded_channel();
        let run = move || {
            for work in given {
                let begun = Instant::now();
                let outcome = work.carry_out(&mut *kernel);
                let suspects = work.suspects;
                if sender.send(Done { outcome, took: begun.elapsed(), suspects }).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("flows".to_owned()).spawn(run)?;
        Ok(Forgetter { work, done, busy: false })
    }

    /// Whether work is under way. Until it is done more of it may gather: one look at the table
    /// then serves all.
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Gives it work; what it is about comes back if the thread has died.
    pub fn give(&mut self, work: Work) -> Result<(), Suspects> {
        self.work.send(work).map_err(|unsent| unsent.0.suspects)?;
        self.busy = true;
        Ok(())
    }

    /// Waits for the end of the work under way; for ever if there is none. `None`: the thread died.
    pub async fn done(&mut self) -> Option<Done> {
        let done = self.done.recv().await;
        self.busy = false;
        done
    }
}

impl Proxy {
    /// Whether flows may have to be forgotten that nobody looks for yet.
    pub fn has_stale_flows(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// The second half of [`Proxy::sync`], which may take the kernel longer than the first: it looks
    /// at every entry of its table. Gives how many flows were forgotten; what could not be is tried
    /// again by the next call.
    pub fn forget_flows(&mut self) -> Result<usize, Error> {
        let Some(work) = self.take_flow_work() else { return Ok(0) };
        let forgotten = work.carry_out(&mut *self.kernel);
        if forgotten.is_err() {
            self.suspects.extend(work.suspects);
        }
        forgotten
    }

    /// The same as a piece of work for somebody else, who gives back what it was about if it could
    /// not be done: [`Proxy::suspect_flows`]. `None`: there is nothing to do, or nothing can be done
    /// before the rules are in.
    pub fn take_flow_work(&mut self) -> Option<Work> {
        let written = self.families.iter().filter(|family| family.is_written());
        let families: Vec<Family> = written.map(FamilySync::family).collect();
        if self.suspects.is_empty() || families.is_empty() {
            return None;
        }
        let suspects = std::mem::take(&mut self.suspects);
        if !self.kernel.capabilities().has(Capability::Conntrack) {
            return None;
        }
        let frontends = self.frontends_of(&suspects);
        // Flows of a family whose rules could not be written would come back as they were.
        if families.len() < self.families.len() {
            self.suspects = suspects.clone();
        }
        Some(Work { frontends, families, suspects })
    }

    /// Has flows looked for, by the next work.
    pub fn suspect_flows(&mut self, suspects: Suspects) {
        self.suspects.extend(suspects);
    }

    /// Those of the node's addresses that take node port traffic; `None` if they cannot be read.
    pub(super) fn node_port_addresses(&mut self) -> Option<Vec<IpAddr>> {
        let all = self.node_addresses()?;
        let options = mode_options(&self.options, self.tracker.cluster());
        let takes = |ip: &IpAddr| {
            let cidrs = options.node_port_cidrs(Family::of(*ip));
            !ip.is_loopback() && cidrs.is_none_or(|list| list.iter().any(|cidr| cidr.contains(ip)))
        };
        Some(all.into_iter().filter(takes).collect())
    }

    fn node_addresses(&mut self) -> Option<Vec<IpAddr>> {
        if self.options.mode != Mode::Ipvs {
            return match self.kernel.read(&Query::Addresses) {
                Ok(Facts::Addresses(all)) => Some(all),
                _ => None,
            };
        }
        // Among them are Services' addresses, which that mode has given the node.
        match self.kernel.read(&Query::Links) {
            Ok(Facts::Links(links)) => {
                Some(Family::ALL.iter().flat_map(|f| node_addresses(&links, *f)).collect())
            }
            _ => None,
        }
    }

    /// Rules hold for new flows only: where flows go that may be stale, and where they may go on to.
    fn frontends_of(&mut self, suspects: &Suspects) -> Frontends {
        let addresses = self.node_port_addresses();
        // Of those that share an address with another, it takes all to know whose flows they are.
        let contenders = self.families.iter().flat_map(|family| family.ruleset().contenders());
        let frontends = Frontends::of(
            self.tracker.cluster(),
            contenders.chain(&suspects.services),
            &self.options.families,
            addresses.as_deref(),
        );
        let mut frontends = frontends.without(suspects.gone.iter());
        for family in &self.families {
            frontends.answered(family.family(), &family.answers());
        }
        frontends
    }
}
