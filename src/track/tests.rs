//! What each event does to the cluster and what it marks. Numbers are lines of
//! upstream-behaviour.md.

use std::net::IpAddr;

use super::*;
use crate::model::{
    Conditions, Endpoint, Family, Hints, Protocol, Reason, Service, ServicePort, SlicePort,
    TrafficPolicy,
};

fn name(text: &str) -> NamespacedName {
    NamespacedName::new("ns", text)
}

fn service(text: &str) -> Service {
    Service {
        name: name(text),
        created: 0,
        cluster_ips: vec!["10.0.0.1".parse().unwrap()],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        external_policy: TrafficPolicy::Cluster,
        internal_policy: TrafficPolicy::Cluster,
        affinity: None,
        health_check_node_port: None,
        externally_accessible: false,
        ipvs_scheduler: None,
        proxy_protocol: None,
        forget_tcp_flows: false,
        ports: vec![ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }],
    }
}

fn slice(own: &str, service: &str, addresses: &[&str]) -> EndpointSlice {
    let endpoint = |a: &&str| Endpoint {
        address: a.parse().unwrap(),
        conditions: Conditions::default(),
        node: None,
        hints: None,
    };
    EndpointSlice {
        name: name(own),
        service: name(service),
        family: Family::V4,
        ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: addresses.iter().map(endpoint).collect(),
        trigger_time: None,
    }
}

fn node(zone: Option<&str>, addresses: &[&str]) -> Node {
    Node {
        name: "me".into(),
        zone: zone.map(Into::into),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        ..Node::default()
    }
}

fn notice(object: &str) -> Notice {
    Notice {
        kind: "Service",
        object: name(object),
        field: String::new(),
        reason: Reason::InvalidField,
        message: "wrong".into(),
    }
}

fn feed_service(t: &mut Tracker, service: Service) {
    t.feed(Event::Service(Box::new(service)));
}

fn feed_slice(t: &mut Tracker, slice: EndpointSlice) {
    t.feed(Event::Slice(Box::new(slice)));
}

/// Names of marked Services in one line; other marks follow in capitals.
fn marks(t: &mut Tracker) -> String {
    let changes = t.take_changes();
    let mut words: Vec<String> = changes.services.iter().map(|s| s.name.to_string()).collect();
    let flags = [
        (changes.everything, "EVERYTHING"),
        (changes.node, "NODE"),
        (changes.service_cidrs, "CIDRS"),
        (changes.notices, "NOTICES"),
    ];
    words.extend(flags.into_iter().filter(|(set, _)| *set).map(|(_, word)| word.to_owned()));
    words.join(" ")
}

/// A cluster of one Service `a` with one slice `a-1`, on node `me` in zone `z`; nothing marked.
fn tracker() -> Tracker {
    let mut t = Tracker::new("me".into());
    for kind in Kind::ALL {
        t.feed(Event::ListStarted(kind));
    }
    feed_service(&mut t, service("a"));
    feed_slice(&mut t, slice("a-1", "a", &["10.1.0.1", "10.1.0.2"]));
    t.feed(Event::Node(Box::new(node(Some("z"), &["192.0.2.1"]))));
    t.feed(Event::ServiceCidr(NamespacedName::new("", "k"), vec!["10.0.0.0/16".parse().unwrap()]));
    assert!(!t.ready());
    for kind in Kind::ALL {
        t.feed(Event::ListEnded(kind));
    }
    assert!(t.ready());
    assert_eq!(marks(&mut t), "a EVERYTHING NODE CIDRS");
    t
}

fn slice_names(t: &Tracker, service: &str) -> String {
    let names: Vec<&str> = t.cluster().slices(&name(service)).map(|s| &*s.name.name).collect();
    names.join(" ")
}

fn service_names(t: &Tracker) -> String {
    let names: Vec<&str> = t.cluster().services().map(|s| &*s.name.name).collect();
    names.join(" ")
}

