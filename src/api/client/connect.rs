//! A way to ask an API server: keeps the client, renews it when credentials change or are refused,
//! paces requests and tells how each of them ended.
//!
//! It must never know what is asked of the server. Tests: `tests.rs`, `netlab` (`access-…`).

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::{Request, Response, StatusCode, header};
use kube::Client;
use kube::client::Body;
use kube::config::Config;

use super::access::{self, Access};
use super::explain::{self, Error};
use crate::api::form;
use crate::api::pace::{Bucket, Pace};

/// How often it is looked whether certificates have been replaced, and the shortest time between
/// two clients.
const LOOK: Duration = Duration::from_secs(5);
/// How long before their end credentials of a program are asked for anew.
const BEFORE_END: Duration = Duration::from_secs(60);

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

/// A request that has ended, for whoever counts them.
#[derive(Clone, Copy, Debug)]
pub struct Requested<'a> {
    /// Its HTTP method.
    pub method: &'a str,
    /// The server's host and port.
    pub host: &'a str,
    /// The answer's status; `None`: there was no answer.
    pub status: Option<u16>,
    /// The time until the answer began; `None` for a watch.
    pub took: Option<Duration>,
}

/// Is told of every request that has ended.
pub type Tell = Arc<dyn Fn(&Requested<'_>) + Send + Sync>;

/// A way to ask an API server. Clones share the client and the pace.
#[derive(Clone)]
pub struct Connection {
    server: Server,
    held: Arc<tokio::sync::Mutex<Held>>,
    url: String,
    host: Arc<str>,
    accept: Arc<str>,
    bucket: Option<Arc<Mutex<Bucket>>>,
    since: Instant,
    tell: Option<Tell>,
}

/// The client of now.
struct Held {
    client: Client,
    access: Access,
    fingerprint: u64,
    made: Instant,
    looked: Instant,
    /// When a request was sent that came back with 401, the newest one.
    refused: Option<Instant>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({})", self.url)
    }
}

/// Reads address and credentials; the server is not asked anything yet.
pub async fn connect(server: &Server) -> Result<Connection, Error> {
    let held = hold(server).await?;
    let config = &held.access.config;
    let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let host = config.cluster_url.authority().map(|a| a.as_str()).unwrap_or_default().into();
    let bucket = Bucket::new(server.pace).map(|bucket| Arc::new(Mutex::new(bucket)));
    Ok(Connection {
        server: server.clone(),
        held: Arc::new(tokio::sync::Mutex::new(held)),
        url,
        host,
        accept: accept(server).into(),
        bucket,
        since: Instant::now(),
        tell: None,
    })
}

async fn hold(server: &Server) -> Result<Held, Error> {
    let access = access::load(server).await?;
    let fingerprint = access.fingerprint();
    let client = client(access.config.clone()).await?;
    let made = Instant::now();
    Ok(Held { client, access, fingerprint, made, looked: made, refused: None })
}

/// Makes a client; may run the program that gives credentials.
async fn client(config: Config) -> Result<Client, Error> {
    let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let made = tokio::task::spawn_blocking(move || Client::try_from(config)).await;
    let made = made.map_err(|_| Error::new(format!("API server {url}: ending")))?;
    made.map_err(|error| {
        let todo = match error {
            kube::Error::Auth(_) => "check the user in the kubeconfig",
            kube::Error::ProxyProtocolUnsupported { .. } => "check proxy-url in the kubeconfig",
            _ => "check the certificates and keys of the kubeconfig",
        };
        Error::new(format!("API server {url}: {}; {todo}", explain::chain(&error)))
    })
}

impl Held {
    /// Whether another client is needed: certificates were replaced, or credentials of a program
    /// were refused or come to their end.
    fn is_worn(&mut self) -> bool {
        if self.looked.elapsed() < LOOK {
            return false;
        }
        self.looked = Instant::now();
        let refused = self.refused.is_some_and(|at| at >= self.made);
        let ends = self.client.valid_until().is_some_and(|end| {
            let left = SystemTime::from(end).duration_since(SystemTime::now());
            left.unwrap_or_default() < BEFORE_END
        });
        ends || (refused && self.access.is_from_program())
            || self.access.fingerprint() != self.fingerprint
    }
}

/// What is asked for: the form that is wanted, and JSON, which every server has.
fn accept(server: &Server) -> String {
    match server.form.as_str() {
        "" => format!("{},application/json", form::PROTOBUF),
        "application/json" => "application/json".to_owned(),
        wanted => format!("{wanted},application/json"),
    }
}

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
        // Pods have no decoder of protobuf: JSON is asked for, which every server has.
        let request = Request::get("/api/v1/pods?resourceVersion=0");
        let request = request.header(header::ACCEPT, "application/json").body(Body::empty());
        let response = self.send(request.expect("the path is a constant")).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(explain::status(&self.url, status, ""));
        }
        let collected = response.into_body().collect().await;
        let bytes = collected.map_err(|error| explain::transport(&self.url, &error))?.to_bytes();
        let value = serde_json::from_slice(&bytes).map_err(|error| {
            Error::new(format!("API server {}: its list of pods is no JSON: {error}", self.url))
        })?;
        let mut pods = crate::api::pods::of_value(&value);
        crate::api::pods::merge(&mut pods);
        Ok(pods)
    }

    /// The same, telling of every request how it ended.
    pub fn telling(self, tell: Tell) -> Connection {
        Connection { tell: Some(tell), ..self }
    }

    /// Sends one request.
    pub(crate) async fn send(&self, mut request: Request<Body>) -> Result<Response<Body>, Error> {
        let client = self.client(&mut request).await;
        let watch = request.uri().query().is_some_and(|query| query.contains("watch="));
        let (method, began) = (request.method().clone(), Instant::now());
        let answer = client.send(request).await;
        let status = answer.as_ref().ok().map(Response::status);
        if status == Some(StatusCode::UNAUTHORIZED) {
            self.held.lock().await.refused = Some(began);
        }
        if let Some(tell) = &self.tell {
            tell(&Requested {
                method: method.as_str(),
                host: &self.host,
                status: status.map(|status| status.as_u16()),
                took: (!watch).then(|| began.elapsed()),
            });
        }
        answer.map_err(|error| explain::transport(&self.url, &error))
    }

    /// The client to send this request with; it may be a new one.
    async fn client(&self, request: &mut Request<Body>) -> Client {
        let mut held = self.held.lock().await;
        if held.is_worn() {
            match hold(&self.server).await {
                Ok(new) => *held = new,
                Err(error) => tracing::warn!(%error, "the old credentials are used on"),
            }
        }
        let refused = held.refused;
        if let Some(token) = &mut held.access.token {
            request.headers_mut().insert(header::AUTHORIZATION, token.header(refused));
        }
        held.client.clone()
    }
}
