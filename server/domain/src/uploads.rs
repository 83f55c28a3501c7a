//! Uploads: create, append, ask, cancel.
//!
//! Bytes become durable, then the offset is recorded, then the client is told; each step only after the one before. A request's
//! work runs in a task of its own, which a client that hangs up cannot stop half-way: its body ends, what came is stored and
//! recorded, and nobody is told.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytesize::ByteSize;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use protocol::digest::{self, Algorithm, Stated, StatedDigests};
use protocol::rejection::Rejection;
use protocol::upload::{
    Admission, Append, Complete, Completion, Create, End, Limits, Open, Overrun,
};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::Action;
use crate::blob_store::StagedBlob;
use crate::buffers::Buffers;
use crate::digest::{Digests, Hasher, Sha256Digest};
use crate::files::{Description, File, WriteCondition};
use crate::holders::{Holders, Overtaken, Turn};
use crate::ids::Randomness;
use crate::ingest::{Checkpoint, Ending, Ingest, Ingested, Replay, Rhythm, Source, Stops};
use crate::metadata_store::{Guarded, Inserted, Written};
use crate::upload::{Completed, Gone, Plan, Progress, Upload, UploadState};
use crate::{Authorized, BlobKey, BlobStore, Clock, Error, FilePath, MetadataStore, UploadId};

pub use crate::ingest::{BodyFault, BodyPart, UploadBody};

/// How uploads are taken in. Sizes are written as in `32 MiB`, times as in `14days`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Largest file; without it there is no bound.
    pub max_size: Option<ByteSize>,
    /// Smallest file; without it there is no bound.
    pub min_size: Option<ByteSize>,
    /// Largest body of one request; without it there is no bound. Set it where a proxy or CDN in front has such a bound.
    pub max_append_size: Option<ByteSize>,
    /// Smallest body of an append that does not complete its upload; without it there is no bound.
    pub min_append_size: Option<ByteSize>,
    /// How long an upload without progress is kept, and how long a completed one answers for itself.
    #[serde(with = "humantime_serde")]
    pub lifetime: Duration,
    /// What has come is made durable, and told, each time that it is this much more,
    pub checkpoint_bytes: ByteSize,
    /// or when there are unrecorded bytes of this age.
    #[serde(with = "humantime_serde")]
    pub checkpoint_interval: Duration,
    /// Memory for large write buffers, over all uploads; without one, an upload uses buffers of 32 KiB.
    pub buffer_memory: ByteSize,
    /// Let an append begin below the durable offset if the repeated bytes are the same, instead of answering 409.
    pub replay_tolerant: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_size: None,
            min_size: None,
            max_append_size: None,
            min_append_size: None,
            lifetime: Duration::from_hours(14 * 24),
            checkpoint_bytes: ByteSize::mib(32),
            checkpoint_interval: Duration::from_secs(5),
            buffer_memory: ByteSize::mib(32),
            replay_tolerant: false,
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

/// A request that makes an upload.
#[derive(Debug)]
pub struct Creation {
    /// What it says of its body and the upload's length.
    pub create: Create,
    /// Whether the upload is to outlive the request: an upload resource is made and told before the body is read.
    pub resumable: bool,
    /// The uploads that this one is made of, in order, instead of a body (tus concatenation).
    pub parts: Option<Vec<UploadId>>,
    /// Where the file goes; `None`: the server names it.
    pub path: Option<FilePath>,
    /// What must hold there.
    pub condition: WriteCondition,
    /// What the file is.
    pub description: Description,
    /// What the bytes must hash to: this request's body before anything of it is kept, the whole before it is published.
    pub digests: StatedDigests,
    /// As in [`Plan::client_ref`].
    pub client_ref: Option<String>,
    /// As in [`Plan::idempotency_key`].
    pub idempotency_key: Option<String>,
    /// As in [`Plan::tus_metadata`].
    pub tus_metadata: Option<String>,
    /// As in [`Plan::tus_concat`].
    pub tus_concat: Option<String>,
}

