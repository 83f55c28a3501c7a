//! Requests that their sender has given up, and that the server executes long afterwards.

use domain::ids::SystemRandomness;

use super::faulty_s3::Fault;
use super::*;

/// Time at which the server executes the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Catches {
    /// After the next writer has synced.
    AfterNext,
    /// After the blob is published.
    Last,
}

/// Steps of a history, in order. Each but the reading has a writer of its own.
#[derive(Debug, Clone, Copy)]
enum Step {
    Syncs(usize),
    Closes(usize),
    Reads(usize),
    Publishes(usize),
}

const STEPS: [Step; 7] = [
    Step::Syncs(1500),
    Step::Closes(2300),
    Step::Reads(2300),
    Step::Syncs(4400),
    Step::Reads(4400),
    Step::Closes(6500),
    Step::Publishes(8100),
];

async fn try_step(
    store: &S3Store,
    key: &BlobKey,
    at: Growth,
    step: Step,
    whole: &[u8],
) -> Result<(), BlobError> {
    let begin = usize::try_from(at.offset).unwrap();
    let write = async |end: usize| {
        let mut staged = store.stage(key, at).await?;
        staged.write(whole[begin..end].to_vec().into()).await?;
        Ok::<_, BlobError>(staged)
    };
    match step {
        Step::Syncs(end) => write(end).await?.sync().await.map(drop),
        Step::Closes(end) => write(end).await?.close().await.map(drop),
        Step::Publishes(end) => write(end).await?.publish().await.map(drop),
        Step::Reads(end) => {
            drop(store.stage(key, at).await?);
            let read = store.read_staged(key, 300..end as u64).await?;
            let read: Vec<_> = read.try_collect().await?;
            assert!(read.concat() == whole[300..end]);
            Ok(())
        }
    }
}

async fn is_late(store: &S3Store, server: &FaultyS3, catches: Catches, what: &str) {
    let key = BlobKey::random(&SystemRandomness);
    let whole = bytes(8100, 1);
    let (mut epoch, mut offset) = (0, 0);
    let mut has_failed = false;
    for step in STEPS {
        loop {
            epoch += 1;
            assert!(epoch < 20, "{what}");
            let done = try_step(store, &key, at(offset, epoch), step, &whole).await;
            match done {
                Ok(()) => break,
                Err(BlobError::Missing { .. }) => panic!("{what}: what was recorded is lost"),
                // The client tries again, except for a read.
                Err(_) => has_failed = true,
            }
            if matches!(step, Step::Reads(_)) {
                break;
            }
        }
        let (Step::Syncs(end) | Step::Closes(end) | Step::Reads(end) | Step::Publishes(end)) = step;
        if has_failed && catches == Catches::AfterNext && end > offset {
            server.catch_up();
        }
        offset = end;
    }
    server.catch_up();
    let found = read(store, &key, whole.len()).await;
    assert!(found.is_ok_and(|found| found == whole), "{what}");
    assert!(server.is_as_planned(), "{what}");
    assert_all_goes(server, store).await;
}

const REQUESTS: [(&str, u64); 7] = [
    ("PutObject", 12),
    ("DeleteObjects", 1),
    ("CreateMultipartUpload", 3),
    ("UploadPart", 6),
    ("UploadPartCopy", 2),
    ("CompleteMultipartUpload", 3),
    ("AbortMultipartUpload", 1),
];

/// Executes each request after its sender has given it up. The sender has sent it `attempts` times.
async fn every_request_is_late_once(attempts: u32) {
    let server = FaultyS3::start().await;
    let change = |config| Config {
        attempts: NonZeroU32::new(attempts).unwrap(),
        ..config
    };
    for catches in [Catches::AfterNext, Catches::Last] {
        for (operation, most) in REQUESTS {
            let store = node_with(&server, "a", Limits::default(), change).await;
            for nth in 1..=most {
                server.nth(operation, nth, Fault::Late);
                let what = format!("{attempts}, {catches:?}, {operation}, {nth}");
                is_late(&store, &server, catches, &what).await;
            }
        }
    }
}

#[tokio::test]
async fn a_request_that_is_done_late_changes_nothing() {
    every_request_is_late_once(1).await;
}

#[tokio::test]
async fn a_request_that_is_done_again_late_changes_nothing() {
    every_request_is_late_once(3).await;
}

/// A request that ends a multipart upload is executed when a newer writer may have continued the
/// upload.
#[tokio::test]
async fn a_multipart_upload_that_is_aborted_late_is_not_gone_on_with() {
    let server = FaultyS3::start().await;
    let impatient = |config| Config {
        attempts: NonZeroU32::MIN,
        ..config
    };
    let store = node_with(&server, "a", Limits::default(), impatient).await;
    let mut whole = bytes(2 * PART, 1);
    let mut staged = store.stage(&key(), at(0, 1)).await.unwrap();
    staged.write(whole.clone().into()).await.unwrap();
    staged.sync().await.unwrap();
    drop(staged);
    // After a crash there is an object, and a multipart upload without a part behind it.
    let staged = store.stage(&key(), at(whole.len(), 2)).await.unwrap();
    staged.close().await.unwrap();
    server.nth("AbortMultipartUpload", 1, Fault::Late);
    store.publish(&key(), whole.len() as u64).await.unwrap_err();

    let mut staged = store.stage(&key(), at(whole.len(), 3)).await.unwrap();
    let more = bytes(2 * PART, 2);
    staged.write(more.clone().into()).await.unwrap();
    staged.sync().await.unwrap();
    whole.extend(more);
    server.catch_up();
    drop(staged);
    let staged = store.stage(&key(), at(whole.len(), 4)).await.unwrap();
    staged.publish().await.unwrap();
    assert!(read(&store, &key(), whole.len()).await.unwrap() == whole);
    assert_all_goes(&server, &store).await;
}
