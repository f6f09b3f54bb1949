//! The services of a host and their destinations, and how they are changed. A destination that is removed while connections hold
//! it stays in the trash, and is the same again when it is added again. Facts from ip_vs_ctl.c.
//! It must never know packets. Tests: tests/ipvs.rs, tests/ipvs_wire.rs.

use super::conn::{Flow, Flows};
use super::hashing::{self, Slots};
use super::locality::{Cache, Kept};
use super::schedule::{Cursor, Weights};
use super::service::{
    Destination, IpvsError, IpvsStats, IpvsSysctls, IpvsTimeouts, Scheduler, Service, ServiceKey,
    flags,
};
use crate::hash::FastMap;
use crate::nft::Errno;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Place of a destination in the table.
pub(super) type DestId = u32;

/// The most destinations of a service whose scheduler is `mh`.
const MOST_MAGLEV: usize = 4093;

/// A destination and what it counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Real {
    pub(super) service: ServiceKey,
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) weight: i32,
    /// The last weight that was not zero, which Maglev's table is made of.
    pub(super) last_weight: i32,
    pub(super) upper: u32,
    pub(super) lower: u32,
    /// Its service has it.
    pub(super) available: bool,
    pub(super) overloaded: bool,
    pub(super) active: u32,
    pub(super) inactive: u32,
    pub(super) persistent: u32,
    pub(super) stats: IpvsStats,
}

impl Real {
    pub(super) fn takes(&self) -> bool {
        self.weight > 0 && !self.overloaded
    }

    pub(super) fn is_held(&self) -> bool {
        self.active + self.inactive + self.persistent > 0
    }
}

/// A service with its destinations, the last added first.
#[derive(Clone, Debug)]
pub(super) struct Virtual {
    pub(super) service: Service,
    pub(super) dests: Vec<DestId>,
    pub(super) cursor: Cursor,
    pub(super) weights: Weights,
    pub(super) slots: Slots,
    pub(super) cache: Cache,
    pub(super) stats: IpvsStats,
}

/// IPVS of one host.
#[derive(Debug, Default)]
pub(crate) struct Ipvs {
    pub(super) services: BTreeMap<ServiceKey, Virtual>,
    pub(super) reals: Vec<Option<Real>>,
    free: Vec<DestId>,
    trash: FastMap<(ServiceKey, IpAddr, u16), DestId>,
    pub(super) flows: Flows,
    pub(super) sysctls: IpvsSysctls,
    pub(super) timeouts: IpvsTimeouts,
    /// Did IPv4 or IPv6 have a service? Then its functions stand at the hooks.
    pub(super) hooked: [bool; 2],
    pub(super) journal: Option<Vec<Undo>>,
}

/// What a dry run takes back.
#[derive(Debug)]
pub(super) enum Undo {
    Real(DestId, Option<Box<Real>>),
    Cursor(ServiceKey, Cursor, IpvsStats),
    Flow(Flow, Option<Box<super::conn::Conn>>),
    Template(u64, Option<Box<super::conn::Template>>),
    Kept(ServiceKey, IpAddr, Option<Box<Kept>>),
}

fn absent(key: &ServiceKey) -> IpvsError {
    IpvsError::new(Errno::ESRCH, format!("there is no service {key:?}"))
}

impl Ipvs {
    pub(super) fn add_service(&mut self, service: Service) -> Result<(), IpvsError> {
        if self.services.contains_key(&service.key) {
            return Err(IpvsError::new(
                Errno::EEXIST,
                format!("service {:?} is there", service.key),
            ));
        }
        check_netmask(&service)?;
        let key = service.key;
        let made = Virtual {
            service: Service { flags: service.flags | flags::HASHED, ..service },
            dests: Vec::new(),
            cursor: Cursor::default(),
            weights: Weights::default(),
            slots: Vec::new(),
            cache: Cache::new(),
            stats: IpvsStats::default(),
        };
        self.services.insert(key, made);
        self.reschedule(&key);
        Ok(())
    }

    pub(super) fn edit_service(&mut self, service: Service) -> Result<(), IpvsError> {
        let known = self.services.get_mut(&service.key).ok_or_else(|| absent(&service.key))?;
        check_netmask(&service)?;
        let key = service.key;
        if known.service.scheduler != service.scheduler {
            known.cursor = Cursor::default();
            known.cache.clear();
        }
        known.service = Service { flags: service.flags | flags::HASHED, ..service };
        self.reschedule(&key);
        Ok(())
    }

