//! What uploads do where requests, stores and time meet badly: every meeting is arranged, none is waited for.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

#[path = "uploads/node.rs"]
mod node;
#[path = "uploads/nodes.rs"]
mod nodes;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use blobs::memory::MemoryStore;
use bytes::Bytes;
use domain::digest::{HashState, Sha256Digest};
use domain::ids::SystemRandomness;
use domain::metadata_store::Hold;
use domain::testing::ManualClock;
use domain::testing::faulty_metadata_store::Operation as Fact;
use domain::testing::faulty_store::{Fault, Gate as Barrier, Operation};
use domain::upload::{Gone, Open, Progress, Upload, UploadState};
use domain::uploads::{self, Addition, BodyFault, BodyPart, Creation, Outcome, UploadBody};
use domain::{BlobStore as _, Clock as _, Error, MetadataStore as _, UploadId};
use futures::{StreamExt as _, stream};
use protocol::digest::{Algorithm, Stated, StatedDigests};
use protocol::rejection::Rejection;
use protocol::upload::{Completion, Create, Overrun};
use tokio::task::JoinHandle;

use self::node::{
    Answer, HALF, Lying, Node, Stores, WHOLE, Watched, bytes, completed, creation, ends, offset,
    rest, some,
};

/// One process on its stores.
struct World {
    clock: Arc<ManualClock>,
    memory: MemoryStore,
    node: Node,
}

