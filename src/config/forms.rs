//! The written forms of values, read as the reference reads them: Go's booleans, integers and
//! durations, "sloppy" addresses and CIDRs, `ip:port` pairs, port ranges.
//! They know text and nothing else: no flag, no field. Errors say what is allowed, in words that
//! continue "must be". Tests: below, and `config::tests`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;

/// A duration as Go has it: nanoseconds in 64 bits, possibly negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(
    /// Nanoseconds.
    pub i64,
);

const NANOSECOND: i64 = 1;
const MICROSECOND: i64 = 1_000;
const MILLISECOND: i64 = 1_000_000;
const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

/// As far below zero as 64 bits reach; above it, one nanosecond less.
const LONGEST: i128 = 1 << 63;

const DURATION: &str = "a duration such as 30s, 1h2m3.5s or 250ms (units ns, us, ms, s, m, h)";
const DURATION_RANGE: &str = "a duration of at most 2562047h47m16.854775807s";

impl GoDuration {
    /// Whole seconds.
    pub const fn seconds(seconds: i64) -> GoDuration {
        GoDuration(seconds * SECOND)
    }

    /// Whole milliseconds.
    pub const fn milliseconds(milliseconds: i64) -> GoDuration {
        GoDuration(milliseconds * MILLISECOND)
    }

    /// The same as `std` has it; `None` if it is negative.
    pub fn to_std(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }

    /// Reads Go's form: a sign, then numbers with units; a bare `0` too.
    pub fn parse(text: &str) -> Result<GoDuration, &'static str> {
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(GoDuration(0));
        }
        if rest.is_empty() {
            return Err(DURATION);
        }
        let mut sum: i128 = 0;
        while !rest.is_empty() {
            let (part, tail) = duration_part(rest)?;
            sum = sum.checked_add(part).filter(|s| *s <= LONGEST).ok_or(DURATION_RANGE)?;
            rest = tail;
        }
        let signed = if negative { -sum } else { sum };
        i64::try_from(signed).map(GoDuration).map_err(|_| DURATION_RANGE)
    }
}

/// One number with its unit, in nanoseconds, and the text after it.
fn duration_part(text: &str) -> Result<(i128, &str), &'static str> {
    let number = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(DURATION)?;
    let (digits, rest) = text.split_at(number);
    let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
    let (unit, tail) = rest.split_at(unit_end);
    let unit = match unit {
        "ns" => NANOSECOND,
        "us" | "\u{b5}s" | "\u{3bc}s" => MICROSECOND,
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        _ => return Err(DURATION),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(DURATION);
    }
    let whole: i128 =
        if whole.is_empty() { 0 } else { whole.parse().map_err(|_| DURATION_RANGE)? };
    let nanos = whole.checked_mul(i128::from(unit)).ok_or(DURATION_RANGE)?;
    nanos.checked_add(fraction_of(fraction, unit)).ok_or(DURATION_RANGE).map(|n| (n, tail))
}

/// The decimals after the point, of a unit. Digits beyond the eighteenth are below a nanosecond.
fn fraction_of(digits: &str, unit: i64) -> i128 {
    let mut value: i128 = 0;
    let mut scale: i128 = 1;
    for digit in digits.bytes().take(18) {
        value = value * 10 + i128::from(digit - b'0');
        scale *= 10;
    }
    value * i128::from(unit) / scale
}

impl fmt::Display for GoDuration {
    /// As Go prints it: `15m0s`, `1h0m0s`, `250ms`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let second = SECOND.unsigned_abs();
        match nanos {
            0 => f.write_str("0s"),
            n if n < 1_000 => write!(f, "{n}ns"),
            n if n < 1_000_000 => write!(f, "{}\u{b5}s", decimal(n, 1_000)),
            n if n < second => write!(f, "{}ms", decimal(n, 1_000_000)),
            n => {
                let (hours, minutes) = (n / (3600 * second), n / (60 * second) % 60);
                if hours > 0 {
                    write!(f, "{hours}h")?;
                }
                if hours > 0 || minutes > 0 {
                    write!(f, "{minutes}m")?;
                }
                write!(f, "{}s", decimal(n % (60 * second), second))
            }
        }
    }
}

/// `value / scale` with as many decimals as it has.
fn decimal(value: u64, scale: u64) -> String {
    let (whole, rest) = (value / scale, value % scale);
    if rest == 0 {
        return whole.to_string();
    }
    let width = scale.ilog10() as usize;
    format!("{whole}.{}", format!("{rest:0width$}").trim_end_matches('0'))
}

/// Go's `strconv.ParseBool`.
pub fn boolean(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("true or false (also 1, 0, t, f)"),
    }
}

/// Go's `strconv.ParseInt(text, 0, 32)`: decimal, `0x`, `0o`, `0b`, and octal after a leading 0.
pub fn int32(text: &str) -> Result<i32, &'static str> {
    const ALLOWED: &str = "a whole number from -2147483648 to 2147483647";
    let (sign, digits) = match text.as_bytes().first() {
        Some(b'-') => (-1, &text[1..]),
        Some(b'+') => (1, &text[1..]),
        _ => (1, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(ALLOWED);
    }
    let value = i64::from_str_radix(digits, radix).map_err(|_| ALLOWED)?;
    i32::try_from(value * sign).map_err(|_| ALLOWED)
}

