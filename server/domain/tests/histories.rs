//! Random histories of uploads agree with a naive model: an upload is a vector of bytes.
//!
//! Each history runs on stores in memory that can lose bytes that were not synced. Each of its
//! steps runs on one of two nodes, which share nothing but the stores. After every step the state
//! of the upload is requested. At the end, every published file is read and compared, byte by byte.
//! A failing history is printed, shrunk, with its seed.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::access::{Authenticator, Config as AccessConfig, Credential};
use domain::body::{BodyFault, BodyPart, UploadBody};
use domain::cleanup::{self, Janitor};
use domain::clock::FollowingClock;
use domain::file::{Description, WriteCondition};
use domain::ids::SystemRandomness;
use domain::upload::{Upload, UploadState};
use domain::uploads::{self, Addition, Creation, Outcome, ProgressSink};
use domain::{
    Authorized, BlobStore, Clock, Error, Files, Leases, MetadataStore, NodeId, Outbox, Packs,
    UploadId, Uploads, packs,
};
use futures::{StreamExt as _, stream};
use proptest::prelude::*;
use protocol::digest::StatedDigests;
use protocol::upload::{Append, Completion, Create, Overrun, Repeat};
use testing::MemoryBlobStore;
use testing::{ManualClock, MemoryMetadataStore};

/// Longer than any pause within a history, except the pauses that are meant to expire uploads.
const LIFETIME: Duration = Duration::from_secs(1000);
/// Time for which a reported offset is accepted.
const REMEMBERED: Duration = Duration::from_mins(10);

#[derive(Debug, Clone)]
struct Body {
    /// Sizes of the chunks in bytes.
    chunks: Vec<usize>,
    /// True if the body is cut after the last chunk.
    cut: bool,
    /// True if the length is declared in advance.
    framed: bool,
    /// True if the first byte differs from that of the upload at the same position, if the upload
    /// has one.
    differs: bool,
}

#[derive(Debug, Clone, Copy)]
struct Dialect {
    overrun: Overrun,
    repeat: Repeat,
}

/// Offset at which an append begins.
#[derive(Debug, Clone, Copy)]
enum From {
    /// Distance from the true offset.
    Off(i64),
    /// The offset that was reported last.
    Reported,
}

#[derive(Debug, Clone)]
enum Step {
    Create {
        completion: Completion,
        length: Option<u64>,
        dialect: Dialect,
        body: Body,
    },
    Append {
        upload: usize,
        from: From,
        completion: Completion,
        length: Option<u64>,
        dialect: Dialect,
        body: Body,
    },
    Head {
        upload: usize,
    },
    Cancel {
        upload: usize,
    },
    Pass {
        seconds: u64,
    },
    Clean,
    /// A node that occurs nowhere else in the history claims the upload and is killed.
    Die {
        upload: usize,
    },
    /// All bytes that are not durable are lost, and new processes start.
    PowerCut,
}

fn body() -> impl Strategy<Value = Body> {
    let chunk = prop_oneof![4 => 0..200_usize, 1 => 60_000..140_000_usize];
    (
        prop::collection::vec(chunk, 0..4),
        prop::bool::weighted(0.3),
        any::<bool>(),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(chunks, cut, framed, differs)| Body {
            chunks,
            cut,
            framed,
            differs,
        })
}

fn completion() -> impl Strategy<Value = Completion> {
    prop_oneof![
        Just(Completion::WithThisBody),
        Just(Completion::Later),
        Just(Completion::AtLength)
    ]
}

fn dialect() -> impl Strategy<Value = Dialect> {
    prop_oneof![
        Just((Overrun::KeepToLength, Repeat::Refused)),
        Just((Overrun::Invalidate, Repeat::Answered)),
        Just((Overrun::Discard, Repeat::Answered)),
    ]
    .prop_map(|(overrun, repeat)| Dialect { overrun, repeat })
}

