//! The status page as HTML: no script, nothing from elsewhere, light and dark as the reader has it.
//! Every text from outside is escaped by maud. It looks nothing up. Tests: `tests`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::form::Fields;
use super::view::{Detail, Endpoint, List, PAGE, Row};
use super::{Judged, Programmed};
use crate::model::{NamespacedName, Node, Notice};
use crate::serve::health::Lag;

const STYLE: &str = "
:root { color-scheme: light dark; --line: #d5d9de; --soft: #5b6570; --good: #0b6b3a; --bad: #a3210f;
  --back: #f6f7f9; --link: #0a53b0 }
@media (prefers-color-scheme: dark) { :root { --line: #3a4048; --soft: #a0aab4; --good: #6fd39b;
  --bad: #ff9c8a; --back: #20242a; --link: #8ab8ff } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 76rem; padding: 0 1rem 3rem }
h1 { font-size: 1.4rem; margin: 1rem 0 .3rem } h2 { font-size: 1.1rem; margin: 1.6rem 0 .4rem }
nav a { margin-right: 1rem } a { color: var(--link) }
table { border-collapse: collapse; width: 100% } th { text-align: left; color: var(--soft); font-weight: 600 }
td, th { border-bottom: 1px solid var(--line); padding: .3rem .6rem .3rem 0; vertical-align: top }
code, pre, .mono { font: 13px/1.45 ui-monospace, monospace; overflow-wrap: anywhere }
pre { background: var(--back); border: 1px solid var(--line); padding: .7rem; overflow-x: auto; white-space: pre-wrap }
.good { color: var(--good) } .bad { color: var(--bad) } .soft { color: var(--soft) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: .4rem 0 }
dt { color: var(--soft) } dd { margin: 0; overflow-wrap: anywhere }
form { display: flex; flex-wrap: wrap; gap: .6rem; align-items: end; margin: .5rem 0 }
label { display: grid; gap: .15rem; color: var(--soft) } input, select, button { font: inherit; padding: .25rem .4rem }
";

/// What stands above the list.
pub(super) struct Head<'a> {
    pub(super) mode: &'a str,
    pub(super) healthy: bool,
    pub(super) lag: Lag,
    pub(super) eligible: bool,
    pub(super) last_updated: Option<SystemTime>,
    pub(super) failure: Option<&'a str>,
    pub(super) notices: &'a BTreeSet<Notice>,
    pub(super) programmed: &'a BTreeMap<NamespacedName, Programmed>,
    pub(super) now: SystemTime,
}

/// Notices shown on the first page; there may be as many as objects.
const NOTICES: usize = 100;

fn layout(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " · kube-proxy" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                nav {
                    h1 { "kube-proxy" }
                    a href="/" { "Services" }
                    a href="/packet" { "Packet" }
                    a href="/metrics" { "Metrics" }
                    a href="/configz" { "Configuration" }
                }
                main { (body) }
            }
        }
    }
}

/// A page that says why there is none.
pub(super) fn error(title: &str, text: &str) -> Markup {
    layout(title, &html! { h2 { (title) } p { (text) } })
}

/// The first page.
pub(super) fn overview(list: &List, head: &Head<'_>, search: &str) -> Markup {
    let body = html! {
        (state(list, head))
        (notices(head.notices))
        h2 { "Services" }
        form method="get" action="/" {
            label { "Name, address or port" input name="q" value=(search); }
            button { "Search" }
        }
        p.soft {
            (list.matching) " of " (list.total) " Services"
            @if list.matching > PAGE { ", page " (list.number) " of " (list.matching.div_ceil(PAGE)) }
        }
        table {
            thead { tr { th { "Service" } th { "Addresses" } th { "Ports" } th { "Endpoints in use" } th { "Last programmed" } } }
            tbody { @for row in &list.rows { (service_row(row, head)) } }
        }
        (pager(list, search))
    };
    layout(&list.node, &body)
}

fn state(list: &List, head: &Head<'_>) -> Markup {
    let waits = head.lag.waited.as_secs_f64();
    html! {
        dl {
            dt { "node" } dd { (list.node) " " span.soft { (list.node_says) } }
            dt { "mode" } dd { (head.mode) }
            dt { "health" }
            dd {
                @if head.healthy { span.good { "keeps up" } }
                @else { span.bad { "behind" } ": a change has waited for " (format!("{waits:.0}")) " s" }
                @if !head.eligible { "; " span.bad { "load balancers should not use this node" } }
            }
            dt { "programmed" }
            dd {
                "generation " (head.lag.programmed) " of " (head.lag.seen)
                @match head.last_updated {
                    Some(at) => { ", " (ago(at, head.now)) },
                    None => { ", never yet" },
                }
            }
            @if let Some(failure) = head.failure { dt { "last sync" } dd.bad { "failed: " (failure) } }
        }
    }
}

fn notices(all: &BTreeSet<Notice>) -> Markup {
    html! {
        @if !all.is_empty() {
            h2 { "Notices" }
            p.soft { "What cannot be programmed as the objects ask." }
            ul { @for notice in all.iter().take(NOTICES) { li { (notice.to_string()) } } }
            @if all.len() > NOTICES { p.soft { "and " (all.len() - NOTICES) " more" } }
        }
    }
}

