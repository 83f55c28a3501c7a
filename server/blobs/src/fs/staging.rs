//! Staged files that are open for writing.
//!
//! Bytes are handed to the blocking pool in batches, one batch at a time: while one is written, the
//! next gathers. The kernel is asked to begin to write the bytes behind the writer to the disk, so
//! that a sync finds little left to do.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, IoSlice};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::{io, mem};

use async_trait::async_trait;
use bytes::Bytes;
use domain::blob_store::BlobError;
use domain::{BlobKey, StagedBlob};
use tokio::task::JoinHandle;

use super::descriptors::Descriptors;
use super::directory::Directory;
use super::writers::{Claim, OpenFile};
use super::{Root, blocking, broken_off, failed, kernel};

/// Bytes that are worth a trip to the blocking pool. A slow upload holds no more.
const BATCH: usize = 32 * 1024;
/// Bytes that may gather while a batch is written.
const BACKLOG: usize = 1024 * 1024;
/// Chunks below this size are copied together: each may be a small part of a large buffer, which it
/// would keep in memory.
const SMALL_CHUNK: usize = 16 * 1024;
/// Bytes behind the writer after which the kernel is asked to begin writing them to the disk.
const WRITE_BACK: u64 = 1024 * 1024;

/// Staged file that is open for writing.
#[derive(Debug)]
pub(super) struct StagedFile {
    claim: Arc<Claim>,
    /// Bytes yet to be handed to the blocking pool.
    backlog: Backlog,
    /// Job on the blocking pool. At most one at a time, so writes stay in order.
    job: Option<JoinHandle<Result<(), BlobError>>>,
    /// Length of the file once the job and the backlog are written.
    length: u64,
    /// Set if all of `length` is durable.
    is_synced: bool,
    /// The directory, if the entry of the file in it may not be durable yet.
    unsynced_entry: Option<Arc<Directory>>,
}

/// Chunks in order. There are few, since small ones are copied together.
#[derive(Debug, Default)]
struct Backlog {
    chunks: Vec<Bytes>,
    /// Small chunks behind `chunks`.
    tail: Vec<u8>,
    size: usize,
}

impl StagedFile {
    /// Opens a staged file, as [`domain::BlobStore::stage`] does. For the blocking pool.
    pub(super) fn open(
        root: &Arc<Root>,
        descriptors: &Descriptors,
        claim: Arc<Claim>,
        offset: u64,
    ) -> Result<Self, BlobError> {
        let key = claim.key();
        let is_unchanged = claim.begin(|open| {
            let doing = |error| failed(format!("stage blob {key}"), error);
            let path = root.staged_path(key);
            let (file, was_staged) = match OpenOptions::new().write(true).open(&path) {
                Ok(file) => (file, true),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let taken_back = fs::rename(root.published_path(key), &path);
                    descriptors.forget(key);
                    let file = match taken_back {
                        Ok(()) => OpenOptions::new().write(true).open(&path),
                        Err(error) if error.kind() == ErrorKind::NotFound && offset == 0 => {
                            create(&path)
                        }
                        Err(error) => Err(error),
                    };
                    (file.map_err(missing(key, doing))?, false)
                }
                Err(error) => return Err(doing(error)),
            };
            let length = file.metadata().map_err(doing)?.len();
            if length < offset {
                return Err(BlobError::Missing { key: key.clone() });
            }
            if length > offset {
                file.set_len(offset).map_err(doing)?;
            }
            *open = Some(OpenFile {
                file,
                position: offset,
                written_back: offset,
            });
            Ok(was_staged && offset > 0 && length == offset)
        })?;
        Ok(Self {
            claim,
            backlog: Backlog::default(),
            job: None,
            length: offset,
            is_synced: is_unchanged,
            // Bytes below an offset above 0 were synced, and the entry of their file with them.
            unsynced_entry: (!is_unchanged).then(|| Arc::clone(&root.staged)),
        })
    }

    /// Waits for the job.
    async fn settle(&mut self) -> Result<(), BlobError> {
        let Some(job) = &mut self.job else {
            return Ok(());
        };
        let result = job.await;
        self.job = None;
        result.unwrap_or_else(|error| Err(broken_off(error)))
    }

    /// Hands the backlog to the blocking pool, which has no job.
    fn start(&mut self, then: Then) {
        let chunks = mem::take(&mut self.backlog).into_chunks();
        let claim = Arc::clone(&self.claim);
        self.job = Some(tokio::task::spawn_blocking(move || {
            claim.go_on(|open| {
                open.append(&chunks)
                    .map_err(|error| failed(format!("write to blob {}", claim.key()), error))?;
                match then {
                    Then::WriteBack => open.write_back(),
                    Then::Sync => open
                        .sync()
                        .map_err(|error| failed(format!("sync blob {}", claim.key()), error))?,
                }
                Ok(())
            })
        }));
    }
}

