//! Where the API server is and with which credentials: kubeconfig, `--master`, or the pod's own;
//! and by way of which proxy.
//!
//! It must never ask the server anything. Tests: `tests.rs`, `netlab` (`access-…`).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http::header::{self, HeaderValue};
use hyper_util::client::proxy::matcher::Matcher;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};

use super::Server;
use super::explain::{self, Error};
use crate::model::without_user;

/// Name and version as the server's logs show them.
const USER_AGENT: &str = concat!("kube-proxy-rust/", env!("CARGO_PKG_VERSION"));
/// How often a token's file is read again (`client-go/transport/token_source.go`).
const TOKEN_AGE: Duration = Duration::from_secs(60);

/// The certificates that a pod's own credentials come with; others take their place now and then.
const POD_AUTHORITY: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// All that is needed to reach a server.
pub(super) struct Access {
    pub(super) config: Config,
    pub(super) token: Option<TokenFile>,
    /// Files that the configuration was made of; other content makes another configuration.
    files: Vec<PathBuf>,
}

/// A bearer token that somebody else replaces now and then.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    token: HeaderValue,
    read: Instant,
}

impl TokenFile {
    fn open(path: PathBuf) -> Result<TokenFile, Error> {
        let token = bearer(&path)?;
        Ok(TokenFile { path, token, read: Instant::now() })
    }

    /// The token of now; `refused` is when a request was sent that the server did not believe.
    /// What cannot be read any more goes on as it was: some take the file away after the start.
    pub(super) fn header(&mut self, refused: Option<Instant>) -> HeaderValue {
        let stale = self.read.elapsed() >= TOKEN_AGE || refused.is_some_and(|at| at >= self.read);
        if stale {
            self.read = Instant::now();
            if let Ok(token) = bearer(&self.path) {
                self.token = token;
            }
        }
        self.token.clone()
    }
}

fn bearer(path: &Path) -> Result<HeaderValue, Error> {
    let refuse = |why: String| {
        let path = path.display();
        Error::new(format!("token file {path}: {why}; check the user's tokenFile"))
    };
    let text = std::fs::read_to_string(path).map_err(|e| refuse(e.to_string()))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(refuse("it is empty".to_owned()));
    }
    // What it says instead is not repeated: it may be a secret.
    let mut value = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| refuse("it holds no token".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

impl Access {
    /// A number that is another one when any of the files says something else.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.files.iter().for_each(|file| std::fs::read(file).ok().hash(&mut hasher));
        hasher.finish()
    }

    /// Whether the credentials come from a program, which is asked again when they are refused.
    pub(super) fn is_from_program(&self) -> bool {
        self.config.auth_info.exec.is_some()
    }
}

/// Reads address and credentials.
pub(super) async fn load(server: &Server) -> Result<Access, Error> {
    let mut files = of_the_pod(server);
    let mut config = match (&server.kubeconfig, &server.master) {
        (Some(path), _) => from_kubeconfig(path, &mut files).await?,
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
    take_user(&mut config);
    if config.proxy_url.is_none() {
        let variable = |name: &str| std::env::var(name).ok();
        config.proxy_url = proxy_of_environment(&config.cluster_url, variable);
    }
    // The watches retry by themselves and heed Retry-After; two layers of it would add up.
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(10));
    config.headers.push((header::USER_AGENT, HeaderValue::from_static(USER_AGENT)));
    // The library sends the file's line end as well, which is no header, and keeps what is refused.
    let token =
        config.auth_info.token_file.take().map(|f| TokenFile::open(f.into())).transpose()?;
    if token.is_some() {
        config.auth_info.token = None;
    }
    Ok(Access { config, token, files })
}

/// Files that the library reads by itself where neither kubeconfig nor address is named.
pub(super) fn of_the_pod(server: &Server) -> Vec<PathBuf> {
    match (&server.kubeconfig, &server.master) {
        (None, None) => vec![POD_AUTHORITY.into()],
        _ => Vec::new(),
    }
}

/// User and password in the server's address become credentials where there are no others, as with
/// Go's client. Nobody who is told the address later is told them.
fn take_user(config: &mut Config) {
    let Some(authority) = config.cluster_url.authority() else { return };
    let Some((user, host)) = authority.as_str().rsplit_once('@') else { return };
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let (name, password) = (unescaped(name), unescaped(password));
    let mut parts = config.cluster_url.clone().into_parts();
    parts.authority = host.parse().ok();
    if let Ok(address) = http::Uri::from_parts(parts) {
        config.cluster_url = address;
    }
    let auth = &mut config.auth_info;
    let others = auth.username.is_some()
        || auth.token.is_some()
        || auth.token_file.is_some()
        || auth.exec.is_some()
        || auth.auth_provider.is_some();
    if !others {
        (auth.username, auth.password) = (Some(name), Some(password.into()));
    }
}

/// A part of an address without its `%XX`.
fn unescaped(text: &str) -> String {
    // As one name of a form, in which these three mean something.
    let name = text.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
    let read = form_urlencoded::parse(name.as_bytes()).next();
    read.map(|(name, _)| name.into_owned()).unwrap_or_default()
}

