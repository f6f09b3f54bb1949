//! The proxy against the simulated kernel: what is written when, and what a restart keeps.
//! Fates of packets in general are proved in `proptests`; here stand the cases that need a history.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::*;
use crate::api::{Decoder, decode_text};
use crate::backend::nftables;
use crate::kernel::Query;
use crate::kernel::fault::{Fate, Fault};
use crate::kernel::record::{Exchange, Record};
use crate::kernel::simulated::Simulated;
use crate::kernel::{Capabilities, ErrorKind, Receipt, XtablesFlavour};
use crate::model::{Kind, NamespacedName, Protocol};

pub(crate) const NODE: &str = "here";

pub(crate) fn simulated() -> Simulated {
    let mut host = sim::Host::new(7);
    let link = host.add_link("eth0");
    host.add_address(link, "192.168.0.2".parse().unwrap(), 24);
    host.add_route(("0.0.0.0".parse().unwrap(), 0), None, link);
    host.sysctls_mut().ip_forward = true;
    Simulated::new(host)
}

pub(crate) fn options() -> Options {
    Options {
        node_name: NODE.into(),
        detector: LocalDetector::Cidrs(vec!["10.0.0.0/8".parse().unwrap()]),
        ..Options::default()
    }
}

/// A proxy that was told of these objects, as a full list.
fn proxy(kernel: Box<dyn Kernel + Send>, objects: &str) -> Proxy {
    proxy_with(options(), kernel, objects)
}

pub(crate) fn proxy_with(options: Options, kernel: Box<dyn Kernel + Send>, objects: &str) -> Proxy {
    let mut proxy = Proxy::new(kernel, options);
    Kind::ALL.into_iter().for_each(|kind| proxy.feed(Event::ListStarted(kind)));
    feed(&mut proxy, objects);
    Kind::ALL.into_iter().for_each(|kind| proxy.feed(Event::ListEnded(kind)));
    proxy
}

pub(crate) fn feed(proxy: &mut Proxy, objects: &str) {
    for event in decode_text(objects, &mut Decoder::new(NODE)) {
        proxy.feed(event);
    }
}

pub(crate) fn service(name: &str, ip: &str, more: &str) -> String {
    format!(
        "---\nkind: Service\napiVersion: v1\nmetadata: {{name: {name}, namespace: ns}}\n\
         spec: {{clusterIP: {ip}, ports: [{{port: 80, protocol: TCP}}]{more}}}\n"
    )
}

pub(crate) fn slice(service: &str, protocol: &str, addresses: &[&str]) -> String {
    let endpoints: Vec<String> =
        addresses.iter().map(|a| format!("{{addresses: [{a}], nodeName: there}}")).collect();
    format!(
        "---\nkind: EndpointSlice\napiVersion: discovery.k8s.io/v1\naddressType: IPv4\n\
         metadata: {{name: {service}-1, namespace: ns, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         ports: [{{port: 8080, protocol: {protocol}}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}

/// Where a new TCP connection goes.
fn connect(kernel: &Simulated, from: &str, to: &str) -> Option<(IpAddr, u16)> {
    let from: SocketAddr = from.parse().unwrap();
    let packet = sim::Packet::tcp(from, to.parse().unwrap()).arriving(2);
    let link = kernel.host().link("eth0").map(|l| l.index).unwrap();
    kernel.host().receive(&packet, link).dnat
}

fn endpoint(address: &str) -> Option<(IpAddr, u16)> {
    Some((address.parse().unwrap(), 8080))
}

#[test]
fn nothing_is_written_before_everything_was_listed() {
    let kernel = simulated();
    let mut proxy = Proxy::new(Box::new(kernel.clone()), options());
    feed(&mut proxy, &service("web", "10.96.0.1", ""));
    assert_eq!(proxy.sync(), Ok(Report::default()));
    assert!(kernel.host().nft().tables().is_empty());
}

/// A kernel that can be asked afterwards what was said to it.
#[derive(Clone)]
pub(super) struct Shared(std::sync::Arc<std::sync::Mutex<Record<Fault<Simulated>>>>);

impl Shared {
    pub(super) fn new(kernel: Simulated) -> Shared {
        Shared(std::sync::Arc::new(std::sync::Mutex::new(Record::new(Fault::new(kernel)))))
    }

    pub(super) fn take(&self) -> Vec<Exchange> {
        self.0.lock().unwrap().take()
    }

    fn schedule(&self, fates: &[Fate]) {
        self.0.lock().unwrap().inner().schedule(fates.iter().copied());
    }
}

impl Kernel for Shared {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        self.0.lock().unwrap().apply(transaction)
    }
    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        self.0.lock().unwrap().read(query)
    }
    fn capabilities(&self) -> &Capabilities {
        static ALL: std::sync::OnceLock<Capabilities> = std::sync::OnceLock::new();
        ALL.get_or_init(Capabilities::default)
    }
}

