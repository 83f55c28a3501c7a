//! PostgreSQL: any number of servers on one database, and no cache.
//!
//! Each method takes a connection from a bounded pool for one transaction, at READ COMMITTED: every
//! statement sees the commits before its start. A change of one statement guards itself. A change
//! of several statements first locks the rows that decide ([`locks`]). A transaction that the
//! engine aborts because of others is repeated, a bounded number of times.

mod asks;
mod failures;
mod locks;
mod session;
mod transaction;

use std::time::Duration;

use domain::metadata_store::{Ask, Asked, MetadataError};
use domain::{File, FilePath};
use futures::stream::BoxStream;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};

use self::asks::AskToYield;
use self::session::PoolReader;
use crate::engine::{Command, Engine};
use crate::queries::read_file;
use crate::{OpenError, PostgresConfig, unmigrated};

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/postgres");

/// Longest time that a server waits for the migration of another, or for a table in use.
const MIGRATION_LOCK_TIMEOUT: Duration = Duration::from_mins(5);

/// A PostgreSQL database that other servers may use at the same time.
#[derive(Debug)]
pub(crate) struct PostgresEngine {
    pool: PgPool,
    /// Options of connections outside of the pool.
    options: PgConnectOptions,
    /// Longest time that a change or a read waits for a connection.
    acquire_timeout: Duration,
}

impl PostgresEngine {
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

/// Sets up a new connection, whatever the database or the role configure. Commits must be durable
/// before they are answered, so `synchronous_commit` is never off; its wait for replicas stays as
/// configured.
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

/// Formats a time in milliseconds for the engine, at least 1: 0 would be no bound.
fn millis(time: Duration) -> String {
    const MAX: u128 = i32::MAX as u128;
    time.as_millis().clamp(1, MAX).to_string()
}

impl Engine for PostgresEngine {
    type Reader = PoolReader;

    fn reader(&self, doing: &'static str) -> PoolReader {
        PoolReader {
            pool: self.pool.clone(),
            acquire_timeout: self.acquire_timeout,
            doing,
        }
    }

    async fn change<C: Command>(&self, command: C) -> Result<C::Answer, MetadataError> {
        self.run(&command).await
    }

    async fn file(&self, path: &FilePath) -> Result<Option<File>, MetadataError> {
        read_file(&mut self.reader("read a file's record"), path).await
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn ask_to_yield(&self, ask: Ask) -> Result<Asked, MetadataError> {
        self.run(&AskToYield(ask)).await
    }

    fn asks(&self) -> BoxStream<'static, Ask> {
        asks::listen(self.options.clone())
    }

    /// Never returns: there is no worker that could end.
    async fn ended(&self) {
        std::future::pending().await
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}

#[cfg(test)]
mod tests {
    use sqlx::AssertSqlSafe;
    use testing::postgres::fresh_schema;

    use super::*;
    use crate::{event_sql, pack_lists, pack_sql, sql};

    async fn run(database: &mut PgConnection, statement: String) {
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(database)
            .await
            .unwrap();
    }

    /// Returns the engine's plan for a statement with any parameters.
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

    /// Inserts enough rows for indexes to pay.
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

