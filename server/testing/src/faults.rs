//! Faults that a test plans for the operations of a store.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

/// Faults that a test can plan.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Fails without effect.
    Fails,
    /// Takes effect, then fails: the caller cannot know.
    FailsAfter,
    /// Fails because the store is full.
    IsFull,
    /// Fails because the store is unreachable.
    IsAway,
    /// Fails because the store refuses the operation.
    IsRefused,
    /// Fails because the store contradicts what it acknowledged.
    IsContradicted,
    /// Takes this much longer. With tokio's paused clock, no real time passes.
    Takes(Duration),
    /// Waits until the gate is opened.
    Waits(Gate),
    /// Fails a read after so many bytes, and any other operation at once.
    BreaksAfter(u64),
}

/// Holds operations back until it is opened, and signals their arrival.
#[derive(Debug, Clone)]
pub struct Gate {
    reached: Arc<Semaphore>,
    opened: Arc<Semaphore>,
}

/// Errors of a store that a test can plan.
pub(crate) trait PlannedError {
    /// Returns the error of an operation with a planned fault.
    fn planned(operation: &dyn Debug, fault: &Fault) -> Self;
}

/// Faults that are planned for operations, and the counts of their calls.
#[derive(Debug)]
pub struct Plan<O>(Mutex<State<O>>);

#[derive(Debug)]
struct State<O> {
    counts: HashMap<O, u64>,
    faults: HashMap<(O, u64), Fault>,
    always: HashMap<O, Fault>,
}

impl Gate {
    /// Returns a closed gate.
    pub fn new() -> Self {
        Self {
            reached: Arc::new(Semaphore::new(0)),
            opened: Arc::new(Semaphore::new(0)),
        }
    }

    /// Waits until an operation has reached the gate; each arrival counts once.
    pub async fn reached(&self) {
        if let Ok(permit) = self.reached.acquire().await {
            permit.forget();
        }
    }

    /// Lets all operations pass from now on.
    pub fn open(&self) {
        self.opened.close();
    }

    pub(crate) async fn pass(&self) {
        self.reached.add_permits(1);
        // The semaphore never has permits: this returns when it is closed.
        let _closed = self.opened.acquire().await;
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl<O> Default for Plan<O> {
    fn default() -> Self {
        Self(Mutex::new(State {
            counts: HashMap::new(),
            faults: HashMap::new(),
            always: HashMap::new(),
        }))
    }
}

impl<O: Copy + Debug + Eq + Hash> Plan<O> {
    /// Plans a fault for the next `operation`.
    pub fn next(&self, operation: O, fault: Fault) {
        self.nth(operation, 1, fault);
    }

    /// Plans a fault for the `n`-th `operation` from now on; the first is 1.
    pub fn nth(&self, operation: O, n: u64, fault: Fault) {
        let mut state = self.lock();
        let at = state.counts.get(&operation).copied().unwrap_or(0) + n;
        state.faults.insert((operation, at), fault);
    }

    /// Plans a fault for every `operation` from now on, until [`Plan::heal`].
    pub fn always(&self, operation: O, fault: Fault) {
        self.lock().always.insert(operation, fault);
    }

    /// Removes all planned faults.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.faults.clear();
        state.always.clear();
    }

    /// Returns the number of calls of `operation` so far.
    pub fn count(&self, operation: O) -> u64 {
        self.lock().counts.get(&operation).copied().unwrap_or(0)
    }

    /// Counts a call of an operation and returns the fault that is planned for it.
    pub(crate) fn fault(&self, operation: O) -> Option<Fault> {
        let mut state = self.lock();
        let count = state.counts.entry(operation).or_default();
        *count += 1;
        let at = (operation, *count);
        let planned = state.faults.remove(&at);
        planned.or_else(|| state.always.get(&operation).cloned())
    }

    /// Does the work of an operation, with the fault that is planned for it.
    pub(crate) async fn run<T, E: PlannedError>(
        &self,
        operation: O,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        match self.fault(operation) {
            None => work.await,
            Some(Fault::Takes(time)) => {
                tokio::time::sleep(time).await;
                work.await
            }
            Some(Fault::Waits(gate)) => {
                gate.pass().await;
                work.await
            }
            Some(fault @ Fault::FailsAfter) => {
                work.await.and_then(|_| Err(E::planned(&operation, &fault)))
            }
            Some(fault) => Err(E::planned(&operation, &fault)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<O>> {
        // The test that panicked with the lock reports the failure.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
