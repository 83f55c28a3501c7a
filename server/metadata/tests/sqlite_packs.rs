//! Tests of packs specific to SQLite: a restart, and inconsistent rows.

#![expect(
    clippy::unwrap_used,
    reason = "a test, in functions of its own as well"
)]

use std::path::Path;

use archive::{Deflated, PackName, Sha256Digest};
use domain::file::Content;
use domain::metadata_store::MetadataError;
use domain::pack::{DraftRecord, PackVersion, Place, StoredContent};
use domain::pack_store::Published;
use domain::{DraftId, Timestamp};
use metadata::{Config, Stores};
use sqlx::{Connection, SqliteConnection};
use testing::pack_store::{blob, draft, stored, version};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

async fn open(directory: &Path) -> Stores {
    let stores = metadata::open(&Config::default(), directory).await;
    stores.unwrap()
}

/// The database, without the store's care.
async fn raw(directory: &Path) -> SqliteConnection {
    let file = directory.join("metadata.sqlite");
    let url = format!("sqlite:{}", file.to_str().unwrap());
    SqliteConnection::connect(&url).await.unwrap()
}

/// A store with a version, its need, a content in both forms, and an open draft with a tree.
struct Filled {
    maps: PackName,
    version: PackVersion,
    need: Sha256Digest,
    content: StoredContent,
    draft: DraftRecord,
    published: DraftId,
}

impl Filled {
    async fn new(stores: &Stores) -> Self {
        let packs = &stores.packs;
        let (first, second) = (draft("maps"), draft("maps"));
        packs.insert_draft(&first).await.unwrap();
        let segment = blob("segment");
        let content = content(&segment);
        let taken = packs
            .store_contents(
                &first.id,
                std::slice::from_ref(&segment),
                std::slice::from_ref(&content),
                NOW,
            )
            .await;
        assert!(taken.unwrap());
        let version = version("maps", 1);
        let published = packs
            .publish_version(&first.id, &version, &[segment.blob], NOW, None)
            .await;
        assert_eq!(published.unwrap(), Published::Version(1));
        let need = Sha256Digest::of(b"need");
        let registered = packs
            .register_need(&version.pack, 1, &need, b"need", NOW)
            .await;
        assert!(registered.unwrap());
        let draft = DraftRecord {
            tree: Some(blob("tree")),
            ..second
        };
        packs.insert_draft(&draft).await.unwrap();
        Self {
            maps: version.pack.clone(),
            version,
            need,
            content,
            draft,
            published: first.id,
        }
    }
}

/// A content in both forms, one behind the other.
fn content(segment: &Content) -> StoredContent {
    let raw = stored("content", segment);
    let form = Deflated {
        size: 1,
        sha256: Sha256Digest::of(b"deflated"),
    };
    let place = Place {
        start: raw.size,
        ..raw.raw.clone()
    };
    StoredContent {
        deflated: Some((form, place)),
        ..raw
    }
}

#[tokio::test]
async fn packs_are_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let stores = open(directory.path()).await;
    let filled = Filled::new(&stores).await;
    stores.metadata.close().await;

    let stores = open(directory.path()).await;
    let packs = &stores.packs;
    let draft = packs.draft(&filled.draft.id).await.unwrap();
    assert_eq!(draft.as_ref(), Some(&filled.draft));
    let published = packs.draft(&filled.published).await.unwrap().unwrap();
    assert_eq!(published.published, Some(1));
    let found = packs.contents(&[filled.content.sha256]).await.unwrap();
    assert_eq!(found, std::slice::from_ref(&filled.content));
    let version = packs.version(&filled.maps, None).await.unwrap();
    assert_eq!(version.as_ref(), Some(&filled.version));
    let need = packs.need(&filled.maps, 1, &filled.need).await.unwrap();
    assert_eq!(need.as_deref(), Some(b"need".as_slice()));
    let retired = packs.retire_version(&filled.maps, 1, NOW).await;
    assert!(retired.unwrap());
    stores.metadata.close().await;

    let stores = open(directory.path()).await;
    let packs = &stores.packs;
    assert_eq!(packs.next_version(&filled.maps).await.unwrap(), 2);
    let found = packs.contents(&[filled.content.sha256]).await.unwrap();
    assert_eq!(found, []);
    // The documents and the segment.
    let later = Timestamp::from_millis(i64::MAX);
    let doomed = stores.metadata.doomed_blobs(later, 99).await.unwrap();
    assert_eq!(doomed.len(), 6);
    stores.metadata.close().await;
}

