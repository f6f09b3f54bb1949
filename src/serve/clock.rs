//! Points in time as the reference prints them. Reads no clock. Tests: below.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A time as Go prints one in UTC, such as `2026-11-22 21:26:40.5 +0000 UTC`: the form of the
/// times in `/healthz`. `None` is Go's zero time.
pub(super) fn go_time(time: Option<SystemTime>) -> String {
    let Some(since) = time.and_then(|t| t.duration_since(UNIX_EPOCH).ok()) else {
        return "0001-01-01 00:00:00 +0000 UTC".into();
    };
    let seconds = since.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let fraction = fraction(since);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}{fraction} +0000 UTC")
}

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A time as `date` prints one in UTC, such as `Sun Nov 22 21:26:40 UTC 2026`.
pub(super) fn unix_date(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let week_day = DAYS[(seconds / 86_400 % 7) as usize];
    let month = MONTHS[month as usize - 1];
    format!("{week_day} {month} {day:>2} {hour:02}:{minute:02}:{second:02} UTC {year}")
}

/// The part of a second, without zeros at its end.
fn fraction(since: Duration) -> String {
    match since.subsec_nanos() {
        0 => String::new(),
        nanos => format!(".{nanos:09}").trim_end_matches('0').to_owned(),
    }
}

/// Year, month and day of a number of days since 1970. Years begin in March here, so that the
/// leap day is the last one, and are counted in eras of 400 (146,097 days).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153; // 0 is March
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_print_as_from_date() {
        for (seconds, expected) in
            [(0, "Thu Jan  1 00:00:00 UTC 1970"), (1_795_382_800, "Sun Nov 22 21:26:40 UTC 2026")]
        {
            assert_eq!(unix_date(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn times_print_as_in_go() {
        let cases: &[(u64, u32, &str)] = &[
            (0, 0, "1970-01-01 00:00:00 +0000 UTC"),
            (951_782_400, 0, "2000-02-29 00:00:00 +0000 UTC"),
            (1_709_251_199, 999_999_999, "2024-02-29 23:59:59.999999999 +0000 UTC"),
            (1_709_251_200, 500_000_000, "2024-03-01 00:00:00.5 +0000 UTC"),
            (4_107_542_399, 1_000, "2100-02-28 23:59:59.000001 +0000 UTC"),
            (4_107_542_400, 0, "2100-03-01 00:00:00 +0000 UTC"),
        ];
        for (seconds, nanos, expected) in cases {
            let time = UNIX_EPOCH + Duration::new(*seconds, *nanos);
            assert_eq!(go_time(Some(time)), *expected);
        }
        assert_eq!(go_time(None), "0001-01-01 00:00:00 +0000 UTC");
    }
}
