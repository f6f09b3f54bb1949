//! userspace mode on a kernel without nf_tables: what there is of iptables' rules when others change
//! them, when the mode changes, and when everything is to go. The kernel is looked at with the tools.
//! Tests: it is all test.

use nix::sys::signal::Signal;

use super::ipvs::tool;
use super::trace::checked;
use super::{Bench, Scenario, Verdict, eventually, harm, scenario, told};
use crate::probe::Probe;

/// Scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("without-nf-tables-drift-is-mended", mended),
    scenario("without-nf-tables-check-finds", finds),
    scenario("without-nf-tables-modes-change", change),
    scenario("without-nf-tables-cleanup", cleanup),
];

const WEB: &str = "tcp from dns-1 to 10.96.0.10:80 reaches web-1 web-2 web-3 as any";
const OFTEN: &str = "--iptables-sync-period=1s";
/// Where the process listens, and the chain that keeps strangers away.
const RELAY: &str = "169.254.107.112";
const GUARD: &str = "KUBE-PROXY-GUARD";

/// What others take away: of each kind something.
const HARMS: &[&str] = &[
    "iptables-legacy -t nat -F KUBE-SERVICES",
    "iptables-legacy -t nat -F PREROUTING",
    "iptables-legacy -t filter -F KUBE-EXTERNAL-SERVICES",
    "iptables-legacy -t mangle -F KUBE-PROXY-GUARD",
    "iptables-legacy -t mangle -F INPUT",
    "ip6tables-legacy -t nat -F KUBE-NODEPORTS",
    "ip address delete 169.254.107.112/32 dev lo",
];

/// What says all of it: rules and own addresses.
const TOOLS: &[&str] =
    &["iptables-legacy-save", "ip6tables-legacy-save", "ip -o address show dev lo"];

/// What others change is put right within a sync period; meanwhile ports stay those that they were.
fn mended(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    setting.start_proxy_with(&[OFTEN])?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    harm::mended(&setting, TOOLS, HARMS)
}

/// `check` is content with a healthy node, though ports are chance, and finds what is missing.
fn finds(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    setting.start_proxy()?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    let (code, report) = checked(&mut setting, &[])?;
    if code != 0 {
        return Err(format!("check is not content with a healthy node: {report:#}").into());
    }
    for fault in [
        "iptables-legacy -t mangle -F KUBE-PROXY-GUARD",
        "iptables-legacy -t nat -F KUBE-NODEPORTS",
    ] {
        tool(&setting, fault)?;
        let (code, report) = checked(&mut setting, &[])?;
        let chain = fault.rsplit(' ').next().unwrap_or_default();
        if code != 1 || !report.to_string().contains(chain) {
            return Err(format!("after `{fault}` check ended with {code}: {report:#}").into());
        }
    }
    Ok(String::new())
}

/// To iptables mode, to ipvs mode and back each time: each leaves only its own.
fn change(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    for mode in ["userspace", "iptables", "userspace", "ipvs", "userspace"] {
        setting.proxy.take().map(|proxy| proxy.stop(Signal::SIGTERM)).transpose()?;
        setting.start_proxy_with(&[&format!("--proxy-mode={mode}")])?;
        let changed = eventually(|| {
            let rules = tool(&setting, "iptables-legacy-save").unwrap_or_default();
            let addresses = tool(&setting, "ip -o address show dev lo").unwrap_or_default();
            let there = (
                rules.contains(GUARD),
                addresses.contains(RELAY),
                rules.contains(&format!("--to-destination {RELAY}:")),
                rules.contains(":KUBE-SVC-"),
                tool(&setting, "ip link show kube-ipvs0").is_ok(),
            );
            let carries = mode == "userspace";
            let wanted = (carries, carries, carries, mode != "ipvs", mode == "ipvs");
            (there != wanted).then(|| {
                format!(
                    "in {mode} mode: guard, address, rules that lead there, chains of Services, \
                     ipvs' device: {there:?}"
                )
            })
        });
        told(&setting, changed.map(|()| String::new()))?;
        setting.wait_for(&Probe::parse(WEB)?)?;
    }
    Ok(String::new())
}

/// `--cleanup` leaves what was there before.
fn cleanup(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    // A table is there from the moment that somebody looks into it.
    for table in ["filter", "nat", "mangle"] {
        tool(&setting, &format!("iptables-legacy -t {table} -S"))?;
        tool(&setting, &format!("ip6tables-legacy -t {table} -S"))?;
    }
    let before = harm::state(&setting, TOOLS)?;
    setting.start_proxy()?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    setting.stop_proxy(Signal::SIGTERM)?;
    let binary = setting.binary().display().to_string();
    tool(&setting, &format!("{binary} --cleanup --proxy-mode=userspace"))?;
    let after = harm::state(&setting, TOOLS)?;
    let left: Vec<&String> = after.iter().filter(|line| !before.contains(line)).collect();
    match left.is_empty() {
        true => Ok(String::new()),
        false => Err(format!("left behind: {left:#?}").into()),
    }
}
