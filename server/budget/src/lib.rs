//! A bound on the memory that peers can make the server hold.
//!
//! A [`Budget`] is a number of bytes. Before code holds bytes on behalf of a peer, it takes them
//! from a budget, and keeps the [`Held`] for as long as it holds the bytes. With nothing left,
//! [`Budget::take`] waits, which is back-pressure: the bytes stay with the store, in the socket, or
//! with the peer.
//!
//! A budget can have parts ([`Budget::part`]), for example one for each connection. Bytes taken
//! from a part count against its parent as well, so a peer reaches its own bound before the common
//! one.
//!
//! Two rules prevent deadlocks. A task that waits in [`Budget::take`] holds nothing that others
//! need in order to return theirs. A peer that does not read the bytes held for it is cut off after
//! a while.

use std::sync::Arc;

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes per permit. A semaphore counts to `usize::MAX >> 3`, but grants at most `u32::MAX` permits
/// at once.
const UNIT: u64 = 1024;

/// Memory that peers can make the server hold. Write sizes as in `512 MiB`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Maximum memory that all peers together can make the server hold: unread answers, bytes that
    /// wait for the disk, archives that are being unpacked. When all of it is held, the server
    /// reads and answers more slowly.
    #[schemars(with = "settings::Size")]
    pub total: ByteSize,
    /// Maximum memory of one connection, with any number of streams.
    #[schemars(with = "settings::Size")]
    pub per_connection: ByteSize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            total: ByteSize::mib(512),
            per_connection: ByteSize::mib(4),
        }
    }
}

/// A bound on held bytes. Clones share the bound.
#[derive(Debug, Clone)]
pub struct Budget {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Number of units.
    free: Arc<Semaphore>,
    /// Number of units.
    limit: u64,
    whole: Option<Budget>,
}

impl Budget {
    /// Returns a budget of `limit` bytes, rounded down to KiB, and of one KiB at least.
    pub fn new(limit: u64) -> Self {
        Self::with(limit, None)
    }

    /// Returns a part of this budget with its own bound, in bytes.
    ///
    /// The sum of parts may exceed this budget: a part is a bound and reserves nothing.
    pub fn part(&self, limit: u64) -> Self {
        Self::with(limit, Some(self.clone()))
    }

    fn with(limit: u64, whole: Option<Self>) -> Self {
        let most = Semaphore::MAX_PERMITS.min(u32::MAX as usize) as u64;
        let limit = (limit / UNIT).clamp(1, most);
        let permits = usize::try_from(limit).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            inner: Arc::new(Inner {
                free: Arc::new(Semaphore::new(permits)),
                limit,
                whole,
            }),
        }
    }

    /// Takes `bytes` once they are free here and in all parents. A number above the bound counts as
    /// the bound, so a piece larger than the budget waits for all of it, but not for ever.
    ///
    /// Waiters are served in the order in which they came.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future returns the bytes taken so far.
    pub async fn take(&self, bytes: u64) -> Held {
        let mut held = Held(Vec::with_capacity(2));
        // Take from a part before its parent: a wait for the part's own share then delays no other
        // part.
        for level in self.levels() {
            let permit = Arc::clone(&level.free)
                .acquire_many_owned(level.units(bytes))
                .await
                .expect("the semaphore is never closed");
            held.0.push(permit);
        }
        held
    }

    /// Takes `bytes` if they are free now, here and in all parents.
    pub fn try_take(&self, bytes: u64) -> Option<Held> {
        let mut held = Held(Vec::with_capacity(2));
        for level in self.levels() {
            let permit = Arc::clone(&level.free)
                .try_acquire_many_owned(level.units(bytes))
                .ok()?;
            held.0.push(permit);
        }
        Some(held)
    }

    /// Returns true if more than three quarters are held, here or in a parent. Peers that hold much
    /// and read little should then be cut off sooner.
    pub fn is_scarce(&self) -> bool {
        self.levels().any(|level| {
            let free = level.free.available_permits() as u64;
            free < level.limit / 4
        })
    }

    /// Returns the number of held bytes.
    pub fn held(&self) -> u64 {
        let free = self.inner.free.available_permits() as u64;
        self.inner.limit.saturating_sub(free) * UNIT
    }

    /// Returns the bound in bytes.
    pub fn limit(&self) -> u64 {
        self.inner.limit * UNIT
    }

    /// Iterates over this budget and its parents, from the inside out.
    fn levels(&self) -> impl Iterator<Item = &Inner> {
        std::iter::successors(Some(&*self.inner), |level| {
            level.whole.as_ref().map(|whole| &*whole.inner)
        })
    }
}

