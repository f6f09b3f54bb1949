//! iptables' rules by two ways on the real kernel: once by iptables-nft-restore, once by our batch.
//! What the tools then list must be the same text, and the tool must find and delete our rules.
//! Tests: it is all test; skipped with the reason where there is no right or no tool for it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use kube_proxy::backend::iptables::chain::{self, Chain, Kind, Name};
use kube_proxy::backend::iptables::compat::encode;
use kube_proxy::backend::iptables::rule::{Match, Rule, SourcePort, State, Target, Test};
use kube_proxy::kernel::real::Real;
use kube_proxy::kernel::{Facts, Kernel as _, Query, Socket, Transaction};
use kube_proxy::model::{Family, Protocol};
use kube_proxy::netlink::compat::essence;
use kube_proxy::netlink::nft::{Batch, ChainKind, Hook};
use netlab::namespace::Namespace;

/// A base chain: name, hook, priority.
type Base = (&'static str, u32, i32);

struct Content {
    table: &'static str,
    kind: ChainKind,
    bases: Vec<Base>,
    chains: Vec<(Chain, Vec<Rule>)>,
}

const PRE: Chain = Chain::Fixed("KUBE-PRE");
const POST: Chain = Chain::Fixed("KUBE-POST");
const INNER: Chain = Chain::Fixed("KUBE-INNER");

fn sep() -> Chain {
    Chain::Of(Kind::Endpoint, Name::of(&["a"]))
}

fn pick<'a>(family: Family, v4: &'a str, v6: &'a str) -> &'a str {
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}

fn filter(family: Family) -> Content {
    let loopback = || pick(family, "127.0.0.0/8", "::1/128").parse().unwrap();
    let address = || pick(family, "10.0.0.1", "fd00::1").parse().unwrap();
    let mark = (0x4000, 0x4000);
    let states = |states| Match::State(Test::is(states));
    let mut guard = Rule::commented("block incoming localnet connections")
        .with(Match::State(Test::is_not(&[State::Related, State::Established, State::Dnat])))
        .then(Target::Drop);
    guard.source = Some(Test::is_not(loopback()));
    guard.destination = Some(Test::is(loopback()));
    let rules = vec![
        guard,
        Rule::default().with(states(&[State::Invalid])).then(Target::Drop),
        Rule::commented("kubernetes forwarding rules")
            .with(Match::Mark(Test::is(mark)))
            .then(Target::Accept),
        Rule::commented("it's \"quoted\" \\ so é").with(states(&[State::New])).jump(INNER),
        Rule::commented("ns/a:p has no endpoints")
            .to(address())
            .port(Protocol::Tcp, Some(80))
            .then(Target::Reject),
        Rule::commented("node-port")
            .with(Match::DestinationIsLocal)
            .port(Protocol::Udp, Some(30000))
            .then(Target::Drop),
        Rule::commented("sctp").port(Protocol::Sctp, Some(9)).then(Target::Accept),
        Rule::default().port(Protocol::Sctp, None).then(Target::Return),
        Rule::default().port(Protocol::Udp, None).then(Target::Return),
        Rule::commented("no target"),
        Rule { link: Some(Test::is(Arc::from("eth+"))), ..Rule::default() }.then(Target::Return),
        Rule { link: Some(Test::is_not(Arc::from("eth0"))), ..Rule::default() }
            .port(Protocol::Tcp, Some(1))
            .from(Test::is(pick(family, "10.0.0.0/8", "fd00::/8").parse().unwrap()))
            .then(Target::Return),
    ];
    let input = Rule::commented("x y").with(states(&[State::New])).jump(PRE);
    Content {
        table: "filter",
        kind: ChainKind::Filter,
        bases: vec![("INPUT", 1, 0)],
        chains: vec![(INNER, vec![]), (PRE, rules), (Chain::Fixed("INPUT"), vec![input])],
    }
}

fn nat(family: Family) -> Content {
    let address = || pick(family, "10.0.0.1", "fd00::1").parse().unwrap();
    let pods = |v4, v6| pick(family, v4, v6).parse().unwrap();
    let socket =
        Socket { address: pick(family, "10.1.0.1", "fd00:1::1").parse().unwrap(), port: 8080 };
    let mark = (0x4000, 0x4000);
    let nat = |value, mask| Rule::default().then(Target::Mark { value, mask });
    let mut nodes = Rule::commented("this must be the last rule in this chain")
        .with(Match::DestinationIsLocal)
        .jump(chain::MARK_MASQ);
    nodes.destination = Some(Test::is_not(pods("127.0.0.0/8", "::1/128")));
    let pre = vec![
        Rule::commented("c")
            .to(address())
            .from(Test::is_not(pods("10.128.0.0/9", "fd00:8000::/17")))
            .port(Protocol::Tcp, Some(80))
            .jump(chain::MARK_MASQ),
        Rule::default().from(Test::is(pods("10.0.0.0/12", "fd00:1::/33"))).jump(chain::MARK_MASQ),
        Rule::default().with(Match::OneOf(10)).jump(sep()),
        Rule::default().with(Match::OneOf(3)).jump(sep()),
        Rule::commented("ns/a").with(Match::Remembered(sep(), 10_800)).jump(sep()),
        Rule::commented("local").with(Match::SourceIsLocal).jump(chain::MARK_MASQ),
        nodes,
    ];
    let endpoint = vec![
        Rule::commented("ns/a").from(Test::is(socket.address.into())).jump(chain::MARK_MASQ),
        Rule::commented("ns/a")
            .with(Match::Remember(sep()))
            .port(Protocol::Tcp, None)
            .then(Target::Dnat(socket)),
        Rule::default().port(Protocol::Sctp, None).then(Target::Dnat(socket)),
    ];
    let post = vec![
        Rule::default().with(Match::Mark(Test::is_not(mark))).then(Target::Return),
        nat(0x4000, 0),
        Rule::commented("SNAT").then(Target::Masquerade(SourcePort::Random)),
        Rule::default().then(Target::Masquerade(SourcePort::AsTheKernelLikes)),
    ];
    let jump = |to| vec![Rule::commented("kubernetes service portals").jump(to)];
    Content {
        table: "nat",
        kind: ChainKind::Nat,
        bases: vec![("PREROUTING", 0, -100), ("POSTROUTING", 4, 100)],
        chains: vec![
            (chain::MARK_MASQ, vec![nat(0x4000, 0x4000)]),
            (sep(), endpoint),
            (PRE, pre),
            (POST, post),
            (Chain::Fixed("PREROUTING"), jump(PRE)),
            (Chain::Fixed("POSTROUTING"), jump(POST)),
        ],
    }
}

fn text(content: &Content, family: Family) -> String {
    let mut out = format!("*{}\n", content.table);
    let base = |chain: &Chain| content.bases.iter().any(|b| b.0 == chain.to_string());
    for (chain, _) in content.chains.iter().filter(|(chain, _)| !base(chain)) {
        out += &format!(":{chain} - [0:0]\n");
    }
    for (chain, rules) in &content.chains {
        for rule in rules {
            out += &format!("-A {chain}{}\n", rule.text(family));
        }
    }
    out + "COMMIT\n"
}

fn batch(content: &Content, family: Family) -> Transaction {
    let mut batch = Batch::new(family, content.table);
    batch.add_plain_table();
    for (name, number, priority) in &content.bases {
        let hook = Hook { kind: content.kind, number: *number, priority: *priority };
        batch.add_chain(name, Some(hook));
    }
    for (chain, _) in &content.chains {
        if !content.bases.iter().any(|b| b.0 == chain.to_string()) {
            batch.add_chain(&chain.to_string(), None);
        }
    }
    for (chain, rules) in &content.chains {
        for rule in rules {
            batch.add_rule(&chain.to_string(), &encode(rule, family).unwrap());
        }
    }
    Transaction::Nft(batch.finish())
}

/// Runs a tool; what it printed, or what it complained of.
fn tool(words: &[&str], stdin: &str) -> Result<String, String> {
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{}: {e}", words[0]))?;
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    match out.status.success() {
        true => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
        false => Err(format!("{words:?}: {}", String::from_utf8_lossy(&out.stderr))),
    }
}

/// What the tools list: iptables' text, and of each table nft's expressions and chains.
fn listing(family: Family) -> String {
    let save = pick(family, "iptables-nft-save", "ip6tables-nft-save");
    let saved = tool(&[save], "").unwrap();
    let mut out: Vec<String> = saved.lines().map(str::to_owned).collect();
    out.retain(|line| !line.starts_with('#'));
    for table in ["filter", "nat"] {
        let ip = pick(family, "ip", "ip6");
        let nft = tool(&["nft", "--debug=netlink", "list", "table", ip, table], "").unwrap();
        out.extend(in_order(&nft));
        out.extend(in_kernel(family, table));
    }
    out.join("\n")
}

/// What the kernel has of each rule: the bytes of its expressions, structs and all.
fn in_kernel(family: Family, table: &str) -> Vec<String> {
    let query = Query::Rules(family, table.to_owned(), None);
    let Facts::Rules(rules) = Real::open().unwrap().read(&query).unwrap() else {
        panic!("rules were asked for");
    };
    let mut all: Vec<String> = rules
        .iter()
        .map(|rule| format!("{} {:02x?}", rule.chain, essence(&rule.expressions)))
        .collect();
    assert!(!all.is_empty());
    all.sort();
    all
}

/// The paragraphs of a table's listing (a rule's expressions, or a chain), in an order of their
/// own: nft lists chains as they were made, and handles are each way's own.
fn in_order(nft: &str) -> Vec<String> {
    let plain = |line: &str| match line.starts_with("ip") {
        true => line.split(' ').take(3).collect::<Vec<_>>().join(" "),
        false => line.to_owned(),
    };
    let lines = nft.lines().filter(|line| !matches!(line.as_bytes(), [b't' | b'}' | b'#', ..]));
    let text: Vec<String> = lines.map(plain).collect();
    let text = text.join("\n");
    let mut paragraphs: Vec<String> =
        text.split("\n\n").map(|paragraph| paragraph.trim_matches('\n').to_owned()).collect();
    paragraphs.sort();
    paragraphs
}

/// A namespace, or the reason why there is none.
fn namespace(name: &str) -> Option<Namespace> {
    let why = match (Namespace::new(name), tool(&["iptables-nft", "--version"], "")) {
        (Ok(namespace), Ok(_)) => return Some(namespace),
        (Err(why), _) | (_, Err(why)) => why,
    };
    assert!(std::env::var("NETLAB").as_deref() != Ok("required"), "{why}");
    eprintln!("skipped: {why}");
    None
}

fn by_tool(family: Family) -> Option<String> {
    let restore = pick(family, "iptables-nft-restore", "ip6tables-nft-restore");
    Some(namespace("tool")?.run(|| {
        for content in [filter(family), nat(family)] {
            tool(&[restore, "--noflush"], &text(&content, family)).unwrap();
        }
        listing(family)
    }))
}

fn load(family: Family) {
    let mut kernel = Real::open().unwrap();
    for content in [filter(family), nat(family)] {
        kernel.apply(&batch(&content, family)).unwrap();
    }
}

#[test]
fn the_tools_list_our_rules_as_their_own() {
    for family in Family::ALL {
        let Some(wanted) = by_tool(family) else { return };
        let found = namespace("ours").unwrap().run(|| {
            load(family);
            listing(family)
        });
        assert!(wanted.contains("--reap"), "{wanted}");
        for (wanted, found) in wanted.lines().zip(found.lines()) {
            assert_eq!(found, wanted);
        }
        assert_eq!(found, wanted);
    }
}

#[test]
fn the_tool_finds_and_deletes_every_rule_of_ours() {
    for family in Family::ALL {
        let Some(ours) = namespace("ours") else { return };
        let restore = pick(family, "iptables-nft-restore", "ip6tables-nft-restore");
        let iptables = pick(family, "iptables-nft", "ip6tables-nft");
        ours.run(|| {
            load(family);
            for content in [filter(family), nat(family)] {
                let table = content.table;
                for (chain, rules) in content.chains.iter().rev() {
                    for rule in rules {
                        let rule = rule.text(family);
                        for verb in ["-C", "-D"] {
                            let line = format!("*{table}\n{verb} {chain}{rule}\nCOMMIT\n");
                            tool(&[restore, "--noflush"], &line).expect(&line);
                        }
                    }
                }
                let left = tool(&[iptables, "-t", table, "-S"], "").unwrap();
                assert!(!left.contains("-A"), "{left}");
            }
        });
    }
}
