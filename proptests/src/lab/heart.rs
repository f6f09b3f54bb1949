//! The real kernel as something vectors can be put to. Tests: `proptests -- vectors --kernel real`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use kube_proxy::kernel::real::Real;
use kube_proxy::kernel::{Capability, Kernel};

use super::Ground;
use crate::fate::{Entry, Packet};
use crate::run::{Answers, Expected, Heart};
use crate::vectors::State;
use crate::world::{Objects, synced};

/// The real kernel; each state gets namespaces of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealHeart;

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

impl Heart for RealHeart {
    fn name(&self) -> &'static str {
        "real"
    }

    fn answers(&mut self, state: &State, expected: &[Expected]) -> Result<Answers, String> {
        let packets: Vec<Packet> = expected.iter().map(|e| e.flow.packet.clone()).collect();
        let endpoints: BTreeSet<IpAddr> =
            state.cluster().endpoints.iter().map(|e| e.address).collect();
        let sources: BTreeSet<IpAddr> =
            packets.iter().filter(|p| p.entry != Entry::Node).map(|p| p.source).collect();
        let list = |set: BTreeSet<IpAddr>| set.into_iter().collect::<Vec<_>>();
        let mut ground = Ground::new(&state.setup, &list(endpoints), &list(sources))?;
        let objects = Objects {
            services: state.services.clone(),
            slices: state.slices.clone(),
            service_cidrs: Vec::new(),
        };
        let setup = state.setup.clone();
        let proxy = ground.node.run(move || {
            let real = Real::open().map_err(|e| e.to_string())?;
            synced(Box::new(real), &setup, &objects)
        })??;
        let seen = ground.ask(&packets, |i, seen| seen.keeps(&expected[i].promise).is_err())?;
        let ruleset = ground
            .node
            .command("nft list ruleset", "")
            .unwrap_or_else(|why| format!("(cannot be listed: {why})"));
        drop(proxy);
        Ok(Answers { seen, ruleset })
    }
}
