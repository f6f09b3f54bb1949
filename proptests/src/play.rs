//! Plays a history of a cluster and checks every state on the way: a packet whose promise did not
//! change is kept all the time, any other meets the old promise or the new.
//! Must never look at a rule to decide. Tests: `tests/properties.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use kube_proxy::api::decode::Decoder;
use kube_proxy::kernel::{Error, XtablesWriter};
use kube_proxy::model::{Event, Kind, NamespacedName};
use kube_proxy::sync::examine::{Broken, Extent as Verify, Known};
use kube_proxy::sync::{Proxy, Report};
use kube_proxy::verify::{Looked, Verifier};

use crate::cluster::{Cluster, Mode, Setup};
use crate::content::content;
use crate::fate::{Entry, Extent, Packet, Promise, Seen};
use crate::history::{History, Step};
use crate::host::{Marks, ask, journey, ruleset};
use crate::oracle::{Question, entry, promise};
use crate::packets;
use crate::sim_heart::carried_on;
use crate::stage::Stage;
use crate::vectors::ARRIVAL;
use crate::world::{Objects, events, node, options, told};

/// Packets that are watched while a sync runs.
const WATCHED: usize = 80;

type Key = (Kind, String, String);

/// A history being played.
struct Play {
    setup: Setup,
    objects: BTreeMap<Key, Value>,
    stage: Stage,
    writer: XtablesWriter,
    verify: Verify,
    proxy: Proxy,
    decoder: Decoder,
    /// States that may be in the kernel by now: the last one that was synced, and those that were
    /// tried since.
    possible: Vec<(Setup, Cluster)>,
    broken: Arc<Mutex<Vec<String>>>,
    /// A sync has succeeded.
    begun: bool,
    /// Why the last sync failed, if it did.
    failed: Option<String>,
    /// A sync may take several transactions.
    split: bool,
}

/// Plays a history to its end, syncs, and holds what is in the kernel against one sync from
/// nothing. The error is the whole world.
pub fn play(history: &History) -> Result<(), String> {
    let mut play = Play::new(history);
    let outcome = play.all(history);
    outcome.map_err(|why| {
        let steps: String = history.steps.iter().map(|s| format!("  {s}\n")).collect();
        format!(
            "{why}\nworld: {:?}, transactions of at most {} bytes\n{}then:\n{steps}rules:\n{}",
            history.setup,
            history.largest,
            history.objects,
            play.stage.host(|host| ruleset(host)),
        )
    })
}

/// A proxy on a stage; what it finds itself to be wrong is put to the broken promises.
fn proxy(
    stage: &Stage,
    setup: &Setup,
    (verify, broken): (Verify, &Arc<Mutex<Vec<String>>>),
) -> Proxy {
    let proxy = Proxy::new(Box::new(stage.clone()), options(setup));
    if verify == Verify::Off {
        return proxy;
    }
    let (told, kept) = (broken.clone(), broken.clone());
    let add = |list: &Mutex<Vec<String>>, what: String| {
        list.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    };
    let tell = move |looked: &Looked| {
        if looked.refused || looked.unknown > 0 {
            add(&told, format!("the proxy could not look at all of it: {looked:?}"));
        }
    };
    let keep = move |_: Known<'_>, found: &[Broken]| {
        found.iter().for_each(|broken| add(&kept, format!("the proxy itself found: {broken:?}")));
    };
    proxy.examined_by(Box::new(Verifier::new(verify, Box::new(tell), Box::new(keep))))
}

impl Play {
    fn new(history: &History) -> Play {
        let writer = history.writer;
        let stage = Stage::written_by(&history.setup, history.largest, writer);
        let broken = Arc::default();
        let mut play = Play {
            setup: history.setup.clone(),
            objects: BTreeMap::new(),
            proxy: proxy(&stage, &history.setup, (history.verify, &broken)),
            stage,
            writer,
            verify: history.verify,
            decoder: Decoder::new(history.setup.node_name.as_str()),
            possible: Vec::new(),
            broken,
            begun: false,
            failed: None,
            // In ipvs mode one transaction is never all of it.
            split: history.largest != usize::MAX || history.setup.mode == Mode::Ipvs,
        };
        let start = &history.objects;
        for (kind, list) in [
            (Kind::Service, &start.services),
            (Kind::EndpointSlice, &start.slices),
            (Kind::ServiceCidr, &start.service_cidrs),
        ] {
            play.objects.extend(list.iter().map(|object| (key(kind, object), object.clone())));
        }
        play
    }

