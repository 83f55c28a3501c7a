//! Port of events.

use async_trait::async_trait;
use domain::Timestamp;
use domain::event::EventId;
use domain::event_store::{Attempt, DeadEvent, EventStore, PendingEvent};
use domain::metadata_store::MetadataError;

use super::Store;
use crate::commands::events::{ForgetDeadEvents, RecordAttempt, ReplayEvent};
use crate::engine::{Engine, Reader as _};
use crate::event_rows::{DeadEventRow, EventRow};
use crate::event_sql;
use crate::values::{limited, sought, values};

#[async_trait]
impl<E: Engine> EventStore for Store<E> {
    async fn due_events(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<PendingEvent>, MetadataError> {
        let mut reader = self.0.reader("find due events");
        let values = values![now, limited(limit)];
        let rows: Vec<EventRow> = reader.rows(event_sql::DUE_EVENTS, values).await?;
        rows.into_iter().map(PendingEvent::try_from).collect()
    }

    async fn record_attempt(
        &self,
        id: &EventId,
        attempt: &Attempt,
        now: Timestamp,
    ) -> Result<(), MetadataError> {
        let command = RecordAttempt {
            id: *id,
            attempt: attempt.clone(),
            now,
        };
        self.0.change(command).await
    }

    async fn dead_events(&self, after: u64, limit: usize) -> Result<Vec<DeadEvent>, MetadataError> {
        let mut reader = self.0.reader("list dead events");
        let values = values![sought(after), limited(limit)];
        let rows: Vec<DeadEventRow> = reader.rows(event_sql::DEAD_EVENTS, values).await?;
        rows.into_iter().map(DeadEvent::try_from).collect()
    }

    async fn replay_event(&self, id: &EventId, now: Timestamp) -> Result<bool, MetadataError> {
        self.0.change(ReplayEvent { id: *id, now }).await
    }

    async fn forget_dead_events(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<u64, MetadataError> {
        self.0.change(ForgetDeadEvents { before, limit }).await
    }
}
