//! Ports over an engine: each method runs a [`Command`](crate::engine::Command) or a query.

mod events;
mod packs;

use std::time::Duration;

use async_trait::async_trait;
use domain::event::Event;
use domain::file::{File, WriteCondition};
use domain::metadata_store::{
    Ask, Asked, Deleted, Guarded, Hold, Inserted, Lease, MetadataError, MetadataStore, Seen,
    Written,
};
use domain::upload::{Completed, Gone, Progress, Reported, Upload};
use domain::{BlobKey, FilePath, NodeId, Timestamp, UploadId};
use futures::stream::BoxStream;

use crate::commands::files::{DeleteFile, ForgetBlob, PutFile};
use crate::commands::leases::{Check, ForgetLeases, ReleaseLease, TakeLease};
use crate::commands::uploads::{
    ClaimUpload, CompleteUpload, EndUpload, ForgetUploads, InsertUpload, RecordProgress,
    ReleaseUpload, ReportOffset,
};
use crate::engine::{Engine, Reader as _};
use crate::queries::read_upload;
use crate::rows::{FileRow, UploadRow, blob_key};
use crate::sql;
use crate::values::{Column, PathRange, before_nul, has_nul, limited, millis, values};

/// A store in a database.
#[derive(Debug)]
pub(crate) struct Store<E>(pub(crate) E);

#[async_trait]
impl<E: Engine> MetadataStore for Store<E> {
    async fn insert_upload(&self, upload: &Upload) -> Result<Inserted, MetadataError> {
        self.0.change(InsertUpload(upload.clone())).await
    }

    async fn upload(&self, id: &UploadId) -> Result<Option<Upload>, MetadataError> {
        read_upload(&mut self.0.reader("read an upload"), id).await
    }

    async fn claim_upload(
        &self,
        id: &UploadId,
        holder: Option<NodeId>,
        seen: Option<Seen>,
    ) -> Result<Option<Upload>, MetadataError> {
        let command = ClaimUpload {
            id: *id,
            holder,
            seen,
        };
        self.0.change(command).await
    }

    async fn record_progress(
        &self,
        id: &UploadId,
        epoch: u64,
        progress: &Progress,
        expires_at: Timestamp,
        hold: Hold,
    ) -> Result<Guarded, MetadataError> {
        let command = RecordProgress {
            id: *id,
            epoch,
            progress: progress.clone(),
            expires_at,
            hold,
        };
        self.0.change(command).await
    }

    async fn report_offset(
        &self,
        id: &UploadId,
        epoch: u64,
        reported: Option<Reported>,
    ) -> Result<Guarded, MetadataError> {
        let command = ReportOffset {
            id: *id,
            epoch,
            reported,
        };
        self.0.change(command).await
    }

    async fn release_upload(&self, id: &UploadId, epoch: u64) -> Result<(), MetadataError> {
        self.0.change(ReleaseUpload { id: *id, epoch }).await
    }

    async fn ask_to_yield(&self, ask: &Ask) -> Result<Asked, MetadataError> {
        self.0.ask_to_yield(*ask).await
    }

