//! Whether iptables mode's rules may be written over netlink: whoever runs the process can say so,
//! the tool has to be one that lists what is written, and the kernel has to know all of it, which is
//! found out by doing it, in one transaction. It must never know what a rule is for.
//! Tests: `netlab`, `proptests -- vectors --kernel real --mode iptables` with the variable set.

use super::socket::Netlink;
use super::xtables::Tools;
use crate::kernel::{Capabilities, Capability, Error, Socket, XtablesFlavour, XtablesWriter};
use crate::model::Family;
use crate::netlink::expr::Rule;
use crate::netlink::nft::Batch;
use crate::netlink::xt::{self, Sense};

/// Who is to write: `auto`, `tool` or `netlink`.
const VARIABLE: &str = "KUBE_PROXY_IPTABLES_WRITER";
/// The first tool that reads ports and marks in the form in which they are written here.
const LISTS_ALL: (u32, u32, u32) = (1, 8, 9);
/// What a transaction may need; less fits where the socket's buffer may not be made larger.
const LARGEST: usize = 64 << 20;
/// Made and removed in one transaction.
const CHAIN: &str = "KUBE-PROXY-PROBE";

/// What is asked for; the error says what is wrong with it.
fn asked() -> Result<XtablesWriter, String> {
    match std::env::var(VARIABLE).unwrap_or_default().as_str() {
        "" | "auto" | "tool" => Ok(XtablesWriter::Tool),
        "netlink" => Ok(XtablesWriter::Netlink),
        other => Err(format!("{VARIABLE} is {other:?}")),
    }
}

/// Settles who writes, and adds what stands against what was asked for to the lacks.
pub(super) fn choose(netfilter: &mut Netlink, tools: Option<&Tools>, found: &mut Capabilities) {
    let obstacle = match asked() {
        Ok(XtablesWriter::Tool) => return,
        Ok(XtablesWriter::Netlink) => obstacle(netfilter, tools, found),
        Err(why) => Some(why),
    };
    match obstacle {
        None => found.xtables_writer = XtablesWriter::Netlink,
        Some(why) => found.lacks.push((Capability::XtablesOverNetlink, why)),
    }
}

fn obstacle(
    netfilter: &mut Netlink,
    tools: Option<&Tools>,
    found: &Capabilities,
) -> Option<String> {
    let tools = tools?;
    if tools.flavour() != XtablesFlavour::Nft {
        return Some("this node uses the legacy flavour of iptables".to_owned());
    }
    if tools.version() < LISTS_ALL {
        let (major, minor, patch) = tools.version();
        return Some(format!("iptables is {major}.{minor}.{patch}, older than 1.8.9"));
    }
    if found.largest_batch < LARGEST {
        return Some(format!("a transaction may have {} bytes only", found.largest_batch));
    }
    let six = found.has(Capability::XtablesIpv6);
    let families = Family::ALL.into_iter().filter(|family| six || *family == Family::V4);
    let mut tried = families.map(|family| attempt(netfilter, family));
    tried.find_map(Result::err).map(|error| error.source)
}

fn attempt(netfilter: &mut Netlink, family: Family) -> Result<(), Error> {
    let mut batch = Batch::new(family, "filter");
    for (table, rules) in [("filter", filter(family)), ("nat", nat(family))] {
        batch.turn_to(table);
        batch.add_plain_table();
        batch.add_chain(CHAIN, None);
        rules.iter().for_each(|rule| batch.add_rule(CHAIN, rule));
        batch.delete_chain(CHAIN);
    }
    netfilter.batch(&batch.finish().bytes)
}

fn rule(protocol: u8, build: impl FnOnce(Rule) -> Rule) -> Rule {
    let start = match protocol {
        0 => Rule::new(),
        number => Rule::new().protocol_is(number),
    };
    let mut rule = build(start);
    rule.compat = Some(protocol);
    rule
}

fn filter(family: Family) -> Vec<Rule> {
    vec![
        rule(6, |r| r.xt_match(&xt::comment("probe")).destination_port(1).counter()),
        rule(132, |r| r.xt_match(&xt::sctp(Some(1))).counter()),
        rule(0, |r| r.xt_match(&xt::conntrack_state(xt::state::NEW, Sense::Is)).counter()),
        rule(0, |r| r.xt_match(&xt::destination_is_local()).mark(EQUAL, (1, 1)).counter()),
        rule(0, |r| r.counter().xt_target(&xt::reject(family))),
    ]
}

const EQUAL: crate::netlink::expr::Compare = crate::netlink::expr::Compare::Equal;

fn nat(family: Family) -> Vec<Rule> {
    let address = match family {
        Family::V4 => std::net::Ipv4Addr::LOCALHOST.into(),
        Family::V6 => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    let socket = Socket { address, port: 1 };
    vec![
        rule(0, |r| r.xt_match(&xt::source_is_local()).xt_match(&xt::random(1 << 30)).counter()),
        rule(0, |r| r.xt_match(&xt::recent_set(CHAIN, family)).counter()),
        rule(0, |r| r.xt_match(&xt::recent_check(CHAIN, 1, family)).counter()),
        rule(6, |r| r.xt_match(&xt::any_port("tcp")).counter().xt_target(&xt::dnat(socket))),
        rule(17, |r| r.xt_match(&xt::any_port("udp")).counter()),
        rule(0, |r| r.counter().xt_target(&xt::set_mark(1, 1))),
        rule(0, |r| r.counter().xt_target(&xt::masquerade(family, xt::nat::RANDOM_FULLY))),
    ]
}
