//! Who may change what a key stands for.
//!
//! Whoever stages, publishes or discards a key takes a [`Turn`], at the moment of the call. The newest turn of a key is the only one
//! that counts: when its work begins, it cuts off all earlier ones and waits for what is being done under them. Work of theirs that
//! has not begun by then fails. Newer turns wait for older ones, never the other way round, and only for work that runs
//! already; so nobody waits in a circle.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::{io, mem, ptr};

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
    state: Mutex<State>,
    root: Arc<Root>,
}

#[derive(Debug)]
enum State {
    /// Nothing was done yet. The turn before, if there is one, still counts.
    Waiting(Option<Arc<Turn>>),
    /// There is a file to write to.
    Open(OpenFile),
    /// Nothing can be done any more: it is done, it failed, or a newer turn counts.
    Over,
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
    /// Takes the newest turn of `key`.
    pub(super) fn take(root: &Arc<Root>, key: &BlobKey) -> Arc<Self> {
        let mut turns = root.writers.hold();
        let earlier = turns.get(key).and_then(Weak::upgrade);
        let turn = Arc::new(Self {
            key: key.clone(),
            state: Mutex::new(State::Waiting(earlier)),
            root: Arc::clone(root),
        });
        turns.insert(key.clone(), Arc::downgrade(&turn));
        turn
    }

    /// Does the `work` of this turn, which may leave a file to be written to. For the blocking pool.
    pub(super) fn begin<T>(
        &self,
        work: impl FnOnce(&mut Option<OpenFile>) -> Result<T, BlobError>,
    ) -> Result<T, BlobError> {
        let mut state = self.hold();
        let State::Waiting(mut earlier) = mem::replace(&mut *state, State::Over) else {
            return Err(self.is_over());
        };
        while let Some(turn) = earlier {
            earlier = match mem::replace(&mut *turn.hold(), State::Over) {
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

    /// Does `work` on the file that is open under this turn. If it fails, that was the last. For the blocking pool.
    pub(super) fn go_on<T>(
        &self,
        work: impl FnOnce(&mut OpenFile) -> Result<T, BlobError>,
    ) -> Result<T, BlobError> {
        let mut state = self.hold();
        let State::Open(file) = &mut *state else {
            return Err(self.is_over());
        };
        let result = work(file);
        if result.is_err() {
            *state = State::Over;
        }
        result
    }

    /// Does the last `work` of this turn, after which nothing more can be written under it. For the blocking pool.
    pub(super) fn end<T>(
        &self,
        work: impl FnOnce() -> Result<T, BlobError>,
    ) -> Result<T, BlobError> {
        let mut state = self.hold();
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
            io::Error::other("somebody else has changed it since, or a write failed"),
        )
    }

    fn hold(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("file operations do not panic")
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
