//! Taking over an upload from another node.
//!
//! A request first gets the claim within its own process. If the record then names another node,
//! that node is asked to release the upload, and the request waits; at most for
//! [`Config::takeover_wait`](super::Config::takeover_wait), and only while that node is alive. A
//! request that has not released the upload by then is fenced: the epoch rises, so that nothing
//! that it records or publishes counts any more, however late it resumes. Either way the offset is
//! final when the new request continues. If two nodes take over at once, the last one to claim the
//! upload wins, and the other's request ends as superseded.
//!
//! Unpacking an archive stops for a newer request between two of its steps. During a step, the
//! newer request waits as long as the node is alive, just as within one node; the archive stays
//! uploaded.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::Instant;

use super::{Shared, Uploads};
use crate::claims::{AskOutcome, Claim};
use crate::metadata_store::{Ask, Asked, Seen};
use crate::upload::{Target, Upload, UploadState};
use crate::{Error, UploadId};

/// Interval between reads of a record that another node is about to change.
const LOOK_AGAIN: Duration = Duration::from_millis(15);

/// Interval between asks; repeated because a node that reconnects to the store misses the asks in
/// between.
const ASK_AGAIN: Duration = Duration::from_millis(200);

impl Uploads {
    /// Releases uploads that other nodes ask for, as long as it is polled.
    ///
    /// # Cancel safety
    /// May be dropped at any time. Nodes that ask afterwards wait in vain, until their own timeout.
    pub async fn heed(&self) {
        let mut asks = self.shared.metadata.asks();
        while let Some(ask) = asks.next().await {
            if ask.node == self.shared.node {
                self.shared.yield_to(&ask).await;
            }
        }
    }
}

impl Shared {
    async fn yield_to(&self, ask: &Ask) {
        if self.claims.ask(&ask.upload, ask.epoch) == AskOutcome::Request {
            return;
        }
        // The request has ended, but its release could not be recorded.
        self.release(&ask.upload, ask.epoch).await;
    }

    /// Returns an upload that is open or complete, and that no other node works on.
    pub(super) async fn at_rest(&self, id: &UploadId, claim: &Claim) -> Result<Upload, Error> {
        let upload = self.existing(id).await?;
        match self.ask_for(&upload) {
            None => Ok(upload),
            Some(ask) => self.take_over(upload, ask, claim).await,
        }
    }

    /// Returns the ask for the node that has the claim, if it is another node.
    fn ask_for(&self, upload: &Upload) -> Option<Ask> {
        let node = upload.holder.filter(|node| *node != self.node)?;
        Some(Ask {
            upload: upload.id,
            node,
            epoch: upload.epoch,
        })
    }

    async fn take_over(
        &self,
        mut upload: Upload,
        mut ask: Ask,
        claim: &Claim,
    ) -> Result<Upload, Error> {
        let stops = self.stops(claim);
        let until = Instant::now() + self.config.takeover_wait;
        let mut ask_at = Instant::now();
        let mut asked = Asked::Holder;
        loop {
            if Instant::now() >= ask_at {
                asked = self.ask(&ask).await?;
                ask_at = Instant::now() + ASK_AGAIN;
            }
            upload = match asked {
                Asked::Holder if Instant::now() < until || is_being_used(&upload) => {
                    tokio::select! {
                        biased;
                        error = stops.given() => return Err(error),
                        () = tokio::time::sleep(LOOK_AGAIN) => {}
                    }
                    self.existing(&upload.id).await?
                }
                Asked::Holder => self.fence(&upload).await?,
                Asked::Nobody => {
                    let upload = self.existing(&upload.id).await?;
                    match self.ask_for(&upload) {
                        Some(same) if same == ask => self.fence(&upload).await?,
                        None | Some(_) => upload,
                    }
                }
            };
            match self.ask_for(&upload) {
                None => return Ok(upload),
                Some(same) if same == ask => {}
                Some(other) => {
                    ask = other;
                    ask_at = Instant::now();
                }
            }
        }
    }

    /// Fences the present claim on the upload, unless the upload has changed since it was read.
    async fn fence(&self, upload: &Upload) -> Result<Upload, Error> {
        tracing::debug!(upload = ?upload.id, holder = ?upload.holder, "fencing");
        let fenced = self
            .metadata
            .claim_upload(&upload.id, None, Seen::of(upload))
            .await
            .map_err(Error::metadata("fence an upload"))?;
        self.alive(fenced)
    }

    async fn ask(&self, ask: &Ask) -> Result<Asked, Error> {
        self.metadata
            .ask_to_yield(ask)
            .await
            .map_err(Error::metadata("ask for an upload"))
    }

    /// Releases an upload that this request still has claimed: most requests do so with their last
    /// record.
    pub(super) async fn let_go(&self, upload: &mut Upload) {
        if upload.holder == Some(self.node) {
            self.release(&upload.id, upload.epoch).await;
            upload.holder = None;
        }
    }

    async fn release(&self, id: &UploadId, epoch: u64) {
        if let Err(error) = self.metadata.release_upload(id, epoch).await {
            // Another node will ask for the upload.
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                upload = ?id,
                "an upload stays this node's"
            );
        }
    }
}

/// Returns true if all bytes of an archive are here, so that the request with the claim unpacks it
/// now.
fn is_being_used(upload: &Upload) -> bool {
    let UploadState::Open(progress) = &upload.state else {
        return false;
    };
    match upload.plan.target {
        Target::File(_) => false,
        Target::Draft { .. } | Target::Pack(_) => {
            progress.open.length == Some(progress.open.offset)
        }
    }
}
