//! The end: idle connections close, busy ones finish, the rest is cut.

use std::time::Duration;

use axum::{Router, routing::get};
use transport::Config;

use crate::support::{H2, Server, endless, get as get_request, soon};

fn router() -> Router {
    Router::new()
        .route("/hello", get(async || "hello"))
        .route(
            "/slow",
            get(async || {
                tokio::time::sleep(Duration::from_millis(500)).await;
                "finished"
            }),
        )
        .route("/never", get(async || std::future::pending::<()>().await))
        .route("/endless", get(async || endless()))
}

#[tokio::test]
async fn busy_exchanges_finish_and_idle_connections_close() {
    let server = Server::start(Config::default(), router()).await;
    let mut fresh = server.connect().await;
    let mut idle = server.connect().await;
    idle.send("GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await;
    idle.response().await;
    let mut busy = server.connect().await;
    busy.send("GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut h2 = server.h2().await;
    let (response, _) = h2.request(get_request("/slow"), true).await;
    let idle_h2 = server.h2().await;
    tokio::time::sleep(Duration::from_millis(100)).await;

    let address = server.address;
    let stopping = tokio::spawn(server.stop());
    fresh.assert_closed().await;
    idle.assert_closed().await;
    soon(idle_h2.connection).await.unwrap().unwrap();
    // A connection may still be refused or reset; it is not served.
    if let Ok(late) = tokio::net::TcpStream::connect(address).await {
        late.readable().await.unwrap();
        assert!(!matches!(late.try_read(&mut [0; 1]), Ok(1..)));
    }
    let (head, content) = busy.response().await;
    assert_eq!(
        (&content[..], head.field("connection")),
        (&b"finished"[..], "close")
    );
    busy.assert_closed().await;
    assert_eq!(H2::response(response).await.unwrap().1, "finished");
    drop(h2);
    assert_eq!(soon(stopping).await.unwrap().cut, 0);
}

#[tokio::test]
async fn what_does_not_finish_is_cut() {
    let config = Config {
        drain_grace: Duration::from_millis(300),
        ..Config::default()
    };
    let server = Server::start(config, router()).await;
    let mut waiting = server.connect().await;
    waiting.send("GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await;
    // Closed without a reset, this would look whole.
    let mut reading = server.connect().await;
    reading.send("GET /endless HTTP/1.0\r\n\r\n").await;
    assert_eq!(reading.head().await.status, 200);
    let mut h2 = server.h2().await;
    let (response, _) = h2.request(get_request("/never"), true).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let start = tokio::time::Instant::now();
    assert_eq!(server.stop().await.cut, 3);
    assert!(start.elapsed() < Duration::from_secs(2));
    waiting.assert_closed().await;
    assert_eq!(
        reading.rest().await.1.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
    assert!(H2::response(response).await.is_err());
}

#[tokio::test]
async fn dropping_the_server_cuts_its_connections() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = transport::Listener::from_std(listener, None).unwrap();
    let address = listener.address();
    let shutdown = tokio_util::sync::CancellationToken::new();
    let server = tokio::spawn(transport::serve(
        vec![listener],
        Config::default(),
        transport::Memory::default(),
        router(),
        shutdown,
    ));
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut client, b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.abort();
    client.readable().await.unwrap();
    assert!(!matches!(client.try_read(&mut [0; 1]), Ok(1..)));
}
