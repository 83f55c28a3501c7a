use std::collections::HashSet;
use std::sync::atomic::Ordering;

use archive::{ArchiveFormat, Need};
use bytes::Bytes;
use bytesize::ByteSize;
use futures::executor::block_on;
use futures::future::try_join_all;
use futures::{StreamExt as _, TryStreamExt as _};
use proptest::prelude::*;

use super::testing::{Shelf, Sketch, Synthetic, library, mixture, noise, tiny};
use super::windows::{MAX_READ, Source, Step, Steps, WINDOW};
use super::*;
use crate::BlobKey;
use crate::blob_store::BlobError;
use crate::ids::{Randomness as _, SystemRandomness};

fn archive_of(pack: &Synthetic, choice: Choice, format: ArchiveFormat) -> VirtualArchive {
    VirtualArchive {
        blobs: Arc::<Shelf>::clone(&pack.shelf),
        version: Arc::clone(&pack.version),
        layout: lay_out(&pack.version, choice, format).unwrap(),
    }
}

fn read(archive: &VirtualArchive, range: Range<u64>) -> Result<Vec<u8>, BlobError> {
    let chunks: Vec<Bytes> = block_on(archive.read(range).try_collect())?;
    Ok(chunks.concat())
}

const FORMATS: [ArchiveFormat; 2] = [ArchiveFormat::Zip, ArchiveFormat::Tar];

#[test]
fn an_archive_is_what_its_layout_says() {
    let pack = Synthetic::new(&mixture(600));
    let entries = pack.version.catalogue.tree().len();
    let some = Need::from_positions((0..entries).filter(|position| position % 7 < 3), entries);
    let base = Synthetic::new(&mixture(300));
    for choice in [
        Choice::Whole,
        Choice::Since(base.version),
        Choice::Need(some.unwrap()),
        Choice::Need(Need::empty(entries)),
    ] {
        for format in FORMATS {
            let archive = archive_of(&pack, choice.clone(), format);
            let whole = pack.resolve(&archive.layout);
            assert_eq!(archive.size(), whole.len() as u64);
            let bytes = read(&archive, 0..archive.size()).unwrap();
            assert!(
                bytes == whole,
                "{:?} as {format:?}",
                archive.layout.plan().need()
            );
        }
    }
}

#[test]
fn any_range_is_that_range_of_the_whole() {
    let seed = u64::try_from(SystemRandomness.bits() >> 64).unwrap();
    let pack = Synthetic::new(&mixture(400));
    for format in FORMATS {
        let archive = archive_of(&pack, Choice::Whole, format);
        let whole = pack.resolve(&archive.layout);
        let size = archive.size();
        for index in 0..5_000_u64 {
            let draws = noise(seed.wrapping_add(index << 8), 24);
            let draw = |at: usize| u64::from_le_bytes(draws[at..at + 8].try_into().unwrap());
            let start = draw(0) % (size + 1);
            // Mostly short, since long ranges take long.
            let most = if index % 50 == 0 { size } else { 5_000 };
            let end = (start + draw(8) % (most + 1)).min(size);
            let bytes = read(&archive, start..end);
            let bytes =
                bytes.unwrap_or_else(|error| panic!("seed {seed}: {start}..{end}: {error}"));
            let range = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
            assert!(
                bytes == whole[range],
                "seed {seed}: {start}..{end} of {format:?}"
            );
        }
    }
}

#[test]
fn many_small_files_take_few_reads_and_make_few_chunks() {
    let pack = Synthetic::new(&tiny(10_000, 600));
    for format in FORMATS {
        let archive = archive_of(&pack, Choice::Whole, format);
        let stream = archive.read(0..archive.size());
        let chunks: Vec<Bytes> = block_on(stream.try_collect()).unwrap();
        assert!(chunks.concat() == pack.resolve(&archive.layout));

        let windows = usize::try_from(archive.size()).unwrap() / (WINDOW / 2) + 1;
        assert!(
            chunks.len() <= windows,
            "{} chunks of {format:?}",
            chunks.len()
        );
        let reads = std::mem::take(&mut *pack.shelf.log.read.lock().unwrap());
        assert!(
            reads.len() <= 2 * windows,
            "{} reads of {format:?}",
            reads.len()
        );
        // Each of the two segments once.
        let opened = std::mem::take(&mut *pack.shelf.log.opened.lock().unwrap());
        assert!(opened.len() <= 2, "{opened:?} for {format:?}");
        let read: u64 = reads.iter().map(|(_, range)| range.end - range.start).sum();
        assert!(read <= archive.size(), "{read} bytes read for {format:?}");
    }
}

