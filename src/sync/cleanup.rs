//! Removes everything this proxy ever made: its tables, in both families. Nothing else is touched.
//! Tests: `netlab`, and below on the simulated kernel.

use crate::backend::nftables;
use crate::backend::nftables::layout::{STANDBY, TABLE};
use crate::kernel::{Depth, Error, Facts, Kernel, Query, Transaction};
use crate::model::Family;

/// Removes our tables; gives how many there were.
pub fn cleanup(kernel: &mut dyn Kernel) -> Result<usize, Error> {
    let mut removed = 0;
    for (family, table) in Family::ALL.into_iter().flat_map(|f| [(f, TABLE), (f, STANDBY)]) {
        let query = Query::Table(family, table.to_owned(), Depth::Head);
        if let Facts::Table(Some(_)) = kernel.read(&query)? {
            kernel.apply(&Transaction::Nft(nftables::removal(family, table)))?;
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::simulated::Simulated;
    use crate::netlink::nft::Batch;

    #[test]
    fn only_our_tables_go() {
        let mut kernel = Simulated::new(sim::Host::new(1));
        for table in [TABLE, STANDBY, "somebody-elses"] {
            let mut batch = Batch::new(Family::V4, table);
            batch.add_table("a table");
            kernel.apply(&Transaction::Nft(batch.finish())).expect("the simulator takes tables");
        }
        assert_eq!(cleanup(&mut kernel), Ok(2));
        assert_eq!(cleanup(&mut kernel), Ok(0));
        let left: Vec<_> =
            kernel.host().nft().tables().iter().map(|t| t.name().to_owned()).collect();
        assert_eq!(left, ["somebody-elses"]);
    }
}
