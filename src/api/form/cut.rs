//! Cuts a protobuf list into its objects and a watch stream into its frames while the bytes come
//! in, so that a list of any length takes the memory of its largest object.
//!
//! A list is `k8s\0` and an Unknown, whose `raw` is a message of ListMeta (1) and items (2); a frame
//! is four bytes of length, the highest first, and a WatchEvent. It must never know what an object
//! says. Tests: below.

use crate::api::split::TooLong;

/// What stands before every message but frames.
pub(crate) const MAGIC: &[u8] = b"k8s\0";
/// Longest object taken in. The API server stores none above 3 MiB.
const MAX_OBJECT: usize = 32 * 1024 * 1024;

/// A piece of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Its ListMeta.
    Meta(Vec<u8>),
    /// One of its objects.
    Item(Vec<u8>),
}

/// Cuts a list.
#[derive(Debug, Default)]
pub(crate) struct ListSplitter {
    held: Vec<u8>,
    /// Bytes of `held` that are done with.
    done: usize,
    began: bool,
    /// Whether the list itself has begun, within the envelope.
    inside: bool,
}

impl ListSplitter {
    /// Takes bytes in; they are given out by `next_piece`.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.held.drain(..self.done);
        self.done = 0;
        self.held.extend_from_slice(bytes);
    }

    /// The next piece that is all there.
    pub(crate) fn next_piece(&mut self) -> Result<Option<Piece>, TooLong> {
        if !self.began {
            if self.held.len() < MAGIC.len() {
                return Ok(None);
            }
            if !self.held.starts_with(MAGIC) {
                return Err(TooLong);
            }
            (self.began, self.done) = (true, MAGIC.len());
        }
        loop {
            let Some((field, bytes)) = self.next_field()? else { return Ok(None) };
            match (self.inside, field) {
                (true, 1) => return Ok(Some(Piece::Meta(bytes))),
                (true, 2) => return Ok(Some(Piece::Item(bytes))),
                _ => {}
            }
        }
    }

    /// Whether something came in that was not all there.
    pub(crate) fn is_midway(&self) -> bool {
        !self.inside || self.done < self.held.len()
    }

    /// The next field of bytes; the envelope's `raw` is entered instead.
    fn next_field(&mut self) -> Result<Option<(u64, Vec<u8>)>, TooLong> {
        let mut rest = &self.held[self.done..];
        let Some(tag) = varint(&mut rest)? else { return Ok(None) };
        let (field, kind) = (tag >> 3, tag & 7);
        let length = match kind {
            0 => {
                let Some(_) = varint(&mut rest)? else { return Ok(None) };
                0
            }
            1 => 8,
            5 => 4,
            2 => match varint(&mut rest)? {
                Some(length) => usize::try_from(length).map_err(|_| TooLong)?,
                None => return Ok(None),
            },
            _ => return Err(TooLong),
        };
        if !self.inside && field == 2 && kind == 2 {
            self.inside = true;
            self.done = self.held.len() - rest.len();
            return Ok(Some((0, Vec::new())));
        }
        if length > MAX_OBJECT {
            return Err(TooLong);
        }
        let Some(bytes) = rest.get(..length) else { return Ok(None) };
        let bytes = bytes.to_vec();
        self.done = self.held.len() - rest.len() + length;
        Ok(Some((if kind == 2 { field } else { 0 }, bytes)))
    }
}

/// A number off the front; none if it is not all there.
fn varint(rest: &mut &[u8]) -> Result<Option<u64>, TooLong> {
    let mut value = 0u64;
    for (at, byte) in rest.iter().enumerate() {
        if at == 10 {
            return Err(TooLong);
        }
        value |= u64::from(byte & 0x7f).checked_shl(7 * at as u32).unwrap_or(0);
        if byte & 0x80 == 0 {
            *rest = &rest[at + 1..];
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// Cuts a stream into frames.
#[derive(Debug, Default)]
pub(crate) struct FrameSplitter {
    held: Vec<u8>,
    done: usize,
}

impl FrameSplitter {
    /// Takes bytes in; they are given out by `next_frame`.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.held.drain(..self.done);
        self.done = 0;
        self.held.extend_from_slice(bytes);
    }

    /// The next frame that is all there.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        let rest = &self.held[self.done..];
        let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > MAX_OBJECT {
            return Err(TooLong);
        }
        let Some(frame) = rest.get(..length) else { return Ok(None) };
        let frame = frame.to_vec();
        self.done += 4 + length;
        Ok(Some(frame))
    }

    /// Whether a frame has begun that is not all there.
    pub(crate) fn is_midway(&self) -> bool {
        self.done < self.held.len()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut length = bytes.len();
        while length >= 0x80 {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(bytes);
        out
    }

    fn pieces(bytes: &[u8], step: usize) -> Result<(Vec<Piece>, bool), TooLong> {
        let mut splitter = ListSplitter::default();
        let mut out = Vec::new();
        for chunk in bytes.chunks(step) {
            splitter.push(chunk);
            while let Some(piece) = splitter.next_piece()? {
                out.push(piece);
            }
        }
        Ok((out, splitter.is_midway()))
    }

    #[test]
    fn a_list_is_cut_wherever_its_chunks_end() {
        let items = [vec![7u8; 300], vec![], vec![1, 2, 3]];
        let mut raw = field(1, b"meta");
        items.iter().for_each(|item| raw.extend(field(2, item)));
        let mut list = MAGIC.to_vec();
        list.extend(field(1, b"type"));
        list.extend(field(2, &raw));
        let mut wanted = vec![Piece::Meta(b"meta".to_vec())];
        wanted.extend(items.into_iter().map(Piece::Item));
        for step in [1, 2, 3, 7, 64, 10_000] {
            assert_eq!(pieces(&list, step), Ok((wanted.clone(), false)), "{step}");
        }
        assert!(pieces(&list[..list.len() - 1], 5).unwrap().1);
        assert_eq!(pieces(b"{\"kind\"", 3), Err(TooLong));
    }

    #[test]
    fn frames_are_cut_wherever_chunks_end() {
        let bytes =
            [&[0, 0, 0, 2][..], b"ab", &[0, 0, 0, 0], &[0, 0, 0, 1], b"c", &[0, 0]].concat();
        for step in 1..bytes.len() {
            let mut splitter = FrameSplitter::default();
            let mut out = Vec::new();
            for chunk in bytes.chunks(step) {
                splitter.push(chunk);
                while let Some(frame) = splitter.next_frame().unwrap() {
                    out.push(frame);
                }
            }
            assert_eq!(out, [b"ab".to_vec(), vec![], b"c".to_vec()]);
            assert!(splitter.is_midway());
        }
    }

    proptest! {
        #[test]
        fn nonsense_ends_and_does_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = pieces(&[MAGIC, &bytes].concat(), 7);
            let mut splitter = FrameSplitter::default();
            splitter.push(&bytes);
            while let Ok(Some(_)) = splitter.next_frame() {}
        }
    }
}
