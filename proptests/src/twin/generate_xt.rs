//! Texts for iptables-restore and ipset restore from a seed, in the dialect of kube-proxy, kubelet, CNI plugins
//! and portmap. Only text leaves this file. Tests: `netlab fuzz`.

use super::generate::{Chance, DPORTS, ENDPOINTS, OUTSIDE, OWN, TARGETS, bracket};

const BUILT_IN: &[(&str, &[&str])] = &[
    ("raw", &["PREROUTING", "OUTPUT"]),
    ("mangle", &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]),
    ("nat", &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]),
    ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
];
const TOOLS: [&str; 2] = ["iptables", "ip6tables"];
const NETS: [&[&str]; 2] = [
    &["10.1.0.0/16", "203.0.113.0/30", "10.96.0.0/12", "192.0.2.1/32", "0.0.0.0/0"],
    &["fd10:1::/32", "2600::/126", "fd96::/16", "2001:db8::1/128", "::/0"],
];
/// What no tool takes, whole, after the others. (`-I`: of what no packet reaches the legacy tool takes more.)
const WRONG: &[&str] = &[
    "*filter\n-A FORWARD -j NOWHERE\nCOMMIT",
    "*filter\n:C0 - [0:0]\n-A C0 -j C0\n-I FORWARD -j C0\nCOMMIT",
    "*nat\n:X0 - [0:0]\n-A X0 -j MASQUERADE\n-I PREROUTING -j X0\nCOMMIT",
    "*filter\n-A FORWARD -m tcp --dport 80 -j ACCEPT\nCOMMIT",
    "*filter\n-A FORWARD -m set --match-set none dst -j DROP\nCOMMIT",
    "*mangle\n-A FORWARD -j REJECT\nCOMMIT",
    "*nat\n-A PREROUTING -j REDIRECT --to-ports 80\nCOMMIT",
    "*nat\n:PREROUTING DROP [0:0]\nCOMMIT",
    "*filter\n-A FORWARD -m mark -j DROP\nCOMMIT",
    "*filter\n-X NOWHERE\nCOMMIT",
];

/// What a rule stands in.
struct Place<'a> {
    table: &'a str,
    /// A built-in chain, or `*` for one that any calls.
    hook: &'a str,
    /// Chains it may jump to.
    below: &'a [String],
    family: usize,
}

/// The lines of one or more texts.
pub(super) fn texts(chance: &mut Chance) -> String {
    let mut out = sets(chance);
    for (family, tool) in TOOLS.iter().enumerate() {
        if family == 1 && !chance.one_in(2) {
            continue;
        }
        for (table, hooks) in BUILT_IN {
            let often = if matches!(*table, "nat" | "filter") { 3 } else { 1 };
            if chance.below(4) < often {
                let text = table_text(chance, (table, hooks), family);
                prefixed(&mut out, tool, &text);
            }
        }
    }
    if chance.one_in(5) {
        prefixed(&mut out, TOOLS[0], chance.pick(WRONG));
    }
    out
}

fn prefixed(out: &mut String, tool: &str, text: &str) {
    for line in text.lines() {
        *out += &format!("{tool}: {line}\n");
    }
}

fn sets(chance: &mut Chance) -> String {
    let mut text = String::new();
    for (family, word) in ["inet", "inet6"].into_iter().enumerate() {
        let (targets, n) = (TARGETS[family], ["4", "6"][family]);
        text += &format!("create A{n} hash:ip family {word}\n");
        text += &format!("create P{n} hash:ip,port family {word}\n");
        text += &format!("create L{n} hash:ip,port,ip family {word}\n");
        text += &format!("create N{n} hash:net family {word}\n");
        for _ in 0..1 + chance.below(3) {
            let protocol = chance.pick(&["tcp", "udp", "sctp"]);
            let (one, port) = (chance.pick(targets), chance.pick(DPORTS));
            text += &format!("add A{n} {one} -exist\nadd P{n} {one},{protocol}:{port} -exist\n");
            text += &format!("add L{n} {one},{protocol}:{port},{one} -exist\n");
        }
        let net = NETS[family][chance.below(4) as usize];
        text += &format!("add N{n} {net} -exist\n");
        let but = chance.pick(targets);
        if chance.one_in(2) {
            text += &format!("add N{n} {but} nomatch -exist\n");
        }
    }
    text += "create B bitmap:port range 0-65535\n";
    text += &format!("add B {} -exist\n", chance.pick(DPORTS));
    let mut out = String::new();
    prefixed(&mut out, "ipset", &text);
    out
}

