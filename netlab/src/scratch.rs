//! A folder for one run's files, gone when the run is over, also by Ctrl-C.
//! Tests: below.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

static OPEN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A folder that is deleted when this is dropped.
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A new, empty folder that only we can read.
    pub fn new() -> Result<Scratch, String> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        sweep(&std::env::temp_dir());
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("netlab-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        OPEN.lock().unwrap_or_else(|e| e.into_inner()).push(path.clone());
        Ok(Scratch { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new folder inside.
    pub fn folder(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(path)
    }
}

/// Deletes what runs left that were killed without a chance to do it themselves.
fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut words = name.split('-');
        let (Some("netlab"), Some(id), Some(_)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let number = id.parse::<u32>().is_ok();
        if number && !Path::new("/proc").join(id).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
        OPEN.lock().unwrap_or_else(|e| e.into_inner()).retain(|p| *p != self.path);
    }
}

/// Deletes every folder on SIGINT, SIGTERM and SIGHUP, then ends this process. Children and
/// namespaces end with it.
pub fn clean_on_signals() -> Result<(), String> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("signals: {e}"))?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
            let [Ok(mut int), Ok(mut term), Ok(mut hup)] = kinds.map(signal) else { return };
            tokio::select! { _ = int.recv() => {}, _ = term.recv() => {}, _ = hup.recv() => {} }
            for path in OPEN.lock().unwrap_or_else(|e| e.into_inner()).iter() {
                let _ = std::fs::remove_dir_all(path);
            }
            std::process::exit(130);
        });
    });
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn it_is_gone_afterwards() {
        let scratch = Scratch::new().unwrap();
        let path = scratch.folder("a").unwrap();
        assert!(path.is_dir());
        drop(scratch);
        assert!(!path.exists());
    }
}
