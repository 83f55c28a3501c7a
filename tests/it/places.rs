//! Admission when there are more connections than places, or no file descriptors left.

use tests::{Client, Request, TestServer, Version};

#[tokio::test]
async fn slow_heads_keep_nobody_out() {
    let server = TestServer::setup()
        .config("[http]\nmax_connections = 40")
        .start()
        .await;
    server
        .request(Request::put("/files/a").body("hello"))
        .await
        .expect(201);
    let mut slow = Vec::new();
    for _ in 0..60 {
        let Client::Http1(mut connection) = server.client(Version::Http1).await else {
            unreachable!("this version was requested")
        };
        // The server may have closed the connection already.
        let _ = connection.send_raw(b"GET /files/a HTTP/1.1\r\nA: ").await;
        slow.push(connection);
    }
    for version in Version::ALL.into_iter().cycle().take(40) {
        let mut client = server.client(version).await;
        let answer = client.exchange(&Request::get("/files/a")).await.unwrap();
        assert_eq!(&answer.expect(200).body[..], b"hello");
    }
}

#[tokio::test]
async fn with_no_more_files_idle_connections_make_room() {
    let server = TestServer::start().await;
    server
        .request(Request::put("/files/a").body("hello"))
        .await
        .expect(201);
    server.limit_open_files(120);
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(server.client(Version::Http1).await);
    }
    for _ in 0..5 {
        server.request(Request::get("/files")).await.expect(200);
    }
}
