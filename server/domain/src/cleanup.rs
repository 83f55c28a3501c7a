//! The janitor: expires uploads and drafts, and deletes doomed and unrecorded blobs.
//!
//! One node at a time is the janitor, by lease; if it fails, another takes its place. An upload
//! that a node holds is expired by that node itself, since no other can tell whether it is still in
//! use. A round has six parts. Each is bounded, and may be cut off anywhere:
//!
//! 1. Open uploads past their time become gone, and their bytes are discarded.
//! 2. Completed and gone uploads past their time are forgotten.
//! 3. Drafts of packs and registered needs past their time are forgotten.
//! 4. Blobs that have been doomed for a while are deleted, then forgotten. Until then, downloads
//!    that are under way may still read them.
//! 5. Blobs that the metadata store does not mention (left by a crash, or by a plain upload that
//!    was cut) are deleted once they have not changed for a while.
//! 6. Expired leases are forgotten.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::blob_store::BlobState;
use crate::{BlobKey, BlobStore, Clock as _, Error, Leases, MetadataStore, Uploads, leases};

/// Number of items that one step of a round handles.
const BATCH: usize = 500;

/// Interval of the janitor, and its delays before deletion.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Time between two rounds.
    #[serde(with = "settings::Time")]
    pub interval: Duration,
    /// Time for which the bytes of a replaced or deleted file are kept for running downloads.
    #[serde(with = "settings::Time")]
    pub delete_after: Duration,
    /// Time for which bytes without a record must be unchanged before they are deleted.
    #[serde(with = "settings::Time")]
    pub orphan_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interval: Duration::from_mins(10),
            delete_after: Duration::from_hours(1),
            orphan_after: Duration::from_hours(24),
        }
    }
}

/// Counts of one round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Round {
    /// Open uploads that expired.
    pub expired_uploads: usize,
    /// Uploads that were forgotten.
    pub forgotten_uploads: u64,
    /// Drafts and registered needs that expired.
    pub expired_drafts: usize,
    /// Doomed blobs that were deleted.
    pub deleted_blobs: usize,
    /// Unrecorded blobs that were deleted.
    pub orphaned_blobs: usize,
    /// Leases that were forgotten, such as those of dead nodes.
    pub forgotten_leases: u64,
}

/// Expires uploads and drafts, and deletes blobs that nothing needs.
#[derive(Debug, Clone)]
pub struct Janitor {
    uploads: Uploads,
    blobs: Arc<dyn BlobStore>,
    metadata: Arc<dyn MetadataStore>,
    leases: Leases,
    config: Config,
}

impl Janitor {
    /// Creates a janitor for these stores.
    pub fn new(
        uploads: Uploads,
        blobs: Arc<dyn BlobStore>,
        metadata: Arc<dyn MetadataStore>,
        leases: Leases,
        config: Config,
    ) -> Self {
        Self {
            uploads,
            blobs,
            metadata,
            leases,
            config,
        }
    }

    /// Works in rounds until `stop` while this node holds the lease, and otherwise stands by. A
    /// round that fails is logged; the next one tries again.
    pub async fn run(self, stop: CancellationToken) {
        let standing_by = async {
            loop {
                tokio::time::sleep(self.config.interval).await;
                let lost = self
                    .leases
                    .exclusively(leases::JANITOR, self.rounds())
                    .await;
                if let Err(error) = lost {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "failed to learn who cleans up"
                    );
                }
                if let Err(error) = self.uploads.expire(BATCH).await {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "failed to give up what this node has left"
                    );
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            // Cancel safe: each part of a round may be cut off anywhere.
            () = standing_by => {}
        }
    }

