//! Notices: what could not be done as asked, said once when it appears and once when it goes.
//! A Notice is a value; who logs it, counts it or sends it to the API is elsewhere. Tests: below.

use std::fmt;

use super::NamespacedName;

/// Why a Notice was raised; becomes the `reason` of an API Event and the label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// A field of an object is malformed and was left out.
    InvalidField,
    /// A whole object is malformed and was left out.
    InvalidObject,
    /// An older Service already has this address and port.
    AddressConflict,
    /// The kernel or the mode cannot express what was asked.
    Unsupported,
    /// The health check node port of a Service cannot be listened on.
    HealthCheckPort,
    /// What was to be programmed would not keep the API's promise (`--verify`).
    PromiseBroken,
}

impl Reason {
    /// Every reason, in the order of declaration.
    pub const ALL: [Reason; 6] = [
        Reason::InvalidField,
        Reason::InvalidObject,
        Reason::AddressConflict,
        Reason::Unsupported,
        Reason::HealthCheckPort,
        Reason::PromiseBroken,
    ];

    /// CamelCase, as the API wants an Event's reason.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::InvalidField => "InvalidField",
            Reason::InvalidObject => "InvalidObject",
            Reason::AddressConflict => "AddressConflict",
            Reason::Unsupported => "Unsupported",
            Reason::HealthCheckPort => "FailedToStartServiceHealthcheck",
            Reason::PromiseBroken => "PromiseBroken",
        }
    }
}

/// One thing that could not be done as asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Notice {
    /// Kind of the object as the API spells it, such as `Service`.
    pub kind: &'static str,
    /// The object.
    pub object: NamespacedName,
    /// Path of the field, such as `spec.externalIPs[1]`; empty if the whole object is meant.
    pub field: String,
    /// Why.
    pub reason: Reason,
    /// What is wrong and what was done instead, one sentence.
    pub message: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.object)?;
        if !self.field.is_empty() {
            write!(f, " {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_names_object_and_field() {
        let notice = Notice {
            kind: "Service",
            object: NamespacedName::new("a", "b"),
            field: "spec.externalIPs[0]".into(),
            reason: Reason::InvalidField,
            message: "\"x\" is not an IP address; left out".into(),
        };
        assert_eq!(
            notice.to_string(),
            "Service a/b spec.externalIPs[0]: \"x\" is not an IP address; left out"
        );
    }
}
