//! What uploads do where requests, stores and time meet badly: every meeting is arranged, none is waited for.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use std::sync::Arc;
use std::time::Duration;

use blobs::memory::MemoryStore;
use bytes::Bytes;
use domain::access::{Config as AccessConfig, Credential, Gate};
use domain::cleanup::{self, Janitor};
use domain::clock::FollowingClock;
use domain::digest::{HashState, Sha256Digest};
use domain::files::{Description, WriteCondition};
use domain::ids::SystemRandomness;
use domain::metadata_store::Hold;
use domain::testing::faulty_metadata_store::Operation as Fact;
use domain::testing::faulty_store::{Fault, Gate as Barrier, Operation};
use domain::testing::{FaultyMetadataStore, FaultyStore, ManualClock, MemoryMetadataStore};
use domain::upload::{Gone, Open, Progress, Upload, UploadState};
use domain::uploads::{
    self, Addition, BodyFault, BodyPart, Creation, Failure, Outcome, ProgressSink, UploadBody,
};
use domain::{
    Authorized, BlobStore, Clock, Error, Files, Leases, MetadataStore, NodeId, Outbox, Packs,
    UploadId, Uploads, packs,
};
use futures::channel::mpsc;
use futures::{StreamExt as _, stream};
use protocol::digest::{Algorithm, Stated, StatedDigests};
use protocol::rejection::Rejection;
use protocol::upload::{Append, Completion, Create, Overrun, Repeat};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const WHOLE: &[u8] = b"the quick brown fox jumps over the lazy dog";
/// Where the client stands when its connection is lost.
const HALF: u64 = 20;

/// One process on its stores.
struct World {
    clock: Arc<ManualClock>,
    memory: MemoryStore,
    blobs: Arc<FaultyStore>,
    metadata: Arc<FaultyMetadataStore>,
    uploads: Uploads,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::default());
        let memory = MemoryStore::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let blobs = Arc::new(FaultyStore::new(Arc::new(memory.clone())));
        let facts = Arc::new(MemoryMetadataStore::default());
        let metadata = FaultyMetadataStore::new(Arc::clone(&facts) as Arc<dyn MetadataStore>);
        let metadata = Arc::new(metadata);
        let packs = Packs::new(
            Arc::clone(&blobs) as Arc<dyn BlobStore>,
            facts,
            Arc::clone(&clock) as Arc<dyn Clock>,
            Arc::new(SystemRandomness),
            packs::Config::default(),
            None,
            Outbox::silent(),
        );
        let uploads = Uploads::new(
            uploads::Means {
                blobs: Arc::clone(&blobs) as Arc<dyn BlobStore>,
                metadata: Arc::clone(&metadata) as Arc<dyn MetadataStore>,
                packs,
                hooks: uploads::Hooks::default(),
                clock: Arc::clone(&clock) as Arc<dyn Clock>,
                randomness: Arc::new(SystemRandomness),
                node: NodeId::random(&SystemRandomness),
            },
            uploads::Config {
                // Every byte is recorded and told.
                checkpoint_bytes: bytesize::ByteSize::b(1),
                ..uploads::Config::default()
            },
        );
        Self {
            clock,
            memory,
            blobs,
            metadata,
            uploads,
        }
    }

    fn authorized(&self) -> Authorized<Uploads> {
        Authorized::new(everyone(), self.uploads.clone())
    }

    async fn create(&self, creation: Creation, body: UploadBody) -> Result<Outcome, Failure> {
        let sink = Arc::new(Watched::default());
        self.authorized().create(creation, body, sink).await
    }

    /// An upload with the first half.
    async fn half(&self, creation: Creation) -> Upload {
        let creation = Creation {
            create: Create {
                completion: Completion::Later,
                ..creation.create
            },
            ..creation
        };
        match self.create(creation, bytes(&WHOLE[..20])).await.unwrap() {
            Outcome::Partial(upload) => upload,
            other => panic!("{other:?}"),
        }
    }

    async fn append(&self, append: Append, id: UploadId, body: UploadBody) -> Answer {
        self.append_stating(append, StatedDigests::default(), id, body)
            .await
    }

    async fn append_stating(
        &self,
        append: Append,
        digests: StatedDigests,
        id: UploadId,
        body: UploadBody,
    ) -> Answer {
        let sink = Arc::new(Watched::default());
        let addition = Addition { append, digests };
        self.authorized().append(id, addition, body, sink).await
    }

    /// Asks how far the upload is, as `HEAD` does.
    async fn told(&self, id: UploadId) -> u64 {
        let upload = self.authorized().retrieve(id, Completion::Later).await;
        offset(&upload.unwrap())
    }

    /// How far it is by the record, without anyone being told.
    async fn recorded(&self, id: UploadId) -> u64 {
        offset(&self.metadata.upload(&id).await.unwrap().unwrap())
    }

    async fn state(&self, id: UploadId) -> UploadState {
        self.metadata.upload(&id).await.unwrap().unwrap().state
    }

    /// The published bytes of a completed upload.
    async fn published(&self, upload: &Upload) -> Vec<u8> {
        let files = Files::new(
            Arc::clone(&self.blobs) as Arc<dyn BlobStore>,
            Arc::clone(&self.metadata) as Arc<dyn MetadataStore>,
            Arc::clone(&self.clock) as Arc<dyn Clock>,
        );
        let files = Authorized::new(everyone(), files);
        let file = files.find(upload.path().unwrap()).await.unwrap();
        let blob = files.open(&file).await.unwrap();
        let mut read = Vec::new();
        let mut stream = blob.read(0..blob.size());
        while let Some(bytes) = stream.next().await {
            read.extend_from_slice(&bytes.unwrap());
        }
        read
    }

    fn janitor(&self) -> Janitor {
        let facts = Arc::clone(&self.metadata) as Arc<dyn MetadataStore>;
        let clock = FollowingClock::new(Arc::clone(&self.clock) as Arc<dyn Clock>);
        let node = NodeId::random(&SystemRandomness);
        let leases = Leases::new(facts, node, Arc::new(clock));
        Janitor::new(
            self.uploads.clone(),
            Arc::clone(&self.blobs) as Arc<dyn BlobStore>,
            Arc::clone(&self.metadata) as Arc<dyn MetadataStore>,
            leases,
            cleanup::Config::default(),
        )
    }
}

