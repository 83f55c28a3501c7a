//! Sockets that accept connections.

use std::{io, net::SocketAddr};

use tokio::net::TcpListener;

use super::{
    config::{ListenConfig, TlsConfig},
    tls::{Acceptor, TlsError},
};

/// A bound socket, cleartext or TLS.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: TcpListener,
    pub(super) acceptor: Option<Acceptor>,
    address: SocketAddr,
}

/// Why a listener could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is taken, not ours, or not allowed.
    #[error("failed to listen on {address}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A socket handed in cannot be used.
    #[error("failed to use the socket")]
    Socket(#[source] io::Error),
    /// The certificate cannot be loaded.
    #[error("failed to set up the certificate")]
    Tls(#[from] TlsError),
}

impl Listener {
    /// Binds the address of `config` and loads its certificate, if it has one.
    ///
    /// # Errors
    ///
    /// The address cannot be bound, or the certificate not be loaded.
    pub async fn bind(config: &ListenConfig) -> Result<Self, ListenError> {
        let bind = |source| ListenError::Bind {
            address: config.address,
            source,
        };
        let socket = TcpListener::bind(config.address).await.map_err(bind)?;
        Self::from_tokio(socket, config.tls.as_ref())
    }

    /// Takes over a socket that is bound and listening already, from a test or from socket activation. Needs a tokio
    /// runtime around it.
    ///
    /// # Errors
    ///
    /// The socket cannot be used, or the certificate not be loaded.
    pub fn from_std(
        socket: std::net::TcpListener,
        tls: Option<&TlsConfig>,
    ) -> Result<Self, ListenError> {
        socket.set_nonblocking(true).map_err(ListenError::Socket)?;
        Self::from_tokio(
            TcpListener::from_std(socket).map_err(ListenError::Socket)?,
            tls,
        )
    }

    /// Takes over a socket of tokio's.
    ///
    /// # Errors
    ///
    /// As [`from_std`](Self::from_std).
    pub fn from_tokio(socket: TcpListener, tls: Option<&TlsConfig>) -> Result<Self, ListenError> {
        let address = socket.local_addr().map_err(ListenError::Socket)?;
        let acceptor = tls.map(Acceptor::load).transpose()?;
        Ok(Self {
            socket,
            acceptor,
            address,
        })
    }

    /// Where it listens, with the port that was chosen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it speaks TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.acceptor.is_some()
    }
}
