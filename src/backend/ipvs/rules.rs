//! The rules of iptables beside IPVS: the reference's chains by their names, always the same number
//! of rules, which ask sets (`pkg/proxy/ipvs/proxier.go`, writeIptablesRules). IPVS takes a packet
//! behind INPUT of filter, and one that is made here before OUTPUT of filter: what the node itself
//! must not reach is dropped in mangle. It must never know Services. Tests: below, `proptests`.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::sets::Set;
use crate::backend::Options;
use crate::backend::xtables::chain::{
    Chain, FORWARD, MARK_MASQ, POSTROUTING, PROXY_FIREWALL, SERVICES, Table,
};
use crate::backend::xtables::local::Local;
use crate::backend::xtables::rule::{Match, Rule, SourcePort, State, Target, Test};
use crate::model::{Family, Protocol};

const NODE_PORT: Chain = Chain::Fixed("KUBE-NODE-PORT");
const LOAD_BALANCER: Chain = Chain::Fixed("KUBE-LOAD-BALANCER");
const SOURCE_RANGES: Chain = Chain::Fixed("KUBE-SOURCE-RANGES-FIREWALL");
const IPVS_FILTER: Chain = Chain::Fixed("KUBE-IPVS-FILTER");
const IPVS_OUT_FILTER: Chain = Chain::Fixed("KUBE-IPVS-OUT-FILTER");
const NO_LOCAL: Chain = Chain::Fixed("KUBE-IPVS-NO-LOCAL");

/// Rules as they are or are to be: those of each chain, by table.
type Chains<T> = BTreeMap<(Table, String), Vec<T>>;

/// Every chain of ours with its rules, and the rules that lead there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    chains: Chains<String>,
    /// In the order in which they are put at the beginning of their chains: the last one is asked
    /// first.
    jumps: Vec<((Table, &'static str), String)>,
}

/// A text for iptables-restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The text; empty if there is nothing to do.
    pub text: String,
    /// How many chains and rules it makes or takes away.
    pub operations: usize,
}

const JUMPS: [(Table, &str, Chain, &str); 9] = [
    (Table::Nat, "OUTPUT", SERVICES, "kubernetes service portals"),
    (Table::Nat, "PREROUTING", SERVICES, "kubernetes service portals"),
    (Table::Nat, "POSTROUTING", POSTROUTING, "kubernetes postrouting rules"),
    (Table::Filter, "FORWARD", FORWARD, "kubernetes forwarding rules"),
    (Table::Filter, "INPUT", NODE_PORT, "kubernetes health check rules"),
    (Table::Filter, "INPUT", PROXY_FIREWALL, "kube-proxy firewall rules"),
    (Table::Filter, "FORWARD", PROXY_FIREWALL, "kube-proxy firewall rules"),
    (Table::Filter, "INPUT", IPVS_FILTER, "kubernetes ipvs access filter"),
    (Table::Mangle, "OUTPUT", IPVS_OUT_FILTER, "kubernetes ipvs access filter"),
];

/// Where the reference has what we have in mangle: in filter, behind IPVS (`iptablesJumpChain`). Its
/// rules drop what the node sends to addresses that may have changed since.
const SUPERSEDED: (Table, &str, Chain) = (Table::Filter, "OUTPUT", IPVS_OUT_FILTER);

impl Rules {
    /// The rules of a family.
    pub fn new(family: Family, options: &Options, source_port: SourcePort) -> Rules {
        let author = Author { family, options, source_port };
        let chains = author.chains().into_iter().map(|(table, chain, rules)| {
            let texts = rules.iter().map(|rule| rule.text(family)).collect();
            ((table, chain.to_string()), texts)
        });
        let jumps = JUMPS.iter().map(|(table, from, to, comment)| {
            ((*table, *from), Rule::commented(*comment).jump(*to).text(family))
        });
        Rules { chains: chains.collect(), jumps: jumps.collect() }
    }

