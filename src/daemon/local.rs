//! Counts Service ports with a Local policy whose endpoints are all on other nodes, change by
//! change, for `sync_proxy_rules_no_local_endpoints_total`. Tests: below.

use std::collections::BTreeMap;

use crate::model::{Family, NamespacedName, Service, TrafficPolicy};
use crate::serve::{LocalPolicy, Metrics};
use crate::topology;
use crate::track::{Changes, Cluster};

const POLICIES: [LocalPolicy; 2] = [LocalPolicy::Internal, LocalPolicy::External];

/// Ports without local endpoints: by family, then policy.
type Counts = [[usize; 2]; 2];

/// Services that have any.
#[derive(Debug, Default)]
pub(super) struct NoLocal {
    services: BTreeMap<NamespacedName, Counts>,
    total: Counts,
}

impl NoLocal {
    /// Takes in the Services that changed, and tells the metrics.
    pub(super) fn update(&mut self, cluster: &Cluster, changes: &Changes, metrics: &Metrics) {
        for name in &changes.services {
            if let Some(old) = self.services.remove(name) {
                self.add(&old, usize::wrapping_sub);
            }
            let counts = cluster.service(name).map(|service| count(cluster, service));
            if let Some(new) = counts.filter(|counts| *counts != Counts::default()) {
                self.add(&new, usize::wrapping_add);
                self.services.insert(name.clone(), new);
            }
        }
        for family in Family::ALL {
            for (policy, count) in POLICIES.into_iter().zip(self.total[family.index()]) {
                metrics.without_local_endpoints(family, policy, count);
            }
        }
    }

    fn add(&mut self, counts: &Counts, by: fn(usize, usize) -> usize) {
        for (total, count) in self.total.iter_mut().flatten().zip(counts.iter().flatten()) {
            *total = by(*total, *count);
        }
    }
}

fn count(cluster: &Cluster, service: &Service) -> Counts {
    let mut counts = Counts::default();
    let local = |policy| policy == TrafficPolicy::Local;
    let wants = [
        local(service.internal_policy),
        local(service.external_policy) && service.externally_accessible,
    ];
    if wants == [false, false] {
        return counts;
    }
    for family in Family::ALL.into_iter().filter(|f| service.cluster_ip(*f).is_some()) {
        for port in &service.ports {
            let reach = topology::reach(cluster, service, port, family);
            let lacks = reach.local.is_empty() && reach.any;
            for (count, wanted) in counts[family.index()].iter_mut().zip(wants) {
                *count += usize::from(lacks && wanted);
            }
        }
    }
    counts
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::{
        Conditions, Endpoint, EndpointSlice, Event, Mode, Protocol, ServicePort, SlicePort,
    };
    use crate::track::Tracker;

    fn service(name: &str, (internal, external): (TrafficPolicy, TrafficPolicy)) -> Event {
        Event::Service(Box::new(Service {
            name: NamespacedName::new("a", name),
            created: 0,
            cluster_ips: vec!["10.0.0.1".parse().unwrap()],
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: Vec::new(),
            external_policy: external,
            internal_policy: internal,
            affinity: None,
            health_check_node_port: None,
            externally_accessible: true,
            ipvs_scheduler: None,
            proxy_protocol: None,
            forget_tcp_flows: false,
            ports: vec![ServicePort {
                name: "".into(),
                protocol: Protocol::Tcp,
                port: 80,
                node_port: Some(30080),
            }],
        }))
    }

    fn on(service: &str, node: &str) -> Event {
        Event::Slice(Box::new(EndpointSlice {
            name: NamespacedName::new("a", service),
            service: NamespacedName::new("a", service),
            family: Family::V4,
            ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 80 }],
            endpoints: Box::new([Endpoint {
                address: "10.1.0.1".parse().unwrap(),
                conditions: Conditions::default(),
                node: Some(node.into()),
                hints: None,
            }]),
            trigger_time: None,
        }))
    }

    #[test]
    fn ports_are_counted_and_uncounted() {
        use TrafficPolicy::{Cluster as All, Local};
        let metrics = Metrics::new(Mode::Nftables, &Family::ALL);
        let mut tracker = Tracker::new("me".into());
        let mut no_local = NoLocal::default();
        let mut counts = |events: Vec<Event>| {
            events.into_iter().for_each(|event| tracker.feed(event));
            let changes = tracker.take_changes();
            no_local.update(tracker.cluster(), &changes, &metrics);
            no_local.total[Family::V4.index()]
        };
        let both = vec![
            service("x", (Local, All)),
            on("x", "b"),
            service("y", (Local, Local)),
            on("y", "b"),
        ];
        assert_eq!(counts(both), [2, 1]);
        assert_eq!(counts(vec![on("y", "me")]), [1, 0]);
        assert_eq!(counts(vec![on("y", "b")]), [2, 1]);
        assert_eq!(counts(vec![Event::ServiceGone(NamespacedName::new("a", "y"))]), [1, 0]);
        assert_eq!(counts(vec![service("x", (All, All))]), [0, 0]);
        assert_eq!(counts(vec![service("z", (Local, Local))]), [0, 0], "no endpoint anywhere");
        let line = "sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"internal\"} 0";
        assert!(metrics.text().contains(line));
    }
}
