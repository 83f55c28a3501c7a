//! The server: accepts connections on its listeners, and ends them at shutdown.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use budget::Budget;
use http::Request;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tower::Service;

use crate::{
    Config, ConfigError, Listener, Memory, Peer, connection,
    context::{Context, Handler, SHED_AFTER},
    metrics,
    places::{Place, Places},
};

/// Number of connections that are closed at once when the system is out of file descriptors.
const SHED_AT_ONCE: usize = 16;

/// The outcome of [`serve`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Number of connections that were still busy when the grace ended, and were cut.
    pub cut: usize,
}

/// Serves until `shutdown` is cancelled and the connections have ended.
///
/// At the shutdown, it stops accepting, closes idle connections, tells busy ones to finish
/// (`Connection: close`, `GOAWAY`), and cuts the others after [`Config::drain_grace`]. Handlers are
/// not notified: a handler that should end sooner needs the application's own signal, and may
/// answer with [`Cut`](crate::Cut).
///
/// If a client goes away, the future of its handler is dropped at an await point if the request was
/// read to its end or left unread. Otherwise the handler runs on: its body fails with a
/// [`BodyError`](crate::BodyError), and it may keep the bytes that arrived.
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
    memory: Memory,
    service: S,
    shutdown: CancellationToken,
) -> Result<Drained, ConfigError>
where
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    config.check()?;
    let places = Places::new(&config);
    let server = Server {
        windows: memory.windows(&config.http2),
        memory,
        grace: config.drain_grace,
        config: Arc::new(config),
        places,
        tasks: TaskTracker::new(),
        drain: shutdown,
        cut: CancellationToken::new(),
    };
    let _cut_when_dropped = server.cut.clone().drop_guard();
    let _reporting = AbortOnDropHandle::new(tokio::spawn(metrics::watch({
        let memory = server.memory.clone();
        move || memory.held()
    })));
    let mut listening = JoinSet::new();
    for listener in listeners {
        if let Some(acceptor) = listener.acceptor.clone() {
            let drain = server.drain.clone();
            listening.spawn(async move {
                drain
                    .run_until_cancelled(acceptor.follow())
                    .await
                    .unwrap_or_default()
            });
        }
        listening.spawn(server.clone().accept(listener, service.clone()));
    }
    listening.join_all().await;
    Ok(server.end().await)
}

/// The state that the listeners of one [`serve`] share.
#[derive(Clone)]
struct Server {
    config: Arc<Config>,
    grace: Duration,
    places: Places,
    memory: Memory,
    windows: Budget,
    /// The connections, and handlers that outlive theirs.
    tasks: TaskTracker,
    /// Cancelled when connections should finish.
    drain: CancellationToken,
    /// Cancelled when connections must end at once.
    cut: CancellationToken,
}

impl Server {
    /// Accepts connections until the server drains.
    async fn accept<S: Handler>(self, listener: Listener, handler: S) {
        let Listener {
            socket, acceptor, ..
        } = listener;
        loop {
            // Dropping a pending accept loses nothing.
            let accepted = tokio::select! {
                biased;
                () = self.drain.cancelled() => return,
                accepted = socket.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.recover_from(&error).await;
                    continue;
                }
            };
            let Some(arrival) = self.places.arrive(address.ip()) else {
                tracing::debug!(peer = %address, "connection rejected: its peer has too many");
                continue;
            };
            let peer = Peer {
                // An IPv4 peer of a socket for both families shows as ::ffff:a.b.c.d.
                address: SocketAddr::new(address.ip().to_canonical(), address.port()),
                secure: acceptor.is_some(),
            };
            let (server, acceptor, handler) = (self.clone(), acceptor.clone(), handler.clone());
            self.tasks.spawn(async move {
                // A connection that waits for its place has sent nothing yet.
                let Some(Some(place)) = server.drain.run_until_cancelled(arrival.place()).await
                else {
                    return;
                };
                let _open = metrics::Open::connection();
                let cut = server.cut.clone();
                let context = server.context(peer, place);
                let connection = connection::serve(stream, acceptor, context, handler);
                // A connection that is cut here is dropped, which resets it where an answer was
                // unfinished.
                cut.run_until_cancelled(connection).await;
            });
        }
    }

    fn context(self, peer: Peer, place: Place) -> Context {
        Context {
            interim: self.config.allows_interim(peer.address.ip()),
            config: self.config,
            peer,
            place,
            drain: self.drain,
            cut: self.cut,
            tasks: self.tasks,
            shed_after: SHED_AFTER,
            memory: self.memory.connection(),
            windows: self.windows,
        }
    }

    /// Recovers from a failed accept. A connection that died in the backlog is no reason to wait; a
    /// full table of file descriptors is, and idle connections make room in it.
    async fn recover_from(&self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};

        if !matches!(
            error.kind(),
            ConnectionAborted | ConnectionRefused | ConnectionReset
        ) {
            tracing::error!(%error, "failed to accept a connection; closing idle ones");
            self.places.shed(SHED_AT_ONCE);
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits for the connections to end, and cuts those that are still busy after the grace.
    async fn end(self) -> Drained {
        self.tasks.close();
        let mut cut = 0;
        if timeout(self.grace, self.tasks.wait()).await.is_err() {
            cut = self.tasks.len();
            tracing::warn!(connections = cut, "connections cut at the end of the grace");
            self.cut.cancel();
            self.tasks.wait().await;
        }
        Drained { cut }
    }
}
