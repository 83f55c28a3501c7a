//! The changes that can be made, each within a transaction of the writer.
//!
//! A change first reads what it decides by, then writes. Each round trip to the engine's thread costs four times what the engine
//! then does, so what is written together is one text of several statements.

use domain::events::Event;
use domain::files::{DELETED_REMEMBERED, File, WriteCondition};
use domain::metadata_store::{
    Deleted, Guarded, Hold, Inserted, Lease, MetadataError, Seen, Written,
};
use domain::upload::{Completed, Gone, Progress, Target, Told, Upload, UploadState};
use domain::{BlobKey, FilePath, NodeId, Timestamp, UploadId};
use sqlx::Sqlite;
use sqlx::sqlite::SqliteArguments;

use super::events::record_event;
use super::writer::{Command, Transaction};
use super::{engine, read_file, read_upload};
use crate::failures::{NotAsExpected, failed};
use crate::rows::{HeldRow, UploadRow, column, gone_text, lease, seen_columns};
use crate::sql;
use crate::values::limited;

/// See [`insert_upload`](domain::MetadataStore::insert_upload).
#[derive(Debug)]
pub(super) struct InsertUpload(pub(super) Upload);

impl Command for InsertUpload {
    type Answer = Inserted;
    const DOING: &'static str = "record an upload";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Inserted, MetadataError> {
        let Self(upload) = self;
        let UploadState::Open(progress) = &upload.state else {
            return Err(failed(Self::DOING, "a new upload must be open"));
        };
        let plan = &upload.plan;
        let (path, pack, draft) = match &plan.target {
            Target::File(path) => (Some(path.as_str()), None, None),
            Target::Draft { pack, draft } => (None, Some(pack.as_str()), Some(draft.to_string())),
            Target::Pack(pack) => (None, Some(pack.as_str()), None),
        };
        let insert = sqlx::query(sql::INSERT_UPLOAD)
            .bind(upload.id.to_string())
            .bind(upload.blob.as_str())
            .bind(path)
            .bind(pack)
            .bind(draft)
            .bind(plan.condition.if_match.as_deref())
            .bind(plan.condition.if_none_match.as_deref())
            .bind(plan.condition.if_unmodified_since.as_deref())
            .bind(plan.description.media_type.as_deref())
            .bind(plan.description.filename.as_deref())
            .bind(plan.repr_digest.as_deref())
            .bind(plan.owner.as_deref())
            .bind(plan.client_ref.as_deref())
            .bind(plan.idempotency_key.as_deref())
            .bind(plan.tus_metadata.as_deref())
            .bind(plan.tus_concat.as_deref())
            .bind(column(upload.epoch)?)
            .bind(upload.holder.map(|node| node.to_string()))
            .bind(upload.created_at.as_millis())
            .bind(upload.expires_at.as_millis())
            .bind(column(progress.open.offset)?)
            .bind(progress.open.length.map(column).transpose()?)
            .bind(progress.hash.as_bytes());
        if affected(transaction, insert, Self::DOING).await? == 1 {
            return Ok(Inserted::New);
        }
        let existing: Option<UploadRow> = sqlx::query_as(sql::UPLOAD_BY_IDEMPOTENCY_KEY)
            .bind(plan.idempotency_key.as_deref())
            .bind(plan.owner.as_deref())
            .fetch_optional(&mut *transaction.connection)
            .await
            .map_err(engine(Self::DOING))?;
        match existing {
            Some(row) => Ok(Inserted::Existing(Box::new(row.try_into()?))),
            None => Err(failed(Self::DOING, "its name or its blob's is taken")),
        }
    }
}

/// See [`claim_upload`](domain::MetadataStore::claim_upload).
#[derive(Debug)]
pub(super) struct ClaimUpload {
    pub(super) id: UploadId,
    pub(super) holder: Option<NodeId>,
    pub(super) seen: Option<Seen>,
}

impl Command for ClaimUpload {
    type Answer = Option<Upload>;
    const DOING: &'static str = "claim an upload";

