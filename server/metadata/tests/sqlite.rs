//! Tests specific to SQLite: exclusive use, the schema, and inconsistent rows.

#![expect(
    clippy::unwrap_used,
    reason = "a test, in functions of its own as well"
)]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use domain::file::WriteCondition;
use domain::metadata_store::MetadataError;
use domain::{FilePath, MetadataStore, Timestamp, UploadId};
use metadata::{Config, OpenError, SqliteConfig};
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;
use testing::metadata_store::{completed, file, upload};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const ALWAYS: WriteCondition = WriteCondition {
    if_match: None,
    if_none_match: None,
    if_unmodified_since: None,
};

async fn open(directory: &Path) -> Result<Arc<dyn MetadataStore>, OpenError> {
    let stores = metadata::open(&Config::default(), directory).await?;
    Ok(stores.metadata)
}

async fn fresh() -> (Arc<dyn MetadataStore>, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (open(directory.path()).await.unwrap(), directory)
}

/// The database, without the store's care.
async fn raw(directory: &Path) -> SqliteConnection {
    let file = directory.join("metadata.sqlite");
    let url = format!("sqlite:{}", file.to_str().unwrap());
    SqliteConnection::connect(&url).await.unwrap()
}

async fn run(connection: &mut SqliteConnection, statement: &'static str) {
    sqlx::raw_sql(statement).execute(connection).await.unwrap();
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let (store, directory) = fresh().await;
    let upload = upload("a");
    store.insert_upload(&upload).await.unwrap();
    let file = file("b", "x", NOW);
    store.put_file(&file, &ALWAYS, None).await.unwrap();
    store.close().await;

    let store = open(directory.path()).await.unwrap();
    assert_eq!(store.upload(&upload.id).await.unwrap(), Some(upload));
    assert_eq!(store.file(&file.path).await.unwrap(), Some(file));
    store.close().await;
}

#[tokio::test]
async fn a_clean_end_leaves_no_log_behind() {
    let (store, directory) = fresh().await;
    store.insert_upload(&upload("a")).await.unwrap();
    let log = directory.path().join("metadata.sqlite-wal");
    assert!(log.metadata().unwrap().len() > 0);
    store.close().await;
    assert!(!log.exists());
}

#[tokio::test]
async fn nothing_may_be_called_after_the_end() {
    let (store, _directory) = fresh().await;
    store.close().await;
    let written = store.insert_upload(&upload("a")).await;
    assert!(matches!(written, Err(MetadataError::Failed { .. })));
    let read = store.upload(&upload("a").id).await;
    assert!(matches!(read, Err(MetadataError::Unreachable { .. })));
    store.close().await;
}

#[tokio::test]
async fn a_data_directory_that_is_not_there_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("new/data");
    open(&data).await.unwrap().close().await;
    assert!(data.join("metadata.sqlite").is_file());
}

#[tokio::test]
async fn one_process_at_a_time_uses_a_database() {
    let (store, directory) = fresh().await;
    let error = open(directory.path()).await.unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    store.close().await;
    open(directory.path()).await.unwrap().close().await;
}

#[tokio::test]
async fn a_database_of_a_newer_release_is_refused() {
    let (store, directory) = fresh().await;
    store.close().await;
    let mut database = raw(directory.path()).await;
    run(
        &mut database,
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (9999, 'from the future', true, x'00', 0)",
    )
    .await;
    database.close().await.unwrap();
    let error = open(directory.path()).await.unwrap_err();
    assert!(
        matches!(error, OpenError::Newer { version: 9999, .. }),
        "{error:?}"
    );
    let message = error.to_string();
    assert!(message.contains("newer release"), "{message}");
    assert!(message.contains("9999"), "{message}");
}

#[tokio::test]
async fn a_migration_that_was_edited_is_refused() {
    let (store, directory) = fresh().await;
    store.close().await;
    let mut database = raw(directory.path()).await;
    run(
        &mut database,
        "update _sqlx_migrations set checksum = x'00'",
    )
    .await;
    database.close().await.unwrap();
    let error = open(directory.path()).await.unwrap_err();
    assert!(matches!(error, OpenError::Migrate { .. }), "{error:?}");
    let cause = error.source().unwrap().to_string();
    assert!(cause.contains("modified"), "{cause}");
}

#[tokio::test]
async fn what_is_no_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(
        directory.path().join("metadata.sqlite"),
        "nothing of the kind, and long enough to be looked at: ".repeat(100),
    )
    .unwrap();
    assert!(matches!(
        open(directory.path()).await,
        Err(OpenError::Engine { .. })
    ));
    let nowhere = directory.path().join("metadata.sqlite/data");
    assert!(matches!(open(&nowhere).await, Err(OpenError::Lock { .. })));
}

