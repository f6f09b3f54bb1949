//! Rules of the language of `twin`, written as expressions: the same bytes for both kernels.
//! A rule is words: fields joined by ` . `, a comparison or lookup, then what is done.
//! Knows no packet. Tests: `super::tests`.

use kube_proxy::netlink::write::Writer;

use super::field::{Kind, load, number, register};
use super::ruleset::{SetType, Sets};

/// The words of a rule that are not yet read.
pub(super) struct Words<'a> {
    words: std::iter::Peekable<std::str::SplitWhitespace<'a>>,
}

impl<'a> Words<'a> {
    /// Splits a text.
    pub(super) fn new(text: &'a str) -> Self {
        Words { words: text.split_whitespace().peekable() }
    }

    /// The next word, which must be there.
    pub(super) fn need(&mut self, what: &str) -> Result<&'a str, String> {
        self.words.next().ok_or_else(|| format!("{what} expected"))
    }

    /// The next word, if there is one.
    pub(super) fn next(&mut self) -> Option<&'a str> {
        self.words.next()
    }

    /// Takes the next word if it is this one.
    pub(super) fn take(&mut self, word: &str) -> bool {
        self.words.next_if_eq(&word).is_some()
    }

    /// The next word, left where it is.
    pub(super) fn peek(&mut self) -> Option<&'a str> {
        self.words.peek().copied()
    }
}

/// A rule being written.
pub(super) struct Encoder<'s> {
    out: Writer,
    sets: &'s mut Sets,
}

/// The expressions of a rule, as the value of `NFTA_RULE_EXPRESSIONS`. Sets without a name are left
/// in `sets`, to be made before the rule.
pub(super) fn encode(text: &str, sets: &mut Sets) -> Result<Vec<u8>, String> {
    let mut encoder = Encoder { out: Writer::new(), sets };
    let mut words = Words::new(text);
    while words.peek().is_some() {
        encoder.statement(&mut words)?;
    }
    Ok(encoder.out.into_bytes())
}

