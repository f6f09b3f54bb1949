//! ipvs mode against the simulated kernel: what is ours, what leaves, in which order, at what cost.
//! Fates of packets in general are proved in `proptests`.

use std::time::Duration;

use sim::ipvs::{Destination, Scheduler, Service, ServiceKey};

use super::tests::{Shared, feed, options, proxy_with, service, simulated, slice};
use super::*;
use crate::kernel::Query;
use crate::kernel::XtablesText;
use crate::kernel::record::Exchange;
use crate::kernel::simulated::Simulated;
use crate::kernel::{IpsetOperation, IpvsOperation};
use crate::model::Reason;

fn ipvs_options() -> Options {
    Options {
        mode: Mode::Ipvs,
        node_port_addresses: NodePortAddresses::Cidrs(Vec::new()),
        families: vec![Family::V4],
        ..options()
    }
}

fn told(kernel: Box<dyn Kernel + Send>, options: Options, objects: &str) -> Proxy {
    proxy_with(options, kernel, objects)
}

fn key(address: &str, port: u16) -> ServiceKey {
    ServiceKey::new(6, address.parse().unwrap(), port)
}

/// Addresses of a virtual server's destinations with their weights.
fn weights(kernel: &Simulated, at: &ServiceKey) -> Vec<(String, i32)> {
    let mut found: Vec<_> = kernel
        .host()
        .ipvs_destinations(at)
        .iter()
        .map(|to| (to.address.to_string(), to.weight))
        .collect();
    found.sort();
    found
}

fn connect(kernel: &Simulated, port: u16) -> Option<String> {
    let from = format!("10.0.7.7:{port}").parse().unwrap();
    let packet = sim::Packet::tcp(from, "10.96.0.1:80".parse().unwrap());
    let link = kernel.host().link("eth0").map(|link| link.index).unwrap();
    let outcome = kernel.host().receive(&packet, link);
    let left = matches!(outcome.fate, sim::Fate::Sent(_) | sim::Fate::Forwarded(_));
    left.then(|| outcome.packet.dst.to_string())
}

fn web(endpoints: &[&str]) -> String {
    service("web", "10.96.0.1", "") + &slice("web", "TCP", endpoints)
}

#[test]
fn nobody_elses_virtual_server_is_touched_and_ours_of_before_go() {
    let kernel = simulated();
    told(Box::new(kernel.clone()), ipvs_options(), &(web(&[]) + &service("old", "10.96.0.9", "")))
        .sync()
        .unwrap();
    let foreign = key("192.168.0.2", 443);
    kernel.host().ipvs_add_service(Service::new(foreign, Scheduler::Wlc)).unwrap();
    let real = Destination::new("10.9.9.9".parse().unwrap(), 443);
    kernel.host().ipvs_add_destination(&foreign, real).unwrap();
    // A new process, to which the second Service is not known any more.
    let mut proxy = told(Box::new(kernel.clone()), ipvs_options(), &web(&[]));
    proxy.sync().unwrap();
    let there: Vec<ServiceKey> = kernel.host().ipvs_services().iter().map(|s| s.key).collect();
    assert!(there.contains(&foreign) && there.contains(&key("10.96.0.1", 80)), "{there:?}");
    assert_eq!(there.len(), 2, "{there:?}");
    assert_eq!(weights(&kernel, &foreign), [("10.9.9.9".to_owned(), 1)]);
    proxy.distrust_kernel();
    proxy.sync().unwrap();
    let mut kernel = kernel;
    assert!(cleanup::cleanup(&mut kernel).unwrap() > 0);
    let left: Vec<ServiceKey> = kernel.host().ipvs_services().iter().map(|s| s.key).collect();
    assert_eq!(left, [foreign]);
    assert!(kernel.host().link("kube-ipvs0").is_none());
    assert_eq!(kernel.host().ipset_save(), "");
    let nat = kernel.host().iptables_save(sim::XtFamily::V4, sim::XtTable::Nat);
    assert!(!nat.contains("KUBE"), "{nat}");
    assert_eq!(cleanup::cleanup(&mut kernel), Ok(0));
}

/// The rules that ask a set may be in the tables of iptables' other flavour, or somebody else's.
#[test]
fn a_set_that_a_rule_asks_outlives_the_cleanup_and_is_named() {
    let mut kernel = simulated();
    told(Box::new(kernel.clone()), ipvs_options(), &web(&["10.1.0.1"])).sync().unwrap();
    let rules = |verb: &str| XtablesText {
        family: Family::V4,
        text: format!(
            "*filter\n{verb} INPUT -m set --match-set KUBE-CLUSTER-IP dst,dst -j DROP\nCOMMIT\n"
        ),
        operations: 1,
    };
    kernel.apply(&Transaction::Xtables(rules("-A"))).unwrap();
    assert!(cleanup::cleanup(&mut kernel).unwrap() > 0);
    assert_eq!(cleanup::sets_left(&mut kernel), Ok(vec!["KUBE-CLUSTER-IP".to_owned()]));
    kernel.apply(&Transaction::Xtables(rules("-D"))).unwrap();
    assert_eq!(cleanup::cleanup(&mut kernel), Ok(1));
    assert_eq!(cleanup::sets_left(&mut kernel), Ok(vec![]));
}

