//! The port to where facts are kept: uploads, files, and which blobs they need.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use thiserror::Error;

use crate::event::Event;
use crate::file::{File, WriteCondition};
use crate::upload::{Completed, Gone, Open, Progress, Told, Upload, UploadState};
use crate::{BlobKey, FilePath, NodeId, Timestamp, UploadId};

/// Why a store could not do it.
#[derive(Debug, Error)]
pub enum MetadataError {
    /// There is no room left, or a bound of the engine is reached. Nothing was changed.
    #[error("the metadata store is full")]
    Full,
    /// The store cannot be reached at this moment. Whether anything was changed is not known.
    #[error("failed to {doing}: the metadata store is out of reach")]
    Unreachable {
        /// What was being done.
        doing: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A row holds a combination that the code cannot mean.
    #[error("inconsistent row {row} in table {table}: {reason}")]
    Inconsistent {
        /// The table.
        table: &'static str,
        /// The row's key.
        row: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Anything else; `doing` completes the sentence "failed to …".
    #[error("failed to {doing}")]
    Failed {
        /// What was being done.
        doing: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What became of an insertion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inserted {
    /// The upload is recorded.
    New,
    /// An upload with the same owner and idempotency key was there before; nothing was changed.
    Existing(Box<Upload>),
}

/// What of an open upload a request goes by when it claims it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Offset and length.
    pub open: Open,
    /// The offset that its client was told.
    pub told: Option<u64>,
}

impl Seen {
    /// What there is to see of an upload, if it is open.
    pub fn of(upload: &Upload) -> Option<Self> {
        match &upload.state {
            UploadState::Open(progress) => Some(Self {
                open: progress.open,
                told: upload.told.map(|told| told.offset),
            }),
            UploadState::Complete(_) | UploadState::Gone(_) => None,
        }
    }
}

/// What became of a change that only the upload's present holder may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarded {
    /// It is recorded.
    Done,
    /// Another request holds the upload, or it is no longer open; nothing was changed.
    Fenced,
}

/// What becomes of an upload's holder when its progress is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It works on.
    Keep,
    /// Its work has ended: nobody holds the upload any more, and the epoch stays.
    Release,
    /// As [`Hold::Release`], and its client goes on from where this leaves it: what was told before is forgotten.
    Settle,
}

/// The wish that a node may let go of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// The upload.
    pub upload: UploadId,
    /// The node that held it when it was asked for.
    pub node: NodeId,
    /// Under this epoch.
    pub epoch: u64,
}

/// What became of an [`Ask`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The node holds the upload, is alive, and is told.
    Holder,
    /// It does not, or is not: there is nobody to wait for.
    Nobody,
}

/// What became of writing a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// The path had no file before.
    Created,
    /// The path's older file is replaced; its blob is doomed unless something else needs it.
    Replaced,
    /// The condition does not hold of the current file, which is given; nothing was changed.
    ConditionFailed(Option<Box<File>>),
    /// As [`Guarded::Fenced`].
    Fenced,
}

/// What became of deleting a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone; its blob is doomed unless something else needs it.
    Done,
    /// The path has no file.
    Missing,
    /// As [`Written::ConditionFailed`].
    ConditionFailed(Box<File>),
}

/// The name of the lease by which other nodes know that this one is alive.
pub fn node_lease(node: NodeId) -> String {
    format!("node/{node}")
}

/// The right to do what a name stands for, while it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The moment at which it was given, by the store's clock.
    pub given_at: Timestamp,
    /// When anyone may have it, by the store's clock.
    pub expires_at: Timestamp,
}

