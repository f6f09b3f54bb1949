//! A case on the real kernel: a node in a namespace, a world behind each of its links, the same
//! bytes, real packets. Makes and touches only namespaces without names. Needs root, `ip` and `nft`.
//! Tests: `netlab kernel`, `netlab fuzz`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube_proxy::kernel::real::Real;
use sim::packet::{Packet, Transport, flags};

use super::answer::{Answers, ends};
use super::bell::Bell;
use super::case::{Case, Step, set_flags};
use super::ground::{ADDRESSES, LINKS, Line, ROUTES};
use super::hush::hush;
use super::netlink::Netlink;
use super::ruleset::Batches;
use super::sockets::{Ear, Mouth, listen, silent_sockets};
use super::spread::{FIRST_FLOW, Tally, nth};
use super::tools::Flavour;
use super::wire::{Heard, Numbers, build};
use crate::lab::Namespace;

/// Ports on which the node listens in silence.
pub const PORTS: &[u16] = &[53, 80, 81, 82, 443, 8080, 8081, 8082, 8083, 9000];
/// Source ports of packets, for the node's own: silent as well.
pub const SOURCE_PORTS: std::ops::Range<u16> = 1024..1152;

/// The time in which the kernel takes away what the last case's tables needed.
const SETTLED: Duration = Duration::from_millis(80);

/// The first number of tags; what is below belongs to nobody.
const FIRST_TAG: u32 = 0x2000;

const NODE_SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/icmp_ratelimit", "0"),
    ("net/ipv4/icmp_ratemask", "0"),
    ("net/ipv4/icmp_echo_ignore_all", "1"),
    ("net/ipv6/icmp/ratelimit", "0"),
    ("net/ipv6/icmp/ratemask", "128"),
    ("net/ipv6/icmp/echo_ignore_all", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
];

const FAR_SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
];

/// The laid ground. Cases run on it one after another; each leaves it without tables and connections.
#[derive(Debug)]
pub struct Ground {
    node: Namespace,
    worlds: Vec<Namespace>,
    /// Of the node, then of each world.
    mouths: Vec<Mouth>,
    /// Of each world, then those of the node.
    ears: Vec<Ear>,
    netlink: Netlink,
    /// Opened by the first case that has words for it.
    kernel: Arc<Mutex<Option<Real>>>,
    bell: Bell,
    flavour: Flavour,
    _silent: Vec<socket2::Socket>,
}

impl Ground {
    /// Lays it, with what a case adds, for rules of this flavour.
    pub fn new(case: &Case, flavour: Flavour) -> Result<Ground, String> {
        let mut bell = Bell::hang()?;
        let node = Namespace::new()?;
        let worlds = LINKS.iter().map(|_| Namespace::new()).collect::<Result<Vec<_>, _>>()?;
        node.sysctls(NODE_SYSCTLS)?;
        hush(&node)?;
        let mut links = String::from("link set lo up\n");
        for (number, (name, world)) in LINKS.iter().zip(&worlds).enumerate() {
            world.sysctls(FAR_SYSCTLS)?;
            hush(world)?;
            let (near, far) = (mac(number, 1), mac(number, 2));
            let path = world.path.display();
            let _ = writeln!(
                links,
                "link add {name} address {near} type veth peer name e address {far} netns {path}\n\
                 link set {name} up"
            );
        }
        node.command("ip -batch -", &links)?;
        let extra: Vec<Line> =
            case.ground.iter().map(|l| Line::read(l)).collect::<Result<_, String>>()?;
        node.command("ip -batch -", &node_lines(&extra)?)?;
        for line in &extra {
            if let Line::Sysctl(name, value) = line {
                sysctl(&node, name, *value)?;
            }
        }
        for (number, world) in worlds.iter().enumerate() {
            world.command("ip -batch -", &far_lines(number))?;
        }
        let mut mouths = vec![node.run(Mouth::open)??];
        let mut ears = Vec::new();
        for world in &worlds {
            mouths.push(world.run(Mouth::open)??);
            ears.push(world.run(Ear::on_links)??);
        }
        ears.extend(node.run(Ear::inside)??);
        let ports: Vec<u16> = PORTS.iter().copied().chain(SOURCE_PORTS).collect();
        let silent = node.run(move || silent_sockets(&ports))??;
        let netlink = node.run(Netlink::open)??;
        super::ready::wait(&mut mouths, &ears, &mut bell)?;
        let kernel = Arc::default();
        Ok(Ground { node, worlds, mouths, ears, netlink, kernel, bell, flavour, _silent: silent })
    }

