//! What a kernel can do, feature by feature. Probing is done by the hearts; this is the result.
//! Tests: below.

use std::borrow::Cow;
use std::fmt;

use super::Scheduler;
use crate::model::Mode;

/// A feature some mode needs or can use.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum Capability {
    /// The right to change network state: CAP_NET_ADMIN in the owning user namespace.
    NetAdmin,
    /// nf_tables with both IP families.
    Nftables,
    /// NAT in nf_tables: chains of type nat, `dnat`, `masquerade`.
    NftablesNat,
    /// Maps with concatenated keys and values, intervals included (Linux 5.6).
    NftablesConcatenation,
    /// Random numbers in rules: `numgen`.
    NftablesNumgen,
    /// Address type look-ups in rules: `fib`.
    NftablesFib,
    /// Conntrack's state, status and original direction in rules: `ct`.
    NftablesCt,
    /// Answers to refused connections: `reject`.
    NftablesReject,
    /// IPv6 on this host, with all that is needed of nf_tables.
    Ipv6,
    /// Conntrack entries can be listed and deleted.
    Conntrack,
    /// IPVS and its generic netlink family.
    Ipvs,
    /// A scheduler of IPVS.
    IpvsScheduler(Scheduler),
    /// ipset with the types kube-proxy makes.
    Ipset,
    /// Dummy devices.
    Dummy,
    /// The tools iptables-restore and iptables-save, and tables for them.
    Xtables,
    /// The same for IPv6.
    XtablesIpv6,
    /// MASQUERADE with `--random-fully` (iptables 1.6.2).
    XtablesRandomFully,
    /// iptables' matches and targets in rules of nf_tables that this process writes itself.
    XtablesOverNetlink,
}

impl Capability {
    /// Whether a mode can use it.
    pub fn concerns(self, mode: Mode) -> bool {
        match self {
            Capability::NetAdmin | Capability::Conntrack => true,
            Capability::Xtables | Capability::XtablesIpv6 | Capability::XtablesRandomFully => {
                matches!(mode, Mode::Iptables | Mode::Ipvs)
            }
            Capability::XtablesOverNetlink => mode == Mode::Iptables,
            Capability::Ipvs
            | Capability::IpvsScheduler(_)
            | Capability::Ipset
            | Capability::Dummy => mode == Mode::Ipvs,
            _ => matches!(mode, Mode::Nftables | Mode::Userspace),
        }
    }

    /// Whether a mode that it concerns can do nothing without it.
    pub fn is_vital(self) -> bool {
        !matches!(
            self,
            Capability::Ipv6
                | Capability::Conntrack
                | Capability::XtablesIpv6
                | Capability::XtablesRandomFully
        )
    }

