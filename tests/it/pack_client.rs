//! `longhaul publish` and `longhaul pull`: both ends of the program, on a good network, on a bad
//! one, and offline.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::server::program;
use tests::{Content, Dice, Fault, Flow, PATIENCE, Proxy, Request, TestServer, skip, within};
use tokio::process::{Child, Command};

/// A machine with a working directory and a directory for the state of the program.
struct Machine {
    directory: TempDir,
}

/// Result of a run with `--json`.
#[derive(Debug)]
struct Run {
    code: Option<i32>,
    ending: Value,
    stderr: String,
}

impl Machine {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("work")).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("work").join(name)
    }

    fn start(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .args(["--json", "--retry-delay", "10ms"])
            .current_dir(self.path(""))
            .env("XDG_STATE_HOME", self.directory.path().join("state"))
            .env_remove("LONGHAUL_KEY")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command.spawn().unwrap()
    }

    async fn run(&self, arguments: &[&str]) -> Run {
        ended(self.start(arguments)).await
    }

    async fn publish(&self, directory: &str, server: &str, more: &[&str]) -> Run {
        let command = ["publish", directory, "--pack", "maps", "--server", server];
        self.run(&[&command, more].concat()).await
    }

    async fn pull(&self, server: &str, directory: &str, more: &[&str]) -> Run {
        let pack = format!("{server}/packs/maps");
        self.run(&[&["pull", &pack, directory], more].concat())
            .await
    }

    /// Returns the hidden entries of the working directory.
    fn hidden(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with('.')).collect()
    }

    /// Counts the records that a later run resumes from.
    fn records(&self) -> usize {
        fs::read_dir(self.directory.path().join("state/longhaul/packs")).map_or(0, Iterator::count)
    }
}

