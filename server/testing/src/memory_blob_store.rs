//! A blob store for tests, without a limit. All blobs are lost when the process ends.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use domain::blob_store::{BlobEntry, BlobError, BlobState, BlobStream, Growth, Link, LinkFields};
use domain::{Blob, BlobKey, BlobStore, Clock, StagedBlob, Timestamp};
use futures::{StreamExt, stream};

/// Size in bytes of the chunks that readers receive: small, so that tests see more than one chunk.
const CHUNK: usize = 16 * 1024;

/// Blob store in memory. Clones share their blobs.
#[derive(Debug, Clone)]
pub struct MemoryBlobStore {
    blobs: Arc<Mutex<Blobs>>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug, Default)]
struct Blobs {
    staged: BTreeMap<BlobKey, Staged>,
    published: BTreeMap<BlobKey, Published>,
    /// Number of writers so far, which tells them apart.
    writers: u64,
}

#[derive(Debug)]
struct Staged {
    bytes: Vec<u8>,
    /// Number of bytes that survive a power cut; `None` if not even the name does.
    synced: Option<usize>,
    modified_at: Timestamp,
    /// Only writer that may still write; 0 if there is none.
    writer: u64,
}

#[derive(Debug, Clone)]
struct Published {
    bytes: Bytes,
    modified_at: Timestamp,
}

#[derive(Debug)]
struct MemoryWriter {
    store: MemoryBlobStore,
    key: BlobKey,
    writer: u64,
}

impl MemoryBlobStore {
    /// Returns an empty store, which takes modification times from `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            blobs: Arc::default(),
            clock,
        }
    }

    /// Simulates a power cut: drops unsynced bytes and cuts off all writers. Published blobs stay.
    pub fn cut_power(&self) {
        let mut blobs = self.lock();
        blobs.staged.retain(|_, staged| staged.synced.is_some());
        for staged in blobs.staged.values_mut() {
            staged.bytes.truncate(staged.synced.unwrap_or(0));
            staged.writer = 0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Blobs> {
        self.blobs.lock().expect("nothing panics while it holds it")
    }
}

#[async_trait]
impl BlobStore for MemoryBlobStore {
    async fn stage(&self, key: &BlobKey, growth: Growth) -> Result<Box<dyn StagedBlob>, BlobError> {
        let missing = || BlobError::Missing { key: key.clone() };
        let offset = growth.offset;
        let length = usize::try_from(offset).map_err(|_| missing())?;
        let modified_at = self.clock.now();
        let mut blobs = self.lock();
        if !blobs.staged.contains_key(key) {
            let staged = match blobs.published.remove(key) {
                Some(published) => Staged {
                    synced: Some(published.bytes.len()),
                    bytes: published.bytes.into(),
                    modified_at: published.modified_at,
                    writer: 0,
                },
                None if offset == 0 => Staged {
                    bytes: Vec::new(),
                    synced: None,
                    modified_at,
                    writer: 0,
                },
                None => return Err(missing()),
            };
            blobs.staged.insert(key.clone(), staged);
        }
        blobs.writers += 1;
        let writer = blobs.writers;
        let staged = blobs.staged.get_mut(key).ok_or_else(missing)?;
        staged.writer = writer;
        if staged.bytes.len() < length {
            return Err(missing());
        }
        if staged.bytes.len() > length {
            staged.bytes.truncate(length);
            staged.synced = staged.synced.map(|synced| synced.min(length));
            staged.modified_at = modified_at;
        }
        Ok(Box::new(MemoryWriter {
            store: self.clone(),
            key: key.clone(),
            writer,
        }))
    }

    async fn read_staged(&self, key: &BlobKey, range: Range<u64>) -> Result<BlobStream, BlobError> {
        let blobs = self.lock();
        let staged = blobs
            .staged
            .get(key)
            .ok_or_else(|| BlobError::Missing { key: key.clone() })?;
        Ok(read(key, &Bytes::copy_from_slice(&staged.bytes), range))
    }

    async fn publish(&self, key: &BlobKey, size: u64) -> Result<(), BlobError> {
        let mut blobs = self.lock();
        let has_size = |bytes: &[u8]| bytes.len() as u64 == size;
        if let Some(staged) = blobs.staged.get_mut(key) {
            staged.writer = 0;
        }
        match (blobs.staged.get(key), blobs.published.get(key)) {
            (Some(staged), _) if has_size(&staged.bytes) => {
                if let Some((key, staged)) = blobs.staged.remove_entry(key) {
                    let published = Published {
                        bytes: staged.bytes.into(),
                        modified_at: staged.modified_at,
                    };
                    blobs.published.insert(key, published);
                }
                Ok(())
            }
            (None, Some(published)) if has_size(&published.bytes) => Ok(()),
            _ => Err(BlobError::Missing { key: key.clone() }),
        }
    }

    async fn discard(&self, key: &BlobKey) -> Result<(), BlobError> {
        self.lock().staged.remove(key);
        Ok(())
    }

    async fn open(&self, key: &BlobKey, size: u64) -> Result<Arc<dyn Blob>, BlobError> {
        match self.lock().published.get(key) {
            Some(published) if published.bytes.len() as u64 == size => Ok(Arc::new(MemoryBlob {
                key: key.clone(),
                bytes: published.bytes.clone(),
            })),
            _ => Err(BlobError::Missing { key: key.clone() }),
        }
    }

    async fn delete(&self, key: &BlobKey) -> Result<(), BlobError> {
        self.lock().published.remove(key);
        Ok(())
    }

    async fn list(
        &self,
        state: BlobState,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobEntry>, BlobError> {
        let from = (
            after.map_or(Bound::Unbounded, Bound::Excluded),
            Bound::Unbounded,
        );
        let blobs = self.lock();
        Ok(match state {
            BlobState::Staged => blobs
                .staged
                .range::<BlobKey, _>(from)
                .take(limit)
                .map(|(key, staged)| entry(key, staged.modified_at))
                .collect(),
            BlobState::Published => blobs
                .published
                .range::<BlobKey, _>(from)
                .take(limit)
                .map(|(key, published)| entry(key, published.modified_at))
                .collect(),
        })
    }

    async fn check(&self) -> Result<(), BlobError> {
        Ok(())
    }
}

impl MemoryWriter {
    fn work<T>(&self, work: impl FnOnce(&mut Staged) -> T) -> Result<T, BlobError> {
        let mut blobs = self.store.lock();
        blobs
            .staged
            .get_mut(&self.key)
            .filter(|staged| staged.writer == self.writer)
            .map(work)
            .ok_or_else(|| BlobError::Failed {
                doing: format!("write to blob {}", self.key),
                source: "another writer has taken over".into(),
            })
    }
}

#[async_trait]
impl StagedBlob for MemoryWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        let now = self.store.clock.now();
        self.work(|staged| {
            staged.bytes.extend_from_slice(&bytes);
            staged.modified_at = now;
        })
    }

    async fn sync(&mut self) -> Result<u64, BlobError> {
        self.work(|staged| {
            staged.synced = Some(staged.bytes.len());
            staged.bytes.len() as u64
        })
    }

    async fn close(mut self: Box<Self>) -> Result<u64, BlobError> {
        self.sync().await
    }

    async fn publish(mut self: Box<Self>) -> Result<u64, BlobError> {
        let size = self.sync().await?;
        self.store.publish(&self.key, size).await?;
        Ok(size)
    }
}