    /// Runs a case here, or on ground of its own where it would leave something behind: addresses, sysctls,
    /// tables of iptables.
    pub fn for_case(&mut self, case: &Case, flavour: Flavour) -> Result<Answers, String> {
        if !case.needs_own_ground() {
            return self.run(case);
        }
        Ground::new(case, flavour)?.run(case)
    }

    /// Waits until the kernel's worker has taken away what earlier cases needed.
    pub fn settle(&self) {
        std::thread::sleep(SETTLED);
    }

    /// Runs a case.
    pub fn run(&mut self, case: &Case) -> Result<Answers, String> {
        let mut round =
            Round { batches: Batches::default(), out: BTreeMap::new(), pending: BTreeMap::new() };
        let mut answers =
            Answers { steps: vec![Vec::new(); case.steps.len()], ..Answers::default() };
        let done = self.steps(case, (&mut round, &mut answers));
        let cleaned = self.clean(case);
        done.and(cleaned).map(|()| answers)
    }

    fn steps(
        &mut self,
        case: &Case,
        (round, answers): (&mut Round, &mut Answers),
    ) -> Result<(), String> {
        for (index, step) in case.steps.iter().enumerate() {
            let follows = matches!(step, Step::Reply(..) | Step::Again(..));
            let collects = matches!(step, Step::Send { .. }) || follows && round.pending.is_empty();
            if !collects {
                self.flush(round, answers)?;
            }
            match step {
                Step::Batch(commands) => {
                    let lines: Vec<&str> = commands.iter().map(String::as_str).collect();
                    let errnos = self.netlink.batch(&round.batches.batch(&lines)?)?;
                    let words: Vec<String> = errnos.iter().map(i32::to_string).collect();
                    let refused = format!("refused {}", words.join(" "));
                    let said = if words.is_empty() { "taken".to_owned() } else { refused };
                    answers.steps[index] = vec![said];
                }
                Step::Word(line) => answers.steps[index] = vec![self.word(line)?],
                Step::IpvsConnections => answers.steps[index] = vec![self.ipvs_connections()?],
                Step::Text(tool, text) => {
                    answers.steps[index] = vec![tool.real(&self.node, self.flavour, text)?];
                }
                Step::Spread { count, link, packet } => {
                    answers.steps[index] = vec![self.spread(*count, (packet, link.as_deref()))?];
                }
                Step::Wait(seconds) => std::thread::sleep(Duration::from_secs(*seconds)),
                Step::Forget => self.netlink.forget()?,
                _ => match round.packet_of(case, index, step) {
                    Some(mail) => self.send(round, index, mail)?,
                    None => answers.steps[index] = vec!["skipped".to_owned()],
                },
            }
        }
        self.flush(round, answers)?;
        answers.entries = self.netlink.connections()?;
        Ok(())
    }

    /// Carries out a line of the seam's words by the real heart, in the node.
    fn word(&mut self, line: &str) -> Result<String, String> {
        let (kernel, line) = (self.kernel.clone(), line.to_owned());
        let added = line.strip_prefix("link address ").map(str::to_owned);
        let said = self.node.run(move || -> Result<String, String> {
            let mut kernel = kernel.lock().unwrap_or_else(PoisonError::into_inner);
            let open = match &mut *kernel {
                Some(open) => open,
                closed => closed.insert(Real::open().map_err(|e| e.to_string())?),
            };
            super::word::run(open, &line)
        })?;
        added.into_iter().for_each(|added| self.until_local(&added));
        said
    }

