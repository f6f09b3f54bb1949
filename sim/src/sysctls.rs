//! The sysctls the packet path looks at. They can be set by their Linux names; a name that is not modelled is refused and quoted.
//! It must never know packets. Tests: tests/sysctls.rs.

use crate::conntrack::Timers;

/// The settings of one host. What Linux has for each link is one setting for all links here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctls {
    /// `net.ipv4.ip_forward`
    pub ip_forward: bool,
    /// `net.ipv6.conf.all.forwarding`
    pub ipv6_forwarding: bool,
    /// `net.ipv4.conf.all.route_localnet`
    pub route_localnet: bool,
    /// `net.ipv4.conf.all.accept_local`: packets with one of the host's own addresses as source may come from a link.
    pub accept_local: bool,
    /// `net.ipv4.conf.all.rp_filter`: 0 off, 1 strict, 2 loose.
    pub rp_filter: u8,
    /// `net.netfilter.nf_conntrack_max`; 0: no bound.
    pub nf_conntrack_max: usize,
    /// `net.netfilter.nf_conntrack_tcp_loose`: connections already under way are picked up.
    pub nf_conntrack_tcp_loose: bool,
    /// `net.netfilter.nf_conntrack_tcp_be_liberal`: segments outside of the window are valid.
    pub nf_conntrack_tcp_be_liberal: bool,
    /// `net.netfilter.nf_conntrack_*_timeout_*`
    pub timers: Timers,
}

impl Default for Sysctls {
    /// A node's settings: forwarding on, the rest as Linux starts.
    fn default() -> Self {
        Sysctls {
            ip_forward: true,
            ipv6_forwarding: true,
            route_localnet: false,
            accept_local: false,
            rp_filter: 0,
            nf_conntrack_max: 262_144,
            nf_conntrack_tcp_loose: true,
            nf_conntrack_tcp_be_liberal: false,
            timers: Timers::default(),
        }
    }
}

impl Sysctls {
    /// Sets one by its Linux name, with dots or slashes. Names that are not modelled (`arp_ignore` is one) are refused.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let dotted = name.replace('/', ".");
        let number: u32 = value
            .trim()
            .parse()
            .map_err(|_| format!("sysctl {dotted}: a number expected, found {value:?}"))?;
        let on = number != 0;
        match dotted.as_str() {
            "net.ipv4.ip_forward" | "net.ipv4.conf.all.forwarding" => self.ip_forward = on,
            "net.ipv6.conf.all.forwarding" => self.ipv6_forwarding = on,
            "net.ipv4.conf.all.route_localnet" => self.route_localnet = on,
            "net.ipv4.conf.all.accept_local" => self.accept_local = on,
            "net.ipv4.conf.all.rp_filter" if number <= 2 => self.rp_filter = number as u8,
            "net.netfilter.nf_conntrack_max" => self.nf_conntrack_max = number as usize,
            "net.netfilter.nf_conntrack_tcp_loose" => self.nf_conntrack_tcp_loose = on,
            "net.netfilter.nf_conntrack_tcp_be_liberal" => self.nf_conntrack_tcp_be_liberal = on,
            other => {
                let timer = other.strip_prefix("net.netfilter.nf_conntrack_");
                if !timer.is_some_and(|timer| self.timers.set(timer, number)) {
                    return Err(format!("sysctl {other} = {number} is not modelled"));
                }
            }
        }
        Ok(())
    }

    /// Reads one by its Linux name; nothing: it is not modelled.
    pub fn get(&self, name: &str) -> Option<u32> {
        let dotted = name.replace('/', ".");
        let value = match dotted.as_str() {
            "net.ipv4.ip_forward" | "net.ipv4.conf.all.forwarding" => self.ip_forward.into(),
            "net.ipv6.conf.all.forwarding" => self.ipv6_forwarding.into(),
            "net.ipv4.conf.all.route_localnet" => self.route_localnet.into(),
            "net.ipv4.conf.all.accept_local" => self.accept_local.into(),
            "net.ipv4.conf.all.rp_filter" => self.rp_filter.into(),
            "net.netfilter.nf_conntrack_max" => {
                u32::try_from(self.nf_conntrack_max).unwrap_or(u32::MAX)
            }
            "net.netfilter.nf_conntrack_tcp_loose" => self.nf_conntrack_tcp_loose.into(),
            "net.netfilter.nf_conntrack_tcp_be_liberal" => self.nf_conntrack_tcp_be_liberal.into(),
            other => self.timers.get(other.strip_prefix("net.netfilter.nf_conntrack_")?)?,
        };
        Some(value)
    }
}
