//! All scenarios of the lab, and what runs them: text scripts, side by side in one setting for
//! each folder of manifests, and Rust ones, each in a setting of its own.
//! A scenario that cannot run here is skipped with its reason. Tests: it is all test.

mod access;
mod affinity;
mod api;
mod crowds;
mod dump;
mod faults;
mod harm;
mod heal;
mod health;
mod iptables;
mod ipvs;
mod ipvs_drift;
mod modes;
mod objects;
mod operator;
mod process;
mod record;
mod served;
mod soak;
mod starts;
mod steered;
mod strangers;
mod trace;
mod userspace;
mod whereto;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use nix::sys::resource::{Resource, setrlimit};

use crate::probe::Script;
use crate::setting::Setting;
use crate::{demo, guest, privilege, proxy, scratch};

/// Why a scenario did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Something is wrong.
    Failed(String),
    /// It cannot run here.
    Skipped(String),
    /// The mode of this run promises something else.
    Unfit(String),
}

impl From<String> for Stop {
    fn from(why: String) -> Stop {
        Stop::Failed(why)
    }
}

impl From<&str> for Stop {
    fn from(why: &str) -> Stop {
        Stop::Failed(why.to_owned())
    }
}

/// What came of a scenario; if it passed, a remark to print (a measured figure), mostly empty.
pub type Verdict = Result<String, Stop>;

/// What every scenario is given.
pub struct Bench {
    /// The kube-proxy under test.
    pub binary: PathBuf,
    /// The workspace's root.
    pub root: PathBuf,
}

impl Bench {
    /// The examples in a setting, kube-proxy not yet started.
    pub fn examples(&self) -> Result<Setting, String> {
        Setting::of_folder(&self.binary, &self.root.join("examples"))
    }
}

/// A scenario in Rust.
#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    run: fn(&Bench) -> Verdict,
    when: When,
}

/// When a scenario runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// In its turn, with the machine for itself.
    InTurn,
    /// Beside all others: it does nothing but wait.
    Beside,
}

/// A scenario of this name.
const fn scenario(name: &'static str, run: fn(&Bench) -> Verdict) -> Scenario {
    Scenario { name, run, when: When::InTurn }
}

/// A scenario that only waits.
const fn beside(name: &'static str, run: fn(&Bench) -> Verdict) -> Scenario {
    Scenario { name, run, when: When::Beside }
}

fn all() -> Vec<Scenario> {
    let files = [
        process::SCENARIOS,
        starts::SCENARIOS,
        heal::SCENARIOS,
        objects::SCENARIOS,
        operator::SCENARIOS,
        affinity::SCENARIOS,
        health::SCENARIOS,
        modes::SCENARIOS,
        served::SCENARIOS,
        access::SCENARIOS,
        soak::SCENARIOS,
        api::SCENARIOS,
        trace::SCENARIOS,
        dump::SCENARIOS,
        record::SCENARIOS,
        userspace::SCENARIOS,
        crowds::SCENARIOS,
        iptables::SCENARIOS,
        ipvs::SCENARIOS,
        steered::SCENARIOS,
    ];
    let all = files.into_iter().flatten().copied();
    all.filter(|s| whereto::belongs(s.name)).collect()
}

/// Scenarios that hold in nftables mode only, with the reason.
const OF_NFTABLES: &[(&str, &str)] = &[
    ("guard", "iptables mode has no guard for ports that a cluster IP does not have"),
    (
        "cleanup-is-only-ours",
        "it looks for what nftables mode makes; cleanup-of-every-mode for all",
    ),
    ("table-is-readable", "it reads the table of nftables mode"),
    PLANTED,
    ("deleted-table-heals", "it deletes the table of nftables mode; see drift-in-each-table-heals"),
    ("drift-of-elements", "it flushes maps of nftables mode; see drift-in-each-table-heals"),
    ("killed-while-writing", "it lists the table of nftables mode"),
    ("service-cidr-comes-and-goes", "iptables mode does not look at ServiceCIDRs"),
];

