//! Dependencies that all blobs of a store share, and the steps that concern one blob.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use domain::BlobKey;
use domain::blob_store::{BlobError, BlobStream, Growth};

use super::bucket::{Bucket, Condition, Object, Part};
use super::claims::Claims;
use super::config::{Config, Limits};
use super::errors::{Refusal, S3Error, broken_off, failed, other};
use super::names::{Names, Note, Rank};
use super::published::{Blocks, Heads, Links};
use super::reading::{Pauses, Source};
use super::server::Abilities;
use super::tail::{Kept, Memory};

/// Dependencies that all blobs of a store share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) bucket: Arc<Bucket>,
    pub(super) abilities: Abilities,
    pub(super) names: Names,
    pub(super) claims: Claims,
    pub(super) memory: Memory,
    pub(super) heads: Heads,
    pub(super) blocks: Arc<Blocks>,
    pub(super) pauses: Arc<Pauses>,
    /// Signer of links, if clients may be redirected to the bucket.
    pub(super) links: Option<Arc<Links>>,
    pub(super) limits: Limits,
    /// Size of the parts of an upload that is short enough for it, in bytes.
    part_size: u64,
    /// Maximum number of parts of one upload that are sent at the same time.
    pub(super) parts_in_flight: usize,
    /// Bytes that one request reads.
    pub(super) read_size: u64,
}

impl Shared {
    pub(super) fn new(
        bucket: Bucket,
        abilities: Abilities,
        names: Names,
        links: Option<Links>,
        config: &Config,
        limits: Limits,
    ) -> Self {
        Self {
            bucket: Arc::new(bucket),
            abilities,
            names,
            claims: Claims::default(),
            memory: Memory::new(config.memory.as_u64()),
            heads: Heads::new(),
            blocks: Arc::new(Blocks::new(config.read_memory.as_u64())),
            pauses: Arc::new(Pauses::new(config.max_paused_reads)),
            links: links.map(Arc::new),
            limits,
            part_size: config.part_size.as_u64(),
            parts_in_flight: config.parts_in_flight.get(),
            read_size: config.read_size.as_u64(),
        }
    }

    /// Returns the size of the parts of an upload of `length` bytes: the configured one, or the
    /// multiple of it with which the parts are few enough.
    pub(super) fn part_size(&self, length: Option<u64>) -> u64 {
        let longest = self.part_size * self.limits.max_parts;
        self.part_size * length.unwrap_or(0).div_ceil(longest).max(1)
    }

    /// Returns the rank and the growth of a session that follows the `newest` one within its
    /// epoch. Callers that publish or read a blob know no epoch of their own.
    pub(super) fn successor(&self, newest: Rank, offset: u64) -> (Rank, Growth) {
        let rank = Rank {
            epoch: newest.epoch,
            session: self.claims.number_after(newest.session),
        };
        let growth = Growth {
            offset,
            epoch: newest.epoch,
            length: None,
        };
        (rank, growth)
    }

    /// Puts a note with its bytes and its metadata.
    pub(super) async fn put_note(
        &self,
        key: &BlobKey,
        note: &Note,
        bytes: Bytes,
        metadata: HashMap<String, String>,
    ) -> Result<(), S3Error> {
        let name = self.names.note(key, note);
        let put = self
            .bucket
            .put(&name, bytes, metadata, &Condition::Always)
            .await;
        put.map(drop)
    }

    /// Returns the object `name` of a blob as a source of bytes.
    pub(super) fn source(&self, key: &BlobKey, name: String, etag: Option<String>) -> Source {
        Source {
            bucket: Arc::clone(&self.bucket),
            pauses: Arc::clone(&self.pauses),
            key: key.clone(),
            name,
            etag,
        }
    }

