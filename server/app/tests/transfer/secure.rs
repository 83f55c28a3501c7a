use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SanType, date_time_ymd};
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

/// A server with a certificate of its own making, as `openssl req -x509` makes it: one that calls itself an authority.
async fn self_signed(machine: &Machine, change: impl FnOnce(&mut CertificateParams)) -> Server {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    machine.write("server.pem", cert.pem().as_bytes());
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .unwrap();
    Server::start_tls(TlsAcceptor::from(Arc::new(config))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_signed_certificate_in_hand_is_trusted() {
    let machine = Machine::new();
    machine.write("movie.mov", b"movie");
    let server = self_signed(&machine, |_| {}).await;
    let url = format!("{}/files/f", server.url);
    let upload = ["upload", "movie.mov", &url, "--cacert"];
    machine
        .run(&[&upload[..], &["server.pem"]].concat())
        .await
        .succeeded();
    // It is this certificate that is trusted, and not whoever calls itself the same.
    let other = Machine::new();
    self_signed(&other, |_| {}).await;
    let other = other.path("server.pem").display().to_string();
    machine
        .run(&[&upload[..], &[&other]].concat())
        .await
        .failed_with(1, "its certificate is not trusted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_in_hand_has_its_name_and_its_time() {
    let machine = Machine::new();
    machine.write("movie.mov", b"movie");
    let past = |params: &mut CertificateParams| params.not_after = date_time_ymd(2001, 1, 1);
    let future = |params: &mut CertificateParams| params.not_before = date_time_ymd(4000, 1, 1);
    let elsewhere = |params: &mut CertificateParams| {
        params.subject_alt_names = vec![SanType::DnsName("other.example".try_into().unwrap())];
    };
    type Change = dyn Fn(&mut CertificateParams);
    let changes: [(&str, &Change); 3] = [
        ("expired", &past),
        ("not valid yet", &future),
        ("not valid for name", &elsewhere),
    ];
    for (why, change) in changes {
        let server = self_signed(&machine, change).await;
        let url = format!("{}/files/f", server.url);
        let upload = ["upload", "movie.mov", &url, "--cacert", "server.pem"];
        let run = machine.run(&upload).await;
        run.failed_with(1, "its certificate is not trusted");
        assert!(run.stderr.contains(why), "{why}: {}", run.stderr);
        assert_eq!(server.books().requests.len(), 0, "{why}");
    }
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
