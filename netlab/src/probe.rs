//! The language of questions: who asks what, and what must come of it. One text, several runners:
//! a runner only makes attempts; reading the text and judging is done here.
//! Knows no namespaces and no kernel. Tests: below.
//!
//! ```text
//! # why this is asked
//! manifests examples                 folder of manifests, from the workspace's root
//! flags --masquerade-all             further flags of kube-proxy
//! NodePort, policy Local:            a title; its probes are indented
//!     tcp from outside to 172.18.1.2:30081 reaches web-1 web-2 as itself
//!     udp from web-1 to 10.96.0.53:53 reaches one of dns-1 dns-2 as any
//!     tcp from node to 10.96.0.18:80 is refused
//!     tcp from stranger to 198.51.100.12:80 is lost
//!     but in ipvs (the-name-of-a-difference) is refused
//! ```
//!
//! `reaches A B`: every attempt one of these, and in the end each of them. `reaches one of A B`:
//! every attempt the same one. `as itself`: the pod sees the client's own address; `as node`: an
//! address of the node; `as any`: whichever. `is refused`: a reset or ICMP port unreachable;
//! `is unreachable`: another ICMP error; `is lost`: silence. `but in MODE (NAME)`: what holds in that mode instead of the line before, by a
//! difference that `proptests::differences` names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::client::Outcome;
use crate::manifests::Transport;
use crate::{plan, proxy};

/// Whom the pod must take for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The client's own address.
    Itself,
    /// An address of the node.
    Node,
    /// Whichever.
    Any,
}

/// What must come of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Every attempt reaches one of these pods, and each of them is reached.
    Each(BTreeSet<String>, Seen),
    /// Every attempt reaches the same one of these pods.
    One(BTreeSet<String>, Seen),
    /// Somebody says no.
    Refused,
    /// Somebody on the way knows no way.
    Unreachable,
    /// Nobody says anything.
    Lost,
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The title under which it stands.
    pub title: String,
    /// By which protocol.
    pub transport: Transport,
    /// Who asks: `outside`, `stranger`, `node`, `node-2` or a pod.
    pub who: String,
    /// Which address and port.
    pub to: SocketAddr,
    /// What must come of it.
    pub expected: Expected,
    /// What holds in some modes instead.
    pub departures: Vec<Departure>,
}

/// What must come of a probe in one mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    /// The mode, as `--proxy-mode` has it.
    pub mode: String,
    /// The difference's name.
    pub name: String,
    /// What must come of the probe there.
    pub expected: Expected,
}

/// A text of probes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// Its name: the file's, without `.txt`.
    pub name: String,
    /// Folder of its manifests, from the workspace's root.
    pub manifests: String,
    /// Further flags of kube-proxy.
    pub flags: Vec<String>,
    /// Its probes.
    pub probes: Vec<Probe>,
}

impl Probe {
    /// Reads one probe as it stands in a script.
    pub fn parse(line: &str) -> Result<Probe, String> {
        probe("", line).map_err(|why| format!("{why}: {line:?}"))
    }
}

impl Script {
    /// Reads a text. The error names the line.
    pub fn parse(name: &str, text: &str) -> Result<Script, String> {
        let mut script = Script { name: name.to_owned(), ..Script::default() };
        let mut title = name.to_owned();
        for (number, line) in text.lines().enumerate() {
            let bare = line.trim();
            let wrong = |why: &str| format!("{name}.txt:{}: {why}: {bare:?}", number + 1);
            if bare.is_empty() || bare.starts_with('#') {
                continue;
            }
            if let Some(words) = bare.strip_prefix("but in ") {
                let last = script.probes.last_mut().ok_or_else(|| wrong("no probe before it"))?;
                last.departures.push(departure(words).map_err(|why| wrong(&why))?);
            } else if line.starts_with(' ') {
                script.probes.push(probe(&title, bare).map_err(|why| wrong(&why))?);
            } else if let Some(folder) = bare.strip_prefix("manifests ") {
                script.manifests = folder.trim().to_owned();
            } else if let Some(flags) = bare.strip_prefix("flags ") {
                script.flags = flags.split_whitespace().map(str::to_owned).collect();
            } else if let Some(words) = bare.strip_suffix(':') {
                title = words.to_owned();
            } else {
                return Err(wrong(
                    "neither a title, nor `manifests DIR`, `flags …`, nor an indented probe",
                ));
            }
        }
        Ok(script)
    }

