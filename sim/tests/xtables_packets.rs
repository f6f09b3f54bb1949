//! Packets through the tables of iptables: a node with kube-proxy's, kubelet's and portmap's rules, and single matches.

mod support;

use sim::ipset::IpsetErrorKind;
use sim::{
    Fate, Host, Outcome, Probability, RejectWith, XtCounters, XtErrorKind, XtFamily, XtRestore,
    XtTable,
};
use std::collections::BTreeMap;
use std::time::Duration;
use support::{Node, ip, node, tcp, udp};

const NODE: &str = include_str!("fixtures/xtables/node.rules");

fn load(node: &mut Node, text: &str) {
    let done = node.host.iptables_restore(
        XtFamily::V4,
        text,
        XtRestore { noflush: true, counters: false },
    );
    done.unwrap_or_else(|error| panic!("{error}"));
}

fn kube() -> Node {
    let mut node = node();
    load(&mut node, NODE);
    node
}

fn chances(outcomes: &[(Probability, Outcome)]) -> BTreeMap<String, Probability> {
    outcomes
        .iter()
        .map(|(chance, outcome)| {
            (format!("{}:{}", outcome.packet.dst, outcome.packet.dport()), *chance)
        })
        .collect()
}

/// What is dropped, and by which chain's rule.
fn dropped(outcome: &Outcome) -> Option<(String, Option<u64>)> {
    match &outcome.fate {
        Fate::Dropped(place) | Fate::Rejected(_, place) => {
            Some((place.chain.to_string(), place.rule))
        }
        _ => None,
    }
}

#[test]
fn a_node_is_printed_as_the_tools_print_it() {
    let node = kube();
    let mut saved = String::new();
    for table in [XtTable::Mangle, XtTable::Nat, XtTable::Filter] {
        let text = node.host.iptables_save(XtFamily::V4, table);
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .for_each(|line| saved += &format!("{line}\n"));
    }
    let real: String = include_str!("fixtures/xtables/node.saved")
        .lines()
        .skip(1)
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(saved, real);
}

#[test]
fn a_cluster_ip_reaches_each_of_three_endpoints_with_exactly_one_third() {
    let mut node = kube();
    let packet = tcp("192.168.1.7:4000", "10.96.0.1:80").arriving(node.eth0);
    let third = Probability::new(1, 3);
    let ends =
        ["10.1.0.2:8080", "10.1.0.3:8080", "10.1.0.4:8080"].map(|end| (end.to_owned(), third));
    let before = node.host.iptables_save_with(XtFamily::V4, XtTable::Nat, XtCounters::Show);
    assert_eq!(chances(&node.host.outcomes(&packet)), ends.into());
    assert_eq!(
        node.host.iptables_save_with(XtFamily::V4, XtTable::Nat, XtCounters::Show),
        before,
        "nothing is counted"
    );
    let there = node.host.fate(&packet);
    assert!(matches!(there.fate, Fate::Forwarded(hop) if hop.link == node.cni0), "{there}");
    assert_eq!(
        (there.packet.src, there.packet.mark),
        (ip("10.1.0.1"), 0),
        "masqueraded, the mark taken off"
    );
    let back = node.host.fate(&there.packet.answer().arriving(node.cni0));
    assert_eq!((back.packet.src, back.packet.dst), (ip("10.96.0.1"), ip("192.168.1.7")), "{back}");
}

#[test]
fn pods_are_not_masqueraded_but_for_their_own_service() {
    let mut node = kube();
    let outcomes = node.host.outcomes(&tcp("10.1.0.2:4000", "10.96.0.1:80").arriving(node.cni0));
    for (_, outcome) in outcomes {
        let own = outcome.packet.dst == ip("10.1.0.2");
        assert_eq!(outcome.packet.src == ip("10.1.0.1"), own, "{outcome}");
    }
}

#[test]
fn local_processes_and_node_ports_reach_endpoints() {
    let mut node = kube();
    let local = node.host.emit(&tcp("192.168.1.10:4000", "10.96.0.1:80"));
    assert!(matches!(local.fate, Fate::Sent(hop) if hop.link == node.cni0), "{local}");
    let port = node.host.receive(&tcp("192.168.1.7:4001", "192.168.1.10:30080"), node.eth0);
    assert!(matches!(port.fate, Fate::Forwarded(_)), "{port}");
    assert_eq!(port.packet.src, ip("10.1.0.1"));
}

