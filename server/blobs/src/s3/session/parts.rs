//! Parts of the multipart upload: sent, grown, and put together on the server.
//!
//! An object of 5 TiB in 10,000 parts has parts of 525 MiB, too long to gather in memory. Their
//! bytes are kept in pieces as they come. When such a large part is full, its pieces become an
//! object of its own, by a multipart upload whose parts fit into memory, and the server copies that
//! object to its place. A crash leaves the object beside the notes, and it is deleted with them.

use std::mem;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use domain::blob_store::BlobError;
use futures::StreamExt as _;

use super::{PART_GROWTH, Placed, Session};
use crate::s3::bucket::{Condition, Object, Part};
use crate::s3::errors::{S3Error, other};
use crate::s3::names::{Tag, Upload};
use crate::s3::tail::{Room, Tail};

/// Largest part that a server takes (Amazon S3, "Multipart upload limits").
const MAX_PART_SIZE: u64 = 5 * 1024 * 1024 * 1024;

impl Session {
    /// Sends the tail, which is as long as a part or the last of the blob. If all numbers of parts
    /// are used, grows the parts instead.
    pub(super) async fn send_part(&mut self) -> Result<(), BlobError> {
        let number = self.tail.start / self.plan.part_size;
        if number >= self.shared.limits.max_parts {
            self.grow_parts().await?;
            return Ok(());
        }
        let number = u32::try_from(number + 1);
        let number = number.map_err(|error| self.failed(other(error)))?;
        if self.is_large() {
            return self.send_large_part(number).await;
        }
        self.gather().await?;
        let upload = self.begin_upload().await?;
        while self.multipart.sending.len() >= self.shared.parts_in_flight {
            self.one_arrives().await?;
        }
        self.claim.announce_part()?;
        let (bytes, room, kept) = self.tail.take();
        self.journal.cover(kept);
        let (shared, published) = (Arc::clone(&self.shared), self.published());
        self.multipart.sending.spawn(async move {
            let sent = shared
                .bucket
                .upload_part(&published, &upload, number, bytes)
                .await;
            drop(room);
            sent
        });
        Ok(())
    }

    /// Returns the id of the multipart upload, and begins one if there is none.
    pub(super) async fn begin_upload(&mut self) -> Result<String, BlobError> {
        if let Some(upload) = &self.multipart.upload {
            return Ok(upload.id.clone());
        }
        self.claim.check()?;
        let tag = self.author.next_tag();
        let published = self.published();
        let begun = self.shared.bucket.create_upload(&published, tag);
        let id = begun.await.map_err(|error| self.failed(error))?;
        self.multipart.upload = Some(Upload {
            id: id.clone(),
            tag,
        });
        self.journal.current = None;
        Ok(id)
    }

    /// Waits until the server has acknowledged one more part, if any is under way.
    async fn one_arrives(&mut self) -> Result<(), BlobError> {
        let part = match self.multipart.sending.join_next().await {
            None => return Ok(()),
            Some(Ok(part)) => part,
            Some(Err(error)) => Err(other(error)),
        };
        let part = part.map_err(|error| self.failed(error))?;
        self.multipart.arrived.insert(part.number, part);
        Ok(())
    }

    /// Waits until the server has acknowledged all parts.
    pub(super) async fn all_arrive(&mut self) -> Result<(), BlobError> {
        while !self.multipart.sending.is_empty() {
            self.one_arrives().await?;
        }
        Ok(())
    }

    /// Makes all parts the base of an upload with larger parts.
    async fn grow_parts(&mut self) -> Result<(), BlobError> {
        self.all_arrive().await?;
        let size = self.tail.start;
        if self.complete(size).await? == Placed::Gone {
            return Err(self.claim.superseded());
        }
        self.target.base = size;
        self.plan.part_size *= PART_GROWTH;
        if self.plan.part_size > MAX_PART_SIZE {
            return Err(self.failed(other("no object can be that long")));
        }
        // A session that has inspected the blob before knows nothing of the next multipart upload,
        // and so will not abort it.
        self.bind().await
    }

    /// Returns `true` if the tail is longer than a part that is gathered in memory.
    pub(super) fn is_large(&self) -> bool {
        self.tail.len() > self.shared.limits.max_gathered
    }

    /// Sends the tail, which is large, as the part with this number.
    async fn send_large_part(&mut self, number: u32) -> Result<(), BlobError> {
        self.spill().await?;
        let upload = self.begin_upload().await?;
        self.claim.announce_part()?;
        let tag = self.author.next_tag();
        let name = self.shared.names.large(self.key(), tag);
        let object = self.put_together(&name, tag).await?;
        let (from, whole) = ((&*name, &object), 0..object.size);
        let to = (&*self.published(), &*upload);
        let copied = self.shared.copy_part(from, to, number, whole).await;
        let part = copied.map_err(|error| self.failed(error))?;
        let deleted = self.shared.bucket.delete(&[name]).await;
        deleted.map_err(|error| self.failed(error))?;

        self.multipart.arrived.insert(number, part);
        let end = self.tail.end();
        let sent = mem::replace(&mut self.tail, Tail::new(end, Vec::new(), end));
        self.journal.cover(sent.kept);
        Ok(())
    }

    /// Makes an object of the tail, all of which is in pieces.
    async fn put_together(&self, name: &str, tag: Tag) -> Result<Object, BlobError> {
        let bucket = &self.shared.bucket;
        let upload = bucket.create_upload(name, tag).await;
        let upload = upload.map_err(|error| self.failed(error))?;
        let mut parts: Vec<Part> = Vec::new();
        let mut start = self.tail.start;
        for number in 1.. {
            let end = self.tail.end().min(start + self.shared.limits.max_gathered);
            if start == end {
                break;
            }
            let (bytes, _room) = self.read_tail(start..end).await?;
            let sent = bucket.upload_part(name, &upload, number, bytes).await;
            parts.push(sent.map_err(|error| self.failed(error))?);
            start = end;
        }
        let completed = bucket
            .complete(name, &upload, &parts, &Condition::Always)
            .await;
        // If the answer was lost, the object tells whether the upload was completed.
        let found = bucket.head(name).await;
        match found.map_err(|error| self.failed(error))? {
            Some((object, _)) if object.size == self.tail.len() => Ok(object),
            Some(_) | None => Err(self.failed(completed.err().unwrap_or(S3Error::NoObject))),
        }
    }

    /// Reads a range of the tail, all of which is in pieces, with the room for it.
    async fn read_tail(&self, range: Range<u64>) -> Result<(Bytes, Room), BlobError> {
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
            let mut stream = self.shared.read_kept(self.key(), kept, from..to);
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
