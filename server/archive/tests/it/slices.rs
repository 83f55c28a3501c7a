//! A slice of the layout equals the slice of the whole archive.

use std::sync::Arc;

use archive::{ArchiveFormat, Layout, Need, Plan, Segment};
use proptest::prelude::*;

use crate::naive;
use crate::support::{File, Version, varied, varied_before};

const FORMATS: [ArchiveFormat; 2] = [ArchiveFormat::Zip, ArchiveFormat::Tar];

#[test]
fn archives_are_what_a_plain_writer_writes() {
    let (version, before) = (varied(), varied_before());
    for format in FORMATS {
        for plan in [version.whole(), version.since(&before)] {
            let expected = naive::archive(format, &version, &plan);
            let written = version.archive(format, plan);
            assert!(written == expected, "{format:?} differs");
        }
    }
}

#[test]
fn an_empty_version_has_an_archive() {
    let version = Version::publish(1, vec![]);
    for format in FORMATS {
        assert_eq!(
            version.archive(format, version.whole()),
            naive::archive(format, &version, &version.whole())
        );
    }
}

#[test]
fn a_diff_of_moves_alone_has_an_archive() {
    let before = Version::publish(1, vec![("a".to_owned(), b"same".to_vec(), false)]);
    let after = Version::publish(2, vec![("b".to_owned(), b"same".to_vec(), true)]);
    let plan = after.since(&before);
    assert!(plan.need().is_empty());
    let document = String::from_utf8(naive::document(&plan)).unwrap();
    assert!(
        document.contains(r#"{"executable":true,"from":"a","op":"copy","path":"b","sha256":""#),
        "{document}"
    );
    assert!(
        document.contains(r#"{"op":"remove","path":"a"}"#),
        "{document}"
    );
    for format in FORMATS {
        assert_eq!(
            after.archive(format, plan.clone()),
            naive::archive(format, &after, &plan)
        );
    }
}

#[test]
fn ranges_beyond_the_end_are_cut() {
    let version = varied();
    for format in FORMATS {
        let layout = Layout::new(format, version.whole());
        let len = layout.len();
        assert_eq!(version.read(&layout, len - 5..u64::MAX).len(), 5);
        assert!(version.read(&layout, len..len + 1).is_empty());
        assert!(version.read(&layout, u64::MAX..u64::MAX).is_empty());
        assert!(version.read(&layout, 7..7).is_empty());
        #[expect(clippy::reversed_empty_ranges, reason = "this is the point")]
        let backwards = 9..7;
        assert!(version.read(&layout, backwards).is_empty());
    }
}

#[test]
fn streams_may_move_between_threads() {
    fn check<T: Send + 'static>() {}
    check::<Layout>();
    check::<archive::Segments>();
    check::<archive::Unpacker>();
}

#[test]
fn literals_stay_short() {
    let files = (0..40_000)
        .map(|number| (format!("{number:05}"), Vec::new(), false))
        .collect();
    let version = Version::publish(1, files);
    for format in FORMATS {
        let layout = Layout::new(format, version.whole());
        let longest = layout
            .slice(0..layout.len())
            .map(|segment| match segment {
                Segment::Literal(bytes) => bytes.len(),
                Segment::Blob(_) => panic!("only empty files here"),
            })
            .max();
        assert!(longest.unwrap() <= 66 * 1024, "{longest:?}");
    }
}

fn any_files() -> impl Strategy<Value = Vec<File>> {
    let path = prop_oneof![
        "[a-z]{1,12}",
        "[a-z]{90,110}",
        "[é-ü]{45,55}",
        "[a-z]{60,180}_/[a-z]{60,130}"
    ];
    let content = prop_oneof![
        Just(Vec::new()),
        proptest::collection::vec(any::<u8>(), 0..600),
        (any::<u8>(), 0..3000_usize).prop_map(|(byte, len)| vec![byte; len]),
        Just(b"the same".to_vec()),
    ];
    proptest::collection::btree_map(path, (content, any::<bool>()), 0..12).prop_map(|files| {
        files
            .into_iter()
            .map(|(path, (content, executable))| (path, content, executable))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_slice_of_any_archive_is_right(
        files in any_files(),
        base in any_files(),
        kept in any::<u16>(),
        needed in proptest::option::of(any::<u16>()),
        has_base in any::<bool>(),
        cuts in proptest::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 40),
    ) {
        let chosen = |bits: u16, index: usize| bits >> index & 1 == 1;
        let mut base: Vec<File> = base;
        base.extend(files.iter().enumerate().filter(|(index, _)| chosen(kept, *index)).map(|(_, file)| file.clone()));
        base.sort();
        base.dedup_by(|a, b| a.0 == b.0);
        let (version, base) = (Version::publish(2, files), Version::publish(1, base));
        let entries = version.catalogue.tree().len();
        let need = match needed {
            Some(bits) => {
                let positions = (0..entries).filter(|position| chosen(bits, *position as usize));
                Need::from_positions(positions, entries).unwrap()
            }
            None if has_base => version.since(&base).need().clone(),
            None => Need::all(entries),
        };
        let base = has_base.then_some(base.catalogue);
        let plan = Plan::new(Arc::clone(&version.catalogue), Arc::clone(&version.forms), base, need).unwrap();

        for format in FORMATS {
            let expected = naive::archive(format, &version, &plan);
            let layout = Layout::new(format, plan.clone());
            prop_assert_eq!(layout.len(), expected.len() as u64);
            prop_assert!(version.read(&layout, 0..layout.len()) == expected);
            for (a, b) in &cuts {
                let (a, b) = (a.index(expected.len() + 1), b.index(expected.len() + 1));
                let (start, end) = (a.min(b), a.max(b));
                prop_assert!(version.read(&layout, start as u64..end as u64) == expected[start..end], "{start}..{end}");
            }
        }
    }
}
