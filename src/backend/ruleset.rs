//! What is wanted of one family: every frontend, who claims it, and who has it.
//!
//! Of several Services that claim one frontend the oldest has it, always; the others are told.
//! Knows nothing of what is in the kernel. Tests: below, `proptests`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::program::{Frontend, MOST_TARGETS, Program};
use crate::model::{NamespacedName, Notice, Reason, ServicePortName};

/// What is wanted of one family.
#[derive(Debug, Default)]
pub struct Ruleset {
    claims: BTreeMap<Frontend, Vec<Arc<Program>>>,
    owned: BTreeMap<NamespacedName, Box<[Frontend]>>,
    contested: BTreeSet<Frontend>,
    /// Service ports with more endpoints than a frontend can have, and how many those are.
    overfull: BTreeMap<NamespacedName, BTreeMap<Arc<ServicePortName>, usize>>,
    health_check_ports: BTreeMap<NamespacedName, u16>,
    /// Ranges from which cluster IPs are allocated, sorted, none inside another.
    pub service_cidrs: Vec<IpNet>,
}

/// What a mode's rules are made from: frontends with their programs, and what the family shares.
pub trait Wants {
    /// What is wanted of a frontend, if anything.
    fn program(&self, frontend: &Frontend) -> Option<Arc<Program>>;
    /// Every frontend that something may be wanted of.
    fn frontends(&self) -> BTreeSet<Frontend>;
    /// Ranges from which cluster IPs are allocated, sorted, none inside another.
    fn service_cidrs(&self) -> &[IpNet];
    /// Health check node ports, each once.
    fn health_check_ports(&self) -> BTreeMap<u16, &NamespacedName>;
    /// The frontends a Service claims.
    fn claimed(&self, service: &NamespacedName) -> &[Frontend];
}

impl Wants for Ruleset {
    fn program(&self, frontend: &Frontend) -> Option<Arc<Program>> {
        Ruleset::program(self, frontend)
    }

    fn frontends(&self) -> BTreeSet<Frontend> {
        self.claims.keys().copied().collect()
    }

    fn service_cidrs(&self) -> &[IpNet] {
        &self.service_cidrs
    }

    fn health_check_ports(&self) -> BTreeMap<u16, &NamespacedName> {
        Ruleset::health_check_ports(self)
    }

    fn claimed(&self, service: &NamespacedName) -> &[Frontend] {
        self.owned.get(service).map_or(&[], |frontends| frontends)
    }
}

impl Ruleset {
    /// Puts what a Service wants in the place of what it wanted before; empty if it is gone.
    /// Gives the frontends that changed hands or content.
    pub fn replace(
        &mut self,
        service: &NamespacedName,
        programs: Vec<(Frontend, Program)>,
    ) -> BTreeSet<Frontend> {
        let mut new: BTreeMap<Frontend, Program> = BTreeMap::new();
        for (frontend, program) in programs {
            new.entry(frontend).or_insert(program);
        }
        self.set_overfull(service, new.values());
        let mut touched = BTreeSet::new();
        for frontend in self.owned.remove(service).unwrap_or_default() {
            if !new.contains_key(&frontend) {
                self.drop_claim(service, &frontend);
                touched.insert(frontend);
            }
        }
        if !new.is_empty() {
            self.owned.insert(service.clone(), new.keys().copied().collect());
        }
        for (frontend, program) in new {
            if self.claim(service, frontend, program) {
                touched.insert(frontend);
            }
        }
        touched
    }

