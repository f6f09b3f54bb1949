//! Kubernetes objects in files: read, changed and written back for the proxy to see.
//! Reads just enough of the API's JSON to know which pods must exist. Tests: below.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// A transport protocol of the echo servers and clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP, as packets made by hand: kernels without SCTP sockets still NAT it.
    Sctp,
}

impl Transport {
    /// The protocol of this name, in either case.
    pub fn parse(name: &str) -> Option<Transport> {
        match name.to_ascii_lowercase().as_str() {
            "tcp" => Some(Transport::Tcp),
            "udp" => Some(Transport::Udp),
            "sctp" => Some(Transport::Sctp),
            _ => None,
        }
    }

    /// Its name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
            Transport::Sctp => "sctp",
        }
    }
}

/// A pod that the EndpointSlices speak of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSpec {
    /// Its name: `targetRef.name`, or else its address.
    pub name: String,
    /// The node it runs on.
    pub node: String,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The ports on which it answers.
    pub ports: BTreeSet<(Transport, u16)>,
}

/// Manifest files with their objects.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    files: BTreeMap<String, Vec<Value>>,
    changed: BTreeSet<String>,
}

impl Manifests {
    /// Reads every `.yaml`, `.yml` and `.json` file of a folder.
    pub fn read(folder: &Path) -> Result<Manifests, String> {
        let listed = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let mut files = BTreeMap::new();
        for entry in listed.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !["yaml", "yml", "json"].iter().any(|end| name.ends_with(end)) {
                continue;
            }
            let text = fs::read_to_string(entry.path()).map_err(|e| format!("{name}: {e}"))?;
            files.insert(name.clone(), parse(&text).map_err(|e| format!("{name}: {e}"))?);
        }
        Ok(Manifests { files, changed: BTreeSet::new() })
    }

    /// All objects, in the order of the files.
    pub fn objects(&self) -> impl Iterator<Item = &Value> {
        self.files.values().flatten()
    }

    /// Puts an object in the place of the one of the same kind and name, or in a new file.
    pub fn put(&mut self, object: Value) {
        let wanted = key(&object);
        for (file, objects) in &mut self.files {
            if let Some(known) = objects.iter_mut().find(|o| key(o) == wanted) {
                *known = object;
                self.changed.insert(file.clone());
                return;
            }
        }
        let file = format!("{}.json", wanted.join("-").to_lowercase());
        self.changed.insert(file.clone());
        self.files.insert(file, vec![object]);
    }

    /// Adds an object that is known to be new to a file, without looking for an older one.
    pub fn put_new(&mut self, object: Value, file: &str) {
        self.changed.insert(file.to_owned());
        self.files.entry(file.to_owned()).or_default().push(object);
    }

    /// Takes an object away; says whether it was there.
    pub fn remove(&mut self, kind: &str, name: &str) -> bool {
        let mut found = false;
        for (file, objects) in &mut self.files {
            let before = objects.len();
            objects.retain(|o| !(text(o, "/kind") == kind && text(o, "/metadata/name") == name));
            if objects.len() != before {
                self.changed.insert(file.clone());
                found = true;
            }
        }
        found
    }

    /// One object by kind and name.
    pub fn get(&self, kind: &str, name: &str) -> Option<&Value> {
        self.objects().find(|o| text(o, "/kind") == kind && text(o, "/metadata/name") == name)
    }

    /// Writes all files into a folder.
    pub fn write_all(&mut self, folder: &Path) -> Result<(), String> {
        self.changed.extend(self.files.keys().cloned());
        self.write(folder)
    }

    /// Writes the files that were changed into a folder, each by renaming, so that no half file is
    /// ever seen; files without objects are deleted.
    pub fn write(&mut self, folder: &Path) -> Result<(), String> {
        for name in std::mem::take(&mut self.changed) {
            let objects = self.files.get(&name).map(Vec::as_slice).unwrap_or_default();
            let path = folder.join(&name);
            let result = if objects.is_empty() {
                fs::remove_file(&path).or_else(|e| {
                    if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) }
                })
            } else {
                // JSON one after the other is read much faster than YAML.
                let between = if name.ends_with(".json") { "" } else { "---\n" };
                let text: Vec<String> = objects.iter().map(|o| format!("{o:#}\n")).collect();
                replace(&path, &text.join(between))
            };
            result.map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(())
    }

    /// The pods behind all slices, by name.
    pub fn pods(&self) -> BTreeMap<String, PodSpec> {
        pods_of(self.objects())
    }
}

