//! A rule as the kernel has it: the packet's header, matches in their order, a target. As text it
//! reads exactly as iptables-save (1.8.9, both flavours) prints it, so that what is wanted can be
//! held against what is there, and the same text is what iptables-restore takes.
//! It must never know Services. Tests: below; against the tools: `netlab`, `proptests`.

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::chain::Chain;
use crate::kernel::Socket;
use crate::model::{Family, Protocol};

/// Something that is to be so, or, inverted (`!`), is to be not so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test<T> {
    /// What is looked for.
    pub value: T,
    /// Whether the rule is for packets that are otherwise.
    pub inverted: bool,
}

impl<T> Test<T> {
    /// It is so.
    pub fn is(value: T) -> Test<T> {
        Test { value, inverted: false }
    }

    /// It is not so.
    pub fn is_not(value: T) -> Test<T> {
        Test { value, inverted: true }
    }
}

/// A rule: `struct ipt_entry` or `ip6t_entry`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Source addresses (`-s`).
    pub source: Option<Test<IpNet>>,
    /// Destination addresses (`-d`).
    pub destination: Option<Test<IpNet>>,
    /// The link it came in over (`-i`); with a `+` at its end, the beginning of names.
    pub link: Option<Test<Arc<str>>>,
    /// Transport protocol (`-p`).
    pub protocol: Option<Protocol>,
    /// Matches, in the order in which the kernel asks them.
    pub matches: Vec<Match>,
    /// What becomes of packets that fit; `None`: they go on to the next rule.
    pub target: Option<Target>,
}

/// A match extension (`-m`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// Words for people (`comment`); at most 255 bytes.
    Comment(Arc<str>),
    /// `tcp`, `udp` or `sctp`, as the rule's protocol says; `None`: any port.
    Port(Option<u16>),
    /// The mark, as far as the mask covers it (`mark`).
    Mark(Test<(u32, u32)>),
    /// The connection's state (`conntrack --ctstate`).
    State(Test<&'static [State]>),
    /// The source is an address of this node (`addrtype --src-type LOCAL`).
    SourceIsLocal,
    /// The destination is an address of this node (`addrtype --dst-type LOCAL`).
    DestinationIsLocal,
    /// One packet of this many, by chance (`statistic --mode random`).
    OneOf(u32),
    /// Writes the source into the list of this name (`recent --set`).
    Remember(Chain),
    /// The source was written into the list within so many seconds; older ones are thrown out
    /// (`recent --rcheck --seconds --reap`).
    Remembered(Chain, u32),
    /// Counts in the nfacct object of this name (`nfacct`).
    Account(&'static str),
    /// The packet is in the ipset of this name, looked up by these sides, such as `dst,dst` (`set`).
    Set(Test<&'static str>, &'static str),
    /// It did not come in over a port of a bridge (`physdev ! --physdev-is-in`).
    NotBridged,
}

/// A connection's state, in the order in which iptables-save names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Conntrack can make nothing of the packet.
    Invalid,
    /// The first packet of a connection.
    New,
    /// A connection that another one brought about.
    Related,
    /// A connection that was answered.
    Established,
    /// Its destination was translated.
    Dnat,
}

impl State {
    /// As `--ctstate` has it.
    pub fn word(self) -> &'static str {
        match self {
            State::Invalid => "INVALID",
            State::New => "NEW",
            State::Related => "RELATED",
            State::Established => "ESTABLISHED",
            State::Dnat => "DNAT",
        }
    }
}

/// A target (`-j`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The packet may pass this table.
    Accept,
    /// The packet vanishes.
    Drop,
    /// Back to the chain it came from.
    Return,
    /// The packet is refused: ICMP port unreachable.
    Reject,
    /// `mark = (mark & !mask) ^ value` (`MARK --set-xmark`); `--or-mark m` is (m, m) and
    /// `--xor-mark m` is (m, 0).
    Mark {
        /// Bits that are turned over.
        value: u32,
        /// Bits that are cleared before.
        mask: u32,
    },
    /// The source becomes this node's address (`MASQUERADE`).
    Masquerade(SourcePort),
    /// The destination becomes this one (`DNAT`).
    Dnat(Socket),
    /// To the first rule of another chain, and back.
    Jump(Chain),
}