    async fn rounds(&self) {
        loop {
            match self.round(self.config.orphan_after).await {
                Ok(round) if round == Round::default() => {}
                Ok(round) => tracing::info!(?round, "cleaned up"),
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "failed to clean up"
                ),
            }
            tokio::time::sleep(self.config.interval).await;
        }
    }

    /// Cleans up after a crash, before any request is served, if no other node uses the stores: a
    /// blob that is not recorded is then an orphan at once.
    ///
    /// # Errors
    /// A store's error.
    pub async fn recover(&self) -> Result<Round, Error> {
        self.round(Duration::ZERO).await
    }

    async fn round(&self, orphan_after: Duration) -> Result<Round, Error> {
        let mut round = Round::default();
        loop {
            let expired = self.uploads.expire(BATCH).await?;
            round.expired_uploads += expired;
            if expired == 0 {
                break;
            }
        }
        loop {
            let forgotten = self
                .metadata
                .forget_uploads(self.leases.clock().now(), BATCH)
                .await
                .map_err(Error::metadata("forget uploads"))?;
            round.forgotten_uploads += forgotten;
            if forgotten == 0 {
                break;
            }
        }
        loop {
            let expired = self.uploads.packs().expire(BATCH).await?;
            round.expired_drafts += expired;
            if expired == 0 {
                break;
            }
        }
        round.deleted_blobs = self.delete_doomed().await?;
        for state in [BlobState::Staged, BlobState::Published] {
            round.orphaned_blobs += self.delete_orphans(state, orphan_after).await?;
        }
        round.forgotten_leases = self.forget_leases().await?;
        Ok(round)
    }

    async fn forget_leases(&self) -> Result<u64, Error> {
        let mut count = 0;
        loop {
            let forgotten = self
                .metadata
                .forget_leases(BATCH)
                .await
                .map_err(Error::metadata("forget leases"))?;
            count += forgotten;
            if forgotten == 0 {
                return Ok(count);
            }
        }
    }

    async fn delete_doomed(&self) -> Result<usize, Error> {
        let before = self.leases.clock().now().minus(self.config.delete_after);
        let mut deleted = 0;
        loop {
            let doomed = self
                .metadata
                .doomed_blobs(before, BATCH)
                .await
                .map_err(Error::metadata("list doomed blobs"))?;
            if doomed.is_empty() {
                return Ok(deleted);
            }
            let before_this_page = deleted;
            for blob in doomed {
                if !self.delete(BlobState::Published, &blob).await {
                    continue;
                }
                self.metadata
                    .forget_blob(&blob)
                    .await
                    .map_err(Error::metadata("forget a blob"))?;
                deleted += 1;
            }
            if deleted == before_this_page {
                return Ok(deleted);
            }
        }
    }

    async fn delete_orphans(&self, state: BlobState, after: Duration) -> Result<usize, Error> {
        // The blob store has its own clock: that of this machine, or of none here. A blob counts as
        // old only if both clocks agree.
        let clock = self.leases.clock();
        let unchanged_since = clock.now().min(clock.own()).minus(after);
        let mut deleted = 0;
        let mut last: Option<BlobKey> = None;
        loop {
            let page = self
                .blobs
                .list(state, last.as_ref(), BATCH)
                .await
                .map_err(Error::blob("list blobs"))?;
            let Some(end) = page.last() else {
                return Ok(deleted);
            };
            last = Some(end.key.clone());
            let old: Vec<BlobKey> = page
                .into_iter()
                .filter(|entry| entry.modified_at <= unchanged_since)
                .map(|entry| entry.key)
                .collect();
            if old.is_empty() {
                continue;
            }
            let known = self
                .metadata
                .known_blobs(&old)
                .await
                .map_err(Error::metadata("look blobs up"))?;
            for blob in old.iter().filter(|blob| !known.contains(blob)) {
                deleted += usize::from(self.delete(state, blob).await);
            }
        }
    }

    /// Deletes a blob. A failure is logged and does not stop the round; the next round tries again.
    async fn delete(&self, state: BlobState, blob: &BlobKey) -> bool {
        let deleted = match state {
            BlobState::Staged => self.blobs.discard(blob).await,
            BlobState::Published => self.blobs.delete(blob).await,
        };
        if let Err(error) = &deleted {
            tracing::error!(%blob, error = error as &dyn std::error::Error, "failed to delete a blob");
        }
        deleted.is_ok()
    }
}
