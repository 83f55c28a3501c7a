//! The port to where bytes are kept.
//!
//! A blob is *staged* while it grows and *published* when it is whole. Published blobs never change. The store knows nothing of
//! uploads, files or packs; which blobs are wanted is in the metadata store, and [`BlobStore::list`] lets the two be compared.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use thiserror::Error;

use crate::{BlobKey, Timestamp};

/// Why a store could not do it.
///
/// A store that asks others, as over a network, tells four cases apart, because they mean different things for whoever waits:
/// what passes ([`Unreachable`](Self::Unreachable)) is tried again, what does not ([`Refused`](Self::Refused)) is final until an
/// operator changes something, a store that is full is emptied or enlarged, and answers that contradict what was acknowledged
/// ([`Inconsistent`](Self::Inconsistent)) are believed by nobody: nothing is dropped because of them.
#[derive(Debug, Error)]
pub enum BlobError {
    /// There is no such blob, or it does not have the bytes that it should. The store is certain of that.
    #[error("blob {key} is missing or has another size")]
    Missing {
        /// The blob.
        key: BlobKey,
    },
    /// There is no room left. What was durable before stays so.
    #[error("the blob store is full")]
    Full,
    /// The store is out of reach or too busy at this moment. Whether anything was changed is not known.
    #[error("failed to {doing}: the store is out of reach or too busy")]
    Unreachable {
        /// What was being done, and to which blob.
        doing: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store refuses, and will until somebody changes a setting, a permission or the store.
    #[error("failed to {doing}: the store refuses: {advice}")]
    Refused {
        /// What was being done, and to which blob.
        doing: String,
        /// What to change.
        advice: String,
        /// What the store said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What the store answers is not what it acknowledged before. That is no proof of a loss: nothing may be dropped for it.
    #[error("blob {key} is kept, but cannot be used: {reason}")]
    Inconsistent {
        /// The blob.
        key: BlobKey,
        /// What contradicts what, and what to check.
        reason: String,
    },
    /// Anything else; `doing` completes the sentence "failed to …".
    #[error("failed to {doing}")]
    Failed {
        /// What was being done, and to which blob.
        doing: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A part of a blob as it is read, in chunks of the store's choosing.
pub type BlobStream = BoxStream<'static, Result<Bytes, BlobError>>;

/// Which blobs to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobState {
    /// Still growing.
    Staged,
    /// Whole.
    Published,
}

/// A blob that the store holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobEntry {
    /// Its key.
    pub key: BlobKey,
    /// When its bytes last changed, by the store's clock.
    pub modified_at: Timestamp,
}

/// How a writer means to write on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    /// Bytes that are there and stay; what lies beyond is dropped.
    pub offset: u64,
    /// Orders the writers of a blob, on whatever node they are: see [`Upload::epoch`](crate::upload::Upload::epoch).
    pub epoch: u64,
    /// The size that the blob will have, in bytes, where it is known. No promise: a store may plan by it.
    pub length: Option<u64>,
}

impl Growth {
    /// Begins a blob that no other writer can know.
    pub const NEW: Self = Self {
        offset: 0,
        epoch: 1,
        length: None,
    };
}

/// Keeps bytes.
///
/// # Cancel safety
/// Reads may be dropped anywhere. A dropped future of any other method may or may not have had its effect, but never half of it.
#[async_trait]
pub trait BlobStore: Debug + Send + Sync + 'static {
    /// Opens the staged blob `key` to be written on from `growth.offset`, and makes it if that is 0 and there is none.
    ///
    /// Bytes that lie beyond the offset are dropped. If the blob was published but nothing records it (a crash came between),
    /// it is taken back and is staged again. The caller sees to it that one writer at a time holds a key. A newer one has the same
    /// epoch in the same process, or a greater one in any; whatever an older one still does, fails or has no effect.
    ///
    /// # Errors
    /// [`BlobError::Missing`] when fewer bytes than the offset are there, or [`BlobError::Inconsistent`] when the store says so but
    /// may be wrong.
    async fn stage(&self, key: &BlobKey, growth: Growth) -> Result<Box<dyn StagedBlob>, BlobError>;

