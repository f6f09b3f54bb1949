//! userspace mode's driver: one family's listening ports in this process, and the rules, of another
//! mode's kind, that lead packets to them. It knows nothing of the other family. Tests: `tests.rs` here, `proptests`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::Report;
use super::driver::{Driver, Steers, Wanted};
use super::iptables::Iptables;
use super::nftables::Nftables;
use super::sysctls;
use crate::backend::program::{Frontend, Program};
use crate::backend::ruleset::{Ruleset, Wants};
use crate::backend::userspace::{announce, led_to_ports, ports_of, relay_address};
use crate::kernel::drift::{Foreign, Touched};
use crate::kernel::{
    Error, ErrorKind, Facts, Kernel, LinkOperation, Query, RelayKey, RelayOperation, RelayServing,
    Socket, Transaction,
};
use crate::model::{Family, NamespacedName, Notice, Protocol, Reason, Steering};

/// The device that has the address which ports are bound to.
const LOOPBACK: &str = "lo";

/// Whether a local port may be used again towards the same endpoint a second after its connection
/// ended, and not only after a minute in TIME_WAIT: the relay ends first, and 28,232 ports would do for
/// 470 connections a second with each endpoint. By timestamps, which both sides have to use, the new
/// connection is told from the old one (`Documentation/networking/ip-sysctl.rst` of Linux).
const REUSE_PORTS: &str = "net/ipv4/tcp_tw_reuse";

/// What stands for a port until the relay has said which it is.
const NOT_ASKED: &str = "not asked for yet";

/// One family.
#[derive(Debug)]
pub(super) struct Userspace {
    family: Family,
    rules: Box<dyn Steers>,
    /// Whether the relay, its address and its guard are there.
    ready: bool,
    /// Whether ports that could not be had are to be asked for again.
    again: bool,
    /// Whether it was said that the sysctl could not be set.
    warned: bool,
    /// What each port serves, and for which frontends.
    served: BTreeMap<RelayKey, Served>,
    /// The ports each frontend uses.
    used: BTreeMap<Frontend, Vec<RelayKey>>,
    notices: BTreeMap<Frontend, Notice>,
}

/// A listening port.
#[derive(Debug)]
struct Served {
    serving: RelayServing,
    /// Where, or why not; an error until the relay has taken in what is to be served.
    port: Result<u16, String>,
    frontends: BTreeSet<Frontend>,
}

/// What is wanted, led to the ports.
struct Led<'a> {
    ruleset: &'a Ruleset,
    family: Family,
    served: &'a BTreeMap<RelayKey, Served>,
}

impl Wants for Led<'_> {
    fn program(&self, frontend: &Frontend) -> Option<Arc<Program>> {
        let program = self.ruleset.program(frontend)?;
        let port = |key: &RelayKey| self.served.get(key)?.port.clone().ok();
        Some(Arc::new(led_to_ports(&program, self.family, port)))
    }

    fn frontends(&self) -> BTreeSet<Frontend> {
        self.ruleset.frontends().copied().collect()
    }

    fn service_cidrs(&self) -> &[IpNet] {
        &self.ruleset.service_cidrs
    }

    fn health_check_ports(&self) -> BTreeMap<u16, &NamespacedName> {
        self.ruleset.health_check_ports()
    }

    fn claimed(&self, service: &NamespacedName) -> &[Frontend] {
        Wants::claimed(self.ruleset, service)
    }
}

impl Driver for Userspace {
    fn is_unknown(&self) -> bool {
        self.rules.is_unknown()
    }

    fn is_behind(&self) -> bool {
        self.again || self.rules.is_behind()
    }

    fn distrust(&mut self) {
        self.ready = false;
        self.rules.distrust();
    }

    fn look(&mut self, kernel: &mut dyn Kernel) -> Result<Option<String>, Error> {
        // Whoever had a port may have left it meanwhile.
        self.again = self.served.values().any(|served| served.port.is_err());
        match kernel.read(&Query::Addresses)? {
            Facts::Addresses(all) if !all.contains(&relay_address(self.family)) => {
                Ok(Some(format!("the address {} is gone", relay_address(self.family))))
            }
            _ => self.rules.look(kernel),
        }
    }

    fn minds(&self, change: &Touched) -> bool {
        self.rules.minds(change)
    }

    fn suspects(&mut self, foreign: &Foreign) -> bool {
        self.rules.suspects(foreign)
    }

