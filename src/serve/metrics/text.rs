//! Metric families as text: the format of Prometheus, and OpenMetrics 1.0, which the prometheus
//! crate does not write. Knows no metric by name. Tests: `tests` beside this.

use std::fmt::Write as _;

use prometheus::proto::{Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own, version 0.0.4.
    Prometheus,
    /// OpenMetrics, version 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The format that an `Accept` header asks for; OpenMetrics only where it is named and not
    /// liked less than plain text.
    pub fn accepted(accept: &str) -> Format {
        let liking = |wanted: &str| {
            let of = |range: &&str| range.split(';').next().is_some_and(|t| t.trim() == wanted);
            let range = accept.split(',').find(of)?;
            let quality = range.split(';').find_map(|p| p.trim().strip_prefix("q="));
            Some(quality.map_or(1.0, |q| q.parse::<f32>().unwrap_or(0.0)))
        };
        let open = liking("application/openmetrics-text").unwrap_or(0.0);
        let plain = liking("text/plain").unwrap_or(0.0);
        if open > 0.0 && open >= plain { Format::OpenMetrics } else { Format::Prometheus }
    }

    /// `Content-Type` of the format.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The families as text.
pub(super) fn encode(families: &[MetricFamily], format: Format) -> String {
    match format {
        Format::Prometheus => {
            let mut text = Vec::new();
            // Fails only if writing does, and a Vec takes anything.
            let _ = TextEncoder::new().encode(families, &mut text);
            String::from_utf8_lossy(&text).into_owned()
        }
        Format::OpenMetrics => {
            let mut text = String::new();
            families.iter().for_each(|family| open_metrics(family, &mut text));
            text.push_str("# EOF\n");
            text
        }
    }
}

/// One family: a counter's own name has no `_total`, its sample's has.
fn open_metrics(family: &MetricFamily, out: &mut String) {
    let counter = family.get_field_type() == MetricType::COUNTER;
    let full = family.name();
    let name = if counter { full.strip_suffix("_total").unwrap_or(full) } else { full };
    let kind = match family.get_field_type() {
        MetricType::COUNTER => "counter",
        MetricType::HISTOGRAM => "histogram",
        _ => "gauge",
    };
    let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", escaped(family.help()));
    for metric in family.get_metric() {
        match family.get_field_type() {
            MetricType::COUNTER => {
                sample(out, (name, "_total"), metric, number(metric.get_counter().get_value()));
            }
            MetricType::HISTOGRAM => histogram(out, name, metric),
            _ => sample(out, (name, ""), metric, number(metric.get_gauge().get_value())),
        }
    }
}

fn histogram(out: &mut String, name: &str, metric: &Metric) {
    let histogram = metric.get_histogram();
    let count = histogram.get_sample_count();
    for bucket in histogram.get_bucket() {
        let le = number(bucket.upper_bound());
        let labels = labels(metric, Some(&le));
        let _ = writeln!(out, "{name}_bucket{labels} {}", bucket.cumulative_count());
    }
    if !histogram.get_bucket().iter().any(|bucket| bucket.upper_bound().is_infinite()) {
        let _ = writeln!(out, "{name}_bucket{} {count}", labels(metric, Some("+Inf")));
    }
    sample(out, (name, "_sum"), metric, number(histogram.get_sample_sum()));
    sample(out, (name, "_count"), metric, count.to_string());
}

fn sample(out: &mut String, (name, suffix): (&str, &str), metric: &Metric, value: String) {
    let _ = writeln!(out, "{name}{suffix}{} {value}", labels(metric, None));
}

fn labels(metric: &Metric, le: Option<&str>) -> String {
    let own = metric.get_label().iter().map(|pair| (pair.name(), pair.value()));
    let all = own.chain(le.map(|le| ("le", le)));
    let parts: Vec<String> = all.map(|(k, v)| format!("{k}=\"{}\"", escaped(v))).collect();
    if parts.is_empty() { String::new() } else { format!("{{{}}}", parts.join(",")) }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}

/// A number with a point or an exponent in it, as OpenMetrics wants it.
fn number(value: f64) -> String {
    if value == f64::INFINITY { "+Inf".into() } else { format!("{value:?}") }
}
