//! A node that pauses at one of its requests, and continues after others have taken over its
//! upload.

use std::sync::Mutex;

use domain::ids::SystemRandomness;

use super::faulty_s3::{Fault, Pause};
use super::*;

/// State that the pausing writer finds.
#[derive(Debug, Clone, Copy)]
enum Before {
    Nothing,
    /// A writer was closed.
    Closed,
    /// A writer was killed.
    Killed,
    /// The blob is published, but not recorded.
    Published,
}

/// End of the pausing writer.
#[derive(Debug, Clone, Copy)]
enum End {
    Closes,
    Publishes,
}

/// Time at which the pausing writer continues.
#[derive(Debug, Clone, Copy)]
enum GoesOn {
    /// After the newer writer has staged.
    Staged,
    /// After it has synced some bytes.
    Synced,
    /// After it was closed; yet another one publishes.
    Closed,
    /// After it has published.
    Published,
    /// After the janitor has deleted the published blob.
    Deleted,
}

/// Number of bytes that are recorded before the pausing writer begins.
const BEFORE: usize = 2 * PART + 300;

/// Record of the metadata store.
#[derive(Debug, Default)]
struct Record {
    epoch: u64,
    bytes: Vec<u8>,
}

impl Record {
    fn record(&mut self, epoch: u64, bytes: &[u8]) {
        if epoch == self.epoch {
            self.bytes = bytes.to_vec();
        }
    }
}

/// Nodes on a bucket.
struct Nodes {
    server: FaultyS3,
    a: S3Store,
    b: S3Store,
    c: S3Store,
}

/// Returns the result of a node's work, or `None` if the node pauses before.
async fn unless_paused<T>(
    server: &FaultyS3,
    node: &str,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        () = server.paused(node) => None,
    }
}

/// Runs a history in which the writer pauses after `requests` more requests. Returns `true` if it
/// got that far.
async fn pauses(
    nodes: &Arc<Nodes>,
    before: Before,
    end: End,
    goes_on: GoesOn,
    requests: u64,
    moment: Pause,
) -> bool {
    let Nodes { server, b, c, .. } = &**nodes;
    let key = BlobKey::random(&SystemRandomness);
    let record = Arc::new(Mutex::new(Record::default()));
    prepare(b, &key, before, &record).await;

    record.lock().unwrap().epoch += 1;
    server.pause("a", requests, moment);
    let mut old = tokio::spawn(write_on(
        Arc::clone(nodes),
        key.clone(),
        Arc::clone(&record),
        end,
    ));
    if let Some(done) = unless_paused(server, "a", &mut old).await {
        server.go_on("a");
        done.unwrap().unwrap();
        return false;
    }

    let (mut bytes, epoch) = {
        let mut record = record.lock().unwrap();
        record.epoch += 1;
        (record.bytes.clone(), record.epoch)
    };
    let mut staged = b.stage(&key, at(bytes.len(), epoch)).await.unwrap();
    let mut old = Some(old);
    let mut go_on = async |now: bool| {
        if now && let Some(old) = old.take() {
            server.go_on("a");
            // Its result does not matter.
            drop(old.await.unwrap());
        }
    };
    go_on(matches!(goes_on, GoesOn::Staged)).await;
    let new = self::bytes(PART + 500, 2);
    staged.write(new.clone().into()).await.unwrap();
    bytes.extend(new);
    staged.sync().await.unwrap();
    go_on(matches!(goes_on, GoesOn::Synced)).await;
    let new = self::bytes(PART, 3);
    staged.write(new.clone().into()).await.unwrap();
    bytes.extend(new);
    if matches!(goes_on, GoesOn::Closed) {
        staged.close().await.unwrap();
        go_on(true).await;
        staged = c.stage(&key, at(bytes.len(), epoch + 1)).await.unwrap();
        let new = self::bytes(700, 4);
        staged.write(new.clone().into()).await.unwrap();
        bytes.extend(new);
    }
    staged.publish().await.unwrap();
    go_on(matches!(goes_on, GoesOn::Published)).await;

    let what = format!("{before:?}, {end:?}, {goes_on:?}, {requests}, {moment:?}");
    assert!(read(c, &key, bytes.len()).await.unwrap() == bytes, "{what}");
    if matches!(goes_on, GoesOn::Deleted) {
        c.delete(&key).await.unwrap();
        go_on(true).await;
    }
    assert_all_goes(server, c).await;
    true
}

