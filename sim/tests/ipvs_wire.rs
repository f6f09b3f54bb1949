//! IPVS over generic netlink: each errno Linux 6.1 returned, each answer byte for byte, and hostile bytes.
//! The encoder here is written by hand from linux/ip_vs.h. Linux's answers stand in tests/fixtures/ipvs/answers.txt.

#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it says")]

mod support;

use sim::Host;
use support::ip;

const ANSWERS: &str = include_str!("fixtures/ipvs/answers.txt");
const FAMILY: u16 = 0x1c;

fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(kind: u16, flags: u16, command: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32 + 20).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(if flags & 0x300 == 0x300 { 9u32 } else { 1 }.to_ne_bytes());
    bytes.extend(723u32.to_ne_bytes());
    bytes.extend([command, 1, 0, 0]);
    bytes.extend(body);
    bytes
}

fn u32(kind: u16, value: u32) -> Vec<u8> {
    attr(kind, &value.to_ne_bytes())
}

fn u16(kind: u16, value: u16) -> Vec<u8> {
    attr(kind, &value.to_ne_bytes())
}

fn address(text: &str) -> [u8; 16] {
    match ip(text) {
        std::net::IpAddr::V6(v6) => v6.octets(),
        std::net::IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes
        }
    }
}

/// Family, protocol, address and port of a service.
fn ident_of(family: u16, protocol: u16, at: &str, port: u16) -> Vec<u8> {
    [u16(1, family), u16(2, protocol), attr(3, &address(at)), attr(4, &port.to_be_bytes())].concat()
}

fn ident(port: u16) -> Vec<u8> {
    ident_of(2, 6, "10.96.0.1", port)
}

fn full_of(scheduler: &str, set: u32, timeout: u32, netmask: u32) -> Vec<u8> {
    let name = [scheduler.as_bytes(), &[0]].concat();
    let bits = [set.to_ne_bytes(), [0xff; 4]].concat();
    [attr(6, &name), attr(7, &bits), u32(8, timeout), u32(9, netmask)].concat()
}

fn full() -> Vec<u8> {
    full_of("rr", 0, 0, u32::MAX)
}

fn dest(at: &str, port: u16) -> Vec<u8> {
    [attr(1, &address(at)), attr(2, &port.to_be_bytes())].concat()
}

fn dest_full(weight: u32, upper: u32, lower: u32) -> Vec<u8> {
    [u32(3, 0), u32(4, weight), u32(5, upper), u32(6, lower)].concat()
}

fn service(parts: &[Vec<u8>]) -> Vec<u8> {
    attr(1 | 0x8000, &parts.concat())
}

fn destination(parts: &[Vec<u8>]) -> Vec<u8> {
    attr(2 | 0x8000, &parts.concat())
}

