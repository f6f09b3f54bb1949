//! What kube-proxy says of itself and of its Services over HTTP: to load balancers, to the kubelet
//! and to whoever collects metrics.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{Bench, Scenario, Stop, Verdict, eventually, scenario, told};
use crate::page::{Page, fetch};
use crate::plan;
use crate::setting::Setting;

/// Scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("health-check-node-port", |bench| play(bench, node_port)),
    scenario("health-and-metrics", |bench| play(bench, own_ports)),
];

/// The health check node port of the example `gate-local`.
const CHECK: u16 = 30999;

fn play(bench: &Bench, act: fn(&mut Setting) -> Verdict) -> Verdict {
    let mut setting = bench.examples()?;
    let flags = ["--healthz-bind-address=0.0.0.0:10256", "--metrics-bind-address=127.0.0.1:10249"];
    setting.start_proxy_with(&flags)?;
    let verdict = act(&mut setting);
    told(&setting, verdict)
}

/// Waits for a page that is right; the closure says what is wrong.
fn page_is(
    ask: impl Fn() -> Result<Page, String>,
    wrong: impl Fn(&Page) -> bool,
) -> Result<(), Stop> {
    eventually(|| match ask() {
        Err(why) => Some(why),
        Ok(page) => wrong(&page).then(|| format!("not as it must be: {page:?}")),
    })
}

/// Waits until the check of a family, asked from outside, says so many pods.
fn check_says(setting: &Setting, family: usize, count: usize) -> Result<(), Stop> {
    let to = SocketAddr::new(plan::ip(plan::NODE_NET.own[family]), CHECK);
    if to.is_ipv6() && !setting.lab.ipv6() {
        return Ok(());
    }
    let body = json!({"service": {"namespace": "default", "name": "gate-local"},
        "localEndpoints": count, "serviceProxyHealthy": true});
    let status = if count == 0 { 503 } else { 200 };
    let wrong = |page: &Page| {
        page.status != status
            || page.header("x-load-balancing-endpoint-weight") != count.to_string()
            || serde_json::from_str::<Value>(&page.body).ok().as_ref() != Some(&body)
    };
    page_is(|| setting.lab.outside.run(|| fetch(to, "/")), wrong)
}

/// Keeps the pods of a slice that pass.
fn keep(setting: &mut Setting, slice: &str, wanted: fn(&Value) -> bool) -> Result<(), String> {
    setting.edit("EndpointSlice", slice, |slice| {
        if let Some(endpoints) = slice["endpoints"].as_array_mut() {
            endpoints.retain(wanted);
        }
    })
}

fn node_port(setting: &mut Setting) -> Verdict {
    check_says(setting, 0, 2)?;
    check_says(setting, 1, 2)?;
    keep(setting, "gate-local-ipv4", |e| e["targetRef"]["name"] != "web-1")?;
    check_says(setting, 0, 1)?;
    keep(setting, "gate-local-ipv4", |e| e["nodeName"] != plan::NODE)?;
    check_says(setting, 0, 0)?;
    // Each family is asked for itself.
    check_says(setting, 1, 2)?;
    keep(setting, "gate-local-ipv6", |e| e["nodeName"] != plan::NODE)?;
    check_says(setting, 1, 0)?;
    setting.manifests.remove("Service", "gate-local");
    setting.publish()?;
    let to = SocketAddr::new(plan::ip(plan::NODE_NET.own[0]), CHECK);
    eventually(|| {
        let page = setting.lab.outside.run(|| fetch(to, "/")).ok()?;
        Some(format!("the Service is gone and its check still answers {page:?}"))
    })?;
    Ok(String::new())
}

fn own_ports(setting: &mut Setting) -> Verdict {
    let outside = setting.lab.outside.clone();
    let node = setting.lab.node.clone();
    let health = SocketAddr::new(plan::ip(plan::NODE_NET.own[0]), 10256);
    let metrics: SocketAddr = "127.0.0.1:10249".parse().expect("well-formed");
    let ask_health = |path: &'static str| {
        let outside = outside.clone();
        move || outside.run(|| fetch(health, path))
    };
    let ask_metrics = |path: &'static str| {
        let node = node.clone();
        move || node.run(|| fetch(metrics, path))
    };
    let ill = |page: &Page| page.status != 200 || !page.body.contains("\"lastUpdated\"");
    page_is(ask_health("/healthz"), ill)?;
    page_is(ask_health("/livez"), ill)?;
    page_is(ask_metrics("/proxyMode"), |page| page.body.trim() != crate::proxy::mode().word())?;
    let synced = "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}";
    page_is(ask_metrics("/metrics"), |page| {
        page.status != 200 || matches!(page.figure(synced), None | Some("0"))
    })?;
    // The examples have UDP Services, whose stale flows were looked for.
    let searched = "kubeproxy_conntrack_reconciler_sync_duration_seconds_count{ip_family=\"IPv4\"}";
    page_is(ask_metrics("/metrics"), |page| matches!(page.figure(searched), None | Some("0")))?;
    let generation = ["kubeproxy_generation_seen", "kubeproxy_generation_programmed"];
    page_is(ask_metrics("/metrics"), |page| {
        let [seen, programmed] = generation.map(|name| page.figure(name).map(str::to_owned));
        seen.is_none() || seen.as_deref() == Some("0") || seen != programmed
    })?;
    Ok(String::new())
}
