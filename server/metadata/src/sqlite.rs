//! SQLite: one file, one writer with group commit, a few readers, and the file rows in memory.

/// The present moment by the engine's clock, in milliseconds since 1970.
macro_rules! now {
    () => {
        "cast(unixepoch('subsec') * 1000 as integer)"
    };
}

mod commands;
mod events;
mod pack_commands;
mod pack_lists;
mod packs;
mod writer;

use std::error::Error;
use std::fs::{self, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
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
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Executor, Sqlite, SqlitePool};

use self::commands::{
    Check, ClaimUpload, CompleteUpload, DeleteFile, EndUpload, ForgetBlob, ForgetLeases,
    ForgetUploads, InsertUpload, PutFile, RecordProgress, ReleaseLease, ReleaseUpload, TakeLease,
    TellUpload,
};
use self::writer::{Means, Writer};
use crate::cache::FileCache;
use crate::failures::{Kind, failed, is_cut_off};
use crate::rows::{FileRow, UploadRow, blob_key};
use crate::values::{PathRange, limited};
use crate::{OpenError, SqliteConfig, sql, unmigrated, values};

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/sqlite");

/// How long a statement waits for a lock that another process holds, such as one that makes a backup.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How many pages of 4 KiB are written to the write-ahead log before they are copied into the database.
const LOG_PAGES: &str = "4000";
/// The log is cut back when it is longer than this, in bytes: four times what it is where nothing hinders.
const LOG_LIMIT: u64 = 64 << 20;
/// How long a caller waits for a reader that is free.
const READER_TIMEOUT: Duration = Duration::from_secs(10);

/// A metadata store in a SQLite database that this process alone uses.
#[derive(Debug)]
pub(crate) struct SqliteStore {
    writer: Writer,
    readers: SqlitePool,
    files: Arc<FileCache>,
    /// Held to keep other processes out, whose changes the cache would not see.
    lock: fs::File,
}

