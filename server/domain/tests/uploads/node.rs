//! A process on its stores, and the requests that its clients send.

use std::sync::Arc;

use bytes::Bytes;
use domain::access::{Authenticator, Config as AccessConfig, Credential, Principal};
use domain::body::{BodyFault, BodyPart, UploadBody};
use domain::cleanup::{self, Janitor};
use domain::clock::FollowingClock;
use domain::file::{Description, WriteCondition};
use domain::ids::SystemRandomness;
use domain::upload::{Upload, UploadState};
use domain::uploads::{self, Addition, Creation, Failure, Outcome, ProgressSink};
use domain::{
    Authorized, BlobStore, Clock, Error, Files, Leases, MetadataStore, NodeId, Outbox, PackStore,
    Packs, UploadId, Uploads, packs,
};
use futures::channel::mpsc;
use futures::{StreamExt as _, stream};
use protocol::digest::StatedDigests;
use protocol::upload::{Append, Completion, Create, Overrun, Repeat};
use testing::MemoryBlobStore;
use testing::{FaultyMetadataStore, FaultyStore, ManualClock, MemoryMetadataStore};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) const WHOLE: &[u8] = b"the quick brown fox jumps over the lazy dog";
/// Offset at which the client loses its connection.
pub(crate) const HALF: u64 = 20;

pub(crate) type Answer = Result<Outcome, Failure>;

/// Stores and clock that processes share.
pub(crate) struct Stores {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) memory: MemoryBlobStore,
    facts: Arc<MemoryMetadataStore>,
}

impl Stores {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(ManualClock::default());
        let facts = MemoryMetadataStore::new(Arc::clone(&clock) as Arc<dyn Clock>);
        Self {
            memory: MemoryBlobStore::new(Arc::clone(&clock) as Arc<dyn Clock>),
            clock,
            facts: Arc::new(facts),
        }
    }
}

/// One process.
pub(crate) struct Node {
    pub(crate) blobs: Arc<FaultyStore>,
    pub(crate) metadata: Arc<FaultyMetadataStore>,
    pub(crate) uploads: Uploads,
    pub(crate) leases: Leases,
    clock: Arc<ManualClock>,
}

impl Node {
    pub(crate) fn new(stores: &Stores, config: uploads::Config) -> Self {
        let clock = Arc::clone(&stores.clock);
        let blobs = Arc::new(FaultyStore::new(Arc::new(stores.memory.clone())));
        let facts = Arc::clone(&stores.facts);
        let metadata = FaultyMetadataStore::new(Arc::clone(&facts) as Arc<dyn MetadataStore>);
        let metadata = Arc::new(metadata);
        let memory = budget::Budget::new(1 << 30);
        let packs = packs::Deps {
            blobs: Arc::clone(&blobs) as Arc<dyn BlobStore>,
            facts: facts as Arc<dyn PackStore>,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            randomness: Arc::new(SystemRandomness),
            outbox: Outbox::silent(),
            memory: memory.clone(),
        };
        let packs = Packs::new(packs, packs::Config::default(), None);
        let leases = Leases::new(
            Arc::clone(&metadata) as Arc<dyn MetadataStore>,
            NodeId::random(&SystemRandomness),
            Arc::new(FollowingClock::new(Arc::clone(&clock) as Arc<dyn Clock>)),
        );
        let deps = uploads::Deps {
            blobs: Arc::clone(&blobs) as Arc<dyn BlobStore>,
            metadata: Arc::clone(&metadata) as Arc<dyn MetadataStore>,
            packs,
            hooks: uploads::Hooks::default(),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            randomness: Arc::new(SystemRandomness),
            node: leases.node(),
            memory,
        };
        Self {
            blobs,
            metadata,
            uploads: Uploads::new(deps, config),
            leases,
            clock,
        }
    }

    pub(crate) fn authorized(&self) -> Authorized<Uploads> {
        Authorized::new(everyone(), self.uploads.clone())
    }

    pub(crate) async fn create(&self, creation: Creation, body: UploadBody) -> Answer {
        let sink = Arc::new(Watched::default());
        self.authorized().create(creation, body, sink).await
    }

