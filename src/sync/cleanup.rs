//! Removes everything this proxy ever made: its tables, and what ipvs mode made, in both families.
//! Nothing else is touched.
//! Tests: `netlab`, and below on the simulated kernel.

use super::ipvs;
use crate::backend::Options;
use crate::backend::ipvs::rules::Rules;
use crate::backend::nftables::layout::TABLE;
use crate::kernel::{
    Depth, Error, ErrorKind, Facts, IpvsOperation, Kernel, LinkOperation, Query, Transaction,
    XtablesText,
};
use crate::model::Family;
use crate::netlink::nft::Batch;

/// Removes our tables; gives how many there were.
pub fn cleanup(kernel: &mut dyn Kernel) -> Result<usize, Error> {
    let mut removed = 0;
    for family in Family::ALL {
        let query = Query::Table(family, TABLE.to_owned(), Depth::Head);
        if let Facts::Table(Some(_)) = kernel.read(&query)? {
            let mut batch = Batch::new(family, TABLE);
            batch.delete_table();
            kernel.apply(&Transaction::Nft(batch.finish()))?;
            removed += 1;
        }
        removed += ipvs_mode(kernel, family)?;
    }
    Ok(removed)
}

/// Removes what ipvs mode, ours or the reference's, made in one family: virtual servers that are
/// known to be its own (`backend::ipvs::adopt`), addresses, rules, sets; the device with the last
/// address. Where the kernel has no IPVS or no tables of iptables there is nothing of it.
fn ipvs_mode(kernel: &mut dyn Kernel, family: Family) -> Result<usize, Error> {
    let found = match ipvs::list(kernel, family) {
        Err(error) if !matters(&error) => return Ok(0),
        found => found?,
    };
    let ours = found.ours(family, &Options::default());
    let servers: Vec<IpvsOperation> = ours.into_iter().map(IpvsOperation::DeleteServer).collect();
    let rules = match ipvs::dump(kernel, family) {
        Err(error) if !matters(&error) => String::new(),
        text => Rules::removal(&text?, family).text,
    };
    let links: Vec<LinkOperation> = found.unbinding(family);
    let sets = found.removal(family);
    let removed = servers.len() + links.len() + sets.len() + usize::from(!rules.is_empty());
    let text = XtablesText { family, text: rules, operations: 1 };
    let steps = [
        (servers.is_empty(), Transaction::Ipvs(servers)),
        (links.is_empty(), Transaction::Links(links)),
        (text.text.is_empty(), Transaction::Xtables(text)),
        (sets.is_empty(), Transaction::Ipset(sets)),
    ];
    for (_, transaction) in steps.into_iter().filter(|(nothing, _)| !nothing) {
        kernel.apply(&transaction)?;
    }
    Ok(removed)
}

/// Whether an error is more than the lack of the facility.
fn matters(error: &Error) -> bool {
    !matches!(error.kind, ErrorKind::Unsupported | ErrorKind::Absent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::simulated::Simulated;

    #[test]
    fn only_our_tables_go() {
        let mut kernel = Simulated::new(sim::Host::new(1));
        for table in [TABLE, "somebody-elses"] {
            let mut batch = Batch::new(Family::V4, table);
            batch.add_table("a table");
            kernel.apply(&Transaction::Nft(batch.finish())).expect("the simulator takes tables");
        }
        assert_eq!(cleanup(&mut kernel), Ok(1));
        assert_eq!(cleanup(&mut kernel), Ok(0));
        let left: Vec<_> =
            kernel.host().nft().tables().iter().map(|t| t.name().to_owned()).collect();
        assert_eq!(left, ["somebody-elses"]);
    }
}
