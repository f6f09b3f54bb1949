//! Steps of a case that are no nf_tables: virtual servers, ipsets, dummy devices, sysctls, connections, in the words
//! of the seam; each line is carried out by a heart of `kube_proxy::kernel`, and what it says becomes
//! an answer. It decides nothing about packets. Tests: `super::tests`, `tests/recorded.rs`.

use std::fmt::Write as _;
use std::net::SocketAddr;

use kube_proxy::kernel::{
    Destination, Facts, FlowsTo, IpsetEntry, IpsetOperation, IpsetSpec, IpsetType, IpvsOperation,
    IpvsTimeouts, Kernel, LinkOperation, Persistence, Query, Scheduler, Scheduling, Socket,
    Transaction, VirtualServer, VirtualServerFact,
};
use kube_proxy::model::{Family, Protocol};

use super::rule::Words;

/// Words a line of this kind begins with.
pub(super) const FIRST: [&str; 5] = ["ipvs", "ipset", "link", "set-sysctl", "forget-flows"];

/// What is asked of a kernel.
enum Asked {
    Change(Transaction),
    Read(Query),
}

/// Carries out a line; what the kernel says to it.
pub(super) fn run(kernel: &mut dyn Kernel, line: &str) -> Result<String, String> {
    let mut words = Words::new(line);
    let asked = match words.need("a facility")? {
        "ipvs" => ipvs(&mut words)?,
        "ipset" => ipset(&mut words)?,
        "link" => link(&mut words)?,
        "forget-flows" => return forget_flows(kernel, &mut words),
        "set-sysctl" => {
            let (path, value) = (words.need("a path")?, words.need("a value")?);
            Asked::Change(Transaction::Sysctl(path.to_owned(), value.to_owned()))
        }
        other => return Err(format!("no facility {other}")),
    };
    let said = match asked {
        Asked::Change(transaction) => kernel.apply(&transaction).map(|_| "taken".to_owned()),
        Asked::Read(query) => kernel.read(&query).map(print),
    };
    Ok(said.unwrap_or_else(|error| format!("refused {:?}", error.kind)))
}

/// `forget-flows PROTOCOL ADDRESS:PORT`: the connections to this destination, and no others.
fn forget_flows(kernel: &mut dyn Kernel, words: &mut Words<'_>) -> Result<String, String> {
    let server = server(words)?;
    let family = Family::of(server.socket.address);
    let query = Query::Flows(family, server.protocol, FlowsTo::Socket(server.socket));
    let facts = kernel.read(&query).map_err(|error| error.to_string())?;
    let Facts::Flows(flows) = facts else { return Err("no flows but other facts".to_owned()) };
    let count = flows.len();
    kernel.apply(&Transaction::ForgetFlows(flows)).map_err(|error| error.to_string())?;
    Ok(format!("forgot {count}"))
}

fn parse<T: std::str::FromStr>(words: &mut Words<'_>, what: &str) -> Result<T, String> {
    words.need(what)?.parse().map_err(|_| format!("{what} expected"))
}

fn socket(words: &mut Words<'_>) -> Result<Socket, String> {
    let at: SocketAddr = parse(words, "an address with a port")?;
    Ok(Socket { address: at.ip(), port: at.port() })
}

fn protocol(word: &str) -> Result<Protocol, String> {
    let known = Protocol::ALL.into_iter().find(|p| p.lower() == word);
    known.ok_or_else(|| format!("no protocol {word}"))
}

fn server(words: &mut Words<'_>) -> Result<VirtualServer, String> {
    let protocol = protocol(words.need("a protocol")?)?;
    Ok(VirtualServer { protocol, socket: socket(words)? })
}

