//! How a session takes a blob over from the one before.
//!
//! 1. It *claims* the blob with a note, and only then looks. So of two sessions that take a blob over at the same time, whichever looks
//!    last sees the other; the one of lower rank gives up, the one of higher rank knows whom to reckon with.
//! 2. If the last session said that nothing more comes of it, its multipart upload goes on. Otherwise it is *fenced*: the upload is
//!    completed with what it has, so that nothing can be added to it any more, and becomes the base of a new one; or it is aborted where
//!    it has nothing of use.
//! 3. Where an object lies in the place of the blob already, or the server knows no conditions, the session is *bound*: it has a
//!    multipart upload before it looks (again), and publishes by this one only. Whoever comes later aborts it, and all others
//!    that there are before its own last look: so never those of yet later ones. An entity tag alone
//!    would not do: the same bytes have the same one, whoever put them there.
//! 4. The bytes behind the last whole part stay where they are until the part is full.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use domain::BlobKey;
use domain::blob_store::{BlobError, Growth};

use super::Shared;
use super::bucket::Part;
use super::failures::failed;
use super::keys::Turn;
use super::looking::{LiveUpload, Standing};
use super::names::{Kind, Note, Rank};
use super::notes::Upload;
use super::tail::{Kept, Tail};
use super::writing::{GROWTH, Session};

/// How often a blob is looked at while others end its multipart uploads.
const MOST_TRIES: u32 = 5;

/// What is done for a session between one look and the next.
#[derive(Debug, Default)]
struct Cares {
    /// A multipart upload of its own, where it needs one.
    own: Option<Upload>,
    /// The multipart uploads that there were before the last look. None of them is a newer session's: that would have claimed the blob
    /// before it began one, and be seen.
    strays: Option<Vec<String>>,
    /// Counts what was left on the server.
    nth: u64,
}

impl Session {
    /// Takes a blob over, at the offset of `growth`.
    pub(super) async fn resume(
        shared: &Arc<Shared>,
        turn: &Arc<Turn>,
        rank: Rank,
        growth: Growth,
    ) -> Result<Self, BlobError> {
        let key = turn.key();
        let offset = growth.offset;
        turn.claims(rank);
        let claim = Note {
            rank,
            nth: 0,
            begin: offset,
            from: offset,
            to: offset,
            kind: Kind::Claim,
        };
        shared
            .leave_note(key, &claim, Bytes::new(), HashMap::new())
            .await
            .map_err(|trouble| failed(key, "claim", trouble))?;
        let mut cares = Cares::default();
        let resumed = Self::resume_claimed(shared, turn, &claim, growth, &mut cares).await;
        if let Some(own) = cares.own {
            // It is not needed.
            let published = shared.names.published(key);
            if let Err(trouble) = shared.bucket.abort(&published, &own.id).await {
                tracing::debug!(%key, ?trouble, "a multipart upload is left to the janitor");
            }
        }
        resumed
    }

    async fn resume_claimed(
        shared: &Arc<Shared>,
        turn: &Arc<Turn>,
        claim: &Note,
        growth: Growth,
        cares: &mut Cares,
    ) -> Result<Self, BlobError> {
        let (key, rank, offset) = (turn.key(), claim.rank, claim.begin);
        for _ in 0..MOST_TRIES {
            let standing = shared.standing(key, Some(rank), offset).await?;
            if standing.length() < offset {
                let name = shared.names.note(key, claim);
                let deleted = shared.bucket.delete(&[name]).await;
                deleted.map_err(|trouble| failed(key, "give up the claim of", trouble))?;
                return Err(shared.too_short(key, &standing, offset).await?);
            }
            turn.check()?;
            let is_handed_on = standing.is_handed_on(|rank| turn.is_idle(rank));
            let must_be_bound = standing.object.is_some() || !shared.abilities.conditional_writes;
            let mut session = Self::of(shared, turn, rank, growth, &standing);
            session.nth = cares.nth;
            let goes_on = match &standing.upload {
                Some(live) => is_handed_on && session.can_go_on(live, offset),
                None => true,
            };
            let is_bound = standing.upload.is_some() || cares.own.is_some();
            let is_cared_for = cares.strays.is_some() || (is_handed_on && !must_be_bound);
            if !goes_on || !is_cared_for || (must_be_bound && !is_bound) {
                let is_own_needed = !goes_on || (must_be_bound && !is_bound);
                if let Some(live) = standing.upload
                    && !goes_on
                {
                    session.fence(live, offset).await?;
                }
                if is_own_needed && cares.own.is_none() {
                    session.begin_upload().await?;
                    cares.own = session.upload;
                }
                cares.nth = session.nth;
                cares.strays = Some(shared.uploads_to(key).await?);
                continue;
            }
            let keep = match &standing.upload {
                Some(live) => Some(&live.upload.id),
                None => cares.own.as_ref().map(|own| &own.id),
            };
            let mut strays = cares.strays.take().unwrap_or_default();
            strays.retain(|id| Some(id) != keep);
            shared.abort_uploads(key, &strays).await?;
            session.is_bound = must_be_bound;
            session.take_over(standing, &mut cares.own, offset)?;
            turn.set_grows(true);
            return Ok(session);
        }
        Err(turn.overtaken())
    }

