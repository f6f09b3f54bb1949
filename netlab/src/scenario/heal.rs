//! Rules that are lost or half written: deleted by others, or cut short by a kill -9.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Bench, Scenario, Stop, Verdict, eventually, scenario, told};
use crate::apiserver::bulk;
use crate::client::Outcome;
use crate::load::Load;
use crate::manifests::Transport;
use crate::probe::Probe;
use crate::proxy::{Mode, has_nft, mode, nft};
use crate::setting::Setting;

/// Scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("flushed-ruleset-heals", flushed),
    scenario("deleted-table-heals", deleted),
    scenario("drift-flush-under-load", drift_flush),
    scenario("drift-of-elements", drift_elements),
    scenario("killed-while-writing", killed),
];

const WEB: &str = "tcp from dns-1 to 10.96.0.10:80 reaches web-1 web-2 web-3 as itself";
/// Services of the large cluster.
const MANY: usize = 4_000;

/// When it is killed, in tenths of the time of a whole start.
const KILLS: [u32; 4] = [3, 6, 9, 12];

fn needs_nft() -> Result<(), Stop> {
    if has_nft() { Ok(()) } else { Err(Stop::Skipped("the nft tool is not installed".to_owned())) }
}

fn flushed(bench: &Bench) -> Verdict {
    heals(bench, &[&["flush", "ruleset"]])
}

fn deleted(bench: &Bench) -> Verdict {
    heals(
        bench,
        &[&["delete", "table", "ip", "kube-proxy"], &["delete", "table", "ip6", "kube-proxy"]],
    )
}

/// Destroys the rules under load; the next change of anything brings all of them back.
fn heals(bench: &Bench, blows: &[&[&str]]) -> Verdict {
    needs_nft()?;
    let mut setting = bench.examples()?;
    setting.start_proxy()?;
    let web = Probe::parse(WEB)?;
    setting.wait_for(&web)?;
    let from = setting.lab.place("dns-2").ok_or("no dns-2")?.clone();
    let shop = "172.18.1.2:30080".parse().expect("well-formed");
    let load = Load::start(&from, Transport::Tcp, shop, Duration::from_millis(20));
    for blow in blows {
        nft(&setting.lab, blow)?;
    }
    setting.edit("EndpointSlice", "mirror-ipv4", |slice| {
        slice["metadata"]["labels"]["touched"] = json!("yes");
        slice["ports"][0]["port"] = json!(8081);
    })?;
    let verdict = setting.wait_for(&web);
    let verdict = verdict.map(|_| ()).map_err(Stop::Failed).and_then(|()| {
        eventually(|| {
            let all = load.so_far();
            let recent = &all[all.len().saturating_sub(5)..];
            let well = recent.iter().all(|a| matches!(a.outcome, Outcome::Answered(_)));
            (!well || recent.len() < 5).then(|| "the node port does not answer".to_owned())
        })
    });
    told(&setting, verdict.map(|()| String::new()))
}

/// The longest that connections may fail after all rules were flushed.
const HEALED_WITHIN: Duration = Duration::from_secs(2);

/// Everything is flushed again and again under load: each time connections work again soon, without
/// any change of the cluster, and the log names who did it.
fn drift_flush(bench: &Bench) -> Verdict {
    needs_nft()?;
    let mut setting = bench.examples()?;
    setting.start_proxy()?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    let from = setting.lab.place("dns-2").ok_or("no dns-2")?.clone();
    let shop = "172.18.1.2:30080".parse().expect("well-formed");
    let load = Load::impatient(&from, Transport::Tcp, shop, Duration::from_millis(5));
    let mut flushed = Vec::new();
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(2500));
        flushed.push(Instant::now());
        flush(&setting)?;
    }
    std::thread::sleep(HEALED_WITHIN + Duration::from_millis(500));
    let attempts = load.stop();
    let mut worst = Duration::ZERO;
    for moment in flushed {
        // From the command's start to the end of the last attempt that failed because of it.
        let near = |a: &&crate::load::Attempt| {
            a.began + Duration::from_millis(500) >= moment && a.began < moment + HEALED_WITHIN
        };
        let failed = attempts.iter().filter(near);
        let failed = failed.filter(|a| !matches!(a.outcome, Outcome::Answered(_)));
        let last = failed.map(|a| a.ended).max().unwrap_or(moment);
        worst = worst.max(last.saturating_duration_since(moment));
        let healed = attempts.iter().any(|a| {
            a.began > last
                && a.ended < moment + HEALED_WITHIN
                && matches!(a.outcome, Outcome::Answered(_))
        });
        if !healed {
            return told(
                &setting,
                Err(format!("still nothing {HEALED_WITHIN:?} after a flush").into()),
            );
        }
    }
    let broken = crate::load::failures(&attempts).len();
    let said = setting.proxy.as_ref().map(|p| p.process.said()).unwrap_or_default();
    let verdict = if !said.contains(flusher()) {
        Err(Stop::Failed("who did it is not named".to_owned()))
    } else {
        Ok(format!("5 flushes: worst {worst:.0?}; {broken} attempts failed meanwhile"))
    };
    told(&setting, verdict)
}

