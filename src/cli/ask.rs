//! Commands beside the reference's bare flags: questions about this node or a dump. They take all
//! flags of the bare command, by which they know how the proxy is set up, and a few of their own.
//!
//! Nothing here answers anything. Tests: below.

use std::ffi::OsString;
use std::path::PathBuf;

use super::{Action, Usage, spell};
use crate::config::{self, Problem, Settings};
use crate::model::{Family, Protocol};

/// A question.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// How the proxy is set up.
    pub settings: Settings,
    /// Whether flags say where the objects are.
    pub objects: Objects,
    /// What is asked.
    pub command: Command,
    /// Of which node.
    pub node: Place,
    /// The form of the answer.
    pub output: Output,
}

/// The node that is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// This one.
    Here,
    /// The one that a dump is of.
    Dump(PathBuf),
    /// One that is made of the Node object, and has no rules.
    StandIn,
}

/// Whether flags say where the objects are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objects {
    /// They do.
    Named,
    /// They do not: only in a pod there is a server to ask.
    Unnamed,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Where a packet goes.
    Trace(Trace),
    /// Whether the kernel does what the API promises.
    Check {
        /// Changes to suppose, in order.
        what_if: Vec<String>,
    },
    /// Everything that decides about packets.
    Dump {
        /// The file to write; none: the standard output.
        to: Option<PathBuf>,
        /// Whose addresses it tells.
        addresses: Addresses,
    },
    /// What may stand on a command line.
    Names {
        /// Where.
        of: Names,
    },
    /// What a proxy did, once more.
    Replay {
        /// The record.
        file: PathBuf,
        /// The number of the last act, if it is not the record's.
        until: Option<usize>,
        /// A packet that is sent then.
        trace: Option<Trace>,
    },
}

/// Which addresses a dump tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// Those of the node and its cluster.
    True,
    /// Others in their places.
    Anonymous,
}

/// What is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// What FROM and TO may be.
    Ends,
    /// What may be supposed.
    Changes,
}

/// A packet's way.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// Who sends.
    pub from: String,
    /// For whom.
    pub to: String,
    /// Its protocol, if given.
    pub protocol: Option<Protocol>,
    /// The port of TO, if given.
    pub port: Option<String>,
    /// The link it comes in by, if given.
    pub link: Option<String>,
    /// The family, if given.
    pub family: Option<Family>,
    /// Which rules.
    pub rules: Rules,
    /// How much of the way is told.
    pub detail: Detail,
}

/// Which rules a packet meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Those that are there.
    Live,
    /// Those that kube-proxy would write.
    Desired,
    /// Both, and where they differ.
    Compared,
}

/// How much of the way is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// What it comes to.
    Brief,
    /// Every step.
    Steps,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
    /// A picture in Mermaid's language.
    Mermaid,
}

/// A command's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// `trace`.
    Trace,
    /// `check`.
    Check,
    /// `dump`.
    Dump,
    /// `names`.
    Names,
    /// `replay`.
    Replay,
}

