//! Label and field selectors, as far as clients of Services and EndpointSlices use them.
//! What is not understood is an error, never "everything". Tests: below.

use std::collections::BTreeMap;

/// One requirement on labels.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

/// A label selector and a field selector; empty ones select everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(String, String, Sense)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sense {
    Equal,
    Different,
}

impl Selector {
    /// Reads the two query parameters.
    pub(super) fn parse(labels: &str, fields: &str) -> Result<Selector, String> {
        let labels = split(labels).into_iter().map(requirement).collect::<Result<_, _>>()?;
        let fields = split(fields).into_iter().map(field).collect::<Result<_, _>>()?;
        Ok(Selector { labels, fields })
    }

    /// Whether an object is selected.
    pub(super) fn selects(
        &self,
        namespace: &str,
        name: &str,
        labels: &BTreeMap<String, String>,
    ) -> bool {
        let label = |key: &str| labels.get(key);
        let by_labels = self.labels.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => label(key).is_some_and(|v| values.contains(v)),
            Requirement::NotIn(key, values) => !label(key).is_some_and(|v| values.contains(v)),
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Absent(key) => label(key).is_none(),
        });
        by_labels
            && self.fields.iter().all(|(field, value, sense)| {
                let actual = if field == "metadata.name" { name } else { namespace };
                (actual == value) == (*sense == Sense::Equal)
            })
    }
}

/// Splits at commas that are not inside parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0usize, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts.retain(|p| !p.is_empty());
    parts
}

fn requirement(text: &str) -> Result<Requirement, String> {
    let one = |value: &str| vec![value.trim().to_owned()];
    if let Some((key, value)) = text.split_once("!=") {
        return Ok(Requirement::NotIn(key.trim().to_owned(), one(value)));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Requirement::In(key.trim().to_owned(), one(value)));
    }
    if let Some(key) = text.strip_prefix('!') {
        return Ok(Requirement::Absent(key.trim().to_owned()));
    }
    if let Some((head, list)) = text.split_once('(') {
        let list = list.strip_suffix(')').ok_or_else(|| format!("no end of list: {text}"))?;
        let values = list.split(',').map(|v| v.trim().to_owned()).collect();
        let words: Vec<&str> = head.split_whitespace().collect();
        return match words.as_slice() {
            [key, "in"] => Ok(Requirement::In((*key).to_owned(), values)),
            [key, "notin"] => Ok(Requirement::NotIn((*key).to_owned(), values)),
            _ => Err(format!("not a label selector: {text}")),
        };
    }
    if text.contains(char::is_whitespace) {
        return Err(format!("not a label selector: {text}"));
    }
    Ok(Requirement::Exists(text.to_owned()))
}

fn field(text: &str) -> Result<(String, String, Sense), String> {
    let (key, value, sense) = match text.split_once("!=") {
        Some((key, value)) => (key, value, Sense::Different),
        None => match text.split_once("==").or_else(|| text.split_once('=')) {
            Some((key, value)) => (key, value, Sense::Equal),
            None => return Err(format!("not a field selector: {text}")),
        },
    };
    if !["metadata.name", "metadata.namespace"].contains(&key) {
        return Err(format!("field label not supported: {key}"));
    }
    Ok((key.to_owned(), value.to_owned(), sense))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn kube_proxys_selectors_are_understood() {
        let text = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";
        let selector = Selector::parse(text, "").unwrap();
        let mut labels = BTreeMap::new();
        assert!(selector.selects("a", "b", &labels));
        labels.insert("service.kubernetes.io/headless".to_owned(), String::new());
        assert!(!selector.selects("a", "b", &labels));
        let node = Selector::parse("", "metadata.name=node-1").unwrap();
        assert!(node.selects("", "node-1", &labels) && !node.selects("", "node-2", &labels));
    }

    #[test]
    fn lists_and_negations() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let selects = |text: &str| Selector::parse(text, "").unwrap().selects("", "", &labels);
        assert!(selects("app in (web, api),app!=db,app"));
        assert!(!selects("app notin (web)"));
        assert!(!selects("tier"));
        assert!(Selector::parse("a b c", "").is_err());
        assert!(Selector::parse("", "spec.type=x").is_err());
    }
}
