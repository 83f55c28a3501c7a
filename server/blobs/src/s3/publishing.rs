//! From a staged blob to a published one.
//!
//! The object is put in its place on condition that nobody else put one there since it was looked at. What a session of a lower rank put
//! there is replaced, by a session that is bound (see `resuming`); where a session of a higher rank did, this one comes too late. An answer that got lost is made up for by looking:
//! an object says who made it.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use domain::BlobKey;
use domain::blob_store::BlobError;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::Shared;
use super::bucket::{Condition, Object, Part, metadata_of};
use super::failures::{Refusal, Trouble, broken, failed, other};
use super::names::{Rank, Tag};
use super::notes::Upload;
use super::writing::Session;

/// How often an object is put in its place while others put theirs there.
const MOST_TRIES: u32 = 5;
/// How many parts are copied at once.
const COPIES_AT_ONCE: usize = 4;

/// What became of a multipart upload that was to be completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placed {
    /// It is in its place.
    There,
    /// It is not: somebody else ended it, or put something else there.
    Gone,
}

impl Session {
    /// Publishes all that was written.
    pub(super) async fn publish_all(&mut self) -> Result<u64, BlobError> {
        let size = self.tail.end();
        let maker = if self.is_whole_already(size).await? {
            self.drop_upload().await?;
            self.shared.maker(self.key(), self.object.as_ref()).await?
        } else if self.fits_one_request(size) && self.put_whole().await? == Placed::There {
            Some(self.rank)
        } else {
            // Completing takes a part, even if there are no bytes.
            while self.tail.len() > 0 || (size == 0 && self.nothing_is_sent()) {
                self.send_part().await?;
            }
            self.all_arrive().await?;
            let maker = self.upload.as_ref().map(|upload| upload.tag.rank);
            if self.complete(size).await? == Placed::Gone {
                return Err(self.turn.overtaken());
            }
            maker
        };
        if maker.is_none_or(|maker| maker.epoch < self.rank.epoch) {
            self.seal().await?;
        }
        self.forget_notes().await?;
        self.turn.set_grows(false);
        Ok(size)
    }

    /// Whether what was found where the blob is published is all of it. An older session could replace that until its multipart upload
    /// was aborted, which was after the look at it.
    async fn is_whole_already(&mut self, size: u64) -> Result<bool, BlobError> {
        let is_whole = |object: &Object| object.size == size;
        if self.base != size
            || !self.nothing_is_sent()
            || !self.object.as_ref().is_some_and(is_whole)
        {
            return Ok(false);
        }
        let found = self.object.clone();
        self.look_again().await?;
        Ok(self.object == found)
    }

    /// Whether all of the blob is in the tail, and nothing keeps it from being put with one request.
    fn fits_one_request(&self, size: u64) -> bool {
        let most = self.part_size.min(self.shared.most_gathered);
        !self.is_bound && self.nothing_is_sent() && self.tail.start == 0 && size <= most
    }

    /// Puts the whole blob, which is in the tail, with one request. If there is something else in its place already, the session is
    /// bound, and nothing was put.
    async fn put_whole(&mut self) -> Result<Placed, BlobError> {
        self.gather().await?;
        let (bytes, _) = self.tail.lend();
        let size = bytes.len() as u64;
        let tag = Tag {
            rank: self.rank,
            nth: self.next(),
        };
        self.turn.check()?;
        let (published, condition) = (self.published(), self.condition());
        let put = self
            .shared
            .bucket
            .put(&published, bytes.clone(), metadata_of(tag), &condition)
            .await;
        match put {
            Ok(etag) => {
                self.object = Some(Object {
                    size,
                    etag,
                    tag: Some(tag),
                });
            }
            Err(_) if self.finds_its_own(tag, size).await? => {}
            Err(Trouble::Changed) => {
                self.tail.give_back(bytes);
                self.bind().await?;
                return Ok(Placed::Gone);
            }
            Err(trouble) => return Err(self.failed(trouble)),
        }
        self.drop_upload().await?;
        Ok(Placed::There)
    }

    /// Sees to it that whoever takes the blob over from here on finds a multipart upload to abort, by which alone this session
    /// publishes.
    ///
    /// # Errors
    /// Somebody has taken it over before.
    pub(super) async fn bind(&mut self) -> Result<(), BlobError> {
        self.begin_upload().await?;
        let standing = self.shared.standing(self.key(), Some(self.rank), 0).await?;
        self.object = standing.object;
        self.is_bound = true;
        Ok(())
    }

