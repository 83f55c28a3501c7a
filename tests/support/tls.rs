//! A certificate for the test server, and clients that trust only this certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A self-signed certificate for `localhost` and `127.0.0.1`, on disk for servers and real clients.
#[derive(Debug)]
pub struct Authority {
    certificate: PathBuf,
    key: PathBuf,
    roots: Arc<RootCertStore>,
}

impl Authority {
    /// Creates a certificate and writes both PEM files into `directory`.
    pub fn create(directory: &Path) -> Self {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("fixed names are valid");

        let certificate = directory.join("certificate.pem");
        let key = directory.join("key.pem");
        std::fs::write(&certificate, made.cert.pem()).expect("the test directory is writable");
        std::fs::write(&key, made.signing_key.serialize_pem())
            .expect("the test directory is writable");

        let mut roots = RootCertStore::empty();
        roots
            .add(made.cert.der().clone())
            .expect("a certificate just made is valid");
        Self {
            certificate,
            key,
            roots: Arc::new(roots),
        }
    }

    /// Returns the path of the certificate (PEM), which clients must trust.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// Returns the path of the private key (PEM).
    pub fn key(&self) -> &Path {
        &self.key
    }

    /// Performs a TLS handshake over `socket` that offers only `protocol` (ALPN).
    pub(crate) async fn connect(
        &self,
        socket: TcpStream,
        protocol: &[u8],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions")
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let name = ServerName::try_from("localhost").expect("a valid name");
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, socket)
            .await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol), "ALPN");
        Ok(stream)
    }
}
