//! What only iptables mode has: its tools and their lock, its counters, and rules that are there
//! already. The kernel is looked at with iptables' own tools. In each flavour (`--mode iptables-nft`,
//! `--mode iptables-legacy`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;

use super::modes::iptables;
use super::served::listener;
use super::{Bench, Scenario, Stop, Verdict, eventually, scenario, told, unharmed};
use crate::apiserver::{ApiServer, Manners, Shared};
use crate::client::{Conversation, answer_of, ask_udp_again};
use crate::links;
use crate::load::{Load, Talks};
use crate::manifests::Transport;
use crate::page::fetch;
use crate::probe::Probe;
use crate::proxy::{Input, KubeProxy, Start, link_iptables, mode};
use crate::setting::Setting;

/// Scenarios of this file, in iptables mode only.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("iptables-adopts-rules-that-are-there", adopts),
    scenario("iptables-counts-packets", counts),
    scenario("iptables-lacks-tools", lacks),
    scenario("iptables-lacks-net-raw", lacks_net_raw),
    scenario("iptables-refused-restore-loses-nothing", refused),
    scenario("iptables-waits-for-the-lock", waits),
];

const WEB: &str = "tcp from dns-1 to 10.96.0.10:80 reaches web-1 web-2 web-3 as itself";
/// Where the metrics are, in the node.
const METRICS: &str = "127.0.0.1:10249";

/// The beginning of the tool's name.
fn tool() -> &'static str {
    mode().tool().unwrap_or("iptables-nft")
}

/// Starts kube-proxy, with metrics, through another program which makes a place for it first.
fn start_through(setting: &mut Setting, before: &[&str]) -> Result<(), String> {
    let start = setting.start(&[&format!("--metrics-bind-address={METRICS}")]);
    start_as(setting, before, &start)
}

fn start_as(setting: &mut Setting, before: &[&str], start: &Start) -> Result<(), String> {
    let words: Vec<String> = before.iter().map(|word| (*word).to_owned()).collect();
    setting.proxy = Some(KubeProxy::start_through(&setting.lab, &words, start)?);
    Ok(())
}

fn said(setting: &Setting) -> String {
    setting.proxy.as_ref().map(|proxy| proxy.process.said()).unwrap_or_default()
}

/// What is missing until a metric has reached this.
fn below(setting: &Setting, name: &str, least: f64) -> Option<String> {
    let metrics: SocketAddr = METRICS.parse().expect("well-formed");
    let figure = match setting.lab.node.run(|| fetch(metrics, "/metrics")) {
        Ok(page) => page.figure(name).and_then(|figure| figure.parse::<f64>().ok()),
        Err(why) => return Some(why),
    };
    match figure {
        Some(figure) if figure >= least => None,
        figure => Some(format!("{name} is {figure:?}, not {least} or more")),
    }
}

/// Without iptables' tools it says what to install, and ends.
fn lacks(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    let hide = "for tool in /usr/sbin/*tables* /sbin/*tables*; do mount --bind /dev/null \"$tool\"; done; exec \"$@\"";
    start_through(&mut setting, &["/usr/bin/unshare", "--mount", "sh", "-c", hide, "sh"])?;
    let proxy = setting.proxy.as_mut().ok_or("it was not started")?;
    let (status, _) = proxy.process.wait(crate::setting::DEADLINE)?;
    let words = said(&setting);
    let told = words.lines().any(|line| line.contains("install iptables"));
    match (status.code(), told) {
        (Some(1), true) => Ok(String::new()),
        _ => Err(format!("it ended with {status} and said {words}").into()),
    }
}

