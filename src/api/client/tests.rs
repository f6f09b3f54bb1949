//! The whole way from a server's bytes to Events, over real sockets on this host.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};

use super::fake::{Asked, Fake, Reply, Step};
use super::*;
use crate::api::pace::Pace;
use crate::model::NamespacedName;

const UNHINDERED: Pace = Pace { qps: -1.0, burst: 0 };

fn patience() -> Patience {
    Patience {
        answer: Duration::from_secs(2),
        list_silence: Duration::from_millis(500),
        watch_silence: Duration::from_millis(500),
        watch_time: Duration::from_secs(5),
        watch_proof: Duration::from_millis(20),
        absent_pause: Duration::from_millis(300),
        stream_lists: true,
    }
}

fn service(name: &str, ip: &str, version: u32) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "ns", "resourceVersion": version.to_string()},
        "spec": {"clusterIP": ip, "ports": [{"port": 80}]},
    })
}

fn list(version: u32, token: &str, items: &[Value]) -> String {
    json!({
        "kind": "ServiceList", "apiVersion": "v1",
        "metadata": {"resourceVersion": version.to_string(), "continue": token}, "items": items,
    })
    .to_string()
}

fn line(change: &str, object: Value) -> Step {
    Step::Say(format!("{}\n", json!({"type": change, "object": object})))
}

fn bookmark(version: u32) -> Step {
    line("BOOKMARK", json!({"metadata": {"resourceVersion": version.to_string()}}))
}

/// A watch of these steps that then stands still.
fn standing(mut steps: Vec<Step>) -> Reply {
    steps.push(Step::Hang);
    Reply(200, "", steps)
}

/// What a listener makes of the Events.
#[derive(Default)]
struct Known {
    services: BTreeMap<String, String>,
    untold: BTreeSet<String>,
    lists: usize,
    ended: BTreeSet<Kind>,
    log: Vec<String>,
}

impl Known {
    fn hear(&mut self, event: Event) {
        match event {
            Event::Service(s) => {
                let name = s.name.name.to_string();
                self.untold.remove(&name);
                self.log.push(format!("{name}={}", s.cluster_ips[0]));
                self.services.insert(name, s.cluster_ips[0].to_string());
            }
            Event::ServiceGone(NamespacedName { name, .. }) => {
                self.log.push(format!("{name} gone"));
                self.services.remove(&*name);
            }
            Event::ListStarted(Kind::Service) => {
                self.untold = self.services.keys().cloned().collect();
            }
            Event::ListEnded(Kind::Service) => {
                self.lists += 1;
                self.ended.insert(Kind::Service);
                for name in std::mem::take(&mut self.untold) {
                    self.log.push(format!("{name} gone"));
                    self.services.remove(&name);
                }
            }
            Event::ListEnded(kind) => drop(self.ended.insert(kind)),
            _ => {}
        }
    }

    fn text(&self) -> String {
        self.services.iter().map(|(name, ip)| format!("{name}={ip} ")).collect()
    }
}

/// A server, the watches of it, and what came of them.
struct Live {
    fake: Fake,
    events: mpsc::Receiver<Event>,
    known: Known,
    watches: Watches,
}

/// A script for Services only: the other kinds are empty and stand still.
fn services_only(
    script: impl Fn(usize, &str) -> Reply + Send + Sync + 'static,
) -> impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static {
    let count = std::sync::atomic::AtomicUsize::new(0);
    move |_, asked| {
        if asked.0.contains("/api/v1/services") {
            return script(count.fetch_add(1, Ordering::SeqCst), &asked.0);
        }
        if asked.0.contains("watch=true") {
            standing(vec![])
        } else {
            Reply::text(list(1, "", &[]))
        }
    }
}

impl Live {
    async fn start(script: impl Fn(usize, &str) -> Reply + Send + Sync + 'static) -> Live {
        Live::of(Fake::start(services_only(script)).await).await
    }

    async fn of(fake: Fake) -> Live {
        let server = Server {
            kubeconfig: None,
            master: Some(fake.url()),
            pace: UNHINDERED,
            ..Server::default()
        };
        let connection = connect(&server).await.unwrap();
        let (sender, events) = mpsc::channel(4);
        let watches = Watches::start(&connection, "node/1", &sender, &patience());
        Live { fake, events, known: Known::default(), watches }
    }

