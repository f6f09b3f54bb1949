//! HTTP/1.1 by hand: every byte of an answer must be ours to spoil, which a well-made server does
//! not allow. Reads one request, writes one answer. Knows nothing of Kubernetes. Tests: below.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest head that is read; a client of ours needs 2 KiB.
const HEAD: usize = 64 * 1024;
/// Longest body that is read: an Event.
const BODY: usize = 1024 * 1024;

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    /// `GET`, `POST`, …
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The query's parameters, decoded, in order.
    pub query: Vec<(String, String)>,
    /// The bearer token, empty if there is none.
    pub bearer: String,
    /// Whether the client takes protobuf.
    pub protobuf: bool,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// A parameter of the query, empty if absent.
    pub(super) fn parameter(&self, name: &str) -> &str {
        self.query.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// Whether a parameter is true.
    pub(super) fn flag(&self, name: &str) -> bool {
        matches!(self.parameter(name), "true" | "1")
    }
}

/// Reads a request; nothing if the connection ended before one began. `held` keeps bytes that
/// belong to the next request.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    held: &mut Vec<u8>,
) -> io::Result<Option<Request>> {
    let head = loop {
        if let Some(at) = held.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        if held.len() > HEAD || stream.read_buf(held).await? == 0 {
            return if held.is_empty() { Ok(None) } else { Err(malformed("head")) };
        }
    };
    let text = String::from_utf8_lossy(&held[..head]).into_owned();
    held.drain(..head + 4);
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(malformed("request line"));
    };
    let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
    let header = |wanted: &str| {
        let found = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.trim())
    };
    let length = header("content-length").map_or(Ok(0), str::parse::<usize>);
    let length = length.map_err(|_| malformed("content-length"))?;
    let bearer = header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let bearer = bearer.unwrap_or_default().to_owned();
    let protobuf = header("accept").is_some_and(|accept| accept.contains(super::protobuf::MEDIA));
    if length > BODY {
        return Err(malformed("body length"));
    }
    while held.len() < length {
        if stream.read_buf(held).await? == 0 {
            return Err(malformed("body"));
        }
    }
    let body = held.drain(..length).collect();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = query.split('&').filter(|p| !p.is_empty()).map(parameter).collect();
    Ok(Some(Request {
        method: method.to_owned(),
        path: decoded(path),
        query,
        bearer,
        protobuf,
        body,
    }))
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed {what}"))
}

fn parameter(text: &str) -> (String, String) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (decoded(key), decoded(value))
}

/// Undoes percent-encoding; what is not well encoded stays as it is.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|h| std::str::from_utf8(h).ok());
        let code = hex.and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[at], code) {
            (b'%', Some(code)) => {
                plain.push(code);
                at += 2;
            }
            (b'+', _) => plain.push(b' '),
            (other, _) => plain.push(other),
        }
        at += 1;
    }
    String::from_utf8_lossy(&plain).into_owned()
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        410 => "Gone",
        422 => "Unprocessable Entity",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Internal Server Error",
    }
}

/// An answer with its whole body.
pub(super) fn answer(status: u16, headers: &str, body: &str) -> Vec<u8> {
    answer_in((status, headers), JSON, body.as_bytes())
}

/// The media type of JSON.
pub(super) const JSON: &str = "application/json";

/// The same in any form.
pub(super) fn answer_in((status, headers): (u16, &str), media: &str, body: &[u8]) -> Vec<u8> {
    let (reason, length) = (reason(status), body.len());
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {media}\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Begins an answer whose body comes in chunks.
pub(super) async fn begin_stream(
    stream: &mut (impl AsyncWrite + Unpin),
    media: &str,
) -> io::Result<()> {
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nTransfer-Encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await
}

/// Writes one chunk.
pub(super) async fn chunk(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let length = format!("{:x}\r\n", bytes.len());
    stream.write_all(&[length.as_bytes(), bytes, b"\r\n"].concat()).await?;
    stream.flush().await
}

/// Ends an answer in chunks.
pub(super) async fn end_stream(stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    stream.write_all(b"0\r\n\r\n").await?;
    stream.flush().await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(mut bytes: &[u8]) -> io::Result<Option<Request>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(read(&mut bytes, &mut Vec::new()))
    }

    #[test]
    fn a_request_is_read() {
        let request = parse(
            b"POST /api/v1/x?labelSelector=%21a%2C%21b&watch=1 HTTP/1.1\r\ncontent-Length: 2\r\nAuthorization: Bearer b\r\n\r\nhi",
        );
        let request = request.unwrap().unwrap();
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/api/v1/x"));
        assert_eq!(request.parameter("labelSelector"), "!a,!b");
        assert!(request.flag("watch") && !request.flag("other"));
        assert_eq!((request.bearer.as_str(), &request.body[..]), ("b", &b"hi"[..]));
    }

    #[test]
    fn malformed_requests_are_errors() {
        assert_eq!(parse(b"").unwrap(), None);
        assert!(parse(b"GET").is_err());
        assert!(parse(b"\r\n\r\n").is_err());
        assert!(parse(b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n").is_err());
        assert!(parse(b"GET / HTTP/1.1\r\nContent-Length: 9\r\n\r\nshort").is_err());
    }
}
