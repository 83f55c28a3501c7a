//! Archives of all origins, taken apart; and those that must not be.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use archive::{
    ArchiveFormat, Collision, EntryPathError, UnpackError, UnpackEvent, UnpackFault, UnpackLimits,
    Unpacker,
};
use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use crate::interop::{has_tool, run};
use crate::support::{File, Version, deflate, noise, varied, varied_before};

/// Unpacks an archive that arrives in pieces of these lengths, over and over.
fn unpack_in(
    archive: &[u8],
    pieces: &[usize],
    limits: UnpackLimits,
) -> Result<Vec<File>, UnpackError> {
    let mut unpacker = Unpacker::new(limits);
    let mut files: Vec<File> = Vec::new();
    let mut is_open = false;
    let mut rest = archive;
    let mut lengths = pieces.iter().cycle();
    loop {
        match unpacker.next_event()? {
            Some(UnpackEvent::Entry { path, size }) => {
                assert!(!is_open);
                is_open = true;
                assert!(size.is_none_or(|size| size <= limits.entry_size));
                files.push((path.as_str().to_owned(), Vec::new(), false));
            }
            Some(UnpackEvent::Data(bytes)) => {
                assert!(is_open && !bytes.is_empty());
                files.last_mut().unwrap().1.extend_from_slice(&bytes);
            }
            Some(UnpackEvent::EndOfEntry { size, crc32 }) => {
                assert!(is_open);
                is_open = false;
                let (_, content, _) = files.last().unwrap();
                assert_eq!(
                    (size, crc32),
                    (content.len() as u64, crc32fast::hash(content))
                );
            }
            Some(UnpackEvent::Copy { path, of }) => {
                assert!(!is_open);
                let content = files[of as usize].1.clone();
                files.push((path.as_str().to_owned(), content, false));
            }
            Some(UnpackEvent::Executable { number }) => files[number as usize].2 = true,
            Some(UnpackEvent::Pause) => {}
            Some(UnpackEvent::End) => {
                assert!(!is_open && rest.is_empty());
                assert_eq!(unpacker.next_event(), Ok(None));
                return Ok(files);
            }
            None if rest.is_empty() => unpacker.finish(),
            None => {
                let (piece, later) = rest.split_at(rest.len().min(*lengths.next().unwrap()));
                rest = later;
                unpacker.feed(Bytes::copy_from_slice(piece));
            }
        }
    }
}

fn unpack(archive: &[u8]) -> Result<Vec<File>, UnpackError> {
    let files = unpack_in(archive, &[64 * 1024], UnpackLimits::default());
    assert_eq!(
        unpack_in(archive, &[1, 30, 7, 511], UnpackLimits::default()),
        files,
        "it depends on the pieces"
    );
    files
}

#[track_caller]
fn refuse(archive: &[u8], entry: Option<&str>, fault: UnpackFault) {
    assert_eq!(
        unpack(archive),
        Err(UnpackError {
            entry: entry.map(str::to_owned),
            fault
        })
    );
}

/// A tree on disk for tools to pack.
fn tree() -> (TempDir, Vec<File>) {
    let directory = TempDir::new().unwrap();
    let mut files = vec![
        ("a/b/text".to_owned(), b"text ".repeat(5000), false),
        ("a/b/empty".to_owned(), Vec::new(), false),
        ("a/noise".to_owned(), noise(9, 70_000), false),
        (
            "Größe/日本.txt".to_owned(),
            "ü".repeat(100).into_bytes(),
            false,
        ),
        ("run".to_owned(), b"#!/bin/sh\n".to_vec(), true),
        (
            format!("{}/{}", "d".repeat(150), "n".repeat(200)),
            b"long".to_vec(),
            false,
        ),
    ];
    files.sort();
    for (path, content, executable) in &files {
        let path = directory.path().join("tree").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(
            &path,
            fs::Permissions::from_mode(if *executable { 0o755 } else { 0o644 }),
        )
        .unwrap();
    }
    fs::create_dir(directory.path().join("tree/empty directory")).unwrap();
    (directory, files)
}

/// Packs the tree with a shell command that reads `tree` and writes `$out`, and unpacks the result.
fn check_tool(tool: &str, script: &str) {
    check_tool_as(tool, script, |_| true);
}

/// As [`check_tool`], where the archive has only those files for which `has` is true; it may change
/// them.
fn check_tool_as(tool: &str, script: &str, has: impl FnMut(&mut File) -> bool) {
    if !has_tool(tool) {
        return;
    }
    let (directory, mut expected) = tree();
    expected.retain_mut(has);
    let out = directory.path().join("out");
    let mut command = Command::new("sh");
    command
        .args(["-ec", script])
        .env("out", &out)
        .current_dir(directory.path().join("tree"));
    run(&mut command);
    let mut files =
        unpack(&fs::read(&out).unwrap()).unwrap_or_else(|error| panic!("{script}: {error}"));
    files.sort();
    assert!(files == expected, "{script} gave other files");
}

