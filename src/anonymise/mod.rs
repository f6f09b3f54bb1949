//! A dump in which other addresses stand for those of the node and its cluster: a bug report that
//! does not tell where it comes from, and still answers as the node did.
//!
//! ```text
//! Dump ─Collect─▶ Tree ─chance─▶ Others ─Replace─▶ Dump
//! ```
//!
//! The same walk is taken twice. Names of Services, pods and nodes stay. Tests: `tests.rs`, and `netlab` (`dump-anonymised-answers-as-before`).

mod chains;
mod rules;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod tree;
mod words;

use std::net::IpAddr;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::kernel::survey::{Flavour, Survey};
use crate::trace::dump::Dump;
use chains::Chains;
use tree::{Others, Tree};

/// A dump with other addresses.
#[derive(Clone, Debug, PartialEq)]
pub struct Anonymous {
    /// The dump.
    pub dump: Dump,
    /// How many addresses of the node it still names: where addresses lie too close, order and
    /// prefixes leave them no other place.
    pub kept: usize,
}

/// What is done with an address on the walk.
trait Pass {
    /// An address, with the prefix length of its network if that was told.
    fn address(&mut self, address: IpAddr, prefix: Option<u8>) -> IpAddr;
    /// Something in a name that may be one, and is if it is an address elsewhere.
    fn hint(&mut self, address: IpAddr) -> IpAddr;
    /// The name of a chain of an endpoint.
    fn chain(&mut self, name: &str) -> String;
}

/// Notes addresses.
struct Collect(Tree);

impl Pass for Collect {
    fn address(&mut self, address: IpAddr, prefix: Option<u8>) -> IpAddr {
        self.0.note(address, prefix);
        address
    }

    fn hint(&mut self, address: IpAddr) -> IpAddr {
        address
    }

    fn chain(&mut self, name: &str) -> String {
        name.to_owned()
    }
}

/// Puts others in their places.
struct Replace {
    others: Others,
    chains: Chains,
}

impl Pass for Replace {
    fn address(&mut self, address: IpAddr, _: Option<u8>) -> IpAddr {
        self.others.of(address)
    }

    fn hint(&mut self, address: IpAddr) -> IpAddr {
        self.others.of(address)
    }

    fn chain(&mut self, name: &str) -> String {
        self.chains.of(name)
    }
}

/// A dump with other addresses; which, a number decides that should be drawn anew each time.
pub fn anonymise(dump: &Dump, seed: u64) -> Result<Anonymous, serde_json::Error> {
    let mut replace = replace(dump, seed)?;
    Ok(Anonymous { dump: walk(dump, &mut replace)?, kept: replace.others.kept })
}

/// What is put where.
fn replace(dump: &Dump, seed: u64) -> Result<Replace, serde_json::Error> {
    let mut collect = Collect(Tree::new());
    walk(dump, &mut collect)?;
    let others = collect.0.others(seed);
    let chains = Chains::new(&dump.events, &others, seed);
    Ok(Replace { others, chains })
}

fn walk(dump: &Dump, pass: &mut dyn Pass) -> Result<Dump, serde_json::Error> {
    Ok(Dump {
        survey: survey(&dump.survey, pass)?,
        options: through(&dump.options, pass)?,
        events: through_all(&dump.events, pass)?,
        pods: through_all(&dump.pods, pass)?,
    })
}

fn survey(survey: &Survey, pass: &mut dyn Pass) -> Result<Survey, serde_json::Error> {
    let addresses = survey.links.iter().flat_map(|link| &link.addresses);
    for (address, prefix) in addresses.chain(survey.routes.iter().map(|route| &route.network)) {
        pass.address(*address, Some(*prefix));
    }
    // Tables of iptables-nft are told twice; their texts are what counts.
    let texts: Vec<(u8, &str)> = survey
        .iptables
        .iter()
        .filter(|text| text.flavour == Flavour::Nft)
        .map(|text| (crate::netlink::nfproto(text.family), text.table.as_str()))
        .collect();
    let told = |object: &crate::kernel::survey::NftObject| {
        let table = crate::netlink::read::Attributes::new(&object.attributes).get(1);
        let table = table.map(crate::netlink::read::text).unwrap_or_default();
        texts.contains(&(object.family, &*table))
    };
    let sets = rules::Sets::of(&survey.nft);
    Ok(Survey {
        host: words::rename(&survey.host, pass),
        kernel: survey.kernel.clone(),
        links: through_all(&survey.links, pass)?,
        routes: through_all(&survey.routes, pass)?,
        sysctls: survey.sysctls.clone(),
        nft: survey
            .nft
            .iter()
            .filter(|object| !told(object))
            .map(|object| sets.rename(object, pass))
            .collect(),
        iptables: through_all(&survey.iptables, pass)?,
        ipsets: words::rename(&survey.ipsets, pass),
        virtual_servers: through_all(&survey.virtual_servers, pass)?,
        flows: through_all(&survey.flows, pass)?,
        lacks: through_all(&survey.lacks, pass)?,
    })
}

fn through_all<T: Serialize + DeserializeOwned>(
    list: &[T],
    pass: &mut dyn Pass,
) -> Result<Vec<T>, serde_json::Error> {
    list.iter().map(|one| through(one, pass)).collect()
}

/// A value whose texts go through the pass.
fn through<T: Serialize + DeserializeOwned>(
    value: &T,
    pass: &mut dyn Pass,
) -> Result<T, serde_json::Error> {
    let mut value = serde_json::to_value(value)?;
    words::rename_json(&mut value, pass);
    serde_json::from_value(value)
}
