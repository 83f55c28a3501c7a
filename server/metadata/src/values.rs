//! Values on their way into statements, the same for every engine.

use std::time::Duration;

/// A limit as a statement takes it.
pub(crate) fn limited(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// A time in whole milliseconds; a longer one than any that is meant is cut, so that moments can be added to it.
pub(crate) fn millis(time: Duration) -> i64 {
    const MOST: u128 = i32::MAX as u128;
    i64::try_from(time.as_millis().min(MOST)).unwrap_or(i64::MAX)
}

/// The number of a version that is looked for. One that no column can hold is none's, as is the greatest that one can.
pub(crate) fn sought(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The paths that begin with a prefix and come after one of them: those from `from` on, and below `end` where there is one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PathRange {
    pub(crate) from: String,
    pub(crate) end: Option<String>,
}

impl PathRange {
    pub(crate) fn new(prefix: &str, after: Option<&str>) -> Self {
        let from = match after {
            // The least path that is greater: none has a control character.
            Some(after) if after >= prefix => format!("{after}\u{1}"),
            Some(_) | None => prefix.to_owned(),
        };
        Self {
            from,
            end: prefix_end(prefix),
        }
    }
}

/// The least text that is greater than all that begin with `prefix`; `None` if there is none.
fn prefix_end(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        // UTF-8 sorts as its code points do. A range of chars steps over the surrogates.
        if let Some(next) = (last..=char::MAX).nth(1) {
            end.push(next);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_text() {
        let check = |prefix, end: Option<&str>| assert_eq!(prefix_end(prefix).as_deref(), end);
        check("", None);
        check("a", Some("b"));
        check("a/", Some("a0"));
        check("é", Some("ê"));
        check("\u{d7ff}", Some("\u{e000}"));
        check("a\u{10ffff}", Some("b"));
        check("\u{10ffff}\u{10ffff}", None);
    }
}
