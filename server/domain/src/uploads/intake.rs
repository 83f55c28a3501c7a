//! Taking bytes in: from what a request says to what is recorded of it.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use protocol::digest::{self, Algorithm, Stated, StatedDigests};
use protocol::rejection::Rejection;
use protocol::upload::{Admission, Completion, Create, Limits, Open, Overrun, Repeated};

use super::completion::{Whole, stated_of_whole, takes_reading_back};
use super::repeat::{Compared, Extent, is_repeat};
use super::verdict::{Ended, Verdict};
use super::{Addition, Creation, Failure, Maker, Outcome, ProgressSink, Shared};
use crate::blob_store::{BlobError, Growth, StagedBlob};
use crate::digest::{Digests, Hasher};
use crate::gatekeeper::Proposal;
use crate::holders::Turn;
use crate::ingest::{
    BodyFault, BodyPart, Checkpoint, Ingest, Replay, Rhythm, Source, Stops, UploadBody,
};
use crate::metadata_store::{Guarded, Hold, Inserted, Seen};
use crate::upload::{Gone, Plan, Progress, Target, Upload, UploadState};
use crate::{BlobKey, Error, UploadId};

impl Shared {
    pub(super) async fn create(
        &self,
        creation: Creation,
        maker: Maker,
        body: UploadBody,
        sink: Arc<dyn ProgressSink>,
    ) -> Result<Outcome, Failure> {
        let admission = Open::create(&creation.create, &self.config.limits())?;
        let mut is_named = creation.target.is_some();
        let now = self.clock.now();
        let id = UploadId::random(&*self.randomness);
        let works_on_it = creation.resumable && !brings_nothing(&creation);
        let holder = works_on_it.then_some(self.node);
        let mut upload = Upload {
            id,
            blob: BlobKey::random(&*self.randomness),
            plan: Plan {
                target: match creation.target {
                    Some(target) => target,
                    None => Target::File(
                        BlobKey::random(&*self.randomness)
                            .as_str()
                            .parse()
                            .expect("a key is a path of one segment"),
                    ),
                },
                condition: creation.condition,
                description: creation.description,
                repr_digest: recorded(&creation.digests.representation),
                owner: maker.owner,
                client_ref: creation.client_ref,
                idempotency_key: creation.idempotency_key,
                tus_metadata: creation.tus_metadata,
                tus_concat: creation.tus_concat,
            },
            epoch: 1,
            holder,
            told: None,
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
        if let Some(gatekeeper) = &self.hooks.gatekeeper {
            let Admission { length, .. } = admission;
            let proposal = Proposal::new(&upload.plan, is_named, length, creation.resumable);
            let amendment = gatekeeper.ask(&proposal).await.map_err(Error::from)?;
            amendment.apply(&mut upload.plan);
            is_named |= amendment.path.is_some();
        }
        let turn = self.turn(id).await?;
        turn.holds(upload.epoch);
        if creation.resumable {
            if maker.abandoned.is_cancelled() {
                return Err(Error::ClientGone.into());
            }
            let inserted = self
                .metadata
                .insert_upload(&upload)
                .await
                .map_err(Error::metadata("record an upload"))?;
            if let Inserted::Existing(existing) = inserted {
                drop(turn);
                let compared = Compared {
                    // A gatekeeper may name and describe a repetition in another way.
                    target: is_named && self.hooks.gatekeeper.is_none(),
                    description: self.hooks.gatekeeper.is_none(),
                };
                if !is_repeat(&upload.plan, &existing.plan, compared) {
                    return Err(Rejection::KeyReused.into());
                }
                let request = (creation.create, creation.digests);
                return self.found_again(*existing, request, body, sink).await;
            }
        }
        if is_named && let Err(error) = self.check_target(&upload.plan).await {
            if creation.resumable {
                self.invalidate(&mut upload).await?;
            }
            return Err(error.into());
        }
        let is_known = creation.resumable && (sink.created(&upload) || can_be_found(&upload.plan));
        let (request, body) = match creation.parts {
            None => {
                let request = Request {
                    admission,
                    body_length: creation.create.body_length,
                    stated: creation.digests,
                    resumable: creation.resumable,
                    told: false,
                };
                (request, body)
            }
            Some(parts) => match self.concatenated(&parts, creation.digests).await {
                Ok(concatenated) => concatenated,
                Err(error) => {
                    self.invalidate(&mut upload).await?;
                    return Err(error.into());
                }
            },
        };
        let mut stops = self.stops(&turn);
        if upload.path().is_none() && !creation.resumable {
            // Unpacking takes a while, and nobody could ask for its outcome.
            stops.abandoned = maker.abandoned.clone();
        }
        let taken = self
            .take_in(&mut upload, request, Hasher::new(), body, &stops, sink)
            .await;
        self.let_go(&mut upload).await;
        drop(turn);
        match taken {
            Ok(outcome) => Ok(outcome),
            Err(error) if upload.plan.is_concatenation() => {
                // It takes no bytes from a client, so nobody could go on with it.
                self.invalidate(&mut upload).await?;
                Err(error.into())
            }
            Err(error @ Error::ClientGone) if creation.resumable && !is_known => {
                self.forget(&upload).await;
                Err(error.into())
            }
            Err(error) if creation.resumable => Err(Failure::of(error, upload)),
            Err(error) => {
                self.discard(&upload.blob).await;
                Err(error.into())
            }
        }
    }

    /// Gives up an upload that nobody knows of, so that nobody can go on with it.
    async fn forget(&self, upload: &Upload) {
        let now = self.clock.now();
        let ended = self
            .metadata
            .end_upload(&upload.id, Some(upload.epoch), Gone::Cancelled, now)
            .await;
        match ended {
            Ok(Guarded::Done) => self.discard(&upload.blob).await,
            Ok(Guarded::Fenced) => {}
            // It expires.
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "an upload that nobody knows of is kept"
            ),
        }
    }

