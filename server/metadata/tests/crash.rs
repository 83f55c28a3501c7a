//! Acknowledged changes survive a kill of the process at any point.

#![expect(
    clippy::unwrap_used,
    reason = "a test, in functions of its own as well"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use testing::postgres::fresh_schema;

use domain::metadata_store::{Guarded, Hold, Inserted, Written};
use domain::upload::UploadState;
use domain::{MetadataStore, Timestamp, UploadId};
use metadata::{Config, PostgresConfig, SqliteConfig};
use testing::metadata_store::{completed, progress, upload};

const LATER: Timestamp = Timestamp::from_millis(1_900_000_000_000);

/// The configuration names no file that is relative.
async fn opened(config: &Config) -> Arc<dyn MetadataStore> {
    let stores = metadata::open(config, Path::new("/nowhere")).await;
    stores.unwrap().metadata
}

/// Has the configuration for the child.
const CHILD: &str = "METADATA_CRASH_CHILD";

/// The child: 32 callers make, claim, grow and complete uploads, and tell of each answer on a line,
/// `<step> <id> <path>`.
async fn work_until_killed(config: &Config) {
    let store = opened(config).await;
    let callers: Vec<_> = (0..32)
        .map(|caller| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for n in 0.. {
                    live(&*store, &format!("{}/{caller}/{n}", std::process::id())).await;
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
}

async fn live(store: &dyn MetadataStore, path: &str) {
    let tell = |step: &str, id: &UploadId| {
        let mut stdout = std::io::stdout().lock();
        // One write a line: a line is whole or not there.
        stdout
            .write_all(format!("{step} {id} {path}\n").as_bytes())
            .unwrap();
        stdout.flush().unwrap();
    };
    let upload = upload(path);
    assert_eq!(store.insert_upload(&upload).await.unwrap(), Inserted::New);
    tell("inserted", &upload.id);
    let upload = store
        .claim_upload(&upload.id, None, None)
        .await
        .unwrap()
        .unwrap();
    tell("claimed", &upload.id);
    let recorded = store
        .record_progress(&upload.id, 1, &progress(5, Some(5)), LATER, Hold::Keep)
        .await;
    assert_eq!(recorded.unwrap(), Guarded::Done);
    tell("recorded", &upload.id);
    let written = store
        .complete_upload(&upload, &completed("hello", LATER), LATER, None)
        .await;
    assert_eq!(written.unwrap(), Written::Created);
    tell("completed", &upload.id);
}

/// Runs the child as `test`, kills it once it has told `lines` lines, and returns the last step it
/// told of each upload.
fn kill_after(test: &str, config: &Config, lines: usize) -> BTreeMap<UploadId, (String, String)> {
    // This very program, told to run the one test as a child.
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .arg("--nocapture")
        .env(CHILD, toml::to_string(config).unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();

    let mut told = BTreeMap::new();
    let mut count = 0;
    // Ends where the killed child's output ends: what it told in its last moment counts as well.
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let mut words = line.split(' ');
        let (Some(step), Some(id), Some(path)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let Ok(id) = id.parse() else {
            continue;
        };
        told.insert(id, (step.to_owned(), path.to_owned()));
        count += 1;
        if count == lines {
            child.kill().unwrap();
        }
    }
    let status = child.wait().unwrap();
    assert!(count >= lines, "the child ended by itself: {status}");
    told
}

/// Kills children after more and more lines, and looks after each whether what they told is there.
async fn kill_and_look(test: &'static str, config: Config) {
    let mut all = BTreeMap::new();
    for lines in [1, 100, 701, 2003] {
        let to_child = config.clone();
        let told = tokio::task::spawn_blocking(move || kill_after(test, &to_child, lines));
        all.extend(told.await.unwrap());

        let store = opened(&config).await;
        for (id, (step, path)) in &all {
            let upload = store.upload(id).await.unwrap().expect(step);
            assert_eq!(upload.path().unwrap().as_str(), path);
            let file = store.file(upload.path().unwrap()).await.unwrap();
            match (&upload.state, step.as_str()) {
                (UploadState::Open(progress), "inserted" | "claimed" | "recorded") => {
                    assert!(progress.open.offset == 5 || step != "recorded");
                    assert!(upload.epoch == 1 || step == "inserted");
                    assert_eq!(file, None);
                }
                // What was done and not yet told may be there, but never half of it.
                (UploadState::Complete(completed), _) => {
                    assert_eq!(file, upload.file(completed));
                }
                (state, step) => panic!("{step}, but {state:?}"),
            }
            let known = store.known_blobs(&[upload.blob]).await.unwrap();
            assert_eq!(known.len(), 1);
        }
        tokio::time::timeout(Duration::from_secs(20), store.close())
            .await
            .unwrap();
    }
}

/// As a child, works until it is killed.
async fn is_child() -> bool {
    let Some(config) = std::env::var_os(CHILD) else {
        return false;
    };
    let config = config.into_string().unwrap();
    work_until_killed(&toml::from_str(&config).unwrap()).await;
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_kill() {
    if is_child().await {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let config = Config::Sqlite(SqliteConfig {
        file: directory.path().join("metadata.sqlite"),
        ..SqliteConfig::default()
    });
    kill_and_look("what_was_acknowledged_survives_a_kill", config).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_kill_beside_postgres() {
    if is_child().await {
        return;
    }
    let config = Config::Postgres(PostgresConfig::new(fresh_schema().await));
    kill_and_look(
        "what_was_acknowledged_survives_a_kill_beside_postgres",
        config,
    )
    .await;
}
