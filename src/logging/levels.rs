//! klog's levels over tracing's: which event is logged at which `-v` and `--vmodule`.
//! Other crates' events need more of a `-v` than ours, and those of crates that see requests'
//! headers are never logged in detail. Tests: below, and in `logging`.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use tracing::Metadata;
use tracing_subscriber::filter::LevelFilter;

/// What is logged.
#[derive(Debug)]
pub(super) struct Levels {
    verbosity: AtomicU32,
    vmodule: Vec<(String, u32)>,
}

/// Crates of this house, by their modules' first name.
const OURS: [&str; 3] = ["kube_proxy", "netlab", "sim"];
/// Crates through which credentials pass.
const WITH_HEADERS: [&str; 6] = ["h2", "http", "hyper", "hyper_util", "rustls", "tower_http"];

impl Levels {
    pub(super) fn new(verbosity: u32, vmodule: &[(String, u32)]) -> Levels {
        Levels { verbosity: AtomicU32::new(verbosity), vmodule: vmodule.to_vec() }
    }

    pub(super) fn verbosity(&self) -> u32 {
        self.verbosity.load(Ordering::Relaxed)
    }

    pub(super) fn set_verbosity(&self, verbosity: u32) {
        self.verbosity.store(verbosity, Ordering::Relaxed);
    }

    /// Whether an event is logged.
    pub(super) fn allow(&self, metadata: &Metadata<'_>) -> bool {
        let root = metadata.target().split("::").next().unwrap_or_default();
        let most = if OURS.contains(&root) {
            ours(self.verbosity_of(metadata.file().unwrap_or_default()))
        } else {
            foreign(root, self.verbosity())
        };
        *metadata.level() <= most
    }

    /// The most that any event may be logged at.
    pub(super) fn most(&self) -> LevelFilter {
        let most = self.vmodule.iter().map(|(_, verbosity)| *verbosity).max().unwrap_or(0);
        ours(most.max(self.verbosity()))
    }

    /// The level for a file: the first pattern that matches may raise it, as in klog.
    fn verbosity_of(&self, file: &str) -> u32 {
        let name = name_of(file);
        let own =
            self.vmodule.iter().find(|(pattern, _)| matches(pattern.as_bytes(), name.as_bytes()));
        own.map_or(0, |(_, verbosity)| *verbosity).max(self.verbosity())
    }
}

fn ours(verbosity: u32) -> LevelFilter {
    match verbosity {
        0..=2 => LevelFilter::INFO,
        3..=5 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    }
}

fn foreign(root: &str, verbosity: u32) -> LevelFilter {
    match verbosity {
        // It logs every failed request as an error; `api::client` says each trouble once.
        0..=5 if root == "kube_client" => LevelFilter::OFF,
        0..=3 => LevelFilter::WARN,
        _ if WITH_HEADERS.contains(&root) => LevelFilter::INFO,
        4..=5 => LevelFilter::INFO,
        6..=8 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    }
}

/// A source file's name without `.rs`; a `mod.rs` goes by its folder's.
fn name_of(file: &str) -> &str {
    let path = Path::new(file);
    let named = if path.ends_with("mod.rs") { path.parent().unwrap_or(path) } else { path };
    named.file_stem().and_then(|name| name.to_str()).unwrap_or_default()
}

/// Whether a name is as a pattern says, where `*` is any letters and `?` is one.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    // Where to go on if the rest fails: after the last star, with one letter more given to it.
    let mut retry: Option<(usize, usize)> = None;
    let (mut p, mut n) = (0, 0);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, n + 1));
                p += 1;
            }
            Some(letter) if *letter == b'?' || *letter == name[n] => (p, n) = (p + 1, n + 1),
            _ => match retry {
                Some((after, next)) => {
                    retry = Some((after, next + 1));
                    (p, n) = (after, next);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|letter| *letter == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names() {
        for (pattern, name, whether) in [
            ("sync", "sync", true),
            ("sync", "synchronous", false),
            ("s*c", "sync", true),
            ("s*c", "syncs", false),
            ("*", "", true),
            ("?", "", false),
            ("a*b*c", "aXbXbYc", true),
            ("a*b*c", "aXcYb", false),
            ("**x", "yx", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), whether, "{pattern} {name}");
        }
        let hostile = "*a".repeat(1000);
        assert!(!matches(hostile.as_bytes(), "a".repeat(500).as_bytes()));
    }

    #[test]
    fn files_go_by_their_names() {
        assert_eq!(name_of("src/sync/schedule.rs"), "schedule");
        assert_eq!(name_of("src/sync/mod.rs"), "sync");
        assert_eq!(name_of(""), "");
    }

    #[test]
    fn crates_that_see_headers_are_never_logged_in_detail() {
        for root in WITH_HEADERS {
            assert_eq!(foreign(root, 100), LevelFilter::INFO);
        }
        assert_eq!(foreign("kube_client", 0), LevelFilter::OFF);
        assert_eq!(foreign("tokio", 0), LevelFilter::WARN);
        assert_eq!(foreign("kube_client", 6), LevelFilter::DEBUG);
    }
}