#[test]
fn what_an_event_marks() {
    let with = |change: fn(&mut Service)| {
        let mut changed = service("a");
        change(&mut changed);
        Event::Service(Box::new(changed))
    };
    let sliced = |change: fn(&mut EndpointSlice)| {
        let mut changed = slice("a-1", "a", &["10.1.0.1", "10.1.0.2"]);
        change(&mut changed);
        Event::Slice(Box::new(changed))
    };
    let noded = |change: fn(&mut Node)| {
        let mut changed = node(Some("z"), &["192.0.2.1"]);
        change(&mut changed);
        Event::Node(Box::new(changed))
    };
    let cidr = |object: &str, cidrs: &[&str]| {
        let cidrs = cidrs.iter().map(|c| c.parse().unwrap()).collect();
        Event::ServiceCidr(NamespacedName::new("", object), cidrs)
    };
    let cases: Vec<(&str, Event, &str)> = vec![
        ("the same Service", with(|_| ()), ""),
        ("a Service's port", with(|s| s.ports[0].port = 81), "a"),
        ("a new Service", with(|s| s.name = name("b")), "b"),
        ("a Service gone", Event::ServiceGone(name("a")), "a"),
        ("an unknown Service gone", Event::ServiceGone(name("x")), ""),
        ("the same slice", sliced(|_| ()), ""),
        ("14: a slice's metadata only", sliced(|s| s.trigger_time = Some(5)), ""),
        ("a slice in other order", sliced(|s| s.endpoints.reverse()), ""),
        ("a slice's condition", sliced(|s| s.endpoints[0].conditions.ready = false), "a"),
        (
            "a slice's hint",
            sliced(|s| s.endpoints[0].hints = Some(Arc::new(Hints::default()))),
            "a",
        ),
        ("a slice's port", sliced(|s| s.ports[0].port = 1), "a"),
        ("a slice moves to another Service", sliced(|s| s.service = name("b")), "a b"),
        (
            "a slice of no Service yet",
            sliced(|s| (s.name, s.service) = (name("c-1"), name("c"))),
            "c",
        ),
        ("a slice gone", Event::SliceGone(name("a-1")), "a"),
        ("an unknown slice gone", Event::SliceGone(name("x")), ""),
        ("the same Node", noded(|_| ()), ""),
        ("20: the zone", noded(|n| n.zone = Some("y".into())), "EVERYTHING"),
        ("20: no zone any more", noded(|n| n.zone = Some("".into())), "EVERYTHING"),
        ("an address", noded(|n| n.addresses.clear()), "NODE"),
        ("a pod CIDR", noded(|n| n.pod_cidrs.push("10.1.0.0/24".parse().unwrap())), "NODE"),
        ("a taint", noded(|n| n.to_be_deleted = true), ""),
        ("another Node", noded(|n| (n.name, n.zone) = ("you".into(), None)), ""),
        ("20: Node deleted", Event::NodeGone, ""),
        ("the same CIDRs", cidr("k", &["10.0.0.0/16"]), ""),
        ("the same CIDR, host bits set", cidr("k", &["10.0.9.9/16"]), ""),
        ("more CIDRs", cidr("k", &["10.0.0.0/16", "fd00::/108"]), "CIDRS"),
        ("a CIDR known already", cidr("l", &["10.0.0.0/16"]), ""),
        ("a ServiceCIDR gone", Event::ServiceCidrGone(NamespacedName::new("", "k")), "CIDRS"),
        ("a notice", Event::Notices(Kind::Service, name("a"), vec![notice("a")]), "NOTICES"),
        ("no notice", Event::Notices(Kind::Service, name("a"), vec![]), ""),
    ];
    for (what, event, expected) in cases {
        let mut t = tracker();
        t.feed(event.clone());
        assert_eq!(marks(&mut t), expected, "{what}");
        t.feed(event);
        assert_eq!(marks(&mut t), "", "{what}, told again");
    }
}

