//! `longhaul copy`: an installation moves to larger stores, and back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use bytes::Bytes;
use tempfile::TempDir;
use tests::pack::{Files, text};
use tests::server::program;
use tests::{Blobs, Content, Metadata, PATIENCE, Request, Stores, TestServer, within};
use tokio::process::Command;

use crate::dialect::Dialect;

/// Content of the upload that is moved halfway.
const GROWING: Content = Content::new(7, 9_000_000);
/// Bytes of `GROWING` that are sent before the move.
const SENT: u64 = 5_300_000;
/// Content of a file.
const FILE: Content = Content::new(1, 3_000_000);

/// A possible place of an installation, as a configuration file.
struct Place {
    directory: TempDir,
    stores: Stores,
}

impl Place {
    async fn embedded() -> Self {
        Self::on(Stores::new(Metadata::Sqlite, Blobs::Fs).await)
    }

    async fn scaled_out() -> Self {
        Self::on(Stores::for_nodes().await)
    }

    fn on(stores: Stores) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = format!("data = {:?}\n", directory.path().join("data"));
        fs::write(directory.path().join("place.toml"), data + &stores.config()).unwrap();
        Self { directory, stores }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("place.toml")
    }

    async fn serve(&self) -> TestServer {
        let data = self.directory.path().join("data");
        let setup = TestServer::setup().data(&data).stores(&self.stores);
        setup.start().await
    }

    /// Runs `longhaul copy` from this place to another.
    async fn copy_to(&self, to: &Self, more: &[&str]) -> Copy {
        let mut command = Command::new(program());
        command
            .arg("copy")
            .arg("--from")
            .arg(self.file())
            .arg("--to")
            .arg(to.file())
            .args(more)
            .envs(self.stores.credentials())
            .envs(to.stores.credentials())
            // Settings in the environment must not affect either place.
            .env("LONGHAUL_DATA", "/nowhere")
            .kill_on_drop(true);
        let output = within(PATIENCE, "the copy ends", command.output()).await;
        Copy(output.unwrap())
    }
}

/// A finished run of `longhaul copy`.
struct Copy(Output);

impl Copy {
    /// Checks the exit code and returns the standard error.
    #[track_caller]
    fn ended(&self, code: i32) -> String {
        let said = String::from_utf8_lossy(&self.0.stderr).into_owned();
        assert_eq!(self.0.status.code(), Some(code), "{said}");
        said
    }
}

/// Contents of an installation.
struct Installed {
    upload: String,
    tree: Files,
    archive: (Bytes, String),
    draft: String,
}

/// Stores a file, a pack with two versions, a draft, and half an upload.
async fn install(server: &TestServer) -> Installed {
    let put = Request::put("/files/a/file.bin").body(FILE.bytes());
    server.request(put).await.expect(201);
    let put = Request::put("/files/doomed.bin").body("soon gone");
    server.request(put).await.expect(201);
    server
        .request(Request::delete("/files/doomed.bin"))
        .await
        .expect(204);

    let first = Files::new([("a.txt", b"one".as_slice()), ("b/c.txt", b"two".as_slice())]);
    server.publish("maps", &first).await;
    let tree = Files::new([
        ("a.txt", b"one".as_slice()),
        ("b/d.txt", b"three".as_slice()),
    ]);
    server.publish("maps", &tree).await;
    let archive = archive(server).await;
    let other = Files::new([("later.txt", b"later".as_slice())]);
    let draft = server.draft("maps", &other.document()).await;

    let begin = Dialect::Rfc.create(Request::put("/files/growing.bin"), false);
    let begun = server.request(begin.body(GROWING.slice(0..SENT))).await;
    let begun = begun.expect(201);
    assert_eq!(begun.offset(), SENT);
    Installed {
        upload: begun.field("location").to_owned(),
        tree,
        archive,
        draft: text(&draft["url"]).to_owned(),
    }
}

/// Returns the difference of the two versions of the pack, and its entity tag.
async fn archive(server: &TestServer) -> (Bytes, String) {
    let target = "/packs/maps/versions/2/since/1.zip";
    let response = server.request(Request::get(target)).await.expect(200);
    (response.body.clone(), response.field("etag").to_owned())
}

