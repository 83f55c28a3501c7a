//! Contract of blob stores: one function for each behaviour, and
//! [`blob_store_contract!`](crate::blob_store_contract) to test a store against all of them.
//!
//! Each function uses its own keys, so the store may be shared and may hold other blobs.
#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "these are tests: they fail by panicking"
)]

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{join_all, poll_immediate};
use futures::{StreamExt, TryStreamExt};

use domain::blob_store::{BlobEntry, BlobError, BlobState, BlobStream, Growth};
use domain::ids::SystemRandomness;
use domain::{Blob, BlobKey, BlobStore};

/// Generates a test for each behaviour in [`testing::blob_store`](crate::blob_store).
///
/// Takes the path of an `async fn() -> (Arc<dyn BlobStore>, impl Sized)`; the second value is kept
/// until the test ends.
#[macro_export]
macro_rules! blob_store_contract {
    ($open:path) => {
        $crate::blob_store_contract! { $open:
            what_was_synced_reads_back
            chunks_of_any_size_are_appended_in_order
            a_sync_without_new_bytes_tells_the_length
            a_staged_blob_goes_on_at_its_offset
            bytes_beyond_the_offset_are_dropped
            staging_at_zero_begins_anew
            staging_beyond_the_end_fails
            staging_nothing_at_an_offset_fails
            a_writer_that_goes_away_leaves_what_it_synced
            a_dropped_write_does_no_harm
            a_newer_writer_cuts_off_the_older_one
            reading_staged_bytes_that_are_not_there_fails
            discarding_forgets_a_staged_blob
            discarding_leaves_published_blobs_alone
            a_published_blob_reads_back
            an_empty_blob_can_be_published
            a_large_blob_reads_back
            publishing_twice_succeeds
            publishing_nothing_fails
            publishing_another_size_fails_and_changes_nothing
            a_published_blob_is_not_staged
            a_staged_blob_is_not_published
            a_published_blob_can_be_taken_back
            a_writer_cannot_change_what_is_published
            every_range_reads_exactly
            a_range_beyond_the_end_ends_with_an_error
            many_readers_read_at_once
            a_dropped_read_does_no_harm
            opening_with_another_size_fails
            a_deleted_blob_is_missing
            deleting_what_is_not_there_succeeds
            a_reader_outlives_deletion_or_fails
            a_deleted_key_can_be_staged_anew
            lists_tell_staged_from_published
            lists_are_in_order_and_can_be_continued
            modification_times_do_not_run_backwards
            many_blobs_are_written_at_once
            a_working_store_passes_its_check
        }
    };
    ($open:path: $($behaviour:ident)*) => {
        $(
            #[tokio::test]
            async fn $behaviour() {
                let (store, _kept) = $open().await;
                $crate::blob_store::$behaviour(&*store).await;
            }
        )*
    };
}

/// Synced bytes of a staged blob can be read back, entirely and in part.
pub async fn what_was_synced_reads_back(store: &dyn BlobStore) {
    let key = key();
    let mut staged = store.stage(&key, at(0)).await.unwrap();
    staged.write(Bytes::from_static(b"hello ")).await.unwrap();
    staged.write(Bytes::from_static(b"world")).await.unwrap();
    assert_eq!(staged.sync().await.unwrap(), 11);
    assert_eq!(read_staged(store, &key, 0..11).await, b"hello world");
    assert_eq!(read_staged(store, &key, 4..7).await, b"o w");
    assert_eq!(read_staged(store, &key, 5..5).await, b"");
}

/// Chunks of any size, from empty to more than a megabyte, are appended in the order of the writes.
pub async fn chunks_of_any_size_are_appended_in_order(store: &dyn BlobStore) {
    let key = key();
    let whole = pattern(0..3_000_000);
    let sizes = [
        1, 0, 7, 4096, 65_536, 1, 1, 300_000, 20_000, 1_500_000, 16_384, 13,
    ];
    let mut rest = Bytes::from(whole.clone());
    let mut staged = store.stage(&key, at(0)).await.unwrap();
    for (index, size) in sizes.iter().cycle().enumerate() {
        if rest.is_empty() {
            break;
        }
        let chunk = rest.split_to((*size).min(rest.len()));
        staged.write(chunk).await.unwrap();
        if index % 5 == 4 {
            staged.sync().await.unwrap();
        }
    }
    assert_eq!(staged.sync().await.unwrap(), 3_000_000);
    drop(staged);
    store.publish(&key, 3_000_000).await.unwrap();
    assert!(read(store, &key, 3_000_000).await == whole);
}

