//! The transport: listeners, TLS, connections and their end.
//!
//! [`serve`] runs one service (an `axum::Router`, say) over any number of [`Listener`]s. HTTP/1.1 goes through hyper,
//! HTTP/2 through the `h2` crate directly, because neither hyper nor axum can send interim responses (see
//! [`interim`](crate::interim)). Each request carries a [`Peer`] and an [`Interim`](crate::interim::Interim) in its
//! extensions; errors of its body can be told apart with [`BodyError::of`].

mod body;
mod config;
mod connection;
mod date;
mod h1;
mod h2;
mod listener;
mod refusal;
mod tls;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use http::Request;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

use self::connection::{Context, Handler};
pub use self::{
    body::BodyError,
    config::{Config, ConfigError, Http2Config, InterimPolicy, ListenConfig, TlsConfig},
    listener::{ListenError, Listener},
    tls::TlsError,
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
/// When a client goes away, the future of its handler is dropped at an await point if the request was read to its end
/// or left unread. Otherwise it runs on: its body gives it a [`BodyError`], and it may keep what came.
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
    let places = Places {
        free: Arc::new(Semaphore::new(
            config.max_connections.min(Semaphore::MAX_PERMITS),
        )),
        room: Arc::default(),
    };
    let growth = usize::try_from(config.http2.window_growth.as_u64() / 1024).unwrap_or(usize::MAX);
    let server = Server {
        window_growth: Arc::new(Semaphore::new(growth.min(Semaphore::MAX_PERMITS))),
        grace: config.drain_grace,
        config: Arc::new(config),
        places,
        tasks: TaskTracker::new(),
        drain: shutdown,
        cut: CancellationToken::new(),
    };
    let _cut_when_dropped = server.cut.clone().drop_guard();
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

/// What the listeners of one [`serve`] share.
#[derive(Clone)]
struct Server {
    config: Arc<Config>,
    grace: Duration,
    places: Places,
    window_growth: Arc<Semaphore>,
    /// The connections, and handlers that outlive theirs.
    tasks: TaskTracker,
    /// Cancelled when connections should end.
    drain: CancellationToken,
    /// Cancelled when they must.
    cut: CancellationToken,
}

/// The connections that there may be.
#[derive(Clone)]
struct Places {
    free: Arc<Semaphore>,
    /// One waiter is notified when a connection needs a place; the one that has been idle longest comes first.
    room: Arc<Notify>,
}

impl Places {
    /// A place for one connection, when there is one.
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives the place to the next.
    async fn take(&self) -> OwnedSemaphorePermit {
        let free = Arc::clone(&self.free);
        if let Ok(place) = Arc::clone(&free).try_acquire_owned() {
            return place;
        }
        self.room.notify_one();
        free.acquire_owned()
            .await
            .expect("the semaphore is never closed")
    }
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
                    pause_after(&error).await;
                    continue;
                }
            };
            // One connection waits here while the rest waits in the kernel's backlog.
            let place = tokio::select! {
                biased;
                () = self.drain.cancelled() => return,
                place = self.places.take() => place,
            };
            let context = Context {
                config: Arc::clone(&self.config),
                peer: Peer {
                    address,
                    secure: acceptor.is_some(),
                },
                interim: self.config.allows_interim(address.ip()),
                drain: self.drain.clone(),
                cut: self.cut.clone(),
                tasks: self.tasks.clone(),
                shed_after: connection::SHED_AFTER,
                room: Arc::clone(&self.places.room),
                window_growth: Arc::clone(&self.window_growth),
            };
            let connection = connection::serve(stream, acceptor.clone(), context, handler.clone());
            let cut = self.cut.clone();
            self.tasks.spawn(async move {
                // A connection that is cut here is dropped, which resets it where an answer was unfinished.
                cut.run_until_cancelled(connection).await;
                drop(place);
            });
        }
    }

    /// Waits for the connections to end, and cuts those that do not.
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

/// After a failed accept: a connection that died in the backlog is no reason to wait, a full table of files is.
async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};

    if !matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    ) {
        tracing::error!(%error, "failed to accept a connection");
        sleep(Duration::from_millis(500)).await;
    }
}
