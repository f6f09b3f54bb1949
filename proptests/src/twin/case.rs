//! Cases of `twin`: what is laid out, which batches are sent, which packets go where, and what is
//! expected. One text for both kernels; this file reads it. Tests: `super::tests`.

use std::net::{IpAddr, SocketAddr};

use sim::packet::{Packet, Transport, flags};

use super::answer::Answers;
use super::rule::Words;
use super::tools::{Flavour, Tool};
use super::wire::payload;
use super::word;

/// A case: a name and its lines.
#[derive(Clone, Debug, Default)]
pub struct Case {
    /// What it shows.
    pub name: String,
    /// Lines that change the ground the packets walk on: addresses, routes, sysctls.
    pub ground: Vec<String>,
    /// The one flavour of iptables it is for; else it is for both.
    pub flavour: Option<Flavour>,
    /// Its lines without what is expected.
    pub text: String,
    /// What happens.
    pub steps: Vec<Step>,
    /// Does it say what is expected of connections?
    pub entries: bool,
    /// What is expected.
    pub expected: Answers,
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A batch of commands.
    Batch(Vec<String>),
    /// Something about virtual servers, ipsets, dummy devices or sysctls.
    Word(String),
    /// The connections of IPVS.
    IpvsConnections,
    /// A text for a tool: `iptables: LINE`, `ip6tables: LINE`, `ipset: LINE`, one line behind the other.
    Text(Tool, String),
    /// A packet, sent for the first time.
    Send {
        /// Its name.
        name: String,
        /// The link it arrives on; none for the node's own.
        link: Option<String>,
        /// The packet.
        packet: Packet,
    },
    /// An answer to a packet, from where that packet came out; TCP flags or SCTP chunk.
    Reply(usize, Option<u8>),
    /// One more packet of the same sender; TCP flags or SCTP chunk.
    Again(usize, Option<u8>),
    /// The same packet so many times, each from a port of its own: how chance spreads them.
    Spread {
        /// How often.
        count: usize,
        /// The link they arrive on; none for the node's own.
        link: Option<String>,
        /// The first packet.
        packet: Packet,
    },
    /// Some seconds go by.
    Wait(u64),
    /// All connections are forgotten.
    Forget,
}

impl Case {
    /// Whether it leaves behind what only a new namespace is free of.
    pub fn needs_own_ground(&self) -> bool {
        let stays = |step: &Step| matches!(step, Step::Word(_) | Step::IpvsConnections);
        !self.ground.is_empty() || self.has_texts() || self.steps.iter().any(stays)
    }

    /// Whether it asks for IPVS.
    pub fn needs_ipvs(&self) -> bool {
        self.steps.iter().any(|step| {
            matches!(step, Step::IpvsConnections)
                || matches!(step, Step::Word(line) if line.starts_with("ipvs") || line.contains("dummy"))
        })
    }

    /// Whether it changes what the whole machine has: only a guest may.
    pub fn needs_own_machine(&self) -> bool {
        self.ground.iter().any(|line| line.starts_with("sysctl conntrack_max "))
    }

    /// Does it ask tools of xtables?
    pub fn has_texts(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Text(..)))
    }

    /// The flavours of iptables it is for.
    pub fn flavours(&self) -> &[Flavour] {
        match self.flavour {
            Some(Flavour::Legacy) => &[Flavour::Legacy],
            None if self.has_texts() => &[Flavour::Nft, Flavour::Legacy],
            _ => &[Flavour::Nft],
        }
    }

    /// Reads all cases of a file; each begins with a line `== name`.
    pub fn read_all(text: &str) -> Result<Vec<Case>, String> {
        let mut cases = Vec::new();
        for (number, block) in text.split("\n== ").enumerate() {
            let block = if number == 0 { block.strip_prefix("== ") } else { Some(block) };
            if let Some(block) = block {
                cases.push(Case::read(block)?);
            }
        }
        Ok(cases)
    }

    /// Reads one case: the first line is its name.
    pub fn read(text: &str) -> Result<Case, String> {
        let mut lines = text.lines();
        let mut reader = Reader::default();
        reader.case.name = lines.next().unwrap_or_default().trim_start_matches("== ").to_owned();
        for line in lines {
            let line = line.split(" #").next().unwrap_or_default().trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if !line.starts_with("=>") && !line.starts_with("entry ") {
                reader.case.text = reader.case.text + line + "\n";
            }
            reader.line(line).map_err(|e| format!("{}: {line}: {e}", reader.case.name))?;
        }
        reader.commit();
        Ok(reader.case)
    }
}

#[derive(Default)]
struct Reader {
    case: Case,
    batch: Vec<String>,
    texts: Option<(Tool, String)>,
    names: Vec<(String, usize)>,
}

impl Reader {
    fn commit(&mut self) {
        if !self.batch.is_empty() {
            let batch = std::mem::take(&mut self.batch);
            self.push(Step::Batch(batch));
        }
        if let Some((tool, text)) = self.texts.take() {
            self.push(Step::Text(tool, text));
        }
    }

    /// One line of a text; lines of the same tool go together.
    fn text(&mut self, tool: Tool, line: &str) {
        if !self.batch.is_empty() || self.texts.as_ref().is_some_and(|(of, _)| *of != tool) {
            self.commit();
        }
        let (_, text) = self.texts.get_or_insert((tool, String::new()));
        text.push_str(line.trim_start());
        text.push('\n');
    }

