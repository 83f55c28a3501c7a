//! Reads of objects in requests of bounded length, one request ahead.
//!
//! Bytes are passed on as they come, and not gathered. While one answer is passed on, the next
//! request has been sent, and its answer waits in the connection. If an answer breaks off, the rest
//! is requested again, and likewise if the answer was closed while its reader paused.
//!
//! An answer of the S3 server that is read in part keeps its connection, up to 408 KiB in its
//! buffer (hyper's largest), and the buffers of the kernel. The clients of downloads decide how
//! fast answers are read, so the number of paused ones is bounded by [`Pauses`]: it closes the one
//! that was read longest ago, whose reader requests the rest again.

use std::collections::BTreeMap;
use std::mem;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use domain::BlobKey;
use domain::blob_store::{BlobError, BlobStream};
use futures::{StreamExt as _, stream};
use tokio_util::task::AbortOnDropHandle;

use super::bucket::Bucket;
use super::errors::{S3Error, broken_off, failed, other};

/// Maximum number of consecutive answers that break off without a byte.
const MAX_BREAKS: u32 = 3;

/// Object to read.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) bucket: Arc<Bucket>,
    pub(super) pauses: Arc<Pauses>,
    /// Key of its blob.
    pub(super) key: BlobKey,
    pub(super) name: String,
    /// Entity tag that it must still have.
    pub(super) etag: Option<String>,
}

impl Source {
    /// Streams the bytes in `range`.
    pub(super) fn stream(self, range: Range<u64>, read_size: u64) -> BlobStream {
        let reading = Reading {
            source: self,
            read_size,
            requested: range.start,
            rest: range,
            answers: Answers::default(),
            paused: None,
            breaks: 0,
        };
        stream::try_unfold(reading, |mut reading| async move {
            let chunk = reading.next().await?;
            Ok(chunk.map(|chunk| (chunk, reading)))
        })
        .boxed()
    }

    async fn get(&self, range: Range<u64>) -> Result<ByteStream, S3Error> {
        self.bucket
            .get(&self.name, range, self.etag.as_deref())
            .await
    }
}

/// Range that is being read.
#[derive(Debug)]
struct Reading {
    source: Source,
    read_size: u64,
    /// Bytes yet to be passed on.
    rest: Range<u64>,
    /// End of the bytes that were requested.
    requested: u64,
    answers: Answers,
    /// Ticket of `answers` while nobody reads.
    paused: Option<Ticket>,
    /// Number of consecutive answers that broke off without a byte.
    breaks: u32,
}

/// Open answers of a reading.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// The one that is being passed on, with the offset in the blob at which it ends.
    current: Option<(ByteStream, u64)>,
    /// The next one, which has been requested.
    ahead: Option<AbortOnDropHandle<Result<ByteStream, S3Error>>>,
}

