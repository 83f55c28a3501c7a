//! Core protocol of tus 1.0.0. Each extension has its own file.

mod concatenation;
mod creation;
mod expiration;

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::answer::{Answer, Standing, Via};
use crate::digest::{self, StatedDigests, checksum};
use crate::fields::{self, name};
use crate::problem::{ProblemType, types};
use crate::rejection::Rejection;
use crate::request::{AppendRequest, CreateRequest};
use crate::upload::{Append, Completion, Limits, Overrun, Repeat};
use crate::{NO_STORE, media_type};

/// Supported version of tus.
pub const VERSION: &str = "1.0.0";

/// Supported extensions.
pub const EXTENSIONS: &str = "creation,creation-with-upload,creation-defer-length,checksum,checksum-trailer,\
                              expiration,termination,concatenation";

/// Greatest length. The specification has no bound; this one is that of SQL and far beyond any
/// disk.
const MAX_LENGTH: u64 = i64::MAX.unsigned_abs();

/// Returns the effective method of a request for an upload resource (`X-HTTP-Method-Override`, Core
/// Protocol).
///
/// `POST` may be overridden by every method, any other method by safe ones only: the specification
/// ignores the actual method altogether, but a link that deletes would be a trap for browsers.
///
/// # Errors
/// [`Rejection::Malformed`] if the field is no method, or one that may not override the actual
/// method.
pub fn method(actual: &Method, fields: &HeaderMap) -> Result<Method, Rejection> {
    if !fields.contains_key(&name::X_HTTP_METHOD_OVERRIDE) {
        return Ok(actual.clone());
    }
    fields::single(fields, &name::X_HTTP_METHOD_OVERRIDE)
        .and_then(|method| Method::from_bytes(method.as_bytes()).ok())
        .filter(|method| actual == Method::POST || method.is_safe() || method == actual)
        .ok_or_else(|| {
            Rejection::malformed(
                "X-HTTP-Method-Override",
                format!("{actual} cannot stand for that method"),
            )
        })
}

pub(crate) fn check_version(fields: &HeaderMap) -> Result<(), Rejection> {
    match fields::single(fields, &name::TUS_RESUMABLE) {
        Some(VERSION) => Ok(()),
        _ => Err(Rejection::TusVersion),
    }
}

/// Checks a retrieval: links and monitors may omit the version, but a stated one must be supported.
pub(crate) fn check_retrieval(fields: &HeaderMap) -> Result<(), Rejection> {
    match fields.contains_key(&name::TUS_RESUMABLE) {
        true => check_version(fields),
        false => Ok(()),
    }
}

pub(crate) fn read_create(
    fields: &HeaderMap,
    body_length: Option<u64>,
) -> Result<CreateRequest, Rejection> {
    check_version(fields)?;
    creation::read(fields, body_length)
}

pub(crate) fn read_append(
    fields: &HeaderMap,
    body_length: Option<u64>,
) -> Result<AppendRequest, Rejection> {
    check_version(fields)?;
    if !media_type::is(fields, media_type::OFFSET_OCTET_STREAM) {
        return Err(Rejection::MediaType {
            expected: media_type::OFFSET_OCTET_STREAM,
        });
    }
    let Some(offset) = number(fields, "Upload-Offset", &name::UPLOAD_OFFSET)? else {
        return Err(Rejection::malformed("Upload-Offset", "is required"));
    };
    Ok(AppendRequest {
        append: Append {
            offset,
            completion: Completion::AtLength,
            length: number(fields, "Upload-Length", &name::UPLOAD_LENGTH)?,
            body_length,
            overrun: Overrun::Discard,
            repeat: Repeat::Answered,
        },
        digests: StatedDigests::read(fields)?,
    })
}

/// Reads an optional field that is a non-negative integer.
fn number(
    fields: &HeaderMap,
    field: &'static str,
    name: &http::HeaderName,
) -> Result<Option<u64>, Rejection> {
    if !fields.contains_key(name) {
        return Ok(None);
    }
    fields::single(fields, name)
        .and_then(fields::digits)
        .filter(|number| *number <= MAX_LENGTH)
        .map(Some)
        .ok_or_else(|| Rejection::malformed(field, "must be one non-negative integer"))
}

pub(crate) fn created(standing: &Standing<'_>) -> Answer {
    let mut fields = standing_fields(standing);
    fields.insert(LOCATION, standing.location.clone());
    Answer {
        status: StatusCode::CREATED,
        fields,
    }
}

pub(crate) fn appended(standing: &Standing<'_>) -> Answer {
    Answer {
        status: StatusCode::NO_CONTENT,
        fields: standing_fields(standing),
    }
}

