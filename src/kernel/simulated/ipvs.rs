//! IPVS, ipset and dummy devices of the simulated host: IPVS by the same bytes of generic netlink that
//! Linux takes, ipset by the text that ipset(8) restores and saves, links by their verbs.
//! It translates and decides nothing. Tests: below, and `proptests`.

use std::net::IpAddr;

use sim::ipset::IpsetErrorKind;

use crate::kernel::{
    DestinationFact, Error, ErrorKind, IpsetEntry, IpsetFact, IpsetOperation, IpsetSpec, IpsetType,
    IpvsOperation, IpvsTimeouts, LinkFact, LinkOperation, Receipt, Scheduler, Scheduling, Socket,
    VirtualServer, VirtualServerFact,
};
use crate::model::{Family, Protocol};
use crate::netlink::ipvs as wire;
use crate::netlink::read::{Message, Messages};

/// The number of the family, as the host says it.
fn family(host: &mut sim::Host) -> u16 {
    let answer = host.genetlink(&wire::ask_family(1));
    Messages::new(&answer).find_map(|message| wire::family_number(&message)).unwrap_or_default()
}

/// Tries each operation.
pub(super) fn apply(host: &mut sim::Host, operations: &[IpvsOperation]) -> Result<Receipt, Error> {
    let family = family(host);
    let (mut first, mut refused) = (None, 0);
    for operation in operations {
        let bytes = wire::operation(operation, (family, 0, 1));
        if let Err(error) = host.ipvs_request(&bytes) {
            refused += 1;
            let kind = Error::kind_of_errno(error.errno as i32);
            first.get_or_insert_with(|| Error::new(kind, operation.to_string(), error.to_string()));
        }
    }
    crate::kernel::summary(operations.len(), (first, refused))
}

/// The same operations, round robin in the place of every scheduler that has no model or draws lots.
pub(super) fn alike(operations: &[IpvsOperation]) -> Vec<IpvsOperation> {
    let known = |how: &Scheduling| {
        let model = sim::ipvs::Scheduler::named(how.scheduler.name());
        model.is_ok_and(|model| model != sim::ipvs::Scheduler::Twos)
    };
    let plain = |how: &Scheduling| match known(how) {
        true => *how,
        false => Scheduling { scheduler: Scheduler::RR, ..*how },
    };
    let one = |operation: &IpvsOperation| match operation {
        IpvsOperation::AddServer(server, how) => IpvsOperation::AddServer(*server, plain(how)),
        IpvsOperation::EditServer(server, how) => IpvsOperation::EditServer(*server, plain(how)),
        other => *other,
    };
    operations.iter().map(one).collect()
}

/// The virtual servers of a family, each with its destinations.
pub(super) fn servers(host: &mut sim::Host, wanted: Family) -> Vec<VirtualServerFact> {
    let mut servers = servers_alone(host, wanted);
    for fact in &mut servers {
        fact.destinations = destinations(host, &fact.server);
    }
    servers
}

/// The same without their destinations.
pub(super) fn servers_alone(host: &mut sim::Host, wanted: Family) -> Vec<VirtualServerFact> {
    let number = family(host);
    let listed = host.genetlink(&wire::list_servers((number, 1)));
    let ours = |message: &Message<'_>| message.kind == number;
    Messages::new(&listed)
        .filter(ours)
        .filter_map(|message| wire::server(&message))
        .filter(|fact| fact.server.family() == wanted)
        .collect()
}

/// The destinations of a virtual server; none if it is not there.
pub(super) fn destinations(host: &mut sim::Host, server: &VirtualServer) -> Vec<DestinationFact> {
    let number = family(host);
    let listed = host.genetlink(&wire::list_destinations(server, (number, 1)));
    let answers = Messages::new(&listed).filter(|message| message.kind == number);
    answers.filter_map(|message| wire::destination(&message, server)).collect()
}

/// Sets what the host models of a sysctl, and says whether it does; what it does not model is kept
/// by the heart alone.
pub fn set_sysctl(host: &mut sim::Host, path: &str, value: &str) -> bool {
    let number: u8 = value.parse().unwrap_or_default();
    let settings = host.ipvs_sysctls_mut();
    match path.strip_prefix("net/ipv4/vs/") {
        Some("conntrack") => settings.conntrack = number != 0,
        Some("conn_reuse_mode") => settings.conn_reuse_mode = number,
        Some("expire_nodest_conn") => settings.expire_nodest_conn = number != 0,
        Some("expire_quiescent_template") => settings.expire_quiescent_template = number != 0,
        Some("sloppy_tcp") => settings.sloppy_tcp = number != 0,
        _ => return host.sysctls_mut().set(path, value).is_ok(),
    }
    true
}