async fn ended(child: Child) -> Run {
    let output = within(PATIENCE, "the program ends", child.wait_with_output())
        .await
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    Run {
        code: output.status.code(),
        ending: serde_json::from_str(&stdout).unwrap_or_default(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Run {
    #[track_caller]
    fn ended_as(&self, event: &str) -> &Value {
        assert_eq!(self.code, Some(0), "{self:#?}");
        assert_eq!(self.ending["event"], event, "{self:#?}");
        &self.ending
    }

    #[track_caller]
    fn failed_with(&self, code: i32, message: &str) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert_eq!(self.ending["event"], "error", "{self:#?}");
        let told = self.ending["message"].as_str().unwrap();
        assert!(told.contains(message), "{message:?} is not in {told}");
        assert!(
            self.stderr.contains(message),
            "{message:?} is not in {}",
            self.stderr
        );
    }

    fn number(&self, member: &str) -> u64 {
        self.ending[member].as_u64().unwrap()
    }
}

/// A tree on disk: contents by path, and whether each is executable.
type Files = BTreeMap<String, (Vec<u8>, bool)>;

/// Builds a tree of files of many sizes; editions differ in every possible way.
fn tree(edition: u8) -> Files {
    let mut files = Files::new();
    let mut add = |path: &str, content: Vec<u8>| files.insert(path.to_owned(), (content, false));
    for number in 0..300 {
        let content = Content::new(number, number * 17 % 5000).bytes();
        add(
            &format!("icons/{:02}/{number}.svg", number % 7),
            content.into(),
        );
    }
    add("big.bin", Content::new(1000, 3_000_000).bytes().into());
    add("empty", Vec::new());
    add("Grüße – 日本.txt", b"hello".to_vec());
    add("twins/a", b"the same".to_vec());
    add("twins/b", b"the same".to_vec());
    add("run.sh", b"#!/bin/sh".to_vec());
    files.get_mut("run.sh").unwrap().1 = true;
    if edition > 1 {
        let mut add =
            |path: &str, content: Vec<u8>| files.insert(path.to_owned(), (content, false));
        add("icons/00/0.svg", b"changed".to_vec());
        add("new.bin", Content::new(1001, 1_000_000).bytes().into());
        let moved = files.remove("Grüße – 日本.txt").unwrap();
        files.insert("moved/greeting.txt".to_owned(), moved);
        files.remove("icons/01/1.svg");
        files.get_mut("twins/b").unwrap().1 = true;
    }
    files
}

fn write(directory: &Path, files: &Files) {
    for (path, (content, executable)) in files {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let mode = if *executable { 0o755 } else { 0o644 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// Reads all files below a directory, without the record of a pull.
fn read(directory: &Path) -> Files {
    fn look_into(directory: &Path, prefix: &str, files: &mut Files) {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            if path == ".longhaul" {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                look_into(&entry.path(), &format!("{path}/"), files);
            } else {
                let executable = entry.metadata().unwrap().permissions().mode() & 0o111 != 0;
                files.insert(path, (fs::read(entry.path()).unwrap(), executable));
            }
        }
    }
    let mut files = Files::new();
    look_into(directory, "", &mut files);
    files
}

#[track_caller]
fn check(directory: &Path, expected: &Files) {
    let found = read(directory);
    let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(expected));
    for (path, file) in expected {
        assert!(found[path] == *file, "{path} differs");
    }
}

/// Sets up a machine and a server with both editions published, as `one` and `two`.
async fn setting() -> (Machine, TestServer) {
    let machine = Machine::new();
    let server = TestServer::start().await;
    for (name, edition) in [("one", 1), ("two", 2)] {
        write(&machine.path(name), &tree(edition));
        machine
            .publish(name, &server.url(""), &[])
            .await
            .ended_as("published");
    }
    (machine, server)
}

fn size(files: &Files) -> u64 {
    files
        .values()
        .map(|(content, _)| content.len() as u64)
        .sum()
}

#[tokio::test]
async fn a_directory_is_published_and_only_what_is_new_is_sent() {
    let machine = Machine::new();
    let server = TestServer::start().await;
    let url = server.url("");
    write(&machine.path("maps"), &tree(1));
    fs::write(machine.path("maps/.DS_Store"), "litter").unwrap();

    let first = machine.publish("maps", &url, &[]).await;
    let told = first.ended_as("published");
    assert_eq!(
        (&told["version"], &told["previous"]),
        (&1.into(), &Value::Null)
    );
    assert_eq!(told["url"], format!("{url}/packs/maps/versions/1"));
    assert_eq!(
        (first.number("files"), first.number("size")),
        (306, size(&tree(1)))
    );
    assert_eq!(first.number("added"), 306);
    assert!(first.number("sent") > 3_000_000);

    let again = machine.publish("maps", &url, &[]).await;
    assert_eq!(again.ended_as("unchanged")["version"], 1);
    assert_eq!(again.number("sent"), 0);
    let forced = machine.publish("maps", &url, &["--force"]).await;
    assert_eq!(forced.ended_as("published")["version"], 2);
    assert_eq!(forced.number("sent"), 0);

    fs::remove_dir_all(machine.path("maps")).unwrap();
    write(&machine.path("maps"), &tree(2));
    let next = machine.publish("maps", &url, &[]).await;
    let told = next.ended_as("published");
    assert_eq!(
        (&told["version"], &told["previous"]),
        (&3.into(), &2.into())
    );
    let counts = ["added", "changed", "moved", "removed"].map(|count| next.number(count));
    assert_eq!(counts, [1, 2, 1, 1]);
    assert_eq!(next.number("contents"), 2);
    assert!(
        (1_000_000..1_010_000).contains(&next.number("sent")),
        "{next:?}"
    );
    assert_eq!(machine.records(), 0, "nothing is left to go on with");
}

#[tokio::test]
async fn what_cannot_be_published_is_said() {
    let machine = Machine::new();
    let server = TestServer::start().await;
    fs::create_dir(machine.path("maps")).unwrap();
    let run = machine.publish("maps", &server.url(""), &[]).await;
    run.failed_with(1, "has no files");
    write(&machine.path("maps"), &tree(1));
    fs::create_dir(machine.path("maps/.git")).unwrap();
    std::os::unix::fs::symlink("run.sh", machine.path("maps/link")).unwrap();
    let run = machine.publish("maps", &server.url(""), &[]).await;
    run.failed_with(1, "leave it out with --ignore '.git'");
    run.failed_with(1, "link: it is a symbolic link");
    let run = machine
        .publish(
            "maps",
            &server.url(""),
            &["--ignore", ".git", "--ignore", "link"],
        )
        .await;
    assert_eq!(run.ended_as("published")["files"], 306);
}

#[tokio::test]
async fn a_pull_fetches_what_is_lacking_and_no_more() {
    let (machine, server) = setting().await;
    let (url, copy) = (server.url(""), machine.path("copy"));
    let old = format!("{url}/packs/maps/versions/1");
    let first = machine.run(&["pull", &old, "copy"]).await;
    assert_eq!(first.ended_as("pulled")["version"], 1);
    assert_eq!(first.number("requests"), 3);
    check(&copy, &tree(1));

    let latest = machine.pull(&url, "copy", &[]).await;
    let told = latest.ended_as("pulled");
    assert_eq!(
        (&told["version"], &told["previous"]),
        (&2.into(), &1.into())
    );
    let counts = ["added", "changed", "moved", "removed"].map(|count| latest.number(count));
    assert_eq!(counts, [1, 2, 1, 1]);
    assert_eq!(latest.number("requests"), 3);
    assert!(
        (1_000_000..1_100_000).contains(&latest.number("fetched")),
        "{latest:?}"
    );
    check(&copy, &tree(2));

    let again = machine.pull(&url, "copy", &[]).await;
    again.ended_as("up_to_date");
    assert_eq!((again.number("requests"), again.number("fetched")), (1, 0));

    // Version 1 has only two small files that version 2 lacks.
    let back = machine.run(&["pull", &old, "copy"]).await;
    assert_eq!(back.ended_as("pulled")["version"], 1);
    assert!(back.number("fetched") < 100_000, "{back:?}");
    check(&copy, &tree(1));
    assert_eq!(
        machine.hidden(),
        [""; 0],
        "nothing is left beside the directory"
    );
}

#[tokio::test]
async fn damage_is_healed_with_one_archive() {
    let (machine, server) = setting().await;
    let (url, copy) = (server.url(""), machine.path("copy"));
    machine.pull(&url, "copy", &[]).await.ended_as("pulled");

    fs::remove_file(copy.join("icons/03/3.svg")).unwrap();
    fs::write(copy.join("big.bin"), "shorter").unwrap();
    fs::rename(copy.join("run.sh"), copy.join("ran.sh")).unwrap();
    let healed = machine.pull(&url, "copy", &[]).await;
    healed.ended_as("pulled");
    assert_eq!(healed.number("healed"), 3);
    assert_eq!(healed.ending["replaced_paths"], json!(["big.bin"]));
    assert_eq!(healed.ending["unknown_paths"], json!(["ran.sh"]));
    assert_eq!(
        healed.number("requests"),
        2,
        "what was renamed is here, the rest is one archive"
    );
    fs::remove_file(copy.join("ran.sh")).unwrap();
    check(&copy, &tree(2));

    // A flipped bit, with the modification time unchanged.
    let path = copy.join("new.bin");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let mut content = fs::read(&path).unwrap();
    content[500_000] ^= 1;
    fs::write(&path, content).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(modified).unwrap();
    machine.pull(&url, "copy", &[]).await.ended_as("up_to_date");
    let verified = machine.pull(&url, "copy", &["--verify"]).await;
    verified.ended_as("pulled");
    assert_eq!(verified.number("healed"), 1);
    assert!(
        (1_000_000..1_010_000).contains(&verified.number("fetched")),
        "{verified:?}"
    );
    check(&copy, &tree(2));
    machine
        .pull(&url, "copy", &["--verify"])
        .await
        .ended_as("up_to_date");
}

#[tokio::test]
async fn a_need_that_is_too_long_for_a_url_is_registered() {
    let machine = Machine::new();
    let server = TestServer::start().await;
    let file = |number: u64| {
        (
            format!("{number:04}"),
            (Content::new(number, 100).bytes().into(), false),
        )
    };
    let files: Files = (0..4000).map(file).collect();
    write(&machine.path("maps"), &files);
    machine
        .publish("maps", &server.url(""), &[])
        .await
        .ended_as("published");
    machine
        .pull(&server.url(""), "copy", &[])
        .await
        .ended_as("pulled");
    for number in (0..4000).step_by(2) {
        fs::remove_file(machine.path(&format!("copy/{number:04}"))).unwrap();
    }
    let healed = machine.pull(&server.url(""), "copy", &[]).await;
    healed.ended_as("pulled");
    assert_eq!(
        (healed.number("healed"), healed.number("requests")),
        (2000, 3)
    );
    check(&machine.path("copy"), &files);
}

#[tokio::test]
async fn a_retired_version_is_no_obstacle() {
    let (machine, server) = setting().await;
    let old = server.url("/packs/maps/versions/1");
    machine
        .run(&["pull", &old, "copy"])
        .await
        .ended_as("pulled");
    server
        .request(Request::new("DELETE", "/packs/maps/versions/1"))
        .await
        .expect(204);
    let run = machine.pull(&server.url(""), "copy", &[]).await;
    assert_eq!(run.ended_as("pulled")["version"], 2);
    assert!(run.number("fetched") < 1_100_000, "{run:?}");
    check(&machine.path("copy"), &tree(2));
}

#[tokio::test]
async fn a_directory_that_no_pull_made_is_not_pulled_into_unasked() {
    let (machine, server) = setting().await;
    let url = server.url("");
    let mine = |mut files: Files| {
        files.insert("diary.txt".to_owned(), (b"dear diary".to_vec(), false));
        files
    };
    write(&machine.path("other"), &mine(tree(2)));
    let run = machine.pull(&url, "other", &[]).await;
    run.failed_with(1, "has files that no pull put there");
    check(&machine.path("other"), &mine(tree(2)));
    assert!(!machine.path("other/.longhaul").exists());
    // With `--force`, contents that are already there are not fetched again, and files outside the
    // pack stay.
    let forced = machine.pull(&url, "other", &["--force"]).await;
    forced.ended_as("pulled");
    assert!(forced.number("fetched") < 100_000, "{forced:?}");
    check(&machine.path("other"), &mine(tree(2)));

    let command = ["publish", "one", "--pack", "charts", "--server", &url];
    machine.run(&command).await.ended_as("published");
    let charts = format!("{url}/packs/charts");
    machine
        .run(&["pull", &charts, "other"])
        .await
        .failed_with(1, "is of the pack maps, not charts");
    machine
        .run(&["pull", &charts, "other", "--force"])
        .await
        .ended_as("pulled");
    check(&machine.path("other"), &mine(tree(1)));
    let missing = machine
        .run(&["pull", "nothing", "new", "--server", &url])
        .await;
    missing.failed_with(1, "404");
    assert!(!machine.path("new").exists());
}

/// The user's own files: beside the pack's, in a directory that the next version lacks, and at a
/// path that only one version uses.
fn mine() -> Files {
    let file = |path: &str| (path.to_owned(), (b"mine".to_vec(), false));
    ["notes.txt", "icons/01/mine.svg", "twins/c", "own/deep/er"]
        .map(file)
        .into()
}

#[tokio::test]
async fn what_the_user_put_into_the_directory_stays() {
    let (machine, server) = setting().await;
    let (url, copy) = (server.url(""), machine.path("copy"));
    let pull = async |version: u64, more: &[&str]| {
        let version = format!("{url}/packs/maps/versions/{version}");
        machine
            .run(&[&["pull", &version, "copy"], more].concat())
            .await
    };
    let with_mine = |edition| {
        let mut files = tree(edition);
        files.extend(mine());
        files
    };
    pull(1, &[]).await.ended_as("pulled");
    write(&copy, &mine());
    std::os::unix::fs::symlink("/", copy.join("link")).unwrap();
    fs::write(copy.join("icons/01/8.svg"), "changed here").unwrap();
    let inode = fs::metadata(&copy).unwrap().ino();

    let told = pull(2, &[]).await;
    told.ended_as("pulled");
    let paths = json!([
        "icons/01/mine.svg",
        "link",
        "notes.txt",
        "own/deep/er",
        "twins/c"
    ]);
    assert_eq!(
        (told.number("unknown"), &told.ending["unknown_paths"]),
        (5, &paths)
    );
    assert_eq!(told.ending["replaced_paths"], json!(["icons/01/8.svg"]));
    assert_eq!((told.number("removed"), told.number("deleted")), (1, 0));
    fs::remove_file(copy.join("link")).unwrap();
    check(&copy, &with_mine(2));

    // Repairing, verifying and going back do not change them either.
    fs::remove_file(copy.join("big.bin")).unwrap();
    pull(2, &[]).await.ended_as("pulled");
    pull(2, &["--verify"]).await.ended_as("up_to_date");
    pull(1, &["--verify"]).await.ended_as("pulled");
    check(&copy, &with_mine(1));
    assert_eq!(fs::metadata(&copy).unwrap().ino(), inode);

    let before = read(&copy);
    let listed = pull(2, &["--delete", "--dry-run"]).await;
    listed.ended_as("dry_run");
    assert_eq!(listed.number("unknown"), 4);
    assert!(read(&copy) == before, "a dry run changes nothing");
    let deleted = pull(2, &["--delete"]).await;
    deleted.ended_as("pulled");
    assert_eq!(
        (deleted.number("deleted"), deleted.number("unknown")),
        (4, 0)
    );
    check(&copy, &tree(2));
    assert!(!copy.join("own").exists());
}

#[tokio::test]
async fn what_is_in_the_way_is_named_and_stays() {
    let (machine, server) = setting().await;
    let (url, copy) = (server.url(""), machine.path("copy"));
    let old = format!("{url}/packs/maps/versions/1");
    machine
        .run(&["pull", &old, "copy"])
        .await
        .ended_as("pulled");
    fs::write(copy.join("new.bin"), "mine").unwrap();
    fs::write(copy.join("moved"), "mine").unwrap();
    let before = read(&copy);
    let run = machine.pull(&url, "copy", &[]).await;
    run.failed_with(
        1,
        "moved, new.bin: in the way of the version's files in copy",
    );
    assert!(read(&copy) == before, "nothing was changed");
    let forced = machine.pull(&url, "copy", &["--force"]).await;
    forced.ended_as("pulled");
    assert_eq!(
        forced.ending["overruled_paths"],
        json!(["moved", "new.bin"])
    );
    check(&copy, &tree(2));
}

#[tokio::test]
async fn the_directory_that_one_is_in_can_be_pulled_into() {
    let (machine, server) = setting().await;
    let copy = machine.path("copy");
    fs::create_dir(&copy).unwrap();
    let url = server.url("");
    let mut watcher = Command::new("sleep")
        .arg("600")
        .current_dir(&copy)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let seen = PathBuf::from(format!("/proc/{}/cwd", watcher.id().unwrap()));
    for version in [1, 2] {
        let pack = format!("{url}/packs/maps/versions/{version}");
        let mut command = Command::new(program());
        command
            .args(["pull", &pack, ".", "--json"])
            .current_dir(&copy);
        let output = within(PATIENCE, "the program ends", command.output()).await;
        assert!(output.unwrap().status.success());
        check(&copy, &tree(u8::try_from(version).unwrap()));
        if cfg!(target_os = "linux") {
            check(&seen, &read(&copy));
        }
    }
    watcher.kill().await.unwrap();
}

/// Runs a script in a mount namespace, if this user can create one; skips the test otherwise.
async fn with_mounts(machine: &Machine, test: &str, script: &str, arguments: &[&str]) {
    let namespaces = [&["-m"][..], &["-rm"]];
    let can = |namespaces: &&&[&str]| {
        let tried = std::process::Command::new("unshare")
            .args(**namespaces)
            .args(["sh", "-c", "mount -t tmpfs tmpfs /mnt"])
            .stderr(Stdio::null())
            .status();
        tried.is_ok_and(|status| status.success())
    };
    let Some(namespaces) = namespaces.iter().find(can) else {
        skip(test, "mounting needs root or user namespaces");
        return;
    };
    let mut command = Command::new("unshare");
    command
        .args(*namespaces)
        .args(["sh", "-euc", script, "sh"])
        .arg(program())
        .args(arguments)
        .current_dir(machine.path(""))
        .env("XDG_STATE_HOME", machine.directory.path().join("state"))
        .kill_on_drop(true);
    // The script runs the program many times.
    let output = within(PATIENCE * 10, "the script ends", command.output())
        .await
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{errors}");
}

#[tokio::test]
async fn a_mounted_directory_gets_a_version_and_the_next() {
    let (machine, server) = setting().await;
    let script = "
        program=$1 pack=$2
        mkdir volume site container elsewhere
        mount -t tmpfs tmpfs volume
        $program pull $pack/versions/1 volume; diff -r -x .longhaul one volume
        $program pull $pack volume; diff -r -x .longhaul two volume

        # Whoever has the directory by another name sees the new version.
        $program pull $pack/versions/1 site
        mount --bind site container
        $program pull $pack site; diff -r -x .longhaul two container
        $program pull $pack/versions/1 container; diff -r -x .longhaul one site

        # A volume inside: files of the pack go there, and the user's stay.
        mount -t tmpfs tmpfs site/icons/02; echo mine > site/icons/02/mine
        $program pull $pack/versions/1 site; test -e site/icons/02/2.svg; test -e site/icons/02/mine
        umount site/icons/02

        # A file that is a mount point cannot be replaced.
        mount --bind one/run.sh site/icons/00/0.svg
        if $program pull $pack site 2> refused; then exit 1; fi
        grep 'icons/00/0.svg: something is mounted there' refused
        umount site/icons/00/0.svg
        $program pull $pack site; diff -r -x .longhaul two container";
    let pack = server.url("/packs/maps");
    let test = "a_mounted_directory_gets_a_version_and_the_next";
    with_mounts(&machine, test, script, &[&pack]).await;
}

#[tokio::test]
async fn a_pull_into_a_volume_that_is_killed_anywhere_is_finished_by_the_next() {
    let machine = Machine::new();
    let server = TestServer::start().await;
    // Every file differs, so that the exchange takes a while.
    for edition in 1..=2_u64 {
        let file = |number: u64| {
            let content = Content::new(edition * 10_000 + number, 100).bytes();
            (
                format!("{:02}/{number}", number % 40),
                (content.into(), false),
            )
        };
        let directory = edition.to_string();
        write(&machine.path(&directory), &(0..1000).map(file).collect());
        let published = machine.publish(&directory, &server.url(""), &[]).await;
        published.ended_as("published");
        fs::write(machine.path(&directory).join("00/mine"), "mine").unwrap();
    }
    let script = "
        program=$1 pack=$2; shift 2
        mkdir volume; mount -t tmpfs tmpfs volume
        $program pull $pack volume; echo -n mine > volume/00/mine
        version=1
        for pause in \"$@\"; do
            $program pull $pack/versions/$version volume > /dev/null 2>&1 & pull=$!
            # Now and then some time after it began, else as soon as it has begun to put files in place.
            if test $pause != exchange; then
                sleep $pause
            else
                while kill -0 $pull 2> /dev/null && ! test -e volume/.longhaul/exchange.json; do :; done
            fi
            kill -9 $pull 2> /dev/null || true; wait $pull || true
            # Either it says that it is between two versions, or it is one of them.
            if ! test -e volume/.longhaul/exchange.json; then
                diff -rq -x .longhaul 1 volume > /dev/null || diff -rq -x .longhaul 2 volume
            fi
            test -e volume/00/mine
            version=$((3 - version))
        done
        $program pull $pack volume; diff -r -x .longhaul 2 volume
        $program pull $pack volume --verify 2>&1 | grep 'is up to date'
        test $(ls -A volume/.longhaul | wc -l) = 3";
    let mut dice = Dice::new(3);
    let pauses: Vec<String> = (0..5)
        .flat_map(|_| {
            [
                format!("0.{:03}", dice.within(20..300)),
                "exchange".to_owned(),
            ]
        })
        .collect();
    let pack = server.url("/packs/maps");
    let mut arguments = vec![&*pack];
    arguments.extend(pauses.iter().map(|pause| &**pause));
    let test = "a_pull_into_a_volume_that_is_killed_anywhere_is_finished_by_the_next";
    with_mounts(&machine, test, script, &arguments).await;
}

#[tokio::test]
async fn only_what_the_right_key_signed_is_taken() {
    let machine = Machine::new();
    // An Ed25519 key in PKCS #8 (RFC 8410 section 7).
    let pem = "-----BEGIN PRIVATE KEY-----\n\
               MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
               -----END PRIVATE KEY-----\n";
    fs::write(machine.path("key.pem"), pem).unwrap();
    let key = machine.path("key.pem").display().to_string();
    let setup = TestServer::setup().config(&format!("[packs]\nsigning_key = {key:?}"));
    let server = setup.start().await;
    let url = server.url("");
    write(&machine.path("maps"), &tree(1));
    machine
        .publish("maps", &url, &[])
        .await
        .ended_as("published");

    let told = server.request(Request::get("/packs/signing-key")).await;
    let told = told.expect(200).json();
    let right = ["--public-key", told["public_key"].as_str().unwrap()];
    let wrong = [
        "--public-key",
        "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
    ];
    let refused = "not signed by the key of --public-key";
    machine
        .pull(&url, "copy", &wrong)
        .await
        .failed_with(1, refused);
    assert!(!machine.path("copy").exists());
    machine.pull(&url, "copy", &right).await.ended_as("pulled");
    check(&machine.path("copy"), &tree(1));

    // The signature is stored, so that the next pull again costs one small request.
    let again = machine.pull(&url, "copy", &right).await;
    again.ended_as("up_to_date");
    assert_eq!(again.number("requests"), 1);
    machine
        .pull(&url, "copy", &wrong)
        .await
        .failed_with(1, refused);
    check(&machine.path("copy"), &tree(1));
}

#[tokio::test]
async fn both_directions_go_on_where_another_run_was_cut() {
    let machine = Machine::new();
    let server = TestServer::start().await;
    let files: Files = (0..6)
        .map(|number| {
            let content = Content::new(number, 1_000_000).bytes();
            (format!("{number}.bin"), (content.into(), false))
        })
        .collect();
    write(&machine.path("maps"), &files);
    // Neither run can transfer 6 MB on its own.
    let cut = Flow {
        fault: Some(Fault::CutAfter(4_000_000)),
        ..Flow::default()
    };
    let proxy = Proxy::start(server.address(), cut, Flow::default()).await;
    let url = format!("http://{}", proxy.address());
    let run = machine.publish("maps", &url, &["--retries", "0"]).await;
    run.failed_with(75, "run the same command again");
    machine
        .publish("maps", &url, &["--retries", "0"])
        .await
        .ended_as("published");

    proxy.set(Flow::default(), cut);
    let run = machine.pull(&url, "copy", &["--retries", "0"]).await;
    run.failed_with(75, "run the same command again");
    assert!(read(&machine.path("copy")).is_empty());
    machine
        .pull(&url, "copy", &["--retries", "0"])
        .await
        .ended_as("pulled");
    check(&machine.path("copy"), &files);
    assert_eq!(machine.hidden(), [""; 0]);
}

#[tokio::test]
async fn a_killed_server_interrupts_and_nothing_more() {
    let machine = Machine::new();
    let mut server = TestServer::start().await;
    let url = server.url("");
    let files: Files = [(
        "big".to_owned(),
        (Content::new(1, 8_000_000).bytes().into(), false),
    )]
    .into();
    write(&machine.path("maps"), &files);
    let slow = ["--limit-rate", "8MB", "--retries", "1000"];
    let publish = ["publish", "maps", "--pack", "maps", "--server", &url];
    let running = machine.start(&[&publish[..], &slow].concat());
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        server.kill().await;
        server.restart().await;
    }
    ended(running).await.ended_as("published");

    let pack = format!("{url}/packs/maps");
    let running = machine.start(&[&["pull", &pack, "copy"][..], &slow].concat());
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        server.kill().await;
        server.restart().await;
    }
    ended(running).await.ended_as("pulled");
    check(&machine.path("copy"), &files);
}

#[tokio::test]
async fn a_killed_pull_leaves_one_whole_version() {
    let (machine, server) = setting().await;
    let (url, copy) = (server.url(""), machine.path("copy"));
    let trees = [tree(1), tree(2)];
    machine.pull(&url, "copy", &[]).await.ended_as("pulled");
    let mut dice = Dice::new(1);
    for round in 0..30 {
        let version = format!("{url}/packs/maps/versions/{}", round % 2 + 1);
        let mut running = machine.start(&["pull", &version, "copy"]);
        tokio::time::sleep(Duration::from_millis(dice.within(0..200))).await;
        running.kill().await.unwrap();
        if !copy.join(".longhaul/exchange.json").exists() {
            let found = read(&copy);
            assert!(trees.contains(&found), "round {round}: neither version");
        }
    }
    machine.pull(&url, "copy", &[]).await;
    check(&copy, &trees[1]);
    machine
        .pull(&url, "copy", &["--verify"])
        .await
        .ended_as("up_to_date");
    assert_eq!(machine.hidden(), [""; 0]);
}

#[tokio::test]
async fn a_killed_publish_goes_on_with_its_draft() {
    let machine = Machine::new();
    let server = TestServer::start().await;
    write(&machine.path("maps"), &tree(2));
    let url = server.url("");
    let command = [
        "publish",
        "maps",
        "--pack",
        "maps",
        "--server",
        &url,
        "--limit-rate",
        "20MB",
    ];
    let mut dice = Dice::new(2);
    for _ in 0..10 {
        let mut running = machine.start(&command);
        tokio::time::sleep(Duration::from_millis(dice.within(0..200))).await;
        running.kill().await.unwrap();
    }
    let run = machine.run(&command).await;
    assert_eq!(run.code, Some(0), "{run:#?}");
    // Whether or not it was killed between the publication and its answer, the version was
    // published once.
    assert_eq!(run.ending["version"], 1);
    machine.pull(&url, "copy", &[]).await.ended_as("pulled");
    check(&machine.path("copy"), &tree(2));
}
