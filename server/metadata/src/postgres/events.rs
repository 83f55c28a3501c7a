//! Events in PostgreSQL. Whatever changes which event of a subject is the first locks the subject.

use async_trait::async_trait;
use domain::Timestamp;
use domain::event_store::{Attempt, DeadEvent, EventStore, PendingEvent};
use domain::events::{Event, EventId};
use domain::metadata_store::MetadataError;

use sqlx::PgConnection;

use super::transaction::{Command, affected, engine, exactly};
use super::{PostgresStore, locks};
use crate::event_rows::{DeadEventRow, EventRow};
use crate::event_sql;
use crate::values::{limited, sought};

#[async_trait]
impl EventStore for PostgresStore {
    async fn due_events(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<PendingEvent>, MetadataError> {
        let rows: Vec<EventRow> = self
            .read("find due events", || {
                sqlx::query_as(event_sql::DUE_EVENTS)
                    .bind(now.as_millis())
                    .bind(limited(limit))
                    .fetch_all(&self.pool)
            })
            .await?;
        rows.into_iter().map(PendingEvent::try_from).collect()
    }

    async fn record_attempt(
        &self,
        id: &EventId,
        attempt: &Attempt,
        now: Timestamp,
    ) -> Result<(), MetadataError> {
        self.run(RecordAttempt { id, attempt, now }).await
    }

    async fn dead_events(&self, after: u64, limit: usize) -> Result<Vec<DeadEvent>, MetadataError> {
        let rows: Vec<DeadEventRow> = self
            .read("list dead events", || {
                sqlx::query_as(event_sql::DEAD_EVENTS)
                    .bind(sought(after))
                    .bind(limited(limit))
                    .fetch_all(&self.pool)
            })
            .await?;
        rows.into_iter().map(DeadEvent::try_from).collect()
    }

    async fn replay_event(&self, id: &EventId, now: Timestamp) -> Result<bool, MetadataError> {
        self.run(ReplayEvent { id, now }).await
    }

    async fn forget_dead_events(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<u64, MetadataError> {
        self.run(ForgetDeadEvents { before, limit }).await
    }
}

/// See [`record_attempt`](EventStore::record_attempt).
struct RecordAttempt<'a> {
    id: &'a EventId,
    attempt: &'a Attempt,
    now: Timestamp,
}

impl Command for RecordAttempt<'_> {
    type Answer = ();
    const DOING: &'static str = "record an attempt to deliver an event";

    async fn run(&self, connection: &mut PgConnection) -> Result<(), MetadataError> {
        let id = self.id.to_string();
        let pending = event_sql::SUBJECT_OF_PENDING;
        let Some(subject) = subject(connection, pending, &id, Self::DOING).await? else {
            return Ok(());
        };
        locks::subject(connection, &subject, Self::DOING).await?;
        let change = match self.attempt {
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
        // No row: another recorded its attempt first.
        affected(connection, change, Self::DOING).await?;
        call_first(connection, &subject, self.now, Self::DOING).await
    }
}

/// See [`replay_event`](EventStore::replay_event).
struct ReplayEvent<'a> {
    id: &'a EventId,
    now: Timestamp,
}

impl Command for ReplayEvent<'_> {
    type Answer = bool;
    const DOING: &'static str = "replay an event";

    async fn run(&self, connection: &mut PgConnection) -> Result<bool, MetadataError> {
        let id = self.id.to_string();
        let dead = event_sql::SUBJECT_OF_DEAD;
        let Some(subject) = subject(connection, dead, &id, Self::DOING).await? else {
            return Ok(false);
        };
        locks::subject(connection, &subject, Self::DOING).await?;
        let rest = sqlx::query(event_sql::REST_FIRST_EVENT)
            .bind(subject.as_str())
            .bind(id.as_str());
        affected(connection, rest, Self::DOING).await?;
        let revive = sqlx::query(event_sql::REVIVE_EVENT).bind(id);
        let revived = affected(connection, revive, Self::DOING).await?;
        call_first(connection, &subject, self.now, Self::DOING).await?;
        Ok(revived == 1)
    }
}

/// See [`forget_dead_events`](EventStore::forget_dead_events).
struct ForgetDeadEvents {
    before: Timestamp,
    limit: usize,
}

impl Command for ForgetDeadEvents {
    type Answer = u64;
    const DOING: &'static str = "forget dead events";

    async fn run(&self, connection: &mut PgConnection) -> Result<u64, MetadataError> {
        let forget = sqlx::query(event_sql::FORGET_DEAD_EVENTS)
            .bind(self.before.as_millis())
            .bind(limited(self.limit));
        affected(connection, forget, Self::DOING).await
    }
}

/// Records an event beside what it tells of, if there is one to be recorded.
pub(super) async fn record_event(
    connection: &mut PgConnection,
    event: Option<&Event>,
    doing: &'static str,
) -> Result<(), MetadataError> {
    let Some(event) = event else {
        return Ok(());
    };
    locks::subject(connection, &event.subject, doing).await?;
    let record = sqlx::query(event_sql::RECORD_EVENT)
        .bind(event.id.to_string())
        .bind(event.kind.as_str())
        .bind(event.subject.as_str())
        .bind(event.payload.as_str())
        .bind(event.created_at.as_millis());
    exactly(1, connection, record, doing).await
}

async fn subject(
    connection: &mut PgConnection,
    statement: &'static str,
    id: &str,
    doing: &'static str,
) -> Result<Option<String>, MetadataError> {
    sqlx::query_scalar(statement)
        .bind(id)
        .fetch_optional(&mut *connection)
        .await
        .map_err(engine(doing))
}

/// Makes the first pending event of a subject due.
async fn call_first(
    connection: &mut PgConnection,
    subject: &str,
    now: Timestamp,
    doing: &'static str,
) -> Result<(), MetadataError> {
    let call = sqlx::query(event_sql::CALL_FIRST_EVENT)
        .bind(subject)
        .bind(now.as_millis());
    affected(connection, call, doing).await.map(drop)
}
