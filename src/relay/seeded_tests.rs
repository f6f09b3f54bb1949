//! The relay under any order of events that a seed makes: what is sent arrives, whole and once, and
//! so does how it ended; and nothing is left of those who have left.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::pool::{Announce, Limits, Serving};
use super::simulated::{Handle, Manner};
use super::stage::{PORT, Stage, client, endpoint};
use super::worker::Command;

/// Clients of one play, at most.
const CLIENTS: usize = 8;
/// Bytes in front of what a client says, where its endpoint is told of it.
const HEADER: usize = 28;

/// One thing a test does.
#[derive(Clone, Debug)]
enum Act {
    Connect,
    Send(usize, bool, u8),
    Read(usize, bool),
    Finish(usize, bool),
    Reset(usize, bool),
    Close(usize, bool),
    Manner(u8, u8),
    Pass(u64),
    /// So many descriptors are left, or any number.
    Descriptors(Option<usize>),
    /// So many local ports are left towards an endpoint, or any number.
    Ports(u8, Option<usize>),
    /// The endpoints of these bits are served.
    Serve(u8),
    /// Nobody is accepted for a while.
    Deaf(bool),
}

fn act() -> impl Strategy<Value = Act> {
    let who = || (0..CLIENTS, any::<bool>());
    prop_oneof![
        4 => Just(Act::Connect),
        8 => (who(), 1..200u8).prop_map(|((n, c), l)| Act::Send(n, c, l)),
        8 => who().prop_map(|(n, c)| Act::Read(n, c)),
        2 => who().prop_map(|(n, c)| Act::Finish(n, c)),
        1 => who().prop_map(|(n, c)| Act::Reset(n, c)),
        1 => who().prop_map(|(n, c)| Act::Close(n, c)),
        1 => (1..4u8, 0..4u8).prop_map(|(n, m)| Act::Manner(n, m)),
        2 => (0..700u64).prop_map(Act::Pass),
        1 => prop::option::of(0..6usize).prop_map(Act::Descriptors),
        1 => (1..4u8, prop::option::of(0..2usize)).prop_map(|(n, c)| Act::Ports(n, c)),
        1 => (0..8u8).prop_map(Act::Serve),
        1 => any::<bool>().prop_map(Act::Deaf),
    ]
}

/// What is the same for a whole play.
#[derive(Clone, Debug)]
struct Scene {
    seed: u64,
    announce: bool,
    affinity: bool,
    limits: Limits,
    drains: bool,
}

fn scene() -> impl Strategy<Value = Scene> {
    let limits = (1..12u64, 1..12u64, prop_oneof![Just(4096u64), 12..80u64]);
    let limits = limits.prop_map(|(all, each, descriptors)| Limits { all, each, descriptors });
    (1..u64::MAX, any::<bool>(), any::<bool>(), limits, any::<bool>()).prop_map(
        |(seed, announce, affinity, limits, drains)| Scene {
            seed,
            announce,
            affinity,
            limits,
            drains,
        },
    )
}

/// One side of a connection, as the test plays it.
#[derive(Debug, Default)]
struct Side {
    handle: Option<Handle>,
    sent: Vec<u8>,
    got: Vec<u8>,
    /// It said that no more comes.
    finished: bool,
    /// It broke off, or closed before the other had ended.
    left: bool,
    /// It read the end.
    saw_end: bool,
    saw_reset: bool,
}

/// A client, and the endpoint that it reached.
type Pair = [Side; 2];

struct Play {
    stage: Stage,
    scene: Scene,
    pairs: Vec<Pair>,
    /// Connections that reached an endpoint and are known to be a client's.
    known: usize,
    listens: bool,
    descriptors: usize,
}

impl Play {
    fn new(scene: Scene) -> Play {
        let announce = if scene.announce { Announce::ProxyV2 } else { Announce::Nothing };
        let mut stage = Stage::limited(scene.seed, 3, (announce, scene.limits));
        let descriptors = stage.net.descriptors();
        stage.settle();
        let mut play =
            Play { stage, scene, pairs: Vec::new(), known: 0, listens: true, descriptors };
        play.serve(7);
        play
    }