    /// Statements, each with an index that its plan must use.
    const STATEMENTS: &[(&str, &str)] = &[
        (sql::UPLOAD.postgres, "uploads_pkey"),
        (
            sql::UPLOAD_BY_IDEMPOTENCY_KEY.postgres,
            "uploads_idempotency",
        ),
        (sql::CLAIM_UPLOAD.postgres, "uploads_pkey"),
        (sql::HOLDS_UPLOAD.postgres, "uploads_pkey"),
        (sql::RECORD_PROGRESS.postgres, "uploads_pkey"),
        (sql::RELEASE_UPLOAD.postgres, "uploads_pkey"),
        (sql::REPORT_OFFSET.postgres, "uploads_pkey"),
        (asks::ASK.postgres, "uploads_pkey"),
        (asks::ASK.postgres, "leases_pkey"),
        (sql::COMPLETE_ARCHIVE.postgres, "uploads_pkey"),
        (sql::HELD_AND_FILE.postgres, "uploads_pkey"),
        (sql::HELD_AND_FILE.postgres, "files_pkey"),
        (sql::HELD_AND_FILE.postgres, "blobs_pkey"),
        (sql::END_UPLOAD.postgres, "uploads_pkey"),
        (sql::OPEN_UPLOADS.postgres, "uploads_open_client_ref"),
        (sql::EXPIRED_UPLOADS.postgres, "uploads_open_expires_at"),
        (sql::EXPIRED_UPLOADS.postgres, "leases_pkey"),
        (sql::FORGET_UPLOADS.postgres, "uploads_closed_expires_at"),
        (sql::FORGET_UPLOADS.postgres, "uploads_pkey"),
        (sql::DOOM_BLOB.postgres, "blobs_pkey"),
        (sql::DOOM_BLOB.postgres, "files_blob"),
        (sql::DOOM_BLOB.postgres, "version_blobs_blob"),
        (sql::DOOM_BLOB.postgres, "draft_blobs_blob"),
        (sql::FILE.postgres, "files_pkey"),
        (sql::DELETE_FILE.postgres, "files_pkey"),
        (sql::REMEMBER_DELETED.postgres, "deleted_files"),
        (sql::FORGET_DELETED.postgres, "deleted_files_modified_at"),
        (sql::FILES_FROM.postgres, "files_pkey"),
        (sql::FILES_BETWEEN.postgres, "files_pkey"),
        (sql::KNOWN_BLOBS.postgres, "blobs_pkey"),
        (sql::KNOWN_BLOBS.postgres, "uploads_open_blob"),
        (sql::DOOMED_BLOBS.postgres, "blobs_doomed_at"),
        (sql::FORGET_BLOB.postgres[0].0, "contents_raw_blob"),
        (sql::FORGET_BLOB.postgres[0].0, "contents_deflated_blob"),
        (sql::FORGET_BLOB.postgres[1].0, "blobs_pkey"),
        (pack_sql::DRAFT.postgres, "drafts_pkey"),
        (pack_sql::EXPIRED_DRAFTS.postgres, "drafts_expires_at"),
        (pack_sql::PROLONG_DRAFT.postgres, "drafts_pkey"),
        (pack_sql::PUBLISHED.postgres, "drafts_pkey"),
        (pack_sql::PUBLISH_DRAFT.postgres, "drafts_pkey"),
        (pack_sql::RELEASE_DRAFT.postgres, "draft_blobs_pkey"),
        (pack_sql::DELETE_DRAFT.postgres, "drafts_pkey"),
        (pack_sql::LAST_NUMBER.postgres, "packs_pkey"),
        (pack_sql::VERSION_ID.postgres, "pack_versions_number"),
        (pack_sql::RELEASE_VERSION.postgres, "version_blobs_pkey"),
        (pack_sql::DELETE_VERSION.postgres, "pack_versions_pkey"),
        (pack_sql::VERSION.postgres, "pack_versions_number"),
        (pack_sql::VERSIONS.postgres, "pack_versions_number"),
        (pack_sql::PACK.postgres, "pack_versions_number"),
        (pack_sql::PACKS.postgres, "packs_pkey"),
        (pack_sql::PACKS.postgres, "pack_versions_number"),
        (pack_sql::REGISTER_NEED.postgres, "pack_versions_number"),
        (pack_sql::NEED.postgres, "needs_sha256"),
        (pack_sql::FORGET_NEEDS.postgres, "needs_expires_at"),
        (pack_lists::CONTENTS.postgres, "contents_sha256"),
        (pack_lists::CONTENTS.postgres, "blobs_pkey"),
        (pack_lists::STORE_CONTENTS.postgres, "blobs_pkey"),
        (pack_lists::DROP_BLOBS.postgres, "draft_blobs_pkey"),
        (pack_sql::HELD_BY_DRAFT.postgres, "draft_blobs_pkey"),
        (pack_lists::BLOBS_GONE.postgres, "blobs_pkey"),
        (pack_lists::DOOM_BLOBS.postgres, "blobs_pkey"),
        (pack_lists::DOOM_BLOBS.postgres, "files_blob"),
        (pack_lists::DOOM_BLOBS.postgres, "version_blobs_blob"),
        (pack_lists::DOOM_BLOBS.postgres, "draft_blobs_blob"),
        (event_sql::RECORD_EVENT.postgres, "events_pending"),
        (event_sql::DUE_EVENTS.postgres, "events_due_at"),
        (event_sql::SUBJECT_OF_PENDING.postgres, "events_id"),
        (event_sql::SUBJECT_OF_DEAD.postgres, "events_id"),
        (event_sql::DELETE_EVENT.postgres, "events_id"),
        (event_sql::POSTPONE_EVENT.postgres, "events_id"),
        (event_sql::GIVE_EVENT_UP.postgres, "events_id"),
        (event_sql::REVIVE_EVENT.postgres, "events_id"),
        (event_sql::CALL_FIRST_EVENT.postgres, "events_pending"),
        (event_sql::REST_FIRST_EVENT.postgres, "events_pending"),
        (event_sql::DEAD_EVENTS.postgres, "events_dead"),
        (event_sql::FORGET_DEAD_EVENTS.postgres, "events_dead_at"),
        (locks::LOCK_UPLOAD, "uploads_pkey"),
        (locks::LOCK_DRAFT, "drafts_pkey"),
        (locks::LOCK_VERSION, "pack_versions_number"),
        (locks::LOCK_BLOBS, "blobs_pkey"),
    ];

    #[tokio::test]
    async fn each_statement_finds_its_index() {
        let config = PostgresConfig::new(fresh_schema().await);
        let store = PostgresEngine::open(&config).await.unwrap();
        let mut connection = store.pool.acquire().await.unwrap();
        run(&mut connection, FILL.to_owned()).await;
        // With these settings, only a statement without a usable index scans a table.
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
