//! Texts of one or more YAML or JSON documents into objects: the pure half of `manifests`.
//!
//! Documents are cut apart first, so that one broken document does not cost the others.
//! It must never know directories. Tests: below.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::decode::{Decoder, Head, kind_of, plain, told};
use crate::model::{Event, Kind, NamespacedName, Notice, Reason};

/// `Notice::kind` of what is wrong with a text itself.
const KIND: &str = "Manifest";

/// An object found in a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its kind.
    pub kind: Kind,
    /// Its name; empty if it has none.
    pub name: NamespacedName,
    /// What it says; none if it says nothing usable.
    pub event: Option<Event>,
    /// What is wrong with it.
    pub notices: Vec<Notice>,
}

/// The Events of a text of one or more YAML or JSON documents. Never fails: what cannot be read
/// becomes a Notice with line and column, under the name `text`.
pub fn decode_text(text: &str, decoder: &mut Decoder) -> Vec<Event> {
    let (objects, notices) = read_text("text", text, decoder);
    let mut events = Vec::with_capacity(objects.len());
    if !notices.is_empty() {
        events.push(text_notices("text", notices));
    }
    for object in objects {
        if !object.notices.is_empty() {
            events.push(Event::Notices(object.kind, object.name, object.notices));
        }
        events.extend(object.event);
    }
    events
}

/// Notices about a text itself travel under the kind Service with an empty namespace, which no
/// Service has.
pub(crate) fn text_notices(name: &str, notices: Vec<Notice>) -> Event {
    Event::Notices(Kind::Service, NamespacedName::new("", name), notices)
}

/// Objects of the kinds that are read, in the order of the text, and what is wrong with the text
/// itself. `name` is what the Notices call it.
pub fn read_text(name: &str, text: &str, decoder: &mut Decoder) -> (Vec<Object>, Vec<Notice>) {
    let Text { objects, notices, .. } = read(name, text, decoder);
    (objects, notices)
}

/// A text that was read.
#[derive(Debug, Default)]
pub(crate) struct Text {
    /// Objects of the kinds that are read, in the order of the text.
    pub(crate) objects: Vec<Object>,
    /// What is wrong with the text itself.
    pub(crate) notices: Vec<Notice>,
    /// Whether some of it is no YAML and no JSON, as in a file half written.
    pub(crate) broken: bool,
}

pub(crate) fn read(name: &str, text: &str, decoder: &mut Decoder) -> Text {
    let mut reader = Reader { name, decoder, text: Text::default(), place: (0, 0) };
    // A byte order mark is no content.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with('{') && reader.read_json(text).is_ok() {
        return reader.text;
    }
    for (line, document) in documents(text) {
        reader.read_yaml(line, document);
    }
    reader.text
}

/// A Notice about a text itself; line and column start at 1, 0 is unknown.
pub(crate) fn text_notice(name: &str, place: (u64, u64), message: &str) -> Notice {
    let (line, column) = place;
    let field = if line == 0 { String::new() } else { format!("line {line} column {column}") };
    let object = NamespacedName::new("", name);
    let reason = Reason::InvalidObject;
    Notice { kind: KIND, object, field, reason, message: message.to_owned() }
}

struct Reader<'a> {
    name: &'a str,
    decoder: &'a mut Decoder,
    text: Text,
    /// Line and column of the document that is being read; 0 is unknown.
    place: (u64, u64),
}

