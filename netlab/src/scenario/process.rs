//! kube-proxy as a process: signals, restarts, refusals, cleanup, and scaling under load.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Bench, Scenario, Stop, Verdict, eventually, scenario, told, unharmed};
use crate::load::{Load, Talks};
use crate::manifests::Transport;
use crate::probe::Probe;
use crate::process::Rights;
use crate::proxy::{KubeProxy, has_nft, nft};
use crate::scale::endpoint;
use crate::setting::Setting;

/// Scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("scale-under-load", scale),
    scenario("restart-under-traffic", restart),
    scenario("restarts-lose-nothing", restarts),
    scenario("signals-leave-the-rules", signals),
    scenario("no-right-no-trace", no_right),
    scenario("cleanup-is-only-ours", cleanup),
    scenario("table-is-readable", readable),
];

/// Restarts in a row.
const RESTARTS: usize = 25;

/// The Service of the examples that is asked here.
const WEB: &str = "tcp from dns-1 to 10.96.0.10:80 reaches web-1 web-2 web-3 as itself";

fn scale(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    setting.start_proxy()?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    let rows = crate::scale::grow_and_shrink(&mut setting);
    let rows = rows.map_err(|why| format!("{why}\n{}", setting.last_words()))?;
    match rows.iter().find(|r| r.wrong.is_some()) {
        Some(_) => Err(crate::table::print(&rows).into()),
        None => Ok(rows[2].reached.clone()),
    }
}

fn restart(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    setting.start_proxy()?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    let web = "10.96.0.10:80".parse().expect("well-formed");
    let port = "172.18.1.2:30080".parse().expect("well-formed");
    let pod = setting.lab.place("dns-1").ok_or("no dns-1")?.clone();
    let outside = setting.lab.outside.clone();
    let talks = [Talks::start(&pod, web, 6)?, Talks::start(&outside, port, 6)?];
    let pause = Duration::from_millis(2);
    let loads = [
        Load::start(&pod, Transport::Tcp, web, pause),
        Load::start(&outside, Transport::Tcp, port, pause),
        Load::start(&pod, Transport::Udp, "10.96.0.53:53".parse().expect("well-formed"), pause),
    ];
    let verdict = restart_thrice(&mut setting);
    let kept: Vec<_> = talks.into_iter().flat_map(Talks::stop).collect();
    let attempts: Vec<_> = loads.into_iter().flat_map(Load::stop).collect();
    let verdict = verdict.and_then(|_| unharmed(&attempts, &kept));
    told(&setting, verdict)
}

/// Restarts one after the other under as many new connections as there is room for: a packet that
/// is between two look-ups while tables change must not miss.
fn restarts(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    setting.start_proxy()?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    let pod = setting.lab.place("dns-1").ok_or("no dns-1")?.clone();
    let dns = "10.96.0.53:53".parse().expect("well-formed");
    // UDP: at this pace TCP clients come back to a port that their peer has not let go of yet, and
    // some are reset, restarts or not.
    let load = |_| Load::start(&pod, Transport::Udp, dns, Duration::ZERO);
    let loads: Vec<Load> = (0..4).map(load).collect();
    let verdict = (0..RESTARTS).try_for_each(|number| {
        setting.stop_proxy(Signal::SIGTERM)?;
        setting.start_proxy()?;
        let said = |setting: &Setting| setting.proxy.as_ref().map(|p| p.process.said());
        eventually(|| {
            let up = said(&setting).unwrap_or_default().contains("] synced ");
            (!up).then(|| "it is not up".to_owned())
        })?;
        // What stood in is taken away after a second: some end before, some meanwhile, some after.
        std::thread::sleep(Duration::from_millis(number as u64 % 3 * 550));
        Ok::<(), Stop>(())
    });
    let attempts: Vec<_> = loads.into_iter().flat_map(Load::stop).collect();
    let verdict = verdict.and_then(|()| unharmed(&attempts, &[]));
    told(&setting, verdict.map(|said| format!("{RESTARTS} restarts: {said}")))
}

/// Three restarts, each by another signal, each proved complete by a new pod that is reached.
fn restart_thrice(setting: &mut Setting) -> Verdict {
    for (number, signal) in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGKILL].iter().enumerate() {
        if *signal == Signal::SIGKILL {
            // Dropping it kills it.
            setting.proxy = None;
        } else {
            setting.stop_proxy(*signal)?;
        }
        std::thread::sleep(Duration::from_millis(200));
        let pod = format!("web-{}", number + 4);
        let address = format!("10.244.1.{}", number + 14);
        setting.edit("EndpointSlice", "web-ipv4", |slice| {
            if let Some(endpoints) = slice["endpoints"].as_array_mut() {
                endpoints.push(endpoint(&pod, &address, "node-1"));
            }
        })?;
        setting.start_proxy()?;
        let all: Vec<String> = (1..number + 5).map(|n| format!("web-{n}")).collect();
        let line = format!("tcp from node to 10.96.0.10:80 reaches {} as any", all.join(" "));
        setting.wait_for(&Probe::parse(&line)?)?;
    }
    Ok(String::new())
}

