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
use sqlx::{Executor, Sqlite};

use super::pack_commands::{
    DropContents, ForgetDraft, ForgetNeeds, HoldBlobs, InsertDraft, PublishVersion, RegisterNeed,
    RetireVersion, StoreContents, array,
};
use super::{SqliteStore, engine, pack_lists};
use crate::failures::failed;
use crate::pack_rows::{ContentRow, DraftRow, VersionRow, draft_id};
use crate::values::{limited, sought};
use crate::{pack_sql, rows};

#[async_trait]
impl PackStore for SqliteStore {
    async fn insert_draft(&self, draft: &DraftRecord) -> Result<(), MetadataError> {
        self.writer.run(InsertDraft(draft.clone())).await
    }

    async fn draft(&self, id: &DraftId) -> Result<Option<DraftRecord>, MetadataError> {
        let row: Option<DraftRow> = sqlx::query_as(pack_sql::DRAFT)
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await
            .map_err(engine("read a draft"))?;
        row.map(DraftRecord::try_from).transpose()
    }

    async fn forget_draft(&self, id: &DraftId, now: Timestamp) -> Result<bool, MetadataError> {
        let id = *id;
        let expired_at = None;
        self.writer
            .run(ForgetDraft {
                id,
                expired_at,
                now,
            })
            .await
    }

