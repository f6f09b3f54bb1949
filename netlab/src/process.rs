//! Child processes that cannot outlive us: each is started through our own binary (`netlab
//! guard`), which asks the kernel to kill it when we end, enters a namespace and becomes the program.
//! Knows nothing of what the program is. Tests: with the scenarios.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::namespace::Namespace;

/// What a guarded program may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// What we may do.
    Ours,
    /// Nothing to the namespace's network: it is put into a user namespace of its own.
    NoNetAdmin,
}

/// A running child; killed when dropped.
pub struct Guarded {
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

type Order = (Command, Sender<std::io::Result<Child>>);

/// Starts children on a thread that lives as long as we do: the kernel's "kill when the parent
/// ends" means the parent *thread*.
fn spawn(command: Command) -> Result<Child, String> {
    static NURSERY: OnceLock<Sender<Order>> = OnceLock::new();
    let nursery = NURSERY.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            while let Ok((mut command, answer)) = inbox.recv() {
                let _ = answer.send(command.spawn());
            }
        });
        orders
    });
    let (answer, child) = channel();
    nursery.send((command, answer)).map_err(|_| "the spawning thread is gone".to_owned())?;
    let child = child.recv().map_err(|_| "the spawning thread is gone".to_owned())?;
    child.map_err(|e| e.to_string())
}

impl Guarded {
    /// Starts a program in a namespace; what it says goes to a log file.
    pub fn start(
        namespace: &Namespace,
        rights: Rights,
        program: (&Path, &[String]),
        log: &Path,
    ) -> Result<Guarded, String> {
        let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", program.0.display());
        let output = File::create(log).map_err(|e| format!("{}: {e}", log.display()))?;
        let errors = output.try_clone().map_err(|e| failed(&e))?;
        let own = std::env::current_exe().map_err(|e| failed(&e))?;
        let mut command = Command::new(own);
        command.arg("guard").arg(namespace.path());
        if rights == Rights::NoNetAdmin {
            command.arg("--no-net-admin");
        }
        command.arg("--").arg(program.0).args(program.1);
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        let child = spawn(command).map_err(|e| failed(&e))?;
        Ok(Guarded { child, log: log.to_owned(), ended: None })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<(), String> {
        kill(Pid::from_raw(self.child.id() as i32), signal).map_err(|e| e.to_string())
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Waits for its end; the time it took is returned with how it ended.
    pub fn wait(&mut self, patience: Duration) -> Result<(ExitStatus, Duration), String> {
        let began = Instant::now();
        while began.elapsed() < patience {
            if let Some(status) = self.ended() {
                return Ok((status, began.elapsed()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err(format!("still running after {patience:?}: {}", self.threads()))
    }

    /// Where each of its threads is, for a failure's report: its name, state and place in the kernel.
    fn threads(&self) -> String {
        let folder = format!("/proc/{}/task", self.id());
        let tasks = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        let one = |task: std::fs::DirEntry| {
            let stack = read(task.path().join("stack"));
            let place = stack.lines().take(6).filter_map(|l| l.split_whitespace().nth(1));
            let status = read(task.path().join("status"));
            let state = status.lines().find(|l| l.starts_with("State:")).unwrap_or_default();
            let name = read(task.path().join("comm"));
            format!("{} {} [{}]", name.trim(), state, place.collect::<Vec<_>>().join(" "))
        };
        tasks.map(one).collect::<Vec<_>>().join("; ")
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its last words, for a failure's report.
    pub fn last_words(&self, lines: usize) -> String {
        let said = self.said();
        let all: Vec<&str> = said.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.ended().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A child of our own binary that dies with us by its own doing; its output is read by us.
pub struct Grown(Child);

impl Grown {
    /// Starts it.
    pub fn start(command: Command) -> Result<Grown, String> {
        spawn(command).map(Grown)
    }

    /// What it says; can be taken once.
    pub fn output(&mut self) -> Option<std::process::ChildStdout> {
        self.0.stdout.take()
    }
}

impl Drop for Grown {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The guard itself: never returns unless something is wrong.
pub fn become_guarded(namespace: &str, rights: Rights, program: &[String]) -> String {
    let enter = || -> Result<(), String> {
        let file = File::open(namespace).map_err(|e| format!("{namespace}: {e}"))?;
        setns(&file, CloneFlags::CLONE_NEWNET).map_err(|e| format!("{namespace}: {e}"))?;
        if rights == Rights::NoNetAdmin {
            unshare(CloneFlags::CLONE_NEWUSER).map_err(|e| format!("user namespace: {e}"))?;
        }
        // After the change of rights, which forgets it.
        set_pdeathsig(Signal::SIGKILL).map_err(|e| e.to_string())
    };
    if let Err(why) = enter() {
        return why;
    }
    // The parent may have ended before it could be asked for.
    if nix::unistd::getppid().as_raw() == 1 {
        return "the parent is gone".to_owned();
    }
    let Some((name, arguments)) = program.split_first() else {
        return "no program".to_owned();
    };
    let error = Command::new(name).args(arguments).exec();
    format!("{name}: {error}")
}
