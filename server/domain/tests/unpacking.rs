//! Unpacking of archives that are uploaded to a draft.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

#[path = "unpacking/archives.rs"]
mod archives;
#[path = "unpacking/facts.rs"]
mod facts;
#[path = "unpacking/world.rs"]
mod world;

use archive::{ArchiveFormat, UnpackFault};
use domain::Error;
use domain::PackStore as _;
use domain::error::{EntryFault, PackError};
use domain::packs;
use proptest::test_runner::{Config, TestRunner};
use testing::faults::{Fault, Gate};
use testing::faulty_store::Operation;

use crate::archives::{File, file, gzip, noise, pack, streamed_zip, text, tree_of, zstd};
use crate::facts::{Closing, Fact};
use crate::world::World;

const MIB: usize = 1024 * 1024;

/// Returns files of all kinds, each with true if deflating it pays.
fn all_kinds() -> Vec<(File, bool)> {
    let executable = |mut file: File| {
        file.executable = true;
        file
    };
    vec![
        (file("empty", b""), false),
        (file("a/byte", b"x"), false),
        (file("a/text", &text(1, 5000)), true),
        (executable(file("bin/run", &text(2, 300))), true),
        (file("a/noise", &noise(3, 70_000)), false),
        (file("just small", &text(4, MIB)), true),
        (executable(file("just large", &text(5, MIB + 1))), true),
        (file("large text", &text(6, 3 * MIB + 17)), true),
        (file("large noise", &noise(7, 2 * MIB + 5)), false),
        (file("z/last", &text(8, 900)), true),
    ]
}

fn files() -> Vec<File> {
    all_kinds().into_iter().map(|(file, _)| file).collect()
}

fn all_formats(files: &[File]) -> Vec<(&'static str, Vec<u8>)> {
    let tar = pack(ArchiveFormat::Tar, files);
    vec![
        ("zip", pack(ArchiveFormat::Zip, files)),
        ("zip with sizes behind", streamed_zip(files)),
        ("tar.gz", gzip(&tar)),
        ("tar.zst", zstd(&tar)),
        ("tar", tar),
    ]
}

#[tokio::test]
async fn an_archive_of_any_kind_becomes_contents_and_a_tree() {
    for (name, archive) in all_formats(&files()) {
        let world = World::new();
        let draft = world.draft(None).await;
        let tree = world.unpack(&draft, &archive).await.unwrap();
        assert_eq!(tree, Some(tree_of(&files())), "{name}");
        world.check_stored(&files()).await;
        for (file, deflated) in all_kinds() {
            let stored = world.stored(&file.content).await.unwrap();
            assert_eq!(stored.deflated.is_some(), deflated, "{name}: {}", file.path);
        }
        world.check_nothing_is_staged().await;
    }
}

#[tokio::test]
async fn an_archive_may_bring_a_part_of_the_tree() {
    let files = files();
    for (name, archive) in all_formats(&files[3..8]) {
        let world = World::new();
        let draft = world.draft(Some(&files)).await;
        assert_eq!(
            world.unpack(&draft, &archive).await.unwrap(),
            None,
            "{name}"
        );
        world.check_stored(&files[3..8]).await;
        world.check_missing(&files[..3]).await;
        world.check_missing(&files[8..]).await;
    }
}

#[tokio::test]
async fn archives_and_files_may_be_empty() {
    let world = World::new();
    let draft = world.draft(None).await;
    let tree = world
        .unpack(&draft, &pack(ArchiveFormat::Zip, &[]))
        .await
        .unwrap();
    assert_eq!(tree, Some(tree_of(&[])));
    assert_eq!(world.blobs.count(Operation::Stage), 0);

    let empty = [file("a", b""), file("b", b"")];
    let archive = pack(ArchiveFormat::Zip, &empty);
    let tree = world.unpack(&draft, &archive).await.unwrap();
    assert_eq!(tree, Some(tree_of(&empty)));
    world.check_stored(&empty).await;
    assert_eq!(world.sizes_of_recorded_blobs().await, [0]);
}

