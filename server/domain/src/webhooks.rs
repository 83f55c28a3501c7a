//! Delivery of events: at least once, in order for each subject. Events that no receiver takes
//! become dead letters.
//!
//! Every node looks for events that are due: as soon as it has recorded one itself, and every
//! second for those of other nodes. The first node to find any takes the lease, delivers until
//! nothing is due, and gives the lease back. An event waits while an older event of its subject
//! fails; other subjects go on.
//!
//! A delivery that was not recorded, because the process ended or the lease was lost in between, is
//! repeated. Receivers recognise repetitions by the event's id.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, FuturesUnordered, TryStreamExt as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::courier::{Courier, Undelivered};
use crate::event::EventId;
use crate::event_store::{Attempt, DeadEvent, PendingEvent};
use crate::ids::Randomness;
use crate::leases::WEBHOOKS;
use crate::{Clock, Error, EventStore, Leases, Outbox, Timestamp};

/// Time between two looks for events that other nodes recorded, or that are to be tried again.
const POLL: Duration = Duration::from_secs(1);
/// Maximum number of deliveries under way, each of another subject.
const CONCURRENCY: usize = 16;
/// Maximum number of attempts to record the outcome of a delivery.
const RECORD_ATTEMPTS: u32 = 10;
/// Time that deliveries under way have to end once the process is to end.
const DRAIN: Duration = Duration::from_secs(5);
/// Time between two deletions of old dead events.
const FORGET_INTERVAL: Duration = Duration::from_hours(1);
/// Number of events that one step handles.
const BATCH: usize = 500;
/// Factor by which each wait for another attempt exceeds the one before.
const GROWTH: u32 = 4;

/// Rules for repeating failed deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Number of attempts before an event is given up.
    pub attempts: NonZeroU32,
    /// Time between the first failure of an event and its next attempt. After each further failure,
    /// the time is four times as long.
    pub first_retry: Duration,
    /// Maximum wait between two attempts, even if the receiver asks for more. Up to a fifth is
    /// added, so that attempts are spread.
    pub longest_retry: Duration,
    /// Time for which a dead event is kept.
    pub keep_dead: Duration,
}

impl Schedule {
    /// Returns the wait after this number of failures, given the wait that the receiver asks for;
    /// `None` if the event is given up. `jitter` adds up to a fifth, so that events that failed
    /// together are not tried again together.
    fn wait(&self, failures: u32, wish: Option<Duration>, jitter: u128) -> Option<Duration> {
        if failures >= self.attempts.get() {
            return None;
        }
        let factor = GROWTH.saturating_pow(failures.saturating_sub(1));
        let wait = self.first_retry.saturating_mul(factor);
        let wait = wait.max(wish.unwrap_or_default()).min(self.longest_retry);
        let per_mille = u32::try_from(jitter % 201).unwrap_or_default();
        Some(wait + wait / 1000 * per_mille)
    }
}

/// Delivers the events of the outbox.
#[derive(Debug)]
pub struct Webhooks {
    outbox: Outbox,
    deps: Deps,
    schedule: Schedule,
}

/// Dependencies of [`Webhooks`].
#[derive(Debug, Clone)]
pub struct Deps {
    /// Store of the events.
    pub events: Arc<dyn EventStore>,
    /// Leases, of which one allows a node to deliver.
    pub leases: Leases,
    /// Client that brings events to the receiver.
    pub courier: Arc<dyn Courier>,
    /// Clock that decides which events are due.
    pub clock: Arc<dyn Clock>,
    /// Source of the jitter between attempts.
    pub randomness: Arc<dyn Randomness>,
}

impl Webhooks {
    /// Creates a deliverer of the events that `outbox` makes.
    pub fn new(outbox: Outbox, deps: Deps, schedule: Schedule) -> Self {
        Self {
            outbox,
            deps,
            schedule,
        }
    }

