//! The real kernel as something that can be asked: a proxy programs it, packets go through it.
//! Tests: `proptests -- vectors --kernel real` and `proptests -- explore --kernel real`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use kube_proxy::kernel::XtablesFlavour as Flavour;
use kube_proxy::kernel::real::Real;
use kube_proxy::kernel::{Capability, Facts, Kernel, Query, Scheduler};

use super::Ground;
use super::carried::{Carrying, Ports};
use crate::cluster::{Mode, Setup};
use crate::fate::{Entry, Packet, Promise, Seen};
use crate::run::{Answers, Heart};
use crate::sim_heart::carried_on;
use crate::world::{Objects, synced};

/// What ipvs mode cannot do without.
const IPVS_NEEDS: [Capability; 4] = [
    Capability::Ipvs,
    Capability::Ipset,
    Capability::Dummy,
    Capability::IpvsScheduler(Scheduler::RR),
];

/// The real kernel; each state gets namespaces of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealHeart {
    /// Which iptables; `None`: the one that the proxy finds.
    pub flavour: Option<Flavour>,
}

impl RealHeart {
    /// Says why the real kernel cannot be asked here, if it cannot.
    pub fn obstacle(mode: Mode) -> Option<String> {
        let probe = || -> Result<Option<String>, String> {
            super::Namespace::new()?.run(move || {
                // iptables' rules are needed where the mode's own are.
                let mut real = open(mode, None)?;
                if mode == Mode::Ipvs {
                    let needed = Query::Lacks(IPVS_NEEDS.to_vec());
                    let lacks = real.read(&needed).map_err(|e| e.to_string())?;
                    let Facts::Lacks(lacks) = lacks else { return Ok(None) };
                    return Ok(lacks.first().map(|(lack, _)| lack.remedy().into_owned()));
                }
                let nft = Capability::Nftables;
                let lacks = mode == Mode::Nftables && !real.capabilities().has(nft);
                Ok(lacks.then(|| nft.remedy().into_owned()))
            })?
        };
        probe().unwrap_or_else(Some)
    }
}

/// The kernel of the calling thread's namespace, with what a mode's rules need.
fn open(rules: Mode, flavour: Option<Flavour>) -> Result<Real, String> {
    let real = Real::open().map_err(|e| e.to_string())?;
    if rules == Mode::Nftables {
        return Ok(real);
    }
    let real = real.with_xtables(flavour);
    match real.capabilities().lacks.iter().find(|(lack, _)| *lack == Capability::Xtables) {
        Some((_, said)) => Err(said.clone()),
        None => Ok(real),
    }
}

impl Heart for RealHeart {
    fn name(&self) -> &'static str {
        "real"
    }

    fn answers(
        &mut self,
        setup: &Setup,
        objects: &Objects,
        asked: &[(&Packet, &Promise)],
    ) -> Result<Answers, String> {
        let endpoints: BTreeSet<IpAddr> =
            objects.cluster().endpoints.iter().map(|e| e.address).collect();
        let packets: Vec<Packet> = asked.iter().map(|(packet, _)| (*packet).clone()).collect();
        let sources: BTreeSet<IpAddr> =
            packets.iter().filter(|p| p.entry != Entry::Node).map(|p| p.source).collect();
        let list = |set: BTreeSet<IpAddr>| set.into_iter().collect::<Vec<_>>();
        let mut ground = Ground::new(setup, &list(endpoints), &list(sources))?;
        let (on_node, told) = (setup.clone(), objects.clone());
        let flavour = self.flavour;
        let ports = Ports::default();
        let known = ports.clone();
        let proxy = ground.node.run(move || {
            let real = open(on_node.rules(), flavour)?;
            synced(Box::new(Carrying { real, ports: known }), &on_node, &told)
        })??;
        let carried = |i: usize, seen: &Seen| {
            let protocol = packets[i].protocol;
            let outcomes = carried_on(|at| ports.at(protocol, at), seen.outcomes.clone());
            Seen { outcomes, ..seen.clone() }
        };
        let seen = ground.ask(&packets, |i, seen| carried(i, seen).keeps(asked[i].1).is_err())?;
        let seen = seen.iter().enumerate().map(|(i, seen)| carried(i, seen)).collect();
        let list = match (setup.rules(), self.flavour) {
            (Mode::Iptables, Some(Flavour::Legacy)) => "iptables-legacy-save",
            (Mode::Iptables, _) => "iptables-save",
            (Mode::Ipvs, _) => "ipvsadm -Ln",
            _ => "nft list ruleset",
        };
        let ruleset = ground
            .node
            .command(list, "")
            .unwrap_or_else(|why| format!("(cannot be listed: {why})"));
        drop(proxy);
        Ok(Answers { seen, ruleset })
    }
}
