//! A tiny HTTP server for the tests: it answers each request as its script says, with pauses,
//! broken connections and nonsense where wanted. It knows nothing of Kubernetes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What becomes of an answer, step by step.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Say(String),
    Pause(Duration),
    /// The connection breaks off here.
    Cut,
    /// Nothing more comes, and the connection stays.
    Hang,
}

/// An answer: status, one more header, and steps of its body.
#[derive(Clone, Debug)]
pub(crate) struct Reply(pub(crate) u16, pub(crate) &'static str, pub(crate) Vec<Step>);

impl Reply {
    pub(crate) fn text(text: impl Into<String>) -> Reply {
        Reply(200, "", vec![Step::Say(text.into())])
    }
}

/// A request as it came: method and path with query, the body, and what forms are accepted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asked(pub(crate) String, pub(crate) String, pub(crate) String);

type Script = dyn Fn(usize, &Asked) -> Reply + Send + Sync;

/// A running server.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Fake {
    /// A server on a free port; `script` is given each request and its number from 0.
    pub(crate) async fn start(
        script: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static,
    ) -> Fake {
        Fake::start_at("127.0.0.1:0".parse().unwrap(), script).await
    }

    /// One whose script is asked for streamed lists as well.
    pub(crate) async fn streaming(
        script: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static,
    ) -> Fake {
        Fake::begin("127.0.0.1:0".parse().unwrap(), (Arc::new(script), true)).await
    }

    pub(crate) async fn start_at(
        address: SocketAddr,
        script: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static,
    ) -> Fake {
        Fake::begin(address, (Arc::new(script), false)).await
    }

    async fn begin(address: SocketAddr, script: (Arc<Script>, bool)) -> Fake {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(64).unwrap();
        let (asked, tasks) = (Arc::<Mutex<Vec<Asked>>>::default(), Arc::default());
        let address = listener.local_addr().unwrap();
        let fake = Fake { address, asked: asked.clone(), tasks: Arc::clone(&tasks) };
        let accepting = tokio::spawn(accept(listener, script, asked, tasks.clone()));
        tasks.lock().unwrap().push(accepting);
        fake
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far whose path has this text in it.
    pub(crate) fn asked(&self, part: &str) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().map(|a| a.0.clone()).filter(|path| path.contains(part)).collect()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.tasks.lock().unwrap().iter().for_each(JoinHandle::abort);
    }
}

async fn accept(
    listener: TcpListener,
    script: (Arc<Script>, bool),
    asked: Arc<Mutex<Vec<Asked>>>,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let serving = tokio::spawn(serve(stream, script.clone(), asked.clone()));
        tasks.lock().unwrap().push(serving);
    }
}

async fn serve(
    stream: TcpStream,
    (script, streams): (Arc<Script>, bool),
    asked: Arc<Mutex<Vec<Asked>>>,
) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await {
        // As before KEP-3157; said here so that scripts and counts need not know of it.
        if !streams && request.0.contains("sendInitialEvents") {
            if write(&mut stream, Reply(422, "", Vec::new())).await.is_none() {
                return;
            }
            continue;
        }
        let number = {
            let mut asked = asked.lock().unwrap();
            asked.push(request.clone());
            asked.len() - 1
        };
        let reply = script(number, &request);
        if write(&mut stream, reply).await.is_none() {
            return;
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Asked> {
    let (mut first, mut length, mut accept) = (String::new(), 0, String::new());
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if first.is_empty() {
            first = line.trim().trim_end_matches(" HTTP/1.1").to_owned();
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if let Some(value) = line.to_lowercase().strip_prefix("accept:") {
            accept = value.trim().to_owned();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Asked(first, String::from_utf8(body).unwrap(), accept))
}

/// None if the connection is to be closed.
async fn write(stream: &mut BufReader<TcpStream>, reply: Reply) -> Option<()> {
    let Reply(status, header, steps) = reply;
    let header = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
    let head = format!(
        "HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\n{header}Transfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    for step in steps {
        match step {
            Step::Say(text) => {
                let chunk = format!("{:x}\r\n{text}\r\n", text.len());
                stream.write_all(chunk.as_bytes()).await.ok()?;
            }
            Step::Pause(time) => tokio::time::sleep(time).await,
            Step::Cut => return None,
            Step::Hang => std::future::pending().await,
        }
    }
    stream.write_all(b"0\r\n\r\n").await.ok()
}
