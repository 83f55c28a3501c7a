//! TLS in the server itself, with ALPN for both versions.

use tests::{Client, Content, Request, TestServer, Version};

use crate::dialect::Dialect;
use crate::resume::begin;
use crate::uploads::assert_file;

#[tokio::test]
async fn everything_works_over_tls_too() {
    let server = TestServer::setup().tls().start().await;
    let content = Content::new(110, 900_000);
    for version in Version::ALL {
        for dialect in Dialect::ALL {
            let path = format!("/files/{version:?}-{dialect:?}");
            let mut client = server.client(version).await;
            let upload = begin(&mut client, dialect, &path, content.length()).await;
            client.send(&content.slice(0..500_000)).await.unwrap();
            client.drained().await;
            client.lose();

            let mut client = server.client(version).await;
            let head = client
                .exchange(&dialect.head(&upload))
                .await
                .unwrap()
                .expect(204);
            let offset = head.offset();
            assert!(offset <= 500_000, "{offset}");
            let append = dialect
                .append(&upload, offset, true)
                .body(content.from(offset));
            client.exchange(&append).await.unwrap().expect(201);
            assert_file(&server, &path, content).await;
        }
    }
}

#[tokio::test]
async fn plain_text_on_the_tls_port_harms_nobody() {
    let server = TestServer::setup().tls().start().await;
    let mut lost = Client::open(server.address(), Version::Http1).await;
    lost.exchange(&Request::get("/files"))
        .await
        .expect_err("it is no TLS");
    server.request(Request::get("/files")).await.expect(200);
}

#[tokio::test]
async fn many_requests_share_one_connection() {
    let server = TestServer::setup().tls().start().await;
    let Client::Http2(mut connection, _) = server.client(Version::Http2).await else {
        unreachable!("this version was requested")
    };
    let mut exchanges = Vec::new();
    for number in 0..40 {
        let content = Content::new(111 + number, 50_000);
        let put = Request::put(format!("/files/{number}")).announcing(content.length());
        let exchange = connection.begin(&put).await.unwrap();
        exchanges.push((content, number, exchange));
    }
    // All exchanges are open; each is finished in turn.
    for (content, number, mut exchange) in exchanges {
        exchange.send(&content.bytes()).await.unwrap();
        exchange.finish().unwrap();
        exchange.response().await.unwrap().expect(201);
        assert_file(&server, &format!("/files/{number}"), content).await;
    }
}

#[tokio::test]
async fn a_stream_that_is_reset_does_not_disturb_its_neighbours() {
    let server = TestServer::setup().tls().start().await;
    let Client::Http2(mut connection, _) = server.client(Version::Http2).await else {
        unreachable!("this version was requested")
    };
    let dialect = Dialect::Interop6;
    let content = Content::new(112, 400_000);
    let put = |path: &str| dialect.create(Request::put(path).announcing(content.length()), true);
    let mut kept = connection.begin(&put("/files/kept")).await.unwrap();
    let mut lost = connection.begin(&put("/files/lost")).await.unwrap();
    let upload = lost
        .interim()
        .await
        .expect("a 104")
        .field("location")
        .to_owned();
    lost.send(&content.slice(0..100_000)).await.unwrap();
    kept.send(&content.slice(0..200_000)).await.unwrap();
    connection.drained().await;
    lost.reset();
    kept.send(&content.from(200_000)).await.unwrap();
    kept.finish().unwrap();
    kept.response().await.unwrap().expect(201);
    assert_file(&server, "/files/kept", content).await;

    let head = connection
        .exchange(&dialect.head(&upload))
        .await
        .unwrap()
        .expect(204);
    let offset = head.offset();
    assert!(offset <= 100_000, "{offset}");
    let append = dialect
        .append(&upload, offset, true)
        .body(content.from(offset));
    connection.exchange(&append).await.unwrap().expect(201);
    assert_file(&server, "/files/lost", content).await;
}
