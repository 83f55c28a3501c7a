//! Copies all facts from one database to another of either engine.
//!
//! The migrations of both engines define the same tables and columns, so rows are copied unchanged,
//! table by table, in one transaction of the target. Before the commit, both databases are read
//! once more, side by side, and must be equal.

mod postgres;
mod sqlite;
mod table;

use std::path::Path;

use domain::digest::{HashState, Sha256Digest};
use domain::{BlobKey, UploadId};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use thiserror::Error;

use self::postgres::PostgresDatabase;
use self::sqlite::SqliteDatabase;
use self::table::{Column, Kind, Row, TABLES, Table, Value};
use crate::Config;

/// Maximum number of rows in one insert. The widest table has less than 64 columns, and SQLite
/// takes 32,766 parameters.
const BATCH: usize = 500;

/// Reasons for which facts are not copied.
#[derive(Debug, Error)]
pub enum CopyError {
    /// The target already has facts.
    #[error("the target has facts already, in table {table}; copy into a database that is new")]
    NotEmpty {
        /// The first table that has rows.
        table: &'static str,
    },
    /// The databases have the schemas of different releases.
    #[error("table {table} has other columns in the target: start both with this release once")]
    OtherColumns {
        /// The table.
        table: &'static str,
    },
    /// The target reads back other rows than were written.
    #[error("table {table} did not arrive as it was sent; nothing was committed")]
    Differs {
        /// The table.
        table: &'static str,
    },
    /// A row is inconsistent; no release writes such a row.
    #[error("table {table} has a row that makes no sense: {reason}")]
    Inconsistent {
        /// The table.
        table: &'static str,
        /// Description of the inconsistency.
        reason: String,
    },
    /// The engine failed.
    #[error("failed to {doing}")]
    Engine {
        /// Completes the sentence "failed to …".
        doing: &'static str,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
}

/// A published blob that is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedBlob {
    /// Key of the blob.
    pub key: BlobKey,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the bytes.
    pub sha256: Sha256Digest,
    /// True if nothing needs the blob any more, so that it may be deleted at any moment.
    pub is_doomed: bool,
}

/// The recorded bytes of an open upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedUpload {
    /// Name of the upload.
    pub id: UploadId,
    /// Key of the blob with its bytes.
    pub blob: BlobKey,
    /// As in [`Upload::epoch`](domain::upload::Upload::epoch).
    pub epoch: u64,
    /// Number of recorded bytes.
    pub offset: u64,
    /// Length of the complete upload in bytes, if known.
    pub length: Option<u64>,
    /// State of the running digest at the offset.
    pub hash: HashState,
}

/// Amount of data to copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Number of published blobs.
    pub blobs: u64,
    /// Bytes of published blobs and open uploads.
    pub bytes: u64,
    /// Number of rows in all tables.
    pub rows: u64,
}

/// A database to copy from or to. A store may have it open at the same time.
#[derive(Debug)]
pub struct Database(Engine);

#[derive(Debug)]
enum Engine {
    Sqlite(SqliteDatabase),
    Postgres(PostgresDatabase),
}

impl Database {
    /// Connects to a database whose schema is up to date.
    ///
    /// # Errors
    /// [`CopyError::Engine`].
    pub async fn connect(config: &Config, data_dir: &Path) -> Result<Self, CopyError> {
        let connected = match config {
            Config::Sqlite(config) => SqliteDatabase::connect(config, data_dir)
                .await
                .map(Engine::Sqlite),
            Config::Postgres(config) => PostgresDatabase::connect(config)
                .await
                .map(Engine::Postgres),
        };
        connected
            .map(Self)
            .map_err(failed("connect to the database"))
    }

    /// Returns the number of servers that are alive on this database, if servers can share it. A
    /// process that has SQLite open holds the lock of the database instead.
    ///
    /// # Errors
    /// [`CopyError::Engine`].
    pub async fn serving(&mut self) -> Result<u64, CopyError> {
        const ALIVE: &str = "
            select count(*)
            from leases
            where name like 'node/%'
              and expires_at > (extract(epoch from clock_timestamp()) * 1000)::bigint";
        match &mut self.0 {
            Engine::Sqlite(_) => Ok(0),
            Engine::Postgres(database) => {
                let alive = database.number(ALIVE.to_owned()).await;
                unsigned("leases", alive.map_err(failed("look for servers"))?)
            }
        }
    }

