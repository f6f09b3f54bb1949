//! Everything but Services that rules depend on: the node's configuration, what the kernel and the
//! tool can do, how large the cluster is. Also the rules that are there without any Service.
//! Knows no frontend. Source: `pkg/proxy/iptables/proxier.go`. Tests: with `plan`, `proptests`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::chain::{self, CANARY, Chain, Table};
use super::rule::{Match, Rule, SourcePort, State, Target, Test};
use crate::backend::Options;
pub use crate::backend::xtables::local::Local;
use crate::model::Family;

/// Above so many endpoints rules of endpoints have no comments: they are 40 % of the text.
pub const LARGE: usize = 1000;

/// What is the same for all of one kernel and tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ability {
    /// How MASQUERADE takes source ports; by chance needs iptables 1.6.2.
    pub source_port: SourcePort,
    /// What becomes of packets that conntrack takes for invalid: `None` where
    /// `nf_conntrack_tcp_be_liberal` is set, since then only they are invalid that do no harm.
    pub drops_invalid: Option<Counting>,
    /// Whether node ports on loopback addresses are counted.
    pub counts_localhost: Counting,
}

/// Whether packets are counted in an nfacct object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counting {
    /// They are: the kernel has nfacct.
    Counted,
    /// They are not.
    Uncounted,
}

/// What kubelet and kube-proxy write at the rule against strangers at 127.0.0.0/8.
pub(super) const GUARD_COMMENT: &str = "block incoming localnet connections";

/// The nfacct object that counts packets dropped for being invalid.
pub const INVALID_DROPPED: &str = "ct_state_invalid_dropped_pkts";
/// The nfacct object that counts connections to node ports on loopback addresses.
pub const LOCALHOST_ACCEPTED: &str = "localhost_nps_accepted_pkts";

impl Default for Ability {
    /// What a kernel and a tool of today can do, without nfacct.
    fn default() -> Self {
        Ability {
            source_port: SourcePort::Random,
            drops_invalid: Some(Counting::Uncounted),
            counts_localhost: Counting::Uncounted,
        }
    }
}

/// What all rules of one family depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The family.
    pub family: Family,
    /// The mark with the masquerade bit set.
    pub mark: u32,
    /// Whether all traffic to cluster IPs is masqueraded.
    pub masquerade_all: bool,
    /// How local pods are told from the rest, if they are.
    pub local: Option<Local>,
    /// CIDRs of node addresses that take node port traffic; `None`: all of them.
    pub node_ports: Option<Vec<IpNet>>,
    /// Whether loopback addresses are among them.
    pub localhost: bool,
    /// Where this process takes connections that rules lead to it, if it does.
    pub relay: Option<IpAddr>,
    /// Whether rules of endpoints go without comments.
    pub large: bool,
    /// What kernel and tool can do.
    pub ability: Ability,
}

/// A rule that a built-in chain must have, whatever else is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    /// The table.
    pub table: Table,
    /// The built-in chain.
    pub from: Chain,
    /// The rule.
    pub rule: Rule,
}

/// A chain with all of its rules.
pub type Whole = (Table, Chain, Vec<Rule>);

impl Shape {
    /// What rules depend on; `large` is left to be found out.
    pub fn new(options: &Options, family: Family, ability: Ability) -> Shape {
        let node_ports = options.node_port_cidrs(family).map(<[IpNet]>::to_vec);
        let takes_loopback = node_ports
            .as_ref()
            .is_none_or(|cidrs| cidrs.iter().any(|cidr| cidr.contains(&LOCALHOST)));
        Shape {
            family,
            mark: options.masquerade_mark(),
            masquerade_all: options.masquerade_all,
            local: Local::new(&options.detector, family),
            node_ports,
            localhost: options.localhost_node_ports && family == Family::V4 && takes_loopback,
            relay: None,
            large: false,
            ability,
        }
    }

