//! Peers that do not read their answers.

use std::time::Duration;

use tokio::time::Instant;

use crate::memory::CHUNK;

/// A measure of the time for which a peer has taken too little.
///
/// In ordinary times, a single byte in
/// [`Config::write_stall_timeout`](crate::Config::write_stall_timeout) is enough: paths are slow.
/// When memory is short, it has to be a whole chunk.
#[derive(Debug, Default)]
pub(crate) struct Stall {
    /// The start of the time in which nothing was taken.
    blocked: Option<Instant>,
    /// The start of the time in which less than a chunk was taken, and the bytes taken since.
    slow: Option<Instant>,
    taken: u64,
}

impl Stall {
    /// Notes that the peer takes no more for now.
    pub(crate) fn block(&mut self, now: Instant) {
        self.blocked.get_or_insert(now);
        self.slow.get_or_insert(now);
    }

    /// Notes that the peer has taken `bytes`.
    pub(crate) fn took(&mut self, bytes: usize, now: Instant) {
        self.blocked = None;
        let Some(slow) = &mut self.slow else { return };
        self.taken += bytes as u64;
        if self.taken >= CHUNK {
            *slow = now;
            self.taken = 0;
        }
    }

    /// Notes that the peer has taken everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Returns true if the peer takes nothing at present.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.is_some()
    }

    /// Returns the time at which to cut the peer off, if nothing changes.
    pub(crate) fn deadline(&self, limit: Duration, scarce: bool) -> Option<Instant> {
        let since = if scarce { self.slow } else { self.blocked };
        // A peer that has just taken something is judged when it stops again.
        since.filter(|_| self.is_blocked()).map(|at| at + limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn a_byte_now_and_then_is_enough_while_there_is_memory() {
        let start = Instant::now();
        let mut stall = Stall::default();
        for minute in 0..100 {
            let now = start + minute * LIMIT;
            stall.block(now);
            assert_eq!(stall.deadline(LIMIT, false), Some(now + LIMIT));
            assert_eq!(stall.deadline(LIMIT, true), Some(start + LIMIT));
            stall.took(1, now);
            assert_eq!(stall.deadline(LIMIT, true), None);
        }
    }

    #[test]
    fn a_chunk_in_time_is_enough_when_memory_is_scarce() {
        let start = Instant::now();
        let mut stall = Stall::default();
        let half = usize::try_from(CHUNK / 2).unwrap();
        for step in 0..100 {
            let now = start + step * LIMIT / 4;
            stall.block(now);
            assert!(stall.deadline(LIMIT, true).unwrap() > now);
            stall.took(half, now);
        }
        stall.clear();
        assert_eq!(stall.deadline(LIMIT, true), None);
    }
}