#[tokio::test]
async fn equal_contents_of_an_archive_are_stored_once() {
    let (small, large) = (text(1, 4000), text(2, 2 * MIB));
    let files = [
        file("a", &small),
        file("b", &large),
        file("c", &small),
        file("d", &large),
        file("e", &noise(3, 2 * MIB)),
        file("f", &noise(3, 2 * MIB)),
        file("g", &small),
    ];
    for tree in [None, Some(&files[..])] {
        for (name, archive) in all_formats(&files) {
            let world = World::new();
            let draft = world.draft(tree).await;
            let learnt = world.unpack(&draft, &archive).await.unwrap();
            assert_eq!(learnt, tree.is_none().then(|| tree_of(&files)), "{name}");
            world.check_stored(&files).await;
            // Both segments, both forms of one large content and the only form of the other.
            let sizes = world.sizes_of_recorded_blobs().await;
            assert_eq!(sizes.len(), 5, "{name}: {sizes:?}");
            assert!(sizes.contains(&(small.len() as u64)), "{name}: {sizes:?}");
            world.check_nothing_is_staged().await;
            world.check_no_blob_is_unrecorded().await;
        }
    }
}

#[tokio::test]
async fn what_is_stored_already_is_not_stored_again() {
    let files = files();
    let world = World::new();
    let first = world.draft(None).await;
    let archive = pack(ArchiveFormat::Tar, &files);
    world.unpack(&first, &archive).await.unwrap();
    let before = world.published().await;
    let second = world.draft(None).await;
    world.unpack(&second, &archive).await.unwrap();
    assert_eq!(world.published().await, before);

    let third = world.draft(Some(&files)).await;
    let (before, writes) = (world.published().await, world.blobs.count(Operation::Write));
    world.unpack(&third, &archive).await.unwrap();
    assert_eq!(world.published().await, before);
    assert_eq!(world.blobs.count(Operation::Write), writes);
    world.check_nothing_is_staged().await;
}

#[tokio::test]
async fn what_was_known_is_still_verified() {
    for length in [4000, 2 * MIB] {
        let (known, other) = (file("a", &text(1, length)), file("a", &text(2, length)));
        let world = World::new();
        let draft = world.draft(None).await;
        let stored = pack(ArchiveFormat::Zip, std::slice::from_ref(&known));
        world.unpack(&draft, &stored).await.unwrap();
        let draft = world.draft(Some(&[known])).await;
        let wrong = pack(ArchiveFormat::Zip, &[other]);
        let refused = world.unpack(&draft, &wrong).await;
        world.check_refused(refused, "a", EntryFault::Digest);
    }
}

#[tokio::test]
async fn files_that_the_draft_does_not_expect_are_refused() {
    let check = async |expected: File, came: File, reason| {
        let before = file("0", &text(9, 3000));
        let large_before = file("1", &text(9, 2 * MIB));
        let draft_files = [before.clone(), large_before.clone(), expected];
        let archive_files = [before, large_before, came.clone()];
        for (name, archive) in all_formats(&archive_files) {
            let world = World::new();
            let draft = world.draft(Some(&draft_files)).await;
            let refused = world.unpack(&draft, &archive).await;
            world.check_refused(refused, &came.path, reason);
            world.check_missing(&archive_files).await;
            world.check_nothing_is_staged().await;
            assert_eq!(world.kept().await, [draft.tree.unwrap().blob], "{name}");
        }
    };
    for length in [4000, 2 * MIB] {
        let right = text(1, length);
        let wrong = text(2, length);
        let (longer, shorter) = ([&right[..], b"x"].concat(), &right[1..]);
        let a = file("a", &right);
        check(a.clone(), file("a", &wrong), EntryFault::Digest).await;
        check(a.clone(), file("a", &longer), EntryFault::Size).await;
        check(a.clone(), file("a", shorter), EntryFault::Size).await;
        check(a.clone(), file("b", &right), EntryFault::Unexpected).await;
    }
}

#[tokio::test]
async fn an_archive_that_is_refused_at_its_very_end_leaves_nothing_behind() {
    // More than a full segment, and a large content of that size: both are recorded before the end
    // of the archive.
    let mut files: Vec<File> = (0..80)
        .map(|number| file(&format!("{number:02}"), &text(number, 1_000_000)))
        .collect();
    files.push(file("large", &text(1000, 70 * MIB)));
    let whole = pack(ArchiveFormat::Zip, &files);

    let mut contradictory = whole.clone();
    // Start of the last entry as the directory has it; the entry's name and the end record follow.
    let offset = whole.len() - 22 - "large".len() - 4;
    contradictory[offset] ^= 1;
    let cut = &whole[..whole.len() - 1];
    for (archive, fault) in [
        (&contradictory[..], UnpackFault::Inconsistent),
        (cut, UnpackFault::Truncated),
    ] {
        for tree in [None, Some(&files[..])] {
            let world = World::new();
            let draft = world.draft(tree).await;
            let refused = world.unpack(&draft, archive).await;
            let Err(Error::Pack(PackError::Archive { fault: found, .. })) = refused else {
                panic!("{refused:?}");
            };
            assert_eq!(found, fault);
            assert!(
                world.facts.count(Fact::Store) > 1,
                "nothing was recorded before the end"
            );
            world.check_missing(&files).await;
            world.check_nothing_is_staged().await;
            let tree = draft.tree.map(|tree| tree.blob);
            assert_eq!(world.kept().await, Vec::from_iter(tree));
        }
    }
}

