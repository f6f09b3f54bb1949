//! The form of the code, held by a test: which room may know which, what the pure rooms may not do,
//! headers, sizes, nothing unfinished. It reads the sources as text and must never need a build of
//! them. Every exception stands in a list with its reason.
//! Tests: it is all test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The most lines a file has, its tests not counted.
const LONGEST_FILE: usize = 500;
/// The most lines a file's header has.
const LONGEST_HEADER: usize = 8;

/// What may stand at the top level, beside files whose names begin with a dot.
const TOP_LEVEL: [&str; 14] = [
    "Cargo.toml",
    "Cargo.lock",
    "LICENSE",
    "README.md",
    "src",
    "sim",
    "netlab",
    "benches",
    "proptests",
    "deploy",
    "examples",
    "docs",
    "fuzz",
    "target",
];

/// A room of `src` and the rooms it may name. The most particular path counts.
const ROOMS: &[(&str, &[&str])] = &[
    ("src/lib.rs", &[]),
    ("src/model", &[]),
    ("src/track", &["model"]),
    ("src/topology", &["model", "track", "kernel"]),
    ("src/netlink", &["model", "kernel"]),
    ("src/backend", &["model", "track", "topology", "kernel", "netlink"]),
    ("src/kernel", &["model"]),
    ("src/kernel/real", &["model", "netlink", "relay"]),
    ("src/relay", &[]),
    // It speaks IPVS by the bytes that Linux takes.
    ("src/kernel/simulated", &["model", "netlink", "relay"]),
    ("src/sync", &["model", "track", "topology", "kernel", "backend"]),
    ("src/api", &["model"]),
    ("src/config", &["model", "sync"]),
    // Pods' names and events are values of the model; a dump has the proxy's own options in it.
    ("src/trace", &["model", "track", "kernel", "netlink", "sync"]),
    // What judges rules may not know them: neither backend nor netlink.
    ("src/promise", &["model", "track", "topology", "kernel"]),
    ("src/check", &["model", "track", "topology", "kernel", "netlink", "promise", "sync", "trace"]),
    // What is about to be written is judged as what is there.
    ("src/verify", &["model", "track", "kernel", "promise", "sync", "trace", "check"]),
    // A dump is of all rooms that a packet path comes from.
    ("src/anonymise", &["model", "track", "kernel", "netlink", "backend", "trace"]),
    ("src/record", &["model", "kernel", "sync", "trace"]),
    ("src/commands", COMMANDS),
    ("src/cli", &["model", "config"]),
    ("src/logging", &["config"]),
    ("src/sync/cleanup.rs", &["model", "kernel", "backend", "netlink"]),
    ("src/daemon", EVERY),
    ("src/main.rs", &[]),
    ("src/serve", &["model", "track", "topology"]),
];

/// The one room that wires all others together.
const EVERY: &[&str] = &[
    "model", "track", "topology", "kernel", "sync", "api", "config", "cli", "commands", "logging",
    "serve", "relay", "trace", "verify", "record",
];

/// The room that wires questions, as `daemon` wires the proxy.
const COMMANDS: &[&str] = &[
    "model",
    "track",
    "kernel",
    "sync",
    "api",
    "config",
    "cli",
    "trace",
    "check",
    "promise",
    "record",
    "anonymise",
];

/// Rooms without a clock, a socket, a file, a thread or chance: the same answer for the same
/// question, always.
const PURE: &[&str] = &[
    "src/model",
    "src/track",
    "src/topology",
    "src/backend",
    "src/netlink",
    "src/trace",
    "src/promise",
    "src/check",
    "src/kernel/survey.rs",
    "src/sync/mod.rs",
    "src/sync/driver.rs",
    "src/sync/family.rs",
    "src/sync/ipvs.rs",
    "src/sync/nftables.rs",
    "src/sync/iptables.rs",
    "src/sync/iptables_netlink.rs",
    "src/sync/conntrack.rs",
    "src/sync/schedule.rs",
];

