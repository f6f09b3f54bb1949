//! The loop around a `Proxy`: takes events, syncs when the schedule says so, keeps house.
//!
//! It reads the clock and waits; what it sees it tells an `Observer`, and it decides nothing that
//! `schedule` or `Proxy` could. Runs on a thread of its own, since the kernel's answers are waited
//! for. Tests: `schedule` (when), `proptests` (what), `netlab` (all of it).

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::flows::{Done, Forgetter};
use super::schedule::Schedule;
use super::{Options, Proxy, Report};
use crate::kernel::Error;
use crate::kernel::drift::Foreign;
use crate::model::{Event, Node};

/// Events taken in before a sync that is due begins.
const DRAIN: usize = 16_384;

/// When what a sync left to do is gone on with.
const REST: Duration = Duration::from_secs(1);

/// Who is told what the loop does.
pub trait Observer {
    /// An event came in, and is about to be fed.
    fn event(&mut self, event: &Event);
    /// Events have been fed; whether they change what is to be programmed is said by `queued`.
    fn fed(&mut self, proxy: &Proxy);
    /// Something waits to be programmed.
    fn queued(&mut self);
    /// A sync begins.
    fn begun(&mut self);
    /// House could not be kept.
    fn house_failed(&mut self, error: &Error);
    /// A sync has ended.
    fn ended(&mut self, proxy: &mut Proxy, sync: &Ended);
    /// So many stale flows were forgotten after it, or why they could not be.
    fn forgot(&mut self, flows: &Result<usize, Error>, took: Duration);
}

/// A sync that has ended.
#[derive(Debug)]
pub struct Ended {
    /// What it did, or why it failed.
    pub outcome: Result<Report, Error>,
    /// How long it took.
    pub took: Duration,
    /// Whether everything was programmed, not only what had changed.
    pub full: bool,
}

/// How long what others do is gathered before it is looked at.
const GATHER: Duration = Duration::from_millis(50);

/// Between two parts of a look.
const PART: Duration = Duration::from_millis(200);

/// Of this many parts of the time one may go into looking at what others did.
const LOOKS: u32 = 10;

/// How the loop is to behave.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Shortest gap between syncs after changes.
    pub min_sync_period: Duration,
    /// How often house is kept, and the longest wait for a retry.
    pub sync_period: Duration,
    /// How long to wait for this node's own object, and what of it; `None`: go on without it.
    pub wait_for_node: Option<Wait>,
}

/// A wait before the first sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// How long at most; then the loop ends.
    pub patience: Duration,
    /// What of the Node has to be known.
    pub until: Until,
}

/// What of a Node has to be known (`pkg/proxy/node.go`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Its object.
    Object,
    /// Its `spec.podCIDRs`.
    PodCidrs,
}

impl Until {
    fn is_met(self, node: Option<&Node>) -> bool {
        match self {
            Until::Object => node.is_some(),
            Until::PodCidrs => node.is_some_and(|node| !node.pod_cidrs.is_empty()),
        }
    }
}

/// Something that is asked of the loop while it runs; done between two syncs.
pub enum Request {
    /// Looks at the proxy.
    Look(Box<dyn FnOnce(&Proxy) + Send>),
    /// Goes by another pace from now on.
    Pace(Pace),
    /// Makes the options in another way from now on.
    Resolve(Resolve),
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Request::Look(_) => "Look",
            Request::Pace(_) => "Pace",
            Request::Resolve(_) => "Resolve",
        })
    }
}

/// Why the loop ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It was told to.
    Stopped,
    /// Nobody sends events any more.
    NoSource,
    /// There is no object of this node.
    NoNode,
    /// This node's object has no pod CIDRs, by which local traffic was to be told.
    NoPodCidrs,
}

/// Options, given this node's object as far as it is known.
pub type Resolve = Box<dyn Fn(Option<&Node>) -> Options + Send>;

/// The loop.
pub struct Loop<O> {
    proxy: Proxy,
    events: mpsc::Receiver<Event>,
    /// What others do in the kernel.
    foreign: Option<mpsc::Receiver<Foreign>>,
    requests: mpsc::Receiver<Request>,
    /// Who forgets stale flows while the loop goes on; without, it is done between two syncs.
    forgetter: Option<Forgetter>,
    observer: O,
    options: Resolve,
    pace: Pace,
    schedule: Schedule,
    start: Instant,
    synced_once: bool,
    /// House was to be kept while a sync was wanted.
    house_waits: bool,
    /// When what others did is looked at, and before when it must not be.
    look: Option<Instant>,
    no_look_before: Instant,
}

impl<O> std::fmt::Debug for Loop<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loop").field("pace", &self.pace).finish_non_exhaustive()
    }
}

