//! What `--verify` came to. It knows no rule and no promise. Tests: `super::tests`.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounter, IntCounterVec};

use super::maker::Maker;

/// One look at what was about to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifiedFigures {
    /// Services looked at.
    pub services: usize,
    /// Packets that go where they are promised to.
    pub kept: usize,
    /// Packets of which it could not be told.
    pub unknown: usize,
    /// Services whose promise would be broken.
    pub broken: usize,
    /// Whether what was to be written could not be looked at.
    pub refused: bool,
    /// How long it took.
    pub took: Duration,
}

/// The metrics of it.
#[derive(Clone, Debug)]
pub(super) struct Verified {
    services: IntCounter,
    packets: IntCounterVec,
    broken: IntCounter,
    refused: IntCounter,
    took: HistogramVec,
}

impl Verified {
    pub(super) fn new(maker: &Maker<'_>) -> Verified {
        Verified {
            services: maker.counter(
                "verified_services_total",
                "Services whose promise was held against what was about to be written (--verify)",
            ),
            packets: maker.counters_by(
                "verified_packets_total",
                "Packets sent through what was about to be written, by what they came to",
                &["verdict"],
            ),
            broken: maker.counter(
                "verify_violations_total",
                "Services found whose promise what was about to be written would break",
            ),
            refused: maker.counter(
                "verify_refusals_total",
                "Times that what was about to be written could not be looked at",
            ),
            took: maker.durations_by(
                "verify_duration_seconds",
                "Seconds it took to look at what was about to be written",
                "extent",
            ),
        }
    }

    pub(super) fn looked(&self, extent: &str, figures: &VerifiedFigures) {
        if figures.refused {
            return self.refused.inc();
        }
        self.services.inc_by(figures.services as u64);
        self.packets.with_label_values(&["kept"]).inc_by(figures.kept as u64);
        self.packets.with_label_values(&["unknown"]).inc_by(figures.unknown as u64);
        self.broken.inc_by(figures.broken as u64);
        self.took.with_label_values(&[extent]).observe(figures.took.as_secs_f64());
    }
}
