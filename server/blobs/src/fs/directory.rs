//! Directories whose entries are made durable.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use domain::blob_store::BlobError;
use tokio::sync::Mutex;

use super::{blocking, failed};

/// Knowledge of what is durable.
///
/// Once the kernel has reported that it could not write a directory, a later sync may succeed
/// without having written it. So the first failure is final: nothing is guaranteed until the store
/// is opened again.
#[derive(Debug, Default)]
pub(super) struct Durability {
    lost: AtomicBool,
}

impl Durability {
    /// Checks that no sync has failed.
    ///
    /// # Errors
    /// [`BlobError::Failed`] if one has.
    pub(super) fn check(&self) -> Result<(), BlobError> {
        self.state()
            .map_err(|error| failed("make a directory durable", error))
    }

    fn state(&self) -> io::Result<()> {
        if self.lost.load(Ordering::Acquire) {
            Err(io::Error::other(
                "an earlier attempt failed; restart to find out what is on the disk",
            ))
        } else {
            Ok(())
        }
    }
}

/// Directory. Callers that sync it at the same time share one `fsync`.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    durability: Arc<Durability>,
    /// Number of syncs that were requested.
    requested: AtomicU64,
    /// Number of them that are done. Locked by the caller that syncs.
    served: Arc<Mutex<u64>>,
}

impl Directory {
    pub(super) fn new(path: PathBuf, durability: Arc<Durability>) -> Self {
        Self {
            path,
            durability,
            requested: AtomicU64::new(0),
            served: Arc::default(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes all earlier changes of the directory durable.
    ///
    /// # Cancel safety
    /// If the future is dropped, a sync that has begun finishes by itself, for all callers that
    /// wait for it.
    pub(super) async fn sync(self: &Arc<Self>) -> Result<(), BlobError> {
        let ticket = self.requested.fetch_add(1, Ordering::AcqRel) + 1;
        let mut served = Arc::clone(&self.served).lock_owned().await;
        self.durability.check()?;
        if *served >= ticket {
            return Ok(());
        }
        let directory = Arc::clone(self);
        blocking(move || {
            let requested = directory.requested.load(Ordering::Acquire);
            directory.sync_now().map_err(|error| {
                failed(
                    format!("sync directory {}", directory.path.display()),
                    error,
                )
            })?;
            *served = requested;
            Ok(())
        })
        .await
    }

    /// Syncs on the current thread, for the blocking pool.
    pub(super) fn sync_now(&self) -> io::Result<()> {
        self.durability.state()?;
        File::open(&self.path)?.sync_all().inspect_err(|_| {
            self.durability.lost.store(true, Ordering::Release);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn those_who_ask_while_one_syncs_share_the_next_sync() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Arc::new(Directory::new(temporary.path().into(), Arc::default()));

        // As if a sync were under way: all callers request theirs before the next one begins.
        let under_way = Arc::clone(&directory.served).lock_owned().await;
        let waiting: Vec<_> = (0..8)
            .map(|_| {
                let directory = Arc::clone(&directory);
                tokio::spawn(async move { directory.sync().await })
            })
            .collect();
        while directory.requested.load(Ordering::Acquire) < 8 {
            tokio::task::yield_now().await;
        }
        drop(under_way);
        let mut waiting = waiting.into_iter();
        waiting.next().unwrap().await.unwrap().unwrap();
        assert_eq!(*directory.served.lock().await, 8);

        // The others do not touch the disk again: that would fail.
        temporary.close().unwrap();
        for task in waiting {
            task.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn after_a_failure_nothing_is_promised_any_more() {
        let temporary = tempfile::tempdir().unwrap();
        let durability = Arc::new(Durability::default());
        let directory = Arc::new(Directory::new(
            temporary.path().into(),
            Arc::clone(&durability),
        ));
        directory.sync().await.unwrap();

        durability.lost.store(true, Ordering::Release);
        directory.sync().await.unwrap_err();
        durability.check().unwrap_err();
    }
}