#[test]
fn the_configuration_is_read() {
    let read = |text| toml::from_str::<Config>(text);
    assert_eq!(read("type = 'sqlite'").unwrap(), Config::default());
    let expected = SqliteConfig {
        file: "/var/lib/x.sqlite".into(),
        file_cache: bytesize::ByteSize::mib(1),
        ..SqliteConfig::default()
    };
    let text = "type = 'sqlite'\nfile = '/var/lib/x.sqlite'\nfile_cache = '1 MiB'";
    assert_eq!(read(text).unwrap(), Config::Sqlite(expected));
    for wrong in [
        "",
        "type = 'oracle'",
        "type = 'sqlite'\nfiles = 'x'",
        "type = 'sqlite'\nreaders = 0",
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
    let written = toml::to_string(&Config::default()).unwrap();
    assert_eq!(read(&written).unwrap(), Config::default());
}

/// Does damage to the row of an upload that is open, complete or gone as `state` says, and returns
/// what reading it says.
async fn damaged_upload(state: &str, damage: &'static str) -> String {
    let (store, directory) = fresh().await;
    let upload = upload("a");
    store.insert_upload(&upload).await.unwrap();
    match state {
        "complete" => {
            let written = store
                .complete_upload(&upload, &completed("x", NOW), NOW, None)
                .await;
            written.unwrap();
        }
        "gone" => {
            let gone = domain::upload::Gone::Expired;
            let ended = store.end_upload(&upload.id, None, gone, NOW).await;
            ended.unwrap();
        }
        _ => {}
    }
    let mut database = raw(directory.path()).await;
    run(&mut database, "pragma ignore_check_constraints = on").await;
    run(&mut database, damage).await;
    let damaged: Option<String> = sqlx::query_scalar("select id from uploads")
        .fetch_optional(&mut database)
        .await
        .unwrap();
    assert_eq!(damaged, Some(upload.id.to_string()));
    let reason = match store.upload(&upload.id).await.unwrap_err() {
        MetadataError::Inconsistent { table, row, reason } => {
            assert_eq!(table, "uploads");
            // Enough to find it, not enough to use it.
            assert!(upload.id.to_string().starts_with(row.trim_end_matches('…')));
            assert!(row.len() < 16);
            reason
        }
        other => panic!("{other:?}"),
    };
    // What cannot be read is not claimed either, and the writer goes on.
    assert!(store.claim_upload(&upload.id, None, None).await.is_err());
    store.check().await.unwrap();
    database.close().await.unwrap();
    store.close().await;
    reason
}

#[tokio::test]
async fn an_upload_that_cannot_be_is_an_error() {
    for (state, damage, expected) in [
        (
            "open",
            "update uploads set hash_state = null",
            "does not go",
        ),
        (
            "open",
            "update uploads set upload_offset = null",
            "does not go",
        ),
        ("open", "update uploads set gone = 'expired'", "does not go"),
        ("open", "update uploads set replaced = 1", "does not go"),
        ("open", "update uploads set state = 'asleep'", "\"asleep\""),
        (
            "open",
            "update uploads set upload_offset = -1",
            "upload_offset is negative",
        ),
        (
            "open",
            "update uploads set length = -1",
            "length is negative",
        ),
        (
            "open",
            "update uploads set upload_offset = 2, length = 1",
            "beyond length",
        ),
        (
            "open",
            "update uploads set path = '../../etc/passwd'",
            "path: ",
        ),
        ("open", "update uploads set blob = '../x'", "blob: "),
        ("open", "update uploads set epoch = -7", "epoch is negative"),
        (
            "complete",
            "update uploads set sha256 = x'00'",
            "sha256 has 1 bytes",
        ),
        (
            "complete",
            "update uploads set sha256 = null",
            "does not go",
        ),
        (
            "complete",
            "update uploads set completed_at = null",
            "does not go",
        ),
        (
            "complete",
            "update uploads set state = 'open'",
            "does not go",
        ),
        ("gone", "update uploads set gone = 'fishing'", "\"fishing\""),
        ("gone", "update uploads set gone = null", "does not go"),
    ] {
        let reason = damaged_upload(state, damage).await;
        assert!(reason.contains(expected), "{damage}: {reason}");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_is_an_error() {
    for (damage, expected) in [
        ("delete from blobs", "is not recorded"),
        ("update blobs set doomed_at = 1", "is doomed"),
        ("update blobs set size = -1", "size is negative"),
        ("update blobs set sha256 = x''", "sha256 has 0 bytes"),
    ] {
        let (store, directory) = fresh().await;
        let file = file("a", "x", NOW);
        store.put_file(&file, &ALWAYS, None).await.unwrap();
        store.close().await;
        let mut database = raw(directory.path()).await;
        run(
            &mut database,
            "pragma ignore_check_constraints = on; pragma foreign_keys = off",
        )
        .await;
        run(&mut database, damage).await;
        database.close().await.unwrap();

        let store = open(directory.path()).await.unwrap();
        for error in [
            store.file(&file.path).await.unwrap_err(),
            store.list_files("", None, 10).await.unwrap_err(),
            store
                .delete_file(&file.path, &ALWAYS, NOW)
                .await
                .unwrap_err(),
        ] {
            let MetadataError::Inconsistent { table, row, reason } = error else {
                panic!("{error:?}");
            };
            assert_eq!((table, row.as_str()), ("files", "a"));
            assert!(reason.contains(expected), "{damage}: {reason}");
        }
        store.close().await;
    }
}

/// The schema refuses what the types rule out, should the code ever try.
#[tokio::test]
async fn the_schema_keeps_columns_together() {
    let (store, directory) = fresh().await;
    store.insert_upload(&upload("a")).await.unwrap();
    store
        .put_file(&file("b", "x", NOW), &ALWAYS, None)
        .await
        .unwrap();
    store.close().await;
    let mut database = raw(directory.path()).await;
    for statement in [
        "update uploads set hash_state = null",
        "update uploads set upload_offset = 2, length = 1",
        "update uploads set upload_offset = -1",
        "update uploads set state = 'complete'",
        "update uploads set state = 'gone'",
        "update uploads set state = 'asleep'",
        "update uploads set epoch = 'x'",
        "update uploads set path = null",
        "update files set blob = 'nowhere'",
        "update blobs set size = -1",
        "update blobs set sha256 = x'00'",
        "delete from blobs",
    ] {
        let done = sqlx::query(statement).execute(&mut database).await;
        assert!(done.is_err(), "{statement}");
    }
}

/// Many threads read a path while it is written: nobody sees it go back, and nobody misses what was
/// acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_never_see_a_file_go_back() {
    let (store, _directory) = fresh().await;
    let path: FilePath = "a".parse().unwrap();
    let acknowledged = Arc::new(std::sync::atomic::AtomicI64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let (store, path) = (Arc::clone(&store), path.clone());
            let (acknowledged, done) = (Arc::clone(&acknowledged), Arc::clone(&done));
            tokio::spawn(async move {
                let mut reads = 0_u64;
                while !done.load(Ordering::SeqCst) {
                    let least = acknowledged.load(Ordering::SeqCst);
                    let seen = store.file(&path).await.unwrap();
                    let seen = seen.map_or(0, |file| file.modified_at.as_millis());
                    assert!(seen >= least, "{seen} after {least} was acknowledged");
                    reads += 1;
                    if reads.is_multiple_of(16) {
                        tokio::task::yield_now().await;
                    }
                }
                reads
            })
        })
        .collect();
    for version in 1..=300 {
        let file = file("a", &version.to_string(), Timestamp::from_millis(version));
        store.put_file(&file, &ALWAYS, None).await.unwrap();
        acknowledged.store(version, Ordering::SeqCst);
        // Others push the path out of the cache now and then.
        if version % 3 == 0 {
            let other = format!("other/{version}").parse().unwrap();
            assert_eq!(store.file(&other).await.unwrap(), None);
        }
    }
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
    store.close().await;
}

/// A dropped call has its complete effect or none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_may_go_away_at_any_moment() {
    let (store, _directory) = fresh().await;
    let mut ids: Vec<(UploadId, FilePath)> = Vec::new();
    for n in 0..200_u64 {
        let upload = upload(&format!("f/{n}"));
        ids.push((upload.id, upload.path().unwrap().clone()));
        let store = Arc::clone(&store);
        let life = tokio::spawn(async move {
            store.insert_upload(&upload).await.unwrap();
            let written = store
                .complete_upload(&upload, &completed("x", NOW), NOW, None)
                .await;
            written.unwrap();
        });
        for _ in 0..n % 7 {
            tokio::task::yield_now().await;
        }
        if n % 3 == 0 {
            tokio::time::sleep(std::time::Duration::from_micros(n * 10)).await;
        }
        life.abort();
    }
    // Behind all that was queued.
    store.check().await.unwrap();
    for (id, path) in ids {
        let complete = match store.upload(&id).await.unwrap() {
            Some(upload) => matches!(upload.state, domain::upload::UploadState::Complete(_)),
            None => false,
        };
        assert_eq!(store.file(&path).await.unwrap().is_some(), complete);
    }
    store.close().await;
}
