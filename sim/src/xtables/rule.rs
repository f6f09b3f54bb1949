//! A rule: conditions, matches and target as values; how its words are parsed and how iptables-save prints them.
//! Facts from iptables/xshared.c (do_parse, command_default). It must never know chains but by name.
//! Tests: tests/xtables_texts.rs.

use super::error::{Refusal, Taken};
use super::head::{Head, LinkName, Network, networks, protocol};
use super::matches::recent::Wanted;
use super::matches::{Context, Known, Match, State};
use super::objects::{Accounts, Counters, Sets};
use super::targets::Target;
use super::words::{Opt, Word, Words};
use super::{XtFamily, XtTable};
use std::sync::Arc;

/// The most rules the lists of addresses of one line may make.
const MOST_RULES: usize = 1024;

/// What a rule says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Spec {
    pub(super) head: Head,
    pub(super) matches: Vec<Match>,
    pub(super) target: Target,
}

impl Spec {
    pub(super) fn print(&self, out: &mut String) {
        self.head.print(out);
        self.matches.iter().for_each(|one| one.print(out));
        self.target.print(out);
    }

    /// The hooks at which the kernel takes every part of it, as bits.
    pub(super) fn hooks(&self) -> u8 {
        self.matches.iter().fold(self.target.hooks(), |hooks, one| hooks & one.hooks())
    }

    /// Does it attach connection tracking?
    pub(super) fn tracks(&self) -> bool {
        self.target.tracks() || self.matches.iter().any(Match::tracks)
    }

    /// The lists of recent addresses it holds on to.
    pub(super) fn lists(&self) -> impl Iterator<Item = Wanted> {
        self.matches.iter().filter_map(|one| {
            if let Match::Recent(recent) = one { Some(recent.list()) } else { None }
        })
    }

    /// The sets it holds on to.
    pub(super) fn sets(&self) -> impl Iterator<Item = &Arc<str>> {
        self.matches
            .iter()
            .filter_map(|one| if let Match::Set(set) = one { set.set() } else { None })
    }

    /// The text of its first comment.
    pub(super) fn comment(&self) -> Option<String> {
        self.matches.iter().find_map(|one| match one {
            Match::Comment(comment) => comment.text.as_deref().map(str::to_owned),
            _ => None,
        })
    }
}

/// A rule in a chain.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) spec: Arc<Spec>,
    pub(super) counters: Counters,
    /// What its matches remember, one each; none if no match remembers anything.
    pub(super) states: Arc<[State]>,
}

impl Rule {
    pub(super) fn new(spec: Spec, counters: (u64, u64)) -> Self {
        let remembers = spec.matches.iter().any(Match::remembers);
        let states = spec.matches.iter().filter(|_| remembers).map(|_| State::default()).collect();
        Rule { spec: Arc::new(spec), counters: [counters.0.into(), counters.1.into()], states }
    }

    /// The same rule with counters of zero.
    pub(super) fn zeroed(&self) -> Self {
        Rule { spec: self.spec.clone(), counters: Counters::default(), states: self.states.clone() }
    }
}

/// Where the rules of a line are to stand, and what they may refer to.
#[derive(Clone, Copy)]
pub(super) struct Setting<'s> {
    pub(super) family: XtFamily,
    pub(super) table: XtTable,
    pub(super) sets: &'s dyn Sets,
    pub(super) accounts: &'s Accounts,
}

/// What a line's rule words say.
pub(super) struct Written {
    /// One for each pair of a source and a destination.
    pub(super) specs: Vec<Spec>,
    pub(super) counters: Option<(u64, u64)>,
    /// Where the target is named.
    pub(super) target_column: usize,
}

/// A match or target whose options are being read.
struct Part {
    column: usize,
    seen: Vec<String>,
    index: Option<usize>,
}

/// A rule under construction.
struct Draft<'s> {
    setting: Setting<'s>,
    head: Head,
    sources: Option<Vec<Option<Network>>>,
    destinations: Option<Vec<Option<Network>>>,
    protocol_given: bool,
    in_given: bool,
    out_given: bool,
    matches: Vec<Match>,
    target: Option<Target>,
    target_column: usize,
    /// Matches and the target, in the order in which they were named.
    parts: Vec<Part>,
    counters: Option<(u64, u64)>,
    other_family: bool,
}

