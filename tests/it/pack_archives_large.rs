//! Archives beyond the limits of the original zip and tar formats.
//!
//! Tests that take minutes or gigabytes of disk are ignored by default: `cargo test --release -p
//! tests --test it pack_archives_large -- --ignored --nocapture --test-threads 1`.

use std::io::Write as _;
use std::path::Path;

use serde_json::json;
use tests::pack::{sha256, text};
use tests::{Content, Request, TestServer};
use tokio::process::Command;
use tokio::time::Instant;

use crate::pack_archives::run;

/// Number of entries that exceeds a plain zip, whose fields hold less than 65,535.
const MANY: usize = 70_000;
const MEBIBYTE: u64 = 1 << 20;

/// Python script that reads a remote file as a seekable one, for modules of Python that need it,
/// and counts entries.
const PYTHON_REMOTE: &str = "
import io, sys, urllib.request
class Remote(io.RawIOBase):
    def __init__(self, url):
        self.url, self.at = url, 0
        head = urllib.request.Request(url, method='HEAD')
        self.size = int(urllib.request.urlopen(head).headers['Content-Length'])
    def seekable(self): return True
    def readable(self): return True
    def tell(self): return self.at
    def seek(self, offset, whence=0):
        self.at = offset + [0, self.at, self.size][whence]
        return self.at
    def readinto(self, buffer):
        end = min(self.at + len(buffer), self.size)
        if end <= self.at: return 0
        field = {'Range': f'bytes={self.at}-{end - 1}'}
        answer = urllib.request.urlopen(urllib.request.Request(self.url, headers=field))
        assert answer.status == 206
        bytes = answer.read()
        buffer[:len(bytes)] = bytes
        self.at += len(bytes)
        return len(bytes)
";

const PYTHON_COUNT: &str = "
import sys, zipfile
archive = zipfile.ZipFile(sys.argv[1])
damaged = archive.testzip()
assert damaged is None, damaged
print(len(archive.infolist()))
";

/// Returns the path of a file among many; one in a thousand is as long as file systems allow.
fn path(number: usize) -> String {
    let name = format!("{:03}/{number:07}", number % 500);
    match number % 1000 {
        7 => format!("{:03}/{number:0255}", number % 500),
        _ => name,
    }
}

/// Writes a tar of `count` small files, all different.
fn write_many(count: usize, to: &Path) {
    let file = std::fs::File::create(to).unwrap();
    let mut tar = tar::Builder::new(std::io::BufWriter::new(file));
    for number in 0..count {
        let content = format!("file {number}\n");
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path(number), content.as_bytes())
            .unwrap();
    }
    tar.into_inner().unwrap().flush().unwrap();
}

/// Runs curl, which does not buffer bodies. Prints the duration and the memory of the server
/// afterwards.
async fn curl(server: &TestServer, arguments: &[&str], target: &str) {
    let begin = Instant::now();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail-with-body"])
        .args(arguments)
        .arg(server.url(target))
        .kill_on_drop(true);
    let output = curl.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    report(server, &format!("{} {target}", arguments[0]), begin);
}

/// Prints duration and memory, visible with `--nocapture`.
#[expect(clippy::print_stderr, reason = "measured for people")]
fn report(server: &TestServer, what: &str, since: Instant) {
    let memory = server.resident().anonymous / MEBIBYTE;
    eprintln!("{what}: {:.1?}, {memory} MiB resident", since.elapsed());
}

/// Uploads a file as a complete tree.
async fn publish(server: &TestServer, file: &Path) {
    let file = file.to_str().unwrap();
    let arguments = ["--upload-file", file, "--request", "POST"];
    curl(server, &arguments, "/packs/pack/versions").await;
}

/// Downloads an archive of the first version to a file.
async fn download(server: &TestServer, name: &str, file: &Path) {
    let target = format!("/packs/pack/versions/1/{name}");
    curl(server, &["--output", file.to_str().unwrap()], &target).await;
}

