//! Two files that take turns: the one that is written, and with `.old` behind its name the one
//! before. Together they never have more bytes than was said, but for what a file begins with.
//! An error is said once and ends the record, never the proxy. Tests: `super::tests`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::Line;

/// The ring.
#[derive(Debug)]
pub struct Ring {
    path: PathBuf,
    /// Bytes of one file.
    most: u64,
    written: u64,
    /// Whether something is being done, so that it matters what the kernel answers.
    pub(super) acting: bool,
    file: Option<BufWriter<File>>,
}

impl Ring {
    /// In a file that can be written, with so many bytes in all.
    pub fn open(path: &Path, bytes: u64) -> Result<Ring, String> {
        let file = File::options().create(true).append(true).open(path);
        file.map_err(|e| format!("{}: {e}; name a file that can be written", path.display()))?;
        Ok(Ring { path: path.to_owned(), most: bytes / 2, written: 0, acting: false, file: None })
    }

    /// Whether a new file is to begin.
    pub fn is_full(&self) -> bool {
        self.file.is_some() && self.written >= self.most
    }

    /// Begins a file with this line; the one before is kept.
    pub fn begin(&mut self, head: &Line) {
        self.flush();
        self.file = None;
        self.written = 0;
        let old = self.path.with_added_extension("old");
        let has_something = std::fs::metadata(&self.path).is_ok_and(|file| file.len() > 0);
        let moved = if has_something { std::fs::rename(&self.path, old) } else { Ok(()) };
        match moved.and_then(|()| File::create(&self.path)) {
            Ok(file) => self.file = Some(BufWriter::new(file)),
            Err(error) => self.end(&error),
        }
        self.put(head);
    }

    /// Adds a line.
    pub fn put(&mut self, line: &Line) {
        let Some(file) = &mut self.file else { return };
        let mut text = serde_json::to_vec(line).expect("every line has a form in JSON");
        text.push(b'\n');
        self.written += text.len() as u64;
        if let Err(error) = file.write_all(&text) {
            self.end(&error);
        }
    }

    /// Gives everything to the kernel, so that a crash of this process loses nothing of it.
    pub fn flush(&mut self) {
        if let Some(Err(error)) = self.file.as_mut().map(BufWriter::flush) {
            self.end(&error);
        }
    }

    fn end(&mut self, error: &std::io::Error) {
        tracing::warn!(%error, "--record {}: nothing more is recorded", self.path.display());
        self.file = None;
    }
}
