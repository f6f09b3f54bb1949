//! What is written for each kind of Service, to the letter; what is adopted, and what is removed.

use std::net::IpAddr;
use std::sync::Arc;

use expect_test::{Expect, expect};

use super::dump::Dump;
use super::pen::{Blocks, Text};
use super::plan::Applied;
use super::removal;
use super::shape::{Ability, Shape};
use crate::backend::Options;
use crate::backend::program::{Face, Frontend, Program, Role, Target, Unserved};
use crate::backend::ruleset::Ruleset;
use crate::kernel::Socket;
use crate::model::{
    Family, LocalDetector, NamespacedName, Protocol, ServicePortName, TrafficPolicy,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn targets(list: &[&str]) -> Arc<[Target]> {
    let target = |text: &&str| Target {
        socket: Socket { address: ip(text), port: 8080 },
        local: text.ends_with('1'),
    };
    list.iter().map(target).collect()
}

fn cluster_ip(name: &str, endpoints: &[&str]) -> (Frontend, Program) {
    let address = Some(ip("10.96.0.1"));
    let frontend = Frontend { address, protocol: Protocol::Tcp, port: 80 };
    let service = NamespacedName::new("default", name);
    let origin = ServicePortName { service, port: "http".into(), protocol: Protocol::Tcp };
    let program = Program {
        origin: Arc::new(origin),
        created: 0,
        role: Role::Internal,
        face: Face::ClusterIp,
        policy: TrafficPolicy::Cluster,
        cluster_ip: true,
        sticky: None,
        targets: targets(endpoints),
        targets_policy: TrafficPolicy::Cluster,
        left_out: 0,
        local: targets(&[]),
        elsewhere: targets(&[]),
        unserved: endpoints.is_empty().then_some(Unserved::Reject),
        sources: None,
        ipvs_scheduler: None,
        proxy_protocol: None,
        forget_tcp_flows: false,
    };
    (frontend, program)
}

fn balanced(name: &str, all: &[&str], local: &[&str]) -> Vec<(Frontend, Program)> {
    let (inside, program) = cluster_ip(name, all);
    let outside = Program {
        role: Role::Local,
        policy: TrafficPolicy::Local,
        face: Face::LoadBalancerIp,
        cluster_ip: false,
        local: targets(local),
        unserved: local.is_empty().then_some(Unserved::Drop),
        sources: Some(Arc::new(["203.0.113.0/24".parse().unwrap()])),
        ..program.clone()
    };
    let node_port = Program { face: Face::NodePort, sources: None, ..outside.clone() };
    vec![
        (inside, program),
        (Frontend { address: Some(ip("1.2.3.4")), ..inside }, outside),
        (Frontend { address: None, port: 30080, ..inside }, node_port),
    ]
}

fn shape() -> Shape {
    let detector = LocalDetector::Cidrs(vec!["10.244.0.0/16".parse().unwrap()]);
    let options = Options { masquerade_bit: 14, detector, ..Options::default() };
    Shape::new(&options, Family::V4, Ability::default())
}

/// What is there, and what is wanted.
struct World {
    ruleset: Ruleset,
    applied: Applied,
}

impl World {
    fn with(services: &[(&str, Vec<(Frontend, Program)>)]) -> (World, String) {
        let mut ruleset = Ruleset::default();
        for (name, programs) in services {
            ruleset.replace(&NamespacedName::new("default", *name), programs.clone());
        }
        let mut pen = Text::new(Family::V4, Blocks::One);
        let applied = Applied::adopt(&ruleset, shape(), &Dump::default(), &mut pen);
        (World { ruleset, applied }, pen.finish())
    }

    fn change(&mut self, name: &str, programs: Vec<(Frontend, Program)>) -> String {
        let name = NamespacedName::new("default", name);
        let changed = self.ruleset.replace(&name, programs);
        let mut pen = Text::new(Family::V4, Blocks::One);
        let change = self.applied.change((&self.ruleset, shape()), changed, &mut pen);
        self.applied.take(change);
        pen.finish()
    }
}

fn check(text: &str, expected: &Expect) {
    expected.assert_eq(text);
}

#[test]
fn one_service_from_nothing() {
    let (_, text) = World::with(&[("web", vec![cluster_ip("web", &["10.1.0.2", "10.1.0.10"])])]);
    check(
        &text,
        &expect![[r#"
            *filter
            :KUBE-EXTERNAL-SERVICES - [0:0]
            :KUBE-FIREWALL - [0:0]
            :KUBE-FORWARD - [0:0]
            :KUBE-NODEPORTS - [0:0]
            :KUBE-PROXY-CANARY - [0:0]
            :KUBE-PROXY-FIREWALL - [0:0]
            :KUBE-SERVICES - [0:0]
            -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
            -A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
            -A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
            -I INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
            -I FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
            -I INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
            -I FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
            -I OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
            -I FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
            -I INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
            -I OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
            -I FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
            -I INPUT -j KUBE-FIREWALL
            -I OUTPUT -j KUBE-FIREWALL
            COMMIT
            *nat
            :KUBE-MARK-MASQ - [0:0]
            :KUBE-NODEPORTS - [0:0]
            :KUBE-POSTROUTING - [0:0]
            :KUBE-PROXY-CANARY - [0:0]
            :KUBE-SEP-IMFC5XQKDZMFROSF - [0:0]
            :KUBE-SEP-JIDRXMDS5CR5OFR4 - [0:0]
            :KUBE-SERVICES - [0:0]
            :KUBE-SVC-CDGGSHYLG3RE2FKL - [0:0]
            -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
            -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
            -A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
            -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
            -A KUBE-SVC-CDGGSHYLG3RE2FKL ! -s 10.244.0.0/16 -d 10.96.0.1/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
            -A KUBE-SVC-CDGGSHYLG3RE2FKL -m comment --comment "default/web:http -> 10.1.0.10:8080" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-JIDRXMDS5CR5OFR4
            -A KUBE-SVC-CDGGSHYLG3RE2FKL -m comment --comment "default/web:http -> 10.1.0.2:8080" -j KUBE-SEP-IMFC5XQKDZMFROSF
            -A KUBE-SEP-JIDRXMDS5CR5OFR4 -s 10.1.0.10/32 -m comment --comment "default/web:http" -j KUBE-MARK-MASQ
            -A KUBE-SEP-JIDRXMDS5CR5OFR4 -p tcp -m comment --comment "default/web:http" -m tcp -j DNAT --to-destination 10.1.0.10:8080
            -A KUBE-SEP-IMFC5XQKDZMFROSF -s 10.1.0.2/32 -m comment --comment "default/web:http" -j KUBE-MARK-MASQ
            -A KUBE-SEP-IMFC5XQKDZMFROSF -p tcp -m comment --comment "default/web:http" -m tcp -j DNAT --to-destination 10.1.0.2:8080
            -A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j KUBE-SVC-CDGGSHYLG3RE2FKL
            -A KUBE-SERVICES ! -d 127.0.0.0/8 -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
            -I OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
            -I PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
            -I POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
            COMMIT
            *mangle
            :KUBE-PROXY-CANARY - [0:0]
            COMMIT
        "#]],
    );
}

#[test]
fn an_endpoint_that_goes_rewrites_one_chain_and_removes_one() {
    let (mut world, _) =
        World::with(&[("web", vec![cluster_ip("web", &["10.1.0.2", "10.1.0.3"])])]);
    let text = world.change("web", vec![cluster_ip("web", &["10.1.0.2"])]);
    check(
        &text,
        &expect![[r#"
            *nat
            :KUBE-SEP-KWIA54J3D4XB7XP3 - [0:0]
            :KUBE-SVC-CDGGSHYLG3RE2FKL - [0:0]
            -A KUBE-SVC-CDGGSHYLG3RE2FKL ! -s 10.244.0.0/16 -d 10.96.0.1/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
            -A KUBE-SVC-CDGGSHYLG3RE2FKL -m comment --comment "default/web:http -> 10.1.0.2:8080" -j KUBE-SEP-IMFC5XQKDZMFROSF
            -X KUBE-SEP-KWIA54J3D4XB7XP3
            COMMIT
        "#]],
    );
    assert_eq!(world.change("web", vec![cluster_ip("web", &["10.1.0.2"])]), "");
}

#[test]
fn the_last_endpoint_moves_a_line_from_nat_to_filter() {
    let (mut world, _) = World::with(&[("web", vec![cluster_ip("web", &["10.1.0.2"])])]);
    check(
        &world.change("web", vec![cluster_ip("web", &[])]),
        &expect![[r#"
        *filter
        -I KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "default/web:http has no endpoints" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable
        COMMIT
        *nat
        :KUBE-SEP-IMFC5XQKDZMFROSF - [0:0]
        :KUBE-SVC-CDGGSHYLG3RE2FKL - [0:0]
        -D KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j KUBE-SVC-CDGGSHYLG3RE2FKL
        -X KUBE-SEP-IMFC5XQKDZMFROSF
        -X KUBE-SVC-CDGGSHYLG3RE2FKL
        COMMIT
    "#]],
    );
}

#[test]
fn a_load_balancer_has_all_kinds_of_chains() {
    let (mut world, _) = World::with(&[]);
    let text = world.change("web", balanced("web", &["10.1.0.1", "10.1.0.2"], &["10.1.0.1"]));
    check(
        &text,
        &expect![[r#"
            *filter
            -I KUBE-PROXY-FIREWALL -d 1.2.3.4/32 -p tcp -m comment --comment "default/web:http traffic not accepted by KUBE-FW-CDGGSHYLG3RE2FKL" -m tcp --dport 80 -j DROP
            COMMIT
            *nat
            :KUBE-EXT-CDGGSHYLG3RE2FKL - [0:0]
            :KUBE-FW-CDGGSHYLG3RE2FKL - [0:0]
            :KUBE-SEP-IMFC5XQKDZMFROSF - [0:0]
            :KUBE-SEP-TNEBFAHAS3RAPUKU - [0:0]
            :KUBE-SVC-CDGGSHYLG3RE2FKL - [0:0]
            :KUBE-SVL-CDGGSHYLG3RE2FKL - [0:0]
            -A KUBE-EXT-CDGGSHYLG3RE2FKL -s 10.244.0.0/16 -m comment --comment "pod traffic for default/web:http external destinations" -j KUBE-SVC-CDGGSHYLG3RE2FKL
            -A KUBE-EXT-CDGGSHYLG3RE2FKL -m comment --comment "masquerade LOCAL traffic for default/web:http external destinations" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ
            -A KUBE-EXT-CDGGSHYLG3RE2FKL -m comment --comment "route LOCAL traffic for default/web:http external destinations" -m addrtype --src-type LOCAL -j KUBE-SVC-CDGGSHYLG3RE2FKL
            -A KUBE-EXT-CDGGSHYLG3RE2FKL -j KUBE-SVL-CDGGSHYLG3RE2FKL
            -A KUBE-FW-CDGGSHYLG3RE2FKL -s 203.0.113.0/24 -m comment --comment "default/web:http loadbalancer IP" -j KUBE-EXT-CDGGSHYLG3RE2FKL
            -A KUBE-FW-CDGGSHYLG3RE2FKL -m comment --comment "other traffic to default/web:http will be dropped by KUBE-PROXY-FIREWALL"
            -A KUBE-SVC-CDGGSHYLG3RE2FKL ! -s 10.244.0.0/16 -d 10.96.0.1/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
            -A KUBE-SVC-CDGGSHYLG3RE2FKL -m comment --comment "default/web:http -> 10.1.0.1:8080" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-TNEBFAHAS3RAPUKU
            -A KUBE-SVC-CDGGSHYLG3RE2FKL -m comment --comment "default/web:http -> 10.1.0.2:8080" -j KUBE-SEP-IMFC5XQKDZMFROSF
            -A KUBE-SVL-CDGGSHYLG3RE2FKL -m comment --comment "default/web:http -> 10.1.0.1:8080" -j KUBE-SEP-TNEBFAHAS3RAPUKU
            -A KUBE-SEP-TNEBFAHAS3RAPUKU -s 10.1.0.1/32 -m comment --comment "default/web:http" -j KUBE-MARK-MASQ
            -A KUBE-SEP-TNEBFAHAS3RAPUKU -p tcp -m comment --comment "default/web:http" -m tcp -j DNAT --to-destination 10.1.0.1:8080
            -A KUBE-SEP-IMFC5XQKDZMFROSF -s 10.1.0.2/32 -m comment --comment "default/web:http" -j KUBE-MARK-MASQ
            -A KUBE-SEP-IMFC5XQKDZMFROSF -p tcp -m comment --comment "default/web:http" -m tcp -j DNAT --to-destination 10.1.0.2:8080
            -I KUBE-NODEPORTS -p tcp -m comment --comment "default/web:http" -m tcp --dport 30080 -j KUBE-EXT-CDGGSHYLG3RE2FKL
            -I KUBE-SERVICES -d 1.2.3.4/32 -p tcp -m comment --comment "default/web:http loadbalancer IP" -m tcp --dport 80 -j KUBE-FW-CDGGSHYLG3RE2FKL
            -I KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j KUBE-SVC-CDGGSHYLG3RE2FKL
            COMMIT
        "#]],
    );
}

#[test]
fn a_load_balancer_without_local_endpoints_still_serves_pods_and_node() {
    let (mut world, _) = World::with(&[]);
    let text = world.change("web", balanced("web", &["10.1.0.2"], &[]));
    check(
        &text,
        &expect![[r#"
            *filter
            -I KUBE-EXTERNAL-SERVICES -p tcp -m comment --comment "default/web:http has no local endpoints" -m addrtype --dst-type LOCAL -m tcp --dport 30080 -j DROP
            -I KUBE-EXTERNAL-SERVICES -d 1.2.3.4/32 -p tcp -m comment --comment "default/web:http has no local endpoints" -m tcp --dport 80 -j DROP
            -I KUBE-PROXY-FIREWALL -d 1.2.3.4/32 -p tcp -m comment --comment "default/web:http traffic not accepted by KUBE-FW-CDGGSHYLG3RE2FKL" -m tcp --dport 80 -j DROP
            COMMIT
            *nat
            :KUBE-EXT-CDGGSHYLG3RE2FKL - [0:0]
            :KUBE-FW-CDGGSHYLG3RE2FKL - [0:0]
            :KUBE-SEP-IMFC5XQKDZMFROSF - [0:0]
            :KUBE-SVC-CDGGSHYLG3RE2FKL - [0:0]
            -A KUBE-EXT-CDGGSHYLG3RE2FKL -s 10.244.0.0/16 -m comment --comment "pod traffic for default/web:http external destinations" -j KUBE-SVC-CDGGSHYLG3RE2FKL
            -A KUBE-EXT-CDGGSHYLG3RE2FKL -m comment --comment "masquerade LOCAL traffic for default/web:http external destinations" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ
            -A KUBE-EXT-CDGGSHYLG3RE2FKL -m comment --comment "route LOCAL traffic for default/web:http external destinations" -m addrtype --src-type LOCAL -j KUBE-SVC-CDGGSHYLG3RE2FKL
            -A KUBE-FW-CDGGSHYLG3RE2FKL -s 203.0.113.0/24 -m comment --comment "default/web:http loadbalancer IP" -j KUBE-EXT-CDGGSHYLG3RE2FKL
            -A KUBE-FW-CDGGSHYLG3RE2FKL -m comment --comment "other traffic to default/web:http will be dropped by KUBE-PROXY-FIREWALL"
            -A KUBE-SVC-CDGGSHYLG3RE2FKL ! -s 10.244.0.0/16 -d 10.96.0.1/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
            -A KUBE-SVC-CDGGSHYLG3RE2FKL -m comment --comment "default/web:http -> 10.1.0.2:8080" -j KUBE-SEP-IMFC5XQKDZMFROSF
            -A KUBE-SEP-IMFC5XQKDZMFROSF -s 10.1.0.2/32 -m comment --comment "default/web:http" -j KUBE-MARK-MASQ
            -A KUBE-SEP-IMFC5XQKDZMFROSF -p tcp -m comment --comment "default/web:http" -m tcp -j DNAT --to-destination 10.1.0.2:8080
            -I KUBE-NODEPORTS -p tcp -m comment --comment "default/web:http" -m tcp --dport 30080 -j KUBE-EXT-CDGGSHYLG3RE2FKL
            -I KUBE-SERVICES -d 1.2.3.4/32 -p tcp -m comment --comment "default/web:http loadbalancer IP" -m tcp --dport 80 -j KUBE-FW-CDGGSHYLG3RE2FKL
            -I KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j KUBE-SVC-CDGGSHYLG3RE2FKL
            COMMIT
        "#]],
    );
}

#[test]
fn what_was_printed_is_adopted_without_a_word_and_removed_without_a_trace() {
    let programs = balanced("web", &["10.1.0.1", "10.1.0.2"], &["10.1.0.1"]);
    let (world, text) = World::with(&[("web", programs)]);
    let mut host = sim::Host::new(1);
    let how = sim::XtRestore { noflush: true, counters: true };
    let tables = [sim::XtTable::Filter, sim::XtTable::Nat, sim::XtTable::Mangle];
    let saved = |host: &sim::Host| {
        tables.map(|table| host.iptables_save(sim::XtFamily::V4, table)).concat()
    };
    let before = saved(&host);
    host.iptables_restore(sim::XtFamily::V4, &text, how).unwrap();
    let there = saved(&host);
    assert_eq!(world.applied.drift(&Dump::read(&there)), None);
    let vandalised = there.replace("-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n", "");
    let drift = world.applied.drift(&Dump::read(&vandalised)).unwrap();
    assert!(drift.contains("KUBE-MARK-MASQ in nat"), "{drift}");
    let mut pen = Text::new(Family::V4, Blocks::Many);
    removal::remove(&Dump::read(&there), &std::collections::BTreeSet::new(), &mut pen);
    host.iptables_restore(sim::XtFamily::V4, &pen.finish(), how).unwrap();
    assert_eq!(saved(&host), before);
}

#[test]
fn parts_of_a_long_text_stand_by_themselves() {
    let mut ruleset = Ruleset::default();
    for n in 0..450u32 {
        let name = format!("s{n}");
        let (frontend, program) = cluster_ip(&name, &["10.1.0.1", "10.1.0.2"]);
        let address = Some(IpAddr::from([10, 96, (n >> 8) as u8, n as u8]));
        let service = NamespacedName::new("default", name.as_str());
        ruleset.replace(&service, vec![(Frontend { address, ..frontend }, program)]);
    }
    let mut pen = Text::new(Family::V4, Blocks::Many);
    Applied::adopt(&ruleset, shape(), &Dump::default(), &mut pen);
    let text = pen.finish();
    assert!(text.matches("COMMIT").count() > 6, "{} parts", text.matches("COMMIT").count());
    let mut host = sim::Host::new(1);
    let how = sim::XtRestore { noflush: true, counters: true };
    host.iptables_restore(sim::XtFamily::V4, &text, how).unwrap();
}

#[test]
fn many_lines_that_go_are_written_whole_where_each_is_searched_for() {
    use super::pen::Pen;
    let [one, many] = [Blocks::One, Blocks::Many].map(|blocks| Text::new(Family::V4, blocks));
    for (lines, whole) in
        [((10, 6), [false; 2]), ((90, 4_000), [false; 2]), ((101, 0), [false, true])]
    {
        assert_eq!([&one, &many].map(|pen| pen.prefers_whole(lines, 10_000)), whole, "{lines:?}");
    }
    assert_eq!([&one, &many].map(|pen| pen.prefers_whole((3_000, 3_000), 10_000)), [true; 2]);
}
