//! Certificates that change, handshakes that do not come.

use std::time::Duration;

use tokio::{io::AsyncReadExt, net::TcpStream};
use transport::{Config, ListenConfig, ListenError, Listener, TlsConfig};

use crate::support::{Server, soon, uploads};

#[tokio::test]
async fn a_renewed_certificate_is_taken_up_and_a_broken_one_is_not() {
    let server = Server::start_tls(Config::default(), uploads()).await;
    let mut old = server.connect().await;
    let works = async || {
        let socket = TcpStream::connect(server.address).await.unwrap();
        server
            .identity()
            .try_connect(socket, b"http/1.1")
            .await
            .is_ok()
    };
    assert!(works().await);

    // Certificate and key that do not fit, then nonsense, then nothing at all.
    let files = &server.identity().config;
    let key = std::fs::read(&files.key).unwrap();
    std::fs::write(
        &files.key,
        rcgen::KeyPair::generate().unwrap().serialize_pem(),
    )
    .unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(works().await);
    std::fs::write(&files.certificate, "nonsense").unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(works().await);
    std::fs::remove_file(&files.key).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(works().await);
    drop(key);

    server.identity().renew();
    soon(async {
        while !works().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // Connections made before go on.
    old.send("GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(old.response().await.1, "hello");
}

#[tokio::test]
async fn a_handshake_has_its_time() {
    let config = Config {
        tls_handshake_timeout: Duration::from_millis(200),
        ..Config::default()
    };
    let server = Server::start_tls(config, uploads()).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(soon(silent.read(&mut [0; 1])).await.unwrap_or(0), 0);
    // Cleartext on a TLS port ends there.
    let mut mistaken = TcpStream::connect(server.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut mistaken, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut said = Vec::new();
    let _ = soon(mistaken.read_to_end(&mut said)).await;
    assert!(!said.starts_with(b"HTTP"));
}

#[tokio::test]
async fn a_listener_without_a_usable_certificate_does_not_start() {
    let listen = ListenConfig {
        address: "127.0.0.1:0".parse().unwrap(),
        tls: Some(TlsConfig {
            certificate: "/nowhere/certificate.pem".into(),
            key: "/nowhere/key.pem".into(),
            reload_interval: Duration::from_secs(1),
        }),
    };
    assert!(matches!(Listener::bind(&listen), Err(ListenError::Tls(_))));
}
