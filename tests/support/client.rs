//! One exchange at a time over either HTTP version, so that a story can be told once and run on both.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::{Authority, Cut, Head, Request, Response, http1, http2};

/// The versions that a story runs on.
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

/// A connection with at most one exchange under way.
#[derive(Debug)]
pub enum Client {
    /// Over HTTP/1.1.
    Http1(Box<http1::Connection>),
    /// Over HTTP/2; the exchange that was begun, if any.
    Http2(http2::Connection, Option<Box<http2::Exchange>>),
}

impl Client {
    /// Connects in plain text.
    pub async fn open(address: SocketAddr, version: Version) -> Self {
        let client = Self::try_open(address, version).await;
        client.unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"))
    }

    /// Connects in plain text, where the server may be gone.
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

    /// Sends a whole request and reads its final response.
    pub async fn exchange(&mut self, request: &Request) -> Result<Response, Cut> {
        match self {
            Self::Http1(connection) => connection.exchange(request).await,
            Self::Http2(connection, _) => connection.exchange(request).await,
        }
    }

    /// Sends the head of `request` and nothing of its body.
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

    /// Sends a piece of the body of the request that was begun.
    pub async fn send(&mut self, piece: &[u8]) -> io::Result<()> {
        match self {
            Self::Http1(connection) => connection.send(piece).await,
            Self::Http2(_, exchange) => begun(exchange).send(piece).await,
        }
    }

    /// Says that the body is over.
    pub async fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Http1(connection) => connection.finish().await,
            Self::Http2(_, exchange) => begun(exchange).finish(),
        }
    }

    /// The next interim response, or nothing when the final response or a cut comes first.
    pub async fn interim(&mut self) -> Option<Head> {
        match self {
            Self::Http1(connection) => connection.interim().await,
            Self::Http2(_, exchange) => begun(exchange).interim().await,
        }
    }

    /// The next interim response, if one is here already.
    pub async fn interim_so_far(&mut self) -> Option<Head> {
        // Reading an interim response is cancel safe: what arrived stays in the buffer.
        tokio::time::timeout(Duration::from_millis(1), self.interim())
            .await
            .ok()?
    }

    /// Waits until the server has read everything that was sent.
    pub async fn drained(&self) {
        match self {
            Self::Http1(connection) => connection.drained().await,
            Self::Http2(connection, _) => connection.drained().await,
        }
    }

    /// The final response of the request that was begun.
    pub async fn response(&mut self) -> Result<Response, Cut> {
        match self {
            Self::Http1(connection) => connection.response().await,
            Self::Http2(_, exchange) => {
                let exchange = exchange.take().expect("begin() comes first");
                exchange.response().await
            }
        }
    }

    /// Loses the connection: a TCP reset, or the end of the HTTP/2 connection with all its streams.
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
