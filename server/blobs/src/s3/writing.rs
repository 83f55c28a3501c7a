//! Staged blobs, as they are written.
//!
//! Bytes gather in memory until there are enough for a part, which is sent while the next one gathers. A sync has all parts arrive, and
//! puts the bytes behind them into a *piece*, an object of its own. What is small enough is put in one request in the end, and
//! never sees a multipart upload.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use domain::blob_store::{BlobError, Growth};
use domain::{BlobKey, StagedBlob};
use futures::StreamExt as _;
use tokio::task::JoinSet;

use super::Shared;
use super::bucket::{Object, Part};
use super::failures::{Trouble, failed, other};
use super::keys::Turn;
use super::names::{Kind, Note, Rank, Tag};
use super::notes::{Extent, State, Upload};
use super::publishing::Placed;
use super::tail::{Kept, Tail};

/// How much larger parts become when there would be too many. It divides their greatest number, so that what is there stays whole parts.
pub(super) const GROWTH: u64 = 8;
/// The longest part that a server takes (Amazon S3, "Multipart upload limits").
const LARGEST_PART: u64 = 5 * 1024 * 1024 * 1024;
/// How many pieces a tail may have before they are written anew as one.
const MOST_PIECES: usize = 16;
/// How many pieces that are in parts by now are deleted at once.
const WORTH_DELETING: usize = 32;

/// A staged blob that is open for writing, and what is known of it on the server.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) turn: Arc<Turn>,
    pub(super) rank: Rank,
    /// Where it began.
    pub(super) begin: u64,
    /// The size that the blob will have, where that is known.
    pub(super) expected: Option<u64>,
    pub(super) part_size: u64,
    /// How many bytes of the object that lies where the blob is published belong to the blob.
    pub(super) base: u64,
    pub(super) object: Option<Object>,
    pub(super) upload: Option<Upload>,
    /// Whether it publishes by the multipart upload only: see `resuming`.
    pub(super) is_bound: bool,
    /// What has arrived, by number.
    pub(super) parts: BTreeMap<u32, Part>,
    pub(super) sending: JoinSet<Result<Part, Trouble>>,
    pub(super) tail: Tail,
    /// Counts what this session leaves on the server.
    pub(super) nth: u64,
    /// The note of this session that has the present state, if one does.
    pub(super) noted: Option<Note>,
    /// Whether there may be notes on the blob.
    pub(super) has_notes: bool,
    /// Notes of this and of earlier sessions whose bytes are in parts that were sent.
    pub(super) covered: Vec<Note>,
    /// Notes of earlier sessions.
    pub(super) inherited: Vec<Note>,
    /// Whether something failed, or was broken off halfway.
    pub(super) is_broken: bool,
}

impl Session {
    /// A blob of which nothing is on the server.
    pub(super) fn fresh(shared: Arc<Shared>, turn: Arc<Turn>, rank: Rank, growth: Growth) -> Self {
        let part_size = shared.part_size(growth.length);
        Self {
            shared,
            turn,
            rank,
            begin: 0,
            expected: growth.length,
            part_size,
            base: 0,
            object: None,
            upload: None,
            is_bound: false,
            parts: BTreeMap::new(),
            sending: JoinSet::new(),
            tail: Tail::new(0, Vec::new(), 0),
            nth: 0,
            noted: None,
            has_notes: false,
            covered: Vec::new(),
            inherited: Vec::new(),
            is_broken: false,
        }
    }

    pub(super) fn key(&self) -> &BlobKey {
        self.turn.key()
    }

    pub(super) fn published(&self) -> String {
        self.shared.names.published(self.key())
    }

    pub(super) fn failed(&self, trouble: Trouble) -> BlobError {
        match trouble {
            // The object or the upload that a writer works with goes away for newer writers only.
            Trouble::NoObject => failed(self.key(), "write to", Trouble::Changed),
            trouble => failed(self.key(), "write to", trouble),
        }
    }

    /// The error of who finds less of what was acknowledged than there should be.
    pub(super) fn contradicted(&self) -> BlobError {
        BlobError::Inconsistent {
            key: self.key().clone(),
            reason: "the S3 server has less of an object that it acknowledged; see that nothing else writes or deletes below blobs.prefix".to_owned(),
        }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.nth += 1;
        self.nth
    }

