//! Lists a table of nf_tables: chains, sets, elements.
//! Reads dumps into facts and judges nothing. Tests: `netlab` (what was written is read back).

use std::collections::BTreeMap;

use super::socket::Netlink;
use crate::kernel::{
    ChainFact, Depth, ElementFact, Error, ErrorKind, RuleFact, SetFact, TableFact,
};
use crate::model::Family;
use crate::netlink::nft::message;
use crate::netlink::read::{Attributes, Message, text, u32_be, u64_be};
use crate::netlink::write::{Head, Writer};
use crate::netlink::{ACK, DUMP, REQUEST, SUBSYS_NFTABLES, nfproto};

/// `NFT_SET_ANONYMOUS`.
const ANONYMOUS: u32 = 0x1;

/// The table of this name, if it is there.
pub(super) fn table(
    netfilter: &mut Netlink,
    (family, name): (Family, &str),
    depth: Depth,
) -> Result<Option<TableFact>, Error> {
    let what = format!("list table {family} {name}");
    let request = request(netfilter, (message::GET_TABLE, ACK), nfproto(family), &[(1, name)]);
    let comments = netfilter.ask((&what, &request), |out, m| {
        if belongs(m, message::NEW_TABLE) {
            out.push(m.attributes().get(6).map(comment).unwrap_or_default());
        }
    });
    let comment = match comments {
        Ok(comments) => comments.into_iter().next().unwrap_or_default(),
        Err(e) if e.kind == ErrorKind::Absent => return Ok(None),
        Err(e) => return Err(e),
    };
    if depth == Depth::Head {
        return Ok(Some(TableFact { comment, ..TableFact::default() }));
    }
    let chains = chains(netfilter, family, name)?;
    if depth == Depth::Chains {
        return Ok(Some(TableFact { comment, chains, sets: Vec::new() }));
    }
    let mut sets = sets(netfilter, family, name)?;
    for set in &mut sets {
        set.elements = elements(netfilter, family, (name, &set.name))?;
    }
    Ok(Some(TableFact { comment, chains, sets }))
}

fn chains(netfilter: &mut Netlink, family: Family, table: &str) -> Result<Vec<ChainFact>, Error> {
    let request = request(netfilter, (message::GET_CHAIN, DUMP), nfproto(family), &[]);
    let mut chains = netfilter.ask(("list chains", &request), |out, m| {
        let attributes = m.attributes();
        if belongs(m, message::NEW_CHAIN) && attributes.get(1).map(text).as_deref() == Some(table) {
            out.push(chain(&attributes));
        }
    })?;
    chains.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(chains)
}

/// The rules of a table or of one of its chains; none if it is not there.
pub(super) fn rules(
    netfilter: &mut Netlink,
    family: Family,
    (table, chain): (&str, Option<&str>),
) -> Result<Vec<RuleFact>, Error> {
    let names: Vec<(u16, &str)> =
        std::iter::once((1, table)).chain(chain.map(|c| (2, c))).collect();
    let request = request(netfilter, (message::GET_RULE, DUMP), nfproto(family), &names);
    let what = format!("list rules of table {family} {table}");
    netfilter.ask((&what, &request), |out, m| {
        if belongs(m, message::NEW_RULE) {
            out.extend(rule(&m.attributes()));
        }
    })
}

fn rule(attributes: &Attributes<'_>) -> Option<RuleFact> {
    Some(RuleFact {
        chain: attributes.get(2).map(text)?,
        handle: attributes.get(3).and_then(u64_be)?,
        expressions: attributes.get(4).unwrap_or_default().into(),
    })
}

fn chain(attributes: &Attributes<'_>) -> ChainFact {
    let hook = attributes.get(4).and_then(|hook| {
        let hook = Attributes::new(hook);
        Some((u32_be(hook.get(1)?)?, u32_be(hook.get(2)?)? as i32))
    });
    ChainFact { name: attributes.get(3).map(text).unwrap_or_default(), hook }
}

