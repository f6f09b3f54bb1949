//! ipset: every case of tests/fixtures/ipset, which the real one (ipset 7.17) answered, and what rules ask of sets.

#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it says")]

mod support;

use sim::ipset::IpsetErrorKind;
use sim::{Direction, Host};
use std::time::Duration;
use support::{ip, tcp, udp};

/// The lines of a saved text, in an order of their own (a hash has none), without what the real one's clock has counted down.
fn sorted(text: &str) -> Vec<String> {
    let timeless = |line: &str| {
        let mut words: Vec<&str> = line.split(' ').collect();
        let at = words.iter().position(|word| *word == "timeout");
        if let Some(at) = at.filter(|at| words[0] == "add" && words.get(at + 1) != Some(&"0")) {
            words[at + 1] = "N";
        }
        words.join(" ")
    };
    let mut lines: Vec<String> = text.lines().map(timeless).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn every_answer_is_that_of_the_real_ipset() {
    let answers = include_str!("fixtures/ipset/answers.txt");
    let cases: Vec<&str> = answers.split("%%\n").skip(1).collect();
    assert!(cases.len() > 80);
    for case in cases {
        let (text, rest) = case.split_once("says\n").expect("each case has its parts");
        let (says, has) = rest.split_once("has\n").expect("each case has its parts");
        let has = has.split_once('\n').map_or("", |(_, has)| has);
        let mut host = Host::new(1);
        let said = host.ipset_restore(text).err().map_or(String::new(), |error| error.to_string());
        let said = if said.is_empty() { said } else { format!("ipset v7.17: {said}") };
        // Of a number that is none, the real one says more than once why.
        let several = says.matches("Syntax error").count() > 1;
        assert!(said == says.trim_end() || several && !said.is_empty(), "{text}→ {said}\n≠ {says}");
        let saved = host.ipset_save();
        assert!(sorted(&saved) == sorted(has.trim_end()), "{text}→ {saved}\n≠ {has}");
        let mut again = Host::new(1);
        again.ipset_restore(&saved).expect("what was saved is read back");
        assert_eq!(again.ipset_save(), saved);
    }
}

#[test]
fn rules_ask_by_source_and_destination() {
    use Direction::{Dst, Src};
    let mut host = Host::new(1);
    let text = "create C hash:ip,port\nadd C 10.96.0.1,tcp:443\n\
                create L hash:ip,port,ip\nadd L 10.1.0.2,tcp:80,10.1.0.2\n\
                create P bitmap:port range 0-65535\nadd P 30000\n\
                create S hash:ip,port,net\nadd S 10.96.0.9,udp:53,10.0.0.0/8\nadd S 10.96.0.9,udp:53,10.9.0.0/16 nomatch\n\
                create N hash:net\nadd N 10.0.0.0/8\nadd N 10.1.0.0/16 nomatch\nadd N 10.1.1.1\n\
                create C6 hash:ip,port family inet6\nadd C6 fd96::1,tcp:443\n";
    host.ipset_restore(text).unwrap();
    let packet = tcp("10.1.0.2:5000", "10.96.0.1:443");
    assert!(host.ipset_matches("C", &packet, &[Dst, Dst]));
    assert!(!host.ipset_matches("C", &packet, &[Src, Dst]));
    assert!(!host.ipset_matches("C", &packet, &[Dst]), "fewer dimensions than the set has");
    assert!(!host.ipset_matches("C", &udp("10.1.0.2:5000", "10.96.0.1:443"), &[Dst, Dst]));
    assert!(host.ipset_matches("L", &tcp("10.1.0.2:5", "10.1.0.2:80"), &[Dst, Dst, Src]));
    assert!(!host.ipset_matches("L", &tcp("10.1.0.3:5", "10.1.0.2:80"), &[Dst, Dst, Src]));
    assert!(host.ipset_matches("P", &tcp("10.1.0.2:5", "192.168.1.10:30000"), &[Dst]));
    let sctp = sim::Packet::sctp("10.1.0.2:5".parse().unwrap(), "1.1.1.1:30000".parse().unwrap());
    assert!(!host.ipset_matches("P", &sctp, &[Dst]), "bitmap:port knows TCP and UDP only");
    assert!(host.ipset_matches("S", &udp("10.8.0.1:5", "10.96.0.9:53"), &[Dst, Dst, Src]));
    assert!(!host.ipset_matches("S", &udp("10.9.0.1:5", "10.96.0.9:53"), &[Dst, Dst, Src]));
    for (source, expected) in
        [("10.2.0.1", true), ("10.1.0.1", false), ("10.1.1.1", true), ("11.0.0.1", false)]
    {
        assert_eq!(
            host.ipset_matches("N", &tcp(&format!("{source}:1"), "1.1.1.1:1"), &[Src]),
            expected
        );
    }
    assert!(host.ipset_matches("C6", &tcp("[fd00::1]:1", "[fd96::1]:443"), &[Dst, Dst]));
    assert!(!host.ipset_matches("C6", &packet, &[Dst, Dst]), "another family");
    assert!(!host.ipset_matches("none", &packet, &[Dst, Dst]));
    assert_eq!(packet.dst, ip("10.96.0.1"));
}

#[test]
fn elements_go_when_their_time_is_over_and_make_room() {
    let mut host = Host::new(1);
    host.ipset_restore("create A hash:ip timeout 10 maxelem 1\nadd A 10.0.0.1 timeout 2").unwrap();
    let packet = tcp("10.0.0.1:1", "1.1.1.1:1");
    assert!(host.ipset_matches("A", &packet, &[Direction::Src]));
    let full = host.ipset_restore("add A 10.0.0.2").unwrap_err();
    assert_eq!(full.kind, IpsetErrorKind::Full);
    host.advance(Duration::from_secs(2));
    assert!(!host.ipset_matches("A", &packet, &[Direction::Src]));
    host.ipset_restore("add A 10.0.0.2").unwrap();
    assert!(host.ipset_save().ends_with("add A 10.0.0.2 timeout 10\n"));
}

#[test]
fn hostile_text_is_refused_with_its_line() {
    let refused = [
        "create A hash:ip\nadd A 0.0.0.0/0",
        "create A hash:ip\n\nadd A \"",
        "create A list:set",
        "create A hash:ip netmask 24",
        "create A hash:ip,port\nadd A 10.0.0.0/8,0-65535",
        "create A hash:ip\nadd A ,,,,,",
        "create A bitmap:port range 99999-1",
        "add",
        "\u{feff}create A hash:ip",
        "create A hash:net\nadd A 10.0.0.0-10.0.0.9",
        "create A hash:ip maxelem 99999999999999999999999",
    ];
    for text in refused {
        let error = Host::new(1).ipset_restore(text).expect_err(text);
        assert_eq!(error.line, text.lines().count(), "{text}: {error}");
    }
}
