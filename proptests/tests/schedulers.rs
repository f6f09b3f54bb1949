//! IPVS in the simulator chooses as each scheduler is documented to: held against an oracle written from the kernel's descriptions
//! (net/netfilter/ipvs, ipvsadm(8)), for destinations of any weights and loads. Where several are equally good, each is allowed.
//! `PROPTESTS_SEED` and `PROPTESTS_CASES` choose others.
#![allow(clippy::unwrap_used, reason = "a test may say so")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use proptest::collection::vec;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use proptests::explore::chance;
use sim::ipvs::{Destination, Scheduler, Service, ServiceKey, flags};
use sim::{Fate, Host, Packet};

/// A destination: its weight, and how many connections it has.
#[derive(Clone, Copy, Debug)]
struct Real {
    weight: u32,
    active: u32,
    inactive: u32,
}

impl Real {
    /// What it bears, in connections that do nothing (ip_vs_dest_conn_overhead).
    fn load(&self) -> u64 {
        u64::from(self.active) * 256 + u64::from(self.inactive)
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn holds<S: Strategy>(strategy: S, property: impl Fn(&S::Value) -> Result<(), String>)
where
    S::Value: std::fmt::Debug,
{
    let cases = u32::try_from(number("PROPTESTS_CASES", 100)).unwrap();
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let seed = number("PROPTESTS_SEED", 1);
    let mut runner = TestRunner::new_with_rng(config, chance(seed, 0));
    let outcome = runner.run(&strategy, |value| property(&value).map_err(TestCaseError::fail));
    outcome.unwrap_or_else(|why| panic!("seed {seed}: {why}"));
}

fn reals() -> impl Strategy<Value = Vec<Real>> {
    let real = (0..6u32, 0..12u32, 0..600u32);
    vec(real.prop_map(|(weight, active, inactive)| Real { weight, active, inactive }), 1..8)
}

/// A node with one virtual server.
struct Node {
    host: Host,
    client: u32,
    key: ServiceKey,
}

const VIRTUAL: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));
const TCP: u8 = 6;

fn address(index: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 1, 0, u8::try_from(index).unwrap() + 1))
}

impl Node {
    fn new((scheduler, bits): (Scheduler, u32), reals: &[Real]) -> Node {
        let mut host = Host::new(1);
        let client = host.add_link("c0");
        let server = host.add_link("s0");
        let dummy = host.add_link("kube-ipvs0");
        host.add_address(client, "10.0.0.1".parse().unwrap(), 16);
        host.add_address(server, "10.1.0.254".parse().unwrap(), 24);
        host.add_address(dummy, VIRTUAL, 32);
        let key = ServiceKey::new(TCP, VIRTUAL, 80);
        host.ipvs_add_service(Service { flags: bits, ..Service::new(key, scheduler) }).unwrap();
        for (index, real) in reals.iter().enumerate() {
            let weight = i32::try_from(real.weight).unwrap();
            let to = Destination::new(address(index), 80).weighing(weight);
            host.ipvs_add_destination(&key, to).unwrap();
            let counts = (real.active, real.inactive, 0);
            assert!(host.ipvs_set_counts(&key, (address(index), 80), counts));
        }
        Node { host, client, key }
    }

    fn packet(&self, client: u32, port: u16) -> Packet {
        let from = IpAddr::V4(Ipv4Addr::from(0x0a00_0002 + client));
        Packet::tcp((from, port).into(), (VIRTUAL, 80).into()).arriving(self.client)
    }

    /// Which destinations a new connection may go to, with the chance of each; nothing is changed by it.
    fn chances(&mut self, client: u32, port: u16) -> BTreeMap<usize, f64> {
        let packet = self.packet(client, port);
        let mut chances = BTreeMap::new();
        for (chance, outcome) in self.host.outcomes(&packet) {
            if let Some(index) = chosen(&outcome) {
                *chances.entry(index).or_insert(0.0) += chance.as_f64();
            }
        }
        chances
    }

    /// The one that a scheduler without chance takes.
    fn choice(&mut self, client: u32, port: u16) -> Option<usize> {
        let chances = self.chances(client, port);
        assert!(chances.len() <= 1, "no chance in it: {chances:?}");
        chances.into_keys().next()
    }

    /// Opens a connection, which stays.
    fn open(&mut self, port: u16) -> Option<usize> {
        let packet = self.packet(0, port);
        chosen(&self.host.receive(&packet, self.client))
    }
}

fn chosen(outcome: &sim::Outcome) -> Option<usize> {
    let IpAddr::V4(to) = outcome.packet.dst else { return None };
    matches!(outcome.fate, Fate::Forwarded(_)).then(|| usize::from(to.octets()[3]) - 1)
}

