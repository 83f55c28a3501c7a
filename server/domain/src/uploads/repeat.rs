//! Requests that repeat bytes that an upload already has.
//!
//! Two kinds of request may arrive again after they have taken effect. An append that its client
//! had given up may complete the upload late, after the client got an older offset and sends the
//! rest again (see the reported offset of [`Upload`]). And a creation may be repeated with its
//! `Idempotency-Key`. Either gets the original response if it is the same request, and the same
//! request brings the same bytes:
//!
//! - A request whose header section contradicts the upload (target, type, length, digest) is
//!   refused before a byte is read.
//! - The received bytes are compared with the upload's: by their hash if the upload is complete,
//!   one by one if it is open ([`Replay`](crate::ingest::Replay)). If they differ, the request is
//!   refused and changes nothing.
//! - A creation without bytes requests the existing upload; there is nothing to compare.
//! - The client does not get the upload's URL (104) before all stored bytes were compared: if its
//!   connection was cut then, it would resume with other bytes.
//! - Once the bytes of an open upload are repeated, the body continues where the upload ends.

use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;
use protocol::digest::StatedDigests;
use protocol::rejection::Rejection;
use protocol::upload::{Append, Completion, Create, Overrun, Repeat};

use super::staging::digest_of;
use super::{Addition, Failure, Outcome, ProgressSink, Replays, Shared};
use crate::Error;
use crate::blob_store::BlobError;
use crate::body::{BodyPart, UploadBody};
use crate::digest::Digests;
use crate::ingest::Stops;
use crate::upload::{Completed, Plan, Upload, UploadState};

/// The part of an upload's bytes from an offset on that a body must repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// All bytes to the end.
    ToTheEnd,
    /// Any number of bytes.
    Beginning,
}

/// The properties of two creations that must be equal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Compared {
    pub(super) target: bool,
    pub(super) description: bool,
}

/// Returns true if a creation requests the upload that an earlier one with the same key created.
pub(super) fn is_repeat(asked: &Plan, existing: &Plan, compared: Compared) -> bool {
    (!compared.target || asked.target == existing.target)
        && (!compared.description || asked.description == existing.description)
        && asked.repr_digest == existing.repr_digest
        && asked.tus_concat == existing.tus_concat
}

/// Returns true if the stated lengths of a creation contradict the upload that it requests.
fn contradicts(create: &Create, upload: &Upload) -> bool {
    let length = match &upload.state {
        UploadState::Open(progress) => progress.open.length,
        UploadState::Complete(completed) => Some(completed.complete.length),
        UploadState::Gone(_) => None,
    };
    let whole = match create.completion {
        Completion::WithThisBody => create.body_length,
        Completion::Later | Completion::AtLength => None,
    };
    let differs = |stated: Option<u64>| {
        stated
            .zip(length)
            .is_some_and(|(stated, length)| stated != length)
    };
    let exceeds = create
        .body_length
        .zip(length)
        .is_some_and(|(body, length)| body > length);
    differs(create.length) || differs(whole) || exceeds
}

impl Shared {
    /// Responds to a creation that repeats an earlier one with the same plan.
    pub(super) async fn found_again(
        &self,
        upload: Upload,
        (create, digests): (Create, StatedDigests),
        body: UploadBody,
        sink: Arc<dyn ProgressSink>,
    ) -> Result<Outcome, Failure> {
        let upload = self.alive(Some(upload))?;
        let is_concatenation = upload.plan.is_concatenation();
        if !is_concatenation && contradicts(&create, &upload) {
            return Err(Rejection::KeyReused.into());
        }
        let brings = create.body_length != Some(0) || create.completion == Completion::WithThisBody;
        match &upload.state {
            UploadState::Complete(completed) if brings && !is_concatenation => {
                let extent = match create.completion {
                    Completion::WithThisBody => Extent::ToTheEnd,
                    Completion::Later | Completion::AtLength => Extent::Beginning,
                };
                let claim = self.wait_for_claim(upload.id).await?;
                let stops = self.stops(&claim);
                let is_same = self.repeats((&upload, completed), (0, extent), body, &stops);
                if !is_same.await? {
                    return Err(Rejection::KeyReused.into());
                }
                sink.created(&upload);
                Ok(Outcome::of(upload))
            }
            UploadState::Open(progress) if brings && !is_concatenation => {
                if progress.open.offset == 0 {
                    sink.created(&upload);
                }
                let sink = Arc::new(TellsLate {
                    sink,
                    untold: Mutex::new(Some(upload.clone())),
                });
                self.goes_on((upload, create, digests), body, sink).await
            }
            // A concatenation accepts no bytes from a client: nobody resumes at its offset, and
            // ending the request that builds it would mean giving it up.
            UploadState::Open(progress)
                if is_concatenation && progress.open.length != Some(progress.open.offset) =>
            {
                sink.created(&upload);
                Ok(Outcome::of(upload))
            }
            UploadState::Complete(_) => {
                sink.created(&upload);
                Ok(Outcome::of(upload))
            }
            UploadState::Open(_) | UploadState::Gone(_) => {
                sink.created(&upload);
                let claim = self.wait_for_claim(upload.id).await?;
                let standing = self.standing(&upload.id, &claim, create.completion);
                Ok(Outcome::of(standing.await?))
            }
        }
    }

