//! Receives a body into a staged blob.
//!
//! Two halves run concurrently, joined by a channel of one buffer, so that the socket is read while
//! the disk is written:
//!
//! 1. *Reading* gathers the body's chunks into buffers. A buffer is passed on when it is full, or
//!    when the other half is idle and the body has nothing more at the moment: fast uploads are
//!    written in large pieces, slow ones as they arrive.
//! 2. *Writing* hashes and stores each buffer, and from time to time makes a *checkpoint*: sync,
//!    then record, then report.
//!
//! However the body ends (complete, cut, overtaken by a newer request, or by shutdown), the bytes
//! that were read are stored.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use protocol::digest::StatedDigests;
use protocol::rejection::Rejection;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::blob_store::{BlobStream, StagedBlob};
use crate::body::{BodyFault, BodyPart, UploadBody};
use crate::buffers::{Buffers, Filling};
use crate::digest::Digests;
use crate::error::Error;

/// Reasons for which the reading of a body ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The body is complete.
    Clean,
    /// The body failed.
    Fault(BodyFault),
    /// A newer request came.
    Overtaken,
    /// The server is shutting down.
    Draining,
    /// The body exceeds its bound.
    Overrun,
    /// The bytes could not be stored; the writing half has the error.
    Unstored,
}

/// Signals that end a body early, or the work after it. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Stops {
    /// A newer request came.
    pub(crate) overtaken: CancellationToken,
    /// The server is shutting down.
    pub(crate) draining: CancellationToken,
    /// The client is gone, and could never learn the outcome: there is no upload resource. The body
    /// of such a request ends by itself; this signal is for the work after it.
    pub(crate) abandoned: CancellationToken,
}

impl Stops {
    /// Returns signals that are never given.
    pub(crate) fn never() -> Self {
        Self {
            overtaken: CancellationToken::new(),
            draining: CancellationToken::new(),
            abandoned: CancellationToken::new(),
        }
    }

    /// Fails if a signal was given.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.given().now_or_never().map_or(Ok(()), Err)
    }

    /// Waits for a signal, and returns the error that the request ends with.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub(crate) async fn given(&self) -> Error {
        tokio::select! {
            biased;
            () = self.overtaken.cancelled() => Error::Superseded,
            () = self.draining.cancelled() => Error::Draining,
            () = self.abandoned.cancelled() => Error::ClientGone,
        }
    }
}

/// Records durable progress, and reports it to the client.
#[async_trait]
pub(crate) trait Checkpoint: Send {
    /// Called when all bytes below `offset` are durable and part of `digests`.
    async fn reached(&mut self, offset: u64, digests: &Digests) -> Result<(), Error>;
}

/// Frequency of checkpoints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rhythm {
    /// Unrecorded bytes that cause a checkpoint.
    pub(crate) bytes: u64,
    /// Age of unrecorded bytes that causes a checkpoint, however few they are.
    pub(crate) interval: Duration,
}

/// Result of receiving a body.
#[derive(Debug)]
pub(crate) struct Ingested {
    /// The reason for which reading ended.
    pub(crate) ending: Ending,
    /// Number of bytes read, at most the bound.
    pub(crate) received: u64,
    /// Digests in the body's trailer.
    pub(crate) stated: StatedDigests,
}

/// A staged blob that receives a body.
#[derive(Debug)]
pub(crate) struct Ingest {
    /// The blob, open at `offset`.
    pub(crate) staged: Box<dyn StagedBlob>,
    /// Length of the blob, in bytes.
    pub(crate) offset: u64,
    /// Digests of those bytes.
    pub(crate) digests: Digests,
}

