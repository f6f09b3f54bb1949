//! An API server small enough to be broken on purpose: lists in pages, watches with bookmarks and
//! streamed lists, 410 after compaction, Events recorded, and faults on command. HTTP/1.1,
//! plain or in TLS, with a token if one is set.
//! It serves the kinds kube-proxy reads and forgets everything when it is dropped; the store is
//! shared, so that it outlives a restart of the server. Tests: `tests.rs` beside this.

pub mod bulk;
pub mod faults;
mod http;
mod protobuf;
mod route;
mod selector;
pub mod store;
#[cfg(test)]
mod tests;
pub mod tls;
mod watching;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;

use faults::{Fault, Faults};
use http::Request;
use route::{Answer, Target};
use store::{Resource, Snapshot, Store};

/// How a server behaves when nothing is spoilt.
#[derive(Clone, Debug)]
pub struct Manners {
    /// Time between bookmarks.
    pub bookmarks: Duration,
    /// Whether lists can be streamed by a watch (`sendInitialEvents`).
    pub streams_lists: bool,
    /// Whether it says where such a list ends; servers were seen that do not.
    pub ends_streams: bool,
    /// Whether it has protobuf; else it answers in JSON whatever is asked for.
    pub protobuf: bool,
    /// Resources this server does not have, as older releases lack ServiceCIDRs.
    pub lacks: Vec<Resource>,
    /// The bearer token that every request must carry; without, anybody is let in.
    pub token: Option<String>,
    /// In TLS, whether clients have to show a certificate.
    pub clients: tls::Clients,
}

impl Default for Manners {
    fn default() -> Self {
        Manners {
            bookmarks: Duration::from_secs(5),
            streams_lists: true,
            ends_streams: true,
            protobuf: true,
            lacks: Vec::new(),
            token: None,
            clients: tls::Clients::default(),
        }
    }
}

/// One request as it was recorded.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// When it came.
    pub at: Instant,
    /// Method, path and decoded query.
    pub line: String,
}

/// What a server and its connections share. It outlives the server: a restarted server goes on with it.
pub struct Shared {
    /// The objects.
    pub store: Store,
    /// What goes wrong.
    pub faults: Faults,
    /// How it behaves when nothing is wrong.
    pub manners: Manners,
    token: Mutex<Option<String>>,
    written: Mutex<Vec<Value>>,
    requests: Mutex<Vec<Recorded>>,
    remembered: Mutex<BTreeMap<Resource, Snapshot>>,
    pages: Mutex<BTreeMap<u64, Arc<Snapshot>>>,
    next_page: AtomicU64,
}

impl Shared {
    /// An empty cluster.
    pub fn new(manners: Manners) -> Arc<Shared> {
        Arc::new(Shared {
            store: Store::default(),
            faults: Faults::default(),
            token: Mutex::new(manners.token.clone()),
            manners,
            written: Mutex::default(),
            requests: Mutex::default(),
            remembered: Mutex::default(),
            pages: Mutex::default(),
            next_page: AtomicU64::new(1),
        })
    }

