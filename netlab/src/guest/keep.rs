//! What stands between us and the guest: a process that puts it into namespaces of its own (no network,
//! process ids that end together) and dies with us, and the guest with it.
//! Knows nothing of what runs in there. Tests: with `guest`.

use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

/// Enters new namespaces and starts the first process of them, which runs the program. Returns
/// when it has ended; never leaves it behind: it is told to die with this process.
pub fn outer(program: &[String]) -> Result<u8, String> {
    set_pdeathsig(Signal::SIGKILL).map_err(|e| e.to_string())?;
    if nix::unistd::getppid().as_raw() == 1 {
        return Err("the parent is gone".to_owned());
    }
    let apart = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS;
    unshare(apart).map_err(|e| format!("no namespaces for a guest: {e}"))?;
    let own = std::env::current_exe().map_err(|e| format!("our own binary: {e}"))?;
    let mut command = Command::new(own);
    command.args(["guest-keep", "--first", "--"]).args(program);
    ended(&mut command)
}

/// The first process of the namespaces: when it ends, however it ends, so does everything in them.
pub fn first(program: &[String]) -> Result<u8, String> {
    set_pdeathsig(Signal::SIGKILL).map_err(|e| e.to_string())?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .and_then(|()| mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>))
        .map_err(|e| format!("no /proc for a guest: {e}"))?;
    let (name, arguments) = program.split_first().ok_or("no program")?;
    ended(Command::new(name).args(arguments))
}

fn ended(command: &mut Command) -> Result<u8, String> {
    let status = command.stdin(Stdio::null()).status().map_err(|e| e.to_string())?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}
