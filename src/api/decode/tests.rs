//! Every rule of decoding, one by one.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use serde_json::{Value, json};

use super::*;
use crate::model::{Conditions, EndpointSlice, Family, Node, Protocol, Service, TrafficPolicy};

fn split(events: Vec<Event>) -> (Option<Event>, Vec<String>) {
    let (mut found, mut notices) = (None, Vec::new());
    for event in events {
        match event {
            Event::Notices(_, _, told) => notices.extend(told.iter().map(|n| n.to_string())),
            event => found = Some(event),
        }
    }
    (found, notices)
}

/// A Service `ns/web` with this `spec`, decoded.
fn service_of(spec: Value) -> (Option<Service>, Vec<String>) {
    whole_service(json!({"metadata": {"namespace": "ns", "name": "web"}, "spec": spec}))
}

fn whole_service(object: Value) -> (Option<Service>, Vec<String>) {
    match split(service(&object, &mut Decoder::new("me"))) {
        (Some(Event::Service(service)), notices) => (Some(*service), notices),
        (Some(Event::ServiceGone(_)) | None, notices) => (None, notices),
        other => panic!("{other:?}"),
    }
}

fn good_service(spec: Value) -> Service {
    let (service, notices) = service_of(spec);
    assert_eq!(notices, Vec::<String>::new());
    service.unwrap()
}

fn slice_of(object: Value) -> (Option<EndpointSlice>, Vec<String>) {
    match split(endpoint_slice(&object, &mut Decoder::new("me"))) {
        (Some(Event::Slice(slice)), notices) => (Some(*slice), notices),
        (Some(Event::SliceGone(_)) | None, notices) => (None, notices),
        other => panic!("{other:?}"),
    }
}

/// A slice `ns/web-1` of Service `web`, with these ports and endpoints.
fn slice_json(ports: Value, endpoints: Value) -> Value {
    json!({
        "metadata": {"namespace": "ns", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    })
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

#[test]
fn a_bare_service_gets_the_apis_defaults() {
    let service = good_service(json!({"clusterIP": "10.0.0.1", "ports": [{"port": 80}]}));
    assert_eq!(service.name, NamespacedName::new("ns", "web"));
    assert_eq!(service.created, i64::MAX);
    assert_eq!(service.affinity, None);
    assert_eq!(service.external_policy, TrafficPolicy::Cluster);
    assert_eq!(service.internal_policy, TrafficPolicy::Cluster);
    assert!(!service.externally_accessible);
    let port = &service.ports[0];
    assert_eq!(
        (&*port.name, port.protocol, port.port, port.node_port),
        ("", Protocol::Tcp, 80, None)
    );
}

#[test]
fn services_of_others_are_gone() {
    let gone = [
        json!({"spec": {"type": "ExternalName", "clusterIP": "10.0.0.1"}}),
        json!({"spec": {"clusterIP": "None"}}),
        json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}),
        json!({"spec": {"clusterIPs": ["None"]}}),
        json!({"spec": {"clusterIP": ""}}),
        json!({"spec": {}}),
        json!({}),
        json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": ""}}, "spec": {"clusterIP": "10.0.0.1"}}),
        json!({"metadata": {"labels": {"service.kubernetes.io/headless": null}}, "spec": {"clusterIP": "10.0.0.1"}}),
    ];
    for mut object in gone {
        object["metadata"]["name"] = json!("web");
        let events = service(&object, &mut Decoder::new("me"));
        assert_eq!(events, [Event::ServiceGone(NamespacedName::new("default", "web"))], "{object}");
    }
}

#[test]
fn cluster_ips_are_one_a_family_and_normalised() {
    let of = |spec| good_service(spec).cluster_ips;
    assert_eq!(of(json!({"clusterIP": "010.0.0.01"})), ips(&["10.0.0.1"]));
    let both = json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1", "10.0.0.2"]});
    assert_eq!(of(both), ips(&["10.0.0.1", "fd00::1"]));
    assert_eq!(of(json!({"clusterIP": "::ffff:10.0.0.1"})), ips(&["10.0.0.1"]));
    let (service, notices) = service_of(json!({"clusterIPs": ["x", "fd00::1", 7]}));
    assert_eq!(service.unwrap().cluster_ips, ips(&["fd00::1"]));
    assert_eq!(
        notices,
        [
            "Service ns/web spec.clusterIPs[0]: \"x\" is not an IP address; left out",
            "Service ns/web spec.clusterIPs[2]: a number where a string is wanted; left out",
        ]
    );
}

