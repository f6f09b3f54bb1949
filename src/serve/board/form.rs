//! Query strings of the status page: fields, and the packet that a form asks about.
//! Bad input becomes a sentence. Tests: `tests`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::model::{Family, Node, Protocol};

/// The fields of a query; of a repeated one the last counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(BTreeMap<String, String>);

impl Fields {
    /// A field without spaces around it; empty if absent.
    pub(super) fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", |value| value.trim())
    }

    /// A page's number, from 1; what is no number is 1.
    pub(super) fn number(&self, name: &str) -> usize {
        self.text(name).parse().unwrap_or(1).max(1)
    }

    /// Whether nothing was asked.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Takes a query apart.
pub(super) fn fields(query: Option<String>) -> Fields {
    let query = query.unwrap_or_default();
    Fields(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
}

/// A packet asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Where it comes from.
    pub entry: Entry,
    /// Its source address.
    pub source: IpAddr,
    /// Its destination address.
    pub destination: IpAddr,
    /// Its destination port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A pod on this node.
    Pod,
    /// Another machine.
    Outside,
    /// A process on the node itself.
    Node,
}

/// The packet that a form asks about; a source left out is a likely one.
pub(super) fn read(fields: &Fields, node: Option<&Node>) -> Result<Asked, String> {
    let destination: IpAddr = address("destination", fields.text("destination"))?;
    let port = fields.text("port");
    let port = port
        .parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| format!("port {port:?}: must be a number from 1 to 65535"))?;
    let protocol = match fields.text("protocol").to_ascii_lowercase().as_str() {
        "" | "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => return Err(format!("protocol {other:?}: must be tcp, udp or sctp")),
    };
    let entry = match fields.text("from") {
        "" | "pod" => Entry::Pod,
        "outside" => Entry::Outside,
        "node" => Entry::Node,
        other => return Err(format!("from {other:?}: must be pod, outside or node")),
    };
    let family = Family::of(destination);
    let source = match fields.text("source") {
        "" => likely(entry, family, node)?,
        text => address("source", text)?,
    };
    if Family::of(source) != family {
        return Err(format!("source {source} and destination {destination} are of two families"));
    }
    Ok(Asked { entry, source, destination, port, protocol })
}

fn address(field: &str, text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| {
        format!("{field} {text:?}: must be an IP address, such as 10.96.0.10 or fd00::1")
    })
}

/// A source where none is given: a pod's from the Node's pod CIDR, the node's own, or a stranger's
/// of those set aside for documentation (RFC 5737, RFC 3849).
fn likely(entry: Entry, family: Family, node: Option<&Node>) -> Result<IpAddr, String> {
    let found = match (entry, family) {
        (Entry::Outside, Family::V4) => Some([203, 0, 113, 7].into()),
        (Entry::Outside, Family::V6) => {
            Some(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7).into())
        }
        (Entry::Node, _) => node.and_then(|node| node.primary(family)),
        (Entry::Pod, _) => node.and_then(|node| {
            let cidr = node.pod_cidrs.iter().find(|c| Family::of(c.addr()) == family)?;
            cidr.hosts().nth(1)
        }),
    };
    found.ok_or_else(|| format!("source: the Node does not say one of {family}; give an address"))
}
