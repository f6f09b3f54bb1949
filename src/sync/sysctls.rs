//! Conntrack's size and timeouts: sysctls, and the hash table's size, which is a module parameter.
//!
//! As `pkg/proxy/conntrack/sysctls.go` and `cmd/kube-proxy/app/server_linux.go` of the reference,
//! but a minimum that somebody asked for is not cut to the limit (line 53 of
//! upstream-behaviour.md), and what cannot be set is said and gone on without. Decides in pure
//! functions, reads before it writes. Tests: below; `netlab` (`conntrack-sysctls`).

use std::fmt;
use std::time::Duration;

use crate::kernel::{Error, ErrorKind, Facts, Kernel, Query, Transaction};

/// Most entries that are asked for because of many CPUs; beyond, memory is better spent.
const MAX_BY_CPUS: u32 = 1 << 20;
/// Entries for each bucket of the hash table.
const ENTRIES_PER_BUCKET: u32 = 4;

/// What is set of conntrack; `None` leaves the kernel's value alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// Entries for each CPU.
    pub max_per_core: Option<u32>,
    /// At least as many entries; heeded only with `max_per_core`.
    pub min: u32,
    /// Timeout of idle established TCP connections.
    pub tcp_established_timeout: Option<Duration>,
    /// Timeout in CLOSE_WAIT.
    pub tcp_close_wait_timeout: Option<Duration>,
    /// Whether packets out of window are let through.
    pub tcp_be_liberal: bool,
    /// Timeout of UDP flows without a reply.
    pub udp_timeout: Option<Duration>,
    /// Timeout of UDP flows with replies.
    pub udp_stream_timeout: Option<Duration>,
}

impl Conntrack {
    /// The most entries to ask for on a machine with so many CPUs; `None` leaves the kernel's.
    pub fn max(&self, cpus: u32) -> Option<u32> {
        let scaled = self.max_per_core?.saturating_mul(cpus);
        Some(scaled.min(MAX_BY_CPUS).max(self.min))
    }

    /// Sysctls below `net/netfilter`, with their values.
    fn values(&self, cpus: u32) -> Vec<(&'static str, u64)> {
        let seconds = |timeout: Option<Duration>| timeout.map(|timeout| timeout.as_secs());
        let wanted = [
            ("nf_conntrack_max", self.max(cpus).map(u64::from)),
            ("nf_conntrack_tcp_timeout_established", seconds(self.tcp_established_timeout)),
            ("nf_conntrack_tcp_timeout_close_wait", seconds(self.tcp_close_wait_timeout)),
            ("nf_conntrack_tcp_be_liberal", self.tcp_be_liberal.then_some(1)),
            ("nf_conntrack_udp_timeout", seconds(self.udp_timeout)),
            ("nf_conntrack_udp_timeout_stream", seconds(self.udp_stream_timeout)),
        ];
        wanted.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// Something that could not be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unset {
    /// What, and to which value: `net.netfilter.nf_conntrack_max to 131072`.
    pub what: String,
    /// Why not.
    pub error: Error,
}

impl fmt::Display for Unset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let todo = match self.error.kind {
            ErrorKind::Denied | ErrorKind::Unsupported => {
                "run --init-only with all rights in the host's network namespace first, or leave \
                 it alone with --conntrack-max-per-core=0 and timeouts of 0"
            }
            ErrorKind::Absent => "is the module nf_conntrack loaded?",
            _ => "the kernel's value stays",
        };
        write!(f, "cannot set {}: {}; {todo}", self.what, self.error)
    }
}

/// Sets what is asked for where it is another; gives what could not be set.
pub fn set(kernel: &mut dyn Kernel, conntrack: &Conntrack) -> Vec<Unset> {
    let cpus = match kernel.read(&Query::Cpus) {
        Ok(Facts::Number(cpus)) => u32::try_from(cpus).unwrap_or(u32::MAX).max(1),
        _ => 1,
    };
    let mut unset = Vec::new();
    for (name, value) in conntrack.values(cpus) {
        if let Err(error) = set_sysctl(kernel, name, value) {
            unset.push(Unset { what: format!("net.netfilter.{name} to {value}"), error });
        }
    }
    if let Some(max) = conntrack.max(cpus)
        && let Err(error) = grow_table(kernel, max / ENTRIES_PER_BUCKET)
    {
        let what = format!("conntrack's hash table to {} buckets", max / ENTRIES_PER_BUCKET);
        unset.push(Unset { what, error });
    }
    unset
}

