//! The API's objects into our words, leniently: what is malformed is left out with a Notice that
//! names object and field, and the rest of the object counts.
//!
//! Defaults that the API server fills in are filled in here too, so that files and vectors need
//! not have them. It must never know where the bytes came from. Tests: `tests.rs`.

mod check;
mod node;
mod service;
mod slice;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer};

use super::lenient::{Scalar, lenient_object};
use super::objects;
use crate::model::{Event, Hints, Interner, Kind, NamespacedName, Notice, Reason};
use check::Check;
pub(crate) use check::plain;

/// What decoding remembers from one object to the next: shared strings, and which objects were
/// complained about, so that a complaint can be taken back.
#[derive(Debug)]
pub struct Decoder {
    node_name: Arc<str>,
    interner: Interner,
    hints: BTreeSet<Arc<Hints>>,
    noticed: BTreeSet<(Kind, NamespacedName)>,
}

impl Decoder {
    /// A decoder on the node of this name; other nodes' Node objects are passed over.
    pub fn new(node_name: impl Into<Arc<str>>) -> Decoder {
        Decoder {
            node_name: node_name.into(),
            interner: Interner::default(),
            hints: BTreeSet::new(),
            noticed: BTreeSet::new(),
        }
    }

    fn intern(&mut self, text: &str) -> Arc<str> {
        self.interner.intern(text)
    }

    /// The shared copy of these hints; unused ones are swept now and then.
    fn share_hints(&mut self, hints: Hints) -> Arc<Hints> {
        if let Some(known) = self.hints.get(&hints) {
            return known.clone();
        }
        if self.hints.len() >= 256 && self.hints.len().is_power_of_two() {
            self.hints.retain(|hints| Arc::strong_count(hints) > 1);
        }
        let new = Arc::new(hints);
        self.hints.insert(new.clone());
        new
    }

    /// Puts an object's complaints before its event.
    fn conclude(&mut self, check: Check, event: Option<Event>) -> Vec<Event> {
        let (kind, name, notices) = check.into_parts();
        let mut events = Vec::with_capacity(2);
        let key = (kind, name);
        let before = if notices.is_empty() {
            self.noticed.remove(&key)
        } else {
            self.noticed.insert(key.clone());
            true
        };
        if before {
            events.push(Event::Notices(key.0, key.1, notices));
        }
        events.extend(event);
        events
    }
}

/// The Events of one object, and its `metadata.resourceVersion`.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) events: Vec<Event>,
    #[cfg_attr(not(feature = "api-server"), allow(dead_code, reason = "only watches need it"))]
    pub(crate) version: Option<Box<str>>,
}

/// The Events of a `v1` Service, from JSON in any form (`&serde_json::Value`, for one).
pub fn service<'de, D: Deserializer<'de>>(object: D, decoder: &mut Decoder) -> Vec<Event> {
    any(Kind::Service, object, decoder)
}

/// The Events of a `discovery.k8s.io/v1` EndpointSlice.
pub fn endpoint_slice<'de, D: Deserializer<'de>>(object: D, decoder: &mut Decoder) -> Vec<Event> {
    any(Kind::EndpointSlice, object, decoder)
}

/// The Events of a `v1` Node; none if it is another node.
pub fn node<'de, D: Deserializer<'de>>(object: D, decoder: &mut Decoder) -> Vec<Event> {
    any(Kind::Node, object, decoder)
}

/// The Events of a `networking.k8s.io/v1` ServiceCIDR.
pub fn service_cidr<'de, D: Deserializer<'de>>(object: D, decoder: &mut Decoder) -> Vec<Event> {
    any(Kind::ServiceCidr, object, decoder)
}

fn any<'de, D: Deserializer<'de>>(kind: Kind, object: D, decoder: &mut Decoder) -> Vec<Event> {
    match told(kind, object, decoder) {
        Ok(told) => told.events,
        Err(error) => vec![unreadable(kind, &error.to_string())],
    }
}

/// An object that was read, whatever it was written in, and that exists.
pub(crate) trait Object {
    /// Its Events.
    fn told(self, decoder: &mut Decoder) -> Told;
}

impl Object for objects::Service {
    fn told(self, decoder: &mut Decoder) -> Told {
        service::decode(self, decoder)
    }
}

impl Object for objects::EndpointSlice {
    fn told(self, decoder: &mut Decoder) -> Told {
        slice::decode(self, decoder)
    }
}

