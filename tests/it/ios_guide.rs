//! The steps of `server/IOS.md`, exactly as written there: its Swift is compiled and run, and so
//! are the same steps in Python.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tempfile::TempDir;
use tests::pack::{Files, sha256, text};
use tests::{Content, Request, TestServer, skip, within};
use tokio::process::Command;

const GUIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/guide");
/// Longest time to compile. Compiling takes ten seconds on an idle machine.
const COMPILING: Duration = Duration::from_secs(300);
const RUNNING: Duration = Duration::from_secs(60);

/// A tree of files, and which of them are executable.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tree {
    files: Files,
    executable: BTreeSet<String>,
}

fn tree<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Tree {
    Tree {
        files: Files::new(files),
        executable: BTreeSet::new(),
    }
}

impl Tree {
    fn with(mut self, path: &str, bytes: impl Into<Bytes>) -> Self {
        self.files.0.insert(path.to_owned(), bytes.into());
        self
    }

    fn without(mut self, path: &str) -> Self {
        self.files.0.remove(path).unwrap();
        self
    }

    fn executable(mut self, path: &str) -> Self {
        self.executable.insert(path.to_owned());
        self
    }

    async fn publish(&self, server: &TestServer, pack: &str) {
        let files = self.files.0.iter().map(|(path, bytes)| {
            let executable = self.executable.contains(path);
            let sha256 = sha256(bytes);
            match executable {
                true => {
                    json!({"executable": true, "path": path, "sha256": sha256, "size": bytes.len()})
                }
                false => json!({"path": path, "sha256": sha256, "size": bytes.len()}),
            }
        });
        let document = json!({"files": files.collect::<Vec<_>>()});
        let draft = server.draft(pack, &document).await;
        let missing: Vec<String> =
            serde_json::from_value(draft["missing"]["sha256"].clone()).unwrap();
        if !missing.is_empty() {
            let content = self.files.with_digests(&missing).zip();
            let content = Request::post(text(&draft["content_url"])).body(content);
            server.request(content).await.expect(200);
        }
        let publish = Request::post(text(&draft["publish_url"]));
        server.request(publish).await.expect(201);
    }

    /// Reads the installed files, without the record that the guide keeps.
    fn installed(directory: &Path) -> Self {
        let mut found = tree([]);
        let mut open = vec![directory.to_owned()];
        while let Some(at) = open.pop() {
            for entry in fs::read_dir(at).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(directory).unwrap();
                if name.starts_with(".longhaul") {
                    continue;
                }
                if path.is_dir() {
                    open.push(path);
                    continue;
                }
                let name = name.to_str().unwrap();
                if path.metadata().unwrap().permissions().mode() & 0o100 != 0 {
                    found = found.executable(name);
                }
                found = found.with(name, fs::read(&path).unwrap());
            }
        }
        found
    }
}

/// Two versions that differ in one way, and the number of archives that an update may take.
struct Case {
    name: &'static str,
    old: Tree,
    new: Tree,
    archives: u32,
}

/// Returns a case for every kind of difference.
fn cases() -> Vec<Case> {
    let base = || {
        tree([
            ("a.txt", b"a".as_slice()),
            ("b/c.txt", b"c"),
            ("b/d.txt", b"d"),
        ])
    };
    let large = Content::new(7, 3_000_000).bytes();
    let compressible = vec![b'x'; 3_000_000];
    let case = |name, new, archives| Case {
        name,
        old: base(),
        new,
        archives,
    };
    vec![
        case("adds", base().with("new.txt", "new"), 1),
        case("changes", base().with("b/c.txt", "other"), 1),
        case("removes", base().without("b/c.txt"), 0),
        case(
            "renames",
            base().without("a.txt").with("renamed.txt", "a"),
            0,
        ),
        case("copies", base().with("again.txt", "a"), 0),
        case(
            "exchanges",
            base().with("a.txt", "c").with("b/c.txt", "a"),
            0,
        ),
        case(
            "adds-equal-files",
            base()
                .with("m1/__init__.py", "")
                .with("m2/__init__.py", "")
                .with("m3/x", "equal")
                .with("m4/x", "equal"),
            1,
        ),
        case("permits", base().executable("a.txt"), 0),
        case("permits-new", base().with("run", "!").executable("run"), 1),
        case(
            "file-to-directory",
            base().without("a.txt").with("a.txt/inside", "in"),
            1,
        ),
        case(
            "directory-to-file",
            base()
                .without("b/c.txt")
                .without("b/d.txt")
                .with("b", "file"),
            1,
        ),
        case(
            "moves-directory",
            base()
                .without("b/c.txt")
                .without("b/d.txt")
                .with("z/c.txt", "c")
                .with("z/d.txt", "d"),
            0,
        ),
        case(
            "names",
            base()
                .with("Größe & mehr/日本 100%#?.txt", "n")
                .with(".well-known/x", "dot"),
            1,
        ),
        case(
            "large",
            base()
                .with("noise", large)
                .with("zeros", compressible)
                .with("empty", ""),
            1,
        ),
        case("nothing-left", tree([("only", b"o".as_slice())]), 1),
        case("same", base(), 0),
    ]
}

/// A program that follows the guide.
struct Program {
    command: Vec<String>,
}

