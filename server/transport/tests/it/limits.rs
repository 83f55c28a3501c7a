//! The bound on connections, and the connection beyond it.

use std::time::Duration;

use axum::{Router, routing::get};
use http::Request;
use tokio_util::sync::CancellationToken;
use transport::{Config, Listener, Memory, serve};

use crate::support::{H2, Server, get as get_request, soon, uploads};

#[tokio::test]
async fn the_connection_idle_longest_makes_room() {
    let server = Server::start(
        Config {
            max_connections: 3,
            ..Config::default()
        },
        uploads(),
    )
    .await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = server.connect().await;
        client.send("GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(client.response().await.1, "hello");
        // Longer than a connection keeps its buffers after a request.
        tokio::time::sleep(Duration::from_millis(700)).await;
        clients.push(client);
    }
    let mut next = server.connect().await;
    next.send("GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(next.response().await.1, "hello");
    clients[0].assert_closed().await;
    clients[1]
        .send("GET /hello HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    assert_eq!(clients[1].response().await.1, "hello");
}

#[tokio::test]
async fn with_all_busy_the_next_waits() {
    let router = uploads().route(
        "/slow",
        get(async || tokio::time::sleep(Duration::from_millis(700)).await),
    );
    let server = Server::start(
        Config {
            max_connections: 1,
            ..Config::default()
        },
        router,
    )
    .await;
    let mut busy = server.connect().await;
    busy.send("GET /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut waiting = server.connect().await;
    waiting.send("GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await;
    waiting.assert_quiet().await;
    assert_eq!(busy.response().await.0.status, 200);
    drop(busy);
    assert_eq!(waiting.response().await.1, "hello");
}

#[tokio::test]
async fn streams_beyond_the_limit_wait() {
    let mut config = Config::default();
    config.http2.max_streams = 2;
    let router = Router::new().route(
        "/",
        get(async || tokio::time::sleep(Duration::from_millis(200)).await),
    );
    let server = Server::start(config, router).await;
    let mut client = server.h2().await;
    // The limit is known to the client once it has an answer.
    let (response, _) = client.request(get_request("/"), true).await;
    H2::response(response).await.unwrap();
    let mut responses = Vec::new();
    let start = tokio::time::Instant::now();
    for _ in 0..4 {
        responses.push(client.request(get_request("/"), true).await.0);
    }
    for response in responses {
        H2::response(response).await.unwrap();
    }
    assert!(start.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn a_head_too_large_for_http2_is_refused() {
    let server = Server::start(Config::default(), uploads()).await;
    let mut client = server.h2().await;
    let request = Request::get("http://localhost/hello")
        .header("x-large", "y".repeat(40_000))
        .body(())
        .unwrap();
    let (response, _) = client.request(request, true).await;
    assert_eq!(H2::response(response).await.unwrap().0.status, 431);
}

#[tokio::test]
async fn several_listeners_and_sockets_handed_in() {
    let bind = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listeners = vec![
        Listener::from_std(bind(), None).unwrap(),
        Listener::from_std(bind(), None).unwrap(),
    ];
    let addresses: Vec<_> = listeners.iter().map(Listener::address).collect();
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(serve(
        listeners,
        Config::default(),
        Memory::default(),
        uploads(),
        shutdown.clone(),
    ));
    for address in addresses {
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut send, connection) = h2::client::handshake(socket).await.unwrap();
        let connection = tokio::spawn(connection);
        let (response, _) = send.send_request(get_request("/hello"), true).unwrap();
        assert_eq!(H2::response(response).await.unwrap().1, "hello");
        connection.abort();
    }
    shutdown.cancel();
    soon(server).await.unwrap().unwrap();
}

#[test]
fn a_configuration_out_of_range_is_refused() {
    let mut config = Config::default();
    config.check().unwrap();
    config.http2.max_window = bytesize::ByteSize::kib(1);
    assert_eq!(
        config.check().unwrap_err().to_string(),
        "http2.max_window must be http2.window to 512 MiB"
    );
}

#[test]
fn the_configuration_reads_as_it_is_written() {
    let config: Config = serde_json::from_str(
        r#"{"keep_alive_timeout": "2m", "max_head_size": "16 KiB", "interim": "off",
            "interim_untrusted_proxies": ["10.0.0.0/8"], "http2": {"max_streams": 7}}"#,
    )
    .unwrap();
    assert_eq!(config.keep_alive_timeout, Duration::from_secs(120));
    assert_eq!(config.http2.max_streams, 7);
    assert_eq!(config.drain_grace, Config::default().drain_grace);
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
    assert!(serde_json::from_str::<Config>(r#"{"keepalive": "2m"}"#).is_err());
}
