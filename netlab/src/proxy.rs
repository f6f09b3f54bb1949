//! The real kube-proxy: found or built, started in the lab's node, watched from outside.
//! Knows its command line and nothing of its code. Tests: with the scenarios.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::lab::Lab;
use crate::plan;
use crate::process::{Guarded, Rights};

/// Environment variable that names the binary to be tested.
pub const BINARY_VARIABLE: &str = "NETLAB_KUBE_PROXY";

/// The workspace's root, as it was when this was compiled.
pub fn workspace() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().expect("the package is a folder of the workspace")
}

/// Finds the binary. Under `cargo run` it is brought up to date first, so that a stale one is
/// never tested; else the one beside our own is taken.
pub fn find() -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os(BINARY_VARIABLE) {
        return Ok(PathBuf::from(named));
    }
    let own = std::env::current_exe().map_err(|e| format!("our own binary: {e}"))?;
    let beside = own.with_file_name("kube-proxy");
    let Some(cargo) = std::env::var_os("CARGO") else {
        let absent = format!(
            "no kube-proxy at {}: build it with `cargo build --release --bin kube-proxy`, or name \
             one with {BINARY_VARIABLE}=…",
            beside.display()
        );
        return if beside.exists() { Ok(beside) } else { Err(absent) };
    };
    if !beside.exists() {
        eprintln!("building kube-proxy first: minutes the first time, seconds later on");
    }
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--package", "kube-proxy", "--bin", "kube-proxy"]);
    build.current_dir(workspace());
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let built = build.status().map_err(|e| format!("cargo: {e}"))?;
    if built.success() && beside.exists() {
        Ok(beside)
    } else {
        Err("kube-proxy does not build: see cargo's message above".to_owned())
    }
}

/// What kube-proxy is tested in: its mode and, for iptables, the tool's flavour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// nftables mode.
    #[default]
    Nftables,
    /// iptables mode, over nf_tables.
    IptablesNft,
    /// iptables mode, over ip_tables.
    IptablesLegacy,
    /// userspace mode.
    Userspace,
    /// userspace mode on a kernel without nf_tables, where rules of iptables lead packets: in a guest.
    UserspaceIptables,
    /// ipvs mode: on this kernel if it has IPVS, else in a guest.
    Ipvs,
}

impl Mode {
    /// As `--proxy-mode` has it.
    pub fn word(self) -> &'static str {
        match self {
            Mode::Nftables => "nftables",
            Mode::IptablesNft | Mode::IptablesLegacy => "iptables",
            Mode::Userspace | Mode::UserspaceIptables => "userspace",
            Mode::Ipvs => "ipvs",
        }
    }

    /// The beginning of the tool's name that this mode writes with.
    pub fn tool(self) -> Option<&'static str> {
        match self {
            Mode::Nftables | Mode::Userspace | Mode::UserspaceIptables | Mode::Ipvs => None,
            Mode::IptablesNft => Some("iptables-nft"),
            Mode::IptablesLegacy => Some("iptables-legacy"),
        }
    }

    /// Whether connections are carried by the process itself.
    pub fn carries(self) -> bool {
        matches!(self, Mode::Userspace | Mode::UserspaceIptables)
    }
}

static MODE: OnceLock<Mode> = OnceLock::new();

/// Chooses the mode of this run; once.
pub fn choose_mode(mode: Mode) {
    let _ = MODE.set(mode);
}

/// The mode of this run.
pub fn mode() -> Mode {
    MODE.get().copied().unwrap_or_default()
}

/// A running kube-proxy.
pub struct KubeProxy {
    /// The process.
    pub process: Guarded,
}

/// Where it takes its objects from.
#[derive(Clone, Debug)]
pub enum Input {
    /// A folder of manifests.
    Manifests(PathBuf),
    /// An API server's URL.
    Server(String),
    /// A kubeconfig file, which names an API server.
    Kubeconfig(PathBuf),
}

/// How it is started.
#[derive(Clone, Debug)]
pub struct Start {
    /// The binary.
    pub binary: PathBuf,
    /// Where it takes its objects from.
    pub input: Input,
    /// Further flags.
    pub flags: Vec<String>,
    /// What it may do.
    pub rights: Rights,
    /// Where what it says goes.
    pub log: PathBuf,
}

impl Start {
    /// The command line.
    pub fn arguments(&self) -> Vec<String> {
        self.arguments_in(mode().word())
    }

    /// The command line in a mode, as `--proxy-mode` has it.
    pub fn arguments_in(&self, mode: &str) -> Vec<String> {
        let input = match &self.input {
            Input::Manifests(folder) => format!("--manifests={}", folder.display()),
            Input::Server(url) => format!("--master={url}"),
            Input::Kubeconfig(file) => format!("--kubeconfig={}", file.display()),
        };
        let mut all = vec![
            input,
            format!("--proxy-mode={mode}"),
            format!("--hostname-override={}", plan::NODE),
            format!("--cluster-cidr={}", plan::CLUSTER_CIDR),
            "--healthz-bind-address=".to_owned(),
            "--metrics-bind-address=".to_owned(),
        ];
        all.extend(self.flags.iter().cloned());
        all
    }
}

impl KubeProxy {
    /// Starts it in the lab's node.
    pub fn start(lab: &Lab, start: &Start) -> Result<KubeProxy, String> {
        KubeProxy::start_through(lab, &[], start)
    }

    /// The same through another program, whose words come first and which makes a place for it.
    pub fn start_through(lab: &Lab, words: &[String], start: &Start) -> Result<KubeProxy, String> {
        let mut all = words.to_vec();
        all.push(start.binary.display().to_string());
        all.extend(start.arguments());
        let (program, arguments) = all.split_first().ok_or("no program")?;
        let program = (Path::new(program), arguments);
        let process = Guarded::start(&lab.node, start.rights, program, &start.log)?;
        Ok(KubeProxy { process })
    }

    /// Asks it to end and waits; says how long that took. How long it may take is for the caller to
    /// say: a kernel that is short of time keeps a process that has watched files for seconds
    /// (`fsnotify_destroy_group` waits for every reader of marks on the machine).
    pub fn stop(mut self, signal: Signal) -> Result<Duration, String> {
        self.process.signal(signal)?;
        let (status, took) = self.process.wait(Duration::from_secs(60))?;
        if status.success() { Ok(took) } else { Err(format!("after {signal} it ended: {status}")) }
    }
}

/// Makes a flavour of iptables (`nft`, `legacy`) the one that is found first in a folder, by the names
/// without a flavour.
pub fn link_iptables(folder: &Path, flavour: &str) -> Result<(), String> {
    let multi = format!("/usr/sbin/xtables-{flavour}-multi");
    for name in ["iptables", "ip6tables"] {
        for what in ["", "-save", "-restore"] {
            let link = folder.join(format!("{name}{what}"));
            let made = std::os::unix::fs::symlink(&multi, &link);
            made.map_err(|e| format!("{}: {e}", link.display()))?;
        }
    }
    Ok(())
}

/// Whether the `nft` tool is here.
pub fn has_nft() -> bool {
    Command::new("nft").arg("--version").output().is_ok_and(|o| o.status.success())
}

/// What the `nft` tool says inside the node, or why it says nothing.
pub fn nft(lab: &Lab, arguments: &[&str]) -> Result<String, String> {
    let output = lab
        .node
        .run(|| Command::new("nft").args(arguments).output())
        .map_err(|e| format!("nft: {e}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}
