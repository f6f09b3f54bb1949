//! Folders of manifests, really on disk and really watched.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;

use super::*;
use crate::model::{Kind, NamespacedName, Notice};

/// A folder of its own, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("kp-manifests-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Dir(path)
    }
    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }
    fn open(&self) -> Manifests {
        Manifests::open(&self.0, "me").unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}\n"
    )
}

/// What a listener knows after some events.
#[derive(Debug, Default, PartialEq)]
struct Known {
    services: BTreeMap<String, String>,
    notices: BTreeMap<(Kind, NamespacedName), Vec<Notice>>,
    lists: usize,
}

impl Known {
    fn hear(&mut self, event: Event) {
        match event {
            Event::Service(s) => {
                self.services.insert(s.name.name.to_string(), s.cluster_ips[0].to_string());
            }
            Event::ServiceGone(name) => {
                self.services.remove(&*name.name);
            }
            Event::Notices(kind, name, notices) if notices.is_empty() => {
                self.notices.remove(&(kind, name));
            }
            Event::Notices(kind, name, notices) => {
                self.notices.insert((kind, name), notices);
            }
            Event::ListEnded(_) => self.lists += 1,
            _ => {}
        }
    }
    fn text(&self) -> String {
        self.services.iter().map(|(name, ip)| format!("{name}={ip} ")).collect()
    }
    fn complaints(&self) -> Vec<String> {
        self.notices.values().flatten().map(|n| n.to_string()).collect()
    }
}

/// A folder that is being watched.
struct Live {
    known: Known,
    events: mpsc::Receiver<Event>,
}

impl Live {
    async fn start(dir: &Dir) -> Live {
        let (sender, events) = mpsc::channel(8);
        tokio::spawn(dir.open().run(sender));
        let mut live = Live { known: Known::default(), events };
        live.until(|known| known.lists == 4).await;
        live
    }

    /// Listens until something holds; fails with what is known after some seconds.
    async fn until(&mut self, holds: impl Fn(&Known) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(8);
        while !holds(&self.known) {
            match tokio::time::timeout_at(deadline, self.events.recv()).await {
                Ok(Some(event)) => self.known.hear(event),
                other => panic!("{other:?}: {:?}", self.known),
            }
        }
    }

    async fn services(&mut self, want: &str) {
        self.until(|known| known.text() == want).await;
    }

    /// Nothing is told for a while.
    async fn silence(&mut self, for_long: Duration) {
        let heard = tokio::time::timeout(for_long, self.events.recv()).await;
        assert!(heard.is_err(), "{heard:?}");
    }
}

#[test]
fn a_folder_must_be_there() {
    let dir = Dir::new("missing");
    let missing = Manifests::open(&dir.0.join("x"), "me").unwrap_err().to_string();
    assert!(
        missing.starts_with("--manifests ") && missing.contains("/x: there is no"),
        "{missing}"
    );
    dir.write("f", "");
    let file = Manifests::open(&dir.0.join("f"), "me").unwrap_err();
    assert!(matches!(file, Error::NotAFolder(_)), "{file}");
}

#[test]
fn only_manifests_are_read_and_the_first_file_counts() {
    let dir = Dir::new("first");
    dir.write("b.yaml", &service("a", "10.0.0.2"));
    dir.write("a.yml", &service("a", "10.0.0.1"));
    dir.write(
        "c.json",
        r#"{"kind": "Service", "metadata": {"name": "c"}, "spec": {"clusterIP": "10.0.0.3"}}"#,
    );
    for other in [".hidden.yaml", "a.yaml~", "a.yaml.swp", "notes.txt", "yaml"] {
        dir.write(other, &service("x", "10.0.0.9"));
    }
    fs::create_dir(dir.0.join("folder.yaml")).unwrap();
    let mut known = Known::default();
    dir.open().read().into_iter().for_each(|event| known.hear(event));
    assert_eq!(known.text(), "a=10.0.0.1 c=10.0.0.3 ");
    assert_eq!(
        known.complaints(),
        ["Service default/a: is in \"a.yml\" and again in \"b.yaml\"; the first one counts"]
    );
    assert_eq!(known.lists, 4);
}

#[test]
fn lists_are_whole_even_of_an_empty_folder() {
    let events = Dir::new("empty").open().read();
    let want: Vec<Event> =
        Kind::ALL.into_iter().flat_map(|k| [Event::ListStarted(k), Event::ListEnded(k)]).collect();
    assert_eq!(events, want);
}

#[tokio::test]
async fn files_come_change_and_go() {
    let dir = Dir::new("change");
    let mut live = Live::start(&dir).await;
    dir.write("a.yaml", &service("a", "10.0.0.1"));
    live.services("a=10.0.0.1 ").await;
    dir.write("a.yaml", &service("a", "10.0.0.2"));
    live.services("a=10.0.0.2 ").await;
    dir.write("new", &service("a", "10.0.0.3"));
    fs::rename(dir.0.join("new"), dir.0.join("a.yaml")).unwrap();
    live.services("a=10.0.0.3 ").await;
    fs::rename(dir.0.join("a.yaml"), dir.0.join("b.yaml")).unwrap();
    live.silence(Duration::from_millis(300)).await;
    fs::remove_file(dir.0.join("b.yaml")).unwrap();
    live.services("").await;
}

