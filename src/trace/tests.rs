//! Whole ways from a survey to words. The survey is made of the bytes that the proxy itself sends,
//! as a kernel would list them; the lab has the real listing.

use std::net::IpAddr;

use super::stand_in::link;
use super::*;
use crate::api::{Decoder, decode_text};
use crate::kernel::record::{Exchange, Record};
use crate::kernel::simulated::Simulated;
use crate::kernel::survey::{Flavour, IptablesText, NftObject, RouteFact, Survey};
use crate::kernel::{Kernel, NftBatch, Transaction};
use crate::model::{self, Event, Family, LocalDetector, Pod};
use crate::netlink::expr::{Rule, Verdict};
use crate::netlink::nft::{Batch, ChainKind, Hook};
use crate::netlink::read::Messages;
use crate::sync::{Options, Proxy};

pub(crate) const OBJECTS: &str = "\
kind: Service
metadata: {name: web, namespace: default}
spec: {type: NodePort, clusterIP: 10.96.0.10, ports: [{name: http, port: 80, nodePort: 30080}]}
---
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.244.1.11], nodeName: node-1}
- {addresses: [10.244.2.12], nodeName: node-2}
---
kind: Service
metadata: {name: web, namespace: other}
spec: {clusterIP: 10.96.0.11, ports: [{port: 80}]}
---
kind: Node
metadata: {name: node-1}
status: {addresses: [{type: InternalIP, address: 172.18.1.2}]}
";

/// The objects as Events of full lists.
pub(crate) fn events() -> Vec<Event> {
    let mut events: Vec<Event> = model::Kind::ALL.into_iter().map(Event::ListStarted).collect();
    events.extend(decode_text(OBJECTS, &mut Decoder::new("node-1")));
    events.extend(model::Kind::ALL.into_iter().map(Event::ListEnded));
    events
}

pub(crate) fn options() -> Options {
    Options {
        node_name: "node-1".into(),
        detector: LocalDetector::Cidrs(vec!["10.244.0.0/16".parse().unwrap()]),
        ..Options::default()
    }
}

/// A kernel whose exchanges can still be read when the proxy has it.
struct Shared(std::sync::Arc<std::sync::Mutex<Record<Simulated>>>);

impl Kernel for Shared {
    fn apply(&mut self, tx: &Transaction) -> Result<crate::kernel::Receipt, crate::kernel::Error> {
        self.0.lock().unwrap().apply(tx)
    }
    fn read(
        &mut self,
        query: &crate::kernel::Query,
    ) -> Result<crate::kernel::Facts, crate::kernel::Error> {
        self.0.lock().unwrap().read(query)
    }
    fn capabilities(&self) -> &crate::kernel::Capabilities {
        static ALL: std::sync::OnceLock<crate::kernel::Capabilities> = std::sync::OnceLock::new();
        ALL.get_or_init(Default::default)
    }
}

/// Messages of a batch as a kernel would list the objects they make.
pub(crate) fn objects(batch: &NftBatch) -> Vec<NftObject> {
    let ours = Messages::new(&batch.bytes).filter(|m| m.kind >> 8 == 10);
    ours.filter(|m| matches!(m.kind & 0xff, 0 | 3 | 6 | 9 | 12))
        .map(|m| NftObject {
            kind: m.kind & 0xff,
            family: m.body[0],
            attributes: m.body[4..].to_vec(),
        })
        .collect()
}

/// A node with one pod of its own, as the proxy has programmed it.
pub(crate) fn survey() -> Survey {
    let kernel =
        std::sync::Arc::new(std::sync::Mutex::new(Record::new(Simulated::new(sim::Host::new(1)))));
    let mut proxy = Proxy::new(Box::new(Shared(kernel.clone())), options());
    events().into_iter().for_each(|event| proxy.feed(event));
    proxy.sync().unwrap();
    let exchanges = kernel.lock().unwrap().take();
    let nft = exchanges.iter().flat_map(|exchange| match exchange {
        Exchange::Applied(Transaction::Nft(batch), Ok(_)) => objects(batch),
        _ => Vec::new(),
    });
    let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
    let route = |to: &str, prefix, gateway, link| RouteFact {
        network: (ip(to), prefix),
        gateway,
        link,
        metric: 0,
    };
    let mut nft: Vec<NftObject> = nft.collect();
    // The kernel lists objects by kind.
    nft.sort_by_key(|object| match object.kind {
        12 => 10,
        kind @ (0 | 3) => kind,
        9 => 9,
        _ => 11,
    });
    Survey {
        links: vec![
            link(1, "lo", vec![(ip("127.0.0.1"), 8)]),
            link(2, "eth0", vec![(ip("172.18.1.2"), 24)]),
            link(5, "pod1", Vec::new()),
        ],
        routes: vec![
            route("0.0.0.0", 0, Some(ip("172.18.1.1")), 2),
            route("10.244.1.11", 32, None, 5),
        ],
        sysctls: [("net/ipv4/ip_forward".to_owned(), "1".to_owned())].into(),
        nft,
        ..Survey::default()
    }
}

