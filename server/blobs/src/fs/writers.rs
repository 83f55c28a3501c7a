//! Claims on keys: the right to change the blob of a key.
//!
//! Staging, publishing and discarding take a [`Claim`] at the moment of the call. Only the newest
//! claim on a key is valid: when its work begins, it ends all earlier claims and waits for their
//! work that runs already. Work of theirs that has not begun by then fails. Newer claims wait for
//! older ones, never the other way round, and only for work that runs already; so there is no
//! deadlock.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::{io, mem, ptr};

use domain::BlobKey;
use domain::blob_store::BlobError;

use super::{Root, failed};

/// Newest claim on each key that has one.
#[derive(Debug, Default)]
pub(super) struct Writers {
    claims: Mutex<HashMap<BlobKey, Weak<Claim>>>,
}

/// Right to change the blob of a key. Work in flight holds it too.
#[derive(Debug)]
pub(super) struct Claim {
    key: BlobKey,
    state: Mutex<State>,
    root: Arc<Root>,
}

#[derive(Debug)]
enum State {
    /// No work was done yet. The claim before, if there is one, is still valid.
    Waiting(Option<Arc<Claim>>),
    /// A file is open for writing.
    Open(OpenFile),
    /// The claim is done, has failed, or a newer one has ended it.
    Over,
}

/// Staged file that is open for writing.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) file: File,
    /// Offset of the next byte, which is also the length of the file.
    pub(super) position: u64,
    /// Offset up to which the kernel was asked to write to the disk. `written_back <= position`
    pub(super) written_back: u64,
}

impl Claim {
    /// Takes the newest claim on `key`.
    pub(super) fn take(root: &Arc<Root>, key: &BlobKey) -> Arc<Self> {
        let mut claims = root.writers.lock();
        let earlier = claims.get(key).and_then(Weak::upgrade);
        let claim = Arc::new(Self {
            key: key.clone(),
            state: Mutex::new(State::Waiting(earlier)),
            root: Arc::clone(root),
        });
        claims.insert(key.clone(), Arc::downgrade(&claim));
        claim
    }

    /// Runs the first `work` of the claim, which may leave a file to write to. For the blocking
    /// pool.
    pub(super) fn begin<T>(
        &self,
        work: impl FnOnce(&mut Option<OpenFile>) -> Result<T, BlobError>,
    ) -> Result<T, BlobError> {
        let mut state = self.lock();
        let State::Waiting(mut earlier) = mem::replace(&mut *state, State::Over) else {
            return Err(self.is_over());
        };
        while let Some(claim) = earlier {
            earlier = match mem::replace(&mut *claim.lock(), State::Over) {
                State::Waiting(earlier) => earlier,
                State::Open(_) | State::Over => None,
            };
        }
        let mut open = None;
        let done = work(&mut open)?;
        if let Some(file) = open {
            *state = State::Open(file);
        }
        Ok(done)
    }

    /// Runs `work` on the open file. If it fails, the claim is over. For the blocking pool.
    pub(super) fn go_on<T>(
        &self,
        work: impl FnOnce(&mut OpenFile) -> Result<T, BlobError>,
    ) -> Result<T, BlobError> {
        let mut state = self.lock();
        let State::Open(file) = &mut *state else {
            return Err(self.is_over());
        };
        let result = work(file);
        if result.is_err() {
            *state = State::Over;
        }
        result
    }

    /// Runs the last `work` of the claim, after which it cannot write. For the blocking pool.
    pub(super) fn end<T>(
        &self,
        work: impl FnOnce() -> Result<T, BlobError>,
    ) -> Result<T, BlobError> {
        let mut state = self.lock();
        match mem::replace(&mut *state, State::Over) {
            State::Open(_) => work(),
            State::Waiting(_) | State::Over => Err(self.is_over()),
        }
    }

    pub(super) fn key(&self) -> &BlobKey {
        &self.key
    }

    pub(super) fn root(&self) -> &Arc<Root> {
        &self.root
    }

    fn is_over(&self) -> BlobError {
        failed(
            format!("change blob {}", self.key),
            io::Error::other("a newer writer has taken it over, or a write failed"),
        )
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("file operations do not panic")
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = self.root.writers.lock();
        if claims
            .get(&self.key)
            .is_some_and(|newest| ptr::eq(newest.as_ptr(), self))
        {
            claims.remove(&self.key);
        }
    }
}

impl Writers {
    fn lock(&self) -> MutexGuard<'_, HashMap<BlobKey, Weak<Claim>>> {
        self.claims.lock().expect("map operations do not panic")
    }
}