async fn prepare(node: &S3Store, key: &BlobKey, before: Before, record: &Mutex<Record>) {
    if matches!(before, Before::Nothing) {
        return;
    }
    let bytes = bytes(BEFORE, 0);
    let mut staged = node.stage(key, at(0, 1)).await.unwrap();
    staged.write(bytes.clone().into()).await.unwrap();
    staged.sync().await.unwrap();
    match before {
        Before::Nothing => {}
        Before::Closed => drop(staged.close().await.unwrap()),
        Before::Killed => {
            staged.write(vec![0xee; 2 * PART].into()).await.unwrap();
            drop(staged);
        }
        Before::Published => {
            staged.write(vec![0xee; 2 * PART].into()).await.unwrap();
            staged.publish().await.unwrap();
        }
    }
    *record.lock().unwrap() = Record { epoch: 1, bytes };
}

/// Runs the writer that pauses somewhere.
async fn write_on(
    nodes: Arc<Nodes>,
    key: BlobKey,
    record: Arc<Mutex<Record>>,
    end: End,
) -> Result<(), BlobError> {
    let (mut bytes, epoch) = {
        let record = record.lock().unwrap();
        (record.bytes.clone(), record.epoch)
    };
    let mut staged = nodes.a.stage(&key, at(bytes.len(), epoch)).await?;
    for length in [700, PART + 100] {
        let new = self::bytes(length, 1);
        staged.write(new.clone().into()).await?;
        bytes.extend(new);
        staged.sync().await?;
        record.lock().unwrap().record(epoch, &bytes);
    }
    staged.write(vec![0xdd; 300].into()).await?;
    match end {
        End::Closes => drop(staged.close().await?),
        End::Publishes => drop(staged.publish().await?),
    }
    Ok(())
}

async fn at_every_request(before: Before) {
    at_every_request_with(before, |config| config).await;
}

async fn at_every_request_with(before: Before, change: impl Fn(Config) -> Config) {
    let server = FaultyS3::start().await;
    let nodes = Arc::new(Nodes {
        a: node_with(&server, "a", Limits::default(), &change).await,
        b: node_with(&server, "b", Limits::default(), &change).await,
        c: node_with(&server, "c", Limits::default(), &change).await,
        server,
    });
    for end in [End::Closes, End::Publishes] {
        for goes_on in [
            GoesOn::Staged,
            GoesOn::Synced,
            GoesOn::Closed,
            GoesOn::Published,
            GoesOn::Deleted,
        ] {
            for moment in [Pause::Before, Pause::After] {
                let mut requests = 0;
                while pauses(&nodes, before, end, goes_on, requests, moment).await {
                    requests += 1;
                }
                assert!(requests > 4, "it pauses now and then");
            }
        }
    }
}

#[tokio::test]
async fn a_first_writer_that_paused_changes_nothing() {
    at_every_request(Before::Nothing).await;
}

#[tokio::test]
async fn a_writer_that_paused_after_a_clean_end_changes_nothing() {
    at_every_request(Before::Closed).await;
}

#[tokio::test]
async fn a_writer_that_paused_after_a_crash_changes_nothing() {
    at_every_request(Before::Killed).await;
}

#[tokio::test]
async fn a_writer_that_paused_after_taking_a_blob_back_changes_nothing() {
    at_every_request(Before::Published).await;
}

#[tokio::test]
async fn a_writer_that_paused_changes_nothing_on_a_server_without_conditions() {
    let plain = |config| Config {
        conditional_writes: Ability::No,
        ..config
    };
    for before in [Before::Nothing, Before::Published] {
        at_every_request_with(before, plain).await;
    }
}

