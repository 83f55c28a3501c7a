//! Facts from engine to engine and back: what was recorded here is found there, and goes on there.

#![expect(
    clippy::unwrap_used,
    reason = "a test, in functions of its own as well"
)]

use archive::{Deflated, PackName};
use domain::event_store::Attempt;
use domain::file::{Description, WriteCondition};
use domain::metadata_store::Hold;
use domain::pack::{Place, StoredContent};
use domain::pack_store::Published;
use domain::upload::{Gone, Target, Upload};
use domain::{DraftId, Timestamp};
use metadata::copying::{CopyError, Database};
use metadata::{Config, PostgresConfig, Stores};
use tempfile::TempDir;
use testing::event_store::event;
use testing::metadata_store::{completed, file, progress, upload};
use testing::pack_store::{blob, draft, stored, version};
use testing::postgres::fresh_schema;

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const LATER: Timestamp = Timestamp::from_millis(1_900_000_000_000);
const ALWAYS: WriteCondition = WriteCondition {
    if_match: None,
    if_none_match: None,
    if_unmodified_since: None,
};
/// More than go into one statement.
const MANY: usize = 1203;

/// A database of some engine, with its stores open.
struct Site {
    config: Config,
    directory: TempDir,
    stores: Stores,
}

impl Site {
    async fn sqlite() -> Self {
        Self::open(Config::default()).await
    }

    async fn postgres() -> Self {
        Self::open(Config::Postgres(PostgresConfig::new(fresh_schema().await))).await
    }

    async fn open(config: Config) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let stores = metadata::open(&config, directory.path()).await.unwrap();
        Self {
            config,
            directory,
            stores,
        }
    }

    async fn database(&self) -> Database {
        Database::connect(&self.config, self.directory.path())
            .await
            .unwrap()
    }

    async fn fill_from(&self, source: &Self) -> Result<u64, CopyError> {
        let mut rows = 0;
        let mut counted = |copied| rows += copied;
        let (mut here, mut there) = (source.database().await, self.database().await);
        there.fill(&mut here, &mut counted).await?;
        Ok(rows)
    }
}

/// Facts recorded before the copy.
struct Recorded {
    uploads: Vec<Upload>,
    maps: PackName,
    content: StoredContent,
    open_draft: DraftId,
}

