//! Uploads whose requests arrive at different nodes: two processes on the same stores, in arranged
//! orders.
//!
//! Time is tokio's, and stands still while any task can go on. So "within the wait" is exact, and a
//! node that keeps others waiting costs the tests no time.

use std::sync::Arc;
use std::time::Duration;

use archive::PackName;
use domain::cleanup;
use domain::metadata_store::node_lease;
use domain::upload::{Gone, Target, UploadState};
use domain::uploads::{self, Creation, Outcome};
use domain::{Error, MetadataStore as _, UploadId, leases};
use futures::{StreamExt as _, stream};
use protocol::rejection::Rejection;
use protocol::upload::Completion;
use testing::ManualClock;
use testing::faults::{Fault, Gate as Barrier};
use testing::faulty_metadata_store::Operation as Fact;
use testing::faulty_store::Operation;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::node::{
    HALF, Lying, Node, Stores, WHOLE, bytes, completed, creation, is_superseded, offset, rest,
    some, unfinished,
};

const WAIT: Duration = Duration::from_secs(1);

/// Two nodes on the same stores.
struct World {
    clock: Arc<ManualClock>,
    nodes: [Node; 2],
    heeding: [AbortHandle; 2],
}

impl World {
    async fn new() -> Self {
        Self::with(bytesize::ByteSize::b(1)).await
    }

    /// Creates the nodes with a checkpoint after this many bytes; one byte records and reports
    /// every byte.
    async fn with(checkpoint_bytes: bytesize::ByteSize) -> Self {
        let config = uploads::Config {
            checkpoint_bytes,
            takeover_wait: WAIT,
            ..uploads::Config::default()
        };
        let stores = Stores::new();
        let nodes = [(); 2].map(|()| Node::new(&stores, config.clone()));
        for node in &nodes {
            node.leases.appear().await.unwrap();
        }
        let heeding = nodes.each_ref().map(heed);
        // The tasks listen from their first poll on.
        tokio::task::yield_now().await;
        Self {
            clock: stores.clock,
            nodes,
            heeding,
        }
    }

    /// Creates an upload of the first half, on the first node.
    async fn half(&self) -> UploadId {
        self.nodes[0].half(creation()).await.id
    }

    /// Creates an upload that a request on the first node continues, until it has 30 bytes.
    async fn held(&self) -> (UploadId, Lying) {
        let id = self.half().await;
        let older = Lying::begin(&self.nodes[0], id, some(HALF));
        older.send(&WHOLE[20..30], 30).await;
        (id, older)
    }

    /// Makes the first node deaf to messages from now on.
    fn turn_deaf(&self) {
        self.heeding[0].abort();
    }

    /// Makes the first node appear dead to the second.
    async fn seem_gone(&self) {
        let Node {
            leases, metadata, ..
        } = &self.nodes[0];
        let node = leases.node();
        let released = metadata.release_lease(&node_lease(node), node).await;
        released.unwrap();
    }
}

/// Spawns a task that listens to the messages for the node.
fn heed(node: &Node) -> AbortHandle {
    let uploads = node.uploads.clone();
    tokio::spawn(async move { uploads.heed().await }).abort_handle()
}

/// Returns the time that the work took.
async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let begin = Instant::now();
    (work.await, begin.elapsed())
}

#[tokio::test(start_paused = true)]
async fn an_append_takes_over_what_another_node_has() {
    let world = World::new().await;
    let (id, older) = world.held().await;
    let append = world.nodes[1].append(rest(30), id, bytes(&WHOLE[30..]));
    let (answer, time) = timed(Box::pin(append)).await;
    let upload = completed(answer);
    assert!(time < WAIT / 10, "{time:?}");
    assert_eq!(world.nodes[0].published(&upload).await, WHOLE);
    assert!(is_superseded(&older.ends().await));
}

/// Bytes that the older request has read and not yet recorded are flushed before another request
/// goes on.
#[tokio::test(start_paused = true)]
async fn what_had_come_counts() {
    let world = World::new().await;
    let (id, older) = world.held().await;
    let (syncing, fault) = {
        let gate = Barrier::new();
        (gate.clone(), Fault::Waits(gate))
    };
    world.nodes[0].blobs.next(Operation::Sync, fault);
    older.push(&WHOLE[30..35]);
    syncing.reached().await;
    let asking = world.nodes[1].asks(id);
    tokio::time::sleep(WAIT / 2).await;
    assert!(!asking.is_finished());
    syncing.open();
    let upload = asking.await.unwrap().unwrap();
    assert_eq!(offset(&upload), 35);
    assert!(is_superseded(&older.ends().await));
}

