//! Echo servers: each tells its pod's name, who it thinks is asking, and at which address it was
//! asked. One thread serves every pod; the sockets were made inside the pods' namespaces.
//! Tests: below, on loopback.
//!
//! TCP: one line on connect, one more for every line received. UDP: one line a datagram.
//! A line: `pod=NAME peer=ADDR:PORT local=ADDR:PORT said=TEXT`.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::thread;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

enum Job {
    Tcp(String, TcpListener),
    Udp(String, UdpSocket),
}

/// The thread that serves. It ends, with all its connections, when this is dropped.
pub struct Echo {
    jobs: UnboundedSender<Job>,
}

impl Echo {
    /// Starts the thread.
    pub fn start() -> Result<Echo, String> {
        let (jobs, inbox) = unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| format!("echo servers: {e}"))?;
        thread::Builder::new()
            .name("echo".to_owned())
            .spawn(move || runtime.block_on(serve(inbox)))
            .map_err(|e| format!("echo servers: {e}"))?;
        Ok(Echo { jobs })
    }

    /// Serves TCP connections of a listener in a pod's name.
    pub fn tcp(&self, pod: &str, listener: TcpListener) {
        self.send(Job::Tcp(pod.to_owned(), listener));
    }

    /// Answers datagrams of a socket in a pod's name.
    pub fn udp(&self, pod: &str, socket: UdpSocket) {
        self.send(Job::Udp(pod.to_owned(), socket));
    }

    fn send(&self, job: Job) {
        // The thread lives as long as this handle; were it gone, clients would hear silence.
        let _ = self.jobs.send(job);
    }
}

/// Takes jobs until the handle is gone; returning drops the runtime and every socket with it.
async fn serve(mut inbox: UnboundedReceiver<Job>) {
    while let Some(job) = inbox.recv().await {
        match job {
            Job::Tcp(pod, listener) => {
                if listener.set_nonblocking(true).is_ok()
                    && let Ok(listener) = tokio::net::TcpListener::from_std(listener)
                {
                    tokio::spawn(accept(pod, listener));
                }
            }
            Job::Udp(pod, socket) => {
                if socket.set_nonblocking(true).is_ok()
                    && let Ok(socket) = tokio::net::UdpSocket::from_std(socket)
                {
                    tokio::spawn(answer(pod, socket));
                }
            }
        }
    }
}

/// What a server says.
pub(crate) fn line(pod: &str, peer: SocketAddr, local: SocketAddr, said: &str) -> String {
    format!("pod={pod} peer={peer} local={local} said={said}\n")
}

async fn accept(pod: String, listener: tokio::net::TcpListener) {
    loop {
        // An accept fails for one connection (reset before it was taken), never for the listener.
        if let Ok((stream, peer)) = listener.accept().await {
            tokio::spawn(converse(pod.clone(), stream, peer));
        }
    }
}

async fn converse(pod: String, mut stream: tokio::net::TcpStream, peer: SocketAddr) {
    let Ok(local) = stream.local_addr() else { return };
    let (reader, mut writer) = stream.split();
    let mut lines = BufReader::new(reader).lines();
    if writer.write_all(line(&pod, peer, local, "").as_bytes()).await.is_err() {
        return;
    }
    while let Ok(Some(said)) = lines.next_line().await {
        if writer.write_all(line(&pod, peer, local, &said).as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn answer(pod: String, socket: tokio::net::UdpSocket) {
    let Ok(local) = socket.local_addr() else { return };
    let mut buffer = [0; 512];
    loop {
        // A failed receive is the ICMP error to an earlier answer; the next datagram is unharmed.
        if let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let _ = socket.send_to(line(&pod, peer, local, said.trim()).as_bytes(), peer).await;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::client::{Answer, Outcome, ask_tcp, ask_udp};
    use std::time::Duration;

    #[test]
    fn both_transports_tell_who_asks() {
        let echo = Echo::start().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let socket = UdpSocket::bind(at).unwrap();
        echo.tcp("a", listener);
        echo.udp("b", socket);
        let patience = Duration::from_secs(5);
        for (outcome, name) in
            [(ask_tcp(None, at, patience), "a"), (ask_udp(None, at, patience), "b")]
        {
            let Outcome::Answered(Answer { pod, peer, local, .. }) = outcome else {
                panic!("{outcome:?}");
            };
            assert_eq!((pod.as_str(), local), (name, at));
            assert!(peer.ip().is_loopback());
        }
    }
}
