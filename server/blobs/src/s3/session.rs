//! Sessions: a staged blob while one writer appends to it.
//!
//! Bytes gather in memory until they fill a part, which is sent while the next one gathers
//! (`parts`). A sync waits for all parts, and puts the bytes behind them into a *piece*, a note
//! with content. A blob that fits into one part is put with one request in the end (`publishing`).
//! A session that follows another one takes over what that left (`resuming`).

mod parts;
mod publishing;
mod resuming;

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use domain::blob_store::{BlobError, Growth};
use domain::{BlobKey, StagedBlob};
use futures::StreamExt as _;
use tokio::task::JoinSet;

use super::bucket::{Object, Part};
use super::claims::Claim;
use super::errors::{S3Error, failed, other};
use super::names::{Extent, Kind, Note, Rank, State, Tag, Upload};
use super::shared::Shared;
use super::tail::{Kept, Tail};

/// Factor by which parts become larger when there would be too many. It divides the maximum number
/// of parts, so that the bytes in full parts fill larger parts, too.
const PART_GROWTH: u64 = 8;
/// Maximum number of pieces of a tail. Beyond it, the next sync writes the tail as one piece.
const MAX_PIECES: usize = 16;
/// Number of superseded notes from which on they are deleted.
const WORTH_DELETING: usize = 32;

/// Staged blob that is open for writing.
#[derive(Debug)]
pub(super) struct Session {
    shared: Arc<Shared>,
    claim: Arc<Claim>,
    author: Author,
    plan: Plan,
    target: Target,
    multipart: Multipart,
    tail: Tail,
    journal: Journal,
    /// Set while an operation runs, and for good if it fails or is dropped.
    is_broken: bool,
}

/// Identity of a session, which is in the name or metadata of all that it leaves on the server.
#[derive(Debug)]
struct Author {
    rank: Rank,
    /// Counts the objects, notes and multipart uploads of the session.
    nth: u64,
}

/// Division of the blob into parts.
#[derive(Debug)]
struct Plan {
    /// Offset at which the session began.
    begin: u64,
    /// Size of the complete blob, if known.
    expected: Option<u64>,
    /// Size of all parts but the last, in bytes.
    part_size: u64,
}

/// Published name of the blob, as last seen.
#[derive(Debug, Default)]
struct Target {
    object: Option<Object>,
    /// Number of bytes of the object that the blob begins with.
    base: u64,
    /// Set if the session publishes by its multipart upload only (`resuming`).
    is_bound: bool,
}

/// Multipart upload to the published name.
#[derive(Debug, Default)]
struct Multipart {
    upload: Option<Upload>,
    /// Parts that the server has acknowledged, by number.
    arrived: BTreeMap<u32, Part>,
    /// Requests under way.
    sending: JoinSet<Result<Part, S3Error>>,
}

/// Notes on the blob, of this session and of earlier ones.
#[derive(Debug, Default)]
struct Journal {
    /// Set if there may be notes on the blob.
    has_notes: bool,
    /// Note of this session with the present state.
    current: Option<Note>,
    /// Notes whose bytes have been sent in parts, too.
    covered: Vec<Note>,
    /// Notes of earlier sessions.
    inherited: Vec<Note>,
}

/// Outcome of an attempt to put an object at the published name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placed {
    /// The object is in its place.
    There,
    /// It is not: another session ended the upload, or put another object there.
    Gone,
}

impl Author {
    fn next(&mut self) -> u64 {
        self.nth += 1;
        self.nth
    }

    /// Returns the tag of the next object or multipart upload.
    fn next_tag(&mut self) -> Tag {
        Tag {
            rank: self.rank,
            nth: self.next(),
        }
    }
}

impl Multipart {
    /// Returns `true` if no part was sent, neither by this session nor by those before.
    fn is_empty(&self) -> bool {
        self.sending.is_empty() && self.arrived.is_empty()
    }
}

impl Journal {
    /// Records that the bytes of a tail are in parts.
    fn cover(&mut self, kept: Vec<Kept>) {
        self.covered.extend(kept.iter().filter_map(Kept::note));
    }
}

impl Session {
    /// Returns the session of a blob of which the server has nothing.
    pub(super) fn fresh(
        shared: Arc<Shared>,
        claim: Arc<Claim>,
        rank: Rank,
        growth: Growth,
    ) -> Self {
        let part_size = shared.part_size(growth.length);
        Self {
            shared,
            claim,
            author: Author { rank, nth: 0 },
            plan: Plan {
                begin: 0,
                expected: growth.length,
                part_size,
            },
            target: Target::default(),
            multipart: Multipart::default(),
            tail: Tail::new(0, Vec::new(), 0),
            journal: Journal::default(),
            is_broken: false,
        }
    }

