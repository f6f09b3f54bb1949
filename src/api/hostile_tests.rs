//! Properties: no text, however hostile, makes decoding panic, differ from run to run, or lose
//! more of an object than the part that is malformed.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::{Event, Kind};

/// Keys that are read somewhere, and one that is not.
const KEYS: [&str; 40] = [
    "kind",
    "apiVersion",
    "items",
    "metadata",
    "name",
    "namespace",
    "labels",
    "annotations",
    "creationTimestamp",
    "deletionTimestamp",
    "resourceVersion",
    "spec",
    "status",
    "type",
    "clusterIP",
    "clusterIPs",
    "externalIPs",
    "loadBalancerSourceRanges",
    "ports",
    "port",
    "nodePort",
    "protocol",
    "sessionAffinity",
    "sessionAffinityConfig",
    "clientIP",
    "timeoutSeconds",
    "loadBalancer",
    "ingress",
    "ip",
    "ipMode",
    "addressType",
    "endpoints",
    "addresses",
    "conditions",
    "hints",
    "forZones",
    "nodeName",
    "ready",
    "cidrs",
    "other",
];

/// Values that are right somewhere, and some that are right nowhere.
const WORDS: [&str; 24] = [
    "",
    "a",
    "me",
    "Service",
    "EndpointSlice",
    "Node",
    "ServiceCIDR",
    "List",
    "v1",
    "10.0.0.1",
    "fd00::1",
    "10.0.0.0/8",
    "TCP",
    "tcp",
    "ClientIP",
    "LoadBalancer",
    "ExternalName",
    "None",
    "IPv4",
    "Local",
    "2024-01-01T00:00:00Z",
    "::ffff:1.2.3.4",
    "\u{0}\n\"'",
    "é\u{202e}",
];

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1i64..70_000).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(&WORDS[..]).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        let key = prop::sample::select(&KEYS[..]).prop_map(str::to_owned);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn decoded(kind: Kind, object: &Value) -> Vec<Event> {
    let mut decoder = Decoder::new("me");
    match kind {
        Kind::Service => decode::service(object, &mut decoder),
        Kind::EndpointSlice => decode::endpoint_slice(object, &mut decoder),
        Kind::Node => decode::node(object, &mut decoder),
        Kind::ServiceCidr => decode::service_cidr(object, &mut decoder),
    }
}

fn good_service() -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "ns", "creationTimestamp": "2024-01-01T00:00:00Z"},
        "spec": {
            "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"], "type": "LoadBalancer",
            "ports": [{"name": "a", "port": 80, "nodePort": 30080, "protocol": "TCP"}, {"name": "b", "port": 81}],
            "externalIPs": ["1.2.3.4", "1.2.3.5"], "loadBalancerSourceRanges": ["10.0.0.0/8"],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10}},
            "externalTrafficPolicy": "Local", "healthCheckNodePort": 30001,
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "5.6.7.8", "ipMode": "VIP"}]}},
    })
}

/// Paths of all values in an object but the name's, which an object cannot do without.
fn paths(value: &Value, at: &str, found: &mut Vec<String>) {
    let mut go = |key: String, inner: &Value| {
        let path = format!("{at}/{key}");
        if !path.starts_with("/metadata") || path == "/metadata/creationTimestamp" {
            found.push(path.clone());
        }
        paths(inner, &path, found);
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, inner)| go(key.clone(), inner)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, inner)| go(i.to_string(), inner))
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn any_object_is_decoded_the_same_way_twice(object in value()) {
        for kind in Kind::ALL {
            let once = decoded(kind, &object);
            prop_assert_eq!(&once, &decoded(kind, &object));
            let text = decode::told(kind, &mut serde_json::Deserializer::from_str(&object.to_string()), &mut Decoder::new("me"));
            prop_assert_eq!(&once, &text.unwrap().events);
            let notices = once.iter().map(|e| if let Event::Notices(_, _, n) = e { n.len() } else { 0 });
            prop_assert!(notices.sum::<usize>() <= 17 && once.len() <= 2);
        }
    }

    #[test]
    fn any_object_means_the_same_in_json_and_in_yaml(object in value()) {
        let mut object = json!({"metadata": {"name": "a"}, "spec": object.clone(), "ports": object.clone(), "status": object});
        for kind in Kind::ALL {
            object["kind"] = json!(kind.as_str());
            let json = decode_text(&object.to_string(), &mut Decoder::new("a"));
            prop_assert_eq!(&json, &decode_json(object.to_string().as_bytes(), &mut Decoder::new("a")));
            let yaml = decode_text(&format!("---\n{object}"), &mut Decoder::new("a"));
            prop_assert_eq!(&json, &yaml);
            prop_assert!(!json.is_empty());
        }
    }

    #[test]
    fn any_text_is_taken(text in any::<String>(), yaml in r"[a-c:\-\[\]{}&*!|>'#%@,?\n ~<0-9.]{0,80}") {
        decode_text(&text, &mut Decoder::new("me"));
        decode_text(&yaml, &mut Decoder::new("me"));
        decode_json(text.as_bytes(), &mut Decoder::new("me"));
    }

    #[test]
    fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        decode_json(&bytes, &mut Decoder::new("me"));
    }

    #[test]
    fn a_text_cut_short_is_taken(cut in 0usize..1200) {
        let mut object = good_service();
        object["kind"] = json!("Service");
        let text = serde_json::to_string_pretty(&object).unwrap();
        decode_text(&text[..cut.min(text.len())], &mut Decoder::new("me"));
    }

    #[test]
    fn one_malformed_part_never_costs_the_service(which in any::<prop::sample::Index>(), bad in value()) {
        let mut object = good_service();
        let mut all = Vec::new();
        paths(&object, "", &mut all);
        let path = which.get(&all);
        *object.pointer_mut(path).unwrap() = bad.clone();
        let events = decoded(Kind::Service, &object);
        let kept = events.iter().any(|event| matches!(event, Event::Service(_)));
        // Without a cluster IP, or as one of another type, there is nothing to program.
        let may_go = ["/spec", "/spec/clusterIP", "/spec/clusterIPs", "/spec/type"].contains(&path.as_str())
            || path.starts_with("/spec/clusterIPs");
        prop_assert!(kept || may_go, "{} {} {:?}", path, bad, events);
    }
}