    fn serve(&mut self, bits: u8) {
        let endpoints = (1..4).filter(|n| bits & (1 << (n - 1)) != 0).map(endpoint).collect();
        let announce = if self.scene.announce { Announce::ProxyV2 } else { Announce::Nothing };
        let affinity = self.scene.affinity.then_some(Duration::from_secs(1));
        self.stage.pool.serve(&Serving { endpoints, affinity, announce });
    }

    fn listen(&mut self, listens: bool) {
        if std::mem::replace(&mut self.listens, listens) != listens {
            let pool = Arc::clone(&self.stage.pool);
            let command = match listens {
                true => Command::Listen(7, PORT, pool),
                false => Command::Unlisten(7),
            };
            self.stage.worker.obey(command, self.stage.now);
        }
    }

    fn act(&mut self, act: &Act) {
        let net = self.stage.net.clone();
        match *act {
            Act::Connect if self.pairs.len() < CLIENTS => {
                let handle = Some(net.client(client(self.pairs.len() as u16), PORT));
                self.pairs.push([Side { handle, ..Side::default() }, Side::default()]);
            }
            Act::Send(n, from, count) => {
                let Some(side) = self.playing(n, from) else { return };
                let start = side.sent.len() as u8;
                let bytes: Vec<u8> = (0..count).map(|n| start.wrapping_add(n)).collect();
                let sent = net.send(side.handle.unwrap(), &bytes);
                side.sent.extend(&bytes[..sent]);
            }
            Act::Read(n, at) => self.read(n, usize::from(at)),
            Act::Finish(n, at) => {
                let Some(side) = self.playing(n, at) else { return };
                side.finished = true;
                net.finish(side.handle.unwrap());
            }
            Act::Reset(n, at) => self.leave(n, usize::from(at), |at| net.reset(at)),
            Act::Close(n, at) => self.leave(n, usize::from(at), |at| net.close(at)),
            Act::Manner(n, manner) => {
                let all = [Manner::Answers, Manner::Refuses, Manner::Silent, Manner::Breaks];
                net.endpoint(endpoint(n), all[usize::from(manner)]);
            }
            Act::Pass(millis) => self.stage.pass(Duration::from_millis(millis)),
            Act::Descriptors(count) => net.leave_descriptors(count),
            Act::Ports(n, count) => net.leave_ports(endpoint(n), count),
            Act::Serve(bits) => self.serve(bits),
            Act::Deaf(deaf) => self.listen(!deaf),
            Act::Connect => {}
        }
    }

    /// A side that may still say something.
    fn playing(&mut self, n: usize, side: bool) -> Option<&mut Side> {
        let side = &mut self.pairs.get_mut(n)?[usize::from(side)];
        (side.handle.is_some() && !side.finished && !side.left).then_some(side)
    }

    fn leave(&mut self, n: usize, at: usize, how: impl Fn(Handle)) {
        let Some(pair) = self.pairs.get_mut(n) else { return };
        let other_left = pair[1 - at].left;
        let Side { handle: Some(handle), left, .. } = &mut pair[at] else { return };
        if !*left {
            *left = true;
            how(*handle);
        }
        // What becomes of who left second is nobody's business.
        pair[at].saw_reset |= other_left;
    }

    fn read(&mut self, n: usize, at: usize) {
        let Some(side) = self.pairs.get_mut(n).map(|pair| &mut pair[at]) else { return };
        let Some(handle) = side.handle.filter(|_| !side.left) else { return };
        let (bytes, trouble, end) = self.stage.net.take(handle);
        side.got.extend(bytes);
        // After a reset it looks like an end.
        side.saw_end |= end && !side.saw_reset;
        side.saw_reset |= trouble.is_some();
    }

    /// Finds out whose the connections are that have reached an endpoint.
    fn match_up(&mut self, pending: Option<usize>) {
        for (_, handle) in self.stage.net.reached().into_iter().skip(self.known) {
            self.known += 1;
            let mut side = Side { handle: Some(handle), ..Side::default() };
            let whose = if self.scene.announce {
                let (header, trouble, end) = self.stage.net.take(handle);
                (side.saw_reset, side.saw_end) = (trouble.is_some(), end);
                side.got = header;
                side.got.get(24..26).map(|port| usize::from(port[1]) + 256 * usize::from(port[0]))
            } else {
                pending.map(|n| n + 1000)
            };
            match whose {
                Some(port) => self.pairs[port - 1000][1] = side,
                None => self.stage.net.reset(handle),
            }
        }
    }