    /// Reads `range` of a staged blob, all of which is in `kept`.
    pub(super) fn read_kept(&self, key: &BlobKey, kept: &Kept, range: Range<u64>) -> BlobStream {
        let (name, begin) = match kept {
            Kept::Base { .. } => (self.names.published(key), 0),
            Kept::Piece(piece) => (self.names.note(key, &piece.note), piece.note.from),
        };
        // Without an entity tag: the object that replaces a base begins with the same bytes.
        let source = self.source(key, name, None);
        source.stream(range.start - begin..range.end - begin, self.read_size)
    }

    /// Copies a range of an object to a part of a multipart upload, as
    /// [`Bucket::copy_part`] does. If the server copies no parts, reads the bytes and sends them.
    pub(super) async fn copy_part(
        &self,
        from: (&str, &Object),
        to: (&str, &str),
        number: u32,
        range: Range<u64>,
    ) -> Result<Part, S3Error> {
        if self.abilities.copies_parts() {
            let copied = self.bucket.copy_part(from, to, number, range.clone()).await;
            match copied {
                Err(S3Error::Refused(refusal)) => self.abilities.disable_copies(&refusal),
                copied => return copied,
            }
        }
        let (name, object) = from;
        let length = range.end - range.start;
        if length > self.limits.max_gathered {
            return Err(S3Error::Refused(Refusal {
                advice: "the server does not copy parts, which files of more than 10,000 parts need; set blobs.part_size to \"64 MiB\"",
                source: format!("a part of {length} bytes cannot be copied").into(),
            }));
        }
        let size = usize::try_from(length).map_err(other)?;
        let _room = self.memory.room(size).await;
        let mut bytes = BytesMut::with_capacity(size);
        let mut answer = self.bucket.get(name, range, Some(&object.etag)).await?;
        while let Some(chunk) = answer.try_next().await.map_err(broken_off)? {
            bytes.extend_from_slice(&chunk);
        }
        if bytes.len() != size {
            return Err(broken_off("the answer ended too early"));
        }
        self.bucket
            .upload_part(to.0, to.1, number, bytes.freeze())
            .await
    }

    /// Returns the rank of the session that put `object` at the published name, or of the one that
    /// sealed the blob if that is higher.
    pub(super) async fn maker(
        &self,
        key: &BlobKey,
        object: Option<&Object>,
    ) -> Result<Option<Rank>, BlobError> {
        let seal = self.bucket.head(&self.names.sealed(key)).await;
        let seal = seal.map_err(|error| failed(key, "look at", error))?;
        let seal = seal.and_then(|(seal, _)| seal.tag).map(|tag| tag.rank);
        Ok(object.and_then(Object::maker).max(seal))
    }

    /// Returns the ids of all multipart uploads to the published name of a blob.
    pub(super) async fn uploads_to(&self, key: &BlobKey) -> Result<Vec<String>, BlobError> {
        let published = self.names.published(key);
        let listed = self.bucket.all_uploads(&published).await;
        let listed = listed.map_err(|error| failed(key, "look at", error))?;
        Ok(listed
            .into_iter()
            .filter(|upload| upload.name == published)
            .map(|upload| upload.id)
            .collect())
    }

    /// Aborts multipart uploads to the published name of a blob.
    pub(super) async fn abort_uploads(
        &self,
        key: &BlobKey,
        ids: &[String],
    ) -> Result<(), BlobError> {
        let published = self.names.published(key);
        for id in ids {
            let aborted = self.bucket.abort(&published, id).await;
            aborted.map_err(|error| failed(key, "abort an upload of", error))?;
        }
        Ok(())
    }

    /// Aborts all multipart uploads to large parts of a blob.
    pub(super) async fn abort_large_parts(&self, key: &BlobKey) -> Result<(), S3Error> {
        for upload in self.bucket.all_uploads(&self.names.staged(key)).await? {
            self.bucket.abort(&upload.name, &upload.id).await?;
        }
        Ok(())
    }

    /// Overwrites an object that nobody reads, to find out whether writing works.
    pub(super) async fn probe(&self) -> Result<(), S3Error> {
        let name = self.names.probe();
        let put = self
            .bucket
            .put(&name, Bytes::new(), HashMap::new(), &Condition::Always)
            .await;
        put.map(drop)
    }
}
