//! Snapshots of a staged blob, put together from several requests.
//!
//! Other processes go on between these requests. One of them may complete the multipart upload just
//! then, and servers take their time to do so: versitygw 1.8 first removes the upload, and shows
//! the object when it has copied all parts. [`Shared::inspect`] waits for an upload or object that
//! seems to be missing.

use std::time::Duration;

use domain::BlobKey;
use domain::blob_store::BlobError;
use tokio::time::Instant;

use super::bucket::{Object, Part};
use super::errors::{S3Error, failed};
use super::names::{Extent, Kind, Notes, Rank, State, Upload};
use super::shared::Shared;

/// Maximum number of attempts to inspect a blob whose notes are deleted meanwhile.
const MAX_ATTEMPTS: u32 = 5;
/// First pause between two looks at an upload that is being completed. Each next one is twice as
/// long.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause between two looks.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// State of a blob in the bucket at one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// Notes of sessions of lower ranks.
    pub(super) notes: Notes,
    /// Those of them whose bytes belong to the blob.
    counted: Notes,
    /// Object at the published name.
    pub(super) object: Option<Object>,
    /// Number of bytes of the object that the blob begins with.
    pub(super) base: u64,
    /// Part size of the multipart upload, or of the next one. `None` before the first note with a
    /// state.
    pub(super) part_size: Option<u64>,
    /// Multipart upload that continues behind the base.
    pub(super) upload: Option<LiveUpload>,
    /// Set if the object is the complete blob as its publisher made it, as far as can be told.
    /// Notes may be left nevertheless.
    pub(super) is_published: bool,
    /// Id of the multipart upload that the newest note names, if the server has neither the upload
    /// nor (yet) the object that it became.
    pub(super) vanished: Option<String>,
    /// Offset from which on bytes no longer count, because a newer session began there.
    cut: u64,
}

/// Multipart upload that was under way when it was inspected.
#[derive(Debug)]
pub(super) struct LiveUpload {
    pub(super) upload: Upload,
    /// Parts that the server has, in the order of their numbers.
    pub(super) parts: Vec<Part>,
}

/// State of the multipart upload that the newest note names.
enum UploadStatus {
    /// The note names none.
    None,
    UnderWay(LiveUpload),
    /// The object has all its bytes, and those of the base.
    Completed,
    /// The server has neither the upload with this id nor its object.
    Vanished(String),
}

impl Shared {
    /// Lists the notes on a blob.
    pub(super) async fn notes(&self, key: &BlobKey) -> Result<Notes, BlobError> {
        let listed = self.bucket.list_all(&self.names.staged(key)).await;
        let listed = listed.map_err(|error| failed(key, "look at", error))?;
        let notes = listed
            .iter()
            .filter_map(|listed| self.names.note_of(&listed.name))
            .map(|(_, note)| note);
        Ok(Notes::new(notes.collect()))
    }

