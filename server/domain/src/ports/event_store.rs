//! The port to the outbox: events that are recorded together with the facts they report, and kept
//! until they are delivered.
//!
//! One adapter implements this port, [`MetadataStore`](crate::MetadataStore) and
//! [`PackStore`](crate::PackStore) in one database: an event is recorded in the transaction that
//! makes it true, by [`complete_upload`](crate::MetadataStore::complete_upload),
//! [`put_file`](crate::MetadataStore::put_file) or
//! [`publish_version`](crate::PackStore::publish_version).

use std::fmt::Debug;

use async_trait::async_trait;

use crate::Timestamp;
use crate::event::{Event, EventId};
use crate::metadata_store::MetadataError;

/// An event to deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingEvent {
    pub event: Event,
    /// Number of failed deliveries.
    pub failures: u32,
}

/// An event that is no longer delivered: a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadEvent {
    pub event: Event,
    /// Number of failed deliveries.
    pub failures: u32,
    /// The reason of the last failure.
    pub last_error: String,
    /// The time at which delivery was given up.
    pub dead_at: Timestamp,
    /// Its position among all events: in the order of recording, and never 0.
    pub position: u64,
}

/// Outcome of an attempt to deliver an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The receiver has the event.
    Delivered,
    /// The attempt failed and will be repeated.
    Failed {
        /// The reason.
        error: String,
        /// The earliest time of the next attempt.
        retry_at: Timestamp,
    },
    /// The attempt failed and will not be repeated.
    GivenUp {
        /// The reason.
        error: String,
    },
}

/// Stores events. Each method is one transaction, as in [`MetadataStore`](crate::MetadataStore).
///
/// An event is *pending* until it is delivered and forgotten, or given up and *dead*. Events of one
/// subject are delivered in the order in which they were recorded: only the first pending event of
/// a subject can be due, and the others wait for it. An event is due as soon as it becomes the
/// first of its subject; after a failure, when its next attempt is due.
///
/// # Cancel safety
/// A dropped future may or may not have had its effect.
#[async_trait]
pub trait EventStore: Debug + Send + Sync + 'static {
    /// Returns up to `limit` events that are due at `now`, the longest due first, at most one of
    /// each subject.
    async fn due_events(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<PendingEvent>, MetadataError>;

    /// Records the outcome of an attempt to deliver a pending event. After a delivered or given-up
    /// event, the next of its subject is due. Nothing is recorded for an event that is no longer
    /// pending.
    async fn record_attempt(
        &self,
        id: &EventId,
        attempt: &Attempt,
        now: Timestamp,
    ) -> Result<(), MetadataError>;

    /// Lists up to `limit` dead events that follow `after`, in the order of their positions.
    async fn dead_events(&self, after: u64, limit: usize) -> Result<Vec<DeadEvent>, MetadataError>;

    /// Makes a dead event pending again at its old position, as if it had never been attempted: it
    /// is due at once unless an older event of its subject is pending. Returns false if there is no
    /// such dead event.
    async fn replay_event(&self, id: &EventId, now: Timestamp) -> Result<bool, MetadataError>;

    /// Forgets up to `limit` events that died before `before`; returns their number.
    async fn forget_dead_events(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<u64, MetadataError>;
}
