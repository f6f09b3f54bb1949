//! ipvs mode and others who change what it has in the kernel, which tells nobody. Tests: it is all test.

use std::time::Duration;

use super::ipvs::{WEB, tool};
use super::{Bench, Stop, Verdict, eventually, told};
use crate::probe::Probe;
use crate::setting::Setting;

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

/// All of it, in words.
fn state(setting: &Setting) -> Result<Vec<String>, Stop> {
    let mut all = Vec::new();
    for line in [
        "ipvsadm -S -n",
        "ipset save",
        "ip -o address show dev kube-ipvs0",
        "iptables-legacy-save",
        "sysctl net.ipv4.vs.conntrack",
    ] {
        let said = tool(setting, line)?;
        let lines = said.lines().filter(|line| !line.starts_with(['#', ':']));
        all.extend(lines.map(|line| line.trim().to_owned()));
    }
    all.sort();
    Ok(all)
}

/// What others change is put right within a sync period, and where nobody does, nothing is found: what
/// the kernel says back is what was meant.
pub(super) fn mended(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    setting.start_proxy_with(&["--ipvs-sync-period=1s"])?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    std::thread::sleep(Duration::from_secs(5));
    let whole = state(&setting)?;
    let said = setting.proxy.as_ref().map(|proxy| proxy.process.said()).unwrap_or_default();
    if said.contains("it is put right") {
        return Err(format!("something was put right that nobody had changed:\n{said}").into());
    }
    for harm in HARMS {
        tool(&setting, harm)?;
        let mended = eventually(|| match state(&setting) {
            Ok(now) if now == whole => None,
            Ok(now) => {
                let lacks: Vec<_> = whole.iter().filter(|line| !now.contains(line)).collect();
                let more: Vec<_> = now.iter().filter(|line| !whole.contains(line)).collect();
                Some(format!("after `{harm}` it lacks {lacks:?}, and has {more:?}"))
            }
            Err(_) => Some(format!("after `{harm}` it cannot be read")),
        });
        if let Err(why) = mended {
            return told(&setting, Err(why));
        }
    }
    Ok(format!("{} kinds of harm mended", HARMS.len()))
}
