//! The facts of packs: reads here, changes in [`pack_commands`](super::pack_commands).

use archive::{PackName, Sha256Digest};
use async_trait::async_trait;
use domain::events::Event;
use domain::files::Content;
use domain::metadata_store::MetadataError;
use domain::pack_store::{
    DraftRecord, MOST_LOOKED_UP, PackStore, PackSummary, PackVersion, Published, StoredContent,
};
use domain::{BlobKey, DraftId, Timestamp};
use sqlx::{Executor, Postgres};

use super::pack_commands::{
    DropContents, ForgetDraft, ForgetNeeds, HoldBlobs, InsertDraft, PublishVersion, RegisterNeed,
    RetireVersion, StoreContents,
};
use super::transaction::engine;
use super::{PostgresStore, before_nul, pack_lists};
use crate::failures::failed;
use crate::pack_rows::{ContentRow, DraftRow, VersionRow, draft_id};
use crate::values::{limited, sought};
use crate::{pack_sql, rows};

#[async_trait]
impl PackStore for PostgresStore {
    async fn insert_draft(&self, draft: &DraftRecord) -> Result<(), MetadataError> {
        self.run(InsertDraft(draft)).await
    }

    async fn draft(&self, id: &DraftId) -> Result<Option<DraftRecord>, MetadataError> {
        let row: Option<DraftRow> = self
            .read("read a draft", || {
                sqlx::query_as(pack_sql::DRAFT)
                    .bind(id.to_string())
                    .fetch_optional(&self.pool)
            })
            .await?;
        row.map(DraftRecord::try_from).transpose()
    }

    async fn forget_draft(&self, id: &DraftId, now: Timestamp) -> Result<bool, MetadataError> {
        let id = *id;
        let expired_at = None;
        self.run(ForgetDraft {
            id,
            expired_at,
            now,
        })
        .await
    }

    async fn expire_draft(&self, id: &DraftId, now: Timestamp) -> Result<bool, MetadataError> {
        let id = *id;
        let expired_at = Some(now);
        self.run(ForgetDraft {
            id,
            expired_at,
            now,
        })
        .await
    }

    async fn expired_drafts(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<DraftId>, MetadataError> {
        let ids: Vec<String> = self
            .read("find expired drafts", || {
                sqlx::query_scalar(pack_sql::EXPIRED_DRAFTS)
                    .bind(now.as_millis())
                    .bind(limited(limit))
                    .fetch_all(&self.pool)
            })
            .await?;
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
        self.run(command).await
    }

    async fn hold_blobs(
        &self,
        draft: &DraftId,
        blobs: &[BlobKey],
    ) -> Result<Option<Vec<BlobKey>>, MetadataError> {
        self.run(HoldBlobs { draft, blobs }).await
    }

    async fn drop_contents(
        &self,
        draft: &DraftId,
        blobs: &[BlobKey],
        now: Timestamp,
    ) -> Result<(), MetadataError> {
        self.run(DropContents { draft, blobs, now }).await
    }

    async fn contents(
        &self,
        sha256s: &[Sha256Digest],
    ) -> Result<Vec<StoredContent>, MetadataError> {
        let doing = "look contents up";
        if sha256s.len() > MOST_LOOKED_UP {
            return Err(failed(doing, "they are too many"));
        }
        let digests: Vec<&[u8]> = sha256s
            .iter()
            .map(|sha256| sha256.as_bytes().as_slice())
            .collect();
        let rows: Vec<ContentRow> = self
            .read(doing, || {
                sqlx::query_as(pack_lists::CONTENTS)
                    .bind(&digests)
                    .fetch_all(&self.pool)
            })
            .await?;
        rows.into_iter().map(StoredContent::try_from).collect()
    }

    async fn next_version(&self, pack: &PackName) -> Result<u64, MetadataError> {
        next_version(&self.pool, pack, "find a version's number").await
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
        self.run(command).await
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
        let row: Option<VersionRow> = self
            .read("read a version", || {
                sqlx::query_as(pack_sql::VERSION)
                    .bind(pack.as_str())
                    .bind(sought(number))
                    .fetch_optional(&self.pool)
            })
            .await?;
        let summary = row.map(PackSummary::try_from).transpose()?;
        Ok(summary.and_then(|summary| summary.latest))
    }

    async fn versions(
        &self,
        pack: &PackName,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<PackVersion>, MetadataError> {
        let rows: Vec<VersionRow> = self
            .read("list a pack's versions", || {
                sqlx::query_as(pack_sql::VERSIONS)
                    .bind(pack.as_str())
                    .bind(sought(before.unwrap_or(u64::MAX)))
                    .bind(limited(limit))
                    .fetch_all(&self.pool)
            })
            .await?;
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
        let rows: Vec<VersionRow> = self
            .read("list packs", || {
                sqlx::query_as(pack_sql::PACKS)
                    // No name is empty.
                    .bind(before_nul(after.unwrap_or_default()))
                    .bind(limited(limit))
                    .fetch_all(&self.pool)
            })
            .await?;
        rows.into_iter().map(PackSummary::try_from).collect()
    }

    async fn pack(&self, name: &PackName) -> Result<Option<PackSummary>, MetadataError> {
        let row: Option<VersionRow> = self
            .read("read a pack", || {
                sqlx::query_as(pack_sql::PACK)
                    .bind(name.as_str())
                    .fetch_optional(&self.pool)
            })
            .await?;
        row.map(PackSummary::try_from).transpose()
    }

    async fn retire_version(
        &self,
        pack: &PackName,
        number: u64,
        now: Timestamp,
    ) -> Result<bool, MetadataError> {
        let command = RetireVersion { pack, number, now };
        self.run(command).await
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
            pack,
            number,
            sha256,
            encoded,
            expires_at,
        };
        self.run(command).await
    }

    async fn need(
        &self,
        pack: &PackName,
        number: u64,
        sha256: &Sha256Digest,
    ) -> Result<Option<Vec<u8>>, MetadataError> {
        self.read("read a need", || {
            sqlx::query_scalar(pack_sql::NEED)
                .bind(pack.as_str())
                .bind(sought(number))
                .bind(sha256.as_bytes().as_slice())
                .fetch_optional(&self.pool)
        })
        .await
    }

    async fn forget_needs(&self, now: Timestamp, limit: usize) -> Result<u64, MetadataError> {
        self.run(ForgetNeeds { now, limit }).await
    }
}

/// The number that the pack's next version has.
pub(super) async fn next_version(
    executor: impl Executor<'_, Database = Postgres>,
    pack: &PackName,
    doing: &'static str,
) -> Result<u64, MetadataError> {
    let last: Option<i64> = sqlx::query_scalar(pack_sql::LAST_NUMBER)
        .bind(pack.as_str())
        .fetch_optional(executor)
        .await
        .map_err(engine(doing))?;
    let Some(last) = last else {
        return Ok(1);
    };
    let here = rows::Row {
        table: "packs",
        key: pack.as_str(),
    };
    Ok(here.count("last_number", last)? + 1)
}
