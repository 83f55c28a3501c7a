//! Uploads: create, append, retrieve, cancel.
//!
//! First the bytes become durable, then the offset is recorded, then the client gets a report. The
//! work of a request runs in its own task, which a client that disconnects cannot stop half-way:
//! the body ends, the received bytes are stored and recorded, and nobody gets the report.

mod appending;
mod completion;
mod creating;
mod intake;
mod places;
mod repeat;
mod staging;
mod takeover;
mod verdict;

use std::fmt::Debug;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use budget::Budget;
use bytesize::ByteSize;
use protocol::digest::StatedDigests;
use protocol::upload::{Append, Completion, Create, Limits};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use self::places::{Place, Places};
use crate::access::Action;
use crate::body::UploadBody;
use crate::buffers::Buffers;
use crate::claims::{Claim, Claims, Overtaken};
use crate::file::{Description, WriteCondition};
use crate::gatekeeper::Gatekeeper;
use crate::ids::Randomness;
use crate::ingest::Stops;
use crate::metadata_store::{Guarded, MetadataError};
use crate::upload::{Completed, Gone, Product, Reported, Target, Upload, UploadState};
use crate::{
    Authorized, Blob, BlobStore, Clock, Error, File, MetadataStore, NodeId, Outbox, Packs, UploadId,
};

/// Limits and timing of uploads. Write sizes as in `32 MiB`, times as in `14days`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Maximum size of a file; without it, no limit.
    #[schemars(with = "Option<settings::Size>")]
    pub max_size: Option<ByteSize>,
    /// Minimum size of a file; without it, no limit.
    #[schemars(with = "Option<settings::Size>")]
    pub min_size: Option<ByteSize>,
    /// Maximum size of a request's body; without it, no limit. Set it if a proxy or CDN in front
    /// has such a limit.
    #[schemars(with = "Option<settings::Size>")]
    pub max_append_size: Option<ByteSize>,
    /// Minimum size of an append that does not complete its upload; without it, no limit.
    #[schemars(with = "Option<settings::Size>")]
    pub min_append_size: Option<ByteSize>,
    /// Time for which an upload without progress is kept, and for which a completed one still
    /// answers.
    #[serde(with = "settings::Time")]
    pub lifetime: Duration,
    /// Number of bytes after which an upload is made durable, and the offset reported to clients
    /// that listen.
    #[schemars(with = "settings::Size")]
    pub checkpoint_bytes: ByteSize,
    /// Maximum time before received bytes are made durable, even if they are few.
    #[serde(with = "settings::Time")]
    pub checkpoint_interval: Duration,
    /// Memory for large write buffers of all uploads, as a part of `memory.total`. An upload that
    /// gets none uses buffers of 32 KiB.
    #[schemars(with = "settings::Size")]
    pub buffer_memory: ByteSize,
    /// Maximum number of upload requests that are processed at once. Further ones wait, unread.
    /// Each counts as 128 KiB of `memory.total`, of which they take at most half.
    pub max_at_once: NonZeroUsize,
    /// Maximum number of them from one address, or from one IPv6 network of 64 bits. Behind a
    /// proxy, all come from the proxy's address: set it to `max_at_once` there.
    pub max_at_once_per_address: NonZeroUsize,
    /// Time for which such a request waits before it is refused with 503, to be retried later.
    #[serde(with = "settings::Time")]
    pub place_wait: Duration,
    /// Accept an append that begins below the durable offset if the repeated bytes are the same,
    /// instead of answering 409.
    pub replay_tolerant: bool,
    /// Time for which a request waits for another server to release the same upload, before that
    /// server is fenced off.
    #[serde(with = "settings::Time")]
    pub takeover_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_size: None,
            min_size: None,
            max_append_size: None,
            min_append_size: None,
            lifetime: Duration::from_hours(14 * 24),
            checkpoint_bytes: ByteSize::mib(16),
            checkpoint_interval: Duration::from_secs(2),
            buffer_memory: ByteSize::mib(32),
            max_at_once: const { NonZeroUsize::new(2048).unwrap() },
            max_at_once_per_address: const { NonZeroUsize::new(1024).unwrap() },
            place_wait: Duration::from_secs(15),
            replay_tolerant: false,
            takeover_wait: Duration::from_secs(1),
        }
    }
}

impl Config {
    /// Returns the limits on sizes and age.
    pub fn limits(&self) -> Limits {
        Limits {
            max_size: self.max_size.map(|size| size.as_u64()),
            min_size: self.min_size.map(|size| size.as_u64()),
            max_append_size: self.max_append_size.map(|size| size.as_u64()),
            min_append_size: self.min_append_size.map(|size| size.as_u64()),
            max_age: Some(self.lifetime),
        }
    }
}

