//! What is known of published blobs: they never change, so a blob that was looked at once need not be looked at again.

use std::num::NonZeroUsize;

use domain::BlobKey;
use quick_cache::sync::Cache;

use super::bucket::Object;

/// How many blobs are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16 * 1024).unwrap();

/// Published blobs that were looked at lately.
#[derive(Debug)]
pub(super) struct Heads {
    cache: Cache<BlobKey, Object>,
}

impl Heads {
    pub(super) fn new() -> Self {
        Self {
            cache: Cache::new(REMEMBERED.get()),
        }
    }

    pub(super) fn find(&self, key: &BlobKey) -> Option<Object> {
        self.cache.get(key)
    }

    pub(super) fn remember(&self, key: &BlobKey, object: &Object) {
        self.cache.insert(key.clone(), object.clone());
    }

    pub(super) fn forget(&self, key: &BlobKey) {
        self.cache.remove(key);
    }
}
