//! What one virtual server is to be: how it chooses, its destinations, the entries of sets that
//! belong to it, the address it needs on the device. Of an address and port that is a Service's own
//! and a node port too, the Service's own counts.
//! It must never know what is in the kernel. Tests: `plan`, `proptests`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::choice::{ANNOTATION, Choice};
use super::sets::Set;
use crate::backend::Options;
use crate::backend::options::LocalWithoutEndpoints;
use crate::backend::program::{Face, Frontend, Program, Role, Target, Unserved};
use crate::backend::ruleset::Ruleset;
use crate::kernel::{IpsetEntry, Persistence, Scheduler, Scheduling, Socket, VirtualServer};
use crate::model::{Family, NamespacedName, Notice, Reason};

/// The node, as far as virtual servers depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The family.
    pub family: Family,
    /// Addresses of links other than the device.
    pub addresses: BTreeSet<IpAddr>,
    /// Schedulers that Services ask for and this kernel lacks.
    pub lacking: BTreeSet<Scheduler>,
}

/// What a virtual server is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// How it chooses.
    pub scheduling: Scheduling,
    /// How it is asked to choose, with flags.
    pub choice: Choice,
    /// Its destinations, sorted.
    pub destinations: Vec<Socket>,
    /// Entries of sets that are there for it, perhaps some for others too.
    pub entries: Vec<(Set, IpsetEntry)>,
    /// The address that the device has to have for it.
    pub address: Option<IpAddr>,
    /// Whose it is.
    pub service: NamespacedName,
    /// What could not be done as its Service asked.
    pub notices: Vec<Notice>,
}

impl Wanted {
    /// Says that somebody else's virtual server stands in its place.
    pub fn left_alone(&self, server: &VirtualServer) -> Notice {
        Notice {
            kind: "Service",
            object: self.service.clone(),
            field: String::new(),
            reason: Reason::Unsupported,
            message: format!(
                "{server} is a virtual server in the excluded CIDRs that kube-proxy did not make; it is left as it is"
            ),
        }
    }
}

impl Node {
    /// The virtual servers of a frontend: one, or for a node port one for each address.
    pub fn servers(&self, frontend: &Frontend, options: &Options) -> Vec<VirtualServer> {
        let at = |address| VirtualServer {
            protocol: frontend.protocol,
            socket: Socket { address, port: frontend.port },
        };
        match frontend.address {
            Some(address) => vec![at(address)],
            None => self.node_port_addresses(options).map(at).collect(),
        }
    }

    fn node_port_addresses<'a>(&'a self, options: &'a Options) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().copied().filter(|address| self.takes_node_ports(*address, options))
    }

    fn takes_node_ports(&self, address: IpAddr, options: &Options) -> bool {
        let cidrs = options.node_port_cidrs(self.family);
        self.addresses.contains(&address)
            && cidrs.is_none_or(|list| list.iter().any(|cidr| cidr.contains(&address)))
    }

    /// Who has a virtual server's address and port.
    fn owner(
        &self,
        server: &VirtualServer,
        (ruleset, options): (&Ruleset, &Options),
    ) -> Option<(Frontend, Arc<Program>)> {
        let VirtualServer { protocol, socket } = *server;
        let own = Frontend { address: Some(socket.address), protocol, port: socket.port };
        let node_port = Frontend { address: None, ..own };
        let node_port = self.takes_node_ports(socket.address, options).then_some(node_port);
        [Some(own), node_port]
            .into_iter()
            .flatten()
            .find_map(|frontend| Some((frontend, ruleset.program(&frontend)?)))
    }

    /// What a virtual server is to be, if anything.
    pub fn wanted(
        &self,
        server: &VirtualServer,
        (ruleset, options): (&Ruleset, &Options),
    ) -> Option<Wanted> {
        let (frontend, program) = self.owner(server, (ruleset, options))?;
        let (choice, notice) = self.choice(&program, options);
        let bits = self.family.address_bits();
        let persistence = program.sticky.map(|seconds| Persistence { seconds, prefix: bits });
        let old_way = options.ipvs.local_without_endpoints == LocalWithoutEndpoints::Elsewhere;
        let mut destinations: Vec<Socket> =
            endpoints(&program, old_way).iter().map(|target| target.socket).collect();
        let most = choice.most_destinations();
        let notices = notice.into_iter().chain(too_many(&program, (destinations.len(), &choice)));
        let notices = notices.collect();
        destinations.truncate(most);
        let mut entries = Vec::new();
        hairpins(server, &program, &mut entries);
        role_entries(server, (&frontend, &program), &mut entries);
        if !old_way {
            unserved_entries(server, &program, &mut entries);
        }
        let address = server.socket.address;
        let bind = frontend.address.is_some()
            && (program.cluster_ip || !self.addresses.contains(&address));
        if bind {
            entries.push((Set::IpvsIps, IpsetEntry::Ip(address)));
        }
        Some(Wanted {
            scheduling: Scheduling {
                scheduler: choice.scheduler,
                flags: choice.flags,
                persistence,
            },
            choice,
            destinations,
            entries,
            address: bind.then_some(address),
            service: program.origin.service.clone(),
            notices,
        })
    }

    /// The scheduler that a Service gets, and why it is not the one it asked for.
    fn choice(&self, program: &Program, options: &Options) -> (Choice, Option<Notice>) {
        let usual = options.ipvs.choice;
        let Some(text) = &program.ipvs_scheduler else { return (usual, None) };
        let (reason, why) = match Choice::read(text) {
            Err(why) => (Reason::InvalidField, why),
            Ok(choice) if self.lacking.contains(&choice.scheduler) => {
                let name = choice.scheduler;
                let why = format!("this kernel has no scheduler {name}; load ip_vs_{name}");
                (Reason::Unsupported, why)
            }
            Ok(choice) => return (choice, None),
        };
        let notice = Notice {
            kind: "Service",
            object: program.origin.service.clone(),
            field: format!("metadata.annotations[{ANNOTATION}]"),
            reason,
            message: format!("{why}; {} is used", usual.scheduler),
        };
        (usual, Some(notice))
    }
}