/// Step after a batch is written.
#[derive(Debug, Clone, Copy)]
enum Then {
    WriteBack,
    Sync,
}

#[async_trait]
impl StagedBlob for StagedFile {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        if self.backlog.is_full() || self.job.as_ref().is_some_and(JoinHandle::is_finished) {
            self.settle().await?;
        }
        // No `await` from here on: the chunk is added, or nothing is.
        self.length += bytes.len() as u64;
        self.is_synced = false;
        self.backlog.push(bytes);
        if self.job.is_none() && self.backlog.is_batch() {
            self.start(Then::WriteBack);
        }
        Ok(())
    }

    async fn sync(&mut self) -> Result<u64, BlobError> {
        self.settle().await?;
        if self.is_synced {
            return Ok(self.length);
        }
        self.start(Then::Sync);
        match self.unsynced_entry.clone() {
            Some(directory) => {
                futures::try_join!(self.settle(), directory.sync())?;
                self.unsynced_entry = None;
            }
            None => self.settle().await?,
        }
        self.is_synced = true;
        Ok(self.length)
    }

    async fn close(mut self: Box<Self>) -> Result<u64, BlobError> {
        self.sync().await
    }

    async fn publish(mut self: Box<Self>) -> Result<u64, BlobError> {
        let size = self.sync().await?;
        let claim = Arc::clone(&self.claim);
        let directory =
            blocking(move || claim.end(|| claim.root().publish(claim.key(), size))).await?;
        directory.sync().await?;
        Ok(size)
    }
}

impl Backlog {
    fn push(&mut self, chunk: Bytes) {
        self.size += chunk.len();
        if chunk.len() < SMALL_CHUNK {
            self.tail.extend_from_slice(&chunk);
        } else {
            self.end_tail();
            self.chunks.push(chunk);
        }
    }

    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push(mem::take(&mut self.tail).into());
        }
    }

    fn is_batch(&self) -> bool {
        self.size >= BATCH
    }

    fn is_full(&self) -> bool {
        self.size >= BACKLOG
    }

    /// Returns at most two chunks for each [`SMALL_CHUNK`] bytes: few enough for one system call.
    fn into_chunks(mut self) -> Vec<Bytes> {
        self.end_tail();
        self.chunks
    }
}

impl OpenFile {
    fn append(&mut self, chunks: &[Bytes]) -> io::Result<()> {
        let mut slices: Vec<_> = chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
        let mut slices = slices.as_mut_slice();
        while !slices.is_empty() {
            let written = match rustix::io::pwritev(&self.file, slices, self.position) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            self.position += written as u64;
            IoSlice::advance_slices(&mut slices, written);
        }
        Ok(())
    }

    /// Asks the kernel to begin to write the gathered bytes to the disk.
    fn write_back(&mut self) {
        if self.position - self.written_back >= WRITE_BACK {
            kernel::start_write_back(&self.file, self.written_back..self.position);
            self.written_back = self.position;
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.written_back = self.position;
        Ok(())
    }
}

fn create(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Returns [`BlobError::Missing`] for a missing file, else the given error.
fn missing(
    key: &BlobKey,
    otherwise: impl FnOnce(io::Error) -> BlobError,
) -> impl FnOnce(io::Error) -> BlobError {
    move |error| match error.kind() {
        ErrorKind::NotFound => BlobError::Missing { key: key.clone() },
        _ => otherwise(error),
    }
}
