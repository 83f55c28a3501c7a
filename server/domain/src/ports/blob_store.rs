//! The port to the store of bytes.
//!
//! A blob is *staged* while it grows and *published* once it is complete. Published blobs never
//! change. The store knows nothing of uploads, files or packs; the metadata store records which
//! blobs are needed, and [`BlobStore::list`] lets the two be compared.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use thiserror::Error;

use crate::{BlobKey, Timestamp};

/// An error of a blob store.
///
/// A store behind a network distinguishes four cases, because callers treat them differently: a
/// transient failure ([`Unreachable`](Self::Unreachable)) is retried, a refusal
/// ([`Refused`](Self::Refused)) is final until an operator changes something, a full store is
/// emptied or enlarged, and answers that contradict acknowledged writes
/// ([`Inconsistent`](Self::Inconsistent)) are not trusted: nothing is dropped because of them.
#[derive(Debug, Error)]
pub enum BlobError {
    /// The blob does not exist, or has another size than it should. The store is certain.
    #[error("blob {key} is missing or has another size")]
    Missing {
        /// The blob.
        key: BlobKey,
    },
    /// The store is full. Bytes that were durable before stay durable.
    #[error("the blob store is full")]
    Full,
    /// The store is unreachable or too busy at this moment. The operation may or may not have had
    /// its effect.
    #[error("failed to {doing}: the store is out of reach or too busy")]
    Unreachable {
        /// The operation, and its blob.
        doing: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store refuses, and will until someone changes a setting, a permission or the store.
    #[error("failed to {doing}: the store refuses: {advice}")]
    Refused {
        /// The operation, and its blob.
        doing: String,
        /// The change that would help.
        advice: String,
        /// The store's answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store's answer contradicts a write that it acknowledged. This does not prove a loss:
    /// nothing may be dropped because of it.
    #[error("blob {key} is kept, but cannot be used: {reason}")]
    Inconsistent {
        /// The blob.
        key: BlobKey,
        /// The contradiction, and advice what to check.
        reason: String,
    },
    /// Any other failure; `doing` completes the sentence "failed to …".
    #[error("failed to {doing}")]
    Failed {
        /// The operation, and its blob.
        doing: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A part of a blob as a stream, in chunks of the store's choosing.
pub type BlobStream = BoxStream<'static, Result<Bytes, BlobError>>;

/// States of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobState {
    /// The blob may still grow.
    Staged,
    /// The blob is complete.
    Published,
}

/// An entry in a listing of blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobEntry {
    pub key: BlobKey,
    /// The time at which its bytes last changed, by the store's clock.
    pub modified_at: Timestamp,
}

/// The position and identity of a writer of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    /// Bytes that exist and stay; bytes beyond are dropped.
    pub offset: u64,
    /// Orders the writers of a blob across nodes: see
    /// [`Upload::epoch`](crate::upload::Upload::epoch).
    pub epoch: u64,
    /// The final size of the blob in bytes, if known. A store may plan by it, but must not rely on
    /// it.
    pub length: Option<u64>,
}

impl Growth {
    /// Starts a blob that no other writer can know.
    pub const NEW: Self = Self {
        offset: 0,
        epoch: 1,
        length: None,
    };
}

/// Stores bytes.
///
/// # Cancel safety
/// Reads may be dropped at any time. A dropped future of any other method may or may not have had
/// its effect, but never a part of it.
#[async_trait]
pub trait BlobStore: Debug + Send + Sync + 'static {
    /// Opens the staged blob `key` for writing at `growth.offset`, and creates it if the offset is
    /// 0 and there is none.
    ///
    /// Bytes beyond the offset are dropped. A blob that was published but is not recorded (after a
    /// crash in between) is staged again. The caller ensures that a key has one writer at a time. A
    /// newer writer has the same epoch in the same process, or a greater one in any; anything that
    /// an older writer still does fails or has no effect.
    ///
    /// # Errors
    /// [`BlobError::Missing`] if fewer bytes than the offset exist, or [`BlobError::Inconsistent`]
    /// if the store says so but may be wrong.
    async fn stage(&self, key: &BlobKey, growth: Growth) -> Result<Box<dyn StagedBlob>, BlobError>;

