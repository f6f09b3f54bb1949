//! Histories written down and played again.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::replay::{Ended, play, read};
use super::*;
use crate::kernel::fault::{Fate, Fault};
use crate::kernel::simulated::Simulated;
use crate::kernel::{ErrorKind, XtablesFlavour};
use crate::model::{LocalDetector, Mode, NamespacedName};
use crate::sync::Proxy;
use crate::sync::tests::{feed, options, proxy_with, service, simulated, slice};

const ALL: [Mode; 4] = [Mode::Nftables, Mode::Iptables, Mode::Ipvs, Mode::Userspace];

/// A folder of its own, gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("record-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.join("record")
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.file()).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn of_mode(mode: Mode) -> Options {
    let detector = LocalDetector::Cidrs(vec!["10.1.0.0/16".parse().unwrap()]);
    Options { mode, detector, ..options() }
}

fn shared(folder: &Folder, bytes: u64) -> Shared {
    Shared::new(Ring::open(&folder.file(), bytes).unwrap())
}

fn recorder(ring: &Shared, kernel: &Simulated) -> Box<Recorder> {
    let clock = Box::new(|| 1_700_000_000_000);
    let of = ("node-1".to_owned(), "6.18".to_owned());
    Box::new(Recorder::new(ring.clone(), clock, of, &mut kernel.clone()))
}

/// A proxy that lives through something, with a kernel that fails once.
fn lives(mode: Mode, folder: &Folder, bytes: u64, kernel: &Simulated) {
    let ring = shared(folder, bytes);
    let mut faulty = Fault::new(kernel.clone());
    let fine = std::iter::repeat_n(Fate::Pass, if mode == Mode::Nftables { 3 } else { 12 });
    faulty.schedule(fine.chain([Fate::Refuse(ErrorKind::Busy)]));
    let heart = Box::new(Listener::new(faulty, ring.clone()));
    let mut proxy = proxy_with(of_mode(mode), heart, &service("web", "10.96.0.1", ""))
        .recorded_by(recorder(&ring, kernel));
    feed(&mut proxy, &slice("web", "TCP", &["10.1.0.1", "10.1.0.2"]));
    let _ = proxy.sync();
    for number in 3..12 {
        let name = format!("s{number}");
        feed(&mut proxy, &service(&name, &format!("10.96.0.{number}"), ""));
        feed(&mut proxy, &slice("web", "TCP", &["10.1.0.1", &format!("10.1.0.{number}")]));
        let _ = proxy.sync();
        let _ = proxy.tidy();
        if number == 6 {
            proxy.set_options(Options { masquerade_all: true, ..of_mode(mode) });
        }
    }
    proxy.feed(Event::ServiceGone(NamespacedName::new("ns", "s4")));
    let _ = proxy.sync();
    proxy.sync().unwrap();
}

fn played(text: &str, until: Option<usize>) -> Ended {
    play(&read(text).unwrap(), until, &mut |_, _| {}).unwrap()
}

/// What becomes of packets, on a host.
fn fates(host: &mut sim::Host) -> Vec<String> {
    let mut fates = Vec::new();
    for (to, from) in (1..13).flat_map(|to| [(to, "10.1.9.9:4000"), (to, "10.2.9.9:4000")]) {
        let from: SocketAddr = from.parse().unwrap();
        let to: SocketAddr = format!("10.96.0.{to}:80").parse().unwrap();
        let packet = sim::Packet::tcp(from, to).arriving(2);
        for (probability, outcome) in &host.outcomes(&packet) {
            let masquerade = outcome.snat.is_some();
            fates.push(format!("{from} {to} {probability} {:?} {masquerade}", outcome.dnat));
        }
    }
    fates
}

#[test]
fn a_history_ends_where_it_ended_with_the_same_bytes_on_the_way() {
    for mode in ALL {
        let folder = Folder::new(mode.as_str());
        let kernel = simulated();
        lives(mode, &folder, 1 << 30, &kernel);
        let mut ended = played(&folder.text(), None);
        let differs = |act: &&replay::Played| !act.differences.is_empty();
        let differences: Vec<_> = ended.acts.iter().filter(differs).collect();
        assert!(differences.is_empty(), "{mode:?}: {differences:#?}");
        assert!(ended.acts.len() > 15 && ended.acts.iter().all(|act| act.compared), "{mode:?}");
        let failed = |act: &&replay::Played| matches!(act.done, Some(Done::Failed(_)));
        assert!(ended.acts.iter().filter(failed).count() > 0, "{mode:?} met no error");
        let there = fates(&mut kernel.host());
        assert_eq!(fates(&mut ended.world.host), there, "{mode:?}");
        let mut again = played(&folder.text(), None);
        assert_eq!((fates(&mut again.world.host), &again.acts), (there, &ended.acts), "{mode:?}");
        let earlier = played(&folder.text(), Some(4));
        assert_eq!(earlier.acts, ended.acts[..4], "{mode:?}");
    }
}