    async fn run(
        &self,
        transaction: &mut Transaction<'_>,
    ) -> Result<Option<Upload>, MetadataError> {
        let Self { id, holder, seen } = self;
        let [offset, length, told] = seen_columns(*seen)?;
        let claimed: Option<UploadRow> = sqlx::query_as(sql::CLAIM_UPLOAD)
            .bind(id.to_string())
            .bind(holder.map(|node| node.to_string()))
            .bind(offset)
            .bind(length)
            .bind(told)
            .fetch_optional(&mut *transaction.connection)
            .await
            .map_err(engine(Self::DOING))?;
        match claimed {
            Some(row) => row.try_into().map(Some),
            None => read_upload(&mut *transaction.connection, id, Self::DOING).await,
        }
    }
}

/// See [`record_progress`](domain::MetadataStore::record_progress).
#[derive(Debug)]
pub(super) struct RecordProgress {
    pub(super) id: UploadId,
    pub(super) epoch: u64,
    pub(super) progress: Progress,
    pub(super) expires_at: Timestamp,
    pub(super) hold: Hold,
}

impl Command for RecordProgress {
    type Answer = Guarded;
    const DOING: &'static str = "record an upload's progress";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Guarded, MetadataError> {
        let update = sqlx::query(sql::RECORD_PROGRESS)
            .bind(self.id.to_string())
            .bind(column(self.epoch)?)
            .bind(column(self.progress.open.offset)?)
            .bind(self.progress.open.length.map(column).transpose()?)
            .bind(self.progress.hash.as_bytes())
            .bind(self.expires_at.as_millis())
            .bind(self.hold != Hold::Keep)
            .bind(self.hold == Hold::Settle);
        if affected(transaction, update, Self::DOING).await? == 1 {
            return Ok(Guarded::Done);
        }
        // Progress that is behind what is recorded is true as well, and no news.
        if !holds(transaction, &self.id, self.epoch, Self::DOING).await? {
            return Ok(Guarded::Fenced);
        }
        if self.hold != Hold::Keep {
            let release = Release {
                id: &self.id,
                epoch: self.epoch,
                settles: self.hold == Hold::Settle,
            };
            release.run(transaction, Self::DOING).await?;
        }
        Ok(Guarded::Done)
    }
}

/// See [`tell_upload`](domain::MetadataStore::tell_upload).
#[derive(Debug)]
pub(super) struct TellUpload {
    pub(super) id: UploadId,
    pub(super) epoch: u64,
    pub(super) told: Option<Told>,
}

impl Command for TellUpload {
    type Answer = Guarded;
    const DOING: &'static str = "remember what was told";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Guarded, MetadataError> {
        let tell = sqlx::query(TELL_UPLOAD)
            .bind(self.id.to_string())
            .bind(self.told.map(|told| column(told.offset)).transpose()?)
            .bind(self.told.map(|told| told.at.as_millis()))
            .bind(column(self.epoch)?);
        Ok(match affected(transaction, tell, Self::DOING).await? {
            0 => Guarded::Fenced,
            _ => Guarded::Done,
        })
    }
}

/// See [`release_upload`](domain::MetadataStore::release_upload).
#[derive(Debug)]
pub(super) struct ReleaseUpload {
    pub(super) id: UploadId,
    pub(super) epoch: u64,
}

impl Command for ReleaseUpload {
    type Answer = ();
    const DOING: &'static str = "let go of an upload";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<(), MetadataError> {
        let release = Release {
            id: &self.id,
            epoch: self.epoch,
            settles: false,
        };
        release.run(transaction, Self::DOING).await
    }
}

/// See [`complete_upload`](domain::MetadataStore::complete_upload).
#[derive(Debug)]
pub(super) struct CompleteUpload {
    pub(super) upload: Upload,
    pub(super) completed: Completed,
    pub(super) expires_at: Timestamp,
    pub(super) event: Option<Event>,
}