    /// The script as it holds in a mode.
    pub fn in_mode(mut self, mode: &str) -> Script {
        for probe in &mut self.probes {
            if let Some(at) = probe.departures.iter().position(|d| d.mode == mode) {
                probe.expected = probe.departures.swap_remove(at).expected;
            }
        }
        self
    }

    /// Reads every `.txt` of a folder, by name.
    pub fn read_all(folder: &Path) -> Result<Vec<Script>, String> {
        let listed = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let mut scripts = Vec::new();
        for entry in listed.flatten() {
            let file = entry.file_name().to_string_lossy().into_owned();
            if let Some(name) = file.strip_suffix(".txt") {
                let text =
                    std::fs::read_to_string(entry.path()).map_err(|e| format!("{file}: {e}"))?;
                // A number before the name is the place in the demo's table.
                let bare = name.trim_start_matches(|c: char| c.is_ascii_digit() || c == '-');
                scripts.push((file.clone(), Script::parse(bare, &text)?));
            }
        }
        scripts.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(scripts.into_iter().map(|(_, script)| script).collect())
    }
}

fn probe(title: &str, line: &str) -> Result<Probe, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [transport, "from", who, "to", to, rest @ ..] = words.as_slice() else {
        return Err("not `PROTOCOL from WHO to ADDRESS:PORT …`".to_owned());
    };
    Ok(Probe {
        title: title.to_owned(),
        transport: Transport::parse(transport).ok_or("neither tcp, udp nor sctp")?,
        who: (*who).to_owned(),
        to: to.parse().map_err(|_| "not an address and port")?,
        expected: expected(rest)?,
        departures: Vec::new(),
    })
}

fn departure(words: &str) -> Result<Departure, String> {
    let words: Vec<&str> = words.split_whitespace().collect();
    let [mode, name, rest @ ..] = words.as_slice() else {
        return Err("not `but in MODE (DIFFERENCE) …`".to_owned());
    };
    let name = name.strip_prefix('(').and_then(|name| name.strip_suffix(')'));
    Ok(Departure {
        mode: (*mode).to_owned(),
        name: name.ok_or("the difference's name is not in brackets")?.to_owned(),
        expected: expected(rest)?,
    })
}

fn expected(words: &[&str]) -> Result<Expected, String> {
    let (pods, seen, one) = match words {
        ["is", "refused"] => return Ok(Expected::Refused),
        ["is", "unreachable"] => return Ok(Expected::Unreachable),
        ["is", "lost"] => return Ok(Expected::Lost),
        ["reaches", "one", "of", pods @ .., "as", seen] => (pods, seen, true),
        ["reaches", pods @ .., "as", seen] => (pods, seen, false),
        _ => return Err("not `reaches [one of] POD… as WHOM`, `is refused`, `is lost`".to_owned()),
    };
    let seen = match *seen {
        "itself" => Seen::Itself,
        "node" => Seen::Node,
        "any" => Seen::Any,
        _ => return Err("`as` is followed by itself, node or any".to_owned()),
    };
    let pods: BTreeSet<String> = pods.iter().map(|p| (*p).to_owned()).collect();
    if pods.is_empty() {
        return Err("no pods".to_owned());
    }
    Ok(if one { Expected::One(pods, seen) } else { Expected::Each(pods, seen) })
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (which, pods, seen) = match self {
            Expected::Refused => return f.write_str("refused"),
            Expected::Unreachable => return f.write_str("unreachable"),
            Expected::Lost => return f.write_str("silence"),
            Expected::Each(pods, seen) => ("", pods, seen),
            Expected::One(pods, seen) => ("always one of ", pods, seen),
        };
        let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
        let seen = match seen {
            Seen::Itself => ", as itself",
            Seen::Node => ", as the node",
            Seen::Any => "",
        };
        write!(f, "{which}{}{seen}", short(&pods))
    }
}

/// `web-1 web-2 web-3` as `web-1,2,3`.
pub(crate) fn short(pods: &[&str]) -> String {
    let mut text = String::new();
    let mut stem = "";
    for pod in pods {
        let (own, number) = pod.rsplit_once('-').unwrap_or((pod, ""));
        if own == stem && !number.is_empty() {
            text.push_str(&format!(",{number}"));
        } else {
            text.push_str(&format!("{}{pod}", if text.is_empty() { "" } else { " " }));
        }
        stem = own;
    }
    text
}

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The title under which it stands.
    pub title: String,
    /// Who asked.
    pub who: String,
    /// Protocol, address and port asked.
    pub to: String,
    /// What answered.
    pub reached: String,
    /// The client's address as the pods saw it.
    pub seen: String,
    /// What was expected.
    pub expected: String,
    /// What is wrong; nothing if all is as expected.
    pub wrong: Option<String>,
}

