//! What the API promises, as tables a person can read. Each line is held against the oracle and
//! against the proxy's rules on the simulated kernel.

use proptests::check::check_flow;

const WEB: &str = "
    node pods=10.0.0.0/8 pods=fd00:10::/32
    service web ip=172.30.0.1 ip=fd00:172:30::1 port=80 nodeport=30080 lb=1.2.3.4
    endpoint web 10.1.0.1:8080 here
    endpoint web 10.2.0.1:8080
    endpoint web [fd00:10:1::1]:8080 here";

#[test]
fn policy_cluster() {
    let both = "10.1.0.1:8080 10.2.0.1:8080";
    let masqueraded = &format!("{both} masqueraded");
    check_flow(WEB, "10.9.0.1 -> 172.30.0.1:80", both);
    check_flow(WEB, "203.0.113.1 -> 172.30.0.1:80", masqueraded);
    check_flow(WEB, "192.168.0.2 -> 172.30.0.1:80", masqueraded);
    check_flow(WEB, "10.9.0.1 -> 1.2.3.4:80", masqueraded);
    check_flow(WEB, "203.0.113.1 -> 192.168.0.2:30080", masqueraded);
    check_flow(WEB, "192.168.0.2 -> 192.168.0.2:30080", masqueraded);
    check_flow(WEB, "127.0.0.1 -> 127.0.0.1:30080", "untouched");
    check_flow(WEB, "::1 -> [::1]:30080", "untouched");
    check_flow(WEB, "fd00:10::2 -> [fd00:172:30::1]:80", "[fd00:10:1::1]:8080");
}

#[test]
fn the_cluster_ip_guard() {
    let world = &format!("{WEB}\n cidr 172.30.0.0/16");
    check_flow(world, "10.9.0.1 -> 172.30.0.1:81", "reject");
    check_flow(world, "10.9.0.1 -> 172.30.0.1:80/UDP", "reject");
    check_flow(world, "192.168.0.2 -> 172.30.0.1:81", "reject");
    check_flow(world, "10.9.0.1 -> 172.30.0.2:80", "drop");
    check_flow(WEB, "10.9.0.1 -> 172.30.0.2:80", "untouched");
}

#[test]
fn external_policy_local() {
    let world = "
        node pods=10.0.0.0/8
        service web ip=172.30.0.1 port=80 nodeport=30080 lb=1.2.3.4 etp=Local health=30100
        endpoint web 10.1.0.1:8080 here
        endpoint web 10.2.0.1:8080";
    check_flow(world, "203.0.113.1 -> 1.2.3.4:80", "10.1.0.1:8080");
    check_flow(world, "10.9.0.1 -> 1.2.3.4:80", "10.1.0.1:8080 10.2.0.1:8080");
    check_flow(world, "192.168.0.2 -> 1.2.3.4:80", "10.1.0.1:8080 10.2.0.1:8080 masqueraded");
    check_flow(world, "203.0.113.1 -> 192.168.0.2:30100", "accept");
    let elsewhere = "
        service web ip=172.30.0.1 port=80 nodeport=30080 lb=1.2.3.4 etp=Local
        endpoint web 10.2.0.1:8080";
    check_flow(elsewhere, "203.0.113.1 -> 1.2.3.4:80", "drop");
    check_flow(elsewhere, "203.0.113.1 -> 192.168.0.2:30080", "drop");
    check_flow(elsewhere, "203.0.113.1 -> 172.30.0.1:80", "10.2.0.1:8080");
}

