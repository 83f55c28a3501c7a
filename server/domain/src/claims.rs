//! Claims on uploads: one request at a time works on an upload, and the newest request wins.
//!
//! A request for an upload queues for its claim. The request that has the claim is told to stop,
//! makes its bytes durable, and releases the upload; only then does the newer request start, and
//! finds those bytes counted. A request that is overtaken while it still waits never starts.
//!
//! This orders requests within a process. Between processes, the upload's record names the node
//! with the claim, and its epoch. A request with the claim on one node asks the other node to
//! release the upload; there, the ask ends the claim as a newer request would, unless it refers to
//! an earlier claim. A request that does not release in time is fenced by the epoch
//! (`uploads::takeover`).
//!
//! Requests are ordered by their arrival here. For a request that arrives later than a newer
//! request of the same client, the upload's record keeps the offset that was reported to the client
//! ([`Upload`](crate::upload::Upload)).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use crate::UploadId;

/// The claims on uploads within this process.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    uploads: Mutex<HashMap<UploadId, Arc<Queue>>>,
}

#[derive(Debug, Default)]
struct Queue {
    newest: Mutex<Newest>,
    claim: Arc<tokio::sync::Mutex<()>>,
}

/// The newest request for an upload.
#[derive(Debug, Default)]
struct Newest {
    /// Signals the request to stop.
    overtaken: CancellationToken,
    /// The epoch of its claim across all nodes, or a lesser epoch that is free; `None` before the
    /// claim.
    epoch: Option<u64>,
}

/// Outcome of an ask from another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AskOutcome {
    /// A request is at work.
    Request,
    /// No request: the claim in question has ended.
    Nobody,
}

/// The right to work on an upload until [`Self::overtaken`] or drop.
#[derive(Debug)]
pub(crate) struct Claim {
    claims: Arc<Claims>,
    id: UploadId,
    /// Dropped under the map's lock, so that the last request to release the upload can detect that
    /// it is the last.
    queue: Option<Arc<Queue>>,
    overtaken: CancellationToken,
    guard: Option<OwnedMutexGuard<()>>,
}

/// A newer request came while this one waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overtaken;

impl Claims {
    /// Signals the current request to stop, at once; the future waits until it has released the
    /// upload. So claims are granted in the order of these calls, regardless of when their futures
    /// are polled.
    ///
    /// # Cancel safety
    /// The future may be dropped; the older request has been signalled all the same.
    pub(crate) fn take(
        self: &Arc<Self>,
        id: UploadId,
    ) -> impl Future<Output = Result<Claim, Overtaken>> + Send + use<> {
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
        let waiting = Arc::clone(&queue.claim).lock_owned();
        let mut claim = Claim {
            claims: Arc::clone(self),
            id,
            queue: Some(queue),
            overtaken,
            guard: None,
        };
        async move {
            claim.guard = Some(waiting.await);
            if claim.overtaken.is_cancelled() {
                return Err(Overtaken);
            }
            Ok(claim)
        }
    }

    /// Signals the request that has the claim under `epoch`, or under an earlier one, to stop. A
    /// request that has yet to claim the upload continues: its claim will have a later epoch, and
    /// older claims in this process have ended.
    pub(crate) fn ask(&self, id: &UploadId, epoch: u64) -> AskOutcome {
        let uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = uploads.get(id) else {
            return AskOutcome::Nobody;
        };
        let newest = queue.newest();
        if newest.epoch.is_some_and(|held| held <= epoch) {
            newest.overtaken.cancel();
        }
        AskOutcome::Request
    }

    /// Returns true if a request has the claim or waits for it.
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

impl Claim {
    /// Records that this request is about to claim the upload under `epoch` or a later one: an ask
    /// with a lesser epoch refers to an earlier claim.
    pub(crate) fn set_epoch(&self, epoch: u64) {
        let Some(queue) = &self.queue else {
            return;
        };
        let mut newest = queue.newest();
        if !self.overtaken.is_cancelled() {
            newest.epoch = Some(epoch);
        }
    }

    /// Returns the signal to stop: a newer request waits.
    pub(crate) fn overtaken(&self) -> &CancellationToken {
        &self.overtaken
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        drop(self.guard.take());
        let mut uploads = self
            .claims
            .uploads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        drop(self.queue.take());
        // If the map's own reference is the last, no request works or waits, and none can start
        // while the map is locked.
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
        let claims = Arc::new(Claims::default());
        let id = UploadId::random(&SystemRandomness);
        let first = claims.take(id).await.unwrap();
        let (second, third) = (Arc::clone(&claims), Arc::clone(&claims));
        let second = tokio::spawn(async move { second.take(id).await.map(drop) });
        first.overtaken().cancelled().await;
        let third = tokio::spawn(async move { third.take(id).await.map(drop) });
        tokio::task::yield_now().await;
        assert!(!third.is_finished());
        drop(first);
        assert_eq!(second.await.unwrap(), Err(Overtaken));
        assert_eq!(third.await.unwrap(), Ok(()));
        assert!(claims.uploads.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_ask_ends_the_holder_that_it_means() {
        let claims = Arc::new(Claims::default());
        let id = UploadId::random(&SystemRandomness);
        assert_eq!(claims.ask(&id, 9), AskOutcome::Nobody);
        let claim = claims.take(id).await.unwrap();
        // This request has not claimed the upload yet.
        assert_eq!(claims.ask(&id, 9), AskOutcome::Request);
        claim.set_epoch(5);
        assert_eq!(claims.ask(&id, 4), AskOutcome::Request);
        assert!(!claim.overtaken().is_cancelled());
        assert_eq!(claims.ask(&id, 5), AskOutcome::Request);
        assert!(claim.overtaken().is_cancelled());
        drop(claim);
        assert_eq!(claims.ask(&id, 5), AskOutcome::Nobody);
    }

    #[tokio::test]
    async fn an_older_holder_does_not_speak_for_a_newer_request() {
        let claims = Arc::new(Claims::default());
        let id = UploadId::random(&SystemRandomness);
        let older = claims.take(id).await.unwrap();
        let newer = claims.take(id);
        older.set_epoch(5);
        assert_eq!(claims.ask(&id, 5), AskOutcome::Request);
        drop(older);
        let newer = newer.await.unwrap();
        newer.set_epoch(6);
        assert_eq!(claims.ask(&id, 5), AskOutcome::Request);
        assert!(!newer.overtaken().is_cancelled());
    }

    #[tokio::test]
    async fn a_waiter_that_gives_up_leaves_nothing_behind() {
        let claims = Arc::new(Claims::default());
        let id = UploadId::random(&SystemRandomness);
        let first = claims.take(id).await.unwrap();
        let waiting = claims.take(id);
        assert!(first.overtaken().is_cancelled());
        tokio::select! {
            biased;
            _ = waiting => panic!("the claim is taken"),
            () = tokio::task::yield_now() => {}
        }
        drop(first);
        assert!(claims.uploads.lock().unwrap().is_empty());
    }
}
