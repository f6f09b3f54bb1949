//! The flags: a table of rows, each with its name, its help, the field it feeds and how.
//! A row knows one value's form and where it goes, never another flag: what flags mean together is
//! `settle`'s, what values may be is `validate`'s. Rows: `cluster`, `linux`, `process`, `traffic`.
//! Tests: `config::tests`.

mod cluster;
mod linux;
mod process;
mod traffic;

use std::collections::BTreeMap;

use super::errand::Errand;
use super::forms::{self, GoDuration};
use super::problem::Problem;
use super::wire::Wire;
use crate::model::Mode;

/// A flag.
#[derive(Debug)]
pub struct Flag {
    /// Its name without dashes.
    pub name: &'static str,
    /// Its one-letter form.
    pub short: Option<char>,
    /// What its value is called in the help; `None` for a boolean.
    pub value: Option<&'static str>,
    /// What it does, one or two sentences.
    pub help: &'static str,
    /// Its default as the help shows it.
    pub default: &'static str,
    /// The fields of the file it feeds.
    pub feeds: &'static [&'static str],
    /// Whether it counts beside `--config`.
    pub beside_file: bool,
    /// Why it has no effect, for those that are only accepted.
    pub obsolete: Option<&'static str>,
    /// Takes a value in; an error is what the value must be.
    pub set: fn(&mut Given, &str) -> Result<(), String>,
}

/// A group of flags under one heading of the help.
#[derive(Debug)]
pub struct Group {
    /// The heading.
    pub heading: &'static str,
    /// Its flags, by name.
    pub flags: &'static [Flag],
}

/// Every flag, in the order of the help.
pub const GROUPS: &[Group] = &[
    Group { heading: "What to do", flags: process::ACTIONS },
    Group { heading: "Cluster", flags: cluster::CLUSTER },
    Group { heading: "Traffic", flags: traffic::TRAFFIC },
    Group { heading: "nftables and iptables modes", flags: traffic::RULES },
    Group { heading: "ipvs mode", flags: linux::IPVS },
    Group { heading: "userspace mode", flags: linux::USERSPACE },
    Group { heading: "Conntrack", flags: linux::CONNTRACK },
    Group { heading: "Process and servers", flags: process::PROCESS },
    Group { heading: "Logging", flags: process::LOGGING },
    Group { heading: "Accepted, without effect", flags: process::OBSOLETE },
];

/// What was given on the command line, as it is taken in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Given {
    /// Fields of the file.
    pub wire: Wire,
    /// What is asked beside the file.
    pub errand: Errand,
    /// `--masquerade-all`: which section it feeds depends on the mode.
    pub(super) masquerade_all: Option<bool>,
    /// `--iptables-sync-period` and `--iptables-min-sync-period`.
    pub(super) rules_periods: [Option<GoDuration>; 2],
    /// `--ipvs-sync-period` and `--ipvs-min-sync-period`.
    pub(super) ipvs_periods: [Option<GoDuration>; 2],
    /// `--healthz-port` and `--metrics-port`.
    pub(super) ports: [Option<i32>; 2],
    /// How many of `wire.logging.vmodule` come from `--vmodule`.
    pub(super) vmodule_given: usize,
}

impl Given {
    /// What the flags mean together, once all are in (upstream-behaviour.md 85: periods count only
    /// in their mode; `cmd/kube-proxy/app/options.go` gives nftables mode the iptables ones).
    pub fn settle(&mut self) {
        let mode = self.wire.mode.clone().unwrap_or_default();
        let wire = &mut self.wire;
        let (sync, min_sync, all) = match mode.as_str() {
            "nftables" => {
                let section = &mut wire.nftables;
                (
                    &mut section.sync_period,
                    &mut section.min_sync_period,
                    &mut section.masquerade_all,
                )
            }
            _ => {
                let section = &mut wire.iptables;
                (
                    &mut section.sync_period,
                    &mut section.min_sync_period,
                    &mut section.masquerade_all,
                )
            }
        };
        *all = self.masquerade_all.or(*all);
        let ([sync_given, min_given], sync, min_sync) = if mode == Mode::Ipvs.as_str() {
            (self.ipvs_periods, &mut wire.ipvs.sync_period, &mut wire.ipvs.min_sync_period)
        } else {
            (self.rules_periods, sync, min_sync)
        };
        *sync = sync_given.or(*sync);
        *min_sync = min_given.or(*min_sync);
        let [healthz, metrics] = self.ports;
        put_port(&mut wire.healthz_bind_address, healthz);
        put_port(&mut wire.metrics_bind_address, metrics);
    }
}