#[test]
fn what_others_change_in_our_table_is_put_right_and_counted() {
    use crate::kernel::drift::{Foreign, Touched};
    let kernel = simulated();
    let objects = service("web", "10.96.0.1", "") + &slice("web", "TCP", &["10.1.0.1"]);
    let mut proxy = proxy(Box::new(kernel.clone()), &objects);
    proxy.sync().unwrap();
    let touched = |table: &str| Foreign {
        touched: BTreeSet::from([Touched {
            family: Family::V4,
            table: table.to_owned(),
            object: "services".to_owned(),
        }]),
        ..Foreign::default()
    };
    proxy.suspect(&touched("somebody-elses")).unwrap();
    assert!(!proxy.has_changes());
    let mut batch = crate::netlink::nft::Batch::new(Family::V4, "kube-proxy");
    batch.flush_set("services");
    kernel.clone().apply(&Transaction::Nft(batch.finish())).unwrap();
    assert_eq!(connect(&kernel, "10.2.0.1:1000", "10.96.0.1:80"), None);
    kernel.host().forget_connections(|_| true);
    proxy.suspect(&touched("kube-proxy")).unwrap();
    assert_eq!(proxy.sync().map(|report| report.repaired), Ok(1));
    assert_eq!(connect(&kernel, "10.2.0.1:1000", "10.96.0.1:80"), endpoint("10.1.0.1"));
    assert_eq!(proxy.sync().map(|report| report.repaired), Ok(0));
}

#[test]
fn a_sync_without_a_change_says_nothing_to_the_kernel() {
    let shared = Shared::new(simulated());
    let objects = service("web", "10.96.0.1", "") + &slice("web", "TCP", &["10.1.0.1"]);
    let mut proxy = proxy(Box::new(shared.clone()), &objects);
    proxy.sync().unwrap();
    assert!(!shared.take().is_empty());
    proxy.sync().unwrap();
    feed(&mut proxy, &objects);
    proxy.sync().unwrap();
    assert_eq!(shared.take(), []);
    // One endpoint more: one transaction, in one family, and nothing is read.
    feed(&mut proxy, &slice("web", "TCP", &["10.1.0.1", "10.1.0.2"]));
    proxy.sync().unwrap();
    let said = shared.take();
    assert!(matches!(&said[..], [Exchange::Applied(Transaction::Nft(_), Ok(_))]), "{said:?}");
}

#[test]
fn a_lost_answer_is_followed_by_the_truth() {
    for fate in [Fate::Refuse(ErrorKind::Broken), Fate::LoseAnswer(ErrorKind::Broken)] {
        let kernel = simulated();
        let shared = Shared::new(kernel.clone());
        let objects = service("web", "10.96.0.1", "") + &slice("web", "TCP", &["10.1.0.1"]);
        let mut proxy = proxy(Box::new(shared.clone()), &objects);
        proxy.sync().unwrap();
        feed(&mut proxy, &slice("web", "TCP", &["10.1.0.9"]));
        shared.schedule(&[fate]);
        assert_eq!(proxy.sync().map_err(|e| e.kind), Err(ErrorKind::Broken));
        assert!(proxy.has_changes());
        proxy.sync().unwrap();
        assert_eq!(connect(&kernel, "10.2.0.1:1000", "10.96.0.1:80"), endpoint("10.1.0.9"));
    }
}

#[test]
fn remembered_clients_survive_a_restart_but_not_their_endpoint() {
    let kernel = simulated();
    let sticky = service("web", "10.96.0.1", ", sessionAffinity: ClientIP");
    let many = ["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"];
    let objects = sticky.clone() + &slice("web", "TCP", &many);
    proxy(Box::new(kernel.clone()), &objects).sync().unwrap();
    let first = connect(&kernel, "10.2.0.1:1000", "10.96.0.1:80").unwrap();
    kernel.host().advance(Duration::from_secs(60));
    let mut restarted = proxy(Box::new(kernel.clone()), &objects);
    restarted.sync().unwrap();
    for port in 2000..2040 {
        let again = connect(&kernel, &format!("10.2.0.1:{port}"), "10.96.0.1:80");
        assert_eq!(again, Some(first));
    }
    let rest: Vec<&str> = many.into_iter().filter(|a| *a != first.0.to_string()).collect();
    feed(&mut restarted, &slice("web", "TCP", &rest));
    assert_eq!(restarted.sync().unwrap().forgotten, 1);
    let next = connect(&kernel, "10.2.0.1:3000", "10.96.0.1:80").unwrap();
    assert_ne!(next, first);
}

