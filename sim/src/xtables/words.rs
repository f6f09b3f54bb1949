//! Splits a line into words as iptables-restore does (add_param_to_argv of iptables/xshared.c), with the column of each,
//! and prints strings as iptables-save quotes them (xtables_save_string). A closing quote ends a word.
//! It must never know what words mean. Tests: below and tests/xtables_texts.rs.

use super::error::{Refusal, Taken, XtErrorKind};
use std::fmt::Write as _;

/// The tool's own bounds of a word and of a line.
const LONGEST: usize = 1023;
const MOST: usize = 254;

/// A word of a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) column: usize,
}

impl Word {
    /// Refuses the word: what was expected in its place?
    pub(super) fn refuse(&self, expected: &str) -> Refusal {
        Refusal::syntax(self.column, format!("expected {expected}, found `{}'", self.text))
    }

    pub(super) fn unmodelled(&self, before: &str) -> Refusal {
        Refusal::unmodelled(self.column, format!("`{before}{}'", self.text))
    }

    /// A whole number as strtoul reads it with base 0: decimal, 0x… or 0….
    pub(super) fn number(&self, most: u32) -> Taken<u32> {
        number(&self.text)
            .filter(|number| *number <= most)
            .ok_or_else(|| self.refuse(&format!("a number up to {most}")))
    }
}

/// Reads decimal, hexadecimal and octal numbers.
pub(super) fn number(text: &str) -> Option<u32> {
    let digits = |text: &str, radix| {
        text.bytes()
            .all(|byte| byte.is_ascii_hexdigit())
            .then(|| u32::from_str_radix(text, radix).ok())?
    };
    match text.as_bytes() {
        [b'0', b'x' | b'X', _, ..] => digits(&text[2..], 16),
        [b'0', _, ..] => digits(&text[1..], 8),
        _ => digits(text, 10),
    }
}

/// The words of a line, taken one after the other.
#[derive(Debug)]
pub(super) struct Words {
    list: Vec<Word>,
    at: usize,
    end: usize,
}

impl Words {
    /// Splits a line; columns count from `first`.
    pub(super) fn split(line: &str, first: usize) -> Taken<Words> {
        let mut list: Vec<Word> = Vec::new();
        let mut word = Word::default();
        let (mut quoted, mut escaped) = (false, false);
        let mut end = first;
        for (offset, letter) in line.chars().enumerate() {
            let column = first + offset;
            end = column + 1;
            let closes = match letter {
                _ if escaped => {
                    word.text.push(letter);
                    escaped = false;
                    continue;
                }
                '\\' if quoted => {
                    escaped = true;
                    continue;
                }
                '"' if quoted => true,
                '"' => {
                    quoted = true;
                    if word.text.is_empty() {
                        word.column = column;
                    }
                    continue;
                }
                ' ' | '\t' if !quoted => !word.text.is_empty(),
                _ => {
                    if word.text.is_empty() && !quoted {
                        word.column = column;
                    }
                    word.text.push(letter);
                    continue;
                }
            };
            quoted = false;
            if closes {
                push(&mut list, std::mem::take(&mut word))?;
            }
        }
        if quoted {
            return Err(Refusal::unmodelled(
                word.column,
                "a quote that is not closed before the line ends",
            ));
        }
        if !word.text.is_empty() {
            push(&mut list, word)?;
        }
        Ok(Words { list, at: 0, end })
    }

    /// The next word.
    pub(super) fn next(&mut self) -> Option<Word> {
        let word = self.list.get_mut(self.at)?;
        self.at += 1;
        Some(std::mem::take(word))
    }

    /// The next word, without taking it.
    pub(super) fn peek(&self) -> Option<&Word> {
        self.list.get(self.at)
    }

    /// The column behind the last word.
    pub(super) fn end(&self) -> usize {
        self.end
    }

