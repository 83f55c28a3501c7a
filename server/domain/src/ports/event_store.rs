//! The port to the outbox: events that are recorded with what they tell of, and kept until they are delivered.
//!
//! One adapter implements this, [`MetadataStore`](crate::MetadataStore) and [`PackStore`](crate::PackStore) in one database: an
//! event is recorded in the transaction that makes it true, by
//! [`complete_upload`](crate::MetadataStore::complete_upload), [`put_file`](crate::MetadataStore::put_file) or
//! [`publish_version`](crate::PackStore::publish_version).

use std::fmt::Debug;

use async_trait::async_trait;

use crate::Timestamp;
use crate::event::{Event, EventId};
use crate::metadata_store::MetadataError;

/// An event that is to be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingEvent {
    /// The event.
    pub event: Event,
    /// How often its delivery has failed.
    pub failures: u32,
}

/// An event that is not delivered any more: a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadEvent {
    /// The event.
    pub event: Event,
    /// How often its delivery failed.
    pub failures: u32,
    /// Why it failed last.
    pub last_error: String,
    /// When it was given up.
    pub dead_at: Timestamp,
    /// Its place among all events: in the order of recording, and never 0.
    pub position: u64,
}

/// What became of an attempt to deliver an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The receiver has it.
    Delivered,
    /// It failed, and is to be tried again.
    Failed {
        /// Why.
        error: String,
        /// Not before this moment.
        retry_at: Timestamp,
    },
    /// It failed, and is not tried again.
    GivenUp {
        /// Why.
        error: String,
    },
}

/// Keeps events. Each method is one transaction, as in [`MetadataStore`](crate::MetadataStore).
///
/// An event is *pending* until it is delivered, which forgets it, or given up, which makes it *dead*. Events of one subject are
/// delivered in the order in which they were recorded: only the first pending one of a subject is ever due, and the others wait for
/// it. The first one of a subject is due at once when it becomes that; later, when its next attempt is due.
///
/// # Cancel safety
/// A dropped future may or may not have had its effect.
#[async_trait]
pub trait EventStore: Debug + Send + Sync + 'static {
    /// Up to `limit` events that are due at `now`, the longest due first; of each subject at most one.
    async fn due_events(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<PendingEvent>, MetadataError>;

    /// Records what became of an attempt to deliver a pending event. After an event that was delivered or given up, the next of its
    /// subject is due. Of an event that is not pending any more, nothing is recorded.
    async fn record_attempt(
        &self,
        id: &EventId,
        attempt: &Attempt,
        now: Timestamp,
    ) -> Result<(), MetadataError>;

    /// Up to `limit` dead events in the order of their positions, those after `after` only.
    async fn dead_events(&self, after: u64, limit: usize) -> Result<Vec<DeadEvent>, MetadataError>;

    /// Makes a dead event pending again, as if it had never been tried, at its old place: it is due at once unless an older one of
    /// its subject is pending. False if there is no such dead event.
    async fn replay_event(&self, id: &EventId, now: Timestamp) -> Result<bool, MetadataError>;

    /// Forgets up to `limit` events that died before `before`; returns how many.
    async fn forget_dead_events(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<u64, MetadataError>;
}
