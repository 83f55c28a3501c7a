//! The contract of the port, on every store.

use std::sync::Arc;

use domain::BlobStore;
use tempfile::TempDir;

mod fs {
    use super::*;

    async fn open() -> (Arc<dyn BlobStore>, TempDir) {
        let data = tempfile::tempdir().expect("a temporary directory");
        let store = blobs::open(&blobs::Config::default(), data.path())
            .await
            .expect("a store in an empty directory");
        (store, data)
    }

    domain::blob_store_contract!(open);
}

mod memory {
    use blobs::memory::MemoryStore;
    use domain::clock::SystemClock;

    use super::*;

    async fn open() -> (Arc<dyn BlobStore>, ()) {
        (Arc::new(MemoryStore::new(Arc::new(SystemClock))), ())
    }

    domain::blob_store_contract!(open);
}
