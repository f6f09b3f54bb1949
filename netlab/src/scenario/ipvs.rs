//! ipvs mode under load and under blows: endpoints that come and go, a proxy that is killed, what is
//! not ours, modes that change, and what a kernel lacks. The kernel is looked at with its own tools
//! (ipvsadm, ipset, ip, iptables-save). Where they run: `whereto`.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Bench, Scenario, Stop, Verdict, eventually, ipvs_drift, scenario, told, unharmed};
use crate::apiserver::bulk;
use crate::client::Outcome;
use crate::load::{Attempt, Load, Talks};
use crate::manifests::Transport;
use crate::probe::Probe;
use crate::proxy::KubeProxy;
use crate::scale::endpoint;
use crate::setting::Setting;

/// Scenarios of this file, in ipvs mode only.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("ipvs-endpoints-come-and-go", come_and_go),
    scenario("ipvs-killed-at-random", killed),
    scenario("ipvs-cleanup-is-only-ours", cleanup),
    scenario("ipvs-and-iptables-change-places", change),
    scenario("ipvs-settings-reach-the-kernel", settings),
    scenario("ipvs-drift-is-mended", ipvs_drift::mended),
    scenario("ipvs-lacks-module", |bench| lacks(bench, ("rr", "ip_vs"))),
    scenario("ipvs-lacks-scheduler", |bench| lacks(bench, ("mh", "ip_vs_mh"))),
    scenario("ipvs-lacks-ipset", |bench| lacks(bench, ("rr", "ip_set"))),
];

/// Scenarios that need a kernel without this module.
pub(super) const LACKS: &[(&str, &str)] = &[
    ("ipvs-lacks-module", "ip_vs"),
    ("ipvs-lacks-scheduler", "ip_vs_mh"),
    ("ipvs-lacks-ipset", "ip_set"),
];

pub(super) const WEB: &str = "tcp from dns-1 to 10.96.0.10:80 reaches web-1 web-2 web-3 as itself";
/// Cluster IP and port of the Service `web`.
const TO: &str = "10.96.0.10:80";
/// How long endpoints come and go.
const MINUTE: Duration = Duration::from_secs(60);
/// Those that come and go, with their nodes; web-1 stays.
const MOVING: [(&str, &str, &str); 4] = [
    ("web-2", "10.244.1.12", "node-1"),
    ("web-3", "10.244.2.13", "node-2"),
    ("web-4", "10.244.1.14", "node-1"),
    ("web-5", "10.244.2.15", "node-2"),
];
/// How often it is killed.
const KILLS: usize = 20;

