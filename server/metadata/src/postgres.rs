//! PostgreSQL: any number of servers on one database, and nothing of it in memory.
//!
//! Each method takes a connection from a bounded pool for one transaction, at READ COMMITTED, where every statement sees what was
//! committed before it began. Changes of one statement guard themselves. Changes of more first lock what they decide by
//! ([`locks`]), then decide by the statements of [`sql`], as in SQLite. What the engine ends to untangle transactions
//! is run again, a bounded number of times.

/// The present moment by the engine's clock, in milliseconds since 1970.
macro_rules! now {
    () => {
        "floor(extract(epoch from clock_timestamp()) * 1000)::bigint"
    };
}

mod asks;
mod commands;
mod events;
mod locks;
mod pack_commands;
mod pack_lists;
mod packs;
mod transaction;

use std::time::Duration;

use async_trait::async_trait;
use domain::events::Event;
use domain::files::{File, WriteCondition};
use domain::metadata_store::{
    Ask, Asked, Deleted, Guarded, Hold, Inserted, Lease, MetadataError, MetadataStore, Seen,
    Written,
};
use domain::upload::{Completed, Gone, Progress, Told, Upload};
use domain::{BlobKey, FilePath, NodeId, Timestamp, UploadId};
use futures::FutureExt as _;
use futures::stream::BoxStream;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};

use self::asks::AskToYield;
use self::commands::{
    Check, ClaimUpload, CompleteUpload, DeleteFile, EndUpload, ForgetBlob, ForgetLeases,
    ForgetUploads, InsertUpload, PutFile, RecordProgress, ReleaseLease, ReleaseUpload, TakeLease,
    TellUpload,
};
use self::transaction::engine;
use crate::rows::{FileRow, UploadRow, blob_key};
use crate::sql::upload_columns;
use crate::values::{PathRange, limited};
use crate::{OpenError, PostgresConfig, sql, unmigrated, values};

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/postgres");

/// How long a server waits for another that migrates, or for a table that another uses.
const MIGRATION_LOCK_TIMEOUT: Duration = Duration::from_mins(5);

/// A metadata store in a PostgreSQL database that other servers may use at the same time.
#[derive(Debug)]
pub(crate) struct PostgresStore {
    pool: PgPool,
    /// How to connect outside of the pool.
    options: PgConnectOptions,
    /// How long a connection is waited for.
    acquire_timeout: Duration,
}

impl PostgresStore {
    /// Connects to the database, which must exist, and brings its schema up to date.
    pub(crate) async fn open(config: &PostgresConfig) -> Result<Self, OpenError> {
        let cannot_open = |source| OpenError::Engine {
            database: config.url.to_string(),
            source,
        };
        let options = PgConnectOptions::from_url(config.url.secret())
            .map_err(cannot_open)?
            .disable_statement_logging();
        migrate(config, &options).await?;
        let statement_timeout = config.statement_timeout;
        let pool = PgPoolOptions::new()
            .max_connections(config.connections.get())
            .acquire_timeout(config.acquire_timeout)
            .after_connect(move |connection, _| Box::pin(set_up(connection, statement_timeout)))
            .connect_with(options.clone())
            .await
            .map_err(cannot_open)?;
        Ok(Self {
            pool,
            options,
            acquire_timeout: config.acquire_timeout,
        })
    }
}

/// Brings the schema up to date, one server at a time: the migrator holds an advisory lock.
async fn migrate(config: &PostgresConfig, options: &PgConnectOptions) -> Result<(), OpenError> {
    let database = || config.url.to_string();
    let cannot_open = |source| OpenError::Engine {
        database: database(),
        source,
    };
    let mut connection = tokio::time::timeout(config.acquire_timeout, options.connect())
        .await
        .map_err(|_| cannot_open(sqlx::Error::PoolTimedOut))?
        .map_err(cannot_open)?;
    let encoding: String = sqlx::query_scalar("select current_setting('server_encoding')")
        .fetch_one(&mut connection)
        .await
        .map_err(cannot_open)?;
    if encoding != "UTF8" {
        return Err(OpenError::Encoding {
            database: database(),
            encoding,
        });
    }
    sqlx::query("select set_config('lock_timeout', $1, false)")
        .bind(millis(MIGRATION_LOCK_TIMEOUT))
        .execute(&mut connection)
        .await
        .map_err(cannot_open)?;
    MIGRATIONS
        .run(&mut connection)
        .await
        .map_err(|error| unmigrated(database(), &MIGRATIONS, error))?;
    connection.close().await.map_err(cannot_open)
}

