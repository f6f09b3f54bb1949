//! The commands `kernel` and `fuzz`: files in and out, words for people. What is asked and how it is
//! compared is in `proptests::twin`. Tests: it is one; `proptests/tests/recorded.rs` replays.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use proptests::cluster::Mode;
use proptests::lab::RealHeart;
use proptests::twin::answer::Answers;
use proptests::twin::case::Case;
use proptests::twin::fuzz::{self, Wish};
use proptests::twin::linux::Ground;
use proptests::twin::recorded;
use proptests::twin::tools::Flavour;

use crate::guest::{self, Guest, Order};
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

/// What came of cases.
#[derive(Default)]
struct Count {
    passed: usize,
    failed: usize,
    skipped: usize,
    /// Names of those that need what this kernel lacks.
    elsewhere: Vec<String>,
}

impl Count {
    fn all(&self) -> usize {
        self.passed + self.failed + self.skipped
    }

    fn close(&self) -> ExitCode {
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped);
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// Adds what a guest says at its end; gives back any other line.
    fn heard<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        let Some([passed, failed, skipped]) = total(line) else { return Some(line) };
        self.passed += passed;
        self.failed += failed;
        self.skipped += skipped;
        None
    }
}

/// The numbers of a line like `3 passed, 0 failed, 1 skipped`.
pub(crate) fn total(line: &str) -> Option<[usize; 3]> {
    let parts = line.split(", ").zip([" passed", " failed", " skipped"]);
    let numbers = parts.map(|(part, word)| part.strip_suffix(word)?.parse().ok());
    numbers.collect::<Option<Vec<usize>>>()?.try_into().ok()
}

/// Runs the cases of `netlab/scenarios/kernel` on the real kernel; those that it lacks something for
/// in a guest.
pub fn kernel(names: &[String], keep: Keep) -> ExitCode {
    let mut count = Count::default();
    match all_cases(names, keep, &mut count) {
        Ok(()) => {
            in_guest(keep, &mut count);
            count.close()
        }
        Err(why) => obstacle(&why),
    }
}

/// Runs in a guest what could not run here.
fn in_guest(keep: Keep, count: &mut Count) {
    let names = std::mem::take(&mut count.elsewhere);
    if names.is_empty() {
        return;
    }
    let before = count.all();
    let ran = Guest::find().and_then(|guest| {
        println!("{} cases for {}", names.len(), guest.name());
        let own = std::env::current_exe().map_err(|e| format!("our own binary: {e}"))?;
        let mut order = Order::new([own.as_os_str(), "kernel".as_ref()]);
        order.command.extend(names.iter().map(Into::into));
        if keep == Keep::Recorded {
            order.command.push("--record".into());
            order.keep = Some(workspace().join("netlab/recorded"));
        }
        guest.run(&order, |line| count.heard(line).into_iter().for_each(|line| println!("{line}")))
    });
    match ran {
        // One that broke off before it counted has not passed.
        Ok(code) => {
            let missing = names.len().saturating_sub(count.all() - before);
            if missing > 0 {
                println!("FAILED  {missing} cases for a guest were not run: exit code {code}");
                count.failed += missing;
            }
        }
        Err(why) if required() => {
            println!("FAILED  {} cases for a guest, NETLAB=required: {why}", names.len());
            count.failed += names.len();
        }
        Err(why) => {
            println!("skipped {} cases for a guest: {why}", names.len());
            count.skipped += names.len();
        }
    }
}

fn required() -> bool {
    std::env::var("NETLAB").is_ok_and(|v| v == "required")
}

/// What cannot run here is skipped with its reason, or a failure where the lab is required.
fn obstacle(why: &str) -> ExitCode {
    if required() || !why.contains("run as root") {
        eprintln!("netlab: {why}");
        return ExitCode::FAILURE;
    }
    println!("0 passed, 0 failed, 1 skipped: {why}");
    ExitCode::SUCCESS
}

fn all_cases(names: &[String], keep: Keep, count: &mut Count) -> Result<(), String> {
    let mut ground = Ground::new(&Case::default(), Flavour::Nft)?;
    let native = RealHeart::obstacle(Mode::Ipvs).is_none();
    // In a guest only what is for it: the rest has no nf_tables there.
    let here = |case: &Case| match guest::is_inside() {
        true => case.needs_ipvs() || case.needs_own_machine(),
        false => !case.needs_own_machine() && (native || !case.needs_ipvs()),
    };
    for file in files(&workspace().join("netlab/scenarios/kernel"))? {
        let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        let mut kept = Vec::new();
        let cases = Case::read_all(&text)?;
        let total = cases.len();
        for case in cases {
            if !names.is_empty() && !names.iter().any(|n| case.name.contains(n.as_str())) {
                continue;
            }
            if !here(&case) {
                count.elsewhere.extend((!guest::is_inside()).then_some(case.name));
                continue;
            }
            kept.push(judged(&mut ground, (&file, case), count)?);
        }
        if keep == Keep::Recorded && kept.len() == total {
            write(&file, &kept)?;
        }
    }
    Ok(())
}

/// Runs a case and compares; gives back what is recorded of it.
fn judged(
    ground: &mut Ground,
    (file, case): (&Path, Case),
    count: &mut Count,
) -> Result<(String, Answers), String> {
    let (answers, found) = one(ground, &case)?;
    if found.is_empty() {
        count.passed += 1;
    } else {
        count.failed += 1;
        println!("{}: {}", file.display(), case.name);
        found.iter().for_each(|line| println!("    real | sim or expected: {line}"));
    }
    let answers = recorded::blurred(&case, answers);
    Ok((case.name, answers))
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
        "# Answers of Linux {}, recorded by `netlab kernel --record` (netlab {}; {}).\n",
        version.trim(),
        env!("CARGO_PKG_VERSION"),
        ["nft", "iptables", "ipset"].map(tool).join(", "),
    );
    let folder = guest::kept().unwrap_or_else(|| workspace().join("netlab/recorded"));
    let to = folder.join(file.file_name().unwrap_or_default());
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&to, head + &recorded::print(kept)))
        .map_err(|e| format!("{}: {e}", to.display()))
}

/// A tool with its version: rules of iptables and ipsets reach the kernel through them.
fn tool(name: &str) -> String {
    let said = std::process::Command::new(name).arg("--version").output();
    let said = said.map(|said| String::from_utf8_lossy(&said.stdout).into_owned());
    let version = said.ok().and_then(|text| {
        let number = |word: &&str| word.trim_start_matches('v').starts_with(char::is_numeric);
        text.split_whitespace().find(number).map(|word| word.trim_matches([',', 'v']).to_owned())
    });
    format!("{name} {}", version.unwrap_or_else(|| "not installed".to_owned()))
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