    /// Delivers until `stop`, then waits up to five seconds for deliveries under way.
    pub async fn run(self, stop: CancellationToken) {
        let mut forget_at = Instant::now();
        while !stop.is_cancelled() {
            if let Err(error) = self.turn(&stop).await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "failed to look for events to deliver"
                );
            }
            if forget_at <= Instant::now() {
                self.forget().await;
                forget_at = Instant::now() + FORGET_INTERVAL;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                // All of these are cancel safe.
                () = self.outbox.wait() => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    /// Delivers the events that are due, unless another node holds the lease.
    async fn turn(&self, stop: &CancellationToken) -> Result<(), Error> {
        if self.due().await?.is_empty() {
            return Ok(());
        }
        let work = self.deliver_due(stop);
        // If the lease is lost, deliveries are cut off and will be repeated.
        self.deps.leases.exclusively(WEBHOOKS, work).await.map(drop)
    }

    /// Delivers until nothing is due and nothing is under way, or until `stop`.
    async fn deliver_due(&self, stop: &CancellationToken) {
        let mut names = HashSet::new();
        let mut under_way = FuturesUnordered::new();
        while !stop.is_cancelled() {
            let due = self.due().await.unwrap_or_else(|error| {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "failed to find events to deliver"
                );
                Vec::new()
            });
            // The events that are due include those under way.
            for pending in due {
                if under_way.len() < CONCURRENCY && names.insert(pending.event.id) {
                    under_way.push(self.deliver(pending));
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                // All of these are cancel safe.
                delivered = under_way.next() => match delivered {
                    Some(id) => {
                        names.remove(&id);
                    }
                    None => return,
                },
                () = self.outbox.wait() => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
        let rest = async { while under_way.next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, rest).await.is_err() {
            tracing::info!("deliveries are broken off, to be made again");
        }
    }

    async fn due(&self) -> Result<Vec<PendingEvent>, Error> {
        self.deps
            .events
            .due_events(self.deps.clock.now(), CONCURRENCY)
            .await
            .map_err(Error::metadata("find due events"))
    }

    /// Tries to deliver an event, and records the outcome.
    async fn deliver(&self, pending: PendingEvent) -> EventId {
        let event = &pending.event;
        let attempt = match self.deps.courier.deliver(event).await {
            Ok(()) => Attempt::Delivered,
            Err(undelivered) => self.failed(&pending, undelivered),
        };
        match &attempt {
            Attempt::Delivered => {
                tracing::debug!(event = %event.id, kind = %event.kind, "delivered")
            }
            Attempt::Failed { error, retry_at } => tracing::warn!(
                event = %event.id,
                kind = %event.kind,
                error,
                retry_in = ?self.deps.clock.now().until(*retry_at),
                "a webhook failed"
            ),
            Attempt::GivenUp { error } => tracing::error!(
                event = %event.id,
                kind = %event.kind,
                error,
                "a webhook is given up; `longhaul events list` shows it"
            ),
        }
        for _ in 0..RECORD_ATTEMPTS {
            let now = self.deps.clock.now();
            match self
                .deps
                .events
                .record_attempt(&event.id, &attempt, now)
                .await
            {
                Ok(()) => break,
                // Until the outcome is recorded, or all attempts to record it have failed, the
                // event is not delivered again.
                Err(error) => tracing::error!(
                    event = %event.id,
                    error = &error as &dyn std::error::Error,
                    "failed to record a delivery"
                ),
            }
            tokio::time::sleep(POLL).await;
        }
        event.id
    }

    fn failed(&self, pending: &PendingEvent, undelivered: Undelivered) -> Attempt {
        let (error, wish) = match undelivered {
            Undelivered::Failed {
                reason,
                retry_after,
            } => (reason, retry_after),
            Undelivered::Refused { reason } => return Attempt::GivenUp { error: reason },
        };
        let failures = pending.failures.saturating_add(1);
        match self
            .schedule
            .wait(failures, wish, self.deps.randomness.bits())
        {
            Some(wait) => Attempt::Failed {
                error,
                retry_at: self.deps.clock.now().plus(wait),
            },
            None => Attempt::GivenUp { error },
        }
    }

    /// Deletes events that have been dead for the configured time.
    async fn forget(&self) {
        let before = self.deps.clock.now().minus(self.schedule.keep_dead);
        loop {
            match self.deps.events.forget_dead_events(before, BATCH).await {
                Ok(0) => return,
                Ok(count) => tracing::info!(count, "dead events are forgotten"),
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "failed to forget dead events"
                    );
                    return;
                }
            }
        }
    }
}

/// Dead events: those that were given up.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    outbox: Outbox,
    events: Arc<dyn EventStore>,
    clock: Arc<dyn Clock>,
}