    /// What is missing without it and what to do about it; one line.
    pub fn remedy(self) -> Cow<'static, str> {
        if let Capability::IpvsScheduler(scheduler) = self {
            return no_scheduler(scheduler);
        }
        Cow::Borrowed(match self {
            Capability::NetAdmin => {
                "no right to change the network: run as root or with CAP_NET_ADMIN"
            }
            Capability::Nftables => {
                "this kernel has no nf_tables: load the module nf_tables, or use a kernel of 5.13 or later built with CONFIG_NF_TABLES"
            }
            Capability::NftablesNat => {
                "this kernel's nf_tables has no NAT: load nft_chain_nat, nft_nat and nft_masq (CONFIG_NFT_NAT, CONFIG_NFT_MASQ)"
            }
            Capability::NftablesConcatenation => {
                "this kernel's nf_tables has no concatenated intervals: Linux 5.6 or later is needed"
            }
            Capability::NftablesNumgen => {
                "this kernel's nf_tables has no numgen: load nft_numgen (CONFIG_NFT_NUMGEN)"
            }
            Capability::NftablesFib => {
                "this kernel's nf_tables has no fib: load nft_fib_ipv4 and nft_fib_ipv6 (CONFIG_NFT_FIB_IPV4, _IPV6)"
            }
            Capability::NftablesCt => {
                "this kernel's nf_tables has no ct: load nft_ct (CONFIG_NFT_CT)"
            }
            Capability::NftablesReject => {
                "this kernel's nf_tables has no reject: load nft_reject_ipv4 and nft_reject_ipv6 (CONFIG_NFT_REJECT_IPV4, _IPV6)"
            }
            Capability::Ipv6 => {
                "this host has no IPv6, or its nf_tables cannot do for it what it does for IPv4: only IPv4 is programmed"
            }
            Capability::Xtables => {
                "rules of iptables need iptables-restore and iptables-save, and tables for them: install iptables (1.6.2 or later) and load ip_tables or nf_tables, or choose --proxy-mode nftables"
            }
            Capability::XtablesIpv6 => {
                "ip6tables cannot be used on this host: only IPv4 is programmed (load ip6_tables or nf_tables)"
            }
            Capability::XtablesRandomFully => {
                "this iptables has no --random-fully: source ports of masqueraded connections may clash (iptables 1.6.2 or later)"
            }
            Capability::XtablesOverNetlink => {
                "iptables' rules cannot be written over netlink: set KUBE_PROXY_IPTABLES_WRITER to auto, tool or netlink; netlink needs the nf_tables flavour and nft_compat (CONFIG_NFT_COMPAT)"
            }
            Capability::Conntrack => {
                "conntrack entries cannot be listed: stale UDP flows stay until they time out (CONFIG_NF_CT_NETLINK)"
            }
            Capability::Ipvs | Capability::IpvsScheduler(_) => {
                "this kernel has no IPVS: load the module ip_vs (modprobe ip_vs; CONFIG_IP_VS, with CONFIG_IP_VS_IPV6 and CONFIG_IP_VS_PROTO_TCP, _UDP, _SCTP)"
            }
            Capability::Ipset => {
                "this kernel has no ipset, or not its types: load ip_set, ip_set_bitmap_port, ip_set_hash_ip, ip_set_hash_ipport, ip_set_hash_ipportip, ip_set_hash_ipportnet (modprobe; CONFIG_IP_SET)"
            }
            Capability::Dummy => {
                "this kernel has no dummy devices: load the module dummy (modprobe dummy; CONFIG_DUMMY)"
            }
        })
    }
}

fn no_scheduler(scheduler: Scheduler) -> Cow<'static, str> {
    let known = Scheduler::KNOWN.contains(&scheduler.name());
    let hint = if known { "" } else { ", which Linux does not know by that name" };
    Cow::Owned(format!(
        "this kernel's IPVS has no scheduler {scheduler}{hint}: load its module (modprobe ip_vs_{scheduler}) or choose another with --ipvs-scheduler"
    ))
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The features that are lacking, each with what the kernel said to the probe.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Capabilities {
    /// Lacks in the order of probing.
    pub lacks: Vec<(Capability, String)>,
    /// The most bytes one transaction may have: what a netlink socket may send at once. Small
    /// where the socket's buffer may not be made larger, as in a user namespace.
    pub largest_batch: usize,
    /// Which iptables there is, if it was looked for and found.
    pub xtables: Option<XtablesFlavour>,
    /// Who writes iptables mode's rules.
    pub xtables_writer: XtablesWriter,
}

/// Who writes iptables mode's rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum XtablesWriter {
    /// iptables-restore.
    #[default]
    Tool,
    /// This process, as netlink messages; nf_tables flavour only.
    Netlink,
}

/// Which of two kernel facilities iptables writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum XtablesFlavour {
    /// ip_tables.
    Legacy,
    /// nf_tables.
    Nft,
}

impl Default for Capabilities {
    fn default() -> Self {
        Capabilities {
            lacks: Vec::new(),
            largest_batch: usize::MAX,
            xtables: None,
            xtables_writer: XtablesWriter::Tool,
        }
    }
}

impl Capabilities {
    /// Whether the kernel has a feature.
    pub fn has(&self, capability: Capability) -> bool {
        self.lacks.iter().all(|(lack, _)| *lack != capability)
    }

    /// Each lack that concerns a mode in one line: what, why it matters, what to do, what the kernel
    /// said.
    pub fn lines(&self, mode: Mode) -> Vec<String> {
        let concerning = self.lacks.iter().filter(|(lack, _)| lack.concerns(mode));
        concerning
            .map(|(lack, said)| format!("{lack}: {} (the kernel said: {said})", lack.remedy()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_is_one_line_with_a_remedy() {
        let lacks = vec![(Capability::Nftables, "EOPNOTSUPP".to_owned())];
        let capabilities = Capabilities { lacks, ..Capabilities::default() };
        assert!(!capabilities.has(Capability::Nftables));
        assert!(capabilities.has(Capability::Ipv6));
        assert_eq!(capabilities.lines(Mode::Nftables).len(), 1);
        assert!(capabilities.lines(Mode::Nftables)[0].contains("load the module nf_tables"));
    }
}
