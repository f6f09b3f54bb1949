//! Checking fields: each check either gives a usable value or notes what was wrong and where.
//!
//! It must never know which object it is about beyond its name. Tests: `tests.rs`.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Decoder;
use crate::api::lenient::{List, Scalar};
use crate::api::objects::Meta;
use crate::api::parse;
use crate::model::{Kind, NamespacedName, Notice, Protocol, Reason};

/// Longest list of Notices kept for one object, so that a hostile one cannot fill the memory.
const MAX_NOTICES: usize = 16;

/// Collects what is wrong with one object.
pub(super) struct Check {
    kind: Kind,
    object: NamespacedName,
    notices: Vec<Notice>,
    unsaid: usize,
}

impl Check {
    pub(super) fn new(kind: Kind, object: NamespacedName) -> Check {
        Check { kind, object, notices: Vec::new(), unsaid: 0 }
    }

    pub(super) fn name(&self) -> NamespacedName {
        self.object.clone()
    }

    pub(super) fn into_parts(mut self) -> (Kind, NamespacedName, Vec<Notice>) {
        if self.unsaid > 0 {
            let message = format!("{} more fields are malformed and left out", self.unsaid);
            self.notices.push(notice(self.kind, &self.object, String::new(), message));
        }
        (self.kind, self.object, self.notices)
    }

    /// Notes that a field is wrong: what, and what was done instead.
    pub(super) fn wrong(&mut self, field: fmt::Arguments<'_>, message: fmt::Arguments<'_>) {
        if self.notices.len() >= MAX_NOTICES {
            self.unsaid += 1;
            return;
        }
        let made = notice(self.kind, &self.object, field.to_string(), message.to_string());
        self.notices.push(made);
    }

    /// Notes that the object cannot be used because of a field.
    pub(super) fn useless(&mut self, field: &str, message: fmt::Arguments<'_>) {
        self.wrong(format_args!("{field}"), message);
        if let Some(last) = self.notices.last_mut() {
            last.reason = Reason::InvalidObject;
        }
    }

    /// Notes that something else than an object stands there.
    pub(super) fn object(&mut self, wrong: Option<&'static str>, field: fmt::Arguments<'_>) {
        if let Some(found) = wrong {
            self.wrong(field, format_args!("{found} where an object is wanted; left out"));
        }
    }

    /// The entries of a list; none if it is no list.
    pub(super) fn list<'a, T>(&mut self, list: &'a List<T>, field: fmt::Arguments<'_>) -> &'a [T] {
        if let Some(found) = list.wrong {
            self.wrong(field, format_args!("{found} where a list is wanted; left out"));
        }
        &list.items
    }

    /// A string; none if absent or of another type.
    pub(super) fn text<'a>(
        &mut self,
        value: &'a Scalar,
        field: fmt::Arguments<'_>,
    ) -> Option<&'a str> {
        match value {
            Scalar::Absent => None,
            Scalar::Text(text) => Some(text),
            other => {
                let found = type_of(other);
                self.wrong(field, format_args!("{found} where a string is wanted; left out"));
                None
            }
        }
    }

    /// A boolean; none if absent or of another type.
    pub(super) fn flag(&mut self, value: &Scalar, field: fmt::Arguments<'_>) -> Option<bool> {
        match value {
            Scalar::Absent => None,
            Scalar::Flag(flag) => Some(*flag),
            other => {
                let found = type_of(other);
                self.wrong(field, format_args!("{found} where a boolean is wanted; left out"));
                None
            }
        }
    }

    /// A whole number; none if absent or of another type.
    pub(super) fn number(&mut self, value: &Scalar, field: fmt::Arguments<'_>) -> Option<i64> {
        match value {
            Scalar::Absent => None,
            Scalar::Whole(number) => Some(*number),
            other => {
                let found = type_of(other);
                self.wrong(field, format_args!("{found} where a number is wanted; left out"));
                None
            }
        }
    }

    /// A port; none if absent, 0 (which the API has for "none") or malformed.
    pub(super) fn port(&mut self, value: &Scalar, field: fmt::Arguments<'_>) -> Option<u16> {
        let number = self.number(value, field)?;
        if number == 0 {
            return None;
        }
        let port = u16::try_from(number).ok();
        if port.is_none() {
            self.wrong(field, format_args!("{number} is not a port (1 to 65535); left out"));
        }
        port
    }

    /// An IP address; none if absent, empty or malformed.
    pub(super) fn address(&mut self, value: &Scalar, field: fmt::Arguments<'_>) -> Option<IpAddr> {
        let text = self.text(value, field).filter(|text| !text.is_empty())?;
        let address = parse::address(text);
        if address.is_none() {
            self.wrong(field, format_args!("{} is not an IP address; left out", shown(text)));
        }
        address
    }

    /// A CIDR, spaces around it forgiven; none if absent or malformed.
    pub(super) fn cidr(&mut self, value: &Scalar, field: fmt::Arguments<'_>) -> Option<IpNet> {
        let text = self.text(value, field)?;
        let cidr = parse::cidr(text.trim());
        if cidr.is_none() {
            self.wrong(field, format_args!("{} is not a CIDR; left out", shown(text)));
        }
        cidr
    }

    /// A protocol, TCP if absent; none if it is another word: traffic of an unknown protocol must
    /// not be taken for TCP.
    pub(super) fn protocol(
        &mut self,
        value: &Scalar,
        field: fmt::Arguments<'_>,
    ) -> Option<Protocol> {
        let text = match value {
            Scalar::Absent => return Some(Protocol::Tcp),
            other => self.text(other, field)?,
        };
        let found = match text {
            "" | "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            _ => None,
        };
        if found.is_none() {
            let text = shown(text);
            self.wrong(field, format_args!("{text} is not TCP, UDP or SCTP; the port is left out"));
        }
        found
    }

    /// A port's name, empty if absent; none if it could not be a name.
    pub(super) fn port_name<'a>(
        &mut self,
        value: &'a Scalar,
        field: fmt::Arguments<'_>,
    ) -> Option<&'a str> {
        let text = match value {
            Scalar::Absent => return Some(""),
            other => self.text(other, field)?,
        };
        if text.is_empty() || is_name(text) {
            return Some(text);
        }
        let text = shown(text);
        self.wrong(field, format_args!("{text} is not a port name; the port is left out"));
        None
    }
}

