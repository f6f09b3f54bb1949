//! Reads all of this node that decides what becomes of a packet: links, routes, sysctls, nf_tables,
//! iptables, ipsets, conntrack. It changes nothing, and says by name what it could not read.
//!
//! It must never know Services or judge what it finds. Tests: `netlab` (trace and check).

mod conntrack;
mod ipvs;
mod links;
mod nft;
mod routes;
mod sysctls;
mod tools;

use super::socket::Netlink;
use crate::kernel::survey::{ConnectionFact, Lack, Survey};
use crate::kernel::{Error, ErrorKind, FlowFact};

/// Whether conntrack entries are wanted; there may be hundreds of thousands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flows {
    /// None of them.
    None,
    /// All of them.
    All,
}

/// Reads the network namespace of the calling thread. Fails only where nothing at all can be said:
/// without the right to ask. `progress` is told what is read next.
pub fn survey(flows: Flows, progress: &mut dyn FnMut(&str)) -> Result<Survey, Error> {
    let mut netfilter = Netlink::open(super::NETFILTER)?;
    let mut route = Netlink::open(super::ROUTE)?;
    let mut found = Survey {
        host: nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned(),
        kernel: sysctls::text("kernel/osrelease").unwrap_or_default(),
        ..Survey::default()
    };
    progress("links, routes and sysctls");
    links::read(&mut route, &mut found)?;
    routes::read(&mut route, &mut found)?;
    sysctls::read(&mut found);
    progress("iptables and ipsets");
    // By their chains it shows which tables iptables-nft has made.
    found.nft = nft::chains(&mut netfilter, &mut found)?;
    tools::read(&mut netfilter, &mut found);
    progress("nf_tables");
    nft::read(&mut netfilter, &mut found, progress)?;
    ipvs::read(&mut found);
    if flows == Flows::All {
        progress("conntrack entries");
        if let Err(error) = conntrack::read(&mut netfilter, &mut found) {
            lack(&mut found, "conntrack entries", &error.to_string());
        }
    }
    found.lacks.sort();
    found.lacks.dedup();
    Ok(found)
}

/// The conntrack entry that a packet belongs to, if there is one; asked in the network namespace of
/// the calling thread.
pub fn flow(packet: &FlowFact) -> Result<Option<ConnectionFact>, Error> {
    conntrack::read_one(&mut Netlink::open(super::NETFILTER)?, packet)
}

fn lack(found: &mut Survey, what: impl Into<String>, why: &str) {
    found.lacks.push(Lack { what: what.into(), why: why.to_owned() });
}

/// Takes an error for a lack, unless it says that we have no right to ask at all.
fn or_lack<T>(
    found: &mut Survey,
    what: &str,
    read: Result<Vec<T>, Error>,
) -> Result<Vec<T>, Error> {
    match read {
        Ok(list) => Ok(list),
        Err(error) if error.kind == ErrorKind::Denied => Err(error),
        Err(error) => {
            lack(found, what, &error.to_string());
            Ok(Vec::new())
        }
    }
}