    /// The same where rules lead to this process and not to endpoints. No node port is taken on
    /// loopback addresses then, as in tables of nf_tables.
    pub fn leading_to(self, relay: IpAddr) -> Shape {
        Shape { relay: Some(relay), localhost: false, ..self }
    }

    /// Chains that have only these rules. Those of Services come first in `KUBE-SERVICES` and are
    /// not here.
    pub fn fixed(&self) -> Vec<Whole> {
        let mark = self.mark;
        let marked = |test: Test<(u32, u32)>| Match::Mark(test);
        let accept_marked = Rule::commented("kubernetes forwarding rules")
            .with(marked(Test::is((mark, mark))))
            .then(Target::Accept);
        let accept_known = Rule::commented("kubernetes forwarding conntrack rule")
            .with(Match::State(Test::is(&[State::Related, State::Established])))
            .then(Target::Accept);
        let forward = self.drop_invalid().into_iter().chain([accept_marked, accept_known]);
        let postrouting = vec![
            Rule::default().with(marked(Test::is_not((mark, mark)))).then(Target::Return),
            Rule::default().then(Target::Mark { value: mark, mask: 0 }),
            Rule::commented("kubernetes service traffic requiring SNAT")
                .then(Target::Masquerade(self.ability.source_port)),
        ];
        let mark_masq = Rule::default().then(Target::Mark { value: mark, mask: mark });
        let mut all: Vec<Whole> =
            Table::ALL.into_iter().map(|table| (table, CANARY, Vec::new())).collect();
        all.extend([
            (Table::Filter, chain::FORWARD, forward.collect()),
            (Table::Nat, chain::POSTROUTING, postrouting),
            (Table::Nat, chain::MARK_MASQ, vec![mark_masq]),
        ]);
        all.extend(self.relay_guard());
        all
    }

    /// Keeps everybody from this process's ports whom no rule led there. In mangle, where it comes
    /// before whatever somebody accepts in filter.
    pub fn relay_guard(&self) -> Option<Whole> {
        let strangers = Rule::commented("only connections that were led to kube-proxy")
            .to(self.relay?)
            .with(Match::State(Test::is_not(&[State::Dnat])))
            .then(Target::Drop);
        Some((Table::Mangle, chain::RELAY_GUARD, vec![strangers]))
    }

    /// Packets in no connection: let through untranslated they would reset it (issue 74839).
    fn drop_invalid(&self) -> Option<Rule> {
        let counting = self.ability.drops_invalid?;
        let invalid = Rule::default().with(Match::State(Test::is(&[State::Invalid])));
        let counted = match counting {
            Counting::Counted => invalid.with(Match::Account(INVALID_DROPPED)),
            Counting::Uncounted => invalid,
        };
        Some(counted.then(Target::Drop))
    }

    /// The rule that kubelet's firewall chain must have: `route_localnet` would let strangers in
    /// at 127.0.0.0/8 (CVE-2020-8558). Kubelet writes the same one.
    pub fn guard(&self) -> Option<Rule> {
        let states: &[State] = &[State::Related, State::Established, State::Dnat];
        let rule = Rule { destination: Some(Test::is(LOOPBACK)), ..Rule::commented(GUARD_COMMENT) };
        self.localhost.then(|| {
            rule.from(Test::is_not(LOOPBACK))
                .with(Match::State(Test::is_not(states)))
                .then(Target::Drop)
        })
    }