    /// Whether an upload that was whole now could be completed.
    async fn check_target(&self, plan: &Plan) -> Result<(), Error> {
        match &plan.target {
            Target::File(path) => {
                let current = self
                    .metadata
                    .file(path)
                    .await
                    .map_err(Error::metadata("read a file"))?;
                match plan.condition.holds(current.as_ref()) {
                    true => Ok(()),
                    false => Err(Error::PreconditionFailed),
                }
            }
            Target::Draft { pack, draft } => {
                self.packs.shared.open_draft(pack, draft).await.map(drop)
            }
            Target::Pack(pack) => {
                let shared = &self.packs.shared;
                shared.check_newest(pack, &plan.condition).await
            }
        }
    }

    /// The stored bytes of finished parts, one after the other, as the body of a request. A part may come more than once.
    async fn concatenated(
        &self,
        parts: &[UploadId],
        stated: StatedDigests,
    ) -> Result<(Request, UploadBody), Error> {
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
        let create = Create {
            completion: Completion::WithThisBody,
            length: Some(length),
            body_length: Some(length),
            overrun: Overrun::Discard,
        };
        let limits = Limits {
            // There is no body of its own.
            max_append_size: None,
            ..self.config.limits()
        };
        let request = Request {
            admission: Open::create(&create, &limits)?,
            body_length: create.body_length,
            stated,
            resumable: true,
            told: false,
        };
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
        Ok((request, body.boxed()))
    }

    pub(super) async fn append(
        &self,
        turn: Turn,
        id: UploadId,
        addition: Addition,
        body: UploadBody,
        sink: Arc<dyn ProgressSink>,
        replays: Replays,
    ) -> Result<Outcome, Failure> {
        let mut upload = self.at_rest(&id, &turn).await?;
        if upload.plan.is_concatenation() {
            return Err(Failure::of(Rejection::FinalUpload, upload));
        }
        let stops = self.stops(&turn);
        let (from, now) = (addition.append.offset, self.clock.now());
        let told = upload.told.is_some_and(|told| told.counts(from, now));
        let progress = match &upload.state {
            UploadState::Open(progress) => progress.clone(),
            UploadState::Complete(completed) => {
                let completed = completed.clone();
                let append = &addition.append;
                let finishes = append.completion != Completion::Later;
                let (rejection, may_repeat) = match completed.complete.admit(append) {
                    Ok(Repeated::Answered) => return Ok(Outcome::Complete(upload, completed)),
                    Ok(Repeated::IfEmpty(rejection)) => (rejection, true),
                    Err(rejection) => (rejection, told && finishes),
                };
                let here = (&upload, &completed);
                let rest = (append.offset, Extent::ToTheEnd);
                return match may_repeat && self.repeats(here, rest, body, &stops).await? {
                    true => Ok(Outcome::Complete(upload, completed)),
                    false => Err(Failure::of(rejection, upload)),
                };
            }
            UploadState::Gone(gone) => return Err(Error::Gone(*gone).into()),
        };
        let mut limits = self.config.limits();
        if replays == Replays::OfCreation {
            limits.min_append_size = None;
        }
        let admitted = progress.open.admit(
            &addition.append,
            &limits,
            told || replays != Replays::Refused,
        );
        let admission = match admitted {
            Ok(admission) => admission,
            Err(rejection) => return Err(Failure::of(rejection, upload)),
        };
        self.claim(&mut upload, &turn).await?;
        let hasher = match self.hasher(&mut upload, &progress, &stops).await {
            Ok(hasher) => hasher,
            Err(error) => {
                self.let_go(&mut upload).await;
                return Err(error.into());
            }
        };
        let mut stated = addition.digests;
        stated.content.retain(|stated| !is_stale(stated, &upload));
        let request = Request {
            admission,
            body_length: addition.append.body_length,
            stated,
            resumable: true,
            told,
        };
        let taken = self
            .take_in(&mut upload, request, hasher, body, &stops, sink)
            .await;
        self.let_go(&mut upload).await;
        drop(turn);
        taken.map_err(|error| Failure::of(error, upload))
    }

