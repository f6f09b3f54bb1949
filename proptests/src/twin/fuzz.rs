//! The differential fuzzer: cases from a seed on both kernels; a difference that stays is made small
//! and given back as a case that replays it. Tests: `netlab fuzz`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::answer::{Ports, differences};
use super::case::{Case, Step};
use super::generate;
use super::linux::Ground;
use super::simulated::{self, Run};
use super::tools::Flavour;

/// What is wanted of a run.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// The first seed.
    pub seed: u64,
    /// Packets to try at least.
    pub packets: usize,
    /// Time after which no new case is begun.
    pub time: Duration,
    /// Packets of a case.
    pub each: usize,
    /// Differences after which it ends.
    pub differences: usize,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Packets sent on both kernels.
    pub packets: usize,
    /// Cases run on both.
    pub cases: usize,
    /// Batches that both refused with the same errno.
    pub refused: usize,
    /// Cases that the simulator does not model.
    pub unmodelled: usize,
    /// Packets that came through: they left, or were delivered.
    pub through: usize,
    /// Differences, each as the text of a small case.
    pub differences: Vec<String>,
}

/// Lines that stay: the seed, and the rule that keeps tracking on.
const KEPT: usize = 4;

/// Tries cases until it is enough.
pub fn run(wish: &Wish) -> Result<Report, String> {
    let mut ground = Ground::new(&Case::default(), Flavour::Nft)?;
    let (mut report, began) = (Report::default(), Instant::now());
    let mut seed = wish.seed;
    while report.packets < wish.packets && began.elapsed() < wish.time {
        let text = generate::case(seed, wish.each);
        match compare(&mut ground, &text)? {
            Compared::Same(case, through, refused) => {
                report.packets += packets_of(&case);
                report.cases += 1;
                report.through += through;
                report.refused += refused;
            }
            Compared::Unmodelled => report.unmodelled += 1,
            Compared::Different(case, _) => {
                report.packets += packets_of(&case);
                report.cases += 1;
                if stays(&mut ground, &text)? {
                    report.differences.push(small(&mut ground, &text)?);
                }
            }
        }
        if report.differences.len() >= wish.differences {
            break;
        }
        seed += 1;
    }
    Ok(report)
}

fn packets_of(case: &Case) -> usize {
    let sent = |s: &&Step| matches!(s, Step::Send { .. } | Step::Reply(..) | Step::Again(..));
    case.steps.iter().filter(sent).count()
}

enum Compared {
    Same(Case, usize, usize),
    Unmodelled,
    Different(Case, Vec<String>),
}

fn compare(ground: &mut Ground, text: &str) -> Result<Compared, String> {
    let case = Case::read(text)?;
    let simulated = match simulated::run(&case)? {
        Run::Answers(answers) => answers,
        Run::Unmodelled(_) => return Ok(Compared::Unmodelled),
    };
    let real = ground.for_case(&case, case.flavours()[0])?;
    let found = differences(&real, &simulated, &Ports::of(&case.text));
    if found.is_empty() {
        let count =
            |what: &str| real.steps.iter().flatten().filter(|a| a.starts_with(what)).count();
        return Ok(Compared::Same(case, count("leaves") + count("delivered"), count("refused")));
    }
    Ok(Compared::Different(case, found))
}

/// Is it still there, twice, when the kernel has come to rest?
fn stays(ground: &mut Ground, text: &str) -> Result<bool, String> {
    for _ in 0..2 {
        ground.settle();
        if !matches!(compare(ground, text), Ok(Compared::Different(..))) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What differs, without where.
fn kinds(found: &[String]) -> BTreeSet<String> {
    let kind = |line: &String| match line.strip_prefix("step ").and_then(|l| l.split_once(": ")) {
        Some((_, kind)) => kind.to_owned(),
        None => line.clone(),
    };
    found.iter().map(kind).collect()
}

/// Does a text still show one of these differences?
fn shows(ground: &mut Ground, text: &str, wanted: &BTreeSet<String>) -> bool {
    match compare(ground, text) {
        Ok(Compared::Different(_, found)) => !kinds(&found).is_disjoint(wanted),
        _ => false,
    }
}

/// Leaves out what can be left out, in halves and smaller parts, while one of the differences is there.
fn small(ground: &mut Ground, text: &str) -> Result<String, String> {
    let Compared::Different(_, found) = compare(ground, text)? else { return Ok(text.to_owned()) };
    let wanted = kinds(&found);
    let mut lines: Vec<&str> = text.lines().collect();
    let began = Instant::now();
    let mut part = lines.len() / 2;
    while part > 0 && began.elapsed() < Duration::from_secs(60) {
        let (mut at, mut shrunk) = (KEPT, false);
        while at < lines.len() {
            let mut fewer = lines.clone();
            fewer.drain(at..(at + part).min(fewer.len()));
            if shows(ground, &fewer.join("\n"), &wanted) {
                lines = fewer;
                shrunk = true;
            } else {
                at += part;
            }
        }
        if !shrunk || part > 1 {
            part /= 2;
        }
    }
    told(ground, &lines.join("\n"))
}

/// A case with what differs, and the way of the first packet that does, as comments.
fn told(ground: &mut Ground, text: &str) -> Result<String, String> {
    let mut told = text.to_owned();
    let Compared::Different(case, found) = compare(ground, text)? else { return Ok(told) };
    found.iter().for_each(|line| told.push_str(&format!("\n# real | sim: {line}")));
    let step = found.iter().find_map(|l| l.strip_prefix("step ")?.split(':').next()?.parse().ok());
    if let Some(step) = step {
        let journey = simulated::journey(&case, step)?;
        journey.lines().for_each(|line| told.push_str(&format!("\n# {line}")));
    }
    Ok(told)
}
