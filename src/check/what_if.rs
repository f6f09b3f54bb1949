//! Changes that are supposed before they are made (`effects` has what they would change for whom).
//!
//! It must never change anything but the objects and options it is given. Tests:
//! `what_if_tests.rs`.

use std::net::IpAddr;
use std::sync::Arc;

use super::set_field::{FORM, SetField};
use crate::model::{Event, Mode, NodePortAddresses};
use crate::sync::Options;

/// A change that is supposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Another proxy mode.
    Mode(Mode),
    /// A node's pods are gone.
    NodeDrain(Arc<str>),
    /// An endpoint answers no more.
    EndpointDown(IpAddr),
    /// A field of a Service has another value.
    SetField(SetField),
}

impl Change {
    /// Reads `NAME=VALUE`.
    pub fn parse(text: &str) -> Result<Change, String> {
        let forms = format!("mode=NAME, node-drain=NAME, endpoint-down=IP or {FORM}");
        let (name, value) =
            text.split_once('=').ok_or(format!("--what-if {text}: expected {forms}"))?;
        match name {
            "mode" => {
                let mode = Mode::ALL.into_iter().find(|mode| mode.as_str() == value);
                let known = Mode::ALL.map(Mode::as_str).join(", ");
                let unknown = format!("--what-if {text}: there is no such mode; there are {known}");
                mode.map(Change::Mode).ok_or(unknown)
            }
            "node-drain" => Ok(Change::NodeDrain(value.into())),
            "endpoint-down" => {
                let address = value
                    .parse()
                    .map_err(|_| format!("--what-if {text}: expected an IP address"))?;
                Ok(Change::EndpointDown(address))
            }
            "set-field" => SetField::parse(value)
                .map(Change::SetField)
                .map_err(|why| format!("--what-if {text}: {why}")),
            _ => Err(format!("--what-if {text}: expected {forms}")),
        }
    }

    /// Makes the change in the objects and options; says whether anything was there to change.
    pub fn apply(&self, events: &mut [Event], options: &mut Options) -> bool {
        let mut touched = false;
        match self {
            Change::Mode(mode) => {
                touched = options.mode != *mode;
                options.node_port_addresses = node_port_addresses(options, *mode);
                options.mode = *mode;
            }
            Change::SetField(change) => {
                for event in events {
                    match event {
                        Event::Service(service) if service.name == change.service => {
                            touched |= change.apply(service);
                        }
                        _ => {}
                    }
                }
            }
            Change::NodeDrain(_) | Change::EndpointDown(_) => {
                for event in events {
                    let Event::Slice(slice) = event else { continue };
                    for endpoint in &mut slice.endpoints {
                        let hit = match self {
                            Change::NodeDrain(node) => endpoint.node.as_deref() == Some(node),
                            Change::EndpointDown(address) => endpoint.address == *address,
                            Change::Mode(_) | Change::SetField(_) => false,
                        };
                        if hit {
                            touched = true;
                            endpoint.conditions.ready = false;
                            endpoint.conditions.serving = false;
                        }
                    }
                }
            }
        }
        touched
    }
}

impl Change {
    /// What is taken for granted where this change begins, if anything is.
    pub fn assumes(&self, options: &Options) -> Option<String> {
        let Change::Mode(mode) = self else { return None };
        let other = options.node_port_addresses != node_port_addresses(options, *mode);
        other.then(|| match mode {
            Mode::Nftables => {
                "--nodeport-addresses stays unset, which in nftables mode means primary".to_owned()
            }
            _ => format!(
                "--nodeport-addresses is not set: then {} mode takes node ports on every address; \
                 where it is set to primary, that stays",
                mode.as_str()
            ),
        })
    }
}

/// The addresses that take node ports in another mode: unless some were chosen, nftables mode has
/// another default.
fn node_port_addresses(options: &Options, mode: Mode) -> NodePortAddresses {
    match (&options.node_port_addresses, options.mode, mode) {
        (NodePortAddresses::Cidrs(none), _, Mode::Nftables) if none.is_empty() => {
            NodePortAddresses::Primary
        }
        (NodePortAddresses::Primary, Mode::Nftables, other) if other != Mode::Nftables => {
            NodePortAddresses::Cidrs(Vec::new())
        }
        (same, _, _) => same.clone(),
    }
}
