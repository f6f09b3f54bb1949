//! The simulated heart: a host in memory (`sim`), which takes the same bytes as Linux and decodes
//! them itself. It translates questions and errors into our words and decides nothing.
//! Tests: below, and everything in `proptests`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sim::nft::read::{Data, SetView, TableView};

use super::{
    Capabilities, ChainFact, Depth, ElementFact, Error, ErrorKind, Facts, FlowFact, Kernel, Query,
    Receipt, SetFact, Socket, TableFact, Transaction,
};
use crate::model::{Family, Protocol};

/// A simulated host as a kernel. Clones share the host, so that a test can send packets through
/// the host that a proxy programs.
#[derive(Clone)]
pub struct Simulated {
    host: Arc<Mutex<sim::Host>>,
    sysctls: BTreeMap<String, String>,
    capabilities: Capabilities,
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
            capabilities: Capabilities::default(),
        }
    }

    /// The same with some lacks.
    pub fn with_capabilities(self, capabilities: Capabilities) -> Simulated {
        Simulated { capabilities, ..self }
    }

    /// The host, to send packets through and to look into.
    pub fn host(&self) -> MutexGuard<'_, sim::Host> {
        // A panic elsewhere does not make the host's memory unsafe to read.
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
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
        Receipt { operations }
    }
}

impl Kernel for Simulated {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        match transaction {
            Transaction::Nft(batch) => {
                let outcome = self.host().nft_batch(&batch.bytes);
                outcome.map_err(|e| nft_error(&e))?;
                Ok(Receipt { operations: batch.operations })
            }
            Transaction::ForgetFlows(flows) => Ok(self.forget(flows)),
            Transaction::Sysctl(path, value) => {
                self.sysctls.insert(path.clone(), value.clone());
                Ok(Receipt { operations: 1 })
            }
        }
    }

    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        let host = self.host();
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
            Query::Flows(family, protocol) => {
                let wanted = |flow: &FlowFact| flow.family == *family && flow.protocol == *protocol;
                let connections = host.connections();
                Ok(Facts::Flows(connections.iter().filter_map(flow_of).filter(wanted).collect()))
            }
            Query::Sysctl(path) => {
                let absent = || Error::new(ErrorKind::Absent, format!("read {path}"), "ENOENT");
                self.sysctls.get(path).cloned().map(Facts::Text).ok_or_else(absent)
            }
            Query::Addresses => {
                let links = host.links().iter();
                Ok(Facts::Addresses(
                    links.flat_map(|link| link.addresses.iter().map(|(ip, _)| *ip)).collect(),
                ))
            }
        }
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
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
