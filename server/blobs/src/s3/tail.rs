//! The bytes of a staged blob that are not in a part yet: on the server in pieces, in memory, or both.

use bytes::{Bytes, BytesMut};

use super::memory::{Memory, Room};
use super::notes::Extent;

/// Where bytes of a tail are kept durably.
#[derive(Debug, Clone)]
pub(super) enum Kept {
    /// In the object that is the blob's base.
    Base { from: u64, to: u64 },
    /// In a note.
    Piece(Extent),
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
    pub(super) fn let_go(&mut self) {
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
