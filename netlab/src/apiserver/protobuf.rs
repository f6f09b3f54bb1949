//! JSON objects as the API server's protobuf, by tables of field numbers: an encoder that has
//! nothing of kube-proxy's decoder, so that a wrong number on either side shows.
//!
//! Numbers are those of `generated.proto` in `k8s.io/api` and `k8s.io/apimachinery`. What a table
//! does not have is left out; what has another type than the table says cannot be written in
//! protobuf and is left out as well. Tests: below, and every scenario with an API server.

use serde_json::Value;

/// The media type.
pub(super) const MEDIA: &str = "application/vnd.kubernetes.protobuf";
/// The same, of a watch.
pub(super) const STREAM: &str = "application/vnd.kubernetes.protobuf;stream=watch";
/// What stands before every message but frames of a watch.
const MAGIC: &[u8] = b"k8s\0";

/// How a field is written.
enum Form {
    Text,
    Whole,
    Flag,
    /// Seconds since 1970, from RFC 3339.
    Time,
    /// A map of strings.
    Map,
    Object(&'static [Field]),
    Texts,
    Objects(&'static [Field]),
}

type Field = (&'static str, u8, Form);

const META: &[Field] = &[
    ("name", 1, Form::Text),
    ("generateName", 2, Form::Text),
    ("namespace", 3, Form::Text),
    ("uid", 5, Form::Text),
    ("resourceVersion", 6, Form::Text),
    ("generation", 7, Form::Whole),
    ("creationTimestamp", 8, Form::Time),
    ("deletionTimestamp", 9, Form::Time),
    ("labels", 11, Form::Map),
    ("annotations", 12, Form::Map),
];
const SERVICE: &[Field] = &[
    ("metadata", 1, Form::Object(META)),
    (
        "spec",
        2,
        Form::Object(&[
            (
                "ports",
                1,
                Form::Objects(&[
                    ("name", 1, Form::Text),
                    ("protocol", 2, Form::Text),
                    ("port", 3, Form::Whole),
                    ("nodePort", 5, Form::Whole),
                    ("appProtocol", 6, Form::Text),
                ]),
            ),
            ("selector", 2, Form::Map),
            ("clusterIP", 3, Form::Text),
            ("type", 4, Form::Text),
            ("externalIPs", 5, Form::Texts),
            ("sessionAffinity", 7, Form::Text),
            ("loadBalancerIP", 8, Form::Text),
            ("loadBalancerSourceRanges", 9, Form::Texts),
            ("externalName", 10, Form::Text),
            ("externalTrafficPolicy", 11, Form::Text),
            ("healthCheckNodePort", 12, Form::Whole),
            ("publishNotReadyAddresses", 13, Form::Flag),
            (
                "sessionAffinityConfig",
                14,
                Form::Object(&[(
                    "clientIP",
                    1,
                    Form::Object(&[("timeoutSeconds", 1, Form::Whole)]),
                )]),
            ),
            ("ipFamilyPolicy", 17, Form::Text),
            ("clusterIPs", 18, Form::Texts),
            ("ipFamilies", 19, Form::Texts),
            ("internalTrafficPolicy", 22, Form::Text),
        ]),
    ),
    (
        "status",
        3,
        Form::Object(&[(
            "loadBalancer",
            1,
            Form::Object(&[(
                "ingress",
                1,
                Form::Objects(&[
                    ("ip", 1, Form::Text),
                    ("hostname", 2, Form::Text),
                    ("ipMode", 3, Form::Text),
                ]),
            )]),
        )]),
    ),
];
const NAMED: &[Field] = &[("name", 1, Form::Text)];
const SLICE: &[Field] = &[
    ("metadata", 1, Form::Object(META)),
    (
        "endpoints",
        2,
        Form::Objects(&[
            ("addresses", 1, Form::Texts),
            (
                "conditions",
                2,
                Form::Object(&[
                    ("ready", 1, Form::Flag),
                    ("serving", 2, Form::Flag),
                    ("terminating", 3, Form::Flag),
                ]),
            ),
            ("hostname", 3, Form::Text),
            ("nodeName", 6, Form::Text),
            ("zone", 7, Form::Text),
            (
                "hints",
                8,
                Form::Object(&[
                    ("forZones", 1, Form::Objects(NAMED)),
                    ("forNodes", 2, Form::Objects(NAMED)),
                ]),
            ),
        ]),
    ),
    (
        "ports",
        3,
        Form::Objects(&[
            ("name", 1, Form::Text),
            ("protocol", 2, Form::Text),
            ("port", 3, Form::Whole),
            ("appProtocol", 4, Form::Text),
        ]),
    ),
    ("addressType", 4, Form::Text),
];
const NODE: &[Field] = &[
    ("metadata", 1, Form::Object(META)),
    (
        "spec",
        2,
        Form::Object(&[
            ("podCIDR", 1, Form::Text),
            ("providerID", 3, Form::Text),
            ("unschedulable", 4, Form::Flag),
            (
                "taints",
                5,
                Form::Objects(&[
                    ("key", 1, Form::Text),
                    ("value", 2, Form::Text),
                    ("effect", 3, Form::Text),
                ]),
            ),
            ("podCIDRs", 7, Form::Texts),
        ]),
    ),
    (
        "status",
        3,
        Form::Object(&[(
            "addresses",
            5,
            Form::Objects(&[("type", 1, Form::Text), ("address", 2, Form::Text)]),
        )]),
    ),
];
const SERVICE_CIDR: &[Field] =
    &[("metadata", 1, Form::Object(META)), ("spec", 2, Form::Object(&[("cidrs", 1, Form::Texts)]))];
const STATUS: &[Field] = &[
    ("status", 2, Form::Text),
    ("message", 3, Form::Text),
    ("reason", 4, Form::Text),
    ("details", 5, Form::Object(&[("retryAfterSeconds", 5, Form::Whole)])),
    ("code", 6, Form::Whole),
];
const LIST_META: &[Field] = &[
    ("resourceVersion", 2, Form::Text),
    ("continue", 3, Form::Text),
    ("remainingItemCount", 4, Form::Whole),
];

fn fields(kind: &str) -> &'static [Field] {
    match kind.trim_end_matches("List") {
        "Service" => SERVICE,
        "EndpointSlice" => SLICE,
        "Node" => NODE,
        "ServiceCIDR" => SERVICE_CIDR,
        _ => STATUS,
    }
}

/// An object or a list with its envelope, from its JSON.
pub(super) fn body(json: &str) -> Vec<u8> {
    let Ok(value) = serde_json::from_str::<Value>(json) else { return json.as_bytes().to_vec() };
    enveloped(&value)
}

/// Lines of a watch as frames; what is no line of a watch stays as it is.
pub(super) fn frames(lines: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines.split_inclusive('\n') {
        let event = serde_json::from_str::<Value>(line).ok();
        let Some(event) = event.filter(|event| event["type"].is_string()) else {
            out.extend_from_slice(line.as_bytes());
            continue;
        };
        let mut frame = Vec::new();
        bytes(&mut frame, 1, event["type"].as_str().unwrap_or_default().as_bytes());
        let mut raw = Vec::new();
        bytes(&mut raw, 1, &enveloped(&event["object"]));
        bytes(&mut frame, 2, &raw);
        out.extend_from_slice(&(frame.len() as u32).to_be_bytes());
        out.extend_from_slice(&frame);
    }
    out
}

fn enveloped(value: &Value) -> Vec<u8> {
    let kind = value["kind"].as_str().unwrap_or_default();
    let raw = match value["items"].as_array() {
        Some(items) if kind.ends_with("List") => {
            let mut raw = Vec::new();
            bytes(&mut raw, 1, &message(&value["metadata"], LIST_META));
            items.iter().for_each(|item| bytes(&mut raw, 2, &message(item, fields(kind))));
            raw
        }
        _ => message(value, fields(kind)),
    };
    let mut head = Vec::new();
    bytes(&mut head, 1, value["apiVersion"].as_str().unwrap_or_default().as_bytes());
    bytes(&mut head, 2, kind.as_bytes());
    let mut unknown = Vec::new();
    bytes(&mut unknown, 1, &head);
    bytes(&mut unknown, 2, &raw);
    [MAGIC, &unknown].concat()
}

fn message(value: &Value, fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, number, form) in fields {
        let value = &value[*key];
        match form {
            Form::Text => {
                value.as_str().into_iter().for_each(|t| bytes(&mut out, *number, t.as_bytes()))
            }
            Form::Whole => {
                value.as_i64().into_iter().for_each(|n| whole(&mut out, *number, n as u64))
            }
            Form::Flag => {
                value.as_bool().into_iter().for_each(|f| whole(&mut out, *number, f.into()))
            }
            Form::Time => {
                if let Some(seconds) = value.as_str().and_then(seconds) {
                    let mut time = Vec::new();
                    whole(&mut time, 1, seconds as u64);
                    bytes(&mut out, *number, &time);
                }
            }
            Form::Map => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    let mut entry = Vec::new();
                    bytes(&mut entry, 1, key.as_bytes());
                    bytes(&mut entry, 2, value.as_str().unwrap_or_default().as_bytes());
                    bytes(&mut out, *number, &entry);
                }
            }
            Form::Object(fields) => {
                if value.is_object() {
                    bytes(&mut out, *number, &message(value, fields));
                }
            }
            Form::Texts => {
                let texts = value.as_array().into_iter().flatten().filter_map(Value::as_str);
                texts.for_each(|text| bytes(&mut out, *number, text.as_bytes()));
            }
            Form::Objects(fields) => {
                let objects = value.as_array().into_iter().flatten();
                objects.for_each(|object| bytes(&mut out, *number, &message(object, fields)));
            }
        }
    }
    out
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes(out: &mut Vec<u8>, number: u8, value: &[u8]) {
    varint(out, u64::from(number) << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn whole(out: &mut Vec<u8>, number: u8, value: u64) {
    varint(out, u64::from(number) << 3);
    varint(out, value);
}

/// Seconds since 1970 of a time in UTC without fractions.
fn seconds(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    // Days by the civil calendar, years beginning in March.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    Some((days - 719_468) * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds() {
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("2024-02-29T12:30:01Z"), Some(1_709_209_801));
        assert_eq!(seconds("soon"), None);
    }

    /// Bytes of `protoc --encode`, put together by hand from the tables of the specification.
    #[test]
    fn a_service_is_its_bytes() {
        let json = r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"a"},"spec":{"ports":[{"port":80}]}}"#;
        let service = b"\x0a\x03\x0a\x01a\x12\x04\x0a\x02\x18\x50";
        let mut wanted = b"k8s\0\x0a\x0d\x0a\x02v1\x12\x07Service\x12".to_vec();
        wanted.push(service.len() as u8);
        wanted.extend_from_slice(service);
        assert_eq!(body(json), wanted);
    }
}
