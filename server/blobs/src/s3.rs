//! Blobs as objects in a bucket of an S3-compatible server, which any number of nodes share.
//!
//! ```text
//! PREFIX published/<key>              whole; or the beginning of a blob that still grows
//! PREFIX staged/<key>!/<note>         notes on a blob that grows: who has it since where, and the bytes that are in no part yet
//! PREFIX staged/<key>!/large-<tag>    a part that is being put together (`large`)
//! PREFIX sealed/<key>                 who published a blob, where its object says that an older writer made it
//! ```
//!
//! A blob that grows is a multipart upload to where it will be published, with parts of one size (Cloudflare R2 takes no others), and
//! behind the last whole part a *tail*, which is kept in notes ([`StagedBlob::sync`]) and in memory. A blob that fits into one part
//! never sees a multipart upload: it is put with one request. What goes wrong between nodes is kept out by four rules:
//!
//! 1. Each writer is a *session* with a *rank*: its epoch, then its number in the process. What sessions of lower rank left beyond the
//!    point where it begins does not count, whenever it was written (`notes`).
//! 2. A session claims the blob before it looks at it, so that of two, at least one sees the other (`resuming`).
//! 3. Within one multipart upload a part's number is only ever sent with one content. A session that was closed hands the upload on.
//!    After one that was killed, paused or dropped, the upload is completed with what it has, which ends it for good; the object that
//!    this makes is the *base* of the next upload, into which the server copies it in the end. So copying costs only after a crash.
//! 4. Objects are put in their place on condition that nobody else did so since (`publishing`).
//!
//! What is durable when: parts and notes are, once the server has answered; a sync waits for all of them. Publishing is done when
//! the object, looked at again, has the size that it should. An answer that is lost is made up for by looking.
//!
//! Memory is bounded over all writers (`memory`), and what there is to wait for is what a client feels.

mod abilities;
mod blocks;
mod bucket;
mod client;
mod config;
mod failures;
mod heads;
mod keys;
mod large;
mod links;
mod listing;
mod looking;
mod memory;
mod names;
mod notes;
mod pauses;
mod publishing;
mod reading;
mod requests;
mod resuming;
mod tail;
#[cfg(test)]
mod tests;
mod writing;

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use domain::blob_store::{BlobEntry, BlobError, BlobState, BlobStream, Growth};
use domain::{Blob, BlobKey, BlobStore, StagedBlob};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use self::abilities::Abilities;
use self::blocks::Blocks;
use self::bucket::{Bucket, Condition};
pub use self::config::{Ability, Checksums, Config, Secret};
use self::failures::{Trouble, failed, other, troubled};
use self::heads::Heads;
use self::keys::{Keys, Turn};
use self::links::Links;
use self::memory::Memory;
use self::names::{Names, Note, Rank};
use self::reading::{PublishedObject, Source};
use self::tail::Kept;
use self::writing::Session;
use crate::OpenError;

/// A store in a bucket. See the module for its layout and promises.
#[derive(Debug)]
pub struct S3Store {
    shared: Arc<Shared>,
}

/// What all blobs of a store have in common.
#[derive(Debug)]
struct Shared {
    bucket: Arc<Bucket>,
    names: Names,
    keys: Keys,
    heads: Heads,
    blocks: Arc<Blocks>,
    links: Option<Arc<Links>>,
    memory: Memory,
    part_size: u64,
    most_parts: u64,
    /// The longest part that is gathered in memory, in bytes.
    most_gathered: u64,
    parts_in_flight: usize,
    read_size: u64,
    abilities: Abilities,
    /// How long a server may take to complete a multipart upload.
    completing: Duration,
}

/// What cannot be configured.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Most parts of a multipart upload.
    most_parts: u64,
    /// The longest part that is gathered in memory, in bytes.
    most_gathered: u64,
    /// Between the first two attempts of a request.
    first_pause: Duration,
    /// How long a server may take to complete a multipart upload. One that it has not completed by then is lost.
    completing: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            most_parts: 10_000,
            most_gathered: config::MOST_GATHERED,
            first_pause: Duration::from_millis(100),
            completing: Duration::from_mins(1),
        }
    }
}

