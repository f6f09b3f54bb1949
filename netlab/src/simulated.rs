//! The same questions on the simulated kernel, for machines that give no namespaces: the real
//! sync, the same netlink bytes, packets in memory. Only the node is simulated: what leaves it
//! towards a pod counts as answered by that pod.
//! The boundary is `run`: manifests and scripts in, rows out. Tests: below.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use kube_proxy::kernel::simulated::Simulated;
use kube_proxy::model::Event;
use kube_proxy::sync::{Options, Proxy};
use kube_proxy::{api, cli};
use sim::{Fate, Host, Packet};

use crate::client::{Answer, Outcome};
use crate::manifests::{Manifests, PodSpec, Transport};
use crate::probe::{Probe, Row, Script, judge, short};
use crate::process::Rights;
use crate::scale::endpoint;
use crate::scratch::Scratch;
use crate::{plan, proxy};

/// The TCP flag of every packet but the first.
const ACK: u8 = sim::packet::flags::ACK;

/// Asks every probe of the scripts on the simulated kernel, those with the same flags on the same
/// node, then scales `web` if it is there. `mode` is a word of `--proxy-mode`.
pub fn run(examples: &Path, scripts: &[Script], mode: &str) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    let mut left: Vec<&Script> = scripts.iter().collect();
    while let Some(first) = left.first() {
        let flags = first.flags.clone();
        let (same, others) = left.into_iter().partition(|script| script.flags == flags);
        left = others;
        let mut world = World::new(examples, mode, &flags)?;
        for probe in same.iter().flat_map(|script: &&Script| &script.probes) {
            rows.push(judge(probe, &mut || world.attempt(probe)));
        }
        if flags.is_empty() && world.manifests.get("EndpointSlice", "web-ipv4").is_some() {
            rows.extend(world.scale()?);
        }
    }
    Ok(rows)
}

/// What the daemon would do with these flags on this node.
fn options(examples: &Path, mode: &str, flags: &[String]) -> Result<Options, String> {
    let start = proxy::Start {
        binary: "kube-proxy".into(),
        input: proxy::Input::Manifests(examples.to_owned()),
        flags: flags.to_vec(),
        rights: Rights::Ours,
        log: PathBuf::new(),
    };
    let words = ["kube-proxy".to_owned()].into_iter().chain(start.arguments_in(mode));
    let action = cli::parse(words).map_err(|usage| usage.to_string())?;
    let cli::Action::Run(settings) = action else {
        return Err(format!("flags {} do not run a proxy", flags.join(" ")));
    };
    let node = read(examples)?.into_iter().find_map(|event| match event {
        Event::Node(node) => Some(node),
        _ => None,
    });
    let (options, warning) = settings.proxy_options(node.as_deref());
    warning.map_or(Ok(options), Err)
}

fn read(folder: &Path) -> Result<Vec<Event>, String> {
    let manifests =
        api::manifests::Manifests::open(folder, plan::NODE).map_err(|e| e.to_string())?;
    Ok(manifests.read())
}

struct World {
    kernel: Simulated,
    proxy: Proxy,
    manifests: Manifests,
    pods: BTreeMap<String, PodSpec>,
    links: BTreeMap<String, u32>,
    eth0: u32,
    next_port: u16,
}

impl World {
    fn new(examples: &Path, mode: &str, flags: &[String]) -> Result<World, String> {
        let manifests = Manifests::read(examples)?;
        let mut host = Host::new(1);
        let eth0 = host.add_link("eth0");
        for (own, gateway) in plan::NODE_NET.own.iter().zip(plan::NODE_NET.router) {
            let own = plan::ip(own);
            host.add_address(eth0, own, if own.is_ipv4() { 24 } else { 64 });
            host.add_route((plan::unspecified(own), 0), Some(plan::ip(gateway)), eth0);
        }
        let kernel = Simulated::new(host);
        let options = options(examples, mode, flags)?;
        let mut world = World {
            proxy: Proxy::new(Box::new(kernel.clone()), options),
            kernel,
            manifests,
            pods: BTreeMap::new(),
            links: BTreeMap::new(),
            eth0,
            next_port: 20000,
        };
        world.publish(examples)?;
        Ok(world)
    }

