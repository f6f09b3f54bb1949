//! The API server as input, well and badly behaved. In each scenario a Service's endpoints change
//! while something is wrong; clients ask without pause. Two things must hold: in the end the
//! endpoints are exactly the desired ones, and meanwhile none was used that was neither desired
//! then nor since the last moment at which kube-proxy was known to be up to date.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Bench, Scenario, Stop, Verdict, eventually, scenario, told};
use crate::apiserver::faults::{Asked, Fault, Rule};
use crate::apiserver::store::Resource;
use crate::apiserver::{ApiServer, Manners, Shared};
use crate::client::Outcome;
use crate::load::{Attempt, Load, PATIENCE, ask};
use crate::manifests::Transport;
use crate::proxy::nft;
use crate::scale::endpoint;
use crate::setting::Setting;

/// Scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("api-starts-late", |bench| play(bench, &Manners::default(), starts_late)),
    scenario("api-restarts", |bench| play(bench, &Manners::default(), restarts)),
    scenario("api-drops-watches", |bench| play(bench, &Manners::default(), drops)),
    scenario("api-says-gone", |bench| play(bench, &Manners::default(), gone)),
    scenario("api-throttles", |bench| play(bench, &Manners::default(), throttles)),
    scenario("api-fails", |bench| play(bench, &Manners::default(), fails)),
    scenario("api-is-slow", |bench| play(bench, &Manners::default(), slow)),
    scenario("api-stalls", |bench| play(bench, &Manners::default(), stalls)),
    scenario("api-talks-garbage", |bench| play(bench, &Manners::default(), garbage)),
    scenario("api-truncates", |bench| play(bench, &Manners::default(), truncates)),
    scenario("api-relist-without-an-object", |bench| play(bench, &Manners::default(), vanished)),
    scenario("api-repeats-and-reorders", |bench| play(bench, &Manners::default(), repeats)),
    scenario("api-is-old", |bench| {
        let lacks = vec![Resource::ServiceCidrs];
        let old = Manners { streams_lists: false, protobuf: false, lacks, ..Manners::default() };
        play(bench, &old, drops)
    }),
    scenario("api-lists-in-pages", |bench| {
        let pages = Manners { streams_lists: false, ..Manners::default() };
        play(bench, &pages, repeats)
    }),
    scenario("api-speaks-json", |bench| {
        play(bench, &Manners { protobuf: false, ..Manners::default() }, repeats)
    }),
    scenario("api-lists-stale", |bench| play(bench, &Manners::default(), stale)),
    scenario("api-lists-stale-in-pages", |bench| {
        play(bench, &Manners { streams_lists: false, ..Manners::default() }, stale)
    }),
    scenario("api-never-ends-a-list", |bench| {
        play(bench, &Manners { ends_streams: false, ..Manners::default() }, repeats)
    }),
    scenario("api-talks-garbage-in-json", |bench| {
        play(bench, &Manners { protobuf: false, ..Manners::default() }, garbage)
    }),
    scenario("api-latency", |bench| play(bench, &Manners::default(), latency)),
];

/// The Service that is asked, and the pods that exist; which of them it has is what changes.
const TO: &str = "10.96.0.99:80";
const PODS: [(&str, &str, &str); 6] = [
    ("api-1", "10.244.1.101", "node-1"),
    ("api-2", "10.244.1.102", "node-1"),
    ("api-3", "10.244.2.103", "node-2"),
    ("api-4", "10.244.1.104", "node-1"),
    ("api-5", "10.244.2.105", "node-2"),
    ("api-6", "10.244.1.106", "node-1"),
];

/// A setting with an API server in the node's namespace, and a record of what was desired when.
struct Play {
    setting: Setting,
    shared: Arc<Shared>,
    server: Option<ApiServer>,
    url: String,
    /// Desired pods, each with when it began.
    desired: Vec<(Instant, BTreeSet<String>)>,
    /// Moments at which kube-proxy was seen to have reached a desired state.
    settled: Vec<(Instant, usize)>,
}

type Act = fn(&mut Play) -> Verdict;

/// Plays a scenario under load and judges it.
fn play(bench: &Bench, manners: &Manners, act: Act) -> Verdict {
    let mut play = Play::new(bench, manners)?;
    play.want(&["api-1", "api-2"])?;
    let from = play.setting.lab.outside.clone();
    let to = TO.parse().expect("well-formed");
    let load = Load::start(&from, Transport::Tcp, to, Duration::from_millis(3));
    let verdict = act(&mut play);
    let attempts = load.stop();
    let verdict = verdict.and_then(|remark| {
        play.judge(&attempts)?;
        Ok(remark)
    });
    let verdict = verdict.map_err(|stop| match stop {
        Stop::Failed(why) => Stop::Failed(format!("{why}\n{}", play.programmed())),
        skipped => skipped,
    });
    told(&play.setting, verdict)
}

