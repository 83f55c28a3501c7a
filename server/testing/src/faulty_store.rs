//! A blob store that fails as a test has planned.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;

use domain::BlobKey;
use domain::blob_store::{
    Blob, BlobEntry, BlobError, BlobState, BlobStore, BlobStream, Growth, Link, LinkFields,
    StagedBlob,
};

/// Operations that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`BlobStore::stage`].
    Stage,
    /// [`StagedBlob::write`], of any writer.
    Write,
    /// [`StagedBlob::sync`], of any writer.
    Sync,
    /// [`BlobStore::read_staged`].
    ReadStaged,
    /// [`BlobStore::publish`].
    Publish,
    /// [`BlobStore::discard`].
    Discard,
    /// [`BlobStore::open`].
    Open,
    /// [`Blob::read`], of any blob.
    Read,
    /// [`BlobStore::delete`].
    Delete,
    /// [`BlobStore::list`].
    List,
    /// [`BlobStore::check`].
    Check,
}

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

/// Wraps a store and injects planned faults; all other calls pass through.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn BlobStore>,
    plan: Arc<Plan>,
}

#[derive(Debug, Default)]
struct Plan {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    counts: HashMap<Operation, u64>,
    faults: HashMap<(Operation, u64), Fault>,
    always: HashMap<Operation, Fault>,
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

    pub(super) async fn pass(&self) {
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

impl FaultyStore {
    /// Returns a store without planned faults.
    pub fn new(inner: Arc<dyn BlobStore>) -> Self {
        Self {
            inner,
            plan: Arc::default(),
        }
    }

    /// Plans a fault for the next `operation`.
    pub fn next(&self, operation: Operation, fault: Fault) {
        self.nth(operation, 1, fault);
    }

    /// Plans a fault for the `n`-th `operation` from now on; the first is 1.
    pub fn nth(&self, operation: Operation, n: u64, fault: Fault) {
        let mut state = self.plan.lock();
        let at = state.counts.get(&operation).copied().unwrap_or(0) + n;
        state.faults.insert((operation, at), fault);
    }

    /// Plans a fault for every `operation` from now on, until [`FaultyStore::heal`].
    pub fn always(&self, operation: Operation, fault: Fault) {
        self.plan.lock().always.insert(operation, fault);
    }

    /// Removes all planned faults.
    pub fn heal(&self) {
        let mut state = self.plan.lock();
        state.faults.clear();
        state.always.clear();
    }

    /// Returns the number of calls of `operation` so far.
    pub fn count(&self, operation: Operation) -> u64 {
        self.plan
            .lock()
            .counts
            .get(&operation)
            .copied()
            .unwrap_or(0)
    }
}

impl Plan {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds it")
    }

    /// Counts an operation and returns the fault that is planned for it.
    fn count(&self, operation: Operation) -> Option<Fault> {
        let mut state = self.lock();
        let count = state.counts.entry(operation).or_default();
        *count += 1;
        let at = (operation, *count);
        let planned = state.faults.remove(&at);
        planned.or_else(|| state.always.get(&operation).cloned())
    }

    async fn run<T>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T, BlobError>>,
    ) -> Result<T, BlobError> {
        match self.count(operation) {
            None => work.await,
            Some(Fault::Fails | Fault::BreaksAfter(_)) => Err(planned(operation)),
            Some(Fault::FailsAfter) => work.await.and_then(|_| Err(planned(operation))),
            Some(Fault::IsFull) => Err(BlobError::Full),
            Some(Fault::IsAway) => Err(away(operation)),
            Some(Fault::IsRefused) => Err(refused(operation)),
            Some(Fault::IsContradicted) => Err(contradicted()),
            Some(Fault::Takes(time)) => {
                tokio::time::sleep(time).await;
                work.await
            }
            Some(Fault::Waits(gate)) => {
                gate.pass().await;
                work.await
            }
        }
    }

    fn stream(&self, operation: Operation, bytes: BlobStream) -> BlobStream {
        let error = planned(operation);
        match self.count(operation) {
            None => bytes,
            Some(Fault::Fails) => failing(error),
            Some(Fault::FailsAfter) => bytes.chain(failing(error)).boxed(),
            Some(Fault::IsFull) => failing(BlobError::Full),
            Some(Fault::IsAway) => failing(away(operation)),
            Some(Fault::IsRefused) => failing(refused(operation)),
            Some(Fault::IsContradicted) => failing(contradicted()),
            Some(Fault::Takes(time)) => tokio::time::sleep(time)
                .map(move |()| bytes)
                .flatten_stream()
                .boxed(),
            Some(Fault::Waits(gate)) => async move {
                gate.pass().await;
                bytes
            }
            .flatten_stream()
            .boxed(),
            Some(Fault::BreaksAfter(mut rest)) => bytes
                .map_ok(move |mut chunk| {
                    chunk.truncate(usize::try_from(rest).unwrap_or(usize::MAX));
                    rest -= chunk.len() as u64;
                    chunk
                })
                .try_take_while(|chunk| std::future::ready(Ok(!chunk.is_empty())))
                .chain(failing(error))
                .boxed(),
        }
    }
}

