//! Figures of this process, under the names every Prometheus client uses for them. Read from
//! `/proc` when asked; one that can't be read is left out. Tests: below.

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};

/// Ticks a second of the times in `/proc/self/stat`: USER_HZ, 100 on every Linux that Rust has
/// a standard library for.
const TICKS: f64 = 100.0;

/// The figures as they are now.
pub(super) fn gather() -> Vec<MetricFamily> {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let network = std::fs::read_to_string("/proc/self/net/netstat").unwrap_or_default();
    let files = std::fs::read_dir("/proc/self/fd").ok().map(|dir| dir.count() as f64);
    let cpu = "Total user and system CPU time spent in seconds.";
    [
        counter("process_cpu_seconds_total", cpu, cpu_seconds(&stat)),
        gauge("process_open_fds", "Number of open file descriptors.", files),
        gauge(
            "process_max_fds",
            "Maximum number of open file descriptors.",
            limit(&limits, "Max open files"),
        ),
        gauge(
            "process_virtual_memory_max_bytes",
            "Maximum amount of virtual memory available in bytes.",
            limit(&limits, "Max address space"),
        ),
        counter(
            "process_network_receive_bytes_total",
            "Number of bytes received by the process over the network.",
            octets(&network, "InOctets"),
        ),
        counter(
            "process_network_transmit_bytes_total",
            "Number of bytes sent by the process over the network.",
            octets(&network, "OutOctets"),
        ),
        gauge(
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            kib(&status, "VmRSS:"),
        ),
        gauge(
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            kib(&status, "VmSize:"),
        ),
        gauge(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            start_time(&stat),
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn gauge(name: &str, help: &str, value: Option<f64>) -> Vec<MetricFamily> {
    let (Some(value), Ok(gauge)) = (value, Gauge::new(name, help)) else {
        return Vec::new();
    };
    gauge.set(value);
    gauge.collect()
}

fn counter(name: &str, help: &str, value: Option<f64>) -> Vec<MetricFamily> {
    let (Some(value), Ok(counter)) = (value, Counter::new(name, help)) else {
        return Vec::new();
    };
    counter.inc_by(value);
    counter.collect()
}

/// A field of `/proc/self/stat` by its number in proc(5); the second one, the command, may have
/// spaces in it.
fn field(stat: &str, number: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(number - 3)?.parse().ok()
}

/// A soft limit; without one, the largest number there is, as Go's client has it.
fn limit(limits: &str, name: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX as f64),
        number => number.parse().ok(),
    }
}

/// A figure of the `IpExt` lines: names in one, values in the next. They are the network
/// namespace's, under the name that Go's client gives them.
fn octets(netstat: &str, name: &str) -> Option<f64> {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("IpExt: "));
    let place = lines.next()?.split(' ').position(|n| n == name)?;
    lines.next()?.split(' ').nth(place)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((field(stat, 14)? + field(stat, 15)?) / TICKS)
}

fn start_time(stat: &str) -> Option<f64> {
    let system = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = system.lines().find_map(|l| l.strip_prefix("btime "))?.parse().ok()?;
    Some(boot + field(stat, 22)? / TICKS)
}

fn kib(status: &str, key: &str) -> Option<f64> {
    let value = status.lines().find_map(|l| l.strip_prefix(key))?;
    let kib: f64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_command() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1 0 4200 1 2";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(field(stat, 22), Some(4200.0));
        assert_eq!(field("", 22), None);
        let limits = "Limit  Soft Limit\nMax open files            1024     4096    files\nMax address space         unlimited            unlimited            bytes\n";
        assert_eq!(limit(limits, "Max open files"), Some(1024.0));
        assert_eq!(limit(limits, "Max address space"), Some(u64::MAX as f64));
        let netstat = "TcpExt: A\nTcpExt: 1\nIpExt: InOctets OutOctets\nIpExt: 7 9\n";
        assert_eq!(octets(netstat, "OutOctets"), Some(9.0));
        assert_eq!(kib("VmPeak:\t 9 kB\nVmRSS:\t    12 kB\n", "VmRSS:"), Some(12288.0));
    }

    #[test]
    fn this_process_has_all_of_them() {
        let names: Vec<String> = gather().iter().map(|f| f.name().to_owned()).collect();
        assert_eq!(names.len(), 9, "{names:?}");
    }
}
