//! What others take away, and whether it comes back. Tests: with the scenarios that use it.

use std::time::Duration;

use super::ipvs::tool;
use super::{Stop, Verdict, eventually, told};
use crate::setting::Setting;

/// All that some tools say, line by line, without those that count packets or say when.
pub(super) fn state(setting: &Setting, tools: &[&str]) -> Result<Vec<String>, Stop> {
    let mut all = Vec::new();
    for line in tools {
        let said = tool(setting, line)?;
        let lines = said.lines().filter(|line| !line.starts_with(['#', ':']));
        all.extend(lines.map(|line| line.trim().to_owned()));
    }
    all.sort();
    Ok(all)
}

/// Of a proxy that serves and looks each second: what others change is put right, and where nobody
/// does, nothing is found, since what the kernel says back is what was meant.
pub(super) fn mended(setting: &Setting, tools: &[&str], harms: &[&str]) -> Verdict {
    std::thread::sleep(Duration::from_secs(5));
    let whole = state(setting, tools)?;
    let said = setting.proxy.as_ref().map(|proxy| proxy.process.said()).unwrap_or_default();
    if said.contains("it is put right") {
        return Err(format!("something was put right that nobody had changed:\n{said}").into());
    }
    for harm in harms {
        tool(setting, harm)?;
        let mended = eventually(|| match state(setting, tools) {
            Ok(now) if now == whole => None,
            Ok(now) => {
                let lacks: Vec<_> = whole.iter().filter(|line| !now.contains(line)).collect();
                let more: Vec<_> = now.iter().filter(|line| !whole.contains(line)).collect();
                Some(format!("after `{harm}` it lacks {lacks:?}, and has {more:?}"))
            }
            Err(_) => Some(format!("after `{harm}` it cannot be read")),
        });
        if let Err(why) = mended {
            return told(setting, Err(why));
        }
    }
    Ok(format!("{} kinds of harm mended", harms.len()))
}