    /// The text that brings the tables, as iptables-save printed them, to these rules. Chains that
    /// are right are left alone.
    pub fn text(&self, dump: &str) -> Text {
        let there = read(dump);
        let mut lines: BTreeMap<Table, (Vec<String>, Vec<String>)> = BTreeMap::new();
        for ((table, chain), rules) in &self.chains {
            let known = there.get(&(*table, chain.clone()));
            if known.is_some_and(|known| known.iter().eq(rules.iter())) {
                continue;
            }
            let (heads, bodies) = lines.entry(*table).or_default();
            heads.push(format!(":{chain} - [0:0]\n"));
            bodies.extend(rules.iter().map(|rule| format!("-A {chain}{rule}\n")));
        }
        for ((table, from), rule) in &self.jumps {
            let known = there.get(&(*table, (*from).to_owned()));
            if !known.is_some_and(|known| known.contains(&rule.as_str())) {
                lines.entry(*table).or_default().1.push(format!("-I {from}{rule}\n"));
            }
        }
        let mut out = Text { text: String::new(), operations: 0 };
        for (table, (heads, bodies)) in &lines {
            out.operations += heads.len() + bodies.len();
            out.text.push_str(&format!("*{}\n", table.name()));
            heads.iter().chain(bodies).for_each(|line| out.text.push_str(line));
            out.text.push_str("COMMIT\n");
        }
        // Last: ours are in by then.
        let (lines, operations) = superseded(&there);
        if operations > 0 {
            let table = SUPERSEDED.0.name();
            out.text.push_str(&format!("*{table}\n{}COMMIT\n", lines.concat()));
            out.operations += operations;
        }
        out
    }

    /// Whether a chain of iptables, or a whole table where none is named, may hold what is ours.
    pub fn concern(&self, table: &str, chain: &str) -> bool {
        let Some(table) = Table::named(table) else { return false };
        let own = self.chains.keys().map(|(of, name)| (*of, name.as_str()));
        let jumps = self.jumps.iter().map(|(place, _)| *place);
        own.chain(jumps).any(|(of, name)| of == table && (chain.is_empty() || chain == name))
    }

    /// The chains of ipvs mode.
    pub fn chains(family: Family) -> BTreeSet<(Table, String)> {
        Rules::new(family, &Options::default(), SourcePort::Random).chains.into_keys().collect()
    }

    /// The text that takes away what is ours of the tables, as iptables-save printed them. Nothing
    /// where ipvs mode has not been: other modes have chains of some of the names. Chains that are
    /// `kept` stay, with the jumps to them.
    pub fn removal(dump: &str, family: Family, kept: &BTreeSet<(Table, String)>) -> Text {
        let mut ours = Rules::new(family, &Options::default(), SourcePort::Random);
        ours.chains.retain(|chain, _| !kept.contains(chain));
        let leads_to = |rule: &str, chain: &str| rule.ends_with(&format!(" -j {chain}"));
        ours.jumps.retain(|((table, _), rule)| {
            !kept.iter().any(|(of, chain)| of == table && leads_to(rule, chain))
        });
        let there = read(dump);
        if !there.contains_key(&(Table::Filter, IPVS_FILTER.to_string())) {
            (ours.chains, ours.jumps) = (Chains::new(), Vec::new());
        }
        let mut lines: BTreeMap<Table, (Vec<String>, Vec<String>)> = BTreeMap::new();
        for ((table, from), rule) in &ours.jumps {
            let known = there.get(&(*table, (*from).to_owned())).into_iter().flatten();
            for rule in known.filter(|known| *known == rule) {
                lines.entry(*table).or_default().1.push(format!("-D {from}{rule}\n"));
            }
        }
        for (table, chain) in ours.chains.keys().filter(|key| there.contains_key(*key)) {
            let (heads, bodies) = lines.entry(*table).or_default();
            heads.push(format!(":{chain} - [0:0]\n"));
            bodies.push(format!("-X {chain}\n"));
        }
        let (superseded, _) = superseded(&there);
        if !superseded.is_empty() {
            let is_head = |line: &String| line.starts_with(':');
            let (head, rest): (Vec<String>, Vec<String>) =
                superseded.into_iter().partition(is_head);
            let (heads, bodies) = lines.entry(SUPERSEDED.0).or_default();
            heads.extend(head);
            bodies.extend(rest);
        }
        let mut out = Text { text: String::new(), operations: 0 };
        for (table, (heads, bodies)) in &lines {
            out.operations += bodies.len();
            out.text.push_str(&format!("*{}\n", table.name()));
            heads.iter().chain(bodies).for_each(|line| out.text.push_str(line));
            out.text.push_str("COMMIT\n");
        }
        out
    }
}

