//! A case on the simulated kernel: the ground, the same bytes, packets in memory.
//! It must never look at what the real kernel answered. Tests: `super::tests`, `tests/recorded.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use kube_proxy::kernel::simulated::Simulated;
use sim::packet::{Packet, Transport, flags, protocol};
use sim::{Connection, Fate, Host, Journey, LOOPBACK, RejectWith};

use super::answer::{Answers, ends};
use super::case::{Case, Step, set_flags};
use super::ground::{ADDRESSES, LINKS, Line, ROUTES};
use super::linux::{PORTS, SOURCE_PORTS};
use super::ruleset::Batches;
use super::spread::{Tally, nth};
use super::tools::Said;

/// What a case comes to on the simulator.
#[derive(Debug)]
pub enum Run {
    /// These answers.
    Answers(Answers),
    /// It does not model something that the case asks for.
    Unmodelled(String),
}

/// Runs a case.
pub fn run(case: &Case) -> Result<Run, String> {
    let mut world = World::new(case)?;
    for (index, step) in case.steps.iter().enumerate() {
        let answers = match world.step(case, index, step) {
            Ok(answers) => answers,
            Err(Stop::Unmodelled(what)) => return Ok(Run::Unmodelled(what)),
            Err(Stop::Broken(why)) => return Err(format!("{}: {why}", case.name)),
        };
        world.answers.steps.push(answers);
    }
    world.answers.entries = world.host.connections().iter().map(entry).collect();
    world.answers.entries.sort();
    Ok(Run::Answers(world.answers))
}

/// The way of one packet, told step by step, for a report.
pub fn journey(case: &Case, wanted: usize) -> Result<String, String> {
    let mut world = World::new(case)?;
    for (index, step) in case.steps.iter().enumerate().take(wanted) {
        if world.step(case, index, step).is_err() {
            return Ok(String::new());
        }
    }
    let Some(packet) = case.steps.get(wanted).and_then(|step| world.packet_of(case, wanted, step))
    else {
        return Ok(String::new());
    };
    Ok(world.host.send(&packet).to_string())
}

enum Stop {
    Unmodelled(String),
    Broken(String),
}

struct World {
    host: Host,
    links: BTreeMap<String, u32>,
    batches: Batches,
    /// Of each step with a packet that came out somewhere: the packet as it did, and the link.
    out: BTreeMap<usize, (Packet, Option<String>)>,
    answers: Answers,
    chance: bool,
}

impl World {
    fn new(case: &Case) -> Result<World, String> {
        let mut host = Host::new(1);
        let mut links = BTreeMap::from([("lo".to_owned(), LOOPBACK)]);
        for name in LINKS {
            links.insert((*name).to_owned(), host.add_link(name));
        }
        let text = format!("{:?}", case.steps);
        let mut world = World {
            host,
            links,
            batches: Batches::default(),
            out: BTreeMap::new(),
            answers: Answers::default(),
            chance: ["numgen.random", "--mode random"].iter().any(|word| text.contains(word)),
        };
        for line in
            ADDRESSES.iter().chain(ROUTES).map(|l| (*l).to_owned()).chain(case.ground.clone())
        {
            world.lay(&Line::read(&line)?)?;
        }
        Ok(world)
    }

