//! Which endpoint a connection goes to: round robin as in the reference's first mode, session
//! affinity by client address, and a rest for endpoints that failed a dial.
//!
//! Pure: time is an argument, a duration since any fixed moment. It must never know a socket.
//! After `pkg/proxy/userspace/roundrobin.go` of Kubernetes 1.25. Tests: below.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// How long an endpoint is passed over after its first failed dial; doubled by each further one.
const FIRST_REST: Duration = Duration::from_secs(1);
/// The longest an endpoint is passed over without another try.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// Clients remembered for one Service port, at most; further ones go round.
const MOST_CLIENTS: usize = 131_072;
/// Clients whose time is over that are forgotten with each connection: more than can come by it.
const FORGOTTEN: usize = 2;

/// The endpoints of one listening port, and who goes where.
#[derive(Debug, Default)]
pub struct Balancer {
    endpoints: Arc<[SocketAddr]>,
    next: usize,
    affinity: Option<Duration>,
    /// Only ever looked up, so that the order of the hash map cannot show.
    clients: HashMap<IpAddr, Client>,
    /// The same, those that were here longest ago first.
    by_age: BTreeSet<(Duration, IpAddr)>,
    resting: BTreeMap<SocketAddr, Rest>,
}

/// Where a client went.
#[derive(Clone, Copy, Debug)]
struct Client {
    endpoint: SocketAddr,
    last: Duration,
}

/// An endpoint that failed.
#[derive(Clone, Copy, Debug)]
struct Rest {
    until: Duration,
    failures: u32,
}

impl Balancer {
    /// Puts other endpoints and another affinity in the place of what was; clients of endpoints
    /// that stay go on to them.
    pub fn set(&mut self, endpoints: Arc<[SocketAddr]>, affinity: Option<Duration>) {
        let known: HashSet<&SocketAddr> = endpoints.iter().collect();
        self.resting.retain(|endpoint, _| known.contains(endpoint));
        if affinity.is_none() {
            self.clients.clear();
            self.by_age.clear();
        } else if self.endpoints.iter().any(|endpoint| !known.contains(endpoint)) {
            let Balancer { clients, by_age, .. } = self;
            clients.retain(|ip, client| {
                let stays = known.contains(&client.endpoint);
                if !stays {
                    by_age.remove(&(client.last, *ip));
                }
                stays
            });
        }
        self.endpoints = endpoints;
        self.affinity = affinity;
    }

    /// How many endpoints there are.
    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// Whether there is no endpoint.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// The endpoints.
    pub fn endpoints(&self) -> &Arc<[SocketAddr]> {
        &self.endpoints
    }

    /// The endpoint for a connection of this client that is none of those it has tried already.
    /// One that rests is given only where all others were tried or rest as well.
    pub fn choose(
        &mut self,
        client: IpAddr,
        tried: &[SocketAddr],
        now: Duration,
    ) -> Option<SocketAddr> {
        let fit = |endpoint: &SocketAddr| !tried.contains(endpoint);
        if let Some(sticky) = self.sticky(client, now).filter(|e| fit(e) && !self.rests(e, now)) {
            return Some(sticky);
        }
        let count = self.endpoints.len();
        let round = (0..count).map(|step| (self.next + step) % count);
        let awake = round.clone().find(|index| {
            let endpoint = &self.endpoints[*index];
            fit(endpoint) && !self.rests(endpoint, now)
        });
        if let Some(index) = awake {
            self.next = (index + 1) % count;
            return Some(self.endpoints[index]);
        }
        let until = |endpoint: &SocketAddr| self.resting.get(endpoint).map(|rest| rest.until);
        round.map(|index| self.endpoints[index]).filter(fit).min_by_key(until)
    }

    /// The endpoint that a client is to stay with.
    fn sticky(&self, client: IpAddr, now: Duration) -> Option<SocketAddr> {
        let timeout = self.affinity?;
        let known = self.clients.get(&client)?;
        (now < known.last + timeout).then_some(known.endpoint)
    }

    fn rests(&self, endpoint: &SocketAddr, now: Duration) -> bool {
        self.resting.get(endpoint).is_some_and(|rest| now < rest.until)
    }

    /// A connection to this endpoint was made.
    pub fn worked(&mut self, client: IpAddr, endpoint: SocketAddr, now: Duration) {
        self.resting.remove(&endpoint);
        let Some(timeout) = self.affinity else { return };
        for _ in 0..FORGOTTEN {
            match self.by_age.first() {
                Some((last, ip)) if now >= *last + timeout => {
                    let ip = *ip;
                    self.forget(ip);
                }
                _ => break,
            }
        }
        self.forget(client);
        if self.clients.len() < MOST_CLIENTS {
            self.clients.insert(client, Client { endpoint, last: now });
            self.by_age.insert((now, client));
        }
    }

    fn forget(&mut self, client: IpAddr) {
        if let Some(known) = self.clients.remove(&client) {
            self.by_age.remove(&(known.last, client));
        }
    }