/// `ipvs add|edit PROTOCOL ADDRESS:PORT SCHEDULER [flags N] [persist SECONDS PREFIX]`,
/// `ipvs delete PROTOCOL ADDRESS:PORT`, `ipvs to|weigh PROTOCOL ADDRESS:PORT DESTINATION WEIGHT`,
/// `ipvs away PROTOCOL ADDRESS:PORT DESTINATION`, `ipvs timeouts TCP FIN UDP`, `ipvs list 4|6`.
fn ipvs(words: &mut Words<'_>) -> Result<Asked, String> {
    let operation = match words.need("a command")? {
        "add" => IpvsOperation::AddServer(server(words)?, scheduling(words)?),
        "edit" => IpvsOperation::EditServer(server(words)?, scheduling(words)?),
        "delete" => IpvsOperation::DeleteServer(server(words)?),
        "to" => IpvsOperation::AddDestination(server(words)?, destination(words)?),
        "weigh" => IpvsOperation::EditDestination(server(words)?, destination(words)?),
        "away" => IpvsOperation::DeleteDestination(server(words)?, socket(words)?),
        "timeouts" => IpvsOperation::SetTimeouts(IpvsTimeouts {
            tcp: parse(words, "seconds")?,
            tcp_fin: parse(words, "seconds")?,
            udp: parse(words, "seconds")?,
        }),
        "list" => return Ok(Asked::Read(Query::VirtualServers(family(words)?))),
        "show-timeouts" => return Ok(Asked::Read(Query::IpvsTimeouts)),
        other => return Err(format!("no command ipvs {other}")),
    };
    Ok(Asked::Change(Transaction::Ipvs(vec![operation])))
}

fn family(words: &mut Words<'_>) -> Result<Family, String> {
    match words.need("4 or 6")? {
        "4" => Ok(Family::V4),
        "6" => Ok(Family::V6),
        other => Err(format!("no family {other}")),
    }
}

fn scheduling(words: &mut Words<'_>) -> Result<Scheduling, String> {
    let name = words.need("a scheduler")?;
    let scheduler = Scheduler::named(name).ok_or_else(|| format!("no scheduler {name}"))?;
    let mut how = Scheduling { scheduler, flags: 0, persistence: None };
    while let Some(word) = words.next() {
        match word {
            "flags" => how.flags = parse(words, "flags")?,
            "persist" => {
                let seconds = parse(words, "seconds")?;
                how.persistence = Some(Persistence { seconds, prefix: parse(words, "a prefix")? });
            }
            other => return Err(format!("no property {other} of virtual servers")),
        }
    }
    Ok(how)
}

fn destination(words: &mut Words<'_>) -> Result<Destination, String> {
    Ok(Destination { socket: socket(words)?, weight: parse(words, "a weight")? })
}

/// `ipset create NAME TYPE 4|6 MOST`, `ipset destroy|flush NAME`, `ipset swap ONE TWO`,
/// `ipset add|del NAME TYPE ENTRY…`, `ipset list [PREFIX]`.
fn ipset(words: &mut Words<'_>) -> Result<Asked, String> {
    let command = words.need("a command")?;
    if command == "list" {
        return Ok(Asked::Read(Query::Ipsets(words.next().unwrap_or_default().to_owned())));
    }
    let name = words.need("a name")?.to_owned();
    let operation = match command {
        "create" => {
            let kind = IpsetType::named(words.need("a type")?);
            let family = family(words)?;
            IpsetOperation::Create(IpsetSpec { name, kind, family, most: parse(words, "a size")? })
        }
        "destroy" => IpsetOperation::Destroy(name),
        "flush" => IpsetOperation::Flush(name),
        "swap" => IpsetOperation::Swap(name, words.need("a name")?.to_owned()),
        "add" => IpsetOperation::Add(name, entries(words)?),
        "del" => IpsetOperation::Delete(name, entries(words)?),
        other => return Err(format!("no command ipset {other}")),
    };
    Ok(Asked::Change(Transaction::Ipset(vec![operation])))
}

fn entries(words: &mut Words<'_>) -> Result<Vec<IpsetEntry>, String> {
    let kind = IpsetType::named(words.need("a type")?);
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        found.push(entry(&kind, word).ok_or_else(|| format!("{word} is no entry of {kind}"))?);
    }
    Ok(found)
}