/// A command that fails is undone whole, and the others of its batch are done.
#[tokio::test]
async fn what_fails_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let stores = open(directory.path()).await;
    let (one, other) = (draft("maps"), draft("maps"));
    stores.packs.insert_draft(&one).await.unwrap();
    stores.packs.insert_draft(&other).await.unwrap();
    let (sound, doomed) = (blob("sound"), blob("doomed"));
    let gone = std::slice::from_ref(&doomed);
    let taken = stores.packs.store_contents(&one.id, gone, &[], NOW).await;
    assert!(taken.unwrap());
    let keys = [doomed.blob.clone()];
    let dropped = stores.packs.drop_contents(&one.id, &keys, NOW).await;
    dropped.unwrap();

    let later = Timestamp::from_millis(NOW.as_millis() + 1);
    let store = async |draft: &DraftRecord, blobs: &[Content], text: &str| {
        let contents = [stored(text, &blobs[0])];
        let taken = stores
            .packs
            .store_contents(&draft.id, blobs, &contents, later)
            .await;
        taken.is_ok_and(|taken| taken)
    };
    let mixed = [blob("mixed"), doomed.clone()];
    let sound = [sound];
    let (failed, succeeded) = tokio::join!(
        store(&one, &mixed, "in the mixed"),
        store(&other, &sound, "in the sound"),
    );
    assert!(!failed && succeeded);
    let known = stores
        .metadata
        .known_blobs(&[mixed[0].blob.clone(), sound[0].blob.clone()])
        .await;
    assert_eq!(known.unwrap(), [sound[0].blob.clone()]);
    for (draft, expires_at) in [(&one, NOW), (&other, later)] {
        let read = stores.packs.draft(&draft.id).await.unwrap().unwrap();
        assert_eq!(read.expires_at, expires_at);
    }
    stores.metadata.close().await;
}

/// The schema refuses what the types rule out, should the code ever try.
#[tokio::test]
async fn the_schema_keeps_facts_of_packs_together() {
    let directory = tempfile::tempdir().unwrap();
    let stores = open(directory.path()).await;
    Filled::new(&stores).await;
    stores.metadata.close().await;
    let mut database = raw(directory.path()).await;
    for statement in [
        "delete from packs",
        "update packs set last_number = 0",
        "delete from pack_versions",
        "update pack_versions set pack = 'other'",
        "update pack_versions set number = 0",
        "insert into pack_versions select 9, pack, number, 0, 0, '', '', '', '', '', 0 from pack_versions",
        "delete from blobs where key in (select blob from version_blobs)",
        "delete from blobs where key in (select blob from draft_blobs)",
        "delete from blobs where key in (select raw_blob from contents)",
        "insert into version_blobs select id, 'nowhere' from pack_versions",
        "insert into draft_blobs select id, 'nowhere' from drafts",
        "insert into draft_blobs select 'no draft', key from blobs",
        "delete from drafts where published is null",
        "update drafts set published = 1",
        "update drafts set published = 0 where published is not null",
        "update contents set sha256 = x'00'",
        "update contents set crc32 = 4294967296",
        "update contents set raw_blob = 'nowhere'",
        "update contents set deflated_blob = 'nowhere'",
        "update contents set deflated_blob = null",
        "update contents set deflated_size = null",
        "update contents set deflated_start = -1",
        "insert into contents select * from contents",
        "update needs set sha256 = x''",
        "update needs set version = 99",
    ] {
        let done = sqlx::query(statement).execute(&mut database).await;
        assert!(done.is_err(), "{statement}");
    }
}

#[tokio::test]
async fn a_row_about_packs_that_cannot_be_is_an_error() {
    for (damage, table, expected) in [
        ("update drafts set pack = '..'", "drafts", "pack: "),
        ("update drafts set tree = 'x'", "drafts", "doomed or not"),
        ("update blobs set doomed_at = 1", "drafts", "doomed or not"),
        ("update drafts set published = -1", "drafts", "is negative"),
        (
            "update pack_versions set files = -1",
            "pack_versions",
            "files is negative",
        ),
        (
            "update pack_versions set places = 'x'",
            "pack_versions",
            "the blob of places",
        ),
        (
            "update blobs set doomed_at = 1",
            "pack_versions",
            "the blob of catalogue",
        ),
        (
            "update blobs set sha256 = x''",
            "pack_versions",
            "sha256 has 0 bytes",
        ),
        ("update contents set crc32 = -1", "contents", "crc32 is -1"),
        (
            "update contents set raw_start = -1",
            "contents",
            "start is negative",
        ),
        (
            "update contents set deflated_size = null",
            "contents",
            "do not go together",
        ),
        (
            "update contents set deflated_sha256 = x'00'",
            "contents",
            "sha256 has 1 bytes",
        ),
        ("update packs set last_number = -2", "packs", "is negative"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let stores = open(directory.path()).await;
        let filled = Filled::new(&stores).await;
        let mut database = raw(directory.path()).await;
        let lenient = "pragma ignore_check_constraints = on; pragma foreign_keys = off";
        for statement in [lenient, damage] {
            sqlx::raw_sql(statement)
                .execute(&mut database)
                .await
                .unwrap();
        }
        database.close().await.unwrap();

        let packs = &stores.packs;
        let error = match table {
            "drafts" => packs.draft(&filled.draft.id).await.unwrap_err(),
            "pack_versions" => packs.pack(&filled.maps).await.unwrap_err(),
            "contents" => {
                let sha256s = [filled.content.sha256];
                packs.contents(&sha256s).await.unwrap_err()
            }
            _ => packs.next_version(&filled.maps).await.unwrap_err(),
        };
        let MetadataError::Inconsistent {
            table: found,
            row,
            reason,
        } = error
        else {
            panic!("{damage}: {error:?}");
        };
        assert_eq!(found, table, "{damage}");
        assert!(reason.contains(expected), "{damage}: {reason}");
        // The whole name is a capability.
        assert!(!row.contains(&filled.draft.id.to_string()));
        stores.metadata.close().await;
    }
}