    /// What a side got of what the other said.
    fn arrived(&self, n: usize, at: usize) -> &[u8] {
        let got = &self.pairs[n][at].got;
        match at == 1 && self.scene.announce {
            true => got.get(HEADER..).unwrap_or_default(),
            false => got,
        }
    }

    fn check_order(&self) -> Result<(), TestCaseError> {
        for (n, pair) in self.pairs.iter().enumerate() {
            for at in 0..2 {
                prop_assert!(pair[1 - at].sent.starts_with(self.arrived(n, at)));
            }
        }
        Ok(())
    }

    /// Faults end, and everybody reads until nothing comes any more.
    fn settle_well(&mut self) {
        let net = self.stage.net.clone();
        net.leave_descriptors(None);
        for n in 1..4 {
            net.leave_ports(endpoint(n), None);
        }
        for _ in 0..100 {
            self.match_up(None);
            for n in 0..self.pairs.len() {
                for at in 0..2 {
                    self.read(n, at);
                    self.stage.settle();
                }
            }
            // Who starved is looked after 50 ms later.
            self.stage.pass(Duration::from_millis(50));
        }
    }

    /// Everybody says that no more comes.
    fn end_well(&mut self) {
        if self.scene.drains {
            self.stage.worker.obey(Command::Drain, self.stage.now);
        }
        for n in 0..self.pairs.len() {
            self.act(&Act::Finish(n, false));
            self.act(&Act::Finish(n, true));
        }
        self.settle_well();
    }

    /// Whatever was said has arrived where nobody broke off.
    fn check_arrived(&self) -> Result<(), TestCaseError> {
        for (n, pair) in self.pairs.iter().enumerate().filter(|(_, p)| p[1].handle.is_some()) {
            if pair.iter().all(|side| !side.left) {
                for at in 0..2 {
                    prop_assert_eq!(&*pair[1 - at].sent, self.arrived(n, at));
                    prop_assert_eq!(pair[1 - at].finished, pair[at].saw_end, "{:?}", pair);
                    prop_assert!(!pair[at].saw_reset, "{:?}", pair);
                }
            }
        }
        Ok(())
    }

    fn check_ends(&self) -> Result<(), TestCaseError> {
        for pair in self.pairs.iter().filter(|pair| pair[1].handle.is_some()) {
            let [here, there] = pair;
            // Whoever breaks off: the other hears of an end, if nothing worse.
            for (gone, stays) in [(here, there), (there, here)] {
                if gone.left && !stays.left {
                    prop_assert!(stays.saw_reset || stays.saw_end, "{:?}", pair);
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_doubled_or_leaked(scene in scene(), acts in prop::collection::vec(act(), 1..120)) {
        let mut play = Play::new(scene);
        for act in acts {
            play.act(&act);
            play.stage.settle();
            // Without a header it is known whose a connection is only where it was made at once.
            let made = matches!(act, Act::Connect) && play.stage.net.reached().len() == play.known + 1;
            play.match_up(made.then(|| play.pairs.len() - 1));
            play.check_order()?;
        }
        // No later event may be needed for what was said before.
        play.settle_well();
        play.check_arrived()?;
        play.end_well();
        play.check_order()?;
        play.check_arrived()?;
        play.check_ends()?;
        let net = play.stage.net.clone();
        for handle in play.pairs.iter().flatten().filter_map(|side| side.handle) {
            net.reset(handle);
        }
        net.reached().into_iter().for_each(|(_, there)| net.reset(there));
        play.stage.pass(Duration::from_secs(60));
        play.stage.pass(Duration::from_secs(60));
        let shared = &play.stage.shared;
        prop_assert_eq!((play.stage.worker.open(), net.open_sockets()), (0, 0));
        prop_assert_eq!(shared.counters.figures().open, 0);
        prop_assert_eq!(shared.left(), shared.limits.descriptors);
        prop_assert_eq!(net.descriptors(), play.descriptors);
        prop_assert_eq!(play.stage.worker.is_finished(), play.scene.drains);
    }
}