#[test]
fn source_ranges() {
    let world = "
        service web ip=172.30.0.1 port=80 nodeport=30080 lb=1.2.3.4 lb=5.6.7.8 \
            from=203.0.113.0/25 from=203.0.113.0/24 from=192.168.0.0/24
        endpoint web 10.1.0.1:8080";
    check_flow(world, "203.0.113.200 -> 1.2.3.4:80", "10.1.0.1:8080 masqueraded");
    check_flow(world, "198.51.100.1 -> 1.2.3.4:80", "drop");
    check_flow(world, "198.51.100.1 -> 192.168.0.2:30080", "10.1.0.1:8080 masqueraded");
    check_flow(world, "1.2.3.4 -> 1.2.3.4:80", "10.1.0.1:8080 masqueraded");
    let closed = "service web ip=172.30.0.1 port=80 lb=1.2.3.4 from=203.0.113.0/24";
    check_flow(closed, "198.51.100.1 -> 1.2.3.4:80", "drop");
    check_flow(closed, "203.0.113.1 -> 1.2.3.4:80", "reject");
    let other_family = "
        service web ip=172.30.0.1 port=80 lb=1.2.3.4 from=2600::/32
        endpoint web 10.1.0.1:8080";
    check_flow(other_family, "198.51.100.1 -> 1.2.3.4:80", "10.1.0.1:8080 masqueraded");
}

#[test]
fn terminating_endpoints_and_hints() {
    let leaving = "
        service web ip=172.30.0.1 port=80
        endpoint web 10.1.0.1:8080 leaving
        endpoint web 10.1.0.2:8080 unready";
    check_flow(leaving, "10.9.0.1 -> 172.30.0.1:80", "10.1.0.1:8080");
    let hinted = "
        node zone=a
        service web ip=172.30.0.1 port=80
        endpoint web 10.1.0.1:8080 zone=a
        endpoint web 10.1.0.2:8080 zone=b";
    check_flow(hinted, "10.9.0.1 -> 172.30.0.1:80", "10.1.0.1:8080");
    let half = &format!("{hinted}\n endpoint web 10.1.0.3:8080");
    let all = "10.1.0.1:8080 10.1.0.2:8080 10.1.0.3:8080";
    check_flow(half, "10.9.0.1 -> 172.30.0.1:80", all);
    let by_node = "
        node zone=a
        service web ip=172.30.0.1 port=80
        endpoint web 10.1.0.1:8080 zone=a node=other
        endpoint web 10.1.0.2:8080 zone=b node=test-node";
    check_flow(by_node, "10.9.0.1 -> 172.30.0.1:80", "10.1.0.2:8080");
}

#[test]
fn the_older_service_wins() {
    let world = "
        service new ip=172.30.0.1 port=80 external=198.51.100.7 created=2024-01-01T00:00:00Z
        service old ip=172.30.0.2 port=80 external=198.51.100.7 created=2020-01-01T00:00:00Z
        endpoint new 10.1.0.1:8080
        endpoint old 10.1.0.2:8080";
    check_flow(world, "203.0.113.1 -> 198.51.100.7:80", "10.1.0.2:8080 masqueraded");
    let same_age = "
        service b ip=172.30.0.1 port=80 nodeport=30080
        service a ip=172.30.0.2 port=80 nodeport=30080
        endpoint b 10.1.0.1:8080";
    check_flow(same_age, "203.0.113.1 -> 192.168.0.2:30080", "reject");
}

#[test]
fn node_port_addresses() {
    let world = "
        node nodeports=192.168.1.0/24 address=192.168.1.2
        service web ip=172.30.0.1 port=80 nodeport=30080
        endpoint web 10.1.0.1:8080";
    check_flow(world, "203.0.113.1 -> 192.168.0.2:30080", "untouched");
    check_flow(world, "203.0.113.1 -> 192.168.1.2:30080", "10.1.0.1:8080 masqueraded");
    let nobody = "
        node nodeports=192.168.1.0/24 address=192.168.1.2
        service web ip=172.30.0.1 port=80 nodeport=30080";
    check_flow(nobody, "203.0.113.1 -> 192.168.0.2:30080", "untouched");
    check_flow(nobody, "203.0.113.1 -> 192.168.1.2:30080", "reject");
}

#[test]
fn a_pod_that_reaches_itself() {
    let world = "
        node pods=10.0.0.0/8
        service web ip=172.30.0.1 port=80
        endpoint web 10.1.0.1:8080 here";
    check_flow(world, "10.1.0.1 -> 172.30.0.1:80", "10.1.0.1:8080 masqueraded");
    check_flow(world, "10.1.0.2 -> 172.30.0.1:80", "10.1.0.1:8080");
}