#[test]
fn slices_are_ordered_by_name_and_outlive_their_service() {
    let mut t = tracker();
    feed_slice(&mut t, slice("a-0", "a", &["10.1.0.3"]));
    feed_slice(&mut t, slice("a-2", "a", &[]));
    t.feed(Event::ServiceGone(name("a")));
    assert_eq!(slice_names(&t, "a"), "a-0 a-1 a-2");
    assert_eq!(service_names(&t), "");
    t.feed(Event::SliceGone(name("a-1")));
    assert_eq!(slice_names(&t, "a"), "a-0 a-2");
    feed_slice(&mut t, slice("a-0", "b", &["10.1.0.3"]));
    assert_eq!((slice_names(&t, "a"), slice_names(&t, "b")), ("a-2".into(), "a-0".into()));
    feed_service(&mut t, service("b"));
    assert_eq!(service_names(&t), "b");
    let first: Vec<IpAddr> = t
        .cluster()
        .slices(&name("b"))
        .flat_map(|s| s.endpoints.iter().map(|e| e.address))
        .collect();
    assert_eq!(first, ["10.1.0.3".parse::<IpAddr>().unwrap()]);
}

#[test]
fn nothing_is_left_of_what_came_and_went() {
    let mut t = tracker();
    t.feed(Event::ServiceGone(name("a")));
    t.feed(Event::SliceGone(name("a-1")));
    t.feed(Event::ServiceCidrGone(NamespacedName::new("", "k")));
    assert_eq!(format!("{:?}", t.cluster().names(Kind::Service)), "{}");
    assert_eq!(format!("{:?}", t.cluster().names(Kind::EndpointSlice)), "{}");
    assert!(t.cluster().service_cidrs().is_empty());
    assert!(t.cluster().slices(&name("a")).next().is_none());
}

#[test]
fn a_new_list_takes_away_what_it_does_not_tell_of() {
    let mut t = tracker();
    feed_service(&mut t, service("b"));
    feed_service(&mut t, service("c"));
    t.feed(Event::Notices(Kind::Service, name("c"), vec![notice("c")]));
    t.take_changes();
    t.feed(Event::ListStarted(Kind::Service));
    feed_service(&mut t, service("b"));
    assert_eq!(service_names(&t), "a b c", "nothing goes before the end");
    t.feed(Event::ListEnded(Kind::Service));
    assert_eq!(service_names(&t), "b");
    assert_eq!(t.cluster().notices().count(), 0);
    assert_eq!(marks(&mut t), "a c NOTICES");
}

#[test]
fn an_aborted_list_starts_over() {
    let mut t = tracker();
    feed_slice(&mut t, slice("b-1", "b", &["10.1.0.9"]));
    t.take_changes();
    t.feed(Event::ListStarted(Kind::EndpointSlice));
    feed_slice(&mut t, slice("b-1", "b", &["10.1.0.9"]));
    t.feed(Event::ListStarted(Kind::EndpointSlice));
    feed_slice(&mut t, slice("a-1", "a", &["10.1.0.1", "10.1.0.2"]));
    t.feed(Event::ListEnded(Kind::EndpointSlice));
    assert_eq!(marks(&mut t), "b");
    assert_eq!((slice_names(&t, "a"), slice_names(&t, "b")), ("a-1".into(), "".into()));
}

#[test]
fn objects_of_an_aborted_first_list_go_when_it_has_ended() {
    let mut t = Tracker::new("me".into());
    t.feed(Event::ListStarted(Kind::Service));
    feed_service(&mut t, service("a"));
    t.feed(Event::ListStarted(Kind::Service));
    feed_service(&mut t, service("b"));
    assert_eq!(service_names(&t), "a b");
    t.feed(Event::ListEnded(Kind::Service));
    assert_eq!(service_names(&t), "b");
}

#[test]
fn a_watch_event_during_a_list_counts_as_told() {
    let mut t = tracker();
    t.feed(Event::ListStarted(Kind::Service));
    t.feed(Event::ServiceGone(name("a")));
    feed_service(&mut t, service("a"));
    t.feed(Event::ListEnded(Kind::Service));
    assert_eq!(service_names(&t), "a");
}

