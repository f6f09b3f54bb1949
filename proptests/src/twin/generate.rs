//! Cases from a seed: random tables of the modelled dialect and random packets, as text.
//! Only the text leaves this file. Tests: `netlab fuzz`.

use std::fmt::Write as _;

/// Chance (splitmix64).
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Chance {
        Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(super) fn below(&mut self, most: u64) -> u64 {
        self.next() % most.max(1)
    }

    pub(super) fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len() as u64) as usize]
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

pub(super) const OUTSIDE: [&[&str]; 2] = [
    &["203.0.113.1", "203.0.113.2", "203.0.113.9", "10.1.0.1", "10.2.0.1"],
    &["2600::1", "2600::2", "fd10:1::1", "fd10:2::1"],
];
pub(super) const TARGETS: [&[&str]; 2] = [
    &["10.96.0.1", "10.96.0.2", "10.1.0.1", "10.1.0.2", "10.2.0.1", "192.0.2.1", "198.18.1.1"],
    &["fd96::1", "fd96::2", "fd10:1::1", "fd10:1::2", "fd10:2::1", "2001:db8::1", "fd5a:1::1"],
];
pub(super) const OWN: [&[&str]; 2] =
    [&["192.0.2.1", "198.18.0.1", "198.18.1.1"], &["2001:db8::1", "fd5a:0::1", "fd5a:1::1"]];
pub(super) const ENDPOINTS: [&[&str]; 2] = [
    &["10.1.0.1", "10.1.0.2", "10.2.0.1", "192.0.2.1", "203.0.113.9"],
    &["fd10:1::1", "fd10:1::2", "fd10:2::1", "2001:db8::1"],
];
pub(super) const DPORTS: &[&str] = &["53", "80", "81", "443", "8080", "8081", "9000"];
/// What stands in the place of ports is known of these only: of ICMP it is a checksum.
pub(super) const PORTED: &str = "proto in { tcp , udp , sctp }";
const PROTOS: &[&str] = &["tcp", "udp", "sctp", "icmp", "icmp6"];

/// One table as it is made.
pub(super) struct Table {
    head: String,
    /// 0 for IPv4, 1 for IPv6.
    pub(super) family: usize,
    inet: bool,
    rejects: bool,
    chains: Vec<String>,
    lines: Vec<String>,
}

/// The text of a case of `packets` packets.
pub(super) fn case(seed: u64, packets: usize) -> String {
    let mut chance = Chance::new(seed);
    let mut text = format!("seed {seed}\n");
    // Linux takes connection tracking away some time after the last rule that needs it: always one.
    text.push_str("table inet tracked\nchain inet tracked c filter prerouting -400\n");
    text.push_str("rule inet tracked c ct.state & new != 0 counter\n");
    if chance.one_in(10) {
        return text + &super::generate_rare::by_chance(&mut chance);
    }
    // Of six cases two ask xtables only, one both dialects.
    let dialects = chance.below(6);
    if dialects < 3 {
        let _ = writeln!(text, "flavour {}", chance.pick(&["nft", "legacy"]));
        text.push_str(&super::generate_xt::texts(&mut chance));
    }
    let rejects = chance.one_in(3);
    let tables = if dialects < 2 { 0 } else { 1 + chance.below(3) };
    for number in 0..tables {
        let table = table(&mut chance, number, rejects);
        table.iter().for_each(|line| text.push_str(&format!("{line}\n")));
        if chance.one_in(2) {
            text.push_str("commit\n");
        }
    }
    if tables > 0 && chance.one_in(4) {
        let error = chance.pick(&[
            "rule ip t0 nowhere accept",
            "table exclusive ip t0\nchain ip t0 z",
            "delete-chain ip t0 c0",
            "delete-set ip t0 addresses",
            "chain ip t9 c0",
            "rule inet t0 c0 jump nowhere",
            "chain inet t0 c0\nrule inet t0 c0 jump c0",
            "set inet t0 portmarks port",
            "table exclusive inet t0",
        ]);
        let _ = writeln!(text, "commit\n{error}\ncommit");
    }
    send_all(&mut chance, packets, &mut text);
    text
}