    fn key(&self) -> &BlobKey {
        self.claim.key()
    }

    fn published(&self) -> String {
        self.shared.names.published(self.key())
    }

    fn failed(&self, error: S3Error) -> BlobError {
        match error {
            // Only newer writers remove an object or an upload that a session works with.
            S3Error::NoObject => failed(self.key(), "write to", S3Error::Changed),
            error => failed(self.key(), "write to", error),
        }
    }

    /// Returns the error for an object that has fewer bytes than the server acknowledged.
    fn contradicted(&self) -> BlobError {
        BlobError::Inconsistent {
            key: self.key().clone(),
            reason: "the S3 server has less of an object than it acknowledged; make sure that nothing else writes or deletes below blobs.prefix".to_owned(),
        }
    }

    /// Returns the end of the present part.
    fn part_end(&self) -> u64 {
        self.tail.start + self.plan.part_size
    }

    async fn append(&mut self, mut bytes: Bytes) -> Result<(), BlobError> {
        while !bytes.is_empty() {
            if self.tail.end() == self.part_end() {
                self.send_part().await?;
            }
            let room = usize::try_from(self.part_end() - self.tail.end()).unwrap_or(usize::MAX);
            let chunk = bytes.split_to(room.min(bytes.len()));
            let max_gathered = self.plan.part_size.min(self.shared.limits.max_gathered);
            let capacity = match self.plan.expected {
                Some(expected) => expected.saturating_sub(self.tail.end()).min(max_gathered),
                None => 0,
            };
            let gathered = (self.tail.held().1.len() + chunk.len()) as u64;
            if gathered > max_gathered
                || !self.tail.try_append(&self.shared.memory, &chunk, capacity)
            {
                self.spill().await?;
                let room = self.shared.memory.room(chunk.len()).await;
                self.tail.append_in(room, &chunk, capacity);
            }
        }
        Ok(())
    }

    /// Makes the tail durable and frees its memory.
    async fn spill(&mut self) -> Result<(), BlobError> {
        if !self.tail.is_synced() {
            self.leave_note(Kind::Piece).await?;
        }
        self.tail.free();
        Ok(())
    }

    /// Reads the bytes of the tail that are on the server only back into memory.
    async fn gather(&mut self) -> Result<(), BlobError> {
        if self.tail.is_held() {
            return Ok(());
        }
        let size = usize::try_from(self.tail.len()).map_err(|error| self.failed(other(error)))?;
        let room = match self.tail.try_widen(&self.shared.memory) {
            Some(room) => room,
            None => {
                self.spill().await?;
                self.shared.memory.room(size).await
            }
        };
        let mut bytes = BytesMut::with_capacity(size);
        let (held_from, _) = self.tail.held();
        for kept in self.tail.kept.clone() {
            let (from, to) = kept.range();
            let to = to.min(held_from);
            if from >= to {
                break;
            }
            let mut stream = self.shared.read_kept(self.key(), &kept, from..to);
            while let Some(chunk) = stream.next().await {
                bytes.extend_from_slice(&chunk?);
            }
        }
        bytes.extend_from_slice(self.tail.held().1);
        if bytes.len() != size {
            return Err(self.contradicted());
        }
        self.tail.hold(bytes, room);
        Ok(())
    }

    /// Puts a note with the bytes that are in memory only, and with the present state.
    async fn leave_note(&mut self, kind: Kind) -> Result<(), BlobError> {
        self.claim.check()?;
        let (held, unsynced) = self.tail.lend();
        let note = Note {
            rank: self.author.rank,
            nth: self.author.next(),
            begin: self.plan.begin,
            from: self.tail.synced,
            to: self.tail.synced + (held.len() - unsynced) as u64,
            kind,
        };
        let left = self.put_note(note, held.slice(unsynced..)).await;
        self.tail.give_back(held);
        left?;
        self.tail.keep(Extent {
            note,
            from: note.from,
            to: note.to,
        });
        Ok(())
    }

