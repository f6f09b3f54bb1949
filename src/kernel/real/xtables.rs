//! iptables' own tools: they alone write what every other program on a node understands, in either
//! flavour. Text goes to their standard input; no shell, no file. Which flavour a node uses is found
//! as Kubernetes' images find it (`kubernetes-sigs/iptables-wrappers`).
//! Must never know what a rule is for. Tests: below; `proptests -- vectors --kernel real`; `netlab`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::lookout::Ear;
use super::lookout_legacy::Gauge;
use super::xtables_lock;
use crate::kernel::XtablesFlavour as Flavour;
use crate::kernel::{Capability, Error, ErrorKind, Receipt, XtablesText};
use crate::model::Family;

/// How long to wait for other programs that change rules, here and in the tool.
const PATIENCE: Duration = Duration::from_secs(30);
/// Folders of the tools that may be missing from `PATH`.
const FOLDERS: &str = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin";
/// Chains of kubelet in mangle, by which it says which flavour it uses (KEP-3178).
const HINTS: [&str; 2] = [":KUBE-IPTABLES-HINT ", ":KUBE-KUBELET-CANARY "];

/// What the legacy tool does not say itself: it asks for tables through a raw socket.
const NO_RAW: &str = "this node uses iptables-legacy, which needs CAP_NET_RAW beside CAP_NET_ADMIN: \
                      add NET_RAW to the capabilities; ";

/// Whether this process has the right that the legacy tool needs (`iptc_init`).
fn may_open_raw_sockets() -> bool {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    let protocol = SockProtocol::Raw;
    socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).is_ok()
}

/// The flavour as the tools' names have it.
fn word(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::Legacy => "legacy",
        Flavour::Nft => "nft",
    }
}

/// The tools of one flavour.
#[derive(Debug)]
pub(super) struct Tools {
    flavour: Flavour,
    version: (u32, u32, u32),
    restore: [Option<PathBuf>; 2],
    save: [Option<PathBuf>; 2],
    lacks: Vec<(Capability, String)>,
    /// Those of the flavour that was not chosen, if nobody named one.
    other: Option<Box<Tools>>,
    /// Who hears of changes to nf_tables, to be told that the tool's are ours.
    pub(super) ear: Option<Ear>,
    /// Who looks at the legacy flavour's tables, likewise.
    pub(super) gauge: Option<Gauge>,
}

impl Tools {
    /// The tools of a flavour, or of the one that the node uses.
    pub(super) fn find(wanted: Option<Flavour>) -> Result<Tools, String> {
        let mut there: Vec<Tools> = match wanted {
            Some(flavour) => Tools::of(flavour).into_iter().collect(),
            None => [Flavour::Nft, Flavour::Legacy].into_iter().filter_map(Tools::of).collect(),
        };
        let used = if there.len() > 1 { used(&there) } else { 0 };
        if there.is_empty() {
            return Err("no iptables-save and iptables-restore in PATH".to_owned());
        }
        let mut tools = there.swap_remove(used);
        tools.other = there.pop().map(Box::new);
        Ok(tools)
    }

    fn works(&self) -> bool {
        self.lacks.iter().all(|(lack, _)| *lack != Capability::Xtables)
    }

    fn of(flavour: Flavour) -> Option<Tools> {
        let named = |family: Family, what: &str| {
            let tool = tool(family);
            which(&format!("{tool}-{}-{what}", word(flavour)))
                .or_else(|| which(&format!("{tool}-{what}")).filter(|path| is_of(path, flavour)))
        };
        let restore = Family::ALL.map(|family| named(family, "restore"));
        let save = Family::ALL.map(|family| named(family, "save"));
        let version = version(restore[0].as_deref()?);
        save[0].as_ref()?;
        let lacks = Vec::new();
        let (other, ear, gauge) = (None, None, None);
        Some(Tools { flavour, version, restore, save, lacks, other, ear, gauge })
    }

    pub(super) fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// Major, minor, patch.
    pub(super) fn version(&self) -> (u32, u32, u32) {
        self.version
    }

    pub(super) fn lacks(&self) -> impl Iterator<Item = (Capability, String)> {
        self.lacks.iter().cloned()
    }

    /// The tools after a try. A kernel may have the tables of the other flavour only, as User Mode
    /// Linux has: then it is that one's tools.
    pub(super) fn working(self) -> Tools {
        let mut tools = self.probed();
        // Rules in the flavour that the node does not use are no answer to a right that is lacking.
        let forbidden = tools.flavour == Flavour::Legacy && !may_open_raw_sockets();
        if let Some(other) = tools.other.take().filter(|_| !tools.works() && !forbidden) {
            let other = other.probed();
            if other.works() {
                return other;
            }
        }
        tools
    }