#[test]
fn the_node_stays_for_programming_when_its_object_goes() {
    let mut t = tracker();
    assert!(t.cluster().node_eligible());
    t.feed(Event::NodeGone);
    assert!(t.cluster().node().is_some() && t.cluster().node_gone());
    assert!(!t.cluster().node_eligible());
    t.feed(Event::Node(Box::new(node(Some("z"), &["192.0.2.1"]))));
    assert!(!t.cluster().node_gone() && t.cluster().node_eligible());
    assert_eq!(marks(&mut t), "");
    t.feed(Event::ListStarted(Kind::Node));
    t.feed(Event::ListEnded(Kind::Node));
    assert!(t.cluster().node_gone() && t.cluster().node().is_some());
}

#[test]
fn line_80_the_node_is_not_eligible_when_it_leaves_or_is_nowhere() {
    let mut t = tracker();
    t.feed(Event::Node(Box::new(Node { to_be_deleted: true, ..node(None, &[]) })));
    assert!(!t.cluster().node_eligible());
    t.feed(Event::Node(Box::new(Node { deleting: true, ..node(None, &[]) })));
    assert!(!t.cluster().node_eligible());

    let mut t = Tracker::new("me".into());
    assert!(t.cluster().node_eligible(), "not heard of yet");
    t.feed(Event::ListStarted(Kind::Node));
    t.feed(Event::ListEnded(Kind::Node));
    assert!(!t.cluster().node_eligible(), "not in the list");
}

#[test]
fn line_58_a_cidr_stays_while_another_object_has_it() {
    let mut t = tracker();
    let other = NamespacedName::new("", "l");
    let cidrs = ["10.9.0.0/16", "10.0.0.0/16"].map(|c| c.parse().unwrap());
    t.feed(Event::ServiceCidr(other, cidrs.to_vec()));
    t.feed(Event::ServiceCidrGone(NamespacedName::new("", "k")));
    let left: Vec<String> = t.cluster().service_cidrs().iter().map(ToString::to_string).collect();
    assert_eq!(left, ["10.0.0.0/16", "10.9.0.0/16"]);
}

#[test]
fn notices_stay_until_taken_back_or_not_listed_again() {
    let mut t = tracker();
    t.feed(Event::Notices(Kind::Service, name("a"), vec![notice("a")]));
    t.feed(Event::ServiceGone(name("a")));
    assert_eq!(t.cluster().notices().count(), 1, "they may say why the Service counts as gone");
    t.feed(Event::ListStarted(Kind::Service));
    t.feed(Event::Notices(Kind::Service, name("a"), vec![notice("a")]));
    t.feed(Event::ListEnded(Kind::Service));
    assert_eq!(t.cluster().notices().count(), 1, "listed again");
    t.take_changes();
    t.feed(Event::ListStarted(Kind::Service));
    t.feed(Event::ListEnded(Kind::Service));
    assert_eq!((t.cluster().notices().count(), marks(&mut t)), (0, "NOTICES".into()));
    t.feed(Event::Notices(Kind::Service, name("a"), vec![notice("a")]));
    t.feed(Event::Notices(Kind::Service, name("a"), vec![]));
    assert_eq!(t.cluster().notices().count(), 0, "taken back");
}

#[test]
fn trigger_times_wait_for_the_programming() {
    let timed = |addresses: &[&str], time| EndpointSlice {
        trigger_time: Some(time),
        ..slice("a-1", "a", addresses)
    };
    let at = |times: &[Trigger]| times.iter().map(|t| t.at).collect::<Vec<_>>();
    let mut t = tracker();
    t.count_triggers_after(100);
    feed_slice(&mut t, timed(&["10.1.0.1", "10.1.0.2"], 200));
    assert!(t.trigger_times(&name("a")).is_empty(), "nothing to program, nothing to wait for");
    feed_slice(&mut t, timed(&["10.1.0.1"], 200));
    assert!(t.trigger_times(&name("a")).is_empty(), "the trigger is an older one's");
    feed_slice(&mut t, timed(&["10.1.0.2"], 300));
    feed_slice(&mut t, timed(&["10.1.0.2"], 400));
    feed_slice(&mut t, EndpointSlice { name: name("a-2"), ..timed(&["10.1.0.3"], 100) });
    t.take_changes();
    assert_eq!(at(t.trigger_times(&name("a"))), [300, 400], "21: after the start only");
    assert_eq!(at(&t.take_trigger_times(&name("a"))), [300, 400]);
    assert!(t.trigger_times(&name("a")).is_empty());
    feed_slice(&mut t, timed(&["10.1.0.1"], 500));
    assert_eq!(t.take_all_trigger_times(), [Trigger { family: Family::V4, at: 500 }]);
    feed_slice(&mut t, timed(&["10.1.0.3"], 600));
    t.feed(Event::SliceGone(name("a-1")));
    assert!(t.trigger_times(&name("a")).is_empty(), "21: removed on delete");
}