/// Reads the words of a rule to their end.
pub(super) fn parse(words: &mut Words, setting: Setting<'_>) -> Taken<Written> {
    let mut draft = Draft {
        setting,
        head: Head::default(),
        sources: None,
        destinations: None,
        protocol_given: false,
        in_given: false,
        out_given: false,
        matches: Vec::new(),
        target: None,
        target_column: words.end(),
        parts: Vec::new(),
        counters: None,
        other_family: false,
    };
    while let Some(mut word) = words.next() {
        let not = word.text == "!";
        if not {
            let nothing = || Refusal::syntax(words.end(), "nothing appropriate following !");
            let end = nothing();
            word = words.next().ok_or(end)?;
            if word.text == "!" {
                return Err(Refusal::syntax(word.column, "multiple consecutive ! not allowed"));
            }
        }
        draft.word(&word, not, words)?;
    }
    draft.finish()
}

fn once(given: bool, word: &Word) -> Taken<()> {
    if given {
        return Err(Refusal::syntax(
            word.column,
            format!("multiple {} flags not allowed", word.text),
        ));
    }
    Ok(())
}

impl Draft<'_> {
    fn word(&mut self, word: &Word, not: bool, words: &mut Words) -> Taken<()> {
        let family = self.setting.family;
        match word.text.as_str() {
            "-s" | "--source" | "--src" => {
                once(self.sources.is_some(), word)?;
                self.sources = Some(networks(&words.value(word)?, not, family)?);
            }
            "-d" | "--destination" | "--dst" => {
                once(self.destinations.is_some(), word)?;
                self.destinations = Some(networks(&words.value(word)?, not, family)?);
            }
            "-i" | "--in-interface" => {
                once(self.in_given, word)?;
                (self.in_given, self.head.in_link) =
                    (true, LinkName::parse(&words.value(word)?, not)?);
            }
            "-o" | "--out-interface" => {
                once(self.out_given, word)?;
                (self.out_given, self.head.out_link) =
                    (true, LinkName::parse(&words.value(word)?, not)?);
            }
            "-p" | "--protocol" | "--proto" => self.protocol((word, not), words)?,
            "-f" | "--fragment" => return Err(word.unmodelled("")),
            _ => return self.other(word, not, words),
        }
        Ok(())
    }

    fn protocol(&mut self, option: (&Word, bool), words: &mut Words) -> Taken<()> {
        let (word, not) = option;
        once(self.protocol_given, word)?;
        let value = words.value(word)?;
        self.protocol_given = true;
        match protocol(&value)? {
            0 if not => Err(Refusal::syntax(value.column, "rule would never match protocol")),
            0 => Ok(()),
            number => {
                self.head.protocol = Some((not, number));
                Ok(())
            }
        }
    }

    fn other(&mut self, word: &Word, not: bool, words: &mut Words) -> Taken<()> {
        let plain = matches!(
            word.text.as_str(),
            "-m" | "--match" | "-j" | "--jump" | "-g" | "--goto" | "-c" | "--set-counters"
        );
        if plain && not {
            return Err(Refusal::syntax(
                word.column,
                format!("cannot have ! before {}", word.text),
            ));
        }
        match word.text.as_str() {
            "-m" | "--match" => {
                let name = words.value(word)?;
                let index = Some(self.matches.len());
                self.matches.push(Match::named(&name, self.setting.family)?);
                self.parts.push(Part { column: name.column, seen: Vec::new(), index });
            }
            "-j" | "--jump" | "-g" | "--goto" => self.aim(word, words)?,
            "-c" | "--set-counters" => {
                let mut number = || words.value(word)?.number(u32::MAX);
                self.counters = Some((number()?.into(), number()?.into()));
            }
            "-4" | "--ipv4" => self.other_family |= self.setting.family == XtFamily::V6,
            "-6" | "--ipv6" => self.other_family |= self.setting.family == XtFamily::V4,
            text if text.len() > 2 && text.starts_with("--") => {
                return self.option((word, not), words);
            }
            text if text.starts_with('-') && text.len() > 1 => {
                return Err(word.unmodelled("option "));
            }
            text => return Err(Refusal::syntax(word.column, format!("Bad argument `{text}'"))),
        }
        Ok(())
    }

    fn aim(&mut self, word: &Word, words: &mut Words) -> Taken<()> {
        once(self.target.is_some(), word)?;
        let name = words.value(word)?;
        self.target_column = name.column;
        let found = if word.text.starts_with("-j") || word.text == "--jump" {
            Target::named(&name, self.setting.family)?
        } else {
            None
        };
        let chain = || match word.text.as_str() {
            "-j" | "--jump" => Target::Jump(name.text.as_str().into(), 0),
            _ => Target::Goto(name.text.as_str().into(), 0),
        };
        self.target = Some(found.unwrap_or_else(chain));
        self.parts.push(Part { column: name.column, seen: Vec::new(), index: None });
        Ok(())
    }

    /// An option of the part named last that knows it, or of the protocol's own match.
    fn option(&mut self, option: (&Word, bool), words: &mut Words) -> Taken<()> {
        for number in (0..self.parts.len()).rev() {
            if self.try_option(number, option, words)? == Known::Yes {
                return Ok(());
            }
        }
        let (word, _) = option;
        if let Some(own) = Match::of_protocol(&self.head, self.setting.family)
            && !self.matches.iter().any(|known| known.name() == own.name())
        {
            self.parts.push(Part {
                column: word.column,
                seen: Vec::new(),
                index: Some(self.matches.len()),
            });
            self.matches.push(own);
            if self.try_option(self.parts.len() - 1, option, words)? == Known::Yes {
                return Ok(());
            }
        }
        Err(Refusal::syntax(word.column, format!("unknown option \"{}\"", word.text)))
    }

    fn try_option(
        &mut self,
        number: usize,
        option: (&Word, bool),
        words: &mut Words,
    ) -> Taken<Known> {
        let (word, not) = option;
        let name = main_name(word.text.trim_start_matches('-'));
        let Some(part) = self.parts.get_mut(number) else { return Ok(Known::No) };
        let mut opt = Opt { name, word, not, words };
        let known = match (part.index, &mut self.target) {
            (Some(index), _) => {
                self.matches.get_mut(index).map_or(Ok(Known::No), |one| one.option(&mut opt))?
            }
            (None, Some(target)) => target.option(&mut opt)?,
            (None, None) => Known::No,
        };
        if known == Known::Yes {
            if part.seen.iter().any(|seen| seen == name) {
                return Err(Refusal::syntax(
                    word.column,
                    format!("option \"{}\" can only be used once.", word.text),
                ));
            }
            part.seen.push(name.to_owned());
        }
        Ok(known)
    }

    fn finish(mut self) -> Taken<Written> {
        let target = self.target.unwrap_or(Target::Nothing);
        for part in &self.parts {
            let Setting { family, table, sets, accounts } = self.setting;
            let context =
                Context { family, table, head: &self.head, sets, accounts, column: part.column };
            match part.index.and_then(|index| self.matches.get_mut(index)) {
                Some(one) => one.check(&context)?,
                None => target.check(&context, &self.matches)?,
            }
        }
        let sources = self.sources.unwrap_or_else(|| vec![None]);
        let destinations = self.destinations.unwrap_or_else(|| vec![None]);
        if sources.len() * destinations.len() > MOST_RULES {
            return Err(Refusal::unmodelled(
                1,
                format!("more than {MOST_RULES} rules from one line"),
            ));
        }
        let mut specs = Vec::new();
        for source in sources.iter().filter(|_| !self.other_family) {
            for destination in &destinations {
                let head = Head {
                    source: source.clone(),
                    destination: destination.clone(),
                    ..self.head.clone()
                };
                specs.push(Spec { head, matches: self.matches.clone(), target: target.clone() });
            }
        }
        Ok(Written { specs, counters: self.counters, target_column: self.target_column })
    }
}

/// The name under which matches know an option.
fn main_name(name: &str) -> &str {
    match name {
        "sport" => "source-port",
        "dport" => "destination-port",
        "sports" => "source-ports",
        "dports" => "destination-ports",
        "port" => "ports",
        name => name,
    }
}