#[tokio::test(start_paused = true)]
async fn an_offset_that_is_told_is_final_on_every_node() {
    let world = World::new().await;
    let (id, older) = world.held().await;
    let (told, time) = timed(world.nodes[1].told(id)).await;
    assert_eq!(told, 30);
    assert!(time < WAIT / 10, "{time:?}");
    older.push(&WHOLE[30..40]);
    assert!(is_superseded(&older.ends().await));
    assert_eq!(world.nodes[0].told(id).await, 30);
    let answer = world.nodes[0].append(rest(30), id, bytes(&WHOLE[30..]));
    let upload = completed(answer.await);
    assert_eq!(world.nodes[1].published(&upload).await, WHOLE);
}

/// An older request claims the upload in the very moment of the answer.
#[tokio::test(start_paused = true)]
async fn an_answer_counts_what_it_meets() {
    let world = World::new().await;
    let id = world.half().await;
    let answering = Barrier::new();
    let fault = Fault::Waits(answering.clone());
    world.nodes[1].metadata.next(Fact::ReportOffset, fault);
    let asking = world.nodes[1].asks(id);
    answering.reached().await;
    let older = Lying::begin(&world.nodes[0], id, some(HALF));
    older.send(&WHOLE[20..30], 30).await;
    answering.open();
    assert_eq!(offset(&asking.await.unwrap().unwrap()), 30);
    assert!(is_superseded(&older.ended().await));
}

/// The request looks at the upload before the answer, and claims it afterwards.
#[tokio::test(start_paused = true)]
async fn a_request_that_comes_after_a_newer_answer_is_ended() {
    let world = World::new().await;
    let id = world.half().await;
    let claiming = Barrier::new();
    let fault = Fault::Waits(claiming.clone());
    world.nodes[0].metadata.next(Fact::ClaimUpload, fault);
    let older = Lying::begin(&world.nodes[0], id, some(HALF));
    claiming.reached().await;
    assert_eq!(world.nodes[1].told(id).await, HALF);
    claiming.open();
    assert!(is_superseded(&older.ended().await));
    let append = world.nodes[1].append(rest(HALF), id, bytes(&WHOLE[20..]));
    let upload = completed(append.await);
    assert_eq!(world.nodes[0].published(&upload).await, WHOLE);
}

/// The request looks at the upload before its client goes on at another node, and claims it
/// afterwards.
#[tokio::test(start_paused = true)]
async fn a_request_that_comes_too_late_leaves_the_newer_one_alone() {
    let world = World::new().await;
    let [one, other] = &world.nodes;
    let id = world.half().await;
    let claiming = Barrier::new();
    let fault = Fault::Waits(claiming.clone());
    one.metadata.next(Fact::ClaimUpload, fault);
    let older = Lying::begin(one, id, some(HALF));
    claiming.reached().await;
    assert_eq!(other.told(id).await, HALF);
    let newer = Lying::begin(other, id, rest(HALF));
    newer.send(&WHOLE[20..30], 30).await;
    claiming.open();
    assert!(is_superseded(&older.ended().await));
    newer.push(&WHOLE[30..]);
    let upload = completed(newer.ends().await);
    assert_eq!(one.published(&upload).await, WHOLE);
}

/// Returns the creation with an idempotency key.
fn keyed(creation: Creation) -> Creation {
    Creation {
        idempotency_key: Some("key".to_owned()),
        ..creation
    }
}

/// The answer is like any other: final, remembered, and accepted by the next append.
#[tokio::test(start_paused = true)]
async fn the_offset_that_a_repeated_creation_is_told_is_accepted() {
    for repeated in [0, 1] {
        let world = World::new().await;
        let id = world.nodes[0].half(keyed(creation())).await.id;
        let older = Lying::begin(&world.nodes[0], id, some(HALF));
        older.send(&WHOLE[20..30], 30).await;
        let mut again = keyed(unfinished(creation()));
        again.create.body_length = Some(0);
        match world.nodes[repeated].create(again, bytes(b"")).await {
            Ok(Outcome::Partial(upload)) => assert_eq!((upload.id, offset(&upload)), (id, 30)),
            other => panic!("{other:?}"),
        }
        assert!(is_superseded(&older.ended().await));
        // This request lay unread until now.
        let late = Lying::begin(&world.nodes[0], id, rest(30));
        late.send(&WHOLE[30..35], 35).await;
        let append = world.nodes[1].append(rest(30), id, bytes(&WHOLE[30..]));
        let upload = completed(append.await);
        assert_eq!(world.nodes[0].published(&upload).await, WHOLE);
    }
}

