//! A client that returns while its old request is still open: the new request is served at once.

use std::time::Duration;

use tests::{Client, Content, Dice, Fault, Flow, Proxy, Request, TestServer, Version, within};

use crate::dialect::Dialect;
use crate::resume::begin;
use crate::uploads::assert_file;

/// Time within which the contract promises an answer to the newest request.
const AT_ONCE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_head_ends_the_append_that_lies_there() {
    let server = TestServer::start().await;
    let content = Content::new(40, 900_000);
    for version in Version::ALL {
        for dialect in Dialect::ALL {
            let path = format!("/files/{version:?}-{dialect:?}");
            let mut old = server.client(version).await;
            let upload = begin(&mut old, dialect, &path, content.length()).await;
            old.send(&content.slice(0..500_000)).await.unwrap();
            old.drained().await;

            let head = server.request(dialect.head(&upload));
            let head = within(AT_ONCE, "the offset", head).await.expect(204);
            assert_eq!(head.offset(), 500_000, "what arrived is kept");
            let cut = old
                .response()
                .await
                .expect_err("the older request is not answered");
            assert!(cut.partial.is_none(), "{cut:?}");

            let append = dialect
                .append(&upload, 500_000, true)
                .body(content.from(500_000));
            server.request(append).await.expect(201);
            assert_file(&server, &path, content).await;
        }
    }
}

#[tokio::test]
async fn an_append_takes_over_from_the_one_that_lies_there() {
    let server = TestServer::start().await;
    let content = Content::new(41, 900_000);
    for version in Version::ALL {
        let dialect = Dialect::Interop6;
        let path = format!("/files/{version:?}");
        let mut old = server.client(version).await;
        let upload = begin(&mut old, dialect, &path, content.length()).await;
        old.send(&content.slice(0..500_000)).await.unwrap();
        old.drained().await;

        let append = dialect
            .append(&upload, 500_000, true)
            .body(content.from(500_000));
        within(AT_ONCE, "the append", server.request(append))
            .await
            .expect(201);
        old.response()
            .await
            .expect_err("the older request is not answered");
        assert_file(&server, &path, content).await;
    }
}

#[tokio::test]
async fn a_cancellation_ends_the_append_that_lies_there() {
    let server = TestServer::start().await;
    let content = Content::new(42, 900_000);
    for version in Version::ALL {
        let dialect = Dialect::Interop6;
        let mut old = server.client(version).await;
        let upload = begin(&mut old, dialect, "/files/a", content.length()).await;
        old.send(&content.slice(0..500_000)).await.unwrap();

        within(
            AT_ONCE,
            "the cancellation",
            server.request(dialect.cancel(&upload)),
        )
        .await
        .expect(204);
        old.response()
            .await
            .expect_err("the older request is not answered");
        server.request(Request::get("/files/a")).await.expect(404);
    }
}

#[tokio::test]
async fn a_phone_that_fell_silent_can_go_on_at_once() {
    let server = TestServer::start().await;
    let content = Content::new(43, 900_000);
    let dialect = Dialect::Interop6;
    let tunnel = Flow {
        fault: Some(Fault::SilentAfter(400_000)),
        ..Flow::default()
    };
    let proxy = Proxy::start(server.address(), tunnel, Flow::default()).await;
    let mut old = Client::open(proxy.address(), Version::Http1).await;
    let upload = begin(&mut old, dialect, "/files/a", content.length()).await;
    // The rest stays in the proxy's buffers; neither side learns that it never arrives.
    old.send(&content.slice(0..500_000)).await.unwrap();

    // The phone has changed networks. The connection through the proxy is still open.
    let head = within(AT_ONCE, "the offset", server.request(dialect.head(&upload)))
        .await
        .expect(204);
    let offset = head.offset();
    assert!(offset <= 400_000, "{offset}");
    let append = dialect
        .append(&upload, offset, true)
        .body(content.from(offset));
    server.request(append).await.expect(201);
    assert_file(&server, "/files/a", content).await;
}

#[tokio::test]
async fn many_that_compete_leave_the_content_exact() {
    let server = TestServer::start().await;
    let content = Content::new(44, 3_000_000);
    let dialect = Dialect::Interop6;
    let mut client = server.client(Version::Http1).await;
    let upload = begin(&mut client, dialect, "/files/contended", content.length()).await;
    client.lose();

    let contender = async |seed: u64| {
        let mut dice = Dice::new(seed);
        let version = Version::ALL[usize::try_from(seed % 2).unwrap()];
        loop {
            // Another contender may end any of these requests; the client then asks again after a
            // pause, as real clients do. Six clients that take over the upload from each other
            // without a pause can prevent all progress.
            let pause = Duration::from_millis(dice.within(0..500));
            let Ok(head) = server
                .client(version)
                .await
                .exchange(&dialect.head(&upload))
                .await
            else {
                tokio::time::sleep(pause).await;
                continue;
            };
            let head = head.expect(204);
            if dialect.is_complete(&head.head) == Some(true) {
                return;
            }
            let offset = head.offset();
            let end = (offset + dice.within(1..400_000)).min(content.length());
            let completes = end == content.length();
            let append = dialect
                .append(&upload, offset, completes)
                .body(content.slice(offset..end));
            match server.client(version).await.exchange(&append).await {
                Err(_) => tokio::time::sleep(pause).await,
                Ok(response) => match response.status() {
                    // The offset is larger if another contender with the same reported offset went
                    // further and arrived first, so that this request repeated its bytes.
                    201 => assert!(response.offset() >= end, "{end}: {response:?}"),
                    // Another contender was faster, or the upload is complete.
                    409 | 400 => {}
                    other => panic!("{other}: {response:?}"),
                },
            }
        }
    };
    let contenders = (0..6).map(contender);
    let all = futures::future::join_all(contenders);
    // On S3, every takeover costs a few requests.
    within(tests::PATIENCE * 4, "one client completes the upload", all).await;
    assert_file(&server, "/files/contended", content).await;
}
