//! What the lab's API server is told to do wrong. Requests are spoilt one by one by rules; streams
//! that are open are spoilt by commands. Knows nothing of objects. Tests: with the server.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;

use super::store::Resource;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A list.
    List,
    /// A watch.
    Watch,
    /// One object.
    Get,
    /// A write: an Event.
    Write,
}

/// What is done to a request instead of answering it well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A failure with this code; with 429 and 503 a Retry-After in seconds.
    Status(u16, Option<u32>),
    /// The connection is closed without an answer.
    Drop,
    /// The answer ends in the middle and the connection is closed.
    Truncate,
    /// The answer is a success, but no JSON.
    Garbage,
    /// The answer comes this much later.
    Slow(Duration),
    /// A list is answered with the state at the time of `Faults::remember`.
    Stale,
}

/// A fault for some requests.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Which requests; nothing means all.
    pub asked: Option<Asked>,
    /// For which resource; nothing means all.
    pub resource: Option<Resource>,
    /// What happens.
    pub fault: Fault,
    /// How often; the rule is gone afterwards.
    pub times: usize,
}

/// What every open watch obeys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Counts up: each step closes all watches.
    pub cut: u64,
    /// Counts up: each step sends a line of garbage on all watches.
    pub garbage: u64,
    /// Counts up: each step sends a 410 on all watches.
    pub gone: u64,
    /// Counts up: each step sends a bookmark on the watches that want them.
    pub bookmark: u64,
    /// Nothing is sent, though connections stay open.
    pub stalled: bool,
    /// Every change is told twice.
    pub duplicate: bool,
    /// Changes of different objects are told in reverse; those of one object stay in order.
    pub reorder: bool,
}

/// The faults of a server.
pub struct Faults {
    rules: Mutex<Vec<Rule>>,
    orders: watch::Sender<Orders>,
}

impl Default for Faults {
    fn default() -> Self {
        Faults { rules: Mutex::new(Vec::new()), orders: watch::Sender::new(Orders::default()) }
    }
}

impl Faults {
    /// Spoils the next requests of a kind.
    pub fn spoil(&self, rule: Rule) {
        self.rules.lock().unwrap_or_else(|e| e.into_inner()).push(rule);
    }

    /// Spoils the next requests, whatever they ask.
    pub fn spoil_next(&self, times: usize, fault: Fault) {
        self.spoil(Rule { asked: None, resource: None, fault, times });
    }

    /// Whether rules are left.
    pub fn pending(&self) -> bool {
        !self.rules.lock().unwrap_or_else(|e| e.into_inner()).is_empty()
    }

    /// Forgets the rules.
    pub fn forgive(&self) {
        self.rules.lock().unwrap_or_else(|e| e.into_inner()).clear();
    }

    /// Gives orders to all open and future watches.
    pub fn order(&self, change: impl FnOnce(&mut Orders)) {
        self.orders.send_modify(change);
    }

    /// The orders, as they change.
    pub(super) fn orders(&self) -> watch::Receiver<Orders> {
        self.orders.subscribe()
    }

    /// The fault for a request, used up.
    pub(super) fn take(&self, asked: Asked, resource: Option<Resource>) -> Option<Fault> {
        let mut rules = self.rules.lock().unwrap_or_else(|e| e.into_inner());
        let at = rules.iter().position(|rule| {
            rule.asked.is_none_or(|a| a == asked)
                && (rule.resource.is_none() || rule.resource == resource)
        })?;
        rules[at].times = rules[at].times.saturating_sub(1);
        let fault = rules[at].fault.clone();
        if rules[at].times == 0 {
            rules.remove(at);
        }
        Some(fault)
    }
}