#[test]
fn the_older_service_has_a_shared_address_until_it_goes() {
    let kernel = simulated();
    let older = service("zz", "10.96.0.1", ", externalIPs: [203.0.113.9]")
        .replace("namespace: ns}", "namespace: ns, creationTimestamp: '2020-01-01T00:00:00Z'}");
    let younger = service("aa", "10.96.0.2", ", externalIPs: [203.0.113.9]")
        .replace("namespace: ns}", "namespace: ns, creationTimestamp: '2024-01-01T00:00:00Z'}");
    let slices = slice("zz", "TCP", &["10.1.0.1"]) + &slice("aa", "TCP", &["10.1.0.2"]);
    for objects in [older.clone() + &younger + &slices, younger + &older + &slices] {
        let mut proxy = proxy(Box::new(kernel.clone()), &objects);
        proxy.sync().unwrap();
        assert_eq!(connect(&kernel, "10.2.0.1:1000", "203.0.113.9:80"), endpoint("10.1.0.1"));
        let notices = proxy.notices();
        assert_eq!(notices.len(), 1, "{notices:?}");
        assert_eq!(notices[0].object, NamespacedName::new("ns", "aa"));
        proxy.feed(Event::ServiceGone(NamespacedName::new("ns", "zz")));
        proxy.sync().unwrap();
        assert_eq!(connect(&kernel, "10.2.0.1:1001", "203.0.113.9:80"), endpoint("10.1.0.2"));
        assert_eq!(proxy.notices(), []);
        kernel.host().forget_connections(|_| true);
    }
}

#[test]
fn changed_options_rewrite_rules_and_keep_elements() {
    let kernel = simulated();
    let objects = service("web", "10.96.0.1", "") + &slice("web", "TCP", &["10.1.0.1"]);
    let mut proxy = proxy(Box::new(kernel.clone()), &objects);
    proxy.sync().unwrap();
    let outcome = |port: u16| {
        let from = SocketAddr::new("10.2.0.1".parse().unwrap(), port);
        let link = kernel.host().link("eth0").map(|l| l.index).unwrap();
        let packet = sim::Packet::tcp(from, "10.96.0.1:80".parse().unwrap());
        kernel.host().receive(&packet, link)
    };
    assert_eq!(outcome(1000).snat, None, "a pod's source address stays");
    proxy.set_options(Options { masquerade_all: true, ..options() });
    let report = proxy.sync().unwrap();
    assert!(report.operations < 300, "rules only, two families: {report:?}");
    let masqueraded = outcome(1001);
    assert!(masqueraded.snat.is_some(), "{masqueraded:?}");
    assert_eq!(masqueraded.dnat, endpoint("10.1.0.1"));
    assert_eq!(masqueraded.packet.mark, 0, "the mark is taken away again");
    assert_eq!(masqueraded.packet.priority, 0, "the priority is put back");
}

#[test]
fn a_udp_flow_to_an_endpoint_that_went_is_forgotten() {
    let kernel = simulated();
    let objects = service("dns", "10.96.0.3", "").replace("TCP", "UDP");
    let objects = objects + &slice("dns", "UDP", &["10.1.0.1"]);
    let mut proxy = proxy(Box::new(kernel.clone()), &objects);
    proxy.sync().unwrap();
    let link = kernel.host().link("eth0").map(|l| l.index).unwrap();
    let ask = sim::Packet::udp("10.2.0.1:99".parse().unwrap(), "10.96.0.3:80".parse().unwrap());
    assert_eq!(kernel.host().receive(&ask, link).dnat, endpoint("10.1.0.1"));
    feed(&mut proxy, &slice("dns", "UDP", &["10.1.0.2"]));
    assert_eq!(proxy.sync().unwrap().forgotten, 1);
    assert_eq!(kernel.host().receive(&ask, link).dnat, endpoint("10.1.0.2"));
}

#[test]
fn a_flow_to_a_service_that_was_deleted_is_forgotten() {
    let kernel = simulated();
    let objects = service("dns", "10.96.0.3", "").replace("TCP", "UDP");
    let objects = objects + &slice("dns", "UDP", &["10.1.0.1"]);
    let mut proxy = proxy(Box::new(kernel.clone()), &objects);
    proxy.sync().unwrap();
    let link = kernel.host().link("eth0").map(|l| l.index).unwrap();
    for (from, to) in [("10.2.0.1:99", "10.96.0.3:80"), ("10.2.0.1:99", "10.1.0.1:8080")] {
        let ask = sim::Packet::udp(from.parse().unwrap(), to.parse().unwrap());
        kernel.host().receive(&ask, link);
    }
    proxy.feed(Event::ServiceGone(NamespacedName::new("ns", "dns")));
    assert_eq!(proxy.sync().map(|r| r.forgotten), Ok(1), "the one past the Service stays");
    assert!(!proxy.has_changes());
}

