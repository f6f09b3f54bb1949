//! Virtual servers of IPVS with their destinations, over generic netlink; only where the kernel has
//! IPVS already: to ask for it would load it. It must never change anything. Tests: the lab's guest.

use super::{Survey, lack};
use crate::kernel::real::ipvs::Ipvs;
use crate::kernel::survey::ServerFact;
use crate::model::Family;

pub(super) fn read(found: &mut Survey) {
    if !std::path::Path::new("/proc/thread-self/net/ip_vs").exists() {
        return;
    }
    let listed = Ipvs::open().and_then(|mut ipvs| {
        let [v4, v6] = Family::ALL.map(|family| ipvs.servers(family));
        Ok([v4?, v6?].concat())
    });
    match listed {
        Ok(servers) => {
            found.virtual_servers = servers.iter().map(ServerFact::from).collect();
            found.virtual_servers.sort();
        }
        Err(error) => lack(found, "IPVS virtual servers", &error.to_string()),
    }
}
