//! The blob store, observed.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::Bytes;
use domain::BlobKey;
use domain::blob_store::{
    Blob, BlobEntry, BlobError, BlobState, BlobStore, BlobStream, Growth, Link, LinkFields,
    StagedBlob,
};
use futures::{Stream, StreamExt as _};
use metrics::{Counter, counter};

use crate::operation::{Call, Observed, Operation};
use crate::table::{BLOB_STORE, READ_BYTES, WRITTEN_BYTES};

/// Returns `store` with every call recorded, those of the blobs that it opens included.
pub fn blob_store(store: Arc<dyn BlobStore>) -> Arc<dyn BlobStore> {
    Arc::new(Observed {
        inner: store,
        operations: Arc::new(Operations::new()),
    })
}

/// The operations of a blob store and of the blobs that it opens.
#[derive(Debug)]
struct Operations {
    stage: Arc<Operation>,
    write: Arc<Operation>,
    sync: Arc<Operation>,
    close: Arc<Operation>,
    /// Of [`BlobStore::publish`] and [`StagedBlob::publish`].
    publish: Arc<Operation>,
    read_staged: Arc<Operation>,
    discard: Arc<Operation>,
    open: Arc<Operation>,
    read: Arc<Operation>,
    link: Arc<Operation>,
    delete: Arc<Operation>,
    list: Arc<Operation>,
    check: Arc<Operation>,
    read_bytes: Counter,
    written_bytes: Counter,
}

impl Operations {
    fn new() -> Self {
        let operation = |name| Arc::new(Operation::new::<BlobError>(&BLOB_STORE, name));
        Self {
            stage: operation("stage"),
            write: operation("write"),
            sync: operation("sync"),
            close: operation("close"),
            publish: operation("publish"),
            read_staged: operation("read_staged"),
            discard: operation("discard"),
            open: operation("open"),
            read: operation("read"),
            link: operation("link"),
            delete: operation("delete"),
            list: operation("list"),
            check: operation("check"),
            read_bytes: counter!(READ_BYTES),
            written_bytes: counter!(WRITTEN_BYTES),
        }
    }

    /// Returns `bytes` as the rest of `call`, with `left` bytes yet to come.
    fn reading(&self, call: Call, bytes: BlobStream, left: u64) -> BlobStream {
        let read = self.read_bytes.clone();
        Reading {
            bytes,
            call,
            read,
            left,
        }
        .boxed()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl BlobStore for Observed<Arc<dyn BlobStore>, Operations> {
    async fn stage(&self, key: &BlobKey, growth: Growth) -> Result<Box<dyn StagedBlob>, BlobError> {
        let staged = self.inner.stage(key, growth);
        Ok(Box::new(Observed {
            inner: self.operations.stage.observe(staged).await?,
            operations: Arc::clone(&self.operations),
        }))
    }

    async fn read_staged(&self, key: &BlobKey, range: Range<u64>) -> Result<BlobStream, BlobError> {
        let left = length(&range);
        let mut call = self.operations.read_staged.begin();
        let bytes = self.inner.read_staged(key, range).await;
        let bytes = bytes.inspect_err(|error| call.fail(error))?;
        call.pause();
        Ok(self.operations.reading(call, bytes, left))
    }

    async fn publish(&self, key: &BlobKey, size: u64) -> Result<(), BlobError> {
        let published = self.inner.publish(key, size);
        self.operations.publish.observe(published).await
    }

    async fn discard(&self, key: &BlobKey) -> Result<(), BlobError> {
        let discarded = self.inner.discard(key);
        self.operations.discard.observe(discarded).await
    }

    async fn open(&self, key: &BlobKey, size: u64) -> Result<Arc<dyn Blob>, BlobError> {
        let opened = self.inner.open(key, size);
        Ok(Arc::new(Observed {
            inner: self.operations.open.observe(opened).await?,
            operations: Arc::clone(&self.operations),
        }))
    }

    async fn delete(&self, key: &BlobKey) -> Result<(), BlobError> {
        let deleted = self.inner.delete(key);
        self.operations.delete.observe(deleted).await
    }

    async fn list(
        &self,
        state: BlobState,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobEntry>, BlobError> {
        let listed = self.inner.list(state, after, limit);
        self.operations.list.observe(listed).await
    }

    async fn check(&self) -> Result<(), BlobError> {
        self.operations.check.observe(self.inner.check()).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl StagedBlob for Observed<Box<dyn StagedBlob>, Operations> {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        let length = bytes.len() as u64;
        let written = self.inner.write(bytes);
        self.operations.write.observe(written).await?;
        self.operations.written_bytes.increment(length);
        Ok(())
    }

    async fn sync(&mut self) -> Result<u64, BlobError> {
        self.operations.sync.observe(self.inner.sync()).await
    }

    async fn close(self: Box<Self>) -> Result<u64, BlobError> {
        self.operations.close.observe(self.inner.close()).await
    }

    async fn publish(self: Box<Self>) -> Result<u64, BlobError> {
        self.operations.publish.observe(self.inner.publish()).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Blob for Observed<Arc<dyn Blob>, Operations> {
    /// Returns the size, which the blob knows: nothing is recorded.
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read(&self, range: Range<u64>) -> BlobStream {
        let left = length(&range);
        let mut call = self.operations.read.begin();
        let bytes = self.inner.read(range);
        call.pause();
        self.operations.reading(call, bytes, left)
    }

    async fn link(&self, fields: LinkFields<'_>) -> Result<Option<Link>, BlobError> {
        self.operations.link.observe(self.inner.link(fields)).await
    }
}

fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// Bytes of a blob on their way to a reader.
///
/// Only the time for which the reader waits for the store counts: a slow client does not make the
/// store look slow. A reader that has all bytes need not ask for the end.
struct Reading {
    bytes: BlobStream,
    call: Call,
    read: Counter,
    /// Number of bytes that are yet to come.
    left: u64,
}

impl Stream for Reading {
    type Item = Result<Bytes, BlobError>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        this.call.resume();
        let chunk = ready!(this.bytes.poll_next_unpin(task));
        this.call.pause();
        match &chunk {
            Some(Ok(bytes)) => {
                let length = bytes.len() as u64;
                this.read.increment(length);
                this.left = this.left.saturating_sub(length);
                if this.left == 0 {
                    this.call.succeed();
                }
            }
            Some(Err(error)) => this.call.fail(error),
            None => this.call.succeed(),
        }
        Poll::Ready(chunk)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.bytes.size_hint()
    }
}
