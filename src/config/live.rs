//! What of a changed configuration can be taken on by the running process, and what needs a restart.
//! It compares fields as they are written and carries nothing out. Tests: below.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use super::flags;
use super::settings::Settings;
use crate::model::without_user;

/// Fields that the process takes on while it runs.
const LIVE: [&str; 8] = [
    "iptables.minSyncPeriod",
    "iptables.syncPeriod",
    "ipvs.minSyncPeriod",
    "ipvs.syncPeriod",
    "logging.verbosity",
    "nftables.minSyncPeriod",
    "nftables.syncPeriod",
    "nodePortAddresses",
];

/// Fields whose values differ, by their paths in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Those that can be taken on at once.
    pub live: Vec<String>,
    /// Those that need a restart.
    pub restart: Vec<String>,
}

/// Compares two configurations.
pub fn compare(old: &Settings, new: &Settings) -> Difference {
    let (old, new) = (fields(&old.written), fields(&new.written));
    let mut difference = Difference::default();
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names.into_iter().filter(|name| old.get(*name) != new.get(*name)) {
        let live = LIVE.contains(&name.as_str());
        let list = if live { &mut difference.live } else { &mut difference.restart };
        list.push(name.clone());
    }
    difference
}

/// Every flag with the value that was given, or its default, by name (`/flagz`).
pub fn flag_values(settings: &Settings) -> Vec<(String, String)> {
    let value = |name: &str, default: &str| {
        let given: Vec<&str> =
            settings.flags.iter().filter(|(n, _)| *n == name).map(|(_, v)| v.as_str()).collect();
        match name {
            _ if given.is_empty() => default.to_owned(),
            // The page is for everybody who can reach the port.
            "master" => given.iter().map(|url| without_user(url)).collect::<Vec<_>>().join(","),
            _ => given.join(","),
        }
    };
    let mut all: Vec<(String, String)> = flags::all()
        .map(|flag| {
            let default = if flag.value.is_none() && flag.default.is_empty() {
                "false"
            } else {
                flag.default
            };
            (flag.name.to_owned(), value(flag.name, default))
        })
        .collect();
    all.sort();
    all
}

/// Fields by path; maps inside are taken apart, but for the one whose names are its own.
fn fields(written: &Map<String, Json>) -> BTreeMap<String, Json> {
    let mut all = BTreeMap::new();
    collect("", written, &mut all);
    all
}

fn collect(path: &str, map: &Map<String, Json>, all: &mut BTreeMap<String, Json>) {
    for (name, value) in map {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match value {
            Json::Object(inner) if name != "featureGates" => collect(&path, inner, all),
            value => drop(all.insert(path, value.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    fn settings(given: &[(&str, &str)]) -> Settings {
        let flag = |(name, value): &(&str, &str)| {
            (flags::find(name).expect("a flag"), (*value).to_owned())
        };
        let args: Vec<_> = given.iter().map(flag).collect();
        load(&args, "node").expect("good flags").settings
    }

    #[test]
    fn fields_that_differ_are_named() {
        let old = settings(&[]);
        assert_eq!(compare(&old, &settings(&[])), Difference::default());
        let new = settings(&[
            ("v", "4"),
            ("nodeport-addresses", "10.0.0.0/8"),
            ("iptables-sync-period", "20s"),
            ("cluster-cidr", "10.244.0.0/16"),
            ("conntrack-min", "7"),
            ("feature-gates", "AllAlpha=true"),
        ]);
        let difference = compare(&old, &new);
        assert_eq!(
            difference.live,
            ["iptables.syncPeriod", "logging.verbosity", "nodePortAddresses"]
        );
        assert_eq!(difference.restart, ["clusterCIDR", "conntrack.min", "featureGates"]);
    }

    #[test]
    fn the_fields_that_are_live_exist() {
        let mut all = fields(&settings(&[]).written);
        all.extend(fields(&settings(&[("nodeport-addresses", "primary")]).written));
        for name in LIVE {
            assert!(all.contains_key(name), "{name}");
        }
    }

    #[test]
    fn flags_are_told_with_defaults() {
        let all = flag_values(&settings(&[
            ("v", "4"),
            ("nodeport-addresses", "10.0.0.0/8"),
            ("master", "https://u:secret@h:6443"),
        ]));
        let of = |name: &str| all.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        assert_eq!(of("v"), Some("4"));
        assert_eq!(of("nodeport-addresses"), Some("10.0.0.0/8"));
        assert_eq!(of("master"), Some("https://***@h:6443"));
        assert_eq!((of("conntrack-min"), of("cleanup")), (Some("131072"), Some("false")));
    }
}
