//! Uploads: create, append, ask, cancel.
//!
//! Bytes become durable, then the offset is recorded, then the client is told; each step only after the one before. A request's
//! work runs in a task of its own, which a client that hangs up cannot stop half-way: its body ends, what came is stored and
//! recorded, and nobody is told.

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
use crate::file::{Description, WriteCondition};
use crate::gatekeeper::Gatekeeper;
use crate::holders::{Holders, Overtaken, Turn};
use crate::ids::Randomness;
use crate::ingest::Stops;
use crate::metadata_store::{Guarded, MetadataError};
use crate::upload::{Completed, Gone, Product, Target, Told, Upload, UploadState};
use crate::{
    Authorized, Blob, BlobStore, Clock, Error, File, MetadataStore, NodeId, Outbox, Packs, UploadId,
};

/// How uploads are taken in. Sizes are written as in `32 MiB`, times as in `14days`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Largest file; without it there is no bound.
    #[schemars(with = "Option<settings::Size>")]
    pub max_size: Option<ByteSize>,
    /// Smallest file; without it there is no bound.
    #[schemars(with = "Option<settings::Size>")]
    pub min_size: Option<ByteSize>,
    /// Largest body of one request; without it there is no bound. Set it where a proxy or CDN in front has such a bound.
    #[schemars(with = "Option<settings::Size>")]
    pub max_append_size: Option<ByteSize>,
    /// Smallest body of an append that does not complete its upload; without it there is no bound.
    #[schemars(with = "Option<settings::Size>")]
    pub min_append_size: Option<ByteSize>,
    /// How long an upload without progress is kept, and how long a completed one answers for itself.
    #[serde(with = "settings::Time")]
    pub lifetime: Duration,
    /// How much may come before it is made durable, and told to clients that listen.
    #[schemars(with = "settings::Size")]
    pub checkpoint_bytes: ByteSize,
    /// How old bytes may become before they are made durable, however few.
    #[serde(with = "settings::Time")]
    pub checkpoint_interval: Duration,
    /// Memory for large write buffers, over all uploads, as a part of `memory.total`; without one, an upload uses buffers of 32 KiB.
    #[schemars(with = "settings::Size")]
    pub buffer_memory: ByteSize,
    /// Most requests that bring bytes of uploads and are worked on at once. The next ones wait, with nothing of them read. Each counts
    /// as 128 KiB of `memory.total`, of which they have at most half.
    pub max_at_once: NonZeroUsize,
    /// Most of them that come from one address, or from one IPv6 network of 64 bits. Behind a proxy, all come from the proxy's address:
    /// set it to `max_at_once` there.
    pub max_at_once_per_address: NonZeroUsize,
    /// How long a request waits for that, before it is told to come again later (503).
    #[serde(with = "settings::Time")]
    pub place_wait: Duration,
    /// Let an append begin below the durable offset if the repeated bytes are the same, instead of answering 409.
    pub replay_tolerant: bool,
    /// How long a request waits for another server that works on the same upload to let go of it, before that is shut out.
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
    /// The bounds, in the rules' terms.
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

/// Who else has a part in uploads; nobody, by default.
#[derive(Debug, Clone, Default)]
pub struct Hooks {
    /// Says whether an upload may begin, where there is one.
    pub gatekeeper: Option<Arc<dyn Gatekeeper>>,
    /// Makes the events that tell of files.
    pub outbox: Outbox,
}