impl Probe {
    /// What of it is other in a mode, by name: userspace mode carries connections itself, so that
    /// pods see the node (unless told by the PROXY protocol), and it carries no SCTP.
    fn in_mode(&self, mode: proxy::Mode) -> Probe {
        let mut probe = self.clone();
        if !mode.carries() {
            return probe;
        }
        match &mut probe.expected {
            Expected::Each(..) | Expected::One(..) if self.transport == Transport::Sctp => {
                probe.expected = Expected::Refused;
            }
            Expected::Each(_, seen) | Expected::One(_, seen) if *seen == Seen::Itself => {
                *seen = Seen::Node;
            }
            _ => {}
        }
        probe
    }
}

/// Makes attempts until what is expected in this run's mode is certain, or something else has
/// happened.
pub fn judge(probe: &Probe, attempt: &mut dyn FnMut() -> Outcome) -> Row {
    let probe = &probe.in_mode(proxy::mode());
    let mut tally = Tally::default();
    let (least, most) = match &probe.expected {
        Expected::Each(pods, _) if pods.len() == 1 => (3, 3),
        // Chance decides: with 60 attempts a pod the odds of missing one are below 1 in 10^25.
        Expected::Each(pods, _) => (pods.len() * 4, pods.len() * 60),
        Expected::One(..) => (12, 12),
        Expected::Refused | Expected::Unreachable => (2, 2),
        Expected::Lost => (1, 1),
    };
    for made in 1..=most {
        let outcome = attempt();
        tally.add(&outcome);
        tally.wrong = fault(probe, &outcome, &tally.pods);
        let complete = match &probe.expected {
            Expected::Each(pods, _) => pods.iter().all(|p| tally.pods.contains_key(p)),
            _ => true,
        };
        if tally.wrong.is_some() || (complete && made >= least) {
            break;
        }
    }
    if let (Expected::Each(pods, _), None) = (&probe.expected, &tally.wrong) {
        let missed: Vec<&str> =
            pods.iter().filter(|p| !tally.pods.contains_key(*p)).map(String::as_str).collect();
        if !missed.is_empty() {
            tally.wrong = Some(format!("never reached {}", missed.join(" ")));
        }
    }
    tally.row(probe)
}

/// What is wrong with one outcome, given the pods reached so far.
fn fault(probe: &Probe, outcome: &Outcome, reached: &BTreeMap<String, usize>) -> Option<String> {
    let (pods, seen, most) = match (&probe.expected, outcome) {
        (Expected::Refused, Outcome::Refused)
        | (Expected::Unreachable, Outcome::Unreachable)
        | (Expected::Lost, Outcome::Silence) => return None,
        (Expected::Each(pods, seen), Outcome::Answered(_)) => (pods, seen, usize::MAX),
        (Expected::One(pods, seen), Outcome::Answered(_)) => (pods, seen, 1),
        (expected, other) => return Some(format!("expected {expected}, got {other:?}")),
    };
    let Outcome::Answered(answer) = outcome else { return None };
    let peer = answer.peer.ip();
    let seen_right = match seen {
        Seen::Any => true,
        Seen::Itself => peer == answer.own.ip(),
        Seen::Node => plan::NODE_NET.own.iter().any(|own| plan::ip(own) == peer),
    };
    if !pods.contains(&answer.pod) {
        Some(format!("reached {}, which it must not", answer.pod))
    } else if !seen_right {
        Some(format!("the pod saw {peer}, the client is {}", answer.own.ip()))
    } else if reached.len() > most {
        Some("did not stay with one pod".to_owned())
    } else {
        None
    }
}

#[derive(Default)]
struct Tally {
    pods: BTreeMap<String, usize>,
    others: BTreeMap<&'static str, usize>,
    peers: BTreeSet<IpAddr>,
    wrong: Option<String>,
}

impl Tally {
    fn add(&mut self, outcome: &Outcome) {
        let other = match outcome {
            Outcome::Answered(answer) => {
                *self.pods.entry(answer.pod.clone()).or_default() += 1;
                self.peers.insert(answer.peer.ip());
                return;
            }
            Outcome::Refused => "refused",
            Outcome::Unreachable => "unreachable",
            Outcome::Silence => "silence",
            Outcome::Broken(_) => "broken",
        };
        *self.others.entry(other).or_default() += 1;
    }

