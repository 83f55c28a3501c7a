//! Blobs as objects in a bucket of an S3-compatible server, which any number of nodes share.
//!
//! ```text
//! PREFIX published/<key>              the complete blob; or, while it grows, its base
//! PREFIX staged/<key>!/<note>         notes on a blob that grows: claims, pieces, closings
//! PREFIX staged/<key>!/large-<tag>    a part that is being put together on the server
//! PREFIX sealed/<key>                 the publisher of a blob whose object an earlier epoch made
//! ```
//!
//! # From the first byte to the object
//!
//! Each writer is a *session*. Its *rank* is the epoch of the upload, then a number that its
//! process issued; it is in the name or the metadata of all that the session leaves in the bucket.
//!
//! 1. `stage` opens a session. The first one of a key (epoch 1, offset 0, key new to the process)
//!    sends no request. All others take the blob over, as below; so does the first one if the
//!    server ignores conditions.
//! 2. Bytes gather in memory, in the *tail*, which begins where the last full part ends. If memory
//!    is short, the session puts the tail as a *piece* (step 4), frees its memory, and waits for
//!    room. The client feels that as back-pressure.
//! 3. A full part is sent to a multipart upload to the published name, while the next one gathers.
//!    All parts but the last have one size (Cloudflare R2 takes no others). When all numbers of
//!    parts are used, the upload is completed, and its object is the *base* of an upload with
//!    larger parts.
//! 4. `sync` puts the bytes that are in memory only as a piece, which is a note: its name has the
//!    rank, the offset at which the session began, and the range of bytes; its metadata has part
//!    size, base and upload id. `sync` returns when the server has acknowledged the note and all
//!    parts, so the returned length is durable. `close` does the same, but puts its note after all
//!    parts have arrived; the note says that nothing more comes of the session.
//! 5. `publish` makes the object. If all bytes are in the tail, it is one `PutObject`. Otherwise
//!    the tail becomes the last part, the server copies the full parts of a base, and the upload is
//!    completed. Either is on condition that the name is vacant (`If-None-Match`) or has the object
//!    last seen (`If-Match`). If the answer is lost, the object tells: its tag names its maker.
//! 6. If a session of a lower epoch began the upload or made the object, a seal names the
//!    publisher. Then the notes are deleted. If a newer session has left one, publishing fails
//!    instead.
//!
//! # Through a crash
//!
//! The bucket keeps the acknowledged parts and notes, and a part under way may still arrive. The
//! next session has a higher rank, and the offset that was recorded after a sync.
//!
//! 1. It puts a *claim*, a note with this offset. From there on, bytes of lower ranks do not count,
//!    whenever they were or will be written.
//! 2. It inspects the blob: notes, newest state, object, seal, parts. If there are fewer bytes than
//!    the offset because the upload has vanished, it waits up to a minute for the object that the
//!    upload becomes. If there are still too few, it withdraws the claim and fails: with `Missing`
//!    if the server denies the upload in every list, else with `Inconsistent`. It deletes nothing
//!    else.
//! 3. If the last session was closed, and its parts end at the offset or before, its upload is
//!    continued, and nothing is copied. With an object at the published name already, the session
//!    first aborts all other uploads to it, as in step 4.
//! 4. Otherwise the upload is *fenced*, so that it takes no more parts: completed to a new base if
//!    it has full parts behind the present one, and the offset lies there, too; else aborted. The
//!    session begins an upload of its own, lists all others, inspects the blob again, and aborts
//!    those that it listed. The bytes of the base behind its last full part, and those in pieces,
//!    are its tail.
//! 5. After a crash while publishing, the object is in place or not. If it is, publishing again
//!    deletes the notes, and staging at an offset takes the object as the base. If it is not, parts
//!    and notes are still there. A blob that nobody resumes stays listed as staged, and the janitor
//!    discards it when its upload has expired.
//!
//! # Through a take-over
//!
//! A new session takes a blob over while the old one is alive. It does the same as after a crash,
//! and for the old one:
//!
//! 1. In the same process, its claim (`claims`) is invalid at once, and its operations fail at
//!    their next step. The new session waits for a publication that runs already. If the old
//!    session has not announced a part, nothing is fenced for it.
//! 2. In another process, it continues until it meets the new claim or the end of its upload. A
//!    part fails with `NoSuchUpload`. A note counts below the offset of the new claim only.
//!    Publishing fails at the upload, at the condition, or before it deletes the notes.
//! 3. Of two sessions that take over at once, both put their claims before they inspect, so the one
//!    that inspects last sees the other. A lower rank that sees a higher one fails. A higher rank
//!    that sees a lower one fences it; if it does not see it, the lower one sees the higher.
//!
//! # Through a late writer
//!
//! A node pauses before or after it sends a request, others take over, and the request takes effect
//! afterwards:
//!
//! 1. *A part*: the upload has been completed or aborted, and the server refuses. A closed session
//!    has no part under way. Within one upload, a number is only ever sent with one content, so
//!    repeated parts do no harm.
//! 2. *A note*: its bytes beyond the newer claim do not count. Beside a published blob it stays
//!    until the blob is deleted. Without a blob it is listed as staged, and the janitor discards it.
//! 3. *A put or completion, before the new session publishes*: the published name has an object
//!    with a lower rank. The new session has seen it when it took over, or its condition fails.
//!    Either way it becomes *bound*: it publishes by a multipart upload only, which any later
//!    session aborts before it publishes, and replaces the object.
//! 4. *A put or completion, afterwards*: the condition fails, or the upload is gone. On a server
//!    that ignores conditions all sessions are bound, and their uploads have been aborted.
//! 5. *A put or a seal, after the blob was deleted*: the name is vacant, so the object appears. It
//!    is listed as published, no record refers to it, and the janitor deletes it.
//! 6. *A deletion of notes*: the session has looked for newer claims after its parts had arrived. A
//!    session that claims later finds these parts.

