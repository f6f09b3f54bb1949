//! The lock that programs of the legacy flavour of iptables take in turn: `/run/xtables.lock`.
//! Waits for it before a tool is started, so that the wait is known and the log can say for whom;
//! the tool then takes it by itself. Knows no rule. Tests: below, `netlab`.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

/// Where the tool has it, unless `XTABLES_LOCKFILE` says otherwise.
const LOCK: &str = "/run/xtables.lock";
/// How often a lock that is taken is tried again.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// Waits until nobody has the lock, but no longer than `bound`; gives how long it took.
pub(super) fn wait(bound: Duration) -> Duration {
    let path = std::env::var("XTABLES_LOCKFILE").unwrap_or_else(|_| LOCK.to_owned());
    // Where it cannot be opened the tool says so.
    let Ok(file) = File::options().create(true).append(true).open(&path) else {
        return Duration::ZERO;
    };
    let begun = Instant::now();
    let inode = file.metadata().map_or(0, |of| of.ino());
    let mut held = Some(file);
    let mut told = false;
    while let Some(file) = held.take() {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(_) => break,
            Err((file, _)) if begun.elapsed() < bound => {
                if !told {
                    tracing::info!(lock = path, holder = holder(inode), "waiting for iptables");
                    told = true;
                }
                held = Some(file);
                std::thread::sleep(TRY_EVERY);
            }
            Err(_) => break,
        }
    }
    if told { begun.elapsed() } else { Duration::ZERO }
}

/// Who has the lock: process and program, as far as `/proc` shows it.
fn holder(inode: u64) -> String {
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let Some(pid) = holder_in(&locks, inode) else { return "unknown".to_owned() };
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("{pid} ({})", name.trim_end())
}

/// The process that has a lock on this inode, by `/proc/locks`:
/// `1: FLOCK  ADVISORY  WRITE 4242 00:1a:1234 0 EOF`.
fn holder_in(locks: &str, inode: u64) -> Option<u32> {
    let holds = |line: &&str| {
        let mut words = line.split_whitespace();
        let waits = words.clone().any(|word| word == "->");
        let of = words.nth(5).and_then(|file| file.rsplit(':').next()?.parse::<u64>().ok());
        !waits && of == Some(inode)
    };
    locks.lines().find(holds)?.split_whitespace().nth(4)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_found_by_inode() {
        let locks = "1: POSIX  ADVISORY  WRITE 10 00:1a:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 4242 00:1a:1234 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 4243 00:1a:1234 0 EOF\n";
        assert_eq!(holder_in(locks, 1234), Some(4242));
        assert_eq!(holder_in(locks, 4), None);
    }
}
