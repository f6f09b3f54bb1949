//! Where a proxy mode rightly departs from the vectors, which were taken from iptables mode: one
//! table of rules by kind of flow, each with its reason and the fate that holds instead.
//! A rule must be general: it may name no vector. Tests: `tests/vectors.rs`.

use std::net::IpAddr;

use kube_proxy::model::Family;

use crate::cluster::{Cluster, Mode, Setup};
use crate::fate::{Entry, Packet, Promise};
use crate::oracle::{Face, Question, promise};

/// A flow whose fate may differ from what the vector says.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The objects.
    pub cluster: &'a Cluster,
    /// The node, in the mode that is judged.
    pub setup: &'a Setup,
    /// The packet.
    pub packet: &'a Packet,
    /// What the vector says.
    pub claimed: &'a Promise,
}

/// Modes in which something holds.
#[derive(Clone, Copy, Debug)]
pub enum Modes {
    /// These, whatever rules they have.
    In(&'static [Mode]),
    /// Wherever rules are of these modes' kind.
    ByRulesOf(&'static [Mode]),
}

impl Modes {
    /// The modes that are named.
    pub fn listed(self) -> &'static [Mode] {
        let (Modes::In(modes) | Modes::ByRulesOf(modes)) = self;
        modes
    }

    fn have(self, setup: &Setup) -> bool {
        match self {
            Modes::In(modes) => modes.contains(&setup.mode),
            Modes::ByRulesOf(modes) => modes.contains(&setup.rules()),
        }
    }
}

/// A named departure.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    /// Its name, as printed beside each flow it applies to.
    pub name: &'static str,
    /// The modes in which it holds.
    pub modes: Modes,
    /// Why.
    pub reason: &'static str,
    /// The fate that holds instead, if this is such a flow.
    pub instead: fn(&Situation) -> Option<Promise>,
}

/// Every departure. The first that applies counts.
pub const DIFFERENCES: &[Difference] = &[
    Difference {
        name: "client-is-hidden",
        modes: Modes::In(&[Mode::Userspace]),
        reason: "in userspace mode the node makes the connection to the endpoint, so that the endpoint sees the node whatever the policy (PROXY protocol by annotation)",
        instead: client_hidden,
    },
    Difference {
        name: "sctp-is-not-carried",
        modes: Modes::In(&[Mode::Userspace]),
        reason: "userspace mode carries TCP and UDP only, as the reference's did",
        instead: sctp,
    },
    Difference {
        name: "no-localhost-node-ports",
        modes: Modes::In(&[Mode::Ipvs, Mode::Nftables, Mode::Userspace]),
        reason: "node ports on loopback addresses exist in iptables mode only: the others do not route 127.0.0.0/8 off the node",
        instead: localhost_node_port,
    },
    Difference {
        name: "node-port-refused-only-where-it-listens",
        modes: Modes::ByRulesOf(&[Mode::Ipvs, Mode::Nftables]),
        reason: "iptables mode refuses a node port without endpoints on every local address, the others only on those that take node ports",
        instead: node_port_elsewhere,
    },
    Difference {
        name: "refused-at-output-too",
        modes: Modes::ByRulesOf(&[Mode::Ipvs, Mode::Nftables]),
        reason: "iptables mode lets the node's own packets to an external address without endpoints leave, the others refuse them as it refuses everybody's",
        instead: refused_at_output,
    },
    Difference {
        name: "cluster-ip-guard",
        modes: Modes::ByRulesOf(&[Mode::Nftables]),
        reason: "nftables mode rejects traffic to a port a cluster IP does not have, instead of letting it wander off to the default route",
        instead: unknown_port_of_cluster_ip,
    },
    Difference {
        name: "service-cidr-guard",
        modes: Modes::ByRulesOf(&[Mode::Nftables]),
        reason: "nftables mode drops traffic to addresses of a ServiceCIDR that no Service has",
        instead: unallocated_cluster_ip,
    },
    Difference {
        name: "source-ranges-come-first",
        modes: Modes::ByRulesOf(&[Mode::Ipvs, Mode::Nftables]),
        reason: "outside of iptables mode source ranges are looked at before anything else, so that who is kept out is dropped even if there are no endpoints or the address is an external IP too",
        instead: kept_out_first,
    },
    Difference {
        name: "services-addresses-are-the-node-s",
        modes: Modes::In(&[Mode::Ipvs]),
        reason: "ipvs mode gives the node the addresses of Services, so it rejects traffic to ports there that no Service has; health check ports are let through",
        instead: unknown_port_of_bound_address,
    },
    Difference {
        name: "services-addresses-send-as-the-node",
        modes: Modes::In(&[Mode::Ipvs]),
        reason: "in ipvs mode a packet from a Service's address is the node's own, since the node has that address: policy Local lets it through to other nodes' endpoints",
        instead: sent_from_bound_address,
    },
    Difference {
        name: "one-list-of-endpoints-for-everybody",
        modes: Modes::In(&[Mode::Ipvs]),
        reason: "a virtual server has one list of endpoints: with policy Local the node's own pods and processes use those of the node too, while there are any",
        instead: local_for_everybody,
    },
    Difference {
        name: "hairpin-of-local-endpoints",
        modes: Modes::ByRulesOf(&[Mode::Ipvs, Mode::Nftables]),
        reason: "outside of iptables mode only an endpoint on this node is masqueraded for reaching itself: another node's own proxy has seen to it before",
        instead: hairpin_elsewhere,
    },
    Difference {
        name: "hairpin-per-endpoint",
        modes: Modes::ByRulesOf(&[Mode::Ipvs, Mode::Nftables]),
        reason: "a vector has one masquerade bit for all endpoints; a source that is one of several endpoints is masqueraded only when it reaches itself",
        instead: hairpin_of_several,
    },
];

