//! Reading of an archive: step by step, one chunk ahead.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use archive::Segments;
use bytes::Bytes;
use futures::stream::{self, Fuse};
use futures::{Stream, StreamExt as _};

use super::super::versions::Version;
use super::windows::{Source, Step, Steps, Window};
use crate::blob_store::{BlobError, BlobStream};
use crate::{Blob, BlobKey, BlobStore};

/// Maximum number of blobs that a stream keeps open. In an archive of few changes, contents from
/// several publications alternate.
const MAX_OPEN: usize = 4;

/// Reader of a range of an archive.
pub(super) struct Reading {
    blobs: Arc<dyn BlobStore>,
    steps: Steps,
    /// The blobs used last, by their indices among the places; the latest is at the end.
    open: VecDeque<(u32, Arc<dyn Blob>)>,
    passing: Option<Passing>,
}

/// A content that is passed through without copying.
struct Passing {
    chunks: BlobStream,
    key: BlobKey,
    /// Bytes that are still to come.
    left: u64,
}

impl Reading {
    /// Creates a reader of `segments`, which belong to an archive of this version.
    pub(super) fn new(
        blobs: Arc<dyn BlobStore>,
        version: Arc<Version>,
        segments: Segments,
    ) -> Self {
        Self {
            blobs,
            steps: Steps::new(version, segments),
            open: VecDeque::with_capacity(MAX_OPEN),
            passing: None,
        }
    }

    /// Returns the bytes. Reading begins when the stream is polled, and then goes one chunk ahead:
    /// while a chunk is sent, the store can fetch the next one.
    pub(super) fn stream(self) -> BlobStream {
        let chunks = stream::try_unfold(self, |mut reading| async move {
            let chunk = reading.next().await?;
            Ok(chunk.map(|chunk| (chunk, reading)))
        });
        let ahead = Ahead {
            chunks: chunks.boxed().fuse(),
            next: None,
        };
        ahead.boxed()
    }

    /// Returns the next chunk; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        loop {
            if let Some(passing) = &mut self.passing {
                if let Some(chunk) = passing.next().await? {
                    return Ok(Some(chunk));
                }
                self.passing = None;
            }
            match self.steps.next() {
                None => return Ok(None),
                Some(Step::Window(window)) => return self.fill(window).await.map(Some),
                Some(Step::Pass(Source { blob, range })) => {
                    let left = range.end - range.start;
                    let opened = self.open(blob).await?;
                    self.passing = Some(Passing {
                        chunks: opened.read(range),
                        key: self.key(blob),
                        left,
                    });
                }
            }
        }
    }

    /// Reads the contents of a window, and places them between its literals.
    async fn fill(&mut self, window: Window) -> Result<Bytes, BlobError> {
        let mut read = Vec::with_capacity(window.spans.len());
        for span in &window.spans {
            read.push(self.read(span).await?);
        }
        Ok(window.put_together(&read))
    }

    /// Reads a short range, which mostly is one chunk of the store.
    async fn read(&mut self, source: &Source) -> Result<Bytes, BlobError> {
        let mut chunks = self.open(source.blob).await?.read(source.range.clone());
        let mut whole = Bytes::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            whole = match whole.is_empty() {
                true => chunk,
                false => [whole, chunk].concat().into(),
            };
        }
        match whole.len() as u64 == source.len() {
            true => Ok(whole),
            false => Err(missing(self.key(source.blob))),
        }
    }

    async fn open(&mut self, index: u32) -> Result<Arc<dyn Blob>, BlobError> {
        let known = self.open.iter().position(|(open, _)| *open == index);
        let blob = match known.and_then(|at| self.open.remove(at)) {
            Some((_, blob)) => blob,
            None => {
                let (key, size) = self.steps.version().places.blob(index);
                let blob = self.blobs.open(key, size).await?;
                if self.open.len() == MAX_OPEN {
                    self.open.pop_front();
                }
                blob
            }
        };
        self.open.push_back((index, Arc::clone(&blob)));
        Ok(blob)
    }

    fn key(&self, blob: u32) -> BlobKey {
        self.steps.version().places.blob(blob).0.clone()
    }
}

/// Error for a blob that is shorter or longer than recorded.
fn missing(key: BlobKey) -> BlobError {
    BlobError::Missing { key }
}

impl Passing {
    async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        let missing = || missing(self.key.clone());
        match self.chunks.next().await {
            Some(chunk) => {
                let chunk = chunk?;
                self.left = self
                    .left
                    .checked_sub(chunk.len() as u64)
                    .ok_or_else(missing)?;
                Ok(Some(chunk))
            }
            None if self.left == 0 => Ok(None),
            None => Err(missing()),
        }
    }
}

/// A stream of chunks that polls one chunk ahead.
struct Ahead {
    chunks: Fuse<BlobStream>,
    /// Result of the poll ahead, if it was ready.
    next: Option<Option<Result<Bytes, BlobError>>>,
}

impl Stream for Ahead {
    type Item = Result<Bytes, BlobError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let item = match this.next.take() {
            Some(item) => item,
            None => ready!(this.chunks.poll_next_unpin(context)),
        };
        if matches!(item, Some(Ok(_)))
            && let Poll::Ready(next) = this.chunks.poll_next_unpin(context)
        {
            this.next = Some(next);
        }
        Poll::Ready(item)
    }
}