#[tokio::test]
async fn a_tree_that_is_learnt_is_within_the_limits() {
    let files = [file("a", b"1"), file("b", b"2"), file("c", b"3")];
    let limit = |max_files| packs::Config {
        max_files,
        ..packs::Config::default()
    };
    let archive = pack(ArchiveFormat::Zip, &files);
    let world = World::with(limit(3));
    let draft = world.draft(None).await;
    world.unpack(&draft, &archive).await.unwrap();

    let world = World::with(limit(2));
    let draft = world.draft(None).await;
    let refused = world.unpack(&draft, &archive).await;
    let Err(Error::Pack(PackError::Archive { fault, .. })) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(fault, UnpackFault::TooManyEntries { limit: 2 });
    world.check_missing(&files).await;
    assert_eq!(world.kept().await, []);
}

#[tokio::test]
async fn a_refusal_is_told_even_if_nothing_can_be_taken_back() {
    let files = many_files();
    let world = World::new();
    let draft = world.draft(None).await;
    let archive = pack(ArchiveFormat::Tar, &files);
    world.facts.fail(Fact::Drop, 1, false);
    world.blobs.always(Operation::Discard, Fault::Fails);
    let refused = world
        .unpack(&draft, &archive[..archive.len() / 10 * 9])
        .await;
    assert!(matches!(
        refused,
        Err(Error::Pack(PackError::Archive { .. }))
    ));
    // The contents that stay are complete.
    world.check_stored(&files[..60]).await;
}

#[tokio::test]
async fn many_small_files_take_few_writes() {
    let files: Vec<File> = (0..20_000)
        .map(|number| file(&format!("{}/{number}", number / 100), &text(number, 2500)))
        .collect();
    let world = World::new();
    let draft = world.draft(None).await;
    let archive = pack(ArchiveFormat::Zip, &files);
    world.unpack(&draft, &archive).await.unwrap();
    assert_eq!(world.sizes_of_recorded_blobs().await.len(), 2);
    assert_eq!(world.blobs.count(Operation::Stage), 2);
    assert_eq!(world.blobs.count(Operation::Sync), 2);
    assert_eq!(world.blobs.count(Operation::Publish), 2);
    assert_eq!(world.facts.count(Fact::Store), 1);
    // Seven batches; a look-up asks for at most 1000 digests, and a batch is deflated in up to four
    // shares.
    let (writes, lookups) = (
        world.blobs.count(Operation::Write),
        world.facts.count(Fact::Contents),
    );
    assert!(writes <= 7 * 4 * 2, "{writes} writes");
    assert!(lookups <= 7 * 4, "{lookups} look-ups");
    world.check_stored(&files).await;
}

#[tokio::test]
async fn neighbours_lie_side_by_side() {
    let files: Vec<File> = (0..5000)
        .map(|number| match number % 3 {
            0 => file(&format!("{number:04}"), &noise(number, 100)),
            _ => file(&format!("{number:04}"), &text(number, 1000)),
        })
        .collect();
    let world = World::new();
    let draft = world.draft(None).await;
    world
        .unpack(&draft, &pack(ArchiveFormat::Zip, &files))
        .await
        .unwrap();
    let (mut served_at, mut raw_at) = (0, 0);
    for file in &files {
        let stored = world.stored(&file.content).await.unwrap();
        match stored.deflated {
            Some((deflated, place)) => {
                assert_eq!(place.start, served_at);
                assert_eq!(stored.raw.start, raw_at);
                served_at += deflated.size;
                raw_at += stored.size;
            }
            None => {
                assert_eq!(stored.raw.start, served_at);
                served_at += stored.size;
            }
        }
    }
    assert!(raw_at > 0 && served_at > raw_at / 10);
}

