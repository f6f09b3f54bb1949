//! Health check node ports: one small server for each Service of type LoadBalancer with external
//! policy Local, which says how many of its endpoints are on this node. Load balancers ask it.
//! Behaviour: `pkg/proxy/healthcheck/service_health.go` (line 82 of upstream-behaviour.md).
//! It must never know a proxy mode or the kernel. Tests: `tests.rs` beside this.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};

use super::{Health, RETRY, bind, json};
use crate::model::{Family, NamespacedName, Notice, Reason, Service};
use crate::topology;
use crate::track::{Changes, Cluster};

/// Health check node ports. Clones share the same ports.
#[derive(Clone, Debug)]
pub struct HealthChecks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    health: Health,
    state: Mutex<State>,
    /// Ports or addresses changed: listeners must be opened or closed.
    changed: Notify,
    /// The failures changed: somebody should be told.
    noticed: Notify,
}

#[derive(Debug, Default)]
struct State {
    addresses: BTreeSet<IpAddr>,
    checks: BTreeMap<NamespacedName, Check>,
    failures: BTreeMap<Place, String>,
}

/// A Service on one of the node's addresses.
type Place = (NamespacedName, IpAddr);

/// What the health check port of one Service answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Check {
    port: u16,
    /// Ready endpoints on this node, by family; `None` where the Service has no cluster IP.
    local: [Option<usize>; 2],
}

impl Check {
    fn of(cluster: &Cluster, service: &Service) -> Option<Check> {
        let count = |family| {
            service.cluster_ip(family)?;
            Some(topology::local_ready(cluster, service, family))
        };
        Some(Check { port: service.health_check_node_port?, local: Family::ALL.map(count) })
    }

    fn local(&self, family: Family) -> Option<usize> {
        self.local[family.index()]
    }

    /// Where and in which families it listens; counts may change without a listener to change.
    fn listens_like(&self, other: &Check) -> bool {
        self.port == other.port
            && self.local.map(|l| l.is_some()) == other.local.map(|l| l.is_some())
    }
}

impl HealthChecks {
    /// No ports yet. Answers are 503 while `health` is bad.
    pub fn new(health: Health) -> HealthChecks {
        let (state, changed, noticed) = (Mutex::default(), Notify::new(), Notify::new());
        HealthChecks { shared: Arc::new(Shared { health, state, changed, noticed }) }
    }

    /// Listens on these addresses of the node from now on; `0.0.0.0` and `::` are all of a family.
    /// To be told none of a family that the host has not.
    pub fn listen_on(&self, addresses: BTreeSet<IpAddr>) {
        let mut state = self.shared.state();
        if state.addresses != addresses {
            state.addresses = addresses;
            self.shared.changed.notify_one();
        }
    }

    /// Takes in the Services that changed.
    pub fn update(&self, cluster: &Cluster, changes: &Changes) {
        let mut state = self.shared.state();
        let mut moved = false;
        for name in &changes.services {
            let new = cluster.service(name).and_then(|s| Check::of(cluster, s));
            let old = match new {
                Some(check) => state.checks.insert(name.clone(), check),
                None => state.checks.remove(name),
            };
            moved |= match (old, new) {
                (Some(old), Some(new)) => !old.listens_like(&new),
                (old, new) => old.is_some() || new.is_some(),
            };
        }
        if moved {
            self.shared.changed.notify_one();
        }
    }

    /// The ports that cannot be listened on now.
    pub fn notices(&self) -> Vec<Notice> {
        let state = self.shared.state();
        let notice = |((service, _), message): (&Place, &String)| Notice {
            kind: "Service",
            object: service.clone(),
            field: "spec.healthCheckNodePort".into(),
            reason: Reason::HealthCheckPort,
            message: message.clone(),
        };
        state.failures.iter().map(notice).collect()
    }

    /// Waits until `notices` says something else than when this last returned. For one waiter.
    pub async fn notices_changed(&self) {
        self.shared.noticed.notified().await;
    }

