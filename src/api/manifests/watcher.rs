//! Hears from inotify that something in a folder changed, or that the folder was replaced.
//!
//! It must never read a file. Tests: `tests.rs`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::unix::AsyncFd;

/// What changed since the last time.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// These files may have changed.
    pub(super) changed: BTreeSet<OsString>,
    /// These files were written to and are not closed yet.
    pub(super) writing: BTreeSet<OsString>,
    /// Anything may have changed: events were lost or the folder is another one.
    pub(super) everything: bool,
}

impl Heard {
    /// Adds what was heard later; whether there was anything.
    pub(super) fn add(&mut self, later: Heard) -> bool {
        let any = later.everything || !later.changed.is_empty() || !later.writing.is_empty();
        self.everything |= later.everything;
        for name in later.changed {
            self.writing.remove(&name);
            self.changed.insert(name);
        }
        self.writing.extend(later.writing);
        any
    }
}

/// One inotify instance with two watches: the folder, and the one above it, in which the folder
/// itself may be replaced.
#[derive(Debug)]
pub(super) struct Watcher {
    inotify: AsyncFd<Descriptor>,
    path: PathBuf,
    folder: Option<WatchDescriptor>,
}

#[derive(Debug)]
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watcher {
    pub(super) fn open(path: &Path) -> std::io::Result<Watcher> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        if let Some(parent) = path.parent() {
            let flags = AddWatchFlags::IN_CREATE
                | AddWatchFlags::IN_DELETE
                | AddWatchFlags::IN_MOVE
                | AddWatchFlags::IN_ONLYDIR;
            // Without it a folder that is replaced is found by comparing instead.
            let _ = inotify.add_watch(parent, flags);
        }
        #[expect(deprecated, reason = "its successor is unsafe; this descriptor never changes")]
        let inotify = AsyncFd::new(Descriptor(inotify))?;
        Ok(Watcher { inotify, path: path.to_owned(), folder: None })
    }

    /// Watches the folder that is at the path now; whether it is another one than before.
    pub(super) fn follow(&mut self) -> bool {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let inotify = &self.inotify.get_ref().0;
        let now = inotify.add_watch(self.path.as_path(), flags).ok();
        let replaced = now != self.folder;
        if let Some(before) = self.folder.filter(|_| replaced) {
            // Fails if the folder is deleted: then the watch is gone with it.
            let _ = inotify.rm_watch(before);
        }
        self.folder = now;
        replaced
    }

    /// Whether the folder is there and watched.
    pub(super) fn sees_folder(&self) -> bool {
        self.folder.is_some()
    }

    /// Waits until something is heard; may be about nothing of interest.
    pub(super) async fn hear(&self) -> Heard {
        loop {
            let Ok(mut ready) = self.inotify.readable().await else {
                return std::future::pending().await;
            };
            match self.inotify.get_ref().0.read_events() {
                Ok(events) => return self.sort(events),
                Err(nix::Error::EINTR) => {}
                Err(_) => ready.clear_ready(),
            }
        }
    }

    fn sort(&self, events: Vec<InotifyEvent>) -> Heard {
        let mut heard = Heard::default();
        for event in events {
            let mut one = Heard::default();
            let of_folder = Some(event.wd) == self.folder;
            let lost = event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
            match event.name {
                Some(name) if of_folder && event.mask.contains(AddWatchFlags::IN_MODIFY) => {
                    one.writing.insert(name);
                }
                Some(name) if of_folder => {
                    one.changed.insert(name);
                }
                Some(name) => one.everything = self.path.file_name() == Some(name.as_os_str()),
                None => one.everything = of_folder || lost,
            }
            heard.add(one);
        }
        heard
    }
}