impl Reader<'_> {
    /// All of the text as JSON values one after the other, or nothing of it. Each is decoded where
    /// it stands: a list of a whole cluster is never held a second time.
    fn read_json(&mut self, text: &str) -> Result<(), serde_json::Error> {
        let values: Result<Vec<&RawValue>, _> =
            serde_json::Deserializer::from_str(text).into_iter().collect();
        for value in values? {
            self.read_raw(value, "");
        }
        Ok(())
    }

    fn read_raw(&mut self, value: &RawValue, implied: &str) {
        let json = value.get();
        let Ok(head) = serde_json::from_str::<Head>(json) else { return };
        match self.meant(&head, implied) {
            Meant::Object(kind) => {
                self.read_object(kind, &mut serde_json::Deserializer::from_str(json));
            }
            Meant::List(implied) => {
                let list = serde_json::from_str::<RawList>(json).unwrap_or_default();
                list.items.into_iter().for_each(|item| self.read_raw(item, &implied));
            }
            Meant::Nothing => {}
        }
    }

    fn read_yaml(&mut self, first_line: u64, document: &str) {
        match serde_saphyr::from_str_with_options::<Option<Value>>(document, yaml_options()) {
            Ok(None) => {}
            Ok(Some(value)) => self.read_value(&value, "", (first_line + 1, 1)),
            Err(error) => {
                let error = error.without_snippet();
                let place =
                    error.location().map_or((0, 0), |l| (first_line + l.line(), l.column()));
                let why = error.to_string();
                let why = why.lines().next().unwrap_or_default();
                self.text.broken = true;
                let message = format!("not readable as YAML: {why}; the document is left out");
                self.text.notices.push(text_notice(self.name, place, &message));
            }
        }
    }

    fn read_value(&mut self, value: &Value, implied: &str, place: (u64, u64)) {
        let Ok(head) = Head::deserialize(value) else { return };
        self.place = place;
        match self.meant(&head, implied) {
            Meant::Object(kind) => self.read_object(kind, value),
            Meant::List(implied) => {
                let items = value.get("items").and_then(Value::as_array);
                items.into_iter().flatten().for_each(|item| self.read_value(item, &implied, place));
            }
            Meant::Nothing => {}
        }
    }

    /// What a value is meant to be; `implied` is the kind of items that name none themselves.
    fn meant(&mut self, head: &Head, implied: &str) -> Meant {
        let said = plain(&head.kind);
        let kind = if said.is_empty() { implied } else { said };
        if kind.is_empty() {
            let message = "no object with a kind; the document is left out";
            self.text.notices.push(text_notice(self.name, self.place, message));
            return Meant::Nothing;
        }
        if let Some(kind) = kind_of(kind, plain(&head.api_version)) {
            return Meant::Object(kind);
        }
        kind.strip_suffix("List").map_or(Meant::Nothing, |implied| Meant::List(implied.to_owned()))
    }

    fn read_object<'de, D: Deserializer<'de>>(&mut self, kind: Kind, object: D) {
        let Ok(told) = told(kind, object, self.decoder) else { return };
        let mut found = (None, None, Vec::new());
        for event in told.events {
            match event {
                Event::Notices(_, name, notices) => (found.0, found.2) = (Some(name), notices),
                event => found.1 = Some(event),
            }
        }
        let (noticed, event, notices) = found;
        let Some(name) = event.as_ref().and_then(event_name).or(noticed) else { return };
        if event.is_some() || !notices.is_empty() {
            self.text.objects.push(Object { kind, name, event, notices });
        }
    }
}

/// What a value of a text is.
enum Meant {
    /// An object that is read.
    Object(Kind),
    /// A list, of this kind if its items name none.
    List(String),
    /// Nothing that is read.
    Nothing,
}

/// A list of JSON objects as they stand.
#[derive(Default, Deserialize)]
#[serde(default)]
struct RawList<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

fn event_name(event: &Event) -> Option<NamespacedName> {
    match event {
        Event::Service(service) => Some(service.name.clone()),
        Event::Slice(slice) => Some(slice.name.clone()),
        Event::Node(node) => Some(NamespacedName::new("", node.name.clone())),
        Event::ServiceGone(name)
        | Event::SliceGone(name)
        | Event::ServiceCidr(name, _)
        | Event::ServiceCidrGone(name) => Some(name.clone()),
        Event::NodeGone | Event::Notices(..) | Event::ListStarted(_) | Event::ListEnded(_) => None,
    }
}

/// The documents of a YAML text, each with the number of lines before it. A line that begins with
/// `---` begins a document wherever it stands (YAML 1.2, rule c-forbidden).
pub(super) fn documents(text: &str) -> Vec<(u64, &str)> {
    let mut found = Vec::new();
    let (mut start, mut start_line, mut at, mut only_directives) = (0, 0, 0, true);
    for (line_number, line) in text.split_inclusive('\n').enumerate() {
        // Directives belong to the document whose `---` follows them.
        if is_separator(line) && !only_directives {
            found.push((start_line, &text[start..at]));
            (start, start_line) = (at, line_number as u64);
        }
        let word = line.trim();
        only_directives &= word.is_empty() || word.starts_with(['%', '#']);
        at += line.len();
    }
    found.push((start_line, &text[start..]));
    found
}

