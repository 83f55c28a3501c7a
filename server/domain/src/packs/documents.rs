//! Documents that list files or digests: too long to be held as text, so they are stored, and read where blocking is allowed.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use futures::stream::{BoxStream, StreamExt as _};
use tokio::sync::mpsc;

use super::Shared;
use crate::blob_store::{BlobStream, Growth};
use crate::body::BodyFault;
use crate::digest::Hasher;
use crate::error::PackError;
use crate::file::Content;
use crate::{BlobKey, Error, StagedBlob};

/// A document as it comes from a client, in plain bytes.
pub type DocumentBody = BoxStream<'static, Result<Bytes, BodyFault>>;

/// How many chunks may wait for the reading half.
const QUEUE: usize = 4;

impl Shared {
    /// Stores a document that a client sends, durably.
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

    /// Stores bytes as a blob of their own, durably.
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

    /// Begins a blob.
    pub(super) async fn stage(&self, key: &BlobKey) -> Result<Box<dyn StagedBlob>, Error> {
        self.blobs
            .stage(key, Growth::NEW)
            .await
            .map_err(Error::blob("open a staged blob"))
    }

    /// Forgets a staged blob. What cannot be discarded now is found by the janitor.
    pub(super) async fn discard(&self, key: &BlobKey) {
        if let Err(error) = self.blobs.discard(key).await {
            tracing::warn!(%key, error = &error as &dyn std::error::Error, "a staged blob stays for the janitor");
        }
    }

    /// Deletes a published blob that nothing records. What cannot be deleted now is found by the janitor.
    pub(super) async fn delete(&self, key: &BlobKey) {
        if let Err(error) = self.blobs.delete(key).await {
            tracing::warn!(%key, error = &error as &dyn std::error::Error, "a published blob stays for the janitor");
        }
    }

    /// Reads a stored document on a thread that may block.
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

/// A body of which the beginning was read.
pub(super) enum Beginning {
    /// It is the whole.
    Whole(Vec<u8>),
    /// There is more; the beginning comes again.
    Part(DocumentBody),
}

/// Reads a body until it ends or there are more than `most` bytes.
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

/// Feeds `chunks` to `read` on a thread that may block. What interrupts the chunks is the outcome, whatever `read` makes of it.
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
            // A reader that has seen enough hangs up, and knows why.
            Some(Ok(chunk)) => {
                if sender.send(Ok(chunk)).await.is_err() {
                    break None;
                }
            }
            Some(Err(error)) => break Some(Error::blob("read a blob")(error)),
        }
    };
    if interruption.is_some() {
        // It must not take the end for the document's own. Whether it still listens does not matter.
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

/// A blob while it is written.
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

/// Chunks as a reader, for a thread that may block.
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
