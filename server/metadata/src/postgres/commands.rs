//! The changes that the store can make: each reads what it decides by, under a lock, then writes.

use domain::events::Event;
use domain::files::{Content, DELETED_REMEMBERED, File, WriteCondition};
use domain::metadata_store::{
    Deleted, Guarded, Hold, Inserted, Lease, MetadataError, Seen, Written,
};
use domain::upload::{Completed, Gone, Progress, Target, Told, Upload, UploadState};
use domain::{BlobKey, FilePath, NodeId, Timestamp, UploadId};
use sqlx::PgConnection;

use super::events::record_event;
use super::transaction::{Command, Overtaken, Query, Scope, affected, engine, exactly};
use super::{UPLOAD_BY_IDEMPOTENCY_KEY, locks, read_file, read_upload};
use crate::failures::failed;
use crate::rows::{HeldRow, UploadRow, column, gone_text, lease, seen_columns};
use crate::sql;
use crate::values::limited;

/// See [`insert_upload`](domain::MetadataStore::insert_upload).
pub(super) struct InsertUpload<'a>(pub(super) &'a Upload);

impl Command for InsertUpload<'_> {
    type Answer = Inserted;
    const DOING: &'static str = "record an upload";

    async fn run(&self, connection: &mut PgConnection) -> Result<Inserted, MetadataError> {
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
        if affected(connection, insert, Self::DOING).await? == 1 {
            return Ok(Inserted::New);
        }
        let existing: Option<UploadRow> = sqlx::query_as(UPLOAD_BY_IDEMPOTENCY_KEY)
            .bind(plan.idempotency_key.as_deref())
            .bind(plan.owner.as_deref())
            .fetch_optional(&mut *connection)
            .await
            .map_err(engine(Self::DOING))?;
        match existing {
            Some(row) => Ok(Inserted::Existing(Box::new(row.try_into()?))),
            // Or the one that had the key is gone since.
            None => Err(failed(
                Self::DOING,
                Overtaken("its name or its blob's is taken"),
            )),
        }
    }
}

/// See [`claim_upload`](domain::MetadataStore::claim_upload).
pub(super) struct ClaimUpload {
    pub(super) id: UploadId,
    pub(super) holder: Option<NodeId>,
    pub(super) seen: Option<Seen>,
}

impl Command for ClaimUpload {
    type Answer = Option<Upload>;
    const DOING: &'static str = "claim an upload";
    const SCOPE: Scope = Scope::Statements;

    async fn run(&self, connection: &mut PgConnection) -> Result<Option<Upload>, MetadataError> {
        let Self { id, holder, seen } = self;
        let [offset, length, told] = seen_columns(*seen)?;
        let claimed: Option<UploadRow> = sqlx::query_as(sql::CLAIM_UPLOAD)
            .bind(id.to_string())
            .bind(holder.map(|node| node.to_string()))
            .bind(offset)
            .bind(length)
            .bind(told)
            .fetch_optional(&mut *connection)
            .await
            .map_err(engine(Self::DOING))?;
        match claimed {
            Some(row) => row.try_into().map(Some),
            None => read_upload(&mut *connection, id, Self::DOING).await,
        }
    }
}

/// See [`record_progress`](domain::MetadataStore::record_progress).
pub(super) struct RecordProgress<'a> {
    pub(super) id: UploadId,
    pub(super) epoch: u64,
    pub(super) progress: &'a Progress,
    pub(super) expires_at: Timestamp,
    pub(super) hold: Hold,
}