/// Other parties that take part in uploads; none by default.
#[derive(Debug, Clone, Default)]
pub struct Hooks {
    /// Decides which uploads may begin, if present.
    pub gatekeeper: Option<Arc<dyn Gatekeeper>>,
    /// Creates the events that report new files.
    pub outbox: Outbox,
}

/// A request that creates an upload.
#[derive(Debug)]
pub struct Creation {
    /// The stated lengths of the body and of the upload.
    pub create: Create,
    /// True if the upload outlives the request: an upload resource is created and reported before
    /// the body is read.
    pub resumable: bool,
    /// The uploads that this one is made of, in order, instead of a body (tus concatenation).
    pub parts: Option<Vec<UploadId>>,
    /// The use of the bytes; `None`: a file that the server names.
    pub target: Option<Target>,
    /// The precondition on the target.
    pub condition: WriteCondition,
    /// The uploader's description of the file.
    pub description: Description,
    /// Expected digests of the bytes: of this request's body before any of it is kept, and of the
    /// entire upload before it is published.
    pub digests: StatedDigests,
    /// See [`Plan::client_ref`](crate::upload::Plan::client_ref).
    pub client_ref: Option<String>,
    /// See [`Plan::idempotency_key`](crate::upload::Plan::idempotency_key).
    pub idempotency_key: Option<String>,
    /// See [`Plan::tus_metadata`](crate::upload::Plan::tus_metadata).
    pub tus_metadata: Option<String>,
    /// See [`Plan::tus_concat`](crate::upload::Plan::tus_concat).
    pub tus_concat: Option<String>,
}

/// The client that creates an upload.
#[derive(Debug)]
struct Maker {
    owner: Option<String>,
    /// Cancelled once nobody waits for the response any more.
    abandoned: CancellationToken,
}

/// A request that appends to an upload.
#[derive(Debug)]
pub struct Addition {
    /// The stated offset and lengths of the body and of the upload.
    pub append: Append,
    /// See [`Creation::digests`]; digests of the entire upload count in addition to the creation's
    /// if this request completes it.
    pub digests: StatedDigests,
}

/// Receives reports on an upload while a request's body is still arriving. Implementations do not
/// block.
pub trait ProgressSink: Debug + Send + Sync {
    /// Reports that the upload resource exists, durably. Returns true if the client thereby learns
    /// its URL.
    fn created(&self, upload: &Upload) -> bool;
    /// Reports that all bytes below `offset` are durable.
    fn progressed(&self, offset: u64);
}

/// Result of a request that brought bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The upload is incomplete and can be resumed.
    Partial(Upload),
    /// The upload is complete.
    Complete(Upload, Completed),
    /// The bytes serve their purpose; there never was an upload resource.
    Stored(Product),
}

impl Outcome {
    /// Returns the result of a request that changed nothing.
    fn of(upload: Upload) -> Self {
        match &upload.state {
            UploadState::Complete(completed) => {
                let completed = completed.clone();
                Self::Complete(upload, completed)
            }
            UploadState::Open(_) | UploadState::Gone(_) => Self::Partial(upload),
        }
    }
}

/// The failure of a request for an upload, with the upload's state if known.
#[derive(Debug)]
pub struct Failure {
    pub error: Error,
    /// The upload after the failure.
    pub upload: Option<Box<Upload>>,
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            error: error.into(),
            upload: None,
        }
    }
}

impl Failure {
    fn of(error: impl Into<Error>, upload: Upload) -> Self {
        Self {
            error: error.into(),
            upload: Some(Box::new(upload)),
        }
    }
}

/// The uploads of this server.
#[derive(Debug, Clone)]
pub struct Uploads {
    shared: Arc<Shared>,
    /// The address whose places the requests take, if known.
    peer: Option<IpAddr>,
}

/// Dependencies of [`Uploads`].
#[derive(Debug)]
pub struct Deps {
    /// Store of the bytes.
    pub blobs: Arc<dyn BlobStore>,
    /// Store of the facts.
    pub metadata: Arc<dyn MetadataStore>,
    /// Receiver of archives.
    pub packs: Packs,
    /// Other parties that take part.
    pub hooks: Hooks,
    /// Source of time.
    pub clock: Arc<dyn Clock>,
    /// Source of names.
    pub randomness: Arc<dyn Randomness>,
    /// Name of this node among those that use the stores.
    pub node: NodeId,
    /// Budget for the memory that all peers together can make the server use.
    pub memory: Budget,
}

