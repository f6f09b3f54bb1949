//! The forms in which an API server writes lists, watches and objects: JSON and protobuf, behind
//! one trait. Which one an answer has, its content type says.
//!
//! It must never know what is asked of the server, nor judge an object. Tests: below, with the
//! forms, and `client/tests.rs`.

mod convert;
mod cut;
mod json;
mod message;
mod protobuf;

use super::decode::{Decoder, Told};
use super::split::TooLong;
use crate::model::Kind;

/// How a list ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ListEnd {
    pub(crate) version: Option<Box<str>>,
    pub(crate) token: Option<Box<str>>,
}

/// A mark in a watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bookmark {
    pub(crate) version: Option<Box<str>>,
    /// Whether a streamed list ends here (KEP-3157).
    pub(crate) ends_list: bool,
}

/// What the server says is wrong (`v1` Status); 0 and empty where it does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) code: u16,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) retry_after: Option<std::time::Duration>,
}

/// Cuts an answer into pieces while its bytes come in.
pub(crate) trait Cutter: Send {
    /// Takes bytes off the front of `chunk` up to the end of the next piece, which it gives; none
    /// once the chunk is used up.
    fn next(&mut self, chunk: &mut &[u8]) -> Result<Option<Vec<u8>>, TooLong>;

    /// Whether a piece has begun that did not end.
    fn is_midway(&self) -> bool;

    /// How the list ended, when all bytes have been taken. Of a watch there is nothing to say.
    fn end(self: Box<Self>) -> Result<ListEnd, String>;
}

/// A form of the API server's answers. Errors say in words what is wrong with the bytes.
pub(crate) trait Form: Send + Sync {
    /// Cuts a list into its objects.
    fn list(&self) -> Box<dyn Cutter>;

    /// Cuts a watch into its frames.
    fn watch(&self) -> Box<dyn Cutter>;

    /// A frame's change (`ADDED`, …) and its object.
    fn frame(&self, frame: &[u8]) -> Result<(String, Vec<u8>), String>;

    /// An object of a list that exists.
    fn told(&self, kind: Kind, item: &[u8], decoder: &mut Decoder) -> Result<Told, String>;

    /// An object of a frame; the same where there is no envelope.
    fn framed(&self, kind: Kind, object: &[u8], decoder: &mut Decoder) -> Result<Told, String>;

    /// An object of a frame that was deleted.
    fn gone(&self, kind: Kind, object: &[u8], decoder: &mut Decoder) -> Result<Told, String>;

    /// The object of a bookmark.
    fn bookmark(&self, object: &[u8]) -> Result<Bookmark, String>;

    /// A Status, as far as it can be read.
    fn status(&self, bytes: &[u8]) -> Status;
}

/// The form that a content type names. What is said to be no protobuf is read as JSON, and says
/// for itself if it is none.
pub(crate) fn of(content_type: &str) -> &'static dyn Form {
    let media = content_type.split(';').next().unwrap_or_default().trim();
    if media.eq_ignore_ascii_case(PROTOBUF) { &protobuf::Protobuf } else { &json::Json }
}

/// The media type of protobuf.
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_says_which() {
        let is_protobuf =
            |text| of(text).watch().next(&mut &[0, 0, 0, 0][..]) == Ok(Some(Vec::new()));
        assert!(is_protobuf("application/vnd.kubernetes.protobuf"));
        assert!(is_protobuf("Application/Vnd.Kubernetes.Protobuf; stream=watch"));
        assert!(!is_protobuf("application/json"));
        assert!(!is_protobuf(""));
    }
}
