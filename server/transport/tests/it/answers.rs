//! Answers: framing, HEAD, dates, refusals, and bodies that fail.

use std::time::Duration;

use axum::{
    Router,
    body::Body,
    response::Response,
    routing::{any, get},
};
use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, StatusCode};
use transport::{Config, Peer};

use crate::support::{H2, Server, get as get_request, put, soon, uploads};

/// Fails when the first half has long been sent.
fn failing(length: Option<u64>) -> Response {
    let frames = futures::stream::iter([Ok(Bytes::from_static(b"half"))]).chain(
        futures::stream::once(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Err(std::io::Error::other("storage failed"))
        }),
    );
    let mut response = Response::new(Body::from_stream(frames));
    if let Some(length) = length {
        response
            .headers_mut()
            .insert("content-length", length.into());
    }
    response
}

fn sized(declared: u64, content: &'static str) -> Response {
    let frames = futures::stream::iter([Ok::<_, std::io::Error>(content)]);
    Response::builder()
        .header("content-length", declared)
        .body(Body::from_stream(frames))
        .unwrap()
}

fn router() -> Router {
    Router::new()
        .route("/chunked-failing", get(async || failing(None)))
        .route("/sized-failing", get(async || failing(Some(8))))
        .route("/too-short", get(async || sized(10, "short")))
        .route("/too-long", get(async || sized(2, "longer")))
        .route(
            "/head",
            any(async |method: Method| {
                let body = if method == Method::HEAD {
                    Body::empty()
                } else {
                    Body::from("x")
                };
                Response::builder()
                    .header(
                        "content-length",
                        if method == Method::HEAD { 12345 } else { 1 },
                    )
                    .body(body)
                    .unwrap()
            }),
        )
        .route("/get-only", get(async || "0123456789"))
        .route("/none", any(async || StatusCode::NO_CONTENT))
        .route(
            "/not-modified",
            any(async || (StatusCode::NOT_MODIFIED, [("etag", "\"x\"")])),
        )
        .route("/early", any(async || StatusCode::PROCESSING))
        .route(
            "/peer",
            any(async |request: Request<Body>| format!("{:?}", request.extensions().get::<Peer>())),
        )
        .route(
            "/panic",
            any(async || {
                if true {
                    panic!("on purpose")
                }
            }),
        )
        .merge(uploads())
}

