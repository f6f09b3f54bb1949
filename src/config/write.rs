//! A `Wire` into the text of a configuration file (`--write-config-to`): YAML with sorted keys, as
//! the reference writes it. Tests: `config::tests`.

use serde_json::{Map, Value as Json};

use super::wire::{API_VERSION, KIND, Value, Visitor, Wire};

/// The file's text.
pub fn write(wire: &Wire) -> String {
    let mut text = String::new();
    write_map(&tree(wire), 0, &mut text);
    text
}

/// The file as a tree.
pub(super) fn tree(wire: &Wire) -> Map<String, Json> {
    let mut writer = Writer { at: vec![Map::new()] };
    wire.clone().visit(&mut writer);
    let mut root = writer.at.pop().expect("the root is never left");
    root.insert("apiVersion".into(), API_VERSION.into());
    root.insert("kind".into(), KIND.into());
    root
}

/// Collects the fields that are set.
struct Writer {
    at: Vec<Map<String, Json>>,
}

impl Visitor for Writer {
    fn field<T: Value>(&mut self, name: &'static str, slot: &mut Option<T>) {
        if let Some(value) = slot {
            self.at.last_mut().expect("the root is never left").insert(name.into(), value.write());
        }
    }

    fn section(&mut self, name: &'static str, visit: &mut dyn FnMut(&mut Self)) {
        self.at.push(Map::new());
        visit(self);
        let section = self.at.pop().expect("pushed above");
        if !section.is_empty() {
            self.at.last_mut().expect("the root is never left").insert(name.into(), section.into());
        }
    }
}

fn write_map(map: &Map<String, Json>, indent: usize, text: &mut String) {
    for (key, value) in map {
        text.push_str(&" ".repeat(indent));
        text.push_str(&scalar(key));
        write_value(value, indent, text);
    }
}

fn write_value(value: &Json, indent: usize, text: &mut String) {
    match value {
        Json::Object(map) if !map.is_empty() => {
            text.push_str(":\n");
            write_map(map, indent + 2, text);
        }
        Json::Array(items) if !items.is_empty() => {
            text.push_str(":\n");
            for item in items {
                // A list's maps go in flow form: it is YAML, and one line each.
                let item =
                    if let Json::String(item) = item { scalar(item) } else { item.to_string() };
                text.push_str(&format!("{}- {item}\n", " ".repeat(indent)));
            }
        }
        Json::String(string) => text.push_str(&format!(": {}\n", scalar(string))),
        other => text.push_str(&format!(": {other}\n")),
    }
}

/// A string, in quotes unless nobody could take it for anything else.
fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let word = matches!(
        text.to_ascii_lowercase().as_str(),
        "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n"
    );
    // Go's durations and dotted addresses start with a digit and are strings nevertheless.
    let address = text.contains('.') && text.split('.').count() == 4;
    let duration = text.ends_with('s') && text.starts_with(|c: char| c.is_ascii_digit());
    if text.chars().all(plain) && !word && (starts || address || duration) {
        return text.to_owned();
    }
    Json::String(text.to_owned()).to_string()
}
