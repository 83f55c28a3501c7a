//! Publication of a staged blob.
//!
//! The object is put on the condition that the published name has not changed since it was last
//! seen. If a session of a lower rank has put an object there, a bound session (`resuming`)
//! replaces it; if one of a higher rank has, this session fails. If an answer is lost, the object
//! tells who made it.

use bytes::Bytes;
use domain::blob_store::BlobError;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{Placed, Session};
use crate::s3::bucket::{Condition, Object, Part, metadata_of};
use crate::s3::errors::{S3Error, other};
use crate::s3::names::{Tag, Upload};

/// Maximum number of attempts while other sessions put objects at the name.
const MAX_TRIES: u32 = 5;
/// Number of parts that are copied at the same time.
const COPIES_AT_ONCE: usize = 4;

impl Session {
    /// Publishes all bytes that were written.
    pub(in crate::s3) async fn publish_all(&mut self) -> Result<u64, BlobError> {
        let size = self.tail.end();
        let maker = if self.is_whole_already(size).await? {
            self.drop_upload().await?;
            self.shared
                .maker(self.key(), self.target.object.as_ref())
                .await?
        } else if self.fits_one_request(size) && self.put_whole().await? == Placed::There {
            Some(self.author.rank)
        } else {
            // Completing takes at least one part, even if there are no bytes.
            while self.tail.len() > 0 || (size == 0 && self.multipart.is_empty()) {
                self.send_part().await?;
            }
            self.all_arrive().await?;
            let maker = self.multipart.upload.as_ref().map(|upload| upload.tag.rank);
            if self.complete(size).await? == Placed::Gone {
                return Err(self.claim.superseded());
            }
            maker
        };
        if maker.is_none_or(|maker| maker.epoch < self.author.rank.epoch) {
            self.seal().await?;
        }
        self.delete_notes().await?;
        self.claim.set_grows(false);
        Ok(size)
    }

    /// Returns `true` if the object that was found at the published name is the complete blob, and
    /// still there. Until its multipart upload was aborted, after the inspection, an older session
    /// could replace the object.
    async fn is_whole_already(&mut self, size: u64) -> Result<bool, BlobError> {
        let is_whole = |object: &Object| object.size == size;
        if self.target.base != size
            || !self.multipart.is_empty()
            || !self.target.object.as_ref().is_some_and(is_whole)
        {
            return Ok(false);
        }
        let found = self.target.object.clone();
        self.look_again().await?;
        Ok(self.target.object == found)
    }

    /// Returns `true` if all bytes are in the tail, and the session may publish with one request.
    fn fits_one_request(&self, size: u64) -> bool {
        let longest = self.plan.part_size.min(self.shared.limits.max_gathered);
        !self.target.is_bound
            && self.multipart.is_empty()
            && self.tail.start == 0
            && size <= longest
    }

    /// Puts the complete blob, which is in the tail, with one request. If the name has another
    /// object already, puts nothing and binds the session.
    async fn put_whole(&mut self) -> Result<Placed, BlobError> {
        self.gather().await?;
        let (bytes, _) = self.tail.lend();
        let size = bytes.len() as u64;
        let tag = self.author.next_tag();
        self.claim.check()?;
        let (published, condition) = (self.published(), self.condition());
        let put = self
            .shared
            .bucket
            .put(&published, bytes.clone(), metadata_of(tag), &condition)
            .await;
        match put {
            Ok(etag) => {
                self.target.object = Some(Object {
                    size,
                    etag,
                    tag: Some(tag),
                });
            }
            Err(_) if self.finds_its_own(tag, size).await? => {}
            Err(S3Error::Changed) => {
                self.tail.give_back(bytes);
                self.bind().await?;
                return Ok(Placed::Gone);
            }
            Err(error) => return Err(self.failed(error)),
        }
        self.drop_upload().await?;
        Ok(Placed::There)
    }

    /// Binds the session: begins a multipart upload, by which alone it publishes, so that a later
    /// session finds it to abort.
    ///
    /// # Errors
    /// [`BlobError::Failed`] if a newer session has begun.
    pub(super) async fn bind(&mut self) -> Result<(), BlobError> {
        self.begin_upload().await?;
        let snapshot = self
            .shared
            .inspect(self.key(), Some(self.author.rank), 0)
            .await?;
        self.target.object = snapshot.object;
        self.target.is_bound = true;
        Ok(())
    }

    /// Aborts a multipart upload that is not needed.
    async fn drop_upload(&mut self) -> Result<(), BlobError> {
        let Some(Upload { id, .. }) = self.multipart.upload.take() else {
            return Ok(());
        };
        self.claim.announce_end()?;
        let aborted = self.shared.bucket.abort(&self.published(), &id).await;
        aborted.map_err(|error| self.failed(error))
    }

    /// Completes the multipart upload, all of whose parts have arrived, to an object of `size`
    /// bytes.
    pub(super) async fn complete(&mut self, size: u64) -> Result<Placed, BlobError> {
        let Some(upload) = self.multipart.upload.clone() else {
            return Err(self.failed(other("no multipart upload is under way")));
        };
        for _ in 0..MAX_TRIES {
            if self.copy_base(&upload).await? == Placed::Gone {
                return Ok(Placed::Gone);
            }
            self.claim.announce_end()?;
            let parts = self.whole(size)?;
            let condition = self.condition();
            let completed = self
                .shared
                .bucket
                .complete(&self.published(), &upload.id, &parts, &condition)
                .await;
            if self.finds_its_own(upload.tag, size).await? {
                self.multipart.upload = None;
                self.multipart.arrived.clear();
                return Ok(Placed::There);
            }
            match completed {
                Err(S3Error::Changed) if self.target.is_bound => {}
                Err(S3Error::Changed) => self.bind().await?,
                Err(S3Error::NoUpload) => return Ok(Placed::Gone),
                Err(error) => return Err(self.failed(error)),
                Ok(()) => return Err(self.claim.superseded()),
            }
        }
        Err(self.claim.superseded())
    }

