//! Room in memory for parts, shared fairly by all writers.
//!
//! Nobody waits for room while holding any that does not come free by itself: a writer first makes its bytes durable and lets go of
//! them. So a wait ends, and how long it takes is what a client feels as back-pressure.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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
