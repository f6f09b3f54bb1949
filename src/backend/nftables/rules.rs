//! The chains and rules of the table: a fixed handful, and one small chain for each treatment.
//!
//! Priorities and hooks are the reference's (`pkg/proxy/nftables/proxier.go`, base chains), so
//! that other tables on the node meet us where they met it. Knows no Service.
//! Tests: in `proptests` (what packets become) and in the lab (the same on Linux).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::layout::{
    CLIENT_FRONTEND, ENDPOINT, FRONTEND, FRONTEND_CLIENT, FRONTEND_INDEX, Kind, NODE_PORT,
    NODE_PORT_INDEX, ORIGINAL_FRONTEND, ORIGINAL_NODE_PORT, Set, Treatment,
};
use crate::backend::Options;
use crate::model::{Family, LocalDetector};
use crate::netlink::expr::{Compare, Rule, Verdict};
use crate::netlink::nft::{ChainKind, Hook};
use crate::netlink::set::Field;

/// A chain that is always there.
#[derive(Debug)]
pub struct FixedChain {
    /// Its name.
    pub name: &'static str,
    /// Where it hooks in, for a base chain.
    pub hook: Option<Hook>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// Netfilter hook numbers (`enum nf_inet_hooks`).
const PREROUTING: u32 = 0;
const INPUT: u32 = 1;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
/// `NF_IP_PRI_NAT_DST`, `NF_IP_PRI_FILTER`, `NF_IP_PRI_NAT_SRC`.
const DSTNAT: i32 = -100;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;

const SERVICES: &str = "services-and-node-ports";
const FIREWALL: &str = "firewall-check";
const NO_ENDPOINTS: &str = "no-endpoints-check";
const NODE_PORT_CHECK: &str = "node-port-check";
const CLUSTER_IPS: &str = "cluster-ips-check";
const MASQUERADING: &str = "masquerading";
const REMEMBER: &str = "remember-clients";

/// The chains that are always there: callees before callers.
pub fn fixed_chains(family: Family, options: &Options) -> Vec<FixedChain> {
    let plain = |name, rules| FixedChain { name, hook: None, rules };
    let filter = |number, priority| Hook { kind: ChainKind::Filter, number, priority };
    let nat = |number, priority| Hook { kind: ChainKind::Nat, number, priority };
    let base = |name, hook, rules| FixedChain { name, hook: Some(hook), rules };
    let jump = |chain| Rule::new().verdict(Verdict::Jump(chain));
    let jump_new = |chain| Rule::new().state_new().verdict(Verdict::Jump(chain));
    vec![
        plain(SERVICES, service_rules(family, options)),
        plain(FIREWALL, firewall_rules(family)),
        plain(NO_ENDPOINTS, no_endpoint_rules(family)),
        plain(NODE_PORT_CHECK, node_port_check_rules(family, options)),
        plain(CLUSTER_IPS, cluster_ip_rules(family)),
        plain(REMEMBER, remember_rules(family)),
        plain(MASQUERADING, masquerade_rules(family, options)),
        // Source ranges are checked before the destination is changed.
        base("filter-prerouting", filter(PREROUTING, DSTNAT - 10), vec![jump_new(FIREWALL)]),
        base("filter-output-pre-dnat", filter(OUTPUT, DSTNAT - 10), vec![jump_new(FIREWALL)]),
        base("nat-prerouting", nat(PREROUTING, DSTNAT), vec![jump(SERVICES)]),
        base("nat-output", nat(OUTPUT, DSTNAT), vec![jump(SERVICES)]),
        base(
            "filter-input",
            filter(INPUT, FILTER),
            vec![jump_new(NODE_PORT_CHECK), jump_new(NO_ENDPOINTS)],
        ),
        base(
            "filter-forward",
            filter(FORWARD, FILTER),
            vec![jump_new(NO_ENDPOINTS), jump_new(CLUSTER_IPS)],
        ),
        base(
            "filter-output",
            filter(OUTPUT, FILTER),
            vec![jump_new(NO_ENDPOINTS), jump_new(CLUSTER_IPS)],
        ),
        base(
            "nat-postrouting",
            nat(POSTROUTING, SRCNAT),
            vec![Rule::new().status_dnat().verdict(Verdict::Jump(REMEMBER)), jump(MASQUERADING)],
        ),
        // Endpoints in the node's own network never see postrouting.
        base(
            "nat-input",
            nat(INPUT, SRCNAT),
            vec![Rule::new().status_dnat().verdict(Verdict::Jump(REMEMBER))],
        ),
    ]
}

/// Which connections are ours, and how each is treated.
fn service_rules(family: Family, options: &Options) -> Vec<Rule> {
    vec![
        dispatch(Rule::new().key(family, FRONTEND), Set::Services, Set::Treatments)
            .comment("where @treatments says for the number in @services"),
        dispatch(
            node_port_address(family, options).key(family, NODE_PORT),
            Set::NodePorts,
            Set::Treatments,
        )
        .comment("where @treatments says for the number in @node-ports"),
    ]
}

/// Looks a key up and goes where the number found says. Two steps, because a map of verdicts with
/// an element a Service makes the kernel walk all of it at every change (`nft_lookup_validate`):
/// 13 ms at 50,000 Services against 0.05 ms for numbers.
fn dispatch(key: Rule, numbers: Set, treatments: Set) -> Rule {
    key.dispatch(numbers.name(), treatments.name())
}

/// Matches packets to an address of the node that takes node port traffic.
fn node_port_address(family: Family, options: &Options) -> Rule {
    let mut rule = Rule::new();
    if options.node_port_cidrs(family).is_some() {
        rule = rule.key(family, &[Field::Address]).is_in(Set::NodePortAddresses.name());
    }
    // Node ports on loopback exist in iptables mode only.
    let loopback = match family {
        Family::V4 => IpNet::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
        Family::V6 => IpNet::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
    }
    .expect("the prefix lengths are in range");
    rule.address_is_local(Field::Address).address_in(
        family,
        Field::Address,
        (Compare::NotEqual, loopback),
    )
}

fn firewall_rules(family: Family) -> Vec<Rule> {
    vec![
        Rule::new()
            .key(family, FRONTEND)
            .is_in(Set::Firewall.name())
            .key(family, FRONTEND_CLIENT)
            .is_not_in(Set::FirewallAllowed.name())
            .verdict(Verdict::Drop)
            .comment("source not in loadBalancerSourceRanges"),
    ]
}

fn no_endpoint_rules(family: Family) -> Vec<Rule> {
    vec![
        Rule::new()
            .key(family, FRONTEND)
            .is_in(Set::Reject.name())
            .reject(family)
            .comment("Service without endpoints"),
        Rule::new()
            .key(family, FRONTEND)
            .is_in(Set::Drop.name())
            .verdict(Verdict::Drop)
            .comment("policy Local, no endpoint on this node"),
    ]
}

fn node_port_check_rules(family: Family, options: &Options) -> Vec<Rule> {
    let address = || node_port_address(family, options);
    vec![
        Rule::new()
            .protocol_is(6)
            .key(family, &[Field::Port])
            .is_in(Set::HealthCheckPorts.name())
            .verdict(Verdict::Accept)
            .comment("health check node ports"),
        address()
            .key(family, NODE_PORT)
            .is_in(Set::NodePortReject.name())
            .reject(family)
            .comment("Service without endpoints"),
        address()
            .key(family, NODE_PORT)
            .is_in(Set::NodePortDrop.name())
            .verdict(Verdict::Drop)
            .comment("policy Local, no endpoint on this node"),
    ]
}

fn cluster_ip_rules(family: Family) -> Vec<Rule> {
    vec![
        Rule::new()
            .key(family, &[Field::Address])
            .is_in(Set::ClusterIps.name())
            .reject(family)
            .comment("cluster IP, but no port of its Service"),
        Rule::new()
            .key(family, &[Field::Address])
            .is_in(Set::ServiceCidrs.name())
            .verdict(Verdict::Drop)
            .comment("cluster IP of no Service"),
    ]
}

/// Session affinity is written where the chosen endpoint is known.
fn remember_rules(family: Family) -> Vec<Rule> {
    let remember =
        |key: &[Field], set: Set| dispatch(Rule::new().key(family, key), set, Set::StickyTimeouts);
    vec![
        remember(ORIGINAL_FRONTEND, Set::Sticky),
        remember(ORIGINAL_NODE_PORT, Set::StickyNodePorts),
    ]
}

/// The rules of the chain that remembers a client for so many seconds.
pub fn timeout_rules(family: Family, seconds: u32) -> Vec<Rule> {
    const KEY: &[Field] =
        &[Field::SourceAddress, Field::OriginalAddress, Field::Protocol, Field::OriginalPort];
    let value_at: usize = KEY.iter().map(|f| f.padded_len(family) / 4).sum();
    let rule = Rule::new().key(family, KEY).load(family, ENDPOINT[0], value_at).load(
        family,
        ENDPOINT[1],
        value_at + family.address_len() / 4,
    );
    vec![rule.update(Set::Affinity.name(), value_at, seconds)]
}

fn masquerade_rules(family: Family, options: &Options) -> Vec<Rule> {
    let bit = options.masquerade_mark();
    vec![
        Rule::new().mark_has(bit).flip_mark(bit).masquerade(),
        Rule::new()
            .status_dnat()
            .key(family, CLIENT_FRONTEND)
            .is_in(Set::Hairpin.name())
            .masquerade()
            .comment("an endpoint that reached itself"),
    ]
}

/// The rules of a treatment's chain.
pub fn treatment_rules(family: Family, options: &Options, treatment: Treatment) -> Vec<Rule> {
    let mark = options.masquerade_mark();
    let next = Treatment { kind: Kind::Pick, ..treatment };
    let go_on = |chain: &str| Rule::new().verdict(Verdict::Goto(chain));
    match treatment.kind {
        Kind::Internal => {
            let mut rules = internal_marks(family, options);
            rules.push(go_on(&next.chain()));
            rules
        }
        Kind::External => vec![Rule::new().set_mark(mark), go_on(&next.chain())],
        Kind::Pick if treatment.sticky => {
            let plain = Treatment { sticky: false, ..treatment };
            vec![stick(family), go_on(&plain.chain())]
        }
        Kind::Pick => {
            let (key, set) = endpoint_map(treatment.node_port);
            picks(family, (key, set), treatment.count)
        }
        Kind::Local => local_rules(family, options, treatment),
    }
}

/// Which traffic to cluster IPs is masqueraded: all of it, or what is not known to be local.
fn internal_marks(family: Family, options: &Options) -> Vec<Rule> {
    let mark = options.masquerade_mark();
    if options.masquerade_all {
        return vec![Rule::new().set_mark(mark)];
    }
    detected(family, options, Compare::NotEqual)
        .map(|rule| rule.set_mark(mark))
        .into_iter()
        .collect()
}

/// Matches sources that are local pods (`Equal`) or that are not (`NotEqual`); none where nothing
/// is known of local pods.
fn detected(family: Family, options: &Options, how: Compare) -> Option<Rule> {
    match &options.detector {
        LocalDetector::None => None,
        LocalDetector::Cidrs(_) => {
            let cidr = options.detector.cidr(family)?;
            Some(Rule::new().address_in(family, Field::SourceAddress, (how, cidr)))
        }
        LocalDetector::Bridge(name) => Some(Rule::new().input_interface(how, name)),
        LocalDetector::InterfacePrefix(prefix) => {
            Some(Rule::new().input_interface(how, &format!("{prefix}*")))
        }
    }
}

fn local_rules(family: Family, options: &Options, treatment: Treatment) -> Vec<Rule> {
    let within = |rule: Rule| {
        let (key, set) = if treatment.node_port {
            (NODE_PORT, Set::NodePortsWithin)
        } else {
            (FRONTEND, Set::ServicesWithin)
        };
        dispatch(rule.key(family, key), set, Set::TreatmentsWithin)
    };
    let mut rules = Vec::new();
    if let Some(pods) = detected(family, options, Compare::Equal) {
        rules.push(within(pods).comment("from a pod: every endpoint"));
    }
    let own =
        Rule::new().address_is_local(Field::SourceAddress).set_mark(options.masquerade_mark());
    rules.push(within(own).comment("from this node: every endpoint"));
    if treatment.count == 0 {
        return rules;
    }
    if treatment.sticky {
        rules.push(stick(family));
    }
    let local = if treatment.node_port {
        (NODE_PORT_INDEX, Set::NodePortLocalEndpoints)
    } else {
        (FRONTEND_INDEX, Set::LocalEndpoints)
    };
    rules.extend(picks(family, local, treatment.count));
    rules
}

fn endpoint_map(node_port: bool) -> (&'static [Field], Set) {
    if node_port {
        (NODE_PORT_INDEX, Set::NodePortEndpoints)
    } else {
        (FRONTEND_INDEX, Set::Endpoints)
    }
}

/// Sends a client where it went before.
fn stick(family: Family) -> Rule {
    Rule::new().key(family, CLIENT_FRONTEND).map(Set::Affinity.name()).dnat(family)
}

/// Sends a packet to one of `count` endpoints. A packet looks its number up before the endpoint,
/// and a change may come in between (each look-up sees the newest state, `nft_set_elem_active`):
/// told of three endpoints it may find no third one, and takes the first instead of being refused.
/// Without that, 64 to 165 of 300,000 connections were refused during 15 s of churn on Linux 6.18.
fn picks(family: Family, map: (&[Field], Set), count: u16) -> Vec<Rule> {
    let mut rules = vec![pick(family, map, count)];
    if count > 1 {
        let first = pick(family, map, 1);
        rules.push(first.comment("for a packet that was under way when the endpoint it drew went"));
    }
    rules
}

/// Sends a packet to one of `count` endpoints, each as likely as the other.
fn pick(family: Family, (key, set): (&[Field], Set), count: u16) -> Rule {
    let (index, frontend) = key.split_last().expect("the keys of endpoint maps are constants");
    debug_assert_eq!(*index, Field::Index);
    let word = frontend.iter().map(|f| f.padded_len(family) / 4).sum();
    Rule::new().key(family, frontend).index(u32::from(count), word).map(set.name()).dnat(family)
}
