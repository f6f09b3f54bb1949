//! Links, addresses, routes and sysctls of a namespace, over rtnetlink: no `ip` tool is needed.
//! Knows nothing of pods or nodes; `town` says what is to be wired. Tests: with `town`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection};

use crate::namespace::Namespace;

/// One end of a virtual cable.
pub struct End<'a> {
    /// The namespace it is in.
    pub namespace: &'a Namespace,
    /// The link's name there.
    pub link: &'a str,
}

/// How packets to a destination leave.
#[derive(Clone, Copy, Debug)]
pub enum Hop {
    /// Directly: the destination is on the link.
    Link,
    /// By a next hop that is on the link.
    Via(IpAddr),
}

/// Runs rtnetlink requests inside a namespace.
fn ask<F>(namespace: &Namespace, what: &str, request: F) -> Result<(), String>
where
    F: AsyncFnOnce(Handle) -> Result<(), rtnetlink::Error> + Send,
{
    let done = namespace.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(|e| e.to_string())?;
        runtime.block_on(async move {
            let (connection, handle, _) = new_connection().map_err(|e| e.to_string())?;
            tokio::spawn(connection);
            request(handle).await.map_err(|e| e.to_string())
        })
    });
    done.map_err(|e| format!("{}: {what}: {e}", namespace.name()))
}

/// Number of a link, inside its namespace.
fn index(link: &str) -> Result<u32, rtnetlink::Error> {
    if_nametoindex(link).map_err(|_| rtnetlink::Error::RequestFailed)
}

/// A pair of virtual Ethernet links between two namespaces, both up.
pub fn cable(one: &End<'_>, other: &End<'_>) -> Result<(), String> {
    let peer = rtnetlink::LinkMessageBuilder::<LinkUnspec>::new()
        .name(other.link)
        .setns_by_fd(other.namespace.descriptor())
        .build();
    let pair = LinkVeth::new(one.link, other.link)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    let what = format!("link {} to {} of {}", one.link, other.link, other.namespace.name());
    ask(one.namespace, &what, async move |handle| handle.link().add(pair).execute().await)?;
    up(one.namespace, one.link)?;
    up(other.namespace, other.link)
}

/// Sets a link up.
pub fn up(namespace: &Namespace, link: &str) -> Result<(), String> {
    let message = LinkUnspec::new_with_name(link).up().build();
    ask(namespace, &format!("link {link} up"), async move |handle| {
        handle.link().set(message).execute().await
    })
}

/// Gives a link an address.
pub fn address(
    namespace: &Namespace,
    link: &str,
    address: IpAddr,
    prefix: u8,
) -> Result<(), String> {
    ask(namespace, &format!("address {address}/{prefix} on {link}"), async move |handle| {
        let mut request = handle.address().add(index(link)?, address, prefix);
        if address.is_ipv6() {
            // Without duplicate detection it can be bound at once.
            let flags = AddressAttribute::Flags(AddressFlags::Nodad);
            request.message_mut().attributes.push(flags);
        }
        request.execute().await
    })
}

/// Adds a route for `to` (address and prefix length) over `link`.
pub fn route(namespace: &Namespace, to: (IpAddr, u8), link: &str, hop: Hop) -> Result<(), String> {
    ask(namespace, &format!("route {}/{} over {link}", to.0, to.1), async move |handle| {
        let link = index(link)?;
        let message = match to.0 {
            IpAddr::V4(address) => {
                let builder = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(address, to.1)
                    .output_interface(link);
                match hop {
                    Hop::Via(IpAddr::V4(gateway)) => builder.gateway(gateway).onlink().build(),
                    _ => builder.scope(RouteScope::Link).build(),
                }
            }
            IpAddr::V6(address) => {
                let builder = RouteMessageBuilder::<Ipv6Addr>::new()
                    .destination_prefix(address, to.1)
                    .output_interface(link);
                match hop {
                    Hop::Via(IpAddr::V6(gateway)) => builder.gateway(gateway).build(),
                    _ => builder.build(),
                }
            }
        };
        handle.route().add(message).execute().await
    })
}

/// Writes a sysctl; the path is below `/proc/sys` with slashes.
pub fn sysctl(namespace: &Namespace, path: &str, value: &str) -> Result<(), String> {
    namespace.run(|| {
        std::fs::write(format!("/proc/sys/{path}"), value)
            .map_err(|e| format!("{}: sysctl {path}={value}: {e}", namespace.name()))
    })
}

/// Whether this machine has IPv6 at all.
pub fn has_ipv6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").exists()
}
