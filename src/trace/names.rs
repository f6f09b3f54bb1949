//! Names that people use for the ends of a packet's way, and the addresses behind them.
//! A name that fits nothing, or several things, is said so with what would fit.
//!
//! It must never guess. Tests: below.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::answer::Question;
use super::load::World;
use crate::model::{Family, NamespacedName, Pod, Protocol, Service, ServicePort};
use crate::track::Cluster;

/// One end of a packet's way, as a person writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// An address.
    Address(IpAddr),
    /// `pod/NAMESPACE/NAME`; the namespace may be left out where the name is the only one.
    Pod(Option<String>, String),
    /// `svc/NAMESPACE/NAME`, its cluster IP.
    Service(Option<String>, String),
    /// This node.
    Node,
    /// Somebody outside of the cluster.
    Outside,
}

/// Why an end cannot be found: one line that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoSuch(pub String);

impl fmt::Display for NoSuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is known by name.
#[derive(Clone, Copy, Debug)]
pub struct Directory<'a> {
    /// Services and the node; none where no API server or manifests were given.
    pub cluster: Option<&'a Cluster>,
    /// Pods.
    pub pods: &'a [Pod],
    /// Why pods are not known, where they are not.
    pub podless: Option<&'a str>,
}

/// What is asked, before names are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Who sends, with its port where one is given.
    pub from: (End, Option<String>),
    /// For whom, with a port's number or name.
    pub to: (End, Option<String>),
    /// The protocol, if one is given.
    pub protocol: Option<Protocol>,
    /// The family, if one is given.
    pub family: Option<Family>,
}

/// Addresses of nobody (RFC 5737, RFC 3849): one stands for whoever is outside.
const OUTSIDE: [&str; 3] = ["203.0.113.77", "198.51.100.77", "192.0.2.77"];
const OUTSIDE_6: [&str; 2] = ["2001:db8:ffff::77", "2001:db8:fffe::77"];

/// An end with what stands behind its last colon.
pub fn parse(text: &str) -> Result<(End, Option<String>), NoSuch> {
    if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse() {
        return Ok((End::Address(address), None));
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok((End::Address(socket.ip()), Some(socket.port().to_string())));
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, Some(port.to_owned())),
        None => (text, None),
    };
    let parts: Vec<&str> = name.split('/').collect();
    let end = match parts.as_slice() {
        ["node"] => End::Node,
        ["outside"] => End::Outside,
        ["pod", name] => End::Pod(None, (*name).to_owned()),
        ["pod", namespace, name] => End::Pod(Some((*namespace).to_owned()), (*name).to_owned()),
        ["svc" | "service", name] => End::Service(None, (*name).to_owned()),
        ["svc" | "service", namespace, name] => {
            End::Service(Some((*namespace).to_owned()), (*name).to_owned())
        }
        _ => {
            let forms = "an address, pod/NAMESPACE/NAME, svc/NAMESPACE/NAME:PORT, node or outside";
            return Err(NoSuch(format!("{text:?}: expected {forms}")));
        }
    };
    Ok((end, port.filter(|port| !port.is_empty())))
}

impl Wish {
    /// Looks the names up. A link that is given is taken as it is.
    pub fn resolve(
        &self,
        directory: &Directory<'_>,
        world: &World,
        link: Option<&str>,
    ) -> Result<Question, NoSuch> {
        let service = match &self.to.0 {
            End::Service(namespace, name) => Some(directory.service(namespace.as_deref(), name)?),
            _ => None,
        };
        let port = match service {
            Some(service) => Some(self.service_port(service)?),
            None => None,
        };
        let protocol = self.protocol.or(port.map(|port| port.protocol)).unwrap_or(Protocol::Tcp);
        let number = match port {
            Some(port) => port.port,
            None => number(&self.to)?,
        };
        let family = self.family(directory)?;
        let to = directory.address(&self.to.0, (family, "TO"), world)?;
        let from = directory.address(&self.from.0, (family, "FROM"), world)?;
        let source_port = self.from.1.as_deref().map_or(Ok(0), port_number)?;
        let (link, because) = match link {
            Some(link) if world.host.link(link).is_none() => {
                return Err(NoSuch(format!("--link {link}: this node has no such link")));
            }
            Some(link) => (Some(link.to_owned()), "as asked".to_owned()),
            None => entry(world, from)?,
        };
        Ok(Question {
            protocol,
            source: SocketAddr::new(
                if link.is_some() { from } else { own_source(world, from, to, &self.from.0) },
                source_port,
            ),
            destination: SocketAddr::new(to, number),
            link,
            because,
        })
    }

