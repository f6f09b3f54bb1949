//! Writes netlink messages and attributes into one buffer, lengths filled in afterwards.
//! It knows nothing of what the attributes mean. Tests: below.

use super::{HEADER_LEN, NFGEN_LEN};

/// `NLA_F_NESTED`, set on attributes that hold attributes.
const NESTED: u16 = 0x8000;

/// A growing buffer of netlink messages.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

/// Where an open message or attribute began; given back to close it.
#[derive(Debug)]
#[must_use = "an open message or attribute has no length until it is closed"]
pub struct Open(usize);

/// Head of an nfnetlink message.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// Subsystem and message, as in `nlmsg_type`.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// Sequence number, which an error comes back with.
    pub sequence: u32,
    /// `nfgen_family`.
    pub family: u8,
    /// `res_id`, in host order here.
    pub resource: u16,
}

/// Head of a generic netlink message.
#[derive(Clone, Copy, Debug)]
pub struct GenericHead {
    /// The family's number, as in `nlmsg_type`.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// Sequence number, which an error comes back with.
    pub sequence: u32,
    /// The family's command.
    pub command: u8,
    /// The family's version.
    pub version: u8,
}

impl Writer {
    /// An empty buffer.
    pub fn new() -> Writer {
        Writer::default()
    }

    /// Bytes written.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The bytes so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Begins an nfnetlink message.
    pub fn open_message(&mut self, head: Head) -> Open {
        let open = self.open_plain((head.kind, head.flags, head.sequence));
        self.bytes.extend_from_slice(&[head.family, 0]);
        self.bytes.extend_from_slice(&head.resource.to_be_bytes());
        debug_assert_eq!(self.bytes.len() - open.0, HEADER_LEN + NFGEN_LEN);
        open
    }

    /// Begins a generic netlink message.
    pub fn open_generic(&mut self, head: GenericHead) -> Open {
        let open = self.open_plain((head.kind, head.flags, head.sequence));
        self.bytes.extend_from_slice(&[head.command, head.version, 0, 0]);
        open
    }

    /// Begins a message with nothing but `struct nlmsghdr`: type, flags and sequence number.
    pub fn open_plain(&mut self, (kind, flags, sequence): (u16, u16, u32)) -> Open {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        Open(start)
    }

    /// Ends a message.
    pub fn close_message(&mut self, open: Open) {
        let len = (self.bytes.len() - open.0) as u32;
        self.bytes[open.0..open.0 + 4].copy_from_slice(&len.to_ne_bytes());
    }

    /// Begins an attribute that holds attributes.
    pub fn open(&mut self, attribute: u16) -> Open {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(attribute | NESTED).to_ne_bytes());
        Open(start)
    }

    /// Ends an attribute that holds attributes. Callers keep it below 64 KiB.
    pub fn close(&mut self, open: Open) {
        let len = self.bytes.len() - open.0;
        let len = u16::try_from(len).expect("nested attributes are kept below 64 KiB by callers");
        self.bytes[open.0..open.0 + 2].copy_from_slice(&len.to_ne_bytes());
    }

    /// An attribute that holds attributes, written by `body`.
    pub fn nest(&mut self, attribute: u16, body: impl FnOnce(&mut Writer)) {
        let open = self.open(attribute);
        body(self);
        self.close(open);
    }

    /// An attribute of raw bytes, padded to 4.
    pub fn bytes(&mut self, attribute: u16, value: &[u8]) {
        self.parts(attribute, &[value]);
    }

    /// An attribute whose value comes in parts.
    pub fn parts(&mut self, attribute: u16, parts: &[&[u8]]) {
        let len = 4 + parts.iter().map(|p| p.len()).sum::<usize>();
        let short = u16::try_from(len).expect("attributes are kept below 64 KiB by callers");
        self.bytes.extend_from_slice(&short.to_ne_bytes());
        self.bytes.extend_from_slice(&attribute.to_ne_bytes());
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.bytes.resize(self.bytes.len() + len.next_multiple_of(4) - len, 0);
    }

    /// A 32-bit number in network order, as nf_tables wants its numbers.
    pub fn be32(&mut self, attribute: u16, value: u32) {
        self.bytes(attribute, &value.to_be_bytes());
    }

    /// A 64-bit number in network order.
    pub fn be64(&mut self, attribute: u16, value: u64) {
        self.bytes(attribute, &value.to_be_bytes());
    }

    /// A 16-bit number in host order, as generic netlink wants its numbers.
    pub fn ne16(&mut self, attribute: u16, value: u16) {
        self.bytes(attribute, &value.to_ne_bytes());
    }

    /// A 32-bit number in host order.
    pub fn ne32(&mut self, attribute: u16, value: u32) {
        self.bytes(attribute, &value.to_ne_bytes());
    }

    /// A string with its closing zero.
    pub fn text(&mut self, attribute: u16, value: &str) {
        self.parts(attribute, &[value.as_bytes(), &[0]]);
    }

    /// Bytes that are attributes already.
    pub fn raw(&mut self, attributes: &[u8]) {
        self.bytes.extend_from_slice(attributes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nested_lengths_filled_in() {
        let mut w = Writer::new();
        w.nest(5, |w| {
            w.text(1, "ab");
            w.be32(2, 7);
        });
        let wanted = [20, 0, 5, 0x80, 7, 0, 1, 0, b'a', b'b', 0, 0, 8, 0, 2, 0, 0, 0, 0, 7];
        assert_eq!(w.into_bytes(), wanted);
    }

    #[test]
    fn a_message_knows_its_length() {
        let mut w = Writer::new();
        let head = Head { kind: 0xa00, flags: 1, sequence: 9, family: 2, resource: 10 };
        let open = w.open_message(head);
        w.be32(1, 1);
        w.close_message(open);
        let bytes = w.into_bytes();
        assert_eq!(bytes.len(), 28);
        assert_eq!(bytes[0], 28);
        assert_eq!(&bytes[18..20], &[0, 10]);
    }
}
