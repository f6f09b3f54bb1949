//! The real kernel, driven through the library: everything at once, one endpoint, nothing, a
//! restart; time and memory of each, beside what the kernel alone takes.
//!
//! Every run of every case is a process of its own in a network namespace of its own, which it makes
//! itself: nothing outside is touched, and peaks of memory are the case's own.
//! Tests: by running it (needs root); the parts it is made of have their own.

pub mod bare;
pub mod case;
mod tables;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use kube_proxy::model::Family;

use crate::cluster::{Mix, Shape};
use crate::figures::{Figures, Runs};
use crate::meter;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Numbers of Services.
    pub services: Vec<usize>,
    /// Runs of each case.
    pub runs: usize,
    /// Changes of each kind in a run.
    pub changes: usize,
    /// How long to wait for other work on this machine to end.
    pub patience: Duration,
}

/// What a case does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// The proxy, IPv4.
    Single,
    /// The proxy, IPv4 and IPv6.
    Dual,
    /// The proxy, IPv4; a tenth of the Services with session affinity, another tenth UDP.
    Mixed,
    /// The same batches as `Single` and nothing else, and a table of two maps only.
    Bare,
}

impl What {
    /// All of them.
    pub const ALL: [What; 4] = [What::Single, What::Dual, What::Mixed, What::Bare];

    /// Its name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            What::Single => "single",
            What::Dual => "dual",
            What::Mixed => "mixed",
            What::Bare => "bare",
        }
    }
}

/// One case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Case {
    /// What it does.
    pub what: What,
    /// How many Services.
    pub services: usize,
    /// Endpoints of each.
    pub endpoints: usize,
    /// Changes of each kind.
    pub changes: usize,
}

impl Case {
    /// Its name in the results.
    pub fn name(&self) -> String {
        format!("{} {}x{}", self.what.as_str(), self.services, self.endpoints)
    }

    fn shape(&self) -> Shape {
        let families = match self.what {
            What::Dual => Family::ALL.to_vec(),
            _ => vec![Family::V4],
        };
        let mix = if self.what == What::Mixed { Mix::Mixed } else { Mix::Plain };
        Shape { services: self.services, endpoints: self.endpoints, families, mix }
    }
}

/// The cases of a wish.
fn cases(wish: &Wish) -> Vec<Case> {
    let mut cases = Vec::new();
    for services in &wish.services {
        for what in What::ALL {
            let case = Case { what, services: *services, endpoints: 10, changes: wish.changes };
            cases.push(case);
        }
        // What more endpoints cost.
        let what = What::Single;
        cases.push(Case { what, services: *services, endpoints: 20, changes: 0 });
    }
    cases
}

/// Runs every case, one after the other and then all again, so that what disturbs the machine for
/// a while does not disturb all runs of one case.
pub fn run(wish: &Wish) -> Result<BTreeMap<Case, Runs>, String> {
    let mut results: BTreeMap<Case, Runs> = BTreeMap::new();
    for round in 1..=wish.runs {
        let load = meter::calm(wish.patience);
        for case in cases(wish) {
            let mut figures = in_child(&case)?;
            figures.put("load_before", load);
            eprintln!("run {round}: {}: {}", case.name(), figures.to_line());
            results.entry(case).or_default().push(figures);
            // The kernel takes a dead namespace's table apart in its own time.
            std::thread::sleep(Duration::from_millis(300 + case.services as u64 / 25));
        }
    }
    Ok(results)
}

/// Runs one case in a process of its own.
fn in_child(case: &Case) -> Result<Figures, String> {
    let mut own = own_binary()?;
    own.args(["case", case.what.as_str(), &case.services.to_string()])
        .args([case.endpoints.to_string(), case.changes.to_string()]);
    figures_of(own, &case.name())
}

/// This program, to be started once more.
pub(crate) fn own_binary() -> Result<Command, String> {
    let own = std::env::current_exe().map_err(|e| format!("our own binary: {e}"))?;
    Ok(Command::new(own))
}

/// Runs a child that prints the figures of a case.
pub(crate) fn figures_of(mut child: Command, case: &str) -> Result<Figures, String> {
    let output = child.output().map_err(|e| format!("{case}: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{case}: {}\n{errors}", output.status));
    }
    Figures::from_line(text.trim())
}

/// What a child does: runs a case in a new network namespace. Must be called before any thread is
/// started.
pub fn play(case: &Case) -> Result<Figures, String> {
    enter_new_namespace()?;
    match case.what {
        What::Bare => bare::run(&case.shape()),
        _ => case::run(case, &case.shape()),
    }
}

pub(crate) fn enter_new_namespace() -> Result<(), String> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
        .map_err(|e| format!("no network namespace of our own ({e}): run as root"))
}

/// Prints and keeps the results.
pub fn report(results: &BTreeMap<Case, Runs>) -> Result<(), String> {
    let tables = tables::all(results);
    tables.iter().for_each(|table| println!("{table}"));
    let named = results.iter().map(|(case, runs)| (case.name(), runs.clone())).collect();
    let folder = crate::report::write("real", &named, &tables)?;
    println!("written to {}", folder.display());
    Ok(())
}