/// History of an older writer.
#[derive(Debug, Clone, Copy)]
enum Older {
    /// It has taken over after a writer that was closed.
    AfterClosed,
    /// The same, after a writer that continued after a crash: there is an object already.
    AfterResumed,
    /// Its parts have become larger.
    Grown,
}

/// Operation of an older writer while a newer one takes over.
#[derive(Debug, Clone, Copy)]
enum Meanwhile {
    Publishes,
    Closes,
    Syncs,
}

/// Limits with which parts become larger after eight.
const FEW_PARTS: Limits = Limits {
    max_parts: 8,
    max_gathered: 64 * 1024,
    first_pause: Duration::from_millis(1),
    completing: Duration::from_mins(1),
};

/// Returns a writer on a node, and the newest epoch with the bytes that it recorded.
async fn older(
    node: &S3Store,
    key: &BlobKey,
    older: Older,
    is_synced: bool,
) -> (Box<dyn domain::StagedBlob>, Record) {
    let record = Mutex::new(Record::default());
    prepare(
        node,
        key,
        match older {
            Older::AfterClosed => Before::Closed,
            Older::AfterResumed => Before::Killed,
            Older::Grown => Before::Nothing,
        },
        &record,
    )
    .await;
    let Record { epoch, mut bytes } = record.into_inner().unwrap();
    let mut epoch = epoch + 1;
    let mut staged = node.stage(key, at(bytes.len(), epoch)).await.unwrap();
    let write = async |staged: &mut Box<dyn domain::StagedBlob>, length| {
        let new = self::bytes(length, 5);
        staged.write(new.clone().into()).await.unwrap();
        new
    };
    match older {
        Older::AfterClosed => {}
        Older::AfterResumed => {
            bytes.extend(write(&mut staged, 2 * PART).await);
            staged.close().await.unwrap();
            epoch += 1;
            staged = node.stage(key, at(bytes.len(), epoch)).await.unwrap();
        }
        Older::Grown => {
            bytes.extend(write(&mut staged, 17 * PART + 300).await);
            staged.sync().await.unwrap();
        }
    }
    if is_synced {
        bytes.extend(write(&mut staged, 700).await);
        staged.sync().await.unwrap();
    }
    staged.write(vec![0xee; 2 * PART].into()).await.unwrap();
    (staged, Record { epoch, bytes })
}

/// Checks that a newer writer finds the recorded bytes, and publishes more.
async fn is_taken_over(
    node: &S3Store,
    key: &BlobKey,
    staged: Result<Box<dyn domain::StagedBlob>, BlobError>,
    record: Record,
    what: &str,
) {
    let Record { epoch, mut bytes } = record;
    let mut staged = match staged {
        Err(BlobError::Missing { .. }) => panic!("{what}: what was recorded is lost"),
        // The client tries again.
        Err(_) => node.stage(key, at(bytes.len(), epoch + 2)).await.unwrap(),
        Ok(staged) => staged,
    };
    let new = self::bytes(700, 3);
    staged.write(new.clone().into()).await.unwrap();
    staged
        .publish()
        .await
        .unwrap_or_else(|error| panic!("{what}: {error:?}"));
    bytes.extend(new);
    assert!(
        read(node, key, bytes.len()).await.unwrap() == bytes,
        "{what}"
    );
}