/// The value of a sysctl, if there is such a one.
pub(super) fn value(kernel: &mut dyn Kernel, path: &str) -> Result<Option<String>, Error> {
    match kernel.read(&Query::Sysctl(path.to_owned())) {
        Ok(Facts::Text(text)) => Ok(Some(text)),
        Ok(other) => super::unreachable_answer("a sysctl", &other),
        Err(error) if error.kind == ErrorKind::Absent => Ok(None),
        Err(error) => Err(error),
    }
}

fn set_sysctl(kernel: &mut dyn Kernel, name: &str, value: u64) -> Result<(), Error> {
    let path = format!("net/netfilter/{name}");
    let text = value.to_string();
    // What cannot be read may still be written; who may not write needs not if it is right.
    if kernel.read(&Query::Sysctl(path.clone())) == Ok(Facts::Text(text.clone())) {
        return Ok(());
    }
    tracing::info!("setting net.netfilter.{name} to {value}");
    kernel.apply(&Transaction::Sysctl(path, text)).map(|_| ())
}

/// The table is only ever made larger. The kernel lets nobody do so outside its first network
/// namespace, so it is not tried without need.
fn grow_table(kernel: &mut dyn Kernel, buckets: u32) -> Result<(), Error> {
    let now = match kernel.read(&Query::ConntrackBuckets)? {
        Facts::Number(now) => now,
        other => super::unreachable_answer("conntrack's buckets", &other)?,
    };
    if now >= u64::from(buckets) {
        return Ok(());
    }
    tracing::info!("growing conntrack's hash table from {now} to {buckets} buckets");
    kernel.apply(&Transaction::ConntrackBuckets(buckets)).map(|_| ())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::kernel::fault::{Fate, Fault};
    use crate::kernel::record::{Exchange, Record};
    use crate::kernel::simulated::Simulated;

    fn asked() -> Conntrack {
        Conntrack {
            max_per_core: Some(32_768),
            min: 131_072,
            tcp_established_timeout: Some(Duration::from_secs(86_400)),
            tcp_close_wait_timeout: Some(Duration::from_secs(3600)),
            tcp_be_liberal: false,
            udp_timeout: None,
            udp_stream_timeout: None,
        }
    }

    #[test]
    fn how_many_entries() {
        // entries for each CPU, at least, CPUs, in all
        #[rustfmt::skip]
        let cases = [
            (Some(32_768), 131_072, 2, Some(131_072)),
            (Some(32_768), 131_072, 8, Some(262_144)),
            (Some(32_768), 131_072, 128, Some(1_048_576)),
            (Some(32_768), 2_000_000, 128, Some(2_000_000)),
            (Some(u32::MAX), 0, 2, Some(1_048_576)),
            (Some(1), 0, 2, Some(2)),
            (None, 131_072, 8, None),
        ];
        for (max_per_core, min, cpus, expected) in cases {
            let conntrack = Conntrack { max_per_core, min, ..asked() };
            assert_eq!(conntrack.max(cpus), expected, "{max_per_core:?} {min} {cpus}");
        }
    }

    fn written(kernel: &mut Record<Fault<Simulated>>) -> Vec<Transaction> {
        let said = kernel.take().into_iter();
        said.filter_map(|exchange| match exchange {
            Exchange::Applied(transaction, _) => Some(transaction),
            Exchange::Read(..) => None,
        })
        .collect()
    }

    #[test]
    fn only_what_differs_is_written() {
        let mut kernel = Record::new(Fault::new(Simulated::new(sim::Host::new(1))));
        assert_eq!(set(&mut kernel, &asked()), []);
        let names: Vec<_> = written(&mut kernel)
            .into_iter()
            .map(|transaction| match transaction {
                Transaction::Sysctl(path, value) => format!("{path}={value}"),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(
            names,
            [
                "net/netfilter/nf_conntrack_max=131072",
                "net/netfilter/nf_conntrack_tcp_timeout_established=86400",
                "net/netfilter/nf_conntrack_tcp_timeout_close_wait=3600",
                "ConntrackBuckets(32768)",
            ]
        );
        assert_eq!(set(&mut kernel, &asked()), []);
        assert_eq!(written(&mut kernel), []);
    }

    #[test]
    fn what_cannot_be_set_keeps_nothing_else_from_being_set() {
        let mut kernel = Record::new(Fault::new(Simulated::new(sim::Host::new(1))));
        // CPUs, the first sysctl read, and its write.
        let refused = Fate::Refuse(ErrorKind::Denied);
        kernel.inner().schedule([Fate::Pass, Fate::Pass, refused]);
        let unset = set(&mut kernel, &asked());
        assert_eq!(unset.len(), 1);
        let line = unset[0].to_string();
        assert!(
            line.contains("nf_conntrack_max to 131072") && line.contains("--init-only"),
            "{line}"
        );
        assert_eq!(written(&mut kernel).len(), 4);
    }
}
