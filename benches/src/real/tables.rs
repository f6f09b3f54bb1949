//! The figures of the real kernel that have a goal, and those that explain them, as tables.
//! Tests: below.

use std::collections::BTreeMap;

use super::{Case, What};
use crate::figures::Runs;
use crate::report::{Row, table};

type Results = BTreeMap<Case, Runs>;

/// All tables.
pub(super) fn all(results: &Results) -> Vec<String> {
    let mut sizes: Vec<usize> = results.keys().map(|case| case.services).collect();
    sizes.dedup();
    sizes.sort_unstable();
    sizes.dedup();
    let mut tables: Vec<String> = sizes.iter().map(|n| of_size(results, *n)).collect();
    tables.push(table("growth", &growth(results)));
    tables
}

/// The median of a figure of a case.
fn figure(results: &Results, key: (What, usize, usize), name: &str) -> Option<f64> {
    let (what, services, endpoints) = key;
    let is =
        |case: &&Case| (case.what, case.services, case.endpoints) == (what, services, endpoints);
    results.iter().find(|(case, _)| is(case)).and_then(|(_, runs)| runs.median(name))
}

fn of_size(results: &Results, services: usize) -> String {
    let mut rows = Vec::new();
    let get = |what, name: &str| figure(results, (what, services, 10), name);
    if let Some(all) = get(What::Single, "first_all_ms") {
        let what = "IPv4: feed, compile, render, commit";
        let limit = (500.0, "ms");
        rows.push(if services == 10_000 {
            Row::most(what, all, limit)
        } else {
            Row::plain(what, all, "ms")
        });
    }
    let plain = [
        (What::Single, "first_all_cpu_ms", "… processor time", "ms"),
        (What::Single, "first_feed_ms", "… of it feeding events", "ms"),
        (What::Bare, "made_ms", "… of it compiling and rendering", "ms"),
        (What::Bare, "replay_ms", "bare kernel: the same batches again", "ms"),
        (What::Bare, "replay_cpu_ms", "… processor time", "ms"),
        (What::Bare, "two_maps_ms", "bare kernel: two maps only", "ms"),
        (What::Bare, "two_maps_cpu_ms", "… processor time", "ms"),
    ];
    let shown = |(what, name, words, unit): (What, &str, &str, &str)| {
        Some(Row::plain(words, get(what, name)?, unit))
    };
    rows.extend(plain.into_iter().filter_map(shown));
    let ratio = |name: &str| Some(get(What::Single, "first_all_ms")? / get(What::Bare, name)?);
    rows.extend(ratio("replay_ms").map(|r| Row::plain("ratio to the same batches", r, "×")));
    rows.extend(ratio("two_maps_ms").map(|r| Row::plain("ratio to the two maps", r, "×")));
    let rest = [
        (What::Dual, "first_all_ms", "IPv4 and IPv6: everything", "ms"),
        (What::Mixed, "first_all_ms", "mixed Services: everything", "ms"),
        (What::Single, "second_sync_transactions", "second sync: transactions", ""),
        (What::Single, "restart_all_ms", "restart: everything", "ms"),
        (What::Single, "restart_sync_ms", "… of it the sync", "ms"),
        (What::Single, "restart_transactions", "… transactions", ""),
        (What::Single, "first_transactions", "first sync: transactions", ""),
        (What::Single, "first_bytes", "first sync: bytes", ""),
    ];
    rows.extend(rest.into_iter().filter_map(shown));
    rows.extend(changes(results, services));
    rows.extend(memory(results, services));
    table(&format!("{services} Services × 10 endpoints"), &rows)
}

