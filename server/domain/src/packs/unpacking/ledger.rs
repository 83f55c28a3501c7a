//! What one call has written so far, and how it is taken back.
//!
//! A blob is staged, then published, then recorded with the contents that lie in it. Each of these is known here before it
//! happens, so that nothing is forgotten wherever the call ends.

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

/// The blobs of one call.
#[derive(Debug)]
pub(in crate::packs) struct Ledger<'a> {
    shared: &'a Shared,
    draft: &'a DraftId,
    /// Blobs that may be staged.
    staged: Vec<BlobKey>,
    /// Blobs that are published and that nothing records.
    published: Vec<Content>,
    /// Contents in them.
    contents: Vec<StoredContent>,
    /// Blobs that the draft holds.
    recorded: Vec<BlobKey>,
}

/// A blob while it is written.
#[derive(Debug)]
pub(in crate::packs) struct Staging {
    key: BlobKey,
    staged: Box<dyn StagedBlob>,
    /// In bytes, so far.
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

    /// Begins a blob.
    pub(in crate::packs) async fn stage(&mut self) -> Result<Staging, Error> {
        let key = BlobKey::random(&*self.shared.randomness);
        self.staged.push(key.clone());
        Ok(Staging {
            staged: self.shared.stage(&key).await?,
            key,
            size: 0,
        })
    }

    /// Makes a blob with this digest durable. Returns the place of its beginning.
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

    /// Gives up a blob that is not wanted after all.
    pub(super) async fn discard(&mut self, staging: Staging) {
        let key = staging.key.clone();
        drop(staging);
        self.shared.discard(&key).await;
        self.staged.retain(|staged| *staged != key);
    }

    /// Notes a content whose blobs are published, to be recorded with them.
    pub(in crate::packs) fn note(&mut self, content: StoredContent) {
        self.contents.push(content);
    }

    /// Those of the contents that are stored already, and stay so: the draft holds them from now on.
    ///
    /// # Errors
    /// As [`Ledger::record`].
    pub(in crate::packs) async fn known(
        &self,
        sha256s: &[Sha256Digest],
    ) -> Result<HashSet<Sha256Digest>, Error> {
        match self.shared.hold(self.draft, sha256s).await? {
            Some(known) => Ok(known),
            None => Err(self.refusal().await),
        }
    }

    /// Bytes of the blobs that are published and not recorded.
    pub(super) fn unrecorded(&self) -> u64 {
        self.published.iter().map(|blob| blob.size).sum()
    }

    /// Records what is published; where there is nothing, finds out whether the draft still takes contents.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`PackError::Published`] where it does not, or a store's.
    pub(in crate::packs) async fn record(&mut self) -> Result<(), Error> {
        let Shared {
            facts,
            clock,
            config,
            ..
        } = self.shared;
        let expires_at = clock.now().plus(config.draft_lifetime);
        // After an error these may be recorded or not: then nobody may delete them but the janitor, who can tell.
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

    /// Why the draft takes nothing.
    async fn refusal(&self) -> Error {
        match self.shared.facts.draft(self.draft).await {
            Ok(draft) => match draft.and_then(|draft| draft.published) {
                Some(version) => PackError::Published { version }.into(),
                None => Error::NotFound { what: "draft" },
            },
            Err(error) => Error::metadata("read a draft")(error),
        }
    }

    /// Cleans up after a call that ended so. What is recorded is taken back if the archive is at fault, or the draft is gone; it stays
    /// if a store failed, for the next try.
    ///
    /// What cannot be deleted now is found by the janitor, what cannot be taken back stays for as long as the draft.
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
