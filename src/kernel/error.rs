//! What went wrong with the kernel, in kinds that a caller can act on.
//! Both hearts make the same kinds. Tests: below, and in the hearts.

use std::fmt;

/// The kind of a failure; what a caller decides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum ErrorKind {
    /// Something that was to be changed is not there (ENOENT, ESRCH, ENODEV,
    /// EADDRNOTAVAIL).
    Absent,
    /// Something that was to be made is there already (EEXIST).
    Exists,
    /// In use, or the kernel was interrupted: the same call may work later (EBUSY, EAGAIN, EINTR,
    /// ERESTART).
    Busy,
    /// Not permitted: CAP_NET_ADMIN is missing (EPERM, EACCES), or /proc or /sys is read-only (EROFS).
    Denied,
    /// This kernel cannot do it (EOPNOTSUPP, EAFNOSUPPORT, EPROTONOSUPPORT).
    Unsupported,
    /// The kernel refused it as malformed: a bug of ours (EINVAL and the like).
    Invalid,
    /// Anything else: no memory, a closed socket.
    Broken,
}

impl ErrorKind {
    /// The kind in one lower-case word, as metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorKind::Absent => "absent",
            ErrorKind::Exists => "exists",
            ErrorKind::Busy => "busy",
            ErrorKind::Denied => "denied",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Invalid => "invalid",
            ErrorKind::Broken => "broken",
        }
    }
}

/// A failed operation on the kernel.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Error {
    /// What a caller decides by.
    pub kind: ErrorKind,
    /// What was tried, on which object, such as `nf_tables NEWSETELEM, table ip kube-proxy`.
    pub operation: String,
    /// What the kernel said.
    pub source: String,
}

impl Error {
    /// An error from its three parts.
    pub fn new(kind: ErrorKind, operation: impl Into<String>, source: impl Into<String>) -> Self {
        Error { kind, operation: operation.into(), source: source.into() }
    }

    /// The kind that belongs to a positive errno of Linux.
    pub fn kind_of_errno(errno: i32) -> ErrorKind {
        match errno {
            2 | 3 | 19 | 99 => ErrorKind::Absent,
            17 => ErrorKind::Exists,
            4 | 11 | 16 | 85 => ErrorKind::Busy,
            1 | 13 | 30 => ErrorKind::Denied,
            93 | 94 | 95 | 97 => ErrorKind::Unsupported,
            7 | 22 | 28 | 31 | 34 | 36 | 39 | 40 | 71 | 75 | 90 => ErrorKind::Invalid,
            _ => ErrorKind::Broken,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operation, self.source)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errnos_have_kinds() {
        assert_eq!(Error::kind_of_errno(2), ErrorKind::Absent);
        assert_eq!(Error::kind_of_errno(1), ErrorKind::Denied);
        assert_eq!(Error::kind_of_errno(105), ErrorKind::Broken);
    }
}