    /// Inspects a blob for a session of `rank`, or for a reader (`None`). If fewer than `needed`
    /// bytes are found because a multipart upload has vanished, waits for its object, at most for
    /// [`Limits::completing`](super::config::Limits::completing).
    ///
    /// # Errors
    /// [`BlobError::Failed`] if a session of a higher rank has begun.
    pub(super) async fn inspect(
        &self,
        key: &BlobKey,
        rank: Option<Rank>,
        needed: u64,
    ) -> Result<Snapshot, BlobError> {
        let deadline = Instant::now() + self.limits.completing;
        let mut pause = FIRST_PAUSE;
        loop {
            let snapshot = self.inspect_once(key, rank).await?;
            if snapshot.vanished.is_none()
                || snapshot.length() >= needed
                || Instant::now() >= deadline
            {
                return Ok(snapshot);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    async fn inspect_once(&self, key: &BlobKey, rank: Option<Rank>) -> Result<Snapshot, BlobError> {
        for _ in 0..MAX_ATTEMPTS {
            let notes = self.notes(key).await?;
            let is_newer = |newest: Rank| rank.is_some_and(|rank| newest > rank);
            if notes.newest().is_some_and(is_newer) {
                return Err(failed(key, "change", S3Error::Changed));
            }
            let notes = match rank {
                Some(rank) => notes.before(rank),
                None => notes,
            };
            let newest = notes.newest_state();
            let stated = async {
                match newest {
                    None => Ok(None),
                    Some(note) => self.bucket.head(&self.names.note(key, note)).await,
                }
            };
            // The object after the notes, which are deleted only when the object is in its place.
            let published = self.names.published(key);
            let (stated, object) = futures::try_join!(stated, self.bucket.head(&published))
                .map_err(|error| failed(key, "look at", error))?;
            let state = match (newest, stated) {
                (None, _) => None,
                // The note was deleted after the list was made.
                (Some(_), None) => continue,
                (Some(note), Some((_, metadata))) => {
                    State::from_metadata(&metadata).map(|state| (note.rank, state))
                }
            };
            let object = object.map(|(object, _)| object);
            return self.snapshot(key, notes, object, state, rank).await;
        }
        Err(failed(key, "look at", S3Error::Changed))
    }

    /// Combines the notes, the object at the published name, and the state in the newest note with
    /// the rank of its author.
    async fn snapshot(
        &self,
        key: &BlobKey,
        notes: Notes,
        object: Option<Object>,
        state: Option<(Rank, State)>,
        rank: Option<Rank>,
    ) -> Result<Snapshot, BlobError> {
        let (object, maker) = self.identify(key, object).await?;
        if let (Some(maker), Some(rank)) = (maker, rank)
            && maker > rank
        {
            return Err(failed(key, "change", S3Error::Changed));
        }
        let Some((author, state)) = state else {
            return Ok(Snapshot::of_object(notes, object, maker));
        };
        // A session of a higher rank published the blob. Lower ones may still leave notes beside.
        if maker > Some(author) {
            return Ok(Snapshot {
                is_published: true,
                part_size: Some(state.part_size),
                ..Snapshot::of_object(notes, object, maker)
            });
        }
        // The author itself made the object: the complete blob, or a base, which it made when its
        // parts became larger or which a later session made of its upload. For a base, notes or an
        // upload have more.
        let is_own = maker == Some(author);
        let size = object.as_ref().map_or(0, |object| object.size);
        let base = state.base.min(size);
        let status = self.upload_status(key, state.upload, object.as_ref(), is_own);
        let (base, upload, vanished) = match status.await? {
            UploadStatus::None => (base, None, None),
            UploadStatus::UnderWay(live) => (base, Some(live), None),
            UploadStatus::Completed => (size, None, None),
            UploadStatus::Vanished(id) => (base, None, Some(id)),
        };
        Ok(Snapshot {
            cut: cut(&notes, Some(author)),
            counted: notes.clone(),
            notes,
            is_published: is_own && upload.is_none() && vanished.is_none(),
            vanished,
            object,
            base,
            part_size: Some(state.part_size),
            upload,
        })
    }

    /// Returns the object at the published name with the rank of its maker. A seal that is newer
    /// than the object may have been put after the look at the object, so that is looked at again.
    async fn identify(
        &self,
        key: &BlobKey,
        object: Option<Object>,
    ) -> Result<(Option<Object>, Option<Rank>), BlobError> {
        if object.is_none() {
            return Ok((None, None));
        }
        let maker = self.maker(key, object.as_ref()).await?;
        if maker <= object.as_ref().and_then(Object::maker) {
            return Ok((object, maker));
        }
        let found = self.bucket.head(&self.names.published(key)).await;
        let found = found.map_err(|error| failed(key, "look at", error))?;
        let object = found.map(|(object, _)| object);
        let maker = maker.max(object.as_ref().and_then(Object::maker));
        Ok((object, maker))
    }

    /// Finds out what became of the `upload` that the newest note names. `is_own` says that the
    /// author of that note made the object.
    async fn upload_status(
        &self,
        key: &BlobKey,
        upload: Option<Upload>,
        object: Option<&Object>,
        is_own: bool,
    ) -> Result<UploadStatus, BlobError> {
        let Some(upload) = upload else {
            return Ok(match is_own {
                true => UploadStatus::Completed,
                false => UploadStatus::None,
            });
        };
        let published = self.names.published(key);
        match self.bucket.parts(&published, &upload.id).await {
            Ok(parts) => return Ok(UploadStatus::UnderWay(LiveUpload { upload, parts })),
            Err(S3Error::NoUpload) => {}
            Err(error) => return Err(failed(key, "look at", error)),
        }
        let tag = object.and_then(|object| object.tag);
        // A session whose parts became larger makes several objects, one after the other.
        let is_earlier =
            tag.is_some_and(|tag| tag.rank == upload.tag.rank && tag.nth < upload.tag.nth);
        Ok(match tag == Some(upload.tag) || (is_own && !is_earlier) {
            true => UploadStatus::Completed,
            false => UploadStatus::Vanished(upload.id),
        })
    }
}

/// Returns the offset at which the first session of a rank above `rank` began.
fn cut(notes: &Notes, rank: Option<Rank>) -> u64 {
    let newer = notes.iter().filter(|note| Some(note.rank) > rank);
    newer.map(|note| note.begin).min().unwrap_or(u64::MAX)
}

impl Snapshot {
    /// Returns the snapshot of a blob all of whose bytes are in the object.
    fn of_object(notes: Notes, object: Option<Object>, maker: Option<Rank>) -> Self {
        Self {
            cut: cut(&notes, maker),
            counted: Notes::default(),
            notes,
            is_published: object.is_some(),
            vanished: None,
            base: object.as_ref().map_or(0, |object| object.size),
            object,
            part_size: None,
            upload: None,
        }
    }

    /// Returns the number of bytes that the blob has in the base and in parts.
    pub(super) fn solid(&self) -> u64 {
        match (&self.upload, self.part_size) {
            (Some(live), Some(part_size)) => live.end(self.base, part_size).max(self.base),
            _ => self.base,
        }
    }

    /// Returns `true` if a session of a higher rank than those with notes published the blob.
    pub(super) fn is_published_later(&self) -> bool {
        self.is_published && self.counted.is_empty()
    }

    /// Returns the number of bytes that the blob has.
    pub(super) fn length(&self) -> u64 {
        let solid = self.solid().min(self.cut);
        let pieces = self.counted.extents(solid, u64::MAX);
        pieces.last().map_or(solid, |piece| piece.to)
    }

    /// Returns the pieces with the bytes from `from` to `to`, or `None` if bytes are missing.
    pub(super) fn pieces(&self, from: u64, to: u64) -> Option<Vec<Extent>> {
        let pieces = self.counted.extents(from, to);
        let reached = pieces.last().map_or(from, |piece| piece.to);
        (reached >= to).then_some(pieces)
    }

    /// Returns `true` if the last session that could still send parts to the multipart upload was
    /// closed. `is_idle` recognises sessions that never sent a part nor ended the upload.
    pub(super) fn is_handed_on(&self, is_idle: impl Fn(Rank) -> bool) -> bool {
        let last = self.notes.iter().rev().find(|note| !is_idle(note.rank));
        last.is_none_or(|note| note.kind == Kind::Close)
    }
}

impl LiveUpload {
    /// Returns the end of the parts that follow the base without a gap and have `part_size` bytes.
    pub(super) fn end(&self, base: u64, part_size: u64) -> u64 {
        let first = base / part_size;
        let follow = self
            .parts
            .iter()
            .filter(|part| u64::from(part.number) > first)
            .zip(first + 1..)
            .take_while(|(part, number)| {
                u64::from(part.number) == *number && part.size == part_size
            })
            .count() as u64;
        (first + follow) * part_size
    }

    /// Returns `true` if there are no parts beyond [`Self::end`].
    pub(super) fn is_even(&self, base: u64, part_size: u64) -> bool {
        let end = self.end(base, part_size);
        let last = self.parts.last().map_or(0, |part| u64::from(part.number));
        last <= (end / part_size).max(base / part_size)
    }
}
