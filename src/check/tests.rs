//! Faults put into a survey by hand, and what is found. The lab plants them on Linux.

use super::*;
use crate::kernel::survey::{ConnectionFact, LinkFact, Survey};
use crate::netlink::read::{Attributes, text};
use crate::trace::tests::{events, options, survey};
use crate::trace::{desired, load};

fn checked(survey: Survey) -> Report {
    let (events, options) = (events(), options());
    let case = Case { events: &events, options: &options };
    let wanted = desired(survey.clone(), case.events, case.options);
    check(&mut load(survey), (&case, wanted), &mut |_, _| {})
}

/// The only finding.
fn finding(survey: Survey) -> Finding {
    let mut report = checked(survey);
    assert_eq!(report.findings.len(), 1, "{report}");
    report.findings.remove(0)
}

#[test]
fn a_healthy_node_is_found_healthy() {
    let report = checked(survey());
    assert!(report.findings.is_empty() && report.gaps.is_empty(), "{report}");
    assert!(report.packets > report.frontends, "{report}");
}

#[test]
fn forwarding_that_is_off_is_one_finding() {
    let mut survey = survey();
    survey.sysctls.insert("net/ipv4/ip_forward".into(), "0".into());
    let found = finding(survey);
    assert_eq!(found.sort, Sort::Setting);
    assert!(found.cause.contains("ip_forward") && found.example.is_some(), "{found:?}");
}

#[test]
fn a_table_that_is_gone_is_drift() {
    let mut survey = survey();
    survey.nft.clear();
    let report = checked(survey);
    let all: Vec<&str> = report.findings.iter().map(|f| f.cause.as_str()).collect();
    assert!(
        all.contains(&"table ip kube-proxy is not there: is kube-proxy running, in nftables mode?"),
        "{report}"
    );
    let counted = report.findings.iter().find(|f| f.frontends > 0).unwrap();
    assert!(counted.example.as_ref().unwrap().contains("promised"), "{report}");
}

#[test]
fn a_missing_rule_is_named_and_shown_by_a_packet() {
    let mut survey = survey();
    let of_chain = |attributes: &[u8]| Attributes::new(attributes).get(2).map(text);
    let before = survey.nft.len();
    survey.nft.retain(|o| {
        !(o.kind == 6
            && o.family == 2
            && of_chain(&o.attributes).as_deref() == Some("masquerading"))
    });
    assert_eq!(before - survey.nft.len(), 2);
    let report = checked(survey);
    assert_eq!(report.findings.len(), 2, "{report}");
    assert!(
        report
            .findings
            .iter()
            .all(|f| f.cause.contains("chain masquerading") && f.cause.contains("missing")),
        "{report}"
    );
    assert!(report.findings.iter().any(|f| f.frontends == 2), "{report}");
}

#[test]
fn stale_connections_and_bridges_are_found() {
    let mut survey = survey();
    survey.flows.push(ConnectionFact {
        protocol: 6,
        original: [("1.1.1.1".parse().unwrap(), 9), ("10.96.0.10".parse().unwrap(), 80)],
        reply: [("10.9.9.9".parse().unwrap(), 80), ("1.1.1.1".parse().unwrap(), 9)],
        status: 1 << 5,
        mark: 0,
        timeout: 9,
        state: 3,
    });
    assert!(checked(survey.clone()).findings.is_empty(), "TCP ends by itself");
    survey.links[2].name = "cni0".into();
    let port = LinkFact {
        index: 6,
        name: "veth1".into(),
        bridge: Some(5),
        hairpin: Some(false),
        ..LinkFact::default()
    };
    survey.links.push(port);
    let found = checked(survey.clone()).findings;
    let causes: Vec<&str> = found.iter().map(|f| f.cause.as_str()).collect();
    assert!(
        causes.iter().any(|c| c.contains("hairpin_mode is off on veth1 of bridge cni0")),
        "{causes:?}"
    );
    assert!(causes.iter().any(|c| c.contains("br_netfilter")), "{causes:?}");
    survey.links[2].promiscuous = true;
    survey.sysctls.insert("net/bridge/bridge-nf-call-iptables".into(), "1".into());
    assert!(checked(survey).findings.is_empty());
}

#[test]
fn changes_are_supposed_and_not_made() {
    let (events, options) = (events(), options());
    let world = load(survey());
    let before = Case { events: &events, options: &options };
    let mut later = (events.clone(), options.clone());
    let drain = Change::parse("node-drain=node-2").unwrap();
    assert!(drain.apply(&mut later.0, &mut later.1));
    let found = effects(&world, &before, &Case { events: &later.0, options: &later.1 });
    let words: Vec<String> =
        found.iter().map(|e| format!("{} {}: {}", e.service, e.frontend, e.words)).collect();
    assert_eq!(
        words,
        [
            "default/web:http node port 30080 TCP: now 2 endpoints, then 1 endpoint",
            "default/web:http 10.96.0.10:80 TCP: now 2 endpoints, then 1 endpoint",
        ]
    );
    assert!(!Change::parse("endpoint-down=1.2.3.4").unwrap().apply(&mut later.0, &mut later.1));
    assert!(Change::parse("weather=fair").unwrap_err().contains("node-drain=NAME"));
}

/// What would become of the Services, if a change were made.
fn supposed(change: &str) -> Vec<String> {
    let (events, options) = (events(), options());
    let world = load(survey());
    let before = Case { events: &events, options: &options };
    let mut later = (events.clone(), options.clone());
    assert!(Change::parse(change).unwrap().apply(&mut later.0, &mut later.1), "{change}");
    let found = effects(&world, &before, &Case { events: &later.0, options: &later.1 });
    found.iter().map(|e| format!("{}: {}", e.frontend, e.words)).collect()
}

#[test]
fn a_field_is_supposed_to_have_another_value() {
    assert_eq!(
        supposed("set-field=default/web:spec.externalTrafficPolicy=Local"),
        ["node port 30080 TCP: now 2 endpoints, then 1 endpoint"]
    );
    assert_eq!(
        supposed("set-field=default/web:internalTrafficPolicy=Local"),
        ["10.96.0.10:80 TCP: now 2 endpoints, then 1 endpoint"]
    );
    assert_eq!(
        supposed("set-field=default/web:sessionAffinity=ClientIP:60").last().unwrap(),
        "10.96.0.10:80 TCP: clients remembered now not at all, then for 60 s"
    );
    assert_eq!(
        supposed("set-field=default/web:externalIPs=192.0.2.99"),
        ["192.0.2.99:80 TCP: now not there, then 2 endpoints"]
    );
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
