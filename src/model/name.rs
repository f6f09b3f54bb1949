//! Names of objects and of Service ports, and the interner that keeps one copy of each string.
//! They know how Kubernetes prints a name and nothing else. Tests: below.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Protocol;

/// `namespace/name` of a namespaced object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NamespacedName {
    /// The namespace; empty only for cluster-scoped objects.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

impl NamespacedName {
    /// A name from its two parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        NamespacedName { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One port of one Service: the unit that is load-balanced.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServicePortName {
    /// The Service.
    pub service: NamespacedName,
    /// The port's name; empty for the only port of a Service.
    pub port: Arc<str>,
    /// The port's protocol.
    pub protocol: Protocol,
}

impl fmt::Display for ServicePortName {
    /// `namespace/name:port`, without the colon for an unnamed port and without the
    /// protocol, as the reference prints it (`pkg/proxy/types.go`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.service)?;
        if self.port.is_empty() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// Keeps one shared copy of strings that recur in every slice (node names, zones, port names).
#[derive(Debug, Default)]
pub struct Interner {
    known: BTreeSet<Arc<str>>,
}

impl Interner {
    /// The shared copy of `text`.
    pub fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        if self.known.len() >= self.sweep_at() {
            self.known.retain(|s| Arc::strong_count(s) > 1);
        }
        let new: Arc<str> = text.into();
        self.known.insert(new.clone());
        new
    }

    /// Strings nobody uses any more are swept when the set reaches a power of two, so that a
    /// cluster whose names change for years does not grow the set, at a cost of O(1) a string.
    fn sweep_at(&self) -> usize {
        if self.known.len() >= 1024 && self.known.len().is_power_of_two() { 0 } else { usize::MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_print_as_in_kubernetes() {
        let service = NamespacedName::new("default", "web");
        let mut port = ServicePortName { service, port: "http".into(), protocol: Protocol::Tcp };
        assert_eq!(port.to_string(), "default/web:http");
        port.port = "".into();
        assert_eq!(port.to_string(), "default/web");
        assert_eq!(NamespacedName::new("", "node-1").to_string(), "node-1");
    }

    #[test]
    fn the_interner_shares_and_forgets() {
        let mut interner = Interner::default();
        let a = interner.intern("zone-a");
        assert!(Arc::ptr_eq(&a, &interner.intern("zone-a")));
        for i in 0..10_000 {
            interner.intern(&format!("gone-{i}"));
        }
        assert!(interner.known.len() <= 1025, "{} strings kept", interner.known.len());
        assert!(Arc::ptr_eq(&a, &interner.intern("zone-a")));
    }
}