/// A request that makes an upload.
#[derive(Debug)]
pub struct Creation {
    /// What it says of its body and the upload's length.
    pub create: Create,
    /// Whether the upload is to outlive the request: an upload resource is made and told before the body is read.
    pub resumable: bool,
    /// The uploads that this one is made of, in order, instead of a body (tus concatenation).
    pub parts: Option<Vec<UploadId>>,
    /// What the bytes are for; `None`: a file that the server names.
    pub target: Option<Target>,
    /// What must hold there.
    pub condition: WriteCondition,
    /// What the file is.
    pub description: Description,
    /// What the bytes must hash to: this request's body before anything of it is kept, the whole before it is published.
    pub digests: StatedDigests,
    /// As in [`Plan::client_ref`](crate::upload::Plan::client_ref).
    pub client_ref: Option<String>,
    /// As in [`Plan::idempotency_key`](crate::upload::Plan::idempotency_key).
    pub idempotency_key: Option<String>,
    /// As in [`Plan::tus_metadata`](crate::upload::Plan::tus_metadata).
    pub tus_metadata: Option<String>,
    /// As in [`Plan::tus_concat`](crate::upload::Plan::tus_concat).
    pub tus_concat: Option<String>,
}

/// Who makes an upload.
#[derive(Debug)]
struct Maker {
    owner: Option<String>,
    /// Is cancelled when nobody waits for the answer any more.
    abandoned: CancellationToken,
}

/// A request that appends to an upload.
#[derive(Debug)]
pub struct Addition {
    /// What it says of its body and the upload's length.
    pub append: Append,
    /// As in [`Creation::digests`]; those of the whole count beside the creation's if this request completes the upload.
    pub digests: StatedDigests,
}

/// Is told, while a request's body is still coming, how its upload fares. Implementations do not block.
pub trait ProgressSink: Debug + Send + Sync {
    /// The upload resource exists, durably. Returns whether the client is told its URL by this.
    fn created(&self, upload: &Upload) -> bool;
    /// All bytes below `offset` are durable.
    fn progressed(&self, offset: u64);
}

/// What came of a request that brought bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The upload goes on.
    Partial(Upload),
    /// The upload is complete.
    Complete(Upload, Completed),
    /// The bytes are what they were for; there never was an upload resource.
    Stored(Product),
}

impl Outcome {
    /// What a request is told that changed nothing.
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

/// Why a request for an upload did not succeed, and how the upload stands where that is known.
#[derive(Debug)]
pub struct Failure {
    /// Why.
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
    /// Whose places its requests take, where that is known.
    peer: Option<IpAddr>,
}

/// What uploads work with.
#[derive(Debug)]
pub struct Means {
    /// Where their bytes are.
    pub blobs: Arc<dyn BlobStore>,
    /// Where the facts are.
    pub metadata: Arc<dyn MetadataStore>,
    /// Where archives go.
    pub packs: Packs,
    /// Who else has a part.
    pub hooks: Hooks,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Makes names.
    pub randomness: Arc<dyn Randomness>,
    /// Which of the nodes on these stores this is.
    pub node: NodeId,
    /// What all peers together can make the server hold.
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
    holders: Arc<Holders>,
    buffers: Arc<Buffers>,
    places: Places,
    tasks: TaskTracker,
    draining: CancellationToken,
}

/// Treatment of an append that begins by repeating bytes that the upload has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replays {
    /// They are compared.
    Allowed,
    /// They are compared: the request is a creation that comes again.
    OfCreation,
    /// That is an offset mismatch.
    Refused,
}

