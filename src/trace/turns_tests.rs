//! What is answered of a virtual server's choice: what the listing decides, and what it leaves open.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::*;
use crate::kernel::simulated::Simulated;
use crate::kernel::survey::{ConnectionFact, DestinationFact, RouteFact, ServerFact, Survey};
use crate::kernel::{Facts, Kernel, Query};
use crate::model::{Family, Protocol};
use crate::trace::stand_in::link;

const VIRTUAL: &str = "10.96.0.1";
const CLIENT: &str = "10.0.0.2";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A destination 10.1.0.N with a weight and counts.
fn to(n: u8, weight: u32, counts: Option<(u32, u32, u32)>) -> DestinationFact {
    let at = (ip(&format!("10.1.0.{n}")), 8080);
    DestinationFact { at, weight, masquerades: true, connections: counts }
}

/// Three that do nothing.
fn idle() -> Vec<DestinationFact> {
    [1, 2, 3].map(|n| to(n, 1, Some((0, 0, 0)))).into()
}

fn server(scheduler: &str, flags: u32, destinations: Vec<DestinationFact>) -> ServerFact {
    ServerFact {
        protocol: 6,
        at: (ip(VIRTUAL), 80),
        scheduler: scheduler.to_owned(),
        flags,
        persistence: None,
        destinations,
        remembered: None,
    }
}

/// A node between clients and destinations, with one virtual server.
fn node(server: ServerFact) -> Survey {
    let route =
        |to: &str, link| RouteFact { network: (ip(to), 24), gateway: None, link, metric: 0 };
    Survey {
        links: vec![
            link(1, "lo", vec![(ip("127.0.0.1"), 8)]),
            link(2, "eth0", vec![(ip("10.0.0.1"), 24)]),
            link(3, "pods0", vec![(ip("10.1.0.254"), 24)]),
            link(4, "kube-ipvs0", vec![(ip(VIRTUAL), 32)]),
        ],
        routes: vec![route("10.0.0.0", 2), route("10.1.0.0", 3)],
        sysctls: [("net/ipv4/ip_forward".to_owned(), "1".to_owned())].into(),
        virtual_servers: vec![server],
        ..Survey::default()
    }
}

/// Which destinations are answered, with their parts; and what is not known.
fn told(survey: &Survey, client: &str) -> (BTreeMap<String, String>, Vec<String>) {
    let mut world = load(survey.clone());
    let state = |world: &World| {
        let servers = world.host.ipvs_services();
        let all = servers.iter().map(|one| (one.clone(), world.host.ipvs_destinations(&one.key)));
        format!("{:?}", all.collect::<Vec<_>>())
    };
    let before = state(&world);
    let question = Question {
        protocol: Protocol::Tcp,
        source: client.parse().unwrap_or_else(|_| (ip(client), 0).into()),
        destination: (ip(VIRTUAL), 80).into(),
        link: Some("eth0".into()),
        because: String::new(),
    };
    let answer = ask(&mut world, &question);
    assert_eq!(state(&world), before, "a question changes nothing");
    let parts = answer.endings.iter().map(|ending| {
        let last = ending.endpoint.map(|to| to.address.to_string()).unwrap_or_default();
        (last.replace("10.1.0.", ""), ending.probability.clone())
    });
    (parts.collect(), answer.gaps.into_iter().map(|gap| gap.why).collect())
}

fn parts(all: &[(&str, &str)]) -> BTreeMap<String, String> {
    all.iter().map(|(to, part)| ((*to).to_owned(), (*part).to_owned())).collect()
}

fn certain(survey: &Survey, client: &str) -> BTreeMap<String, String> {
    let (parts, gaps) = told(survey, client);
    assert!(gaps.is_empty(), "{parts:?} {gaps:?}");
    parts
}