/// Words a place must not have in its code, with the reason. Tests may have them.
const BANS: &[(&[&str], &[&str], &str)] = &[
    (PURE, &["Instant::now", "SystemTime"], "times are arguments there"),
    (PURE, &["env::", "fs::", "tokio::", "nix::"], "the world is for main and the hearts"),
    (PURE, &["UdpSocket", "TcpStream", "TcpListener"], "packets are for the kernel"),
    (PURE, &["thread::", "Mutex", "RwLock"], "values only; who shares them locks them"),
    (PURE, &["HashMap", "HashSet", "rand::"], "their order is chance: use ordered maps"),
    (PURE, &["println!", "eprintln!", "tracing::"], "what happens is told by values"),
    (
        &["src"],
        &["process::Command", "process::{Command"],
        "no foreign process: the kernel is spoken to over netlink",
    ),
    (&["src"], &["println!(", "eprintln!("], "words to a person are main's; else log"),
    (
        &["src", "sim", "netlab", "proptests", "benches"],
        &["unsafe "],
        "there is none; if there must be, in src/kernel/real and with its reason",
    ),
    (&["src"], &["panic!("], "no input may end the process; `expect` says why it cannot be"),
    (&["src"], &["sim::"], "the simulator is behind the seam"),
    (&["src"], &["kube::", "k8s_openapi::"], "the API server's words stay in api"),
    (&["sim"], &["kube_proxy", "kubernetes"], "the simulator knows nothing of ours"),
    (&["netlab"], &["kube_proxy::"], "the lab judges from outside"),
    (
        &["proptests/src/oracle.rs", "proptests/src/fate.rs"],
        &["::backend", "::netlink", "::sync", "::topology", "::track", "::kernel"],
        "an oracle that looks where the proxy looks proves nothing",
    ),
];

/// Places that may have a word banned above, with the reason.
const MAY: &[(&str, &str, &str)] = &[
    ("src/sync/conntrack.rs", "HashMap", "looked up for every flow, never walked"),
    ("src/sync/conntrack.rs", "HashSet", "looked up for every flow, never walked"),
    ("src/sync/family.rs", "tracing::", "what somebody removed is worth a line, where seen"),
    (
        "src/kernel/real/lookout_legacy.rs",
        "unsafe ",
        "no crate has this socket option, the only cheap look at the legacy flavour's tables",
    ),
    ("src/kernel/simulated", "sim::", "it is the seam's side towards the simulator"),
    (
        "src/sync/iptables_netlink.rs",
        "tracing::",
        "that somebody came in between, or took a rule away, is worth a line",
    ),
    (
        "src/sync/iptables.rs",
        "tracing::",
        "a kernel that cannot count is worth a line, where it is found out",
    ),
    (
        "src/kernel/real/xtables.rs",
        "process::{Command",
        "only iptables' own tools write what every other program on the node understands",
    ),
    ("src/trace", "sim::", "it sends packets through the simulator"),
    ("src/check", "sim::", "it looks into the simulated state"),
    (
        "src/kernel/real/survey/tools.rs",
        "process::Command",
        "rules of iptables-legacy and ipsets are printed by their own tools only",
    ),
    ("src/daemon", "sim::", "`--kernel simulated` wants a host to begin with"),
    ("netlab/src/simulated.rs", "kube_proxy::", "the proxy itself, where no process can be asked"),
    ("src/api", "kube::", "it is the API server's room"),
    ("src/daemon", "println!(", "--help and --version are for a person"),
    ("src/main.rs", "eprintln!(", "the one line that a process ends with"),
];

/// Files whose header or length is beyond the limits, with the reason.
const LONG_HEADERS: &[(&str, &str)] = &[
    ("src/lib.rs", "the map of all rooms"),
    ("src/config/mod.rs", "the map of the room"),
    ("src/record/mod.rs", "the map of the room"),
    ("src/trace/mod.rs", "the map of the room"),
    ("sim/src/path.rs", "the netfilter diagram"),
    ("netlab/src/probe.rs", "the grammar of the probe language"),
    ("sim/src/lib.rs", "an example that runs as a test, and the map"),
];
const LONG_FILES: &[(&str, usize, &str)] = &[
    ("src/backend/nftables/plan.rs", 600, "one walk from what is to what is wanted"),
    ("src/backend/iptables/plan.rs", 520, "one walk from what is to what is wanted"),
    ("sim/src/nft/sets.rs", 520, "every message about sets, one function each"),
];