    /// Tells the proxy what a folder says and lets it sync; pods that are new get their links.
    fn publish(&mut self, folder: &Path) -> Result<(), String> {
        self.pods.extend(self.manifests.pods());
        for (name, pod) in self.pods.iter().filter(|(_, pod)| pod.node != plan::NODE_2) {
            if self.links.contains_key(name) {
                continue;
            }
            let mut host = self.kernel.host();
            let link = host.add_link(&format!("pod{}", self.links.len() + 1));
            for address in &pod.addresses {
                host.add_route((*address, plan::host_prefix(*address)), None, link);
            }
            self.links.insert(name.clone(), link);
        }
        read(folder)?.into_iter().for_each(|event| self.proxy.feed(event));
        self.proxy.sync().map_err(|e| format!("simulated kernel: {e}"))?;
        Ok(())
    }

    /// Address of one who asks, and the link by which its packets reach the node; no link for the
    /// node itself.
    fn origin(&self, who: &str, to: IpAddr) -> Option<(IpAddr, Option<u32>)> {
        let same = |a: &IpAddr| a.is_ipv4() == to.is_ipv4();
        let of = |pair: [&str; 2]| pair.map(plan::ip).into_iter().find(same);
        match who {
            "outside" => Some((of(plan::OUTSIDE_NET.own)?, Some(self.eth0))),
            "stranger" => Some((of(plan::STRANGER)?, Some(self.eth0))),
            plan::NODE_2 => Some((of(plan::NODE_2_NET.own)?, Some(self.eth0))),
            "node" => Some((of(plan::NODE_NET.own)?, None)),
            pod => {
                let address = self.pods.get(pod)?.addresses.iter().copied().find(same)?;
                Some((address, Some(self.links.get(pod).copied().unwrap_or(self.eth0))))
            }
        }
    }

    fn attempt(&mut self, probe: &Probe) -> Outcome {
        self.next_port = self.next_port.checked_add(1).unwrap_or(20000);
        let Some((source, link)) = self.origin(&probe.who, probe.to.ip()) else {
            return Outcome::Broken(format!("nobody is called {}", probe.who));
        };
        let own = SocketAddr::new(source, self.next_port);
        let packet = match probe.transport {
            Transport::Tcp => Packet::tcp(own, probe.to),
            Transport::Udp => Packet::udp(own, probe.to),
            Transport::Sctp => Packet::sctp(own, probe.to),
        };
        self.send(&packet, own, link)
    }

    fn send(&self, packet: &Packet, own: SocketAddr, link: Option<u32>) -> Outcome {
        let mut host = self.kernel.host();
        let outcome = match link {
            Some(link) => host.receive(packet, link),
            None => host.emit(packet),
        };
        drop(host);
        match outcome.fate {
            Fate::Rejected(..) => Outcome::Refused,
            // Nothing listens on the node itself: Linux resets.
            Fate::Delivered => Outcome::Refused,
            Fate::Dropped(_) => Outcome::Silence,
            Fate::Forwarded(_) | Fate::Sent(_) => self.arrived(&outcome.packet, own),
            Fate::NoRoute => Outcome::Unreachable,
            other => Outcome::Broken(format!("{other:?}")),
        }
    }

    /// Opens a TCP connection: there, back and there again. Says with which pod.
    fn establish(
        &self,
        own: SocketAddr,
        to: SocketAddr,
        link: Option<u32>,
    ) -> Option<(SocketAddr, String)> {
        let mut host = self.kernel.host();
        let first = Packet::tcp(own, to);
        let there = match link {
            Some(link) => host.receive(&first, link),
            None => host.emit(&first),
        };
        drop(host);
        let Outcome::Answered(answer) = self.arrived(&there.packet, own) else { return None };
        let back = self.links.get(&answer.pod).copied().unwrap_or(self.eth0);
        self.kernel.host().receive(&there.packet.answer(), back);
        let last = self.send(&first.with_flags(ACK), own, link);
        matches!(last, Outcome::Answered(_)).then_some((own, answer.pod))
    }

