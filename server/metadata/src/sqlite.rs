//! SQLite: one file, one writer with group commit, a few readers, and a cache of file rows.

mod session;
mod writer;

use std::error::Error;
use std::fs::{self, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domain::metadata_store::{Ask, Asked, MetadataError};
use domain::{File, FilePath};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, SqlitePool};

use self::session::PoolReader;
use self::writer::{Deps, Writer};
use crate::cache::FileCache;
use crate::engine::{Command, Engine};
use crate::failures::{Kind, is_cut_off};
use crate::queries::read_file;
use crate::{OpenError, SqliteConfig, unmigrated};

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/sqlite");

/// Longest time that a statement waits for a lock of another process, such as a backup.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Number of pages of 4 KiB in the write-ahead log that starts a checkpoint.
const LOG_PAGES: &str = "4000";
/// Length of the write-ahead log at which it is truncated, in bytes: four times its usual length.
const LOG_LIMIT: u64 = 64 << 20;
/// Longest time that a caller waits for a free reader.
const READER_TIMEOUT: Duration = Duration::from_secs(10);

/// A SQLite database that this process alone uses.
#[derive(Debug)]
pub(crate) struct SqliteEngine {
    writer: Writer,
    readers: SqlitePool,
    files: Arc<FileCache>,
    /// Keeps other processes out: the cache would not see their changes.
    lock: fs::File,
}

impl SqliteEngine {
    /// Opens or creates the database, and brings its schema up to date.
    pub(crate) async fn open(config: &SqliteConfig, data_dir: &Path) -> Result<Self, OpenError> {
        let file = data_dir.join(&config.file);
        let lock = lock(&beside(&file, ".lock"))?;
        let name = || file.display().to_string();
        let cannot_open = |source| OpenError::Engine {
            database: name(),
            source,
        };

        make_private(&file).map_err(|source| OpenError::File {
            file: file.clone(),
            source,
        })?;
        let options = writer_options(config, &file);
        let mut connection = options.connect().await.map_err(cannot_open)?;
        MIGRATIONS
            .run(&mut connection)
            .await
            .map_err(|error| unmigrated(name(), &MIGRATIONS, error))?;

        let readers = SqlitePoolOptions::new()
            .min_connections(1)
            .max_connections(config.readers.get())
            .acquire_timeout(READER_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_with(
                common_options(config, &file)
                    .read_only(true)
                    .thread_name(|id| format!("sqlite-reader-{id}")),
            )
            .await
            .map_err(cannot_open)?;
        let files = Arc::new(FileCache::new(config.file_cache));
        let writer = Writer::start(Deps {
            options,
            connection,
            log: beside(&file, "-wal"),
            log_limit: LOG_LIMIT,
            files: Arc::clone(&files),
            queue: config.queue,
            batch: config.batch,
        });
        Ok(Self {
            writer,
            readers,
            files,
            lock,
        })
    }
}

impl Engine for SqliteEngine {
    type Reader = PoolReader;

    fn reader(&self, doing: &'static str) -> PoolReader {
        PoolReader {
            pool: self.readers.clone(),
            doing,
        }
    }

    async fn change<C: Command>(&self, command: C) -> Result<C::Answer, MetadataError> {
        self.writer.run(command).await
    }

    async fn file(&self, path: &FilePath) -> Result<Option<File>, MetadataError> {
        let read = async { read_file(&mut self.reader("read a file's record"), path).await };
        let known = self.files.get_or_read(path, read).await?;
        Ok(known.map(|file| File::clone(&file)))
    }

    /// Returns false: a lock beside the database keeps other processes out.
    fn is_shared(&self) -> bool {
        false
    }

    /// Does nothing: one process uses the database, so there is no other node to ask.
    async fn ask_to_yield(&self, _: Ask) -> Result<Asked, MetadataError> {
        Ok(Asked::Nobody)
    }

    fn asks(&self) -> BoxStream<'static, Ask> {
        stream::pending().boxed()
    }

    async fn ended(&self) {
        self.writer.ended().await;
    }

    async fn close(&self) {
        // Close the readers first: the last connection to close copies the log into the database
        // and removes it.
        self.readers.close().await;
        self.writer.close().await;
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(
                error = &error as &dyn Error,
                "failed to unlock the database"
            );
        }
    }
}

fn common_options(config: &SqliteConfig, file: &Path) -> SqliteConnectOptions {
    let page_cache = config.page_cache.as_u64().div_ceil(1024);
    SqliteConnectOptions::new()
        .filename(file)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        // A negative number is in KiB.
        .pragma("cache_size", format!("-{page_cache}"))
        .disable_statement_logging()
}