    async fn put_note(&mut self, note: Note, bytes: Bytes) -> Result<(), BlobError> {
        let state = State {
            part_size: self.plan.part_size,
            base: self.target.base,
            upload: self.multipart.upload.clone(),
        };
        self.journal.has_notes = true;
        self.claim.set_grows(true);
        self.shared
            .put_note(self.key(), &note, bytes, state.to_metadata())
            .await
            .map_err(|error| self.failed(error))?;
        self.journal.current = Some(note);
        Ok(())
    }

    async fn sync_all(&mut self, kind: Kind) -> Result<u64, BlobError> {
        if self.tail.len() == self.plan.part_size {
            self.send_part().await?;
        }
        if self.tail.kept.len() >= MAX_PIECES && !self.tail.is_synced() && !self.is_large() {
            self.rewrite_tail().await?;
        }
        if !self.tail.is_synced() || self.journal.current.is_none() || kind == Kind::Close {
            if kind == Kind::Close {
                // The note says that no request is under way any more.
                self.all_arrive().await?;
            }
            self.leave_note(kind).await?;
        }
        self.all_arrive().await?;
        if self.shared.memory.is_short() {
            self.tail.free();
        }
        Ok(self.tail.end())
    }

    /// Prepares the tail for the next note to hold all of it.
    async fn rewrite_tail(&mut self) -> Result<(), BlobError> {
        self.gather().await?;
        let kept = mem::take(&mut self.tail.kept);
        self.journal.cover(kept);
        self.tail.synced = self.tail.start;
        Ok(())
    }

    /// Deletes notes that nobody needs any more, if there are many.
    ///
    /// A newer session may rely on them, but has put a claim first. If there is no claim after the
    /// parts that cover the notes have arrived, later sessions find the parts.
    async fn clean_up(&mut self) -> Result<(), BlobError> {
        let has_own_tail = self.tail.kept.iter().all(|kept| match kept {
            Kept::Base { .. } => true,
            Kept::Piece(piece) => piece.note.rank == self.author.rank,
        });
        let inherited = match has_own_tail {
            true => self.journal.inherited.len(),
            false => 0,
        };
        if self.journal.covered.len() + inherited < WORTH_DELETING || self.journal.current.is_none()
        {
            return Ok(());
        }
        let left = self.shared.notes(self.key()).await?;
        if left
            .newest()
            .is_some_and(|newest| newest > self.author.rank)
        {
            return Err(self.claim.superseded());
        }
        let mut notes = mem::take(&mut self.journal.covered);
        if has_own_tail {
            notes.append(&mut self.journal.inherited);
        }
        let names: Vec<String> = notes
            .iter()
            .filter(|note| Some(**note) != self.journal.current)
            .map(|note| self.shared.names.note(self.key(), note))
            .collect();
        let deleted = self.shared.bucket.delete(&names).await;
        deleted.map_err(|error| self.failed(error))
    }

    /// Makes all parts the base, and leaves the blob to the next writer.
    pub(super) async fn settle(mut self) -> Result<(), BlobError> {
        let end = self.tail.start;
        if self.multipart.upload.is_some() && !self.multipart.is_empty() {
            self.complete(end).await?;
            self.target.base = end;
        }
        self.leave_note(Kind::Close).await
    }

    /// Begins an operation. If it fails or is dropped halfway, later ones are refused.
    fn enter(&mut self) -> Result<(), BlobError> {
        if mem::replace(&mut self.is_broken, true) {
            return Err(self.failed(other("an earlier operation failed or was cancelled")));
        }
        self.claim.check()
    }
}

#[async_trait]
impl StagedBlob for Session {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        self.enter()?;
        self.append(bytes).await?;
        self.is_broken = false;
        Ok(())
    }

    async fn sync(&mut self) -> Result<u64, BlobError> {
        self.enter()?;
        let length = self.sync_all(Kind::Piece).await?;
        self.clean_up().await?;
        self.is_broken = false;
        Ok(length)
    }

    async fn close(mut self: Box<Self>) -> Result<u64, BlobError> {
        self.enter()?;
        self.sync_all(Kind::Close).await
    }

    async fn publish(mut self: Box<Self>) -> Result<u64, BlobError> {
        self.enter()?;
        let publishing = tokio::spawn(async move {
            let claim = Arc::clone(&self.claim);
            let _work = claim.begin().await?;
            self.publish_all().await
        });
        publishing.await.unwrap_or_else(|error| {
            Err(BlobError::Failed {
                doing: "publish a blob".to_owned(),
                source: Box::new(error),
            })
        })
    }
}