/// A node that uses the legacy flavour gets no rules in the other one where a right is lacking; it is
/// said which.
fn lacks_net_raw(bench: &Bench) -> Verdict {
    if tool() != "iptables-legacy" {
        return Err(Stop::Unfit(
            "tools of the nf_tables flavour need CAP_NET_ADMIN alone".to_owned(),
        ));
    }
    let mut setting = bench.examples()?;
    let only = ["/usr/bin/setpriv", "--bounding-set=-all,+net_admin", "--inh-caps=-all"];
    start_through(&mut setting, &only)?;
    let proxy = setting.proxy.as_mut().ok_or("it was not started")?;
    let (status, _) = proxy.process.wait(crate::setting::DEADLINE)?;
    let words = said(&setting);
    let there = iptables(&setting, "iptables-nft-save", "")?.contains("KUBE-SERVICES");
    match (status.code(), words.contains("CAP_NET_RAW"), there) {
        (Some(1), true, false) => Ok(String::new()),
        _ => Err(format!("it ended with {status} and said {words}; other rules: {there}").into()),
    }
}

/// The node's rules of IPv4 with their counters.
fn saved(setting: &Setting) -> Result<String, Stop> {
    iptables(setting, &format!("{}-save", tool()), "-c")
}

/// Makes these the node's rules of IPv4, counters and all.
fn restore(setting: &Setting, text: &str) -> Result<(), Stop> {
    let program = format!("{}-restore", tool());
    let feed = || -> std::io::Result<std::process::Output> {
        let mut command = Command::new(&program);
        command.arg("-c").stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().into_iter().try_for_each(|mut pipe| pipe.write_all(text.as_bytes()))?;
        child.wait_with_output()
    };
    let output = setting.lab.node.run(feed).map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}

/// What a rule that nobody has written anew has counted at least.
const COUNTED: u64 = 1_000_000;

/// Rules by chain without their counters, sorted, and how many of each chain have kept theirs.
fn rules(text: &str) -> BTreeMap<&str, (Vec<&str>, usize)> {
    let mut chains: BTreeMap<&str, (Vec<&str>, usize)> = BTreeMap::new();
    for line in text.lines() {
        if let Some(chain) = line.strip_prefix(":KUBE-").and_then(|rest| rest.split(' ').next()) {
            chains.entry(chain).or_default();
        }
        let rule = line.strip_prefix('[').and_then(|rest| rest.split_once("] -A KUBE-"));
        let Some((counters, rule)) = rule else { continue };
        let packets = counters.split(':').next().and_then(|packets| packets.parse::<u64>().ok());
        let (chain, _) = rule.split_once(' ').unwrap_or((rule, ""));
        let (rules, kept) = chains.entry(chain).or_default();
        rules.push(rule);
        *kept += usize::from(packets.is_some_and(|packets| packets >= COUNTED));
    }
    chains.values_mut().for_each(|(rules, _)| rules.sort_unstable());
    chains
}

/// The same rules as another proxy would leave them: in another order, with a Service that is gone
/// since, and one whose endpoint was another; every rule has counted.
fn of_another_time(text: &str) -> Result<(String, String), String> {
    let mut lines: Vec<String> = Vec::new();
    let mut services: Vec<String> = Vec::new();
    let mut changed = None;
    let mut table = "";
    for line in text.lines() {
        table = line.strip_prefix('*').unwrap_or(table);
        let rule = line.split_once("] -A ").map(|(_, rule)| rule);
        let Some(rule) = rule else {
            if line == "COMMIT" && table == "nat" {
                // The last one leads to node ports.
                let last = services.pop().ok_or("no rules of KUBE-SERVICES")?;
                lines.extend(services.drain(..).rev());
                lines.extend([GONE_RULE.to_owned(), last]);
            }
            lines.push(line.to_owned());
            if line == "*nat" {
                lines.extend(GONE.iter().map(|line| (*line).to_owned()));
            }
            continue;
        };
        let dnat = rule.starts_with("KUBE-SEP-") && rule.contains("--to-destination 10.244.1.11:");
        let rule = match &changed {
            None if dnat => {
                changed = rule.split(' ').next().map(str::to_owned);
                rule.replace("--to-destination 10.244.1.11:", "--to-destination 10.244.1.99:")
            }
            _ => rule.to_owned(),
        };
        let line = format!("[{COUNTED}:{COUNTED}] -A {rule}");
        if table == "nat" && rule.starts_with("KUBE-SERVICES ") {
            services.push(line);
        } else {
            lines.push(line);
        }
    }
    let changed = changed.ok_or("no endpoint 10.244.1.11 among the rules")?;
    Ok((lines.join("\n") + "\n", changed.trim_start_matches("KUBE-").to_owned()))
}