/// All that none of the others beats, among those that are eligible.
fn best(
    reals: &[Real],
    eligible: impl Fn(&Real) -> bool,
    beats: impl Fn(&Real, &Real) -> bool,
) -> BTreeSet<usize> {
    let able: Vec<usize> = (0..reals.len()).filter(|i| eligible(&reals[*i])).collect();
    let unbeaten = |one: &&usize| !able.iter().any(|other| beats(&reals[*other], &reals[**one]));
    able.iter().filter(unbeaten).copied().collect()
}

fn weighs(real: &Real) -> bool {
    real.weight > 0
}

/// Less load for its weight.
fn lighter(one: &Real, other: &Real) -> bool {
    one.load() * u64::from(other.weight) < other.load() * u64::from(one.weight)
}

/// One more connection would wait less.
fn sooner(one: &Real, other: &Real) -> bool {
    (one.active + 1) * other.weight < (other.active + 1) * one.weight
}

fn allowed(scheduler: Scheduler, reals: &[Real]) -> BTreeSet<usize> {
    let heavier = |one: &Real, other: &Real| one.weight > other.weight;
    match scheduler {
        Scheduler::Lc => best(reals, weighs, |one, other| one.load() < other.load()),
        Scheduler::Wlc | Scheduler::Lblc | Scheduler::Lblcr => best(reals, weighs, lighter),
        Scheduler::Sed => best(reals, weighs, sooner),
        Scheduler::Nq => {
            let idle = best(reals, |real| weighs(real) && real.active == 0, |_, _| false);
            if idle.is_empty() { best(reals, weighs, sooner) } else { idle }
        }
        Scheduler::Fo => best(reals, weighs, heavier),
        Scheduler::Ovf => best(reals, |real| weighs(real) && real.active <= real.weight, heavier),
        _ => best(reals, weighs, |_, _| false),
    }
}

#[test]
fn what_is_chosen_is_the_best_by_its_schedulers_measure() {
    holds(reals(), |reals| {
        for (scheduler, name) in Scheduler::ALL {
            if matches!(scheduler, Scheduler::Sh | Scheduler::Dh | Scheduler::Mh) {
                continue;
            }
            let chances = Node::new((scheduler, 0), reals).chances(0, 1000);
            let allowed = allowed(scheduler, reals);
            let whole: f64 = chances.values().sum();
            let some = if allowed.is_empty() { 0.0 } else { 1.0 };
            if (whole - some).abs() > 1e-9 || !chances.keys().all(|one| allowed.contains(one)) {
                return Err(format!("{name} chose {chances:?}, allowed are {allowed:?}"));
            }
        }
        Ok(())
    });
}

#[test]
fn the_worst_of_all_is_met_only_when_both_draws_fall_on_it() {
    holds(reals(), |reals| {
        let chances = Node::new((Scheduler::Twos, 0), reals).chances(0, 1000);
        let whole = 1.0 + reals.iter().map(|real| f64::from(real.weight)).sum::<f64>();
        for (index, one) in reals.iter().enumerate().filter(|(_, real)| weighs(real)) {
            let better = |other: &(usize, &Real)| {
                other.0 == index || !weighs(other.1) || lighter(other.1, one)
            };
            if !reals.iter().enumerate().all(|other| better(&other)) {
                continue;
            }
            let weight = f64::from(one.weight);
            let (least, most) = ((weight / whole).powi(2), ((weight + 1.0) / whole).powi(2));
            let chance = chances.get(&index).copied().unwrap_or(0.0);
            if chance < least - 1e-9 || chance > most + 1e-9 {
                return Err(format!("{index} has {chance}, {least} to {most} expected"));
            }
        }
        Ok(())
    });
}

fn divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { divisor(b, a % b) }
}

#[test]
fn in_a_whole_round_each_has_the_turns_of_its_weight() {
    holds(reals(), |reals| {
        for scheduler in [Scheduler::Rr, Scheduler::Wrr] {
            let common = reals.iter().fold(0, |a, real| divisor(a, real.weight)).max(1);
            let turns = |real: &Real| match scheduler {
                Scheduler::Rr => u32::from(weighs(real)),
                _ => real.weight / common,
            };
            let round: u32 = reals.iter().map(turns).sum();
            let mut node = Node::new((scheduler, 0), reals);
            for start in 0..3u16 {
                let mut had = vec![0; reals.len()];
                for n in 0..round {
                    let port = 1000 + start * 1000 + u16::try_from(n).unwrap();
                    had[node.open(port).ok_or("nobody was chosen")?] += 1;
                }
                let due: Vec<u32> = reals.iter().map(turns).collect();
                if had != due {
                    return Err(format!("{}: {had:?} instead of {due:?}", scheduler.name()));
                }
            }
        }
        Ok(())
    });
}

/// Whether one bears more than its weight while another has less than half of its own.
fn strained(reals: &[Real], one: usize) -> bool {
    let idle = |real: &Real| real.active * 2 < real.weight;
    reals[one].active > reals[one].weight && reals.iter().any(idle)
}

