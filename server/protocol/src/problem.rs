//! Problem details (RFC 9457): problem types as values, and the problem document.
//!
//! Problems in IANA's registry have its identifiers. Others have `tag` URIs (RFC 4151), which
//! identify without promising a page, as RFC 9457 §3.1.1 suggests: `tag:longhaul,2026:` and a name
//! whose meaning never changes.

use http::StatusCode;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

/// Media type of a problem document.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// A type of problem, by which programs can decide. Types are constants, so a wrong status does not
/// compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProblemType {
    uri: &'static str,
    title: &'static str,
    /// Status from 400 to 599.
    status: u16,
}

impl ProblemType {
    /// Creates a problem type with `status`.
    ///
    /// # Panics
    /// Panics if the status is neither a client error nor a server error; in a constant, that is a
    /// compile error.
    pub const fn new(uri: &'static str, title: &'static str, status: u16) -> Self {
        assert!(400 <= status && status <= 599, "a problem is a 4xx or 5xx");
        Self { uri, title, status }
    }

    /// Returns the identifier.
    pub const fn uri(&self) -> &'static str {
        self.uri
    }

    /// Returns the title for people; always the same for one identifier.
    pub const fn title(&self) -> &'static str {
        self.title
    }

    /// Returns the status of the answer: 4xx or 5xx.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).expect("400 to 599 are status codes")
    }
}

/// Problem types of uploads and downloads, from the specifications and from this server's rules.
pub mod types {
    use super::ProblemType;

    /// The append does not begin at the upload's offset (IETF resumable uploads, interop 6 and
    /// later).
    pub const MISMATCHING_UPLOAD_OFFSET: ProblemType = ProblemType::new(
        "https://iana.org/assignments/http-problem-types#mismatching-upload-offset",
        "offset from request does not match offset of resource",
        409,
    );
    /// The upload is complete and accepts no more bytes (IETF resumable uploads, interop 6 to 8).
    pub const COMPLETED_UPLOAD: ProblemType = ProblemType::new(
        "https://iana.org/assignments/http-problem-types#completed-upload",
        "upload is already completed",
        400,
    );
    /// Statements of the length contradict each other (IETF resumable uploads, interop 7 and
    /// later).
    pub const INCONSISTENT_UPLOAD_LENGTH: ProblemType = ProblemType::new(
        "https://iana.org/assignments/http-problem-types#inconsistent-upload-length",
        "inconsistent length values for upload",
        400,
    );