/// A finite 32-bit float.
pub fn float32(text: &str) -> Result<f32, &'static str> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err("a number such as 5 or 0.5"),
    }
}

/// An IP address; leading zeros in IPv4 are decimal, as Go's `ParseIPSloppy` has it
/// (<https://issues.k8s.io/100895>), and an IPv4-mapped IPv6 address is the IPv4 one.
pub fn address(text: &str) -> Result<IpAddr, &'static str> {
    if let Ok(v6) = text.parse::<Ipv6Addr>() {
        return Ok(IpAddr::V6(v6).to_canonical());
    }
    sloppy_v4(text).map(IpAddr::V4).ok_or("an IP address such as 192.0.2.1 or 2001:db8::1")
}

fn sloppy_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse().ok()?;
    }
    parts.next().is_none().then(|| octets.into())
}

/// A CIDR, with its host bits cleared.
pub fn cidr(text: &str) -> Result<IpNet, &'static str> {
    const ALLOWED: &str = "a CIDR such as 10.100.0.0/16 or fde4:8dba:82e1::/48";
    let (ip, length) = text.split_once('/').ok_or(ALLOWED)?;
    if length.is_empty() || !length.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ALLOWED);
    }
    let ip = match ip.parse::<Ipv6Addr>() {
        Ok(v6) => IpAddr::V6(v6),
        Err(_) => sloppy_v4(ip).map(IpAddr::V4).ok_or(ALLOWED)?,
    };
    let length = length.parse().map_err(|_| ALLOWED)?;
    IpNet::new(ip, length).map(|net| net.trunc()).map_err(|_| ALLOWED)
}

/// `ip:port`, `[ip]:port`, or an address alone, which takes `default_port`.
pub fn socket(text: &str, default_port: u16) -> Result<SocketAddr, &'static str> {
    const ALLOWED: &str = "an IP address with a port from 1 to 65535, such as 0.0.0.0:10256 or [::]:10256, or an IP address alone";
    if let Ok(ip) = address(text) {
        return Ok(SocketAddr::new(ip, default_port));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once("]:").ok_or(ALLOWED)?,
        None => text.split_once(':').ok_or(ALLOWED)?,
    };
    let ip = address(host).map_err(|_| ALLOWED)?;
    let is_number = port.bytes().all(|b| b.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(port) if port > 0 && is_number => Ok(SocketAddr::new(ip, port)),
        _ => Err(ALLOWED),
    }
}

/// The address of an API server: a URL of http or https, or a host alone, with a port or without.
pub fn server(text: &str) -> Result<(), &'static str> {
    const ALLOWED: &str = "the address of an API server, such as https://HOST:PORT";
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let (host, port) = match place.strip_prefix('[').and_then(|six| six.split_once(']')) {
        Some((six, port)) if six.parse::<Ipv6Addr>().is_ok() => ("six", port),
        Some(_) => return Err(ALLOWED),
        None => place.split_at(place.find(':').unwrap_or(place.len())),
    };
    let number =
        |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let port = port.strip_prefix(':').map_or(port.is_empty(), number);
    let letters = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let good = matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https")
        && !host.is_empty()
        && host.bytes().all(letters)
        && port
        && text.bytes().all(|b| b.is_ascii_graphic());
    if good { Ok(()) } else { Err(ALLOWED) }
}

/// `begin-end`, one port, or `begin+offset`; 0, `0-0` and nothing at all mean any free port.
pub fn port_range(text: &str) -> Result<Option<RangeInclusive<u16>>, &'static str> {
    const ALLOWED: &str =
        "a port range: begin-end, one port, or begin+offset, with ports from 0 to 65535";
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let port = |text: &str| text.trim().parse::<u16>().map_err(|_| ALLOWED);
    let (first, last) = if let Some((first, last)) = text.split_once('-') {
        (port(first)?, port(last)?)
    } else if let Some((first, offset)) = text.split_once('+') {
        let first = port(first)?;
        // An offset beyond the last port stops there (apimachinery `port_range.go`).
        (first, first.saturating_add(port(offset)?))
    } else {
        (port(text)?, port(text)?)
    };
    match (first, last) {
        (0, 0) => Ok(None),
        (first, last) if first <= last => Ok(Some(first..=last)),
        _ => Err(ALLOWED),
    }
}