    /// Appends the body of a repeated creation, which begins by repeating the upload's bytes.
    async fn goes_on(
        &self,
        (upload, create, digests): (Upload, Create, StatedDigests),
        body: UploadBody,
        sink: Arc<dyn ProgressSink>,
    ) -> Result<Outcome, Failure> {
        let append = Append {
            offset: 0,
            completion: create.completion,
            length: create.length,
            body_length: create.body_length,
            // A body that is too long belongs to another request, which must not harm this upload.
            overrun: Overrun::Discard,
            repeat: Repeat::Refused,
        };
        let addition = Addition { append, digests };
        let claim = self.wait_for_claim(upload.id).await?;
        let appended = self.append(claim, upload.id, addition, body, sink, Replays::OfCreation);
        appended.await.map_err(|failure| match failure.error {
            Error::Rejected(
                Rejection::OverlapMismatch { .. }
                | Rejection::InconsistentLength
                | Rejection::OverLength { .. }
                | Rejection::Completed,
            ) => Rejection::KeyReused.into(),
            _ => failure,
        })
    }

    /// Returns true if `body` repeats the bytes of the completed upload from an offset on. Stores
    /// and publishes nothing, so the digests that the body states are not verified. Returns false
    /// as well if the stored bytes are gone by now.
    ///
    /// # Errors
    /// Every failure of a body, and the blob store's.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub(super) async fn repeats(
        &self,
        (upload, completed): (&Upload, &Completed),
        (offset, extent): (u64, Extent),
        mut body: UploadBody,
        stops: &Stops,
    ) -> Result<bool, Error> {
        let length = completed.complete.length;
        let Some(most) = length.checked_sub(offset) else {
            return Ok(false);
        };
        let mut came = Digests::default();
        let mut received = 0;
        loop {
            let part = tokio::select! {
                biased;
                error = stops.given() => return Err(error),
                // Cancel safe: after an error, the body is not read further.
                part = body.next() => part,
            };
            match part.transpose()? {
                Some(BodyPart::Data(bytes)) => {
                    received += bytes.len() as u64;
                    if received > most {
                        return Ok(false);
                    }
                    came = came.updated(bytes).await;
                }
                Some(BodyPart::Digests(_)) => {}
                None => break,
            }
        }
        if received < most && extent == Extent::ToTheEnd {
            return Ok(false);
        }
        if received == 0 {
            return Ok(true);
        }
        let came = came.into_whole().finish();
        if received == length {
            return Ok(came == completed.sha256);
        }
        let blob = match self.blobs.open(&upload.blob, length).await {
            Err(BlobError::Missing { .. }) => return Ok(false),
            blob => blob.map_err(Error::blob("open a blob"))?,
        };
        let mut stored = blob.read(offset..offset + received);
        let mut digests = Digests::default();
        digest_of(&mut stored, &mut digests, stops).await?;
        Ok(came == digests.into_whole().finish())
    }
}

/// A sink that reports an upload once its first new byte is durable, and not before.
#[derive(Debug)]
struct TellsLate {
    sink: Arc<dyn ProgressSink>,
    untold: Mutex<Option<Upload>>,
}

impl ProgressSink for TellsLate {
    fn created(&self, _: &Upload) -> bool {
        false
    }

    fn progressed(&self, offset: u64) {
        let untold = self
            .untold
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(upload) = untold {
            self.sink.created(&upload);
        }
        self.sink.progressed(offset);
    }
}