    fn service_port<'s>(&self, service: &'s Service) -> Result<&'s ServicePort, NoSuch> {
        let wanted = self.to.1.as_deref();
        let fits = |port: &&ServicePort| {
            let named = wanted.is_none_or(|w| *port.name == *w || port.port.to_string() == w);
            named && self.protocol.is_none_or(|protocol| port.protocol == protocol)
        };
        let found: Vec<&ServicePort> = service.ports.iter().filter(fits).collect();
        let all: Vec<String> = service.ports.iter().map(port_words).collect();
        match (found.as_slice(), wanted) {
            ([one], _) => Ok(one),
            ([], _) => {
                Err(NoSuch(format!("{} has no such port; it has {}", service.name, all.join(", "))))
            }
            (_, _) => Err(NoSuch(format!(
                "{} has several ports that fit: say which, as in svc/{}:{} or with --proto: {}",
                service.name,
                service.name,
                service.ports[0].port,
                all.join(", ")
            ))),
        }
    }

    /// The family that was asked for, else that of an address that was given, else IPv4 if both
    /// ends have it.
    fn family(&self, directory: &Directory<'_>) -> Result<Family, NoSuch> {
        let given = [&self.from.0, &self.to.0].into_iter().filter_map(|end| match end {
            End::Address(address) => Some(Family::of(*address)),
            _ => None,
        });
        let mut all: Vec<Family> = given.chain(self.family).collect();
        all.dedup();
        match all.as_slice() {
            [] => Ok(Family::ALL
                .into_iter()
                .find(|f| self.possible(directory, *f))
                .unwrap_or(Family::V4)),
            [one] => Ok(*one),
            _ => Err(NoSuch("FROM and TO are of different IP families".to_owned())),
        }
    }

    fn possible(&self, directory: &Directory<'_>, family: Family) -> bool {
        [&self.from.0, &self.to.0].into_iter().all(|end| match end {
            End::Pod(namespace, name) => directory
                .pod(namespace.as_deref(), name)
                .is_ok_and(|pod| pod.addresses.iter().any(|a| Family::of(*a) == family)),
            End::Service(namespace, name) => directory
                .service(namespace.as_deref(), name)
                .is_ok_and(|service| service.cluster_ip(family).is_some()),
            _ => true,
        })
    }
}

fn port_words(port: &ServicePort) -> String {
    let name = if port.name.is_empty() { String::new() } else { format!("{} ", port.name) };
    format!("{name}{}/{}", port.port, port.protocol)
}

fn number(end: &(End, Option<String>)) -> Result<u16, NoSuch> {
    match &end.1 {
        Some(text) => port_number(text),
        None => Err(NoSuch("TO needs a port: ADDRESS:PORT, or --port".to_owned())),
    }
}

fn port_number(text: &str) -> Result<u16, NoSuch> {
    let number = text.parse::<u16>().ok().filter(|number| *number != 0);
    number.ok_or_else(|| NoSuch(format!("{text:?}: expected a port from 1 to 65535")))
}

