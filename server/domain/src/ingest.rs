//! From a body to a staged blob.
//!
//! Two halves run side by side, joined by a channel of one buffer, so that the socket is read while the disk is written:
//!
//! 1. *Reading* gathers the body's chunks into buffers. A buffer leaves when it is full, or when the other half is idle and the
//!    body has nothing more at the moment: fast uploads are written in large pieces, slow ones as they come.
//! 2. *Writing* hashes and stores each buffer, and now and then makes a *checkpoint*: sync, then record, then tell.
//!
//! Whatever ends the body (its own end, a cut, a newer request, the server's shutdown), what was read is stored.

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

/// What ended the reading of a body.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The body's own end.
    Clean,
    /// It was cut.
    Fault(BodyFault),
    /// A newer request came.
    Overtaken,
    /// The server shuts down.
    Draining,
    /// It went on past its bound.
    Overrun,
    /// The bytes could not be stored; the other half knows why.
    Unstored,
}

/// Signs that end a body early, or the work on what came. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Stops {
    /// A newer request came.
    pub(crate) overtaken: CancellationToken,
    /// The server shuts down.
    pub(crate) draining: CancellationToken,
    /// Its client is gone, and would never learn the outcome: there is no upload resource. The body of a request ends by itself then;
    /// this is for work that comes after it.
    pub(crate) abandoned: CancellationToken,
}

impl Stops {
    /// Signs that nobody gives.
    pub(crate) fn never() -> Self {
        Self {
            overtaken: CancellationToken::new(),
            draining: CancellationToken::new(),
            abandoned: CancellationToken::new(),
        }
    }

    /// Fails if a sign was given.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.given().now_or_never().map_or(Ok(()), Err)
    }

    /// Waits for a sign, and says what it means for the request.
    ///
    /// # Cancel safety
    /// May be dropped anywhere.
    pub(crate) async fn given(&self) -> Error {
        tokio::select! {
            biased;
            () = self.overtaken.cancelled() => Error::Superseded,
            () = self.draining.cancelled() => Error::Draining,
            () = self.abandoned.cancelled() => Error::ClientGone,
        }
    }
}

/// Records durable progress, and tells the client.
#[async_trait]
pub(crate) trait Checkpoint: Send {
    /// All bytes below `offset` are durable, and `digests` has seen them.
    async fn reached(&mut self, offset: u64, digests: &Digests) -> Result<(), Error>;
}

/// When to make a checkpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rhythm {
    /// After this many bytes,
    pub(crate) bytes: u64,
    /// or when there are bytes this old.
    pub(crate) interval: Duration,
}

/// What has come of a body.
#[derive(Debug)]
pub(crate) struct Ingested {
    /// What ended it.
    pub(crate) ending: Ending,
    /// Bytes read of it, at most the bound.
    pub(crate) received: u64,
    /// Digests that the body itself stated at its end.
    pub(crate) stated: StatedDigests,
}

/// A staged blob under a body.
#[derive(Debug)]
pub(crate) struct Ingest {
    /// The blob, open at `offset`.
    pub(crate) staged: Box<dyn StagedBlob>,
    /// Bytes that the blob has.
    pub(crate) offset: u64,
    /// What has seen them.
    pub(crate) digests: Digests,
}

impl Ingest {
    /// Takes in at most `cap` bytes of `body`. What came after the last checkpoint is written, and yet to be synced.
    ///
    /// # Errors
    /// Those of the store and of the checkpoint, and [`Error::Corrupt`] or a rejection where replayed bytes differ. What earlier
    /// checkpoints recorded stands.
    ///
    /// # Cancel safety
    /// Not to be dropped: runs in a tracked task.
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
                // Cancel safe: a buffer is received whole or not at all.
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

    /// Hashes and stores, at the same time where there is enough to make that worth a thread.
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

/// How a body is to be read.
#[derive(Debug)]
pub(crate) struct Source {
    /// Most bytes of it.
    pub(crate) cap: u64,
    /// Its buffer.
    pub(crate) filling: Filling,
    /// What its first bytes repeat.
    pub(crate) replay: Option<Replay>,
}

impl Source {
    /// A body of `length` bytes, where that is known, of which at most `cap` are taken.
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
            // Cancel safe: a stream's next item is taken whole or stays.
            part = body.next() => part,
            // The body has nothing at the moment, and the other half is idle. Cancel safe: a permit not got is no permit.
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

/// The reading half, but for the body.
struct Reader {
    filling: Filling,
    full: mpsc::Sender<Bytes>,
    received: u64,
    cap: u64,
}

impl Reader {
    /// Takes a chunk in, as far as there is room.
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

    /// Takes in what has arrived of the body of a request that was overtaken. Without it, requests that overtake each other all
    /// the time would bring nothing, where a store takes longer to begin than the next request to come.
    async fn take_arrived(&mut self, body: &mut UploadBody) -> Ending {
        /// About what sockets hold.
        const MOST: u64 = 256 * 1024;
        let end = self.received + MOST;
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
    /// The body repeats `overlap` bytes, which `stored` yields, up to the durable `offset`.
    pub(crate) fn new(stored: BlobStream, overlap: u64, offset: u64) -> Self {
        Self {
            stored,
            held: Bytes::new(),
            remaining: overlap,
            offset,
        }
    }

    /// Compares what of `bytes` is repetition and returns the rest.
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
