//! A metadata store that fails as a test has planned.

use std::fmt::Debug;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;

use domain::event::Event;
use domain::file::{File, WriteCondition};
use domain::metadata_store::{
    Ask, Asked, Deleted, Guarded, Hold, Inserted, Lease, MetadataError, MetadataStore, Seen,
    Written,
};
use domain::upload::{Completed, Gone, Progress, Reported, Upload};
use domain::{BlobKey, FilePath, NodeId, Timestamp, UploadId};

use crate::faults::{Fault, Plan, PlannedError};

/// Operations of a store: the methods of [`MetadataStore`].
#[expect(missing_docs, reason = "each is the method of the same name")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    InsertUpload,
    Upload,
    ClaimUpload,
    RecordProgress,
    ReportOffset,
    ReleaseUpload,
    AskToYield,
    CompleteUpload,
    EndUpload,
    ExpireUpload,
    OpenUploads,
    ExpiredUploads,
    ForgetUploads,
    PutFile,
    File,
    DeleteFile,
    ListFiles,
    KnownBlobs,
    DoomedBlobs,
    ForgetBlob,
    Lease,
    ReleaseLease,
    ForgetLeases,
    Check,
}

/// Wraps a store and injects planned faults; all other calls pass through. Faults are
/// planned by the methods of [`Plan`].
#[derive(Debug)]
pub struct FaultyMetadataStore {
    inner: Arc<dyn MetadataStore>,
    plan: Plan<Operation>,
}

impl FaultyMetadataStore {
    /// Returns a store without planned faults.
    pub fn new(inner: Arc<dyn MetadataStore>) -> Self {
        Self {
            inner,
            plan: Plan::default(),
        }
    }
}

impl Deref for FaultyMetadataStore {
    type Target = Plan<Operation>;

    fn deref(&self) -> &Plan<Operation> {
        &self.plan
    }
}

