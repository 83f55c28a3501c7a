//! A metadata store in memory that counts calls, remembers blobs, and fails on request.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

use archive::{PackName, Sha256Digest};
use async_trait::async_trait;
use domain::event::Event;
use domain::file::Content;
use domain::ids::SystemRandomness;
use domain::metadata_store::MetadataError;
use domain::pack::{DraftRecord, PackSummary, PackVersion, StoredContent};
use domain::pack_store::{PackStore, Published};
use domain::{BlobKey, DraftId, MetadataStore, Timestamp};
use testing::MemoryMetadataStore;

/// Operations that are counted, and that may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Fact {
    /// [`PackStore::store_contents`].
    Store,
    /// [`PackStore::contents`].
    Contents,
    /// [`PackStore::drop_contents`].
    Drop,
}

#[derive(Debug, Default)]
pub(crate) struct Facts {
    inner: MemoryMetadataStore,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    counts: HashMap<Fact, u64>,
    fault: Option<Fault>,
    /// Number of the record before which the draft is published or deleted.
    closing: Option<(u64, Closing)>,
    stored: Vec<Content>,
}

#[derive(Debug, Clone, Copy)]
struct Fault {
    fact: Fact,
    at: u64,
    has_effect: bool,
}

/// The end of a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closing {
    Forgotten,
    /// As version 1.
    Published,
}

impl Facts {
    /// Makes the `nth` call from now on fail, with or without its effect.
    pub(crate) fn fail(&self, fact: Fact, nth: u64, has_effect: bool) {
        let at = self.count(fact) + nth;
        self.state.lock().unwrap().fault = Some(Fault {
            fact,
            at,
            has_effect,
        });
    }

    /// Ends the draft after this many records.
    pub(crate) fn close_draft_after(&self, records: u64, closing: Closing) {
        self.state.lock().unwrap().closing = Some((records + 1, closing));
    }

    pub(crate) fn count(&self, fact: Fact) -> u64 {
        let state = self.state.lock().unwrap();
        state.counts.get(&fact).copied().unwrap_or(0)
    }

    /// Returns the blobs that were recorded with contents, without the doomed ones.
    pub(crate) async fn recorded(&self) -> Vec<Content> {
        let doomed = self.doomed().await;
        let mut recorded = self.state.lock().unwrap().stored.clone();
        recorded.retain(|content| !doomed.contains(&content.blob));
        recorded
    }

    pub(crate) async fn doomed(&self) -> BTreeSet<BlobKey> {
        let ever = Timestamp::from_millis(i64::MAX);
        let doomed = self.inner.doomed_blobs(ever, usize::MAX).await.unwrap();
        doomed.into_iter().collect()
    }

    /// Returns the blobs that are needed.
    pub(crate) async fn needed(&self, among: &[BlobKey]) -> BTreeSet<BlobKey> {
        let doomed = self.doomed().await;
        let known = self.inner.known_blobs(among).await.unwrap();
        known
            .into_iter()
            .filter(|blob| !doomed.contains(blob))
            .collect()
    }

    /// Counts a call. Returns the fault that is planned for it.
    fn called(&self, fact: Fact) -> Option<Fault> {
        let mut state = self.state.lock().unwrap();
        let count = state.counts.entry(fact).or_default();
        *count += 1;
        let at = *count;
        state
            .fault
            .take_if(|fault| fault.fact == fact && fault.at == at)
    }

    async fn close_if_due(&self, draft: &DraftId) {
        let records = self.count(Fact::Store);
        let closing = self.state.lock().unwrap().closing;
        let now = Timestamp::from_millis(0);
        match closing {
            Some((at, Closing::Forgotten)) if at == records => {
                assert!(self.inner.forget_draft(draft, now).await.unwrap());
            }
            Some((at, Closing::Published)) if at == records => {
                let record = self.inner.draft(draft).await.unwrap().unwrap();
                let version = empty_version(record.pack);
                let published = self
                    .inner
                    .publish_version(draft, &version, &[], now, None)
                    .await;
                assert_eq!(published.unwrap(), Published::Version(1));
            }
            _ => {}
        }
    }
}

fn empty_version(pack: PackName) -> PackVersion {
    let document = || Content {
        blob: BlobKey::random(&SystemRandomness),
        size: 1,
        sha256: Sha256Digest::of(b"x"),
    };
    PackVersion {
        pack,
        number: 1,
        files: 0,
        size: 0,
        catalogue: document(),
        catalogue_gzip: document(),
        catalogue_zstd: document(),
        forms: document(),
        places: document(),
        published_at: Timestamp::from_millis(0),
    }
}

