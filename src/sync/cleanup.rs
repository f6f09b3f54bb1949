//! Removes what this proxy ever made, mode by mode, in both families. Nothing else is touched.
//! It must never know a Service. Tests: `netlab`, and below on the simulated kernel.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::Report;
use super::{iptables, ipvs};
use crate::backend::Options;
use crate::backend::iptables::dump::Dump;
use crate::backend::iptables::pen::Text;
use crate::backend::iptables::removal;
use crate::backend::ipvs::adopt::Found;
use crate::backend::ipvs::rules::Rules;
use crate::backend::nftables;
use crate::backend::nftables::layout::{STANDBY, TABLE};
use crate::backend::options::IpvsOptions;
use crate::backend::userspace::GUARD;
use crate::backend::xtables::chain::Table;
use crate::kernel::{
    Capability, Depth, Error, ErrorKind, Facts, IpsetOperation, IpvsOperation, Kernel,
    LinkOperation, Query, Transaction, XtablesText, is_relay_address,
};
use crate::model::{Family, Mode, Steering};

/// Removes what every mode made, but for virtual servers in the `excluded` CIDRs; gives how many
/// tables, chains and rules there were.
pub fn cleanup(kernel: &mut dyn Kernel, excluded: &[IpNet]) -> Result<usize, Error> {
    let of = |sum, mode| Ok(sum + remove(kernel, mode, (None, excluded))?);
    Mode::ALL.into_iter().try_fold(0, of)
}

/// Removes what other modes than this one made: for when this one is complete.
pub fn leave_only(
    kernel: &mut dyn Kernel,
    (mode, steering): (Mode, Steering),
    excluded: &[IpNet],
) -> Result<usize, Error> {
    let stays = Stays { mode, rules: mode.rules(steering) };
    let of = |sum, mode| Ok(sum + remove(kernel, mode, (Some(stays), excluded))?);
    Mode::ALL.into_iter().filter(|mode| *mode != stays.mode).try_fold(0, of)
}

/// The mode that stays, and the one whose kind of rules it has.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stays {
    mode: Mode,
    rules: Mode,
}

/// Removes what a mode made and the one that stays does not have as well.
fn remove(
    kernel: &mut dyn Kernel,
    mode: Mode,
    (stays, excluded): (Option<Stays>, &[IpNet]),
) -> Result<usize, Error> {
    match mode {
        // userspace mode leads packets by the same rules.
        Mode::Nftables | Mode::Iptables if stays.is_some_and(|stays| stays.rules == mode) => Ok(0),
        Mode::Nftables => [TABLE, STANDBY, GUARD]
            .into_iter()
            .try_fold(0, |sum, name| Ok(sum + tables(kernel, name)?)),
        Mode::Userspace => userspace(kernel),
        Mode::Iptables => xtables(kernel, |family, dump, pen| {
            let kept = match stays {
                Some(Stays { mode: Mode::Ipvs, .. }) => Rules::chains(family),
                _ => Kept::new(),
            };
            removal::remove(dump, &kept, pen);
        }),
        Mode::Ipvs => {
            let of = |sum, family| Ok(sum + ipvs_mode(kernel, family, (stays, excluded))?);
            Family::ALL.into_iter().try_fold(0, of)
        }
    }
}

