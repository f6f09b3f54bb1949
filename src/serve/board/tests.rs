//! The status page: what it shows, what it escapes, what it refuses. The sync loop is a cluster in
//! a lock here, the judge one that says what it was asked.

use std::sync::{Arc, Mutex};

use super::form::fields;
use super::*;
use crate::model::{
    Conditions, Endpoint, EndpointSlice, Kind, Node, Protocol, Reason, Service, ServicePort,
    SlicePort, TrafficPolicy,
};
use crate::track::Tracker;

fn service(name: &str, ip: [u8; 4]) -> Event {
    Event::Service(Box::new(Service {
        name: NamespacedName::new("shop", name),
        created: 0,
        cluster_ips: vec![ip.into()],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        external_policy: TrafficPolicy::Cluster,
        internal_policy: TrafficPolicy::Cluster,
        affinity: Some(10_800),
        health_check_node_port: None,
        externally_accessible: true,
        ipvs_scheduler: None,
        proxy_protocol: None,
        forget_tcp_flows: false,
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: Some(30080),
        }],
    }))
}

fn endpoint(address: &str, node: &str, (ready, terminating): (bool, bool)) -> Endpoint {
    Endpoint {
        address: address.parse().unwrap(),
        conditions: Conditions { ready, serving: ready || terminating, terminating },
        node: Some(node.into()),
        hints: None,
    }
}

fn slice(service: &str, endpoints: Vec<Endpoint>) -> Event {
    Event::Slice(Box::new(EndpointSlice {
        name: NamespacedName::new("shop", format!("{service}-1")),
        service: NamespacedName::new("shop", service),
        family: Family::V4,
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: endpoints.into(),
        trigger_time: None,
    }))
}

fn node() -> Event {
    Event::Node(Box::new(Node {
        name: "me".into(),
        addresses: vec!["192.0.2.1".parse().unwrap()],
        pod_cidrs: vec!["10.244.7.0/24".parse().unwrap()],
        ..Node::default()
    }))
}

/// A page about a cluster that was told these events.
fn board(events: Vec<Event>) -> (Board, Arc<Mutex<Tracker>>) {
    let mut tracker = Tracker::new("me".into());
    events.into_iter().for_each(|event| tracker.feed(event));
    let tracker = Arc::new(Mutex::new(tracker));
    let asked = tracker.clone();
    let ask: Ask = Arc::new(move |question| {
        question(asked.lock().unwrap().cluster());
        true
    });
    let judge: Judge = Arc::new(|asked, objects| {
        let services = objects.iter().filter(|e| matches!(e, Event::Service(_))).count();
        let journey = format!("{asked:?} among {services} <Services>");
        Ok(Judged { fates: vec![("100.0 %".into(), "delivered".into())], journey })
    });
    let health = Health::new(Duration::from_secs(60));
    (Board::new(health, ("nftables", vec![Family::V4]), ask, judge), tracker)
}

async fn at(board: &Board, path: &str, query: &str) -> (u16, String) {
    let fields = fields(Some(query.to_owned()));
    let (status, page) = match path {
        "/" => overview(board, &fields).await,
        "/service" => one_service(board, &fields).await,
        _ => packet_page(board, &fields).await,
    };
    (status.as_u16(), page.into_string())
}

#[tokio::test]
async fn services_are_listed_with_their_endpoints_in_use() {
    let (board, tracker) = board(vec![
        node(),
        service("web", [10, 96, 0, 10]),
        service("empty", [10, 96, 0, 11]),
        slice(
            "web",
            vec![
                endpoint("10.1.0.1", "me", (true, false)),
                endpoint("10.1.0.2", "b", (false, false)),
            ],
        ),
    ]);
    let changes = tracker.lock().unwrap().take_changes();
    let how = Programmed { at: SystemTime::now(), latency: Duration::from_millis(2) };
    board.programmed(tracker.lock().unwrap().cluster(), &changes, how);
    let (status, page) = at(&board, "/", "").await;
    assert_eq!(status, 200);
    for words in [
        "2 of 2 Services",
        "shop/web",
        "10.96.0.10",
        "http 80/TCP (node port 30080)",
        "1 of 2",
        "0 of 0",
        "2.0 ms after the change",
        "addresses 192.0.2.1",
        "nftables",
        "keeps up",
        "/service?namespace=shop&amp;name=web",
    ] {
        assert!(page.contains(words), "{words:?} is missing in {page}");
    }
    let (_, page) = at(&board, "/", "q=10.96.0.11").await;
    assert!(page.contains("1 of 2 Services") && !page.contains("shop/web"), "{page}");
}

#[tokio::test]
async fn a_service_says_why_an_endpoint_is_used_or_not() {
    let endpoints = vec![
        endpoint("10.1.0.1", "me", (true, false)),
        endpoint("10.1.0.2", "b", (false, false)),
        endpoint("10.1.0.3", "b", (false, true)),
    ];
    let (board, _) = board(vec![service("web", [10, 96, 0, 10]), slice("web", endpoints)]);
    let (status, page) = at(&board, "/service", "namespace=shop&name=web").await;
    assert_eq!(status, 200);
    for words in [
        "10.1.0.1:8080",
        "chosen for cluster traffic",
        "not ready",
        "terminating, serving",
        "terminating, while others are ready",
        "ClientIP, 10800 s",
        "IPv4",
    ] {
        assert!(page.contains(words), "{words:?} is missing in {page}");
    }
    let (status, page) = at(&board, "/service", "namespace=shop&name=<b>").await;
    assert!(status == 404 && page.contains("&lt;b&gt;") && !page.contains("<b>"), "{page}");
}