fn notice(kind: Kind, object: &NamespacedName, field: String, message: String) -> Notice {
    let (kind, object) = (kind.as_str(), object.clone());
    Notice { kind, object, field, reason: Reason::InvalidField, message }
}

/// Why no endpoint and no external IP may have this address, if so: the API server refuses these
/// (`ValidateEndpointIP` in `pkg/apis/core/validation`).
pub(super) fn special(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("is the unspecified address");
    }
    if address.is_loopback() {
        return Some("is a loopback address");
    }
    if address.is_multicast() {
        return Some("is a multicast address");
    }
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    link_local.then_some("is a link-local address")
}

/// The object's name; an error is the Events that say why it has none.
pub(super) fn name(
    kind: Kind,
    meta: &Meta,
    wrong: Option<&'static str>,
    decoder: &mut Decoder,
) -> Result<NamespacedName, Check> {
    let refuse = |name: &str, field: &str, message: fmt::Arguments<'_>| {
        let mut check = Check::new(kind, NamespacedName::new("", name));
        check.useless(field, message);
        check
    };
    if let Some(found) = wrong.or(meta.wrong) {
        return Err(refuse("", "", format_args!("{found} where an object is wanted; left out")));
    }
    let text = match &meta.name {
        Scalar::Text(text) if is_name(text) => text,
        Scalar::Text(text) => {
            let text = shown(text);
            return Err(refuse(
                &text,
                "metadata.name",
                format_args!("{text} is no name; left out"),
            ));
        }
        _ => return Err(refuse("", "metadata.name", format_args!("there is none; left out"))),
    };
    let namespace = match (kind, &meta.namespace) {
        (Kind::Node | Kind::ServiceCidr, _) => "",
        (_, Scalar::Absent) => "default",
        (_, Scalar::Text(text)) if text.is_empty() => "default",
        (_, Scalar::Text(text)) if is_name(text) => text,
        _ => {
            let message = format_args!("it is no name; the object is left out");
            return Err(refuse(text, "metadata.namespace", message));
        }
    };
    Ok(NamespacedName { namespace: decoder.intern(namespace), name: share(kind, text, decoder) })
}

/// Names of Services recur in their slices; a slice's own name does not, so is not kept twice.
fn share(kind: Kind, text: &str, decoder: &mut Decoder) -> Arc<str> {
    if kind == Kind::EndpointSlice { text.into() } else { decoder.intern(text) }
}

/// Letters, digits, dashes, dots and underscores, at most 253: wider than any name of the API
/// server's, narrow enough to be printed anywhere.
pub(super) fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    (1..=253).contains(&text.len()) && text.bytes().all(allowed)
}

/// The text of a scalar, empty if it is none.
pub(crate) fn plain(value: &Scalar) -> &str {
    if let Scalar::Text(text) = value { text } else { "" }
}

/// `metadata.resourceVersion`.
pub(super) fn version(meta: &Meta) -> Option<Box<str>> {
    if let Scalar::Text(text) = &meta.resource_version { Some(text.clone()) } else { None }
}

/// A text in quotes, escaped and cut short, fit for a message.
pub(super) fn shown(text: &str) -> String {
    let cut: String = text.chars().take(64).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    format!("{cut:?}{more}")
}

fn type_of(value: &Scalar) -> &'static str {
    match value {
        Scalar::Absent => "nothing",
        Scalar::Text(_) => "a string",
        Scalar::Whole(_) => "a number",
        Scalar::Flag(_) => "a boolean",
        Scalar::Other(found) => found,
    }
}