    /// Returns the parts that make up `size` bytes.
    fn whole(&self, size: u64) -> Result<Vec<Part>, BlobError> {
        let mut reached = 0;
        let mut parts = Vec::new();
        for (part, number) in self.multipart.arrived.values().zip(1..) {
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

    /// Copies the base to the first parts of the multipart upload.
    async fn copy_base(&mut self, upload: &Upload) -> Result<Placed, BlobError> {
        let last = u32::try_from(self.target.base / self.plan.part_size);
        let last = last.map_err(|error| self.failed(other(error)))?;
        for _ in 0..MAX_TRIES {
            let missing: Vec<u32> = (1..=last)
                .filter(|number| !self.multipart.arrived.contains_key(number))
                .collect();
            if missing.is_empty() {
                return Ok(Placed::There);
            }
            let Some(object) = self.target.object.clone() else {
                return Err(self.failed(S3Error::Changed));
            };
            let (shared, published, part_size) =
                (&self.shared, &self.published(), self.plan.part_size);
            let copied: Result<Vec<Part>, S3Error> = stream::iter(missing)
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
                    self.multipart.arrived.extend(by_number);
                }
                Err(S3Error::NoUpload) => return Ok(Placed::Gone),
                // A session of a lower rank replaced the base by an object that begins with it.
                Err(S3Error::Changed | S3Error::NoObject) => self.look_again().await?,
                Err(error) => return Err(self.failed(error)),
            }
        }
        Err(self.claim.superseded())
    }

    /// Returns `true` if the object at the published name has this tag and size.
    async fn finds_its_own(&mut self, tag: Tag, size: u64) -> Result<bool, BlobError> {
        let object = self.look_at_published().await?;
        let is_own = |object: &Object| object.tag == Some(tag) && object.size == size;
        if object.as_ref().is_some_and(is_own) {
            self.target.object = object;
            return Ok(true);
        }
        self.accept(object).await?;
        Ok(false)
    }

    async fn look_at_published(&self) -> Result<Option<Object>, BlobError> {
        let found = self.shared.bucket.head(&self.published()).await;
        let found = found.map_err(|error| self.failed(error))?;
        Ok(found.map(|(object, _)| object))
    }

    /// Looks at the object at the published name again.
    ///
    /// # Errors
    /// [`BlobError::Failed`] if a session of a higher rank put it there.
    async fn look_again(&mut self) -> Result<(), BlobError> {
        let object = self.look_at_published().await?;
        self.accept(object).await
    }

    /// Records the object at the published name, unless a session of a higher rank put it there.
    async fn accept(&mut self, object: Option<Object>) -> Result<(), BlobError> {
        if object.is_some()
            && self.shared.maker(self.key(), object.as_ref()).await? > Some(self.author.rank)
        {
            return Err(self.claim.superseded());
        }
        self.target.object = object;
        Ok(())
    }

    fn condition(&self) -> Condition {
        match &self.target.object {
            _ if !self.shared.abilities.conditional_writes => Condition::Always,
            None => Condition::Vacant,
            Some(object) => Condition::Holds(object.etag.clone()),
        }
    }

    /// Seals the blob: names this session as the publisher of an object that a lower epoch made. A
    /// session of an epoch in between that has not yet inspected the blob then sees that it is
    /// superseded.
    async fn seal(&mut self) -> Result<(), BlobError> {
        let tag = self.author.next_tag();
        let name = self.shared.names.sealed(self.key());
        let sealed =
            self.shared
                .bucket
                .put(&name, Bytes::new(), metadata_of(tag), &Condition::Always);
        sealed.await.map(drop).map_err(|error| self.failed(error))
    }

    /// Deletes the notes on the published blob.
    ///
    /// # Errors
    /// [`BlobError::Failed`] if a newer session has begun, which needs them.
    async fn delete_notes(&mut self) -> Result<(), BlobError> {
        if !self.journal.has_notes {
            return Ok(());
        }
        if self.plan.part_size > self.shared.limits.max_gathered
            && let Err(error) = self.shared.abort_large_parts(self.key()).await
        {
            tracing::warn!(key = %self.key(), ?error, "failed to abort uploads of parts of a published blob; deleting the blob will");
        }
        let staged = self.shared.names.staged(self.key());
        let deleted = match self.shared.bucket.list_all(&staged).await {
            Ok(listed) => {
                let newest = listed
                    .iter()
                    .filter_map(|listed| self.shared.names.note_of(&listed.name))
                    .map(|(_, note)| note.rank)
                    .max();
                if newest > Some(self.author.rank) {
                    return Err(self.claim.superseded());
                }
                let names: Vec<String> = listed.into_iter().map(|listed| listed.name).collect();
                self.shared.bucket.delete(&names).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = deleted {
            tracing::warn!(key = %self.key(), ?error, "failed to delete the notes on a published blob; deleting the blob will");
        }
        Ok(())
    }
}
