//! The configuration file into a `Wire`: strictly first, then leniently with a warning, since
//! v1alpha1 files of other versions have fields this one does not know (upstream-behaviour.md 84).
//! It judges forms only; what values may be is `validate`'s. Tests: `config::tests`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value as Json;

use super::problem::{Origin, Problem};
use super::tree::{self, Tree, join};
use super::wire::{API_VERSION, KIND, Value, Visitor, Wire};

/// A file that could be read.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    /// What it says.
    pub wire: Wire,
    /// Its path, and where it says what.
    pub origin: Origin,
    /// What was passed over by reading leniently.
    pub warnings: Vec<String>,
}

/// Reads a file's text. All malformed fields are told at once.
pub fn read(path: &Path, text: &str) -> Result<File, Vec<Problem>> {
    let place = path.display();
    let tree = tree::parse(text).map_err(|error| {
        vec![Problem::said(place.to_string(), format!("not valid YAML: {error}"))]
    })?;
    let origin = Origin::File(path.to_owned(), tree.lines.clone());
    let kind = check_kind(&tree, path, &origin)?;
    let mut wire = Wire::default();
    let mut reader = Reader::new(&tree.root, &origin);
    wire.visit(&mut reader);
    let Reader { problems, mut known, .. } = reader;
    if !problems.is_empty() {
        return Err(problems);
    }
    known.extend(kind);
    let strays = strays(&tree, &known);
    let warnings = if strays.is_empty() {
        Vec::new()
    } else {
        vec![format!(
            "{place}: read leniently, since read strictly it has errors: {}",
            strays.join(", ")
        )]
    };
    Ok(File { wire, origin, warnings })
}

/// Checks `apiVersion` and `kind`; gives their names back.
fn check_kind(tree: &Tree, path: &Path, origin: &Origin) -> Result<[String; 2], Vec<Problem>> {
    let mut problems = Vec::new();
    if !tree.root.is_object() {
        let sentence = format!("must be one {KIND} object of {API_VERSION}");
        return Err(vec![Problem::said(path.display().to_string(), sentence)]);
    }
    for (field, wanted) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        match tree.root.get(field) {
            Some(Json::String(found)) if found == wanted => {}
            found => {
                let found = found.map_or(String::new(), text_of);
                problems.push(Problem::new(origin.place(field), &found, wanted));
            }
        }
    }
    if problems.is_empty() { Ok(["apiVersion".into(), "kind".into()]) } else { Err(problems) }
}

/// Fields that are in the file and not known, or given twice, with their lines.
fn strays(tree: &Tree, known: &BTreeSet<String>) -> Vec<String> {
    let mut strays: Vec<(u64, String)> = Vec::new();
    collect_unknown(&tree.root, "", (known, &tree.lines), &mut strays);
    for (path, line) in &tree.repeated {
        strays.push((*line, format!("field {path} given again on line {line}")));
    }
    strays.sort();
    strays.into_iter().map(|(_, stray)| stray).collect()
}

fn collect_unknown(
    value: &Json,
    path: &str,
    (known, lines): (&BTreeSet<String>, &BTreeMap<String, u64>),
    strays: &mut Vec<(u64, String)>,
) {
    let Json::Object(map) = value else { return };
    for (key, value) in map {
        let path = join(path, key);
        let section = format!("{path}.");
        if known.contains(&section) {
            collect_unknown(value, &path, (known, lines), strays);
        } else if !known.contains(&path) {
            let line = lines.get(&path).copied().unwrap_or(0);
            strays.push((line, format!("unknown field {path} on line {line}")));
        }
    }
}

/// Fills a `Wire` from a tree.
struct Reader<'a> {
    /// The maps from the root to the section being read, each with its path.
    at: Vec<(String, Option<&'a Json>)>,
    origin: &'a Origin,
    problems: Vec<Problem>,
    /// Paths of every field there is; sections end in a dot.
    known: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    fn new(root: &'a Json, origin: &'a Origin) -> Self {
        let at = vec![(String::new(), Some(root))];
        Reader { at, origin, problems: Vec::new(), known: BTreeSet::new() }
    }

    /// A field's path, and its value if it stands there; null is as good as absent.
    fn find(&self, name: &str) -> (String, Option<&'a Json>) {
        let (path, map) = self.at.last().expect("the root is never left");
        let value = map.and_then(|map| map.get(name)).filter(|value| !value.is_null());
        (join(path, name), value)
    }
}

impl Visitor for Reader<'_> {
    fn field<T: Value>(&mut self, name: &'static str, slot: &mut Option<T>) {
        let (path, value) = self.find(name);
        if let Some(value) = value {
            match T::read(value) {
                Ok(read) => *slot = Some(read),
                Err(allowed) => {
                    self.problems.push(Problem::new(
                        self.origin.place(&path),
                        &text_of(value),
                        allowed,
                    ));
                }
            }
        }
        self.known.insert(path);
    }

    fn section(&mut self, name: &'static str, visit: &mut dyn FnMut(&mut Self)) {
        let (path, value) = self.find(name);
        if let Some(value) = value.filter(|value| !value.is_object()) {
            self.problems.push(Problem::new(
                self.origin.place(&path),
                &text_of(value),
                "a map of fields",
            ));
        }
        self.known.insert(format!("{path}."));
        self.at.push((path, value));
        visit(self);
        self.at.pop();
    }
}

/// A value as it may be shown.
fn text_of(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}