/// The error number in an answer, in the words of the fixture.
fn errno(answer: &[u8]) -> String {
    assert_eq!(u16::from_ne_bytes([answer[4], answer[5]]), 2, "an error or acknowledgment");
    let code = i32::from_ne_bytes(answer[16..20].try_into().unwrap());
    let named = [
        (0, "OK"),
        (2, "ENOENT"),
        (3, "ESRCH"),
        (17, "EEXIST"),
        (22, "EINVAL"),
        (34, "ERANGE"),
        (95, "ENOTSUP"),
        (97, "EAFNOSUPPORT"),
    ];
    let name =
        named.iter().find(|(number, _)| *number == -code).map(|(_, name)| (*name).to_owned());
    name.unwrap_or_else(|| code.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn answered(line: &str) -> &'static str {
    let found = ANSWERS.lines().find_map(|one| one.strip_prefix(line));
    found.unwrap_or_else(|| panic!("no line {line:?}")).trim()
}

/// The requests of the probe, in its order: one stands on what another has made.
#[expect(clippy::too_many_lines, reason = "one table of requests, in the order they are sent")]
fn requests() -> Vec<(&'static str, u8, Vec<u8>)> {
    let with = |port: u16, one: Vec<u8>, more: Vec<u8>| {
        [service(&[ident(port)]), destination(&[one, more])].concat()
    };
    let v6 = || ident_of(10, 6, "fd96::1", 80);
    let v6_dest = |at: &str, more: Vec<u8>| {
        [service(&[v6()]), destination(&[dest(at, 80), dest_full(1, 0, 0), more])].concat()
    };
    let plain = || dest_full(1, 0, 0);
    vec![
        ("new service", 1, service(&[ident(80), full()])),
        ("new service again", 1, service(&[ident(80), full()])),
        ("set unknown service", 2, service(&[ident(81), full()])),
        ("del unknown service", 3, service(&[ident(81)])),
        ("new dest at unknown service", 5, with(81, dest("10.1.0.11", 80), plain())),
        ("new without attributes", 1, vec![]),
        ("new without full", 1, service(&[ident(80)])),
        ("new unknown scheduler", 1, service(&[ident(82), full_of("xx", 0, 0, u32::MAX)])),
        ("new of af 7", 1, service(&[ident_of(7, 6, "10.96.0.1", 82), full()])),
        (
            "new without port",
            1,
            service(&[u16(1, 2), u16(2, 6), attr(3, &address("10.96.0.1")), full()]),
        ),
        ("new port 0 not persistent", 1, service(&[ident(0), full()])),
        ("new protocol 1", 1, service(&[ident_of(2, 1, "10.96.0.1", 82), full()])),
        ("new sctp", 1, service(&[ident_of(2, 132, "10.96.0.1", 82), full()])),
        ("new sched name of 20 bytes", 1, service(&[ident(83), full_of(&"a".repeat(20), 0, 0, 0)])),
        (
            "new flags of 4 bytes",
            1,
            service(&[ident(83), attr(6, b"rr\0"), u32(7, 0), u32(8, 0), u32(9, 0)]),
        ),
        (
            "new addr of 4 bytes",
            1,
            service(&[
                u16(1, 2),
                u16(2, 6),
                attr(3, &[10, 96, 0, 1]),
                attr(4, &84u16.to_be_bytes()),
                full(),
            ]),
        ),
        (
            "new af of 1 byte",
            1,
            service(&[
                attr(1, &[2]),
                u16(2, 6),
                attr(3, &address("10.96.0.1")),
                attr(4, &84u16.to_be_bytes()),
                full(),
            ]),
        ),
        ("new dest", 5, with(80, dest("10.1.0.11", 80), plain())),
        ("new dest again", 5, with(80, dest("10.1.0.11", 80), plain())),
        ("set dest unknown", 6, with(80, dest("10.1.0.11", 81), plain())),
        ("del dest unknown", 7, with(80, dest("10.1.0.11", 81), vec![])),
        ("dest weight -1", 5, with(80, dest("10.1.0.11", 82), dest_full(u32::MAX, 0, 0))),
        ("dest lower over upper", 5, with(80, dest("10.1.0.11", 82), dest_full(1, 1, 2))),
        ("dest not full", 5, with(80, dest("10.1.0.11", 82), vec![])),
        ("dest absent", 5, service(&[ident(80)])),
        ("dest address 0.0.0.0", 5, with(80, dest("0.0.0.0", 80), plain())),
        ("dest multicast", 5, with(80, dest("224.0.0.1", 80), plain())),
        ("dest broadcast", 5, with(80, dest("255.255.255.255", 80), plain())),
        ("dest of family 10", 5, with(80, dest("10.1.0.14", 80), [plain(), u16(11, 10)].concat())),
        ("dest of family 7", 5, with(80, dest("10.1.0.14", 80), [plain(), u16(11, 7)].concat())),
        ("weight 100000", 6, with(80, dest("10.1.0.11", 80), dest_full(100_000, 0, 0))),
        ("dest multicast and other errors", 5, with(80, dest("127.0.0.1", 80), plain())),
        ("set config", 12, [u32(4, 900), u32(5, 30), u32(6, 100)].concat()),
        ("set config only udp", 12, u32(6, 100)),
        ("set config negative", 12, [u32(4, 0x8000_0000), u32(5, 0), u32(6, 0)].concat()),
        ("set config huge", 12, [u32(4, 0x7fff_ffff), u32(5, 0), u32(6, 0)].concat()),
        ("zero unknown", 16, service(&[ident(9)])),
        ("zero all", 16, vec![]),
        ("command 99", 99, vec![]),
        ("get dest, no dump", 8, service(&[ident(80)])),
        ("v6 netmask 0", 1, service(&[v6(), full_of("rr", 0, 0, 0)])),
        ("v6 netmask 129", 1, service(&[v6(), full_of("rr", 0, 0, 129)])),
        ("v6 netmask 128", 1, service(&[v6(), full_of("rr", 0, 0, 128)])),
        ("v6 dest link local", 5, v6_dest("fe80::9", vec![])),
        ("v6 dest ::", 5, v6_dest("::", vec![])),
        ("v6 dest", 5, v6_dest("fd01::b", vec![])),
        ("v6 service, v4 dest masq", 5, v6_dest("10.1.0.11", u16(11, 2))),
        ("fwmark", 1, service(&[u16(1, 2), u32(5, 7), full()])),
        ("fwmark again", 1, service(&[u16(1, 2), u32(5, 7), full()])),
        ("fwmark 0", 1, service(&[u16(1, 2), u32(5, 0), full()])),
        (
            "set service other scheduler and flags",
            2,
            service(&[ident(80), full_of("wrr", 1, 100, u32::MAX)]),
        ),
    ]
}

fn asked() -> Host {
    let mut host = Host::new(1);
    for (name, command, body) in requests() {
        let said = errno(&host.genetlink(&message(FAMILY, 5, command, &body)));
        assert_eq!(said, answered(&format!("errno {name}:")), "{name}");
    }
    host
}

#[test]
fn each_errno_is_the_kernels() {
    asked();
}

#[test]
fn answers_are_the_kernels_bytes() {
    let mut host = asked();
    let own = |line: &str| answered(line).replace("d3020000", &hex(&723u32.to_ne_bytes()));
    let one = host.genetlink(&message(FAMILY, 1, 4, &service(&[ident(80)])));
    assert_eq!(hex(&one), own("get service"));
    let config = host.genetlink(&message(FAMILY, 1, 13, &[]));
    assert_eq!(hex(&config), own("get config"));
    let version = host.genetlink(&message(FAMILY, 1, 15, &[]));
    assert_eq!(hex(&version), own("get info"));
    let none = host.genetlink(&message(FAMILY, 0x301, 8, &service(&[ident(9)])));
    assert_eq!(hex(&none), own("dump dests of unknown"));
    // Linux had two more, of methods that are not modelled; its first is the last added.
    let dests = hex(&host.genetlink(&message(FAMILY, 0x301, 8, &service(&[ident(80)]))));
    assert_eq!(dests[..800], own("dump dests")[..800]);
    assert_eq!(dests.len(), 2 * 800 + 40);
    let all = host.genetlink(&message(FAMILY, 0x301, 4, &[]));
    assert_eq!(all.len() % 4, 0);
    assert_eq!(&all[all.len() - 16..][..2], &3u16.to_ne_bytes(), "it ends with NLMSG_DONE");
}

#[test]
fn the_family_is_found_by_name() {
    let mut host = Host::new(1);
    let answer = host.genetlink(&message(0x10, 1, 3, &attr(2, b"IPVS\0")));
    // The header and the first attributes; Linux goes on with the header's size, the attributes and the commands.
    assert_eq!(hex(&answer)[32..96], answered("getfamily")[32..96]);
    assert_eq!(errno(&host.genetlink(&message(0x10, 1, 3, &attr(2, b"none\0")))), "ENOENT");
}

#[test]
fn what_is_not_modelled_is_refused_with_its_name() {
    let mut host = asked();
    let forwarding = |method: u32| {
        [dest("10.1.0.12", 80), u32(3, method), u32(4, 1), u32(5, 0), u32(6, 0)].concat()
    };
    for (request, quoted) in [
        (
            (5, [service(&[ident(80)]), destination(&[forwarding(3)])].concat()),
            "forwarding method 3 (direct route)",
        ),
        (
            (5, [service(&[ident(80)]), destination(&[forwarding(2)])].concat()),
            "forwarding method 2 (tunnel)",
        ),
        ((1, service(&[ident(85), full_of("none", 0, 0, 0)])), "scheduler \"none\""),
        ((1, service(&[ident(85), full(), attr(11, b"sip\0")])), "persistence engines"),
        ((9, vec![]), "IPVS command 9"),
    ] {
        let error = host.ipvs_request(&message(FAMILY, 5, request.0, &request.1)).unwrap_err();
        assert_eq!(error.errno, sim::Errno::EOPNOTSUPP);
        assert!(error.to_string().contains(quoted), "{error}");
    }
}

#[test]
fn hostile_bytes_are_refused_and_change_nothing() {
    let mut host = asked();
    let before = (host.ipvs_services().len(), host.genetlink(&message(FAMILY, 0x301, 4, &[])));
    for (_, command, body) in requests() {
        let whole = message(FAMILY, 5, command, &body);
        for cut in 0..whole.len() {
            let error = host.ipvs_request(&whole[..cut]).expect_err("cut short");
            assert!(error.offset <= cut, "{error}");
        }
    }
    let mut noise = 1u32;
    for _ in 0..20_000 {
        let mut whole = message(FAMILY, 5, 4, &service(&[ident(80), full()]));
        for _ in 0..3 {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = 20 + (noise >> 8) as usize % (whole.len() - 20);
            whole[at] = (noise >> 24) as u8;
        }
        host.genetlink(&whole);
    }
    assert_eq!(
        (host.ipvs_services().len(), host.genetlink(&message(FAMILY, 0x301, 4, &[]))),
        before
    );
}