fn from() -> impl Strategy<Value = From> {
    prop_oneof![
        4 => Just(From::Off(0)),
        1 => (-300..300_i64).prop_map(From::Off),
        3 => Just(From::Reported),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let length = || prop::option::weighted(0.4, 0..1000_u64);
    prop_oneof![
        3 => (completion(), length(), dialect(), body()).prop_map(
            |(completion, length, dialect, body)| Step::Create { completion, length, dialect, body }
        ),
        8 => (0..4_usize, from(), completion(), length(), dialect(), body())
            .prop_map(|(upload, from, completion, length, dialect, body)| Step::Append {
                upload, from, completion, length, dialect, body
            }),
        3 => (0..4_usize).prop_map(|upload| Step::Head { upload }),
        1 => (0..4_usize).prop_map(|upload| Step::Cancel { upload }),
        1 => prop_oneof![Just(10), Just(700), Just(2000)].prop_map(|seconds| Step::Pass { seconds }),
        1 => Just(Step::Clean),
        1 => (0..4_usize).prop_map(|upload| Step::Die { upload }),
        2 => Just(Step::PowerCut),
    ]
}

/// Model of an upload.
#[derive(Debug, Clone)]
struct Model {
    id: UploadId,
    number: usize,
    offset: u64,
    length: Option<u64>,
    state: ModelState,
    /// In seconds since the history began.
    expires: u64,
    /// Reported offset, and the time of the report.
    told: Option<(u64, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ModelState {
    Open,
    Complete,
    Gone,
    Forgotten,
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Partial,
    Complete,
    Rejected,
    ClientGone,
    Absent,
}

/// A request with a body.
struct Bringing<'a> {
    offset: u64,
    completion: Completion,
    length: Option<u64>,
    dialect: Dialect,
    body: &'a Body,
}

impl Body {
    fn size(&self) -> u64 {
        self.chunks.iter().sum::<usize>() as u64
    }

    /// Returns the declared `Content-Length`; for a body that is cut, more than arrives.
    fn told(&self) -> Option<u64> {
        self.framed.then(|| self.size() + u64::from(self.cut))
    }

    /// Returns the bytes, each of which is determined by the upload's number and its position.
    /// `repeats` is true if the upload has the first byte already.
    fn stream(&self, number: usize, offset: u64, repeats: bool) -> UploadBody {
        let other = (self.differs && repeats).then_some(offset);
        let mut position = offset;
        let mut parts = Vec::new();
        for size in &self.chunks {
            let end = position + *size as u64;
            let bytes: Bytes = (position..end)
                .map(|at| byte(number, at) ^ u8::from(Some(at) == other))
                .collect();
            parts.push(Ok(BodyPart::Data(bytes)));
            position = end;
        }
        if self.cut {
            parts.push(Err(BodyFault::Cut));
        }
        stream::iter(parts).boxed()
    }
}

fn byte(number: usize, position: u64) -> u8 {
    let mixed = (position + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (number as u64) << 32;
    mixed.to_be_bytes()[2]
}

impl Model {
    /// States the rules again, as simply as possible.
    fn bring(&mut self, request: &Bringing<'_>, now: u64) -> Answer {
        let is_told = self.told.is_some_and(|(offset, when)| {
            request.offset == offset && now < when + REMEMBERED.as_secs()
        });
        let answer = self.grow(request, now, is_told);
        if is_told && answer == Answer::Partial {
            self.told = None;
        }
        answer
    }

    fn grow(&mut self, request: &Bringing<'_>, now: u64, is_told: bool) -> Answer {
        let size = request.body.size();
        let differs = request.body.differs && size > 0 && request.offset < self.offset;
        match self.state {
            ModelState::Gone | ModelState::Forgotten => return Answer::Absent,
            ModelState::Complete => {
                let finishes = request.completion != Completion::Later;
                let is_at_end = request.dialect.repeat == Repeat::Answered
                    && request.offset == self.offset
                    && finishes;
                let is_judged = is_told && finishes || is_at_end && request.body.told().is_none();
                let room = self.offset.checked_sub(request.offset);
                return match room.filter(|_| is_judged) {
                    _ if is_at_end && request.body.told() == Some(0) => Answer::Complete,
                    Some(room) if size > room => Answer::Rejected,
                    Some(_) if request.body.cut => Answer::ClientGone,
                    Some(room) if size == room && !differs => Answer::Complete,
                    _ => Answer::Rejected,
                };
            }
            ModelState::Open if self.expires <= now => return Answer::Absent,
            ModelState::Open => {}
        }
        if request.offset != self.offset && !(is_told && request.offset < self.offset) {
            return Answer::Rejected;
        }
        let mut lengths: Vec<u64> = self.length.into_iter().chain(request.length).collect();
        if let (Completion::WithThisBody, Some(told)) = (request.completion, request.body.told()) {
            lengths.push(request.offset + told);
        }
        lengths.dedup();
        if lengths.len() > 1 || lengths.first().is_some_and(|length| *length < self.offset) {
            return Answer::Rejected;
        }
        let length = lengths.first().copied();
        let room = length.map_or(u64::MAX, |length| length - request.offset);
        let discards = request.dialect.overrun == Overrun::Discard;
        if discards && request.body.told().is_some_and(|told| told > room) {
            return Answer::Rejected;
        }
        if differs {
            return Answer::Rejected;
        }
        if size > room {
            match request.dialect.overrun {
                Overrun::Discard => {}
                Overrun::Invalidate => self.state = ModelState::Gone,
                Overrun::KeepToLength => {
                    self.offset = request.offset + room;
                    self.length = length;
                }
            }
            self.expires = now + LIFETIME.as_secs();
            return Answer::Rejected;
        }
        let total = request.offset + size;
        let falls_short = total < self.offset;
        self.offset = self.offset.max(total);
        self.length = length;
        self.expires = now + LIFETIME.as_secs();
        let reached = request.completion == Completion::AtLength && length == Some(total);
        if request.body.cut && !reached {
            return Answer::ClientGone;
        }
        let completes = match request.completion {
            Completion::WithThisBody => true,
            Completion::Later => false,
            Completion::AtLength => length == Some(total),
        };
        if !completes {
            return Answer::Partial;
        }
        if falls_short || length.is_some_and(|length| length != total) {
            return Answer::Rejected;
        }
        self.state = ModelState::Complete;
        self.length = Some(total);
        Answer::Complete
    }
}

#[derive(Debug)]
struct Silent;

impl ProgressSink for Silent {
    fn created(&self, _: &Upload) -> bool {
        true
    }
    fn progressed(&self, _: u64) {}
}

/// The real service, on stores that outlive a process.
struct World {
    clock: Arc<ManualClock>,
    blobs: MemoryBlobStore,
    metadata: Arc<MemoryMetadataStore>,
    nodes: [Uploads; 2],
    /// Index of the node that receives the next request.
    at: usize,
    seconds: u64,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::default());
        let blobs = MemoryBlobStore::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let metadata = Arc::new(MemoryMetadataStore::default());
        let nodes = Self::processes(&clock, &blobs, &metadata);
        Self {
            clock,
            blobs,
            metadata,
            nodes,
            at: 0,
            seconds: 0,
        }
    }

    fn processes(
        clock: &Arc<ManualClock>,
        blobs: &MemoryBlobStore,
        metadata: &Arc<MemoryMetadataStore>,
    ) -> [Uploads; 2] {
        [(); 2].map(|()| Self::process(clock, blobs, metadata))
    }

    fn process(
        clock: &Arc<ManualClock>,
        blobs: &MemoryBlobStore,
        metadata: &Arc<MemoryMetadataStore>,
    ) -> Uploads {
        let memory = budget::Budget::new(1 << 30);
        let packs = packs::Deps {
            blobs: Arc::new(blobs.clone()),
            facts: Arc::clone(metadata) as Arc<dyn domain::PackStore>,
            clock: Arc::clone(clock) as Arc<dyn Clock>,
            randomness: Arc::new(SystemRandomness),
            outbox: Outbox::silent(),
            memory: memory.clone(),
        };
        let packs = Packs::new(packs, packs::Config::default(), None);
        Uploads::new(
            uploads::Deps {
                blobs: Arc::new(blobs.clone()) as Arc<dyn BlobStore>,
                metadata: Arc::clone(metadata) as Arc<dyn MetadataStore>,
                packs,
                hooks: uploads::Hooks::default(),
                clock: Arc::clone(clock) as Arc<dyn Clock>,
                randomness: Arc::new(SystemRandomness),
                node: NodeId::random(&SystemRandomness),
                memory,
            },
            uploads::Config {
                lifetime: LIFETIME,
                ..uploads::Config::default()
            },
        )
    }

    fn authorized(&self) -> Authorized<Uploads> {
        Authorized::new(everyone(), self.nodes[self.at].clone())
    }

    fn janitor(&self) -> Janitor {
        let facts = Arc::clone(&self.metadata) as Arc<dyn MetadataStore>;
        let clock = FollowingClock::new(Arc::clone(&self.clock) as Arc<dyn Clock>);
        let node = NodeId::random(&SystemRandomness);
        let leases = Leases::new(facts, node, Arc::new(clock));
        Janitor::new(
            self.nodes[self.at].clone(),
            Arc::new(self.blobs.clone()),
            Arc::clone(&self.metadata) as Arc<dyn MetadataStore>,
            leases,
            cleanup::Config {
                delete_after: Duration::ZERO,
                ..cleanup::Config::default()
            },
        )
    }
}

fn everyone() -> domain::access::Principal {
    Authenticator::new(&AccessConfig::default())
        .admit(Credential::None)
        .expect("an authenticator without keys is open")
}

fn answer(result: &Result<Outcome, uploads::Failure>) -> Answer {
    match result {
        Ok(Outcome::Partial(_)) => Answer::Partial,
        Ok(Outcome::Complete(..) | Outcome::Stored { .. }) => Answer::Complete,
        Err(failure) => match &failure.error {
            Error::Rejected(_) => Answer::Rejected,
            Error::ClientGone => Answer::ClientGone,
            Error::NotFound { .. } | Error::Gone(_) => Answer::Absent,
            error => panic!("unexpected: {error:?}"),
        },
    }
}

async fn live(steps: Vec<(usize, Step)>) {
    let mut world = World::new();
    let mut models: Vec<Model> = Vec::new();
    for (node, step) in steps {
        world.at = node;
        match step {
            Step::Create {
                completion,
                length,
                dialect,
                body,
            } => create(&world, &mut models, completion, length, dialect, &body).await,
            Step::Append {
                upload,
                from,
                completion,
                length,
                dialect,
                body,
            } => {
                let Some(model) = models.get_mut(upload) else {
                    continue;
                };
                let bringing = Bringing {
                    offset: match (from, model.told) {
                        (From::Off(off), _) => model.offset.saturating_add_signed(off),
                        (From::Reported, Some((offset, _))) => offset,
                        (From::Reported, None) => model.offset,
                    },
                    completion,
                    length,
                    dialect,
                    body: &body,
                };
                append(&world, model, &bringing).await;
            }
            Step::Head { upload } => {
                if let Some(model) = models.get_mut(upload) {
                    ask(&world, model).await;
                }
            }
            Step::Cancel { upload } => {
                if let Some(model) = models.get_mut(upload) {
                    cancel(&world, model).await;
                }
            }
            Step::Pass { seconds } => {
                world.clock.advance(Duration::from_secs(seconds));
                world.seconds += seconds;
            }
            Step::Clean => {
                world.janitor().recover().await.unwrap();
                forget(&mut models, world.seconds);
            }
            Step::Die { upload } => {
                if let Some(model) = models.get(upload) {
                    let stranger = NodeId::random(&SystemRandomness);
                    let claim = world.metadata.claim_upload(&model.id, Some(stranger), None);
                    claim.await.unwrap();
                }
            }
            Step::PowerCut => {
                for node in &world.nodes {
                    node.drain().await;
                }
                world.blobs.cut_power();
                world.nodes = World::processes(&world.clock, &world.blobs, &world.metadata);
                world.janitor().recover().await.unwrap();
                forget(&mut models, world.seconds);
            }
        }
        for model in &models {
            check(&world, model).await;
        }
    }
    for mut model in models {
        ask(&world, &mut model).await;
        read_back(&world, &model).await;
    }
}

/// Models the effect of a janitor's round on uploads: the first round expires an upload, the next
/// forgets it.
fn forget(models: &mut [Model], now: u64) {
    for model in models.iter_mut().filter(|model| model.expires <= now) {
        match model.state {
            ModelState::Open => {
                model.state = ModelState::Gone;
                model.expires = now + LIFETIME.as_secs();
            }
            ModelState::Complete | ModelState::Gone => model.state = ModelState::Forgotten,
            ModelState::Forgotten => {}
        }
    }
}

async fn create(
    world: &World,
    models: &mut Vec<Model>,
    completion: Completion,
    length: Option<u64>,
    dialect: Dialect,
    body: &Body,
) {
    let number = models.len();
    let creation = Creation {
        create: Create {
            completion,
            length,
            body_length: body.told(),
            overrun: dialect.overrun,
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
    };
    let result = world
        .authorized()
        .create(creation, body.stream(number, 0, false), Arc::new(Silent))
        .await;
    let upload = match &result {
        Ok(Outcome::Partial(upload) | Outcome::Complete(upload, _)) => Some(upload),
        Ok(Outcome::Stored { .. }) => panic!("a resumable creation makes an upload"),
        Err(failure) => failure.upload.as_deref(),
    };
    let mut model = Model {
        id: upload.map_or_else(|| UploadId::random(&SystemRandomness), |upload| upload.id),
        number,
        offset: 0,
        length: None,
        state: ModelState::Open,
        expires: world.seconds + LIFETIME.as_secs(),
        told: None,
    };
    let bringing = Bringing {
        offset: 0,
        completion,
        length,
        dialect,
        body,
    };
    let expected = model.bring(&bringing, world.seconds);
    assert_eq!(answer(&result), expected, "{model:?}");
    if upload.is_some() {
        // A body that overruns still leaves the length that its request declared.
        model.length = model.length.or(match model.state {
            ModelState::Open => upload.and_then(recorded_length),
            _ => model.length,
        });
        models.push(model);
    }
}

fn recorded_length(upload: &Upload) -> Option<u64> {
    match &upload.state {
        UploadState::Open(progress) => progress.open.length,
        UploadState::Complete(_) | UploadState::Gone(_) => None,
    }
}

async fn append(world: &World, model: &mut Model, bringing: &Bringing<'_>) {
    let addition = Addition {
        append: Append {
            offset: bringing.offset,
            completion: bringing.completion,
            length: bringing.length,
            body_length: bringing.body.told(),
            overrun: bringing.dialect.overrun,
            repeat: bringing.dialect.repeat,
        },
        digests: StatedDigests::default(),
    };
    let repeats = bringing.offset < model.offset;
    let body = bringing.body.stream(model.number, bringing.offset, repeats);
    let before = model.expires;
    let result = world
        .authorized()
        .append(model.id, addition, body, Arc::new(Silent))
        .await;
    let expected = model.bring(bringing, world.seconds);
    assert_eq!(answer(&result), expected, "{model:?}");
    // Only recorded bytes move the expiry; the store shows the time of the record.
    if let Some(upload) = world.metadata.upload(&model.id).await.unwrap() {
        model.expires = if upload.expires_at.as_millis() == expiry(before) {
            before
        } else {
            model.expires
        };
    }
}

fn expiry(seconds: u64) -> i64 {
    let start = ManualClock::default().now();
    start.plus(Duration::from_secs(seconds)).as_millis()
}

async fn cancel(world: &World, model: &mut Model) {
    let result = world.authorized().cancel(model.id).await;
    let is_alive = model.expires > world.seconds;
    match model.state {
        state if state == ModelState::Complete || state == ModelState::Open && is_alive => {
            assert!(result.is_ok());
            model.state = ModelState::Gone;
            model.expires = world.seconds + LIFETIME.as_secs();
            model.told = None;
        }
        _ => assert!(result.is_err()),
    }
}

/// Requests the state of the upload as a client does, to which the offset is reported.
async fn ask(world: &World, model: &mut Model) {
    let result = world
        .authorized()
        .retrieve(model.id, Completion::Later)
        .await;
    let is_there = match model.state {
        ModelState::Open => model.expires > world.seconds,
        ModelState::Complete => true,
        ModelState::Gone | ModelState::Forgotten => false,
    };
    match result {
        Ok(upload) => {
            assert!(is_there, "{upload:?} instead of {model:?}");
            agree(&upload.state, model);
            model.told = match model.state {
                ModelState::Open => Some((model.offset, world.seconds)),
                ModelState::Complete | ModelState::Gone | ModelState::Forgotten => None,
            };
        }
        Err(failure) => {
            assert!(!is_there, "{failure:?} instead of {model:?}");
            assert_eq!(answer(&Err(failure)), Answer::Absent, "{model:?}");
        }
    }
}

/// Compares the record with the model, and reports nothing.
async fn check(world: &World, model: &Model) {
    match world.metadata.upload(&model.id).await.unwrap() {
        Some(upload) => agree(&upload.state, model),
        None => assert_eq!(model.state, ModelState::Forgotten, "{model:?}"),
    }
}

fn agree(state: &UploadState, model: &Model) {
    match (model.state, state) {
        (ModelState::Open, UploadState::Open(progress)) => {
            assert_eq!(progress.open.offset, model.offset, "{model:?}");
            assert_eq!(progress.open.length, model.length, "{model:?}");
        }
        (ModelState::Complete, UploadState::Complete(completed)) => {
            assert_eq!(completed.complete.length, model.offset, "{model:?}");
        }
        (ModelState::Gone, UploadState::Gone(_)) => {}
        (_, state) => panic!("{state:?} instead of {model:?}"),
    }
}

/// Checks that a published file has exactly the bytes of its upload, and their digest.
async fn read_back(world: &World, model: &Model) {
    if model.state != ModelState::Complete {
        return;
    }
    let upload = world
        .authorized()
        .retrieve(model.id, Completion::Later)
        .await
        .unwrap();
    let UploadState::Complete(completed) = &upload.state else {
        panic!("{upload:?}");
    };
    let files = Authorized::new(
        everyone(),
        Files::new(
            Arc::new(world.blobs.clone()),
            Arc::clone(&world.metadata) as Arc<dyn MetadataStore>,
            Arc::clone(&world.clock) as Arc<dyn Clock>,
        ),
    );
    let file = files.find(upload.path().unwrap()).await.unwrap();
    assert_eq!(Some(&file), upload.file(completed).as_ref());
    let blob = files.open(&file).await.unwrap();
    let mut read = Vec::new();
    let mut stream = blob.read(0..blob.size());
    while let Some(bytes) = stream.next().await {
        read.extend_from_slice(&bytes.unwrap());
    }
    let expected: Vec<u8> = (0..model.offset).map(|at| byte(model.number, at)).collect();
    assert!(read == expected, "the bytes of {model:?} differ");
    assert_eq!(
        domain::digest::Sha256Digest::of(&expected),
        completed.sha256
    );
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 10_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn histories_agree_with_the_model(steps in prop::collection::vec((0..2_usize, step()), 1..14)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(live(steps));
    }
}