fn table_text(chance: &mut Chance, (table, hooks): (&str, &[&str]), family: usize) -> String {
    let mut head = format!("*{table}\n");
    let mut rules = Vec::new();
    let mut chains: [Vec<String>; 2] = Default::default();
    // A chain of nat serves destinations or sources; from the last to the first, so that none is a circle.
    for n in 0..chance.below(4) {
        let side = usize::from(table == "nat" && n % 2 == 1);
        let name = format!("{}{n}", ["KUBE-D", "KUBE-S"][side]);
        head += &format!(":{name} - [0:0]\n");
        let hook = if table == "nat" { ["OUTPUT", "POSTROUTING"][side] } else { "*" };
        for _ in 0..1 + chance.below(3) {
            let place = Place { table, hook, below: &chains[side], family };
            rules.push(format!("-A {name} {}", place.rule(chance, false)));
        }
        chains[side].push(name);
    }
    for hook in hooks {
        if table != "nat" && chance.one_in(10) {
            head += &format!(":{hook} DROP [0:0]\n");
        }
        for _ in 0..chance.below(4) {
            let side = usize::from(table == "nat" && matches!(*hook, "INPUT" | "POSTROUTING"));
            let place = Place { table, hook, below: &chains[side], family };
            rules.push(format!("-A {hook} {}", place.rule(chance, true)));
        }
    }
    head + &rules.join("\n") + "\nCOMMIT\n"
}

