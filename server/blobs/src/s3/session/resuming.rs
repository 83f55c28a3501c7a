//! Take-over of a staged blob from the session before.
//!
//! 1. A session *claims* the blob with a note, and only then inspects it. So of two sessions that
//!    take over at the same time, the one that inspects last sees the other: the one of lower rank
//!    gives up, the one of higher rank knows which uploads it has to fence.
//! 2. If the last session was closed, its multipart upload is continued. If not, the upload is
//!    *fenced*: completed with the parts it has, so that no part can be added any more, to become
//!    the base of a new upload; or aborted if it has nothing of use.
//! 3. If the published name has an object already, or the server has no conditional writes, the
//!    session is *bound*: it has a multipart upload before it inspects the blob (again), and
//!    publishes by this upload only. A later session aborts it, with all others that there are
//!    before its own last inspection, hence never those of yet later sessions. An entity tag alone
//!    would not do: the same bytes have the same tag, no matter which session put them.
//! 4. The bytes behind the last full part stay in their pieces until the part is full.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use domain::BlobKey;
use domain::blob_store::{BlobError, Growth};

use super::{Journal, PART_GROWTH, Plan, Session, Target};
use crate::s3::bucket::Part;
use crate::s3::claims::Claim;
use crate::s3::errors::failed;
use crate::s3::names::{Kind, Note, Rank, Upload};
use crate::s3::shared::Shared;
use crate::s3::snapshot::{LiveUpload, Snapshot};
use crate::s3::tail::{Kept, Tail};

/// Maximum number of inspections while other sessions end the multipart uploads of the blob.
const MAX_INSPECTIONS: u32 = 5;

/// Preparations for a take-over, from one inspection to the next.
#[derive(Debug, Default)]
struct Preparations {
    /// Multipart upload of the session itself, if it needs one.
    own: Option<Upload>,
    /// Ids of the multipart uploads that there were before the last inspection. None of them
    /// belongs to a newer session: that would have put its claim first, and be seen.
    strays: Option<Vec<String>>,
    /// Counts what the session left on the server.
    nth: u64,
}

impl Session {
    /// Takes a blob over, at the offset of `growth`.
    pub(in crate::s3) async fn resume(
        shared: &Arc<Shared>,
        claim: &Arc<Claim>,
        rank: Rank,
        growth: Growth,
    ) -> Result<Self, BlobError> {
        let key = claim.key();
        let offset = growth.offset;
        claim.register(rank);
        let note = Note {
            rank,
            nth: 0,
            begin: offset,
            from: offset,
            to: offset,
            kind: Kind::Claim,
        };
        shared
            .put_note(key, &note, Bytes::new(), HashMap::new())
            .await
            .map_err(|error| failed(key, "claim", error))?;
        let mut prepared = Preparations::default();
        let resumed = Self::resume_claimed(shared, claim, &note, growth, &mut prepared).await;
        if let Some(unused) = prepared.own {
            let published = shared.names.published(key);
            if let Err(error) = shared.bucket.abort(&published, &unused.id).await {
                tracing::debug!(%key, ?error, "failed to abort a multipart upload; the janitor will");
            }
        }
        resumed
    }

    async fn resume_claimed(
        shared: &Arc<Shared>,
        claim: &Arc<Claim>,
        note: &Note,
        growth: Growth,
        prepared: &mut Preparations,
    ) -> Result<Self, BlobError> {
        let (key, rank, offset) = (claim.key(), note.rank, note.begin);
        for _ in 0..MAX_INSPECTIONS {
            let snapshot = shared.inspect(key, Some(rank), offset).await?;
            if snapshot.length() < offset {
                let name = shared.names.note(key, note);
                let deleted = shared.bucket.delete(&[name]).await;
                deleted.map_err(|error| failed(key, "withdraw the claim on", error))?;
                return Err(too_short(shared, key, &snapshot, offset).await?);
            }
            claim.check()?;
            let is_handed_on = snapshot.is_handed_on(|rank| claim.is_idle(rank));
            let must_be_bound = snapshot.object.is_some() || !shared.abilities.conditional_writes;
            let mut session = Self::before_take_over(shared, claim, rank, growth, &snapshot);
            session.author.nth = prepared.nth;
            let continues = match &snapshot.upload {
                Some(live) => is_handed_on && session.can_continue(live, offset),
                None => true,
            };
            let has_upload = snapshot.upload.is_some() || prepared.own.is_some();
            let lacks_upload = must_be_bound && !has_upload;
            let knows_strays = prepared.strays.is_some() || (is_handed_on && !must_be_bound);
            if !continues || lacks_upload || !knows_strays {
                if let Some(live) = snapshot.upload
                    && !continues
                {
                    session.fence(live, offset).await?;
                }
                if (!continues || lacks_upload) && prepared.own.is_none() {
                    session.begin_upload().await?;
                    prepared.own = session.multipart.upload;
                }
                prepared.nth = session.author.nth;
                prepared.strays = Some(shared.uploads_to(key).await?);
                continue;
            }
            let keep = match &snapshot.upload {
                Some(live) => Some(&live.upload.id),
                None => prepared.own.as_ref().map(|own| &own.id),
            };
            let mut strays = prepared.strays.take().unwrap_or_default();
            strays.retain(|id| Some(id) != keep);
            shared.abort_uploads(key, &strays).await?;
            session.target.is_bound = must_be_bound;
            session.take_over(snapshot, &mut prepared.own, offset)?;
            claim.set_grows(true);
            return Ok(session);
        }
        Err(claim.superseded())
    }

