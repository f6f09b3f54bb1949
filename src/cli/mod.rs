//! The command line: the reference's flags on the bare command, in; one `Action`, out.
//!
//! It knows the forms flags are written in and how help and version look. What the flags are stands
//! in `config::flags`, what they come to is `config`'s. Nothing here starts anything or writes.
//! Tests: `tests`.

pub mod ask;
mod ask_help;
mod complete;
mod help;
mod man;
mod spell;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use crate::config::{self, Errand, Loaded, Problem, Settings};

/// What the process is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Program the kernel until a signal.
    Run(Box<Settings>),
    /// Remove whatever this proxy made, then end.
    Cleanup(Box<Settings>),
    /// Do what needs all of root's privileges, then end.
    InitOnly(Box<Settings>),
    /// Write this text to this file, then end.
    WriteConfig(PathBuf, String),
    /// Print this text, then end.
    Version(String),
    /// Print this text, then end.
    Help(String),
    /// Answer a question about this node or a dump, then end.
    Ask(Box<ask::Asked>),
}

/// Why there is no `Action`: every problem, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The problems, in the order in which they were found; never empty.
    pub problems: Vec<Problem>,
    /// What the process ends with.
    pub exit_code: u8,
}

impl Usage {
    /// As the reference ends where its flags are wrong.
    const OF_PROXY: u8 = 1;
    /// A question that was not understood has no answer; 1 would be one ("it is not well").
    const OF_QUESTION: u8 = 2;
}

impl fmt::Display for Usage {
    /// A line for each problem, without a newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            let newline = if i > 0 { "\n" } else { "" };
            write!(f, "{newline}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Usage {}

/// Reads a command line, whose first word is the program's name, and the file it names.
pub fn parse<I>(args: I) -> Result<Action, Usage>
where
    I: IntoIterator,
    I::Item: Into<OsString>,
{
    let hostname = nix::unistd::gethostname().unwrap_or_default();
    let words: Vec<OsString> = args.into_iter().skip(1).map(Into::into).collect();
    if let Some(printed) = printed(&words) {
        return printed;
    }
    parse_words(words.into_iter(), &hostname.to_string_lossy())
}

/// What stands beside the reference's bare flags and only prints: `completion SHELL` and `man`.
fn printed(words: &[OsString]) -> Option<Result<Action, Usage>> {
    let text = match words.first()?.to_str()? {
        "man" if words.len() == 1 => Ok(man::page()),
        "completion" => {
            let rest: Vec<&str> = words[1..].iter().filter_map(|word| word.to_str()).collect();
            complete::script(&rest.join(" "))
        }
        _ => return None,
    };
    let wrong = |sentence| Usage {
        problems: vec![Problem::said("completion", sentence)],
        exit_code: Usage::OF_PROXY,
    };
    Some(text.map(Action::Help).map_err(wrong))
}

/// The same, without the program's name and with the machine's hostname given.
fn parse_words(words: impl Iterator<Item = OsString>, hostname: &str) -> Result<Action, Usage> {
    let mut words = words.peekable();
    if let Some(name) = words.peek().and_then(|word| ask::Name::of(word.to_str()?)) {
        return ask::parse(name, words.skip(1), hostname);
    }
    let mut spelled = spell::spell(words);
    spelled.refuse_words();
    let errand = errand_of(&spelled);
    if errand.help {
        return Ok(Action::Help(help::text()));
    }
    if let Some(form) = errand.version {
        return Ok(Action::Version(help::version(form)));
    }
    let mut problems = spelled.problems;
    match config::load(&spelled.flags, hostname) {
        Ok(loaded) if problems.is_empty() => Ok(action(&errand, loaded)),
        Ok(_) => Err(Usage { problems, exit_code: Usage::OF_PROXY }),
        Err(more) => {
            problems.extend(more);
            Err(Usage { problems, exit_code: Usage::OF_PROXY })
        }
    }
}

/// What is asked beside the configuration; malformed values are told later.
fn errand_of(spelled: &spell::Spelled) -> Errand {
    let mut given = config::flags::Given::default();
    for (flag, value) in &spelled.flags {
        let _ = config::flags::take(&mut given, flag, value);
    }
    given.errand
}

fn action(errand: &Errand, loaded: Loaded) -> Action {
    let settings = Box::new(loaded.settings);
    match &errand.write_config_to {
        Some(path) => Action::WriteConfig(path.clone(), loaded.text),
        None if errand.cleanup => Action::Cleanup(settings),
        None if errand.init_only => Action::InitOnly(settings),
        None => Action::Run(settings),
    }
}