/// Runs a pipe of programs in a shell, with `$0` as its only argument. Each program must succeed.
/// Returns the output.
async fn pipe(script: &str, argument: &str) -> String {
    let output = Command::new("bash")
        .args(["-c", &format!("set -euo pipefail; {script}"), argument])
        .env("LC_ALL", "C.UTF-8")
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {errors}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Publishes `count` files and checks that their archives open without errors and hold all of them.
async fn many_files(count: usize) {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::start().await;
    let upload = directory.path().join("upload");
    write_many(count, &upload);
    publish(&server, &upload).await;
    std::fs::remove_file(&upload).unwrap();

    // The files and the document.
    let entries = (count + 1).to_string();
    let listed = |output: &std::process::Output| {
        let lines = output.stdout.iter().filter(|byte| **byte == b'\n');
        lines.count().to_string()
    };
    let file = directory.path().join("archive");
    let archive = file.to_str().unwrap();
    download(&server, "archive.zip", &file).await;
    run("unzip", &["-tqq", archive]).await;
    let counted = run("python3", &["-c", PYTHON_COUNT, archive]).await;
    assert_eq!(String::from_utf8(counted.stdout).unwrap().trim(), entries);
    assert_eq!(listed(&run("bsdtar", &["-tf", archive]).await), entries);
    let number = count / 1000 * 1000 - 993;
    for number in [0, number, count - 1] {
        let content = run("unzip", &["-p", archive, &path(number)]).await;
        let expected = format!("file {number}\n");
        assert_eq!(content.stdout, expected.as_bytes());
    }

    download(&server, "archive.tar", &file).await;
    assert_eq!(listed(&run("tar", &["-tf", archive]).await), entries);
    assert_eq!(listed(&run("bsdtar", &["-tf", archive]).await), entries);
    let number = count / 1000 * 1000 - 993;
    let content = run("tar", &["-xOf", archive, &path(number)]).await;
    assert_eq!(content.stdout, format!("file {number}\n").as_bytes());
}

#[tokio::test]
async fn a_zip_has_more_entries_than_a_plain_one_can() {
    many_files(MANY).await;
}

#[tokio::test]
#[ignore = "takes minutes without optimisation: a million files"]
async fn a_million_files_are_one_archive() {
    many_files(1_000_000).await;
}

/// The archive exceeds 4 GiB by repeating the same 60 MiB, which are stored once.
#[tokio::test]
async fn an_archive_of_more_than_4_gib_is_read_anywhere() {
    // The limit falls within the 69th copy.
    const COPIES: u64 = 70;
    let server = TestServer::start().await;
    let block = Content::new(60, 60 * MEBIBYTE).bytes();
    let digest = sha256(&block);
    let last = Content::new(61, 100_000).bytes();
    let mut files: Vec<_> = (0..COPIES)
        .map(
            |number| json!({"path": format!("{number:02}"), "size": block.len(), "sha256": digest}),
        )
        .collect();
    files.push(json!({"path": "last", "size": last.len(), "sha256": sha256(&last)}));
    let draft = server.draft("pack", &json!({ "files": files })).await;
    assert_eq!(draft["missing"]["contents"], 2);
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in [("00", &block), ("last", &last)] {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, &**bytes).unwrap();
    }
    let content = Request::post(text(&draft["content_url"])).body(tar.into_inner().unwrap());
    server.request(content).await.expect(200);
    let publish = Request::post(text(&draft["publish_url"]));
    server.request(publish).await.expect(201);

    for (extension, open) in [
        (
            "zip",
            "
import zipfile
archive = zipfile.ZipFile(io.BufferedReader(Remote(sys.argv[1]), 1 << 17))
last = archive.getinfo('last')
assert last.header_offset > 1 << 32, last.header_offset
names, found = archive.namelist(), archive.read('last')
",
        ),
        (
            "tar",
            "
import tarfile
archive = tarfile.open(fileobj=io.BufferedReader(Remote(sys.argv[1]), 1 << 17), mode='r:')
last = archive.getmember('last')
assert last.offset > 1 << 32, last.offset
names, found = archive.getnames(), archive.extractfile(last).read()
",
        ),
    ] {
        let target = format!("/packs/pack/versions/1/archive.{extension}");
        let head = server.request(Request::head(&target)).await.expect(200);
        let size: u64 = head.field("content-length").parse().unwrap();
        assert!(size > 1 << 32);
        let script = format!(
            "{PYTHON_REMOTE}{open}
import hashlib
print(len(names), hashlib.sha256(found).hexdigest())"
        );
        let said = run("python3", &["-c", &script, &server.url(&target)]).await;
        let said = String::from_utf8(said.stdout).unwrap();
        assert_eq!(said.trim(), format!("{} {}", COPIES + 2, sha256(&last)));

        // A range across the limit, within one copy, has the same bytes as in another copy.
        let around = |middle: u64| {
            let range = format!("bytes={}-{}", middle - 50_000, middle + 49_999);
            Request::get(&target).field("Range", range)
        };
        let across = server.request(around(1 << 32)).await.expect(206);
        let found = position(&block, &across.body[..50]);
        assert_eq!(across.body, block.slice(found..found + 100_000));
    }
}

/// Returns the position of `part` in `whole`.
fn position(whole: &[u8], part: &[u8]) -> usize {
    whole
        .windows(part.len())
        .position(|window| window == part)
        .expect("the part is in it")
}

