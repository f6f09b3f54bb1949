//! A line for a person who waits longer than a second; nothing where nobody looks.
//! Tests: none; it decides nothing.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// What is done in less needs no words.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the line changes at most.
const PAUSE: Duration = Duration::from_millis(100);

/// The line.
pub(super) struct Progress {
    began: Instant,
    told: Option<Instant>,
    terminal: bool,
}

impl Progress {
    pub(super) fn start() -> Progress {
        Progress { began: Instant::now(), told: None, terminal: std::io::stderr().is_terminal() }
    }

    /// One that says nothing: somebody else does.
    pub(super) fn silent() -> Progress {
        Progress { terminal: false, ..Progress::start() }
    }

    /// Says what is done next.
    pub(super) fn tell(&mut self, what: &str) {
        let due = self.told.is_none_or(|told| told.elapsed() > PAUSE);
        if self.terminal && due && self.began.elapsed() > PATIENCE {
            self.told = Some(Instant::now());
            let seconds = self.began.elapsed().as_secs();
            let _ = write!(std::io::stderr(), "\r\u{1b}[K{seconds} s: {what}");
        }
    }

    /// How far something has come that is counted.
    pub(super) fn count(&mut self, what: &str, (done, all): (usize, usize)) {
        let filled = (done * 20).checked_div(all).unwrap_or(20);
        self.tell(&format!(
            "[{}{}] {done} of {all} {what}",
            "#".repeat(filled),
            "-".repeat(20 - filled)
        ));
    }

    /// Takes the line away.
    pub(super) fn end(&mut self) {
        if self.told.is_some() {
            let _ = write!(std::io::stderr(), "\r\u{1b}[K");
        }
    }
}
