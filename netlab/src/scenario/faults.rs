//! The faults that `check` must find: how each is planted on the real kernel, how it is taken away,
//! and what must be said of it. It judges nothing. Tests: it is all test.

use std::path::Path;

use super::Stop;
use super::trace::run;
use crate::proxy::nft;
use crate::setting::Setting;

/// A fault: how it is planted, how it is taken away, and what `check` must say of it.
pub(super) struct Fault {
    pub(super) name: &'static str,
    pub(super) plant: fn(&Setting) -> Result<(), Stop>,
    pub(super) heal: fn(&Setting) -> Result<(), Stop>,
    /// The finding's sort, and words that its cause must have.
    pub(super) sort: &'static str,
    pub(super) words: &'static [&'static str],
    /// A probe whose fate the fault changes; `trace` must foretell it then, too.
    pub(super) probe: Option<&'static str>,
}

/// Runs a tool in the node; one that is not installed skips the scenario.
pub(super) fn tool(setting: &Setting, program: &str, arguments: &str) -> Result<String, Stop> {
    let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
    let absent = |_| Stop::Skipped(format!("the {program} tool is not installed"));
    let (code, out, error) =
        run(&setting.lab.node, Path::new(program), &arguments).map_err(absent)?;
    if code == 0 {
        Ok(out)
    } else {
        Err(format!("{program} {}: {error}", arguments.join(" ")).into())
    }
}

fn nft_text(setting: &Setting, text: &str) -> Result<(), Stop> {
    let words: Vec<&str> = text.split(' ').collect();
    nft(&setting.lab, &words).map(|_| ()).map_err(Stop::from)
}

const ELEMENT: &str = "element ip kube-proxy endpoints { 10.96.0.10 . tcp . 80 . 1";

/// Every fault.
pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "an element of ours deleted",
        plant: |s| nft_text(s, &format!("delete {ELEMENT} }}")),
        heal: |s| nft_text(s, &format!("add {ELEMENT} : 10.244.1.12 . 8080 }}")),
        sort: "drift",
        words: &["set endpoints", "10.96.0.10 . tcp . 80 . 1", "10.244.1.12", "is missing"],
        probe: Some("tcp from dns-1 to 10.96.0.10:80 reaches web-1 web-3 as itself"),
    },
    Fault {
        name: "a foreign drop before ours",
        plant: |s| {
            nft_text(s, "add table inet intruder")?;
            nft_text(
                s,
                "add chain inet intruder pre { type filter hook prerouting priority -150 ; }",
            )?;
            nft_text(s, "add rule inet intruder pre tcp dport 30080 drop comment \"no-node-ports\"")
        },
        heal: |s| nft_text(s, "delete table inet intruder"),
        sort: "foreign-rule",
        words: &["nft table inet intruder", "chain pre", "handle", "no-node-ports", "drops"],
        probe: Some("tcp from outside to 172.18.1.2:30080 is lost"),
    },
    Fault {
        name: "a foreign iptables rule",
        plant: |s| {
            tool(
                s,
                "iptables-nft",
                "-I FORWARD -p tcp --dport 8080 -m comment --comment closed -j DROP",
            )
            .map(|_| ())
        },
        heal: |s| {
            tool(
                s,
                "iptables-nft",
                "-D FORWARD -p tcp --dport 8080 -m comment --comment closed -j DROP",
            )
            .map(|_| ())
        },
        sort: "foreign-rule",
        words: &["iptables table filter", "chain FORWARD", "rule 1", "closed", "drops"],
        probe: Some("tcp from outside to 10.96.0.10:80 is lost"),
    },
    Fault {
        name: "a foreign rule of iptables-legacy",
        plant: |s| {
            tool(s, "iptables-legacy", "-I FORWARD -p tcp --dport 8080 -j REJECT").map(|_| ())
        },
        heal: |s| tool(s, "iptables-legacy", "-F FORWARD").map(|_| ()),
        sort: "foreign-rule",
        words: &["iptables table filter", "chain FORWARD", "rule 1", "refuses"],
        probe: Some("tcp from outside to 10.96.0.10:80 is refused"),
    },
    Fault {
        name: "the masquerade bit clobbered",
        plant: |s| {
            nft_text(s, "add table ip intruder")?;
            nft_text(
                s,
                "add chain ip intruder post { type filter hook postrouting priority 0 ; }",
            )?;
            nft_text(s, "add rule ip intruder post meta mark set 0x1 comment \"marks-all\"")
        },
        heal: |s| nft_text(s, "delete table ip intruder"),
        sort: "missing-masquerade",
        words: &["ip intruder", "chain post", "marks-all", "0x4000"],
        // Answers of all pods come back through this node, so that the client still gets them.
        probe: Some("tcp from dns-1 to 172.18.1.2:30080 reaches web-1 web-2 web-3 as itself"),
    },
    Fault {
        name: "a stale conntrack entry",
        plant: |s| {
            tool(
                s,
                "conntrack",
                "-I -p udp -s 203.0.113.10 -d 10.96.0.53 --sport 5353 --dport 53 -r 10.244.1.99 -q 203.0.113.10 \
                 --reply-port-src 5353 --reply-port-dst 5353 -t 600 -u SEEN_REPLY",
            )
            .map(|_| ())
        },
        heal: |s| tool(s, "conntrack", "-D -p udp -s 203.0.113.10 --sport 5353").map(|_| ()),
        sort: "stale-connection",
        words: &["203.0.113.10:5353", "10.96.0.53:53"],
        probe: None,
    },
    Fault {
        name: "forwarding switched off",
        plant: |s| sysctl(s, "0"),
        heal: |s| sysctl(s, "1"),
        sort: "setting",
        words: &["ip_forward"],
        probe: Some("tcp from outside to 10.96.0.10:80 is lost"),
    },
    Fault {
        name: "a rule of ours deleted",
        plant: |s| {
            let listed = nft(&s.lab, &["-a", "list", "chain", "ip", "kube-proxy", "masquerading"])?;
            let line = listed
                .lines()
                .find(|line| line.contains("masquerade"))
                .ok_or("no masquerade rule")?;
            let handle = line.rsplit(' ').next().unwrap_or_default().to_owned();
            nft_text(s, &format!("delete rule ip kube-proxy masquerading handle {handle}"))
        },
        // The last one: it stays.
        heal: |_| Ok(()),
        sort: "drift",
        words: &["table ip kube-proxy", "chain masquerading", "is missing"],
        // Answers of all pods come back through this node, so that the client still gets them.
        probe: Some("tcp from dns-1 to 172.18.1.2:30080 reaches web-1 web-2 web-3 as itself"),
    },
];

fn sysctl(setting: &Setting, value: &str) -> Result<(), Stop> {
    crate::links::sysctl(&setting.lab.node, "net/ipv4/ip_forward", value).map_err(Stop::from)
}
