//! Many files into one cluster, and one cluster after another into Events.
//!
//! It must never know a file beyond its name. Tests: `tests.rs`.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use crate::api::text::{Object, text_notices};
use crate::model::{Event, Kind, NamespacedName, Notice, Reason};

type Key = (Kind, NamespacedName);

/// A cluster as all files together say it.
#[derive(Debug, Default)]
pub(super) struct Merged {
    objects: BTreeMap<Key, Entry>,
    /// What is wrong with files themselves, by their names.
    texts: BTreeMap<NamespacedName, Vec<Notice>>,
}

#[derive(Debug, PartialEq)]
struct Entry {
    event: Option<Event>,
    notices: Vec<Notice>,
}

/// The objects of files in order. Of two that have one name the first counts.
pub(super) fn merge<'a>(
    files: impl Iterator<Item = (&'a OsStr, &'a [Object])>,
    text_notices: Vec<Notice>,
) -> Merged {
    let mut merged = Merged::default();
    let mut origins: BTreeMap<Key, &OsStr> = BTreeMap::new();
    for (file, objects) in files {
        for object in objects {
            let key = (object.kind, object.name.clone());
            let first = *origins.entry(key.clone()).or_insert(file);
            merged.add(key, object, (first, file));
        }
    }
    for notice in text_notices {
        merged.texts.entry(notice.object.clone()).or_default().push(notice);
    }
    merged
}

impl Merged {
    fn add(&mut self, key: Key, object: &Object, (first, file): (&OsStr, &OsStr)) {
        let Some(entry) = self.objects.get_mut(&key) else {
            let (event, notices) = (object.event.clone(), object.notices.clone());
            self.objects.insert(key, Entry { event, notices });
            return;
        };
        // Objects without a usable name share one entry, and are not the same one.
        if object.event.is_none() || entry.event.is_none() {
            entry.notices.extend(object.notices.iter().cloned());
            entry.event = entry.event.take().or_else(|| object.event.clone());
            return;
        }
        let message = format!("is in {first:?} and again in {file:?}; the first one counts");
        let (kind, name) = (key.0.as_str(), key.1);
        let (field, reason) = (String::new(), Reason::InvalidObject);
        entry.notices.push(Notice { kind, object: name, field, reason, message });
    }
}

/// What was told last.
#[derive(Debug, Default)]
pub(super) struct Told {
    last: Option<Merged>,
}

impl Told {
    /// Full lists the first time, then only differences.
    pub(super) fn differences(&mut self, now: Merged) -> Vec<Event> {
        let mut events = Vec::new();
        match &self.last {
            None => {
                for kind in Kind::ALL {
                    events.push(Event::ListStarted(kind));
                    let of_kind = now.objects.iter().filter(|((k, _), _)| *k == kind);
                    of_kind.for_each(|(key, entry)| tell(key, None, entry, &mut events));
                    events.push(Event::ListEnded(kind));
                }
                let texts = now.texts.iter();
                events
                    .extend(texts.map(|(name, notices)| text_notices(&name.name, notices.clone())));
            }
            Some(last) => {
                for (key, entry) in
                    last.objects.iter().filter(|(k, _)| !now.objects.contains_key(k))
                {
                    untell(key, entry, &mut events);
                }
                for (key, entry) in &now.objects {
                    tell(key, last.objects.get(key), entry, &mut events);
                }
                tell_texts(last, &now, &mut events);
            }
        }
        self.last = Some(now);
        events
    }
}

fn tell(key: &Key, before: Option<&Entry>, now: &Entry, events: &mut Vec<Event>) {
    let none = Entry { event: None, notices: Vec::new() };
    let before = before.unwrap_or(&none);
    if before.notices != now.notices {
        events.push(Event::Notices(key.0, key.1.clone(), now.notices.clone()));
    }
    if before.event != now.event {
        events.extend(now.event.clone().or_else(|| Some(gone(key))));
    }
}

fn untell(key: &Key, before: &Entry, events: &mut Vec<Event>) {
    if !before.notices.is_empty() {
        events.push(Event::Notices(key.0, key.1.clone(), Vec::new()));
    }
    if before.event.is_some() {
        events.push(gone(key));
    }
}

fn tell_texts(last: &Merged, now: &Merged, events: &mut Vec<Event>) {
    for name in last.texts.keys().filter(|name| !now.texts.contains_key(name)) {
        events.push(text_notices(&name.name, Vec::new()));
    }
    for (name, notices) in
        now.texts.iter().filter(|(n, notices)| last.texts.get(n) != Some(notices))
    {
        events.push(text_notices(&name.name, notices.clone()));
    }
}

fn gone(key: &Key) -> Event {
    let name = key.1.clone();
    match key.0 {
        Kind::Service => Event::ServiceGone(name),
        Kind::EndpointSlice => Event::SliceGone(name),
        Kind::Node => Event::NodeGone,
        Kind::ServiceCidr => Event::ServiceCidrGone(name),
    }
}
