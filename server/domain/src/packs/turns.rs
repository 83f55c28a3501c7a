//! Limits on how many archives are unpacked at the same time, and on the memory that they and the
//! documents of clients take.
//!
//! An archive waits for a place, then for its share of the server's memory, which covers what
//! unpacking takes regardless of the archive's size. Facts about each file come on top. Only one
//! archive at a time may take more than its share, and the memory for that is no other archive's
//! share. So no archive waits for memory that another frees only after it has got more itself.

use std::time::Duration;

use budget::{Budget, Held};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::Error;
use crate::ingest::Stops;

/// Memory for an archive, in bytes: chunks and batches under way, and facts about some ten thousand
/// files.
const SHARE: u64 = 64 * 1024 * 1024;
/// Step in which an archive takes more memory, in bytes.
const STEP: u64 = 16 * 1024 * 1024;

/// Limits of the archives and documents that are received.
#[derive(Debug)]
pub(super) struct Turns {
    places: Semaphore,
    wait: Duration,
    memory: Budget,
    growing: Semaphore,
    /// Bytes of memory that are no archive's share.
    spare: u64,
}

/// The right to unpack an archive, and the memory for it, until dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    _place: SemaphorePermit<'a>,
    held: Vec<Held>,
    bytes: u64,
    growing: Option<SemaphorePermit<'a>>,
}

impl Turns {
    pub(super) fn new(places: usize, wait: Duration, memory: &Budget) -> Self {
        let places = places.clamp(1, Semaphore::MAX_PERMITS);
        let memory = memory.part(memory.limit() / 2);
        let shares = SHARE.saturating_mul(places as u64);
        Self {
            places: Semaphore::new(places),
            wait,
            growing: Semaphore::new(1),
            spare: memory.limit().saturating_sub(shares),
            memory,
        }
    }

    /// Waits for the right to unpack an archive, first come, first served.
    ///
    /// # Errors
    /// [`Error::Busy`] after the configured wait, or the error of a stop.
    ///
    /// # Cancel safety
    /// May be dropped anywhere.
    pub(super) async fn take(&self, stops: &Stops) -> Result<Turn<'_>, Error> {
        let waiting = async {
            let place = self.places.acquire().await.expect(NEVER_CLOSED);
            Turn {
                turns: self,
                _place: place,
                held: vec![self.memory.take(SHARE).await],
                bytes: SHARE,
                growing: None,
            }
        };
        tokio::select! {
            biased;
            error = stops.given() => Err(error),
            turn = waiting => Ok(turn),
            () = tokio::time::sleep(self.wait) => Err(Error::Busy),
        }
    }

    /// Waits for memory to read a document of `size` bytes: its tree takes about as much, and as
    /// much again while it is built. Returns `None` for a small document, which is not counted.
    ///
    /// # Cancel safety
    /// May be dropped anywhere.
    pub(super) async fn for_document(&self, size: u64) -> Option<Held> {
        match size.saturating_mul(2) {
            ..=SMALL_DOCUMENT => None,
            // At most the memory that no archive under way waits for.
            memory => Some(self.memory.take(memory.min(self.spare.max(SHARE))).await),
        }
    }
}

impl Turn<'_> {
    /// Takes memory for `bytes` bytes of facts, as far as the limit allows; the share covers the
    /// first of them.
    ///
    /// # Errors
    /// The error of a stop.
    pub(super) async fn grow(&mut self, bytes: usize, stops: &Stops) -> Result<(), Error> {
        let turns = self.turns;
        let wanted = (bytes as u64).saturating_add(SHARE - STEP);
        let wanted = wanted.next_multiple_of(STEP).min(SHARE + turns.spare);
        if wanted <= self.bytes {
            return Ok(());
        }
        let more = wanted - self.bytes;
        let growing = async {
            if self.growing.is_none() {
                self.growing = Some(turns.growing.acquire().await.expect(NEVER_CLOSED));
            }
            self.held.push(turns.memory.take(more).await);
            self.bytes = wanted;
        };
        tokio::select! {
            biased;
            error = stops.given() => Err(error),
            () = growing => Ok(()),
        }
    }
}

/// Limit in bytes of the memory that a document may take without being counted.
const SMALL_DOCUMENT: u64 = 2 * 1024 * 1024;

const NEVER_CLOSED: &str = "nobody closes the semaphore";

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[tokio::test(start_paused = true)]
    async fn archives_wait_for_places_and_memory_and_not_for_ever() {
        let server = Budget::new(600 * MIB);
        let turns = Turns::new(2, Duration::from_secs(5), &server);
        let never = Stops::never();
        let one = turns.take(&never).await.unwrap();
        let two = turns.take(&never).await.unwrap();
        assert_eq!(server.held(), 128 * MIB);
        assert!(matches!(turns.take(&never).await, Err(Error::Busy)));
        let mut waiting = Box::pin(turns.take(&never));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(one);
        let three = waiting.await.unwrap();
        drop((two, three));
        assert_eq!(server.held(), 0);
    }

    #[tokio::test]
    async fn one_archive_at_a_time_takes_more() {
        let server = Budget::new(512 * MIB);
        let turns = Turns::new(2, Duration::from_secs(5), &server);
        let never = Stops::never();
        let mut one = turns.take(&never).await.unwrap();
        let mut two = turns.take(&never).await.unwrap();
        one.grow(10_000, &never).await.unwrap();
        assert_eq!(server.held(), 128 * MIB, "it is in the share");
        // A wish beyond the limit is granted all memory that is no other archive's share.
        one.grow(1 << 40, &never).await.unwrap();
        assert_eq!(server.held(), 256 * MIB, "half of the server's");
        one.grow(1 << 41, &never).await.unwrap();
        assert!(two.grow(1 << 30, &never).now_or_never().is_none());
        drop(one);
        two.grow(1 << 30, &never).await.unwrap();
        drop(two);
        assert_eq!(server.held(), 0);
    }

    #[tokio::test]
    async fn whoever_waits_is_told_to_stop() {
        let turns = Turns::new(1, Duration::from_secs(5), &Budget::new(512 * MIB));
        let never = Stops::never();
        let one = turns.take(&never).await.unwrap();
        let stops = Stops::never();
        let mut waiting = Box::pin(turns.take(&stops));
        assert!(waiting.as_mut().now_or_never().is_none());
        stops.draining.cancel();
        assert!(matches!(waiting.await, Err(Error::Draining)));
        drop(one);
    }
}