#[tokio::test]
async fn what_comes_from_outside_is_escaped() {
    let (board, _) = board(vec![service("a<script>\"'&", [10, 96, 0, 1])]);
    let notice = Notice {
        kind: "Service",
        object: NamespacedName::new("x", "<img src=x>"),
        field: String::new(),
        reason: Reason::InvalidField,
        message: "<script>alert(1)</script>".into(),
    };
    board.noticed(&[notice].into());
    board.failed("<script>".into());
    for (path, query) in [
        ("/", "q=%22%3E%3Cscript%3E"),
        ("/", ""),
        ("/packet", "destination=%22%3E%3Cscript%3E&port=%3Cscript%3E&from=%3Cscript%3E"),
        ("/packet", "destination=10.0.0.1&port=80&source=10.0.0.2"),
    ] {
        let (_, page) = at(&board, path, query).await;
        assert!(!page.contains("<script") && !page.contains("<img"), "{path}?{query}: {page}");
    }
}

#[tokio::test]
async fn ten_thousand_services_are_paged() {
    let many = |i: u32| service(&format!("s{i:05}"), (0x0a60_0000 + i).to_be_bytes());
    let (board, _) = board((0..10_000).map(many).collect());
    let (_, first) = at(&board, "/", "").await;
    assert!(first.contains("10000 of 10000 Services, page 1 of 100"), "{first}");
    assert!(first.contains("shop/s00099") && !first.contains("shop/s00100"));
    assert!(first.contains("page=2") && !first.contains("Previous"));
    let (_, last) = at(&board, "/", "page=99999").await;
    assert!(last.contains("page 100 of 100") && last.contains("shop/s09999"), "{last}");
    assert!(!last.contains(">Next<") && last.contains("page=99"));
    let (_, odd) = at(&board, "/", "page=-3").await;
    assert!(odd.contains("page 1 of 100"));
}

#[tokio::test]
async fn a_packet_is_judged_among_the_services_that_concern_it() {
    let (board, _) =
        board(vec![node(), service("web", [10, 96, 0, 10]), service("other", [10, 96, 0, 11])]);
    let (status, page) = at(&board, "/packet", "").await;
    assert!(status == 200 && page.contains("<form"), "{page}");
    let (status, page) = at(&board, "/packet", "destination=10.96.0.10&port=80").await;
    assert_eq!(status, 200, "{page}");
    // The first of the Node's pod addresses that is not the bridge's stands in where none is given.
    assert!(
        page.contains("source: 10.244.7.2") && page.contains("among 1 &lt;Services&gt;"),
        "{page}"
    );
    let (_, page) = at(&board, "/packet", "destination=192.0.2.1&port=30080&from=outside").await;
    assert!(page.contains("source: 203.0.113.7") && page.contains("among 2"), "{page}");
}

#[tokio::test]
async fn a_bad_packet_is_a_sentence() {
    let (board, _) = board(vec![node()]);
    for (query, words) in [
        ("destination=x&port=80", "must be an IP address"),
        ("destination=10.0.0.1&port=0", "a number from 1 to 65535"),
        ("destination=10.0.0.1&port=70000", "a number from 1 to 65535"),
        ("destination=10.0.0.1&port=80&protocol=icmp", "tcp, udp or sctp"),
        ("destination=10.0.0.1&port=80&from=moon", "pod, outside or node"),
        ("destination=10.0.0.1&port=80&source=fd00::1", "two families"),
        ("destination=fd00::1&port=80", "give an address"),
    ] {
        let (status, page) = at(&board, "/packet", query).await;
        assert!(status == 400 && page.contains(words), "{query}: {page}");
    }
}

#[tokio::test]
async fn a_loop_that_does_not_answer_is_said() {
    let (mut board, _) = board(vec![]);
    board.ask = Arc::new(|_| false);
    let (status, page) = at(&board, "/", "").await;
    assert!(status == 503 && page.contains("did not answer"), "{page}");
}

#[test]
fn the_objects_for_a_packet_are_a_full_list() {
    let (_, tracker) = board(vec![node(), service("web", [10, 96, 0, 10])]);
    let asked = Asked {
        entry: Entry::Pod,
        source: [10, 244, 7, 2].into(),
        destination: [10, 96, 0, 10].into(),
        port: 80,
        protocol: Protocol::Tcp,
    };
    let events = view::objects_for(tracker.lock().unwrap().cluster(), &asked);
    let mut again = Tracker::new("me".into());
    events.into_iter().for_each(|event| again.feed(event));
    assert!(again.ready() && again.cluster().services().count() == 1);
    assert_eq!(Kind::ALL.len(), 4);
}