/// Reads all of an archive of more than 4 GiB with every program.
#[tokio::test]
#[ignore = "needs 5 GB of disk and a minute"]
async fn an_archive_of_more_than_4_gib_opens_clean_everywhere() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::start().await;
    let block = Content::new(62, 64 * MEBIBYTE).bytes();
    let digest = sha256(&block);
    let files: Vec<_> = (0..66)
        .map(
            |number| json!({"path": format!("{number:02}"), "size": block.len(), "sha256": digest}),
        )
        .collect();
    let draft = server.draft("pack", &json!({ "files": files })).await;
    let content = tests::pack::Files::new([("00", &block[..])]);
    let content = Request::post(text(&draft["content_url"])).body(content.tar());
    server.request(content).await.expect(200);
    let publish = Request::post(text(&draft["publish_url"]));
    server.request(publish).await.expect(201);

    let file = directory.path().join("archive");
    let archive = file.to_str().unwrap();
    download(&server, "archive.zip", &file).await;
    run("unzip", &["-tqq", archive]).await;
    let counted = run("python3", &["-c", PYTHON_COUNT, archive]).await;
    assert_eq!(counted.stdout, b"67\n");
    let sum = pipe("bsdtar -xOf \"$0\" 65 | sha256sum | cut -c-64", archive).await;
    assert_eq!(sum, digest);

    let url = server.url("/packs/pack/versions/1/archive.tar");
    for program in ["tar", "bsdtar"] {
        let script = format!("curl -sSf \"$0\" | {program} -xOf - 65 | sha256sum | cut -c-64");
        assert_eq!(pipe(&script, &url).await, digest, "{program}");
    }
}

/// A size that exceeds the field of a plain zip.
const HUGE: u64 = 4300 * MEBIBYTE;

/// The only file of the tree is zeros: a zip deflates it to some megabytes, a tar stores it as it
/// is.
#[tokio::test]
#[ignore = "needs 5 GB of disk and minutes"]
async fn an_entry_of_more_than_4_gib_is_deflated() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::setup()
        .config("[packs]\nmax_ratio = 2000")
        .start()
        .await;
    let upload = directory.path().join("upload");
    let script = format!(
        "head -c {HUGE} /dev/zero | python3 -c \"
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED) as archive:
    with archive.open('zeros', 'w', force_zip64=True) as entry:
        shutil.copyfileobj(sys.stdin.buffer, entry, 1 << 20)
\" \"$0\""
    );
    pipe(&script, upload.to_str().unwrap()).await;
    publish(&server, &upload).await;

    let zeros = format!("head -c {HUGE} /dev/zero | sha256sum | cut -c-64");
    let digest = pipe(&zeros, "").await;
    let file = directory.path().join("archive");
    let archive = file.to_str().unwrap();
    download(&server, "archive.zip", &file).await;
    assert!(file.metadata().unwrap().len() < 64 * MEBIBYTE);
    run("unzip", &["-tqq", archive]).await;
    let counted = run("python3", &["-c", PYTHON_COUNT, archive]).await;
    assert_eq!(counted.stdout, b"2\n");
    let sum = pipe("bsdtar -xOf \"$0\" zeros | sha256sum | cut -c-64", archive).await;
    assert_eq!(sum, digest);

    let begin = Instant::now();
    let url = server.url("/packs/pack/versions/1/archive.tar");
    for program in ["tar", "bsdtar"] {
        let script = format!("curl -sSf \"$0\" | {program} -xOf - zeros | sha256sum | cut -c-64");
        assert_eq!(pipe(&script, &url).await, digest, "{program}");
    }
    report(&server, "tar downloaded twice", begin);
}

/// The only file of the tree does not compress: both formats store it as it is.
#[tokio::test]
#[ignore = "needs 14 GB of disk and minutes"]
async fn an_entry_of_more_than_4_gib_is_stored() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::setup()
        .config("[cleanup]\ninterval = '1s'\ndelete_after = '0s'")
        .start()
        .await;
    let block = Content::new(63, MEBIBYTE).bytes();
    let upload = directory.path().join("upload");
    let mut header = tar::Header::new_ustar();
    header.set_size(HUGE);
    header.set_mode(0o644);
    header.set_path("noise").unwrap();
    header.set_cksum();
    let mut tar = std::fs::File::create(&upload).unwrap();
    tar.write_all(header.as_bytes()).unwrap();
    // Deflate looks back 32 KiB and finds no match.
    for _ in 0..HUGE / MEBIBYTE {
        tar.write_all(&block).unwrap();
    }
    tar.write_all(&[0; 1024]).unwrap();
    drop(tar);
    let sum = "tail -c +513 \"$0\" | head -c -1024 | sha256sum | cut -c-64";
    let digest = pipe(sum, upload.to_str().unwrap()).await;
    publish(&server, &upload).await;
    std::fs::remove_file(&upload).unwrap();

    let url = server.url("/packs/pack/versions/1/archive.tar");
    for program in ["tar", "bsdtar"] {
        let script = format!("curl -sSf \"$0\" | {program} -xOf - noise | sha256sum | cut -c-64");
        assert_eq!(pipe(&script, &url).await, digest, "{program}");
    }
    let file = directory.path().join("archive");
    let archive = file.to_str().unwrap();
    download(&server, "archive.zip", &file).await;
    run("unzip", &["-tqq", archive]).await;
    let counted = run("python3", &["-c", PYTHON_COUNT, archive]).await;
    assert_eq!(counted.stdout, b"2\n");
    let sum = pipe("bsdtar -xOf \"$0\" noise | sha256sum | cut -c-64", archive).await;
    assert_eq!(sum, digest);
}
