//! Events in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::MemoryMetadataStore;
use domain::Timestamp;
use domain::event::{Event, EventId};
use domain::event_store::{Attempt, DeadEvent, EventStore, PendingEvent};
use domain::metadata_store::MetadataError;

#[derive(Debug, Default)]
pub(super) struct EventFacts {
    last_position: u64,
    by_position: BTreeMap<u64, Record>,
}

#[derive(Debug)]
struct Record {
    event: Event,
    failures: u32,
    last_error: Option<String>,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Waits for older events of its subject.
    Waiting,
    /// First of its subject, and due at this time.
    First(Timestamp),
    /// Given up at this time.
    Dead(Timestamp),
}

impl Record {
    fn is_dead(&self) -> bool {
        matches!(self.state, State::Dead(_))
    }
}

impl EventFacts {
    pub(super) fn record(&mut self, event: Option<&Event>) {
        let Some(event) = event else {
            return;
        };
        self.last_position += 1;
        let record = Record {
            event: event.clone(),
            failures: 0,
            last_error: None,
            state: State::Waiting,
        };
        self.by_position.insert(self.last_position, record);
        self.call_first(&event.subject, event.created_at);
    }

    /// Makes the first pending event of a subject due, unless it already is, and the others wait.
    fn call_first(&mut self, subject: &str, now: Timestamp) {
        let mut pending = self
            .by_position
            .values_mut()
            .filter(|record| record.event.subject == subject && !record.is_dead());
        if let Some(first) = pending.next()
            && first.state == State::Waiting
        {
            first.state = State::First(now);
        }
        pending.for_each(|later| later.state = State::Waiting);
    }

    fn position(&self, id: &EventId, dead: bool) -> Option<u64> {
        self.by_position
            .iter()
            .find(|(_, record)| record.event.id == *id && record.is_dead() == dead)
            .map(|(position, _)| *position)
    }

    fn record_attempt(&mut self, id: &EventId, attempt: &Attempt, now: Timestamp) {
        let Some(position) = self.position(id, false) else {
            return;
        };
        let Some(mut record) = self.by_position.remove(&position) else {
            return;
        };
        let subject = record.event.subject.clone();
        let (state, error) = match (attempt, &record.state) {
            (Attempt::Delivered, _) => return self.call_first(&subject, now),
            (Attempt::Failed { error, .. }, State::Waiting) => (State::Waiting, error),
            (Attempt::Failed { error, retry_at }, _) => (State::First(*retry_at), error),
            (Attempt::GivenUp { error }, _) => (State::Dead(now), error),
        };
        record.state = state;
        record.failures += 1;
        record.last_error = Some(error.clone());
        self.by_position.insert(position, record);
        self.call_first(&subject, now);
    }

    fn replay(&mut self, id: &EventId, now: Timestamp) -> bool {
        let Some(position) = self.position(id, true) else {
            return false;
        };
        let Some(record) = self.by_position.get_mut(&position) else {
            return false;
        };
        record.state = State::Waiting;
        record.failures = 0;
        record.last_error = None;
        let subject = record.event.subject.clone();
        self.call_first(&subject, now);
        true
    }
}

#[async_trait]
impl EventStore for MemoryMetadataStore {
    async fn due_events(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<PendingEvent>, MetadataError> {
        let facts = self.facts();
        let mut due: Vec<(Timestamp, u64, &Record)> = facts
            .events
            .by_position
            .iter()
            .filter_map(|(position, record)| match record.state {
                State::First(due_at) if due_at <= now => Some((due_at, *position, record)),
                State::First(_) | State::Waiting | State::Dead(_) => None,
            })
            .collect();
        due.sort_by_key(|(due_at, position, _)| (*due_at, *position));
        let due = due.into_iter().take(limit);
        Ok(due
            .map(|(.., record)| PendingEvent {
                event: record.event.clone(),
                failures: record.failures,
            })
            .collect())
    }

    async fn record_attempt(
        &self,
        id: &EventId,
        attempt: &Attempt,
        now: Timestamp,
    ) -> Result<(), MetadataError> {
        self.facts().events.record_attempt(id, attempt, now);
        Ok(())
    }

    async fn dead_events(&self, after: u64, limit: usize) -> Result<Vec<DeadEvent>, MetadataError> {
        let facts = self.facts();
        let dead = facts
            .events
            .by_position
            .iter()
            .filter(|(position, _)| **position > after)
            .filter_map(|(position, record)| match record.state {
                State::Dead(dead_at) => Some(DeadEvent {
                    event: record.event.clone(),
                    failures: record.failures,
                    last_error: record.last_error.clone()?,
                    dead_at,
                    position: *position,
                }),
                State::Waiting | State::First(_) => None,
            });
        Ok(dead.take(limit).collect())
    }

    async fn replay_event(&self, id: &EventId, now: Timestamp) -> Result<bool, MetadataError> {
        Ok(self.facts().events.replay(id, now))
    }

    async fn forget_dead_events(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<u64, MetadataError> {
        let mut facts = self.facts();
        let mut dead: Vec<(Timestamp, u64)> = facts
            .events
            .by_position
            .iter()
            .filter_map(|(position, record)| match record.state {
                State::Dead(dead_at) if dead_at < before => Some((dead_at, *position)),
                State::Dead(_) | State::Waiting | State::First(_) => None,
            })
            .collect();
        dead.sort_unstable();
        dead.truncate(limit);
        for (_, position) in &dead {
            facts.events.by_position.remove(position);
        }
        Ok(dead.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::MemoryMetadataStore;
    use crate::event_store::EventPorts;

    async fn fresh() -> (EventPorts, ()) {
        let store = Arc::new(MemoryMetadataStore::default());
        let ports = EventPorts {
            metadata: Arc::clone(&store) as _,
            packs: Arc::clone(&store) as _,
            events: store,
        };
        (ports, ())
    }

    crate::event_store_contract!(fresh);
}