    /// Waits until an address is local. One of IPv6 is only when a worker of the kernel's has been at
    /// it, and that one has others to see to.
    fn until_local(&self, added: &str) {
        let address = added.split(' ').next_back().unwrap_or_default();
        let list = "ip -6 route show table local";
        let wanted = format!("local {address} ");
        for _ in 0..40 {
            let local = self.node.command(list, "").is_ok_and(|text| text.contains(&wanted));
            if local || !address.contains(':') {
                return;
            }
            std::thread::sleep(SETTLED * 5);
        }
    }

    fn ipvs_connections(&self) -> Result<String, String> {
        const FILE: &str = "/proc/thread-self/net/ip_vs_conn";
        let text = self.node.run(|| std::fs::read_to_string(FILE))?;
        let text = text.map_err(|e| format!("{FILE}: {e}"))?;
        Ok(super::entry::ipvs(text.lines().filter_map(super::entry::ipvs_line)))
    }

    fn send(&mut self, round: &mut Round, index: usize, mail: Mail) -> Result<(), String> {
        self.mail(&mail)?;
        round.pending.insert(mail.flow, (index, mail));
        Ok(())
    }

    /// Counts the fates of so many packets, each from a port of its own.
    fn spread(
        &mut self,
        count: usize,
        (packet, link): (&Packet, Option<&str>),
    ) -> Result<String, String> {
        let mut sent = BTreeMap::new();
        for n in 0..count {
            let (flow, link) = (FIRST_FLOW + n, link.map(str::to_owned));
            let mail = Mail { flow, back: false, packet: nth(packet, n), link };
            self.mail(&mail)?;
            sent.insert(flow, (mail.packet, (9, "nothing".to_owned())));
        }
        self.bell.wait()?;
        for (ear, heard) in listen(&self.ears) {
            let Some((packet, known)) = flow_of(&heard).and_then(|f| sent.get_mut(&f)) else {
                continue;
            };
            let fate = fate(ear, &heard, packet);
            if fate.0 < known.0 {
                *known = fate;
            }
        }
        let mut tally = Tally::default();
        sent.values().for_each(|(_, (_, fate))| tally.add(fate, 1.0));
        Ok(tally.text())
    }

    fn mail(&mut self, mail: &Mail) -> Result<(), String> {
        let bytes = build(&mail.packet, mail.numbers());
        let from = match &mail.link {
            None => 0,
            Some(name) => {
                1 + LINKS.iter().position(|l| l == name).ok_or(format!("no link {name}"))?
            }
        };
        let mouth = self.mouths.get_mut(from).ok_or("no such mouth")?;
        mouth.send(mail.packet.dst, &bytes, if from == 0 { mail.packet.mark } else { 0 })
    }

    /// Listens, and says what became of all that was sent since.
    fn flush(&mut self, round: &mut Round, answers: &mut Answers) -> Result<(), String> {
        if round.pending.is_empty() {
            return Ok(());
        }
        let mut fates: BTreeMap<usize, (u8, String)> = BTreeMap::new();
        self.bell.wait()?;
        for (ear, heard) in listen(&self.ears) {
            let Some(flow) = flow_of(&heard) else { continue };
            let Some((index, mail)) = round.pending.get(&flow) else { continue };
            let fate = fate(ear, &heard, &mail.packet);
            if fate.0 == 0 {
                let link = LINKS.get(ear).map(|l| (*l).to_owned());
                round.out.insert(*index, (heard.packet, link));
            }
            let known = fates.entry(*index).or_insert_with(|| fate.clone());
            if fate.0 < known.0 {
                *known = fate;
            }
        }
        for (index, _) in std::mem::take(&mut round.pending).into_values() {
            let fate = fates.remove(&index).map_or("nothing".to_owned(), |(_, fate)| fate);
            answers.steps[index] = vec![fate];
        }
        Ok(())
    }

