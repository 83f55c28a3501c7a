//! Archives of packs, opened by independent programs, and any range of them, before and after a
//! crash.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tests::pack::{DOCUMENT, Files, sha256, text};
use tests::{Client, Content, Dice, Request, TestServer, Version, skip, within};
use tokio::process::Command;

/// Longest run of a program on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Python script that lists, verifies and extracts a zip; it compares the CRC-32 of each entry.
const PYTHON_ZIP: &str = "
import sys, zipfile
archive = zipfile.ZipFile(sys.argv[1])
damaged = archive.testzip()
assert damaged is None, damaged
archive.extractall(sys.argv[2])
";

const PYTHON_TAR: &str = "
import sys, tarfile
archive = tarfile.open(sys.argv[1], 'r:', errorlevel=2)
archive.extractall(sys.argv[2])
";

/// Runs a program in a locale with file names in UTF-8. The program must succeed and leave its
/// standard error empty.
pub(crate) async fn run(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .kill_on_drop(true);
    let output = within(PATIENCE, program, command.output()).await;
    let output = output
        .unwrap_or_else(|error| panic!("{program} cannot be run ({error}); tests/run installs it"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && errors.is_empty(),
        "{program} {arguments:?}: {}\n{errors}",
        output.status
    );
    output
}

/// Reads all files below a directory.
pub(crate) fn read_tree(directory: &Path) -> Files {
    let mut files = Files::default();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
                continue;
            }
            let path = entry.path();
            let name = path.strip_prefix(directory).unwrap().to_str().unwrap();
            let bytes = std::fs::read(&path).unwrap();
            files.0.insert(name.to_owned(), bytes.into());
        }
    }
    files
}

/// Reads two versions of a package from its registry. A missing package is a failure, unless
/// `TESTS_WITHOUT_REGISTRIES` says that the registries cannot be reached.
fn real_trees(test: &str, package: &str) -> Option<[Files; 2]> {
    let directories = ["old", "new"].map(|edition| -> PathBuf {
        let name = format!("{package}-{edition}");
        [env!("CARGO_MANIFEST_DIR"), "packs/node_modules", &name]
            .iter()
            .collect()
    });
    if !directories.iter().all(|directory| directory.exists()) {
        let excused = std::env::var_os("TESTS_WITHOUT_REGISTRIES").is_some();
        assert!(
            excused,
            "no {directories:?}: tests/packs/install brings them"
        );
        skip(test, "TESTS_WITHOUT_REGISTRIES is set");
        return None;
    }
    Some(directories.map(|directory| read_tree(&directory)))
}

/// Builds a path longer than any old header holds, each segment as long as file systems allow.
fn long_path(segments: usize, last: &str) -> String {
    let mut path = format!("{}/", "d".repeat(255)).repeat(segments);
    path.push_str(&last.repeat(255 / last.len()));
    path
}

/// Builds two trees with everything that the formats treat differently: names of every length and
/// script, empty and large files, compressible and incompressible ones, duplicates.
fn awkward_trees() -> [Files; 2] {
    let noise = |seed, size| Content::new(seed, size).bytes();
    let mut old = Files::default();
    let mut add = |path: String, bytes: Bytes| {
        old.0.insert(path, bytes);
    };
    for length in [1, 98, 99, 100, 101, 154, 155, 156, 254, 255] {
        add("n".repeat(length), noise(length as u64, 10));
    }
    // ustar splits a path of up to 256 bytes at a slash.
    for (prefix, name) in [(155, 100), (155, 101), (156, 99), (100, 100), (50, 150)] {
        let path = format!("{}/{}", "p".repeat(prefix), "s".repeat(name));
        add(path, noise((prefix * 1000 + name) as u64, 600));
    }
    add(long_path(2, "z"), noise(3, 1));
    add(long_path(2, "日"), noise(4, 511));
    add("umlaut/Grüße – 日本.txt".to_owned(), noise(5, 512));
    add("quoted/\"it's\" $(so) *?.txt".to_owned(), noise(6, 513));
    add("-leading".to_owned(), noise(7, 1024));
    add("empty".to_owned(), Bytes::new());
    add("twin/a".to_owned(), noise(8, 70_000));
    add("twin/b".to_owned(), noise(8, 70_000));
    add(
        "text".to_owned(),
        "all work and no play ".repeat(90_000).into(),
    );
    add("noise".to_owned(), noise(9, 1_300_000));
    for number in 0..300 {
        let line = format!("<{number}>").repeat(number * 7);
        add(format!("small/{:02}/{number}", number % 11), line.into());
    }

    let mut new = old.clone();
    for number in (0..300).step_by(3) {
        let path = format!("small/{:02}/{number}", number % 11);
        new.0.insert(path, format!("[{number}]").repeat(40).into());
    }
    let moved = new.0.remove("umlaut/Grüße – 日本.txt").unwrap();
    new.0.insert("umlaut/verschoben".to_owned(), moved);
    new.0.remove("empty");
    new.0.insert(long_path(1, "y"), noise(10, 100_000));
    new.0.insert("noise".to_owned(), noise(11, 1_200_000));
    new.0.insert("twin/c".to_owned(), noise(12, 33_000));
    new.0.insert("twin/d".to_owned(), noise(12, 33_000));
    [old, new]
}