    pub(super) fn delete_service(&mut self, key: &ServiceKey) -> Result<(), IpvsError> {
        let gone = self.services.remove(key).ok_or_else(|| absent(key))?;
        gone.dests.into_iter().for_each(|id| self.discard(id));
        Ok(())
    }

    pub(super) fn flush(&mut self) {
        for (_, gone) in std::mem::take(&mut self.services) {
            gone.dests.into_iter().for_each(|id| self.discard(id));
        }
    }

    pub(super) fn zero(&mut self, only: Option<&ServiceKey>) -> Result<(), IpvsError> {
        if let Some(key) = only.filter(|key| !self.services.contains_key(key)) {
            return Err(absent(key));
        }
        let chosen = |key: &ServiceKey| only.is_none_or(|only| only == key);
        self.services
            .values_mut()
            .filter(|one| chosen(&one.service.key))
            .for_each(|one| one.stats = IpvsStats::default());
        self.reals
            .iter_mut()
            .flatten()
            .filter(|real| chosen(&real.service))
            .for_each(|real| real.stats = IpvsStats::default());
        Ok(())
    }

    /// Which of a service's destinations has this address.
    pub(super) fn find(&self, key: &ServiceKey, address: IpAddr, port: u16) -> Option<DestId> {
        let dests = &self.services.get(key)?.dests;
        dests.iter().copied().find(|&id| {
            self.real(id).is_some_and(|real| (real.address, real.port) == (address, port))
        })
    }

    pub(super) fn real(&self, id: DestId) -> Option<&Real> {
        self.reals.get(id as usize)?.as_ref()
    }

    /// For a change on the way of a packet: a dry run takes it back.
    pub(super) fn real_mut(&mut self, id: DestId) -> Option<&mut Real> {
        if let Some(journal) = &mut self.journal {
            let before = self.reals.get(id as usize).and_then(|real| real.map(Box::new));
            journal.push(Undo::Real(id, before));
        }
        self.reals.get_mut(id as usize)?.as_mut()
    }

    pub(super) fn add_destination(
        &mut self,
        key: &ServiceKey,
        dest: Destination,
    ) -> Result<(), IpvsError> {
        let service = self.services.get(key).ok_or_else(|| absent(key))?;
        let count = service.dests.len();
        let maglev = service.service.scheduler == Scheduler::Mh;
        check_destination(key, &dest)?;
        if self.find(key, dest.address, dest.port).is_some() {
            return Err(IpvsError::new(Errno::EEXIST, format!("destination {dest:?} is there")));
        }
        if maglev && count >= MOST_MAGLEV {
            return Err(IpvsError::new(Errno::EINVAL, "no more destinations fit Maglev's table"));
        }
        let id = match self.trash.remove(&(*key, dest.address, dest.port)) {
            Some(id) => id,
            None => self.place(Real::new(*key, &dest)),
        };
        if let Some(real) = self.reals[id as usize].as_mut() {
            real.update(&dest);
            real.last_weight = dest.weight;
            real.available = true;
        }
        if let Some(service) = self.services.get_mut(key) {
            service.dests.insert(0, id);
        }
        self.reschedule(key);
        Ok(())
    }

    fn place(&mut self, real: Real) -> DestId {
        match self.free.pop() {
            Some(id) => {
                self.reals[id as usize] = Some(real);
                id
            }
            None => {
                self.reals.push(Some(real));
                (self.reals.len() - 1) as DestId
            }
        }
    }

    pub(super) fn edit_destination(
        &mut self,
        key: &ServiceKey,
        dest: Destination,
    ) -> Result<(), IpvsError> {
        self.services.get(key).ok_or_else(|| absent(key))?;
        check_bounds(&dest)?;
        let id = self.find(key, dest.address, dest.port);
        let real = id.and_then(|id| self.reals[id as usize].as_mut());
        real.ok_or_else(|| no_destination(dest.address, dest.port))?.update(&dest);
        self.reschedule(key);
        Ok(())
    }

