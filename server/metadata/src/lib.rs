//! Where facts are kept: adapters of [`MetadataStore`] and [`PackStore`] over SQL databases.
//!
//! [`open`] connects to the database that a [`Config`] names and brings its schema up to date. SQL text that all engines share
//! is in `sql`, what rows mean is in `rows`, and the same for packs in `pack_sql` and `pack_rows`; each engine has a module for the
//! rest. The schema is in `/migrations`.

mod cache;
mod pack_rows;
mod pack_sql;
mod rows;
mod sql;
mod sqlite;

use std::error::Error;
use std::io;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytesize::ByteSize;
use domain::{MetadataStore, PackStore};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Which database, and how it is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Config {
    /// SQLite, for one server.
    Sqlite(SqliteConfig),
}

/// How SQLite is used. Sizes are written as in `64 MiB`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SqliteConfig {
    /// The database's file; if relative, below the data directory. It must lie on a local disk. A file of the same name and
    /// `.lock` lies beside it: one process at a time uses a database.
    pub file: PathBuf,
    /// Most statements that read at the same time.
    pub readers: NonZeroU32,
    /// Most changes that wait for the writer; callers beyond wait for a place in the queue.
    pub queue: NonZeroUsize,
    /// Most changes that are committed together, with one sync to the disk.
    pub batch: NonZeroUsize,
    /// Memory for pages of the database, in the writer and in each reader.
    pub page_cache: ByteSize,
    /// Memory for what is known of files that were asked for lately.
    pub file_cache: ByteSize,
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

/// Why a database could not be opened.
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
    /// Another process uses it.
    #[error("another process uses the database: it holds {}", file.display())]
    InUse {
        /// The lock.
        file: PathBuf,
    },
    /// A newer release has changed the schema.
    #[error(
        "{} was made by a newer release: it has migration {version}, this program knows up to {newest}",
        file.display()
    )]
    Newer {
        /// The database.
        file: PathBuf,
        /// The first migration that is not known.
        version: i64,
        /// The last one that is.
        newest: i64,
    },
    /// The schema could not be brought up to date.
    #[error("failed to migrate {}", file.display())]
    Migrate {
        /// The database.
        file: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Anything else.
    #[error("failed to open {}", file.display())]
    Engine {
        /// The database.
        file: PathBuf,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
}

/// One store, by each of its ports.
#[derive(Debug, Clone)]
pub struct Stores {
    /// The facts of uploads and files. Closing it closes the store.
    pub metadata: Arc<dyn MetadataStore>,
    /// The facts of packs.
    pub packs: Arc<dyn PackStore>,
}

/// Opens the configured database and brings its schema up to date. Relative names are below `data_dir`, which must exist.
///
/// The store runs a task on the current runtime; end it with [`close`](MetadataStore::close).
pub async fn open(config: &Config, data_dir: &Path) -> Result<Stores, OpenError> {
    match config {
        Config::Sqlite(config) => {
            let store = Arc::new(sqlite::SqliteStore::open(config, data_dir).await?);
            Ok(Stores {
                metadata: Arc::<sqlite::SqliteStore>::clone(&store),
                packs: store,
            })
        }
    }
}