fn send_all(chance: &mut Chance, packets: usize, text: &mut String) {
    let sends = packets * 2 / 3;
    for number in 0..sends {
        let family = usize::from(chance.one_in(3));
        let local = chance.one_in(4);
        let source = if local { chance.pick(OWN[family]) } else { chance.pick(OUTSIDE[family]) };
        let link = if local { "node" } else { chance.pick(&["l0", "l0", "l1", "l2"]) };
        let dest = chance.pick(TARGETS[family]);
        let sport = 1024 + number % 128;
        let protocol = chance.pick(&[
            "tcp:S", "tcp:S", "tcp:S", "udp:", "udp:", "sctp:1", "icmp:", "tcp:A", "tcp:R",
            "tcp:SA",
        ]);
        let (source, dest) = if protocol == "icmp:" {
            (bracket(source, &(2000 + number).to_string()), dest.to_owned())
        } else {
            (bracket(source, &sport.to_string()), bracket(dest, chance.pick(DPORTS)))
        };
        let mark = if local && chance.one_in(4) { " mark 4" } else { "" };
        let ttl = if chance.one_in(40) { " ttl 1" } else { "" };
        let _ = writeln!(text, "send p{number} {link} {protocol} {source} > {dest}{mark}{ttl}");
    }
    // Then one round of answers, one of more of the same, and one of answers again.
    for (verb, share, flags) in [
        ("reply", 2, &["", "SA", "RA", "A"][..]),
        ("again", 4, &["A", "A", "FA", "S", "R"]),
        ("reply", 8, &["A", "FA", "R", "SA"]),
        ("again", 8, &["A", "S", "FA"]),
    ] {
        for number in 0..sends {
            if chance.one_in(share) {
                let flags = if chance.one_in(2) { flags[0] } else { chance.pick(flags) };
                let _ = writeln!(text, "{verb} p{number} {flags}");
            }
        }
    }
}

pub(super) fn bracket(address: &str, port: &str) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn table(chance: &mut Chance, number: u64, rejects: bool) -> Vec<String> {
    let family = usize::from(chance.one_in(3));
    let inet = chance.one_in(3);
    let word = if inet { "inet" } else { ["ip", "ip6"][family] };
    let head = format!("{word} t{number}");
    let mut table = Table {
        lines: vec![format!("table {head}")],
        head,
        family,
        inet,
        rejects,
        chains: Vec::new(),
    };
    let regular = 1 + chance.below(3);
    for n in 0..regular {
        table.line(&format!("chain {{}} c{n}"));
    }
    table.sets(chance);
    // From the last to the first: jumps go forward only, so that most tables are taken.
    for n in (0..regular).rev() {
        let rules = 1 + chance.below(4);
        let name = format!("c{n}");
        for _ in 0..rules {
            let rule = table.rule(chance, "filter any");
            table.line(&format!("rule {{}} {name} {rule}"));
        }
        table.chains.push(name);
    }
    let bases = 1 + chance.below(5);
    for n in 0..bases {
        let hooks = ["prerouting", "input", "forward", "output", "postrouting"];
        let hook = chance.pick(&hooks);
        let nat = hook != "forward" && chance.one_in(2);
        let kind = if nat { "nat" } else { "filter" };
        let priority = match (nat, hook) {
            (true, "prerouting" | "output") => "-100",
            (true, _) => "100",
            _ => chance.pick(&["-300", "-150", "-100", "0", "0", "10", "100", "300"]),
        };
        let policy = if !nat && chance.one_in(12) { " drop" } else { "" };
        table.line(&format!("chain {{}} b{n} {kind} {hook} {priority}{policy}"));
        for _ in 0..1 + chance.below(5) {
            let rule = table.rule(chance, &format!("{kind} {hook}"));
            table.line(&format!("rule {{}} b{n} {rule}"));
        }
    }
    table.lines
}

impl Table {
    pub(super) fn line(&mut self, text: &str) {
        self.lines.push(text.replacen("{}", &self.head, 1));
    }

