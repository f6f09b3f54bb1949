//! Where the API server is and with which credentials: kubeconfig, `--master`, or the pod's own.
//!
//! It must never know what is asked of the server. Tests: `tests.rs`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Request, Response, header};
use kube::Client;
use kube::client::Body;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};

use super::explain::{self, Error};
use crate::api::form;
use crate::api::pace::{Bucket, Pace};

/// Name and version as the server's logs show them.
const USER_AGENT: &str = concat!("kube-proxy-rust/", env!("CARGO_PKG_VERSION"));

/// Which API server, and as whom.
#[derive(Clone, Debug, Default)]
pub struct Server {
    /// `--kubeconfig`.
    pub kubeconfig: Option<PathBuf>,
    /// `--master`: wins over the kubeconfig's address.
    pub master: Option<String>,
    /// `--kube-api-content-type`, or what is to be accepted instead; empty: protobuf.
    pub form: String,
    /// How often it may be asked, by all watches and Events together.
    pub pace: Pace,
}

/// A way to ask an API server.
#[derive(Clone)]
pub struct Connection {
    client: Client,
    url: String,
    accept: Arc<str>,
    bucket: Option<Arc<Mutex<Bucket>>>,
    since: Instant,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({})", self.url)
    }
}

/// Reads address and credentials; the server is not asked anything yet.
pub async fn connect(server: &Server) -> Result<Connection, Error> {
    let mut config = match (&server.kubeconfig, &server.master) {
        (Some(path), _) => from_kubeconfig(path).await?,
        (None, Some(master)) => Config::new(address(master)?),
        (None, None) => Config::incluster().map_err(|error| {
            let text = explain::chain(&error);
            Error::new(format!(
                "no --kubeconfig and no --master, and not in a pod ({text}); name one, or use --manifests"
            ))
        })?,
    };
    if let Some(master) = &server.master {
        config.cluster_url = address(master)?;
    }
    // The watches retry by themselves and heed Retry-After; two layers of it would add up.
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(10));
    config.headers.push((header::USER_AGENT, header::HeaderValue::from_static(USER_AGENT)));
    let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let client = Client::try_from(config).map_err(|error| {
        let todo = match error {
            kube::Error::Auth(_) => "check the user in the kubeconfig",
            _ => "check the certificates and keys of the kubeconfig",
        };
        Error::new(format!("API server {url}: {}; {todo}", explain::chain(&error)))
    })?;
    let bucket = Bucket::new(server.pace).map(|bucket| Arc::new(Mutex::new(bucket)));
    let accept = accept(server).into();
    Ok(Connection { client, url, accept, bucket, since: Instant::now() })
}

/// What is asked for: the form that is wanted, and JSON, which every server has.
fn accept(server: &Server) -> String {
    match server.form.as_str() {
        "" => format!("{},application/json", form::PROTOBUF),
        "application/json" => "application/json".to_owned(),
        wanted => format!("{wanted},application/json"),
    }
}

fn address(master: &str) -> Result<http::Uri, Error> {
    let with_scheme =
        if master.contains("://") { master.to_owned() } else { format!("http://{master}") };
    let refuse =
        |why: &str| Error::new(format!("--master {master:?}: {why}; give it as https://HOST:PORT"));
    let uri: http::Uri = with_scheme.parse().map_err(|_| refuse("is no address"))?;
    match uri.scheme_str() {
        Some("http" | "https") if uri.host().is_some_and(|host| !host.is_empty()) => Ok(uri),
        _ => Err(refuse("is no http or https address")),
    }
}

async fn from_kubeconfig(path: &Path) -> Result<Config, Error> {
    let refuse = |error: &dyn std::error::Error, todo: &str| {
        let (path, text) = (path.display(), explain::chain(error));
        Error::new(format!("--kubeconfig {path}: {text}; {todo}"))
    };
    // Tried by hand first: the library's error for it repeats the path and the layers between.
    std::fs::read(path).map_err(|error| refuse(&error, "check the path and its permissions"))?;
    let read = Kubeconfig::read_from(path)
        .map_err(|error| refuse(&error, "it must be a kubeconfig in YAML or JSON"))?;
    let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
        .await
        .map_err(|error| refuse(&error, "check its current-context, cluster and user"))?;
    if config.cluster_url.scheme().is_none() {
        let server = config.cluster_url.to_string();
        config.cluster_url = address(&server)
            .map_err(|_| refuse(&NoAddress(server), "give it as https://HOST:PORT"))?;
    }
    Ok(config)
}

/// The kubeconfig's server is no address.
#[derive(Debug, thiserror::Error)]
#[error("its server {0:?} is no address")]
struct NoAddress(String);

impl Connection {
    /// The server's address, for messages.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Asks the server whether it lets this client in, with a cheap request. An error whose
    /// `is_final` is true will not go away by waiting.
    pub async fn check(&self, longest: Duration) -> Result<(), Error> {
        // Any client that may watch may ask this; unlike /version it is never open to strangers.
        let path = "/api/v1/services?limit=1&resourceVersion=0";
        self.turn().await;
        let asked = tokio::time::timeout(longest, self.send(self.get(path)));
        let response = asked.await.map_err(|_| explain::no_answer(&self.url, longest))??;
        let status = response.status();
        match status.as_u16() {
            200..=299 | 429 | 500.. => Ok(()),
            _ => Err(explain::status(&self.url, status, "")),
        }
    }

    /// A request for an object or a list, in the forms that are wanted.
    pub(crate) fn get(&self, path: &str) -> Request<Body> {
        let request = Request::get(path).header(header::ACCEPT, &*self.accept);
        request.body(Body::empty()).expect("the paths are put together from escaped parts")
    }

    /// Waits until one more request may be sent; to be called before each.
    pub(crate) async fn turn(&self) {
        let Some(bucket) = &self.bucket else { return };
        let wait = {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.take(self.since.elapsed())
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Every pod with its addresses, for questions of people; where this client may not list pods,
    /// an error.
    pub async fn pods(&self) -> Result<Vec<crate::model::Pod>, Error> {
        use http_body_util::BodyExt;
        let response = self.send(self.get("/api/v1/pods?resourceVersion=0")).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(explain::status(&self.url, status, ""));
        }
        let collected = response.into_body().collect().await;
        let bytes = collected.map_err(|error| explain::transport(&self.url, &error))?.to_bytes();
        let value = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok(crate::api::pods::of_value(&value))
    }

    /// Sends one request.
    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        self.client.send(request).await.map_err(|error| explain::transport(&self.url, &error))
    }
}
