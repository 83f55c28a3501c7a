//! One exchange at a time over either HTTP version, so that a test is written once and runs on
//! both.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::{Authority, Cut, Head, Request, Response, http1, http2};

/// Versions of HTTP that a test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Version {
    /// Every version.
    pub const ALL: [Self; 2] = [Self::Http1, Self::Http2];
}

/// A connection with at most one exchange in progress.
#[derive(Debug)]
pub enum Client {
    /// Over HTTP/1.1.
    Http1(Box<http1::Connection>),
    /// Over HTTP/2, with the exchange in progress, if any.
    Http2(http2::Connection, Option<Box<http2::Exchange>>),
}

impl Client {
    /// Connects without TLS.
    pub async fn open(address: SocketAddr, version: Version) -> Self {
        let client = Self::try_open(address, version).await;
        client.unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"))
    }

    /// Connects without TLS to a server that may be gone.
    pub async fn try_open(address: SocketAddr, version: Version) -> io::Result<Self> {
        match version {
            Version::Http1 => {
                let connection = http1::Connection::try_open(address).await?;
                Ok(Self::Http1(Box::new(connection)))
            }
            Version::Http2 => Ok(Self::Http2(
                http2::Connection::try_open(address).await?,
                None,
            )),
        }
    }

    /// Connects with TLS.
    pub async fn open_tls(address: SocketAddr, version: Version, authority: &Authority) -> Self {
        match version {
            Version::Http1 => Self::Http1(Box::new(
                http1::Connection::open_tls(address, authority).await,
            )),
            Version::Http2 => {
                Self::Http2(http2::Connection::open_tls(address, authority).await, None)
            }
        }
    }

    /// Sends a request with its body and reads the final response.
    pub async fn exchange(&mut self, request: &Request) -> Result<Response, Cut> {
        match self {
            Self::Http1(connection) => connection.exchange(request).await,
            Self::Http2(connection, _) => connection.exchange(request).await,
        }
    }

    /// Sends the head of `request` without its body.
    pub async fn begin(&mut self, request: &Request) -> io::Result<()> {
        match self {
            Self::Http1(connection) => connection.begin(request).await,
            Self::Http2(connection, exchange) => {
                let begun = connection.begin(request).await.map_err(io::Error::other)?;
                *exchange = Some(Box::new(begun));
                Ok(())
            }
        }
    }

    /// Sends a piece of the body of the request in progress.
    pub async fn send(&mut self, piece: &[u8]) -> io::Result<()> {
        match self {
            Self::Http1(connection) => connection.send(piece).await,
            Self::Http2(_, exchange) => begun(exchange).send(piece).await,
        }
    }

    /// Ends the body.
    pub async fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Http1(connection) => connection.finish().await,
            Self::Http2(_, exchange) => begun(exchange).finish(),
        }
    }

    /// Returns the next interim response; `None` if the final response or a cut comes first.
    pub async fn interim(&mut self) -> Option<Head> {
        match self {
            Self::Http1(connection) => connection.interim().await,
            Self::Http2(_, exchange) => begun(exchange).interim().await,
        }
    }

    /// Returns the next interim response, if one has already arrived.
    pub async fn interim_so_far(&mut self) -> Option<Head> {
        // Reading an interim response is cancel safe: what arrived stays in the buffer.
        tokio::time::timeout(Duration::from_millis(1), self.interim())
            .await
            .ok()?
    }

    /// Waits until the server has read all sent bytes.
    pub async fn drained(&self) {
        match self {
            Self::Http1(connection) => connection.drained().await,
            Self::Http2(connection, _) => connection.drained().await,
        }
    }

    /// Returns the final response to the request in progress.
    pub async fn response(&mut self) -> Result<Response, Cut> {
        match self {
            Self::Http1(connection) => connection.response().await,
            Self::Http2(_, exchange) => {
                let exchange = exchange.take().expect("begin() comes first");
                exchange.response().await
            }
        }
    }

    /// Drops the connection: a TCP reset, or the end of the HTTP/2 connection with all its streams.
    pub fn lose(self) {
        match self {
            Self::Http1(connection) => connection.reset(),
            Self::Http2(connection, _) => connection.abandon(),
        }
    }
}

fn begun(exchange: &mut Option<Box<http2::Exchange>>) -> &mut http2::Exchange {
    exchange.as_mut().expect("begin() comes first")
}
