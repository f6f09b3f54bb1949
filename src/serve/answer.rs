//! Bodies into answers: content types, gzip where the asker takes it. Knows no page.
//! Tests: below, and `tests.rs`.

use std::io::Write as _;

use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;

/// Below this many bytes gzip saves no packet.
const WORTH_IT: usize = 1024;

/// A body that may be compressed, for an asker with these headers.
pub(super) fn text(asked: &HeaderMap, form: &'static str, body: String) -> Response {
    let headers = [(header::CONTENT_TYPE, form), (header::VARY, "Accept-Encoding")];
    if body.len() < WORTH_IT || !takes_gzip(header_of(asked, &header::ACCEPT_ENCODING)) {
        return (headers, body).into_response();
    }
    (headers, [(header::CONTENT_ENCODING, "gzip")], gzip(body.as_bytes())).into_response()
}

/// A header's text; empty if absent or not text.
pub(super) fn header_of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Compressed.
pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Fails only if writing does, and a Vec takes anything.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// Plain text with a status.
pub(super) fn plain(status: StatusCode, body: impl Into<String>) -> Response {
    let form = "text/plain; charset=utf-8";
    let headers = [(header::CONTENT_TYPE, form), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (status, headers, body.into()).into_response()
}

/// Whether `Accept-Encoding` allows gzip: named, or by `*`, and not with `q=0`.
fn takes_gzip(accept: &str) -> bool {
    let quality = |wanted: &str| {
        let mut codings = accept.split(',').map(|coding| coding.split(';').map(str::trim));
        let mut coding = codings.find(|c| c.clone().next() == Some(wanted))?;
        let quality = coding.find_map(|part| part.strip_prefix("q="));
        Some(quality.map_or(1.0, |q| q.parse::<f32>().unwrap_or(0.0)))
    };
    quality("gzip").or_else(|| quality("*")).is_some_and(|q| q > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_those_who_take_it() {
        for (accept, takes) in [
            ("", false),
            ("gzip", true),
            ("deflate, gzip;q=0.5", true),
            ("gzip;q=0, *", false),
            ("*", true),
            ("*;q=0", false),
            ("identity", false),
            ("gzip;q=x", false),
        ] {
            assert_eq!(takes_gzip(accept), takes, "{accept}");
        }
    }
}