/// Says of so many endpoints that not all of them can be chosen, if that is so.
fn too_many(program: &Program, (count, choice): (usize, &Choice)) -> Option<Notice> {
    let most = choice.most_destinations();
    let name = choice.scheduler;
    (count > most).then(|| Notice {
        kind: "Service",
        object: program.origin.service.clone(),
        field: String::new(),
        reason: Reason::Unsupported,
        message: format!(
            "the scheduler {name} takes {most} endpoints; {} of {count} get no connections",
            count - most
        ),
    })
}

/// The scheduler a program asks for by a well-formed annotation.
pub fn asked_scheduler(program: &Program) -> Option<Scheduler> {
    Choice::read(program.ipvs_scheduler.as_ref()?).ok().map(|choice| choice.scheduler)
}

/// A virtual server has one list for everybody: with policy Local those of this node, if there are
/// any. If not, the node's own pods and processes get the others, as in every mode; `NoLocal` keeps
/// everybody else out.
fn endpoints(program: &Program, old_way: bool) -> &[Target] {
    match (program.role, program.unserved) {
        (Role::Internal, Some(Unserved::Drop)) if old_way => &program.elsewhere,
        (Role::Local, _) if !program.local.is_empty() => &program.local,
        _ => &program.targets,
    }
}

fn hairpins(server: &VirtualServer, program: &Program, out: &mut Vec<(Set, IpsetEntry)>) {
    let here = program.all_targets().filter(|target| target.local);
    out.extend(here.map(|target| {
        let entry = IpsetEntry::IpPortIp(server.protocol, target.socket, target.socket.address);
        (Set::LoopBack, entry)
    }));
    out.sort_unstable();
    out.dedup();
}

/// The entries by which rules know what kind of address it is.
fn role_entries(
    server: &VirtualServer,
    (frontend, program): (&Frontend, &Program),
    out: &mut Vec<(Set, IpsetEntry)>,
) {
    let pair = IpsetEntry::IpPort(server.protocol, server.socket);
    let local = program.role == Role::Local;
    if frontend.address.is_none() {
        let (set, spared) = Set::of_node_ports(server.protocol);
        let entry = match set {
            Set::NodePortSctp => pair,
            _ => IpsetEntry::Port(server.socket.port),
        };
        out.push((set, entry));
        out.push((Set::NodeIps, IpsetEntry::Ip(server.socket.address)));
        out.extend(local.then_some((spared, entry)));
        return;
    }
    if program.role == Role::Internal {
        out.push((Set::ClusterIp, pair));
    } else if program.face == Face::LoadBalancerIp {
        out.push((Set::LoadBalancer, pair));
        out.extend(local.then_some((Set::LoadBalancerLocal, pair)));
    } else {
        out.push((if local { Set::ExternalIpLocal } else { Set::ExternalIp }, pair));
    }
    let Some(sources) = &program.sources else { return };
    out.push((Set::LoadBalancerFw, pair));
    out.extend(sources.iter().map(|range| {
        let VirtualServer { protocol, socket } = *server;
        if range.prefix_len() == range.max_prefix_len() && range.addr() == socket.address {
            let entry = IpsetEntry::IpPortIp(protocol, socket, socket.address);
            return (Set::LoadBalancerSourceIp, entry);
        }
        (Set::LoadBalancerSourceCidr, IpsetEntry::IpPortNet(protocol, socket, *range))
    }));
}

/// Who must not get in for want of endpoints on this node. Where there are none anywhere, a virtual
/// server without destinations refuses by itself.
fn unserved_entries(server: &VirtualServer, program: &Program, out: &mut Vec<(Set, IpsetEntry)>) {
    if program.unserved != Some(Unserved::Drop) {
        return;
    }
    let reaches_others = program.role == Role::Local && !program.targets.is_empty();
    let set = if reaches_others { Set::NoLocal } else { Set::Unserved };
    out.push((set, IpsetEntry::IpPort(server.protocol, server.socket)));
}
