//! A guest: a User Mode Linux kernel (Debian's `user-mode-linux`) that boots in a second and runs a
//! command of ours on this machine's files, for what this machine's own kernel lacks: IPVS, dummy
//! devices, SCTP sockets. Its root is this machine's, read-only; it has no network and ends with us.
//! Knows no scenario. `inside` is its first process, `keep` what ends it. Tests: below.

pub mod inside;
pub mod keep;

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::process::Grown;
use crate::scratch::Scratch;

/// Where Debian puts the modules of its guest kernel, one folder a release.
const MODULES: &str = "/usr/lib/uml/modules";
/// The line after which what the command says begins.
const BEGINS: &str = "netlab guest: it begins";
/// The line that says the exit code.
const ENDED: &str = "netlab guest: it ended with ";
/// The kernel's word for modules that are withheld, before their names.
const WITHOUT: &str = "modprobe.blacklist=";
/// How long booting may take.
const BOOTING: Duration = Duration::from_secs(30);

/// What is to be run, and for how long at most.
#[derive(Clone, Debug)]
pub struct Order {
    /// The command and its arguments, as on this machine.
    pub command: Vec<OsString>,
    /// Variables beside those of this process.
    pub environment: Vec<(String, OsString)>,
    /// After this it is killed, guest and all.
    pub patience: Duration,
    /// Memory of the guest in MiB; only what is used is taken.
    pub memory: u32,
    /// Where the files go that the command leaves in the folder `kept` names.
    pub keep: Option<PathBuf>,
    /// A module that cannot be loaded in there, nor what needs it.
    pub without: Option<String>,
}

impl Order {
    /// A command with patience for ten minutes.
    pub fn new(command: impl IntoIterator<Item = impl Into<OsString>>) -> Order {
        Order {
            command: command.into_iter().map(Into::into).collect(),
            environment: Vec::new(),
            patience: Duration::from_secs(600),
            memory: 1024,
            keep: None,
            without: None,
        }
    }
}

/// What a guest is made of.
#[derive(Clone, Debug)]
pub struct Guest {
    kernel: PathBuf,
    modules: PathBuf,
    release: String,
}

impl Guest {
    /// Finds the guest's kernel and its modules, or says in one line what is missing.
    pub fn find() -> Result<Guest, String> {
        const INSTALL: &str = "apt-get install user-mode-linux";
        let kernel =
            on_path("linux.uml").ok_or(format!("no linux.uml here for a guest ({INSTALL})"))?;
        on_path("modprobe").ok_or("no modprobe here for a guest (apt-get install kmod)")?;
        let said = Command::new(&kernel)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|e| format!("{}: {e}", kernel.display()))?;
        let release = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        let modules = Path::new(MODULES).join(&release);
        if release.is_empty() || !modules.join("modules.dep").is_file() {
            return Err(format!(
                "no modules in {} for the guest kernel {release:?} ({INSTALL})",
                modules.display()
            ));
        }
        Ok(Guest { kernel, modules, release })
    }

    /// What it is, for a report.
    pub fn name(&self) -> String {
        format!("guest, Linux {} (User Mode Linux)", self.release)
    }

    /// Boots it, runs the command, gives each line it says to `line`, and returns its exit code.
    /// Needs the right to make namespaces (`privilege::obtain`).
    pub fn run(&self, order: &Order, mut line: impl FnMut(&str)) -> Result<u8, String> {
        let scratch = Scratch::new()?;
        self.prepare(&scratch, order)?;
        let mut running = Grown::start(self.boot(&scratch, order)?)?;
        let pipe = running.output().ok_or("the guest has no output")?;
        let lines = lines_of(pipe);
        let mut said = Said::default();
        let ended = said.listen(&lines, order.patience, &mut line);
        drop(running);
        if let Some(folder) = &order.keep {
            copy(&scratch.path().join(inside::KEPT), folder)?;
        }
        ended.ok_or_else(|| said.complaint(order))
    }

    /// Writes down what the guest's first process needs to know.
    fn prepare(&self, scratch: &Scratch, order: &Order) -> Result<(), String> {
        let modules = scratch.folder("lib/modules")?;
        let link = modules.join(&self.release);
        std::os::unix::fs::symlink(&self.modules, &link)
            .map_err(|e| format!("{}: {e}", link.display()))?;
        scratch.folder("uml")?;
        scratch.folder(inside::KEPT)?;
        let cargo = |name: &OsString| name.to_string_lossy().starts_with("CARGO");
        let mut environment: Vec<OsString> = std::env::vars_os()
            .filter(|(name, _)| !cargo(name))
            .map(|(name, value)| joined(&name, &value))
            .collect();
        environment.extend(order.environment.iter().map(|(n, v)| joined(n.as_ref(), v)));
        let here = std::env::current_dir().map_err(|e| format!("the current folder: {e}"))?;
        write_words(&scratch.path().join(inside::COMMAND), &order.command)?;
        write_words(&scratch.path().join(inside::ENVIRONMENT), &environment)?;
        write_words(&scratch.path().join(inside::FOLDER), &[here.into_os_string()])
    }

    /// The command that becomes the guest.
    fn boot(&self, scratch: &Scratch, order: &Order) -> Result<Command, String> {
        let own = std::env::current_exe().map_err(|e| format!("our own binary: {e}"))?;
        let (path, own_path) = (scratch.path().display(), own.display());
        if path.to_string().contains(' ') || own_path.to_string().contains(' ') {
            return Err(format!("a guest takes no path with a space: {path}, {own_path}"));
        }
        let mut command = Command::new(&own);
        command.arg("guest-keep").arg("--").arg(&self.kernel).args([
            format!("mem={}M", order.memory),
            format!("uml_dir={path}/uml"),
            "umid=netlab".to_owned(),
            "rootfstype=hostfs".to_owned(),
            "ro".to_owned(),
            "con=null".to_owned(),
            "con0=null,fd:1".to_owned(),
            "quiet".to_owned(),
            "loglevel=1".to_owned(),
            "panic=-1".to_owned(),
            format!("{WITHOUT}{}", order.without.as_deref().unwrap_or("none")),
            format!("init={own_path}"),
            "--".to_owned(),
            "guest-init".to_owned(),
            path.to_string(),
        ]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ok(command)
    }
}

