//! Expiration of unfinished uploads (tus 1.0.0, Expiration).

use http::HeaderMap;

use crate::answer::Standing;
use crate::fields::name;

/// Adds `Upload-Expires` while the upload is unfinished.
pub(super) fn tell(fields: &mut HeaderMap, standing: &Standing<'_>) {
    if let (false, Some(deadline)) = (standing.complete, standing.deadline)
        && let Some(at) = crate::date::write(deadline.at)
    {
        fields.insert(name::UPLOAD_EXPIRES, at);
    }
}