fn planned(operation: Operation) -> BlobError {
    BlobError::Failed {
        doing: format!("{operation:?}").to_lowercase(),
        source: "planned by the test".into(),
    }
}

fn away(operation: Operation) -> BlobError {
    BlobError::Unreachable {
        doing: format!("{operation:?}").to_lowercase(),
        source: "planned by the test".into(),
    }
}

fn refused(operation: Operation) -> BlobError {
    BlobError::Refused {
        doing: format!("{operation:?}").to_lowercase(),
        advice: "change the test".to_owned(),
        source: "planned by the test".into(),
    }
}

fn contradicted() -> BlobError {
    BlobError::Inconsistent {
        key: "planned".parse().expect("a key"),
        reason: "planned by the test".to_owned(),
    }
}

fn failing(error: BlobError) -> BlobStream {
    stream::iter([Err(error)]).boxed()
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl BlobStore for FaultyStore {
    async fn stage(&self, key: &BlobKey, growth: Growth) -> Result<Box<dyn StagedBlob>, BlobError> {
        let staged = self
            .plan
            .run(Operation::Stage, self.inner.stage(key, growth))
            .await?;
        Ok(Box::new(FaultyStaged {
            inner: staged,
            plan: Arc::clone(&self.plan),
        }))
    }

    async fn read_staged(&self, key: &BlobKey, range: Range<u64>) -> Result<BlobStream, BlobError> {
        let bytes = self.inner.read_staged(key, range).await?;
        Ok(self.plan.stream(Operation::ReadStaged, bytes))
    }

    async fn publish(&self, key: &BlobKey, size: u64) -> Result<(), BlobError> {
        self.plan
            .run(Operation::Publish, self.inner.publish(key, size))
            .await
    }

    async fn discard(&self, key: &BlobKey) -> Result<(), BlobError> {
        self.plan
            .run(Operation::Discard, self.inner.discard(key))
            .await
    }

    async fn open(&self, key: &BlobKey, size: u64) -> Result<Arc<dyn Blob>, BlobError> {
        let blob = self
            .plan
            .run(Operation::Open, self.inner.open(key, size))
            .await?;
        Ok(Arc::new(FaultyBlob {
            inner: blob,
            plan: Arc::clone(&self.plan),
        }))
    }

    async fn delete(&self, key: &BlobKey) -> Result<(), BlobError> {
        self.plan
            .run(Operation::Delete, self.inner.delete(key))
            .await
    }

    async fn list(
        &self,
        state: BlobState,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobEntry>, BlobError> {
        self.plan
            .run(Operation::List, self.inner.list(state, after, limit))
            .await
    }

    async fn check(&self) -> Result<(), BlobError> {
        self.plan.run(Operation::Check, self.inner.check()).await
    }
}

#[derive(Debug)]
struct FaultyStaged {
    inner: Box<dyn StagedBlob>,
    plan: Arc<Plan>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl StagedBlob for FaultyStaged {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        self.plan
            .run(Operation::Write, self.inner.write(bytes))
            .await
    }

    async fn sync(&mut self) -> Result<u64, BlobError> {
        self.plan.run(Operation::Sync, self.inner.sync()).await
    }

    async fn close(self: Box<Self>) -> Result<u64, BlobError> {
        self.plan.run(Operation::Sync, self.inner.close()).await
    }

    /// Counts as a sync and then as publishing, its two steps.
    async fn publish(mut self: Box<Self>) -> Result<u64, BlobError> {
        self.plan.run(Operation::Sync, self.inner.sync()).await?;
        self.plan
            .run(Operation::Publish, self.inner.publish())
            .await
    }
}

#[derive(Debug)]
struct FaultyBlob {
    inner: Arc<dyn Blob>,
    plan: Arc<Plan>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Blob for FaultyBlob {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read(&self, range: Range<u64>) -> BlobStream {
        self.plan.stream(Operation::Read, self.inner.read(range))
    }

    async fn link(&self, fields: LinkFields<'_>) -> Result<Option<Link>, BlobError> {
        self.inner.link(fields).await
    }
}
