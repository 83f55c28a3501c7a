//! Each method of the port of blobs, and what flows through it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use domain::BlobKey;
use domain::blob_store::{
    Blob, BlobEntry, BlobError, BlobState, BlobStore, BlobStream, Growth, Link, LinkFields,
    StagedBlob,
};
use domain::clock::SystemClock;
use futures::future::poll_immediate;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use testing::faults::Fault;
use testing::faulty_store::Operation;
use testing::{FaultyStore, MemoryBlobStore};

use super::{Call, Recorded, call, counts_once, counts_when_dropped};
use crate::blob_store;
use crate::operation::{ErrorKind, Failure};
use crate::table::BLOB_STORE;

/// A store, and the blobs that it opens: every method does the same.
#[derive(Debug, Clone, Copy)]
struct Stub {
    /// Kind of the error; without one, no method returns.
    fails: Option<ErrorKind>,
    /// Opens blobs nevertheless.
    opens: bool,
}

impl Stub {
    async fn answer<T>(self) -> Result<T, BlobError> {
        let source = "planned by the test";
        let doing = "do what a test planned to fail".to_owned();
        Err(match self.fails {
            None => std::future::pending().await,
            Some(ErrorKind::Missing) => BlobError::Missing { key: key() },
            Some(ErrorKind::Full) => BlobError::Full,
            Some(ErrorKind::Unreachable) => BlobError::Unreachable {
                doing,
                source: source.into(),
            },
            Some(ErrorKind::Refused) => BlobError::Refused {
                doing,
                advice: source.to_owned(),
                source: source.into(),
            },
            Some(ErrorKind::Inconsistent) => BlobError::Inconsistent {
                key: key(),
                reason: source.to_owned(),
            },
            Some(ErrorKind::Failed) => BlobError::Failed {
                doing,
                source: source.into(),
            },
        })
    }
}

#[async_trait]
impl BlobStore for Stub {
    async fn stage(&self, _: &BlobKey, _: Growth) -> Result<Box<dyn StagedBlob>, BlobError> {
        match self.opens {
            true => Ok(Box::new(*self)),
            false => self.answer().await,
        }
    }

    async fn read_staged(&self, _: &BlobKey, _: Range<u64>) -> Result<BlobStream, BlobError> {
        self.answer().await
    }

    async fn publish(&self, _: &BlobKey, _: u64) -> Result<(), BlobError> {
        self.answer().await
    }

    async fn discard(&self, _: &BlobKey) -> Result<(), BlobError> {
        self.answer().await
    }

    async fn open(&self, _: &BlobKey, _: u64) -> Result<Arc<dyn Blob>, BlobError> {
        match self.opens {
            true => Ok(Arc::new(*self)),
            false => self.answer().await,
        }
    }

    async fn delete(&self, _: &BlobKey) -> Result<(), BlobError> {
        self.answer().await
    }

    async fn list(
        &self,
        _: BlobState,
        _: Option<&BlobKey>,
        _: usize,
    ) -> Result<Vec<BlobEntry>, BlobError> {
        self.answer().await
    }

    async fn check(&self) -> Result<(), BlobError> {
        self.answer().await
    }
}

#[async_trait]
impl StagedBlob for Stub {
    async fn write(&mut self, _: Bytes) -> Result<(), BlobError> {
        self.answer().await
    }

    async fn sync(&mut self) -> Result<u64, BlobError> {
        self.answer().await
    }

    async fn close(self: Box<Self>) -> Result<u64, BlobError> {
        self.answer().await
    }

    async fn publish(self: Box<Self>) -> Result<u64, BlobError> {
        self.answer().await
    }
}

#[async_trait]
impl Blob for Stub {
    fn size(&self) -> u64 {
        0
    }

    fn read(&self, _: Range<u64>) -> BlobStream {
        self.answer().into_stream().boxed()
    }

    async fn link(&self, _: LinkFields<'_>) -> Result<Option<Link>, BlobError> {
        self.answer().await
    }
}

const FIELDS: LinkFields<'static> = LinkFields {
    content_type: "text/plain",
    content_disposition: None,
    cache_control: "no-store",
};

fn key() -> BlobKey {
    "blob".parse().unwrap()
}

/// Reads to the end.
async fn drain(bytes: BlobStream) -> Result<u64, BlobError> {
    let add = |sum, chunk: Bytes| async move { Ok(sum + chunk.len() as u64) };
    bytes.try_fold(0, add).await
}

/// Calls of a store that opens nothing.
fn calls<'a>(store: &'a dyn BlobStore, key: &'a BlobKey) -> Vec<Call<'a>> {
    vec![
        call("stage", store.stage(key, Growth::NEW)),
        call("read_staged", store.read_staged(key, 0..10)),
        call("publish", store.publish(key, 10)),
        call("discard", store.discard(key)),
        call("open", store.open(key, 10)),
        call("delete", store.delete(key)),
        call("list", store.list(BlobState::Staged, None, 1)),
        call("check", store.check()),
    ]
}

