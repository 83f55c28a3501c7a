//! Ledger of the blobs that one call writes, so that they can be deleted.
//!
//! A blob is staged, then published, then recorded with the contents that it holds. Each of these
//! is noted here before it happens, so that no blob is overlooked wherever the call ends.

use std::collections::HashSet;
use std::error::Error as StdError;
use std::mem;

use bytes::Bytes;

use crate::digest::Sha256Digest;
use crate::error::PackError;
use crate::file::Content;
use crate::pack::{Place, StoredContent};
use crate::packs::Shared;
use crate::{BlobKey, DraftId, Error, StagedBlob};

/// Blobs of one call.
#[derive(Debug)]
pub(in crate::packs) struct Ledger<'a> {
    shared: &'a Shared,
    draft: &'a DraftId,
    /// Blobs that may be staged.
    staged: Vec<BlobKey>,
    /// Blobs that are published and not recorded.
    published: Vec<Content>,
    /// Contents of the published blobs.
    contents: Vec<StoredContent>,
    /// Blobs that the draft holds.
    recorded: Vec<BlobKey>,
}

/// A staged blob.
#[derive(Debug)]
pub(in crate::packs) struct Staging {
    key: BlobKey,
    staged: Box<dyn StagedBlob>,
    /// Bytes written so far.
    pub(in crate::packs) size: u64,
}

impl Staging {
    pub(in crate::packs) async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.size += bytes.len() as u64;
        self.staged
            .write(bytes)
            .await
            .map_err(Error::blob("write to a staged blob"))
    }
}

impl<'a> Ledger<'a> {
    pub(super) fn new(shared: &'a Shared, draft: &'a DraftId) -> Self {
        Self {
            shared,
            draft,
            staged: Vec::new(),
            published: Vec::new(),
            contents: Vec::new(),
            recorded: Vec::new(),
        }
    }

    /// Stages a blob.
    pub(in crate::packs) async fn stage(&mut self) -> Result<Staging, Error> {
        let key = BlobKey::random(&*self.shared.randomness);
        self.staged.push(key.clone());
        Ok(Staging {
            staged: self.shared.stage(&key).await?,
            key,
            size: 0,
        })
    }

    /// Makes a blob with this digest durable. Returns the place of its first byte.
    pub(in crate::packs) async fn publish(
        &mut self,
        staging: Staging,
        sha256: Sha256Digest,
    ) -> Result<Place, Error> {
        let Staging { key, staged, size } = staging;
        let published = staged.publish().await;
        published.map_err(Error::blob("publish a blob"))?;
        self.staged.retain(|staged| *staged != key);
        self.published.push(Content {
            blob: key.clone(),
            size,
            sha256,
        });
        Ok(Place {
            blob: key,
            blob_size: size,
            start: 0,
        })
    }

    /// Discards a blob that turned out not to be needed.
    pub(super) async fn discard(&mut self, staging: Staging) {
        let key = staging.key.clone();
        drop(staging);
        self.shared.discard(&key).await;
        self.staged.retain(|staged| *staged != key);
    }

    /// Adds a content whose blobs are published, to be recorded with them.
    pub(in crate::packs) fn note(&mut self, content: StoredContent) {
        self.contents.push(content);
    }

    /// Makes the draft hold those of the contents that are stored already, so that they stay.
    /// Returns them.
    ///
    /// # Errors
    /// Those of [`Ledger::record`].
    pub(in crate::packs) async fn known(
        &self,
        sha256s: &[Sha256Digest],
    ) -> Result<HashSet<Sha256Digest>, Error> {
        match self.shared.hold(self.draft, sha256s).await? {
            Some(known) => Ok(known),
            None => Err(self.refusal().await),
        }
    }

    /// Returns the number of bytes in blobs that are published and not recorded.
    pub(super) fn unrecorded(&self) -> u64 {
        self.published.iter().map(|blob| blob.size).sum()
    }

    /// Records the published blobs and their contents. If there are none, checks that the draft
    /// still accepts contents.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`PackError::Published`] if the draft accepts no contents, or a
    /// store's error.
    pub(in crate::packs) async fn record(&mut self) -> Result<(), Error> {
        let Shared {
            facts,
            clock,
            config,
            ..
        } = self.shared;
        let expires_at = clock.now().plus(config.draft_lifetime);
        // After an error, these may be recorded or not: only the janitor, which can tell, may
        // delete them.
        let (blobs, contents) = (
            mem::take(&mut self.published),
            mem::take(&mut self.contents),
        );
        let held = facts
            .store_contents(self.draft, &blobs, &contents, expires_at)
            .await
            .map_err(Error::metadata("record contents"))?;
        if !held {
            self.published = blobs;
            return Err(self.refusal().await);
        }
        self.recorded
            .extend(blobs.into_iter().map(|content| content.blob));
        Ok(())
    }

    /// Returns the reason why the draft accepts no contents.
    async fn refusal(&self) -> Error {
        match self.shared.facts.draft(self.draft).await {
            Ok(draft) => match draft.and_then(|draft| draft.published) {
                Some(version) => PackError::Published { version }.into(),
                None => Error::NotFound { what: "draft" },
            },
            Err(error) => Error::metadata("read a draft")(error),
        }
    }

    /// Cleans up after a call that ended with `error`. Recorded contents are dropped if the archive
    /// is at fault or the draft is gone. If a store failed, they stay for the next attempt.
    ///
    /// The janitor finds blobs that cannot be deleted now. Contents that cannot be dropped stay as
    /// long as the draft.
    pub(super) async fn clean_up(self, error: &Error) {
        for key in &self.staged {
            self.shared.discard(key).await;
        }
        for content in &self.published {
            self.shared.delete(&content.blob).await;
        }
        if !matches!(error, Error::Pack(_) | Error::NotFound { .. }) || self.recorded.is_empty() {
            return;
        }
        let now = self.shared.clock.now();
        let dropped = self
            .shared
            .facts
            .drop_contents(self.draft, &self.recorded, now)
            .await;
        if let Err(error) = dropped {
            let error = &error as &dyn StdError;
            tracing::warn!(error, "contents of a refused archive stay with their draft");
        }
    }
}
