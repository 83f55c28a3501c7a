//! Bodies both ways: distinct errors, trailers, back-pressure.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    response::Response,
    routing::{get, put as route_put},
};
use bytes::Bytes;
use futures::StreamExt;
use http::HeaderMap;
use http_body_util::BodyExt;
use tokio::{io::AsyncWriteExt, sync::mpsc};
use transport::{BodyError, Config, Interim, InterimError};

use crate::{
    floods::{DATA, END_HEADERS, HEADERS, SETTINGS, frame, put_head},
    support::{H2, Server, announce, get as get_request, put, soon},
};

/// Reports the end of each request's body to the test.
fn reporting() -> (Router, mpsc::UnboundedReceiver<String>) {
    let (reports, received) = mpsc::unbounded_channel();
    let router = Router::new().route(
        "/",
        route_put(async move |mut body: Body| {
            let mut length = 0;
            let report = loop {
                match body.frame().await {
                    Some(Ok(frame)) => match frame.into_trailers() {
                        Ok(trailers) => break format!("trailers {trailers:?}"),
                        Err(frame) => length += frame.into_data().unwrap().len(),
                    },
                    Some(Err(error)) => {
                        let kind = match BodyError::of(&error).unwrap() {
                            BodyError::Idle => "idle",
                            BodyError::Disconnected(_) => "disconnected",
                            BodyError::Malformed(_) => "malformed",
                        };
                        // A handler that runs to its end is not interrupted when the client goes
                        // away.
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        break format!("{kind} after {length}");
                    }
                    None => break format!("complete after {length}"),
                }
            };
            reports.send(report.clone()).unwrap();
            report
        }),
    );
    (router, received)
}

fn impatient() -> Config {
    Config {
        body_idle_timeout: Duration::from_millis(200),
        ..Config::default()
    }
}

#[tokio::test]
async fn a_silent_client_times_out_and_a_slow_one_does_not() {
    let (router, mut reports) = reporting();
    let server = Server::start(impatient(), router).await;
    let mut client = server.connect().await;
    client
        .send("PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n12")
        .await;
    assert_eq!(client.response().await.1, "idle after 2");
    client.assert_closed().await;
    assert_eq!(reports.recv().await.unwrap(), "idle after 2");

    let mut client = server.connect().await;
    client
        .send("PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n")
        .await;
    for byte in ["1", "2", "3", "4", "5"] {
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.send(byte).await;
    }
    assert_eq!(client.response().await.1, "complete after 5");

    let mut client = server.h2().await;
    let (response, mut body) = client.request(put("/"), false).await;
    body.send_data("12".into(), false).unwrap();
    assert_eq!(H2::response(response).await.unwrap().1, "idle after 2");
}

#[tokio::test]
async fn a_client_that_goes_away_has_an_error_of_its_own() {
    let (router, mut reports) = reporting();
    let server = Server::start(Config::default(), router).await;
    let mut client = server.connect().await;
    client
        .send("PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n12")
        .await;
    drop(client);
    assert_eq!(soon(reports.recv()).await.unwrap(), "disconnected after 2");

    // With only its writing side closed.
    let mut client = server.connect().await;
    client
        .send("PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n12")
        .await;
    client.finish().await;
    assert_eq!(soon(reports.recv()).await.unwrap(), "disconnected after 2");

    let mut client = server.h2().await;
    let (_response, mut body) = client.request(put("/"), false).await;
    body.send_data("12".into(), false).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    body.send_reset(h2::Reason::CANCEL);
    assert_eq!(soon(reports.recv()).await.unwrap(), "disconnected after 2");

    // NO_ERROR is no end either.
    let (_response, mut body) = client.request(put("/"), false).await;
    body.send_data("12".into(), false).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    body.send_reset(h2::Reason::NO_ERROR);
    assert_eq!(soon(reports.recv()).await.unwrap(), "disconnected after 2");

    let mut client = server.h2().await;
    let (_response, mut body) = client.request(put("/"), false).await;
    body.send_data("12".into(), false).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.connection.abort();
    assert_eq!(soon(reports.recv()).await.unwrap(), "disconnected after 2");
}