/// A sync returns the length of the blob, even if nothing was written since the last one.
pub async fn a_sync_without_new_bytes_tells_the_length(store: &dyn BlobStore) {
    let key = key();
    let mut staged = store.stage(&key, at(0)).await.unwrap();
    assert_eq!(staged.sync().await.unwrap(), 0);
    staged.write(Bytes::from_static(b"abc")).await.unwrap();
    assert_eq!(staged.sync().await.unwrap(), 3);
    assert_eq!(staged.sync().await.unwrap(), 3);
    drop(staged);
    let mut staged = store.stage(&key, at(3)).await.unwrap();
    assert_eq!(staged.sync().await.unwrap(), 3);
}

/// A new writer continues at the offset where the previous one ended.
pub async fn a_staged_blob_goes_on_at_its_offset(store: &dyn BlobStore) {
    let key = key();
    write(store, &key, 0, b"hello ").await;
    write(store, &key, 6, b"world").await;
    store.publish(&key, 11).await.unwrap();
    assert_eq!(read(store, &key, 11).await, b"hello world");
}

/// Staging at an offset drops the bytes beyond it.
pub async fn bytes_beyond_the_offset_are_dropped(store: &dyn BlobStore) {
    let key = key();
    write(store, &key, 0, b"hello world, and more").await;
    write(store, &key, 6, b"moon").await;
    store.publish(&key, 10).await.unwrap();
    assert_eq!(read(store, &key, 10).await, b"hello moon");
}

/// Staging at offset zero drops all earlier bytes.
pub async fn staging_at_zero_begins_anew(store: &dyn BlobStore) {
    let key = key();
    write(store, &key, 0, b"hello world").await;
    write(store, &key, 0, b"bye").await;
    store.publish(&key, 3).await.unwrap();
    assert_eq!(read(store, &key, 3).await, b"bye");
}

/// Staging beyond the end of a blob fails and leaves the blob unchanged.
pub async fn staging_beyond_the_end_fails(store: &dyn BlobStore) {
    let key = key();
    write(store, &key, 0, b"hello").await;
    assert_too_short(store.stage(&key, at(6)).await);
    assert_eq!(read_staged(store, &key, 0..5).await, b"hello");
}

/// Staging an absent blob at an offset above zero fails and creates no blob.
pub async fn staging_nothing_at_an_offset_fails(store: &dyn BlobStore) {
    let key = key();
    assert_too_short(store.stage(&key, at(1)).await);
    assert!(!is_listed(store, BlobState::Staged, &key).await);
}

/// Synced bytes outlive their writer, regardless of unsynced writes that followed.
pub async fn a_writer_that_goes_away_leaves_what_it_synced(store: &dyn BlobStore) {
    let key = key();
    let whole = pattern(0..400_000);
    let mut staged = store.stage(&key, at(0)).await.unwrap();
    staged
        .write(whole[..200_000].to_vec().into())
        .await
        .unwrap();
    staged.sync().await.unwrap();
    staged.write(vec![0; 150_000].into()).await.unwrap();
    drop(staged);
    write(store, &key, 200_000, &whole[200_000..]).await;
    store.publish(&key, 400_000).await.unwrap();
    assert!(read(store, &key, 400_000).await == whole);
}

