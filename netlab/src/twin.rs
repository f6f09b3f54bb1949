//! The commands `kernel` and `fuzz`: files in and out, words for people. What is asked and how it is
//! compared is in `proptests::twin`. Tests: it is one; `proptests/tests/recorded.rs` replays.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use proptests::twin::answer::Answers;
use proptests::twin::case::Case;
use proptests::twin::fuzz::{self, Wish};
use proptests::twin::linux::Ground;
use proptests::twin::recorded;
use proptests::twin::tools::Flavour;

use crate::proxy::workspace;

/// Whether answers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// In `netlab/recorded`.
    Recorded,
    /// Nowhere.
    Nothing,
}

impl From<bool> for Keep {
    fn from(record: bool) -> Keep {
        if record { Keep::Recorded } else { Keep::Nothing }
    }
}

/// Runs the cases of `netlab/scenarios/kernel` on the real kernel.
pub fn kernel(names: &[String], keep: Keep) -> ExitCode {
    match all_cases(names, keep) {
        Ok((passed, failed)) => {
            println!("{passed} passed, {failed} failed, 0 skipped");
            if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => obstacle(&why),
    }
}

/// What cannot run here is skipped with its reason, or a failure where the lab is required.
fn obstacle(why: &str) -> ExitCode {
    let required = std::env::var("NETLAB").is_ok_and(|v| v == "required");
    if required || !why.contains("run as root") {
        eprintln!("netlab: {why}");
        return ExitCode::FAILURE;
    }
    println!("0 passed, 0 failed, 1 skipped: {why}");
    ExitCode::SUCCESS
}

fn all_cases(names: &[String], keep: Keep) -> Result<(usize, usize), String> {
    let mut ground = Ground::new(&Case::default(), Flavour::Nft)?;
    let (mut passed, mut failed) = (0, 0);
    for file in files(&workspace().join("netlab/scenarios/kernel"))? {
        let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        let mut kept = Vec::new();
        for case in Case::read_all(&text)? {
            if !names.is_empty() && !names.iter().any(|n| case.name.contains(n.as_str())) {
                continue;
            }
            let (answers, found) = one(&mut ground, &case)?;
            if found.is_empty() {
                passed += 1;
            } else {
                failed += 1;
                println!("{}: {}", file.display(), case.name);
                found.iter().for_each(|line| println!("    real | sim or expected: {line}"));
            }
            let answers = recorded::blurred(&case, answers);
            kept.push((case.name, answers));
        }
        if keep == Keep::Recorded && names.is_empty() {
            write(&file, &kept)?;
        }
    }
    Ok((passed, failed))
}

/// What each flavour of the tools answers must be what the simulator does; the first one's is kept.
fn one(ground: &mut Ground, case: &Case) -> Result<(Answers, Vec<String>), String> {
    let (mut first, mut found) = (None, Vec::new());
    for flavour in case.flavours() {
        ground.settle();
        let answers = ground.for_case(case, *flavour)?;
        found.extend(recorded::replay(case, &answers)?);
        first.get_or_insert(answers);
    }
    found.dedup();
    Ok((first.unwrap_or_default(), found))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let list = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut files: Vec<PathBuf> = list.filter_map(|e| Some(e.ok()?.path())).collect();
    files.sort();
    Ok(files)
}

fn write(file: &Path, kept: &[(String, Answers)]) -> Result<(), String> {
    let version = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let head = format!(
        "# Answers of Linux {}, recorded by `netlab kernel --record` (netlab {}).\n",
        version.trim(),
        env!("CARGO_PKG_VERSION"),
    );
    let folder = workspace().join("netlab/recorded");
    let to = folder.join(file.file_name().unwrap_or_default());
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&to, head + &recorded::print(kept)))
        .map_err(|e| format!("{}: {e}", to.display()))
}

/// Random rules and packets on both kernels.
pub fn fuzz(wish: &Wish) -> ExitCode {
    let report = match fuzz::run(wish) {
        Ok(report) => report,
        Err(why) => return obstacle(&why),
    };
    for (number, text) in report.differences.iter().enumerate() {
        let seed = text.lines().next().unwrap_or_default().replace("seed ", "");
        let file = std::env::temp_dir().join(format!("difference-{seed}.txt"));
        let again = format!(
            "# cargo run -p netlab -- fuzz --seed {seed} --packets 1 --each {}\n",
            wish.each
        );
        let kept = fs::write(&file, format!("== {text}\n{again}"));
        println!("difference {number}, {}:\n{text}\n{again}", file.display());
        if let Err(why) = kept {
            println!("{}: {why}", file.display());
        }
    }
    println!(
        "{} packets in {} cases, {} came through, {} batches refused by both, {} cases not modelled",
        report.packets, report.cases, report.through, report.refused, report.unmodelled
    );
    println!(
        "{} passed, {} failed, 0 skipped",
        report.cases - report.differences.len(),
        report.differences.len()
    );
    if report.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