    /// Where the present part ends.
    fn part_end(&self) -> u64 {
        self.tail.start + self.part_size
    }

    async fn append(&mut self, mut bytes: Bytes) -> Result<(), BlobError> {
        while !bytes.is_empty() {
            if self.tail.end() == self.part_end() {
                self.send_part().await?;
            }
            let room = usize::try_from(self.part_end() - self.tail.end()).unwrap_or(usize::MAX);
            let chunk = bytes.split_to(room.min(bytes.len()));
            let most_gathered = self.part_size.min(self.shared.most_gathered);
            let most = match self.expected {
                Some(expected) => expected.saturating_sub(self.tail.end()).min(most_gathered),
                None => 0,
            };
            let gathered = (self.tail.held().1.len() + chunk.len()) as u64;
            if gathered > most_gathered || !self.tail.try_append(&self.shared.memory, &chunk, most)
            {
                self.spill().await?;
                let room = self.shared.memory.room(chunk.len()).await;
                self.tail.append_in(room, &chunk, most);
            }
        }
        Ok(())
    }

    /// Makes the tail durable and lets go of its memory.
    pub(super) async fn spill(&mut self) -> Result<(), BlobError> {
        if !self.tail.is_synced() {
            self.leave_note(Kind::Piece).await?;
        }
        self.tail.let_go();
        Ok(())
    }

