//! Changes of files and their blobs.

use domain::event::Event;
use domain::file::{DELETED_REMEMBERED, File, WriteCondition};
use domain::metadata_store::{Deleted, MetadataError, Written};
use domain::{BlobKey, FilePath, Timestamp};

use super::events::record_event;
use crate::engine::{Command, Lock, Transaction};
use crate::queries::read_file;
use crate::rows::column;
use crate::sql;
use crate::values::{Value, values};

/// See [`put_file`](domain::MetadataStore::put_file).
#[derive(Debug)]
pub(crate) struct PutFile {
    pub(crate) file: File,
    pub(crate) condition: WriteCondition,
    pub(crate) event: Option<Event>,
}

impl Command for PutFile {
    type Answer = Written;
    const DOING: &'static str = "record a file";

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<Written, MetadataError> {
        let file = &self.file;
        transaction.lock(Lock::Path(&file.path)).await?;
        let current = read_file(transaction, &file.path).await?;
        if !self.condition.holds(current.as_ref()) {
            return Ok(Written::ConditionFailed(current.map(Box::new)));
        }
        lock_blobs(transaction, file, current.as_ref()).await?;
        let values = file_values(file)?;
        transaction.exactly(2, sql::PUT_FILE, &values).await?;
        record_event(transaction, self.event.as_ref()).await?;
        replaced(transaction, file, current.as_ref()).await
    }
}

/// See [`delete_file`](domain::MetadataStore::delete_file).
#[derive(Debug)]
pub(crate) struct DeleteFile {
    pub(crate) path: FilePath,
    pub(crate) condition: WriteCondition,
    pub(crate) now: Timestamp,
}

impl Command for DeleteFile {
    type Answer = Deleted;
    const DOING: &'static str = "delete a file";

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<Deleted, MetadataError> {
        let path = &self.path;
        transaction.lock(Lock::Path(path)).await?;
        let Some(current) = read_file(transaction, path).await? else {
            return Ok(Deleted::Missing);
        };
        if !self.condition.holds(Some(&current)) {
            return Ok(Deleted::ConditionFailed(Box::new(current)));
        }
        let blob = &current.content.blob;
        transaction.lock(Lock::Blobs(&[blob.as_str()])).await?;
        self.remember(transaction, &current).await?;
        let delete = values![path.as_str()];
        transaction.exactly(1, sql::DELETE_FILE, delete).await?;
        doom(transaction, blob, self.now).await?;
        transaction.deleted(path);
        Ok(Deleted::Done)
    }
}

impl DeleteFile {
    /// Records the file's time as long as another file might come to the path in the same second.
    async fn remember<T: Transaction>(
        &self,
        transaction: &mut T,
        current: &File,
    ) -> Result<(), MetadataError> {
        let oldest = self.now.minus(DELETED_REMEMBERED);
        transaction
            .run(sql::FORGET_DELETED, values![oldest])
            .await?;
        if current.latest_at() < oldest {
            return Ok(());
        }
        let values = values![self.path.as_str(), current.latest_at()];
        transaction.exactly(1, sql::REMEMBER_DELETED, values).await
    }
}

/// See [`forget_blob`](domain::MetadataStore::forget_blob).
#[derive(Debug)]
pub(crate) struct ForgetBlob(pub(crate) BlobKey);

impl Command for ForgetBlob {
    type Answer = ();
    const DOING: &'static str = "forget a blob";

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<(), MetadataError> {
        let Self(blob) = self;
        transaction.lock(Lock::Blobs(&[blob.as_str()])).await?;
        // No row: the blob is already forgotten.
        let forgotten = transaction.run(sql::FORGET_BLOB, values![blob]).await;
        forgotten.map(drop)
    }
}

/// Lists the parameters of a file.
pub(super) fn file_values(file: &File) -> Result<[Value<'_>; 7], MetadataError> {
    Ok([
        Value::from(&file.content.blob),
        Value::from(column(file.content.size)?),
        Value::from(&file.content.sha256),
        Value::from(file.path.as_str()),
        Value::from(file.description.media_type.as_deref()),
        Value::from(file.description.filename.as_deref()),
        Value::from(file.modified_at),
    ])
}

/// Locks the blobs of a file and of the file that it replaces. A blob that is new under its path is
/// locked by recording it.
pub(super) async fn lock_blobs<T: Transaction>(
    transaction: &mut T,
    file: &File,
    current: Option<&File>,
) -> Result<(), MetadataError> {
    let Some(current) = current else {
        return Ok(());
    };
    let blobs = [&file.content.blob, &current.content.blob].map(BlobKey::as_str);
    transaction.lock(Lock::Blobs(&blobs)).await
}

/// Dooms the blob of the file that `file` replaced, unless something needs the blob.
pub(super) async fn replaced<T: Transaction>(
    transaction: &mut T,
    file: &File,
    current: Option<&File>,
) -> Result<Written, MetadataError> {
    transaction.written(&file.path).await?;
    let Some(current) = current else {
        return Ok(Written::Created);
    };
    doom(transaction, &current.content.blob, file.modified_at).await?;
    Ok(Written::Replaced)
}

/// Dooms a blob unless something needs it. The blob must be locked.
async fn doom<T: Transaction>(
    transaction: &mut T,
    blob: &BlobKey,
    at: Timestamp,
) -> Result<(), MetadataError> {
    let doomed = transaction.run(sql::DOOM_BLOB, values![blob, at]).await;
    doomed.map(drop)
}
