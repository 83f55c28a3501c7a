//! Documents that list files or digests. They are too long to be held as text, so they are stored,
//! and parsed on a thread that may block.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use futures::stream::{BoxStream, StreamExt as _};
use tokio::sync::mpsc;

use super::{Library, Shared};
use crate::blob_store::{BlobStream, Growth};
use crate::body::BodyFault;
use crate::digest::Hasher;
use crate::error::PackError;
use crate::file::Content;
use crate::{BlobKey, Error, StagedBlob};

/// The decoded bytes of a document that a client sends.
pub type DocumentBody = BoxStream<'static, Result<Bytes, BodyFault>>;

/// Number of chunks that may wait for the thread that parses them.
const QUEUE: usize = 4;

impl Shared {
    /// Stores a document that a client sends, durably. On an error, nothing stays.
    pub(super) async fn keep_document(&self, mut body: DocumentBody) -> Result<Content, Error> {
        let limit = self.config.max_document.as_u64();
        let key = BlobKey::random(&*self.randomness);
        let kept = async {
            let mut writing = self.begin(&key).await?;
            while let Some(chunk) = body.next().await {
                let chunk = chunk?;
                if writing.size + chunk.len() as u64 > limit {
                    return Err(PackError::DocumentTooLarge { limit }.into());
                }
                writing.write(chunk).await?;
            }
            self.publish_blob(writing).await
        };
        let kept = kept.await;
        if kept.is_err() {
            self.discard(&key).await;
        }
        kept
    }

    /// Stores bytes as one blob, durably.
    pub(super) async fn keep(
        &self,
        chunks: impl IntoIterator<Item = Bytes, IntoIter: Send> + Send,
    ) -> Result<Content, Error> {
        let key = BlobKey::random(&*self.randomness);
        let mut writing = self.begin(&key).await?;
        for chunk in chunks {
            writing.write(chunk).await?;
        }
        self.publish_blob(writing).await
    }

    async fn begin(&self, key: &BlobKey) -> Result<Writing, Error> {
        Ok(Writing {
            key: key.clone(),
            staged: self.stage(key).await?,
            size: 0,
            hasher: Hasher::new(),
        })
    }

    async fn publish_blob(&self, writing: Writing) -> Result<Content, Error> {
        let published = writing.staged.publish().await;
        published.map_err(Error::blob("publish a blob"))?;
        Ok(Content {
            blob: writing.key,
            size: writing.size,
            sha256: writing.hasher.finish(),
        })
    }

    /// Creates a staged blob.
    pub(super) async fn stage(&self, key: &BlobKey) -> Result<Box<dyn StagedBlob>, Error> {
        self.blobs
            .stage(key, Growth::NEW)
            .await
            .map_err(Error::blob("open a staged blob"))
    }

    /// Discards a staged blob. If that fails, the janitor finds the blob.
    pub(super) async fn discard(&self, key: &BlobKey) {
        if let Err(error) = self.blobs.discard(key).await {
            tracing::warn!(%key, error = &error as &dyn std::error::Error, "a staged blob stays for the janitor");
        }
    }

    /// Deletes a published blob that no record mentions. If that fails, the janitor finds the blob.
    pub(super) async fn delete(&self, key: &BlobKey) {
        if let Err(error) = self.blobs.delete(key).await {
            tracing::warn!(%key, error = &error as &dyn std::error::Error, "a published blob stays for the janitor");
        }
    }
}

impl Library {
    /// Parses a stored document with `read` on a thread that may block.
    pub(super) async fn read_document<T: Send + 'static>(
        &self,
        content: &Content,
        read: impl FnOnce(&mut dyn Read) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let blob = self
            .blobs
            .open(&content.blob, content.size)
            .await
            .map_err(Error::blob("open a blob"))?;
        let chunks = blob.read(0..content.size);
        read_elsewhere(chunks, read).await
    }
}

/// The beginning of a body, as [`beginning`] returns it.
pub(super) enum Beginning {
    /// The whole body.
    Whole(Vec<u8>),
    /// A longer body; the bytes that were read come again.
    Part(DocumentBody),
}

/// Reads a body until its end, or until more than `most` bytes have arrived.
pub(super) async fn beginning(mut body: DocumentBody, most: usize) -> Result<Beginning, Error> {
    let mut read = Vec::new();
    while let Some(chunk) = body.next().await {
        read.extend_from_slice(&chunk?);
        if read.len() > most {
            let read = futures::stream::iter([Ok(Bytes::from(read))]);
            return Ok(Beginning::Part(read.chain(body).boxed()));
        }
    }
    Ok(Beginning::Whole(read))
}

/// Feeds `chunks` to `read` on a thread that may block. If the chunks fail, returns their error,
/// regardless of the result of `read`.
async fn read_elsewhere<T: Send + 'static>(
    mut chunks: BlobStream,
    read: impl FnOnce(&mut dyn Read) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let reading = tokio::task::spawn_blocking(move || {
        let mut reader = ChunkReader {
            chunks: receiver,
            current: Bytes::new(),
        };
        read(&mut reader)
    });
    let interruption = loop {
        match chunks.next().await {
            None => break None,
            // A parser that needs no more hangs up, and returns the reason.
            Some(Ok(chunk)) => {
                if sender.send(Ok(chunk)).await.is_err() {
                    break None;
                }
            }
            Some(Err(error)) => break Some(Error::blob("read a blob")(error)),
        }
    };
    if interruption.is_some() {
        // The parser must not mistake this for the end of the document. If it has hung up, the send
        // fails, which does not matter.
        let _ = sender
            .send(Err(io::Error::from(io::ErrorKind::UnexpectedEof)))
            .await;
    }
    drop(sender);
    let read = reading.await.expect("reading a document does not panic");
    match interruption {
        Some(error) => Err(error),
        None => read,
    }
}

/// A staged blob, its size and its digest so far.
#[derive(Debug)]
struct Writing {
    key: BlobKey,
    staged: Box<dyn StagedBlob>,
    size: u64,
    hasher: Hasher,
}

impl Writing {
    async fn write(&mut self, chunk: Bytes) -> Result<(), Error> {
        self.size += chunk.len() as u64;
        self.hasher.update(&chunk);
        self.staged
            .write(chunk)
            .await
            .map_err(Error::blob("write to a staged blob"))
    }
}

/// Presents chunks as a reader, for a thread that may block.
#[derive(Debug)]
struct ChunkReader {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let count = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