    pub(super) fn address(&self) -> &'static str {
        ["ip4", "ip6"][self.family]
    }

    pub(super) fn field(&self, name: &str) -> String {
        format!("{name}{}", ["4", "6"][self.family])
    }

    fn sets(&mut self, chance: &mut Chance) {
        let (address, endpoints, targets) =
            (self.address(), ENDPOINTS[self.family], TARGETS[self.family]);
        self.line(&format!("set {{}} addresses {address}"));
        self.line(&format!("set {{}} ranges {address} interval"));
        self.line(&format!("set {{}} frontends {address} . proto . port interval"));
        self.line(&format!("set {{}} services {address} . proto . port : {address} . port"));
        self.line(&format!("set {{}} numbered {address} . num : {address}"));
        self.rare_sets(chance);
        self.line("set {} portmarks port : mark");
        self.line(&format!("set {{}} seen {address} dynamic size 1000 timeout 60"));
        self.line(&format!("set {{}} verdicts {address} . proto . port : verdict"));
        for _ in 0..chance.below(3) {
            self.line(&format!("element {{}} addresses {}", chance.pick(targets)));
        }
        let range = [
            &["10.1.0.0-10.1.0.255", "10.96.0.1-10.96.0.1", "203.0.113.0-203.0.113.3"],
            &["fd10:1::-fd10:1::ff", "fd96::1-fd96::1", "2600::-2600::1"],
        ][self.family];
        self.line(&format!("element {{}} ranges {}", chance.pick(range)));
        let protocol = chance.pick(&["tcp", "udp", "tcp-udp"]);
        self.line(&format!(
            "element {{}} frontends {} . {protocol} . {}",
            chance.pick(range),
            chance.pick(&["80", "80-90", "0-65535"])
        ));
        for _ in 0..2 + chance.below(4) {
            let key = format!(
                "{} . {} . {}",
                chance.pick(targets),
                chance.pick(&["tcp", "udp", "sctp"]),
                chance.pick(DPORTS)
            );
            self.line(&format!(
                "element {{}} services {key} : {} . {}",
                chance.pick(endpoints),
                chance.pick(DPORTS)
            ));
        }
        let target = chance.pick(targets);
        for (n, endpoint) in endpoints.iter().take(3).enumerate() {
            self.line(&format!("element {{}} numbered {target} . {n} : {}", endpoint));
        }
        self.line(&format!(
            "element {{}} portmarks {} : {}",
            chance.pick(DPORTS),
            chance.below(16)
        ));
        let verdict = chance.pick(&["accept", "drop", "return", "jump c0", "goto c0"]);
        self.line(&format!(
            "element {{}} verdicts {} . tcp . {} : {verdict}",
            chance.pick(targets),
            chance.pick(DPORTS)
        ));
    }

    fn rule(&self, chance: &mut Chance, place: &str) -> String {
        let mut rule = String::new();
        for _ in 0..chance.below(3) {
            let rare = chance.one_in(4);
            let hook = place.split_once(' ').map_or("", |(_, hook)| hook);
            let one = if rare { self.rare_match(chance, hook) } else { self.matching(chance) };
            rule = rule + &one + " ";
        }
        rule += &self.action(chance, place);
        // As nft does it: what an address would be in a packet of the other family is a checksum.
        let addressed = ["addr", "nat4", "nat6", "@"].iter().any(|word| rule.contains(word));
        if self.inet && (addressed || chance.one_in(2)) {
            rule = format!("nfproto == {} {rule}", ["ipv4", "ipv6"][self.family]);
        }
        rule
    }

    fn matching(&self, chance: &mut Chance) -> String {
        let (saddr, daddr) = (self.field("saddr"), self.field("daddr"));
        let targets = TARGETS[self.family];
        let equal = chance.pick(&["==", "==", "!="]);
        match chance.below(24) {
            0 | 1 => format!("{daddr} {equal} {}", chance.pick(targets)),
            2 => format!("{saddr} {equal} {}", chance.pick(OUTSIDE[self.family])),
            3 => format!("proto {equal} {}", chance.pick(PROTOS)),
            4 => format!(
                "{PORTED} dport {} {}",
                chance.pick(&["==", "!=", "<", ">=", "<=", ">"]),
                chance.pick(DPORTS)
            ),
            5 => format!("{PORTED} dport {} 80-443", chance.pick(&["range", "outside"])),
            6 => format!("{daddr} {} @addresses", chance.pick(&["in", "notin"])),
            7 => format!("{saddr} {} @ranges", chance.pick(&["in", "notin"])),
            8 => format!("{daddr} . proto . dport {} @frontends", chance.pick(&["in", "notin"])),
            9 => format!(
                "ct.state & {} {} 0",
                chance.pick(&["new", "established", "established|related", "invalid", "related"]),
                chance.pick(&["==", "!="])
            ),
            10 => format!(
                "ct.status & {} {} 0",
                chance.pick(&["dnat", "snat", "seen-reply", "assured", "confirmed"]),
                chance.pick(&["==", "!="])
            ),
            11 => format!("mark & {} {} 0", 1 << chance.below(4), chance.pick(&["==", "!="])),
            12 => format!("iifname {equal} {}", chance.pick(&["l0", "l1", "lo"])),
            13 => format!("oifname {equal} {}", chance.pick(&["l0", "l1", "lo"])),
            14 => format!(
                "fib.{}.type {equal} {}",
                chance.pick(&["daddr", "saddr"]),
                chance.pick(&["local", "unicast"])
            ),
            15 => format!("orig.{daddr} {equal} {}", chance.pick(targets)),
            16 => format!("orig.dport {equal} {}", chance.pick(DPORTS)),
            17 => format!(
                "{PORTED} dport in {{ {} , {} }}",
                chance.pick(&["80", "81"]),
                chance.pick(&["443", "8080-8083"])
            ),
            18 => format!("{saddr} {equal} {daddr_value}", daddr_value = chance.pick(targets)),
            19 => format!("proto == tcp flags & 0x{:x} != 0", 1 << chance.below(5)),
            20 => format!("ct.mark {equal} {}", chance.below(3)),
            21 => format!(
                "{PORTED} {daddr} . dport in {{ {} . {} }}",
                chance.pick(targets),
                chance.pick(DPORTS)
            ),
            22 => format!("sport range 1024-{}", 1024 + chance.below(128)),
            _ => format!("ct.direction {equal} {}", chance.below(2)),
        }
    }

    fn action(&self, chance: &mut Chance, place: &str) -> String {
        let (kind, hook) = place.split_once(' ').unwrap_or((place, ""));
        if kind == "nat" && !chance.one_in(4) {
            return self.nat(chance, hook);
        }
        if chance.one_in(5) {
            return self.rare_action(chance);
        }
        let (saddr, daddr) = (self.field("saddr"), self.field("daddr"));
        match chance.below(20) {
            0 => "accept".to_owned(),
            1 => "drop".to_owned(),
            2 => "return".to_owned(),
            3 | 4 => match self.chains.last() {
                Some(chain) => format!("{} {chain}", chance.pick(&["jump", "goto"])),
                None => "counter".to_owned(),
            },
            5 if self.rejects && hook != "postrouting" => {
                format!("reject icmp {}", [3, 4][self.family])
            }
            6 if self.rejects && hook != "postrouting" => "proto == tcp reject reset".to_owned(),
            7 if self.inet && self.rejects && hook != "postrouting" => {
                format!("reject icmpx {}", chance.below(4))
            }
            8 => format!("set mark {} {}", chance.pick(&["or", "and", "xor"]), chance.below(16)),
            9 => format!("set mark {}", chance.below(16)),
            10 => format!("set ct.mark {}", 1 + chance.below(3)),
            11 => "set ct.mark from mark".to_owned(),
            12 => "set mark from ct.mark".to_owned(),
            13 => format!("{PORTED} set mark map dport @portmarks"),
            14 => format!("update @seen {saddr} timeout 60"),
            15 => format!("{daddr} in @seen {}", chance.pick(&["drop", "accept", "set mark 2"])),
            16 | 17 if !hook.eq("any") => format!("{daddr} . proto . dport vmap @verdicts"),
            18 => format!(
                "proto vmap {{ tcp : {} , udp : {} }}",
                chance.pick(&["accept", "drop", "return"]),
                chance.pick(&["continue", "return"])
            ),
            _ => "counter".to_owned(),
        }
    }

    fn nat(&self, chance: &mut Chance, hook: &str) -> String {
        let (dnat, snat) = (self.field("dnat"), self.field("snat"));
        let endpoints = ENDPOINTS[self.family];
        let own = OWN[self.family];
        let guard = if self.inet {
            format!("nfproto == {} ", ["ipv4", "ipv6"][self.family])
        } else {
            String::new()
        };
        let (daddr, ports) = (self.field("daddr"), "proto in { tcp , udp , sctp } ");
        if chance.one_in(3) {
            return guard + &self.rare_nat(chance, hook);
        }
        guard
            + &match (hook, chance.below(8)) {
                ("prerouting" | "output", 0) => format!("{dnat} {}", chance.pick(endpoints)),
                ("prerouting" | "output", 1 | 2) => {
                    format!("{ports}{dnat} {} port {}", chance.pick(endpoints), chance.pick(DPORTS))
                }
                ("prerouting" | "output", 3 | 4) => {
                    format!("{dnat} map {daddr} . proto . dport @services")
                }
                ("prerouting" | "output", 5) => {
                    format!("{dnat} map {daddr} . numgen.inc/3 @numbered")
                }
                ("prerouting" | "output", 6) => {
                    format!("{ports}redirect port {}", chance.pick(DPORTS))
                }
                ("prerouting" | "output", _) => format!("{ports}redirect"),
                ("postrouting", 0..=4) => "masquerade".to_owned(),
                ("postrouting", 5) => format!("{ports}masquerade fully-random"),
                _ => format!("{snat} {}", chance.pick(own)),
            }
    }
}