/// The proxy that `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` name for an address, and no other
/// variable; none for this machine's own (`golang.org/x/net/http/httpproxy`).
pub(super) fn proxy_of_environment(
    url: &http::Uri,
    variable: impl Fn(&str) -> Option<String>,
) -> Option<http::Uri> {
    let host = url.host()?.trim_matches(['[', ']']);
    let own = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if own || host.eq_ignore_ascii_case("localhost") {
        return None;
    }
    let said = |upper: &str, lower: &str| {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        set(upper).or_else(|| set(lower)).unwrap_or_default()
    };
    let http = said("HTTP_PROXY", "http_proxy");
    let https = said("HTTPS_PROXY", "https_proxy");
    let matcher = Matcher::builder()
        .http(http.clone())
        .https(https.clone())
        .no(said("NO_PROXY", "no_proxy"))
        .build();
    let proxy = matcher.intercept(url)?;
    // The matcher takes user and password out of the address, where the library looks for them.
    let said = Some(if url.scheme_str() == Some("https") { https } else { http });
    let said = said.filter(|said| said.contains("://")).and_then(|said| said.parse().ok());
    Some(said.unwrap_or_else(|| proxy.uri().clone()))
}

pub(super) fn address(master: &str) -> Result<http::Uri, Error> {
    let with_scheme =
        if master.contains("://") { master.to_owned() } else { format!("http://{master}") };
    let refuse = |why: &str| {
        Error::new(format!(
            "--master {:?}: {why}; give it as https://HOST:PORT",
            without_user(master)
        ))
    };
    let uri: http::Uri = with_scheme.parse().map_err(|_| refuse("is no address"))?;
    match uri.scheme_str() {
        Some("http" | "https") if uri.host().is_some_and(|host| !host.is_empty()) => Ok(uri),
        _ => Err(refuse("is no http or https address")),
    }
}

async fn from_kubeconfig(path: &Path, files: &mut Vec<PathBuf>) -> Result<Config, Error> {
    let refuse = |error: &dyn std::error::Error, todo: &str| {
        let (path, text) = (path.display(), explain::chain(error));
        Error::new(format!("--kubeconfig {path}: {text}; {todo}"))
    };
    // Tried by hand first: the library's error for it repeats the path and the layers between.
    let bytes = std::fs::read(path)
        .map_err(|error| refuse(&error, "check the path and its permissions"))?;
    let form = "it must be a kubeconfig in YAML or JSON";
    // The library panics at these (kube-client 5.0.0, `read_path`; found by libFuzzer).
    if matches!(bytes[..], [0xff, 0xfe, ..] | [0xfe, 0xff, ..]) && bytes.len() % 2 == 1 {
        let error = std::io::Error::other("half a UTF-16 character at its end");
        return Err(refuse(&error, form));
    }
    let read = Kubeconfig::read_from(path).map_err(|error| refuse(&error, form))?;
    files.push(path.to_owned());
    files.extend(files_of(&read));
    let named = named_proxy(&read);
    let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
        .await
        .map_err(|error| refuse(&error, "check its current-context, cluster and user"))?;
    if config.cluster_url.scheme().is_none() {
        let server = config.cluster_url.to_string();
        config.cluster_url = address(&server)
            .map_err(|_| refuse(&NoAddress(server), "give it as https://HOST:PORT"))?;
    }
    // The library takes the environment's in as well, and holds NO_PROXY against the proxy itself.
    config.proxy_url = match named {
        Some(proxy) => Some(proxy.parse().map_err(|_| {
            refuse(&NoAddress(proxy), "give proxy-url as http://, https:// or socks5://HOST:PORT")
        })?),
        None => None,
    };
    Ok(config)
}

/// Certificates and keys that are named, not written out.
fn files_of(read: &Kubeconfig) -> Vec<PathBuf> {
    let clusters = read.clusters.iter().filter_map(|c| c.cluster.as_ref());
    let users = read.auth_infos.iter().filter_map(|u| u.auth_info.as_ref());
    let of_users = users.flat_map(|u| [u.client_certificate.as_ref(), u.client_key.as_ref()]);
    let all = clusters.map(|c| c.certificate_authority.as_ref()).chain(of_users);
    all.flatten().map(PathBuf::from).collect()
}

/// The `proxy-url` of the cluster that is in use.
fn named_proxy(read: &Kubeconfig) -> Option<String> {
    let current = read.current_context.as_ref()?;
    let context = read.contexts.iter().find(|c| c.name == *current)?.context.as_ref()?;
    let cluster = read.clusters.iter().find(|c| c.name == context.cluster)?.cluster.as_ref()?;
    cluster.proxy_url.clone().filter(|proxy| !proxy.is_empty())
}

/// Something that should have been an address is none.
#[derive(Debug, thiserror::Error)]
#[error("{:?} is no address", without_user(.0))]
struct NoAddress(String);