impl<'a> Directory<'a> {
    fn cluster(&self, wanted: &str) -> Result<&'a Cluster, NoSuch> {
        self.cluster.ok_or_else(|| {
            NoSuch(format!(
                "{wanted}: names need --manifests DIR, --kubeconfig FILE or a dump that has objects"
            ))
        })
    }

    /// A Service by name; without a namespace it must be the only one of that name.
    pub fn service(&self, namespace: Option<&str>, name: &str) -> Result<&'a Service, NoSuch> {
        let cluster = self.cluster(&format!("svc/{name}"))?;
        if let Some(namespace) = namespace {
            let found = cluster.service(&NamespacedName::new(namespace, name));
            return found.ok_or_else(|| {
                let near = cluster.services().filter(|s| *s.name.name == *name).map(|s| &s.name);
                no_such(&format!("Service {namespace}/{name}"), near)
            });
        }
        one("Service", name, cluster.services().filter(|s| *s.name.name == *name), |s| &s.name)
    }

    /// A pod by name. Where pods are not known, none can be said not to be there.
    pub fn pod(&self, namespace: Option<&str>, name: &str) -> Result<&'a Pod, NoSuch> {
        if let Some(why) = self.podless {
            let name = namespace.map_or(name.to_owned(), |space| format!("{space}/{name}"));
            return Err(NoSuch(format!("pod/{name}: {why}; give the pod's address instead")));
        }
        let of_name = self.pods.iter().filter(|pod| *pod.name.name == *name);
        match namespace {
            None => one("Pod", name, of_name, |pod| &pod.name),
            Some(namespace) => {
                let mut fitting = of_name.clone().filter(|pod| *pod.name.namespace == *namespace);
                let near = of_name.map(|pod| &pod.name);
                fitting.next().ok_or_else(|| no_such(&format!("Pod {namespace}/{name}"), near))
            }
        }
    }

    /// The name of a pod with this address.
    pub fn pod_at(&self, address: IpAddr) -> Option<&'a NamespacedName> {
        self.pods.iter().find(|pod| pod.addresses.contains(&address)).map(|pod| &pod.name)
    }

    fn address(
        &self,
        end: &End,
        (family, role): (Family, &str),
        world: &World,
    ) -> Result<IpAddr, NoSuch> {
        let lacks = |what: String| NoSuch(format!("{role}: {what} has no {family} address"));
        match end {
            End::Address(address) => Ok(*address),
            End::Pod(namespace, name) => {
                let pod = self.pod(namespace.as_deref(), name)?;
                let found = pod.addresses.iter().copied().find(|a| Family::of(*a) == family);
                found.ok_or_else(|| lacks(format!("Pod {}", pod.name)))
            }
            End::Service(namespace, name) => {
                let service = self.service(namespace.as_deref(), name)?;
                let found = service.cluster_ip(family);
                found.ok_or_else(|| lacks(format!("Service {}", service.name)))
            }
            End::Node => self.node(family, world).ok_or_else(|| lacks("the node".to_owned())),
            End::Outside => self.outside(family, world),
        }
    }

    /// The node's address: of its object, else the first of a link that is not loopback's.
    fn node(&self, family: Family, world: &World) -> Option<IpAddr> {
        let told = self.cluster.and_then(|cluster| cluster.node()?.primary(family));
        let global = |a: &IpAddr| {
            let local = matches!(a, IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfe80);
            Family::of(*a) == family && !a.is_loopback() && !local
        };
        let links = world.survey.links.iter().flat_map(|link| &link.addresses);
        told.or_else(|| links.map(|(address, _)| *address).find(global))
    }

    fn outside(&self, family: Family, world: &World) -> Result<IpAddr, NoSuch> {
        let list = match family {
            Family::V4 => &OUTSIDE[..],
            Family::V6 => &OUTSIDE_6[..],
        };
        let free = |address: &IpAddr| {
            let near = world.survey.routes.iter().any(|r| {
                r.network.1 > 0
                    && ipnet::IpNet::new(r.network.0, r.network.1)
                        .is_ok_and(|n| n.contains(address))
            });
            !near && !world.host.is_local(*address)
        };
        let mut addresses = list.iter().filter_map(|text| text.parse().ok());
        addresses.find(free).ok_or_else(|| {
            NoSuch(
                "outside: every address that stands for it is in use here; give an address"
                    .to_owned(),
            )
        })
    }
}

fn one<'a, T>(
    kind: &str,
    name: &str,
    found: impl Iterator<Item = &'a T>,
    named: impl Fn(&T) -> &NamespacedName,
) -> Result<&'a T, NoSuch> {
    let found: Vec<&T> = found.collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(NoSuch(format!("there is no {kind} {name}"))),
        several => {
            let all: Vec<String> = several.iter().map(|t| named(t).to_string()).collect();
            Err(NoSuch(format!("{kind} {name} is ambiguous: {}", all.join(", "))))
        }
    }
}

fn no_such<'n>(what: &str, near: impl Iterator<Item = &'n NamespacedName>) -> NoSuch {
    let near: Vec<String> = near.map(ToString::to_string).collect();
    match near.is_empty() {
        true => NoSuch(format!("there is no {what}")),
        false => NoSuch(format!("there is no {what}; is {} meant?", near.join(" or "))),
    }
}

/// The link by which packets of an address come in: the one by which answers leave.
fn entry(world: &World, from: IpAddr) -> Result<(Option<String>, String), NoSuch> {
    if world.host.is_local(from) {
        return Ok((None, String::new()));
    }
    match world.host.route_to(from) {
        Some(hop) => {
            let because = format!("the route to {from}");
            Ok((Some(world.link_name(hop.link).to_owned()), because))
        }
        None => Err(NoSuch(format!(
            "FROM: this node has no route to {from}, so nothing says by which link its packets come; name it with --link"
        ))),
    }
}

/// A process that names no source gets one by its destination.
fn own_source(world: &World, from: IpAddr, to: IpAddr, end: &End) -> IpAddr {
    match end {
        End::Node => world.host.source_for(to).unwrap_or(from),
        _ => from,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_read() {
        let parsed = |text: &str| parse(text).unwrap();
        assert_eq!(parsed("fd00::1"), (End::Address("fd00::1".parse().unwrap()), None));
        assert_eq!(parsed("[fd00::1]:80").1.as_deref(), Some("80"));
        assert_eq!(parsed("10.0.0.1:53").1.as_deref(), Some("53"));
        let service = End::Service(Some("default".into()), "web".into());
        assert_eq!(parsed("svc/default/web:http"), (service, Some("http".into())));
        assert_eq!(parsed("pod/web-1"), (End::Pod(None, "web-1".into()), None));
        assert_eq!(parsed("node:30080"), (End::Node, Some("30080".into())));
        assert!(parse("deploy/x").unwrap_err().0.contains("pod/NAMESPACE/NAME"));
        assert!(parse("10.0.0.300").is_err());
    }
}
