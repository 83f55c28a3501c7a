//! What a change locks before it decides, until its transaction ends.
//!
//! A statement sees what was committed before it began, so it is the statements after a lock that see what the lock keeps still.
//! Locks are taken in the order of this file, and those on blobs at one time and in the order of their keys: thus no two changes
//! wait for each other.
//!
//! - An **upload**, a **draft** or a **version** is locked by its row.
//! - A **path** or the number of a **pack** is locked by name, as there may be no row yet: by a hash, so that two may share a lock,
//!   which only makes one wait.
//! - A **blob** is locked by whoever comes to hold it, lets go of it, or forgets it. So of two that let go of a blob the second
//!   sees that it is the last, and none holds a blob that another dooms.
//! - The **subject** of events is locked by name by whoever changes which of its events is the first. So the order of events is that
//!   of the changes that they tell of.

use archive::PackName;
use domain::metadata_store::MetadataError;
use domain::{DraftId, FilePath, UploadId};
use sqlx::PgConnection;

use super::transaction::{affected, engine};

/// What names are locked as: the first half of an advisory lock's key, the same in every release.
const PATHS: i32 = 1;
const PACKS: i32 = 2;
const SUBJECTS: i32 = 3;

pub(super) const LOCK_UPLOAD: &str = "
select 1
from uploads
where id = $1
for update";

const LOCK_NAME: &str = "
select pg_advisory_xact_lock($1, hashtext($2))";

pub(super) const LOCK_DRAFT: &str = "
select 1
from drafts
where id = $1
for update";

pub(super) const LOCK_VERSION: &str = "
select id
from pack_versions
where pack = $1
  and number = $2
for update";

/// A strength that lets rows be inserted which refer to the blob: those who insert them have this lock themselves.
pub(super) const LOCK_BLOBS: &str = "
select 1
from blobs
where key = any($1)
order by key
for no key update";

/// Locks an upload.
pub(super) async fn upload(
    connection: &mut PgConnection,
    id: &UploadId,
    doing: &'static str,
) -> Result<(), MetadataError> {
    let lock = sqlx::query(LOCK_UPLOAD).bind(id.to_string());
    affected(connection, lock, doing).await.map(drop)
}

/// Locks what a path has, be it a file or none.
pub(super) async fn path(
    connection: &mut PgConnection,
    path: &FilePath,
    doing: &'static str,
) -> Result<(), MetadataError> {
    let lock = sqlx::query(LOCK_NAME).bind(PATHS).bind(path.as_str());
    affected(connection, lock, doing).await.map(drop)
}

/// Locks a draft and what it holds.
pub(super) async fn draft(
    connection: &mut PgConnection,
    id: &DraftId,
    doing: &'static str,
) -> Result<(), MetadataError> {
    let lock = sqlx::query(LOCK_DRAFT).bind(id.to_string());
    affected(connection, lock, doing).await.map(drop)
}

/// Locks which number a pack's next version has.
pub(super) async fn pack(
    connection: &mut PgConnection,
    name: &PackName,
    doing: &'static str,
) -> Result<(), MetadataError> {
    let lock = sqlx::query(LOCK_NAME).bind(PACKS).bind(name.as_str());
    affected(connection, lock, doing).await.map(drop)
}

/// Locks a version and what it holds, and returns its row's id.
pub(super) async fn version(
    connection: &mut PgConnection,
    pack: &PackName,
    number: i64,
    doing: &'static str,
) -> Result<Option<i64>, MetadataError> {
    sqlx::query_scalar(LOCK_VERSION)
        .bind(pack.as_str())
        .bind(number)
        .fetch_optional(connection)
        .await
        .map_err(engine(doing))
}

/// Locks those of the blobs that are recorded.
pub(super) async fn blobs(
    connection: &mut PgConnection,
    keys: &[&str],
    doing: &'static str,
) -> Result<(), MetadataError> {
    let lock = sqlx::query(LOCK_BLOBS).bind(keys);
    affected(connection, lock, doing).await.map(drop)
}

/// Locks which events of a subject there are.
pub(super) async fn subject(
    connection: &mut PgConnection,
    subject: &str,
    doing: &'static str,
) -> Result<(), MetadataError> {
    let lock = sqlx::query(LOCK_NAME).bind(SUBJECTS).bind(subject);
    affected(connection, lock, doing).await.map(drop)
}
