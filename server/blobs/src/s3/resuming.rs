//! How a session takes a blob over from the one before.
//!
//! 1. It *claims* the blob with a note, and only then looks. So of two sessions that take a blob over at the same time, whichever looks
//!    last sees the other; the one of lower rank gives up, the one of higher rank knows whom to reckon with.
//! 2. If the last session said that nothing more comes of it, its multipart upload goes on. Otherwise it is *fenced*: the upload is
//!    completed with what it has, so that nothing can be added to it any more, and becomes the base of a new one; or it is aborted where
//!    it has nothing of use.
//! 3. The bytes behind the last whole part stay where they are until the part is full.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use domain::BlobKey;
use domain::blob_store::{BlobError, Growth};
use tokio::task::JoinSet;

use super::Shared;
use super::failures::failed;
use super::keys::Turn;
use super::looking::{LiveUpload, Standing};
use super::names::{Kind, Note, Rank};
use super::notes::Upload;
use super::publishing::Placed;
use super::tail::{Kept, Tail};
use super::writing::Session;

/// How often a blob is looked at while others end its multipart uploads.
const MOST_TRIES: u32 = 5;

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
        for _ in 0..MOST_TRIES {
            let standing = shared.standing(key, Some(rank)).await?;
            if standing.length() < offset {
                let name = shared.names.note(key, &claim);
                let deleted = shared.bucket.delete(&[name]).await;
                deleted.map_err(|trouble| failed(key, "give up the claim of", trouble))?;
                return Err(BlobError::Missing { key: key.clone() });
            }
            turn.check()?;
            if let Some(session) = Self::take_over(shared, turn, rank, growth, standing).await? {
                turn.set_grows(true);
                return Ok(session);
            }
        }
        Err(turn.overtaken())
    }

    /// Nothing if somebody else ended the multipart upload in the meantime.
    async fn take_over(
        shared: &Arc<Shared>,
        turn: &Arc<Turn>,
        rank: Rank,
        growth: Growth,
        mut standing: Standing,
    ) -> Result<Option<Self>, BlobError> {
        let offset = growth.offset;
        let part_size = standing
            .part_size
            .unwrap_or_else(|| shared.part_size(growth.length));
        let is_handed_on = standing.is_handed_on(|rank| turn.is_idle(rank));
        let live = standing.upload.take();
        let mut session = Self {
            begin: offset,
            part_size,
            base: standing.base,
            object: standing.object.take(),
            has_notes: true,
            inherited: standing.notes.iter().copied().collect(),
            ..Self::fresh(Arc::clone(shared), Arc::clone(turn), rank, growth)
        };
        let mut start = None;
        match live {
            Some(live) if is_handed_on && session.can_go_on(&live, offset) => {
                start = Some(live.end(session.base, part_size));
                session.go_on_with(live);
            }
            Some(live) => {
                if session.fence(live, offset).await? == Placed::Gone {
                    return Ok(None);
                }
                shared.abort_uploads(turn.key()).await?;
            }
            None if is_handed_on => {}
            None => shared.abort_uploads(turn.key()).await?,
        }
        session.base = session.base.min(offset);
        let start = start.unwrap_or(session.base / part_size * part_size);
        let solid = session.base.max(start);
        let Some(pieces) = standing.pieces(solid, offset) else {
            return Err(BlobError::Missing {
                key: turn.key().clone(),
            });
        };
        let mut kept = Vec::new();
        if start < session.base {
            kept.push(Kept::Base {
                from: start,
                to: session.base,
            });
        }
        kept.extend(pieces.into_iter().map(Kept::Piece));
        session.tail = Tail::new(start, kept, offset);
        Ok(Some(session))
    }

    fn can_go_on(&self, live: &LiveUpload, offset: u64) -> bool {
        live.is_even(self.base, self.part_size) && live.end(self.base, self.part_size) <= offset
    }

    fn go_on_with(&mut self, live: LiveUpload) {
        self.upload = Some(live.upload);
        let by_number = |part: super::bucket::Part| (part.number, part);
        self.parts = live.parts.into_iter().map(by_number).collect();
    }

    /// Sees to it that nothing is added to the multipart upload any more, and keeps what it has below `offset`.
    async fn fence(&mut self, live: LiveUpload, offset: u64) -> Result<Placed, BlobError> {
        let end = live.end(self.base, self.part_size);
        if end <= self.base || offset <= self.base {
            let Upload { id, .. } = live.upload;
            let aborted = self.shared.bucket.abort(&self.published(), &id).await;
            aborted.map_err(|trouble| self.failed(trouble))?;
            return Ok(Placed::There);
        }
        self.go_on_with(live);
        let placed = self.complete(end).await?;
        self.base = end;
        Ok(placed)
    }

    /// Whether no part was sent, neither by this session nor by those before.
    pub(super) fn nothing_is_sent(&self) -> bool {
        self.sending.is_empty() && self.parts.is_empty()
    }
}

impl Shared {
    /// Aborts all multipart uploads to where a blob is published.
    pub(super) async fn abort_uploads(self: &Arc<Self>, key: &BlobKey) -> Result<(), BlobError> {
        let published = self.names.published(key);
        let listed = self.bucket.uploads(&published, None).await;
        let listed = listed.map_err(|trouble| failed(key, "look at", trouble))?;
        let mut aborting = JoinSet::new();
        for upload in listed.entries {
            if upload.name == published {
                let shared = Arc::clone(self);
                let name = published.clone();
                aborting.spawn(async move { shared.bucket.abort(&name, &upload.id).await });
            }
        }
        while let Some(aborted) = aborting.join_next().await {
            aborted
                .unwrap_or_else(|error| Err(super::bucket::other(error)))
                .map_err(|trouble| failed(key, "abort an upload of", trouble))?;
        }
        Ok(())
    }
}
