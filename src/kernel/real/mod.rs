//! The real heart: Linux, over netlink sockets of the network namespace it was opened in.
//!
//! Knows no Service and keeps no state but its sockets. Tests: `netlab` (as root); what the bytes
//! mean is tested in `sim`.

mod conntrack;
mod nftables;
mod probe;
mod socket;
pub mod survey;

use super::{Capabilities, Error, ErrorKind, Facts, Kernel, Query, Receipt, Transaction};
use socket::Netfilter;

/// Linux.
#[derive(Debug)]
pub struct Real {
    netfilter: Netfilter,
    capabilities: Capabilities,
}

impl Real {
    /// Opens the sockets in the calling thread's network namespace and probes what the kernel can
    /// do. Lacks are no error here: the caller decides which it can live with.
    pub fn open() -> Result<Real, Error> {
        let mut netfilter = Netfilter::open()?;
        let capabilities = probe::capabilities(&mut netfilter);
        Ok(Real { netfilter, capabilities })
    }
}

impl Kernel for Real {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        match transaction {
            Transaction::Nft(batch) => {
                self.netfilter.batch(&batch.bytes)?;
                Ok(Receipt { operations: batch.operations })
            }
            Transaction::ForgetFlows(flows) => conntrack::forget(&mut self.netfilter, flows),
            Transaction::Sysctl(path, value) => {
                let file = sysctl_path(path)?;
                std::fs::write(&file, value).map_err(|e| io_error("write", &file, &e))?;
                Ok(Receipt { operations: 1 })
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
            Query::Flows(family, protocol) => {
                conntrack::flows(&mut self.netfilter, *family, *protocol).map(Facts::Flows)
            }
            Query::Sysctl(path) => {
                let file = sysctl_path(path)?;
                let text =
                    std::fs::read_to_string(&file).map_err(|e| io_error("read", &file, &e))?;
                Ok(Facts::Text(text.trim_end().to_owned()))
            }
            Query::Addresses => addresses().map(Facts::Addresses),
        }
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
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
