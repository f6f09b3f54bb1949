//! Where one kind's list-and-watch stands, and what to ask the server next: the pure half of
//! `client`.
//!
//! A list is read page by page and followed by a watch from its version; whatever goes wrong, the
//! next request is one that loses nothing. Chance is an argument. It must never know a socket or a
//! clock. Tests: below.

use std::time::Duration;

/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Longest pause between two attempts to reach a server that does not answer: nothing reaches it,
/// so that it costs nothing, and nodes are to be back soon when it is.
const LONGEST_PAUSE_UNREACHABLE: Duration = Duration::from_secs(4);
/// Pause before the first retry, before chance makes it shorter.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// A server's Retry-After is believed up to here.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);
/// So many watches in a row that told nothing, and the list is read anew: a server that was set
/// back to an older state answers no watch from a version it has not reached.
const BARREN_WATCHES: u32 = 4;
/// So many streamed lists in a row that were broken off, and pages are asked for.
const BROKEN_STREAMS: u32 = 2;
/// Objects a page.
const PAGE: u32 = 500;

/// What to ask the server next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// All objects and what happens from then on, in one answer (KEP-3157).
    Stream,
    /// A page of the list: the first one without a token.
    List { token: Option<Box<str>>, limit: Option<u32> },
    /// What happened since this version.
    Watch { version: Box<str> },
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A page was read to its end; there are more if it has a token.
    Page { version: Box<str>, token: Option<Box<str>> },
    /// The server does not stream lists, or does not say where one ends.
    NoStream,
    /// A watch that had told something, or had stood for its time, is over.
    WatchEnded,
    /// A watch told something, but was over at once.
    WatchCut,
    /// A watch was over before it told anything.
    WatchBarren,
    /// The version or token is too old: 410 Gone.
    Expired,
    /// The server answered with an error, perhaps saying how long to wait.
    Refused { code: u16, retry_after: Option<Duration> },
    /// The server does not have this API, or does not let this client read it, and can be done
    /// without: as good as an empty list.
    Absent,
    /// No connection, no answer in time, or one broken off.
    Unreachable,
    /// The answer was no answer of an API server.
    Garbage,
}

/// Where the list-and-watch of one kind stands.
#[derive(Debug)]
pub(crate) struct Position {
    ask: Ask,
    attempts: u32,
    barren: u32,
    /// Lists that expired halfway: the next one is asked for in one piece.
    expired_lists: u32,
    absent_pause: Duration,
    /// Whether the server may be asked to stream a list; not once it refused or could not.
    streams: bool,
    /// Streamed lists in a row that were broken off.
    broken_streams: u32,
}

impl Position {
    /// Before the first list, which is streamed if `streams`. An API that is absent is asked for again
    /// after `absent_pause`.
    pub(crate) fn start(absent_pause: Duration, streams: bool) -> Position {
        let (attempts, barren, expired_lists, broken_streams) = (0, 0, 0, 0);
        let ask = Ask::Stream;
        let mut position = Position {
            ask,
            attempts,
            barren,
            expired_lists,
            absent_pause,
            streams,
            broken_streams,
        };
        position.relist();
        position
    }

    /// A streamed list came to its end, and is a watch from now on.
    pub(crate) fn streamed(&mut self, version: &str) {
        self.broken_streams = 0;
        self.ask = Ask::Watch { version: version.into() };
    }

    pub(crate) fn ask(&self) -> &Ask {
        &self.ask
    }

    /// A watch told of this version: the next one goes on from there, never from further back.
    pub(crate) fn reached(&mut self, version: &str) {
        if version.is_empty() || self.is_ahead_of(version) {
            return;
        }
        if let Ask::Watch { version: known } = &mut self.ask {
            *known = version.into();
        }
    }

    /// Whether a version is older than what was reached already. A server that says so in a
    /// bookmark was set back, from a backup for one, and its watches would tell nothing for long.
    pub(crate) fn is_ahead_of(&self, version: &str) -> bool {
        let Ask::Watch { version: known } = &self.ask else { return false };
        // Versions of one kind are numbers that can be compared (KEP-5504).
        let (known, version) = (known.parse::<u64>(), version.parse::<u64>());
        matches!((known, version), (Ok(known), Ok(version)) if version < known)
    }

    /// Takes in what became of the last request; how long to wait before the next. `chance` is
    /// evenly spread from 0 to 1.
    pub(crate) fn advance(&mut self, outcome: Outcome, chance: f64) -> Duration {
        let listing = matches!(self.ask, Ask::List { .. });
        if self.ask == Ask::Stream && self.is_refused(&outcome) {
            return Duration::ZERO;
        }
        match outcome {
            Outcome::NoStream => self.relist(),
            Outcome::Page { version, token: None } => {
                self.expired_lists = 0;
                self.ask = Ask::Watch { version };
                return Duration::ZERO;
            }
            Outcome::Page { token, .. } => {
                self.ask = Ask::List { token, limit: Some(PAGE) };
                return Duration::ZERO;
            }
            // Only a watch that told something proves that all is well again: a server whose
            // lists work and whose watches do not must not be listed without pause.
            Outcome::WatchEnded => {
                (self.attempts, self.barren) = (0, 0);
                return Duration::ZERO;
            }
            Outcome::Absent => {
                self.relist();
                return self.absent_pause.mul_f64(0.75 + chance / 2.0);
            }
            Outcome::WatchCut => self.barren = 0,
            Outcome::WatchBarren => self.watch_failed(),
            Outcome::Expired => {
                self.expired_lists += u32::from(listing);
                self.relist();
            }
            Outcome::Garbage => self.relist(),
            Outcome::Unreachable => {
                return self
                    .pause(chance)
                    .min(LONGEST_PAUSE_UNREACHABLE.mul_f64(0.5 + chance / 2.0));
            }
            Outcome::Refused { code, retry_after } => {
                return self.refused(code, retry_after, chance);
            }
        }
        self.pause(chance)
    }

