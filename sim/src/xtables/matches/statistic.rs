//! `statistic`: by chance, or every n-th packet. Facts from xt_statistic.c, libxt_statistic.c.
//! A probability within the kernel's rounding (1/2³¹) of 1/n is drawn as exactly 1/n.
//! It must never know what is chosen by it. Tests: tests/xtables_packets.rs.

use super::{Context, Known, Look, State, missing};
use crate::xtables::error::{Refusal, Taken};
use crate::xtables::words::{Opt, print_not};
use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;

/// The denominator of the kernel's probabilities.
const CERTAIN: u32 = 1 << 31;
/// Beyond this many, neighbouring 1/n could not be told apart safely.
const MOST_PARTS: u32 = 16_384;

/// `-m statistic`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::xtables) struct Statistic {
    mode: Option<Mode>,
    not: bool,
    probability: Option<u32>,
    every: Option<u32>,
    packet: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Random,
    Nth,
}

impl Statistic {
    pub(super) fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        match opt.name {
            "mode" => {
                let word = opt.plain_value()?;
                self.mode = match word.text.as_str() {
                    "random" => Some(Mode::Random),
                    "nth" => Some(Mode::Nth),
                    _ => return Err(word.refuse("random or nth")),
                }
            }
            "probability" => {
                let word = opt.value()?;
                let digits = word.text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
                let value = word
                    .text
                    .parse::<f64>()
                    .ok()
                    .filter(|value| digits && (0.0..=1.0).contains(value));
                let value = value.ok_or_else(|| word.refuse("a probability from 0 to 1"))?;
                (self.probability, self.not) =
                    (Some((value * f64::from(CERTAIN)).round() as u32), opt.not);
            }
            "every" => {
                let word = opt.value()?;
                (self.every, self.not) = (Some(word.number(u32::MAX)?), opt.not);
                if self.every == Some(0) {
                    return Err(word.refuse("a number from 1"));
                }
            }
            "packet" => self.packet = Some(opt.plain_value()?.number(u32::MAX)?),
            _ => return Ok(Known::No),
        }
        Ok(Known::Yes)
    }

    pub(super) fn check(&self, context: &Context<'_>) -> Taken<()> {
        match (self.mode, self.probability, self.every, self.packet) {
            (None, ..) => Err(missing(context, "statistic: option \"--mode\"")),
            (Some(Mode::Random), Some(_), None, None)
            | (Some(Mode::Nth), None, Some(_), Some(_)) => match (self.every, self.packet) {
                (Some(every), Some(packet)) if packet >= every => {
                    Err(Refusal::syntax(context.column, "the --packet p must be 0 <= p <= n-1"))
                }
                _ => Ok(()),
            },
            (Some(Mode::Random), ..) => Err(missing(
                context,
                "statistic: --probability, and nothing else, when using random mode",
            )),
            (Some(Mode::Nth), ..) => Err(missing(
                context,
                "statistic: --every and --packet, and nothing else, when using nth mode",
            )),
        }
    }

    pub(super) fn print(&self, out: &mut String) {
        if let Some(probability) = self.probability {
            out.push_str(" --mode random");
            print_not(out, self.not);
            let _ =
                write!(out, " --probability {:.11}", f64::from(probability) / f64::from(CERTAIN));
        }
        if let Some((every, packet)) = self.every.zip(self.packet) {
            out.push_str(" --mode nth");
            print_not(out, self.not);
            let _ = write!(out, " --every {every} --packet {packet}");
        }
    }

    pub(super) fn fits<S>(&self, look: &mut Look<'_, '_, S>, state: &State) -> bool {
        let chosen = match (self.probability, self.every, self.packet) {
            (Some(0), ..) => false,
            (Some(CERTAIN), ..) => true,
            (Some(weight), ..) => match parts(weight) {
                Some(parts) => look.env.chance.happens(1, parts),
                None => look.env.chance.happens(weight, CERTAIN),
            },
            (None, Some(every), Some(packet)) => {
                let seen = state.one.load(Relaxed);
                if !look.env.dry {
                    state.one.store((seen + 1) % u64::from(every.max(1)), Relaxed);
                }
                seen == u64::from(packet)
            }
            _ => false,
        };
        chosen != self.not
    }
}

/// The n whose 1/n the weight is.
fn parts(weight: u32) -> Option<u32> {
    let parts = (CERTAIN + weight / 2) / weight.max(1);
    let exact = u64::from(parts) * u64::from(weight);
    (parts <= MOST_PARTS && exact.abs_diff(u64::from(CERTAIN)) <= u64::from(parts)).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_with_ten_digits_is_one_in_n() {
        for n in 1..=5000 {
            let written: f64 = format!("{:.10}", 1.0 / f64::from(n)).parse().expect("a number");
            let weight = (written * f64::from(CERTAIN)).round() as u32;
            assert_eq!(parts(weight), Some(n));
        }
        assert_eq!(parts((0.4 * f64::from(CERTAIN)) as u32), None);
        assert_eq!(parts(1), None);
    }
}
