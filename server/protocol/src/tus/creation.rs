//! Creation, Creation With Upload and the deferred length (tus 1.0.0, Creation).

use http::{HeaderMap, HeaderValue};

use super::number;
use crate::answer::Standing;
use crate::digest::StatedDigests;
use crate::fields::{self, name};
use crate::rejection::Rejection;
use crate::request::{BodyUse, Concat, CreateRequest, Metadata, TusCreation};
use crate::upload::{Completion, Create, Overrun};
use crate::{disposition, media_type};

pub(super) fn read(
    fields: &HeaderMap,
    body_length: Option<u64>,
) -> Result<CreateRequest, Rejection> {
    let tus = TusCreation {
        metadata: Metadata::read(fields)?,
        concat: Concat::read(fields)?,
    };
    let length = length(fields, tus.concat.as_ref())?;
    // A body of another type is not part of the upload, and a final upload's bytes come from its
    // parts.
    let body = match tus.concat {
        Some(Concat::Final { .. }) => BodyUse::Ignored,
        _ if media_type::is(fields, media_type::OFFSET_OCTET_STREAM) => BodyUse::Appended,
        _ => BodyUse::Ignored,
    };
    let (body_length, digests) = match body {
        BodyUse::Appended => (body_length, StatedDigests::read(fields)?),
        BodyUse::Ignored => (Some(0), StatedDigests::read_representation(fields)?),
    };
    let metadata = tus.metadata.as_ref();
    Ok(CreateRequest {
        create: Create {
            completion: Completion::AtLength,
            length,
            body_length,
            overrun: Overrun::Discard,
        },
        body,
        digests,
        media_type: metadata.and_then(Metadata::media_type),
        file_name: disposition::file_name(fields).or_else(|| metadata?.file_name()),
        tus: Some(tus),
    })
}

/// Reads the declared length: exactly one of `Upload-Length` and `Upload-Defer-Length: 1`, neither
/// for a final upload.
fn length(fields: &HeaderMap, concat: Option<&Concat>) -> Result<Option<u64>, Rejection> {
    let declared = number(fields, "Upload-Length", &name::UPLOAD_LENGTH)?;
    let deferred = match fields::single(fields, &name::UPLOAD_DEFER_LENGTH) {
        Some("1") => true,
        None if !fields.contains_key(&name::UPLOAD_DEFER_LENGTH) => false,
        _ => {
            return Err(Rejection::malformed(
                "Upload-Defer-Length",
                "its only value is 1",
            ));
        }
    };
    match (declared, deferred, concat) {
        (None, false, Some(Concat::Final { .. })) => Ok(None),
        (Some(_), _, Some(Concat::Final { .. })) => Err(Rejection::malformed(
            "Upload-Length",
            "the length of a final upload is that of its parts",
        )),
        (_, true, Some(Concat::Final { .. })) => Err(Rejection::malformed(
            "Upload-Defer-Length",
            "the length of a final upload is that of its parts",
        )),
        (Some(_), true, _) => Err(Rejection::malformed(
            "Upload-Defer-Length",
            "Upload-Length already tells the length",
        )),
        (None, false, _) => Err(Rejection::malformed(
            "Upload-Length",
            "is required, or else Upload-Defer-Length",
        )),
        (length, _, _) => Ok(length),
    }
}

/// Adds length and metadata, which a retrieval must return.
pub(super) fn tell(fields: &mut HeaderMap, standing: &Standing<'_>) {
    match standing.length {
        Some(length) => fields.insert(name::UPLOAD_LENGTH, HeaderValue::from(length)),
        None => fields.insert(name::UPLOAD_DEFER_LENGTH, HeaderValue::from_static("1")),
    };
    // Text that was read from a field can be written as one.
    if let Some(Ok(metadata)) = standing
        .tus
        .and_then(|echo| echo.metadata)
        .map(HeaderValue::from_str)
    {
        fields.insert(name::UPLOAD_METADATA, metadata);
    }
}
