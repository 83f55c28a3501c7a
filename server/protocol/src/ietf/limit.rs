//! `Upload-Limit`: the bounds of an upload as a Dictionary.

use std::time::Duration;

use http::HeaderValue;

use super::dialect::Lifetime;
use crate::fields::MAX_INTEGER;
use crate::upload::Limits;

/// Writes the field's value, with the lifetime under each of the `keys`.
///
/// `min-size` is always present, so that the value is never empty: `min-size=0` states that there
/// are no limits. Bounds beyond the Integers of structured fields are omitted.
pub(super) fn write(limits: &Limits, lifetime: Option<Duration>, keys: &[Lifetime]) -> HeaderValue {
    let seconds = lifetime.map(|lifetime| lifetime.as_secs());
    let lifetimes = keys.iter().map(|key| match key {
        Lifetime::Expires => ("expires", seconds),
        Lifetime::MaxAge => ("max-age", seconds),
    });
    let members: Vec<String> = [
        ("min-size", limits.min_size.or(Some(0))),
        ("max-size", limits.max_size),
        ("min-append-size", limits.min_append_size),
        ("max-append-size", limits.max_append_size),
    ]
    .into_iter()
    .chain(lifetimes)
    .filter_map(|(key, value)| Some((key, value.filter(|value| *value <= MAX_INTEGER)?)))
    .map(|(key, value)| format!("{key}={value}"))
    .collect();
    HeaderValue::try_from(members.join(", ")).expect("keys and digits are visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limits_are_told_as_no_smallest_size() {
        let value = write(&Limits::default(), None, &[Lifetime::MaxAge]);
        assert_eq!(value, "min-size=0");
    }

    #[test]
    fn every_limit_has_its_key() {
        let limits = Limits {
            max_size: Some(100),
            min_size: Some(1),
            max_append_size: Some(50),
            min_append_size: Some(5),
            max_age: None,
        };
        let lifetime = Some(Duration::from_millis(9_999));
        assert_eq!(
            write(&limits, lifetime, &[Lifetime::Expires]),
            "min-size=1, max-size=100, min-append-size=5, max-append-size=50, expires=9"
        );
        assert_eq!(
            write(
                &Limits::default(),
                lifetime,
                &[Lifetime::Expires, Lifetime::MaxAge]
            ),
            "min-size=0, expires=9, max-age=9"
        );
    }

    #[test]
    fn a_bound_that_no_structured_field_can_say_is_not_told() {
        let limits = Limits {
            max_size: Some(u64::MAX),
            ..Limits::default()
        };
        assert_eq!(write(&limits, None, &[]), "min-size=0");
    }
}