#[derive(Debug)]
struct Shared {
    blobs: Arc<dyn BlobStore>,
    metadata: Arc<dyn MetadataStore>,
    packs: Packs,
    hooks: Hooks,
    clock: Arc<dyn Clock>,
    randomness: Arc<dyn Randomness>,
    node: NodeId,
    config: Config,
    claims: Arc<Claims>,
    buffers: Arc<Buffers>,
    places: Places,
    tasks: TaskTracker,
    draining: CancellationToken,
}

/// Treatment of an append that begins by repeating stored bytes of the upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replays {
    /// The repeated bytes are compared.
    Allowed,
    /// The repeated bytes are compared: the request is a repeated creation.
    OfCreation,
    /// The append is rejected for its offset.
    Refused,
}

impl Uploads {
    /// Creates the service on these stores, which other nodes may use as well. Other nodes wait for
    /// the requests of this one as long as [`Leases::stay`](crate::Leases::stay) and
    /// [`Uploads::heed`] run.
    pub fn new(deps: Deps, config: Config) -> Self {
        let Deps {
            blobs,
            metadata,
            packs,
            hooks,
            clock,
            randomness,
            node,
            memory,
        } = deps;
        let draining = CancellationToken::new();
        Self {
            peer: None,
            shared: Arc::new(Shared {
                blobs,
                metadata,
                packs,
                hooks,
                clock,
                randomness,
                node,
                claims: Arc::default(),
                buffers: Buffers::new(&memory, config.buffer_memory.as_u64()),
                places: Places::new(&memory, &config, &draining),
                tasks: TaskTracker::new(),
                draining,
                config,
            }),
        }
    }

    /// Returns the receiver of archives.
    pub(crate) fn packs(&self) -> &Packs {
        &self.shared.packs
    }

    /// Ends all bodies that are arriving, and waits until the received bytes are durable and
    /// recorded. Later requests end at once.
    pub async fn drain(&self) {
        self.shared.draining.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Returns the limits that apply to everyone.
    pub fn limits(&self) -> Limits {
        self.shared.config.limits()
    }

    /// Ends up to `limit` expired uploads; returns their number. An upload that receives an append
    /// is skipped: its progress moves its expiry. So is an upload that another live node has
    /// claimed, for any reason.
    pub(crate) async fn expire(&self, limit: usize) -> Result<usize, Error> {
        let shared = &self.shared;
        let now = shared.clock.now();
        let expired = shared
            .metadata
            .expired_uploads(now, shared.node, limit)
            .await
            .map_err(Error::metadata("list expired uploads"))?;
        let mut count = 0;
        for upload in expired {
            if shared.claims.is_held(&upload.id) {
                continue;
            }
            let kept_until = now.plus(shared.config.lifetime);
            // An upload with progress since the list was made does not end.
            let ended = shared
                .metadata
                .expire_upload(&upload.id, now, kept_until)
                .await
                .map_err(Error::metadata("expire an upload"))?;
            if ended == Guarded::Done {
                shared.discard(&upload.blob).await;
                count += 1;
            }
        }
        Ok(count)
    }
}

impl Authorized<Uploads> {
    /// Returns the service for requests from `address`, which take the places of that address.
    #[must_use]
    pub fn for_peer(mut self, address: IpAddr) -> Self {
        self.service.peer = Some(address);
        self
    }

    /// Creates an upload and receives the request's body, once there is a place for it.
    ///
    /// # Errors
    /// Rejections of the rules, [`Error::PreconditionFailed`], [`Error::Busy`], and every failure
    /// of a body. If an upload resource was created, the failure contains it.
    ///
    /// # Cancel safety
    /// If dropped before the upload is recorded, nothing is recorded; afterwards, the request's
    /// work continues until the body ends.
    pub async fn create(
        &self,
        creation: Creation,
        body: UploadBody,
        sink: Arc<dyn ProgressSink>,
    ) -> Result<Outcome, Failure> {
        self.principal.check(match &creation.target {
            None => Action::Write(None),
            Some(Target::File(path)) => Action::Write(Some(path)),
            Some(Target::Draft { pack, .. } | Target::Pack(pack)) => Action::PublishPack(pack),
        })?;
        let owner = self.principal.name().map(str::to_owned);
        let shared = Arc::clone(&self.service.shared);
        let place = shared.places.bringing.take(self.service.peer).await?;
        let abandoned = CancellationToken::new();
        let _abandoned_if_dropped = abandoned.clone().drop_guard();
        let maker = Maker { owner, abandoned };
        let work = async move { shared.create(creation, maker, body, sink).await };
        self.service.shared.run(place, work).await
    }