    /// A session that has yet to take over what there is.
    fn of(
        shared: &Arc<Shared>,
        turn: &Arc<Turn>,
        rank: Rank,
        growth: Growth,
        standing: &Standing,
    ) -> Self {
        let fresh = Self::fresh(Arc::clone(shared), Arc::clone(turn), rank, growth);
        let mut part_size = standing.part_size.unwrap_or(fresh.part_size);
        if standing.upload.is_none() {
            // There are to be more behind the base.
            let base = standing.base.min(growth.offset);
            while base / part_size >= shared.most_parts {
                part_size *= GROWTH;
            }
        }
        Self {
            begin: growth.offset,
            part_size,
            base: standing.base,
            object: standing.object.clone(),
            has_notes: true,
            inherited: standing.notes.iter().copied().collect(),
            ..fresh
        }
    }

    /// Takes over what there is below `offset`. `own` is a multipart upload of its own.
    fn take_over(
        &mut self,
        mut standing: Standing,
        own: &mut Option<Upload>,
        offset: u64,
    ) -> Result<(), BlobError> {
        let mut start = None;
        match standing.upload.take() {
            Some(live) => {
                start = Some(live.end(self.base, self.part_size));
                self.go_on_with(live);
            }
            None => self.upload = own.take(),
        }
        self.base = self.base.min(offset);
        let start = start.unwrap_or(self.base / self.part_size * self.part_size);
        let solid = self.base.max(start);
        let Some(pieces) = standing.pieces(solid, offset) else {
            return Err(self.contradicted());
        };
        let mut kept = Vec::new();
        if start < self.base {
            kept.push(Kept::Base {
                from: start,
                to: self.base,
            });
        }
        kept.extend(pieces.into_iter().map(Kept::Piece));
        self.tail = Tail::new(start, kept, offset);
        Ok(())
    }

    fn can_go_on(&self, live: &LiveUpload, offset: u64) -> bool {
        live.is_even(self.base, self.part_size) && live.end(self.base, self.part_size) <= offset
    }

    fn go_on_with(&mut self, live: LiveUpload) {
        self.upload = Some(live.upload);
        let by_number = |part: Part| (part.number, part);
        self.parts = live.parts.into_iter().map(by_number).collect();
    }

    /// Sees to it that nothing is added to the multipart upload any more. What it has below `offset` becomes the base; or it was
    /// somebody else who ended it.
    async fn fence(&mut self, live: LiveUpload, offset: u64) -> Result<(), BlobError> {
        let end = live.end(self.base, self.part_size);
        if end <= self.base || offset <= self.base {
            let Upload { id, .. } = live.upload;
            let aborted = self.shared.bucket.abort(&self.published(), &id).await;
            aborted.map_err(|trouble| self.failed(trouble))?;
            return Ok(());
        }
        self.go_on_with(live);
        self.complete(end).await?;
        self.upload = None;
        Ok(())
    }

    /// Whether no part was sent, neither by this session nor by those before.
    pub(super) fn nothing_is_sent(&self) -> bool {
        self.sending.is_empty() && self.parts.is_empty()
    }
}

impl Shared {
    /// The error of who finds fewer bytes of a blob than were acknowledged.
    ///
    /// What a list does not have is no proof of a loss, and nothing is dropped for it. Bytes are lost only where the server denies both the
    /// multipart upload that has them, however it is asked, and the object that it would have become.
    async fn too_short(
        &self,
        key: &BlobKey,
        standing: &Standing,
        offset: u64,
    ) -> Result<BlobError, BlobError> {
        let length = standing.length();
        let is_denied = match &standing.vanished {
            Some(id) => !self.uploads_to(key).await?.contains(id),
            None => false,
        };
        if is_denied {
            tracing::error!(
                %key,
                offset,
                length,
                "a multipart upload is gone from the bucket; remove the rule that aborts those that are not complete (lifecycle rules; MinIO: api stale_uploads_expiry), or let it wait longer than uploads.lifetime"
            );
            return Ok(BlobError::Missing { key: key.clone() });
        }
        let (offset, length) = (offset.to_string(), length.to_string());
        Ok(BlobError::Inconsistent {
            key: key.clone(),
            reason: format!(
                "{offset} bytes of it were acknowledged, and the S3 server lists {length}; see that it lists all objects below blobs.prefix and all parts of multipart uploads, and that nothing else deletes there"
            ),
        })
    }

    /// The ids of all multipart uploads to where a blob is published.
    pub(super) async fn uploads_to(&self, key: &BlobKey) -> Result<Vec<String>, BlobError> {
        let published = self.names.published(key);
        let listed = self.bucket.all_uploads(&published).await;
        let listed = listed.map_err(|trouble| failed(key, "look at", trouble))?;
        Ok(listed
            .into_iter()
            .filter(|upload| upload.name == published)
            .map(|upload| upload.id)
            .collect())
    }

    /// Aborts multipart uploads to where a blob is published.
    pub(super) async fn abort_uploads(
        self: &Arc<Self>,
        key: &BlobKey,
        ids: &[String],
    ) -> Result<(), BlobError> {
        let published = self.names.published(key);
        for id in ids {
            let aborted = self.bucket.abort(&published, id).await;
            aborted.map_err(|trouble| failed(key, "abort an upload of", trouble))?;
        }
        Ok(())
    }
}
