//! What was measured: named numbers of one run, and over several runs their medians.
//! Units are the last word of a name (`sync_ms`, `p99_us`, `rss_kib`). Tests: below.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::meter::{Memory, Span, quantile};

/// Named numbers of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures(pub BTreeMap<String, f64>);

impl Figures {
    /// Puts a number in.
    pub fn put(&mut self, name: impl Into<String>, value: f64) {
        self.0.insert(name.into(), value);
    }

    /// A number that was put in.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// How long something took, in milliseconds.
    pub fn span(&mut self, name: &str, span: Span) {
        self.put(format!("{name}_ms"), ms(span.wall));
        self.put(format!("{name}_cpu_ms"), ms(span.cpu));
        self.put(format!("{name}_waited_ms"), ms(span.waited));
    }

    /// How long each of many took, in microseconds.
    pub fn spans(&mut self, name: &str, spans: &[Span]) {
        let sorted = |of: fn(&Span) -> Duration| {
            let mut all: Vec<f64> = spans.iter().map(|s| ms(of(s)) * 1000.0).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        let (wall, cpu) = (sorted(|s| s.wall), sorted(|s| s.cpu));
        self.put(format!("{name}_count"), spans.len() as f64);
        for (quantile_name, percent) in [("p50", 50.0), ("p99", 99.0), ("most", 100.0)] {
            self.put(format!("{name}_{quantile_name}_us"), quantile(&wall, percent));
            self.put(format!("{name}_cpu_{quantile_name}_us"), quantile(&cpu, percent));
        }
    }

    /// Memory, in KiB.
    pub fn memory(&mut self, name: &str, memory: Memory) {
        self.put(format!("{name}_rss_kib"), memory.resident as f64);
        self.put(format!("{name}_peak_kib"), memory.peak as f64);
    }

    /// One line of JSON, for a parent process.
    pub fn to_line(&self) -> String {
        json!(self.0).to_string()
    }

    /// What [`Figures::to_line`] made.
    pub fn from_line(line: &str) -> Result<Figures, String> {
        let value: Value = serde_json::from_str(line).map_err(|e| format!("{line:?}: {e}"))?;
        let fields = value.as_object().ok_or_else(|| format!("{line:?} is no object"))?;
        let number = |(name, v): (&String, &Value)| Some((name.clone(), v.as_f64()?));
        Ok(Figures(fields.iter().filter_map(number).collect()))
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The figures of several runs of one case.
#[derive(Clone, Debug, Default)]
pub struct Runs(Vec<Figures>);

impl Runs {
    /// Adds a run.
    pub fn push(&mut self, run: Figures) {
        self.0.push(run);
    }

    /// Median of a figure over the runs that have it.
    pub fn median(&self, name: &str) -> Option<f64> {
        let sorted = self.sorted(name);
        (!sorted.is_empty()).then(|| quantile(&sorted, 50.0))
    }

    /// The least of a figure over the runs that have it: what the machine can when left alone.
    pub fn least(&self, name: &str) -> Option<f64> {
        self.sorted(name).first().copied()
    }

    fn sorted(&self, name: &str) -> Vec<f64> {
        let mut all: Vec<f64> = self.0.iter().filter_map(|run| run.get(name)).collect();
        all.sort_by(f64::total_cmp);
        all
    }

    /// Every figure with its median, least, most and single values.
    pub fn to_json(&self) -> Value {
        let names: std::collections::BTreeSet<&String> =
            self.0.iter().flat_map(|run| run.0.keys()).collect();
        let figure = |name: &String| {
            let sorted = self.sorted(name);
            let all: Vec<f64> =
                self.0.iter().filter_map(|run| run.get(name)).map(rounded).collect();
            let at = |percent| rounded(quantile(&sorted, percent));
            json!({"median": at(50.0), "least": at(0.0), "most": at(100.0), "runs": all})
        };
        Value::Object(names.into_iter().map(|name| (name.clone(), figure(name))).collect())
    }
}

/// Three digits after the point: nothing here is more exact.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_come_back_and_medians_are_of_runs() {
        let mut runs = Runs::default();
        for value in [3.0, 1.0, 2.5] {
            let mut run = Figures::default();
            run.put("sync_ms", value);
            runs.push(Figures::from_line(&run.to_line()).expect("our own line"));
        }
        assert_eq!(runs.median("sync_ms"), Some(2.5));
        assert_eq!(runs.least("sync_ms"), Some(1.0));
        assert_eq!(runs.to_json()["sync_ms"]["runs"][0], 3.0);
        assert_eq!(runs.median("absent"), None);
    }
}