#[tokio::test]
async fn a_large_content_that_stops_to_compress_is_stored_as_it_is() {
    let mut content = text(1, MIB);
    content.extend(noise(2, 60 * MIB));
    let files = [file("large", &content)];
    let world = World::new();
    let draft = world.draft(None).await;
    world
        .unpack(&draft, &pack(ArchiveFormat::Tar, &files))
        .await
        .unwrap();
    world.check_stored(&files).await;
    assert_eq!(world.stored(&content).await.unwrap().deflated, None);
    // Deflating was tried.
    assert_eq!(world.blobs.count(Operation::Stage), 2);
    world.check_nothing_is_staged().await;
}

/// Returns files for more than a full segment, and large files between them.
fn many_files() -> Vec<File> {
    let mut files: Vec<File> = (0..100)
        .map(|number| file(&format!("{number:02}"), &text(number, 900_000)))
        .collect();
    files.push(file("30a", &text(1000, 3 * MIB)));
    files.push(file("60a", &noise(1001, 3 * MIB)));
    files.push(file("90a", &text(1002, 3 * MIB)));
    files.sort();
    files
}

#[tokio::test]
async fn after_a_fault_of_the_blob_store_a_repetition_goes_on() {
    use Operation::{Publish, Stage, Sync, Write};
    let files = many_files();
    let archive = pack(ArchiveFormat::Tar, &files);
    for (operation, nth, fault) in [
        (Stage, 1, Fault::Fails),
        (Stage, 4, Fault::IsFull),
        (Stage, 5, Fault::FailsAfter),
        (Write, 1, Fault::Fails),
        (Write, 20, Fault::IsFull),
        (Sync, 1, Fault::Fails),
        (Sync, 5, Fault::Fails),
        (Publish, 1, Fault::Fails),
        (Publish, 5, Fault::Fails),
    ] {
        let what = format!("{operation:?} {nth}: {fault:?}");
        let world = World::new();
        let draft = world.draft(Some(&files)).await;
        world.blobs.nth(operation, nth, fault);
        let failed = world.unpack(&draft, &archive).await.unwrap_err();
        assert!(
            matches!(failed, Error::Store { .. } | Error::Full),
            "{what}: {failed:?}"
        );
        world.check_nothing_is_staged().await;
        world.check_no_blob_is_unrecorded().await;
        let before = world.published().await;

        world.unpack(&draft, &archive).await.unwrap();
        world.check_stored(&files).await;
        world.check_nothing_is_staged().await;
        let after = world.published().await;
        assert!(before.iter().all(|blob| after.contains(blob)), "{what}");
        let mut size = 0;
        for file in &files {
            let stored = world.stored(&file.content).await.unwrap();
            size += stored.size + stored.deflated.map_or(0, |(deflated, _)| deflated.size);
        }
        let blobs: u64 = world.sizes_of_recorded_blobs().await.iter().sum();
        assert_eq!(blobs, size, "{what}: something is stored twice");
    }
}

#[tokio::test]
async fn after_a_fault_of_the_metadata_store_a_repetition_goes_on() {
    let files = many_files();
    let archive = pack(ArchiveFormat::Tar, &files);
    for (fact, nth, has_effect) in [
        (Fact::Store, 1, false),
        (Fact::Store, 1, true),
        (Fact::Store, 2, false),
        (Fact::Store, 2, true),
        (Fact::Contents, 2, false),
    ] {
        let world = World::new();
        let draft = world.draft(None).await;
        world.facts.fail(fact, nth, has_effect);
        let failed = world.unpack(&draft, &archive).await.unwrap_err();
        assert!(matches!(failed, Error::Store { .. }), "{failed:?}");
        world.check_nothing_is_staged().await;

        let tree = world.unpack(&draft, &archive).await.unwrap();
        assert_eq!(tree, Some(tree_of(&files)));
        // A record that took effect despite the error must have its blobs.
        world.check_stored(&files).await;
    }
}

#[tokio::test]
async fn after_a_crash_a_repetition_goes_on() {
    let files = many_files();
    let archive = pack(ArchiveFormat::Tar, &files);
    for (operation, nth) in [
        (Operation::Write, 9),
        (Operation::Sync, 1),
        (Operation::Publish, 2),
        (Operation::Sync, 6),
    ] {
        let world = World::new();
        let draft = world.draft(Some(&files)).await;
        let gate = Gate::new();
        world.blobs.nth(operation, nth, Fault::Waits(gate.clone()));
        let working = world.unpack_apart(&draft, &archive);
        gate.reached().await;
        working.abort();
        assert!(working.await.unwrap_err().is_cancelled());
        world.memory.cut_power();
        let recorded = world.sizes_of_recorded_blobs().await.len();

        world.unpack(&draft, &archive).await.unwrap();
        world.check_stored(&files).await;
        assert!(world.sizes_of_recorded_blobs().await.len() > recorded);
    }
}