    /// The objects written by clients: Events, newest last.
    pub fn written(&self) -> Vec<Value> {
        self.written.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// From now on another token is the right one.
    pub fn expect_token(&self, token: &str) {
        *self.token.lock().unwrap_or_else(|e| e.into_inner()) = Some(token.to_owned());
    }

    fn lets_in(&self, bearer: &str) -> bool {
        let token = self.token.lock().unwrap_or_else(|e| e.into_inner());
        token.as_ref().is_none_or(|token| token == bearer)
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Recorded> {
        self.requests.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Remembers the state of now, for lists that are to be stale later.
    pub fn remember(&self) {
        let mut remembered = self.remembered.lock().unwrap_or_else(|e| e.into_inner());
        for resource in Resource::ALL {
            remembered.insert(resource, self.store.snapshot(resource));
        }
    }

    fn remembered(&self, resource: Resource) -> Option<Snapshot> {
        let remembered = self.remembered.lock().unwrap_or_else(|e| e.into_inner());
        remembered.get(&resource).cloned()
    }

    fn record(&self, request: &Request) {
        let query: Vec<String> = request.query.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let line = format!("{} {}?{}", request.method, request.path, query.join("&"));
        let mut requests = self.requests.lock().unwrap_or_else(|e| e.into_inner());
        requests.push(Recorded { at: Instant::now(), line });
    }
}

/// A running server. Dropping it closes every connection at once.
pub struct ApiServer {
    address: SocketAddr,
    scheme: &'static str,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl ApiServer {
    /// Serves on a listener; where the listener was made, in which namespace, is the caller's.
    pub fn start(listener: TcpListener, shared: Arc<Shared>) -> Result<ApiServer, String> {
        ApiServer::serve(listener, shared, None)
    }

    /// The same in TLS, with the lab's own certificate.
    pub fn start_tls(listener: TcpListener, shared: Arc<Shared>) -> Result<ApiServer, String> {
        let acceptor = tls::acceptor(shared.manners.clients)?;
        ApiServer::serve(listener, shared, Some(acceptor))
    }

    fn serve(
        listener: TcpListener,
        shared: Arc<Shared>,
        tls: Option<tls::Acceptor>,
    ) -> Result<ApiServer, String> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let failed = |e: std::io::Error| format!("API server: {e}");
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("apiserver".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    // Returning drops the runtime, and with it every connection.
                    tokio::select! { () = accept(listener, shared, tls) => {}, _ = stopped => {} }
                });
            })
            .map_err(failed)?;
        Ok(ApiServer { address, scheme, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tls: Option<tls::Acceptor>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let (shared, tls) = (shared.clone(), tls.clone());
            tokio::spawn(async move {
                // A client that went away, or did not like our certificate, is no error of ours.
                let _ = match tls {
                    None => converse(stream, &shared).await,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => converse(stream, &shared).await,
                        Err(error) => Err(error),
                    },
                };
            });
        }
    }
}

/// Answers the requests of one connection, one after the other.
async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    shared: &Shared,
) -> std::io::Result<()> {
    let mut held = Vec::new();
    while let Some(request) = http::read(&mut stream, &mut held).await? {
        shared.record(&request);
        if !shared.lets_in(&request.bearer) {
            let body = route::status(401, "Unauthorized", "Unauthorized");
            stream.write_all(&http::answer(401, "", &body)).await?;
            stream.flush().await?;
            continue;
        }
        let target = Target::of(&request, &shared.manners);
        let fault = shared.faults.take(target.asked, target.resource);
        match &fault {
            Some(Fault::Drop) => return Ok(()),
            Some(Fault::Slow(by)) => tokio::time::sleep(*by).await,
            Some(Fault::Garbage) => {
                stream.write_all(&http::answer(200, "", "<html>\u{1}{[not json")).await?;
                continue;
            }
            Some(Fault::Status(code, retry_after)) => {
                let after = retry_after.map(|s| format!("Retry-After: {s}\r\n"));
                let body = route::status(*code, "TooManyRequests", "spoilt on purpose");
                let headers = after.unwrap_or_default();
                stream.write_all(&http::answer(*code, &headers, &body)).await?;
                continue;
            }
            _ => {}
        }
        match route::answer(shared, &request, &target, fault.as_ref()) {
            Answer::Whole(status, body) => {
                let bytes = if request.protobuf && shared.manners.protobuf {
                    http::answer_in((status, ""), protobuf::MEDIA, &protobuf::body(&body))
                } else {
                    http::answer(status, "", &body)
                };
                if fault == Some(Fault::Truncate) {
                    return stream.write_all(&bytes[..bytes.len() / 2]).await;
                }
                stream.write_all(&bytes).await?;
                stream.flush().await?;
            }
            Answer::Watch(watch) => return watching::serve(stream, shared, watch, fault).await,
        }
    }
    Ok(())
}
