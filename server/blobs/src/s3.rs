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
//! Each writer is a *session*. Its *rank* is the epoch of the upload, then a number that its process
//! issued; the rank is in the name or metadata of all that the session leaves in the bucket.
//!
//! 1. `stage` opens a session. The first one of a key (epoch 1, offset 0, key new to the process)
//!    sends no request; all others take the blob over, as below. So do all if the server ignores
//!    conditions.
//! 2. Bytes gather in memory: the *tail*, which begins where the last full part ends. If memory is
//!    short, the session puts the tail as a *piece* (step 4), frees its memory, and waits for room:
//!    the client feels that as back-pressure.
//! 3. When a part is full, it is sent to a multipart upload to the published name, while the next one
//!    gathers. All parts but the last have one size (Cloudflare R2 takes no others). When the numbers
//!    of parts are used up, the parts become an object, the *base* of an upload with larger parts.
//! 4. `sync` puts the bytes of the tail that are in memory only as a piece: a note whose name has
//!    rank, beginning of the session and range of bytes, and whose metadata has part size, base
//!    and upload id. It returns when the server has acknowledged the note and all parts; so the
//!    returned length is durable. `close` does the same, the note last, which then says that nothing
//!    more comes of the session.
//! 5. `publish` makes the object. If all bytes are in the tail, one `PutObject`; else the tail becomes
//!    the last part, full parts of a base are copied by the server, and the upload is completed.
//!    Either on condition that the name is vacant (`If-None-Match`) or holds the object last seen
//!    (`If-Match`). If the answer is lost, the object tells: its tag names its maker.
//! 6. If the object was made by a lower epoch, a seal names the publisher. Then the notes are
//!    deleted, unless a newer session has left one.
//!
//! # Through a crash
//!
//! The bucket keeps the acknowledged parts and notes, and a part under way may still arrive. The
//! next session has a higher rank, and the offset that was recorded after a sync.
//!
//! 1. It puts a *claim* that names this offset. From there on, bytes of lower ranks do not count,
//!    whenever they were or will be written.
//! 2. It inspects the blob: notes, newest state, object, parts. If it finds fewer bytes than the
//!    offset because the upload has vanished, it waits up to a minute for the object that the upload
//!    becomes. Still too few: the claim is withdrawn, and the error is `Missing` if the server denies
//!    upload and object, else `Inconsistent`; nothing is deleted.
//! 3. The last session was closed: its upload is continued, and nothing is copied later. (With an
//!    object at the published name already, only after all other uploads to it are aborted.)
//! 4. It was not: the upload is *fenced*. With full parts behind the base it is completed to a new
//!    base, else aborted; either way it takes no more parts. The session begins an upload of its own,
//!    lists all others, inspects again, and aborts those that it listed. Bytes of the base behind the
//!    last full part, and those in pieces, are the tail.
//! 5. A crash while publishing: the object is either in place, and publishing again only deletes the
//!    notes; or not, and the parts and notes are still there. A crash that nobody resumes leaves
//!    notes and uploads to the janitor, which lists and discards them.
//!
//! # Through a take-over
//!
//! A new session takes a blob over while the old one is alive: steps 1 to 4 above, and for the others:
//!
//! 1. In the same process, the old claim (`claims`) is invalid at once, its operations fail at their
//!    next step, and the new session waits for a publication that has begun. If the old session never
//!    announced a part, nothing is fenced for it.
//! 2. In another process, the old session goes on until it meets the claim or the end of its upload:
//!    a part fails with `NoSuchUpload`; a note of it counts below the offset of the claim only;
//!    publishing fails at the upload or the condition, or when deleting the notes.
//! 3. Two sessions that take over at once have both put their claims before they inspect: the one
//!    that inspects last sees the other. A lower rank that sees a higher one fails. A higher rank that
//!    sees a lower one fences it; if it does not see it, the lower one sees the higher.
//!
//! # Through a late writer
//!
//! A node is paused before a request or after it, others take over, and then the request arrives:
//!
//! 1. *A part*: its upload has been completed or aborted, and the server refuses. A number of one
//!    upload is only ever sent with one content, so repeating does no harm.
//! 2. *A note*: beyond the newer claim its bytes do not count. Beside a published blob it is rubbish,
//!    which the janitor discards.
//! 3. *A put or completion, before the new session publishes*: the object is there, with the tag of a
//!    lower rank. The condition of the new session fails, or it saw the object when it took over. It
//!    is then *bound*: it publishes by a multipart upload only, which a later session aborts, and so
//!    replaces the object at most until it is superseded itself.
//! 4. *A put or completion, after it*: the condition fails, and an aborted upload cannot be completed.
//!    A server that ignores conditions has only bound sessions, hence only aborted uploads.
//! 5. *A put, after the blob was deleted*: the name is vacant, so the object appears; it belongs to
//!    no file, and the janitor deletes it.
//! 6. *A deletion of notes*: the session has looked for newer claims after its parts had arrived. A
//!    session that claims later finds those parts.

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
use crate::OpenError;

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

    /// Runs `work` under a claim, after that of earlier claims on the key. It runs to its end even if
    /// the caller is dropped.
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
                // Last, so that what a crash leaves is listed.
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
            // It did so here. Whoever wrote it last may have done that elsewhere.
            let snapshot = self.shared.inspect(key, None, 0).await?;
            if !snapshot.is_published {
                return Err(missing());
            }
            self.shared.claims.set_published(key);
        }
        let name = self.shared.names.published(key);
        // One of another size was there before it was published for good.
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