#[test]
fn portmap_sends_a_host_port_to_its_pod() {
    let mut node = kube();
    let outcome = node.host.receive(&tcp("192.168.1.7:4000", "192.168.1.10:8088"), node.eth0);
    assert_eq!(
        (outcome.packet.dst, outcome.packet.dport(), outcome.packet.src),
        (ip("10.1.0.7"), 80, ip("192.168.1.7")),
        "{outcome}"
    );
    let own = node.host.receive(&tcp("10.1.0.7:4000", "192.168.1.10:8088"), node.cni0);
    assert_eq!(own.packet.src, ip("10.1.0.1"), "{own}");
}

#[test]
fn a_service_without_endpoints_rejects_and_martians_are_dropped() {
    let mut node = kube();
    let empty = node.host.receive(&tcp("192.168.1.7:4000", "10.96.0.9:80"), node.eth0);
    assert!(matches!(empty.fate, Fate::Rejected(RejectWith::Unreachable(3), _)), "{empty}");
    assert_eq!(dropped(&empty), Some(("KUBE-SERVICES".into(), Some(1))));
    node.host.sysctls_mut().route_localnet = true;
    let guarded = node.host.receive(&tcp("192.168.1.7:4000", "127.0.0.1:10249"), node.eth0);
    assert_eq!(dropped(&guarded), Some(("KUBE-FIREWALL".into(), Some(1))), "{guarded}");
    let stray = node.host.receive(
        &tcp("192.168.1.7:4000", "10.1.0.2:80").with_flags(sim::packet::flags::RST),
        node.eth0,
    );
    assert_eq!(dropped(&stray), Some(("KUBE-FORWARD".into(), Some(1))), "{stray}");
}

#[test]
fn affinity_keeps_an_endpoint_for_its_time_and_no_longer() {
    let mut node = kube();
    let packet =
        |port: u16| tcp(&format!("192.168.1.7:{port}"), "10.96.0.2:80").arriving(node.eth0);
    assert_eq!(node.host.outcomes(&packet(1)).len(), 2);
    let first = node.host.fate(&packet(1)).packet.dst;
    node.host.advance(Duration::from_secs(10_800));
    assert_eq!(node.host.outcomes(&packet(2)).len(), 1);
    assert_eq!(
        node.host.fate(&packet(2)).packet.dst,
        first,
        "still within its time, which begins anew"
    );
    node.host.advance(Duration::from_secs(10_801));
    assert_eq!(node.host.outcomes(&packet(3)).len(), 2);
    let lists = ["KUBE-SEP-DDDDDDDDDDDDDDDD", "KUBE-SEP-EEEEEEEEEEEEEEEE"]
        .map(|name| node.host.recent(name).len());
    assert_eq!(lists.iter().sum::<usize>(), 1, "a dry run forgets nothing");
}

#[test]
fn a_list_of_recent_addresses_holds_a_hundred_and_lives_with_its_rules() {
    let mut node = node();
    load(&mut node, "*filter\n-A INPUT -p udp -m recent --set --name seen\nCOMMIT\n");
    for host in 1..=150u8 {
        node.host.receive(&udp(&format!("192.168.1.{host}:9"), "192.168.1.10:9"), node.eth0);
    }
    let seen = node.host.recent("seen");
    assert_eq!(seen.len(), 100);
    assert!(seen.iter().all(|(address, _)| *address > ip("192.168.1.50")));
    load(&mut node, "*filter\n-A OUTPUT -m recent --rcheck --name seen\n-D INPUT 1\nCOMMIT\n");
    assert_eq!(node.host.recent("seen").len(), 100);
    load(&mut node, "*filter\n-F OUTPUT\nCOMMIT\n");
    assert!(node.host.recent("seen").is_empty());
}

