//! Errors of nf_tables batches: the kernel's errno, and what a person needs to find the byte that caused it.
//! It must never know the rules it complains about. Tests: tests/batch.rs.

use std::fmt;

/// Error numbers as Linux returns them (asm-generic/errno-base.h, errno.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i32)]
#[expect(missing_docs, reason = "the names are Linux's own")]
pub enum Errno {
    ENOENT = 2,
    ESRCH = 3,
    EBUSY = 16,
    EEXIST = 17,
    EINVAL = 22,
    ENFILE = 23,
    EMLINK = 31,
    ERANGE = 34,
    ENAMETOOLONG = 36,
    ENOTEMPTY = 39,
    ENODATA = 61,
    EOVERFLOW = 75,
    ERESTART = 85,
    EOPNOTSUPP = 95,
    EAFNOSUPPORT = 97,
}

/// Why a batch was refused. Nothing of it took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NftError {
    /// The error number.
    pub errno: Errno,
    /// Sequence number of the message.
    pub seq: u32,
    /// Name of the message, such as `NEWRULE`.
    pub message: &'static str,
    /// Offset into the batch of what was refused.
    pub offset: usize,
    /// What was expected, or what is not there, or what is not modelled.
    pub detail: String,
}

impl fmt::Display for NftError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{:?} ({}) from {} seq {} at byte {}: {}",
            self.errno, self.errno as i32, self.message, self.seq, self.offset, self.detail
        )
    }
}

impl std::error::Error for NftError {}

/// A refusal before it is known which message it belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) errno: Errno,
    pub(crate) offset: usize,
    pub(crate) detail: String,
}

impl Refusal {
    pub(crate) fn new(errno: Errno, offset: usize, detail: impl Into<String>) -> Self {
        Refusal { errno, offset, detail: detail.into() }
    }

    /// Something the simulator does not model: the kernel may well take it.
    pub(crate) fn unmodelled(offset: usize, what: impl fmt::Display) -> Self {
        Refusal::new(Errno::EOPNOTSUPP, offset, format!("the simulator does not model {what}"))
    }

    pub(crate) fn invalid(offset: usize, detail: impl Into<String>) -> Self {
        Refusal::new(Errno::EINVAL, offset, detail)
    }

    pub(crate) fn absent(offset: usize, what: impl fmt::Display) -> Self {
        Refusal::new(Errno::ENOENT, offset, format!("no {what}"))
    }
}

/// What decoding and applying give.
pub(crate) type Taken<T> = Result<T, Refusal>;