async fn record(stores: &Stores) -> Recorded {
    let (metadata, packs) = (&stores.metadata, &stores.packs);
    let mut full = upload("a/ü.txt");
    full.plan.condition = WriteCondition {
        if_match: None,
        if_none_match: Some("*".parse().unwrap()),
        if_unmodified_since: Some("Sun, 06 Nov 1994 08:49:37 GMT".to_owned()),
    };
    full.plan.description = Description {
        media_type: Some("text/plain".parse().unwrap()),
        filename: Some("ü \\ '.txt".to_owned()),
    };
    full.plan.owner = Some("somebody".to_owned());
    full.plan.client_ref = Some("photo-1".to_owned());
    full.plan.idempotency_key = Some("key-1".to_owned());
    full.plan.tus_metadata = Some("filename YQ==".to_owned());
    let (mut whole, gone) = (upload("b"), upload("c"));
    let mut for_a_pack = upload("d");
    for_a_pack.plan.target = Target::Pack(PackName::parse("maps").unwrap());
    let mut uploads = Vec::new();
    for upload in [&full, &whole, &gone, &for_a_pack] {
        metadata.insert_upload(upload).await.unwrap();
        uploads.push(
            metadata
                .claim_upload(&upload.id, None, None)
                .await
                .unwrap()
                .unwrap(),
        );
    }
    let recorded = progress(70_000, Some(1 << 40));
    metadata
        .record_progress(&full.id, uploads[0].epoch, &recorded, LATER, Hold::Keep)
        .await
        .unwrap();
    whole.epoch = uploads[1].epoch;
    metadata
        .complete_upload(&whole, &completed("whole", NOW), LATER, None)
        .await
        .unwrap();
    metadata
        .end_upload(&gone.id, None, Gone::Cancelled, LATER)
        .await
        .unwrap();

    for n in 0..MANY {
        let file = file(&format!("many/{n}"), &n.to_string(), NOW);
        metadata.put_file(&file, &ALWAYS, None).await.unwrap();
    }
    metadata
        .delete_file(&"many/7".parse().unwrap(), &ALWAYS, NOW)
        .await
        .unwrap();
    record_events(stores).await;

    let (first, open) = (draft("maps"), draft("maps"));
    let segment = blob("a segment");
    let deflated = Deflated {
        sha256: domain::digest::Sha256Digest::of(b"deflated"),
        size: 3,
    };
    let content = StoredContent {
        deflated: Some((
            deflated,
            Place {
                blob: segment.blob.clone(),
                blob_size: segment.size,
                start: 4,
            },
        )),
        ..stored("text", &segment)
    };
    for draft in [&first, &open] {
        packs.insert_draft(draft).await.unwrap();
    }
    packs
        .store_contents(
            &first.id,
            std::slice::from_ref(&segment),
            std::slice::from_ref(&content),
            LATER,
        )
        .await
        .unwrap();
    let maps = first.pack.clone();
    let published = packs
        .publish_version(&first.id, &version("maps", 1), &[segment.blob], LATER, None)
        .await;
    assert_eq!(published.unwrap(), Published::Version(1));
    let need = content.sha256;
    assert!(
        packs
            .register_need(&maps, 1, &need, b"need", LATER)
            .await
            .unwrap()
    );
    Recorded {
        uploads,
        maps,
        content,
        open_draft: open.id,
    }
}

/// Of one subject, an event that is dead, one that has failed, and one that waits.
async fn record_events(stores: &Stores) {
    let file = stores.metadata.file(&"many/8".parse().unwrap()).await;
    let file = file.unwrap().unwrap();
    let told = [0, 1, 2].map(|seconds| event("file:many/8", seconds));
    for event in &told {
        let put = stores.metadata.put_file(&file, &ALWAYS, Some(event)).await;
        put.unwrap();
    }
    let error = "answered 500".to_owned();
    let given_up = Attempt::GivenUp {
        error: error.clone(),
    };
    let failed = Attempt::Failed {
        error,
        retry_at: LATER,
    };
    for (event, attempt) in told.iter().zip([given_up, failed]) {
        let recorded = stores.events.record_attempt(&event.id, &attempt, NOW).await;
        recorded.unwrap();
    }
}

/// Asks both for all of it.
async fn assert_same(recorded: &Recorded, here: &Stores, there: &Stores) {
    for upload in &recorded.uploads {
        let found = here.metadata.upload(&upload.id).await.unwrap();
        assert!(found.is_some());
        assert_eq!(there.metadata.upload(&upload.id).await.unwrap(), found);
    }
    let files = here.metadata.list_files("", None, 10_000).await.unwrap();
    assert_eq!(files.len(), MANY);
    let found = there.metadata.list_files("", None, 10_000).await.unwrap();
    assert_eq!(found, files);
    let doomed = here.metadata.doomed_blobs(LATER, 10).await.unwrap();
    assert_eq!(doomed.len(), 1);
    let found = there.metadata.doomed_blobs(LATER, 10).await.unwrap();
    assert_eq!(found, doomed);
    let due = here.events.due_events(LATER, 10).await.unwrap();
    assert_eq!((due.len(), due[0].failures), (1, 1));
    assert_eq!(there.events.due_events(LATER, 10).await.unwrap(), due);
    let dead = here.events.dead_events(0, 10).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!(there.events.dead_events(0, 10).await.unwrap(), dead);
    let Recorded {
        maps,
        content,
        open_draft,
        ..
    } = recorded;
    let version = here.packs.version(maps, None).await.unwrap();
    assert!(version.is_some());
    assert_eq!(there.packs.version(maps, None).await.unwrap(), version);
    let need = there.packs.need(maps, 1, &content.sha256).await.unwrap();
    assert_eq!(need.as_deref(), Some(&b"need"[..]));
    let contents = there.packs.contents(&[content.sha256]).await.unwrap();
    assert_eq!(contents, std::slice::from_ref(content));
    let draft = here.packs.draft(open_draft).await.unwrap();
    assert!(draft.is_some());
    assert_eq!(there.packs.draft(open_draft).await.unwrap(), draft);
}

