//! Going from one proxy mode to another, and away from all of them: connections go on meanwhile, and
//! what others have in the same tables stays.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Bench, Scenario, Stop, Verdict, eventually, scenario, told, unharmed};
use crate::load::{Load, Talks};
use crate::manifests::Transport;
use crate::probe::Probe;
use crate::proxy::{KubeProxy, has_nft, nft};
use crate::setting::Setting;

/// Scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("no-mode-changes-under-traffic", control),
    scenario("modes-change-under-traffic", change),
    scenario("cleanup-of-every-mode", cleanup),
    scenario("drift-in-each-table-heals", drift),
];

const WEB: &str = "tcp from dns-1 to 10.96.0.10:80 reaches web-1 web-2 web-3 as any";
/// Connections that a change of modes must not harm.
const CONNECTIONS: usize = 10_000;
/// The tool that makes iptables' rules here, unless the run chose another.
const TOOL: &str = "iptables-nft";

fn tool() -> &'static str {
    crate::proxy::mode().tool().unwrap_or(TOOL)
}

/// Runs iptables or one of its fellows in the node.
pub(super) fn iptables(setting: &Setting, program: &str, arguments: &str) -> Result<String, Stop> {
    let words: Vec<&str> = arguments.split_whitespace().collect();
    let done = setting.lab.node.run(|| Command::new(program).args(words).output());
    match done {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(format!("{program} {arguments}: {said}").into())
        }
        Err(why) => Err(Stop::Skipped(format!("{program}: {why}"))),
    }
}

/// The rules of one family without what counts packets, says when, or is an empty table: iptables
/// makes the tables that it looks into.
fn saved(setting: &Setting, six: &str) -> Result<Vec<String>, Stop> {
    let text = iptables(setting, &format!("{}{}-save", six, tool_of(six)), "")?;
    let built_in = |line: &str| line.starts_with(':') && !line.contains(" - ");
    let kept = text.lines().filter(|l| !l.starts_with(['#', '*']) && *l != "COMMIT");
    // Where the lab says that there is a kubelet, that chain is taken for kubelet's and stays.
    let kubelets =
        |line: &str| crate::proxy::mode().tool().is_some() && line.contains("KUBE-FIREWALL");
    Ok(kept
        .filter(|line| !built_in(line) && !kubelets(line))
        .map(|line| line.split(" [").next().unwrap_or(line).to_owned())
        .collect())
}

/// All that is in the node's tables, but for what iptables makes when it looks: empty tables with
/// their base chains. Two of these are equal if nothing was written in between.
pub(super) fn written(setting: &Setting) -> Result<BTreeSet<String>, String> {
    let said = |stop: Stop| match stop {
        Stop::Failed(why) | Stop::Skipped(why) | Stop::Unfit(why) => why,
    };
    let mut all = BTreeSet::new();
    if crate::proxy::mode().tool().is_some() {
        all.extend(saved(setting, "").map_err(said)?);
        all.extend(saved(setting, "ip6").map_err(said)?);
    }
    if has_nft() {
        let ruleset = nft(&setting.lab, &["list", "ruleset"])?;
        all.extend(
            ruleset.lines().map(str::trim).filter(|line| !is_frame(line)).map(str::to_owned),
        );
    }
    Ok(all)
}

/// Whether a line of `nft list ruleset` is part of an empty table of iptables.
fn is_frame(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        [] | ["}"] | ["#", ..] | ["type", _, "hook", ..] => true,
        ["table", "ip" | "ip6", name, "{"] => ["filter", "nat", "mangle"].contains(&name),
        ["chain", name, "{"] => name.bytes().all(|byte| byte.is_ascii_uppercase()),
        _ => false,
    }
}

/// `ip6` before the tool's name without its own `ip`.
fn tool_of(six: &str) -> &'static str {
    if six.is_empty() { tool() } else { &tool()["ip".len()..] }
}

/// The load of `modes-change-under-traffic` while nothing happens: what fails here is the lab's fault.
fn control(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    setting.start_proxy()?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    let loads = loads(&setting)?;
    while loads.iter().map(|load| load.so_far().len()).sum::<usize>() < CONNECTIONS {
        std::thread::sleep(Duration::from_millis(200));
    }
    let attempts: Vec<_> = loads.into_iter().flat_map(Load::stop).collect();
    told(&setting, unharmed(&attempts, &[]))
}

/// New connections without pause, from a pod to a cluster IP and from outside to a node port.
fn loads(setting: &Setting) -> Result<[Load; 4], String> {
    let web = "10.96.0.10:80".parse().expect("well-formed");
    let port = "172.18.1.2:30080".parse().expect("well-formed");
    let pod = setting.lab.place("dns-1").ok_or("no dns-1")?;
    let outside = &setting.lab.outside;
    let asks = [(pod, web), (outside, port), (pod, web), (outside, port)];
    let pause = Duration::from_millis(1);
    Ok(asks.map(|(from, to)| Load::start(from, Transport::Tcp, to, pause)))
}