/// Starts a server with both trees as versions 1 and 2 of `pack`.
async fn serving(trees: &[Files; 2]) -> TestServer {
    let server = TestServer::start().await;
    for (number, tree) in (1..).zip(trees) {
        // As one tar, because real trees have files that a client's zip marks as executable.
        let upload = Request::post("/packs/pack/versions").body(tree.tar());
        let version = server.request(upload).await.expect(201).json();
        assert_eq!(version["version"], number);
    }
    server
}

/// Expected contents of an archive.
enum Has<'a> {
    /// All files.
    All,
    /// Each content that is not among these, exactly once.
    Lacking(&'a Files),
}

/// Checks that `found` holds the files expected in the archive of `tree`.
#[track_caller]
fn check_files(found: &Files, tree: &Files, has: &Has<'_>, what: &str) {
    let held = match has {
        Has::All => {
            assert!(
                found == tree,
                "{what} must hold exactly the published files"
            );
            return;
        }
        Has::Lacking(held) => digests(held),
    };
    for (path, bytes) in &found.0 {
        assert!(tree.0.get(path) == Some(bytes), "{what}: {path} is wrong");
    }
    let needed: BTreeSet<String> = digests(tree).difference(&held).cloned().collect();
    assert_eq!(digests(found), needed, "{what}");
    assert_eq!(found.0.len(), needed.len(), "{what} has a content twice");
}

fn digests(files: &Files) -> BTreeSet<String> {
    files.0.values().map(|bytes| sha256(bytes)).collect()
}

/// Opens an archive with every program that supports its format.
async fn open_everywhere(archive: &Bytes, extension: &str, tree: &Files, has: Has<'_>) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("archive");
    std::fs::write(&file, archive).unwrap();
    let file = file.to_str().unwrap();
    let programs: &[&str] = match extension {
        "zip" => {
            run("unzip", &["-tqq", file]).await;
            &["unzip", "python zip", "bsdtar"]
        }
        _ => &["tar", "python tar", "bsdtar"],
    };
    for program in programs {
        let target = directory.path().join(program);
        std::fs::create_dir(&target).unwrap();
        let into = target.to_str().unwrap();
        match *program {
            "unzip" => run("unzip", &["-qq", file, "-d", into]).await,
            "python zip" => run("python3", &["-c", PYTHON_ZIP, file, into]).await,
            "python tar" => run("python3", &["-c", PYTHON_TAR, file, into]).await,
            other => run(other, &["-xf", file, "-C", into]).await,
        };
        let mut found = read_tree(&target);
        let document = found.0.remove(DOCUMENT);
        let document: Value = serde_json::from_slice(&document.unwrap()).unwrap();
        assert!(document["ops"].is_array(), "{document}");
        check_files(&found, tree, &has, program);
    }
}

/// Checks that every kind of archive of the second tree opens without errors and holds the right
/// bytes.
async fn archives_open_clean(trees: &[Files; 2]) {
    let server = serving(trees).await;
    let [old, new] = trees;
    // A client that holds every third file of the old version.
    let mut held = old.clone();
    let mut number = 0;
    held.0.retain(|_, _| {
        number += 1;
        number % 3 == 0
    });
    let ask = Request::post("/packs/pack/versions/2/diff").body(held.document().to_string());
    let need = server.request(ask).await.expect(201).json();
    for extension in ["zip", "tar"] {
        let bytes = |target: String| {
            let server = &server;
            async move { server.bytes(&target).await }
        };
        let whole = bytes(format!("/packs/pack/versions/2/archive.{extension}")).await;
        open_everywhere(&whole, extension, new, Has::All).await;
        let since = bytes(format!("/packs/pack/versions/2/since/1.{extension}")).await;
        open_everywhere(&since, extension, new, Has::Lacking(old)).await;
        let part = bytes(text(&need["archives"][extension]["url"]).to_owned()).await;
        open_everywhere(&part, extension, new, Has::Lacking(&held)).await;
    }
}

#[tokio::test]
async fn archives_of_a_real_tree_open_clean_everywhere() {
    let test = "archives_of_a_real_tree_open_clean_everywhere";
    if let Some(trees) = real_trees(test, "three") {
        archives_open_clean(&trees).await;
    }
}

#[tokio::test]
async fn archives_of_awkward_files_open_clean_everywhere() {
    archives_open_clean(&awkward_trees()).await;
}

