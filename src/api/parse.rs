//! The API's textual forms: addresses, CIDRs and timestamps, as the reference reads them.
//!
//! It must never know where in an object a text stood. Tests: below.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// An IP address as Go's `ParseIPSloppy` takes it: octets with leading zeros are decimal.
/// IPv4-mapped IPv6 stays IPv6 here; see `canonical`.
pub(crate) fn address(text: &str) -> Option<IpAddr> {
    if !text.contains(':') {
        return address_v4(text).map(IpAddr::V4);
    }
    if !text.contains('.') {
        return text.parse().ok().map(IpAddr::V6);
    }
    // The IPv4 tail of an IPv6 address may have leading zeros too.
    let (head, tail) = text.rsplit_once(':')?;
    let [a, b, c, d] = address_v4(tail)?.octets();
    let whole = format!("{head}:{:x}:{:x}", u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    whole.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

fn address_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = decimal(parts.next()?, 255)? as u8;
    }
    parts.next().is_none().then(|| octets.into())
}

/// Decimal digits only, at most `max`.
fn decimal(text: &str, max: u32) -> Option<u32> {
    if text.is_empty() || text.len() > 8 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|n| *n <= max)
}

/// IPv4-mapped IPv6 as the IPv4 address that Go's `net.IP` takes it for.
pub(crate) fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// A CIDR as Go's `ParseCIDRSloppy` takes it, with its host bits cleared.
pub(crate) fn cidr(text: &str) -> Option<IpNet> {
    let (address_text, length) = text.split_once('/')?;
    let address = address(address_text)?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let length = decimal(length, bits)? as u8;
    let mapped = canonical(address);
    if address != mapped && length >= 96 {
        return IpNet::new(mapped, length - 96).ok().map(|net| net.trunc());
    }
    IpNet::new(address, length).ok().map(|net| net.trunc())
}

/// An RFC 3339 timestamp as seconds since 1970 and nanoseconds.
pub(crate) fn timestamp(text: &str) -> Option<(i64, u32)> {
    let (date, rest) = text.split_at_checked(10)?;
    let days = day_number(date)?;
    let rest = rest.strip_prefix(['T', 't'])?;
    let (time, rest) = rest.split_at_checked(8)?;
    let seconds = second_of_day(time)?;
    let (nanos, zone) = fraction(rest)?;
    Some((days * 86_400 + seconds - offset(zone)?, nanos))
}

/// An RFC 3339 timestamp as nanoseconds since 1970.
pub(crate) fn timestamp_nanos(text: &str) -> Option<i64> {
    let (seconds, nanos) = timestamp(text)?;
    seconds.checked_mul(1_000_000_000)?.checked_add(i64::from(nanos))
}

