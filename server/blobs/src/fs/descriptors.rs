//! Published files that are kept open, so that the next reader need not look them up.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use domain::BlobKey;
use domain::blob_store::BlobError;

use super::reading::{PublishedFile, Reads};

/// Most recently used files, up to a number.
#[derive(Debug)]
pub(super) struct Descriptors {
    capacity: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    files: HashMap<BlobKey, Entry>,
    /// Number of uses.
    uses: u64,
    /// Number of files that were forgotten.
    forgotten: u64,
}

#[derive(Debug)]
struct Entry {
    file: Arc<PublishedFile>,
    /// Number of uses at the last use of the file.
    used: u64,
}

impl Descriptors {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            open: Mutex::default(),
        }
    }

    /// Returns a file that is open already.
    pub(super) fn find(&self, key: &BlobKey) -> Option<Arc<PublishedFile>> {
        let mut open = self.lock();
        open.uses += 1;
        let used = open.uses;
        let entry = open.files.get_mut(key)?;
        entry.used = used;
        Some(Arc::clone(&entry.file))
    }

    /// Opens a file and keeps it. For the blocking pool.
    pub(super) fn open(
        &self,
        path: &Path,
        key: BlobKey,
        reads: Arc<Reads>,
    ) -> Result<Arc<PublishedFile>, BlobError> {
        let forgotten = self.lock().forgotten;
        let file = Arc::new(PublishedFile::open(path, key.clone(), reads)?);

        let mut open = self.lock();
        // If a file was deleted meanwhile, it may have been this one.
        if self.capacity == 0 || open.forgotten != forgotten {
            return Ok(file);
        }
        let evicted = if open.files.len() >= self.capacity {
            // The search costs little compared to opening a file.
            let oldest = open
                .files
                .iter()
                .min_by_key(|(_, entry)| entry.used)
                .map(|(key, _)| key.clone());
            oldest.and_then(|key| open.files.remove(&key))
        } else {
            None
        };
        open.uses += 1;
        let used = open.uses;
        let entry = Entry {
            file: Arc::clone(&file),
            used,
        };
        let replaced = open.files.insert(key, entry);
        drop(open);
        // Files are closed outside the lock.
        drop((evicted, replaced));
        Ok(file)
    }

    /// Closes a file that was removed, when its last reader is done.
    pub(super) fn forget(&self, key: &BlobKey) {
        let mut open = self.lock();
        open.forgotten += 1;
        let forgotten = open.files.remove(key);
        drop(open);
        drop(forgotten);
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("nothing panics while it holds it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Config;

    struct Files {
        directory: tempfile::TempDir,
        reads: Arc<Reads>,
        descriptors: Descriptors,
    }

    impl Files {
        fn new(capacity: usize) -> Self {
            Self {
                directory: tempfile::tempdir().unwrap(),
                reads: Arc::new(Reads::new(&Config::default()).unwrap()),
                descriptors: Descriptors::new(capacity),
            }
        }

        fn open(&self, name: &str) {
            let path = self.directory.path().join(name);
            std::fs::write(&path, name).unwrap();
            self.descriptors
                .open(&path, name.parse().unwrap(), Arc::clone(&self.reads))
                .unwrap();
        }

        fn is_open(&self, name: &str) -> bool {
            self.descriptors.find(&name.parse().unwrap()).is_some()
        }
    }

    #[test]
    fn the_least_recently_used_file_makes_room() {
        let files = Files::new(2);
        files.open("a");
        files.open("b");
        assert!(files.is_open("a"));
        files.open("c");
        assert!(files.is_open("a") && files.is_open("c"));
        assert!(!files.is_open("b"));
    }

    #[test]
    fn a_forgotten_file_is_not_found() {
        let files = Files::new(2);
        files.open("a");
        files.descriptors.forget(&"a".parse().unwrap());
        assert!(!files.is_open("a"));
    }

    #[test]
    fn nothing_is_kept_without_room() {
        let files = Files::new(0);
        files.open("a");
        assert!(!files.is_open("a"));
    }
}