type Answer = Result<Outcome, Failure>;

fn everyone() -> domain::access::Principal {
    Gate::new(&AccessConfig::default())
        .admit(Credential::None)
        .expect("a gate without keys is open")
}

fn offset(upload: &Upload) -> u64 {
    match &upload.state {
        UploadState::Open(progress) => progress.open.offset,
        UploadState::Complete(completed) => completed.complete.length,
        UploadState::Gone(gone) => panic!("{gone:?}"),
    }
}

fn completed(answer: Answer) -> Upload {
    match answer.unwrap() {
        Outcome::Complete(upload, _) => upload,
        other => panic!("{other:?}"),
    }
}

fn rejection(answer: Answer) -> Rejection {
    match answer.unwrap_err().error {
        Error::Rejected(rejection) => rejection,
        other => panic!("{other:?}"),
    }
}

fn creation() -> Creation {
    Creation {
        create: Create {
            completion: Completion::WithThisBody,
            length: None,
            body_length: None,
            overrun: Overrun::KeepToLength,
        },
        resumable: true,
        parts: None,
        target: None,
        condition: WriteCondition::default(),
        description: Description::default(),
        digests: StatedDigests::default(),
        client_ref: None,
        idempotency_key: None,
        tus_metadata: None,
        tus_concat: None,
    }
}

/// A request that brings everything from `offset` on, as `URLSession` sends it.
fn rest(offset: u64) -> Append {
    Append {
        offset,
        completion: Completion::WithThisBody,
        length: None,
        body_length: None,
        overrun: Overrun::KeepToLength,
        repeat: Repeat::Refused,
    }
}

/// A request after which more will come.
fn some(offset: u64) -> Append {
    Append {
        completion: Completion::Later,
        ..rest(offset)
    }
}

