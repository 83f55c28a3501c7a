//! Events in unfavourable orders of receivers, nodes and time, and uploads that a gatekeeper
//! judges. Time is tokio's, and passes as soon as all tasks wait.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use budget::Budget;
use bytes::Bytes;
use domain::access::{self, Authenticator, Credential};
use domain::body::BodyPart;
use domain::clock::FollowingClock;
use domain::courier::{Courier, Undelivered};
use domain::event::{Event, EventId, EventKind};
use domain::file::{Description, WriteCondition};
use domain::gatekeeper::{Amendment, Closed, Gatekeeper, Proposal};
use domain::ids::SystemRandomness;
use domain::upload::{Product, Target, Upload};
use domain::uploads::{self, Creation, Failure, Hooks, Outcome, ProgressSink};
use domain::webhooks::{DeadLetters, Deps, Schedule, Webhooks};
use domain::{
    Authorized, Clock, Error, EventStore, Leases, MetadataStore, NodeId, Outbox, PackStore, Packs,
    Timestamp, Uploads, packs,
};
use futures::{StreamExt as _, stream};
use protocol::digest::StatedDigests;
use protocol::upload::{Completion, Create, Overrun};
use testing::MemoryBlobStore;
use testing::MemoryMetadataStore;
use testing::event_store::event;
use testing::metadata_store::file;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

const SCHEDULE: Schedule = Schedule {
    attempts: NonZeroU32::new(11).unwrap(),
    first_retry: Duration::from_secs(5),
    longest_retry: Duration::from_hours(1),
    keep_dead: Duration::from_hours(3),
};

/// Clock on tokio's time.
#[derive(Debug)]
struct TokioClock(Instant);

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        START.plus(self.0.elapsed())
    }
}

/// A receiver that records events and gives the prepared answers, then always succeeds.
#[derive(Debug)]
struct Receiver {
    clock: Arc<dyn Clock>,
    answers: Mutex<VecDeque<Result<(), Undelivered>>>,
    /// Time that the receiver takes to answer.
    takes: Duration,
    came: Mutex<Vec<(Duration, Event)>>,
    another: Notify,
}

#[async_trait]
impl Courier for Receiver {
    async fn deliver(&self, event: &Event) -> Result<(), Undelivered> {
        let at = START.until(self.clock.now());
        self.came.lock().unwrap().push((at, event.clone()));
        self.another.notify_one();
        let answer = self.answers.lock().unwrap().pop_front();
        tokio::time::sleep(self.takes).await;
        answer.unwrap_or(Ok(()))
    }
}

impl Receiver {
    fn came(&self) -> Vec<EventId> {
        let came = self.came.lock().unwrap();
        came.iter().map(|(_, event)| event.id).collect()
    }

    fn times(&self) -> Vec<Duration> {
        let came = self.came.lock().unwrap();
        came.iter().map(|(at, _)| *at).collect()
    }
}

fn failed(reason: &str) -> Result<(), Undelivered> {
    Err(Undelivered::Failed {
        reason: reason.to_owned(),
        retry_after: None,
    })
}

/// One store, and nodes that deliver from it.
struct World {
    clock: Arc<dyn Clock>,
    store: Arc<MemoryMetadataStore>,
    outbox: Outbox,
}

