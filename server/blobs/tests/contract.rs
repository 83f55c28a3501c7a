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

    testing::blob_store_contract!(open);
}

mod memory {
    use domain::clock::SystemClock;
    use testing::MemoryBlobStore;

    use super::*;

    async fn open() -> (Arc<dyn BlobStore>, ()) {
        (Arc::new(MemoryBlobStore::new(Arc::new(SystemClock))), ())
    }

    testing::blob_store_contract!(open);
}

mod s3_server;

mod s3 {
    use blobs::Config;
    use blobs::s3;

    use super::s3_server::{ACCESS_KEY, REGION, SECRET_KEY, s3_server};
    use super::*;

    async fn open() -> (Arc<dyn BlobStore>, ()) {
        let server = s3_server();
        let place = server.fresh();
        let config = Config::S3(Box::new(s3::Config {
            bucket: place.bucket,
            prefix: place.prefix,
            endpoint: Some(server.endpoint().to_owned()),
            region: Some(REGION.to_owned()),
            path_style: true,
            access_key_id: Some(ACCESS_KEY.to_owned()),
            secret_access_key: Some(SECRET_KEY.to_owned().into()),
            ..s3::Config::default()
        }));
        let store = blobs::open(&config, "data".as_ref())
            .await
            .expect("a store in an empty bucket");
        (store, ())
    }

    testing::blob_store_contract!(open);
}
