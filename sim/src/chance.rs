//! Chance: the one source of everything random on a host (numgen, hash seeds, source ports).
//! Either drawn from a seed (the same seed gives the same run) or scripted, so that every branch can be walked.
//! It must never know what is drawn for. Tests: below and tests/chance.rs.

use std::fmt;

/// A source of draws.
#[derive(Clone, Debug)]
pub(crate) enum Chance {
    /// Draws follow from a seed.
    Seeded(u64),
    /// Draws follow a script, and the script notes how wide each draw was.
    Scripted(Script),
}

/// The draws of one branch: (what was drawn, out of how many).
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    taken: Vec<(u32, u32)>,
    at: usize,
}

impl Chance {
    /// A draw of `0..bound` that makes branches in exhaustive mode.
    #[inline]
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        match self {
            Chance::Seeded(state) => {
                ((u64::from(next(state) as u32) * u64::from(bound)) >> 32) as u32
            }
            Chance::Scripted(script) => script.next(bound),
        }
    }

    /// A draw that is not a branch: source ports. In exhaustive mode always the same.
    #[inline]
    pub(crate) fn any(&mut self) -> u32 {
        match self {
            Chance::Seeded(state) => next(state) as u32,
            Chance::Scripted(_) => 0,
        }
    }
}

impl Script {
    fn next(&mut self, bound: u32) -> u32 {
        if bound <= 1 {
            return 0;
        }
        if self.at == self.taken.len() {
            self.taken.push((0, bound));
        }
        let drawn = self.taken[self.at].0;
        self.at += 1;
        drawn
    }

    /// The script of the next branch, or nothing when all were walked.
    pub(crate) fn advance(mut self) -> Option<Script> {
        self.at = 0;
        while let Some((drawn, bound)) = self.taken.pop() {
            if drawn + 1 < bound {
                self.taken.push((drawn + 1, bound));
                return Some(self);
            }
        }
        None
    }

    /// How likely this branch was.
    pub(crate) fn probability(&self) -> Probability {
        let draws = &self.taken[..self.at];
        draws.iter().fold(Probability::ONE, |product, &(_, bound)| product.divided(bound))
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) >> 16
}

/// An exact probability, a fraction in lowest terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Probability {
    numerator: u128,
    denominator: u128,
}

impl Probability {
    /// Certain.
    pub const ONE: Probability = Probability { numerator: 1, denominator: 1 };
    /// Impossible.
    pub const ZERO: Probability = Probability { numerator: 0, denominator: 1 };

    /// `numerator / denominator`; a zero denominator counts as one.
    pub fn new(numerator: u64, denominator: u64) -> Self {
        reduce(u128::from(numerator), u128::from(denominator.max(1)))
    }

    /// As a floating number.
    pub fn as_f64(self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }

    /// The sum of two probabilities.
    #[must_use]
    pub fn plus(self, other: Probability) -> Probability {
        let common = gcd(self.denominator, other.denominator);
        let sum = || {
            let left = self.numerator.checked_mul(other.denominator / common)?;
            let right = other.numerator.checked_mul(self.denominator / common)?;
            let denominator = self.denominator.checked_mul(other.denominator / common)?;
            Some(reduce(left.checked_add(right)?, denominator))
        };
        sum().unwrap_or_else(|| rounded(self.as_f64() + other.as_f64()))
    }

    fn divided(self, bound: u32) -> Probability {
        match self.denominator.checked_mul(u128::from(bound)) {
            Some(denominator) => reduce(self.numerator, denominator),
            None => rounded(self.as_f64() / f64::from(bound)),
        }
    }
}

impl fmt::Display for Probability {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.denominator {
            1 => write!(out, "{}", self.numerator),
            denominator => write!(out, "{}/{denominator}", self.numerator),
        }
    }
}

/// Where a fraction grows past 128 bits it is rounded to a multiple of 2^-53.
fn rounded(value: f64) -> Probability {
    let scale = (1u64 << 53) as f64;
    reduce((value * scale) as u128, 1 << 53)
}

fn reduce(numerator: u128, denominator: u128) -> Probability {
    let common = gcd(numerator, denominator).max(1);
    Probability { numerator: numerator / common, denominator: denominator / common }
}

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_walks_every_branch_once() {
        let mut script = Script::default();
        let mut sum = Probability::ZERO;
        let mut branches = 0;
        loop {
            let mut chance = Chance::Scripted(script);
            if chance.below(3) == 1 {
                chance.below(4);
            }
            let Chance::Scripted(walked) = chance else { unreachable!("it was scripted") };
            sum = sum.plus(walked.probability());
            branches += 1;
            match walked.advance() {
                Some(following) => script = following,
                None => break,
            }
        }
        assert_eq!(branches, 6);
        assert_eq!(sum, Probability::ONE);
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        let (mut one, mut two) = (Chance::Seeded(7), Chance::Seeded(7));
        assert!((0..100).all(|_| one.below(1000) == two.below(1000)));
        assert!((0..1000).all(|_| one.below(3) < 3));
    }
}
