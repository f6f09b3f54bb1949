//! The first process of the guest: mounts what a Linux needs, lets the kernel load its modules, runs
//! the command, says how it ended, powers off. Everything it writes goes to memory, or to the one
//! folder it was given. Tests: with `guest`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// File with the words of the command.
pub(super) const COMMAND: &str = "command";
/// File with the environment.
pub(super) const ENVIRONMENT: &str = "environment";
/// File with the folder to run it in.
pub(super) const FOLDER: &str = "folder";

/// Folder for what the command leaves to be kept.
pub(super) const KEPT: &str = "kept";
/// Variable that says that this is a guest, and where its folder is.
pub(super) const SIGN: &str = "NETLAB_GUEST";

/// Modules that are not loaded by asking for what they do: somebody first looks whether it is there.
const MODULES: [&str; 6] = ["ipv6", "nf_conntrack", "veth", "dummy", "ip_vs", "sctp"];

/// Runs the guest; returns only what went wrong before the command could be.
pub fn run(scratch: &Path) -> String {
    let code = prepare(scratch).and_then(|()| command(scratch));
    let said = match code {
        Ok(code) => format!("{}{code}", super::ENDED),
        Err(why) => format!("netlab guest: {why}\n{}{}", super::ENDED, u8::MAX),
    };
    println!("\n{said}");
    let _ = nix::unistd::fsync(std::io::stdout());
    let _ = std::fs::write("/proc/sysrq-trigger", "o");
    std::thread::sleep(std::time::Duration::from_secs(10));
    "it does not power off".to_owned()
}

fn prepare(scratch: &Path) -> Result<(), String> {
    for (kind, to) in [("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/run")] {
        mounted(kind, to, None)?;
    }
    // The same folder, this time to be written to.
    let host = scratch.to_string_lossy().into_owned();
    mounted("hostfs", &host, Some(&host))?;
    for folder in ["/run/netns", "/run/tmp", "/run/lock", "/dev/shm"] {
        std::fs::create_dir_all(folder).map_err(|e| format!("{folder}: {e}"))?;
    }
    mounted("tmpfs", "/dev/shm", None)?;
    let _ = nix::unistd::sethostname("guest");
    let loader = scratch.join("modprobe");
    let text = format!("#!/bin/sh\nexec modprobe -b -d {} \"$@\"\n", scratch.display());
    std::fs::write(&loader, text)
        .and_then(|()| std::fs::set_permissions(&loader, PermissionsExt::from_mode(0o755)))
        .and_then(|()| std::fs::write("/proc/sys/kernel/modprobe", loader.as_os_str().as_bytes()))
        .map_err(|e| format!("no loader of modules: {e}"))?;
    Command::new(&loader)
        .args(["-q", "-a"])
        .args(MODULES)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .status()
        .map_err(|e| format!("{}: {e}", loader.display()))?;
    Ok(())
}

fn mounted(kind: &str, to: &str, options: Option<&str>) -> Result<(), String> {
    mount(Some(kind), to, Some(kind), MsFlags::empty(), options)
        .map_err(|e| format!("cannot mount {kind} at {to}: {e}"))
}

fn words(file: &Path) -> Result<Vec<OsString>, String> {
    let bytes = std::fs::read(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let words = bytes.split(|b| *b == 0).map(|word| OsString::from_vec(word.to_vec()));
    let mut words: Vec<OsString> = words.collect();
    words.pop();
    Ok(words)
}

fn command(scratch: &Path) -> Result<u8, String> {
    let all = words(&scratch.join(COMMAND))?;
    let (name, arguments) = all.split_first().ok_or("no command")?;
    let variables = words(&scratch.join(ENVIRONMENT))?;
    let variables = variables.iter().filter_map(|word| {
        let text = word.as_bytes();
        let at = text.iter().position(|b| *b == b'=')?;
        let [before, after] = [&text[..at], &text[at + 1..]].map(|b| OsString::from_vec(b.into()));
        Some((before, after))
    });
    let folder = words(&scratch.join(FOLDER))?.pop().ok_or("no folder")?;
    println!("\n{}", super::BEGINS);
    let child = Command::new(name)
        .args(arguments)
        .env_clear()
        .envs(variables)
        .env("TMPDIR", "/run/tmp")
        .env(SIGN, scratch)
        .env("MODPROBE_OPTIONS", format!("-b -d {}", scratch.display()))
        .current_dir(folder)
        .stdin(Stdio::null())
        .spawn()
        .map_err(|e| format!("{}: {e}", name.to_string_lossy()))?;
    Ok(wait_for(child.id() as i32))
}

/// Waits for the command; what it leaves behind is ours meanwhile, and waited for too.
fn wait_for(wanted: i32) -> u8 {
    loop {
        match waitpid(Pid::from_raw(-1), None) {
            Ok(WaitStatus::Exited(id, code)) if id.as_raw() == wanted => {
                return u8::try_from(code).unwrap_or(u8::MAX);
            }
            Ok(WaitStatus::Signaled(id, signal, _)) if id.as_raw() == wanted => {
                return 128 + signal as u8;
            }
            Err(Errno::ECHILD) => return u8::MAX,
            _ => {}
        }
    }
}