impl Command for RecordProgress<'_> {
    type Answer = Guarded;
    const DOING: &'static str = "record an upload's progress";
    const SCOPE: Scope = Scope::Statements;

    async fn run(&self, connection: &mut PgConnection) -> Result<Guarded, MetadataError> {
        let update = sqlx::query(sql::RECORD_PROGRESS)
            .bind(self.id.to_string())
            .bind(column(self.epoch)?)
            .bind(column(self.progress.open.offset)?)
            .bind(self.progress.open.length.map(column).transpose()?)
            .bind(self.progress.hash.as_bytes())
            .bind(self.expires_at.as_millis())
            .bind(self.hold != Hold::Keep)
            .bind(self.hold == Hold::Settle);
        if affected(connection, update, Self::DOING).await? == 1 {
            return Ok(Guarded::Done);
        }
        // Progress that is behind what is recorded is true as well, and no news.
        if !holds(connection, &self.id, self.epoch, Self::DOING).await? {
            return Ok(Guarded::Fenced);
        }
        if self.hold != Hold::Keep {
            let release = Release {
                id: &self.id,
                epoch: self.epoch,
                settles: self.hold == Hold::Settle,
            };
            release.run(connection, Self::DOING).await?;
        }
        Ok(Guarded::Done)
    }
}

/// See [`tell_upload`](domain::MetadataStore::tell_upload).
pub(super) struct TellUpload {
    pub(super) id: UploadId,
    pub(super) epoch: u64,
    pub(super) told: Option<Told>,
}

impl Command for TellUpload {
    type Answer = Guarded;
    const DOING: &'static str = "remember what was told";
    const SCOPE: Scope = Scope::Statements;

    async fn run(&self, connection: &mut PgConnection) -> Result<Guarded, MetadataError> {
        let tell = sqlx::query(TELL_UPLOAD)
            .bind(self.id.to_string())
            .bind(self.told.map(|told| column(told.offset)).transpose()?)
            .bind(self.told.map(|told| told.at.as_millis()))
            .bind(column(self.epoch)?);
        Ok(match affected(connection, tell, Self::DOING).await? {
            0 => Guarded::Fenced,
            _ => Guarded::Done,
        })
    }
}

/// See [`release_upload`](domain::MetadataStore::release_upload).
pub(super) struct ReleaseUpload {
    pub(super) id: UploadId,
    pub(super) epoch: u64,
}

impl Command for ReleaseUpload {
    type Answer = ();
    const DOING: &'static str = "let go of an upload";
    const SCOPE: Scope = Scope::Statements;

    async fn run(&self, connection: &mut PgConnection) -> Result<(), MetadataError> {
        let release = Release {
            id: &self.id,
            epoch: self.epoch,
            settles: false,
        };
        release.run(connection, Self::DOING).await
    }
}

/// See [`complete_upload`](domain::MetadataStore::complete_upload).
pub(super) struct CompleteUpload<'a> {
    pub(super) upload: &'a Upload,
    pub(super) completed: &'a Completed,
    pub(super) expires_at: Timestamp,
    pub(super) event: Option<&'a Event>,
}

impl Command for CompleteUpload<'_> {
    type Answer = Written;
    const DOING: &'static str = "complete an upload";

    async fn run(&self, connection: &mut PgConnection) -> Result<Written, MetadataError> {
        let Upload {
            id, plan, epoch, ..
        } = self.upload;
        let Some(file) = self.upload.file(self.completed) else {
            return self.complete_archive(connection).await;
        };
        locks::upload(connection, id, Self::DOING).await?;
        locks::path(connection, &file.path, Self::DOING).await?;
        let row: HeldRow = sqlx::query_as(sql::HELD_AND_FILE)
            .bind(id.to_string())
            .bind(column(*epoch)?)
            .bind(file.path.as_str())
            .fetch_one(&mut *connection)
            .await
            .map_err(engine(Self::DOING))?;
        let (held, current) = row.try_into()?;
        if !held {
            return Ok(Written::Fenced);
        }
        if !plan.condition.holds(current.as_ref()) {
            return Ok(Written::ConditionFailed(current.map(Box::new)));
        }
        write(connection, &file, current.as_ref(), Self::DOING).await?;
        let close = with_file(sql::CLOSE_UPLOAD, &file)?
            .bind(id.to_string())
            .bind(column(*epoch)?)
            .bind(self.expires_at.as_millis())
            .bind(current.is_some());
        exactly(1, connection, close, Self::DOING).await?;
        record_event(connection, self.event, Self::DOING).await?;
        replaced(connection, &file, current.as_ref(), Self::DOING).await
    }
}

