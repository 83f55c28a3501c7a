//! Archives as the tools of this world see them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use archive::{ArchiveFormat, Plan, Sha256Digest};
use tempfile::TempDir;

use crate::naive;
use crate::support::{Version, varied, varied_before};

/// Returns true if a tool is installed; otherwise prints that the test is skipped.
pub(crate) fn has_tool(name: &str) -> bool {
    let found = Command::new(name)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .is_ok();
    if !found {
        #[expect(
            clippy::print_stderr,
            reason = "the person who runs the tests should know"
        )]
        {
            eprintln!("SKIPPED: there is no `{name}` here");
        }
    }
    found
}

/// Runs a command to its end and gives its standard output.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {errors}\n{}",
        String::from_utf8_lossy(&output.stdout)
    );
    assert_eq!(errors, "", "{command:?} complained");
    String::from_utf8(output.stdout).unwrap()
}

/// Writes the archive of a plan into a directory.
fn write(directory: &TempDir, format: ArchiveFormat, version: &Version, plan: Plan) -> String {
    let path = directory
        .path()
        .join(format!("archive.{}", format.extension()));
    fs::write(&path, version.archive(format, plan)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Expected contents of an archive: path to digest and mode.
fn expected(version: &Version, plan: &Plan) -> BTreeMap<String, (String, u32)> {
    let document = Sha256Digest::of(&naive::document(plan)).to_string();
    let mut files = BTreeMap::from([(".longhaul/diff.json".to_owned(), (document, 0o644))]);
    files.extend(plan.need().positions().map(|position| {
        let (path, content, executable) = &version.files[position as usize];
        let mode = if *executable { 0o755 } else { 0o644 };
        (path.clone(), (Sha256Digest::of(content).to_string(), mode))
    }));
    files
}

/// Contents of a directory, likewise.
fn found(root: &Path) -> BTreeMap<String, (String, u32)> {
    fn walk(root: &Path, at: &Path, files: &mut BTreeMap<String, (String, u32)>) {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, files);
            } else {
                let name = path
                    .strip_prefix(root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
                files.insert(
                    name,
                    (
                        Sha256Digest::of(&fs::read(&path).unwrap()).to_string(),
                        mode,
                    ),
                );
            }
        }
    }
    let mut files = BTreeMap::new();
    walk(root, root, &mut files);
    files
}

/// Extracts a whole archive and a diff with a tool and compares what came out.
fn check_extraction(tool: &str, format: ArchiveFormat, extract: impl Fn(&mut Command, &str, &str)) {
    if !has_tool(tool) {
        return;
    }
    let version = varied();
    for plan in [version.whole(), version.since(&varied_before())] {
        let directory = TempDir::new().unwrap();
        let archive = write(&directory, format, &version, plan.clone());
        let out = directory.path().join("out");
        fs::create_dir(&out).unwrap();
        let mut command = Command::new(tool);
        extract(&mut command, &archive, out.to_str().unwrap());
        run(&mut command);
        assert_eq!(found(&out), expected(&version, &plan), "{command:?}");
    }
}

#[test]
fn unzip_extracts() {
    check_extraction("unzip", ArchiveFormat::Zip, |command, archive, out| {
        command.args(["-q", archive, "-d", out]);
    });
}

#[test]
fn gnu_tar_extracts() {
    check_extraction("tar", ArchiveFormat::Tar, |command, archive, out| {
        command.args(["--warning=all", "-xpf", archive, "-C", out]);
    });
}

#[test]
fn bsdtar_extracts_both() {
    for format in [ArchiveFormat::Zip, ArchiveFormat::Tar] {
        check_extraction("bsdtar", format, |command, archive, out| {
            command.args(["-xpf", archive, "-C", out]);
        });
    }
}

#[test]
fn unzip_finds_no_fault() {
    if !has_tool("unzip") {
        return;
    }
    let directory = TempDir::new().unwrap();
    let version = varied();
    let archive = write(&directory, ArchiveFormat::Zip, &version, version.whole());
    let report = run(Command::new("unzip").args(["-t", &archive]));
    assert!(
        report.contains("No errors detected in compressed data"),
        "{report}"
    );
}

#[test]
fn python_reads_both() {
    const SCRIPT: &str = "
import hashlib, json, sys, tarfile, zipfile
path = sys.argv[1]
if path.endswith('.zip'):
    archive = zipfile.ZipFile(path)
    assert archive.testzip() is None
    files = {i.filename: (archive.read(i), i.external_attr >> 16 & 0o777) for i in archive.infolist()}
    assert len(files) == len(archive.infolist())
    assert not archive.comment
    assert all(i.date_time == (1980, 1, 1, 0, 0, 0) and not i.extra for i in archive.infolist())
    assert archive.namelist()[0] == '.longhaul/diff.json'
else:
    archive = tarfile.open(path, 'r:')
    files = {m.name: (archive.extractfile(m).read(), m.mode) for m in archive if m.isreg()}
    assert len(files) == len(archive.getmembers())
    assert all((m.mtime, m.uid, m.gid, m.uname, m.gname) == (0, 0, 0, '', '') for m in archive.getmembers())
    assert archive.getnames()[0] == '.longhaul/diff.json'
print(json.dumps({name: [hashlib.sha256(content).hexdigest(), mode] for name, (content, mode) in files.items()}))
";
    if !has_tool("python3") {
        return;
    }
    let version = varied();
    for format in [ArchiveFormat::Zip, ArchiveFormat::Tar] {
        for plan in [version.whole(), version.since(&varied_before())] {
            let directory = TempDir::new().unwrap();
            let archive = write(&directory, format, &version, plan.clone());
            let report = run(Command::new("python3").args(["-c", SCRIPT, &archive]));
            let files: BTreeMap<String, (String, u32)> = serde_json::from_str(&report).unwrap();
            assert_eq!(files, expected(&version, &plan), "{format:?}");
        }
    }
}

#[test]
fn more_entries_than_a_short_count_holds() {
    if !has_tool("unzip") {
        return;
    }
    // With the document, 65,534, 65,535 and 65,536 entries: the last that needs no zip64, and those
    // that do.
    for (count, has_zip64) in [(65_533, false), (65_534, true), (65_535, true)] {
        let files = (0..count)
            .map(|number| (format!("{number:05}"), Vec::new(), false))
            .collect();
        let version = Version::publish(1, files);
        let directory = TempDir::new().unwrap();
        let archive = write(&directory, ArchiveFormat::Zip, &version, version.whole());
        let tail = &fs::read(&archive).unwrap()[..];
        assert_eq!(
            tail[tail.len() - 22 - 20..].starts_with(b"PK\x06\x07"),
            has_zip64
        );
        let report = run(Command::new("unzip").args(["-tqq", &archive]));
        assert_eq!(report, "");
        let listing = run(Command::new("unzip").args(["-Z1", &archive]));
        assert_eq!(listing.lines().count(), count + 1);
    }
}
