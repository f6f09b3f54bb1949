//! `kube-proxy trace` foretells what then happens on the real kernel, for every probe of every
//! script; `kube-proxy check` finds faults that are planted and names each.
//! Both are asked from outside, as a person would. Tests: it is all test.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::faults::{FAULTS, Fault, tool};
use super::{Bench, Scenario, Stop, Verdict, eventually, scenario, told};
use crate::lab::Lab;
use crate::manifests::Transport;
use crate::namespace::Namespace;
use crate::plan;
use crate::probe::{Expected, Probe, Row, Script, judge, short};
use crate::proxy::has_nft;
use crate::setting::Setting;

/// Scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("trace-foretells-every-probe", foretells),
    scenario("trace-foretells-in-other-modes", foretells_in_modes),
    scenario("check-finds-planted-faults", finds),
    scenario("check-finds-in-other-modes", finds_in_modes),
];

/// Runs a program in a namespace; its exit code and what it said on both outputs.
pub(super) fn run(
    namespace: &Namespace,
    program: &Path,
    arguments: &[String],
) -> Result<(i32, String, String), String> {
    let output = namespace
        .run(|| Command::new(program).args(arguments).output())
        .map_err(|e| format!("{}: {e}", program.display()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().unwrap_or(-1);
    Ok((code, text(&output.stdout), text(&output.stderr)))
}

/// Every probe of every script, foretold and then asked; agreement is counted.
fn foretells(bench: &Bench) -> Verdict {
    foretold_with(bench, &[])
}

/// The same in modes that the run did not choose.
fn foretells_in_modes(bench: &Bench) -> Verdict {
    let mut said = Vec::new();
    // Scripts say whom pods see, and in userspace mode they see the node.
    let counted = foretold_with(bench, &["--proxy-mode=iptables"])
        .map_err(|stop| in_mode("iptables", stop))?;
    said.push(format!("iptables: {counted}"));
    Ok(said.join(", "))
}

/// Modes that need nothing of this kernel that a run without them does not.
const OTHER_MODES: [&str; 2] = ["iptables", "userspace"];

fn in_mode(mode: &str, stop: Stop) -> Stop {
    match stop {
        Stop::Failed(why) => Stop::Failed(format!("{mode} mode: {why}")),
        Stop::Skipped(why) => Stop::Skipped(format!("{mode} mode: {why}")),
        Stop::Unfit(why) => Stop::Unfit(format!("{mode} mode: {why}")),
    }
}

fn foretold_with(bench: &Bench, more: &[&str]) -> Verdict {
    let all = Script::read_all(&bench.root.join("netlab/scenarios"))?;
    let mut groups: Vec<(String, Vec<String>, Vec<Script>)> = Vec::new();
    for script in all {
        let known = groups.iter_mut().find(|g| g.0 == script.manifests && g.1 == script.flags);
        match known {
            Some(group) => group.2.push(script),
            None => groups.push((script.manifests.clone(), script.flags.clone(), vec![script])),
        }
    }
    let (mut agreed, mut asked, mut wrong) = (0, 0, Vec::new());
    for (manifests, flags, scripts) in &groups {
        let mut setting = Setting::of_folder(&bench.binary, &bench.root.join(manifests))?;
        let flags: Vec<&str> =
            flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
        setting.start_proxy_with(&flags)?;
        let objects = setting.start(&flags).arguments();
        if let Some(first) = scripts.iter().flat_map(|s| &s.probes).next() {
            setting.wait_for(first)?;
        }
        let probes = scripts.iter().flat_map(|script| &script.probes);
        for probe in probes.filter(|probe| setting.can_ask(probe)) {
            asked += 1;
            match compare(&setting, probe, &objects) {
                Ok(()) => agreed += 1,
                Err(why) => wrong.push(format!(
                    "{} from {} to {}: {why}",
                    probe.transport.name(),
                    probe.who,
                    probe.to
                )),
            }
        }
    }
    match wrong.is_empty() {
        true => Ok(format!("{agreed} of {asked} foretold")),
        false => Err(format!("{agreed} of {asked} foretold\n{}", wrong.join("\n")).into()),
    }
}

/// Foretells one probe, asks it, and says how the two differ.
fn compare(setting: &Setting, probe: &Probe, objects: &[String]) -> Result<(), String> {
    let foretold = foretell(setting, probe, objects)?;
    let row = judge(probe, &mut || setting.attempt(probe));
    foretold.differs(probe, &row).map_or(Ok(()), Err)
}

/// What trace says will be seen.
#[derive(Debug, Default)]
struct Foretold {
    pods: BTreeSet<String>,
    peers: BTreeSet<String>,
    refused: bool,
    lost: bool,
    /// Whether it leaves the node for an address that nobody here has: what becomes of it is the
    /// next router's to say, but no pod answers.
    away: bool,
    /// Whether kube-proxy itself makes the connection to the pod.
    relayed: bool,
}

/// The address from which somebody asks.
fn source(lab: &Lab, probe: &Probe) -> Option<String> {
    let pick = |pair: &[&str; 2]| pair[usize::from(probe.to.is_ipv6())].to_owned();
    match probe.who.as_str() {
        "outside" => Some(pick(&plan::OUTSIDE_NET.own)),
        "stranger" => Some(pick(&plan::STRANGER)),
        "node" => Some("node".to_owned()),
        plan::NODE_2 => Some(pick(&plan::NODE_2_NET.own)),
        pod => {
            let addresses = &lab.pod(pod)?.spec.addresses;
            let own = addresses.iter().find(|a| a.is_ipv4() == probe.to.is_ipv4())?;
            let on_host = plan::is_node_address(*own);
            Some(if on_host { "node".to_owned() } else { own.to_string() })
        }
    }
}

fn foretell(setting: &Setting, probe: &Probe, objects: &[String]) -> Result<Foretold, String> {
    let from = source(&setting.lab, probe).ok_or("it has no address of this family")?;
    let words = [
        "trace",
        &from,
        &probe.to.to_string(),
        "--proto",
        probe.transport.name(),
        "--output",
        "json",
    ];
    let words = words.iter().map(|w| (*w).to_owned());
    let arguments: Vec<String> = words.chain(objects.iter().cloned()).collect();
    let (code, out, error) = run(&setting.lab.node, setting.binary(), &arguments)?;
    if code != 0 {
        return Err(format!("trace ended with {code}: {error}{out}"));
    }
    let answer: Value = serde_json::from_str(&out).map_err(|e| format!("trace: {e}: {out}"))?;
    let own =
        answer["packet"].as_str().and_then(|p| p.split(' ').nth(1)).unwrap_or_default().to_owned();
    let mut foretold = Foretold::default();
    for ending in answer["endings"].as_array().into_iter().flatten() {
        match ending["fate"].as_str() {
            Some("rejected") => foretold.refused = true,
            Some("dropped") => foretold.lost = true,
            // kube-proxy carries it on, from an address of the node that is the route's choice.
            _ if ending["carried_to"].is_array() => foretold.carried(setting, ending),
            _ => {
                let to = &ending["arrives"];
                let at = to["address"].as_str().and_then(|a| a.parse().ok()).ok_or("no address")?;
                let port = to["port"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(0);
                let pod = setting.manifests.pods().into_values().find(|pod| {
                    pod.addresses.contains(&at) && pod.ports.contains(&(probe.transport, port))
                });
                // A process that does not listen refuses.
                let Some(pod) = pod else {
                    let known = setting.manifests.pods().into_values();
                    let anybody = known.into_iter().any(|pod| pod.addresses.contains(&at));
                    let leaves = ending["fate"] == "forwarded" && ending["endpoint"].is_null();
                    match leaves && !anybody {
                        true => foretold.away = true,
                        false => foretold.refused = true,
                    }
                    continue;
                };
                foretold.pods.insert(pod.name);
                let masqueraded = ending["masquerade"]["to"]["address"].as_str();
                foretold.peers.insert(masqueraded.map_or(own.clone(), str::to_owned));
            }
        }
    }
    Ok(foretold)
}

impl Foretold {
    fn carried(&mut self, setting: &Setting, ending: &Value) {
        let pods = setting.manifests.pods();
        for to in ending["carried_to"].as_array().into_iter().flatten() {
            let at = to["address"].as_str().and_then(|text| text.parse().ok());
            let pod = pods.values().find(|pod| at.is_some_and(|at| pod.addresses.contains(&at)));
            self.pods.extend(pod.map(|pod| pod.name.clone()));
        }
        self.relayed = true;
    }

    /// How what was seen differs.
    fn differs(&self, probe: &Probe, row: &Row) -> Option<String> {
        let pods: Vec<&str> = self.pods.iter().map(String::as_str).collect();
        let mut reached: Vec<String> = Vec::new();
        if !pods.is_empty() {
            reached.push(short(&pods));
        }
        reached.extend(self.refused.then(|| "refused".to_owned()));
        reached.extend(self.lost.then(|| "silence".to_owned()));
        let foretold = reached.join(", ");
        // A client that is remembered stays with one of those that are possible.
        let stays = matches!(probe.expected, Expected::One(..));
        let lost = ["unreachable", "silence", "refused"].contains(&row.reached.as_str());
        if self.away && self.pods.is_empty() && lost {
            return None;
        }
        // Linux takes an ICMP error for an error of an SCTP connection only when time is up
        // (`sctp_v4_err_handle`).
        let unheard = probe.transport == Transport::Sctp && self.refused && self.pods.is_empty();
        if unheard && row.reached == "silence" {
            return None;
        }
        let same = match stays {
            true => {
                self.pods.contains(&row.reached)
                    || self.pods.iter().any(|p| row.reached == short(&[p]))
            }
            false => foretold == row.reached,
        };
        if !same {
            return Some(format!("foretold {foretold}; seen {}", row.reached));
        }
        let seen: BTreeSet<String> =
            row.seen.split(", ").filter(|s| !s.is_empty()).map(str::to_owned).collect();
        // A pod that reaches itself is seen otherwise than by others; which of them is chance.
        (!self.relayed && !seen.is_subset(&self.peers))
            .then(|| format!("foretold as {:?}; seen as {seen:?}", self.peers))
    }
}

pub(super) fn checked(setting: &mut Setting, more: &[&str]) -> Result<(i32, Value), Stop> {
    let mut arguments = vec!["check".to_owned(), "--output=json".to_owned()];
    arguments.extend(setting.start(&[]).arguments());
    arguments.extend(more.iter().map(|word| (*word).to_owned()));
    let (code, out, error) = run(&setting.lab.node, setting.binary(), &arguments)?;
    let report = serde_json::from_str(&out)
        .map_err(|e| format!("check ended with {code}: {e}: {out}{error}"))?;
    Ok((code, report))
}

fn finds(bench: &Bench) -> Verdict {
    if !has_nft() {
        return Err(Stop::Skipped("the nft tool is not installed".to_owned()));
    }
    let mut setting = bench.examples()?;
    setting.start_proxy()?;
    setting.wait_for(&Probe::parse(
        "tcp from dns-1 to 10.96.0.10:80 reaches web-1 web-2 web-3 as itself",
    )?)?;
    let (code, report) = checked(&mut setting, &[])?;
    if code != 0 {
        return Err(format!("check is not content with a healthy node: {report:#}").into());
    }
    // It would put right what is planted while it is looked for.
    setting.stop_proxy(Signal::SIGTERM)?;
    let (mut found, mut left_out) = (0, Vec::new());
    for fault in FAULTS {
        match plant_and_find(&mut setting, fault) {
            Ok(()) => found += 1,
            Err(Stop::Skipped(why) | Stop::Unfit(why)) => {
                left_out.push(format!("{}: {why}", fault.name))
            }
            Err(Stop::Failed(why)) => {
                return told(&setting, Err(Stop::Failed(format!("{}: {why}", fault.name))));
            }
        }
    }
    let left_out = if left_out.is_empty() {
        String::new()
    } else {
        format!("; left out: {}", left_out.join(", "))
    };
    Ok(format!("{found} of {} faults found{left_out}", FAULTS.len()))
}

fn plant_and_find(setting: &mut Setting, fault: &Fault) -> Result<(), Stop> {
    (fault.plant)(setting)?;
    let (code, report) = checked(setting, &[])?;
    let foretold = match fault.probe {
        Some(line) => {
            let probe = Probe::parse(line)?;
            let row = judge(&probe, &mut || setting.attempt(&probe));
            // An endpoint that is missing in a map leaves holes: trace tells of them too.
            foretell(setting, &probe, &[])?
                .differs(&probe, &row)
                .filter(|_| row.wrong.is_none())
                .or(row.wrong)
        }
        None => None,
    };
    (fault.heal)(setting)?;
    let fits = |finding: &&Value| {
        let cause = finding["cause"].as_str().unwrap_or_default();
        finding["sort"] == fault.sort && fault.words.iter().all(|word| cause.contains(word))
    };
    let findings = report["findings"].as_array().cloned().unwrap_or_default();
    if code != 1 || !findings.iter().any(|finding| fits(&finding)) {
        return Err(format!("not found: exit code {code}, {report:#}").into());
    }
    foretold.map_or(Ok(()), |why| Err(why.into()))
}

/// A node in another mode is found healthy, and a rule that is gone or was added is named.
fn finds_in_modes(bench: &Bench) -> Verdict {
    for mode in OTHER_MODES {
        found_in(bench, mode).map_err(|stop| in_mode(mode, stop))?;
    }
    Ok(format!("{} modes", OTHER_MODES.len()))
}

fn found_in(bench: &Bench, mode: &str) -> Result<(), Stop> {
    let flag = format!("--proxy-mode={mode}");
    let mut setting = bench.examples()?;
    setting.start_proxy_with(&[&flag])?;
    eventually(|| match checked(&mut setting, &[&flag]) {
        Ok((0, _)) => None,
        Ok((_, report)) => Some(format!("check is not content with a healthy node: {report:#}")),
        Err(Stop::Failed(why) | Stop::Skipped(why) | Stop::Unfit(why)) => Some(why),
    })?;
    setting.stop_proxy(Signal::SIGTERM)?;
    if mode != "iptables" {
        return Ok(());
    }
    let tool_name = crate::proxy::mode().tool().unwrap_or("iptables-nft");
    let rules = tool(&setting, tool_name, "-t nat -S KUBE-SERVICES")?;
    let line = rules.lines().find(|line| line.contains("default/web:http cluster IP"));
    let rule =
        line.and_then(|line| line.strip_prefix("-A ")).ok_or("no rule of default/web:http")?;
    let program = format!("{tool_name} -t nat -D {rule}");
    let deleted = setting.lab.node.run(|| Command::new("sh").args(["-c", &program]).status());
    if !deleted.is_ok_and(|status| status.success()) {
        return Err(format!("cannot be planted: {program}").into());
    }
    let (code, report) = checked(&mut setting, &[&flag])?;
    let findings = report["findings"].as_array().cloned().unwrap_or_default();
    let named = findings.iter().any(|finding| {
        let cause = finding["cause"].as_str().unwrap_or_default();
        let words = ["iptables table nat, chain KUBE-SERVICES", "10.96.0.10/32", "is missing"];
        finding["sort"] == "drift"
            && finding["service"] == "default/web:http"
            && words.iter().all(|word| cause.contains(word))
    });
    match (code, named) {
        (1, true) => Ok(()),
        _ => Err(format!("a rule deleted: exit code {code}, {report:#}").into()),
    }
}
