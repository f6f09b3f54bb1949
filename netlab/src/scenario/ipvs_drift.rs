//! ipvs mode and others who change what it has in the kernel, which tells nobody. Tests: it is all test.

use super::ipvs::WEB;
use super::{Bench, Verdict, harm};
use crate::probe::Probe;

/// What others take away: of each kind something.
const HARMS: &[&str] = &[
    "ipvsadm -D -t 10.96.0.10:80",
    "ipvsadm -d -t 10.96.0.10:80 -r 10.244.1.11:8080",
    "ipvsadm -E -t 10.96.0.10:80 -s sh",
    "ipset flush KUBE-CLUSTER-IP",
    "ip address delete 10.96.0.10/32 dev kube-ipvs0",
    "iptables-legacy -t nat -F KUBE-SERVICES",
    "sysctl -w net.ipv4.vs.conntrack=0",
];

/// What says all of it.
const TOOLS: &[&str] = &[
    "ipvsadm -S -n",
    "ipset save",
    "ip -o address show dev kube-ipvs0",
    "iptables-legacy-save",
    "sysctl net.ipv4.vs.conntrack",
];

/// What others change is put right within a sync period.
pub(super) fn mended(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    setting.start_proxy_with(&["--ipvs-sync-period=1s"])?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    harm::mended(&setting, TOOLS, HARMS)
}
