//! Asks the kernel what it can do, feature by feature, by doing it: each probe is a batch that
//! makes a table with the feature and removes it again, in one transaction, so that nothing is
//! ever seen of it. Tests: `netlab` (with and without rights).

use super::socket::Netlink;
use crate::kernel::{Capabilities, Capability, Error, ErrorKind};
use crate::model::Family;
use crate::netlink::expr::Rule;
use crate::netlink::nft::{Batch, ChainKind, Hook};
use crate::netlink::set::{Field, SetSpec, Value};

/// Made and removed in one transaction; no other program ever sees it.
const TABLE: &str = "kube-proxy-probe";

pub(super) fn capabilities(netfilter: &mut Netlink) -> Capabilities {
    let mut found = Capabilities { largest_batch: netfilter.largest, ..Capabilities::default() };
    let lack = |found: &mut Capabilities, what, error: Error| {
        found.lacks.push((what, error.source));
    };
    if let Err(error) = attempt(netfilter, Family::V4, |_, _| {}) {
        let what = match error.kind {
            ErrorKind::Denied => Capability::NetAdmin,
            _ => Capability::Nftables,
        };
        lack(&mut found, what, error);
        return found;
    }
    if !std::path::Path::new("/proc/sys/net/ipv6").exists() {
        found.lacks.push((Capability::Ipv6, "no /proc/sys/net/ipv6".to_owned()));
    } else if let Some((what, said)) = lacks(netfilter, Family::V6).into_iter().next() {
        // What IPv4 has too may still be lacking here: each family has its own modules.
        found.lacks.push((Capability::Ipv6, format!("{what}: {said}")));
    }
    found.lacks.extend(lacks(netfilter, Family::V4));
    if let Err(error) = super::conntrack::probe(netfilter) {
        lack(&mut found, Capability::Conntrack, error);
    }
    found
}

/// What a family lacks of what the rules need.
fn lacks(netfilter: &mut Netlink, family: Family) -> Vec<(Capability, String)> {
    let said = |(what, build): &(Capability, Build)| {
        attempt(netfilter, family, build).err().map(|error| (*what, error.source))
    };
    PROBES.iter().filter_map(said).collect()
}

type Build = fn(&mut Batch<'_>, Family);

const PROBES: &[(Capability, Build)] = &[
    (Capability::NftablesNat, |batch, family| {
        let hook = |number, priority| Some(Hook { kind: ChainKind::Nat, number, priority });
        batch.add_chain("pre", hook(0, -100));
        batch.add_chain("post", hook(4, 100));
        batch
            .add_rule("pre", &Rule::new().key(family, &[Field::Address, Field::Port]).dnat(family));
        batch.add_rule("post", &Rule::new().masquerade());
    }),
    (Capability::NftablesConcatenation, |batch, _| {
        const KEY: &[Field] = &[Field::Address, Field::Protocol, Field::Port];
        let interval = SetSpec { interval: true, ..SetSpec::plain("ranges", KEY, Value::Nothing) };
        batch.add_set(&interval);
        batch.add_set(&SetSpec::plain("map", KEY, Value::Fields(&[Field::Address, Field::Port])));
    }),
    (Capability::NftablesNumgen, |batch, _| {
        batch.add_chain("pick", None);
        batch.add_rule("pick", &Rule::new().index(2, 0));
    }),
    (Capability::NftablesFib, |batch, _| {
        batch.add_chain("pre", Some(Hook { kind: ChainKind::Filter, number: 0, priority: 0 }));
        batch.add_rule("pre", &Rule::new().address_is_local(Field::Address));
    }),
    (Capability::NftablesCt, |batch, family| {
        batch.add_chain("pre", Some(Hook { kind: ChainKind::Filter, number: 0, priority: 0 }));
        let original = [Field::OriginalAddress, Field::OriginalPort];
        batch.add_rule("pre", &Rule::new().state_new().status_dnat().key(family, &original));
    }),
    (Capability::NftablesReject, |batch, family| {
        batch.add_chain("in", Some(Hook { kind: ChainKind::Filter, number: 1, priority: 0 }));
        batch.add_rule("in", &Rule::new().reject(family));
    }),
];

fn attempt(
    netfilter: &mut Netlink,
    family: Family,
    build: impl FnOnce(&mut Batch<'_>, Family),
) -> Result<(), Error> {
    let mut batch = Batch::new(family, TABLE);
    batch.add_table("made and removed in one transaction");
    build(&mut batch, family);
    batch.delete_table();
    netfilter.batch(&batch.finish().bytes)
}
