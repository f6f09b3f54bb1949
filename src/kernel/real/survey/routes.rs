//! Routes of the main table, addresses that are local without being on a link, and policy routing,
//! over rtnetlink (`include/uapi/linux/rtnetlink.h`). What cannot be told as a plain route is a
//! lack with its destination. Tests: `netlab`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Survey, lack, links::ip};
use crate::kernel::Error;
use crate::kernel::real::socket::Netlink;
use crate::kernel::survey::RouteFact;
use crate::netlink::read::{Attributes, Message, u32_ne};

const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const NEW_RULE: u16 = 32;
const GET_RULE: u16 = 34;
/// Length of `struct rtmsg`, and of `struct fib_rule_hdr`.
const HEAD: usize = 12;
const MAIN: u32 = 254;
const LOCAL: u32 = 255;
/// `RTN_UNICAST`, `RTN_LOCAL`, `RTN_BLACKHOLE` and the first kind above `RTN_PROHIBIT`.
const UNICAST: u8 = 1;
const OWN: u8 = 2;
const BLACKHOLE: u8 = 6;
const BEYOND_PROHIBIT: u8 = 9;
/// The rules that are always there.
const RULES_OF_LINUX: [u32; 3] = [0, 32766, 32767];

/// A route as listed.
enum Listed {
    Route(RouteFact),
    /// An address that is local on a link.
    Own((IpAddr, u8), u32),
    Odd(String, &'static str),
}

pub(super) fn read(route: &mut Netlink, found: &mut Survey) -> Result<(), Error> {
    let request = route.route_request(GET_ROUTE);
    let listed =
        route.ask(("list routes", &request), |out, message| out.extend(listed(message)))?;
    for one in listed {
        match one {
            Listed::Route(fact) => found.routes.push(fact),
            Listed::Own(network, link) => own(found, network, link),
            Listed::Odd(what, why) => lack(found, what, why),
        }
    }
    // Longest prefixes first does the lookup; of equals the least metric is taken.
    found.routes.sort_by_key(|route| route.metric);
    let request = route.route_request(GET_RULE);
    let rules =
        route.ask(("list routing rules", &request), |out, message| out.extend(rule(message)));
    match rules {
        Ok(odd) if odd.is_empty() => {}
        Ok(odd) => {
            let what = format!("{} rules of policy routing (`ip rule`)", odd.len());
            lack(found, what, "only the main table is looked at");
        }
        Err(error) => lack(found, "rules of policy routing", &error.to_string()),
    }
    Ok(())
}

/// An address that the local table has and no link (a load balancer's agent adds such).
fn own(found: &mut Survey, network: (IpAddr, u8), link: u32) {
    let known =
        |fact: &crate::kernel::survey::LinkFact| fact.addresses.iter().any(|a| a.0 == network.0);
    let whole = network.1 == if network.0.is_ipv4() { 32 } else { 128 };
    let loopback = network.0.is_loopback();
    if loopback || found.links.iter().any(known) {
        return;
    }
    match found.links.iter_mut().find(|fact| fact.index == link) {
        Some(fact) if whole => fact.addresses.push(network),
        _ => lack(
            found,
            format!("local route {}/{}", network.0, network.1),
            "a whole network that is local",
        ),
    }
}

fn listed(message: &Message<'_>) -> Option<Listed> {
    if message.kind != NEW_ROUTE {
        return None;
    }
    let [family, bits, .., kind] = *message.body.get(..8)? else { return None };
    let attributes = Attributes::new(message.body.get(HEAD..)?);
    let number = |n| attributes.get(n).and_then(u32_ne);
    let table = number(15).unwrap_or_else(|| u32::from(message.body[4]));
    let unspecified: IpAddr = match family {
        2 => Ipv4Addr::UNSPECIFIED.into(),
        10 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let network = (attributes.get(1).and_then(ip).unwrap_or(unspecified), bits);
    // IPv6 keeps what it learns by itself (RTM_F_CLONED) in the same lists.
    let cloned = u32_ne(message.body.get(8..)?)? & 0x200 != 0;
    let what = || format!("route {}/{bits}", network.0);
    match (table, kind) {
        _ if cloned || network.0.is_multicast() => None,
        (LOCAL | MAIN, OWN) => Some(Listed::Own(network, number(4)?)),
        (MAIN, UNICAST) if attributes.get(9).is_some() => {
            Some(Listed::Odd(what(), "several next hops"))
        }
        (MAIN, UNICAST) => Some(match number(4) {
            Some(link) => Listed::Route(RouteFact {
                network,
                gateway: attributes.get(5).and_then(ip),
                link,
                metric: number(6).unwrap_or(0),
            }),
            None => Listed::Odd(what(), "no outgoing link of its own (a next hop object)"),
        }),
        (MAIN, BLACKHOLE..BEYOND_PROHIBIT) => Some(Listed::Odd(what(), "it refuses packets")),
        _ => None,
    }
}

/// The priority of a rule that Linux does not have by itself.
fn rule(message: &Message<'_>) -> Option<u32> {
    let attributes = Attributes::new(message.body.get(HEAD..)?);
    let priority = attributes.get(6).and_then(u32_ne).unwrap_or(0);
    (message.kind == NEW_RULE && !RULES_OF_LINUX.contains(&priority)).then_some(priority)
}
