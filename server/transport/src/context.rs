//! The surroundings of a connection, whatever its protocol: its peer, its handler, and what it may
//! use of the server.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use budget::Budget;
use http::Request;
use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

use crate::{Config, memory::ConnectionMemory, places::Place};

/// The sender of a request; in the extensions of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The other end of the connection: the client, or the proxy before it.
    pub address: SocketAddr,
    /// Set if the connection is encrypted up to this process.
    pub secure: bool,
}

/// A service that answers every request, as a `Router` does.
pub(crate) trait Handler:
    Service<Request<Body>, Response = Response, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static
{
}

impl<S> Handler for S where
    S: Service<Request<Body>, Response = Response, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static
{
}

/// The part of the server that one connection uses.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: Arc<Config>,
    pub(crate) peer: Peer,
    /// Set if this peer may get interim responses.
    pub(crate) interim: bool,
    /// Cancelled when connections should finish what they have begun, and begin nothing.
    pub(crate) drain: CancellationToken,
    /// Cancelled when connections must end at once.
    pub(crate) cut: CancellationToken,
    /// The tasks that the server waits for at its end.
    pub(crate) tasks: TaskTracker,
    /// The time for which an HTTP/1 connection without a request keeps its buffers.
    pub(crate) shed_after: Duration,
    /// The connection's place, held until everything that works for it has ended.
    pub(crate) place: Place,
    /// The memory that the connection may hold for its peer.
    pub(crate) memory: ConnectionMemory,
    /// The rest of [`Http2Config::window_growth`](crate::Http2Config::window_growth).
    pub(crate) windows: Budget,
}

/// Long enough to reuse the buffers in a run of requests.
pub(crate) const SHED_AFTER: Duration = Duration::from_millis(500);

impl Context {
    pub(crate) fn max_head_size(&self) -> usize {
        usize::try_from(self.config.max_head_size.as_u64()).unwrap_or(usize::MAX)
    }

    pub(crate) fn linger_size(&self) -> u64 {
        self.config.linger_size.as_u64()
    }

    /// Runs the rest of a handler whose connection is gone. The request counts as detached until
    /// the handler ends.
    pub(crate) fn run_on<F: Future<Output: Send> + Send + 'static>(self: &Arc<Self>, handler: F) {
        // Without a runtime everything ends anyway.
        if let Ok(runtime) = Handle::try_current() {
            let context = Arc::clone(self);
            let detached = self.place.detach();
            let handler = async move {
                let _detached = detached;
                context.cut.run_until_cancelled(handler).await.map(drop)
            };
            self.tasks.spawn_on(handler, &runtime);
        }
    }

    /// Runs a step that serves no request; `None` if the connection has to close first, because
    /// its place is needed or the server shuts down.
    pub(crate) async fn unless_closing<F: Future>(&self, step: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = step => Some(output),
            () = self.drain.cancelled() => None,
            () = self.place.evicted() => None,
        }
    }

    /// Returns the surroundings of a connection that has a server to itself.
    #[cfg(test)]
    pub(crate) fn alone(config: Config) -> Self {
        Self {
            config: Arc::new(config),
            peer: Peer {
                address: ([127, 0, 0, 1], 1).into(),
                secure: false,
            },
            interim: true,
            drain: CancellationToken::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
            shed_after: SHED_AFTER,
            place: Place::alone(),
            memory: crate::Memory::default().connection(),
            windows: Budget::new(1),
        }
    }
}
