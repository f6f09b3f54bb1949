//! The real kernel as something that can be asked: a proxy programs it, packets go through it.
//! Tests: `proptests -- vectors --kernel real` and `proptests -- explore --kernel real`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use kube_proxy::kernel::XtablesFlavour as Flavour;
use kube_proxy::kernel::real::Real;
use kube_proxy::kernel::{Capability, Kernel};

use super::Ground;
use crate::cluster::{Mode, Setup};
use crate::fate::{Entry, Packet, Promise};
use crate::run::{Answers, Heart};
use crate::world::{Objects, synced};

/// The real kernel; each state gets namespaces of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealHeart {
    /// Which iptables; `None`: the one that the proxy finds.
    pub flavour: Option<Flavour>,
}

impl RealHeart {
    /// Says why the real kernel cannot be asked here, if it cannot.
    pub fn obstacle() -> Option<String> {
        let probe = || -> Result<Option<String>, String> {
            super::Namespace::new()?.run(|| {
                let real = Real::open().map_err(|e| e.to_string())?;
                let nft = Capability::Nftables;
                Ok((!real.capabilities().has(nft)).then(|| nft.remedy().to_owned()))
            })?
        };
        probe().unwrap_or_else(Some)
    }
}

/// The kernel of the calling thread's namespace, with what the mode needs.
fn open(mode: Mode, flavour: Option<Flavour>) -> Result<Real, String> {
    let real = Real::open().map_err(|e| e.to_string())?;
    if mode != Mode::Iptables {
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
        let proxy = ground.node.run(move || {
            let real = open(on_node.mode, flavour)?;
            synced(Box::new(real), &on_node, &told)
        })??;
        let seen = ground.ask(&packets, |i, seen| seen.keeps(asked[i].1).is_err())?;
        let list = match (setup.mode, self.flavour) {
            (Mode::Iptables, Some(Flavour::Legacy)) => "iptables-legacy-save",
            (Mode::Iptables, _) => "iptables-save",
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