    fn refused(&mut self, code: u16, retry_after: Option<Duration>, chance: f64) -> Duration {
        match code {
            429 => {}
            500.. => self.watch_failed(),
            // A token or version the server does not like, or rights that changed.
            _ => self.relist(),
        }
        let asked = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
        // Not all at the same moment: up to a tenth later than asked.
        self.pause(chance).max(asked.mul_f64(1.0 + chance / 10.0))
    }

    /// Whether an answer of this code means that the server does not stream lists.
    pub(crate) fn refuses_stream(code: u16) -> bool {
        matches!(code, 400 | 405 | 406 | 415 | 422 | 501)
    }

    /// Whether a streamed list was refused, or left out its end: then pages are asked for, at once.
    /// One that breaks off may have had an accident, but not twice in a row.
    fn is_refused(&mut self, outcome: &Outcome) -> bool {
        let refused = *outcome == Outcome::NoStream;
        let expected = matches!(outcome, Outcome::Absent | Outcome::Expired);
        self.broken_streams += u32::from(!refused && !expected);
        if refused || self.broken_streams >= BROKEN_STREAMS {
            self.streams = false;
            self.relist();
        }
        refused
    }

    fn relist(&mut self) {
        self.barren = 0;
        if self.streams {
            self.ask = Ask::Stream;
            return;
        }
        let limit = if self.expired_lists < 2 { Some(PAGE) } else { None };
        self.ask = Ask::List { token: None, limit };
    }

    fn watch_failed(&mut self) {
        if matches!(self.ask, Ask::Watch { .. }) {
            self.barren += 1;
            if self.barren >= BARREN_WATCHES {
                self.relist();
            }
        }
    }