fn sets(netfilter: &mut Netlink, family: Family, table: &str) -> Result<Vec<SetFact>, Error> {
    let request = request(netfilter, (message::GET_SET, DUMP), nfproto(family), &[(1, table)]);
    let mut sets = netfilter.ask(("list sets", &request), |out, m| {
        let attributes = m.attributes();
        let number = |n| attributes.get(n).and_then(u32_be).unwrap_or(0);
        let ours = attributes.get(1).map(text).as_deref() == Some(table);
        if belongs(m, message::NEW_SET) && ours && number(3) & ANONYMOUS == 0 {
            let verdicts = number(6) == 0xffff_ff00;
            out.push(SetFact {
                name: attributes.get(2).map(text).unwrap_or_default(),
                flags: number(3),
                key_len: number(5),
                data_len: if verdicts { 0 } else { number(7) },
                elements: Vec::new(),
            });
        }
    })?;
    sets.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(sets)
}

/// The elements of one set.
pub(super) fn elements(
    netfilter: &mut Netlink,
    family: Family,
    (table, set): (&str, &str),
) -> Result<Vec<ElementFact>, Error> {
    let what = format!("list set {family} {table} {set}");
    let names = [(1, table), (2, set)];
    let request = request(netfilter, (message::GET_ELEMENT, DUMP), nfproto(family), &names);
    let listed = netfilter.ask((&what, &request), |out, m| {
        if belongs(m, message::NEW_ELEMENT) {
            let list = m.attributes().get(3).unwrap_or(&[]);
            out.extend(Attributes::new(list).filter_map(|(_, e)| element(e)));
        }
    })?;
    // A set that is resized while it is listed may give an element twice.
    let unique: BTreeMap<(Vec<u8>, Option<Vec<u8>>), ElementFact> =
        listed.into_iter().map(|e| ((e.key.clone(), e.key_end.clone()), e)).collect();
    Ok(unique.into_values().collect())
}

fn element(bytes: &[u8]) -> Option<ElementFact> {
    let attributes = Attributes::new(bytes);
    let value = |number| Attributes::new(attributes.get(number)?).get(1);
    let time = |number| attributes.get(number).and_then(u64_be);
    Some(ElementFact {
        key: value(1)?.to_vec(),
        key_end: value(10).map(<[u8]>::to_vec),
        data: attributes.get(2).map(data).unwrap_or_default(),
        comment: attributes.get(6).map(comment).unwrap_or_default(),
        expires: time(5).map(|left| (time(4).unwrap_or(left), left)),
    })
}

/// A map's value; of a verdict the chain it leads to.
fn data(bytes: &[u8]) -> Vec<u8> {
    let data = Attributes::new(bytes);
    if let Some(value) = data.get(1) {
        return value.to_vec();
    }
    let chain = data.get(2).and_then(|verdict| Attributes::new(verdict).get(2));
    chain.map(|name| text(name).into_bytes()).unwrap_or_default()
}

/// The comment in user data: the TLV of type 0.
fn comment(bytes: &[u8]) -> String {
    let mut rest = bytes;
    while let [kind, len, tail @ ..] = rest {
        let len = usize::from(*len);
        if *kind == 0 {
            return tail.get(..len).map(text).unwrap_or_default();
        }
        rest = tail.get(len..).unwrap_or(&[]);
    }
    String::new()
}

fn belongs(message: &Message<'_>, number: u16) -> bool {
    message.kind == SUBSYS_NFTABLES | number
}

/// A request about what has these names; the family is nf_tables' number.
pub(super) fn request(
    netfilter: &mut Netlink,
    (number, flags): (u16, u16),
    family: u8,
    names: &[(u16, &str)],
) -> Vec<u8> {
    let mut w = Writer::new();
    let open = w.open_message(Head {
        kind: SUBSYS_NFTABLES | number,
        flags: REQUEST | flags,
        sequence: netfilter.next_sequence(),
        family,
        resource: 0,
    });
    names.iter().for_each(|(attribute, name)| w.text(*attribute, name));
    w.close_message(open);
    w.into_bytes()
}
