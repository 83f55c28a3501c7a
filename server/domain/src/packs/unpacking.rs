//! Unpacking of an uploaded archive into contents that a draft holds.
//!
//! [`Gathering`] takes the archive apart on a thread that may block. Small contents go to
//! [`Segments`] in batches, large ones to blobs of their own ([`Large`]). Each content is stored
//! once, however often it occurs. [`Ledger`] lists the blobs that were written, and deletes them if
//! the archive is refused, possibly at its very end.
//!
//! Regardless of its size, an archive takes at most about 50 MiB of memory: a chunk from the store
//! (4 MiB) and its decompressed bytes, a batch (8 MiB and one content) in both forms next to what
//! the store has yet to write, and the encoders. On top of that come only facts: those of the
//! unpacker, a digest for each content, a path for each file if the tree is learnt, and the places
//! of contents that are not recorded yet, whose number is bounded.

mod deflating;
mod gathering;
mod large;
mod ledger;
mod segments;

use std::collections::HashSet;

use archive::Tree;
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

use self::gathering::{Gathering, Step};
use self::large::Large;
use self::ledger::Ledger;
use self::segments::Segments;
use super::turns::Turn;
use super::{Shared, look_up};
use crate::blob_store::BlobStream;
use crate::digest::Sha256Digest;
use crate::error::PackError;
use crate::ingest::Stops;
use crate::pack::{DraftRecord, StoredContent};
use crate::{BlobKey, DraftId, Error};

impl Shared {
    /// Unpacks an archive into contents that `draft` holds. If the draft has a tree, every entry
    /// must be one of its files, with the file's size and digest. Otherwise, returns the tree of
    /// the archive itself.
    ///
    /// May be repeated: contents that are stored already are not stored again. A stop takes effect
    /// within a step, which is 8 MiB of unpacked bytes; contents that are recorded stay for the
    /// next attempt.
    ///
    /// # Errors
    /// [`PackError::Archive`] and [`PackError::Entry`] if the archive is refused;
    /// [`Error::NotFound`] or [`PackError::Published`] if the draft accepts no more contents. In
    /// these cases everything that was stored is dropped. After a store's error, contents that are
    /// recorded stay for the next attempt.
    ///
    /// # Cancel safety
    /// May be dropped anywhere, as a crash may happen anywhere: contents that are recorded stay,
    /// and the janitor finds the rest.
    pub(super) async fn unpack(
        &self,
        draft: &DraftRecord,
        archive: BlobStream,
        turn: &mut Turn<'_>,
        stops: &Stops,
    ) -> Result<Option<Tree>, Error> {
        let tree = match &draft.tree {
            Some(tree) => Some(self.read_draft(tree).await?.tree),
            None => None,
        };
        let gathering =
            Gathering::new(tree, self.config.tree_limits(), self.config.unpack_limits());
        let mut ledger = Ledger::new(self, &draft.id);
        let unpacked = store_all(gathering, archive, &mut ledger, turn, stops).await;
        if let Err(error) = &unpacked {
            ledger.clean_up(error).await;
        }
        unpacked
    }

    /// Makes an open draft hold those of the contents that are stored, so that they stay. Returns
    /// them; `None` if the draft is not open.
    pub(super) async fn hold(
        &self,
        draft: &DraftId,
        sha256s: &[Sha256Digest],
    ) -> Result<Option<HashSet<Sha256Digest>>, Error> {
        let mut stored = look_up(&*self.facts, sha256s).await?;
        if stored.is_empty() {
            return Ok(Some(HashSet::new()));
        }
        let blobs: HashSet<&BlobKey> = stored.iter().flat_map(StoredContent::blobs).collect();
        let blobs: Vec<BlobKey> = blobs.into_iter().cloned().collect();
        let held = self.facts.hold_blobs(draft, &blobs).await;
        let Some(held) = held.map_err(Error::metadata("hold contents"))? else {
            return Ok(None);
        };
        let held: HashSet<BlobKey> = held.into_iter().collect();
        stored.retain(|content| content.blobs().all(|blob| held.contains(blob)));
        Ok(Some(stored.iter().map(|content| content.sha256).collect()))
    }
}

/// For tests of this crate, which bring no upload.
#[doc(hidden)]
impl super::Packs {
    /// Unpacks an archive into a draft, as on completion of its upload.
    ///
    /// # Errors
    /// A [`PackError`] that refuses the archive, [`Error::NotFound`] if the draft is gone, or a
    /// store's error.
    pub async fn unpack(
        &self,
        draft: &DraftRecord,
        archive: BlobStream,
    ) -> Result<Option<Tree>, Error> {
        self.unpack_until(draft, archive, CancellationToken::new())
            .await
    }

    /// Unpacks like [`Packs::unpack`](super::Packs::unpack), until the server is drained.
    ///
    /// # Errors
    /// Those of [`Packs::unpack`](super::Packs::unpack), and [`Error::Draining`].
    pub async fn unpack_until(
        &self,
        draft: &DraftRecord,
        archive: BlobStream,
        draining: CancellationToken,
    ) -> Result<Option<Tree>, Error> {
        let stops = Stops {
            draining,
            ..Stops::never()
        };
        let mut turn = self.shared.turns.take(&stops).await?;
        self.shared.unpack(draft, archive, &mut turn, &stops).await
    }
}

/// Stores the contents of an archive. Returns the tree if it was learnt.
async fn store_all(
    mut gathering: Gathering,
    mut archive: BlobStream,
    ledger: &mut Ledger<'_>,
    turn: &mut Turn<'_>,
    stops: &Stops,
) -> Result<Option<Tree>, Error> {
    let mut segments = Segments::default();
    let mut large = None;
    loop {
        stops.check()?;
        let step;
        (gathering, step) = step_elsewhere(gathering).await;
        turn.grow(gathering.memory(), stops).await?;
        match step? {
            Step::Feed => match archive.next().await {
                Some(chunk) => gathering.feed(chunk.map_err(Error::blob("read an archive"))?),
                None => gathering.finish(),
            },
            Step::Look => {}
            Step::Batch(batch) => segments.store(ledger, batch).await?,
            Step::LargeBegins(Some(sha256)) if !ledger.known(&[sha256]).await?.is_empty() => {
                gathering.skip();
            }
            Step::LargeBegins(_) => large = Some(Large::begin(ledger).await?),
            Step::LargeGoesOn(piece) => {
                let large = large.as_mut().expect(BEGUN);
                large.write(ledger, piece).await?;
            }
            Step::LargeEnds(piece, formed) => {
                let mut large = large.take().expect(BEGUN);
                match formed {
                    // The digest may only be known now, and another upload may have stored the
                    // content meanwhile.
                    Some(formed) if ledger.known(&[formed.sha256]).await?.is_empty() => {
                        large.write(ledger, piece).await?;
                        large.keep(ledger, formed).await?;
                        if ledger.unrecorded() >= segments::FULL {
                            ledger.record().await?;
                        }
                    }
                    Some(_) | None => large.discard(ledger).await,
                }
            }
            Step::End(batch, tree) => {
                segments.store(ledger, batch).await?;
                segments.close(ledger).await?;
                ledger.record().await?;
                return Ok(tree);
            }
        }
    }
}

const BEGUN: &str = "a large content begins before it goes on";

async fn step_elsewhere(mut gathering: Gathering) -> (Gathering, Result<Step, PackError>) {
    let stepping = tokio::task::spawn_blocking(move || {
        let step = gathering.step();
        (gathering, step)
    });
    stepping.await.expect("unpacking does not panic")
}