/// Runs an operation of a writer while a newer one, which pauses at each of its requests, takes
/// over the bytes that were recorded before.
async fn is_changed_meanwhile(kind: Older, is_synced: bool, meanwhile: Meanwhile, moment: Pause) {
    let server = FaultyS3::start().await;
    let a = node_with(&server, "a", FEW_PARTS, |config| config).await;
    let b = Arc::new(node_with(&server, "b", FEW_PARTS, |config| config).await);
    for requests in 0.. {
        let what = format!("{kind:?}, {is_synced}, {meanwhile:?}, {requests}, {moment:?}");
        let key = BlobKey::random(&SystemRandomness);
        let (mut staged, record) = older(&a, &key, kind, is_synced).await;
        server.pause("b", requests, moment);
        let mut newer = tokio::spawn({
            let (key, growth) = (key.clone(), at(record.bytes.len(), record.epoch + 1));
            let b = Arc::clone(&b);
            async move { b.stage(&key, growth).await }
        });
        if unless_paused(&server, "b", &mut newer).await.is_some() {
            server.go_on("b");
            assert!(requests > 4, "it pauses now and then");
            break;
        }
        // It may be superseded.
        let _ = match meanwhile {
            Meanwhile::Publishes => staged.publish().await,
            Meanwhile::Closes => staged.close().await,
            Meanwhile::Syncs => staged.sync().await,
        };
        server.go_on("b");
        is_taken_over(&b, &key, newer.await.unwrap(), record, &what).await;
        assert_all_goes(&server, &a).await;
    }
}

async fn is_changed_meanwhile_by(kind: Older) {
    for is_synced in [false, true] {
        for meanwhile in [Meanwhile::Publishes, Meanwhile::Closes, Meanwhile::Syncs] {
            for moment in [Pause::Before, Pause::After] {
                is_changed_meanwhile(kind, is_synced, meanwhile, moment).await;
            }
        }
    }
}

#[tokio::test]
async fn who_takes_over_after_a_clean_end_finds_what_was_recorded() {
    is_changed_meanwhile_by(Older::AfterClosed).await;
}

#[tokio::test]
async fn who_takes_over_where_an_object_lies_already_finds_what_was_recorded() {
    is_changed_meanwhile_by(Older::AfterResumed).await;
}

#[tokio::test]
async fn who_takes_over_parts_that_grew_finds_what_was_recorded() {
    is_changed_meanwhile_by(Older::Grown).await;
}

/// Publishes by a writer while a newer one, which adds nothing, takes the blob back and publishes
/// it again. One of them pauses at each of its requests.
async fn is_published_as_it_was(
    pauses: &str,
    longer: bool,
    moment: Pause,
    change: impl Fn(Config) -> Config,
) {
    let server = FaultyS3::start().await;
    let a = node_with(&server, "a", Limits::default(), &change).await;
    let b = node_with(&server, "b", Limits::default(), &change).await;
    for requests in 0.. {
        let key = BlobKey::random(&SystemRandomness);
        let whole = bytes(BEFORE, 0);
        let mut staged = a.stage(&key, at(0, 1)).await.unwrap();
        staged.write(whole.clone().into()).await.unwrap();
        staged.publish().await.unwrap();
        // All bytes or none are recorded, but not the publication.
        let offset = match longer {
            true => whole.len(),
            false => 0,
        };
        let mut older = a.stage(&key, at(offset, 2)).await.unwrap();
        let older = async {
            if longer {
                older.write(vec![0xee; 2 * PART].into()).await?;
            }
            older.publish().await
        };
        let newer = async |epoch| {
            let mut staged = b.stage(&key, at(offset, epoch)).await?;
            staged.write(whole[offset..].to_vec().into()).await?;
            staged.publish().await
        };
        server.pause(pauses, requests, moment);
        let is_paused;
        let published;
        if pauses == "a" {
            tokio::pin!(older);
            is_paused = unless_paused(&server, pauses, &mut older).await.is_none();
            published = newer(3).await;
            server.go_on(pauses);
            if is_paused {
                let _ = older.await;
            }
        } else {
            let newer = newer(3);
            tokio::pin!(newer);
            let early = unless_paused(&server, pauses, &mut newer).await;
            is_paused = early.is_none();
            let _ = older.await;
            server.go_on(pauses);
            published = match early {
                Some(published) => published,
                None => newer.await,
            };
        }
        let what = format!("{pauses}, {longer}, {requests}, {moment:?}");
        if let Err(error) = published {
            assert!(!matches!(error, BlobError::Missing { .. }), "{what}");
            newer(4).await.unwrap();
        }
        assert!(
            read(&b, &key, whole.len()).await.unwrap() == whole,
            "{what}"
        );
        assert_all_goes(&server, &a).await;
        if !is_paused {
            assert!(requests > 0, "it pauses now and then");
            break;
        }
    }
}