#[test]
fn an_address_keeps_to_those_it_has_while_they_bear_it() {
    holds(reals(), |reals| {
        for scheduler in [Scheduler::Lblc, Scheduler::Lblcr] {
            let mut node = Node::new((scheduler, 0), reals);
            let mut reals = reals.clone();
            let mut kept: BTreeSet<usize> = BTreeSet::new();
            for port in 1000..1040 {
                let of_kept = |real: usize| kept.contains(&real) && weighs(&reals[real]);
                let among: Vec<Real> = (0..reals.len())
                    .map(|i| Real {
                        weight: if of_kept(i) { reals[i].weight } else { 0 },
                        ..reals[i]
                    })
                    .collect();
                let mut allowed = best(&among, weighs, lighter);
                // Of equals that it keeps to each may be the one that is looked at.
                let bearing: Vec<bool> =
                    allowed.iter().map(|one| !strained(&reals, *one)).collect();
                let certain = bearing.iter().all(|bears| *bears) && !bearing.is_empty();
                if !certain {
                    allowed.retain(|one| !strained(&reals, *one));
                    allowed.extend(best(&reals, weighs, lighter));
                }
                let chosen = node.open(port);
                if chosen.is_none() != allowed.is_empty() {
                    return Err(format!("{chosen:?}, allowed {allowed:?}"));
                }
                let Some(chosen) = chosen else { break };
                if !allowed.contains(&chosen) {
                    let name = scheduler.name();
                    return Err(format!(
                        "{name}, {port}: {chosen} of {reals:?}, allowed {allowed:?}"
                    ));
                }
                if scheduler == Scheduler::Lblc {
                    kept.clear();
                }
                kept.insert(chosen);
                reals[chosen].active += 1;
            }
        }
        Ok(())
    });
}

const HASHED: [(Scheduler, u32); 7] = [
    (Scheduler::Dh, 0),
    (Scheduler::Sh, 0),
    (Scheduler::Sh, flags::FALLBACK),
    (Scheduler::Sh, flags::FALLBACK | flags::PORT),
    (Scheduler::Mh, 0),
    (Scheduler::Mh, flags::FALLBACK),
    (Scheduler::Mh, flags::FALLBACK | flags::PORT),
];

#[test]
fn hashes_keep_a_client_and_step_over_who_weighs_nothing() {
    holds(reals(), |reals| {
        for (scheduler, bits) in HASHED {
            let (mut node, mut twin) =
                (Node::new((scheduler, bits), reals), Node::new((scheduler, bits), reals));
            let some = reals.iter().any(weighs);
            for client in 0..20 {
                let choice = node.choice(client * 37, 1000);
                let what = format!("{} {bits}: client {client} {choice:?}", scheduler.name());
                if choice != twin.choice(client * 37, 1000) {
                    return Err(format!("{what}, elsewhere another"));
                }
                let portless = bits & flags::PORT == 0;
                if portless && choice != node.choice(client * 37, 2000) {
                    return Err(format!("{what}, from another port another"));
                }
                if choice.is_some_and(|one| !weighs(&reals[one])) {
                    return Err(format!("{what} weighs nothing"));
                }
                if bits & flags::FALLBACK != 0 && some && choice.is_none() {
                    return Err(format!("{what} although somebody could be"));
                }
            }
        }
        Ok(())
    });
}

#[test]
fn maglev_shares_by_weight_and_moves_few_when_one_goes() {
    let weights = vec(1..6u32, 2..7);
    holds(weights, |weights| {
        const CLIENTS: u32 = 400;
        let reals: Vec<Real> =
            weights.iter().map(|&weight| Real { weight, active: 0, inactive: 0 }).collect();
        let mut node = Node::new((Scheduler::Mh, flags::FALLBACK), &reals);
        let all = |node: &mut Node| -> Vec<usize> {
            (0..CLIENTS).filter_map(|client| node.choice(client * 7, 1000)).collect()
        };
        let before = all(&mut node);
        let whole: u32 = weights.iter().sum();
        for (index, weight) in weights.iter().enumerate() {
            let share =
                before.iter().filter(|one| **one == index).count() as f64 / f64::from(CLIENTS);
            let fair = f64::from(*weight) / f64::from(whole);
            if (share - fair).abs() > 0.1 {
                return Err(format!("{index} has {share:.3} instead of {fair:.3}"));
            }
        }
        let key = node.key;
        node.host.ipvs_delete_destination(&key, address(0), 80).unwrap();
        let after = all(&mut node);
        let others = before.iter().zip(&after).filter(|(was, _)| **was != 0);
        let (moved, stayed): (Vec<_>, Vec<_>) = others.partition(|(was, is)| was != is);
        if after.contains(&0) || moved.len() * 5 > moved.len() + stayed.len() {
            return Err(format!("{} of {} moved", moved.len(), moved.len() + stayed.len()));
        }
        Ok(())
    });
}
