//! Finding out how a blob stands.
//!
//! That takes several requests, between which others go on. Whoever completes a multipart upload may do so just then, and servers take
//! their time for it: versitygw 1.8 has the upload vanish first, and the object appear when all parts are copied. What seems to be
//! missing meanwhile is waited for.

use std::time::Duration;

use domain::BlobKey;
use domain::blob_store::BlobError;
use tokio::time::Instant;

use super::Shared;
use super::bucket::{Object, Part};
use super::failures::{Trouble, failed};
use super::names::{Kind, Rank};
use super::notes::{Extent, Notes, State, Upload};

/// How often a blob is looked at when notes go away in between.
const MOST_LOOKS: u32 = 5;
/// Between two looks at an upload that is being completed, at first and at most.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How a blob stood at one moment.
#[derive(Debug)]
pub(super) struct Standing {
    /// What sessions of lower ranks left.
    pub(super) notes: Notes,
    /// Those of them whose bytes count.
    counted: Notes,
    /// What lies where the blob is published, if anything does.
    pub(super) object: Option<Object>,
    /// What of it is the blob's beginning, in bytes.
    pub(super) base: u64,
    /// Of the multipart upload, or of the next one; unknown where nothing was written yet.
    pub(super) part_size: Option<u64>,
    /// The multipart upload that goes on behind the base.
    pub(super) upload: Option<LiveUpload>,
    /// Whether the object is the whole blob, which was published, as far as can be told: notes may be left of it.
    pub(super) is_published: bool,
    /// The multipart upload that the newest note speaks of, where it is gone, and what it came to is not there yet or never will be.
    pub(super) vanished: Option<String>,
    /// From where on nothing counts any more.
    cut: u64,
}

/// A multipart upload that was under way when it was looked at.
#[derive(Debug)]
pub(super) struct LiveUpload {
    pub(super) upload: Upload,
    /// What it has, in the order of the numbers.
    pub(super) parts: Vec<Part>,
}

impl Shared {
    /// Lists the notes on a blob.
    pub(super) async fn notes(&self, key: &BlobKey) -> Result<Notes, BlobError> {
        let listed = self.bucket.list_all(&self.names.staged(key)).await;
        let listed = listed.map_err(|trouble| failed(key, "look at", trouble))?;
        let notes = listed
            .iter()
            .filter_map(|listed| self.names.note_of(&listed.name))
            .map(|(_, note)| note);
        Ok(Notes::new(notes.collect()))
    }

