//! Real trees from the npm registry, in two versions each: published, pulled, and updated by one
//! archive.
//!
//! Each test prints its line of the README's table: `cargo test --release -p tests --test it --
//! real_packs --nocapture`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tests::pack::Files;
use tests::server::program;
use tests::{Request, TestServer, Version, within};
use tokio::process::Command;
use tokio::time::Instant;

const TREES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packs/node_modules");
/// Longest time for a tree of tens of thousands of files in a debug build.
const PATIENCE: Duration = Duration::from_mins(3);

#[tokio::test]
async fn icons() {
    is_updated_by_one_archive("icons", "@fluentui/svg-icons 1.1.341 → 1.1.343", "fluent").await;
}

#[tokio::test]
async fn a_library() {
    is_updated_by_one_archive("a_library", "three 0.186.1 → 0.187.0", "three").await;
}

#[tokio::test]
async fn a_few_large_files() {
    let title = "canvaskit-wasm 0.41.1 → 0.42.0";
    is_updated_by_one_archive("a_few_large_files", title, "canvaskit").await;
}

#[expect(clippy::print_stdout, reason = "the figures are for people")]
async fn is_updated_by_one_archive(test: &str, title: &str, name: &str) {
    let [old, new] =
        ["old", "new"].map(|edition| Path::new(TREES).join(format!("{name}-{edition}")));
    if std::env::var_os("TESTS_WITHOUT_REGISTRIES").is_some() && !old.exists() {
        tests::skip(test, "the trees of tests/packs are not installed");
        return;
    }
    let server = TestServer::start().await;
    let place = tempfile::tempdir().unwrap();
    let pulled = place.path().join("pulled");
    let url = server.url(&format!("/packs/{name}"));
    let publish = async |tree: &Path| {
        let (server, tree) = (server.url(""), tree.to_str().unwrap());
        run(
            place.path(),
            &["publish", tree, "--pack", name, "--server", &server],
        )
        .await
    };
    let pull = async || run(place.path(), &["pull", &url, pulled.to_str().unwrap()]).await;

    let first = publish(&old).await;
    assert_eq!(first["version"], 1);
    pull().await;
    assert_same_tree(&pulled, &old);

    let second = publish(&new).await;
    assert_eq!(second["version"], 2);
    let update = pull().await;
    assert_same_tree(&pulled, &new);

    // The same without archives: one request for each changed file.
    let (files, bytes, elapsed) = one_by_one(&server, name, (&old, &new)).await;
    let diff = Request::get(format!("/packs/{name}/versions/2/since/1"));
    let diff = server.request(diff).await.expect(200).json();
    println!(
        "| {title} | {} | {} | {} | {} | {:.2} s | {files} | {bytes} | {:.2} s |",
        second["files"],
        second["size"],
        diff["archives"]["zip"]["size"],
        update["requests"],
        update["seconds"].as_f64().unwrap(),
        elapsed.as_secs_f64(),
    );
}

/// Runs a command of the program that must succeed, and returns its JSON result.
async fn run(place: &Path, arguments: &[&str]) -> Value {
    let mut command = Command::new(program());
    command
        .args(arguments)
        .arg("--json")
        .env("XDG_STATE_HOME", place.join("state"))
        .env_remove("LONGHAUL_KEY")
        .kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output());
    let output = output.await.expect("the program ends").unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Fetches each file of the new tree that the old one lacks, all over one connection. Returns the
/// number of files and of bytes, and the time.
async fn one_by_one(
    server: &TestServer,
    pack: &str,
    (old, new): (&Path, &Path),
) -> (usize, usize, Duration) {
    let held = files(old);
    let changed: Files = files(new)
        .into_iter()
        .filter(|(path, bytes)| held.get(path) != Some(bytes))
        .collect();
    let begun = Instant::now();
    let mut client = server.client(Version::Http1).await;
    for (path, bytes) in &changed.0 {
        let escaped = path
            .replace('%', "%25")
            .replace(' ', "%20")
            .replace('#', "%23");
        let get = Request::get(format!("/packs/{pack}/versions/2/files/{escaped}"));
        let file = within(PATIENCE, "a file", client.exchange(&get))
            .await
            .unwrap();
        assert_eq!(file.expect(200).body, bytes, "{path}");
    }
    let size = changed.0.values().map(Bytes::len).sum();
    (changed.0.len(), size, begun.elapsed())
}

#[track_caller]
fn assert_same_tree(pulled: &Path, original: &Path) {
    let (pulled, original) = (files(pulled), files(original));
    let paths = |tree: &BTreeMap<String, Bytes>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(paths(&pulled), paths(&original));
    let differing = original
        .iter()
        .find(|(path, bytes)| pulled.get(*path) != Some(bytes));
    assert_eq!(differing.map(|(path, _)| path), None, "byte for byte");
}

/// Reads all files below a directory, except those that the program keeps for itself.
fn files(directory: &Path) -> BTreeMap<String, Bytes> {
    let mut found = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(at) = directories.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            let name = path.strip_prefix(directory).unwrap().to_str().unwrap();
            if path.is_dir() {
                if name != ".longhaul" {
                    directories.push(path);
                }
            } else {
                found.insert(name.to_owned(), std::fs::read(&path).unwrap().into());
            }
        }
    }
    found
}
