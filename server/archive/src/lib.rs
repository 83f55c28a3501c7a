//! What a pack is, and which bytes an archive consists of.

mod canonical_json;
mod catalogue;
mod collisions;
mod diff;
mod document;
mod entry_path;
mod forms;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod holdings;
mod layout;
mod need;
mod plan;
mod sha256_digest;
#[cfg(test)]
mod testing;
mod tree;
mod unpack;

pub use catalogue::*;
pub use collisions::Collision;
pub use diff::*;
pub use document::{DIFF_DOCUMENT_PATH, DIFF_FORMAT};
pub use entry_path::{
    EntryPath, EntryPathError, MAX_PATH_BYTES, MAX_SEGMENT_BYTES, RESERVED_DIRECTORY,
};
pub use forms::*;
pub use holdings::*;
pub use layout::*;
pub use need::*;
pub use plan::*;
pub use sha256_digest::{Sha256Digest, Sha256DigestError};
pub use tree::*;
pub use unpack::*;
