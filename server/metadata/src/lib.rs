//! Adapters of [`MetadataStore`], [`PackStore`] and [`EventStore`] over SQL databases.
//!
//! [`open`] connects to the database that a [`Config`] names and brings its schema up to date.
//!
//! Each port is implemented once, in `store`, over any `Engine`. Changes are in `commands`: a
//! `Command` reads, locks and writes through a `Transaction`. Queries go through a `Reader`. SQL
//! text is in `sql` and the conversion of rows in `rows`; for packs in `pack_sql`, `pack_lists` and
//! `pack_rows`, for events in `event_sql` and `event_rows`. Each engine keeps what is specific to
//! it: `sqlite` the single writer with its group commit and the cache of files; `postgres` repeated
//! transactions, locks, and notifications. The schema is in `/migrations`.
//!
//! # Adding a fact
//!
//! 1. Give both `/migrations/sqlite` and `/migrations/postgres` a migration of the same number.
//! 2. Add a method to the port in `domain`, to its double in memory, and to its contract suite.
//! 3. Add the column to the statements in `sql` and to the row in `rows`. A new statement is one
//!    text, or a pair where the dialects differ.
//! 4. Write the command or the query here, once. `copying` copies new columns without a change, and
//!    new tables once they are in its list.

mod cache;
mod commands;
pub mod copying;
mod database_url;
mod engine;
mod event_rows;
mod event_sql;
mod failures;
mod pack_lists;
mod pack_rows;
mod pack_sql;
mod postgres;
mod queries;
mod rows;
mod sql;
mod sqlite;
mod store;
mod values;

use std::error::Error;
use std::io;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use domain::{EventStore, MetadataStore, PackStore};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::migrate::{MigrateError, Migrator};
use thiserror::Error;

pub use self::database_url::{DatabaseUrl, InvalidUrl};
use self::engine::Engine;
use self::store::Store;

/// Kind of database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Config {
    /// SQLite, for one server.
    Sqlite(SqliteConfig),
    /// PostgreSQL, for any number of servers on one database.
    Postgres(PostgresConfig),
}

/// Settings of SQLite. Write sizes as in `64 MiB`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SqliteConfig {
    /// File of the database; a relative one is below the data directory. It must be on a local
    /// disk. A file of the same name with `.lock` is beside it: one process at a time uses a
    /// database.
    #[schemars(with = "settings::Path")]
    pub file: PathBuf,
    /// Maximum number of statements that read at the same time.
    pub readers: NonZeroU32,
    /// Maximum number of changes that wait for the writer; further callers wait for a place in the
    /// queue.
    pub queue: NonZeroUsize,
    /// Maximum number of changes that are committed together, with one sync to the disk.
    pub batch: NonZeroUsize,
    /// Memory for pages of the database, in the writer and in each reader.
    #[schemars(with = "settings::Size")]
    pub page_cache: ByteSize,
    /// Memory for the records of recently requested files.
    #[schemars(with = "settings::Size")]
    pub file_cache: ByteSize,
}

/// Settings of PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// URL of the database: `postgres://user:password@host:port/database?sslmode=verify-full`. Its
    /// encoding must be UTF-8. Missing parts come from the environment, such as `PGPASSWORD` or
    /// `PGSSLROOTCERT`, and from the password file.
    pub url: DatabaseUrl,
    /// Maximum number of this server's connections to PostgreSQL; each serves one transaction at a
    /// time. 16 by default.
    #[serde(default = "default_connections")]
    pub connections: NonZeroU32,
    /// Time for which a transaction waits for a connection to PostgreSQL, even a new one. 10
    /// seconds by default.
    #[serde(default = "default_acquire_timeout", with = "settings::Time")]
    pub acquire_timeout: Duration,
    /// Timeout of a statement in PostgreSQL, and of a transaction between two statements. 30
    /// seconds by default.
    #[serde(default = "default_statement_timeout", with = "settings::Time")]
    pub statement_timeout: Duration,
}