    /// Has all of the tail in memory.
    pub(super) async fn gather(&mut self) -> Result<(), BlobError> {
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
            let mut stream = self.shared.kept(self.key(), &kept, from..to);
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

    /// Sends the tail as a part: it is as long as a part, or the last.
    pub(super) async fn send_part(&mut self) -> Result<(), BlobError> {
        if self.tail.start / self.part_size >= self.shared.most_parts {
            self.grow_parts().await?;
            return Ok(());
        }
        let number = u32::try_from(self.tail.start / self.part_size + 1);
        let number = number.map_err(|error| self.failed(other(error)))?;
        if self.is_large() {
            return self.send_large_part(number).await;
        }
        self.gather().await?;
        let upload = self.begin_upload().await?;
        while self.sending.len() >= self.shared.parts_in_flight {
            self.one_arrives().await?;
        }
        self.turn.sends()?;
        let (bytes, room, kept) = self.tail.take();
        self.covered.extend(kept.into_iter().filter_map(note_of));
        let (shared, published) = (Arc::clone(&self.shared), self.published());
        self.sending.spawn(async move {
            let sent = shared
                .bucket
                .upload_part(&published, &upload, number, bytes)
                .await;
            drop(room);
            sent
        });
        Ok(())
    }

    /// The multipart upload, which is begun if there is none.
    pub(super) async fn begin_upload(&mut self) -> Result<String, BlobError> {
        if let Some(upload) = &self.upload {
            return Ok(upload.id.clone());
        }
        self.turn.check()?;
        let tag = Tag {
            rank: self.rank,
            nth: self.next(),
        };
        let published = self.published();
        let begun = self.shared.bucket.create_upload(&published, tag);
        let id = begun.await.map_err(|trouble| self.failed(trouble))?;
        self.upload = Some(Upload {
            id: id.clone(),
            tag,
        });
        self.noted = None;
        Ok(id)
    }

    /// Waits for one part to arrive.
    async fn one_arrives(&mut self) -> Result<(), BlobError> {
        let part = match self.sending.join_next().await {
            None => return Ok(()),
            Some(Ok(part)) => part,
            Some(Err(error)) => Err(other(error)),
        };
        let part = part.map_err(|trouble| self.failed(trouble))?;
        self.parts.insert(part.number, part);
        Ok(())
    }

    /// Waits for all parts to arrive.
    pub(super) async fn all_arrive(&mut self) -> Result<(), BlobError> {
        while !self.sending.is_empty() {
            self.one_arrives().await?;
        }
        Ok(())
    }

    /// Leaves a note with the bytes that are in memory only, and with the present state.
    async fn leave_note(&mut self, kind: Kind) -> Result<(), BlobError> {
        self.turn.check()?;
        let (held, unsynced) = self.tail.lend();
        let note = Note {
            rank: self.rank,
            nth: self.next(),
            begin: self.begin,
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
            part_size: self.part_size,
            base: self.base,
            upload: self.upload.clone(),
        };
        self.has_notes = true;
        self.turn.set_grows(true);
        self.shared
            .leave_note(self.key(), &note, bytes, state.to_metadata())
            .await
            .map_err(|trouble| self.failed(trouble))?;
        self.noted = Some(note);
        Ok(())
    }

    async fn sync_all(&mut self, kind: Kind) -> Result<u64, BlobError> {
        if self.tail.len() == self.part_size {
            self.send_part().await?;
        }
        if self.tail.kept.len() >= MOST_PIECES && !self.tail.is_synced() && !self.is_large() {
            self.rewrite_tail().await?;
        }
        if !self.tail.is_synced() || self.noted.is_none() || kind == Kind::Close {
            if kind == Kind::Close {
                // The note says that nothing is under way any more.
                self.all_arrive().await?;
            }
            self.leave_note(kind).await?;
        }
        self.all_arrive().await?;
        if self.shared.memory.is_short() {
            self.tail.let_go();
        }
        Ok(self.tail.end())
    }

    /// Has the next note hold all of the tail.
    async fn rewrite_tail(&mut self) -> Result<(), BlobError> {
        self.gather().await?;
        let kept = mem::take(&mut self.tail.kept);
        self.covered.extend(kept.into_iter().filter_map(note_of));
        self.tail.synced = self.tail.start;
        Ok(())
    }

    /// Deletes pieces that nobody needs any more, if there are many.
    ///
    /// A newer session, which may rely on them, has begun with a claim. If there is none after the parts that cover the pieces have
    /// arrived, then whoever comes later finds the parts.
    async fn clean_up(&mut self) -> Result<(), BlobError> {
        let has_own_tail = self.tail.kept.iter().all(|kept| match kept {
            Kept::Base { .. } => true,
            Kept::Piece(piece) => piece.note.rank == self.rank,
        });
        let inherited = match has_own_tail {
            true => self.inherited.len(),
            false => 0,
        };
        if self.covered.len() + inherited < WORTH_DELETING || self.noted.is_none() {
            return Ok(());
        }
        let left = self.shared.notes(self.key()).await?;
        if left.newest().is_some_and(|newest| newest > self.rank) {
            return Err(self.turn.overtaken());
        }
        let mut notes = mem::take(&mut self.covered);
        if has_own_tail {
            notes.append(&mut self.inherited);
        }
        let names: Vec<String> = notes
            .iter()
            .filter(|note| Some(**note) != self.noted)
            .map(|note| self.shared.names.note(self.key(), note))
            .collect();
        let deleted = self.shared.bucket.delete(&names).await;
        deleted.map_err(|trouble| self.failed(trouble))
    }

    /// Makes what there is the base of an upload with larger parts.
    async fn grow_parts(&mut self) -> Result<(), BlobError> {
        self.all_arrive().await?;
        let size = self.tail.start;
        if self.complete(size).await? == Placed::Gone {
            return Err(self.turn.overtaken());
        }
        self.base = size;
        self.part_size *= GROWTH;
        if self.part_size > LARGEST_PART {
            return Err(self.failed(other("no object can be that long")));
        }
        // Who looked before does not know of the next multipart upload, and so will not abort it.
        self.bind().await
    }

    pub(super) async fn look_at_published(&self) -> Result<Option<Object>, BlobError> {
        let found = self.shared.bucket.head(&self.published()).await;
        let found = found.map_err(|trouble| self.failed(trouble))?;
        Ok(found.map(|(object, _)| object))
    }

    /// Has all parts become the base, and leaves the blob to the next writer.
    pub(super) async fn settle(mut self) -> Result<(), BlobError> {
        let end = self.tail.start;
        if self.upload.is_some() && !self.nothing_is_sent() {
            self.complete(end).await?;
            self.base = end;
        }
        self.leave_note(Kind::Close).await
    }

    /// Runs one operation, after which, if it fails or is dropped halfway, there is none.
    fn enter(&mut self) -> Result<(), BlobError> {
        if mem::replace(&mut self.is_broken, true) {
            return Err(self.failed(other("an earlier operation failed or was broken off")));
        }
        self.turn.check()
    }
}

pub(super) fn note_of(kept: Kept) -> Option<Note> {
    match kept {
        Kept::Base { .. } => None,
        Kept::Piece(piece) => Some(piece.note),
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
            let turn = Arc::clone(&self.turn);
            let _work = turn.begin().await?;
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