fn change(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    iptables(&setting, tool(), "--version")?;
    setting.start_proxy_with(&["--proxy-mode=iptables"])?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    let web = "10.96.0.10:80".parse().expect("well-formed");
    let port = "172.18.1.2:30080".parse().expect("well-formed");
    let pod = setting.lab.place("dns-1").ok_or("no dns-1")?.clone();
    let outside = setting.lab.outside.clone();
    let talks = [Talks::start(&pod, web, 6)?, Talks::start(&outside, port, 6)?];
    let loads = loads(&setting)?;
    let mut changes = 0;
    let changed = loop {
        let made: usize = loads.iter().map(|load| load.so_far().len()).sum();
        if made >= CONNECTIONS && changes >= 2 {
            break Ok(());
        }
        if let Err(why) = go_on_in(&mut setting, ["nftables", "iptables"][changes % 2]) {
            break Err(why);
        }
        changes += 1;
    };
    let kept: Vec<_> = talks.into_iter().flat_map(Talks::stop).collect();
    let attempts: Vec<_> = loads.into_iter().flat_map(Load::stop).collect();
    let verdict = changed.and_then(|()| unharmed(&attempts, &kept));
    told(&setting, verdict.map(|said| format!("{changes} changes of mode, {said}")))
}

/// Stops the proxy, starts it in another mode and waits until only that mode's rules are there.
fn go_on_in(setting: &mut Setting, mode: &str) -> Result<(), Stop> {
    setting.stop_proxy(Signal::SIGTERM)?;
    setting.start_proxy_with(&[&format!("--proxy-mode={mode}")])?;
    eventually(|| {
        let tables = nft(&setting.lab, &["list", "tables"]).unwrap_or_default();
        let rules = saved(setting, "").unwrap_or_default();
        let chains = rules.iter().any(|line| line.starts_with(":KUBE-SERVICES"));
        let there = (tables.contains("kube-proxy"), chains);
        let wanted = (mode == "nftables", mode == "iptables");
        (there != wanted).then(|| format!("in {mode} mode: tables and chains there: {there:?}"))
    })
}

fn cleanup(bench: &Bench) -> Verdict {
    if !has_nft() {
        return Err(Stop::Skipped(
            "the nft tool makes the foreign table: not installed".to_owned(),
        ));
    }
    let mut setting = bench.examples()?;
    for line in [
        "-N theirs",
        "-A theirs -j RETURN",
        "-A INPUT -p tcp --dport 22 -j ACCEPT",
        "-A FORWARD -j theirs",
        "-t nat -N CNI-HOSTPORT-DNAT",
        "-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
    ] {
        iptables(&setting, tool(), line)?;
    }
    nft(&setting.lab, &["add table inet foreign"])?;
    let before = (saved(&setting, "")?, saved(&setting, "ip6")?);
    for mode in ["iptables", "nftables", "userspace"] {
        setting.start_proxy_with(&[&format!("--proxy-mode={mode}")])?;
        setting.wait_for(&Probe::parse(WEB)?)?;
        setting.stop_proxy(Signal::SIGTERM)?;
        let start = setting.start(&["--cleanup"]);
        let mut proxy = KubeProxy::start(&setting.lab, &start)?;
        let (status, _) = proxy.process.wait(crate::setting::DEADLINE)?;
        let after = (saved(&setting, "")?, saved(&setting, "ip6")?);
        let tables = nft(&setting.lab, &["list", "tables"])?;
        let clean = after == before && !tables.contains("kube-proxy") && tables.contains("foreign");
        if !status.success() || !clean {
            let said = proxy.process.said();
            return Err(format!(
                "after {mode} mode it ended with {status} and said {said}\nbefore {before:#?}\nafter {after:#?}\n{tables}"
            )
            .into());
        }
    }
    Ok(String::new())
}

/// Takes something away in each table; housekeeping sees it, though nothing changes.
fn drift(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    iptables(&setting, tool(), "--version")?;
    setting.start_proxy_with(&["--proxy-mode=iptables", "--iptables-sync-period=1s"])?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    let whole = |setting: &Setting| {
        let mut rules = saved(setting, "").unwrap_or_default();
        rules.sort();
        rules
    };
    let right = whole(&setting);
    for blow in [
        "-t nat -F KUBE-SERVICES",
        "-t nat -F KUBE-POSTROUTING",
        "-t nat -D PREROUTING 1",
        "-F KUBE-FORWARD",
        "-F KUBE-EXTERNAL-SERVICES",
        "-F INPUT",
        "-t mangle -X KUBE-PROXY-CANARY",
    ] {
        iptables(&setting, tool(), blow)?;
        let healed = eventually(|| {
            let now = whole(&setting);
            (now != right).then(|| format!("after {blow}: {} lines of {}", now.len(), right.len()))
        });
        told(&setting, healed.map(|()| String::new()))?;
    }
    setting.wait_for(&Probe::parse(WEB)?)?;
    Ok(String::new())
}