#[tokio::test]
async fn what_is_published_as_it_was_stays_so() {
    for conditional_writes in [true, false] {
        for pauses in ["a", "b"] {
            for longer in [true, false] {
                for moment in [Pause::Before, Pause::After] {
                    is_published_as_it_was(pauses, longer, moment, |config| Config {
                        conditional_writes: conditional_writes.into(),
                        ..config
                    })
                    .await;
                }
            }
        }
    }
}

#[tokio::test]
async fn who_looks_while_a_blob_is_published_finds_it() {
    let server = FaultyS3::start().await;
    let (a, b) = (node(&server, "a").await, node(&server, "b").await);
    for moment in [Pause::Before, Pause::After] {
        // It looks at the notes, at the newest of them, and at the object.
        for requests in 0..3 {
            let key = BlobKey::random(&SystemRandomness);
            prepare(&a, &key, Before::Closed, &Mutex::default()).await;
            server.pause("b", requests, moment);
            let again = b.publish(&key, BEFORE as u64);
            let meanwhile = async {
                server.paused("b").await;
                a.publish(&key, BEFORE as u64).await.unwrap();
                server.go_on("b");
            };
            let (again, ()) = tokio::join!(again, meanwhile);
            again.unwrap_or_else(|error| panic!("{requests}, {moment:?}: {error:?}"));
            assert_all_goes(&server, &a).await;
        }
    }
}

/// The server takes its time, gets the request again, and answers that there is no such upload any
/// more.
#[tokio::test]
async fn parts_grow_behind_what_is_in_its_place_only() {
    for is_done in [true, false] {
        parts_grow_while_the_server_is_slow(is_done).await;
    }
}

async fn parts_grow_while_the_server_is_slow(is_done: bool) {
    let server = FaultyS3::start().await;
    let hasty = |config| Config {
        attempt_timeout: Duration::from_millis(300),
        ..config
    };
    let a = node_with(&server, "a", FEW_PARTS, hasty).await;
    let b = node_with(&server, "b", FEW_PARTS, |config| config).await;
    let mut staged = a.stage(&key(), at(0, 1)).await.unwrap();
    let mut whole = bytes(7 * PART, 1);
    staged.write(whole.clone().into()).await.unwrap();
    staged.sync().await.unwrap();
    server.nth("CompleteMultipartUpload", 1, Fault::Hides);
    let more = bytes(3 * PART, 2);
    let mut write = async || {
        staged.write(more.clone().into()).await?;
        staged.sync().await
    };
    if write().await.is_ok() {
        whole.extend(&more);
    }
    let growth = at(whole.len(), 2);
    let newer = tokio::spawn(async move { (b.stage(&key(), growth).await, b) });
    tokio::time::sleep(Duration::from_millis(100)).await;
    match is_done {
        true => server.catch_up(),
        false => server.give_up(),
    }
    let (staged, b) = newer.await.unwrap();
    let record = Record {
        epoch: 1,
        bytes: whole,
    };
    is_taken_over(&b, &key(), staged, record, "grown").await;
    assert_all_goes(&server, &a).await;
}

