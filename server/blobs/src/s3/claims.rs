//! Claims of this process on keys: the right to change the blob of a key, and the order of changes.
//!
//! Between processes, the epochs of uploads order the writers. Within a process the order of calls
//! does: staging, publishing and discarding take a [`Claim`] at the moment of the call. Only the
//! newest claim on a key is valid, and the claims on one key inspect and change the bucket one
//! after the other. Requests of an older claim may still be under way; they have a lower rank, like
//! those of another process.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use domain::BlobKey;
use domain::blob_store::BlobError;
use tokio::sync::MutexGuard;

use super::names::Rank;

/// Number of unclaimed keys above which their entries are dropped.
const MAX_REMEMBERED: usize = 4096;
/// Maximum number of sessions that are remembered for each key.
const MAX_SESSIONS: usize = 16;

/// Keys that this process has lately changed.
#[derive(Debug, Default)]
pub(super) struct Claims {
    entries: Mutex<HashMap<BlobKey, Arc<Entry>>>,
    /// Number of the newest claim of the process.
    newest: AtomicU64,
}

#[derive(Debug, Default)]
struct Entry {
    /// Number of the newest claim on the key.
    newest: AtomicU64,
    /// Greatest epoch that a claim was taken for.
    epoch: AtomicU64,
    /// Held while a claim inspects and changes the bucket.
    work: tokio::sync::Mutex<()>,
    /// Set while the blob grows: an object at its published name is not the blob yet.
    grows: AtomicBool,
    /// Ranks of the latest sessions, each with the `sends` flag of its claim.
    sessions: Mutex<Vec<(Rank, Arc<AtomicBool>)>>,
}

/// Right of one caller to change the blob of a key, until a newer claim is taken.
#[derive(Debug)]
pub(super) struct Claim {
    key: BlobKey,
    entry: Arc<Entry>,
    number: u64,
    /// Set before the claim sends a part or ends a multipart upload.
    sends: Arc<AtomicBool>,
    /// Set if the process had no entry of the key before.
    is_first: bool,
}

impl Claims {
    /// Takes the newest claim on `key`, for a writer of `epoch`.
    ///
    /// # Errors
    /// [`BlobError::Failed`] if a writer of a greater epoch has taken a claim before.
    pub(super) fn take_for(&self, key: &BlobKey, epoch: u64) -> Result<Arc<Claim>, BlobError> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(key) {
            if entry.epoch.fetch_max(epoch, Ordering::SeqCst) > epoch {
                return Err(superseded(key));
            }
            return Ok(self.claim(&mut entries, key));
        }
        let claim = self.claim(&mut entries, key);
        claim.entry.epoch.store(epoch, Ordering::SeqCst);
        Ok(claim)
    }

    /// Takes the newest claim on `key`.
    pub(super) fn take(&self, key: &BlobKey) -> Arc<Claim> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        self.claim(&mut entries, key)
    }

    fn claim(&self, entries: &mut HashMap<BlobKey, Arc<Entry>>, key: &BlobKey) -> Arc<Claim> {
        let is_first = !entries.contains_key(key);
        if is_first && entries.len() >= MAX_REMEMBERED {
            entries.retain(|_, entry| Arc::strong_count(entry) > 1);
        }
        let entry = Arc::clone(entries.entry(key.clone()).or_default());
        let number = self.newest.fetch_add(1, Ordering::SeqCst) + 1;
        entry.newest.store(number, Ordering::SeqCst);
        Arc::new(Claim {
            key: key.clone(),
            entry,
            number,
            sends: Arc::default(),
            is_first,
        })
    }

    /// Raises the counter above `session`, a number that another process issued, and returns the
    /// next number.
    pub(super) fn number_after(&self, session: u64) -> u64 {
        self.newest.fetch_max(session, Ordering::SeqCst);
        self.newest.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Returns `true` if the blob grew in this process and is not known to be published since.
    pub(super) fn grows(&self, key: &BlobKey) -> bool {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries
            .get(key)
            .is_some_and(|entry| entry.grows.load(Ordering::SeqCst))
    }

    /// Records that another process has published the blob.
    pub(super) fn set_published(&self, key: &BlobKey) {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(key) {
            entry.grows.store(false, Ordering::SeqCst);
        }
    }
}

impl Claim {
    pub(super) fn key(&self) -> &BlobKey {
        &self.key
    }

    /// Returns the number of the claim: newer claims of the process have greater ones.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Returns `true` if the process had no entry of the key before this claim.
    pub(super) fn is_first(&self) -> bool {
        self.is_first
    }

    /// Waits until the work of earlier claims on the key is done.
    ///
    /// # Errors
    /// [`BlobError::Failed`] if a newer claim was taken.
    pub(super) async fn begin(&self) -> Result<MutexGuard<'_, ()>, BlobError> {
        let guard = self.entry.work.lock().await;
        self.check()?;
        Ok(guard)
    }

    /// Checks that this is the newest claim on the key.
    ///
    /// # Errors
    /// [`BlobError::Failed`] if it is not.
    pub(super) fn check(&self) -> Result<(), BlobError> {
        if self.entry.newest.load(Ordering::SeqCst) == self.number {
            Ok(())
        } else {
            Err(self.superseded())
        }
    }

    /// Announces that a part will be sent: newer claims must fence the multipart upload from now
    /// on.
    ///
    /// # Errors
    /// [`BlobError::Failed`] if a newer claim was taken, which may not have seen the announcement.
    pub(super) fn announce_part(&self) -> Result<(), BlobError> {
        self.sends.store(true, Ordering::SeqCst);
        self.check()
    }

    /// Announces that a multipart upload will be ended. The server may end it after this process
    /// has stopped to wait for the answer, so newer claims must not continue the upload.
    ///
    /// # Errors
    /// As [`Self::announce_part`].
    pub(super) fn announce_end(&self) -> Result<(), BlobError> {
        self.announce_part()
    }

    /// Registers the rank of the session that works under this claim.
    pub(super) fn register(&self, rank: Rank) {
        let mut sessions = self.lock_sessions();
        sessions.push((rank, Arc::clone(&self.sends)));
        if sessions.len() > MAX_SESSIONS {
            sessions.remove(0);
        }
    }

    /// Returns `true` if the session of this rank belongs to this process and has announced
    /// nothing. With a newer claim taken, it cannot announce anything any more.
    pub(super) fn is_idle(&self, rank: Rank) -> bool {
        self.lock_sessions()
            .iter()
            .any(|(registered, sends)| *registered == rank && !sends.load(Ordering::SeqCst))
    }

    /// Records whether the blob grows.
    pub(super) fn set_grows(&self, grows: bool) {
        self.entry.grows.store(grows, Ordering::SeqCst);
    }

    /// Returns the error of a caller that a newer one has superseded.
    pub(super) fn superseded(&self) -> BlobError {
        superseded(&self.key)
    }

    fn lock_sessions(&self) -> std::sync::MutexGuard<'_, Vec<(Rank, Arc<AtomicBool>)>> {
        self.entry
            .sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn superseded(key: &BlobKey) -> BlobError {
    BlobError::Failed {
        doing: format!("change blob {key}"),
        source: Box::new(io::Error::other("a newer writer has taken it over")),
    }
}
