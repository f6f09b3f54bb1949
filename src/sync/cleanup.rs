//! Removes what this proxy ever made, mode by mode, in both families. Nothing else is touched.
//! It must never know a Service. Tests: `netlab`, and below on the simulated kernel.

use super::Report;
use super::iptables;
use crate::backend::iptables::dump::Dump;
use crate::backend::iptables::pen::Text;
use crate::backend::iptables::removal;
use crate::backend::nftables::layout::TABLE;
use crate::kernel::{Capability, Depth, Error, Facts, Kernel, Query, Transaction};
use crate::model::{Family, Mode};
use crate::netlink::nft::Batch;

/// Removes what every mode made; gives how many tables, chains and rules there were.
pub fn cleanup(kernel: &mut dyn Kernel) -> Result<usize, Error> {
    Mode::ALL.into_iter().try_fold(0, |sum, mode| Ok(sum + remove(kernel, mode)?))
}

/// Removes what other modes than this one made: for when this one is complete.
pub fn leave_only(kernel: &mut dyn Kernel, stays: Mode) -> Result<usize, Error> {
    let others = Mode::ALL.into_iter().filter(|mode| *mode != stays);
    others.into_iter().try_fold(0, |sum, mode| Ok(sum + remove(kernel, mode)?))
}

fn remove(kernel: &mut dyn Kernel, mode: Mode) -> Result<usize, Error> {
    match mode {
        Mode::Nftables if kernel.capabilities().has(Capability::Nftables) => nftables(kernel),
        Mode::Iptables if kernel.capabilities().xtables.is_some() => xtables(kernel),
        _ => Ok(0),
    }
}

fn nftables(kernel: &mut dyn Kernel) -> Result<usize, Error> {
    let mut removed = 0;
    for family in Family::ALL {
        let query = Query::Table(family, TABLE.to_owned(), Depth::Head);
        if let Facts::Table(Some(_)) = kernel.read(&query)? {
            let mut batch = Batch::new(family, TABLE);
            batch.delete_table();
            kernel.apply(&Transaction::Nft(batch.finish()))?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn xtables(kernel: &mut dyn Kernel) -> Result<usize, Error> {
    let mut report = Report::default();
    for family in Family::ALL {
        let text = match iptables::read(kernel, family) {
            Ok(text) => text,
            // A host without IPv6 has nothing of ours there.
            Err(_) if family == Family::V6 => continue,
            Err(error) => return Err(error),
        };
        let mut pen = Text::new(family, iptables::blocks(kernel));
        removal::remove(&Dump::read(&text), &mut pen);
        iptables::apply(kernel, pen, &mut report)?;
    }
    Ok(report.operations)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::simulated::Simulated;
    use crate::kernel::{Capabilities, XtablesFlavour, XtablesText};

    #[test]
    fn only_our_tables_go() {
        let mut kernel = Simulated::new(sim::Host::new(1));
        for table in [TABLE, "somebody-elses"] {
            let mut batch = Batch::new(Family::V4, table);
            batch.add_table("a table");
            kernel.apply(&Transaction::Nft(batch.finish())).expect("the simulator takes tables");
        }
        assert_eq!(leave_only(&mut kernel, Mode::Nftables), Ok(0));
        assert_eq!(cleanup(&mut kernel), Ok(1));
        assert_eq!(cleanup(&mut kernel), Ok(0));
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
        assert_eq!(leave_only(&mut kernel, Mode::Iptables), Ok(0));
        assert!(cleanup(&mut kernel).is_ok_and(|removed| removed > 10));
        assert_eq!(iptables::read(&mut kernel, Family::V4), before);
    }
}
