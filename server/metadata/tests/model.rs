//! A store answers every sequence of calls as the simple one in memory does.

#![expect(
    clippy::unwrap_used,
    reason = "a test, in functions of its own as well"
)]

use metadata::PostgresConfig;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use testing::postgres::fresh_schema;

use domain::file::{File, WriteCondition};
use domain::ids::SystemRandomness;
use domain::metadata_store::{Hold, MetadataError};
use domain::upload::{Gone, Upload};
use domain::{BlobKey, MetadataStore, NodeId, Timestamp};
use metadata::Config;
use proptest::prelude::*;
use proptest::sample::select;
use tempfile::TempDir;
use testing::memory_metadata_store::MemoryMetadataStore;
use testing::metadata_store::{completed, file, progress, upload};

/// A call, its arguments from small sets so that calls meet each other.
#[derive(Debug, Clone)]
enum Call {
    Insert(usize),
    Claim(usize),
    Progress(usize, u64, u64, i64),
    Complete(usize, u64, i64),
    End(usize, Option<u64>, i64),
    Expire(usize, i64, i64),
    Open(Option<&'static str>, usize),
    Expired(i64, usize),
    Forget(i64, usize),
    Put(usize, Condition),
    Delete(usize, Condition, i64),
    List(&'static str, Option<&'static str>, usize),
    Doomed(i64, usize),
    ForgetBlob(usize),
}

#[derive(Debug, Clone)]
enum Condition {
    Always,
    Absent,
    Present,
    /// `If-Match` with the digest of this content.
    Is(usize),
}

const CONTENTS: [&str; 3] = ["", "x", "yy"];
const PATHS: [&str; 4] = ["a", "a/b", "a%", "b"];
const UPLOADS: usize = 5;

fn call() -> impl Strategy<Value = Call> {
    let upload = 0..UPLOADS;
    let time = 0..20_i64;
    let epoch = 0..3_u64;
    let limit = 0..4_usize;
    let files = 0..PATHS.len() * CONTENTS.len();
    let condition = || {
        prop_oneof![
            3 => Just(Condition::Always),
            1 => Just(Condition::Absent),
            1 => Just(Condition::Present),
            1 => (0..CONTENTS.len()).prop_map(Condition::Is),
        ]
    };
    prop_oneof![
        upload.clone().prop_map(Call::Insert),
        upload.clone().prop_map(Call::Claim),
        (upload.clone(), epoch.clone(), 0..3_u64, time.clone())
            .prop_map(|(n, epoch, offset, at)| Call::Progress(n, epoch, offset, at)),
        (upload.clone(), epoch.clone(), time.clone())
            .prop_map(|(n, epoch, at)| Call::Complete(n, epoch, at)),
        (upload.clone(), proptest::option::of(epoch), time.clone())
            .prop_map(|(n, epoch, at)| Call::End(n, epoch, at)),
        (upload.clone(), time.clone(), time.clone())
            .prop_map(|(n, now, at)| Call::Expire(n, now, at)),
        (select(vec![None, Some("ann")]), limit.clone())
            .prop_map(|(owner, limit)| Call::Open(owner, limit)),
        (time.clone(), limit.clone()).prop_map(|(at, limit)| Call::Expired(at, limit)),
        (time.clone(), limit.clone()).prop_map(|(at, limit)| Call::Forget(at, limit)),
        (files.clone(), condition()).prop_map(|(n, condition)| Call::Put(n, condition)),
        (files.clone(), condition(), time.clone())
            .prop_map(|(n, condition, at)| Call::Delete(n, condition, at)),
        (
            select(vec!["", "a", "a/", "a%", "c"]),
            select(vec![None, Some("a"), Some("a/"), Some("b")]),
            limit.clone()
        )
            .prop_map(|(prefix, after, limit)| Call::List(prefix, after, limit)),
        (time, limit).prop_map(|(at, limit)| Call::Doomed(at, limit)),
        (0..UPLOADS + PATHS.len() * CONTENTS.len()).prop_map(Call::ForgetBlob),
    ]
}

/// Subjects of calls, the same for both stores.
struct World {
    uploads: Vec<Upload>,
    files: Vec<File>,
    blobs: Vec<BlobKey>,
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

impl World {
    fn new() -> Self {
        // Each with times of its own, so that orders are total.
        let uploads: Vec<Upload> = (0..UPLOADS)
            .map(|n| {
                let mut upload = upload(PATHS[n % PATHS.len()]);
                upload.plan.owner = (n % 2 == 0).then(|| "ann".to_owned());
                upload.plan.client_ref = Some("r".to_owned());
                upload.plan.idempotency_key = (n < 3).then(|| "k".to_owned());
                upload.plan.condition = condition(&[Condition::Always, Condition::Absent][n % 2]);
                upload.created_at = Timestamp::from_millis(n as i64);
                upload.expires_at = Timestamp::from_millis(5000 + n as i64);
                upload
            })
            .collect();
        let files: Vec<File> = PATHS
            .iter()
            .flat_map(|path| CONTENTS.map(|content| file(path, content, at(3))))
            .enumerate()
            .map(|(n, mut file)| {
                file.modified_at = Timestamp::from_millis(3000 + n as i64);
                file
            })
            .collect();
        let blobs = uploads
            .iter()
            .map(|upload| &upload.blob)
            .chain(files.iter().map(|file| &file.content.blob))
            .cloned()
            .collect();
        Self {
            uploads,
            files,
            blobs,
        }
    }

