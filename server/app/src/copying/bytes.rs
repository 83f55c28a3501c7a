//! Bytes of an installation: published blobs, and the durable bytes of open uploads.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use domain::blob_store::{BlobError, BlobStream, Growth};
use domain::digest::Hasher;
use domain::{Blob, BlobKey, BlobStore, StagedBlob};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use metadata::copying::{Database, RecordedBlob, RecordedUpload};

use super::progress::{Copied, Progress};

/// Number of records read from the database at a time.
const PAGE: usize = 1000;

/// Source of published blobs.
#[derive(Debug)]
pub(super) enum PublishedSource {
    /// Store that no other process uses: every recorded blob must exist.
    Store(Arc<dyn BlobStore>),
    /// Store of a running server, which may delete blobs meanwhile.
    Serving(blobs::Published),
}

/// Copies bytes into the target.
#[derive(Debug)]
pub(super) struct BytesCopier {
    pub(super) target: Arc<dyn BlobStore>,
    pub(super) progress: Progress,
    pub(super) verify: bool,
    pub(super) jobs: usize,
}

enum Fate {
    Copied(u64),
    WasThere,
    Gone,
}

impl BytesCopier {
    /// Copies all published blobs that the target lacks.
    pub(super) async fn copy_published(
        &self,
        records: &mut Database,
        source: PublishedSource,
    ) -> anyhow::Result<Copied> {
        let mut copied = Copied::default();
        let mut last: Option<BlobKey> = None;
        loop {
            let page = records.blobs(last.as_ref(), PAGE).await?;
            let Some(end) = page.last() else {
                return Ok(copied);
            };
            last = Some(end.key.clone());
            let mut fates = stream::iter(page)
                .map(|record| self.copy_blob(&source, record))
                .buffer_unordered(self.jobs);
            while let Some(fate) = fates.try_next().await? {
                match fate {
                    Fate::Copied(bytes) => {
                        copied.blobs += 1;
                        copied.bytes += bytes;
                    }
                    Fate::WasThere => copied.were_there += 1,
                    Fate::Gone => {}
                }
            }
        }
    }

    async fn copy_blob(
        &self,
        source: &PublishedSource,
        record: RecordedBlob,
    ) -> anyhow::Result<Fate> {
        let RecordedBlob { key, size, .. } = &record;
        if let Ok(there) = self.target.open(key, *size).await {
            if self.verify {
                let mut hasher = Hasher::new();
                self.read(there.read(0..*size), &mut hasher, None).await?;
                ensure!(
                    hasher.finish() == record.sha256,
                    "blob {key} of the target does not have the bytes that were recorded; delete it there and run the command again"
                );
            } else {
                self.progress.skipped(*size);
            }
            return Ok(Fate::WasThere);
        }
        let blob = match source.open(key, *size).await {
            // A doomed blob may be deleted at any moment, so it may be missing even in an unused
            // store.
            Err(BlobError::Missing { .. }) if record.is_doomed || source.may_change() => {
                self.progress.skipped(*size);
                return Ok(Fate::Gone);
            }
            blob => blob.with_context(|| format!("failed to open blob {key} of the source"))?,
        };
        let growth = Growth {
            length: Some(*size),
            ..Growth::NEW
        };
        let mut staged = self.stage(key, growth).await?;
        let mut hasher = Hasher::new();
        self.read(blob.read(0..*size), &mut hasher, Some(&mut *staged))
            .await?;
        if hasher.finish() != record.sha256 {
            drop(staged);
            self.target.discard(key).await?;
            anyhow::bail!("blob {key} of the source does not have the bytes that were recorded");
        }
        let published = staged.publish().await;
        published.with_context(|| format!("failed to publish blob {key} in the target"))?;
        Ok(Fate::Copied(*size))
    }

    /// Copies the bytes of open uploads below their recorded offsets.
    pub(super) async fn copy_staged(
        &self,
        records: &mut Database,
        source: &dyn BlobStore,
    ) -> anyhow::Result<()> {
        let mut last = None;
        loop {
            let page = records.open_uploads(last.as_ref(), PAGE).await?;
            let Some(end) = page.last() else {
                return Ok(());
            };
            last = Some(end.id);
            for upload in page.iter().filter(|upload| upload.offset > 0) {
                self.copy_upload(source, upload).await?;
            }
        }
    }

    async fn copy_upload(
        &self,
        source: &dyn BlobStore,
        upload: &RecordedUpload,
    ) -> anyhow::Result<()> {
        let key = &upload.blob;
        let stored = read_upload(source, upload)
            .await
            .with_context(|| format!("failed to read upload blob {key} of the source"))?;
        let anew = Growth {
            offset: 0,
            epoch: upload.epoch,
            length: upload.length,
        };
        // An earlier run may have left a part of it.
        self.target.discard(key).await?;
        let mut staged = self.stage(key, anew).await?;
        let mut hasher = Hasher::new();
        self.read(stored, &mut hasher, Some(&mut *staged)).await?;
        ensure!(
            hasher.state() == upload.hash || Hasher::resume(&upload.hash).is_none(),
            "upload blob {key} of the source does not have the bytes that were recorded"
        );
        let closed = staged.close().await;
        closed.with_context(|| format!("failed to write upload blob {key} to the target"))?;
        Ok(())
    }

    async fn stage(&self, key: &BlobKey, growth: Growth) -> anyhow::Result<Box<dyn StagedBlob>> {
        let staged = self.target.stage(key, growth).await;
        staged.with_context(|| format!("failed to begin blob {key} in the target"))
    }

    /// Hashes a stream, and writes it if there is a writer.
    async fn read(
        &self,
        mut bytes: BlobStream,
        hasher: &mut Hasher,
        mut to: Option<&mut dyn StagedBlob>,
    ) -> anyhow::Result<()> {
        while let Some(chunk) = bytes.try_next().await.context("failed to read a blob")? {
            hasher.update(&chunk);
            self.progress.moved(chunk.len() as u64);
            if let Some(to) = &mut to {
                to.write(chunk).await.context("failed to write a blob")?;
            }
        }
        Ok(())
    }
}

/// Reads the recorded bytes of an upload.
async fn read_upload(
    source: &dyn BlobStore,
    upload: &RecordedUpload,
) -> Result<BlobStream, BlobError> {
    let recorded = 0..upload.offset;
    match source.read_staged(&upload.blob, recorded.clone()).await {
        Err(BlobError::Missing { .. }) => {}
        read => return read,
    }
    // After a crash the blob may be published already: a writer reopens it, as the upload's next
    // one will.
    let next = Growth {
        offset: upload.offset,
        epoch: upload.epoch + 1,
        length: upload.length,
    };
    drop(source.stage(&upload.blob, next).await?);
    source.read_staged(&upload.blob, recorded).await
}

impl PublishedSource {
    async fn open(&self, key: &BlobKey, size: u64) -> Result<Arc<dyn Blob>, BlobError> {
        match self {
            Self::Store(store) => store.open(key, size).await,
            Self::Serving(published) => published.open(key, size).await,
        }
    }

    fn may_change(&self) -> bool {
        matches!(self, Self::Serving(_))
    }
}
