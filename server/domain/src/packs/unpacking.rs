//! From an uploaded archive to contents that a draft holds.
//!
//! [`Gathering`] takes the archive apart on a thread that may block. Small contents go to [`Segments`] in batches, large ones to blobs
//! of their own ([`Large`]); each content is stored once, however often it comes. [`Ledger`] knows what was written, and
//! takes it back if the archive is refused, which may be at its very end.
//!
//! However large the archive is, it takes about 50 MiB of memory at most: a chunk of the store (4 MiB) and what becomes of it, a
//! batch (8 MiB and one content) in both forms beside what the store has yet to write, and the encoders. Beyond that there are
//! only facts: those of the unpacker, a digest for each content, a path for each file of a tree that is learnt, and the places of
//! contents that are not recorded yet, which are bounded in number.

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
    /// Unpacks an archive into contents that `draft` holds. With a tree, every entry must be one of its files, with its size and
    /// digest; without one, returns the tree that the archive itself has.
    ///
    /// May be repeated: what is stored already is not stored again. A sign to stop ends it within a step, which is 8 MiB of what
    /// comes out of the archive; what was recorded stays for the next try.
    ///
    /// # Errors
    /// [`PackError::Archive`] and [`PackError::Entry`] refuse the archive; [`Error::NotFound`] or [`PackError::Published`] say that the
    /// draft takes nothing any more. All that was stored is taken back then. After an error of a store, what was recorded
    /// stays for the next try.
    ///
    /// # Cancel safety
    /// May be dropped anywhere, as a crash may come anywhere: what was recorded stays, the rest is found by the janitor.
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

    /// Those of the contents that are stored. An open draft holds them from now on, so they stay; none if it is not open.
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
    /// Unpacks an archive into a draft as it is done when its upload is whole.
    ///
    /// # Errors
    /// A [`PackError`] that refuses the archive, [`Error::NotFound`] where the draft is gone, or a store's.
    pub async fn unpack(
        &self,
        draft: &DraftRecord,
        archive: BlobStream,
    ) -> Result<Option<Tree>, Error> {
        self.unpack_until(draft, archive, CancellationToken::new())
            .await
    }

    /// As [`Packs::unpack`](super::Packs::unpack), until the server is drained.
    ///
    /// # Errors
    /// As there, and [`Error::Draining`].
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

/// Stores what is gathered from an archive. Returns its tree if that was learnt.
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
                    // It may be known only now what it is, or another upload may have brought it meanwhile.
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