/// What takes away the chain that is superseded, with the jumps to it, and how much of it there is.
/// It stays, empty, where somebody else's chain leads to it.
fn superseded(there: &Chains<&str>) -> (Vec<String>, usize) {
    let (table, from, chain) = SUPERSEDED;
    let chain = chain.to_string();
    let Some(rules) = there.get(&(table, chain.clone())) else { return (Vec::new(), 0) };
    let target = format!(" -j {chain}");
    let mut lines = vec![format!(":{chain} - [0:0]\n")];
    let mut foreign = false;
    for ((_, name), rules) in there.iter().filter(|((of, _), _)| *of == table) {
        let leading = rules.iter().filter(|rule| rule.ends_with(&target));
        match name == from {
            true => lines.extend(leading.map(|rule| format!("-D {from}{rule}\n"))),
            false => foreign |= leading.count() > 0,
        }
    }
    if !foreign {
        lines.push(format!("-X {chain}\n"));
    }
    match lines.len() - 1 + usize::from(foreign && !rules.is_empty()) {
        0 => (Vec::new(), 0),
        operations => (lines, operations),
    }
}

/// Chains with their rules, out of what iptables-save prints without counters.
fn read(dump: &str) -> Chains<&str> {
    let mut chains: Chains<&str> = BTreeMap::new();
    let mut table = None;
    for line in dump.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = Table::named(name);
        }
        let Some(table) = table else { continue };
        if let Some(head) = line.strip_prefix(':') {
            let name = head.split(' ').next().unwrap_or_default();
            chains.entry((table, name.to_owned())).or_default();
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let (name, _) = rule.split_once(' ').unwrap_or((rule, ""));
            chains.entry((table, name.to_owned())).or_default().push(&rule[name.len()..]);
        }
    }
    chains
}

struct Author<'a> {
    family: Family,
    options: &'a Options,
    source_port: SourcePort,
}

