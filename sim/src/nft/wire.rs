//! Netlink attributes: spans of the batch that know their offset, so that every refusal can name a byte.
//! Facts from lib/nlattr.c and include/uapi/linux/netlink.h. It must never know what the attributes mean.
//! Tests: below and tests/batch.rs.

use super::error::{Refusal, Taken};

const NESTED: u16 = 0x8000;
const NETWORK_ORDER: u16 = 0x4000;

/// A part of the batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
}

/// Attributes by number; `N` is one more than the highest the kernel knows.
pub(crate) struct Attrs<'a, const N: usize> {
    found: [Option<Span<'a>>; N],
    at: usize,
    what: &'static str,
}

impl<'a> Span<'a> {
    #[inline]
    fn fixed<const N: usize>(self, what: &str) -> Taken<[u8; N]> {
        self.bytes.try_into().map_err(|_| {
            Refusal::invalid(
                self.at,
                format!("{what} of {N} bytes expected, found {}", self.bytes.len()),
            )
        })
    }

    #[inline]
    pub(crate) fn be32(self) -> Taken<u32> {
        self.fixed("a number").map(u32::from_be_bytes)
    }

    pub(crate) fn be64(self) -> Taken<u64> {
        self.fixed("a number").map(u64::from_be_bytes)
    }

    pub(crate) fn u8(self) -> Taken<u8> {
        self.fixed::<1>("a number").map(|bytes| bytes[0])
    }

    /// A name: 1 to 255 bytes before an ending zero.
    pub(crate) fn name(self) -> Taken<&'a str> {
        let text = match self.bytes.split_last() {
            Some((0, text)) => text,
            _ => self.bytes,
        };
        if text.is_empty() || text.len() > 255 || text.contains(&0) {
            return Err(Refusal::invalid(
                self.at,
                format!("a name of 1 to 255 bytes expected, found {} bytes", text.len()),
            ));
        }
        std::str::from_utf8(text).map_err(|_| Refusal::invalid(self.at, "a name in UTF-8 expected"))
    }

    /// Splits the span into its attributes, in order.
    #[inline]
    pub(crate) fn list(self) -> List<'a> {
        List { rest: self }
    }

    /// Sorts the attributes of the span by number. A later one with the same number wins, as in the kernel.
    pub(crate) fn attrs<const N: usize>(self, what: &'static str) -> Taken<Attrs<'a, N>> {
        let mut found = [None; N];
        for item in self.list() {
            let (kind, body) = item?;
            match found.get_mut(usize::from(kind)) {
                Some(slot) if kind != 0 => *slot = Some(body),
                _ => {
                    return Err(Refusal::invalid(
                        body.at,
                        format!("{what} has no attribute {kind}"),
                    ));
                }
            }
        }
        Ok(Attrs { found, at: self.at, what })
    }
}

impl<'a, const N: usize> Attrs<'a, N> {
    #[inline]
    pub(crate) fn get(&self, kind: usize) -> Option<Span<'a>> {
        self.found.get(kind).copied().flatten()
    }

    pub(crate) fn need(&self, kind: usize, name: &str) -> Taken<Span<'a>> {
        self.get(kind)
            .ok_or_else(|| Refusal::invalid(self.at, format!("{} needs {name}", self.what)))
    }

    pub(crate) fn be32(&self, kind: usize) -> Taken<Option<u32>> {
        self.get(kind).map(Span::be32).transpose()
    }

    pub(crate) fn be64(&self, kind: usize) -> Taken<Option<u64>> {
        self.get(kind).map(Span::be64).transpose()
    }

    /// Refuses the attributes listed, by name: the simulator has no model of them.
    pub(crate) fn refuse(&self, kinds: &[(usize, &str)]) -> Taken<()> {
        for (kind, name) in kinds {
            if let Some(span) = self.get(*kind) {
                return Err(Refusal::unmodelled(span.at, name));
            }
        }
        Ok(())
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }
}

/// Attributes in order.
pub(crate) struct List<'a> {
    rest: Span<'a>,
}

impl<'a> Iterator for List<'a> {
    type Item = Taken<(u16, Span<'a>)>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let Span { bytes, at } = self.rest;
        if bytes.is_empty() {
            return None;
        }
        let stop = |detail: String| Some(Err(Refusal::invalid(at, detail)));
        self.rest.bytes = &[];
        let [a, b, c, d, ..] = *bytes else {
            return stop(format!("an attribute header of 4 bytes expected, {} left", bytes.len()));
        };
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let Some(body) = bytes.get(4..length) else {
            return stop(format!("an attribute says {length} bytes, {} are there", bytes.len()));
        };
        let step = (length + 3) & !3;
        self.rest = Span { bytes: bytes.get(step..).unwrap_or(&[]), at: at + step };
        let kind = u16::from_ne_bytes([c, d]) & !(NESTED | NETWORK_ORDER);
        Some(Ok((kind, Span { bytes: body, at: at + 4 })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_lie_are_refused() {
        for bytes in [&[3u8, 0, 1, 0][..], &[9, 0, 1, 0, 0, 0, 0, 0], &[4, 0, 1]] {
            let span = Span { bytes, at: 0 };
            assert!(span.attrs::<4>("a test").is_err(), "{bytes:?}");
        }
    }
}
