//! Each method of the ports of the metadata store.

use std::collections::BTreeSet;
use std::slice::from_ref;
use std::sync::Arc;
use std::time::Duration;

use archive::PackName;
use domain::digest::Sha256Digest;
use domain::event::{Event, EventId};
use domain::event_store::Attempt;
use domain::file::{File, WriteCondition};
use domain::ids::SystemRandomness;
use domain::metadata_store::{Ask, Hold, MetadataError, node_lease};
use domain::pack::{DraftRecord, PackVersion};
use domain::upload::{Gone, Upload};
use domain::{EventStore, MetadataStore, NodeId, PackStore, Timestamp};
use futures::StreamExt as _;
use testing::MemoryMetadataStore;
use testing::event_store::event;
use testing::metadata_store::{completed, file, progress, upload};
use testing::pack_store::{draft, version};

use super::{Call, Recorded, call, counts_once, counts_when_dropped};
use crate::operation::{ErrorKind, Failure};
use crate::table::METADATA_STORE;
use crate::{event_store, metadata_store, pack_store};

/// A store of which every method does the same.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stub {
    Fails(ErrorKind),
    /// Never returns.
    Hangs,
}

impl Stub {
    pub(crate) async fn answer<T>(self) -> Result<T, MetadataError> {
        let (doing, source) = ("do what a test planned to fail", "planned");
        Err(match self {
            Self::Hangs => std::future::pending().await,
            Self::Fails(ErrorKind::Full) => MetadataError::Full,
            Self::Fails(ErrorKind::Unreachable) => MetadataError::Unreachable {
                doing,
                source: source.into(),
            },
            Self::Fails(ErrorKind::Inconsistent) => MetadataError::Inconsistent {
                table: "uploads",
                row: String::new(),
                reason: source.to_owned(),
            },
            Self::Fails(_) => MetadataError::Failed {
                doing,
                source: source.into(),
            },
        })
    }
}

/// Implements a port for [`Stub`], from the list that the port is observed by.
macro_rules! stub {
    (MetadataStore $($methods:tt)*) => {
        $crate::tests::stub! {
            @ MetadataStore
            {
                fn asks(&self) -> BoxStream<'static, Ask> {
                    futures::stream::pending().boxed()
                }

                fn is_shared(&self) -> bool {
                    false
                }

                async fn ended(&self) {}

                async fn close(&self) {}
            }
            $($methods)*
        }
    };
    (PackStore $($methods:tt)*) => { $crate::tests::stub! { @ PackStore {} $($methods)* } };
    (EventStore $($methods:tt)*) => { $crate::tests::stub! { @ EventStore {} $($methods)* } };
    (
        @ $port:ident { $($beside:tt)* }
        $(async fn $method:ident(&self $(, $argument:ident: $type:ty)*) -> $output:ty;)*
    ) => {
        #[async_trait]
        impl $port for $crate::tests::Stub {
            $(
                async fn $method(&self $(, _: $type)*) -> Result<$output, MetadataError> {
                    self.answer().await
                }
            )*

            $($beside)*
        }
    };
}
pub(crate) use stub;

/// Arguments of calls.
struct Samples {
    upload: Upload,
    file: File,
    event: Event,
    draft: DraftRecord,
    version: PackVersion,
    node: NodeId,
    ask: Ask,
    pack: PackName,
    sha256: Sha256Digest,
}

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const ALWAYS: WriteCondition = WriteCondition {
    if_match: None,
    if_none_match: None,
    if_unmodified_since: None,
};

impl Samples {
    fn new() -> Self {
        let node = NodeId::random(&SystemRandomness);
        let upload = upload("a");
        Self {
            file: file("b", "content", NOW),
            event: event("a", 1),
            draft: draft("pack"),
            version: version("pack", 1),
            node,
            ask: Ask {
                upload: upload.id,
                node,
                epoch: 1,
            },
            upload,
            pack: PackName::parse("pack").unwrap(),
            sha256: Sha256Digest::of(b""),
        }
    }

    fn of_uploads<'a>(&'a self, store: &'a dyn MetadataStore) -> Vec<Call<'a>> {
        let id = &self.upload.id;
        vec![
            call("insert_upload", store.insert_upload(&self.upload)),
            call("upload", store.upload(id)),
            call("claim_upload", store.claim_upload(id, None, None)),
            call("record_progress", async {
                let progress = progress(1, None);
                let recorded = store.record_progress(id, 1, &progress, NOW, Hold::Keep);
                recorded.await
            }),
            call("report_offset", store.report_offset(id, 1, None)),
            call("release_upload", store.release_upload(id, 1)),
            call("ask_to_yield", store.ask_to_yield(&self.ask)),
            call("complete_upload", async {
                let completed = completed("content", NOW);
                let completed = store.complete_upload(&self.upload, &completed, NOW, None);
                completed.await
            }),
            call(
                "end_upload",
                store.end_upload(id, None, Gone::Cancelled, NOW),
            ),
            call("expire_upload", store.expire_upload(id, NOW, NOW)),
            call("open_uploads", store.open_uploads(None, "photo", 1)),
            call("expired_uploads", store.expired_uploads(NOW, self.node, 1)),
            call("forget_uploads", store.forget_uploads(NOW, 1)),
        ]
    }