    /// Appends to an upload. An older request for it is ended first. The offset reported by the
    /// newest [`Authorized::retrieve`] is accepted even if an older request has appended since: the
    /// repeated bytes are compared.
    ///
    /// # Errors
    /// See [`Authorized::create`], and [`Error::NotFound`] or [`Error::Gone`].
    ///
    /// # Cancel safety
    /// See [`Authorized::create`].
    pub async fn append(
        &self,
        id: UploadId,
        addition: Addition,
        body: UploadBody,
        sink: Arc<dyn ProgressSink>,
    ) -> Result<Outcome, Failure> {
        self.principal.check(Action::UseUpload)?;
        let shared = Arc::clone(&self.service.shared);
        let claim = shared.wait_for_claim(id);
        let place = shared.places.bringing.take(self.service.peer).await?;
        self.service
            .shared
            .run(place, async move {
                let replays = match shared.config.replay_tolerant {
                    true => Replays::Allowed,
                    false => Replays::Refused,
                };
                let claim = claim.await?;
                shared
                    .append(claim, id, addition, body, sink, replays)
                    .await
            })
            .await
    }

    /// Returns an upload's state. A request that is still appending is ended first, so that the
    /// offset is final and will be accepted.
    ///
    /// For a client that takes the length for completeness ([`Completion::AtLength`]), an upload
    /// that has all its bytes is completed first: a crash may have come in between.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Gone`] or a store's.
    pub async fn retrieve(&self, id: UploadId, completion: Completion) -> Result<Upload, Failure> {
        self.principal.check(Action::UseUpload)?;
        let shared = Arc::clone(&self.service.shared);
        let claim = shared.wait_for_claim(id);
        let place = shared.places.asking.take(self.service.peer).await?;
        self.service
            .shared
            .run(place, async move {
                let claim = claim.await?;
                Ok(shared.standing(&id, &claim, completion).await?)
            })
            .await
    }

    /// Cancels an upload, or forgets a completed one, whose file, contents or version stay. A
    /// request that is still appending is ended first. Afterwards the upload is gone, and its
    /// idempotency key is free.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Gone`] or a store's.
    pub async fn cancel(&self, id: UploadId) -> Result<(), Failure> {
        self.principal.check(Action::UseUpload)?;
        let shared = Arc::clone(&self.service.shared);
        let claim = shared.wait_for_claim(id);
        let place = shared.places.asking.take(self.service.peer).await?;
        self.service
            .shared
            .run(place, async move {
                let claim = claim.await?;
                let upload = shared.at_rest(&id, &claim).await?;
                let kept_until = shared.clock.now().plus(shared.config.lifetime);
                let end = || {
                    shared
                        .metadata
                        .end_upload(&id, None, Gone::Cancelled, kept_until)
                };
                let mut ended = end().await;
                if matches!(ended, Err(MetadataError::Full))
                    && matches!(upload.state, UploadState::Open(_))
                {
                    // Recording the end needs space, and on a full disk only discarding the bytes
                    // provides it.
                    shared.discard(&upload.blob).await;
                    ended = end().await;
                }
                let ended = ended.map_err(Error::metadata("cancel an upload"))?;
                if ended == Guarded::Done && matches!(upload.state, UploadState::Open(_)) {
                    shared.discard(&upload.blob).await;
                }
                drop(claim);
                Ok(())
            })
            .await
    }

    /// Returns the file that a completed upload became, to a client with the upload's URL, as long
    /// as the file still has the uploaded content.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the path has no file or one of other content, or if the upload became
    /// no file; or a store's.
    pub async fn file(&self, upload: &Upload) -> Result<File, Error> {
        self.principal.check(Action::UseUpload)?;
        let absent = Error::NotFound { what: "file" };
        let (UploadState::Complete(completed), Some(path)) = (&upload.state, upload.path()) else {
            return Err(absent);
        };
        let file = self.service.shared.metadata.file(path).await;
        file.map_err(Error::metadata("read a file"))?
            .filter(|file| file.content.sha256 == completed.sha256)
            .ok_or(absent)
    }

    /// Opens the bytes of a file that [`Authorized::file`] returned.
    ///
    /// # Errors
    /// A store's.
    pub async fn open_file(&self, file: &File) -> Result<Arc<dyn Blob>, Error> {
        self.principal.check(Action::UseUpload)?;
        let content = &file.content;
        let blob = self.service.shared.blobs.open(&content.blob, content.size);
        blob.await.map_err(Error::blob("open a blob"))
    }