/// In userspace mode flows end at a local port: they go on while it is open for their Service, and
/// not when the port is another Service's or a process's that is no more.
#[test]
fn a_udp_flow_to_a_local_port_is_forgotten_with_the_port() {
    let kernel = simulated();
    let dns = |name: &str, ip: &str, endpoint: &str| {
        service(name, ip, "").replace("TCP", "UDP") + &slice(name, "UDP", &[endpoint])
    };
    let userspace = |first: u16| {
        let relay = RelaySettings { ports: Some(first..=first + 9), ..RelaySettings::default() };
        Options { mode: Mode::Userspace, relay, ..options() }
    };
    let mut proxy = proxy_with(
        userspace(41_000),
        Box::new(kernel.clone()),
        &dns("dns", "10.96.0.3", "10.1.0.1"),
    );
    proxy.sync().unwrap();
    let link = kernel.host().link("eth0").map(|l| l.index).unwrap();
    let ask = sim::Packet::udp("10.2.0.1:99".parse().unwrap(), "10.96.0.3:80".parse().unwrap());
    let goes_to = || kernel.host().receive(&ask, link).dnat;
    let port = |port| Some((crate::backend::userspace::relay_address(Family::V4), port));
    assert_eq!(goes_to(), port(41_000));
    feed(&mut proxy, &slice("dns", "UDP", &["10.1.0.2"]));
    assert_eq!(proxy.sync().unwrap().forgotten, 0, "the relay itself leads it elsewhere");
    assert_eq!(goes_to(), port(41_000));
    // Deleted and made again, while another Service came by its port: one sync sees all of it.
    proxy.feed(Event::ServiceGone(NamespacedName::new("ns", "dns")));
    assert_eq!(proxy.sync().unwrap().forgotten, 1);
    feed(&mut proxy, &dns("other", "10.96.0.4", "10.1.0.9"));
    feed(&mut proxy, &dns("dns", "10.96.0.3", "10.1.0.1"));
    proxy.sync().unwrap();
    let now = goes_to();
    assert!(now == port(41_000) || now == port(41_001), "{now:?}");
    // The next process has other ports.
    proxy.farewell().unwrap();
    let objects = dns("dns", "10.96.0.3", "10.1.0.1") + &dns("other", "10.96.0.4", "10.1.0.9");
    let mut proxy = proxy_with(userspace(42_000), Box::new(kernel.clone()), &objects);
    assert_eq!(proxy.sync().unwrap().forgotten, 1);
    assert_eq!(goes_to(), port(42_000));
    feed(&mut proxy, &slice("other", "UDP", &["10.1.0.8"]));
    assert_eq!(proxy.sync().unwrap().forgotten, 0);
}

/// Userspace mode by rules of iptables: strangers are kept away before there is a port, the next process
/// takes over what is there, and the guard goes with the mode.
#[test]
fn rules_of_iptables_lead_to_local_ports_behind_a_guard() {
    let able = Capabilities { xtables: Some(XtablesFlavour::Legacy), ..Capabilities::default() };
    let kernel = simulated().with_capabilities(able);
    let userspace = Options { mode: Mode::Userspace, steering: Steering::Iptables, ..options() };
    let web = service("web", "10.96.0.1", "") + &slice("web", "TCP", &["10.1.0.1"]);
    let shared = Shared::new(kernel.clone());
    let mut proxy = proxy_with(userspace.clone(), Box::new(shared.clone()), &web);
    proxy.sync().unwrap();
    let said = shared.take();
    let place = |which: fn(&Transaction) -> bool| {
        said.iter().position(|one| matches!(one, Exchange::Applied(done, _) if which(done)))
    };
    let guard = place(|done| match done {
        Transaction::Xtables(text) => text.text.contains("-I INPUT") && text.text.contains("GUARD"),
        _ => false,
    });
    let relay = place(|done| matches!(done, Transaction::Relay(_)));
    assert!(guard.is_some() && guard < relay, "{guard:?} {relay:?}");
    let relay = crate::kernel::relay_address(Family::V4);
    let led = |from: &str| connect(&kernel, from, "10.96.0.1:80").map(|to| to.0);
    assert_eq!(led("10.2.0.1:99"), Some(relay));
    assert!(!saved(&kernel).contains("-A KUBE-MARK-MASQ -s"), "no hairpin to this process");
    // Nothing but the port is other in what the next process writes.
    let before = chains(&kernel);
    let mut proxy = proxy_with(userspace, Box::new(kernel.clone()), &web);
    proxy.sync().unwrap();
    assert_eq!(chains(&kernel), before);
    assert_eq!(proxy.leave_only_this_mode(), Ok(0), "these chains are this mode's");
    let iptables = Options { mode: Mode::Iptables, ..options() };
    let mut proxy = proxy_with(iptables, Box::new(kernel.clone()), &web);
    proxy.sync().unwrap();
    proxy.leave_only_this_mode().unwrap();
    assert_eq!(led("10.2.0.1:100"), Some("10.1.0.1".parse().unwrap()));
    let left = saved(&kernel);
    assert!(!left.contains("GUARD") && !left.contains(&relay.to_string()), "{left}");
    assert_eq!(
        proxy.kernel().read(&Query::Addresses).map(|facts| match facts {
            Facts::Addresses(all) => all.contains(&relay),
            _ => true,
        }),
        Ok(false)
    );
}

fn saved(kernel: &Simulated) -> String {
    match kernel.clone().read(&Query::Xtables(Family::V4)).unwrap() {
        Facts::Text(text) => text,
        _ => String::new(),
    }
}

fn chains(kernel: &Simulated) -> Vec<String> {
    let text = saved(kernel);
    text.lines().filter(|line| line.starts_with(':')).map(str::to_owned).collect()
}