/// Makes a new connection what the store relies on, whatever the database or the role say. What is committed must be durable before
/// it is answered, so `synchronous_commit` is never off; how far it waits for replicas is left as it is.
const SET_UP: &str = "
select
  set_config('default_transaction_isolation', 'read committed', false),
  set_config('statement_timeout', $1, false),
  set_config('idle_in_transaction_session_timeout', $1, false),
  set_config(
    'synchronous_commit',
    case
      when current_setting('synchronous_commit') = 'off' then 'on'
      else current_setting('synchronous_commit')
    end,
    false
  )";

async fn set_up(
    connection: &mut PgConnection,
    statement_timeout: Duration,
) -> Result<(), sqlx::Error> {
    sqlx::query(SET_UP)
        .bind(millis(statement_timeout))
        .execute(connection)
        .await
        .map(drop)
}

/// A time in milliseconds, as the engine takes it: 0 would be no bound.
fn millis(time: Duration) -> String {
    const MOST: u128 = i32::MAX as u128;
    time.as_millis().clamp(1, MOST).to_string()
}

#[async_trait]
impl MetadataStore for PostgresStore {
    async fn insert_upload(&self, upload: &Upload) -> Result<Inserted, MetadataError> {
        self.run(InsertUpload(upload)).await
    }

    async fn upload(&self, id: &UploadId) -> Result<Option<Upload>, MetadataError> {
        let id = id.to_string();
        let row: Option<UploadRow> = self
            .read("read an upload", || {
                sqlx::query_as(sql::UPLOAD)
                    .bind(&id)
                    .fetch_optional(&self.pool)
            })
            .await?;
        row.map(Upload::try_from).transpose()
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
        self.run(command).await
    }

    async fn record_progress(
        &self,
        id: &UploadId,
        epoch: u64,
        progress: &Progress,
        expires_at: Timestamp,
        hold: Hold,
    ) -> Result<Guarded, MetadataError> {
        self.run(RecordProgress {
            id: *id,
            epoch,
            progress,
            expires_at,
            hold,
        })
        .await
    }

    async fn tell_upload(
        &self,
        id: &UploadId,
        epoch: u64,
        told: Option<Told>,
    ) -> Result<Guarded, MetadataError> {
        self.run(TellUpload {
            id: *id,
            epoch,
            told,
        })
        .await
    }

    async fn release_upload(&self, id: &UploadId, epoch: u64) -> Result<(), MetadataError> {
        self.run(ReleaseUpload { id: *id, epoch }).await
    }

    async fn ask_to_yield(&self, ask: &Ask) -> Result<Asked, MetadataError> {
        self.run(AskToYield(*ask)).await
    }

