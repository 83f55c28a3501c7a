//! Cache of file rows in front of the engine.
//!
//! Only for a database that one process owns. On a miss, a reader reserves the path's place in the
//! cache, reads the row, and fills the place. A writer overwrites the place with the committed row
//! before it answers. A place that was overwritten while its reader read the row no longer belongs
//! to the reader: the row, which may be outdated, is not kept.

use std::future::Future;
use std::sync::Arc;

use bytesize::ByteSize;
use domain::metadata_store::MetadataError;
use domain::{File, FilePath};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// File under a path; `None` if the path is known to have none.
pub(crate) type Known = Option<Arc<File>>;

#[derive(Debug)]
pub(crate) struct FileCache(Cache<FilePath, Known, Bytes>);

impl FileCache {
    /// Creates a cache for about `size` of rows.
    pub(crate) fn new(size: ByteSize) -> Self {
        let expected = usize::try_from(size.as_u64() / TYPICAL_WEIGHT).unwrap_or(usize::MAX);
        Self(Cache::with_weighter(expected, size.as_u64(), Bytes))
    }

    /// Returns the file under `path`, and calls `read` for it on a miss.
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
        // The place refuses the row if a writer overwrote it. This reader began earlier and may
        // return the row all the same.
        let _ = place.insert(known.clone());
        Ok(known)
    }

    /// Stores the committed file of a path.
    pub(crate) fn put(&self, path: FilePath, known: Known) {
        self.0.insert(path, known);
    }

    /// Removes a path after a commit with an unknown outcome.
    pub(crate) fn forget(&self, path: &FilePath) {
        self.0.remove(path);
    }
}

/// Memory of a typical row and its cache entry, in bytes.
const TYPICAL_WEIGHT: u64 = 512;

/// Weighs entries by their memory, in bytes.
#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<FilePath, Known> for Bytes {
    fn weight(&self, path: &FilePath, known: &Known) -> u64 {
        /// Memory of an entry's links, hashes and allocations, in bytes.
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