fn planned() -> MetadataError {
    MetadataError::Failed {
        doing: "do what the test forbids",
        source: "planned by the test".into(),
    }
}

#[async_trait]
impl PackStore for Facts {
    async fn insert_draft(&self, draft: &DraftRecord) -> Result<(), MetadataError> {
        self.inner.insert_draft(draft).await
    }

    async fn draft(&self, id: &DraftId) -> Result<Option<DraftRecord>, MetadataError> {
        self.inner.draft(id).await
    }

    async fn store_contents(
        &self,
        draft: &DraftId,
        blobs: &[Content],
        contents: &[StoredContent],
        expires_at: Timestamp,
    ) -> Result<bool, MetadataError> {
        let fault = self.called(Fact::Store);
        self.close_if_due(draft).await;
        if fault.is_some_and(|fault| !fault.has_effect) {
            return Err(planned());
        }
        let stored = self
            .inner
            .store_contents(draft, blobs, contents, expires_at)
            .await?;
        if stored {
            self.state.lock().unwrap().stored.extend_from_slice(blobs);
        }
        match fault {
            Some(_) => Err(planned()),
            None => Ok(stored),
        }
    }

    async fn hold_blobs(
        &self,
        draft: &DraftId,
        blobs: &[BlobKey],
    ) -> Result<Option<Vec<BlobKey>>, MetadataError> {
        self.close_if_due(draft).await;
        self.inner.hold_blobs(draft, blobs).await
    }

    async fn drop_contents(
        &self,
        draft: &DraftId,
        blobs: &[BlobKey],
        now: Timestamp,
    ) -> Result<(), MetadataError> {
        match self.called(Fact::Drop) {
            Some(_) => Err(planned()),
            None => self.inner.drop_contents(draft, blobs, now).await,
        }
    }

    async fn contents(
        &self,
        sha256s: &[Sha256Digest],
    ) -> Result<Vec<StoredContent>, MetadataError> {
        match self.called(Fact::Contents) {
            Some(_) => Err(planned()),
            None => self.inner.contents(sha256s).await,
        }
    }

    async fn forget_draft(&self, id: &DraftId, now: Timestamp) -> Result<bool, MetadataError> {
        self.inner.forget_draft(id, now).await
    }

    async fn expire_draft(&self, id: &DraftId, now: Timestamp) -> Result<bool, MetadataError> {
        self.inner.expire_draft(id, now).await
    }

    async fn expired_drafts(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<DraftId>, MetadataError> {
        self.inner.expired_drafts(now, limit).await
    }

    async fn next_version(&self, pack: &PackName) -> Result<u64, MetadataError> {
        self.inner.next_version(pack).await
    }

    async fn publish_version(
        &self,
        draft: &DraftId,
        version: &PackVersion,
        blobs: &[BlobKey],
        kept_until: Timestamp,
        event: Option<&Event>,
    ) -> Result<Published, MetadataError> {
        self.inner
            .publish_version(draft, version, blobs, kept_until, event)
            .await
    }

    async fn version(
        &self,
        pack: &PackName,
        number: Option<u64>,
    ) -> Result<Option<PackVersion>, MetadataError> {
        self.inner.version(pack, number).await
    }

    async fn versions(
        &self,
        pack: &PackName,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<PackVersion>, MetadataError> {
        self.inner.versions(pack, before, limit).await
    }

    async fn packs(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<PackSummary>, MetadataError> {
        self.inner.packs(after, limit).await
    }

    async fn pack(&self, name: &PackName) -> Result<Option<PackSummary>, MetadataError> {
        self.inner.pack(name).await
    }

    async fn retire_version(
        &self,
        pack: &PackName,
        number: u64,
        now: Timestamp,
    ) -> Result<bool, MetadataError> {
        self.inner.retire_version(pack, number, now).await
    }

    async fn register_need(
        &self,
        pack: &PackName,
        number: u64,
        sha256: &Sha256Digest,
        encoded: &[u8],
        expires_at: Timestamp,
    ) -> Result<bool, MetadataError> {
        self.inner
            .register_need(pack, number, sha256, encoded, expires_at)
            .await
    }

    async fn need(
        &self,
        pack: &PackName,
        number: u64,
        sha256: &Sha256Digest,
    ) -> Result<Option<Vec<u8>>, MetadataError> {
        self.inner.need(pack, number, sha256).await
    }

    async fn forget_needs(&self, now: Timestamp, limit: usize) -> Result<u64, MetadataError> {
        self.inner.forget_needs(now, limit).await
    }
}