/// Takes every rule of this mode away, as its user would by mistake.
fn flush(setting: &Setting) -> Result<(), Stop> {
    match mode().tool() {
        Some(tool) => super::modes::iptables(setting, tool, "-t nat -F").map(|_| ()),
        None => nft(&setting.lab, &["flush", "ruleset"]).map(|_| ()).map_err(Stop::from),
    }
}

/// How the log names who flushed; of the legacy flavour the kernel does not tell.
fn flusher() -> &'static str {
    match mode() {
        Mode::Nftables | Mode::Userspace | Mode::UserspaceIptables | Mode::Ipvs => "nft (process ",
        Mode::IptablesNft => "iptables-nft (process ",
        Mode::IptablesLegacy => "after a change by somebody",
    }
}

/// Elements taken away or changed by hand come back, in both families, without a change of the
/// cluster; what others have is left alone.
fn drift_elements(bench: &Bench) -> Verdict {
    needs_nft()?;
    let mut setting = bench.examples()?;
    setting.start_proxy()?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    let wanted = held(&setting)?;
    let blows: [&[&str]; 4] = [
        &["flush", "map", "ip", "kube-proxy", "services"],
        &["flush", "chain", "ip", "kube-proxy", "nat-prerouting"],
        &["flush", "map", "ip6", "kube-proxy", "endpoints"],
        &["delete", "table", "ip", "kube-proxy"],
    ];
    nft(&setting.lab, &["add", "table", "ip", "somebody-elses"])?;
    let mut worst = Duration::ZERO;
    for blow in blows {
        std::thread::sleep(Duration::from_millis(2500));
        nft(&setting.lab, blow)?;
        let began = Instant::now();
        let healed = eventually(|| {
            let found = held(&setting).unwrap_or_default();
            (found != wanted).then(|| format!("{blow:?} is not put right"))
        });
        if let Err(stop) = healed {
            return told(&setting, Err(stop));
        }
        worst = worst.max(began.elapsed());
    }
    let others = nft(&setting.lab, &["list", "tables"])?.contains("somebody-elses");
    if !others {
        return told(&setting, Err("somebody else's table is gone".into()));
    }
    Ok(format!("4 blows: each put right within {worst:.1?}"))
}

/// Lines of both tables as a set: what the kernel holds, in whatever order.
fn held(setting: &Setting) -> Result<BTreeSet<String>, String> {
    let mut lines = BTreeSet::new();
    for family in ["ip", "ip6"] {
        // -t would leave out the elements, which are all that matters.
        if let Ok(text) = nft(&setting.lab, &["list", "table", family, "kube-proxy"]) {
            lines.extend(text.split('\n').flat_map(|l| l.split(", ")).map(normal));
        }
    }
    Ok(lines)
}

/// A line without what surrounds an element in a list of elements.
fn normal(line: &str) -> String {
    let line = line.trim().trim_start_matches("elements = {").trim_end_matches(['}', ',', ' ']);
    line.trim().to_owned()
}

/// Waits until the tables hold the last Service and have stopped growing.
fn complete(setting: &Setting) -> Result<BTreeSet<String>, Stop> {
    let mut before = 0;
    let mut result = BTreeSet::new();
    let last = bulk::cluster_ip(MANY - 1).to_string();
    eventually(|| {
        result = held(setting).unwrap_or_default();
        let done = result.len() == before && result.iter().any(|line| line.contains(&last));
        before = result.len();
        (!done)
            .then(|| format!("{before} lines, and {last} is not among them or they still change"))
    })?;
    Ok(result)
}

fn killed(bench: &Bench) -> Verdict {
    needs_nft()?;
    let mut setting = bench.examples()?;
    for object in bulk::cluster(MANY, 10).filter(|o| o["kind"] != "Node") {
        setting.manifests.put_new(object, "bulk.json");
    }
    setting.write()?;
    let verdict = kill_often(&mut setting);
    told(&setting, verdict)
}

/// Kills it at moments spread over a start, from nothing and over what earlier ones left, then
/// lets one live: the tables must be those of a start that nobody disturbed.
fn kill_often(setting: &mut Setting) -> Verdict {
    let web = Probe::parse(WEB)?;
    let began = Instant::now();
    setting.start_proxy()?;
    setting.wait_for(&web)?;
    let whole = began.elapsed();
    let wanted = complete(setting)?;
    let mut there = 0;
    for round in 0..2 {
        setting.proxy = None;
        for step in KILLS {
            if round == 0 {
                nft(&setting.lab, &["flush", "ruleset"])?;
            }
            setting.start_proxy()?;
            std::thread::sleep(whole * step / 10);
            setting.proxy = None;
            let tables = nft(&setting.lab, &["list", "tables"])?;
            there += usize::from(tables.contains("kube-proxy"));
        }
        setting.start_proxy()?;
        setting.wait_for(&web)?;
        let found = complete(setting)?;
        if found != wanted {
            let missing: Vec<_> = wanted.difference(&found).take(3).collect();
            let extra: Vec<_> = found.difference(&wanted).take(3).collect();
            return Err(format!("round {round}: missing {missing:?} …, extra {extra:?} …").into());
        }
    }
    let (lines, kills) = (wanted.len(), 2 * KILLS.len());
    Ok(format!(
        "start {whole:.1?}; {kills} kills, {there} after the first write; {lines} lines equal"
    ))
}