#[test]
fn a_local_port_that_could_not_be_had_is_asked_for_again_by_housekeeping() {
    let kernel = simulated();
    let relay = RelaySettings { ports: Some(41_000..=41_000), ..RelaySettings::default() };
    let options = Options { mode: Mode::Userspace, relay, ..options() };
    let web = |name: &str, ip: &str| service(name, ip, "") + &slice(name, "TCP", &["10.1.0.1"]);
    let objects = web("a", "10.96.0.1") + &web("b", "10.96.0.2");
    let mut proxy = proxy_with(options, Box::new(kernel.clone()), &objects);
    proxy.sync().unwrap();
    assert_eq!(proxy.notices().len(), 1, "{:?}", proxy.notices());
    let reuse = Query::Sysctl("net/ipv4/tcp_tw_reuse".to_owned());
    assert_eq!(proxy.kernel().read(&reuse), Ok(Facts::Text("1".to_owned())));
    // Its port becomes free when all else is done.
    proxy.feed(Event::ServiceGone(NamespacedName::new("ns", "a")));
    proxy.sync().unwrap();
    assert!(!proxy.has_changes() && proxy.notices().len() == 1);
    proxy.check_kernel().unwrap();
    assert!(proxy.has_changes());
    proxy.sync().unwrap();
    assert_eq!((proxy.notices(), proxy.has_changes()), (Vec::new(), false));
    let port = (crate::backend::userspace::relay_address(Family::V4), 41_000);
    assert_eq!(connect(&kernel, "10.2.0.1:99", "10.96.0.2:80"), Some(port));
}

/// Two Services with one external address, the younger one told of first; and a flow to it.
#[test]
fn udp_flows_of_a_shared_address_are_those_of_whoever_has_it() {
    let kernel = simulated();
    let dns = |name: &str, ip: &str, created: &str| {
        let text = service(name, ip, ", externalIPs: [198.51.100.7]").replace("TCP", "UDP");
        text.replace("namespace: ns", &format!("namespace: ns, creationTimestamp: {created:?}"))
    };
    let objects = [
        dns("a", "10.96.0.3", "2026-02-02T00:00:00Z") + &slice("a", "UDP", &["10.1.0.1"]),
        dns("b", "10.96.0.4", "2026-01-01T00:00:00Z") + &slice("b", "UDP", &["10.1.0.2"]),
    ];
    let mut proxy = proxy(Box::new(kernel.clone()), &objects.concat());
    proxy.sync().unwrap();
    let link = kernel.host().link("eth0").map(|l| l.index).unwrap();
    let ask = sim::Packet::udp("10.2.0.1:99".parse().unwrap(), "198.51.100.7:80".parse().unwrap());
    let goes_to = || kernel.host().receive(&ask, link).dnat;
    assert_eq!(goes_to(), endpoint("10.1.0.2"), "the older one has the address");
    feed(&mut proxy, &slice("a", "UDP", &["10.1.0.9"]));
    assert_eq!(proxy.sync().unwrap().forgotten, 0, "it is not the younger one's flow");
    proxy.feed(Event::ServiceGone(NamespacedName::new("ns", "b")));
    assert_eq!(proxy.sync().unwrap().forgotten, 1, "the heir has other endpoints");
    assert_eq!(goes_to(), endpoint("10.1.0.9"));
}

