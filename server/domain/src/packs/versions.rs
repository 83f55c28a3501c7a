//! Versions in memory.
//!
//! Whoever reads a file or an archive of a version needs its catalogue, the forms and the places of its files. They are loaded
//! together, by one reader for all who wait, and kept as long as memory allows.

use std::hash::Hash;
use std::io::Read;
use std::sync::Arc;

use archive::{Catalogue, Forms};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Shared;
use super::places::Places;
use crate::Error;
use crate::digest::Sha256Digest;
use crate::file::Content;
use crate::pack::PackVersion;

/// A version that is ready to be read.
#[derive(Debug)]
pub(crate) struct Version {
    pub(super) record: PackVersion,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) forms: Arc<Forms>,
    /// All of them lie within their blobs.
    pub(super) places: Places,
}

impl Version {
    /// Puts the parts together, if they belong together.
    pub(super) fn new(
        record: PackVersion,
        catalogue: Catalogue,
        forms: Forms,
        places: Places,
    ) -> Option<Self> {
        places.hold(catalogue.tree(), &forms).then(|| Self {
            record,
            catalogue: Arc::new(catalogue),
            forms: Arc::new(forms),
            places,
        })
    }

    /// About how much memory it takes, in bytes.
    fn memory(&self) -> usize {
        size_of::<Self>() + self.catalogue.memory() + self.forms.memory() + self.places.memory()
    }
}

/// The versions in use, by the digests of their catalogues.
#[derive(Debug)]
pub(super) struct Versions {
    loaded: Cache<Sha256Digest, Arc<Version>, Capped<VersionMemory>>,
    turns: Semaphore,
}

impl Versions {
    /// Keeps versions of up to about `memory` bytes, and one in any case.
    pub(super) fn new(memory: u64) -> Self {
        Self {
            loaded: capped_cache(memory, VersionMemory),
            turns: Semaphore::new(TURNS),
        }
    }

    /// Whether this very catalogue is kept.
    pub(super) fn keep(&self, catalogue: &Arc<Catalogue>) -> bool {
        self.loaded
            .peek(&catalogue.digest())
            .is_some_and(|version| Arc::ptr_eq(&version.catalogue, catalogue))
    }

    /// Waits for leave to do work that takes memory in proportion to a version.
    ///
    /// # Cancel safety
    /// May be dropped anywhere.
    pub(super) async fn turn(&self) -> SemaphorePermit<'_> {
        let turn = self.turns.acquire().await;
        turn.expect("nobody closes the semaphore")
    }
}

/// Catalogues of up to so many bytes are decoded from memory rather than while they are read, which takes longer: the first byte of
/// a difference of 10,000 files came after 21 ms instead of 26. 16 MiB list about 120,000 files.
const READ_WHOLE: u64 = 16 * 1024 * 1024;
/// How many versions are loaded, or archives laid out, at the same time.
const TURNS: usize = 4;

impl Shared {
    /// The version of this record, ready to be read. Only the first reader after a while loads it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where a document is not what was published, or a store's.
    ///
    /// # Cancel safety
    /// May be dropped anywhere; another waiting reader then loads.
    pub(super) async fn load(&self, record: PackVersion) -> Result<Arc<Version>, Error> {
        let key = record.catalogue.sha256;
        let loaded = &self.versions.loaded;
        let room = match loaded.get_value_or_guard_async(&key).await {
            Ok(version) => return Ok(version),
            Err(room) => room,
        };
        let turn = self.versions.turn().await;
        let version = Arc::new(self.read_version(record).await?);
        drop(turn);
        // Refused only where somebody else put it there, which nobody does.
        let _ = room.insert(Arc::clone(&version));
        // It may have driven others out, which nothing should keep in memory now.
        self.layouts.drop_all_but(&self.versions);
        Ok(version)
    }

    async fn read_version(&self, record: PackVersion) -> Result<Version, Error> {
        let corrupt = {
            let (pack, number) = (record.pack.clone(), record.number);
            move |part: &str| Error::Corrupt {
                what: format!("the {part} of version {number} of pack {pack}"),
            }
        };
        let corrupted = corrupt.clone();
        let Content { size, sha256, .. } = record.catalogue;
        let capacity = capacity_for(&record.catalogue);
        let catalogue = self
            .read_document(&record.catalogue, move |reader| {
                let catalogue = match size <= READ_WHOLE {
                    true => read_whole(reader, capacity)
                        .and_then(|encoded| Catalogue::decode(&encoded, sha256).ok()),
                    false => Catalogue::decode_from(reader, sha256).ok(),
                };
                catalogue.ok_or_else(|| corrupted("catalogue"))
            })
            .await?;
        let corrupted = corrupt.clone();
        let sha256 = record.forms.sha256;
        let capacity = capacity_for(&record.forms);
        let (catalogue, forms) = self
            .read_document(&record.forms, move |reader| {
                let forms = read_whole(reader, capacity)
                    .and_then(|encoded| Forms::decode(&encoded, catalogue.tree()).ok())
                    .filter(|forms| forms.digest() == sha256)
                    .ok_or_else(|| corrupted("table of forms"))?;
                Ok((catalogue, forms))
            })
            .await?;
        let sha256 = record.places.sha256;
        let capacity = capacity_for(&record.places);
        self.read_document(&record.places.clone(), move |reader| {
            read_whole(reader, capacity)
                .filter(|encoded| Sha256Digest::of(encoded) == sha256)
                .and_then(|encoded| Places::decode(&encoded, catalogue.tree().len()))
                .and_then(|places| Version::new(record, catalogue, forms, places))
                .ok_or_else(|| corrupt("table of places"))
        })
        .await
    }
}