    /// The last rules of `KUBE-SERVICES` in nat: what is for no Service's address may be for a node
    /// port. By CIDR, and not address by address as in the reference: so an address counts from
    /// the moment it is there.
    pub fn tail(&self) -> Vec<Rule> {
        const COMMENT: &str =
            "kubernetes service nodeports; NOTE: this must be the last rule in this chain";
        let rule =
            || Rule::commented(COMMENT).with(Match::DestinationIsLocal).jump(chain::NODE_PORTS);
        let loopback = self.loopback();
        let Some(cidrs) = &self.node_ports else {
            let destination = (!self.localhost).then(|| Test::is_not(loopback));
            return vec![Rule { destination, ..rule() }];
        };
        let shut = |cidr: &IpNet| !self.localhost && loopback.contains(cidr);
        let holds = |cidr: &IpNet| !self.localhost && cidr.contains(&loopback);
        let mut rules = Vec::new();
        if cidrs.iter().any(holds) {
            let comment = Rule::commented("no node ports on loopback addresses");
            let destination = Some(Test::is(loopback));
            rules.push(Rule { destination, ..comment }.then(Target::Return));
        }
        let open = cidrs.iter().filter(|cidr| !shut(cidr));
        rules.extend(open.map(|cidr| Rule { destination: Some(Test::is(cidr.trunc())), ..rule() }));
        rules
    }

    fn loopback(&self) -> IpNet {
        match self.family {
            Family::V4 => LOOPBACK,
            Family::V6 => IpNet::V6(ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::LOCALHOST, 128)),
        }
    }

    /// The jumps from built-in chains. Those that are missing are put in front, one after the
    /// other, so that the last one comes first.
    pub fn jumps(&self) -> Vec<Jump> {
        let guard = self.relay.map(|_| RELAY_GUARD);
        let all = JUMPS.iter().chain(&guard).map(|(table, from, to, comment, only_new)| {
            let start = match only_new {
                Only::New => Rule::default().with(Match::State(Test::is(&[State::New]))),
                Only::Any => Rule::default(),
            };
            let rule = match *comment {
                "" => start,
                comment => start.with(Match::Comment(comment.into())),
            };
            Jump { table: *table, from: Chain::Fixed(from), rule: rule.jump(*to) }
        });
        all.collect()
    }
}

const LOCALHOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
/// 127.0.0.0/8.
pub(super) const LOOPBACK: IpNet =
    IpNet::V4(ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8));

#[derive(Clone, Copy)]
enum Only {
    New,
    Any,
}

type JumpWords = (Table, &'static str, Chain, &'static str, Only);

const RELAY_GUARD: JumpWords =
    (Table::Mangle, "INPUT", chain::RELAY_GUARD, "local ports of kube-proxy", Only::Any);

const EXTERNAL: &str = "kubernetes externally-visible service portals";
const PORTALS: &str = "kubernetes service portals";
const FIREWALL: &str = "kubernetes load balancer firewall";

const JUMPS: &[JumpWords] = &[
    (Table::Filter, "INPUT", chain::EXTERNAL_SERVICES, EXTERNAL, Only::New),
    (Table::Filter, "FORWARD", chain::EXTERNAL_SERVICES, EXTERNAL, Only::New),
    (Table::Filter, "INPUT", chain::NODE_PORTS, "kubernetes health check service ports", Only::Any),
    (Table::Filter, "FORWARD", chain::SERVICES, PORTALS, Only::New),
    (Table::Filter, "OUTPUT", chain::SERVICES, PORTALS, Only::New),
    (Table::Filter, "FORWARD", chain::FORWARD, "kubernetes forwarding rules", Only::Any),
    (Table::Filter, "INPUT", chain::PROXY_FIREWALL, FIREWALL, Only::New),
    (Table::Filter, "OUTPUT", chain::PROXY_FIREWALL, FIREWALL, Only::New),
    (Table::Filter, "FORWARD", chain::PROXY_FIREWALL, FIREWALL, Only::New),
    (Table::Nat, "OUTPUT", chain::SERVICES, PORTALS, Only::Any),
    (Table::Nat, "PREROUTING", chain::SERVICES, PORTALS, Only::Any),
    (Table::Nat, "POSTROUTING", chain::POSTROUTING, "kubernetes postrouting rules", Only::Any),
    (Table::Filter, "INPUT", chain::KUBELET_FIREWALL, "", Only::Any),
    (Table::Filter, "OUTPUT", chain::KUBELET_FIREWALL, "", Only::Any),
];