fn writer_options(config: &SqliteConfig, file: &Path) -> SqliteConnectOptions {
    common_options(config, file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // Each commit is on the disk before its answer.
        .synchronous(SqliteSynchronous::Full)
        .pragma("wal_autocheckpoint", LOG_PAGES)
        .thread_name(|_| "sqlite-writer".to_owned())
}

/// Converts an error of the engine.
fn failure(doing: &'static str) -> impl FnOnce(sqlx::Error) -> MetadataError {
    move |error| kind(&error).error(doing, error)
}

/// Classifies a failure by the engine's result codes (<https://sqlite.org/rescode.html>).
fn kind(error: &sqlx::Error) -> Kind {
    let code = error
        .as_database_error()
        .and_then(|error| error.code()?.parse::<u32>().ok());
    match code {
        Some(code) => kind_of_code(code),
        None if is_cut_off(error) => Kind::Surroundings,
        None => Kind::Own,
    }
}

/// Classifies an extended result code. Its low byte is the primary code.
fn kind_of_code(code: u32) -> Kind {
    /// `SQLITE_IOERR_SHMSIZE`: the index of the write-ahead log could not be made larger.
    const IOERR_SHMSIZE: u32 = 4874;
    /// `SQLITE_IOERR_DATA`, `SQLITE_IOERR_CORRUPTFS`: what was read is not what was written.
    const IOERR_CORRUPT: [u32; 2] = [8202, 8458];
    match code {
        IOERR_SHMSIZE => Kind::Full,
        code if IOERR_CORRUPT.contains(&code) => Kind::Own,
        code => match code & 0xff {
            // FULL, TOOBIG
            13 | 18 => Kind::Full,
            // BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, CANTOPEN (no descriptor is left,
            // say), PROTOCOL (locks)
            5 | 6 | 7 | 8 | 9 | 10 | 14 | 15 => Kind::Surroundings,
            _ => Kind::Own,
        },
    }
}

/// Appends to the name of `file`.
fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Locks the database against other processes.
fn lock(file: &Path) -> Result<fs::File, OpenError> {
    let cannot_lock = |source| OpenError::Lock {
        file: file.to_owned(),
        source,
    };
    if let Some(directory) = file.parent().filter(|above| !above.as_os_str().is_empty()) {
        make(directory).map_err(cannot_lock)?;
    }
    let lock = fs::File::create(file).map_err(cannot_lock)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse {
            file: file.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(cannot_lock(source)),
    }
}

/// Creates the database's file if there is none, for its owner alone. The engine gives the files
/// beside it the same permissions.
fn make_private(file: &Path) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    options.open(file).map(drop)
}

