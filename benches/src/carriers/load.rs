//! Clients and the pod: connections that are opened and closed, bytes in bulk, questions over many open connections.
//! Clients and pod are threads of this program and take their part of the processors, the same with every carrier.
//! Tests: below, over loopback.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// A client that sends this first wants bytes in bulk; any other wants back what it sends.
const BULK: u8 = b'b';
const ECHO: u8 = b'e';
/// Clients that open and close at the same time.
const AT_ONCE: usize = 64;
/// Connections that carry bulk.
const STREAMS: usize = 4;
/// The length of a question.
const QUESTION: usize = 64;
/// Between two questions of one connection.
const THINKING: Duration = Duration::from_millis(200);
/// How long a connection may take to come about.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers whoever comes, until the runtime ends.
pub async fn serve(listener: TcpListener) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    }
}

/// Listens with room for everybody.
pub fn listen(at: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(16_384)
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; QUESTION];
    loop {
        let length = stream.read(&mut buffer).await?;
        match buffer[..length] {
            [] => return Ok(()),
            [BULK, ..] => return pour(stream).await,
            ref question => stream.write_all(question).await?,
        }
    }
}

async fn pour(mut stream: TcpStream) -> std::io::Result<()> {
    let zeros = vec![0; 256 * 1024];
    loop {
        stream.write_all(&zeros).await?;
    }
}

/// Connects, and has been answered.
async fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let opening = async {
        let mut stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        ask(&mut stream, &mut [ECHO]).await?;
        Ok(stream)
    };
    tokio::time::timeout(PATIENCE, opening).await.map_err(std::io::Error::from)?
}

async fn ask(stream: &mut TcpStream, question: &mut [u8]) -> std::io::Result<()> {
    stream.write_all(question).await?;
    stream.read_exact(question).await.map(drop)
}

/// Waits until the carrier carries.
pub async fn until_open(to: SocketAddr) -> Result<(), String> {
    let began = Instant::now();
    loop {
        let tried = tokio::time::timeout(Duration::from_millis(500), connect(to)).await;
        match tried {
            Ok(Ok(_)) => return Ok(()),
            _ if began.elapsed() > PATIENCE => return Err(format!("nobody answers at {to}")),
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Connections a second that are opened, answered once and closed; and how many failed.
pub async fn short(to: SocketAddr, time: Duration) -> (f64, usize) {
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..AT_ONCE {
        clients.spawn(async move {
            let (mut done, mut failed) = (0, 0);
            while began.elapsed() < time {
                match connect(to).await {
                    Ok(_) => done += 1,
                    Err(_) => failed += 1,
                }
            }
            (done, failed)
        });
    }
    let all = clients.join_all().await;
    let took = began.elapsed().as_secs_f64();
    let done: usize = all.iter().map(|(done, _)| done).sum();
    (done as f64 / took, all.iter().map(|(_, failed)| failed).sum())
}

/// Bits a second that come from the pod over a few connections.
pub async fn bulk(to: SocketAddr, time: Duration) -> Result<f64, String> {
    let began = Instant::now();
    let mut streams = JoinSet::new();
    for _ in 0..STREAMS {
        streams.spawn(async move {
            let mut stream = TcpStream::connect(to).await?;
            stream.write_all(&[BULK]).await?;
            let (mut buffer, mut bytes) = (vec![0; 256 * 1024], 0u64);
            while began.elapsed() < time {
                bytes += stream.read(&mut buffer).await? as u64;
            }
            Ok::<_, std::io::Error>(bytes)
        });
    }
    let all: Result<Vec<u64>, _> = streams.join_all().await.into_iter().collect();
    let bytes: u64 = all.map_err(|e| format!("bulk from {to}: {e}"))?.iter().sum();
    Ok(bytes as f64 * 8.0 / began.elapsed().as_secs_f64())
}

/// So many open connections.
pub async fn open(to: SocketAddr, count: usize) -> Result<Vec<TcpStream>, String> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let mut some = JoinSet::new();
        (0..AT_ONCE.min(count - all.len())).for_each(|_| drop(some.spawn(connect(to))));
        for opened in some.join_all().await {
            let number = all.len();
            all.push(opened.map_err(|e| format!("connection {number} to {to}: {e}"))?);
        }
    }
    Ok(all)
}

/// How long each question took over connections that all stay open, each asking now and then.
pub async fn questions(streams: Vec<TcpStream>, time: Duration) -> Result<Vec<Duration>, String> {
    let began = Instant::now();
    let mut clients = JoinSet::new();
    let spread = THINKING / streams.len().max(1) as u32;
    for (number, mut stream) in streams.into_iter().enumerate() {
        clients.spawn(async move {
            tokio::time::sleep(spread * number as u32).await;
            let (mut took, mut question) = (Vec::new(), [ECHO; QUESTION]);
            while began.elapsed() < time {
                let asked = Instant::now();
                ask(&mut stream, &mut question).await?;
                took.push(asked.elapsed());
                tokio::time::sleep(THINKING).await;
            }
            Ok::<_, std::io::Error>(took)
        });
    }
    let all: Result<Vec<Vec<Duration>>, _> = clients.join_all().await.into_iter().collect();
    Ok(all.map_err(|e| format!("a question: {e}"))?.concat())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may say so")]
mod tests {
    use super::*;

    #[test]
    fn every_load_is_answered() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
            let to = listener.local_addr().unwrap();
            tokio::spawn(serve(listener));
            until_open(to).await.unwrap();
            let time = Duration::from_millis(50);
            let (rate, failed) = short(to, time).await;
            assert!(rate > 0.0 && failed == 0, "{rate} {failed}");
            assert!(bulk(to, time).await.unwrap() > 0.0);
            let streams = open(to, 100).await.unwrap();
            assert!(questions(streams, Duration::from_millis(300)).await.unwrap().len() >= 100);
        });
    }
}
