//! Settings: their Linux names, what they change, and that names that are not modelled are refused.

mod support;

use sim::packet::flags;
use sim::{Fate, Host};
use std::time::Duration;
use support::bytes::{Batch, expr};
use support::{Node, ip, node, tcp, udp};

fn tracked() -> Node {
    let mut node = node();
    let mut batch = Batch::default();
    batch.table("t").base("t", "b", ("filter", 2, 0)).rule("t", "b", &[expr::ct(0, None, 1)]);
    node.host.nft_batch(&batch.end()).unwrap_or_else(|error| panic!("{error}"));
    node
}

fn set(host: &mut Host, name: &str, value: &str) {
    host.sysctls_mut().set(name, value).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(host.sysctls().get(name).map(|number| number.to_string()).as_deref(), Some(value));
}

#[test]
fn names_are_linux_s_and_others_are_refused() {
    let mut host = Host::new(1);
    set(&mut host, "net/ipv4/ip_forward", "0");
    set(&mut host, "net.netfilter.nf_conntrack_sctp_timeout_established", "77");
    for (name, value) in [
        ("net.ipv4.conf.all.arp_ignore", "1"),
        ("net.ipv4.conf.all.rp_filter", "3"),
        ("net.netfilter.nf_conntrack_helper", "1"),
        ("net.ipv4.ip_forward", "yes"),
    ] {
        let error = host.sysctls_mut().set(name, value).expect_err("it is not modelled");
        assert!(error.contains(name) && error.contains(value), "{error}");
    }
}

#[test]
fn timeouts_are_what_they_are_set_to() {
    let mut node = tracked();
    set(&mut node.host, "net.netfilter.nf_conntrack_udp_timeout", "5");
    set(&mut node.host, "net.netfilter.nf_conntrack_tcp_timeout_syn_sent", "7");
    node.host.fate(&udp("10.1.0.5:1", "192.168.1.7:53").arriving(node.cni0));
    node.host.fate(&tcp("10.1.0.5:1", "192.168.1.7:53").arriving(node.cni0));
    node.host.advance(Duration::from_secs(6));
    assert_eq!(node.host.connections().len(), 1);
    // A SYN that is sent again lives no longer.
    node.host.fate(&tcp("10.1.0.5:1", "192.168.1.7:53").arriving(node.cni0));
    node.host.advance(Duration::from_secs(2));
    assert!(node.host.connections().is_empty());
    set(&mut node.host, "net.netfilter.nf_conntrack_tcp_loose", "0");
    let stray = tcp("10.1.0.5:1", "192.168.1.7:53").with_flags(flags::ACK).arriving(node.cni0);
    assert_eq!(node.host.fate(&stray).after, None);
}

#[test]
fn sources_are_checked_as_rp_filter_and_accept_local_say() {
    let mut node = node();
    let (eth0, cni0) = (node.eth0, node.cni0);
    node.host.add_route((ip("10.7.0.0"), 16), None, cni0);
    let wrong = udp("10.7.0.1:1", "10.1.0.5:53").arriving(eth0);
    let own = udp("10.1.0.1:1", "10.1.0.5:53").arriving(eth0);
    let passes =
        |node: &mut Node, packet| matches!(node.host.fate(packet).fate, Fate::Forwarded(_));
    assert!(passes(&mut node, &wrong) && !passes(&mut node, &own));
    set(&mut node.host, "net.ipv4.conf.all.rp_filter", "1");
    assert!(!passes(&mut node, &wrong));
    set(&mut node.host, "net.ipv4.conf.all.rp_filter", "2");
    assert!(passes(&mut node, &wrong) && !passes(&mut node, &own));
    set(&mut node.host, "net.ipv4.conf.all.accept_local", "1");
    assert!(passes(&mut node, &own));
    set(&mut node.host, "net.ipv4.conf.all.route_localnet", "1");
    let local = udp("192.168.1.7:1", "127.0.0.1:53").arriving(eth0);
    assert_eq!(node.host.fate(&local).fate, Fate::Delivered);
}

#[test]
fn a_full_table_drops_what_is_new_where_it_is_tracked() {
    let mut node = tracked();
    set(&mut node.host, "net.netfilter.nf_conntrack_max", "1");
    let send = |port: u16| udp(&format!("10.1.0.5:{port}"), "192.168.1.7:53").arriving(3);
    assert!(matches!(node.host.fate(&send(1)).fate, Fate::Forwarded(_)));
    assert_eq!(node.host.fate(&send(2)).fate, Fate::Unconfirmed(sim::Hook::Prerouting));
    assert!(matches!(node.host.fate(&send(1)).fate, Fate::Forwarded(_)), "what is known goes on");
}