    fn bring(
        &mut self,
        kernel: &mut dyn Kernel,
        wanted: Wanted<'_>,
        report: &mut Report,
    ) -> Result<(), Error> {
        if !self.ready {
            self.prepare(kernel, &wanted)?;
        }
        let everything = self.rules.is_unknown();
        let mut changed = wanted.changed;
        if everything {
            changed.extend(wanted.ruleset.frontends());
            changed.extend(self.used.keys());
        }
        // A port that was not to be had may be had now.
        self.again = false;
        changed.extend(self.notices.keys());
        let left = self.serve(kernel, (wanted.ruleset, &changed), report)?;
        let led = Led { ruleset: wanted.ruleset, family: self.family, served: &self.served };
        self.rules.steer(kernel, (&led, wanted.options), changed, report)?;
        self.stop(kernel, left, report)
    }

    fn settle(&mut self, kernel: &mut dyn Kernel, report: &mut Report) -> Result<(), Error> {
        self.rules.settle(kernel, report)
    }

    fn tidy(&mut self, kernel: &mut dyn Kernel, report: &mut Report) -> Result<(), Error> {
        self.rules.tidy(kernel, report)
    }

    fn answers(&self) -> Vec<(Frontend, Socket)> {
        let address = relay_address(self.family);
        let socket = |key| Some(Socket { address, port: self.served.get(key)?.port.clone().ok()? });
        let all = self.used.iter().flat_map(|(frontend, keys)| {
            keys.iter().filter_map(socket).map(|socket| (*frontend, socket))
        });
        all.collect()
    }

    fn notices(&self) -> Vec<Notice> {
        let all: BTreeSet<Notice> = self.notices.values().cloned().collect();
        all.into_iter().collect()
    }
}

impl Userspace {
    pub(super) fn new(family: Family, steering: Steering) -> Userspace {
        let rules: Box<dyn Steers> = match steering {
            Steering::Nftables => Box::new(Nftables::new(family)),
            Steering::Iptables => Box::new(Iptables::leading_to(family, relay_address(family))),
        };
        Userspace {
            family,
            rules,
            ready: false,
            again: false,
            warned: false,
            served: BTreeMap::new(),
            used: BTreeMap::new(),
            notices: BTreeMap::new(),
        }
    }

    /// The guard first, so that nobody reaches a port but by our rules; then the address, then
    /// the relay.
    fn prepare(&mut self, kernel: &mut dyn Kernel, wanted: &Wanted<'_>) -> Result<(), Error> {
        self.rules.guard(kernel, wanted.options)?;
        let address = relay_address(self.family);
        let add = LinkOperation::AddHiddenAddress(LOOPBACK.to_owned(), address);
        match kernel.apply(&Transaction::Links(vec![add])) {
            Err(e) if e.kind != ErrorKind::Exists => return Err(e),
            _ => {}
        }
        if let Err(error) = reuse_ports(kernel) {
            use ErrorKind::{Absent, Denied, Invalid, Unsupported};
            if !matches!(error.kind, Absent | Denied | Invalid | Unsupported) {
                return Err(error);
            }
            // Without it connections are carried as well, but fewer in a second.
            if !std::mem::replace(&mut self.warned, true) {
                tracing::warn!("cannot set {REUSE_PORTS} to 1: {error}; run --init-only first");
            }
        }
        let start = RelayOperation::Start(wanted.options.relay.clone());
        kernel.apply(&Transaction::Relay(vec![start]))?;
        self.ready = true;
        Ok(())
    }

    /// Opens and changes ports as these frontends want it; gives the ports that nobody uses now.
    fn serve(
        &mut self,
        kernel: &mut dyn Kernel,
        (ruleset, changed): (&Ruleset, &BTreeSet<Frontend>),
        report: &mut Report,
    ) -> Result<Vec<RelayKey>, Error> {
        let mut operations = BTreeMap::new();
        let mut left = BTreeSet::new();
        for frontend in changed {
            let program = ruleset.program(frontend);
            let ports = program.as_ref().map(|p| ports_of(p, self.family)).unwrap_or_default();
            self.note(frontend, program.as_deref());
            left.extend(self.let_go(frontend));
            for (key, serving) in &ports {
                self.use_port(frontend, (key, serving), &mut operations);
            }
            if !ports.is_empty() {
                let keys = ports.into_iter().map(|(key, _)| key).collect();
                self.used.insert(*frontend, keys);
            }
        }
        self.apply(kernel, operations, report)?;
        // Ports that a sync which failed did not come to stop are idle as well.
        if self.rules.is_unknown() {
            left.extend(self.served.keys().cloned());
        }
        Ok(left.into_iter().filter(|key| self.is_idle(key)).collect())
    }

