//! The offsets that clients were told last.
//!
//! No number can order what arrives late: a request whose connection is lost may still lie unread in a socket of the server while
//! the same client's `HEAD`, over a new connection, is told an offset; read after that, the older request appends what of its body
//! had come, and the offset that the client was told is no longer the upload's. It would answer the next append with a conflict
//! that the client did nothing for. So the offset that the newest retrieval of an upload was told is remembered, and an append
//! that begins there is taken even below the durable offset: what it repeats is compared, not stored.
//!
//! This is memory alone, bounded in number and age. Where it is lost, the client is answered as any that is wrong about the offset.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{Timestamp, UploadId};

/// Most uploads that are remembered; the older half of them is forgotten at once.
const MOST: usize = 16_384;
/// How long an offset is remembered. A request that lies in a socket for longer does not come from a network that was just lost.
const LONGEST: Duration = Duration::from_mins(10);

/// What the newest retrieval of each upload was told.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<Generations>);

/// No upload is in both.
#[derive(Debug, Default)]
struct Generations {
    newer: HashMap<UploadId, Offset>,
    older: HashMap<UploadId, Offset>,
}

#[derive(Debug, Clone, Copy)]
struct Offset {
    bytes: u64,
    told_at: Timestamp,
}

impl Told {
    /// Remembers that a client was told `offset` at `now`, instead of what one was told before.
    pub(crate) fn remember(&self, id: UploadId, offset: u64, now: Timestamp) {
        let mut generations = self.lock();
        generations.older.remove(&id);
        let told = Offset {
            bytes: offset,
            told_at: now,
        };
        generations.newer.insert(id, told);
        if generations.newer.len() >= MOST / 2 {
            generations.older = std::mem::take(&mut generations.newer);
        }
    }

    /// Whether `offset` is what the newest retrieval was told, not too long before `now`.
    pub(crate) fn is(&self, id: &UploadId, offset: u64, now: Timestamp) -> bool {
        let generations = self.lock();
        let told = generations
            .newer
            .get(id)
            .or_else(|| generations.older.get(id));
        told.is_some_and(|told| told.bytes == offset && now < told.told_at.plus(LONGEST))
    }

    /// Forgets what was told: it no longer holds.
    pub(crate) fn forget(&self, id: &UploadId) {
        let mut generations = self.lock();
        generations.newer.remove(id);
        generations.older.remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SystemRandomness;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    #[test]
    fn the_newest_offset_is_remembered_for_a_while() {
        let (told, id) = (Told::default(), UploadId::random(&SystemRandomness));
        assert!(!told.is(&id, 0, NOW));
        told.remember(id, 7, NOW);
        told.remember(id, 9, NOW);
        assert!(!told.is(&id, 7, NOW));
        let last = NOW.plus(LONGEST).minus(Duration::from_millis(1));
        assert!(told.is(&id, 9, last));
        assert!(!told.is(&id, 9, NOW.plus(LONGEST)));
        told.forget(&id);
        assert!(!told.is(&id, 9, NOW));
    }

    #[test]
    fn only_so_many_are_remembered_and_the_newest_among_them() {
        let told = Told::default();
        let ids: Vec<UploadId> = (0..3 * MOST)
            .map(|_| UploadId::random(&SystemRandomness))
            .collect();
        for id in &ids {
            told.remember(*id, 1, NOW);
            // One that is told again and again stays.
            told.remember(ids[0], 2, NOW);
            let generations = told.lock();
            assert!(generations.newer.len() + generations.older.len() <= MOST);
        }
        assert!(told.is(&ids[0], 2, NOW));
        for newest in &ids[ids.len() - MOST / 2 + 1..] {
            assert!(told.is(newest, 1, NOW));
        }
        assert!(!told.is(&ids[1], 1, NOW));
    }
}
