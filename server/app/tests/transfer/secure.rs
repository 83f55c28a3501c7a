use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

use crate::server::{Mischief, Server};
use crate::{Machine, content};

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_must_be_trusted() {
    let machine = Machine::new();
    let file = content(100_000, 1);
    machine.write("movie.mov", &file);
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    machine.write("ca.pem", cert.pem().as_bytes());
    machine.write("empty.pem", b"");
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .unwrap();
    let server = Server::start_tls(TlsAcceptor::from(Arc::new(config))).await;
    let url = format!("{}/files/f", server.url);

    // A certificate does not become right by waiting.
    let begun = Instant::now();
    machine
        .run(&["upload", "movie.mov", &url])
        .await
        .failed_with(1, "see --cacert");
    assert!(begun.elapsed() < Duration::from_secs(10));
    machine
        .run(&["upload", "movie.mov", &url, "--cacert", "absent.pem"])
        .await
        .failed_with(1, "failed to read absent.pem");
    machine
        .run(&["upload", "movie.mov", &url, "--cacert", "empty.pem"])
        .await
        .failed_with(1, "has no certificate");
    assert_eq!(server.books().requests.len(), 0);

    machine
        .run(&["upload", "movie.mov", &url, "--cacert", "ca.pem"])
        .await
        .succeeded();
    machine
        .run(&["download", &url, "--insecure", "-o", "back"])
        .await
        .succeeded();
    assert_eq!(machine.read("back"), file);
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_carries_transfers_through_cuts() {
    let machine = Machine::new();
    let file = content(3_000_000, 1);
    machine.write("movie.mov", &file);
    let server = Server::start_http2().await;
    let url = format!("{}/files/f", server.url);
    server.plan(
        "PATCH",
        [
            Mischief::CutAfter(1_000_000),
            Mischief::CutAfter(70_000),
            Mischief::LoseAnswer,
        ],
    );
    server.plan(
        "GET",
        [Mischief::CutAfter(1_000_000), Mischief::CutAfter(70_000)],
    );

    machine
        .run(&["upload", "movie.mov", &url, "--http2-prior-knowledge"])
        .await
        .succeeded();
    assert_eq!(
        (server.file("/files/f"), server.appended()),
        (file.clone(), file.len())
    );
    machine
        .run(&["download", &url, "--http2-prior-knowledge", "-o", "back"])
        .await
        .succeeded();
    assert_eq!(machine.read("back"), file);
}
