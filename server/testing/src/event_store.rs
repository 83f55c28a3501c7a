//! Contract of event stores: one function for each behaviour, each given all ports of an empty
//! store.
//!
//! [`event_store_contract!`](crate::event_store_contract) generates a test for each of them.

#![expect(
    clippy::unwrap_used,
    reason = "a suite of tests, though not compiled as one"
)]

use std::collections::HashSet;
use std::slice::from_ref;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;

use super::metadata_store::{completed, file, upload};
use super::pack_store::{draft, version};
use domain::event::{Event, EventId, EventKind};
use domain::event_store::{Attempt, DeadEvent, PendingEvent};
use domain::file::WriteCondition;
use domain::ids::SystemRandomness;
use domain::metadata_store::Written;
use domain::pack_store::Published;
use domain::{EventStore, File, MetadataStore, PackStore, Timestamp};

/// Generates a test for each behaviour that an event store must have.
///
/// `$fresh` names an async function that returns the [`EventPorts`] of an empty store and a value
/// that is kept until the test ends.
#[macro_export]
macro_rules! event_store_contract {
    ($fresh:path) => {
        $crate::event_store_contract! {
            $fresh =>
            an_event_is_recorded_with_what_it_tells_of
            what_did_not_happen_is_not_told
            a_delivered_event_is_forgotten
            events_of_a_subject_are_due_one_after_the_other
            a_failing_subject_holds_no_other_up
            the_longest_due_come_first
            a_failed_event_is_due_again_in_its_time
            a_dead_event_lets_the_next_one_go
            a_late_attempt_changes_nothing
            dead_events_are_listed_in_pages
            a_replayed_event_goes_before_later_ones
            a_replayed_event_waits_for_older_ones
            only_a_dead_event_is_replayed
            an_attempt_under_way_outlives_a_replay
            dead_events_are_forgotten_in_time
            events_come_in_the_order_of_what_they_tell
            no_event_is_left_behind
        }
    };
    ($fresh:path => $($behaviour:ident)*) => {
        $(
            #[tokio::test]
            async fn $behaviour() {
                let (ports, _keep) = $fresh().await;
                $crate::event_store::$behaviour(&ports).await;
                ports.metadata.close().await;
            }
        )*
    };
}

/// Ports of one store.
#[derive(Debug, Clone)]
pub struct EventPorts {
    /// Port of uploads and files.
    pub metadata: Arc<dyn MetadataStore>,
    /// Port of packs.
    pub packs: Arc<dyn PackStore>,
    /// Port of events.
    pub events: Arc<dyn EventStore>,
}

/// Time from which the tests count.
const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

const ALWAYS: WriteCondition = WriteCondition {
    if_match: None,
    if_none_match: None,
    if_unmodified_since: None,
};

/// Returns the time `seconds` after `START`.
fn at(seconds: u64) -> Timestamp {
    START.plus(Duration::from_secs(seconds))
}