/// The timeouts.
pub(super) fn timeouts(host: &mut sim::Host) -> IpvsTimeouts {
    let number = family(host);
    let answer = host.genetlink(&wire::ask_timeouts((number, 1)));
    let ours = |message: &Message<'_>| message.kind == number;
    let found = Messages::new(&answer).filter(ours).find_map(|message| wire::timeouts(&message));
    found.unwrap_or_default()
}

/// Carries out operations in order, up to the first that is refused.
pub(super) fn apply_sets(
    host: &mut sim::Host,
    operations: &[IpsetOperation],
) -> Result<Receipt, Error> {
    let mut done = 0;
    for operation in operations {
        let (text, entries) = restore_text(operation);
        let outcome = match operation {
            IpsetOperation::Create(_) | IpsetOperation::Add(..) | IpsetOperation::Delete(..) => {
                host.ipset_restore_exist(&text)
            }
            _ => host.ipset_restore(&text),
        };
        outcome.map_err(|e| Error::new(set_error(e.kind), operation.to_string(), e.message))?;
        done += entries;
    }
    Ok(Receipt::of(done))
}

fn set_error(kind: IpsetErrorKind) -> ErrorKind {
    match kind {
        IpsetErrorKind::NoSet | IpsetErrorKind::Absent => ErrorKind::Absent,
        IpsetErrorKind::Exists => ErrorKind::Exists,
        IpsetErrorKind::InUse => ErrorKind::Busy,
        IpsetErrorKind::Full => ErrorKind::Broken,
        IpsetErrorKind::Invalid | IpsetErrorKind::Syntax => ErrorKind::Invalid,
        IpsetErrorKind::NotModelled => ErrorKind::Unsupported,
    }
}

/// The text of an operation, and how many objects it changes.
fn restore_text(operation: &IpsetOperation) -> (String, usize) {
    let lines = |verb: &str, set: &str, entries: &[IpsetEntry]| {
        let text = entries.iter().map(|entry| format!("{verb} {set} {entry}\n")).collect();
        (text, entries.len())
    };
    match operation {
        IpsetOperation::Create(spec) => (spec.create_text(), 1),
        IpsetOperation::Destroy(set) => (format!("destroy {set}\n"), 1),
        IpsetOperation::Flush(set) => (format!("flush {set}\n"), 1),
        IpsetOperation::Swap(one, two) => (format!("swap {one} {two}\n"), 1),
        IpsetOperation::Add(set, entries) => lines("add", set, entries),
        IpsetOperation::Delete(set, entries) => lines("del", set, entries),
    }
}

/// The sets whose names begin so, by name.
pub(super) fn sets(host: &sim::Host, prefix: &str) -> Vec<IpsetFact> {
    let mut names: Vec<String> =
        host.ipset_names().into_iter().filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    names.iter().filter_map(|name| saved(&host.ipset_save_one(name)?)).collect()
}

/// A set out of the text that `ipset save` prints of it.
fn saved(text: &str) -> Option<IpsetFact> {
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next()?.split(' ').collect();
    let after =
        |word: &str| head.iter().position(|one| *one == word).and_then(|at| head.get(at + 1));
    let family = if after("family") == Some(&"inet6") { Family::V6 } else { Family::V4 };
    let most = after("maxelem").and_then(|n| n.parse().ok()).unwrap_or(0);
    let kind = match IpsetType::named(head.get(2)?) {
        IpsetType::BitmapPort if after("range") != Some(&"0-65535") => {
            IpsetType::Other("bitmap:port of another range".to_owned())
        }
        kind => kind,
    };
    let spec = IpsetSpec { name: (*head.get(1)?).to_owned(), kind, family, most };
    let entries = lines.filter_map(|line| entry(&spec, line.split(' ').nth(2)?)).collect();
    Some(IpsetFact { spec, entries })
}

fn entry(spec: &IpsetSpec, text: &str) -> Option<IpsetEntry> {
    let mut parts = text.split(',');
    let first = parts.next()?;
    let address = |text: &str| text.parse::<IpAddr>().ok();
    match spec.kind {
        IpsetType::BitmapPort => return first.parse().ok().map(IpsetEntry::Port),
        IpsetType::HashIp => return address(first).map(IpsetEntry::Ip),
        _ => {}
    }
    let (protocol, port) = parts.next()?.split_once(':')?;
    let protocol = Protocol::ALL.into_iter().find(|p| p.lower() == protocol)?;
    let at = Socket { address: address(first)?, port: port.parse().ok()? };
    match spec.kind {
        IpsetType::HashIpPort => Some(IpsetEntry::IpPort(protocol, at)),
        IpsetType::HashIpPortIp => {
            Some(IpsetEntry::IpPortIp(protocol, at, address(parts.next()?)?))
        }
        IpsetType::HashIpPortNet => {
            let last = parts.next()?;
            let net = last.parse().ok().or_else(|| Some(address(last)?.into()))?;
            Some(IpsetEntry::IpPortNet(protocol, at, net))
        }
        _ => None,
    }
}

