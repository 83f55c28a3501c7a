//! The bytes of a staged blob that are not in a part yet: on the server in pieces, in memory, or both.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::names::{Extent, Note};

/// Where bytes of a tail are kept durably.
#[derive(Debug, Clone)]
pub(super) enum Kept {
    /// In the object that is the blob's base.
    Base { from: u64, to: u64 },
    /// In a note.
    Piece(Extent),
}

impl Kept {
    /// Returns the beginning and the end of the bytes in the blob.
    pub(super) fn range(&self) -> (u64, u64) {
        match self {
            Self::Base { from, to } => (*from, *to),
            Self::Piece(piece) => (piece.from, piece.to),
        }
    }

    /// Returns the note that holds the bytes, if they are in one.
    pub(super) fn note(&self) -> Option<Note> {
        match self {
            Self::Base { .. } => None,
            Self::Piece(piece) => Some(piece.note),
        }
    }
}

/// The bytes from where the next part begins.
#[derive(Debug)]
pub(super) struct Tail {
    /// Where the next part begins in the blob.
    pub(super) start: u64,
    /// What is durable, in order, from `start` to `synced`.
    pub(super) kept: Vec<Kept>,
    pub(super) synced: u64,
    /// The last bytes, from `held_from <= synced` on.
    held: BytesMut,
    held_from: u64,
    room: Room,
}

impl Tail {
    /// A tail of which nothing is in memory.
    pub(super) fn new(start: u64, kept: Vec<Kept>, end: u64) -> Self {
        Self {
            start,
            kept,
            synced: end,
            held: BytesMut::new(),
            held_from: end,
            room: Room::default(),
        }
    }

    /// Where it ends in the blob.
    pub(super) fn end(&self) -> u64 {
        self.held_from + self.held.len() as u64
    }

    /// In bytes.
    pub(super) fn len(&self) -> u64 {
        self.end() - self.start
    }

    /// Appends bytes, if there is room for them at this moment. `most` says how many bytes there may be in the end.
    pub(super) fn try_append(&mut self, memory: &Memory, bytes: &[u8], most: u64) -> bool {
        let size = self.held.len() + bytes.len();
        if !memory.try_widen(&mut self.room, size) {
            return false;
        }
        self.append(bytes, most);
        true
    }

    /// Appends bytes to a tail of which nothing is in memory, in room that is given.
    pub(super) fn append_in(&mut self, room: Room, bytes: &[u8], most: u64) {
        self.room = room;
        self.append(bytes, most);
    }

    fn append(&mut self, bytes: &[u8], most: u64) {
        if self.held.is_empty() {
            let most = usize::try_from(most).unwrap_or(0);
            self.held = BytesMut::with_capacity(most.max(bytes.len()));
        }
        self.held.extend_from_slice(bytes);
    }

    /// Whether there are bytes in memory only.
    pub(super) fn is_synced(&self) -> bool {
        self.synced == self.end()
    }

    /// Whether all of it is in memory.
    pub(super) fn is_held(&self) -> bool {
        self.held_from == self.start
    }

    /// Takes all that is in memory out of it for a while: the bytes that are in memory only are those from the index on.
    pub(super) fn lend(&mut self) -> (Bytes, usize) {
        let unsynced = usize::try_from(self.synced - self.held_from);
        let unsynced = unsynced.expect("what is held is short");
        (self.held.split().freeze(), unsynced)
    }

    /// Gives back what was lent.
    pub(super) fn give_back(&mut self, bytes: Bytes) {
        self.held = match bytes.try_into_mut() {
            Ok(bytes) => bytes,
            // The request may not have let go of them yet.
            Err(bytes) => BytesMut::from(&*bytes),
        };
    }

    /// Says that all of it is durable now, the last bytes by this piece.
    pub(super) fn keep(&mut self, piece: Extent) {
        self.synced = piece.to;
        if piece.from < piece.to {
            if piece.from == self.start {
                self.kept.clear();
            }
            self.kept.push(Kept::Piece(piece));
        }
    }

