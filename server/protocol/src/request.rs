//! What the fields of a request for an upload say, in any dialect.

use crate::digest::StatedDigests;
use crate::tus;
use crate::upload::{Append, Create};

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
    pub tus: Option<tus::Creation>,
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
