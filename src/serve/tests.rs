//! The servers over loopback, asked with plain HTTP/1.1.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::model::{
    Conditions, Endpoint, EndpointSlice, Event, Family, Mode, NamespacedName, Protocol, Service,
    ServicePort, SlicePort, TrafficPolicy,
};
use crate::track::Tracker;

const MINUTE: Duration = Duration::from_secs(60);

/// An address of loopback that is free now.
fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The status line with the headers, and the body.
async fn try_get(address: SocketAddr, path: &str) -> io::Result<(String, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Ok((head.to_lowercase(), body.to_owned()))
}

/// The status line with the headers, and the body's bytes, of a whole request.
async fn send(address: SocketAddr, request: &str) -> (String, Vec<u8>) {
    get(address, "/healthz").await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{request}Host: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    (String::from_utf8_lossy(&answer[..end]).to_lowercase(), answer[end + 4..].to_vec())
}

/// The same with `PUT` and a body.
async fn put(address: SocketAddr, path: &str, body: &str) -> (String, Vec<u8>) {
    get(address, "/healthz").await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request = format!(
        "PUT {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.as_bytes().to_vec())
}

/// The same, waiting for the server to start.
async fn get(address: SocketAddr, path: &str) -> (String, String) {
    for _ in 0..500 {
        match try_get(address, path).await {
            Ok(answer) => return answer,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    panic!("nothing listens on {address}");
}

/// Waits until a port refuses connections.
async fn refused(address: SocketAddr) {
    for _ in 0..500 {
        if try_get(address, "/").await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{address} is still open");
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

fn sources(health: Health) -> Sources {
    Sources {
        health: health.clone(),
        metrics: Metrics::new(Mode::Nftables, &Family::ALL),
        checks: HealthChecks::new(health),
        proxy_mode: "nftables",
        pages: Pages::empty(SystemTime::now()),
        board: None,
    }
}

#[tokio::test]
async fn line_80_the_healthz_port() {
    let (address, health, metrics) =
        (free(), Health::new(MINUTE), Metrics::new(Mode::Nftables, &[Family::V4]));
    let paths = healthz(health.clone(), metrics.clone());
    let server = tokio::spawn(serve("healthz", address, OnBindFailure::Fail, paths));
    let (head, body) = get(address, "/healthz").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("content-type: application/json"), "{head}");
    assert!(head.contains("x-content-type-options: nosniff"), "{head}");
    assert!(body.starts_with("{\"lastUpdated\": \"20"), "{body}");
    assert!(body.ends_with(" +0000 UTC\", \"nodeEligible\": true}"), "{body}");
    health.queued(Instant::now().checked_sub(MINUTE).unwrap());
    let (head, _) = get(address, "/livez").await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    assert!(get(address, "/").await.0.starts_with("http/1.1 404"));
    let text = metrics.text();
    assert!(text.contains("kubeproxy_proxy_healthz_total{code=\"200\"} 1"), "{text}");
    assert!(text.contains("kubeproxy_proxy_livez_total{code=\"503\"} 1"), "{text}");
    server.abort();
}

#[tokio::test]
async fn line_81_the_metrics_port() {
    let address = free();
    let paths = super::metrics(&sources(Health::new(MINUTE)));
    let server = tokio::spawn(serve("metrics", address, OnBindFailure::Fail, paths));
    assert_eq!(get(address, "/healthz").await.1, "ok");
    assert_eq!(get(address, "/proxyMode").await.1, "nftables");
    let (head, body) = get(address, "/metrics").await;
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("kubeproxy_sync_proxy_rules_duration_seconds_bucket{"), "{body}");
    server.abort();
}

#[tokio::test]
async fn metrics_are_compressed_for_those_who_ask() {
    use std::io::Read as _;
    let address = free();
    let paths = super::metrics(&sources(Health::new(MINUTE)));
    let server = tokio::spawn(serve("metrics", address, OnBindFailure::Fail, paths));
    let request = "GET /metrics HTTP/1.1\r\nAccept-Encoding: gzip\r\nAccept: application/openmetrics-text\r\n";
    let (head, body) = send(address, request).await;
    assert!(head.contains("content-encoding: gzip"), "{head}");
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
    assert!(text.contains("kubeproxy_generation_seen 0.0") && text.ends_with("# EOF\n"), "{text}");
    let (head, _) = get(address, "/metrics").await;
    assert!(!head.contains("content-encoding"), "{head}");
    server.abort();
}

#[tokio::test]
async fn line_81_pages_about_the_process() {
    let address = free();
    let level = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let kept = level.clone();
    let pages = Pages {
        configuration: std::sync::Arc::new("{\"a\":1}".to_owned().into()),
        flags: Some(vec![("v".into(), "2".into())]),
        debug: Shown::Yes,
        set_verbosity: std::sync::Arc::new(move |text| {
            kept.lock().unwrap().push_str(text);
            if text == "4" { Ok("set".into()) } else { Err("no level".into()) }
        }),
        ..Pages::empty(SystemTime::now())
    };
    let sources = Sources { pages, ..sources(Health::new(MINUTE)) };
    let paths = super::metrics(&sources);
    let server = tokio::spawn(serve("metrics", address, OnBindFailure::Fail, paths));
    assert_eq!(get(address, "/configz").await.1, "{\"a\":1}");
    assert!(get(address, "/flagz").await.1.contains("\nv=2\n"));
    assert!(get(address, "/statusz").await.1.contains("Up: 0 hr 00 min 00 sec"));
    let (head, _) = send(address, "GET /statusz HTTP/1.1\r\nAccept: application/json\r\n").await;
    assert!(head.starts_with("http/1.1 406"), "{head}");
    let (head, body) = put(address, "/debug/flags/v", "4\n").await;
    assert!(head.starts_with("http/1.1 200") && body == b"set", "{head}");
    let (head, body) = put(address, "/debug/flags/v", "x").await;
    assert!(head.starts_with("http/1.1 400") && body == b"no level", "{head}");
    assert_eq!(*level.lock().unwrap(), "4x");
    assert!(get(address, "/debug/flags/v").await.0.starts_with("http/1.1 406"));
    assert!(get(address, "/debug/pprof/").await.1.contains("heap: not here"));
    for path in ["/debug/pprof/heap", "/debug/pprof/threadcreate"] {
        assert!(get(address, path).await.0.starts_with("http/1.1 501"), "{path}");
    }
    assert_eq!(get(address, "/debug/pprof/symbol").await.1, "num_symbols: 0\n");
    for seconds in ["0", "601", "-1", "x", ""] {
        let path = format!("/debug/pprof/profile?seconds={seconds}");
        assert!(get(address, &path).await.0.starts_with("http/1.1 400"), "{seconds}");
    }
    server.abort();
}

#[tokio::test]
async fn pages_are_off_unless_asked_for() {
    let address = free();
    let paths = super::metrics(&sources(Health::new(MINUTE)));
    let server = tokio::spawn(serve("metrics", address, OnBindFailure::Fail, paths));
    get(address, "/healthz").await;
    for path in ["/debug/pprof/", "/debug/pprof/profile", "/debug/flags/v", "/"] {
        assert!(get(address, path).await.0.starts_with("http/1.1 404"), "{path}");
    }
    server.abort();
}

#[cfg(feature = "profiling")]
#[tokio::test]
async fn a_profile_has_what_ran() {
    use std::io::Read as _;
    let address = free();
    let pages = Pages { debug: Shown::Yes, ..Pages::empty(SystemTime::now()) };
    let sources = Sources { pages, ..sources(Health::new(MINUTE)) };
    let server =
        tokio::spawn(serve("metrics", address, OnBindFailure::Fail, super::metrics(&sources)));
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (told, mut sum) = (stop.clone(), 0_u64);
    let busy = std::thread::spawn(move || {
        while !told.load(std::sync::atomic::Ordering::Relaxed) {
            sum = sum.wrapping_mul(31).wrapping_add(std::hint::black_box(7));
        }
        sum
    });
    let (head, body) = send(address, "GET /debug/pprof/profile?seconds=2 HTTP/1.1\r\n").await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    busy.join().unwrap();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let mut profile = Vec::new();
    flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut profile).unwrap();
    let text = String::from_utf8_lossy(&profile);
    assert!(
        text.contains("nanoseconds") && text.contains("a_profile_has_what_ran"),
        "{}",
        profile.len()
    );
    server.abort();
}

#[tokio::test]
async fn line_83_a_port_in_use() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = serve("metrics", address, OnBindFailure::Fail, Router::new()).await;
    assert!(error.to_string().starts_with(&format!("cannot serve metrics on {address}: ")));
    let retrying = serve("metrics", address, OnBindFailure::Retry, Router::new());
    let given_up = tokio::time::timeout(Duration::from_millis(50), retrying).await;
    assert!(given_up.is_err(), "it goes on trying");
}

#[tokio::test]
async fn an_unspecified_address_is_for_both_families() {
    let port = free().port();
    let all = SocketAddr::from(([0, 0, 0, 0], port));
    let paths = super::metrics(&sources(Health::new(MINUTE)));
    let server = tokio::spawn(serve("metrics", all, OnBindFailure::Fail, paths));
    assert_eq!(get(SocketAddr::from(([127, 0, 0, 1], port)), "/healthz").await.1, "ok");
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        let six = SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), port);
        assert_eq!(get(six, "/healthz").await.1, "ok");
    }
    server.abort();
}

