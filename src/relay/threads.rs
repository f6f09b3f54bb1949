//! The relay as a whole: its threads, its listening ports, and what they are told.
//!
//! TCP has a thread for each core, UDP one. The threads live in the network namespace of the thread
//! that starts them. It must never decide where a connection goes. Tests: `threads_tests.rs`, `netlab`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::board::{Board, Watched};
use super::linux::{self, Bell, Linux, Opened};
use super::linux_udp::{self, LinuxUdp, Udp};
use super::pool::{Group, Limits, Pool, Serving, Shared};
use super::ports::Ports;
use super::share::Loads;
use super::sockets::{Sockets, Trouble};
use super::udp::{self, UdpWorker};
use super::worker::{self, Worker};

/// The most threads for TCP.
const MOST_THREADS: usize = 8;

/// What a relay is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How much is carried at once.
    pub limits: Limits,
    /// Local ports to listen at; `None` is any free one.
    pub ports: Option<RangeInclusive<u16>>,
    /// How long a UDP flow is kept after its last datagram.
    pub udp_timeout: Duration,
}

/// The transport of a listening port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A thread that carries, and how it is spoken to.
struct Thread<C> {
    commands: Sender<C>,
    bell: Bell,
    join: Option<JoinHandle<()>>,
}

impl<C> Thread<C> {
    fn tell(&self, command: C) {
        // A thread that has ended listens to nobody, and has nothing open.
        let _ = self.commands.send(command);
        self.bell.ring();
    }

    fn join(&mut self) {
        if let Some(join) = self.join.take() {
            // A thread that panicked has closed its sockets with its stack, and was told of.
            let _ = join.join();
        }
    }
}

/// A port that is listened at.
#[derive(Debug)]
struct Open {
    id: u64,
    at: SocketAddr,
    transport: Transport,
    pool: Arc<Pool>,
}

/// Connections carried by this process. `K` names a listening port.
pub struct Relay<K> {
    shared: Arc<Shared>,
    tcp: Vec<Thread<worker::Command<Linux>>>,
    udp: Thread<udp::Command<LinuxUdp>>,
    ports: BTreeMap<(Transport, bool), Ports>,
    range: Option<RangeInclusive<u16>>,
    open: BTreeMap<K, Open>,
    /// By their names; one goes with the last that uses it.
    groups: BTreeMap<String, Weak<AtomicU64>>,
    board: Board<K>,
    next: u64,
}

impl<K: std::fmt::Debug> std::fmt::Debug for Relay<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("open", &self.open).finish_non_exhaustive()
    }
}