impl PostgresConfig {
    /// Returns the default settings for the database at `url`.
    pub fn new(url: DatabaseUrl) -> Self {
        Self {
            url,
            connections: default_connections(),
            acquire_timeout: default_acquire_timeout(),
            statement_timeout: default_statement_timeout(),
        }
    }
}

fn default_connections() -> NonZeroU32 {
    const { NonZeroU32::new(16).unwrap() }
}

fn default_acquire_timeout() -> Duration {
    Duration::from_secs(10)
}

fn default_statement_timeout() -> Duration {
    Duration::from_secs(30)
}

impl Default for Config {
    fn default() -> Self {
        Self::Sqlite(SqliteConfig::default())
    }
}

impl Default for SqliteConfig {
    fn default() -> Self {
        Self {
            file: "metadata.sqlite".into(),
            readers: const { NonZeroU32::new(4).unwrap() },
            queue: const { NonZeroUsize::new(1024).unwrap() },
            batch: const { NonZeroUsize::new(256).unwrap() },
            page_cache: ByteSize::mib(8),
            file_cache: ByteSize::mib(64),
        }
    }
}

/// Reasons for which a database is not opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The lock beside the database could not be taken or made.
    #[error("failed to lock {}", file.display())]
    Lock {
        /// The lock.
        file: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The database's file could not be made or opened.
    #[error("failed to open {}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another process uses the database.
    #[error("another process uses the database: it holds {}", file.display())]
    InUse {
        /// The lock.
        file: PathBuf,
    },
    /// A newer release has changed the schema.
    #[error(
        "{database} was made by a newer release: it has migration {version}, this program knows up to {newest}"
    )]
    Newer {
        /// The database.
        database: String,
        /// Number of the first unknown migration.
        version: i64,
        /// Number of the newest known migration.
        newest: i64,
    },
    /// The schema could not be brought up to date.
    #[error("failed to migrate {database}")]
    Migrate {
        /// The database.
        database: String,
        /// The cause.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The database has another encoding than UTF-8, which cannot store every character.
    #[error("{database} has the encoding {encoding} and must have UTF8")]
    Encoding {
        /// The database.
        database: String,
        /// Encoding of the database.
        encoding: String,
    },
    /// The engine failed.
    #[error("failed to open {database}")]
    Engine {
        /// The database.
        database: String,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
}

/// One store, as each of its ports.
#[derive(Debug, Clone)]
pub struct Stores {
    /// Uploads and files. Closing this port closes the store.
    pub metadata: Arc<dyn MetadataStore>,
    /// Packs.
    pub packs: Arc<dyn PackStore>,
    /// Events to be delivered.
    pub events: Arc<dyn EventStore>,
}

/// Opens the configured database and brings its schema up to date. Relative names are below
/// `data_dir`, which must exist.
///
/// The store works on the current runtime; end it with [`close`](MetadataStore::close).
pub async fn open(config: &Config, data_dir: &Path) -> Result<Stores, OpenError> {
    Ok(match config {
        Config::Sqlite(config) => Stores::over(sqlite::SqliteEngine::open(config, data_dir).await?),
        Config::Postgres(config) => Stores::over(postgres::PostgresEngine::open(config).await?),
    })
}

impl Stores {
    fn over(engine: impl Engine) -> Self {
        let store = Arc::new(Store(engine));
        Self {
            metadata: Arc::clone(&store) as _,
            packs: Arc::clone(&store) as _,
            events: store,
        }
    }
}

/// Converts an error of `migrations`.
fn unmigrated(database: String, migrations: &Migrator, error: MigrateError) -> OpenError {
    let newest = migrations
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0);
    match error {
        MigrateError::VersionMissing(version) if version > newest => OpenError::Newer {
            database,
            version,
            newest,
        },
        source => OpenError::Migrate {
            database,
            source: source.into(),
        },
    }
}