/// Creates a missing directory and its parents, and syncs them, so that a power cut does not lose
/// them together with the database.
fn make(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let above = match directory.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => ".".as_ref(),
    };
    make(above)?;
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => fs::File::open(above)?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, SqliteConnection};

    use super::*;
    use crate::{event_sql, pack_lists, pack_sql, sql};

    /// Tables that grow.
    const TABLES: [&str; 12] = [
        "uploads",
        "files",
        "deleted_files",
        "blobs",
        "packs",
        "pack_versions",
        "version_blobs",
        "drafts",
        "draft_blobs",
        "contents",
        "needs",
        "events",
    ];

    /// Returns the engine's plan for statements.
    async fn plan(database: &mut SqliteConnection, statements: &str) -> String {
        let mut plan = String::new();
        for statement in statements.split(';') {
            let steps: Vec<(i64, i64, i64, String)> =
                sqlx::query_as(AssertSqlSafe(format!("explain query plan {statement}")))
                    .fetch_all(&mut *database)
                    .await
                    .unwrap();
            for (.., step) in steps {
                plan.push_str(&step);
                plan.push('\n');
            }
        }
        plan
    }

    /// Checks that each statement uses its index, and neither scans nor sorts a table.
    async fn find_their_indexes(statements: &[(&str, &str)]) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("test.sqlite");
        let options = writer_options(&SqliteConfig::default(), &file);
        let mut database = options.connect().await.unwrap();
        MIGRATIONS.run(&mut database).await.unwrap();
        for (statement, index) in statements {
            let plan = plan(&mut database, statement).await;
            assert!(plan.contains(index), "{statement}\n\n{plan}");
            for step in plan.lines() {
                let walks = TABLES
                    .iter()
                    .any(|table| step.starts_with(&format!("SCAN {table}")));
                let sorts = step.contains("TEMP B-TREE");
                assert!(!walks && !sorts, "{statement}\n\n{plan}");
            }
        }
    }

    #[test]
    fn what_surrounds_the_database_is_no_fault_of_the_request() {
        for (codes, kind) in [
            // SQLITE_FULL, SQLITE_IOERR_SHMSIZE
            (&[13, 4874][..], Kind::Full),
            // BUSY, BUSY_RECOVERY, BUSY_SNAPSHOT, LOCKED, LOCKED_SHAREDCACHE, PROTOCOL
            (&[5, 261, 517, 6, 262, 15], Kind::Surroundings),
            // CANTOPEN, READONLY, READONLY_DBMOVED, NOMEM, IOERR_WRITE, IOERR_FSYNC, IOERR_LOCK,
            // IOERR_NOMEM
            (&[14, 8, 1032, 7, 778, 1034, 3850, 3082], Kind::Surroundings),
            // ERROR, CORRUPT, CONSTRAINT_UNIQUE, NOTADB, IOERR_CORRUPTFS
            (&[1, 11, 2067, 26, 8458], Kind::Own),
        ] {
            for code in codes {
                assert_eq!(kind_of_code(*code), kind, "{code}");
            }
        }
        assert_eq!(kind(&sqlx::Error::PoolTimedOut), Kind::Surroundings);
        assert_eq!(kind(&sqlx::Error::RowNotFound), Kind::Own);
    }

    #[tokio::test]
    async fn each_statement_finds_its_index() {
        find_their_indexes(&[
            (sql::UPLOAD.sqlite, "sqlite_autoindex_uploads_1 (id=?)"),
            (
                sql::UPLOAD_BY_IDEMPOTENCY_KEY.sqlite,
                "uploads_idempotency (idempotency_key=?)",
            ),
            (
                sql::CLAIM_UPLOAD.sqlite,
                "sqlite_autoindex_uploads_1 (id=?)",
            ),
            (
                sql::HOLDS_UPLOAD.sqlite,
                "sqlite_autoindex_uploads_1 (id=?)",
            ),
            (
                sql::RECORD_PROGRESS.sqlite,
                "sqlite_autoindex_uploads_1 (id=?)",
            ),
            (
                sql::RELEASE_UPLOAD.sqlite,
                "sqlite_autoindex_uploads_1 (id=?)",
            ),
            (
                sql::REPORT_OFFSET.sqlite,
                "sqlite_autoindex_uploads_1 (id=?)",
            ),
            (
                sql::EXPIRED_UPLOADS.sqlite,
                "leases USING PRIMARY KEY (name=?)",
            ),
            (
                sql::COMPLETE_UPLOAD.sqlite,
                "sqlite_autoindex_uploads_1 (id=?)",
            ),
            (sql::END_UPLOAD.sqlite, "sqlite_autoindex_uploads_1 (id=?)"),
            (
                sql::OPEN_UPLOADS.sqlite,
                "uploads_open_client_ref (client_ref=?)",
            ),
            (
                sql::EXPIRED_UPLOADS.sqlite,
                "uploads_open_expires_at (expires_at<?)",
            ),
            (
                sql::FORGET_UPLOADS.sqlite,
                "uploads_closed_expires_at (expires_at<?)",
            ),
            (sql::DOOM_BLOB.sqlite, "files_blob (blob=?)"),
            (sql::HELD_AND_FILE.sqlite, "PRIMARY KEY (path=?)"),
            (sql::FILE.sqlite, "PRIMARY KEY (path=?)"),
            (sql::DELETE_FILE.sqlite, "PRIMARY KEY (path=?)"),
            (
                sql::FORGET_DELETED.sqlite,
                "deleted_files_modified_at (modified_at<?)",
            ),
            (sql::FILES_FROM.sqlite, "PRIMARY KEY (path>?)"),
            (sql::FILES_BETWEEN.sqlite, "PRIMARY KEY (path>? AND path<?)"),
            (sql::KNOWN_BLOBS.sqlite, "uploads_open_blob (blob=?)"),
            (sql::DOOMED_BLOBS.sqlite, "blobs_doomed_at (doomed_at<?)"),
            (sql::FORGET_BLOB.sqlite, "PRIMARY KEY (key=?)"),
        ])
        .await;
    }

    #[tokio::test]
    async fn each_statement_about_packs_finds_its_index() {
        let version = "pack_versions_number (pack=? AND number=?)";
        find_their_indexes(&[
            (sql::DOOM_BLOB.sqlite, "version_blobs_blob (blob=?)"),
            (sql::DOOM_BLOB.sqlite, "draft_blobs_blob (blob=?)"),
            (sql::FORGET_BLOB.sqlite, "contents_raw_blob (raw_blob=?)"),
            (
                sql::FORGET_BLOB.sqlite,
                "contents_deflated_blob (deflated_blob=?)",
            ),
            (pack_sql::DRAFT.sqlite, "PRIMARY KEY (id=?)"),
            (
                pack_sql::EXPIRED_DRAFTS.sqlite,
                "drafts_expires_at (expires_at<?)",
            ),
            (pack_sql::PROLONG_DRAFT.sqlite, "PRIMARY KEY (id=?)"),
            (pack_sql::PUBLISHED.sqlite, "PRIMARY KEY (id=?)"),
            (pack_sql::PUBLISH_DRAFT.sqlite, "PRIMARY KEY (id=?)"),
            (pack_sql::RELEASE_DRAFT.sqlite, "PRIMARY KEY (draft=?)"),
            (pack_sql::DELETE_DRAFT.sqlite, "PRIMARY KEY (id=?)"),
            (pack_sql::LAST_NUMBER.sqlite, "PRIMARY KEY (name=?)"),
            (pack_sql::VERSION_ID.sqlite, version),
            (pack_sql::RELEASE_VERSION.sqlite, "PRIMARY KEY (version=?)"),
            (
                pack_sql::DELETE_VERSION.sqlite,
                "INTEGER PRIMARY KEY (rowid=?)",
            ),
            (pack_sql::VERSION.sqlite, version),
            (
                pack_sql::VERSIONS.sqlite,
                "pack_versions_number (pack=? AND number<?)",
            ),
            (pack_sql::PACK.sqlite, version),
            (pack_sql::PACK.sqlite, "pack_versions_number (pack=?)"),
            (pack_sql::PACKS.sqlite, "PRIMARY KEY (name>?)"),
            (pack_sql::PACKS.sqlite, version),
            (pack_sql::REGISTER_NEED.sqlite, version),
            (
                pack_sql::NEED.sqlite,
                "needs_sha256 (version=? AND sha256=?)",
            ),
            (
                pack_sql::FORGET_NEEDS.sqlite,
                "needs_expires_at (expires_at<?)",
            ),
            (pack_lists::CONTENTS.sqlite, "contents_sha256 (sha256=?)"),
            (pack_lists::CONTENTS.sqlite, "PRIMARY KEY (key=?)"),
            (
                pack_lists::DROP_BLOBS.sqlite,
                "draft_blobs_blob (blob=? AND draft=?)",
            ),
            (pack_lists::BLOBS_GONE.sqlite, "PRIMARY KEY (key=?)"),
            (pack_lists::DOOM_BLOBS.sqlite, "PRIMARY KEY (key=?)"),
            (pack_lists::DOOM_BLOBS.sqlite, "files_blob (blob=?)"),
            (pack_lists::DOOM_BLOBS.sqlite, "version_blobs_blob (blob=?)"),
            (pack_lists::DOOM_BLOBS.sqlite, "draft_blobs_blob (blob=?)"),
            (pack_lists::STORE_CONTENTS.sqlite, "PRIMARY KEY (key=?)"),
        ])
        .await;
    }

    #[tokio::test]
    async fn each_statement_about_events_finds_its_index() {
        let by_id = "events_id (id=?)";
        let first = "events_pending (subject=?)";
        find_their_indexes(&[
            (event_sql::RECORD_EVENT.sqlite, first),
            (event_sql::DUE_EVENTS.sqlite, "events_due_at (due_at<?)"),
            (event_sql::SUBJECT_OF_PENDING.sqlite, by_id),
            (event_sql::SUBJECT_OF_DEAD.sqlite, by_id),
            (event_sql::DELETE_EVENT.sqlite, by_id),
            (event_sql::POSTPONE_EVENT.sqlite, by_id),
            (event_sql::GIVE_EVENT_UP.sqlite, by_id),
            (event_sql::REVIVE_EVENT.sqlite, by_id),
            (event_sql::CALL_FIRST_EVENT.sqlite, first),
            (event_sql::REST_FIRST_EVENT.sqlite, first),
            (event_sql::DEAD_EVENTS.sqlite, "events_dead (position>?)"),
            (
                event_sql::FORGET_DEAD_EVENTS.sqlite,
                "events_dead_at (dead_at<?)",
            ),
        ])
        .await;
    }
}
