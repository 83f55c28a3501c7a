//! The end of an upload: verified, published and recorded, or given up.

use futures::StreamExt as _;
use protocol::digest::{self, Algorithm, Stated};
use protocol::rejection::Rejection;
use protocol::upload::Complete;

use super::{Outcome, Shared};
use crate::digest::{Digests, Hasher, Sha256Digest};
use crate::metadata_store::{Guarded, Written};
use crate::upload::{Completed, Gone, Progress, Upload, UploadState};
use crate::{BlobKey, Error};

impl Shared {
    /// Completes an upload that has come to its length but was stopped before it could be completed.
    pub(super) async fn complete_if_reached(&self, upload: &mut Upload) -> Result<(), Error> {
        let progress = match &upload.state {
            UploadState::Open(progress) => progress.clone(),
            UploadState::Complete(_) | UploadState::Gone(_) => return Ok(()),
        };
        let whole = progress.open.length == Some(progress.open.offset);
        if !whole || upload.plan.is_part() || upload.plan.is_concatenation() {
            return Ok(());
        }
        self.claim(upload).await?;
        let hasher = self.hasher(upload, &progress).await?;
        let complete = Complete {
            length: progress.open.offset,
        };
        // A length of nothing may have been recorded before its blob was made.
        drop(self.stage(upload, complete.length).await?);
        self.finish(upload, complete, Digests::new(hasher, []), true)
            .await
            .map(drop)
    }

    /// Verifies, publishes and records a whole upload.
    pub(super) async fn finish(
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
        upload: &Upload,
        progress: &Progress,
    ) -> Result<Hasher, Error> {
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
}

pub(super) fn mismatch(stated: &Stated) -> Rejection {
    Rejection::DigestMismatch {
        field: stated.field,
    }
}
