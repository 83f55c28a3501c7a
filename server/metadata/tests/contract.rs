//! The contract of the port, kept by every engine.

#![expect(
    clippy::unwrap_used,
    reason = "a test, in functions of its own as well"
)]

mod cluster;

use std::num::NonZeroUsize;
use std::sync::Arc;

use domain::MetadataStore;
use domain::testing::pack_store::Ports;
use metadata::{Config, PostgresConfig, SqliteConfig, Stores};
use tempfile::TempDir;

async fn opened(config: SqliteConfig) -> (Ports, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let stores = metadata::open(&Config::Sqlite(config), directory.path()).await;
    let Stores { metadata, packs } = stores.unwrap();
    (Ports { metadata, packs }, directory)
}

mod sqlite {
    use super::*;

    async fn fresh() -> (Arc<dyn MetadataStore>, TempDir) {
        let (ports, directory) = fresh_ports().await;
        (ports.metadata, directory)
    }

    async fn fresh_ports() -> (Ports, TempDir) {
        opened(SqliteConfig::default()).await
    }

    domain::metadata_store_contract!(fresh);
    domain::pack_store_contract!(fresh_ports);
}

/// With a transaction for each change, and next to no memory.
mod sqlite_at_its_smallest {
    use super::*;

    async fn fresh() -> (Arc<dyn MetadataStore>, TempDir) {
        let (ports, directory) = fresh_ports().await;
        (ports.metadata, directory)
    }

    async fn fresh_ports() -> (Ports, TempDir) {
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
    domain::pack_store_contract!(fresh_ports);
}

/// What PostgreSQL has nothing to do with is kept in no directory.
async fn opened_in_postgres(config: PostgresConfig) -> Ports {
    let stores = metadata::open(&Config::Postgres(config), "/nowhere".as_ref()).await;
    let Stores { metadata, packs } = stores.unwrap();
    Ports { metadata, packs }
}

mod postgres {
    use super::*;

    async fn fresh() -> (Arc<dyn MetadataStore>, ()) {
        let (ports, ()) = fresh_ports().await;
        (ports.metadata, ())
    }

    async fn fresh_ports() -> (Ports, ()) {
        let config = cluster::fresh_schema().await;
        (opened_in_postgres(config).await, ())
    }

    domain::metadata_store_contract!(fresh);
    domain::pack_store_contract!(fresh_ports);
}

/// With one transaction at a time.
mod postgres_at_its_smallest {
    use super::*;

    async fn fresh() -> (Arc<dyn MetadataStore>, ()) {
        let (ports, ()) = fresh_ports().await;
        (ports.metadata, ())
    }

    async fn fresh_ports() -> (Ports, ()) {
        let config = PostgresConfig {
            connections: 1.try_into().unwrap(),
            ..cluster::fresh_schema().await
        };
        (opened_in_postgres(config).await, ())
    }

    domain::metadata_store_contract!(fresh);
    domain::pack_store_contract!(fresh_ports);
}
