//! A store answers every sequence of calls about packs as the simple one in memory does.

#![expect(
    clippy::unwrap_used,
    reason = "a test, in functions of its own as well"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use testing::postgres::fresh_schema;

use archive::{Deflated, PackName, Sha256Digest};
use domain::file::{Content, File, WriteCondition};
use domain::metadata_store::MetadataError;
use domain::pack::{DraftRecord, PackVersion, Place, StoredContent};
use domain::{BlobKey, Timestamp};
use metadata::{Config, PostgresConfig, Stores};
use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;
use testing::MemoryMetadataStore;
use testing::metadata_store::file;
use testing::pack_store::{blob, draft, stored, version};

/// A call, its arguments from small sets so that calls meet each other.
#[derive(Debug, Clone)]
enum Call {
    InsertDraft(usize),
    ForgetDraft(usize),
    Expired(i64, usize),
    /// A draft, segments, and the texts of contents with the segments of their forms.
    Store(usize, Vec<usize>, Vec<(usize, usize, Option<usize>)>),
    Drop(usize, Vec<usize>),
    /// A draft, documents, a number from the next on, and segments.
    Publish(usize, usize, u64, Vec<usize>),
    Version(usize, Option<u64>),
    Versions(usize, Option<u64>, usize),
    Packs(Option<&'static str>, usize),
    Retire(usize, u64),
    Register(usize, u64, usize, i64),
    ForgetNeeds(i64),
    Put(usize),
    Delete,
    ForgetBlob(usize),
}

const PACKS: [&str; 2] = ["a", "b"];
const TEXTS: [&str; 3] = ["", "x", "yy"];
const DRAFTS: usize = 4;
const SEGMENTS: usize = 4;
const VERSIONS: usize = 5;
const ALWAYS: WriteCondition = WriteCondition {
    if_match: None,
    if_none_match: None,
    if_unmodified_since: None,
};

fn call() -> impl Strategy<Value = Call> {
    let draft = 0..DRAFTS;
    let pack = 0..PACKS.len();
    let number = 0..4_u64;
    let time = 0..20_i64;
    let limit = 0..4_usize;
    let segments = vec(0..SEGMENTS, 0..3);
    let form = proptest::option::of(0..SEGMENTS);
    let contents = vec((0..TEXTS.len(), 0..SEGMENTS, form), 0..4);
    let after = proptest::option::of(prop_oneof![Just("a"), Just("aa")]);
    prop_oneof![
        3 => draft.clone().prop_map(Call::InsertDraft),
        1 => draft.clone().prop_map(Call::ForgetDraft),
        1 => (time.clone(), limit.clone()).prop_map(|(now, limit)| Call::Expired(now, limit)),
        4 => (draft.clone(), segments.clone(), contents)
            .prop_map(|(draft, segments, contents)| Call::Store(draft, segments, contents)),
        2 => (draft.clone(), segments.clone())
            .prop_map(|(draft, segments)| Call::Drop(draft, segments)),
        4 => (draft, 0..VERSIONS, 0..2_u64, segments)
            .prop_map(|(draft, version, ahead, segments)| {
                Call::Publish(draft, version, ahead, segments)
            }),
        1 => (pack.clone(), proptest::option::of(number.clone()))
            .prop_map(|(pack, number)| Call::Version(pack, number)),
        1 => (pack.clone(), proptest::option::of(number.clone()), limit.clone())
            .prop_map(|(pack, before, limit)| Call::Versions(pack, before, limit)),
        1 => (after, limit).prop_map(|(after, limit)| Call::Packs(after, limit)),
        2 => (pack.clone(), number.clone()).prop_map(|(pack, number)| Call::Retire(pack, number)),
        2 => (pack, number, 0..TEXTS.len(), time.clone())
            .prop_map(|(pack, number, need, at)| Call::Register(pack, number, need, at)),
        1 => time.prop_map(Call::ForgetNeeds),
        1 => (0..SEGMENTS).prop_map(Call::Put),
        1 => Just(Call::Delete),
        2 => (0..SEGMENTS + DRAFTS + VERSIONS * 5).prop_map(Call::ForgetBlob),
    ]
}

/// Subjects of calls, the same for both stores.
struct World {
    packs: [PackName; 2],
    drafts: Vec<DraftRecord>,
    segments: Vec<Content>,
    versions: Vec<PackVersion>,
    file: File,
    blobs: Vec<BlobKey>,
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

fn digest(text: &str) -> Sha256Digest {
    Sha256Digest::of(text.as_bytes())
}

impl World {
    fn new() -> Self {
        let trees: Vec<Content> = (0..DRAFTS).map(|n| blob(&n.to_string())).collect();
        let drafts: Vec<DraftRecord> = (0..DRAFTS)
            .map(|n| DraftRecord {
                tree: (n % 2 == 0).then(|| trees[n].clone()),
                expires_at: Timestamp::from_millis(5000 + n as i64),
                ..draft(PACKS[n / 2 % PACKS.len()])
            })
            .collect();
        let segments: Vec<Content> = (0..SEGMENTS).map(|n| blob(&n.to_string())).collect();
        let versions: Vec<PackVersion> = (0..VERSIONS).map(|_| version("a", 1)).collect();
        let documents = versions.iter().flat_map(|version| {
            [
                &version.catalogue,
                &version.catalogue_gzip,
                &version.catalogue_zstd,
                &version.forms,
                &version.places,
            ]
        });
        let blobs = segments.iter().chain(&trees).chain(documents);
        Self {
            packs: PACKS.map(|pack| PackName::parse(pack).unwrap()),
            blobs: blobs.map(|content| content.blob.clone()).collect(),
            drafts,
            versions,
            file: file("a", "x", at(3)),
            segments,
        }
    }