    /// Aborts a multipart upload that came to nothing.
    async fn drop_upload(&mut self) -> Result<(), BlobError> {
        let Some(Upload { id, .. }) = self.upload.take() else {
            return Ok(());
        };
        self.turn.ends()?;
        let aborted = self.shared.bucket.abort(&self.published(), &id).await;
        aborted.map_err(|trouble| self.failed(trouble))
    }

    /// Completes the multipart upload, all of whose parts have arrived, to an object of `size` bytes.
    pub(super) async fn complete(&mut self, size: u64) -> Result<Placed, BlobError> {
        let Some(upload) = self.upload.clone() else {
            return Err(self.failed(other("there is no multipart upload to complete")));
        };
        for _ in 0..MOST_TRIES {
            if self.copy_base(&upload).await? == Placed::Gone {
                return Ok(Placed::Gone);
            }
            self.turn.ends()?;
            let parts = self.whole(size)?;
            let condition = self.condition();
            let completed = self
                .shared
                .bucket
                .complete(&self.published(), &upload.id, &parts, &condition)
                .await;
            if self.finds_its_own(upload.tag, size).await? {
                self.upload = None;
                self.parts.clear();
                return Ok(Placed::There);
            }
            match completed {
                Err(Trouble::Changed) if self.is_bound => {}
                Err(Trouble::Changed) => self.bind().await?,
                Err(Trouble::NoUpload) => return Ok(Placed::Gone),
                Err(trouble) => return Err(self.failed(trouble)),
                Ok(()) => return Err(self.turn.overtaken()),
            }
        }
        Err(self.turn.overtaken())
    }

    /// The parts that make up `size` bytes.
    fn whole(&self, size: u64) -> Result<Vec<Part>, BlobError> {
        let mut reached = 0;
        let mut parts = Vec::new();
        for (part, number) in self.parts.values().zip(1..) {
            if part.number != number || (reached >= size && !parts.is_empty()) {
                break;
            }
            reached += part.size;
            parts.push(part.clone());
        }
        match reached == size && !parts.is_empty() {
            true => Ok(parts),
            false => Err(self.failed(other("parts are missing"))),
        }
    }

    /// Has the base become the first parts of the multipart upload.
    async fn copy_base(&mut self, upload: &Upload) -> Result<Placed, BlobError> {
        let last = u32::try_from(self.base / self.part_size);
        let last = last.map_err(|error| self.failed(other(error)))?;
        for _ in 0..MOST_TRIES {
            let missing: Vec<u32> = (1..=last)
                .filter(|number| !self.parts.contains_key(number))
                .collect();
            if missing.is_empty() {
                return Ok(Placed::There);
            }
            let Some(object) = self.object.clone() else {
                return Err(self.failed(Trouble::Changed));
            };
            let (shared, published, part_size) = (&self.shared, &self.published(), self.part_size);
            let copied: Result<Vec<Part>, Trouble> = stream::iter(missing)
                .map(|number| {
                    let object = &object;
                    let end = u64::from(number) * part_size;
                    let range = end - part_size..end;
                    let (from, to) = ((&**published, object), (&**published, &*upload.id));
                    async move { shared.copy_part(from, to, number, range).await }
                })
                .buffer_unordered(COPIES_AT_ONCE)
                .try_collect()
                .await;
            match copied {
                Ok(parts) => {
                    let by_number = parts.into_iter().map(|part| (part.number, part));
                    self.parts.extend(by_number);
                }
                Err(Trouble::NoUpload) => return Ok(Placed::Gone),
                // A session of a lower rank replaced the base by an object that begins with it.
                Err(Trouble::Changed | Trouble::NoObject) => self.look_again().await?,
                Err(trouble) => return Err(self.failed(trouble)),
            }
        }
        Err(self.turn.overtaken())
    }

    /// Whether what lies where the blob is published was made so.
    async fn finds_its_own(&mut self, tag: Tag, size: u64) -> Result<bool, BlobError> {
        let object = self.look_at_published().await?;
        let is_own = |object: &Object| object.tag == Some(tag) && object.size == size;
        if object.as_ref().is_some_and(is_own) {
            self.object = object;
            return Ok(true);
        }
        self.reckon_with(object).await?;
        Ok(false)
    }

    /// Looks at what lies where the blob is published.
    ///
    /// # Errors
    /// A session of a higher rank put it there.
    async fn look_again(&mut self) -> Result<(), BlobError> {
        let object = self.look_at_published().await?;
        self.reckon_with(object).await
    }