#[tokio::test]
async fn a_handler_finishes_what_a_dead_connection_left_it() {
    // Interim responses all along, so that the connection fails in writing as well.
    let (reports, mut received) = mpsc::unbounded_channel();
    let router = Router::new().route(
        "/",
        route_put(
            async move |Extension(interim): Extension<Interim>, mut body: Body| {
                let chatter = tokio::spawn(async move {
                    while announce(&interim, "/uploads/1") != Err(InterimError::Closed) {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                });
                while let Some(Ok(_)) = body.frame().await {}
                tokio::time::sleep(Duration::from_millis(100)).await;
                chatter.abort();
                reports.send(()).unwrap();
            },
        ),
    );
    let server = Server::start(Config::default(), router).await;
    for _ in 0..20 {
        let mut client = server.connect().await;
        client
            .send("PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n12")
            .await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        client.reset();
        soon(received.recv()).await.unwrap();
    }
    for _ in 0..20 {
        let mut client = server.connect_h2().await;
        client
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        client.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        let open = frame(HEADERS, END_HEADERS, 1, &put_head());
        client.write_all(&open).await.unwrap();
        client.write_all(&frame(DATA, 0, 1, b"12")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        client.reset();
        soon(received.recv()).await.unwrap();
    }
}

#[tokio::test]
async fn broken_framing_has_an_error_of_its_own() {
    let (router, _reports) = reporting();
    let server = Server::start(Config::default(), router).await;
    for broken in [
        "3\r\nabc\r\nno size\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\r\nbroken trailer\r\n\r\n",
    ] {
        let mut client = server.connect().await;
        client
            .send(format!(
                "PUT / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{broken}"
            ))
            .await;
        assert_eq!(client.response().await.1, "malformed after 3", "{broken:?}");
        client.assert_closed().await;
    }
}

#[tokio::test]
async fn trailers_arrive() {
    let (router, _reports) = reporting();
    let server = Server::start(Config::default(), router).await;
    let mut client = server.connect().await;
    let request = "PUT / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ntrailer: upload-checksum\r\n\r\n\
                   3\r\nabc\r\n0\r\nUpload-Checksum: sha1 x\r\n\r\n";
    // Twice: trailers end a body, and the connection goes on.
    for _ in 0..2 {
        client.send(request).await;
        assert_eq!(
            client.response().await.1,
            "trailers {\"upload-checksum\": \"sha1 x\"}"
        );
    }
    let (response, mut body) = server.h2().await.request(put("/"), false).await;
    body.send_data("abc".into(), false).unwrap();
    body.send_trailers(HeaderMap::from_iter([(
        "upload-checksum".parse().unwrap(),
        "sha1 x".parse().unwrap(),
    )]))
    .unwrap();
    assert_eq!(
        H2::response(response).await.unwrap().1,
        "trailers {\"upload-checksum\": \"sha1 x\"}"
    );
}

/// Counts the bytes that the transport has asked its answer for.
fn measured() -> (Router, Arc<AtomicU64>) {
    let produced = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&produced);
    let router = Router::new().route(
        "/",
        get(async move || {
            let frame = Bytes::from(vec![b'x'; 256 * 1024]);
            Response::new(Body::from_stream(futures::stream::repeat(()).map(
                move |()| {
                    counter.fetch_add(frame.len() as u64, Ordering::Relaxed);
                    Ok::<_, std::io::Error>(frame.clone())
                },
            )))
        }),
    );
    (router, produced)
}

#[tokio::test]
async fn an_answer_is_produced_no_faster_than_it_is_read() {
    let (router, produced) = measured();
    let server = Server::start(Config::default(), router).await;
    let mut client = server.connect().await;
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let ahead = produced.swap(0, Ordering::Relaxed);
    // What the kernel's buffers on both sides take, and little more.
    assert!(ahead < 16 * 1024 * 1024, "{ahead}");

    let mut client = server.h2().await;
    let (response, _) = client.request(get_request("/"), true).await;
    let response = soon(response).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    // The window of a client that reads nothing is 64 KiB.
    let ahead = produced.swap(0, Ordering::Relaxed);
    assert!(ahead <= 2 * 256 * 1024, "{ahead}");
    drop(response);
}

#[tokio::test]
async fn a_client_is_held_back_when_its_handler_does_not_read() {
    let (go, mut wait) = mpsc::channel::<()>(1);
    let wait = Arc::new(tokio::sync::Mutex::new(std::mem::replace(
        &mut wait,
        mpsc::channel(1).1,
    )));
    let router = Router::new().route(
        "/",
        route_put(async move |body: Body| {
            wait.lock().await.recv().await;
            body.collect().await.unwrap().to_bytes().len().to_string()
        }),
    );
    let server = Server::start(Config::default(), router).await;
    let mut client = server.h2().await;
    let (response, mut body) = client.request(put("/"), false).await;
    let length = 4 * 1024 * 1024;
    body.reserve_capacity(length);
    let mut granted = 0;
    while let Ok(Some(Ok(capacity))) = tokio::time::timeout(
        Duration::from_millis(300),
        std::future::poll_fn(|task| body.poll_capacity(task)),
    )
    .await
    {
        granted += capacity;
        body.send_data(vec![0; capacity].into(), false).unwrap();
        body.reserve_capacity(length - granted);
    }
    assert_eq!(granted, 64 * 1024, "the window at the start");
    go.send(()).await.unwrap();
    body.send_data(vec![0; length - granted].into(), true)
        .unwrap();
    assert_eq!(H2::response(response).await.unwrap().1, length.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn large_uploads_arrive_whole() {
    for tls in [false, true] {
        let (router, _reports) = reporting();
        let server = if tls {
            Server::start_tls(Config::default(), router).await
        } else {
            Server::start(Config::default(), router).await
        };
        let mut client = server.h2().await;
        let (response, mut body) = client.request(put("/"), false).await;
        let block = Bytes::from(vec![0; 1024 * 1024]);
        for _ in 0..64 {
            let mut block = block.clone();
            while !block.is_empty() {
                body.reserve_capacity(block.len());
                let capacity = soon(std::future::poll_fn(|task| body.poll_capacity(task)))
                    .await
                    .unwrap()
                    .unwrap();
                body.send_data(block.split_to(capacity.min(block.len())), false)
                    .unwrap();
            }
        }
        body.send_data(Bytes::new(), true).unwrap();
        assert_eq!(
            H2::response(response).await.unwrap().1,
            "complete after 67108864"
        );
    }
}
