//! What this process knows of keys: who may change what a key stands for, and in which order.
//!
//! Across processes the epochs of uploads order the writers; here it is the order of the calls. Whoever stages, publishes or discards a
//! key takes a [`Turn`] at the moment of the call. Only the newest turn of a key counts, and turns of one key look at the bucket and
//! change it one after the other. Requests of an older turn may still be under way: they are of a lower rank, like those of another
//! process would be.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use domain::BlobKey;
use domain::blob_store::BlobError;
use tokio::sync::MutexGuard;

use super::names::Rank;

/// How many keys that nobody works on are remembered, roughly.
const REMEMBERED: usize = 4096;
/// How many claims that came to nothing are remembered of a key.
const MOST_IDLE: usize = 16;

/// The keys that were lately worked on.
#[derive(Debug, Default)]
pub(super) struct Keys {
    entries: Mutex<HashMap<BlobKey, Arc<Entry>>>,
    /// Counts the turns of the process.
    turns: AtomicU64,
}

#[derive(Debug, Default)]
struct Entry {
    /// The newest turn.
    newest: AtomicU64,
    /// The greatest epoch that a turn was taken for.
    epoch: AtomicU64,
    /// Held while the bucket is looked at and changed.
    work: tokio::sync::Mutex<()>,
    /// Whether the blob grows; so an object where it will be published is not the blob yet.
    grows: AtomicBool,
    /// Turns that claimed the key. Of those that are over and changed no multipart upload, nothing is to be feared.
    claims: Mutex<Vec<(Rank, Arc<AtomicBool>)>>,
}

/// The right to change what a key stands for.
#[derive(Debug)]
pub(super) struct Turn {
    key: BlobKey,
    entry: Arc<Entry>,
    number: u64,
    /// Whether it has sent a part or ended a multipart upload, or is about to.
    sends: Arc<AtomicBool>,
    /// Whether this process had nothing to do with the key before.
    is_first: bool,
}

impl Keys {
    /// Takes the newest turn of `key`, for a writer of an epoch.
    ///
    /// # Errors
    /// There was a turn for a writer of a greater epoch.
    pub(super) fn take_for(&self, key: &BlobKey, epoch: u64) -> Result<Arc<Turn>, BlobError> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(key) {
            if entry.epoch.fetch_max(epoch, Ordering::SeqCst) > epoch {
                return Err(overtaken(key));
            }
            return Ok(self.turn(&mut entries, key));
        }
        let turn = self.turn(&mut entries, key);
        turn.entry.epoch.store(epoch, Ordering::SeqCst);
        Ok(turn)
    }

    /// Takes the newest turn of `key`.
    pub(super) fn take(&self, key: &BlobKey) -> Arc<Turn> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        self.turn(&mut entries, key)
    }

    fn turn(&self, entries: &mut HashMap<BlobKey, Arc<Entry>>, key: &BlobKey) -> Arc<Turn> {
        let is_first = !entries.contains_key(key);
        if is_first && entries.len() >= REMEMBERED {
            entries.retain(|_, entry| Arc::strong_count(entry) > 1);
        }
        let entry = Arc::clone(entries.entry(key.clone()).or_default());
        let number = self.turns.fetch_add(1, Ordering::SeqCst) + 1;
        entry.newest.store(number, Ordering::SeqCst);
        Arc::new(Turn {
            key: key.clone(),
            entry,
            number,
            sends: Arc::default(),
            is_first,
        })
    }

    /// Has later turns have greater numbers than `session`, which another process gave.
    pub(super) fn pass(&self, session: u64) -> u64 {
        self.turns.fetch_max(session, Ordering::SeqCst);
        self.turns.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Whether the blob is known to grow.
    pub(super) fn grows(&self, key: &BlobKey) -> bool {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries
            .get(key)
            .is_some_and(|entry| entry.grows.load(Ordering::SeqCst))
    }

    /// Takes note of a blob that has been published elsewhere.
    pub(super) fn is_published(&self, key: &BlobKey) {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(key) {
            entry.grows.store(false, Ordering::SeqCst);
        }
    }
}

impl Turn {
    pub(super) fn key(&self) -> &BlobKey {
        &self.key
    }

    /// Orders the turns of this process.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether this process had nothing to do with the key before this turn.
    pub(super) fn is_first(&self) -> bool {
        self.is_first
    }

    /// Waits until earlier turns of this process have done what they began.
    ///
    /// # Errors
    /// A newer turn was taken.
    pub(super) async fn begin(&self) -> Result<MutexGuard<'_, ()>, BlobError> {
        let guard = self.entry.work.lock().await;
        self.check()?;
        Ok(guard)
    }

    /// Whether this is the newest turn.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn check(&self) -> Result<(), BlobError> {
        if self.entry.newest.load(Ordering::SeqCst) == self.number {
            Ok(())
        } else {
            Err(self.overtaken())
        }
    }

    /// Says that a part is going to be sent; from here on a newer turn has to reckon with it.
    ///
    /// # Errors
    /// A newer turn was taken, which may not have reckoned with it.
    pub(super) fn sends(&self) -> Result<(), BlobError> {
        self.sends.store(true, Ordering::SeqCst);
        self.check()
    }

    /// Says that a multipart upload is going to be ended. A server may do that after its answer was given up: so a newer turn must not
    /// go on with the upload.
    ///
    /// # Errors
    /// A newer turn was taken, which may not have reckoned with it.
    pub(super) fn ends(&self) -> Result<(), BlobError> {
        self.sends()
    }

    /// Remembers under which rank this turn claims the key.
    pub(super) fn claims(&self, rank: Rank) {
        let mut claims = self.hold_claims();
        claims.push((rank, Arc::clone(&self.sends)));
        if claims.len() > MOST_IDLE {
            claims.remove(0);
        }
    }

    /// Whether the session of this rank is one of this process that never sent a part nor ended a multipart upload; it cannot any
    /// more.
    pub(super) fn is_idle(&self, rank: Rank) -> bool {
        self.hold_claims()
            .iter()
            .any(|(claim, sends)| *claim == rank && !sends.load(Ordering::SeqCst))
    }

    /// Says whether the blob grows.
    pub(super) fn set_grows(&self, grows: bool) {
        self.entry.grows.store(grows, Ordering::SeqCst);
    }

    /// The error of who comes too late.
    pub(super) fn overtaken(&self) -> BlobError {
        overtaken(&self.key)
    }

    fn hold_claims(&self) -> std::sync::MutexGuard<'_, Vec<(Rank, Arc<AtomicBool>)>> {
        self.entry
            .claims
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn overtaken(key: &BlobKey) -> BlobError {
    BlobError::Failed {
        doing: format!("change blob {key}"),
        source: Box::new(io::Error::other("somebody else has changed it since")),
    }
}