/// Checks that everything is there, and that the upload continues at its offset.
async fn assert_installed(server: &TestServer, installed: &Installed) {
    FILE.assert_is(&server.bytes("/files/a/file.bin").await);
    let gone = server.request(Request::get("/files/doomed.bin")).await;
    assert_eq!(gone.status(), 404);
    let whole = server.bytes("/packs/maps/versions/2/archive.zip").await;
    assert_eq!(Files::from_zip(&whole), installed.tree);
    assert_eq!(archive(server).await, installed.archive);
    let draft = server.request(Request::get(&installed.draft)).await;
    draft.expect(200);
    let asked = server.request(Dialect::Rfc.head(&installed.upload)).await;
    assert_eq!(asked.expect(204).offset(), SENT);
}

async fn finish(server: &TestServer, installed: &Installed) {
    let rest = Dialect::Rfc.append(&installed.upload, SENT, true);
    let done = server.request(rest.body(GROWING.from(SENT))).await;
    done.expect(201);
    GROWING.assert_is(&server.bytes("/files/growing.bin").await);
}

#[tokio::test]
async fn an_installation_moves_and_comes_back() {
    let (here, there, back) = (
        Place::embedded().await,
        Place::scaled_out().await,
        Place::embedded().await,
    );
    let mut server = here.serve().await;
    let installed = install(&server).await;

    // While the server runs, only immutable data is copied.
    let said = here.copy_to(&there, &[]).await.ended(75);
    assert!(said.contains("stop it"), "{said}");
    assert!(!said.contains("copied 0 blobs"), "{said}");
    assert_installed(&server, &installed).await;
    let late = Request::put("/files/late.txt").body("came meanwhile");
    server.request(late).await.expect(201);
    server.terminate();
    server.ended(PATIENCE).await;

    let said = here.copy_to(&there, &["--verify"]).await.ended(0);
    assert!(said.contains("copied 1 blobs"), "{said}");
    let mut scaled = there.serve().await;
    assert_installed(&scaled, &installed).await;
    assert_eq!(&*scaled.bytes("/files/late.txt").await, b"came meanwhile");

    // While a node runs, too, only immutable data is copied back.
    let said = there.copy_to(&back, &[]).await.ended(75);
    assert!(said.contains("a server is running"), "{said}");
    scaled.terminate();
    scaled.ended(PATIENCE).await;

    // A place that already has facts is refused as a target.
    let said = here.copy_to(&there, &[]).await.ended(1);
    assert!(said.contains("has facts already"), "{said}");

    there.copy_to(&back, &[]).await.ended(0);
    let server = back.serve().await;
    assert_installed(&server, &installed).await;
    finish(&server, &installed).await;
}

#[tokio::test]
async fn a_blob_that_rotted_is_not_copied() {
    let (here, there) = (Place::embedded().await, Place::embedded().await);
    let server = here.serve().await;
    let put = Request::put("/files/a.bin").body(vec![7; 100_000]);
    server.request(put).await.expect(201);
    let blob = published(&server.data());
    drop(server);
    let mut bytes = fs::read(&blob).unwrap();
    bytes[5_000] ^= 1;
    fs::write(&blob, bytes).unwrap();

    let said = here.copy_to(&there, &[]).await.ended(1);
    let key = blob.file_name().unwrap().to_str().unwrap();
    assert!(
        said.contains("does not have the bytes that were recorded"),
        "{said}"
    );
    assert!(said.contains(key), "{said}");
    let server = there.serve().await;
    let missing = server.request(Request::get("/files/a.bin")).await;
    assert_eq!(missing.status(), 404, "no partial file is there");
}

/// Returns the path of the only published blob.
fn published(data: &Path) -> PathBuf {
    let shard = fs::read_dir(data.join("blobs/published")).unwrap().next();
    let shard = shard.unwrap().unwrap().path();
    let blob = fs::read_dir(shard).unwrap().next().unwrap();
    blob.unwrap().path()
}