/// A stop takes effect within one step, however much of the archive remains; contents that are
/// recorded are not stored again.
#[tokio::test]
async fn a_sign_to_stop_is_heeded_and_a_repetition_goes_on() {
    let files: Vec<File> = (0..40)
        .map(|number| file(&format!("{number:02}"), &noise(number, 2 * MIB)))
        .collect();
    let world = World::new();
    let draft = world.draft(None).await;
    let tar = pack(ArchiveFormat::Tar, &files);
    let (stopped, read) = world.unpack_drained(&draft, &tar, 290).await;
    assert!(matches!(stopped, Err(Error::Draining)), "{stopped:?}");
    assert_eq!(read, 290, "of {} chunks", tar.len() / (256 * 1024));
    let kept = world.facts.recorded().await.len();
    assert!(kept > 20, "{kept} blobs are recorded");
    let tree = world.unpack(&draft, &tar).await.unwrap();
    assert_eq!(tree, Some(tree_of(&files)));
    world.check_stored(&files).await;
    assert_eq!(world.facts.recorded().await.len(), files.len());
}

#[tokio::test]
async fn an_archive_that_cannot_be_read_is_not_refused() {
    let files = many_files();
    let archive = pack(ArchiveFormat::Tar, &files);
    let world = World::new();
    let draft = world.draft(None).await;
    let broken = world
        .unpack_broken(&draft, &archive[..archive.len() / 10 * 9])
        .await
        .unwrap_err();
    assert!(matches!(broken, Error::Store { .. }), "{broken:?}");
    world.check_nothing_is_staged().await;
    world.check_no_blob_is_unrecorded().await;
    assert!(
        !world.sizes_of_recorded_blobs().await.is_empty(),
        "what was recorded stays"
    );
}

#[tokio::test]
async fn a_draft_that_goes_meanwhile_takes_nothing() {
    let files = many_files();
    let archive = pack(ArchiveFormat::Tar, &files);
    for records_before in [0, 1] {
        for closing in [Closing::Forgotten, Closing::Published] {
            let world = World::new();
            let draft = world.draft(None).await;
            world.facts.close_draft_after(records_before, closing);
            let refused = world.unpack(&draft, &archive).await.unwrap_err();
            let is_told = match closing {
                Closing::Forgotten => matches!(refused, Error::NotFound { what: "draft" }),
                Closing::Published => {
                    matches!(refused, Error::Pack(PackError::Published { version: 1 }))
                }
            };
            assert!(is_told, "{refused:?}");
            world.check_missing(&files).await;
            world.check_nothing_is_staged().await;
            assert_eq!(world.kept().await, []);
        }
    }
}

#[tokio::test]
async fn content_moves_the_expiry_of_its_draft() {
    let world = World::new();
    let draft = world.draft(None).await;
    world.pass_a_day();
    let archive = pack(ArchiveFormat::Zip, &files());
    world.unpack(&draft, &archive).await.unwrap();
    let moved = world.facts.draft(&draft.id).await.unwrap().unwrap();
    assert_eq!(draft.expires_at.until(moved.expires_at), world::DAY);
}

#[test]
fn any_archive_comes_out_as_it_went_in() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let contents = proptest::collection::vec((0..6_u64, 0..3_usize, proptest::bool::ANY), 0..12);
    let mut runner = TestRunner::new(Config::with_cases(24));
    runner
        .run(
            &(contents, 0..5_usize, 1..200_000_usize),
            |(contents, kind, chunk)| {
                let files: Vec<File> = contents
                    .iter()
                    .enumerate()
                    .map(|(index, (seed, size, compressible))| {
                        let length = [usize::try_from(*seed).unwrap(), 5000, MIB + 300][*size];
                        let content = match compressible {
                            true => text(*seed, length),
                            false => noise(*seed, length),
                        };
                        let executable = index % 2 == 0;
                        File {
                            executable,
                            ..file(&format!("{index:02}"), &content)
                        }
                    })
                    .collect();
                let (_, archive) = all_formats(&files).swap_remove(kind);
                runtime.block_on(async {
                    let world = World::new();
                    let draft = world.draft(None).await;
                    let tree = world.unpack_in(&draft, &archive, chunk).await.unwrap();
                    assert_eq!(tree, Some(tree_of(&files)));
                    world.check_stored(&files).await;
                    world.check_nothing_is_staged().await;
                    world.check_no_blob_is_unrecorded().await;
                });
                Ok(())
            },
        )
        .unwrap();
}
