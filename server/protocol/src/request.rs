//! What the fields of a request for an upload say, in any dialect.

mod concatenation;
mod metadata;

use crate::digest::StatedDigests;
use crate::upload::{Append, Create};

pub use self::concatenation::{Concat, MAX_PARTS};
pub use self::metadata::Metadata;

/// A request that makes an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateRequest {
    /// What the shared rules need.
    pub create: Create,
    /// Whether the body belongs to the upload.
    pub body: BodyUse,
    /// What the bytes must hash to.
    pub digests: StatedDigests,
    /// The media type that the client declares for the representation.
    pub media_type: Option<String>,
    /// The name that the client suggests: one path segment, sanitised.
    pub file_name: Option<String>,
    /// What only tus has.
    pub tus: Option<TusCreation>,
}

/// What only a creation by tus has.
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
    /// What the shared rules need.
    pub append: Append,
    /// What the body must hash to.
    pub digests: StatedDigests,
}

/// Whether a creation's body belongs to the upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyUse {
    /// It is the upload's first bytes.
    Appended,
    /// It is read and dropped, for example because a tus creation gives it another type (tus 1.0.0, Creation With Upload).
    Ignored,
}