const GONE: [&str; 4] = [
    ":KUBE-SVC-GONEGONEGONEGONE - [0:0]",
    ":KUBE-SEP-GONEGONEGONEGONE - [0:0]",
    "[9:9] -A KUBE-SEP-GONEGONEGONEGONE -p tcp -m tcp -j DNAT --to-destination 10.244.1.98:80",
    "[9:9] -A KUBE-SVC-GONEGONEGONEGONE -j KUBE-SEP-GONEGONEGONEGONE",
];
const GONE_RULE: &str = "[9:9] -A KUBE-SERVICES -d 10.96.99.99/32 -p tcp -m comment --comment \"default/gone cluster IP\" -m tcp --dport 80 -j KUBE-SVC-GONEGONEGONEGONE";

/// Another proxy's rules are taken over without a gap: what is right stays, counters and all, what is
/// not is put right, and what is of nobody goes. `PEER=/path` is that other proxy; without it our own
/// rules are made into what one would leave.
fn adopts(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    setting.start_proxy()?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    setting.stop_proxy(Signal::SIGTERM)?;
    let right = saved(&setting)?;
    let Some(peer) = std::env::var_os("PEER") else {
        let (other, changed) = of_another_time(&right)?;
        let said = take_over(&mut setting, &other)?;
        let verdict = compare((&right, &saved(&setting)?), Some(&changed));
        return told(&setting, verdict.map(|kept| format!("{kept}; {said}")));
    };
    let other = of_peer(bench, Path::new(&peer))?;
    let said = take_over(&mut setting, &counted(&other))?;
    let verdict = compare((&right, &saved(&setting)?), None);
    told(&setting, verdict.map(|kept| format!("{kept}; {said}")))
}

