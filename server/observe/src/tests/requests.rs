//! Requests by route, method, status and outcome, and what flows.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody as _, to_bytes};
use axum::extract::Request;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::{any, get};
use futures::future::poll_immediate;
use futures::stream;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tower::ServiceExt as _;
use transport::Cut;

use super::{Recorded, serve};
use crate::router;
use crate::table::{RECEIVED_BYTES, REQUEST_DURATION, REQUESTS_IN_FLIGHT, SENT_BYTES};

/// A chunk of an answer, and how many of them one has.
const CHUNK: &[u8] = &[7; 100];
const CHUNKS: usize = 3;

fn chunks() -> Body {
    let chunks = stream::iter((0..CHUNKS).map(|_| Ok::<_, Infallible>(CHUNK)));
    Body::from_stream(chunks)
}

async fn file() -> Response {
    let mut response = Response::new(chunks());
    let length = HeaderValue::from(CHUNK.len() * CHUNKS);
    response.headers_mut().insert(CONTENT_LENGTH, length);
    response
}

async fn endless() -> Body {
    Body::from_stream(stream::repeat(Ok::<_, Infallible>(CHUNK)))
}

async fn broken() -> Body {
    let error = std::io::Error::other("planned");
    Body::from_stream(stream::iter([Ok(CHUNK), Err(error)]))
}

async fn upload(request: Request) -> StatusCode {
    match to_bytes(request.into_body(), usize::MAX).await {
        Ok(_) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::BAD_REQUEST,
    }
}

fn routes() -> Router {
    router(
        Router::new()
            .route("/files/{*path}", get(file))
            .route("/chunks", get(async || chunks()))
            .route("/endless", get(endless))
            .route("/broken", get(broken))
            .route("/uploads/{id}", any(upload))
            .route("/cut", get(async || Cut::response()))
            .route("/busy", get(async || StatusCode::SERVICE_UNAVAILABLE))
            .route("/hangs", get(std::future::pending::<()>)),
    )
}

async fn answer(method: &str, path: &str, body: &'static str) -> Response {
    let request = Request::builder().method(method).uri(path);
    let request = request.body(Body::from(body)).unwrap();
    routes().oneshot(request).await.unwrap()
}

fn ended(method: &str, route: &str, status: &str, outcome: &str) -> String {
    format!(
        "{REQUEST_DURATION}{{route={route},method={method},status={status},outcome={outcome}}} 1"
    )
}

fn in_flight(method: &str, route: &str, change: i8) -> String {
    format!("{REQUESTS_IN_FLIGHT}{{route={route},method={method}}} {change}")
}

fn received(method: &str, route: &str, bytes: usize) -> String {
    format!("{RECEIVED_BYTES}{{route={route},method={method}}} {bytes}")
}

fn sent(route: &str, chunks: usize) -> String {
    let bytes = chunks * CHUNK.len();
    format!("{SENT_BYTES}{{route={route},method=GET}} {bytes}")
}

#[tokio::test]
async fn a_request_counts_by_its_route_and_never_by_its_path() {
    let recorded = Recorded::begin();
    answer("PATCH", "/uploads/secret", "hello").await;
    let route = "/uploads/{id}";
    assert_eq!(
        recorded.changes(),
        [
            received("PATCH", route, 5),
            ended("PATCH", route, "2xx", "complete"),
        ]
    );
    let body = answer("GET", "/files/a/b", "").await.into_body();
    to_bytes(body, usize::MAX).await.unwrap();
    let route = "/files/{*path}";
    assert_eq!(
        recorded.changes(),
        [ended("GET", route, "2xx", "complete"), sent(route, CHUNKS)]
    );
}

#[tokio::test]
async fn every_answer_has_a_bounded_number_of_labels() {
    let recorded = Recorded::begin();
    for (method, path, line) in [
        ("GET", "/busy", ended("GET", "/busy", "5xx", "complete")),
        ("GET", "/cut", ended("GET", "/cut", "5xx", "cut")),
        ("POST", "/cut", ended("POST", "/cut", "4xx", "complete")),
        ("GET", "/x/1", ended("GET", "unmatched", "4xx", "complete")),
        ("GET", "/x/2", ended("GET", "unmatched", "4xx", "complete")),
        ("BREW", "/cut", ended("other", "/cut", "4xx", "complete")),
        ("POUR", "/cut", ended("other", "/cut", "4xx", "complete")),
    ] {
        answer(method, path, "").await;
        assert_eq!(recorded.changes(), [line], "{method} {path}");
    }
}

