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

pub(super) mod deflating;
mod gathering;
mod large;
pub(super) mod ledger;

use archive::Tree;
use futures::StreamExt as _;

use self::gathering::{Gathering, Step};
use self::large::Large;
use self::ledger::Ledger;
use super::segments::{self, Segments};
use super::{PackError, Shared, look_up};
use crate::Error;
use crate::blob_store::BlobStream;
use crate::digest::Sha256Digest;
use crate::pack_store::DraftRecord;

impl Shared {
    /// Unpacks an archive into contents that `draft` holds. With a tree, every entry must be one of its files, with its size and
    /// digest; without one, returns the tree that the archive itself has.
    ///
    /// May be repeated: what is stored already is not stored again.
    ///
    /// # Errors
    /// [`PackError::Archive`] and [`PackError::Entry`] refuse the archive; [`Error::NotFound`] or [`PackError::Published`] say that the
    /// draft takes nothing any more. All that was stored is taken back then. After an error of a store, what was recorded
    /// stays for the next try.
    ///
    /// # Cancel safety
    /// May be dropped anywhere, as a crash may come anywhere: what was recorded stays, the rest is found by the janitor.
    pub(crate) async fn unpack(
        &self,
        draft: &DraftRecord,
        archive: BlobStream,
    ) -> Result<Option<Tree>, Error> {
        let tree = match &draft.tree {
            Some(tree) => Some(self.read_draft(tree).await?.tree),
            None => None,
        };
        let gathering =
            Gathering::new(tree, self.config.tree_limits(), self.config.unpack_limits());
        let mut ledger = Ledger::new(self, &draft.id);
        let unpacked = store_all(gathering, archive, &mut ledger).await;
        if let Err(error) = &unpacked {
            ledger.clean_up(error).await;
        }
        unpacked
    }

    async fn is_stored(&self, sha256: Sha256Digest) -> Result<bool, Error> {
        Ok(!look_up(&*self.facts, &[sha256]).await?.is_empty())
    }
}

#[cfg(feature = "testing")]
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
        self.shared.unpack(draft, archive).await
    }
}

/// Stores what is gathered from an archive. Returns its tree if that was learnt.
async fn store_all(
    mut gathering: Gathering,
    mut archive: BlobStream,
    ledger: &mut Ledger<'_>,
) -> Result<Option<Tree>, Error> {
    let mut segments = Segments::default();
    let mut large = None;
    loop {
        let step;
        (gathering, step) = step_elsewhere(gathering).await;
        match step? {
            Step::Feed => match archive.next().await {
                Some(chunk) => gathering.feed(chunk.map_err(Error::blob("read an archive"))?),
                None => gathering.finish(),
            },
            Step::Batch(batch) => segments.store(ledger, batch).await?,
            Step::LargeBegins(Some(sha256)) if ledger.shared().is_stored(sha256).await? => {
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
                    Some(formed) if !ledger.shared().is_stored(formed.sha256).await? => {
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