/// A write, sync or staging that is dropped after its first poll does not affect the bytes of a
/// later writer.
pub async fn a_dropped_write_does_no_harm(store: &dyn BlobStore) {
    let key = key();
    write(store, &key, 0, b"begun").await;
    for _ in 0..20 {
        let mut staged = store.stage(&key, at(5)).await.unwrap();
        for _ in 0..4 {
            drop(poll_immediate(staged.write(vec![0xff; 700_000].into())).await);
        }
        drop(poll_immediate(staged.sync()).await);
        drop(staged);
        drop(poll_immediate(store.stage(&key, at(5))).await);

        let mut staged = store.stage(&key, at(5)).await.unwrap();
        staged
            .write(Bytes::from_static(b" and done"))
            .await
            .unwrap();
        assert_eq!(staged.sync().await.unwrap(), 14);
        assert_eq!(read_staged(store, &key, 0..14).await, b"begun and done");
    }
    store.publish(&key, 14).await.unwrap();
    assert_eq!(read(store, &key, 14).await, b"begun and done");
}

/// Once a newer writer has staged a blob, the writes of an older one no longer reach the blob.
pub async fn a_newer_writer_cuts_off_the_older_one(store: &dyn BlobStore) {
    let key = key();
    let mut older = store.stage(&key, at(0)).await.unwrap();
    older.write(Bytes::from_static(b"hello")).await.unwrap();
    older.sync().await.unwrap();
    older.write(Bytes::from_static(b" moon")).await.unwrap();
    let mut newer = store.stage(&key, at(5)).await.unwrap();
    drop(older.write(vec![0xff; 100_000].into()).await);
    drop(older.sync().await);
    newer.write(Bytes::from_static(b" world")).await.unwrap();
    drop(older.write(vec![0xff; 100_000].into()).await);
    drop(older);
    assert_eq!(newer.sync().await.unwrap(), 11);
    drop(newer);
    store.publish(&key, 11).await.unwrap();
    assert_eq!(read(store, &key, 11).await, b"hello world");
}

/// Reading an absent blob, or beyond the end of a staged one, fails.
pub async fn reading_staged_bytes_that_are_not_there_fails(store: &dyn BlobStore) {
    let key = key();
    assert_missing(collect(store.read_staged(&key, 0..1).await).await);
    write(store, &key, 0, b"hello").await;
    assert_missing(collect(store.read_staged(&key, 3..6).await).await);
}

/// A discarded blob is not listed and can be neither continued nor published; discarding it again
/// succeeds.
pub async fn discarding_forgets_a_staged_blob(store: &dyn BlobStore) {
    let key = key();
    write(store, &key, 0, b"hello").await;
    store.discard(&key).await.unwrap();
    assert!(!is_listed(store, BlobState::Staged, &key).await);
    assert_too_short(store.stage(&key, at(5)).await);
    assert_missing(store.publish(&key, 5).await);
    store.discard(&key).await.unwrap();
    publish(store, &key, b"anew").await;
    assert_eq!(read(store, &key, 4).await, b"anew");
}

/// Discarding does not affect published blobs.
pub async fn discarding_leaves_published_blobs_alone(store: &dyn BlobStore) {
    let key = key();
    publish(store, &key, b"hello").await;
    store.discard(&key).await.unwrap();
    assert_eq!(read(store, &key, 5).await, b"hello");
}

/// A published blob can be opened and read repeatedly.
pub async fn a_published_blob_reads_back(store: &dyn BlobStore) {
    let key = key();
    publish(store, &key, b"hello").await;
    let blob = store.open(&key, 5).await.unwrap();
    assert_eq!(blob.size(), 5);
    assert_eq!(collect(Ok(blob.read(0..5))).await.unwrap(), b"hello");
    assert_eq!(read(store, &key, 5).await, b"hello", "a second time");
}

/// A blob may be empty.
pub async fn an_empty_blob_can_be_published(store: &dyn BlobStore) {
    let key = key();
    publish(store, &key, b"").await;
    assert_eq!(store.open(&key, 0).await.unwrap().size(), 0);
    assert_eq!(read(store, &key, 0).await, b"");
}

/// A blob of many chunks is read back completely and in order.
pub async fn a_large_blob_reads_back(store: &dyn BlobStore) {
    let key = key();
    let whole = pattern(0..12_345_678);
    publish(store, &key, &whole).await;
    assert!(read(store, &key, 12_345_678).await == whole);
}

