//! What may stand on a command line: ends of a trace (words, pods, Services with each port), and changes
//! that `check --what-if` can suppose. Reads nothing. Tests: `tests.rs`, `netlab`
//! (`bash-completes-names`).

use std::collections::BTreeSet;

use super::objects::Known;
use super::{Said, UNKNOWN, WELL};
use crate::check::FIELDS;
use crate::cli::ask::Names;
use crate::model::{Event, Mode};

/// A name a line. Pods that could not be listed are said to lack.
pub(super) fn named(of: Names, known: &Known) -> Said {
    match of {
        Names::Changes => Said { out: changes(known), ..Said::default() },
        Names::Ends => {
            let lack = known.podless.as_ref();
            Said {
                out: ends(known),
                error: lack.map(|why| format!("no pods: {why}\n")).unwrap_or_default(),
                code: if lack.is_some() { UNKNOWN } else { WELL },
            }
        }
    }
}

/// Words first, then pods and Services in order.
fn ends(known: &Known) -> String {
    let pods = known.pods.iter().map(|pod| format!("pod/{}", pod.name));
    let ports = known.events.iter().filter_map(|event| match event {
        Event::Service(service) => Some(service.ports.iter().map(move |port| {
            let port =
                if port.name.is_empty() { port.port.to_string() } else { port.name.to_string() };
            format!("svc/{}:{port}", service.name)
        })),
        _ => None,
    });
    let names: BTreeSet<String> = pods.chain(ports.flatten()).collect();
    let words = ["node", "outside"].into_iter().map(str::to_owned);
    words.chain(names).map(|name| name + "\n").collect()
}

/// Modes, nodes and endpoints that can be away, fields of Services.
fn changes(known: &Known) -> String {
    let mut found: BTreeSet<String> =
        Mode::ALL.iter().map(|mode| format!("mode={}", mode.as_str())).collect();
    for event in &known.events {
        match event {
            Event::Node(node) => drop(found.insert(format!("node-drain={}", node.name))),
            Event::Slice(slice) => slice.endpoints.iter().for_each(|endpoint| {
                found.extend(endpoint.node.iter().map(|node| format!("node-drain={node}")));
                found.insert(format!("endpoint-down={}", endpoint.address));
            }),
            Event::Service(service) => FIELDS.iter().for_each(|(field, values)| {
                let set = |value| format!("set-field={}:{field}={value}", service.name);
                found.extend(values.iter().map(set));
            }),
            _ => {}
        }
    }
    found.into_iter().map(|change| change + "\n").collect()
}