impl Uploads {
    /// Uploads that are kept in these stores, which other nodes may use as well. Those wait for this one for as long as
    /// [`Leases::stay`](crate::Leases::stay) and [`Uploads::heed`] run.
    pub fn new(means: Means, config: Config) -> Self {
        let Means {
            blobs,
            metadata,
            packs,
            hooks,
            clock,
            randomness,
            node,
            memory,
        } = means;
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
                holders: Arc::default(),
                buffers: Buffers::new(&memory, config.buffer_memory.as_u64()),
                places: Places::new(&memory, &config, &draining),
                tasks: TaskTracker::new(),
                draining,
                config,
            }),
        }
    }

    /// Where archives go.
    pub(crate) fn packs(&self) -> &Packs {
        &self.shared.packs
    }

    /// Ends all bodies that are coming in, and waits until what came is durable and recorded. Later requests end at once.
    pub async fn drain(&self) {
        self.shared.draining.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// The bounds that hold for everyone.
    pub fn limits(&self) -> Limits {
        self.shared.config.limits()
    }

    /// Gives up up to `limit` uploads whose time is up; returns how many. An upload that is being appended to is left alone: its
    /// progress moves its expiry. So is what another node holds that is alive, for whatever reason.
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
            if shared.holders.is_held(&upload.id) {
                continue;
            }
            let kept_until = now.plus(shared.config.lifetime);
            // Nothing ends if there was progress since the list was made.
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
    /// The same for requests that come from `address`, which take its places.
    #[must_use]
    pub fn for_peer(mut self, address: IpAddr) -> Self {
        self.service.peer = Some(address);
        self
    }

    /// Makes an upload and takes in the request's body, once there is a place for it.
    ///
    /// # Errors
    /// Rejections of the rules, [`Error::PreconditionFailed`], [`Error::Busy`], and all that can befall a body. Where an upload
    /// resource was made, the failure carries it.
    ///
    /// # Cancel safety
    /// When dropped before the upload is recorded, nothing is; afterwards, the request's work goes on until the body ends.
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

    /// Takes in more bytes of an upload. An older request for it is ended first. The offset that the newest
    /// [`Authorized::retrieve`] was told is accepted even where an older request has appended since: what is repeated is compared.
    ///
    /// # Errors
    /// As [`Authorized::create`], and [`Error::NotFound`] or [`Error::Gone`].
    ///
    /// # Cancel safety
    /// As [`Authorized::create`].
    pub async fn append(
        &self,
        id: UploadId,
        addition: Addition,
        body: UploadBody,
        sink: Arc<dyn ProgressSink>,
    ) -> Result<Outcome, Failure> {
        self.principal.check(Action::UseUpload)?;
        let shared = Arc::clone(&self.service.shared);
        let turn = shared.turn(id);
        let place = shared.places.bringing.take(self.service.peer).await?;
        self.service
            .shared
            .run(place, async move {
                let replays = match shared.config.replay_tolerant {
                    true => Replays::Allowed,
                    false => Replays::Refused,
                };
                let turn = turn.await?;
                shared.append(turn, id, addition, body, sink, replays).await
            })
            .await
    }

    /// How an upload stands. A request that still appends is ended first, so that the offset is final and will be accepted.
    ///
    /// A client to which the length means completeness ([`Completion::AtLength`]) is not told of all bytes before the upload is
    /// complete: a crash may have come between.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Gone`] or a store's.
    pub async fn retrieve(&self, id: UploadId, completion: Completion) -> Result<Upload, Failure> {
        self.principal.check(Action::UseUpload)?;
        let shared = Arc::clone(&self.service.shared);
        let turn = shared.turn(id);
        let place = shared.places.asking.take(self.service.peer).await?;
        self.service
            .shared
            .run(place, async move {
                let turn = turn.await?;
                Ok(shared.standing(&id, &turn, completion).await?)
            })
            .await
    }

    /// Gives an upload up, or forgets a completed one, whose file, contents or version stay. A request that still appends is ended
    /// first. Afterwards the upload is gone, and its idempotency key is free.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Gone`] or a store's.
    pub async fn cancel(&self, id: UploadId) -> Result<(), Failure> {
        self.principal.check(Action::UseUpload)?;
        let shared = Arc::clone(&self.service.shared);
        let turn = shared.turn(id);
        let place = shared.places.asking.take(self.service.peer).await?;
        self.service
            .shared
            .run(place, async move {
                let turn = turn.await?;
                let upload = shared.at_rest(&id, &turn).await?;
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
                    // To record that the bytes are given up takes room, and on a full disk the bytes are what gives it.
                    shared.discard(&upload.blob).await;
                    ended = end().await;
                }
                let ended = ended.map_err(Error::metadata("cancel an upload"))?;
                if ended == Guarded::Done && matches!(upload.state, UploadState::Open(_)) {
                    shared.discard(&upload.blob).await;
                }
                drop(turn);
                Ok(())
            })
            .await
    }

    /// The file that a completed upload became, for whoever has the upload's URL, while it is what the upload brought.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the path has no file or one of other content, or the upload became no file; or a store's.
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

    /// Opens the bytes of a file that [`Authorized::file`] gave.
    ///
    /// # Errors
    /// A store's.
    pub async fn open_file(&self, file: &File) -> Result<Arc<dyn Blob>, Error> {
        self.principal.check(Action::UseUpload)?;
        let content = &file.content;
        let blob = self.service.shared.blobs.open(&content.blob, content.size);
        blob.await.map_err(Error::blob("open a blob"))
    }

    /// Up to `limit` of one's own open uploads with this client reference, oldest first.
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

    /// The bounds that hold for this principal.
    pub fn limits(&self) -> Limits {
        self.service.limits()
    }
}

