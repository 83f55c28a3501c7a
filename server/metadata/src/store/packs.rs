//! Port of packs.

use archive::{PackName, Sha256Digest};
use async_trait::async_trait;
use domain::event::Event;
use domain::file::Content;
use domain::metadata_store::MetadataError;
use domain::pack::{DraftRecord, PackSummary, PackVersion, StoredContent};
use domain::pack_store::{MAX_LOOKED_UP, PackStore, Published};
use domain::{BlobKey, DraftId, Timestamp};

use super::Store;
use crate::commands::drafts::{DropContents, ForgetDraft, HoldBlobs, InsertDraft, StoreContents};
use crate::commands::versions::{ForgetNeeds, PublishVersion, RegisterNeed, RetireVersion};
use crate::engine::{Engine, Reader as _};
use crate::pack_rows::{ContentRow, DraftRow, VersionRow, draft_id};
use crate::queries::next_version;
use crate::values::{Column, before_nul, limited, sought, values};
use crate::{pack_lists, pack_sql};

#[async_trait]
impl<E: Engine> PackStore for Store<E> {
    async fn insert_draft(&self, draft: &DraftRecord) -> Result<(), MetadataError> {
        self.0.change(InsertDraft(draft.clone())).await
    }

    async fn draft(&self, id: &DraftId) -> Result<Option<DraftRecord>, MetadataError> {
        let mut reader = self.0.reader("read a draft");
        let id = values![id.to_string()];
        let row: Option<DraftRow> = reader.row(pack_sql::DRAFT, id).await?;
        row.map(DraftRecord::try_from).transpose()
    }

    async fn forget_draft(&self, id: &DraftId, now: Timestamp) -> Result<bool, MetadataError> {
        let command = ForgetDraft {
            id: *id,
            expired_at: None,
            now,
        };
        self.0.change(command).await
    }

    async fn expire_draft(&self, id: &DraftId, now: Timestamp) -> Result<bool, MetadataError> {
        let command = ForgetDraft {
            id: *id,
            expired_at: Some(now),
            now,
        };
        self.0.change(command).await
    }

    async fn expired_drafts(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<DraftId>, MetadataError> {
        let mut reader = self.0.reader("find expired drafts");
        let values = values![now, limited(limit)];
        let ids: Vec<String> = reader.scalars(pack_sql::EXPIRED_DRAFTS, values).await?;
        ids.iter().map(|id| draft_id(id)).collect()
    }

    async fn store_contents(
        &self,
        draft: &DraftId,
        blobs: &[Content],
        contents: &[StoredContent],
        expires_at: Timestamp,
    ) -> Result<bool, MetadataError> {
        let command = StoreContents::new(draft, blobs, contents, expires_at)?;
        self.0.change(command).await
    }

    async fn hold_blobs(
        &self,
        draft: &DraftId,
        blobs: &[BlobKey],
    ) -> Result<Option<Vec<BlobKey>>, MetadataError> {
        let command = HoldBlobs {
            draft: *draft,
            blobs: blobs.to_vec(),
        };
        self.0.change(command).await
    }

    async fn drop_contents(
        &self,
        draft: &DraftId,
        blobs: &[BlobKey],
        now: Timestamp,
    ) -> Result<(), MetadataError> {
        let command = DropContents {
            draft: *draft,
            blobs: blobs.to_vec(),
            now,
        };
        self.0.change(command).await
    }

    async fn contents(
        &self,
        sha256s: &[Sha256Digest],
    ) -> Result<Vec<StoredContent>, MetadataError> {
        let mut reader = self.0.reader("look contents up");
        if sha256s.len() > MAX_LOOKED_UP {
            return Err(reader.failed("they are too many"));
        }
        let digests = Column::digests(sha256s);
        let rows: Vec<ContentRow> = reader.rows(pack_lists::CONTENTS, values![&digests]).await?;
        rows.into_iter().map(StoredContent::try_from).collect()
    }

    async fn next_version(&self, pack: &PackName) -> Result<u64, MetadataError> {
        next_version(&mut self.0.reader("find a version's number"), pack).await
    }

    async fn publish_version(
        &self,
        draft: &DraftId,
        version: &PackVersion,
        blobs: &[BlobKey],
        kept_until: Timestamp,
        event: Option<&Event>,
    ) -> Result<Published, MetadataError> {
        let command = PublishVersion::new(draft, version, blobs, kept_until, event)?;
        self.0.change(command).await
    }

    async fn version(
        &self,
        pack: &PackName,
        number: Option<u64>,
    ) -> Result<Option<PackVersion>, MetadataError> {
        let Some(number) = number else {
            let summary = self.pack(pack).await?;
            return Ok(summary.and_then(|summary| summary.latest));
        };
        let mut reader = self.0.reader("read a version");
        let version = values![pack.as_str(), sought(number)];
        let row: Option<VersionRow> = reader.row(pack_sql::VERSION, version).await?;
        let summary = row.map(PackSummary::try_from).transpose()?;
        Ok(summary.and_then(|summary| summary.latest))
    }

    async fn versions(
        &self,
        pack: &PackName,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<PackVersion>, MetadataError> {
        let mut reader = self.0.reader("list a pack's versions");
        let before = sought(before.unwrap_or(u64::MAX));
        let values = values![pack.as_str(), before, limited(limit)];
        let rows: Vec<VersionRow> = reader.rows(pack_sql::VERSIONS, values).await?;
        let versions = rows.into_iter().filter_map(|row| {
            let summary = PackSummary::try_from(row);
            summary.map(|summary| summary.latest).transpose()
        });
        versions.collect()
    }

    async fn packs(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<PackSummary>, MetadataError> {
        let mut reader = self.0.reader("list packs");
        // No name is empty.
        let after = before_nul(after.unwrap_or_default());
        let values = values![after, limited(limit)];
        let rows: Vec<VersionRow> = reader.rows(pack_sql::PACKS, values).await?;
        rows.into_iter().map(PackSummary::try_from).collect()
    }

    async fn pack(&self, name: &PackName) -> Result<Option<PackSummary>, MetadataError> {
        let mut reader = self.0.reader("read a pack");
        let row: Option<VersionRow> = reader.row(pack_sql::PACK, values![name.as_str()]).await?;
        row.map(PackSummary::try_from).transpose()
    }

    async fn retire_version(
        &self,
        pack: &PackName,
        number: u64,
        now: Timestamp,
    ) -> Result<bool, MetadataError> {
        let command = RetireVersion {
            pack: pack.clone(),
            number,
            now,
        };
        self.0.change(command).await
    }

    async fn register_need(
        &self,
        pack: &PackName,
        number: u64,
        sha256: &Sha256Digest,
        encoded: &[u8],
        expires_at: Timestamp,
    ) -> Result<bool, MetadataError> {
        let command = RegisterNeed {
            pack: pack.clone(),
            number,
            sha256: *sha256,
            encoded: encoded.to_vec(),
            expires_at,
        };
        self.0.change(command).await
    }

    async fn need(
        &self,
        pack: &PackName,
        number: u64,
        sha256: &Sha256Digest,
    ) -> Result<Option<Vec<u8>>, MetadataError> {
        let mut reader = self.0.reader("read a need");
        let values = values![pack.as_str(), sought(number), sha256];
        let need: Option<(Vec<u8>,)> = reader.row(pack_sql::NEED, values).await?;
        Ok(need.map(|(encoded,)| encoded))
    }

    async fn forget_needs(&self, now: Timestamp, limit: usize) -> Result<u64, MetadataError> {
        self.0.change(ForgetNeeds { now, limit }).await
    }
}
