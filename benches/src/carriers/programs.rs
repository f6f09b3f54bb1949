//! The programs that carry connections from the clients to the pod: kube-proxy in userspace mode, HAProxy in TCP mode,
//! nginx's stream module; and none, the node's forwarding alone. It measures nothing but their memory.
//! Tests: by running `carriers`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use netlab::process::{Guarded, Rights};
use netlab::scratch::Scratch;
use nix::sys::signal::Signal;
use serde_json::json;

use super::ground::{Ground, NODE, SERVICE, pod};

/// The ports that HAProxy and nginx listen at.
const HAPROXY_PORT: u16 = 8081;
const NGINX_PORT: u16 = 8082;

/// How long a program may take to end.
const ENDING: Duration = Duration::from_secs(15);

/// Who carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// Nobody: the node forwards packets.
    None,
    /// kube-proxy in userspace mode.
    Ours,
    /// HAProxy, `mode tcp` with `option splice-auto`.
    Haproxy,
    /// nginx, `stream`.
    Nginx,
}

impl Carrier {
    /// All of them.
    pub const ALL: [Carrier; 4] = [Carrier::None, Carrier::Ours, Carrier::Haproxy, Carrier::Nginx];

    /// Its name in the results.
    pub fn name(self) -> &'static str {
        match self {
            Carrier::None => "forwarded",
            Carrier::Ours => "ours",
            Carrier::Haproxy => "HAProxy",
            Carrier::Nginx => "nginx",
        }
    }

    /// Where clients connect to.
    pub fn target(self) -> SocketAddr {
        match self {
            Carrier::None => pod(),
            Carrier::Ours => SocketAddr::new(SERVICE.into(), 80),
            Carrier::Haproxy => SocketAddr::new(NODE.into(), HAPROXY_PORT),
            Carrier::Nginx => SocketAddr::new(NODE.into(), NGINX_PORT),
        }
    }

    /// Starts it on the node, with room for so many connections; nothing for the one that is none.
    pub fn start(self, ground: &Ground, most: usize) -> Result<Option<Program>, String> {
        let scratch = Scratch::new()?;
        let folder = scratch.path();
        let (binary, arguments) = match self {
            Carrier::None => return Ok(None),
            Carrier::Ours => (netlab::proxy::find()?, ours(folder)?),
            Carrier::Haproxy => {
                let file = written(folder, "haproxy.cfg", &haproxy(most))?;
                (found("haproxy")?, ["-db", "-f", &file].map(str::to_owned).to_vec())
            }
            Carrier::Nginx => {
                let file = written(folder, "nginx.conf", &nginx(folder))?;
                (found("nginx")?, ["-c", &file].map(str::to_owned).to_vec())
            }
        };
        let log = folder.join("log");
        let process =
            Guarded::start(&ground.node, Rights::Ours, (binary.as_path(), &arguments), &log)?;
        Ok(Some(Program { process, _scratch: scratch }))
    }
}

/// A program that runs.
pub struct Program {
    process: Guarded,
    _scratch: Scratch,
}

impl Program {
    /// Its memory and that of the processes it started, each shared page counted by its share, in KiB.
    pub fn memory(&self) -> u64 {
        family(self.process.id()).into_iter().map(share).sum()
    }

    /// What it said last.
    pub fn last_words(&self) -> String {
        self.process.last_words(10)
    }
}

impl Drop for Program {
    /// Asks it to end: killed, nginx would leave its workers behind, at the port of the next one.
    fn drop(&mut self) {
        if self.process.signal(Signal::SIGTERM).is_ok() {
            let _ = self.process.wait(ENDING);
        }
    }
}

/// A process and its children.
fn family(id: u32) -> Vec<u32> {
    let parent = |process: u32| {
        let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|process| *process == id || parent(*process) == Some(id)).collect()
}

fn share(id: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{id}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn found(program: &str) -> Result<PathBuf, String> {
    let places = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    let found = places.iter().map(|place| Path::new(place).join(program)).find(|p| p.exists());
    found.ok_or_else(|| {
        format!("no {program} here: apt-get install haproxy nginx libnginx-mod-stream")
    })
}

fn written(folder: &Path, name: &str, text: &str) -> Result<String, String> {
    let path = folder.join(name);
    std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path.display().to_string())
}

fn ours(folder: &Path) -> Result<Vec<String>, String> {
    let manifests = folder.join("manifests");
    std::fs::create_dir(&manifests).map_err(|e| format!("{}: {e}", manifests.display()))?;
    let (pod, node) = (pod(), NODE.to_string());
    let objects = [
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"},
            "status": {"addresses": [{"type": "InternalIP", "address": node}]}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "d", "name": "s"},
            "spec": {"clusterIP": SERVICE, "ports": [{"name": "p", "port": 80},
                {"name": "u", "port": 80, "protocol": "UDP"}]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": "d", "name": "s-1",
                "labels": {"kubernetes.io/service-name": "s"}},
            "ports": [{"name": "p", "port": pod.port()},
                {"name": "u", "port": pod.port(), "protocol": "UDP"}],
            "endpoints": [{"addresses": [pod.ip()], "nodeName": "other"}]}),
    ];
    for (number, object) in objects.iter().enumerate() {
        written(&manifests, &format!("{number}.json"), &object.to_string())?;
    }
    Ok(vec![
        format!("--manifests={}", manifests.display()),
        "--proxy-mode=userspace".to_owned(),
        "--hostname-override=node".to_owned(),
        "--cluster-cidr=172.29.2.0/24".to_owned(),
        "--healthz-bind-address=".to_owned(),
        "--metrics-bind-address=".to_owned(),
    ])
}

fn haproxy(most: usize) -> String {
    let pod = pod();
    format!(
        "global\n maxconn {most}\n maxpipes 500\ndefaults\n mode tcp\n option splice-auto\n timeout connect 5s\n \
         timeout client 1h\n timeout server 1h\nlisten carried\n bind {NODE}:{HAPROXY_PORT}\n server pod {pod}\n"
    )
}

fn nginx(folder: &Path) -> String {
    let (pod, folder) = (pod(), folder.display());
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\nuser root;\ndaemon off;\nworker_processes auto;\n\
         worker_rlimit_nofile 60000;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\n\
         events {{ worker_connections 30000; }}\n\
         stream {{ server {{ listen {NODE}:{NGINX_PORT} backlog=16384; proxy_pass {pod}; proxy_timeout 1h; }}\n\
         server {{ listen {NODE}:{NGINX_PORT} udp reuseport; proxy_pass {pod}; proxy_timeout 10s; }} }}\n"
    )
}