impl Name {
    /// Every command with its name.
    pub const ALL: [(&'static str, Name); 5] = [
        ("trace", Name::Trace),
        ("check", Name::Check),
        ("dump", Name::Dump),
        ("names", Name::Names),
        ("replay", Name::Replay),
    ];

    /// The command of this name.
    pub fn of(word: &str) -> Option<Name> {
        Name::ALL.into_iter().find(|(known, _)| *known == word).map(|(_, name)| name)
    }
}

/// What was given of a command's own flags.
#[derive(Default)]
struct Given {
    values: Vec<(&'static str, String)>,
    problems: Vec<Problem>,
}

impl Given {
    fn last(&self, name: &str) -> Option<&str> {
        self.values.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    fn has(&self, name: &str) -> bool {
        self.last(name).is_some_and(|value| value != "false")
    }

    /// One of several words.
    fn choice<T: Copy>(&mut self, name: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let value = self.last(name)?.to_owned();
        let found = choices.iter().find(|(word, _)| *word == value).map(|(_, choice)| *choice);
        if found.is_none() {
            let all: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            self.problems.push(Problem::new(
                format!("--{name}"),
                &value,
                format!("one of {}", all.join(", ")),
            ));
        }
        found
    }
}

/// Reads the words behind a command's name.
pub(super) fn parse(
    name: Name,
    words: impl Iterator<Item = OsString>,
    hostname: &str,
) -> Result<Action, Usage> {
    let (mut given, rest) = take_own(name, words);
    if given.has("help") {
        return Ok(Action::Help(name.help()));
    }
    let mut spelled = spell::spell(rest.into_iter());
    let output = given
        .choice(
            "output",
            &[("text", Output::Text), ("json", Output::Json), ("mermaid", Output::Mermaid)],
        )
        .unwrap_or_default();
    let command = match name {
        Name::Trace => trace(&mut given, &mut spelled),
        Name::Check => Some(Command::Check {
            what_if: given
                .values
                .iter()
                .filter(|(n, _)| *n == "what-if")
                .map(|(_, v)| v.clone())
                .collect(),
        }),
        Name::Dump => Some(Command::Dump {
            to: given.last("to").map(PathBuf::from),
            addresses: if given.has("anonymise") { Addresses::Anonymous } else { Addresses::True },
        }),
        Name::Names => {
            // A shell asks with what stands on the line so far.
            spelled.words.clear();
            let of = if given.has("changes") { Names::Changes } else { Names::Ends };
            Some(Command::Names { of })
        }
        Name::Replay => replay(&mut given, &mut spelled),
    };
    spelled.refuse_words();
    let node = place(&mut given, command.as_ref());
    let named = |flag: &str| spelled.flags.iter().any(|(known, _)| known.name == flag);
    let objects = if ["manifests", "kubeconfig", "master", "config"].iter().any(|flag| named(flag))
    {
        Objects::Named
    } else {
        Objects::Unnamed
    };
    let mut problems = given.problems.clone();
    problems.extend(spelled.problems);
    match (config::load(&spelled.flags, hostname), command) {
        (Ok(loaded), Some(command)) if problems.is_empty() => Ok(Action::Ask(Box::new(Asked {
            settings: loaded.settings,
            objects,
            command,
            node,
            output,
        }))),
        (Err(more), _) => {
            problems.extend(more);
            Err(Usage { problems, exit_code: Usage::OF_QUESTION })
        }
        _ => Err(Usage { problems, exit_code: Usage::OF_QUESTION }),
    }
}

/// Which node is asked about. One that stands in has no rules: only what they would be can be asked.
fn place(given: &mut Given, command: Option<&Command>) -> Place {
    let from = given.last("from").map(PathBuf::from);
    if !given.has("stand-in") {
        return from.map_or(Place::Here, Place::Dump);
    }
    let supposes = match command {
        Some(Command::Trace(trace)) => trace.rules == Rules::Desired,
        Some(Command::Check { what_if }) => !what_if.is_empty(),
        _ => true,
    };
    if from.is_some() {
        given
            .problems
            .push(Problem::said("--stand-in", "not together with --from: which of both?"));
    }
    if !supposes {
        let sentence = "needs --desired (trace) or --what-if (check): nothing is programmed on it";
        given.problems.push(Problem::said("--stand-in", sentence));
    }
    Place::StandIn
}

/// Parts a command's own flags from the rest.
fn take_own(name: Name, words: impl Iterator<Item = OsString>) -> (Given, Vec<OsString>) {
    let mut given = Given::default();
    let mut rest = Vec::new();
    let mut words = words.peekable();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy().into_owned();
        let (flag, value) = match text.strip_prefix("--").map(|long| long.split_once('=')) {
            Some(Some((flag, value))) => (flag.to_owned(), Some(value.to_owned())),
            Some(None) => (text[2..].to_owned(), None),
            None if text == "-h" => ("help".to_owned(), None),
            None => (String::new(), None),
        };
        let Some((own, shape, _)) = name.takes(&flag) else {
            rest.push(word);
            continue;
        };
        let next = || words.next().map(|word| word.to_string_lossy().into_owned());
        let value =
            if shape.is_empty() { value.or(Some(String::new())) } else { value.or_else(next) };
        match value {
            Some(value) => given.values.push((own, value)),
            // The value is what is to be completed.
            None if name == Name::Names => {}
            None => given
                .problems
                .push(Problem::said(format!("--{own}"), format!("needs a value: {shape}"))),
        }
    }
    (given, rest)
}

fn replay(given: &mut Given, spelled: &mut spell::Spelled) -> Option<Command> {
    if spelled.words.is_empty() {
        given.problems.push(Problem::said("replay", "takes a FILE; see kube-proxy replay --help"));
        return None;
    }
    let file = PathBuf::from(spelled.words.remove(0));
    let until = given.last("until").map(|text| text.parse().map_err(|_| text.to_owned()));
    let until = until.transpose().unwrap_or_else(|text| {
        given.problems.push(Problem::new("--until".to_owned(), &text, "the number of an act"));
        None
    });
    if spelled.words.is_empty() {
        return Some(Command::Replay { file, until, trace: None });
    }
    match trace(given, spelled) {
        Some(Command::Trace(trace)) => Some(Command::Replay { file, until, trace: Some(trace) }),
        _ => None,
    }
}

fn trace(given: &mut Given, spelled: &mut spell::Spelled) -> Option<Command> {
    let protocol = given.choice(
        "proto",
        &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)],
    );
    let words = std::mem::take(&mut spelled.words);
    let [from, to] = words.as_slice() else {
        let sentence = "takes two ends, FROM and TO; see kube-proxy trace --help";
        given.problems.push(Problem::said("trace", sentence));
        return None;
    };
    let rules = match (given.has("desired"), given.has("compare")) {
        (_, true) => Rules::Compared,
        (true, false) => Rules::Desired,
        (false, false) => Rules::Live,
    };
    Some(Command::Trace(Trace {
        from: from.clone(),
        to: to.clone(),
        protocol,
        port: given.last("port").map(str::to_owned),
        link: given.last("link").map(str::to_owned),
        family: given.has("ipv6").then_some(Family::V6),
        rules,
        detail: if given.has("steps") { Detail::Steps } else { Detail::Brief },
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Result<Asked, Vec<String>> {
        let words = line.split_whitespace().map(OsString::from);
        match super::super::parse_words(words, "node-a") {
            Ok(Action::Ask(asked)) => Ok(*asked),
            Ok(other) => panic!("{line}: {other:?}"),
            Err(usage) => Err(usage.problems.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn own_flags_and_those_of_the_proxy_go_together() {
        let line = "trace pod/a/b --cluster-cidr 10.0.0.0/8 svc/c/d:80 --proto=udp --output json";
        let asked = asked(line).unwrap();
        assert_eq!((asked.objects, asked.output), (Objects::Unnamed, Output::Json));
        let Command::Trace(trace) = asked.command else { panic!("a trace") };
        assert_eq!((trace.from.as_str(), trace.to.as_str()), ("pod/a/b", "svc/c/d:80"));
        assert_eq!((trace.protocol, trace.rules), (Some(Protocol::Udp), Rules::Live));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(asked("trace 10.0.0.1").unwrap_err()[0].contains("FROM and TO"));
        assert!(asked("trace a b --proto icmp").unwrap_err()[0].contains("tcp, udp, sctp"));
        assert!(asked("check stray").unwrap_err()[0].contains("stray"));
        assert!(asked("dump --to").unwrap_err()[0].contains("needs a value"));
        assert!(asked("replay").unwrap_err()[0].contains("takes a FILE"));
        assert!(asked("replay file 10.0.0.1").unwrap_err()[0].contains("FROM and TO"));
        assert!(asked("replay file --until x").unwrap_err()[0].contains("--until"));
    }

    #[test]
    fn names_pass_over_what_else_stands_on_the_line() {
        let of = |line: &str| match asked(line).unwrap() {
            Asked { command: Command::Names { of }, node, .. } => (of, node),
            other => panic!("{other:?}"),
        };
        assert_eq!(of("names trace node --steps --output json"), (Names::Ends, Place::Here));
        let line = "names --changes --what-if mode=ipvs --from d --what-if";
        assert_eq!(of(line), (Names::Changes, Place::Dump("d".into())));
    }

    #[test]
    fn a_stand_in_is_asked_only_what_would_be() {
        assert_eq!(asked("trace a b:1 --desired --stand-in").unwrap().node, Place::StandIn);
        assert_eq!(asked("check --what-if mode=ipvs --stand-in").unwrap().node, Place::StandIn);
        for line in
            ["trace a b:1 --stand-in", "trace a b:1 --compare --stand-in", "check --stand-in"]
        {
            assert!(asked(line).unwrap_err()[0].contains("nothing is programmed"), "{line}");
        }
        let both = "check --what-if mode=ipvs --stand-in --from d";
        assert!(asked(both).unwrap_err()[0].contains("--from"));
    }

    #[test]
    fn a_question_that_is_not_understood_is_no_bad_answer() {
        let code = |line: &str| {
            let words = line.split_whitespace().map(OsString::from);
            super::super::parse_words(words, "node-a").unwrap_err().exit_code
        };
        for line in [
            "check stray",
            "check --output xml",
            "check --proxy-mode none",
            "trace 10.0.0.1",
            "dump --to",
            "names --bogus=1",
            "replay",
        ] {
            assert_eq!(code(line), 2, "{line}");
        }
        assert_eq!(code("--proxy-mode none"), 1, "as the reference");
    }

    #[test]
    fn a_record_is_played_with_or_without_a_packet() {
        let Command::Replay { file, until, trace } =
            asked("replay r pod/b node:80 --until 3").unwrap().command
        else {
            panic!("a replay")
        };
        assert_eq!((file, until), (PathBuf::from("r"), Some(3)));
        assert_eq!(trace.unwrap().to, "node:80");
    }
}
