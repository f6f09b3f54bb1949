//! What one frontend has in the chains that all Services share: a line that sends its packets to
//! a chain of the Service port, lines that refuse or drop them.
//! Frontends do not overlap, so the order of their lines means nothing.
//! Source: `pkg/proxy/iptables/proxier.go`. Tests: with `plan`, `proptests`.

use super::chain::{self, Chain, Kind, Names, Table};
use super::rule::{Match, Rule, Target, Test};
use super::shape::{Counting, LOCALHOST_ACCEPTED, Shape};
use crate::backend::program::{Face, Frontend, Program, Unserved};
use crate::model::{Protocol, TrafficPolicy};

/// A rule of a shared chain.
pub(super) type Line = (Table, Chain, Rule);

/// Chains that Services share, with the table they are in; a chain that another one jumps to comes
/// before it.
pub(super) const SHARED: [(Table, Chain); 6] = [
    (Table::Filter, chain::SERVICES),
    (Table::Filter, chain::EXTERNAL_SERVICES),
    (Table::Filter, chain::NODE_PORTS),
    (Table::Filter, chain::PROXY_FIREWALL),
    (Table::Nat, chain::NODE_PORTS),
    (Table::Nat, chain::SERVICES),
];

/// The lines of one frontend.
pub(super) fn lines(frontend: &Frontend, program: &Program, shape: &Shape) -> Vec<Line> {
    let names = Names::new(&program.origin);
    let own = names.own();
    let port = names.port();
    let mut lines = Vec::new();
    if program.unserved != Some(Unserved::Reject) {
        served(frontend, program, (&names, shape), &mut lines);
    }
    let restricted = program.face == Face::LoadBalancerIp && program.sources.is_some();
    if restricted && program.unserved != Some(Unserved::Reject) {
        let firewall = Chain::Of(Kind::Firewall, own);
        let rule = Rule::commented(format!("{port} traffic not accepted by {firewall}"));
        let rule = to(rule, frontend).then(Target::Drop);
        lines.push((Table::Filter, chain::PROXY_FIREWALL, rule));
    }
    let (target, why) = match program.unserved {
        None => return lines,
        Some(Unserved::Reject) => (Target::Reject, "has no endpoints"),
        Some(Unserved::Drop) => (Target::Drop, "has no local endpoints"),
    };
    let comment = Rule::commented(format!("{port} {why}"));
    let rule = match frontend.address {
        None => to(comment.with(Match::DestinationIsLocal), frontend),
        Some(_) => to(comment, frontend),
    };
    let refusing = match program.face {
        Face::ClusterIp => chain::SERVICES,
        _ => chain::EXTERNAL_SERVICES,
    };
    lines.push((Table::Filter, refusing, rule.then(target)));
    lines
}

/// The line that sends packets on, where there is an endpoint for somebody.
fn served(
    frontend: &Frontend,
    program: &Program,
    (names, shape): (&Names, &Shape),
    lines: &mut Vec<Line>,
) {
    let (own, port) = (names.own(), names.port());
    let external = Chain::Of(Kind::External, own);
    let (shared, comment, target) = match program.face {
        Face::ClusterIp if program.unserved.is_some() => return,
        Face::ClusterIp => {
            let chain = Chain::Of(policy_kind(program.policy), own);
            (chain::SERVICES, format!("{port} cluster IP"), chain)
        }
        Face::ExternalIp => (chain::SERVICES, format!("{port} external IP"), external),
        Face::LoadBalancerIp => {
            let firewall = Chain::Of(Kind::Firewall, own);
            let target = if program.sources.is_some() { firewall } else { external };
            (chain::SERVICES, format!("{port} loadbalancer IP"), target)
        }
        Face::NodePort => (chain::NODE_PORTS, port.to_owned(), external),
    };
    let rule = to(Rule::commented(comment), frontend);
    let counted = program.face == Face::NodePort
        && shape.localhost
        && shape.ability.counts_localhost == Counting::Counted;
    if counted {
        let localhost =
            Rule { destination: Some(Test::is(super::shape::LOOPBACK)), ..rule.clone() };
        let rule = localhost.with(Match::Account(LOCALHOST_ACCEPTED)).jump(target);
        lines.push((Table::Nat, shared, rule));
    }
    lines.push((Table::Nat, shared, rule.jump(target)));
}

/// The chain that a policy's endpoints are in.
pub(super) fn policy_kind(policy: TrafficPolicy) -> Kind {
    match policy {
        TrafficPolicy::Cluster => Kind::Cluster,
        TrafficPolicy::Local => Kind::Local,
    }
}

/// The rule for packets to the frontend.
pub(super) fn to(rule: Rule, frontend: &Frontend) -> Rule {
    let rule = rule.port(frontend.protocol, Some(frontend.port));
    match frontend.address {
        Some(address) => rule.to(address),
        None => rule,
    }
}

/// The line that lets health checks of a load balancer in; `port` is the Service port's name.
pub(super) fn health_check(port: &str, number: u16) -> Line {
    let rule = Rule::commented(format!("{port} health check node port"))
        .port(Protocol::Tcp, Some(number))
        .then(Target::Accept);
    (Table::Filter, chain::NODE_PORTS, rule)
}