    /// Tries whether there are tables for each family: an empty change makes the tool open them.
    fn probed(mut self) -> Tools {
        // A chain that is made and removed in one transaction, which nobody sees: of a text without
        // any the nf_tables flavour does not even ask the kernel.
        let table =
            |name| format!("*{name}\n:KUBE-PROXY-PROBE - [0:0]\n-X KUBE-PROXY-PROBE\nCOMMIT\n");
        let text = ["filter", "nat", "mangle"].map(table).concat();
        for (family, lack) in
            [(Family::V4, Capability::Xtables), (Family::V6, Capability::XtablesIpv6)]
        {
            let empty = XtablesText { family, text: text.clone(), operations: 0 };
            if let Err(error) = self.restore(&empty) {
                let raw = self.flavour == Flavour::Nft || may_open_raw_sockets();
                let why = if raw { "" } else { NO_RAW };
                self.lacks.push((lack, format!("{why}{}", error.source)));
            }
        }
        if self.version < (1, 6, 2) {
            let (major, minor, patch) = self.version;
            let said = format!("iptables is {major}.{minor}.{patch}");
            self.lacks.push((Capability::XtablesRandomFully, said));
        }
        self
    }

    /// Takes a text in: each table of it as a whole.
    pub(super) fn restore(&self, text: &XtablesText) -> Result<Receipt, Error> {
        let tool = tool_for(&self.restore, text.family, "restore")?;
        let waited = match self.flavour {
            Flavour::Legacy => xtables_lock::wait(PATIENCE),
            Flavour::Nft => Duration::ZERO,
        };
        let mut command = Command::new(tool);
        let patience = PATIENCE.as_secs().to_string();
        command.args(["--noflush", "--counters", "-w", &patience]).stdin(Stdio::piped());
        let feed = || run_heard(command, tool, text.text.as_bytes(), self.ear.as_ref());
        let output = match &self.gauge {
            Some(gauge) => gauge.write(feed),
            None => feed(),
        }?;
        if output.status.success() {
            return Ok(Receipt { operations: text.operations, waited });
        }
        Err(refusal(tool, &output, &text.text))
    }

    /// All tables of a family, as text.
    pub(super) fn save(&self, family: Family) -> Result<String, Error> {
        let tool = tool_for(&self.save, family, "save")?;
        let output = run(Command::new(tool), tool, b"")?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(refusal(tool, &output, ""))
    }
}

/// Flavours that may have rules in this network namespace.
pub fn flavours() -> Vec<Flavour> {
    let there = |flavour: &Flavour| Tools::of(*flavour).as_ref().is_some_and(may_have_rules);
    [Flavour::Nft, Flavour::Legacy].into_iter().filter(there).collect()
}

/// To list tables of the legacy flavour that are not there would make them.
fn may_have_rules(tools: &Tools) -> bool {
    tools.flavour == Flavour::Nft || Family::ALL.into_iter().any(has_legacy_tables)
}

fn tool(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

fn tool_for<'a>(
    tools: &'a [Option<PathBuf>; 2],
    family: Family,
    what: &str,
) -> Result<&'a Path, Error> {
    let name = || format!("{}-{what}", tool(family));
    let absent = || Error::new(ErrorKind::Unsupported, name(), "not in PATH; install iptables");
    tools[family.index()].as_deref().ok_or_else(absent)
}

/// The file of a program.
fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(FOLDERS.split(':')).filter(|folder| !folder.is_empty());
    folders.map(|folder| Path::new(folder).join(name)).find(|file| file.is_file())
}

/// Whether a tool without a flavour in its name is of this one; before 1.8 all were legacy.
fn is_of(tool: &Path, flavour: Flavour) -> bool {
    let nft = said_version(tool).contains("nf_tables");
    nft == (flavour == Flavour::Nft)
}

fn said_version(tool: &Path) -> String {
    let mut command = Command::new(tool);
    command.arg("--version");
    let output = run(command, tool, b"");
    output.map_or_else(|_| String::new(), |o| String::from_utf8_lossy(&o.stdout).into_owned())
}

fn version(tool: &Path) -> (u32, u32, u32) {
    version_in(&said_version(tool))
}

/// `iptables-restore v1.8.9 (nf_tables)`
fn version_in(said: &str) -> (u32, u32, u32) {
    let number = said.split_whitespace().find_map(|word| word.strip_prefix('v'));
    let mut parts = number.unwrap_or_default().split('.').map(|part| part.parse().unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0);
    (part(), part(), part())
}

