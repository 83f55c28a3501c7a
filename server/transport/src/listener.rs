//! Sockets that accept connections.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

use crate::{
    address::{Bind, ListenAddress},
    config::{ListenConfig, TlsConfig},
    tls::{Acceptor, Certificate, TlsError},
};

/// A bound socket, cleartext or TLS.
#[derive(Debug)]
pub struct Listener {
    pub(crate) socket: TcpListener,
    pub(crate) acceptor: Option<Acceptor>,
    address: SocketAddr,
}

/// The reason why a listener could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is taken, not of this machine, or not allowed.
    #[error("failed to listen on {address}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// An inherited socket cannot be used.
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
    pub fn bind(config: &ListenConfig) -> Result<Self, ListenError> {
        Self::from_tokio(listen(config.address)?, config.tls.as_ref())
    }

    /// Binds every address that `address` stands for. Addresses that this machine does not have are
    /// left out if the others are enough.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind).
    pub fn bind_all(
        address: ListenAddress,
        tls: Option<&TlsConfig>,
    ) -> Result<Vec<Self>, ListenError> {
        let mut listeners = Vec::<Self>::new();
        for Bind {
            mut address,
            required,
        } in address.binds()
        {
            // If the port is a free one, all addresses share it.
            if let Some(first) = listeners.first() {
                address.set_port(first.address.port());
            }
            match listen(address) {
                Err(ListenError::Bind { source, .. })
                    if !required.is_required(&source, !listeners.is_empty()) => {}
                socket => listeners.push(Self::from_tokio(socket?, tls)?),
            }
        }
        Ok(listeners)
    }

    /// Takes over a socket that is bound and listening already, from a test or from socket
    /// activation. Needs a tokio runtime around it.
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

    /// Returns the certificate of a listener that speaks TLS.
    #[must_use]
    pub fn certificate(&self) -> Option<Certificate> {
        self.acceptor.as_ref().map(Acceptor::certificate)
    }

    /// Returns the bound address, with the port that was chosen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns true if the listener speaks TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.acceptor.is_some()
    }
}

/// Connections that may wait to be accepted; the kernel's own bound is `net.core.somaxconn`.
const BACKLOG: u32 = 1024;

fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let bind = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|source| ListenError::Bind { address, source })
}