    /// Finds out how a blob stands for a session of `rank`, or for a reader. If a multipart upload seems to be missing without which
    /// there are less than `needed` bytes, that is waited for.
    ///
    /// # Errors
    /// [`BlobError::Failed`] when a session of a higher rank has begun.
    pub(super) async fn standing(
        &self,
        key: &BlobKey,
        rank: Option<Rank>,
        needed: u64,
    ) -> Result<Standing, BlobError> {
        let until = Instant::now() + self.completing;
        let mut pause = PAUSE;
        loop {
            let standing = self.glance(key, rank).await?;
            if standing.vanished.is_none() || standing.length() >= needed || Instant::now() >= until
            {
                return Ok(standing);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// How a blob stands as far as one look can tell.
    async fn glance(&self, key: &BlobKey, rank: Option<Rank>) -> Result<Standing, BlobError> {
        for _ in 0..MOST_LOOKS {
            let notes = self.notes(key).await?;
            let own = |newest: Rank| rank.is_some_and(|rank| newest > rank);
            if notes.newest().is_some_and(own) {
                return Err(failed(key, "change", Trouble::Changed));
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
            // After the notes were listed, which go away when the object is in its place.
            let published = self.names.published(key);
            let (stated, object) = futures::try_join!(stated, self.bucket.head(&published))
                .map_err(|trouble| failed(key, "look at", trouble))?;
            let state = match (newest, stated) {
                (None, _) => None,
                // Somebody has cleaned up since it was listed.
                (Some(_), None) => continue,
                (Some(note), Some((_, metadata))) => {
                    State::from_metadata(&metadata).map(|state| (note.rank, state))
                }
            };
            let object = object.map(|(object, _)| object);
            return self.judge(key, notes, object, state, rank).await;
        }
        Err(failed(key, "look at", Trouble::Changed))
    }

    async fn judge(
        &self,
        key: &BlobKey,
        notes: Notes,
        mut object: Option<Object>,
        state: Option<(Rank, State)>,
        rank: Option<Rank>,
    ) -> Result<Standing, BlobError> {
        let mut maker = match &object {
            None => None,
            Some(object) => self.maker(key, Some(object)).await?,
        };
        if maker > object.as_ref().and_then(Object::maker) {
            // What is sealed may have come since the object was looked at.
            let found = self.bucket.head(&self.names.published(key)).await;
            let found = found.map_err(|trouble| failed(key, "look at", trouble))?;
            object = found.map(|(object, _)| object);
            maker = maker.max(object.as_ref().and_then(Object::maker));
        }
        if let (Some(maker), Some(rank)) = (maker, rank)
            && maker > rank
        {
            return Err(failed(key, "change", Trouble::Changed));
        }
        let size = object.as_ref().map_or(0, |object| object.size);
        let Some((stated_by, state)) = state else {
            return Ok(Standing {
                cut: cut(&notes, maker),
                counted: Notes::default(),
                notes,
                is_published: object.is_some(),
                vanished: None,
                object,
                base: size,
                part_size: None,
                upload: None,
            });
        };
        // What a session of a higher rank put there is the whole blob, whatever those of lower ones still leave beside it.
        if maker > Some(stated_by) {
            return Ok(Standing {
                cut: cut(&notes, maker),
                counted: Notes::default(),
                notes,
                is_published: true,
                vanished: None,
                object,
                base: size,
                part_size: Some(state.part_size),
                upload: None,
            });
        }
        // What the session itself put there is either the whole blob, or a base that it made when its parts became larger, or that
        // somebody else made when it was left behind; then notes have more.
        let is_own = maker == Some(stated_by);
        let mut vanished = None;
        let (upload, base) = match state.upload {
            None if is_own => (None, size),
            None => (None, state.base.min(size)),
            Some(upload) => {
                let published = self.names.published(key);
                match self.bucket.parts(&published, &upload.id).await {
                    Ok(parts) => (Some(LiveUpload { upload, parts }), state.base.min(size)),
                    Err(Trouble::NoUpload) => {
                        let tag = object.as_ref().and_then(|object| object.tag);
                        // Parts that grow make a session have several objects, one after the other.
                        let is_before = tag.is_some_and(|tag| {
                            tag.rank == upload.tag.rank && tag.nth < upload.tag.nth
                        });
                        match tag == Some(upload.tag) || (is_own && !is_before) {
                            true => (None, size),
                            false => {
                                vanished = Some(upload.id);
                                (None, state.base.min(size))
                            }
                        }
                    }
                    Err(trouble) => return Err(failed(key, "look at", trouble)),
                }
            }
        };
        Ok(Standing {
            cut: cut(&notes, Some(stated_by)),
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
}

/// Where the first session of a higher rank began.
fn cut(notes: &Notes, rank: Option<Rank>) -> u64 {
    let newer = notes.iter().filter(|note| Some(note.rank) > rank);
    newer.map(|note| note.begin).min().unwrap_or(u64::MAX)
}

impl Standing {
    /// How many bytes the blob has in the base and in parts, for parts of this size.
    pub(super) fn solid(&self) -> u64 {
        match (&self.upload, self.part_size) {
            (Some(live), Some(part_size)) => live.end(self.base, part_size).max(self.base),
            _ => self.base,
        }
    }

    /// Whether the blob was published by a session of a higher rank than those that left bytes.
    pub(super) fn is_published_later(&self) -> bool {
        self.is_published && self.counted.is_empty()
    }

    /// How many bytes the blob has.
    pub(super) fn length(&self) -> u64 {
        let solid = self.solid().min(self.cut);
        let pieces = self.counted.extents(solid, u64::MAX);
        pieces.last().map_or(solid, |piece| piece.to)
    }

    /// The pieces that have the bytes from `from` to `to`; none if they do not have all.
    pub(super) fn pieces(&self, from: u64, to: u64) -> Option<Vec<Extent>> {
        let pieces = self.counted.extents(from, to);
        let reached = pieces.last().map_or(from, |piece| piece.to);
        (reached >= to).then_some(pieces)
    }

    /// Whether whoever could still send parts to the multipart upload has said that nothing more comes. `is_idle` tells of sessions
    /// that never sent any, nor ended the upload.
    pub(super) fn is_handed_on(&self, is_idle: impl Fn(Rank) -> bool) -> bool {
        let last = self.notes.iter().rev().find(|note| !is_idle(note.rank));
        last.is_none_or(|note| note.kind == Kind::Close)
    }
}

impl LiveUpload {
    /// Up to where the blob is whole in parts of this size that follow one another behind the base.
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

    /// Whether it has no other parts behind the base than those.
    pub(super) fn is_even(&self, base: u64, part_size: u64) -> bool {
        let end = self.end(base, part_size);
        let last = self.parts.last().map_or(0, |part| u64::from(part.number));
        last <= (end / part_size).max(base / part_size)
    }
}