impl Object for objects::Node {
    fn told(self, decoder: &mut Decoder) -> Told {
        node::decode_node(self, decoder)
    }
}

impl Object for objects::ServiceCidr {
    fn told(self, decoder: &mut Decoder) -> Told {
        node::decode_cidr(self, decoder)
    }
}

/// An object that exists, of a kind that is known. Fails only on broken syntax.
pub(crate) fn told<'de, D: Deserializer<'de>>(
    kind: Kind,
    object: D,
    decoder: &mut Decoder,
) -> Result<Told, D::Error> {
    Ok(match kind {
        Kind::Service => objects::Service::deserialize(object)?.told(decoder),
        Kind::EndpointSlice => objects::EndpointSlice::deserialize(object)?.told(decoder),
        Kind::Node => objects::Node::deserialize(object)?.told(decoder),
        Kind::ServiceCidr => objects::ServiceCidr::deserialize(object)?.told(decoder),
    })
}

/// An object that was deleted. Fails only on broken syntax.
#[cfg_attr(not(feature = "api-server"), allow(dead_code, reason = "only watches need it"))]
pub(crate) fn gone<'de, D: Deserializer<'de>>(
    kind: Kind,
    object: D,
    decoder: &mut Decoder,
) -> Result<Told, D::Error> {
    Ok(gone_of(kind, objects::AnyObject::deserialize(object)?, decoder))
}

/// An object that was deleted.
#[cfg_attr(not(feature = "api-server"), allow(dead_code, reason = "only watches need it"))]
pub(crate) fn gone_of(kind: Kind, object: objects::AnyObject, decoder: &mut Decoder) -> Told {
    let version = check::version(&object.meta);
    let events = match check::name(kind, &object.meta, object.wrong, decoder) {
        Err(_) => Vec::new(),
        Ok(name) if kind == Kind::Node && name.name != decoder.node_name => Vec::new(),
        Ok(name) => decoder.conclude(Check::new(kind, name.clone()), Some(gone_event(kind, name))),
    };
    Told { events, version }
}

fn gone_event(kind: Kind, name: NamespacedName) -> Event {
    match kind {
        Kind::Service => Event::ServiceGone(name),
        Kind::EndpointSlice => Event::SliceGone(name),
        Kind::Node => Event::NodeGone,
        Kind::ServiceCidr => Event::ServiceCidrGone(name),
    }
}

/// The Event for something that is no object at all, so has no name.
fn unreadable(kind: Kind, why: &str) -> Event {
    let object = NamespacedName::new("", "");
    let message = format!("not readable: {}; left out", check::shown(why));
    let reason = Reason::InvalidObject;
    let notice = Notice {
        kind: kind.as_str(),
        object: object.clone(),
        field: String::new(),
        reason,
        message,
    };
    Event::Notices(kind, object, vec![notice])
}

/// The kind meant by `kind` and `apiVersion`, if it is one that is read.
pub(crate) fn kind_of(kind: &str, api_version: &str) -> Option<Kind> {
    let found = Kind::ALL.into_iter().find(|k| k.as_str() == kind)?;
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let expected = match found {
        Kind::Service | Kind::Node => "",
        Kind::EndpointSlice => "discovery.k8s.io",
        Kind::ServiceCidr => "networking.k8s.io",
    };
    // A text without apiVersion is taken at its kind's word; another group's namesake is not.
    (api_version.is_empty() || group == expected).then_some(found)
}

lenient_object! {
    /// What kind of thing a text is.
    Head { api_version: Scalar = "apiVersion", kind: Scalar = "kind", }
}

/// The Events of one JSON object of any kind, or of a list of them, as text. Kinds that are not
/// read give none; text that is no JSON gives a Notice.
pub fn decode_json(bytes: &[u8], decoder: &mut Decoder) -> Vec<Event> {
    let head: Head = match serde_json::from_slice(bytes) {
        Ok(head) => head,
        Err(error) => return vec![unreadable(Kind::Service, &error.to_string())],
    };
    if let Some(found) = head.wrong {
        return vec![unreadable(Kind::Service, &format!("{found} where an object is wanted"))];
    }
    let (kind, version) = (check::plain(&head.kind), check::plain(&head.api_version));
    if let Some(kind) = kind_of(kind, version) {
        return any(kind, &mut serde_json::Deserializer::from_slice(bytes), decoder);
    }
    if !kind.ends_with("List") {
        return Vec::new();
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => super::decode_text(text, decoder),
        Err(error) => vec![unreadable(Kind::Service, &error.to_string())],
    }
}