#[test]
fn idle_chains_go_when_house_is_kept() {
    let kernel = simulated();
    let many: Vec<String> = (1..=40).map(|i| format!("10.1.0.{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let objects = service("web", "10.96.0.1", "") + &slice("web", "TCP", &["10.1.0.1"]);
    let mut proxy = proxy(Box::new(kernel.clone()), &objects);
    proxy.sync().unwrap();
    for endpoints in [&many, &many[..1]] {
        feed(&mut proxy, &slice("web", "TCP", endpoints));
        proxy.sync().unwrap();
    }
    let chain = |name: &str| {
        let host = kernel.host();
        let table = host.nft().table(sim::Family::Ip, "kube-proxy").unwrap();
        table.chain(name).is_some()
    };
    assert!(chain("pick-40") && chain("internal-40"));
    proxy.tidy().unwrap();
    assert!(!chain("pick-40") && !chain("internal-40") && chain("pick-1"));
    assert_eq!(proxy.tidy(), Ok(Report::default()));
}

/// A Service with session affinity, and what becomes of who is remembered.
fn sticky(more: &str) -> String {
    service("web", "10.96.0.1", &format!(", sessionAffinity: ClientIP{more}"))
}

#[test]
fn a_longer_affinity_timeout_does_not_hinder_a_restart() {
    let kernel = simulated();
    let seconds = |n: u32| {
        sticky(&format!(", sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {n}}}}}"))
            + &slice("web", "TCP", &["10.1.0.1"])
    };
    let mut before = proxy(Box::new(kernel.clone()), &seconds(60));
    before.sync().unwrap();
    connect(&kernel, "10.2.0.1:1000", "10.96.0.1:80").unwrap();
    feed(&mut before, &seconds(10_800));
    before.sync().unwrap();
    // Its entry was made for 60 seconds, and has three hours from now on.
    connect(&kernel, "10.2.0.1:1001", "10.96.0.1:80").unwrap();
    let restarted = proxy(Box::new(kernel.clone()), &seconds(10_800)).sync();
    assert!(restarted.is_ok(), "{restarted:?}");
}

#[test]
fn policy_local_forgets_clients_that_went_to_another_node() {
    let kernel = simulated();
    let policy = |policy: &str| {
        sticky(&format!(", externalIPs: [203.0.113.9], externalTrafficPolicy: {policy}"))
    };
    let slice = slice("web", "TCP", &["10.1.0.1", "10.1.0.2"])
        .replace("10.1.0.1], nodeName: there", "10.1.0.1], nodeName: here");
    let mut proxy = proxy(Box::new(kernel.clone()), &(policy("Cluster") + &slice));
    proxy.sync().unwrap();
    let clients = || (1..=20).flat_map(|i| [format!("198.51.100.{i}"), format!("10.3.0.{i}")]);
    let visit = |port: u16| -> Vec<_> {
        clients()
            .map(|c| (c.clone(), connect(&kernel, &format!("{c}:{port}"), "203.0.113.9:80")))
            .collect()
    };
    let before = visit(1000);
    assert!(before.iter().any(|(_, went)| *went == endpoint("10.1.0.2")));
    feed(&mut proxy, &policy("Local"));
    proxy.sync().unwrap();
    for ((client, after), (_, before)) in visit(1001).into_iter().zip(before) {
        let expected = if client.starts_with("10.") { before } else { endpoint("10.1.0.1") };
        assert_eq!(after, expected, "{client}");
    }
}

#[test]
fn an_address_does_not_inherit_clients_of_a_node_port() {
    let kernel = simulated();
    let node_port = sticky(", type: NodePort").replace("{port: 80,", "{port: 80, nodePort: 30080,")
        + &slice("web", "TCP", &["10.1.0.1"]);
    let mut proxy = proxy(Box::new(kernel.clone()), &node_port);
    proxy.sync().unwrap();
    let to = "192.168.0.2:30080";
    assert_eq!(connect(&kernel, "198.51.100.7:1000", to), endpoint("10.1.0.1"));
    let other =
        service("other", "10.96.0.2", ", sessionAffinity: ClientIP, externalIPs: [192.168.0.2]")
            .replace("{port: 80,", "{port: 30080,");
    feed(&mut proxy, &(other + &slice("other", "TCP", &["10.1.0.9"])));
    proxy.sync().unwrap();
    assert_eq!(connect(&kernel, "198.51.100.7:1001", to), endpoint("10.1.0.9"));
}

/// A kernel in which a remembered client leaves by itself right after each list of them.
#[derive(Clone)]
struct Fleeting(Simulated, std::sync::Arc<std::sync::atomic::AtomicUsize>);

impl Kernel for Fleeting {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        let outcome = self.0.apply(transaction);
        if outcome.is_err() {
            self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        outcome
    }
    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        let facts = self.0.read(query)?;
        if let (Facts::Elements(entries), Query::Elements(family, ..)) = (&facts, query)
            && let Some(entry) = entries.first()
        {
            let key = nftables::elements::Key::from_bytes(&entry.key).unwrap();
            let batch = nftables::affinity::forget(*family, &[key]);
            self.0.apply(&Transaction::Nft(batch)).unwrap();
        }
        Ok(facts)
    }
    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }
}

#[test]
fn clients_that_leave_meanwhile_do_not_keep_others_from_being_forgotten() {
    let kernel = simulated();
    let fleeting = Fleeting(kernel.clone(), Default::default());
    let objects = sticky("") + &slice("web", "TCP", &["10.1.0.1"]);
    let mut proxy = proxy(Box::new(fleeting.clone()), &objects);
    proxy.sync().unwrap();
    for i in 1..=50 {
        connect(&kernel, &format!("10.2.0.{i}:1000"), "10.96.0.1:80").unwrap();
    }
    feed(&mut proxy, &slice("web", "TCP", &["10.1.0.2"]));
    assert_eq!(proxy.sync().unwrap().forgotten, 49);
    assert!(fleeting.1.load(std::sync::atomic::Ordering::Relaxed) < 10);
    for i in 1..=50 {
        let went = connect(&kernel, &format!("10.2.0.{i}:1001"), "10.96.0.1:80");
        assert_eq!(went, endpoint("10.1.0.2"));
    }
}

