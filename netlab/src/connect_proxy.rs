//! An HTTP proxy that only tunnels (`CONNECT`), as companies put before their API servers. It counts
//! what it was asked for. Knows nothing of what goes through. Tests: with the scenarios.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::namespace::Namespace;

/// A running proxy. Tunnels end with their ends; the listener when this is dropped.
pub struct ConnectProxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    namespace: Namespace,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl ConnectProxy {
    /// Starts one at an address of a namespace.
    pub fn start(namespace: &Namespace, address: &str) -> Result<ConnectProxy, String> {
        let listener = namespace.run(|| TcpListener::bind(address));
        let listener = listener.map_err(|e| format!("proxy at {address}: {e}"))?;
        let address = listener.local_addr().map_err(|e| format!("proxy at {address}: {e}"))?;
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let list = asked.clone();
        let thread = Some(namespace.spawn(move || accept(&listener, &list)));
        Ok(ConnectProxy { address, asked, namespace: namespace.clone(), thread })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The request lines so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

impl Drop for ConnectProxy {
    fn drop(&mut self) {
        // An empty request ends it.
        let address = self.address;
        let knocked = self.namespace.run(|| TcpStream::connect(address));
        let ended = knocked.and_then(|stream| stream.shutdown(Shutdown::Write));
        if let (Ok(()), Some(thread)) = (ended, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, asked: &Mutex<Vec<String>>) {
    while let Ok((client, _)) = listener.accept() {
        let Some(line) = request_line(&client) else { return };
        asked.lock().unwrap_or_else(|e| e.into_inner()).push(line.clone());
        let server = line.split(' ').nth(1).filter(|_| line.starts_with("CONNECT "));
        let server = server.and_then(|to| TcpStream::connect(to).ok());
        match server {
            Some(server) => tunnel(client, server),
            None => drop((&client).write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")),
        }
    }
}

/// Reads up to the empty line; nothing if there is no request.
fn request_line(mut client: &TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if client.read(&mut byte).ok()? == 0 || head.len() > 4096 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8_lossy(&head).lines().next()?.to_owned())
}

fn tunnel(mut client: TcpStream, server: TcpStream) {
    if client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").is_err() {
        return;
    }
    let pair = (client.try_clone(), server.try_clone());
    let (Ok(from_client), Ok(from_server)) = pair else { return };
    std::thread::spawn(move || carry(from_client, server));
    std::thread::spawn(move || carry(from_server, client));
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
