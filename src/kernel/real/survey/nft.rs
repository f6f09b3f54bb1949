//! All of nf_tables, every family and table: the kernel's own answers, kept as they are, in an
//! order in which they can be made again. Listing a set takes time with the square of its size:
//! 1.2 s for 100,000 elements. So would all rules at once (`__nf_tables_dump_rules` walks past those it has
//! told, 30 s for 435,000): they are listed chain by chain. Tests: `netlab`.

use super::{Survey, lack, or_lack};
use crate::kernel::Error;
use crate::kernel::real::nftables::request;
use crate::kernel::real::socket::Netlink;
use crate::kernel::survey::{Flavour, NftObject};
use crate::netlink::nft::message;
use crate::netlink::read::{Attributes, Message, text, u32_be};
use crate::netlink::{ACK, DUMP, SUBSYS_NFTABLES, nfproto};

/// How often it is read anew because it changed meanwhile.
const TRIES: usize = 5;
const GET_GENERATION: u16 = 16;
const CHAINS: Kinds<'_> = ("chains", message::GET_CHAIN, message::NEW_CHAIN);

pub(super) fn read(
    netfilter: &mut Netlink,
    found: &mut Survey,
    progress: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    for _ in 0..TRIES {
        let before = generation(netfilter);
        let objects = objects(netfilter, found, progress)?;
        found.nft = objects;
        if before.is_some() && before == generation(netfilter) {
            return Ok(());
        }
    }
    lack(found, "one moment of nf_tables", "it changed again and again while it was listed");
    Ok(())
}

/// The number that moves with each change; none where it cannot be asked.
fn generation(netfilter: &mut Netlink) -> Option<u32> {
    let request = request(netfilter, (GET_GENERATION, ACK), 0, &[]);
    let answers = netfilter.ask(("ask for nf_tables' generation", &request), |out, message| {
        out.extend(message.attributes().get(1).and_then(u32_be));
    });
    answers.ok()?.first().copied()
}

fn objects(
    netfilter: &mut Netlink,
    found: &mut Survey,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<NftObject>, Error> {
    let mut all = Vec::new();
    let kinds = [
        ("tables", message::GET_TABLE, message::NEW_TABLE),
        CHAINS,
        ("sets", message::GET_SET, message::NEW_SET),
    ];
    for (what, get, new) in kinds {
        let listed = list(netfilter, (what, get, new), (0, &[]));
        all.extend(or_lack(found, what, listed)?);
    }
    let sets: Vec<(u8, String, String)> =
        all.iter().filter(|object| object.kind == message::NEW_SET).filter_map(names).collect();
    for (family, table, set) in sets {
        progress(&format!("nf_tables, {set} of table {table}"));
        let what = format!("elements of set {set}, table {table}");
        let of = (what.as_str(), message::GET_ELEMENT, message::NEW_ELEMENT);
        let listed = list(netfilter, of, (family, &[(1, &table), (2, &set)]));
        all.extend(or_lack(found, &what, listed)?);
    }
    let printed = |of: &(u8, String, String)| {
        let mut texts = found.iptables.iter().filter(|text| text.flavour == Flavour::Nft);
        texts.any(|text| nfproto(text.family) == of.0 && text.table == of.1)
    };
    let chains = all.iter().filter(|object| object.kind == message::NEW_CHAIN).filter_map(names);
    // What iptables-nft has printed is looked at as it has printed it.
    let chains: Vec<(u8, String, String)> = chains.filter(|of| !printed(of)).collect();
    progress(&format!("nf_tables, rules of {} chains", chains.len()));
    for (family, table, chain) in chains {
        let of = ("rules", message::GET_RULE, message::NEW_RULE);
        let listed = list(netfilter, of, (family, &[(1, &table), (2, &chain)]));
        all.extend(or_lack(found, "rules of nf_tables", listed)?);
    }
    Ok(all)
}

/// All chains, of every table.
pub(super) fn chains(netfilter: &mut Netlink, found: &mut Survey) -> Result<Vec<NftObject>, Error> {
    let listed = list(netfilter, CHAINS, (0, &[]));
    or_lack(found, "chains", listed)
}

/// Family, table and name of a set or chain.
fn names(object: &NftObject) -> Option<(u8, String, String)> {
    let attributes = Attributes::new(&object.attributes);
    // NFTA_CHAIN_HANDLE stands before a chain's name.
    let name = if object.kind == message::NEW_CHAIN { 3 } else { 2 };
    Some((object.family, attributes.get(1).map(text)?, attributes.get(name).map(text)?))
}

type Kinds<'a> = (&'a str, u16, u16);
type Of<'a> = (u8, &'a [(u16, &'a str)]);

fn list(
    netfilter: &mut Netlink,
    (what, get, new): Kinds<'_>,
    (family, names): Of<'_>,
) -> Result<Vec<NftObject>, Error> {
    let request = request(netfilter, (get, DUMP), family, names);
    let what = format!("list {what} of nf_tables");
    netfilter.ask((&what, &request), |out, message: &Message<'_>| {
        if message.kind == SUBSYS_NFTABLES | new
            && let Some((head, attributes)) = message.body.split_at_checked(4)
        {
            let attributes = attributes.to_vec();
            out.push(NftObject { kind: new, family: head[0], attributes });
        }
    })
}
