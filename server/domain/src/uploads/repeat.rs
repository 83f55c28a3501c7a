//! An append whose upload turns out to be complete.
//!
//! A request that its client had given up may arrive after all and complete the upload, when the client was told an offset already
//! and sends the rest once more ([`Told`](crate::upload::Told)). That repeats what the upload has, so it has the same answer.

use futures::StreamExt as _;
use protocol::upload::{Append, Completion};

use super::Shared;
use crate::Error;
use crate::blob_store::BlobError;
use crate::digest::Digests;
use crate::ingest::{BodyPart, Replay, Stops, UploadBody};
use crate::upload::{Completed, Upload};

impl Shared {
    /// Whether `append` brings what the completed upload has from its offset on, to the end. Nothing is stored or published by it,
    /// so the digests that it states are not compared. `false` also where the bytes are gone by now.
    ///
    /// # Errors
    /// All that can befall a body, and the blob store's.
    ///
    /// # Cancel safety
    /// May be dropped anywhere.
    pub(super) async fn repeats_the_end(
        &self,
        (upload, completed): (&Upload, &Completed),
        append: &Append,
        mut body: UploadBody,
        stops: &Stops,
    ) -> Result<bool, Error> {
        let length = completed.complete.length;
        if append.completion == Completion::Later {
            return Ok(false);
        }
        let Some(overlap) = length.checked_sub(append.offset) else {
            return Ok(false);
        };
        let blob = match self.blobs.open(&upload.blob, length).await {
            Err(BlobError::Missing { .. }) => return Ok(false),
            blob => blob.map_err(Error::blob("open a blob"))?,
        };
        let mut replay = Replay::new(blob.read(append.offset..length), overlap, length);
        loop {
            let part = tokio::select! {
                biased;
                error = stops.given() => return Err(error),
                // Cancel safe: nobody reads on.
                part = body.next() => part,
            };
            let bytes = match part.transpose()? {
                Some(BodyPart::Data(bytes)) => bytes,
                Some(BodyPart::Digests(_)) => continue,
                None => return Ok(replay.is_over()),
            };
            match replay.compare(bytes, &mut Digests::default()).await {
                Ok(rest) if rest.is_empty() => {}
                Ok(_) | Err(Error::Rejected(_)) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}
