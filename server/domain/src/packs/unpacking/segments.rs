//! Segments: blobs of about 64 MiB that hold many small contents, one after another, in the order
//! of their arrival.
//!
//! Two segments are open at a time. One has the forms that a zip serves, so that a zip of
//! neighbours reads it from one end to the other. The other has the raw bytes of those contents
//! that are deflated in the first. When either is full, both are published, and recorded with their
//! contents in one transaction.

use std::mem;
use std::num::NonZero;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use futures::future::join_all;

use super::deflating::{Batch, Formed, FormedBatch, Small};
use super::ledger::{Ledger, Staging};
use crate::Error;
use crate::digest::{Hasher, Sha256Digest};
use crate::pack::{Place, StoredContent};

/// Bytes of a full segment, which may exceed them by a batch.
pub(super) const FULL: u64 = 64 * 1024 * 1024;
/// Contents of a full segment, which may exceed them by a batch. One transaction records them.
const MAX_CONTENTS: usize = 32 * 1024;
/// Maximum number of threads that deflate a batch.
const MAX_THREADS: usize = 4;

/// The open segments.
#[derive(Debug, Default)]
pub(super) struct Segments {
    served: Option<Segment>,
    raw: Option<Segment>,
    contents: Vec<Laid>,
}

#[derive(Debug)]
struct Segment {
    staging: Staging,
    hasher: Hasher,
}

/// A content in the open segments.
#[derive(Debug)]
struct Laid {
    content: Formed,
    /// Offset in the served segment, in bytes.
    served_at: u64,
    /// Offset in the raw segment, in bytes, if the served form is deflated.
    raw_at: u64,
}

impl Segments {
    /// Appends those contents of a batch that are not stored yet, and closes full segments.
    pub(super) async fn store(
        &mut self,
        ledger: &mut Ledger<'_>,
        batch: Batch,
    ) -> Result<(), Error> {
        for formed in form_new(ledger, batch).await? {
            self.append(ledger, formed).await?;
        }
        let is_full = |segment: &Option<Segment>| {
            segment
                .as_ref()
                .is_some_and(|segment| segment.staging.size >= FULL)
        };
        if is_full(&self.served) || is_full(&self.raw) || self.contents.len() >= MAX_CONTENTS {
            self.close(ledger).await?;
            ledger.record().await?;
        }
        Ok(())
    }

    /// Publishes the open segments; they are still to be recorded.
    pub(super) async fn close(&mut self, ledger: &mut Ledger<'_>) -> Result<(), Error> {
        let served = publish(ledger, self.served.take()).await?;
        let raw = publish(ledger, self.raw.take()).await?;
        let at = |place: &Option<Place>, start| Place {
            start,
            ..place
                .clone()
                .expect("there is a segment where something lies in it")
        };
        for laid in mem::take(&mut self.contents) {
            let served = at(&served, laid.served_at);
            let Formed {
                sha256,
                size,
                crc32,
                deflated,
            } = laid.content;
            let (raw, deflated) = match deflated {
                Some(deflated) => (at(&raw, laid.raw_at), Some((deflated, served))),
                None => (served, None),
            };
            ledger.note(StoredContent {
                sha256,
                size,
                crc32,
                raw,
                deflated,
            });
        }
        Ok(())
    }

    async fn append(&mut self, ledger: &mut Ledger<'_>, formed: FormedBatch) -> Result<(), Error> {
        let mut served_at = append(ledger, &mut self.served, formed.served).await?;
        let mut raw_at = match formed.raw.is_empty() {
            true => 0,
            false => append(ledger, &mut self.raw, formed.raw).await?,
        };
        for content in formed.contents {
            self.contents.push(Laid {
                content,
                served_at,
                raw_at,
            });
            match content.deflated {
                Some(deflated) => {
                    served_at += deflated.size;
                    raw_at += content.size;
                }
                None => served_at += content.size,
            }
        }
        Ok(())
    }
}

/// Deflates those contents of a batch that are not stored yet, on several threads. Keeps their
/// order.
async fn form_new(ledger: &Ledger<'_>, batch: Batch) -> Result<Vec<FormedBatch>, Error> {
    let sha256s: Vec<Sha256Digest> = batch.contents().iter().map(|small| small.sha256).collect();
    let stored = ledger.known(&sha256s).await?;
    let mut new = batch.contents().to_vec();
    new.retain(|small| !stored.contains(&small.sha256));
    let batch = Arc::new(batch);
    let forming = shares(&new).into_iter().map(|share| {
        let batch = Arc::clone(&batch);
        tokio::task::spawn_blocking(move || batch.form(&share))
    });
    let formed = join_all(forming).await.into_iter();
    Ok(formed
        .map(|formed| formed.expect("deflating does not panic"))
        .collect())
}

fn shares(contents: &[Small]) -> Vec<Vec<Small>> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = threads.min(MAX_THREADS);
    contents
        .chunks(contents.len().div_ceil(threads).max(1))
        .map(<[Small]>::to_vec)
        .collect()
}

/// Appends to a segment, and begins one if there is none. Returns the offset of the first byte.
async fn append(
    ledger: &mut Ledger<'_>,
    segment: &mut Option<Segment>,
    bytes: Vec<u8>,
) -> Result<u64, Error> {
    let segment = match segment {
        Some(segment) => segment,
        None => segment.insert(Segment {
            staging: ledger.stage().await?,
            hasher: Hasher::new(),
        }),
    };
    let start = segment.staging.size;
    let bytes = Bytes::from(bytes);
    let (hashed, mut hasher) = (bytes.clone(), mem::take(&mut segment.hasher));
    let hashing = tokio::task::spawn_blocking(move || {
        hasher.update(&hashed);
        hasher
    });
    let (hasher, written) = tokio::join!(hashing, segment.staging.write(bytes));
    segment.hasher = hasher.expect("hashing does not panic");
    written?;
    Ok(start)
}

async fn publish(
    ledger: &mut Ledger<'_>,
    segment: Option<Segment>,
) -> Result<Option<Place>, Error> {
    match segment {
        Some(Segment { staging, hasher }) => {
            ledger.publish(staging, hasher.finish()).await.map(Some)
        }
        None => Ok(None),
    }
}
