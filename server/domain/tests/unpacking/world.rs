//! Stores with drafts, and checks of what they hold.

use std::collections::{BTreeSet, HashMap};
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use archive::{PackName, Sha256Digest, Tree};
use budget::Budget;
use bytes::Bytes;
use domain::blob_store::{BlobError, BlobState, BlobStream, Growth};
use domain::error::{EntryFault, PackError};
use domain::file::Content;
use domain::ids::SystemRandomness;
use domain::pack::{DraftRecord, Place, StoredContent};
use domain::pack_store::MAX_LOOKED_UP;
use domain::packs::{Config, Deps};
use domain::{BlobKey, BlobStore, Clock, DraftId, Error, Outbox, PackStore, Packs};
use flate2::read::DeflateDecoder;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use testing::MemoryBlobStore;
use testing::{FaultyStore, ManualClock};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::archives::File;
use crate::facts::Facts;

pub(crate) const DAY: Duration = Duration::from_hours(24);

/// Bytes of the archive in one chunk from the store.
const CHUNK: usize = 256 * 1024;

pub(crate) struct World {
    clock: Arc<ManualClock>,
    pub(crate) memory: MemoryBlobStore,
    pub(crate) blobs: Arc<FaultyStore>,
    pub(crate) facts: Arc<Facts>,
    packs: Packs,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(crate) fn with(config: Config) -> Self {
        let clock = Arc::new(ManualClock::default());
        let memory = MemoryBlobStore::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let blobs = Arc::new(FaultyStore::new(Arc::new(memory.clone())));
        let facts = Arc::new(Facts::default());
        let deps = Deps {
            blobs: Arc::clone(&blobs) as Arc<dyn BlobStore>,
            facts: Arc::clone(&facts) as Arc<dyn PackStore>,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            randomness: Arc::new(SystemRandomness),
            outbox: Outbox::silent(),
            memory: Budget::new(512 << 20),
        };
        let packs = Packs::new(deps, config, None);
        Self {
            clock,
            memory,
            blobs,
            facts,
            packs,
        }
    }

    pub(crate) fn pass_a_day(&self) {
        self.clock.advance(DAY);
    }

    /// Creates a draft of these files, or one that learns its tree.
    pub(crate) async fn draft(&self, files: Option<&[File]>) -> DraftRecord {
        let now = self.clock.now();
        let tree = match files {
            Some(files) => Some(self.keep(document(files).into()).await),
            None => None,
        };
        let draft = DraftRecord {
            id: DraftId::random(&SystemRandomness),
            pack: PackName::parse("pack").unwrap(),
            tree,
            created_at: now,
            expires_at: now.plus(Config::default().draft_lifetime),
            published: None,
        };
        self.facts.insert_draft(&draft).await.unwrap();
        draft
    }

    /// Stores bytes without counting the operations.
    async fn keep(&self, bytes: Bytes) -> Content {
        let key = BlobKey::random(&SystemRandomness);
        let content = Content {
            blob: key.clone(),
            size: bytes.len() as u64,
            sha256: Sha256Digest::of(&bytes),
        };
        let mut staged = self.memory.stage(&key, Growth::NEW).await.unwrap();
        staged.write(bytes).await.unwrap();
        staged.sync().await.unwrap();
        self.memory.publish(&key, content.size).await.unwrap();
        content
    }

    pub(crate) async fn unpack(
        &self,
        draft: &DraftRecord,
        archive: &[u8],
    ) -> Result<Option<Tree>, Error> {
        self.unpack_in(draft, archive, CHUNK).await
    }

    pub(crate) async fn unpack_in(
        &self,
        draft: &DraftRecord,
        archive: &[u8],
        chunk: usize,
    ) -> Result<Option<Tree>, Error> {
        self.packs.unpack(draft, stream_of(archive, chunk)).await
    }

    /// Unpacks an archive of which the store cannot read more than this.
    pub(crate) async fn unpack_broken(
        &self,
        draft: &DraftRecord,
        beginning: &[u8],
    ) -> Result<Option<Tree>, Error> {
        let fault = BlobError::Missing {
            key: BlobKey::random(&SystemRandomness),
        };
        let archive = stream_of(beginning, CHUNK).chain(stream::iter([Err(fault)]));
        self.packs.unpack(draft, archive.boxed()).await
    }

    /// Unpacks until the server is drained, after this many chunks. Returns the number of chunks
    /// that were read.
    pub(crate) async fn unpack_drained(
        &self,
        draft: &DraftRecord,
        archive: &[u8],
        after: usize,
    ) -> (Result<Option<Tree>, Error>, usize) {
        let draining = CancellationToken::new();
        let read = Arc::new(AtomicUsize::new(0));
        let (sign, count) = (draining.clone(), Arc::clone(&read));
        let counted = stream_of(archive, CHUNK).inspect(move |_| {
            if count.fetch_add(1, Ordering::Relaxed) + 1 == after {
                sign.cancel();
            }
        });
        let unpacked = self.packs.unpack_until(draft, counted.boxed(), draining);
        (unpacked.await, read.load(Ordering::Relaxed))
    }