#[tokio::test]
async fn everything_runs_as_one_future() {
    let (healthz, metrics) = (free(), free());
    let health = Health::new(MINUTE);
    let sources = sources(health);
    let ports = Ports { healthz: Some(healthz), metrics: Some(metrics), ..Ports::default() };
    let running = tokio::spawn(run(ports, sources.clone()));
    get(healthz, "/livez").await;
    assert!(
        get(metrics, "/metrics").await.1.contains("kubeproxy_proxy_livez_total{code=\"200\"} 1")
    );
    running.abort();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let healthz = Some(taken.local_addr().unwrap());
    let ports = Ports { healthz, metrics: None, on_bind_failure: OnBindFailure::Fail };
    assert_eq!(run(ports, sources).await.kind(), io::ErrorKind::AddrInUse);
}

fn balanced(name: &str, port: u16) -> Event {
    Event::Service(Box::new(Service {
        name: NamespacedName::new("ns", name),
        created: 0,
        cluster_ips: vec!["10.0.0.1".parse().unwrap()],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        external_policy: TrafficPolicy::Local,
        internal_policy: TrafficPolicy::Cluster,
        affinity: None,
        health_check_node_port: (port != 0).then_some(port),
        externally_accessible: true,
        ipvs_scheduler: None,
        proxy_protocol: None,
        forget_tcp_flows: false,
        ports: vec![ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }],
    }))
}

