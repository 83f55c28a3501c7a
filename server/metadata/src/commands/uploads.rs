//! Changes of uploads.

use domain::event::Event;
use domain::metadata_store::{Guarded, Hold, Inserted, MetadataError, Seen, Written};
use domain::upload::{Completed, Gone, Progress, Reported, Target, Upload, UploadState};
use domain::{NodeId, Timestamp, UploadId};

use super::events::record_event;
use super::files::{file_values, lock_blobs, replaced};
use crate::engine::{Command, Lock, Scope, Transaction};
use crate::failures::Overtaken;
use crate::queries::read_upload;
use crate::rows::{HeldRow, UploadRow, column, gone_text, seen_columns};
use crate::sql;
use crate::values::{limited, values};

/// See [`insert_upload`](domain::MetadataStore::insert_upload).
#[derive(Debug)]
pub(crate) struct InsertUpload(pub(crate) Upload);

impl Command for InsertUpload {
    type Answer = Inserted;
    const DOING: &'static str = "record an upload";

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<Inserted, MetadataError> {
        let Self(upload) = self;
        let UploadState::Open(progress) = &upload.state else {
            return Err(transaction.failed("a new upload must be open"));
        };
        let plan = &upload.plan;
        let (path, pack, draft) = match &plan.target {
            Target::File(path) => (Some(path.as_str()), None, None),
            Target::Draft { pack, draft } => (None, Some(pack.as_str()), Some(draft.to_string())),
            Target::Pack(pack) => (None, Some(pack.as_str()), None),
        };
        let values = values![
            upload.id.to_string(),
            &upload.blob,
            path,
            pack,
            draft,
            plan.condition.if_match.as_deref(),
            plan.condition.if_none_match.as_deref(),
            plan.condition.if_unmodified_since.as_deref(),
            plan.description.media_type.as_deref(),
            plan.description.filename.as_deref(),
            plan.repr_digest.as_deref(),
            plan.owner.as_deref(),
            plan.client_ref.as_deref(),
            plan.idempotency_key.as_deref(),
            plan.tus_metadata.as_deref(),
            plan.tus_concat.as_deref(),
            column(upload.epoch)?,
            upload.holder.map(|node| node.to_string()),
            upload.created_at,
            upload.expires_at,
            column(progress.open.offset)?,
            progress.open.length.map(column).transpose()?,
            progress.hash.as_bytes(),
        ];
        if transaction.run(sql::INSERT_UPLOAD, values).await? == 1 {
            return Ok(Inserted::New);
        }
        let key = values![plan.idempotency_key.as_deref(), plan.owner.as_deref()];
        let existing = transaction
            .row::<UploadRow>(sql::UPLOAD_BY_IDEMPOTENCY_KEY, key)
            .await?;
        match existing {
            Some(row) => Ok(Inserted::Existing(Box::new(row.try_into()?))),
            // Or the upload with the key has gone since.
            None => Err(transaction.failed(Overtaken("its name or its blob's is taken"))),
        }
    }
}

/// See [`claim_upload`](domain::MetadataStore::claim_upload).
#[derive(Debug)]
pub(crate) struct ClaimUpload {
    pub(crate) id: UploadId,
    pub(crate) holder: Option<NodeId>,
    pub(crate) seen: Option<Seen>,
}

impl Command for ClaimUpload {
    type Answer = Option<Upload>;
    const DOING: &'static str = "claim an upload";
    const SCOPE: Scope = Scope::Statements;

    async fn run<T: Transaction>(
        &self,
        transaction: &mut T,
    ) -> Result<Option<Upload>, MetadataError> {
        let Self { id, holder, seen } = self;
        let [offset, length, reported] = seen_columns(*seen)?;
        let holder = holder.map(|node| node.to_string());
        let values = values![id.to_string(), holder, offset, length, reported];
        let claimed = transaction.row::<UploadRow>(sql::CLAIM_UPLOAD, values);
        match claimed.await? {
            Some(row) => row.try_into().map(Some),
            None => read_upload(transaction, id).await,
        }
    }
}

/// See [`record_progress`](domain::MetadataStore::record_progress).
#[derive(Debug)]
pub(crate) struct RecordProgress {
    pub(crate) id: UploadId,
    pub(crate) epoch: u64,
    pub(crate) progress: Progress,
    pub(crate) expires_at: Timestamp,
    pub(crate) hold: Hold,
}

impl Command for RecordProgress {
    type Answer = Guarded;
    const DOING: &'static str = "record an upload's progress";
    const SCOPE: Scope = Scope::Statements;

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<Guarded, MetadataError> {
        let values = values![
            self.id.to_string(),
            column(self.epoch)?,
            column(self.progress.open.offset)?,
            self.progress.open.length.map(column).transpose()?,
            self.progress.hash.as_bytes(),
            self.expires_at,
            self.hold != Hold::Keep,
            self.hold == Hold::Settle,
        ];
        if transaction.run(sql::RECORD_PROGRESS, values).await? == 1 {
            return Ok(Guarded::Done);
        }
        // Progress below the recorded offset is true as well, but not new.
        let upload = values![self.id.to_string(), column(self.epoch)?];
        let (held,): (bool,) = transaction.one(sql::HOLDS_UPLOAD, upload).await?;
        if !held {
            return Ok(Guarded::Fenced);
        }
        if self.hold != Hold::Keep {
            let settles = self.hold == Hold::Settle;
            release(transaction, &self.id, self.epoch, settles).await?;
        }
        Ok(Guarded::Done)
    }
}

/// See [`report_offset`](domain::MetadataStore::report_offset).
#[derive(Debug)]
pub(crate) struct ReportOffset {
    pub(crate) id: UploadId,
    pub(crate) epoch: u64,
    pub(crate) reported: Option<Reported>,
}

