//! Answers that nobody reads at the moment, within a bound.
//!
//! An answer of the S3 server that is read in part keeps its connection, up to 408 KiB in its buffer
//! (hyper's largest), and what the kernel holds for it. How fast answers are read is up to the
//! clients of downloads, so there are no more paused ones than [`Pauses::new`] is told: the one that
//! was read longest ago is closed, and its reader asks anew for the rest.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Paused answers of type `T`.
#[derive(Debug)]
pub(super) struct Pauses<T> {
    limit: usize,
    paused: Mutex<Paused<T>>,
}

#[derive(Debug)]
struct Paused<T> {
    next: u64,
    /// By the order in which they were paused.
    answers: BTreeMap<u64, T>,
}

/// Names a paused answer.
#[derive(Debug)]
pub(super) struct Ticket(u64);

impl<T> Pauses<T> {
    /// Holds `limit` answers at most.
    pub(super) fn new(limit: usize) -> Self {
        let paused = Paused {
            next: 0,
            answers: BTreeMap::new(),
        };
        Self {
            limit,
            paused: Mutex::new(paused),
        }
    }

    /// Keeps `answer` until it is resumed, dropped, or closed for those that were paused later.
    pub(super) fn pause(&self, answer: T) -> Ticket {
        let mut paused = self.lock();
        let ticket = paused.next;
        paused.next += 1;
        paused.answers.insert(ticket, answer);
        let oldest = (paused.answers.len() > self.limit)
            .then(|| paused.answers.pop_first())
            .flatten();
        drop(paused);
        // Closing a connection is done outside of the lock.
        drop(oldest);
        Ticket(ticket)
    }

    /// Returns the answer, unless it was closed.
    pub(super) fn resume(&self, ticket: &Ticket) -> Option<T> {
        self.lock().answers.remove(&ticket.0)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().answers.len()
    }

    fn lock(&self) -> MutexGuard<'_, Paused<T>> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_was_read_longest_ago_is_closed() {
        let pauses = Pauses::new(2);
        let first = pauses.pause("first");
        let second = pauses.pause("second");
        assert_eq!(pauses.resume(&first), Some("first"));
        let first = pauses.pause("first");
        let third = pauses.pause("third");
        assert_eq!(pauses.resume(&second), None);
        assert_eq!(pauses.resume(&first), Some("first"));
        assert_eq!(pauses.resume(&third), Some("third"));
        assert_eq!(pauses.resume(&third), None);
    }
}