/// Keeps facts. Each method is one transaction: when it returns, its effect is durable and whole, or there is none.
///
/// Blobs are counted here by need: a blob is *needed* while an open upload grows it or a file (later: a pack) consists of it,
/// and *doomed* from the moment that its last file goes, until [`MetadataStore::forget_blob`]. What is doomed is never needed again.
/// The blob of an upload that ends is not doomed but forgotten at once: nobody reads it.
///
/// Counts are at most 2⁶³ − 1; any method answers [`MetadataError::Full`] to a greater one.
///
/// # Cancel safety
/// A dropped future may or may not have had its effect.
#[async_trait]
pub trait MetadataStore: Debug + Send + Sync + 'static {
    /// Records a new upload, which is open. An idempotency key is remembered for as long as its upload.
    ///
    /// # Errors
    /// [`MetadataError::Failed`] where its name, or its blob's, is another upload's.
    async fn insert_upload(&self, upload: &Upload) -> Result<Inserted, MetadataError>;

    /// An upload as it stands; `None` if it never was or is forgotten.
    async fn upload(&self, id: &UploadId) -> Result<Option<Upload>, MetadataError>;

    /// Raises the epoch of an open upload, which fences whoever holds it, and returns it as it then stands; an upload that is not
    /// open, or not as it was `seen`, is returned as it is. A request on `holder` is its holder from now on; without a node, nobody
    /// is.
    async fn claim_upload(
        &self,
        id: &UploadId,
        holder: Option<NodeId>,
        seen: Option<Seen>,
    ) -> Result<Option<Upload>, MetadataError>;

    /// Records progress and the new expiry of an open upload, under the holder's epoch, and whether the work goes on. Progress that
    /// is behind what is recorded changes none of it, and is [`Guarded::Done`].
    async fn record_progress(
        &self,
        id: &UploadId,
        epoch: u64,
        progress: &Progress,
        expires_at: Timestamp,
        hold: Hold,
    ) -> Result<Guarded, MetadataError>;

    /// Remembers what a client is told about an upload that is open or complete, instead of what one was told before, or forgets
    /// that; if nobody has claimed the upload since it had this epoch. [`Guarded::Done`] is remembered, but need not be durable.
    async fn tell_upload(
        &self,
        id: &UploadId,
        epoch: u64,
        told: Option<Told>,
    ) -> Result<Guarded, MetadataError>;

    /// Records that the holder of an open upload under this epoch has ended its work; changes nothing where another holds it.
    async fn release_upload(&self, id: &UploadId, epoch: u64) -> Result<(), MetadataError>;

    /// Tells the node that holds an open upload to let go of it, if that node is alive: if it has the lease [`node_lease`].
    async fn ask_to_yield(&self, ask: &Ask) -> Result<Asked, MetadataError>;

    /// What nodes are asked from now on, on whatever node of this store. It goes on for as long as it is polled; of what comes while
    /// the store is out of reach, or faster than it is polled, some is lost.
    fn asks(&self) -> BoxStream<'static, Ask>;

    /// Completes an open upload under the holder's epoch and publishes its file, if the plan's condition holds of the path's
    /// current file. `completed.replaced` is recorded as it turns out. The upload is kept until `expires_at`. If so, the event
    /// that tells of it is recorded as well ([`EventStore`](crate::EventStore)).
    async fn complete_upload(
        &self,
        upload: &Upload,
        completed: &Completed,
        expires_at: Timestamp,
        event: Option<&Event>,
    ) -> Result<Written, MetadataError>;

    /// Ends an upload as `gone` and keeps that knowledge until `expires_at`, but not its idempotency key. With an epoch only the holder
    /// of an open upload may; without one any holder is fenced, and a complete upload ends as well: what it became stays. The caller
    /// discards the blob of an open one.
    async fn end_upload(
        &self,
        id: &UploadId,
        epoch: Option<u64>,
        gone: Gone,
        expires_at: Timestamp,
    ) -> Result<Guarded, MetadataError>;

    /// Ends an open upload as [`Gone::Expired`] whose time was up at `now`, as [`MetadataStore::end_upload`] does; [`Guarded::Fenced`]
    /// where progress has moved its expiry since.
    async fn expire_upload(
        &self,
        id: &UploadId,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<Guarded, MetadataError>;

    /// Up to `limit` open uploads of this owner and client reference, oldest first.
    async fn open_uploads(
        &self,
        owner: Option<&str>,
        client_ref: &str,
        limit: usize,
    ) -> Result<Vec<Upload>, MetadataError>;

    /// Up to `limit` open uploads whose time was up at `now`, but for those that another node than `node` holds which is alive. What
    /// `node` itself holds, it may only have been unable to let go of.
    async fn expired_uploads(
        &self,
        now: Timestamp,
        node: NodeId,
        limit: usize,
    ) -> Result<Vec<Upload>, MetadataError>;

    /// Forgets up to `limit` completed or gone uploads whose time was up at `now`; returns how many.
    async fn forget_uploads(&self, now: Timestamp, limit: usize) -> Result<u64, MetadataError>;

    /// Writes a file whose blob is published, if the condition holds of the path's current file, and records the event that tells
    /// of it. Files may share a blob.
    ///
    /// # Errors
    /// [`MetadataError::Failed`] where the blob is doomed, or recorded with another size or digest.
    async fn put_file(
        &self,
        file: &File,
        condition: &WriteCondition,
        event: Option<&Event>,
    ) -> Result<Written, MetadataError>;

    /// The file under a path.
    async fn file(&self, path: &FilePath) -> Result<Option<File>, MetadataError>;

    /// Deletes the file under a path, if the condition holds of it.
    async fn delete_file(
        &self,
        path: &FilePath,
        condition: &WriteCondition,
        now: Timestamp,
    ) -> Result<Deleted, MetadataError>;

    /// Up to `limit` files whose path begins with `prefix`, in the byte order of their paths, those after `after` only.
    async fn list_files(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<File>, MetadataError>;

    /// Those of `keys` that are needed or doomed. Of a blob that is neither, no record exists.
    async fn known_blobs(&self, keys: &[BlobKey]) -> Result<Vec<BlobKey>, MetadataError>;

    /// Up to `limit` blobs that were doomed before `before`.
    async fn doomed_blobs(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<BlobKey>, MetadataError>;

    /// Forgets a doomed blob, once the blob store has deleted it.
    async fn forget_blob(&self, key: &BlobKey) -> Result<(), MetadataError>;

    /// Gives `node` the lease `name` for `duration` from now on, if nobody has it, it has expired, or it is this node's already;
    /// `None` where another has it. Times are the store's own, whatever the nodes' clocks say.
    async fn lease(
        &self,
        name: &str,
        node: NodeId,
        duration: Duration,
    ) -> Result<Option<Lease>, MetadataError>;

    /// Gives the lease `name` back; one that `node` does not have stays where it is.
    async fn release_lease(&self, name: &str, node: NodeId) -> Result<(), MetadataError>;

    /// Forgets up to `limit` leases that have expired; returns how many.
    async fn forget_leases(&self, limit: usize) -> Result<u64, MetadataError>;

    /// Whether other nodes may use the store at the same time.
    fn is_shared(&self) -> bool;

    /// Whether the store can be written at this moment; for readiness checks.
    async fn check(&self) -> Result<(), MetadataError>;

    /// Returns when the store can do no more work, because it was closed or because a fault has ended its worker; of a store without
    /// a worker never. A server does not outlive it.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    async fn ended(&self) {
        std::future::pending().await
    }

    /// Ends all work and closes the store; nothing may be called after.
    async fn close(&self);
}
