//! The proxy modes, by the names that `--proxy-mode` has for them. Tests: in `config`.

use serde::{Deserialize, Serialize};

/// How packets are programmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Mode {
    /// A relay in this process.
    Userspace,
    /// Rules of iptables.
    Iptables,
    /// Virtual servers of IPVS.
    Ipvs,
    /// Maps of nftables.
    Nftables,
}

impl Mode {
    /// Every mode of Linux.
    pub const ALL: [Mode; 4] = [Mode::Iptables, Mode::Ipvs, Mode::Nftables, Mode::Userspace];

    /// The mode as `--proxy-mode` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Userspace => "userspace",
            Mode::Iptables => "iptables",
            Mode::Ipvs => "ipvs",
            Mode::Nftables => "nftables",
        }
    }

    /// The mode whose kind of rules packets meet.
    pub fn rules(self, steering: Steering) -> Mode {
        match (self, steering) {
            (Mode::Userspace, Steering::Nftables) => Mode::Nftables,
            (Mode::Userspace, Steering::Iptables) => Mode::Iptables,
            (mode, _) => mode,
        }
    }
}

/// Whose rules lead packets to the local ports of userspace mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Steering {
    /// A table of nf_tables.
    #[default]
    Nftables,
    /// Chains of iptables: where the kernel has no nf_tables, or not all that is needed of it.
    Iptables,
}
