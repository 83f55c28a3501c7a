//! Uploads in unfavourable orders of requests, failures and time. Each order is arranged; none is
//! waited for.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

#[path = "uploads/node.rs"]
mod node;
#[path = "uploads/nodes.rs"]
mod nodes;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::body::{BodyFault, BodyPart, UploadBody};
use domain::digest::{HashState, Sha256Digest};
use domain::ids::SystemRandomness;
use domain::metadata_store::Hold;
use domain::upload::{Gone, Open, Progress, Upload, UploadState};
use domain::uploads::{self, Addition, Creation, Outcome};
use domain::{BlobStore as _, Clock as _, Error, MetadataStore as _, UploadId};
use futures::{StreamExt as _, stream};
use protocol::digest::{Algorithm, Stated, StatedDigests};
use protocol::rejection::Rejection;
use protocol::upload::{Append, Completion, Create, Overrun, Repeat};
use testing::ManualClock;
use testing::MemoryBlobStore;
use testing::faults::{Fault, Gate as Barrier};
use testing::faulty_metadata_store::Operation as Fact;
use testing::faulty_store::Operation;
use tokio::task::JoinHandle;

use self::node::{
    Answer, HALF, Lying, Node, Stores, WHOLE, Watched, bytes, completed, creation, ends, offset,
    rest, some, unfinished,
};

/// One process on its stores.
struct World {
    clock: Arc<ManualClock>,
    memory: MemoryBlobStore,
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
            // Record and report every byte.
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

/// Returns a body whose connection is lost after `bytes`.
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
    // These bytes lay unread in a socket until now, and their connection is lost.
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
    // No client has read the offset.
    let late = world.append(rest(HALF), id, cut(&WHOLE[20..30])).await;
    assert!(late.is_err());
    let again = world.append(rest(HALF), id, bytes(&WHOLE[20..])).await;
    assert_eq!(rejection(again), conflict(HALF, 30));
    // Offsets other than the reported one.
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
    // The client does not receive this answer.
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