    pub(super) fn delete_destination(
        &mut self,
        key: &ServiceKey,
        address: IpAddr,
        port: u16,
    ) -> Result<(), IpvsError> {
        self.services.get(key).ok_or_else(|| absent(key))?;
        let id = self.find(key, address, port).ok_or_else(|| no_destination(address, port))?;
        if let Some(service) = self.services.get_mut(key) {
            service.cursor.forget(id, &service.dests);
            service.dests.retain(|&known| known != id);
        }
        self.discard(id);
        self.reschedule(key);
        Ok(())
    }

    /// Out of its service; into the trash as long as connections hold it.
    fn discard(&mut self, id: DestId) {
        let Some(real) = self.reals[id as usize].as_mut() else { return };
        real.available = false;
        if real.is_held() {
            self.trash.insert((real.service, real.address, real.port), id);
        } else {
            let key = real.service;
            self.reals[id as usize] = None;
            self.free.push(id);
            self.forget_kept(&key, id);
        }
    }

    /// The last connection of a trashed destination is gone. Not in a dry run, which would have to put it back.
    pub(super) fn empty_trash(&mut self, id: DestId) {
        let Some(real) = self.reals.get(id as usize).and_then(Option::as_ref) else { return };
        if real.available || real.is_held() || self.journal.is_some() {
            return;
        }
        let key = (real.service, real.address, real.port);
        if self.trash.get(&key) == Some(&id) {
            self.trash.remove(&key);
        }
        self.reals[id as usize] = None;
        self.free.push(id);
        self.forget_kept(&key.0, id);
    }

    /// What a scheduler makes of its destinations after a change.
    fn reschedule(&mut self, key: &ServiceKey) {
        let Some(service) = self.services.get(key) else { return };
        let with_real = |&id: &DestId| Some((id, *self.real(id)?));
        let dests: Vec<(DestId, Real)> = service.dests.iter().filter_map(with_real).collect();
        let slots = match service.service.scheduler {
            Scheduler::Sh => hashing::source_table(&dests),
            Scheduler::Dh => hashing::destination_table(&dests),
            Scheduler::Mh => hashing::maglev_table(&dests),
            _ => Vec::new(),
        };
        let weights = Weights::of(&dests);
        if let Some(service) = self.services.get_mut(key) {
            if service.service.scheduler == Scheduler::Wrr {
                service.cursor.follow(&weights);
            }
            (service.slots, service.weights) = (slots, weights);
        }
    }
}

impl Real {
    fn new(service: ServiceKey, dest: &Destination) -> Real {
        Real {
            service,
            address: dest.address,
            port: dest.port,
            weight: dest.weight,
            last_weight: dest.weight,
            upper: dest.upper,
            lower: dest.lower,
            available: true,
            overloaded: false,
            active: 0,
            inactive: 0,
            persistent: 0,
            stats: IpvsStats::default(),
        }
    }

    fn update(&mut self, dest: &Destination) {
        self.weight = dest.weight;
        if dest.weight != 0 {
            self.last_weight = dest.weight;
        }
        if dest.upper == 0 || dest.upper > self.upper {
            self.overloaded = false;
        }
        (self.upper, self.lower) = (dest.upper, dest.lower);
    }
}

fn no_destination(address: IpAddr, port: u16) -> IpvsError {
    IpvsError::new(Errno::ENOENT, format!("the service has no destination {address} port {port}"))
}

fn check_netmask(service: &Service) -> Result<(), IpvsError> {
    if service.key.is_ipv6() && !(1..=128).contains(&service.netmask) {
        return Err(IpvsError::new(
            Errno::EINVAL,
            format!("a prefix length of 1 to 128 expected, found {}", service.netmask),
        ));
    }
    Ok(())
}

fn check_bounds(dest: &Destination) -> Result<(), IpvsError> {
    if dest.weight < 0 || dest.lower > dest.upper {
        return Err(IpvsError::new(Errno::ERANGE, format!("weight or thresholds of {dest:?}")));
    }
    Ok(())
}

fn check_destination(key: &ServiceKey, dest: &Destination) -> Result<(), IpvsError> {
    check_bounds(dest)?;
    let fits = match dest.address {
        IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_multicast() && !v4.is_broadcast(),
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast() && !v6.is_unicast_link_local(),
    };
    if !fits || dest.address.is_ipv6() != key.is_ipv6() {
        return Err(IpvsError::new(
            Errno::EINVAL,
            format!("{} cannot be a destination here", dest.address),
        ));
    }
    Ok(())
}
