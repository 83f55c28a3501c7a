//! Drafts: trees that are to be published, and the contents that they still lack.

use std::collections::HashSet;

use archive::{Draft, PackName};

use super::documents::DocumentBody;
use super::{Packs, Shared};
use crate::access::Action;
use crate::digest::Sha256Digest;
use crate::error::PackError;
use crate::file::Content;
use crate::pack::{DraftRecord, Missing};
use crate::{Authorized, DraftId, Error};

/// State of a draft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DraftStatus {
    /// The draft as recorded.
    pub record: DraftRecord,
    /// Number of files in the tree; 0 while the tree is unknown.
    pub files: u64,
    /// Sum of the files' sizes, in bytes.
    pub size: u64,
    /// Contents that must arrive before the draft can be published.
    pub missing: Missing,
}

impl Authorized<Packs> {
    /// Creates a draft of the tree that `document` lists, in the format of [`archive::Draft`].
    ///
    /// # Errors
    /// [`PackError::Document`], [`PackError::DocumentTooLarge`], [`PackError::NoFiles`], a fault of
    /// the body, [`Error::Forbidden`] or a store's error.
    pub async fn create_draft(
        &self,
        pack: PackName,
        document: DocumentBody,
    ) -> Result<DraftStatus, Error> {
        self.principal.check(Action::PublishPack(&pack))?;
        let shared = &self.service.shared;
        let tree = shared.keep_document(document).await?;
        let record = shared.new_draft(pack, Some(tree.clone()));
        let _memory = shared.turns.for_document(tree.size).await;
        let made = async {
            let draft = shared.read_draft(&tree).await?;
            if draft.tree.is_empty() {
                return Err(PackError::NoFiles.into());
            }
            shared
                .facts
                .insert_draft(&record)
                .await
                .map_err(Error::metadata("record a draft"))?;
            shared.status(record, Some(&draft)).await
        };
        let made = made.await;
        if matches!(made, Err(Error::Pack(_))) {
            shared.delete(&tree.blob).await;
        }
        made
    }

    /// Returns the state of a draft.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Forbidden`] or a store's error.
    pub async fn draft(&self, pack: &PackName, id: &DraftId) -> Result<DraftStatus, Error> {
        self.principal.check(Action::PublishPack(pack))?;
        self.service.shared.draft_status(pack, id).await
    }

    /// Deletes a draft. If the draft is published, its version stays.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Forbidden`] or a store's error.
    pub async fn cancel_draft(&self, pack: &PackName, id: &DraftId) -> Result<(), Error> {
        self.principal.check(Action::PublishPack(pack))?;
        let shared = &self.service.shared;
        shared.existing_draft(pack, id).await?;
        let now = shared.clock.now();
        shared
            .facts
            .forget_draft(id, now)
            .await
            .map_err(Error::metadata("forget a draft"))?;
        Ok(())
    }
}

impl Shared {
    pub(super) fn new_draft(&self, pack: PackName, tree: Option<Content>) -> DraftRecord {
        let now = self.clock.now();
        DraftRecord {
            id: DraftId::random(&*self.randomness),
            pack,
            tree,
            created_at: now,
            expires_at: now.plus(self.config.draft_lifetime),
            published: None,
        }
    }

    /// Returns a draft of this pack that has not expired.
    pub(crate) async fn existing_draft(
        &self,
        pack: &PackName,
        id: &DraftId,
    ) -> Result<DraftRecord, Error> {
        let draft = self
            .facts
            .draft(id)
            .await
            .map_err(Error::metadata("read a draft"))?;
        draft
            .filter(|draft| draft.pack == *pack && draft.expires_at > self.clock.now())
            .ok_or(Error::NotFound { what: "draft" })
    }

    /// Returns a draft that is not published yet, so that contents can be added to it.
    pub(crate) async fn open_draft(
        &self,
        pack: &PackName,
        id: &DraftId,
    ) -> Result<DraftRecord, Error> {
        let record = self.existing_draft(pack, id).await?;
        match record.published {
            None => Ok(record),
            Some(version) => Err(PackError::Published { version }.into()),
        }
    }

    pub(crate) async fn draft_status(
        &self,
        pack: &PackName,
        id: &DraftId,
    ) -> Result<DraftStatus, Error> {
        let record = self.existing_draft(pack, id).await?;
        let Some(tree) = record.tree.clone() else {
            return self.status(record, None).await;
        };
        let _memory = self.turns.for_document(tree.size).await;
        let draft = self.read_draft(&tree).await?;
        self.status(record, Some(&draft)).await
    }

    async fn status(
        &self,
        record: DraftRecord,
        draft: Option<&Draft>,
    ) -> Result<DraftStatus, Error> {
        let Some(draft) = draft else {
            return Ok(DraftStatus {
                record,
                files: 0,
                size: 0,
                missing: Missing::default(),
            });
        };
        let missing = match record.published {
            Some(_) => Missing::default(),
            None => self.missing(&record.id, draft).await?,
        };
        Ok(DraftStatus {
            record,
            files: u64::from(draft.tree.len()),
            size: draft.tree.total_size(),
            missing,
        })
    }

    /// Reads the tree of a draft. The tree was checked when it arrived; only the stored bytes may
    /// be damaged since.
    pub(super) async fn read_draft(&self, content: &Content) -> Result<Draft, Error> {
        let limits = self.config.tree_limits();
        self.library
            .read_document(content, move |reader| {
                Draft::read_json(reader, limits)
                    .map_err(|error| PackError::Document(crate::error::chain(&error)).into())
            })
            .await
    }

    /// Returns the contents of a draft's tree that the server lacks. The draft holds all others
    /// from now on, since the client will not send them.
    pub(super) async fn missing(&self, id: &DraftId, draft: &Draft) -> Result<Missing, Error> {
        let tree = &draft.tree;
        let mut seen = HashSet::with_capacity(tree.len() as usize);
        let mut wanted = Vec::new();
        for entry in tree.entries() {
            if seen.insert(entry.sha256) {
                wanted.push((entry.sha256, entry.size));
            }
        }
        let sha256s: Vec<Sha256Digest> = wanted.iter().map(|(sha256, _)| *sha256).collect();
        for known in self.hold(id, &sha256s).await?.unwrap_or_default() {
            seen.remove(&known);
        }
        let lacking = wanted
            .into_iter()
            .filter(|(sha256, _)| seen.contains(sha256));
        let mut missing = Missing::default();
        for (sha256, size) in lacking {
            missing.contents += 1;
            missing.size += size;
            missing.sha256s.push(sha256);
        }
        Ok(missing)
    }
}