#[test]
fn our_own_archives_come_back() {
    let (version, before) = (varied(), varied_before());
    for format in [ArchiveFormat::Zip, ArchiveFormat::Tar] {
        assert!(
            unpack(&version.archive(format, version.whole())).unwrap() == version.files,
            "{format:?}"
        );
        let plan = version.since(&before);
        let expected: Vec<File> = plan
            .need()
            .positions()
            .map(|at| version.files[at as usize].clone())
            .collect();
        assert!(
            unpack(&version.archive(format, plan)).unwrap() == expected,
            "{format:?}"
        );
    }
}

#[test]
fn zips_of_all_tools_are_read() {
    check_tool("zip", "zip -qr $out.zip . && mv $out.zip $out");
    check_tool("zip", "zip -qr0 $out.zip . && mv $out.zip $out");
    check_tool("zip", "zip -qr -fz $out.zip . && mv $out.zip $out");
    check_tool("zip", "zip -qrz $out.zip . < run && mv $out.zip $out");
    // To a pipe, sizes follow the data.
    check_tool("zip", "zip -qr - . | cat > $out");
    check_tool("zip", "zip -qr -fz - . | cat > $out");
    check_tool("bsdtar", "bsdtar --format zip -cf $out .");
    check_tool("bsdtar", "bsdtar --format zip -cf - * | cat > $out");
    check_tool("python3", "python3 -m zipfile -c $out *");
    // Java tells no permissions.
    for script in ["jar -cMf $out .", "jar -cM0f $out ."] {
        check_tool_as("jar", script, |(_, _, executable)| {
            *executable = false;
            true
        });
    }
    check_tool("7z", "7z a -bso0 -tzip $out.zip . && mv $out.zip $out");
    check_tool(
        "git",
        "git init -q . && git add -A && git -c user.name=a -c user.email=a@b.c commit -qm a && git archive --format zip -o ../z HEAD && rm -r .git && mv ../z $out",
    );
    check_tool(
        "python3",
        "python3 -c '
import os, sys, zipfile
class Pipe:
    def write(self, data): return sys.stdout.buffer.write(data)
    def flush(self): pass
with zipfile.ZipFile(Pipe(), \"w\", zipfile.ZIP_DEFLATED) as archive:
    for directory, _, names in os.walk(\".\"):
        for name in names:
            with open(os.path.join(directory, name), \"rb\") as source:
                info = zipfile.ZipInfo.from_file(os.path.join(directory, name))
                info.compress_type = zipfile.ZIP_DEFLATED
                with archive.open(info, \"w\", force_zip64=len(name) % 2) as entry:
                    entry.write(source.read())
' > $out",
    );
}

#[test]
fn tars_of_all_tools_are_read() {
    check_tool("tar", "tar -cf $out .");
    check_tool("tar", "tar -cf $out *");
    for format in ["gnu", "pax"] {
        check_tool("tar", &format!("tar --format {format} -cf $out ."));
    }
    check_tool("bsdtar", "bsdtar -cf $out .");
    check_tool("bsdtar", "bsdtar --format gnutar -cf $out .");
    check_tool("busybox", "busybox tar -cf $out .");
    // The oldest form has no long names.
    check_tool_as(
        "tar",
        "tar --format v7 -cf $out a Gr* e* run",
        |(path, ..)| path.len() < 100,
    );
    check_tool("tar", "tar -b 2 --label volume -cf $out .");
    check_tool(
        "git",
        "git init -q . && git add -A && git -c user.name=a -c user.email=a@b.c commit -qm a && git archive -o ../t.tar HEAD && rm -r .git && mv ../t.tar $out",
    );
    check_tool("gzip", "tar -c . | gzip > $out");
    check_tool("zstd", "tar -c . | zstd -19 > $out");
    check_tool("zstd", "tar -c . | zstd -T2 -B100KB > $out");
    // As pzstd writes them: each frame behind a skippable one that has its length.
    check_tool(
        "zstd",
        "{ printf '\\120\\052\\115\\030\\004\\000\\000\\000abcd'; tar -c . | zstd; } > $out",
    );
    check_tool("gzip", "tar -cf ../t . && gzip -N ../t && mv ../t.gz $out");
    // Several members and frames in a row are one stream.
    check_tool(
        "gzip",
        "tar -cf ../t .; { head -c 20000 ../t | gzip; tail -c +20001 ../t | gzip; } > $out",
    );
    check_tool(
        "zstd",
        "tar -cf ../t .; { head -c 20000 ../t | zstd; tail -c +20001 ../t | zstd; } > $out",
    );
}

#[test]
fn what_macos_adds_is_passed_over() {
    let tar = Tar::new()
        .file("./._a", b"resource fork")
        .file("./a", b"a")
        .file("__MACOSX/._a", b"more")
        .file("d/.DS_Store", b"windows")
        .file("d/Icon\r", b"an icon")
        .end();
    assert_eq!(
        unpack(&tar),
        Ok(vec![("a".to_owned(), b"a".to_vec(), false)])
    );
    // The names that macOS writes are decomposed.
    let zip = Zip::new()
        .file("e\u{301}", b"e")
        .file("__MACOSX/", b"")
        .end();
    assert_eq!(
        unpack(&zip),
        Ok(vec![("\u{e9}".to_owned(), b"e".to_vec(), false)])
    );
}

#[test]
fn empty_archives_are_read() {
    assert_eq!(unpack(&Zip::new().end()), Ok(vec![]));
    assert_eq!(unpack(&Tar::new().end()), Ok(vec![]));
    assert_eq!(unpack(&[0; 10_240]), Ok(vec![]));
}

#[test]
fn other_files_are_no_archives() {
    refuse(b"", None, UnpackFault::NotAnArchive);
    refuse(b"abc", None, UnpackFault::NotAnArchive);
    refuse(&noise(4, 4000), None, UnpackFault::NotAnArchive);
    for (magic, format) in [
        (&b"Rar!\x1a\x07\x00"[..], "a RAR archive"),
        (b"\xfd7zXZ\0\0\x04", "an xz stream"),
        (b"BZh91AY&SY", "a bzip2 stream"),
        (b"\x04\x22\x4d\x18\x64\x40", "an lz4 stream"),
        (b"7z\xbc\xaf\x27\x1c\0\x04", "a 7z archive"),
    ] {
        refuse(magic, None, UnpackFault::OtherFormat { format });
    }
    refuse(&gzip(&noise(5, 4000)), None, UnpackFault::NotAnArchive);
}

#[test]
fn hostile_names_are_refused() {
    for (name, error) in [
        ("../evil", EntryPathError::DotSegment),
        ("a/../../evil", EntryPathError::DotSegment),
        ("a/./b", EntryPathError::DotSegment),
        ("/etc/passwd", EntryPathError::Absolute),
        ("C:evil", EntryPathError::DriveLetter),
        ("a/ b", EntryPathError::DotOrSpaceAtEdge),
        ("a//b", EntryPathError::EmptySegment),
        ("a\nb", EntryPathError::ControlCharacter),
        (".longhaul/other", EntryPathError::Reserved),
        ("../evil/", EntryPathError::DotSegment),
        (&"n".repeat(256), EntryPathError::SegmentTooLong),
        (&"nn/".repeat(500), EntryPathError::PathTooLong),
    ] {
        let shown: String = name.chars().take(200).collect();
        refuse(
            &Zip::new().file(name, b"").end(),
            Some(&shown),
            UnpackFault::Path(error),
        );
        refuse(
            &Tar::new().long_file(name, b"").end(),
            Some(&shown),
            UnpackFault::Path(error),
        );
    }
    // What a zip has for a separator, a tar has for a part of a name.
    refuse(
        &Zip::new().file("..\\evil", b"").end(),
        Some("../evil"),
        UnpackFault::Path(EntryPathError::DotSegment),
    );
    refuse(
        &Tar::new().file("a\\b", b"").end(),
        Some("a\\b"),
        UnpackFault::Path(EntryPathError::Backslash),
    );
    refuse(
        &Tar::new().header(b"\xff", 0, b'0').end(),
        Some("\u{fffd}"),
        UnpackFault::NameNotUtf8,
    );
}

#[test]
fn colliding_names_are_refused() {
    for (first, second, collision) in [
        ("a", "a", Collision::SamePath),
        ("Straße", "STRASSE", Collision::SamePath),
        ("e\u{301}", "\u{c9}", Collision::SamePath),
        ("a", "A/b", Collision::FileAndDirectory),
        ("a/b/c", "a/B", Collision::FileAndDirectory),
    ] {
        let fault = UnpackFault::Collision(collision);
        refuse(
            &Zip::new().file(first, b"1").file(second, b"2").end(),
            Some(second),
            fault.clone(),
        );
        refuse(
            &Tar::new().file(first, b"1").file(second, b"2").end(),
            Some(second),
            fault,
        );
    }
}

#[test]
fn links_and_devices_are_refused() {
    for (kind, fault) in [
        (
            b'1',
            UnpackFault::HardLink {
                target: String::new(),
            },
        ),
        (b'2', UnpackFault::Link),
        (b'3', UnpackFault::NotAFile),
        (b'4', UnpackFault::NotAFile),
        (b'6', UnpackFault::NotAFile),
        (b'M', UnpackFault::NotAFile),
    ] {
        refuse(&Tar::new().header(b"x", 0, kind).end(), Some("x"), fault);
    }
    for (mode, fault) in [
        (0o120_777, UnpackFault::Link),
        (0o020_644, UnpackFault::NotAFile),
        (0o040_755, UnpackFault::NotAFile),
    ] {
        refuse(
            &Zip::new().file("x", b"/etc/passwd").mode(mode).end(),
            Some("x"),
            fault,
        );
    }
    refuse(
        &Tar::new().header(b"d", 4, b'5').data(b"data").end(),
        Some("d"),
        UnpackFault::DirectoryWithContents,
    );
    refuse(
        &Zip::new().file("d/", b"data").end(),
        Some("d/"),
        UnpackFault::DirectoryWithContents,
    );
}

#[test]
fn limits_hold() {
    let limits = UnpackLimits {
        entries: 2,
        entry_size: 10,
        total_size: 15,
        ratio: 200,
        ..UnpackLimits::default()
    };
    let check = |files: &[(&str, usize)], entry: &str, fault: UnpackFault| {
        let (mut zip, mut streamed, mut tar) = (Zip::new(), Zip::new(), Tar::new());
        for (name, len) in files {
            let content = vec![7; *len];
            zip = zip.file(name, &content);
            streamed = streamed.streamed_file(name, &content);
            tar = tar.file(name, &content);
        }
        for archive in [zip.end(), streamed.end(), tar.end()] {
            let expected = UnpackError {
                entry: Some(entry.to_owned()),
                fault: fault.clone(),
            };
            assert_eq!(unpack_in(&archive, &[9], limits), Err(expected));
        }
    };
    check(&[("a", 11)], "a", UnpackFault::EntryTooLarge { limit: 10 });
    check(
        &[("a", 10), ("b", 6)],
        "b",
        UnpackFault::TooLarge { limit: 15 },
    );
    check(
        &[("a", 0), ("b", 0), ("c", 0)],
        "c",
        UnpackFault::TooManyEntries { limit: 2 },
    );
    check(
        &[("a/", 0), ("b/", 0), ("c", 0)],
        "c",
        UnpackFault::TooManyEntries { limit: 2 },
    );
    // What is passed over counts too.
    check(
        &[("._a", 11)],
        "._a",
        UnpackFault::EntryTooLarge { limit: 10 },
    );
}

#[test]
fn bombs_are_refused() {
    let limits = UnpackLimits {
        ratio: 100,
        ..UnpackLimits::default()
    };
    let zeros = vec![0; 20 << 20];
    let fault = UnpackFault::TooCompressed { limit: 100 };
    let expected = UnpackError {
        entry: Some("bomb".to_owned()),
        fault,
    };
    let zip = Zip::new().deflated_file("bomb", &zeros).end();
    assert!(zip.len() < 30_000);
    assert_eq!(unpack_in(&zip, &[1000], limits), Err(expected.clone()));
    let tar = Tar::new().file("bomb", &zeros).end();
    assert_eq!(
        unpack_in(&gzip(&tar), &[1000], limits),
        Err(expected.clone())
    );
    let zstd = zstd::bulk::compress(&tar, 3).unwrap();
    assert_eq!(unpack_in(&zstd, &[1000], limits), Err(expected));
}

/// Returns the fault of an archive fed in few pieces, and the number of pauses.
fn refused_after(archive: &[u8], limits: UnpackLimits) -> (UnpackFault, usize) {
    let mut unpacker = Unpacker::new(limits);
    let mut pieces = archive.chunks(64 * 1024);
    let mut pauses = 0;
    loop {
        match unpacker.next_event() {
            Ok(Some(UnpackEvent::Pause)) => pauses += 1,
            Ok(Some(UnpackEvent::End)) => panic!("it is taken"),
            Ok(Some(_)) => {}
            Ok(None) => match pieces.next() {
                Some(piece) => unpacker.feed(Bytes::copy_from_slice(piece)),
                None => unpacker.finish(),
            },
            Err(error) => return (error.fault, pauses),
        }
    }
}

#[test]
fn whatever_comes_out_counts_for_the_ratio() {
    let limits = UnpackLimits {
        ratio: 100,
        ..UnpackLimits::default()
    };
    let zeros = vec![0; 1 << 20];
    let (mut names, mut directories) = (Tar::new(), Tar::new());
    for n in 0..20_000 {
        let name = format!("{}/{n:020}", "n".repeat(200));
        names = names.long_file(&name, b"");
        directories = directories.long_file(&format!("{name}/"), b"");
    }
    let comment = format!("1048576 comment={}\n", " ".repeat((1 << 20) - 17));
    let (mut records, mut passed_over) = (Tar::new(), Tar::new());
    for n in 0..30 {
        records = records
            .header(b"x", comment.len(), b'x')
            .data(comment.as_bytes());
        passed_over = passed_over.file(&format!("._{n}"), &zeros);
    }
    let bombs = [names, records, passed_over, directories].map(Tar::end);
    for tar in &bombs {
        assert!(tar.len() > 20 << 20);
        for archive in [gzip(tar), zstd::bulk::compress(tar, 3).unwrap()] {
            let (fault, pauses) = refused_after(&archive, limits);
            assert_eq!(fault, UnpackFault::TooCompressed { limit: 100 });
            assert!(pauses < 20);
        }
    }
    let mut zip = Zip::new();
    for n in 0..30 {
        zip = zip.deflated_file(&format!("__MACOSX/{n}"), &zeros);
    }
    let (fault, pauses) = refused_after(&zip.end(), limits);
    assert_eq!(fault, UnpackFault::TooCompressed { limit: 100 });
    assert!(
        pauses >= 14,
        "{pauses} looks around in 16 MiB without an event"
    );
}

#[test]
fn little_may_follow_the_end() {
    let whole = Tar::new().file("a", b"a").end();
    let filled = |len: usize| {
        let mut tar = whole.clone();
        tar.resize(tar.len() + len, 0);
        tar
    };
    assert_eq!(unpack(&gzip(&filled((1 << 20) - 1024))).unwrap().len(), 1);
    let much = filled(8 << 20);
    for archive in [
        &much,
        &gzip(&much),
        &zstd::bulk::compress(&much, 3).unwrap(),
    ] {
        let (fault, pauses) = refused_after(archive, UnpackLimits::default());
        assert_eq!(fault, UnpackFault::TrailingBytes);
        assert!(pauses <= 2);
    }
    let other = [whole.clone(), b"other".to_vec()].concat();
    refuse(&other, None, UnpackFault::TrailingBytes);
    refuse(&gzip(&other), None, UnpackFault::TrailingBytes);
    let mut zip = Zip::new().file("a", b"a").end();
    zip.resize(zip.len() + (2 << 20), 0);
    refuse(&zip, None, UnpackFault::TrailingBytes);
}

#[test]
fn names_are_bounded_together() {
    let limits = UnpackLimits {
        path_bytes: 100,
        ..UnpackLimits::default()
    };
    let name = |n: u8| format!("{n}{}", "n".repeat(39));
    let expected = |fault| {
        Err(UnpackError {
            entry: Some(name(3)),
            fault,
        })
    };
    let (mut tar, mut zip) = (Tar::new(), Zip::new());
    for n in 1..=3 {
        (tar, zip) = (tar.file(&name(n), b""), zip.file(&name(n), b""));
    }
    for archive in [tar.end(), zip.end()] {
        let fault = UnpackFault::PathsTooLong { limit: 100 };
        assert_eq!(unpack_in(&archive, &[50], limits), expected(fault));
    }
    // Short names can mean many directories.
    let mut deep = Tar::new();
    for n in 0..140 {
        deep = deep.long_file(&format!("{n}/{}f", "d/".repeat(500)), b"");
    }
    let limits = UnpackLimits {
        entries: 200,
        ..UnpackLimits::default()
    };
    let fault = UnpackFault::TooManyDirectories { limit: 1 << 16 };
    assert_eq!(
        unpack_in(&deep.end(), &[5000], limits).unwrap_err().fault,
        fault
    );
}

#[test]
fn hard_links_are_copies() {
    let expected: Vec<File> = ["a/first", "b", "c"]
        .map(|name| (name.to_owned(), b"content".to_vec(), false))
        .into();
    let tar = Tar::new()
        .file("./a/first", b"content")
        .link("./b", "./a/first")
        .link("c", "b")
        .link("._litter", "b")
        .end();
    assert_eq!(unpack(&tar).unwrap(), expected);
    for (tar, entry, target) in [
        (Tar::new().link("a", "a"), "a", "a"),
        (Tar::new().link("a", "b").file("b", b""), "a", "b"),
        (Tar::new().file("b", b"").link("a", "../b"), "a", "../b"),
        (
            Tar::new().file("b", b"").link("a", "/etc/passwd"),
            "a",
            "/etc/passwd",
        ),
        (Tar::new().file("._b", b"").link("a", "._b"), "a", "._b"),
        (Tar::new().file("d/b", b"").link("a", "d"), "a", "d"),
    ] {
        let target = target.to_owned();
        refuse(&tar.end(), Some(entry), UnpackFault::HardLink { target });
    }
}

#[test]
fn sparse_files_of_all_forms_are_read() {
    let content = [vec![0; 1 << 20], b"data ".repeat(3000), vec![0; 3 << 20]];
    let expected = vec![("s".to_owned(), content.concat(), false)];
    // GNU's old form needs more blocks for more than four runs.
    let many: Vec<u8> = (0..400_000_usize)
        .map(|at| if at / 8192 % 2 == 0 { 1 } else { 0 })
        .collect();
    let many = vec![("s".to_owned(), many, false)];
    for files in [expected, many] {
        let directory = TempDir::new().unwrap();
        let dense = directory.path().join("dense");
        fs::write(&dense, &files[0].1).unwrap();
        for pack in [
            "tar --format gnu -S -cf out s",
            "tar --format pax --sparse-version=0.0 -S -cf out s",
            "tar --format pax --sparse-version=0.1 -S -cf out s",
            "tar --format pax --sparse-version=1.0 -S -cf out s",
            "bsdtar -cf out s",
            "bsdtar --format gnutar -cf out s",
        ] {
            let (tool, _) = pack.split_once(' ').unwrap();
            if !has_tool(tool) {
                continue;
            }
            let script = format!("cp --sparse=always dense s && {pack}");
            let mut command = Command::new("sh");
            run(command.args(["-ec", &script]).current_dir(&directory));
            let archive = fs::read(directory.path().join("out")).unwrap();
            assert!(unpack(&archive).unwrap() == files, "{pack}");
        }
    }
}

#[test]
fn maps_of_sparse_files_are_checked() {
    let malformed = UnpackFault::Malformed {
        record: "map of a sparse file",
    };
    let pax = |records: &[(&str, &str)], data: &[u8]| {
        let text: String = records
            .iter()
            .map(|(key, value)| {
                let len = key.len() + value.len() + 3;
                let digits = (len + 2).to_string().len();
                format!("{} {key}={value}\n", len + digits)
            })
            .collect();
        let tar = Tar::new()
            .header(b"x", text.len(), b'x')
            .data(text.as_bytes());
        tar.header(b"GNUSparseFile.0/a", data.len(), b'0')
            .data(data)
            .end()
    };
    let name = ("GNU.sparse.name", "a");
    let map = |size, map| [("GNU.sparse.size", size), name, ("GNU.sparse.map", map)];
    let good = [[0; 5].as_slice(), b"bcd", &[0; 2]].concat();
    let expected = vec![("a".to_owned(), good, false)];
    assert_eq!(unpack(&pax(&map("10", "5,3"), b"bcd")).unwrap(), expected);
    assert_eq!(
        unpack(&pax(&map("10", "5,3,10,0"), b"bcd")).unwrap(),
        expected
    );
    for (size, runs, entry) in [
        ("7", "5,3", "a"),
        ("10", "5,2", "a"),
        ("10", "5,2,4,1", "x"),
        ("10", "18446744073709551615,3", "x"),
    ] {
        refuse(
            &pax(&map(size, runs), b"bcd"),
            Some(entry),
            malformed.clone(),
        );
    }
    // Holes count as what comes out.
    let hole = pax(&map("17179869184", "0,3"), b"bcd");
    refuse(&hole, Some("a"), UnpackFault::TooCompressed { limit: 200 });
}

#[test]
fn a_zstd_window_beyond_bounds_is_refused() {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    std::io::Write::write_all(&mut encoder, &Tar::new().file("a", b"a").end()).unwrap();
    refuse(&encoder.finish().unwrap(), None, UnpackFault::Damaged);
}

#[test]
fn lies_about_contents_are_refused() {
    let zip = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut archive = Zip::new().file("a", b"content").end();
        change(&mut archive);
        archive
    };
    // The local header: CRC-32 at 14, stored size at 18, size at 22.
    refuse(
        &zip(&|zip| zip[14] ^= 1),
        Some("a"),
        UnpackFault::WrongCrc32,
    );
    refuse(&zip(&|zip| zip[22] += 1), Some("a"), UnpackFault::WrongSize);
    refuse(
        &zip(&|zip| zip[31] ^= 1),
        Some("a"),
        UnpackFault::WrongCrc32,
    );
    let directory = 30 + 1 + 7;
    for at in [10, 16, 20, 24, 42, 46] {
        let name = if at == 46 { "`" } else { "a" };
        let fault = if at == 10 {
            UnpackFault::UnsupportedMethod { method: 1 }
        } else {
            UnpackFault::Inconsistent
        };
        refuse(&zip(&|zip| zip[directory + at] ^= 1), Some(name), fault);
    }
    let end = directory + 46 + 1;
    for at in [12, 16] {
        refuse(
            &zip(&|zip| zip[end + at] ^= 1),
            None,
            UnpackFault::Inconsistent,
        );
    }
    refuse(
        &zip(&|zip| zip[end + 8] ^= 1),
        None,
        UnpackFault::Unsupported {
            feature: "archives in several parts",
        },
    );
    refuse(&zip(&|zip| zip.push(1)), None, UnpackFault::TrailingBytes);
    refuse(&zip(&|zip| zip[6] |= 1), Some("a"), UnpackFault::Encrypted);

    // A file that only the local headers know, and one that only the directory knows.
    let hidden = Zip::new().file("a", b"").hidden_file("b", b"").end();
    refuse(&hidden, None, UnpackFault::Inconsistent);
    let twice = Zip::new().file("a", b"").repeated_record().end();
    refuse(&twice, Some("a"), UnpackFault::Inconsistent);

    let deflated = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut archive = Zip::new()
            .deflated_file("a", &b"content ".repeat(100))
            .end();
        change(&mut archive);
        archive
    };
    refuse(
        &deflated(&|zip| zip[18] += 1),
        Some("a"),
        UnpackFault::WrongSize,
    );
    refuse(
        &deflated(&|zip| zip[18] -= 1),
        Some("a"),
        UnpackFault::Damaged,
    );
    refuse(
        &deflated(&|zip| zip[22] -= 1),
        Some("a"),
        UnpackFault::WrongSize,
    );
    refuse(
        &deflated(&|zip| zip[31] = 0xff),
        Some("a"),
        UnpackFault::Damaged,
    );

    let mut streamed = Zip::new()
        .streamed_file("a", &b"content ".repeat(100))
        .end();
    let descriptor = streamed
        .windows(4)
        .position(|bytes| bytes == b"PK\x07\x08")
        .unwrap();
    streamed[descriptor + 8] ^= 1;
    refuse(&streamed, Some("a"), UnpackFault::WrongCrc32);
    refuse(
        &Zip::new().stored_with_descriptor("a", b"content").end(),
        Some("a"),
        UnpackFault::UnknownLength,
    );

    let mut tar = Tar::new().file("a", b"content").end();
    tar[100] ^= 1;
    refuse(&tar, None, UnpackFault::NotAnArchive);
    let mut tar = Tar::new().file("a", b"content").file("b", b"").end();
    tar[1024] ^= 1;
    refuse(
        &tar,
        None,
        UnpackFault::Malformed {
            record: "tar header",
        },
    );
    let record = b"12 size=511\n";
    let smuggled = Tar::new()
        .header(b"p", 12, b'x')
        .data(record)
        .header(b"a", 0, b'0')
        .end();
    refuse(&smuggled, Some("a"), UnpackFault::WrongSize);
    let tar = Tar::new()
        .header(b"p", 14, b'g')
        .data(b"14 path=other\n")
        .file("a", b"")
        .end();
    refuse(
        &tar,
        Some("p"),
        UnpackFault::Unsupported {
            feature: "paths and sizes for all entries",
        },
    );
    for record in [
        &b"13 path=abcd\n"[..],
        b"12 path=ab\0",
        b"x path=abc\n",
        b"99 path=abc\n",
        b"5 ab\n",
        b"0 a=b\n",
    ] {
        let tar = Tar::new()
            .header(b"p", record.len(), b'x')
            .data(record)
            .file("a", b"")
            .end();
        if record == b"13 path=abcd\n" {
            assert_eq!(unpack(&tar), Ok(vec![("abcd".to_owned(), vec![], false)]));
        } else {
            refuse(
                &tar,
                Some("p"),
                UnpackFault::Malformed {
                    record: "extended tar header",
                },
            );
        }
    }
    let mut tar = Tar::new().file("a", b"").end();
    tar.extend_from_slice(b"more");
    refuse(&tar, None, UnpackFault::TrailingBytes);
}

/// All kinds of archives of a small version.
fn samples() -> Vec<Vec<u8>> {
    let version = Version::publish(
        1,
        vec![
            ("a/text".to_owned(), b"text ".repeat(60), false),
            ("b".to_owned(), b"b".to_vec(), true),
            ("n".repeat(120), b"long name".to_vec(), false),
        ],
    );
    let zip = version.archive(ArchiveFormat::Zip, version.whole());
    let tar = version.archive(ArchiveFormat::Tar, version.whole());
    let streamed = Zip::new()
        .streamed_file("a", b"aaaaaaaaaaaaaaaaaaaaaaaaa")
        .streamed_file("b", b"")
        .end();
    let zstd = zstd::bulk::compress(&tar, 3).unwrap();
    vec![zip, gzip(&tar), streamed, zstd, tar]
}

#[test]
fn a_cut_archive_is_never_whole() {
    for archive in samples() {
        unpack(&archive).unwrap();
        for cut in 0..archive.len() {
            let files = unpack_in(&archive[..cut], &[1000], UnpackLimits::default());
            // A tar ends with its first block of zeros.
            let is_zeros =
                archive[cut..].iter().all(|byte| *byte == 0) && archive.len() - cut <= 512;
            assert!(
                files.is_err() || is_zeros,
                "cut at {cut} of {}",
                archive.len()
            );
        }
    }
}

proptest! {
    #[test]
    fn pieces_do_not_matter(pieces in proptest::collection::vec(1..3000_usize, 1..8)) {
        for archive in samples() {
            prop_assert_eq!(
                unpack_in(&archive, &pieces, UnpackLimits::default()),
                unpack_in(&archive, &[usize::MAX], UnpackLimits::default())
            );
        }
    }

    #[test]
    fn damage_never_goes_wrong(
        kind in 0..5_usize,
        damage in proptest::collection::vec(any::<(prop::sample::Index, u8)>(), 1..4),
    ) {
        let mut archive = samples().swap_remove(kind);
        for (at, byte) in damage {
            *at.get_mut(&mut archive) = byte;
        }
        // Fine or refused, but no panic, and the same in pieces.
        let whole = unpack_in(&archive, &[usize::MAX], UnpackLimits::default());
        let pieces = unpack_in(&archive, &[13], UnpackLimits::default());
        // Damage to a compressed stream may show before or after the entry that it is in.
        prop_assert_eq!(pieces.ok(), whole.ok());
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

/// Writes zips without asking whether they are right.
#[derive(Default)]
struct Zip {
    out: Vec<u8>,
    records: Vec<Vec<u8>>,
}

impl Zip {
    fn new() -> Self {
        Self::default()
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        self.raw_file(name.as_bytes(), content)
    }

    fn raw_file(self, name: &[u8], content: &[u8]) -> Self {
        self.entry(
            name,
            0,
            0x0800,
            content,
            content.len(),
            crc32fast::hash(content),
        )
    }

    fn deflated_file(self, name: &str, content: &[u8]) -> Self {
        self.entry(
            name.as_bytes(),
            8,
            0x0800,
            &deflate(content),
            content.len(),
            crc32fast::hash(content),
        )
    }

    fn streamed_file(self, name: &str, content: &[u8]) -> Self {
        self.entry(
            name.as_bytes(),
            8,
            0x0808,
            &deflate(content),
            content.len(),
            crc32fast::hash(content),
        )
    }

    fn stored_with_descriptor(self, name: &str, content: &[u8]) -> Self {
        self.entry(
            name.as_bytes(),
            0,
            0x0808,
            content,
            content.len(),
            crc32fast::hash(content),
        )
    }

    fn hidden_file(self, name: &str, content: &[u8]) -> Self {
        let mut zip = self.file(name, content);
        zip.records.pop();
        zip
    }

    fn repeated_record(mut self) -> Self {
        self.records.push(self.records.last().unwrap().clone());
        self
    }

    /// Changes the mode of the last file.
    fn mode(mut self, mode: u32) -> Self {
        self.records.last_mut().unwrap()[38..42].copy_from_slice(&(mode << 16).to_le_bytes());
        self
    }

    fn entry(
        mut self,
        name: &[u8],
        method: u16,
        flags: u16,
        stored: &[u8],
        size: usize,
        crc32: u32,
    ) -> Self {
        let offset = u32::try_from(self.out.len()).unwrap();
        let numbers = [
            crc32,
            u32::try_from(stored.len()).unwrap(),
            u32::try_from(size).unwrap(),
        ];
        let has_descriptor = flags & 8 != 0;
        let common = |numbers: [u32; 3]| {
            let mut bytes = vec![20, 0];
            bytes.extend(flags.to_le_bytes());
            bytes.extend(method.to_le_bytes());
            bytes.extend([0; 4]);
            bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            bytes.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
            bytes.extend([0, 0]);
            bytes
        };
        self.out.extend(b"PK\x03\x04");
        self.out
            .extend(common(if has_descriptor { [0; 3] } else { numbers }));
        self.out.extend(name);
        self.out.extend(stored);
        if has_descriptor {
            self.out.extend(b"PK\x07\x08");
            self.out
                .extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        }
        let mut record = b"PK\x01\x02\x14\x03".to_vec();
        record.extend(common(numbers));
        record.extend([0; 10]);
        record.extend(offset.to_le_bytes());
        record.extend(name);
        self.records.push(record);
        self
    }

    fn end(self) -> Vec<u8> {
        let Self { mut out, records } = self;
        let begin = u32::try_from(out.len()).unwrap();
        let count = u16::try_from(records.len()).unwrap();
        let directory = records.concat();
        out.extend(&directory);
        out.extend(b"PK\x05\x06\0\0\0\0");
        out.extend(count.to_le_bytes());
        out.extend(count.to_le_bytes());
        out.extend(u32::try_from(directory.len()).unwrap().to_le_bytes());
        out.extend(begin.to_le_bytes());
        out.extend([0, 0]);
        out
    }
}

/// Writes tars likewise.
#[derive(Default)]
struct Tar {
    out: Vec<u8>,
}

impl Tar {
    fn new() -> Self {
        Self::default()
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        let kind = if name.ends_with('/') { b'5' } else { b'0' };
        self.header(name.as_bytes(), content.len(), kind)
            .data(content)
    }

    /// With GNU's header for long names.
    fn long_file(self, name: &str, content: &[u8]) -> Self {
        let tar = self
            .header(b"././@LongLink", name.len() + 1, b'L')
            .data(format!("{name}\0").as_bytes());
        tar.header(b"short", content.len(), b'0').data(content)
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.block(name.as_bytes(), 0, b'1', target.as_bytes())
    }

    fn header(self, name: &[u8], size: usize, kind: u8) -> Self {
        self.block(name, size, kind, b"")
    }

    fn block(mut self, name: &[u8], size: usize, kind: u8, link: &[u8]) -> Self {
        let mut block = [0; 512];
        block[157..157 + link.len()].copy_from_slice(link);
        block[..name.len()].copy_from_slice(name);
        block[100..107].copy_from_slice(b"0000644");
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[148..156].copy_from_slice(b"        ");
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.out.extend(block);
        self
    }

    fn data(mut self, data: &[u8]) -> Self {
        self.out.extend(data);
        self.out.resize(self.out.len().next_multiple_of(512), 0);
        self
    }

    fn end(mut self) -> Vec<u8> {
        self.out.extend([0; 1024]);
        self.out
    }
}
