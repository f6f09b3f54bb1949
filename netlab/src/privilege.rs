//! Getting the right to make namespaces: root has it, others through a user namespace. Must be
//! asked before any thread exists. Tests: by running the demo as both.

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// How the right was got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// We had it.
    Had,
    /// By a user namespace in which we are root.
    UserNamespace,
}

/// Gets the right to make network namespaces, or says in one line why there is none.
pub fn obtain() -> Result<Right, String> {
    if geteuid().is_root() && probe().is_ok() {
        return Ok(Right::Had);
    }
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|e| {
        format!(
            "no right to make network namespaces, and no user namespaces for user {user} ({e}): \
             run as root, or allow them (kernel.unprivileged_userns_clone=1, \
             kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces>0)"
        )
    })?;
    let map = |file: &str, text: String| {
        std::fs::write(format!("/proc/self/{file}"), text)
            .map_err(|e| format!("cannot become root of a user namespace: {file}: {e}"))
    };
    map("setgroups", "deny".to_owned())?;
    map("uid_map", format!("0 {user} 1"))?;
    map("gid_map", format!("0 {group} 1"))?;
    probe()?;
    Ok(Right::UserNamespace)
}

/// Makes one network namespace, on a thread that ends, and lets it go.
fn probe() -> Result<(), String> {
    std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET))
        .join()
        .map_err(|_| "the probing thread died".to_owned())?
        .map_err(|e| format!("this machine gives no network namespaces: {e}"))
}
