//! Transfer codings: `chunked`, once and last, is supported; a body in any other coding is refused
//! before a handler sees it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{Router, routing::any};
use transport::Config;

use crate::{
    floods::{END_HEADERS, HEADERS, frame, put_head},
    support::{Server, soon},
};

/// Counts the requests that reach a handler.
async fn counting() -> (Server, Arc<AtomicUsize>) {
    let reached = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reached);
    let router = Router::new().fallback(any(async move || {
        count.fetch_add(1, Ordering::Relaxed);
        "hello"
    }));
    (Server::start(Config::default(), router).await, reached)
}

/// Returns a request of this version with these fields, and a chunked body of five bytes.
fn request(method: &str, version: &str, fields: &str) -> String {
    format!("{method} /a HTTP/{version}\r\nhost: x\r\n{fields}\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
}

#[tokio::test]
async fn a_coding_that_is_not_understood_is_refused_and_the_connection_closed() {
    let (server, reached) = counting().await;
    for (version, fields, status) in [
        ("1.1", "transfer-encoding: gzip, chunked", 501),
        ("1.1", "Transfer-Encoding: GZIP,Chunked", 501),
        (
            "1.1",
            "transfer-encoding: gzip\r\ntransfer-encoding: chunked",
            501,
        ),
        ("1.1", "transfer-encoding: identity, chunked", 501),
        ("1.1", "transfer-encoding: x-foo;level=1, chunked", 501),
        ("1.1", "transfer-encoding: chunked, chunked", 400),
        (
            "1.1",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
            400,
        ),
        ("1.1", "transfer-encoding: chunked, gzip", 400),
        (
            "1.1",
            "transfer-encoding: chunked\r\ntransfer-encoding: gzip",
            400,
        ),
        ("1.1", "transfer-encoding: deflate", 400),
        ("1.1", "transfer-encoding: chunked;q=1", 400),
        ("1.1", "transfer-encoding: xchunked", 400),
        ("1.1", "transfer-encoding:", 400),
        ("1.0", "transfer-encoding: chunked", 400),
        ("1.0", "transfer-encoding: gzip, chunked", 400),
    ] {
        for method in ["PUT", "POST", "GET", "DELETE"] {
            let mut client = server.connect().await;
            client.send(request(method, version, fields)).await;
            let (head, _) = client.response().await;
            assert_eq!(
                (
                    head.status,
                    head.field("connection"),
                    head.field("content-type")
                ),
                (status, "close", "application/problem+json"),
                "{method} HTTP/{version} {fields}"
            );
            client.assert_closed().await;
        }
    }
    assert_eq!(reached.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn chunked_is_understood_however_it_is_written() {
    let (server, reached) = counting().await;
    for fields in [
        "transfer-encoding: chunked",
        "Transfer-Encoding: CHUNKED",
        "transfer-encoding: , chunked",
        "transfer-encoding:\tchunked ",
    ] {
        let mut client = server.connect().await;
        client.send(request("PUT", "1.1", fields)).await;
        assert_eq!(client.response().await.1, "hello", "{fields}");
    }
    assert_eq!(reached.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn http2_has_no_transfer_codings() {
    const RST_STREAM: u8 = 3;
    const PROTOCOL_ERROR: [u8; 4] = [0, 0, 0, 1];

    let (server, reached) = counting().await;
    for coding in ["chunked", "gzip, chunked", "gzip"] {
        let mut client = server.connect().await;
        client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        client.send(frame(4, 0, 0, &[])).await;
        let mut head = put_head();
        head.extend([0x00, 17]);
        head.extend(b"transfer-encoding");
        head.push(u8::try_from(coding.len()).unwrap());
        head.extend(coding.as_bytes());
        client.send(frame(HEADERS, END_HEADERS, 1, &head)).await;
        let (kind, payload) = soon(async {
            loop {
                let head = client.content(9).await;
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let payload = client.content(usize::try_from(length).unwrap()).await;
                if head[5..] == [0, 0, 0, 1] {
                    break (head[3], payload);
                }
            }
        })
        .await;
        assert_eq!(
            (kind, &payload[..]),
            (RST_STREAM, &PROTOCOL_ERROR[..]),
            "{coding}"
        );
    }
    assert_eq!(reached.load(Ordering::Relaxed), 0);
}