fn changes(results: &Results, services: usize) -> Vec<Row> {
    let kinds = [
        (What::Single, "endpoint", "IPv4: one endpoint less or more"),
        (What::Single, "replaced", "IPv4: one endpoint replaced"),
        (What::Dual, "endpoint", "IPv4 and IPv6: one endpoint less or more"),
        (What::Mixed, "sticky", "with session affinity: one endpoint less or more"),
        (What::Mixed, "udp", "UDP: one endpoint less or more"),
        (What::Single, "list_flows", "(after the commit: the kernel looks for UDP flows)"),
        (What::Single, "new_count", "first Service with a new count of endpoints, up to 32"),
        (What::Single, "new_large_count", "… with a count above 32 and above twice the largest"),
    ];
    let mut rows = Vec::new();
    for (what, name, words) in kinds {
        let get = |quantile: &str| {
            let name = format!("{name}_{quantile}_us");
            Some(figure(results, (what, services, 10), &name)? / 1000.0)
        };
        let (Some(p50), Some(p99)) = (get("p50"), get("p99")) else { continue };
        let words_p50 = format!("{words}: p50");
        rows.push(if services == 10_000 && name != "list_flows" {
            Row::most(words_p50, p50, (1.0, "ms"))
        } else {
            Row::plain(words_p50, p50, "ms")
        });
        rows.push(Row::plain("… p99", p99, "ms"));
        rows.extend(get("cpu_p50").map(|cpu| Row::plain("… processor time, p50", cpu, "ms")));
    }
    rows
}

fn memory(results: &Results, services: usize) -> Vec<Row> {
    let get = |endpoints, name: &str| figure(results, (What::Single, services, endpoints), name);
    let mut rows = Vec::new();
    let kinds = [
        ("synced_rss_kib", "resident after the first sync (library only)"),
        ("synced_peak_kib", "… at most"),
        ("changed_rss_kib", "resident after all changes"),
    ];
    for (name, words) in kinds {
        rows.extend(get(10, name).map(|kib| Row::plain(words, kib / 1024.0, "MiB")));
    }
    let (few, many) = (get(10, "synced_rss_kib"), get(20, "synced_rss_kib"));
    if let (Some(few), Some(many)) = (few, many) {
        let bytes = (many - few) * 1024.0 / (services * 10) as f64;
        rows.push(Row::most("each further endpoint", bytes, (250.0, "bytes")));
    }
    rows
}

/// How figures grow with the number of Services.
fn growth(results: &Results) -> Vec<Row> {
    let get = |what, services, name: &str| figure(results, (what, services, 10), name);
    let ratio =
        |what, name: &str, (large, small)| Some(get(what, large, name)? / get(what, small, name)?);
    let mut rows = Vec::new();
    let all = ratio(What::Single, "first_all_ms", (50_000, 10_000));
    rows.extend(all.map(|r| Row::most("everything: 50,000 against 10,000", r, (6.0, "×"))));
    let all = ratio(What::Bare, "replay_ms", (50_000, 10_000));
    rows.extend(all.map(|r| Row::plain("bare kernel: 50,000 against 10,000", r, "×")));
    let kinds = [
        (What::Single, "endpoint", "one endpoint"),
        (What::Mixed, "sticky", "one endpoint, session affinity"),
        (What::Mixed, "udp", "one endpoint, UDP"),
        (What::Single, "new_count", "a new count up to 32"),
    ];
    for (what, name, words) in kinds {
        let one = ratio(what, &format!("{name}_p50_us"), (50_000, 1_000));
        let words = format!("{words}: 50,000 against 1,000, p50");
        rows.extend(one.map(|r| Row::most(words, r, (2.0, "×"))));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Figures;

    #[test]
    fn what_was_not_measured_is_not_shown() {
        let mut run = Figures::default();
        run.put("first_all_ms", 400.0);
        let mut runs = Runs::default();
        runs.push(run);
        let case = Case { what: What::Single, services: 10_000, endpoints: 10, changes: 0 };
        let tables = all(&BTreeMap::from([(case, runs)]));
        assert!(tables[0].contains("400 ms | ≤ 500 ms | met"), "{}", tables[0]);
        assert!(!tables[0].contains("restart"));
    }
}