/// Publishing a published blob again succeeds if the size is the same.
pub async fn publishing_twice_succeeds(store: &dyn BlobStore) {
    let key = key();
    publish(store, &key, b"hello").await;
    store.publish(&key, 5).await.unwrap();
    assert_missing(store.publish(&key, 6).await);
    assert_eq!(read(store, &key, 5).await, b"hello");
}

/// Publishing an absent blob fails and creates none.
pub async fn publishing_nothing_fails(store: &dyn BlobStore) {
    let key = key();
    assert_missing(store.publish(&key, 0).await);
    assert!(!is_listed(store, BlobState::Published, &key).await);
}

/// Publishing fails unless the given size is that of the staged blob; a failed attempt changes
/// nothing.
pub async fn publishing_another_size_fails_and_changes_nothing(store: &dyn BlobStore) {
    let key = key();
    write(store, &key, 0, b"hello").await;
    assert_missing(store.publish(&key, 4).await);
    assert_missing(store.publish(&key, 6).await);
    assert_missing(store.open(&key, 5).await);
    store.publish(&key, 5).await.unwrap();
    assert_eq!(read(store, &key, 5).await, b"hello");
}

/// A published blob can no longer be read or listed as a staged one.
pub async fn a_published_blob_is_not_staged(store: &dyn BlobStore) {
    let key = key();
    publish(store, &key, b"hello").await;
    assert_missing(collect(store.read_staged(&key, 0..5).await).await);
    assert!(!is_listed(store, BlobState::Staged, &key).await);
}

/// A staged blob cannot be opened, and deleting its key leaves it unchanged.
pub async fn a_staged_blob_is_not_published(store: &dyn BlobStore) {
    let key = key();
    write(store, &key, 0, b"hello").await;
    assert_missing(store.open(&key, 5).await);
    store.delete(&key).await.unwrap();
    assert_eq!(read_staged(store, &key, 0..5).await, b"hello");
}

/// Staging a published blob makes it a staged one, which can grow and be published again.
pub async fn a_published_blob_can_be_taken_back(store: &dyn BlobStore) {
    let key = key();
    publish(store, &key, b"hello world").await;
    assert_eq!(read(store, &key, 11).await, b"hello world");
    write(store, &key, 6, b"moon and stars").await;
    assert_missing(store.open(&key, 11).await);
    assert!(!is_listed(store, BlobState::Published, &key).await);
    store.publish(&key, 20).await.unwrap();
    assert_eq!(read(store, &key, 20).await, b"hello moon and stars");
}

/// A writer cannot change its blob once the blob is published: the write or its sync fails.
pub async fn a_writer_cannot_change_what_is_published(store: &dyn BlobStore) {
    let key = key();
    let mut staged = store.stage(&key, at(0)).await.unwrap();
    staged.write(Bytes::from_static(b"hello")).await.unwrap();
    staged.sync().await.unwrap();
    store.publish(&key, 5).await.unwrap();
    let late = staged.write(vec![0xff; 200_000].into()).await;
    assert!(late.is_err() || staged.sync().await.is_err());
    drop(staged);
    assert_eq!(read(store, &key, 5).await, b"hello");
}

/// A range yields exactly its bytes, wherever it begins and ends.
pub async fn every_range_reads_exactly(store: &dyn BlobStore) {
    const SIZE: u64 = 1_100_000;
    let key = key();
    let whole = pattern(0..SIZE);
    publish(store, &key, &whole).await;
    let blob = store.open(&key, SIZE).await.unwrap();
    let edges = [
        0, 1, 4095, 4096, 4097, 16_384, 32_768, 65_535, 65_536, 65_537, 262_143, 262_144, 262_145,
        524_288, 1_048_576, 1_099_999, SIZE,
    ];
    for start in edges {
        for end in edges.into_iter().filter(|end| *end >= start) {
            let part = collect(Ok(blob.read(start..end))).await.unwrap();
            assert!(part == slice(&whole, start..end), "{start}..{end}");
        }
    }
}

