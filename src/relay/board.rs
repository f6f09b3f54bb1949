//! What others see of the relay: its ports' figures, and whether its threads still run.
//! It must never change anything. Tests: below, `threads_tests.rs`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use super::counters::Figures;
use super::pool::{Pool, Shared};
use super::sockets::Trouble;

/// Where the figures of open ports are seen, from any thread. Clones are the same board.
pub struct Board<K>(Arc<Mutex<Shown<K>>>);

/// What a board shows.
struct Shown<K> {
    /// The ports that are listened at.
    open: BTreeMap<K, Arc<Pool>>,
    /// Those that are not any more while connections of theirs go on.
    left: Vec<(K, Arc<Pool>)>,
    /// The relay that was started, and its threads.
    relay: Option<(Arc<Shared>, Watched)>,
}

impl<K> Clone for Board<K> {
    fn clone(&self) -> Self {
        Board(self.0.clone())
    }
}

impl<K> Default for Board<K> {
    fn default() -> Self {
        let shown = Shown { open: BTreeMap::new(), left: Vec::new(), relay: None };
        Board(Arc::new(Mutex::new(shown)))
    }
}

impl<K> std::fmt::Debug for Board<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Board")
    }
}

impl<K: Ord + Clone> Board<K> {
    fn write(&self) -> MutexGuard<'_, Shown<K>> {
        // A map is whole after every call, so that a panic elsewhere leaves it usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A relay starts; its threads are to be watched with what comes back.
    pub(super) fn starts(&self, shared: Arc<Shared>) -> Watched {
        let watched = Watched::default();
        self.write().relay = Some((shared, watched.clone()));
        watched
    }

    /// A port is listened at.
    pub(super) fn opened(&self, key: K, pool: Arc<Pool>) {
        self.write().open.insert(key, pool);
    }

    /// It is not any more.
    pub(super) fn stopped(&self, key: &K) {
        let mut board = self.write();
        if let Some(entry) = board.open.remove_entry(key) {
            board.left.push(entry);
        }
        board.left.retain(|(_, pool)| pool.counters.figures().open > 0);
    }

    /// The figures of each port that is open or still has connections. A name may come twice, if it
    /// was opened anew meanwhile.
    pub fn figures(&self) -> Vec<(K, Figures)> {
        let mut board = self.write();
        board.left.retain(|(_, pool)| pool.counters.figures().open > 0);
        let left = board.left.iter().map(|(key, pool)| (key, pool));
        let all = board.open.iter().chain(left);
        all.map(|(key, pool)| (key.clone(), pool.counters.figures())).collect()
    }

    /// The figures of all ports there ever were, but for bytes; `None` before the relay is started.
    pub fn in_all(&self) -> Option<Figures> {
        self.write().relay.as_ref().map(|(shared, _)| shared.counters.figures())
    }

    /// The name of a thread that ended although nobody told it to, if one did: what it carried is
    /// gone, and nobody accepts in its place.
    pub fn fallen(&self) -> Option<String> {
        self.write().relay.as_ref().and_then(|(_, watched)| watched.fallen())
    }
}

/// Threads that are to run until they are told to end.
#[derive(Clone, Debug, Default)]
pub(super) struct Watched(Arc<OnceLock<String>>);

/// One of them, while it runs.
struct Watch {
    name: String,
    watched: Watched,
    /// `None` until the thread has ended by itself: then it did not panic.
    ended: Option<Result<(), Trouble>>,
}

impl Watched {
    /// Starts one. Its body returns `Ok` when it was told to.
    pub(super) fn spawn(
        &self,
        name: &str,
        body: impl FnOnce() -> Result<(), Trouble> + Send + 'static,
    ) -> Result<JoinHandle<()>, Trouble> {
        let watch = Watch { name: name.to_owned(), watched: self.clone(), ended: None };
        let thread = std::thread::Builder::new().name(name.to_owned());
        let watching = move || {
            let mut watch = watch;
            watch.ended = Some(body());
        };
        thread.spawn(watching).map_err(|_| Trouble::Exhausted)
    }

    fn fallen(&self) -> Option<String> {
        self.0.get().cloned()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let why = match self.ended {
            Some(Ok(())) => return,
            Some(Err(trouble)) => format!("{trouble:?}"),
            None => "a panic".to_owned(),
        };
        tracing::error!(thread = self.name, why, "a thread that carries connections has ended");
        // The first that fell tells enough.
        let _ = self.watched.0.set(self.name.clone());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn fallen(body: impl FnOnce() -> Result<(), Trouble> + Send + 'static) -> Option<String> {
        let limits = crate::relay::Limits { all: 1, each: 1, descriptors: 100 };
        let board: Board<u8> = Board::default();
        let watched = board.starts(Arc::new(Shared::new(limits)));
        let _ = watched.spawn("relay-7", body).unwrap().join();
        board.fallen()
    }

    #[test]
    fn a_thread_that_ends_by_itself_is_told_of() {
        assert_eq!(fallen(|| Ok(())), None);
        assert_eq!(fallen(|| Err(Trouble::Other(9))), Some("relay-7".to_owned()));
        assert_eq!(fallen(|| panic!("to see what becomes of it")), Some("relay-7".to_owned()));
    }
}