impl DeadLetters {
    /// Creates access to the dead events in this store. `outbox` is notified when one becomes
    /// pending again.
    pub fn new(outbox: Outbox, events: Arc<dyn EventStore>, clock: Arc<dyn Clock>) -> Self {
        Self {
            outbox,
            events,
            clock,
        }
    }

    /// Lists up to `limit` dead events in the order of recording, beginning after the position
    /// `after`.
    ///
    /// # Errors
    /// A store's error.
    pub async fn list(&self, after: u64, limit: usize) -> Result<Vec<DeadEvent>, Error> {
        self.events
            .dead_events(after, limit)
            .await
            .map_err(Error::metadata("list dead events"))
    }

    /// Makes a dead event pending again. It is delivered before later events of its subject.
    ///
    /// # Errors
    /// [`Error::NotFound`] or a store's error.
    pub async fn replay(&self, id: &EventId) -> Result<(), Error> {
        match self.make_pending(*id, self.clock.now()).await? {
            true => Ok(()),
            false => Err(Error::NotFound { what: "dead event" }),
        }
    }

    /// Makes all dead events pending again. Returns their number.
    ///
    /// # Errors
    /// A store's error; some events may be pending by then.
    ///
    /// # Cancel safety
    /// When dropped, some events may be pending.
    pub async fn replay_all(&self) -> Result<u64, Error> {
        let mut count = 0;
        let mut after = 0;
        loop {
            let page = self.list(after, BATCH).await?;
            let Some(last) = page.last() else {
                return Ok(count);
            };
            after = last.position;
            let now = self.clock.now();
            let replayed: Vec<bool> = stream::iter(page)
                .map(|dead| self.make_pending(dead.event.id, now))
                .buffer_unordered(CONCURRENCY)
                .try_collect()
                .await?;
            count += replayed.into_iter().map(u64::from).sum::<u64>();
        }
    }

    async fn make_pending(&self, id: EventId, now: Timestamp) -> Result<bool, Error> {
        let replayed = self.events.replay_event(&id, now).await;
        let replayed = replayed.map_err(Error::metadata("replay an event"))?;
        self.outbox.recorded();
        Ok(replayed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Schedule = Schedule {
        attempts: NonZeroU32::new(11).unwrap(),
        first_retry: Duration::from_secs(5),
        longest_retry: Duration::from_hours(24),
        keep_dead: Duration::ZERO,
    };

    #[test]
    fn waits_grow_up_to_the_longest_and_end() {
        let waits: Vec<u64> = (1..=11)
            .map_while(|failures| SCHEDULE.wait(failures, None, 0))
            .map(|wait| wait.as_secs())
            .collect();
        assert_eq!(
            waits,
            [5, 20, 80, 320, 1280, 5120, 20480, 81920, 86400, 86400]
        );
        // 78 hours: three days and a quarter.
        assert_eq!(waits.iter().sum::<u64>() / 3600, 78);
        assert!(SCHEDULE.wait(u32::MAX - 1, None, 0).is_none());
    }

    #[test]
    fn a_receiver_can_ask_for_longer_but_not_for_shorter() {
        let wait = |wish| SCHEDULE.wait(2, Some(Duration::from_secs(wish)), 0);
        assert_eq!(wait(1), Some(Duration::from_secs(20)));
        assert_eq!(wait(60), Some(Duration::from_secs(60)));
        assert_eq!(wait(u64::MAX), Some(Duration::from_hours(24)));
    }

    #[test]
    fn jitter_adds_up_to_a_fifth() {
        let wait = |jitter| SCHEDULE.wait(1, None, jitter).unwrap();
        assert_eq!(wait(0), Duration::from_secs(5));
        assert_eq!(wait(200), Duration::from_secs(6));
        assert!((0..1000).all(|jitter| wait(jitter) <= Duration::from_secs(6)));
    }
}
