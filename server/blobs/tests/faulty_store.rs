//! The test double of the services fails as planned, and only then.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::blob_store::{BlobError, Growth};
use domain::clock::SystemClock;
use domain::{BlobKey, BlobStore};
use futures::TryStreamExt;
use futures::future::poll_immediate;
use testing::FaultyStore;
use testing::MemoryBlobStore;
use testing::faults::{Fault, Gate};
use testing::faulty_store::Operation;

async fn open() -> (Arc<dyn BlobStore>, ()) {
    (Arc::new(faulty()), ())
}

testing::blob_store_contract!(open);

#[tokio::test]
async fn the_nth_operation_fails_and_others_do_not() {
    let store = faulty();
    store.nth(Operation::Write, 2, Fault::Fails);
    let mut staged = store.stage(&key(), Growth::NEW).await.unwrap();
    staged.write(Bytes::from_static(b"abc")).await.unwrap();
    staged.write(Bytes::from_static(b"def")).await.unwrap_err();
    assert_eq!(
        staged.sync().await.unwrap(),
        3,
        "a failed write had no effect"
    );
    assert_eq!(store.count(Operation::Write), 2);

    store.nth(Operation::Write, 1, Fault::IsFull);
    let full = staged.write(Bytes::from_static(b"def")).await;
    assert!(matches!(full, Err(BlobError::Full)));
}

#[tokio::test]
async fn a_failure_may_come_after_the_effect() {
    let store = faulty();
    store.next(Operation::Publish, Fault::FailsAfter);
    stage(&store, b"hello").await;
    store.publish(&key(), 5).await.unwrap_err();
    store.open(&key(), 5).await.unwrap();
}

#[tokio::test]
async fn a_fault_may_last_until_it_is_healed() {
    let store = faulty();
    store.always(Operation::Check, Fault::IsFull);
    store.check().await.unwrap_err();
    store.check().await.unwrap_err();
    store.heal();
    store.check().await.unwrap();
}

#[tokio::test]
async fn a_read_breaks_where_it_is_told_to() {
    let store = faulty();
    let whole: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    stage(&store, &whole).await;
    store.publish(&key(), 100_000).await.unwrap();
    let blob = store.open(&key(), 100_000).await.unwrap();
    for at in [0, 1, 50_000, 99_999, 100_000] {
        store.next(Operation::Read, Fault::BreaksAfter(at));
        let mut read = Vec::new();
        let result: Result<(), BlobError> = blob
            .read(0..100_000)
            .try_for_each(|chunk| {
                read.extend_from_slice(&chunk);
                async { Ok(()) }
            })
            .await;
        assert!(result.is_err());
        assert!(read == whole[..usize::try_from(at).unwrap()], "at {at}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_may_take_its_time() {
    let store = faulty();
    store.next(Operation::Check, Fault::Takes(Duration::from_secs(60)));
    let begun = tokio::time::Instant::now();
    store.check().await.unwrap();
    assert_eq!(begun.elapsed(), Duration::from_secs(60));
}

#[tokio::test]
async fn a_gate_holds_an_operation_up() {
    let store = Arc::new(faulty());
    let gate = Gate::new();
    store.next(Operation::Check, Fault::Waits(gate.clone()));
    let mut check = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.check().await }
    });
    gate.reached().await;
    assert!(poll_immediate(&mut check).await.is_none());
    gate.open();
    check.await.unwrap().unwrap();
}

fn faulty() -> FaultyStore {
    FaultyStore::new(Arc::new(MemoryBlobStore::new(Arc::new(SystemClock))))
}

fn key() -> BlobKey {
    "blob".parse().expect("a key")
}

async fn stage(store: &dyn BlobStore, bytes: &[u8]) {
    let mut staged = store.stage(&key(), Growth::NEW).await.expect("to stage");
    staged
        .write(Bytes::copy_from_slice(bytes))
        .await
        .expect("to write");
    staged.sync().await.expect("to sync");
}
