//! Lists, a page at a time.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use protocol::problem::Problem;

use crate::problem::{Failure, own};

/// How many things a list has, unless the request says otherwise.
const LISTED: usize = 100;
/// Most things that a list has.
const MOST_LISTED: usize = 1000;

/// How many things a page is to have.
pub(super) fn limit(asked: Option<usize>) -> Result<usize, Failure> {
    let limit = asked.unwrap_or(LISTED);
    match (1..=MOST_LISTED).contains(&limit) {
        true => Ok(limit),
        false => Err(malformed(format!("A limit is 1 to {MOST_LISTED}."))),
    }
}

/// Cuts what was found with room for one more than `limit` down to it. If it was more, the cursor of the next page, as `cursor` makes it of
/// the last thing that is shown.
pub(super) fn cut<T>(
    found: &mut Vec<T>,
    limit: usize,
    cursor: impl FnOnce(&T) -> String,
) -> Option<String> {
    let more = found.len() > limit;
    found.truncate(limit);
    found.last().filter(|_| more).map(cursor)
}

/// The cursor behind a name.
pub(super) fn cursor(name: &str) -> String {
    URL_SAFE_NO_PAD.encode(name)
}

/// The name that a cursor is behind.
pub(super) fn name(cursor: &str) -> Result<String, Failure> {
    let name = URL_SAFE_NO_PAD.decode(cursor).ok();
    name.and_then(|name| String::from_utf8(name).ok())
        .ok_or_else(no_cursor)
}

pub(super) fn no_cursor() -> Failure {
    malformed("That is no cursor.")
}

/// A request whose query cannot be read; `detail` says why.
pub(super) fn malformed(detail: impl Into<String>) -> Failure {
    Problem::new(own::MALFORMED_REQUEST).detailed(detail).into()
}
