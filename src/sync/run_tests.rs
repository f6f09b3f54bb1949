//! The loop, with the clock that it has: what must not wait for what.

use std::sync::mpsc as plain;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::flows::Forgetter;
use super::run::{Ended, Loop, Observer, Pace};
use super::tests::{options, proxy_with, service, simulated, slice};
use super::*;
use crate::api::{Decoder, decode_text};
use crate::kernel::Query;
use crate::kernel::simulated::Simulated;
use crate::kernel::{Capabilities, ErrorKind, Receipt};

/// Long enough for anything that is not stuck.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the loop did, as a list of words.
#[derive(Clone)]
struct Words(mpsc::UnboundedSender<String>);

impl Observer for Words {
    fn event(&mut self, _: &Event) {}
    fn fed(&mut self, _: &Proxy) {}
    fn queued(&mut self) {}
    fn begun(&mut self) {}
    fn house_failed(&mut self, _: &Error) {}
    fn ended(&mut self, _: &mut Proxy, sync: &Ended) {
        let _ = self.0.send(format!("synced {}", sync.outcome.is_ok()));
    }
    fn forgot(&mut self, flows: &Result<usize, Error>, _: Duration) {
        let count = flows.as_ref().map_or("failed".to_owned(), usize::to_string);
        let _ = self.0.send(format!("forgot {count}"));
    }
}

/// A kernel whose table of flows takes until the test says so, and then fails or answers.
struct Slow {
    inner: Simulated,
    /// Says that it was asked; then waits for whether to answer.
    asked: mpsc::UnboundedSender<()>,
    answer: plain::Receiver<bool>,
}

impl Kernel for Slow {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        self.inner.apply(transaction)
    }
    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        if matches!(query, Query::Flows(..)) {
            let _ = self.asked.send(());
            if self.answer.recv() != Ok(true) {
                return Err(Error::new(ErrorKind::Busy, "list", "the test says no"));
            }
        }
        self.inner.read(query)
    }
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }
}

async fn next<T>(of: &mut mpsc::UnboundedReceiver<T>) -> T {
    tokio::time::timeout(PATIENCE, of.recv()).await.expect("nothing came").expect("it ended")
}

/// Waits for a word; others may come before it.
async fn until(word: &str, of: &mut mpsc::UnboundedReceiver<String>) {
    while next(of).await != word {}
}

#[tokio::test]
async fn a_sync_does_not_wait_for_stale_flows_and_what_failed_is_tried_again() {
    let kernel = simulated();
    let dns = service("dns", "10.96.0.3", "").replace("TCP", "UDP");
    let objects = dns + &slice("dns", "UDP", &["10.1.0.1"]);
    let mut proxy = proxy_with(options(), Box::new(kernel.clone()), &objects);
    proxy.sync().unwrap();
    let link = kernel.host().link("eth0").map(|l| l.index).unwrap();
    let ask = sim::Packet::udp("10.2.0.1:99".parse().unwrap(), "10.96.0.3:80".parse().unwrap());
    kernel.host().receive(&ask, link);

    let (events, taken) = mpsc::channel(16);
    let (said, mut words) = mpsc::unbounded_channel();
    let (asked, mut questions) = mpsc::unbounded_channel();
    let (answers, answer) = plain::channel();
    let slow = Slow { inner: kernel.clone(), asked, answer };
    let hour = Duration::from_secs(3600);
    let pace = Pace { min_sync_period: Duration::ZERO, sync_period: hour, wait_for_node: None };
    let the_loop = Loop::new(proxy, (taken, Words(said)), Box::new(|_| options()), pace)
        .forgetting(Forgetter::start(Box::new(slow)).unwrap());
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(the_loop.run(stopped));
    let tell = |objects: String| {
        let all = decode_text(&objects, &mut Decoder::new("here"));
        let events = events.clone();
        async move {
            for event in all {
                events.send(event).await.unwrap();
            }
        }
    };

    tell(slice("dns", "UDP", &["10.1.0.2"])).await;
    until("synced true", &mut words).await;
    next(&mut questions).await;
    // The kernel is still looking; another change is programmed all the same.
    tell(service("web", "10.96.0.4", "")).await;
    until("synced true", &mut words).await;
    answers.send(false).unwrap();
    until("forgot failed", &mut words).await;
    next(&mut questions).await;
    answers.send(true).unwrap();
    until("forgot 1", &mut words).await;
    stop.send(true).unwrap();
    tokio::time::timeout(PATIENCE, running).await.expect("the loop ends").unwrap();
}

/// A kernel whose IPv6 rules cannot be looked at, so that they are never in.
struct Half(Simulated);

impl Kernel for Half {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        self.0.apply(transaction)
    }
    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        match query {
            Query::Table(Family::V6, ..) => Err(Error::new(ErrorKind::Busy, "look", "for ever")),
            _ => self.0.read(query),
        }
    }
    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }
}

#[tokio::test]
async fn flows_are_looked_for_once_a_sync_while_one_family_cannot_be_written() {
    let kernel = simulated();
    let dns = service("dns", "10.96.0.3", "").replace("TCP", "UDP");
    let objects = dns + &slice("dns", "UDP", &["10.1.0.1"]);
    let proxy = proxy_with(options(), Box::new(Half(kernel.clone())), &objects);

    let (events, taken) = mpsc::channel(16);
    let (said, mut words) = mpsc::unbounded_channel();
    let (asked, mut questions) = mpsc::unbounded_channel();
    let (answers, answer) = plain::channel();
    (0..1000).for_each(|_| answers.send(true).unwrap());
    let slow = Slow { inner: kernel.clone(), asked, answer };
    let hour = Duration::from_secs(3600);
    let pace = Pace { min_sync_period: Duration::ZERO, sync_period: hour, wait_for_node: None };
    let the_loop = Loop::new(proxy, (taken, Words(said)), Box::new(|_| options()), pace)
        .forgetting(Forgetter::start(Box::new(slow)).unwrap());
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(the_loop.run(stopped));
    let other = decode_text(&service("web", "10.96.0.4", ""), &mut Decoder::new("here"));
    for event in other {
        events.send(event).await.unwrap();
    }
    for _ in 0..3 {
        until("synced false", &mut words).await;
        until("forgot 0", &mut words).await;
    }
    stop.send(true).unwrap();
    tokio::time::timeout(PATIENCE, running).await.expect("the loop ends").unwrap();
    let mut more = 0;
    while let Ok(word) = words.try_recv() {
        more += usize::from(word.starts_with("synced"));
    }
    let mut looked = 0;
    while questions.try_recv().is_ok() {
        looked += 1;
    }
    assert!(looked <= 3 + more, "{looked} looks in {} syncs", 3 + more);
}
