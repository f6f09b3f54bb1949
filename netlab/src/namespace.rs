//! Network namespaces that are held by a file descriptor only, so that nothing is left in the
//! system when this process ends, however it ends.
//! `netns-rs` keeps the descriptor and enters; it must never be asked to `run`: its `run` leaves the
//! thread in the wrong namespace after a panic. Here every closure gets a thread of its own.
//! Tests: below (skipped where the machine gives no namespaces).

use std::os::fd::AsRawFd;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use netns_rs::{NetNs, get_from_current_thread};
use nix::sched::{CloneFlags, unshare};

/// A network namespace with a name for people. Clones are the same namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: Arc<str>,
    netns: Arc<NetNs>,
}

impl Namespace {
    /// A new, empty namespace. Its loopback is down.
    pub fn new(name: &str) -> Result<Namespace, String> {
        let made = thread::Builder::new()
            .name(format!("make-{name}"))
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).map_err(|e| e.to_string())?;
                get_from_current_thread().map_err(|e| e.to_string())
            })
            .map_err(|e| format!("thread for namespace {name}: {e}"))?
            .join();
        let netns = made
            .unwrap_or_else(|panic| resume_unwind(panic))
            .map_err(|e| format!("no network namespace {name}: {e}"))?;
        Ok(Namespace { name: name.into(), netns: Arc::new(netns) })
    }

    /// The name given to it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a closure inside, on a thread of its own, and gives back what it returned. A panic of
    /// the closure goes on in the caller. Sockets made inside stay inside, whoever uses them later.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.netns.enter().expect("an open namespace of ours can be entered");
                work()
            });
            inside.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Starts a thread that lives inside for as long as its closure runs.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let netns = self.netns.clone();
        thread::spawn(move || {
            netns.enter().expect("an open namespace of ours can be entered");
            work()
        })
    }

    /// The descriptor's number, for netlink requests that name a namespace by it.
    pub(crate) fn descriptor(&self) -> i32 {
        self.netns.file().as_raw_fd()
    }

    /// Where another process can open this namespace while this one lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.descriptor())
    }

    /// The command with which a person looks inside while this process lives.
    pub fn hint(&self) -> String {
        format!("nsenter --net={} ip addr    # {}", self.path(), self.name)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_inside_harms_nobody() {
        let Ok(namespace) = Namespace::new("a") else {
            eprintln!("skipped: no namespaces here");
            return;
        };
        let before = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let inside = namespace.run(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap());
        assert_ne!(before, inside);
        let caught = std::panic::catch_unwind(|| namespace.run(|| panic!("on purpose")));
        assert!(caught.is_err());
        assert_eq!(before, std::fs::read_link("/proc/thread-self/ns/net").unwrap());
    }
}