impl Inner {
    fn units(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT).min(self.limit)).unwrap_or(u32::MAX)
    }
}

/// Bytes taken from a [`Budget`]. Dropping returns them.
#[derive(Debug)]
#[must_use = "dropping it gives the bytes back at once"]
pub struct Held(Vec<OwnedSemaphorePermit>);

impl Held {
    /// Returns the bytes held beyond `bytes`.
    pub fn keep(&mut self, bytes: u64) {
        let units = usize::try_from(bytes.div_ceil(UNIT)).unwrap_or(usize::MAX);
        for permit in &mut self.0 {
            let beyond = permit.num_permits().saturating_sub(units);
            drop(permit.split(beyond));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn what_is_taken_is_held_until_it_is_dropped() {
        let budget = Budget::new(10 * UNIT);
        let first = budget.try_take(UNIT).unwrap();
        let second = budget.try_take(9 * UNIT).unwrap();
        assert_eq!(budget.held(), 10 * UNIT);
        assert!(budget.try_take(1).is_none());
        drop(first);
        assert!(budget.try_take(1).is_some());
        drop(second);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_part_is_bounded_by_itself_and_by_the_whole() {
        let whole = Budget::new(10 * UNIT);
        let (one, other) = (whole.part(6 * UNIT), whole.part(6 * UNIT));
        let held = one.try_take(6 * UNIT).unwrap();
        assert!(one.try_take(1).is_none());
        assert!(other.try_take(5 * UNIT).is_none());
        assert_eq!(other.held(), 0, "what could not be had whole is given back");
        let rest = other.try_take(4 * UNIT).unwrap();
        assert_eq!(whole.held(), 10 * UNIT);
        drop((held, rest));
        assert_eq!((whole.held(), one.held(), other.held()), (0, 0, 0));
    }

    #[test]
    fn a_piece_larger_than_the_budget_takes_all_of_it() {
        let budget = Budget::new(4 * UNIT);
        let held = budget.try_take(100 * UNIT).unwrap();
        assert_eq!(budget.held(), budget.limit());
        drop(held);
    }

    #[test]
    fn what_is_not_needed_after_all_is_given_back() {
        let whole = Budget::new(100 * UNIT);
        let part = whole.part(50 * UNIT);
        let mut held = part.try_take(40 * UNIT).unwrap();
        assert!(part.is_scarce() && !whole.is_scarce());
        held.keep(10 * UNIT + 1);
        assert_eq!((part.held(), whole.held()), (11 * UNIT, 11 * UNIT));
        held.keep(20 * UNIT);
        assert_eq!(part.held(), 11 * UNIT, "nothing is taken");
        assert!(!part.is_scarce());
        let _rest = whole.try_take(80 * UNIT).unwrap();
        assert!(part.is_scarce(), "where the whole is");
    }

    #[test]
    fn waiting_ends_when_bytes_come_back_and_can_be_given_up() {
        let budget = Budget::new(4 * UNIT);
        let part = budget.part(4 * UNIT);
        let held = budget.try_take(3 * UNIT).unwrap();
        let mut waiting = Box::pin(part.take(2 * UNIT));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert_eq!(part.held(), 2 * UNIT);
        drop(waiting);
        assert_eq!(part.held(), 0);
        let mut waiting = Box::pin(part.take(2 * UNIT));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(held);
        assert!(waiting.as_mut().now_or_never().is_some());
    }
}
