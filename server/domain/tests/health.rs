//! Readiness while stores fail or hang. Time is tokio's, and paused: no test waits.

use std::sync::Arc;
use std::time::Duration;

use domain::clock::SystemClock;
use domain::health::NotReady;
use domain::{Health, Supervisor};
use testing::MemoryBlobStore;
use testing::faults::{Fault, Gate};
use testing::faulty_metadata_store::Operation as Fact;
use testing::faulty_store::Operation;
use testing::{FaultyMetadataStore, FaultyStore, MemoryMetadataStore};
use tokio::time::Instant;

struct World {
    blobs: Arc<FaultyStore>,
    metadata: Arc<FaultyMetadataStore>,
    health: Health,
}

impl World {
    fn new() -> Self {
        let bytes = MemoryBlobStore::new(Arc::new(SystemClock));
        let blobs = Arc::new(FaultyStore::new(Arc::new(bytes)));
        let facts = MemoryMetadataStore::default();
        let metadata = Arc::new(FaultyMetadataStore::new(Arc::new(facts)));
        let health = Health::new(
            Arc::<FaultyStore>::clone(&blobs),
            Arc::<FaultyMetadataStore>::clone(&metadata),
            Supervisor::default(),
        );
        Self {
            blobs,
            metadata,
            health,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_is_named() {
    let World {
        blobs,
        metadata,
        health,
    } = World::new();
    assert_eq!(health.ready().await, Ok(()));

    blobs.next(Operation::Check, Fault::Fails);
    let error = health.ready().await.unwrap_err();
    assert_eq!(error, NotReady::Stores(vec!["blob store"]));
    metadata.always(Fact::Check, Fault::IsFull);
    blobs.next(Operation::Check, Fault::IsFull);
    let error = health.ready().await.unwrap_err();
    assert_eq!(error.to_string(), "not working: blob store, metadata store");

    metadata.heal();
    assert_eq!(health.ready().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_asked_once_and_waited_for_with_a_bound() {
    let World { blobs, health, .. } = World::new();
    let gate = Gate::new();
    blobs.always(Operation::Check, Fault::Waits(gate.clone()));

    let began = Instant::now();
    for _ in 0..3 {
        let error = health.ready().await.unwrap_err();
        assert_eq!(error, NotReady::Stores(vec!["blob store"]));
    }
    assert_eq!(began.elapsed(), Duration::from_secs(9));
    assert_eq!(
        blobs.count(Operation::Check),
        1,
        "checks must not pile up on a store that hangs"
    );

    gate.open();
    assert_eq!(health.ready().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_about_to_end_is_not_ready_whatever_its_stores_say() {
    let World { blobs, health, .. } = World::new();
    health.clone().drain();
    assert_eq!(health.ready().await, Err(NotReady::Draining));
    assert_eq!(blobs.count(Operation::Check), 0);
}