#[test]
fn a_client_written_down_late_is_forgotten_when_house_is_kept() {
    let kernel = simulated();
    let both = slice("web", "TCP", &["10.1.0.1", "10.1.0.2"]);
    let mut proxy = proxy(Box::new(kernel.clone()), &(sticky("") + &both));
    proxy.sync().unwrap();
    let clients = || (1..=20).map(|i| format!("10.2.0.{i}"));
    for client in clients() {
        connect(&kernel, &format!("{client}:1000"), "10.96.0.1:80").unwrap();
    }
    let query = Query::Elements(Family::V4, "kube-proxy".to_owned(), "affinity".to_owned());
    let Ok(Facts::Elements(entries)) = kernel.clone().read(&query) else { panic!() };
    feed(&mut proxy, &slice("web", "TCP", &["10.1.0.1"]));
    assert!(proxy.sync().unwrap().forgotten > 0);
    // What packets under way leave behind: the entries that were just forgotten.
    let mut batch = crate::netlink::nft::Batch::new(Family::V4, "kube-proxy");
    for entry in &entries {
        let element = crate::netlink::nft::Element {
            key: &entry.key,
            key_end: None,
            value: crate::netlink::nft::ElementValue::Bytes(&entry.data),
            comment: "",
            expires: entry.expires,
        };
        let gone = entry.data.starts_with(&[10, 1, 0, 2]);
        if gone {
            batch.add_element("affinity", &element);
        }
    }
    kernel.clone().apply(&Transaction::Nft(batch.finish())).unwrap();
    proxy.tidy().unwrap();
    for client in clients() {
        let went = connect(&kernel, &format!("{client}:1001"), "10.96.0.1:80");
        assert_eq!(went, endpoint("10.1.0.1"));
    }
    assert_eq!(proxy.tidy().map(|r| r.forgotten), Ok(0));
}

#[test]
fn flows_that_could_not_be_forgotten_are_still_to_be() {
    let kernel = simulated();
    let shared = Shared::new(kernel.clone());
    let objects = service("dns", "10.96.0.3", "").replace("TCP", "UDP");
    let objects = objects + &slice("dns", "UDP", &["10.1.0.1"]);
    let mut proxy = proxy(Box::new(shared.clone()), &objects);
    proxy.sync().unwrap();
    feed(&mut proxy, &slice("dns", "UDP", &["10.1.0.2"]));
    // The rules, the node's addresses, the flows.
    shared.schedule(&[Fate::Pass, Fate::Pass, Fate::Refuse(ErrorKind::Busy)]);
    assert!(proxy.sync().unwrap().not_forgotten.is_some());
    assert!(proxy.has_changes());
    assert_eq!(proxy.sync().unwrap().not_forgotten, None);
    assert!(!proxy.has_changes());
}

#[test]
fn a_tcp_flow_to_an_endpoint_that_went_is_forgotten_where_the_service_asks_for_it() {
    let link = |kernel: &Simulated| kernel.host().link("eth0").map(|l| l.index).unwrap();
    let open = sim::Packet::tcp("10.2.0.1:99".parse().unwrap(), "10.96.0.3:80".parse().unwrap());
    let asking = service("web", "10.96.0.3", "").replace(
        "namespace: ns}",
        "namespace: ns, annotations: {kube-proxy.io/forget-tcp-flows: \"true\"}}",
    );
    for (service, forgotten) in [(asking, 1), (service("web", "10.96.0.3", ""), 0)] {
        let gone = || Event::ServiceGone(NamespacedName::new("ns", "web"));
        let other = || slice("web", "TCP", &["10.1.0.2"]);
        for change in [&(|proxy: &mut Proxy| feed(proxy, &other())) as &dyn Fn(&mut Proxy), &|p| {
            p.feed(gone())
        }] {
            let kernel = simulated();
            let objects = service.clone() + &slice("web", "TCP", &["10.1.0.1"]);
            let mut proxy = proxy(Box::new(kernel.clone()), &objects);
            proxy.sync().unwrap();
            let link = link(&kernel);
            assert_eq!(kernel.host().receive(&open, link).dnat, endpoint("10.1.0.1"));
            change(&mut proxy);
            assert_eq!(proxy.sync().map(|report| report.forgotten), Ok(forgotten));
        }
    }
}