impl S3Store {
    /// Opens the store: makes a client, and finds out what the server can do.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(config: &Config) -> Result<Self, OpenError> {
        config.check()?;
        Self::connect(config, Limits::default()).await
    }

    /// Opens the store with limits that may be others than S3's.
    async fn connect(config: &Config, limits: Limits) -> Result<Self, OpenError> {
        let client = client::client(config, limits.first_pause).await;
        let links = Links::new(&client, config);
        let bucket = Bucket::new(client, config);
        let names = Names::new(&config.prefix);
        let found = Abilities::find_out(&bucket, &names, config).await;
        let shared = Shared {
            abilities: found.map_err(|trouble| client::unusable(&config.bucket, trouble))?,
            bucket: Arc::new(bucket),
            names,
            keys: Keys::default(),
            heads: Heads::new(),
            blocks: Arc::new(Blocks::new(config.read_memory.as_u64())),
            links: links.map(Arc::new),
            memory: Memory::new(config.memory.as_u64()),
            part_size: config.part_size.as_u64(),
            most_parts: limits.most_parts,
            most_gathered: limits.most_gathered,
            parts_in_flight: config.parts_in_flight.get(),
            read_size: config.read_size.as_u64(),
            completing: limits.completing,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// How many requests the server was sent since the store was opened, by the name of the operation; repeated attempts count.
    pub fn requests(&self) -> BTreeMap<&'static str, u64> {
        self.shared.bucket.requests().counts()
    }

    /// Does `work` under a turn, when those before are done. It runs to its end even if the caller is dropped.
    async fn work<T, F>(
        &self,
        turn: Arc<Turn>,
        work: impl FnOnce(Arc<Shared>, Arc<Turn>) -> F + Send + 'static,
    ) -> Result<T, BlobError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, BlobError>> + Send,
    {
        let (shared, key) = (Arc::clone(&self.shared), turn.key().clone());
        let doing = tokio::spawn(async move {
            let _begun = turn.begin().await?;
            work(shared, Arc::clone(&turn)).await
        });
        doing
            .await
            .unwrap_or_else(|error| Err(failed(&key, "change", other(error))))
    }
}

#[async_trait]
impl BlobStore for S3Store {
    async fn stage(&self, key: &BlobKey, growth: Growth) -> Result<Box<dyn StagedBlob>, BlobError> {
        let turn = self.shared.keys.take_for(key, growth.epoch)?;
        let staged = self.work(turn, move |shared, turn| async move {
            let rank = Rank {
                epoch: growth.epoch,
                session: turn.number(),
            };
            shared.heads.forget(turn.key());
            // Nobody else can know a key that is given to its first writer.
            let is_new = growth.epoch == 1 && growth.offset == 0 && turn.is_first();
            if is_new && shared.abilities.conditional_writes {
                turn.claims(rank);
                return Ok(Session::fresh(shared, turn, rank, growth));
            }
            Session::resume(&shared, &turn, rank, growth).await
        });
        Ok(Box::new(staged.await?))
    }

