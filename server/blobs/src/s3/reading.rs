//! Reading objects in requests of bounded length, one request ahead.
//!
//! Bytes are passed on as they come; none are gathered, but for short reads (`blocks`). While one
//! answer is passed on, the next request is sent already, and its answer waits in the connection. An
//! answer that breaks off is asked for again from where it broke, and so is one that was closed while
//! its reader paused (`pauses`).

use std::mem;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use domain::blob_store::{BlobError, BlobStream, Link, LinkFields};
use domain::{Blob, BlobKey};
use futures::{StreamExt as _, stream};
use tokio_util::task::AbortOnDropHandle;

use super::blocks::Blocks;
use super::bucket::Bucket;
use super::failures::{Trouble, broken, failed, other};
use super::links::Links;
use super::pauses::{Pauses, Ticket};

/// How often in a row an answer may break off without a byte.
const MOST_BREAKS: u32 = 3;

/// A published blob.
#[derive(Debug)]
pub(super) struct PublishedObject {
    pub(super) source: Source,
    /// In bytes.
    pub(super) size: u64,
    /// How many bytes one request reads.
    pub(super) read_size: u64,
    pub(super) blocks: Arc<Blocks>,
    /// Gives links to it, where clients may have them.
    pub(super) links: Option<Arc<Links>>,
}

#[async_trait]
impl Blob for PublishedObject {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, range: Range<u64>) -> BlobStream {
        if range.end > self.size && !range.is_empty() {
            let key = self.source.key.clone();
            return stream::iter([Err(BlobError::Missing { key })]).boxed();
        }
        match Blocks::suit(&range, self.size) {
            true => self.blocks.stream(&self.source, self.size, range),
            false => self.source.clone().stream(range, self.read_size),
        }
    }

    async fn link(&self, fields: LinkFields<'_>) -> Result<Option<Link>, BlobError> {
        let (Some(links), Some(etag)) = (&self.links, &self.source.etag) else {
            return Ok(None);
        };
        let signed = links.sign(&self.source.name, self.size, fields).await;
        let url = signed.map_err(|trouble| failed(&self.source.key, "sign a link to", trouble))?;
        Ok(url.map(|url| Link {
            url,
            etag: etag.clone(),
        }))
    }
}

/// An object that is read.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) bucket: Arc<Bucket>,
    /// The blob that it is of.
    pub(super) key: BlobKey,
    pub(super) name: String,
    /// What it must still be, if that matters.
    pub(super) etag: Option<String>,
}

impl Source {
    /// The bytes in `range`.
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

    async fn get(&self, range: Range<u64>) -> Result<ByteStream, Trouble> {
        self.bucket
            .get(&self.name, range, self.etag.as_deref())
            .await
    }
}

/// A range while it is read.
#[derive(Debug)]
struct Reading {
    source: Source,
    read_size: u64,
    /// What is yet to be passed on.
    rest: Range<u64>,
    /// Up to where it was asked for.
    requested: u64,
    answers: Answers,
    /// Ticket of `answers` while nobody reads.
    paused: Option<Ticket>,
    /// How often in a row an answer broke off without a byte.
    breaks: u32,
}

/// The answers that a reading has open.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// The one that is being passed on, and where in the blob it ends.
    current: Option<(ByteStream, u64)>,
    /// The next one, which is asked for.
    ahead: Option<AbortOnDropHandle<Result<ByteStream, Trouble>>>,
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

    fn pauses(&self) -> &Pauses<Answers> {
        self.source.bucket.pauses()
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
                Some(Err(error)) => broken(error),
                None => broken("the answer ended too early"),
            };
            self.breaks += 1;
            if self.breaks > MOST_BREAKS {
                return Err(self.failed(broken));
            }
            tracing::debug!(key = %self.source.key, ?broken, "an answer broke off");
            self.answers.ahead = None;
            self.requested = self.rest.start;
        }
        Ok(None)
    }

    /// The next answer, and where it ends; behind it, the one after that is asked for.
    async fn answer(&mut self) -> Result<(ByteStream, u64), BlobError> {
        let ahead = match self.answers.ahead.take() {
            Some(ahead) => ahead,
            None => self.ask(),
        };
        let end = self.requested;
        let answer = ahead.await.unwrap_or_else(|error| Err(other(error)));
        let answer = answer.map_err(|trouble| self.failed(trouble))?;
        if self.requested < self.rest.end {
            self.answers.ahead = Some(self.ask());
        }
        Ok((answer, end))
    }

    fn ask(&mut self) -> AbortOnDropHandle<Result<ByteStream, Trouble>> {
        let end = self.rest.end.min(self.requested + self.read_size);
        let range = self.requested..end;
        self.requested = end;
        let source = self.source.clone();
        AbortOnDropHandle::new(tokio::spawn(async move { source.get(range).await }))
    }

    fn failed(&self, trouble: Trouble) -> BlobError {
        match trouble {
            // It has been deleted, and perhaps another was put in its place.
            Trouble::NoObject | Trouble::Changed => BlobError::Missing {
                key: self.source.key.clone(),
            },
            trouble => failed(&self.source.key, "read", trouble),
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
