//! `lblc` and `lblcr`: a virtual address keeps to a destination, or to a few, for as long as they bear it. Facts from ip_vs_lblc.c and
//! ip_vs_lblcr.c. Not as Linux: what a whole day went unused is forgotten when it is asked for, not by a timer; a destination that is
//! gone without a connection is forgotten at once. It must never know packets. Tests: tests/ipvs.rs, proptests/tests/schedulers.rs.

use super::ServiceKey;
use super::schedule::overhead;
use super::table::{DestId, Ipvs, Real, Undo, Virtual};
use crate::conntrack::SECOND;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// `lblc_expiration` and `lblcr_expiration`, which are alike.
const DAY: u64 = 24 * 60 * 60 * SECOND;

/// The destinations that a virtual address keeps to: one for `lblc`, the last added first for `lblcr`.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    dests: Vec<DestId>,
    used: u64,
    changed: u64,
}

/// By virtual address: a service known by a mark has several.
pub(super) type Cache = BTreeMap<IpAddr, Kept>;

impl Ipvs {
    /// `lblc`: the one that is kept to, unless it takes no more or bears too much while another is idle; then the least loaded.
    pub(super) fn local(&mut self, key: &ServiceKey, to: IpAddr, now: u64) -> Option<DestId> {
        let service = self.services.get(key)?;
        let kept = self.kept(service, to, now);
        let same = kept.as_ref().and_then(|kept| kept.dests.first().copied()).filter(|&id| {
            let real = self.real(id);
            real.is_some_and(|real| real.available && real.weight > 0)
                && !self.strained(service, id)
        });
        let chosen = match same {
            Some(id) => id,
            None => self.least_loaded(&service.dests)?,
        };
        self.keep(key, to, Kept { dests: vec![chosen], used: now, changed: now });
        Some(chosen)
    }

    /// `lblcr`: the least loaded of those that are kept to; another one joins them where it bears too much while another is idle.
    /// Where none has joined for a day, the most loaded leaves.
    pub(super) fn local_few(&mut self, key: &ServiceKey, to: IpAddr, now: u64) -> Option<DestId> {
        let service = self.services.get(key)?;
        let mut kept = self.kept(service, to, now).unwrap_or_default();
        kept.used = now;
        let known: Vec<DestId> = kept
            .dests
            .iter()
            .copied()
            .filter(|&id| self.real(id).is_some_and(|real| real.available))
            .collect();
        let least = self.least_loaded(&known).filter(|&id| !self.strained(service, id));
        if kept.dests.len() > 1 && now > kept.changed + DAY {
            let most = self.most_loaded(&kept.dests);
            kept.dests.retain(|id| Some(*id) != most);
            kept.changed = now;
        }
        let chosen = match least {
            Some(id) => id,
            None => self.least_loaded(&service.dests)?,
        };
        if least.is_none() && !kept.dests.contains(&chosen) {
            kept.dests.insert(0, chosen);
            kept.changed = now;
        }
        self.keep(key, to, kept);
        Some(chosen)
    }

    fn kept(&self, service: &Virtual, to: IpAddr, now: u64) -> Option<Kept> {
        service.cache.get(&to).filter(|kept| now < kept.used + DAY).cloned()
    }

    fn keep(&mut self, key: &ServiceKey, to: IpAddr, kept: Kept) {
        let Some(service) = self.services.get_mut(key) else { return };
        let before = service.cache.insert(to, kept);
        if let Some(journal) = &mut self.journal {
            journal.push(Undo::Kept(*key, to, before.map(Box::new)));
        }
    }

    pub(super) fn unkeep(&mut self, key: &ServiceKey, to: IpAddr, before: Option<Kept>) {
        let Some(service) = self.services.get_mut(key) else { return };
        match before {
            Some(kept) => drop(service.cache.insert(to, kept)),
            None => drop(service.cache.remove(&to)),
        }
    }

    /// A destination that is gone for good.
    pub(super) fn forget_kept(&mut self, key: &ServiceKey, id: DestId) {
        let Some(service) = self.services.get_mut(key) else { return };
        service.cache.values_mut().for_each(|kept| kept.dests.retain(|known| *known != id));
    }

    /// Does it bear more than its weight while another bears less than half of its own? (is_overloaded)
    fn strained(&self, service: &Virtual, id: DestId) -> bool {
        let active = |real: &Real| i64::from(real.active);
        let idle = |id: &DestId| {
            self.real(*id).is_some_and(|real| active(real) * 2 < i64::from(real.weight))
        };
        self.real(id).is_some_and(|real| active(real) > i64::from(real.weight))
            && service.dests.iter().any(idle)
    }

    fn least_loaded(&self, dests: &[DestId]) -> Option<DestId> {
        self.least(dests, |real| (overhead(real), i64::from(real.weight)))
    }

    /// Of those with a weight the one that bears most of it; of equals the first.
    fn most_loaded(&self, dests: &[DestId]) -> Option<DestId> {
        let mut most: Option<(DestId, i64, i64)> = None;
        for &id in dests {
            let Some(real) = self.real(id).filter(|real| real.weight > 0) else { continue };
            let (mine, weight) = (overhead(real), i64::from(real.weight));
            if most.is_none_or(|(_, other, theirs)| other * weight < mine * theirs) {
                most = Some((id, mine, weight));
            }
        }
        most.map(|(id, ..)| id)
    }
}
