//! The chains of one Service port: KUBE-EXT-, KUBE-FW-, KUBE-SVC-, KUBE-SVL- and one KUBE-SEP- an
//! endpoint, worked out from the frontends that it has. Endpoints come in the order of their texts,
//! as in the reference. Knows no other Service. Source: `pkg/proxy/iptables/proxier.go`.
//! Tests: with `plan`, `proptests`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::chain::{Chain, Kind, MARK_MASQ, Names};
use super::lines::{policy_kind, to};
use super::rule::{Match, Rule, Target, Test};
use super::shape::Shape;
use crate::backend::program::{Face, Frontend, Program, Role, Target as Endpoint, Unserved};
use crate::kernel::Socket;
use crate::model::{Protocol, ServicePortName, TrafficPolicy};

/// Frontends that a Service port has, each with what it wants.
pub(super) type Had = [(Frontend, Arc<Program>)];

/// Endpoints by their texts; a port of this process goes by its policy, since its number is chance.
type Endpoints = BTreeMap<String, Socket>;

/// How many endpoints a Service port can reach through its frontends.
pub(super) fn endpoints(had: &Had) -> usize {
    let (cluster, local) = reachable(had, None);
    let only_local = local.keys().filter(|text| !cluster.contains_key(*text)).count();
    cluster.len() + only_local
}

/// Endpoints of policy Cluster and of policy Local, as far as a frontend leads to them.
fn reachable(had: &Had, relay: Option<IpAddr>) -> (Endpoints, Endpoints) {
    let (mut cluster, mut local) = (Endpoints::new(), Endpoints::new());
    let text = |socket: Socket, policy: TrafficPolicy| match relay == Some(socket.address) {
        true => format!("kube-proxy ({policy:?})"),
        false => socket.to_string(),
    };
    let take = |list: &mut Endpoints, some: &[Endpoint], policy| {
        if list.is_empty() {
            list.extend(some.iter().map(|target| (text(target.socket, policy), target.socket)));
        }
    };
    use TrafficPolicy::{Cluster, Local};
    for (_, program) in had {
        match (program.role, program.policy) {
            (Role::Internal, Local) => take(&mut local, &program.targets, Local),
            _ => take(&mut cluster, &program.targets, Cluster),
        }
        take(&mut local, &program.local, Local);
    }
    (cluster, local)
}

/// The chains of a Service port with all their rules.
pub(super) fn chains(port: &ServicePortName, had: &Had, shape: &Shape) -> Vec<(Chain, Vec<Rule>)> {
    let (cluster, local) = reachable(had, shape.relay);
    let author = Author { names: &Names::new(port), protocol: port.protocol, had, shape };
    let mut out = Vec::new();
    author.external(!cluster.is_empty(), &mut out);
    author.firewall(&mut out);
    author.choice((TrafficPolicy::Cluster, &cluster), &mut out);
    author.choice((TrafficPolicy::Local, &local), &mut out);
    let only_local = local.iter().filter(|(text, _)| !cluster.contains_key(*text));
    for (text, socket) in cluster.iter().chain(only_local) {
        out.push(author.endpoint(text, *socket));
    }
    out
}

struct Author<'a> {
    names: &'a Names,
    protocol: Protocol,
    had: &'a Had,
    shape: &'a Shape,
}