impl Play {
    fn new(bench: &Bench, manners: &Manners) -> Result<Play, Stop> {
        let mut setting = bench.examples()?;
        let shared = Shared::new(manners.clone());
        shared.store.set_all(setting.manifests.objects())?;
        let all: Vec<Value> = PODS.iter().map(|(p, a, n)| endpoint(p, a, n)).collect();
        let pods = json!({"kind": "EndpointSlice", "ports": [{"port": 8080}], "endpoints": all});
        setting.lab.start_pods(&crate::manifests::pods_of([&pods]))?;
        shared.store.set(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "api"},
            "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.99", "clusterIPs": ["10.96.0.99"],
                "ports": [{"name": "http", "protocol": "TCP", "port": 80}]},
        }))?;
        let mut play = Play {
            setting,
            shared,
            server: None,
            url: String::new(),
            desired: Vec::new(),
            settled: Vec::new(),
        };
        play.serve()?;
        Ok(play)
    }

    /// What the kernel's table says of the Service, for a failure's report.
    fn programmed(&self) -> String {
        let listed = nft(&self.setting.lab, &["list", "table", "ip", "kube-proxy"]);
        let listed = listed.unwrap_or_else(|why| format!("nft: {why}"));
        let ours = listed
            .lines()
            .filter(|line| line.contains("default/api:") || line.contains("10.96.0.99"));
        ours.map(str::trim).collect::<Vec<_>>().join("\n")
    }

    /// Starts the server, always at the same address.
    fn serve(&mut self) -> Result<(), String> {
        let bind = || TcpListener::bind("127.0.0.1:6443");
        let listener = self.setting.lab.node.run(bind).map_err(|e| format!("API server: {e}"))?;
        let server = ApiServer::start(listener, self.shared.clone())?;
        self.url = server.url();
        self.server = Some(server);
        Ok(())
    }

    fn start_proxy(&mut self) -> Result<(), String> {
        let url = self.url.clone();
        self.setting.start_proxy_on(&url, &[])
    }

    /// Changes the Service's endpoints: each pod has a slice of its own, so that several objects
    /// change at once.
    fn want(&mut self, pods: &[&str]) -> Result<(), String> {
        // Noted before it is told: nobody can know of it earlier.
        let names = pods.iter().map(|p| (*p).to_owned()).collect();
        self.desired.push((Instant::now(), names));
        for (pod, address, node) in PODS {
            let name = format!("api-slice-{pod}");
            let known =
                self.shared.store.get(Resource::EndpointSlices, &("default".into(), name.clone()));
            match (pods.contains(&pod), known) {
                (true, None) => {
                    self.shared.store.set(&slice(&name, &endpoint(pod, address, node)))?;
                }
                (false, Some(_)) => {
                    self.shared.store.delete(Resource::EndpointSlices, "default", &name);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits until the pods reached are exactly the desired ones.
    fn settle(&mut self) -> Result<(), Stop> {
        let number = self.desired.len() - 1;
        let wanted = self.desired[number].1.clone();
        let place = self.setting.lab.place("dns-1").ok_or("no dns-1")?.clone();
        let to = TO.parse().expect("well-formed");
        let proxy = &mut self.setting.proxy;
        eventually(|| {
            let mut reached = BTreeSet::new();
            // Known from the middle on: what the first answers fit may be a step on the way, of more
            // pods than are wanted, and chance lets few questions miss the others, but not so many.
            let mut began = Instant::now();
            for question in 0..wanted.len() * 32 {
                if question == wanted.len() * 16 {
                    began = Instant::now();
                }
                match place.run(|| ask(Transport::Tcp, to, Duration::from_secs(1))) {
                    Outcome::Answered(answer) => reached.insert(answer.pod),
                    other => return Some(format!("{TO}: {other:?}")),
                };
            }
            let ended = proxy.as_mut().and_then(|p| p.process.ended());
            match ended {
                Some(status) => Some(format!("kube-proxy ended: {status}")),
                None if reached == wanted => {
                    self.settled.push((began, number));
                    None
                }
                None => Some(format!("{TO} reaches {reached:?}, desired {wanted:?}")),
            }
        })
    }

    /// Whether any attempt used an endpoint that it must not have used.
    fn judge(&self, attempts: &[Attempt]) -> Result<(), Stop> {
        for attempt in attempts {
            let Outcome::Answered(answer) = &attempt.outcome else { continue };
            let known = self.settled.iter().filter(|(at, _)| *at <= attempt.began);
            let first = known.map(|(_, number)| *number).max().unwrap_or(0);
            let allowed = self.desired[first..].iter().filter(|(at, _)| *at <= attempt.ended);
            if !allowed.clone().any(|(_, pods)| pods.contains(&answer.pod)) {
                let sets: Vec<_> = allowed.map(|(_, pods)| pods).collect();
                return Err(format!("{} was used when allowed were {sets:?}", answer.pod).into());
            }
        }
        Ok(())
    }
}

fn slice(name: &str, endpoint: &Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default",
            "labels": {"kubernetes.io/service-name": "api"}},
        "addressType": "IPv4", "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": [endpoint],
    })
}

