//! Linux's ipset over netfilter's netlink: one message after the other, up to the first that is refused.
//! Knows no Service and keeps nothing. Tests: the lab, against ipset(8).

use nix::errno::Errno;

use super::socket::{Netlink, errno_error};
use crate::kernel::{Error, ErrorKind, IpsetFact, IpsetOperation, IpsetType, Receipt};
use crate::netlink::ipset as wire;

/// Carries out operations in order; a receipt counts entries and sets.
pub(super) fn apply(
    netfilter: &mut Netlink,
    operations: &[IpsetOperation],
) -> Result<Receipt, Error> {
    let mut done = 0;
    for operation in operations {
        for message in wire::operation(operation, || netfilter.next_sequence()) {
            send(netfilter, (operation, &message))?;
        }
        done += match operation {
            IpsetOperation::Add(_, entries) | IpsetOperation::Delete(_, entries) => entries.len(),
            _ => 1,
        };
    }
    Ok(Receipt { operations: done })
}

fn send(
    netfilter: &mut Netlink,
    (operation, bytes): (&IpsetOperation, &[u8]),
) -> Result<(), Error> {
    let mut refused = None;
    netfilter.each(("ipset", bytes), |errno, message| {
        refused.get_or_insert_with(|| (errno, wire::refused_entry(message)));
    })?;
    let Some((errno, line)) = refused else { return Ok(()) };
    let entry = match (operation, line) {
        (IpsetOperation::Add(_, entries) | IpsetOperation::Delete(_, entries), Some(line)) => {
            entries.get(line).map(|entry| format!(" {entry}")).unwrap_or_default()
        }
        _ => String::new(),
    };
    Err(refusal(&format!("{operation}{entry}"), errno))
}

fn refusal(what: &str, errno: i32) -> Error {
    match wire::refusal(errno) {
        Some((kind, words)) => Error::new(kind, what, format!("{words} (ipset's error {errno})")),
        None => errno_error(what, Errno::from_raw(errno)),
    }
}

/// The sets whose names begin so, by name, with their entries. One that goes meanwhile is left out.
pub(super) fn sets(netfilter: &mut Netlink, prefix: &str) -> Result<Vec<IpsetFact>, Error> {
    let request = wire::list_names(netfilter.next_sequence());
    let mut names = netfilter.ask(("list ipsets", &request), |out, message| {
        out.extend(wire::name(message).filter(|name| name.starts_with(prefix)));
    })?;
    names.sort();
    let mut facts = Vec::with_capacity(names.len());
    for name in names {
        facts.extend(set(netfilter, &name)?);
    }
    Ok(facts)
}

fn set(netfilter: &mut Netlink, name: &str) -> Result<Option<IpsetFact>, Error> {
    let request = wire::list(name, netfilter.next_sequence());
    let what = format!("list ipset {name}");
    // One slot, which every message of the listing adds to.
    let listed = netfilter.ask((&what, &request), |out: &mut Vec<Option<IpsetFact>>, message| {
        if out.is_empty() {
            out.push(None);
        }
        wire::listed(&mut out[0], message);
    });
    match listed {
        Ok(facts) => Ok(facts.into_iter().flatten().next()),
        Err(e) if e.kind == ErrorKind::Absent => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether the types kube-proxy makes are there.
pub(super) fn probe(netfilter: &mut Netlink) -> Result<(), Error> {
    for kind in IpsetType::MADE {
        let request = wire::ask_type(&kind, netfilter.next_sequence());
        let what = format!("ask for the ipset type {kind}");
        let mut refused = None;
        netfilter.each((&what, &request), |errno, _| refused = Some(errno))?;
        if let Some(errno) = refused {
            return Err(refusal(&what, errno));
        }
    }
    Ok(())
}
