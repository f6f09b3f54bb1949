//! The simulated heart: a host in memory (`sim`), which takes the same bytes as Linux and decodes
//! them itself. It translates questions and errors into our words and decides nothing.
//! Tests: below, and everything in `proptests`.

mod ipvs;
mod relay;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sim::nft::read::{Data, SetView, TableView};

use super::{
    Capabilities, ChainFact, Depth, ElementFact, Error, ErrorKind, Facts, FlowFact, Kernel, Query,
    Receipt, RelayServing, RuleFact, SetFact, Socket, TableFact, Transaction, XtablesFlavour,
    XtablesText,
};
use crate::model::{Family, Protocol};

pub use ipvs::set_sysctl;

/// A simulated host as a kernel. Clones share the host, so that a test can send packets through
/// the host that a proxy programs.
#[derive(Clone)]
pub struct Simulated {
    host: Arc<Mutex<sim::Host>>,
    sysctls: BTreeMap<String, String>,
    relay: Arc<Mutex<relay::Relay>>,
    conntrack_buckets: u64,
    capabilities: Capabilities,
    /// Whether a scheduler of IPVS that has no model here is taken for another.
    lenient: bool,
}

impl std::fmt::Debug for Simulated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulated")
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}

impl Simulated {
    /// A kernel around this host; it can do everything.
    pub fn new(host: sim::Host) -> Simulated {
        Simulated {
            host: Arc::new(Mutex::new(host)),
            sysctls: BTreeMap::new(),
            relay: Arc::default(),
            conntrack_buckets: 16_384,
            capabilities: Capabilities {
                xtables: Some(XtablesFlavour::Legacy),
                ..Capabilities::default()
            },
            lenient: false,
        }
    }

    /// A kernel of a host with nothing but a loopback link.
    pub fn bare() -> Simulated {
        Simulated::new(sim::Host::new(1))
    }

    /// The same with some lacks.
    pub fn with_capabilities(self, capabilities: Capabilities) -> Simulated {
        Simulated { capabilities, ..self }
    }

    /// The same, which takes a scheduler of IPVS for round robin where it has no model or draws lots:
    /// for who asks where connections may go, and not how often.
    pub fn with_schedulers_alike(self) -> Simulated {
        Simulated { lenient: true, ..self }
    }

    /// The host, to send packets through and to look into.
    pub fn host(&self) -> MutexGuard<'_, sim::Host> {
        // A panic elsewhere does not make the host's memory unsafe to read.
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the relay serves at a local address and port; `None` if it does not listen there.
    pub fn relayed(&self, protocol: Protocol, at: Socket) -> Option<RelayServing> {
        self.relay().serving(protocol, at).cloned()
    }