#[tokio::test]
async fn an_unparsable_file_keeps_what_it_said() {
    let dir = Dir::new("broken");
    dir.write("a.yaml", &format!("{}---\n{}", service("a", "10.0.0.1"), service("b", "10.0.0.2")));
    let mut live = Live::start(&dir).await;
    live.services("a=10.0.0.1 b=10.0.0.2 ").await;
    dir.write("a.yaml", &format!("{}---\nkind: Service\n metadata: {{", service("a", "10.0.0.9")));
    live.until(|known| !known.notices.is_empty()).await;
    assert_eq!(live.known.text(), "a=10.0.0.1 b=10.0.0.2 ");
    let complaint = live.known.complaints().remove(0);
    assert!(complaint.starts_with("Manifest a.yaml line 7 column "), "{complaint}");
    dir.write("a.yaml", &service("a", "10.0.0.9"));
    live.services("a=10.0.0.9 ").await;
    live.until(|known| known.notices.is_empty()).await;
}

#[tokio::test]
async fn a_file_being_written_is_waited_for() {
    let dir = Dir::new("writing");
    dir.write("a.yaml", &service("a", "10.0.0.1"));
    let mut live = Live::start(&dir).await;
    live.services("a=10.0.0.1 ").await;
    // Cut to nothing, then written slowly: never is Service `a` seen to be gone.
    let mut file = fs::File::create(dir.0.join("a.yaml")).unwrap();
    live.silence(Duration::from_millis(150)).await;
    file.write_all(b"# still writing\n").unwrap();
    live.silence(Duration::from_millis(150)).await;
    file.write_all(service("a", "10.0.0.2").as_bytes()).unwrap();
    drop(file);
    live.services("a=10.0.0.2 ").await;
}

#[tokio::test]
async fn a_file_never_closed_is_read_at_last() {
    let dir = Dir::new("open");
    let mut live = Live::start(&dir).await;
    let mut file = fs::File::create(dir.0.join("a.yaml")).unwrap();
    file.write_all(service("a", "10.0.0.2").as_bytes()).unwrap();
    live.services("a=10.0.0.2 ").await;
    drop(file);
}

#[tokio::test]
async fn a_config_map_volume_is_swapped() {
    let dir = Dir::new("configmap");
    for (version, ip) in [("..1", "10.0.0.1"), ("..2", "10.0.0.2")] {
        fs::create_dir(dir.0.join(version)).unwrap();
        fs::write(dir.0.join(version).join("a.yaml"), service("a", ip)).unwrap();
    }
    symlink("..1", dir.0.join("..data")).unwrap();
    symlink("..data/a.yaml", dir.0.join("a.yaml")).unwrap();
    let mut live = Live::start(&dir).await;
    live.services("a=10.0.0.1 ").await;
    symlink("..2", dir.0.join("..data_tmp")).unwrap();
    fs::rename(dir.0.join("..data_tmp"), dir.0.join("..data")).unwrap();
    live.services("a=10.0.0.2 ").await;
}

#[tokio::test]
async fn a_folder_may_go_and_come_back() {
    let dir = Dir::new("again");
    dir.write("a.yaml", &service("a", "10.0.0.1"));
    let mut live = Live::start(&dir).await;
    live.services("a=10.0.0.1 ").await;
    fs::remove_dir_all(&dir.0).unwrap();
    live.until(|known| known.services.is_empty() && known.complaints().len() == 1).await;
    fs::create_dir(&dir.0).unwrap();
    dir.write("a.yaml", &service("a", "10.0.0.2"));
    live.services("a=10.0.0.2 ").await;
    live.until(|known| known.notices.is_empty()).await;
    dir.write("a.yaml", &service("a", "10.0.0.3"));
    live.services("a=10.0.0.3 ").await;
}

#[tokio::test]
async fn a_folder_swapped_for_another_is_followed() {
    let dir = Dir::new("swap");
    let (one, two) = (Dir::new("swap-1"), Dir::new("swap-2"));
    one.write("a.yaml", &service("a", "10.0.0.1"));
    two.write("a.yaml", &service("a", "10.0.0.2"));
    fs::remove_dir(&dir.0).unwrap();
    symlink(&one.0, &dir.0).unwrap();
    let mut live = Live::start(&dir).await;
    live.services("a=10.0.0.1 ").await;
    let next = dir.0.with_extension("next");
    symlink(&two.0, &next).unwrap();
    fs::rename(&next, &dir.0).unwrap();
    live.services("a=10.0.0.2 ").await;
    two.write("a.yaml", &service("a", "10.0.0.3"));
    live.services("a=10.0.0.3 ").await;
    fs::remove_file(&dir.0).unwrap();
}

#[tokio::test]
async fn a_change_that_says_the_same_is_no_news() {
    let dir = Dir::new("same");
    dir.write("a.yaml", &service("a", "10.0.0.1"));
    let mut live = Live::start(&dir).await;
    live.services("a=10.0.0.1 ").await;
    dir.write("a.yaml", &format!("# a comment\n{}", service("a", "10.0.0.1")));
    live.silence(Duration::from_millis(300)).await;
}

#[tokio::test]
async fn it_ends_when_nobody_listens() {
    let dir = Dir::new("end");
    let (sender, events) = mpsc::channel(64);
    let running = tokio::spawn(dir.open().run(sender));
    drop(events);
    tokio::time::timeout(Duration::from_secs(5), running).await.unwrap().unwrap();
}