impl Shared {
    /// Runs `work` to its end, whether or not the caller waits for it.
    async fn run<T: Send + 'static>(
        &self,
        place: Place,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        // Taken before the look, so that draining waits for whoever passes.
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

    fn turn(&self, id: UploadId) -> impl Future<Output = Result<Turn, Error>> + Send + use<> {
        let turn = self.holders.take(id);
        async { turn.await.map_err(|Overtaken| Error::Superseded) }
    }

    /// What ends work that is done in this turn.
    fn stops(&self, turn: &Turn) -> Stops {
        Stops {
            overtaken: turn.overtaken().clone(),
            draining: self.draining.clone(),
            ..Stops::never()
        }
    }

    /// How an upload stands, as its client is told it by whoever has the turn.
    async fn standing(
        &self,
        id: &UploadId,
        turn: &Turn,
        completion: Completion,
    ) -> Result<Upload, Error> {
        loop {
            let mut upload = self.at_rest(id, turn).await?;
            let is_concatenation = upload.plan.is_concatenation();
            if completion == Completion::AtLength || is_concatenation {
                let completed = self.complete_if_reached(&mut upload, turn).await;
                self.let_go(&mut upload).await;
                match completed {
                    // Another node is about to complete it, or has done so.
                    Err(Error::Superseded) if !turn.overtaken().is_cancelled() => continue,
                    completed => completed?,
                }
            }
            if is_concatenation && matches!(upload.state, UploadState::Open(_)) {
                // It takes no bytes from a client, so nobody could go on with it.
                self.invalidate(&mut upload).await?;
                continue;
            }
            match self.tell(&upload).await {
                Guarded::Done => return Ok(upload),
                // A request on another node has claimed it meanwhile, and is older than the answer.
                Guarded::Fenced => {}
            }
        }
    }

    /// Has it remembered what the upload's client is about to be told, unless somebody has claimed the upload since.
    async fn tell(&self, upload: &Upload) -> Guarded {
        let now = self.clock.now();
        let told = match &upload.state {
            UploadState::Open(progress) => {
                let offset = progress.open.offset;
                if upload.told.is_some_and(|told| told.stands_for(offset, now)) {
                    return Guarded::Done;
                }
                Some(Told { offset, at: now })
            }
            UploadState::Complete(_) | UploadState::Gone(_) if upload.told.is_none() => {
                return Guarded::Done;
            }
            UploadState::Complete(_) | UploadState::Gone(_) => None,
        };
        self.record_told(upload, told).await
    }

    /// What the client is told is true, also where it cannot be remembered, such as on a full disk.
    async fn record_told(&self, upload: &Upload, told: Option<Told>) -> Guarded {
        let told = self
            .metadata
            .tell_upload(&upload.id, upload.epoch, told)
            .await;
        told.unwrap_or_else(|error| {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                upload = ?upload.id,
                "what a client is told is not remembered"
            );
            Guarded::Done
        })
    }

    /// An upload that is open or complete.
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