/// Every rule has counted.
fn counted(text: &str) -> String {
    let line = |line: &str| match line.split_once("] -A ") {
        Some((_, rule)) => format!("[{COUNTED}:{COUNTED}] -A {rule}\n"),
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// The rules that another kube-proxy makes of the examples.
fn of_peer(bench: &Bench, peer: &Path) -> Result<String, Stop> {
    let mut setting = bench.examples()?;
    let shared = Shared::new(Manners::default());
    shared.store.set_all(setting.manifests.objects())?;
    let server = ApiServer::start(listener(&setting, 6443)?, shared)?;
    let folder = setting.scratch.folder("tools")?;
    link_iptables(&folder, tool().trim_start_matches("iptables-"))?;
    let flags = ["--kube-api-content-type=application/json", "--conntrack-max-per-core=0"];
    let mut start = setting.start(&flags);
    start.input = Input::Server(server.url());
    start.binary = peer.to_owned();
    let path = std::env::var("PATH").unwrap_or_default();
    start_as(
        &mut setting,
        &["/usr/bin/env", &format!("PATH={}:{path}", folder.display())],
        &start,
    )?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    setting.stop_proxy(Signal::SIGKILL).ok();
    saved(&setting)
}

/// Starts on these rules while clients ask; how they fared.
fn take_over(setting: &mut Setting, other: &str) -> Result<String, Stop> {
    restore(setting, other)?;
    let pod = setting.lab.place("dns-1").ok_or("no dns-1")?.clone();
    let outside = setting.lab.outside.clone();
    // Services without the endpoint that is another in these rules.
    let solo = "10.96.0.21:80".parse().expect("well-formed");
    let dns = "10.96.0.53:53".parse().expect("well-formed");
    let talks = Talks::start(&pod, solo, 6)?;
    let pause = Duration::from_millis(1);
    let loads = [
        Load::start(&pod, Transport::Tcp, solo, pause),
        Load::start(&outside, Transport::Tcp, solo, pause),
        Load::start(&pod, Transport::Udp, dns, pause),
    ];
    setting.start_proxy()?;
    let up = eventually(|| (!said(setting).contains("] synced ")).then(|| "not up".to_owned()));
    std::thread::sleep(Duration::from_millis(300));
    let attempts: Vec<_> = loads.into_iter().flat_map(Load::stop).collect();
    up.and_then(|()| unharmed(&attempts, &talks.stop()))
}

/// Whether the rules are the right ones again, and which chains were left as they were: all but those
/// of an endpoint that changed and what leads to a Service that is gone, where that is known.
fn compare((right, now): (&str, &str), changed: Option<&str>) -> Result<String, Stop> {
    let (right, now) = (rules(right), rules(now));
    let differs = |name: &&str| right.get(name).map(|c| &c.0) != now.get(name).map(|c| &c.0);
    let wrong: Vec<&str> = right.keys().chain(now.keys()).copied().filter(|n| differs(n)).collect();
    if !wrong.is_empty() {
        return Err(format!("not as they should be: {wrong:?}").into());
    }
    let written: Vec<&str> = now
        .iter()
        .filter(|(_, (rules, kept))| *kept < rules.len())
        .map(|(name, _)| *name)
        .collect();
    if changed.is_some_and(|changed| written != [changed, "SERVICES"]) {
        return Err(format!("written though they were right, or not at all: {written:?}").into());
    }
    let lines: usize = now.values().map(|(rules, _)| rules.len()).sum();
    let kept: usize = now.values().map(|(_, kept)| kept).sum();
    Ok(format!("{kept} of {lines} rules left as they were, written anew {written:?}"))
}

/// Packets that are dropped for being invalid, and those to node ports at loopback addresses, are
/// counted, and the metrics say so.
fn counts(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    setting.start_proxy_with(&[&format!("--metrics-bind-address={METRICS}")])?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    if said(&setting).contains("no nfacct") {
        return Err(Stop::Unfit("this kernel has no nfacct".to_owned()));
    }
    let (invalid, localhost) = (
        "kubeproxy_iptables_ct_state_invalid_dropped_packets_total",
        "kubeproxy_iptables_localhost_nodeports_accepted_packets_total",
    );
    told(&setting, eventually(|| below(&setting, invalid, 0.0)).map(|()| String::new()))?;
    let none = below(&setting, invalid, 1.0).and_then(|_| below(&setting, localhost, 1.0));
    none.ok_or("packets are counted before there were any")?;
    setting.wait_for(&Probe::parse(
        "tcp from node to 127.0.0.1:30080 reaches web-1 web-2 web-3 as any",
    )?)?;
    told(&setting, eventually(|| below(&setting, localhost, 3.0)).map(|()| String::new()))?;
    // In the middle of a connection of which conntrack knows nothing any more.
    links::sysctl(&setting.lab.node, "net/netfilter/nf_conntrack_tcp_loose", "0")?;
    let pod = setting.lab.place("dns-1").ok_or("no dns-1")?.clone();
    let web = "10.244.1.11:8080".parse().expect("well-formed");
    let open = || Conversation::open(None, web, Duration::from_secs(1));
    let mut talk = pod.run(open).map_err(|outcome| format!("no talk to {web}: {outcome:?}"))?;
    talk.say("before")?;
    iptables(&setting, "conntrack", "-F")?;
    if talk.say("after").is_ok() {
        return Err("a connection that conntrack does not know went on".into());
    }
    let verdict = eventually(|| below(&setting, invalid, 1.0));
    told(&setting, verdict.map(|()| String::new()))
}

/// A folder with a tool in the place of `iptables-…-restore` that refuses everything for as long as
/// a file is there.
fn refusing(setting: &Setting) -> Result<(PathBuf, PathBuf), String> {
    let folder = setting.scratch.folder("tools")?;
    let (file, name) = (folder.join("refuse"), format!("{}-restore", tool()));
    let text = format!(
        "#!/bin/sh\nif [ -e {} ]; then cat > /dev/null; echo 'line 3 failed: refused' >&2; exit 1; fi\nexec /usr/sbin/{name} \"$@\"\n",
        file.display()
    );
    let script = folder.join(&name);
    let made = std::fs::write(&script, text).and_then(|()| {
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))
    });
    made.map_err(|e| format!("{}: {e}", script.display()))?;
    Ok((folder, file))
}

