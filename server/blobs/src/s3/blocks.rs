//! Short reads out of long objects, by blocks that are kept for a while.
//!
//! An archive is read in windows of some 80 KiB out of segments of 64 MiB, mostly one behind the other. A request for each would cost
//! more than its bytes do; so a short read fetches the block around it, and those after it find that in memory. Readers that want the
//! same block at the same time wait for one request.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use domain::BlobKey;
use domain::blob_store::{BlobError, BlobStream};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, UnitWeighter};

use super::reading::Source;

/// Bytes of a block.
const BLOCK: u64 = 1024 * 1024;
/// Reads of up to so many bytes are short.
const SHORT: u64 = 256 * 1024;

/// Which block of which object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    key: BlobKey,
    etag: Option<String>,
    /// Counts blocks from the beginning of the object.
    index: u64,
}

/// Blocks that were read lately.
#[derive(Debug)]
pub(super) struct Blocks {
    cache: Cache<Place, Bytes>,
}

impl Blocks {
    /// Keeps at most so many bytes.
    pub(super) fn new(memory: u64) -> Self {
        let blocks = memory / BLOCK;
        let options = OptionsBuilder::new()
            .estimated_items_capacity(usize::try_from(blocks).unwrap_or(usize::MAX))
            .weight_capacity(blocks)
            // Each has a share of the capacity, which must be more than one block.
            .shards(4)
            .build()
            .expect("all that is needed is said");
        Self {
            cache: Cache::with_options(
                options,
                UnitWeighter,
                DefaultHashBuilder::default(),
                DefaultLifecycle::default(),
            ),
        }
    }

    /// Whether a read of `range`, out of an object of `size` bytes, is short.
    pub(super) fn suit(range: &Range<u64>, size: u64) -> bool {
        !range.is_empty() && range.end - range.start <= SHORT.min(size / 2)
    }

    /// The bytes in `range` of an object of `size` bytes.
    pub(super) fn stream(
        self: &Arc<Self>,
        source: &Source,
        size: u64,
        range: Range<u64>,
    ) -> BlobStream {
        let (blocks, source) = (Arc::clone(self), source.clone());
        let indices = range.start / BLOCK..range.end.div_ceil(BLOCK);
        stream::iter(indices)
            .then(move |index| {
                let (blocks, source, range) = (Arc::clone(&blocks), source.clone(), range.clone());
                async move {
                    let begin = index * BLOCK;
                    let block = blocks.block(source, index, size).await?;
                    let from = range.start.saturating_sub(begin);
                    let to = (range.end - begin).min(block.len() as u64);
                    // Within a block, which is short.
                    let short = |at: u64| usize::try_from(at).expect("a block is short");
                    Ok(block.slice(short(from)..short(to)))
                }
            })
            .boxed()
    }

    async fn block(&self, source: Source, index: u64, size: u64) -> Result<Bytes, BlobError> {
        let place = Place {
            key: source.key.clone(),
            etag: source.etag.clone(),
            index,
        };
        let range = index * BLOCK..size.min((index + 1) * BLOCK);
        let fetched = async {
            let mut chunks = source.stream(range, BLOCK);
            let mut block = BytesMut::new();
            while let Some(chunk) = chunks.try_next().await? {
                block.extend_from_slice(&chunk);
            }
            Ok(block.freeze())
        };
        self.cache.get_or_insert_async(&place, fetched).await
    }
}
