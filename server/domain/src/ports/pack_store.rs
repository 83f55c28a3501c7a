//! The port to the facts of packs: versions, drafts, and the places of stored contents.
//!
//! One adapter implements this port and [`MetadataStore`](crate::MetadataStore) in one database:
//! the blobs of packs are needed and doomed by the same rules as those of files.

use std::fmt::Debug;

use archive::PackName;
use async_trait::async_trait;

use crate::digest::Sha256Digest;
use crate::event::Event;
use crate::file::Content;
use crate::metadata_store::MetadataError;
use crate::pack::{DraftRecord, PackSummary, PackVersion, StoredContent};
use crate::{BlobKey, DraftId, Timestamp};

/// Outcome of publishing a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The draft is the version of this number, possibly since an earlier call.
    Version(u64),
    /// The number is taken or was skipped: this one would be next. Nothing was changed.
    NextIs(u64),
    /// A blob that the version needs is doomed, or is unrecorded and no document of the version;
    /// look the contents up again. Nothing was changed.
    BlobsGone,
    /// The pack no longer has such a draft. Nothing was changed.
    DraftGone,
}

/// Stores the facts of packs. Each method is one transaction, as in
/// [`MetadataStore`](crate::MetadataStore).
///
/// A blob of a pack is needed while a version or a draft *holds* it, and doomed once the last of
/// them is forgotten. A content is available while none of its blobs is doomed.
///
/// Recorded counts are at most 2⁶³ − 1; every method returns [`MetadataError::Full`] for a greater
/// one. No version has a greater number.
///
/// # Cancel safety
/// A dropped future may or may not have had its effect.
#[async_trait]
pub trait PackStore: Debug + Send + Sync + 'static {
    /// Records a new open draft, which holds the blob of its tree.
    ///
    /// # Errors
    /// [`MetadataError::Failed`] if its name is taken, or its blob is doomed or recorded with
    /// another size or digest.
    async fn insert_draft(&self, draft: &DraftRecord) -> Result<(), MetadataError>;

    /// Returns a draft; `None` if it never existed or is forgotten.
    async fn draft(&self, id: &DraftId) -> Result<Option<DraftRecord>, MetadataError>;

    /// Forgets a draft, published or not, and dooms the blobs that it alone held; returns true if
    /// it existed.
    async fn forget_draft(&self, id: &DraftId, now: Timestamp) -> Result<bool, MetadataError>;

    /// Forgets a draft as [`PackStore::forget_draft`] does, if it expired by `now`: content may
    /// have arrived since it was found.
    async fn expire_draft(&self, id: &DraftId, now: Timestamp) -> Result<bool, MetadataError>;

    /// Returns up to `limit` drafts, published or not, that expired by `now`, the longest expired
    /// first.
    async fn expired_drafts(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<DraftId>, MetadataError>;

    /// Records published blobs that hold contents, lets an open draft hold them, and moves its
    /// expiry. Contents that are available already keep their places, and the draft holds the blobs
    /// that contain them. Returns false, and changes nothing, if the draft does not exist or is
    /// published.
    ///
    /// # Errors
    /// [`MetadataError::Failed`] if a blob is doomed or recorded with another size or digest, or a
    /// place of `contents` is in none of `blobs`.
    async fn store_contents(
        &self,
        draft: &DraftId,
        blobs: &[Content],
        contents: &[StoredContent],
        expires_at: Timestamp,
    ) -> Result<bool, MetadataError>;

    /// Lets an open draft hold those of the blobs that are recorded and not doomed, and returns
    /// them. Returns `None`, and changes nothing, if the draft does not exist or is published.
    ///
    /// A content stays available while a draft holds its blobs. So a draft that relies on an
    /// available content without receiving its bytes holds the blobs first.
    async fn hold_blobs(
        &self,
        draft: &DraftId,
        blobs: &[BlobKey],
    ) -> Result<Option<Vec<BlobKey>>, MetadataError>;

    /// Takes blobs back from a draft that [`PackStore::store_contents`] gave it, and dooms those
    /// that nothing else holds. Blobs that the draft does not hold, or holds as its tree, are
    /// skipped.
    async fn drop_contents(
        &self,
        draft: &DraftId,
        blobs: &[BlobKey],
        now: Timestamp,
    ) -> Result<(), MetadataError>;

    /// Returns those of the contents that are available, each once and in any order.
    ///
    /// # Errors
    /// [`MetadataError::Failed`] for more than [`MAX_LOOKED_UP`] digests.
    async fn contents(&self, sha256s: &[Sha256Digest])
    -> Result<Vec<StoredContent>, MetadataError>;

    /// Returns the number of the pack's next version: 1 for a new pack.
    async fn next_version(&self, pack: &PackName) -> Result<u64, MetadataError>;

    /// Publishes a draft as `version`, if that has the next number. The version holds its own
    /// documents, which are recorded here, and `blobs`, which are recorded already. The draft is
    /// kept until `kept_until`, but no longer holds blobs; those that it alone held are doomed. The
    /// event that reports the version is recorded as well.
    ///
    /// # Errors
    /// [`MetadataError::Failed`] if a document's blob is recorded with another size or digest.
    async fn publish_version(
        &self,
        draft: &DraftId,
        version: &PackVersion,
        blobs: &[BlobKey],
        kept_until: Timestamp,
        event: Option<&Event>,
    ) -> Result<Published, MetadataError>;

    /// Returns a version; without a number, the newest that is not retired.
    async fn version(
        &self,
        pack: &PackName,
        number: Option<u64>,
    ) -> Result<Option<PackVersion>, MetadataError>;

    /// Lists up to `limit` versions of a pack below `before`, newest first.
    async fn versions(
        &self,
        pack: &PackName,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<PackVersion>, MetadataError>;

    /// Lists up to `limit` packs that follow `after`, in the byte order of their names. A pack
    /// exists once it has had a version.
    async fn packs(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<PackSummary>, MetadataError>;

    /// Returns one pack.
    async fn pack(&self, name: &PackName) -> Result<Option<PackSummary>, MetadataError>;

    /// Retires a version with its registered needs, and dooms the blobs that it alone held; returns
    /// true if it existed.
    async fn retire_version(
        &self,
        pack: &PackName,
        number: u64,
        now: Timestamp,
    ) -> Result<bool, MetadataError>;

    /// Registers a need of a version (the bytes of [`archive::Need::encode`]) under its digest
    /// until `expires_at`; a registered need keeps the later expiry. Returns false if there is no
    /// such version.
    async fn register_need(
        &self,
        pack: &PackName,
        number: u64,
        sha256: &Sha256Digest,
        encoded: &[u8],
        expires_at: Timestamp,
    ) -> Result<bool, MetadataError>;

    /// Returns a registered need of a version.
    async fn need(
        &self,
        pack: &PackName,
        number: u64,
        sha256: &Sha256Digest,
    ) -> Result<Option<Vec<u8>>, MetadataError>;

    /// Forgets up to `limit` needs that expired by `now`; returns their number.
    async fn forget_needs(&self, now: Timestamp, limit: usize) -> Result<u64, MetadataError>;
}

/// Maximum number of contents in one lookup.
pub const MAX_LOOKED_UP: usize = 1000;
