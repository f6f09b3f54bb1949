//! The objects of the lab's API server with their history, as etcd and the watch cache keep them:
//! one growing version for all, a log of changes, and compaction that forgets its beginning.
//! Knows nothing of HTTP or time. Objects are kept as finished JSON: lists are joins. Tests: below.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::Value;
use tokio::sync::watch;

/// A kind of object that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// `v1` Service.
    Services,
    /// `v1` Node.
    Nodes,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlices,
    /// `networking.k8s.io/v1` ServiceCIDR.
    ServiceCidrs,
}

impl Resource {
    /// All of them.
    pub const ALL: [Resource; 4] =
        [Resource::Services, Resource::Nodes, Resource::EndpointSlices, Resource::ServiceCidrs];

    /// Kind, plural and API version.
    pub fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Resource::Services => ("Service", "services", "v1"),
            Resource::Nodes => ("Node", "nodes", "v1"),
            Resource::EndpointSlices => ("EndpointSlice", "endpointslices", "discovery.k8s.io/v1"),
            Resource::ServiceCidrs => ("ServiceCIDR", "servicecidrs", "networking.k8s.io/v1"),
        }
    }

    /// Whether its objects live in namespaces.
    pub fn namespaced(self) -> bool {
        matches!(self, Resource::Services | Resource::EndpointSlices)
    }

    /// The resource of an object's kind.
    pub fn of_kind(kind: &str) -> Option<Resource> {
        Resource::ALL.into_iter().find(|r| r.names().0 == kind)
    }
}

/// Namespace (empty for cluster-scoped objects) and name.
pub type Name = (String, String);

/// An object as it is kept.
#[derive(Debug)]
pub struct Stored {
    /// Namespace and name.
    pub name: Name,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its resourceVersion.
    pub version: u64,
    /// JSON without kind and apiVersion, as lists carry it.
    pub bare: String,
}

impl Stored {
    /// JSON with kind and apiVersion, as watches and single reads carry it.
    pub fn whole(&self, resource: Resource) -> String {
        let (kind, _, version) = resource.names();
        format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",{}", &self.bare[1..])
    }
}

/// What a change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// The object is new.
    Added,
    /// It was there and is different.
    Modified,
    /// It is gone; the last state is told.
    Deleted,
}

/// One entry of the log.
#[derive(Clone, Debug)]
pub struct Change {
    /// The version it made.
    pub version: u64,
    /// What it did.
    pub verb: Verb,
    /// The object; for a deletion with the deletion's version.
    pub object: Arc<Stored>,
    /// The object before.
    pub before: Option<Arc<Stored>>,
}

/// All objects of one resource at one time.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Version of the store at that time.
    pub version: u64,
    /// The objects in order of their names.
    pub objects: Vec<Arc<Stored>>,
}

#[derive(Default)]
struct Inner {
    version: u64,
    compacted: u64,
    objects: BTreeMap<Resource, BTreeMap<Name, Arc<Stored>>>,
    log: BTreeMap<Resource, VecDeque<Change>>,
}

/// The store. Shared between the server and whoever changes objects.
pub struct Store {
    inner: Mutex<Inner>,
    version: watch::Sender<u64>,
}

impl Default for Store {
    fn default() -> Self {
        // A real cluster's versions do not begin at 1, and 0 means something special to clients.
        let inner = Inner { version: 1000, compacted: 1000, ..Inner::default() };
        Store { inner: Mutex::new(inner), version: watch::Sender::new(1000) }
    }
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Makes or replaces an object; gives back its version.
    pub fn set(&self, object: &Value) -> Result<u64, String> {
        let mut inner = self.lock();
        let version = inner.set(object)?;
        drop(inner);
        self.version.send_replace(version);
        Ok(version)
    }

