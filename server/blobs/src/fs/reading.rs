//! Reads of files.
//!
//! Bytes in the page cache are read at once, in the task of the reader: that costs no more than the
//! copy. Only reads that wait for the disk go to the blocking pool. Mapped memory would save the
//! copy, but a bad block or a file that somebody shortened would kill the process instead of
//! failing one request, and a cold page would block a thread that serves many.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::Bytes;
use domain::blob_store::{BlobError, BlobStream, Link, LinkFields};
use domain::{Blob, BlobKey};
use futures::{Stream, StreamExt};
use tokio::task::{JoinHandle, coop};

use super::buffers::{Buffer, Buffers};
use super::{Config, broken_off, failed, kernel};
use crate::error::OpenError;

const MIN_CHUNK: usize = 4 * 1024;
const MAX_CHUNK: usize = 4 * 1024 * 1024;

/// Settings and buffers of reads.
#[derive(Debug)]
pub(super) struct Reads {
    buffers: Buffers,
}

/// File that is open for reading.
#[derive(Debug)]
pub(super) struct ReadableFile {
    key: BlobKey,
    file: File,
    size: u64,
}

/// Published blob that is open for reading.
#[derive(Debug)]
pub(super) struct PublishedFile {
    file: Arc<ReadableFile>,
    reads: Arc<Reads>,
}

impl Reads {
    pub(super) fn new(config: &Config) -> Result<Self, OpenError> {
        match usize::try_from(config.read_chunk.as_u64()) {
            Ok(chunk @ MIN_CHUNK..=MAX_CHUNK) => Ok(Self {
                buffers: Buffers::new(chunk),
            }),
            _ => Err(OpenError::Setting {
                setting: "read_chunk",
                requirement: "between 4 KiB and 4 MiB",
            }),
        }
    }

    /// Streams the bytes in `range`.
    pub(super) fn stream(
        self: &Arc<Self>,
        file: Arc<ReadableFile>,
        range: Range<u64>,
    ) -> BlobStream {
        Reading {
            file,
            reads: Arc::clone(self),
            rest: range,
            job: None,
        }
        .boxed()
    }
}

impl ReadableFile {
    /// Opens a file. For the blocking pool.
    pub(super) fn open(path: &Path, key: BlobKey) -> Result<Self, BlobError> {
        let opened = File::open(path).and_then(|file| {
            let metadata = file.metadata()?;
            if metadata.is_file() {
                Ok((file, metadata.len()))
            } else {
                Err(io::Error::other("it is not a regular file"))
            }
        });
        match opened {
            Ok((file, size)) => Ok(Self { key, file, size }),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(BlobError::Missing { key }),
            Err(error) => Err(failed(format!("open blob {key}"), error)),
        }
    }

    /// Fills `room` from `offset` on, as far as the file reaches. For the blocking pool.
    fn read(&self, room: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < room.len() {
            match self
                .file
                .read_at(&mut room[filled..], offset + filled as u64)
            {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

impl PublishedFile {
    /// Opens a file. For the blocking pool.
    pub(super) fn open(path: &Path, key: BlobKey, reads: Arc<Reads>) -> Result<Self, BlobError> {
        let file = Arc::new(ReadableFile::open(path, key)?);
        Ok(Self { file, reads })
    }
}

#[async_trait]
impl Blob for PublishedFile {
    fn size(&self) -> u64 {
        self.file.size
    }

    fn read(&self, range: Range<u64>) -> BlobStream {
        self.reads.stream(Arc::clone(&self.file), range)
    }

    async fn link(&self, _: LinkFields<'_>) -> Result<Option<Link>, BlobError> {
        Ok(None)
    }
}

/// Range of a file that is being read.
#[derive(Debug)]
struct Reading {
    file: Arc<ReadableFile>,
    reads: Arc<Reads>,
    /// Bytes yet to be yielded; empty after an error.
    rest: Range<u64>,
    job: Option<JoinHandle<(Buffer, io::Result<usize>)>>,
}

impl Reading {
    /// Starts to read on the blocking pool.
    fn wait_for_disk(&self, mut buffer: Buffer) -> JoinHandle<(Buffer, io::Result<usize>)> {
        let file = Arc::clone(&self.file);
        let Range { start, end } = self.rest;
        tokio::task::spawn_blocking(move || {
            let result = file.read(buffer.room(end - start), start);
            (buffer, result)
        })
    }

    fn finish(&mut self, buffer: Buffer, result: io::Result<usize>) -> Result<Bytes, BlobError> {
        match result {
            // The file is shorter than it was.
            Ok(0) => Err(self.missing()),
            Ok(read) => {
                self.rest.start += read as u64;
                Ok(buffer.into_bytes(read))
            }
            Err(error) => Err(failed(format!("read blob {}", self.file.key), error)),
        }
    }

    fn missing(&self) -> BlobError {
        BlobError::Missing {
            key: self.file.key.clone(),
        }
    }
}

impl Stream for Reading {
    type Item = Result<Bytes, BlobError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let item = loop {
            if let Some(job) = &mut this.job {
                let result = ready!(Pin::new(job).poll(context));
                this.job = None;
                break match result {
                    Ok((buffer, result)) => this.finish(buffer, result),
                    Err(error) => Err(broken_off(error)),
                };
            }
            if this.rest.is_empty() {
                return Poll::Ready(None);
            }
            // A file in the page cache never makes its reader wait, so it yields to other tasks by
            // budget.
            let progress = ready!(coop::poll_proceed(context));
            let wanted = this.rest.end - this.rest.start;
            let mut buffer = this.reads.buffers.lend();
            match kernel::read_cached(&this.file.file, buffer.room(wanted), this.rest.start) {
                Some(read) => {
                    progress.made_progress();
                    break this.finish(buffer, Ok(read));
                }
                None => this.job = Some(this.wait_for_disk(buffer)),
            }
        };
        if item.is_err() {
            this.rest = 0..0;
        }
        Poll::Ready(Some(item))
    }
}
