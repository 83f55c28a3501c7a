//! Published blobs: reads, links, and caches of heads and blocks.
//!
//! An archive is read in windows of some 80 KiB out of segments of 64 MiB, mostly one behind the
//! other. A request for each would cost more than its bytes do. So a short read fetches the block
//! around it, and the reads behind it find their bytes in memory. Readers that want the same block
//! at the same time wait for one request.
//!
//! A link is a pre-signed URL, with which a client fetches from the S3 server what the store would
//! send. Signing sends no request.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::ResponseChecksumValidation;
use aws_sdk_s3::presigning::PresigningConfig;
use bytes::{Bytes, BytesMut};
use domain::blob_store::{BlobError, BlobStream, Link, LinkFields};
use domain::{Blob, BlobKey};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, UnitWeighter};

use super::bucket::Object;
use super::config::Config;
use super::errors::{S3Error, failed, other};
use super::reading::Source;

/// Number of blobs whose heads are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16 * 1024).unwrap();
/// Size of a block in bytes.
const BLOCK: u64 = 1024 * 1024;
/// Longest short read in bytes.
const SHORT: u64 = 256 * 1024;

/// Published blob that is open for reading.
#[derive(Debug)]
pub(super) struct PublishedObject {
    pub(super) source: Source,
    /// Size in bytes.
    pub(super) size: u64,
    /// Bytes that one request reads.
    pub(super) read_size: u64,
    pub(super) blocks: Arc<Blocks>,
    /// Signer of links, if clients may be redirected to the bucket.
    pub(super) links: Option<Arc<Links>>,
}

#[async_trait]
impl Blob for PublishedObject {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, range: Range<u64>) -> BlobStream {
        if range.end > self.size && !range.is_empty() {
            let key = self.source.key.clone();
            return stream::iter([Err(BlobError::Missing { key })]).boxed();
        }
        match Blocks::suit(&range, self.size) {
            true => self.blocks.stream(&self.source, self.size, range),
            false => self.source.clone().stream(range, self.read_size),
        }
    }

    async fn link(&self, fields: LinkFields<'_>) -> Result<Option<Link>, BlobError> {
        let (Some(links), Some(etag)) = (&self.links, &self.source.etag) else {
            return Ok(None);
        };
        let signed = links.sign(&self.source.name, self.size, fields).await;
        let url = signed.map_err(|error| failed(&self.source.key, "sign a link to", error))?;
        Ok(url.map(|url| Link {
            url,
            etag: etag.clone(),
        }))
    }
}

/// Heads of published blobs that were looked at lately. Published blobs never change, so one look
/// is enough.
#[derive(Debug)]
pub(super) struct Heads {
    cache: Cache<BlobKey, Object>,
}

impl Heads {
    pub(super) fn new() -> Self {
        Self {
            cache: Cache::new(REMEMBERED.get()),
        }
    }

    pub(super) fn find(&self, key: &BlobKey) -> Option<Object> {
        self.cache.get(key)
    }

    pub(super) fn remember(&self, key: &BlobKey, object: &Object) {
        self.cache.insert(key.clone(), object.clone());
    }

    pub(super) fn forget(&self, key: &BlobKey) {
        self.cache.remove(key);
    }
}

/// Identity of a block.
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
    /// Returns a cache of at most `memory` bytes.
    pub(super) fn new(memory: u64) -> Self {
        let blocks = memory / BLOCK;
        let options = OptionsBuilder::new()
            .estimated_items_capacity(usize::try_from(blocks).unwrap_or(usize::MAX))
            .weight_capacity(blocks)
            // Each shard has a share of the capacity, which must be more than one block.
            .shards(4)
            .build()
            .expect("all required options are set");
        Self {
            cache: Cache::with_options(
                options,
                UnitWeighter,
                DefaultHashBuilder::default(),
                DefaultLifecycle::default(),
            ),
        }
    }

    /// Returns `true` if a read of `range`, out of an object of `size` bytes, is short.
    pub(super) fn suit(range: &Range<u64>, size: u64) -> bool {
        !range.is_empty() && range.end - range.start <= SHORT.min(size / 2)
    }

    /// Streams the bytes in `range` of an object of `size` bytes.
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
                    // Offset within a block, which fits.
                    let short = |at: u64| usize::try_from(at).expect("a block fits into memory");
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

/// Signer of links to objects that are large enough.
#[derive(Debug)]
pub(super) struct Links {
    client: Client,
    bucket: String,
    /// Minimum size of an object, in bytes.
    min_size: u64,
    lifetime: Duration,
}

impl Links {
    /// Returns `None` if the store sends all bytes itself. `client` is the one that the store uses.
    pub(super) fn new(client: &Client, config: &Config) -> Option<Self> {
        let min_size = config.redirect_min_size?.as_u64();
        // Otherwise the URL would ask for a checksum, which only the SDK would verify.
        let mut builder = client
            .config()
            .to_builder()
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if let Some(endpoint) = &config.redirect_endpoint {
            builder = builder.endpoint_url(endpoint);
        }
        Some(Self {
            client: Client::from_conf(builder.build()),
            bucket: config.bucket.clone(),
            min_size,
            lifetime: config.redirect_lifetime,
        })
    }

    /// Returns a URL for the object `name` of `size` bytes, or `None` if it is too small to be
    /// worth another connection.
    pub(super) async fn sign(
        &self,
        name: &str,
        size: u64,
        fields: LinkFields<'_>,
    ) -> Result<Option<String>, S3Error> {
        if size < self.min_size {
            return Ok(None);
        }
        let lifetime = PresigningConfig::expires_in(self.lifetime).map_err(other)?;
        let request = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(name)
            .response_content_type(fields.content_type)
            .set_response_content_disposition(fields.content_disposition.map(str::to_owned))
            .response_cache_control(fields.cache_control);
        let signed = request.presigned(lifetime).await.map_err(other)?;
        Ok(Some(signed.uri().to_owned()))
    }
}
