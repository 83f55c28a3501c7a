//! TLS, with a certificate that can be renewed while the server runs.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::net::TcpStream;
use tokio_rustls::{Accept, TlsAcceptor};

use crate::config::TlsConfig;

/// Maximum size of a PEM file.
const MAX_FILE_SIZE: u64 = 1024 * 1024;

/// An acceptor of TLS connections, with the newest certificate that could be loaded.
#[derive(Clone)]
pub(crate) struct Acceptor {
    tls: TlsAcceptor,
    certificate: Certificate,
}

/// The reason why a certificate was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A file holds no PEM of the right kind.
    #[error("no usable PEM in {path}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        #[source]
        source: pem::Error,
    },
    /// The certificate and the key do not work, or not together.
    #[error("{certificate} and {key} do not make a usable pair")]
    Pair {
        /// The file with the certificate chain.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
        /// The error of rustls.
        #[source]
        source: rustls::Error,
    },
    /// TLS itself cannot be set up.
    #[error("failed to set up TLS")]
    Setup(#[source] rustls::Error),
}

impl TlsConfig {
    /// Loads the two files to check them.
    ///
    /// # Errors
    ///
    /// The files cannot be read, or do not make a pair.
    pub fn check(&self) -> Result<(), TlsError> {
        Acceptor::load(self).map(drop)
    }
}

impl Acceptor {
    /// Loads the certificate.
    pub(crate) fn load(config: &TlsConfig) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let files = Files::load(config.clone(), Arc::clone(&provider))?;
        let certificate = Certificate(Arc::new(files));
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificate.0) as Arc<dyn ResolvesServerCert>);
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Mobile clients reconnect all the time: tickets save them a round of signatures, and the
        // server a cache.
        server.ticketer = aws_lc_rs::Ticketer::new().map_err(TlsError::Setup)?;
        Ok(Self {
            tls: TlsAcceptor::from(Arc::new(server)),
            certificate,
        })
    }

    pub(crate) fn certificate(&self) -> Certificate {
        self.certificate.clone()
    }

    pub(crate) fn accept(&self, socket: TcpStream) -> Accept<TcpStream> {
        self.tls.accept(socket)
    }

    /// Loads new files as they appear, for ever.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    pub(crate) async fn follow(self) {
        let interval = self
            .certificate
            .0
            .files
            .reload_interval
            .max(Duration::from_millis(100));
        loop {
            tokio::time::sleep(interval).await;
            self.certificate.reload().await;
        }
    }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// The certificate of a listener. Clones share it.
#[derive(Debug, Clone)]
pub struct Certificate(Arc<Files>);

impl Certificate {
    /// Reads the files again, and returns true if they are a new pair. The next handshake uses it;
    /// an unusable pair is logged once, and the old one stays in use.
    ///
    /// # Cancel safety
    ///
    /// The read goes on if the future is dropped.
    pub async fn reload(&self) -> bool {
        let files = Arc::clone(&self.0);
        let reloaded = tokio::task::spawn_blocking(move || files.reload()).await;
        reloaded.unwrap_or_else(|error| {
            tracing::error!(%error, "failed to look for a new certificate");
            false
        })
    }
}

/// The two files, and the pair that was last loaded from them.
struct Files {
    files: TlsConfig,
    provider: Arc<CryptoProvider>,
    pair: ArcSwap<CertifiedKey>,
    /// The contents that were last read, usable or not, so that each change is logged once; locked
    /// by `reload` only.
    seen: Mutex<Option<Pem>>,
}

/// The contents of the two files.
#[derive(PartialEq, Eq)]
struct Pem {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    fn load(files: TlsConfig, provider: Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let pem = Pem::read(&files)?;
        let pair = pem.pair(&files, &provider)?;
        Ok(Self {
            files,
            provider,
            pair: ArcSwap::from_pointee(pair),
            seen: Mutex::new(Some(pem)),
        })
    }

    /// Reads the files again. Contents are compared rather than times of change: a file system's
    /// clock is coarse, and mounted secrets change by a renamed directory.
    fn reload(&self) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match Pem::read(&self.files) {
            Ok(pem) if seen.as_ref() == Some(&pem) => false,
            Ok(pem) => {
                let pair = pem.pair(&self.files, &self.provider);
                *seen = Some(pem);
                match pair {
                    Ok(pair) => {
                        self.pair.store(Arc::new(pair));
                        tracing::info!(certificate = %self.files.certificate.display(), "new certificate loaded");
                        true
                    }
                    Err(error) => {
                        self.refuse(&error);
                        false
                    }
                }
            }
            Err(error) => {
                if seen.take().is_some() {
                    self.refuse(&error);
                }
                false
            }
        }
    }

    fn refuse(&self, error: &TlsError) {
        tracing::error!(
            certificate = %self.files.certificate.display(),
            error = error as &dyn std::error::Error,
            "new certificate is unusable; keeping the old one",
        );
    }
}

impl Pem {
    fn read(files: &TlsConfig) -> Result<Self, TlsError> {
        Ok(Self {
            certificate: read(&files.certificate)?,
            key: read(&files.key)?,
        })
    }

    fn pair(&self, files: &TlsConfig, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
        let pem = |path: &Path| {
            let path = path.to_path_buf();
            move |source| TlsError::Pem { path, source }
        };
        let chain = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<Vec<_>, _>>()
            .and_then(|chain| {
                if chain.is_empty() {
                    Err(pem::Error::NoItemsFound)
                } else {
                    Ok(chain)
                }
            })
            .map_err(pem(&files.certificate))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(pem(&files.key))?;
        CertifiedKey::from_der(chain, key, provider).map_err(|source| TlsError::Pair {
            certificate: files.certificate.clone(),
            key: files.key.clone(),
            source,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    use std::io::Read;

    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE_SIZE).read_to_end(&mut bytes))
        .map(|_| bytes)
        .map_err(|source| TlsError::Read {
            path: path.to_path_buf(),
            source,
        })
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Files {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.pair.load_full())
    }
}