impl<O: Observer> Loop<O> {
    /// A loop around `proxy`, whose options may depend on this node's object.
    pub fn new(
        proxy: Proxy,
        (events, observer): (mpsc::Receiver<Event>, O),
        options: Resolve,
        pace: Pace,
    ) -> Loop<O> {
        Loop {
            proxy,
            events,
            foreign: None,
            requests: mpsc::channel(1).1,
            forgetter: None,
            observer,
            options,
            schedule: Schedule::new(pace.min_sync_period, pace.sync_period),
            pace,
            start: Instant::now(),
            synced_once: false,
            house_waits: false,
            look: None,
            no_look_before: Instant::now(),
        }
    }

    /// Hears of what others do in the kernel; without, it is looked now and then.
    pub fn hear(self, foreign: mpsc::Receiver<Foreign>) -> Loop<O> {
        Loop { foreign: Some(foreign), ..self }
    }

    /// Has stale flows forgotten by this thread.
    pub fn forgetting(self, forgetter: Forgetter) -> Loop<O> {
        Loop { forgetter: Some(forgetter), ..self }
    }

    /// Does what is asked over this channel, too.
    pub fn answering(self, requests: mpsc::Receiver<Request>) -> Loop<O> {
        Loop { requests, ..self }
    }

    /// Runs until told to stop. What is in the kernel stays there.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> Gone {
        let mut house = rounds(&self.pace);
        let mut batch = Vec::new();
        loop {
            let due = self.schedule.due().map(|due| self.start + due);
            let wait = tokio::time::sleep_until(due.unwrap_or_else(far).into());
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => {
                    if let Err(error) = self.proxy.farewell() {
                        tracing::warn!(%error, "open connections are broken off");
                    }
                    return Gone::Stopped;
                }
                () = wait, if due.is_some() => {
                    self.drain();
                    if let Err(gone) = self.sync() { return gone; }
                }
                () = at(self.look) => self.look_closer(),
                heard = next(&mut self.foreign) => self.suspect(&heard),
                done = end_of(&mut self.forgetter) => self.forgot(done),
                _ = house.tick() => self.keep_house(),
                Some(request) = self.requests.recv() => {
                    if self.carry_out(request) { house = rounds(&self.pace); }
                }
                taken = self.events.recv_many(&mut batch, DRAIN) => {
                    if taken == 0 { return Gone::NoSource; }
                    batch.drain(..).for_each(|event| self.feed(event));
                    self.observer.fed(&self.proxy);
                    self.want_if_changed();
                }
            }
        }
    }

    fn suspect(&mut self, foreign: &Foreign) {
        if !self.synced_once {
            return;
        }
        if let Err(error) = self.proxy.suspect(foreign) {
            tracing::warn!(%error, "the kernel cannot be looked at; the next sync reads it anew");
            self.proxy.distrust_kernel();
        }
        if self.proxy.is_suspicious() {
            let soon = (Instant::now() + GATHER).max(self.no_look_before);
            self.look.get_or_insert(soon);
        }
        self.want_if_changed();
    }

    /// A look may take long where there is much, and others may do much that harms nobody.
    fn look_closer(&mut self) {
        self.look = None;
        let begun = Instant::now();
        let looked = self.proxy.look_closer().and_then(|()| self.proxy.look_on());
        if let Err(error) = looked {
            tracing::warn!(%error, "the kernel cannot be looked at; the next sync reads it anew");
            self.proxy.distrust_kernel();
        }
        self.no_look_before = Instant::now() + begun.elapsed() * (LOOKS - 1);
        self.look_on_later();
        self.want_if_changed();
    }

    /// What is left to be looked at waits for a moment in which nothing else does.
    fn look_on_later(&mut self) {
        if self.proxy.looks_on() {
            let later = (Instant::now() + PART).max(self.no_look_before);
            self.look.get_or_insert(later);
        }
    }

    fn feed(&mut self, event: Event) {
        self.observer.event(&event);
        self.proxy.feed(event);
    }

    /// Takes in what has come meanwhile, so that one sync serves all of it.
    fn drain(&mut self) {
        for _ in 0..DRAIN {
            match self.events.try_recv() {
                Ok(event) => self.feed(event),
                Err(_) => return,
            }
        }
    }

    fn want_if_changed(&mut self) {
        if self.proxy.ready() && self.proxy.has_changes() {
            self.observer.queued();
            self.schedule.want(self.start.elapsed());
        }
    }

    /// Does what is asked; says whether the pace is another now.
    fn carry_out(&mut self, request: Request) -> bool {
        match request {
            Request::Look(look) => look(&self.proxy),
            Request::Pace(pace) => {
                self.pace = pace;
                self.schedule.set_periods(pace.min_sync_period, pace.sync_period);
                return true;
            }
            Request::Resolve(options) => {
                self.options = options;
                self.proxy.set_options((self.options)(self.proxy.cluster().node()));
                self.want_if_changed();
            }
        }
        false
    }

    /// Whether what was to be waited for is there; an error once it was waited for too long.
    fn may_begin(&mut self) -> Result<bool, Gone> {
        let node = self.proxy.cluster().node();
        let Some(wait) = self.pace.wait_for_node.filter(|wait| !wait.until.is_met(node)) else {
            return Ok(true);
        };
        if self.synced_once {
            return Ok(true);
        }
        let known = node.is_some();
        self.schedule.begin();
        if self.start.elapsed() > wait.patience {
            return Err(if known { Gone::NoPodCidrs } else { Gone::NoNode });
        }
        self.schedule.want(self.start.elapsed() + Duration::from_millis(500));
        Ok(false)
    }

    /// An error is why the loop ends.
    fn sync(&mut self) -> Result<(), Gone> {
        if !self.may_begin()? {
            return Ok(());
        }
        let options = (self.options)(self.proxy.cluster().node());
        self.proxy.set_options(options);
        self.schedule.begin();
        self.observer.begun();
        let begun = Instant::now();
        let full = self.proxy.is_unsynced();
        let outcome = self.proxy.sync_rules();
        let now = self.start.elapsed();
        match outcome {
            Ok(_) => self.schedule.succeeded(now),
            Err(_) => self.schedule.failed(now),
        }
        let first = outcome.is_ok() && !std::mem::replace(&mut self.synced_once, true);
        if first {
            self.leave_other_modes();
        }
        let ended = Ended { outcome, took: begun.elapsed(), full };
        self.observer.ended(&mut self.proxy, &ended);
        self.forget_flows();
        if ended.outcome.is_ok() && self.proxy.has_changes() {
            self.schedule.want(self.start.elapsed() + REST);
        }
        // Where there is always something to sync there would never be a better moment.
        if self.house_waits {
            self.keep_house();
        }
        Ok(())
    }

    /// Only now that this mode serves every Service may what another one left go.
    fn leave_other_modes(&mut self) {
        match self.proxy.leave_only_this_mode() {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "removed what another proxy mode had left"),
            Err(error) => {
                tracing::warn!(%error, "rules of another proxy mode stay; --cleanup removes them")
            }
        }
    }

    /// Only now: the rules do not wait for the kernel to look through all of its flows.
    fn forget_flows(&mut self) {
        match &mut self.forgetter {
            // The end of what is under way begins the next.
            Some(forgetter) if forgetter.is_busy() => {}
            Some(forgetter) => {
                let Some(work) = self.proxy.take_flow_work() else { return };
                if let Err(suspects) = forgetter.give(work) {
                    self.proxy.suspect_flows(suspects);
                    self.forgetter = None;
                    self.forget_flows();
                }
            }
            None if self.proxy.has_stale_flows() => {
                let begun = Instant::now();
                let forgotten = self.proxy.forget_flows();
                self.observer.forgot(&forgotten, begun.elapsed());
            }
            None => {}
        }
    }

    /// Takes in what became of the stale flows.
    fn forgot(&mut self, done: Option<Done>) {
        let Some(done) = done else {
            tracing::warn!(
                "the thread for stale flows died; they are looked for between two syncs"
            );
            self.forgetter = None;
            return;
        };
        self.observer.forgot(&done.outcome, done.took);
        match done.outcome {
            // What is left of a family whose rules are not in waits for the sync that writes them.
            Ok(_) if self.proxy.is_unsynced() => {}
            Ok(_) => self.forget_flows(),
            Err(_) => {
                self.proxy.suspect_flows(done.suspects);
                self.schedule.want(self.start.elapsed() + REST);
            }
        }
    }

    /// Sees to it that the tables are still there, and removes chains that nobody needs.
    fn keep_house(&mut self) {
        self.house_waits = self.synced_once && self.schedule.due().is_some();
        if !self.synced_once || self.house_waits {
            return;
        }
        let kept = self.proxy.check_kernel().and_then(|()| self.proxy.tidy());
        if let Err(error) = kept {
            self.observer.house_failed(&error);
            self.proxy.distrust_kernel();
        }
        self.look_on_later();
        self.want_if_changed();
    }
}

/// The next news; never any from nobody.
async fn next(foreign: &mut Option<mpsc::Receiver<Foreign>>) -> Foreign {
    if let Some(receiver) = foreign {
        if let Some(news) = receiver.recv().await {
            return news;
        }
        *foreign = None;
    }
    std::future::pending().await
}

/// The end of the work under way; never where there is nobody to do it.
async fn end_of(forgetter: &mut Option<Forgetter>) -> Option<Done> {
    match forgetter {
        Some(forgetter) => forgetter.done().await,
        None => std::future::pending().await,
    }
}

/// That moment; never where there is none.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// When house is kept.
fn rounds(pace: &Pace) -> tokio::time::Interval {
    let mut house = tokio::time::interval(pace.sync_period.max(Duration::from_secs(1)));
    house.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    house
}

/// A moment that is never waited for.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}
