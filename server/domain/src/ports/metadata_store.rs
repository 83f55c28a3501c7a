//! The port to the store of facts: uploads, files, and the blobs that they need.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use thiserror::Error;

use crate::event::Event;
use crate::file::{File, WriteCondition};
use crate::upload::{Completed, Gone, Open, Progress, Reported, Upload, UploadState};
use crate::{BlobKey, FilePath, NodeId, Timestamp, UploadId};

/// An error of a metadata store.
#[derive(Debug, Error)]
pub enum MetadataError {
    /// The store is full, or a limit of the engine is reached. Nothing was changed.
    #[error("the metadata store is full")]
    Full,
    /// The store is unreachable at this moment. The operation may or may not have had its effect.
    #[error("failed to {doing}: the metadata store is out of reach")]
    Unreachable {
        /// Completes the sentence "failed to …".
        doing: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A row holds a combination of values that the code cannot represent.
    #[error("inconsistent row {row} in table {table}: {reason}")]
    Inconsistent {
        /// The table.
        table: &'static str,
        /// The row's key.
        row: String,
        /// The fault.
        reason: String,
    },
    /// Any other failure; `doing` completes the sentence "failed to …".
    #[error("failed to {doing}")]
    Failed {
        /// Completes the sentence "failed to …".
        doing: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Outcome of inserting an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inserted {
    /// The upload is recorded.
    New,
    /// An upload with the same owner and idempotency key existed; nothing was changed.
    Existing(Box<Upload>),
}

/// The state of an open upload that a request relies on when it claims the upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Offset and length.
    pub open: Open,
    /// The offset that was reported to its client.
    pub reported: Option<u64>,
}

impl Seen {
    /// Returns the state of an upload, if it is open.
    pub fn of(upload: &Upload) -> Option<Self> {
        match &upload.state {
            UploadState::Open(progress) => Some(Self {
                open: progress.open,
                reported: upload.reported.map(|reported| reported.offset),
            }),
            UploadState::Complete(_) | UploadState::Gone(_) => None,
        }
    }
}

/// Outcome of a change that requires the present claim on the upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarded {
    /// The change is recorded.
    Done,
    /// Another request has claimed the upload, or the upload is no longer open; nothing was
    /// changed.
    Fenced,
}

/// Effect on an upload's claim when progress is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// The request continues its work.
    Keep,
    /// The work has ended: nobody claims the upload any more, and the epoch stays.
    Release,
    /// As [`Hold::Release`], and the client resumes from this progress: the reported offset is
    /// forgotten.
    Settle,
}

/// A request to another node to release an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    pub upload: UploadId,
    /// The node that had the claim when the request was made.
    pub node: NodeId,
    /// The epoch of that claim.
    pub epoch: u64,
}

/// Outcome of an [`Ask`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The node has the claim, is alive, and is notified.
    Holder,
    /// The node has no claim, or is not alive: there is nobody to wait for.
    Nobody,
}

/// Outcome of writing a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// The path had no file before.
    Created,
    /// The older file under the path is replaced; its blob is doomed unless something else needs
    /// it.
    Replaced,
    /// The condition is false for the current file, which is returned; nothing was changed.
    ConditionFailed(Option<Box<File>>),
    /// See [`Guarded::Fenced`].
    Fenced,
}

/// Outcome of deleting a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deleted {
    /// The file is deleted; its blob is doomed unless something else needs it.
    Done,
    /// The path has no file.
    Missing,
    /// See [`Written::ConditionFailed`].
    ConditionFailed(Box<File>),
}

/// Returns the name of the lease that proves to other nodes that this one is alive.
pub fn node_lease(node: NodeId) -> String {
    format!("node/{node}")
}

/// The exclusive right to the work that a name stands for, until it expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The time at which the lease was given, by the store's clock.
    pub given_at: Timestamp,
    /// The time from which any node may take it, by the store's clock.
    pub expires_at: Timestamp,
}