/// To the client, that offset would mean that the upload is complete.
#[tokio::test(start_paused = true)]
async fn a_repeated_creation_is_not_told_of_all_bytes_before_they_are_complete() {
    let world = World::new().await;
    let creation = || {
        let mut creation = keyed(creation());
        creation.create.completion = Completion::AtLength;
        creation.create.length = Some(WHOLE.len() as u64);
        creation
    };
    world.nodes[0]
        .metadata
        .next(Fact::CompleteUpload, Fault::Fails);
    let failed = world.nodes[0].create(creation(), bytes(WHOLE)).await;
    assert!(matches!(failed.unwrap_err().error, Error::Store { .. }));
    let again = world.nodes[1].create(creation(), bytes(WHOLE)).await;
    let upload = completed(again);
    assert_eq!(world.nodes[0].published(&upload).await, WHOLE);
}

/// Returns a creation of a part, as in tus.
fn part(content: &[u8]) -> Creation {
    let mut part = creation();
    part.create.completion = Completion::AtLength;
    part.create.length = Some(content.len() as u64);
    part.tus_concat = Some("partial".to_owned());
    part
}

/// Uploads all bytes as two parts to a node.
async fn parts_on(node: &Node) -> Vec<UploadId> {
    let mut parts = Vec::new();
    for content in [&WHOLE[..20], &WHOLE[20..]] {
        match node.create(part(content), bytes(content)).await.unwrap() {
            Outcome::Partial(upload) => parts.push(upload.id),
            other => panic!("{other:?}"),
        }
    }
    parts
}

fn concatenation(parts: Vec<UploadId>) -> Creation {
    let mut whole = keyed(creation());
    whole.create.completion = Completion::AtLength;
    whole.create.body_length = Some(0);
    whole.parts = Some(parts);
    whole.client_ref = Some("whole".to_owned());
    whole.tus_concat = Some("final;/uploads/a /uploads/b".to_owned());
    whole
}

/// No append can complete it: to its client, the length says that all is done.
#[tokio::test(start_paused = true)]
async fn a_concatenation_whose_node_is_gone_is_completed_by_whoever_asks() {
    for asks in [true, false] {
        let world = World::new().await;
        let [one, other] = &world.nodes;
        let parts = parts_on(one).await;
        let completing = Barrier::new();
        let fault = Fault::Waits(completing.clone());
        one.metadata.next(Fact::CompleteUpload, fault);
        let creating = one.create(concatenation(parts.clone()), stream::empty().boxed());
        let gone = async {
            completing.reached().await;
            world.seem_gone().await;
            let uploads = other.authorized();
            let upload = if asks {
                let id = uploads.list("whole", 1).await.unwrap()[0].id;
                uploads.retrieve(id, Completion::AtLength).await.unwrap()
            } else {
                let again = concatenation(parts.clone());
                completed(other.create(again, stream::empty().boxed()).await)
            };
            assert!(
                matches!(upload.state, UploadState::Complete(_)),
                "{upload:?}"
            );
            assert_eq!(other.published(&upload).await, WHOLE);
            completing.open();
        };
        let (late, ()) = tokio::join!(creating, gone);
        assert!(is_superseded(&late));
    }
}

/// No request could continue it, and its client can begin anew under the same key.
#[tokio::test(start_paused = true)]
async fn a_concatenation_whose_node_died_half_way_is_gone() {
    for completion in [Completion::AtLength, Completion::Later] {
        let world = World::new().await;
        let [one, other] = &world.nodes;
        let parts = parts_on(one).await;
        let reading = Barrier::new();
        let fault = Fault::Waits(reading.clone());
        one.blobs.nth(Operation::ReadStaged, 2, fault);
        let creating = one.create(concatenation(parts.clone()), stream::empty().boxed());
        let gone = async {
            reading.reached().await;
            world.seem_gone().await;
            let uploads = other.authorized();
            let id = uploads.list("whole", 1).await.unwrap()[0].id;
            let asked = uploads.retrieve(id, completion).await.unwrap_err().error;
            assert!(matches!(asked, Error::Gone(Gone::Invalid)), "{asked:?}");
            let again = concatenation(parts.clone());
            let upload = completed(other.create(again, stream::empty().boxed()).await);
            assert_eq!(other.published(&upload).await, WHOLE);
            reading.open();
        };
        let (late, ()) = tokio::join!(creating, gone);
        assert!(late.is_err());
    }
}

