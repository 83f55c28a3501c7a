//! Packs, and the bytes of their archives.
//!
//! This crate uses no clock, socket, file or async runtime. From the inside out:
//!
//! 1. An [`EntryPath`] is a name that is safe everywhere; a [`Tree`] is a sorted list of files
//!    under such names.
//! 2. A [`Catalogue`] is a tree that was published as a version of a pack: canonical JSON, named by
//!    its digest. Clients send a [`Draft`] to publish, or their [`Holdings`] to compare; an
//!    [`Unpacker`] reads the zips and tars they send.
//! 3. [`lacking`] returns the entries that the holder of one tree needs of another, as a [`Need`]:
//!    a set of positions that is short enough for a URL. A [`Diff`] lists the operations of the
//!    holder.
//! 4. A [`Plan`] selects an archive, whose entity tag is known before anything else; a [`Layout`]
//!    has its exact length and any range of its bytes, as literals and slices of stored contents in
//!    their [`Forms`].
//!
//! A complete download, given the catalogues:
//!
//! ```
//! # use std::sync::Arc;
//! # use archive::*;
//! # fn catalogue(version: u64, files: &[(&str, &[u8])]) -> Arc<Catalogue> {
//! #     let entries = files.iter().map(|(path, content)| {
//! #         (EntryPath::parse(*path).unwrap(), content.len() as u64, Sha256Digest::of(content), false)
//! #     });
//! #     let tree = Tree::try_from_entries(entries, Limits::default()).unwrap();
//! #     let content_of = |sha256: &Sha256Digest| {
//! #         let (_, content) = files.iter().find(|(_, content)| Sha256Digest::of(content) == *sha256)?;
//! #         Some(Content { size: content.len() as u64, crc32: 0 })
//! #     };
//! #     Arc::new(Catalogue::publish(PackName::parse("maps").unwrap(), version, tree, content_of).unwrap())
//! # }
//! # let old = catalogue(41, &[("a.png", b"a")]);
//! # let new = catalogue(42, &[("a.png", b"a"), ("b.png", b"bb")]);
//! # let forms = Arc::new(Forms::raw(new.tree()));
//! let plan = Plan::since(old, new, forms)?;
//! let tag = plan.tag(ArchiveFormat::Zip);
//! let layout = Layout::new(ArchiveFormat::Zip, plan);
//! for segment in layout.slice(0..layout.len()) {
//!     match segment {
//!         Segment::Literal(bytes) => { /* send them */ }
//!         Segment::Blob(BlobSlice { sha256, form, range, .. }) => { /* send that range of the stored content */ }
//!     }
//! }
//! # assert_eq!(layout.tag(), &tag);
//! # Ok::<(), PlanError>(())
//! ```

mod canonical_json;
mod catalogue;
mod collisions;
mod diff;
mod document;
mod draft;
mod entry_path;
mod forms;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod holdings;
mod layout;
mod need;
mod pack_name;
mod plan;
mod sha256_digest;
#[cfg(test)]
mod testing;
mod tree;
mod tree_json;
mod unpack;

pub use catalogue::{Catalogue, CatalogueError, Content};
pub use collisions::Collision;
pub use diff::{
    ContentCopy, Diff, DigestSet, Duplicate, UnknownException, lacking, lacking_digests,
    lacking_except,
};
pub use document::{DIFF_DOCUMENT_PATH, DIFF_FORMAT};
pub use draft::{Draft, DraftError};
pub use entry_path::{
    EntryPath, EntryPathError, MAX_PATH_BYTES, MAX_SEGMENT_BYTES, RESERVED_DIRECTORY, is_litter,
};
pub use forms::{Deflated, Form, Forms, FormsError, deflating_pays};
pub use holdings::{Holdings, HoldingsError};
pub use layout::{BlobSlice, Layout, Segment, Segments};
pub use need::{MAX_INLINE_NAME, Need, NeedError, NeedName};
pub use pack_name::PackName;
pub use plan::{ArchiveFormat, ArchiveTag, Plan, PlanError};
pub use sha256_digest::{Sha256Digest, Sha256DigestError};
pub use tree::{Entry, Limits, MAX_SIZE, Tree, TreeBuilder, TreeError};
pub use tree_json::CATALOGUE_FORMAT;
pub use unpack::{UnpackError, UnpackEvent, UnpackFault, UnpackLimits, Unpacker};