#[test]
fn contents_far_apart_are_read_by_themselves() {
    let mut files = Vec::new();
    for index in 0..50 {
        files.extend(tiny(1, 100).into_iter().map(|file| Sketch {
            seed: index * 2,
            deflated: None,
            ..file
        }));
        files.push(Sketch {
            size: 30_000,
            seed: index * 2 + 1,
            deflated: None,
            blob: 0,
        });
    }
    let pack = Synthetic::new(&files);
    let small = Need::from_positions((0..50).map(|index| index * 2), 100).unwrap();
    let archive = archive_of(&pack, Choice::Need(small), ArchiveFormat::Zip);
    assert!(read(&archive, 0..archive.size()).unwrap() == pack.resolve(&archive.layout));
    let reads = pack.shelf.log.read.lock().unwrap();
    assert_eq!(reads.len(), 50);
    assert!(
        reads
            .iter()
            .all(|(_, range)| range.end - range.start == 100)
    );
}

#[test]
fn contents_that_come_up_again_are_read_once() {
    let files = [1, 2, 1, 2, 1].map(|seed| Sketch {
        size: 15_000,
        seed,
        deflated: None,
        blob: 0,
    });
    let pack = Synthetic::new(&files);
    let archive = archive_of(&pack, Choice::Whole, ArchiveFormat::Zip);
    assert!(read(&archive, 0..archive.size()).unwrap() == pack.resolve(&archive.layout));
    let reads = pack.shelf.log.read.lock().unwrap();
    assert_eq!(reads.len(), 1);
    assert_eq!(reads[0].1.end - reads[0].1.start, 30_000);
}

#[test]
fn a_lost_blob_is_an_error() {
    let mut files = tiny(300, 600);
    files[200].blob = 9;
    let mut pack = Synthetic::new(&files);
    let lost: BlobKey = "1-9".parse().unwrap();
    Arc::get_mut(&mut pack.shelf).unwrap().blobs.remove(&lost);
    let archive = archive_of(&pack, Choice::Whole, ArchiveFormat::Zip);
    let error = read(&archive, 0..archive.size()).unwrap_err();
    assert!(matches!(error, BlobError::Missing { key } if key == lost));
}

#[test]
fn a_short_read_is_an_error_and_never_other_bytes() {
    let large = Sketch {
        size: 500_000,
        seed: 1,
        deflated: None,
        blob: 3,
    };
    for files in [tiny(300, 600), vec![large]] {
        let pack = Synthetic::new(&files);
        pack.shelf.log.short.store(true, Ordering::Relaxed);
        for format in FORMATS {
            let archive = archive_of(&pack, Choice::Whole, format);
            let whole = pack.resolve(&archive.layout);
            let mut stream = archive.read(0..archive.size());
            let mut came = Vec::new();
            let error = block_on(async {
                loop {
                    match stream.next().await.expect("it ends with an error") {
                        Ok(chunk) => came.extend_from_slice(&chunk),
                        Err(error) => break error,
                    }
                }
            });
            assert!(matches!(error, BlobError::Missing { .. }));
            assert!(came.len() < whole.len() && whole.starts_with(&came));
            assert!(block_on(stream.next()).is_none());
        }
    }
}