    /// Lets go of the memory; all of it is durable.
    pub(super) fn free(&mut self) {
        self.held_from = self.end();
        self.held = BytesMut::new();
        self.room = Room::default();
    }

    /// Takes bytes into memory, in the place of what is there: all of the tail.
    pub(super) fn hold(&mut self, bytes: BytesMut, room: Room) {
        self.held = bytes;
        self.held_from = self.start;
        self.room = room;
    }

    /// What is in memory, and from where on.
    pub(super) fn held(&self) -> (u64, &[u8]) {
        (self.held_from, &self.held)
    }

    /// Widens the room to hold all of the tail, if that is possible at this moment.
    pub(super) fn try_widen(&mut self, memory: &Memory) -> Option<Room> {
        let all = usize::try_from(self.len()).ok()?;
        memory
            .try_widen(&mut self.room, all)
            .then(|| std::mem::take(&mut self.room))
    }

    /// Takes all of it out of memory, where all of it is, with the room that it has, and what kept it; the next one begins behind it.
    pub(super) fn take(&mut self) -> (Bytes, Room, Vec<Kept>) {
        let end = self.end();
        let taken = (
            self.held.split().freeze(),
            std::mem::take(&mut self.room),
            std::mem::take(&mut self.kept),
        );
        *self = Self::new(end, Vec::new(), end);
        taken
    }
}

/// Room is given in pages of so many bytes.
const PAGE: usize = 4096;

/// The room there is.
#[derive(Debug)]
pub(super) struct Memory {
    pages: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// Room that somebody has.
#[derive(Debug, Default)]
pub(super) struct Room {
    permit: Option<OwnedSemaphorePermit>,
}

impl Memory {
    pub(super) fn new(bytes: u64) -> Self {
        let pages = usize::try_from(bytes).unwrap_or(usize::MAX) / PAGE;
        Self {
            pages: Arc::new(Semaphore::new(pages.min(Semaphore::MAX_PERMITS))),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Widens `room` to hold `bytes`, if there is room at this moment.
    pub(super) fn try_widen(&self, room: &mut Room, bytes: usize) -> bool {
        let more = pages(bytes).saturating_sub(room.pages());
        if more == 0 {
            return true;
        }
        let Ok(permit) = Arc::clone(&self.pages).try_acquire_many_owned(count(more)) else {
            return false;
        };
        room.add(permit);
        true
    }

    /// Waits for room for `bytes`, which is no more than there is at all.
    ///
    /// # Cancel safety
    /// May be dropped anywhere.
    pub(super) async fn room(&self, bytes: usize) -> Room {
        let _waiting = Waiting::new(&self.waiting);
        let permit = Arc::clone(&self.pages)
            .acquire_many_owned(count(pages(bytes)))
            .await
            .expect("it is never closed");
        Room {
            permit: Some(permit),
        }
    }

    /// Whether anybody waits.
    pub(super) fn is_short(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

impl Room {
    fn pages(&self) -> usize {
        self.permit
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits)
    }

    fn add(&mut self, permit: OwnedSemaphorePermit) {
        match &mut self.permit {
            Some(own) => own.merge(permit),
            None => self.permit = Some(permit),
        }
    }
}

/// Counts somebody who waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn pages(bytes: usize) -> usize {
    bytes.div_ceil(PAGE)
}

fn count(pages: usize) -> u32 {
    u32::try_from(pages).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use futures::future::poll_immediate;

    use super::*;

    #[tokio::test]
    async fn room_is_bounded_and_comes_back() {
        let memory = Memory::new(3 * PAGE as u64);
        let mut first = Room::default();
        assert!(memory.try_widen(&mut first, 1));
        assert!(memory.try_widen(&mut first, PAGE));
        assert!(memory.try_widen(&mut first, 2 * PAGE));
        assert!(!memory.try_widen(&mut first, 4 * PAGE));
        let waiting = memory.room(2 * PAGE);
        tokio::pin!(waiting);
        assert!(poll_immediate(&mut waiting).await.is_none());
        assert!(memory.is_short());
        drop(first);
        let second = waiting.await;
        assert!(!memory.is_short());
        assert_eq!(second.pages(), 2);
    }
}