    fn all(&mut self, history: &History) -> Result<(), String> {
        self.tell_all();
        self.sync()?;
        for step in &history.steps {
            self.step(step).map_err(|why| format!("at step: {step}\n{why}"))?;
        }
        self.stage.with(|layers| layers.heal());
        self.settle()?;
        self.idle()?;
        self.same_as_from_nothing()
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Put(kind, object) => {
                self.objects.insert(key(*kind, object), object.clone());
                self.feed(told(*kind, object, &mut Decoder::new(self.setup.node_name.as_str())));
            }
            Step::Gone(kind, namespace, name) => {
                let key = (*kind, namespace.clone(), name.clone());
                if self.objects.remove(&key).is_some() {
                    let name = NamespacedName::new(namespace.as_str(), name.as_str());
                    self.feed(vec![gone(*kind, name)]);
                }
            }
            Step::Zone(zone) => {
                self.setup.zone = (*zone).to_owned();
                let told = told(Kind::Node, &node(&self.setup), &mut self.decoder);
                self.feed(told);
            }
            Step::Sync => self.sync()?,
            Step::Tidy => self.tidy()?,
            Step::Faults(fates) => self.stage.with(|l| l.schedule(fates.iter().copied())),
            Step::Restart => {
                self.proxy = proxy(&self.stage, &self.setup, (self.verify, &self.broken));
                self.decoder = Decoder::new(self.setup.node_name.as_str());
                self.tell_all();
                self.sync()?;
            }
        }
        Ok(())
    }

    fn feed(&mut self, events: Vec<Event>) {
        events.into_iter().for_each(|event| self.proxy.feed(event));
    }

    fn tell_all(&mut self) {
        let objects = self.current();
        let events = events(&self.setup, &objects, &mut self.decoder);
        self.feed(events);
    }

    fn current(&self) -> Objects {
        let of = |wanted: Kind| {
            let all = self.objects.iter();
            all.filter(|((kind, ..), _)| *kind == wanted).map(|(_, o)| o.clone()).collect()
        };
        Objects {
            services: of(Kind::Service),
            slices: of(Kind::EndpointSlice),
            service_cidrs: of(Kind::ServiceCidr),
        }
    }

    /// One sync, with every state on the way looked at.
    fn sync(&mut self) -> Result<(), String> {
        self.possible.push((self.setup.clone(), self.current().cluster()));
        self.watch();
        let outcome = self.proxy.sync();
        self.failed = outcome.as_ref().err().map(ToString::to_string);
        if outcome.is_ok() {
            self.begun = true;
            self.possible.drain(..self.possible.len() - 1);
        }
        self.looked(&outcome)
    }

    /// A quiet moment, looked at in the same way. Nothing that counts may change.
    fn tidy(&mut self) -> Result<(), String> {
        self.watch();
        let outcome = self.proxy.tidy();
        self.looked(&outcome)
    }

    fn looked(&mut self, outcome: &Result<Report, Error>) -> Result<(), String> {
        self.stage.look_away();
        let broken =
            std::mem::take(&mut *self.broken.lock().unwrap_or_else(PoisonError::into_inner));
        match broken.first() {
            Some(first) => Err(format!("during a sync ({outcome:?}): {first}")),
            None => Ok(()),
        }
    }

    /// A kernel that fails no more is brought up to date by the next sync and tidied after it;
    /// what stood in for a table that was replaced goes with the sync after that.
    fn settle(&mut self) -> Result<(), String> {
        self.sync()?;
        if self.possible.len() > 1 {
            let said = self.failed.as_deref().unwrap_or("nobody knows why");
            return Err(format!("the first sync after the last fault fails: {said}"));
        }
        self.tidy()?;
        if self.proxy.has_changes() { self.sync() } else { Ok(()) }
    }

    fn watch(&self) {
        // Before the first sync there is nothing to keep. In userspace mode a process takes its ports with it.
        if !self.begun || self.setup.mode == Mode::Userspace {
            return;
        }
        let mut watched = watched(&self.possible);
        if self.split {
            // Of several changes some come with one transaction and some with another; but what
            // did not change may not notice.
            watched.retain(|(packet, promises)| {
                promises.len() == 1 && untouched(&self.possible, packet)
            });
        }
        let broken = self.broken.clone();
        let (mode, marks) = (self.setup.mode, Marks::foreign(&self.setup));
        self.stage.watch(move |host| {
            for (packet, promises) in &watched {
                if let Err(why) = met(host, (mode, marks), (packet, promises)) {
                    let journey = journey(host, packet);
                    broken
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(format!("{packet}: {why}\n{journey}"));
                }
            }
        });
    }

    /// A second sync has nothing to say to the kernel and nothing to ask it.
    fn idle(&mut self) -> Result<(), String> {
        self.stage.with(|layers| layers.inner().take());
        self.proxy.sync().map_err(|e| format!("second sync: {e}"))?;
        let said = self.stage.with(|layers| layers.inner().take());
        match said.first() {
            None => Ok(()),
            Some(first) => {
                Err(format!("a second sync says {} things to the kernel: {first:?}", said.len()))
            }
        }
    }

    /// In userspace mode ports are those that were free: packets end where they end on another node.
    fn carries_as(&self, fresh: &Stage) -> Result<(), String> {
        let all = packets::all(&self.setup, &self.current().cluster());
        let step = all.len().div_ceil(WATCHED).max(1);
        let carried = |stage: &Stage, packet: &Packet| {
            let seen = stage.host(|host| ask(host, packet, Marks::foreign(&self.setup)))?;
            Ok::<_, String>(carried_on(|at| stage.relayed(packet.protocol, at), seen.outcomes))
        };
        for packet in all.iter().step_by(step) {
            let (here, there) = (carried(&self.stage, packet)?, carried(fresh, packet)?);
            if here != there {
                return Err(format!("{packet}: {here:?}, from nothing {there:?}"));
            }
        }
        Ok(())
    }

    fn same_as_from_nothing(&self) -> Result<(), String> {
        let fresh = Stage::written_by(&self.setup, usize::MAX, self.writer);
        crate::world::synced(Box::new(fresh.clone()), &self.setup, &self.current())?;
        if self.setup.mode == Mode::Userspace {
            return self.carries_as(&fresh);
        }
        let (here, there) = (self.stage.host(|h| content(h)), fresh.host(|h| content(h)));
        if here == there {
            return Ok(());
        }
        let only = |a: &BTreeSet<String>, b: &BTreeSet<String>, sign: &str| {
            a.difference(b).map(|line| format!("  {sign} {line}\n")).collect::<String>()
        };
        Err(format!(
            "not the same as one sync from nothing (- should be, + should not be):\n{}{}",
            only(&there, &here, "-"),
            only(&here, &there, "+"),
        ))
    }
}