#[test]
fn probabilities_that_are_no_parts_of_one_are_exact_too() {
    let mut node = node();
    load(
        &mut node,
        "*filter\n-A INPUT -m statistic --mode random --probability 0.25 -j DROP\n-A INPUT -m statistic --mode random --probability 0.75 -j ACCEPT\nCOMMIT\n",
    );
    let outcomes = node.host.outcomes(&udp("192.168.1.7:9", "192.168.1.10:9").arriving(node.eth0));
    let chance = |wanted: bool| {
        let some =
            outcomes.iter().filter(|(_, outcome)| (outcome.fate == Fate::Delivered) == wanted);
        some.fold(Probability::ZERO, |sum, (chance, _)| sum.plus(*chance))
    };
    assert_eq!((chance(true), chance(false)), (Probability::new(3, 4), Probability::new(1, 4)));
}

#[test]
fn nth_packets_limits_and_counters_go_with_packets_and_time() {
    let mut node = node();
    load(
        &mut node,
        "*filter\n-A INPUT -p udp --dport 1 -m statistic --mode nth --every 3 --packet 1 -j DROP\n\
         -A INPUT -p udp --dport 2 -m limit --limit 1/sec --limit-burst 2 -j ACCEPT\n-A INPUT -p udp --dport 2 -j DROP\nCOMMIT\n",
    );
    let mut send = |port: u16, wait: u64| {
        node.host.advance(Duration::from_secs(wait));
        node.host.receive(&udp("192.168.1.7:9", &format!("192.168.1.10:{port}")), node.eth0).fate
            == Fate::Delivered
    };
    assert_eq!([0; 6].map(|_| send(1, 0)), [true, false, true, true, false, true]);
    assert_eq!(
        [0, 0, 0, 1, 0, 5].map(|wait| send(2, wait)),
        [true, true, false, true, false, true]
    );
    let saved = node.host.iptables_save_with(XtFamily::V4, XtTable::Filter, XtCounters::Show);
    assert!(saved.contains("[2:56] -A INPUT -p udp -m udp --dport 1 -m statistic"), "{saved}");
    assert!(saved.contains(":INPUT ACCEPT [4:112]"), "{saved}");
}

#[test]
fn marks_are_saved_to_connections_and_restored() {
    let mut node = node();
    load(
        &mut node,
        "*mangle\n-A PREROUTING -i eth0 -j MARK --set-mark 0x2a\n-A PREROUTING -j CONNMARK --save-mark\n-A FORWARD -j MARK --set-xmark 0x0\n\
         -A POSTROUTING -j CONNMARK --restore-mark\n-A POSTROUTING -m connmark --mark 0x2a -m mark --mark 0x2a -j ACCEPT\nCOMMIT\n",
    );
    let outcome = node.host.receive(&udp("192.168.1.7:9", "10.1.0.2:9"), node.eth0);
    assert_eq!((outcome.packet.mark, outcome.after.map(|conn| conn.mark)), (0x2a, Some(0x2a)));
    assert!(outcome.accepted);
}

#[test]
fn without_a_rule_that_needs_it_nothing_is_tracked() {
    let mut node = node();
    load(&mut node, "*nat\n:X - [0:0]\nCOMMIT\n*filter\n-A INPUT -p udp -j ACCEPT\nCOMMIT\n");
    assert_eq!(node.host.receive(&udp("192.168.1.7:9", "192.168.1.10:9"), node.eth0).after, None);
    load(&mut node, "*filter\n-A INPUT -m conntrack --ctstate NEW\nCOMMIT\n");
    assert!(node.host.receive(&udp("192.168.1.7:9", "192.168.1.10:9"), node.eth0).after.is_some());
}

#[test]
fn six_translates_and_rejects_with_its_own_codes() {
    let mut node = node();
    let text = "*nat\n-A PREROUTING -d fd00:96::1 -p tcp --dport 80 -j DNAT --to-destination [fd00:10::5]:8080\nCOMMIT\n\
                *filter\n-A FORWARD -d fd00:10::6 -j REJECT\n-A INPUT -m addrtype --dst-type LOCAL -p udp -j DROP\nCOMMIT\n";
    node.host
        .iptables_restore(XtFamily::V6, text, XtRestore::default())
        .unwrap_or_else(|error| panic!("{error}"));
    let outcome = node.host.receive(&tcp("[fd00:1::7]:4000", "[fd00:96::1]:80"), node.eth0);
    assert_eq!((outcome.packet.dst, outcome.packet.dport()), (ip("fd00:10::5"), 8080), "{outcome}");
    let rejected = node.host.receive(&tcp("[fd00:1::7]:4000", "[fd00:10::6]:80"), node.eth0);
    assert!(matches!(rejected.fate, Fate::Rejected(RejectWith::Unreachable(4), _)), "{rejected}");
    assert!(
        dropped(&node.host.receive(&udp("[fd00:1::7]:4000", "[fd00:1::10]:80"), node.eth0))
            .is_some()
    );
}

