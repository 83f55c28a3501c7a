//! Appends: from a request to a claimed upload that receives its bytes.

use std::sync::Arc;

use protocol::digest::{self, Stated};
use protocol::rejection::Rejection;
use protocol::upload::{Append, Completion, Repeated};

use super::intake::Request;
use super::repeat::Extent;
use super::{Addition, Failure, Outcome, ProgressSink, Replays, Shared};
use crate::body::UploadBody;
use crate::claims::Claim;
use crate::ingest::Stops;
use crate::metadata_store::Seen;
use crate::upload::{Completed, Upload, UploadState};
use crate::{Error, UploadId};

impl Shared {
    /// Appends to an upload under this claim.
    pub(super) async fn append(
        &self,
        claim: Claim,
        id: UploadId,
        addition: Addition,
        body: UploadBody,
        sink: Arc<dyn ProgressSink>,
        replays: Replays,
    ) -> Result<Outcome, Failure> {
        let mut upload = self.at_rest(&id, &claim).await?;
        if upload.plan.is_concatenation() {
            return Err(Failure::of(Rejection::FinalUpload, upload));
        }
        let stops = self.stops(&claim);
        let (from, now) = (addition.append.offset, self.clock.now());
        let reported = upload
            .reported
            .is_some_and(|reported| reported.counts(from, now));
        let progress = match &upload.state {
            UploadState::Open(progress) => progress.clone(),
            UploadState::Complete(completed) => {
                let completed = completed.clone();
                let append = &addition.append;
                return self
                    .append_to_complete(upload, completed, append, reported, body, &stops)
                    .await;
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
            reported || replays != Replays::Refused,
        );
        let admission = match admitted {
            Ok(admission) => admission,
            Err(rejection) => return Err(Failure::of(rejection, upload)),
        };
        self.record_claim(&mut upload, &claim).await?;
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
            begins_as_reported: reported,
        };
        let taken = self
            .take_in(&mut upload, request, hasher, body, &stops, sink)
            .await;
        self.let_go(&mut upload).await;
        drop(claim);
        taken.map_err(|error| Failure::of(error, upload))
    }

    /// Responds to an append to a complete upload, which may repeat its last bytes.
    async fn append_to_complete(
        &self,
        upload: Upload,
        completed: Completed,
        append: &Append,
        reported: bool,
        body: UploadBody,
        stops: &Stops,
    ) -> Result<Outcome, Failure> {
        let finishes = append.completion != Completion::Later;
        let (rejection, may_repeat) = match completed.complete.admit(append) {
            Ok(Repeated::Answered) => return Ok(Outcome::Complete(upload, completed)),
            Ok(Repeated::IfEmpty(rejection)) => (rejection, true),
            Err(rejection) => (rejection, reported && finishes),
        };
        let here = (&upload, &completed);
        let rest = (append.offset, Extent::ToTheEnd);
        match may_repeat && self.repeats(here, rest, body, stops).await? {
            true => Ok(Outcome::Complete(upload, completed)),
            false => Err(Failure::of(rejection, upload)),
        }
    }

    /// Claims the upload across nodes for this request, which has the claim within the process.
    /// Fails if another node has changed the upload, or has reported an offset to its client, since
    /// this request read it: then there may be a newer claim, which prevails.
    pub(super) async fn record_claim(
        &self,
        upload: &mut Upload,
        claim: &Claim,
    ) -> Result<(), Error> {
        claim.set_epoch(upload.epoch + 1);
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
}

/// Returns true if a digest that an append states for its body is really that of the entire upload:
/// URLSession sends all fields of the creation again with the rest of the body.
fn is_stale(stated: &Stated, upload: &Upload) -> bool {
    let whole = upload.plan.repr_digest.as_deref().unwrap_or_default();
    digest::parse_representation(whole)
        .iter()
        .any(|whole| whole.algorithm == stated.algorithm && whole.value == stated.value)
}
