//! A CPU profile as the protobuf message that `go tool pprof` reads
//! (`github.com/google/pprof/proto/profile.proto`): field numbers are that file's.
//! It knows no sampler. Tests: below.

use std::collections::BTreeMap;
use std::time::Duration;

/// What was sampled.
#[derive(Debug, Default)]
pub(super) struct Sampled {
    /// Stacks that were seen, each once.
    pub(super) stacks: Vec<Stack>,
    /// For how long.
    pub(super) span: Duration,
    /// From one look to the next.
    pub(super) period: Duration,
}

/// A stack, the running function first.
#[derive(Debug, Default)]
pub(super) struct Stack {
    /// Its functions.
    pub(super) symbols: Vec<Symbol>,
    /// Name of the thread.
    pub(super) thread: String,
    /// How often it was seen.
    pub(super) count: u64,
}

/// A function at a line.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Symbol {
    pub(super) name: String,
    pub(super) mangled: String,
    pub(super) file: String,
    pub(super) line: u64,
}

/// The message's bytes, not compressed.
pub(super) fn encode(sampled: &Sampled) -> Vec<u8> {
    let mut profile = Profile::default();
    profile.text("");
    let (samples, count) = (profile.text("samples"), profile.text("count"));
    let (cpu, nanoseconds) = (profile.text("cpu"), profile.text("nanoseconds"));
    let period = sampled.period.as_nanos() as u64;
    for (kind, unit) in [(samples, count), (cpu, nanoseconds)] {
        profile.out.message(1, &pair(kind, unit));
    }
    for stack in &sampled.stacks {
        profile.sample(stack, period);
    }
    profile.locations();
    profile.out.message(11, &pair(cpu, nanoseconds));
    profile.out.number(12, period);
    profile.out.number(10, sampled.span.as_nanos() as u64);
    let texts = std::mem::take(&mut profile.texts);
    let mut ordered: Vec<(u64, String)> = texts.into_iter().map(|(t, at)| (at, t)).collect();
    ordered.sort();
    ordered.iter().for_each(|(_, text)| profile.out.bytes(6, text.as_bytes()));
    profile.out.0
}

/// A `ValueType`.
fn pair(kind: u64, unit: u64) -> Message {
    let mut message = Message::default();
    message.number(1, kind);
    message.number(2, unit);
    message
}

#[derive(Default)]
struct Profile {
    out: Message,
    texts: BTreeMap<String, u64>,
    /// Locations with their ids, from 1; each is also a function.
    places: BTreeMap<Symbol, u64>,
}

impl Profile {
    fn text(&mut self, text: &str) -> u64 {
        let next = self.texts.len() as u64;
        *self.texts.entry(text.to_owned()).or_insert(next)
    }

    fn sample(&mut self, stack: &Stack, period: u64) {
        let mut sample = Message::default();
        for symbol in &stack.symbols {
            let next = self.places.len() as u64 + 1;
            sample.number(1, *self.places.entry(symbol.clone()).or_insert(next));
        }
        sample.number(2, stack.count);
        sample.number(2, stack.count * period);
        let (key, value) = (self.text("thread"), self.text(&stack.thread));
        sample.message(3, &pair(key, value));
        self.out.message(2, &sample);
    }

    fn locations(&mut self) {
        for (symbol, id) in std::mem::take(&mut self.places) {
            let mut line = Message::default();
            line.number(1, id);
            line.number(2, symbol.line);
            let mut location = Message::default();
            location.number(1, id);
            location.message(4, &line);
            self.out.message(4, &location);
            let mut function = Message::default();
            function.number(1, id);
            for (field, text) in [(2, &symbol.name), (3, &symbol.mangled), (4, &symbol.file)] {
                function.number(field, self.text(text));
            }
            self.out.message(5, &function);
        }
    }
}

/// A protobuf message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u64, message: &Message) {
        self.bytes(field, &message.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_the_schema() {
        let symbol =
            Symbol { name: "f".into(), mangled: "_f".into(), file: "a.rs".into(), line: 300 };
        let stack = Stack { symbols: vec![symbol.clone(), symbol], thread: "t".into(), count: 2 };
        let sampled = Sampled {
            stacks: vec![stack],
            span: Duration::from_nanos(7),
            period: Duration::from_nanos(5),
        };
        let expected: &[&[u8]] = &[
            &[0x0a, 4, 0x08, 1, 0x10, 2], // samples/count
            &[0x0a, 4, 0x08, 3, 0x10, 4], // cpu/nanoseconds
            &[0x12, 14, 0x08, 1, 0x08, 1, 0x10, 2, 0x10, 10, 0x1a, 4, 0x08, 5, 0x10, 6],
            &[0x22, 9, 0x08, 1, 0x22, 5, 0x08, 1, 0x10, 0xac, 0x02], // line 300
            &[0x2a, 8, 0x08, 1, 0x10, 7, 0x18, 8, 0x20, 9],
            &[0x5a, 4, 0x08, 3, 0x10, 4, 0x60, 5, 0x50, 7],
            b"\x32\x00\x32\x07samples\x32\x05count\x32\x03cpu\x32\x0bnanoseconds",
            b"\x32\x06thread\x32\x01t\x32\x01f\x32\x02_f\x32\x04a.rs",
        ];
        assert_eq!(encode(&sampled), expected.concat());
    }
}