#[test]
fn excluded_addresses_keep_their_virtual_servers() {
    let kernel = simulated();
    let mut excluding = ipvs_options();
    excluding.ipvs.excluded = vec!["10.96.0.0/24".parse().unwrap()];
    told(Box::new(kernel.clone()), ipvs_options(), &web(&[])).sync().unwrap();
    told(Box::new(kernel.clone()), excluding, "").sync().unwrap();
    assert_eq!(kernel.host().ipvs_services().len(), 1);
    told(Box::new(kernel.clone()), ipvs_options(), "").sync().unwrap();
    assert_eq!(kernel.host().ipvs_services().len(), 1, "its address is not bound any more");
}

#[test]
fn an_endpoint_leaves_when_its_connections_have_ended_also_over_a_restart() {
    let kernel = simulated();
    let web80 = key("10.96.0.1", 80);
    let mut proxy = told(Box::new(kernel.clone()), ipvs_options(), &web(&["10.1.0.1", "10.1.0.2"]));
    proxy.sync().unwrap();
    let first = connect(&kernel, 1000).unwrap();
    let second = connect(&kernel, 1001).unwrap();
    assert_ne!(first, second, "they take turns");
    assert_eq!(connect(&kernel, 1002).as_ref(), Some(&first));
    feed(&mut proxy, &slice("web", "TCP", &[&second]));
    proxy.sync().unwrap();
    let mut leaving = vec![(first.clone(), 0), (second.clone(), 1)];
    leaving.sort();
    assert_eq!(weights(&kernel, &web80), leaving);
    assert_eq!(connect(&kernel, 1003).as_ref(), Some(&second), "a new connection");
    // A port that comes again: connection tracking has to forget the old connection first, so that
    // Linux drops the first segment; the client sends it again a second later.
    assert_eq!(connect(&kernel, 1000), None);
    assert_eq!(connect(&kernel, 1000).as_ref(), Some(&second), "a port that comes again");
    // Another client is still there: a restart neither takes it away nor forgets it.
    let mut proxy = told(Box::new(kernel.clone()), ipvs_options(), &web(&[&second]));
    proxy.sync().unwrap();
    assert_eq!(weights(&kernel, &web80), leaving);
    kernel.host().advance(Duration::from_secs(3600));
    proxy.tidy().unwrap();
    assert_eq!(weights(&kernel, &web80), [(second, 1)]);
}

#[test]
fn one_that_comes_back_gets_its_weight_again_and_strange_weights_are_put_right() {
    let kernel = simulated();
    let web80 = key("10.96.0.1", 80);
    let both = web(&["10.1.0.1", "10.1.0.2"]);
    told(Box::new(kernel.clone()), ipvs_options(), &both).sync().unwrap();
    for (address, weight) in [("10.1.0.1", 0), ("10.1.0.2", 7)] {
        let changed = Destination::new(address.parse().unwrap(), 8080).weighing(weight);
        kernel.host().ipvs_edit_destination(&web80, changed).unwrap();
    }
    let shared = Shared::new(kernel.clone());
    told(Box::new(shared.clone()), ipvs_options(), &both).sync().unwrap();
    let wanted = ["10.1.0.1", "10.1.0.2"].map(|a| (a.to_owned(), 1));
    assert_eq!(weights(&kernel, &web80), wanted);
    let edits: Vec<Transaction> = written(&shared);
    assert!(
        matches!(&edits[..], [Transaction::Ipvs(two)] if two.len() == 2),
        "edits and nothing else: {edits:?}"
    );
}

fn written(shared: &Shared) -> Vec<Transaction> {
    let said = shared.take().into_iter();
    said.filter_map(|exchange| match exchange {
        // Each simulated heart has sysctls of its own.
        Exchange::Applied(Transaction::Sysctl(..), _) | Exchange::Read(..) => None,
        Exchange::Applied(transaction, _) => Some(transaction),
    })
    .collect()
}

#[test]
fn sets_and_rules_are_there_before_the_first_virtual_server() {
    let shared = Shared::new(simulated());
    told(Box::new(shared.clone()), ipvs_options(), &web(&["10.1.0.1"])).sync().unwrap();
    let order: Vec<&str> = written(&shared)
        .iter()
        .filter_map(|transaction| match transaction {
            Transaction::Ipset(_) => Some("sets"),
            Transaction::Xtables(_) => Some("rules"),
            Transaction::Ipvs(_) => Some("servers"),
            Transaction::Links(_) => Some("addresses"),
            _ => None,
        })
        .collect();
    assert_eq!(order, ["sets", "rules", "servers", "addresses"]);
}