/// How MASQUERADE takes a source port that is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourcePort {
    /// The packet's own, or the next one.
    AsTheKernelLikes,
    /// By chance (`--random-fully`).
    Random,
}

impl Rule {
    /// A rule that begins with words for people.
    pub fn commented(comment: impl Into<Arc<str>>) -> Rule {
        Rule { matches: vec![Match::Comment(comment.into())], ..Rule::default() }
    }

    /// The rule with a further match.
    #[must_use]
    pub fn with(mut self, further: Match) -> Rule {
        self.matches.push(further);
        self
    }

    /// The rule for one protocol, and one destination port if one is given.
    #[must_use]
    pub fn port(mut self, protocol: Protocol, port: Option<u16>) -> Rule {
        self.protocol = Some(protocol);
        self.with(Match::Port(port))
    }

    /// The rule for one destination.
    #[must_use]
    pub fn to(mut self, address: IpAddr) -> Rule {
        self.destination = Some(Test::is(address.into()));
        self
    }

    /// The rule for some sources.
    #[must_use]
    pub fn from(mut self, source: Test<IpNet>) -> Rule {
        self.source = Some(source);
        self
    }

    /// The rule with its target.
    #[must_use]
    pub fn then(mut self, target: Target) -> Rule {
        self.target = Some(target);
        self
    }

    /// The rule with a jump.
    #[must_use]
    pub fn jump(self, chain: Chain) -> Rule {
        self.then(Target::Jump(chain))
    }

    /// As iptables-save prints it, without `-A` and the chain's name: each word with a space before it.
    pub fn text(&self, family: Family) -> String {
        let mut out = String::with_capacity(160);
        self.write(family, &mut out);
        out
    }

    /// Adds the text to `out`.
    pub fn write(&self, family: Family, out: &mut String) {
        // A String takes everything.
        let _ = self.try_write(family, out);
    }

    fn try_write(&self, family: Family, out: &mut String) -> fmt::Result {
        for (option, network) in [("-s", &self.source), ("-d", &self.destination)] {
            if let Some(Test { value, inverted }) = network {
                write!(out, "{} {option} {value}", bang(*inverted))?;
            }
        }
        if let Some(Test { value, inverted }) = &self.link {
            write!(out, "{} -i {value}", bang(*inverted))?;
        }
        if let Some(protocol) = self.protocol {
            write!(out, " -p {}", protocol.lower())?;
        }
        for each in &self.matches {
            self.write_match(each, family, out)?;
        }
        self.target.iter().try_for_each(|target| write_target(target, family, out))
    }

    fn write_match(&self, one: &Match, family: Family, out: &mut String) -> fmt::Result {
        match one {
            Match::Comment(text) => {
                out.push_str(" -m comment --comment ");
                write_quoted(text, out);
                Ok(())
            }
            Match::Port(port) => {
                let protocol = self.protocol.map_or("tcp", Protocol::lower);
                write!(out, " -m {protocol}")?;
                port.map_or(Ok(()), |port| write!(out, " --dport {port}"))
            }
            Match::Mark(Test { value: (value, mask), inverted }) => {
                write!(out, " -m mark{} --mark {value:#x}/{mask:#x}", bang(*inverted))
            }
            Match::State(Test { value, inverted }) => {
                let words: Vec<&str> = value.iter().map(|state| state.word()).collect();
                write!(out, " -m conntrack{} --ctstate {}", bang(*inverted), words.join(","))
            }
            Match::SourceIsLocal => out.write_str(" -m addrtype --src-type LOCAL"),
            Match::DestinationIsLocal => out.write_str(" -m addrtype --dst-type LOCAL"),
            Match::OneOf(n) => {
                let share = f64::from(threshold(*n)) / f64::from(1u32 << 31);
                write!(out, " -m statistic --mode random --probability {share:.11}")
            }
            Match::Remember(list) => {
                write!(out, " -m recent --set --name {list} --mask {} --rsource", all_bits(family))
            }
            Match::Remembered(list, seconds) => {
                let mask = all_bits(family);
                write!(out, " -m recent --rcheck --seconds {seconds} --reap")?;
                write!(out, " --name {list} --mask {mask} --rsource")
            }
            Match::Account(name) => write!(out, " -m nfacct --nfacct-name  {name}"),
            Match::Set(Test { value, inverted }, sides) => {
                write!(out, " -m set{} --match-set {value} {sides}", bang(*inverted))
            }
            Match::NotBridged => out.write_str(" -m physdev ! --physdev-is-in"),
        }
    }
}