impl CompleteUpload<'_> {
    async fn complete_archive(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Written, MetadataError> {
        let completed = self.completed;
        let complete = sqlx::query(sql::COMPLETE_ARCHIVE)
            .bind(self.upload.id.to_string())
            .bind(column(self.upload.epoch)?)
            .bind(column(completed.complete.length)?)
            .bind(completed.sha256.as_bytes().as_slice())
            .bind(completed.at.as_millis())
            .bind(completed.version.map(column).transpose()?)
            .bind(self.expires_at.as_millis());
        if affected(connection, complete, Self::DOING).await? == 0 {
            return Ok(Written::Fenced);
        }
        record_event(connection, self.event, Self::DOING).await?;
        Ok(Written::Created)
    }
}

/// See [`end_upload`](domain::MetadataStore::end_upload) and [`expire_upload`](domain::MetadataStore::expire_upload). Made twice, it
/// is fenced the second time; its caller then leaves the bytes to the janitor.
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
    const SCOPE: Scope = Scope::Statements;

    async fn run(&self, connection: &mut PgConnection) -> Result<Guarded, MetadataError> {
        let update = sqlx::query(sql::END_UPLOAD)
            .bind(self.id.to_string())
            .bind(self.epoch.map(column).transpose()?)
            .bind(self.expires_at.as_millis())
            .bind(gone_text(self.gone))
            .bind(self.expired_at.map(Timestamp::as_millis));
        Ok(match affected(connection, update, Self::DOING).await? {
            0 => Guarded::Fenced,
            _ => Guarded::Done,
        })
    }
}

/// See [`forget_uploads`](domain::MetadataStore::forget_uploads).
pub(super) struct ForgetUploads {
    pub(super) now: Timestamp,
    pub(super) limit: usize,
}

impl Command for ForgetUploads {
    type Answer = u64;
    const DOING: &'static str = "forget old uploads";
    const SCOPE: Scope = Scope::Statements;

    async fn run(&self, connection: &mut PgConnection) -> Result<u64, MetadataError> {
        let delete = sqlx::query(sql::FORGET_UPLOADS)
            .bind(self.now.as_millis())
            .bind(limited(self.limit));
        affected(connection, delete, Self::DOING).await
    }
}

/// See [`put_file`](domain::MetadataStore::put_file).
pub(super) struct PutFile<'a> {
    pub(super) file: &'a File,
    pub(super) condition: &'a WriteCondition,
    pub(super) event: Option<&'a Event>,
}

impl Command for PutFile<'_> {
    type Answer = Written;
    const DOING: &'static str = "record a file";

    async fn run(&self, connection: &mut PgConnection) -> Result<Written, MetadataError> {
        let path = &self.file.path;
        locks::path(connection, path, Self::DOING).await?;
        let current = read_file(&mut *connection, path, Self::DOING).await?;
        if !self.condition.holds(current.as_ref()) {
            return Ok(Written::ConditionFailed(current.map(Box::new)));
        }
        write(connection, self.file, current.as_ref(), Self::DOING).await?;
        record_event(connection, self.event, Self::DOING).await?;
        replaced(connection, self.file, current.as_ref(), Self::DOING).await
    }
}

/// See [`delete_file`](domain::MetadataStore::delete_file).
pub(super) struct DeleteFile<'a> {
    pub(super) path: &'a FilePath,
    pub(super) condition: &'a WriteCondition,
    pub(super) now: Timestamp,
}

impl Command for DeleteFile<'_> {
    type Answer = Deleted;
    const DOING: &'static str = "delete a file";

    async fn run(&self, connection: &mut PgConnection) -> Result<Deleted, MetadataError> {
        let path = self.path;
        locks::path(connection, path, Self::DOING).await?;
        let Some(current) = read_file(&mut *connection, path, Self::DOING).await? else {
            return Ok(Deleted::Missing);
        };
        if !self.condition.holds(Some(&current)) {
            return Ok(Deleted::ConditionFailed(Box::new(current)));
        }
        let blob = &current.content.blob;
        locks::blobs(connection, &[blob.as_str()], Self::DOING).await?;
        self.remember(connection, &current).await?;
        let delete = sqlx::query(sql::DELETE_FILE).bind(path.as_str());
        exactly(1, connection, delete, Self::DOING).await?;
        doom(connection, blob, self.now, Self::DOING).await?;
        Ok(Deleted::Done)
    }
}

