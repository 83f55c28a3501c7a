//! Transient faults: no caller notices them, whichever requests they hit.

use domain::ids::SystemRandomness;

use super::faulty_s3::Fault;
use super::*;

/// Writes a blob alternately on two nodes, of which the second is killed once, reads it back and
/// deletes it.
pub(super) async fn history(a: &S3Store, b: &S3Store) -> Result<(), BlobError> {
    let key = BlobKey::random(&SystemRandomness);
    let whole = bytes(6 * PART + 123, 7);
    let mut staged = a.stage(&key, at(0, 1)).await?;
    staged.write(whole[..1500].to_vec().into()).await?;
    staged.sync().await?;
    staged.write(whole[1500..2100].to_vec().into()).await?;
    staged.close().await?;
    let mut staged = b.stage(&key, at(2100, 2)).await?;
    staged.write(whole[2100..4300].to_vec().into()).await?;
    staged.sync().await?;
    drop(staged);
    let read = a.read_staged(&key, 500..4300).await?;
    let read: Vec<_> = read.try_collect().await?;
    assert!(read.concat() == whole[500..4300]);
    let mut staged = a.stage(&key, at(4300, 3)).await?;
    staged.write(whole[4300..].to_vec().into()).await?;
    staged.publish().await?;
    assert!(super::read(b, &key, whole.len()).await? == whole);

    let small = BlobKey::random(&SystemRandomness);
    let mut staged = a.stage(&small, Growth::NEW).await?;
    staged.write(whole[..10].to_vec().into()).await?;
    staged.publish().await?;
    b.open(&small, 10).await?;
    b.delete(&small).await?;
    b.delete(&key).await?;
    Ok(())
}

/// Minimum number of requests of each operation in a history.
const REQUESTS: [(&str, u64); 11] = [
    ("PutObject", 6),
    ("GetObject", 8),
    ("HeadObject", 12),
    ("ListObjectsV2", 8),
    ("DeleteObjects", 3),
    ("CreateMultipartUpload", 2),
    ("UploadPart", 7),
    ("UploadPartCopy", 4),
    ("CompleteMultipartUpload", 2),
    ("ListParts", 4),
    ("ListMultipartUploads", 2),
];

/// Fails the first request of each operation, then the second, and so on, each in a history of its
/// own.
async fn every_request_fails_once(fault: Fault) {
    let server = FaultyS3::start().await;
    let quick = |config| Config {
        attempt_timeout: Duration::from_millis(500),
        ..config
    };
    let (a, b) = (
        node_with(&server, "a", Limits::default(), quick).await,
        node_with(&server, "b", Limits::default(), quick).await,
    );
    for nth in 1..=12 {
        for (operation, _) in REQUESTS.iter().filter(|(_, most)| nth <= *most) {
            server.nth(operation, nth, fault);
        }
        let done = history(&a, &b).await;
        done.unwrap_or_else(|error| panic!("{nth}: {error:?}"));
        assert!(server.is_as_planned(), "{nth}");
        assert_all_goes(&server, &a).await;
    }
}

#[tokio::test]
async fn an_internal_error_goes_unnoticed() {
    every_request_fails_once(Fault::Internal).await;
}

#[tokio::test]
async fn a_server_that_is_too_busy_goes_unnoticed() {
    every_request_fails_once(Fault::SlowDown).await;
}

#[tokio::test]
async fn a_reset_goes_unnoticed() {
    every_request_fails_once(Fault::ResetBefore).await;
}

#[tokio::test]
async fn a_lost_answer_goes_unnoticed() {
    every_request_fails_once(Fault::ResetAfter).await;
}

#[tokio::test]
async fn an_ok_that_carries_an_error_goes_unnoticed() {
    every_request_fails_once(Fault::OkWithError).await;
}

#[tokio::test]
async fn a_name_that_is_taken_for_a_directory_goes_unnoticed() {
    every_request_fails_once(Fault::IsDirectory).await;
}

#[tokio::test]
async fn a_server_that_never_answers_goes_unnoticed() {
    every_request_fails_once(Fault::StallsBefore).await;
}

