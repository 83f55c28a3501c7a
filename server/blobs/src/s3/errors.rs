//! What an answer that is an error means: the one place where codes of S3 are told apart.
//!
//! - *Passing* ([`S3Error::Transient`]): no answer, `5xx`, `429`, and what the protocol says to repeat. Clients come again.
//! - *Full* ([`S3Error::Full`]): no room or no quota left. Clients are told so.
//! - *Refused* ([`S3Error::Refused`]): all other answers that are errors. They stay so until somebody changes a setting, a permission,
//!   the bucket or the server: at the start it is not started, later clients get an answer that is final; either way the log says what
//!   to change.
//! - What a conditional request finds out ([`S3Error::NoObject`], [`S3Error::NoUpload`], [`S3Error::Changed`]) is no failure at all to
//!   whoever asked.

use std::error::Error;
use std::io;

use aws_sdk_s3::config::interceptors::InterceptorContext;
use aws_sdk_s3::config::retry::{ClassifyRetry, RetryAction};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use domain::BlobKey;
use domain::blob_store::BlobError;

/// The code by which versitygw refuses for a moment, beside deletions, to write under names that never
/// are directories.
const IS_DIRECTORY: &str = "ExistingObjectIsDirectory";

/// Makes the SDK repeat a request that was refused with [`IS_DIRECTORY`], as it repeats others whose
/// failure passes.
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

/// Why the server did not do it.
#[derive(Debug)]
pub(super) enum S3Error {
    /// There is no such object.
    NoObject,
    /// There is no such multipart upload, or not any more.
    NoUpload,
    /// An object is not what the request relies on.
    Changed,
    /// There is no room left.
    Full,
    /// It may be done when it is asked for again.
    Transient(Box<dyn Error + Send + Sync>),
    /// It will not be done, however often it is asked for.
    Refused(Refusal),
    /// Anything else that went wrong, here.
    Other(Box<dyn Error + Send + Sync>),
}

/// A server's refusal.
#[derive(Debug)]
pub(super) struct Refusal {
    /// What to change.
    pub(super) advice: &'static str,
    /// What the server said.
    pub(super) source: Box<dyn Error + Send + Sync>,
}

pub(super) fn other(error: impl Into<Box<dyn Error + Send + Sync>>) -> S3Error {
    S3Error::Other(error.into())
}

/// An answer broke off.
pub(super) fn broken_off(error: impl Into<Box<dyn Error + Send + Sync>>) -> S3Error {
    S3Error::Transient(error.into())
}

/// What an error of the SDK means.
pub(super) fn classify<E>(error: SdkError<E>) -> S3Error
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let status = error
        .raw_response()
        .map_or(0, |response| response.status().as_u16());
    classify_code(status, error.code().unwrap_or_default(), said(&error))
}

/// What a status and a code mean; 0 stands for no answer.
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

/// Whether the same request may be answered otherwise later. A `200` can carry an error, which its code tells.
fn is_transient(status: u16, code: &str) -> bool {
    match code {
        // The server's own faults, and the few refusals that the protocol says to repeat. What was spoilt on its way is sent anew.
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

/// What to change where the server refuses.
fn advice(status: u16, code: &str) -> &'static str {
    match (status, code) {
        (_, "NoSuchBucket") => {
            "there is no such bucket; create it, or correct blobs.bucket and blobs.endpoint"
        }
        (_, "InvalidBucketName") => {
            "no bucket can have that name; correct blobs.bucket, for example \"longhaul\""
        }
        (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidSecurity") => {
            "the server does not accept the credentials; correct blobs.access_key_id and blobs.secret_access_key, or where they come from"
        }
        (_, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => {
            "the credentials are no longer good; renew them where they come from (AWS_SESSION_TOKEN, profile or role)"
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
            "the server takes no parts of this size; set blobs.part_size to what it takes, for example \"16 MiB\""
        }
        (_, "InvalidPart" | "InvalidPartOrder") => {
            "the server does not know a part that it has acknowledged; see that nothing but this service writes to blobs.prefix, and what removes parts of multipart uploads there"
        }
        (_, "InvalidDigest" | "InvalidChecksum" | "MissingContentMD5") => {
            "the server verifies what it is sent in another way; set blobs.checksums to \"md5\""
        }
        (403, _) | (_, "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "NotSignedUp") => {
            "the credentials do not allow this; let them list, read, write and delete objects and multipart uploads in the bucket"
        }
        (401, _) => {
            "the server wants other credentials; correct blobs.access_key_id and blobs.secret_access_key, or where they come from"
        }
        (405 | 501, _) | (_, "NotImplemented" | "MethodNotAllowed") => {
            "the server does not do what it is asked; see that blobs.endpoint is the URL of its S3 API and blobs.path_style what it needs, and which S3 servers are known to work"
        }
        _ => {
            "it takes something in the request for wrong; read what it says below, and correct the settings under [blobs]"
        }
    }
}

/// An error in one line: what the SDK says of its errors is in their sources.
fn said<E: Error + 'static>(error: &SdkError<E>) -> Box<dyn Error + Send + Sync> {
    DisplayErrorContext(error).to_string().into()
}

/// The error of somebody who meant to `verb` a blob. That the blob itself is missing is for the caller to say: not every object that
/// is not found is the blob.
pub(super) fn failed(key: &BlobKey, verb: &str, error: S3Error) -> BlobError {
    failed_to(&format!("{verb} blob {key}"), error)
}

/// The error of somebody who was `doing` something.
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
            Box::new(io::Error::other("somebody else has changed it since"))
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
