//! `SIGTERM`: uploads are made durable and cut, so that their clients continue elsewhere; nothing
//! is lost, and the end takes no longer than configured.

use std::time::Duration;

use tests::{Client, Content, Flow, PATIENCE, Proxy, Request, TestServer, Version};

use crate::dialect::Dialect;
use crate::resume::begin;
use crate::uploads::assert_file;

#[tokio::test]
async fn uploads_under_way_are_made_durable_and_cut() {
    let mut server = TestServer::setup()
        .config("[http]\ndrain_grace = \"5s\"")
        .start()
        .await;
    let content = Content::new(90, 900_000);
    let mut uploads = Vec::new();
    for version in Version::ALL {
        for dialect in Dialect::ALL {
            let path = format!("/files/{version:?}-{dialect:?}");
            let mut client = server.client(version).await;
            let upload = begin(&mut client, dialect, &path, content.length()).await;
            client.send(&content.slice(0..400_000)).await.unwrap();
            client.drained().await;
            uploads.push((dialect, path, upload, client));
        }
    }

    server.terminate();
    for (dialect, path, _, client) in &mut uploads {
        let cut = client.response().await.expect_err("cut, not answered");
        assert!(cut.partial.is_none(), "{dialect:?} {path}: {cut:?}");
    }
    let status = server.ended(Duration::from_secs(10)).await;
    assert!(status.success(), "{status}");

    server.restart().await;
    for (dialect, path, upload, _) in uploads {
        let head = server.request(dialect.head(&upload)).await.expect(204);
        assert_eq!(head.offset(), 400_000, "{path}");
        let append = dialect
            .append(&upload, 400_000, true)
            .body(content.from(400_000));
        server.request(append).await.expect(201);
        assert_file(&server, &path, content).await;
    }
}

#[tokio::test]
async fn a_download_under_way_may_end_within_the_grace() {
    let mut server = TestServer::setup()
        .config("[http]\ndrain_grace = \"20s\"")
        .start()
        .await;
    let content = Content::new(91, 20_000_000);
    server
        .request(Request::put("/files/a").body(content.bytes()))
        .await
        .expect(201);
    let slow = Flow {
        bytes_per_second: Some(20_000_000),
        ..Flow::default()
    };
    let proxy = Proxy::start(server.address(), Flow::default(), slow).await;
    let mut client = Client::open(proxy.address(), Version::Http1).await;
    client.begin(&Request::get("/files/a")).await.unwrap();
    assert!(
        client.interim().await.is_none(),
        "the final answer has begun"
    );

    server.terminate();
    let response = client.response().await.unwrap().expect(200);
    content.assert_is(&response.body);
    assert!(server.ended(PATIENCE).await.success());
}

#[tokio::test]
async fn nobody_can_hold_the_server_beyond_the_grace() {
    let mut server = TestServer::setup()
        .config("[http]\ndrain_grace = \"1s\"")
        .start()
        .await;
    let content = Content::new(92, 20_000_000);
    server
        .request(Request::put("/files/a").body(content.bytes()))
        .await
        .expect(201);
    let mut held = Vec::new();
    for version in Version::ALL {
        // One client that does not read, one that does not send, one that makes no request.
        let mut reader = server.client(version).await;
        reader.begin(&Request::get("/files/a")).await.unwrap();
        let mut writer = server.client(version).await;
        writer
            .begin(&Request::put("/files/b").announcing(10))
            .await
            .unwrap();
        let idle = server.client(version).await;
        held.extend([reader, writer, idle]);
    }
    server.terminate();
    let status = server.ended(Duration::from_secs(6)).await;
    assert!(status.success(), "{status}");
    drop(held);
}

#[tokio::test]
async fn no_new_work_is_taken_once_it_is_told_to_end() {
    let mut server = TestServer::setup()
        .config("[http]\ndrain_grace = \"10s\"")
        .start()
        .await;
    server.terminate();
    let status = server.ended(Duration::from_secs(5)).await;
    assert!(status.success(), "an idle server ends at once: {status}");
    assert!(
        Client::try_open(server.address(), Version::Http1)
            .await
            .is_err()
    );
}