    fn set_overfull<'p>(
        &mut self,
        service: &NamespacedName,
        programs: impl Iterator<Item = &'p Program>,
    ) {
        let over = programs.filter(|program| program.left_out > 0);
        let over: BTreeMap<_, _> = over.map(|p| (p.origin.clone(), p.left_out)).collect();
        if over.is_empty() {
            self.overfull.remove(service);
        } else {
            self.overfull.insert(service.clone(), over);
        }
    }

    /// Whether the claim is other than it was.
    fn claim(&mut self, service: &NamespacedName, frontend: Frontend, program: Program) -> bool {
        let claims = self.claims.entry(frontend).or_default();
        match claims.iter_mut().find(|c| c.origin.service == *service) {
            Some(old) if **old == program => return false,
            Some(old) => *old = Arc::new(program),
            None => claims.push(Arc::new(program)),
        }
        claims.sort_by(|a, b| a.precedence().cmp(&b.precedence()));
        if claims.len() > 1 {
            self.contested.insert(frontend);
        }
        true
    }

    fn drop_claim(&mut self, service: &NamespacedName, frontend: &Frontend) {
        let Some(claims) = self.claims.get_mut(frontend) else { return };
        claims.retain(|c| c.origin.service != *service);
        if claims.len() < 2 {
            self.contested.remove(frontend);
        }
        if claims.is_empty() {
            self.claims.remove(frontend);
        }
    }

    /// Sets or takes away a Service's health check node port; gives whether that changes anything.
    pub fn set_health_check_port(&mut self, service: &NamespacedName, port: Option<u16>) -> bool {
        let before = match port {
            Some(port) => self.health_check_ports.insert(service.clone(), port),
            None => self.health_check_ports.remove(service),
        };
        before != port
    }

    /// Health check node ports, each once.
    pub fn health_check_ports(&self) -> BTreeMap<u16, &NamespacedName> {
        self.health_check_ports.iter().rev().map(|(name, port)| (*port, name)).collect()
    }

    /// What is wanted of a frontend, if anything. An address that an older Service has as its
    /// external IP stays the cluster IP of the Service it was allocated to, with its guard.
    pub fn program(&self, frontend: &Frontend) -> Option<Arc<Program>> {
        let (winner, losers) = self.claims.get(frontend)?.split_first()?;
        if winner.cluster_ip || losers.iter().all(|loser| !loser.cluster_ip) {
            return Some(winner.clone());
        }
        Some(Arc::new(Program { cluster_ip: true, ..Program::clone(winner) }))
    }

    /// The frontends a Service claims.
    pub fn claimed(&self, service: &NamespacedName) -> impl Iterator<Item = &Frontend> {
        self.owned.get(service).into_iter().flatten()
    }

    /// What a Service wants, in the order of its frontends.
    pub fn wanted_of(&self, service: &NamespacedName) -> Vec<(Frontend, Program)> {
        let own = |frontend: &Frontend| {
            let claims = self.claims.get(frontend)?;
            let claim = claims.iter().find(|claim| claim.origin.service == *service)?;
            Some((*frontend, Program::clone(claim)))
        };
        self.claimed(service).filter_map(own).collect()
    }

    /// Services that claim a frontend which another one claims as well.
    pub fn contenders(&self) -> impl Iterator<Item = &NamespacedName> {
        let claims = self.contested.iter().filter_map(|frontend| self.claims.get(frontend));
        claims.flatten().map(|program| &program.origin.service)
    }

    /// Every frontend that something is wanted of.
    pub fn frontends(&self) -> impl Iterator<Item = &Frontend> {
        self.claims.keys()
    }

    /// What of all claims cannot be met: frontends that another Service has, endpoints beyond the
    /// most that a frontend can have.
    pub fn notices(&self) -> Vec<Notice> {
        let overfull = self.overfull.values().flatten();
        let overfull = overfull.map(|(port, left_out)| too_many(port, *left_out));
        self.conflicts().into_iter().chain(overfull).collect()
    }

    /// Services that do not have a frontend they claim, one Notice each.
    fn conflicts(&self) -> Vec<Notice> {
        let mut notices = Vec::new();
        for frontend in &self.contested {
            let Some((winner, losers)) = self.claims.get(frontend).and_then(|c| c.split_first())
            else {
                continue;
            };
            notices.extend(losers.iter().map(|loser| conflict(frontend, winner, loser)));
        }
        notices
    }
}

fn too_many(port: &ServicePortName, left_out: usize) -> Notice {
    Notice {
        kind: "Service",
        object: port.service.clone(),
        field: String::new(),
        reason: Reason::Unsupported,
        message: format!(
            "{port} has more than {MOST_TARGETS} endpoints; {left_out} of them get no traffic: \
             make it several Services"
        ),
    }
}

fn conflict(frontend: &Frontend, winner: &Program, loser: &Program) -> Notice {
    let field = match frontend.address {
        Some(address) => format!("address {address}"),
        None => "nodePort".to_owned(),
    };
    Notice {
        kind: "Service",
        object: loser.origin.service.clone(),
        field,
        reason: Reason::AddressConflict,
        message: format!(
            "{} port {} belongs to the older Service port {}; {} does not get it",
            frontend.protocol, frontend.port, winner.origin, loser.origin
        ),
    }
}
