//! The janitor: gives up what is expired, deletes what nothing needs, finds what nothing records.
//!
//! One node at a time is the janitor, by lease; another takes its place once it is gone. Only uploads that a node holds it gives up
//! itself, as nobody else can tell whether it still works on them. A round has six parts, each bounded and
//! each safe to break off anywhere:
//!
//! 1. Open uploads whose time is up become gone, and their bytes are discarded.
//! 2. Completed and gone uploads whose time is up are forgotten.
//! 3. Drafts of packs and registered needs whose time is up are forgotten.
//! 4. Doomed blobs are deleted once they have been doomed for a while (downloads that began before may still read them), then
//!    forgotten.
//! 5. Blobs that the metadata store knows nothing of (left by a crash, or by a plain upload that was cut) are deleted once they
//!    have not changed for a while.
//! 6. Leases that have expired are forgotten.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::blob_store::BlobState;
use crate::{BlobKey, BlobStore, Clock as _, Error, Leases, MetadataStore, Uploads, leases};

/// How many things one step of a round handles at once.
const BATCH: usize = 500;

/// When the janitor works, and how long it waits before it deletes.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Time between two rounds.
    #[serde(with = "settings::Time")]
    pub interval: Duration,
    /// How long the bytes of a replaced or deleted file are kept for the downloads that still read them.
    #[serde(with = "settings::Time")]
    pub delete_after: Duration,
    /// How long bytes that nothing records must have been unchanged before they are deleted.
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

/// What a round did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Round {
    /// Uploads given up.
    pub expired_uploads: usize,
    /// Uploads forgotten.
    pub forgotten_uploads: u64,
    /// Drafts given up, and registered needs forgotten.
    pub expired_drafts: usize,
    /// Blobs deleted because nothing needs them.
    pub deleted_blobs: usize,
    /// Blobs deleted because nothing records them.
    pub orphaned_blobs: usize,
    /// Leases forgotten, such as those of nodes that are gone.
    pub forgotten_leases: u64,
}

/// Keeps the stores clean.
#[derive(Debug, Clone)]
pub struct Janitor {
    uploads: Uploads,
    blobs: Arc<dyn BlobStore>,
    metadata: Arc<dyn MetadataStore>,
    leases: Leases,
    config: Config,
}

impl Janitor {
    /// A janitor for these stores.
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

    /// Works in rounds until `stop`, unless another node does; then this one stands by. A round that fails is logged, and the next one
    /// tries again.
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
            // Cancel safe: each part of a round may be broken off anywhere.
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

    /// Cleans up after a crash, before anything is served, where no other node uses the stores: then what nothing records is an orphan
    /// at once.
    ///
    /// # Errors
    /// A store's.
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
        // The blob store has a clock of its own, which is this machine's or one that is nobody's here: what is old is old by both.
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

    /// Deletes a blob. One that cannot be deleted does not keep the others; the next round tries again.
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
