//! The contract of the port, kept by every engine.

#![expect(
    clippy::unwrap_used,
    reason = "a test, in functions of its own as well"
)]

use std::num::NonZeroUsize;
use std::sync::Arc;

use domain::MetadataStore;
use metadata::{Config, SqliteConfig};
use tempfile::TempDir;

async fn opened(config: SqliteConfig) -> (Arc<dyn MetadataStore>, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let store = metadata::open(&Config::Sqlite(config), directory.path()).await;
    (store.unwrap(), directory)
}

mod sqlite {
    use super::*;

    async fn fresh() -> (Arc<dyn MetadataStore>, TempDir) {
        opened(SqliteConfig::default()).await
    }

    domain::metadata_store_contract!(fresh);
}

/// With a transaction for each change, and next to no memory.
mod sqlite_at_its_smallest {
    use super::*;

    async fn fresh() -> (Arc<dyn MetadataStore>, TempDir) {
        opened(SqliteConfig {
            readers: 1.try_into().unwrap(),
            queue: NonZeroUsize::MIN,
            batch: NonZeroUsize::MIN,
            file_cache: bytesize::ByteSize::b(0),
            page_cache: bytesize::ByteSize::b(0),
            ..SqliteConfig::default()
        })
        .await
    }

    domain::metadata_store_contract!(fresh);
}