impl DeleteFile<'_> {
    /// Remembers the file's time while another might come under its path in the same second.
    async fn remember(
        &self,
        connection: &mut PgConnection,
        current: &File,
    ) -> Result<(), MetadataError> {
        let oldest = self.now.minus(DELETED_REMEMBERED);
        let forget = sqlx::query(FORGET_DELETED).bind(oldest.as_millis());
        affected(connection, forget, Self::DOING).await?;
        if current.latest_at() < oldest {
            return Ok(());
        }
        let remember = sqlx::query(sql::REMEMBER_DELETED)
            .bind(self.path.as_str())
            .bind(current.latest_at().as_millis());
        exactly(1, connection, remember, Self::DOING).await
    }
}

/// See [`forget_blob`](domain::MetadataStore::forget_blob).
pub(super) struct ForgetBlob<'a>(pub(super) &'a BlobKey);

impl Command for ForgetBlob<'_> {
    type Answer = ();
    const DOING: &'static str = "forget a blob";

    async fn run(&self, connection: &mut PgConnection) -> Result<(), MetadataError> {
        let key = self.0.as_str();
        locks::blobs(connection, &[key], Self::DOING).await?;
        for statement in [sql::FORGET_CONTENTS, sql::DELETE_BLOB] {
            let delete = sqlx::query(statement).bind(key);
            // No row: it is forgotten already.
            affected(connection, delete, Self::DOING).await?;
        }
        Ok(())
    }
}

/// See [`lease`](domain::MetadataStore::lease).
pub(super) struct TakeLease<'a> {
    pub(super) name: &'a str,
    pub(super) node: NodeId,
    pub(super) millis: i64,
}

impl Command for TakeLease<'_> {
    type Answer = Option<Lease>;
    const DOING: &'static str = "take a lease";
    const SCOPE: Scope = Scope::Statements;

    async fn run(&self, connection: &mut PgConnection) -> Result<Option<Lease>, MetadataError> {
        let expires_at: Option<i64> = sqlx::query_scalar(LEASE)
            .bind(self.name)
            .bind(self.node.to_string())
            .bind(self.millis)
            .fetch_optional(&mut *connection)
            .await
            .map_err(engine(Self::DOING))?;
        Ok(expires_at.map(|expires_at| lease(expires_at, self.millis)))
    }
}

/// See [`release_lease`](domain::MetadataStore::release_lease).
pub(super) struct ReleaseLease<'a> {
    pub(super) name: &'a str,
    pub(super) node: NodeId,
}

impl Command for ReleaseLease<'_> {
    type Answer = ();
    const DOING: &'static str = "give a lease back";
    const SCOPE: Scope = Scope::Statements;

    async fn run(&self, connection: &mut PgConnection) -> Result<(), MetadataError> {
        let delete = sqlx::query(sql::RELEASE_LEASE)
            .bind(self.name)
            .bind(self.node.to_string());
        affected(connection, delete, Self::DOING).await.map(drop)
    }
}

/// See [`forget_leases`](domain::MetadataStore::forget_leases).
pub(super) struct ForgetLeases {
    pub(super) limit: usize,
}

impl Command for ForgetLeases {
    type Answer = u64;
    const DOING: &'static str = "forget old leases";
    const SCOPE: Scope = Scope::Statements;

    async fn run(&self, connection: &mut PgConnection) -> Result<u64, MetadataError> {
        let delete = sqlx::query(FORGET_LEASES).bind(limited(self.limit));
        affected(connection, delete, Self::DOING).await
    }
}

/// See [`check`](domain::MetadataStore::check).
pub(super) struct Check;

impl Command for Check {
    type Answer = ();
    const DOING: &'static str = "write to the database";
    const SCOPE: Scope = Scope::Statements;

    async fn run(&self, connection: &mut PgConnection) -> Result<(), MetadataError> {
        exactly(1, connection, sqlx::query(TOUCH), Self::DOING).await
    }
}

