//! File rows in memory, in front of the engine.
//!
//! Only for a database that one process owns. A reader that misses takes the path's place in the
//! cache, reads the row, and fills the place; a writer puts what it committed over whatever is
//! there before it answers. If that happened while a reader was reading, the place is no longer the
//! reader's and its row, which may be the older one, is not kept.

use std::future::Future;
use std::sync::Arc;

use bytesize::ByteSize;
use domain::metadata_store::MetadataError;
use domain::{File, FilePath};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// The file under a path, or the knowledge that there is none.
pub(crate) type Known = Option<Arc<File>>;

/// The cache.
#[derive(Debug)]
pub(crate) struct FileCache(Cache<FilePath, Known, Bytes>);

impl FileCache {
    /// One that holds up to about `size` of rows.
    pub(crate) fn new(size: ByteSize) -> Self {
        let expected = usize::try_from(size.as_u64() / TYPICAL_WEIGHT).unwrap_or(usize::MAX);
        Self(Cache::with_weighter(expected, size.as_u64(), Bytes))
    }

    /// Returns the file under `path`, by `read` if the cache does not know it.
    ///
    /// # Cancel safety
    /// May be dropped anywhere; another waiting reader then reads.
    pub(crate) async fn get_or_read(
        &self,
        path: &FilePath,
        read: impl Future<Output = Result<Option<File>, MetadataError>>,
    ) -> Result<Known, MetadataError> {
        let place = match self.0.get_value_or_guard_async(path).await {
            Ok(known) => return Ok(known),
            Err(place) => place,
        };
        let known = read.await?.map(Arc::new);
        // Refused where a writer came between; for this reader, which began before, the row is
        // right all the same.
        let _ = place.insert(known.clone());
        Ok(known)
    }

    /// Learns what was committed.
    pub(crate) fn put(&self, path: FilePath, known: Known) {
        self.0.insert(path, known);
    }

    /// Forgets a path of which it is not sure what was committed.
    pub(crate) fn forget(&self, path: &FilePath) {
        self.0.remove(path);
    }
}

/// Bytes of a row of usual size, with its place in the cache.
const TYPICAL_WEIGHT: u64 = 512;

/// Weighs entries by the memory that they take.
#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<FilePath, Known> for Bytes {
    fn weight(&self, path: &FilePath, known: &Known) -> u64 {
        /// Links, hashes and allocations of an entry.
        const OVERHEAD: usize = 128;
        let row = known.as_ref().map_or(0, |file| {
            let description = [&file.description.media_type, &file.description.filename];
            size_of::<File>()
                + file.content.blob.as_str().len()
                + description
                    .into_iter()
                    .flatten()
                    .map(String::len)
                    .sum::<usize>()
        });
        (OVERHEAD + path.as_str().len() + row) as u64
    }
}
