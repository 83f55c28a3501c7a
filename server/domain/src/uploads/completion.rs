//! The end of an upload: verified, published and recorded, or given up.

use futures::StreamExt as _;
use protocol::digest::{self, Algorithm, Stated};
use protocol::rejection::Rejection;
use protocol::upload::Complete;

use super::{Outcome, Shared};
use crate::digest::{Digests, Hasher, Sha256Digest};
use crate::ingest::Stops;
use crate::metadata_store::{Guarded, Written};
use crate::upload::{Completed, Gone, Plan, Progress, Target, Upload, UploadState};
use crate::{BlobKey, DraftId, Error};

impl Shared {
    /// Completes an upload that has come to its length but was stopped before it could be completed.
    pub(super) async fn complete_if_reached(
        &self,
        upload: &mut Upload,
        stops: &Stops,
    ) -> Result<(), Error> {
        let progress = match &upload.state {
            UploadState::Open(progress) => progress.clone(),
            UploadState::Complete(_) | UploadState::Gone(_) => return Ok(()),
        };
        let whole = progress.open.length == Some(progress.open.offset);
        if !whole || upload.plan.is_part() || upload.plan.is_concatenation() {
            return Ok(());
        }
        self.claim(upload).await?;
        let hasher = self.hasher(upload, &progress, stops).await?;
        let stated = stated_of_whole(&upload.plan, Vec::new());
        let complete = Complete {
            length: progress.open.offset,
        };
        // A length of nothing may have been recorded before its blob was made.
        drop(self.stage(upload, complete.length).await?);
        let digests = Digests::new(hasher, []);
        self.finish(upload, complete, digests, &stated, true, stops)
            .await
            .map(drop)
    }

    /// Verifies, publishes and records a whole upload, of which the digests in `stated` are stated.
    pub(super) async fn finish(
        &self,
        upload: &mut Upload,
        complete: Complete,
        digests: Digests,
        stated: &[Stated],
        resumable: bool,
        stops: &Stops,
    ) -> Result<Outcome, Error> {
        let sha256 = digests.into_whole().finish();
        let verified = self.verify_whole(&upload.blob, complete, &sha256, stated, stops);
        if let Err(rejection) = verified.await? {
            self.abandon(upload, resumable).await?;
            return Err(rejection.into());
        }
        let version = match self.make_use_of(upload, complete).await {
            Ok(version) => version,
            Err(error @ (Error::Pack(_) | Error::NotFound { .. })) => {
                self.abandon(upload, resumable).await?;
                return Err(error);
            }
            Err(error) => return Err(error),
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
            // What was in the archive is kept elsewhere.
            self.discard(&upload.blob).await;
        }
        if !resumable {
            return Ok(Outcome::Stored(upload.product(&completed)));
        }
        upload.state = UploadState::Complete(completed.clone());
        Ok(Outcome::Complete(upload.clone(), completed))
    }

    /// Publishes the bytes of a whole upload as what they are for. The number of the version, where they are one.
    async fn make_use_of(&self, upload: &Upload, complete: Complete) -> Result<Option<u64>, Error> {
        let archive = async || {
            self.blobs
                .read_staged(&upload.blob, 0..complete.length)
                .await
                .map_err(Error::blob("read a staged blob"))
        };
        match &upload.plan.target {
            Target::File(_) => {
                self.blobs
                    .publish(&upload.blob, complete.length)
                    .await
                    .map_err(Error::blob("publish a blob"))?;
                Ok(None)
            }
            Target::Draft { pack, draft } => {
                self.packs
                    .shared
                    .fill(pack, draft, archive().await?)
                    .await?;
                Ok(None)
            }
            Target::Pack(pack) => {
                let draft = DraftId::of_upload(&upload.id);
                let version = self
                    .packs
                    .shared
                    .publish_archive(pack, draft, archive().await?);
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
        if resumable {
            let kept_until = completed.at.plus(self.config.lifetime);
            upload.expires_at = kept_until;
            return self
                .metadata
                .complete_upload(upload, completed, kept_until)
                .await
                .map_err(Error::metadata("complete an upload"));
        }
        match upload.file(completed) {
            Some(file) => self
                .metadata
                .put_file(&file, &upload.plan.condition)
                .await
                .map_err(Error::metadata("record a file")),
            None => Ok(Written::Created),
        }
    }

    /// Compares the whole with the digests that were stated of it. SHA-256 is at hand; any other is computed by reading back.
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
    pub(super) async fn invalidate(&self, upload: &mut Upload) -> Result<(), Error> {
        let kept_until = self.clock.now().plus(self.config.lifetime);
        let ended = self
            .metadata
            .end_upload(&upload.id, Some(upload.epoch), Gone::Invalid, kept_until)
            .await
            .map_err(Error::metadata("invalidate an upload"))?;
        if ended == Guarded::Done {
            upload.state = UploadState::Gone(Gone::Invalid);
            self.discard(&upload.blob).await;
        }
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
    pub(super) async fn discard(&self, blob: &BlobKey) {
        if let Err(error) = self.blobs.discard(blob).await {
            tracing::warn!(%blob, %error, "staged bytes are left to the janitor");
        }
    }

    /// The running hash of what an upload has; computed anew where the stored state cannot be used.
    pub(super) async fn hasher(
        &self,
        upload: &mut Upload,
        progress: &Progress,
        stops: &Stops,
    ) -> Result<Hasher, Error> {
        if let Some(hasher) = Hasher::resume(&progress.hash) {
            return Ok(hasher);
        }
        // If a crash came after it was published, it is staged again.
        drop(self.stage(upload, progress.open.offset).await?);
        let mut digests = Digests::new(Hasher::new(), []);
        self.read_back(&upload.blob, progress.open.offset, &mut digests, stops)
            .await?;
        Ok(digests.into_whole())
    }

    /// Has `digests` see the bytes below `length`, until a sign to stop.
    async fn read_back(
        &self,
        blob: &BlobKey,
        length: u64,
        digests: &mut Digests,
        stops: &Stops,
    ) -> Result<(), Error> {
        let mut stored = self
            .blobs
            .read_staged(blob, 0..length)
            .await
            .map_err(Error::blob("read a staged blob"))?;
        loop {
            let bytes = tokio::select! {
                biased;
                error = stops.given() => return Err(error),
                // Cancel safe: nobody reads on.
                bytes = stored.next() => bytes,
            };
            let Some(bytes) = bytes else {
                return Ok(());
            };
            let bytes = bytes.map_err(Error::blob("read a staged blob"))?;
            *digests = std::mem::take(digests).updated_elsewhere(bytes).await;
        }
    }
}

/// What is stated of a whole: at its creation, and by the request that completes it.
pub(super) fn stated_of_whole(plan: &Plan, completing: Vec<Stated>) -> Vec<Stated> {
    let created = plan.repr_digest.as_deref().unwrap_or_default();
    let mut stated = digest::parse_representation(created);
    stated.extend(completing);
    stated
}

/// Whether one of these digests of a whole can be verified only by reading it back, which takes a while.
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
