//! `kube-proxy replay`: a record is played again, and the answer becomes words.
//! Tests: `netlab` (`record-is-played-again`).

use std::path::Path;

use super::trace::in_world;
use super::{Progress, Said, UNKNOWN, WELL, WRONG, json, text_of};
use crate::check::Case;
use crate::cli::ask::{Asked, Output, Trace};
use crate::record::Done;
use crate::record::replay::{Ended, Played, Record, play, read};
use crate::sync::scribe::Act;

pub(super) fn replay(
    asked: &Asked,
    (file, until, wish): (&Path, Option<usize>, Option<&Trace>),
    progress: &mut Progress,
) -> Result<Said, String> {
    let text = text_of(file, "record")?;
    let record = read(&text).map_err(|e| format!("{}: {e}", file.display()))?;
    let mut tell = |done, all| progress.count("lines", (done, all));
    let ended = play(&record, until, &mut tell).map_err(|e| format!("{}: {e}", file.display()))?;
    if let Some(number) = until.filter(|number| *number > ended.acts.len()) {
        let acts = ended.acts.len();
        return Err(format!("--until {number}: {} has {acts} acts", file.display()));
    }
    let same = ended.acts.iter().all(|act| act.differences.is_empty());
    let code = if same { WELL } else { WRONG };
    let Some(wish) = wish else {
        let out = match asked.output {
            Output::Json => json(&ended.acts)?,
            _ => words(&record, &ended),
        };
        return Ok(Said { out, code, ..Said::default() });
    };
    // An answer by rules that were never there would be a guess.
    let differing = ended.acts.iter().find(|act| !act.differences.is_empty());
    let error = differing
        .map(|act| format!("not as it was: act {}: {}\n", act.number, act.differences.join("; ")));
    let case = Case { events: &ended.events, options: &ended.options };
    let said = in_world(asked, wish, ended.world, case)?;
    let code = if said.code == UNKNOWN || !same { UNKNOWN } else { code };
    Ok(Said { error: error.unwrap_or_default(), code, ..said })
}

fn words(record: &Record, ended: &Ended) -> String {
    let mode = ended.options.mode.as_str();
    let mut out = format!("{}, Linux {}, {mode} mode\n", record.host, record.kernel);
    let first = ended.acts.first().map_or(0, |act| act.at);
    ended.acts.iter().for_each(|act| out.push_str(&act_words(act, first)));
    let compared = ended.acts.iter().filter(|act| act.compared).count();
    let differing = ended.acts.iter().filter(|act| !act.differences.is_empty()).count();
    out.push_str(&match (compared, differing) {
        (0, _) => format!(
            "{} acts; none could be compared: the record begins in the middle\n",
            ended.acts.len()
        ),
        (_, 0) => format!("{} acts, {compared} compared: all the same\n", ended.acts.len()),
        (_, _) => format!("{} acts, {compared} compared: {differing} DIFFER\n", ended.acts.len()),
    });
    out
}

fn act_words(act: &Played, first: u64) -> String {
    let since = act.at.saturating_sub(first);
    let what = match act.act {
        Act::Sync => "sync",
        Act::Tidy => "tidy",
    };
    let done = match &act.done {
        None => "the record ends here".to_owned(),
        Some(Done::Failed(error)) => format!("failed: {error}"),
        Some(Done::Well(transactions, operations, bytes)) => {
            format!("{transactions} transactions, {operations} operations, {bytes} bytes")
        }
    };
    let took = act.took.map(|took| format!(" in {took} ms")).unwrap_or_default();
    let Played { number, news, .. } = act;
    let mut out = format!(
        "#{number} +{}.{:03} s {what} after {news} news: {done}{took}\n",
        since / 1000,
        since % 1000
    );
    for difference in &act.differences {
        out.push_str(&format!("    DIFFERS: {difference}\n"));
    }
    out
}
