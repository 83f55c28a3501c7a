//! The contract of the port, kept by every engine.

#![expect(
    clippy::unwrap_used,
    reason = "a test, in functions of its own as well"
)]

use std::num::NonZeroUsize;
use std::sync::Arc;
use testing::postgres::fresh_schema;

use domain::MetadataStore;
use metadata::{Config, PostgresConfig, SqliteConfig, Stores};
use tempfile::TempDir;
use testing::event_store::EventPorts;
use testing::pack_store::Ports;

async fn opened(config: SqliteConfig) -> (Stores, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let stores = metadata::open(&Config::Sqlite(config), directory.path()).await;
    (stores.unwrap(), directory)
}

/// The ports that each suite needs.
fn pack_ports(stores: Stores) -> Ports {
    Ports {
        metadata: stores.metadata,
        packs: stores.packs,
    }
}

fn event_ports(stores: Stores) -> EventPorts {
    EventPorts {
        metadata: stores.metadata,
        packs: stores.packs,
        events: stores.events,
    }
}

mod sqlite {
    use super::*;

    async fn fresh() -> (Arc<dyn MetadataStore>, TempDir) {
        let (stores, directory) = fresh_stores().await;
        (stores.metadata, directory)
    }

    async fn fresh_ports() -> (Ports, TempDir) {
        let (stores, directory) = fresh_stores().await;
        (pack_ports(stores), directory)
    }

    async fn fresh_event_ports() -> (EventPorts, TempDir) {
        let (stores, directory) = fresh_stores().await;
        (event_ports(stores), directory)
    }

    async fn fresh_stores() -> (Stores, TempDir) {
        opened(SqliteConfig::default()).await
    }

    testing::metadata_store_contract!(fresh);
    testing::pack_store_contract!(fresh_ports);
    testing::event_store_contract!(fresh_event_ports);
}

/// With a transaction for each change, and next to no memory.
mod sqlite_at_its_smallest {
    use super::*;

    async fn fresh() -> (Arc<dyn MetadataStore>, TempDir) {
        let (stores, directory) = fresh_stores().await;
        (stores.metadata, directory)
    }

    async fn fresh_ports() -> (Ports, TempDir) {
        let (stores, directory) = fresh_stores().await;
        (pack_ports(stores), directory)
    }

    async fn fresh_event_ports() -> (EventPorts, TempDir) {
        let (stores, directory) = fresh_stores().await;
        (event_ports(stores), directory)
    }

    async fn fresh_stores() -> (Stores, TempDir) {
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

    testing::metadata_store_contract!(fresh);
    testing::pack_store_contract!(fresh_ports);
    testing::event_store_contract!(fresh_event_ports);
}

/// Opens a store in PostgreSQL, with a missing data directory: PostgreSQL needs none.
async fn opened_in_postgres(config: PostgresConfig) -> Stores {
    let stores = metadata::open(&Config::Postgres(config), "/nowhere".as_ref()).await;
    stores.unwrap()
}

mod postgres {
    use super::*;

    async fn fresh() -> (Arc<dyn MetadataStore>, ()) {
        (fresh_stores().await.metadata, ())
    }

    async fn fresh_ports() -> (Ports, ()) {
        (pack_ports(fresh_stores().await), ())
    }

    async fn fresh_event_ports() -> (EventPorts, ()) {
        (event_ports(fresh_stores().await), ())
    }

    async fn fresh_stores() -> Stores {
        let config = PostgresConfig::new(fresh_schema().await);
        opened_in_postgres(config).await
    }

    testing::metadata_store_contract!(fresh);
    testing::pack_store_contract!(fresh_ports);
    testing::event_store_contract!(fresh_event_ports);
}

/// With one transaction at a time.
mod postgres_at_its_smallest {
    use super::*;

    async fn fresh() -> (Arc<dyn MetadataStore>, ()) {
        (fresh_stores().await.metadata, ())
    }

    async fn fresh_ports() -> (Ports, ()) {
        (pack_ports(fresh_stores().await), ())
    }

    async fn fresh_event_ports() -> (EventPorts, ()) {
        (event_ports(fresh_stores().await), ())
    }

    async fn fresh_stores() -> Stores {
        let config = PostgresConfig {
            connections: 1.try_into().unwrap(),
            ..PostgresConfig::new(fresh_schema().await)
        };
        opened_in_postgres(config).await
    }

    testing::metadata_store_contract!(fresh);
    testing::pack_store_contract!(fresh_ports);
    testing::event_store_contract!(fresh_event_ports);
}