    /// Doubles from attempt to attempt; chance takes off up to a half.
    fn pause(&mut self, chance: f64) -> Duration {
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.attempts.min(16));
        self.attempts += 1;
        doubled.min(LONGEST_PAUSE).mul_f64(0.5 + chance / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At a server that refused to stream lists.
    fn start() -> Position {
        let mut position = Position::start(Duration::from_secs(600), true);
        position.advance(Outcome::NoStream, 0.5);
        position
    }

    fn page(token: Option<&str>) -> Outcome {
        Outcome::Page { version: "7".into(), token: token.map(Into::into) }
    }

    fn list(token: Option<&str>) -> Ask {
        Ask::List { token: token.map(Into::into), limit: Some(PAGE) }
    }

    fn watch(version: &str) -> Ask {
        Ask::Watch { version: version.into() }
    }

    fn watching() -> Position {
        let mut position = start();
        position.advance(page(None), 0.5);
        position
    }

    #[test]
    fn a_streamed_list_becomes_a_watch_and_is_asked_for_again() {
        let mut position = Position::start(Duration::from_secs(600), true);
        assert_eq!(*position.ask(), Ask::Stream);
        position.streamed("7");
        assert_eq!(*position.ask(), watch("7"));
        position.advance(Outcome::WatchEnded, 0.5);
        assert_eq!(*position.ask(), watch("7"));
        position.advance(Outcome::Expired, 0.5);
        assert_eq!(*position.ask(), Ask::Stream);
    }

    #[test]
    fn who_cannot_stream_is_asked_for_pages() {
        let refused = |code| Outcome::Refused { code, retry_after: None };
        for (outcomes, gives_up) in [
            (vec![Outcome::NoStream], true),
            (vec![refused(429), refused(429)], true),
            (vec![refused(429)], false),
            (vec![Outcome::Unreachable], false),
            (vec![Outcome::Unreachable, Outcome::Unreachable], true),
            (vec![Outcome::Expired, Outcome::Absent], false),
        ] {
            let mut position = Position::start(Duration::from_secs(600), true);
            for outcome in &outcomes {
                position.advance(outcome.clone(), 0.5);
            }
            let expected = if gives_up { list(None) } else { Ask::Stream };
            assert_eq!(*position.ask(), expected, "{outcomes:?}");
        }
    }

    #[test]
    fn who_is_not_to_stream_never_does() {
        let mut position = Position::start(Duration::from_secs(600), false);
        assert_eq!(*position.ask(), list(None));
        position.advance(page(None), 0.5);
        position.advance(Outcome::Expired, 0.5);
        assert_eq!(*position.ask(), list(None));
    }

    #[test]
    fn pages_then_a_watch() {
        let mut position = start();
        assert_eq!(*position.ask(), list(None));
        assert_eq!(position.advance(page(Some("t")), 0.5), Duration::ZERO);
        assert_eq!(*position.ask(), list(Some("t")));
        assert_eq!(position.advance(page(None), 0.5), Duration::ZERO);
        assert_eq!(*position.ask(), watch("7"));
        position.reached("9");
        position.reached("");
        position.reached("8");
        assert_eq!(position.advance(Outcome::WatchEnded, 0.5), Duration::ZERO);
        assert_eq!(*position.ask(), watch("9"));
    }

    #[test]
    fn a_server_set_back_is_noticed() {
        let mut position = watching();
        position.reached("10");
        assert!(position.is_ahead_of("9") && !position.is_ahead_of("10"));
        assert!(!position.is_ahead_of("x") && !start().is_ahead_of("1"));
    }

    #[test]
    fn a_lost_connection_goes_on_where_it_was() {
        let mut position = watching();
        for _ in 0..20 {
            position.advance(Outcome::Unreachable, 0.5);
            assert_eq!(*position.ask(), watch("7"));
        }
        let mut position = start();
        position.advance(page(Some("t")), 0.5);
        position.advance(Outcome::Unreachable, 0.5);
        assert_eq!(*position.ask(), list(Some("t")));
    }

    #[test]
    fn what_expired_is_listed_anew() {
        let mut position = watching();
        assert!(position.advance(Outcome::Expired, 1.0) <= Duration::from_secs(1));
        assert_eq!(*position.ask(), list(None));
    }

    #[test]
    fn a_list_that_expires_twice_is_asked_for_whole() {
        let mut position = start();
        for _ in 0..2 {
            position.advance(page(Some("t")), 0.5);
            position.advance(Outcome::Expired, 0.5);
        }
        assert_eq!(*position.ask(), Ask::List { token: None, limit: None });
        position.advance(page(None), 0.5);
        position.advance(Outcome::Expired, 0.5);
        assert_eq!(*position.ask(), list(None));
    }

    #[test]
    fn garbage_is_listed_anew() {
        let mut position = watching();
        assert!(position.advance(Outcome::Garbage, 0.5) > Duration::ZERO);
        assert_eq!(*position.ask(), list(None));
    }

    #[test]
    fn barren_watches_are_listed_anew_at_last() {
        for outcome in [Outcome::WatchBarren, Outcome::Refused { code: 504, retry_after: None }] {
            let mut position = watching();
            for _ in 1..BARREN_WATCHES {
                position.advance(outcome.clone(), 0.5);
                assert_eq!(*position.ask(), watch("7"));
            }
            position.advance(outcome, 0.5);
            assert_eq!(*position.ask(), list(None));
        }
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        let mut position = watching();
        let pauses: Vec<_> = (0..60).map(|_| position.advance(Outcome::Unreachable, 1.0)).collect();
        assert!(pauses[0] <= Duration::from_millis(200) && pauses[2] <= Duration::from_secs(1));
        assert!(pauses.is_sorted());
        assert_eq!(pauses[59], LONGEST_PAUSE_UNREACHABLE);
        let half = LONGEST_PAUSE_UNREACHABLE / 2;
        assert!(position.advance(Outcome::Unreachable, 0.0) >= half);
        assert_eq!(position.advance(Outcome::Garbage, 1.0), LONGEST_PAUSE);
        position = watching();
        position.advance(Outcome::WatchEnded, 0.5);
        assert!(position.advance(Outcome::Unreachable, 1.0) <= Duration::from_millis(200));
    }

    #[test]
    fn lists_without_watches_do_not_run_hot() {
        let mut position = start();
        let mut total = Duration::ZERO;
        for _ in 0..40 {
            total += position.advance(page(None), 0.5);
            total += position.advance(Outcome::Refused { code: 403, retry_after: None }, 0.5);
        }
        assert!(total > Duration::from_secs(500), "{total:?}");
    }

    #[test]
    fn watches_that_are_cut_at_once_do_not_run_hot() {
        let mut position = watching();
        let total: Duration = (0..40).map(|_| position.advance(Outcome::WatchCut, 0.5)).sum();
        assert!(total > Duration::from_secs(500), "{total:?}");
        assert_eq!(*position.ask(), watch("7"));
    }

    #[test]
    fn retry_after_is_honoured_within_reason() {
        let throttled = |seconds| {
            let retry_after = Some(Duration::from_secs(seconds));
            let mut position = watching();
            let pause = position.advance(Outcome::Refused { code: 429, retry_after }, 0.0);
            assert_eq!(*position.ask(), watch("7"));
            pause
        };
        assert_eq!(throttled(7), Duration::from_secs(7));
        assert_eq!(throttled(u64::MAX), LONGEST_RETRY_AFTER);
    }

    #[test]
    fn an_absent_api_is_asked_for_rarely() {
        let mut position = start();
        assert!(position.advance(Outcome::Absent, 0.0) >= Duration::from_secs(450));
        assert_eq!(*position.ask(), list(None));
    }
}