/// Whether this process runs in a guest.
pub fn is_inside() -> bool {
    std::env::var_os(inside::SIGN).is_some()
}

/// The module that this guest is without; `none` where it has all, nothing outside of a guest.
pub fn lacks() -> Option<String> {
    let line = std::fs::read_to_string("/proc/cmdline").ok().filter(|_| is_inside())?;
    line.split_whitespace().find_map(|word| word.strip_prefix(WITHOUT)).map(str::to_owned)
}

/// The folder for files to be kept, in a guest that was told to keep some.
pub fn kept() -> Option<PathBuf> {
    Some(PathBuf::from(std::env::var_os(inside::SIGN)?).join(inside::KEPT))
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", to.display());
    for entry in std::fs::read_dir(from).map_err(failed)?.flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).map_err(failed)?;
    }
    Ok(())
}

/// What has been heard of a guest.
#[derive(Default)]
struct Said {
    begun: bool,
    /// An empty line, held back: the last one is not the command's.
    empty: bool,
    last: Vec<String>,
}

impl Said {
    /// Listens until the exit code, the end of all lines, or the end of patience, which counts from
    /// the command's beginning.
    fn listen(
        &mut self,
        lines: &Receiver<String>,
        patience: Duration,
        line: &mut impl FnMut(&str),
    ) -> Option<u8> {
        let mut deadline = Instant::now() + BOOTING;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let heard = match lines.recv_timeout(left) {
                Ok(heard) => heard,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            };
            if let Some(code) = heard.strip_prefix(ENDED) {
                return code.parse().ok();
            }
            if self.begun {
                self.pass_on(&heard, line);
            } else if heard == BEGINS {
                self.begun = true;
                deadline = Instant::now() + patience;
            }
            self.last.push(heard);
            let surplus = self.last.len().saturating_sub(20);
            self.last.drain(..surplus);
        }
    }

    fn pass_on(&mut self, heard: &str, line: &mut impl FnMut(&str)) {
        if std::mem::replace(&mut self.empty, heard.is_empty()) {
            line("");
        }
        if !heard.is_empty() {
            line(heard);
        }
    }

    fn complaint(&self, order: &Order) -> String {
        let last = self.last.join("\n");
        if self.begun {
            format!(
                "the guest did not end its command in {:?}; it said last:\n{last}",
                order.patience
            )
        } else {
            format!("the guest did not boot; it said last:\n{last}")
        }
    }
}

/// Reads lines on a thread, so that they can be waited for with a deadline. The guest's terminal
/// ends them with a carriage return.
fn lines_of(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let text = String::from_utf8_lossy(&line);
            if sender.send(text.trim_end_matches('\r').to_owned()).is_err() {
                return;
            }
        }
    });
    lines
}

fn joined(name: &std::ffi::OsStr, value: &OsString) -> OsString {
    let mut word = name.to_owned();
    word.push("=");
    word.push(value);
    word
}

/// Words with a zero after each.
fn write_words(file: &Path, words: &[OsString]) -> Result<(), String> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| [word.as_bytes(), &[0]].concat()).collect();
    std::fs::write(file, bytes).map_err(|e| format!("{}: {e}", file.display()))
}

/// A program on the path, or where Debian keeps those of root.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder: PathBuf| folder.join(name)).find(|file| file.is_file())
}

/// Runs a command in a guest and prints what it says; the exit code is the command's.
pub fn run(order: &Order) -> std::process::ExitCode {
    let ran = crate::privilege::obtain()
        .and_then(|_| Guest::find())
        .and_then(|guest| crate::scratch::clean_on_signals().map(|()| guest))
        .and_then(|guest| guest.run(order, |line| println!("{line}")));
    match ran {
        Ok(code) => code.into(),
        Err(why) => {
            eprintln!("{why}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn said(lines: &[&str]) -> (Option<u8>, Vec<String>) {
        let (sender, receiver) = channel();
        lines.iter().for_each(|line| sender.send((*line).to_owned()).unwrap());
        drop(sender);
        let mut heard = Vec::new();
        let patience = Duration::from_secs(60);
        let code = Said::default().listen(&receiver, patience, &mut |l| heard.push(l.to_owned()));
        (code, heard)
    }

    #[test]
    fn only_what_the_command_says_is_passed_on_and_its_code_comes_back() {
        let (code, heard) =
            said(&["boot", BEGINS, "one", "", "two", "", "netlab guest: it ended with 3"]);
        assert_eq!((code, heard), (Some(3), ["one", "", "two"].map(str::to_owned).to_vec()));
    }

    #[test]
    fn a_guest_that_says_no_code_has_none() {
        assert_eq!(said(&["boot", "panic"]), (None, Vec::new()));
        assert_eq!(said(&[BEGINS, "one"]).0, None);
    }
}