    /// Makes this request, whose turn it is, the upload's holder; unless another node has changed the upload, or has told its
    /// client an offset, since this request looked at it. Then there may be a newer holder, which goes on.
    pub(super) async fn claim(&self, upload: &mut Upload, turn: &Turn) -> Result<(), Error> {
        turn.holds(upload.epoch + 1);
        let claimed = self
            .metadata
            .claim_upload(&upload.id, Some(self.node), Seen::of(upload))
            .await
            .map_err(Error::metadata("claim an upload"))?;
        match claimed {
            Some(claimed) if claimed.holder == Some(self.node) && claimed.epoch > upload.epoch => {
                *upload = claimed;
                Ok(())
            }
            Some(_) | None => Err(Error::Superseded),
        }
    }

    /// Takes in a body: from the admission to the recorded end. `hasher` has seen what the upload has; `upload` is brought up to
    /// date on the way.
    async fn take_in(
        &self,
        upload: &mut Upload,
        request: Request,
        hasher: Hasher,
        body: UploadBody,
        stops: &Stops,
        sink: Arc<dyn ProgressSink>,
    ) -> Result<Outcome, Error> {
        let Request {
            admission,
            body_length,
            mut stated,
            resumable,
            told,
        } = request;
        let UploadState::Open(before) = upload.state.clone() else {
            return Err(Error::Corrupt {
                what: "an upload's state".to_owned(),
            });
        };
        let mut source = Source::new(&self.buffers, body_length, admission.cap);
        if admission.overlap > 0 {
            // Had a crash left it published, it is staged again.
            drop(
                self.stage(upload, before.open.offset, admission.length)
                    .await?,
            );
            let stored = self
                .blobs
                .read_staged(&upload.blob, admission.start..before.open.offset)
                .await
                .map_err(Error::blob("read a staged blob"))?;
            source.replay = Some(Replay::new(stored, admission.overlap, before.open.offset));
        }
        let staged = self
            .stage(upload, before.open.offset, admission.length)
            .await?;
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
        let mut ingest = Ingest {
            staged,
            offset: before.open.offset,
            digests: Digests::new(hasher, body_algorithms(&stated)),
        };
        // Bytes under a digest of their own count only when it has been verified.
        let checkpoint: Option<&mut dyn Checkpoint> =
            match resumable && !ingest.digests.runs_for_body() {
                true => Some(&mut recorder),
                false => None,
            };
        let ingested = match ingest.run(body, source, stops, rhythm, checkpoint).await {
            Ok(ingested) => ingested,
            Err(error) => {
                drop(ingest);
                self.drop_unrecorded(recorder.upload, &error).await;
                return Err(error);
            }
        };

        let ended = Ended {
            admission,
            ingested: &ingested,
            offset: ingest.offset,
            digests: &ingest.digests,
            stated: &stated.content,
            is_part: recorder.upload.plan.is_part(),
        };
        let verdict = ended.verdict();
        stated.representation.extend(ingested.stated.representation);
        let whole = stated_of_whole(&recorder.upload.plan, stated.representation);
        // It is recorded by its completion, unless that takes a while.
        let recorded_before = match &verdict {
            Verdict::Complete(complete) if recorder.upload.path().is_none() => {
                // By this, other nodes know how long they have to wait.
                recorder.length = Some(complete.length);
                Some(Hold::Keep)
            }
            Verdict::Complete(_) => takes_reading_back(&whole).then_some(Hold::Keep),
            Verdict::Partial if told => Some(Hold::Settle),
            Verdict::Partial | Verdict::Kept(_) => Some(Hold::Release),
            Verdict::Discarded(_) | Verdict::Invalid(_) => None,
        };
        let staged = match recorded_before {
            Some(hold) => {
                let closed = ingest.staged.close().await;
                closed.map_err(Error::blob("sync a staged blob"))?;
                if resumable {
                    let hold = match hold {
                        // Whose client has sent a newer request does not wait for this answer, and may go on from what it was told.
                        Hold::Settle if stops.overtaken.is_cancelled() => Hold::Release,
                        hold => hold,
                    };
                    let (offset, digests) = (ingest.offset, &ingest.digests);
                    recorder.record(offset, digests, hold).await?;
                }
                None
            }
            None => Some(ingest.staged),
        };
        match verdict {
            Verdict::Complete(complete) => {
                let whole = Whole {
                    complete,
                    digests: ingest.digests,
                    stated: whole,
                    staged,
                };
                self.finish(upload, whole, resumable, stops).await
            }
            Verdict::Partial => Ok(Outcome::Partial(upload.clone())),
            Verdict::Invalid(error) => {
                if resumable {
                    self.invalidate(upload).await?;
                }
                Err(error)
            }
            Verdict::Kept(error) | Verdict::Discarded(error) => Err(error),
        }
    }