    /// Takes away all tables and connections of a case.
    fn clean(&mut self, case: &Case) -> Result<(), String> {
        let mut tables = std::collections::BTreeSet::new();
        for command in case
            .steps
            .iter()
            .filter_map(|s| if let Step::Batch(c) = s { Some(c) } else { None })
            .flatten()
        {
            let words: Vec<&str> =
                command.split_whitespace().filter(|w| *w != "exclusive").collect();
            if let ["table", family, name, ..] = words[..] {
                tables.insert(format!("{family} {name}"));
            }
        }
        for table in tables {
            let bytes = Batches::default().batch(&[&format!("delete-table {table}")])?;
            self.netlink.batch(&bytes)?;
        }
        self.netlink.forget()
    }

    /// The tables as `nft` lists them, where there is an `nft`.
    pub fn ruleset(&self) -> String {
        self.node.command("nft list ruleset", "").unwrap_or_default()
    }

    /// How many worlds there are.
    pub fn worlds(&self) -> usize {
        self.worlds.len()
    }
}

struct Round {
    batches: Batches,
    out: BTreeMap<usize, (Packet, Option<String>)>,
    /// By flow: the step and what was sent.
    pending: BTreeMap<usize, (usize, Mail)>,
}

#[derive(Clone, Debug)]
struct Mail {
    flow: usize,
    back: bool,
    packet: Packet,
    link: Option<String>,
}

impl Mail {
    /// Sequence numbers as two peers would use them: NAT and connection tracking find nothing odd.
    fn numbers(&self) -> Numbers {
        let own = (FIRST_TAG + self.flow as u32) << 16 | if self.back { 0x8000 } else { 0 };
        let other = own ^ 0x8000;
        match self.packet.transport {
            Transport::Tcp { flags: bits, .. } => Numbers {
                sequence: if bits & flags::SYN != 0 { own } else { own + 1 },
                answer: if bits & flags::ACK != 0 { other + 1 } else { 0 },
            },
            Transport::Sctp { chunk: 1, .. } => Numbers { sequence: own + 1, answer: 0 },
            Transport::Sctp { .. } => Numbers { sequence: own + 1, answer: other + 1 },
            _ => Numbers { sequence: own, answer: 0 },
        }
    }
}

impl Round {
    fn packet_of(&self, case: &Case, index: usize, step: &Step) -> Option<Mail> {
        match step {
            Step::Send { link, packet, .. } => {
                Some(Mail { flow: index, back: false, packet: packet.clone(), link: link.clone() })
            }
            Step::Reply(of, wanted) => {
                let (seen, link) = self.out.get(of)?;
                let (flow, back) = origin(case, *of)?;
                let mut packet = seen.answer();
                packet.payload = super::wire::payload(&packet);
                wanted.iter().for_each(|bits| set_flags(&mut packet, *bits));
                Some(Mail { flow, back: !back, packet, link: link.clone() })
            }
            Step::Again(of, wanted) if *of < index => {
                let mut mail = self.packet_of(case, *of, case.steps.get(*of)?)?;
                wanted.iter().for_each(|bits| set_flags(&mut mail.packet, *bits));
                Some(mail)
            }
            _ => None,
        }
    }
}

/// The first packet of a step's flow, and whether the step goes the other way.
fn origin(case: &Case, of: usize) -> Option<(usize, bool)> {
    match case.steps.get(of)? {
        Step::Send { .. } => Some((of, false)),
        Step::Reply(earlier, _) if *earlier < of => origin(case, *earlier).map(|(f, b)| (f, !b)),
        Step::Again(earlier, _) if *earlier < of => origin(case, *earlier),
        _ => None,
    }
}

/// The flow of a packet of ours, or of one that answers it, or that quotes it.
fn flow_of(heard: &Heard) -> Option<usize> {
    if let Some(quoted) = &heard.quoted {
        return flow_of(quoted);
    }
    let Numbers { sequence, answer } = heard.numbers;
    let tag = match heard.packet.transport {
        Transport::Tcp { flags: bits, .. } if bits & flags::RST != 0 && sequence == 0 => answer,
        Transport::Icmp { kind, .. } if !matches!(kind, 0 | 8 | 128 | 129) => return None,
        _ => sequence,
    };
    (tag >> 16).checked_sub(FIRST_TAG).map(|flow| flow as usize)
}