/// Tries each operation.
pub(super) fn apply_links(
    host: &mut sim::Host,
    operations: &[LinkOperation],
) -> Result<Receipt, Error> {
    let (mut first, mut refused) = (None, 0);
    for operation in operations {
        if let Err((kind, said)) = change_link(host, operation) {
            refused += 1;
            first.get_or_insert_with(|| Error::new(kind, operation.to_string(), said));
        }
    }
    crate::kernel::summary(operations.len(), (first, refused))
}

type Refusal = (ErrorKind, &'static str);

fn change_link(host: &mut sim::Host, operation: &LinkOperation) -> Result<(), Refusal> {
    const ABSENT: Refusal = (ErrorKind::Absent, "there is no such device");
    let find = |host: &sim::Host, name: &str| host.link(name).cloned().ok_or(ABSENT);
    let stands = |link: &sim::Link, wanted: IpAddr| {
        link.addresses.iter().any(|(address, _)| *address == wanted)
    };
    match operation {
        LinkOperation::AddDummy(name) => match host.link(name) {
            Some(_) => return Err((ErrorKind::Exists, "there is a device of this name")),
            None => drop(host.add_dummy(name)),
        },
        LinkOperation::Delete(name) => {
            let index = find(host, name)?.index;
            host.remove_link(index);
        }
        LinkOperation::AddAddress(name, address)
        | LinkOperation::AddHiddenAddress(name, address) => {
            let link = find(host, name)?;
            if stands(&link, *address) {
                return Err((ErrorKind::Exists, "the address is there"));
            }
            host.add_address(link.index, *address, Family::of(*address).address_bits());
            if matches!(operation, LinkOperation::AddHiddenAddress(..)) {
                host.hide_address(link.index, *address);
            }
        }
        LinkOperation::DeleteAddress(name, address) => {
            let link = find(host, name)?;
            if !stands(&link, *address) {
                return Err((ErrorKind::Absent, "the address is not there"));
            }
            host.remove_address(link.index, *address);
        }
    }
    Ok(())
}

/// All links.
pub(super) fn links(host: &sim::Host) -> Vec<LinkFact> {
    let fact = |link: &sim::Link| LinkFact {
        name: link.name.to_string(),
        kind: link.kind.to_owned(),
        addresses: link.addresses.clone(),
    };
    host.links().iter().map(fact).collect()
}

/// A sysctl of IPVS as the host has it.
pub(super) fn sysctl(host: &sim::Host, path: &str) -> Option<String> {
    let sysctls = host.ipvs_sysctls();
    let number = match path.strip_prefix("net/ipv4/vs/")? {
        "conntrack" => sysctls.conntrack.into(),
        "conn_reuse_mode" => sysctls.conn_reuse_mode,
        "expire_nodest_conn" => sysctls.expire_nodest_conn.into(),
        "expire_quiescent_template" => sysctls.expire_quiescent_template.into(),
        "sloppy_tcp" => sysctls.sloppy_tcp.into(),
        _ => return None,
    };
    Some(number.to_string())
}

#[cfg(test)]
mod tests {
    use crate::kernel::simulated::Simulated;
    use crate::kernel::{
        Destination, ErrorKind, Facts, IpsetEntry, IpsetOperation, IpsetSpec, IpsetType,
        IpvsOperation, IpvsTimeouts, Kernel, LinkOperation, Persistence, Query, Scheduler,
        Scheduling, Socket, Transaction, VirtualServer,
    };
    use crate::model::{Family, Protocol};

    fn at(address: &str, port: u16) -> Socket {
        Socket { address: address.parse().expect("a literal"), port }
    }

    fn kernel() -> Simulated {
        Simulated::new(sim::Host::new(1))
    }

    #[test]
    fn virtual_servers_are_read_back_as_they_were_made() {
        for (vip, real, prefix) in [("10.96.0.1", "10.1.0.1", 24), ("fd96::1", "fd01::1", 64)] {
            let mut kernel = kernel();
            let server = VirtualServer { protocol: Protocol::Udp, socket: at(vip, 53) };
            let scheduling = Scheduling {
                scheduler: Scheduler::named("sh").expect("a name"),
                flags: crate::kernel::ipvs::SCHEDULER_FLAG_1,
                persistence: Some(Persistence { seconds: 100, prefix }),
            };
            let to = Destination { socket: at(real, 5353), weight: 3 };
            let operations = [
                IpvsOperation::AddServer(server, scheduling),
                IpvsOperation::AddDestination(server, to),
            ];
            kernel.apply(&Transaction::Ipvs(operations.to_vec())).expect("it is taken");
            let family = Family::of(server.socket.address);
            let Ok(Facts::VirtualServers(found)) = kernel.read(&Query::VirtualServers(family))
            else {
                panic!("no virtual servers");
            };
            assert_eq!(found.len(), 1);
            assert_eq!((found[0].server, found[0].scheduling), (server, scheduling));
            assert_eq!(found[0].destinations[0].destination, to);
            assert!(found[0].destinations[0].masquerades);
        }
    }

    #[test]
    fn each_operation_is_tried_and_the_first_refusal_counts() {
        let mut kernel = kernel();
        let server = VirtualServer { protocol: Protocol::Tcp, socket: at("10.96.0.1", 80) };
        let scheduling = Scheduling { scheduler: Scheduler::RR, flags: 0, persistence: None };
        let operations = vec![
            IpvsOperation::DeleteServer(server),
            IpvsOperation::AddServer(server, scheduling),
            IpvsOperation::AddServer(server, scheduling),
            IpvsOperation::SetTimeouts(IpvsTimeouts { tcp: 60, tcp_fin: 0, udp: 0 }),
        ];
        let error = kernel.apply(&Transaction::Ipvs(operations)).expect_err("two are refused");
        assert_eq!(error.kind, ErrorKind::Absent);
        assert!(error.operation.contains("10.96.0.1:80"), "{error}");
        assert!(error.source.contains("2 of 4"), "{error}");
        let timeouts = kernel.read(&Query::IpvsTimeouts);
        assert!(matches!(timeouts, Ok(Facts::IpvsTimeouts(t)) if t.tcp == 60 && t.udp == 300));
    }

    #[test]
    fn sets_are_read_back_as_they_were_made() {
        let (v4, v6) = (at("10.96.0.1", 80), at("fd96::1", 80));
        let net = "10.0.0.0/8".parse().expect("a literal");
        for (kind, family, entry) in [
            (IpsetType::BitmapPort, Family::V4, IpsetEntry::Port(30000)),
            (IpsetType::HashIp, Family::V6, IpsetEntry::Ip(v6.address)),
            (IpsetType::HashIpPort, Family::V6, IpsetEntry::IpPort(Protocol::Sctp, v6)),
            (
                IpsetType::HashIpPortIp,
                Family::V4,
                IpsetEntry::IpPortIp(Protocol::Tcp, v4, v4.address),
            ),
            (IpsetType::HashIpPortNet, Family::V4, IpsetEntry::IpPortNet(Protocol::Udp, v4, net)),
        ] {
            let mut kernel = kernel();
            let most = if kind == IpsetType::BitmapPort { 0 } else { 1000 };
            let spec = IpsetSpec { name: "KUBE-A".to_owned(), kind, family, most };
            let operations = vec![
                IpsetOperation::Create(spec.clone()),
                IpsetOperation::Create(spec.clone()),
                IpsetOperation::Add("KUBE-A".to_owned(), vec![entry, entry]),
            ];
            kernel.apply(&Transaction::Ipset(operations)).expect("it is taken");
            let found = kernel.read(&Query::Ipsets("KUBE-".to_owned()));
            let Ok(Facts::Ipsets(found)) = found else { panic!("no sets") };
            assert_eq!((&found[0].spec, &found[0].entries[..]), (&spec, &[entry][..]));
        }
        let absent = vec![IpsetOperation::Destroy("KUBE-B".to_owned())];
        let error = kernel().apply(&Transaction::Ipset(absent)).expect_err("there is none");
        assert_eq!(error.kind, ErrorKind::Absent);
    }

    #[test]
    fn dummy_devices_come_and_go_with_their_addresses() {
        let mut kernel = kernel();
        let (link, address) = ("kube-ipvs0".to_owned(), at("10.96.0.1", 0).address);
        let add = LinkOperation::AddAddress(link.clone(), address);
        let operations = vec![LinkOperation::AddDummy(link.clone()), add.clone(), add];
        let error = kernel.apply(&Transaction::Links(operations)).expect_err("it is there");
        assert_eq!(error.kind, ErrorKind::Exists);
        let Ok(Facts::Links(links)) = kernel.read(&Query::Links) else { panic!("no links") };
        let made = links.iter().find(|found| found.name == link).expect("it was made");
        assert_eq!((&*made.kind, &made.addresses[..]), ("dummy", &[(address, 32)][..]));
        kernel.apply(&Transaction::Links(vec![LinkOperation::Delete(link)])).expect("it goes");
        assert!(!kernel.host().is_local(address));
    }
}