    fn some_segments(&self, segments: &[usize]) -> Vec<Content> {
        let chosen = segments.iter().map(|n| self.segments[*n].clone());
        chosen.collect()
    }

    fn keys(&self, segments: &[usize]) -> Vec<BlobKey> {
        let chosen = segments.iter().map(|n| self.segments[*n].blob.clone());
        chosen.collect()
    }

    fn content(&self, (text, raw, deflated): (usize, usize, Option<usize>)) -> StoredContent {
        let form = Deflated {
            size: 1,
            sha256: digest("deflated"),
        };
        let place = |n: usize| Place {
            blob: self.segments[n].blob.clone(),
            blob_size: self.segments[n].size,
            start: n as u64,
        };
        StoredContent {
            deflated: deflated.map(|n| (form, place(n))),
            ..stored(TEXTS[text], &self.segments[raw])
        }
    }

    /// Makes the call and tells what came of it and how everything stands after.
    async fn make(&self, stores: &Stores, call: &Call, nth: u64) -> String {
        let packs = &stores.packs;
        // No two calls at the same moment.
        let moment = |seconds: i64| at(seconds).plus(Duration::from_millis(nth));
        let answer = match call {
            Call::InsertDraft(n) => told(packs.insert_draft(&self.drafts[*n]).await),
            Call::ForgetDraft(n) => told(packs.forget_draft(&self.drafts[*n].id, moment(9)).await),
            Call::Expired(now, limit) => told(packs.expired_drafts(at(*now), *limit).await),
            Call::Store(n, segments, contents) => {
                let blobs = self.some_segments(segments);
                let contents: Vec<StoredContent> =
                    contents.iter().map(|one| self.content(*one)).collect();
                let id = &self.drafts[*n].id;
                told(packs.store_contents(id, &blobs, &contents, moment(6)).await)
            }
            Call::Drop(n, segments) => {
                let keys = self.keys(segments);
                let id = &self.drafts[*n].id;
                told(packs.drop_contents(id, &keys, moment(9)).await)
            }
            Call::Publish(n, version, ahead, segments) => {
                let draft = &self.drafts[*n];
                let version = PackVersion {
                    pack: draft.pack.clone(),
                    number: packs.next_version(&draft.pack).await.unwrap() + ahead,
                    published_at: moment(8),
                    ..self.versions[*version].clone()
                };
                let keys = self.keys(segments);
                let published = packs
                    .publish_version(&draft.id, &version, &keys, moment(7), None)
                    .await;
                told(published)
            }
            Call::Version(pack, number) => told(packs.version(&self.packs[*pack], *number).await),
            Call::Versions(pack, before, limit) => {
                told(packs.versions(&self.packs[*pack], *before, *limit).await)
            }
            Call::Packs(after, limit) => told(packs.packs(*after, *limit).await),
            Call::Retire(pack, number) => {
                let pack = &self.packs[*pack];
                told(packs.retire_version(pack, *number, moment(9)).await)
            }
            Call::Register(pack, number, need, seconds) => {
                let (pack, need) = (&self.packs[*pack], TEXTS[*need]);
                let registered = packs
                    .register_need(
                        pack,
                        *number,
                        &digest(need),
                        need.as_bytes(),
                        moment(*seconds),
                    )
                    .await;
                told(registered)
            }
            Call::ForgetNeeds(now) => told(packs.forget_needs(at(*now), 100).await),
            Call::Put(n) => {
                let file = File {
                    content: self.segments[*n].clone(),
                    modified_at: moment(9),
                    ..self.file.clone()
                };
                told(stores.metadata.put_file(&file, &ALWAYS, None).await)
            }
            Call::Delete => {
                let path = &self.file.path;
                let deleted = stores.metadata.delete_file(path, &ALWAYS, moment(9)).await;
                told(deleted)
            }
            Call::ForgetBlob(n) => told(stores.metadata.forget_blob(&self.blobs[*n]).await),
        };
        format!("{answer}\n{}", self.state(stores).await)
    }