#[tokio::test]
async fn what_can_be_executed_can_be_executed_where_it_is_unpacked() {
    use std::os::unix::fs::PermissionsExt as _;

    let server = TestServer::start().await;
    let files = Files::new([("plain", &b"text"[..]), ("program", &b"#!/bin/sh\n"[..])]);
    let mut document = files.document();
    document["files"][1]["executable"] = json!(true);
    let draft = server.draft("pack", &document).await;
    let content = Request::post(text(&draft["content_url"])).body(files.zip());
    server.request(content).await.expect(200);
    let publish = Request::post(text(&draft["publish_url"]));
    server.request(publish).await.expect(201);
    let directory = tempfile::tempdir().unwrap();
    for (extension, program) in [
        ("zip", "unzip"),
        ("zip", "bsdtar"),
        ("tar", "tar"),
        ("tar", "bsdtar"),
    ] {
        let target = directory.path().join(format!("{program} {extension}"));
        std::fs::create_dir(&target).unwrap();
        let file = directory.path().join("archive");
        let url = format!("/packs/pack/versions/1/archive.{extension}");
        std::fs::write(&file, server.bytes(&url).await).unwrap();
        let (file, into) = (file.to_str().unwrap(), target.to_str().unwrap());
        match program {
            "unzip" => run("unzip", &["-qq", file, "-d", into]).await,
            _ => run(program, &["-xf", file, "-C", into]).await,
        };
        for (path, executable) in [("plain", false), ("program", true)] {
            let mode = std::fs::metadata(target.join(path)).unwrap().permissions();
            assert_eq!(mode.mode() & 0o100 != 0, executable, "{program}: {path}");
        }
    }
}

/// An archive, downloaded in one piece.
struct Whole {
    target: String,
    etag: String,
    bytes: Bytes,
}

impl Whole {
    async fn download(server: &TestServer, target: String) -> Self {
        let whole = server.request(Request::get(&target)).await.expect(200);
        Self {
            etag: whole.field("etag").to_owned(),
            bytes: whole.body,
            target,
        }
    }

    /// Chooses a range with any start and of any order of magnitude; sometimes a suffix, or an open
    /// end.
    fn throw(&self, dice: &mut Dice) -> (String, Bytes) {
        let size = self.bytes.len() as u64;
        let at = |offset| usize::try_from(offset).unwrap();
        let cut = |from, to| self.bytes.slice(at(from)..at(to));
        let magnitude = dice.within(0..17);
        let length = 1 + dice.within(0..1 << magnitude);
        match dice.within(0..100) {
            0 => {
                let start = dice.within(0..size);
                (format!("bytes={start}-"), cut(start, size))
            }
            1..5 => {
                let length = length.min(size);
                (format!("bytes=-{length}"), cut(size - length, size))
            }
            _ => {
                let start = dice.within(0..size);
                let end = (start + length).min(size);
                (format!("bytes={start}-{}", end - 1), cut(start, end))
            }
        }
    }

    /// Requests `count` ranges one after another on one connection.
    async fn check_ranges(&self, client: &mut Client, dice: &mut Dice, count: usize) {
        for _ in 0..count {
            let (range, expected) = self.throw(dice);
            let request = Request::get(&self.target)
                .field("Range", &range)
                .field("If-Range", &self.etag);
            let part = client.exchange(&request).await.unwrap().expect(206);
            assert_eq!(part.field("etag"), self.etag);
            assert!(part.body == expected, "{} {range} differs", self.target);
        }
    }
}

/// Checks 5,000 ranges of archives, half of them after a crash.
async fn ranges_are_slices(trees: &[Files; 2], seed: u64) {
    const HALF: usize = 2500;
    let mut server = serving(trees).await;
    let mut wholes = Vec::new();
    for name in ["archive.zip", "archive.tar", "since/1.zip", "since/1.tar"] {
        let target = format!("/packs/pack/versions/2/{name}");
        wholes.push(Whole::download(&server, target).await);
    }
    let mut dice = Dice::new(seed);
    for crash in [false, true] {
        if crash {
            server.kill().await;
            server.restart().await;
        }
        for (number, whole) in wholes.iter().enumerate() {
            let version = Version::ALL[number % 2];
            let mut client = server.client(version).await;
            let count = HALF / wholes.len();
            whole.check_ranges(&mut client, &mut dice, count).await;
        }
    }
}

#[tokio::test]
async fn ranges_of_real_archives_are_slices_of_the_whole() {
    let test = "ranges_of_real_archives_are_slices_of_the_whole";
    if let Some(trees) = real_trees(test, "three") {
        ranges_are_slices(&trees, 50).await;
    }
}

#[tokio::test]
async fn ranges_of_awkward_archives_are_slices_of_the_whole() {
    ranges_are_slices(&awkward_trees(), 51).await;
}
