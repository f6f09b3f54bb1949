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

/// What was drawn, out of how many; for a weighted draw of two, what the first of them has of a whole.
#[derive(Clone, Copy, Debug)]
struct Draw {
    drawn: u32,
    bound: u32,
    weight: Option<(u32, u32)>,
}

/// The draws of one branch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    taken: Vec<Draw>,
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

    /// Does something happen that has a chance of `weight / whole`? It makes two branches in exhaustive mode.
    pub(crate) fn happens(&mut self, weight: u32, whole: u32) -> bool {
        match self {
            Chance::Scripted(script) if weight < whole && weight > 0 => {
                script.draw(2, Some((weight, whole))) == 0
            }
            _ => self.below(whole) < weight,
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
        self.draw(bound, None)
    }

    fn draw(&mut self, bound: u32, weight: Option<(u32, u32)>) -> u32 {
        if self.at == self.taken.len() {
            self.taken.push(Draw { drawn: 0, bound, weight });
        }
        let drawn = self.taken[self.at].drawn;
        self.at += 1;
        drawn
    }

    /// The script of the next branch, or nothing when all were walked.
    pub(crate) fn advance(mut self) -> Option<Script> {
        self.at = 0;
        while let Some(last) = self.taken.pop() {
            if last.drawn + 1 < last.bound {
                self.taken.push(Draw { drawn: last.drawn + 1, ..last });
                return Some(self);
            }
        }
        None
    }

    /// How likely this branch was.
    pub(crate) fn probability(&self) -> Probability {
        let draws = &self.taken[..self.at];
        draws.iter().fold(Probability::ONE, |product, draw| match draw.weight {
            None => product.scaled(1, draw.bound),
            Some((weight, whole)) if draw.drawn == 0 => product.scaled(weight, whole),
            Some((weight, whole)) => product.scaled(whole - weight, whole),
        })
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

    fn scaled(self, numerator: u32, denominator: u32) -> Probability {
        let product = self
            .numerator
            .checked_mul(u128::from(numerator))
            .zip(self.denominator.checked_mul(u128::from(denominator)));
        match product {
            Some((numerator, denominator)) => reduce(numerator, denominator),
            None => rounded(self.as_f64() * f64::from(numerator) / f64::from(denominator)),
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
    fn a_weighted_draw_has_two_branches() {
        let mut chance = Chance::Scripted(Script::default());
        assert!(chance.happens(2, 5));
        let Chance::Scripted(first) = chance else { unreachable!("it was scripted") };
        assert_eq!(first.probability(), Probability::new(2, 5));
        let mut chance = Chance::Scripted(first.advance().expect("a second branch"));
        assert!(!chance.happens(2, 5));
        let Chance::Scripted(second) = chance else { unreachable!("it was scripted") };
        assert_eq!(second.probability(), Probability::new(3, 5));
        assert!(second.advance().is_none());
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        let (mut one, mut two) = (Chance::Seeded(7), Chance::Seeded(7));
        assert!((0..100).all(|_| one.below(1000) == two.below(1000)));
        assert!((0..1000).all(|_| one.below(3) < 3));
    }
}
