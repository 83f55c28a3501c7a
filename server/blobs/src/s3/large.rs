//! Parts that are longer than what is gathered in memory.
//!
//! An object of 5 TiB in 10,000 parts has parts of 525 MiB. Their bytes are kept in pieces as they come. When such a part is full, it is
//! put together as an object of its own, by a multipart upload whose parts fit into memory, and the server copies it from there to its
//! place. What a crash leaves of it lies beside the notes, and goes with them.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use domain::BlobKey;
use domain::blob_store::BlobError;
use futures::StreamExt as _;

use super::Shared;
use super::bucket::{Condition, Object, Part};
use super::failures::{Trouble, other};
use super::memory::Room;
use super::names::Tag;
use super::tail::{Kept, Tail};
use super::writing::{Session, note_of};

impl Session {
    /// Whether the tail is longer than what is gathered in memory.
    pub(super) fn is_large(&self) -> bool {
        self.tail.len() > self.shared.most_gathered
    }

    /// Sends the tail, which is large, as the part of this number.
    pub(super) async fn send_large_part(&mut self, number: u32) -> Result<(), BlobError> {
        self.spill().await?;
        let upload = self.begin_upload().await?;
        self.turn.sends()?;
        let tag = Tag {
            rank: self.rank,
            nth: self.next(),
        };
        let name = self.shared.names.large(self.key(), tag);
        let object = self.put_together(&name, tag).await?;
        let (from, whole) = ((&*name, &object), 0..object.size);
        let to = (&*self.published(), &*upload);
        let copied = self.shared.copy_part(from, to, number, whole).await;
        let part = copied.map_err(|trouble| self.failed(trouble))?;
        let deleted = self.shared.bucket.delete(&[name]).await;
        deleted.map_err(|trouble| self.failed(trouble))?;

        self.parts.insert(number, part);
        let end = self.tail.end();
        let sent = std::mem::replace(&mut self.tail, Tail::new(end, Vec::new(), end));
        self.covered
            .extend(sent.kept.into_iter().filter_map(note_of));
        Ok(())
    }

    /// Makes an object of the tail, all of which is in pieces.
    async fn put_together(&self, name: &str, tag: Tag) -> Result<Object, BlobError> {
        let bucket = &self.shared.bucket;
        let upload = bucket.create_upload(name, tag).await;
        let upload = upload.map_err(|trouble| self.failed(trouble))?;
        let mut parts: Vec<Part> = Vec::new();
        let mut start = self.tail.start;
        for number in 1.. {
            let end = self.tail.end().min(start + self.shared.most_gathered);
            if start == end {
                break;
            }
            let (bytes, _room) = self.window(start..end).await?;
            let sent = bucket.upload_part(name, &upload, number, bytes).await;
            parts.push(sent.map_err(|trouble| self.failed(trouble))?);
            start = end;
        }
        let completed = bucket
            .complete(name, &upload, &parts, &Condition::Always)
            .await;
        // If the answer was lost, the object says whether it was done.
        let found = bucket.head(name).await;
        match found.map_err(|trouble| self.failed(trouble))? {
            Some((object, _)) if object.size == self.tail.len() => Ok(object),
            Some(_) | None => Err(self.failed(completed.err().unwrap_or(Trouble::NoObject))),
        }
    }

    /// Some bytes of the tail, all of which is in pieces, and the room that they take.
    async fn window(&self, range: Range<u64>) -> Result<(Bytes, Room), BlobError> {
        let size = usize::try_from(range.end - range.start);
        let size = size.map_err(|error| self.failed(other(error)))?;
        let room = self.shared.memory.room(size).await;
        let mut bytes = BytesMut::with_capacity(size);
        for kept in &self.tail.kept {
            let (from, to) = kept.range();
            let (from, to) = (from.max(range.start), to.min(range.end));
            if from >= to {
                continue;
            }
            let mut stream = self.shared.kept(self.key(), kept, from..to);
            while let Some(chunk) = stream.next().await {
                bytes.extend_from_slice(&chunk?);
            }
        }
        match bytes.len() == size {
            true => Ok((bytes.freeze(), room)),
            false => Err(self.contradicted()),
        }
    }
}

impl Kept {
    /// Which bytes of the blob these are.
    pub(super) fn range(&self) -> (u64, u64) {
        match self {
            Self::Base { from, to } => (*from, *to),
            Self::Piece(piece) => (piece.from, piece.to),
        }
    }
}

impl Shared {
    /// Aborts multipart uploads to parts of a blob that nobody finished.
    pub(super) async fn abort_large(&self, key: &BlobKey) -> Result<(), Trouble> {
        for upload in self.bucket.all_uploads(&self.names.staged(key)).await? {
            self.bucket.abort(&upload.name, &upload.id).await?;
        }
        Ok(())
    }
}