/// Stores facts. Each method is one transaction: when it returns, its effect is complete and
/// durable, or there is none.
///
/// Blobs are counted here by need: a blob is *needed* while an open upload grows it, a file
/// consists of it, or a version or draft holds it ([`PackStore`](crate::PackStore)), and *doomed*
/// once the last of them is gone, until [`MetadataStore::forget_blob`]. A doomed blob is never
/// needed again. The blob of an upload that ends is not doomed but forgotten at once: nobody reads
/// it.
///
/// Counts are at most 2⁶³ − 1; every method returns [`MetadataError::Full`] for a greater one.
///
/// # Cancel safety
/// A dropped future may or may not have had its effect.
#[async_trait]
pub trait MetadataStore: Debug + Send + Sync + 'static {
    /// Records a new open upload. An idempotency key is remembered for as long as its upload.
    ///
    /// # Errors
    /// [`MetadataError::Failed`] if its name, or its blob's, belongs to another upload.
    async fn insert_upload(&self, upload: &Upload) -> Result<Inserted, MetadataError>;

    /// Returns an upload; `None` if it never existed or is forgotten.
    async fn upload(&self, id: &UploadId) -> Result<Option<Upload>, MetadataError>;

    /// Raises the epoch of an open upload, which fences any earlier claim, and returns the upload
    /// in its new state. An upload that is not open, or differs from `seen`, is returned unchanged.
    /// A request on the node `holder` then has the claim; without a node, nobody has.
    async fn claim_upload(
        &self,
        id: &UploadId,
        holder: Option<NodeId>,
        seen: Option<Seen>,
    ) -> Result<Option<Upload>, MetadataError>;

    /// Records progress and the new expiry of an open upload, under the epoch of its claim, and the
    /// claim's end if the work has ended. Progress behind the recorded one changes none of it, and
    /// returns [`Guarded::Done`].
    async fn record_progress(
        &self,
        id: &UploadId,
        epoch: u64,
        progress: &Progress,
        expires_at: Timestamp,
        hold: Hold,
    ) -> Result<Guarded, MetadataError>;

    /// Records the offset reported to the client of an open or complete upload in place of an
    /// earlier one, or forgets that, unless the upload was claimed since it had this epoch. A
    /// report recorded with [`Guarded::Done`] need not be durable.
    async fn report_offset(
        &self,
        id: &UploadId,
        epoch: u64,
        reported: Option<Reported>,
    ) -> Result<Guarded, MetadataError>;

    /// Records that the claim on an open upload under this epoch has ended; does nothing if another
    /// request has the claim.
    async fn release_upload(&self, id: &UploadId, epoch: u64) -> Result<(), MetadataError>;

    /// Asks the node that has the claim on an open upload to release it, if that node is alive,
    /// that is, has the lease [`node_lease`].
    async fn ask_to_yield(&self, ask: &Ask) -> Result<Asked, MetadataError>;

    /// Streams the requests to release an upload, for any node of this store, from now on. The
    /// stream lasts as long as it is polled; requests may be lost while the store is unreachable,
    /// or if they arrive faster than they are polled.
    fn asks(&self) -> BoxStream<'static, Ask>;

    /// Completes an open upload under the epoch of its claim and publishes its file, if the plan's
    /// condition is true for the current file under the path. The store determines and records
    /// `completed.replaced`. The upload is kept until `expires_at`. On success, the event that
    /// reports it is recorded as well ([`EventStore`](crate::EventStore)).
    async fn complete_upload(
        &self,
        upload: &Upload,
        completed: &Completed,
        expires_at: Timestamp,
        event: Option<&Event>,
    ) -> Result<Written, MetadataError>;

    /// Ends an upload as `gone` and remembers that until `expires_at`, but not its idempotency key.
    /// An epoch restricts this to the claim on an open upload; without one, any claim is fenced,
    /// and a complete upload ends as well: its file or draft stays. The caller discards the blob of
    /// an open upload.
    async fn end_upload(
        &self,
        id: &UploadId,
        epoch: Option<u64>,
        gone: Gone,
        expires_at: Timestamp,
    ) -> Result<Guarded, MetadataError>;

    /// Ends an open upload that expired by `now` as [`Gone::Expired`], as
    /// [`MetadataStore::end_upload`] does; returns [`Guarded::Fenced`] if progress has moved its
    /// expiry since.
    async fn expire_upload(
        &self,
        id: &UploadId,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<Guarded, MetadataError>;

    /// Returns up to `limit` open uploads of this owner and client reference, oldest first.
    async fn open_uploads(
        &self,
        owner: Option<&str>,
        client_ref: &str,
        limit: usize,
    ) -> Result<Vec<Upload>, MetadataError>;

    /// Returns up to `limit` open uploads that expired by `now`, without those claimed by another
    /// live node than `node`. Uploads that `node` itself has claimed are included: it may have
    /// failed to release them.
    async fn expired_uploads(
        &self,
        now: Timestamp,
        node: NodeId,
        limit: usize,
    ) -> Result<Vec<Upload>, MetadataError>;

    /// Forgets up to `limit` completed or gone uploads that expired by `now`; returns their number.
    async fn forget_uploads(&self, now: Timestamp, limit: usize) -> Result<u64, MetadataError>;

    /// Writes a file whose blob is published, if the condition is true for the current file under
    /// the path, and records the event that reports it. Files may share a blob.
    ///
    /// # Errors
    /// [`MetadataError::Failed`] if the blob is doomed, or recorded with another size or digest.
    async fn put_file(
        &self,
        file: &File,
        condition: &WriteCondition,
        event: Option<&Event>,
    ) -> Result<Written, MetadataError>;

    /// Returns the file under a path.
    async fn file(&self, path: &FilePath) -> Result<Option<File>, MetadataError>;

    /// Deletes the file under a path, if the condition is true for it.
    async fn delete_file(
        &self,
        path: &FilePath,
        condition: &WriteCondition,
        now: Timestamp,
    ) -> Result<Deleted, MetadataError>;

    /// Lists up to `limit` files whose path begins with `prefix` and follows `after`, in the byte
    /// order of their paths.
    async fn list_files(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<File>, MetadataError>;

    /// Returns those of `keys` that are needed or doomed. A blob that is neither has no record.
    async fn known_blobs(&self, keys: &[BlobKey]) -> Result<Vec<BlobKey>, MetadataError>;

    /// Returns up to `limit` blobs that were doomed before `before`.
    async fn doomed_blobs(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<BlobKey>, MetadataError>;

    /// Forgets a doomed blob, once the blob store has deleted it.
    async fn forget_blob(&self, key: &BlobKey) -> Result<(), MetadataError>;

    /// Gives `node` the lease `name` for `duration` from now on, if nobody has it, it has expired,
    /// or `node` has it already; returns `None` if another node has it. Times are the store's own,
    /// independent of the nodes' clocks.
    async fn lease(
        &self,
        name: &str,
        node: NodeId,
        duration: Duration,
    ) -> Result<Option<Lease>, MetadataError>;

    /// Returns the lease `name`; does nothing if `node` does not have it.
    async fn release_lease(&self, name: &str, node: NodeId) -> Result<(), MetadataError>;

    /// Forgets up to `limit` expired leases; returns their number.
    async fn forget_leases(&self, limit: usize) -> Result<u64, MetadataError>;

    /// Returns true if other nodes may use the store at the same time.
    fn is_shared(&self) -> bool;

    /// Checks that the store can be written at this moment; for readiness checks.
    async fn check(&self) -> Result<(), MetadataError>;

    /// Waits until the store can do no more work, because it was closed or a fault ended its
    /// worker; for a store without a worker, forever. A server does not outlive its store.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    async fn ended(&self);

    /// Ends all work and closes the store; no method may be called afterwards.
    async fn close(&self);
}
