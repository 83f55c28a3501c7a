//! Full disk: uploads fail in a way that clients understand, and stored data stays intact.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use tests::{Blobs, Content, PATIENCE, Request, TestServer, skip};

use crate::dialect::Dialect;
use crate::uploads::assert_file;

/// A separate file system of a few megabytes in memory, unmounted when dropped.
pub(crate) struct SmallDisk(TempDir);

impl SmallDisk {
    /// Mounts the file system; `None` if this user may not mount.
    pub(crate) fn mount(megabytes: u32) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(directory.path())
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then_some(Self(directory))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Unmounts lazily, because the server may still be running. A failure leaves the mount
        // until the next reboot.
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.path())
            .status();
    }
}

/// Sends more than fits, in two ways, and checks that both are refused without loss.
async fn refuses_without_loss(server: &TestServer, too_much: Content) {
    let (kept, dialect) = (Content::new(100, 2_000_000), Dialect::Interop6);
    server
        .request(Request::put("/files/kept").body(kept.bytes()))
        .await
        .expect(201);

    let plain = Request::put("/files/plain").body(too_much.bytes());
    if let Ok(response) = server.try_request(&plain).await {
        response.expect(507).problem();
    }
    server
        .request(Request::get("/files/plain"))
        .await
        .expect(404);

    let create = dialect.create(Request::put("/files/resumable"), false);
    let created = server.request(create).await.expect(201);
    let upload = created.field("location");
    let append = dialect.append(upload, 0, true).body(too_much.bytes());
    let acknowledged = match server.try_request(&append).await {
        Ok(response) => {
            let told = response
                .interim
                .iter()
                .filter(|head| head.optional("upload-offset").is_some());
            let told = told.map(tests::Head::offset).max();
            response.expect(507).problem();
            told
        }
        Err(cut) => {
            let told = cut
                .interim
                .iter()
                .filter(|head| head.optional("upload-offset").is_some());
            told.map(tests::Head::offset).max()
        }
    };
    let head = server.request(dialect.head(upload)).await.expect(204);
    assert!(head.offset() >= acknowledged.unwrap_or(0), "{head:?}");
    assert!(head.offset() < too_much.length());
    assert_eq!(dialect.is_complete(&head.head), Some(false));

    // Cancelling the upload frees the space, and no other file is affected.
    server.request(dialect.cancel(upload)).await.expect(204);
    assert_file(server, "/files/kept", kept).await;
}

/// Reports whether this run stores bytes on a file system of the tests, which can be full.
fn keeps_bytes_itself(test: &str) -> bool {
    let is_so = Blobs::of_this_run() == Blobs::Fs;
    if !is_so {
        skip(test, "the disk is that of the S3 server");
    }
    is_so
}

#[tokio::test]
async fn a_full_disk_loses_nothing() {
    if !keeps_bytes_itself("a_full_disk_loses_nothing") {
        return;
    }
    let Some(disk) = SmallDisk::mount(24) else {
        skip(
            "a_full_disk_loses_nothing",
            "mounting a small file system is not allowed",
        );
        return;
    };
    let mut server = TestServer::setup().data(disk.path()).start().await;
    refuses_without_loss(&server, Content::new(101, 40_000_000)).await;

    let fits = Content::new(102, 10_000_000);
    let put = tests::eventually("there is room again", async || {
        let put = Request::put("/files/fits").body(fits.bytes());
        server
            .try_request(&put)
            .await
            .ok()
            .filter(|response| response.status() == 201)
    });
    put.await;
    assert_file(&server, "/files/fits", fits).await;

    server.terminate();
    assert!(server.ended(PATIENCE).await.success());
    server.restart().await;
    assert_file(&server, "/files/kept", Content::new(100, 2_000_000)).await;
    assert_file(&server, "/files/fits", fits).await;
}

#[tokio::test]
async fn a_file_that_may_not_grow_loses_nothing() {
    if !keeps_bytes_itself("a_file_that_may_not_grow_loses_nothing") {
        return;
    }
    let server = TestServer::setup().outlive_file_limit().start().await;
    server.limit_file_size(Some(8_000_000));
    refuses_without_loss(&server, Content::new(103, 20_000_000)).await;

    server.limit_file_size(None);
    let grows = Content::new(104, 20_000_000);
    server
        .request(Request::put("/files/grows").body(grows.bytes()))
        .await
        .expect(201);
    assert_file(&server, "/files/grows", grows).await;
}
