//! Requests that repeat what an upload has.
//!
//! Two kinds of request may come again when all is done. An append that its client had given up may complete the upload late, when
//! the client was told an offset already and sends the rest once more ([`Told`](crate::upload::Told)). And a creation comes again
//! with the `Idempotency-Key` of the first. Either has the first one's answer if it is the same request, and the same request brings
//! the same bytes:
//!
//! - What contradicts the upload by its head alone (target, type, length, digest) is refused before a byte is read.
//! - The bytes that come are compared with those that the upload has: by their hash where it is complete, one by one where it is
//!   open ([`Replay`](crate::ingest::Replay)). A difference is refused, and nothing is changed by it.
//! - A creation that brings nothing asks for the upload that the first one made; there is nothing to compare.
//! - Nobody is told the upload's URL (104) before what the upload has was compared: who is cut then would go on with other bytes.
//! - Once an open upload's bytes are repeated, the body goes on where the upload ends.

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

/// How much of what an upload has from an offset on a body must bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// All of it.
    ToTheEnd,
    /// As much as it likes.
    Beginning,
}

/// What of two creations must be the same.
#[derive(Debug, Clone, Copy)]
pub(super) struct Compared {
    pub(super) target: bool,
    pub(super) description: bool,
}

/// Whether a creation asks for the upload that an earlier one with the same key made.
pub(super) fn is_repeat(asked: &Plan, existing: &Plan, compared: Compared) -> bool {
    (!compared.target || asked.target == existing.target)
        && (!compared.description || asked.description == existing.description)
        && asked.repr_digest == existing.repr_digest
        && asked.tus_concat == existing.tus_concat
}

/// Whether what a creation says of lengths contradicts the upload that it asks for.
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
    /// Answers a creation that repeats an earlier one, whose plan is the same.
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
                let turn = self.turn(upload.id).await?;
                let stops = self.stops(&turn);
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
            // It takes no bytes from a client: nobody goes on from its offset, and to end whoever makes it would be to give it up.
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
                let turn = self.turn(upload.id).await?;
                let standing = self.standing(&upload.id, &turn, create.completion);
                Ok(Outcome::of(standing.await?))
            }
        }
    }

    /// Takes a repeated creation's body as an append that begins by repeating what the upload has.
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
            // One that is too long is another request, which must not harm this one's upload.
            overrun: Overrun::Discard,
            repeat: Repeat::Refused,
        };
        let addition = Addition { append, digests };
        let turn = self.turn(upload.id).await?;
        let appended = self.append(turn, upload.id, addition, body, sink, Replays::OfCreation);
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

    /// Whether `body` brings what the completed upload has from an offset on. Nothing is stored or published by it, so the digests
    /// that it states are not compared. `false` also where the bytes to compare it with are gone by now.
    ///
    /// # Errors
    /// All that can befall a body, and the blob store's.
    ///
    /// # Cancel safety
    /// May be dropped anywhere.
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
                // Cancel safe: nobody reads on.
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

/// Tells of an upload when the first new byte of it is durable, and not before.
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
