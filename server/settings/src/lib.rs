//! Types of settings: how a time, a size, a path and a network are written in a configuration.
//!
//! Each names the `format` of its text in the JSON Schema of a section. The program takes from that
//! schema the help, the check of units and the examples in messages.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserializer, Serialize as _, Serializer};

/// Time such as `500ms`, `30s` or `14days`, for `#[serde(with = "settings::Time")]` on a
/// [`Duration`].
#[derive(Debug, JsonSchema)]
#[schemars(with = "String", inline, extend("format" = "time"))]
pub struct Time;

/// Size such as `64 KiB`, for `#[schemars(with = "settings::Size")]`.
#[derive(Debug, JsonSchema)]
#[schemars(with = "String", inline, extend("format" = "size"))]
pub struct Size;

/// Path of a file or directory, for `#[schemars(with = "settings::Path")]`.
#[derive(Debug, JsonSchema)]
#[schemars(with = "String", inline, extend("format" = "path"))]
pub struct Path;

/// IP address or network such as `10.1.0.0/16`, for `#[schemars(with = "Vec<settings::Network>")]`.
#[derive(Debug, JsonSchema)]
#[schemars(with = "String", inline, extend("format" = "network"))]
pub struct Network;

impl Time {
    /// Writes a time as [`Time::text`].
    ///
    /// # Errors
    ///
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        Self::text(*time).serialize(serializer)
    }

    /// Reads a time such as `1h 30m`.
    ///
    /// # Errors
    ///
    /// Text that is not a number with a unit, and those of the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        humantime_serde::deserialize(deserializer)
    }

    /// Writes a time in the largest unit that gives a whole number, days at most: the months of
    /// `humantime` have 30.44 days.
    pub fn text(time: Duration) -> String {
        let nanos = time.as_nanos();
        let units = [
            ("days", Duration::from_hours(24)),
            ("h", Duration::from_hours(1)),
            ("m", Duration::from_mins(1)),
            ("s", Duration::from_secs(1)),
            ("ms", Duration::from_millis(1)),
            ("us", Duration::from_micros(1)),
        ];
        for (unit, length) in units {
            let count = nanos / length.as_nanos();
            if count > 0 && nanos.is_multiple_of(length.as_nanos()) {
                let unit = if (unit, count) == ("days", 1) {
                    "day"
                } else {
                    unit
                };
                return format!("{count}{unit}");
            }
        }
        match nanos {
            0 => "0s".to_owned(),
            nanos => format!("{nanos}ns"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_in_round_units_and_read_back() {
        for (length, text) in [
            (Duration::from_hours(90 * 24), "90days"),
            (Duration::from_hours(24), "1day"),
            (Duration::from_hours(36), "36h"),
            (Duration::from_mins(90), "90m"),
            (Duration::from_secs(75), "75s"),
            (Duration::from_millis(1500), "1500ms"),
            (Duration::ZERO, "0s"),
            (Duration::from_nanos(1), "1ns"),
        ] {
            assert_eq!(Time::text(length), text);
            assert_eq!(humantime::parse_duration(text).unwrap(), length);
        }
    }
}
