//! Answers about uploads that are parts of another (tus 1.0.0, Concatenation).

use http::{HeaderMap, HeaderValue};

use crate::answer::Standing;
use crate::fields::name;

/// Returns true for a final upload before its parts are joined: it has no offset to report.
pub(super) fn is_unfinished(standing: &Standing<'_>) -> bool {
    let concat = standing.tus.and_then(|echo| echo.concat);
    !standing.complete && concat.is_some_and(|raw| raw.starts_with("final;"))
}

/// Adds `Upload-Concat` as received, which a retrieval must return.
pub(super) fn tell(fields: &mut HeaderMap, standing: &Standing<'_>) {
    // Text that was read from a field can be written as one.
    if let Some(Ok(concat)) = standing
        .tus
        .and_then(|echo| echo.concat)
        .map(HeaderValue::from_str)
    {
        fields.insert(name::UPLOAD_CONCAT, concat);
    }
}
