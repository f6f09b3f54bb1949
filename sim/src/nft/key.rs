//! Keys and data of set elements: short byte strings that live inside the element and compare as memory does.
//! It must never know what the bytes mean. Tests: below.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

const SHORT: usize = 30;

/// A byte string; up to 30 bytes need no memory of their own.
#[derive(Clone)]
pub(crate) enum Key {
    Short(u8, [u8; SHORT]),
    Long(Box<[u8]>),
}

impl Key {
    #[inline]
    pub(crate) fn new(bytes: &[u8]) -> Key {
        if bytes.len() > SHORT {
            return Key::Long(bytes.into());
        }
        let mut short = [0; SHORT];
        short[..bytes.len()].copy_from_slice(bytes);
        Key::Short(bytes.len() as u8, short)
    }
}

impl Deref for Key {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Key::Short(length, bytes) => &bytes[..usize::from(*length).min(SHORT)],
            Key::Long(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for Key {
    #[inline]
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Key {
    #[inline]
    fn eq(&self, other: &Key) -> bool {
        **self == **other
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    #[inline]
    fn cmp(&self, other: &Key) -> std::cmp::Ordering {
        (**self).cmp(&**other)
    }
}

impl Hash for Key {
    /// As the slice hashes, so that a map can be asked with a slice.
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::FastMap;

    #[test]
    fn a_map_answers_slices() {
        let mut map = FastMap::default();
        map.insert(Key::new(&[1; 30]), 1);
        map.insert(Key::new(&[1; 31]), 2);
        assert_eq!(map.get(&[1u8; 30][..]), Some(&1));
        assert_eq!(map.get(&[1u8; 31][..]), Some(&2));
    }
}
