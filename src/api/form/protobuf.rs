//! Protobuf, as `apimachinery/pkg/runtime/serializer/protobuf` writes it.
//! It must never judge an object. Tests: below, and the lab's API server, whose encoder is its own.

use std::time::Duration;

use prost::Message;

use super::cut::{FrameSplitter, ListSplitter, MAGIC, Piece};
use super::message as pb;
use super::{Bookmark, Cutter, Form, ListEnd, Status};
use crate::api::decode::{self, Decoder, Object, Told};
use crate::api::objects;
use crate::api::split::TooLong;
use crate::model::Kind;

/// Protobuf.
pub(super) struct Protobuf;

#[derive(Default)]
struct List {
    splitter: ListSplitter,
    meta: Option<Vec<u8>>,
}

impl Cutter for List {
    fn next(&mut self, chunk: &mut &[u8]) -> Result<Option<Vec<u8>>, TooLong> {
        self.splitter.push(std::mem::take(chunk));
        while let Some(piece) = self.splitter.next_piece()? {
            match piece {
                Piece::Item(item) => return Ok(Some(item)),
                Piece::Meta(meta) => self.meta = Some(meta),
            }
        }
        Ok(None)
    }

    fn is_midway(&self) -> bool {
        self.splitter.is_midway()
    }

    fn end(self: Box<Self>) -> Result<ListEnd, String> {
        if self.splitter.is_midway() {
            return Err("the API server's list broke off".to_owned());
        }
        let meta: pb::ListMeta = read(&self.meta.unwrap_or_default())?;
        Ok(ListEnd { version: text(meta.version), token: text(meta.token) })
    }
}

impl Cutter for FrameSplitter {
    fn next(&mut self, chunk: &mut &[u8]) -> Result<Option<Vec<u8>>, TooLong> {
        self.push(std::mem::take(chunk));
        self.next_frame()
    }

    fn is_midway(&self) -> bool {
        FrameSplitter::is_midway(self)
    }

    fn end(self: Box<Self>) -> Result<ListEnd, String> {
        Ok(ListEnd::default())
    }
}

impl Form for Protobuf {
    fn list(&self) -> Box<dyn Cutter> {
        Box::new(List::default())
    }

    fn watch(&self) -> Box<dyn Cutter> {
        Box::new(FrameSplitter::default())
    }

    fn frame(&self, frame: &[u8]) -> Result<(String, Vec<u8>), String> {
        let frame: pb::WatchEvent = read(frame)?;
        Ok((frame.change, frame.object.unwrap_or_default().raw))
    }

    fn told(&self, kind: Kind, item: &[u8], decoder: &mut Decoder) -> Result<Told, String> {
        Ok(match kind {
            Kind::Service => objects::Service::from(read::<pb::Service>(item)?).told(decoder),
            Kind::EndpointSlice => {
                objects::EndpointSlice::from(read::<pb::EndpointSlice>(item)?).told(decoder)
            }
            Kind::Node => objects::Node::from(read::<pb::Node>(item)?).told(decoder),
            Kind::ServiceCidr => {
                objects::ServiceCidr::from(read::<pb::ServiceCidr>(item)?).told(decoder)
            }
        })
    }

    fn framed(&self, kind: Kind, object: &[u8], decoder: &mut Decoder) -> Result<Told, String> {
        self.told(kind, &unwrapped(object)?, decoder)
    }

    fn gone(&self, kind: Kind, object: &[u8], decoder: &mut Decoder) -> Result<Told, String> {
        let object: pb::AnyObject = read(&unwrapped(object)?)?;
        Ok(decode::gone_of(kind, object.into(), decoder))
    }

    fn bookmark(&self, object: &[u8]) -> Result<Bookmark, String> {
        let object: pb::AnyObject = read(&unwrapped(object)?)?;
        let meta: objects::Meta = object.meta.unwrap_or_default().into();
        let end = decode::plain(&meta.annotations.initial_end);
        let version = text(decode::plain(&meta.resource_version).to_owned());
        Ok(Bookmark { version, ends_list: end == "true" })
    }

    fn status(&self, bytes: &[u8]) -> Status {
        let read = unwrapped(bytes).and_then(|raw| read::<pb::Status>(&raw));
        let status = read.unwrap_or_default();
        let retry_after =
            status.details.and_then(|details| u64::try_from(details.retry_after).ok());
        Status {
            code: u16::try_from(status.code).unwrap_or_default(),
            reason: status.reason,
            message: status.message,
            retry_after: retry_after.filter(|seconds| *seconds > 0).map(Duration::from_secs),
        }
    }
}

/// An object out of its envelope.
fn unwrapped(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let Some(envelope) = bytes.strip_prefix(MAGIC) else {
        return Err("the API server's answer is no Kubernetes protobuf".to_owned());
    };
    Ok(read::<pb::Unknown>(envelope)?.raw)
}

fn read<M: Message + Default>(bytes: &[u8]) -> Result<M, String> {
    M::decode(bytes).map_err(|error| format!("the API server's answer is no protobuf: {error}"))
}

fn text(text: String) -> Option<Box<str>> {
    (!text.is_empty()).then(|| text.into())
}
