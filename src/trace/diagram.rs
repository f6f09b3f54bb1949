//! An answer as a picture: a flowchart in Mermaid's language.
//! It must never say more than the answer does. Tests: `tests.rs`.

use std::fmt::Write;

use super::answer::{Answer, Kind};
use super::names::Directory;

/// The answer as a flowchart.
pub fn mermaid(answer: &Answer, directory: &Directory<'_>) -> String {
    format!("flowchart LR\n{}", nodes(answer, directory, ""))
}

/// Two answers to one question as one flowchart, each in a frame of its own.
pub fn mermaid_of_both(live: &Answer, desired: &Answer, directory: &Directory<'_>) -> String {
    let frame = |name: &str, answer: &Answer| {
        let inner = nodes(answer, directory, &format!("{name}-"));
        format!("    subgraph {name}\n{inner}    end\n")
    };
    format!("flowchart LR\n{}{}", frame("live", live), frame("desired", desired))
}

/// What is in a flowchart; names of nodes begin as they are told.
fn nodes(answer: &Answer, directory: &Directory<'_>, prefix: &str) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        let _ = writeln!(out, "    {text}");
    };
    line(format!("{prefix}packet[\"{}\"]", quoted(&answer.packet)));
    let from = match &answer.service {
        Some(service) => {
            line(format!("{prefix}service([\"{}\"])", quoted(service)));
            let enters = quoted(&answer.enters);
            line(format!("{prefix}packet -->|\"{enters}\"| {prefix}service"));
            "service"
        }
        None => "packet",
    };
    for (number, ending) in answer.endings.iter().enumerate() {
        let target = match ending.endpoint {
            Some(endpoint) => match directory.pod_at(endpoint.address) {
                Some(pod) => format!("{pod}<br/>{endpoint}"),
                None => endpoint.to_string(),
            },
            None => String::new(),
        };
        let by = ending.by.as_ref().map(|by| format!("<br/>{} {} {}", by.table, by.chain, by.rule));
        let words = format!(
            "{target}{}{}{}",
            if target.is_empty() { "" } else { "<br/>" },
            ending.words,
            by.unwrap_or_default()
        );
        line(format!("{prefix}end{number}[\"{}\"]", quoted(&words)));
        let masquerade = ending.masquerade.to.map(|to| format!(", as {}", to.address));
        let label = format!("{}{}", ending.probability, masquerade.unwrap_or_default());
        line(format!("{prefix}{from} -->|\"{label}\"| {prefix}end{number}"));
        let class = match ending.fate {
            Kind::Delivered | Kind::Forwarded => continue,
            Kind::Rejected => "fill:#fe9",
            Kind::Dropped => "fill:#f99",
            Kind::Unknown => "fill:#d9f",
        };
        line(format!("style {prefix}end{number} {class}"));
    }
    for (number, doubt) in answer.gaps.iter().enumerate() {
        line(format!(
            "{prefix}gap{number}{{{{\"not known: {}: {}\"}}}}",
            quoted(&doubt.what),
            quoted(&doubt.why)
        ));
    }
    out
}

/// Mermaid has no escapes in quotes but entities.
fn quoted(text: &str) -> String {
    text.replace('"', "#quot;")
}
