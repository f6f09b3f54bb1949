//! A dump of a node that this proxy has programmed, and rules of others.

use std::net::IpAddr;

use super::*;
use crate::backend::xtables::chain::Names;
use crate::kernel::survey::{ConnectionFact, NftObject};
use crate::model::{Family, NamespacedName, Protocol, ServicePortName};
use crate::netlink::expr::{Compare, Rule, Verdict};
use crate::netlink::nft::message;
use crate::netlink::octets;
use crate::netlink::set::Field;
use crate::netlink::write::Writer;
use crate::trace::tests::{asked_with, events, objects, options, pods, survey};

const CLUSTER: [&str; 6] =
    ["10.96.0.10", "10.96.0.11", "10.244.1.11", "10.244.2.12", "172.18.1.2", "172.18.1.1"];

fn dump() -> Dump {
    let mut survey = survey();
    survey.flows.push(ConnectionFact {
        protocol: 17,
        original: [(ip("172.18.1.9"), 999), (ip("10.96.0.10"), 53)],
        reply: [(ip("10.244.2.12"), 53), (ip("172.18.1.9"), 999)],
        status: 8,
        mark: 0,
        timeout: 9,
        state: 0,
    });
    Dump { survey, options: Some(options()), events: events(), pods: pods() }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The file, with every place where it has an address of this list.
fn told(dump: &Dump, addresses: &[&str]) -> Vec<String> {
    let text = crate::trace::dump::write(dump);
    let found = addresses.iter().filter(|address| {
        let hex: String = octets(ip(address)).iter().map(|byte| format!("{byte:02x}")).collect();
        text.contains(*address) || text.contains(&hex) || text.contains(&address.replace('.', "-"))
    });
    found.map(|address| (*address).to_owned()).collect()
}

#[test]
fn no_address_is_told_and_the_answers_are_the_same() {
    let dump = dump();
    assert_eq!(told(&dump, &CLUSTER), CLUSTER, "the test looks where they are");
    let mut replace = replace(&dump, 7).unwrap();
    let other = anonymise(&dump, 7).unwrap();
    assert_eq!((other.kept, told(&other.dump, &CLUSTER)), (0, Vec::new()));
    assert_ne!(anonymise(&dump, 8).unwrap(), other, "drawn anew");
    let questions = [
        ("outside", "svc/default/web:http"),
        ("pod/web-1", "svc/default/web:80"),
        ("outside", "node:30080"),
        ("node", "svc/other/web:80"),
        ("pod/web-1", "pod/web-1:8080"),
    ];
    for (from, to) in questions {
        let words = |dump: &Dump| {
            asked_with((&dump.events, &dump.pods), dump.survey.clone(), from, to).unwrap()
        };
        let ((live, before), (then, after)) = (words(&dump), words(&other.dump));
        let renamed = words::rename(&before, &mut replace);
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&renamed), sorted(&after), "{from} {to}");
        assert_eq!(live.is_certain(), then.is_certain());
    }
}

#[test]
fn rules_of_others_are_walked_with_what_their_registers_hold() {
    let mut dump = dump();
    let mut batch = crate::netlink::nft::Batch::new(Family::V4, "fw");
    batch.add_table("");
    batch.add_chain("at-10.96.0.10", None);
    let network = "10.96.0.0/16".parse().unwrap();
    let within = Rule::new().address_in(Family::V4, Field::Address, (Compare::Equal, network));
    batch.add_rule("at-10.96.0.10", &within.verdict(Verdict::Jump("at-10.96.0.10")));
    dump.survey.nft = objects(&batch.finish());
    assert_eq!(told(&dump, &["10.96.0.10"]), ["10.96.0.10"]);
    let mut replace = replace(&dump, 7).unwrap();
    let done = walk(&dump, &mut replace).unwrap();
    let others = replace.others;
    let (first, at) = (others.of(ip("10.96.0.0")), others.of(ip("10.96.0.10")));
    let holds = |object: &NftObject, bytes: &[u8]| {
        object.attributes.windows(bytes.len()).any(|window| window == bytes)
    };
    let rule = done.survey.nft.iter().find(|object| object.kind == message::NEW_RULE).unwrap();
    assert!(holds(rule, &octets(first)), "{rule:?}");
    assert!(holds(rule, format!("at-{at}").as_bytes()), "a chain is still called by its name");
    assert!(!holds(rule, &[10, 96]));
}

#[test]
fn what_has_no_known_form_is_blanked() {
    let mut dump = dump();
    let mut w = Writer::new();
    w.text(1, "fw");
    w.text(2, "in");
    w.nest(4, |w| {
        w.nest(1, |w| {
            w.text(1, "target");
            w.nest(2, |w| {
                w.text(1, "DNAT");
                w.bytes(3, &[1, 0, 10, 96, 0, 10]);
            });
        });
    });
    dump.survey.nft =
        vec![NftObject { kind: message::NEW_RULE, family: 2, attributes: w.into_bytes() }];
    let other = anonymise(&dump, 1).unwrap().dump.survey.nft.remove(0);
    assert!(!other.attributes.windows(4).any(|window| window == [10, 96, 0, 10]));
    assert_eq!(other.attributes.len(), dump.survey.nft[0].attributes.len());
}

#[test]
fn chains_of_endpoints_get_the_names_that_other_addresses_have() {
    let dump = dump();
    let port = ServicePortName {
        service: NamespacedName::new("default", "web"),
        port: "http".into(),
        protocol: Protocol::Tcp,
    };
    let names = Names::new(&port);
    let mut replace = replace(&dump, 7).unwrap();
    let other = replace.others.of(ip("10.244.1.11"));
    let was = format!("-A {}", names.endpoint("10.244.1.11:8080"));
    let is = format!("-A {}", names.endpoint(&format!("{other}:8080")));
    assert_eq!(words::rename(&was, &mut replace), is);
    let gone = names.endpoint("10.244.9.9:8080").to_string();
    assert_ne!(words::rename(&gone, &mut replace), gone, "nobody can try its address");
}