impl PlannedError for MetadataError {
    fn planned(operation: &dyn Debug, fault: &Fault) -> Self {
        let doing = "do what a test planned to fail";
        let source = format!("{operation:?}").into();
        match fault {
            Fault::IsFull => Self::Full,
            Fault::IsAway => Self::Unreachable { doing, source },
            // Refusals and contradictions do not differ from failures here.
            Fault::Fails
            | Fault::FailsAfter
            | Fault::BreaksAfter(_)
            | Fault::IsRefused
            | Fault::IsContradicted
            | Fault::Takes(_)
            | Fault::Waits(_) => Self::Failed { doing, source },
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl MetadataStore for FaultyMetadataStore {
    async fn insert_upload(&self, upload: &Upload) -> Result<Inserted, MetadataError> {
        let work = self.inner.insert_upload(upload);
        self.plan.run(Operation::InsertUpload, work).await
    }

    async fn upload(&self, id: &UploadId) -> Result<Option<Upload>, MetadataError> {
        let work = self.inner.upload(id);
        self.plan.run(Operation::Upload, work).await
    }

    async fn claim_upload(
        &self,
        id: &UploadId,
        holder: Option<NodeId>,
        seen: Option<Seen>,
    ) -> Result<Option<Upload>, MetadataError> {
        let work = self.inner.claim_upload(id, holder, seen);
        self.plan.run(Operation::ClaimUpload, work).await
    }

    async fn record_progress(
        &self,
        id: &UploadId,
        epoch: u64,
        progress: &Progress,
        expires_at: Timestamp,
        hold: Hold,
    ) -> Result<Guarded, MetadataError> {
        let work = self
            .inner
            .record_progress(id, epoch, progress, expires_at, hold);
        self.plan.run(Operation::RecordProgress, work).await
    }

    async fn report_offset(
        &self,
        id: &UploadId,
        epoch: u64,
        reported: Option<Reported>,
    ) -> Result<Guarded, MetadataError> {
        let work = self.inner.report_offset(id, epoch, reported);
        self.plan.run(Operation::ReportOffset, work).await
    }

    async fn release_upload(&self, id: &UploadId, epoch: u64) -> Result<(), MetadataError> {
        let work = self.inner.release_upload(id, epoch);
        self.plan.run(Operation::ReleaseUpload, work).await
    }

    async fn ask_to_yield(&self, ask: &Ask) -> Result<Asked, MetadataError> {
        let work = self.inner.ask_to_yield(ask);
        self.plan.run(Operation::AskToYield, work).await
    }

    fn asks(&self) -> BoxStream<'static, Ask> {
        self.inner.asks()
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        completed: &Completed,
        expires_at: Timestamp,
        event: Option<&Event>,
    ) -> Result<Written, MetadataError> {
        let work = self
            .inner
            .complete_upload(upload, completed, expires_at, event);
        self.plan.run(Operation::CompleteUpload, work).await
    }

    async fn end_upload(
        &self,
        id: &UploadId,
        epoch: Option<u64>,
        gone: Gone,
        expires_at: Timestamp,
    ) -> Result<Guarded, MetadataError> {
        let work = self.inner.end_upload(id, epoch, gone, expires_at);
        self.plan.run(Operation::EndUpload, work).await
    }

    async fn expire_upload(
        &self,
        id: &UploadId,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<Guarded, MetadataError> {
        let work = self.inner.expire_upload(id, now, expires_at);
        self.plan.run(Operation::ExpireUpload, work).await
    }

    async fn open_uploads(
        &self,
        owner: Option<&str>,
        client_ref: &str,
        limit: usize,
    ) -> Result<Vec<Upload>, MetadataError> {
        let work = self.inner.open_uploads(owner, client_ref, limit);
        self.plan.run(Operation::OpenUploads, work).await
    }

    async fn expired_uploads(
        &self,
        now: Timestamp,
        node: NodeId,
        limit: usize,
    ) -> Result<Vec<Upload>, MetadataError> {
        let work = self.inner.expired_uploads(now, node, limit);
        self.plan.run(Operation::ExpiredUploads, work).await
    }

    async fn forget_uploads(&self, now: Timestamp, limit: usize) -> Result<u64, MetadataError> {
        let work = self.inner.forget_uploads(now, limit);
        self.plan.run(Operation::ForgetUploads, work).await
    }

    async fn put_file(
        &self,
        file: &File,
        condition: &WriteCondition,
        event: Option<&Event>,
    ) -> Result<Written, MetadataError> {
        let work = self.inner.put_file(file, condition, event);
        self.plan.run(Operation::PutFile, work).await
    }

    async fn file(&self, path: &FilePath) -> Result<Option<File>, MetadataError> {
        let work = self.inner.file(path);
        self.plan.run(Operation::File, work).await
    }

    async fn delete_file(
        &self,
        path: &FilePath,
        condition: &WriteCondition,
        now: Timestamp,
    ) -> Result<Deleted, MetadataError> {
        let work = self.inner.delete_file(path, condition, now);
        self.plan.run(Operation::DeleteFile, work).await
    }

    async fn list_files(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<File>, MetadataError> {
        let work = self.inner.list_files(prefix, after, limit);
        self.plan.run(Operation::ListFiles, work).await
    }

    async fn known_blobs(&self, keys: &[BlobKey]) -> Result<Vec<BlobKey>, MetadataError> {
        let work = self.inner.known_blobs(keys);
        self.plan.run(Operation::KnownBlobs, work).await
    }

    async fn doomed_blobs(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<BlobKey>, MetadataError> {
        let work = self.inner.doomed_blobs(before, limit);
        self.plan.run(Operation::DoomedBlobs, work).await
    }

    async fn forget_blob(&self, key: &BlobKey) -> Result<(), MetadataError> {
        let work = self.inner.forget_blob(key);
        self.plan.run(Operation::ForgetBlob, work).await
    }

    async fn lease(
        &self,
        name: &str,
        node: NodeId,
        duration: Duration,
    ) -> Result<Option<Lease>, MetadataError> {
        let work = self.inner.lease(name, node, duration);
        self.plan.run(Operation::Lease, work).await
    }

    async fn release_lease(&self, name: &str, node: NodeId) -> Result<(), MetadataError> {
        let work = self.inner.release_lease(name, node);
        self.plan.run(Operation::ReleaseLease, work).await
    }

    async fn forget_leases(&self, limit: usize) -> Result<u64, MetadataError> {
        let work = self.inner.forget_leases(limit);
        self.plan.run(Operation::ForgetLeases, work).await
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }

    async fn check(&self) -> Result<(), MetadataError> {
        let work = self.inner.check();
        self.plan.run(Operation::Check, work).await
    }

    async fn ended(&self) {
        self.inner.ended().await;
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_metadata_store::MemoryMetadataStore;
    use crate::metadata_store::upload;

    async fn fresh() -> (Box<FaultyMetadataStore>, ()) {
        let inner = Arc::new(MemoryMetadataStore::default());
        (Box::new(FaultyMetadataStore::new(inner)), ())
    }

    crate::metadata_store_contract!(fresh);

    #[tokio::test]
    async fn what_is_planned_fails_and_nothing_else() {
        let (store, ()) = fresh().await;
        store.nth(Operation::InsertUpload, 2, Fault::Fails);
        store.nth(Operation::InsertUpload, 3, Fault::FailsAfter);
        let mut there = Vec::new();
        for _ in 0..4 {
            let upload = upload("a");
            let inserted = store.insert_upload(&upload).await.is_ok();
            let read = store.upload(&upload.id).await.unwrap().is_some();
            there.push((inserted, read));
        }
        assert_eq!(
            there,
            [(true, true), (false, false), (false, true), (true, true)]
        );
        store.always(Operation::Check, Fault::IsFull);
        for _ in 0..2 {
            assert!(matches!(store.check().await, Err(MetadataError::Full)));
        }
        store.heal();
        assert!(store.check().await.is_ok());
        assert_eq!(store.count(Operation::Check), 3);
    }
}