    /// Makes the call and tells what came of it and how everything stands after.
    async fn make(&self, store: &dyn MetadataStore, call: &Call, nth: u64) -> String {
        // No two calls at the same moment.
        let moment = |seconds: i64| at(seconds).plus(Duration::from_millis(nth));
        let answer = match call {
            Call::Insert(n) => told(store.insert_upload(&self.uploads[*n]).await),
            Call::Claim(n) => told(store.claim_upload(&self.uploads[*n].id, None, None).await),
            Call::Progress(n, epoch, offset, seconds) => {
                let step = progress(*offset, Some(2));
                let id = &self.uploads[*n].id;
                let recorded = store
                    .record_progress(id, *epoch, &step, moment(*seconds), Hold::Keep)
                    .await;
                told(recorded)
            }
            Call::Complete(n, epoch, seconds) => {
                let upload = Upload {
                    epoch: *epoch,
                    ..self.uploads[*n].clone()
                };
                let outcome = completed(&n.to_string(), moment(*seconds));
                let written = store
                    .complete_upload(&upload, &outcome, moment(*seconds), None)
                    .await;
                told(written)
            }
            Call::End(n, epoch, seconds) => {
                let id = &self.uploads[*n].id;
                let ended = store
                    .end_upload(id, *epoch, Gone::Expired, moment(*seconds))
                    .await;
                told(ended)
            }
            Call::Expire(n, now, seconds) => {
                let id = &self.uploads[*n].id;
                let ended = store.expire_upload(id, at(*now), moment(*seconds)).await;
                told(ended)
            }
            Call::Open(owner, limit) => told(store.open_uploads(*owner, "r", *limit).await),
            Call::Expired(now, limit) => told(
                store
                    .expired_uploads(at(*now), NodeId::random(&SystemRandomness), *limit)
                    .await,
            ),
            Call::Forget(now, limit) => told(store.forget_uploads(at(*now), *limit).await),
            Call::Put(n, wanted) => told(
                store
                    .put_file(&self.files[*n], &condition(wanted), None)
                    .await,
            ),
            Call::Delete(n, wanted, seconds) => {
                let path = &self.files[*n].path;
                let deleted = store
                    .delete_file(path, &condition(wanted), moment(*seconds))
                    .await;
                told(deleted)
            }
            Call::List(prefix, after, limit) => {
                told(store.list_files(prefix, *after, *limit).await)
            }
            Call::Doomed(before, limit) => told(store.doomed_blobs(at(*before), *limit).await),
            Call::ForgetBlob(n) => told(store.forget_blob(&self.blobs[*n]).await),
        };
        format!("{answer}\n{}", self.state(store).await)
    }

    async fn state(&self, store: &dyn MetadataStore) -> String {
        let mut state = Vec::new();
        for upload in &self.uploads {
            state.push(told(store.upload(&upload.id).await));
        }
        for path in PATHS {
            state.push(told(store.file(&path.parse().unwrap()).await));
        }
        state.push(told(store.list_files("", None, 100).await));
        state.push(told(store.doomed_blobs(at(1 << 30), 100).await));
        let mut known = store.known_blobs(&self.blobs).await.unwrap();
        known.sort();
        state.push(format!("{known:?}"));
        state.join("\n")
    }
}

fn condition(condition: &Condition) -> WriteCondition {
    let mut fields = WriteCondition::default();
    match condition {
        Condition::Always => {}
        Condition::Absent => fields.if_none_match = Some("*".to_owned()),
        Condition::Present => fields.if_match = Some("*".to_owned()),
        Condition::Is(n) => fields.if_match = Some(file("a", CONTENTS[*n], at(0)).etag()),
    }
    fields
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
        let store = metadata::open(&config, directory).await.unwrap().metadata;
        let model: Arc<dyn MetadataStore> = Arc::new(MemoryMetadataStore::default());
        let world = World::new();
        for (nth, call) in calls.iter().enumerate() {
            let expected = world.make(&*model, call, nth as u64).await;
            let answer = world.make(&*store, call, nth as u64).await;
            prop_assert_eq!(answer, expected, "{:?}", call);
        }
        store.close().await;
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
    fn a_store_is_like_its_model(calls in proptest::collection::vec(call(), 1..60)) {
        compare(&calls, sqlite)?;
    }

    #[test]
    fn a_store_in_postgres_is_like_its_model(calls in proptest::collection::vec(call(), 1..60)) {
        compare(&calls, postgres)?;
    }
}