    /// Returns up to `limit` of the principal's own open uploads with this client reference, oldest
    /// first.
    ///
    /// # Errors
    /// [`Error::Forbidden`] or a store's.
    pub async fn list(&self, client_ref: &str, limit: usize) -> Result<Vec<Upload>, Error> {
        self.principal.check(Action::List)?;
        self.service
            .shared
            .metadata
            .open_uploads(self.principal.name(), client_ref, limit)
            .await
            .map_err(Error::metadata("list open uploads"))
    }

    /// Returns the limits that apply to this principal.
    pub fn limits(&self) -> Limits {
        self.service.limits()
    }
}

impl Shared {
    /// Runs `work` to its end, even if the caller stops waiting.
    async fn run<T: Send + 'static>(
        &self,
        place: Place,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        // Taken before the check, so that draining waits for every request that passes it.
        let _until_counted = self.tasks.token();
        if self.draining.is_cancelled() {
            return Err(Error::Draining.into());
        }
        let placed = async move {
            let _place = place;
            work.await
        };
        self.tasks
            .spawn(placed.in_current_span())
            .await
            .expect("an upload's work does not panic")
    }

    fn wait_for_claim(
        &self,
        id: UploadId,
    ) -> impl Future<Output = Result<Claim, Error>> + Send + use<> {
        let claim = self.claims.take(id);
        async { claim.await.map_err(|Overtaken| Error::Superseded) }
    }

    /// Returns the signals that end the work under this claim.
    fn stops(&self, claim: &Claim) -> Stops {
        Stops {
            overtaken: claim.overtaken().clone(),
            draining: self.draining.clone(),
            ..Stops::never()
        }
    }

    /// Settles and returns the state that is reported to the client of the request with the claim.
    async fn standing(
        &self,
        id: &UploadId,
        claim: &Claim,
        completion: Completion,
    ) -> Result<Upload, Error> {
        loop {
            let mut upload = self.at_rest(id, claim).await?;
            let is_concatenation = upload.plan.is_concatenation();
            if completion == Completion::AtLength || is_concatenation {
                let completed = self.complete_if_reached(&mut upload, claim).await;
                self.let_go(&mut upload).await;
                match completed {
                    // Another node is about to complete the upload, or has completed it.
                    Err(Error::Superseded) if !claim.overtaken().is_cancelled() => continue,
                    completed => completed?,
                }
            }
            if is_concatenation && matches!(upload.state, UploadState::Open(_)) {
                // A concatenation accepts no bytes from a client, so nobody could resume it.
                self.invalidate(&mut upload).await?;
                continue;
            }
            match self.tell(&upload).await {
                Guarded::Done => return Ok(upload),
                // A request on another node has claimed the upload meanwhile, and is older than the
                // report.
                Guarded::Fenced => {}
            }
        }
    }

    /// Records the offset that is about to be reported to the client, unless another request has
    /// claimed the upload since.
    async fn tell(&self, upload: &Upload) -> Guarded {
        let now = self.clock.now();
        let reported = match &upload.state {
            UploadState::Open(progress) => {
                let offset = progress.open.offset;
                if upload
                    .reported
                    .is_some_and(|reported| reported.stands_for(offset, now))
                {
                    return Guarded::Done;
                }
                Some(Reported { offset, at: now })
            }
            UploadState::Complete(_) | UploadState::Gone(_) if upload.reported.is_none() => {
                return Guarded::Done;
            }
            UploadState::Complete(_) | UploadState::Gone(_) => None,
        };
        self.record_reported(upload, reported).await
    }

    /// The report is true even if it cannot be recorded, such as on a full disk.
    async fn record_reported(&self, upload: &Upload, reported: Option<Reported>) -> Guarded {
        let reported = self
            .metadata
            .report_offset(&upload.id, upload.epoch, reported)
            .await;
        reported.unwrap_or_else(|error| {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                upload = ?upload.id,
                "what a client is told is not remembered"
            );
            Guarded::Done
        })
    }

    /// Returns an upload that is open or complete.
    async fn existing(&self, id: &UploadId) -> Result<Upload, Error> {
        let upload = self
            .metadata
            .upload(id)
            .await
            .map_err(Error::metadata("read an upload"))?;
        self.alive(upload)
    }

    fn alive(&self, upload: Option<Upload>) -> Result<Upload, Error> {
        let upload = upload.ok_or(Error::NotFound { what: "upload" })?;
        match upload.state {
            UploadState::Gone(gone) => Err(Error::Gone(gone)),
            UploadState::Open(_) if upload.expires_at <= self.clock.now() => {
                Err(Error::Gone(Gone::Expired))
            }
            UploadState::Open(_) | UploadState::Complete(_) => Ok(upload),
        }
    }
}