/// A time since 1970 as the API's MicroTime.
#[cfg(feature = "api-server")]
pub(crate) fn rfc3339_micros(since_1970: std::time::Duration) -> String {
    let (seconds, micros) = (since_1970.as_secs(), since_1970.subsec_micros());
    let (mut days, second) = (seconds / 86_400, seconds % 86_400);
    let mut year = 1970;
    while days >= days_in_year(year) {
        days -= days_in_year(year);
        year += 1;
    }
    let mut month = 0;
    let lengths = month_lengths(year);
    while days >= u64::from(lengths[month]) {
        days -= u64::from(lengths[month]);
        month += 1;
    }
    let (month, day) = (month + 1, days + 1);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

#[cfg(feature = "api-server")]
fn days_in_year(year: u32) -> u64 {
    month_lengths(year).iter().map(|days| u64::from(*days)).sum()
}

fn month_lengths(year: u32) -> [u32; 12] {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
}

fn numbers<const N: usize>(text: &str, separator: char) -> Option<[u32; N]> {
    let mut out = [0; N];
    let mut parts = text.split(separator);
    for number in &mut out {
        *number = decimal(parts.next()?, 9999)?;
    }
    parts.next().is_none().then_some(out)
}

/// Days from 1970-01-01 to `YYYY-MM-DD`, in the Gregorian calendar.
fn day_number(date: &str) -> Option<i64> {
    let [year, month, day] = numbers::<3>(date, '-')?;
    let lengths = month_lengths(year);
    let month_index = usize::try_from(month).ok()?.checked_sub(1)?;
    let in_month = *lengths.get(month_index)?;
    if day == 0 || day > in_month {
        return None;
    }
    let before: u32 = lengths[..month_index].iter().sum();
    Some(days_before_year(i64::from(year)) + i64::from(before + day - 1) - days_before_year(1970))
}

/// Days from the first day of year 0 to the first day of `year`.
fn days_before_year(year: i64) -> i64 {
    let past = year - 1;
    year * 365 + past.div_euclid(4) - past.div_euclid(100) + past.div_euclid(400)
}

fn second_of_day(time: &str) -> Option<i64> {
    let [hours, minutes, seconds] = numbers::<3>(time, ':')?;
    let valid = hours < 24 && minutes < 60 && seconds < 60;
    valid.then(|| i64::from(hours * 3600 + minutes * 60 + seconds))
}

/// The nanoseconds of `.123…`, and what follows.
fn fraction(text: &str) -> Option<(u32, &str)> {
    let Some(digits) = text.strip_prefix(['.', ',']) else {
        return Some((0, text));
    };
    let end = digits.find(|c: char| !c.is_ascii_digit())?;
    let (digits, zone) = digits.split_at(end);
    if digits.is_empty() {
        return None;
    }
    let nanos = digits.bytes().chain(std::iter::repeat(b'0')).take(9);
    Some((nanos.fold(0, |n, digit| n * 10 + u32::from(digit - b'0')), zone))
}

/// Seconds east of UTC of `Z` or `+hh:mm`.
fn offset(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("Z") {
        return Some(0);
    }
    let sign = if zone.starts_with('+') { 1 } else { -1 };
    let [hours, minutes] = numbers::<2>(zone.strip_prefix(['+', '-'])?, ':')?;
    (hours < 24 && minutes < 60).then(|| sign * i64::from(hours * 3600 + minutes * 60))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_read_sloppily() {
        assert_eq!(address("010.001.0.08"), Some(ip("10.1.0.8")));
        assert_eq!(address("fd00::1"), Some(ip("fd00::1")));
        assert_eq!(address("::ffff:010.0.0.1").map(canonical), Some(ip("10.0.0.1")));
        assert_eq!(address("64:ff9b::192.0.2.1"), Some(ip("64:ff9b::c000:201")));
        let bad = ["", "1.2.3", "1.2.3.4.5", "256.0.0.1", "1.2.3.-4", "+1.2.3.4", "a.b.c.d"];
        let worse =
            [" 1.2.3.4", "1.2.3.4 ", "fe80::1%eth0", ":", ":::", "1:2", "::1.2.3", "١.1.1.1"];
        for text in bad.into_iter().chain(worse) {
            assert_eq!(address(text), None, "{text:?}");
        }
    }

    #[test]
    fn cidrs_lose_their_host_bits() {
        let net = |text: &str| Some(text.parse::<IpNet>().unwrap());
        assert_eq!(cidr("10.1.2.3/8"), net("10.0.0.0/8"));
        assert_eq!(cidr("010.0.0.0/08"), net("10.0.0.0/8"));
        assert_eq!(cidr("fd00::1/64"), net("fd00::/64"));
        assert_eq!(cidr("0.0.0.0/0"), net("0.0.0.0/0"));
        assert_eq!(cidr("::ffff:10.0.0.0/104"), net("10.0.0.0/8"));
        for text in [
            "10.0.0.0",
            "10.0.0.0/33",
            "fd00::/129",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "/8",
            "10.0.0.0/8/8",
        ] {
            assert_eq!(cidr(text), None, "{text:?}");
        }
    }

    #[test]
    fn timestamps_are_rfc_3339() {
        assert_eq!(timestamp("1970-01-01T00:00:00Z"), Some((0, 0)));
        assert_eq!(timestamp("2024-02-29T12:34:56Z"), Some((1_709_210_096, 0)));
        assert_eq!(timestamp("2026-11-22T21:12:26+01:00"), Some((1_795_378_346, 0)));
        assert_eq!(timestamp("2001-09-09T01:46:40.5Z"), Some((1_000_000_000, 500_000_000)));
        assert_eq!(timestamp("1969-12-31T23:59:59Z"), Some((-1, 0)));
        assert_eq!(timestamp("0001-01-01T00:00:00Z"), Some((-62_135_596_800, 0)));
        let bad = ["", "2024-02-30T00:00:00Z", "2023-02-29T00:00:00Z", "2024-13-01T00:00:00Z"];
        let worse = [
            "2024-01-01",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:00:00",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00ZZ",
            "éééééééééééé",
            "2024-01-01T00:00:00+1",
        ];
        for text in bad.into_iter().chain(worse) {
            assert_eq!(timestamp(text), None, "{text:?}");
        }
    }

    #[cfg(feature = "api-server")]
    #[test]
    fn times_are_printed_as_they_are_read() {
        for seconds in
            [0, 951_782_400, 1_709_210_096, 1_795_378_346, 4_102_444_799, 253_402_300_799]
        {
            let text = rfc3339_micros(std::time::Duration::new(seconds, 120_000));
            assert_eq!(timestamp(&text), Some((seconds as i64, 120_000)), "{text}");
        }
    }

    #[test]
    fn trigger_times_are_nanoseconds() {
        assert_eq!(
            timestamp_nanos("2001-09-09T01:46:40.123456789Z"),
            Some(1_000_000_000_123_456_789)
        );
        assert_eq!(timestamp_nanos("9999-01-01T00:00:00Z"), None);
    }
}
