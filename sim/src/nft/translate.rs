//! What `snat`, `dnat`, `masquerade` and `redirect` do: they choose a range and bind the connection to it.
//! Facts from nft_nat.c, nft_masq.c, nft_redir.c, nf_nat_masquerade.c and nf_nat_redirect.c of net/netfilter.
//! It must never rewrite a packet; the NAT core on the path does. Tests: tests/hooks.rs, tests/conntrack.rs.

use super::eval::Flow;
use super::expr::{Nat, NatKind, Reg};
use super::set::Verdict;
use super::store::Hook;
use crate::conntrack::Standing;
use crate::conntrack::nat::{Manip, Range, range_flags};
use crate::journey::{Sink, Step};
use crate::skb::{Env, Skb};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Binds the packet's connection.
pub(super) fn bind<S: Sink>(
    nat: &Nat,
    registers: &[u8; 64],
    env: &mut Env<'_, S>,
    skb: &mut Skb,
) -> Flow {
    let ipv6 = skb.packet.dst.is_ipv6();
    if nat.ipv6.is_some_and(|wanted| wanted != ipv6) {
        return Flow::Next;
    }
    let Some(ct) = skb.ct.filter(|ct| ct.standing != Standing::Established) else {
        return Flow::Verdict(Verdict::Drop);
    };
    let manip = match nat.kind {
        NatKind::Source | NatKind::Masquerade => Manip::Source,
        NatKind::Destination | NatKind::Redirect => Manip::Destination,
    };
    let addresses = match nat.kind {
        NatKind::Masquerade if skb.packet.src.is_unspecified() => {
            return Flow::Verdict(Verdict::Accept);
        }
        NatKind::Masquerade | NatKind::Redirect => match chosen(nat.kind, env, skb) {
            Some(address) => Some((address, address)),
            None => return Flow::Verdict(Verdict::Drop),
        },
        _ => nat
            .addresses
            .map(|(low, high)| (address(registers, low, ipv6), address(registers, high, ipv6))),
    };
    let mut range = Range { flags: nat.flags, addresses, ports: (0, 0) };
    if addresses.is_some() {
        range.flags |= range_flags::MAP_IPS;
    }
    // Of masquerade alone the flag must be said (nft_masq_ipv4_eval).
    let unsaid = nat.kind == NatKind::Masquerade && nat.flags & range_flags::PROTO_SPECIFIED == 0;
    if let Some((low, high)) = nat.ports.filter(|_| !unsaid) {
        range.flags |= range_flags::PROTO_SPECIFIED;
        range.ports = (port(registers, low), port(registers, high));
    }
    if nat.kind == NatKind::Masquerade
        && let Some(conn) = env.tracker.get_mut(ct.id)
    {
        conn.masquerade_link = skb.out.map(|hop| hop.link);
    }
    let bound = env.tracker.bind(ct.id, &range, manip, (env.chance, env.now));
    env.sink.note(|| {
        let reply = env.tracker.get(ct.id).map(|conn| conn.reply.to_string()).unwrap_or_default();
        Step::Nat(format!("{:?}: answers will be {reply}", nat.kind))
    });
    Flow::Verdict(if bound { Verdict::Accept } else { Verdict::Drop })
}

/// The address masquerade and redirect take from the links.
pub(crate) fn chosen<S>(kind: NatKind, env: &Env<'_, S>, skb: &Skb) -> Option<IpAddr> {
    if kind == NatKind::Masquerade {
        return env.net.address_towards(skb.out?, skb.packet.dst);
    }
    let ipv6 = skb.packet.dst.is_ipv6();
    if env.hook == Hook::Output {
        return Some(if ipv6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() });
    }
    let link = env.net.link(skb.in_link?)?;
    link.addresses.iter().map(|(address, _)| *address).find(|address| address.is_ipv6() == ipv6)
}

fn address(registers: &[u8; 64], reg: Reg, ipv6: bool) -> IpAddr {
    let from = usize::from(reg.0);
    if ipv6 {
        let bytes: [u8; 16] = registers
            .get(from..from + 16)
            .and_then(|bytes| bytes.try_into().ok())
            .unwrap_or([0; 16]);
        return Ipv6Addr::from(bytes).into();
    }
    let bytes: [u8; 4] =
        registers.get(from..from + 4).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; 4]);
    Ipv4Addr::from(bytes).into()
}

fn port(registers: &[u8; 64], reg: Reg) -> u16 {
    let from = usize::from(reg.0);
    let bytes: [u8; 2] =
        registers.get(from..from + 2).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; 2]);
    u16::from_be_bytes(bytes)
}
