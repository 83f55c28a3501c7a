//! Leases: work on one node at a time, and nodes that others know to be alive.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use domain::clock::FollowingClock;
use domain::ids::SystemRandomness;
use domain::leases::{LIFETIME, RENEWAL};
use domain::metadata_store::node_lease;
use domain::{Clock, Leases, MetadataStore, NodeId};
use testing::faults::Fault;
use testing::faulty_metadata_store::Operation;
use testing::{FaultyMetadataStore, ManualClock, MemoryMetadataStore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A store with its own clock, and nodes with another clock.
struct World {
    theirs: Arc<ManualClock>,
    facts: Arc<MemoryMetadataStore>,
}

impl World {
    fn new() -> Self {
        let theirs = Arc::new(ManualClock::default());
        let facts = MemoryMetadataStore::new(Arc::clone(&theirs) as Arc<dyn Clock>);
        let facts = Arc::new(facts);
        Self { theirs, facts }
    }

    fn node(&self) -> (Leases, Arc<FaultyMetadataStore>) {
        let facts = Arc::clone(&self.facts) as Arc<dyn MetadataStore>;
        let store = Arc::new(FaultyMetadataStore::new(facts));
        let own = FollowingClock::new(Arc::new(ManualClock::default()));
        let node = NodeId::random(&SystemRandomness);
        let shared = Arc::clone(&store) as Arc<dyn MetadataStore>;
        (Leases::new(shared, node, Arc::new(own)), store)
    }
}

#[tokio::test(start_paused = true)]
async fn work_is_done_on_one_node_at_a_time() {
    let world = World::new();
    let (one, _) = world.node();
    let (other, _) = world.node();
    let done = one.exclusively("work", async {
        assert_eq!(other.exclusively("work", async {}).await.unwrap(), None);
        assert_eq!(
            other.exclusively("other work", async {}).await.unwrap(),
            Some(())
        );
        7
    });
    assert_eq!(done.await.unwrap(), Some(7));
    assert_eq!(other.exclusively("work", async {}).await.unwrap(), Some(()));
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_while_the_work_goes_on() {
    let world = World::new();
    let (one, _) = world.node();
    let (other, _) = world.node();
    let done = one.exclusively("work", async {
        for _ in 0..20 {
            tokio::time::sleep(RENEWAL).await;
            world.theirs.advance(RENEWAL);
            assert_eq!(other.exclusively("work", async {}).await.unwrap(), None);
        }
    });
    assert_eq!(done.await.unwrap(), Some(()));
}

/// The work must end by then, since another node may own the lease.
#[tokio::test(start_paused = true)]
async fn work_ends_when_its_lease_cannot_be_renewed() {
    for fault in [Fault::Fails, Fault::Takes(Duration::from_hours(1))] {
        let world = World::new();
        let (one, store) = world.node();
        let begin = Instant::now();
        let work = async {
            store.always(Operation::Lease, fault.clone());
            pending::<()>().await
        };
        assert_eq!(one.exclusively("work", work).await.unwrap(), None);
        assert!(begin.elapsed() <= LIFETIME, "{:?}", begin.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn work_ends_when_another_node_has_the_lease() {
    let world = World::new();
    let (one, _) = world.node();
    let (other, _) = world.node();
    let work = async {
        // As if this node had slept.
        world.theirs.advance(LIFETIME);
        let taken = world.facts.lease("work", other.node(), LIFETIME).await;
        taken.unwrap().unwrap();
        pending::<()>().await
    };
    assert_eq!(one.exclusively("work", work).await.unwrap(), None);
    // The other node keeps its lease.
    assert_eq!(one.exclusively("work", async {}).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_node_is_alive_until_it_is_told_to_stop() {
    let world = World::new();
    let (one, store) = world.node();
    let (other, _) = world.node();
    let name = node_lease(one.node());
    one.appear().await.unwrap();
    let stop = CancellationToken::new();
    let staying = tokio::spawn({
        let (one, stop) = (one.clone(), stop.clone());
        async move { one.stay(stop).await }
    });
    store.nth(Operation::Lease, 2, Fault::Fails);
    for _ in 0..20 {
        tokio::time::sleep(RENEWAL).await;
        world.theirs.advance(RENEWAL);
        let taken = world.facts.lease(&name, other.node(), LIFETIME).await;
        assert_eq!(taken.unwrap(), None);
    }
    stop.cancel();
    staying.await.unwrap();
    let taken = world.facts.lease(&name, other.node(), LIFETIME).await;
    assert!(taken.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn the_clock_follows_the_stores() {
    let world = World::new();
    let (one, _) = world.node();
    world.theirs.advance(Duration::from_hours(5));
    assert_eq!(one.clock().now(), one.clock().own());
    one.appear().await.unwrap();
    let off = one.clock().now().until(world.theirs.now());
    assert!(off <= Duration::from_millis(1), "{off:?}");
}