    /// Returns the amount of data to copy from this database.
    ///
    /// # Errors
    /// [`CopyError::Engine`].
    pub async fn totals(&mut self) -> Result<Totals, CopyError> {
        const BLOBS: &str = "select count(*), cast(coalesce(sum(size), 0) as bigint) from blobs";
        const STAGED: &str = "
            select count(*), cast(coalesce(sum(upload_offset), 0) as bigint) from uploads where state = 'open'";
        let counting = "count what there is to copy";
        let (blobs, published) = self.pair(BLOBS).await.map_err(failed(counting))?;
        let (_, staged) = self.pair(STAGED).await.map_err(failed(counting))?;
        let mut rows = 0;
        for table in &TABLES {
            rows += self.count(table).await?;
        }
        Ok(Totals {
            blobs: unsigned("blobs", blobs)?,
            bytes: unsigned("blobs", published)? + unsigned("uploads", staged)?,
            rows,
        })
    }

    /// Returns up to `limit` recorded blobs after the key `after`, in the order of keys.
    ///
    /// # Errors
    /// [`CopyError::Engine`] or [`CopyError::Inconsistent`].
    pub async fn blobs(
        &mut self,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<RecordedBlob>, CopyError> {
        const BLOBS: &str = "
            select key, size, sha256, doomed_at from blobs where key > $1 order by key limit $2";
        const KINDS: [Kind; 4] = [Kind::Text, Kind::Integer, Kind::Bytes, Kind::Integer];
        let after = after.map_or("", BlobKey::as_str);
        let rows = self.page(BLOBS, &KINDS, after, limit).await;
        rows.map_err(failed("list blobs"))?
            .into_iter()
            .map(|row| recorded_blob(row).ok_or_else(|| inconsistent("blobs")))
            .collect()
    }

    /// Returns up to `limit` open uploads after the name `after`, in the order of names.
    ///
    /// # Errors
    /// As [`Database::blobs`].
    pub async fn open_uploads(
        &mut self,
        after: Option<&UploadId>,
        limit: usize,
    ) -> Result<Vec<RecordedUpload>, CopyError> {
        const UPLOADS: &str = "
            select id, blob, epoch, upload_offset, length, hash_state
            from uploads
            where state = 'open' and id > $1
            order by id
            limit $2";
        const KINDS: [Kind; 6] = [
            Kind::Text,
            Kind::Text,
            Kind::Integer,
            Kind::Integer,
            Kind::Integer,
            Kind::Bytes,
        ];
        let after = after.map(ToString::to_string).unwrap_or_default();
        let rows = self.page(UPLOADS, &KINDS, &after, limit).await;
        rows.map_err(failed("list open uploads"))?
            .into_iter()
            .map(|row| recorded_upload(row).ok_or_else(|| inconsistent("uploads")))
            .collect()
    }

    /// Checks that all tables are empty.
    ///
    /// # Errors
    /// [`CopyError::NotEmpty`] if a table has rows, or [`CopyError::Engine`].
    pub async fn check_empty(&mut self) -> Result<(), CopyError> {
        for table in &TABLES {
            if self.count(table).await? > 0 {
                return Err(CopyError::NotEmpty { table: table.name });
            }
        }
        Ok(())
    }

    /// Copies all facts of `source` into this empty database. Calls `copied` with the number of
    /// rows of each batch.
    ///
    /// # Errors
    /// See [`CopyError`]. After an error this database is unchanged.
    ///
    /// # Cancel safety
    /// Dropping the future leaves this database unchanged.
    pub async fn fill(
        &mut self,
        source: &mut Self,
        copied: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), CopyError> {
        self.check_empty().await?;
        source.begin().await?;
        self.begin().await?;
        for table in &TABLES {
            let columns = source.columns(table).await?;
            let there = self.columns(table).await?;
            if !table::are_the_same(&columns, &there) {
                return Err(CopyError::OtherColumns { table: table.name });
            }
            let batches = source.rows(table, &columns).chunks(BATCH);
            futures::pin_mut!(batches);
            while let Some(batch) = batches.next().await {
                let rows = batch.into_iter().collect::<Result<Vec<Row>, _>>();
                let rows = rows.map_err(failed("read rows"))?;
                let count = rows.len() as u64;
                self.insert(table, &there, rows).await?;
                copied(count);
            }
        }
        for table in &TABLES {
            self.compare(source, table).await?;
        }
        self.commit().await?;
        source.commit().await
    }

    /// Compares a table of both databases, row by row.
    async fn compare(&mut self, source: &mut Self, table: &Table) -> Result<(), CopyError> {
        let (columns, there) = (source.columns(table).await?, self.columns(table).await?);
        let mut sent = source.rows(table, &columns);
        let mut arrived = self.rows(table, &there);
        loop {
            let (sent, arrived) = futures::join!(sent.next(), arrived.next());
            let reading = "read rows again";
            let sent = sent.transpose().map_err(failed(reading))?;
            let arrived = arrived.transpose().map_err(failed(reading))?;
            if sent != arrived {
                return Err(CopyError::Differs { table: table.name });
            }
            if sent.is_none() {
                return Ok(());
            }
        }
    }

    async fn begin(&mut self) -> Result<(), CopyError> {
        match &mut self.0 {
            Engine::Sqlite(database) => database.execute("begin").await,
            Engine::Postgres(database) => {
                database
                    .execute("begin isolation level repeatable read")
                    .await
            }
        }
        .map_err(failed("begin a transaction"))
    }

    async fn commit(&mut self) -> Result<(), CopyError> {
        match &mut self.0 {
            Engine::Sqlite(database) => database.execute("commit").await,
            Engine::Postgres(database) => database.execute("commit").await,
        }
        .map_err(failed("commit a transaction"))
    }

    async fn columns(&mut self, table: &Table) -> Result<Vec<Column>, CopyError> {
        match &mut self.0 {
            Engine::Sqlite(database) => database.columns(table).await,
            Engine::Postgres(database) => database.columns(table).await,
        }
        .map_err(failed("look up the columns of a table"))
    }

    /// Streams all rows of a table in the order of its key.
    fn rows(&mut self, table: &Table, columns: &[Column]) -> BoxStream<'_, sqlx::Result<Row>> {
        let query = table.select(columns);
        let kinds = columns.iter().map(|column| column.kind).collect();
        match &mut self.0 {
            Engine::Sqlite(database) => database.rows(query, kinds),
            Engine::Postgres(database) => database.rows(query, kinds),
        }
    }

