//! One log line: collected from an event, written as klog's text or as JSON.
//! Values of fields that sound like secrets, bearer tokens in any text and private keys are left
//! out; control characters are escaped, so that an event is a line. Tests: below, and in `logging`.

use std::fmt::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value as Json;
use tracing::field::{Field, Visit};
use tracing::{Level, Metadata};

/// A line being collected.
#[derive(Debug)]
pub(super) struct Line {
    level: Level,
    /// The source file, as the compiler was given it.
    file: &'static str,
    line: u32,
    time: Duration,
    message: String,
    fields: Vec<(&'static str, Json)>,
}

/// What stands where a secret would.
const REDACTED: &str = "<redacted>";
/// Names of fields whose values are left out, in parts and in lower case.
const SECRET_NAMES: [&str; 6] =
    ["token", "password", "secret", "authorization", "credential", "private_key"];
/// Names JSON lines have for themselves.
const RESERVED: [&str; 5] = ["ts", "caller", "msg", "v", "err"];

impl Line {
    pub(super) fn new(metadata: &Metadata<'static>, now: SystemTime) -> Line {
        Line {
            level: *metadata.level(),
            file: metadata.file().unwrap_or("?"),
            line: metadata.line().unwrap_or(0),
            time: now.duration_since(UNIX_EPOCH).unwrap_or_default(),
            message: String::new(),
            fields: Vec::new(),
        }
    }

    /// As klog writes it: `I1122 20:46:50.123456    1234 sync.rs:42] message key=value`.
    pub(super) fn text(&self, pid: u32) -> String {
        let letter = match self.level {
            Level::ERROR => 'E',
            Level::WARN => 'W',
            _ => 'I',
        };
        let seconds = self.time.as_secs();
        let (month, day) = month_and_day(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let micros = self.time.subsec_micros();
        let file = last_parts(self.file, 1);
        let message = escaped(&self.message);
        let mut text = format!(
            "{letter}{month:02}{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06} {pid:7} {file}:{}] {message}",
            self.line
        );
        for (name, value) in &self.fields {
            let _ = write!(text, " {name}={}", shown(value));
        }
        text.push('\n');
        text
    }

    /// As component-base writes it: `{"ts":…,"caller":"sync/sync.rs:42","msg":"…","v":0,…}`.
    pub(super) fn json(&self) -> String {
        let ts = format!("{}.{:03}", self.time.as_millis(), self.time.subsec_micros() % 1000);
        let caller = format!("{}:{}", last_parts(self.file, 2), self.line);
        let (caller, msg) = (Json::from(caller), Json::from(self.message.as_str()));
        let mut text = format!("{{\"ts\":{ts},\"caller\":{caller},\"msg\":{msg}");
        let v = match self.level {
            Level::ERROR => None,
            Level::WARN | Level::INFO => Some(0),
            Level::DEBUG => Some(4),
            Level::TRACE => Some(6),
        };
        if let Some(v) = v {
            let _ = write!(text, ",\"v\":{v}");
        }
        for (name, value) in &self.fields {
            let name = match *name {
                "error" if self.level == Level::ERROR => "err".to_owned(),
                name if RESERVED.contains(&name) => format!("field.{name}"),
                name => name.to_owned(),
            };
            let _ = write!(text, ",{}:{value}", Json::from(name));
        }
        text.push_str("}\n");
        text
    }

    fn put(&mut self, field: &Field, value: Json) {
        let value = match value {
            Json::String(text) => Json::String(without_secrets(&text)),
            other => other,
        };
        let name = field.name();
        if name == "message" {
            self.message = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            return;
        }
        let lower = name.to_lowercase();
        let secret = SECRET_NAMES.iter().any(|part| lower.contains(part));
        self.fields.push((name, if secret { REDACTED.into() } else { value }));
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        // Causes are told too: the last one is often what there is to mend.
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        self.put(field, text.into());
    }
}

/// The text with bearer tokens and private keys left out.
fn without_secrets(text: &str) -> String {
    if text.contains("PRIVATE KEY") {
        return REDACTED.to_owned();
    }
    const BEARER: &str = "bearer ";
    let lower = text.to_ascii_lowercase();
    let mut shown = String::with_capacity(text.len());
    let mut from = 0;
    while let Some(found) = lower[from..].find(BEARER) {
        let start = from + found + BEARER.len();
        let length = text[start..].find(|c: char| c.is_whitespace() || "\"',}])".contains(c));
        shown.push_str(&text[from..start]);
        shown.push_str(REDACTED);
        from = length.map_or(text.len(), |length| start + length);
    }
    shown.push_str(&text[from..]);
    shown
}

/// A value in a text line: bare if it is one word, else quoted.
fn shown(value: &Json) -> String {
    match value {
        Json::String(text) => {
            let bare = |c: char| !c.is_whitespace() && !c.is_control() && !"\"=".contains(c);
            if !text.is_empty() && text.chars().all(bare) {
                text.clone()
            } else {
                format!("{text:?}")
            }
        }
        other => other.to_string(),
    }
}

/// The text with control characters escaped.
fn escaped(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_debug().collect() } else { vec![c] })
        .collect()
}