    // A client that has read the offset since knows that the upload is complete.
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

/// Starts a request that completes an upload and reads it back, and blocks it while the barrier is
/// closed.
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

/// Makes the stored hash state of the upload unusable.
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
    // Another process had claimed the upload: its epoch stays.
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

/// Returns a creation from `parts` as in tus, under an idempotency key.
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

/// Returns a body that panics if it is read.
fn unread() -> UploadBody {
    stream::poll_fn(|_| -> std::task::Poll<Option<_>> { panic!("the body is read") }).boxed()
}

fn keyed() -> Creation {
    Creation {
        idempotency_key: Some("key".to_owned()),
        ..creation()
    }
}

/// Returns `creation` with a body of this length by its framing.
fn framed(creation: Creation, length: u64) -> Creation {
    Creation {
        create: Create {
            body_length: Some(length),
            ..creation.create
        },
        ..creation
    }
}

/// Returns other bytes of the same length.
fn others() -> Vec<u8> {
    let mut others = WHOLE.to_vec();
    others[0] ^= 1;
    others
}

#[tokio::test]
async fn a_repeated_creation_brings_the_same_bytes_or_is_refused() {
    let world = World::new();
    let first = completed(world.create(keyed(), bytes(WHOLE)).await);
    let mut longer = WHOLE.to_vec();
    longer.push(b'!');
    for other in [&others(), &longer[..], &WHOLE[..40], b""] {
        let again = world.create(keyed(), bytes(other)).await;
        assert_eq!(rejection(again), Rejection::KeyReused);
    }
    assert_eq!(world.published(&first).await, WHOLE);
    assert_eq!(completed(world.create(keyed(), bytes(WHOLE)).await), first);
    // The bytes may be gone, as those of an archive are; their hash is still recorded.
    world.memory.delete(&first.blob).await.unwrap();
    assert_eq!(completed(world.create(keyed(), bytes(WHOLE)).await), first);
    let again = world.create(keyed(), bytes(&others())).await;
    assert_eq!(rejection(again), Rejection::KeyReused);
}

#[tokio::test]
async fn what_a_repeated_creation_says_of_its_length_is_enough_to_refuse_it() {
    let world = World::new();
    completed(world.create(keyed(), bytes(WHOLE)).await);
    let length = WHOLE.len() as u64;
    let stated = |length| Creation {
        create: Create {
            length: Some(length),
            ..keyed().create
        },
        ..keyed()
    };
    for other in [
        framed(keyed(), length - 1),
        framed(keyed(), length + 1),
        framed(keyed(), 0),
        framed(unfinished(keyed()), length + 1),
        stated(length - 1),
    ] {
        let again = world.create(other, unread()).await;
        assert_eq!(rejection(again), Rejection::KeyReused);
    }
    let endless = stream::repeat_with(|| Ok(BodyPart::Data(Bytes::from_static(WHOLE)))).boxed();
    let again = ends(world.create(keyed(), endless)).await;
    assert_eq!(rejection(again), Rejection::KeyReused);
}

#[tokio::test]
async fn a_repeated_beginning_is_compared_with_that_of_the_whole() {
    let world = World::new();
    let id = world.half(keyed()).await.id;
    let first = completed(world.append(rest(HALF), id, bytes(&WHOLE[20..])).await);
    let again = |body: &[u8]| world.create(unfinished(keyed()), bytes(body));
    for part in [&WHOLE[..20], &WHOLE[..1], WHOLE] {
        assert_eq!(completed(again(part).await), first);
    }
    for part in [&others()[..20], &WHOLE[1..]] {
        assert_eq!(rejection(again(part).await), Rejection::KeyReused);
    }
    let nothing = framed(unfinished(keyed()), 0);
    assert_eq!(completed(world.create(nothing, unread()).await), first);
}

/// Counts how often a client receives an upload's URL before the answer.
#[derive(Debug, Default)]
struct Announced(std::sync::atomic::AtomicUsize);

impl uploads::ProgressSink for Announced {
    fn created(&self, _: &Upload) -> bool {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        true
    }
    fn progressed(&self, _: u64) {}
}

impl Announced {
    fn count(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

#[tokio::test]
async fn an_open_upload_goes_on_with_the_same_bytes_alone() {
    let world = World::new();
    let id = world.half(keyed()).await.id;
    let before = world.record(id).await.state;
    for (creation, body) in [
        (keyed(), &others()[..]),
        (unfinished(keyed()), &others()[..20]),
        (unfinished(keyed()), &others()),
        (keyed(), &WHOLE[..19]),
    ] {
        let sink = Arc::new(Announced::default());
        let told = Arc::clone(&sink) as Arc<dyn uploads::ProgressSink>;
        let again = world.authorized().create(creation, bytes(body), told).await;
        assert_eq!(rejection(again), Rejection::KeyReused);
        assert_eq!(sink.count(), 0);
        assert_eq!(world.record(id).await.state, before);
    }
    // A beginning that ends within the bytes already received changes nothing.
    let again = world.create(unfinished(keyed()), bytes(&WHOLE[..7])).await;
    assert!(matches!(again, Ok(Outcome::Partial(upload)) if upload.id == id));
    assert_eq!(world.record(id).await.state, before);

    let sink = Arc::new(Announced::default());
    let told = Arc::clone(&sink) as Arc<dyn uploads::ProgressSink>;
    let again = world.authorized().create(keyed(), bytes(WHOLE), told).await;
    let upload = completed(again);
    assert_eq!((upload.id, sink.count()), (id, 1));
    assert_eq!(world.published(&upload).await, WHOLE);
}

#[tokio::test]
async fn a_body_of_unknown_length_at_the_end_is_judged_by_what_comes() {
    let world = World::new();
    let tus = Creation {
        create: Create {
            completion: Completion::AtLength,
            length: Some(WHOLE.len() as u64),
            ..creation().create
        },
        ..creation()
    };
    let upload = completed(world.create(tus, bytes(WHOLE)).await);
    let at_the_end = |completion| Append {
        completion,
        overrun: Overrun::Discard,
        repeat: Repeat::Answered,
        ..rest(WHOLE.len() as u64)
    };
    for completion in [Completion::AtLength, Completion::WithThisBody] {
        let append = at_the_end(completion);
        for nothing in [stream::empty().boxed(), bytes(b"")] {
            let answer = world.append(append, upload.id, nothing).await;
            assert_eq!(completed(answer), upload);
        }
        let over = world.append(append, upload.id, bytes(b"!")).await;
        let length = WHOLE.len() as u64;
        assert_eq!(rejection(over), Rejection::OverLength { length });
        let cut = world.append(append, upload.id, cut(b"")).await;
        assert!(matches!(cut.unwrap_err().error, Error::ClientGone));
    }
    let later = at_the_end(Completion::Later);
    assert!(world.append(later, upload.id, unread()).await.is_err());
    assert_eq!(world.published(&upload).await, WHOLE);
}

#[tokio::test]
async fn a_completed_upload_that_is_deleted_is_gone_and_its_file_stays() {
    let world = World::new();
    let upload = completed(world.create(keyed(), bytes(WHOLE)).await);
    let id = upload.id;
    world.authorized().cancel(id).await.unwrap();
    let is_gone = |error: Error| matches!(error, Error::Gone(Gone::Cancelled));
    let asked = world.authorized().retrieve(id, Completion::Later).await;
    assert!(is_gone(asked.unwrap_err().error));
    let last = Append {
        repeat: Repeat::Answered,
        body_length: Some(0),
        ..rest(WHOLE.len() as u64)
    };
    let replayed = world.append(last, id, unread()).await;
    assert!(is_gone(replayed.unwrap_err().error));
    let again = world.authorized().cancel(id).await;
    assert!(is_gone(again.unwrap_err().error));
    assert_eq!(world.published(&upload).await, WHOLE);

    // The key is free again.
    let anew = completed(world.create(keyed(), bytes(&others())).await);
    assert_ne!(anew.id, id);
}

/// Drops a request as soon as `waits` is ready, as if its client went away.
async fn dropped<T>(request: impl Future<Output = T>, waits: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        _ = request => panic!("it waits"),
        () = waits => {}
    }
}

fn one_at_once() -> World {
    let stores = Stores::new();
    let config = uploads::Config {
        max_at_once: const { std::num::NonZeroUsize::new(1).unwrap() },
        // Record and report every byte.
        checkpoint_bytes: bytesize::ByteSize::b(1),
        ..uploads::Config::default()
    };
    World {
        node: Node::new(&stores, config),
        clock: stores.clock,
        memory: stores.memory,
    }
}

#[tokio::test]
async fn a_creation_whose_client_is_gone_is_not_recorded() {
    let world = one_at_once();
    let id = world.half(creation()).await.id;
    let working = Lying::begin(&world, id, some(HALF));
    working.send(&WHOLE[20..21], 21).await;
    let before = world.metadata.count(Fact::InsertUpload);
    for _ in 0..3 {
        dropped(world.create(creation(), unread()), tokio::task::yield_now()).await;
    }
    assert_eq!(world.metadata.count(Fact::InsertUpload), before);
    working.ends().await.unwrap();
    // The place is free, and nothing waits for it.
    completed(world.create(creation(), bytes(WHOLE)).await);
    assert_eq!(world.metadata.count(Fact::InsertUpload), before + 1);
}

#[tokio::test]
async fn work_goes_on_without_its_client_and_keeps_its_place() {
    let world = one_at_once();
    let gate = Barrier::new();
    world
        .blobs
        .next(Operation::Stage, Fault::Waits(gate.clone()));
    dropped(world.create(creation(), bytes(WHOLE)), gate.reached()).await;
    dropped(world.create(creation(), unread()), tokio::task::yield_now()).await;
    gate.open();
    completed(ends(world.create(creation(), bytes(WHOLE))).await);
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_for_a_place_is_told_to_come_again() {
    let world = one_at_once();
    let id = world.half(creation()).await.id;
    let working = Lying::begin(&world, id, some(HALF));
    working.send(&WHOLE[20..21], 21).await;
    let waited = world.create(creation(), unread()).await;
    assert!(matches!(waited.unwrap_err().error, Error::Busy));
    // A client that asks for the offset gets a place all the same.
    assert_eq!(world.told(id).await, 21);
    assert!(working.ended().await.is_err());
}

/// A sink whose messages do not reach the client.
#[derive(Debug)]
struct Unheard;

impl uploads::ProgressSink for Unheard {
    fn created(&self, _: &Upload) -> bool {
        false
    }
    fn progressed(&self, _: u64) {}
}

#[tokio::test]
async fn an_upload_that_nobody_knows_of_is_given_up() {
    let world = World::new();
    let create = async |creation| {
        let uploads = world.authorized();
        uploads
            .create(creation, cut(&WHOLE[..7]), Arc::new(Unheard))
            .await
    };
    let unknown = create(unfinished(creation())).await.unwrap_err();
    assert!(matches!(unknown.error, Error::ClientGone));
    assert!(unknown.upload.is_none());
    world.janitor().recover().await.unwrap();
    let kept = world
        .memory
        .list(domain::blob_store::BlobState::Staged, None, 9);
    assert_eq!(kept.await.unwrap(), []);

    // A key, or a reference, leads back to the upload.
    create(unfinished(keyed())).await.unwrap_err();
    let again = world.create(keyed(), bytes(WHOLE)).await;
    assert_eq!(world.published(&completed(again)).await, WHOLE);
    let referred = Creation {
        client_ref: Some("app".to_owned()),
        ..unfinished(creation())
    };
    create(referred).await.unwrap_err();
    let found = world.authorized().list("app", 9).await.unwrap();
    assert_eq!(found.iter().map(offset).collect::<Vec<_>>(), [7]);
}
