//! Measures time and memory of processes: by the clock, by what the processor worked, by how long
//! the thread waited for a processor. On a machine where others work too, the last two say how far
//! the first can be trusted. Tests: below.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// How long something took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// By the clock.
    pub wall: Duration,
    /// What this process worked, in user and kernel mode, all threads.
    pub cpu: Duration,
    /// How long this thread was ready and had no processor.
    pub waited: Duration,
}

impl std::ops::AddAssign for Span {
    fn add_assign(&mut self, other: Span) {
        self.wall += other.wall;
        self.cpu += other.cpu;
        self.waited += other.waited;
    }
}

/// Measures something, and gives its result beside.
pub fn measure<T>(work: impl FnOnce() -> T) -> (T, Span) {
    let (waited, cpu) = (waited(), cpu());
    let began = Instant::now();
    let result = work();
    let wall = began.elapsed();
    let span = Span {
        wall,
        cpu: self::cpu().saturating_sub(cpu),
        waited: self::waited().saturating_sub(waited),
    };
    (result, span)
}

fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

/// The second word of schedstat: nanoseconds spent waiting to run.
fn waited() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').nth(1).and_then(|word| word.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// Memory of a process in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident now (`VmRSS`).
    pub resident: u64,
    /// Resident at most (`VmHWM`).
    pub peak: u64,
}

/// Memory of a process, by its id or `self`.
pub fn memory(process: impl std::fmt::Display) -> Memory {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    Memory { resident: field("VmRSS:"), peak: field("VmHWM:") }
}

/// Bytes that a process has written so far, to pipes and files (`wchar`); what it sends over netlink
/// and sockets with `send` is not among them.
pub fn written(process: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
    let figure = text.lines().find_map(|line| line.strip_prefix("wchar:")?.trim().parse().ok());
    figure.unwrap_or(0)
}

/// What a process worked so far, in user and kernel mode.
pub fn worked(process: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name in brackets may hold spaces; utime and stime are words 14 and 15 of all.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let words: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| words.get(at).and_then(|w| w.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// Waits until the machine has little else to do, or patience ends; gives the load average then.
pub fn calm(patience: Duration) -> f64 {
    let began = Instant::now();
    loop {
        let load = load();
        if load < 0.7 || began.elapsed() > patience {
            return load;
        }
        std::thread::sleep(Duration::from_secs(2));
    }
}

/// The load average of the last minute.
pub fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

/// The value below which so many percent of the sorted values are.
pub fn quantile(sorted: &[f64], percent: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    sorted[((last as f64 * percent / 100.0).round() as usize).min(last)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!((quantile(&values, 50.0), quantile(&values, 99.0)), (50.0, 99.0));
        assert_eq!(quantile(&[3.0], 99.0), 3.0);
        assert!(quantile(&[], 50.0).is_nan());
    }

    #[test]
    fn this_process_has_memory_and_works() {
        let (_, span) = measure(|| (0..2_000_000u64).map(std::hint::black_box).sum::<u64>());
        assert!(span.cpu > Duration::ZERO && span.wall > Duration::ZERO);
        let memory = memory("self");
        assert!(memory.peak >= memory.resident && memory.resident > 0);
    }
}
