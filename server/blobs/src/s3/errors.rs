//! Error answers of the server, classified by status and S3 code. No other module reads codes.
//!
//! - [`S3Error::Transient`]: no answer, `5xx`, `429`, and what the protocol says to repeat. Clients
//!   try again.
//! - [`S3Error::Full`]: no room or quota left. Clients are told so.
//! - [`S3Error::Refused`]: all other error answers. They stay until an operator changes a setting,
//!   a permission, the bucket or the server. At the start, the server does not start; later,
//!   clients get a final answer. Either way the log says what to change.
//! - [`S3Error::NoObject`], [`S3Error::NoUpload`] and [`S3Error::Changed`]: results of requests
//!   that ask for them.

use std::error::Error;
use std::io;

use aws_sdk_s3::config::interceptors::InterceptorContext;
use aws_sdk_s3::config::retry::{ClassifyRetry, RetryAction};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use domain::BlobKey;
use domain::blob_store::BlobError;

/// Code with which versitygw refuses for a moment, beside deletions, to write under names that
/// never are directories.
const IS_DIRECTORY: &str = "ExistingObjectIsDirectory";

/// Retry classifier for requests that were refused with [`IS_DIRECTORY`].
#[derive(Debug)]
pub(super) struct RepeatDirectories;

impl ClassifyRetry for RepeatDirectories {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let answer = context
            .response()
            .filter(|answer| !answer.status().is_success());
        let body = answer.and_then(|answer| answer.body().bytes());
        let code = format!("<Code>{IS_DIRECTORY}</Code>");
        let is_said = |body: &[u8]| body.windows(code.len()).any(|part| part == code.as_bytes());
        match body.is_some_and(is_said) {
            true => RetryAction::transient_error(),
            false => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "RepeatDirectories"
    }
}

/// Failure of a request.
#[derive(Debug)]
pub(super) enum S3Error {
    /// There is no such object.
    NoObject,
    /// There is no such multipart upload, or no longer.
    NoUpload,
    /// An object is not the one that the request relies on.
    Changed,
    /// There is no room left.
    Full,
    /// The same request may succeed later.
    Transient(Box<dyn Error + Send + Sync>),
    /// The same request will fail again.
    Refused(Refusal),
    /// Any other failure in this process.
    Other(Box<dyn Error + Send + Sync>),
}

/// Refusal of a server.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Change to make.
    pub(super) advice: &'static str,
    /// Answer of the server.
    pub(super) source: Box<dyn Error + Send + Sync>,
}

pub(super) fn other(error: impl Into<Box<dyn Error + Send + Sync>>) -> S3Error {
    S3Error::Other(error.into())
}

/// Returns the error for an answer that broke off.
pub(super) fn broken_off(error: impl Into<Box<dyn Error + Send + Sync>>) -> S3Error {
    S3Error::Transient(error.into())
}

/// Classifies an error of the SDK.
pub(super) fn classify<E>(error: SdkError<E>) -> S3Error
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let status = error
        .raw_response()
        .map_or(0, |response| response.status().as_u16());
    classify_code(status, error.code().unwrap_or_default(), said(&error))
}

/// Classifies a status (0 for no answer) and a code.
pub(super) fn classify_code(
    status: u16,
    code: &str,
    source: Box<dyn Error + Send + Sync>,
) -> S3Error {
    let is_quota = code.contains("Quota") || code.contains("StorageFull");
    match (status, code) {
        (_, "NoSuchUpload") => S3Error::NoUpload,
        (_, "NoSuchKey" | "NotFound") => S3Error::NoObject,
        (412, _) | (_, "PreconditionFailed" | "ConditionalRequestConflict") => S3Error::Changed,
        (507, _) | (_, "InsufficientStorage" | "StorageLimitExceeded") => S3Error::Full,
        _ if is_quota => S3Error::Full,
        (404, code) if code != "NoSuchBucket" => S3Error::NoObject,
        _ if is_transient(status, code) => S3Error::Transient(source),
        _ => S3Error::Refused(Refusal {
            advice: advice(status, code),
            source,
        }),
    }
}

