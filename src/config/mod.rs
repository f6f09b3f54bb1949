//! What the user asked for: flags and the configuration file, in; `Settings`, out.
//!
//! ```text
//! flags ─take─▶ Given ─settle─▶ Wire ─validate─▶ Settings
//! file ─read─▶ Wire ─fill─▶ (logging flags and --hostname-override laid over) ─▶ the same
//! ```
//!
//! Nothing here knows the API server, the kernel or a clock; only `load` reads a file, and `watch`
//! waits for it to change. Tests: `tests`, and beside the forms.

pub mod defaults;
mod errand;
mod file;
pub mod flags;
pub mod forms;
pub mod gates;
pub mod live;
mod problem;
mod settings;
#[cfg(test)]
mod tests;
mod tree;
mod validate;
mod values;
pub mod watch;
pub mod wire;
mod write;

pub use crate::model::Mode;
pub use errand::{Errand, VersionForm};
pub use file::{File, read};
pub use problem::{Origin, Problem};
pub use settings::{
    Client, ConfigFile, Conntrack, DetectLocal, Ipvs, KernelChoice, LogFormat, Logging, Settings,
    Source, Userspace,
};
pub use write::write;

use std::path::Path;

use flags::{Flag, Given};

/// What flags and file come to.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The judged settings.
    pub settings: Settings,
    /// The configuration they were made from, as a file's text.
    pub text: String,
}

/// Makes settings of flags, which are given in the order of the command line, and of the file they
/// name. `hostname` is this machine's. Every problem is told, not only the first.
pub fn load(args: &[(&Flag, String)], hostname: &str) -> Result<Loaded, Vec<Problem>> {
    let (from_flags, mut problems) = take_all(args, defaults::defaults());
    let errand = from_flags.errand.clone();
    let (given, origin, config_file, mut warnings) = match &errand.config {
        None => (from_flags, Origin::Flags, None, Vec::new()),
        Some(path) => match lay_over_file(path, args) {
            Ok(parts) => parts,
            Err(more) => {
                problems.extend(more);
                return Err(problems);
            }
        },
    };
    let mut wire = given.wire;
    if wire.mode.as_deref() == Some("") {
        wire.mode = Some(defaults::MODE.as_str().to_owned());
    }
    warnings.extend(flag_warnings(args, &wire, &errand));
    match validate::validate(&wire, &origin, &errand, hostname) {
        Ok(settings) if problems.is_empty() => {
            if settings.node_port_addresses == crate::model::NodePortAddresses::Primary {
                wire.node_port_addresses = Some(vec!["primary".to_owned()]);
            }
            warnings.extend(idle_warnings(args, &wire, &origin));
            warnings.extend(settings.feature_gates.keys().filter_map(|name| gates::note(name)));
            let flags = args.iter().map(|(flag, value)| (flag.name, value.clone())).collect();
            let written = write::tree(&wire);
            let settings = Settings { config_file, warnings, flags, written, ..settings };
            Ok(Loaded { settings, text: write(&wire) })
        }
        Ok(_) => Err(problems),
        Err(more) => {
            problems.extend(more);
            Err(problems)
        }
    }
}

/// Makes settings anew of the same flags, and of the file as it is now.
pub fn reload(settings: &Settings, hostname: &str) -> Result<Settings, Vec<Problem>> {
    let known = |(name, value): &(&str, String)| Some((flags::find(name)?, value.clone()));
    let args: Vec<(&Flag, String)> = settings.flags.iter().filter_map(known).collect();
    load(&args, hostname).map(|loaded| loaded.settings)
}

/// Takes flags in over a `Wire`; what can't be taken is told and left out.
fn take_all(args: &[(&Flag, String)], wire: wire::Wire) -> (Given, Vec<Problem>) {
    let mut given = Given { wire, ..Given::default() };
    let problems = args
        .iter()
        .filter_map(|(flag, value)| flags::take(&mut given, flag, value).err())
        .collect();
    given.settle();
    (given, problems)
}

type Parts = (Given, Origin, Option<ConfigFile>, Vec<String>);

/// Reads the file and lays over it the flags that count beside one.
fn lay_over_file(path: &Path, args: &[(&Flag, String)]) -> Result<Parts, Vec<Problem>> {
    let content = std::fs::read(path).map_err(|error| {
        vec![Problem::new(
            "--config",
            &path.display().to_string(),
            format!("a file that can be read: {error}"),
        )]
    })?;
    let text = std::str::from_utf8(&content).map_err(|error| {
        vec![Problem::said(path.display().to_string(), format!("not text in UTF-8: {error}"))]
    })?;
    let File { mut wire, origin, warnings } = read(path, text)?;
    defaults::fill(&mut wire);
    let counting: Vec<_> = args.iter().filter(|(flag, _)| flag.beside_file).cloned().collect();
    // What is malformed was told already, when all flags were taken in.
    let (given, _) = take_all(&counting, wire);
    let config_file = ConfigFile { path: path.to_owned(), content: content.into() };
    Ok((given, origin, Some(config_file), warnings))
}

/// One line for each flag that was given and has no effect.
fn flag_warnings(args: &[(&Flag, String)], wire: &wire::Wire, errand: &Errand) -> Vec<String> {
    let mut warnings = Vec::new();
    let mode = wire.mode.as_deref().unwrap_or_default();
    for flag in flags::all().filter(|flag| args.iter().any(|(given, _)| given.name == flag.name)) {
        let name = flag.name;
        let of_mode = mode_of(name);
        if let Some(why) = flag.obsolete {
            warnings.push(format!("--{name} has no effect: {why}"));
        } else if errand.config.is_some() && !flag.beside_file {
            warnings.push(format!("--{name} has no effect beside --config"));
        } else if !of_mode.is_empty() && !of_mode.contains(&mode) {
            warnings.push(format!("--{name} has no effect in {mode} mode"));
        } else if name.ends_with("-port") {
            warnings.push(format!(
                "--{name} is deprecated: use --{}-bind-address",
                name.trim_end_matches("-port")
            ));
        }
    }
    warnings
}

/// One line for each field that was set and that nothing here goes by.
fn idle_warnings(args: &[(&Flag, String)], wire: &wire::Wire, origin: &Origin) -> Vec<String> {
    let usual = defaults::defaults();
    let given = |flag: &str| {
        *origin == Origin::Flags
            && args.iter().any(|(given, value)| given.name == flag && !value.is_empty())
    };
    let idle = [
        (
            "configSyncPeriod",
            wire.config_sync_period != usual.config_sync_period || given("config-sync-period"),
            "what did not change is not handed on again, and watches list anew by themselves",
        ),
        (
            "showHiddenMetricsForVersion",
            wire.show_hidden_metrics_for_version != usual.show_hidden_metrics_for_version,
            "no metric is hidden",
        ),
    ];
    let set = idle.into_iter().filter(|(_, set, _)| *set);
    set.map(|(field, _, why)| format!("{} has no effect: {why}", origin.place(field))).collect()
}

/// The modes a flag counts in; empty for all.
fn mode_of(flag: &str) -> &'static [&'static str] {
    match flag {
        "iptables-masquerade-bit" => &["iptables", "ipvs"],
        "iptables-localhost-nodeports" => &["iptables"],
        "iptables-sync-period" | "iptables-min-sync-period" => {
            &["iptables", "nftables", "userspace"]
        }
        "proxy-port-range" | "udp-timeout" => &["userspace"],
        name if name.starts_with("userspace-") => &["userspace"],
        name if name.starts_with("ipvs-") => &["ipvs"],
        _ => &[],
    }
}
