//! The port to the facts of packs: versions, drafts, and where stored contents lie.
//!
//! One adapter implements this and [`MetadataStore`](crate::MetadataStore), in one database: the blobs of packs are needed and
//! doomed by the same rules as those of files.

use std::fmt::Debug;

use archive::PackName;
use async_trait::async_trait;

use crate::digest::Sha256Digest;
use crate::event::Event;
use crate::file::Content;
use crate::metadata_store::MetadataError;
use crate::pack::{DraftRecord, PackSummary, PackVersion, StoredContent};
use crate::{BlobKey, DraftId, Timestamp};

/// What became of publishing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It is the version of this number now; it was already where the draft was published before.
    Version(u64),
    /// The number is taken or was passed over: this would be next. Nothing was changed.
    NextIs(u64),
    /// A blob that the version needs is doomed, or unknown and no document; look the contents up again. Nothing was changed.
    BlobsGone,
    /// The pack has no such draft any more. Nothing was changed.
    DraftGone,
}

/// Keeps the facts of packs. Each method is one transaction, as in [`MetadataStore`](crate::MetadataStore).
///
/// A blob of a pack is needed while a version or a draft *holds* it, and doomed when the last of them goes. A content is known
/// while none of its blobs is doomed.
///
/// Counts that are recorded are at most 2⁶³ − 1; any method answers [`MetadataError::Full`] to a greater one. A greater number is
/// no version's.
///
/// # Cancel safety
/// A dropped future may or may not have had its effect.
#[async_trait]
pub trait PackStore: Debug + Send + Sync + 'static {
    /// Records a new draft, which is open and holds the blob of its tree.
    ///
    /// # Errors
    /// [`MetadataError::Failed`] where its name is taken, or its blob is doomed or recorded with another size or digest.
    async fn insert_draft(&self, draft: &DraftRecord) -> Result<(), MetadataError>;

    /// A draft as it stands; `None` if it never was or is forgotten.
    async fn draft(&self, id: &DraftId) -> Result<Option<DraftRecord>, MetadataError>;

    /// Forgets a draft, published or not, and dooms what it alone held; says whether it was there.
    async fn forget_draft(&self, id: &DraftId, now: Timestamp) -> Result<bool, MetadataError>;

    /// Forgets a draft as [`PackStore::forget_draft`] does, if its time was up at `now`: content may have come since it was found.
    async fn expire_draft(&self, id: &DraftId, now: Timestamp) -> Result<bool, MetadataError>;

    /// Up to `limit` drafts, published or not, whose time was up at `now`, the longest expired first.
    async fn expired_drafts(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<DraftId>, MetadataError>;

    /// Records published blobs that hold contents, has an open draft hold them, and moves its expiry. Contents that are known
    /// already keep their places, and the draft holds the blobs that they lie in. False if the draft is not there or published;
    /// nothing was changed then.
    ///
    /// # Errors
    /// [`MetadataError::Failed`] where a blob is doomed or recorded with another size or digest, or a place of `contents` is in none
    /// of `blobs`.
    async fn store_contents(
        &self,
        draft: &DraftId,
        blobs: &[Content],
        contents: &[StoredContent],
        expires_at: Timestamp,
    ) -> Result<bool, MetadataError>;

    /// Has an open draft hold those of the blobs that are recorded and not doomed, and returns these. None if the draft is not there or
    /// published; nothing was changed then.
    ///
    /// A content that lies in blobs which a draft holds stays known for as long as it does. So a draft that is to go without the
    /// bytes of a known content takes hold of it first.
    async fn hold_blobs(
        &self,
        draft: &DraftId,
        blobs: &[BlobKey],
    ) -> Result<Option<Vec<BlobKey>>, MetadataError>;

    /// Takes blobs back from a draft that [`PackStore::store_contents`] gave it, and dooms those that nothing else holds. What the
    /// draft does not hold, or holds as its tree, is passed over.
    async fn drop_contents(
        &self,
        draft: &DraftId,
        blobs: &[BlobKey],
        now: Timestamp,
    ) -> Result<(), MetadataError>;

    /// Those of the contents that are known, each once and in any order.
    ///
    /// # Errors
    /// [`MetadataError::Failed`] where there are more than [`MOST_LOOKED_UP`].
    async fn contents(&self, sha256s: &[Sha256Digest])
    -> Result<Vec<StoredContent>, MetadataError>;

    /// The number that the pack's next version has: 1 for a new pack.
    async fn next_version(&self, pack: &PackName) -> Result<u64, MetadataError>;

    /// Publishes a draft as `version`, if that has the next number. The version holds its own documents, which are recorded here,
    /// and `blobs`, which are recorded already; the draft holds nothing any more, which dooms what it alone held, and is kept until
    /// `kept_until`. The event that tells of it is recorded as well.
    ///
    /// # Errors
    /// [`MetadataError::Failed`] where a document's blob is recorded with another size or digest.
    async fn publish_version(
        &self,
        draft: &DraftId,
        version: &PackVersion,
        blobs: &[BlobKey],
        kept_until: Timestamp,
        event: Option<&Event>,
    ) -> Result<Published, MetadataError>;

    /// A version; the newest that is not retired, where no number is given.
    async fn version(
        &self,
        pack: &PackName,
        number: Option<u64>,
    ) -> Result<Option<PackVersion>, MetadataError>;

    /// Up to `limit` versions of a pack, newest first, those below `before` only.
    async fn versions(
        &self,
        pack: &PackName,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<PackVersion>, MetadataError>;

    /// Up to `limit` packs in the byte order of their names, those after `after` only. A pack is there once it has had a version.
    async fn packs(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<PackSummary>, MetadataError>;

    /// One pack.
    async fn pack(&self, name: &PackName) -> Result<Option<PackSummary>, MetadataError>;

    /// Retires a version with its registered needs, and dooms what it alone held; says whether it was there.
    async fn retire_version(
        &self,
        pack: &PackName,
        number: u64,
        now: Timestamp,
    ) -> Result<bool, MetadataError>;

    /// Registers a need of a version (the bytes of [`archive::Need::encode`]) under its digest until `expires_at`; one that is
    /// registered already is kept for as long as either asks. False if there is no such version.
    async fn register_need(
        &self,
        pack: &PackName,
        number: u64,
        sha256: &Sha256Digest,
        encoded: &[u8],
        expires_at: Timestamp,
    ) -> Result<bool, MetadataError>;

    /// A registered need of a version.
    async fn need(
        &self,
        pack: &PackName,
        number: u64,
        sha256: &Sha256Digest,
    ) -> Result<Option<Vec<u8>>, MetadataError>;

    /// Forgets up to `limit` needs whose time was up at `now`; returns how many.
    async fn forget_needs(&self, now: Timestamp, limit: usize) -> Result<u64, MetadataError>;
}

/// Most contents that are looked up at a time.
pub const MOST_LOOKED_UP: usize = 1000;
