//! Tests of the store on a server that fails, shared by nodes of which some pause.

mod faults;
#[path = "../../tests/faulty_s3/mod.rs"]
mod faulty_s3;
mod large;
mod late;
mod model;
mod paused;
mod servers;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use domain::blob_store::{BlobError, Growth};
use domain::{BlobKey, BlobStore};
use futures::TryStreamExt as _;

use self::faulty_s3::{BUCKET, FaultyS3};
use super::{Ability, Checksums, Config, Limits, S3Store};

/// Bytes of a part: few, so that blobs have many.
const PART: usize = 1000;

mod contract {
    use super::*;

    async fn open() -> (Arc<dyn BlobStore>, FaultyS3) {
        let server = FaultyS3::start().await;
        let store = S3Store::open(&config(&server, "node")).await.unwrap();
        (Arc::new(store), server)
    }

    testing::blob_store_contract!(open);
}

/// Contract with parts of a few bytes, and memory for a few of them.
mod contract_of_small_parts {
    use super::*;

    async fn open() -> (Arc<dyn BlobStore>, FaultyS3) {
        let server = FaultyS3::start().await;
        let config = Config {
            part_size: ByteSize::kib(64),
            memory: ByteSize::kib(256),
            read_size: ByteSize::kib(50),
            ..config(&server, "node")
        };
        let store = S3Store::connect(&config, Limits::default()).await.unwrap();
        (Arc::new(store), server)
    }

    testing::blob_store_contract!(open);
}

fn config(server: &FaultyS3, who: &str) -> Config {
    Config {
        bucket: BUCKET.to_owned(),
        endpoint: Some(server.endpoint()),
        path_style: true,
        access_key_id: Some(who.to_owned()),
        secret_access_key: Some("secret".to_owned().into()),
        ..Config::default()
    }
}

/// Opens a store on the bucket, with parts of [`PART`] bytes.
async fn node(server: &FaultyS3, who: &str) -> S3Store {
    node_with(server, who, Limits::default(), |config| config).await
}

async fn node_with(
    server: &FaultyS3,
    who: &str,
    limits: Limits,
    change: impl FnOnce(Config) -> Config,
) -> S3Store {
    let config = Config {
        part_size: ByteSize::b(PART as u64),
        memory: ByteSize::kib(64),
        read_size: ByteSize::b(1500),
        attempts: NonZeroU32::new(4).unwrap(),
        ..config(server, who)
    };
    let limits = Limits {
        first_pause: Duration::from_millis(1),
        ..limits
    };
    S3Store::connect(&change(config), limits).await.unwrap()
}

fn key() -> BlobKey {
    "blob".parse().unwrap()
}

fn at(offset: usize, epoch: u64) -> Growth {
    Growth {
        offset: offset as u64,
        epoch,
        length: None,
    }
}

/// Returns bytes that identify their writer.
fn bytes(length: usize, of: u8) -> Vec<u8> {
    let place = |index: usize| (index % 251).to_le_bytes()[0];
    (0..length)
        .map(|index| place(index) ^ of.wrapping_mul(37))
        .collect()
}

async fn read(store: &S3Store, key: &BlobKey, size: usize) -> Result<Vec<u8>, BlobError> {
    let blob = store.open(key, size as u64).await?;
    let chunks: Vec<_> = blob.read(0..size as u64).try_collect().await?;
    Ok(chunks.concat())
}

/// Removes everything, as the janitor would, and asserts that nothing is left.
async fn assert_all_goes(server: &FaultyS3, store: &S3Store) {
    use domain::blob_store::BlobState::{Published, Staged};
    for _ in 0..2 {
        for entry in store.list(Staged, None, 1000).await.unwrap() {
            store.discard(&entry.key).await.unwrap();
        }
        for entry in store.list(Published, None, 1000).await.unwrap() {
            store.delete(&entry.key).await.unwrap();
        }
    }
    assert!(server.objects().is_empty(), "{:?}", server.objects());
    assert_eq!(server.uploads(), 0);
    assert_eq!(server.violations(), [""; 0]);
}