/// Returns a new event about `subject`, created `seconds` after `START`.
pub fn event(subject: &str, seconds: u64) -> Event {
    let id = EventId::random(&SystemRandomness);
    Event {
        id,
        kind: EventKind::UploadCompleted,
        subject: subject.to_owned(),
        payload: format!(r#"{{"its": "Ünïcödé \u0000 {id}"}}"#),
        created_at: at(seconds),
    }
}

fn failed(retry_at: Timestamp) -> Attempt {
    Attempt::Failed {
        error: "answered 500".to_owned(),
        retry_at,
    }
}

fn given_up() -> Attempt {
    Attempt::GivenUp {
        error: "answered 410".to_owned(),
    }
}

/// Operations that several tests share.
impl EventPorts {
    /// Records an event about `subject`, together with an unrelated file.
    async fn record(&self, subject: &str, seconds: u64) -> Event {
        let event = event(subject, seconds);
        self.put(&file("path", "content", START), &event).await;
        event
    }

    async fn put(&self, file: &File, event: &Event) {
        let put = self.metadata.put_file(file, &ALWAYS, Some(event)).await;
        put.unwrap();
    }

    /// Returns the events that are due `seconds` after `START`, without their failures.
    async fn due(&self, seconds: u64) -> Vec<Event> {
        let due = self.events.due_events(at(seconds), 100).await.unwrap();
        due.into_iter().map(|pending| pending.event).collect()
    }

    async fn attempt(&self, event: &Event, attempt: &Attempt, seconds: u64) {
        let recorded = self
            .events
            .record_attempt(&event.id, attempt, at(seconds))
            .await;
        recorded.unwrap();
    }

    async fn dead(&self) -> Vec<DeadEvent> {
        self.events.dead_events(0, 100).await.unwrap()
    }

    async fn replay(&self, event: &Event, seconds: u64) -> bool {
        let replayed = self.events.replay_event(&event.id, at(seconds)).await;
        replayed.unwrap()
    }
}

/// An event is recorded with its fact: a completed upload, a file without an upload, a version.
pub async fn an_event_is_recorded_with_what_it_tells_of(ports: &EventPorts) {
    let store = &*ports.metadata;
    let [of_upload, of_file, of_version] = [1, 2, 3].map(|n| event(&format!("subject {n}"), n));
    let of_version = Event {
        kind: EventKind::VersionPublished,
        ..of_version
    };
    let upload = upload("a");
    store.insert_upload(&upload).await.unwrap();
    let completed = completed("x", at(1));
    let written = store.complete_upload(&upload, &completed, at(9), Some(&of_upload));
    assert_eq!(written.await.unwrap(), Written::Created);
    ports.put(&file("b", "x", at(2)), &of_file).await;
    let draft = draft("maps");
    ports.packs.insert_draft(&draft).await.unwrap();
    let version = version("maps", 1);
    let published = ports
        .packs
        .publish_version(&draft.id, &version, &[], at(9), Some(&of_version))
        .await;
    assert_eq!(published.unwrap(), Published::Version(1));
    let due = ports.events.due_events(at(9), 100).await.unwrap();
    let never_tried = |event: &Event| PendingEvent {
        event: event.clone(),
        failures: 0,
    };
    assert_eq!(due, [&of_upload, &of_file, &of_version].map(never_tried));
}

/// A change that is refused records no event, and neither does a change without an event.
pub async fn what_did_not_happen_is_not_told(ports: &EventPorts) {
    let store = &*ports.metadata;
    let event = event("a", 1);
    let upload = upload("a");
    store.insert_upload(&upload).await.unwrap();
    store.claim_upload(&upload.id, None, None).await.unwrap();
    let completed = completed("x", at(1));
    let written = store.complete_upload(&upload, &completed, at(9), Some(&event));
    assert_eq!(written.await.unwrap(), Written::Fenced);
    let never = WriteCondition {
        if_match: Some("*".to_owned()),
        if_none_match: None,
        if_unmodified_since: None,
    };
    let file = file("b", "x", START);
    let written = store.put_file(&file, &never, Some(&event)).await.unwrap();
    assert_eq!(written, Written::ConditionFailed(None));
    let draft = draft("maps");
    ports.packs.insert_draft(&draft).await.unwrap();
    let second = version("maps", 2);
    let published = ports
        .packs
        .publish_version(&draft.id, &second, &[], at(9), Some(&event))
        .await;
    assert_eq!(published.unwrap(), Published::NextIs(1));
    store.put_file(&file, &ALWAYS, None).await.unwrap();
    assert_eq!(ports.due(9).await, []);
}

pub async fn a_delivered_event_is_forgotten(ports: &EventPorts) {
    let event = ports.record("a", 1).await;
    ports.attempt(&event, &Attempt::Delivered, 2).await;
    assert_eq!(ports.due(9).await, []);
    assert_eq!(ports.dead().await, []);
}

pub async fn events_of_a_subject_are_due_one_after_the_other(ports: &EventPorts) {
    let mut recorded = Vec::new();
    for second in 0..4 {
        recorded.push(ports.record("a", second).await);
    }
    // The order of recording counts, not the time of creation.
    recorded.push(ports.record("a", 0).await);
    for event in recorded {
        assert_eq!(ports.due(9).await, from_ref(&event));
        ports.attempt(&event, &Attempt::Delivered, 9).await;
    }
    assert_eq!(ports.due(9).await, []);
}

pub async fn a_failing_subject_holds_no_other_up(ports: &EventPorts) {
    let first = ports.record("a", 1).await;
    let second = ports.record("a", 2).await;
    let other = ports.record("b", 3).await;
    ports.attempt(&first, &failed(at(100)), 4).await;
    assert_eq!(ports.due(99).await, [other]);
    ports.attempt(&first, &Attempt::Delivered, 101).await;
    assert!(ports.due(101).await.contains(&second));
}

pub async fn the_longest_due_come_first(ports: &EventPorts) {
    let late = ports.record("a", 7).await;
    let early = ports.record("b", 5).await;
    let failing = ports.record("c", 1).await;
    ports.attempt(&failing, &failed(at(6)), 2).await;
    let order = [early.clone(), failing.clone(), late];
    assert_eq!(ports.due(7).await, order);
    assert_eq!(ports.due(6).await, order[..2]);
    let limited = ports.events.due_events(at(7), 1).await.unwrap();
    assert_eq!(limited.len(), 1);
    assert_eq!(limited[0].event, early);
}

pub async fn a_failed_event_is_due_again_in_its_time(ports: &EventPorts) {
    let event = ports.record("a", 1).await;
    for failures in 1..4_u32 {
        let second = u64::from(failures) * 10;
        ports.attempt(&event, &failed(at(second)), 2).await;
        assert_eq!(ports.due(second - 1).await, []);
        let due = ports.events.due_events(at(second), 9).await.unwrap();
        assert_eq!((due[0].failures, &due[0].event), (failures, &event));
    }
}

pub async fn a_dead_event_lets_the_next_one_go(ports: &EventPorts) {
    let first = ports.record("a", 1).await;
    let second = ports.record("a", 2).await;
    ports.attempt(&first, &failed(at(50)), 3).await;
    ports.attempt(&first, &given_up(), 4).await;
    assert_eq!(ports.due(9).await, [second]);
    let dead = ports.dead().await;
    let position = dead[0].position;
    assert_eq!(
        dead,
        [DeadEvent {
            event: first,
            failures: 2,
            last_error: "answered 410".to_owned(),
            dead_at: at(4),
            position,
        }]
    );
    assert!(position > 0);
}

/// The result of an attempt is ignored if another attempt has delivered the event or given it up.
pub async fn a_late_attempt_changes_nothing(ports: &EventPorts) {
    let first = ports.record("a", 1).await;
    let second = ports.record("a", 2).await;
    ports.attempt(&first, &Attempt::Delivered, 3).await;
    for late in [failed(at(99)), given_up(), Attempt::Delivered] {
        ports.attempt(&first, &late, 4).await;
        assert_eq!(ports.due(9).await, from_ref(&second));
    }
    ports.attempt(&second, &given_up(), 5).await;
    let dead = ports.dead().await;
    for late in [failed(at(99)), Attempt::Delivered] {
        ports.attempt(&second, &late, 6).await;
        assert_eq!(ports.dead().await, dead);
    }
}

pub async fn dead_events_are_listed_in_pages(ports: &EventPorts) {
    let mut recorded = Vec::new();
    for second in 0..5 {
        let event = ports.record(&format!("subject {second}"), second).await;
        recorded.push(event);
    }
    // Dead events are listed in the order of recording, not of giving up.
    for event in recorded.iter().rev() {
        ports.attempt(event, &given_up(), 9).await;
    }
    let mut listed = Vec::new();
    let mut after = 0;
    loop {
        let page = ports.events.dead_events(after, 2).await.unwrap();
        assert!(page.len() <= 2);
        let Some(last) = page.last() else {
            break;
        };
        after = last.position;
        listed.extend(page.into_iter().map(|dead| dead.event));
    }
    assert_eq!(listed, recorded);
    assert_eq!(ports.events.dead_events(u64::MAX, 2).await.unwrap(), []);
}

pub async fn a_replayed_event_goes_before_later_ones(ports: &EventPorts) {
    let first = ports.record("a", 1).await;
    let second = ports.record("a", 2).await;
    ports.attempt(&first, &given_up(), 3).await;
    assert_eq!(ports.due(9).await, from_ref(&second));
    assert!(ports.replay(&first, 4).await);
    assert_eq!(ports.dead().await, []);
    let due = ports.events.due_events(at(9), 9).await.unwrap();
    assert_eq!(due.len(), 1);
    assert_eq!((due[0].failures, &due[0].event), (0, &first));
    ports.attempt(&first, &Attempt::Delivered, 5).await;
    assert_eq!(ports.due(9).await, [second]);
}

/// A replayed event waits for an older event of its subject, whose retry time stays.
pub async fn a_replayed_event_waits_for_older_ones(ports: &EventPorts) {
    let first = ports.record("a", 1).await;
    let second = ports.record("a", 2).await;
    for event in [&first, &second] {
        ports.attempt(event, &given_up(), 3).await;
    }
    assert!(ports.replay(&first, 4).await);
    ports.attempt(&first, &failed(at(50)), 4).await;
    assert!(ports.replay(&second, 5).await);
    assert_eq!(ports.due(49).await, []);
    assert_eq!(ports.due(50).await, from_ref(&first));
    ports.attempt(&first, &Attempt::Delivered, 50).await;
    assert_eq!(ports.due(50).await, [second]);
}

pub async fn only_a_dead_event_is_replayed(ports: &EventPorts) {
    let pending = ports.record("a", 1).await;
    let unknown = event("a", 2);
    assert!(!ports.replay(&pending, 3).await);
    assert!(!ports.replay(&unknown, 3).await);
    assert_eq!(ports.due(9).await, from_ref(&pending));
    ports.attempt(&pending, &given_up(), 4).await;
    assert!(ports.replay(&pending, 5).await);
    assert!(!ports.replay(&pending, 5).await);
}

/// The outcome of an attempt is recorded even if an older event of the subject was replayed
/// meanwhile.
pub async fn an_attempt_under_way_outlives_a_replay(ports: &EventPorts) {
    for attempt in [Attempt::Delivered, failed(at(6)), given_up()] {
        let first = ports.record("a", 1).await;
        let second = ports.record("a", 2).await;
        ports.attempt(&first, &given_up(), 3).await;
        assert!(ports.replay(&first, 4).await);
        ports.attempt(&second, &attempt, 5).await;
        assert_eq!(ports.due(9).await, from_ref(&first), "{attempt:?}");
        ports.attempt(&first, &Attempt::Delivered, 9).await;
        let is_next = matches!(attempt, Attempt::Failed { .. });
        assert_eq!(ports.due(9).await.contains(&second), is_next);
        ports.attempt(&second, &Attempt::Delivered, 9).await;
        assert_eq!(ports.due(9).await, []);
    }
}

pub async fn dead_events_are_forgotten_in_time(ports: &EventPorts) {
    let mut recorded = Vec::new();
    for second in 1..5 {
        let event = ports.record(&format!("subject {second}"), 0).await;
        ports.attempt(&event, &given_up(), second).await;
        recorded.push(event);
    }
    let forget = async |before, limit| {
        let forgotten = ports.events.forget_dead_events(at(before), limit).await;
        forgotten.unwrap()
    };
    assert_eq!(forget(1, 9).await, 0);
    assert_eq!(forget(4, 2).await, 2);
    let left: Vec<Event> = ports.dead().await.into_iter().map(|d| d.event).collect();
    assert_eq!(left, recorded[2..]);
    assert_eq!(forget(4, 2).await, 1);
    assert_eq!(forget(4, 2).await, 0);
    assert_eq!(ports.dead().await.len(), 1);
}

/// Events follow the order of their facts: after concurrent writes to one path, the last event is
/// about the file that stays.
pub async fn events_come_in_the_order_of_what_they_tell(ports: &EventPorts) {
    let writers = (0..24).map(|n| async move {
        let (file, event) = (file("path", &format!("content {n}"), START), event("a", 0));
        ports.put(&file, &event).await;
        (event.id, file)
    });
    let written = join_all(writers).await;
    let mut last = None;
    while let [event] = &*ports.due(9).await {
        ports.attempt(event, &Attempt::Delivered, 9).await;
        last = Some(event.id);
    }
    let stays = ports.metadata.file(&"path".parse().unwrap()).await.unwrap();
    let told = written.into_iter().find(|(id, _)| Some(*id) == last);
    assert_eq!(
        told.map(|(_, file)| file.content),
        stays.map(|file| file.content)
    );
}

/// An event becomes due even if it is recorded at the moment when the only other one of its subject
/// is delivered.
///
/// Each recorder records its next event once its last one was delivered.
pub async fn no_event_is_left_behind(ports: &EventPorts) {
    const RECORDERS: usize = 3;
    const EACH: usize = 40;
    let delivered = watch::Sender::new(HashSet::new());
    let recording = join_all((0..RECORDERS).map(|recorder| {
        let mut delivered = delivered.subscribe();
        async move {
            let file = file(&format!("{recorder}"), "x", START);
            for _ in 0..EACH {
                let event = event("a", 0);
                ports.put(&file, &event).await;
                let own = |ids: &HashSet<EventId>| ids.contains(&event.id);
                delivered.wait_for(own).await.unwrap();
            }
        }
    }));
    let delivering = async {
        while delivered.borrow().len() < RECORDERS * EACH {
            for event in ports.due(9).await {
                ports.attempt(&event, &Attempt::Delivered, 9).await;
                delivered.send_if_modified(|ids| ids.insert(event.id));
            }
            // In memory, nothing else suspends this loop, and the recorders would never run.
            tokio::task::yield_now().await;
        }
    };
    let both = futures::future::join(recording, delivering);
    let done = tokio::time::timeout(Duration::from_secs(60), both).await;
    assert!(done.is_ok(), "an event never came to be due");
    assert_eq!(ports.due(9).await, []);
}
