//! A rule of iptables as the expressions of nf_tables that iptables-nft 1.8.9 itself would write:
//! same order, same structs, so that the tool lists, finds and deletes it as its own.
//!
//! Knows no chain's contents and no Service. Source: `iptables/nft-ipv4.c` (`nft_ipv4_add`) and
//! `nft.c` of iptables. Tests: `benches/tests/iptables_compat.rs`, against the tool itself.

use sha2::{Digest, Sha256};

use super::rule::{Match, Rule, SourcePort, State, Target, Test};
use crate::model::{Family, Protocol};
use crate::netlink::compat::{End, essence};
use crate::netlink::expr::{Compare, Rule as Expressions, Verdict};
use crate::netlink::xt;

/// The rule's expressions, with a counter at zero; `None` if something of it cannot be written,
/// since a rule without it would be for more packets.
pub fn encode(rule: &Rule, family: Family) -> Option<Expressions> {
    let mut out = head(rule, family);
    for each in &rule.matches {
        out = one(out, each, (rule.protocol, family))?;
    }
    let mut out = target(out.counter(), rule.target.as_ref(), family);
    out.compat = Some(rule.protocol.map_or(0, Protocol::number));
    Some(out)
}

/// What a rule does, in 32 letters: the same for what is sent and for what the kernel lists.
pub fn fingerprint(expressions: &[u8]) -> String {
    let hash = Sha256::digest(essence(expressions));
    let half: [u8; 16] = std::array::from_fn(|i| hash[i]);
    format!("{:032x}", u128::from_be_bytes(half))
}

fn how<T>(test: &Test<T>) -> Compare {
    if test.inverted { Compare::NotEqual } else { Compare::Equal }
}

/// What `struct ipt_entry` says of the packet's header, in the order in which the tool writes it.
fn head(rule: &Rule, family: Family) -> Expressions {
    let mut out = Expressions::new();
    if let Some(link) = &rule.link {
        out = out.link(how(link), &link.value);
    }
    if let Some(protocol) = rule.protocol {
        out = out.protocol_is(protocol.number());
    }
    for (end, network) in [(End::Source, &rule.source), (End::Destination, &rule.destination)] {
        // 0.0.0.0/0 is every address: the tool writes nothing.
        if let Some(test) = network.as_ref().filter(|test| test.value.prefix_len() > 0) {
            out = out.network((family, end), how(test), test.value);
        }
    }
    out
}

fn one(
    out: Expressions,
    each: &Match,
    (protocol, family): (Option<Protocol>, Family),
) -> Option<Expressions> {
    Some(match each {
        Match::Comment(text) => out.xt_match(&xt::comment(text)),
        Match::Port(port) => ports(out, protocol, *port),
        Match::Mark(test) => out.mark(how(test), test.value),
        Match::State(test) => {
            let sense = if test.inverted { xt::Sense::IsNot } else { xt::Sense::Is };
            let bits = test.value.iter().fold(0, |bits, state| bits | bit(*state));
            out.xt_match(&xt::conntrack_state(bits, sense))
        }
        Match::SourceIsLocal => out.xt_match(&xt::source_is_local()),
        Match::DestinationIsLocal => out.xt_match(&xt::destination_is_local()),
        Match::OneOf(n) => out.xt_match(&xt::random(super::rule::threshold(*n))),
        Match::Remember(list) => out.xt_match(&xt::recent_set(&list.to_string(), family)),
        Match::Remembered(list, seconds) => {
            out.xt_match(&xt::recent_check(&list.to_string(), *seconds, family))
        }
        Match::Account(name) => out.xt_match(&xt::nfacct(name)),
        // Sets are ipvs mode's; the kernel would want a set's number here, not its name.
        Match::Set(..) => return None,
    })
}

/// TCP and UDP ports the tool compares natively; what asks for no port, and SCTP, are matches.
fn ports(out: Expressions, protocol: Option<Protocol>, port: Option<u16>) -> Expressions {
    match (protocol.unwrap_or(Protocol::Tcp), port) {
        (Protocol::Sctp, port) => out.xt_match(&xt::sctp(port)),
        (_, Some(port)) => out.destination_port(port),
        (protocol, None) => out.xt_match(&xt::any_port(protocol.lower())),
    }
}

fn bit(state: State) -> u16 {
    match state {
        State::Invalid => xt::state::INVALID,
        State::New => xt::state::NEW,
        State::Related => xt::state::RELATED,
        State::Established => xt::state::ESTABLISHED,
        State::Dnat => xt::state::DNAT,
    }
}

fn target(out: Expressions, target: Option<&Target>, family: Family) -> Expressions {
    match target {
        None => out,
        Some(Target::Accept) => out.verdict(Verdict::Accept),
        Some(Target::Drop) => out.verdict(Verdict::Drop),
        Some(Target::Return) => out.verdict(Verdict::Return),
        Some(Target::Jump(chain)) => out.verdict(Verdict::Jump(&chain.to_string())),
        Some(Target::Reject) => out.xt_target(&xt::reject(family)),
        Some(Target::Mark { value, mask }) => out.xt_target(&xt::set_mark(*value, *mask)),
        Some(Target::Masquerade(port)) => {
            let flags = match port {
                SourcePort::AsTheKernelLikes => 0,
                SourcePort::Random => xt::nat::RANDOM_FULLY,
            };
            out.xt_target(&xt::masquerade(family, flags))
        }
        Some(Target::Dnat(socket)) => out.xt_target(&xt::dnat(*socket)),
    }
}