    async fn expire_draft(&self, id: &DraftId, now: Timestamp) -> Result<bool, MetadataError> {
        let id = *id;
        let expired_at = Some(now);
        self.writer
            .run(ForgetDraft {
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
        let ids: Vec<String> = sqlx::query_scalar(pack_sql::EXPIRED_DRAFTS)
            .bind(now.as_millis())
            .bind(limited(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(engine("find expired drafts"))?;
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
        self.writer.run(command).await
    }

    async fn hold_blobs(
        &self,
        draft: &DraftId,
        blobs: &[BlobKey],
    ) -> Result<Option<Vec<BlobKey>>, MetadataError> {
        let command = HoldBlobs::new(draft, blobs)?;
        self.writer.run(command).await
    }

    async fn drop_contents(
        &self,
        draft: &DraftId,
        blobs: &[BlobKey],
        now: Timestamp,
    ) -> Result<(), MetadataError> {
        let command = DropContents::new(draft, blobs, now)?;
        self.writer.run(command).await
    }

    async fn contents(
        &self,
        sha256s: &[Sha256Digest],
    ) -> Result<Vec<StoredContent>, MetadataError> {
        let doing = "look contents up";
        if sha256s.len() > MOST_LOOKED_UP {
            return Err(failed(doing, "they are too many"));
        }
        let digests: Vec<String> = sha256s.iter().map(Sha256Digest::to_string).collect();
        let rows: Vec<ContentRow> = sqlx::query_as(pack_lists::CONTENTS)
            .bind(array(&digests, doing)?)
            .fetch_all(&self.readers)
            .await
            .map_err(engine(doing))?;
        rows.into_iter().map(StoredContent::try_from).collect()
    }

    async fn next_version(&self, pack: &PackName) -> Result<u64, MetadataError> {
        next_version(&self.readers, pack, "find a version's number").await
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
        self.writer.run(command).await
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
        let row: Option<VersionRow> = sqlx::query_as(pack_sql::VERSION)
            .bind(pack.as_str())
            .bind(sought(number))
            .fetch_optional(&self.readers)
            .await
            .map_err(engine("read a version"))?;
        let summary = row.map(PackSummary::try_from).transpose()?;
        Ok(summary.and_then(|summary| summary.latest))
    }

    async fn versions(
        &self,
        pack: &PackName,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<PackVersion>, MetadataError> {
        let rows: Vec<VersionRow> = sqlx::query_as(pack_sql::VERSIONS)
            .bind(pack.as_str())
            .bind(sought(before.unwrap_or(u64::MAX)))
            .bind(limited(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(engine("list a pack's versions"))?;
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
        let rows: Vec<VersionRow> = sqlx::query_as(pack_sql::PACKS)
            // No name is empty.
            .bind(after.unwrap_or_default())
            .bind(limited(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(engine("list packs"))?;
        rows.into_iter().map(PackSummary::try_from).collect()
    }

    async fn pack(&self, name: &PackName) -> Result<Option<PackSummary>, MetadataError> {
        let row: Option<VersionRow> = sqlx::query_as(pack_sql::PACK)
            .bind(name.as_str())
            .fetch_optional(&self.readers)
            .await
            .map_err(engine("read a pack"))?;
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
        self.writer.run(command).await
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
        self.writer.run(command).await
    }

    async fn need(
        &self,
        pack: &PackName,
        number: u64,
        sha256: &Sha256Digest,
    ) -> Result<Option<Vec<u8>>, MetadataError> {
        sqlx::query_scalar(pack_sql::NEED)
            .bind(pack.as_str())
            .bind(sought(number))
            .bind(sha256.as_bytes().as_slice())
            .fetch_optional(&self.readers)
            .await
            .map_err(engine("read a need"))
    }

    async fn forget_needs(&self, now: Timestamp, limit: usize) -> Result<u64, MetadataError> {
        self.writer.run(ForgetNeeds { now, limit }).await
    }
}

/// The number that the pack's next version has.
pub(super) async fn next_version(
    executor: impl Executor<'_, Database = Sqlite>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql;
    use crate::sqlite::tests::find_their_indexes;

    #[tokio::test]
    async fn each_statement_finds_its_index() {
        let version = "pack_versions_number (pack=? AND number=?)";
        find_their_indexes(&[
            (sql::DOOM_BLOB, "version_blobs_blob (blob=?)"),
            (sql::DOOM_BLOB, "draft_blobs_blob (blob=?)"),
            (sql::FORGET_BLOB, "contents_raw_blob (raw_blob=?)"),
            (sql::FORGET_BLOB, "contents_deflated_blob (deflated_blob=?)"),
            (pack_sql::DRAFT, "PRIMARY KEY (id=?)"),
            (pack_sql::EXPIRED_DRAFTS, "drafts_expires_at (expires_at<?)"),
            (pack_sql::PROLONG_DRAFT, "PRIMARY KEY (id=?)"),
            (pack_sql::PUBLISHED, "PRIMARY KEY (id=?)"),
            (pack_sql::PUBLISH_DRAFT, "PRIMARY KEY (id=?)"),
            (pack_sql::RELEASE_DRAFT, "PRIMARY KEY (draft=?)"),
            (pack_sql::DELETE_DRAFT, "PRIMARY KEY (id=?)"),
            (pack_sql::LAST_NUMBER, "PRIMARY KEY (name=?)"),
            (pack_sql::VERSION_ID, version),
            (pack_sql::RELEASE_VERSION, "PRIMARY KEY (version=?)"),
            (pack_sql::DELETE_VERSION, "INTEGER PRIMARY KEY (rowid=?)"),
            (pack_sql::VERSION, version),
            (
                pack_sql::VERSIONS,
                "pack_versions_number (pack=? AND number<?)",
            ),
            (pack_sql::PACK, version),
            (pack_sql::PACK, "pack_versions_number (pack=?)"),
            (pack_sql::PACKS, "PRIMARY KEY (name>?)"),
            (pack_sql::PACKS, version),
            (pack_sql::REGISTER_NEED, version),
            (pack_sql::NEED, "needs_sha256 (version=? AND sha256=?)"),
            (pack_sql::FORGET_NEEDS, "needs_expires_at (expires_at<?)"),
            (pack_lists::CONTENTS, "contents_sha256 (sha256=?)"),
            (pack_lists::CONTENTS, "PRIMARY KEY (key=?)"),
            (
                pack_lists::DROP_BLOBS,
                "draft_blobs_blob (blob=? AND draft=?)",
            ),
            (pack_lists::BLOBS_GONE, "PRIMARY KEY (key=?)"),
            (pack_lists::DOOM_BLOBS, "PRIMARY KEY (key=?)"),
            (pack_lists::DOOM_BLOBS, "files_blob (blob=?)"),
            (pack_lists::DOOM_BLOBS, "version_blobs_blob (blob=?)"),
            (pack_lists::DOOM_BLOBS, "draft_blobs_blob (blob=?)"),
            (pack_lists::STORE_CONTENTS, "PRIMARY KEY (key=?)"),
        ])
        .await;
    }
}
