//! Where the scenarios of ipvs mode run: on this kernel if it has IPVS, else in a guest that has; those
//! about what a kernel lacks in guests that lack it. In each case the same binary with the same texts.
//! Knows no scenario but by its name. Tests: it is one; the guest's with `guest`.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use proptests::cluster::Mode;
use proptests::lab::RealHeart;

use super::{Count, Stop, iptables, ipvs, steered, wanted};
use crate::guest::{self, Guest, Order};
use crate::{privilege, proxy};

/// Scenarios written for every mode that run in ipvs mode too.
const SHARED: &[&str] = &[
    "udp-flow-moves-on",
    "affinity-leaves-with-its-endpoint",
    "health-check-node-port",
    "net-admin-only-after-init",
    "trace-foretells-every-probe",
    "dump-answers-anywhere",
    "dump-anonymised-answers-as-before",
    "record-is-played-again",
    "verify-looks-before-it-writes",
];
/// How long all of them may take in a guest, which is some three times slower.
const PATIENCE: Duration = Duration::from_secs(900);
/// Says to the process that it is to run here what was found to run here.
const HERE: &str = "NETLAB_IPVS_HERE";

/// Whether a scenario is one of this run: of its mode, and of what its kernel lacks.
pub(super) fn belongs(name: &str) -> bool {
    let own = ipvs::SCENARIOS.iter().any(|scenario| scenario.name == name);
    let lack = ipvs::LACKS.iter().find(|(known, _)| *known == name).map(|(_, what)| *what);
    match (proxy::mode(), guest::lacks()) {
        (proxy::Mode::Ipvs, None) => lack.is_none() && (own || SHARED.contains(&name)),
        (proxy::Mode::Ipvs, Some(lacking)) => match lack {
            Some(what) => what == lacking,
            None => lacking == "none" && (own || SHARED.contains(&name)),
        },
        (proxy::Mode::UserspaceIptables, _) => !own && !of_iptables(name),
        _ => !own && !of_steered(name) && (proxy::mode().tool().is_some() || !of_iptables(name)),
    }
}

/// Whether a scenario is about what only iptables mode has.
fn of_iptables(name: &str) -> bool {
    iptables::SCENARIOS.iter().any(|scenario| scenario.name == name)
}

/// Whether a scenario is about a kernel without nf_tables.
fn of_steered(name: &str) -> bool {
    steered::SCENARIOS.iter().any(|scenario| scenario.name == name)
}

/// Runs the scenarios of ipvs mode where they can be run.
pub(super) fn ipvs(words: &[String], count: &mut Count) {
    if std::env::var_os(HERE).is_some() {
        return super::run_here(words, count);
    }
    if !any(words) {
        return;
    }
    let began = Instant::now();
    if let Err(why) = privilege::obtain() {
        return count.add("ipvs-mode", began, Err(Stop::Skipped(why)));
    }
    let lack = RealHeart::obstacle(Mode::Ipvs);
    let guest = Guest::find();
    let ran = match (&lack, &guest) {
        (None, _) => natively(words, count),
        (Some(_), Ok(guest)) => {
            println!("ipvs mode: {}", guest.name());
            inside((guest, "ipvs"), (words, None), count)
        }
        (Some(lack), Err(why)) => Err(Stop::Skipped(format!("{lack}; {why}"))),
    };
    if let Err(stop) = ran {
        count.add("ipvs-mode", began, Err(stop));
    }
    for (name, module) in ipvs::LACKS.iter().filter(|(name, _)| wanted(name, words)) {
        let ran = match &guest {
            Ok(guest) => inside((guest, "ipvs"), (&[(*name).to_owned()], Some(module)), count),
            Err(why) => Err(Stop::Skipped(why.clone())),
        };
        if let Err(stop) = ran {
            count.add(name, began, Err(stop));
        }
    }
}

/// Runs scenarios of userspace mode in a guest, whose kernel has no nf_tables.
pub(super) fn without_nf_tables(words: &[String], count: &mut Count) {
    let began = Instant::now();
    let guest = privilege::obtain().and_then(|_| Guest::find());
    let ran = match &guest {
        Ok(guest) => {
            println!("userspace mode without nf_tables: {}", guest.name());
            inside((guest, "userspace-iptables"), (words, None), count)
        }
        Err(why) => Err(Stop::Skipped(why.clone())),
    };
    if let Err(stop) = ran {
        count.add("userspace-mode-without-nf-tables", began, Err(stop));
    }
}

/// Whether there is anything to run for these words.
fn any(words: &[String]) -> bool {
    let scripts = super::scripts(proxy::workspace(), words).is_ok_and(|groups| !groups.is_empty());
    let own = ipvs::SCENARIOS.iter().map(|scenario| scenario.name);
    scripts || own.chain(SHARED.iter().copied()).any(|name| wanted(name, words))
}

/// In a process of its own: a process has one mode.
fn natively(words: &[String], count: &mut Count) -> Result<(), Stop> {
    println!("ipvs mode: this kernel");
    let own = std::env::current_exe().map_err(|e| format!("our own binary: {e}"))?;
    let mut command = Command::new(own);
    command.args(["test", "--mode", "ipvs"]).args(words).env(HERE, "yes");
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("our own binary: {e}"))?;
    let pipe = child.stdout.take().ok_or("it has no output")?;
    let mut closed = false;
    BufReader::new(pipe).lines().map_while(Result::ok).for_each(|l| closed |= heard(count, &l));
    let status = child.wait().map_err(|e| e.to_string())?;
    if closed { Ok(()) } else { Err(Stop::Failed(format!("it ended early: {status}"))) }
}

fn inside(
    (guest, mode): (&Guest, &str),
    (words, without): (&[String], Option<&str>),
    count: &mut Count,
) -> Result<(), Stop> {
    let own = std::env::current_exe().map_err(|e| format!("our own binary: {e}"))?;
    let mut order = Order::new([own.as_os_str(), "test".as_ref()]);
    order.command.extend(["--mode".into(), mode.into()]);
    order.command.extend(words.iter().map(Into::into));
    order.without = without.map(str::to_owned);
    order.patience = PATIENCE;
    let mut closed = false;
    let ended = guest.run(&order, |line| closed |= heard(count, line))?;
    if closed { Ok(()) } else { Err(Stop::Failed(format!("it ended early, with {ended}"))) }
}

/// Adds what a run says at its end; prints every other line. Whether it was the end.
fn heard(count: &mut Count, line: &str) -> bool {
    let Some([passed, failed, skipped]) = crate::twin::total(line) else {
        println!("{line}");
        return false;
    };
    count.passed += passed;
    count.failed += failed;
    count.skipped += skipped;
    true
}