fn capacity_for(content: &Content) -> usize {
    usize::try_from(content.size).unwrap_or(0)
}

/// All that the reader has; none where it fails.
fn read_whole(reader: &mut dyn Read, capacity: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(capacity);
    reader.read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Weighs versions by the memory that they take.
#[derive(Debug, Clone)]
struct VersionMemory;

impl Weighter<Sha256Digest, Arc<Version>> for VersionMemory {
    fn weight(&self, _: &Sha256Digest, version: &Arc<Version>) -> u64 {
        version.memory() as u64
    }
}

/// A cache for values of up to about `memory` bytes; one value finds room in any case.
///
/// It is not divided, so that a value may take as much as there is.
pub(super) fn capped_cache<K: Eq + Hash, V: Clone, W: Weighter<K, V> + Clone>(
    memory: u64,
    weighter: W,
) -> Cache<K, V, Capped<W>> {
    let memory = memory.max(LEAST_MEMORY);
    let options = OptionsBuilder::new()
        .shards(1)
        .weight_capacity(memory)
        .estimated_items_capacity(ESTIMATED_VALUES)
        .build()
        .expect("all that is needed is set");
    let weighter = Capped {
        // The cache refuses what weighs more than 97 % of all.
        most: memory - memory / 16,
        weighter,
    };
    Cache::with_options(
        options,
        weighter,
        DefaultHashBuilder::default(),
        DefaultLifecycle::default(),
    )
}

/// Less than this is no cache.
const LEAST_MEMORY: u64 = 1024;
/// Only tells the cache how many keys of former values to remember.
const ESTIMATED_VALUES: usize = 256;

/// Weighs values that take more memory than there is as if they took all of it.
#[derive(Debug, Clone)]
pub(super) struct Capped<W> {
    most: u64,
    weighter: W,
}

impl<K, V, W: Weighter<K, V>> Weighter<K, V> for Capped<W> {
    fn weight(&self, key: &K, value: &V) -> u64 {
        self.weighter.weight(key, value).clamp(1, self.most)
    }
}

#[cfg(test)]
mod tests {
    use bytesize::ByteSize;
    use futures::future::try_join_all;

    use super::super::archives::testing::{Synthetic, blob_key, mixture, shared, tiny};
    use super::*;

    const DOCUMENTS: [&str; 3] = ["catalogue", "forms", "places"];

    #[tokio::test]
    async fn a_version_is_loaded_once_for_all_who_ask() {
        let pack = Synthetic::new(&mixture(500));
        // It finds room although it has more than all memory.
        for memory in [ByteSize::mib(64), ByteSize::b(0)] {
            let (shared, log) = shared(&[&pack], memory);
            let record = &pack.version.record;
            let at_once = (0..5).map(|_| shared.load(record.clone()));
            let mut loaded = try_join_all(at_once).await.unwrap();
            loaded.push(shared.load(record.clone()).await.unwrap());
            for version in &loaded {
                assert!(Arc::ptr_eq(version, &loaded[0]));
                assert_eq!(version.record, *record);
                assert_eq!(version.catalogue, pack.version.catalogue);
                assert_eq!(version.forms, pack.version.forms);
                assert_eq!(version.places, pack.version.places);
            }
            let documents = DOCUMENTS.map(|name| blob_key(1, name));
            assert_eq!(*log.opened.lock().unwrap(), documents);
        }
    }

    #[tokio::test]
    async fn damaged_documents_are_corrupt_and_not_kept() {
        for name in DOCUMENTS {
            let mut pack = Synthetic::new(&tiny(20, 50));
            let key = blob_key(1, name);
            let shelf = Arc::get_mut(&mut pack.shelf).unwrap();
            let mut bytes = shelf.blobs[&key].to_vec();
            let last = bytes.last_mut().unwrap();
            *last ^= 1;
            shelf.blobs.insert(key, bytes.into());
            let (shared, _) = shared(&[&pack], ByteSize::mib(1));
            for _ in 0..2 {
                let error = shared.load(pack.version.record.clone()).await.unwrap_err();
                let Error::Corrupt { what } = error else {
                    panic!("{name}: {error:?}");
                };
                assert!(
                    what.contains(name) && what.ends_with("of version 1 of pack p"),
                    "{what}"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_lost_document_is_the_stores_failure() {
        for name in DOCUMENTS {
            let mut pack = Synthetic::new(&tiny(20, 50));
            let shelf = Arc::get_mut(&mut pack.shelf).unwrap();
            shelf.blobs.remove(&blob_key(1, name)).unwrap();
            let (shared, _) = shared(&[&pack], ByteSize::mib(1));
            let error = shared.load(pack.version.record.clone()).await.unwrap_err();
            assert!(matches!(error, Error::Store { .. }), "{name}: {error:?}");
        }
    }
}
