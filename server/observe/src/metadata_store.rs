//! The ports of the metadata store, observed. One store implements all of them, and the names of
//! their operations differ, so they share their metrics.

use std::sync::Arc;
use std::time::Duration;

use archive::PackName;
use async_trait::async_trait;
use domain::digest::Sha256Digest;
use domain::event::{Event, EventId};
use domain::event_store::{Attempt, DeadEvent, EventStore, PendingEvent};
use domain::file::{Content, File, FilePath, WriteCondition};
use domain::metadata_store::{
    Ask, Asked, Deleted, Guarded, Hold, Inserted, Lease, MetadataError, MetadataStore, Seen,
    Written,
};
use domain::pack::{DraftRecord, PackSummary, PackVersion, StoredContent};
use domain::pack_store::{PackStore, Published};
use domain::upload::{Completed, Gone, Progress, Reported, Upload};
use domain::{BlobKey, DraftId, NodeId, Timestamp, UploadId};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use metrics::counter;

use crate::operation::{Observed, Operation};
use crate::table::{ASKS, METADATA_STORE};

/// Returns `store` with every call recorded.
pub fn metadata_store(store: Arc<dyn MetadataStore>) -> Arc<dyn MetadataStore> {
    Arc::new(Observed {
        inner: store,
        operations: Arc::new(MetadataOperations::new()),
    })
}

/// Returns `store` with every call recorded.
pub fn pack_store(store: Arc<dyn PackStore>) -> Arc<dyn PackStore> {
    Arc::new(Observed {
        inner: store,
        operations: Arc::new(PackOperations::new()),
    })
}

/// Returns `store` with every call recorded.
pub fn event_store(store: Arc<dyn EventStore>) -> Arc<dyn EventStore> {
    Arc::new(Observed {
        inner: store,
        operations: Arc::new(EventOperations::new()),
    })
}

/// Implements a port by recording its methods: each returns the type after the arrow as a
/// `Result<_, MetadataError>`. `beside` has the port's other methods in full.
///
/// No port has a method with a body, so a method that is missing here does not compile.
macro_rules! observed {
    (
        $port:ident with $operations:ident
        $(async fn $method:ident(&self $(, $argument:ident: $type:ty)* $(,)?) -> $output:ty;)*
        beside { $($beside:tt)* }
    ) => {
        #[doc = concat!("The operations of [`", stringify!($port), "`].")]
        #[derive(Debug)]
        struct $operations {
            $($method: Arc<Operation>,)*
        }

        impl $operations {
            fn new() -> Self {
                let operation = |name| Operation::new::<MetadataError>(&METADATA_STORE, name);
                Self {
                    $($method: Arc::new(operation(stringify!($method))),)*
                }
            }
        }

        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl $port for Observed<Arc<dyn $port>, $operations> {
            $(
                async fn $method(&self $(, $argument: $type)*) -> Result<$output, MetadataError> {
                    let work = self.inner.$method($($argument),*);
                    self.operations.$method.observe(work).await
                }
            )*

            $($beside)*
        }

        #[cfg(test)]
        crate::tests::stub! {
            $port
            $(async fn $method(&self $(, $argument: $type)*) -> $output;)*
        }
    };
}