/// Both clients learn that it is complete, even the one whose node notices just before it would do
/// the same.
#[tokio::test(start_paused = true)]
async fn what_two_nodes_would_complete_is_complete_on_both() {
    let world = World::new().await;
    let [one, other] = &world.nodes;
    let mut creation = creation();
    creation.create.completion = Completion::AtLength;
    creation.create.length = Some(WHOLE.len() as u64);
    creation.client_ref = Some("whole".to_owned());
    one.metadata.next(Fact::CompleteUpload, Fault::Fails);
    assert!(one.create(creation, bytes(WHOLE)).await.is_err());
    let uploads = other.authorized();
    let id = uploads.list("whole", 1).await.unwrap()[0].id;
    let claiming = Barrier::new();
    let fault = Fault::Waits(claiming.clone());
    other.metadata.next(Fact::ClaimUpload, fault);
    let asking = tokio::spawn(async move { uploads.retrieve(id, Completion::AtLength).await });
    claiming.reached().await;
    let uploads = one.authorized();
    let told = uploads.retrieve(id, Completion::AtLength).await.unwrap();
    assert!(matches!(told.state, UploadState::Complete(_)), "{told:?}");
    claiming.open();
    assert_eq!(asking.await.unwrap().unwrap(), told);
}

/// Another request holds the upload by the time that the first one is asked to yield.
#[tokio::test(start_paused = true)]
async fn whoever_holds_an_upload_by_now_is_asked() {
    let world = World::new().await;
    let (id, oldest) = world.held().await;
    let asks = Barrier::new();
    let fault = Fault::Waits(asks.clone());
    world.nodes[1].metadata.next(Fact::AskToYield, fault);
    let asking = world.nodes[1].asks(id);
    asks.reached().await;
    let older = Lying::begin(&world.nodes[0], id, some(30));
    older.send(&WHOLE[30..35], 35).await;
    assert!(is_superseded(&oldest.ended().await));
    asks.open();
    let (upload, time) = timed(asking).await;
    assert_eq!(offset(&upload.unwrap().unwrap()), 35);
    assert!(time < WAIT / 10, "{time:?}");
    assert!(is_superseded(&older.ended().await));
}

/// A node that loses its connection to the store for a moment misses the messages of that moment.
#[tokio::test(start_paused = true)]
async fn an_ask_that_is_lost_is_followed_by_another() {
    let world = World::new().await;
    let (id, older) = world.held().await;
    world.turn_deaf();
    let asking = world.nodes[1].asks(id);
    tokio::time::sleep(WAIT / 3).await;
    assert_eq!(world.nodes[1].metadata.count(Fact::ClaimUpload), 0);
    let heeding = heed(&world.nodes[0]);
    let (upload, time) = timed(asking).await;
    assert_eq!(offset(&upload.unwrap().unwrap()), 30);
    assert!(time < WAIT / 3, "{time:?}");
    assert_eq!(world.nodes[1].metadata.count(Fact::ClaimUpload), 0);
    assert!(is_superseded(&older.ended().await));
    heeding.abort();
}

/// The node is waited for once, and then fenced: its writes have no effect.
#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_hear_is_fenced() {
    let world = World::new().await;
    let (id, older) = world.held().await;
    world.turn_deaf();
    let (told, time) = timed(world.nodes[1].told(id)).await;
    assert_eq!(told, 30);
    assert!((WAIT..WAIT * 2).contains(&time), "{time:?}");
    let fenced = world.nodes[1].record(id).await;
    assert_eq!(fenced.holder, None);

    older.push(b"SOMETHING ELSE");
    assert!(is_superseded(&older.ends().await));
    assert_eq!(world.nodes[1].record(id).await, fenced);
    let answer = world.nodes[1].append(rest(30), id, bytes(&WHOLE[30..]));
    let upload = completed(answer.await);
    assert_eq!(world.nodes[0].published(&upload).await, WHOLE);
}