impl Deref for World {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl World {
    fn new() -> Self {
        let stores = Stores::new();
        let config = uploads::Config {
            // Every byte is recorded and told.
            checkpoint_bytes: bytesize::ByteSize::b(1),
            ..uploads::Config::default()
        };
        Self {
            node: Node::new(&stores, config),
            clock: stores.clock,
            memory: stores.memory,
        }
    }
}

fn rejection(answer: Answer) -> Rejection {
    match answer.unwrap_err().error {
        Error::Rejected(rejection) => rejection,
        other => panic!("{other:?}"),
    }
}

/// The connection is lost after these.
fn cut(bytes: &[u8]) -> UploadBody {
    let data = BodyPart::Data(Bytes::copy_from_slice(bytes));
    stream::iter([Ok(data), Err(BodyFault::Cut)]).boxed()
}

fn sha256(of: &[u8]) -> Stated {
    Stated {
        field: "Repr-Digest",
        algorithm: Algorithm::Sha256,
        value: Sha256Digest::of(of).as_bytes().to_vec(),
    }
}

fn sha512(of: &[u8]) -> Stated {
    use sha2::Digest as _;
    Stated {
        field: "Repr-Digest",
        algorithm: Algorithm::Sha512,
        value: sha2::Sha512::digest(of).to_vec(),
    }
}

fn of_whole(stated: Stated) -> StatedDigests {
    StatedDigests {
        representation: vec![stated],
        ..StatedDigests::default()
    }
}

#[tokio::test]
async fn the_told_offset_is_accepted_after_an_older_request_has_appended() {
    let world = World::new();
    let id = world.half(creation()).await.id;
    assert_eq!(world.told(id).await, HALF);
    // It lay unread in a socket until now, and its connection is lost.
    let late = world.append(rest(HALF), id, cut(&WHOLE[20..30])).await;
    assert!(matches!(late.unwrap_err().error, Error::ClientGone));
    assert_eq!(offset(&world.record(id).await), 30);

    let upload = completed(world.append(rest(HALF), id, bytes(&WHOLE[20..])).await);
    assert_eq!(world.published(&upload).await, WHOLE);
}

#[tokio::test]
async fn the_told_offset_is_accepted_while_an_older_request_still_appends() {
    let world = World::new();
    let id = world.half(creation()).await.id;
    assert_eq!(world.told(id).await, HALF);
    let late = Lying::begin(&world, id, rest(HALF));
    late.send(&WHOLE[20..30], 30).await;

    let upload = completed(world.append(rest(HALF), id, bytes(&WHOLE[20..])).await);
    assert_eq!(world.published(&upload).await, WHOLE);
    let late = late.ended().await;
    assert!(matches!(late.unwrap_err().error, Error::Superseded));
}

#[tokio::test]
async fn other_bytes_at_the_told_offset_change_nothing() {
    let world = World::new();
    let id = world.half(creation()).await.id;
    assert_eq!(world.told(id).await, HALF);
    let late = world.append(rest(HALF), id, cut(&WHOLE[20..30])).await;
    assert!(late.is_err());
    let before = world.record(id).await.state;

    let other = world
        .append(rest(HALF), id, bytes(b"SOMETHING ELSE ALTOGETHER"))
        .await;
    assert_eq!(rejection(other), Rejection::OverlapMismatch { offset: 30 });
    assert_eq!(world.record(id).await.state, before);
    let upload = completed(world.append(rest(30), id, bytes(&WHOLE[30..])).await);
    assert_eq!(world.published(&upload).await, WHOLE);
}

#[tokio::test]
async fn an_offset_that_nobody_was_told_is_a_conflict() {
    let world = World::new();
    let id = world.half(creation()).await.id;
    let conflict = |provided, expected| Rejection::OffsetMismatch { expected, provided };
    // Nobody asked.
    let late = world.append(rest(HALF), id, cut(&WHOLE[20..30])).await;
    assert!(late.is_err());
    let again = world.append(rest(HALF), id, bytes(&WHOLE[20..])).await;
    assert_eq!(rejection(again), conflict(HALF, 30));
    // Another offset than the one that was told.
    assert_eq!(world.told(id).await, 30);
    for wrong in [HALF, 29, 31] {
        let again = world.append(rest(wrong), id, bytes(b"x")).await;
        assert_eq!(rejection(again), conflict(wrong, 30));
    }
}

#[tokio::test]
async fn an_answered_append_settles_what_was_told() {
    let world = World::new();
    let id = world.half(creation()).await.id;
    assert_eq!(world.told(id).await, HALF);
    let answered = world.append(some(HALF), id, bytes(&WHOLE[20..30])).await;
    assert!(matches!(answered.unwrap(), Outcome::Partial(_)));
    let again = world.append(some(HALF), id, bytes(&WHOLE[20..30])).await;
    let conflict = Rejection::OffsetMismatch {
        expected: 30,
        provided: HALF,
    };
    assert_eq!(rejection(again), conflict);
}

#[tokio::test]
async fn what_was_told_long_ago_is_a_conflict() {
    let world = World::new();
    let id = world.half(creation()).await.id;
    assert_eq!(world.told(id).await, HALF);
    let late = world.append(rest(HALF), id, cut(&WHOLE[20..30])).await;
    assert!(late.is_err());
    world.clock.advance(Duration::from_mins(11));
    let again = world.append(rest(HALF), id, bytes(&WHOLE[20..])).await;
    assert!(matches!(rejection(again), Rejection::OffsetMismatch { .. }));
}

#[tokio::test]
async fn an_upload_that_an_older_request_completed_answers_the_told_offset() {
    let world = World::new();
    let id = world.half(creation()).await.id;
    assert_eq!(world.told(id).await, HALF);
    // Nobody hears this answer.
    let late = world.append(rest(HALF), id, bytes(&WHOLE[20..])).await;
    let first = completed(late);

    let upload = completed(world.append(rest(HALF), id, bytes(&WHOLE[20..])).await);
    assert_eq!(upload, first);
    for other in [&b"SOMETHING ELSE ALTOGETHER"[..], &WHOLE[20..30], b""] {
        let other = world.append(rest(HALF), id, bytes(other)).await;
        assert_eq!(rejection(other), Rejection::Completed);
    }
    let longer = [WHOLE, b"!"].concat();
    let other = world.append(rest(HALF), id, bytes(&longer[20..])).await;
    assert_eq!(rejection(other), Rejection::Completed);
    let other = world.append(some(HALF), id, bytes(&WHOLE[20..])).await;
    assert_eq!(rejection(other), Rejection::Completed);
    let other = world.append(rest(0), id, bytes(WHOLE)).await;
    assert_eq!(rejection(other), Rejection::Completed);
    assert_eq!(world.published(&upload).await, WHOLE);

    // Whoever has asked since knows that it is complete.
    assert_eq!(world.told(id).await, WHOLE.len() as u64);
    let again = world.append(rest(HALF), id, bytes(&WHOLE[20..])).await;
    assert_eq!(rejection(again), Rejection::Completed);
}

#[tokio::test]
async fn a_digest_of_the_whole_is_verified_by_the_append_that_completes_it() {
    for (right, wrong) in [(sha256(WHOLE), sha256(b"")), (sha512(WHOLE), sha512(b""))] {
        for trailing in [false, true] {
            let world = World::new();
            let append = async |id, stated: &Stated| {
                let stated = of_whole(stated.clone());
                let data = BodyPart::Data(Bytes::copy_from_slice(&WHOLE[20..]));
                let (digests, parts) = match trailing {
                    true => (
                        StatedDigests::default(),
                        vec![Ok(data), Ok(BodyPart::Digests(stated))],
                    ),
                    false => (stated, vec![Ok(data)]),
                };
                let body = stream::iter(parts).boxed();
                world.append_stating(rest(HALF), digests, id, body).await
            };
            let upload = world.half(creation()).await;
            let refused = append(upload.id, &wrong).await;
            let mismatch = Rejection::DigestMismatch {
                field: "Repr-Digest",
            };
            assert_eq!(rejection(refused), mismatch);
            let file = world.metadata.file(upload.path().unwrap()).await.unwrap();
            assert_eq!(file, None, "nothing is published");

            let upload = world.half(creation()).await;
            let upload = completed(append(upload.id, &right).await);
            assert_eq!(world.published(&upload).await, WHOLE);
        }
    }
}

#[tokio::test]
async fn both_digests_of_the_whole_must_hold() {
    let world = World::new();
    let stating = |stated| Creation {
        digests: of_whole(stated),
        ..creation()
    };
    // URLSession repeats the fields of the creation.
    let upload = world.half(stating(sha256(WHOLE))).await;
    let again = of_whole(sha256(WHOLE));
    let body = bytes(&WHOLE[20..]);
    completed(
        world
            .append_stating(rest(HALF), again, upload.id, body)
            .await,
    );

    for (created, completing) in [(WHOLE, &b""[..]), (b"", WHOLE)] {
        let upload = world.half(stating(sha256(created))).await;
        let completing = of_whole(sha256(completing));
        let body = bytes(&WHOLE[20..]);
        let refused = world
            .append_stating(rest(HALF), completing, upload.id, body)
            .await;
        assert!(matches!(
            rejection(refused),
            Rejection::DigestMismatch { .. }
        ));
    }
}

/// A request that completes an upload and reads it back, for as long as the barrier is closed.
async fn reading_back(world: &World, id: UploadId) -> JoinHandle<Answer> {
    let barrier = Barrier::new();
    let waits = Fault::Waits(barrier.clone());
    world.blobs.next(Operation::ReadStaged, waits);
    let uploads = world.authorized();
    let addition = Addition {
        append: rest(HALF),
        digests: of_whole(sha512(WHOLE)),
    };
    let sink = Arc::new(Watched::default());
    let body = bytes(&WHOLE[20..]);
    let reading = tokio::spawn(async move { uploads.append(id, addition, body, sink).await });
    ends(barrier.reached()).await;
    reading
}

#[tokio::test]
async fn a_newer_request_ends_the_reading_back_and_finds_all_bytes() {
    let world = World::new();
    let id = world.half(creation()).await.id;
    let reading = reading_back(&world, id).await;
    assert_eq!(ends(world.told(id)).await, WHOLE.len() as u64);
    let reading = reading.await.unwrap();
    assert!(matches!(reading.unwrap_err().error, Error::Superseded));

    let upload = completed(world.append(rest(WHOLE.len() as u64), id, bytes(b"")).await);
    assert_eq!(world.published(&upload).await, WHOLE);
}

#[tokio::test]
async fn draining_ends_the_reading_back() {
    let world = World::new();
    let id = world.half(creation()).await.id;
    let reading = reading_back(&world, id).await;
    ends(world.uploads.drain()).await;
    let reading = reading.await.unwrap();
    assert!(matches!(reading.unwrap_err().error, Error::Draining));
    assert_eq!(offset(&world.record(id).await), WHOLE.len() as u64);
}

/// Makes the upload's stored hash state one that nobody can use.
async fn lose_hash(world: &World, upload: &Upload) {
    let progress = Progress {
        open: Open {
            offset: HALF,
            length: None,
        },
        hash: HashState::from_bytes(vec![0]),
    };
    let id = &upload.id;
    let recorded =
        world
            .metadata
            .record_progress(id, upload.epoch, &progress, upload.expires_at, Hold::Keep);
    recorded.await.unwrap();
}

#[tokio::test]
async fn a_newer_request_ends_the_hashing_of_what_was_stored() {
    let world = World::new();
    let upload = world.half(creation()).await;
    lose_hash(&world, &upload).await;
    let barrier = Barrier::new();
    let waits = Fault::Waits(barrier.clone());
    world.blobs.next(Operation::ReadStaged, waits);
    let hashing = Lying::begin(&world, upload.id, rest(HALF));
    ends(barrier.reached()).await;
    assert_eq!(ends(world.told(upload.id)).await, HALF);
    let hashing = hashing.ended().await;
    assert!(matches!(hashing.unwrap_err().error, Error::Superseded));

    let body = bytes(&WHOLE[20..]);
    let upload = completed(world.append(rest(HALF), upload.id, body).await);
    assert_eq!(world.published(&upload).await, WHOLE);
}

#[tokio::test]
async fn progress_between_finding_and_ending_saves_an_upload() {
    let world = World::new();
    let upload = world.half(creation()).await;
    world.clock.advance(uploads::Config::default().lifetime);
    let barrier = Barrier::new();
    let waits = Fault::Waits(barrier.clone());
    world.metadata.next(Fact::ExpireUpload, waits);
    let janitor = world.janitor();
    let round = tokio::spawn(async move { janitor.recover().await });
    ends(barrier.reached()).await;
    // It was claimed before, by another process: its epoch stays.
    let progress = Progress {
        open: Open {
            offset: HALF + 1,
            length: None,
        },
        hash: HashState::from_bytes(vec![0]),
    };
    let expires_at = world.clock.now().plus(Duration::from_secs(1));
    let recorded =
        world
            .metadata
            .record_progress(&upload.id, upload.epoch, &progress, expires_at, Hold::Keep);
    recorded.await.unwrap();
    barrier.open();
    assert_eq!(round.await.unwrap().unwrap().expired_uploads, 0);
    assert_eq!(
        world.record(upload.id).await.state,
        UploadState::Open(progress)
    );
}

#[tokio::test]
async fn an_upload_whose_bytes_are_lost_is_gone() {
    for hash_too in [false, true] {
        let world = World::new();
        let upload = world.half(creation()).await;
        world.memory.discard(&upload.blob).await.unwrap();
        if hash_too {
            lose_hash(&world, &upload).await;
        }
        let body = bytes(&WHOLE[20..]);
        let failure = world.append(rest(HALF), upload.id, body).await;
        let error = failure.unwrap_err().error;
        assert!(matches!(error, Error::Gone(Gone::Invalid)), "{error:?}");
        let uploads = world.authorized();
        let asked = uploads.retrieve(upload.id, Completion::Later).await;
        let error = asked.unwrap_err().error;
        assert!(matches!(error, Error::Gone(Gone::Invalid)), "{error:?}");
    }
}

#[tokio::test]
async fn a_whole_whose_bytes_are_lost_is_gone_when_it_is_asked_for() {
    let world = World::new();
    let length = Some(HALF);
    let reached = Creation {
        create: Create {
            length,
            ..creation().create
        },
        ..creation()
    };
    let upload = world.half(reached).await;
    world.memory.discard(&upload.blob).await.unwrap();
    let uploads = world.authorized();
    let asked = uploads.retrieve(upload.id, Completion::AtLength).await;
    let error = asked.unwrap_err().error;
    assert!(matches!(error, Error::Gone(Gone::Invalid)), "{error:?}");
}

/// A creation from `parts` as tus asks for it, under an idempotency key.
fn concatenation(parts: &[UploadId]) -> Creation {
    Creation {
        create: Create {
            completion: Completion::AtLength,
            body_length: Some(0),
            overrun: Overrun::Discard,
            ..creation().create
        },
        parts: Some(parts.to_vec()),
        idempotency_key: Some("key".to_owned()),
        tus_concat: Some("final;/uploads/a /uploads/b".to_owned()),
        ..creation()
    }
}

async fn part(world: &World, content: &[u8]) -> UploadId {
    let part = Creation {
        create: Create {
            completion: Completion::AtLength,
            length: Some(content.len() as u64),
            ..creation().create
        },
        tus_concat: Some("partial".to_owned()),
        ..creation()
    };
    match world.create(part, bytes(content)).await.unwrap() {
        Outcome::Partial(upload) => upload.id,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_concatenation_is_found_again_when_its_parts_are_gone() {
    let world = World::new();
    let parts = [
        part(&world, &WHOLE[..20]).await,
        part(&world, &WHOLE[20..]).await,
    ];
    let create = || world.create(concatenation(&parts), stream::empty().boxed());
    let first = completed(create().await);
    assert_eq!(world.published(&first).await, WHOLE);
    world.authorized().cancel(parts[0]).await.unwrap();
    assert_eq!(completed(create().await), first);
}

#[tokio::test]
async fn a_concatenation_without_its_parts_leaves_its_key_free() {
    let world = World::new();
    let parts = [part(&world, WHOLE).await];
    let unknown = [UploadId::random(&SystemRandomness)];
    let refused = world
        .create(concatenation(&unknown), stream::empty().boxed())
        .await;
    assert!(matches!(rejection(refused), Rejection::Malformed { .. }));
    let made = world
        .create(concatenation(&parts), stream::empty().boxed())
        .await;
    assert_eq!(world.published(&completed(made)).await, WHOLE);
}
