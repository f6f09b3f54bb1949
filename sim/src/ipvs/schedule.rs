//! Which destination a new connection goes to. Facts from ip_vs_{rr,wrr,lc,wlc,sed,nq,sh,dh,mh}.c, whose choices on Linux 6.1
//! stand in tests/fixtures/ipvs, and from ip_vs_{fo,ovf,twos}.c. It must never know packets beyond their ends.
//! Tests: tests/ipvs.rs, proptests/tests/schedulers.rs.

use super::ServiceKey;
use super::hashing;
use super::service::{Scheduler, flags};
use super::table::{DestId, Ipvs, Real, Undo, Virtual};
use crate::chance::Chance;
use std::net::IpAddr;

/// Where a scheduler that goes round stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    /// The destination chosen last; nothing: before the first.
    at: Option<DestId>,
    /// The weight `wrr` asks for now.
    current: i64,
}

/// What `wrr` goes by: the largest weight, and the step by which it goes down.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weights {
    most: i64,
    step: i64,
}

/// The ends of the packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) client: (IpAddr, u16),
    pub(super) virt: (IpAddr, u16),
}

impl Weights {
    pub(super) fn of(dests: &[(DestId, Real)]) -> Weights {
        let weights = || dests.iter().map(|(_, real)| real.weight.max(0));
        let step = i64::from(
            weights().fold(0, |divisor, weight| hashing::gcd(divisor, weight as u32)).max(1),
        );
        let most = i64::from(weights().max().unwrap_or(0));
        Weights { most: if most == 0 { 0 } else { most - (step - 1) }, step }
    }
}

impl Cursor {
    /// A destination goes: the round goes on from the one before it.
    pub(super) fn forget(&mut self, id: DestId, dests: &[DestId]) {
        if self.at == Some(id) {
            let place = dests.iter().position(|known| *known == id).unwrap_or(0);
            self.at = place.checked_sub(1).map(|before| dests[before]);
        }
    }

    /// The destinations of `wrr` have changed.
    pub(super) fn follow(&mut self, weights: &Weights) {
        self.at = None;
        if self.current > weights.most || self.current == 0 {
            self.current = weights.most;
        } else if weights.step > 1 {
            self.current = self.current / weights.step * weights.step + 1;
        }
    }
}

impl Ipvs {
    /// The destination for a new connection of a service.
    pub(super) fn choose(
        &mut self,
        key: &ServiceKey,
        ends: &Ends,
        (now, chance): (u64, &mut Chance),
    ) -> Option<DestId> {
        let service = self.services.get(key)?;
        let dests = &service.dests;
        match service.service.scheduler {
            Scheduler::Rr => self.round_robin(key),
            Scheduler::Wrr => self.weighted_round_robin(key),
            Scheduler::Lc => self.least(dests, |real| (overhead(real), 1)),
            Scheduler::Wlc => self.least(dests, |real| (overhead(real), i64::from(real.weight))),
            Scheduler::Sed => self.least(dests, delay),
            Scheduler::Nq => {
                let idle = |id: &&DestId| {
                    self.real(**id).is_some_and(|real| real.takes() && real.active == 0)
                };
                dests.iter().find(idle).copied().or_else(|| self.least(dests, delay))
            }
            Scheduler::Dh => {
                self.taking(service.slots.get(hashing::small_slot(ends.virt.0, 0, 0)).copied()??)
            }
            Scheduler::Sh => self.hashed(service, ends, hashing::small_slot),
            Scheduler::Mh => self.hashed(service, ends, hashing::maglev_slot),
            Scheduler::Fo => self.weightiest(dests, |_| true),
            Scheduler::Ovf => {
                self.weightiest(dests, |real| i64::from(real.active) <= i64::from(real.weight))
            }
            Scheduler::Lblc => self.local(key, ends.virt.0, now),
            Scheduler::Lblcr => self.local_few(key, ends.virt.0, now),
            Scheduler::Twos => self.better_of_two(dests, chance),
        }
    }

    fn taking(&self, id: DestId) -> Option<DestId> {
        self.real(id).is_some_and(Real::takes).then_some(id)
    }

    fn hashed(
        &self,
        service: &Virtual,
        ends: &Ends,
        slot: fn(IpAddr, u16, u32) -> usize,
    ) -> Option<DestId> {
        let bits = service.service.flags;
        let port = if bits & flags::PORT != 0 { ends.client.1 } else { 0 };
        let first = slot(ends.client.0, port, 0);
        let found = service.slots.get(first).copied()??;
        if bits & flags::FALLBACK == 0 || self.taking(found).is_some() {
            return self.taking(found);
        }
        let size = service.slots.len();
        let others =
            (0..size).map(|offset| slot(ends.client.0, port, ((offset + first) % size) as u32));
        others.filter_map(|other| service.slots[other]).find_map(|id| self.taking(id))
    }

