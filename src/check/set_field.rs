//! One field of a Service, set as `kubectl` would: what `check --what-if set-field=…` supposes.
//! It knows the fields that decide about packets, by the API's names. Tests: `tests.rs`.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{NamespacedName, Service, TrafficPolicy};

/// A field with its new value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetField {
    /// The Service.
    pub service: NamespacedName,
    field: Field,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    ExternalPolicy(TrafficPolicy),
    InternalPolicy(TrafficPolicy),
    Affinity(Option<u32>),
    ExternalIps(Vec<IpAddr>),
    SourceRanges(Vec<IpNet>),
}

/// What a client is remembered for where nothing else is said (`spec.sessionAffinityConfig`).
const AFFINITY: u32 = 10_800;
/// How it is written.
pub(super) const FORM: &str = "set-field=NAMESPACE/NAME:FIELD=VALUE";
/// The fields, with values as far as there are few.
pub const FIELDS: [(&str, &[&str]); 5] = [
    ("externalTrafficPolicy", &["Cluster", "Local"]),
    ("internalTrafficPolicy", &["Cluster", "Local"]),
    ("sessionAffinity", &["None", "ClientIP"]),
    ("externalIPs", &[""]),
    ("loadBalancerSourceRanges", &[""]),
];
const KNOWN: &str = "externalTrafficPolicy, internalTrafficPolicy (Cluster or Local), sessionAffinity (None, ClientIP or \
                     ClientIP:SECONDS), externalIPs, loadBalancerSourceRanges (separated by commas, or none)";

impl SetField {
    /// Reads `NAMESPACE/NAME:FIELD=VALUE`.
    pub(super) fn parse(text: &str) -> Result<SetField, String> {
        let parts = text.split_once(':').and_then(|(object, rest)| {
            let (namespace, name) = object.split_once('/')?;
            let (field, value) = rest.split_once('=')?;
            Some((NamespacedName::new(namespace, name), field, value))
        });
        let (service, field, value) = parts.ok_or(format!("{text}: expected {FORM}"))?;
        let wrong = |allowed: &str| format!("{field}={value}: {allowed}");
        let field = match field.strip_prefix("spec.").unwrap_or(field) {
            "externalTrafficPolicy" => Field::ExternalPolicy(policy(value).map_err(wrong)?),
            "internalTrafficPolicy" => Field::InternalPolicy(policy(value).map_err(wrong)?),
            "sessionAffinity" => Field::Affinity(affinity(value).map_err(wrong)?),
            "externalIPs" => {
                Field::ExternalIps(list(value, "an IP address").map_err(|e| wrong(&e))?)
            }
            "loadBalancerSourceRanges" => {
                Field::SourceRanges(list(value, "a CIDR").map_err(|e| wrong(&e))?)
            }
            _ => {
                return Err(format!(
                    "{field}: no field that decides about packets; known are {KNOWN}"
                ));
            }
        };
        Ok(SetField { service, field })
    }

    /// Sets it; says whether that changes anything.
    pub(super) fn apply(&self, service: &mut Service) -> bool {
        let before = service.clone();
        match &self.field {
            Field::ExternalPolicy(policy) => service.external_policy = *policy,
            Field::InternalPolicy(policy) => service.internal_policy = *policy,
            Field::Affinity(seconds) => service.affinity = *seconds,
            Field::ExternalIps(addresses) => {
                service.external_ips.clone_from(addresses);
                service.externally_accessible |= !addresses.is_empty();
            }
            Field::SourceRanges(ranges) => service.source_ranges.clone_from(ranges),
        }
        // It has no meaning where nobody outside can come (`pkg/api/v1/service/util.go`).
        if !service.externally_accessible {
            service.external_policy = TrafficPolicy::Cluster;
        }
        *service != before
    }
}

fn policy(value: &str) -> Result<TrafficPolicy, &'static str> {
    match value {
        "Cluster" => Ok(TrafficPolicy::Cluster),
        "Local" => Ok(TrafficPolicy::Local),
        _ => Err("Cluster or Local expected"),
    }
}

fn affinity(value: &str) -> Result<Option<u32>, &'static str> {
    const ALLOWED: &str = "None, ClientIP or ClientIP:SECONDS (1 to 86400) expected";
    match value.split_once(':') {
        None if value == "None" => Ok(None),
        None if value == "ClientIP" => Ok(Some(AFFINITY)),
        Some(("ClientIP", seconds)) => match seconds.parse() {
            Ok(seconds @ 1..=86_400) => Ok(Some(seconds)),
            _ => Err(ALLOWED),
        },
        _ => Err(ALLOWED),
    }
}

fn list<T: std::str::FromStr>(value: &str, one: &str) -> Result<Vec<T>, String> {
    let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
    items.map(|item| item.parse().map_err(|_| format!("{item:?} is not {one}"))).collect()
}
