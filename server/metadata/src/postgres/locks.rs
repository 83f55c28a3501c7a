//! Locks that a change takes before it decides, until its transaction ends.
//!
//! A statement sees the commits before its start, so the statements after a lock see the state that
//! the lock protects. Locks are taken in the order of [`Lock`]'s variants, and those on blobs at
//! one time and in the order of keys: thus no two changes wait for each other.
//!
//! - An **upload**, a **draft** or a **version** is locked by its row.
//! - A **path** or the number of a **pack** is locked by name, as it may have no row yet. The lock
//!   is on a hash, so two names may share a lock, which only delays one of them.
//! - A **blob** is locked by every change that adds a holder, removes one, or forgets the blob. So
//!   of two changes that remove a holder, the second sees that its holder is the last, and no
//!   change adds a holder to a blob that another dooms.
//! - The **subject** of events is locked by name by every change of its first event. So the events
//!   have the order of the changes that they report.

use sqlx::PgConnection;

use crate::engine::Lock;
use crate::values::sought;

/// Kinds of names: the first half of an advisory lock's key, constant across releases.
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
select 1
from pack_versions
where pack = $1
  and number = $2
for update";

/// Locks with a strength that permits inserts of rows that refer to the blob: their transactions
/// take this lock themselves.
pub(super) const LOCK_BLOBS: &str = "
select 1
from blobs
where key = any($1)
order by key
for no key update";

/// Takes a lock until the transaction ends.
pub(super) async fn lock(connection: &mut PgConnection, lock: Lock<'_>) -> sqlx::Result<()> {
    let named = |kind: i32, name| sqlx::query(LOCK_NAME).bind(kind).bind(name);
    let statement = match lock {
        Lock::Upload(id) => sqlx::query(LOCK_UPLOAD).bind(id.to_string()),
        Lock::Path(path) => named(PATHS, path.as_str()),
        Lock::Draft(id) => sqlx::query(LOCK_DRAFT).bind(id.to_string()),
        Lock::Pack(name) => named(PACKS, name.as_str()),
        Lock::Version(pack, number) => sqlx::query(LOCK_VERSION)
            .bind(pack.as_str())
            .bind(sought(number)),
        Lock::Blobs([]) => return Ok(()),
        Lock::Blobs(keys) => sqlx::query(LOCK_BLOBS).bind(keys),
        Lock::Subject(subject) => named(SUBJECTS, subject),
    };
    statement.execute(connection).await.map(drop)
}
