//! The only room that knows the API server's words: its JSON, its lists and watches, its Events.
//!
//! `decode` makes our words of them, `manifests` reads them from files, `client` and `watch` from
//! a server, `report` says what is wrong back to the server. Downstream sees only `model::Event`s.
//! It must never know the kernel, a ruleset or what becomes of an Event.
//! Tests: in each file, and `client/tests.rs` for the whole way from a server's bytes to Events.

#[cfg(feature = "api-server")]
pub mod client;
pub mod decode;
#[cfg(feature = "api-server")]
mod form;
#[cfg(test)]
mod hostile_tests;
mod lenient;
pub mod manifests;
mod objects;
#[cfg(feature = "api-server")]
pub mod pace;
mod parse;
pub mod pods;
#[cfg(feature = "api-server")]
pub mod report;
#[cfg(all(test, feature = "api-server"))]
mod rights_tests;
#[cfg(feature = "api-server")]
mod split;
pub mod text;
#[cfg(feature = "api-server")]
mod watch;

pub use decode::{Decoder, decode_json};
pub use text::{decode_text, read_text};