/// All three may be, and why it is not known which.
fn open(survey: &Survey, client: &str, why: &str) {
    let (found, gaps) = told(survey, client);
    assert_eq!(found, parts(&[("1", "1/3"), ("2", "1/3"), ("3", "1/3")]));
    assert!(matches!(&gaps[..], [gap] if gap.contains(why)), "{gaps:?}");
}

#[test]
fn turns_are_taken_equally_or_by_weight() {
    let weighted = || vec![to(1, 1, None), to(2, 3, None), to(3, 0, None)];
    let halves = parts(&[("1", "1/2"), ("2", "1/2")]);
    assert_eq!(certain(&node(server("rr", 0, weighted())), CLIENT), halves);
    let quarters = parts(&[("1", "1/4"), ("2", "3/4")]);
    assert_eq!(certain(&node(server("wrr", 0, weighted())), CLIENT), quarters);
}

#[test]
fn who_counts_connections_is_answered_by_what_was_counted() {
    // 512 for a weight of 1, 700 for 2, 1 active for 4.
    let busy = || {
        let counts = [(1, (2, 0, 0)), (2, (2, 188, 0)), (4, (1, 0, 0))];
        let all = (1..).zip(counts);
        all.map(|(n, (weight, counts))| to(n, weight, Some(counts))).collect::<Vec<_>>()
    };
    for (scheduler, chosen) in
        [("lc", "3"), ("wlc", "3"), ("sed", "3"), ("nq", "3"), ("fo", "3"), ("ovf", "3")]
    {
        let found = certain(&node(server(scheduler, 0, busy())), CLIENT);
        assert_eq!(found, parts(&[(chosen, "1/1")]).into_iter().map(one).collect(), "{scheduler}");
    }
    let mut full = busy();
    full[2].connections = Some((5, 0, 0));
    for (scheduler, chosen) in [("lc", "1"), ("wlc", "3"), ("sed", "2"), ("fo", "3"), ("ovf", "2")]
    {
        let found = certain(&node(server(scheduler, 0, full.clone())), CLIENT);
        assert_eq!(found.into_keys().collect::<Vec<_>>(), [chosen], "{scheduler}");
    }
    // A dump that does not say.
    let silent: Vec<DestinationFact> = [1, 2, 3].map(|n| to(n, 1, None)).into();
    for scheduler in ["lc", "wlc", "sed", "nq", "ovf", "twos"] {
        open(&node(server(scheduler, 0, silent.clone())), CLIENT, "how busy");
    }
    assert_eq!(certain(&node(server("fo", 0, silent)), CLIENT).len(), 1);
}

/// What is certain is said as the simulator says it.
fn one((to, part): (String, String)) -> (String, String) {
    (to, if part == "1/1" { sim::Probability::ONE.to_string() } else { part })
}

#[test]
fn what_no_listing_says_leaves_all_that_may_be() {
    for scheduler in ["lblc", "lblcr"] {
        open(&node(server(scheduler, 0, idle())), CLIENT, "keeps to a destination");
    }
    for scheduler in ["sh", "mh"] {
        let by_port = node(server(scheduler, 0x18, idle()));
        open(&by_port, CLIENT, "port");
        assert_eq!(certain(&by_port, "10.0.0.2:40000").len(), 1, "{scheduler}");
        assert_eq!(certain(&node(server(scheduler, 0x8, idle())), CLIENT).len(), 1, "{scheduler}");
    }
    let mut leaving = idle();
    leaving.push(to(4, 0, Some((1, 0, 0))));
    open(&node(server("mh", 0x8, leaving)), CLIENT, "last weight");
}

