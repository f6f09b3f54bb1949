//! A node's packet path as it was found: everything that decides what becomes of a packet, as
//! values that can be written to a file and read back anywhere.
//!
//! It says what is there and judges nothing; what could not be read is a `Lack` and never left
//! out in silence. Tests: with those who read it (`real::survey`) and use it (`trace`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::model::{Family, Steering};

/// A node's packet path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// The node's name as its kernel has it.
    pub host: String,
    /// The kernel's release.
    pub kernel: String,
    /// Links with their addresses, by index.
    pub links: Vec<LinkFact>,
    /// Routes of the main table, in the kernel's order.
    pub routes: Vec<RouteFact>,
    /// Sysctls that the packet path looks at: path below `/proc/sys` and value.
    pub sysctls: BTreeMap<String, String>,
    /// Everything of nf_tables, in the order in which it can be made again.
    pub nft: Vec<NftObject>,
    /// What the tools of iptables print, table by table.
    pub iptables: Vec<IptablesText>,
    /// What `ipset save` prints; empty where there are no sets or nobody asks them.
    pub ipsets: String,
    /// Virtual servers of IPVS.
    #[serde(default)]
    pub virtual_servers: Vec<ServerFact>,
    /// Conntrack entries, as far as they were asked for.
    pub flows: Vec<ConnectionFact>,
    /// What could not be read.
    pub lacks: Vec<Lack>,
}

impl Survey {
    /// Whose rules lead packets to kube-proxy's ports, if it is in userspace mode.
    pub fn steering(&self) -> Steering {
        let guard = format!("\n:{} ", super::RELAY_CHAIN);
        match self.iptables.iter().any(|table| table.text.contains(&guard)) {
            true => Steering::Iptables,
            false => Steering::Nftables,
        }
    }
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkFact {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its kind as `ip link` says it: `dummy`, `bridge`; empty for hardware and loopback.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Whether it is up (`IFF_UP`).
    pub up: bool,
    /// Whether it takes all frames (`IFF_PROMISC`): a bridge that does lets a pod reach itself.
    #[serde(default)]
    pub promiscuous: bool,
    /// Index of the bridge it is a port of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<u32>,
    /// Of a bridge port, whether frames may go back where they came from (`IFLA_BRPORT_MODE`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hairpin: Option<bool>,
    /// Addresses with prefix lengths, the primary first.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Those that packets do not get as their source (`IFA_F_DEPRECATED`; of IPv4 `RT_SCOPE_HOST`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hidden: Vec<IpAddr>,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteFact {
    /// Network and prefix length.
    pub network: (IpAddr, u8),
    /// The next hop, if it is not on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Index of the outgoing link.
    pub link: u32,
    /// The less, the sooner it is taken.
    pub metric: u32,
}

/// An object of nf_tables, as the kernel listed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NftObject {
    /// `NFT_MSG_NEW*`.
    pub kind: u16,
    /// `nfgen_family`.
    pub family: u8,
    /// The attributes, in hexadecimal in a file.
    #[serde(with = "hex")]
    pub attributes: Vec<u8>,
}

/// The rules of one table of iptables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IptablesText {
    /// Whether iptables or ip6tables printed it.
    pub family: Family,
    /// Which of the two kernels' facilities they are in.
    pub flavour: Flavour,
    /// The table's name.
    pub table: String,
    /// From `*TABLE` to `COMMIT`.
    pub text: String,
}

/// Which facility of the kernel rules of iptables are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Flavour {
    /// ip_tables, by iptables-legacy.
    Legacy,
    /// nf_tables, by iptables-nft.
    Nft,
}

/// A conntrack entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnectionFact {
    /// Transport protocol's number.
    pub protocol: u8,
    /// Source and destination of the first packet.
    pub original: [(IpAddr, u16); 2],
    /// Source and destination of its answers.
    pub reply: [(IpAddr, u16); 2],
    /// `IPS_*`.
    pub status: u32,
    /// The connection's mark.
    pub mark: u32,
    /// Seconds it lives on without packets.
    pub timeout: u32,
    /// TCP's state (`enum tcp_conntrack`); 0 for others.
    pub state: u8,
}

/// A virtual server of IPVS.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServerFact {
    /// Transport protocol's number.
    pub protocol: u8,
    /// What clients ask for.
    pub at: (IpAddr, u16),
    /// Such as `rr`.
    pub scheduler: String,
    /// `IP_VS_SVC_F_*` without persistence.
    pub flags: u32,
    /// For how many seconds a client stays with its destination, and how many leading bits of its
    /// address make a client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<(u32, u8)>,
    /// Where it sends connections, in the kernel's order.
    pub destinations: Vec<DestinationFact>,
    /// Clients that stay with a destination, of which that is known: each with the bits of its
    /// address that count. `None` where they could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remembered: Option<Vec<(IpAddr, (IpAddr, u16))>>,
}

/// A destination of a virtual server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DestinationFact {
    /// Address and port.
    pub at: (IpAddr, u16),
    /// Its share; 0: no new connections.
    pub weight: u32,
    /// Whether packets are masqueraded to it; others have no model.
    pub masquerades: bool,
    /// How many connections of it are active, how many are not, and how many clients stay with it,
    /// at the moment of the reading; dumps of older versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<(u32, u32, u32)>,
}

impl From<&crate::kernel::VirtualServerFact> for ServerFact {
    fn from(fact: &crate::kernel::VirtualServerFact) -> ServerFact {
        let pair = |socket: crate::kernel::Socket| (socket.address, socket.port);
        let scheduling = &fact.scheduling;
        let destination = |told: &crate::kernel::DestinationFact| DestinationFact {
            at: pair(told.destination.socket),
            weight: told.destination.weight,
            masquerades: told.masquerades,
            connections: Some((told.active, told.inactive, told.persistent)),
        };
        ServerFact {
            protocol: fact.server.protocol.number(),
            at: pair(fact.server.socket),
            scheduler: scheduling.scheduler.name().to_owned(),
            flags: scheduling.flags,
            persistence: scheduling.persistence.map(|p| (p.seconds, p.prefix)),
            destinations: fact.destinations.iter().map(destination).collect(),
            remembered: None,
        }
    }
}

/// Something that could not be read, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lack {
    /// What.
    pub what: String,
    /// Why not, and what would help.
    pub why: String,
}

/// Bytes as hexadecimal digits.
mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
        let text: String = bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect();
        to.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        let digit = |c: u8| char::from(c).to_digit(16).map(|d| d as u8);
        let pair = |pair: &[u8]| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pair).collect();
        bytes.ok_or_else(|| D::Error::custom("an even number of hexadecimal digits expected"))
    }
}