fn entry(kind: &IpsetType, word: &str) -> Option<IpsetEntry> {
    let mut parts = word.split(',');
    let first = parts.next()?;
    if *kind == IpsetType::BitmapPort {
        return first.parse().ok().map(IpsetEntry::Port);
    }
    let address = first.parse().ok()?;
    if *kind == IpsetType::HashIp {
        return Some(IpsetEntry::Ip(address));
    }
    let (transport, port) = parts.next()?.split_once(':')?;
    let transport = protocol(transport).ok()?;
    let at = Socket { address, port: port.parse().ok()? };
    let mut last = || parts.next();
    Some(match kind {
        IpsetType::HashIpPort => IpsetEntry::IpPort(transport, at),
        IpsetType::HashIpPortIp => IpsetEntry::IpPortIp(transport, at, last()?.parse().ok()?),
        _ => IpsetEntry::IpPortNet(transport, at, last()?.parse().ok()?),
    })
}

/// `link dummy|delete NAME`, `link address|unaddress NAME ADDRESS`, `link list`.
fn link(words: &mut Words<'_>) -> Result<Asked, String> {
    let command = words.need("a command")?;
    if command == "list" {
        return Ok(Asked::Read(Query::Links));
    }
    let name = words.need("a name")?.to_owned();
    let operation = match command {
        "dummy" => LinkOperation::AddDummy(name),
        "delete" => LinkOperation::Delete(name),
        "address" => LinkOperation::AddAddress(name, parse(words, "an address")?),
        "unaddress" => LinkOperation::DeleteAddress(name, parse(words, "an address")?),
        other => return Err(format!("no command link {other}")),
    };
    Ok(Asked::Change(Transaction::Links(vec![operation])))
}

/// Facts on one line, in an order of their own.
fn print(facts: Facts) -> String {
    let mut lines: Vec<String> = match facts {
        Facts::VirtualServers(servers) => servers.iter().map(print_server).collect(),
        Facts::IpvsTimeouts(t) => vec![format!("tcp {} fin {} udp {}", t.tcp, t.tcp_fin, t.udp)],
        Facts::Ipsets(sets) => sets
            .into_iter()
            .map(|mut set| {
                set.entries.sort();
                let spec = &set.spec;
                let head = format!("{} {} {}", spec.name, spec.kind, spec.family);
                set.entries.iter().fold(head, |text, entry| format!("{text} {entry}"))
            })
            .collect(),
        Facts::Links(links) => links
            .iter()
            .filter(|link| link.kind == "dummy")
            .map(|link| {
                let addresses = link.addresses.iter().filter(|(ip, _)| !is_link_local(ip));
                let mut list: Vec<String> = addresses.map(|(ip, n)| format!("{ip}/{n}")).collect();
                list.sort();
                format!("{} {}", link.name, list.join(" ")).trim_end().to_owned()
            })
            .collect(),
        other => vec![format!("{other:?}")],
    };
    lines.sort();
    if lines.is_empty() { "none".to_owned() } else { lines.join("; ") }
}

fn is_link_local(address: &std::net::IpAddr) -> bool {
    matches!(address, std::net::IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn print_server(fact: &VirtualServerFact) -> String {
    let how = &fact.scheduling;
    let mut text = format!("{} {}", fact.server, how.scheduler);
    if how.flags != 0 {
        let _ = write!(text, " flags {:#x}", how.flags);
    }
    if let Some(persistence) = how.persistence {
        let _ = write!(text, " persist {}/{}", persistence.seconds, persistence.prefix);
    }
    let mut destinations = fact.destinations.clone();
    destinations.sort_by_key(|to| to.destination);
    for to in destinations {
        let Destination { socket, weight } = to.destination;
        let counts = (to.active, to.inactive, to.persistent);
        let _ = write!(text, ", {socket} weight {weight} counts {counts:?}");
    }
    text
}