    async fn state(&self, stores: &Stores) -> String {
        let packs = &stores.packs;
        let mut state = Vec::new();
        for draft in &self.drafts {
            state.push(told(packs.draft(&draft.id).await));
        }
        for pack in &self.packs {
            state.push(told(packs.pack(pack).await));
            state.push(told(packs.next_version(pack).await));
            state.push(told(packs.versions(pack, None, 100).await));
            for number in 0..4 {
                for need in TEXTS {
                    state.push(told(packs.need(pack, number, &digest(need)).await));
                }
            }
        }
        state.push(told(packs.expired_drafts(at(1 << 30), 100).await));
        let mut contents = packs.contents(&TEXTS.map(digest)).await.unwrap();
        contents.sort_unstable_by_key(|content| content.sha256);
        state.push(format!("{contents:?}"));
        let doomed = stores.metadata.doomed_blobs(at(1 << 30), 100).await;
        let known = stores.metadata.known_blobs(&self.blobs).await;
        for mut keys in [doomed.unwrap(), known.unwrap()] {
            keys.sort_unstable();
            state.push(format!("{keys:?}"));
        }
        state.join("\n")
    }
}

/// An answer as text; of an error, which it is.
fn told<T: std::fmt::Debug>(answer: Result<T, MetadataError>) -> String {
    match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(MetadataError::Full) => "full".to_owned(),
        Err(MetadataError::Failed { doing, .. }) => format!("failed to {doing}"),
        Err(error @ (MetadataError::Inconsistent { .. } | MetadataError::Unreachable { .. })) => {
            panic!("{error}")
        }
    }
}

/// Makes the calls at a store that `open` opens, and at the model.
fn compare(
    calls: &[Call],
    open: impl AsyncFnOnce() -> (Config, Option<TempDir>),
) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (config, directory) = open().await;
        let directory = directory
            .as_ref()
            .map_or(Path::new("/nowhere"), TempDir::path);
        let stores = metadata::open(&config, directory).await.unwrap();
        let memory = Arc::new(MemoryMetadataStore::default());
        let model = Stores {
            metadata: Arc::<MemoryMetadataStore>::clone(&memory),
            packs: Arc::<MemoryMetadataStore>::clone(&memory),
            events: memory,
        };
        let world = World::new();
        for (nth, call) in calls.iter().enumerate() {
            let expected = world.make(&model, call, nth as u64).await;
            let answer = world.make(&stores, call, nth as u64).await;
            prop_assert_eq!(answer, expected, "{:?}", call);
        }
        stores.metadata.close().await;
        Ok(())
    })
}

async fn sqlite() -> (Config, Option<TempDir>) {
    (Config::default(), Some(tempfile::tempdir().unwrap()))
}

async fn postgres() -> (Config, Option<TempDir>) {
    (
        Config::Postgres(PostgresConfig::new(fresh_schema().await)),
        None,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_store_of_packs_is_like_its_model(calls in vec(call(), 1..60)) {
        compare(&calls, sqlite)?;
    }

    #[test]
    fn a_store_of_packs_in_postgres_is_like_its_model(calls in vec(call(), 1..60)) {
        compare(&calls, postgres)?;
    }
}