/// Converts the target's answer to the form of tus: 201 with the upload's URL after a creation, 204
/// after an append.
pub(crate) fn finished(via: Via, standing: &Standing<'_>, target: Answer) -> Answer {
    let mut fields = target.fields;
    for field in [LOCATION, CONTENT_LENGTH] {
        fields.remove(field);
    }
    let own = match via {
        Via::Creation => created(standing),
        Via::Append => {
            fields.remove(CONTENT_TYPE);
            appended(standing)
        }
    };
    for (name, value) in own.fields {
        fields.insert(name.expect("each field comes once"), value);
    }
    Answer {
        status: own.status,
        fields,
    }
}

pub(crate) fn retrieved(standing: &Standing<'_>) -> Answer {
    let mut fields = standing_fields(standing);
    tell_echo(&mut fields, standing);
    Answer {
        status: StatusCode::OK,
        fields,
    }
}

/// Adds the fields of `HEAD` beyond the offset: length, metadata and concatenation.
pub(crate) fn tell_echo(fields: &mut HeaderMap, standing: &Standing<'_>) {
    creation::tell(fields, standing);
    concatenation::tell(fields, standing);
}

pub(crate) fn cancelled() -> Answer {
    Answer {
        status: StatusCode::NO_CONTENT,
        fields: own_fields(),
    }
}

pub(crate) fn rejection_fields(standing: Option<&Standing<'_>>) -> HeaderMap {
    standing.map_or_else(own_fields, standing_fields)
}

pub(crate) fn problem_type(rejection: &Rejection) -> ProblemType {
    match rejection {
        Rejection::Malformed { field, .. } => digest::malformed(field),
        Rejection::MediaType { .. } => types::UNSUPPORTED_MEDIA_TYPE,
        Rejection::Coding { .. } => types::UNSUPPORTED_CODING,
        Rejection::TusVersion => types::TUS_VERSION,
        Rejection::OffsetMismatch { .. } => types::OFFSET_MISMATCH,
        Rejection::OverlapMismatch { .. } => types::OVERLAP_MISMATCH,
        Rejection::InconsistentLength => types::INCONSISTENT_LENGTH,
        Rejection::Completed | Rejection::OverLength { .. } => types::UPLOAD_LENGTH_EXCEEDED,
        Rejection::TooLarge { .. } => types::UPLOAD_TOO_LARGE,
        Rejection::TooSmall { .. } => types::UPLOAD_TOO_SMALL,
        Rejection::AppendTooLarge { .. } => types::APPEND_TOO_LARGE,
        Rejection::AppendTooSmall { .. } => types::APPEND_TOO_SMALL,
        Rejection::FinalUpload => types::FINAL_UPLOAD,
        Rejection::KeyReused => types::KEY_REUSED,
        Rejection::DigestAlgorithm { .. } => types::DIGEST_UNSUPPORTED_ALGORITHMS,
        Rejection::DigestMismatch { .. } => types::CHECKSUM_MISMATCH,
    }
}

/// Returns the fields about tus of an upload target's answer to `OPTIONS`.
pub(crate) fn discovery(limits: &Limits) -> HeaderMap {
    let mut fields = HeaderMap::from_iter([
        (name::TUS_RESUMABLE, HeaderValue::from_static(VERSION)),
        (name::TUS_VERSION, HeaderValue::from_static(VERSION)),
        (name::TUS_EXTENSION, HeaderValue::from_static(EXTENSIONS)),
        (
            name::TUS_CHECKSUM_ALGORITHM,
            HeaderValue::from_static(checksum::ALGORITHMS),
        ),
    ]);
    tell_max_size(&mut fields, limits);
    fields
}

pub(crate) fn tell_max_size(fields: &mut HeaderMap, limits: &Limits) {
    if let Some(limit) = limits.max_size {
        fields.insert(name::TUS_MAX_SIZE, HeaderValue::from(limit));
    }
}

/// Returns the fields of every answer to a tus request.
pub(crate) fn own_fields() -> HeaderMap {
    HeaderMap::from_iter([
        (name::TUS_RESUMABLE, HeaderValue::from_static(VERSION)),
        (CACHE_CONTROL, NO_STORE),
    ])
}

fn standing_fields(standing: &Standing<'_>) -> HeaderMap {
    let mut fields = own_fields();
    if !concatenation::is_unfinished(standing) {
        fields.insert(name::UPLOAD_OFFSET, HeaderValue::from(standing.offset));
    }
    expiration::tell(&mut fields, standing);
    fields
}
