//! The words of IPVS: services, destinations, settings, errors. Values only; it must never know packets or connections.
//! Facts from include/uapi/linux/ip_vs.h and ip_vs_ctl.c. Tests: tests/ipvs.rs.

use crate::nft::Errno;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// Flags of a service (IP_VS_SVC_F_*).
pub mod flags {
    /// A client stays with its destination.
    pub const PERSISTENT: u32 = 1;
    /// Set by the kernel on every service in its table.
    pub const HASHED: u32 = 2;
    /// Every UDP packet is scheduled anew.
    pub const ONE_PACKET: u32 = 4;
    /// First flag of the scheduler: `sh-fallback`, `mh-fallback`.
    pub const FALLBACK: u32 = 8;
    /// Second flag of the scheduler: `sh-port`, `mh-port`.
    pub const PORT: u32 = 16;
}

/// What names a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServiceKey {
    /// Protocol, address and port; port 0 takes every port that has no service of its own.
    Address {
        /// IANA number.
        protocol: u8,
        /// The virtual address.
        address: IpAddr,
        /// The virtual port.
        port: u16,
    },
    /// All packets with a mark.
    Mark {
        /// Of IPv6 packets?
        ipv6: bool,
        /// The mark.
        mark: u32,
    },
}

impl ServiceKey {
    /// A service at an address.
    pub fn new(protocol: u8, address: IpAddr, port: u16) -> Self {
        ServiceKey::Address { protocol, address, port }
    }

    /// The family of the service.
    pub fn is_ipv6(&self) -> bool {
        match self {
            ServiceKey::Address { address, .. } => address.is_ipv6(),
            ServiceKey::Mark { ipv6, .. } => *ipv6,
        }
    }
}

/// How a destination is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheduler {
    /// Round robin.
    Rr,
    /// Weighted round robin.
    Wrr,
    /// Least connections.
    Lc,
    /// Weighted least connections.
    Wlc,
    /// By the hash of the source.
    Sh,
    /// By the hash of the destination.
    Dh,
    /// By Maglev's consistent hash of the source.
    Mh,
    /// Shortest expected delay.
    Sed,
    /// Never queue: idle first.
    Nq,
    /// Fail over: the largest weight.
    Fo,
    /// Overflow: the largest weight that is not full.
    Ovf,
    /// Locality-based least connections: a virtual address keeps to its destination.
    Lblc,
    /// The same with replication: a virtual address keeps to a few.
    Lblcr,
    /// Two by chance, of which the less loaded.
    Twos,
}

impl Scheduler {
    /// All of them, with the kernel's names.
    pub const ALL: [(Scheduler, &'static str); 14] = [
        (Scheduler::Rr, "rr"),
        (Scheduler::Wrr, "wrr"),
        (Scheduler::Lc, "lc"),
        (Scheduler::Wlc, "wlc"),
        (Scheduler::Sh, "sh"),
        (Scheduler::Dh, "dh"),
        (Scheduler::Mh, "mh"),
        (Scheduler::Sed, "sed"),
        (Scheduler::Nq, "nq"),
        (Scheduler::Fo, "fo"),
        (Scheduler::Ovf, "ovf"),
        (Scheduler::Lblc, "lblc"),
        (Scheduler::Lblcr, "lblcr"),
        (Scheduler::Twos, "twos"),
    ];

    /// The kernel's name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(one, _)| *one == self).map_or("rr", |(_, name)| name)
    }

    /// The scheduler of a name: ENOENT where the kernel has none, EOPNOTSUPP where the simulator has none.
    pub fn named(name: &str) -> Result<Self, IpvsError> {
        if let Some((scheduler, _)) = Self::ALL.iter().find(|(_, known)| *known == name) {
            return Ok(*scheduler);
        }
        // A service without a scheduler drops every new connection.
        if name == "none" {
            return Err(IpvsError::not_modelled(format!("scheduler {name:?}")));
        }
        Err(IpvsError::new(Errno::ENOENT, format!("there is no scheduler {name:?}")))
    }
}

/// A virtual service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What names it.
    pub key: ServiceKey,
    /// How it chooses.
    pub scheduler: Scheduler,
    /// Bits of [`flags`].
    pub flags: u32,
    /// Seconds a persistent client stays.
    pub timeout: u32,
    /// Which clients count as one: a mask for IPv4 (255.255.255.255 is each for itself), a prefix length for IPv6.
    pub netmask: u32,
}