/// The pods behind all slices among the objects, by name.
pub fn pods_of<'a>(objects: impl IntoIterator<Item = &'a Value>) -> BTreeMap<String, PodSpec> {
    let mut pods = BTreeMap::new();
    for slice in objects.into_iter().filter(|o| text(o, "/kind") == "EndpointSlice") {
        add_pods(slice, &mut pods);
    }
    pods
}

/// Writes a file by way of a hidden one beside it.
fn replace(path: &Path, content: &str) -> std::io::Result<()> {
    let file = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let hidden: PathBuf = path.with_file_name(format!(".{file}.new"));
    fs::write(&hidden, content)?;
    fs::rename(&hidden, path)
}

/// The documents of a YAML (or JSON) text; a `List` counts as its items.
pub fn parse(text: &str) -> Result<Vec<Value>, String> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|e| e.to_string())?;
    let mut objects = Vec::new();
    for mut document in documents {
        match document.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => objects.extend(items),
            _ if document.is_object() => objects.push(document),
            _ => {}
        }
    }
    Ok(objects)
}

/// The text at a JSON pointer, empty if there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn key(object: &Value) -> [String; 3] {
    let namespace = text(object, "/metadata/namespace");
    let namespace = if namespace.is_empty() { "default" } else { namespace };
    [text(object, "/kind").into(), namespace.into(), text(object, "/metadata/name").into()]
}

fn array<'a>(object: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    object.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn add_pods(slice: &Value, pods: &mut BTreeMap<String, PodSpec>) {
    let ports: Vec<(Transport, u16)> = array(slice, "ports").filter_map(port).collect();
    for endpoint in array(slice, "endpoints") {
        let Some(address) = endpoint.pointer("/addresses/0").and_then(Value::as_str) else {
            continue;
        };
        let Ok(parsed) = address.parse::<IpAddr>() else { continue };
        let name = match text(endpoint, "/targetRef/name") {
            "" => address,
            name => name,
        };
        let pod = pods.entry(name.to_owned()).or_default();
        pod.name = name.to_owned();
        pod.node = text(endpoint, "/nodeName").to_owned();
        pod.addresses.insert(parsed);
        pod.ports.extend(ports.iter().copied());
    }
}

fn port(port: &Value) -> Option<(Transport, u16)> {
    let protocol = match text(port, "/protocol") {
        "" => "tcp",
        name => name,
    };
    let number = u16::try_from(port.get("port")?.as_u64()?).ok()?;
    Some((Transport::parse(protocol)?, number))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SLICES: &str = "\
kind: EndpointSlice
metadata: {name: a-4}
addressType: IPv4
ports: [{name: http, port: 8080}, {protocol: UDP, port: 53}]
endpoints: [{addresses: [10.1.0.1], nodeName: n1, targetRef: {name: a}}]
---
kind: EndpointSlice
metadata: {name: a-6}
addressType: IPv6
ports: [{name: http, port: 8080}]
endpoints: [{addresses: ['fd00::1'], nodeName: n1, targetRef: {name: a}}]
";

    #[test]
    fn a_pod_of_two_families_is_one_pod() {
        let files = BTreeMap::from([("a.yaml".to_owned(), parse(SLICES).unwrap())]);
        let pods = Manifests { files, ..Manifests::default() }.pods();
        assert_eq!(pods.len(), 1);
        assert_eq!(pods["a"].addresses.len(), 2);
        assert_eq!(pods["a"].ports.len(), 2);
    }

    #[test]
    fn objects_are_replaced_in_their_file() {
        let files = BTreeMap::from([("a.yaml".to_owned(), parse(SLICES).unwrap())]);
        let mut manifests = Manifests { files, ..Manifests::default() };
        let mut slice = manifests.get("EndpointSlice", "a-4").unwrap().clone();
        slice["endpoints"] = serde_json::json!([]);
        manifests.put(slice);
        assert_eq!(manifests.objects().count(), 2);
        assert_eq!(manifests.pods()["a"].addresses.len(), 1);
        assert!(manifests.remove("EndpointSlice", "a-6"));
        assert!(manifests.pods().is_empty());
    }
}