    fn relay(&self) -> MutexGuard<'_, relay::Relay> {
        // Its maps are whole after every call, so that a panic elsewhere leaves them usable.
        self.relay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host, for good; none while another clone shares it.
    pub fn into_host(self) -> Option<sim::Host> {
        let mutex = Arc::into_inner(self.host)?;
        Some(mutex.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn forget(&self, flows: &[FlowFact]) -> Receipt {
        let operations = self.host().forget_connections(|connection| {
            flow_of(connection).is_some_and(|flow| flows.contains(&flow))
        });
        Receipt::of(operations)
    }
}

impl Kernel for Simulated {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        match transaction {
            Transaction::Nft(batch) => {
                let outcome = self.host().nft_batch(&batch.bytes);
                outcome.map_err(|e| nft_error(&e))?;
                Ok(Receipt::of(batch.operations))
            }
            Transaction::ForgetFlows(flows) => Ok(self.forget(flows)),
            Transaction::Xtables(XtablesText { family, text, operations }) => {
                let how = sim::XtRestore { noflush: true, counters: true };
                let outcome = self.host().iptables_restore(xt_family(*family), text, how);
                outcome.map_err(|e| xt_error(&e, text))?;
                Ok(Receipt::of(*operations))
            }
            Transaction::Account(name) => {
                self.host().add_nfacct(name);
                Ok(Receipt::of(1))
            }
            Transaction::Sysctl(path, value) => {
                // What the simulator has no model of changes nothing, but is kept.
                if !ipvs::set_sysctl(&mut self.host(), path, value) {
                    self.sysctls.insert(path.clone(), value.clone());
                }
                Ok(Receipt::of(1))
            }
            Transaction::Ipvs(operations) if self.lenient => {
                ipvs::apply(&mut self.host(), &ipvs::alike(operations))
            }
            Transaction::Ipvs(operations) => ipvs::apply(&mut self.host(), operations),
            Transaction::Ipset(operations) => ipvs::apply_sets(&mut self.host(), operations),
            Transaction::Relay(operations) => self.relay().apply(operations),
            Transaction::Links(operations) => ipvs::apply_links(&mut self.host(), operations),
            Transaction::ConntrackBuckets(buckets) => {
                self.conntrack_buckets = u64::from(*buckets);
                Ok(Receipt::of(1))
            }
        }
    }

    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        let mut host = self.host();
        let listed = |servers| Ok(Facts::VirtualServers(servers));
        match query {
            Query::Table(family, name, depth) => {
                let table = host.nft().table(sim_family(*family), name);
                Ok(Facts::Table(table.map(|table| table_fact(&table, *depth))))
            }
            Query::Elements(family, table, set) => {
                let found = host
                    .nft()
                    .table(sim_family(*family), table)
                    .and_then(|table| table.set(set))
                    .map(|set| elements(&set));
                let absent = || {
                    let what = format!("list set {family} {table} {set}");
                    Error::new(ErrorKind::Absent, what, "ENOENT")
                };
                found.map(Facts::Elements).ok_or_else(absent)
            }
            Query::Rules(family, table, chain) => {
                let table = host.nft().table(sim_family(*family), table);
                let rules = table.map(|table| rules(&table, chain.as_deref()));
                Ok(Facts::Rules(rules.unwrap_or_default()))
            }
            Query::Xtables(family) => {
                let family = xt_family(*family);
                let tables = [sim::XtTable::Filter, sim::XtTable::Nat, sim::XtTable::Mangle];
                let texts = tables.map(|table| host.iptables_save(family, table));
                Ok(Facts::Text(texts.concat()))
            }
            Query::Flows(family, protocol, to) => {
                let wanted = |flow: &FlowFact| {
                    let kind = flow.family == *family && flow.protocol == *protocol;
                    kind && to.takes(&flow.destination)
                };
                let connections = host.connections();
                Ok(Facts::Flows(connections.iter().filter_map(flow_of).filter(wanted).collect()))
            }
            Query::Sysctl(path) => {
                let absent = || Error::new(ErrorKind::Absent, format!("read {path}"), "ENOENT");
                let modelled = host.sysctls().get(path).map(|value| value.to_string());
                let modelled = modelled.or_else(|| ipvs::sysctl(&host, path));
                let value = modelled.or_else(|| self.sysctls.get(path).cloned());
                value.map(Facts::Text).ok_or_else(absent)
            }
            Query::Generation => Ok(Facts::Number(host.nft().generation().into())),
            Query::Account(name) => packets_of(&host, name).map(Facts::Number),
            Query::Cpus => Ok(Facts::Number(2)),
            Query::ConntrackBuckets => Ok(Facts::Number(self.conntrack_buckets)),
            Query::Addresses => {
                let links = host.links().iter();
                Ok(Facts::Addresses(
                    links.flat_map(|link| link.addresses.iter().map(|(ip, _)| *ip)).collect(),
                ))
            }
            Query::RelayPorts(keys) => Ok(Facts::RelayPorts(self.relay().ports(keys))),
            Query::VirtualServers(family) => listed(ipvs::servers(&mut host, *family)),
            Query::VirtualServersAlone(family) => listed(ipvs::servers_alone(&mut host, *family)),
            Query::Destinations(server) => {
                Ok(Facts::Destinations(ipvs::destinations(&mut host, server)))
            }
            Query::IpvsTimeouts => Ok(Facts::IpvsTimeouts(ipvs::timeouts(&mut host))),
            Query::Ipsets(prefix) => Ok(Facts::Ipsets(ipvs::sets(&host, prefix))),
            Query::Links => Ok(Facts::Links(ipvs::links(&host))),
            Query::Lacks(wanted) => {
                let lacks = self.capabilities.lacks.iter();
                Ok(Facts::Lacks(lacks.filter(|(lack, _)| wanted.contains(lack)).cloned().collect()))
            }
        }
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
}

/// What an accounting object has counted.
fn packets_of(host: &sim::Host, name: &str) -> Result<u64, Error> {
    let absent = || Error::new(ErrorKind::Absent, format!("read counter {name}"), "ENOENT");
    host.nfacct(name).map(|(packets, _)| packets).ok_or_else(absent)
}

fn sim_family(family: Family) -> sim::Family {
    match family {
        Family::V4 => sim::Family::Ip,
        Family::V6 => sim::Family::Ip6,
    }
}

fn nft_error(error: &sim::NftError) -> Error {
    let kind = Error::kind_of_errno(error.errno as i32);
    Error::new(kind, format!("nf_tables {}", error.message), error.to_string())
}

fn xt_family(family: Family) -> sim::XtFamily {
    match family {
        Family::V4 => sim::XtFamily::V4,
        Family::V6 => sim::XtFamily::V6,
    }
}

fn xt_error(error: &sim::XtError, text: &str) -> Error {
    let kind = match error.kind {
        sim::XtErrorKind::Absent => ErrorKind::Absent,
        sim::XtErrorKind::Exists => ErrorKind::Exists,
        sim::XtErrorKind::Busy => ErrorKind::Busy,
        sim::XtErrorKind::NotModelled => ErrorKind::Unsupported,
        _ => ErrorKind::Invalid,
    };
    let line = text.lines().nth(error.line.saturating_sub(1)).unwrap_or_default();
    Error::new(kind, format!("iptables-restore: {line}"), error.to_string())
}

fn rules(table: &TableView<'_>, wanted: Option<&str>) -> Vec<RuleFact> {
    let chains = table.chains();
    let chains = chains.iter().filter(|chain| wanted.is_none_or(|name| chain.name() == name));
    let rules = chains.flat_map(|chain| {
        chain.rules().into_iter().map(|rule| RuleFact {
            chain: chain.name().to_owned(),
            handle: rule.handle(),
            expressions: rule.expressions().into(),
        })
    });
    rules.collect()
}

fn table_fact(table: &TableView<'_>, depth: Depth) -> TableFact {
    let comment = table.comment().unwrap_or_default();
    if depth == Depth::Head {
        return TableFact { comment, ..TableFact::default() };
    }
    let mut chains: Vec<ChainFact> = table
        .chains()
        .iter()
        .map(|chain| ChainFact {
            name: chain.name().to_owned(),
            hook: chain.base().map(|base| (base.hook as u32, base.priority)),
        })
        .collect();
    chains.sort_by(|a, b| a.name.cmp(&b.name));
    if depth == Depth::Chains {
        return TableFact { comment, chains, sets: Vec::new() };
    }
    let anonymous = |set: &SetView<'_>| set.definition().has(sim::nft::set_flags::ANONYMOUS);
    let mut sets: Vec<SetFact> =
        table.sets().iter().filter(|set| !anonymous(set)).map(set_fact).collect();
    sets.sort_by(|a, b| a.name.cmp(&b.name));
    TableFact { comment, chains, sets }
}

fn set_fact(set: &SetView<'_>) -> SetFact {
    let definition = set.definition();
    let verdicts = definition.data_type == sim::nft::DATA_VERDICT;
    SetFact {
        name: set.name().to_owned(),
        flags: definition.flags,
        key_len: definition.key_len,
        data_len: if verdicts { 0 } else { definition.data_len },
        elements: elements(set),
    }
}

fn elements(set: &SetView<'_>) -> Vec<ElementFact> {
    set.elements()
        .iter()
        .map(|element| ElementFact {
            key: element.key().to_vec(),
            key_end: element.key_end().map(<[u8]>::to_vec),
            data: match element.data() {
                Data::Value(bytes) => bytes.to_vec(),
                Data::Verdict { chain, .. } => chain.unwrap_or_default().as_bytes().to_vec(),
                Data::None => Vec::new(),
            },
            comment: element.comment().unwrap_or_default(),
            expires: element.expires().map(|left| {
                let left = left.as_millis() as u64;
                (element.timeout().map_or(left, |timeout| timeout.as_millis() as u64), left)
            }),
        })
        .collect()
}

fn flow_of(connection: &sim::Connection) -> Option<FlowFact> {
    let (original, reply) = (connection.original, connection.reply);
    Some(FlowFact {
        family: Family::of(original.dst),
        protocol: Protocol::from_number(original.protocol)?,
        source: Socket { address: original.src, port: original.sport },
        destination: Socket { address: original.dst, port: original.dport },
        endpoint: Socket { address: reply.src, port: reply.sport },
    })
}
