//! The simulated kernel behind the seam, as far as the properties need it.
//! Tests: the properties.

use std::net::IpAddr;

use kube_proxy::kernel::{
    Capabilities, ChainFact, ElementFact, Error, ErrorKind, Facts, FlowFact, Kernel, Query,
    Receipt, SetFact, Socket, TableFact, Transaction,
};
use kube_proxy::model::{Family, Protocol};
use sim::nft::read::{Data, ElementView, SetView, TableView};

/// A kernel in memory.
pub struct Simulated {
    host: sim::Host,
    capabilities: Capabilities,
}

impl Simulated {
    /// Around a host.
    pub fn new(host: sim::Host) -> Simulated {
        Simulated { host, capabilities: Capabilities::default() }
    }

    /// The host.
    pub fn host(&self) -> &sim::Host {
        &self.host
    }

    /// The host, to send packets into.
    pub fn host_mut(&mut self) -> &mut sim::Host {
        &mut self.host
    }

    /// With a limit to the size of one transaction, in bytes.
    pub fn limited_to(mut self, bytes: usize) -> Simulated {
        self.capabilities.largest_batch = bytes;
        self
    }
}

impl Kernel for Simulated {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        match transaction {
            Transaction::Nft(batch) => {
                self.host.nft_batch(&batch.bytes).map_err(|e| {
                    let kind = Error::kind_of_errno(e.errno as i32);
                    Error::new(kind, format!("nf_tables {}", e.message), e.to_string())
                })?;
                Ok(Receipt { operations: batch.operations })
            }
            Transaction::ForgetFlows(flows) => {
                let gone = self
                    .host
                    .forget_connections(|c| flow(c).is_some_and(|flow| flows.contains(&flow)));
                Ok(Receipt { operations: gone })
            }
            Transaction::Sysctl(..) => Ok(Receipt { operations: 1 }),
        }
    }

    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        let table_of = |family: &Family, name: &str| {
            let family = match family {
                Family::V4 => sim::Family::Ip,
                Family::V6 => sim::Family::Ip6,
            };
            self.host.nft().table(family, name)
        };
        match query {
            Query::Table(family, name) => {
                Ok(Facts::Table(table_of(family, name).map(|t| table(&t))))
            }
            Query::Elements(family, name, set) => {
                let elements = table_of(family, name).and_then(|t| t.set(set));
                let absent = || Error::new(ErrorKind::Absent, format!("set {set}"), "ENOENT");
                elements.map(|s| Facts::Elements(elements_of(&s))).ok_or_else(absent)
            }
            Query::Flows(family, protocol) => {
                let all = self.host.connections();
                let flows = all.iter().filter_map(flow);
                let wanted = flows.filter(|f| f.family == *family && f.protocol == *protocol);
                Ok(Facts::Flows(wanted.collect()))
            }
            Query::Sysctl(_) => Ok(Facts::Text("0".to_owned())),
            Query::Addresses => {
                let links = self.host.links().iter();
                let all: Vec<IpAddr> =
                    links.flat_map(|l| l.addresses.iter().map(|(a, _)| *a)).collect();
                Ok(Facts::Addresses(all))
            }
        }
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
}

fn flow(connection: &sim::Connection) -> Option<FlowFact> {
    let (original, reply) = (&connection.original, &connection.reply);
    Some(FlowFact {
        family: Family::of(original.src),
        protocol: Protocol::from_number(original.protocol)?,
        source: Socket { address: original.src, port: original.sport },
        destination: Socket { address: original.dst, port: original.dport },
        endpoint: Socket { address: reply.src, port: reply.sport },
    })
}

fn table(view: &TableView) -> TableFact {
    let chains = view.chains().into_iter().map(|chain| ChainFact {
        name: chain.name().to_owned(),
        hook: chain.base().map(|b| (b.hook as u32, b.priority)),
    });
    let mut table = TableFact {
        comment: view.comment().unwrap_or_default(),
        chains: chains.collect(),
        sets: view.sets().iter().map(set).collect(),
    };
    table.chains.sort_by(|a, b| a.name.cmp(&b.name));
    table.sets.sort_by(|a, b| a.name.cmp(&b.name));
    table
}

fn set(view: &SetView) -> SetFact {
    let definition = view.definition();
    // `NFT_DATA_VERDICT`: a verdict map has no value of its own.
    let verdicts = definition.data_type == 0xffff_ff00;
    SetFact {
        name: view.name().to_owned(),
        flags: definition.flags,
        key_len: definition.key_len,
        data_len: if verdicts { 0 } else { definition.data_len },
        elements: elements_of(view),
    }
}

fn elements_of(view: &SetView) -> Vec<ElementFact> {
    view.elements().iter().map(element).collect()
}

fn element(view: &ElementView) -> ElementFact {
    ElementFact {
        key: view.key().to_vec(),
        key_end: view.key_end().map(<[u8]>::to_vec),
        data: match view.data() {
            Data::None => Vec::new(),
            Data::Value(bytes) => bytes.to_vec(),
            Data::Verdict { chain, .. } => chain.unwrap_or_default().as_bytes().to_vec(),
        },
        comment: view.comment().unwrap_or_default(),
    }
}
