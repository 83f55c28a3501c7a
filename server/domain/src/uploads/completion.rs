//! The end of an upload: verified, published and recorded, or given up.

use protocol::digest::{self, Algorithm, Stated};
use protocol::rejection::Rejection;
use protocol::upload::Complete;

use super::{Outcome, Shared};
use crate::claims::Claim;
use crate::digest::{Digests, Hasher, Sha256Digest};
use crate::event::Event;
use crate::ingest::Stops;
use crate::metadata_store::{Guarded, Written};
use crate::packs::Publisher;
use crate::upload::{Completed, Gone, Plan, Target, Upload, UploadState};
use crate::{BlobKey, DraftId, Error, StagedBlob};

/// An upload that has all its bytes.
#[derive(Debug)]
pub(super) struct Whole {
    /// Its length.
    pub(super) complete: Complete,
    /// Digests of the bytes.
    pub(super) digests: Digests,
    /// Digests that clients stated for the entire upload.
    pub(super) stated: Vec<Stated>,
    /// The writer of the last bytes, unless it is closed.
    pub(super) staged: Option<Box<dyn StagedBlob>>,
}

impl Shared {
    /// Completes an upload that has reached its length but was interrupted before its completion.
    pub(super) async fn complete_if_reached(
        &self,
        upload: &mut Upload,
        claim: &Claim,
    ) -> Result<(), Error> {
        let progress = match &upload.state {
            UploadState::Open(progress) => progress.clone(),
            UploadState::Complete(_) | UploadState::Gone(_) => return Ok(()),
        };
        let whole = progress.open.length == Some(progress.open.offset);
        if !whole || upload.plan.is_part() {
            return Ok(());
        }
        let stops = &self.stops(claim);
        self.record_claim(upload, claim).await?;
        let hasher = self.hasher(upload, &progress, stops).await?;
        let complete = Complete {
            length: progress.open.offset,
        };
        // A length of zero may have been recorded before the blob was created.
        let staged = self
            .stage(upload, complete.length, Some(complete.length))
            .await?;
        let whole = Whole {
            complete,
            digests: Digests::new(hasher, []),
            stated: stated_of_whole(&upload.plan, Vec::new()),
            staged: Some(staged),
        };
        self.finish(upload, whole, true, stops).await.map(drop)
    }

    /// Verifies, publishes and records an upload that has all its bytes.
    pub(super) async fn finish(
        &self,
        upload: &mut Upload,
        whole: Whole,
        resumable: bool,
        stops: &Stops,
    ) -> Result<Outcome, Error> {
        let Whole {
            complete,
            digests,
            stated,
            mut staged,
        } = whole;
        let sha256 = digests.into_whole().finish();
        if takes_reading_back(&stated)
            && let Some(staged) = staged.take()
        {
            let closed = staged.close().await;
            closed.map_err(Error::blob("sync a staged blob"))?;
        }
        let verified = self.verify_whole(&upload.blob, complete, &sha256, &stated, stops);
        if let Err(rejection) = verified.await? {
            drop(staged);
            self.abandon(upload, resumable).await?;
            return Err(rejection.into());
        }
        let published = match staged {
            Some(staged) => staged.publish().await.map(drop),
            None => self.blobs.publish(&upload.blob, complete.length).await,
        };
        published.map_err(Error::blob("publish a blob"))?;
        let version = match self.make_use_of(upload, complete, stops).await {
            Ok(version) => version,
            Err(error @ (Error::Pack(_) | Error::NotFound { .. } | Error::PreconditionFailed)) => {
                self.abandon(upload, resumable).await?;
                return Err(error);
            }
            // The upload stays durable with all its bytes, and its client retries.
            Err(error) if resumable => return Err(error),
            Err(error) => {
                self.abandon(upload, resumable).await?;
                return Err(error);
            }
        };
        let mut completed = Completed {
            complete,
            sha256,
            at: self.clock.now(),
            replaced: false,
            version,
        };
        match self.record(upload, &completed, resumable).await? {
            Written::Created => {}
            Written::Replaced => completed.replaced = true,
            Written::ConditionFailed(_) => {
                self.abandon(upload, resumable).await?;
                return Err(Error::PreconditionFailed);
            }
            Written::Fenced => return Err(Error::Superseded),
        }
        if !matches!(upload.plan.target, Target::File(_)) {
            // The archive's contents are stored elsewhere.
            self.delete(&upload.blob).await;
        }
        if !resumable {
            return Ok(Outcome::Stored(upload.product(&completed)));
        }
        upload.holder = None;
        upload.state = UploadState::Complete(completed.clone());
        Ok(Outcome::Complete(upload.clone(), completed))
    }