    async fn insert(
        &mut self,
        table: &Table,
        columns: &[Column],
        rows: Vec<Row>,
    ) -> Result<(), CopyError> {
        match &mut self.0 {
            Engine::Sqlite(database) => database.insert(table, columns, rows).await,
            Engine::Postgres(database) => database.insert(table, columns, rows).await,
        }
        .map_err(failed("insert rows"))
    }

    async fn count(&mut self, table: &Table) -> Result<u64, CopyError> {
        let query = table.count();
        let counted = match &mut self.0 {
            Engine::Sqlite(database) => database.number(query).await,
            Engine::Postgres(database) => database.number(query).await,
        };
        unsigned(table.name, counted.map_err(failed("count rows"))?)
    }

    async fn pair(&mut self, query: &'static str) -> sqlx::Result<(i64, i64)> {
        match &mut self.0 {
            Engine::Sqlite(database) => database.pair(query).await,
            Engine::Postgres(database) => database.pair(query).await,
        }
    }

    async fn page(
        &mut self,
        query: &'static str,
        kinds: &[Kind],
        after: &str,
        limit: usize,
    ) -> sqlx::Result<Vec<Row>> {
        let limit = crate::values::limited(limit);
        match &mut self.0 {
            Engine::Sqlite(database) => database.page(query, kinds, after, limit).await,
            Engine::Postgres(database) => database.page(query, kinds, after, limit).await,
        }
    }
}

fn failed(doing: &'static str) -> impl FnOnce(sqlx::Error) -> CopyError {
    move |source| CopyError::Engine { doing, source }
}

fn inconsistent(table: &'static str) -> CopyError {
    CopyError::Inconsistent {
        table,
        reason: "a value is out of its range".to_owned(),
    }
}

fn unsigned(table: &'static str, number: i64) -> Result<u64, CopyError> {
    u64::try_from(number).map_err(|_| inconsistent(table))
}

fn recorded_blob(row: Row) -> Option<RecordedBlob> {
    let [key, size, sha256, doomed_at] = row.try_into().ok()?;
    Some(RecordedBlob {
        key: key.text()?.parse().ok()?,
        size: size.number()?,
        sha256: Sha256Digest::from_bytes(sha256.bytes()?.try_into().ok()?),
        is_doomed: doomed_at != Value::Null,
    })
}

fn recorded_upload(row: Row) -> Option<RecordedUpload> {
    let [id, blob, epoch, offset, length, hash] = row.try_into().ok()?;
    Some(RecordedUpload {
        id: id.text()?.parse().ok()?,
        blob: blob.text()?.parse().ok()?,
        epoch: epoch.number()?,
        offset: offset.number()?,
        length: match length {
            Value::Null => None,
            length => Some(length.number()?),
        },
        hash: HashState::from_bytes(hash.bytes()?),
    })
}
