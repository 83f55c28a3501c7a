//! One request at a time holds an upload, and the newest request wins.
//!
//! A request that comes for an upload takes a [`Turn`]. Whoever had the turn is told to stop, makes what it has durable, and lets
//! go; only then does the newcomer go on, and finds the older one's bytes counted. A request that is overtaken while it still
//! waits never starts.
//!
//! That is the order within a process. Between processes, the upload's record says which node holds it, and under which epoch.
//! Whoever has the turn on one node asks the other node to let go; there, the ask ends the turn as a newer request would
//! ([`Holders::ask`]), unless it was meant for an earlier one. Who does not let go in time is fenced by the epoch
//! (`uploads::takeover`).
//!
//! Requests are ordered as they arrive here. One that arrives later than a newer request of the same client is beyond this order;
//! [`Told`](crate::upload::Told) makes up for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use crate::UploadId;

/// Who holds which upload, in this process.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    uploads: Mutex<HashMap<UploadId, Arc<Queue>>>,
}

#[derive(Debug, Default)]
struct Queue {
    newest: Mutex<Newest>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// The newest request for an upload.
#[derive(Debug, Default)]
struct Newest {
    /// Its sign to stop.
    overtaken: CancellationToken,
    /// The epoch under which it holds the upload on all nodes, or a lesser one that is free; `None` before that.
    epoch: Option<u64>,
}

/// What an ask from another node met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Met {
    /// A request that is under way.
    Request,
    /// Nothing: what was asked for is over.
    Nobody,
}

/// The right to work on an upload until [`Turn::overtaken`] or drop.
#[derive(Debug)]
pub(crate) struct Turn {
    holders: Arc<Holders>,
    id: UploadId,
    /// Given back within the map's lock, so that the last one to let go knows that it is.
    queue: Option<Arc<Queue>>,
    overtaken: CancellationToken,
    guard: Option<OwnedMutexGuard<()>>,
}

/// A newer request came while this one waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overtaken;

impl Holders {
    /// Tells the present holder to stop, at once; the future waits until it has let go. So requests have their turns in the order
    /// of these calls, whenever their futures are polled.
    ///
    /// # Cancel safety
    /// The future may be dropped; the older holder was told to stop all the same.
    pub(crate) fn take(
        self: &Arc<Self>,
        id: UploadId,
    ) -> impl Future<Output = Result<Turn, Overtaken>> + Send + use<> {
        let overtaken = CancellationToken::new();
        let queue = {
            let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
            let queue = Arc::clone(uploads.entry(id).or_default());
            let newest = Newest {
                overtaken: overtaken.clone(),
                epoch: None,
            };
            let older = std::mem::replace(&mut *queue.newest(), newest);
            older.overtaken.cancel();
            queue
        };
        let waiting = Arc::clone(&queue.turn).lock_owned();
        let mut turn = Turn {
            holders: Arc::clone(self),
            id,
            queue: Some(queue),
            overtaken,
            guard: None,
        };
        async move {
            turn.guard = Some(waiting.await);
            if turn.overtaken.is_cancelled() {
                return Err(Overtaken);
            }
            Ok(turn)
        }
    }

    /// Tells the request that holds the upload under `epoch`, or under an earlier one, to stop. One that has yet to claim the
    /// upload goes on: it will do so under a later epoch, and has ended the older ones here.
    pub(crate) fn ask(&self, id: &UploadId, epoch: u64) -> Met {
        let uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = uploads.get(id) else {
            return Met::Nobody;
        };
        let newest = queue.newest();
        if newest.epoch.is_some_and(|held| held <= epoch) {
            newest.overtaken.cancel();
        }
        Met::Request
    }

    /// Whether a request holds the upload or waits for it.
    pub(crate) fn is_held(&self, id: &UploadId) -> bool {
        let uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        uploads.contains_key(id)
    }
}

impl Queue {
    fn newest(&self) -> MutexGuard<'_, Newest> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Notes that this request is about to hold the upload under `epoch` or a later one: who asks for it by a lesser one means an
    /// earlier holder.
    pub(crate) fn holds(&self, epoch: u64) {
        let Some(queue) = &self.queue else {
            return;
        };
        let mut newest = queue.newest();
        if !self.overtaken.is_cancelled() {
            newest.epoch = Some(epoch);
        }
    }

    /// The sign to stop: a newer request waits.
    pub(crate) fn overtaken(&self) -> &CancellationToken {
        &self.overtaken
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.guard.take());
        let mut uploads = self
            .holders
            .uploads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        drop(self.queue.take());
        // The map's own reference is the last: nobody holds or waits, and nobody can begin to while the map is locked.
        let idle = uploads
            .get(&self.id)
            .is_some_and(|queue| Arc::strong_count(queue) == 1);
        if idle {
            uploads.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SystemRandomness;

    #[tokio::test]
    async fn the_newest_request_wins_and_waits_for_the_older_to_let_go() {
        let holders = Arc::new(Holders::default());
        let id = UploadId::random(&SystemRandomness);
        let first = holders.take(id).await.unwrap();
        let (second, third) = (Arc::clone(&holders), Arc::clone(&holders));
        let second = tokio::spawn(async move { second.take(id).await.map(drop) });
        first.overtaken().cancelled().await;
        let third = tokio::spawn(async move { third.take(id).await.map(drop) });
        tokio::task::yield_now().await;
        assert!(!third.is_finished());
        drop(first);
        assert_eq!(second.await.unwrap(), Err(Overtaken));
        assert_eq!(third.await.unwrap(), Ok(()));
        assert!(holders.uploads.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_ask_ends_the_holder_that_it_means() {
        let holders = Arc::new(Holders::default());
        let id = UploadId::random(&SystemRandomness);
        assert_eq!(holders.ask(&id, 9), Met::Nobody);
        let turn = holders.take(id).await.unwrap();
        // It has not claimed the upload.
        assert_eq!(holders.ask(&id, 9), Met::Request);
        turn.holds(5);
        assert_eq!(holders.ask(&id, 4), Met::Request);
        assert!(!turn.overtaken().is_cancelled());
        assert_eq!(holders.ask(&id, 5), Met::Request);
        assert!(turn.overtaken().is_cancelled());
        drop(turn);
        assert_eq!(holders.ask(&id, 5), Met::Nobody);
    }

    #[tokio::test]
    async fn an_older_holder_does_not_speak_for_a_newer_request() {
        let holders = Arc::new(Holders::default());
        let id = UploadId::random(&SystemRandomness);
        let older = holders.take(id).await.unwrap();
        let newer = holders.take(id);
        older.holds(5);
        assert_eq!(holders.ask(&id, 5), Met::Request);
        drop(older);
        let newer = newer.await.unwrap();
        newer.holds(6);
        assert_eq!(holders.ask(&id, 5), Met::Request);
        assert!(!newer.overtaken().is_cancelled());
    }

    #[tokio::test]
    async fn a_waiter_that_gives_up_leaves_nothing_behind() {
        let holders = Arc::new(Holders::default());
        let id = UploadId::random(&SystemRandomness);
        let first = holders.take(id).await.unwrap();
        let waiting = holders.take(id);
        assert!(first.overtaken().is_cancelled());
        tokio::select! {
            biased;
            _ = waiting => panic!("the turn is taken"),
            () = tokio::task::yield_now() => {}
        }
        drop(first);
        assert!(holders.uploads.lock().unwrap().is_empty());
    }
}
