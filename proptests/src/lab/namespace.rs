//! An anonymous network namespace, kept by a thread of its own that does jobs inside it; it is gone
//! with the thread and the last socket. Knows no cluster. Tests: with `lab`.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace without a name.
#[derive(Debug)]
pub struct Namespace {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// Where the kernel shows it, for `ip link set … netns`.
    pub path: PathBuf,
}

impl Namespace {
    /// Makes one. Needs CAP_SYS_ADMIN.
    pub fn new() -> Result<Namespace, String> {
        let (jobs, todo) = channel::<Job>();
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            let made = unshare(CloneFlags::CLONE_NEWNET);
            let place =
                format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid());
            let _ = tell.send(made.map(|()| place));
            todo.into_iter().for_each(|job| job());
        });
        let place = told
            .recv()
            .map_err(|e| format!("the namespace's thread ended: {e}"))?
            .map_err(|e| format!("no network namespace (unshare: {e}): run as root"))?;
        Ok(Namespace { jobs: Some(jobs), thread: Some(thread), path: place.into() })
    }

    /// Does `work` inside the namespace and gives back what it returns.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let (tell, told) = channel();
        let job: Job = Box::new(move || {
            let _ = tell.send(work());
        });
        let jobs = self.jobs.as_ref().ok_or("the namespace is closed")?;
        jobs.send(job).map_err(|_| "the namespace's thread is gone")?;
        told.recv().map_err(|_| "the job in the namespace panicked".to_owned())
    }

    /// Runs a program inside, with `input` on its standard input; gives back its output.
    pub fn command(&self, line: &str, input: &str) -> Result<String, String> {
        let (line, input) = (line.to_owned(), input.to_owned());
        self.run(move || command(&line, &input))?
    }

    /// Writes sysctls: paths below `/proc/sys`.
    pub fn sysctls(&self, settings: &'static [(&'static str, &'static str)]) -> Result<(), String> {
        self.run(move || {
            settings.iter().try_for_each(|(path, value)| {
                std::fs::write(format!("/proc/sys/{path}"), value)
                    .map_err(|e| format!("sysctl {path}={value}: {e}"))
            })
        })?
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn command(line: &str, input: &str) -> Result<String, String> {
    let mut words = line.split_whitespace();
    let program = words.next().ok_or("an empty command")?;
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{line}: {e}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|e| format!("{line}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