    /// Like [`MISMATCHING_UPLOAD_OFFSET`], for dialects without that type.
    pub const OFFSET_MISMATCH: ProblemType = ProblemType::new(
        "tag:longhaul,2026:offset-mismatch",
        "The offset is not the upload's",
        409,
    );
    /// Like [`COMPLETED_UPLOAD`], for dialects without that type.
    pub const UPLOAD_COMPLETED: ProblemType = ProblemType::new(
        "tag:longhaul,2026:upload-completed",
        "The upload is already complete",
        400,
    );
    /// Like [`INCONSISTENT_UPLOAD_LENGTH`], for dialects without that type.
    pub const INCONSISTENT_LENGTH: ProblemType = ProblemType::new(
        "tag:longhaul,2026:inconsistent-length",
        "The lengths disagree",
        400,
    );
    /// A replayed part of an append differs from the stored bytes.
    pub const OVERLAP_MISMATCH: ProblemType = ProblemType::new(
        "tag:longhaul,2026:overlap-mismatch",
        "The repeated bytes are not the same",
        409,
    );
    /// A field is absent or not what its definition requires.
    pub const MALFORMED_FIELD: ProblemType = ProblemType::new(
        "tag:longhaul,2026:malformed-field",
        "A field is missing or malformed",
        400,
    );
    /// The body has a media type that the method does not accept.
    pub const UNSUPPORTED_MEDIA_TYPE: ProblemType = ProblemType::new(
        "tag:longhaul,2026:unsupported-media-type",
        "The body has the wrong type",
        415,
    );
    /// The body has a content coding that the resource does not support.
    pub const UNSUPPORTED_CODING: ProblemType = ProblemType::new(
        "tag:longhaul,2026:unsupported-coding",
        "The content coding is not supported",
        415,
    );
    /// The tus version is not supported (tus 1.0.0, Core Protocol).
    pub const TUS_VERSION: ProblemType = ProblemType::new(
        "tag:longhaul,2026:tus-version",
        "The tus version is not supported",
        412,
    );
    /// The body runs past the upload's length, in a tus request.
    pub const UPLOAD_LENGTH_EXCEEDED: ProblemType = ProblemType::new(
        "tag:longhaul,2026:upload-length-exceeded",
        "The body runs past the upload's length",
        413,
    );
    /// The representation is greater than `max-size`.
    pub const UPLOAD_TOO_LARGE: ProblemType = ProblemType::new(
        "tag:longhaul,2026:upload-too-large",
        "The upload is too large",
        413,
    );
    /// The representation is smaller than `min-size`.
    pub const UPLOAD_TOO_SMALL: ProblemType = ProblemType::new(
        "tag:longhaul,2026:upload-too-small",
        "The upload is too small",
        400,
    );
    /// The body is greater than `max-append-size`.
    pub const APPEND_TOO_LARGE: ProblemType = ProblemType::new(
        "tag:longhaul,2026:append-too-large",
        "The body is too large for one request",
        413,
    );
    /// The body is smaller than `min-append-size`.
    pub const APPEND_TOO_SMALL: ProblemType = ProblemType::new(
        "tag:longhaul,2026:append-too-small",
        "The body is too small for one request",
        400,
    );
    /// The upload is a concatenation of others and accepts no bytes (tus 1.0.0, Concatenation).
    pub const FINAL_UPLOAD: ProblemType = ProblemType::new(
        "tag:longhaul,2026:final-upload",
        "A final upload cannot be changed",
        403,
    );
    /// The idempotency key belongs to another request (draft-ietf-httpapi-idempotency-key-header
    /// §2.7).
    pub const KEY_REUSED: ProblemType = ProblemType::new(
        "tag:longhaul,2026:idempotency-key-reused",
        "The idempotency key belongs to another request",
        422,
    );
    /// The digest's algorithm is not supported (HTTP Problem Types for Digest Fields).
    pub const DIGEST_UNSUPPORTED_ALGORITHMS: ProblemType = ProblemType::new(
        "https://iana.org/assignments/http-problem-types#digest-unsupported-algorithms",
        "Unsupported hashing algorithms",
        400,
    );
    /// A digest's value cannot be one of its algorithm's (HTTP Problem Types for Digest Fields).
    pub const DIGEST_INVALID_VALUES: ProblemType = ProblemType::new(
        "https://iana.org/assignments/http-problem-types#digest-invalid-values",
        "Invalid digest values",
        400,
    );
    /// The bytes do not have the stated digest (HTTP Problem Types for Digest Fields).
    pub const DIGEST_MISMATCHED_VALUES: ProblemType = ProblemType::new(
        "https://iana.org/assignments/http-problem-types#digest-mismatched-values",
        "Mismatched digest values",
        400,
    );
    /// Like [`DIGEST_MISMATCHED_VALUES`], in a tus request (tus 1.0.0, Checksum).
    pub const CHECKSUM_MISMATCH: ProblemType = ProblemType::new(
        "tag:longhaul,2026:checksum-mismatch",
        "Checksum Mismatch",
        460,
    );
    /// The upload does not exist.
    pub const UPLOAD_NOT_FOUND: ProblemType = ProblemType::new(
        "tag:longhaul,2026:upload-not-found",
        "There is no such upload",
        404,
    );
    /// The upload expired, was deleted or became invalid.
    pub const UPLOAD_GONE: ProblemType =
        ProblemType::new("tag:longhaul,2026:upload-gone", "The upload is gone", 410);
    /// A precondition of the request is false (RFC 9110 §13).
    pub const PRECONDITION_FAILED: ProblemType = ProblemType::new(
        "tag:longhaul,2026:precondition-failed",
        "A precondition is false",
        412,
    );
    /// No requested range lies within the representation (RFC 9110 §14).
    pub const RANGE_NOT_SATISFIABLE: ProblemType = ProblemType::new(
        "tag:longhaul,2026:range-not-satisfiable",
        "No requested range lies within the representation",
        416,
    );
}

/// One occurrence of a problem, ready to be written as a JSON object.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    kind: ProblemType,
    detail: Option<String>,
    members: Map<String, Value>,
}

impl Problem {
    /// Creates a problem without detail.
    pub fn new(kind: ProblemType) -> Self {
        Self {
            kind,
            detail: None,
            members: Map::new(),
        }
    }

    /// Adds a description of this occurrence, for people.
    #[must_use]
    pub fn detailed(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds an extension member (RFC 9457 §3.2). Names of the document's own members have no
    /// effect.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        if !["type", "title", "status", "detail"].contains(&member) {
            self.members.insert(member.to_owned(), value.into());
        }
        self
    }

    /// Returns the problem type.
    pub fn kind(&self) -> ProblemType {
        self.kind
    }

    /// Returns the status of the answer: 4xx or 5xx.
    pub fn status(&self) -> StatusCode {
        self.kind.status()
    }

    /// Returns the description of this occurrence.
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// Returns the extension members.
    pub fn members(&self) -> &Map<String, Value> {
        &self.members
    }
}

impl From<ProblemType> for Problem {
    fn from(kind: ProblemType) -> Self {
        Self::new(kind)
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut document = serializer.serialize_map(None)?;
        document.serialize_entry("type", self.kind.uri)?;
        document.serialize_entry("title", self.kind.title)?;
        document.serialize_entry("status", &self.kind.status)?;
        if let Some(detail) = &self.detail {
            document.serialize_entry("detail", detail)?;
        }
        for (member, value) in &self.members {
            document.serialize_entry(member, value)?;
        }
        document.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_flat_object() {
        let problem = Problem::new(types::MISMATCHING_UPLOAD_OFFSET)
            .detailed("begin at 5")
            .with("expected-offset", 5)
            .with("status", 200);
        assert_eq!(
            serde_json::to_string(&problem).unwrap(),
            concat!(
                r#"{"type":"https://iana.org/assignments/http-problem-types#mismatching-upload-offset","#,
                r#""title":"offset from request does not match offset of resource","status":409,"#,
                r#""detail":"begin at 5","expected-offset":5}"#
            )
        );
    }
}