    /// Serves for ever; dropping the future closes every port.
    pub async fn run(&self) {
        let mut listeners = Listeners::default();
        loop {
            let failures = listeners.become_like(&self.shared).await;
            let retry = !failures.is_empty();
            let before = std::mem::replace(&mut self.shared.state().failures, failures.clone());
            if before != failures {
                self.shared.noticed.notify_one();
            }
            let changed = self.shared.changed.notified();
            if retry {
                let _ = tokio::time::timeout(RETRY, changed).await;
            } else {
                changed.await;
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wanted(&self) -> BTreeMap<Place, u16> {
        let state = self.state();
        let mut wanted = BTreeMap::new();
        for (name, check) in &state.checks {
            let here = state.addresses.iter().filter(|a| check.local(Family::of(**a)).is_some());
            wanted.extend(here.map(|a| ((name.clone(), *a), check.port)));
        }
        wanted
    }

    fn answer(&self, (name, address): &Place) -> Response {
        let check = self.state().checks.get(name).copied();
        let Some(count) = check.and_then(|c| c.local(Family::of(*address))) else {
            // Its port is being closed this moment. The reference's empty 200 would draw traffic.
            return StatusCode::NOT_FOUND.into_response();
        };
        let healthy = self.health.is_healthy(Instant::now());
        let ok = count != 0 && healthy;
        let body = format!(
            "{{\n\t\"service\": {{\n\t\t\"namespace\": {:?},\n\t\t\"name\": {:?}\n\t}},\n\t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": {healthy}\n}}",
            name.namespace, name.name
        );
        let weight = HeaderName::from_static("x-load-balancing-endpoint-weight");
        ([(weight, count.to_string())], json(ok, body)).into_response()
    }
}

/// The ports that are open.
#[derive(Default)]
struct Listeners {
    open: BTreeMap<Place, Open>,
}

struct Open {
    port: u16,
    /// Dropped, it ends the server.
    stop: oneshot::Sender<()>,
    /// Ends when the port is free again.
    closed: oneshot::Receiver<()>,
}

impl Listeners {
    /// Closes and opens what differs; a port that stays is not touched. Says what failed.
    async fn become_like(&mut self, shared: &Arc<Shared>) -> BTreeMap<Place, String> {
        let wanted = shared.wanted();
        let (kept, stale) = std::mem::take(&mut self.open)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(place, open)| wanted.get(place) == Some(&open.port));
        self.open = kept;
        for open in stale.into_values() {
            drop(open.stop);
            let _ = open.closed.await;
        }
        let mut failures = BTreeMap::new();
        for (place, port) in wanted {
            if self.open.contains_key(&place) {
                continue;
            }
            match Open::at(shared, &place, port) {
                Ok(open) => drop(self.open.insert(place, open)),
                Err(error) => {
                    let at = SocketAddr::new(place.1, port);
                    let message = format!(
                        "cannot listen on {at} for health checks: {error}; trying again every {} s",
                        RETRY.as_secs()
                    );
                    failures.insert(place, message);
                }
            }
        }
        failures
    }
}

impl Open {
    fn at(shared: &Arc<Shared>, place: &Place, port: u16) -> io::Result<Open> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (free, closed) = oneshot::channel();
        let listener = Announced { listener: bind(SocketAddr::new(place.1, port))?, _free: free };
        let (shared, place) = (shared.clone(), place.clone());
        let router: Router = Router::new().fallback(async move || shared.answer(&place));
        let server = axum::serve(listener, router).with_graceful_shutdown(async {
            let _ = stopped.await;
        });
        tokio::spawn(server.into_future());
        Ok(Open { port, stop, closed })
    }
}

/// A listener that lets it be known when it is closed: another Service may want its port.
struct Announced {
    listener: TcpListener,
    _free: oneshot::Sender<()>,
}

impl axum::serve::Listener for Announced {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        axum::serve::Listener::accept(&mut self.listener).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