pub(crate) fn pods() -> Vec<Pod> {
    vec![Pod {
        name: crate::model::NamespacedName::new("default", "web-1"),
        addresses: vec!["10.244.1.11".parse().unwrap()],
    }]
}

/// Asks as a person would.
fn asked(survey: Survey, from: &str, to: &str) -> Result<(Answer, String), String> {
    asked_with((&events(), &pods()), survey, from, to)
}

/// The same where there are these objects and pods.
pub(crate) fn asked_with(
    (events, pods): (&[Event], &[Pod]),
    survey: Survey,
    from: &str,
    to: &str,
) -> Result<(Answer, String), String> {
    let mut tracker = crate::track::Tracker::new("node-1".into());
    events.iter().cloned().for_each(|event| tracker.feed(event));
    let directory = Directory { cluster: Some(tracker.cluster()), pods, podless: None };
    let mut world = load(survey);
    let end = |text| parse(text).map_err(|e| e.0);
    let wish = Wish { from: end(from)?, to: end(to)?, protocol: None, family: None };
    let question = wish.resolve(&directory, &world, None).map_err(|e| e.0)?;
    let answer = ask(&mut world, &question);
    let words = text(&answer, &directory, Colour::Off);
    Ok((answer, words))
}

/// A foreign table with one rule before ours.
fn foreign(rule: &Rule) -> Vec<NftObject> {
    let mut batch = Batch::new(Family::V4, "fw");
    batch.add_table("");
    batch.add_chain("pre", Some(Hook { kind: ChainKind::Filter, number: 0, priority: -150 }));
    batch.add_rule("pre", rule);
    objects(&batch.finish())
}

