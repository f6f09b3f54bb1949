//! The lab: an outside client, a router, two nodes and pods behind them, each a namespace, wired
//! in both families. `node` is where kube-proxy runs; pods of `node-2` are behind another router.
//! Knows nothing of Services. Tests: below (skipped where the machine gives no namespaces).
//!
//! ```text
//! outside ── router ── node-1 ── pods 10.244.1.0/24    (kube-proxy runs in node-1)
//!                └──── node-2 ── pods 10.244.2.0/24    (forwards only)
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use crate::echo::Echo;
use crate::links::{self, End, Hop, address, cable, has_ipv6, route, sysctl};
use crate::manifests::{PodSpec, Transport};
use crate::namespace::Namespace;
use crate::plan;
use crate::proxy;
use crate::sctp;

/// A running pod.
#[derive(Clone, Debug)]
pub struct Pod {
    /// What it was made from.
    pub spec: PodSpec,
    /// Its namespace.
    pub namespace: Namespace,
}

/// All namespaces of a run with the servers in them.
pub struct Lab {
    /// The client outside the cluster.
    pub outside: Namespace,
    /// The network between outside and nodes.
    pub router: Namespace,
    /// The node with kube-proxy.
    pub node: Namespace,
    /// The other node.
    pub node_2: Namespace,
    pods: BTreeMap<String, Pod>,
    echo: Echo,
    sctp: Vec<sctp::Server>,
    ipv6: bool,
    wired: usize,
}

impl Lab {
    /// Builds the lab without pods.
    pub fn new() -> Result<Lab, String> {
        let ipv6 = has_ipv6();
        let lab = Lab {
            outside: Namespace::new("outside")?,
            router: Namespace::new("router")?,
            node: Namespace::new(plan::NODE)?,
            node_2: Namespace::new(plan::NODE_2)?,
            pods: BTreeMap::new(),
            echo: Echo::start()?,
            sctp: Vec::new(),
            ipv6,
            wired: 0,
        };
        for namespace in [&lab.outside, &lab.router, &lab.node, &lab.node_2] {
            prepare(namespace, ipv6)?;
        }
        hint(&lab.node)?;
        lab.wire(&lab.outside, "outside", &plan::OUTSIDE_NET)?;
        lab.wire(&lab.node, plan::NODE, &plan::NODE_NET)?;
        lab.wire(&lab.node_2, plan::NODE_2, &plan::NODE_2_NET)?;
        for stranger in lab.usable(&plan::STRANGER) {
            address(&lab.outside, "eth0", stranger, plan::host_prefix(stranger))?;
        }
        lab.route_at_router(plan::NODE, &plan::NODE_NET, &plan::TO_NODE)?;
        lab.route_at_router(plan::NODE_2, &plan::NODE_2_NET, &plan::TO_NODE_2)?;
        Ok(lab)
    }

    /// Whether the lab has IPv6.
    pub fn ipv6(&self) -> bool {
        self.ipv6
    }