const PLANTED: (&str, &str) = (
    "check-finds-planted-faults",
    "it plants them in the table of nftables mode; see check-finds-in-other-modes",
);

/// Scenarios that do not hold in userspace mode, with the reason.
const NOT_OF_USERSPACE: &[(&str, &str)] = &[
    ("restart-under-traffic", CARRIED),
    ("restarts-lose-nothing", CARRIED),
    ("signals-leave-the-rules", CARRIED),
    PLANTED,
];
const CARRIED: &str = "connections end with the process that carries them; see userspace-drain-*";

/// Scenarios that do not hold on a kernel without nf_tables, with the reason.
const NOT_WITHOUT_NF_TABLES: &[(&str, &str)] = &[
    ("drift-flush-under-load", "ip_tables tells nobody who changed its rules"),
    ("drift-in-each-table-heals", "see without-nf-tables-drift-is-mended"),
    ("net-admin-only-after-init", "iptables-legacy needs CAP_NET_RAW as well"),
    ("check-finds-in-other-modes", "see without-nf-tables-check-finds"),
    ("status-page-in-a-browser", "a guest has no browser"),
];

/// Why a scenario does not run in the mode of this run, if it does not.
fn unfit(name: &str) -> Option<Stop> {
    let lists: &[&[(&str, &str)]] = match proxy::mode() {
        proxy::Mode::Nftables | proxy::Mode::Ipvs => &[],
        proxy::Mode::IptablesNft | proxy::Mode::IptablesLegacy => &[OF_NFTABLES],
        proxy::Mode::Userspace => &[NOT_OF_USERSPACE],
        proxy::Mode::UserspaceIptables => &[NOT_OF_USERSPACE, OF_NFTABLES, NOT_WITHOUT_NF_TABLES],
    };
    let (_, why) = lists.iter().copied().flatten().find(|(known, _)| *known == name)?;
    Some(Stop::Unfit((*why).to_owned()))
}

fn wanted(name: &str, words: &[String]) -> bool {
    words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
}

/// Scripts that can share a setting: same manifests, same flags.
type Groups = BTreeMap<(String, Vec<String>), Vec<Script>>;

fn scripts(root: &Path, words: &[String]) -> Result<Groups, String> {
    let mut groups = Groups::new();
    for script in Script::read_all(&root.join("netlab/scenarios"))? {
        if wanted(&script.name, words) && guest::lacks().is_none_or(|what| what == "none") {
            let script = script.in_mode(proxy::mode().word());
            groups
                .entry((script.manifests.clone(), script.flags.clone()))
                .or_default()
                .push(script);
        }
    }
    Ok(groups)
}

/// Prints the names of the scenarios.
pub fn list(words: &[String]) -> ExitCode {
    match scripts(proxy::workspace(), words) {
        Ok(groups) => groups.values().flatten().for_each(|s| println!("{}", s.name)),
        Err(why) => eprintln!("{why}"),
    }
    all().iter().filter(|s| wanted(s.name, words)).for_each(|s| println!("{}", s.name));
    ExitCode::SUCCESS
}

#[derive(Default)]
struct Count {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Count {
    fn add(&mut self, name: &str, began: Instant, verdict: Verdict) {
        let required = std::env::var("NETLAB").is_ok_and(|v| v == "required");
        let took = began.elapsed().as_secs_f32();
        match verdict {
            Ok(remark) => {
                self.passed += 1;
                let remark = if remark.is_empty() { remark } else { format!(": {remark}") };
                println!("ok      {name} ({took:.1} s){remark}");
            }
            // What another mode's scenario asks is no lack of this machine.
            Err(Stop::Skipped(why)) if !required || unfit(name).is_some() => {
                self.skipped += 1;
                println!("skipped {name}: {why}");
            }
            Err(Stop::Unfit(why)) => {
                self.skipped += 1;
                println!("skipped {name}: not of this mode: {why}");
            }
            Err(Stop::Skipped(why)) => {
                self.failed += 1;
                println!("FAILED  {name}: skipped, but NETLAB=required: {why}");
            }
            Err(Stop::Failed(why)) => {
                self.failed += 1;
                println!("FAILED  {name} ({took:.1} s): {why}");
            }
        }
    }