    /// A frontend uses none of its ports any more; gives them.
    fn let_go(&mut self, frontend: &Frontend) -> Vec<RelayKey> {
        let keys = self.used.remove(frontend).unwrap_or_default();
        for key in &keys {
            if let Some(served) = self.served.get_mut(key) {
                served.frontends.remove(frontend);
            }
        }
        keys
    }

    fn is_idle(&self, key: &RelayKey) -> bool {
        self.served.get(key).is_some_and(|served| served.frontends.is_empty())
    }

    fn use_port(
        &mut self,
        frontend: &Frontend,
        (key, serving): (&RelayKey, &RelayServing),
        operations: &mut BTreeMap<RelayKey, RelayOperation>,
    ) {
        let new = || Served {
            serving: serving.clone(),
            port: Err(NOT_ASKED.to_owned()),
            frontends: BTreeSet::new(),
        };
        let served = self.served.entry(key.clone()).or_insert_with(new);
        served.frontends.insert(*frontend);
        if served.serving != *serving || served.port.is_err() {
            served.serving = serving.clone();
            served.port = Err(NOT_ASKED.to_owned());
            let serve = RelayOperation::Serve(key.clone(), serving.clone());
            operations.insert(key.clone(), serve);
        }
    }

    fn apply(
        &mut self,
        kernel: &mut dyn Kernel,
        operations: BTreeMap<RelayKey, RelayOperation>,
        report: &mut Report,
    ) -> Result<(), Error> {
        if operations.is_empty() {
            return Ok(());
        }
        let keys: Vec<RelayKey> = operations.keys().cloned().collect();
        report.operations += operations.len();
        kernel.apply(&Transaction::Relay(operations.into_values().collect()))?;
        let facts = match kernel.read(&Query::RelayPorts(keys))? {
            Facts::RelayPorts(facts) => facts,
            other => super::unreachable_answer("ports", &other)?,
        };
        for fact in facts {
            let Some(served) = self.served.get_mut(&fact.key) else { continue };
            served.port = fact.port;
            if let Err(why) = &served.port {
                let frontends = served.frontends.clone();
                let notice = without_port(&fact.key, why);
                self.notices.extend(frontends.into_iter().map(|f| (f, notice.clone())));
            }
        }
        Ok(())
    }

    /// After the rules: nobody is led there any more.
    fn stop(
        &mut self,
        kernel: &mut dyn Kernel,
        keys: Vec<RelayKey>,
        report: &mut Report,
    ) -> Result<(), Error> {
        if keys.is_empty() {
            return Ok(());
        }
        report.operations += keys.len();
        let operations = keys.iter().cloned().map(RelayOperation::Stop).collect();
        kernel.apply(&Transaction::Relay(operations))?;
        keys.iter().for_each(|key| drop(self.served.remove(key)));
        Ok(())
    }

    /// What this mode cannot do for a frontend.
    fn note(&mut self, frontend: &Frontend, program: Option<&Program>) {
        let lack = program.and_then(|program| {
            let notice = |field: &str, message: &str| Notice {
                kind: "Service",
                object: program.origin.service.clone(),
                field: field.to_owned(),
                reason: Reason::Unsupported,
                message: message.to_owned(),
            };
            if frontend.protocol == Protocol::Sctp {
                let said = format!(
                    "port {} is SCTP, which userspace mode does not carry: it is refused",
                    frontend.port
                );
                return Some(notice("spec.ports", &said));
            }
            announce(program).is_none().then(|| {
                let said = "the only value is v2; endpoints are not told of their clients";
                notice("metadata.annotations[kube-proxy.io/proxy-protocol]", said)
            })
        });
        match lack {
            Some(notice) => self.notices.insert(*frontend, notice),
            None => self.notices.remove(frontend),
        };
    }
}

/// Lets local ports be used again soon.
pub(super) fn reuse_ports(kernel: &mut dyn Kernel) -> Result<(), Error> {
    if sysctls::value(kernel, REUSE_PORTS)?.as_deref() == Some("1") {
        return Ok(());
    }
    kernel.apply(&Transaction::Sysctl(REUSE_PORTS.to_owned(), "1".to_owned()))?;
    Ok(())
}

fn without_port(key: &RelayKey, why: &str) -> Notice {
    Notice {
        kind: "Service",
        object: key.origin.service.clone(),
        field: String::new(),
        reason: Reason::Unsupported,
        message: format!(
            "no local port for {} ({}): {why}; its connections are refused, and it is tried again",
            key.origin, key.family
        ),
    }
}
