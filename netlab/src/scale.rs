//! A Service that grows and shrinks under load: what the demo shows and a scenario asserts.
//! Works on `examples/web.yaml` of any setting. Tests: with the scenarios.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::load::{Load, Talks, by_pod, failures};
use crate::manifests::Transport;
use crate::probe::Row;
use crate::setting::{DEADLINE, Setting};

/// Cluster IP and port of the Service `web`.
const WEB: &str = "10.96.0.10:80";

/// An endpoint of an EndpointSlice.
pub fn endpoint(pod: &str, address: &str, node: &str) -> Value {
    json!({
        "addresses": [address],
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "nodeName": node,
        "targetRef": {"kind": "Pod", "namespace": "default", "name": pod},
    })
}

/// Grows `web` from three to five pods and takes one of the first away again, under load.
pub fn grow_and_shrink(setting: &mut Setting) -> Result<Vec<Row>, String> {
    let to = WEB.parse().expect("the example's address is well-formed");
    let from = setting.lab.place("dns-1").ok_or("no pod dns-1")?.clone();
    let talks = Talks::start(&from, to, 8)?;
    let load = Load::start(&from, Transport::Tcp, to, Duration::from_millis(2));
    wait_until(&load, |pods| pods.len() == 3, "three pods")?;

    let before = load.so_far().len();
    setting.edit("EndpointSlice", "web-ipv4", |slice| {
        let Some(endpoints) = slice["endpoints"].as_array_mut() else { return };
        endpoints.push(endpoint("web-4", "10.244.1.14", "node-1"));
        endpoints.push(endpoint("web-5", "10.244.2.15", "node-2"));
    })?;
    wait_until(&load, |pods| pods.len() == 5, "five pods")?;
    let grown = load.so_far();

    setting.edit("EndpointSlice", "web-ipv4", |slice| {
        let Some(endpoints) = slice["endpoints"].as_array_mut() else { return };
        endpoints.retain(|e| e["targetRef"]["name"] != "web-1");
    })?;
    let after = settle_without(&load, "web-1")?;
    let all = load.stop();
    let kept = talks.stop();

    let mut rows = vec![
        row("scaled 3 to 5 pods", &by_pod(&grown[before..]).into_keys().collect(), "web-1,2,3,4,5"),
        row("then web-1 taken away", &after, "web-2,3,4,5"),
    ];
    let failed = failures(&all);
    let mut counted = row("connections meanwhile", &BTreeSet::new(), "none fails");
    counted.reached = format!("{} made, {} failed", all.len(), failed.len());
    counted.wrong = failed.first().map(|f| format!("{f:?}"));
    rows.push(counted);
    let broken: Vec<&String> = kept.iter().filter_map(|k| k.as_ref().err()).collect();
    let mut survived = row("connections kept open", &BTreeSet::new(), "all survive");
    survived.reached = format!("{} of {} alive", kept.len() - broken.len(), kept.len());
    survived.wrong = broken.first().map(|b| (*b).clone());
    rows.push(survived);
    Ok(rows)
}

/// Waits until the attempts have reached what is wanted.
fn wait_until(
    load: &Load,
    enough: impl Fn(&BTreeSet<String>) -> bool,
    what: &str,
) -> Result<(), String> {
    let began = Instant::now();
    while began.elapsed() < DEADLINE {
        let pods: BTreeSet<String> = by_pod(&load.so_far()).into_keys().collect();
        if enough(&pods) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(format!("{what} were not reached within {DEADLINE:?}"))
}

/// Waits until a pod has not been reached for a while; says which ones were meanwhile.
fn settle_without(load: &Load, pod: &str) -> Result<BTreeSet<String>, String> {
    const CALM: usize = 150;
    let began = Instant::now();
    while began.elapsed() < DEADLINE {
        let all = load.so_far();
        let recent = by_pod(&all[all.len().saturating_sub(CALM)..]);
        if all.len() >= CALM && !recent.contains_key(pod) {
            return Ok(recent.into_keys().collect());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(format!("{pod} is still reached after {DEADLINE:?}"))
}

fn row(what: &str, pods: &BTreeSet<String>, expected: &str) -> Row {
    let names: Vec<&str> = pods.iter().map(String::as_str).collect();
    let reached = crate::probe::short(&names);
    let wrong = (!pods.is_empty() && reached != expected).then(|| format!("reached {reached}"));
    Row {
        title: format!("Scaling {WEB} while connections run"),
        who: "dns-1".to_owned(),
        to: what.to_owned(),
        reached,
        seen: String::new(),
        expected: expected.to_owned(),
        wrong,
    }
}