mod bucket;
mod claims;
mod config;
mod errors;
mod listing;
mod names;
mod published;
mod reading;
mod server;
mod session;
mod shared;
mod snapshot;
mod tail;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use domain::blob_store::{BlobEntry, BlobError, BlobState, BlobStream, Growth};
use domain::{Blob, BlobKey, BlobStore, StagedBlob};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use self::bucket::Bucket;
use self::claims::Claim;
use self::config::Limits;
pub use self::config::{Ability, Checksums, Config, Secret};
use self::errors::{failed, failed_to, other};
use self::names::{Names, Rank};
use self::published::{Links, PublishedObject};
use self::server::Abilities;
use self::session::Session;
use self::shared::Shared;
use self::tail::Kept;
use crate::error::OpenError;

/// Store in a bucket. The module describes its layout and its guarantees.
#[derive(Debug)]
pub struct S3Store {
    shared: Arc<Shared>,
}

impl S3Store {
    /// Opens the store: connects, and tries what the server can do.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(config: &Config) -> Result<Self, OpenError> {
        config.check()?;
        Self::connect(config, Limits::default()).await
    }

    /// Opens the store with limits other than those of S3, for tests.
    async fn connect(config: &Config, limits: Limits) -> Result<Self, OpenError> {
        let client = server::client(config, limits.first_pause).await;
        let links = Links::new(&client, config);
        let bucket = Bucket::new(client, config);
        let names = Names::new(&config.prefix);
        let abilities = Abilities::find_out(&bucket, &names, config).await;
        let abilities = abilities.map_err(|error| server::unusable(&config.bucket, error))?;
        let shared = Shared::new(bucket, abilities, names, links, config, limits);
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Returns the number of requests that were sent since the store was opened, by the name of the
    /// operation. Repeated attempts count.
    pub fn requests(&self) -> BTreeMap<&'static str, u64> {
        self.shared.bucket.requests()
    }

    /// Runs `work` under a claim, after that of earlier claims on the key. It runs to its end even
    /// if the caller is dropped.
    async fn work<T, F>(
        &self,
        claim: Arc<Claim>,
        work: impl FnOnce(Arc<Shared>, Arc<Claim>) -> F + Send + 'static,
    ) -> Result<T, BlobError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, BlobError>> + Send,
    {
        let (shared, key) = (Arc::clone(&self.shared), claim.key().clone());
        let working = tokio::spawn(async move {
            let _begun = claim.begin().await?;
            work(shared, Arc::clone(&claim)).await
        });
        working
            .await
            .unwrap_or_else(|error| Err(failed(&key, "change", other(error))))
    }

    /// Makes the parts of a staged blob an object that can be read.
    async fn settle(&self, key: &BlobKey) -> Result<(), BlobError> {
        self.work(self.shared.claims.take(key), |shared, claim| async move {
            let key = claim.key();
            let snapshot = shared.inspect(key, None, u64::MAX).await?;
            let newest = snapshot
                .notes
                .newest()
                .filter(|_| snapshot.vanished.is_none());
            let Some(newest) = newest else {
                return Err(BlobError::Missing { key: key.clone() });
            };
            let (rank, growth) = shared.successor(newest, snapshot.length());
            drop(snapshot);
            let session = Session::resume(&shared, &claim, rank, growth).await?;
            session.settle().await
        })
        .await
    }
}

#[async_trait]
impl BlobStore for S3Store {
    async fn stage(&self, key: &BlobKey, growth: Growth) -> Result<Box<dyn StagedBlob>, BlobError> {
        let claim = self.shared.claims.take_for(key, growth.epoch)?;
        let staged = self.work(claim, move |shared, claim| async move {
            let rank = Rank {
                epoch: growth.epoch,
                session: claim.number(),
            };
            shared.heads.forget(claim.key());
            // Nobody else can know a key that is given to its first writer.
            let is_new = growth.epoch == 1 && growth.offset == 0 && claim.is_first();
            if is_new && shared.abilities.conditional_writes {
                claim.register(rank);
                return Ok(Session::fresh(shared, claim, rank, growth));
            }
            Session::resume(&shared, &claim, rank, growth).await
        });
        Ok(Box::new(staged.await?))
    }

