//! Asks the kernel what it can do, feature by feature, by doing it: each probe is a batch that
//! makes a table with the feature and removes it again, in one transaction, so that nothing is
//! ever seen of it. Tests: `netlab` (with and without rights).

use super::socket::Netfilter;
use crate::kernel::{Capabilities, Capability, Error, ErrorKind};
use crate::model::Family;
use crate::netlink::expr::Rule;
use crate::netlink::nft::{Batch, ChainKind, Hook};
use crate::netlink::set::{Field, SetSpec, Value};

/// Made and removed in one transaction; no other program ever sees it.
const TABLE: &str = "kube-proxy-probe";

pub(super) fn capabilities(netfilter: &mut Netfilter) -> Capabilities {
    let mut found = Capabilities { lacks: Vec::new(), largest_batch: netfilter.largest };
    let lack = |found: &mut Capabilities, what, error: Error| {
        found.lacks.push((what, error.source));
    };
    if let Err(error) = attempt(netfilter, Family::V4, |_| {}) {
        let what = match error.kind {
            ErrorKind::Denied => Capability::NetAdmin,
            _ => Capability::Nftables,
        };
        lack(&mut found, what, error);
        return found;
    }
    if let Err(error) = attempt(netfilter, Family::V6, |_| {}) {
        lack(&mut found, Capability::Ipv6, error);
    } else if !std::path::Path::new("/proc/sys/net/ipv6").exists() {
        found.lacks.push((Capability::Ipv6, "no /proc/sys/net/ipv6".to_owned()));
    }
    for (what, build) in PROBES {
        if let Err(error) = attempt(netfilter, Family::V4, build) {
            lack(&mut found, *what, error);
        }
    }
    if let Err(error) = super::conntrack::probe(netfilter) {
        lack(&mut found, Capability::Conntrack, error);
    }
    found
}

type Build = fn(&mut Batch<'_>);

const PROBES: &[(Capability, Build)] = &[
    (Capability::NftablesNat, |batch| {
        let hook = |number, priority| Some(Hook { kind: ChainKind::Nat, number, priority });
        batch.add_chain("pre", hook(0, -100));
        batch.add_chain("post", hook(4, 100));
        batch.add_rule(
            "pre",
            &Rule::new().key(Family::V4, &[Field::Address, Field::Port]).dnat(Family::V4),
        );
        batch.add_rule("post", &Rule::new().masquerade());
    }),
    (Capability::NftablesConcatenation, |batch| {
        const KEY: &[Field] = &[Field::Address, Field::Protocol, Field::Port];
        let interval = SetSpec { interval: true, ..SetSpec::plain("ranges", KEY, Value::Nothing) };
        batch.add_set(&interval);
        batch.add_set(&SetSpec::plain("map", KEY, Value::Fields(&[Field::Address, Field::Port])));
    }),
    (Capability::NftablesNumgen, |batch| {
        batch.add_chain("pick", None);
        batch.add_rule("pick", &Rule::new().index(2, 0));
    }),
    (Capability::NftablesFib, |batch| {
        batch.add_chain("pre", Some(Hook { kind: ChainKind::Filter, number: 0, priority: 0 }));
        batch.add_rule("pre", &Rule::new().address_is_local(Field::Address));
    }),
];

fn attempt(
    netfilter: &mut Netfilter,
    family: Family,
    build: impl FnOnce(&mut Batch<'_>),
) -> Result<(), Error> {
    let mut batch = Batch::new(family, TABLE);
    batch.add_table("made and removed in one transaction");
    build(&mut batch);
    batch.delete_table();
    netfilter.batch(&batch.finish().bytes)
}