    async fn until(&mut self, holds: impl Fn(&Known) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while !holds(&self.known) {
            match tokio::time::timeout_at(deadline, self.events.recv()).await {
                Ok(Some(event)) => self.known.hear(event),
                other => panic!(
                    "{other:?}: {} {:?} {:#?}",
                    self.known.text(),
                    self.known.log,
                    self.fake.asked("services")
                ),
            }
        }
    }

    async fn services(&mut self, want: &str) {
        self.until(|known| known.text() == want && known.lists > 0).await;
    }

    /// Waits for requests rather than Events.
    async fn asked(&mut self, part: &str, times: usize) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.fake.asked(part).len() < times {
            assert!(Instant::now() < deadline, "{:#?}", self.fake.asked(""));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn pages_then_changes() {
    let mut live = Live::start(|n, _| match n {
        0 => Reply::text(list(5, "next/page", &[service("a", "10.0.0.1", 1)])),
        1 => Reply::text(list(5, "", &[service("b", "10.0.0.2", 2), service("c", "10.0.0.3", 3)])),
        2 => Reply(
            200,
            "",
            vec![
                line("ADDED", service("d", "10.0.0.4", 6)),
                line("MODIFIED", service("a", "10.0.0.9", 7)),
                Step::Pause(Duration::from_millis(50)),
                line("DELETED", service("b", "10.0.0.2", 8)),
                bookmark(12),
            ],
        ),
        _ => standing(vec![]),
    })
    .await;
    live.services("a=10.0.0.9 c=10.0.0.3 d=10.0.0.4 ").await;
    live.asked("watch=true&allowWatchBookmarks=true", 5).await;
    let asked = live.fake.asked("/api/v1/services");
    let path = "GET /api/v1/services?labelSelector=%21service.kubernetes.io%2Fheadless%2C%21service.kubernetes.io%2Fservice-proxy-name";
    assert_eq!(asked[0], format!("{path}&limit=500"));
    assert_eq!(asked[1], format!("{path}&limit=500&continue=next%2Fpage"));
    assert!(
        asked[2].starts_with(&format!("{path}&watch=true"))
            && asked[2].ends_with("resourceVersion=5")
    );
    assert!(asked[3].ends_with("resourceVersion=12"), "{asked:#?}");
    assert!(live.fake.asked("/api/v1/nodes")[0].contains("fieldSelector=metadata.name%3Dnode%2F1"));
    let slices = live.fake.asked("endpointslices");
    assert!(slices[0].contains("/apis/discovery.k8s.io/v1/endpointslices?labelSelector=%21service.kubernetes.io%2Fheadless&limit"));
    live.until(|known| known.ended.len() == 4).await;
    for (_, state) in live.watches.states() {
        assert!(state.synced() && state.last_contact().is_some());
        assert_eq!((state.lists(), state.failures()), (1, 0));
    }
}

#[tokio::test]
async fn what_expired_is_listed_anew_and_what_vanished_is_gone() {
    let status = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"});
    for as_event in [true, false] {
        let status = status.clone();
        let mut live = Live::start(move |n, _| match n {
            0 => Reply::text(list(
                5,
                "",
                &[service("a", "10.0.0.1", 1), service("b", "10.0.0.2", 2)],
            )),
            1 if as_event => Reply(200, "", vec![line("ERROR", status.clone())]),
            1 => Reply(410, "", vec![Step::Say(status.to_string())]),
            2 => Reply::text(list(
                9,
                "",
                &[service("b", "10.0.0.2", 2), service("c", "10.0.0.3", 8)],
            )),
            _ => standing(vec![]),
        })
        .await;
        live.until(|known| known.lists == 2).await;
        assert_eq!(live.known.text(), "b=10.0.0.2 c=10.0.0.3 ");
        let gone: Vec<_> = live.known.log.iter().filter(|l| l.ends_with("gone")).collect();
        assert_eq!(gone, ["a gone"]);
    }
}

#[tokio::test]
async fn a_server_set_back_is_listed_anew() {
    let mut live = Live::start(|n, _| match n {
        0 => Reply::text(list(50, "", &[service("a", "10.0.0.1", 49)])),
        1 => standing(vec![bookmark(7)]),
        2 => Reply::text(list(7, "", &[service("b", "10.0.0.2", 6)])),
        _ => standing(vec![]),
    })
    .await;
    live.services("b=10.0.0.2 ").await;
}

#[tokio::test]
async fn a_watch_broken_off_goes_on_where_it_was() {
    let mut live = Live::start(|n, _| match n {
        0 => Reply::text(list(5, "", &[])),
        1 => Reply(
            200,
            "",
            vec![
                line("ADDED", service("a", "10.0.0.1", 6)),
                Step::Say(
                    json!({"type": "ADDED", "object": service("b", "10.0.0.2", 7)}).to_string(),
                ),
                Step::Cut,
            ],
        ),
        2 => Reply(
            200,
            "",
            vec![
                line("ADDED", service("b", "10.0.0.3", 7)),
                Step::Say("{\"type\":\"DELE".into()),
                Step::Cut,
            ],
        ),
        _ => standing(vec![line("ADDED", service("c", "10.0.0.4", 9))]),
    })
    .await;
    live.services("a=10.0.0.1 b=10.0.0.3 c=10.0.0.4 ").await;
    assert_eq!(live.known.log, ["a=10.0.0.1", "b=10.0.0.3", "c=10.0.0.4"]);
    let asked = live.fake.asked("/api/v1/services");
    assert!(asked[2].ends_with("resourceVersion=6") && asked[3].ends_with("resourceVersion=7"));
    assert_eq!(live.known.lists, 1);
}

#[tokio::test]
async fn a_page_broken_off_is_asked_for_again() {
    let first = list(5, "next", &[service("a", "10.0.0.1", 1)]);
    let second = list(5, "", &[service("b", "10.0.0.2", 2), service("c", "10.0.0.3", 3)]);
    let mut live = Live::start(move |n, _| match n {
        0 => Reply::text(first.clone()),
        1 => Reply(200, "", vec![Step::Say(second[..second.len() / 2].into()), Step::Cut]),
        2 => Reply(200, "", vec![Step::Say(second[..second.len() / 2].into()), Step::Hang]),
        3 => Reply(503, "", vec![]),
        4 => Reply::text(second.clone()),
        _ => standing(vec![]),
    })
    .await;
    live.services("a=10.0.0.1 b=10.0.0.2 c=10.0.0.3 ").await;
    assert_eq!((live.known.lists, live.fake.asked("continue=next").len()), (1, 4));
}

#[tokio::test]
async fn a_token_that_expires_restarts_the_list() {
    let mut live = Live::start(|n, _| match n {
        0 | 2 => Reply::text(list(5, "next", &[service("a", "10.0.0.1", 1)])),
        1 | 3 => Reply(410, "", vec![]),
        4 => Reply::text(list(7, "", &[service("b", "10.0.0.2", 2)])),
        _ => standing(vec![]),
    })
    .await;
    live.services("b=10.0.0.2 ").await;
    let asked = live.fake.asked("/api/v1/services");
    assert!(!asked[4].contains("limit") && !asked[4].contains("continue"), "{asked:#?}");
}

#[tokio::test]
async fn a_throttling_server_is_given_its_time() {
    let mut live = Live::start(|n, _| match n {
        0 => Reply(429, "Retry-After: 1", vec![]),
        1 => Reply::text(list(5, "", &[])),
        2 => Reply(
            429,
            "",
            vec![Step::Say(
                json!({"kind": "Status", "details": {"retryAfterSeconds": 1}}).to_string(),
            )],
        ),
        _ => standing(vec![line("ADDED", service("a", "10.0.0.1", 6))]),
    })
    .await;
    let began = Instant::now();
    live.services("a=10.0.0.1 ").await;
    assert!(began.elapsed() >= Duration::from_millis(1900), "{:?}", began.elapsed());
    assert_eq!(live.known.lists, 1);
}

#[tokio::test]
async fn garbage_leads_to_a_new_list() {
    let all = ["no json\n", "{\"type\":\"ODD\",\"object\":{}}\n", "{}\n", "[]\n", "\u{0}\n"];
    let tests = all.map(|nonsense| tokio::spawn(garbage(nonsense)));
    for test in tests {
        test.await.unwrap();
    }
}

async fn garbage(nonsense: &'static str) {
    let mut live = Live::start(move |n, _| match n {
        0 => Reply::text("<html>a gateway"),
        1 => {
            let list = list(5, "", &[service("a", "10.0.0.1", 1)]);
            Reply::text(list.replace("resourceVersion", "x"))
        }
        2 => Reply::text(list(5, "", &[service("a", "10.0.0.1", 1)])),
        3 => {
            let added = line("ADDED", service("b", "10.0.0.2", 6));
            Reply(200, "", vec![added, Step::Say(nonsense.into())])
        }
        4 => Reply::text(list(9, "", &[service("b", "10.0.0.3", 8)])),
        _ => standing(vec![]),
    })
    .await;
    live.services("b=10.0.0.3 ").await;
    assert!(live.watches.states()[0].1.failures() >= 3);
}

#[tokio::test]
async fn a_half_open_connection_is_given_up() {
    let mut live = Live::start(|n, _| match n {
        0 => Reply::text(list(5, "", &[])),
        1 => standing(vec![bookmark(6)]),
        _ => standing(vec![line("ADDED", service("a", "10.0.0.1", 7))]),
    })
    .await;
    live.services("a=10.0.0.1 ").await;
    assert!(live.fake.asked("/api/v1/services")[2].ends_with("resourceVersion=6"));
}

#[tokio::test]
async fn a_slow_server_is_waited_for() {
    let mut live = Live::start(|n, _| match n {
        0 => {
            let text = list(5, "", &[service("a", "10.0.0.1", 1)]);
            let drops = text.as_bytes().chunks(20).map(|c| String::from_utf8(c.to_vec()).unwrap());
            let steps =
                drops.flat_map(|drop| [Step::Say(drop), Step::Pause(Duration::from_millis(60))]);
            Reply(200, "", steps.collect())
        }
        _ => standing(vec![]),
    })
    .await;
    live.services("a=10.0.0.1 ").await;
    assert_eq!(live.fake.asked("limit=500").iter().filter(|p| p.contains("/services")).count(), 1);
}

#[tokio::test]
async fn a_restarted_server_is_found_again() {
    let mut live = Live::start(|n, _| match n {
        0 => Reply::text(list(5, "", &[service("a", "10.0.0.1", 1)])),
        _ => standing(vec![]),
    })
    .await;
    live.services("a=10.0.0.1 ").await;
    live.asked("watch=true", 4).await;
    let address = live.fake.address;
    drop(std::mem::replace(&mut live.fake, Fake::start(|_, _| Reply(500, "", vec![])).await));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let again = services_only(|n, asked| match n {
        _ if !asked.contains("watch=true") => Reply(500, "", vec![]),
        0 => standing(vec![line("MODIFIED", service("a", "10.0.0.2", 6))]),
        _ => standing(vec![]),
    });
    live.fake = Fake::start_at(address, again).await;
    let began = Instant::now();
    live.services("a=10.0.0.2 ").await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(live.known.lists, 1);
}

#[tokio::test]
async fn an_absent_api_counts_as_empty() {
    for code in [403, 404] {
        let fake = Fake::start(move |_, asked| match asked.0.contains("servicecidrs") {
            true => Reply(code, "", vec![Step::Say("{}".into())]),
            false if asked.0.contains("watch=true") => standing(vec![]),
            false => Reply::text(list(1, "", &[])),
        });
        let mut live = Live::of(fake.await).await;
        live.until(|known| known.ended.len() == 4).await;
        live.asked("servicecidrs", 2).await;
    }
}

#[tokio::test]
async fn pods_are_listed_or_it_is_said_why_not() {
    let pod = json!({
        "metadata": {"name": "web-1", "namespace": "default"}, "status": {"podIP": "10.244.1.11"},
    });
    let list = json!({"kind": "PodList", "apiVersion": "v1", "items": [pod]}).to_string();
    let asked = async |status: u16, text: String| {
        let script = move |_: usize, asked: &Asked| match asked.2.as_str() {
            "application/json" => Reply(status, "", vec![Step::Say(text.clone())]),
            // As a real server, which has protobuf and prefers what comes first.
            _ => Reply::text("k8s\0 and what is no JSON"),
        };
        let fake = Fake::start(script).await;
        let server = Server { master: Some(fake.url()), pace: UNHINDERED, ..Server::default() };
        connect(&server).await.unwrap().pods().await
    };
    let pods = asked(200, list.clone()).await.unwrap();
    assert_eq!(pods[0].name, NamespacedName::new("default", "web-1"));
    let why = asked(403, String::new()).await.unwrap_err().to_string();
    assert!(why.contains("403"), "{why}");
    let why = asked(200, list[..list.len() / 2].to_owned()).await.unwrap_err().to_string();
    assert!(why.contains("its list of pods is no JSON"), "{why}");
}

#[tokio::test]
async fn other_kinds_without_rights_are_waited_for() {
    let mut live = Live::start(|n, _| match n {
        0 => Reply(403, "", vec![]),
        1 => Reply(401, "", vec![]),
        2 => Reply::text(list(5, "", &[service("a", "10.0.0.1", 1)])),
        _ => standing(vec![]),
    })
    .await;
    live.services("a=10.0.0.1 ").await;
}

#[tokio::test]
async fn it_ends_when_nobody_listens() {
    let live = Live::start(|_, _| Reply(200, "", vec![Step::Hang])).await;
    let Live { events, mut watches, fake: _fake, .. } = live;
    drop(events);
    for task in std::mem::take(&mut watches.tasks) {
        tokio::time::timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
    }
}

async fn refusal(kubeconfig: Option<&str>, master: Option<&str>) -> String {
    let path = std::env::temp_dir().join(format!(
        "kp-kubeconfig-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    if let Some(text) = kubeconfig {
        std::fs::write(&path, text).unwrap();
    }
    let server = Server {
        kubeconfig: kubeconfig.map(|_| path.clone()),
        master: master.map(str::to_owned),
        pace: UNHINDERED,
        ..Server::default()
    };
    let connected = connect(&server).await;
    let _ = std::fs::remove_file(&path);
    let text = match connected {
        Err(error) => error.to_string(),
        Ok(connection) => match connection.check(Duration::from_secs(3)).await {
            Err(error) => format!("final={}: {error}", error.is_final()),
            Ok(()) => "connected".into(),
        },
    };
    assert!(!text.contains('\n'), "{text:?}");
    text
}

#[tokio::test]
async fn half_a_character_of_utf_16_is_refused() {
    let path = std::env::temp_dir().join(format!("kp-kubeconfig-half-{}", std::process::id()));
    for bad in [&b"\xff\xfea"[..], b"\xfe\xffabc"] {
        std::fs::write(&path, bad).unwrap();
        let server = Server { kubeconfig: Some(path.clone()), ..Server::default() };
        let text = connect(&server).await.unwrap_err().to_string();
        assert!(text.ends_with("at its end; it must be a kubeconfig in YAML or JSON"), "{text}");
    }
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn refusals_say_what_where_and_what_to_do() {
    let missing =
        Server { kubeconfig: Some("/nonexistent/kubeconfig".into()), ..Server::default() };
    let text = connect(&missing).await.unwrap_err().to_string();
    assert_eq!(
        text,
        "--kubeconfig /nonexistent/kubeconfig: No such file or directory (os error 2); check the path and its permissions"
    );
    for bad in [
        "",
        "{",
        "a: [",
        "kind: Config\nclusters: 7\n",
        "\u{1}",
        "kind: Config\ncurrent-context: x\n",
    ] {
        let text = refusal(Some(bad), None).await;
        assert!(text.starts_with("--kubeconfig /") && text.contains("; "), "{bad:?}: {text}");
    }
    for bad in ["::", "ftp://x", "", "http://", "a b"] {
        let text = refusal(None, Some(bad)).await;
        assert!(text.starts_with("--master ") && text.contains("give it as"), "{text}");
    }
    let text = refusal(None, None).await;
    assert!(text.contains("no --kubeconfig and no --master, and not in a pod"), "{text}");

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = refusal(None, Some(&format!("http://{free}"))).await;
    assert!(
        text.starts_with("final=false: API server http://127.0.0.1:")
            && text.contains("connection refused"),
        "{text}"
    );

    let fake = Fake::start(|_, _| Reply(401, "", vec![])).await;
    let text = refusal(None, Some(&fake.url())).await;
    assert!(
        text.starts_with("final=true: API server http")
            && text.contains("401 Unauthorized; give valid"),
        "{text}"
    );
    let text = refusal(None, Some(&fake.url().replace("http:", "https:"))).await;
    assert!(text.starts_with("final=true: ") && text.contains("TLS failed"), "{text}");
}

#[tokio::test]
async fn a_kubeconfig_leads_to_its_server() {
    let fake = Fake::start(|_, _| Reply(200, "", vec![Step::Say("{}".into())])).await;
    let kubeconfig = |server: &str| {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\ncontexts: [{{name: x, context: {{cluster: c, user: u}}}}]\nclusters: [{{name: c, cluster: {{server: \"{server}\"}}}}]\nusers: [{{name: u, user: {{token: t}}}}]\n"
        )
    };
    assert_eq!(refusal(Some(&kubeconfig(&fake.url())), None).await, "connected");
    let elsewhere = kubeconfig("http://127.0.0.1:1");
    assert_eq!(refusal(Some(&elsewhere), Some(&fake.url())).await, "connected");
    let text = refusal(Some(&kubeconfig("nowhere at all")), None).await;
    assert!(text.starts_with("--kubeconfig "), "{text}");
}

#[tokio::test]
async fn a_password_in_an_address_is_used_and_never_shown() {
    let fake = Fake::start(|_, _| Reply(401, "", vec![])).await;
    let host = fake.address;
    let master = format!("http://us%65r:p%40ss+1@{host}");
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let server = Server { master: Some(master.clone()), pace: UNHINDERED, ..Server::default() };
    let auth = access::load(&server).await.unwrap().config.auth_info;
    assert_eq!(auth.username.as_deref(), Some("user"));
    let connection = connect(&server).await.unwrap();
    let hosts = told.clone();
    let connection = connection.telling(Arc::new(move |requested: &Requested<'_>| {
        hosts.lock().unwrap().push(requested.host.to_owned());
    }));
    let error = connection.check(Duration::from_secs(3)).await.unwrap_err().to_string();
    let shown = [connection.url().to_owned(), format!("{connection:?}"), error];
    assert!(shown.iter().all(|text| text.contains(&host.to_string())), "{shown:?}");
    assert!(shown.iter().all(|text| !text.contains("ss+1")), "{shown:?}");
    assert_eq!(*told.lock().unwrap(), [host.to_string()]);

    let text = refusal(None, Some("ftp://user:secret@h")).await;
    assert!(text.starts_with("--master \"ftp://***@h\": "), "{text}");
    let kubeconfig = |server: &str, proxy: &str| {
        format!(
            "kind: Config\ncurrent-context: x\ncontexts: [{{name: x, context: {{cluster: c, user: u}}}}]\nclusters: [{{name: c, cluster: {{server: \"{server}\", proxy-url: \"{proxy}\"}}}}]\nusers: [{{name: u, user: {{token: t}}}}]\n"
        )
    };
    for (proxy, told) in
        [("http://user:secret@a b", "proxy url"), ("gopher://user:secret@127.0.0.1:1", "***@")]
    {
        let text = refusal(Some(&kubeconfig("http://127.0.0.1:1", proxy)), None).await;
        assert!(text.contains(told) && !text.contains("secret"), "{text}");
    }
    // Credentials that are there come first.
    let path = std::env::temp_dir().join(format!("kp-kubeconfig-user-{}", std::process::id()));
    std::fs::write(&path, kubeconfig("http://user:secret@127.0.0.1:1", "")).unwrap();
    let server = Server { kubeconfig: Some(path.clone()), ..Server::default() };
    let config = access::load(&server).await.unwrap().config;
    std::fs::remove_file(&path).unwrap();
    assert_eq!(config.cluster_url.to_string(), "http://127.0.0.1:1/");
    assert!(config.auth_info.username.is_none() && config.auth_info.token.is_some());
}

#[test]
fn the_environment_names_proxies_by_gos_variables_only() {
    let proxy = |url: &str, variables: &[(&str, &str)]| {
        let of = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        access::proxy_of_environment(&url.parse().unwrap(), of).map(|uri| uri.to_string())
    };
    let (secure, plain) = ("https://10.0.0.1:6443", "http://10.0.0.1:8080");
    for variable in ["ALL_PROXY", "all_proxy"] {
        assert_eq!(proxy(secure, &[(variable, "http://p:1")]), None, "{variable}");
    }
    let both = [("HTTPS_PROXY", "http://u:w@s:1"), ("http_proxy", "p:2")];
    assert_eq!(proxy(secure, &both).as_deref(), Some("http://u:w@s:1/"));
    assert_eq!(proxy(plain, &both).as_deref(), Some("http://p:2/"));
    assert_eq!(proxy("https://127.0.0.1:6443", &both), None);
    let empty = [("HTTPS_PROXY", ""), ("https_proxy", "http://s:1")];
    assert_eq!(proxy(secure, &empty).as_deref(), Some("http://s:1/"));
    let spared = [("HTTPS_PROXY", "http://s:1"), ("NO_PROXY", "10.0.0.0/8")];
    assert_eq!(proxy(secure, &spared), None);
    assert_eq!(proxy(secure, &[]), None);
}

#[test]
fn a_pods_own_authority_is_looked_at_again() {
    let authority = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
    assert_eq!(access::of_the_pod(&Server::default()), [PathBuf::from(authority)]);
    for named in [
        Server { kubeconfig: Some("/k".into()), ..Server::default() },
        Server { master: Some("https://h".into()), ..Server::default() },
    ] {
        assert!(access::of_the_pod(&named).is_empty());
    }
}

fn initial_end(version: u32) -> Step {
    let annotations = json!({"k8s.io/initial-events-end": "true"});
    line(
        "BOOKMARK",
        json!({"metadata": {"resourceVersion": version.to_string(), "annotations": annotations}}),
    )
}

/// A script for Services that is asked for streamed lists; the other kinds refuse to stream.
fn streamed(
    script: impl Fn(usize, &str) -> Reply + Send + Sync + 'static,
) -> impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static {
    let rest = services_only(script);
    move |number, asked| {
        let other = !asked.0.contains("/api/v1/services");
        if other && asked.0.contains("sendInitialEvents") {
            return Reply(422, "", Vec::new());
        }
        rest(number, asked)
    }
}

#[tokio::test]
async fn a_streamed_list_is_followed_in_the_same_answer() {
    let fake = Fake::streaming(streamed(|number, path| match number {
        0 => {
            assert!(path.contains("resourceVersionMatch=NotOlderThan"), "{path}");
            standing(vec![
                line("ADDED", service("a", "10.0.0.1", 3)),
                initial_end(9),
                line("ADDED", service("b", "10.0.0.2", 10)),
                Step::Pause(Duration::from_millis(50)),
                Step::Cut,
            ])
        }
        _ => {
            assert!(path.contains("resourceVersion=10"), "{path}");
            standing(vec![line("ADDED", service("c", "10.0.0.3", 11))])
        }
    }))
    .await;
    let mut live = Live::of(fake).await;
    live.until(|known| known.services.len() == 3).await;
    assert_eq!(live.known.lists, 1);
}

#[tokio::test]
async fn a_stream_that_leaves_out_its_end_is_asked_for_in_pages() {
    // It says nothing more; it sends a plain bookmark; it goes on with news for ever.
    for case in 0..3 {
        let fake = Fake::streaming(streamed(move |_, path| {
            if path.contains("sendInitialEvents") {
                let mut steps = vec![line("ADDED", service("a", "10.0.0.1", 3))];
                if case == 1 {
                    steps.push(bookmark(9));
                }
                if case == 2 {
                    for version in 10..60 {
                        steps.push(Step::Pause(Duration::from_millis(50)));
                        steps.push(line("MODIFIED", service("a", "10.0.0.1", version)));
                    }
                }
                return standing(steps);
            }
            if path.contains("watch=true") {
                return standing(vec![line("ADDED", service("c", "10.0.0.3", 11))]);
            }
            Reply::text(list(10, "", &[service("b", "10.0.0.2", 4)]))
        }))
        .await;
        let mut live = Live::of(fake).await;
        live.until(|known| known.text() == "b=10.0.0.2 c=10.0.0.3 ").await;
        assert_eq!(live.known.lists, 1, "case {case}");
        assert_eq!(live.fake.asked("sendInitialEvents").len() - 3, 1, "case {case}");
    }
}