fn local(service: &str, addresses: &[&str]) -> Event {
    Event::Slice(Box::new(EndpointSlice {
        name: NamespacedName::new("ns", service),
        service: NamespacedName::new("ns", service),
        family: Family::V4,
        ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: addresses
            .iter()
            .map(|a| Endpoint {
                address: a.parse().unwrap(),
                conditions: Conditions::default(),
                node: Some("me".into()),
                hints: None,
            })
            .collect(),
        trigger_time: None,
    }))
}

/// Health checks on loopback, with what feeds them.
struct World {
    tracker: Tracker,
    checks: HealthChecks,
}

impl World {
    fn start(health: Health) -> World {
        let checks = HealthChecks::new(health);
        checks.listen_on(["127.0.0.1".parse().unwrap()].into());
        let running = checks.clone();
        tokio::spawn(async move { running.run().await });
        World { tracker: Tracker::new("me".into()), checks }
    }

    fn feed(&mut self, events: impl IntoIterator<Item = Event>) {
        events.into_iter().for_each(|e| self.tracker.feed(e));
        let changes = self.tracker.take_changes();
        self.checks.update(self.tracker.cluster(), &changes);
    }
}

#[tokio::test]
async fn line_82_health_check_node_ports() {
    let health = Health::new(MINUTE);
    let mut world = World::start(health.clone());
    let (first, second) = (free(), free());
    world.feed([balanced("web", first.port()), local("web", &["10.1.0.1", "10.1.0.2"])]);
    let (head, body) = get(first, "/any/path").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("x-load-balancing-endpoint-weight: 2"), "{head}");
    assert!(head.contains("content-type: application/json"), "{head}");
    let expected = "{\n\t\"service\": {\n\t\t\"namespace\": \"ns\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
    assert_eq!(body, expected);

    world.feed([local("web", &[])]);
    let (head, body) = get(first, "/").await;
    assert!(head.starts_with("http/1.1 503"), "no endpoint: {head}");
    assert!(body.contains("\"localEndpoints\": 0,"), "{body}");

    world.feed([local("web", &["10.1.0.1"])]);
    health.queued(Instant::now().checked_sub(MINUTE).unwrap());
    let (head, body) = get(first, "/").await;
    assert!(head.starts_with("http/1.1 503"), "an unhealthy proxy: {head}");
    assert!(body.contains("\"serviceProxyHealthy\": false"), "{body}");

    world.feed([balanced("web", second.port())]);
    get(second, "/").await;
    refused(first).await;
    world.feed([balanced("web", 0)]);
    refused(second).await;
}

#[tokio::test]
async fn a_port_can_go_from_one_service_to_another_at_once() {
    let mut world = World::start(Health::new(MINUTE));
    let port = free();
    world.feed([balanced("a", port.port()), local("a", &["10.1.0.1"])]);
    assert!(get(port, "/").await.1.contains("\"name\": \"a\""));
    world.feed([balanced("a", 0), balanced("b", port.port())]);
    until("b answers", || world.checks.notices().is_empty()).await;
    let mut body = String::new();
    for _ in 0..100 {
        body = get(port, "/").await.1;
        if body.contains("\"name\": \"b\"") {
            break;
        }
    }
    assert!(body.contains("\"name\": \"b\""), "{body}");
    assert_eq!(world.checks.notices(), []);
}

#[tokio::test]
async fn a_port_in_use_is_a_notice_until_it_is_free() {
    let mut world = World::start(Health::new(MINUTE));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    world.feed([balanced("web", address.port())]);
    world.checks.notices_changed().await;
    let notice = world.checks.notices().remove(0);
    let expected = format!(
        "Service ns/web spec.healthCheckNodePort: cannot listen on {address} for health checks: "
    );
    assert!(notice.to_string().starts_with(&expected), "{notice}");
    drop(taken);
    // Any change tries again; else it would be 5 seconds.
    world.feed([balanced("other", free().port())]);
    world.checks.notices_changed().await;
    assert_eq!(world.checks.notices(), []);
    assert!(get(address, "/").await.0.starts_with("http/1.1 503"));
}