impl Ingest {
    /// Receives `body`, up to the cap of `source`. Bytes after the last checkpoint are written, but
    /// not synced yet.
    ///
    /// # Errors
    /// Those of the store and of the checkpoint, and [`Error::Corrupt`] or a rejection if replayed
    /// bytes differ. Records of earlier checkpoints remain.
    ///
    /// # Cancel safety
    /// Not cancel safe: runs in a tracked task.
    pub(crate) async fn run(
        &mut self,
        body: UploadBody,
        source: Source,
        stops: &Stops,
        rhythm: Rhythm,
        checkpoint: Option<&mut dyn Checkpoint>,
    ) -> Result<Ingested, Error> {
        let (full, filled) = mpsc::channel(1);
        let reading = read(body, source.cap, stops, source.filling, full);
        let writing = self.write(filled, source.replay, rhythm, checkpoint);
        let (ingested, written) = tokio::join!(reading, writing);
        written?;
        Ok(ingested)
    }

    async fn write(
        &mut self,
        mut filled: mpsc::Receiver<Bytes>,
        mut replay: Option<Replay>,
        rhythm: Rhythm,
        mut checkpoint: Option<&mut dyn Checkpoint>,
    ) -> Result<(), Error> {
        let mut recorded = self.offset;
        let mut due = Instant::now() + rhythm.interval;
        loop {
            let unrecorded = self.offset > recorded && checkpoint.is_some();
            let next = tokio::select! {
                biased;
                // Cancel safe: a buffer is received entirely or not at all.
                next = filled.recv() => Some(next),
                () = tokio::time::sleep_until(due), if unrecorded => None,
            };
            match next {
                Some(Some(bytes)) => {
                    let fresh = match &mut replay {
                        Some(replay) => replay.compare(bytes, &mut self.digests).await?,
                        None => bytes,
                    };
                    if self.offset == recorded {
                        due = Instant::now() + rhythm.interval;
                    }
                    self.absorb(fresh).await?;
                }
                Some(None) => return Ok(()),
                None => {}
            }
            if let Some(checkpoint) = &mut checkpoint
                && self.offset > recorded
                && (self.offset - recorded >= rhythm.bytes || Instant::now() >= due)
            {
                self.staged
                    .sync()
                    .await
                    .map_err(Error::blob("sync a staged blob"))?;
                checkpoint.reached(self.offset, &self.digests).await?;
                recorded = self.offset;
            }
        }
    }

    /// Hashes and stores the bytes, concurrently if there are enough of them to be worth a thread.
    async fn absorb(&mut self, bytes: Bytes) -> Result<(), Error> {
        let length = bytes.len() as u64;
        if bytes.is_empty() {
            return Ok(());
        }
        let stored = if !Digests::is_worth_a_thread(&bytes) {
            self.digests.update(&bytes);
            self.staged.write(bytes).await
        } else {
            let hashing = std::mem::take(&mut self.digests).updated_elsewhere(bytes.clone());
            let (digests, stored) = tokio::join!(hashing, self.staged.write(bytes));
            self.digests = digests;
            stored
        };
        stored.map_err(Error::blob("write to a staged blob"))?;
        self.offset += length;
        Ok(())
    }
}

/// A body to receive, and its limits.
#[derive(Debug)]
pub(crate) struct Source {
    /// Maximum number of bytes to receive.
    pub(crate) cap: u64,
    pub(crate) filling: Filling,
    /// Stored bytes that the body begins by repeating.
    pub(crate) replay: Option<Replay>,
}

impl Source {
    /// Describes a body of `length` bytes, if known, of which at most `cap` are received.
    pub(crate) fn new(buffers: &Arc<Buffers>, length: Option<u64>, cap: u64) -> Self {
        Self {
            cap,
            filling: Filling::new(Arc::clone(buffers), length),
            replay: None,
        }
    }
}