#[test]
fn external_policy_local_counts_only_where_reachable() {
    let of = |extra: Value| {
        let mut spec = json!({"clusterIP": "10.0.0.1", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30000});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let s = good_service(spec);
        (
            s.external_policy == TrafficPolicy::Local,
            s.health_check_node_port,
            s.externally_accessible,
        )
    };
    assert_eq!(of(json!({})), (false, None, false));
    assert_eq!(of(json!({"type": "NodePort"})), (true, None, true));
    assert_eq!(of(json!({"type": "LoadBalancer"})), (true, Some(30000), true));
    assert_eq!(of(json!({"externalIPs": ["1.2.3.4"]})), (true, None, true));
    let cluster = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Cluster"});
    assert_eq!(of(cluster), (false, None, true));
}

#[test]
fn malformed_fields_cost_only_themselves() {
    let (service, notices) = service_of(json!({
        "clusterIP": "10.0.0.1", "type": "Sideways", "internalTrafficPolicy": 1,
        "externalTrafficPolicy": "Nowhere", "sessionAffinity": [], "healthCheckNodePort": "x",
        "externalIPs": ["1.2.3.4", "127.0.0.1", "300.1.1.1", "1.2.3.4", null],
        "loadBalancerSourceRanges": [" 10.1.2.3/8 ", "10.0.0.0/8", "nonsense"],
        "ports": [
            {"name": "a", "port": 80, "protocol": "tcp"}, {"name": "b", "port": 65536},
            {"name": "c"}, {"name": "d", "port": "80"}, "e", {"name": "f g", "port": 1},
            {"name": "h", "port": 443, "nodePort": -1},
        ],
    }));
    let service = service.unwrap();
    assert_eq!(service.external_ips, ips(&["1.2.3.4"]));
    assert_eq!(service.source_ranges, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(service.ports.iter().map(|p| p.port).collect::<Vec<_>>(), [443]);
    assert_eq!(
        notices,
        [
            "Service ns/web spec.type: \"Sideways\" is no type of Service; taken as ClusterIP",
            "Service ns/web spec.externalTrafficPolicy: \"Nowhere\" is not Cluster or Local; taken as Cluster",
            "Service ns/web spec.externalIPs[1]: 127.0.0.1 is a loopback address; left out",
            "Service ns/web spec.externalIPs[2]: \"300.1.1.1\" is not an IP address; left out",
            "Service ns/web spec.loadBalancerSourceRanges[2]: \"nonsense\" is not a CIDR; left out",
            "Service ns/web spec.internalTrafficPolicy: a number where a string is wanted; left out",
            "Service ns/web spec.sessionAffinity: a list where a string is wanted; left out",
            "Service ns/web spec.ports[0].protocol: \"tcp\" is not TCP, UDP or SCTP; the port is left out",
            "Service ns/web spec.ports[1].port: 65536 is not a port (1 to 65535); left out",
            "Service ns/web spec.ports[2].port: there is none; the port is left out",
            "Service ns/web spec.ports[3].port: a string where a number is wanted; left out",
            "Service ns/web spec.ports[4]: a string where an object is wanted; left out",
            "Service ns/web spec.ports[5].name: \"f g\" is not a port name; the port is left out",
            "Service ns/web spec.ports[6].nodePort: -1 is not a port (1 to 65535); left out",
        ]
    );
}

#[test]
fn source_ranges_that_cannot_be_read_let_nobody_in() {
    let (service, notices) =
        service_of(json!({"clusterIP": "10.0.0.1", "loadBalancerSourceRanges": ["x"]}));
    let nobody: Vec<ipnet::IpNet> = vec!["0.0.0.0/32".parse().unwrap(), "::/128".parse().unwrap()];
    assert_eq!(service.unwrap().source_ranges, nobody);
    assert_eq!(notices.len(), 2, "{notices:?}");
    assert_eq!(
        good_service(json!({"clusterIP": "10.0.0.1", "loadBalancerSourceRanges": []}))
            .source_ranges,
        []
    );
}

#[test]
fn load_balancer_ips_count_by_mode() {
    let (service, notices) = whole_service(json!({
        "metadata": {"name": "web"}, "spec": {"clusterIP": "10.0.0.1"},
        "status": {"loadBalancer": {"ingress": [
            {"ip": "1.1.1.1"}, {"ip": "1.1.1.2", "ipMode": "VIP"}, {"ip": "1.1.1.3", "ipMode": "Proxy"},
            {"hostname": "lb"}, {"ip": "bad"}, {"ip": "fd00::9", "ipMode": null}, {"ip": "1.1.1.1"},
            {"ip": "1.1.1.4", "ipMode": "Odd"}, 5,
        ]}},
    }));
    assert_eq!(service.unwrap().load_balancer_ips, ips(&["1.1.1.1", "1.1.1.2", "fd00::9"]));
    assert_eq!(notices.len(), 3, "{notices:?}");
}

#[test]
fn affinity_has_a_timeout_whatever_comes() {
    let of = |config: Value| {
        let (service, notices) = service_of(
            json!({"clusterIP": "10.0.0.1", "sessionAffinity": "ClientIP", "sessionAffinityConfig": config}),
        );
        (service.unwrap().affinity.unwrap(), notices.len())
    };
    assert_eq!(of(json!(null)), (10_800, 0));
    assert_eq!(of(json!({})), (10_800, 0));
    assert_eq!(of(json!({"clientIP": {"timeoutSeconds": 1}})), (1, 0));
    assert_eq!(of(json!({"clientIP": {"timeoutSeconds": 86_400}})), (86_400, 0));
    for bad in [json!(0), json!(86_401), json!(-1), json!("x"), json!(1.5), json!(u64::MAX)] {
        assert_eq!(of(json!({"clientIP": {"timeoutSeconds": bad}})), (10_800, 1), "{bad}");
    }
    assert_eq!(of(json!({"clientIP": 5})), (10_800, 1));
    assert_eq!(of(json!(5)), (10_800, 1));
}

#[test]
fn of_clashing_ports_the_first_stays() {
    let (service, notices) = service_of(json!({"clusterIP": "10.0.0.1", "ports": [
        {"name": "a", "port": 80, "nodePort": 30080}, {"name": "a", "port": 81},
        {"name": "b", "port": 80}, {"name": "c", "port": 80, "protocol": "UDP", "nodePort": 30080},
        {"name": "d", "port": 82, "nodePort": 30080},
    ]}));
    let ports: Vec<_> = service
        .unwrap()
        .ports
        .into_iter()
        .map(|p| (p.name.to_string(), p.port, p.node_port))
        .collect();
    let want = [("a", 80, Some(30080)), ("c", 80, Some(30080)), ("d", 82, None)];
    assert_eq!(ports, want.map(|(name, port, node)| (name.to_owned(), port, node)));
    assert_eq!(notices.len(), 3, "{notices:?}");
}

#[test]
fn creation_times_are_seconds() {
    let of = |created: Value| {
        let meta = json!({"name": "web", "creationTimestamp": created});
        let (service, notices) =
            whole_service(json!({"metadata": meta, "spec": {"clusterIP": "10.0.0.1"}}));
        (service.unwrap().created, notices.len())
    };
    assert_eq!(of(json!("2024-01-01T00:00:00Z")), (1_704_067_200, 0));
    assert_eq!(of(json!(null)), (i64::MAX, 0));
    assert_eq!(of(json!("yesterday")), (i64::MAX, 1));
    assert_eq!(of(json!(17)), (i64::MAX, 1));
}

#[test]
fn objects_without_a_usable_name_are_named_in_a_notice() {
    let unusable = [
        json!({}),
        json!(null),
        json!(5),
        json!([]),
        json!("x"),
        json!({"metadata": 5}),
        json!({"metadata": {"name": ""}}),
        json!({"metadata": {"name": "a\nb"}}),
        json!({"metadata": {"name": "a", "namespace": "b/c"}}),
        json!({"metadata": {"name": 7}}),
        json!({"metadata": {"name": "x".repeat(254)}}),
    ];
    for object in unusable {
        for kind in Kind::ALL {
            let events = any(kind, &object, &mut Decoder::new("a"));
            if kind == Kind::Node || kind == Kind::ServiceCidr {
                // Cluster-scoped kinds have no namespace to be wrong.
                if object["metadata"]["namespace"] == "b/c" {
                    continue;
                }
            }
            let [Event::Notices(_, _, notices)] = &events[..] else {
                panic!("{object}: {events:?}")
            };
            assert_eq!(notices[0].reason, Reason::InvalidObject, "{object}");
        }
    }
}

#[test]
fn a_complaint_is_taken_back_once() {
    let mut decoder = Decoder::new("me");
    let name = NamespacedName::new("ns", "web");
    let with = |ip: &str| json!({"metadata": {"namespace": "ns", "name": "web"}, "spec": {"clusterIP": "10.0.0.1", "externalIPs": [ip]}});
    assert_eq!(service(with("1.2.3.4"), &mut decoder).len(), 1);
    assert_eq!(service(with("x"), &mut decoder).len(), 2);
    let events = service(with("1.2.3.4"), &mut decoder);
    assert_eq!(events[0], Event::Notices(Kind::Service, name.clone(), vec![]));
    assert_eq!(service(with("1.2.3.4"), &mut decoder).len(), 1);
    service(with("x"), &mut decoder);
    let told = gone(Kind::Service, &with("x"), &mut decoder).unwrap();
    let want = [Event::Notices(Kind::Service, name.clone(), vec![]), Event::ServiceGone(name)];
    assert_eq!(told.events, want);
}

#[test]
fn a_slice_has_only_usable_ports() {
    let ports = json!([
        {"name": "http", "port": 80}, {"port": 81, "protocol": "UDP"}, {"name": null, "port": 82},
        {"name": "none", "port": null}, {"name": "zero", "port": 0}, {"name": "bad", "port": 70000},
        {"name": "what", "port": 1, "protocol": "X"}, 5, {"name": "http", "port": 80},
    ]);
    let (slice, notices) = slice_of(slice_json(ports, json!([])));
    let slice = slice.unwrap();
    let got: Vec<_> = slice.ports.iter().map(|p| (&*p.name, p.protocol, p.port)).collect();
    let want = [("http", Protocol::Tcp, 80), ("", Protocol::Udp, 81), ("", Protocol::Tcp, 82)];
    assert_eq!(got, want);
    assert_eq!(notices.len(), 3, "{notices:?}");
    assert_eq!(slice.service, NamespacedName::new("ns", "web"));
    assert_eq!(slice.family, Family::V4);
}

#[test]
fn an_endpoint_has_its_first_address_and_defaults() {
    let endpoints = json!([
        {"addresses": ["10.0.0.1", "10.0.0.2"], "nodeName": "n1", "conditions": {},
         "hints": {"forZones": [{"name": "z"}], "forNodes": [{"name": "n1"}, {"name": 5}]}},
        {"addresses": ["010.0.0.03"], "nodeName": "", "hints": {"forZones": []},
         "conditions": {"ready": false, "serving": true, "terminating": true}},
        {"addresses": ["10.0.0.4"], "conditions": {"ready": null, "serving": "yes", "terminating": 1}},
    ]);
    let (slice, notices) = slice_of(slice_json(json!([]), endpoints));
    let slice = slice.unwrap();
    let addresses: Vec<_> = slice.endpoints.iter().map(|e| e.address).collect();
    assert_eq!(addresses, ips(&["10.0.0.1", "10.0.0.3", "10.0.0.4"]));
    let [first, second, third] = &slice.endpoints[..] else { panic!() };
    assert_eq!(first.node.as_deref(), Some("n1"));
    let hints = first.hints.as_deref().unwrap();
    assert_eq!((&*hints.zones[0], &*hints.nodes[0], hints.nodes.len()), ("z", "n1", 1));
    assert_eq!(first.conditions, Conditions::default());
    assert_eq!((second.node.clone(), second.hints.clone()), (None, None));
    assert_eq!(second.conditions, Conditions { ready: false, serving: true, terminating: true });
    assert_eq!(third.conditions, Conditions::default());
    assert_eq!(notices.len(), 3, "{notices:?}");
}

#[test]
fn endpoints_the_api_would_refuse_are_left_out() {
    let bad =
        ["127.0.0.1", "0.0.0.0", "169.254.0.1", "224.0.0.1", "fd00::1", "x", "", "::ffff:10.0.0.1"];
    let endpoints: Vec<Value> = bad.iter().map(|a| json!({"addresses": [a]})).collect();
    let (slice, notices) = slice_of(slice_json(json!([]), json!(endpoints)));
    assert_eq!(slice.unwrap().endpoints.len(), 0);
    assert_eq!(notices.len(), bad.len() - 1, "{notices:?}");

    let bad = ["::1", "::", "fe80::1", "ff02::1", "10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0"];
    let endpoints: Vec<Value> = bad.iter().map(|a| json!({"addresses": [a]})).collect();
    let mut object = slice_json(json!([]), json!(endpoints));
    object["addressType"] = json!("IPv6");
    let (slice, notices) = slice_of(object);
    assert_eq!(slice.unwrap().endpoints.len(), 0);
    assert_eq!(notices.len(), bad.len(), "{notices:?}");

    let odd =
        json!([{"addresses": []}, {"addresses": "10.0.0.1"}, {"addresses": [7]}, {}, null, 5]);
    let (slice, notices) = slice_of(slice_json(json!([]), odd));
    assert_eq!(slice.unwrap().endpoints.len(), 0);
    assert_eq!(notices.len(), 7, "{notices:?}");
}

#[test]
fn slices_of_no_use_are_gone() {
    let with = |key: &str, value: Value| {
        let mut object = slice_json(json!([]), json!([]));
        *object.pointer_mut(key).unwrap() = value;
        slice_of(object)
    };
    assert_eq!(with("/addressType", json!("FQDN")), (None, vec![]));
    assert_eq!(with("/metadata/labels", json!({})), (None, vec![]));
    let headless =
        json!({"kubernetes.io/service-name": "web", "service.kubernetes.io/headless": ""});
    assert_eq!(with("/metadata/labels", headless), (None, vec![]));
    assert_eq!(with("/addressType", json!("IPX")).1.len(), 1);
    assert_eq!(with("/addressType", json!(4)).1.len(), 2);
    let other = json!({"kubernetes.io/service-name": "a b"});
    assert_eq!(with("/metadata/labels", other).1.len(), 1);
    let proxy = json!({"kubernetes.io/service-name": "web", "service.kubernetes.io/service-proxy-name": "x"});
    assert!(with("/metadata/labels", proxy).0.is_some());
}

#[test]
fn trigger_times_are_nanoseconds() {
    let mut object = slice_json(json!([]), json!([]));
    let key = "endpoints.kubernetes.io/last-change-trigger-time";
    object["metadata"]["annotations"] = json!({key: "2024-01-01T00:00:00.000000001Z"});
    assert_eq!(slice_of(object.clone()).0.unwrap().trigger_time, Some(1_704_067_200_000_000_001));
    object["metadata"]["annotations"] = json!({key: "soon"});
    let (slice, notices) = slice_of(object);
    assert_eq!((slice.unwrap().trigger_time, notices.len()), (None, 1));
}

#[test]
fn many_complaints_are_cut_short() {
    let endpoints: Vec<Value> = (0..1000).map(|_| json!({"addresses": ["x"]})).collect();
    let (_, notices) = slice_of(slice_json(json!([]), json!(endpoints)));
    assert_eq!(notices.len(), 17);
    assert!(notices[16].ends_with("984 more fields are malformed and left out"), "{}", notices[16]);
}

fn node_of(object: Value) -> (Option<Node>, Vec<String>) {
    match split(node(&object, &mut Decoder::new("me"))) {
        (Some(Event::Node(node)), notices) => (Some(*node), notices),
        (None, notices) => (None, notices),
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_this_node_counts() {
    assert_eq!(node_of(json!({"metadata": {"name": "other"}})), (None, vec![]));
    let other = json!({"metadata": {"name": "other"}});
    assert_eq!(gone(Kind::Node, &other, &mut Decoder::new("me")).unwrap().events, []);
    let me = json!({"metadata": {"name": "me"}});
    assert_eq!(gone(Kind::Node, &me, &mut Decoder::new("me")).unwrap().events, [Event::NodeGone]);
}

#[test]
fn a_node_has_its_addresses_in_order() {
    let (node, notices) = node_of(json!({
        "metadata": {"name": "me", "labels": {"topology.kubernetes.io/zone": "z"}, "deletionTimestamp": "2024-01-01T00:00:00Z"},
        "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00::/64", "x"],
                 "taints": [{"key": "ToBeDeletedByClusterAutoscaler"}, 7]},
        "status": {"addresses": [
            {"type": "ExternalIP", "address": "1.1.1.1"}, {"type": "Hostname", "address": "me"},
            {"type": "InternalIP", "address": "10.0.0.1"}, {"type": "InternalIP", "address": "fd00::1"},
            {"type": "InternalIP", "address": "bad"}, {"type": "ExternalIP", "address": "10.0.0.1"},
        ]},
    }));
    let node = node.unwrap();
    assert_eq!(node.addresses, ips(&["10.0.0.1", "fd00::1", "1.1.1.1"]));
    assert_eq!(node.pod_cidrs.len(), 2);
    assert_eq!(node.zone.as_deref(), Some("z"));
    assert!(node.to_be_deleted && node.deleting);
    assert_eq!(notices.len(), 3, "{notices:?}");
    let (node, notices) = node_of(
        json!({"metadata": {"name": "me", "labels": {"topology.kubernetes.io/zone": ""}}, "spec": {"podCIDR": "10.1.0.0/24"}}),
    );
    let node = node.unwrap();
    assert_eq!((node.pod_cidrs.len(), node.zone, notices.len()), (1, None, 0));
}

#[test]
fn service_cidrs_are_masked() {
    let object = json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.1/12", "fd00::/108", "x"]}});
    let (event, notices) = split(service_cidr(&object, &mut Decoder::new("me")));
    let want = vec!["10.96.0.0/12".parse().unwrap(), "fd00::/108".parse().unwrap()];
    assert_eq!(event, Some(Event::ServiceCidr(NamespacedName::new("", "kubernetes"), want)));
    assert_eq!(notices.len(), 1);
}

#[test]
fn json_text_of_any_kind() {
    let mut decoder = Decoder::new("me");
    let text = br#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"clusterIP": "10.0.0.1"}}"#;
    assert!(matches!(&decode_json(text, &mut decoder)[..], [Event::Service(_)]));
    let list =
        br#"{"kind": "ServiceCIDRList", "items": [{"metadata": {"name": "a"}}, {"metadata": {}}]}"#;
    assert!(matches!(
        &decode_json(list, &mut decoder)[..],
        [Event::ServiceCidr(..), Event::Notices(..)]
    ));
    assert_eq!(decode_json(br#"{"kind": "Pod"}"#, &mut decoder), []);
    for broken in [&b"{"[..], b"", b"\xff", br#"{"kind": "Service", "metadata": "#] {
        assert!(matches!(&decode_json(broken, &mut decoder)[..], [Event::Notices(..)]));
    }
}

#[test]
fn strings_are_shared() {
    let mut decoder = Decoder::new("me");
    let of =
        |ip| json!({"addresses": [ip], "nodeName": "n1", "hints": {"forZones": [{"name": "z"}]}});
    let endpoints = json!([of("10.0.0.1"), of("10.0.0.2")]);
    let events = endpoint_slice(slice_json(json!([]), endpoints), &mut decoder);
    let [Event::Slice(slice)] = &events[..] else { panic!() };
    let [a, b] = &slice.endpoints[..] else { panic!() };
    assert!(Arc::ptr_eq(a.node.as_ref().unwrap(), b.node.as_ref().unwrap()));
    assert!(Arc::ptr_eq(a.hints.as_ref().unwrap(), b.hints.as_ref().unwrap()));
    let many: Vec<Value> = (0..2000)
        .map(|n| json!({"addresses": ["10.0.0.1"], "hints": {"forNodes": [{"name": format!("n{n}")}]}}))
        .collect();
    for one in many {
        endpoint_slice(slice_json(json!([]), json!([one])), &mut decoder);
    }
    assert!(decoder.hints.len() <= 257, "{}", decoder.hints.len());
}