impl Reading {
    /// Returns the next bytes, and pauses behind them.
    async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        if let Some(ticket) = self.paused.take() {
            match self.pauses().resume(&ticket) {
                Some(answers) => self.answers = answers,
                None => self.requested = self.rest.start,
            }
        }
        let chunk = self.read().await?;
        if !self.rest.is_empty() {
            let answers = mem::take(&mut self.answers);
            self.paused = Some(self.pauses().pause(answers));
        }
        Ok(chunk)
    }

    fn pauses(&self) -> &Pauses {
        &self.source.pauses
    }

    async fn read(&mut self) -> Result<Option<Bytes>, BlobError> {
        while !self.rest.is_empty() {
            let (mut answer, end) = match self.answers.current.take() {
                Some(current) => current,
                None => self.answer().await?,
            };
            let broken = match answer.next().await {
                Some(Ok(chunk)) if chunk.is_empty() => {
                    self.answers.current = Some((answer, end));
                    continue;
                }
                Some(Ok(mut chunk)) => {
                    self.breaks = 0;
                    let wanted = usize::try_from(end - self.rest.start).unwrap_or(usize::MAX);
                    chunk.truncate(wanted);
                    self.rest.start += chunk.len() as u64;
                    if self.rest.start < end {
                        self.answers.current = Some((answer, end));
                    }
                    return Ok(Some(chunk));
                }
                Some(Err(error)) => broken_off(error),
                None => broken_off("the answer ended too early"),
            };
            self.breaks += 1;
            if self.breaks > MAX_BREAKS {
                return Err(self.failed(broken));
            }
            tracing::debug!(key = %self.source.key, ?broken, "an answer broke off");
            self.answers.ahead = None;
            self.requested = self.rest.start;
        }
        Ok(None)
    }

    /// Returns the next answer with its end, and requests the one behind it.
    async fn answer(&mut self) -> Result<(ByteStream, u64), BlobError> {
        let ahead = match self.answers.ahead.take() {
            Some(ahead) => ahead,
            None => self.ask(),
        };
        let end = self.requested;
        let answer = ahead.await.unwrap_or_else(|error| Err(other(error)));
        let answer = answer.map_err(|error| self.failed(error))?;
        if self.requested < self.rest.end {
            self.answers.ahead = Some(self.ask());
        }
        Ok((answer, end))
    }

    fn ask(&mut self) -> AbortOnDropHandle<Result<ByteStream, S3Error>> {
        let end = self.rest.end.min(self.requested + self.read_size);
        let range = self.requested..end;
        self.requested = end;
        let source = self.source.clone();
        AbortOnDropHandle::new(tokio::spawn(async move { source.get(range).await }))
    }

    fn failed(&self, error: S3Error) -> BlobError {
        match error {
            // The blob was deleted, and perhaps another put in its place.
            S3Error::NoObject | S3Error::Changed => BlobError::Missing {
                key: self.source.key.clone(),
            },
            error => failed(&self.source.key, "read", error),
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(ticket) = self.paused.take() {
            drop(self.pauses().resume(&ticket));
        }
    }
}

/// Paused answers.
#[derive(Debug)]
pub(super) struct Pauses<T = Answers> {
    limit: usize,
    paused: Mutex<Paused<T>>,
}

#[derive(Debug)]
struct Paused<T> {
    next: u64,
    /// In the order in which they were paused.
    answers: BTreeMap<u64, T>,
}

/// Key of a paused answer.
#[derive(Debug)]
struct Ticket(u64);

impl<T> Pauses<T> {
    /// Returns a set that holds at most `limit` answers.
    pub(super) fn new(limit: usize) -> Self {
        let paused = Paused {
            next: 0,
            answers: BTreeMap::new(),
        };
        Self {
            limit,
            paused: Mutex::new(paused),
        }
    }

    /// Keeps `answer` until it is resumed, or closed to make room for later ones.
    fn pause(&self, answer: T) -> Ticket {
        let mut paused = self.lock();
        let ticket = paused.next;
        paused.next += 1;
        paused.answers.insert(ticket, answer);
        let oldest = (paused.answers.len() > self.limit)
            .then(|| paused.answers.pop_first())
            .flatten();
        drop(paused);
        // Connections are closed outside the lock.
        drop(oldest);
        Ticket(ticket)
    }

    /// Returns the answer, unless it was closed.
    fn resume(&self, ticket: &Ticket) -> Option<T> {
        self.lock().answers.remove(&ticket.0)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().answers.len()
    }

    fn lock(&self) -> MutexGuard<'_, Paused<T>> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_was_read_longest_ago_is_closed() {
        let pauses = Pauses::new(2);
        let first = pauses.pause("first");
        let second = pauses.pause("second");
        assert_eq!(pauses.resume(&first), Some("first"));
        let first = pauses.pause("first");
        let third = pauses.pause("third");
        assert_eq!(pauses.resume(&second), None);
        assert_eq!(pauses.resume(&first), Some("first"));
        assert_eq!(pauses.resume(&third), Some("third"));
        assert_eq!(pauses.resume(&third), None);
    }
}
