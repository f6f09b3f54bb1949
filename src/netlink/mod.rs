//! Netlink bytes: a writer, a reader, and the words of nf_tables on top of them.
//!
//! Pure: no socket, no clock, nothing of Kubernetes. The simulator has a decoder of its own
//! (`sim`), so that a mistake here cannot hide. Numbers are from `include/uapi/linux/netlink.h`
//! and `include/uapi/linux/netfilter/*.h`. Tests: beside each part, and every test that sends a
//! batch to `sim` or to a real kernel.

pub mod compat;
pub mod expr;
pub mod ipset;
pub mod ipvs;
pub mod link;
pub mod nft;
pub mod read;
pub mod set;
pub mod write;
pub mod xt;

/// `NLM_F_REQUEST`: the message is a request.
pub const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`: answer also when all went well.
pub const ACK: u16 = 0x4;
/// `NLM_F_DUMP`: list everything that matches.
pub const DUMP: u16 = 0x300;
/// `NLM_F_CREATE`: make the object if it is absent.
pub const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: add a rule at the end of its chain.
pub const APPEND: u16 = 0x800;
/// `NLM_F_EXCL`: fail if the object is there.
pub const EXCL: u16 = 0x200;

/// Message type of an error or acknowledgement.
pub const NLMSG_ERROR: u16 = 2;
/// Message type that ends a dump.
pub const NLMSG_DONE: u16 = 3;

/// `NFNL_SUBSYS_NFTABLES` in the high byte of a message type.
pub const SUBSYS_NFTABLES: u16 = 10 << 8;
/// `NFNL_SUBSYS_ACCT` in the high byte of a message type.
pub const SUBSYS_ACCT: u16 = 7 << 8;
/// `NFNL_SUBSYS_CTNETLINK` in the high byte of a message type.
pub const SUBSYS_CTNETLINK: u16 = 1 << 8;

/// `NFNL_SUBSYS_IPSET` in the high byte of a message type.
pub const SUBSYS_IPSET: u16 = 6 << 8;

/// Length of `struct nlmsghdr`.
pub const HEADER_LEN: usize = 16;
/// Length of `struct nfgenmsg`.
pub const NFGEN_LEN: usize = 4;

/// An address as it stands in a header.
pub fn octets(address: std::net::IpAddr) -> Vec<u8> {
    match address {
        std::net::IpAddr::V4(a) => a.octets().to_vec(),
        std::net::IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// The `nfgen_family` of an IP family (`NFPROTO_IPV4`, `NFPROTO_IPV6`).
pub fn nfproto(family: crate::model::Family) -> u8 {
    match family {
        crate::model::Family::V4 => 2,
        crate::model::Family::V6 => 10,
    }
}
