//! JSON: lists are objects with `items`, watches a frame a line.
//! It must never judge an object. Tests: `client/tests.rs`, and in `split` and `decode`.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Bookmark, Cutter, Form, ListEnd, Status};
use crate::api::decode::{self, Decoder, Told};
use crate::api::lenient::{Scalar, lenient_object};
use crate::api::objects::AnyObject;
use crate::api::split::{LineSplitter, ListSplitter, TooLong};
use crate::model::Kind;

/// JSON.
pub(super) struct Json;

lenient_object! {
    /// A list without its items.
    ListRest { meta: ListMeta = "metadata", }
}

lenient_object! {
    /// `metadata` of a list.
    ListMeta { version: Scalar = "resourceVersion", token: Scalar = "continue", }
}

lenient_object! {
    /// `v1` Status: what an error looks like.
    RawStatus { code: Scalar = "code", reason: Scalar = "reason", message: Scalar = "message", details: StatusDetails = "details", }
}

lenient_object! {
    /// `details` of a Status.
    StatusDetails { retry_after: Scalar = "retryAfterSeconds", }
}

/// One line of a watch.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type", borrow)]
    change: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

impl Cutter for ListSplitter {
    fn next(&mut self, chunk: &mut &[u8]) -> Result<Option<Vec<u8>>, TooLong> {
        self.next_item(chunk)
    }

    fn is_midway(&self) -> bool {
        false
    }

    fn end(self: Box<Self>) -> Result<ListEnd, String> {
        let rest: ListRest = serde_json::from_slice(&self.into_rest()).map_err(no_json)?;
        Ok(ListEnd { version: text(&rest.meta.version), token: text(&rest.meta.token) })
    }
}

impl Cutter for LineSplitter {
    fn next(&mut self, chunk: &mut &[u8]) -> Result<Option<Vec<u8>>, TooLong> {
        while let Some(line) = self.next_line(chunk)? {
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
        Ok(None)
    }

    fn is_midway(&self) -> bool {
        LineSplitter::is_midway(self)
    }

    fn end(self: Box<Self>) -> Result<ListEnd, String> {
        Ok(ListEnd::default())
    }
}

impl Form for Json {
    fn list(&self) -> Box<dyn Cutter> {
        Box::new(ListSplitter::default())
    }

    fn watch(&self) -> Box<dyn Cutter> {
        Box::new(LineSplitter::default())
    }

    fn frame(&self, frame: &[u8]) -> Result<(String, Vec<u8>), String> {
        let frame: Frame = serde_json::from_slice(frame).map_err(no_json)?;
        Ok((frame.change.into_owned(), frame.object.get().as_bytes().to_vec()))
    }

    fn told(&self, kind: Kind, item: &[u8], decoder: &mut Decoder) -> Result<Told, String> {
        let mut from = serde_json::Deserializer::from_slice(item);
        decode::told(kind, &mut from, decoder).map_err(no_json)
    }

    fn framed(&self, kind: Kind, object: &[u8], decoder: &mut Decoder) -> Result<Told, String> {
        self.told(kind, object, decoder)
    }

    fn gone(&self, kind: Kind, object: &[u8], decoder: &mut Decoder) -> Result<Told, String> {
        let mut from = serde_json::Deserializer::from_slice(object);
        decode::gone(kind, &mut from, decoder).map_err(no_json)
    }

    fn bookmark(&self, object: &[u8]) -> Result<Bookmark, String> {
        let object: AnyObject = serde_json::from_slice(object).map_err(no_json)?;
        let end = text(&object.meta.annotations.initial_end);
        let version = text(&object.meta.resource_version);
        Ok(Bookmark { version, ends_list: end.as_deref() == Some("true") })
    }

    fn status(&self, bytes: &[u8]) -> Status {
        let raw: RawStatus = serde_json::from_slice(bytes).unwrap_or_default();
        let whole = |value: &Scalar| match value {
            Scalar::Whole(whole) => u64::try_from(*whole).ok(),
            _ => None,
        };
        Status {
            code: whole(&raw.code).and_then(|code| u16::try_from(code).ok()).unwrap_or_default(),
            reason: text(&raw.reason).unwrap_or_default().into(),
            message: text(&raw.message).unwrap_or_default().into(),
            retry_after: whole(&raw.details.retry_after).map(Duration::from_secs),
        }
    }
}

fn text(value: &Scalar) -> Option<Box<str>> {
    if let Scalar::Text(text) = value { Some(text.clone()).filter(|t| !t.is_empty()) } else { None }
}

fn no_json(error: serde_json::Error) -> String {
    format!("the API server's answer is no JSON: {error}")
}