/// Which of the tools the node uses: the one that kubelet's chains are in; else the one with more
/// rules; else nf_tables. Legacy tables that may not be looked at are taken for the node's.
fn used(tools: &[Tools]) -> usize {
    let texts = |t: &Tools| -> String {
        let some = Family::ALL.into_iter().filter(|_| may_have_rules(t));
        some.filter_map(|family| t.save(family).ok()).collect()
    };
    let legacy = tools.iter().position(|t| t.flavour == Flavour::Legacy && may_have_rules(t));
    let nft = tools.iter().position(|t| t.flavour == Flavour::Nft).unwrap_or(0);
    let Some(legacy) = legacy else { return nft };
    let in_nft = texts(&tools[nft]);
    if is_hinted(&in_nft) {
        return nft;
    }
    if !may_open_raw_sockets() {
        return legacy;
    }
    let in_legacy = texts(&tools[legacy]);
    let more = rules_in(&in_legacy) > rules_in(&in_nft);
    if is_hinted(&in_legacy) || more { legacy } else { nft }
}

/// Whether this network namespace has tables of the legacy flavour.
fn has_legacy_tables(family: Family) -> bool {
    let file = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    std::fs::read_to_string(file).is_ok_and(|names| !names.trim().is_empty())
}

fn is_hinted(text: &str) -> bool {
    let tables =
        text.split("\n*").filter(|table| table.trim_start_matches('*').starts_with("mangle"));
    let mut lines = tables.flat_map(str::lines);
    lines.any(|line| HINTS.iter().any(|hint| line.starts_with(hint)))
}

fn rules_in(text: &str) -> usize {
    text.lines().filter(|line| line.starts_with('-')).count()
}

fn run(command: Command, tool: &Path, input: &[u8]) -> Result<Output, Error> {
    run_heard(command, tool, input, None)
}

/// The same; what the tool does is our own doing to whoever hears of changes.
fn run_heard(
    mut command: Command,
    tool: &Path,
    input: &[u8],
    ear: Option<&Ear>,
) -> Result<Output, Error> {
    let failed = |e: std::io::Error| {
        let kind = e.raw_os_error().map_or(ErrorKind::Broken, Error::kind_of_errno);
        Error::new(kind, tool.display().to_string(), e.to_string())
    };
    if input.is_empty() {
        command.stdin(Stdio::null());
    }
    let mut child = command
        .env("LC_ALL", "C")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let process = child.id();
    // Before it is fed: until then it can do nothing.
    ear.inspect(|ear| ear.employ(process));
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that refuses the text closes its input; its words say more than EPIPE.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(failed);
    ear.inspect(|ear| ear.dismiss(process));
    output
}

/// What a tool's refusal means. Exit codes: `enum xtables_exittype` of iptables.
fn refusal(tool: &Path, output: &Output, text: &str) -> Error {
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().filter(|line| !line.starts_with('#')).collect();
    let said = said.join("; ");
    let kind = match output.status.code() {
        _ if said.contains("ermission denied") || said.contains("not permitted") => {
            ErrorKind::Denied
        }
        Some(4) => ErrorKind::Busy,
        Some(3) => ErrorKind::Unsupported,
        _ if said.contains("does a matching rule exist") || said.contains("No chain") => {
            ErrorKind::Absent
        }
        _ => ErrorKind::Invalid,
    };
    let line = line_named(&said).and_then(|number| text.lines().nth(number.checked_sub(1)?));
    let line = line.map(|line| format!(", at `{line}`")).unwrap_or_default();
    Error::new(kind, format!("{}{line}", tool.display()), said)
}

/// The line of the text that the tool complains of: `line 7 failed`, `Error occurred at line: 7`.
fn line_named(said: &str) -> Option<usize> {
    let (_, rest) = said.split_once("line ").or_else(|| said.split_once("line: "))?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_lines_are_read() {
        assert_eq!(version_in("iptables-restore v1.8.9 (nf_tables)"), (1, 8, 9));
        assert_eq!(version_in("iptables v1.4.21"), (1, 4, 21));
        assert_eq!(version_in("?"), (0, 0, 0));
        assert_eq!(line_named("iptables-restore: line 12 failed"), Some(12));
        assert_eq!(line_named("Error occurred at line: 3; Try"), Some(3));
    }

    #[test]
    fn kubelets_chains_count_in_mangle_only() {
        let text = "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n";
        assert!(is_hinted(text));
        assert!(is_hinted(&format!("# x\n*filter\nCOMMIT\n{text}")));
        assert!(!is_hinted(&text.replace("mangle", "nat")));
    }
}
