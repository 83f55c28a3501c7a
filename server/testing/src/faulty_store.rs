//! A blob store that fails as a test has planned.

use std::fmt::Debug;
use std::ops::{Deref, Range};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use domain::BlobKey;
use domain::blob_store::{
    Blob, BlobEntry, BlobError, BlobState, BlobStore, BlobStream, Growth, Link, LinkFields,
    StagedBlob,
};

use crate::faults::{Fault, Plan, PlannedError};

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

/// Wraps a store and injects planned faults; all other calls pass through. Faults are
/// planned by the methods of [`Plan`].
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn BlobStore>,
    plan: Arc<Plan<Operation>>,
}

impl FaultyStore {
    /// Returns a store without planned faults.
    pub fn new(inner: Arc<dyn BlobStore>) -> Self {
        Self {
            inner,
            plan: Arc::default(),
        }
    }
}

impl Deref for FaultyStore {
    type Target = Plan<Operation>;

    fn deref(&self) -> &Plan<Operation> {
        &self.plan
    }
}

impl Plan<Operation> {
    fn stream(&self, operation: Operation, bytes: BlobStream) -> BlobStream {
        let planned = |fault: &Fault| failing(BlobError::planned(&operation, fault));
        match self.fault(operation) {
            None => bytes,
            Some(fault @ Fault::FailsAfter) => bytes.chain(planned(&fault)).boxed(),
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
            Some(fault @ Fault::BreaksAfter(mut rest)) => bytes
                .map_ok(move |mut chunk| {
                    chunk.truncate(usize::try_from(rest).unwrap_or(usize::MAX));
                    rest -= chunk.len() as u64;
                    chunk
                })
                .try_take_while(|chunk| std::future::ready(Ok(!chunk.is_empty())))
                .chain(planned(&fault))
                .boxed(),
            Some(fault) => planned(&fault),
        }
    }
}

impl PlannedError for BlobError {
    fn planned(operation: &dyn Debug, fault: &Fault) -> Self {
        let doing = format!("{operation:?}").to_lowercase();
        let source = "planned by the test".into();
        match fault {
            Fault::IsFull => Self::Full,
            Fault::IsAway => Self::Unreachable { doing, source },
            Fault::IsRefused => Self::Refused {
                doing,
                advice: "change the test".to_owned(),
                source,
            },
            Fault::IsContradicted => Self::Inconsistent {
                key: "planned".parse().expect("a key"),
                reason: "planned by the test".to_owned(),
            },
            Fault::Fails
            | Fault::FailsAfter
            | Fault::BreaksAfter(_)
            | Fault::Takes(_)
            | Fault::Waits(_) => Self::Failed { doing, source },
        }
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
    plan: Arc<Plan<Operation>>,
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
    plan: Arc<Plan<Operation>>,
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