    /// Creates an upload of the first half.
    pub(crate) async fn half(&self, creation: Creation) -> Upload {
        let creation = unfinished(creation);
        match self.create(creation, bytes(&WHOLE[..20])).await.unwrap() {
            Outcome::Partial(upload) => upload,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn append(&self, append: Append, id: UploadId, body: UploadBody) -> Answer {
        self.append_stating(append, StatedDigests::default(), id, body)
            .await
    }

    pub(crate) async fn append_stating(
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

    /// Returns the offset that `HEAD` reports.
    pub(crate) async fn told(&self, id: UploadId) -> u64 {
        let upload = self.authorized().retrieve(id, Completion::Later).await;
        offset(&upload.unwrap())
    }

    /// Requests the offset, without waiting for the answer.
    pub(crate) fn asks(&self, id: UploadId) -> JoinHandle<Result<Upload, Failure>> {
        let uploads = self.authorized();
        tokio::spawn(async move { uploads.retrieve(id, Completion::Later).await })
    }

    /// Returns the upload as recorded, and reports nothing.
    pub(crate) async fn record(&self, id: UploadId) -> Upload {
        self.metadata.upload(&id).await.unwrap().unwrap()
    }

    /// Returns the published bytes of a completed upload.
    pub(crate) async fn published(&self, upload: &Upload) -> Vec<u8> {
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

    pub(crate) fn janitor(&self) -> Janitor {
        Janitor::new(
            self.uploads.clone(),
            Arc::clone(&self.blobs) as Arc<dyn BlobStore>,
            Arc::clone(&self.metadata) as Arc<dyn MetadataStore>,
            self.leases.clone(),
            cleanup::Config::default(),
        )
    }
}

fn everyone() -> Principal {
    Authenticator::new(&AccessConfig::default())
        .admit(Credential::None)
        .expect("an authenticator without keys is open")
}

pub(crate) fn offset(upload: &Upload) -> u64 {
    match &upload.state {
        UploadState::Open(progress) => progress.open.offset,
        UploadState::Complete(completed) => completed.complete.length,
        UploadState::Gone(gone) => panic!("{gone:?}"),
    }
}

pub(crate) fn completed(answer: Answer) -> Upload {
    match answer.unwrap() {
        Outcome::Complete(upload, _) => upload,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn is_superseded(answer: &Answer) -> bool {
    matches!(answer, Err(failure) if matches!(failure.error, Error::Superseded))
}

/// Returns a creation with all bytes.
pub(crate) fn creation() -> Creation {
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

/// Returns the creation as one that more requests will follow.
pub(crate) fn unfinished(creation: Creation) -> Creation {
    Creation {
        create: Create {
            completion: Completion::Later,
            ..creation.create
        },
        ..creation
    }
}

/// Returns a request with all bytes from `offset` on, as `URLSession` sends it.
pub(crate) fn rest(offset: u64) -> Append {
    Append {
        offset,
        completion: Completion::WithThisBody,
        length: None,
        body_length: None,
        overrun: Overrun::KeepToLength,
        repeat: Repeat::Refused,
    }
}

/// Returns a request that more will follow.
pub(crate) fn some(offset: u64) -> Append {
    Append {
        completion: Completion::Later,
        ..rest(offset)
    }
}

pub(crate) fn bytes(bytes: &[u8]) -> UploadBody {
    stream::iter([Ok(BodyPart::Data(Bytes::copy_from_slice(bytes)))]).boxed()
}

/// A sink that lets a test wait for the offset that a client would receive.
#[derive(Debug, Default)]
pub(crate) struct Watched(watch::Sender<u64>);

impl ProgressSink for Watched {
    fn created(&self, _: &Upload) -> bool {
        true
    }
    fn progressed(&self, offset: u64) {
        self.0.send_replace(offset);
    }
}

/// A request whose body arrives as the test sends it.
pub(crate) struct Lying {
    body: mpsc::UnboundedSender<Result<BodyPart, BodyFault>>,
    sink: Arc<Watched>,
    answer: JoinHandle<Answer>,
}

impl Lying {
    pub(crate) fn begin(node: &Node, id: UploadId, append: Append) -> Self {
        let (body, parts) = mpsc::unbounded();
        let sink = Arc::new(Watched::default());
        let (uploads, told) = (node.authorized(), Arc::clone(&sink));
        let digests = StatedDigests::default();
        let addition = Addition { append, digests };
        let answer =
            tokio::spawn(async move { uploads.append(id, addition, parts.boxed(), told).await });
        Self { body, sink, answer }
    }

    /// Sends bytes, which may never be read.
    pub(crate) fn push(&self, bytes: &[u8]) {
        let data = BodyPart::Data(Bytes::copy_from_slice(bytes));
        // Fails once the request has ended, which does not matter.
        let _ = self.body.unbounded_send(Ok(data));
    }

    /// Sends bytes and waits until they are durable.
    pub(crate) async fn send(&self, bytes: &[u8], until: u64) {
        self.push(bytes);
        let mut told = self.sink.0.subscribe();
        told.wait_for(|offset| *offset == until).await.unwrap();
    }

    /// Ends the body, and returns the answer.
    pub(crate) async fn ends(self) -> Answer {
        drop(self.body);
        self.answer.await.unwrap()
    }

    /// Waits for the answer without sending more of the body, nor its end.
    pub(crate) async fn ended(self) -> Answer {
        ends(self.answer).await.unwrap()
    }
}

/// Fails if the work takes longer than 30 seconds.
pub(crate) async fn ends<T>(work: impl Future<Output = T>) -> T {
    let patience = std::time::Duration::from_secs(30);
    tokio::time::timeout(patience, work).await.expect("it ends")
}