#[test]
fn endpoints_beyond_the_most_that_fit_are_a_notice_until_they_go() {
    let addresses = |count: u32| -> Vec<String> {
        let address = |i| std::net::Ipv4Addr::from(0x0a01_0000 + i).to_string();
        (1..=count).map(address).collect()
    };
    let told = |count: u32| {
        let all = addresses(count);
        slice("web", "TCP", &all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let objects = service("web", "10.96.0.1", "") + &told(65_538);
    let mut proxy = proxy(Box::new(simulated()), &objects);
    proxy.sync().unwrap();
    let notices: Vec<String> = proxy.notices().iter().map(ToString::to_string).collect();
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert!(notices[0].contains("ns/web") && notices[0].contains("; 3 of them"), "{notices:?}");
    feed(&mut proxy, &told(65_535));
    proxy.sync().unwrap();
    assert_eq!(proxy.notices(), []);
}

#[test]
fn one_family_that_fails_does_not_keep_flows_of_the_other() {
    let kernel = simulated();
    let shared = Shared::new(kernel.clone());
    let objects = service("dns", "10.96.0.3", "").replace("TCP", "UDP");
    let objects = objects + &slice("dns", "UDP", &["10.1.0.1"]);
    let mut proxy = proxy(Box::new(shared.clone()), &objects);
    proxy.sync().unwrap();
    let link = kernel.host().link("eth0").map(|l| l.index).unwrap();
    let ask = sim::Packet::udp("10.2.0.1:99".parse().unwrap(), "10.96.0.3:80".parse().unwrap());
    assert_eq!(kernel.host().receive(&ask, link).dnat, endpoint("10.1.0.1"));
    feed(&mut proxy, &slice("dns", "UDP", &["10.1.0.2"]));
    proxy.distrust_kernel();
    // IPv4: both tables, who is remembered, the one that stands in, who is remembered there, the
    // old one's end, the new one. IPv6: its table.
    shared.schedule(&[Fate::Pass; 7]);
    shared.schedule(&[Fate::Refuse(ErrorKind::Broken)]);
    assert!(proxy.sync().is_err());
    assert_eq!(kernel.host().receive(&ask, link).dnat, endpoint("10.1.0.2"));
}

#[test]
fn a_packet_that_draws_an_endpoint_that_just_went_gets_another() {
    let kernel = simulated();
    let objects = service("web", "10.96.0.1", "")
        + &slice("web", "TCP", &["10.1.0.1", "10.1.0.2", "10.1.0.3"]);
    proxy(Box::new(kernel.clone()), &objects).sync().unwrap();
    // As a packet sees it that was told of three endpoints before the third one went.
    let address = Some("10.96.0.1".parse().unwrap());
    let frontend = crate::backend::program::Frontend { address, protocol: Protocol::Tcp, port: 80 };
    let key = nftables::elements::Key::empty().frontend(&frontend).number(2);
    let gone = nftables::elements::Element {
        set: nftables::layout::Set::Endpoints,
        key,
        key_end: None,
        gives: nftables::elements::Gives::Nothing,
    };
    let mut batch = crate::netlink::nft::Batch::new(Family::V4, "kube-proxy");
    gone.delete(&mut batch);
    kernel.clone().apply(&Transaction::Nft(batch.finish())).unwrap();
    for port in 1000..1060 {
        let went = connect(&kernel, &format!("10.2.0.1:{port}"), "10.96.0.1:80");
        assert!(went == endpoint("10.1.0.1") || went == endpoint("10.1.0.2"), "{went:?}");
    }
}

/// A kernel whose socket takes no more than it says, as in a user namespace.
#[derive(Clone)]
struct Narrow(Simulated);

impl Kernel for Narrow {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        match transaction {
            Transaction::Nft(batch) if batch.bytes.len() > self.0.capabilities().largest_batch => {
                Err(Error::new(ErrorKind::Invalid, "send", "EMSGSIZE"))
            }
            _ => self.0.apply(transaction),
        }
    }
    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        self.0.read(query)
    }
    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }
}

#[test]
fn a_table_too_large_for_one_transaction_is_replaced_step_by_step() {
    let narrow = Capabilities { largest_batch: 100 << 10, ..Capabilities::default() };
    let kernel = simulated();
    let narrow = Narrow(kernel.clone().with_capabilities(narrow));
    let many: Vec<String> = (0..20).map(|i| format!("10.1.0.{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let objects: String = (0..100)
        .map(|i| {
            service(&format!("s{i}"), &format!("10.96.1.{i}"), "")
                + &slice(&format!("s{i}"), "TCP", &many)
        })
        .collect();
    proxy(Box::new(narrow.clone()), &objects).sync().unwrap();
    let mut restarted = proxy(Box::new(narrow), &objects);
    let report = restarted.sync();
    assert!(report.is_ok(), "{report:?}");
    assert!(connect(&kernel, "10.2.0.1:1000", "10.96.1.99:80").is_some());
    assert_eq!(restarted.sync().map(|r| r.operations), Ok(2), "what stood in goes");
    assert_eq!(restarted.sync(), Ok(Report::default()));
}

/// A kernel that is asked for a connection after each change, and remembers how many failed.
#[derive(Clone)]
struct Asked(Simulated, std::sync::Arc<std::sync::atomic::AtomicUsize>);

impl Kernel for Asked {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        let outcome = self.0.apply(transaction);
        self.0.host().forget_connections(|_| true);
        if connect(&self.0, "10.2.0.1:1000", "10.96.0.1:80") != endpoint("10.1.0.1") {
            self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        outcome
    }
    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        self.0.read(query)
    }
    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }
}

#[test]
fn a_restart_has_a_complete_table_at_every_step_wherever_the_last_one_was_cut_short() {
    let objects = service("web", "10.96.0.1", "") + &slice("web", "TCP", &["10.1.0.1"]);
    for cut in 0..12 {
        let kernel = simulated();
        proxy(Box::new(kernel.clone()), &objects).sync().unwrap();
        let asked = Asked(kernel.clone(), Default::default());
        let shared = Shared::new(kernel.clone());
        shared.schedule(&vec![Fate::Pass; cut]);
        shared.schedule(&[Fate::Refuse(ErrorKind::Broken); 60]);
        let _ = proxy(Box::new(shared), &objects).sync();
        let mut restarted = proxy(Box::new(asked.clone()), &objects);
        restarted.sync().unwrap();
        restarted.sync().unwrap();
        let names: Vec<String> =
            kernel.host().nft().tables().iter().map(|t| t.name().to_owned()).collect();
        assert_eq!(names, ["kube-proxy", "kube-proxy"], "cut after {cut}");
        let failed = asked.1.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(failed, 0, "cut after {cut}");
    }
}