    fn asks(&self) -> BoxStream<'static, Ask> {
        self.0.asks()
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        completed: &Completed,
        expires_at: Timestamp,
        event: Option<&Event>,
    ) -> Result<Written, MetadataError> {
        let command = CompleteUpload {
            upload: upload.clone(),
            completed: completed.clone(),
            expires_at,
            event: event.cloned(),
        };
        self.0.change(command).await
    }

    async fn end_upload(
        &self,
        id: &UploadId,
        epoch: Option<u64>,
        gone: Gone,
        expires_at: Timestamp,
    ) -> Result<Guarded, MetadataError> {
        let command = EndUpload {
            id: *id,
            epoch,
            expired_at: None,
            gone,
            expires_at,
        };
        self.0.change(command).await
    }

    async fn expire_upload(
        &self,
        id: &UploadId,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<Guarded, MetadataError> {
        let command = EndUpload {
            id: *id,
            epoch: None,
            expired_at: Some(now),
            gone: Gone::Expired,
            expires_at,
        };
        self.0.change(command).await
    }

    async fn open_uploads(
        &self,
        owner: Option<&str>,
        client_ref: &str,
        limit: usize,
    ) -> Result<Vec<Upload>, MetadataError> {
        if has_nul(client_ref) {
            return Ok(Vec::new());
        }
        let mut reader = self.0.reader("find a client's uploads");
        let values = values![client_ref, owner, limited(limit)];
        let rows: Vec<UploadRow> = reader.rows(sql::OPEN_UPLOADS, values).await?;
        rows.into_iter().map(Upload::try_from).collect()
    }

    async fn expired_uploads(
        &self,
        now: Timestamp,
        node: NodeId,
        limit: usize,
    ) -> Result<Vec<Upload>, MetadataError> {
        let mut reader = self.0.reader("find expired uploads");
        let values = values![now, limited(limit), node.to_string()];
        let rows: Vec<UploadRow> = reader.rows(sql::EXPIRED_UPLOADS, values).await?;
        rows.into_iter().map(Upload::try_from).collect()
    }

    async fn forget_uploads(&self, now: Timestamp, limit: usize) -> Result<u64, MetadataError> {
        self.0.change(ForgetUploads { now, limit }).await
    }

    async fn put_file(
        &self,
        file: &File,
        condition: &WriteCondition,
        event: Option<&Event>,
    ) -> Result<Written, MetadataError> {
        let command = PutFile {
            file: file.clone(),
            condition: condition.clone(),
            event: event.cloned(),
        };
        self.0.change(command).await
    }

    async fn file(&self, path: &FilePath) -> Result<Option<File>, MetadataError> {
        self.0.file(path).await
    }

    async fn delete_file(
        &self,
        path: &FilePath,
        condition: &WriteCondition,
        now: Timestamp,
    ) -> Result<Deleted, MetadataError> {
        let command = DeleteFile {
            path: path.clone(),
            condition: condition.clone(),
            now,
        };
        self.0.change(command).await
    }

    async fn list_files(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<File>, MetadataError> {
        if has_nul(prefix) {
            return Ok(Vec::new());
        }
        let PathRange { from, end } = PathRange::new(prefix, after.map(before_nul));
        let mut reader = self.0.reader("list files");
        let rows: Vec<FileRow> = match end {
            Some(end) => {
                let values = values![from, end, limited(limit)];
                reader.rows(sql::FILES_BETWEEN, values).await?
            }
            None => {
                let values = values![from, limited(limit)];
                reader.rows(sql::FILES_FROM, values).await?
            }
        };
        rows.into_iter().map(File::try_from).collect()
    }

    async fn known_blobs(&self, keys: &[BlobKey]) -> Result<Vec<BlobKey>, MetadataError> {
        let mut reader = self.0.reader("look blobs up");
        let keys = Column::texts(keys.iter().map(BlobKey::as_str));
        let known: Vec<String> = reader.scalars(sql::KNOWN_BLOBS, values![&keys]).await?;
        known.iter().map(|key| blob_key(key)).collect()
    }

    async fn doomed_blobs(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<BlobKey>, MetadataError> {
        let mut reader = self.0.reader("find doomed blobs");
        let values = values![before, limited(limit)];
        let doomed: Vec<String> = reader.scalars(sql::DOOMED_BLOBS, values).await?;
        doomed.iter().map(|key| blob_key(key)).collect()
    }

    async fn forget_blob(&self, key: &BlobKey) -> Result<(), MetadataError> {
        self.0.change(ForgetBlob(key.clone())).await
    }

    async fn lease(
        &self,
        name: &str,
        node: NodeId,
        duration: Duration,
    ) -> Result<Option<Lease>, MetadataError> {
        let command = TakeLease {
            name: name.to_owned(),
            node,
            millis: millis(duration),
        };
        self.0.change(command).await
    }

    async fn release_lease(&self, name: &str, node: NodeId) -> Result<(), MetadataError> {
        let name = name.to_owned();
        self.0.change(ReleaseLease { name, node }).await
    }

    async fn forget_leases(&self, limit: usize) -> Result<u64, MetadataError> {
        self.0.change(ForgetLeases { limit }).await
    }

    fn is_shared(&self) -> bool {
        self.0.is_shared()
    }

    async fn check(&self) -> Result<(), MetadataError> {
        self.0.change(Check).await
    }

    async fn ended(&self) {
        self.0.ended().await;
    }

    async fn close(&self) {
        self.0.close().await;
    }
}
