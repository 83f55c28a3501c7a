//! Receiving one request's body: from its admission to the recorded result.
//!
//! An [`Intake`] is opened, and runs until the body ends. The [`Stored`] result is then settled:
//! one [`Verdict`] decides what the body's end means, one [`LastRecord`] what is recorded before
//! the verdict is carried out.

use std::sync::Arc;

use async_trait::async_trait;
use protocol::digest::{Algorithm, StatedDigests};
use protocol::upload::{Admission, Open};

use super::completion::{Whole, stated_of_whole, takes_reading_back};
use super::verdict::{Aftermath, Ended, LastRecord, Verdict};
use super::{Outcome, ProgressSink, Shared};
use crate::Error;
use crate::body::UploadBody;
use crate::digest::{Digests, Hasher};
use crate::ingest::{Checkpoint, Ingest, Ingested, Replay, Rhythm, Source, Stops};
use crate::metadata_store::{Guarded, Hold};
use crate::upload::{Progress, Upload, UploadState};

/// An admitted request that brings bytes.
#[derive(Debug)]
pub(super) struct Request {
    /// The rules by which its bytes are admitted.
    pub(super) admission: Admission,
    /// Length of its body, if known.
    pub(super) body_length: Option<u64>,
    /// Digests in its header section.
    pub(super) stated: StatedDigests,
    /// True if there is an upload resource.
    pub(super) resumable: bool,
    /// True if it begins at the offset that was reported to its client, so that its response
    /// settles the offset. If it completes the upload, it may be its client's older request.
    pub(super) begins_as_reported: bool,
}

impl Shared {
    /// Receives a body, from its admission to the recorded end. `hasher` has hashed the upload's
    /// bytes so far; `upload` is kept up to date.
    pub(super) async fn take_in(
        &self,
        upload: &mut Upload,
        request: Request,
        hasher: Hasher,
        body: UploadBody,
        stops: &Stops,
        sink: Arc<dyn ProgressSink>,
    ) -> Result<Outcome, Error> {
        let recorder = Recorder {
            shared: self,
            upload,
            length: request.admission.length,
            sink,
        };
        let intake = Intake::open(recorder, request, hasher, stops).await?;
        let stored = intake.run(body).await?;
        stored.settle().await
    }
}

/// A request that is ready for its body.
#[derive(Debug)]
struct Intake<'a> {
    request: Request,
    stops: &'a Stops,
    recorder: Recorder<'a>,
    ingest: Ingest,
    source: Source,
}

/// A request whose body has ended. The received bytes are written, but not synced yet.
#[derive(Debug)]
struct Stored<'a> {
    request: Request,
    stops: &'a Stops,
    recorder: Recorder<'a>,
    ingest: Ingest,
    ingested: Ingested,
}

impl<'a> Intake<'a> {
    /// Opens the upload's blob at the offset where the body continues.
    async fn open(
        mut recorder: Recorder<'a>,
        request: Request,
        hasher: Hasher,
        stops: &'a Stops,
    ) -> Result<Self, Error> {
        let Recorder { shared, upload, .. } = &mut recorder;
        let UploadState::Open(Progress { open, .. }) = upload.state else {
            return Err(Error::Corrupt {
                what: "an upload's state".to_owned(),
            });
        };
        let Request {
            admission,
            body_length,
            ..
        } = request;
        let mut source = Source::new(&shared.buffers, body_length, admission.cap);
        if admission.overlap > 0 {
            // A blob that a crash left published is staged again.
            drop(shared.stage(upload, open.offset, admission.length).await?);
            let stored = shared
                .blobs
                .read_staged(&upload.blob, admission.start..open.offset)
                .await
                .map_err(Error::blob("read a staged blob"))?;
            source.replay = Some(Replay::new(stored, admission.overlap, open.offset));
        }
        let staged = shared.stage(upload, open.offset, admission.length).await?;
        let ingest = Ingest {
            staged,
            offset: open.offset,
            digests: Digests::new(hasher, body_algorithms(&request.stated)),
        };
        Ok(Self {
            request,
            stops,
            recorder,
            ingest,
            source,
        })
    }