    /// The next word, which `option` needs.
    pub(super) fn value(&mut self, option: &Word) -> Taken<Word> {
        let missing = || {
            Refusal::syntax(option.column, format!("option `{}' requires an argument", option.text))
        };
        self.next().ok_or_else(missing)
    }

    /// Nothing may be left.
    pub(super) fn finish(&mut self) -> Taken<()> {
        match self.next() {
            None => Ok(()),
            Some(word) => Err(Refusal::syntax(
                word.column,
                format!("Bad argument `{}': expected the end of the line", word.text),
            )),
        }
    }
}

fn push(list: &mut Vec<Word>, word: Word) -> Taken<()> {
    if word.text.len() > LONGEST {
        return Err(Refusal::syntax(word.column, "Parameter too long!"));
    }
    if list.len() == MOST {
        return Err(Refusal::new(
            XtErrorKind::Syntax,
            word.column,
            "Parser cannot handle more arguments",
        ));
    }
    list.push(word);
    Ok(())
}

/// An option of a match or target, with the words behind it.
pub(super) struct Opt<'w> {
    /// The option, without its dashes and by its main name.
    pub(super) name: &'w str,
    pub(super) word: &'w Word,
    /// A `!` stands before it.
    pub(super) not: bool,
    pub(super) words: &'w mut Words,
}

impl Opt<'_> {
    pub(super) fn value(&mut self) -> Taken<Word> {
        self.words.value(self.word)
    }

    /// This option cannot be inverted.
    pub(super) fn plain(&self) -> Taken<()> {
        if self.not {
            return Err(Refusal::syntax(
                self.word.column,
                format!("option \"{}\" cannot be inverted", self.word.text),
            ));
        }
        Ok(())
    }

    /// The value of an option that cannot be inverted.
    pub(super) fn plain_value(&mut self) -> Taken<Word> {
        self.plain()?;
        self.value()
    }

    /// `value[/mask]`.
    pub(super) fn masked(&mut self) -> Taken<(u32, u32)> {
        let word = self.value()?;
        let (value, mask) = word
            .text
            .split_once('/')
            .map_or((word.text.as_str(), None), |(value, mask)| (value, Some(mask)));
        let mask = mask.map_or(Some(u32::MAX), number);
        number(value).zip(mask).ok_or_else(|| word.refuse("value or value/mask, each of 32 bits"))
    }
}

/// Prints ` text`, quoted if it needs to be.
pub(super) fn print_string(out: &mut String, text: &str) {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
    if !text.is_empty() && text.chars().all(plain) {
        let _ = write!(out, " {text}");
        return;
    }
    out.push_str(" \"");
    for letter in text.chars() {
        if matches!(letter, '"' | '\\' | '\'') {
            out.push('\\');
        }
        out.push(letter);
    }
    out.push('"');
}

/// Prints ` !` before an inverted option.
pub(super) fn print_not(out: &mut String, not: bool) {
    if not {
        out.push_str(" !");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        let mut words = Words::split(line, 1).expect("it can be split");
        std::iter::from_fn(|| words.next())
            .map(|word| format!("{}:{}", word.column, word.text))
            .collect()
    }

    #[test]
    fn a_closing_quote_ends_a_word() {
        assert_eq!(
            words("-A  X\t--comment \"a b\" \"\" \"x\"y\"z\""),
            ["1:-A", "5:X", "7:--comment", "17:a b", "23:", "26:x", "29:yz"]
        );
        assert_eq!(words(r#"\a "\"b\\""#), [r"1:\a", r#"4:"b\"#]);
        assert!(Words::split("\"open", 1).is_err());
        assert!(Words::split(&"x ".repeat(300), 1).is_err());
        assert!(Words::split(&"x".repeat(1024), 1).is_err());
    }

    #[test]
    fn numbers_are_those_of_strtoul() {
        assert_eq!(
            ["10", "0x10", "010", "0", "x", "", "0x", "-1", "99999999999"].map(number),
            [Some(10), Some(16), Some(8), Some(0), None, None, None, None, None]
        );
    }
}