impl Service {
    /// A service without flags.
    pub fn new(key: ServiceKey, scheduler: Scheduler) -> Self {
        let netmask = if key.is_ipv6() { 128 } else { u32::MAX };
        Service { key, scheduler, flags: 0, timeout: 0, netmask }
    }

    /// The same service, to whose destinations clients stick for so many seconds.
    #[must_use]
    pub fn persistent(mut self, seconds: u32) -> Self {
        self.flags |= flags::PERSISTENT;
        self.timeout = seconds;
        self
    }
}

/// A real server of a service; packets are always masqueraded to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Its address.
    pub address: IpAddr,
    /// Its port; 0 keeps the packet's.
    pub port: u16,
    /// Its share; 0 takes no new connection.
    pub weight: i32,
    /// With so many connections it takes no more; 0: no bound.
    pub upper: u32,
    /// With fewer it takes some again.
    pub lower: u32,
}

impl Destination {
    /// A destination of weight 1 without thresholds.
    pub fn new(address: IpAddr, port: u16) -> Self {
        Destination { address, port, weight: 1, upper: 0, lower: 0 }
    }

    /// The same with another weight.
    #[must_use]
    pub fn weighing(mut self, weight: i32) -> Self {
        self.weight = weight;
        self
    }
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct IpvsStats {
    pub connections: u64,
    pub in_packets: u64,
    pub out_packets: u64,
    pub in_bytes: u64,
    pub out_bytes: u64,
}

/// Settings below `net.ipv4.vs`.
#[derive(Clone, Debug)]
pub struct IpvsSysctls {
    /// `conntrack`: connections keep their entry in connection tracking, and so can be masqueraded.
    pub conntrack: bool,
    /// `conn_reuse_mode`: bit 0, a client's port that comes again after its connection was closed is scheduled anew.
    pub conn_reuse_mode: u8,
    /// `expire_nodest_conn`: connections go with their destination.
    pub expire_nodest_conn: bool,
    /// `expire_quiescent_template`: weight 0 ends persistence.
    pub expire_quiescent_template: bool,
    /// `sloppy_tcp`: a segment other than SYN may open a connection.
    pub sloppy_tcp: bool,
}

impl Default for IpvsSysctls {
    /// As Linux 6.1 starts.
    fn default() -> Self {
        IpvsSysctls {
            conntrack: false,
            conn_reuse_mode: 1,
            expire_nodest_conn: false,
            expire_quiescent_template: false,
            sloppy_tcp: false,
        }
    }
}

/// The timeouts a program may set (`ipvsadm --set`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpvsTimeouts {
    /// Of an established TCP connection.
    pub tcp: Duration,
    /// After a FIN of the server.
    pub tcp_fin: Duration,
    /// Of UDP.
    pub udp: Duration,
}

impl Default for IpvsTimeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        IpvsTimeouts { tcp: seconds(900), tcp_fin: seconds(120), udp: seconds(300) }
    }
}

/// Why IPVS refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpvsError {
    /// The error number the kernel returns.
    pub errno: Errno,
    /// Where in the request, if it came as bytes.
    pub offset: usize,
    /// What was expected, or what is not there, or what is not modelled.
    pub detail: String,
}

impl IpvsError {
    pub(crate) fn new(errno: Errno, detail: impl Into<String>) -> Self {
        IpvsError { errno, offset: 0, detail: detail.into() }
    }

    pub(crate) fn not_modelled(what: impl fmt::Display) -> Self {
        Self::new(Errno::EOPNOTSUPP, format!("not modelled: {what}"))
    }

    pub(crate) fn invalid(offset: usize, detail: impl Into<String>) -> Self {
        IpvsError { errno: Errno::EINVAL, offset, detail: detail.into() }
    }
}

impl fmt::Display for IpvsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?} ({})", self.errno, self.errno as i32)?;
        if self.offset > 0 {
            write!(out, " at byte {}", self.offset)?;
        }
        write!(out, ": {}", self.detail)
    }
}

impl std::error::Error for IpvsError {}
