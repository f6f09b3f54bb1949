//! The world as kube-proxy would make it: what is there without its own tables, programmed by the
//! proxy itself through the seam. It must never know how the proxy does that. Tests: `tests.rs`.

use super::load::{World, load};
use crate::kernel::Error;
use crate::kernel::survey::Survey;
use crate::model::Event;
use crate::netlink::read::{Attributes, text};
use crate::sync::{Options, Proxy};

/// The names of our tables of nf_tables. Chains of iptables, sets and virtual servers are taken over
/// from where they are, as a proxy that starts does.
const OURS: [&str; 3] = ["kube-proxy", "kube-proxy-standby", "kube-proxy-guard"];

/// Programs a survey's node anew from these events; what other modes left is removed.
pub fn desired(mut bare: Survey, events: &[Event], options: &Options) -> Result<World, Error> {
    let ours = |attributes: &[u8]| {
        let name = Attributes::new(attributes).get(1).map(text).unwrap_or_default();
        OURS.contains(&&*name)
    };
    bare.nft.retain(|object| !(matches!(object.family, 2 | 10) && ours(&object.attributes)));
    // Connections were made by the rules that were there.
    bare.flows.clear();
    let mut world = load(bare);
    let kernel = world.lend_host();
    let mut proxy = Proxy::new(Box::new(kernel.clone()), options.clone());
    events.iter().cloned().for_each(|event| proxy.feed(event));
    let synced = proxy.sync().and_then(|_| proxy.leave_only_this_mode());
    drop(proxy);
    let host = kernel.into_host().expect("the proxy held the only other clone");
    synced?;
    with_rules(world, host)
}

/// A world with its host as it is after rules were put into it.
pub fn with_rules(mut world: World, host: sim::Host) -> Result<World, Error> {
    world.host = host;
    world.list_virtual_servers()?;
    world.iptables_makers = std::sync::OnceLock::new();
    Ok(world)
}