    /// Makes or replaces many objects; watchers wake once.
    pub fn set_all<'a>(&self, objects: impl IntoIterator<Item = &'a Value>) -> Result<(), String> {
        let mut inner = self.lock();
        for object in objects {
            inner.set(object)?;
        }
        let version = inner.version;
        drop(inner);
        self.version.send_replace(version);
        Ok(())
    }

    /// Deletes an object; says whether it was there.
    pub fn delete(&self, resource: Resource, namespace: &str, name: &str) -> bool {
        let mut inner = self.lock();
        let key = (namespace.to_owned(), name.to_owned());
        let Some(before) = inner.objects.entry(resource).or_default().remove(&key) else {
            return false;
        };
        inner.version += 1;
        let version = inner.version;
        let bare = before.bare.replacen(
            &format!("\"resourceVersion\":\"{}\"", before.version),
            &format!("\"resourceVersion\":\"{version}\""),
            1,
        );
        let labels = before.labels.clone();
        let object = Arc::new(Stored { name: key, labels, version, bare });
        let change = Change { version, verb: Verb::Deleted, object, before: Some(before) };
        inner.log.entry(resource).or_default().push_back(change);
        drop(inner);
        self.version.send_replace(version);
        true
    }

    /// Deletes an object so that no watcher ever hears of it: what a client misses while it is
    /// disconnected and the log is compacted. Only a new list shows it.
    pub fn vanish(&self, resource: Resource, namespace: &str, name: &str) -> bool {
        let mut inner = self.lock();
        let key = (namespace.to_owned(), name.to_owned());
        let found = inner.objects.entry(resource).or_default().remove(&key).is_some();
        inner.version += 1;
        found
    }

    /// Forgets the log: watches from an older version are told 410 Gone.
    pub fn compact(&self) {
        let mut inner = self.lock();
        inner.version += 1;
        inner.compacted = inner.version;
        inner.log.clear();
    }

    /// All objects of a resource now.
    pub fn snapshot(&self, resource: Resource) -> Snapshot {
        let inner = self.lock();
        let objects = inner.objects.get(&resource);
        let objects = objects.map(|o| o.values().cloned().collect()).unwrap_or_default();
        Snapshot { version: inner.version, objects }
    }

    /// One object now.
    pub fn get(&self, resource: Resource, name: &Name) -> Option<Arc<Stored>> {
        self.lock().objects.get(&resource)?.get(name).cloned()
    }

    /// The version now.
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// The oldest version from which a watch can go on.
    pub fn compacted(&self) -> u64 {
        self.lock().compacted
    }

    /// The changes of a resource after a version, with the version they lead to; nothing if the
    /// log does not go back that far.
    pub fn since(&self, resource: Resource, version: u64) -> Option<(Vec<Change>, u64)> {
        let inner = self.lock();
        if version < inner.compacted {
            return None;
        }
        let changes = inner.log.get(&resource).map(|log| {
            let from = log.partition_point(|change| change.version <= version);
            log.range(from..).cloned().collect()
        });
        Some((changes.unwrap_or_default(), inner.version))
    }

    /// Wakes at every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}

impl Inner {
    fn set(&mut self, object: &Value) -> Result<u64, String> {
        let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
        let resource =
            Resource::of_kind(kind).ok_or_else(|| format!("kind {kind:?} is not served"))?;
        self.version += 1;
        let object = Arc::new(stored(resource, object, self.version)?);
        let known = self.objects.entry(resource).or_default();
        let before = known.insert(object.name.clone(), object.clone());
        let verb = if before.is_some() { Verb::Modified } else { Verb::Added };
        let change = Change { version: self.version, verb, object, before };
        self.log.entry(resource).or_default().push_back(change);
        Ok(self.version)
    }
}

fn stored(resource: Resource, object: &Value, version: u64) -> Result<Stored, String> {
    let mut object = object.clone();
    let fields = object.as_object_mut().ok_or("an object is a JSON object")?;
    fields.remove("kind");
    fields.remove("apiVersion");
    let metadata = fields
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
        .ok_or("an object has metadata")?;
    let word = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let name = word(metadata.get("name"));
    let mut namespace = word(metadata.get("namespace"));
    if resource.namespaced() && namespace.is_empty() {
        namespace = "default".to_owned();
        metadata.insert("namespace".to_owned(), namespace.clone().into());
    }
    metadata.insert("resourceVersion".to_owned(), version.to_string().into());
    if !metadata.contains_key("uid") {
        metadata.insert("uid".to_owned(), format!("uid-{namespace}-{name}").into());
    }
    let labels = metadata.get("labels").and_then(Value::as_object);
    let labels = labels.into_iter().flatten().map(|(k, v)| (k.clone(), word(Some(v)))).collect();
    Ok(Stored { name: (namespace, name), labels, version, bare: object.to_string() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn history_is_told_until_it_is_compacted() {
        let store = Store::default();
        let start = store.version();
        let service = json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "a"}});
        store.set(&service).unwrap();
        store.set(&service).unwrap();
        assert!(store.delete(Resource::Services, "default", "a"));
        let (changes, version) = store.since(Resource::Services, start).unwrap();
        let verbs: Vec<Verb> = changes.iter().map(|c| c.verb).collect();
        assert_eq!(verbs, [Verb::Added, Verb::Modified, Verb::Deleted]);
        assert_eq!(version, start + 3);
        let told: Value =
            serde_json::from_str(&changes[2].object.whole(Resource::Services)).unwrap();
        assert_eq!(told["metadata"]["resourceVersion"], (start + 3).to_string());
        assert_eq!(told["kind"], "Service");
        store.compact();
        assert!(store.since(Resource::Services, start).is_none());
        assert!(store.snapshot(Resource::Services).objects.is_empty());
    }
}