impl Command for ReportOffset {
    type Answer = Guarded;
    const DOING: &'static str = "remember what was told";
    const SCOPE: Scope = Scope::Statements;

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<Guarded, MetadataError> {
        let values = values![
            self.id.to_string(),
            self.reported
                .map(|reported| column(reported.offset))
                .transpose()?,
            self.reported.map(|reported| reported.at),
            column(self.epoch)?,
        ];
        let reported = transaction.run(sql::REPORT_OFFSET, values).await?;
        Ok(guarded(reported))
    }
}

/// See [`release_upload`](domain::MetadataStore::release_upload).
#[derive(Debug)]
pub(crate) struct ReleaseUpload {
    pub(crate) id: UploadId,
    pub(crate) epoch: u64,
}

impl Command for ReleaseUpload {
    type Answer = ();
    const DOING: &'static str = "let go of an upload";
    const SCOPE: Scope = Scope::Statements;

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<(), MetadataError> {
        release(transaction, &self.id, self.epoch, false).await
    }
}

/// See [`complete_upload`](domain::MetadataStore::complete_upload).
#[derive(Debug)]
pub(crate) struct CompleteUpload {
    pub(crate) upload: Upload,
    pub(crate) completed: Completed,
    pub(crate) expires_at: Timestamp,
    pub(crate) event: Option<Event>,
}

impl Command for CompleteUpload {
    type Answer = Written;
    const DOING: &'static str = "complete an upload";

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<Written, MetadataError> {
        let Upload {
            id, plan, epoch, ..
        } = &self.upload;
        let Some(file) = self.upload.file(&self.completed) else {
            return self.complete_archive(transaction).await;
        };
        transaction.lock(Lock::Upload(id)).await?;
        transaction.lock(Lock::Path(&file.path)).await?;
        let held = values![id.to_string(), column(*epoch)?, file.path.as_str()];
        let held: HeldRow = transaction.one(sql::HELD_AND_FILE, held).await?;
        let (held, current) = held.try_into()?;
        if !held {
            return Ok(Written::Fenced);
        }
        if !plan.condition.holds(current.as_ref()) {
            return Ok(Written::ConditionFailed(current.map(Box::new)));
        }
        lock_blobs(transaction, &file, current.as_ref()).await?;
        let complete = values![
            id.to_string(),
            column(*epoch)?,
            self.expires_at,
            current.is_some(),
        ];
        let values = [&file_values(&file)?[..], complete].concat();
        transaction
            .exactly(3, sql::COMPLETE_UPLOAD, &values)
            .await?;
        record_event(transaction, self.event.as_ref()).await?;
        replaced(transaction, &file, current.as_ref()).await
    }
}

impl CompleteUpload {
    async fn complete_archive<T: Transaction>(
        &self,
        transaction: &mut T,
    ) -> Result<Written, MetadataError> {
        let completed = &self.completed;
        let values = values![
            self.upload.id.to_string(),
            column(self.upload.epoch)?,
            column(completed.complete.length)?,
            &completed.sha256,
            completed.at,
            completed.version.map(column).transpose()?,
            self.expires_at,
        ];
        if transaction.run(sql::COMPLETE_ARCHIVE, values).await? == 0 {
            return Ok(Written::Fenced);
        }
        record_event(transaction, self.event.as_ref()).await?;
        Ok(Written::Created)
    }
}

/// See [`end_upload`](domain::MetadataStore::end_upload) and
/// [`expire_upload`](domain::MetadataStore::expire_upload). A second run is fenced; its caller then
/// leaves the bytes to the janitor.
#[derive(Debug)]
pub(crate) struct EndUpload {
    pub(crate) id: UploadId,
    pub(crate) epoch: Option<u64>,
    /// Time by which the upload must have expired, if expiry is the reason.
    pub(crate) expired_at: Option<Timestamp>,
    pub(crate) gone: Gone,
    pub(crate) expires_at: Timestamp,
}

impl Command for EndUpload {
    type Answer = Guarded;
    const DOING: &'static str = "end an upload";
    const SCOPE: Scope = Scope::Statements;

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<Guarded, MetadataError> {
        let values = values![
            self.id.to_string(),
            self.epoch.map(column).transpose()?,
            self.expires_at,
            gone_text(self.gone),
            self.expired_at,
        ];
        let ended = transaction.run(sql::END_UPLOAD, values).await?;
        Ok(guarded(ended))
    }
}

/// See [`forget_uploads`](domain::MetadataStore::forget_uploads).
#[derive(Debug)]
pub(crate) struct ForgetUploads {
    pub(crate) now: Timestamp,
    pub(crate) limit: usize,
}

impl Command for ForgetUploads {
    type Answer = u64;
    const DOING: &'static str = "forget old uploads";
    const SCOPE: Scope = Scope::Statements;

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<u64, MetadataError> {
        let values = values![self.now, limited(self.limit)];
        transaction.run(sql::FORGET_UPLOADS, values).await
    }
}

/// Converts the number of rows that a guarded update changed.
fn guarded(affected: u64) -> Guarded {
    match affected {
        0 => Guarded::Fenced,
        _ => Guarded::Done,
    }
}

/// Clears the holder of an open upload under an epoch, and the reported offset if it `settles`.
async fn release<T: Transaction>(
    transaction: &mut T,
    id: &UploadId,
    epoch: u64,
    settles: bool,
) -> Result<(), MetadataError> {
    let values = values![id.to_string(), column(epoch)?, settles];
    // No row: another request has claimed the upload, or it has ended.
    let released = transaction.run(sql::RELEASE_UPLOAD, values).await;
    released.map(drop)
}