fn signals(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    let both = "tcp from dns-1 to 10.96.0.21:80 reaches solo web-1 as itself";
    let alone = "tcp from dns-1 to 10.96.0.21:80 reaches solo as itself";
    let mut took = Vec::new();
    for (signal, line) in [(Signal::SIGTERM, alone), (Signal::SIGINT, both)] {
        // Each start has something to do that shows when it is up.
        let probe = Probe::parse(line)?;
        if line == both {
            setting.edit("EndpointSlice", "mirror-ipv4", |slice| {
                let more = endpoint("web-1", "10.244.1.11", "node-1");
                if let Some(endpoints) = slice["endpoints"].as_array_mut() {
                    endpoints.push(more);
                }
            })?;
        }
        setting.start_proxy()?;
        setting.wait_for(&probe)?;
        let time = setting.stop_proxy(signal)?;
        if time > Duration::from_secs(1) {
            return Err(format!("{signal} took {time:?}, promised is 1 s").into());
        }
        took.push(format!("{signal} {} ms", time.as_millis()));
        // Nobody is there any more, and the rules still work.
        setting.wait_for(&probe)?;
    }
    Ok(took.join(", "))
}

fn no_right(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    let mut start = setting.start(&[]);
    start.rights = Rights::NoNetAdmin;
    let before = super::modes::written(&setting)?;
    let mut proxy = KubeProxy::start(&setting.lab, &start)?;
    let (status, _) = proxy.process.wait(crate::setting::DEADLINE)?;
    let said = proxy.process.said();
    if status.code() != Some(1) {
        return Err(format!("it ended with {status}, not 1; it said: {said}").into());
    }
    if said.trim().lines().count() != 1 {
        return Err(format!("not one line: {said:?}").into());
    }
    let after = super::modes::written(&setting)?;
    if after != before {
        return Err(format!("it wrote something: before {before:#?}, after {after:#?}").into());
    }
    Ok(said.trim().to_owned())
}

fn cleanup(bench: &Bench) -> Verdict {
    if !has_nft() {
        return Err(Stop::Skipped(
            "the nft tool makes the foreign table: not installed".to_owned(),
        ));
    }
    let mut setting = bench.examples()?;
    nft(&setting.lab, &["add table ip foreign"])?;
    nft(&setting.lab, &["add chain ip foreign keep { type filter hook input priority 0; }"])?;
    let foreign = nft(&setting.lab, &["list", "ruleset"])?;
    setting.start_proxy()?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    setting.stop_proxy(Signal::SIGTERM)?;
    let mut start = setting.start(&["--cleanup"]);
    for _ in 0..2 {
        // The second time there is nothing left to clean, which is no failure.
        start.log = setting.scratch.path().join("cleanup.log");
        let mut proxy = KubeProxy::start(&setting.lab, &start)?;
        let (status, _) = proxy.process.wait(crate::setting::DEADLINE)?;
        let left = nft(&setting.lab, &["list", "ruleset"])?;
        if !status.success() || left != foreign {
            return Err(format!(
                "it ended with {status}, said {:?} and left:\n{left}",
                proxy.process.said()
            )
            .into());
        }
    }
    Ok(String::new())
}

fn readable(bench: &Bench) -> Verdict {
    if !has_nft() {
        return Err(Stop::Skipped("the nft tool is not installed".to_owned()));
    }
    let mut setting = bench.examples()?;
    setting.start_proxy()?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    let words = [
        ("ip", ["default/web:http", "default/dns:dns", "10.96.0.10", "10.244.1.11"]),
        ("ip6", ["default/web:http", "default/dns:dns", "fd00:10:96::10", "fd00:10:244:1::11"]),
    ];
    for (family, words) in words.iter().filter(|(f, _)| *f == "ip" || setting.lab.ipv6()) {
        eventually(|| match nft(&setting.lab, &["list", "table", family, "kube-proxy"]) {
            Err(why) => Some(format!("nft cannot list table {family} kube-proxy: {why}")),
            Ok(text) => words
                .iter()
                .find(|word| !text.contains(**word))
                .map(|word| format!("table {family} kube-proxy says nothing of {word}")),
        })?;
    }
    Ok(String::new())
}
