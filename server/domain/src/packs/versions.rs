//! Versions in memory.
//!
//! To read a file or an archive of a version takes its catalogue, and the forms and places of its
//! files. They are loaded together, once for all requests that wait for them, and kept as long as
//! memory allows.

use std::hash::Hash;
use std::io::Read;
use std::sync::Arc;

use archive::{Catalogue, Forms};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Library;
use super::places::Places;
use crate::Error;
use crate::digest::Sha256Digest;
use crate::file::Content;
use crate::pack::PackVersion;

/// A loaded version.
#[derive(Debug)]
pub(crate) struct Version {
    pub(super) record: PackVersion,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) forms: Arc<Forms>,
    /// Places of the files, checked to lie within their blobs.
    pub(super) places: Places,
}

impl Version {
    /// Combines the parts; `None` if they do not match.
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

    /// Returns the approximate size in memory, in bytes.
    fn memory(&self) -> usize {
        size_of::<Self>() + self.catalogue.memory() + self.forms.memory() + self.places.memory()
    }
}

/// Cache of versions by the digests of their catalogues.
#[derive(Debug)]
pub(super) struct Versions {
    loaded: Cache<Sha256Digest, Arc<Version>, Capped<VersionMemory>>,
    turns: Semaphore,
}

impl Versions {
    /// Creates a cache of about `memory` bytes, which holds one version in any case.
    pub(super) fn new(memory: u64) -> Self {
        Self {
            loaded: capped_cache(memory, VersionMemory),
            turns: Semaphore::new(TURNS),
        }
    }

    /// Returns true if the cache holds a version with this very `Arc` of a catalogue.
    pub(super) fn keep(&self, catalogue: &Arc<Catalogue>) -> bool {
        self.loaded
            .peek(&catalogue.digest())
            .is_some_and(|version| Arc::ptr_eq(&version.catalogue, catalogue))
    }

    /// Waits for a permit for work that takes memory in proportion to a version.
    ///
    /// # Cancel safety
    /// May be dropped anywhere.
    pub(super) async fn turn(&self) -> SemaphorePermit<'_> {
        let turn = self.turns.acquire().await;
        turn.expect("nobody closes the semaphore")
    }
}

/// Maximum size in bytes of a catalogue that is read whole before it is decoded, which is faster
/// than decoding it while it is read: the first byte of a difference of 10,000 files came after 21
/// ms instead of 26. A catalogue of 16 MiB lists about 120,000 files.
const READ_WHOLE: u64 = 16 * 1024 * 1024;
/// Maximum number of versions that are loaded, or archives that are laid out, at the same time.
const TURNS: usize = 4;

impl Library {
    /// Returns the version of this record, and loads it unless it is cached. One request loads it
    /// for all that wait.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a document is not the published one, or a store's error.
    ///
    /// # Cancel safety
    /// May be dropped anywhere; another waiting request then loads the version.
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
        // Inserting fails only if another task has put the version there, which none does.
        let _ = room.insert(Arc::clone(&version));
        // Versions that this one evicted must not stay in memory through their layouts.
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

/// Returns all bytes of the reader; `None` if reading fails.
fn read_whole(reader: &mut dyn Read, capacity: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(capacity);
    reader.read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Weighs versions by their size in memory.
#[derive(Debug, Clone)]
struct VersionMemory;

impl Weighter<Sha256Digest, Arc<Version>> for VersionMemory {
    fn weight(&self, _: &Sha256Digest, version: &Arc<Version>) -> u64 {
        version.memory() as u64
    }
}

/// Creates a cache for values of about `memory` bytes together; one value fits in any case.
///
/// The cache is one shard, so that a value may take all of the memory.
pub(super) fn capped_cache<K: Eq + Hash, V: Clone, W: Weighter<K, V> + Clone>(
    memory: u64,
    weighter: W,
) -> Cache<K, V, Capped<W>> {
    let memory = memory.max(MIN_MEMORY);
    let options = OptionsBuilder::new()
        .shards(1)
        .weight_capacity(memory)
        .estimated_items_capacity(ESTIMATED_VALUES)
        .build()
        .expect("all that is needed is set");
    let weighter = Capped {
        // The cache refuses values above 97 % of its capacity.
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

/// Minimum capacity of a cache, in bytes.
const MIN_MEMORY: u64 = 1024;
/// Number of values that the cache expects, from which it derives how many evicted keys it
/// remembers.
const ESTIMATED_VALUES: usize = 256;

/// Weighs a value that exceeds the memory as if it took all of it.
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

    use super::super::archives::testing::{Synthetic, blob_key, library, mixture, tiny};
    use super::*;

    const DOCUMENTS: [&str; 3] = ["catalogue", "forms", "places"];

    #[tokio::test]
    async fn a_version_is_loaded_once_for_all_who_ask() {
        let pack = Synthetic::new(&mixture(500));
        // A version larger than the whole memory still fits.
        for memory in [ByteSize::mib(64), ByteSize::b(0)] {
            let (library, log) = library(&[&pack], memory);
            let record = &pack.version.record;
            let at_once = (0..5).map(|_| library.load(record.clone()));
            let mut loaded = try_join_all(at_once).await.unwrap();
            loaded.push(library.load(record.clone()).await.unwrap());
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
            let (library, _) = library(&[&pack], ByteSize::mib(1));
            for _ in 0..2 {
                let error = library.load(pack.version.record.clone()).await.unwrap_err();
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
            let (library, _) = library(&[&pack], ByteSize::mib(1));
            let error = library.load(pack.version.record.clone()).await.unwrap_err();
            assert!(matches!(error, Error::Store { .. }), "{name}: {error:?}");
        }
    }
}
