//! HTTP dates (RFC 9110 §5.6.7): whole seconds.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::fields;

/// Last second of an HTTP date: its year has four digits.
const LAST_SECOND: u64 = 253_402_300_799;

/// Reads a field that is one HTTP date, in any of the three formats.
pub(crate) fn read(fields: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    parse(fields::single(fields, name)?)
}

/// Reads an HTTP date in any of the three formats.
pub fn parse(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text).ok()
}

/// Writes an IMF-fixdate; `None` outside of the years 1970 to 9999, which HTTP dates cannot
/// express.
pub fn write(time: SystemTime) -> Option<HeaderValue> {
    let text = httpdate::fmt_http_date(whole_seconds(time)?);
    Some(HeaderValue::try_from(text).expect("an HTTP date is visible ASCII"))
}

/// Returns the time as an HTTP date preserves it: without the fraction of a second.
pub(crate) fn whole_seconds(time: SystemTime) -> Option<SystemTime> {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .map(|since| since.as_secs())
        .filter(|seconds| *seconds <= LAST_SECOND)?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_keeps_whole_seconds() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_999);
        let written = write(time).unwrap();
        assert_eq!(written, "Sun, 06 Nov 1994 08:49:37 GMT");
        let fields = HeaderMap::from_iter([(http::header::DATE, written)]);
        assert_eq!(read(&fields, &http::header::DATE), whole_seconds(time));
    }

    #[test]
    fn times_that_no_date_can_say_are_not_said() {
        assert_eq!(write(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), None);
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(LAST_SECOND);
        assert_eq!(write(end).unwrap(), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(write(end + Duration::from_secs(1)), None);
    }
}
