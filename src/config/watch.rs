//! Waits until the configuration file says something else than when it was read: written in place,
//! replaced by a rename, or behind a symlink that was swapped, as a mounted ConfigMap is.
//! It knows nothing of what the file says. Tests: below.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::sync::oneshot;

use super::ConfigFile;

/// Looked at this often in any case, in milliseconds: some file systems (NFS, FUSE) tell nothing.
const GLANCE: u16 = 30_000;

/// Resolves when the file's content is not what it was when it was read. A file that is gone for
/// the moment is not a change, nor is an empty one: both are steps of writing a new one.
///
/// The waiting is a thread's, which ends with this future or up to 30 s after: tokio takes foreign
/// descriptors through `unsafe` calls only, and there is no `unsafe` in this room.
pub async fn changed(file: &ConfigFile) -> io::Result<()> {
    let (mut tell, told) = oneshot::channel();
    let file = file.clone();
    thread::Builder::new().name("config-watch".into()).spawn(move || {
        let result = wait(&file, &mut tell);
        // Nobody waits any more: then nobody wants to know.
        let _ = tell.send(result);
    })?;
    told.await
        .unwrap_or_else(|_| Err(io::Error::other("the thread that watches the file has died")))
}

/// Blocks until the file has changed, or nobody waits for it.
fn wait(file: &ConfigFile, tell: &mut oneshot::Sender<io::Result<()>>) -> io::Result<()> {
    loop {
        // Watched before it is compared, so that nothing happens unseen in between.
        let inotify = watch_folders(&file.path)?;
        if is_changed(file) || tell.is_closed() {
            return Ok(());
        }
        let mut news = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        match poll(&mut news, PollTimeout::from(GLANCE)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn is_changed(file: &ConfigFile) -> bool {
    match std::fs::read(&file.path) {
        Ok(content) => !content.is_empty() && *content != *file.content,
        Err(_) => false,
    }
}

/// Watches the folders of every link on the way to the file. The watches are made anew each time,
/// since a swapped link leads elsewhere.
fn watch_folders(path: &Path) -> io::Result<Inotify> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let wanted = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE;
    for folder in folders(path) {
        // One that vanished meanwhile is found again at the next look.
        let _ = inotify.add_watch(&folder, wanted);
    }
    Ok(inotify)
}

/// The folder the path names, and the one the file is really in.
fn folders(path: &Path) -> Vec<PathBuf> {
    let parent = |path: &Path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut folders = vec![parent(path)];
    folders.extend(std::fs::canonicalize(path).ok().map(|real| parent(&real)));
    folders.dedup();
    folders
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Duration;

    /// A folder of its own that goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir()
                .join(format!("kube-proxy-watch-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn is_told(path: PathBuf, change: impl FnOnce()) -> bool {
        let content = fs::read(&path).unwrap().into();
        let file = ConfigFile { path, content };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut change = Some(change);
            let change = async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                if let Some(change) = change.take() {
                    change();
                }
                tokio::time::sleep(Duration::from_secs(2)).await;
            };
            tokio::select! {
                biased;
                result = changed(&file) => result.is_ok(),
                () = change => false,
            }
        })
    }

    #[test]
    fn a_write_is_told() {
        let folder = Folder::new("write");
        let path = folder.0.join("config");
        fs::write(&path, "a").unwrap();
        assert!(is_told(path.clone(), || fs::write(&path, "b").unwrap()));
    }

    #[test]
    fn a_rename_over_it_is_told() {
        let folder = Folder::new("rename");
        let (path, new) = (folder.0.join("config"), folder.0.join("new"));
        fs::write(&path, "a").unwrap();
        fs::write(&new, "b").unwrap();
        assert!(is_told(path.clone(), || fs::rename(&new, &path).unwrap()));
    }

    #[test]
    fn a_config_map_swap_is_told() {
        let folder = Folder::new("swap");
        for (version, text) in [("..1", "a"), ("..2", "b")] {
            fs::create_dir(folder.0.join(version)).unwrap();
            fs::write(folder.0.join(version).join("config"), text).unwrap();
        }
        let link =
            |to: &str, name: &str| std::os::unix::fs::symlink(to, folder.0.join(name)).unwrap();
        link("..1", "..data");
        link("..data/config", "config");
        assert!(is_told(folder.0.join("config"), || {
            link("..2", "..data_tmp");
            fs::rename(folder.0.join("..data_tmp"), folder.0.join("..data")).unwrap();
        }));
    }

    #[test]
    fn the_same_text_again_is_no_change() {
        let folder = Folder::new("same");
        let path = folder.0.join("config");
        fs::write(&path, "a").unwrap();
        assert!(!is_told(path.clone(), || fs::write(&path, "a").unwrap()));
    }

    #[test]
    fn a_change_before_the_watch_is_told() {
        let folder = Folder::new("before");
        let path = folder.0.join("config");
        fs::write(&path, "b").unwrap();
        let file = ConfigFile { path, content: b"a".as_slice().into() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert!(runtime.block_on(changed(&file)).is_ok());
    }
}