    /// The one with the least cost per weight; of equals the first.
    pub(super) fn least(
        &self,
        dests: &[DestId],
        cost: impl Fn(&Real) -> (i64, i64),
    ) -> Option<DestId> {
        let mut least: Option<(DestId, (i64, i64))> = None;
        for &id in dests {
            let Some(real) = self.real(id).filter(|real| real.takes()) else { continue };
            let (mine, weight) = cost(real);
            if least.is_none_or(|(_, (other, theirs))| {
                i128::from(other) * i128::from(weight) > i128::from(mine) * i128::from(theirs)
            }) {
                least = Some((id, (mine, weight)));
            }
        }
        least.map(|(id, _)| id)
    }

    /// The one of the largest weight among those that have room; of equals the first.
    fn weightiest(&self, dests: &[DestId], has_room: impl Fn(&Real) -> bool) -> Option<DestId> {
        let mut most: Option<(DestId, i32)> = None;
        for &id in dests {
            let Some(real) = self.real(id).filter(|real| real.takes() && has_room(real)) else {
                continue;
            };
            if most.is_none_or(|(_, weight)| real.weight > weight) {
                most = Some((id, real.weight));
            }
        }
        most.map(|(id, _)| id)
    }

    /// Two that are drawn by their weights, perhaps the same twice, and of them the less loaded.
    fn better_of_two(&self, dests: &[DestId], chance: &mut Chance) -> Option<DestId> {
        let able: Vec<(DestId, &Real)> = dests
            .iter()
            .filter_map(|&id| Some((id, self.real(id).filter(|real| real.takes())?)))
            .collect();
        let one = drawn(&able, chance)?;
        let two = drawn(&able, chance)?;
        let load = |(_, real): (DestId, &Real)| overhead(real);
        let weight = |(_, real): (DestId, &Real)| i64::from(real.weight);
        let second = weight(two) * load(one) > weight(one) * load(two);
        Some(if second { two.0 } else { one.0 })
    }

    fn round_robin(&mut self, key: &ServiceKey) -> Option<DestId> {
        let service = self.services.get(key)?;
        let start = service.next(service.cursor.at);
        let round = service.dests[start..].iter().chain(&service.dests[..start]);
        let found = round.copied().find_map(|id| self.taking(id))?;
        self.move_cursor(key, |cursor| cursor.at = Some(found));
        Some(found)
    }

    fn weighted_round_robin(&mut self, key: &ServiceKey) -> Option<DestId> {
        let service = self.services.get(key)?;
        let (weights, cursor) = (service.weights, service.cursor);
        let weight = |id: DestId| {
            self.real(id).filter(|real| real.takes()).map_or(0, |real| i64::from(real.weight))
        };
        let most = service.dests.iter().map(|&id| weight(id)).max().unwrap_or(0);
        if most == 0 {
            return None;
        }
        let mut current = cursor.current;
        let mut start = service.next(cursor.at);
        // Once through the rest at this weight, then down to the least; then once more from the largest.
        for _ in 0..3 {
            if let Some(&found) =
                service.dests[start..].iter().find(|&&id| weight(id) >= current.max(1))
            {
                self.move_cursor(key, |cursor| *cursor = Cursor { at: Some(found), current });
                return Some(found);
            }
            start = 0;
            current -= weights.step;
            if current <= 0 {
                current = weights.most;
            }
            if current > most {
                // Down in steps to the first weight that anyone has.
                current -= (current - most + weights.step - 1) / weights.step * weights.step;
            }
        }
        None
    }

    fn move_cursor(&mut self, key: &ServiceKey, change: impl FnOnce(&mut Cursor)) {
        self.remember_service(key);
        if let Some(service) = self.services.get_mut(key) {
            change(&mut service.cursor);
        }
    }

    pub(super) fn remember_service(&mut self, key: &ServiceKey) {
        if let (Some(journal), Some(service)) = (&mut self.journal, self.services.get(key)) {
            journal.push(Undo::Cursor(*key, service.cursor, service.stats));
        }
    }
}

impl Virtual {
    /// The place after a destination.
    fn next(&self, at: Option<DestId>) -> usize {
        at.and_then(|at| self.dests.iter().position(|id| *id == at)).map_or(0, |place| place + 1)
    }
}

/// Draws one by weight. The kernel draws of one more than all weigh, which falls to the first.
fn drawn<'r>(able: &[(DestId, &'r Real)], chance: &mut Chance) -> Option<(DestId, &'r Real)> {
    let weight = |real: &Real| real.weight.unsigned_abs();
    let mut left = 1 + able.iter().map(|(_, real)| weight(real)).sum::<u32>();
    let mut more = 1;
    for (id, real) in able {
        let share = weight(real) + std::mem::take(&mut more);
        if chance.happens(share, left) {
            return Some((*id, *real));
        }
        left -= share;
    }
    None
}

/// What a destination bears: an active connection counts as 256 idle ones (ip_vs_dest_conn_overhead).
pub(super) fn overhead(real: &Real) -> i64 {
    (i64::from(real.active) << 8) + i64::from(real.inactive)
}

/// How long one more connection would wait.
fn delay(real: &Real) -> (i64, i64) {
    (i64::from(real.active) + 1, i64::from(real.weight))
}
