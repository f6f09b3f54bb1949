//! Counts which rare states the generators reached, so that a property that holds is known to have
//! been tried. Knows no proxy. Tests: the properties assert that nothing stays at 0.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use kube_proxy::model::Family;

use crate::cluster::{Cluster, Setup};
use crate::fate::{Packet, Promise};
use crate::generate::Case;
use crate::oracle::{Claim, Face, Question};

/// How often each state was reached.
#[derive(Clone, Debug)]
pub struct Coverage(BTreeMap<&'static str, usize>);

/// Everything that is counted.
pub const STATES: [&str; 30] = [
    "cluster IP",
    "external address",
    "node port",
    "dual stack Service",
    "external policy Cluster",
    "internal policy Cluster",
    "external policy Local",
    "internal policy Local",
    "local pod short-circuit",
    "hint by zone or node narrows",
    "terminating fallback",
    "terminating fallback on this node",
    "duplicate endpoint",
    "renamed port",
    "zero port",
    "endpoint of the wrong family",
    "same IP in two families",
    "two Services claim one address and port",
    "two Services claim one node port",
    "external IP that is the node's",
    "external IP that is another's cluster IP",
    "nested source ranges",
    "kept out by source ranges",
    "let in by source ranges",
    "host network endpoint",
    "hairpin",
    "reject for want of endpoints",
    "drop for want of local endpoints",
    "guard rejects",
    "guard drops",
];

impl Default for Coverage {
    fn default() -> Self {
        Coverage(STATES.iter().map(|s| (*s, 0)).collect())
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        STATES.iter().try_for_each(|s| writeln!(f, "  {:>8} {s}", self.0.get(s).unwrap_or(&0)))
    }
}

impl Coverage {
    /// States that were never reached.
    pub fn missing(&self) -> Vec<&'static str> {
        STATES.iter().copied().filter(|s| self.0.get(s) == Some(&0)).collect()
    }

    fn count(&mut self, state: &'static str, reached: bool) {
        *self.0.entry(state).or_default() += usize::from(reached);
    }

    /// Counts what a case holds.
    pub fn case(&mut self, case: &Case, cluster: &Cluster) {
        let slices = || case.objects.slices.iter();
        let ports = || slices().flat_map(|s| s["ports"].as_array().into_iter().flatten());
        self.count("renamed port", ports().any(|p| p["name"] == "renamed"));
        self.count("zero port", ports().any(|p| p["port"] == 0));
        self.count("endpoint of the wrong family", slices().any(wrong_family));
        self.count("same IP in two families", in_two_families(&case.objects.slices));
        self.count("duplicate endpoint", duplicates(cluster));
        for service in &cluster.services {
            let families = service.cluster_ips.iter().map(|ip| Family::of(*ip));
            self.count("dual stack Service", families.clone().count() == 2);
            let nested = service
                .source_ranges
                .iter()
                .any(|a| service.source_ranges.iter().any(|b| a != b && a.contains(b)));
            self.count("nested source ranges", nested);
            let node_ip = service.external_ips.iter().any(|ip| case.setup.is_own(*ip));
            self.count("external IP that is the node's", node_ip);
            let foreign = service
                .external_ips
                .iter()
                .any(|ip| cluster.services.iter().any(|other| other.cluster_ips.contains(ip)));
            self.count("external IP that is another's cluster IP", foreign);
        }
    }

    /// Counts what a packet meets.
    pub fn packet(&mut self, cluster: &Cluster, setup: &Setup, packet: &Packet, fate: &Promise) {
        let question = Question { cluster, setup, packet };
        let Some(claim) = question.claim() else {
            self.count("guard rejects", *fate == Promise::Reject);
            self.count("guard drops", *fate == Promise::Drop);
            return;
        };
        self.count("cluster IP", claim.face == Face::Cluster);
        self.count("external address", claim.face == Face::External);
        self.count("node port", claim.face == Face::NodePort);
        self.claimants(cluster, setup, packet, &claim);
        self.endpoints(&question, &claim, fate);
    }

    fn claimants(&mut self, cluster: &Cluster, setup: &Setup, packet: &Packet, claim: &Claim) {
        let without = Cluster {
            services: cluster
                .services
                .iter()
                .filter(|s| s.seniority != claim.service.seniority)
                .cloned()
                .collect(),
            ..Cluster::default()
        };
        let other = Question { cluster: &without, setup, packet }.claim();
        let two =
            other.is_some_and(|o| (o.face == Face::NodePort) == (claim.face == Face::NodePort));
        let node_port = claim.face == Face::NodePort;
        self.count("two Services claim one address and port", two && !node_port);
        self.count("two Services claim one node port", two && node_port);
    }

    fn endpoints(&mut self, question: &Question, claim: &Claim, fate: &Promise) {
        let choice = question.choice(claim);
        let (packet, setup) = (question.packet, question.setup);
        let service = claim.service;
        let outside = claim.face != Face::Cluster;
        let ranged = claim.face == Face::External
            && service.load_balancer_ips.contains(&packet.dest)
            && service.source_ranges.iter().any(|r| Family::of(r.addr()) == packet.family());
        let sent = matches!(fate, Promise::Dnat(_));
        self.count("kept out by source ranges", ranged && *fate == Promise::Drop);
        self.count("let in by source ranges", ranged && sent);
        self.count("external policy Cluster", outside && !service.external_local && sent);
        self.count("internal policy Cluster", !outside && !service.internal_local && sent);
        self.count("external policy Local", outside && service.external_local && sent);
        self.count("internal policy Local", !outside && service.internal_local && sent);
        let ready = choice.cluster.iter().filter(|(_, e)| e.ready).count();
        let leaving = !choice.cluster.is_empty() && ready == 0;
        self.count("terminating fallback", leaving && sent);
        let here = choice.local.iter().any(|(_, e)| !e.ready)
            && if outside { service.external_local } else { service.internal_local };
        self.count("terminating fallback on this node", here && sent);
        let hinted = choice.cluster.iter().any(|(_, e)| !e.zones.is_empty() || !e.nodes.is_empty());
        let all_ready = question.ready(claim);
        self.count(
            "hint by zone or node narrows",
            hinted && sent && ready < all_ready && ready > 0,
        );
        let Promise::Dnat(endpoints) = fate else {
            let nobody = !choice.any && *fate == Promise::Reject;
            self.count("reject for want of endpoints", nobody);
            let nobody_here = choice.any && !ranged && *fate == Promise::Drop;
            self.count("drop for want of local endpoints", nobody_here);
            return;
        };
        let own = endpoints.keys().any(|s| setup.is_own(s.address));
        self.count("host network endpoint", own);
        let hairpin = endpoints.iter().any(|(s, m)| *m && s.address == packet.source);
        self.count("hairpin", hairpin && endpoints.len() > 1);
        let plain = endpoints.values().all(|m| !m);
        let short = outside && service.external_local && plain && *endpoints != local(&choice);
        self.count("local pod short-circuit", short);
    }
}

fn local(choice: &crate::oracle::Choice) -> BTreeMap<kube_proxy::kernel::Socket, bool> {
    choice.local.iter().map(|(s, _)| (*s, false)).collect()
}

fn wrong_family(slice: &serde_json::Value) -> bool {
    let four = slice["addressType"] == "IPv4";
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    endpoints.filter_map(|e| e["addresses"][0].as_str()).any(|a| a.contains(':') == four)
}

/// One address in slices of IPv4 and of IPv6.
fn in_two_families(slices: &[serde_json::Value]) -> bool {
    let addresses = |family: &str| -> BTreeSet<&str> {
        let slices = slices.iter().filter(|s| s["addressType"] == family);
        let endpoints = slices.flat_map(|s| s["endpoints"].as_array().into_iter().flatten());
        endpoints.filter_map(|e| e["addresses"][0].as_str()).collect()
    };
    !addresses("IPv4").is_disjoint(&addresses("IPv6"))
}

fn duplicates(cluster: &Cluster) -> bool {
    let mut seen = BTreeSet::new();
    cluster.endpoints.iter().any(|e| !seen.insert((&e.service, e.address)))
}