impl<K: Ord + Clone + std::fmt::Display> Relay<K> {
    /// Starts the threads, in the network namespace of the one that calls.
    pub fn start(settings: &Settings, board: Board<K>) -> Result<Relay<K>, Trouble> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Relay::sharing(&Loads::new(cores.min(MOST_THREADS)), settings, board)
    }

    /// With a TCP thread for each of these loads.
    pub(super) fn sharing(
        loads: &Loads,
        settings: &Settings,
        board: Board<K>,
    ) -> Result<Relay<K>, Trouble> {
        let shared = Arc::new(Shared::new(settings.limits));
        let watched = board.starts(shared.clone());
        let tcp = start_tcp(loads, &shared, &watched)?;
        let udp = start_udp(settings.udp_timeout, watched.clone())?;
        let (ports, range) = (BTreeMap::new(), settings.ports.clone());
        let (open, groups) = (BTreeMap::new(), BTreeMap::new());
        Ok(Relay { shared, tcp, udp, ports, range, open, groups, board, next: 0 })
    }

    /// Serves a listening port from now on, and opens it if it is not open; gives the port. Those of
    /// one group share a limit.
    pub fn serve(
        &mut self,
        (key, group): (K, &str),
        (transport, at): (Transport, SocketAddr),
        serving: &Serving,
    ) -> Result<u16, Trouble> {
        if let Some(open) = self.open.get(&key) {
            open.pool.serve(serving);
            if open.transport == Transport::Udp {
                self.udp.tell(udp::Command::Changed(open.id));
            }
            return Ok(open.at.port());
        }
        if !self.shared.has_room_for_a_port() {
            return Err(Trouble::Exhausted);
        }
        let name = (key.to_string(), self.group(group));
        let pool = Arc::new(Pool::new(name, self.shared.clone(), serving));
        self.next += 1;
        let id = self.next;
        let port = match transport {
            Transport::Tcp => {
                let (listener, port) = self.find(transport, at, |at| {
                    let socket = linux::listen(at)?;
                    let port = linux::port_of(&socket)?;
                    Ok((socket, port))
                })?;
                self.listen_tcp(id, &listener, &pool);
                port
            }
            Transport::Udp => {
                let (listener, port): (Arc<Udp>, u16) = self.find(transport, at, |at| {
                    let socket = linux_udp::listen(at)?;
                    let port = linux::port_of(socket.fd())?;
                    Ok((socket, port))
                })?;
                self.udp.tell(udp::Command::Listen(id, listener, pool.clone()));
                port
            }
        };
        let at = SocketAddr::new(at.ip(), port);
        self.shared.listens();
        self.board.opened(key.clone(), pool.clone());
        self.open.insert(key, Open { id, at, transport, pool });
        Ok(port)
    }

    fn group(&mut self, name: &str) -> Group {
        // Seldom, since it looks at all of them.
        if self.groups.len() > 2 * self.open.len() + 64 {
            self.groups.retain(|_, group| group.strong_count() > 0);
        }
        if let Some(group) = self.groups.get(name).and_then(Weak::upgrade) {
            return Group(group);
        }
        let group = Group::default();
        self.groups.insert(name.to_owned(), Arc::downgrade(&group.0));
        group
    }

    fn listen_tcp(&self, id: u64, listener: &Arc<OwnedFd>, pool: &Arc<Pool>) {
        for thread in &self.tcp {
            thread.tell(worker::Command::Listen(id, listener.clone(), pool.clone()));
        }
    }

    /// Tries ports until one can be had.
    fn find<T>(
        &mut self,
        transport: Transport,
        at: SocketAddr,
        open: impl Fn(SocketAddr) -> Result<(T, u16), Trouble>,
    ) -> Result<(T, u16), Trouble> {
        let range = || Ports::new(self.range.clone());
        let ports = self.ports.entry((transport, at.is_ipv4())).or_insert_with(range);
        let mut last = Trouble::Exhausted;
        for port in ports.candidates() {
            match open(SocketAddr::new(at.ip(), port)) {
                Ok((socket, port)) => {
                    ports.take(port);
                    return Ok((socket, port));
                }
                // Without descriptors no other port can be had either.
                Err(Trouble::Exhausted) => return Err(Trouble::Exhausted),
                Err(trouble) => last = trouble,
            }
        }
        Err(last)
    }

    /// Listens there no more. Open connections go on; UDP flows end.
    pub fn stop(&mut self, key: &K) {
        let Some(open) = self.open.remove(key) else { return };
        self.board.stopped(key);
        self.shared.listens_no_more();
        if let Some(ports) = self.ports.get_mut(&(open.transport, open.at.is_ipv4())) {
            ports.free(open.at.port());
        }
        match open.transport {
            Transport::Tcp => {
                self.tcp.iter().for_each(|t| t.tell(worker::Command::Unlisten(open.id)));
            }
            Transport::Udp => self.udp.tell(udp::Command::Unlisten(open.id)),
        }
    }

    /// The port of a name, if it is open.
    pub fn port(&self, key: &K) -> Option<u16> {
        self.open.get(key).map(|open| open.at.port())
    }

    /// Accepts no more, waits for open TCP connections to end, and breaks off those that have not
    /// after `patience`. Gives how many those were.
    pub fn drain(self, patience: Duration) -> u64 {
        self.tcp.iter().for_each(|thread| thread.tell(worker::Command::Drain));
        self.udp.tell(udp::Command::Stop);
        let end = Instant::now() + patience;
        let finished =
            |thread: &Thread<_>| thread.join.as_ref().is_none_or(JoinHandle::is_finished);
        while Instant::now() < end && !self.tcp.iter().all(finished) {
            std::thread::sleep(Duration::from_millis(20).min(patience));
        }
        self.shared.counters.figures().open
        // Dropped here, which ends the threads and what they still have.
    }
}

