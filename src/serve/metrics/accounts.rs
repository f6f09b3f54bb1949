//! What the kernel counts for rules of iptables (nfacct), asked for when somebody looks.
//! A counter that is not there has no series, as in the reference. It knows no kernel. Tests: below.

use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, Opts};

/// Packets counted, `None` where the kernel has no such counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountFigures {
    /// Dropped since conntrack calls them invalid.
    pub invalid_dropped: Option<u64>,
    /// Connections to node ports at loopback addresses.
    pub localhost_accepted: Option<u64>,
}

/// Tells what is counted now.
pub type Accounting = Box<dyn Fn() -> AccountFigures + Send + Sync>;

/// Metrics of counted packets; none where nobody tells.
#[derive(Clone)]
pub(super) struct Accounts {
    accounting: Arc<OnceLock<Accounting>>,
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts").finish_non_exhaustive()
    }
}

impl Accounts {
    pub(super) fn new() -> Accounts {
        Accounts { accounting: Arc::default() }
    }

    /// From now on asks this; only the first counts.
    pub(super) fn ask(&self, accounting: Accounting) {
        let _ = self.accounting.set(accounting);
    }
}

/// The reference's names (`pkg/proxy/metrics/metrics.go`).
fn counters() -> [IntCounter; 2] {
    let counter = |name: &str, help: &str| {
        let opts = Opts::new(format!("iptables_{name}_packets_total"), help);
        IntCounter::with_opts(opts.namespace("kubeproxy")).expect("the names are valid")
    };
    [
        counter("ct_state_invalid_dropped", "Packets dropped since conntrack calls them invalid"),
        counter("localhost_nodeports_accepted", "Connections to node ports at loopback addresses"),
    ]
}

impl Collector for Accounts {
    fn desc(&self) -> Vec<&Desc> {
        static TEMPLATE: OnceLock<[IntCounter; 2]> = OnceLock::new();
        TEMPLATE.get_or_init(counters).iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let told = self.accounting.get().map(|accounting| accounting()).unwrap_or_default();
        let figures = [told.invalid_dropped, told.localhost_accepted];
        let counted = counters().into_iter().zip(figures).filter_map(|(counter, figure)| {
            counter.inc_by(figure?);
            Some(counter.collect())
        });
        counted.flatten().collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_does_not_count_has_no_series() {
        let accounts = Accounts::new();
        let registry = prometheus::Registry::new();
        registry.register(Box::new(accounts.clone())).unwrap();
        let text = || prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert_eq!(text(), "");
        accounts
            .ask(Box::new(|| AccountFigures { invalid_dropped: Some(7), ..Default::default() }));
        let text = text();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines, ["kubeproxy_iptables_ct_state_invalid_dropped_packets_total 7"]);
    }
}
