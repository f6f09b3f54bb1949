//! The demo: the whole of it for a person who has a fresh machine and one minute.
//! Order and words only; the work is in `setting`, `probe` and `scale`. Tests: it is one.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use crate::privilege::{self, Right};
use crate::probe::{Row, Script, judge};
use crate::proxy::{self, has_nft, nft};
use crate::setting::Setting;
use crate::{plan, scale, simulated, table};

/// How many lines of nft's listing make a screen.
const SCREEN: usize = 60;

/// What the demo is asked to do.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Folder of manifests.
    pub examples: PathBuf,
    /// How much is printed.
    pub words: Words,
    /// Where it runs.
    pub kernel: Kernel,
}

/// How much is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// A screen.
    Few,
    /// All of it.
    All,
}

/// Where it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// In namespaces if this machine gives them, else simulated.
    Best,
    /// On the simulated kernel.
    Simulated,
}

/// Runs the demo. Succeeds only if all is as expected.
pub fn run(wish: &Wish) -> ExitCode {
    match show(wish) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("demo: {why}");
            ExitCode::FAILURE
        }
    }
}

fn show(wish: &Wish) -> Result<bool, String> {
    let scripts = Script::read_all(&proxy::workspace().join("netlab/scenarios"))?;
    let mut scripts = scripts;
    scripts.retain(|s| s.manifests == "examples" && s.flags.is_empty());
    if wish.kernel == Kernel::Simulated {
        return on_simulated(wish, &scripts);
    }
    let binary = proxy::find()?;
    match privilege::obtain() {
        Ok(right) => on_linux(wish, &scripts, (&binary, right)),
        Err(why) => {
            println!("No namespaces here: {why}.");
            on_simulated(wish, &scripts)
        }
    }
}

fn on_simulated(wish: &Wish, scripts: &[Script]) -> Result<bool, String> {
    println!("This runs on the simulated kernel: same rules, same bytes, packets in memory.\n");
    let rows = simulated::run(&wish.examples, scripts, proxy::Mode::Nftables.word())?;
    println!("{}", table::print(&rows));
    Ok(verdict(&rows))
}

fn on_linux(wish: &Wish, scripts: &[Script], found: (&Path, Right)) -> Result<bool, String> {
    let (binary, right) = found;
    crate::scratch::clean_on_signals()?;
    let whose = if right == Right::Had { "as root" } else { "in a user namespace" };
    println!("Namespaces {whose}: outside, router, {} and {} …", plan::NODE, plan::NODE_2);
    let mut setting = Setting::of_folder(binary, &wish.examples)?;
    println!("Started {} on a copy of {} …", binary.display(), wish.examples.display());
    setting.start_proxy()?;
    let rows = on_setting(&mut setting, scripts);
    match &rows {
        Ok(rows) => {
            println!("\n{}", table::print(rows));
            show_nft(&setting, wish.words);
        }
        Err(why) => println!("{why}\n{}", setting.last_words()),
    }
    Ok(verdict(&rows?))
}

fn on_setting(setting: &mut Setting, scripts: &[Script]) -> Result<Vec<Row>, String> {
    if let Some(first) = scripts.iter().flat_map(|s| &s.probes).next() {
        setting.wait_for(first)?;
    }
    println!("Programmed. Asking real questions with real packets …");
    let mut rows = ask_all(setting, scripts);
    rows.extend(scale::grow_and_shrink(setting)?);
    Ok(rows)
}

/// Asks every probe, the scripts side by side: most of the time is waiting for silence.
pub fn ask_all(setting: &Setting, scripts: &[Script]) -> Vec<Row> {
    thread::scope(|scope| {
        let asking: Vec<_> =
            scripts.iter().map(|script| scope.spawn(|| ask(setting, script))).collect();
        asking.into_iter().flat_map(|a| a.join().unwrap_or_default()).collect()
    })
}

/// Asks the probes of one script that this machine can ask.
pub fn ask(setting: &Setting, script: &Script) -> Vec<Row> {
    let asked = script.probes.iter().filter(|probe| setting.can_ask(probe));
    asked.map(|probe| judge(probe, &mut || setting.attempt(probe))).collect()
}

fn show_nft(setting: &Setting, words: Words) {
    if !has_nft() {
        println!("(The nft tool is not installed: the table in the kernel is not shown.)\n");
        return;
    }
    let families: &[&str] = if words == Words::All { &["ip", "ip6"] } else { &["ip"] };
    for family in families {
        println!("nft list table {family} kube-proxy, in {}:", plan::NODE);
        let listed = match nft(&setting.lab, &["list", "table", family, "kube-proxy"]) {
            Ok(listed) => listed,
            Err(why) => format!("(nft says: {why})"),
        };
        println!("{}", if words == Words::All { listed } else { shorten(&listed, SCREEN) });
    }
}

/// The beginning of a text, with a note how to see the rest.
fn shorten(text: &str, screen: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let cut = |line: &&str| {
        let mut short: String = line.chars().take(150).collect();
        if short.len() < line.len() {
            short.push_str(" …");
        }
        short
    };
    let mut shown: Vec<String> = lines.iter().take(screen).map(cut).collect();
    if lines.len() > screen {
        let more = lines.len() - screen;
        shown.push(format!("… {more} more lines: run the demo with --verbose to see them"));
    }
    shown.join("\n") + "\n"
}

fn verdict(rows: &[Row]) -> bool {
    let wrong = rows.iter().filter(|r| r.wrong.is_some()).count();
    if wrong == 0 && !rows.is_empty() {
        println!("All {} as expected.", rows.len());
        return true;
    }
    println!("{wrong} of {} not as expected: see the lines marked NO.", rows.len());
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_says_how_to_see_all() {
        let text = shorten("a\nb\nc\n", 2);
        assert_eq!(text, "a\nb\n… 1 more lines: run the demo with --verbose to see them\n");
    }
}