#[tokio::test]
async fn a_failing_body_never_looks_whole() {
    let server = Server::start(Config::default(), router()).await;
    let mut client = server.connect().await;
    client
        .send("GET /chunked-failing HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    assert_eq!(client.head().await.status, 200);
    let (rest, end) = client.rest().await;
    assert!(
        !rest.ends_with(b"0\r\n\r\n"),
        "the chunked body was ended properly: {end:?}"
    );

    let mut client = server.connect().await;
    client
        .send("GET /sized-failing HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    assert_eq!(client.head().await.field("content-length"), "8");
    assert!(client.rest().await.0.len() < 8);

    // Without a length or chunks, only a reset tells.
    let mut client = server.connect().await;
    client.send("GET /chunked-failing HTTP/1.0\r\n\r\n").await;
    let (_, end) = client.rest().await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);

    let mut client = server.connect().await;
    client.send("GET /panic HTTP/1.1\r\nhost: x\r\n\r\n").await;
    client.assert_closed().await;

    let mut client = server.h2().await;
    for path in [
        "/chunked-failing",
        "/sized-failing",
        "/too-short",
        "/too-long",
        "/panic",
    ] {
        let (response, _) = client.request(get_request(path), true).await;
        let error = H2::response(response).await.unwrap_err();
        assert!(error.is_reset(), "{path}: {error:?}");
    }
    let (response, _) = client.request(get_request("/hello"), true).await;
    assert_eq!(H2::response(response).await.unwrap().1, "hello");
}

#[tokio::test]
async fn a_body_shorter_than_declared_is_cut() {
    let server = Server::start(Config::default(), router()).await;
    let mut client = server.connect().await;
    client
        .send("GET /too-short HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    let (rest, _) = client.rest().await;
    let content = rest
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map_or(0, |end| rest.len() - end - 4);
    assert!(content < 10);
}

#[tokio::test]
async fn answers_without_content_have_none() {
    let server = Server::start(Config::default(), router()).await;
    let mut client = server.connect().await;
    for (path, method, status, length) in [
        ("/head", "HEAD", 200, "12345"),
        ("/get-only", "HEAD", 200, "10"),
        ("/none", "GET", 204, ""),
        ("/not-modified", "GET", 304, ""),
    ] {
        client
            .send(format!("{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
            .await;
        let head = client.head().await;
        assert_eq!(
            (head.status, head.field("content-length")),
            (status, length),
            "{method} {path}"
        );
        assert!(head.fields.contains_key("date"));

        let mut h2 = server.h2().await;
        let mut request = get_request(path);
        *request.method_mut() = method.parse().unwrap();
        let (response, _) = h2.request(request, true).await;
        let (head, content) = H2::response(response).await.unwrap();
        let got = head
            .headers
            .get("content-length")
            .map_or("", |value| value.to_str().unwrap());
        assert_eq!(
            (head.status.as_u16(), got, content.len()),
            (status, length, 0),
            "{method} {path} on HTTP/2"
        );
        assert!(head.headers.contains_key("date"));
    }
    client.assert_quiet().await;
}

#[tokio::test]
async fn broken_requests_get_a_problem_document() {
    let config = Config {
        max_head_fields: 20,
        ..Config::default()
    };
    let server = Server::start(config, router()).await;
    let many = "x: y\r\n".repeat(21);
    let large = format!("x: {}\r\n", "y".repeat(40_000));
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "y".repeat(70_000));
    for (request, status) in [
        ("GARBAGE\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nbad field\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n", 400),
        ("GET / HTTP/7.3\r\nhost: x\r\n\r\n", 400),
        (
            "PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 1, 2\r\n\r\n",
            400,
        ),
        (&format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n"), 431),
        (&format!("GET / HTTP/1.1\r\nhost: x\r\n{large}\r\n"), 431),
        (&long, 431),
        (
            "CONNECT example.org:443 HTTP/1.1\r\nhost: example.org:443\r\n\r\n",
            501,
        ),
    ] {
        let shown: String = request.chars().take(60).collect();
        let mut client = server.connect().await;
        // The second time on a connection that has seen a good request.
        for reused in [false, true] {
            if reused {
                client = server.connect().await;
                client.send("GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await;
                assert_eq!(client.response().await.1, "hello");
            }
            client.send(request).await;
            let (head, content) = client.response().await;
            assert_eq!(head.status, status, "{shown:?}");
            assert_eq!(
                head.field("content-type"),
                "application/problem+json",
                "{shown:?}"
            );
            assert_eq!(head.field("connection"), "close");
            let problem: serde_json::Value = serde_json::from_slice(&content).unwrap();
            assert_eq!(problem["status"], status);
            assert!(
                problem["request_id"].is_string()
                    && problem["title"].is_string()
                    && problem["detail"].is_string()
            );
            client.assert_closed().await;
        }
    }
    let mut client = server.h2().await;
    let mut request = get_request("/");
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = "example.org:443".parse().unwrap();
    let (response, _) = client.request(request, true).await;
    assert_eq!(H2::response(response).await.unwrap().0.status, 501);
}

#[tokio::test]
async fn an_interim_status_is_no_final_answer() {
    let server = Server::start(Config::default(), router()).await;
    let mut client = server.connect().await;
    client.send("GET /early HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(client.response().await.0.status, 500);
    let (response, _) = server.h2().await.request(get_request("/early"), true).await;
    assert_eq!(H2::response(response).await.unwrap().0.status, 500);
}

#[tokio::test]
async fn handlers_see_their_peer() {
    for tls in [false, true] {
        let server = match tls {
            true => Server::start_tls(Config::default(), router()).await,
            false => Server::start(Config::default(), router()).await,
        };
        let mut client = server.connect().await;
        client.send("GET /peer HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let content = client.response().await.1;
        let content = std::str::from_utf8(&content).unwrap();
        assert!(
            content.contains("127.0.0.1") && content.contains(&format!("secure: {tls}")),
            "{content}"
        );
        let (response, _) = server.h2().await.request(get_request("/peer"), true).await;
        let content = H2::response(response).await.unwrap().1;
        assert!(
            std::str::from_utf8(&content)
                .unwrap()
                .contains(&format!("secure: {tls}"))
        );
    }
}

#[tokio::test]
async fn an_early_answer_is_seen_by_a_client_that_still_sends() {
    let server = Server::start(Config::default(), router()).await;
    // A client that reads only when it has sent everything, or can send no more.
    let mut client = server.connect().await;
    let length = 512 * 1024 * 1024_u64;
    client
        .send(format!(
            "PUT /short HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n"
        ))
        .await;
    let sending = async {
        use tokio::io::AsyncWriteExt;
        let block = vec![0; 64 * 1024];
        for _ in 0..16 {
            if client.io.write_all(&block).await.is_err() {
                break;
            }
        }
        client
    };
    let mut client = soon(sending).await;
    let (head, content) = client.response().await;
    assert_eq!(
        (head.status, &content[..], head.field("connection")),
        (409, &b"no"[..], "close")
    );

    // A short body is read to its end, so that the connection can go on.
    let mut client = server.connect().await;
    for _ in 0..3 {
        let body = "y".repeat(200_000);
        client
            .send(format!(
                "PUT /short HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n{body}"
            ))
            .await;
        let (head, _) = client.response().await;
        assert_eq!((head.status, head.field("connection")), (409, ""));
    }

    let mut client = server.h2().await;
    for length in [100_000, 100_000_000_usize] {
        let (response, mut body) = client.request(put("/short"), false).await;
        body.send_data(vec![0; length].into(), true).ok();
        let (head, content) = H2::response(response).await.unwrap();
        assert_eq!((head.status.as_u16(), &content[..]), (409, &b"no"[..]));
    }
}