/// `--healthz-port` and `--metrics-port`: 0 is off, another goes to an address without a port.
fn put_port(address: &mut Option<String>, port: Option<i32>) {
    let Some(port) = port else { return };
    let given = address.clone().unwrap_or_default();
    *address = match (port, forms::address(&given)) {
        (0, _) => Some(String::new()),
        (_, Ok(ip)) if ip.is_ipv6() => Some(format!("[{ip}]:{port}")),
        (_, Ok(ip)) => Some(format!("{ip}:{port}")),
        (_, Err(_)) => return,
    };
}

/// Every flag.
pub fn all() -> impl Iterator<Item = &'static Flag> {
    GROUPS.iter().flat_map(|group| group.flags)
}

/// The flag of this name.
pub fn find(name: &str) -> Option<&'static Flag> {
    all().find(|flag| flag.name == name)
}

/// The flag of this letter.
pub fn find_short(letter: char) -> Option<&'static Flag> {
    all().find(|flag| flag.short == Some(letter))
}

/// The flag that feeds a field of the file.
pub fn feeding(field: &str) -> Option<&'static Flag> {
    all().find(|flag| flag.feeds.contains(&field))
}

/// Whether a field's flag counts beside a file.
pub fn counts_beside_file(field: &str) -> bool {
    feeding(field).is_some_and(|flag| flag.beside_file)
}

/// Takes one flag's value in, or says what is wrong with it.
pub fn take(given: &mut Given, flag: &Flag, value: &str) -> Result<(), Problem> {
    (flag.set)(given, value)
        .map_err(|allowed| Problem::new(format!("--{}", flag.name), value, allowed))
}

impl Flag {
    /// A flag with a value.
    const fn value(
        name: &'static str,
        value: &'static str,
        help: &'static str,
        set: fn(&mut Given, &str) -> Result<(), String>,
    ) -> Flag {
        Flag {
            name,
            short: None,
            value: Some(value),
            help,
            default: "",
            feeds: &[],
            beside_file: false,
            obsolete: None,
            set,
        }
    }

    /// A boolean.
    const fn switch(
        name: &'static str,
        help: &'static str,
        set: fn(&mut Given, &str) -> Result<(), String>,
    ) -> Flag {
        Flag { value: None, ..Flag::value(name, "", help, set) }
    }

    const fn default(self, default: &'static str) -> Flag {
        Flag { default, ..self }
    }

    const fn feeds(self, feeds: &'static [&'static str]) -> Flag {
        Flag { feeds, ..self }
    }

    const fn beside_file(self) -> Flag {
        Flag { beside_file: true, ..self }
    }
}

/// Puts a string.
fn text(slot: &mut Option<String>, value: &str) -> Result<(), String> {
    *slot = Some(value.to_owned());
    Ok(())
}

/// Puts a boolean.
fn boolean(slot: &mut Option<bool>, value: &str) -> Result<(), String> {
    *slot = Some(forms::boolean(value)?);
    Ok(())
}

/// Puts a whole number.
fn int32(slot: &mut Option<i32>, value: &str) -> Result<(), String> {
    *slot = Some(forms::int32(value)?);
    Ok(())
}

/// Puts a duration.
fn duration(slot: &mut Option<GoDuration>, value: &str) -> Result<(), String> {
    *slot = Some(GoDuration::parse(value)?);
    Ok(())
}

/// Adds a list's items, separated by commas.
fn list(slot: &mut Option<Vec<String>>, value: &str) -> Result<(), String> {
    let items = value.split(',').filter(|_| !value.is_empty()).map(str::to_owned);
    slot.get_or_insert_default().extend(items);
    Ok(())
}

/// Adds `name=bool` pairs, separated by commas.
fn boolean_map(slot: &mut Option<BTreeMap<String, bool>>, value: &str) -> Result<(), String> {
    let map = slot.get_or_insert_default();
    for pair in value.split(',').filter(|pair| !pair.is_empty()) {
        let (name, on) = pair.split_once('=').ok_or("NAME=BOOL pairs, separated by commas")?;
        map.insert(name.trim().to_owned(), forms::boolean(on.trim())?);
    }
    Ok(())
}