/// What a sighting means, and how much it counts: less is more.
fn fate(ear: usize, heard: &Heard, sent: &Packet) -> (u8, String) {
    let is_reset = |p: &Packet| matches!(p.transport, Transport::Tcp { flags: bits, .. } if bits & flags::RST != 0);
    match (&heard.packet.transport, &heard.quoted) {
        (Transport::Icmp { kind, code, .. }, Some(_)) => (1, format!("icmp {kind}/{code}")),
        _ if is_reset(&heard.packet) && !is_reset(sent) => (1, "reset".to_owned()),
        _ => match LINKS.get(ear) {
            Some(link) => (0, format!("leaves {link} {}", ends(&heard.packet))),
            None => (0, format!("delivered {}", ends(&heard.packet))),
        },
    }
}

fn mac(net: usize, end: u8) -> String {
    format!("02:00:00:00:0{net}:0{end}")
}

fn node_lines(extra: &[Line]) -> Result<String, String> {
    let mut text = String::new();
    let fixed = ADDRESSES.iter().map(|l| Line::read(l)).collect::<Result<Vec<_>, _>>()?;
    let routes = ROUTES.iter().map(|l| Line::read(l)).collect::<Result<Vec<_>, _>>()?;
    for (number, name) in LINKS.iter().enumerate() {
        let far = mac(number, 2);
        let _ = writeln!(
            text,
            "neighbour replace 198.18.{number}.2 lladdr {far} dev {name} nud permanent"
        );
        let _ = writeln!(
            text,
            "neighbour replace fd5a:{number}::2 lladdr {far} dev {name} nud permanent"
        );
    }
    for line in fixed.iter().chain(&routes).chain(extra) {
        let _ = match line {
            Line::Address(link, address, prefix) => {
                let nodad = if address.is_ipv6() { " nodad" } else { "" };
                writeln!(text, "address add {address}/{prefix} dev {link}{nodad}")
            }
            Line::Route(network, prefix, gateway, link) => {
                writeln!(text, "route replace {network}/{prefix} via {gateway} dev {link}")
            }
            Line::Sysctl(..) => Ok(()),
        };
    }
    Ok(text)
}

fn far_lines(number: usize) -> String {
    let near = mac(number, 1);
    format!(
        "address add 198.18.{number}.2/24 dev e\n\
         address add fd5a:{number}::2/64 dev e nodad\n\
         link set e up\n\
         neighbour replace 198.18.{number}.1 lladdr {near} dev e nud permanent\n\
         neighbour replace fd5a:{number}::1 lladdr {near} dev e nud permanent\n\
         route add default via 198.18.{number}.1 dev e\n\
         route add default via fd5a:{number}::1 dev e\n"
    )
}

fn sysctl(node: &Namespace, name: &str, value: u32) -> Result<(), String> {
    let paths: &[&str] = match name {
        "ip_forward" => &["net/ipv4/ip_forward"],
        "ipv6_forwarding" => &["net/ipv6/conf/all/forwarding"],
        "route_localnet" => &["net/ipv4/conf/all/route_localnet"],
        "rp_filter" => &["net/ipv4/conf/all/rp_filter"],
        "tcp_loose" => &["net/netfilter/nf_conntrack_tcp_loose"],
        "tcp_be_liberal" => &["net/netfilter/nf_conntrack_tcp_be_liberal"],
        // Of the whole machine: `Case::needs_own_machine`.
        "conntrack_max" => {
            let file = "/proc/sys/net/netfilter/nf_conntrack_max";
            return std::fs::write(file, value.to_string()).map_err(|e| format!("{file}: {e}"));
        }
        other => return Err(format!("no sysctl {other}")),
    };
    for path in paths {
        let file = format!("/proc/sys/{path}");
        node.run(move || {
            std::fs::write(&file, value.to_string()).map_err(|e| format!("{file}: {e}"))
        })??;
    }
    Ok(())
}
