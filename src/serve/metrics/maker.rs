//! Makes metrics, registers those of the mode and shows each at zero from the start.
//! It knows no figure. Tests: `tests` beside this.

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, exponential_buckets, linear_buckets,
};

use super::{Changes, label};
use crate::model::{Family, Mode};

/// Makes metrics.
pub(super) struct Maker<'a> {
    /// Where they are registered.
    pub(super) registry: Registry,
    /// The families that are programmed.
    pub(super) families: &'a [Family],
    /// The mode they are programmed in.
    pub(super) mode: Mode,
}

impl Maker<'_> {
    /// The same for metrics of these modes: of another they are made, and nobody sees them.
    pub(super) fn of(&self, modes: &[Mode]) -> Maker<'_> {
        let registry =
            if modes.contains(&self.mode) { self.registry.clone() } else { Registry::new() };
        Maker { registry, ..*self }
    }

    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(name, help).namespace("kubeproxy")
    }

    fn add<M: Collector + Clone + 'static>(&self, metric: prometheus::Result<M>) -> M {
        let metric = metric.expect("names and labels of metrics are valid");
        let own = Box::new(metric.clone());
        self.registry.register(own).expect("names of metrics are unique");
        metric
    }

    /// A collector of somebody else's making.
    pub(super) fn own<M: Collector + Clone + 'static>(&self, collector: M) -> M {
        self.add(Ok(collector))
    }

    pub(super) fn histograms(&self, name: &str, help: &str, buckets: Vec<f64>) -> HistogramVec {
        let opts = HistogramOpts::from(Self::opts(name, help)).buckets(buckets);
        let histograms = self.add(HistogramVec::new(opts, &["ip_family"]));
        for family in self.families {
            let _: Histogram = histograms.with_label_values(&[label(*family)]);
        }
        histograms
    }

    pub(super) fn durations(&self, name: &str, help: &str) -> HistogramVec {
        let buckets = exponential_buckets(0.001, 2.0, 15).expect("start and factor are positive");
        self.histograms(name, help, buckets)
    }

    pub(super) fn times(&self, name: &str, help: &str) -> GaugeVec {
        let times = self.add(GaugeVec::new(Self::opts(name, help), &["ip_family"]));
        for family in self.families {
            times.with_label_values(&[label(*family)]).set(0.0);
        }
        times
    }

    pub(super) fn counters(&self, name: &str, help: &str) -> IntCounterVec {
        let counters = self.add(IntCounterVec::new(Self::opts(name, help), &["ip_family"]));
        for family in self.families {
            counters.with_label_values(&[label(*family)]).inc_by(0);
        }
        counters
    }

    /// A number of seconds without labels.
    pub(super) fn seconds(&self, name: &str, help: &str) -> Gauge {
        self.add(Gauge::with_opts(Self::opts(name, help)))
    }

    /// Numbers of seconds by one label that is no family.
    pub(super) fn seconds_by(&self, name: &str, help: &str, label: &str) -> GaugeVec {
        self.add(GaugeVec::new(Self::opts(name, help), &[label]))
    }

    /// Counters with these labels, none of them shown until counted.
    pub(super) fn counters_by(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Self::opts(name, help), labels))
    }

    /// A counter without labels.
    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::with_opts(Self::opts(name, help)))
    }

    /// Durations by one label that is no family.
    pub(super) fn durations_by(&self, name: &str, help: &str, label: &str) -> HistogramVec {
        let buckets = exponential_buckets(0.0001, 2.0, 18).expect("start and factor are positive");
        let opts = HistogramOpts::from(Self::opts(name, help)).buckets(buckets);
        self.add(HistogramVec::new(opts, &[label]))
    }

    /// `kubernetes_build_info`, whose name has no prefix of ours.
    pub(super) fn build(&self, labels: &[(&str, &str)]) {
        let help = "A metric with a constant '1' value labeled by what this was built from.";
        let names: Vec<&str> = labels.iter().map(|(name, _)| *name).collect();
        let values: Vec<&str> = labels.iter().map(|(_, value)| *value).collect();
        let info = self.add(IntGaugeVec::new(Opts::new("kubernetes_build_info", help), &names));
        info.with_label_values(&values).set(1);
    }

    /// `kubernetes_feature_enabled` (`component-base/metrics/prometheus/feature`): name, stage and
    /// whether it is on.
    pub(super) fn features(&self, gates: &[(&str, &str, bool)]) {
        let help = "This metric records whether a feature gate is on (1) or off (0).";
        let opts = Opts::new("kubernetes_feature_enabled", help);
        let features = self.add(IntGaugeVec::new(opts, &["name", "stage"]));
        for (name, stage, on) in gates {
            features.with_label_values(&[name, stage]).set(i64::from(*on));
        }
    }

    /// Counters whose name has no prefix of ours.
    pub(super) fn bare_counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// Histograms, given by name and help, whose name has no prefix of ours.
    pub(super) fn bare_histograms(
        &self,
        (name, help): (&str, &str),
        labels: &[&str],
        buckets: &[f64],
    ) -> HistogramVec {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add(HistogramVec::new(opts, labels))
    }

    pub(super) fn codes(&self, name: &str, help: &str) -> IntCounterVec {
        self.add(IntCounterVec::new(Self::opts(name, help), &["code"]))
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Self::opts(name, help), labels))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::with_opts(Self::opts(name, help)))
    }

    pub(super) fn changes(&self, lower: &str, upper: &str) -> Changes {
        let total = format!("sync_proxy_rules_{lower}_changes_total");
        let help = format!("{upper} changes seen");
        let pending = format!("sync_proxy_rules_{lower}_changes_pending");
        Changes {
            pending: self.gauge(&pending, &format!("{upper} changes that no sync has programmed")),
            total: self.add(IntCounter::with_opts(Self::opts(&total, &help))),
        }
    }
}

/// 0 (as the reference has it), 0.25 and 0.5 s, each second to 59, each five to 115, each thirty to 300.
pub(super) fn programming_buckets() -> Vec<f64> {
    let parts = [(0.25, 0.25, 2), (1.0, 1.0, 59), (60.0, 5.0, 12), (120.0, 30.0, 7)];
    let buckets = parts.map(|(start, width, count)| linear_buckets(start, width, count));
    let parts = buckets.into_iter().map(|part| part.expect("width and count are positive"));
    std::iter::once(0.0).chain(parts.flatten()).collect()
}