/// Begins well: kube-proxy runs and is up to date.
fn begin(play: &mut Play) -> Result<(), Stop> {
    play.start_proxy()?;
    play.settle()
}

fn starts_late(play: &mut Play) -> Verdict {
    play.server = None;
    play.start_proxy()?;
    std::thread::sleep(Duration::from_millis(1500));
    if let Some(status) = play.setting.proxy.as_mut().and_then(|p| p.process.ended()) {
        return Err(format!("without a server it ended: {status}").into());
    }
    play.serve()?;
    play.settle()?;
    Ok(String::new())
}

fn restarts(play: &mut Play) -> Verdict {
    begin(play)?;
    let sets: [&[&str]; 3] = [&["api-2", "api-3"], &["api-4"], &["api-4", "api-5", "api-6"]];
    for pods in sets {
        play.server = None;
        std::thread::sleep(Duration::from_millis(300));
        // What changes while the server is away is in no watch.
        play.want(pods)?;
        play.shared.store.compact();
        play.serve()?;
        play.settle()?;
    }
    Ok(String::new())
}

fn drops(play: &mut Play) -> Verdict {
    begin(play)?;
    for (number, pods) in
        [&["api-2", "api-3"][..], &["api-1"], &["api-5", "api-6"]].iter().enumerate()
    {
        play.shared.faults.order(|o| o.cut += 1);
        if number == 1 {
            play.shared.faults.spoil_next(6, Fault::Drop);
        }
        play.want(pods)?;
        play.settle()?;
    }
    Ok(String::new())
}

fn gone(play: &mut Play) -> Verdict {
    begin(play)?;
    for pods in [&["api-3"][..], &["api-1", "api-4"]] {
        play.shared.faults.order(|o| o.stalled = true);
        play.want(pods)?;
        play.shared.store.compact();
        play.shared.faults.order(|o| o.gone += 1);
        play.shared.faults.order(|o| o.stalled = false);
        play.settle()?;
    }
    Ok(String::new())
}

fn throttles(play: &mut Play) -> Verdict {
    play.shared.faults.spoil_next(4, Fault::Status(429, Some(1)));
    begin(play)?;
    play.shared.faults.spoil_next(4, Fault::Status(429, Some(1)));
    play.shared.faults.order(|o| o.cut += 1);
    play.want(&["api-3", "api-4"])?;
    play.settle()?;
    Ok(String::new())
}

fn fails(play: &mut Play) -> Verdict {
    play.shared.faults.spoil_next(3, Fault::Status(500, None));
    play.shared.faults.spoil_next(3, Fault::Status(503, Some(1)));
    begin(play)?;
    play.shared.faults.spoil_next(3, Fault::Status(500, None));
    play.shared.faults.order(|o| o.cut += 1);
    play.want(&["api-5"])?;
    play.settle()?;
    Ok(String::new())
}

fn slow(play: &mut Play) -> Verdict {
    play.shared.faults.spoil_next(8, Fault::Slow(Duration::from_millis(1500)));
    begin(play)?;
    play.shared.faults.spoil_next(8, Fault::Slow(Duration::from_millis(1500)));
    play.shared.faults.order(|o| o.cut += 1);
    play.want(&["api-3", "api-6"])?;
    play.settle()?;
    Ok(String::new())
}

fn stalls(play: &mut Play) -> Verdict {
    begin(play)?;
    play.shared.faults.order(|o| o.stalled = true);
    play.want(&["api-2", "api-3"])?;
    play.want(&["api-3", "api-4"])?;
    std::thread::sleep(Duration::from_secs(2));
    play.shared.faults.order(|o| o.stalled = false);
    play.settle()?;
    Ok(String::new())
}

fn garbage(play: &mut Play) -> Verdict {
    play.shared.faults.spoil_next(3, Fault::Garbage);
    begin(play)?;
    play.shared.faults.spoil_next(4, Fault::Garbage);
    play.shared.faults.order(|o| o.garbage += 1);
    play.want(&["api-3"])?;
    play.settle()?;
    play.shared.faults.order(|o| o.cut += 1);
    play.want(&["api-3", "api-4"])?;
    play.settle()?;
    Ok(String::new())
}

fn truncates(play: &mut Play) -> Verdict {
    play.shared.faults.spoil_next(5, Fault::Truncate);
    begin(play)?;
    play.shared.faults.spoil_next(5, Fault::Truncate);
    play.shared.faults.order(|o| o.cut += 1);
    play.want(&["api-1", "api-6"])?;
    play.settle()?;
    Ok(String::new())
}

