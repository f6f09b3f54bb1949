//! Traffic that goes on while something happens: new connections without pause, and connections
//! that are kept. Both remember everything that went wrong and when. Tests: with the scenarios.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::{Conversation, Outcome, ask_tcp, ask_udp};
use crate::manifests::Transport;
use crate::namespace::Namespace;
use crate::sctp;

/// How long a client waits for an answer that must come.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How long a client waits that is to see when an outage ends.
const SHORT_PATIENCE: Duration = Duration::from_millis(200);

/// One attempt of a load.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When it began.
    pub began: Instant,
    /// When its outcome was known.
    pub ended: Instant,
    /// What became of it.
    pub outcome: Outcome,
}

/// New connections, one after the other.
pub struct Load {
    stop: Arc<AtomicBool>,
    made: Arc<Mutex<Vec<Attempt>>>,
    thread: Option<JoinHandle<()>>,
}

/// One attempt by one protocol.
pub fn ask(transport: Transport, to: SocketAddr, patience: Duration) -> Outcome {
    match transport {
        Transport::Tcp => ask_tcp(None, to, patience),
        Transport::Udp => ask_udp(None, to, patience),
        Transport::Sctp => sctp::ask(None, to, patience),
    }
}

impl Load {
    /// Starts asking from a namespace, with a pause between attempts.
    pub fn start(from: &Namespace, transport: Transport, to: SocketAddr, pause: Duration) -> Load {
        Load::patient(from, (transport, to), (pause, PATIENCE))
    }

    /// The same by a client that gives an attempt up soon: one that is caught by an outage must
    /// not hide when it ended.
    pub fn impatient(
        from: &Namespace,
        transport: Transport,
        to: SocketAddr,
        pause: Duration,
    ) -> Load {
        Load::patient(from, (transport, to), (pause, SHORT_PATIENCE))
    }

    fn patient(
        from: &Namespace,
        (transport, to): (Transport, SocketAddr),
        (pause, patience): (Duration, Duration),
    ) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let made = Arc::new(Mutex::new(Vec::new()));
        let (seen, list) = (stop.clone(), made.clone());
        let thread = from.spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                let began = Instant::now();
                let outcome = ask(transport, to, patience);
                let attempt = Attempt { began, ended: Instant::now(), outcome };
                list.lock().unwrap_or_else(|e| e.into_inner()).push(attempt);
                std::thread::sleep(pause);
            }
        });
        Load { stop, made, thread: Some(thread) }
    }

    /// All attempts so far.
    pub fn so_far(&self) -> Vec<Attempt> {
        self.made.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Ends it and gives back all attempts.
    pub fn stop(mut self) -> Vec<Attempt> {
        self.end();
        self.so_far()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

/// How often each pod answered.
pub fn by_pod(attempts: &[Attempt]) -> BTreeMap<String, usize> {
    let mut pods = BTreeMap::new();
    for attempt in attempts {
        if let Outcome::Answered(answer) = &attempt.outcome {
            *pods.entry(answer.pod.clone()).or_default() += 1;
        }
    }
    pods
}

/// The attempts that no pod answered.
pub fn failures(attempts: &[Attempt]) -> Vec<Outcome> {
    let failed = attempts.iter().filter(|a| !matches!(a.outcome, Outcome::Answered(_)));
    failed.map(|a| a.outcome.clone()).collect()
}

/// Connections that are kept and used without pause.
pub struct Talks {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Result<String, String>>>>,
}

impl Talks {
    /// Opens so many connections and talks on each of them every few milliseconds.
    pub fn start(from: &Namespace, to: SocketAddr, count: usize) -> Result<Talks, String> {
        let open = || -> Result<Vec<Conversation>, String> {
            let one = |_| {
                Conversation::open(None, to, PATIENCE)
                    .map_err(|o| format!("no talk to {to}: {o:?}"))
            };
            (0..count).map(one).collect()
        };
        let talks = from.run(open)?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread = std::thread::spawn(move || talk(talks, &seen));
        Ok(Talks { stop, thread: Some(thread) })
    }

    /// Ends them; for each connection the pod, or what broke it.
    pub fn stop(mut self) -> Vec<Result<String, String>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("a talk is stopped once");
        thread.join().unwrap_or_else(|_| vec![Err("the talking thread died".to_owned())])
    }
}

impl Drop for Talks {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn talk(mut talks: Vec<Conversation>, stop: &AtomicBool) -> Vec<Result<String, String>> {
    let mut broken: BTreeMap<usize, String> = BTreeMap::new();
    let mut round = 0usize;
    loop {
        // One more round after the stop: what broke in the last moment is seen as well.
        let last = stop.load(Ordering::Relaxed);
        for (number, conversation) in talks.iter_mut().enumerate() {
            if broken.contains_key(&number) {
                continue;
            }
            if let Err(why) = conversation.say(&format!("round-{round}")) {
                broken.insert(number, why);
            }
        }
        if last {
            break;
        }
        round += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    let result = |(number, talk): (usize, &Conversation)| match broken.get(&number) {
        Some(why) => Err(why.clone()),
        None => Ok(talk.answer.pod.clone()),
    };
    talks.iter().enumerate().map(result).collect()
}