impl Command for CompleteUpload {
    type Answer = Written;
    const DOING: &'static str = "complete an upload";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Written, MetadataError> {
        let Upload {
            id, plan, epoch, ..
        } = &self.upload;
        let Some(file) = self.upload.file(&self.completed) else {
            return self.complete_archive(transaction).await;
        };
        let row: HeldRow = sqlx::query_as(sql::HELD_AND_FILE)
            .bind(id.to_string())
            .bind(column(*epoch)?)
            .bind(file.path.as_str())
            .fetch_one(&mut *transaction.connection)
            .await
            .map_err(engine(Self::DOING))?;
        let (held, current) = row.try_into()?;
        if !held {
            return Ok(Written::Fenced);
        }
        if !plan.condition.holds(current.as_ref()) {
            return Ok(Written::ConditionFailed(current.map(Box::new)));
        }
        let complete = with_file(sql::COMPLETE_UPLOAD, &file)?
            .bind(id.to_string())
            .bind(column(*epoch)?)
            .bind(self.expires_at.as_millis())
            .bind(current.is_some());
        exactly(3, transaction, complete, Self::DOING).await?;
        record_event(transaction, self.event.as_ref(), Self::DOING).await?;
        replaced(transaction, &file, current.as_ref(), Self::DOING).await
    }
}

impl CompleteUpload {
    async fn complete_archive(
        &self,
        transaction: &mut Transaction<'_>,
    ) -> Result<Written, MetadataError> {
        let completed = &self.completed;
        let complete = sqlx::query(sql::COMPLETE_ARCHIVE)
            .bind(self.upload.id.to_string())
            .bind(column(self.upload.epoch)?)
            .bind(column(completed.complete.length)?)
            .bind(completed.sha256.as_bytes().as_slice())
            .bind(completed.at.as_millis())
            .bind(completed.version.map(column).transpose()?)
            .bind(self.expires_at.as_millis());
        if affected(transaction, complete, Self::DOING).await? == 0 {
            return Ok(Written::Fenced);
        }
        record_event(transaction, self.event.as_ref(), Self::DOING).await?;
        Ok(Written::Created)
    }
}

/// See [`end_upload`](domain::MetadataStore::end_upload) and [`expire_upload`](domain::MetadataStore::expire_upload).
#[derive(Debug)]
pub(super) struct EndUpload {
    pub(super) id: UploadId,
    pub(super) epoch: Option<u64>,
    /// The moment at which its time must be up, where that is why it ends.
    pub(super) expired_at: Option<Timestamp>,
    pub(super) gone: Gone,
    pub(super) expires_at: Timestamp,
}

impl Command for EndUpload {
    type Answer = Guarded;
    const DOING: &'static str = "end an upload";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Guarded, MetadataError> {
        let update = sqlx::query(sql::END_UPLOAD)
            .bind(self.id.to_string())
            .bind(self.epoch.map(column).transpose()?)
            .bind(self.expires_at.as_millis())
            .bind(gone_text(self.gone))
            .bind(self.expired_at.map(Timestamp::as_millis));
        Ok(match affected(transaction, update, Self::DOING).await? {
            0 => Guarded::Fenced,
            _ => Guarded::Done,
        })
    }
}

/// See [`forget_uploads`](domain::MetadataStore::forget_uploads).
#[derive(Debug)]
pub(super) struct ForgetUploads {
    pub(super) now: Timestamp,
    pub(super) limit: usize,
}

impl Command for ForgetUploads {
    type Answer = u64;
    const DOING: &'static str = "forget old uploads";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<u64, MetadataError> {
        let delete = sqlx::query(sql::FORGET_UPLOADS)
            .bind(self.now.as_millis())
            .bind(limited(self.limit));
        affected(transaction, delete, Self::DOING).await
    }
}

/// See [`put_file`](domain::MetadataStore::put_file).
#[derive(Debug)]
pub(super) struct PutFile {
    pub(super) file: File,
    pub(super) condition: WriteCondition,
    pub(super) event: Option<Event>,
}

impl Command for PutFile {
    type Answer = Written;
    const DOING: &'static str = "record a file";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Written, MetadataError> {
        let path = &self.file.path;
        let current = read_file(&mut *transaction.connection, path, Self::DOING).await?;
        if !self.condition.holds(current.as_ref()) {
            return Ok(Written::ConditionFailed(current.map(Box::new)));
        }
        let put = with_file(sql::PUT_FILE, &self.file)?;
        exactly(2, transaction, put, Self::DOING).await?;
        record_event(transaction, self.event.as_ref(), Self::DOING).await?;
        replaced(transaction, &self.file, current.as_ref(), Self::DOING).await
    }
}