/// A read beyond the end of the blob ends with an error, never as if it were complete.
pub async fn a_range_beyond_the_end_ends_with_an_error(store: &dyn BlobStore) {
    let key = key();
    publish(store, &key, b"hello").await;
    let blob = store.open(&key, 5).await.unwrap();
    assert_missing(collect(Ok(blob.read(0..6))).await);
    assert_missing(collect(Ok(blob.read(7..9))).await);

    let mut stream = blob.read(3..7);
    while let Some(Ok(_)) = stream.next().await {}
    assert!(stream.next().await.is_none(), "an error is the last item");
}

/// Concurrent readers of one blob do not affect each other.
pub async fn many_readers_read_at_once(store: &dyn BlobStore) {
    const SIZE: u64 = 700_000;
    let key = key();
    let whole = pattern(0..SIZE);
    publish(store, &key, &whole).await;
    let blob = store.open(&key, SIZE).await.unwrap();
    let reads = (0..40).map(|index| {
        let range = index * 10_000..SIZE - index * 7_000;
        let (blob, whole) = (Arc::clone(&blob), &whole);
        async move {
            let part = collect(Ok(blob.read(range.clone()))).await.unwrap();
            assert!(part == slice(whole, range));
        }
    });
    join_all(reads).await;
}

/// Dropping a stream before its end does not affect later reads.
pub async fn a_dropped_read_does_no_harm(store: &dyn BlobStore) {
    const SIZE: u64 = 700_000;
    let key = key();
    let whole = pattern(0..SIZE);
    publish(store, &key, &whole).await;
    let blob = store.open(&key, SIZE).await.unwrap();
    for _ in 0..20 {
        let mut stream = blob.read(0..SIZE);
        drop(poll_immediate(stream.next()).await);
        drop(stream);
    }
    assert!(collect(Ok(blob.read(0..SIZE))).await.unwrap() == whole);
}

/// Opening succeeds only with the size at which the blob was published.
pub async fn opening_with_another_size_fails(store: &dyn BlobStore) {
    let key = key();
    assert_missing(store.open(&key, 5).await);
    publish(store, &key, b"hello").await;
    assert_missing(store.open(&key, 6).await);
    assert_missing(store.open(&key, 4).await);
    store.open(&key, 5).await.unwrap();
    assert_missing(store.open(&key, 6).await);
}

/// A deleted blob can be neither opened nor listed, even if it was read before.
pub async fn a_deleted_blob_is_missing(store: &dyn BlobStore) {
    let key = key();
    publish(store, &key, b"hello").await;
    assert_eq!(read(store, &key, 5).await, b"hello");
    store.delete(&key).await.unwrap();
    assert_missing(store.open(&key, 5).await);
    assert!(!is_listed(store, BlobState::Published, &key).await);
}

/// Deleting an absent blob succeeds.
pub async fn deleting_what_is_not_there_succeeds(store: &dyn BlobStore) {
    let key = key();
    store.delete(&key).await.unwrap();
    publish(store, &key, b"hello").await;
    store.delete(&key).await.unwrap();
    store.delete(&key).await.unwrap();
}

/// A reader of a blob that is deleted receives either all of its bytes or [`BlobError::Missing`].
pub async fn a_reader_outlives_deletion_or_fails(store: &dyn BlobStore) {
    const SIZE: u64 = 2_000_000;
    let key = key();
    let whole = pattern(0..SIZE);
    publish(store, &key, &whole).await;
    let blob = store.open(&key, SIZE).await.unwrap();
    let mut stream = blob.read(0..SIZE);
    let mut bytes = stream.next().await.unwrap().unwrap().to_vec();
    store.delete(&key).await.unwrap();
    match collect(Ok(stream)).await {
        Ok(rest) => {
            bytes.extend(rest);
            assert!(bytes == whole);
        }
        Err(BlobError::Missing { key: missing }) => assert_eq!(missing, key),
        Err(error) => panic!("{error}"),
    }
}