/// A writer whose parts grow begins another multipart upload, which a newer writer may not see.
#[tokio::test]
async fn a_writer_whose_parts_grow_changes_nothing_when_it_paused() {
    for conditional_writes in [true, false] {
        let plain = |config| Config {
            conditional_writes: conditional_writes.into(),
            ..config
        };
        let server = FaultyS3::start().await;
        let a = node_with(&server, "a", FEW_PARTS, plain).await;
        let b = node_with(&server, "b", FEW_PARTS, plain).await;
        for moment in [Pause::Before, Pause::After] {
            for requests in 0.. {
                let key = BlobKey::random(&SystemRandomness);
                let whole = bytes(8 * PART, 1);
                let mut old = a.stage(&key, at(0, 1)).await.unwrap();
                old.write(whole.clone().into()).await.unwrap();
                old.sync().await.unwrap();
                server.pause("a", requests, moment);
                let mut old = tokio::spawn(async move {
                    old.write(vec![0xee; 9 * PART].into()).await?;
                    old.publish().await
                });
                if unless_paused(&server, "a", &mut old).await.is_some() {
                    server.go_on("a");
                    assert!(requests > 4, "it pauses now and then");
                    break;
                }
                let staged = b.stage(&key, at(whole.len(), 2)).await.unwrap();
                staged.publish().await.unwrap();
                server.go_on("a");
                let _ = old.await.unwrap();
                let what = format!("{conditional_writes}, {requests}, {moment:?}");
                let found = read(&b, &key, whole.len()).await;
                assert!(found.is_ok_and(|found| found == whole), "{what}");
                assert_all_goes(&server, &b).await;
            }
        }
    }
}

/// The multipart upload has gone already, and the object has not appeared yet.
#[tokio::test]
async fn what_is_being_completed_is_waited_for() {
    let server = FaultyS3::start().await;
    let (a, b) = (node(&server, "a").await, node(&server, "b").await);
    let record = Mutex::new(Record::default());
    prepare(&a, &key(), Before::Closed, &record).await;
    let mut whole = record.into_inner().unwrap().bytes;
    let mut older = a.stage(&key(), at(whole.len(), 2)).await.unwrap();
    older.write(vec![0xee; 2 * PART].into()).await.unwrap();
    server.pause("a", 0, Pause::Completing);
    let older = tokio::spawn(older.publish());
    server.paused("a").await;

    let growth = at(whole.len(), 3);
    let newer = tokio::spawn(async move { b.stage(&key(), growth).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!newer.is_finished());
    server.go_on("a");
    let mut staged = newer.await.unwrap().unwrap();
    let _ = older.await.unwrap();
    let new = bytes(700, 3);
    staged.write(new.clone().into()).await.unwrap();
    staged.publish().await.unwrap();
    whole.extend(new);
    assert!(read(&a, &key(), whole.len()).await.unwrap() == whole);
    assert_all_goes(&server, &a).await;
}

/// A lifecycle rule of the bucket has aborted it.
#[tokio::test]
async fn a_multipart_upload_that_stays_away_is_lost() {
    let server = FaultyS3::start().await;
    let limits = Limits {
        completing: Duration::from_millis(200),
        ..Limits::default()
    };
    let a = node_with(&server, "a", limits, |config| config).await;
    let record = Mutex::new(Record::default());
    prepare(&a, &key(), Before::Closed, &record).await;
    server.abort_uploads();
    let staged = a.stage(&key(), at(BEFORE, 2)).await;
    assert!(matches!(staged, Err(BlobError::Missing { .. })));
}

#[tokio::test]
async fn what_a_writer_leaves_after_its_blob_was_published_does_not_count() {
    let server = FaultyS3::start().await;
    let (a, b) = (node(&server, "a").await, node(&server, "b").await);
    let mut old = a.stage(&key(), at(0, 1)).await.unwrap();
    let mut staged = b.stage(&key(), at(0, 2)).await.unwrap();
    let mut whole = bytes(700, 1);
    staged.write(whole.clone().into()).await.unwrap();
    staged.publish().await.unwrap();
    // A multipart upload with a part, and a note with the bytes behind it, as if it had handed them
    // on.
    old.write(vec![0xee; 2 * PART].into()).await.unwrap();
    old.close().await.unwrap();
    assert!(read(&a, &key(), 700).await.unwrap() == whole);
    b.publish(&key(), 700).await.unwrap();

    // Nobody had recorded it.
    let mut staged = b.stage(&key(), at(700, 3)).await.unwrap();
    let more = bytes(PART, 2);
    staged.write(more.clone().into()).await.unwrap();
    whole.extend(more);
    staged.publish().await.unwrap();
    assert!(read(&a, &key(), whole.len()).await.unwrap() == whole);
    assert_all_goes(&server, &a).await;
}