/// See [`delete_file`](domain::MetadataStore::delete_file).
#[derive(Debug)]
pub(super) struct DeleteFile {
    pub(super) path: FilePath,
    pub(super) condition: WriteCondition,
    pub(super) now: Timestamp,
}

impl Command for DeleteFile {
    type Answer = Deleted;
    const DOING: &'static str = "delete a file";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Deleted, MetadataError> {
        let path = &self.path;
        let Some(current) = read_file(&mut *transaction.connection, path, Self::DOING).await?
        else {
            return Ok(Deleted::Missing);
        };
        if !self.condition.holds(Some(&current)) {
            return Ok(Deleted::ConditionFailed(Box::new(current)));
        }
        self.remember(transaction, &current).await?;
        let delete = sqlx::query(sql::DELETE_FILE).bind(path.as_str());
        exactly(1, transaction, delete, Self::DOING).await?;
        doom(transaction, &current.content.blob, self.now, Self::DOING).await?;
        transaction.changed(path, None);
        Ok(Deleted::Done)
    }
}

impl DeleteFile {
    /// Remembers the file's time while another might come under its path in the same second.
    async fn remember(
        &self,
        transaction: &mut Transaction<'_>,
        current: &File,
    ) -> Result<(), MetadataError> {
        let oldest = self.now.minus(DELETED_REMEMBERED);
        let forget = sqlx::query(FORGET_DELETED).bind(oldest.as_millis());
        affected(transaction, forget, Self::DOING).await?;
        if current.latest_at() < oldest {
            return Ok(());
        }
        let remember = sqlx::query(sql::REMEMBER_DELETED)
            .bind(self.path.as_str())
            .bind(current.latest_at().as_millis());
        exactly(1, transaction, remember, Self::DOING).await
    }
}

/// See [`forget_blob`](domain::MetadataStore::forget_blob).
#[derive(Debug)]
pub(super) struct ForgetBlob(pub(super) BlobKey);

impl Command for ForgetBlob {
    type Answer = ();
    const DOING: &'static str = "forget a blob";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<(), MetadataError> {
        let delete = sqlx::query(sql::FORGET_BLOB).bind(self.0.as_str());
        // No row: it is forgotten already.
        affected(transaction, delete, Self::DOING).await.map(drop)
    }
}

/// See [`lease`](domain::MetadataStore::lease).
#[derive(Debug)]
pub(super) struct TakeLease {
    pub(super) name: String,
    pub(super) node: NodeId,
    pub(super) millis: i64,
}

impl Command for TakeLease {
    type Answer = Option<Lease>;
    const DOING: &'static str = "take a lease";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Option<Lease>, MetadataError> {
        let expires_at: Option<i64> = sqlx::query_scalar(LEASE)
            .bind(self.name.as_str())
            .bind(self.node.to_string())
            .bind(self.millis)
            .fetch_optional(&mut *transaction.connection)
            .await
            .map_err(engine(Self::DOING))?;
        Ok(expires_at.map(|expires_at| lease(expires_at, self.millis)))
    }
}

/// See [`release_lease`](domain::MetadataStore::release_lease).
#[derive(Debug)]
pub(super) struct ReleaseLease {
    pub(super) name: String,
    pub(super) node: NodeId,
}

impl Command for ReleaseLease {
    type Answer = ();
    const DOING: &'static str = "give a lease back";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<(), MetadataError> {
        let delete = sqlx::query(sql::RELEASE_LEASE)
            .bind(self.name.as_str())
            .bind(self.node.to_string());
        affected(transaction, delete, Self::DOING).await.map(drop)
    }
}

/// See [`forget_leases`](domain::MetadataStore::forget_leases).
#[derive(Debug)]
pub(super) struct ForgetLeases {
    pub(super) limit: usize,
}

impl Command for ForgetLeases {
    type Answer = u64;
    const DOING: &'static str = "forget old leases";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<u64, MetadataError> {
        let delete = sqlx::query(FORGET_LEASES).bind(limited(self.limit));
        affected(transaction, delete, Self::DOING).await
    }
}

/// See [`check`](domain::MetadataStore::check).
#[derive(Debug)]
pub(super) struct Check;