/// The departure that applies to a flow, with the fate that holds instead.
pub fn applying(situation: &Situation) -> Option<(&'static Difference, Promise)> {
    if !situation.setup.families.contains(&situation.packet.family()) {
        return None;
    }
    DIFFERENCES
        .iter()
        .filter(|d| d.modes.have(situation.setup))
        .find_map(|d| (d.instead)(situation).map(|p| (d, p)))
}

fn client_hidden(flow: &Situation) -> Option<Promise> {
    let Promise::Dnat(claimed) = flow.claimed else { return None };
    let hidden = Promise::Dnat(claimed.keys().map(|socket| (*socket, true)).collect());
    let here = promise(flow.cluster, flow.setup, flow.packet);
    (hidden == here && here != *flow.claimed).then_some(here)
}

fn sctp(flow: &Situation) -> Option<Promise> {
    let here = promise(flow.cluster, flow.setup, flow.packet);
    let asked = flow.packet.protocol == kube_proxy::model::Protocol::Sctp;
    (asked && here != *flow.claimed).then_some(here)
}

impl<'a> Situation<'a> {
    fn question(&self) -> Question<'a> {
        Question { cluster: self.cluster, setup: self.setup, packet: self.packet }
    }

    /// As what iptables mode would see the address and port.
    fn face_in_iptables(&self) -> Option<Face> {
        let setup = &self.as_iptables();
        Question { cluster: self.cluster, setup, packet: self.packet }.claim().map(|c| c.face)
    }

    fn as_iptables(&self) -> Setup {
        Setup { mode: Mode::Iptables, ..self.setup.clone() }
    }

    fn refused_or_sent(&self) -> bool {
        matches!(self.claimed, Promise::Dnat(_) | Promise::Reject | Promise::Drop)
    }

    fn is_cluster_ip(&self, address: IpAddr) -> bool {
        let family = Family::of(address);
        self.cluster.services.iter().any(|s| {
            s.cluster_ips.iter().copied().find(|ip| Family::of(*ip) == family) == Some(address)
        })
    }

    fn passes_guard(&self) -> bool {
        self.packet.entry == Entry::Node || !self.setup.is_own(self.packet.dest)
    }
}

fn localhost_node_port(flow: &Situation) -> Option<Promise> {
    let asked = flow.packet.dest.is_loopback() && flow.refused_or_sent();
    let here = || promise(flow.cluster, flow.setup, flow.packet);
    let unheard = flow.setup.rules() == Mode::Iptables || flow.question().claim().is_none();
    (asked && unheard).then(here)
}

fn node_port_elsewhere(flow: &Situation) -> Option<Promise> {
    let refused = matches!(flow.claimed, Promise::Reject | Promise::Drop);
    let there = flow.face_in_iptables()? == Face::NodePort;
    let elsewhere = !flow.question().takes_node_ports(flow.packet.dest);
    (refused && there && elsewhere).then_some(Promise::Untouched)
}