    /// A packet that left the node: at a pod's port it is answered, else it is lost in the world.
    fn arrived(&self, packet: &Packet, own: SocketAddr) -> Outcome {
        let (sport, dport) = (packet.sport(), packet.dport());
        let pod = self.pods.values().find(|pod| {
            pod.addresses.contains(&packet.dst) && pod.ports.iter().any(|(_, port)| *port == dport)
        });
        match pod {
            Some(pod) => Outcome::Answered(Answer {
                pod: pod.name.clone(),
                peer: SocketAddr::new(packet.src, sport),
                local: SocketAddr::new(packet.dst, dport),
                own,
            }),
            None => Outcome::Unreachable,
        }
    }

    /// Grows `web` from three pods to five and takes one away, while connections are kept.
    fn scale(&mut self) -> Result<Vec<Row>, String> {
        let scratch = Scratch::new()?;
        let to: SocketAddr = "10.96.0.10:80".parse().expect("well-formed");
        let (source, link) = self.origin("dns-1", to.ip()).ok_or("no pod dns-1")?;
        let kept: Vec<(SocketAddr, String)> = (0..8)
            .filter_map(|n| {
                let own = SocketAddr::new(source, 40000 + n);
                self.establish(own, to, link)
            })
            .collect();
        let mut slice =
            self.manifests.get("EndpointSlice", "web-ipv4").cloned().unwrap_or_default();
        if let Some(endpoints) = slice["endpoints"].as_array_mut() {
            endpoints.push(endpoint("web-4", "10.244.1.14", plan::NODE));
            endpoints.push(endpoint("web-5", "10.244.2.15", plan::NODE_2));
        }
        let mut rows =
            vec![self.scaled(&scratch, slice.clone(), "web-1 web-2 web-3 web-4 web-5")?];
        if let Some(endpoints) = slice["endpoints"].as_array_mut() {
            endpoints.retain(|e| e["targetRef"]["name"] != "web-1");
        }
        rows.push(self.scaled(&scratch, slice, "web-2 web-3 web-4 web-5")?);
        let alive = kept.iter().filter(|(own, pod)| {
            let more = Packet::tcp(*own, to).with_flags(ACK);
            matches!(self.send(&more, *own, link), Outcome::Answered(a) if a.pod == *pod)
        });
        let (alive, all) = (alive.count(), 8);
        rows.push(Row {
            title: rows[0].title.clone(),
            who: "dns-1".to_owned(),
            to: "connections kept open".to_owned(),
            reached: format!("{alive} of {all} alive"),
            seen: String::new(),
            expected: "all survive".to_owned(),
            wrong: (alive != all).then(|| "some went elsewhere".to_owned()),
        });
        Ok(rows)
    }

    fn scaled(
        &mut self,
        scratch: &Scratch,
        slice: serde_json::Value,
        pods: &str,
    ) -> Result<Row, String> {
        self.manifests.put(slice);
        self.manifests.write_all(scratch.path())?;
        self.publish(scratch.path())?;
        let line = format!("tcp from dns-1 to 10.96.0.10:80 reaches {pods} as any");
        let probe = Probe::parse(&line)?;
        let mut row = judge(&probe, &mut || self.attempt(&probe));
        let names: BTreeSet<&str> = pods.split(' ').collect();
        row.title = "Scaling 10.96.0.10:80 while connections run".to_owned();
        row.to = format!("scaled to {}", short(&names.into_iter().collect::<Vec<_>>()));
        Ok(row)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::proxy::workspace;

    /// The whole demo without privileges: every promise of the examples, on the simulated kernel.
    #[test]
    fn the_examples_are_as_promised_whatever_the_flags() {
        let mut scripts = Script::read_all(&workspace().join("netlab/scenarios")).unwrap();
        scripts.retain(|s| s.manifests == "examples");
        assert!(scripts.iter().filter(|s| !s.flags.is_empty()).count() >= 5);
        for mode in ["nftables", "iptables", "ipvs"] {
            // iptables mode guards no cluster IP, as the reference does not.
            let guarded = |s: &&Script| mode != "iptables" || !s.name.ends_with("guard");
            let scripts: Vec<Script> =
                scripts.iter().filter(guarded).cloned().map(|s| s.in_mode(mode)).collect();
            let rows = run(&workspace().join("examples"), &scripts, mode).unwrap();
            assert!(rows.len() > 60);
            let wrong: Vec<Row> = rows.into_iter().filter(|r| r.wrong.is_some()).collect();
            assert!(wrong.is_empty(), "{mode}: {}", crate::table::print(&wrong));
        }
    }
}