/// Runs a tool in the node.
pub(super) fn tool(setting: &Setting, line: &str) -> Result<String, Stop> {
    let mut words = line.split_whitespace();
    let program = words.next().ok_or("no tool")?;
    let done = setting.lab.node.run(|| Command::new(program).args(words).output());
    let output = done.map_err(|why| Stop::Skipped(format!("{program}: {why}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}

/// Chance that is the same each time (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// From when on until when a pod must not be chosen.
struct Absence {
    pod: &'static str,
    from: Instant,
    until: Option<Instant>,
}

fn come_and_go(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    setting.start_proxy()?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    let verdict = move_endpoints(&mut setting);
    told(&setting, verdict)
}

fn move_endpoints(setting: &mut Setting) -> Verdict {
    let to = TO.parse().expect("the example's address is well-formed");
    let pod = setting.lab.place("dns-1").ok_or("no dns-1")?.clone();
    let node = setting.lab.node.clone();
    let talks = Talks::start(&pod, to, 12)?;
    let loads =
        [&pod, &node].map(|from| Load::start(from, Transport::Tcp, to, Duration::from_millis(5)));
    let mut absences = Vec::new();
    let mut chance = Chance(0x5eed);
    let (began, mut changes) = (Instant::now(), 0);
    while began.elapsed() < MINUTE {
        let (name, address, host) = MOVING[chance.below(MOVING.len() as u64) as usize];
        let there = is_there(setting, address)?;
        if !there {
            let back = Instant::now();
            absences.iter_mut().filter(|a: &&mut Absence| a.pod == name).for_each(|absence| {
                absence.until.get_or_insert(back);
            });
        }
        set_endpoint(setting, (name, address, host), there)?;
        setting.publish()?;
        eventually(|| {
            let now = is_there(setting, address).unwrap_or(there);
            (now == there).then(|| format!("{name} is as before: chosen {there}"))
        })?;
        if there {
            absences.push(Absence { pod: name, from: Instant::now(), until: None });
        }
        changes += 1;
        std::thread::sleep(Duration::from_millis(chance.below(400)));
    }
    let attempts: Vec<Attempt> = loads.into_iter().flat_map(Load::stop).collect();
    let said = unharmed(&attempts, &talks.stop())?;
    let late = attempts.iter().filter(|a| absences.iter().any(|absence| is_late(a, absence)));
    match late.count() {
        0 => Ok(format!("{changes} changes, {said}, none to an endpoint that was gone")),
        late => Err(format!("{late} new connections to an endpoint that was gone").into()),
    }
}

fn is_late(attempt: &Attempt, absence: &Absence) -> bool {
    let Outcome::Answered(answer) = &attempt.outcome else { return false };
    answer.pod == absence.pod
        && attempt.began > absence.from
        && absence.until.is_none_or(|until| attempt.ended < until)
}

/// Whether IPVS gives new connections to an endpoint of `web`.
fn is_there(setting: &Setting, address: &str) -> Result<bool, Stop> {
    let listed = tool(setting, &format!("ipvsadm -L -n -t {TO}"))?;
    let line = listed.lines().find(|line| line.contains(&format!("{address}:")));
    let weight = line.and_then(|line| line.split_whitespace().nth(3)?.parse::<u32>().ok());
    Ok(weight.is_some_and(|weight| weight > 0))
}

/// Adds an endpoint of `web`, or takes it away where it is there; shown when the manifests are written.
fn set_endpoint(
    setting: &mut Setting,
    (name, address, host): (&str, &str, &str),
    there: bool,
) -> Result<(), String> {
    let known = setting.manifests.get("EndpointSlice", "web-ipv4");
    let mut slice = known.ok_or("no EndpointSlice web-ipv4")?.clone();
    let endpoints = slice["endpoints"].as_array_mut().ok_or("no endpoints")?;
    if there {
        endpoints.retain(|known: &Value| known["targetRef"]["name"] != name);
    } else {
        endpoints.push(endpoint(name, address, host));
    }
    setting.manifests.put(slice);
    Ok(())
}

/// What is in the kernel, as the tools say it, without what counts or depends on history.
fn held(setting: &Setting) -> Result<BTreeSet<String>, Stop> {
    let mut lines = BTreeSet::new();
    for line in ["ipvsadm -S -n", "ipset save", "ip -br address"] {
        lines.extend(tool(setting, line)?.lines().map(plain));
    }
    for line in ["iptables-save", "ip6tables-save", "iptables-legacy-save", "ip6tables-legacy-save"]
    {
        let text = tool(setting, line).unwrap_or_default();
        let kept = text.lines().filter(|l| !l.starts_with(['#', '*']) && *l != "COMMIT");
        // The tools make the tables they look into.
        lines.extend(kept.filter(|l| !l.starts_with(':') || l.contains(" - ")).map(plain));
    }
    Ok(lines)
}

fn plain(line: &str) -> String {
    if line.starts_with("create ") {
        return line.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    }
    let mut words: Vec<&str> = line.split(" [").next().unwrap_or(line).split_whitespace().collect();
    // Addresses of a device come in the order in which they were added.
    words.iter().position(|w| *w == "UNKNOWN" || *w == "DOWN").into_iter().for_each(|at| {
        words[at..].sort_unstable();
    });
    words.join(" ")
}

/// Waits until the kernel holds this.
fn holds(setting: &Setting, wanted: &BTreeSet<String>) -> Result<(), Stop> {
    eventually(|| {
        let found = held(setting).unwrap_or_default();
        let missing: Vec<_> = wanted.difference(&found).take(3).collect();
        let extra: Vec<_> = found.difference(wanted).take(3).collect();
        (found != *wanted).then(|| format!("missing {missing:?} …, too much {extra:?} …"))
    })
}

fn killed(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    for object in bulk::cluster(100, 5).filter(|o| o["kind"] != "Node") {
        setting.manifests.put_new(object, "bulk.json");
    }
    setting.write()?;
    let verdict = kill_often(&mut setting);
    told(&setting, verdict)
}

/// Kills it at moments that chance chooses, at a start or after a change, and sees each time that the
/// next one ends where an undisturbed one does.
fn kill_often(setting: &mut Setting) -> Verdict {
    let began = Instant::now();
    let last = format!("{}:80", bulk::cluster_ip(99));
    setting.start_proxy()?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    eventually(|| {
        tool(setting, &format!("ipvsadm -L -n -t {last}")).err().map(|e| format!("{e:?}"))
    })?;
    let whole = began.elapsed();
    std::thread::sleep(whole);
    let full = held(setting)?;
    let leaver = MOVING[0];
    set_endpoint(setting, leaver, true)?;
    setting.write()?;
    let gone = |found: &BTreeSet<String>| {
        !found.iter().any(|l| l.contains(TO) && l.contains(&format!("{}:", leaver.1)))
    };
    eventually(|| (!gone(&held(setting).unwrap_or_default())).then(|| "web-2 stays".to_owned()))?;
    let less = held(setting)?;
    let mut chance = Chance(0xdead);
    for round in 0..KILLS {
        let there = round % 2 == 1;
        if round % 4 < 2 {
            setting.proxy = None;
            setting.start_proxy()?;
        }
        set_endpoint(setting, leaver, there)?;
        setting.write()?;
        std::thread::sleep(Duration::from_millis(chance.below(whole.as_millis() as u64 * 5 / 4)));
        setting.proxy = None;
        setting.start_proxy()?;
        let wanted = if there { &less } else { &full };
        holds(setting, wanted).map_err(|stop| match stop {
            Stop::Failed(why) => Stop::Failed(format!("after kill {round}: {why}")),
            skipped => skipped,
        })?;
    }
    setting.wait_for(&Probe::parse(WEB.replace(" web-2", "").as_str())?)?;
    Ok(format!("start {whole:.1?}; {KILLS} kills, {} lines equal each time", full.len()))
}

/// What others have beside ours.
const FOREIGN: &[&str] = &[
    "ipvsadm -A -t 203.0.113.77:99 -s wlc",
    "ipvsadm -a -t 203.0.113.77:99 -r 10.244.1.11:8080 -m",
    "ipset create theirs hash:ip",
    "ipset add theirs 192.0.2.7",
    "iptables-legacy -N theirs",
    "iptables-legacy -A FORWARD -m set --match-set theirs src -j theirs",
    "iptables-legacy -t nat -A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE",
    "ip link add theirs0 type dummy",
    "ip address add 192.0.2.9/32 dev theirs0",
];

fn cleanup(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    for line in FOREIGN {
        tool(&setting, line)?;
    }
    let before = held(&setting)?;
    setting.start_proxy()?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    let during = held(&setting)?;
    if let Some(lost) = before.difference(&during).next() {
        return told(&setting, Err(format!("it took away {lost:?}").into()));
    }
    setting.stop_proxy(Signal::SIGTERM)?;
    let start = setting.start(&["--cleanup"]);
    let mut proxy = KubeProxy::start(&setting.lab, &start)?;
    let (status, _) = proxy.process.wait(crate::setting::DEADLINE)?;
    let after = held(&setting)?;
    if status.success() && after == before {
        return Ok(format!("{} lines of others kept, {} of ours gone", after.len(), during.len()));
    }
    let missing: Vec<_> = before.difference(&after).collect();
    let extra: Vec<_> = after.difference(&before).collect();
    let said = proxy.process.said();
    Err(format!("{status}; missing {missing:?}, left {extra:?}; it said {said}").into())
}

/// From ipvs mode to iptables mode and back: what the other made is gone, and traffic flows.
fn change(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    for mode in ["ipvs", "iptables", "ipvs", "iptables"] {
        setting.proxy.take().map(|proxy| proxy.stop(Signal::SIGTERM)).transpose()?;
        setting.start_proxy_with(&[&format!("--proxy-mode={mode}")])?;
        // What the last one left looks like what this one is to make: it is this one that must have
        // made it.
        let synced = eventually(|| {
            let said = setting.proxy.as_ref().map(|proxy| proxy.process.said()).unwrap_or_default();
            (!said.contains("synced")).then(|| format!("in {mode} mode: no sync yet: {said}"))
        });
        told(&setting, synced.map(|()| String::new()))?;
        let changed = eventually(|| {
            let servers = tool(&setting, "ipvsadm -S -n").unwrap_or_default().contains(TO);
            let device = tool(&setting, "ip link show kube-ipvs0").is_ok();
            let rules = tool(&setting, "iptables-legacy-save").unwrap_or_default();
            let chains = rules.contains(":KUBE-SVC-");
            let there = (servers, device, chains);
            let wanted = (mode == "ipvs", mode == "ipvs", mode == "iptables");
            (there != wanted).then(|| {
                format!("in {mode} mode: servers, device and chains of Services there: {there:?}")
            })
        });
        told(&setting, changed.map(|()| String::new()))?;
        let probe = Probe::parse(WEB)?;
        setting.wait_for(&probe)?;
    }
    Ok(String::new())
}

/// What flags ask of the kernel, with what the kernel must say then.
const FLAGS: &[&str] = &[
    "--ipvs-strict-arp",
    "--ipvs-tcp-timeout=901s",
    "--ipvs-tcpfin-timeout=121s",
    "--ipvs-udp-timeout=301s",
    "--ipvs-exclude-cidrs=203.0.113.64/26",
    "--ipvs-scheduler=wlc",
];
const SYSCTLS: &[(&str, &str)] = &[
    ("net.ipv4.vs.conntrack", "1"),
    ("net.ipv4.vs.conn_reuse_mode", "1"),
    ("net.ipv4.vs.expire_nodest_conn", "1"),
    ("net.ipv4.vs.expire_quiescent_template", "1"),
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv4.conf.all.arp_ignore", "1"),
    ("net.ipv4.conf.all.arp_announce", "2"),
];
/// Schedulers that Services ask for by annotation, and what the kernel must call them.
const SCHEDULERS: &[(&str, &str)] = &[
    ("rr", "rr"),
    ("wrr", "wrr"),
    ("lc", "lc"),
    ("wlc", "wlc"),
    ("lblc", "lblc"),
    ("lblcr", "lblcr"),
    ("dh", "dh"),
    ("sh", "sh (sh-fallback)"),
    ("sh:sh-port", "sh (sh-port)"),
    ("sed", "sed"),
    ("nq", "nq"),
    ("ovf", "ovf"),
    ("fo", "fo"),
    ("mh", "mh (mh-fallback,mh-port)"),
];

/// Sysctls, timeouts, schedulers of Services, and a virtual server in an excluded range whose address
/// stands on our device: it looks like ours and is nobody's to delete.
fn settings(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    for line in [
        "ip link add kube-ipvs0 type dummy",
        "ip address add 203.0.113.77/32 dev kube-ipvs0",
        "ipvsadm -A -t 203.0.113.77:99 -s rr",
        "ipvsadm -A -t 203.0.113.7:99 -s rr",
        "ip address add 203.0.113.7/32 dev kube-ipvs0",
    ] {
        tool(&setting, line)?;
    }
    let known = setting.manifests.get("Service", "web").ok_or("no Service web")?.clone();
    for (number, (asked, _)) in SCHEDULERS.iter().enumerate() {
        let mut service = known.clone();
        let address = format!("10.96.77.{}", number + 1);
        service["metadata"]["name"] = format!("scheduled-{number}").into();
        service["metadata"]["annotations"]["kube-proxy.io/ipvs-scheduler"] = (*asked).into();
        service["spec"]["clusterIP"] = address.as_str().into();
        service["spec"]["clusterIPs"] = vec![address].into();
        service["spec"]["ipFamilies"] = vec!["IPv4"].into();
        service["spec"]["type"] = "ClusterIP".into();
        setting.manifests.put(service);
    }
    setting.write()?;
    setting.start_proxy_with(FLAGS)?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    let mut wrong = Vec::new();
    for (path, wanted) in SYSCTLS {
        let found = tool(&setting, &format!("sysctl -n {path}"))?;
        if found.trim() != *wanted {
            wrong.push(format!("{path} is {}, not {wanted}", found.trim()));
        }
    }
    let timeouts = tool(&setting, "ipvsadm -L --timeout")?;
    if !timeouts.contains("901 121 301") {
        wrong.push(timeouts);
    }
    let listed = tool(&setting, "ipvsadm -L -n")?;
    let server = |address: &str| -> Option<String> {
        let line = listed.lines().find(|line| line.contains(&format!("{address}:")))?;
        Some(line.split_whitespace().skip(2).collect::<Vec<_>>().join(" "))
    };
    for (number, (asked, wanted)) in SCHEDULERS.iter().enumerate() {
        let found = server(&format!("10.96.77.{}", number + 1));
        if found.as_deref() != Some(*wanted) {
            wrong.push(format!("asked for {asked}, got {found:?} and not {wanted}"));
        }
    }
    if server("10.96.0.10").as_deref() != Some("wlc") {
        wrong.push(format!("without an annotation {:?} and not wlc", server("10.96.0.10")));
    }
    match (server("203.0.113.77"), server("203.0.113.7")) {
        (Some(_), None) => {}
        (kept, gone) => wrong.push(format!("excluded {kept:?}, ours of before {gone:?}")),
    }
    let verdict = if wrong.is_empty() { Ok(String::new()) } else { Err(wrong.join("; ").into()) };
    told(&setting, verdict)
}

/// One line names what is lacking and what to load; nothing is written.
fn lacks(bench: &Bench, (scheduler, module): (&str, &str)) -> Verdict {
    let mut setting = bench.examples()?;
    let start = setting.start(&[&format!("--ipvs-scheduler={scheduler}")]);
    let mut proxy = KubeProxy::start(&setting.lab, &start)?;
    let (status, _) = proxy.process.wait(crate::setting::DEADLINE)?;
    let said = proxy.process.said();
    let ours: Vec<&str> = said.lines().filter(|line| line.starts_with("kube-proxy: ")).collect();
    let [line] = &ours[..] else { return Err(format!("not one line: {said}").into()) };
    let told = line.contains("load ") && line.contains(module);
    if status.code() != Some(1) || !told {
        return Err(format!("{status}, and not said that {module} must be loaded: {line}").into());
    }
    let device = tool(&setting, "ip link show kube-ipvs0").is_ok();
    let rules = tool(&setting, "iptables-legacy-save").unwrap_or_default();
    if device || rules.contains("KUBE-") {
        return Err(format!("it wrote something; device there: {device}\n{rules}").into());
    }
    Ok((*line).to_owned())
}
