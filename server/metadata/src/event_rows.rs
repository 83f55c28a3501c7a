//! Rows of events and their conversion to values, like [`rows`](crate::rows).

use domain::Timestamp;
use domain::event::Event;
use domain::event_store::{DeadEvent, PendingEvent};
use domain::metadata_store::MetadataError;

use crate::rows::Row;

/// Columns of `events` about the event, without those about its delivery.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct EventRow {
    id: String,
    kind: String,
    subject: String,
    payload: String,
    created_at: i64,
    failures: i64,
}

/// A row of `events` with a dead event.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct DeadEventRow {
    #[sqlx(flatten)]
    event: EventRow,
    last_error: String,
    dead_at: i64,
    position: i64,
}

impl TryFrom<EventRow> for PendingEvent {
    type Error = MetadataError;

    fn try_from(row: EventRow) -> Result<Self, MetadataError> {
        let here = Row {
            table: "events",
            key: &row.id,
        };
        let failures = u32::try_from(row.failures)
            .map_err(|_| here.inconsistent(format!("failures is {}", row.failures)))?;
        Ok(Self {
            event: Event {
                id: here.parse("id", &row.id)?,
                kind: here.parse("kind", &row.kind)?,
                subject: row.subject,
                payload: row.payload,
                created_at: Timestamp::from_millis(row.created_at),
            },
            failures,
        })
    }
}

impl TryFrom<DeadEventRow> for DeadEvent {
    type Error = MetadataError;

    fn try_from(row: DeadEventRow) -> Result<Self, MetadataError> {
        let key = row.event.id.clone();
        let here = Row {
            table: "events",
            key: &key,
        };
        let position = here.count("position", row.position)?;
        let PendingEvent { event, failures } = row.event.try_into()?;
        Ok(Self {
            event,
            failures,
            last_error: row.last_error,
            dead_at: Timestamp::from_millis(row.dead_at),
            position,
        })
    }
}