impl<K> Drop for Relay<K> {
    fn drop(&mut self) {
        self.tcp.iter().for_each(|thread| thread.tell(worker::Command::Stop));
        self.udp.tell(udp::Command::Stop);
        self.tcp.iter_mut().for_each(Thread::join);
        self.udp.join();
    }
}

/// How threads speak to each other.
type Peers = Arc<[(Sender<worker::Command<Linux>>, Bell)]>;

fn start_tcp(
    loads: &Loads,
    shared: &Arc<Shared>,
    watched: &Watched,
) -> Result<Vec<Thread<worker::Command<Linux>>>, Trouble> {
    let (mut peers, mut bodies) = (Vec::new(), Vec::new());
    for number in 0..loads.threads() {
        let (opened, bell) = Opened::open()?;
        let (commands, received) = channel();
        peers.push((commands, bell));
        bodies.push((opened, received, loads.desk(number)));
    }
    let peers: Peers = peers.into();
    let start = |(number, (opened, received, desk)): (usize, (Opened, _, _))| {
        let (shared, known) = (shared.clone(), peers.clone());
        let body =
            move || run_tcp(Worker::new(Linux::new(opened), shared, desk), &received, &known);
        let join = watched.spawn(&format!("relay-{number}"), body)?;
        let (commands, bell) = &peers[number];
        Ok(Thread { commands: commands.clone(), bell: bell.clone(), join: Some(join) })
    };
    bodies.into_iter().enumerate().map(start).collect()
}

fn start_udp(
    timeout: Duration,
    watched: Watched,
) -> Result<Thread<udp::Command<LinuxUdp>>, Trouble> {
    let (opened, bell) = Opened::open()?;
    let (commands, received) = channel();
    let body = move || run_udp(UdpWorker::new(LinuxUdp::new(opened), timeout), &received);
    let join = watched.spawn("relay-udp", body)?;
    Ok(Thread { commands, bell, join: Some(join) })
}

fn run_tcp(
    mut worker: Worker<Linux>,
    commands: &Receiver<worker::Command<Linux>>,
    peers: &Peers,
) -> Result<(), Trouble> {
    let begun = Instant::now();
    let mut happened = Vec::new();
    while !worker.is_finished() {
        let patience = worker.patience(begun.elapsed());
        happened.clear();
        worker.sockets.wait(&mut happened, patience)?;
        if happened.iter().any(|event| event.token == linux::WOKEN) {
            let now = begun.elapsed();
            commands.try_iter().for_each(|command| worker.obey(command, now));
        }
        worker.turn(&happened, begun.elapsed());
        for (number, client) in worker.take_given() {
            let (commands, bell) = &peers[number];
            match commands.send(worker::Command::Have(client)) {
                Ok(()) => bell.ring(),
                // That thread has ended: all are to end.
                Err(back) => worker.obey(back.0, begun.elapsed()),
            }
        }
    }
    Ok(())
}

fn run_udp(
    mut worker: UdpWorker<LinuxUdp>,
    commands: &Receiver<udp::Command<LinuxUdp>>,
) -> Result<(), Trouble> {
    use super::datagrams::Datagrams;
    let begun = Instant::now();
    let mut happened = Vec::new();
    while !worker.is_finished() {
        let patience = worker.patience(begun.elapsed());
        happened.clear();
        worker.sockets().wait(&mut happened, patience)?;
        if happened.iter().any(|event| event.token == linux::WOKEN) {
            commands.try_iter().for_each(|command| worker.obey(command));
        }
        worker.turn(&happened, begun.elapsed());
    }
    Ok(())
}
