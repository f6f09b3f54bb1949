//! The sysctls that decide about packets. One that is absent is left out: it belongs to a part of
//! the kernel that is not loaded. Tests: `netlab`.

use super::Survey;

/// Those of the whole host.
const HOST: &[&str] = &[
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_tcp_loose",
    "net/netfilter/nf_conntrack_tcp_be_liberal",
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
    "net/ipv4/vs/conntrack",
    "net/ipv4/vs/expire_quiescent_template",
];
/// Those that every link has; `all` and `default` count as links.
const LINK: &[&str] = &["rp_filter", "route_localnet", "accept_local", "forwarding"];

/// A sysctl's text; none if it cannot be read.
pub(super) fn text(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(std::path::Path::new("/proc/sys").join(path)).ok()?;
    Some(text.trim_end().to_owned())
}

pub(super) fn read(found: &mut Survey) {
    let names = found.links.iter().map(|link| link.name.as_str()).chain(["all"]);
    let of_links =
        names.flat_map(|link| LINK.iter().map(move |name| format!("net/ipv4/conf/{link}/{name}")));
    let paths: Vec<String> = HOST.iter().map(|path| (*path).to_owned()).chain(of_links).collect();
    let values = paths.into_iter().filter_map(|path| Some((path.clone(), text(&path)?)));
    found.sysctls = values.collect();
}