    fn of_files<'a>(&'a self, store: &'a dyn MetadataStore) -> Vec<Call<'a>> {
        let path = &self.file.path;
        let key = &self.file.content.blob;
        vec![
            call("put_file", store.put_file(&self.file, &ALWAYS, None)),
            call("file", store.file(path)),
            call("delete_file", store.delete_file(path, &ALWAYS, NOW)),
            call("list_files", store.list_files("", None, 1)),
            call("known_blobs", store.known_blobs(from_ref(key))),
            call("doomed_blobs", store.doomed_blobs(NOW, 1)),
            call("forget_blob", store.forget_blob(key)),
            call("lease", store.lease("a", self.node, Duration::from_secs(1))),
            call("release_lease", store.release_lease("a", self.node)),
            call("forget_leases", store.forget_leases(1)),
            call("check", store.check()),
        ]
    }

    fn of_packs<'a>(&'a self, store: &'a dyn PackStore) -> Vec<Call<'a>> {
        let (id, pack, sha256) = (&self.draft.id, &self.pack, &self.sha256);
        vec![
            call("insert_draft", store.insert_draft(&self.draft)),
            call("draft", store.draft(id)),
            call("forget_draft", store.forget_draft(id, NOW)),
            call("expire_draft", store.expire_draft(id, NOW)),
            call("expired_drafts", store.expired_drafts(NOW, 1)),
            call("store_contents", store.store_contents(id, &[], &[], NOW)),
            call("hold_blobs", store.hold_blobs(id, &[])),
            call("drop_contents", store.drop_contents(id, &[], NOW)),
            call("contents", store.contents(&[])),
            call("next_version", store.next_version(pack)),
            call(
                "publish_version",
                store.publish_version(id, &self.version, &[], NOW, None),
            ),
            call("version", store.version(pack, None)),
            call("versions", store.versions(pack, None, 1)),
            call("packs", store.packs(None, 1)),
            call("pack", store.pack(pack)),
            call("retire_version", store.retire_version(pack, 1, NOW)),
            call(
                "register_need",
                store.register_need(pack, 1, sha256, &[], NOW),
            ),
            call("need", store.need(pack, 1, sha256)),
            call("forget_needs", store.forget_needs(NOW, 1)),
        ]
    }

    fn of_events<'a>(&'a self, store: &'a dyn EventStore) -> Vec<Call<'a>> {
        let id: &EventId = &self.event.id;
        vec![
            call("due_events", store.due_events(NOW, 1)),
            call(
                "record_attempt",
                store.record_attempt(id, &Attempt::Delivered, NOW),
            ),
            call("dead_events", store.dead_events(0, 1)),
            call("replay_event", store.replay_event(id, NOW)),
            call("forget_dead_events", store.forget_dead_events(NOW, 1)),
        ]
    }
}

/// One store, observed by each of its ports.
struct Ports {
    facts: Arc<dyn MetadataStore>,
    packs: Arc<dyn PackStore>,
    events: Arc<dyn EventStore>,
}

impl Ports {
    fn over<S: MetadataStore + PackStore + EventStore>(store: S) -> Self {
        let store = Arc::new(store);
        Self {
            facts: metadata_store(Arc::clone(&store) as _),
            packs: pack_store(Arc::clone(&store) as _),
            events: event_store(store),
        }
    }

    fn calls<'a>(&'a self, samples: &'a Samples) -> Vec<Call<'a>> {
        let mut calls = samples.of_uploads(&*self.facts);
        calls.extend(samples.of_files(&*self.facts));
        calls.extend(samples.of_packs(&*self.packs));
        calls.extend(samples.of_events(&*self.events));
        calls
    }
}

#[tokio::test]
async fn every_call_counts_once() {
    let (recorded, samples) = (Recorded::begin(), Samples::new());
    let ports = Ports::over(MemoryMetadataStore::default());
    let calls = ports.calls(&samples);
    let called: BTreeSet<String> = calls.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(called.len(), calls.len(), "no name is used twice");
    assert_eq!(called, recorded.operations(METADATA_STORE.in_flight));
    counts_once(&recorded, &METADATA_STORE, calls, None).await;
}

#[tokio::test]
async fn every_error_counts_by_its_kind() {
    let (recorded, samples) = (Recorded::begin(), Samples::new());
    for kind in MetadataError::KINDS {
        let ports = Ports::over(Stub::Fails(*kind));
        let calls = ports.calls(&samples);
        counts_once(&recorded, &METADATA_STORE, calls, Some(*kind)).await;
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_counts_as_cancelled() {
    let (recorded, samples) = (Recorded::begin(), Samples::new());
    let ports = Ports::over(Stub::Hangs);
    counts_when_dropped(&recorded, &METADATA_STORE, ports.calls(&samples)).await;
}

#[tokio::test]
async fn asks_count_as_they_are_heard() {
    let (recorded, samples) = (Recorded::begin(), Samples::new());
    let ports = Ports::over(MemoryMetadataStore::default());
    let facts = &ports.facts;
    let node = samples.node;
    let name = node_lease(node);
    let alive = facts.lease(&name, node, Duration::from_hours(1));
    assert!(alive.await.unwrap().is_some());
    let upload = Upload {
        holder: Some(node),
        epoch: samples.ask.epoch,
        ..samples.upload
    };
    facts.insert_upload(&upload).await.unwrap();
    let mut heard = facts.asks();
    facts.ask_to_yield(&samples.ask).await.unwrap();
    recorded.changes();
    assert_eq!(heard.next().await, Some(samples.ask));
    assert_eq!(
        recorded.changes(),
        ["longhaul_metadata_store_asks_total{} 1"]
    );
}