#[test]
fn nothing_is_read_before_it_is_asked_for_and_then_one_chunk_ahead() {
    let pack = Synthetic::new(&tiny(2_000, 600));
    let archive = archive_of(&pack, Choice::Whole, ArchiveFormat::Zip);
    let mut stream = archive.read(0..archive.size());
    let reads = || pack.shelf.log.read.lock().unwrap().len();
    assert_eq!(reads(), 0);
    for asked in 1..4 {
        block_on(stream.next()).unwrap().unwrap();
        assert_eq!(reads(), asked + 1);
    }
    drop(stream);
    assert_eq!(reads(), 4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn buffers_and_chunks_of_any_archive_are_bounded(
        files in proptest::collection::vec((0_usize..70_000, any::<u64>(), proptest::option::of(0_usize..60_000), 0_u8..30), 0..60),
    ) {
        let files: Vec<Sketch> = files
            .into_iter()
            .map(|(size, seed, deflated, blob)| Sketch { size, seed, deflated, blob })
            .collect();
        let pack = Synthetic::new(&files);
        for format in FORMATS {
            let archive = archive_of(&pack, Choice::Whole, format);
            let segments = archive.layout.slice(0..archive.size());
            for step in Steps::new(Arc::clone(&pack.version), segments) {
                if let Step::Window(window) = step {
                    prop_assert!(window.length <= WINDOW);
                    let read: u64 = window.spans.iter().map(Source::len).sum();
                    prop_assert!(read <= MAX_READ);
                }
            }
            let stream = archive.read(0..archive.size());
            let chunks: Vec<Bytes> = block_on(stream.try_collect()).unwrap();
            prop_assert!(chunks.iter().all(|chunk| chunk.len() <= WINDOW));
            prop_assert!(chunks.concat() == pack.resolve(&archive.layout));
        }
    }
}

#[tokio::test]
async fn the_same_archive_is_laid_out_once() {
    let (old, new) = (
        Synthetic::numbered(1, &mixture(50)),
        Synthetic::numbered(2, &tiny(9_000, 5)),
    );
    let (library, _) = library(&[&old, &new], ByteSize::mib(64));
    let base = library.load(old.version.record.clone()).await.unwrap();
    let target = library.load(new.version.record.clone()).await.unwrap();
    let need = Need::from_positions([3], 9_000).unwrap();
    let mut tags = HashSet::new();
    for choice in [Choice::Whole, Choice::Since(base), Choice::Need(need)] {
        for format in FORMATS {
            let layouts = (0..5).map(|_| library.layout(&target, &choice, format));
            let layouts = try_join_all(layouts).await.unwrap();
            let same = |layout: &Layout| std::ptr::eq(layout.plan(), layouts[0].plan());
            assert!(layouts.iter().all(same));
            assert_eq!(layouts[0].format(), format);
            assert!(tags.insert(layouts[0].tag().clone()));
        }
    }
}

#[tokio::test]
async fn a_need_of_another_version_is_refused() {
    let pack = Synthetic::new(&tiny(3, 5));
    let (library, _) = library(&[&pack], ByteSize::mib(1));
    let choice = Choice::Need(Need::all(4));
    let refused = library
        .layout(&pack.version, &choice, ArchiveFormat::Zip)
        .await;
    assert!(matches!(refused, Err(Error::Pack(PackError::Need))));
}

#[tokio::test]
async fn layouts_go_with_their_versions() {
    let versions = [1, 2].map(|number| Synthetic::numbered(number, &tiny(10, 5)));
    let (library, _) = library(&[&versions[0], &versions[1]], ByteSize::b(0));
    let [first, second] = versions.each_ref().map(|pack| pack.version.record.clone());
    let version = library.load(first).await.unwrap();
    let layout = library.layout(&version, &Choice::Whole, ArchiveFormat::Zip);
    layout.await.unwrap();
    assert_eq!(library.layouts.0.len(), 1);
    // A repeated request evicts what is not requested again.
    for _ in 0..2 {
        library.load(second.clone()).await.unwrap();
    }
    assert!(!library.versions.keep(&version.catalogue));
    assert_eq!(library.layouts.0.len(), 0);
}

#[tokio::test]
async fn one_content_is_a_blob_of_its_own() {
    let pack = Synthetic::new(&mixture(30));
    let (library, _) = library(&[&pack], ByteSize::mib(1));
    for (entry, position) in pack.version.catalogue.tree().entries().zip(0..) {
        let place = pack.version.places.raw(position);
        let blob = library.open_slice(&place, entry.size).await.unwrap();
        assert_eq!(blob.size(), entry.size);
        let (content, _) = &pack.contents[&entry.sha256];
        for range in [0..entry.size, entry.size / 3..entry.size / 2] {
            let chunks: Vec<Bytes> = blob.read(range.clone()).try_collect().await.unwrap();
            let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            assert!(chunks.concat() == content[range]);
        }
        let beyond = place.blob_size - place.start + 1;
        let refused = library.open_slice(&place, beyond).await;
        assert!(matches!(refused, Err(Error::Corrupt { .. })));
    }
}
