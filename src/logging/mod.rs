//! What is logged, and its set-up: klog's lines or JSON on standard error, with klog's levels laid
//! over tracing's, changeable while the process runs.
//! It knows no other room but `config::Logging`. A secret never gets through: see `line`. Times are
//! UTC. Tests: below, and in `line`.

mod levels;
mod line;

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tracing::subscriber::{Interest, Subscriber};
use tracing::{Event, Metadata};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;

use crate::config::{LogFormat, Logging};
use levels::Levels;
use line::Line;

/// Changes what is logged while the process runs.
#[derive(Clone, Debug)]
pub struct Handle {
    levels: Arc<Levels>,
}

impl Handle {
    /// klog's level that holds now.
    pub fn verbosity(&self) -> u32 {
        self.levels.verbosity()
    }

    /// Sets klog's level, as `-v` does: 0 to 2 info, 3 to 5 debug, 6 and more trace. Warnings and
    /// errors are always logged.
    pub fn set_verbosity(&self, verbosity: u32) {
        self.levels.set_verbosity(verbosity);
        tracing::callsite::rebuild_interest_cache();
    }
}

/// Logging was set up before in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlreadyStarted;

impl fmt::Display for AlreadyStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("logging was set up before in this process")
    }
}

impl std::error::Error for AlreadyStarted {}

/// Sets logging up for the whole process, to standard error.
pub fn start(logging: &Logging) -> Result<Handle, AlreadyStarted> {
    let (layer, handle) = to(logging, Box::new(io::stderr()));
    let subscriber = Registry::default().with(layer);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| AlreadyStarted)?;
    Ok(handle)
}

/// The same for part of a process: a layer that writes to `out`, a line a write, and its handle.
pub fn to(logging: &Logging, out: Box<dyn Write + Send>) -> (Lines, Handle) {
    let levels = Arc::new(Levels::new(logging.verbosity, &logging.vmodule));
    let handle = Handle { levels: levels.clone() };
    (Lines { levels, format: logging.format, out: Mutex::new(out) }, handle)
}

/// Writes events as lines.
pub struct Lines {
    levels: Arc<Levels>,
    format: LogFormat,
    out: Mutex<Box<dyn Write + Send>>,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("levels", &self.levels).finish_non_exhaustive()
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.levels.allow(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.levels.allow(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.levels.most())
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::new(event.metadata(), SystemTime::now());
        event.record(&mut line);
        let text = match self.format {
            LogFormat::Text => line.text(std::process::id()),
            LogFormat::Json => line.json(),
        };
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        // There is nowhere to tell that a log line can't be written.
        let _ = out.write_all(text.as_bytes());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Keeps what is written.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Kept {
        /// What was written since the last call.
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
        }
    }

    fn log_all() {
        tracing::error!("an error");
        tracing::warn!("a warning");
        tracing::info!("an info");
        tracing::debug!("a debug");
        tracing::trace!("a trace");
    }

    fn with(logging: Logging, act: impl FnOnce(&Kept, &Handle)) {
        let kept = Kept::default();
        let (layer, handle) = to(&logging, Box::new(kept.clone()));
        tracing::subscriber::with_default(Registry::default().with(layer), || act(&kept, &handle));
    }

    #[test]
    fn the_level_can_be_changed_meanwhile() {
        let logging = Logging { format: LogFormat::Text, verbosity: 0, vmodule: vec![] };
        with(logging, |kept, handle| {
            for (verbosity, lines) in [(0, 3), (2, 3), (3, 4), (5, 4), (6, 5), (10, 5), (0, 3)] {
                handle.set_verbosity(verbosity);
                assert_eq!(handle.verbosity(), verbosity);
                log_all();
                assert_eq!(kept.take().lines().count(), lines, "-v={verbosity}");
            }
        });
    }

    #[test]
    fn a_file_can_have_a_level_of_its_own() {
        // This file is logging/mod.rs, which goes by its folder's name.
        for (pattern, lines) in
            [("logging", 5), ("log*", 5), ("l?gging", 5), ("sync", 3), ("mod", 3)]
        {
            let vmodule = vec![(pattern.to_owned(), 6)];
            with(Logging { format: LogFormat::Text, verbosity: 0, vmodule }, |kept, _| {
                log_all();
                assert_eq!(kept.take().lines().count(), lines, "{pattern}");
            });
        }
    }

    #[test]
    fn lines_are_as_klog_writes_them() {
        with(Logging { format: LogFormat::Text, verbosity: 0, vmodule: vec![] }, |kept, _| {
            tracing::info!(services = 3, name = "a/b", took = ?std::time::Duration::from_millis(5), note = "two words", "Synced");
            let line = kept.take();
            let (head, rest) = line.split_once("] ").unwrap();
            assert_eq!(rest, "Synced services=3 name=a/b took=5ms note=\"two words\"\n");
            assert!(head.starts_with('I') && head.contains(" mod.rs:"), "{head}");
            tracing::warn!("w");
            assert!(kept.take().starts_with('W'));
        });
    }

    #[test]
    fn json_lines_are_json() {
        with(Logging { format: LogFormat::Json, verbosity: 4, vmodule: vec![] }, |kept, _| {
            tracing::debug!(services = 3, msg = "x", token = "abc", "two\nlines");
            let line = kept.take();
            assert_eq!(line.lines().count(), 1);
            let json: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(json["msg"], "two\nlines");
            assert_eq!((&json["services"], &json["v"]), (&3.into(), &4.into()));
            assert_eq!((&json["field.msg"], &json["token"]), (&"x".into(), &"<redacted>".into()));
            assert!(
                json["ts"].is_number()
                    && json["caller"].as_str().unwrap().starts_with("logging/mod.rs:")
            );
            tracing::error!(error = "broken", "failed");
            let json: serde_json::Value = serde_json::from_str(&kept.take()).unwrap();
            assert_eq!((&json["err"], json.get("v")), (&"broken".into(), None));
        });
    }
}