/// Writes a row that is always there, with what it has already: that takes all that any other write does.
const TOUCH: &str = "
update _sqlx_migrations
set execution_time = execution_time
where version = 1";

/// A client of the upload $1, which has the epoch $4, is told $2 at $3. Nobody waits for the disk: whoever loses this asks again.
pub(super) const TELL_UPLOAD: &str = concat!(
    "
with quickly as (
  select set_config('synchronous_commit', 'off', true)
)",
    sql::tell_upload!("\nfrom quickly")
);

/// Rows that another deletion forgets or writes are left to it.
pub(super) const FORGET_DELETED: &str = sql::forget_deleted!("\n    for update skip locked");

const LEASE: &str = sql::lease!(now!());

const FORGET_LEASES: &str = sql::forget_leases!(now!());

/// One of the statements that write a file, with the file's parameters.
fn with_file(statement: &'static str, file: &File) -> Result<Query<'static>, MetadataError> {
    Ok(sqlx::query(statement)
        .bind(file.content.blob.as_str().to_owned())
        .bind(column(file.content.size)?)
        .bind(file.content.sha256.as_bytes().to_vec())
        .bind(file.path.as_str().to_owned())
        .bind(file.description.media_type.clone())
        .bind(file.description.filename.clone())
        .bind(file.modified_at.as_millis()))
}

/// Writes a file in the place of `current`, both of whose blobs are locked from here on.
async fn write(
    connection: &mut PgConnection,
    file: &File,
    current: Option<&File>,
    doing: &'static str,
) -> Result<(), MetadataError> {
    if let Some(current) = current {
        let blobs = [&file.content.blob, &current.content.blob];
        locks::blobs(connection, &blobs.map(BlobKey::as_str), doing).await?;
    }
    need(connection, &file.content, doing).await?;
    let write = with_file(sql::WRITE_FILE, file)?;
    exactly(1, connection, write, doing).await
}

/// Records that a file or a draft needs a blob, which is locked from here on.
pub(super) async fn need(
    connection: &mut PgConnection,
    content: &Content,
    doing: &'static str,
) -> Result<(), MetadataError> {
    let need = sqlx::query(sql::NEED_BLOB)
        .bind(content.blob.as_str())
        .bind(column(content.size)?)
        .bind(content.sha256.as_bytes().as_slice());
    exactly(1, connection, need, doing).await
}

/// What follows when `file` was written in the place of `current`: the older blob is doomed unless it is needed still.
async fn replaced(
    connection: &mut PgConnection,
    file: &File,
    current: Option<&File>,
    doing: &'static str,
) -> Result<Written, MetadataError> {
    let Some(current) = current else {
        return Ok(Written::Created);
    };
    doom(connection, &current.content.blob, file.modified_at, doing).await?;
    Ok(Written::Replaced)
}

/// Dooms a blob, which is locked, unless something needs it.
async fn doom(
    connection: &mut PgConnection,
    blob: &BlobKey,
    at: Timestamp,
    doing: &'static str,
) -> Result<(), MetadataError> {
    let doom = sqlx::query(sql::DOOM_BLOB)
        .bind(blob.as_str())
        .bind(at.as_millis());
    affected(connection, doom, doing).await.map(drop)
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
        connection: &mut PgConnection,
        doing: &'static str,
    ) -> Result<(), MetadataError> {
        let release = sqlx::query(sql::RELEASE_UPLOAD)
            .bind(self.id.to_string())
            .bind(column(self.epoch)?)
            .bind(self.settles);
        // No row: another holds it, or it has ended.
        affected(connection, release, doing).await.map(drop)
    }
}

/// Whether the upload is open under this epoch.
async fn holds(
    connection: &mut PgConnection,
    id: &UploadId,
    epoch: u64,
    doing: &'static str,
) -> Result<bool, MetadataError> {
    sqlx::query_scalar(sql::HOLDS_UPLOAD)
        .bind(id.to_string())
        .bind(column(epoch)?)
        .fetch_one(&mut *connection)
        .await
        .map_err(engine(doing))
}
