//! YAML as a tree of JSON values with the line of every key. JSON is YAML too, so it reads both.
//! It knows no field. Size, depth and aliases are bounded: a hostile file is an error, not a crash.
//! Tests: `config::tests`.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Options, Spanned};

/// No configuration is deeper; parsing one recurses as deep as it is.
const DEEPEST: usize = 32;
/// No configuration is longer.
const MOST_NODES: usize = 50_000;

/// A parsed file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tree {
    /// The document; of a key given twice, the last value counts.
    pub(super) root: Json,
    /// The line of every key, by the path of names to it, joined by dots.
    pub(super) lines: BTreeMap<String, u64>,
    /// Paths of keys that were given more than once, with the line of each repetition.
    pub(super) repeated: Vec<(String, u64)>,
}

/// Parses a file of one document. An error is the parser's, with line and column.
pub(super) fn parse(text: &str) -> Result<Tree, String> {
    let node: Node = serde_saphyr::from_str_with_options(text, options()).map_err(words_of)?;
    let mut tree = Tree::default();
    tree.root = tree.adopt("", node);
    Ok(tree)
}

/// What the parser says, without its advice to programmers.
fn words_of(error: serde_saphyr::Error) -> String {
    let words = error.without_snippet().to_string();
    match words.split_once("; use from_str_multiple") {
        Some((words, _)) => words.to_owned(),
        None => words,
    }
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: DEEPEST, max_nodes: MOST_NODES },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        with_snippet: false,
    }
}

impl Tree {
    /// Takes a node in: its value is returned, its lines are noted under `path`.
    fn adopt(&mut self, path: &str, node: Node) -> Json {
        match node {
            Node::Leaf(value) => value,
            Node::List(items) => {
                let item = |(i, node)| self.adopt(&format!("{path}[{i}]"), node);
                Json::Array(items.into_iter().enumerate().map(item).collect())
            }
            Node::Map(entries) => {
                let mut map = serde_json::Map::new();
                for (key, line, node) in entries {
                    let path = join(path, &key);
                    if self.lines.insert(path.clone(), line).is_some() {
                        self.repeated.push((path.clone(), line));
                    }
                    let value = self.adopt(&path, node);
                    map.insert(key, value);
                }
                Json::Object(map)
            }
        }
    }
}

/// The path of a key in a map that has a path itself.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// What serde builds.
enum Node {
    Leaf(Json),
    List(Vec<Node>),
    Map(Vec<(String, u64, Node)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }
    fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Leaf(value.into()))
    }
    fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Leaf(value.into()))
    }
    fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Leaf(value.into()))
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Leaf(value.into()))
    }
    fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Leaf(value.into()))
    }
    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Leaf(Json::Null))
    }
    fn visit_none<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Leaf(Json::Null))
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            let value = entries.next_value()?;
            map.push((key.value, key.referenced.line(), value));
        }
        Ok(Node::Map(map))
    }
}
