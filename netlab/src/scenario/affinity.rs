//! Session affinity over time: it holds while it is used, ends when it is not, and never keeps a
//! client with an endpoint that left.

use std::time::Duration;

use serde_json::json;

use super::{Bench, Scenario, Verdict, eventually, scenario, told};
use crate::client::Outcome;
use crate::load::{PATIENCE, ask};
use crate::manifests::Transport;
use crate::probe::Probe;
use crate::setting::Setting;

/// Scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] =
    &[scenario("affinity-expires", expires), scenario("affinity-leaves-with-its-endpoint", leaves)];

const CART: &str = "10.96.0.17:80";
const REACHED: &str = "tcp from dns-1 to 10.96.0.17:80 reaches one of web-1 web-2 web-3 as any";

fn cart(setting: &Setting, who: &str) -> Result<String, String> {
    let place = setting.lab.place(who).ok_or(format!("no {who}"))?;
    let to = CART.parse().expect("well-formed");
    match place.run(|| ask(Transport::Tcp, to, PATIENCE)) {
        Outcome::Answered(answer) => Ok(answer.pod),
        other => Err(format!("{who} to {CART}: {other:?}")),
    }
}

fn expires(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    setting.edit("Service", "cart", |service| {
        service["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 2}});
    })?;
    setting.start_proxy()?;
    setting.wait_for(&Probe::parse(REACHED)?)?;
    let verdict = expire(&setting);
    told(&setting, verdict)
}

fn expire(setting: &Setting) -> Verdict {
    // Used every half second, it holds for longer than its two seconds.
    let first = cart(setting, "solo")?;
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(500));
        let pod = cart(setting, "solo")?;
        if pod != first {
            return Err(format!("went from {first} to {pod} though it was used").into());
        }
    }
    // Unused for longer, chance decides anew: 12 times the same of 3 is 1 in 177,147.
    let mut pods = vec![first];
    for _ in 0..11 {
        std::thread::sleep(Duration::from_millis(2500));
        pods.push(cart(setting, "solo")?);
        if pods.last() != pods.first() {
            return Ok(format!("another pod after {} expiries", pods.len() - 1));
        }
    }
    Err(format!("stayed with {} through {} expiries of 2 s", pods[0], pods.len() - 1).into())
}

fn leaves(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    setting.start_proxy()?;
    setting.wait_for(&Probe::parse(REACHED)?)?;
    let first = cart(&setting, "dns-1")?;
    let mut taken = None;
    setting.edit("EndpointSlice", "cart-ipv4", |slice| {
        if let Some(endpoints) = slice["endpoints"].as_array_mut() {
            let at = endpoints.iter().position(|e| e["targetRef"]["name"] == first.as_str());
            taken = at.map(|at| endpoints.remove(at));
        }
    })?;
    let mut second = String::new();
    let verdict = eventually(|| match cart(&setting, "dns-1") {
        Ok(pod) if pod != first => {
            second = pod;
            None
        }
        other => Some(format!("{first} has left, and the client reaches {other:?}")),
    });
    if verdict.is_err() {
        return told(&setting, verdict.map(|()| String::new()));
    }
    // Back again, it has no claim on the client any more.
    setting.edit("EndpointSlice", "cart-ipv4", |slice| {
        if let (Some(endpoints), Some(taken)) = (slice["endpoints"].as_array_mut(), taken.take()) {
            endpoints.push(taken);
        }
    })?;
    setting.wait_for(&Probe::parse(
        "tcp from node-2 to 10.96.0.17:80 reaches one of web-1 web-2 web-3 as any",
    )?)?;
    for _ in 0..20 {
        let pod = cart(&setting, "dns-1")?;
        if pod != second {
            return told(&setting, Err(format!("went from {second} to {pod}").into()));
        }
    }
    Ok(String::new())
}