#[test]
fn what_was_there_before_is_taken_over_as_it_was_then() {
    let mut kernel = simulated();
    let capabilities =
        Capabilities { xtables: Some(XtablesFlavour::Nft), ..Capabilities::default() };
    kernel = kernel.with_capabilities(capabilities);
    for mode in [Mode::Iptables, Mode::Nftables] {
        let before = Folder::new("before");
        lives(mode, &before, 1 << 30, &kernel);
        let folder = Folder::new("after");
        lives(mode, &folder, 1 << 30, &kernel);
        let mut ended = played(&folder.text(), None);
        let differences: Vec<_> = ended.acts.iter().flat_map(|act| &act.differences).collect();
        assert!(differences.is_empty(), "{mode:?}: {differences:#?}");
        assert_eq!(fates(&mut ended.world.host), fates(&mut kernel.host()), "{mode:?}");
        crate::sync::cleanup::cleanup(&mut kernel, &[]).unwrap();
    }
}

#[test]
fn a_small_ring_has_the_end_of_the_history() {
    for mode in [Mode::Nftables, Mode::Iptables] {
        let folder = Folder::new("small");
        let kernel = simulated();
        lives(mode, &folder, 8_000, &kernel);
        let old = std::fs::metadata(folder.0.join("record.old")).unwrap().len();
        let new = std::fs::metadata(folder.file()).unwrap().len();
        assert!(old < 16_000 && new < 16_000, "{old} {new}");
        let mut ended = played(&folder.text(), None);
        assert!(ended.acts.len() < 15, "{mode:?} {}", ended.acts.len());
        assert!(ended.acts.iter().all(|act| act.differences.is_empty()), "{:#?}", ended.acts);
        assert_eq!(fates(&mut ended.world.host), fates(&mut kernel.host()), "{mode:?}");
    }
}

#[test]
fn another_program_would_be_found_out() {
    let folder = Folder::new("other");
    lives(Mode::Nftables, &folder, 1 << 30, &simulated());
    let text = folder.text();
    let other = text.replacen("\"masquerade_bit\":14", "\"masquerade_bit\":15", 1);
    assert_ne!(other, text);
    let ended = played(&other, None);
    assert!(!ended.acts[0].differences.is_empty());
}

#[test]
fn a_record_may_be_cut_at_its_end_and_nowhere_else() {
    let folder = Folder::new("cut");
    lives(Mode::Nftables, &folder, 1 << 30, &simulated());
    let text = folder.text();
    let lines = text.lines().count();
    for length in (0..text.len()).step_by(997) {
        match read(&text[..length]) {
            Ok(record) => {
                let Ok(ended) = play(&record, None, &mut |_, _| {}) else { continue };
                assert!(ended.acts.iter().all(|act| act.differences.is_empty()), "{length}");
            }
            Err(error) => assert!(error.line <= 1, "{error}"),
        }
    }
    let damaged = text.replacen("\"begins\"", "\"begin\"", 1);
    let error = read(&damaged).unwrap_err();
    assert!(error.line > 1 && error.line < lines && error.why.contains("damaged"), "{error}");
    assert!(read("{}\n").unwrap_err().why.contains("--record FILE"));
    let twice = text.clone() + &text;
    assert!(read(&twice).unwrap_err().why.contains("middle of another"));
}

#[test]
fn a_file_that_cannot_be_written_ends_the_record_and_not_the_proxy() {
    let folder = Folder::new("gone");
    let nowhere = folder.0.join("absent").join("record");
    assert!(Ring::open(&nowhere, 1000).unwrap_err().contains("name a file"));
    let ring = shared(&folder, 1 << 30);
    let kernel = simulated();
    let heart = Box::new(Listener::new(kernel.clone(), ring.clone()));
    let objects = service("web", "10.96.0.1", "");
    let mut proxy: Proxy =
        proxy_with(of_mode(Mode::Nftables), heart, &objects).recorded_by(recorder(&ring, &kernel));
    std::fs::remove_dir_all(&folder.0).unwrap();
    proxy.sync().unwrap();
    assert!(!kernel.host().nft().tables().is_empty());
}
