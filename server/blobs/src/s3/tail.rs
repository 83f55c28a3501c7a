//! Tail of a staged blob: the bytes that are in no part yet, on the server in pieces, in memory, or
//! both.
//!
//! All writers share the memory fairly. A writer makes its bytes durable and frees its memory
//! before it waits for room, so nobody waits while holding room that others need. Hence every wait
//! ends, and the client feels it as back-pressure.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::names::{Extent, Note};

/// Durable copy of bytes of a tail.
#[derive(Debug, Clone)]
pub(super) enum Kept {
    /// In the object that is the base of the blob.
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

/// Bytes from the beginning of the next part on.
#[derive(Debug)]
pub(super) struct Tail {
    /// Offset of the next part in the blob.
    pub(super) start: u64,
    /// Durable copies, in order, from `start` to `synced`.
    pub(super) kept: Vec<Kept>,
    pub(super) synced: u64,
    /// Last bytes, from `held_from <= synced` on.
    held: BytesMut,
    held_from: u64,
    room: Room,
}

impl Tail {
    /// Returns a tail without bytes in memory.
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

    /// Returns the offset of its end in the blob.
    pub(super) fn end(&self) -> u64 {
        self.held_from + self.held.len() as u64
    }

    /// Returns the length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.end() - self.start
    }

    /// Appends bytes, if there is room for them at this moment. `capacity` is the number of bytes
    /// to allocate memory for.
    pub(super) fn try_append(&mut self, memory: &Memory, bytes: &[u8], capacity: u64) -> bool {
        let size = self.held.len() + bytes.len();
        if !memory.try_widen(&mut self.room, size) {
            return false;
        }
        self.append(bytes, capacity);
        true
    }

    /// Appends bytes to a tail without bytes in memory, in the given room.
    pub(super) fn append_in(&mut self, room: Room, bytes: &[u8], capacity: u64) {
        self.room = room;
        self.append(bytes, capacity);
    }

    fn append(&mut self, bytes: &[u8], capacity: u64) {
        if self.held.is_empty() {
            let capacity = usize::try_from(capacity).unwrap_or(0);
            self.held = BytesMut::with_capacity(capacity.max(bytes.len()));
        }
        self.held.extend_from_slice(bytes);
    }

    /// Returns `true` if all bytes are durable.
    pub(super) fn is_synced(&self) -> bool {
        self.synced == self.end()
    }

    /// Returns `true` if all bytes are in memory.
    pub(super) fn is_held(&self) -> bool {
        self.held_from == self.start
    }

    /// Takes the bytes in memory out for a while. Those from the returned index on are in memory
    /// only.
    pub(super) fn lend(&mut self) -> (Bytes, usize) {
        let unsynced = usize::try_from(self.synced - self.held_from);
        let unsynced = unsynced.expect("bytes in memory fit into usize");
        (self.held.split().freeze(), unsynced)
    }

    /// Puts the bytes of [`Self::lend`] back.
    pub(super) fn give_back(&mut self, bytes: Bytes) {
        self.held = match bytes.try_into_mut() {
            Ok(bytes) => bytes,
            // The request may still hold them.
            Err(bytes) => BytesMut::from(&*bytes),
        };
    }

    /// Records that all bytes are durable, the last ones in `piece`.
    pub(super) fn keep(&mut self, piece: Extent) {
        self.synced = piece.to;
        if piece.from < piece.to {
            if piece.from == self.start {
                self.kept.clear();
            }
            self.kept.push(Kept::Piece(piece));
        }
    }

    /// Frees the memory of a tail that is durable.
    pub(super) fn free(&mut self) {
        self.held_from = self.end();
        self.held = BytesMut::new();
        self.room = Room::default();
    }

    /// Replaces the bytes in memory by all bytes of the tail.
    pub(super) fn hold(&mut self, bytes: BytesMut, room: Room) {
        self.held = bytes;
        self.held_from = self.start;
        self.room = room;
    }

    /// Returns the offset of the bytes in memory, and these.
    pub(super) fn held(&self) -> (u64, &[u8]) {
        (self.held_from, &self.held)
    }

    /// Widens the room to hold all bytes, if there is room at this moment, and takes it out.
    pub(super) fn try_widen(&mut self, memory: &Memory) -> Option<Room> {
        let all = usize::try_from(self.len()).ok()?;
        memory
            .try_widen(&mut self.room, all)
            .then(|| std::mem::take(&mut self.room))
    }

    /// Takes all bytes, which are in memory, with their room and their durable copies. The tail
    /// then begins behind them.
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

/// Size of the pages in which room is given, in bytes.
const PAGE: usize = 4096;

/// Memory for the parts of all writers.
#[derive(Debug)]
pub(super) struct Memory {
    pages: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// Room that a writer holds.
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

    /// Waits for room for `bytes`, at capacity the total.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub(super) async fn room(&self, bytes: usize) -> Room {
        let _waiting = Waiting::new(&self.waiting);
        let permit = Arc::clone(&self.pages)
            .acquire_many_owned(count(pages(bytes)))
            .await
            .expect("the semaphore is never closed");
        Room {
            permit: Some(permit),
        }
    }

    /// Returns `true` if a writer waits for room.
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

/// Counts a writer that waits.
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
