//! Bytes of uploads that are not published yet: opened, read back, dropped.

use futures::StreamExt as _;
use protocol::upload::Open;

use super::Shared;
use crate::blob_store::{BlobError, BlobStream, Growth, StagedBlob};
use crate::digest::{Digests, Hasher};
use crate::ingest::Stops;
use crate::upload::{Progress, Upload, UploadState};
use crate::{BlobKey, Error};

impl Shared {
    /// Opens an upload's blob for writing at `offset`, below which all bytes are recorded, up to
    /// `length` if known. Lost bytes cannot be recovered: an upload without them is given up, so
    /// that its client starts again.
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
            // The request with the present claim will notice.
            UploadState::Open(_) | UploadState::Complete(_) => Err(Error::Superseded),
        }
    }

    /// Frees the space of bytes that could not be recorded: on a full disk, all other work waits
    /// for it.
    pub(super) async fn drop_unrecorded(&self, upload: &mut Upload, error: &Error) {
        let (Error::Full, UploadState::Open(recorded)) = (error, &upload.state) else {
            return;
        };
        let Open { offset, length } = recorded.open;
        if let Err(error) = self.stage(upload, offset, length).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "unrecorded bytes stay on a full disk"
            );
        }
    }

    /// Deletes a published blob that nobody will read. If that fails now, the janitor will find the
    /// blob.
    pub(super) async fn delete(&self, blob: &BlobKey) {
        if let Err(error) = self.blobs.delete(blob).await {
            tracing::warn!(%blob, %error, "an unwanted blob is left to the janitor");
        }
    }

    /// Discards a staged blob that nobody will need. If that fails now, the janitor will find the
    /// blob.
    pub(super) async fn discard(&self, blob: &BlobKey) {
        if let Err(error) = self.blobs.discard(blob).await {
            tracing::warn!(%blob, %error, "staged bytes are left to the janitor");
        }
    }

    /// Returns the running hash of an upload's bytes, computed anew if the stored state cannot be
    /// used.
    pub(super) async fn hasher(
        &self,
        upload: &mut Upload,
        progress: &Progress,
        stops: &Stops,
    ) -> Result<Hasher, Error> {
        if let Some(hasher) = Hasher::resume(&progress.hash) {
            return Ok(hasher);
        }
        // A blob that was published before a crash is staged again.
        let Open { offset, length } = progress.open;
        drop(self.stage(upload, offset, length).await?);
        let mut digests = Digests::new(Hasher::new(), []);
        self.read_back(&upload.blob, offset, &mut digests, stops)
            .await?;
        Ok(digests.into_whole())
    }

    /// Feeds the staged bytes below `length` to `digests`, until a signal to stop.
    pub(super) async fn read_back(
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
        digest_of(&mut stored, digests, stops).await
    }
}

/// Feeds all stored bytes to `digests`, until a signal to stop.
pub(super) async fn digest_of(
    stored: &mut BlobStream,
    digests: &mut Digests,
    stops: &Stops,
) -> Result<(), Error> {
    loop {
        let bytes = tokio::select! {
            biased;
            error = stops.given() => return Err(error),
            // Cancel safe: after an error, the stream is not read further.
            bytes = stored.next() => bytes,
        };
        let Some(bytes) = bytes else {
            return Ok(());
        };
        let bytes = bytes.map_err(Error::blob("read stored bytes"))?;
        *digests = std::mem::take(digests).updated(bytes).await;
    }
}
