//! userspace mode where there are more clients than it may have, or has descriptors for: they are
//! turned away or wait, who is served is not disturbed, and nothing is left of them in the end.

use std::io::Read;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::userspace::{
    WEB, all_closed, at, descriptors, descriptors_at_start, figure, none_leaked, play, wait_for_web,
};
use super::{Bench, Scenario, Stop, Verdict, eventually, scenario};
use crate::client::{Conversation, Outcome, ask_tcp};
use crate::load::PATIENCE;
use crate::setting::Setting;

/// Scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("userspace-limit", limited),
    scenario("userspace-descriptors-run-out", |bench| play(bench, &[], descriptors_run_out)),
];

/// Connections that the limit is tried with.
const ATTEMPTS: usize = 100_000;
/// The limit, where there are descriptors for it.
const MOST: usize = 10_000;

/// What came of many attempts.
#[derive(Default)]
struct Crowd {
    held: Vec<TcpStream>,
    reset: usize,
    /// Heard nothing in time.
    silent: usize,
    other: Vec<String>,
}

/// Connects and waits for the first byte; who gets it stays.
fn crowd(count: usize) -> Crowd {
    let mut crowd = Crowd::default();
    for _ in 0..count {
        let asked = || -> std::io::Result<TcpStream> {
            let mut stream = TcpStream::connect_timeout(&at(WEB), PATIENCE)?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            match stream.read(&mut [0])? {
                0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(stream),
            }
        };
        match asked() {
            Ok(stream) => crowd.held.push(stream),
            Err(e) if Outcome::of_error(&e) == Outcome::Refused => crowd.reset += 1,
            Err(e) if Outcome::of_error(&e) == Outcome::Silence => crowd.silent += 1,
            Err(e) => crowd.other.push(e.to_string()),
        }
    }
    crowd
}

/// As many connections as are to be allowed: each needs two descriptors here and two in the proxy.
fn most() -> usize {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
    (usize::try_from(hard).unwrap_or(usize::MAX).saturating_sub(4000) / 2).min(MOST)
}

fn limited(bench: &Bench) -> Verdict {
    if most() < 1000 {
        return Err(Stop::Skipped("too few descriptors for a crowd (ulimit -Hn)".to_owned()));
    }
    play(bench, &[&format!("--userspace-max-connections={}", most())], limit)
}

fn limit(setting: &mut Setting) -> Verdict {
    const CLIENTS: usize = 4;
    let most = most();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|e| e.to_string())?;
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    raised.map_err(|e| format!("descriptors for clients and pods: {e}"))?;
    wait_for_web(setting)?;
    all_closed(setting, "default/web:http")?;
    let before = descriptors_at_start(setting)?;
    let pod = setting.lab.place("dns-1").ok_or("no dns-1")?.clone();
    let start = |_| pod.spawn(|| crowd(ATTEMPTS / CLIENTS));
    let clients: Vec<_> = (0..CLIENTS).map(start).collect();
    let join = |client: std::thread::JoinHandle<Crowd>| client.join().map_err(|_| "a client died");
    let crowds = clients.into_iter().map(join).collect::<Result<Vec<_>, _>>()?;
    let held: usize = crowds.iter().map(|c| c.held.len()).sum();
    let reset: usize = crowds.iter().map(|c| c.reset).sum();
    // Ports come again while conntrack still has their last connection, and now and then a SYN is lost.
    let silent: usize = crowds.iter().map(|c| c.silent).sum();
    if silent > ATTEMPTS / 1000 {
        return Err(format!("{held} held, {reset} reset, {silent} heard nothing").into());
    }
    if let Some(why) = crowds.iter().flat_map(|c| &c.other).next() {
        return Err(format!("{held} held, {reset} reset, and one: {why}").into());
    }
    // Each thread of the proxy may let one too many in.
    if !(most..most + 8).contains(&held) {
        return Err(format!("{held} are held, the limit is {most}").into());
    }
    let full = descriptors(setting)?;
    let turned_away = figure(setting, "turned_away_total", "default/web:http")?;
    let said = setting.proxy.as_ref().map(|p| p.process.said()).unwrap_or_default();
    let lines = said.lines().filter(|l| l.contains("as many connections are open")).count();
    // A port that comes again soon may meet what conntrack still knows of it: a reset by the kernel.
    let counted = turned_away <= reset as u64 && turned_away * 100 >= reset as u64 * 99;
    if !counted || lines == 0 || lines > 100 {
        return Err(format!("{reset} resets, {turned_away} counted, {lines} log lines").into());
    }
    drop(crowds);
    all_closed(setting, "default/web:http")?;
    none_leaked(setting, before)?;
    wait_for_web(setting)?;
    Ok(format!(
        "{held} held, {reset} reset, {silent} silent, {lines} lines; descriptors {before}, {full}, {before}"
    ))
}

/// Its limit of descriptors is set so low that some clients cannot be accepted; they wait, and are
/// served as soon as there is room.
fn descriptors_run_out(setting: &mut Setting) -> Verdict {
    wait_for_web(setting)?;
    all_closed(setting, "default/web:http")?;
    let before = descriptors_at_start(setting)?;
    // A connection takes two: first the last is a client's whose endpoint gets none, then an endpoint's.
    let odd = with_few(setting, before, 21)?;
    let even = with_few(setting, before, 20)?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|e| e.to_string())?;
    narrow(setting, hard as usize)?;
    all_closed(setting, "default/web:http")?;
    none_leaked(setting, before)?;
    Ok(format!("{odd} and {even} of 30 served, the others after them"))
}

/// Sets how many descriptors kube-proxy may have.
fn narrow(setting: &Setting, most: usize) -> Result<(), Stop> {
    let id = setting.proxy.as_ref().ok_or("kube-proxy is not running")?.process.id();
    let words = [format!("--pid={id}"), format!("--nofile={most}:")];
    match Command::new("prlimit").args(words).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
        Err(why) => Err(Stop::Skipped(format!("prlimit: {why}"))),
    }
}

/// 30 clients while only `more` descriptors can be had: how many are served.
fn with_few(setting: &Setting, before: usize, more: usize) -> Result<usize, Stop> {
    let complaints = || {
        let said = setting.proxy.as_ref().map(|p| p.process.said()).unwrap_or_default();
        said.lines().filter(|line| line.contains("no descriptor or memory")).count()
    };
    let earlier = complaints();
    narrow(setting, before + more)?;
    let pod = setting.lab.place("dns-1").ok_or("no dns-1")?.clone();
    let open = |_| Conversation::open(None, at(WEB), Duration::from_millis(300));
    let mut talks = pod.run(|| (0..30).map(open).collect::<Vec<_>>());
    let served = talks.iter().filter(|talk| talk.is_ok()).count();
    let broken = talks.iter_mut().flatten().filter_map(|talk| talk.say("on").err()).next();
    if let Some(why) = broken {
        return Err(format!("one that was served broke: {why}").into());
    }
    if served == 0 || served == 30 {
        return Err(format!("{served} of 30 were served").into());
    }
    drop(talks);
    eventually(|| match pod.run(|| ask_tcp(None, at(WEB), PATIENCE)) {
        Outcome::Answered(_) => None,
        other => Some(format!("with descriptors free again: {other:?}")),
    })?;
    let lines = complaints() - earlier;
    if lines > 10 || (lines == 0 && earlier == 0) {
        return Err(format!("{lines} log lines say that descriptors ran out").into());
    }
    Ok(served)
}