#[test]
fn accounting_objects_count_and_must_be_there() {
    let mut node = node();
    let text = "*filter\n-A INPUT -m nfacct --nfacct-name drops\nCOMMIT\n";
    let absent = node
        .host
        .iptables_restore(XtFamily::V4, text, XtRestore::default())
        .expect_err("it is not there");
    assert_eq!(absent.kind, XtErrorKind::Absent);
    node.host.add_nfacct("drops");
    load(&mut node, text);
    node.host.receive(&udp("192.168.1.7:9", "192.168.1.10:9"), node.eth0);
    assert_eq!(node.host.nfacct("drops"), Some((1, 28)));
}

#[test]
fn a_journey_names_chains_rules_and_comments() {
    let mut node = kube();
    let journey =
        node.host.send(&tcp("192.168.1.7:4000", "10.96.0.1:80").arriving(node.eth0)).to_string();
    for part in [
        "iptables nat PREROUTING (priority -100)",
        "\"default/web cluster IP\": KUBE-SVC-WEBWEBWEBWEBWEBW",
        "DNAT --to-destination",
    ] {
        assert!(journey.contains(part), "no {part} in\n{journey}");
    }
}

#[test]
fn hostile_texts_end_soon_and_without_harm() {
    let mut twice = String::from("*filter\n");
    (0..15).for_each(|number| twice += &format!(":C{number} - [0:0]\n"));
    (0..14).for_each(|number| {
        twice += &format!("-A C{number} -j C{next}\n", next = number + 1).repeat(8)
    });
    twice += "-A INPUT -j C0\nCOMMIT\n";
    let mut node = node();
    load(&mut node, &twice);
    let endless = node.host.receive(&udp("192.168.1.7:9", "192.168.1.10:9"), node.eth0);
    assert!(dropped(&endless).is_some(), "{endless}");
    let mut host = Host::new(1);
    for cut in (0..NODE.len()).step_by(7).filter(|cut| NODE.is_char_boundary(*cut)) {
        let _ = host.iptables_restore(XtFamily::V4, &NODE[..cut], XtRestore::default());
        let mut bytes = NODE.as_bytes().to_vec();
        bytes[cut] = bytes[cut].wrapping_mul(31) ^ 0x15;
        let _ = host.iptables_restore(
            XtFamily::V6,
            &String::from_utf8_lossy(&bytes),
            XtRestore::default(),
        );
    }
    let list = (0..100).map(|number| format!("1.1.1.{number}")).collect::<Vec<_>>().join(",");
    let many = format!("*filter\n-A INPUT -s {list} -d {list}\nCOMMIT\n");
    assert_eq!(
        host.iptables_restore(XtFamily::V4, &many, XtRestore::default())
            .map_err(|error| error.kind),
        Err(XtErrorKind::NotModelled)
    );
}

#[test]
fn a_rule_asks_a_set_and_holds_it() {
    let mut node = node();
    let sets = "create X hash:ip,port\nadd X 10.1.0.2,tcp:80";
    node.host.ipset_restore(sets).expect("a set");
    load(&mut node, "*filter\n-A FORWARD -m set --match-set X dst,dst -j DROP\nCOMMIT\n");
    let drops = |node: &mut Node, src: &str, dst: &str| {
        let packet = tcp(src, dst).arriving(node.eth0);
        dropped(&node.host.fate(&packet)).is_some()
    };
    assert!(drops(&mut node, "192.168.1.7:4000", "10.1.0.2:80"));
    assert!(!drops(&mut node, "192.168.1.7:4000", "10.1.0.2:81"));
    assert!(!drops(&mut node, "192.168.1.7:80", "10.1.0.3:80"));
    node.host.ipset_restore("add X 10.1.0.3,tcp:80").expect("an element");
    assert!(drops(&mut node, "192.168.1.7:80", "10.1.0.3:80"), "what is added counts at once");

    for text in ["destroy X", "rename X Y", "destroy"] {
        let refused = node.host.ipset_restore(text).expect_err("a rule asks it");
        assert_eq!(refused.kind, IpsetErrorKind::InUse, "{text}");
    }
    load(&mut node, "*filter\n-D FORWARD -m set --match-set X dst,dst -j DROP\nCOMMIT\n");
    node.host.ipset_restore("destroy X").expect("no rule asks it now");
    let how = XtRestore { noflush: true, counters: false };
    let text = "*filter\n-A FORWARD -m set --match-set X dst,dst -j DROP\nCOMMIT\n";
    let refused = node.host.iptables_restore(XtFamily::V4, text, how).expect_err("no set");
    assert_eq!(refused.kind, XtErrorKind::Absent);
}