    /// Stores the body, with checkpoints in between if its bytes count before its end.
    async fn run(self, body: UploadBody) -> Result<Stored<'a>, Error> {
        let Self {
            request,
            stops,
            mut recorder,
            mut ingest,
            source,
        } = self;
        let config = &recorder.shared.config;
        let rhythm = Rhythm {
            bytes: config.checkpoint_bytes.as_u64(),
            interval: config.checkpoint_interval,
        };
        // Bytes under a digest of their own count only once it has been verified.
        let checkpoint: Option<&mut dyn Checkpoint> =
            match request.resumable && !ingest.digests.runs_for_body() {
                true => Some(&mut recorder),
                false => None,
            };
        match ingest.run(body, source, stops, rhythm, checkpoint).await {
            Ok(ingested) => Ok(Stored {
                request,
                stops,
                recorder,
                ingest,
                ingested,
            }),
            Err(error) => {
                drop(ingest);
                let Recorder { shared, upload, .. } = recorder;
                shared.drop_unrecorded(upload, &error).await;
                Err(error)
            }
        }
    }
}

impl Stored<'_> {
    /// Decides what the body's end means, records that, and carries it out.
    async fn settle(self) -> Result<Outcome, Error> {
        let Self {
            request,
            stops,
            mut recorder,
            ingest,
            ingested,
        } = self;
        let Request {
            admission,
            mut stated,
            resumable,
            begins_as_reported,
            ..
        } = request;
        let plan = &recorder.upload.plan;
        let ended = Ended {
            admission,
            ingested: &ingested,
            offset: ingest.offset,
            digests: &ingest.digests,
            stated: &stated.content,
            is_part: plan.is_part(),
        };
        let verdict = ended.verdict();
        stated.representation.extend(ingested.stated.representation);
        let whole = stated_of_whole(plan, stated.representation);
        let aftermath = Aftermath {
            unpacks: recorder.upload.path().is_none(),
            reads_back: takes_reading_back(&whole),
            begins_as_reported,
        };
        let Ingest {
            staged,
            offset,
            digests,
        } = ingest;
        let staged = match LastRecord::before(&verdict, admission.length, aftermath) {
            None => Some(staged),
            Some(last) => {
                let closed = staged.close().await;
                closed.map_err(Error::blob("sync a staged blob"))?;
                if resumable {
                    let LastRecord { length, hold } = match stops.overtaken.is_cancelled() {
                        true => last.overtaken(),
                        false => last,
                    };
                    recorder.length = length;
                    recorder.record(offset, &digests, hold).await?;
                }
                None
            }
        };
        let Recorder { shared, upload, .. } = recorder;
        match verdict {
            Verdict::Complete(complete) => {
                let whole = Whole {
                    complete,
                    digests,
                    stated: whole,
                    staged,
                };
                shared.finish(upload, whole, resumable, stops).await
            }
            Verdict::Partial => Ok(Outcome::Partial(upload.clone())),
            Verdict::Invalid(error) => {
                if resumable {
                    shared.invalidate(upload).await?;
                }
                Err(error)
            }
            Verdict::Kept(error) | Verdict::Discarded(error) => Err(error),
        }
    }
}

/// Lists the algorithms to compute over a body: of the digests that are stated already, and of
/// those that its trailers may state.
fn body_algorithms(stated: &StatedDigests) -> impl Iterator<Item = Algorithm> {
    let content = stated.content.iter().map(|stated| stated.algorithm);
    content.chain(stated.trailing.iter().copied())
}

/// Records and reports checkpoints of one request.
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
    /// Records the durable progress, unless the record has it already.
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
            self.upload.reported = None;
        }
        self.upload.state = UploadState::Open(progress);
        self.upload.expires_at = expires_at;
        Ok(())
    }
}
