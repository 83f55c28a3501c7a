//! TLS with a certificate that can be renewed while the server runs.

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

/// Files larger than this are no certificate.
const MAX_FILE_SIZE: u64 = 1024 * 1024;

/// Accepts TLS connections with the newest certificate that could be loaded.
#[derive(Clone)]
pub(crate) struct Acceptor {
    tls: TlsAcceptor,
    certificate: Certificate,
}

/// Why a certificate was not taken up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file holds no PEM of the kind that is needed.
    #[error("no usable PEM in {path}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
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
        /// What is wrong with them.
        #[source]
        source: rustls::Error,
    },
    /// TLS itself cannot be set up.
    #[error("failed to set up TLS")]
    Setup(#[source] rustls::Error),
}

impl TlsConfig {
    /// Loads the two files, and says what is wrong with them.
    ///
    /// # Errors
    ///
    /// They cannot be read, or do not make a pair.
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
        // Mobile clients reconnect all the time: tickets save them a round of signatures, and us a cache.
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

    /// Takes up new files as they come, for ever.
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

/// The certificate of a listener. Clones are of the same one.
#[derive(Debug, Clone)]
pub struct Certificate(Arc<Files>);

impl Certificate {
    /// Reads the files again. A new pair is taken up by the next handshake; of an unusable one is logged that it is, once, and the old
    /// pair stays. Returns whether a new pair was taken up.
    ///
    /// # Cancel safety
    ///
    /// A reading that was begun ends.
    pub async fn reload(&self) -> bool {
        let files = Arc::clone(&self.0);
        let reloaded = tokio::task::spawn_blocking(move || files.reload()).await;
        reloaded.unwrap_or_else(|error| {
            tracing::error!(%error, "failed to look for a new certificate");
            false
        })
    }
}

/// The pair of files and what was last made of them.
struct Files {
    files: TlsConfig,
    provider: Arc<CryptoProvider>,
    pair: ArcSwap<CertifiedKey>,
    /// What was last read, usable or not, so that each change is told once; locked by `reload` only.
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

    /// Reads the files again. The contents are compared, not the times of change: a file system's clock is coarse, and
    /// mounted secrets change by a renamed directory.
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
                        tracing::info!(certificate = %self.files.certificate.display(), "new certificate taken up");
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