    fn asks(&self) -> BoxStream<'static, Ask> {
        asks::listen(self.options.clone())
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        completed: &Completed,
        expires_at: Timestamp,
        event: Option<&Event>,
    ) -> Result<Written, MetadataError> {
        self.run(CompleteUpload {
            upload,
            completed,
            expires_at,
            event,
        })
        .await
    }

    async fn end_upload(
        &self,
        id: &UploadId,
        epoch: Option<u64>,
        gone: Gone,
        expires_at: Timestamp,
    ) -> Result<Guarded, MetadataError> {
        self.run(EndUpload {
            id: *id,
            epoch,
            expired_at: None,
            gone,
            expires_at,
        })
        .await
    }

    async fn expire_upload(
        &self,
        id: &UploadId,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<Guarded, MetadataError> {
        self.run(EndUpload {
            id: *id,
            epoch: None,
            expired_at: Some(now),
            gone: Gone::Expired,
            expires_at,
        })
        .await
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
        let rows: Vec<UploadRow> = self
            .read("find a client's uploads", || {
                sqlx::query_as(OPEN_UPLOADS)
                    .bind(client_ref)
                    .bind(owner)
                    .bind(limited(limit))
                    .fetch_all(&self.pool)
            })
            .await?;
        rows.into_iter().map(Upload::try_from).collect()
    }

    async fn expired_uploads(
        &self,
        now: Timestamp,
        node: NodeId,
        limit: usize,
    ) -> Result<Vec<Upload>, MetadataError> {
        let node = node.to_string();
        let rows: Vec<UploadRow> = self
            .read("find expired uploads", || {
                sqlx::query_as(EXPIRED_UPLOADS)
                    .bind(now.as_millis())
                    .bind(limited(limit))
                    .bind(&node)
                    .fetch_all(&self.pool)
            })
            .await?;
        rows.into_iter().map(Upload::try_from).collect()
    }

    async fn forget_uploads(&self, now: Timestamp, limit: usize) -> Result<u64, MetadataError> {
        self.run(ForgetUploads { now, limit }).await
    }

    async fn put_file(
        &self,
        file: &File,
        condition: &WriteCondition,
        event: Option<&Event>,
    ) -> Result<Written, MetadataError> {
        self.run(PutFile {
            file,
            condition,
            event,
        })
        .await
    }

    async fn file(&self, path: &FilePath) -> Result<Option<File>, MetadataError> {
        let row: Option<FileRow> = self
            .read("read a file's record", || {
                sqlx::query_as(sql::FILE)
                    .bind(path.as_str())
                    .fetch_optional(&self.pool)
            })
            .await?;
        row.map(File::try_from).transpose()
    }

    async fn delete_file(
        &self,
        path: &FilePath,
        condition: &WriteCondition,
        now: Timestamp,
    ) -> Result<Deleted, MetadataError> {
        self.run(DeleteFile {
            path,
            condition,
            now,
        })
        .await
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
        let range = PathRange::new(prefix, after.map(before_nul));
        let rows: Vec<FileRow> = self
            .read("list files", || match &range.end {
                Some(end) => sqlx::query_as(sql::FILES_BETWEEN)
                    .bind(&range.from)
                    .bind(end)
                    .bind(limited(limit))
                    .fetch_all(&self.pool)
                    .left_future(),
                None => sqlx::query_as(sql::FILES_FROM)
                    .bind(&range.from)
                    .bind(limited(limit))
                    .fetch_all(&self.pool)
                    .right_future(),
            })
            .await?;
        rows.into_iter().map(File::try_from).collect()
    }

    async fn known_blobs(&self, keys: &[BlobKey]) -> Result<Vec<BlobKey>, MetadataError> {
        let texts: Vec<&str> = keys.iter().map(BlobKey::as_str).collect();
        let known: Vec<String> = self
            .read("look blobs up", || {
                sqlx::query_scalar(KNOWN_BLOBS)
                    .bind(&texts)
                    .fetch_all(&self.pool)
            })
            .await?;
        known.iter().map(|key| blob_key(key)).collect()
    }

    async fn doomed_blobs(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<BlobKey>, MetadataError> {
        let doomed: Vec<String> = self
            .read("find doomed blobs", || {
                sqlx::query_scalar(sql::DOOMED_BLOBS)
                    .bind(before.as_millis())
                    .bind(limited(limit))
                    .fetch_all(&self.pool)
            })
            .await?;
        doomed.iter().map(|key| blob_key(key)).collect()
    }

    async fn forget_blob(&self, key: &BlobKey) -> Result<(), MetadataError> {
        self.run(ForgetBlob(key)).await
    }

    async fn lease(
        &self,
        name: &str,
        node: NodeId,
        duration: Duration,
    ) -> Result<Option<Lease>, MetadataError> {
        let millis = values::millis(duration);
        self.run(TakeLease { name, node, millis }).await
    }

    async fn release_lease(&self, name: &str, node: NodeId) -> Result<(), MetadataError> {
        self.run(ReleaseLease { name, node }).await
    }

    async fn forget_leases(&self, limit: usize) -> Result<u64, MetadataError> {
        self.run(ForgetLeases { limit }).await
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn check(&self) -> Result<(), MetadataError> {
        self.run(Check).await
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}

/// The upload with idempotency key $1 of owner $2, by the digest that the index has.
const UPLOAD_BY_IDEMPOTENCY_KEY: &str = concat!(
    "select",
    upload_columns!(),
    "from uploads
where sha256(replace(idempotency_key, '\\', '\\\\')::bytea) = sha256(replace($1, '\\', '\\\\')::bytea)
  and idempotency_key = $1
  and owner is not distinct from $2"
);

/// Open uploads of client reference $1 and owner $2, by the digest that the index has.
const OPEN_UPLOADS: &str = concat!(
    "select",
    upload_columns!(),
    "from uploads
where sha256(replace(client_ref, '\\', '\\\\')::bytea) = sha256(replace($1, '\\', '\\\\')::bytea)
  and client_ref = $1
  and owner is not distinct from $2
  and state = 'open'
order by created_at, id
limit $3"
);

/// Open uploads whose time is up at $1, but for those of a node that is alive.
const EXPIRED_UPLOADS: &str = sql::expired_uploads!(now!());

/// Those of the keys $1 that a file or an open upload needs, or that are doomed.
const KNOWN_BLOBS: &str = "
select key
from blobs
where key = any($1)
union
select blob
from uploads
where blob = any($1)
  and state = 'open'";

/// Whether text has the one character that the engine's text cannot have. No row has such text.
fn has_nul(text: &str) -> bool {
    text.contains('\0')
}

/// Text up to its first NUL. As none is in a row, what comes after the one in order comes after the other.
fn before_nul(text: &str) -> &str {
    text.split('\0').next().unwrap_or_default()
}

async fn read_upload(
    connection: &mut PgConnection,
    id: &UploadId,
    doing: &'static str,
) -> Result<Option<Upload>, MetadataError> {
    let row: Option<UploadRow> = sqlx::query_as(sql::UPLOAD)
        .bind(id.to_string())
        .fetch_optional(connection)
        .await
        .map_err(engine(doing))?;
    row.map(Upload::try_from).transpose()
}

async fn read_file(
    connection: &mut PgConnection,
    path: &FilePath,
    doing: &'static str,
) -> Result<Option<File>, MetadataError> {
    let row: Option<FileRow> = sqlx::query_as(sql::FILE)
        .bind(path.as_str())
        .fetch_optional(connection)
        .await
        .map_err(engine(doing))?;
    row.map(File::try_from).transpose()
}

#[cfg(test)]
mod tests {
    use sqlx::AssertSqlSafe;

    use super::*;
    use crate::cluster::fresh_schema;
    use crate::{event_sql, pack_sql};

    async fn run(database: &mut PgConnection, statement: String) {
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(database)
            .await
            .unwrap();
    }

    /// How the engine goes about a statement, whatever its parameters are.
    async fn plan(database: &mut PgConnection, statement: &str) -> String {
        run(database, format!("prepare s as {statement}")).await;
        let count: i32 = sqlx::query_scalar(
            "select cardinality(parameter_types) from pg_prepared_statements where name = 's'",
        )
        .fetch_one(&mut *database)
        .await
        .unwrap();
        let nulls = vec!["null"; usize::try_from(count).unwrap()].join(", ");
        let explain = format!("explain execute s({nulls})");
        let steps: Vec<String> = sqlx::query_scalar(AssertSqlSafe(explain))
            .persistent(false)
            .fetch_all(&mut *database)
            .await
            .unwrap();
        run(database, "deallocate s".to_owned()).await;
        steps.join("\n")
    }

    /// Rows enough that it pays to use an index.
    const FILL: &str = "
insert into blobs
select 'blob' || n, n, sha256(n::text::bytea), case when n % 2 = 0 then n end
from generate_series(1, 20000) as n;
insert into files
select 'path' || n, 'blob' || n, null, null, n, null
from generate_series(1, 20000) as n;
insert into deleted_files
select 'path' || n, n
from generate_series(1, 20000) as n;
insert into uploads (
  id, blob, path, owner, client_ref, idempotency_key, epoch, created_at, expires_at, state, upload_offset, hash_state, gone
)
select
  'id' || n, 'blob' || n, 'path', 'owner', 'ref' || n / 10, 'key' || n, 0, n, n,
  case when n % 2 = 0 then 'open' else 'gone' end,
  case when n % 2 = 0 then 0 end,
  case when n % 2 = 0 then ''::bytea end,
  case when n % 2 = 1 then 'expired' end
from generate_series(1, 20000) as n;
insert into packs
select 'pack' || n, 10
from generate_series(1, 2000) as n;
insert into pack_versions (
  pack, number, files, size, catalogue, catalogue_gzip, catalogue_zstd, forms, places, published_at
)
select 'pack' || n, number, 1, 1, 'blob1', 'blob2', 'blob3', 'blob4', 'blob5', 0
from generate_series(1, 2000) as n, generate_series(1, 10) as number;
insert into version_blobs
select id, 'blob' || 1 + id % 20000
from pack_versions;
insert into drafts
select 'draft' || n, 'pack', null, n, n, null
from generate_series(1, 20000) as n;
insert into draft_blobs
select 'draft' || n, 'blob' || n
from generate_series(1, 20000) as n;
insert into contents
select sha256(n::text::bytea), n, 0, 'blob' || n, 0, 'blob' || n, 0, 0, sha256('')
from generate_series(1, 20000) as n;
insert into needs (version, sha256, encoded, expires_at)
select id, sha256(id::text::bytea), '', id
from pack_versions;
insert into events (id, kind, subject, payload, created_at, last_error, due_at, dead_at)
select
  'id' || n, 'kind', 'subject' || n / 10, '{}', n, 'error',
  case when n % 4 = 0 then n end,
  case when n % 4 = 1 then n end
from generate_series(1, 20000) as n;
analyze";

    /// Each with an index that it must go about by.
    const STATEMENTS: &[(&str, &str)] = &[
        (sql::UPLOAD, "uploads_pkey"),
        (UPLOAD_BY_IDEMPOTENCY_KEY, "uploads_idempotency"),
        (sql::CLAIM_UPLOAD, "uploads_pkey"),
        (sql::HOLDS_UPLOAD, "uploads_pkey"),
        (sql::RECORD_PROGRESS, "uploads_pkey"),
        (sql::RELEASE_UPLOAD, "uploads_pkey"),
        (commands::TELL_UPLOAD, "uploads_pkey"),
        (asks::ASK, "uploads_pkey"),
        (asks::ASK, "leases_pkey"),
        (sql::COMPLETE_ARCHIVE, "uploads_pkey"),
        (sql::HELD_AND_FILE, "uploads_pkey"),
        (sql::HELD_AND_FILE, "files_pkey"),
        (sql::HELD_AND_FILE, "blobs_pkey"),
        (sql::END_UPLOAD, "uploads_pkey"),
        (OPEN_UPLOADS, "uploads_open_client_ref"),
        (EXPIRED_UPLOADS, "uploads_open_expires_at"),
        (EXPIRED_UPLOADS, "leases_pkey"),
        (sql::FORGET_UPLOADS, "uploads_closed_expires_at"),
        (sql::FORGET_UPLOADS, "uploads_pkey"),
        (sql::DOOM_BLOB, "blobs_pkey"),
        (sql::DOOM_BLOB, "files_blob"),
        (sql::DOOM_BLOB, "version_blobs_blob"),
        (sql::DOOM_BLOB, "draft_blobs_blob"),
        (sql::FILE, "files_pkey"),
        (sql::DELETE_FILE, "files_pkey"),
        (sql::REMEMBER_DELETED, "deleted_files"),
        (commands::FORGET_DELETED, "deleted_files_modified_at"),
        (sql::FILES_FROM, "files_pkey"),
        (sql::FILES_BETWEEN, "files_pkey"),
        (KNOWN_BLOBS, "blobs_pkey"),
        (KNOWN_BLOBS, "uploads_open_blob"),
        (sql::DOOMED_BLOBS, "blobs_doomed_at"),
        (sql::FORGET_CONTENTS, "contents_raw_blob"),
        (sql::FORGET_CONTENTS, "contents_deflated_blob"),
        (sql::DELETE_BLOB, "blobs_pkey"),
        (pack_sql::DRAFT, "drafts_pkey"),
        (pack_sql::EXPIRED_DRAFTS, "drafts_expires_at"),
        (pack_sql::PROLONG_DRAFT, "drafts_pkey"),
        (pack_sql::PUBLISHED, "drafts_pkey"),
        (pack_sql::PUBLISH_DRAFT, "drafts_pkey"),
        (pack_sql::RELEASE_DRAFT, "draft_blobs_pkey"),
        (pack_sql::DELETE_DRAFT, "drafts_pkey"),
        (pack_sql::LAST_NUMBER, "packs_pkey"),
        (pack_sql::RELEASE_VERSION, "version_blobs_pkey"),
        (pack_sql::DELETE_VERSION, "pack_versions_pkey"),
        (pack_sql::VERSION, "pack_versions_number"),
        (pack_sql::VERSIONS, "pack_versions_number"),
        (pack_sql::PACK, "pack_versions_number"),
        (pack_sql::PACKS, "packs_pkey"),
        (pack_sql::PACKS, "pack_versions_number"),
        (pack_sql::REGISTER_NEED, "pack_versions_number"),
        (pack_sql::NEED, "needs_sha256"),
        (pack_sql::FORGET_NEEDS, "needs_expires_at"),
        (pack_lists::CONTENTS, "contents_sha256"),
        (pack_lists::CONTENTS, "blobs_pkey"),
        (pack_lists::STORE_CONTENTS, "blobs_pkey"),
        (pack_lists::DROP_BLOBS, "draft_blobs_pkey"),
        (pack_lists::HELD_BY_DRAFT, "draft_blobs_pkey"),
        (pack_lists::BLOBS_GONE, "blobs_pkey"),
        (pack_lists::DOOM_BLOBS, "blobs_pkey"),
        (pack_lists::DOOM_BLOBS, "files_blob"),
        (pack_lists::DOOM_BLOBS, "version_blobs_blob"),
        (pack_lists::DOOM_BLOBS, "draft_blobs_blob"),
        (event_sql::RECORD_EVENT, "events_pending"),
        (event_sql::DUE_EVENTS, "events_due_at"),
        (event_sql::SUBJECT_OF_PENDING, "events_id"),
        (event_sql::SUBJECT_OF_DEAD, "events_id"),
        (event_sql::DELETE_EVENT, "events_id"),
        (event_sql::POSTPONE_EVENT, "events_id"),
        (event_sql::GIVE_EVENT_UP, "events_id"),
        (event_sql::REVIVE_EVENT, "events_id"),
        (event_sql::CALL_FIRST_EVENT, "events_pending"),
        (event_sql::REST_FIRST_EVENT, "events_pending"),
        (event_sql::DEAD_EVENTS, "events_dead"),
        (event_sql::FORGET_DEAD_EVENTS, "events_dead_at"),
        (locks::LOCK_UPLOAD, "uploads_pkey"),
        (locks::LOCK_DRAFT, "drafts_pkey"),
        (locks::LOCK_VERSION, "pack_versions_number"),
        (locks::LOCK_BLOBS, "blobs_pkey"),
    ];

    #[tokio::test]
    async fn each_statement_finds_its_index() {
        let config = fresh_schema().await;
        let store = PostgresStore::open(&config).await.unwrap();
        let mut connection = store.pool.acquire().await.unwrap();
        run(&mut connection, FILL.to_owned()).await;
        // Where a statement has an index for all that it does, it walks through no table then.
        let settings = "set plan_cache_mode = force_generic_plan; set enable_seqscan = off";
        run(&mut connection, settings.to_owned()).await;
        for (statement, index) in STATEMENTS {
            let plan = plan(&mut connection, statement).await;
            assert!(plan.contains(index), "{statement}\n\n{plan}");
            assert!(!plan.contains("Seq Scan"), "{statement}\n\n{plan}");
        }
        drop(connection);
        store.close().await;
    }
}
