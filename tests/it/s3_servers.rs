//! Requirements on any S3 server: the server meets them, or the program reports at the start what
//! to change.
//!
//! Together with the tests of nodes, `tests/run` repeats these on a second S3 server, and
//! `tests/s3/others` on all.

use std::time::Duration;

use tests::{Blobs, Content, Metadata, Request, Stores, TestServer, Version, within};

use crate::dialect::Dialect;
use crate::uploads::assert_file;

const MIB: u64 = 1024 * 1024;

/// Starts a server with its bytes in S3.
async fn serving() -> TestServer {
    let stores = Stores::new(Metadata::Sqlite, Blobs::S3).await;
    TestServer::setup().stores(&stores).start().await
}

/// Kills the server during an append that would complete the upload. Returns the offset afterwards.
async fn kill_while_appending(
    server: &mut TestServer,
    upload: &str,
    content: Content,
    (offset, end): (u64, u64),
) -> u64 {
    let dialect = Dialect::Interop6;
    let mut client = server.client(Version::Http1).await;
    let append = dialect.append(upload, offset, true);
    let append = append.announcing(content.length() - offset);
    client.begin(&append).await.unwrap();
    client.send(&content.slice(offset..end)).await.unwrap();
    client.drained().await;
    server.kill().await;
    server.restart().await;
    let head = server.request(dialect.head(upload)).await.expect(204);
    assert!((offset..=end).contains(&head.offset()), "{}", head.offset());
    head.offset()
}

#[tokio::test]
async fn an_upload_of_many_parts_goes_on_after_every_kill() {
    let mut server = serving().await;
    let content = Content::new(300, 48 * MIB);
    let dialect = Dialect::Interop6;
    let first = Request::put("/files/a").body(content.slice(0..20 * MIB));
    let created = server.request(dialect.create(first, false)).await;
    let created = created.expect(201);
    let upload = created.field("location");
    let ends = (20 * MIB, 29 * MIB);
    let offset = kill_while_appending(&mut server, upload, content, ends).await;
    let some = dialect.append(upload, offset, false);
    let some = some.body(content.slice(offset..offset + 5 * MIB));
    let offset = server.request(some).await.expect(201).offset();
    let ends = (offset, offset + 9 * MIB);
    let offset = kill_while_appending(&mut server, upload, content, ends).await;
    let rest = dialect.append(upload, offset, true);
    server
        .request(rest.body(content.from(offset)))
        .await
        .expect(201);
    assert_file(&server, "/files/a", content).await;
}

#[tokio::test]
async fn what_is_cancelled_after_a_kill_is_gone() {
    let mut server = serving().await;
    let content = Content::new(301, 30 * MIB);
    let dialect = Dialect::Interop6;
    let first = Request::put("/files/a").body(content.slice(0..10 * MIB));
    let created = server.request(dialect.create(first, false)).await;
    let created = created.expect(201);
    let upload = created.field("location");
    let ends = (10 * MIB, 20 * MIB);
    kill_while_appending(&mut server, upload, content, ends).await;
    server.request(dialect.cancel(upload)).await.expect(204);
    server.request(dialect.head(upload)).await.expect(404);
    server.request(Request::get("/files/a")).await.expect(404);
    let again = Content::new(302, 100_000);
    let put = Request::put("/files/a").body(again.bytes());
    server.request(put).await.expect(201);
    assert_file(&server, "/files/a", again).await;
}

/// The program does not ask the machine for a region if the S3 server is not Amazon's.
#[tokio::test]
async fn a_region_need_not_be_said() {
    let stores = Stores::new(Metadata::Sqlite, Blobs::S3).await;
    let config = stores.config();
    let without_region: Vec<&str> = config
        .lines()
        .filter(|line| !line.starts_with("blobs.region"))
        .collect();
    let none = Stores::new(Metadata::Sqlite, Blobs::Fs).await;
    let mut setup = TestServer::setup()
        .stores(&none)
        .config(&without_region.join("\n"));
    for (name, value) in stores.credentials() {
        setup = setup.environment(name, &value);
    }
    let server = within(Duration::from_secs(20), "the start", setup.start()).await;
    let content = Content::new(303, 100_000);
    let put = Request::put("/files/a").body(content.bytes());
    server.request(put).await.expect(201);
    assert_file(&server, "/files/a", content).await;
    let log = server.log().to_lowercase();
    assert!(!log.contains("imds"), "{log}");
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_with_an_example() {
    for (setting, value, example) in [
        ("endpoint", "s3.example.org", "https://s3.example.org"),
        ("endpoint", "localhost:9000", "https://s3.example.org"),
        ("endpoint", "ftp://s3.example.org", "https://s3.example.org"),
        (
            "redirect_endpoint",
            "s3.example.org",
            "https://s3.example.org",
        ),
        (
            "redirect_endpoint",
            "//s3.example.org",
            "https://s3.example.org",
        ),
        ("redirect_endpoint", "https://", "https://s3.example.org"),
        ("bucket", "s3://longhaul", "longhaul"),
        ("bucket", "longhaul/files", "longhaul"),
        ("region", "eu central", "eu-central-1"),
        ("conditional_writes", "perhaps", "auto"),
    ] {
        let none = Stores::new(Metadata::Sqlite, Blobs::Fs).await;
        let bucket = match setting {
            "bucket" => String::new(),
            _ => "blobs.bucket = \"longhaul\"\n".to_owned(),
        };
        let config = format!("{bucket}blobs.type = \"s3\"\nblobs.{setting} = \"{value}\"\n");
        let refused = TestServer::setup().stores(&none).config(&config).refuse();
        let (_, log) = refused.await;
        assert!(log.contains(setting), "{setting}: {log}");
        assert!(log.contains(example), "{setting}: {log}");
    }
}

/// A permanent refusal of the S3 server is reported at the start, not to the first client.
#[tokio::test]
async fn a_wrong_secret_is_said_at_the_start() {
    let stores = Stores::new(Metadata::Sqlite, Blobs::S3).await;
    let setup = TestServer::setup()
        .stores(&stores)
        .environment("AWS_SECRET_ACCESS_KEY", &"0".repeat(64));
    let (status, log) = setup.refuse().await;
    assert!(!status.success());
    assert!(log.contains("blobs.secret_access_key"), "{log}");
}
