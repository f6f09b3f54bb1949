//! The verbs of a host for IPVS. The functions stand at the hooks as long as there is a service of the family.
//! It must never know how packets are handled. Tests: tests/ipvs.rs.

use super::hook::PLACES;
use super::service::{
    Destination, IpvsError, IpvsStats, IpvsSysctls, IpvsTimeouts, Service, ServiceKey,
};
use super::{IpvsConnection, wire};
use crate::facilities::Facility;
use crate::hooks::{At, List};
use crate::host::Host;
use std::net::IpAddr;

impl Host {
    /// Adds a virtual service; EEXIST when there is one of the key.
    pub fn ipvs_add_service(&mut self, service: Service) -> Result<(), IpvsError> {
        self.ipvs_change(|ipvs| ipvs.add_service(service))
    }

    /// Changes a service's scheduler, flags and persistence; its destinations and connections stay.
    pub fn ipvs_edit_service(&mut self, service: Service) -> Result<(), IpvsError> {
        self.ipvs_change(|ipvs| ipvs.edit_service(service))
    }

    /// Deletes a service with its destinations.
    pub fn ipvs_delete_service(&mut self, key: &ServiceKey) -> Result<(), IpvsError> {
        self.ipvs_change(|ipvs| ipvs.delete_service(key))
    }

    /// Deletes all services.
    pub fn ipvs_flush(&mut self) {
        let _ = self.ipvs_change(|ipvs| {
            ipvs.flush();
            Ok(())
        });
    }

    /// Adds a destination to a service.
    pub fn ipvs_add_destination(
        &mut self,
        key: &ServiceKey,
        dest: Destination,
    ) -> Result<(), IpvsError> {
        self.ipvs_change(|ipvs| ipvs.add_destination(key, dest))
    }

    /// Changes a destination's weight and thresholds.
    pub fn ipvs_edit_destination(
        &mut self,
        key: &ServiceKey,
        dest: Destination,
    ) -> Result<(), IpvsError> {
        self.ipvs_change(|ipvs| ipvs.edit_destination(key, dest))
    }

    /// Removes a destination; its connections stay, and their packets are dropped until it comes back.
    pub fn ipvs_delete_destination(
        &mut self,
        key: &ServiceKey,
        address: IpAddr,
        port: u16,
    ) -> Result<(), IpvsError> {
        self.ipvs_change(|ipvs| ipvs.delete_destination(key, address, port))
    }

    /// All services, in the order of their keys.
    pub fn ipvs_services(&self) -> Vec<Service> {
        self.facilities().ipvs.services.values().map(|one| one.service.clone()).collect()
    }

    /// The destinations of a service, the last added first.
    pub fn ipvs_destinations(&self, key: &ServiceKey) -> Vec<Destination> {
        let ipvs = &self.facilities().ipvs;
        let dests = ipvs.services.get(key).map(|one| one.dests.as_slice()).unwrap_or_default();
        let reals = dests.iter().filter_map(|&id| ipvs.real(id));
        let values = reals.map(|real| Destination {
            address: real.address,
            port: real.port,
            weight: real.weight,
            upper: real.upper,
            lower: real.lower,
        });
        values.collect()
    }

    /// Active, inactive and persistent connections of a destination.
    pub fn ipvs_counts(
        &self,
        key: &ServiceKey,
        address: IpAddr,
        port: u16,
    ) -> Option<(u32, u32, u32)> {
        let ipvs = &self.facilities().ipvs;
        let real = ipvs.real(ipvs.find(key, address, port)?)?;
        Some((real.active, real.inactive, real.persistent))
    }

    /// Makes a destination count so many active, inactive and persistent connections, whose own are not known: for a host made
    /// again from a listing. Whether there is such a destination.
    pub fn ipvs_set_counts(
        &mut self,
        key: &ServiceKey,
        (address, port): (IpAddr, u16),
        (active, inactive, persistent): (u32, u32, u32),
    ) -> bool {
        let (ipvs, _) = self.ipvs_parts();
        let found = ipvs.find(key, address, port);
        let Some(real) = found.and_then(|id| ipvs.real_mut(id)) else { return false };
        (real.active, real.inactive, real.persistent) = (active, inactive, persistent);
        true
    }

    /// What a service has counted.
    pub fn ipvs_stats(&self, key: &ServiceKey) -> Option<IpvsStats> {
        self.facilities().ipvs.services.get(key).map(|one| one.stats)
    }

    /// Every connection, and every template of a persistent client.
    pub fn ipvs_connections(&self) -> Vec<IpvsConnection> {
        self.facilities().ipvs.connections(self.nanos())
    }

    /// Settings, to read.
    pub fn ipvs_sysctls(&self) -> &IpvsSysctls {
        &self.facilities().ipvs.sysctls
    }

    /// Settings, to change.
    pub fn ipvs_sysctls_mut(&mut self) -> &mut IpvsSysctls {
        &mut self.facilities_mut().ipvs.sysctls
    }

    /// Timeouts, to read.
    pub fn ipvs_timeouts(&self) -> IpvsTimeouts {
        self.facilities().ipvs.timeouts
    }

    /// Timeouts, to change; they count from a connection's next packet.
    pub fn ipvs_timeouts_mut(&mut self) -> &mut IpvsTimeouts {
        &mut self.facilities_mut().ipvs.timeouts
    }

    /// One generic netlink request of the IPVS family, header and all: the messages that answer it, without the acknowledgment.
    pub fn ipvs_request(&mut self, message: &[u8]) -> Result<Vec<u8>, IpvsError> {
        self.ipvs_change(|ipvs| wire::request(ipvs, message))
    }

    /// What a program writes to a generic netlink socket: every answer it then reads, acknowledgments and errors too.
    /// The families are `nlctrl` (GETFAMILY by name) and `IPVS`.
    pub fn genetlink(&mut self, bytes: &[u8]) -> Vec<u8> {
        wire::split(bytes)
            .into_iter()
            .flat_map(|message| {
                let answer = if wire::is_control(message) {
                    wire::family(message)
                } else {
                    self.ipvs_request(message)
                };
                wire::finish(message, answer)
            })
            .collect()
    }

    fn ipvs_change<T>(
        &mut self,
        change: impl FnOnce(&mut super::Ipvs) -> Result<T, IpvsError>,
    ) -> Result<T, IpvsError> {
        let (ipvs, tracker) = self.ipvs_parts();
        let count = ipvs.services.len();
        let done = change(ipvs);
        if ipvs.sysctls.expire_nodest_conn {
            ipvs.expire_lost(tracker);
        }
        if ipvs.services.len() == count {
            return done;
        }
        let wanted =
            [false, true].map(|ipv6| ipvs.services.keys().any(|key| key.is_ipv6() == ipv6));
        let before = std::mem::replace(&mut ipvs.hooked, wanted);
        for ipv6 in [false, true] {
            let family = usize::from(ipv6);
            if wanted[family] != before[family] {
                self.ipvs_hook((ipv6, wanted[family]));
            }
        }
        done
    }

    fn ipvs_hook(&mut self, (ipv6, there): (bool, bool)) {
        self.with_hooks(|hooks| {
            hooks.unregister(ipv6, Facility::Ipvs, |_| true);
            for (hook, priority, function) in PLACES.into_iter().filter(|_| there) {
                hooks.register(At { ipv6, hook }, List::Hook, priority, (Facility::Ipvs, function));
            }
        });
    }
}
