//! What the real kernel answered to the cases of a file, with its version: written by
//! `netlab kernel --record`, read by `tests/recorded.rs`. Tests: there.

use super::answer::{Answers, Ports, differences, ends};
use super::case::{Case, Step};
use super::simulated::{self, Run};
use super::spread::nth;

/// Answers as text: each case's name, then a line for each step that said something, then entries.
pub fn print(answers: &[(String, Answers)]) -> String {
    let mut text = String::new();
    for (name, answers) in answers {
        text.push_str(&format!("== {name}\n"));
        for (number, said) in answers.steps.iter().enumerate() {
            said.iter().for_each(|said| text.push_str(&format!("{number} {said}\n")));
        }
        answers.entries.iter().for_each(|entry| text.push_str(&format!("entry {entry}\n")));
    }
    text
}

/// The same answers, with `*` for ports of chance.
pub fn blurred(case: &Case, answers: Answers) -> Answers {
    let ports = Ports::of(&case.text);
    let mut answers = answers;
    // How the packets of a spread went is counted; each by itself is chance.
    let spread = spread_ends(case);
    answers.entries.retain(|entry| !spread.iter().any(|ends| entry.contains(ends)));
    let blur = |list: Vec<String>| list.iter().map(|said| ports.blur(said)).collect();
    let steps = answers.steps.into_iter().map(blur).collect();
    Answers { steps, entries: blur(answers.entries), chance: answers.chance }
}

fn spread_ends(case: &Case) -> Vec<String> {
    let of = |step: &Step| match step {
        Step::Spread { count, packet, .. } => {
            (0..*count).map(|n| format!(" {} ", ends(&nth(packet, n)))).collect()
        }
        _ => Vec::new(),
    };
    case.steps.iter().flat_map(of).collect()
}

/// Reads them back.
pub fn read(text: &str) -> Vec<(String, Answers)> {
    let mut all: Vec<(String, Answers)> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("== ") {
            all.push((name.to_owned(), Answers::default()));
        } else if let (Some((_, answers)), Some((number, said))) =
            (all.last_mut(), line.split_once(' '))
        {
            match number.parse::<usize>() {
                Ok(number) => {
                    answers.steps.resize(answers.steps.len().max(number + 1), Vec::new());
                    answers.steps[number].push(said.to_owned());
                }
                Err(_) => answers.entries.push(said.to_owned()),
            }
        }
    }
    all
}

/// Where the simulator answers otherwise than was recorded, or than the case expects.
pub fn replay(case: &Case, recorded: &Answers) -> Result<Vec<String>, String> {
    let simulated = match simulated::run(case)? {
        Run::Answers(answers) => answers,
        Run::Unmodelled(what) => return Ok(vec![what]),
    };
    let mut recorded = recorded.clone();
    recorded.steps.resize(case.steps.len(), Vec::new());
    let ports = Ports::of(&case.text);
    let mut found = differences(&recorded, &simulated, &ports);
    found.extend(unexpected(case, &recorded));
    Ok(found)
}

/// Where answers are not what the case expects.
pub fn unexpected(case: &Case, answers: &Answers) -> Vec<String> {
    let ports = &Ports::of(&case.text);
    let mut expected = case.expected.clone();
    if !case.entries {
        expected.entries.clone_from(&answers.entries);
    }
    differences(answers, &expected, ports).iter().map(|d| format!("expected: {d}")).collect()
}