    /// Returns a session that has yet to take over the bytes of the snapshot.
    fn before_take_over(
        shared: &Arc<Shared>,
        claim: &Arc<Claim>,
        rank: Rank,
        growth: Growth,
        snapshot: &Snapshot,
    ) -> Self {
        let fresh = Self::fresh(Arc::clone(shared), Arc::clone(claim), rank, growth);
        let mut part_size = snapshot.part_size.unwrap_or(fresh.plan.part_size);
        if snapshot.upload.is_none() {
            // The base must leave numbers for the parts behind it.
            let base = snapshot.base.min(growth.offset);
            while base / part_size >= shared.limits.max_parts {
                part_size *= PART_GROWTH;
            }
        }
        Self {
            plan: Plan {
                begin: growth.offset,
                part_size,
                ..fresh.plan
            },
            target: Target {
                object: snapshot.object.clone(),
                base: snapshot.base,
                is_bound: false,
            },
            journal: Journal {
                has_notes: true,
                inherited: snapshot.notes.iter().copied().collect(),
                ..fresh.journal
            },
            ..fresh
        }
    }

    /// Takes over the bytes below `offset`. `own` is a multipart upload of the session itself,
    /// which it uses if the snapshot has none.
    fn take_over(
        &mut self,
        mut snapshot: Snapshot,
        own: &mut Option<Upload>,
        offset: u64,
    ) -> Result<(), BlobError> {
        let part_size = self.plan.part_size;
        let mut start = None;
        match snapshot.upload.take() {
            Some(live) => {
                start = Some(live.end(self.target.base, part_size));
                self.continue_upload(live);
            }
            None => self.multipart.upload = own.take(),
        }
        self.target.base = self.target.base.min(offset);
        let base = self.target.base;
        let start = start.unwrap_or(base / part_size * part_size);
        let solid = base.max(start);
        let Some(pieces) = snapshot.pieces(solid, offset) else {
            return Err(self.contradicted());
        };
        let mut kept = Vec::new();
        if start < base {
            kept.push(Kept::Base {
                from: start,
                to: base,
            });
        }
        kept.extend(pieces.into_iter().map(Kept::Piece));
        self.tail = Tail::new(start, kept, offset);
        Ok(())
    }

    fn can_continue(&self, live: &LiveUpload, offset: u64) -> bool {
        let (base, part_size) = (self.target.base, self.plan.part_size);
        live.is_even(base, part_size) && live.end(base, part_size) <= offset
    }

    fn continue_upload(&mut self, live: LiveUpload) {
        self.multipart.upload = Some(live.upload);
        let by_number = |part: Part| (part.number, part);
        self.multipart.arrived = live.parts.into_iter().map(by_number).collect();
    }

    /// Ends a multipart upload, so that no part can be added to it any more. Its bytes below
    /// `offset` become the base, unless another session ended the upload.
    async fn fence(&mut self, live: LiveUpload, offset: u64) -> Result<(), BlobError> {
        let base = self.target.base;
        let end = live.end(base, self.plan.part_size);
        if end <= base || offset <= base {
            let Upload { id, .. } = live.upload;
            let aborted = self.shared.bucket.abort(&self.published(), &id).await;
            aborted.map_err(|error| self.failed(error))?;
            return Ok(());
        }
        self.continue_upload(live);
        self.complete(end).await?;
        self.multipart.upload = None;
        Ok(())
    }
}

/// Returns the error for a blob that has fewer bytes than were acknowledged.
///
/// A list without some entry proves no loss, and nothing is dropped for it. Bytes are lost only if
/// the server denies both the multipart upload with them, by either list, and the object that
/// it would have become.
async fn too_short(
    shared: &Shared,
    key: &BlobKey,
    snapshot: &Snapshot,
    offset: u64,
) -> Result<BlobError, BlobError> {
    let length = snapshot.length();
    let is_denied = match &snapshot.vanished {
        Some(id) => !shared.uploads_to(key).await?.contains(id),
        None => false,
    };
    if is_denied {
        tracing::error!(
            %key,
            offset,
            length,
            "a multipart upload is gone from the bucket; remove the rule that aborts incomplete ones (lifecycle rules; MinIO: api stale_uploads_expiry), or let it wait longer than uploads.lifetime"
        );
        return Ok(BlobError::Missing { key: key.clone() });
    }
    Ok(BlobError::Inconsistent {
        key: key.clone(),
        reason: format!(
            "{offset} bytes of it were acknowledged, and the S3 server lists {length}; make sure that it lists all objects below blobs.prefix and all parts of multipart uploads, and that nothing else deletes there"
        ),
    })
}