fn key(kind: Kind, object: &Value) -> Key {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (kind, text("namespace"), text("name"))
}

fn gone(kind: Kind, name: NamespacedName) -> Event {
    match kind {
        Kind::Service => Event::ServiceGone(name),
        Kind::EndpointSlice => Event::SliceGone(name),
        Kind::Node => Event::NodeGone,
        Kind::ServiceCidr => Event::ServiceCidrGone(name),
    }
}

/// Packets with the promises they may meet.
fn watched(possible: &[(Setup, Cluster)]) -> Vec<(Packet, Vec<Promise>)> {
    let all: BTreeSet<Packet> =
        possible.iter().flat_map(|(setup, cluster)| packets::all(setup, cluster)).collect();
    // Who sends from an address that the node has in some of these states is not asked.
    let all: Vec<Packet> = all.into_iter().filter(|packet| enters(possible, packet)).collect();
    let step = all.len().div_ceil(WATCHED).max(1);
    all.into_iter()
        .step_by(step)
        .map(|packet| {
            let mut promises: Vec<Promise> = Vec::new();
            for (setup, cluster) in possible {
                let promise = promise(cluster, setup, &packet);
                if !promises.contains(&promise) {
                    promises.push(promise);
                }
            }
            (packet, promises)
        })
        .collect()
}

/// Whether a packet gets onto the node in the same way in all of these states.
fn enters(possible: &[(Setup, Cluster)], packet: &Packet) -> bool {
    possible.iter().all(|(setup, cluster)| {
        let own = entry(cluster, setup, packet.source, ARRIVAL) == Entry::Node;
        own == (packet.entry == Entry::Node)
    })
}

/// Whether the Service that a packet is for is the same in all of these states.
fn untouched(possible: &[(Setup, Cluster)], packet: &Packet) -> bool {
    let mut owners = possible.iter().map(|(setup, cluster)| {
        let claim = Question { cluster, setup, packet }.claim()?;
        let (_, namespace, name) = &claim.service.seniority;
        let endpoints = cluster.endpoints.iter();
        let own: Vec<_> =
            endpoints.filter(|e| e.service.0 == *namespace && e.service.1 == *name).collect();
        Some(format!("{} {:?} {own:?}", setup.zone, claim.service))
    });
    let first = owners.next().flatten();
    first.is_some() && owners.all(|owner| owner == first)
}

/// Whether what becomes of a packet is what one of the promises says, outcome by outcome; in full
/// where there is only one.
fn met(
    host: &mut sim::Host,
    (mode, marks): (Mode, Marks),
    (packet, promises): (&Packet, &[Promise]),
) -> Result<(), String> {
    let mut seen = ask(host, packet, marks)?;
    if mode == Mode::Ipvs {
        // IPVS takes turns: one packet shows one endpoint.
        seen.extent = Extent::Samples;
    }
    if let [only] = promises {
        return seen.keeps(only);
    }
    for (outcome, probability) in &seen.outcomes {
        let one = Seen {
            outcomes: vec![(outcome.clone(), *probability)],
            extent: Extent::Samples,
            journey: String::new(),
        };
        let allowed = promises.iter().any(|promise| one.keeps(promise).is_ok());
        if !allowed {
            let all: Vec<String> = promises.iter().map(Promise::to_string).collect();
            return Err(format!("seen: {outcome}; promised: {}", all.join(", or ")));
        }
    }
    Ok(())
}
