//! One HTTP request, as a load balancer's health check or a person with curl makes it.
//! Run inside a namespace by the caller. Tests: with the scenarios.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::load::PATIENCE;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its status code.
    pub status: u16,
    /// Its headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: String,
}

impl Page {
    /// A header, empty if absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    /// The rest of the line of the body that begins with these words: a metric's figure.
    pub fn figure(&self, name: &str) -> Option<&str> {
        self.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
    }
}

/// Asks for a path on a new connection.
pub fn fetch(from: SocketAddr, path: &str) -> Result<Page, String> {
    let failed = |e: std::io::Error| format!("http://{from}{path}: {e}");
    let mut stream = TcpStream::connect_timeout(&from, PATIENCE).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {from}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(failed)?;
    read(&text).ok_or_else(|| format!("http://{from}{path}: no HTTP: {text:?}"))
}

fn read(text: &str) -> Option<Page> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).collect();
    Some(Page { status, headers, body: body.to_owned() })
}