fn refused_at_output(flow: &Situation) -> Option<Promise> {
    let leaves = flow.packet.entry == Entry::Node && *flow.claimed == Promise::Untouched;
    let external = flow.question().claim().is_some_and(|claim| claim.face == Face::External);
    let here = promise(flow.cluster, flow.setup, flow.packet);
    let refused = matches!(here, Promise::Reject | Promise::Drop);
    (leaves && external && refused).then_some(here)
}

fn unknown_port_of_cluster_ip(flow: &Situation) -> Option<Promise> {
    let unknown = *flow.claimed == Promise::Untouched && flow.question().claim().is_none();
    (unknown && flow.passes_guard() && flow.is_cluster_ip(flow.packet.dest))
        .then_some(Promise::Reject)
}

fn unknown_port_of_bound_address(flow: &Situation) -> Option<Promise> {
    let question = flow.question();
    let unknown = *flow.claimed == Promise::Untouched && question.claim().is_none();
    (unknown && question.is_bound(flow.packet.dest))
        .then(|| promise(flow.cluster, flow.setup, flow.packet))
}

fn sent_from_bound_address(flow: &Situation) -> Option<Promise> {
    let question = flow.question();
    let claim = question.claim()?;
    let local = claim.face != Face::Cluster && claim.service.external_local;
    let here = promise(flow.cluster, flow.setup, flow.packet);
    (local && *flow.claimed == Promise::Drop && question.is_bound(flow.packet.source))
        .then_some(here)
}

fn local_for_everybody(flow: &Situation) -> Option<Promise> {
    let Promise::Dnat(_) = flow.claimed else { return None };
    let question = flow.question();
    let claim = question.claim()?;
    let local = question.choice(&claim).local;
    let applies = claim.face != Face::Cluster && claim.service.external_local && !local.is_empty();
    let there = promise(flow.cluster, &flow.as_iptables(), flow.packet);
    (applies && there != Promise::Drop).then(|| promise(flow.cluster, flow.setup, flow.packet))
}

fn unallocated_cluster_ip(flow: &Situation) -> Option<Promise> {
    let unknown = *flow.claimed == Promise::Untouched && flow.question().claim().is_none();
    let covered = flow.cluster.service_cidrs.iter().any(|c| c.contains(&flow.packet.dest));
    (unknown && covered && flow.passes_guard()).then_some(Promise::Drop)
}

fn kept_out_first(flow: &Situation) -> Option<Promise> {
    let there = promise(flow.cluster, &flow.as_iptables(), flow.packet);
    let claim = flow.question().claim()?;
    let ranged = claim.service.load_balancer_ips.contains(&flow.packet.dest)
        && !claim.service.source_ranges.is_empty();
    let here = promise(flow.cluster, flow.setup, flow.packet);
    (ranged && there == *flow.claimed && there != Promise::Drop && here == Promise::Drop)
        .then_some(Promise::Drop)
}

fn hairpin_elsewhere(flow: &Situation) -> Option<Promise> {
    let Promise::Dnat(claimed) = flow.claimed else { return None };
    let [(socket, true)] = claimed.iter().map(|(s, m)| (*s, *m)).collect::<Vec<_>>()[..] else {
        return None;
    };
    let node = &flow.setup.node_name;
    let elsewhere = flow.cluster.endpoints.iter().any(|e| e.address == socket.address)
        && flow.cluster.endpoints.iter().all(|e| e.address != socket.address || e.node != *node);
    let here = promise(flow.cluster, flow.setup, flow.packet);
    let plain = Promise::Dnat([(socket, false)].into());
    (elsewhere && socket.address == flow.packet.source && here == plain).then_some(plain)
}

fn hairpin_of_several(flow: &Situation) -> Option<Promise> {
    let Promise::Dnat(claimed) = flow.claimed else { return None };
    if claimed.len() < 2 || claimed.keys().all(|s| s.address != flow.packet.source) {
        return None;
    }
    let here = promise(flow.cluster, flow.setup, flow.packet);
    let Promise::Dnat(each) = &here else { return None };
    let others_plain = each.iter().all(|(s, m)| !m || s.address == flow.packet.source);
    (each.keys().eq(claimed.keys()) && others_plain && here != *flow.claimed).then_some(here)
}