#[test]
fn a_client_that_is_remembered_stays() {
    let sticky = |remembered: Option<&[(&str, u8)]>, counts| {
        let destinations =
            [1, 2, 3].map(|n| to(n, 1, Some((0, 0, if n == 2 { counts } else { 0 }))));
        let known = remembered
            .map(|all| all.iter().map(|(client, n)| (ip(client), to(*n, 1, None).at)).collect());
        let fact = server("rr", 0, destinations.into());
        node(ServerFact { persistence: Some((100, 24)), remembered: known, ..fact })
    };
    let keys = |survey: &Survey| certain(survey, CLIENT).into_keys().collect::<Vec<_>>();
    assert_eq!(keys(&sticky(Some(&[("10.0.0.0", 2), ("10.0.7.0", 1)]), 2)), ["2"]);
    assert_eq!(keys(&sticky(Some(&[("10.0.7.0", 2)]), 1)), ["1", "2", "3"]);
    assert_eq!(keys(&sticky(None, 0)), ["1", "2", "3"], "nobody is remembered");
    open(&sticky(None, 1), CLIENT, "was here before");
    // Weight 0 ends it, unless the sysctl is off.
    let mut leaving = sticky(Some(&[("10.0.0.0", 2)]), 1);
    leaving.virtual_servers[0].destinations[1].weight = 0;
    assert_eq!(keys(&leaving), ["1", "3"]);
    let path = "net/ipv4/vs/expire_quiescent_template";
    leaving.sysctls.insert(path.to_owned(), "0".to_owned());
    assert_eq!(keys(&leaving), ["2"]);
}

#[test]
fn a_connection_that_there_is_goes_on() {
    let (client, real) = ((ip(CLIENT), 40000), (ip("10.1.0.2"), 8080));
    let flow = |state| ConnectionFact {
        protocol: 6,
        original: [client, (ip(VIRTUAL), 80)],
        reply: [real, client],
        // Seen in both directions, assured, confirmed.
        status: 0xe,
        mark: 0,
        timeout: 100,
        state,
    };
    let with = |state| Survey { flows: vec![flow(state)], ..node(server("rr", 0, idle())) };
    assert_eq!(certain(&with(3), "10.0.0.2:40000").into_keys().collect::<Vec<_>>(), ["2"]);
    assert_eq!(certain(&with(3), "10.0.0.2:40001").len(), 3, "another one");
}

/// The order in which Linux lists destinations decides ties and hashes; what is made again of a
/// listing chooses as what was listed.
#[test]
fn what_is_made_again_of_a_listing_chooses_as_it_did() {
    for (scheduler, flags) in [("sh", 0x8), ("mh", 0x8), ("dh", 0), ("lc", 0), ("nq", 0), ("fo", 0)]
    {
        let first = load(node(server(
            scheduler,
            flags,
            vec![to(1, 1, Some((0, 0, 0))), to(2, 2, Some((0, 0, 0))), to(3, 2, Some((0, 0, 0)))],
        )));
        let mut kernel = Simulated::new(first.host);
        let Ok(Facts::VirtualServers(found)) = kernel.read(&Query::VirtualServers(Family::V4))
        else {
            panic!("no virtual servers");
        };
        let mut again = load(node(ServerFact::from(&found[0])));
        for last in 2..40 {
            let client: std::net::SocketAddr = format!("10.0.0.{last}:1000").parse().unwrap();
            let packet = sim::Packet::tcp(client, (ip(VIRTUAL), 80).into()).arriving(2);
            let (was, is) = (kernel.host().outcomes(&packet), again.outcomes(&packet));
            assert_eq!(was[0].1.packet.dst, is[0].1.packet.dst, "{scheduler} {last}");
        }
    }
}

#[test]
fn a_dump_of_an_older_version_is_read_and_says_less() {
    let old = r#"{"protocol":6,"at":["10.96.0.1",80],"scheduler":"lc","flags":0,"destinations":
        [{"at":["10.1.0.1",8080],"weight":1,"masquerades":true}]}"#;
    let fact: ServerFact = serde_json::from_str(old).unwrap();
    assert_eq!((fact.remembered, fact.destinations[0].connections), (None, None));
    let new = server("lc", 0, idle());
    let text = serde_json::to_string(&new).unwrap();
    assert_eq!(serde_json::from_str::<ServerFact>(&text).unwrap(), new);
}
