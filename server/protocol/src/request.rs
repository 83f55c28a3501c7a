//! Contents of upload requests, independent of the dialect.

mod concatenation;
mod metadata;

use crate::digest::StatedDigests;
use crate::upload::{Append, Create};

pub use self::concatenation::{Concat, MAX_PARTS};
pub use self::metadata::Metadata;

/// A request that creates an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateRequest {
    /// Input of the shared rules.
    pub create: Create,
    /// Use of the body.
    pub body: BodyUse,
    /// Expected digests of the bytes.
    pub digests: StatedDigests,
    /// Media type that the client declares for the representation.
    pub media_type: Option<String>,
    /// File name that the client suggests: one path segment, sanitised.
    pub file_name: Option<String>,
    /// Fields of tus alone.
    pub tus: Option<TusCreation>,
}

/// Fields that only a tus creation has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TusCreation {
    /// `Upload-Metadata`, if there is any.
    pub metadata: Option<Metadata>,
    /// `Upload-Concat`.
    pub concat: Option<Concat>,
}

/// A request that appends to an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendRequest {
    /// Input of the shared rules.
    pub append: Append,
    /// Expected digests of the body.
    pub digests: StatedDigests,
}

/// Use of a creation's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyUse {
    /// The body is the first bytes of the upload.
    Appended,
    /// The body is read and dropped, for example if a tus creation gives it another type (tus
    /// 1.0.0, Creation With Upload).
    Ignored,
}
