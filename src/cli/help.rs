//! How `--help` and `--version` look. clap lays the help out; the rows are `config::flags`'.
//! Tests: `cli::tests`.

use clap::{Arg, ArgAction, Command, ValueHint};

use crate::config::flags::{self, Flag};
use crate::config::{Mode, VersionForm};
use crate::model::{GIT_VERSION, KUBERNETES_MINOR};

const EXAMPLES: &str = "\
Examples:
  kube-proxy --kubeconfig=/etc/kube-proxy.conf --cluster-cidr=10.244.0.0/16
  kube-proxy --config=/var/lib/kube-proxy/config.conf -v=4
  kube-proxy --manifests=examples --hostname-override=node-1 --kernel=simulated
  kube-proxy --write-config-to=/dev/stdout
  kube-proxy --cleanup
  kube-proxy completion bash > /etc/bash_completion.d/kube-proxy

Questions about this node (`kube-proxy COMMAND --help` has examples):
  kube-proxy trace FROM TO     where a packet goes, and why
  kube-proxy check             whether the kernel does what the API promises
  kube-proxy dump              everything that decides about packets, in one file
  kube-proxy replay FILE       plays again what a kube-proxy wrote down with --record
  kube-proxy names             what FROM and TO may be

Forms:
  --name=value and --name value; a boolean alone is true, and takes =true, =false, =1, =0, =t, =f;
  underscores in names are as good as dashes; of a repeated flag the last one counts, lists and
  feature gates add up. Durations are Go's: 1h2m3.5s, 250ms.";

/// The text of `--help`.
pub(super) fn text() -> String {
    command().render_help().to_string()
}

pub(super) fn command() -> Command {
    let mut command = Command::new("kube-proxy")
        .about("The Kubernetes service proxy: makes this node's kernel send Services' traffic to their endpoints.")
        .override_usage("kube-proxy [FLAGS]\n       kube-proxy completion bash|elvish|fish|powershell|zsh\n       kube-proxy man")
        .disable_help_flag(true)
        .disable_version_flag(true)
        .term_width(100)
        .after_help(EXAMPLES);
    for group in flags::GROUPS {
        command =
            command.args(group.flags.iter().map(|flag| arg(flag).help_heading(group.heading)));
    }
    command
}

pub(super) fn arg(flag: &Flag) -> Arg {
    let help = match flag.default {
        "" => flag.help.to_owned(),
        default => format!("{} [default: {default}]", flag.help),
    };
    let arg = Arg::new(flag.name).help(help);
    let arg = if flag.name.len() > 1 { arg.long(flag.name) } else { arg };
    let arg = match flag.short {
        Some(letter) => arg.short(letter),
        None => arg,
    };
    match flag.value {
        Some(value) => {
            let hint = match value.split([',', '.']).next() {
                Some("FILE") => ValueHint::FilePath,
                Some("DIR") => ValueHint::DirPath,
                _ => ValueHint::Unknown,
            };
            arg.action(ArgAction::Append).value_name(value).value_hint(hint)
        }
        None => arg.action(ArgAction::SetTrue),
    }
}

/// The text of `--version`, without a newline at the end.
pub(super) fn version(form: VersionForm) -> String {
    match form {
        // The reference's own words: scripts take the second one.
        VersionForm::Short => format!("Kubernetes {GIT_VERSION}"),
        VersionForm::Raw => {
            let modes: Vec<&str> = Mode::ALL.iter().map(|mode| mode.as_str()).collect();
            let api_server = if cfg!(feature = "api-server") { "yes" } else { "no" };
            let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
            [
                format!("version: {}", env!("CARGO_PKG_VERSION")),
                format!("kubernetes: v1.{KUBERNETES_MINOR}"),
                format!("modes: {}", modes.join(", ")),
                format!("api-server: {api_server}"),
                format!("platform: {}/{}", std::env::consts::OS, std::env::consts::ARCH),
                format!("profile: {profile}"),
            ]
            .join("\n")
        }
    }
}