    fn close(&self) -> ExitCode {
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped);
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Descriptors for clients, pods and kube-proxy, asked for where we may: of crowds of connections.
const DESCRIPTORS: u64 = 100_000;

/// Runs the scenarios whose names contain one of the words, or all, in the mode of this run: here, or
/// for ipvs mode where it can be.
pub fn run(words: &[String]) -> ExitCode {
    let mut count = Count::default();
    match proxy::mode() {
        proxy::Mode::Ipvs if !guest::is_inside() => whereto::ipvs(words, &mut count),
        proxy::Mode::UserspaceIptables if !guest::is_inside() => {
            whereto::without_nf_tables(words, &mut count);
        }
        _ => run_here(words, &mut count),
    }
    count.close()
}

/// The same in nftables mode and then in ipvs mode.
pub fn run_all_modes(words: &[String]) -> ExitCode {
    let mut count = Count::default();
    run_here(words, &mut count);
    whereto::ipvs(words, &mut count);
    count.close()
}

fn run_here(words: &[String], count: &mut Count) {
    let root = proxy::workspace().to_owned();
    let groups = match scripts(&root, words) {
        Ok(groups) => groups,
        Err(why) => return count.add("scenarios", Instant::now(), Err(Stop::Failed(why))),
    };
    let chosen: Vec<Scenario> = all().into_iter().filter(|s| wanted(s.name, words)).collect();
    // Building must come before the user namespace, and that before any thread.
    let ready = proxy::find().map_err(Stop::Failed).and_then(|binary| {
        // Nor has anybody in a user namespace the right to this.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS);
        privilege::obtain().map_err(Stop::Skipped)?;
        scratch::clean_on_signals()?;
        Ok(Bench { binary, root })
    });
    match ready {
        Ok(bench) => {
            run_all(&bench, (&groups, &chosen), count);
        }
        Err(stop) => {
            let names = groups.values().flatten().map(|s| s.name.as_str());
            for name in names.chain(chosen.iter().map(|s| s.name)) {
                count.add(name, Instant::now(), Err(stop.clone()));
            }
        }
    }
}

fn run_all(bench: &Bench, (groups, chosen): (&Groups, &[Scenario]), count: &mut Count) {
    let run = |scenario: &Scenario| match unfit(scenario.name) {
        Some(why) => Err(why),
        None => guarded(|| (scenario.run)(bench)),
    };
    let (waiting, in_turn): (Vec<&Scenario>, Vec<&Scenario>) =
        chosen.iter().partition(|s| s.when == When::Beside);
    std::thread::scope(|scope| {
        let start = |scenario| (scenario, Instant::now(), scope.spawn(move || run(scenario)));
        let waiting: Vec<_> = waiting.into_iter().map(start).collect();
        run_scripts(bench, groups, count);
        for scenario in in_turn {
            let began = Instant::now();
            count.add(scenario.name, began, run(scenario));
        }
        for (scenario, began, running) in waiting {
            let died = |_| Err(Stop::from("its thread died"));
            count.add(scenario.name, began, running.join().unwrap_or_else(died));
        }
    });
}

/// A panic of one scenario is its failure and nobody else's.
fn guarded(scenario: impl FnOnce() -> Verdict) -> Verdict {
    catch_unwind(AssertUnwindSafe(scenario)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(Stop::Failed(format!("panicked: {}", text.unwrap_or_default())))
    })
}

fn run_scripts(bench: &Bench, groups: &Groups, count: &mut Count) {
    for (of, scripts) in groups {
        let began = Instant::now();
        let setting = guarded_setting(bench, of, scripts);
        for script in scripts {
            let verdict = match (&setting, unfit(&script.name)) {
                (_, Some(why)) => Err(why),
                (Ok(setting), None) => guarded(|| judge_script(setting, script)),
                (Err(why), None) => Err(Stop::Failed(why.clone())),
            };
            count.add(&script.name, began, verdict);
        }
    }
}

fn guarded_setting(
    bench: &Bench,
    (manifests, flags): &(String, Vec<String>),
    scripts: &[Script],
) -> Result<Setting, String> {
    let mut setting = Setting::of_folder(&bench.binary, &bench.root.join(manifests))?;
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    setting.start_proxy_with(&flags)?;
    // One family is programmed after the other.
    for six in [false, true] {
        let mut probes = scripts.iter().flat_map(|s| &s.probes).filter(|p| setting.can_ask(p));
        let Some(first) = probes.find(|p| p.to.is_ipv6() == six) else { continue };
        setting
            .wait_for(first)
            .map_err(|why| format!("{manifests}: {why}\n{}", setting.last_words()))?;
    }
    Ok(setting)
}

fn judge_script(setting: &Setting, script: &Script) -> Verdict {
    let rows = demo::ask(setting, script);
    let left_out = script.probes.len() - rows.len();
    let wrong: Vec<_> = rows.into_iter().filter(|r| r.wrong.is_some()).collect();
    if wrong.is_empty() {
        let remark = format!("{left_out} IPv6 probes left out: no IPv6 here");
        return Ok(if left_out == 0 { String::new() } else { remark });
    }
    let table = crate::table::print(&wrong);
    told(setting, Err(Stop::Failed(format!("{} wrong\n{table}", wrong.len()))))
}

/// Fails if any attempt of a load was not answered, or any kept connection broke.
fn unharmed(
    attempts: &[crate::load::Attempt],
    kept: &[Result<String, String>],
) -> Result<String, Stop> {
    let failed = crate::load::failures(attempts);
    let broken: Vec<&String> = kept.iter().filter_map(|k| k.as_ref().err()).collect();
    let total = attempts.len();
    if let Some(first) = failed.first() {
        return Err(format!("{} of {total} new connections failed: {first:?}", failed.len()).into());
    }
    if let Some(first) = broken.first() {
        let count = broken.len();
        return Err(format!("{count} of {} kept connections broke: {first}", kept.len()).into());
    }
    Ok(format!("{total} new connections, {} kept, none harmed", kept.len()))
}

/// Waits until something is so; the closure says what is missing.
fn eventually(mut missing: impl FnMut() -> Option<String>) -> Result<(), Stop> {
    let began = Instant::now();
    loop {
        let Some(what) = missing() else { return Ok(()) };
        if began.elapsed() > crate::setting::DEADLINE {
            return Err(format!("still after {:?}: {what}", crate::setting::DEADLINE).into());
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Ends with kube-proxy's last words if a step failed.
fn told(setting: &Setting, verdict: Verdict) -> Verdict {
    verdict.map_err(|stop| match stop {
        Stop::Failed(why) => {
            pause(setting, &why);
            Stop::Failed(format!("{why}\n{}\n{PAUSE}", setting.last_words()))
        }
        skipped => skipped,
    })
}

/// What a failure says about looking inside.
const PAUSE: &str = "(NETLAB_PAUSE=1 stops at a failure, so that one can look into the namespaces)";

/// Waits for Enter at a failure, if asked to, and says how to get in meanwhile.
fn pause(setting: &Setting, why: &str) {
    if std::env::var_os("NETLAB_PAUSE").is_none() {
        return;
    }
    println!("{why}\n{}\nEnter goes on.", setting.lab.hints().join("\n"));
    let _ = std::io::stdin().read_line(&mut String::new());
}