impl Program {
    async fn run(&self, arguments: &[&str]) -> BTreeMap<String, u32> {
        let output = run(
            RUNNING,
            Command::new(&self.command[0])
                .args(&self.command[1..])
                .args(arguments),
        )
        .await;
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success(),
            "{:?} {arguments:?}: {told}{}",
            self.command,
            String::from_utf8_lossy(&output.stderr)
        );
        let lines = told.lines().map(|line| line.split_once(' ').unwrap());
        lines
            .map(|(pack, archives)| (pack.to_owned(), archives.parse().unwrap()))
            .collect()
    }
}

async fn run(limit: Duration, command: &mut Command) -> Output {
    within(
        limit,
        "the guide's program ends",
        command.kill_on_drop(true).output(),
    )
    .await
    .unwrap()
}

/// Installs, updates and repairs every case with `program`.
async fn follow(program: &Program) {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key.pem");
    let made = std::process::Command::new("openssl")
        .args(["genpkey", "-algorithm", "ed25519", "-out"])
        .arg(&key)
        .output()
        .unwrap();
    assert!(made.status.success());
    let setting = format!("[packs]\nsigning_key = {:?}", key.display().to_string());
    let server = TestServer::setup().config(&setting).start().await;
    let cases = cases();
    for case in &cases {
        case.old.publish(&server, case.name).await;
    }
    let devices = directory.path().join("devices");
    let (url, at) = (server.url(""), devices.display().to_string());
    let names: Vec<&str> = cases.iter().map(|case| case.name).collect();
    let installed = |case: &Case| Tree::installed(&devices.join(case.name).join("current"));

    let first = program
        .run(&[&[&*url, &at], names.as_slice()].concat())
        .await;
    for case in &cases {
        assert_eq!(first[case.name], 1, "{}", case.name);
        assert_eq!(installed(case), case.old, "{}", case.name);
    }

    for case in &cases {
        case.new.publish(&server, case.name).await;
    }
    let second = program
        .run(&[&[&*url, &at], names.as_slice()].concat())
        .await;
    for case in &cases {
        assert_eq!(second[case.name], case.archives, "{}", case.name);
        assert_eq!(installed(case), case.new, "{}", case.name);
    }

    // Damaged in every way possible for a disk or a user.
    let adds = &cases[0];
    let current = devices.join(adds.name).join("current");
    fs::write(current.join("a.txt"), "damaged").unwrap();
    fs::remove_file(current.join("b/c.txt")).unwrap();
    fs::write(current.join("b/d.txt"), "").unwrap();
    let healed = program.run(&[&url, &at, "--verify", adds.name]).await;
    assert_eq!(healed[adds.name], 1);
    assert_eq!(installed(adds), adds.new);

    // Damaged and out of date: a second archive brings the contents that are still missing.
    fs::write(current.join("a.txt"), "damaged").unwrap();
    let newer = adds.new.clone().with("newer.txt", "newer");
    newer.publish(&server, adds.name).await;
    let both = program.run(&[&url, &at, adds.name]).await;
    assert_eq!(both[adds.name], 2);
    assert_eq!(installed(adds), newer);

    // The installed version was retired.
    let changes = &cases[1];
    let newest = changes.new.clone().with("a.txt", "newest");
    newest.publish(&server, changes.name).await;
    for version in [1, 2] {
        let retire = format!("/packs/{}/versions/{version}", changes.name);
        server.request(Request::delete(retire)).await.expect(204);
    }
    let anew = program.run(&[&url, &at, changes.name]).await;
    assert_eq!(anew[changes.name], 1);
    assert_eq!(installed(changes), newest);

    // A pack that does not exist yields no tree.
    let nothing = run(
        RUNNING,
        Command::new(&program.command[0])
            .args(&program.command[1..])
            .args([&url, &at, "no-such-pack"]),
    )
    .await;
    assert!(!nothing.status.success());
    assert!(!devices.join("no-such-pack/current").exists());
}

#[tokio::test]
async fn the_steps_of_the_guide_make_every_new_tree() {
    let steps = format!("{GUIDE}/steps.py");
    follow(&Program {
        command: vec!["python3".to_owned(), steps],
    })
    .await;
}

/// Compiles the Swift of the guide; `None` without a Swift compiler.
async fn compiled(directory: &TempDir) -> Option<PathBuf> {
    let arguments = [
        format!("{GUIDE}/build"),
        directory.path().display().to_string(),
    ];
    let output = run(
        COMPILING,
        Command::new(format!("{GUIDE}/in-swift")).args(arguments),
    )
    .await;
    if output.status.code() == Some(3) {
        return None;
    }
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(!told.contains("warning:"), "{told}");
    Some(directory.path().join("guide"))
}

#[tokio::test]
async fn the_swift_of_the_guide_makes_every_new_tree() {
    let directory = tempfile::tempdir().unwrap();
    let Some(guide) = compiled(&directory).await else {
        skip(
            "the_swift_of_the_guide_makes_every_new_tree",
            "there is no Swift; tests/guide/install says what it takes",
        );
        return;
    };
    follow(&Program {
        command: vec![format!("{GUIDE}/in-swift"), guide.display().to_string()],
    })
    .await;
}
