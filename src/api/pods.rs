//! Pods by name, for questions of people: from Pods, and from what EndpointSlices say an endpoint
//! is. The proxy itself never needs them. Tests: below.

use serde_json::Value;

use super::text::{documents, yaml_options};
use crate::model::{NamespacedName, Pod};

/// Pods that the manifests of a folder tell of; files that cannot be read tell of none.
pub fn of_folder(folder: &std::path::Path) -> Vec<Pod> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = files.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    paths.sort();
    let texts = paths.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    let mut pods: Vec<Pod> = texts.flat_map(|text| of_text(&text)).collect();
    merge(&mut pods);
    pods
}

/// Pods that a text of YAML or JSON documents tells of.
pub fn of_text(text: &str) -> Vec<Pod> {
    let parsed = documents(text).into_iter().filter_map(|(_, document)| {
        serde_saphyr::from_str_with_options::<Option<Value>>(document, yaml_options()).ok()?
    });
    parsed.flat_map(|value| of_value(&value)).collect()
}

/// Pods that an object or a list tells of.
pub fn of_value(value: &Value) -> Vec<Pod> {
    match value["kind"].as_str().unwrap_or_default() {
        "Pod" => of_pod(value).into_iter().collect(),
        "EndpointSlice" => of_slice(value),
        // Items of a PodList say no kind themselves.
        "PodList" => items(value).iter().filter_map(of_pod).collect(),
        "EndpointSliceList" => items(value).iter().flat_map(of_slice).collect(),
        "List" => items(value).iter().flat_map(of_value).collect(),
        _ => Vec::new(),
    }
}

fn items(value: &Value) -> &[Value] {
    value["items"].as_array().map_or(&[], Vec::as_slice)
}

fn of_pod(value: &Value) -> Option<Pod> {
    let name = NamespacedName::new(
        value["metadata"]["namespace"].as_str().unwrap_or("default"),
        value["metadata"]["name"].as_str()?,
    );
    let several = value["status"]["podIPs"].as_array().into_iter().flatten();
    let texts = several.filter_map(|ip| ip["ip"].as_str()).chain(value["status"]["podIP"].as_str());
    let mut addresses: Vec<_> = texts.filter_map(|text| text.parse().ok()).collect();
    addresses.sort();
    addresses.dedup();
    Some(Pod { name, addresses })
}

fn of_slice(value: &Value) -> Vec<Pod> {
    let endpoints = value["endpoints"].as_array().into_iter().flatten();
    let pod = |endpoint: &Value| {
        let target = &endpoint["targetRef"];
        let namespace = target["namespace"].as_str().or(value["metadata"]["namespace"].as_str());
        let name = NamespacedName::new(namespace.unwrap_or("default"), target["name"].as_str()?);
        let address = endpoint["addresses"][0].as_str()?.parse().ok()?;
        (target["kind"] == "Pod").then(|| Pod { name, addresses: vec![address] })
    };
    endpoints.filter_map(pod).collect()
}

/// One entry a pod, with all of its addresses.
pub fn merge(pods: &mut Vec<Pod>) {
    pods.sort();
    pods.dedup_by(|next, kept| {
        let same = next.name == kept.name;
        if same {
            kept.addresses.append(&mut next.addresses);
            kept.addresses.sort();
            kept.addresses.dedup();
        }
        same
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_known_from_pods_and_slices() {
        let text = "\
kind: Pod
metadata: {name: a, namespace: x}
status: {podIPs: [{ip: 10.0.0.1}, {ip: fd00::1}], podIP: 10.0.0.1}
---
kind: EndpointSlice
metadata: {name: s, namespace: x}
endpoints:
- {addresses: [10.0.0.2], targetRef: {kind: Pod, name: b}}
- {addresses: [10.0.0.3]}
";
        let mut pods = of_text(text);
        pods.extend(of_text("kind: EndpointSlice\nmetadata: {namespace: x}\nendpoints: [{addresses: ['fd00::2'], targetRef: {kind: Pod, name: b}}]"));
        merge(&mut pods);
        let told: Vec<String> =
            pods.iter().map(|p| format!("{} {:?}", p.name, p.addresses)).collect();
        assert_eq!(told, ["x/a [10.0.0.1, fd00::1]", "x/b [10.0.0.2, fd00::2]"]);
    }
}