impl World {
    fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock(Instant::now()));
        Self {
            store: Arc::new(MemoryMetadataStore::new(Arc::clone(&clock))),
            outbox: Outbox::new(EventKind::ALL.to_vec(), Arc::new(SystemRandomness)),
            clock,
        }
    }

    fn receiver(&self, answers: impl Into<VecDeque<Result<(), Undelivered>>>) -> Arc<Receiver> {
        self.slow_receiver(Duration::ZERO, answers)
    }

    fn slow_receiver(
        &self,
        takes: Duration,
        answers: impl Into<VecDeque<Result<(), Undelivered>>>,
    ) -> Arc<Receiver> {
        Arc::new(Receiver {
            clock: Arc::clone(&self.clock),
            answers: Mutex::new(answers.into()),
            takes,
            came: Mutex::default(),
            another: Notify::new(),
        })
    }

    /// Starts a node that delivers to the receiver.
    fn node(&self, receiver: &Arc<Receiver>, stop: &CancellationToken) -> JoinHandle<()> {
        let deps = Deps {
            events: Arc::clone(&self.store) as Arc<dyn EventStore>,
            leases: Leases::new(
                Arc::clone(&self.store) as Arc<dyn MetadataStore>,
                NodeId::random(&SystemRandomness),
                Arc::new(FollowingClock::new(Arc::clone(&self.clock))),
            ),
            courier: Arc::clone(receiver) as Arc<dyn Courier>,
            clock: Arc::clone(&self.clock),
            randomness: Arc::new(SystemRandomness),
        };
        let webhooks = Webhooks::new(self.outbox.clone(), deps, SCHEDULE);
        tokio::spawn(webhooks.run(stop.clone()))
    }

    async fn record(&self, subject: &str) -> EventId {
        let event = Event {
            created_at: self.clock.now(),
            ..event(subject, 0)
        };
        let always = WriteCondition::default();
        let file = file("path", "x", START);
        let put = self.store.put_file(&file, &always, Some(&event)).await;
        put.unwrap();
        event.id
    }

    /// Waits until this many events have arrived; time passes as needed.
    async fn came(&self, receiver: &Receiver, count: usize) {
        while receiver.came().len() < count {
            receiver.another.notified().await;
        }
    }

    fn uploads(&self, gatekeeper: Option<Arc<dyn Gatekeeper>>) -> Authorized<Uploads> {
        let blobs = Arc::new(MemoryBlobStore::new(Arc::clone(&self.clock)));
        let deps = packs::Deps {
            blobs: Arc::clone(&blobs) as _,
            facts: Arc::clone(&self.store) as Arc<dyn PackStore>,
            clock: Arc::clone(&self.clock),
            randomness: Arc::new(SystemRandomness),
            outbox: self.outbox.clone(),
            memory: Budget::new(512 << 20),
        };
        let packs = Packs::new(deps, packs::Config::default(), None);
        let uploads = Uploads::new(
            uploads::Deps {
                blobs,
                metadata: Arc::clone(&self.store) as Arc<dyn MetadataStore>,
                packs,
                hooks: Hooks {
                    gatekeeper,
                    outbox: self.outbox.clone(),
                },
                clock: Arc::clone(&self.clock),
                randomness: Arc::new(SystemRandomness),
                node: NodeId::random(&SystemRandomness),
                memory: Budget::new(1 << 30),
            },
            uploads::Config::default(),
        );
        let authenticator = Authenticator::new(&access::Config::default());
        Authorized::new(authenticator.admit(Credential::None).unwrap(), uploads)
    }
}

#[derive(Debug)]
struct Unheard;

impl ProgressSink for Unheard {
    fn created(&self, _: &Upload) -> bool {
        true
    }
    fn progressed(&self, _: u64) {}
}

fn creation(path: &str) -> Creation {
    Creation {
        create: Create {
            completion: Completion::WithThisBody,
            length: Some(5),
            body_length: None,
            overrun: Overrun::KeepToLength,
        },
        resumable: true,
        parts: None,
        target: Some(Target::File(path.parse().unwrap())),
        condition: WriteCondition::default(),
        description: Description::default(),
        digests: StatedDigests::default(),
        client_ref: Some("ref".to_owned()),
        idempotency_key: None,
        tus_metadata: None,
        tus_concat: None,
    }
}

async fn create(uploads: &Authorized<Uploads>, creation: Creation) -> Result<Outcome, Failure> {
    let body = [Ok(BodyPart::Data(Bytes::from_static(b"hello")))];
    let body = stream::iter(body).boxed();
    uploads.create(creation, body, Arc::new(Unheard)).await
}