fn is_separator(line: &str) -> bool {
    let after = line.strip_prefix("---");
    after.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Limits against bombs: room for a document of some 100,000 endpoints, but an alias may not blow
/// a text up, and nesting no deeper than any object of the API.
pub(super) fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 20_000_000,
            max_nodes: 10_000_000,
            max_aliases: 10_000,
            max_anchors: 10_000,
            max_recorded_anchor_events: 100_000,
            max_depth: 48,
            max_documents: 2,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000 },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TWO: &str = "# a comment\n%YAML 1.2\n---\nkind: Service\napiVersion: v1\nmetadata: {name: a}\nspec: {clusterIP: 10.0.0.1}\n--- # the next\nkind: EndpointSlice\napiVersion: discovery.k8s.io/v1\nmetadata:\n  name: a-1\n  labels: {kubernetes.io/service-name: a}\naddressType: IPv4\n";

    fn read(text: &str) -> (Vec<Object>, Vec<Notice>) {
        read_text("f.yaml", text, &mut Decoder::new("n"))
    }

    fn names(objects: &[Object]) -> Vec<String> {
        objects.iter().map(|o| format!("{} {}", o.kind.as_str(), o.name)).collect()
    }

    #[test]
    fn documents_of_several_kinds() {
        let (objects, notices) = read(TWO);
        assert_eq!(names(&objects), ["Service default/a", "EndpointSlice default/a-1"]);
        assert_eq!(notices, []);
    }

    #[test]
    fn json_one_after_the_other_and_lists() {
        let (objects, notices) = read(
            r#"{"kind":"List","items":[{"kind":"Service","metadata":{"name":"a"}}]}
               {"kind":"ServiceList","apiVersion":"v1","items":[{"metadata":{"name":"b"}}]}
               {"kind":"EndpointSliceList","items":7}"#,
        );
        assert_eq!(names(&objects), ["Service default/a", "Service default/b"]);
        assert_eq!(notices, []);
    }

    #[test]
    fn a_broken_document_costs_only_itself() {
        let text = format!(
            "{TWO}---\nkind: Service\n  metadata: [\n---\nkind: Node\nmetadata: {{name: n}}\n"
        );
        let (objects, notices) = read(&text);
        assert_eq!(objects.len(), 3);
        assert_eq!(notices.len(), 1);
        assert_eq!(notices[0].object.to_string(), "f.yaml");
        assert!(notices[0].field.starts_with("line 17 "), "{}", notices[0]);
    }

    #[test]
    fn other_kinds_and_namesakes_are_passed_over() {
        let (objects, notices) = read(
            "kind: Deployment\napiVersion: apps/v1\n---\nkind: Service\napiVersion: serving.knative.dev/v1\nmetadata: {name: a}\n---\n\n---\n# nothing\n",
        );
        assert_eq!((objects.len(), notices.len()), (0, 0), "{notices:?}");
        let (objects, notices) = read("just words\n---\n[1, 2]\n---\n{a: b}\n");
        assert_eq!((objects.len(), notices.len()), (0, 3), "{notices:?}");
    }

    #[test]
    fn yaml_words_stay_words() {
        let (objects, _) = read(
            "kind: Service\nmetadata: {name: no, namespace: on, creationTimestamp: 2024-01-01T00:00:00Z}\nspec:\n  clusterIP: fd00::1\n  ports: [{name: off, port: 80}, {name: y, port: 0x51}]\n",
        );
        assert_eq!(names(&objects), ["Service on/no"]);
        let Some(Event::Service(service)) = &objects[0].event else { panic!("{objects:?}") };
        assert_eq!(objects[0].notices, []);
        assert_eq!(service.created, 1_704_067_200);
        assert_eq!(service.ports.iter().map(|p| p.port).collect::<Vec<_>>(), [80, 81]);
    }

    #[test]
    fn bombs_do_not_go_off() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for i in 1..12 {
            let before = format!("*a{},", i - 1).repeat(9);
            bomb.push_str(&format!("a{i}: &a{i} [{before}]\n"));
        }
        let (objects, notices) = read(&bomb);
        assert_eq!((objects.len(), notices.len()), (0, 1), "{notices:?}");
        let (_, notices) = read(&"[".repeat(100_000));
        assert_eq!(notices.len(), 1);
        let (_, notices) = read(&format!("{{\"a\":{}", "[".repeat(100_000)));
        assert_eq!(notices.len(), 1);
        let (_, notices) = read(&"a:\n".repeat(2000));
        assert_eq!(notices.len(), 1, "{notices:?}");
    }

    #[test]
    fn json_errors_have_a_place() {
        let (objects, notices) =
            read("{\"kind\": \"Service\",\n \"metadata\": {\"name\": \"a\"}, \n");
        assert_eq!((objects.len(), notices.len()), (0, 1));
        assert!(notices[0].field.starts_with("line "), "{}", notices[0]);
    }

    #[test]
    fn decode_text_tells_notices_before_their_object() {
        let text = "kind: Service\nmetadata: {name: a}\nspec: {clusterIP: 10.0.0.1, externalIPs: [x]}\n---\n{";
        let events = decode_text(text, &mut Decoder::new("n"));
        let kinds: Vec<&str> = events
            .iter()
            .map(|event| match event {
                Event::Notices(_, name, _) if &*name.name == "text" => "text",
                Event::Notices(..) => "notices",
                Event::Service(_) => "service",
                _ => "other",
            })
            .collect();
        assert_eq!(kinds, ["text", "notices", "service"]);
    }
}