    async fn read_staged(&self, key: &BlobKey, range: Range<u64>) -> Result<BlobStream, BlobError> {
        let missing = || BlobError::Missing { key: key.clone() };
        let snapshot = self.shared.inspect(key, None, range.end).await?;
        if snapshot.notes.is_empty() || snapshot.length() < range.end {
            return Err(missing());
        }
        let solid = snapshot.solid();
        let is_readable = solid == snapshot.base || range.start >= solid;
        let snapshot = match is_readable {
            true => snapshot,
            false => {
                self.settle(key).await?;
                self.shared.inspect(key, None, range.end).await?
            }
        };
        let base = snapshot.base.clamp(range.start, range.end.max(range.start));
        let pieces = snapshot.pieces(base, range.end).ok_or_else(missing)?;
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
            .map(|(kept, range)| Ok(self.shared.read_kept(key, &kept, range)))
            .collect();
        Ok(stream::iter(streams).try_flatten().boxed())
    }

    async fn publish(&self, key: &BlobKey, size: u64) -> Result<(), BlobError> {
        self.work(
            self.shared.claims.take(key),
            move |shared, claim| async move {
                let key = claim.key();
                let missing = || BlobError::Missing { key: key.clone() };
                let snapshot = shared.inspect(key, None, size).await?;
                let Some(newest) = snapshot.notes.newest() else {
                    return match snapshot.object {
                        Some(object) if object.size == size => Ok(()),
                        Some(_) | None => Err(missing()),
                    };
                };
                if snapshot.length() != size {
                    return Err(missing());
                }
                if snapshot.is_published_later() {
                    return Ok(());
                }
                let (rank, growth) = shared.successor(newest, size);
                let mut session = Session::resume(&shared, &claim, rank, growth).await?;
                session.publish_all().await.map(drop)
            },
        )
        .await
    }

    async fn discard(&self, key: &BlobKey) -> Result<(), BlobError> {
        self.work(self.shared.claims.take(key), |shared, claim| async move {
            let key = claim.key();
            let discarding = |error| failed(key, "discard", error);
            let uploads = shared.uploads_to(key).await?;
            shared.abort_uploads(key, &uploads).await?;
            shared.abort_large_parts(key).await.map_err(discarding)?;
            let staged = shared.names.staged(key);
            let listed = shared.bucket.list_all(&staged).await.map_err(discarding)?;
            if !listed.is_empty() {
                shared.heads.forget(key);
                let blob = [shared.names.published(key), shared.names.sealed(key)];
                shared.bucket.delete(&blob).await.map_err(discarding)?;
                // Last, so that the blob stays listed if this process crashes before.
                let notes: Vec<String> = listed.into_iter().map(|listed| listed.name).collect();
                shared.bucket.delete(&notes).await.map_err(discarding)?;
            }
            claim.set_grows(false);
            Ok(())
        })
        .await
    }

    async fn open(&self, key: &BlobKey, size: u64) -> Result<Arc<dyn Blob>, BlobError> {
        let missing = || BlobError::Missing { key: key.clone() };
        if self.shared.claims.grows(key) {
            // It grew in this process. Another one may have written it since.
            let snapshot = self.shared.inspect(key, None, 0).await?;
            if !snapshot.is_published {
                return Err(missing());
            }
            self.shared.claims.set_published(key);
        }
        let name = self.shared.names.published(key);
        // A remembered object of another size was there before the blob was published.
        let known = self.shared.heads.find(key);
        let object = match known.filter(|object| object.size == size) {
            Some(object) => object,
            None => {
                let found = self.shared.bucket.head(&name).await;
                let found = found.map_err(|error| failed(key, "open", error))?;
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
            source: self.shared.source(key, name, Some(object.etag)),
            size,
            read_size: self.shared.read_size,
            blocks: Arc::clone(&self.shared.blocks),
            links: self.shared.links.clone(),
        }))
    }

    async fn delete(&self, key: &BlobKey) -> Result<(), BlobError> {
        let deleting = |error| failed(key, "delete", error);
        self.shared.heads.forget(key);
        let snapshot = self.shared.inspect(key, None, 0).await?;
        let blob = [
            self.shared.names.published(key),
            self.shared.names.sealed(key),
        ];
        if snapshot.notes.is_empty() || snapshot.is_published {
            self.shared.bucket.delete(&blob).await.map_err(deleting)?;
            let notes: Vec<String> = snapshot
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
        listed.map_err(|error| failed_to("list blobs", error))
    }

    async fn check(&self) -> Result<(), BlobError> {
        let probed = self.shared.probe().await;
        probed.map_err(|error| failed_to("write to the bucket", error))
    }
}