/// Returns the path of the file that a creation made.
fn path_of(outcome: &Outcome) -> String {
    let product = match outcome {
        Outcome::Complete(upload, completed) => upload.product(completed),
        Outcome::Stored(product) => product.clone(),
        Outcome::Partial(upload) => panic!("{upload:?}"),
    };
    match product {
        Product::File { file, .. } => file.path.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_complete_is_told_at_once() {
    let world = World::new();
    let stop = CancellationToken::new();
    let receiver = world.receiver([]);
    let node = world.node(&receiver, &stop);
    let uploads = world.uploads(None);
    for (path, resumable) in [("a", true), ("b", false)] {
        let creation = Creation {
            resumable,
            ..creation(path)
        };
        create(&uploads, creation).await.unwrap();
    }
    world.came(&receiver, 2).await;
    // No poll was needed to find them.
    assert_eq!(receiver.times(), [Duration::ZERO; 2]);
    let came = receiver.came.lock().unwrap().clone();
    let (_, event) = &came[0];
    assert_eq!(event.subject, "file:a");
    let payload: serde_json::Value = serde_json::from_str(&event.payload).unwrap();
    let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    assert_eq!(payload["type"], "upload.completed");
    assert_eq!(
        payload["data"],
        serde_json::json!({
            "path": "a",
            "size": 5,
            "sha256": sha256,
            "etag": format!("\"{sha256}\""),
            "client_ref": "ref",
        })
    );
    stop.cancel();
    node.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nothing_is_recorded_for_nobody() {
    let world = World {
        outbox: Outbox::silent(),
        ..World::new()
    };
    create(&world.uploads(None), creation("a")).await.unwrap();
    let due = world.store.due_events(world.clock.now(), 9).await.unwrap();
    assert_eq!(due, []);
}

#[tokio::test(start_paused = true)]
async fn a_failing_event_is_tried_as_scheduled_and_given_up() {
    let world = World::new();
    let stop = CancellationToken::new();
    let receiver = world.receiver(vec![failed("answered 500"); 11]);
    let event = world.record("a").await;
    let later = world.record("a").await;
    let node = world.node(&receiver, &stop);
    world.came(&receiver, 12).await;
    let came = receiver.came();
    assert_eq!(came[..11], [event; 11]);
    assert_eq!(came[11], later);
    let times = receiver.times();
    let waits: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let least = [5, 20, 80, 320, 1280, 3600, 3600, 3600, 3600, 3600];
    for (wait, least) in waits.iter().zip(least.map(Duration::from_secs)) {
        // A fifth of jitter, and a poll every second.
        let most = least + least / 5 + Duration::from_millis(1100);
        assert!((least..=most).contains(wait), "{wait:?} after {least:?}");
    }
    let dead_letters = DeadLetters::new(
        world.outbox.clone(),
        Arc::clone(&world.store) as Arc<dyn EventStore>,
        Arc::clone(&world.clock),
    );
    let dead = dead_letters.list(0, 9).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].event.id, dead[0].failures), (event, 11));
    assert_eq!(dead[0].last_error, "answered 500");

    assert_eq!(dead_letters.replay_all().await.unwrap(), 1);
    world.came(&receiver, 13).await;
    assert_eq!(receiver.came()[12], event);
    assert_eq!(dead_letters.list(0, 9).await.unwrap(), []);
    let again = dead_letters.replay(&event).await.unwrap_err();
    assert!(matches!(again, Error::NotFound { .. }), "{again}");
    stop.cancel();
    node.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_receiver_may_ask_to_be_left_alone_or_for_good() {
    let world = World::new();
    let stop = CancellationToken::new();
    let wish = Undelivered::Failed {
        reason: "answered 429".to_owned(),
        retry_after: Some(Duration::from_mins(10)),
    };
    let never = Undelivered::Refused {
        reason: "answered 410".to_owned(),
    };
    let receiver = world.receiver([Err(wish), Err(never)]);
    let event = world.record("a").await;
    let node = world.node(&receiver, &stop);
    world.came(&receiver, 2).await;
    assert!(receiver.times()[1] >= Duration::from_mins(10));
    tokio::time::sleep(Duration::from_hours(2)).await;
    assert_eq!(receiver.came(), [event, event]);
    let dead = world.store.dead_events(0, 9).await.unwrap();
    assert_eq!(
        (dead[0].failures, &*dead[0].last_error),
        (2, "answered 410")
    );
    // Later, no replay asks for them any more.
    tokio::time::sleep(SCHEDULE.keep_dead).await;
    assert_eq!(world.store.dead_events(0, 9).await.unwrap(), []);
    stop.cancel();
    node.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn of_several_nodes_one_delivers() {
    let world = World::new();
    let stop = CancellationToken::new();
    // Slower than a lease lasts.
    let receiver = world.slow_receiver(Duration::from_secs(14), []);
    let nodes = [(); 3].map(|()| world.node(&receiver, &stop));
    let mut recorded: BTreeMap<String, Vec<EventId>> = BTreeMap::new();
    for n in 0..60 {
        let subject = format!("subject {}", n % 20);
        let id = world.record(&subject).await;
        recorded.entry(subject).or_default().push(id);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    world.came(&receiver, 60).await;
    tokio::time::sleep(Duration::from_mins(5)).await;
    let mut delivered: BTreeMap<String, Vec<EventId>> = BTreeMap::new();
    for (_, event) in &*receiver.came.lock().unwrap() {
        let of_subject = delivered.entry(event.subject.clone()).or_default();
        of_subject.push(event.id);
    }
    // Each once, and in order.
    assert_eq!(delivered, recorded);
    stop.cancel();
    for node in nodes {
        node.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn another_node_goes_on_where_one_is_gone() {
    let world = World::new();
    let stop = CancellationToken::new();
    let hanging = world.slow_receiver(Duration::from_hours(1), []);
    let event = world.record("a").await;
    let lost = world.node(&hanging, &stop);
    world.came(&hanging, 1).await;
    lost.abort();
    let receiver = world.receiver([]);
    let node = world.node(&receiver, &stop);
    world.came(&receiver, 1).await;
    assert_eq!(receiver.came(), [event]);
    // The lease had to expire first.
    let [time] = receiver.times()[..] else {
        panic!("it came more than once")
    };
    let lease = domain::leases::LIFETIME;
    assert!(
        (lease..lease + Duration::from_secs(2)).contains(&time),
        "{time:?}"
    );
    stop.cancel();
    node.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_at_the_end_is_recorded() {
    let world = World::new();
    let stop = CancellationToken::new();
    let receiver = world.slow_receiver(Duration::from_secs(3), []);
    world.record("a").await;
    let node = world.node(&receiver, &stop);
    world.came(&receiver, 1).await;
    stop.cancel();
    node.await.unwrap();
    let due = world.store.due_events(world.clock.now(), 9).await.unwrap();
    assert_eq!(due, []);
    // The next node need not wait for the lease.
    world.record("a").await;
    let (began, stop) = (START.until(world.clock.now()), CancellationToken::new());
    let next = world.receiver([]);
    let node = world.node(&next, &stop);
    world.came(&next, 1).await;
    assert!(next.times()[0] - began < Duration::from_secs(2));
    stop.cancel();
    node.await.unwrap();
}

/// A gatekeeper that gives a prepared answer, and records the questions.
#[derive(Debug)]
struct Keeper {
    answer: Result<Amendment, Closed>,
    asked: Mutex<Vec<Proposal>>,
}

#[async_trait]
impl Gatekeeper for Keeper {
    async fn ask(&self, proposal: &Proposal) -> Result<Amendment, Closed> {
        self.asked.lock().unwrap().push(proposal.clone());
        self.answer.clone()
    }
}

fn keeper(answer: Result<Amendment, Closed>) -> Arc<Keeper> {
    Arc::new(Keeper {
        answer,
        asked: Mutex::default(),
    })
}

#[tokio::test]
async fn nothing_is_made_of_a_refused_upload() {
    let world = World::new();
    let closed = Closed::Refused {
        detail: Some("No.".to_owned()),
    };
    for (closed, resumable) in [(closed, true), (Closed::Unavailable, false)] {
        let keeper = keeper(Err(closed.clone()));
        let uploads = world.uploads(Some(Arc::clone(&keeper) as _));
        let creation = Creation {
            resumable,
            ..creation("a")
        };
        let failure = create(&uploads, creation).await.unwrap_err();
        match closed {
            Closed::Refused { .. } => assert!(
                matches!(&failure.error, Error::Refused { detail } if detail.as_deref() == Some("No."))
            ),
            Closed::Unavailable => assert!(matches!(failure.error, Error::Busy)),
        }
        assert!(failure.upload.is_none());
        assert_eq!(uploads.list("ref", 9).await.unwrap(), []);
        let file = world.store.file(&"a".parse().unwrap()).await;
        assert_eq!(file.unwrap(), None);
        let asked = keeper.asked.lock().unwrap().clone();
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].path.as_deref(), Some("a"));
        assert_eq!((asked[0].length, asked[0].resumable), (Some(5), resumable));
    }
}

#[tokio::test]
async fn an_upload_becomes_what_the_gatekeeper_says() {
    let world = World::new();
    let keeper = keeper(Ok(Amendment {
        path: Some("theirs/1".parse().unwrap()),
        media_type: Some("text/plain".to_owned()),
        filename: None,
    }));
    let uploads = world.uploads(Some(Arc::clone(&keeper) as _));
    let named = Creation {
        idempotency_key: Some("key".to_owned()),
        description: Description {
            media_type: Some("image/png".to_owned()),
            filename: Some("kept.txt".to_owned()),
        },
        ..creation("mine")
    };
    let outcome = create(&uploads, named).await.unwrap();
    assert_eq!(path_of(&outcome), "theirs/1");
    let file = world.store.file(&"theirs/1".parse().unwrap()).await;
    let description = file.unwrap().unwrap().description;
    assert_eq!(description.media_type.as_deref(), Some("text/plain"));
    assert_eq!(description.filename.as_deref(), Some("kept.txt"));

    // The gatekeeper sees no name that the server made up, and preconditions are checked at the
    // file's destination.
    let unnamed = Creation {
        target: None,
        condition: WriteCondition {
            if_match: None,
            if_none_match: Some("*".to_owned()),
            if_unmodified_since: None,
        },
        ..creation("-")
    };
    let failure = create(&uploads, unnamed).await.unwrap_err();
    assert!(matches!(failure.error, Error::PreconditionFailed));
    assert_eq!(keeper.asked.lock().unwrap()[1].path, None);
}

#[tokio::test]
async fn a_repetition_is_the_same_upload_whatever_the_gatekeeper_says_then() {
    let world = World::new();
    let keyed = || Creation {
        idempotency_key: Some("key".to_owned()),
        ..creation("mine")
    };
    for path in ["first", "second"] {
        let keeper = keeper(Ok(Amendment {
            path: Some(path.parse().unwrap()),
            ..Amendment::default()
        }));
        let uploads = world.uploads(Some(keeper));
        let outcome = create(&uploads, keyed()).await.unwrap();
        assert_eq!(path_of(&outcome), "first");
    }
}