    /// Reads `range` of a staged blob that nobody writes at the moment; only bytes that were synced are asked for.
    async fn read_staged(&self, key: &BlobKey, range: Range<u64>) -> Result<BlobStream, BlobError>;

    /// Makes the staged blob, whose `size` bytes are all synced, a published one. When this returns, the blob is durable under
    /// its key, and no writer can change it any more. Publishing again what is published already succeeds.
    ///
    /// # Errors
    /// [`BlobError::Missing`] when there are not exactly `size` bytes.
    async fn publish(&self, key: &BlobKey, size: u64) -> Result<(), BlobError>;

    /// Forgets a staged blob; one that is not there is forgotten already. After a power cut it may be there again, and listed.
    async fn discard(&self, key: &BlobKey) -> Result<(), BlobError>;

    /// Opens a published blob of `size` bytes. Readers that hold it can read on after [`BlobStore::delete`] where the store
    /// allows it, and fail with [`BlobError::Missing`] otherwise.
    async fn open(&self, key: &BlobKey, size: u64) -> Result<Arc<dyn Blob>, BlobError>;

    /// Deletes a published blob; one that is not there is deleted already. After a power cut it may be there again, and listed.
    async fn delete(&self, key: &BlobKey) -> Result<(), BlobError>;

    /// Up to `limit` blobs in the order of their keys, those after `after` only.
    async fn list(
        &self,
        state: BlobState,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobEntry>, BlobError>;

    /// Whether the store can be written at this moment; for readiness checks.
    async fn check(&self) -> Result<(), BlobError>;
}

/// A staged blob that is open for writing, by one writer.
#[async_trait]
pub trait StagedBlob: Debug + Send {
    /// Appends `bytes`. They are not durable before [`StagedBlob::sync`].
    ///
    /// # Errors
    /// After an error nothing more may be written through this value; [`BlobStore::stage`] at a durable offset starts anew.
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError>;

    /// Makes all that was written durable: it survives a power cut from here on. Returns the blob's length in bytes.
    async fn sync(&mut self) -> Result<u64, BlobError>;

    /// Syncs, and leaves the blob to its next writer, who finds it easier to go on than after a writer that was only dropped.
    /// Returns the blob's length in bytes.
    async fn close(self: Box<Self>) -> Result<u64, BlobError>;

    /// Publishes what was written, synced or not, as [`BlobStore::publish`] does. Returns the blob's size in bytes.
    async fn publish(self: Box<Self>) -> Result<u64, BlobError>;
}

/// What the answers at a [`Link`] shall say of the bytes, as the fields of HTTP have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkFields<'a> {
    /// `Content-Type`.
    pub content_type: &'a str,
    /// `Content-Disposition`.
    pub content_disposition: Option<&'a str>,
    /// `Cache-Control`.
    pub cache_control: &'a str,
}

/// Where whoever has the URL can fetch a blob for a while, with no other credential, and past this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The URL. It is good for `GET`, also of ranges.
    pub url: String,
    /// The `ETag` of the answers there, quotes included: the store's own, not that of the file.
    pub etag: String,
}

/// A published blob that is open for reading, by any number of readers at once.
#[async_trait]
pub trait Blob: Debug + Send + Sync {
    /// Its length in bytes.
    fn size(&self) -> u64;

    /// Reads `range`, which lies within `0..size`. The stream yields exactly those bytes or ends with an error.
    fn read(&self, range: Range<u64>) -> BlobStream;

    /// A link to the whole blob; `None` where the store gives none out, as most do.
    async fn link(&self, _fields: LinkFields<'_>) -> Result<Option<Link>, BlobError> {
        Ok(None)
    }
}
