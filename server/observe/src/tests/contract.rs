//! Observed stores keep the contracts of their ports.

use std::sync::Arc;

use domain::clock::SystemClock;
use domain::{BlobStore, MetadataStore};
use testing::event_store::EventPorts;
use testing::pack_store::Ports;
use testing::{MemoryBlobStore, MemoryMetadataStore};

use crate::{blob_store, event_store, metadata_store, pack_store};

async fn blobs() -> (Arc<dyn BlobStore>, ()) {
    let store = MemoryBlobStore::new(Arc::new(SystemClock));
    (blob_store(Arc::new(store)), ())
}

async fn facts() -> (Arc<dyn MetadataStore>, ()) {
    (events().await.0.metadata, ())
}

async fn packs() -> (Ports, ()) {
    let (ports, ()) = events().await;
    let ports = Ports {
        metadata: ports.metadata,
        packs: ports.packs,
    };
    (ports, ())
}

async fn events() -> (EventPorts, ()) {
    let store = Arc::new(MemoryMetadataStore::default());
    let ports = EventPorts {
        metadata: metadata_store(Arc::clone(&store) as _),
        packs: pack_store(Arc::clone(&store) as _),
        events: event_store(store),
    };
    (ports, ())
}

testing::blob_store_contract!(blobs);
testing::metadata_store_contract!(facts);
testing::pack_store_contract!(packs);
testing::event_store_contract!(events);