#[test]
fn one_endpoint_costs_the_same_among_few_and_many_services() {
    let cost = |services: usize| {
        let shared = Shared::new(simulated());
        let mut objects = web(&["10.1.0.1"]);
        for n in 0..services {
            objects += &service(&format!("s{n}"), &format!("10.97.{}.{}", n / 250, n % 250), "");
        }
        let mut proxy = told(Box::new(shared.clone()), ipvs_options(), &objects);
        proxy.sync().unwrap();
        shared.take();
        feed(&mut proxy, &slice("web", "TCP", &["10.1.0.1", "10.1.0.2"]));
        proxy.sync().unwrap();
        let said = shared.take();
        let [Exchange::Applied(Transaction::Ipvs(done), _)] = &said[..] else {
            panic!("one transaction, nothing read: {said:?}");
        };
        assert!(matches!(done[..], [IpvsOperation::AddDestination(..)]), "{done:?}");
    };
    [3, 300].into_iter().for_each(cost);
}

#[test]
fn a_service_chooses_its_scheduler_by_annotation() {
    let kernel = simulated();
    let asking = |scheduler: &str| {
        web(&["10.1.0.1"]).replacen(
            "namespace: ns}",
            &format!("namespace: ns, annotations: {{kube-proxy.io/ipvs-scheduler: {scheduler}}}}}"),
            1,
        )
    };
    let mut proxy = told(Box::new(kernel.clone()), ipvs_options(), &asking("mh"));
    proxy.sync().unwrap();
    let scheduler = || kernel.host().ipvs_services()[0].scheduler;
    assert_eq!((scheduler(), proxy.notices()), (Scheduler::Mh, Vec::new()));
    feed(&mut proxy, &asking("'rr:mh-port'"));
    proxy.sync().unwrap();
    assert_eq!(scheduler(), Scheduler::Rr);
    assert_eq!(proxy.notices()[0].reason, Reason::InvalidField);
    feed(&mut proxy, &web(&["10.1.0.1"]));
    proxy.sync().unwrap();
    assert_eq!(proxy.notices(), []);
}

#[test]
fn an_older_set_is_exchanged_for_one_that_takes_more() {
    let mut kernel = simulated();
    kernel
        .host()
        .ipset_restore("create KUBE-CLUSTER-IP hash:ip,port\nadd KUBE-CLUSTER-IP 10.96.0.9,tcp:1\n")
        .unwrap();
    told(Box::new(kernel.clone()), ipvs_options(), &web(&[])).sync().unwrap();
    let saved = kernel.host().ipset_save_one("KUBE-CLUSTER-IP").unwrap();
    assert!(saved.contains("maxelem 1048576") && saved.contains("10.96.0.1,tcp:80"), "{saved}");
    assert!(!saved.contains("10.96.0.9"), "{saved}");
    assert!(!kernel.host().ipset_names().iter().any(|name| name.contains("NEXT")));
    // One of another type is somebody else's.
    let strange = vec![IpsetOperation::Destroy("KUBE-LOOP-BACK".to_owned())];
    cleanup::cleanup(&mut kernel).unwrap();
    assert!(kernel.apply(&Transaction::Ipset(strange)).is_err(), "it is gone");
    kernel.host().ipset_restore("create KUBE-LOOP-BACK hash:ip\n").unwrap();
    let error =
        told(Box::new(kernel.clone()), ipvs_options(), &web(&[])).sync().expect_err("not ours");
    assert!(error.to_string().contains("KUBE-LOOP-BACK"), "{error}");
    assert!(kernel.host().ipvs_services().is_empty());
}

#[test]
fn health_check_ports_do_not_listen_on_addresses_of_services() {
    let within = vec!["10.0.0.0/8".parse().unwrap(), "192.168.0.0/16".parse().unwrap()];
    let options =
        Options { node_port_addresses: NodePortAddresses::Cidrs(within), ..ipvs_options() };
    let mut proxy = told(Box::new(simulated()), options, &web(&["10.1.0.1"]));
    proxy.sync().unwrap();
    let here: IpAddr = "192.168.0.2".parse().unwrap();
    assert_eq!(proxy.health_check_addresses(), BTreeSet::from([here]));
}

#[test]
fn a_node_is_prepared_by_its_sysctls() {
    let mut kernel = simulated();
    let strict =
        Options { ipvs: IpvsOptions { strict_arp: true, ..ipvs_options().ipvs }, ..ipvs_options() };
    prepare_node(&mut kernel, &strict).unwrap();
    let value = |kernel: &mut Simulated, path: &str| match kernel.read(&Query::Sysctl(path.into()))
    {
        Ok(Facts::Text(value)) => value,
        other => format!("{other:?}"),
    };
    for (path, wanted) in [
        ("net/ipv4/vs/conntrack", "1"),
        ("net/ipv4/vs/expire_nodest_conn", "1"),
        ("net/ipv4/vs/expire_quiescent_template", "1"),
        ("net/ipv4/conf/all/arp_ignore", "1"),
        ("net/ipv4/conf/all/arp_announce", "2"),
    ] {
        assert_eq!(value(&mut kernel, path), wanted, "{path}");
    }
}