    /// Unpacks the published blob of an upload, if its target needs that. Returns the number of the
    /// version, if it became one.
    async fn make_use_of(
        &self,
        upload: &Upload,
        complete: Complete,
        stops: &Stops,
    ) -> Result<Option<u64>, Error> {
        let archive = async || {
            let blob = self.blobs.open(&upload.blob, complete.length).await;
            let blob = blob.map_err(Error::blob("open a blob"))?;
            Ok::<_, Error>(blob.read(0..complete.length))
        };
        match &upload.plan.target {
            Target::File(_) => Ok(None),
            Target::Draft { pack, draft } => {
                self.packs
                    .shared
                    .fill(pack, draft, archive().await?, stops)
                    .await?;
                Ok(None)
            }
            Target::Pack(pack) => {
                let draft = DraftId::of_upload(&upload.id);
                let publisher = Publisher {
                    owner: upload.plan.owner.as_deref(),
                    condition: &upload.plan.condition,
                };
                let archive = archive().await?;
                let packs = &self.packs.shared;
                let version = packs.publish_archive(pack, draft, publisher, archive, stops);
                version.await.map(Some)
            }
        }
    }

    async fn record(
        &self,
        upload: &mut Upload,
        completed: &Completed,
        resumable: bool,
    ) -> Result<Written, Error> {
        let event = self.hooks.outbox.upload_completed(upload, completed);
        let written = self
            .record_with(upload, completed, resumable, event.as_ref())
            .await?;
        if let Written::Created | Written::Replaced = written {
            self.hooks.outbox.recorded();
        }
        Ok(written)
    }

    async fn record_with(
        &self,
        upload: &mut Upload,
        completed: &Completed,
        resumable: bool,
        event: Option<&Event>,
    ) -> Result<Written, Error> {
        if resumable {
            let kept_until = completed.at.plus(self.config.lifetime);
            upload.expires_at = kept_until;
            return self
                .metadata
                .complete_upload(upload, completed, kept_until, event)
                .await
                .map_err(Error::metadata("complete an upload"));
        }
        match upload.file(completed) {
            Some(file) => self
                .metadata
                .put_file(&file, &upload.plan.condition, event)
                .await
                .map_err(Error::metadata("record a file")),
            None => Ok(Written::Created),
        }
    }

    /// Compares the upload with the digests that were stated for it. SHA-256 is known; other
    /// digests are computed by reading the bytes back.
    async fn verify_whole(
        &self,
        blob: &BlobKey,
        complete: Complete,
        sha256: &Sha256Digest,
        stated: &[Stated],
        stops: &Stops,
    ) -> Result<Result<(), Rejection>, Error> {
        let mut others = Vec::new();
        for stated in stated {
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
        self.read_back(blob, complete.length, &mut digests, stops)
            .await?;
        let wrong = stated
            .iter()
            .find(|stated| stated.algorithm != Algorithm::Sha256 && !digests.agree(stated));
        Ok(wrong.map_or(Ok(()), |stated| Err(mismatch(stated))))
    }

    /// Ends an upload that can never be completed.
    pub(super) async fn invalidate(&self, upload: &mut Upload) -> Result<Guarded, Error> {
        let kept_until = self.clock.now().plus(self.config.lifetime);
        let ended = self
            .metadata
            .end_upload(&upload.id, Some(upload.epoch), Gone::Invalid, kept_until)
            .await
            .map_err(Error::metadata("invalidate an upload"))?;
        if ended == Guarded::Done {
            upload.holder = None;
            upload.state = UploadState::Gone(Gone::Invalid);
            self.discard(&upload.blob).await;
        }
        Ok(ended)
    }

    /// Ends an upload that was refused with all its bytes, published or not.
    async fn abandon(&self, upload: &mut Upload, resumable: bool) -> Result<(), Error> {
        if resumable && self.invalidate(upload).await? == Guarded::Fenced {
            // A newer claim may need the bytes.
            return Ok(());
        }
        self.discard(&upload.blob).await;
        self.delete(&upload.blob).await;
        Ok(())
    }
}

/// Collects the digests stated for the entire upload: at its creation, and by the request that
/// completes it.
pub(super) fn stated_of_whole(plan: &Plan, completing: Vec<Stated>) -> Vec<Stated> {
    let created = plan.repr_digest.as_deref().unwrap_or_default();
    let mut stated = digest::parse_representation(created);
    stated.extend(completing);
    stated
}

/// Returns true if one of these digests of the entire upload can be verified only by reading it
/// back, which takes a while.
pub(super) fn takes_reading_back(stated: &[Stated]) -> bool {
    stated
        .iter()
        .any(|stated| stated.algorithm != Algorithm::Sha256)
}

pub(super) fn mismatch(stated: &Stated) -> Rejection {
    Rejection::DigestMismatch {
        field: stated.field,
    }
}