#[tokio::test]
async fn facts_go_to_postgresql_and_back() {
    let (here, there, back) = (
        Site::sqlite().await,
        Site::postgres().await,
        Site::sqlite().await,
    );
    let recorded = record(&here.stores).await;
    let rows = here.database().await.totals().await.unwrap().rows;
    assert_eq!(there.fill_from(&here).await.unwrap(), rows);
    assert_same(&recorded, &here.stores, &there.stores).await;
    assert_eq!(back.fill_from(&there).await.unwrap(), rows);
    assert_same(&recorded, &there.stores, &back.stores).await;

    // It goes on there: numbers that the engine gives do not begin anew.
    for stores in [&there.stores, &back.stores] {
        let published = stores
            .packs
            .publish_version(&recorded.open_draft, &version("maps", 2), &[], LATER, None)
            .await;
        assert_eq!(published.unwrap(), Published::Version(2));
        let need = recorded.content.sha256;
        let registered = stores
            .packs
            .register_need(&recorded.maps, 2, &need, b"another", LATER)
            .await;
        assert!(registered.unwrap());
        let (file, event) = (file("one more", "x", NOW), event("file:one more", 3));
        let put = stores.metadata.put_file(&file, &ALWAYS, Some(&event)).await;
        put.unwrap();
    }
}

#[tokio::test]
async fn a_database_with_facts_is_no_target() {
    for target in [Site::sqlite().await, Site::postgres().await] {
        let source = Site::sqlite().await;
        record(&source.stores).await;
        let kept = file("kept", "kept", NOW);
        let stores = &target.stores;
        let put = stores.metadata.put_file(&kept, &ALWAYS, None).await;
        put.unwrap();
        let error = target.fill_from(&source).await.unwrap_err();
        assert!(
            matches!(error, CopyError::NotEmpty { table: "blobs" }),
            "{error}"
        );
        let files = target.stores.metadata.list_files("", None, 9).await;
        assert_eq!(files.unwrap(), [kept]);
    }
}

#[tokio::test]
async fn blobs_and_open_uploads_are_listed_in_pages() {
    for place in [Site::sqlite().await, Site::postgres().await] {
        let recorded = record(&place.stores).await;
        let mut database = place.database().await;
        let totals = database.totals().await.unwrap();
        let mut blobs = Vec::new();
        loop {
            let after = blobs
                .last()
                .map(|blob: &metadata::copying::RecordedBlob| &blob.key);
            let page = database.blobs(after, 500).await.unwrap();
            if page.is_empty() {
                break;
            }
            blobs.extend(page);
        }
        assert_eq!(blobs.len() as u64, totals.blobs);
        assert_eq!(blobs.iter().filter(|blob| blob.is_doomed).count(), 1);
        let open = database.open_uploads(None, 10).await.unwrap();
        let grown = open.iter().find(|open| open.offset > 0).unwrap();
        assert_eq!((grown.id, grown.offset), (recorded.uploads[0].id, 70_000));
        assert_eq!(grown.length, Some(1 << 40));
        let bytes: u64 = blobs.iter().map(|blob| blob.size).sum();
        assert_eq!(bytes + 70_000, totals.bytes);
        let after = database.open_uploads(Some(&open[0].id), 10).await.unwrap();
        assert_eq!(after, open[1..]);
    }
}
