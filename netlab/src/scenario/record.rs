//! What a kube-proxy did on the real kernel is played again elsewhere (`--record`, `replay`), and
//! one that looks before it writes (`--verify`) finds its own rules good. Tests: it is all test.

use std::time::Duration;

use serde_json::{Value, json};

use super::trace::run;
use super::{Bench, Scenario, Verdict, scenario};
use crate::namespace::Namespace;
use crate::probe::Probe;
use crate::setting::Setting;

/// Scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("record-is-played-again", played),
    scenario("verify-looks-before-it-writes", verified),
];

const ALL: &str = "tcp from dns-1 to 10.96.0.10:80 reaches web-1 web-2 web-3 as itself";
/// Between two changes kube-proxy waits for a second at most (`--min-sync-period`).
const A_SYNC: Duration = Duration::from_millis(1300);

/// Leaves one endpoint after the other; each has been seen alone on the way.
fn change(setting: &mut Setting) -> Result<(), String> {
    for (address, pod) in
        [("10.244.2.13", "web-3"), ("10.244.1.11", "web-1"), ("10.244.1.12", "web-2")]
    {
        setting.edit("EndpointSlice", "web-ipv4", |slice| {
            for endpoint in slice["endpoints"].as_array_mut().into_iter().flatten() {
                let ready = endpoint["addresses"][0] == address;
                endpoint["conditions"] = json!({ "ready": ready });
            }
        })?;
        // Until then a client may meet one and the same of three by chance.
        std::thread::sleep(A_SYNC);
        let probe = format!("tcp from dns-1 to 10.96.0.10:80 reaches {pod} as itself");
        setting.wait_for(&Probe::parse(&probe)?)?;
    }
    Ok(())
}

/// The answer to a question, without what only the live node has: its routes' links.
fn endings(answer: &str) -> Result<Vec<(Value, Value, bool)>, String> {
    let answer: Value = serde_json::from_str(answer).map_err(|e| format!("{e}: {answer}"))?;
    let endings = answer["endings"].as_array().cloned().unwrap_or_default();
    let one = |ending: &Value| {
        let masqueraded = !ending["masquerade"]["to"].is_null();
        (ending["probability"].clone(), ending["endpoint"].clone(), masqueraded)
    };
    Ok(endings.iter().map(one).collect())
}

fn played(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    let file = setting.scratch.path().join("kube-proxy.record").display().to_string();
    setting.start_proxy_with(&[&format!("--record={file}")])?;
    setting.wait_for(&Probe::parse(ALL)?)?;
    change(&mut setting)?;
    let elsewhere = Namespace::new("elsewhere")?;
    let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<String>>();
    let (code, told, error) = run(&elsewhere, setting.binary(), &words(&["replay", &file]))?;
    let acts = told.lines().filter(|line| line.contains(" sync after ")).count();
    if code != 0 || !told.contains("all the same") || acts < 4 {
        return Err(format!("replay ended with {code}: {told}{error}").into());
    }
    let mut asked = 0;
    for (from, to) in [
        ("outside", "svc/default/web:http"),
        ("10.244.1.20", "svc/default/web:http"),
        ("node", "svc/default/dns:dns"),
        ("203.0.113.9", "172.18.1.2:30080"),
    ] {
        let question = ["trace", from, to, "--output=json"];
        let live = [words(&question), setting.start(&[]).arguments()].concat();
        let (live_code, live, error) = run(&setting.lab.node, setting.binary(), &live)?;
        if live_code != 0 {
            return Err(format!("trace {from} {to} ended with {live_code}: {live}{error}").into());
        }
        let question = words(&["replay", &file, from, to, "--output=json"]);
        let (code, again, error) = run(&elsewhere, setting.binary(), &question)?;
        let (live, again) = (endings(&live)?, endings(&again).map_err(|e| e + &error)?);
        if code != 0 || live != again || live.is_empty() {
            return Err(format!("{from} {to}: {code}: live {live:?}, played {again:?}").into());
        }
        asked += 1;
    }
    Ok(format!("{}; {asked} journeys the same", told.lines().last().unwrap_or_default()))
}

/// A figure of the metrics page.
fn figure(page: &str, name: &str) -> f64 {
    let line = page.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(-1.0)
}

fn verified(bench: &Bench) -> Verdict {
    let mut said = Vec::new();
    for extent in ["sample", "full"] {
        let mut setting = bench.examples()?;
        setting.start_proxy_with(&[
            &format!("--verify={extent}"),
            "--metrics-bind-address=127.0.0.1:10249",
        ])?;
        setting.wait_for(&Probe::parse(ALL)?)?;
        change(&mut setting)?;
        let page = super::operator::ask(&setting, "/metrics")?.body;
        let of = |name: &str| figure(&page, &format!("kubeproxy_{name}"));
        let (services, broken) = (of("verified_services_total"), of("verify_violations_total"));
        let (refused, unknown) =
            (of("verify_refusals_total"), of("verified_packets_total{verdict=\"unknown\"}"));
        // The first sync and three more.
        if services < 20.0 || (broken, refused, unknown) != (0.0, 0.0, 0.0) {
            let figures = page.lines().filter(|line| line.contains("verif")).collect::<Vec<_>>();
            return Err(format!("--verify={extent}: {figures:#?}").into());
        }
        let kept = of("verified_packets_total{verdict=\"kept\"}");
        said.push(format!("{extent}: {services} Services and {kept} packets looked at"));
    }
    Ok(said.join("; "))
}
