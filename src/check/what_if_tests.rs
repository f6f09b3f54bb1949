//! Changes that are supposed, and what is said of them. Texts are renewed with `UPDATE_EXPECT=1`.

use super::*;
use crate::api::{Decoder, decode_text};
use crate::model::{self, Mode};
use crate::sync::Options;
use crate::trace::load;
use crate::trace::tests::{events, options, survey};

/// One Service of every kind that modes treat differently, beside the one of `trace::tests`.
const MORE: &str = "\
kind: Service
metadata: {name: near, namespace: default}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.20
  externalTrafficPolicy: Local
  healthCheckNodePort: 32000
  loadBalancerSourceRanges: [198.51.100.0/24]
  ports: [{port: 80, nodePort: 30090}]
status: {loadBalancer: {ingress: [{ip: 192.0.2.20}]}}
---
kind: EndpointSlice
metadata: {name: near-1, namespace: default, labels: {kubernetes.io/service-name: near}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- {addresses: [10.244.1.11], nodeName: node-1}
- {addresses: [10.244.2.12], nodeName: node-2}
---
kind: Service
metadata: {name: phone, namespace: default}
spec: {clusterIP: 10.96.0.30, ports: [{port: 5060, protocol: SCTP}]}
---
kind: EndpointSlice
metadata: {name: phone-1, namespace: default, labels: {kubernetes.io/service-name: phone}}
addressType: IPv4
ports: [{port: 5060, protocol: SCTP}]
endpoints: [{addresses: [10.244.2.13], nodeName: node-2}]
";

fn more_events() -> Vec<model::Event> {
    let mut all = events();
    let end = all.iter().position(|event| matches!(event, model::Event::ListEnded(_))).unwrap();
    let more = decode_text(MORE, &mut Decoder::new("node-1"));
    all.splice(end..end, more);
    all
}

fn lines(effects: &[Effect]) -> String {
    let mut text = String::new();
    for effect in effects {
        text.push_str(&format!("{} ({})\n", effect.service, effect.frontend));
        effect.words.iter().for_each(|words| text.push_str(&format!("    {words}\n")));
        for clients in &effect.clients {
            let words = &clients.contrast.words;
            text.push_str(&format!("    for {}: {words}\n", clients.who.join(", ")));
        }
    }
    text
}

/// What would become of Services, if changes were made.
fn with(events: &[model::Event], options: &Options, changes: &[&str]) -> Vec<Effect> {
    let world = load(survey());
    let mut later = (events.to_vec(), options.clone());
    for change in changes {
        assert!(Change::parse(change).unwrap().apply(&mut later.0, &mut later.1), "{change}");
    }
    let before = Case { events, options };
    effects(&world, &before, &Case { events: &later.0, options: &later.1 })
}

fn supposed(change: &str) -> String {
    lines(&with(&more_events(), &options(), &[change]))
}

#[test]
fn a_drained_node_takes_its_endpoints_along() {
    expect_test::expect![[r#"
        default/web:http (node port 30080 TCP)
            for pods of this node, a pod that reaches itself, this node, outside: now 2 endpoints, then 1: without 10.244.2.12:8080 on node-2
        default/near (node port 30090 TCP)
            for pods of this node, a pod that reaches itself, this node: now 2 endpoints, then 1: without 10.244.2.12:8080 on node-2
        default/web:http (10.96.0.10:80 TCP)
            for pods of this node, a pod that reaches itself, this node, outside: now 2 endpoints, then 1: without 10.244.2.12:8080 on node-2
        default/near (10.96.0.20:80 TCP)
            for pods of this node, a pod that reaches itself, this node, outside: now 2 endpoints, then 1: without 10.244.2.12:8080 on node-2
        default/phone (10.96.0.30:5060 SCTP)
            for pods of this node, this node: now 1 endpoint (10.244.2.13:5060 on node-2), then refused: no endpoint
            for outside: now 1 endpoint (10.244.2.13:5060 on node-2), masqueraded, then refused: no endpoint
    "#]].assert_eq(&supposed("node-drain=node-2"));
    expect_test::expect![[r#"
        default/web:http (node port 30080 TCP)
            for pods of this node, a pod that reaches itself, this node, outside: now 2 endpoints, then 1: without 10.244.1.11:8080 on node-1
        default/near (node port 30090 TCP)
            for pods of this node, a pod that reaches itself, this node: now 2 endpoints, then 1: without 10.244.1.11:8080 on node-1
            for outside: now 1 endpoint (10.244.1.11:8080 on node-1), then dropped: no endpoint on this node
        default/web:http (10.96.0.10:80 TCP)
            for pods of this node, a pod that reaches itself, this node, outside: now 2 endpoints, then 1: without 10.244.1.11:8080 on node-1
        default/near (10.96.0.20:80 TCP)
            for pods of this node, a pod that reaches itself, this node, outside: now 2 endpoints, then 1: without 10.244.1.11:8080 on node-1
        default/near (192.0.2.20:80 TCP)
            health check node port 32000 tells of endpoints now 1 here, then none here, and load balancers pass this node by
            for sources in 198.51.100.0/24: now 1 endpoint (10.244.1.11:8080 on node-1), then dropped: no endpoint on this node
    "#]].assert_eq(&supposed("node-drain=node-1"));
    let mut later = (events(), options());
    assert!(!Change::parse("endpoint-down=1.2.3.4").unwrap().apply(&mut later.0, &mut later.1));
    assert!(Change::parse("weather=fair").unwrap_err().contains("node-drain=NAME"));
}

#[test]
fn endpoints_that_go_and_come_are_named() {
    let found = with(&more_events(), &options(), &["endpoint-down=10.244.2.13"]);
    assert_eq!(found.len(), 1);
    let contrast = &found[0].clients[0].contrast;
    assert_eq!(contrast.gone[0].to_string(), "10.244.2.13:5060");
    assert!(contrast.words.contains("10.244.2.13:5060 on node-2"), "{}", contrast.words);
    // Of many the first are named, and the rest are counted; as many that come are no silence.
    let mut now = more_events();
    let swapped = |from: &str, events: &mut Vec<model::Event>| {
        for event in events.iter_mut() {
            let model::Event::Slice(slice) = event else { continue };
            if &*slice.name.name != "phone-1" {
                continue;
            }
            let one = slice.endpoints[0].clone();
            let address = |last: u8| format!("{from}.{last}").parse().unwrap();
            let all = (1..=8).map(|n| model::Endpoint { address: address(n), ..one.clone() });
            slice.endpoints = all.collect();
        }
    };
    swapped("10.244.3", &mut now);
    let mut later = now.clone();
    swapped("10.244.4", &mut later);
    let (world, options) = (load(survey()), options());
    let before = Case { events: &now, options: &options };
    let found = effects(&world, &before, &Case { events: &later, options: &options });
    let words = &found[0].clients[0].contrast.words;
    assert!(words.starts_with("now 8 endpoints, then 8: without 10.244.3.1:5060 on"), "{words}");
    assert!(
        words.contains("10.244.3.5:5060 on node-2 and 3 more, with 10.244.4.1:5060"),
        "{words}"
    );
    assert_eq!(found[0].clients[0].contrast.gone.len(), 8);
}

#[test]
fn a_field_is_supposed_to_have_another_value() {
    let all = [
        "set-field=default/web:spec.externalTrafficPolicy=Local",
        "set-field=default/near:externalTrafficPolicy=Cluster",
        "set-field=default/web:internalTrafficPolicy=Local",
        "set-field=default/web:sessionAffinity=ClientIP:60",
        "set-field=default/web:externalIPs=192.0.2.99",
        "set-field=default/near:loadBalancerSourceRanges=",
        "set-field=default/near:loadBalancerSourceRanges=203.0.113.0/24",
    ];
    let told = all.map(|change| format!("{change}\n{}", supposed(change))).concat();
    expect_test::expect![[r#"
        set-field=default/web:spec.externalTrafficPolicy=Local
        default/web:http (node port 30080 TCP)
            for pods of this node: the source is masqueraded now, then seen
            for a pod that reaches itself: the source is masqueraded now, then seen, by 10.244.2.12:8080 on node-2
            for outside: now 2 endpoints, then 1: without 10.244.2.12:8080 on node-2; the source is masqueraded now, then seen
        set-field=default/near:externalTrafficPolicy=Cluster
        default/near (node port 30090 TCP)
            for pods of this node: the source is seen now, then masqueraded
            for a pod that reaches itself: the source is seen now, then masqueraded, by 10.244.2.12:8080 on node-2
            for outside: now 1 endpoint, then 2: with 10.244.2.12:8080 on node-2; the source is seen now, then masqueraded
        default/near (192.0.2.20:80 TCP)
            for sources in 198.51.100.0/24: now 1 endpoint, then 2: with 10.244.2.12:8080 on node-2; the source is seen now, then masqueraded
        set-field=default/web:internalTrafficPolicy=Local
        default/web:http (10.96.0.10:80 TCP)
            for pods of this node, a pod that reaches itself, this node, outside: now 2 endpoints, then 1: without 10.244.2.12:8080 on node-2
        set-field=default/web:sessionAffinity=ClientIP:60
        default/web:http (node port 30080 TCP)
            clients remembered now not at all, then for 60 s
        default/web:http (10.96.0.10:80 TCP)
            clients remembered now not at all, then for 60 s
        set-field=default/web:externalIPs=192.0.2.99
        default/web:http (192.0.2.99:80 TCP)
            now not there, then there
            for pods of this node, a pod that reaches itself, outside: now left alone by kube-proxy, then 2 endpoints (10.244.1.11:8080 on node-1, 10.244.2.12:8080 on node-2), masqueraded
            for this node: now left alone by kube-proxy, then 2 endpoints (10.244.1.11:8080 on node-1, 10.244.2.12:8080 on node-2)
        set-field=default/near:loadBalancerSourceRanges=
        default/near (192.0.2.20:80 TCP)
            open now to 198.51.100.0/24, then to everybody
            for pods of this node, this node: now dropped: not of its source ranges, then 2 endpoints (10.244.1.11:8080 on node-1, 10.244.2.12:8080 on node-2)
            for a pod that reaches itself: now dropped: not of its source ranges, then 2 endpoints (10.244.1.11:8080 on node-1, 10.244.2.12:8080 on node-2), some of them masqueraded
            for outside: now dropped: not of its source ranges, then 1 endpoint (10.244.1.11:8080 on node-1)
        set-field=default/near:loadBalancerSourceRanges=203.0.113.0/24
        default/near (192.0.2.20:80 TCP)
            open now to 198.51.100.0/24, then to 203.0.113.0/24
            for outside, sources in 203.0.113.0/24: now dropped: not of its source ranges, then 1 endpoint (10.244.1.11:8080 on node-1)
            for sources in 198.51.100.0/24: now 1 endpoint (10.244.1.11:8080 on node-1), then dropped: not of its source ranges
    "#]].assert_eq(&told);
    for (wrong, word) in [
        ("set-field=web:externalIPs=1.2.3.4", "NAMESPACE/NAME"),
        ("set-field=default/web:externalIPs=home", "\"home\" is not an IP address"),
        ("set-field=default/web:externalTrafficPolicy=Near", "Cluster or Local"),
        ("set-field=default/web:sessionAffinity=ClientIP:0", "1 to 86400"),
        ("set-field=default/web:selector=x", "loadBalancerSourceRanges"),
    ] {
        let why = Change::parse(wrong).unwrap_err();
        assert!(why.contains(word), "{why}");
    }
    let nobody = Change::parse("set-field=default/nobody:sessionAffinity=None").unwrap();
    assert!(!nobody.apply(&mut events(), &mut options()));
}

/// What a change from one mode to another does, with the defaults of the first.
fn between(from: Mode, to: Mode) -> Vec<Effect> {
    let node_port_addresses = match from {
        Mode::Nftables => model::NodePortAddresses::Primary,
        _ => model::NodePortAddresses::Cidrs(Vec::new()),
    };
    let options = Options { mode: from, node_port_addresses, ..options() };
    with(&more_events(), &options, &[&format!("mode={}", to.as_str())])
}

#[test]
fn every_mode_differs_from_every_other_as_it_must() {
    for from in Mode::ALL {
        for to in Mode::ALL.into_iter().filter(|to| *to != from) {
            let told = lines(&between(from, to));
            let pair = format!("{} → {}:\n{told}", from.as_str(), to.as_str());
            // A connection that the proxy makes itself comes from the node, and cannot be SCTP's.
            let userspace = [from, to].contains(&Mode::Userspace);
            assert_eq!(told.contains("carries no SCTP"), userspace, "{pair}");
            assert_eq!(told.contains("default/phone"), userspace, "{pair}");
            let hides = told.contains("the source is seen now, then masqueraded");
            assert_eq!(hides, to == Mode::Userspace, "{pair}");
            // Node ports on loopback addresses are iptables mode's alone.
            let loopback = [from, to].contains(&Mode::Iptables);
            assert_eq!(told.contains("this node at 127.0.0.1"), loopback, "{pair}");
            // What leaves for a cluster IP at a port that it does not have.
            let guarded = |mode: Mode| mode != Mode::Iptables;
            let beside = told.contains("every Service (ports that a cluster IP does not have");
            assert_eq!(beside, guarded(from) != guarded(to), "{pair}");
            // In ipvs mode the node's own pods get the endpoints that are here.
            let local = told.contains("default/near (node port 30090 TCP)");
            assert!(local || ![from, to].contains(&Mode::Ipvs), "{pair}");
        }
    }
}

#[test]
fn changes_of_mode_are_told() {
    let told = [
        (Mode::Iptables, Mode::Nftables),
        (Mode::Nftables, Mode::Ipvs),
        (Mode::Nftables, Mode::Userspace),
    ];
    let told = told.map(|(from, to)| {
        format!("{} → {}\n{}", from.as_str(), to.as_str(), lines(&between(from, to)))
    });
    expect_test::expect![[r#"
        iptables → nftables
        default/web:http (node port 30080 TCP)
            for this node at 127.0.0.1: now 2 endpoints (10.244.1.11:8080 on node-1, 10.244.2.12:8080 on node-2), then left alone by kube-proxy
        default/near (node port 30090 TCP)
            for this node at 127.0.0.1: now 2 endpoints (10.244.1.11:8080 on node-1, 10.244.2.12:8080 on node-2), then left alone by kube-proxy
        every Service (ports that a cluster IP does not have, such as 10.96.0.10 65535)
            for pods of this node, this node, outside: now left alone by kube-proxy, then refused
        nftables → ipvs
        default/near (node port 30090 TCP)
            for pods of this node, a pod that reaches itself, this node: now 2 endpoints, then 1: without 10.244.2.12:8080 on node-2
        nftables → userspace
        default/near (node port 30090 TCP)
            for pods of this node, outside: the source is seen now, then masqueraded
            for a pod that reaches itself: the source is seen now, then masqueraded, by 10.244.2.12:8080 on node-2
        default/web:http (10.96.0.10:80 TCP)
            for pods of this node: the source is seen now, then masqueraded
            for a pod that reaches itself: the source is seen now, then masqueraded, by 10.244.2.12:8080 on node-2
        default/near (10.96.0.20:80 TCP)
            for pods of this node: the source is seen now, then masqueraded
            for a pod that reaches itself: the source is seen now, then masqueraded, by 10.244.2.12:8080 on node-2
        default/phone (10.96.0.30:5060 SCTP)
            for pods of this node, this node: now 1 endpoint (10.244.2.13:5060 on node-2), then refused: userspace mode carries no SCTP
            for outside: now 1 endpoint (10.244.2.13:5060 on node-2), masqueraded, then refused: userspace mode carries no SCTP
        default/near (192.0.2.20:80 TCP)
            for sources in 198.51.100.0/24: the source is seen now, then masqueraded
    "#]].assert_eq(&told.concat());
    // The same mode is no change.
    let same = Change::parse("mode=nftables").unwrap();
    assert!(!same.apply(&mut events(), &mut options()));
    assert!(Change::parse("mode=windows").unwrap_err().contains("iptables, ipvs, nftables"));
}

#[test]
fn defaults_that_go_by_the_mode_are_said() {
    let mode = |name: &str| Change::parse(&format!("mode={name}")).unwrap();
    let here = options();
    assert!(mode("iptables").assumes(&here).unwrap().contains("every address"));
    let chosen = model::NodePortAddresses::Cidrs(vec!["172.18.0.0/16".parse().unwrap()]);
    let mut chosen = Options { node_port_addresses: chosen, ..here };
    assert_eq!(mode("iptables").assumes(&chosen), None);
    mode("iptables").apply(&mut [], &mut chosen);
    assert!(
        matches!(&chosen.node_port_addresses, model::NodePortAddresses::Cidrs(c) if c.len() == 1)
    );
}
