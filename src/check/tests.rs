//! Faults put into a survey by hand, and what is found. The lab plants them on Linux.

use super::*;
use crate::kernel::survey::Survey;
use crate::netlink::read::{Attributes, text};
use crate::trace::tests::{events, options, survey};
use crate::trace::{desired, load};

pub(super) fn checked(survey: Survey) -> Report {
    checked_for(&events(), survey)
}

/// The same with other objects.
pub(super) fn checked_for(events: &[Event], survey: Survey) -> Report {
    let options = options();
    let case = Case { events, options: &options };
    let wanted = desired(survey.clone(), case.events, case.options);
    check(&mut load(survey), (&case, wanted), &mut |_, _| {})
}

/// The only finding.
pub(super) fn finding(survey: Survey) -> Finding {
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