/// A sync that fails is said, counted and tried again, and flows to an endpoint that left meanwhile
/// are forgotten when it succeeds at last.
fn refused(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    let (folder, file) = refusing(&setting)?;
    let path = std::env::var("PATH").unwrap_or_default();
    start_through(&mut setting, &["/usr/bin/env", &format!("PATH={}:{path}", folder.display())])?;
    let dns = "udp from web-1 to 10.96.0.53:53 reaches dns-1 dns-2 as itself";
    setting.wait_for(&Probe::parse(dns)?)?;
    let from = setting.lab.place("web-1").ok_or("no web-1")?.clone();
    let bind = || std::net::UdpSocket::bind("0.0.0.0:0");
    let socket = from.run(bind).map_err(|e| format!("UDP socket: {e}"))?;
    socket.connect("10.96.0.53:53").map_err(|e| format!("UDP socket: {e}"))?;
    let ask = || {
        let (line, own) = ask_udp_again(&socket, Duration::from_secs(1)).ok()?;
        answer_of(&line, own).map(|answer| answer.pod)
    };
    let first = ask().ok_or("no answer to the first datagram")?;
    File::create(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    setting.edit("EndpointSlice", "dns-ipv4", |slice| {
        if let Some(endpoints) = slice["endpoints"].as_array_mut() {
            endpoints.retain(|e| e["targetRef"]["name"] != first.as_str());
        }
    })?;
    // What changed is refused, and then everything, since nobody knows what is there.
    let failures = ["partial_restore", "restore"].map(|what| {
        format!("kubeproxy_sync_proxy_rules_iptables_{what}_failures_total{{ip_family=\"IPv4\"}}")
    });
    let failed = eventually(|| {
        let uncounted = failures.iter().find_map(|name| below(&setting, name, 1.0));
        uncounted
            .or_else(|| {
                (!said(&setting).contains("line 3 failed: refused")).then(|| "unsaid".into())
            })
            .or_else(|| (ask() != Some(first.clone())).then(|| "the old rules are gone".into()))
    });
    told(&setting, failed.map(|()| String::new()))?;
    std::fs::remove_file(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    let moved = eventually(|| match ask() {
        Some(pod) if pod != first => None,
        other => Some(format!("{first} has left, and the flow still reaches {other:?}")),
    });
    told(&setting, moved.map(|()| String::new()))
}

/// The legacy flavour's tools take turns: who waits says for whom, and counts how long.
fn waits(bench: &Bench) -> Verdict {
    if tool() != "iptables-legacy" {
        return Err(Stop::Unfit("tools of the nf_tables flavour have no lock".to_owned()));
    }
    let mut setting = bench.examples()?;
    let path = setting.scratch.path().join("xtables.lock");
    start_through(
        &mut setting,
        &["/usr/bin/env", &format!("XTABLES_LOCKFILE={}", path.display())],
    )?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    let file = File::options().create(true).append(true).open(&path);
    let file = file.map_err(|e| format!("{}: {e}", path.display()))?;
    // The tool may have it at this moment.
    let held = Flock::lock(file, FlockArg::LockExclusive);
    let held = held.map_err(|(_, e)| format!("{}: {e}", path.display()))?;
    setting.edit("EndpointSlice", "web-ipv4", |slice| {
        if let Some(endpoints) = slice["endpoints"].as_array_mut() {
            endpoints.retain(|e| e["targetRef"]["name"] == "web-1");
        }
    })?;
    let holder = format!("holder=\"{} (", std::process::id());
    let waiting = eventually(|| (!said(&setting).contains(&holder)).then(|| "unsaid".to_owned()));
    std::thread::sleep(Duration::from_millis(700));
    drop(held);
    told(&setting, waiting.map(|()| String::new()))?;
    setting.wait_for(&Probe::parse("tcp from dns-1 to 10.96.0.10:80 reaches web-1 as itself")?)?;
    let waited = "kubeproxy_lock_wait_seconds_sum{lock=\"xtables\"}";
    told(&setting, eventually(|| below(&setting, waited, 0.7)).map(|()| String::new()))
}
