//! The dump: one file with all that decides about packets on a node, and with the objects the node
//! was to be programmed from, one JSON value a line.
//!
//! The first line names format and version, the last one counts the lines before it, so that a file
//! that was cut short is noticed. It reads and writes texts, no files. Tests: below.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::kernel::survey::{
    ConnectionFact, IptablesText, Lack, LinkFact, NftObject, RouteFact, ServerFact, Survey,
};
use crate::model::{Event, Pod};
use crate::sync::Options;

/// The version of the format. A reader takes this one only.
pub const VERSION: u32 = 1;
const FORMAT: &str = "kube-proxy dump";

/// What a dump holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dump {
    /// The node's packet path.
    pub survey: Survey,
    /// How the proxy was set up, if that was known.
    pub options: Option<Options>,
    /// The objects, as Events of full lists; empty if there was no source.
    pub events: Vec<Event>,
    /// Pods by name.
    pub pods: Vec<Pod>,
}

/// Why a text is no dump, or no record, that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong, and what to do.
    pub why: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

/// One line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Dump { format: String, version: u32, host: String, kernel: String },
    Options(Box<Options>),
    Link(LinkFact),
    Route(RouteFact),
    Sysctl(String, String),
    Nft(NftObject),
    Iptables(IptablesText),
    Ipsets(String),
    VirtualServer(ServerFact),
    Flow(ConnectionFact),
    Lack(Lack),
    Event(Box<Event>),
    Pod(Pod),
    End { lines: usize },
}

/// The dump as a text.
pub fn write(dump: &Dump) -> String {
    let survey = &dump.survey;
    let head = Line::Dump {
        format: FORMAT.to_owned(),
        version: VERSION,
        host: survey.host.clone(),
        kernel: survey.kernel.clone(),
    };
    let told = |event: &&Event| !matches!(event, Event::Notices(..));
    let mut lines = vec![head];
    lines.extend(dump.options.iter().map(|options| Line::Options(Box::new(options.clone()))));
    lines.extend(survey.links.iter().cloned().map(Line::Link));
    lines.extend(survey.routes.iter().cloned().map(Line::Route));
    lines.extend(
        survey.sysctls.iter().map(|(path, value)| Line::Sysctl(path.clone(), value.clone())),
    );
    lines.extend(survey.nft.iter().cloned().map(Line::Nft));
    lines.extend(survey.iptables.iter().cloned().map(Line::Iptables));
    lines.extend(Some(&survey.ipsets).filter(|text| !text.is_empty()).cloned().map(Line::Ipsets));
    lines.extend(survey.virtual_servers.iter().cloned().map(Line::VirtualServer));
    lines.extend(survey.flows.iter().cloned().map(Line::Flow));
    lines.extend(survey.lacks.iter().cloned().map(Line::Lack));
    lines.extend(dump.events.iter().filter(told).map(|event| Line::Event(Box::new(event.clone()))));
    lines.extend(dump.pods.iter().cloned().map(Line::Pod));
    lines.push(Line::End { lines: lines.len() });
    let mut text = String::new();
    for line in &lines {
        let line = serde_json::to_string(line).expect("every value of a dump has a form in JSON");
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// Reads a text back.
pub fn read(text: &str) -> Result<Dump, Unreadable> {
    let mut dump = Dump::default();
    let mut last = 0;
    let mut end = None;
    for (number, line) in (1..).zip(text.lines()) {
        let wrong = |why: String| Unreadable { line: number, why };
        if end.is_some() {
            return Err(wrong("something stands behind the dump's end".to_owned()));
        }
        let parsed = match serde_json::from_str::<Line>(line) {
            Ok(parsed) => parsed,
            Err(_) if number == 1 => {
                return Err(wrong(
                    "this is no dump; make one with `kube-proxy dump --to FILE`".to_owned(),
                ));
            }
            Err(error) => {
                return Err(wrong(format!("{error}; the file is damaged, or cut short here")));
            }
        };
        match (number, parsed) {
            (1, Line::Dump { format, version, host, kernel }) => {
                if format != FORMAT || version != VERSION {
                    let found = format!("{format:?} version {version}");
                    return Err(wrong(format!(
                        "{found}; this build reads {FORMAT:?} version {VERSION}"
                    )));
                }
                (dump.survey.host, dump.survey.kernel) = (host, kernel);
            }
            (1, _) | (_, Line::Dump { .. }) => {
                return Err(wrong("the head of a dump expected here, and once".to_owned()));
            }
            (_, Line::End { lines }) => end = Some(lines),
            (_, line) => dump.take(line),
        }
        last = number;
    }
    match end {
        Some(lines) if lines + 1 == last => Ok(dump),
        Some(lines) => {
            let why = format!("{} lines expected before the end, {} found", lines, last - 1);
            Err(Unreadable { line: last, why })
        }
        None => {
            let why = "the file is cut short: its end is missing; fetch it again".to_owned();
            Err(Unreadable { line: last.max(1), why })
        }
    }
}

impl Dump {
    fn take(&mut self, line: Line) {
        let survey = &mut self.survey;
        match line {
            Line::Dump { .. } | Line::End { .. } => {}
            Line::Options(options) => self.options = Some(*options),
            Line::Link(link) => survey.links.push(link),
            Line::Route(route) => survey.routes.push(route),
            Line::Sysctl(path, value) => drop(survey.sysctls.insert(path, value)),
            Line::Nft(object) => survey.nft.push(object),
            Line::Iptables(text) => survey.iptables.push(text),
            Line::Ipsets(text) => survey.ipsets = text,
            Line::VirtualServer(server) => survey.virtual_servers.push(server),
            Line::Flow(flow) => survey.flows.push(flow),
            Line::Lack(lack) => survey.lacks.push(lack),
            Line::Event(event) => self.events.push(*event),
            Line::Pod(pod) => self.pods.push(pod),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::{Kind, NamespacedName};

    fn dump() -> Dump {
        let mut dump = Dump { options: Some(Options::default()), ..Dump::default() };
        dump.survey.host = "node-1".to_owned();
        dump.survey.links.push(LinkFact {
            index: 1,
            name: "lo".into(),
            addresses: vec![("127.0.0.1".parse().unwrap(), 8)],
            ..LinkFact::default()
        });
        dump.survey.nft.push(NftObject { kind: 0, family: 2, attributes: vec![0, 0xff, 7] });
        dump.survey.sysctls.insert("net/ipv4/ip_forward".into(), "1".into());
        dump.events = vec![
            Event::ListStarted(Kind::Service),
            Event::ServiceGone(NamespacedName::new("a", "b")),
        ];
        dump
    }

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(read(&write(&dump())), Ok(dump()));
    }

    #[test]
    fn a_dump_that_is_cut_anywhere_is_refused() {
        let whole = write(&dump());
        for length in (0..whole.len() - 1).filter(|length| whole.is_char_boundary(*length)) {
            assert!(read(&whole[..length]).is_err(), "the first {length} bytes pass for all");
        }
        let other = whole.replace("\"version\":1", "\"version\":2");
        assert!(read(&other).unwrap_err().why.contains("reads \"kube-proxy dump\" version 1"));
    }
}
