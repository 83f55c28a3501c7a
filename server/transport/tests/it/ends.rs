//! Clients that leave, as handlers see them, and timeouts, as clients see them.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Body, routing::any};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use transport::{Config, Memory};

use crate::support::{H2, OnDrop, Server, endless, get, soon};

#[tokio::test]
async fn a_handler_whose_client_left_is_dropped() {
    let (dropped, was_dropped) = oneshot::channel();
    let dropped = Arc::new(Mutex::new(Some(dropped)));
    let router = Router::new().route(
        "/",
        any(async move |body: Body| {
            body.collect().await.unwrap();
            let _on_drop = OnDrop(move || {
                dropped
                    .lock()
                    .unwrap()
                    .take()
                    .map(|dropped| dropped.send(()));
            });
            std::future::pending::<()>().await;
        }),
    );
    let server = Server::start(Config::default(), router.clone()).await;
    let mut client = server.connect().await;
    client
        .send("PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n12")
        .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(client);
    soon(was_dropped).await.unwrap();
}

#[tokio::test]
async fn a_handler_whose_stream_was_reset_is_dropped() {
    let (dropped, mut was_dropped) = tokio::sync::mpsc::unbounded_channel();
    let router = Router::new().route(
        "/",
        any(async move || {
            let _on_drop = OnDrop(|| dropped.send(()).unwrap());
            std::future::pending::<()>().await;
        }),
    );
    let server = Server::start(Config::default(), router).await;
    let mut client = server.h2().await;
    let (response, mut stream) = client.request(get("/"), true).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    stream.send_reset(h2::Reason::CANCEL);
    soon(was_dropped.recv()).await.unwrap();
    drop(response);
    let (_response, _stream) = client.request(get("/"), true).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.connection.abort();
    soon(was_dropped.recv()).await.unwrap();
}

fn stalling() -> (Config, Router, tokio::sync::mpsc::UnboundedReceiver<()>) {
    let (dropped, was_dropped) = tokio::sync::mpsc::unbounded_channel();
    let config = Config {
        write_stall_timeout: Duration::from_millis(400),
        ..Config::default()
    };
    let router = Router::new().route(
        "/",
        any(async move || {
            let guard = OnDrop(move || dropped.send(()).unwrap());
            endless().map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _ = &guard;
                    frame
                }))
            })
        }),
    );
    (config, router, was_dropped)
}

#[tokio::test]
async fn a_client_that_stops_reading_is_cut_off() {
    let (config, router, mut dropped) = stalling();
    let server = Server::start(config, router).await;
    let mut client = server.connect().await;
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    soon(dropped.recv()).await.unwrap();
    let (_, end) = client.rest().await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);

    // A stream whose window stays closed.
    let mut client = server.h2().await;
    let (response, _) = client.request(get("/"), true).await;
    let mut response = soon(response).await.unwrap();
    soon(dropped.recv()).await.unwrap();
    let error = loop {
        match soon(response.body_mut().data()).await.unwrap() {
            Ok(data) => response
                .body_mut()
                .flow_control()
                .release_capacity(data.len())
                .unwrap(),
            Err(error) => break error,
        }
    };
    assert!(error.is_reset());
}

#[tokio::test]
async fn a_client_that_reads_slowly_is_not_cut_off() {
    let (config, router, mut dropped) = stalling();
    let server = Server::start(config, router).await;
    let mut client = server.h2().await;
    let (response, _) = client.request(get("/"), true).await;
    let mut response = soon(response).await.unwrap();
    // Far less than a frame of the answer at a time, for three times the limit.
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let data = soon(response.body_mut().data()).await.unwrap().unwrap();
        response
            .body_mut()
            .flow_control()
            .release_capacity(data.len())
            .unwrap();
    }
    assert!(dropped.try_recv().is_err());
}