/// Calls of blobs that a store has opened.
async fn calls_of_opened(store: &dyn BlobStore) -> Vec<Call<'static>> {
    let key = key();
    let staged = async || store.stage(&key, Growth::NEW).await.unwrap();
    let (mut writing, mut syncing) = (staged().await, staged().await);
    let (closing, publishing) = (staged().await, staged().await);
    let reading = store.open(&key, 10).await.unwrap();
    let linking = Arc::clone(&reading);
    vec![
        call("write", async move {
            writing.write(Bytes::from_static(b"a")).await
        }),
        call("sync", async move { syncing.sync().await }),
        call("close", closing.close()),
        call("publish", publishing.publish()),
        call("read", async move { drain(reading.read(0..10)).await }),
        call("link", async move { linking.link(FIELDS).await }),
    ]
}

#[tokio::test]
async fn every_error_counts_by_its_kind() {
    let (recorded, key) = (Recorded::begin(), key());
    for kind in BlobError::KINDS {
        let fails = Some(*kind);
        let store = blob_store(Arc::new(Stub {
            fails,
            opens: false,
        }));
        counts_once(&recorded, &BLOB_STORE, calls(&*store, &key), fails).await;
        let store = blob_store(Arc::new(Stub { fails, opens: true }));
        let opened = calls_of_opened(&*store).await;
        recorded.changes();
        counts_once(&recorded, &BLOB_STORE, opened, fails).await;
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_counts_as_cancelled() {
    let (recorded, key) = (Recorded::begin(), key());
    let fails = None;
    let store = blob_store(Arc::new(Stub {
        fails,
        opens: false,
    }));
    counts_when_dropped(&recorded, &BLOB_STORE, calls(&*store, &key)).await;
    let store = blob_store(Arc::new(Stub { fails, opens: true }));
    let opened = calls_of_opened(&*store).await;
    recorded.changes();
    counts_when_dropped(&recorded, &BLOB_STORE, opened).await;
}

#[tokio::test]
async fn every_method_is_an_operation() {
    let (recorded, key) = (Recorded::begin(), key());
    let fails = Some(ErrorKind::Full);
    let store = blob_store(Arc::new(Stub { fails, opens: true }));
    let mut calls = calls(&*store, &key);
    calls.extend(calls_of_opened(&*store).await);
    let called: BTreeSet<String> = calls.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(called, recorded.operations(BLOB_STORE.in_flight));
}

#[tokio::test]
async fn a_blob_counts_from_its_first_byte_to_its_last() {
    let (recorded, key) = (Recorded::begin(), key());
    let store = blob_store(Arc::new(MemoryBlobStore::new(Arc::new(SystemClock))));
    let ok = |operation| {
        format!(
            "{}{{operation={operation},outcome=ok}} 1",
            BLOB_STORE.duration
        )
    };
    let with_bytes = |operation, bytes| vec![ok(operation), bytes];
    let read = |bytes| format!("longhaul_blob_store_read_bytes_total{{}} {bytes}");
    let written = "longhaul_blob_store_written_bytes_total{} 3".to_owned();

    let mut staged = store.stage(&key, Growth::NEW).await.unwrap();
    assert_eq!(recorded.changes(), [ok("stage")]);
    staged.write(Bytes::from_static(b"abc")).await.unwrap();
    assert_eq!(recorded.changes(), with_bytes("write", written));
    staged.sync().await.unwrap();
    assert_eq!(recorded.changes(), [ok("sync")]);
    staged.close().await.unwrap();
    assert_eq!(recorded.changes(), [ok("close")]);
    let bytes = store.read_staged(&key, 1..3).await.unwrap();
    assert_eq!(drain(bytes).await.unwrap(), 2);
    assert_eq!(recorded.changes(), with_bytes("read_staged", read(2)));
    store.publish(&key, 3).await.unwrap();
    assert_eq!(recorded.changes(), [ok("publish")]);
    let blob = store.open(&key, 3).await.unwrap();
    assert_eq!(recorded.changes(), [ok("open")]);
    assert_eq!(drain(blob.read(0..3)).await.unwrap(), 3);
    assert_eq!(recorded.changes(), with_bytes("read", read(3)));
    assert_eq!(blob.link(FIELDS).await.unwrap(), None);
    assert_eq!(recorded.changes(), [ok("link")]);
    store.list(BlobState::Published, None, 1).await.unwrap();
    assert_eq!(recorded.changes(), [ok("list")]);
    store.delete(&key).await.unwrap();
    assert_eq!(recorded.changes(), [ok("delete")]);
    store.discard(&key).await.unwrap();
    assert_eq!(recorded.changes(), [ok("discard")]);
    store.check().await.unwrap();
    assert_eq!(recorded.changes(), [ok("check")]);
    let publishing = store.stage(&key, Growth::NEW).await.unwrap();
    publishing.publish().await.unwrap();
    assert_eq!(recorded.changes(), [ok("publish"), ok("stage")]);
}

/// Number of bytes in each chunk of the store in memory.
const CHUNK: u64 = 16 * 1024;

/// Returns a published blob of two chunks, and the store beneath.
async fn two_chunks() -> (Arc<dyn Blob>, Arc<FaultyStore>) {
    let memory = MemoryBlobStore::new(Arc::new(SystemClock));
    let beneath = Arc::new(FaultyStore::new(Arc::new(memory)));
    let store = blob_store(Arc::clone(&beneath) as _);
    let mut staged = store.stage(&key(), Growth::NEW).await.unwrap();
    let size = 2 * CHUNK;
    let bytes = vec![7; usize::try_from(size).unwrap()];
    staged.write(bytes.into()).await.unwrap();
    staged.publish().await.unwrap();
    (store.open(&key(), size).await.unwrap(), beneath)
}

/// Returns the lines of a read that ended like this after so many bytes.
fn read_lines(outcome: &str, bytes: u64) -> [String; 3] {
    [
        format!(
            "{}{{operation=read,outcome={outcome}}} 1",
            BLOB_STORE.duration
        ),
        format!("{}{{operation=read}} -1", BLOB_STORE.in_flight),
        format!("longhaul_blob_store_read_bytes_total{{}} {bytes}"),
    ]
}

#[tokio::test]
async fn bytes_count_as_they_flow_and_a_reader_may_leave() {
    let recorded = Recorded::begin();
    let (blob, _) = two_chunks().await;
    recorded.changes();
    for (chunks, outcome) in [(1, "cancelled"), (2, "ok")] {
        let mut bytes = blob.read(0..2 * CHUNK);
        assert_eq!(
            recorded.changes(),
            [format!("{}{{operation=read}} 1", BLOB_STORE.in_flight)]
        );
        for _ in 0..chunks {
            bytes.next().await.unwrap().unwrap();
        }
        drop(bytes);
        assert_eq!(recorded.changes(), read_lines(outcome, chunks * CHUNK));
    }
}

#[tokio::test]
async fn a_read_that_breaks_off_counts_its_bytes_and_its_error() {
    let recorded = Recorded::begin();
    let (blob, beneath) = two_chunks().await;
    beneath.next(Operation::Read, Fault::BreaksAfter(CHUNK));
    recorded.changes();
    let mut bytes = blob.read(0..2 * CHUNK);
    recorded.changes();
    bytes.next().await.unwrap().unwrap();
    assert!(bytes.next().await.unwrap().is_err());
    assert!(bytes.next().await.is_none());
    drop(bytes);
    let mut expected = read_lines("error", CHUNK).to_vec();
    let error = format!("{}{{operation=read,kind=failed}} 1", BLOB_STORE.errors);
    expected.insert(0, error);
    expected.sort();
    assert_eq!(recorded.changes(), expected);
}

#[tokio::test(start_paused = true)]
async fn the_pace_of_a_reader_is_not_the_stores() {
    let recorded = Recorded::begin();
    let (blob, beneath) = two_chunks().await;
    let second = Duration::from_secs(1);
    beneath.next(Operation::Read, Fault::Takes(second));
    recorded.changes();
    let mut bytes = blob.read(0..2 * CHUNK);
    for _ in 0..2 {
        bytes.next().await.unwrap().unwrap();
        tokio::time::sleep(60 * second).await;
    }
    drop(bytes);
    let [waited] = recorded.seconds()[..] else {
        panic!("one read");
    };
    assert!((1.0..1.1).contains(&waited), "{waited} s");
}

#[tokio::test(start_paused = true)]
async fn a_call_lasts_as_long_as_the_store_takes() {
    let recorded = Recorded::begin();
    let (_, beneath) = two_chunks().await;
    let store = blob_store(Arc::clone(&beneath) as _);
    beneath.always(Operation::Check, Fault::Takes(Duration::from_secs(3)));
    recorded.changes();
    store.check().await.unwrap();
    let mut dropped = store.check();
    assert!(poll_immediate(&mut dropped).await.is_none());
    tokio::time::sleep(Duration::from_secs(2)).await;
    drop(dropped);
    let seconds: Vec<f64> = recorded.seconds().into_iter().map(f64::round).collect();
    assert_eq!(seconds, [2.0, 3.0]);
}