    /// A dial of this endpoint failed: it rests, and nobody sticks to it.
    pub fn failed(&mut self, client: IpAddr, endpoint: SocketAddr, now: Duration) {
        if self.clients.get(&client).is_some_and(|known| known.endpoint == endpoint) {
            self.forget(client);
        }
        if !self.endpoints.contains(&endpoint) {
            return;
        }
        let rest = self.resting.entry(endpoint).or_insert(Rest { until: now, failures: 0 });
        let doubled = FIRST_REST.saturating_mul(1 << rest.failures.min(8));
        rest.until = now + doubled.min(LONGEST_REST);
        rest.failures = rest.failures.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn endpoint(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 1, 0, n], 80))
    }

    fn client(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    fn balancer(count: u8, affinity: Option<u64>) -> Balancer {
        let mut balancer = Balancer::default();
        balancer.set((1..=count).map(endpoint).collect(), affinity.map(Duration::from_secs));
        balancer
    }

    #[test]
    fn it_goes_round() {
        let mut balancer = balancer(3, None);
        let chosen: Vec<_> = (0..6).map(|_| balancer.choose(client(1), &[], NOW)).collect();
        let round = [1, 2, 3, 1, 2, 3].map(|n| Some(endpoint(n)));
        assert_eq!(chosen, round);
        assert_eq!(Balancer::default().choose(client(1), &[], NOW), None);
    }

    #[test]
    fn a_client_stays_for_its_time_and_no_longer() {
        let mut balancer = balancer(3, Some(10));
        let first = balancer.choose(client(1), &[], NOW).expect("there are three");
        balancer.worked(client(1), first, NOW);
        balancer.choose(client(2), &[], NOW);
        let at = |seconds| NOW + Duration::from_secs(seconds);
        assert_eq!(balancer.choose(client(1), &[], at(9)), Some(first));
        balancer.worked(client(1), first, at(9));
        assert_eq!(balancer.choose(client(1), &[], at(18)), Some(first));
        assert_eq!(balancer.choose(client(1), &[], at(19)), Some(endpoint(3)));
    }

    #[test]
    fn who_fails_rests_and_comes_back() {
        let mut balancer = balancer(2, Some(10));
        balancer.worked(client(1), endpoint(1), NOW);
        balancer.failed(client(1), endpoint(1), NOW);
        for _ in 0..3 {
            assert_eq!(balancer.choose(client(1), &[], NOW), Some(endpoint(2)));
        }
        let later = NOW + FIRST_REST;
        let chosen: Vec<_> = (0..2).map(|_| balancer.choose(client(3), &[], later)).collect();
        assert!(chosen.contains(&Some(endpoint(1))), "{chosen:?}");
    }

    #[test]
    fn where_all_rest_the_first_to_wake_is_tried_and_none_twice() {
        let mut balancer = balancer(2, None);
        balancer.failed(client(1), endpoint(2), NOW);
        balancer.failed(client(1), endpoint(1), NOW + Duration::from_millis(5));
        assert_eq!(balancer.choose(client(1), &[], NOW), Some(endpoint(2)));
        assert_eq!(balancer.choose(client(1), &[endpoint(2)], NOW), Some(endpoint(1)));
        assert_eq!(balancer.choose(client(1), &[endpoint(2), endpoint(1)], NOW), None);
    }

    #[test]
    fn rests_grow_to_a_limit() {
        let mut balancer = balancer(1, None);
        for _ in 0..20 {
            balancer.failed(client(1), endpoint(1), NOW);
        }
        assert!(!balancer.rests(&endpoint(1), NOW + LONGEST_REST));
    }

    #[test]
    fn clients_of_endpoints_that_stay_stay() {
        let mut balancer = balancer(3, Some(10));
        balancer.worked(client(1), endpoint(3), NOW);
        balancer.worked(client(2), endpoint(1), NOW);
        balancer.set([2, 3].map(endpoint).into(), Some(Duration::from_secs(10)));
        assert_eq!(balancer.choose(client(1), &[], NOW), Some(endpoint(3)));
        assert_ne!(balancer.choose(client(2), &[], NOW), Some(endpoint(1)));
    }
    #[test]
    fn clients_beyond_the_most_go_round_until_others_are_forgotten() {
        let mut balancer = balancer(3, Some(10));
        let ip = |n: usize| IpAddr::from((0x0a00_0000 + n as u32).to_be_bytes());
        for n in 0..MOST_CLIENTS + 5 {
            balancer.worked(ip(n), endpoint(1), NOW);
        }
        assert_eq!(balancer.clients.len(), MOST_CLIENTS);
        assert!(!balancer.clients.contains_key(&ip(MOST_CLIENTS)));
        // Who comes again stays; those whose time is over make room, and are forgotten by and by.
        let later = NOW + Duration::from_secs(9);
        balancer.worked(ip(0), endpoint(2), later);
        let over = NOW + Duration::from_secs(10);
        for n in 0..MOST_CLIENTS {
            balancer.worked(ip(MOST_CLIENTS + n), endpoint(3), over);
        }
        assert_eq!(balancer.clients.len(), MOST_CLIENTS);
        assert_eq!(balancer.choose(ip(0), &[], over), Some(endpoint(2)));
        assert_eq!(balancer.choose(ip(MOST_CLIENTS + 9), &[], over), Some(endpoint(3)));
        assert_eq!(balancer.by_age.len(), balancer.clients.len());
        balancer.set([endpoint(1), endpoint(2)].into(), balancer.affinity);
        assert_eq!((balancer.clients.len(), balancer.by_age.len()), (1, 1));
    }
}