    /// Gives back the room of bytes that could not be recorded: on a full disk, everything else waits for it.
    async fn drop_unrecorded(&self, upload: &mut Upload, error: &Error) {
        let (Error::Full, UploadState::Open(recorded)) = (error, &upload.state) else {
            return;
        };
        let length = recorded.open.length;
        let recorded = recorded.open.offset;
        if let Err(error) = self.stage(upload, recorded, length).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "unrecorded bytes stay on a full disk"
            );
        }
    }

    /// Opens an upload's bytes to be written on from `offset`, below which all are recorded, to `length` where that is known. Bytes that are lost do not come back:
    /// without them the upload is given up, so that its client begins anew.
    pub(super) async fn stage(
        &self,
        upload: &mut Upload,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Box<dyn StagedBlob>, Error> {
        let growth = Growth {
            offset,
            epoch: upload.epoch,
            length,
        };
        let error = match self.blobs.stage(&upload.blob, growth).await {
            Err(error @ BlobError::Missing { .. }) => error,
            staged => return staged.map_err(Error::blob("open a staged blob")),
        };
        self.invalidate(upload).await?;
        match upload.state {
            UploadState::Gone(gone) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    upload = ?upload.id,
                    offset,
                    "recorded bytes are lost, and with them their upload"
                );
                Err(Error::Gone(gone))
            }
            // Whoever holds it now will see.
            UploadState::Open(_) | UploadState::Complete(_) => Err(Error::Superseded),
        }
    }
}

/// What a request that brings bytes asks for, once it is admitted.
#[derive(Debug)]
struct Request {
    admission: Admission,
    body_length: Option<u64>,
    stated: StatedDigests,
    resumable: bool,
    /// Whether it begins where its client was told to, which its answer settles. If it completes the upload, it may be its client's
    /// older request.
    told: bool,
}

/// Whether an append may begin by repeating bytes that the upload has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replays {
    /// They are compared.
    Allowed,
    /// They are compared: the request is a creation that comes again.
    OfCreation,
    /// That is an offset mismatch.
    Refused,
}

/// Whether a client that was not told of its upload can find it.
fn can_be_found(plan: &Plan) -> bool {
    plan.idempotency_key.is_some() || plan.client_ref.is_some()
}

/// Whether a creation is over once its upload is recorded: nothing comes with it, nor does that complete it.
fn brings_nothing(creation: &Creation) -> bool {
    let create = &creation.create;
    let completes = match create.completion {
        Completion::WithThisBody => true,
        Completion::Later => false,
        Completion::AtLength => create.length == Some(0),
    };
    create.body_length == Some(0) && creation.parts.is_none() && !completes
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
        self.record(offset, digests, Hold::Keep).await?;
        self.sink.progressed(offset);
        Ok(())
    }
}

impl Recorder<'_> {
    /// Records what is durable, unless that would be no news.
    async fn record(&mut self, offset: u64, digests: &Digests, hold: Hold) -> Result<(), Error> {
        let progress = Progress {
            open: Open {
                offset,
                length: self.length,
            },
            hash: digests.whole_state(),
        };
        let is_recorded = self.upload.state == UploadState::Open(progress.clone());
        let changes_hold = match hold {
            Hold::Keep => false,
            Hold::Release => self.upload.holder.is_some(),
            Hold::Settle => true,
        };
        if is_recorded && !changes_hold {
            return Ok(());
        }
        let shared = self.shared;
        let expires_at = shared.clock.now().plus(shared.config.lifetime);
        let guarded = shared
            .metadata
            .record_progress(
                &self.upload.id,
                self.upload.epoch,
                &progress,
                expires_at,
                hold,
            )
            .await
            .map_err(Error::metadata("record an upload's progress"))?;
        if guarded == Guarded::Fenced {
            self.upload.holder = None;
            return Err(Error::Superseded);
        }
        if hold != Hold::Keep {
            self.upload.holder = None;
        }
        if hold == Hold::Settle {
            self.upload.told = None;
        }
        self.upload.state = UploadState::Open(progress);
        self.upload.expires_at = expires_at;
        Ok(())
    }
}
