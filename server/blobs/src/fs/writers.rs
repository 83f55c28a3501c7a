//! Who may change what a key stands for.
//!
//! At any moment at most one [`Turn`] counts for a key: the newest. Taking one cuts off the one before and waits for the work that
//! is being done under it; work that has not begun then fails. Newer turns wait for older ones and never the other way round, and
//! only for work that runs already, so nobody waits in a circle.

use std::collections::HashMap;
use std::fs::File;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use domain::BlobKey;
use domain::blob_store::BlobError;

use super::{Root, failed};

/// The newest turn of each key that has one.
#[derive(Debug, Default)]
pub(super) struct Writers {
    turns: Mutex<HashMap<BlobKey, Weak<Turn>>>,
}

/// The right to change what a key stands for. Work in flight holds it too.
#[derive(Debug)]
pub(super) struct Turn {
    key: BlobKey,
    /// `None` when there is nothing to write to: it was cut off, a write failed, or it is no writer's turn.
    open: Mutex<Option<OpenFile>>,
    root: Arc<Root>,
}

/// A staged file that is open for writing.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) file: File,
    /// Where the next byte goes, which is also the file's length.
    pub(super) position: u64,
    /// Up to where the kernel was asked to begin writing to the disk. `written_back <= position`
    pub(super) written_back: u64,
}

impl Turn {
    /// Takes the newest turn of `key` and does `work` under it, which may leave a file to be written under this turn later.
    /// For the blocking pool.
    pub(super) fn take<T>(
        root: &Arc<Root>,
        key: &BlobKey,
        work: impl FnOnce(&mut Option<OpenFile>) -> Result<T, BlobError>,
    ) -> Result<(Arc<Self>, T), BlobError> {
        let turn = Arc::new(Self {
            key: key.clone(),
            open: Mutex::new(None),
            root: Arc::clone(root),
        });
        // Held before others can see it: a newer turn waits until `work` is done.
        let mut open = turn.hold();
        let earlier = root
            .writers
            .hold()
            .insert(key.clone(), Arc::downgrade(&turn))
            .and_then(|earlier| earlier.upgrade());
        if let Some(earlier) = earlier {
            *earlier.hold() = None;
        }
        let done = work(&mut open)?;
        drop(open);
        Ok((turn, done))
    }

    /// Does `work` on the file of this turn, unless there is none any more. If it fails, nothing more can be done under this turn.
    /// For the blocking pool.
    pub(super) fn work<T>(
        &self,
        work: impl FnOnce(&mut OpenFile) -> Result<T, BlobError>,
    ) -> Result<T, BlobError> {
        let mut open = self.hold();
        let Some(file) = open.as_mut() else {
            return Err(failed(
                format!("write to blob {}", self.key),
                std::io::Error::other("another writer has taken over, or a write failed before"),
            ));
        };
        let result = work(file);
        if result.is_err() {
            *open = None;
        }
        result
    }

    pub(super) fn key(&self) -> &BlobKey {
        &self.key
    }

    fn hold(&self) -> MutexGuard<'_, Option<OpenFile>> {
        self.open.lock().expect("file operations do not panic")
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut turns = self.root.writers.hold();
        if turns
            .get(&self.key)
            .is_some_and(|newest| ptr::eq(newest.as_ptr(), self))
        {
            turns.remove(&self.key);
        }
    }
}

impl Writers {
    fn hold(&self) -> MutexGuard<'_, HashMap<BlobKey, Weak<Turn>>> {
        self.turns.lock().expect("map operations do not panic")
    }
}