impl Author<'_> {
    fn chains(&self) -> Vec<(Table, Chain, Vec<Rule>)> {
        vec![
            (Table::Nat, SERVICES, self.services()),
            (Table::Nat, LOAD_BALANCER, self.load_balancers()),
            (Table::Nat, NODE_PORT, self.node_ports()),
            (Table::Nat, POSTROUTING, self.postrouting()),
            (Table::Nat, MARK_MASQ, vec![self.mark_masq()]),
            (Table::Filter, FORWARD, self.forward()),
            (Table::Filter, NODE_PORT, vec![self.health_checks(Target::Accept)]),
            (Table::Filter, PROXY_FIREWALL, self.firewall()),
            (Table::Filter, SOURCE_RANGES, self.source_ranges()),
            (Table::Filter, NO_LOCAL, self.no_local()),
            (Table::Filter, IPVS_FILTER, self.ipvs_filter()),
            (Table::Mangle, IPVS_OUT_FILTER, self.out_filter()),
        ]
    }

    fn set(&self, set: Set, sides: &'static str) -> Match {
        Match::Set(Test::is(set.name(self.family)), sides)
    }

    fn not_in(&self, set: Set, sides: &'static str) -> Match {
        Match::Set(Test::is_not(set.name(self.family)), sides)
    }

    fn asking(&self, set: Set, sides: &'static str) -> Rule {
        Rule::default().with(self.set(set, sides))
    }

    /// What is masqueraded. Node ports are asked for at the node's addresses that take them, so that
    /// nothing else is masqueraded for having the number of one.
    fn services(&self) -> Vec<Rule> {
        let loopback: IpNet = match self.family {
            Family::V4 => "127.0.0.0/8".parse().expect("a constant network"),
            Family::V6 => "::1/128".parse().expect("a constant network"),
        };
        let mut rules = vec![
            Rule::default().from(Test::is(loopback)).then(Target::Return),
            self.asking(Set::NoLocal, "dst,dst").with(Match::SourceIsLocal).jump(MARK_MASQ),
            self.asking(Set::LoadBalancer, "dst,dst").jump(LOAD_BALANCER),
            self.cluster_ips(),
            self.asking(Set::ExternalIp, "dst,dst").jump(MARK_MASQ),
        ];
        let settled = [Set::ExternalIp, Set::ExternalIpLocal, Set::ClusterIp, Set::LoadBalancer];
        rules.extend(settled.map(|set| self.asking(set, "dst,dst").then(Target::Accept)));
        rules.push(self.asking(Set::NodeIps, "dst").jump(NODE_PORT));
        rules
    }

    /// Without a detector at least what the node sends to itself: its source is the very address
    /// that is asked, since that is on the device.
    fn cluster_ips(&self) -> Rule {
        let all = self.asking(Set::ClusterIp, "dst,dst");
        let rule = match self.local() {
            _ if self.options.masquerade_all => all,
            Some(local) => local.except(all),
            None => self.asking(Set::ClusterIp, "src,dst"),
        };
        rule.jump(MARK_MASQ)
    }

    fn load_balancers(&self) -> Vec<Rule> {
        vec![
            self.asking(Set::LoadBalancerLocal, "dst,dst").then(Target::Return),
            Rule::default().jump(MARK_MASQ),
        ]
    }

    fn node_ports(&self) -> Vec<Rule> {
        let of = |protocol: Protocol| {
            let (all, local) = Set::of_node_ports(protocol);
            let sides = if protocol == Protocol::Sctp { "dst,dst" } else { "dst" };
            let asking = |set| Rule { protocol: Some(protocol), ..self.asking(set, sides) };
            [asking(local).then(Target::Return), asking(all).jump(MARK_MASQ)]
        };
        Protocol::ALL.into_iter().flat_map(of).collect()
    }

    /// Hairpin connections are marked here, so that the mark of every packet that is masqueraded
    /// is taken off.
    fn postrouting(&self) -> Vec<Rule> {
        let mark = self.options.masquerade_mark();
        let unmarked = Match::Mark(Test::is_not((mark, mark)));
        vec![
            self.asking(Set::LoopBack, "dst,dst,src").jump(MARK_MASQ),
            Rule::default().with(unmarked).then(Target::Return),
            Rule::default().then(Target::Mark { value: mark, mask: 0 }),
            Rule::commented("kubernetes service traffic requiring SNAT")
                .then(Target::Masquerade(self.source_port)),
        ]
    }

    fn mark_masq(&self) -> Rule {
        let mark = self.options.masquerade_mark();
        Rule::default().then(Target::Mark { value: mark, mask: mark })
    }

    fn forward(&self) -> Vec<Rule> {
        let mark = self.options.masquerade_mark();
        let known = Match::State(Test::is(&[State::Related, State::Established]));
        vec![
            Rule::commented("kubernetes forwarding rules")
                .with(Match::Mark(Test::is((mark, mark))))
                .then(Target::Accept),
            Rule::commented("kubernetes forwarding conntrack rule")
                .with(known)
                .then(Target::Accept),
        ]
    }

    fn health_checks(&self, target: Target) -> Rule {
        let rule = self.asking(Set::HealthCheckNodePort, "dst");
        Rule { protocol: Some(Protocol::Tcp), ..rule }.then(target)
    }

    /// Who is kept out of a load balancer's address, and what has no endpoint here.
    fn firewall(&self) -> Vec<Rule> {
        vec![
            self.asking(Set::LoadBalancerFw, "dst,dst").jump(SOURCE_RANGES),
            self.new_to(Set::Unserved).then(Target::Drop),
            self.new_to(Set::NoLocal).jump(NO_LOCAL),
        ]
    }

    fn new_to(&self, set: Set) -> Rule {
        self.asking(set, "dst,dst").with(Match::State(Test::is(&[State::New])))
    }

    fn source_ranges(&self) -> Vec<Rule> {
        vec![
            self.asking(Set::LoadBalancerSourceCidr, "dst,dst,src").then(Target::Return),
            self.asking(Set::LoadBalancerSourceIp, "dst,dst,src").then(Target::Return),
            Rule::default().then(Target::Drop),
        ]
    }

    fn no_local(&self) -> Vec<Rule> {
        let pods = self.local().map(|local| local.only(Rule::default()).then(Target::Return));
        let own = Rule::default().with(Match::SourceIsLocal).then(Target::Return);
        let rest = Rule::default().then(Target::Drop);
        pods.into_iter().chain([own, rest]).collect()
    }

    /// The addresses on the device are this host's, but nothing of it is to be reached there.
    fn ipvs_filter(&self) -> Vec<Rule> {
        let served = [Set::LoadBalancer, Set::ClusterIp, Set::ExternalIp, Set::ExternalIpLocal];
        let mut rules: Vec<Rule> =
            served.map(|set| self.asking(set, "dst,dst").then(Target::Return)).into();
        rules.push(self.health_checks(Target::Return));
        let new = Match::State(Test::is(&[State::New]));
        let rule = Rule::default().with(new).with(self.set(Set::IpvsIps, "dst"));
        rules.push(rule.then(Target::Reject));
        rules
    }

    /// The same for what this host itself sends, before IPVS sees it.
    fn out_filter(&self) -> Vec<Rule> {
        let kept_out = self
            .asking(Set::LoadBalancerFw, "dst,dst")
            .with(self.not_in(Set::LoadBalancerSourceCidr, "dst,dst,src"))
            .with(self.not_in(Set::LoadBalancerSourceIp, "dst,dst,src"));
        vec![kept_out.then(Target::Drop), self.new_to(Set::Unserved).then(Target::Drop)]
    }

    fn local(&self) -> Option<Local> {
        Local::new(&self.options.detector, self.family)
    }
}
