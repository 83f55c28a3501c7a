//! Rules that an upload request can break, each with the facts that the client needs to recover.

use thiserror::Error;

/// A rule that the client broke. The dialect chooses the status and the fields.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Rejection {
    /// A required field is absent, or a field is not what its definition requires.
    #[error("{field}: {reason}")]
    Malformed {
        /// Name of the field, spelled as in its specification.
        field: &'static str,
        /// Description of the fault, for the client's developer.
        reason: String,
    },
    /// The body has a media type that the method does not accept.
    #[error("the body must be of type {expected}")]
    MediaType {
        /// The type to send instead.
        expected: &'static str,
    },
    /// The body has a coding, but would be served without it.
    #[error("{field}: send the bytes without {coding}, as they are served as they came")]
    Coding {
        /// Name of the field, spelled as in its specification.
        field: &'static str,
        /// The coding as the client named it.
        coding: String,
    },
    /// `Tus-Resumable` is absent or names an unsupported version (tus 1.0.0, Core Protocol).
    #[error("Tus-Resumable must be 1.0.0")]
    TusVersion,
    /// The append does not begin at the durable offset.
    #[error("the upload is at offset {expected}, the request begins at {provided}")]
    OffsetMismatch {
        /// The durable offset, in bytes.
        expected: u64,
        /// The request's offset, in bytes.
        provided: u64,
    },
    /// A replayed part of an append differs from the stored bytes.
    #[error("the request repeats bytes below offset {offset}, but not the same ones")]
    OverlapMismatch {
        /// The durable offset, in bytes.
        offset: u64,
    },
    /// Statements about the upload's length contradict each other.
    #[error("the request's length and the upload's length disagree")]
    InconsistentLength,
    /// The upload already has all its bytes.
    #[error("the upload is already complete")]
    Completed,
    /// The body runs past the upload's length.
    #[error("the body runs past the upload's length of {length} bytes")]
    OverLength {
        /// The upload's length in bytes.
        length: u64,
    },
    /// The representation exceeds `max-size`.
    #[error("the upload may have at most {limit} bytes")]
    TooLarge {
        /// Maximum number of bytes of a representation.
        limit: u64,
    },
    /// The representation is below `min-size`.
    #[error("the upload must have at least {limit} bytes")]
    TooSmall {
        /// Minimum number of bytes of a representation.
        limit: u64,
    },
    /// The body exceeds `max-append-size`.
    #[error("one request may bring at most {limit} bytes")]
    AppendTooLarge {
        /// Maximum number of bytes of a body.
        limit: u64,
    },
    /// The body is below `min-append-size` and does not complete the upload.
    #[error("a request that does not complete the upload must bring at least {limit} bytes")]
    AppendTooSmall {
        /// Minimum number of bytes of a body.
        limit: u64,
    },
    /// The upload is a concatenation of others and accepts no bytes (tus concatenation).
    #[error("a final upload takes no bytes of its own")]
    FinalUpload,
    /// A digest or checksum has an unsupported algorithm, and none has a supported one.
    #[error(
        "{field}: the algorithm {algorithm} cannot be verified here; use sha-256 or sha-512, in Upload-Checksum sha256, sha1, md5 or crc32"
    )]
    DigestAlgorithm {
        /// Name of the field, spelled as in its specification.
        field: &'static str,
        /// The algorithm's name as the client sent it.
        algorithm: String,
    },
    /// The request repeats a creation's `Idempotency-Key`, but differs from that creation.
    #[error(
        "Idempotency-Key: an earlier request with another target, type, length, digest or body has this key; send a new key"
    )]
    KeyReused,
    /// The bytes do not have the stated digest.
    #[error("{field} does not match the bytes received")]
    DigestMismatch {
        /// Name of the field, spelled as in its specification.
        field: &'static str,
    },
}

impl Rejection {
    /// Creates a rejection of a malformed field.
    pub fn malformed(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Malformed {
            field,
            reason: reason.into(),
        }
    }
}
