//! A record played again: the same proxy is told the same, acts at the same moments and gets the
//! same answers, over the simulator; what it then does otherwise is a difference.
//!
//! Answers come from the record, changes go to the simulated host and get the outcome that is on
//! record. A record that begins in the middle of a proxy's life is played from nothing, and is
//! compared from the first act on that did not know what was in the kernel. Tests: `super::tests`.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Applied, Done, FORMAT, Line, VERSION};
use crate::kernel::simulated::Simulated;
use crate::kernel::{Capabilities, Error, Facts, Kernel, Query, Receipt, Transaction, XtablesText};
use crate::model::{Event, Family, Node};
use crate::sync::scribe::Act;
use crate::sync::{Options, Proxy};
pub use crate::trace::dump::Unreadable;
use crate::trace::{World, load, stand_in, with_rules};

/// A record that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The node it was made on.
    pub host: String,
    /// Its kernel.
    pub kernel: String,
    capabilities: Capabilities,
    addresses: Vec<IpAddr>,
    lines: Vec<Line>,
}

/// Reads a record. The last line may be cut short: whoever wrote it may have been killed.
pub fn read(text: &str) -> Result<Record, Unreadable> {
    let mut lines = Vec::new();
    let mut head = None;
    let count = text.lines().count();
    for (number, line) in (1..).zip(text.lines()) {
        match (number, serde_json::from_str::<Line>(line)) {
            (1, Ok(Line::Record { format, version, host, kernel, capabilities, addresses })) => {
                if format != FORMAT || version != VERSION {
                    let why = format!(
                        "{format:?} version {version}; this build reads {FORMAT:?} version {VERSION}"
                    );
                    return Err(Unreadable { line: 1, why });
                }
                head = Some((host, kernel, *capabilities, addresses));
            }
            (1, _) => {
                let why = "this is no record; kube-proxy writes one with --record FILE".to_owned();
                return Err(Unreadable { line: 1, why });
            }
            (_, Ok(Line::Record { .. })) => {
                let why = "a record begins in the middle of another".to_owned();
                return Err(Unreadable { line: number, why });
            }
            (_, Ok(line)) => lines.push(line),
            (_, Err(_)) if number == count && !text.ends_with('\n') => {}
            (_, Err(error)) => {
                let why = format!("{error}; the file is damaged");
                return Err(Unreadable { line: number, why });
            }
        }
    }
    let Some((host, kernel, capabilities, addresses)) = head else {
        return Err(Unreadable { line: 1, why: "the file is empty".to_owned() });
    };
    Ok(Record { host, kernel, capabilities, addresses, lines })
}

/// One act, as it was and as it was played.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Played {
    /// Its number, from 1.
    pub number: usize,
    /// When it began, in milliseconds since 1970.
    pub at: u64,
    /// What it was.
    pub act: Act,
    /// How many pieces of news there were before it.
    pub news: usize,
    /// What it came to; none where the record ends before it.
    pub done: Option<Done>,
    /// How long it took, in milliseconds.
    pub took: Option<u64>,
    /// Whether it could be compared.
    pub compared: bool,
    /// What was other than on record.
    pub differences: Vec<String>,
}

/// The end of a history.
pub struct Ended {
    /// The node, as far as rules decide.
    pub world: World,
    /// Everything that is known of the cluster.
    pub events: Vec<Event>,
    /// How the proxy is set up.
    pub options: Options,
    /// Every act.
    pub acts: Vec<Played>,
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ended").field("acts", &self.acts).finish_non_exhaustive()
    }
}

/// Plays a record, up to an act if it is said. `progress` is told how many lines of how many are done.
pub fn play(
    record: &Record,
    until: Option<usize>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Ended, String> {
    let first = record.lines.iter().find_map(|line| match line {
        Line::Options(options) => Some((**options).clone()),
        _ => None,
    });
    let options = first.ok_or("the record does not say how kube-proxy is set up")?;
    let mut world = load(stand_in::stand_in(&options, node(record), &record.addresses));
    let kernel = world.lend_host().with_capabilities(record.capabilities.clone());
    let script = Script::default();
    let heart = Replaying { kernel: kernel.clone(), script: script.clone() };
    let mut player = Player {
        proxy: Proxy::new(Box::new(heart), options),
        script,
        lines: record.lines.iter().peekable(),
        acts: Vec::new(),
        news: 0,
        compares: false,
    };
    let all = record.lines.len();
    while until.is_none_or(|until| player.acts.len() < until) && player.line() {
        progress(all - player.lines.len(), all);
    }
    let events = player.proxy.cluster().events();
    let (options, acts) = (player.proxy.options().clone(), std::mem::take(&mut player.acts));
    drop(player);
    let host = kernel.into_host().ok_or("the simulated host is in use; this is a bug")?;
    let world = with_rules(world, host).map_err(|e| e.to_string())?;
    Ok(Ended { world, events, options, acts })
}

/// The first state of this node that is told.
fn node(record: &Record) -> Option<&Node> {
    record.lines.iter().find_map(|line| match line {
        Line::Event(event) => match &**event {
            Event::Node(node) => Some(&**node),
            _ => None,
        },
        _ => None,
    })
}

struct Player<'r> {
    proxy: Proxy,
    script: Script,
    lines: std::iter::Peekable<std::slice::Iter<'r, Line>>,
    acts: Vec<Played>,
    news: usize,
    /// Whether what is done now is what was done then.
    compares: bool,
}