fn service_row(row: &Row, head: &Head<'_>) -> Markup {
    html! {
        tr {
            td { a href=(link("/service", &named(&row.name))) { (row.name.to_string()) } }
            td.mono { @for ip in &row.addresses { (ip.to_string()) br; } }
            td { @for port in &row.ports { (port) br; } }
            td class=(if row.chosen == 0 { "bad" } else { "" }) { (row.chosen) " of " (row.endpoints) }
            td.soft { (last(head.programmed.get(&row.name), head.now)) }
        }
    }
}

fn pager(list: &List, search: &str) -> Markup {
    let to = |number: usize| link("/", &[("q", search.to_owned()), ("page", number.to_string())]);
    html! {
        nav aria-label="pages" {
            @if list.number > 1 { a rel="prev" href=(to(list.number - 1)) { "Previous" } }
            @if list.number * PAGE < list.matching { a rel="next" href=(to(list.number + 1)) { "Next" } }
        }
    }
}

/// One Service.
pub(super) fn service(
    service: &Detail,
    (last_change, now): (Option<&Programmed>, SystemTime),
    notices: &[&Notice],
) -> Markup {
    let row = &service.row;
    let body = html! {
        h2 { (row.name.to_string()) }
        dl {
            @for (fact, value) in &service.facts { dt { (fact) } dd { (value) } }
            dt { "endpoints in use" } dd { (row.chosen) " of " (row.endpoints) }
            dt { "last programmed" } dd { (last(last_change, now)) }
        }
        @if !notices.is_empty() { ul.bad { @for notice in notices { li { (notice.to_string()) } } } }
        @for port in &service.ports {
            h2 { (port.title) }
            @if port.endpoints.is_empty() { p.soft { "No EndpointSlice has an endpoint for this port." } }
            @else { (endpoints(&port.endpoints)) }
        }
        @if let Some(ip) = row.addresses.first() {
            p { a href=(link("/packet", &[("destination", ip.to_string())])) { "What becomes of a packet to " (ip.to_string()) } }
        }
    };
    layout(&row.name.to_string(), &body)
}

fn endpoints(all: &[Endpoint]) -> Markup {
    html! {
        table {
            thead { tr { th { "Endpoint" } th { "Node" } th { "State" } th { "Used" } th { "Why" } } }
            tbody {
                @for endpoint in all {
                    tr {
                        td.mono { (endpoint.socket) }
                        td { (endpoint.node) }
                        td { (endpoint.state) }
                        td class=(if endpoint.chosen { "good" } else { "soft" }) { (if endpoint.chosen { "yes" } else { "no" }) }
                        td { (endpoint.why) }
                    }
                }
            }
        }
    }
}

/// The packet form, with what became of the one that was asked about.
pub(super) fn packet(
    fields: &Fields,
    node: Option<&Node>,
    judged: Option<&Result<Judged, String>>,
) -> Markup {
    let body = html! {
        h2 { "What becomes of a packet" }
        p.soft {
            "The first packet of a new connection, sent through a simulated node with this node's addresses "
            "and the rules that this proxy wants. Nothing is sent on this machine. "
            "What is in the real kernel may differ if somebody changed it."
        }
        (packet_form(fields))
        @match judged {
            None => {},
            Some(Err(why)) => { p.bad role="alert" { (why) } },
            Some(Ok(judged)) => { (journey(judged)) },
        }
        @if node.is_none() { p.soft { "No Node object was seen: give a source address." } }
    };
    layout("packet", &body)
}

fn packet_form(fields: &Fields) -> Markup {
    let choice = |name: &str, value: &str, words: &str| {
        html! { option value=(value) selected[fields.text(name) == value] { (words) } }
    };
    html! {
        form method="get" action="/packet" {
            label { "From"
                select name="from" {
                    (choice("from", "pod", "a pod on this node"))
                    (choice("from", "outside", "another machine"))
                    (choice("from", "node", "this node itself"))
                }
            }
            label { "Source (may be empty)" input name="source" value=(fields.text("source")); }
            label { "Destination" input name="destination" value=(fields.text("destination")) placeholder="10.96.0.10" required; }
            label { "Port" input name="port" value=(fields.text("port")) size="6" inputmode="numeric" required; }
            label { "Protocol"
                select name="protocol" {
                    @for protocol in ["tcp", "udp", "sctp"] { (choice("protocol", protocol, protocol)) }
                }
            }
            button { "Send it" }
        }
    }
}

fn journey(judged: &Judged) -> Markup {
    html! {
        h2 { "Fate" }
        table {
            thead { tr { th { "Chance" } th { "What becomes of it" } } }
            tbody { @for (chance, fate) in &judged.fates { tr { td { (chance) } td { (fate) } } } }
        }
        h2 { "One way it can take" }
        pre { (judged.journey) }
    }
}

fn named(name: &NamespacedName) -> [(&'static str, String); 2] {
    [("namespace", name.namespace.to_string()), ("name", name.name.to_string())]
}

fn link(path: &str, fields: &[(&str, String)]) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    format!("{path}?{query}")
}

fn last(programmed: Option<&Programmed>, now: SystemTime) -> String {
    match programmed {
        None => "not yet".to_owned(),
        Some(last) => {
            format!(
                "{}, {:.1} ms after the change",
                ago(last.at, now),
                last.latency.as_secs_f64() * 1e3
            )
        }
    }
}

fn ago(at: SystemTime, now: SystemTime) -> String {
    let seconds = now.duration_since(at).unwrap_or_default().as_secs();
    match seconds {
        0 => "just now".to_owned(),
        1..=119 => format!("{seconds} s ago"),
        120..=7199 => format!("{} min ago", seconds / 60),
        _ => format!("{} h ago", seconds / 3600),
    }
}