/// Returns `true` if the same request may be answered otherwise later. The code matters for errors
/// in a `200`.
fn is_transient(status: u16, code: &str) -> bool {
    match code {
        // Faults of the server, and the few refusals that the protocol says to repeat. Bodies that
        // were corrupted on their way are sent again.
        "InternalError"
        | "ServiceUnavailable"
        | "SlowDown"
        | "Throttling"
        | "RequestTimeout"
        | "OperationAborted"
        | IS_DIRECTORY
        | "BadDigest"
        | "XAmzContentSHA256Mismatch"
        | "IncompleteBody" => true,
        "" if status < 300 => true,
        _ => matches!(status, 0 | 408 | 425 | 429 | 500 | 502..),
    }
}

/// Returns the change to make after a refusal.
fn advice(status: u16, code: &str) -> &'static str {
    match (status, code) {
        (_, "NoSuchBucket") => {
            "the bucket does not exist; create it, or correct blobs.bucket and blobs.endpoint"
        }
        (_, "InvalidBucketName") => {
            "no bucket can have this name; correct blobs.bucket, for example \"longhaul\""
        }
        (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidSecurity") => {
            "the server does not accept the credentials; correct blobs.access_key_id and blobs.secret_access_key, or where they come from"
        }
        (_, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => {
            "the credentials have expired; renew them where they come from (AWS_SESSION_TOKEN, profile or role)"
        }
        (_, "RequestTimeTooSkewed" | "RequestExpired") => {
            "this machine's clock and the server's differ by more than 15 minutes; synchronise them, for example with chrony"
        }
        (300..=399, _)
        | (
            _,
            "PermanentRedirect"
            | "TemporaryRedirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException"
            | "InvalidRegionName"
            | "InvalidRegion",
        ) => {
            "the bucket lies in another region or behind another name; correct blobs.region, for example \"eu-central-1\", and blobs.endpoint"
        }
        (_, "InvalidObjectState" | "InvalidStorageClass") => {
            "an object of the bucket is archived or of a class that cannot be read at once; remove the rule that moves objects to other storage classes"
        }
        (_, "EntityTooSmall" | "EntityTooLarge") => {
            "the server refuses parts of this size; set blobs.part_size to one that it accepts, for example \"16 MiB\""
        }
        (_, "InvalidPart" | "InvalidPartOrder") => {
            "the server has lost a part that it acknowledged; make sure that nothing but this service writes below blobs.prefix or removes parts of multipart uploads there"
        }
        (_, "InvalidDigest" | "InvalidChecksum" | "MissingContentMD5") => {
            "the server requires another checksum; set blobs.checksums to \"md5\""
        }
        (403, _) | (_, "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "NotSignedUp") => {
            "the credentials do not allow this; let them list, read, write and delete objects and multipart uploads in the bucket"
        }
        (401, _) => {
            "the server requires other credentials; correct blobs.access_key_id and blobs.secret_access_key, or where they come from"
        }
        (405 | 501, _) | (_, "NotImplemented" | "MethodNotAllowed") => {
            "the server lacks this operation; make sure that blobs.endpoint is the URL of its S3 API and that blobs.path_style is as it needs, or use an S3 server that is known to work"
        }
        _ => {
            "the server rejects the request; read its answer below, and correct the settings under [blobs]"
        }
    }
}

/// Returns an error in one line, with its sources, which have the SDK's details.
fn said<E: Error + 'static>(error: &SdkError<E>) -> Box<dyn Error + Send + Sync> {
    DisplayErrorContext(error).to_string().into()
}