/// A size as Kubernetes writes quantities: `0`, `512Ki`, `1M`.
pub fn quantity(text: &str) -> Result<(), &'static str> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let known = ["", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if number.parse::<f64>().is_ok() && known.contains(&suffix) {
        return Ok(());
    }
    Err("a size such as 0, 512Ki or 1M")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_print_as_in_go() {
        for (text, nanos, printed) in [
            ("0", 0, "0s"),
            ("30s", 30 * SECOND, "30s"),
            ("1h2m3.5s", HOUR + 2 * MINUTE + 3_500 * MILLISECOND, "1h2m3.5s"),
            ("250ms", 250 * MILLISECOND, "250ms"),
            ("1us2ns", 1_002, "1.002\u{b5}s"),
            ("1\u{b5}s", 1_000, "1\u{b5}s"),
            (".5m", 30 * SECOND, "30s"),
            ("2.h", 2 * HOUR, "2h0m0s"),
            ("-1.5h", -90 * MINUTE, "-1h30m0s"),
            ("+5s", 5 * SECOND, "5s"),
            ("9223372036854775807ns", i64::MAX, "2562047h47m16.854775807s"),
            ("-9223372036854775808ns", i64::MIN, "-2562047h47m16.854775808s"),
            ("-0", 0, "0s"),
        ] {
            assert_eq!(GoDuration::parse(text), Ok(GoDuration(nanos)), "{text}");
            assert_eq!(GoDuration(nanos).to_string(), printed, "{text}");
        }
    }

    #[test]
    fn malformed_durations_are_refused() {
        for text in
            ["", "-", "3", "s", ".s", "1d", "1.2.3s", "1 s", " 1s", "1s ", "1S", "--1s", "1sm"]
        {
            assert_eq!(GoDuration::parse(text), Err(DURATION), "{text:?}");
        }
        for text in
            ["9223372036854775808ns", "99999999999999999999h", "2562047h48m", "9223372036.9s"]
        {
            assert_eq!(GoDuration::parse(text), Err(DURATION_RANGE), "{text:?}");
        }
    }

    #[test]
    fn integers_read_as_in_go() {
        for (text, value) in [
            ("0", 0),
            ("14", 14),
            ("-999", -999),
            ("0x4000", 16384),
            ("010", 8),
            ("0b11", 3),
            ("+7", 7),
            ("0o17", 15),
        ] {
            assert_eq!(int32(text), Ok(value), "{text}");
        }
        for text in ["", "-", "1.5", "2147483648", "0x", "08", "ten", "1 ", "--1", "+-1", "0x-1"] {
            assert!(int32(text).is_err(), "{text:?}");
        }
        assert_eq!(int32("-2147483648"), Ok(i32::MIN));
    }

    #[test]
    fn addresses_are_sloppy_but_not_careless() {
        assert_eq!(address("010.000.000.001"), Ok("10.0.0.1".parse().unwrap()));
        assert_eq!(address("::ffff:10.0.0.1"), Ok("10.0.0.1".parse().unwrap()));
        assert_eq!(address("::"), Ok("::".parse().unwrap()));
        for text in
            ["", "10.0.0", "10.0.0.1.2", "256.0.0.1", "10.0.0.+1", "[::]", "host", "fe80::1%eth0"]
        {
            assert!(address(text).is_err(), "{text:?}");
        }
        assert_eq!(cidr("10.1.2.3/16"), Ok("10.1.0.0/16".parse().unwrap()));
        for text in [
            "10.0.0.0",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/",
            " 10.0.0.0/8",
        ] {
            assert!(cidr(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sockets_take_all_forms() {
        for (text, socket_text) in [
            ("0.0.0.0:10256", "0.0.0.0:10256"),
            ("[::]:10256", "[::]:10256"),
            ("[::1]:1", "[::1]:1"),
            ("127.0.0.1", "127.0.0.1:7"),
            ("::", "[::]:7"),
        ] {
            assert_eq!(socket(text, 7), Ok(socket_text.parse().unwrap()), "{text}");
        }
        for text in [
            "",
            "10256",
            ":10256",
            "[::]",
            "::1:x",
            "1.2.3.4:0",
            "1.2.3.4:65536",
            "1.2.3.4:+80",
            "a:80",
            "[::]80",
        ] {
            assert!(socket(text, 7).is_err(), "{text:?}");
        }
    }

    #[test]
    fn servers_are_urls_or_hosts() {
        for text in [
            "https://10.0.0.1:6443",
            "HTTPS://api.example:6443/prefix",
            "http://[fd00::1]:6443",
            "https://[fd00::1]",
            "https://user:p%40ss@api",
            "10.0.0.1:6443",
            "api",
        ] {
            assert_eq!(server(text), Ok(()), "{text}");
        }
        for text in [
            "",
            "https://",
            "ftp://x",
            "https://:6443",
            "https://h:port",
            "https://h:+1",
            "https://h:65536",
            "https://[fd00::g]:1",
            "https://[fd00::1]1",
            "fd00::1",
            "https://a b",
            "https://h/\u{e9}",
            "https://user@",
        ] {
            assert!(server(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn port_ranges_take_all_forms() {
        assert_eq!(port_range("300-2000"), Ok(Some(300..=2000)));
        assert_eq!(port_range("300"), Ok(Some(300..=300)));
        assert_eq!(port_range("300+9"), Ok(Some(300..=309)));
        assert_eq!(port_range("65000+9000"), Ok(Some(65000..=65535)));
        for any in ["", "0", "0-0", " "] {
            assert_eq!(port_range(any), Ok(None), "{any:?}");
        }
        for text in ["9-8", "1-", "-1", "+5", "a-b", "1-2-3", "70000"] {
            assert!(port_range(text).is_err(), "{text:?}");
        }
    }
}
