//! A large content on its way to blobs of its own: one raw, and a second, deflated one if that
//! pays.

use super::deflating::Formed;
use super::gathering::Piece;
use super::ledger::{Ledger, Staging};
use crate::Error;
use crate::pack::StoredContent;

/// Staged blobs of a large content.
#[derive(Debug)]
pub(super) struct Large {
    raw: Staging,
    /// Staged when its first bytes arrive.
    deflated: Option<Staging>,
}

impl Large {
    pub(super) async fn begin(ledger: &mut Ledger<'_>) -> Result<Self, Error> {
        Ok(Self {
            raw: ledger.stage().await?,
            deflated: None,
        })
    }

    pub(super) async fn write(
        &mut self,
        ledger: &mut Ledger<'_>,
        piece: Piece,
    ) -> Result<(), Error> {
        self.raw.write(piece.raw).await?;
        if piece.deflated.is_empty() {
            return Ok(());
        }
        let deflated = match &mut self.deflated {
            Some(deflated) => deflated,
            None => self.deflated.insert(ledger.stage().await?),
        };
        deflated.write(piece.deflated).await
    }

    /// Publishes the raw blob, and the deflated one if it pays.
    pub(super) async fn keep(self, ledger: &mut Ledger<'_>, formed: Formed) -> Result<(), Error> {
        let raw = ledger.publish(self.raw, formed.sha256).await?;
        let deflated = match (self.deflated, formed.deflated) {
            (Some(staging), Some(form)) => {
                let place = ledger.publish(staging, form.sha256).await?;
                Some((form, place))
            }
            (Some(staging), None) => {
                ledger.discard(staging).await;
                None
            }
            (None, _) => None,
        };
        ledger.note(StoredContent {
            sha256: formed.sha256,
            size: formed.size,
            crc32: formed.crc32,
            raw,
            deflated,
        });
        Ok(())
    }

    pub(super) async fn discard(self, ledger: &mut Ledger<'_>) {
        ledger.discard(self.raw).await;
        if let Some(deflated) = self.deflated {
            ledger.discard(deflated).await;
        }
    }
}