impl Place<'_> {
    fn rule(&self, chance: &mut Chance, built_in: bool) -> String {
        let (mut protocol, mut matches) = (String::new(), String::new());
        for _ in 0..chance.below(3) {
            matches = matches + &self.plain(chance, built_in) + " ";
        }
        let target = self.target(chance);
        let ported = target.contains("--to-ports")
            || target.contains("--random")
            || target.contains("--to-destination") && !target.contains("persistent");
        if target.contains("tcp-reset") {
            protocol = "-p tcp ".to_owned();
        } else if ported || chance.one_in(2) {
            protocol = self.protocol(chance, ported);
        }
        format!("{protocol}{matches}{target}")
    }

    /// A protocol and what is asked of it.
    fn protocol(&self, chance: &mut Chance, ported: bool) -> String {
        let name = chance.pick(&["tcp", "udp", "sctp"]);
        let (one, other) = (chance.pick(DPORTS), chance.pick(DPORTS));
        let not = chance.pick(&["", "", "! "]);
        match chance.below(if ported { 5 } else { 9 }) {
            0 | 1 => format!("-p {name} -m {name} {not}--dport {one} "),
            2 => format!("-p {name} -m multiport {not}--dports {one},{other},8080:8083 "),
            3 => format!("-p {name} -m {name} --sport 1024:{} ", 1024 + chance.below(128)),
            4 => format!("-p {name} "),
            5 => format!("-p tcp -m tcp {not}--tcp-flags FIN,SYN,RST,ACK SYN "),
            6 => {
                format!("-p tcp -m tcp {not}--tcp-flags {} ", chance.pick(&["RST RST", "ACK ACK"]))
            }
            7 if self.family == 0 => format!("-p icmp -m icmp {not}--icmp-type 8 "),
            7 => format!("-p ipv6-icmp -m icmp6 {not}--icmpv6-type 128 "),
            _ => format!("! -p {name} "),
        }
    }

    fn plain(&self, chance: &mut Chance, built_in: bool) -> String {
        let (targets, nets, f) = (TARGETS[self.family], NETS[self.family], ["4", "6"][self.family]);
        let not = chance.pick(&["", "", "! "]);
        let outside = OUTSIDE[self.family];
        match chance.below(22) {
            0 => format!("-m mark {not}--mark 0x{:x}/0x{:x}", chance.below(16), 15),
            1 => format!("-m mark {not}--mark 0x4/0x4"),
            2 => format!("-m connmark {not}--mark 0x{:x}", chance.below(4)),
            3 | 4 => {
                let states =
                    ["NEW", "INVALID", "RELATED,ESTABLISHED", "DNAT", "SNAT", "NEW,UNTRACKED"];
                format!("-m conntrack {not}--ctstate {}", chance.pick(&states))
            }
            5 => format!("-m conntrack {not}--ctorigdst {}", chance.pick(targets)),
            6 => format!("-m conntrack --ctdir {}", chance.pick(&["ORIGINAL", "REPLY"])),
            7 => format!("-m conntrack {not}--ctproto {}", chance.pick(&["6", "17"])),
            8 | 9 => format!("-m addrtype {not}--dst-type {}", chance.pick(&["LOCAL", "UNICAST"])),
            10 => format!("-m addrtype {not}--src-type LOCAL"),
            11 => {
                let every = 2 + chance.below(3);
                format!("-m statistic --mode nth --every {every} --packet {}", chance.below(every))
            }
            12 => format!("-m recent --name R{f} --set"),
            13 => format!(
                "-m recent --name R{f} {not}{} --seconds 600",
                chance.pick(&["--rcheck", "--update"])
            ),
            14 => format!("-m set {not}--match-set A{f} {}", chance.pick(&["src", "dst"])),
            15 => format!("-m set {not}--match-set P{f} {}", chance.pick(&["dst,dst", "src,dst"])),
            16 => format!(
                "-m set {not}--match-set {} ",
                chance.pick(&[
                    &format!("L{f} dst,dst,src"),
                    &format!("N{f} src"),
                    &format!("N{f} dst"),
                    "B dst"
                ])
            ),
            17 => format!("-m limit --limit 1/hour --limit-burst {}", 3 + chance.below(20)),
            18 if built_in && self.comes_in() => {
                format!("{not}-i {}", chance.pick(&["l0", "l1", "l+", "lo"]))
            }
            18 if built_in && self.goes_out() => {
                format!("{not}-o {}", chance.pick(&["l0", "l1", "l+", "lo"]))
            }
            19 => "-m comment --comment \"kubernetes service portals\"".to_owned(),
            20 => format!("{not}-s {}", chance.pick(&[outside[0], nets[1], nets[0]])),
            _ => format!("{not}-d {}", chance.pick(&[targets[0], targets[2], nets[0], nets[2]])),
        }
    }

    fn comes_in(&self) -> bool {
        matches!(self.hook, "PREROUTING" | "INPUT" | "FORWARD")
    }

    fn goes_out(&self) -> bool {
        matches!(self.hook, "FORWARD" | "OUTPUT" | "POSTROUTING")
    }

    fn target(&self, chance: &mut Chance) -> String {
        if self.table == "nat" && !chance.one_in(4) {
            return self.nat(chance);
        }
        let (one, mask) = (chance.below(16), 1 + chance.below(15));
        match chance.below(14) {
            0 => "-j ACCEPT".to_owned(),
            1 if self.table != "nat" => "-j DROP".to_owned(),
            2 => "-j RETURN".to_owned(),
            3..=5 => match self.below.last() {
                Some(chain) => format!("-{} {chain}", chance.pick(&["j", "j", "g"])),
                None => String::new(),
            },
            6 | 7 if self.table == "filter" => {
                let four = ["port-unreachable", "admin-prohibited", "host-unreachable"];
                let six = ["port-unreachable", "adm-prohibited", "addr-unreachable"];
                let (word, kind) = [("icmp", four), ("icmp6", six)][self.family];
                format!("-j REJECT --reject-with {word}-{}", chance.pick(&kind))
            }
            8 if self.table == "filter" => "-j REJECT --reject-with tcp-reset".to_owned(),
            9 => format!(
                "-j MARK --{} 0x{mask:x}",
                chance.pick(&["or-mark", "and-mark", "xor-mark"])
            ),
            10 => format!("-j MARK --set-xmark 0x{one:x}/0x{mask:x}"),
            11 => format!("-j CONNMARK --{}", chance.pick(&["save-mark", "restore-mark"])),
            12 => format!("-j CONNMARK --set-xmark 0x{one:x}/0x{mask:x}"),
            _ => String::new(),
        }
    }

    fn nat(&self, chance: &mut Chance) -> String {
        let (ends, own) = (ENDPOINTS[self.family], OWN[self.family]);
        let destination = matches!(self.hook, "PREROUTING" | "OUTPUT");
        match chance.below(9) {
            0..=3 if destination => {
                let end = bracket(chance.pick(ends), chance.pick(DPORTS));
                format!("-j DNAT --to-destination {end}")
            }
            4 if destination => format!("-j DNAT --to-destination {}", chance.pick(ends)),
            5 if destination => {
                format!("-j DNAT --to-destination {}-{} --persistent", ends[0], ends[1])
            }
            _ if destination => format!("-j REDIRECT --to-ports {}", chance.pick(DPORTS)),
            _ if self.hook == "INPUT" => format!("-j SNAT --to-source {}", chance.pick(own)),
            0..=4 => "-j MASQUERADE".to_owned(),
            5 => "-j MASQUERADE --random-fully".to_owned(),
            6 => "-j MASQUERADE --to-ports 3000-3010".to_owned(),
            _ => format!("-j SNAT --to-source {}", chance.pick(own)),
        }
    }
}
