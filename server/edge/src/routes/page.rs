//! Lists, one page at a time.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::extract::query::malformed;
use crate::problem::Failure;

/// Default number of entries of a page.
const LISTED: usize = 100;
/// Maximum number of entries of a page.
const MAX_LISTED: usize = 1000;

/// Reads the number of entries of a page.
pub(super) fn limit(asked: Option<&str>) -> Result<usize, Failure> {
    let Some(asked) = asked else {
        return Ok(LISTED);
    };
    let limit = asked.parse().ok();
    limit
        .filter(|limit| (1..=MAX_LISTED).contains(limit))
        .ok_or_else(|| {
            malformed(format!(
                "limit must be a number from 1 to {MAX_LISTED}, such as limit={LISTED}."
            ))
        })
}

/// Truncates `found`, which was read with a limit of one more than `limit`. If it had more entries
/// than the limit, returns the cursor of the next page, which `cursor` makes from the last entry
/// shown.
pub(super) fn cut<T>(
    found: &mut Vec<T>,
    limit: usize,
    cursor: impl FnOnce(&T) -> String,
) -> Option<String> {
    let more = found.len() > limit;
    found.truncate(limit);
    found.last().filter(|_| more).map(cursor)
}

/// Returns the cursor of the page after a name.
pub(super) fn cursor(name: &str) -> String {
    URL_SAFE_NO_PAD.encode(name)
}

/// Reads the name from a cursor.
pub(super) fn name(cursor: &str) -> Result<String, Failure> {
    let name = URL_SAFE_NO_PAD.decode(cursor).ok();
    name.and_then(|name| String::from_utf8(name).ok())
        .filter(|name| !name.contains(char::is_control))
        .ok_or_else(no_cursor)
}

pub(super) fn no_cursor() -> Failure {
    malformed("Send the cursor of the page before, unchanged; leave it out for the first page.")
}