/// A request that appends to an upload.
#[derive(Debug)]
pub struct Addition {
    /// What it says of its body and the upload's length.
    pub append: Append,
    /// As in [`Creation::digests`]; of the whole, those of the creation count.
    pub digests: StatedDigests,
}

/// Is told, while a request's body is still coming, how its upload fares. Implementations do not block.
pub trait ProgressSink: Debug + Send + Sync {
    /// The upload resource exists, durably.
    fn created(&self, upload: &Upload);
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
    /// The file is there; there never was an upload resource.
    Stored {
        /// The file.
        file: File,
        /// Whether it took the place of an older one.
        replaced: bool,
    },
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
}

#[derive(Debug)]
struct Shared {
    blobs: Arc<dyn BlobStore>,
    metadata: Arc<dyn MetadataStore>,
    clock: Arc<dyn Clock>,
    randomness: Arc<dyn Randomness>,
    config: Config,
    holders: Arc<Holders>,
    buffers: Arc<Buffers>,
    tasks: TaskTracker,
    draining: CancellationToken,
}

impl Uploads {
    /// Uploads that are kept in these stores.
    pub fn new(
        blobs: Arc<dyn BlobStore>,
        metadata: Arc<dyn MetadataStore>,
        clock: Arc<dyn Clock>,
        randomness: Arc<dyn Randomness>,
        config: Config,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                blobs,
                metadata,
                clock,
                randomness,
                holders: Arc::default(),
                buffers: Buffers::new(config.buffer_memory.as_u64()),
                tasks: TaskTracker::new(),
                draining: CancellationToken::new(),
                config,
            }),
        }
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
    /// progress moves its expiry.
    pub(crate) async fn expire(&self, limit: usize) -> Result<usize, Error> {
        let shared = &self.shared;
        let now = shared.clock.now();
        let expired = shared
            .metadata
            .expired_uploads(now, limit)
            .await
            .map_err(Error::metadata("list expired uploads"))?;
        let mut count = 0;
        for upload in expired {
            if shared.holders.is_held(&upload.id) {
                continue;
            }
            let kept_until = now.plus(shared.config.lifetime);
            // The epoch guards against a request that came since the list was made.
            let ended = shared
                .metadata
                .end_upload(&upload.id, Some(upload.epoch), Gone::Expired, kept_until)
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
    /// Makes an upload and takes in the request's body.
    ///
    /// # Errors
    /// Rejections of the rules, [`Error::PreconditionFailed`], and all that can befall a body. Where an upload resource was made,
    /// the failure carries it.
    ///
    /// # Cancel safety
    /// When dropped, the request's work goes on until the body ends.
    pub async fn create(
        &self,
        creation: Creation,
        body: UploadBody,
        sink: Arc<dyn ProgressSink>,
    ) -> Result<Outcome, Failure> {
        self.principal
            .check(Action::Write(creation.path.as_ref()))?;
        let owner = self.principal.name().map(str::to_owned);
        let shared = Arc::clone(&self.service.shared);
        self.service
            .shared
            .run(async move { shared.create(creation, owner, body, sink).await })
            .await
    }

    /// Takes in more bytes of an upload. An older request for it is ended first.
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
        self.service
            .shared
            .run(async move { shared.append(id, addition, body, sink).await })
            .await
    }

    /// How an upload stands. A request that still appends is ended first, so that the offset is final and will be accepted.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Gone`] or a store's.
    pub async fn retrieve(&self, id: UploadId) -> Result<Upload, Failure> {
        self.principal.check(Action::UseUpload)?;
        let shared = &self.service.shared;
        let turn = shared.turn(id).await?;
        let upload = shared.existing(&id).await?;
        drop(turn);
        Ok(upload)
    }

    /// Gives an upload up. A request that still appends is ended first. A completed upload's file stays.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Gone`] or a store's.
    pub async fn cancel(&self, id: UploadId) -> Result<(), Failure> {
        self.principal.check(Action::UseUpload)?;
        let shared = Arc::clone(&self.service.shared);
        self.service
            .shared
            .run(async move {
                let turn = shared.turn(id).await?;
                let upload = shared.existing(&id).await?;
                let kept_until = shared.clock.now().plus(shared.config.lifetime);
                let ended = shared
                    .metadata
                    .end_upload(&id, None, Gone::Cancelled, kept_until)
                    .await
                    .map_err(Error::metadata("cancel an upload"))?;
                if ended == Guarded::Done {
                    shared.discard(&upload.blob).await;
                }
                drop(turn);
                Ok(())
            })
            .await
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
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        if self.draining.is_cancelled() {
            return Err(Error::Draining.into());
        }
        self.tasks
            .spawn(work)
            .await
            .expect("an upload's work does not panic")
    }

    async fn turn(&self, id: UploadId) -> Result<Turn, Error> {
        self.holders
            .take(id)
            .await
            .map_err(|Overtaken| Error::Superseded)
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

    async fn create(
        &self,
        mut creation: Creation,
        owner: Option<String>,
        mut body: UploadBody,
        sink: Arc<dyn ProgressSink>,
    ) -> Result<Outcome, Failure> {
        if let Some(parts) = &creation.parts {
            let length;
            (length, body) = self.concatenated(parts).await?;
            creation.create = Create {
                completion: Completion::WithThisBody,
                length: Some(length),
                body_length: Some(length),
                overrun: Overrun::Discard,
            };
        }
        let admission = Open::create(&creation.create, &self.config.limits())?;
        if let Some(path) = &creation.path {
            let current = self
                .metadata
                .file(path)
                .await
                .map_err(Error::metadata("read a file"))?;
            if !creation.condition.holds(current.as_ref()) {
                return Err(Error::PreconditionFailed.into());
            }
        }
        let now = self.clock.now();
        let id = UploadId::random(&*self.randomness);
        let digests = Digests::new(Hasher::new(), body_algorithms(&creation.digests));
        let mut upload = Upload {
            id,
            blob: BlobKey::random(&*self.randomness),
            plan: Plan {
                path: match creation.path {
                    Some(path) => path,
                    None => BlobKey::random(&*self.randomness)
                        .as_str()
                        .parse()
                        .expect("a key is a path of one segment"),
                },
                condition: creation.condition,
                description: creation.description,
                repr_digest: recorded(&creation.digests.representation),
                owner,
                client_ref: creation.client_ref,
                idempotency_key: creation.idempotency_key,
                tus_metadata: creation.tus_metadata,
                tus_concat: creation.tus_concat,
            },
            epoch: 1,
            created_at: now,
            expires_at: now.plus(self.config.lifetime),
            state: UploadState::Open(Progress {
                open: Open {
                    offset: 0,
                    length: admission.length,
                },
                hash: Hasher::new().state(),
            }),
        };
        let turn = self.turn(id).await?;
        if creation.resumable {
            let inserted = self
                .metadata
                .insert_upload(&upload)
                .await
                .map_err(Error::metadata("record an upload"))?;
            if let Inserted::Existing(existing) = inserted {
                return self.found_again(*existing, &sink);
            }
            sink.created(&upload);
        }
        let request = Request {
            admission,
            body_length: creation.create.body_length,
            content_digests: creation.digests.content,
            resumable: creation.resumable,
        };
        let taken = self
            .take_in(&mut upload, request, digests, body, &turn, sink)
            .await;
        drop(turn);
        match taken {
            Ok(outcome) => Ok(outcome),
            Err(error) if creation.resumable => Err(Failure::of(error, upload)),
            Err(error) => {
                self.discard(&upload.blob).await;
                Err(error.into())
            }
        }
    }

    /// The stored bytes of finished parts, one after the other, as a body of that length. A part may come more than once.
    async fn concatenated(&self, parts: &[UploadId]) -> Result<(u64, UploadBody), Error> {
        let refused = |reason: &str| Rejection::malformed("Upload-Concat", reason);
        let mut length: u64 = 0;
        let mut stored = Vec::new();
        for part in parts {
            let upload = self.existing(part).await.map_err(|error| match error {
                Error::NotFound { .. } | Error::Gone(_) => {
                    refused("a part is not an upload of this server").into()
                }
                error => error,
            })?;
            let finished = match &upload.state {
                UploadState::Open(progress) if upload.plan.is_part() => progress
                    .open
                    .length
                    .filter(|length| *length == progress.open.offset),
                UploadState::Open(_) | UploadState::Complete(_) | UploadState::Gone(_) => None,
            };
            let part =
                finished.ok_or_else(|| refused("a part is not a finished partial upload"))?;
            length = length
                .checked_add(part)
                .ok_or(Rejection::InconsistentLength)?;
            stored.push((upload.blob, part));
        }
        let blobs = Arc::clone(&self.blobs);
        let body = stream::iter(stored)
            .then(move |(blob, length)| {
                let blobs = Arc::clone(&blobs);
                async move { blobs.read_staged(&blob, 0..length).await }
            })
            .map_ok(|part| part.map_ok(BodyPart::Data))
            .try_flatten()
            .map_err(|error| {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a part is unreadable"
                );
                BodyFault::Cut
            });
        Ok((length, body.boxed()))
    }

    /// Answers a creation that repeats an earlier one: the same upload is told, and this request's body is not read.
    fn found_again(
        &self,
        upload: Upload,
        sink: &Arc<dyn ProgressSink>,
    ) -> Result<Outcome, Failure> {
        let upload = self.alive(Some(upload))?;
        sink.created(&upload);
        match &upload.state {
            UploadState::Complete(completed) => {
                let completed = completed.clone();
                Ok(Outcome::Complete(upload, completed))
            }
            UploadState::Open(_) | UploadState::Gone(_) => Ok(Outcome::Partial(upload)),
        }
    }

    async fn append(
        &self,
        id: UploadId,
        addition: Addition,
        body: UploadBody,
        sink: Arc<dyn ProgressSink>,
    ) -> Result<Outcome, Failure> {
        let turn = self.turn(id).await?;
        let mut upload = self.existing(&id).await?;
        if upload.plan.is_concatenation() {
            return Err(Failure::of(Rejection::FinalUpload, upload));
        }
        let progress = match &upload.state {
            UploadState::Open(progress) => progress.clone(),
            UploadState::Complete(completed) => {
                let completed = completed.clone();
                return match completed.complete.admit(&addition.append) {
                    Ok(()) => Ok(Outcome::Complete(upload, completed)),
                    Err(rejection) => Err(Failure::of(rejection, upload)),
                };
            }
            UploadState::Gone(gone) => return Err(Error::Gone(*gone).into()),
        };
        let admitted = progress.open.admit(
            &addition.append,
            &self.config.limits(),
            self.config.replay_tolerant,
        );
        let admission = match admitted {
            Ok(admission) => admission,
            Err(rejection) => return Err(Failure::of(rejection, upload)),
        };
        let claimed = self
            .metadata
            .claim_upload(&id)
            .await
            .map_err(Error::metadata("claim an upload"))?;
        let same = claimed
            .as_ref()
            .is_some_and(|claimed| claimed.state == upload.state);
        if !same {
            return Err(Error::Superseded.into());
        }
        if let Some(claimed) = claimed {
            upload = claimed;
        }
        let hasher = self.hasher(&upload, &progress).await?;
        let mut stated = addition.digests;
        stated.content.retain(|stated| !is_stale(stated, &upload));
        let digests = Digests::new(hasher, body_algorithms(&stated));
        let request = Request {
            admission,
            body_length: addition.append.body_length,
            content_digests: stated.content,
            resumable: true,
        };
        let taken = self
            .take_in(&mut upload, request, digests, body, &turn, sink)
            .await;
        drop(turn);
        taken.map_err(|error| Failure::of(error, upload))
    }

    /// The running hash of what an upload has; computed anew where the stored state cannot be used.
    async fn hasher(&self, upload: &Upload, progress: &Progress) -> Result<Hasher, Error> {
        if let Some(hasher) = Hasher::resume(&progress.hash) {
            return Ok(hasher);
        }
        let mut digests = Digests::new(Hasher::new(), []);
        self.read_back(&upload.blob, progress.open.offset, &mut digests)
            .await?;
        Ok(digests.into_whole())
    }

    async fn read_back(
        &self,
        blob: &BlobKey,
        length: u64,
        digests: &mut Digests,
    ) -> Result<(), Error> {
        let mut stored = self
            .blobs
            .read_staged(blob, 0..length)
            .await
            .map_err(Error::blob("read a staged blob"))?;
        while let Some(bytes) = stored.next().await {
            let bytes = bytes.map_err(Error::blob("read a staged blob"))?;
            *digests = std::mem::take(digests).updated_elsewhere(bytes).await;
        }
        Ok(())
    }

    /// Takes in a body: from the admission to the recorded end. `upload` is brought up to date on the way.
    async fn take_in(
        &self,
        upload: &mut Upload,
        request: Request,
        digests: Digests,
        body: UploadBody,
        turn: &Turn,
        sink: Arc<dyn ProgressSink>,
    ) -> Result<Outcome, Error> {
        let admission = request.admission;
        let UploadState::Open(before) = upload.state.clone() else {
            return Err(Error::Corrupt {
                what: "an upload's state".to_owned(),
            });
        };
        let staged = self.stage(upload, before.open.offset).await?;
        let mut source = Source::new(&self.buffers, request.body_length, admission.cap);
        if admission.overlap > 0 {
            let stored = self
                .blobs
                .read_staged(&upload.blob, admission.start..before.open.offset)
                .await
                .map_err(Error::blob("read a staged blob"))?;
            source.replay = Some(Replay::new(stored, admission.overlap, before.open.offset));
        }
        let stops = Stops {
            overtaken: turn.overtaken().clone(),
            draining: self.draining.clone(),
        };
        let rhythm = Rhythm {
            bytes: self.config.checkpoint_bytes.as_u64(),
            interval: self.config.checkpoint_interval,
        };
        let mut recorder = Recorder {
            shared: self,
            upload,
            length: admission.length,
            sink,
        };
        // Bytes under a digest of their own count only when it has been verified.
        let unverified = !request.content_digests.is_empty() || digests.runs_for_body();
        let mut ingest = Ingest {
            staged,
            offset: before.open.offset,
            digests,
        };
        let checkpoint: Option<&mut dyn Checkpoint> = match request.resumable && !unverified {
            true => Some(&mut recorder),
            false => None,
        };
        let ingested = ingest.run(body, source, &stops, rhythm, checkpoint).await?;

        if unverified {
            verify_content(&request.content_digests, &ingested, &ingest.digests)?;
        }
        let end = match ingested.ending {
            Ending::Clean if !recorder.upload.plan.is_part() => admission.end(ingested.received),
            _ => Ok(End::Partial),
        };
        // What completes is recorded by its completion; a body that may not even run over leaves no trace.
        let discards =
            matches!(ingested.ending, Ending::Overrun) && admission.surplus == Overrun::Discard;
        if request.resumable && !discards && !matches!(end, Ok(End::Complete(_))) {
            recorder.record(ingest.offset, &ingest.digests).await?;
        }
        match ingested.ending {
            Ending::Clean => {}
            Ending::Fault(fault) => return Err(fault.into()),
            Ending::Overtaken => return Err(Error::Superseded),
            Ending::Draining => return Err(Error::Draining),
            Ending::Overrun => {
                if admission.overrun_invalidates() && request.resumable {
                    self.invalidate(upload).await?;
                }
                return Err(admission.overrun().into());
            }
            Ending::Unstored => {
                return Err(Error::Corrupt {
                    what: "the hand-over to the store".to_owned(),
                });
            }
        }
        let complete = match end? {
            End::Partial => return Ok(Outcome::Partial(upload.clone())),
            End::Complete(complete) => complete,
        };
        drop(ingest.staged);
        self.finish(upload, complete, ingest.digests, request.resumable)
            .await
    }

    async fn stage(&self, upload: &Upload, offset: u64) -> Result<Box<dyn StagedBlob>, Error> {
        self.blobs
            .stage(&upload.blob, offset)
            .await
            .map_err(Error::blob("open a staged blob"))
    }

    /// Verifies, publishes and records a whole upload.
    async fn finish(
        &self,
        upload: &mut Upload,
        complete: Complete,
        digests: Digests,
        resumable: bool,
    ) -> Result<Outcome, Error> {
        let sha256 = digests.into_whole().finish();
        if let Err(rejection) = self.verify_whole(upload, complete, &sha256).await? {
            self.abandon(upload, resumable).await?;
            return Err(rejection.into());
        }
        self.blobs
            .publish(&upload.blob, complete.length)
            .await
            .map_err(Error::blob("publish a blob"))?;
        let now = self.clock.now();
        let mut completed = Completed {
            complete,
            sha256,
            at: now,
            replaced: false,
        };
        let written = if resumable {
            let kept_until = now.plus(self.config.lifetime);
            upload.expires_at = kept_until;
            self.metadata
                .complete_upload(upload, &completed, kept_until)
                .await
                .map_err(Error::metadata("complete an upload"))?
        } else {
            self.metadata
                .put_file(&upload.file(&completed), &upload.plan.condition)
                .await
                .map_err(Error::metadata("record a file"))?
        };
        match written {
            Written::Created => {}
            Written::Replaced => completed.replaced = true,
            Written::ConditionFailed(_) => {
                self.abandon(upload, resumable).await?;
                return Err(Error::PreconditionFailed);
            }
            Written::Fenced => return Err(Error::Superseded),
        }
        if !resumable {
            return Ok(Outcome::Stored {
                file: upload.file(&completed),
                replaced: completed.replaced,
            });
        }
        upload.state = UploadState::Complete(completed.clone());
        Ok(Outcome::Complete(upload.clone(), completed))
    }

    /// Compares the whole with the digests that were stated of it. SHA-256 is at hand; any other is computed by reading back.
    async fn verify_whole(
        &self,
        upload: &Upload,
        complete: Complete,
        sha256: &Sha256Digest,
    ) -> Result<Result<(), Rejection>, Error> {
        let stated = match &upload.plan.repr_digest {
            Some(value) => digest::parse_representation(value),
            None => return Ok(Ok(())),
        };
        let mut others = Vec::new();
        for stated in &stated {
            if stated.algorithm != Algorithm::Sha256 {
                others.push(stated.algorithm);
            } else if stated.value != sha256.as_bytes() {
                return Ok(Err(mismatch(stated)));
            }
        }
        if others.is_empty() {
            return Ok(Ok(()));
        }
        let mut digests = Digests::new(Hasher::new(), others);
        self.read_back(&upload.blob, complete.length, &mut digests)
            .await?;
        let wrong = stated
            .iter()
            .find(|stated| stated.algorithm != Algorithm::Sha256 && !digests.agree(stated));
        Ok(wrong.map_or(Ok(()), |stated| Err(mismatch(stated))))
    }

    /// Ends an upload that can never be completed.
    async fn invalidate(&self, upload: &mut Upload) -> Result<(), Error> {
        let kept_until = self.clock.now().plus(self.config.lifetime);
        self.metadata
            .end_upload(&upload.id, Some(upload.epoch), Gone::Invalid, kept_until)
            .await
            .map_err(Error::metadata("invalidate an upload"))?;
        upload.state = UploadState::Gone(Gone::Invalid);
        self.discard(&upload.blob).await;
        Ok(())
    }

    /// Ends an upload whose whole was refused, published or not.
    async fn abandon(&self, upload: &mut Upload, resumable: bool) -> Result<(), Error> {
        if resumable {
            self.invalidate(upload).await?;
        } else {
            self.discard(&upload.blob).await;
        }
        if let Err(error) = self.blobs.delete(&upload.blob).await {
            tracing::warn!(blob = %upload.blob, %error, "an unwanted blob is left to the janitor");
        }
        Ok(())
    }

    /// Forgets staged bytes that nobody will ask for. What cannot be forgotten now, the janitor finds.
    async fn discard(&self, blob: &BlobKey) {
        if let Err(error) = self.blobs.discard(blob).await {
            tracing::warn!(%blob, %error, "staged bytes are left to the janitor");
        }
    }
}