/// After a deletion, a new blob of the same key starts without the old bytes.
pub async fn a_deleted_key_can_be_staged_anew(store: &dyn BlobStore) {
    let key = key();
    publish(store, &key, b"hello").await;
    assert_eq!(read(store, &key, 5).await, b"hello");
    store.delete(&key).await.unwrap();
    assert_too_short(store.stage(&key, at(5)).await);
    publish(store, &key, b"again").await;
    assert_eq!(read(store, &key, 5).await, b"again");
}

/// A list contains the blobs of its state and no others.
pub async fn lists_tell_staged_from_published(store: &dyn BlobStore) {
    let (growing, whole) = (key(), key());
    write(store, &growing, 0, b"hello").await;
    publish(store, &whole, b"hello").await;
    assert!(is_listed(store, BlobState::Staged, &growing).await);
    assert!(!is_listed(store, BlobState::Staged, &whole).await);
    assert!(is_listed(store, BlobState::Published, &whole).await);
    assert!(!is_listed(store, BlobState::Published, &growing).await);
}

/// Pages are in the order of the keys, within the limit and together complete, for keys of all
/// kinds.
pub async fn lists_are_in_order_and_can_be_continued(store: &dyn BlobStore) {
    let mut published: Vec<BlobKey> = (0..30).map(|_| key()).collect();
    let unique = key();
    let unique = unique.as_str();
    for prefix in ["", "-", "0-", "0", "z", "zz", "a-b-"] {
        published.push(format!("{prefix}{}", &unique[..20]).parse().unwrap());
    }
    published.push(format!("{unique}{unique}").parse().unwrap());
    for key in &published {
        publish(store, key, b"hello").await;
        let staged = format!("{}-s", &key.as_str()[..20]).parse().unwrap();
        write(store, &staged, 0, b"hello").await;
    }
    published.sort();

    let assert_ours = |listed: &[BlobKey]| {
        assert!(listed.is_sorted_by(|one, next| one < next));
        let ours: Vec<_> = listed
            .iter()
            .filter(|key| published.contains(*key))
            .cloned()
            .collect();
        assert_eq!(ours, published);
    };
    for limit in [1, 7, 1000] {
        assert_ours(&all(store, BlobState::Published, limit).await);
    }
    assert!(
        store
            .list(BlobState::Staged, None, 0)
            .await
            .unwrap()
            .is_empty()
    );

    // The key to continue after need not exist.
    let absent: BlobKey = format!("{}-", &published[5].as_str()[..20])
        .parse()
        .unwrap();
    let page = store
        .list(BlobState::Published, Some(&absent), 3)
        .await
        .unwrap();
    assert!(page.iter().all(|entry| entry.key > absent));
    assert_eq!(page.len(), 3);

    let staged = all(store, BlobState::Staged, 9).await;
    assert!(staged.is_sorted_by(|one, next| one < next));
    for key in &published {
        let sibling = format!("{}-s", &key.as_str()[..20]).parse().unwrap();
        assert!(staged.contains(&sibling));
    }
}

/// A blob that is written later has an equal or later modification time.
pub async fn modification_times_do_not_run_backwards(store: &dyn BlobStore) {
    let (first, second) = (key(), key());
    write(store, &first, 0, b"hello").await;
    let before = entry(store, BlobState::Staged, &first).await.unwrap();
    write(store, &second, 0, b"hello").await;
    let after = entry(store, BlobState::Staged, &second).await.unwrap();
    assert!(before.modified_at <= after.modified_at);
    write(store, &first, 5, b" again").await;
    store.publish(&first, 11).await.unwrap();
    let last = entry(store, BlobState::Published, &first).await.unwrap();
    assert!(after.modified_at <= last.modified_at);
}

/// Concurrent writers of different blobs do not affect each other.
pub async fn many_blobs_are_written_at_once(store: &dyn BlobStore) {
    let blobs = (0..40_u64).map(|index| async move {
        let key = key();
        let size = 1 + index * 5_003;
        let whole = pattern(index..index + size);
        publish(store, &key, &whole).await;
        assert!(read(store, &key, size).await == whole);
    });
    join_all(blobs).await;
}

/// The check of a working store succeeds, also if several run at once.
pub async fn a_working_store_passes_its_check(store: &dyn BlobStore) {
    let checks = join_all((0..4).map(|_| store.check())).await;
    assert!(checks.iter().all(Result::is_ok), "{checks:?}");
    assert!(store.check().await.is_ok());
}