impl Encoder<'_> {
    fn expression(&mut self, name: &str, body: &Writer) {
        self.out.nest(1, |w| {
            w.text(1, name);
            w.nest(2, |w| w.raw(body.as_bytes()));
        });
    }

    fn build(&mut self, name: &str, body: impl FnOnce(&mut Writer)) {
        let mut writer = Writer::new();
        body(&mut writer);
        self.expression(name, &writer);
    }

    fn statement(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        let first = words.peek().unwrap_or_default();
        match first {
            "accept" | "drop" | "return" | "continue" | "jump" | "goto" => self.verdict(words),
            "counter" | "log" => {
                words.next();
                self.build(first, |_| {});
                Ok(())
            }
            "set" => self.assign(words),
            "dnat4" | "dnat6" | "snat4" | "snat6" => self.nat(words),
            "masquerade" | "redirect" => self.own_nat(words),
            "reject" => self.reject(words),
            "update" | "add" | "delete" => self.dynset(words),
            "limit" => self.limit(words),
            _ => self.matching(words),
        }
    }

    /// Loads fields one behind the other from a word on; their types.
    fn fields(&mut self, words: &mut Words<'_>, from: usize) -> Result<Vec<Kind>, String> {
        let (mut kinds, mut word) = (Vec::new(), from);
        loop {
            let name = words.need("a field")?;
            let kind = match name.strip_prefix("jhash/") {
                Some(numbers) => self.hash(numbers, words, word)?,
                None => {
                    let (name, body, kind) = load(name, word)?;
                    self.expression(name, &body);
                    kind
                }
            };
            word += kind.length().div_ceil(4);
            kinds.push(kind);
            if !words.take(".") {
                return Ok(kinds);
            }
        }
    }

    /// `jhash/PARTS/SEED ( FIELDS )`.
    fn hash(&mut self, numbers: &str, words: &mut Words<'_>, to: usize) -> Result<Kind, String> {
        let (parts, seed) = numbers.split_once('/').ok_or("jhash/PARTS/SEED expected")?;
        let (parts, seed) = (number(parts)?, number(seed)?);
        if !words.take("(") {
            return Err("( expected".to_owned());
        }
        let kinds = self.fields(words, 8)?;
        if !words.take(")") {
            return Err(") expected".to_owned());
        }
        let length = match &kinds[..] {
            [one] => one.length(),
            several => several.iter().map(|k| k.length().next_multiple_of(4)).sum(),
        };
        self.build("hash", |w| {
            w.be32(1, register(8));
            w.be32(2, register(to));
            w.be32(3, length as u32);
            w.be32(4, parts);
            w.be32(5, seed);
        });
        Ok(Kind::Host)
    }

    fn matching(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        let kinds = self.fields(words, 0)?;
        let kind = kinds[0];
        match words.need("a comparison")? {
            "==" => self.compare(0, &kind.value(words.need("a value")?)?),
            "!=" => self.compare(1, &kind.value(words.need("a value")?)?),
            "<" => self.compare(2, &kind.value(words.need("a value")?)?),
            "<=" => self.compare(3, &kind.value(words.need("a value")?)?),
            ">" => self.compare(4, &kind.value(words.need("a value")?)?),
            ">=" => self.compare(5, &kind.value(words.need("a value")?)?),
            "&" => {
                let mask = kind.value(words.need("a mask")?)?;
                self.bitwise(&mask, &vec![0; mask.len()]);
                let how = u32::from(words.need("== or !=")? == "!=");
                self.compare(how, &kind.value(words.need("a value")?)?);
            }
            "range" => self.range(0, kind, words)?,
            "outside" => self.range(1, kind, words)?,
            "in" => self.lookup(&kinds, words, (None, false))?,
            "notin" => self.lookup(&kinds, words, (None, true))?,
            "vmap" => self.lookup(&kinds, words, (Some(0), false))?,
            "map" => self.lookup(&kinds, words, (Some(register(0)), false))?,
            other => return Err(format!("no comparison \"{other}\"")),
        }
        Ok(())
    }

    fn compare(&mut self, how: u32, value: &[u8]) {
        self.build("cmp", |w| {
            w.be32(1, register(0));
            w.be32(2, how);
            w.nest(3, |w| w.bytes(1, value));
        });
    }

    fn range(&mut self, how: u32, kind: Kind, words: &mut Words<'_>) -> Result<(), String> {
        let text = words.need("a range")?;
        let (low, high) = text.split_once('-').ok_or("a range LOW-HIGH expected")?;
        let (low, high) = (kind.value(low)?, kind.value(high)?);
        self.build("range", |w| {
            w.be32(1, register(0));
            w.be32(2, how);
            w.nest(3, |w| w.bytes(1, &low));
            w.nest(4, |w| w.bytes(1, &high));
        });
        Ok(())
    }

    fn bitwise(&mut self, mask: &[u8], xor: &[u8]) {
        self.build("bitwise", |w| {
            w.be32(1, register(0));
            w.be32(2, register(0));
            w.be32(3, mask.len() as u32);
            w.nest(4, |w| w.bytes(1, mask));
            w.nest(5, |w| w.bytes(1, xor));
        });
    }

    /// Asks a named set, or one written here in braces.
    fn lookup(
        &mut self,
        kinds: &[Kind],
        words: &mut Words<'_>,
        (into, inverted): (Option<u32>, bool),
    ) -> Result<(), String> {
        let (name, id) = self.set_of(kinds, words, into == Some(0))?;
        self.build("lookup", |w| {
            w.text(1, &name);
            w.be32(2, register(0));
            if let Some(into) = into {
                w.be32(3, into);
            }
            w.be32(4, id);
            if inverted {
                w.be32(5, 1);
            }
        });
        Ok(())
    }

    /// Name and number of a set: `@name`, or `{ elements }`.
    fn set_of(
        &mut self,
        kinds: &[Kind],
        words: &mut Words<'_>,
        verdicts: bool,
    ) -> Result<(String, u32), String> {
        match words.need("a set")? {
            "{" => {
                let mut elements = String::new();
                loop {
                    match words.need("} at the end of a set")? {
                        "}" => break,
                        word => elements = elements + " " + word,
                    }
                }
                self.sets.without_name(kinds, &elements, verdicts)
            }
            name => Ok((name.strip_prefix('@').ok_or("@set or { expected")?.to_owned(), 0)),
        }
    }

    fn verdict(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        let mut body = Writer::new();
        body.be32(1, 0);
        let open = body.open(2);
        write_verdict(&mut body, words)?;
        body.close(open);
        self.expression("immediate", &body);
        Ok(())
    }

    /// `set mark VALUE`, `set mark or|and|xor VALUE`, `set mark from FIELD`, `set mark map FIELDS @m`;
    /// also of `ct.mark` and `priority`.
    fn assign(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        words.next();
        let target = words.need("mark, ct.mark or priority")?;
        let bits = |words: &mut Words<'_>| number(words.need("a number")?);
        match words.peek() {
            Some("or" | "and" | "xor") => {
                let how = words.next();
                let bits = bits(words)?;
                let (name, body, _) = load(target, 0)?;
                self.expression(name, &body);
                let (mask, xor) = match how {
                    Some("or") => (!bits, bits),
                    Some("and") => (bits, 0),
                    _ => (u32::MAX, bits),
                };
                self.bitwise(&mask.to_ne_bytes(), &xor.to_ne_bytes());
            }
            Some("from") => {
                words.next();
                self.fields(words, 0)?;
            }
            Some("map") => {
                words.next();
                let kinds = self.fields(words, 0)?;
                self.lookup(&kinds, words, (Some(register(0)), false))?;
            }
            _ => {
                let bits = bits(words)?;
                self.immediate(0, &bits.to_ne_bytes());
            }
        }
        let (name, key, attribute) = match target {
            "mark" => ("meta", 3, 3),
            "priority" => ("meta", 2, 3),
            "ct.mark" => ("ct", 3, 4),
            other => return Err(format!("\"{other}\" cannot be set")),
        };
        self.build(name, |w| {
            w.be32(2, key);
            w.be32(attribute, register(0));
        });
        Ok(())
    }

    fn immediate(&mut self, word: usize, value: &[u8]) {
        self.build("immediate", |w| {
            w.be32(1, register(word));
            w.nest(2, |w| w.bytes(1, value));
        });
    }

    /// `dnat4 [ADDRESS[-ADDRESS]] [port P[-P]]`, `dnat4 map FIELDS @m`.
    fn nat(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        let name = words.need("nat")?;
        let kind = if name.ends_with('4') { Kind::Ip4 } else { Kind::Ip6 };
        let width = kind.length() / 4;
        let (mut address, mut port) = ([None; 2], [None; 2]);
        if words.take("map") {
            let kinds = self.fields(words, 0)?;
            let set = words.peek().unwrap_or_default().trim_start_matches('@');
            let ported = self.sets.data_of(set).is_some_and(|data| data.len() > 1);
            self.lookup(&kinds, words, (Some(register(0)), false))?;
            address[0] = Some(0);
            port[0] = ported.then_some(width);
        } else {
            if let Some(text) =
                words.peek().filter(|w| w.starts_with(|c: char| c.is_ascii_hexdigit()))
                && text.contains(['.', ':'])
            {
                words.next();
                address = self.ends(text, kind, 0)?;
            }
            if words.take("port") {
                port = self.ends(words.need("a port")?, Kind::Net(2), 8)?;
            }
        }
        let flags = nat_flags(words);
        self.build("nat", |w| {
            w.be32(1, u32::from(name.starts_with('d')));
            w.be32(2, if kind == Kind::Ip4 { 2 } else { 10 });
            write_ends(w, (3, 4), address);
            write_ends(w, (5, 6), port);
            if flags != 0 {
                w.be32(7, flags);
            }
        });
        Ok(())
    }

    /// `masquerade` and `redirect`, each with `[port P[-P]]`.
    fn own_nat(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        let name = words.need("nat")?;
        let mut port = [None; 2];
        if words.take("port") {
            port = self.ends(words.need("a port")?, Kind::Net(2), 8)?;
        }
        let flags = nat_flags(words);
        let masquerade = name == "masquerade";
        self.build(if masquerade { "masq" } else { "redir" }, |w| {
            let (first, at) = if masquerade { ((2, 3), 1) } else { ((1, 2), 3) };
            write_ends(w, first, port);
            if flags != 0 {
                w.be32(at, flags);
            }
        });
        Ok(())
    }

    /// The ends of a range, each at a word of its own.
    fn ends(&mut self, text: &str, kind: Kind, word: usize) -> Result<[Option<usize>; 2], String> {
        let (low, high) = text.split_once('-').map_or((text, None), |(l, h)| (l, Some(h)));
        self.immediate(word, &kind.value(low)?);
        let Some(high) = high else { return Ok([Some(word), None]) };
        let next = word + kind.length().div_ceil(4);
        self.immediate(next, &kind.value(high)?);
        Ok([Some(word), Some(next)])
    }

    /// `reject reset`, `reject icmp CODE`, `reject icmpx CODE`.
    fn reject(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        words.next();
        let (kind, code) = match words.need("reset, icmp or icmpx")? {
            "reset" => (1, None),
            "icmp" => (0, Some(number(words.need("a code")?)?)),
            "icmpx" => (2, Some(number(words.need("a code")?)?)),
            other => return Err(format!("no reject \"{other}\"")),
        };
        self.build("reject", |w| {
            w.be32(1, kind);
            if let Some(code) = code {
                w.bytes(2, &[code as u8]);
            }
        });
        Ok(())
    }

    /// `update @set FIELDS [timeout SECONDS] [value FIELDS]`; also `add` and `delete`.
    fn dynset(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        let op = match words.need("an operation")? {
            "add" => 0,
            "update" => 1,
            _ => 2,
        };
        let set = words.need("a set")?.trim_start_matches('@').to_owned();
        self.fields(words, 0)?;
        let timeout = words.take("timeout").then(|| number(words.need("seconds")?)).transpose()?;
        let value = words.take("value").then(|| self.fields(words, 8)).transpose()?;
        self.build("dynset", |w| {
            w.text(1, &set);
            w.be32(2, 0);
            w.be32(3, op);
            w.be32(4, register(0));
            if value.is_some() {
                w.be32(5, register(8));
            }
            if let Some(seconds) = timeout {
                w.be64(6, u64::from(seconds) * 1000);
            }
        });
        Ok(())
    }

    /// `limit RATE burst N`: packets an hour, so that a test's time adds none.
    fn limit(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        words.next();
        let rate = number(words.need("a rate")?)?;
        let burst = if words.take("burst") { number(words.need("a burst")?)? } else { 5 };
        self.build("limit", |w| {
            w.be64(1, u64::from(rate));
            w.be64(2, 3600);
            w.be32(3, burst);
            w.be32(4, 0);
        });
        Ok(())
    }
}

