//! Reads netlink messages and attributes without trusting a length.
//! A malformed tail ends the iteration; nothing here panics. Tests: below.

use super::{HEADER_LEN, NFGEN_LEN};

/// One netlink message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Subsystem and message number.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// Sequence number of the request it answers.
    pub sequence: u32,
    /// Everything after the header.
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes after `struct nfgenmsg`.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes { rest: self.body.get(NFGEN_LEN..).unwrap_or(&[]) }
    }
}

/// Iterates over the messages of a datagram.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// Over these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Messages { rest: bytes }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header = self.rest.get(..HEADER_LEN)?;
        let len = u32_ne(header)? as usize;
        let body = self.rest.get(HEADER_LEN..len)?;
        let message = Message {
            kind: u16_ne(&header[4..])?,
            flags: u16_ne(&header[6..])?,
            sequence: u32_ne(&header[8..])?,
            body,
        };
        self.rest = self.rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message)
    }
}

/// Iterates over attributes: number (without flag bits) and value.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Over these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Attributes { rest: bytes }
    }

    /// Over what follows a head of this length.
    pub fn after(bytes: &'a [u8], head: usize) -> Self {
        Attributes { rest: bytes.get(head..).unwrap_or(&[]) }
    }

    /// The first attribute of a number.
    pub fn get(&self, number: u16) -> Option<&'a [u8]> {
        Attributes { rest: self.rest }.find_map(|(n, value)| (n == number).then_some(value))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(u16_ne(self.rest)?);
        let number = u16_ne(self.rest.get(2..)?)? & 0x3fff;
        let value = self.rest.get(4..len)?;
        self.rest = self.rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((number, value))
    }
}

/// The first two bytes as a number in host order.
pub fn u16_ne(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?))
}

/// The first four bytes as a number in host order.
pub fn u32_ne(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// The first eight bytes as a number in host order.
pub fn u64_ne(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?))
}

/// The first four bytes as a number in network order.
pub fn u32_be(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// The first eight bytes as a number in network order.
pub fn u64_be(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?))
}

/// The first two bytes as a number in network order.
pub fn u16_be(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))
}

/// A string up to its closing zero; bytes that are not UTF-8 are replaced.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::write::{Head, Writer};

    #[test]
    fn what_was_written_is_read_back() {
        let mut w = Writer::new();
        for sequence in [1, 2] {
            let head = Head { kind: 0xa03, flags: 5, sequence, family: 2, resource: 0 };
            let open = w.open_message(head);
            w.text(1, "table");
            w.be32(2, sequence);
            w.close_message(open);
        }
        let bytes = w.into_bytes();
        let messages: Vec<_> = Messages::new(&bytes).collect();
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[1].sequence, 2);
        assert_eq!(text(messages[1].attributes().get(1).unwrap_or(b"")), "table");
        assert_eq!(messages[1].attributes().get(2).and_then(u32_be), Some(2));
    }

    #[test]
    fn broken_lengths_end_the_reading() {
        for bytes in [&[0u8; 3][..], &[3, 0, 0, 0], &[255; 40], &[2, 0, 1, 0, 9, 9]] {
            assert!(Attributes::new(bytes).count() <= 1);
            assert_eq!(Messages::new(bytes).count(), 0);
        }
    }
}