    /// Reads `range` of a staged blob that has no writer at the moment; the range covers synced
    /// bytes only.
    async fn read_staged(&self, key: &BlobKey, range: Range<u64>) -> Result<BlobStream, BlobError>;

    /// Publishes the staged blob, whose `size` bytes are all synced. On return, the blob is durable
    /// under its key, and no writer can change it. Publishing a published blob succeeds.
    ///
    /// # Errors
    /// [`BlobError::Missing`] if the blob does not have exactly `size` bytes.
    async fn publish(&self, key: &BlobKey, size: u64) -> Result<(), BlobError>;

    /// Discards a staged blob, if it exists. After a power cut the blob may reappear and be listed.
    async fn discard(&self, key: &BlobKey) -> Result<(), BlobError>;

    /// Opens a published blob of `size` bytes. After [`BlobStore::delete`], open readers can read
    /// on if the store allows it, and fail with [`BlobError::Missing`] otherwise.
    async fn open(&self, key: &BlobKey, size: u64) -> Result<Arc<dyn Blob>, BlobError>;

    /// Deletes a published blob, if it exists. After a power cut the blob may reappear and be
    /// listed.
    async fn delete(&self, key: &BlobKey) -> Result<(), BlobError>;

    /// Lists up to `limit` blobs in this state that follow `after`, in the order of their keys.
    async fn list(
        &self,
        state: BlobState,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobEntry>, BlobError>;

    /// Checks that the store can be written at this moment; for readiness checks.
    async fn check(&self) -> Result<(), BlobError>;
}

/// A staged blob that is open for writing, by one writer.
#[async_trait]
pub trait StagedBlob: Debug + Send {
    /// Appends `bytes`. They are not durable before [`StagedBlob::sync`].
    ///
    /// # Errors
    /// After an error, nothing more may be written through this value; call [`BlobStore::stage`] at
    /// a durable offset instead.
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError>;

    /// Makes all written bytes durable: they survive a power cut from here on. Returns the blob's
    /// length in bytes.
    async fn sync(&mut self) -> Result<u64, BlobError>;

    /// Syncs, and hands the blob over to its next writer, which can resume more cheaply than after
    /// a dropped writer. Returns the blob's length in bytes.
    async fn close(self: Box<Self>) -> Result<u64, BlobError>;

    /// Publishes all written bytes, synced or not, as [`BlobStore::publish`] does. Returns the
    /// blob's size in bytes.
    async fn publish(self: Box<Self>) -> Result<u64, BlobError>;
}

/// HTTP fields of the responses at a [`Link`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkFields<'a> {
    /// `Content-Type`.
    pub content_type: &'a str,
    /// `Content-Disposition`.
    pub content_disposition: Option<&'a str>,
    /// `Cache-Control`.
    pub cache_control: &'a str,
}

/// A URL that serves a blob for a while without another credential, and without passing through
/// this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The URL. It accepts `GET`, with or without a range.
    pub url: String,
    /// The `ETag` of the responses there, quotes included: the store's, not the file's.
    pub etag: String,
}

/// A published blob that is open for reading, by any number of readers at once.
#[async_trait]
pub trait Blob: Debug + Send + Sync {
    /// Returns its length in bytes.
    fn size(&self) -> u64;

    /// Reads `range`, which lies within `0..size`. The stream yields exactly those bytes or ends
    /// with an error.
    fn read(&self, range: Range<u64>) -> BlobStream;

    /// Returns a link to the entire blob; `None` if the store issues none, as most do.
    async fn link(&self, fields: LinkFields<'_>) -> Result<Option<Link>, BlobError>;
}
