//! What FROM and TO of a trace may be: words, pods, Services with each port. Reads nothing.
//! Tests: `netlab` (`bash-completes-names`).

use std::collections::BTreeSet;

use super::objects::Known;
use crate::model::Event;

/// A name a line: words first, then pods and Services in order.
pub(super) fn all(known: &Known) -> String {
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