/// What a request that brings bytes asks for, once it is admitted.
#[derive(Debug)]
struct Request {
    admission: Admission,
    body_length: Option<u64>,
    content_digests: Vec<Stated>,
    resumable: bool,
}

/// The algorithms to run over a body: of what is stated already, and of what its trailers may state.
fn body_algorithms(stated: &StatedDigests) -> impl Iterator<Item = Algorithm> {
    let content = stated.content.iter().map(|stated| stated.algorithm);
    content.chain(stated.trailing.iter().copied())
}

/// Whether a digest that an append states of its body is really that of the whole: URLSession sends all fields of the creation again
/// with the rest of the body.
fn is_stale(stated: &Stated, upload: &Upload) -> bool {
    let whole = upload.plan.repr_digest.as_deref().unwrap_or_default();
    digest::parse_representation(whole)
        .iter()
        .any(|whole| whole.algorithm == stated.algorithm && whole.value == stated.value)
}

/// Stated digests of the whole, as they are kept until it is.
fn recorded(stated: &[Stated]) -> Option<String> {
    let members: Vec<String> = stated
        .iter()
        .filter_map(|stated| digest::write(stated.algorithm, &stated.value))
        .filter_map(|member| member.to_str().ok().map(str::to_owned))
        .collect();
    (!members.is_empty()).then(|| members.join(", "))
}

