//! Writes results down: all figures as JSON, and the few that are wanted as a table for people.
//! Says which goals are met; asserts nothing. Tests: below.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::figures::Runs;
use crate::machine;

/// One line of a table: a figure of a case, and the goal it has.
pub struct Row {
    /// What it is, for people.
    pub what: String,
    /// The figure, already in words.
    pub value: String,
    /// The goal in words; empty if there is none.
    pub goal: String,
    /// Whether the goal is met; `None` where there is none.
    pub met: Option<bool>,
}

impl Row {
    /// A figure with the most it may be.
    pub fn most(what: impl Into<String>, value: f64, (limit, unit): (f64, &str)) -> Row {
        let goal = format!("≤ {limit} {unit}");
        Row {
            what: what.into(),
            value: format!("{} {unit}", short(value)),
            goal,
            met: Some(value <= limit),
        }
    }

    /// A figure without a goal.
    pub fn plain(what: impl Into<String>, value: f64, unit: &str) -> Row {
        let value = format!("{} {unit}", short(value)).trim_end().to_owned();
        Row { what: what.into(), value, goal: String::new(), met: None }
    }
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value.abs() {
        v if v == v.trunc() => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A table in Markdown.
pub fn table(title: &str, rows: &[Row]) -> String {
    let mut out = format!("## {title}\n\n| what | figure | goal | |\n| --- | --- | --- | --- |\n");
    for row in rows {
        let met = match row.met {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "",
        };
        let _ = writeln!(out, "| {} | {} | {} | {met} |", row.what, row.value, row.goal);
    }
    out
}

/// Writes `NAME.json` and `NAME.md` into today's folder; gives the folder.
pub fn write(
    name: &str,
    cases: &BTreeMap<String, Runs>,
    tables: &[String],
) -> Result<PathBuf, String> {
    let machine = machine::describe();
    let folder = machine::results();
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let figures: serde_json::Map<String, Value> =
        cases.iter().map(|(name, runs)| (name.clone(), runs.to_json())).collect();
    let whole = json!({"machine": machine, "cases": figures});
    let text = serde_json::to_string_pretty(&whole).map_err(|e| e.to_string())?;
    let mut page = format!("# {name}\n\n");
    for (key, value) in machine.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let _ = writeln!(page, "- {key}: {value}");
    }
    for table in tables {
        page.push('\n');
        page.push_str(table);
    }
    for (file, content) in [(format!("{name}.json"), text + "\n"), (format!("{name}.md"), page)] {
        let path = folder.join(file);
        std::fs::write(&path, content).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_what_was_missed() {
        let rows = [Row::most("a", 1.5, (1.0, "ms")), Row::plain("b", 123.4, "ms")];
        let text = table("t", &rows);
        assert!(text.contains("| a | 1.50 ms | ≤ 1 ms | **missed** |"), "{text}");
        assert!(text.contains("| b | 123 ms |  |  |"), "{text}");
    }
}