    async fn reckon_with(&mut self, object: Option<Object>) -> Result<(), BlobError> {
        if object.is_some()
            && self.shared.maker(self.key(), object.as_ref()).await? > Some(self.rank)
        {
            return Err(self.turn.overtaken());
        }
        self.object = object;
        Ok(())
    }

    fn condition(&self) -> Condition {
        match &self.object {
            _ if !self.shared.abilities.conditional_writes => Condition::Always,
            None => Condition::Vacant,
            Some(object) => Condition::Holds(object.etag.clone()),
        }
    }

    /// Says who published the blob, where the object says that somebody of a lower epoch made it. A session of an epoch in between
    /// that has not looked yet learns by this that it comes too late.
    async fn seal(&mut self) -> Result<(), BlobError> {
        let tag = Tag {
            rank: self.rank,
            nth: self.next(),
        };
        let name = self.shared.names.sealed(self.key());
        let sealed =
            self.shared
                .bucket
                .put(&name, Bytes::new(), metadata_of(tag), &Condition::Always);
        sealed
            .await
            .map(drop)
            .map_err(|trouble| self.failed(trouble))
    }

    /// Deletes the notes of a blob that is published.
    ///
    /// # Errors
    /// A newer session has begun, which needs them.
    async fn forget_notes(&mut self) -> Result<(), BlobError> {
        if !self.has_notes {
            return Ok(());
        }
        if self.part_size > self.shared.most_gathered
            && let Err(trouble) = self.shared.abort_large(self.key()).await
        {
            tracing::warn!(key = %self.key(), ?trouble, "uploads of parts of a published blob are left to its deletion");
        }
        let staged = self.shared.names.staged(self.key());
        let forgotten = match self.shared.bucket.list_all(&staged).await {
            Ok(listed) => {
                let newest = listed
                    .iter()
                    .filter_map(|listed| self.shared.names.note_of(&listed.name))
                    .map(|(_, note)| note.rank)
                    .max();
                if newest > Some(self.rank) {
                    return Err(self.turn.overtaken());
                }
                let names: Vec<String> = listed.into_iter().map(|listed| listed.name).collect();
                self.shared.bucket.delete(&names).await
            }
            Err(trouble) => Err(trouble),
        };
        if let Err(trouble) = forgotten {
            tracing::warn!(key = %self.key(), ?trouble, "notes on a published blob are left to its deletion");
        }
        Ok(())
    }
}

impl Shared {
    /// As [`Bucket::copy_part`](super::bucket::Bucket::copy_part); where the server does not copy, the same bytes are sent again.
    pub(super) async fn copy_part(
        &self,
        from: (&str, &Object),
        to: (&str, &str),
        number: u32,
        range: Range<u64>,
    ) -> Result<Part, Trouble> {
        if self.abilities.copies_parts() {
            let copied = self.bucket.copy_part(from, to, number, range.clone()).await;
            match copied {
                Err(Trouble::Refused(refusal)) => self.abilities.does_not_copy_parts(&refusal),
                copied => return copied,
            }
        }
        let (name, object) = from;
        let length = range.end - range.start;
        if length > self.most_gathered {
            return Err(Trouble::Refused(Refusal {
                advice: "the server does not copy parts, which files of more than 10,000 parts take; set blobs.part_size to \"64 MiB\"",
                source: format!("a part of {length} bytes cannot be copied").into(),
            }));
        }
        let size = usize::try_from(length).map_err(other)?;
        let _room = self.memory.room(size).await;
        let mut bytes = BytesMut::with_capacity(size);
        let mut answer = self.bucket.get(name, range, Some(&object.etag)).await?;
        while let Some(chunk) = answer.try_next().await.map_err(broken)? {
            bytes.extend_from_slice(&chunk);
        }
        if bytes.len() != size {
            return Err(broken("the answer ended too early"));
        }
        self.bucket
            .upload_part(to.0, to.1, number, bytes.freeze())
            .await
    }

    /// Who put the object there, as far as it or a seal says so.
    pub(super) async fn maker(
        &self,
        key: &BlobKey,
        object: Option<&Object>,
    ) -> Result<Option<Rank>, BlobError> {
        let seal = self.bucket.head(&self.names.sealed(key)).await;
        let seal = seal.map_err(|trouble| failed(key, "look at", trouble))?;
        let seal = seal.and_then(|(seal, _)| seal.tag).map(|tag| tag.rank);
        Ok(object.and_then(Object::maker).max(seal))
    }
}
