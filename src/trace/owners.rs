//! Whose rules they are, and what ours say about themselves: by table, by chain, by comment.
//! What a rule of ours does stands in its chain's name, which Service port it is of in its comment.
//!
//! It must never decide what becomes of a packet. Tests: `modes_tests.rs`.

use sim::{Journey, Step};

/// Chains of kubelet's that begin as ours do.
const KUBELETS: [&str; 3] = ["KUBE-FIREWALL", "KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"];
const MARKS: &str = "KUBE-MARK-MASQ";

/// Whether what stands in a chain of a table, as the simulator names them, is of this program.
pub(super) fn is_ours(table: &str, chain: &str) -> bool {
    let of_iptables = table.starts_with("iptables ") || table.starts_with("ip6tables ");
    match of_iptables {
        true => chain.starts_with("KUBE-") && !KUBELETS.contains(&chain),
        false => {
            let name = table.split_once(' ').map_or(table, |(family, name)| match family {
                "ip" | "ip6" => name,
                _ => "",
            });
            ["kube-proxy", "kube-proxy-standby", "kube-proxy-guard"].contains(&name)
        }
    }
}

/// The Service port that a comment of ours names, such as `default/web:http`.
pub fn port_of(comment: &str) -> Option<&str> {
    let named = |word: &&str| {
        let Some((namespace, name)) = word.split_once('/') else { return false };
        let letters = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:".contains(&b))
        };
        letters(namespace) && letters(name)
    };
    comment.split(' ').find(named)
}

/// A rule that matched, with where it stands.
struct Matched<'a> {
    table: &'a str,
    chain: &'a str,
    comment: &'a str,
}

/// Rules that matched, in order.
fn matched(journey: &Journey) -> impl Iterator<Item = Matched<'_>> {
    let mut table = "";
    let next = journey.steps.iter().skip(1).map(Some).chain([None]);
    journey.steps.iter().zip(next).filter_map(move |(step, next)| match step {
        Step::Chain { table: at, .. } => {
            table = at;
            None
        }
        Step::Rule { chain, comment, .. } if next != Some(&Step::NoMatch) => {
            Some(Matched { table, chain, comment: comment.as_deref().unwrap_or_default() })
        }
        _ => None,
    })
}

/// The Service port whose rules of iptables a packet met.
pub(super) fn service(journey: &Journey) -> Option<String> {
    let ours =
        |rule: &Matched<'_>| rule.table.contains("tables ") && is_ours(rule.table, rule.chain);
    matched(journey).filter(ours).find_map(|rule| port_of(rule.comment).map(str::to_owned))
}

/// Why rules of iptables gave a packet the mark by which it is masqueraded, in words; none if they
/// did not.
pub(super) fn marked_because(journey: &Journey) -> Option<String> {
    let mut before: Option<Matched<'_>> = None;
    for rule in matched(journey) {
        if rule.chain == MARKS
            && let Some(by) = before
        {
            let comment =
                if by.comment.is_empty() { String::new() } else { format!(" \"{}\"", by.comment) };
            return Some(format!("{} (chain {}{comment})", reason(&by), by.chain));
        }
        before = Some(rule);
    }
    None
}

/// Why a rule sends packets to be marked.
fn reason(rule: &Matched<'_>) -> &'static str {
    match rule.chain {
        _ if rule.comment.contains("masquerade LOCAL") => "this node sent it",
        chain if chain.starts_with("KUBE-SEP-") => "a pod reaches itself",
        chain if chain.starts_with("KUBE-SVC-") || chain.starts_with("KUBE-SVL-") => {
            "its source is not known to be a pod of this cluster, and the pod's answer must come back through this node"
        }
        chain
            if chain.starts_with("KUBE-EXT-")
                || chain == "KUBE-NODE-PORT"
                || chain == "KUBE-LOAD-BALANCER" =>
        {
            "it came to an address of the outside, and the pod's answer must come back through this node"
        }
        _ => "a rule asks for it",
    }
}
