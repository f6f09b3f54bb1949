//! The real heart: Linux, over netlink sockets of the network namespace it was opened in.
//!
//! Knows no Service and keeps no state but its sockets. Tests: `netlab` (as root); what the bytes
//! mean is tested in `sim`.

mod accounts;
mod compat;
mod conntrack;
mod ipset;
mod ipvs;
mod lacks;
mod link;
mod lookout;
mod lookout_legacy;
mod nftables;
mod probe;
mod relay;
mod socket;
pub mod survey;
mod xtables;
mod xtables_lock;

use nix::sys::socket::SockProtocol;

use super::XtablesFlavour;
use super::drift::Lookout;
use super::{
    Capabilities, Capability, Error, ErrorKind, Facts, Kernel, Query, Receipt, Transaction,
};
use socket::Netlink;
use xtables::Tools;
pub use xtables::flavours;

const NETFILTER: (SockProtocol, &str) = (SockProtocol::NetlinkNetFilter, "netfilter");
const ROUTE: (SockProtocol, &str) = (SockProtocol::NetlinkRoute, "route");

/// Linux.
#[derive(Debug)]
pub struct Real {
    netfilter: Netlink,
    /// Opened when a mode asks for it.
    ipvs: Option<ipvs::Ipvs>,
    /// Opened when a mode asks for it.
    route: Option<Netlink>,
    relay: relay::Relay,
    capabilities: Capabilities,
    /// Found when it is asked for: `with_xtables`.
    xtables: Option<Tools>,
}

impl Real {
    /// Opens the sockets in the calling thread's network namespace and probes what the kernel can
    /// do. Lacks are no error here: the caller decides which it can live with.
    pub fn open() -> Result<Real, Error> {
        let mut netfilter = Netlink::open(NETFILTER)?;
        let capabilities = probe::capabilities(&mut netfilter);
        Ok(Real::over(netfilter, capabilities))
    }

    fn over(netfilter: Netlink, capabilities: Capabilities) -> Real {
        Real {
            netfilter,
            ipvs: None,
            route: None,
            relay: relay::Relay::default(),
            capabilities,
            xtables: None,
        }
    }

    /// Where the figures of carried connections are seen, from any thread.
    pub fn relay_board(&self) -> crate::relay::Board<super::RelayKey> {
        self.relay.board.clone()
    }

    fn ipvs(&mut self) -> Result<&mut ipvs::Ipvs, Error> {
        match &mut self.ipvs {
            Some(open) => Ok(open),
            closed => Ok(closed.insert(ipvs::Ipvs::open()?)),
        }
    }

    fn route(&mut self) -> Result<&mut Netlink, Error> {
        match &mut self.route {
            Some(open) => Ok(open),
            closed => Ok(closed.insert(Netlink::open(ROUTE)?)),
        }
    }

    /// Finds iptables' tools as well, of this flavour or of the one that the node uses, and adds
    /// what they lack to the capabilities. Tables that are not there yet are made.
    pub fn with_xtables(self, flavour: Option<XtablesFlavour>) -> Real {
        let mut real = self.take(Tools::find(flavour).map(Tools::working));
        let Real { netfilter, capabilities, xtables, .. } = &mut real;
        compat::choose(netfilter, xtables.as_ref(), capabilities);
        real
    }

    /// Finds iptables' tools as well, to look at what is there and nothing else.
    pub fn seeing_xtables(self, flavour: Option<XtablesFlavour>) -> Real {
        self.take(Tools::find(flavour))
    }

    fn take(mut self, found: Result<Tools, String>) -> Real {
        match found {
            Ok(tools) => {
                self.capabilities.lacks.extend(tools.lacks());
                self.capabilities.xtables = Some(tools.flavour());
                self.xtables = Some(tools);
            }
            Err(why) => self.capabilities.lacks.push((Capability::Xtables, why)),
        }
        self
    }

    fn xtables(&self) -> Result<&Tools, Error> {
        let absent = || Error::new(ErrorKind::Unsupported, "iptables", "its tools were not found");
        self.xtables.as_ref().ok_or_else(absent)
    }
}