fn mismatch(stated: &Stated) -> Rejection {
    Rejection::DigestMismatch {
        field: stated.field,
    }
}

/// Verifies a body by its own digests. A body that was cut cannot be verified, and nothing of it counts.
fn verify_content(stated: &[Stated], ingested: &Ingested, digests: &Digests) -> Result<(), Error> {
    match &ingested.ending {
        Ending::Clean => {}
        Ending::Overtaken => return Err(Error::Superseded),
        Ending::Draining => return Err(Error::Draining),
        Ending::Overrun => return Ok(()),
        Ending::Fault(fault) => return Err(fault.clone().into()),
        Ending::Unstored => return Err(Error::ClientGone),
    }
    match stated
        .iter()
        .chain(&ingested.stated)
        .find(|stated| !digests.agree(stated))
    {
        Some(wrong) => Err(mismatch(wrong).into()),
        None => Ok(()),
    }
}

/// Records checkpoints of one request, and tells them.
#[derive(Debug)]
struct Recorder<'a> {
    shared: &'a Shared,
    upload: &'a mut Upload,
    length: Option<u64>,
    sink: Arc<dyn ProgressSink>,
}

#[async_trait]
impl Checkpoint for Recorder<'_> {
    async fn reached(&mut self, offset: u64, digests: &Digests) -> Result<(), Error> {
        self.record(offset, digests).await?;
        self.sink.progressed(offset);
        Ok(())
    }
}

impl Recorder<'_> {
    async fn record(&mut self, offset: u64, digests: &Digests) -> Result<(), Error> {
        let progress = Progress {
            open: Open {
                offset,
                length: self.length,
            },
            hash: digests.whole_state(),
        };
        if self.upload.state == UploadState::Open(progress.clone()) {
            return Ok(());
        }
        let shared = self.shared;
        let expires_at = shared.clock.now().plus(shared.config.lifetime);
        let guarded = shared
            .metadata
            .record_progress(&self.upload.id, self.upload.epoch, &progress, expires_at)
            .await
            .map_err(Error::metadata("record an upload's progress"))?;
        if guarded == Guarded::Fenced {
            return Err(Error::Superseded);
        }
        self.upload.state = UploadState::Open(progress);
        self.upload.expires_at = expires_at;
        Ok(())
    }
}