#[tokio::test]
async fn a_client_that_reads_slowly_is_cut_off_when_memory_is_scarce() {
    let (config, router, _dropped) = stalling();
    let memory = budget::Config {
        per_connection: bytesize::ByteSize::kib(256),
        ..budget::Config::default()
    };
    let memory = Memory::new(&budget::Budget::new(512 * 1024), &memory);
    let server = Server::start_with(config, memory, router).await;
    // One answer has the connection's own memory, the other all that connections may have together.
    let (mut client, connection) = h2::client::Builder::new()
        .initial_connection_window_size(1 << 20)
        .handshake::<_, bytes::Bytes>(server.connect_h2().await)
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut answers = Vec::new();
    for _ in 0..2 {
        let (response, _) = client.send_request(get("/"), true).unwrap();
        answers.push(soon(response).await.unwrap().into_body());
    }
    for mut answer in answers {
        // As slow as the client that is not cut off.
        let error = loop {
            match soon(answer.data()).await.unwrap() {
                Ok(_) => {
                    let _ = answer.flow_control().release_capacity(100);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => break error,
            }
        };
        assert!(error.is_reset(), "{error:?}");
    }
    // What they held is there again.
    let (response, _) = client.send_request(get("/"), true).unwrap();
    let mut answer = soon(response).await.unwrap().into_body();
    soon(answer.data()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_socket_that_takes_nothing_ends_an_http2_connection() {
    let (config, router, mut dropped) = stalling();
    let server = Server::start(config, router).await;
    // Windows as large as they get, and a socket that nobody reads.
    let io = server.connect_h2().await;
    let (mut send, mut connection) = h2::client::Builder::new()
        .initial_window_size(1 << 30)
        .initial_connection_window_size(1 << 30)
        .handshake::<_, bytes::Bytes>(io)
        .await
        .unwrap();
    let (response, _) = send.send_request(get("/"), true).unwrap();
    // Drives the connection until the answer has begun, then leaves it alone.
    let response = soon(async {
        tokio::select! {
            response = response => response.unwrap(),
            _ = &mut connection => panic!("the connection ended"),
        }
    })
    .await;
    soon(dropped.recv()).await.unwrap();
    drop((response, connection));
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let config = Config {
        keep_alive_timeout: Duration::from_millis(300),
        ..Config::default()
    };
    let server = Server::start(config, crate::support::uploads()).await;
    let mut fresh = server.connect().await;
    let mut used = server.connect().await;
    used.send("GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(used.response().await.1, "hello");
    let mut h2 = server.h2().await;
    let (response, _) = h2.request(get("/hello"), true).await;
    assert_eq!(H2::response(response).await.unwrap().1, "hello");
    fresh.assert_closed().await;
    used.assert_closed().await;
    soon(h2.connection).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_slow_head_times_out_but_waiting_for_one_does_not() {
    let config = Config {
        head_timeout: Duration::from_millis(800),
        ..Config::default()
    };
    let server = Server::start(config, crate::support::uploads()).await;
    let mut client = server.connect().await;
    for pause in [1200, 1200] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        client.send("GET /hello HTTP/1.1\r\n").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.send("host: x\r\n\r\n").await;
        assert_eq!(client.response().await.1, "hello");
    }
    // Byte by byte does not help.
    client.send("GET /hello HTTP/1.1\r\n").await;
    let dribbling = async {
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if let Ok(head) = tokio::time::timeout(Duration::from_millis(1), client.head()).await {
                return (head, client);
            }
            client.send("x").await;
        }
        panic!("a head may take for ever");
    };
    let (head, mut client) = dribbling.await;
    assert_eq!(
        (head.status, head.field("content-type")),
        (408, "application/problem+json")
    );
    let length = head.field("content-length").parse().unwrap();
    client.content(length).await;
    client.assert_closed().await;
    // Half a preface of HTTP/2.
    let mut client = server.connect().await;
    client.send("PRI * HTT").await;
    client.assert_closed().await;
}