    async fn read_staged(&self, key: &BlobKey, range: Range<u64>) -> Result<BlobStream, BlobError> {
        let missing = || BlobError::Missing { key: key.clone() };
        let standing = self.shared.standing(key, None, range.end).await?;
        if standing.notes.is_empty() || standing.length() < range.end {
            return Err(missing());
        }
        let solid = standing.solid();
        let is_readable = solid == standing.base || range.start >= solid;
        let standing = match is_readable {
            true => standing,
            false => {
                self.settle(key).await?;
                self.shared.standing(key, None, range.end).await?
            }
        };
        let base = standing.base.clamp(range.start, range.end.max(range.start));
        let pieces = standing.pieces(base, range.end).ok_or_else(missing)?;
        let mut kept = Vec::new();
        if range.start < base {
            kept.push((
                Kept::Base {
                    from: range.start,
                    to: base,
                },
                range.start..base,
            ));
        }
        kept.extend(pieces.into_iter().map(|piece| {
            let range = piece.from..piece.to;
            (Kept::Piece(piece), range)
        }));
        let streams: Vec<_> = kept
            .into_iter()
            .map(|(kept, range)| Ok(self.shared.kept(key, &kept, range)))
            .collect();
        Ok(stream::iter(streams).try_flatten().boxed())
    }

    async fn publish(&self, key: &BlobKey, size: u64) -> Result<(), BlobError> {
        self.work(self.shared.keys.take(key), move |shared, turn| async move {
            let key = turn.key();
            let missing = || BlobError::Missing { key: key.clone() };
            let standing = shared.standing(key, None, size).await?;
            let Some(newest) = standing.notes.newest() else {
                return match standing.object {
                    Some(object) if object.size == size => Ok(()),
                    Some(_) | None => Err(missing()),
                };
            };
            if standing.length() != size {
                return Err(missing());
            }
            if standing.is_published_later() {
                return Ok(());
            }
            let (rank, growth) = shared.follow(newest, size);
            let mut session = Session::resume(&shared, &turn, rank, growth).await?;
            session.publish_all().await.map(drop)
        })
        .await
    }

    async fn discard(&self, key: &BlobKey) -> Result<(), BlobError> {
        self.work(self.shared.keys.take(key), |shared, turn| async move {
            let key = turn.key();
            let discarding = |trouble| failed(key, "discard", trouble);
            let uploads = shared.uploads_to(key).await?;
            shared.abort_uploads(key, &uploads).await?;
            shared.abort_large(key).await.map_err(discarding)?;
            let staged = shared.names.staged(key);
            let listed = shared.bucket.list_all(&staged).await.map_err(discarding)?;
            if !listed.is_empty() {
                shared.heads.forget(key);
                let blob = [shared.names.published(key), shared.names.sealed(key)];
                shared.bucket.delete(&blob).await.map_err(discarding)?;
                // Last, so that what a crash leaves is listed.
                let notes: Vec<String> = listed.into_iter().map(|listed| listed.name).collect();
                shared.bucket.delete(&notes).await.map_err(discarding)?;
            }
            turn.set_grows(false);
            Ok(())
        })
        .await
    }

    async fn open(&self, key: &BlobKey, size: u64) -> Result<Arc<dyn Blob>, BlobError> {
        let missing = || BlobError::Missing { key: key.clone() };
        if self.shared.keys.grows(key) {
            // It did so here. Whoever wrote it last may have done that elsewhere.
            let standing = self.shared.standing(key, None, 0).await?;
            if !standing.is_published {
                return Err(missing());
            }
            self.shared.keys.is_published(key);
        }
        let name = self.shared.names.published(key);
        // One of another size was there before it was published for good.
        let known = self.shared.heads.find(key);
        let object = match known.filter(|object| object.size == size) {
            Some(object) => object,
            None => {
                let found = self.shared.bucket.head(&name).await;
                let found = found.map_err(|trouble| failed(key, "open", trouble))?;
                let (object, _) = found.ok_or_else(missing)?;
                if object.size == size {
                    self.shared.heads.remember(key, &object);
                }
                object
            }
        };
        if object.size != size {
            return Err(missing());
        }
        Ok(Arc::new(PublishedObject {
            source: Source {
                bucket: Arc::clone(&self.shared.bucket),
                key: key.clone(),
                name,
                etag: Some(object.etag),
            },
            size,
            read_size: self.shared.read_size,
            blocks: Arc::clone(&self.shared.blocks),
            links: self.shared.links.clone(),
        }))
    }