    pub(crate) fn unpack_apart(
        &self,
        draft: &DraftRecord,
        archive: &[u8],
    ) -> JoinHandle<Result<Option<Tree>, Error>> {
        let (packs, draft) = (self.packs.clone(), draft.clone());
        let archive = stream_of(archive, CHUNK);
        tokio::spawn(async move { packs.unpack(&draft, archive).await })
    }

    pub(crate) async fn stored(&self, content: &[u8]) -> Option<StoredContent> {
        let sha256 = Sha256Digest::of(content);
        self.facts.contents(&[sha256]).await.unwrap().pop()
    }

    /// Checks that each content is stored, and that its forms and blobs agree with their records.
    pub(crate) async fn check_stored(&self, files: &[File]) {
        let mut blobs = HashMap::new();
        for recorded in self.facts.recorded().await {
            let bytes = self.read(&recorded).await;
            assert_eq!(Sha256Digest::of(&bytes), recorded.sha256);
            blobs.insert(recorded.blob.clone(), bytes);
        }
        let read = |place: &Place, size: u64| {
            let blob = &blobs[&place.blob];
            assert_eq!(blob.len() as u64, place.blob_size);
            let (start, end) = (place.start, place.start + size);
            blob.slice(usize::try_from(start).unwrap()..usize::try_from(end).unwrap())
        };
        for file in files {
            let content = &file.content;
            let stored = self.stored(content).await;
            let stored = stored.unwrap_or_else(|| panic!("{} is missing", file.path));
            assert_eq!(stored.size, content.len() as u64, "{}", file.path);
            assert_eq!(stored.crc32, crc32fast::hash(content), "{}", file.path);
            assert!(read(&stored.raw, stored.size) == content, "{}", file.path);
            if let Some((deflated, place)) = &stored.deflated {
                let bytes = read(place, deflated.size);
                assert_eq!(Sha256Digest::of(&bytes), deflated.sha256, "{}", file.path);
                assert!(archive::deflating_pays(stored.size, deflated.size));
                let mut inflated = Vec::new();
                let mut decoder = DeflateDecoder::new(&*bytes);
                decoder.read_to_end(&mut inflated).unwrap();
                assert!(inflated == *content, "{}", file.path);
                assert_eq!(decoder.total_in(), deflated.size, "{}", file.path);
            }
        }
    }

    async fn read(&self, content: &Content) -> Bytes {
        let blob = self.memory.open(&content.blob, content.size).await.unwrap();
        let chunks: Vec<Bytes> = blob.read(0..content.size).try_collect().await.unwrap();
        chunks.concat().into()
    }

    pub(crate) async fn check_missing(&self, files: &[File]) {
        let sha256s: Vec<Sha256Digest> = files
            .iter()
            .map(|file| Sha256Digest::of(&file.content))
            .collect();
        for turn in sha256s.chunks(MAX_LOOKED_UP) {
            assert_eq!(self.facts.contents(turn).await.unwrap(), []);
        }
    }

    pub(crate) fn check_refused(
        &self,
        result: Result<Option<Tree>, Error>,
        path: &str,
        fault: EntryFault,
    ) {
        match result {
            Err(Error::Pack(PackError::Entry { entry, reason })) => {
                assert_eq!((entry.as_str(), reason), (path, fault));
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn check_nothing_is_staged(&self) {
        assert_eq!(self.list(BlobState::Staged).await, []);
    }

    /// Checks that drafts hold all published blobs.
    pub(crate) async fn check_no_blob_is_unrecorded(&self) {
        let published = self.list(BlobState::Published).await;
        let needed = self.facts.needed(&published).await;
        assert!(published.iter().all(|blob| needed.contains(blob)));
    }

    pub(crate) async fn published(&self) -> BTreeSet<BlobKey> {
        self.list(BlobState::Published).await.into_iter().collect()
    }

    /// Returns the blobs that stay once the janitor has deleted the doomed ones.
    pub(crate) async fn kept(&self) -> Vec<BlobKey> {
        let doomed = self.facts.doomed().await;
        let mut kept = self.list(BlobState::Published).await;
        kept.retain(|blob| !doomed.contains(blob));
        kept
    }

    async fn list(&self, state: BlobState) -> Vec<BlobKey> {
        let blobs = self.memory.list(state, None, usize::MAX).await.unwrap();
        blobs.into_iter().map(|entry| entry.key).collect()
    }

    pub(crate) async fn sizes_of_recorded_blobs(&self) -> Vec<u64> {
        let recorded = self.facts.recorded().await;
        recorded.iter().map(|content| content.size).collect()
    }
}

fn document(files: &[File]) -> String {
    let files: Vec<String> = files
        .iter()
        .map(|file| {
            format!(
                r#"{{"path":"{}","size":{},"sha256":"{}","executable":{}}}"#,
                file.path,
                file.content.len(),
                Sha256Digest::of(&file.content),
                file.executable,
            )
        })
        .collect();
    format!(r#"{{"files":[{}]}}"#, files.join(","))
}

fn stream_of(bytes: &[u8], chunk: usize) -> BlobStream {
    let chunks: Vec<_> = bytes
        .chunks(chunk)
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect();
    stream::iter(chunks).boxed()
}