observed! {
    MetadataStore with MetadataOperations

    async fn insert_upload(&self, upload: &Upload) -> Inserted;
    async fn upload(&self, id: &UploadId) -> Option<Upload>;
    async fn claim_upload(
        &self,
        id: &UploadId,
        holder: Option<NodeId>,
        seen: Option<Seen>,
    ) -> Option<Upload>;
    async fn record_progress(
        &self,
        id: &UploadId,
        epoch: u64,
        progress: &Progress,
        expires_at: Timestamp,
        hold: Hold,
    ) -> Guarded;
    async fn report_offset(
        &self,
        id: &UploadId,
        epoch: u64,
        reported: Option<Reported>,
    ) -> Guarded;
    async fn release_upload(&self, id: &UploadId, epoch: u64) -> ();
    async fn ask_to_yield(&self, ask: &Ask) -> Asked;
    async fn complete_upload(
        &self,
        upload: &Upload,
        completed: &Completed,
        expires_at: Timestamp,
        event: Option<&Event>,
    ) -> Written;
    async fn end_upload(
        &self,
        id: &UploadId,
        epoch: Option<u64>,
        gone: Gone,
        expires_at: Timestamp,
    ) -> Guarded;
    async fn expire_upload(&self, id: &UploadId, now: Timestamp, expires_at: Timestamp) -> Guarded;
    async fn open_uploads(
        &self,
        owner: Option<&str>,
        client_ref: &str,
        limit: usize,
    ) -> Vec<Upload>;
    async fn expired_uploads(&self, now: Timestamp, node: NodeId, limit: usize) -> Vec<Upload>;
    async fn forget_uploads(&self, now: Timestamp, limit: usize) -> u64;
    async fn put_file(
        &self,
        file: &File,
        condition: &WriteCondition,
        event: Option<&Event>,
    ) -> Written;
    async fn file(&self, path: &FilePath) -> Option<File>;
    async fn delete_file(
        &self,
        path: &FilePath,
        condition: &WriteCondition,
        now: Timestamp,
    ) -> Deleted;
    async fn list_files(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<File>;
    async fn known_blobs(&self, keys: &[BlobKey]) -> Vec<BlobKey>;
    async fn doomed_blobs(&self, before: Timestamp, limit: usize) -> Vec<BlobKey>;
    async fn forget_blob(&self, key: &BlobKey) -> ();
    async fn lease(&self, name: &str, node: NodeId, duration: Duration) -> Option<Lease>;
    async fn release_lease(&self, name: &str, node: NodeId) -> ();
    async fn forget_leases(&self, limit: usize) -> u64;
    async fn check(&self) -> ();

    beside {
        /// Counts what it yields: the stream lasts as long as the server.
        fn asks(&self) -> BoxStream<'static, Ask> {
            let heard = counter!(ASKS);
            self.inner.asks().inspect(move |_| heard.increment(1)).boxed()
        }

        /// Returns a constant: nothing is recorded.
        fn is_shared(&self) -> bool {
            self.inner.is_shared()
        }

        /// Waits for the end of the store: nothing is recorded.
        async fn ended(&self) {
            self.inner.ended().await;
        }

        /// Ends the store, and with it what could be asked for metrics: nothing is recorded.
        async fn close(&self) {
            self.inner.close().await;
        }
    }
}

observed! {
    PackStore with PackOperations

    async fn insert_draft(&self, draft: &DraftRecord) -> ();
    async fn draft(&self, id: &DraftId) -> Option<DraftRecord>;
    async fn forget_draft(&self, id: &DraftId, now: Timestamp) -> bool;
    async fn expire_draft(&self, id: &DraftId, now: Timestamp) -> bool;
    async fn expired_drafts(&self, now: Timestamp, limit: usize) -> Vec<DraftId>;
    async fn store_contents(
        &self,
        draft: &DraftId,
        blobs: &[Content],
        contents: &[StoredContent],
        expires_at: Timestamp,
    ) -> bool;
    async fn hold_blobs(&self, draft: &DraftId, blobs: &[BlobKey]) -> Option<Vec<BlobKey>>;
    async fn drop_contents(&self, draft: &DraftId, blobs: &[BlobKey], now: Timestamp) -> ();
    async fn contents(&self, sha256s: &[Sha256Digest]) -> Vec<StoredContent>;
    async fn next_version(&self, pack: &PackName) -> u64;
    async fn publish_version(
        &self,
        draft: &DraftId,
        version: &PackVersion,
        blobs: &[BlobKey],
        kept_until: Timestamp,
        event: Option<&Event>,
    ) -> Published;
    async fn version(&self, pack: &PackName, number: Option<u64>) -> Option<PackVersion>;
    async fn versions(
        &self,
        pack: &PackName,
        before: Option<u64>,
        limit: usize,
    ) -> Vec<PackVersion>;
    async fn packs(&self, after: Option<&str>, limit: usize) -> Vec<PackSummary>;
    async fn pack(&self, name: &PackName) -> Option<PackSummary>;
    async fn retire_version(&self, pack: &PackName, number: u64, now: Timestamp) -> bool;
    async fn register_need(
        &self,
        pack: &PackName,
        number: u64,
        sha256: &Sha256Digest,
        encoded: &[u8],
        expires_at: Timestamp,
    ) -> bool;
    async fn need(&self, pack: &PackName, number: u64, sha256: &Sha256Digest) -> Option<Vec<u8>>;
    async fn forget_needs(&self, now: Timestamp, limit: usize) -> u64;

    beside {}
}

observed! {
    EventStore with EventOperations

    async fn due_events(&self, now: Timestamp, limit: usize) -> Vec<PendingEvent>;
    async fn record_attempt(&self, id: &EventId, attempt: &Attempt, now: Timestamp) -> ();
    async fn dead_events(&self, after: u64, limit: usize) -> Vec<DeadEvent>;
    async fn replay_event(&self, id: &EventId, now: Timestamp) -> bool;
    async fn forget_dead_events(&self, before: Timestamp, limit: usize) -> u64;

    beside {}
}
