//! Virtual servers of IPVS with their destinations, over generic netlink, and the clients they
//! remember, out of `/proc/net/ip_vs_conn`; only where the kernel has IPVS already: to ask for it
//! would load it. It must never change anything. Tests: below, and the lab's guest.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr};

use super::{Survey, lack};
use crate::kernel::real::ipvs::Ipvs;
use crate::kernel::survey::ServerFact;
use crate::model::{Family, Protocol};

const SERVERS: &str = "/proc/thread-self/net/ip_vs";
const CONNECTIONS: &str = "/proc/thread-self/net/ip_vs_conn";

pub(super) fn read(found: &mut Survey) {
    if !std::path::Path::new(SERVERS).exists() {
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
            remember(&mut found.virtual_servers);
        }
        Err(error) => lack(found, "IPVS virtual servers", &error.to_string()),
    }
}

/// Adds the clients that servers remember, if one of them remembers any. What cannot be read stays
/// unknown: who answers for it says so.
fn remember(servers: &mut [ServerFact]) {
    let mut sticky: Vec<&mut ServerFact> =
        servers.iter_mut().filter(|server| server.persistence.is_some()).collect();
    if sticky.is_empty() {
        return;
    }
    let Ok(file) = std::fs::File::open(CONNECTIONS) else { return };
    let lines: Result<Vec<Template>, std::io::Error> = BufReader::new(file)
        .lines()
        .filter_map(|line| line.map(|line| template(&line)).transpose())
        .collect();
    let Ok(templates) = lines else { return };
    for server in &mut sticky {
        let of = |template: &&Template| template.of == (server.protocol, server.at);
        let known = templates.iter().filter(of).map(|one| (one.client, one.to));
        server.remembered = Some(known.collect());
    }
}

/// A client that is remembered.
#[derive(Debug, PartialEq, Eq)]
struct Template {
    of: (u8, (IpAddr, u16)),
    client: IpAddr,
    to: (IpAddr, u16),
}

/// A line of `ip_vs_conn` (`ip_vs_conn_seq_show`) if it is a template: one without a client's port.
fn template(line: &str) -> Option<Template> {
    let mut words = line.split_ascii_whitespace();
    let name = words.next()?;
    let protocol = Protocol::ALL.into_iter().find(|one| one.to_string() == name)?;
    let mut pair = || Some((address(words.next()?)?, u16::from_str_radix(words.next()?, 16).ok()?));
    let (client, at, to) = (pair()?, pair()?, pair()?);
    let (client, 0) = client else { return None };
    Some(Template { of: (protocol.number(), at), client, to })
}

/// IPv4 in eight hexadecimal digits, IPv6 in its usual form.
fn address(word: &str) -> Option<IpAddr> {
    match word.len() {
        8 if !word.contains(':') => {
            u32::from_str_radix(word, 16).ok().map(|bits| Ipv4Addr::from(bits).into())
        }
        _ => word.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_connections_the_templates_are_read() {
        let told = |line: &str| {
            template(line).map(|t| format!("{} {:?} {:?} {:?}", t.of.0, t.client, t.of.1, t.to))
        };
        assert_eq!(
            told("TCP 0A000002 0000 0A600001 0050 0A010005 1F90 NONE           3590").as_deref(),
            Some("6 10.0.0.2 (10.96.0.1, 80) (10.1.0.5, 8080)")
        );
        let six = "UDP fd00:0000:0000:0000:0000:0000:0000:0002 0000 \
                   fd96:0000:0000:0000:0000:0000:0000:0001 0035 \
                   fd01:0000:0000:0000:0000:0000:0000:0005 14E9 UDP              100";
        assert_eq!(told(six).as_deref(), Some("17 fd00::2 (fd96::1, 53) (fd01::5, 5353)"));
        for other in [
            "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData",
            "TCP 0A000002 9C40 0A600001 0050 0A010005 1F90 ESTABLISHED     890",
            "IP  0A000002 0000 00000007 0000 0A010005 0000 NONE            90",
            "TCP 0A000002 0000 0A600001",
            "",
        ] {
            assert_eq!(told(other), None, "{other:?}");
        }
    }
}