    async fn delete(&self, key: &BlobKey) -> Result<(), BlobError> {
        let deleting = |trouble| failed(key, "delete", trouble);
        self.shared.heads.forget(key);
        let standing = self.shared.standing(key, None, 0).await?;
        let blob = [
            self.shared.names.published(key),
            self.shared.names.sealed(key),
        ];
        if standing.notes.is_empty() || standing.is_published {
            self.shared.bucket.delete(&blob).await.map_err(deleting)?;
            let notes: Vec<String> = standing
                .notes
                .iter()
                .map(|note| self.shared.names.note(key, note))
                .collect();
            return self.shared.bucket.delete(&notes).await.map_err(deleting);
        }
        Ok(())
    }

    async fn list(
        &self,
        state: BlobState,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobEntry>, BlobError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let listed = match state {
            BlobState::Staged => self.shared.list_staged(after, limit).await,
            BlobState::Published => self.shared.list_published(after, limit).await,
        };
        listed.map_err(|trouble| troubled("list blobs", trouble))
    }

    async fn check(&self) -> Result<(), BlobError> {
        let probed = self.shared.probe().await;
        probed.map_err(|trouble| troubled("write to the bucket", trouble))
    }
}

impl S3Store {
    /// Has the parts of a staged blob become an object that can be read.
    async fn settle(&self, key: &BlobKey) -> Result<(), BlobError> {
        self.work(self.shared.keys.take(key), |shared, turn| async move {
            let key = turn.key();
            let standing = shared.standing(key, None, u64::MAX).await?;
            let newest = standing
                .notes
                .newest()
                .filter(|_| standing.vanished.is_none());
            let Some(newest) = newest else {
                return Err(BlobError::Missing { key: key.clone() });
            };
            let (rank, growth) = shared.follow(newest, standing.length());
            drop(standing);
            let session = Session::resume(&shared, &turn, rank, growth).await?;
            session.settle().await
        })
        .await
    }
}

impl Shared {
    /// The size of the parts of an upload of `length` bytes, where that is known.
    fn part_size(&self, length: Option<u64>) -> u64 {
        let most = self.part_size * self.most_parts;
        self.part_size * length.unwrap_or(0).div_ceil(most).max(1)
    }

    /// The rank of a session that follows another whose upload's epoch it does not know better than by that, and its growth.
    fn follow(&self, newest: Rank, offset: u64) -> (Rank, Growth) {
        let rank = Rank {
            epoch: newest.epoch,
            session: self.keys.pass(newest.session),
        };
        let growth = Growth {
            offset,
            epoch: newest.epoch,
            length: None,
        };
        (rank, growth)
    }

    async fn leave_note(
        &self,
        key: &BlobKey,
        note: &Note,
        bytes: Bytes,
        metadata: HashMap<String, String>,
    ) -> Result<(), Trouble> {
        let name = self.names.note(key, note);
        let put = self
            .bucket
            .put(&name, bytes, metadata, &Condition::Always)
            .await;
        put.map(drop)
    }

    /// Bytes of a staged blob, a range of those that are kept there.
    fn kept(&self, key: &BlobKey, kept: &Kept, range: Range<u64>) -> BlobStream {
        let (name, begin) = match kept {
            Kept::Base { .. } => (self.names.published(key), 0),
            Kept::Piece(piece) => (self.names.note(key, &piece.note), piece.note.from),
        };
        let source = Source {
            bucket: Arc::clone(&self.bucket),
            key: key.clone(),
            name,
            // Whoever replaces a base does so by an object that begins with it.
            etag: None,
        };
        source.stream(range.start - begin..range.end - begin, self.read_size)
    }

    /// Writes an object that nobody reads.
    async fn probe(&self) -> Result<(), Trouble> {
        let name = self.names.probe();
        let put = self
            .bucket
            .put(&name, Bytes::new(), HashMap::new(), &Condition::Always)
            .await;
        put.map(drop)
    }
}