impl Author<'_> {
    fn own(&self, kind: Kind) -> Chain {
        Chain::Of(kind, self.names.own())
    }

    fn sticky(&self) -> Option<u32> {
        self.had.first().and_then(|(_, program)| program.sticky)
    }

    /// Traffic to external addresses, before its policy.
    fn external(&self, short_cut: bool, out: &mut Vec<(Chain, Vec<Rule>)>) {
        let external = self.had.iter().find(|(_, program)| program.role != Role::Internal);
        let Some((_, program)) = external else { return };
        if program.unserved == Some(Unserved::Reject) {
            return;
        }
        let about = |what: &str| {
            Rule::commented(format!("{what} for {} external destinations", self.names.port()))
        };
        let mut rules = Vec::new();
        if program.policy == TrafficPolicy::Cluster {
            rules.push(about("masquerade traffic").jump(MARK_MASQ));
        } else {
            let cluster = self.own(Kind::Cluster);
            let local = self.shape.local.as_ref().filter(|_| short_cut);
            rules.extend(local.map(|local| local.only(about("pod traffic")).jump(cluster)));
            let from_node = |what: &str| about(what).with(Match::SourceIsLocal);
            rules.push(from_node("masquerade LOCAL traffic").jump(MARK_MASQ));
            rules.extend(short_cut.then(|| from_node("route LOCAL traffic").jump(cluster)));
        }
        if program.unserved.is_none() {
            rules.push(Rule::default().jump(self.own(policy_kind(program.policy))));
        }
        out.push((self.own(Kind::External), rules));
    }

    /// Load balancer source ranges: who is not in one is not translated, and KUBE-PROXY-FIREWALL
    /// drops what still has the load balancer's address.
    fn firewall(&self, out: &mut Vec<(Chain, Vec<Rule>)>) {
        let served = |p: &&(Frontend, Arc<Program>)| {
            p.1.face == Face::LoadBalancerIp && p.1.unserved != Some(Unserved::Reject)
        };
        let mut balanced = self.had.iter().filter(served);
        let Some(sources) = balanced.find_map(|(_, program)| program.sources.as_ref()) else {
            return;
        };
        let port = self.names.port();
        let allowed = |net: &ipnet::IpNet| {
            Rule::commented(format!("{port} loadbalancer IP"))
                .from(Test::is(*net))
                .jump(self.own(Kind::External))
        };
        let mut rules: Vec<Rule> = sources.iter().map(allowed).collect();
        rules.push(Rule::commented(format!(
            "other traffic to {port} will be dropped by KUBE-PROXY-FIREWALL"
        )));
        out.push((self.own(Kind::Firewall), rules));
    }

    /// The chain that chooses an endpoint: by what the client is remembered for, else by chance.
    fn choice(
        &self,
        (policy, endpoints): (TrafficPolicy, &Endpoints),
        out: &mut Vec<(Chain, Vec<Rule>)>,
    ) {
        if endpoints.is_empty() {
            return;
        }
        let mut rules: Vec<Rule> = self.masquerade_strangers(policy).into_iter().collect();
        let chains: Vec<(&str, Chain)> =
            endpoints.keys().map(|text| (text.as_str(), self.names.endpoint(text))).collect();
        if let Some(seconds) = self.sticky() {
            rules.extend(chains.iter().map(|(text, chain)| {
                self.leading_to(text).with(Match::Remembered(*chain, seconds)).jump(*chain)
            }));
        }
        let left = (1..=chains.len() as u32).rev();
        rules.extend(chains.iter().zip(left).map(|((text, chain), left)| {
            let rule = self.leading_to(text);
            let rule = if left > 1 { rule.with(Match::OneOf(left)) } else { rule };
            rule.jump(*chain)
        }));
        out.push((self.own(policy_kind(policy)), rules));
    }

    /// Who is no local pod may have come by any node, and the answer must come back by this one.
    fn masquerade_strangers(&self, policy: TrafficPolicy) -> Option<Rule> {
        let internal = |p: &&(Frontend, Arc<Program>)| {
            p.1.face == Face::ClusterIp && p.1.policy == policy && p.1.unserved.is_none()
        };
        let (frontend, _) = self.had.iter().find(internal)?;
        let rule = Rule::commented(format!("{} cluster IP", self.names.port()));
        let rule = to(rule, frontend);
        let rule = match (&self.shape.local, self.shape.masquerade_all) {
            (_, true) => rule,
            (Some(local), false) => local.except(rule),
            (None, false) => return None,
        };
        Some(rule.jump(MARK_MASQ))
    }

    fn leading_to(&self, endpoint: &str) -> Rule {
        match self.shape.large {
            true => Rule::default(),
            false => Rule::commented(format!("{} -> {endpoint}", self.names.port())),
        }
    }

    fn endpoint(&self, text: &str, socket: Socket) -> (Chain, Vec<Rule>) {
        let chain = self.names.endpoint(text);
        let start = || match self.shape.large {
            true => Rule::default(),
            false => Rule::commented(self.names.port()),
        };
        let hairpin = start().from(Test::is(socket.address.into())).jump(MARK_MASQ);
        let remembering = match self.sticky() {
            Some(_) => start().with(Match::Remember(chain)),
            None => start(),
        };
        let translate = remembering.port(self.protocol, None).then(Target::Dnat(socket));
        // This process is no client of its own ports.
        let own = self.shape.relay == Some(socket.address);
        let hairpin = Some(hairpin).filter(|_| !own);
        (chain, hairpin.into_iter().chain([translate]).collect())
    }
}