#[test]
fn a_way_is_told_with_endpoints_chances_and_reasons() {
    let (answer, words) = asked(survey(), "outside", "svc/default/web:http").unwrap();
    assert!(answer.is_certain(), "{words}");
    expect_test::expect![[r#"
        tcp 203.0.113.77 → 10.96.0.10:80
          enters      by eth0: the route to 203.0.113.77
          service     default/web:http
            1/2       → 10.244.2.12:8080: forwarded by eth0 to 10.244.2.12 by way of 172.18.1.1
            1/2       → 10.244.1.11:8080: pod default/web-1, forwarded by pod1 to 10.244.1.11
          masquerade  as 172.18.1.2: its source is not known to be a pod of this cluster, and the pod's answer must come back through this node (nft table ip kube-proxy, chain internal-2, gave it mark 0x4000)
    "#]]
    .assert_eq(&words);
    let (answer, _) = asked(survey(), "pod/web-1", "svc/default/web:80").unwrap();
    let masqueraded: Vec<bool> = answer.endings.iter().map(|e| e.masquerade.to.is_some()).collect();
    assert_eq!(masqueraded.iter().filter(|m| **m).count(), 1, "only towards itself: {answer:#?}");
}

#[test]
fn a_foreign_rule_is_named() {
    let mut survey = survey();
    survey
        .nft
        .extend(foreign(&Rule::new().protocol_is(6).verdict(Verdict::Drop).comment("closed")));
    let (answer, words) = asked(survey, "outside", "node:30080").unwrap();
    assert_eq!(answer.endings.len(), 1);
    assert!(words.contains("nft table ip fw, chain pre, handle 0 \"closed\" (foreign)"), "{words}");
}

#[test]
fn what_is_not_modelled_is_said_and_only_where_it_counts() {
    let mut survey = survey();
    let mut objects = foreign(&Rule::new().protocol_is(17).verdict(Verdict::Drop));
    // In the place of the verdict an expression that nobody has heard of.
    let rule = objects.last_mut().unwrap();
    let at = rule.attributes.windows(9).position(|w| w == b"immediate").unwrap();
    rule.attributes[at..at + 9].copy_from_slice(b"unheardof");
    survey.nft.extend(objects);
    let (answer, words) = asked(survey.clone(), "10.244.1.11", "8.8.8.8:53").unwrap();
    assert!(answer.is_certain(), "TCP passes it: {words}");
    let mut world = load(survey);
    let question = Question {
        protocol: crate::model::Protocol::Udp,
        source: "10.244.1.11:0".parse().unwrap(),
        destination: "8.8.8.8:53".parse().unwrap(),
        link: Some("pod1".into()),
        because: String::new(),
    };
    let answer = ask(&mut world, &question);
    assert!(!answer.is_certain());
    assert_eq!(answer.endings[0].fate, super::Kind::Unknown, "{answer:#?}");
    assert!(answer.gaps[0].why.contains("unheardof"), "{answer:#?}");
}

#[test]
fn rules_of_iptables_count_and_are_cut_before_what_is_not_modelled() {
    let text = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p tcp -m tcp --dport 8080 -m time --timestart 10:00 -j DROP\n\
                -A FORWARD -p udp -m comment --comment \"no udp\" -j DROP\nCOMMIT\n";
    let mut survey = survey();
    survey.iptables.push(IptablesText {
        family: Family::V4,
        flavour: Flavour::Legacy,
        table: "filter".into(),
        text: text.into(),
    });
    let (answer, words) = asked(survey.clone(), "outside", "svc/default/web").unwrap();
    assert!(words.contains("iptables table filter, chain FORWARD, rule 1"), "{words}");
    assert!(!answer.is_certain());
    let (answer, words) = asked(survey, "10.244.1.11:99", "8.8.8.8:443").unwrap();
    assert!(answer.is_certain(), "{words}");
}

#[test]
fn names_that_fit_nothing_or_too_much_are_said() {
    let why = |from: &str, to: &str| asked(survey(), from, to).unwrap_err();
    assert!(why("node", "svc/web").contains("ambiguous: default/web, other/web"));
    assert!(why("node", "svc/nope/web").contains("is default/web or other/web meant?"));
    assert!(why("pod/nope", "10.0.0.1:80").contains("there is no Pod nope"));
    assert!(why("node", "svc/default/web:https").contains("it has http 80/TCP"));
    assert!(why("node", "10.0.0.1").contains("needs a port"));
    assert!(why("10.0.0.1", "[fd00::1]:80").contains("different IP families"));
}

#[test]
fn a_pod_is_not_said_to_be_absent_where_pods_are_not_known() {
    let why = "pods could not be listed: forbidden";
    let directory = Directory { cluster: None, pods: &[], podless: Some(why) };
    let told = directory.pod(Some("default"), "web-1").unwrap_err().0;
    assert!(told.starts_with("pod/default/web-1: pods could not be listed: forbidden"), "{told}");
    let known = Directory { podless: None, ..directory };
    assert!(known.pod(None, "web-1").unwrap_err().0.contains("there is no Pod web-1"));
}

#[test]
fn desired_is_what_the_proxy_itself_would_write() {
    let survey = survey();
    let mut live = load(survey.clone());
    let mut wanted = desired(survey.clone(), &events(), &options()).unwrap();
    let question = Question {
        protocol: crate::model::Protocol::Tcp,
        source: "10.244.1.11:0".parse().unwrap(),
        destination: "10.96.0.10:80".parse().unwrap(),
        link: Some("pod1".into()),
        because: String::new(),
    };
    assert_eq!(ask(&mut live, &question).comes_to(), ask(&mut wanted, &question).comes_to());
}

#[test]
fn a_picture_has_every_ending() {
    let (answer, _) = asked(survey(), "outside", "svc/default/web").unwrap();
    let pods = pods();
    let picture = mermaid(&answer, &Directory { cluster: None, pods: &pods, podless: None });
    assert!(picture.starts_with("flowchart LR\n"));
    assert_eq!(picture.matches("-->|\"1/2, as 172.18.1.2\"|").count(), 2, "{picture}");
}

#[test]
fn what_live_and_desired_rules_do_otherwise_is_named() {
    let question = Question {
        protocol: crate::model::Protocol::Tcp,
        source: "203.0.113.77:0".parse().unwrap(),
        destination: "172.18.1.2:30080".parse().unwrap(),
        link: Some("eth0".into()),
        because: String::new(),
    };
    let mut fenced = survey();
    fenced
        .nft
        .extend(foreign(&Rule::new().protocol_is(6).verdict(Verdict::Drop).comment("closed")));
    let live = ask(&mut load(survey()), &question);
    let closed = ask(&mut load(fenced), &question);
    assert!(differences(&live, &live.clone()).is_empty());
    let told: Vec<String> = differences(&closed, &live).iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "no endpoint: live dropped by nft table ip fw, chain pre, handle 0 (1); desired never",
            "→ 10.244.1.11:8080: live never; desired forwarded (1/2, masqueraded)",
            "→ 10.244.2.12:8080: live never; desired forwarded (1/2, masqueraded)",
        ]
    );
    // Shares, masquerade, and who ended it count, each by itself.
    let changed = |change: fn(&mut Ending)| {
        let mut other = live.clone();
        change(&mut other.endings[0]);
        differences(&live, &other).len()
    };
    assert_eq!(changed(|ending| ending.probability = "1/3".to_owned()), 1);
    assert_eq!(changed(|ending| ending.masquerade.to = None), 1);
    let mut ours = closed.clone();
    ours.endings[0].by.as_mut().unwrap().ours = true;
    let told = differences(&closed, &ours);
    assert!(
        told.len() == 1
            && told[0].to_string().ends_with("desired dropped by a rule of kube-proxy (1)")
    );
    let picture =
        mermaid_of_both(&closed, &live, &Directory { cluster: None, pods: &[], podless: None });
    assert_eq!(picture.matches("flowchart LR").count(), 1, "{picture}");
    assert_eq!(picture.matches("subgraph").count(), picture.matches("\n    end\n").count());
    assert!(picture.contains("live-end0") && picture.contains("desired-end1"), "{picture}");
}