impl SqliteStore {
    /// Opens the database, makes it if there is none, and brings its schema up to date.
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
        let writer = Writer::start(Means {
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

#[async_trait]
impl MetadataStore for SqliteStore {
    async fn insert_upload(&self, upload: &Upload) -> Result<Inserted, MetadataError> {
        self.writer.run(InsertUpload(upload.clone())).await
    }

    async fn upload(&self, id: &UploadId) -> Result<Option<Upload>, MetadataError> {
        read_upload(&self.readers, id, "read an upload").await
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
        self.writer.run(command).await
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
        self.writer.run(command).await
    }

    async fn tell_upload(
        &self,
        id: &UploadId,
        epoch: u64,
        told: Option<Told>,
    ) -> Result<Guarded, MetadataError> {
        let command = TellUpload {
            id: *id,
            epoch,
            told,
        };
        self.writer.run(command).await
    }

    async fn release_upload(&self, id: &UploadId, epoch: u64) -> Result<(), MetadataError> {
        self.writer.run(ReleaseUpload { id: *id, epoch }).await
    }

    /// One process uses the database, so there is no other node to ask.
    async fn ask_to_yield(&self, _: &Ask) -> Result<Asked, MetadataError> {
        Ok(Asked::Nobody)
    }

    fn asks(&self) -> BoxStream<'static, Ask> {
        stream::pending().boxed()
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
        self.writer.run(command).await
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
        self.writer.run(command).await
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
        self.writer.run(command).await
    }

    async fn open_uploads(
        &self,
        owner: Option<&str>,
        client_ref: &str,
        limit: usize,
    ) -> Result<Vec<Upload>, MetadataError> {
        let rows: Vec<UploadRow> = sqlx::query_as(sql::OPEN_UPLOADS)
            .bind(client_ref)
            .bind(owner)
            .bind(limited(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(engine("find a client's uploads"))?;
        rows.into_iter().map(Upload::try_from).collect()
    }

    async fn expired_uploads(
        &self,
        now: Timestamp,
        node: NodeId,
        limit: usize,
    ) -> Result<Vec<Upload>, MetadataError> {
        let rows: Vec<UploadRow> = sqlx::query_as(EXPIRED_UPLOADS)
            .bind(now.as_millis())
            .bind(limited(limit))
            .bind(node.to_string())
            .fetch_all(&self.readers)
            .await
            .map_err(engine("find expired uploads"))?;
        rows.into_iter().map(Upload::try_from).collect()
    }

    async fn forget_uploads(&self, now: Timestamp, limit: usize) -> Result<u64, MetadataError> {
        self.writer.run(ForgetUploads { now, limit }).await
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
        self.writer.run(command).await
    }

    async fn file(&self, path: &FilePath) -> Result<Option<File>, MetadataError> {
        let read = read_file(&self.readers, path, "read a file's record");
        let known = self.files.get_or_read(path, read).await?;
        Ok(known.map(|file| File::clone(&file)))
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
        self.writer.run(command).await
    }

    async fn list_files(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<File>, MetadataError> {
        let range = PathRange::new(prefix, after);
        let rows: Vec<FileRow> = match range.end {
            Some(end) => sqlx::query_as(sql::FILES_BETWEEN)
                .bind(range.from)
                .bind(end)
                .bind(limited(limit))
                .fetch_all(&self.readers),
            None => sqlx::query_as(sql::FILES_FROM)
                .bind(range.from)
                .bind(limited(limit))
                .fetch_all(&self.readers),
        }
        .await
        .map_err(engine("list files"))?;
        rows.into_iter().map(File::try_from).collect()
    }

    async fn known_blobs(&self, keys: &[BlobKey]) -> Result<Vec<BlobKey>, MetadataError> {
        let doing = "look blobs up";
        let texts: Vec<&str> = keys.iter().map(BlobKey::as_str).collect();
        let known: Vec<String> = sqlx::query_scalar(KNOWN_BLOBS)
            .bind(serde_json::to_string(&texts).map_err(|error| failed(doing, error))?)
            .fetch_all(&self.readers)
            .await
            .map_err(engine(doing))?;
        known.iter().map(|key| blob_key(key)).collect()
    }

    async fn doomed_blobs(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<BlobKey>, MetadataError> {
        let doomed: Vec<String> = sqlx::query_scalar(sql::DOOMED_BLOBS)
            .bind(before.as_millis())
            .bind(limited(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(engine("find doomed blobs"))?;
        doomed.iter().map(|key| blob_key(key)).collect()
    }

    async fn forget_blob(&self, key: &BlobKey) -> Result<(), MetadataError> {
        self.writer.run(ForgetBlob(key.clone())).await
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
            millis: values::millis(duration),
        };
        self.writer.run(command).await
    }

    async fn release_lease(&self, name: &str, node: NodeId) -> Result<(), MetadataError> {
        let name = name.to_owned();
        self.writer.run(ReleaseLease { name, node }).await
    }

    async fn forget_leases(&self, limit: usize) -> Result<u64, MetadataError> {
        self.writer.run(ForgetLeases { limit }).await
    }

    /// A lock beside the database keeps other processes out.
    fn is_shared(&self) -> bool {
        false
    }

    async fn check(&self) -> Result<(), MetadataError> {
        self.writer.run(Check).await
    }

    async fn ended(&self) {
        self.writer.ended().await;
    }

    async fn close(&self) {
        // The readers first: the last connection to close writes the log back into the database and removes it.
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

/// Open uploads whose time is up at $1, but for those of a node that is alive.
const EXPIRED_UPLOADS: &str = sql::expired_uploads!(now!());

/// Those of the keys in the JSON array $1 that a file or an open upload needs, or that are doomed.
const KNOWN_BLOBS: &str = "
select value
from json_each($1)
where exists (
    select 1
    from blobs
    where key = value
  )
  or exists (
    select 1
    from uploads
    where blob = value
      and state = 'open'
  )";

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
        // Each commit is on the disk before it is answered.
        .synchronous(SqliteSynchronous::Full)
        .pragma("wal_autocheckpoint", LOG_PAGES)
        .thread_name(|_| "sqlite-writer".to_owned())
}

async fn read_upload(
    executor: impl Executor<'_, Database = Sqlite>,
    id: &UploadId,
    doing: &'static str,
) -> Result<Option<Upload>, MetadataError> {
    let row: Option<UploadRow> = sqlx::query_as(sql::UPLOAD)
        .bind(id.to_string())
        .fetch_optional(executor)
        .await
        .map_err(engine(doing))?;
    row.map(Upload::try_from).transpose()
}

async fn read_file(
    executor: impl Executor<'_, Database = Sqlite>,
    path: &FilePath,
    doing: &'static str,
) -> Result<Option<File>, MetadataError> {
    let row: Option<FileRow> = sqlx::query_as(sql::FILE)
        .bind(path.as_str())
        .fetch_optional(executor)
        .await
        .map_err(engine(doing))?;
    row.map(File::try_from).transpose()
}

/// A failure of the engine.
fn engine(doing: &'static str) -> impl FnOnce(sqlx::Error) -> MetadataError {
    move |error| kind(&error).told(doing, error)
}

/// What a failure comes from, by the engine's result codes (<https://sqlite.org/rescode.html>).
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

/// What an extended result code says. Its low byte is the primary code.
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
            // BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, CANTOPEN (no descriptor is left, say), PROTOCOL (locks)
            5 | 6 | 7 | 8 | 9 | 10 | 14 | 15 => Kind::Surroundings,
            _ => Kind::Own,
        },
    }
}

/// `file` with more at the end of its name.
fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Keeps other processes out.
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

/// Makes the database's file where there is none, for its owner alone; the engine gives the files beside it the same permissions.
fn make_private(file: &Path) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    options.open(file).map(drop)
}

/// Makes a directory that is not there, with those above it, so that a power cut does not lose it again with the database.
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

    /// How the engine goes about statements.
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

    /// Checks that statements go about by an index each, and walk through or sort no table.
    pub(super) async fn find_their_indexes(statements: &[(&str, &str)]) {
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
            // CANTOPEN, READONLY, READONLY_DBMOVED, NOMEM, IOERR_WRITE, IOERR_FSYNC, IOERR_LOCK, IOERR_NOMEM
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
            (sql::UPLOAD, "sqlite_autoindex_uploads_1 (id=?)"),
            (
                sql::UPLOAD_BY_IDEMPOTENCY_KEY,
                "uploads_idempotency (idempotency_key=?)",
            ),
            (sql::CLAIM_UPLOAD, "sqlite_autoindex_uploads_1 (id=?)"),
            (sql::HOLDS_UPLOAD, "sqlite_autoindex_uploads_1 (id=?)"),
            (sql::RECORD_PROGRESS, "sqlite_autoindex_uploads_1 (id=?)"),
            (sql::RELEASE_UPLOAD, "sqlite_autoindex_uploads_1 (id=?)"),
            (commands::TELL_UPLOAD, "sqlite_autoindex_uploads_1 (id=?)"),
            (EXPIRED_UPLOADS, "leases USING PRIMARY KEY (name=?)"),
            (sql::COMPLETE_UPLOAD, "sqlite_autoindex_uploads_1 (id=?)"),
            (sql::END_UPLOAD, "sqlite_autoindex_uploads_1 (id=?)"),
            (sql::OPEN_UPLOADS, "uploads_open_client_ref (client_ref=?)"),
            (EXPIRED_UPLOADS, "uploads_open_expires_at (expires_at<?)"),
            (
                sql::FORGET_UPLOADS,
                "uploads_closed_expires_at (expires_at<?)",
            ),
            (sql::DOOM_BLOB, "files_blob (blob=?)"),
            (sql::HELD_AND_FILE, "PRIMARY KEY (path=?)"),
            (sql::FILE, "PRIMARY KEY (path=?)"),
            (sql::DELETE_FILE, "PRIMARY KEY (path=?)"),
            (
                commands::FORGET_DELETED,
                "deleted_files_modified_at (modified_at<?)",
            ),
            (sql::FILES_FROM, "PRIMARY KEY (path>?)"),
            (sql::FILES_BETWEEN, "PRIMARY KEY (path>? AND path<?)"),
            (KNOWN_BLOBS, "uploads_open_blob (blob=?)"),
            (sql::DOOMED_BLOBS, "blobs_doomed_at (doomed_at<?)"),
            (sql::FORGET_BLOB, "PRIMARY KEY (key=?)"),
        ])
        .await;
    }
}
