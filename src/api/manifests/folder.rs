//! Reads a folder's files: only those that changed, and with the last good content of those that
//! cannot be read.
//!
//! It must never wait. Tests: `tests.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::merge::{Told, merge};
use super::watcher::Heard;
use crate::api::Decoder;
use crate::api::text::{Object, Text, read, text_notice};
use crate::model::{Event, Notice};

/// Files larger than this are not read.
const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;

/// The files of a folder as last read, and what was told of them.
pub(super) struct Folder {
    path: PathBuf,
    decoder: Decoder,
    files: BTreeMap<OsString, File>,
    told: Told,
    writing: BTreeSet<OsString>,
    notices: Vec<Notice>,
    /// Whether anything may be different from what was told.
    stale: bool,
}

/// One file as last read.
#[derive(Default)]
struct File {
    stamp: Option<Stamp>,
    objects: Vec<Object>,
    notices: Vec<Notice>,
}

/// What changes when a file's content does: device, inode, size, and two times in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp(u64, u64, u64, (i64, i64), (i64, i64));

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        Stamp(metadata.dev(), metadata.ino(), metadata.size(), modified, changed)
    }
}

impl Folder {
    pub(super) fn new(path: PathBuf, node_name: Arc<str>) -> Folder {
        Folder {
            path,
            decoder: Decoder::new(node_name),
            files: BTreeMap::new(),
            told: Told::default(),
            writing: BTreeSet::new(),
            notices: Vec::new(),
            stale: true,
        }
    }

    /// Files that were passed over because they are being written to.
    pub(super) fn writing(&self) -> &BTreeSet<OsString> {
        &self.writing
    }

    /// Reads what changed, and says what is different from what was said before.
    pub(super) fn refresh(&mut self, heard: &Heard) -> Vec<Event> {
        self.writing.clear();
        let before = std::mem::take(&mut self.notices);
        match self.names() {
            Ok(names) => self.read_files(names, heard),
            // No folder, no files: what is said depends only on what is there.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.stale |= !self.files.is_empty();
                self.files.clear();
                self.complain("the folder is gone; so are its objects");
            }
            Err(error) => self.complain(&format!("cannot be read: {error}; nothing is changed")),
        }
        if !self.stale && before == self.notices {
            return Vec::new();
        }
        self.stale = false;
        let objects = self.files.iter().map(|(name, file)| (name.as_os_str(), &file.objects[..]));
        let now = merge(objects, self.text_notices());
        self.told.differences(now)
    }

    fn complain(&mut self, message: &str) {
        self.notices.push(text_notice(&self.path.to_string_lossy(), (0, 0), message));
    }

    fn text_notices(&self) -> Vec<Notice> {
        let of_files = self.files.values().flat_map(|file| &file.notices);
        self.notices.iter().chain(of_files).cloned().collect()
    }

    fn names(&self) -> std::io::Result<BTreeSet<OsString>> {
        let mut names = BTreeSet::new();
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            if is_manifest(&name) {
                names.insert(name);
            }
        }
        Ok(names)
    }

    fn read_files(&mut self, names: BTreeSet<OsString>, heard: &Heard) {
        self.stale |= self.files.keys().any(|name| !names.contains(name));
        self.files.retain(|name, _| names.contains(name));
        for name in names {
            if heard.writing.contains(&name) {
                self.writing.insert(name);
                continue;
            }
            let before = self.files.remove(&name).unwrap_or_default();
            let touched = heard.everything || heard.changed.contains(&name);
            let was_there = before.stamp.is_some();
            match self.read_file(&name, before, touched) {
                Some(file) => drop(self.files.insert(name, file)),
                None => self.stale |= was_there,
            }
        }
    }

    /// None if it is no file, or is gone again.
    fn read_file(&mut self, name: &OsStr, before: File, touched: bool) -> Option<File> {
        let path = self.path.join(name);
        let metadata = match std::fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => return Some(self.keep(name, before, None, &error.to_string())),
        };
        if !metadata.is_file() {
            return None;
        }
        let stamp = Some(Stamp::of(&metadata));
        if !touched && stamp == before.stamp {
            return Some(before);
        }
        self.stale = true;
        let text = match content(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => return Some(self.keep(name, before, stamp, &error.to_string())),
        };
        let Text { objects, notices, broken } =
            read(&name.to_string_lossy(), &text, &mut self.decoder);
        // The documents that can be read count if there is nothing better.
        let objects = if broken && !before.objects.is_empty() { before.objects } else { objects };
        Some(File { stamp, objects, notices })
    }

    /// The file as it was, with a Notice that it cannot be read now.
    fn keep(&mut self, name: &OsStr, before: File, stamp: Option<Stamp>, why: &str) -> File {
        let message = format!("cannot be read: {why}; what it said before stays");
        let notice = text_notice(&name.to_string_lossy(), (0, 0), &message);
        self.stale = true;
        File { stamp, objects: before.objects, notices: vec![notice] }
    }
}

fn is_manifest(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    !name.starts_with('.') && ["yaml", "yml", "json"].contains(&ending)
}

fn content(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::new(ErrorKind::FileTooLarge, "larger than 256 MiB"));
    }
    Ok(text)
}