#[tokio::test]
async fn an_answer_to_head_has_the_length_and_is_complete() {
    let recorded = Recorded::begin();
    let response = answer("HEAD", "/files/a", "").await;
    assert_eq!(response.headers()[CONTENT_LENGTH], "300");
    drop(response);
    assert_eq!(
        recorded.changes(),
        [ended("HEAD", "/files/{*path}", "2xx", "complete")]
    );
}

/// Each route, with the number of chunks that are taken of its answer.
#[tokio::test]
async fn an_answer_ends_as_it_was_taken() {
    let recorded = Recorded::begin();
    for (path, route, taken, outcome) in [
        ("/files/a", "/files/{*path}", 0, "cancelled"),
        ("/files/a", "/files/{*path}", 2, "cancelled"),
        // A connection does not ask for more than the declared length.
        ("/files/a", "/files/{*path}", 3, "complete"),
        // Without one, the end is not seen before it is asked for.
        ("/chunks", "/chunks", 3, "cancelled"),
        ("/chunks", "/chunks", 4, "complete"),
        ("/broken", "/broken", 2, "failed"),
        ("/broken", "/broken", 3, "failed"),
    ] {
        let mut body = answer("GET", path, "").await.into_body();
        assert_eq!(recorded.changes(), [in_flight("GET", route, 1)]);
        let mut chunks = 0;
        for _ in 0..taken {
            chunks += usize::from(matches!(body.frame().await, Some(Ok(_))));
        }
        drop(body);
        let mut expected = vec![
            ended("GET", route, "2xx", outcome),
            in_flight("GET", route, -1),
        ];
        expected.extend((chunks > 0).then(|| sent(route, chunks)));
        assert_eq!(recorded.changes(), expected, "{path} {taken}");
    }
}

#[tokio::test]
async fn content_keeps_its_length_and_its_errors() {
    let exact = "hello".len() as u64;
    let echoed = async |request: Request| request.into_body();
    let routes = router(Router::new().route("/", any(echoed)));
    let request = Request::new(Body::from("hello"));
    let response = routes.oneshot(request).await.unwrap();
    assert_eq!(response.body().size_hint().exact(), Some(exact));
    let body = answer("GET", "/broken", "").await.into_body();
    let error = to_bytes(body, usize::MAX).await.unwrap_err();
    let mut causes = vec![error.to_string()];
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    assert!(causes.contains(&"planned".to_owned()), "{causes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_is_dropped_has_no_status() {
    let recorded = Recorded::begin();
    let mut request = Box::pin(answer("GET", "/hangs", ""));
    assert!(poll_immediate(&mut request).await.is_none());
    assert_eq!(recorded.changes(), [in_flight("GET", "/hangs", 1)]);
    drop(request);
    assert_eq!(
        recorded.changes(),
        [
            ended("GET", "/hangs", "none", "cancelled"),
            in_flight("GET", "/hangs", -1),
        ]
    );
}

/// Returns a connection to a server of the routes that has sent `request`.
async fn connected(request: &str) -> TcpStream {
    let address = serve(routes());
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    client
}

/// Waits until `expected` is among the changes since the last time.
async fn seen(recorded: &Recorded, expected: &str) {
    let seeing = async {
        while !recorded.changes().iter().any(|line| line == expected) {
            tokio::task::yield_now().await;
        }
    };
    let seen = tokio::time::timeout(Duration::from_secs(10), seeing).await;
    seen.expect(expected);
}

#[tokio::test]
async fn a_client_that_vanishes_while_it_downloads_leaves_nothing_in_flight() {
    let recorded = Recorded::begin();
    let request = "GET /endless HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut client = connected(request).await;
    seen(&recorded, &in_flight("GET", "/endless", 1)).await;
    client.read_exact(&mut [0; 1000]).await.unwrap();
    drop(client);
    seen(&recorded, &in_flight("GET", "/endless", -1)).await;
}

#[tokio::test]
async fn a_client_that_vanishes_while_it_uploads_leaves_nothing_in_flight() {
    let recorded = Recorded::begin();
    let request = "PUT /uploads/1 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\nhello";
    let client = connected(request).await;
    let route = "/uploads/{id}";
    seen(&recorded, &received("PUT", route, 5)).await;
    drop(client);
    // The handler sees that the content is cut, and answers.
    seen(&recorded, &ended("PUT", route, "4xx", "complete")).await;
}