    fn push(&mut self, step: Step) {
        self.case.steps.push(step);
        self.case.expected.steps.push(Vec::new());
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        if let Some((tool, rest)) = Tool::of(line) {
            self.text(tool, rest);
            return Ok(());
        }
        let mut words = Words::new(line);
        let first = words.next().unwrap_or_default();
        if !matches!(
            first,
            "send"
                | "spread"
                | "reply"
                | "again"
                | "wait"
                | "forget"
                | "commit"
                | "=>"
                | "entry"
                | "ipvs-connections"
        ) && !word::FIRST.contains(&first)
        {
            match first {
                "address" | "route" | "sysctl" => self.case.ground.push(line.to_owned()),
                "entries" => self.case.entries = true,
                "flavour" => self.case.flavour = Some(Flavour::named(words.need("a flavour")?)?),
                _ => {
                    if self.texts.is_some() {
                        self.commit();
                    }
                    self.batch.push(line.to_owned());
                }
            }
            return Ok(());
        }
        self.commit();
        match first {
            "send" => self.send(&mut words)?,
            "spread" => self.spread(&mut words)?,
            "reply" | "again" => {
                let name = words.need("a packet's name")?;
                let known = self.names.iter().rev().find(|(known, _)| known == name);
                let of = known.ok_or_else(|| format!("no packet {name}"))?.1;
                let flags = words.next().map(flag_bits).transpose()?;
                let step =
                    if first == "reply" { Step::Reply(of, flags) } else { Step::Again(of, flags) };
                self.push(step);
            }
            "wait" => {
                let seconds = words.need("seconds")?.parse().map_err(|_| "seconds expected")?;
                self.push(Step::Wait(seconds));
            }
            "forget" => self.push(Step::Forget),
            "ipvs-connections" => self.push(Step::IpvsConnections),
            _ if word::FIRST.contains(&first) => self.push(Step::Word(line.to_owned())),
            "=>" => {
                let expected = self.case.expected.steps.last_mut().ok_or("nothing happened yet")?;
                let text = line.trim_start_matches("=>").trim();
                *expected = text.split(" | ").map(str::to_owned).collect();
            }
            "entry" => {
                self.case.entries = true;
                self.case.expected.entries.push(line.trim_start_matches("entry ").to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    /// `NAME` and a packet.
    fn send(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        let name = words.need("a name")?.to_owned();
        let (link, packet) = packet_of(words)?;
        self.names.push((name.clone(), self.case.steps.len()));
        self.push(Step::Send { name, link, packet });
        Ok(())
    }

    /// `COUNT` and a packet.
    fn spread(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        let count = words.need("a count")?.parse().map_err(|_| "a count expected")?;
        let (link, packet) = packet_of(words)?;
        if count > 2000 {
            return Err("at most 2000 packets".to_owned());
        }
        self.push(Step::Spread { count, link, packet });
        Ok(())
    }
}

/// `LINK PROTOCOL[:FLAGS] SOURCE > DESTINATION [ttl N] [mark N] [outside 1]`: the link, none for the node
/// itself. `outside`: of the window of its connection, as each new `send` of an old flow is by its numbers.
fn packet_of(words: &mut Words<'_>) -> Result<(Option<String>, Packet), String> {
    let link = words.need("a link")?;
    let (protocol, flags) = words.need("a protocol")?.split_once(':').unwrap_or(("", ""));
    let source = end(words.need("a source")?)?;
    if !words.take(">") {
        return Err("> expected".to_owned());
    }
    let dest = end(words.need("a destination")?)?;
    let mut packet = match protocol {
        "tcp" => Packet::tcp(source, dest).with_flags(flag_bits(flags)?),
        "udp" => Packet::udp(source, dest),
        "sctp" => {
            let mut packet = Packet::sctp(source, dest);
            set_flags(&mut packet, flag_bits(flags)?);
            packet
        }
        "icmp" => Packet::echo(source.ip(), dest.ip(), source.port()),
        other => return Err(format!("no protocol \"{other}\"")),
    };
    while let Some(word) = words.next() {
        let value = super::field::number(words.need("a number")?)?;
        match word {
            "ttl" => packet.ttl = value as u8,
            "mark" => packet.mark = value,
            "outside" => packet.out_of_window = value != 0,
            other => return Err(format!("no property \"{other}\" of packets")),
        }
    }
    packet.payload = payload(&packet);
    Ok(((link != "node").then(|| link.to_owned()), packet))
}

/// An address with a port, or without one.
fn end(text: &str) -> Result<SocketAddr, String> {
    if let Ok(socket) = text.parse() {
        return Ok(socket);
    }
    let address: IpAddr = text.parse().map_err(|_| format!("\"{text}\" is no address"))?;
    Ok(SocketAddr::new(address, 0))
}

/// TCP flags as letters, or the number of an SCTP chunk.
fn flag_bits(text: &str) -> Result<u8, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    text.chars().try_fold(0, |bits, letter| {
        Ok(bits
            | match letter {
                'S' => flags::SYN,
                'A' => flags::ACK,
                'F' => flags::FIN,
                'R' => flags::RST,
                'P' => flags::PSH,
                _ => return Err(format!("no flag {letter}")),
            })
    })
}

/// Sets TCP flags or an SCTP chunk's type.
pub(super) fn set_flags(packet: &mut Packet, wanted: u8) {
    match &mut packet.transport {
        Transport::Tcp { flags, .. } => *flags = wanted,
        Transport::Sctp { chunk, .. } => *chunk = wanted,
        _ => {}
    }
    packet.payload = payload(packet);
}
