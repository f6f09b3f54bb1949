//! Three network namespaces in a row: clients, a node that carries their connections, a pod that answers.
//! It knows no program. Tests: by running `carriers`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use netlab::links::{self, End, Hop};
use netlab::namespace::Namespace;

/// The node's address towards the clients.
pub const NODE: Ipv4Addr = Ipv4Addr::new(172, 29, 1, 1);
/// The clients' address.
const CLIENT: Ipv4Addr = Ipv4Addr::new(172, 29, 1, 2);
/// The node's address towards the pod.
const NODE_TO_POD: Ipv4Addr = Ipv4Addr::new(172, 29, 2, 1);
/// The pod's address.
pub const POD: Ipv4Addr = Ipv4Addr::new(172, 29, 2, 2);
/// Where the pod answers.
pub const PORT: u16 = 8080;
/// The Service that kube-proxy carries.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// What each namespace needs to open and close tens of thousands of connections.
const SYSCTLS: [(&str, &str); 3] = [
    ("net/ipv4/ip_local_port_range", "1024 65535"),
    ("net/ipv4/tcp_tw_reuse", "1"),
    ("net/core/somaxconn", "16384"),
];

/// The namespaces.
pub struct Ground {
    /// Where connections begin.
    pub client: Namespace,
    /// Where they are carried.
    pub node: Namespace,
    /// Where they end.
    pub pod: Namespace,
}

impl Ground {
    /// Makes and joins them.
    pub fn new() -> Result<Ground, String> {
        let named = |name: &str| Namespace::new(name);
        let ground = Ground { client: named("clients")?, node: named("node")?, pod: named("pod")? };
        let near = End { namespace: &ground.node, link: "clients" };
        links::cable(&near, &End { namespace: &ground.client, link: "eth0" })?;
        let far = End { namespace: &ground.node, link: "pod" };
        links::cable(&far, &End { namespace: &ground.pod, link: "eth0" })?;
        for (namespace, link, address) in [
            (&ground.client, "eth0", CLIENT),
            (&ground.node, "clients", NODE),
            (&ground.node, "pod", NODE_TO_POD),
            (&ground.pod, "eth0", POD),
        ] {
            links::up(namespace, "lo")?;
            links::up(namespace, link)?;
            links::address(namespace, link, IpAddr::V4(address), 24)?;
        }
        let everywhere = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        links::route(&ground.client, everywhere, "eth0", Hop::Via(NODE.into()))?;
        links::route(&ground.pod, everywhere, "eth0", Hop::Via(NODE_TO_POD.into()))?;
        links::sysctl(&ground.node, "net/ipv4/ip_forward", "1")?;
        for namespace in [&ground.client, &ground.node, &ground.pod] {
            for (path, value) in SYSCTLS {
                // Some of them a namespace does not have on every kernel.
                let _ = links::sysctl(namespace, path, value);
            }
        }
        Ok(ground)
    }
}

/// The pod's own address and port.
pub fn pod() -> SocketAddr {
    SocketAddr::new(POD.into(), PORT)
}
