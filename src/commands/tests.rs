//! Questions of a dump, from command line to words and exit code.

use std::path::PathBuf;

use super::*;
use crate::check::Effect;
use crate::cli::{Action, parse};
use crate::kernel::survey::LinkFact;
use crate::trace::tests::{events, options, survey};

/// A file with a dump of a node that is not this machine; it goes when it is dropped.
struct Written(PathBuf);

impl Written {
    fn new(name: &str, change: impl FnOnce(&mut Dump)) -> Written {
        let mut dump =
            Dump { survey: survey(), options: Some(options()), events: events(), pods: Vec::new() };
        change(&mut dump);
        let name = format!("kube-proxy-{}-{name}.dump", std::process::id());
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, format::write(&dump)).unwrap();
        Written(file)
    }

    fn asked(&self, line: &str) -> Said {
        let from = format!("--from={}", self.0.display());
        let words = ["kube-proxy"].into_iter().chain(line.split_whitespace());
        match parse(words.chain([from.as_str()])) {
            Ok(Action::Ask(asked)) => answer(&asked),
            other => panic!("{line}: {other:?}"),
        }
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn pods(dump: &mut Dump) {
    dump.pods = vec![Pod {
        name: crate::model::NamespacedName::new("default", "web-1"),
        addresses: vec!["10.244.1.11".parse().unwrap()],
    }];
}

#[test]
fn a_dump_is_judged_as_the_node_that_it_is_of() {
    let dump = Written::new("node", pods);
    // This machine is not called node-1; a name that is given is not the dump's either.
    for name in ["", "--hostname-override=elsewhere"] {
        let said = dump.asked(&format!("trace outside svc/default/web:http {name}"));
        assert_eq!((said.code, said.error.as_str()), (WELL, ""), "{}", said.out);
        let node = dump.asked(&format!("trace pod/web-1 node:30080 {name}"));
        assert!(node.out.starts_with("tcp 10.244.1.11 → 172.18.1.2:30080"), "{}", node.out);
        let said = dump.asked(&format!("check {name}"));
        assert_eq!(said.code, WELL, "{}", said.out);
        let said = dump.asked(&format!("trace outside svc/default/web:http --compare {name}"));
        assert!(said.out.ends_with("\nlive and desired rules do the same\n"), "{}", said.out);
        assert_eq!(said.out.matches("tcp 203").count(), 1, "{}", said.out);
    }
}

#[test]
fn the_node_of_a_dump_is_the_one_that_is_asked() {
    // Two addresses, of which the Node names the second: only who knows the Node finds it.
    let dump = Written::new("second", |dump| {
        let eth0 = &mut dump.survey.links[1].addresses;
        eth0.insert(0, ("172.18.9.9".parse().unwrap(), 24));
    });
    let said = dump.asked("trace outside node:30080");
    assert!(said.out.contains("→ 172.18.1.2:30080"), "{}{}", said.error, said.out);
}

#[test]
fn pods_that_are_not_known_are_not_said_to_be_absent() {
    let dump = Written::new("podless", |_| {});
    let said = dump.asked("trace pod/default/web-1 svc/default/web:http");
    assert_eq!((said.code, said.out.as_str()), (UNKNOWN, ""));
    assert!(
        said.error.contains("the dump names no pods; give the pod's address"),
        "{}",
        said.error
    );
    // Who asks for no pod is answered, and told.
    let said = dump.asked("trace 10.244.1.11 svc/default/web:http");
    assert_eq!(said.code, WELL, "{}", said.out);
    assert_eq!(said.error, "pods are not named: the dump names no pods\n");
    let said = dump.asked("names");
    assert_eq!((said.code, said.error.as_str()), (UNKNOWN, "no pods: the dump names no pods\n"));
    assert!(said.out.contains("svc/default/web:http"), "{}", said.out);
    let dump = Written::new("with-pods", pods);
    let said = dump.asked("names");
    assert_eq!((said.code, said.error.as_str()), (WELL, ""));
    let absent = dump.asked("trace pod/default/web-9 svc/default/web:http");
    assert!(absent.error.contains("there is no Pod default/web-9"), "{}", absent.error);
}

#[test]
fn changes_are_supposed_of_a_dump_and_of_manifests() {
    let dump = Written::new("what-if", |_| {});
    let said = dump.asked("check --what-if node-drain=node-2");
    expect_test::expect![[r#"
        default/web:http (node port 30080 TCP)
        default/web:http (10.96.0.10:80 TCP)
            for pods of this node, a pod that reaches itself, this node, outside: now 2 endpoints, then 1: without 10.244.2.12:8080 on node-2
        2 frontends would change on this node
    "#]].assert_eq(&said.out);
    assert_eq!(said.code, WRONG);
    let said = dump.asked("check --what-if mode=userspace");
    assert_eq!(said.code, WRONG, "{}", said.out);
    assert!(said.out.contains("supposed: --nodeport-addresses is not set"), "{}", said.out);
    assert!(said.out.contains("the source is seen now, then masqueraded"), "{}", said.out);
    let said =
        dump.asked("check --what-if set-field=default/web:externalIPs=192.0.2.1 --output json");
    let answer: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(answer["effects"][0]["frontend"], "192.0.2.1:80 TCP", "{answer:#}");
    assert_eq!(answer["effects"][0]["clients"][0]["come"].as_array().map(Vec::len), Some(2));
    let said = dump.asked("check --what-if node-drain=nowhere");
    assert!(said.code == UNKNOWN && said.error.contains("nothing that it would change"));
    // The objects of a folder, on the node of the dump.
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let dump = Written::new("examples", |dump| dump.events.clear());
    let said = dump.asked(&format!(
        "check --manifests {folder} --what-if set-field=default/shop:externalTrafficPolicy=Local"
    ));
    assert_eq!(said.code, WRONG, "{}{}", said.error, said.out);
    assert!(said.out.contains("default/shop:http (node port 30080 TCP)"), "{}", said.out);
}

#[test]
fn frontends_for_which_the_same_is_other_stand_together() {
    let effect = |name: &str, words: &str| Effect {
        service: name.to_owned(),
        frontend: "node port 1 TCP".to_owned(),
        words: vec![words.to_owned()],
        clients: Vec::new(),
    };
    let effects = ["a", "b", "c", "d", "e"].map(|name| effect(name, "gone"));
    let effects = [vec![effect("x", "other")], effects.to_vec()].concat();
    let supposed = supposed::Supposed { effects, assumed: Vec::new(), gaps: Vec::new() };
    let lines = "x (node port 1 TCP)\n    other\na (node port 1 TCP)\nb (node port 1 TCP)\n\
                 c (node port 1 TCP), and 2 more frontends\n    gone\n\
                 6 frontends would change on this node\n";
    assert_eq!(supposed.to_string(), lines);
}

#[test]
fn a_node_that_is_not_among_the_objects_is_a_doubt() {
    let dump = Written::new("nodeless", |dump| {
        dump.events.retain(|event| !matches!(event, Event::Node(_)));
    });
    let said = dump.asked("check --what-if set-field=default/web:sessionAffinity=ClientIP");
    assert!(
        said.out.contains("not known: Node node-1: it is not among the objects"),
        "{}",
        said.out
    );
}

#[test]
fn what_can_be_supposed_is_named() {
    let dump = Written::new("changes", |_| {});
    let said = dump.asked("names --changes");
    assert_eq!(said.code, WELL, "{}", said.error);
    for line in [
        "mode=ipvs",
        "node-drain=node-2",
        "endpoint-down=10.244.2.12",
        "set-field=default/web:externalTrafficPolicy=Local",
        "set-field=default/web:externalIPs=",
    ] {
        assert!(said.out.lines().any(|known| known == line), "{line}: {}", said.out);
    }
}

#[test]
fn what_rules_do_otherwise_is_told_in_every_form() {
    let dump = Written::new("gone", |dump| dump.survey.nft.clear());
    let line = "trace outside svc/default/web:http --compare --hostname-override=node-1";
    let said = dump.asked(line);
    assert_eq!(said.code, WRONG, "{}", said.out);
    let told = "live and desired rules DIFFER:\n  no endpoint: live forwarded (1); desired never\n";
    assert!(said.out.contains(told), "{}", said.out);
    let said = dump.asked(&format!("{line} --output json"));
    let answer: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(answer["differences"].as_array().map(Vec::len), Some(3), "{answer:#}");
    let said = dump.asked(&format!("{line} --output mermaid"));
    assert_eq!(said.out.matches("flowchart").count(), 1, "{}", said.out);
}

#[test]
fn a_link_with_the_address_of_another_is_found_in_a_dump() {
    let dump = Written::new("twice", |dump| {
        dump.survey.links.push(LinkFact {
            index: 9,
            name: "eth9".into(),
            up: true,
            addresses: vec![("172.18.1.2".parse().unwrap(), 24)],
            ..LinkFact::default()
        });
    });
    let said = dump.asked("check");
    assert_eq!(said.code, WRONG);
    assert!(said.out.contains("172.18.1.2/24 is on eth0 and on eth9"), "{}", said.out);
}