impl Kernel for Real {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        match transaction {
            Transaction::Nft(batch) => {
                self.netfilter.batch(&batch.bytes)?;
                Ok(Receipt::of(batch.operations))
            }
            Transaction::ForgetFlows(flows) => conntrack::forget(&mut self.netfilter, flows),
            Transaction::Account(name) => accounts::make(&mut self.netfilter, name),
            Transaction::Xtables(text) => self.xtables()?.restore(text),
            Transaction::Sysctl(path, value) => {
                let file = sysctl_path(path)?;
                std::fs::write(&file, value).map_err(|e| io_error("write", &file, &e))?;
                Ok(Receipt::of(1))
            }
            Transaction::Ipvs(operations) => self.ipvs()?.apply(operations),
            Transaction::Ipset(operations) => ipset::apply(&mut self.netfilter, operations),
            Transaction::Links(operations) => link::apply(self.route()?, operations),
            Transaction::Relay(operations) => self.relay.apply(operations),
            Transaction::ConntrackBuckets(buckets) => {
                let file = std::path::Path::new(CONNTRACK_BUCKETS);
                let written = std::fs::write(file, buckets.to_string());
                written.map_err(|e| io_error("write", file, &e))?;
                Ok(Receipt::of(1))
            }
        }
    }

    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        match query {
            Query::Table(family, name, depth) => {
                nftables::table(&mut self.netfilter, (*family, name), *depth).map(Facts::Table)
            }
            Query::Elements(family, table, set) => {
                nftables::elements(&mut self.netfilter, *family, (table, set)).map(Facts::Elements)
            }
            Query::Rules(family, table, chain) => {
                let place = (table.as_str(), chain.as_deref());
                nftables::rules(&mut self.netfilter, *family, place).map(Facts::Rules)
            }
            Query::Xtables(family) => self.xtables()?.save(*family).map(Facts::Text),
            Query::Flows(family, protocol, to) => {
                let kind = (*family, *protocol);
                conntrack::flows(&mut self.netfilter, kind, *to).map(Facts::Flows)
            }
            Query::Sysctl(path) => {
                let file = sysctl_path(path)?;
                let text =
                    std::fs::read_to_string(&file).map_err(|e| io_error("read", &file, &e))?;
                Ok(Facts::Text(text.trim_end().to_owned()))
            }
            Query::Addresses => addresses().map(Facts::Addresses),
            Query::VirtualServers(family) => {
                self.ipvs()?.servers(*family).map(Facts::VirtualServers)
            }
            Query::VirtualServersAlone(family) => {
                self.ipvs()?.servers_alone(*family).map(Facts::VirtualServers)
            }
            Query::Destinations(server) => {
                self.ipvs()?.destinations(server).map(Facts::Destinations)
            }
            Query::IpvsTimeouts => self.ipvs()?.timeouts().map(Facts::IpvsTimeouts),
            Query::Ipsets(prefix) => ipset::sets(&mut self.netfilter, prefix).map(Facts::Ipsets),
            Query::Links => link::links(self.route()?).map(Facts::Links),
            Query::RelayPorts(keys) => Ok(Facts::RelayPorts(self.relay.ports(keys))),
            Query::Lacks(wanted) => Ok(Facts::Lacks(lacks::among(self, wanted))),
            Query::Cpus => Ok(Facts::Number(cpus())),
            Query::Generation => self.netfilter.generation().map(|n| Facts::Number(n.into())),
            Query::Account(name) => accounts::packets(&mut self.netfilter, name).map(Facts::Number),
            Query::ConntrackBuckets => {
                let file = std::path::Path::new(CONNTRACK_BUCKETS);
                let text = std::fs::read_to_string(file).map_err(|e| io_error("read", file, &e))?;
                let odd = |_| Error::new(ErrorKind::Broken, "read conntrack's buckets", &*text);
                text.trim().parse().map(Facts::Number).map_err(odd)
            }
        }
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Without iptables' tools: two that take turns at one lock gain nothing.
    fn aside(&mut self) -> Result<Option<Box<dyn Kernel + Send>>, Error> {
        let netfilter = Netlink::open(NETFILTER)?;
        let capabilities = self.capabilities.clone();
        Ok(Some(Box::new(Real::over(netfilter, capabilities))))
    }

    /// Of nf_tables and of iptables' tables in either flavour: other facilities tell nobody.
    fn lookout(&mut self) -> Result<Option<Box<dyn Lookout>>, Error> {
        if self.capabilities.xtables == Some(XtablesFlavour::Legacy) {
            let gauge = lookout_legacy::Gauge::open()?;
            self.xtables.iter_mut().for_each(|tools| tools.gauge = Some(gauge.clone()));
            return Ok(Some(Box::new(gauge)));
        }
        let ear = lookout::Ear::open().map_err(lookout::deaf)?;
        let own = self.netfilter.port();
        self.netfilter.ear = Some(ear.clone());
        self.xtables.iter_mut().for_each(|tools| tools.ear = Some(ear.clone()));
        Ok(Some(Box::new(lookout::Netlink::new(ear, own))))
    }
}

/// The size of conntrack's hash table.
const CONNTRACK_BUCKETS: &str = "/sys/module/nf_conntrack/parameters/hashsize";

/// CPUs as the machine has them; those that this process may use say too little of how many
/// connections there will be (kubernetes/kubernetes#99225).
fn cpus() -> u64 {
    let is_cpu = |name: &str| {
        let number = name.strip_prefix("cpu").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    let listed = std::fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
    let found = listed.filter(|entry| entry.file_name().to_str().is_some_and(is_cpu)).count();
    let usable = || std::thread::available_parallelism().map_or(1, usize::from);
    if found > 0 { found as u64 } else { usable() as u64 }
}

/// The file of a sysctl; a path that would leave `/proc/sys` is refused.
fn sysctl_path(path: &str) -> Result<std::path::PathBuf, Error> {
    if path.split('/').any(|part| part.is_empty() || part == "..") {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("sysctl {path}"),
            "not a sysctl's path",
        ));
    }
    Ok(std::path::Path::new("/proc/sys").join(path))
}

fn io_error(verb: &str, file: &std::path::Path, error: &std::io::Error) -> Error {
    let kind = error.raw_os_error().map_or(ErrorKind::Broken, Error::kind_of_errno);
    Error::new(kind, format!("{verb} {}", file.display()), error.to_string())
}

fn addresses() -> Result<Vec<std::net::IpAddr>, Error> {
    let list = nix::ifaddrs::getifaddrs()
        .map_err(|e| Error::new(Error::kind_of_errno(e as i32), "getifaddrs", e.desc()))?;
    Ok(list.filter_map(|entry| address_of(&entry.address?)).collect())
}

fn address_of(storage: &nix::sys::socket::SockaddrStorage) -> Option<std::net::IpAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(v4.ip().into());
    }
    storage.as_sockaddr_in6().map(|v6| v6.ip().into())
}
