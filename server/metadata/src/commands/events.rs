//! Changes of events. A change of the first event of a subject locks the subject.

use domain::Timestamp;
use domain::event::{Event, EventId};
use domain::event_store::Attempt;
use domain::metadata_store::MetadataError;

use crate::engine::{Command, Lock, Transaction};
use crate::event_sql;
use crate::values::{limited, values};

/// See [`record_attempt`](domain::EventStore::record_attempt).
#[derive(Debug)]
pub(crate) struct RecordAttempt {
    pub(crate) id: EventId,
    pub(crate) attempt: Attempt,
    pub(crate) now: Timestamp,
}

impl Command for RecordAttempt {
    type Answer = ();
    const DOING: &'static str = "record an attempt to deliver an event";

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<(), MetadataError> {
        let id = self.id.to_string();
        let id = id.as_str();
        let event = values![id];
        let subject: Option<(String,)> = transaction
            .row(event_sql::SUBJECT_OF_PENDING, event)
            .await?;
        let Some((subject,)) = subject else {
            return Ok(());
        };
        transaction.lock(Lock::Subject(&subject)).await?;
        // No row: another node recorded its attempt first.
        match &self.attempt {
            Attempt::Delivered => {
                transaction
                    .run(event_sql::DELETE_EVENT, values![id])
                    .await?
            }
            Attempt::Failed { error, retry_at } => {
                let values = values![id, error.as_str(), *retry_at];
                transaction.run(event_sql::POSTPONE_EVENT, values).await?
            }
            Attempt::GivenUp { error } => {
                let values = values![id, error.as_str(), self.now];
                transaction.run(event_sql::GIVE_EVENT_UP, values).await?
            }
        };
        call_first(transaction, &subject, self.now).await
    }
}

/// See [`replay_event`](domain::EventStore::replay_event).
#[derive(Debug)]
pub(crate) struct ReplayEvent {
    pub(crate) id: EventId,
    pub(crate) now: Timestamp,
}

impl Command for ReplayEvent {
    type Answer = bool;
    const DOING: &'static str = "replay an event";

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<bool, MetadataError> {
        let id = self.id.to_string();
        let id = id.as_str();
        let event = values![id];
        let subject: Option<(String,)> = transaction.row(event_sql::SUBJECT_OF_DEAD, event).await?;
        let Some((subject,)) = subject else {
            return Ok(false);
        };
        transaction.lock(Lock::Subject(&subject)).await?;
        let first = values![subject.as_str(), id];
        transaction.run(event_sql::REST_FIRST_EVENT, first).await?;
        let revived = transaction
            .run(event_sql::REVIVE_EVENT, values![id])
            .await?;
        call_first(transaction, &subject, self.now).await?;
        Ok(revived == 1)
    }
}

/// See [`forget_dead_events`](domain::EventStore::forget_dead_events).
#[derive(Debug)]
pub(crate) struct ForgetDeadEvents {
    pub(crate) before: Timestamp,
    pub(crate) limit: usize,
}

impl Command for ForgetDeadEvents {
    type Answer = u64;
    const DOING: &'static str = "forget dead events";

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<u64, MetadataError> {
        let values = values![self.before, limited(self.limit)];
        transaction.run(event_sql::FORGET_DEAD_EVENTS, values).await
    }
}

/// Records an event, if there is one, together with the fact that it reports.
pub(super) async fn record_event<T: Transaction>(
    transaction: &mut T,
    event: Option<&Event>,
) -> Result<(), MetadataError> {
    let Some(event) = event else {
        return Ok(());
    };
    transaction.lock(Lock::Subject(&event.subject)).await?;
    let values = values![
        event.id.to_string(),
        event.kind.as_str(),
        event.subject.as_str(),
        event.payload.as_str(),
        event.created_at,
    ];
    transaction
        .exactly(1, event_sql::RECORD_EVENT, values)
        .await
}

/// Makes the first pending event of a subject due.
async fn call_first<T: Transaction>(
    transaction: &mut T,
    subject: &str,
    now: Timestamp,
) -> Result<(), MetadataError> {
    let values = values![subject, now];
    let called = transaction.run(event_sql::CALL_FIRST_EVENT, values).await;
    called.map(drop)
}
