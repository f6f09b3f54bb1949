//! A folder of YAML and JSON files in place of an API server: Events at first, differences later.
//!
//! `watcher` hears that something changed, `folder` reads the files, `merge` says what is new.
//! Regular files named `*.yaml`, `*.yml` and `*.json` count, in alphabetical order, and no hidden
//! ones. It must never know what becomes of an Event. Tests: `tests.rs`.

mod folder;
mod merge;
#[cfg(test)]
mod tests;
mod watcher;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::model::Event;
use folder::Folder;
use watcher::{Heard, Watcher};

/// Quiet time after a change before the files are read: editors and tools do several steps.
const QUIET: Duration = Duration::from_millis(20);
/// Changes that never pause are read this often all the same.
const LONGEST_WAIT: Duration = Duration::from_millis(200);
/// How long a file that was written to may stay open before it is read as it is.
const WRITING: Duration = Duration::from_secs(1);
/// How often the files are compared without a sign: links to other folders and network file
/// systems give none.
const COMPARE: Duration = Duration::from_secs(10);
/// The same where there are no signs at all: the folder is gone, or inotify is not to be had.
const COMPARE_BLIND: Duration = Duration::from_secs(1);

/// Why a folder cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not there.
    #[error("--manifests {}: there is no such folder; make it, or name another", .0.display())]
    Missing(PathBuf),
    /// It is something else.
    #[error("--manifests {}: not a folder; name the folder that the files are in", .0.display())]
    NotAFolder(PathBuf),
    /// It cannot be read.
    #[error("--manifests {}: cannot be read: {source}; check its permissions", .path.display())]
    Unreadable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A folder of manifests, found to be readable.
#[derive(Debug)]
pub struct Manifests {
    path: PathBuf,
    node_name: Arc<str>,
}

impl Manifests {
    /// The folder at `path`, read for the node of this name.
    pub fn open(path: &Path, node_name: impl Into<Arc<str>>) -> Result<Manifests, Error> {
        let unreadable = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::Missing(path.to_owned()),
            std::io::ErrorKind::NotADirectory => Error::NotAFolder(path.to_owned()),
            _ => Error::Unreadable { path: path.to_owned(), source: error },
        };
        std::fs::read_dir(path).map_err(unreadable)?;
        let absolute = std::path::absolute(path).map_err(unreadable)?;
        Ok(Manifests { path: absolute, node_name: node_name.into() })
    }

    /// What the folder says now: each kind as a full list.
    pub fn read(&self) -> Vec<Event> {
        self.folder().refresh(&Heard::default())
    }

    /// Sends what the folder says, each kind as a full list at first, then differences, until
    /// nobody listens any more.
    pub async fn run(self, events: mpsc::Sender<Event>) {
        let mut watcher = Watcher::open(&self.path);
        if let Err(error) = &watcher {
            let path = self.path.display();
            tracing::warn!(
                "--manifests {path}: no inotify ({error}); comparing files every second"
            );
        }
        let mut folder = self.folder();
        let mut heard = Heard::default();
        loop {
            // Before the files are read, so that no change falls in between.
            let replaced = watcher.as_mut().is_ok_and(Watcher::follow);
            heard.everything |= replaced;
            let Some((read, news)) = refresh(folder, heard).await else { return };
            folder = read;
            for event in news {
                if events.send(event).await.is_err() {
                    return;
                }
            }
            heard = tokio::select! {
                heard = wait(watcher.as_ref().ok(), folder.writing()) => heard,
                () = events.closed() => return,
            };
        }
    }

    fn folder(&self) -> Folder {
        Folder::new(self.path.clone(), self.node_name.clone())
    }
}

/// Reads files where blocking does not hold up the rest of the process.
async fn refresh(mut folder: Folder, heard: Heard) -> Option<(Folder, Vec<Event>)> {
    let reading = tokio::task::spawn_blocking(move || {
        let events = folder.refresh(&heard);
        (folder, events)
    });
    // Only a runtime that is shutting down cancels it.
    reading.await.ok()
}

/// Waits for a change and the quiet after it, for a file to be written to its end, or for the next
/// comparison. Says which files changed.
async fn wait(watcher: Option<&Watcher>, writing: &BTreeSet<OsString>) -> Heard {
    let seeing = watcher.is_some_and(Watcher::sees_folder);
    let compare = Instant::now() + if seeing { COMPARE } else { COMPARE_BLIND };
    let mut heard = Heard::default();
    heard.writing.extend(writing.iter().cloned());
    let mut first_change = None;
    let mut deadline = if writing.is_empty() { compare } else { Instant::now() + WRITING };
    loop {
        tokio::select! {
            () = sleep_until(deadline) => break,
            more = hear(watcher) => {
                if !heard.add(more) {
                    continue;
                }
                let now = Instant::now();
                let latest = *first_change.get_or_insert(now + LONGEST_WAIT);
                deadline = (now + QUIET).min(latest);
            }
        }
    }
    if first_change.is_none() {
        // What was open for writing all the while is read as it is.
        heard.changed.append(&mut heard.writing);
    }
    heard
}

async fn hear(watcher: Option<&Watcher>) -> Heard {
    match watcher {
        Some(watcher) => watcher.hear().await,
        None => std::future::pending().await,
    }
}
