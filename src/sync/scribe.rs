//! Who writes down what a proxy is told and when it acts, so that the same can be played again
//! (`--record`). What it asks of the kernel a decorator of the kernel writes down.

use super::Report;
use super::examine::Known;
use crate::kernel::Error;
use crate::model::{Event, Family};

/// Something a proxy does of its own accord.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// It brings the rules up to what is known.
    Sync,
    /// It removes what nobody needs any more.
    Tidy,
}

/// Who writes it down.
pub trait Scribe: Send {
    /// A piece of news came in.
    fn told(&mut self, event: &Event);
    /// Something is about to be done; of the families that are `anew` it is not known what is in the
    /// kernel. News of which it is not said yet whether they were told may
    /// be in what is known.
    fn begins(&mut self, act: Act, anew: &[Family], known: Known<'_>);
    /// It was done, or failed.
    fn ended(&mut self, outcome: &Result<Report, Error>);
}