#[derive(Debug)]
struct MemoryBlob {
    key: BlobKey,
    bytes: Bytes,
}

#[async_trait]
impl Blob for MemoryBlob {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, range: Range<u64>) -> BlobStream {
        read(&self.key, &self.bytes, range)
    }

    async fn link(&self, _: LinkFields<'_>) -> Result<Option<Link>, BlobError> {
        Ok(None)
    }
}

fn read(key: &BlobKey, bytes: &Bytes, range: Range<u64>) -> BlobStream {
    let (Ok(start), Ok(end)) = (usize::try_from(range.start), usize::try_from(range.end)) else {
        return missing(key);
    };
    if start >= end {
        return stream::empty().boxed();
    }
    if end > bytes.len() {
        return missing(key);
    }
    let mut rest = bytes.slice(start..end);
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        chunks.push(Ok(rest.split_to(CHUNK.min(rest.len()))));
    }
    stream::iter(chunks).boxed()
}

fn missing(key: &BlobKey) -> BlobStream {
    stream::iter([Err(BlobError::Missing { key: key.clone() })]).boxed()
}

fn entry(key: &BlobKey, modified_at: Timestamp) -> BlobEntry {
    BlobEntry {
        key: key.clone(),
        modified_at,
    }
}

#[cfg(test)]
mod tests {
    use domain::clock::SystemClock;

    use super::*;

    fn at(offset: u64) -> Growth {
        Growth {
            offset,
            ..Growth::NEW
        }
    }

    #[tokio::test]
    async fn a_power_cut_takes_what_was_not_synced() {
        let store = MemoryBlobStore::new(Arc::new(SystemClock));
        let (kept, lost) = ("kept".parse().unwrap(), "lost".parse().unwrap());
        let mut writer = store.stage(&kept, at(0)).await.unwrap();
        writer.write(Bytes::from_static(b"abc")).await.unwrap();
        writer.sync().await.unwrap();
        writer.write(Bytes::from_static(b"def")).await.unwrap();
        let mut other = store.stage(&lost, at(0)).await.unwrap();
        other.write(Bytes::from_static(b"abc")).await.unwrap();

        store.cut_power();
        writer.write(Bytes::from_static(b"ghi")).await.unwrap_err();
        assert!(store.stage(&kept, at(4)).await.is_err());
        assert!(store.stage(&kept, at(3)).await.is_ok());
        assert!(store.stage(&lost, at(1)).await.is_err());
    }
}