fn vanished(play: &mut Play) -> Verdict {
    play.want(&["api-1", "api-2", "api-3"])?;
    begin(play)?;
    play.desired.push((Instant::now(), ["api-1", "api-3"].map(str::to_owned).into()));
    if !play.shared.store.vanish(Resource::EndpointSlices, "default", "api-slice-api-2") {
        return Err("the slice to vanish was not there".into());
    }
    play.shared.store.compact();
    play.shared.faults.order(|o| o.gone += 1);
    play.settle()?;
    Ok(String::new())
}

fn repeats(play: &mut Play) -> Verdict {
    play.shared.faults.order(|o| {
        o.duplicate = true;
        o.reorder = true;
    });
    begin(play)?;
    for round in 0..6 {
        // Stalled, the changes pile up and are told in reverse all at once.
        play.shared.faults.order(|o| o.stalled = true);
        play.want(&["api-4", "api-5", "api-6"])?;
        play.want(&["api-1"])?;
        let last: &[&str] = if round % 2 == 0 { &["api-2", "api-3"] } else { &["api-1", "api-5"] };
        play.want(last)?;
        play.shared.faults.order(|o| o.stalled = false);
        play.settle()?;
    }
    Ok(String::new())
}

/// After a 410 the new list is older than what was known; the watch that follows it catches up.
fn stale(play: &mut Play) -> Verdict {
    begin(play)?;
    play.shared.remember();
    play.want(&["api-3", "api-4"])?;
    play.settle()?;
    let asked = if play.shared.manners.streams_lists { Asked::Watch } else { Asked::List };
    let fault = Fault::Stale;
    play.shared.faults.spoil(Rule { asked: Some(asked), resource: None, fault, times: 4 });
    play.shared.faults.order(|o| o.gone += 1);
    // Going back is what a stale list asks for: the old set counts as desired once more.
    let old = play.desired[0].1.clone();
    let new = play.desired[1].1.clone();
    play.desired.push((Instant::now(), old));
    // Each resource is listed anew in its own time; one that has not been yet would go back later.
    let faults = &play.shared.faults;
    eventually(|| faults.pending().then(|| "stale lists are left".to_owned()))?;
    // The last of them is in the rules after `minSyncPeriod`, one second, at the latest.
    std::thread::sleep(Duration::from_secs(2));
    play.desired.push((Instant::now(), new));
    play.settle()?;
    play.want(&["api-6"])?;
    play.settle()?;
    Ok(String::new())
}

/// From the API event to the first client that sees it; measured, not asserted. One slice changes
/// its endpoint, so that the change is one event.
fn latency(play: &mut Play) -> Verdict {
    begin(play)?;
    // Never without an endpoint: refusals are ICMP errors, which Linux sends sparingly, and a SYN
    // without an answer waits a second.
    let (pod, address, node) = PODS[3];
    play.desired.push((Instant::now(), BTreeSet::from([pod.to_owned()])));
    play.shared.store.set(&slice("api-slice-flip", &endpoint(pod, address, node)))?;
    play.want(&[])?;
    play.desired.push((Instant::now(), BTreeSet::from([pod.to_owned()])));
    play.settle()?;
    std::thread::sleep(Duration::from_secs(2));
    let from = play.setting.lab.place("dns-1").ok_or("no dns-1")?.clone();
    let to = TO.parse().expect("well-formed");
    let mut times = Vec::new();
    for round in 0..30 {
        // Long enough for every minimum period to be over: a first change is not to be delayed.
        std::thread::sleep(Duration::from_millis(1200));
        let (pod, address, node) = PODS[2 + round % 2];
        let began = Instant::now();
        play.desired.push((began, BTreeSet::from([pod.to_owned()])));
        play.shared.store.set(&slice("api-slice-flip", &endpoint(pod, address, node)))?;
        let seen = from.run(|| {
            while began.elapsed() < crate::setting::DEADLINE {
                match ask(Transport::Tcp, to, PATIENCE) {
                    Outcome::Answered(answer) if answer.pod == pod => return Some(began.elapsed()),
                    _ => {}
                }
            }
            None
        });
        times.push(seen.ok_or(format!("{pod} was never seen"))?);
        play.settled.push((Instant::now(), play.desired.len() - 1));
    }
    times.sort();
    let milliseconds = |at: usize| times[at].as_secs_f64() * 1000.0;
    Ok(format!(
        "API event to client, {} times: p50 {:.1} ms, p90 {:.1} ms, worst {:.1} ms",
        times.len(),
        milliseconds(times.len() / 2),
        milliseconds(times.len() * 9 / 10),
        milliseconds(times.len() - 1)
    ))
}
