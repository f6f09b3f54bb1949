//! How a rule of iptables tells local pods from everybody else. Tests: with the modes.

use std::sync::Arc;

use ipnet::IpNet;

use super::rule::{Rule, Test};
use crate::model::{Family, LocalDetector};

/// How a rule tells local pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Local {
    /// By source address.
    From(IpNet),
    /// By the link they come in over; with a `+` at its end, the beginning of names.
    Over(Arc<str>),
}

impl Local {
    /// How a family's rules tell them, if they can.
    pub fn new(detector: &LocalDetector, family: Family) -> Option<Local> {
        match detector {
            LocalDetector::None => None,
            LocalDetector::Cidrs(_) => detector.cidr(family).map(|net| Local::From(net.trunc())),
            LocalDetector::Bridge(bridge) => Some(Local::Over(bridge.as_str().into())),
            LocalDetector::InterfacePrefix(prefix) => {
                Some(Local::Over(format!("{prefix}+").into()))
            }
        }
    }

    /// The rule for local pods only.
    pub fn only(&self, rule: Rule) -> Rule {
        match self {
            Local::From(net) => rule.from(Test::is(*net)),
            Local::Over(link) => Rule { link: Some(Test::is(link.clone())), ..rule },
        }
    }

    /// The rule for everybody else.
    pub fn except(&self, rule: Rule) -> Rule {
        match self {
            Local::From(net) => rule.from(Test::is_not(*net)),
            Local::Over(link) => Rule { link: Some(Test::is_not(link.clone())), ..rule },
        }
    }
}