impl Player<'_> {
    /// Plays the next line, with all that belongs to it.
    fn line(&mut self) -> bool {
        match self.lines.next() {
            None => return false,
            Some(Line::Options(options)) => self.proxy.set_options((**options).clone()),
            Some(Line::Event(event)) => {
                self.news += 1;
                self.proxy.feed((**event).clone());
            }
            Some(Line::Begins(at, act, anew)) => self.act(*at, *act, anew),
            // What was asked between two acts changes no rules.
            Some(Line::Record { .. } | Line::Applied(_) | Line::Read(..) | Line::Ended(..)) => {}
        }
        true
    }

    fn act(&mut self, at: u64, act: Act, anew: &[Family]) {
        let mut exchanges = VecDeque::new();
        let mut ended = None;
        while let Some(line) = self
            .lines
            .next_if(|line| matches!(line, Line::Applied(_) | Line::Read(..) | Line::Ended(..)))
        {
            if let Line::Ended(at, done) = line {
                ended = Some((*at, done.clone()));
                break;
            }
            exchanges.push_back(line.clone());
        }
        self.compares |= self.proxy.options().families.iter().all(|f| anew.contains(f));
        self.proxy.distrust_families(anew);
        self.script.begin(exchanges, self.compares);
        let done = match act {
            Act::Sync => self.proxy.sync_rules(),
            Act::Tidy => self.proxy.tidy(),
        };
        let mut differences = self.script.end(ended.is_some());
        let (done, was) = (Done::of(&done), ended.as_ref().map(|(_, done)| done.clone()));
        if self.compares && differences.is_empty() && was.as_ref().is_some_and(|was| *was != done) {
            differences.push(format!("it came to {done:?} and is on record with {was:?}"));
        }
        if !self.compares {
            differences.clear();
        }
        self.acts.push(Played {
            number: self.acts.len() + 1,
            at,
            act,
            news: std::mem::take(&mut self.news),
            done: was,
            took: ended.map(|(end, _)| end.saturating_sub(at)),
            compared: self.compares,
            differences,
        });
    }
}

/// What is on record of the act that is played.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<Lines>>);

#[derive(Default)]
struct Lines {
    exchanges: VecDeque<Line>,
    /// Whether answers are those on record.
    binding: bool,
    differences: Vec<String>,
}

impl Script {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, exchanges: VecDeque<Line>, binding: bool) {
        *self.lines() = Lines { exchanges, binding, differences: Vec::new() };
    }

    /// Gives what was other than on record; the record of the act may be cut short.
    fn end(&self, whole: bool) -> Vec<String> {
        let mut lines = std::mem::take(&mut *self.lines());
        let left = lines.exchanges.iter().filter(|line| matches!(line, Line::Applied(_))).count();
        if whole && left > 0 {
            lines.differences.push(format!("{left} transactions on record were not made again"));
        }
        lines.differences
    }
}

impl Lines {
    /// What is on record of a transaction; it is the next one, or the record and this part.
    fn of(&mut self, transaction: &Transaction) -> Option<Result<Receipt, Error>> {
        if !self.binding {
            return None;
        }
        while let Some(Line::Read(..)) = self.exchanges.front() {
            self.exchanges.pop_front();
        }
        let Some(Line::Applied(was)) = self.exchanges.pop_front() else { return None };
        let now = Applied::of(transaction, &was.outcome);
        if now != was {
            self.differences.push(format!(
                "{} of {} bytes (digest {}), on record {} of {} bytes (digest {})",
                now.kind, now.bytes, now.digest, was.kind, was.bytes, was.digest
            ));
            self.binding = false;
            return None;
        }
        Some(was.outcome)
    }

    /// The answer on record to a question that comes before the next transaction.
    fn answer(&mut self, query: &Query) -> Option<Result<Facts, Error>> {
        if !self.binding {
            return None;
        }
        let reads = self.exchanges.iter().take_while(|line| matches!(line, Line::Read(..)));
        let place = reads
            .into_iter()
            .position(|line| matches!(line, Line::Read(asked, _) if **asked == *query))?;
        let found = self.exchanges.drain(..=place).next_back()?;
        match found {
            Line::Read(_, answer) => Some(*answer),
            _ => None,
        }
    }
}

/// The simulator, with the answers that are on record.
struct Replaying {
    kernel: Simulated,
    script: Script,
}

impl Kernel for Replaying {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        let recorded = self.script.lines().of(transaction);
        match recorded {
            // It was refused, and changed nothing.
            Some(Err(error)) => Err(error),
            Some(Ok(receipt)) => {
                // What was there before the record began may be what it changes.
                let _ = self.kernel.apply(transaction);
                Ok(receipt)
            }
            None => self.kernel.apply(transaction),
        }
    }

    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        let recorded = self.script.lines().answer(query);
        let Some(answer) = recorded else { return self.kernel.read(query) };
        if let (Query::Xtables(family), Ok(Facts::Text(text))) = (query, &answer) {
            self.adopt(*family, text);
        }
        answer
    }

    fn capabilities(&self) -> &Capabilities {
        self.kernel.capabilities()
    }
}

impl Replaying {
    /// Rules that were there: without them what the proxy changes in them cannot be made again.
    fn adopt(&mut self, family: Family, text: &str) {
        let Ok(Facts::Text(own)) = self.kernel.read(&Query::Xtables(family)) else { return };
        if own.contains("KUBE-") || !text.contains("KUBE-") {
            return;
        }
        let text = XtablesText { family, text: text.to_owned(), operations: 0 };
        if let Err(error) = self.kernel.apply(&Transaction::Xtables(text)) {
            let why = format!("the {family} rules that were there cannot be made again: {error}");
            self.script.lines().differences.push(why);
        }
    }
}