/// Returns the error for an attempt to `verb` a blob. An object that is not found is not always the
/// blob, so the caller decides on [`BlobError::Missing`].
pub(super) fn failed(key: &BlobKey, verb: &str, error: S3Error) -> BlobError {
    failed_to(&format!("{verb} blob {key}"), error)
}

/// Returns the error for an attempt; `doing` completes the sentence "failed to …".
pub(super) fn failed_to(doing: &str, error: S3Error) -> BlobError {
    let doing = doing.to_owned();
    let source = match error {
        S3Error::Full => return BlobError::Full,
        S3Error::Transient(source) => return BlobError::Unreachable { doing, source },
        S3Error::Refused(Refusal { advice, source }) => {
            return BlobError::Refused {
                doing,
                advice: advice.to_owned(),
                source,
            };
        }
        S3Error::NoObject => Box::new(io::Error::other("an object is missing")),
        S3Error::NoUpload | S3Error::Changed => {
            Box::new(io::Error::other("another writer has changed it"))
        }
        S3Error::Other(source) => source,
    };
    BlobError::Failed { doing, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: u16, code: &str) -> String {
        match classify_code(status, code, "said so".into()) {
            S3Error::Refused(refusal) => refusal.advice.to_owned(),
            S3Error::Transient(_) => "passes".to_owned(),
            error => format!("{error:?}"),
        }
    }

    #[test]
    fn what_passes_is_told_from_what_stays() {
        for (status, code) in [
            (0, ""),
            (500, "InternalError"),
            (502, ""),
            (503, "SlowDown"),
            (503, ""),
            (429, "TooManyRequests"),
            (400, "RequestTimeout"),
            (200, "InternalError"),
            (200, ""),
            (409, "OperationAborted"),
            (409, "ExistingObjectIsDirectory"),
            (400, "BadDigest"),
        ] {
            assert_eq!(kind(status, code), "passes", "{status} {code}");
        }
        for (status, code, advice) in [
            (404, "NoSuchBucket", "blobs.bucket"),
            (400, "InvalidBucketName", "blobs.bucket"),
            (403, "AccessDenied", "credentials do not allow"),
            (403, "", "credentials do not allow"),
            (403, "SignatureDoesNotMatch", "blobs.secret_access_key"),
            (403, "InvalidAccessKeyId", "blobs.access_key_id"),
            (403, "RequestTimeTooSkewed", "clock"),
            (400, "ExpiredToken", "AWS_SESSION_TOKEN"),
            (301, "PermanentRedirect", "blobs.region"),
            (301, "", "blobs.region"),
            (400, "AuthorizationHeaderMalformed", "blobs.region"),
            (405, "MethodNotAllowed", "blobs.endpoint"),
            (501, "NotImplemented", "blobs.endpoint"),
            (400, "InvalidArgument", "[blobs]"),
            (200, "AccessDenied", "credentials do not allow"),
            (400, "EntityTooSmall", "blobs.part_size"),
            (403, "InvalidObjectState", "storage classes"),
        ] {
            assert!(kind(status, code).contains(advice), "{status} {code}");
        }
    }

    #[test]
    fn no_room_is_said_in_many_ways() {
        for (status, code) in [
            (507, ""),
            (507, "XMinioStorageFull"),
            (403, "QuotaExceeded"),
            (400, "XMinioAdminBucketQuotaExceeded"),
            (403, "BucketQuotaExceeded"),
            (400, "StorageLimitExceeded"),
        ] {
            assert_eq!(kind(status, code), "Full", "{status} {code}");
        }
    }

    #[test]
    fn findings_are_no_failures() {
        for (status, code, found) in [
            (404, "NoSuchKey", "NoObject"),
            (404, "", "NoObject"),
            (404, "ObjectNotFound", "NoObject"),
            (404, "NoSuchUpload", "NoUpload"),
            (412, "PreconditionFailed", "Changed"),
            (409, "ConditionalRequestConflict", "Changed"),
        ] {
            assert_eq!(kind(status, code), found, "{status} {code}");
        }
    }
}