/// As after `SIGSTOP`: the node comes back when other requests have gone on, and completed the
/// upload.
#[tokio::test(start_paused = true)]
async fn a_node_that_slept_publishes_nothing() {
    let world = World::new().await;
    let id = world.half().await;
    let publishing = Barrier::new();
    let fault = Fault::Waits(publishing.clone());
    world.nodes[0].metadata.next(Fact::CompleteUpload, fault);
    let older = Lying::begin(&world.nodes[0], id, rest(HALF));
    older.push(&WHOLE[20..30]);
    let older = tokio::spawn(older.ends());
    publishing.reached().await;
    world.seem_gone().await;

    assert_eq!(world.nodes[1].told(id).await, 30);
    let answer = world.nodes[1].append(rest(30), id, bytes(&WHOLE[30..]));
    let upload = completed(answer.await);
    publishing.open();
    assert!(is_superseded(&older.await.unwrap()));
    assert_eq!(world.nodes[1].record(id).await, upload);
    assert_eq!(world.nodes[1].published(&upload).await, WHOLE);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_gone_is_not_waited_for() {
    let world = World::new().await;
    let (id, older) = world.held().await;
    world.turn_deaf();
    world.clock.advance(leases::LIFETIME);
    world.nodes[1].leases.appear().await.unwrap();
    let append = world.nodes[1].append(rest(30), id, bytes(&WHOLE[30..]));
    let (answer, time) = timed(Box::pin(append)).await;
    let upload = completed(answer);
    assert_eq!(time, Duration::ZERO);
    older.push(b"SOMETHING ELSE");
    assert!(older.ends().await.is_err());
    assert_eq!(world.nodes[1].record(id).await, upload);
    assert_eq!(world.nodes[1].published(&upload).await, WHOLE);
}

#[tokio::test(start_paused = true)]
async fn an_upload_is_cancelled_on_whichever_node() {
    let world = World::new().await;
    let (id, older) = world.held().await;
    let cancelling = world.nodes[1].authorized();
    let (cancelled, time) = timed(cancelling.cancel(id)).await;
    cancelled.unwrap();
    assert!(time < WAIT / 10, "{time:?}");
    assert!(is_superseded(&older.ends().await));
    let record = world.nodes[0].record(id).await;
    assert_eq!(record.state, UploadState::Gone(Gone::Cancelled));
}

/// One of the two goes on; the other's client tries again.
#[tokio::test(start_paused = true)]
async fn of_two_that_take_over_at_once_one_goes_on() {
    let world = World::new().await;
    for round in 0..8 {
        let (id, older) = world.held().await;
        let takers = [0, 1].map(|n| {
            let node = &world.nodes[(round + n) % 2];
            node.append(rest(30), id, bytes(&WHOLE[30..]))
        });
        let (answers, time) = timed(futures::future::join_all(takers)).await;
        assert!(time < WAIT * 2, "{time:?}");
        assert!(is_superseded(&older.ends().await));
        let complete = answers.iter().filter(|answer| answer.is_ok());
        assert!(complete.count() <= 1);
        for answer in &answers {
            // The later one finds the upload complete.
            let late = |error: &Error| matches!(error, Error::Rejected(Rejection::Completed));
            let is_fine = match answer {
                Ok(outcome) => matches!(outcome, Outcome::Complete(..)),
                Err(failure) => is_superseded(answer) || late(&failure.error),
            };
            assert!(is_fine, "{answer:?}");
        }
        let told = world.nodes[0].told(id).await;
        if told < WHOLE.len() as u64 {
            let rest = world.nodes[1].append(
                rest(told),
                id,
                bytes(&WHOLE[usize::try_from(told).unwrap()..]),
            );
            completed(rest.await);
        }
        let upload = world.nodes[1].record(id).await;
        assert_eq!(world.nodes[1].published(&upload).await, WHOLE);
    }
}

/// A node that could not record the end of its work says so when it is asked to yield.
#[tokio::test(start_paused = true)]
async fn what_nobody_works_on_is_let_go_of() {
    let world = World::new().await;
    let id = world.half().await;
    let [one, other] = &world.nodes;
    // The last record fails, and so does the release of the claim.
    one.metadata.next(Fact::RecordProgress, Fault::Fails);
    one.metadata.next(Fact::ReleaseUpload, Fault::Fails);
    let answer = one.append(some(HALF), id, bytes(&WHOLE[20..30])).await;
    assert!(matches!(answer.unwrap_err().error, Error::Store { .. }));
    assert_eq!(one.record(id).await.holder, Some(one.leases.node()));

    let append = other.append(rest(HALF), id, bytes(&WHOLE[20..]));
    let (answer, time) = timed(Box::pin(append)).await;
    let upload = completed(answer);
    assert!(time < WAIT / 10, "{time:?}");
    assert_eq!(one.published(&upload).await, WHOLE);
}

/// A node never waits for a claim that it left behind itself.
#[tokio::test(start_paused = true)]
async fn a_node_goes_on_with_what_it_left() {
    let world = World::new().await;
    let id = world.half().await;
    let node = &world.nodes[0];
    node.metadata.next(Fact::RecordProgress, Fault::Fails);
    node.metadata.next(Fact::ReleaseUpload, Fault::Fails);
    let answer = node.append(some(HALF), id, bytes(&WHOLE[20..30])).await;
    assert!(answer.is_err());
    let (told, time) = timed(node.told(id)).await;
    assert_eq!((told, time), (HALF, Duration::ZERO));
    assert_eq!(node.metadata.count(Fact::AskToYield), 0);
}

/// Unpacking stops between two steps: the archive stays complete and durable, and a newer request
/// is answered accordingly.
#[tokio::test(start_paused = true)]
async fn an_archive_that_is_being_used_is_let_go_of_for_a_newer_request() {
    let world = World::new().await;
    let [one, other] = &world.nodes;
    let using = Barrier::new();
    let fault = Fault::Waits(using.clone());
    one.blobs.next(Operation::Open, fault);
    let creation = Creation {
        target: Some(Target::Pack(PackName::parse("maps").unwrap())),
        ..unfinished(creation())
    };
    let id = match one.create(creation, bytes(b"not an")).await.unwrap() {
        Outcome::Partial(upload) => upload.id,
        other => panic!("{other:?}"),
    };
    let older = Lying::begin(one, id, rest(6));
    older.push(b" archive");
    let older = tokio::spawn(older.ends());
    using.reached().await;
    let asking = other.asks(id);
    tokio::time::sleep(WAIT * 10).await;
    assert!(!asking.is_finished());
    using.open();
    let ended = older.await.unwrap().unwrap_err().error;
    assert!(matches!(ended, Error::Superseded), "{ended:?}");
    let asked = asking.await.unwrap().unwrap();
    let UploadState::Open(progress) = &asked.state else {
        panic!("{asked:?}")
    };
    assert_eq!(progress.open.offset, 14);
}

/// The archive's unpacking began after the request looked at it, and its node is deaf.
#[tokio::test(start_paused = true)]
async fn an_archive_that_is_used_by_now_is_waited_for() {
    let world = World::new().await;
    let [one, other] = &world.nodes;
    world.turn_deaf();
    let (fencing, using) = (Barrier::new(), Barrier::new());
    let fault = Fault::Waits(fencing.clone());
    other.metadata.next(Fact::ClaimUpload, fault);
    one.blobs.next(Operation::Open, Fault::Waits(using.clone()));
    let creation = Creation {
        target: Some(Target::Pack(PackName::parse("maps").unwrap())),
        ..unfinished(creation())
    };
    let id = match one.create(creation, bytes(b"not an")).await.unwrap() {
        Outcome::Partial(upload) => upload.id,
        other => panic!("{other:?}"),
    };
    let older = Lying::begin(one, id, rest(6));
    older.send(b" arch", 11).await;
    let uploads = other.authorized();
    let cancelling = tokio::spawn(async move { uploads.cancel(id).await });
    fencing.reached().await;
    older.push(b"ive");
    let older = tokio::spawn(older.ends());
    using.reached().await;
    fencing.open();
    tokio::time::sleep(WAIT * 10).await;
    assert!(!cancelling.is_finished());
    using.open();
    let refused = older.await.unwrap().unwrap_err().error;
    assert!(matches!(refused, Error::Pack(_)), "{refused:?}");
    let cancelled = cancelling.await.unwrap().unwrap_err().error;
    assert!(
        matches!(cancelled, Error::Gone(Gone::Invalid)),
        "{cancelled:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_another_node_works_on_does_not_expire() {
    let world = World::new().await;
    let (id, older) = world.held().await;
    world.clock.advance(Duration::from_hours(24 * 365));
    for node in &world.nodes {
        node.leases.appear().await.unwrap();
    }
    let round = world.nodes[1].janitor().recover().await.unwrap();
    assert_eq!(round.expired_uploads, 0);
    older.send(&WHOLE[30..], WHOLE.len() as u64).await;
    assert!(matches!(older.ends().await, Ok(Outcome::Partial(_))));
    assert_eq!(world.nodes[1].told(id).await, WHOLE.len() as u64);
}

/// A claim that a node could not release, and whose client never returns, does not last as long as
/// the node lives.
#[tokio::test(start_paused = true)]
async fn what_a_living_node_has_left_expires() {
    for cleans in [0, 1] {
        let world = World::new().await;
        let id = world.half().await;
        let [one, other] = &world.nodes;
        one.metadata.next(Fact::RecordProgress, Fault::Fails);
        one.metadata.next(Fact::ReleaseUpload, Fault::Fails);
        let answer = one.append(some(HALF), id, bytes(&WHOLE[20..30])).await;
        assert!(answer.is_err());
        assert_eq!(one.record(id).await.holder, Some(one.leases.node()));
        world.clock.advance(Duration::from_hours(24 * 365));
        for node in &world.nodes {
            node.leases.appear().await.unwrap();
        }
        let round = other.janitor().recover().await.unwrap();
        assert_eq!(round.expired_uploads, 0);

        let node = world.nodes[cleans].leases.node();
        let taken = other.metadata.lease(leases::JANITOR, node, WAIT);
        assert!(taken.await.unwrap().is_some());
        let (janitor, stop) = (one.janitor(), CancellationToken::new());
        let cleaning = tokio::spawn(janitor.run(stop.clone()));
        tokio::time::sleep(cleanup::Config::default().interval * 3 / 2).await;
        let record = other.record(id).await;
        assert_eq!(record.state, UploadState::Gone(Gone::Expired));
        stop.cancel();
        cleaning.await.unwrap();
    }
}

/// Bytes that lay unread on one node are appended after the other node reported the offset, and
/// before the client continues from there.
#[tokio::test(start_paused = true)]
async fn the_told_offset_is_accepted_on_every_node() {
    for (late, told, append) in [(0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0)] {
        let world = World::new().await;
        let id = world.half().await;
        assert_eq!(world.nodes[told].told(id).await, HALF);
        let late = Lying::begin(&world.nodes[late], id, rest(HALF));
        late.send(&WHOLE[20..30], 30).await;
        let answer = world.nodes[append].append(rest(HALF), id, bytes(&WHOLE[20..]));
        let upload = completed(answer.await);
        assert_eq!(world.nodes[0].published(&upload).await, WHOLE);
        assert!(late.ends().await.is_err());
    }
}

/// An append at an offset that an answer has settled, or that was never reported, is a conflict on
/// every node.
#[tokio::test(start_paused = true)]
async fn what_is_settled_on_one_node_is_settled_on_all() {
    let world = World::new().await;
    let id = world.half().await;
    let [one, other] = &world.nodes;
    assert_eq!(one.told(id).await, HALF);
    let answered = other.append(some(HALF), id, bytes(&WHOLE[20..30])).await;
    assert!(matches!(answered, Ok(Outcome::Partial(_))));
    let again = one.append(some(HALF), id, bytes(&WHOLE[20..30])).await;
    let error = again.unwrap_err().error;
    let conflict = Rejection::OffsetMismatch {
        expected: 30,
        provided: HALF,
    };
    assert!(matches!(error, Error::Rejected(rejection) if rejection == conflict));
}

/// The older request, which lay unread, has its whole body, but its client no longer waits for the
/// answer.
#[tokio::test(start_paused = true)]
async fn the_answer_to_an_older_request_settles_nothing() {
    for newer in [0, 1] {
        let world = World::new().await;
        let id = world.half().await;
        let one = &world.nodes[0];
        assert_eq!(one.told(id).await, HALF);
        let syncing = Barrier::new();
        let older = Lying::begin(one, id, some(HALF));
        older.send(&WHOLE[20..30], 30).await;
        one.blobs
            .next(Operation::Sync, Fault::Waits(syncing.clone()));
        let older = tokio::spawn(older.ends());
        syncing.reached().await;
        let append = world.nodes[newer].append(rest(HALF), id, bytes(&WHOLE[20..]));
        let opening = async {
            tokio::time::sleep(WAIT / 2).await;
            syncing.open();
        };
        let (answer, ()) = tokio::join!(append, opening);
        let upload = completed(answer);
        assert_eq!(one.published(&upload).await, WHOLE);
        assert!(matches!(older.await.unwrap(), Ok(Outcome::Partial(_))));
    }
}

/// A full disk does not keep a client from learning its offset.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_remembered_is_told_all_the_same() {
    let world = World::new().await;
    let id = world.half().await;
    let node = &world.nodes[0];
    node.metadata.next(Fact::ReportOffset, Fault::IsFull);
    assert_eq!(node.told(id).await, HALF);
    assert_eq!(node.record(id).await.reported, None);
    assert_eq!(node.told(id).await, HALF);
    assert!(node.record(id).await.reported.is_some());
}

/// The janitor's node cleans up until it is gone; then the other one takes its place.
#[tokio::test(start_paused = true)]
async fn one_node_at_a_time_cleans_up() {
    let world = World::new().await;
    let rounds = || {
        let count = |node: &Node| node.metadata.count(Fact::ForgetUploads);
        world.nodes.each_ref().map(count)
    };
    let interval = cleanup::Config::default().interval;
    let wait = async |time: Duration| {
        // In steps in which leases are renewed.
        for _ in 0..time.as_secs() {
            tokio::time::sleep(leases::RENEWAL).await;
            world.clock.advance(leases::RENEWAL);
        }
    };
    let pass = async |times: u32| {
        let began = rounds();
        wait(interval * times).await;
        let ended = rounds();
        [ended[0] - began[0], ended[1] - began[1]]
    };
    let stops = [(); 2].map(|()| CancellationToken::new());
    let [first, second] = [0, 1].map(|n| {
        let janitor = world.nodes[n].janitor();
        let stop = stops[n].clone();
        tokio::spawn(async move { janitor.run(stop).await })
    });
    let done = pass(10).await;
    let cleans = usize::from(done[1] > 0);
    assert!(done[cleans] >= 8 && done[1 - cleans] == 0, "{done:?}");
    // Between two rounds, so that none is due at the moment of the stop.
    wait(interval / 2).await;
    stops[cleans].cancel();
    let done = pass(10).await;
    assert!(done[1 - cleans] >= 8 && done[cleans] == 0, "{done:?}");
    stops[1 - cleans].cancel();
    first.await.unwrap();
    second.await.unwrap();
}

/// Requests to the metadata store that an upload may cause.
const ALL: [Fact; 9] = [
    Fact::InsertUpload,
    Fact::Upload,
    Fact::ClaimUpload,
    Fact::RecordProgress,
    Fact::ReleaseUpload,
    Fact::AskToYield,
    Fact::ReportOffset,
    Fact::CompleteUpload,
    Fact::EndUpload,
];

/// Coordination between nodes costs nothing while their requests do not meet.
#[tokio::test(start_paused = true)]
async fn usual_requests_ask_for_no_more_than_on_one_node() {
    let world = World::with(bytesize::ByteSize::mib(1)).await;
    let node = &world.nodes[0];
    let mut before = [0; 9];
    let mut asked_for = || {
        let counts = ALL.map(|fact| node.metadata.count(fact));
        let asked_for = std::array::from_fn::<u64, 9, _>(|n| counts[n] - before[n]);
        before = counts;
        asked_for
    };
    completed(node.create(creation(), bytes(WHOLE)).await);
    assert_eq!(asked_for(), [1, 0, 0, 0, 0, 0, 0, 1, 0]);

    let mut empty = unfinished(creation());
    empty.create.body_length = Some(0);
    let empty = node.create(empty, stream::empty().boxed()).await;
    assert!(matches!(empty, Ok(Outcome::Partial(_))));
    assert_eq!(asked_for(), [1, 0, 0, 0, 0, 0, 0, 0, 0]);

    let id = world.half().await;
    assert_eq!(asked_for(), [1, 0, 0, 1, 0, 0, 0, 0, 0]);
    let more = node.append(some(HALF), id, bytes(&WHOLE[20..30])).await;
    assert!(matches!(more, Ok(Outcome::Partial(_))));
    assert_eq!(asked_for(), [0, 1, 1, 1, 0, 0, 0, 0, 0]);
    assert_eq!(node.told(id).await, 30);
    assert_eq!(asked_for(), [0, 1, 0, 0, 0, 0, 1, 0, 0]);
    // Reporting the same offset again takes no record.
    assert_eq!(node.told(id).await, 30);
    assert_eq!(asked_for(), [0, 1, 0, 0, 0, 0, 0, 0, 0]);
    completed(node.append(rest(30), id, bytes(&WHOLE[30..])).await);
    assert_eq!(asked_for(), [0, 1, 1, 0, 0, 0, 0, 1, 0]);

    let id = world.half().await;
    asked_for();
    node.authorized().cancel(id).await.unwrap();
    assert_eq!(asked_for(), [0, 1, 0, 0, 0, 0, 0, 0, 1]);
}

/// Blobs that a store in doubt does not show are no proof of a loss. A temporary or refused
/// operation costs nothing, either.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_in_doubt_costs_an_upload_nothing() {
    for (operation, fault) in [
        (Operation::Stage, Fault::IsContradicted),
        (Operation::Stage, Fault::IsAway),
        (Operation::Stage, Fault::IsRefused),
        (Operation::Write, Fault::IsAway),
        (Operation::Sync, Fault::IsRefused),
        (Operation::Publish, Fault::IsAway),
        (Operation::Publish, Fault::IsContradicted),
    ] {
        let world = World::new().await;
        let id = world.half().await;
        let [one, other] = &world.nodes;
        one.blobs.next(operation, fault.clone());
        let answer = one.append(rest(HALF), id, bytes(&WHOLE[20..])).await;
        let error = answer.unwrap_err().error;
        // The client tries again, or learns that an operator has to act.
        let is_as_it_should = match fault {
            Fault::IsRefused => matches!(error, Error::StoreRefuses { .. }),
            _ => matches!(error, Error::Busy),
        };
        assert!(is_as_it_should, "{operation:?}: {error:?}");
        let told = other.told(id).await;
        let from = usize::try_from(told).unwrap();
        let answer = other.append(rest(told), id, bytes(&WHOLE[from..])).await;
        let upload = completed(answer);
        assert_eq!(one.published(&upload).await, WHOLE, "{operation:?}");
    }
}
