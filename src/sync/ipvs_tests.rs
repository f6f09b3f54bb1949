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
use crate::model::{Reason, Steering};

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
    assert!(cleanup::cleanup(&mut kernel, &[]).unwrap() > 0);
    let left: Vec<ServiceKey> = kernel.host().ipvs_services().iter().map(|s| s.key).collect();
    assert_eq!(left, [foreign]);
    assert!(kernel.host().link("kube-ipvs0").is_none());
    assert_eq!(kernel.host().ipset_save(), "");
    let nat = kernel.host().iptables_save(sim::XtFamily::V4, sim::XtTable::Nat);
    assert!(!nat.contains("KUBE"), "{nat}");
    assert_eq!(cleanup::cleanup(&mut kernel, &[]), Ok(0));
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
    assert!(cleanup::cleanup(&mut kernel, &[]).unwrap() > 0);
    assert_eq!(cleanup::sets_left(&mut kernel), Ok(vec!["KUBE-CLUSTER-IP".to_owned()]));
    kernel.apply(&Transaction::Xtables(rules("-D"))).unwrap();
    assert_eq!(cleanup::cleanup(&mut kernel, &[]), Ok(1));
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
    cleanup::cleanup(&mut kernel, &[]).unwrap();
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

/// All that others can change of ipvs mode's own, each put right by the next look, by edits.
#[test]
fn what_others_change_is_found_and_put_right() {
    type Harm = (&'static str, fn(&mut sim::Host));
    let harms: [Harm; 10] = [
        ("virtual server TCP 10.96.0.9:80 is gone", |host| {
            host.ipvs_delete_service(&key("10.96.0.9", 80)).unwrap();
        }),
        ("virtual server TCP 10.96.0.9:80 chooses by wlc instead of rr", |host| {
            host.ipvs_edit_service(Service::new(key("10.96.0.9", 80), Scheduler::Wlc)).unwrap();
        }),
        ("virtual server TCP 10.96.0.9:80 has other flags or another persistence", |host| {
            let sticky = Service::new(key("10.96.0.9", 80), Scheduler::Rr).persistent(60);
            host.ipvs_edit_service(sticky).unwrap();
        }),
        ("virtual server TCP 10.96.0.9:80 has lost 10.1.0.8:8080", |host| {
            let real = "10.1.0.8".parse().unwrap();
            host.ipvs_delete_destination(&key("10.96.0.9", 80), real, 8080).unwrap();
        }),
        ("virtual server TCP 10.96.0.9:80 gives 10.1.0.8:8080 weight 0 instead of 1", |host| {
            let to = Destination::new("10.1.0.8".parse().unwrap(), 8080).weighing(0);
            host.ipvs_edit_destination(&key("10.96.0.9", 80), to).unwrap();
        }),
        ("virtual server TCP 10.96.0.9:80 has got 10.1.0.77:8080", |host| {
            let to = Destination::new("10.1.0.77".parse().unwrap(), 8080);
            host.ipvs_add_destination(&key("10.96.0.9", 80), to).unwrap();
        }),
        ("ipset KUBE-CLUSTER-IP has lost 10.96.0.1,tcp:80 (1 more like it)", |host| {
            host.ipset_restore("flush KUBE-CLUSTER-IP\n").unwrap();
        }),
        ("ipset KUBE-LOOP-BACK has got 10.1.0.8,tcp:1,10.1.0.8", |host| {
            host.ipset_restore("add KUBE-LOOP-BACK 10.1.0.8,tcp:1,10.1.0.8\n").unwrap();
        }),
        ("kube-ipvs0 has lost 10.96.0.9", |host| {
            let index = host.link("kube-ipvs0").unwrap().index;
            host.remove_address(index, "10.96.0.9".parse().unwrap());
        }),
        ("sysctl net/ipv4/vs/expire_nodest_conn is 0 instead of 1", |host| {
            host.ipvs_sysctls_mut().expire_nodest_conn = false;
        }),
    ];
    let two = web(&["10.1.0.1"])
        + &service("old", "10.96.0.9", "")
        + &slice("old", "TCP", &["10.1.0.8", "10.1.0.9"]);
    for (told_of, harm) in harms {
        let kernel = simulated();
        let mut proxy = told(Box::new(kernel.clone()), ipvs_options(), &two);
        proxy.sync().unwrap();
        let whole = state(&kernel);
        harm(&mut kernel.host());
        let seen = proxy.families[0].driver().look(&mut *proxy.kernel).unwrap();
        assert_eq!(seen.as_deref(), Some(told_of));
        proxy.check_kernel().unwrap();
        assert_eq!((proxy.drifts(), proxy.sync().unwrap().repaired), (1, 1), "{told_of}");
        assert_eq!(state(&kernel), whole, "{told_of}");
        proxy.check_kernel().unwrap();
        assert!(!proxy.has_changes(), "{told_of}");
    }
}

/// All that ipvs mode has in the kernel, in words.
fn state(kernel: &Simulated) -> Vec<String> {
    let host = kernel.host();
    let mut said: Vec<String> = host.ipset_save().lines().map(str::to_owned).collect();
    for service in host.ipvs_services() {
        let mut to = host.ipvs_destinations(&service.key);
        to.sort_by_key(|to| to.address);
        said.push(format!("{service:?} {to:?}"));
    }
    let device = host.link("kube-ipvs0").map(|link| link.addresses.clone());
    said.extend(device.into_iter().flatten().map(|address| format!("{address:?}")));
    said.push(format!("{:?}", host.ipvs_sysctls()));
    said.sort();
    said
}

#[test]
fn an_endpoint_that_is_leaving_is_no_drift_and_stays_ours_after_one() {
    let kernel = simulated();
    let web80 = key("10.96.0.1", 80);
    let mut proxy = told(Box::new(kernel.clone()), ipvs_options(), &web(&["10.1.0.1", "10.1.0.2"]));
    proxy.sync().unwrap();
    let (first, second) = (connect(&kernel, 1000).unwrap(), connect(&kernel, 1001).unwrap());
    feed(&mut proxy, &slice("web", "TCP", &[&second]));
    proxy.sync().unwrap();
    proxy.check_kernel().unwrap();
    assert_eq!(proxy.drifts(), 0);
    // Its set is gone and with it what says whose the server is; this process knows.
    kernel.host().ipset_restore("flush KUBE-CLUSTER-IP\n").unwrap();
    proxy.check_kernel().unwrap();
    proxy.sync().unwrap();
    let mut leaving = vec![(first.clone(), 0), (second.clone(), 1)];
    leaving.sort();
    assert_eq!(weights(&kernel, &web80), leaving, "its connections go on");
    kernel.host().advance(Duration::from_secs(3600));
    proxy.tidy().unwrap();
    assert_eq!(weights(&kernel, &web80), [(second, 1)]);
    proxy.check_kernel().unwrap();
    assert_eq!(proxy.drifts(), 1);
}

/// A cluster of many is not looked at in one go: a change would wait for it.
#[test]
fn destinations_of_many_servers_are_looked_at_bit_by_bit() {
    let many: String = (0..300)
        .map(|n| {
            let (name, ip) = (format!("s{n}"), format!("10.96.{}.{}", n / 200, n % 200 + 1));
            service(&name, &ip, "") + &slice(&name, "TCP", &["10.1.0.1", "10.1.0.2"])
        })
        .collect();
    let kernel = simulated();
    let shared = Shared::new(kernel.clone());
    let mut proxy = told(Box::new(shared.clone()), ipvs_options(), &many);
    proxy.sync().unwrap();
    let whole = state(&kernel);
    let (first, lost) = (key("10.96.0.1", 80), "10.1.0.2".parse().unwrap());
    kernel.host().ipvs_delete_destination(&first, lost, 8080).unwrap();
    shared.take();
    proxy.check_kernel().unwrap();
    let mut parts = 1;
    while proxy.looks_on() && !proxy.has_changes() {
        let asked = shared.take();
        let questions =
            asked.iter().filter(|e| matches!(e, Exchange::Read(Query::Destinations(_), _)));
        assert!(questions.count() <= 128);
        proxy.look_on().unwrap();
        parts += 1;
    }
    assert_eq!(parts, 3);
    assert_eq!(proxy.sync().unwrap().repaired, 1);
    assert_eq!(state(&kernel), whole);
    assert!(!proxy.looks_on(), "a new round begins with the next look");
}

#[test]
fn virtual_servers_of_others_are_no_drift() {
    let kernel = simulated();
    let mut proxy = told(Box::new(kernel.clone()), ipvs_options(), &web(&["10.1.0.1"]));
    proxy.sync().unwrap();
    let foreign = key("192.168.0.2", 443);
    kernel.host().ipvs_add_service(Service::new(foreign, Scheduler::Wlc)).unwrap();
    proxy.check_kernel().unwrap();
    assert_eq!(proxy.drifts(), 0);
    kernel.host().ipvs_delete_service(&key("10.96.0.1", 80)).unwrap();
    proxy.check_kernel().unwrap();
    assert_eq!(proxy.sync().unwrap().repaired, 1);
    let there: Vec<ServiceKey> = kernel.host().ipvs_services().iter().map(|s| s.key).collect();
    assert_eq!(there, [key("10.96.0.1", 80), foreign]);
}

/// A change by a process, as the kernel tells of it.
fn foreign(table: &str, chain: &str) -> Foreign {
    let touched = crate::kernel::drift::Touched {
        family: Family::V4,
        table: table.to_owned(),
        object: chain.to_owned(),
    };
    let id = crate::kernel::drift::Process { id: 7, name: "iptables".to_owned() };
    Foreign { touched: BTreeSet::from([touched]), process: Some(id), more: false }
}

#[test]
fn rules_that_others_change_are_looked_at_when_the_kernel_tells_of_it() {
    let shared = Shared::new(simulated());
    let mut proxy = told(Box::new(shared.clone()), ipvs_options(), &web(&["10.1.0.1"]));
    proxy.sync().unwrap();
    for (table, chain) in [("filter", "theirs"), ("nat", "KUBE-SVC-X"), ("raw", "OUTPUT")] {
        proxy.suspect(&foreign(table, chain)).unwrap();
        assert!(!proxy.is_suspicious(), "{table} {chain}");
    }
    for (table, chain) in [("mangle", "OUTPUT"), ("nat", "KUBE-POSTROUTING"), ("filter", "")] {
        let harm = "*nat\n-F KUBE-POSTROUTING\nCOMMIT\n".to_owned();
        let harm = XtablesText { family: Family::V4, text: harm, operations: 1 };
        shared.clone().apply(&Transaction::Xtables(harm)).unwrap();
        shared.take();
        proxy.suspect(&foreign(table, chain)).unwrap();
        assert!(proxy.is_suspicious() && !proxy.has_changes(), "{table} {chain}");
        proxy.look_closer().unwrap();
        let asked = shared.take();
        assert!(
            matches!(&asked[..], [Exchange::Read(Query::Xtables(Family::V4), _)]),
            "rules and nothing else: {asked:?}"
        );
        assert_eq!(proxy.sync().unwrap().repaired, 1, "{table} {chain}");
    }
    let lost = Foreign { more: true, ..Foreign::default() };
    proxy.suspect(&lost).unwrap();
    assert!(proxy.is_suspicious());
    proxy.look_closer().unwrap();
    assert!(!proxy.has_changes());
}

/// What the reference drops in filter for a load balancer that the node may not use.
#[test]
fn the_references_drops_in_filter_go_when_it_is_taken_over_and_with_the_cleanup() {
    const LEFT: &str = "*filter\n:KUBE-IPVS-OUT-FILTER - [0:0]\n\
        -A OUTPUT -m comment --comment \"kubernetes ipvs access filter\" -j KUBE-IPVS-OUT-FILTER\n\
        -A KUBE-IPVS-OUT-FILTER -s 10.9.0.1/32 -j DROP\nCOMMIT\n";
    let filter =
        |kernel: &Simulated| kernel.host().iptables_save(sim::XtFamily::V4, sim::XtTable::Filter);
    let leave = |kernel: &mut Simulated, more: &str| {
        let text = LEFT.replace("COMMIT", &format!("{more}COMMIT"));
        let text = XtablesText { family: Family::V4, text, operations: 1 };
        kernel.apply(&Transaction::Xtables(text)).unwrap();
    };
    let mut kernel = simulated();
    leave(&mut kernel, "");
    told(Box::new(kernel.clone()), ipvs_options(), &web(&[])).sync().unwrap();
    assert!(!filter(&kernel).contains("OUT-FILTER"), "{}", filter(&kernel));
    let mangle = kernel.host().iptables_save(sim::XtFamily::V4, sim::XtTable::Mangle);
    assert!(mangle.contains("-j KUBE-IPVS-OUT-FILTER"), "{mangle}");
    cleanup::cleanup(&mut kernel, &[]).unwrap();
    leave(&mut kernel, "");
    assert!(cleanup::cleanup(&mut kernel, &[]).unwrap() > 0);
    assert!(!filter(&kernel).contains("OUT-FILTER"), "{}", filter(&kernel));
    // Where a chain of others leads to it, it stays and drops nothing.
    leave(&mut kernel, ":theirs - [0:0]\n-A theirs -j KUBE-IPVS-OUT-FILTER\n");
    let mut proxy = told(Box::new(kernel.clone()), ipvs_options(), &web(&[]));
    proxy.sync().unwrap();
    let left = filter(&kernel);
    assert!(left.contains("-A theirs -j KUBE-IPVS-OUT-FILTER") && !left.contains("DROP\n-A OUT"));
    assert!(!left.contains("10.9.0.1") && !left.contains("-A OUTPUT -m comment"), "{left}");
    proxy.check_kernel().unwrap();
    assert!(!proxy.has_changes(), "an empty chain that stays is no drift");
}

#[test]
fn a_virtual_server_of_others_in_the_excluded_addresses_is_never_touched() {
    let mut kernel = simulated();
    let foreign = key("10.96.0.1", 80);
    kernel.host().ipvs_add_service(Service::new(foreign, Scheduler::Wlc)).unwrap();
    let real = Destination::new("10.9.9.9".parse().unwrap(), 443);
    kernel.host().ipvs_add_destination(&foreign, real).unwrap();
    let mut excluding = ipvs_options();
    excluding.ipvs.excluded = vec!["10.96.0.0/24".parse().unwrap()];
    let wanted = web(&["10.1.0.1"]) + &service("own", "10.96.0.2", "");
    let mut proxy = told(Box::new(kernel.clone()), excluding.clone(), &wanted);
    for _ in 0..2 {
        proxy.sync().unwrap();
        assert_eq!(weights(&kernel, &foreign), [("10.9.9.9".to_owned(), 1)]);
        assert_eq!(kernel.host().ipvs_services()[0].scheduler, Scheduler::Wlc);
        let notices = proxy.notices();
        assert!(notices[0].message.contains("did not make"), "{notices:?}");
        assert_eq!((notices.len(), notices[0].object.name.as_ref()), (1, "web"));
        proxy.check_kernel().unwrap();
        assert_eq!(proxy.drifts(), 0);
        feed(&mut proxy, &slice("web", "TCP", &["10.1.0.2"]));
    }
    // What this proxy made there itself it goes on with, also after a restart.
    let mut proxy = told(Box::new(kernel.clone()), excluding.clone(), &wanted);
    proxy.sync().unwrap();
    feed(&mut proxy, &slice("own", "TCP", &["10.1.0.5"]));
    proxy.sync().unwrap();
    assert_eq!(weights(&kernel, &key("10.96.0.2", 80)), [("10.1.0.5".to_owned(), 1)]);
    cleanup::leave_only(
        &mut kernel,
        (Mode::Nftables, Steering::Nftables),
        &excluding.ipvs.excluded,
    )
    .unwrap();
    assert_eq!(kernel.host().ipvs_services().len(), 2, "another mode leaves them alone as well");
    told(Box::new(kernel.clone()), ipvs_options(), &wanted).sync().unwrap();
    cleanup::cleanup(&mut kernel, &[]).unwrap();
    assert!(kernel.host().ipvs_services().is_empty());
}

#[test]
fn more_endpoints_than_maglev_takes_are_said() {
    let many: Vec<String> = (0..4100).map(|n| format!("10.1.{}.{}", n / 250, n % 250)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut maglev = ipvs_options();
    maglev.ipvs.choice = Choice::read("mh").unwrap();
    let kernel = simulated();
    let mut proxy = told(Box::new(kernel.clone()), maglev, &web(&[]));
    // Several slices: one has at most 1000 endpoints.
    for (n, part) in many.chunks(1000).enumerate() {
        feed(&mut proxy, &slice("web", "TCP", part).replace("web-1", &format!("web-{}", n + 1)));
    }
    proxy.sync().unwrap();
    assert_eq!(kernel.host().ipvs_destinations(&key("10.96.0.1", 80)).len(), 4093);
    let notices = proxy.notices();
    assert_eq!((notices.len(), notices[0].reason), (1, Reason::Unsupported));
    assert!(notices[0].message.contains("7 of 4100"), "{notices:?}");
    for n in 1..=4 {
        feed(&mut proxy, &slice("web", "TCP", &[]).replace("web-1", &format!("web-{}", n + 1)));
    }
    proxy.sync().unwrap();
    assert_eq!(proxy.notices(), []);
}