/// Removes tables of nf_tables, in both families.
fn tables(kernel: &mut dyn Kernel, name: &str) -> Result<usize, Error> {
    let mut removed = 0;
    if !kernel.capabilities().has(Capability::Nftables) {
        return Ok(removed);
    }
    for family in Family::ALL {
        if let Facts::Table(Some(_)) =
            kernel.read(&Query::Table(family, name.to_owned(), Depth::Head))?
        {
            kernel.apply(&Transaction::Nft(nftables::removal(family, name)))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Removes what userspace mode has besides rules like another mode's: its guard, wherever that is,
/// and its addresses.
fn userspace(kernel: &mut dyn Kernel) -> Result<usize, Error> {
    let mut removed = tables(kernel, GUARD)?;
    let mut there = match kernel.read(&Query::Addresses)? {
        Facts::Addresses(there) => there,
        other => super::unreachable_answer("addresses", &other)?,
    };
    there.retain(|address| is_relay_address(*address));
    // To list a large iptables takes seconds, and without the address its guard guards nothing.
    if !there.is_empty() {
        removed += xtables(kernel, |_, dump, pen| removal::remove_guard(dump, pen))?;
    }
    for address in there {
        let delete = LinkOperation::DeleteAddress("lo".to_owned(), address);
        kernel.apply(&Transaction::Links(vec![delete]))?;
        removed += 1;
    }
    Ok(removed)
}

/// Chains that the mode that stays has as well.
type Kept = BTreeSet<(Table, String)>;

/// Writes removals into iptables' tables, if this kernel has any.
fn xtables(
    kernel: &mut dyn Kernel,
    mut write: impl FnMut(Family, &Dump<'_>, &mut Text),
) -> Result<usize, Error> {
    let mut report = Report::default();
    let able = kernel.capabilities().xtables.is_some();
    for family in Family::ALL.into_iter().filter(|_| able) {
        let text = match iptables::read(kernel, family) {
            Ok(text) => text,
            // A host without IPv6 has nothing of ours there.
            Err(_) if family == Family::V6 => continue,
            Err(error) => return Err(error),
        };
        let mut pen = Text::new(family, iptables::blocks(kernel));
        write(family, &Dump::read(&text), &mut pen);
        iptables::apply(kernel, pen, &mut report)?;
    }
    Ok(report.operations)
}

/// Removes what ipvs mode, ours or the reference's, made in one family: virtual servers that are
/// known to be its own (`backend::ipvs::adopt`), addresses, rules, sets; the device with the last
/// address. Where the kernel has no IPVS or no tables of iptables there is nothing of it.
fn ipvs_mode(
    kernel: &mut dyn Kernel,
    family: Family,
    (stays, excluded): (Option<Stays>, &[IpNet]),
) -> Result<usize, Error> {
    let kept = match stays {
        Some(Stays { rules: Mode::Iptables, .. }) => removal::chains(),
        _ => Kept::new(),
    };
    let Some(found) = found(kernel, family)? else { return Ok(0) };
    let ipvs = IpvsOptions { excluded: excluded.to_vec(), ..IpvsOptions::default() };
    let ours = found.ours(family, &Options { ipvs, ..Options::default() });
    let servers: Vec<IpvsOperation> = ours.into_iter().map(IpvsOperation::DeleteServer).collect();
    let rules = match ipvs::dump(kernel, family) {
        Err(error) if !matters(&error) => String::new(),
        text => Rules::removal(&text?, family, &kept).text,
    };
    let links: Vec<LinkOperation> = found.unbinding(family);
    let sets = found.removal(family);
    let removed = servers.len() + links.len() + usize::from(!rules.is_empty());
    let text = XtablesText { family, text: rules, operations: 1 };
    let steps = [
        (servers.is_empty(), Transaction::Ipvs(servers)),
        (links.is_empty(), Transaction::Links(links)),
        (text.text.is_empty(), Transaction::Xtables(text)),
    ];
    for (_, transaction) in steps.into_iter().filter(|(nothing, _)| !nothing) {
        kernel.apply(&transaction)?;
    }
    Ok(removed + destroy(kernel, sets)?)
}

/// Destroys sets one by one: one that is in use stays, since the rules that ask it may be in the
/// tables of iptables' other flavour, whose turn comes. [`sets_left`] finds it.
fn destroy(kernel: &mut dyn Kernel, sets: Vec<IpsetOperation>) -> Result<usize, Error> {
    let mut destroyed = 0;
    for set in sets {
        match kernel.apply(&Transaction::Ipset(vec![set])) {
            Ok(_) => destroyed += 1,
            Err(error) if error.kind == ErrorKind::Busy => {}
            Err(error) => return Err(error),
        }
    }
    Ok(destroyed)
}

/// The names of our sets that are still there: after everything of ours was removed, those that
/// rules of somebody else ask.
pub fn sets_left(kernel: &mut dyn Kernel) -> Result<Vec<String>, Error> {
    let mut left = Vec::new();
    for family in Family::ALL {
        let found = found(kernel, family)?;
        left.extend(found.iter().flat_map(|found| found.own_set_names(family)));
    }
    Ok(left)
}

/// What there is of ipvs mode in one family; `None` where the kernel has no IPVS.
fn found(kernel: &mut dyn Kernel, family: Family) -> Result<Option<Found>, Error> {
    match ipvs::list(kernel, family) {
        Err(error) if !matters(&error) => Ok(None),
        found => found.map(Some),
    }
}

/// Whether an error is more than the lack of the facility.
fn matters(error: &Error) -> bool {
    !matches!(error.kind, ErrorKind::Unsupported | ErrorKind::Absent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::simulated::Simulated;
    use crate::kernel::{Capabilities, XtablesFlavour, XtablesText};
    use crate::netlink::nft::Batch;

    #[test]
    fn only_our_tables_go() {
        let mut kernel = Simulated::new(sim::Host::new(1));
        for table in [TABLE, STANDBY, "somebody-elses"] {
            let mut batch = Batch::new(Family::V4, table);
            batch.add_table("a table");
            kernel.apply(&Transaction::Nft(batch.finish())).expect("the simulator takes tables");
        }
        assert_eq!(leave_only(&mut kernel, (Mode::Nftables, Steering::Nftables), &[]), Ok(0));
        assert_eq!(cleanup(&mut kernel, &[]), Ok(2));
        assert_eq!(cleanup(&mut kernel, &[]), Ok(0));
        let left: Vec<_> =
            kernel.host().nft().tables().iter().map(|t| t.name().to_owned()).collect();
        assert_eq!(left, ["somebody-elses"]);
    }

    const FOREIGN: &str = "*filter\n:KUBE-FIREWALL - [0:0]\n:theirs - [0:0]\n\
        -A INPUT -j KUBE-FIREWALL\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n\
        -A theirs -j DROP\nCOMMIT\n*nat\n:CNI-X - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n\
        -A CNI-X -j KUBE-MARK-MASQ\n-A POSTROUTING -j CNI-X\nCOMMIT\n\
        *mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n";

    const OURS: &str = "*filter\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n\
        -I INPUT -j KUBE-NODEPORTS\n-I OUTPUT -j KUBE-SERVICES\nCOMMIT\n\
        *nat\n:KUBE-SVC-ABC - [0:0]\n:KUBE-SEP-ABC - [0:0]\n:KUBE-SERVICES - [0:0]\n\
        :KUBE-MARK-MASQ - [0:0]\n-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
        -I PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
        -A KUBE-SERVICES -j KUBE-SVC-ABC\n-A KUBE-SVC-ABC -j KUBE-SEP-ABC\n\
        -A KUBE-SEP-ABC -j KUBE-MARK-MASQ\nCOMMIT\n*mangle\n:KUBE-PROXY-CANARY - [0:0]\nCOMMIT\n";

    fn restored(kernel: &mut Simulated, text: &str) {
        let text = XtablesText { family: Family::V4, text: text.to_owned(), operations: 0 };
        kernel.apply(&Transaction::Xtables(text)).expect("the simulator takes the text");
    }

    #[test]
    fn only_our_chains_go() {
        let xtables = Some(XtablesFlavour::Nft);
        let able = Capabilities { xtables, ..Capabilities::default() };
        let mut kernel = Simulated::new(sim::Host::new(1)).with_capabilities(able);
        restored(&mut kernel, FOREIGN);
        let before = iptables::read(&mut kernel, Family::V4);
        restored(&mut kernel, OURS);
        assert_eq!(leave_only(&mut kernel, (Mode::Iptables, Steering::Nftables), &[]), Ok(0));
        assert!(cleanup(&mut kernel, &[]).is_ok_and(|removed| removed > 10));
        assert_eq!(iptables::read(&mut kernel, Family::V4), before);
    }
}