    /// The addresses of a pair that this machine can have.
    fn usable<'a>(&self, pair: &'a [&'a str]) -> impl Iterator<Item = IpAddr> + use<'a> {
        let ipv6 = self.ipv6;
        pair.iter().map(|a| plan::ip(a)).filter(move |a| a.is_ipv4() || ipv6)
    }

    /// Cables a namespace to the router and makes the router its way out.
    fn wire(&self, namespace: &Namespace, link: &str, net: &plan::Net) -> Result<(), String> {
        cable(&End { namespace: &self.router, link }, &End { namespace, link: "eth0" })?;
        for (own, gateway) in self.usable(&net.own).zip(self.usable(&net.router)) {
            let prefix = if own.is_ipv4() { 24 } else { 64 };
            address(namespace, "eth0", own, prefix)?;
            address(&self.router, link, gateway, prefix)?;
            route(namespace, (plan::unspecified(own), 0), "eth0", Hop::Via(gateway))?;
        }
        Ok(())
    }

    fn route_at_router(&self, link: &str, net: &plan::Net, to: &[&str]) -> Result<(), String> {
        for prefix in to {
            let (base, length) = plan::prefix(prefix);
            let via = self.usable(&net.own).find(|own| own.is_ipv4() == base.is_ipv4());
            if let Some(via) = via {
                route(&self.router, (base, length), link, Hop::Via(via))?;
            }
        }
        Ok(())
    }

    /// Starts the pods that are not running yet; running ones get the ports they lack.
    pub fn start_pods(&mut self, specs: &BTreeMap<String, PodSpec>) -> Result<(), String> {
        for spec in specs.values() {
            let Some(pod) = self.pods.get(&spec.name).cloned() else {
                self.start_pod(spec)?;
                continue;
            };
            let ports = spec.ports.difference(&pod.spec.ports).copied().collect();
            let more = PodSpec { ports, ..pod.spec.clone() };
            self.serve(&more, &pod.namespace)?;
            if let Some(pod) = self.pods.get_mut(&spec.name) {
                pod.spec.ports.extend(more.ports);
            }
        }
        Ok(())
    }

    fn start_pod(&mut self, spec: &PodSpec) -> Result<(), String> {
        let node = if spec.node == plan::NODE_2 { self.node_2.clone() } else { self.node.clone() };
        let on_host = spec.addresses.iter().any(|a| plan::is_node_address(*a));
        let namespace = if on_host { node.clone() } else { Namespace::new(&spec.name)? };
        if !on_host {
            prepare(&namespace, self.ipv6)?;
            self.wired += 1;
            let link = format!("pod{}", self.wired);
            cable(
                &End { namespace: &node, link: &link },
                &End { namespace: &namespace, link: "eth0" },
            )?;
            self.address_pod(spec, &namespace, (&node, &link))?;
        }
        self.serve(spec, &namespace)?;
        self.pods.insert(spec.name.clone(), Pod { spec: spec.clone(), namespace });
        Ok(())
    }

    /// A pod's addresses are host routes on its node. Its way out is the node's own IPv4 address
    /// (which Linux answers for on every link), and a link-local address for IPv6.
    fn address_pod(
        &self,
        spec: &PodSpec,
        pod: &Namespace,
        (node, link): (&Namespace, &str),
    ) -> Result<(), String> {
        let net = if spec.node == plan::NODE_2 { &plan::NODE_2_NET } else { &plan::NODE_NET };
        for own in spec.addresses.iter().copied().filter(|a| a.is_ipv4() || self.ipv6) {
            let bits = plan::host_prefix(own);
            address(pod, "eth0", own, bits)?;
            route(node, (own, bits), link, Hop::Link)?;
            let gateway = if own.is_ipv4() { plan::ip(net.own[0]) } else { plan::ip("fe80::1") };
            if own.is_ipv4() {
                route(pod, (gateway, bits), "eth0", Hop::Link)?;
            } else {
                address(node, link, gateway, 64)?;
            }
            route(pod, (plan::unspecified(own), 0), "eth0", Hop::Via(gateway))?;
        }
        Ok(())
    }

    /// Echo servers on every port of a pod.
    fn serve(&mut self, spec: &PodSpec, namespace: &Namespace) -> Result<(), String> {
        let failed = |e: std::io::Error| format!("pod {}: cannot listen: {e}", spec.name);
        for own in spec.addresses.iter().copied().filter(|a| a.is_ipv4() || self.ipv6) {
            for (transport, port) in &spec.ports {
                let at = SocketAddr::new(own, *port);
                match transport {
                    Transport::Tcp => {
                        let listener = namespace.run(|| TcpListener::bind(at)).map_err(failed)?;
                        self.echo.tcp(&spec.name, listener);
                    }
                    Transport::Udp => {
                        let socket = namespace.run(|| UdpSocket::bind(at)).map_err(failed)?;
                        self.echo.udp(&spec.name, socket);
                    }
                    Transport::Sctp if sctp::has_sockets() => {
                        let listener = namespace.run(|| sctp::listen(at)).map_err(failed)?;
                        self.echo.tcp(&spec.name, listener);
                    }
                    Transport::Sctp => self.sctp.push(sctp::serve(&spec.name, namespace, at)?),
                }
            }
        }
        Ok(())
    }

    /// A running pod.
    pub fn pod(&self, name: &str) -> Option<&Pod> {
        self.pods.get(name)
    }

    /// The namespace of one who can ask: `outside`, `stranger` (another address outside), `node`,
    /// `node-2`, or a pod.
    pub fn place(&self, who: &str) -> Option<&Namespace> {
        match who {
            "outside" | "stranger" => Some(&self.outside),
            "node" => Some(&self.node),
            plan::NODE_2 => Some(&self.node_2),
            pod => self.pods.get(pod).map(|p| &p.namespace),
        }
    }

    /// Commands with which a person looks into each namespace while the run lasts.
    pub fn hints(&self) -> Vec<String> {
        [&self.outside, &self.router, &self.node, &self.node_2]
            .into_iter()
            .chain(self.pods.values().map(|p| &p.namespace))
            .map(Namespace::hint)
            .collect()
    }
}

/// Says which iptables the node uses, as kubelet does.
fn hint(node: &Namespace) -> Result<(), String> {
    let Some(tool) = proxy::mode().tool() else { return Ok(()) };
    let arguments = ["-t", "mangle", "-N", "KUBE-IPTABLES-HINT"];
    let done = node.run(|| std::process::Command::new(tool).args(arguments).output());
    match done {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{tool}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(why) => Err(format!("{tool}: {why}")),
    }
}

/// Sysctls and loopback of a new namespace.
fn prepare(namespace: &Namespace, ipv6: bool) -> Result<(), String> {
    links::up(namespace, "lo")?;
    sysctl(namespace, "net/ipv4/ip_forward", "1")?;
    // A refusal that is held back because there was one a moment ago looks like silence.
    sysctl(namespace, "net/ipv4/icmp_ratelimit", "0")?;
    if ipv6 {
        sysctl(namespace, "net/ipv6/icmp/ratelimit", "0")?;
    }
    for scope in ["all", "default"] {
        // Some distributions filter by return path: pods reached through NAT would be silent.
        sysctl(namespace, &format!("net/ipv4/conf/{scope}/rp_filter"), "0")?;
        sysctl(namespace, &format!("net/ipv4/conf/{scope}/send_redirects"), "0")?;
        if ipv6 {
            sysctl(namespace, &format!("net/ipv6/conf/{scope}/disable_ipv6"), "0")?;
            sysctl(namespace, &format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
            sysctl(namespace, &format!("net/ipv6/conf/{scope}/forwarding"), "1")?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::client::{Outcome, ask_tcp};
    use crate::sctp;
    use std::collections::BTreeSet;
    use std::time::Duration;

    fn spec(name: &str, node: &str, addresses: [&str; 2]) -> PodSpec {
        PodSpec {
            name: name.into(),
            node: node.into(),
            addresses: addresses.iter().map(|a| plan::ip(a)).collect(),
            ports: BTreeSet::from([(Transport::Tcp, 8080), (Transport::Sctp, 9)]),
        }
    }

    #[test]
    fn everyone_reaches_every_pod() {
        let mut lab = match Lab::new() {
            Ok(lab) => lab,
            Err(why) => return eprintln!("skipped: {why}"),
        };
        let pods = [
            spec("a", plan::NODE, ["10.244.1.10", "fd00:10:244:1::10"]),
            spec("b", plan::NODE_2, ["10.244.2.10", "fd00:10:244:2::10"]),
        ];
        lab.start_pods(&pods.iter().map(|p| (p.name.clone(), p.clone())).collect()).unwrap();
        for pod in &pods {
            for address in pod.addresses.iter().filter(|a| a.is_ipv4() || lab.ipv6()) {
                for who in ["outside", "node", "node-2", "a", "b"] {
                    let to = SocketAddr::new(*address, 8080);
                    let patience = Duration::from_secs(5);
                    let place = lab.place(who).unwrap();
                    let outcome = place.run(|| ask_tcp(None, to, patience));
                    let Outcome::Answered(answer) = outcome else {
                        panic!("{who} to {to}: {outcome:?}");
                    };
                    assert_eq!((&answer.pod, answer.peer), (&pod.name, answer.own), "{who}");
                }
                let to = SocketAddr::new(*address, 9);
                let outcome = lab.outside.run(|| sctp::ask(None, to, Duration::from_secs(5)));
                assert!(matches!(outcome, Outcome::Answered(_)), "SCTP {to}: {outcome:?}");
            }
        }
    }
}
