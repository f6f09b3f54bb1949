//! Routes, martians, forwarding.

mod support;

use sim::{Fate, Hop, Packet};
use support::{ip, node, tcp, udp};

#[test]
fn packets_go_where_routes_lead() {
    let mut node = node();
    let (eth0, cni0) = (node.eth0, node.cni0);
    node.host.add_route((ip("10.200.0.0"), 16), Some(ip("10.1.0.200")), cni0);
    let mut fate = |packet: &Packet| node.host.fate(packet).fate;
    assert_eq!(
        fate(&udp("10.1.0.5:1", "8.8.8.8:53").arriving(cni0)),
        Fate::Forwarded(Hop { link: eth0, next: ip("192.168.1.1") })
    );
    assert_eq!(
        fate(&udp("192.168.1.7:1", "10.200.3.4:53").arriving(eth0)),
        Fate::Forwarded(Hop { link: cni0, next: ip("10.1.0.200") })
    );
    assert_eq!(
        fate(&udp("0.0.0.0:1", "10.1.0.5:53")),
        Fate::Sent(Hop { link: cni0, next: ip("10.1.0.5") })
    );
    assert_eq!(fate(&tcp("127.0.0.1:1", "127.0.0.2:80")), Fate::Delivered);
    assert_eq!(fate(&tcp("[::1]:1", "[::1]:80")), Fate::Delivered);
    assert_eq!(fate(&tcp("192.168.1.7:1", "127.0.0.1:80").arriving(eth0)), Fate::Martian);
    assert_eq!(fate(&tcp("192.168.1.10:1", "10.1.0.5:80").arriving(eth0)), Fate::Martian);
    assert_eq!(
        fate(&Packet { ttl: 1, ..udp("10.1.0.5:1", "8.8.8.8:53").arriving(cni0) }),
        Fate::Expired
    );
    assert_eq!(
        fate(&udp("10.1.0.5:1", "8.8.8.8:53").arriving(77)),
        Fate::Unmodelled("a link that is not there")
    );
    assert_eq!(node.host.emit(&udp("0.0.0.0:1", "10.1.0.5:53")).packet.src, ip("10.1.0.1"));
    node.host.sysctls_mut().ip_forward = false;
    assert_eq!(
        node.host.fate(&udp("10.1.0.5:1", "8.8.8.8:53").arriving(cni0)).fate,
        Fate::NotForwarded
    );
}

#[test]
fn an_address_that_goes_is_no_longer_local() {
    let mut node = node();
    let vip = udp("192.168.1.7:1", "192.168.1.99:53").arriving(node.eth0);
    node.host.add_address(node.eth0, ip("192.168.1.99"), 32);
    assert_eq!(node.host.fate(&vip).fate, Fate::Delivered);
    node.host.remove_address(node.eth0, ip("192.168.1.99"));
    assert!(matches!(node.host.fate(&vip).fate, Fate::Forwarded(_)));
    assert_eq!(
        node.host.fate(&udp("192.168.1.7:1", "192.168.1.255:53").arriving(node.eth0)).fate,
        Fate::Delivered,
        "broadcast"
    );
}