    fn row(self, probe: &Probe) -> Row {
        let pods: Vec<&str> = self.pods.keys().map(String::as_str).collect();
        let mut reached: Vec<String> = self.others.keys().map(|o| (*o).to_owned()).collect();
        if !pods.is_empty() {
            reached.insert(0, short(&pods));
        }
        let peers: Vec<String> = self.peers.iter().map(IpAddr::to_string).collect();
        Row {
            title: probe.title.clone(),
            who: probe.who.clone(),
            to: format!("{} {}", probe.transport.name(), probe.to),
            reached: reached.join(", "),
            seen: peers.join(", "),
            expected: probe.expected.to_string(),
            wrong: self.wrong,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::client::Answer;

    fn answered(pod: &str, peer: &str) -> Outcome {
        let own = "10.0.0.1:1".parse().unwrap();
        let peer = format!("{peer}:1").parse().unwrap();
        Outcome::Answered(Answer { pod: pod.into(), peer, local: own, own })
    }

    fn ask(line: &str, outcomes: &[Outcome]) -> Row {
        let probe = probe("t", line).unwrap();
        let mut next = outcomes.iter().cycle();
        judge(&probe, &mut || next.next().unwrap().clone())
    }

    #[test]
    fn what_is_expected_is_right() {
        let line = "tcp from a to 10.96.0.1:80 reaches b-1 b-2 as itself";
        let both = [answered("b-1", "10.0.0.1"), answered("b-2", "10.0.0.1")];
        let row = ask(line, &both);
        assert_eq!((row.wrong, row.reached.as_str()), (None, "b-1,2"));
        assert!(ask(line, &both[..1]).wrong.unwrap().contains("never reached b-2"));
        assert!(ask(line, &[answered("c", "10.0.0.1")]).wrong.unwrap().contains("must not"));
        assert!(ask(line, &[answered("b-1", "10.0.0.2")]).wrong.unwrap().contains("saw"));
        let one = "tcp from a to 10.96.0.1:80 reaches one of b-1 b-2 as any";
        assert!(ask(one, &both).wrong.unwrap().contains("stay"));
        let lost = "tcp from a to 10.96.0.1:80 is lost";
        assert!(ask(lost, &[Outcome::Refused]).wrong.unwrap().contains("Refused"));
        assert_eq!(ask(lost, &[Outcome::Silence]).wrong, None);
    }

    #[test]
    fn what_holds_in_a_mode_has_the_name_of_a_difference() {
        let text = "T:\n    tcp from a to 10.0.0.1:1 is lost\n    but in ipvs (x) is refused\n";
        let script = Script::parse("x", text).unwrap();
        assert_eq!(script.clone().in_mode("nftables").probes[0].expected, Expected::Lost);
        assert_eq!(script.in_mode("ipvs").probes[0].expected, Expected::Refused);
        let error = Script::parse("x", "    but in ipvs (x) is refused\n").unwrap_err();
        assert!(error.contains("no probe before"), "{error}");
    }

    /// A departure that nobody has named would hide a mistake. It is one that nftables mode, in
    /// which scenarios are written, has and the other has not, or the other way round.
    #[test]
    fn departures_of_scenarios_are_named_differences() {
        let folder = crate::proxy::workspace().join("netlab/scenarios");
        let scripts = Script::read_all(&folder).unwrap();
        let all: Vec<_> = scripts.iter().flat_map(|s| &s.probes).collect();
        let departures: Vec<_> = all.iter().flat_map(|p| &p.departures).collect();
        assert!(!departures.is_empty());
        for departure in departures {
            let known =
                proptests::differences::DIFFERENCES.iter().find(|d| d.name == departure.name);
            let modes = known.expect("a difference of this name").modes;
            let has =
                |word: &str| modes.listed().iter().any(|m| format!("{m:?}").to_lowercase() == word);
            assert_ne!(has(&departure.mode), has("nftables"), "{departure:?}");
        }
    }

    #[test]
    fn an_unreadable_line_is_named() {
        let error = Script::parse("x", "T:\n    tcp to nowhere\n").unwrap_err();
        assert!(error.starts_with("x.txt:2: not `PROTOCOL"), "{error}");
    }
}
