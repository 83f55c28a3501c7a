//! Sizes and times for people.

use std::time::Duration;

use bytesize::ByteSize;

/// Formats a number of bytes, such as `144.6 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// Formats a past time, such as `0.4 s`, `42 s`, `3 min 20 s`, `2 h 5 min`.
pub(crate) fn seconds(seconds: f64) -> String {
    if seconds < 10.0 {
        return format!("{seconds:.1} s");
    }
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) => elapsed(time),
        Err(_) => "more than a day".to_owned(),
    }
}

/// Formats a past or given time.
pub(crate) fn elapsed(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        seconds @ 10..60 => format!("{seconds} s"),
        seconds @ 60..3600 => both(seconds / 60, "min", seconds % 60, "s"),
        seconds @ 3600..86_400 => both(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        seconds => both(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

fn both(large: u64, unit: &str, small: u64, part: &str) -> String {
    match small {
        0 => format!("{large} {unit}"),
        _ => format!("{large} {unit} {small} {part}"),
    }
}

/// Formats an estimated time, rounded.
pub(crate) fn estimate(time: Duration) -> String {
    match time.as_secs() {
        0..60 => "less than a minute".to_owned(),
        seconds @ 60..5370 => format!("about {} min", (seconds + 30) / 60),
        seconds @ 5370..86_400 => format!("about {} h", (seconds + 1800) / 3600),
        _ => "more than a day".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_exact_as_people_want_them() {
        let check = |millis, expected: &str| {
            assert_eq!(elapsed(Duration::from_millis(millis)), expected);
        };
        check(420, "0.4 s");
        check(42_900, "42 s");
        check(60_000, "1 min");
        check(200_000, "3 min 20 s");
        check(7_500_000, "2 h 5 min");
        check(90_000_000, "1 d 1 h");
        assert_eq!(seconds(0.04), "0.0 s");
        assert_eq!(seconds(12.9), "12 s");
        assert_eq!(seconds(f64::INFINITY), "more than a day");
    }

    #[test]
    fn estimates_are_rounded_and_end_at_a_day() {
        let check = |seconds, expected: &str| {
            assert_eq!(estimate(Duration::from_secs(seconds)), expected);
        };
        check(3, "less than a minute");
        check(89, "about 1 min");
        check(90, "about 2 min");
        check(10_800, "about 3 h");
        check(7_776_000, "more than a day");
        check(u64::MAX, "more than a day");
    }
}