fn nat_flags(words: &mut Words<'_>) -> u32 {
    let mut flags = 0;
    for (word, bit) in [("specified", 2), ("random", 4), ("persistent", 8), ("fully-random", 16)] {
        if words.take(word) {
            flags |= bit;
        }
    }
    flags
}

fn write_ends(w: &mut Writer, attributes: (u16, u16), ends: [Option<usize>; 2]) {
    for (attribute, end) in [attributes.0, attributes.1].into_iter().zip(ends) {
        if let Some(word) = end {
            w.be32(attribute, register(word));
        }
    }
}

/// Writes `NFTA_DATA_VERDICT` of the verdict in the next words.
pub(super) fn write_verdict(w: &mut Writer, words: &mut Words<'_>) -> Result<(), String> {
    let (code, chain) = match words.need("a verdict")? {
        "drop" => (0, None),
        "accept" => (1, None),
        "continue" => (-1, None),
        "jump" => (-3, Some(words.need("a chain")?)),
        "goto" => (-4, Some(words.need("a chain")?)),
        "return" => (-5, None),
        other => return Err(format!("no verdict \"{other}\"")),
    };
    w.nest(2, |w| {
        w.be32(1, code as u32);
        if let Some(chain) = chain {
            w.text(2, chain);
        }
    });
    Ok(())
}

/// What a set is made of, for the rule's own sets.
pub(super) fn type_of(kinds: &[Kind], verdicts: bool) -> SetType {
    SetType { key: kinds.to_vec(), data: Vec::new(), verdicts }
}
