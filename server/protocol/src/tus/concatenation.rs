//! Answers about uploads that are parts of another (tus 1.0.0, Concatenation).

use http::{HeaderMap, HeaderValue};

use crate::answer::Standing;
use crate::fields::name;

/// A final upload whose parts are not put together yet has no offset to tell.
pub(super) fn is_unfinished(standing: &Standing<'_>) -> bool {
    let concat = standing.tus.and_then(|echo| echo.concat);
    !standing.complete && concat.is_some_and(|raw| raw.starts_with("final;"))
}

/// Tells `Upload-Concat` as it was received, as a retrieval must.
pub(super) fn tell(fields: &mut HeaderMap, standing: &Standing<'_>) {
    // The text was read from a field, so it can be one again.
    if let Some(Ok(concat)) = standing
        .tus
        .and_then(|echo| echo.concat)
        .map(HeaderValue::from_str)
    {
        fields.insert(name::UPLOAD_CONCAT, concat);
    }
}