    fn lay(&mut self, line: &Line) -> Result<(), String> {
        let link = |name: &str| self.links.get(name).copied().ok_or(format!("no link {name}"));
        match line {
            Line::Address(name, address, prefix) => {
                self.host.add_address(link(name)?, *address, *prefix);
            }
            Line::Route(network, prefix, gateway, name) => {
                self.host.add_route((*network, *prefix), Some(*gateway), link(name)?);
            }
            Line::Sysctl(name, value) => {
                let sysctls = self.host.sysctls_mut();
                match name.as_str() {
                    "ip_forward" => sysctls.ip_forward = *value != 0,
                    "ipv6_forwarding" => sysctls.ipv6_forwarding = *value != 0,
                    "route_localnet" => sysctls.route_localnet = *value != 0,
                    "rp_filter" => sysctls.rp_filter = *value as u8,
                    "tcp_loose" => sysctls.nf_conntrack_tcp_loose = *value != 0,
                    "tcp_be_liberal" => sysctls.nf_conntrack_tcp_be_liberal = *value != 0,
                    "conntrack_max" => sysctls.nf_conntrack_max = *value as usize,
                    other => return Err(format!("no sysctl {other}")),
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, case: &Case, index: usize, step: &Step) -> Result<Vec<String>, Stop> {
        match step {
            Step::Batch(commands) => self.batch(commands),
            Step::Word(line) => self.word(line),
            Step::IpvsConnections => Ok(vec![self.ipvs_connections()]),
            Step::Text(tool, text) => match tool.simulated(&mut self.host, text) {
                Said::Taken => Ok(vec!["taken".to_owned()]),
                Said::Refused => Ok(vec!["refused".to_owned()]),
                Said::Unmodelled(what) => Err(Stop::Unmodelled(what)),
            },
            Step::Spread { count, link, packet } => {
                let wrong = || Stop::Broken("no such link".to_owned());
                let packet = self.on(packet.clone(), link.as_deref()).ok_or_else(wrong)?;
                Ok(vec![self.spread(*count, &packet)])
            }
            Step::Wait(seconds) => {
                self.host.advance(Duration::from_secs(*seconds));
                Ok(Vec::new())
            }
            Step::Forget => {
                self.host.forget_connections(|_| true);
                Ok(Vec::new())
            }
            _ => Ok(match self.packet_of(case, index, step) {
                Some(packet) => self.send(index, &packet),
                None if self.chance => vec!["*".to_owned()],
                None => vec!["skipped".to_owned()],
            }),
        }
    }

    /// Carries out a line of the seam's words by the simulated heart, around this very host.
    fn word(&mut self, line: &str) -> Result<Vec<String>, Stop> {
        let mut kernel = Simulated::new(Host::new(1));
        std::mem::swap(&mut *kernel.host(), &mut self.host);
        let said = super::word::run(&mut kernel, line);
        std::mem::swap(&mut *kernel.host(), &mut self.host);
        match said {
            Ok(said) if said == "refused Unsupported" => Err(Stop::Unmodelled(line.to_owned())),
            Ok(said) => Ok(vec![said]),
            Err(why) => Err(Stop::Broken(why)),
        }
    }

    fn ipvs_connections(&self) -> String {
        let connections = self.host.ipvs_connections().into_iter();
        super::entry::ipvs(connections.map(|c| super::entry::IpvsEntry {
            protocol: c.protocol,
            client: c.client.into(),
            virt: c.virt.into(),
            real: c.real.into(),
            state: c.state.name().to_owned(),
        }))
    }

    fn batch(&mut self, commands: &[String]) -> Result<Vec<String>, Stop> {
        let lines: Vec<&str> = commands.iter().map(String::as_str).collect();
        let bytes = self.batches.batch(&lines).map_err(Stop::Broken)?;
        match self.host.nft_batch(&bytes) {
            Ok(()) => Ok(vec!["taken".to_owned()]),
            Err(error) if error.detail.contains("does not model") => {
                Err(Stop::Unmodelled(error.to_string()))
            }
            Err(error) => Ok(vec![format!("refused {}", error.errno as i32)]),
        }
    }

    /// The packet of a step, arriving where it arrives; none where it answers one that was lost.
    fn packet_of(&self, case: &Case, index: usize, step: &Step) -> Option<Packet> {
        let (packet, link) = match step {
            Step::Send { link, packet, .. } => (packet.clone(), link.clone()),
            Step::Reply(of, wanted) => {
                let (seen, link) = self.out.get(of)?;
                let mut packet = seen.answer();
                packet.payload = super::wire::payload(&packet);
                wanted.iter().for_each(|bits| set_flags(&mut packet, *bits));
                (packet, link.clone())
            }
            Step::Again(of, wanted) => {
                let mut packet = self.packet_of(case, *of, case.steps.get(*of)?)?;
                wanted.iter().for_each(|bits| set_flags(&mut packet, *bits));
                return (*of < index).then_some(packet);
            }
            _ => return None,
        };
        self.on(packet, link.as_deref())
    }

    /// The packet as it arrives on a link, or is sent by the node itself.
    fn on(&self, packet: Packet, link: Option<&str>) -> Option<Packet> {
        match link {
            Some(name) => self.links.get(name).map(|link| packet.arriving(*link)),
            None => Some(packet.sent_here()),
        }
    }

    /// How often each fate is to be expected.
    fn spread(&mut self, count: usize, packet: &Packet) -> String {
        let mut tally = Tally::default();
        for n in 0..count {
            let packet = nth(packet, n);
            for (probability, outcome) in self.host.outcomes(&packet) {
                tally.add(&self.fate(&packet, &outcome), probability.as_f64());
            }
            self.host.fate(&packet);
            self.answers.chance.insert(format!(" {} ", ends(&packet)));
        }
        tally.text()
    }

    fn send(&mut self, index: usize, packet: &Packet) -> Vec<String> {
        let mut fates = Vec::new();
        if self.chance {
            for (_, outcome) in self.host.outcomes(packet) {
                fates.push(self.fate(packet, &outcome));
            }
            fates.sort();
            fates.dedup();
        }
        let (journey, answer) = self.host.send_and_answer(packet);
        let outcome = journey.outcome;
        let fate = match answer {
            Some(answer) => answered(&answer),
            None => Some(self.fate(packet, &outcome))
                .filter(|fate| !fate.ends_with('?'))
                .unwrap_or("nothing".to_owned()),
        };
        if fates.len() > 1 {
            self.answers.chance.insert(format!(" {} ", ends(packet)));
            return fates;
        }
        let link = match &outcome.fate {
            Fate::Forwarded(hop) | Fate::Sent(hop) => {
                self.host.links().get(hop.link as usize - 1).map(|l| l.name.to_string())
            }
            Fate::Delivered => None,
            _ => return vec![fate],
        };
        if link.is_none() {
            self.refuse(&outcome.packet);
        }
        self.out.insert(index, (outcome.packet, link));
        vec![fate]
    }

    /// Nobody listens on a port that chance has chosen: TCP itself resets the connection.
    fn refuse(&mut self, delivered: &Packet) {
        let port = delivered.dport();
        if resettable(delivered) && !PORTS.contains(&port) && !SOURCE_PORTS.contains(&port) {
            let mut reset = delivered.answer().sent_here();
            set_flags(&mut reset, flags::RST);
            self.host.fate(&reset);
        }
    }

    fn fate(&self, sent: &Packet, outcome: &sim::Outcome) -> String {
        let v4 = sent.dst.is_ipv4();
        let local = sent.entry == sim::Entry::Local;
        let seen = ends(&outcome.packet);
        let answer = match &outcome.fate {
            Fate::Forwarded(hop) | Fate::Sent(hop) => {
                let name = self.host.links().get(hop.link as usize - 1).map(|l| l.name.clone());
                return format!("leaves {} {seen}", name.unwrap_or_default());
            }
            Fate::Delivered => return format!("delivered {seen}"),
            Fate::Rejected(RejectWith::TcpReset, _) if resettable(sent) => "reset".to_owned(),
            Fate::Rejected(RejectWith::TcpReset, _) => return "nothing".to_owned(),
            Fate::Rejected(RejectWith::Unreachable(code), _) => icmp(v4, *code, *code),
            Fate::Rejected(RejectWith::UnreachableX(code), _) => {
                let (four, six) = [(0, 0), (3, 4), (1, 3), (13, 1)][usize::from(*code & 3)];
                icmp(v4, four, six)
            }
            Fate::NoRoute if !local => icmp(v4, 0, 0),
            Fate::Expired if !local && v4 => "icmp 11/0".to_owned(),
            Fate::Expired if !local => "icmp 3/0".to_owned(),
            Fate::Unmodelled(_) => return "*".to_owned(),
            _ => return "nothing".to_owned(),
        };
        answer + "?"
    }
}

/// What is heard of an answer of the node's own.
fn answered(answer: &Journey) -> String {
    let heard = matches!(answer.outcome.fate, Fate::Delivered | Fate::Sent(_) | Fate::Forwarded(_));
    match &answer.packet.transport {
        _ if matches!(answer.outcome.fate, Fate::Unmodelled(_)) => "*".to_owned(),
        Transport::Icmp { kind, code, .. } if heard => format!("icmp {kind}/{code}"),
        Transport::Tcp { .. } if heard => "reset".to_owned(),
        _ => "nothing".to_owned(),
    }
}

fn icmp(v4: bool, four: u8, six: u8) -> String {
    if v4 { format!("icmp 3/{four}") } else { format!("icmp 1/{six}") }
}

/// A reset answers TCP, but no reset.
fn resettable(packet: &Packet) -> bool {
    matches!(packet.transport, sim::Transport::Tcp { flags, .. } if flags & sim::packet::flags::RST == 0)
}

fn entry(conn: &Connection) -> String {
    let ends = |t: &sim::conntrack::Tuple| {
        let end = |address, port| std::net::SocketAddr::new(address, port);
        format!("{} > {}", end(t.src, t.sport), end(t.dst, t.dport))
    };
    super::entry::text(&super::entry::Entry {
        protocol: conn.original.protocol,
        state: match (conn.original.protocol, conn.state.name()) {
            (protocol::TCP | protocol::SCTP, name) => name.to_owned(),
            _ => "-".to_owned(),
        },
        original: ends(&conn.original),
        reply: ends(&conn.reply),
        mark: conn.mark,
        status: conn.status,
        timeout: conn.timeout.as_secs(),
    })
}
