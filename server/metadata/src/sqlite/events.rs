//! Events in SQLite.

use async_trait::async_trait;
use domain::Timestamp;
use domain::event_store::{Attempt, DeadEvent, EventStore, PendingEvent};
use domain::events::{Event, EventId};
use domain::metadata_store::MetadataError;

use super::commands::{affected, exactly};
use super::writer::{Command, Transaction};
use super::{SqliteStore, engine};
use crate::event_rows::{DeadEventRow, EventRow};
use crate::event_sql;
use crate::values::{limited, sought};

#[async_trait]
impl EventStore for SqliteStore {
    async fn due_events(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<PendingEvent>, MetadataError> {
        let rows: Vec<EventRow> = sqlx::query_as(event_sql::DUE_EVENTS)
            .bind(now.as_millis())
            .bind(limited(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(engine("find due events"))?;
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
        self.writer.run(command).await
    }

    async fn dead_events(&self, after: u64, limit: usize) -> Result<Vec<DeadEvent>, MetadataError> {
        let rows: Vec<DeadEventRow> = sqlx::query_as(event_sql::DEAD_EVENTS)
            .bind(sought(after))
            .bind(limited(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(engine("list dead events"))?;
        rows.into_iter().map(DeadEvent::try_from).collect()
    }

    async fn replay_event(&self, id: &EventId, now: Timestamp) -> Result<bool, MetadataError> {
        self.writer.run(ReplayEvent { id: *id, now }).await
    }

    async fn forget_dead_events(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<u64, MetadataError> {
        self.writer.run(ForgetDeadEvents { before, limit }).await
    }
}

/// See [`record_attempt`](EventStore::record_attempt).
#[derive(Debug)]
struct RecordAttempt {
    id: EventId,
    attempt: Attempt,
    now: Timestamp,
}

impl Command for RecordAttempt {
    type Answer = ();
    const DOING: &'static str = "record an attempt to deliver an event";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<(), MetadataError> {
        let id = self.id.to_string();
        let pending = event_sql::SUBJECT_OF_PENDING;
        let Some(subject) = subject(transaction, pending, &id, Self::DOING).await? else {
            return Ok(());
        };
        let change = match &self.attempt {
            Attempt::Delivered => sqlx::query(event_sql::DELETE_EVENT).bind(id),
            Attempt::Failed { error, retry_at } => sqlx::query(event_sql::POSTPONE_EVENT)
                .bind(id)
                .bind(error.as_str())
                .bind(retry_at.as_millis()),
            Attempt::GivenUp { error } => sqlx::query(event_sql::GIVE_EVENT_UP)
                .bind(id)
                .bind(error.as_str())
                .bind(self.now.as_millis()),
        };
        exactly(1, transaction, change, Self::DOING).await?;
        call_first(transaction, &subject, self.now, Self::DOING).await
    }
}

/// See [`replay_event`](EventStore::replay_event).
#[derive(Debug)]
struct ReplayEvent {
    id: EventId,
    now: Timestamp,
}

impl Command for ReplayEvent {
    type Answer = bool;
    const DOING: &'static str = "replay an event";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<bool, MetadataError> {
        let id = self.id.to_string();
        let dead = event_sql::SUBJECT_OF_DEAD;
        let Some(subject) = subject(transaction, dead, &id, Self::DOING).await? else {
            return Ok(false);
        };
        let rest = sqlx::query(event_sql::REST_FIRST_EVENT)
            .bind(subject.as_str())
            .bind(id.as_str());
        affected(transaction, rest, Self::DOING).await?;
        let revive = sqlx::query(event_sql::REVIVE_EVENT).bind(id);
        exactly(1, transaction, revive, Self::DOING).await?;
        call_first(transaction, &subject, self.now, Self::DOING).await?;
        Ok(true)
    }
}

/// See [`forget_dead_events`](EventStore::forget_dead_events).
#[derive(Debug)]
struct ForgetDeadEvents {
    before: Timestamp,
    limit: usize,
}

impl Command for ForgetDeadEvents {
    type Answer = u64;
    const DOING: &'static str = "forget dead events";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<u64, MetadataError> {
        let forget = sqlx::query(event_sql::FORGET_DEAD_EVENTS)
            .bind(self.before.as_millis())
            .bind(limited(self.limit));
        affected(transaction, forget, Self::DOING).await
    }
}

/// Records an event beside what it tells of, if there is one to be recorded.
pub(super) async fn record_event(
    transaction: &mut Transaction<'_>,
    event: Option<&Event>,
    doing: &'static str,
) -> Result<(), MetadataError> {
    let Some(event) = event else {
        return Ok(());
    };
    let record = sqlx::query(event_sql::RECORD_EVENT)
        .bind(event.id.to_string())
        .bind(event.kind.as_str())
        .bind(event.subject.as_str())
        .bind(event.payload.as_str())
        .bind(event.created_at.as_millis());
    exactly(1, transaction, record, doing).await
}

async fn subject(
    transaction: &mut Transaction<'_>,
    statement: &'static str,
    id: &str,
    doing: &'static str,
) -> Result<Option<String>, MetadataError> {
    sqlx::query_scalar(statement)
        .bind(id)
        .fetch_optional(&mut *transaction.connection)
        .await
        .map_err(engine(doing))
}

/// Makes the first pending event of a subject due.
async fn call_first(
    transaction: &mut Transaction<'_>,
    subject: &str,
    now: Timestamp,
    doing: &'static str,
) -> Result<(), MetadataError> {
    let call = sqlx::query(event_sql::CALL_FIRST_EVENT)
        .bind(subject)
        .bind(now.as_millis());
    affected(transaction, call, doing).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::tests::find_their_indexes;
    use super::*;

    #[tokio::test]
    async fn each_statement_finds_its_index() {
        let by_id = "events_id (id=?)";
        let first = "events_pending (subject=?)";
        find_their_indexes(&[
            (event_sql::RECORD_EVENT, first),
            (event_sql::DUE_EVENTS, "events_due_at (due_at<?)"),
            (event_sql::SUBJECT_OF_PENDING, by_id),
            (event_sql::SUBJECT_OF_DEAD, by_id),
            (event_sql::DELETE_EVENT, by_id),
            (event_sql::POSTPONE_EVENT, by_id),
            (event_sql::GIVE_EVENT_UP, by_id),
            (event_sql::REVIVE_EVENT, by_id),
            (event_sql::CALL_FIRST_EVENT, first),
            (event_sql::REST_FIRST_EVENT, first),
            (event_sql::DEAD_EVENTS, "events_dead (position>?)"),
            (event_sql::FORGET_DEAD_EVENTS, "events_dead_at (dead_at<?)"),
        ])
        .await;
    }
}