fn write_target(target: &Target, family: Family, out: &mut String) -> fmt::Result {
    out.write_str(" -j ")?;
    match target {
        Target::Accept => out.write_str("ACCEPT"),
        Target::Drop => out.write_str("DROP"),
        Target::Return => out.write_str("RETURN"),
        Target::Reject => out.write_str(match family {
            Family::V4 => "REJECT --reject-with icmp-port-unreachable",
            Family::V6 => "REJECT --reject-with icmp6-port-unreachable",
        }),
        Target::Mark { value, mask } => write!(out, "MARK --set-xmark {value:#x}/{mask:#x}"),
        Target::Masquerade(SourcePort::AsTheKernelLikes) => out.write_str("MASQUERADE"),
        Target::Masquerade(SourcePort::Random) => out.write_str("MASQUERADE --random-fully"),
        Target::Dnat(socket) => write!(out, "DNAT --to-destination {socket}"),
        Target::Jump(chain) => write!(out, "{chain}"),
    }
}

/// The 31 bits that `statistic` compares a random number with for one packet of `n`: the reference
/// writes 1/n with ten digits (`%0.10f`), and the tool makes this of them.
pub fn threshold(n: u32) -> u32 {
    let tenths = 1e10;
    let written = (tenths / f64::from(n.max(1))).round() / tenths;
    (written * f64::from(1u32 << 31)).round() as u32
}

fn bang(inverted: bool) -> &'static str {
    if inverted { " !" } else { "" }
}

fn all_bits(family: Family) -> &'static str {
    match family {
        Family::V4 => "255.255.255.255",
        Family::V6 => "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    }
}

/// As `xtables_save_string` quotes: plain words stay bare.
fn write_quoted(text: &str, out: &mut String) {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !text.is_empty() && text.chars().all(plain) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '\'') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::chain::{self, Name};
    use super::*;

    fn text(rule: &Rule) -> String {
        rule.text(Family::V4)
    }

    #[test]
    fn rules_read_as_the_tool_prints_them() {
        let ip: IpAddr = "10.0.0.1".parse().unwrap();
        let pods = Test::is_not("10.2.0.0/16".parse().unwrap());
        let rule = Rule::commented("ns/a:p cluster IP")
            .port(Protocol::Tcp, Some(80))
            .to(ip)
            .from(pods)
            .jump(chain::MARK_MASQ);
        assert_eq!(
            text(&rule),
            " ! -s 10.2.0.0/16 -d 10.0.0.1/32 -p tcp -m comment --comment \"ns/a:p cluster IP\" \
             -m tcp --dport 80 -j KUBE-MARK-MASQ"
        );
        let list = Chain::Of(chain::Kind::Endpoint, Name::of(&["a"]));
        let socket = Socket { address: ip, port: 80 };
        let rule = Rule::commented("abc-_")
            .with(Match::Remember(list))
            .port(Protocol::Udp, None)
            .then(Target::Dnat(socket));
        assert_eq!(
            text(&rule),
            format!(
                " -p udp -m comment --comment abc-_ -m recent --set --name {list} \
                 --mask 255.255.255.255 --rsource -m udp -j DNAT --to-destination 10.0.0.1:80"
            )
        );
    }

    #[test]
    fn probabilities_are_those_the_kernel_has() {
        let shares: Vec<String> =
            [2, 3, 7].map(|n| text(&Rule::default().with(Match::OneOf(n)))).into();
        let mode = " -m statistic --mode random --probability";
        let wanted = ["0.50000000000", "0.33333333349", "0.14285714272"];
        assert_eq!(shares, wanted.map(|share| format!("{mode} {share}")));
    }

    #[test]
    fn comments_are_quoted_as_the_tool_does() {
        let rule = Rule::commented("it's a \"\\\"");
        assert_eq!(text(&rule), r#" -m comment --comment "it\'s a \"\\\"""#);
        assert_eq!(text(&Rule::commented("")), " -m comment --comment \"\"");
    }
}