/// The last `count` parts of a path.
fn last_parts(path: &str, count: usize) -> &str {
    let start = path.rmatch_indices('/').nth(count - 1).map_or(0, |(at, _)| at + 1);
    &path[start..]
}

/// Month and day of the month, both from 1, of a day counted from 1970-01-01, in the Gregorian
/// calendar. Counted in years that begin in March, so that a leap day is the last of its year.
fn month_and_day(days: u64) -> (u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let of_era = days % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153; // from March
    let day = of_year - (153 * month + 2) / 5 + 1;
    (if month < 10 { month + 3 } else { month - 9 }, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seconds: u64, message: &str) -> Line {
        Line {
            level: Level::INFO,
            file: "src/sync/mod.rs",
            line: 42,
            time: Duration::new(seconds, 123_456_789),
            message: message.to_owned(),
            fields: vec![("n", 1.into()), ("empty", "".into())],
        }
    }

    #[test]
    fn text_has_klogs_shape() {
        // 2026-11-22 20:46:50 UTC
        let text = line(1_795_380_410, "a\nb\u{1b}[0m").text(1234);
        assert_eq!(
            text,
            "I1122 20:46:50.123456    1234 mod.rs:42] a\\nb\\u{1b}[0m n=1 empty=\"\"\n"
        );
    }

    #[test]
    fn json_has_component_bases_shape() {
        let text = line(1_795_380_410, "a").json();
        assert_eq!(
            text,
            "{\"ts\":1795380410123.456,\"caller\":\"sync/mod.rs:42\",\"msg\":\"a\",\"v\":0,\"n\":1,\"empty\":\"\"}\n"
        );
    }

    #[test]
    fn days_have_months() {
        for (days, date) in [
            (0, (1, 1)),
            (59, (3, 1)),
            (789, (2, 29)),
            (11_016, (2, 29)),
            (20_453, (12, 31)),
            (20_454, (1, 1)),
        ] {
            assert_eq!(month_and_day(days), date, "{days}");
        }
    }

    #[test]
    fn secrets_are_left_out() {
        for (text, shown) in [
            ("Authorization: Bearer abc.def-ghi next", "Authorization: Bearer <redacted> next"),
            (
                "{\"a\": \"bearer x\", \"b\": \"BEARER y\"}",
                "{\"a\": \"bearer <redacted>\", \"b\": \"BEARER <redacted>\"}",
            ),
            ("forbearer", "forbearer"),
            ("bearer ", "bearer <redacted>"),
            ("-----BEGIN RSA PRIVATE KEY-----\nx", "<redacted>"),
            ("\u{130}bearer \u{e9}\u{e9}", "\u{130}bearer <redacted>"),
        ] {
            assert_eq!(without_secrets(text), shown, "{text}");
        }
    }
}