impl Command for Check {
    type Answer = ();
    const DOING: &'static str = "write to the database";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<(), MetadataError> {
        // A number that nobody reads, in the database's first page; writing it takes all that any other write does.
        let write = sqlx::query("pragma user_version = 1");
        affected(transaction, write, Self::DOING).await.map(drop)
    }
}

/// A client of the upload $1 is told $2 at $3.
pub(super) const TELL_UPLOAD: &str = sql::tell_upload!("");

pub(super) const FORGET_DELETED: &str = sql::forget_deleted!("");

const LEASE: &str = sql::lease!(now!());

const FORGET_LEASES: &str = sql::forget_leases!(now!());

/// One of the statements that write a file, with the file's parameters.
fn with_file(statement: &'static str, file: &File) -> Result<Query<'static>, MetadataError> {
    Ok(sqlx::query(statement)
        .bind(file.content.blob.as_str())
        .bind(column(file.content.size)?)
        .bind(file.content.sha256.as_bytes().as_slice())
        .bind(file.path.as_str())
        .bind(file.description.media_type.as_deref())
        .bind(file.description.filename.as_deref())
        .bind(file.modified_at.as_millis()))
}

/// What follows when `file` was written in the place of `current`: the older blob is doomed unless it is needed still.
async fn replaced(
    transaction: &mut Transaction<'_>,
    file: &File,
    current: Option<&File>,
    doing: &'static str,
) -> Result<Written, MetadataError> {
    // As it is now: the store knows what was there before.
    let stored = read_file(&mut *transaction.connection, &file.path, doing).await?;
    transaction.changed(&file.path, stored.as_ref());
    let Some(current) = current else {
        return Ok(Written::Created);
    };
    doom(transaction, &current.content.blob, file.modified_at, doing).await?;
    Ok(Written::Replaced)
}

/// Dooms a blob unless something needs it.
async fn doom(
    transaction: &mut Transaction<'_>,
    blob: &BlobKey,
    at: Timestamp,
    doing: &'static str,
) -> Result<(), MetadataError> {
    let doom = sqlx::query(sql::DOOM_BLOB)
        .bind(blob.as_str())
        .bind(at.as_millis());
    affected(transaction, doom, doing).await.map(drop)
}

/// Its holder under an epoch lets go of an open upload.
struct Release<'a> {
    id: &'a UploadId,
    epoch: u64,
    /// Whether what was told is forgotten.
    settles: bool,
}

impl Release<'_> {
    async fn run(
        self,
        transaction: &mut Transaction<'_>,
        doing: &'static str,
    ) -> Result<(), MetadataError> {
        let release = sqlx::query(sql::RELEASE_UPLOAD)
            .bind(self.id.to_string())
            .bind(column(self.epoch)?)
            .bind(self.settles);
        // No row: another holds it, or it has ended.
        affected(transaction, release, doing).await.map(drop)
    }
}

/// Whether the upload is open under this epoch.
async fn holds(
    transaction: &mut Transaction<'_>,
    id: &UploadId,
    epoch: u64,
    doing: &'static str,
) -> Result<bool, MetadataError> {
    sqlx::query_scalar(sql::HOLDS_UPLOAD)
        .bind(id.to_string())
        .bind(column(epoch)?)
        .fetch_one(&mut *transaction.connection)
        .await
        .map_err(engine(doing))
}

/// A statement with its parameters.
pub(super) type Query<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

/// Runs a statement and returns how many rows it changed.
pub(super) async fn affected(
    transaction: &mut Transaction<'_>,
    statement: Query<'_>,
    doing: &'static str,
) -> Result<u64, MetadataError> {
    statement
        .execute(&mut *transaction.connection)
        .await
        .map(|result| result.rows_affected())
        .map_err(engine(doing))
}

/// Runs statements that must change so many rows, one each.
pub(super) async fn exactly(
    expected: u64,
    transaction: &mut Transaction<'_>,
    statements: Query<'_>,
    doing: &'static str,
) -> Result<(), MetadataError> {
    let affected = affected(transaction, statements, doing).await?;
    if affected == expected {
        Ok(())
    } else {
        Err(failed(doing, NotAsExpected { expected, affected }))
    }
}