/// A small generator, so that a failure's seed replays it.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// What Services and slices are known, in one text: names in order, and what they hold.
fn shown(cluster: &Cluster, names: &[NamespacedName]) -> Vec<String> {
    let one = |n: &NamespacedName| {
        let slices: Vec<&EndpointSlice> = cluster.slices(n).collect();
        assert!(slices.is_sorted_by_key(|s| &s.name));
        format!("{:?} {slices:?}", cluster.service(n))
    };
    names.iter().map(one).collect()
}

fn random_event(dice: &mut Dice) -> Event {
    let services = ["a", "b", "c"];
    let own = format!("s-{}", dice.roll(4));
    let of = services[dice.roll(3) as usize];
    match dice.roll(8) {
        0 => Event::ServiceGone(name(of)),
        1 | 2 => {
            let mut service = service(of);
            service.ports[0].port = 80 + dice.roll(2) as u16;
            Event::Service(Box::new(service))
        }
        3 => Event::SliceGone(name(&own)),
        4 => Event::ListStarted([Kind::Service, Kind::EndpointSlice][dice.roll(2) as usize]),
        5 => Event::ListEnded([Kind::Service, Kind::EndpointSlice][dice.roll(2) as usize]),
        _ => {
            let addresses = [&["10.1.0.1"][..], &["10.1.0.2"], &["10.1.0.1", "10.1.0.2"]];
            let mut slice = slice(&own, of, addresses[dice.roll(3) as usize]);
            slice.trigger_time = Some(dice.roll(3) as i64);
            Event::Slice(Box::new(slice))
        }
    }
}

#[test]
fn marks_are_what_differs_after_any_history() {
    let names = ["a", "b", "c"].map(name);
    for seed in 0..2000 {
        let mut dice = Dice(seed);
        let mut t = Tracker::new("me".into());
        let mut history = Vec::new();
        for _ in 0..40 {
            let before = shown(t.cluster(), &names);
            let event = random_event(&mut dice);
            history.push(event.clone());
            t.feed(event);
            let after = shown(t.cluster(), &names);
            let marked = t.take_changes().services;
            for (i, name) in names.iter().enumerate() {
                // The one difference that is not marked is a slice's trigger time.
                let strip = |text: &str| {
                    (0..3).fold(text.to_owned(), |t, i| t.replace(&format!("Some({i})"), "-"))
                };
                let differs = strip(&before[i]) != strip(&after[i]);
                assert_eq!(marked.contains(name), differs, "seed {seed}, {name}: {history:#?}");
            }
        }
        assert_same_as_told_once(&t, &names, seed);
    }
}

/// Whatever the history, the cluster is as if what is there now had been told once.
fn assert_same_as_told_once(t: &Tracker, names: &[NamespacedName], seed: u64) {
    let mut fresh = Tracker::new("me".into());
    for name in names {
        t.cluster().slices(name).for_each(|s| feed_slice(&mut fresh, s.clone()));
        if let Some(service) = t.cluster().service(name) {
            feed_service(&mut fresh, service.clone());
        }
    }
    assert_eq!(shown(fresh.cluster(), names), shown(t.cluster(), names), "seed {seed}");
    let listed = |t: &Tracker| t.cluster().services().map(|s| s.name.clone()).collect::<Vec<_>>();
    assert_eq!(listed(&fresh), listed(t), "seed {seed}");
    for kind in [Kind::Service, Kind::EndpointSlice] {
        assert_eq!(fresh.cluster().names(kind), t.cluster().names(kind), "seed {seed}");
    }
}