fn bytes(bytes: &[u8]) -> UploadBody {
    stream::iter([Ok(BodyPart::Data(Bytes::copy_from_slice(bytes)))]).boxed()
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

/// Lets a test wait for what a client would be told.
#[derive(Debug, Default)]
struct Watched(watch::Sender<u64>);

impl ProgressSink for Watched {
    fn created(&self, _: &Upload) {}
    fn progressed(&self, offset: u64) {
        self.0.send_replace(offset);
    }
}

/// A request whose body comes as the test sends it.
struct Lying {
    body: mpsc::UnboundedSender<Result<BodyPart, BodyFault>>,
    sink: Arc<Watched>,
    answer: JoinHandle<Answer>,
}

impl Lying {
    async fn begin(world: &World, id: UploadId, append: Append) -> Self {
        let (body, parts) = mpsc::unbounded();
        let sink = Arc::new(Watched::default());
        let (uploads, told) = (world.authorized(), Arc::clone(&sink));
        let addition = Addition {
            append,
            digests: StatedDigests::default(),
        };
        let answer =
            tokio::spawn(async move { uploads.append(id, addition, parts.boxed(), told).await });
        Self { body, sink, answer }
    }

    /// Sends bytes and waits until they are durable.
    async fn send(&self, bytes: &[u8], until: u64) {
        let data = BodyPart::Data(Bytes::copy_from_slice(bytes));
        self.body.unbounded_send(Ok(data)).unwrap();
        let mut told = self.sink.0.subscribe();
        told.wait_for(|offset| *offset == until).await.unwrap();
    }
}

/// Bounds what would never end if it failed.
async fn ends<T>(work: impl Future<Output = T>) -> T {
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, work).await.expect("it ends")
}

#[tokio::test]
async fn the_told_offset_is_accepted_after_an_older_request_has_appended() {
    let world = World::new();
    let id = world.half(creation()).await.id;
    assert_eq!(world.told(id).await, HALF);
    // It lay unread in a socket until now, and its connection is lost.
    let late = world.append(rest(HALF), id, cut(&WHOLE[20..30])).await;
    assert!(matches!(late.unwrap_err().error, Error::ClientGone));
    assert_eq!(world.recorded(id).await, 30);

    let upload = completed(world.append(rest(HALF), id, bytes(&WHOLE[20..])).await);
    assert_eq!(world.published(&upload).await, WHOLE);
}

#[tokio::test]
async fn the_told_offset_is_accepted_while_an_older_request_still_appends() {
    let world = World::new();
    let id = world.half(creation()).await.id;
    assert_eq!(world.told(id).await, HALF);
    let late = Lying::begin(&world, id, rest(HALF)).await;
    late.send(&WHOLE[20..30], 30).await;

    let upload = completed(world.append(rest(HALF), id, bytes(&WHOLE[20..])).await);
    assert_eq!(world.published(&upload).await, WHOLE);
    let late = late.answer.await.unwrap();
    assert!(matches!(late.unwrap_err().error, Error::Superseded));
}

#[tokio::test]
async fn other_bytes_at_the_told_offset_change_nothing() {
    let world = World::new();
    let id = world.half(creation()).await.id;
    assert_eq!(world.told(id).await, HALF);
    let late = world.append(rest(HALF), id, cut(&WHOLE[20..30])).await;
    assert!(late.is_err());
    let before = world.state(id).await;

    let other = world
        .append(rest(HALF), id, bytes(b"SOMETHING ELSE ALTOGETHER"))
        .await;
    assert_eq!(rejection(other), Rejection::OverlapMismatch { offset: 30 });
    assert_eq!(world.state(id).await, before);
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
    assert_eq!(world.recorded(id).await, WHOLE.len() as u64);
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
    let hashing = Lying::begin(&world, upload.id, rest(HALF)).await;
    ends(barrier.reached()).await;
    assert_eq!(ends(world.told(upload.id)).await, HALF);
    let hashing = hashing.answer.await.unwrap();
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
    assert_eq!(world.state(upload.id).await, UploadState::Open(progress));
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
