//! An answer as a picture: a flowchart in Mermaid's language.
//! It must never say more than the answer does. Tests: `tests.rs`.

use std::fmt::Write;

use super::answer::{Answer, Kind};
use super::names::Directory;

/// The answer as a flowchart.
pub fn mermaid(answer: &Answer, directory: &Directory<'_>) -> String {
    let mut out = String::from("flowchart LR\n");
    let mut line = |text: String| {
        let _ = writeln!(out, "    {text}");
    };
    line(format!("packet[\"{}\"]", quoted(&answer.packet)));
    let from = match &answer.service {
        Some(service) => {
            line(format!("service([\"{}\"])", quoted(service)));
            line(format!("packet -->|\"{}\"| service", quoted(&answer.enters)));
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
        line(format!("end{number}[\"{}\"]", quoted(&words)));
        let masquerade = ending.masquerade.to.map(|to| format!(", as {}", to.address));
        let label = format!("{}{}", ending.probability, masquerade.unwrap_or_default());
        line(format!("{from} -->|\"{label}\"| end{number}"));
        let class = match ending.fate {
            Kind::Delivered | Kind::Forwarded => continue,
            Kind::Rejected => "fill:#fe9",
            Kind::Dropped => "fill:#f99",
            Kind::Unknown => "fill:#d9f",
        };
        line(format!("style end{number} {class}"));
    }
    for (number, doubt) in answer.gaps.iter().enumerate() {
        line(format!(
            "gap{number}{{{{\"not known: {}: {}\"}}}}",
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
