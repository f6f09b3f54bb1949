//! The question of `check` about some Services only: for who is about to change them and has no
//! time for all. Causes are not looked for. Tests: `verify::tests`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::classes::clients;
use super::judge::{Verdict, ask_one, beside, entered};
use crate::model::{Family, NamespacedName};
use crate::promise::{Frontend, Packet, Promises};
use crate::trace::World;

/// Which Services are asked.
#[derive(Clone, Copy, Debug)]
pub struct These<'a> {
    /// Their names.
    pub services: &'a BTreeSet<NamespacedName>,
    /// Frontends that they had and have no more.
    pub gone: &'a [(NamespacedName, Frontend)],
    /// Pods of the node, of which one asks where no endpoint of these Services can.
    pub pods: &'a [Option<(IpAddr, String)>; 2],
}

/// What asking them came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Came {
    /// Packets asked.
    pub packets: usize,
    /// Packets of which it cannot be told what becomes of them.
    pub unknown: usize,
    /// Of each Service that does not get what it is promised, one packet that shows it.
    pub broken: BTreeMap<NamespacedName, String>,
}

/// Asks every frontend of these Services from every kind of client.
pub fn ask_some(world: &mut World, promises: &Promises<'_>, these: These<'_>) -> Came {
    let mut came = Came::default();
    for family in Family::ALL {
        let mut clients = clients(world, promises, promises.detector(), family);
        clients.or_pods(&these.pods[family.index()]);
        for (frontend, claim) in promises.claims(family) {
            let name = &claim.service.name;
            if !these.services.contains(name) || came.broken.contains_key(name) {
                continue;
            }
            let mut packets = clients.packets(world, frontend, claim);
            packets.extend(beside(world, promises, (&clients, family), (frontend, claim)));
            packets.iter().for_each(|packet| came.take(world, promises, (name, packet)));
        }
        let of_family = |frontend: &Frontend| frontend.0.map(Family::of) == Some(family);
        for (name, frontend) in these.gone.iter().filter(|(_, frontend)| of_family(frontend)) {
            for packet in clients.to(world, frontend) {
                came.take(world, promises, (name, &packet));
            }
        }
    }
    came
}

impl Came {
    fn take(
        &mut self,
        world: &mut World,
        promises: &Promises<'_>,
        (service, packet): (&NamespacedName, &Packet),
    ) {
        self.packets += 1;
        match ask_one(world, promises, packet) {
            Verdict::Kept => {}
            Verdict::Unknown => self.unknown += 1,
            Verdict::Broken(words) => {
                let Packet { protocol, source, destination, port, .. } = packet;
                let to = std::net::SocketAddr::new(*destination, *port);
                let example = format!("{protocol} {source} → {to} {}: {words}", entered(packet));
                self.broken.entry(service.clone()).or_insert(example);
            }
        }
    }
}
