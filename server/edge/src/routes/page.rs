//! Lists, one page at a time.

use axum::extract::{FromRequestParts, Query};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::request::Parts;
use serde::Deserialize;

use crate::extract::query::malformed;
use crate::problem::Failure;

/// Default number of entries of a page.
const LISTED: usize = 100;
/// Maximum number of entries of a page.
const MAX_LISTED: usize = 1000;

/// The part of a list that a request asks for, by its parameters `limit` and `cursor`.
pub(super) struct Page {
    pub(super) limit: usize,
    /// The cursor of the page before; `None` for the first page.
    pub(super) cursor: Option<String>,
}

#[derive(Deserialize)]
struct Parameters {
    limit: Option<String>,
    cursor: Option<String>,
}

impl<S: Sync> FromRequestParts<S> for Page {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let Query(Parameters { limit, cursor }) =
            Query::try_from_uri(&parts.uri).map_err(|error| malformed(error.body_text()))?;
        Ok(Self {
            limit: limit.as_deref().map_or(Ok(LISTED), read_limit)?,
            cursor,
        })
    }
}

fn read_limit(limit: &str) -> Result<usize, Failure> {
    let limit = limit.parse().ok();
    limit
        .filter(|limit| (1..=MAX_LISTED).contains(limit))
        .ok_or_else(|| {
            malformed(format!(
                "limit must be a number from 1 to {MAX_LISTED}, such as limit={LISTED}."
            ))
        })
}

/// Truncates `found`, the result of a search for `limit + 1` entries, to `limit` entries. Returns
/// the cursor of the next page, made by `cursor` from the last entry kept; `None` on the last page.
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
