//! Finds out what the kernel lacks of what only some modes need, by doing it in a network namespace
//! of its own that goes with its thread: nobody's virtual server or device is ever touched.
//! Where no namespace may be made, it asks where it stands, and only for what can be asked without
//! a trace. Tests: the lab, native and in its guest.

use std::net::{IpAddr, Ipv4Addr};

use nix::sched::{CloneFlags, unshare};

use super::ipvs::Ipvs;
use super::socket::Netlink;
use super::{NETFILTER, ROUTE, Real};
use crate::kernel::{
    Capability, Error, ErrorKind, IpvsOperation, LinkOperation, Scheduler, Scheduling, Socket,
    VirtualServer,
};
use crate::model::Protocol;

/// The lacks among these features, in their order.
pub(super) fn among(real: &Real, wanted: &[Capability]) -> Vec<(Capability, String)> {
    let known = |wanted: &Capability| {
        real.capabilities.lacks.iter().find(|(lack, _)| lack == wanted).cloned()
    };
    let apart = std::thread::scope(|scope| {
        let probing = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).ok()?;
            Some(wanted.iter().map(|what| probe(*what)).collect::<Vec<_>>())
        });
        probing.join().ok().flatten()
    });
    let said = apart.unwrap_or_else(|| wanted.iter().map(|what| probe(*what)).collect());
    let lack = |(what, said): (&Capability, Result<(), Error>)| {
        known(what).or_else(|| said.err().map(|error| (*what, error.source)))
    };
    wanted.iter().zip(said).filter_map(lack).collect()
}

fn probe(what: Capability) -> Result<(), Error> {
    match what {
        Capability::Ipvs => Ipvs::open()?.timeouts().map(|_| ()),
        Capability::IpvsScheduler(scheduler) => probe_scheduler(scheduler),
        Capability::Ipset => super::ipset::probe(&mut Netlink::open(NETFILTER)?),
        Capability::Dummy => probe_dummy(),
        // Asked when the kernel was opened.
        _ => Ok(()),
    }
}

/// Makes a virtual server and deletes it, as the reference does (`pkg/proxy/ipvs/supported.go`), at
/// an address of documentation and at a port that is free: only what was made here is deleted.
fn probe_scheduler(scheduler: Scheduler) -> Result<(), Error> {
    let mut ipvs = Ipvs::open()?;
    let address = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 0));
    let scheduling = Scheduling { scheduler, flags: 0, persistence: None };
    for port in 20000..20010 {
        let server = VirtualServer { protocol: Protocol::Tcp, socket: Socket { address, port } };
        match ipvs.apply(&[IpvsOperation::AddServer(server, scheduling)]) {
            Ok(_) => return ipvs.apply(&[IpvsOperation::DeleteServer(server)]).map(|_| ()),
            Err(error) if error.kind == ErrorKind::Exists => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(ErrorKind::Busy, "try a scheduler", "198.51.100.0:20000-20009 are in use"))
}

fn probe_dummy() -> Result<(), Error> {
    let mut route = Netlink::open(ROUTE)?;
    let name = format!("kube-probe{}", std::process::id() % 10_000);
    super::link::apply(&mut route, &[LinkOperation::AddDummy(name.clone())])?;
    super::link::apply(&mut route, &[LinkOperation::Delete(name)]).map(|_| ())
}
