//! A node of one namespace: an API server, the real kube-proxy and a client that asks a Service,
//! all over loopback. The Service has one endpoint: one address listens, another one refuses, so
//! that a connection says which of them the kernel's rules name. Tests: by running `daemon`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube_proxy::model::Family;
use netlab::apiserver::{ApiServer, Manners, Shared};
use netlab::links::{self, Hop};
use netlab::namespace::Namespace;
use netlab::process::{Guarded, Rights};
use netlab::proxy::{Input, Start};
use netlab::scratch::Scratch;
use serde_json::Value;

use crate::cluster::cluster_ip;
use crate::crowd::{self, Flow};
use crate::objects;

/// The endpoint that listens.
const OPEN: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);
/// The endpoint that refuses.
const CLOSED: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 2);
/// The node's own address.
const OWN: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 9);
/// Port of the endpoints.
const PORT: u16 = 8080;
/// Between two attempts of a client that waits for a change.
const PAUSE: Duration = Duration::from_micros(200);
/// How long one attempt may take: before there are rules there is no answer at all.
const ATTEMPT: Duration = Duration::from_millis(50);

/// Which endpoint the Service has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The one that listens.
    Open,
    /// The one that refuses.
    Closed,
}

/// The node.
pub struct Node {
    // In the order in which they are to end.
    proxy: Option<Guarded>,
    _server: ApiServer,
    url: String,
    /// What the API server shares.
    pub shared: Arc<Shared>,
    namespace: Namespace,
    listener: TcpListener,
    probed: usize,
    /// Where tools are looked for first.
    tools: Option<PathBuf>,
    scratch: Scratch,
}

impl Node {
    /// A node whose API server has these objects, and behind them the Service that is asked.
    pub fn new(objects: &[Value], probed: usize) -> Result<Node, String> {
        let namespace = Namespace::new("bench")?;
        wire(&namespace)?;
        let listen = |at: SocketAddr| namespace.run(|| TcpListener::bind(at));
        let failed = |e: std::io::Error| format!("listen: {e}");
        let listener = listen(SocketAddr::new(OPEN.into(), PORT)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let shared = Shared::new(Manners::default());
        shared.store.set_all(objects)?;
        shared.store.set(&objects::service(probed))?;
        let server = listen(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)).map_err(failed)?;
        let server = ApiServer::start(server, shared.clone())?;
        let (url, scratch) = (server.url(), Scratch::new()?);
        let node = Node {
            proxy: None,
            _server: server,
            url,
            shared,
            namespace,
            listener,
            probed,
            tools: None,
            scratch,
        };
        node.give(Endpoint::Open)?;
        Ok(node)
    }

    /// Starts kube-proxy; gives its process id.
    pub fn start(&mut self, binary: &Path, flags: &[String]) -> Result<u32, String> {
        let start = Start {
            binary: binary.to_owned(),
            input: Input::Server(self.url.clone()),
            flags: flags.to_vec(),
            rights: Rights::Ours,
            log: self.scratch.path().join("kube-proxy.log"),
        };
        let mut words = start.arguments();
        let mut binary = start.binary.as_path();
        if let Some(tools) = &self.tools {
            let path = std::env::var("PATH").unwrap_or_default();
            let first = [format!("PATH={}:{path}", tools.display()), binary.display().to_string()];
            words.splice(0..0, first);
            binary = Path::new("/usr/bin/env");
        }
        let program = (binary, &words[..]);
        let proxy = Guarded::start(&self.namespace, start.rights, program, &start.log)?;
        let id = proxy.id();
        self.proxy = Some(proxy);
        Ok(id)
    }

    /// From now on the node's iptables is of this flavour (`nft`, `legacy`), and kubelet says so.
    pub fn use_iptables(&mut self, flavour: &str) -> Result<(), String> {
        let folder = self.scratch.folder("tools")?;
        netlab::proxy::link_iptables(&folder, flavour)?;
        let mut hint = Command::new(folder.join("iptables"));
        hint.args(["-t", "mangle", "-N", "KUBE-IPTABLES-HINT"]);
        let done = self.namespace.run(|| hint.output()).map_err(|e| format!("iptables: {e}"))?;
        if !done.status.success() {
            return Err(format!("iptables: {}", String::from_utf8_lossy(&done.stderr).trim()));
        }
        self.tools = Some(folder);
        Ok(())
    }

    /// Puts flows into its conntrack table.
    pub fn fill(&self, flows: impl Iterator<Item = Flow> + Send) -> Result<(), String> {
        self.namespace.run(|| crowd::fill(flows))
    }

    /// Does something in its namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.run(work)
    }

    /// What kube-proxy has said so far.
    pub fn said(&self) -> String {
        self.proxy.as_ref().map(Guarded::said).unwrap_or_default()
    }

    /// Gives the asked Service another endpoint.
    pub fn give(&self, endpoint: Endpoint) -> Result<(), String> {
        let address = match endpoint {
            Endpoint::Open => OPEN,
            Endpoint::Closed => CLOSED,
        };
        let slice = objects::slice(self.probed, &[address.to_string()]);
        self.shared.store.set(&slice).map(|_| ())
    }

    /// Asks the Service until it leads to this endpoint; gives how long that took.
    pub fn wait_for(&mut self, wanted: Endpoint, patience: Duration) -> Result<Duration, String> {
        let to = SocketAddr::new(cluster_ip(self.probed, Family::V4), 80);
        let listener = &self.listener;
        let began = Instant::now();
        let took = self.namespace.run(|| {
            while began.elapsed() < patience {
                let found = ask(to);
                let took = began.elapsed();
                while listener.accept().is_ok() {}
                if found == Some(wanted) {
                    return Some(took);
                }
                std::thread::sleep(PAUSE);
            }
            None
        });
        if let Some(status) = self.proxy.as_mut().and_then(Guarded::ended) {
            return Err(format!("kube-proxy ended: {status}\n{}", self.last_words()));
        }
        took.ok_or_else(|| {
            let words = self.last_words();
            format!("the Service does not lead to {wanted:?} after {patience:?}\n{words}")
        })
    }

    fn last_words(&self) -> String {
        self.proxy.as_ref().map(|p| p.last_words(15)).unwrap_or_default()
    }
}

/// Which endpoint a new connection reaches.
fn ask(to: SocketAddr) -> Option<Endpoint> {
    match TcpStream::connect_timeout(&to, ATTEMPT) {
        Ok(_) => Some(Endpoint::Open),
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => Some(Endpoint::Closed),
        Err(_) => None,
    }
}

/// Loopback with the endpoints' addresses, and a way to the cluster IPs.
fn wire(namespace: &Namespace) -> Result<(), String> {
    links::up(namespace, "lo")?;
    for address in [OPEN, CLOSED, OWN] {
        links::address(namespace, "lo", address.into(), 32)?;
    }
    let cluster_ips: IpAddr = Ipv4Addr::new(10, 96, 0, 0).into();
    links::route(namespace, (cluster_ips, 12), "lo", Hop::Link)
}
