//! Tells what the sync loop does: to the log, the metrics, the health checks, and as Events.
//! It changes nothing. Tests: `netlab`; the values it feeds are tested in `serve`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use super::local::NoLocal;
use super::source::Report;
use crate::kernel::Error;
use crate::model::{Event, NodePortAddresses, Notice};
use crate::serve::board::Programmed;
use crate::serve::{Board, Health, HealthChecks, Metrics, Sources, SyncKind};
use crate::sync::Proxy;
use crate::sync::run::{Ended, Observer};

/// The observer of the daemon.
pub(super) struct Witness {
    health: Health,
    metrics: Metrics,
    checks: HealthChecks,
    board: Option<Board>,
    no_local: NoLocal,
    /// Since when something waits to be programmed, and what the sync under way began with.
    waiting: Option<Instant>,
    running: Option<Instant>,
    report: Report,
    known: BTreeSet<Notice>,
    /// By which setting the addresses of health check node ports were chosen.
    listened: Option<NodePortAddresses>,
    failures: u32,
}

impl Witness {
    pub(super) fn new(sources: &Sources, report: Report) -> Witness {
        Witness {
            health: sources.health.clone(),
            metrics: sources.metrics.clone(),
            checks: sources.checks.clone(),
            board: sources.board.clone(),
            no_local: NoLocal::default(),
            waiting: None,
            running: None,
            report,
            known: BTreeSet::new(),
            listened: None,
            failures: 0,
        }
    }

    /// Says each Notice once when it appears and once when it goes.
    fn notices(&mut self, proxy: &Proxy) {
        let now: BTreeSet<Notice> =
            proxy.notices().into_iter().chain(self.checks.notices()).collect();
        if now == self.known {
            return;
        }
        for notice in now.difference(&self.known) {
            tracing::warn!(reason = notice.reason.as_str(), "{notice}");
        }
        for notice in self.known.difference(&now) {
            tracing::info!(reason = notice.reason.as_str(), "no longer: {notice}");
        }
        self.metrics.noticed(&now);
        if let Some(board) = &self.board {
            board.noticed(&now);
        }
        let list: Vec<Notice> = now.iter().cloned().collect();
        (self.report)(&list);
        self.known = now;
    }

    fn succeeded(&mut self, proxy: &mut Proxy, ended: &Ended) {
        let wall = SystemTime::now();
        self.failures = 0;
        self.health.sync_succeeded(wall);
        self.metrics.synced(wall, &BTreeSet::new());
        let latency = self.running.take().map_or(ended.took, |since| since.elapsed());
        if let Some(board) = &self.board {
            let how = Programmed { at: wall, latency };
            board.programmed(proxy.cluster(), proxy.last_changes(), how);
        }
        self.no_local.update(proxy.cluster(), proxy.last_changes(), &self.metrics);
        let triggers: Vec<_> = proxy.tracker().take_all_trigger_times();
        self.metrics.programmed(&triggers, wall);
        if let Ok(report) = &ended.outcome {
            self.metrics.lock_waited(report.waited);
            for (of, (all, written)) in &report.rules {
                self.metrics.rules(*of, *all, *written);
            }
            tracing::info!(
                services = report.services,
                transactions = report.transactions,
                operations = report.operations,
                bytes = report.bytes,
                forgotten = report.forgotten,
                repaired = report.repaired,
                took = ?ended.took,
                "synced"
            );
        }
    }
}

impl Observer for Witness {
    fn event(&mut self, event: &Event) {
        self.metrics.seen(event);
    }

    fn fed(&mut self, proxy: &Proxy) {
        // A taint changes no packet's fate, but whether load balancers may send here.
        self.health.follow_node(proxy.cluster());
    }

    fn queued(&mut self) {
        let now = Instant::now();
        self.waiting.get_or_insert(now);
        self.health.queued(now);
        self.metrics.queued(SystemTime::now());
    }

    fn begun(&mut self) {
        self.running = self.running.or(self.waiting);
        self.waiting = None;
        self.health.sync_started();
    }

    fn house_failed(&mut self, error: &Error) {
        self.metrics.cleanup_failed();
        tracing::warn!(%error, "housekeeping failed; the next sync reads the kernel anew");
    }

    fn ended(&mut self, proxy: &mut Proxy, ended: &Ended) {
        self.health.follow_node(proxy.cluster());
        let wanted = &proxy.options().node_port_addresses;
        let is_other = self.listened.as_ref() != Some(wanted);
        if is_other || ended.full || proxy.last_changes().node {
            self.listened = Some(wanted.clone());
            self.checks.listen_on(proxy.health_check_addresses());
        }
        self.checks.update(proxy.cluster(), proxy.last_changes());
        self.metrics.sync_took(kind_of(ended), ended.took);
        match &ended.outcome {
            Ok(_) => self.succeeded(proxy, ended),
            Err(error) => {
                self.failures += 1;
                self.health.sync_failed();
                let failed = proxy.unsynced_families();
                self.metrics.sync_failed(kind_of(ended), &failed);
                self.metrics.synced(SystemTime::now(), &failed);
                if let Some(board) = &self.board {
                    board.failed(error.to_string());
                }
                tracing::error!(%error, tries = self.failures, "sync failed; trying again");
            }
        }
        self.metrics.drifted(proxy.drifts());
        self.notices(proxy);
    }

    fn forgot(&mut self, flows: &Result<usize, Error>, took: Duration) {
        match flows {
            Ok(0) => tracing::debug!(?took, "no stale flows"),
            Ok(forgotten) => tracing::info!(forgotten, ?took, "stale flows forgotten"),
            Err(error) => tracing::warn!(%error, "stale flows stay for now; trying again"),
        }
    }
}

fn kind_of(ended: &Ended) -> SyncKind {
    if ended.full { SyncKind::Full } else { SyncKind::Partial }
}
