//! Cuts an API list into its objects and a watch stream into its lines while the bytes come in,
//! so that a list of any length takes the memory of its largest object.
//!
//! It must never know what an object says: each is checked as JSON by whoever decodes it.
//! Tests: below.

/// Longest object or line taken in. The API server stores none above 3 MiB.
const MAX_OBJECT: usize = 32 * 1024 * 1024;
/// Longest remainder of a list without its objects.
const MAX_REST: usize = 1024 * 1024;
/// Longest key that is of interest.
const MAX_KEY: usize = 16;

/// The bytes are not what an API server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// Cuts the JSON of a list into the entries of `items` and the rest.
#[derive(Debug, Default)]
pub(crate) struct ListSplitter {
    rest: Vec<u8>,
    item: Vec<u8>,
    /// The last string that began in the outermost object: a key, when a list follows.
    key: Vec<u8>,
    depth: usize,
    in_string: bool,
    escaped: bool,
    in_items: bool,
}

impl ListSplitter {
    /// Takes bytes off the front of `chunk` up to the end of the next item, which it gives; none
    /// once the chunk is used up. The item is to be taken before the next call.
    pub(crate) fn next_item(&mut self, chunk: &mut &[u8]) -> Result<Option<Vec<u8>>, TooLong> {
        while let Some((&byte, left)) = chunk.split_first() {
            *chunk = left;
            let ended = if self.in_items { self.item_byte(byte) } else { self.rest_byte(byte) };
            if self.item.len() > MAX_OBJECT || self.rest.len() > MAX_REST {
                return Err(TooLong);
            }
            if ended {
                return Ok(Some(std::mem::take(&mut self.item)));
            }
        }
        Ok(None)
    }

    /// The list without its items, when all bytes have been taken.
    pub(crate) fn into_rest(self) -> Vec<u8> {
        self.rest
    }

    fn rest_byte(&mut self, byte: u8) -> bool {
        self.rest.push(byte);
        if self.in_string {
            if self.depth == 1 && byte != b'"' && self.key.len() <= MAX_KEY {
                self.key.push(byte);
            }
            self.string_byte(byte);
            return false;
        }
        match byte {
            b'"' => {
                self.in_string = true;
                if self.depth == 1 {
                    self.key.clear();
                }
            }
            b'[' if self.depth == 1 && self.key == b"items" => {
                self.depth += 1;
                self.in_items = true;
            }
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        false
    }

    /// Whether this byte ends an item.
    fn item_byte(&mut self, byte: u8) -> bool {
        if self.in_string {
            self.item.push(byte);
            self.string_byte(byte);
            return false;
        }
        let between = self.depth == 2;
        if between && (byte == b',' || byte == b']') {
            if byte == b']' {
                self.rest.push(byte);
                self.depth = 1;
                self.in_items = false;
            }
            // Only what is no object or list ends here; the others ended with their bracket.
            return !self.item.is_empty();
        }
        if between && self.item.is_empty() && byte.is_ascii_whitespace() {
            return false;
        }
        self.item.push(byte);
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                // A bracket that closes nothing is no JSON: whoever decodes the item will say so.
                self.depth = (self.depth - 1).max(2);
                return self.depth == 2;
            }
            _ => {}
        }
        false
    }

    fn string_byte(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => self.in_string = false,
            _ => {}
        }
    }
}

/// Cuts a stream into lines. What comes after the last newline is half a line and not given out.
#[derive(Debug, Default)]
pub(crate) struct LineSplitter {
    line: Vec<u8>,
}

impl LineSplitter {
    /// Takes bytes off the front of `chunk` up to the end of the next line, which it gives; none
    /// once the chunk is used up.
    pub(crate) fn next_line(&mut self, chunk: &mut &[u8]) -> Result<Option<Vec<u8>>, TooLong> {
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let (line, left) = chunk.split_at(end.unwrap_or(chunk.len()));
        if self.line.len() + line.len() > MAX_OBJECT {
            return Err(TooLong);
        }
        self.line.extend_from_slice(line);
        *chunk = left.get(1..).unwrap_or_default();
        Ok(end.map(|_| std::mem::take(&mut self.line)))
    }

    /// Whether half a line is left.
    pub(crate) fn is_midway(&self) -> bool {
        !self.line.is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn split(text: &[u8], chunk_size: usize) -> (Vec<Vec<u8>>, Vec<u8>) {
        let (mut splitter, mut items) = (ListSplitter::default(), Vec::new());
        for mut chunk in text.chunks(chunk_size.max(1)) {
            while let Some(item) = splitter.next_item(&mut chunk).unwrap() {
                items.push(item);
            }
        }
        (items, splitter.into_rest())
    }

    #[test]
    fn a_list_is_cut_wherever_the_chunks_end() {
        let items =
            [json!({"a": "]},{\"\\", "items": [1]}), json!([]), json!(7), json!("x,]"), json!({})];
        let list = json!({"kind": "items", "metadata": {"items": [5], "continue": "x"}, "items": items, "z": [{}]});
        for text in [list.to_string(), serde_json::to_string_pretty(&list).unwrap()] {
            for size in 1..40 {
                let (found, rest) = split(text.as_bytes(), size);
                let found: Vec<Value> =
                    found.iter().map(|item| serde_json::from_slice(item).unwrap()).collect();
                assert_eq!(found, items, "in chunks of {size}");
                let rest: Value = serde_json::from_slice(&rest).unwrap();
                assert_eq!(rest["items"], json!([]));
                assert_eq!(rest["metadata"]["continue"], "x");
            }
        }
    }

    #[test]
    fn null_items_are_none() {
        assert_eq!(split(br#"{"items":null}"#, 3), (vec![], br#"{"items":null}"#.to_vec()));
    }

    #[test]
    fn endless_input_is_refused() {
        let mut splitter = ListSplitter::default();
        let mut chunk = &b"{\"items\":["[..];
        assert_eq!(splitter.next_item(&mut chunk), Ok(None));
        let spaces = vec![b'['; MAX_OBJECT + 1];
        assert_eq!(splitter.next_item(&mut &spaces[..]), Err(TooLong));
        assert_eq!(ListSplitter::default().next_item(&mut &spaces[..]), Err(TooLong));
        assert_eq!(LineSplitter::default().next_line(&mut &spaces[..]), Err(TooLong));
    }

    #[test]
    fn lines_are_cut_wherever_the_chunks_end() {
        let text = b"one\n\ntwo three\nhalf";
        for size in 1..20 {
            let (mut splitter, mut lines) = (LineSplitter::default(), Vec::new());
            for mut chunk in text.chunks(size) {
                while let Some(line) = splitter.next_line(&mut chunk).unwrap() {
                    lines.push(String::from_utf8(line).unwrap());
                }
            }
            assert_eq!(lines, ["one", "", "two three"]);
            assert!(splitter.is_midway());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..400), size in 1usize..50) {
            split(&bytes, size);
        }

        #[test]
        fn anything_like_json_is_taken(text in r#"[\[\]{}",:a\\ items]{0,120}"#, size in 1usize..9) {
            split(format!("{{\"items\":[{text}").as_bytes(), size);
        }
    }
}
