//! The words about the questions: their flags, their help with examples.
//! Nothing here is parsed. Tests: `ask`, `tests`.

use super::ask::Name;

/// A command's own flags: name, what its value is called (empty for a boolean), what it does.
pub(super) type Own = (&'static str, &'static str, &'static str);

const HELP: Own = ("help", "", "this text");
const OF_ALL: &[Own] =
    &[("output", "text|json|mermaid", "the form of the answer [default: text]"), HELP];
const OF_NODE: &[Own] = &[("from", "FILE", "a dump instead of this node; needs no privileges")];
const OF_STAND_IN: &[Own] = &[(
    "stand-in",
    "",
    "a node as its Node object tells of it, instead of this one: for --desired and --what-if, without privileges",
)];
const OF_PACKET: &[Own] = &[
    ("proto", "tcp|udp|sctp", "the protocol [default: of the Service port, else tcp]"),
    ("port", "PORT", "the port of TO, a number or a Service port's name"),
    ("link", "NAME", "the link the packet comes in by [default: by which FROM is routed]"),
    ("ipv6", "", "IPv6, where both families fit"),
    ("steps", "", "every chain, rule and look-up on the way"),
];
const OF_TRACE: &[Own] = &[
    ("desired", "", "by the rules that kube-proxy would write, not by those that are there"),
    ("compare", "", "by both, and where they differ"),
];
const OF_REPLAY: &[Own] =
    &[("until", "NUMBER", "stop behind this act [default: at the record's end]")];
const OF_CHECK: &[Own] = &[(
    "what-if",
    "CHANGE",
    "suppose a change before it is made; may be repeated: node-drain=NAME, endpoint-down=IP, mode=NAME, set-field=NAMESPACE/NAME:FIELD=VALUE",
)];
const OF_DUMP: &[Own] = &[
    ("to", "FILE", "the file to write [default: the standard output]"),
    ("anonymise", "", "other addresses in the places of the node's: for a report to strangers"),
];
const OF_NAMES: &[Own] =
    &[("changes", "", "what kube-proxy check --what-if may suppose, instead of FROM and TO")];

const TRACE_EXAMPLES: &str = "\
FROM and TO are an address, pod/NAMESPACE/NAME, svc/NAMESPACE/NAME, node or outside; TO has a port
behind a colon. A namespace may be left out where the name is the only one of its kind.

Examples:
  kube-proxy trace 10.244.1.11 10.96.0.10:80
  kube-proxy trace pod/default/web-1 svc/default/web:http --manifests examples
  kube-proxy trace outside node:30080 --kubeconfig ~/.kube/config
  kube-proxy trace node svc/kube-system/kube-dns:dns --output mermaid
  kube-proxy trace outside 198.51.100.1:80 --from node-1.dump --compare
  kube-proxy trace outside node:30080 --manifests examples --hostname-override node-1 --stand-in --desired

Exit codes: 0 the answer is certain; 2 something on the way cannot be told, or was not found.
With --compare: 1 live and desired rules differ.";
const CHECK_EXAMPLES: &str = "\
Examples:
  kube-proxy check --kubeconfig ~/.kube/config --cluster-cidr 10.244.0.0/16
  kube-proxy check --manifests examples --hostname-override node-1
  kube-proxy check --from node-1.dump --output json
  kube-proxy check --from node-1.dump --what-if node-drain=node-2
  kube-proxy check --manifests examples --what-if set-field=default/shop:externalTrafficPolicy=Local
  kube-proxy check --manifests examples --hostname-override node-1 --stand-in --what-if mode=iptables

Exit codes: 0 the kernel does what the API promises; 1 it does not; 2 it cannot be told.";
const DUMP_EXAMPLES: &str = "\
Examples:
  kube-proxy dump --to node-1.dump --kubeconfig ~/.kube/config
  kube-proxy dump --manifests examples | gzip > node-1.dump.gz
  kube-proxy dump --from node-1.dump --anonymise --to report.dump

It holds addresses, rules, connections and the names of Services. With --anonymise other addresses
stand in their places, drawn anew each time; networks, their order and who is in which stay as they
are, so that it answers as before. Names stay.";

const NAMES_EXAMPLES: &str = "\
A name a line, as kube-proxy trace takes them: node, outside, pods, Services with each port. Completion
of shells asks it (kube-proxy completion bash), and so passes over what else stands on the line.

Examples:
  kube-proxy names --manifests examples
  kube-proxy names --kubeconfig ~/.kube/config
  kube-proxy names --from node-1.dump --changes

Exit codes: 0 these are all; 2 they are not: pods could not be listed, or nothing could be read.";

const REPLAY_EXAMPLES: &str = "\
A record is written by kube-proxy --record FILE. What it was told and what the kernel answered is
played again on a simulated node: the same acts with the same bytes, or what differs. With FROM and
TO (see kube-proxy trace --help) a packet is sent through what is programmed then.

Examples:
  kube-proxy replay /var/log/kube-proxy.record
  kube-proxy replay kube-proxy.record 10.244.1.11 svc/default/web:http
  kube-proxy replay kube-proxy.record outside node:30080 --until 12 --output json

Exit codes: 0 it was played to the same end; 1 something differs; 2 it cannot be played.";

impl Name {
    /// Its own flags, as help shows them.
    pub(super) fn own(self) -> impl Iterator<Item = &'static Own> {
        let groups: &[&'static [Own]] = match self {
            Name::Trace => &[OF_PACKET, OF_TRACE, OF_NODE, OF_STAND_IN, OF_ALL],
            Name::Check => &[OF_CHECK, OF_NODE, OF_STAND_IN, OF_ALL],
            Name::Dump => &[OF_DUMP, OF_NODE, OF_ALL],
            Name::Names => &[OF_NAMES, OF_NODE, &[HELP]],
            Name::Replay => &[OF_REPLAY, OF_PACKET, OF_ALL],
        };
        groups.iter().copied().flatten()
    }

    /// Its own flag of this name. A shell asks for names with what stands on the line so far, which may
    /// be flags of another command.
    pub(super) fn takes(self, flag: &str) -> Option<&'static Own> {
        let others = Name::ALL.into_iter().filter(|_| self == Name::Names);
        let all = self.own().chain(others.flat_map(|(_, name)| name.own()));
        all.into_iter().find(|(own, ..)| *own == flag)
    }

    /// How it is called, what it does, and what is said of it more.
    pub(super) fn words(self) -> [&'static str; 3] {
        let (usage, about, more) = match self {
            Name::Trace => {
                ("trace FROM TO", "Says where a packet goes on this node, and why.", TRACE_EXAMPLES)
            }
            Name::Check => {
                ("check", "Says whether the kernel does what the API promises.", CHECK_EXAMPLES)
            }
            Name::Dump => (
                "dump",
                "Writes everything that decides about packets into one file.",
                DUMP_EXAMPLES,
            ),
            Name::Names => (
                "names",
                "Says what FROM and TO of kube-proxy trace may be, beside addresses.",
                NAMES_EXAMPLES,
            ),
            Name::Replay => (
                "replay FILE [FROM TO]",
                "Plays again what a kube-proxy did, on a simulated node.",
                REPLAY_EXAMPLES,
            ),
        };
        [usage, about, more]
    }

    /// What it does, in a line.
    pub(super) fn about(self) -> &'static str {
        self.words()[1]
    }

    pub(super) fn help(self) -> String {
        let [usage, about, examples] = self.words();
        let rows = self.own().map(|(name, value, what)| {
            let flag =
                if value.is_empty() { format!("--{name}") } else { format!("--{name} <{value}>") };
            format!("  {flag:<30} {what}\n")
        });
        let rows: String = rows.collect();
        format!(
            "{about}\n\nUsage: kube-proxy {usage} [FLAGS]\n\n{rows}\n\
             All flags of kube-proxy itself count too: they say how it is set up (see kube-proxy --help).\n\n{examples}"
        )
    }
}