#[tokio::test]
async fn an_answer_that_never_comes_goes_unnoticed() {
    every_request_fails_once(Fault::StallsAfter).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_goes_unnoticed() {
    every_request_fails_once(Fault::BreaksOff).await;
}

#[tokio::test]
async fn memory_is_shared_and_nobody_waits_for_ever() {
    let server = FaultyS3::start().await;
    let narrow = |config| Config {
        memory: ByteSize::kib(8),
        ..config
    };
    let store = node_with(&server, "a", Limits::default(), narrow).await;
    let writers = (0..20_u8).map(|of| {
        let store = &store;
        async move {
            let key: BlobKey = format!("blob-{of}").parse().unwrap();
            let whole = bytes(7 * PART + 10, of);
            let mut staged = store.stage(&key, Growth::NEW).await.unwrap();
            for (index, chunk) in whole.chunks(333).enumerate() {
                staged.write(chunk.to_vec().into()).await.unwrap();
                if index % 7 == usize::from(of) % 7 {
                    staged.sync().await.unwrap();
                }
            }
            staged.publish().await.unwrap();
            let blob = store.open(&key, whole.len() as u64).await.unwrap();
            let read: Vec<_> = blob
                .read(0..whole.len() as u64)
                .try_collect()
                .await
                .unwrap();
            assert!(read.concat() == whole);
        }
    });
    futures::future::join_all(writers).await;
    assert_all_goes(&server, &store).await;
}

#[tokio::test]
async fn parts_grow_where_there_would_be_too_many() {
    let server = FaultyS3::start().await;
    let limits = Limits {
        max_parts: 16,
        ..Limits::default()
    };
    let config = Config {
        part_size: ByteSize::b(PART as u64),
        memory: ByteSize::mib(1),
        ..config(&server, "a")
    };
    let store = S3Store::connect(&config, limits).await.unwrap();
    let whole = bytes(150 * PART + 1, 5);
    let mut staged = store.stage(&key(), at(0, 1)).await.unwrap();
    staged
        .write(whole[..40 * PART].to_vec().into())
        .await
        .unwrap();
    staged.close().await.unwrap();
    let mut staged = store.stage(&key(), at(40 * PART, 2)).await.unwrap();
    staged
        .write(whole[40 * PART..].to_vec().into())
        .await
        .unwrap();
    staged.publish().await.unwrap();
    assert!(read(&store, &key(), whole.len()).await.unwrap() == whole);
    assert_all_goes(&server, &store).await;
}

#[tokio::test]
async fn a_known_length_has_parts_that_suffice() {
    let server = FaultyS3::start().await;
    let store = S3Store::open(&config(&server, "a")).await.unwrap();
    let part_size = |length| store.shared.part_size(length);
    let mib = 1024 * 1024;
    assert_eq!(part_size(None), 8 * mib);
    assert_eq!(part_size(Some(80_000 * mib)), 8 * mib);
    assert_eq!(part_size(Some(80_000 * mib + 1)), 16 * mib);
    let largest = 5 * mib * mib;
    assert!(largest.div_ceil(part_size(Some(largest))) <= 10_000);
}

#[tokio::test]
async fn a_plain_upload_takes_few_requests() {
    let server = FaultyS3::start().await;
    let store = node(&server, "a").await;
    let opened = store.requests();
    let mut staged = store.stage(&key(), at(0, 1)).await.unwrap();
    staged.write(bytes(PART, 1).into()).await.unwrap();
    staged.publish().await.unwrap();
    let mut expected = opened;
    *expected.entry("PutObject").or_default() += 1;
    assert_eq!(store.requests(), expected);
}

#[tokio::test]
async fn a_server_without_conditions_is_used_without() {
    let server = FaultyS3::start().await;
    let plain = |config| Config {
        conditional_writes: Ability::No,
        checksums: Checksums::None,
        ..config
    };
    let (a, b) = (
        node_with(&server, "a", Limits::default(), plain).await,
        node_with(&server, "b", Limits::default(), plain).await,
    );
    let whole = bytes(3 * PART, 1);
    let mut old = a.stage(&key(), at(0, 1)).await.unwrap();
    old.write(vec![0xee; 10].into()).await.unwrap();
    let mut staged = b.stage(&key(), at(0, 2)).await.unwrap();
    staged.write(whole.clone().into()).await.unwrap();
    staged.publish().await.unwrap();
    old.publish().await.unwrap_err();
    assert!(read(&a, &key(), whole.len()).await.unwrap() == whole);
    assert_all_goes(&server, &b).await;
}

#[tokio::test]
async fn short_reads_in_a_row_take_few_requests() {
    let server = FaultyS3::start().await;
    let store = S3Store::open(&config(&server, "a")).await.unwrap();
    let whole = bytes(5 * 1024 * 1024 / 2, 1);
    let mut staged = store.stage(&key(), at(0, 1)).await.unwrap();
    staged.write(whole.clone().into()).await.unwrap();
    staged.publish().await.unwrap();
    let blob = store.open(&key(), whole.len() as u64).await.unwrap();
    let before = store.requests()["GetObject"];
    let mut begin = 0;
    while begin < whole.len() {
        let end = whole.len().min(begin + 77_777);
        let read: Vec<_> = blob
            .read(begin as u64..end as u64)
            .try_collect()
            .await
            .unwrap();
        assert!(read.concat() == whole[begin..end], "{begin}");
        begin = end;
    }
    assert_eq!(store.requests()["GetObject"] - before, 3);
}

#[tokio::test]
async fn readers_that_pause_are_bounded_and_read_on() {
    let server = FaultyS3::start().await;
    let few = |config| Config {
        max_paused_reads: 3,
        ..config
    };
    let store = node_with(&server, "a", Limits::default(), few).await;
    let key: BlobKey = "blob".parse().unwrap();
    let whole = bytes(7 * PART + 10, 1);
    let mut staged = store.stage(&key, Growth::NEW).await.unwrap();
    staged.write(whole.clone().into()).await.unwrap();
    staged.publish().await.unwrap();
    let blob = store.open(&key, whole.len() as u64).await.unwrap();
    let mut readers: Vec<_> = (0..10)
        .map(|_| (blob.read(0..whole.len() as u64), Vec::new()))
        .collect();
    let mut going = true;
    while going {
        going = false;
        for (reader, read) in &mut readers {
            if let Some(chunk) = reader.try_next().await.unwrap() {
                read.extend_from_slice(&chunk);
                going = true;
            }
            assert!(store.shared.pauses.len() <= 3);
        }
    }
    assert!(readers.iter().all(|(_, read)| *read == whole));
    drop(readers);
    assert_eq!(store.shared.pauses.len(), 0);
}