async fn read(
    mut body: UploadBody,
    cap: u64,
    stops: &Stops,
    filling: Filling,
    full: mpsc::Sender<Bytes>,
) -> Ingested {
    let mut reader = Reader {
        filling,
        full,
        received: 0,
        cap,
    };
    let mut stated = StatedDigests::default();
    let ending = loop {
        let part = tokio::select! {
            biased;
            () = stops.overtaken.cancelled() => break Ending::Overtaken,
            () = stops.draining.cancelled() => break Ending::Draining,
            () = reader.full.closed() => break Ending::Unstored,
            // Cancel safe: a stream's next item is taken entirely or stays.
            part = body.next() => part,
            // The body has nothing at the moment, and the other half is idle. Cancel safe: a
            // dropped reservation takes no permit.
            permit = reader.full.reserve(), if !reader.filling.is_empty() => match permit {
                Ok(permit) => {
                    permit.send(reader.filling.take_out());
                    continue;
                }
                Err(_) => break Ending::Unstored,
            },
        };
        match part {
            None => break Ending::Clean,
            Some(Err(fault)) => break Ending::Fault(fault),
            Some(Ok(BodyPart::Digests(digests))) => stated = digests,
            Some(Ok(BodyPart::Data(bytes))) => {
                if let Err(ending) = reader.take(bytes).await {
                    break ending;
                }
            }
        }
    };
    let ending = match ending {
        Ending::Overtaken => reader.take_arrived(&mut body).await,
        ending => ending,
    };
    let Reader {
        mut filling,
        full,
        received,
        ..
    } = reader;
    let rest = filling.take_out();
    let ending = match full.send(rest).await {
        Ok(()) => ending,
        Err(_) => Ending::Unstored,
    };
    Ingested {
        ending,
        received,
        stated,
    }
}

/// State of the reading half, without the body.
struct Reader {
    filling: Filling,
    full: mpsc::Sender<Bytes>,
    received: u64,
    cap: u64,
}

impl Reader {
    /// Buffers a chunk, up to the cap.
    async fn take(&mut self, mut bytes: Bytes) -> Result<(), Ending> {
        let room = self.cap - self.received;
        let overrun = bytes.len() as u64 > room;
        if overrun {
            bytes.truncate(usize::try_from(room).expect("less than a chunk's length"));
        }
        self.received += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.filling.take_in(&mut bytes)
                && self.full.send(self.filling.take_out()).await.is_err()
            {
                return Err(Ending::Unstored);
            }
        }
        match overrun {
            true => Err(Ending::Overrun),
            false => Ok(()),
        }
    }

    /// Buffers the bytes that have arrived for a request that was overtaken. Otherwise, requests
    /// that keep overtaking each other would make no progress on a store that takes longer to open
    /// than the next request takes to arrive.
    async fn take_arrived(&mut self, body: &mut UploadBody) -> Ending {
        /// About the capacity of a socket's buffers.
        const MAX: u64 = 256 * 1024;
        let end = self.received + MAX;
        while self.received < end
            && let Some(Some(Ok(BodyPart::Data(bytes)))) = body.next().now_or_never()
        {
            if let Err(ending) = self.take(bytes).await {
                return ending;
            }
        }
        Ending::Overtaken
    }
}

/// The stored bytes that a body begins by repeating.
pub(crate) struct Replay {
    stored: BlobStream,
    held: Bytes,
    remaining: u64,
    offset: u64,
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay")
            .field("remaining", &self.remaining)
            .finish_non_exhaustive()
    }
}

impl Replay {
    /// Expects `overlap` bytes, which `stored` yields, up to the durable `offset`.
    pub(crate) fn new(stored: BlobStream, overlap: u64, offset: u64) -> Self {
        Self {
            stored,
            held: Bytes::new(),
            remaining: overlap,
            offset,
        }
    }

    /// Compares the repeated part of `bytes` with the stored bytes, and returns the rest.
    pub(crate) async fn compare(
        &mut self,
        mut bytes: Bytes,
        digests: &mut Digests,
    ) -> Result<Bytes, Error> {
        while self.remaining > 0 && !bytes.is_empty() {
            if self.held.is_empty() {
                let next = self.stored.next().await.ok_or_else(|| Error::Corrupt {
                    what: "a staged blob".to_owned(),
                })?;
                self.held = next.map_err(Error::blob("read a staged blob"))?;
            }
            let same = self
                .held
                .len()
                .min(bytes.len())
                .min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
            let repeated = bytes.split_to(same);
            if self.held.split_to(same) != repeated {
                return Err(Rejection::OverlapMismatch {
                    offset: self.offset,
                }
                .into());
            }
            digests.repeat(&repeated);
            self.remaining -= same as u64;
        }
        Ok(bytes)
    }
}