/// A source file.
struct Source {
    /// Path from the workspace's root.
    path: String,
    /// All of it.
    text: String,
    /// Lines without comments and test modules, numbered from 1. None for a file of tests.
    code: Vec<(usize, String)>,
    /// Lines without test modules.
    length: usize,
}

#[test]
fn the_top_level_is_what_was_asked_for() {
    let names = fs::read_dir(root()).expect("the root can be read").flatten();
    let extra: Vec<String> = names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(&name.as_str()))
        .collect();
    assert!(extra.is_empty(), "not at the top level, please: {extra:?}");
}

#[test]
fn rooms_know_only_the_rooms_they_may() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| s.path.starts_with("src/")) {
        let Some((room, may)) = room_of(&source.path) else {
            wrong.push(format!("{}: of no room: add it to ROOMS", source.path));
            continue;
        };
        let own = room.trim_start_matches("src/").split(['/', '.']).next().unwrap_or_default();
        for (line, code) in &source.code {
            for named in rooms_named(code) {
                if named != own && !may.contains(&named.as_str()) && is_room(&named) {
                    wrong.push(format!("{}:{line}: {room} must not know {named}", source.path));
                }
            }
            if leaves_by_super(&source.path, code) {
                wrong.push(format!("{}:{line}: say crate:: for another room", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn modes_do_not_know_each_other() {
    let modes = ["nftables", "iptables", "ipvs", "userspace"];
    let mut wrong = Vec::new();
    for source in sources() {
        let Some(rest) = source.path.strip_prefix("src/backend/") else { continue };
        let own = rest.split(['/', '.']).next().unwrap_or_default();
        for mode in modes.iter().filter(|mode| **mode != own && modes.contains(&own)) {
            let path = format!("backend::{mode}");
            wrong.extend(lines_with(&source, &path).map(|at| format!("{at}: names {mode}")));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn banned_words_stay_out() {
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for source in sources() {
        for (places, words, why) in BANS {
            if !places.iter().any(|place| is_in(&source.path, place)) {
                continue;
            }
            for word in *words {
                if let Some(exception) = exception(&source.path, word) {
                    used.extend(lines_with(&source, word).next().map(|_| exception));
                    continue;
                }
                wrong.extend(lines_with(&source, word).map(|at| format!("{at}: `{word}`: {why}")));
            }
        }
    }
    let idle = (0..MAY.len()).filter(|i| !used.contains(i) && exists(MAY[*i].0)).map(|i| MAY[i]);
    wrong.extend(idle.map(|(path, word, _)| format!("{path}: has no `{word}`: not in MAY, then")));
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn nothing_is_unfinished_or_switched_off() {
    // Put together here, so that this file does not have them.
    let words = ["todo", "unimplemented", "dbg"].map(|word| format!("{word}!("));
    let ignore = ["#[", "ignore"].concat();
    let mut wrong = Vec::new();
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            if words.iter().chain([&ignore]).any(|word| line.contains(word.as_str())) {
                wrong.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn files_say_what_they_are_and_are_short() {
    let mut wrong = Vec::new();
    for source in sources() {
        let header = source.text.lines().take_while(|line| line.starts_with("//!")).count();
        let long = LONG_HEADERS.iter().any(|(path, _)| *path == source.path);
        if header == 0 {
            wrong.push(format!("{}: begins without `//!`: what is it?", source.path));
        } else if (header > LONGEST_HEADER) != long {
            wrong.push(format!("{}: a header of {header} lines", source.path));
        }
        let limit = LONG_FILES.iter().find(|(path, ..)| *path == source.path);
        if source.length > limit.map_or(LONGEST_FILE, |(_, most, _)| *most) {
            wrong.push(format!("{}: {} lines without tests", source.path, source.length));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn the_simulator_depends_on_nothing_of_ours() {
    let manifest = fs::read_to_string(root().join("sim/Cargo.toml")).expect("sim has a manifest");
    assert!(!manifest.contains("kube"), "sim/Cargo.toml names something of ours:\n{manifest}");
}

#[test]
fn the_readme_names_places_that_exist() {
    let readme = fs::read_to_string(root().join("README.md")).expect("there is a README");
    let inside = readme.split('`').skip(1).step_by(2);
    let rooms = ["src/", "sim/", "netlab/", "benches/", "proptests/", "examples/", "deploy/"];
    let named = inside.filter(|text| rooms.iter().any(|room| text.starts_with(room)));
    let plain = named.filter(|text| !text.contains([' ', '*', '<', '{', '…']));
    let absent: Vec<&str> = plain.filter(|path| !exists(path)).collect();
    assert!(absent.is_empty(), "the README names what is not there: {absent:?}");
}

fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().expect("the package is a folder of the workspace")
}

fn exists(path: &str) -> bool {
    root().join(path).exists()
}

fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    for place in ["src", "sim", "netlab", "proptests", "benches"] {
        collect(&root().join(place), &mut files);
    }
    files.sort();
    assert!(files.len() > 100, "only {} sources found: is this the workspace?", files.len());
    files.iter().map(|file| read(file)).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

fn read(file: &Path) -> Source {
    let path = file.strip_prefix(root()).expect("files are collected below the root");
    let path = path.to_string_lossy().into_owned();
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{path}: {e}"));
    let kept = without_tests(&text);
    let is_test = path.ends_with("tests.rs") || path.contains("/tests/");
    let code = kept.iter().filter(|_| !is_test).map(|(n, line)| (*n, without_comment(line)));
    let code = code.filter(|(_, line)| !line.trim().is_empty()).collect();
    let length = if is_test { 0 } else { kept.len() };
    Source { path, code, length, text }
}

/// The lines, numbered from 1, that are in no `#[cfg(test)] mod … { }`.
fn without_tests(text: &str) -> Vec<(usize, &str)> {
    let mut kept = Vec::new();
    let mut lines = (1..).zip(text.lines()).peekable();
    while let Some((number, line)) = lines.next() {
        if line != "#[cfg(test)]" {
            kept.push((number, line));
            continue;
        }
        while lines.next_if(|(_, line)| line.starts_with("#[")).is_some() {}
        let opens = lines.next().is_some_and(|(_, line)| line.ends_with('{'));
        if opens {
            let _ = lines.by_ref().find(|(_, line)| *line == "}");
        }
    }
    kept
}

fn without_comment(line: &str) -> String {
    let code = if line.trim_start().starts_with("//") { "" } else { line };
    code.split(" // ").next().unwrap_or_default().to_owned()
}

/// The room a file of `src` is of, with the rooms it may name.
fn room_of(path: &str) -> Option<(&'static str, &'static [&'static str])> {
    let mine = ROOMS.iter().filter(|(room, _)| is_in(path, room));
    mine.max_by_key(|(room, _)| room.len()).copied()
}

fn is_room(name: &str) -> bool {
    let room = format!("src/{name}");
    exists(&room) || exists(&format!("{room}.rs"))
}

fn is_in(path: &str, place: &str) -> bool {
    let rest = path.strip_prefix(place);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || rest == ".rs")
}

/// What follows `crate::` on a line, also in braces.
fn rooms_named(code: &str) -> Vec<String> {
    let mut named = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let list = rest.strip_prefix('{').map_or(rest, |rest| rest.split('}').next().unwrap_or(""));
        let parts = if rest.starts_with('{') { list.split(',').collect() } else { vec![list] };
        named.extend(parts.iter().map(|part| {
            let name = part.trim_start();
            name.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>()
        }));
    }
    named
}

/// Whether a chain of `super::` comes out at the crate's root, where imports would go unseen.
fn leaves_by_super(path: &str, code: &str) -> bool {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    let depth = inner.split('/').count();
    code.contains(&"super::".repeat(depth)) && path != "src/lib.rs"
}

/// The exception for a word in a file, as its place in the list.
fn exception(path: &str, word: &str) -> Option<usize> {
    MAY.iter().position(|(place, banned, _)| is_in(path, place) && *banned == word)
}

/// `path:line` of each line of code with a word that begins there.
fn lines_with<'a>(source: &'a Source, word: &'a str) -> impl Iterator<Item = String> + 'a {
    let has = move |code: &str| {
        code.match_indices(word).any(|(at, _)| {
            let before = code[..at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_') && !quoted(&code[..at])
        })
    };
    let hits = source.code.iter().filter(move |(_, code)| has(code));
    hits.map(|(line, _)| format!("{}:{line}", source.path))
}

/// Whether what follows stands in a string, as far as one line can tell.
fn quoted(before: &str) -> bool {
    before.matches('"').count() % 2 == 1
}