/// Returns the growth of a blob from `offset`. Writers of one process rank in the order of the
/// calls.
fn at(offset: u64) -> Growth {
    Growth {
        offset,
        ..Growth::NEW
    }
}

fn key() -> BlobKey {
    BlobKey::random(&SystemRandomness)
}

/// Returns bytes that depend on their positions.
fn pattern(range: Range<u64>) -> Vec<u8> {
    range
        .map(|index| (index ^ (index >> 8) ^ (index >> 16)).to_le_bytes()[0])
        .collect()
}

fn slice(whole: &[u8], range: Range<u64>) -> &[u8] {
    &whole[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
}

/// Writes `bytes` at `offset` and syncs.
async fn write(store: &dyn BlobStore, key: &BlobKey, offset: u64, bytes: &[u8]) {
    let mut staged = store.stage(key, at(offset)).await.unwrap();
    staged.write(Bytes::copy_from_slice(bytes)).await.unwrap();
    assert_eq!(staged.sync().await.unwrap(), offset + bytes.len() as u64);
}

/// Publishes a blob of these bytes.
async fn publish(store: &dyn BlobStore, key: &BlobKey, bytes: &[u8]) {
    write(store, key, 0, bytes).await;
    store.publish(key, bytes.len() as u64).await.unwrap();
}

async fn read(store: &dyn BlobStore, key: &BlobKey, size: u64) -> Vec<u8> {
    let blob = store.open(key, size).await.unwrap();
    collect(Ok(blob.read(0..size))).await.unwrap()
}

async fn read_staged(store: &dyn BlobStore, key: &BlobKey, range: Range<u64>) -> Vec<u8> {
    collect(store.read_staged(key, range).await).await.unwrap()
}

async fn collect(stream: Result<BlobStream, BlobError>) -> Result<Vec<u8>, BlobError> {
    let chunks: Vec<Bytes> = stream?.try_collect().await?;
    assert!(
        chunks.iter().all(|chunk| !chunk.is_empty()),
        "an empty chunk"
    );
    Ok(chunks.concat())
}

#[track_caller]
fn assert_missing<T>(result: Result<T, BlobError>) {
    match result {
        Err(BlobError::Missing { .. }) => {}
        Err(error) => panic!("another error: {error:?}"),
        Ok(_) => panic!("no error"),
    }
}

/// Asserts that staging failed for lack of bytes, which a store may report as missing or
/// inconsistent.
#[track_caller]
fn assert_too_short<T>(staged: Result<T, BlobError>) {
    match staged {
        Err(BlobError::Missing { .. } | BlobError::Inconsistent { .. }) => {}
        Err(error) => panic!("another error: {error:?}"),
        Ok(_) => panic!("no error"),
    }
}

/// Returns all keys, listed `limit` at a time.
async fn all(store: &dyn BlobStore, state: BlobState, limit: usize) -> Vec<BlobKey> {
    let mut keys: Vec<BlobKey> = Vec::new();
    loop {
        let page = store.list(state, keys.last(), limit).await.unwrap();
        assert!(page.len() <= limit);
        if page.is_empty() {
            return keys;
        }
        keys.extend(page.into_iter().map(|entry| entry.key));
    }
}

async fn is_listed(store: &dyn BlobStore, state: BlobState, key: &BlobKey) -> bool {
    all(store, state, 1000).await.contains(key)
}

async fn entry(store: &dyn BlobStore, state: BlobState, key: &BlobKey) -> Option<BlobEntry> {
    let mut last = None;
    loop {
        let page = store.list(state, last.as_ref(), 1000).await.unwrap();
        last = Some(page.last()?.key.clone());
        if let Some(entry) = page.into_iter().find(|entry| entry.key == *key) {
            return Some(entry);
        }
    }
}

#[expect(dead_code, reason = "says at compile time that a blob can be shared")]
fn assert_shareable(blob: Arc<dyn Blob>) -> impl Send + Sync {
    blob
}