/// In a long chain what cannot meet the destination is passed over where nobody is told: nothing else comes of it.
#[test]
fn a_packet_ends_the_same_in_long_chains_whether_it_is_told_or_not() {
    let mut text = String::from("*filter\n:LONG - [0:0]\n:SUB - [0:0]\n-A FORWARD -j LONG\n");
    for number in 0..400 {
        let (third, last) = (number % 7, number % 23);
        text.push_str(&match number % 9 {
            0 => format!("-A LONG ! -d 10.1.{third}.{last}/32 -p tcp --dport {number} -j DROP\n"),
            1 => format!("-A LONG -d 10.1.{third}.0/24 -p udp -m udp --sport 1000:1900 -j REJECT\n"),
            2 => format!("-A LONG -d 10.1.{third}.{last}/32 -m statistic --mode nth --every 3 --packet 0 -j DROP\n"),
            3 => format!("-A LONG -d 10.1.{third}.{last}/32 -j SUB\n"),
            4 => format!("-A LONG -d 10.1.{third}.{last}/32 -p udp -g SUB\n"),
            5 => "-A LONG -m mark --mark 0x7 -j RETURN\n".to_owned(),
            6 if number > 300 => format!("-A LONG -d 10.1.{third}.{last}/32 -j RETURN\n"),
            7 => format!("-A LONG -d 10.1.{third}.{last}/32 -p tcp -j ACCEPT\n"),
            _ => format!("-A LONG -d 10.1.{third}.{last}/32 -j MARK --set-mark {number}\n"),
        });
    }
    text.push_str("-A SUB -p tcp -j RETURN\n-A SUB -m mark --mark 0x8 -j DROP\nCOMMIT\n");
    let how = XtRestore { noflush: false, counters: false };
    let (mut told, mut untold) = (support::node(), support::node());
    for host in [&mut told.host, &mut untold.host] {
        host.iptables_restore(XtFamily::V4, &text, how).unwrap_or_else(|error| panic!("{error}"));
    }
    let mut fates = std::collections::BTreeSet::new();
    for number in 0..1500u16 {
        let (from, to) = (
            format!("192.168.1.77:{}", 1000 + number),
            format!("10.1.{}.{}:{}", number % 8, number % 24, number % 411),
        );
        let packet = if number % 3 == 0 { udp(&from, &to) } else { tcp(&from, &to) };
        let packet = packet.arriving(told.eth0);
        let (journey, outcome) = (told.host.send(&packet), untold.host.fate(&packet));
        assert_eq!(journey.outcome, outcome, "{journey}");
        fates.insert(
            format!("{:?}", outcome.fate).split(['(', ' ']).next().unwrap_or_default().to_owned(),
        );
        // A change in between: what was found out of the chain is found out again.
        if number == 700 {
            let more = "*filter\n-I LONG 1 -d 10.1.3.3/32 -j DROP\n-D LONG 40\nCOMMIT\n";
            let how = XtRestore { noflush: true, counters: false };
            for host in [&mut told.host, &mut untold.host] {
                host.iptables_restore(XtFamily::V4, more, how)
                    .unwrap_or_else(|error| panic!("{error}"));
            }
        }
    }
    let counted =
        |host: &Host| host.iptables_save_with(XtFamily::V4, XtTable::Filter, XtCounters::Show);
    assert_eq!(counted(&told.host), counted(&untold.host));
    assert!(fates.len() >= 3, "{fates:?}");
}
