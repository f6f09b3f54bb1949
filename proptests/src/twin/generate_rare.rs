//! The rarer matches and actions of random tables: hashes, limits, changing sets, ranges, maps of intervals, and
//! tables where chance decides. Only text leaves this file. Tests: `netlab fuzz`.

use super::generate::{Chance, DPORTS, ENDPOINTS, OUTSIDE, OWN, PORTED, TARGETS, Table, bracket};

impl Table {
    /// Sets and maps that the rarer rules ask.
    pub(super) fn rare_sets(&mut self, chance: &mut Chance) {
        let address = self.address();
        self.line(&format!("set {{}} zones {address} : mark interval"));
        self.line(&format!("set {{}} gates {address} : verdict interval"));
        self.line(&format!("set {{}} doors {address} . port : {address} . port interval"));
        self.line(&format!("set {{}} learnt {address} : mark dynamic size 1000 timeout 600"));
        self.line(&format!("set {{}} flows {address} . port dynamic size 1000 timeout 600"));
        let parts = [
            ["10.1.0.0-10.1.0.255", "10.96.0.0-10.96.255.255", "203.0.113.0-203.0.113.3"],
            ["fd10:1::-fd10:1::ff", "fd96::1-fd96::1", "2600::-2600::1"],
        ][self.family];
        for part in parts {
            if chance.one_in(2) {
                self.line(&format!("element {{}} zones {part} : {}", chance.below(16)));
            }
            let verdict = chance.pick(&["accept", "drop", "return", "continue"]);
            self.line(&format!("element {{}} gates {part} : {verdict}"));
        }
        let end = chance.pick(ENDPOINTS[self.family]);
        let port = chance.pick(DPORTS);
        self.line(&format!("element {{}} doors {} . 80-443 : {end} . {port}", parts[1]));
    }

    pub(super) fn rare_match(&self, chance: &mut Chance, hook: &str) -> String {
        let (saddr, daddr) = (self.field("saddr"), self.field("daddr"));
        let equal = chance.pick(&["==", "!="]);
        let part = chance.below(3);
        match chance.below(9) {
            0 => format!("{PORTED} jhash/3/7 ( {saddr} . sport ) {equal} {part}"),
            1 => format!("jhash/3/0 ( {saddr} ) {equal} {part}"),
            2 => format!("{PORTED} jhash/3/9 ( {daddr} . dport . proto ) {equal} {part}"),
            3 => format!("limit {} burst {}", 1 + chance.below(20), 1 + chance.below(30)),
            4 if matches!(hook, "prerouting" | "input" | "forward") => {
                format!("fib.saddr.iif.oif {equal} 0")
            }
            5 if matches!(hook, "prerouting" | "input" | "forward") => {
                format!("fib.daddr.iif.type {equal} {}", chance.pick(&["local", "unicast"]))
            }
            6 => format!("numgen.inc/3 {equal} {part}"),
            7 => format!("{daddr} range {}", self.around(chance)),
            _ => format!("{PORTED} sport outside 1024-{}", 1024 + chance.below(128)),
        }
    }

    fn around(&self, chance: &mut Chance) -> &'static str {
        chance.pick(
            [
                &["10.1.0.0-10.1.255.255", "0.0.0.0-192.0.2.1"][..],
                &["fd10:1::-fd10:1:ffff::", "::-fd10:1::1"],
            ][self.family],
        )
    }

    pub(super) fn rare_action(&self, chance: &mut Chance) -> String {
        let (saddr, daddr) = (self.field("saddr"), self.field("daddr"));
        match chance.below(8) {
            0 => format!("add @seen {saddr} timeout 600"),
            1 => format!("delete @seen {saddr}"),
            2 => format!("set mark map {daddr} @zones"),
            3 => format!("{saddr} vmap @gates"),
            4 => format!("update @learnt {saddr} timeout 600 value mark"),
            5 => format!("set mark map {saddr} @learnt"),
            6 => format!("{PORTED} update @flows {saddr} . sport timeout 600"),
            _ => format!("{PORTED} {saddr} . sport in @flows set mark xor 1"),
        }
    }

    pub(super) fn rare_nat(&self, chance: &mut Chance, hook: &str) -> String {
        let (dnat, snat) = (self.field("dnat"), self.field("snat"));
        let (saddr, daddr) = (self.field("saddr"), self.field("daddr"));
        let ends = ENDPOINTS[self.family];
        let ports = "proto in { tcp , udp , sctp } ";
        let flags = chance.pick(&["", " persistent"]);
        match (hook, chance.below(6)) {
            ("prerouting" | "output", 0) => format!("{dnat} {}-{}{flags}", ends[0], ends[1]),
            ("prerouting" | "output", 1) => {
                format!("{ports}{dnat} {} port 8080-8083", chance.pick(ends))
            }
            ("prerouting" | "output", 2) => format!("{ports}redirect port 8080-8083"),
            ("prerouting" | "output", 3) => {
                format!("{ports}{dnat} map {daddr} . jhash/3/5 ( {saddr} . sport ) @numbered")
            }
            ("prerouting" | "output", _) => format!("{ports}{dnat} map {daddr} . dport @doors"),
            ("postrouting", 0 | 1) => format!("{ports}masquerade port 3000-3063"),
            ("postrouting", 2) => format!("{ports}masquerade random"),
            (_, 3) => format!("{ports}{snat} {} port 4000-4063", chance.pick(OWN[self.family])),
            (_, 4) => format!("{snat} {}{flags}", self.own_range()),
            _ => format!("{ports}{snat} {} fully-random", chance.pick(OWN[self.family])),
        }
    }

    fn own_range(&self) -> &'static str {
        ["192.0.2.1-192.0.2.3", "2001:db8::1-2001:db8::3"][self.family]
    }
}

/// A table where chance chooses, and packets by the hundred that show how.
pub(super) fn by_chance(chance: &mut Chance) -> String {
    let family = usize::from(chance.one_in(3));
    let (word, address, four) = [("ip", "ip4", "4"), ("ip6", "ip6", "6")][family];
    let target = chance.pick(&TARGETS[family][..2]);
    let parts = 2 + chance.below(3);
    let head = format!("{word} chance");
    let mut text = format!("table {head}\nset {head} ends {address} . num : {address} . port\n");
    text += &format!("chain {head} n nat prerouting -100\nchain {head} o nat output -100\n");
    text += &format!("chain {head} p nat postrouting 100\nchain {head} f filter forward 0\n");
    for n in 0..parts {
        let end = ENDPOINTS[family][n as usize % 3];
        text += &format!("element {head} ends {target} . {n} : {end} . {}\n", 8080 + n);
    }
    let share = 2 + chance.below(5);
    if chance.one_in(2) {
        text += &format!("rule {head} f numgen.random/{share} == 0 drop\n");
    }
    for chain in ["n", "o"] {
        let rule = format!("dnat{four} map daddr{four} . numgen.random/{parts} @ends");
        text += &format!("rule {head} {chain} {PORTED} {rule}\n");
    }
    if chance.one_in(2) {
        text += &format!("rule {head} p {PORTED} masquerade\n");
    }
    for _ in 0..2 {
        let protocol = chance.pick(&["tcp:S", "udp:", "sctp:1"]);
        let local = chance.one_in(3);
        let from = if local { OWN[family] } else { &OUTSIDE[family][..2] };
        let source = bracket(chance.pick(from), &(20_000 + 1000 * chance.below(20)).to_string());
        let link = if local { "node" } else { "l0" };
        let dest = bracket(target, chance.pick(DPORTS));
        text += &format!("spread 150 {link} {protocol} {source} > {dest}\nforget\n");
    }
    text
}
