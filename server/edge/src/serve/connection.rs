//! One accepted connection, from its first byte to the protocol that serves it.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll, ready},
    time::Duration,
};

use axum::{body::Body, response::Response};
use bytes::{Bytes, BytesMut};
use http::Request;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    runtime::Handle,
    sync::{Notify, Semaphore},
    time::{sleep, timeout},
};
use tokio_rustls::server::TlsStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

use super::{Config, Peer, h1, h2, tls::Acceptor};

/// What every HTTP/2 connection begins with (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A service that answers every request, as a `Router` does.
pub(super) trait Handler:
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

/// What a connection's parts need to know of its surroundings.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) config: Arc<Config>,
    pub(super) peer: Peer,
    /// Whether this peer may get interim responses.
    pub(super) interim: bool,
    /// Finish what is going on, begin nothing.
    pub(super) drain: CancellationToken,
    /// End at once.
    pub(super) cut: CancellationToken,
    /// What the server waits for at its end.
    pub(super) tasks: TaskTracker,
    /// How long an HTTP/1 connection without a request keeps its buffers.
    pub(super) shed_after: Duration,
    /// Told when a new connection waits for a place: one idle connection should make room.
    pub(super) room: Arc<Notify>,
    /// What is left of [`Http2Config::window_growth`](super::Http2Config::window_growth), in KiB.
    pub(super) window_growth: Arc<Semaphore>,
}

/// Long enough to reuse the buffers in a run of requests.
pub(super) const SHED_AFTER: Duration = Duration::from_millis(500);

impl Context {
    pub(super) fn max_head_size(&self) -> usize {
        usize::try_from(self.config.max_head_size.as_u64()).unwrap_or(usize::MAX)
    }

    pub(super) fn linger_size(&self) -> u64 {
        self.config.linger_size.as_u64()
    }

    /// Runs the rest of a handler whose connection is gone.
    pub(super) fn run_on<F: Future<Output: Send> + Send + 'static>(&self, handler: F) {
        let cut = self.cut.clone();
        // Without a runtime everything ends anyway.
        if let Ok(runtime) = Handle::try_current() {
            let handler = async move { cut.run_until_cancelled(handler).await.map(drop) };
            self.tasks.spawn_on(handler, &runtime);
        }
    }
}

/// The bytes below a protocol.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Makes closing look like a failure to the peer, not like an end.
    fn abort(&mut self);
}

/// A TCP connection, with or without TLS.
enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Serves an accepted connection to its end.
pub(super) async fn serve<S: Handler>(
    socket: TcpStream,
    acceptor: Option<Acceptor>,
    context: Context,
    handler: S,
) {
    let address = context.peer.address;
    // Answers and interim responses are written whole; Nagle's algorithm would only delay the last part.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(peer = %address, %error, "connection gone before it began");
        return;
    }
    let (mut io, negotiated) = match acceptor {
        None => (Socket::Plain(socket), None),
        Some(acceptor) => match Box::pin(timeout(
            context.config.tls_handshake_timeout,
            acceptor.accept(socket),
        ))
        .await
        {
            Ok(Ok(stream)) => {
                let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
                (Socket::Tls(Box::new(stream)), protocol)
            }
            Ok(Err(error)) => {
                return tracing::debug!(peer = %address, %error, "TLS handshake failed");
            }
            Err(_) => return tracing::debug!(peer = %address, "TLS handshake timed out"),
        },
    };
    let Some(first) = first_bytes(&mut io, &context).await else {
        return;
    };
    let sniffed = match negotiated.as_deref() {
        Some(b"h2") => Some((Protocol::Http2, first)),
        Some(b"http/1.1") => Some((Protocol::Http1, first)),
        _ => timeout(context.config.head_timeout, sniff(&mut io, first))
            .await
            .ok()
            .and_then(Result::ok),
    };
    let context = Arc::new(context);
    match sniffed {
        Some((Protocol::Http1, ahead)) => h1::serve(io, ahead, context, handler).await,
        Some((Protocol::Http2, ahead)) => Box::pin(h2::serve(io, ahead, context, handler)).await,
        None => tracing::debug!(peer = %address, "connection ended before its first request"),
    }
}

enum Protocol {
    Http1,
    Http2,
}

/// Tells the protocol from the first bytes: HTTP/2 by its preface, anything else is left to HTTP/1 to refuse.
async fn sniff(io: &mut Socket, first: Bytes) -> io::Result<(Protocol, Bytes)> {
    let mut bytes = BytesMut::from(first);
    loop {
        let length = bytes.len().min(PREFACE.len());
        if bytes[..length] != PREFACE[..length] {
            return Ok((Protocol::Http1, bytes.freeze()));
        }
        if length == PREFACE.len() {
            return Ok((Protocol::Http2, bytes.freeze()));
        }
        if io.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Waits for a request to begin and returns its first bytes; `None` when the connection should close instead: its peer
/// is gone or silent for too long, its place is needed, or the server shuts down.
///
/// Holds no buffer while it waits.
pub(super) async fn first_bytes<I: AsyncRead + Unpin>(
    io: &mut I,
    context: &Context,
) -> Option<Bytes> {
    let read = std::future::poll_fn(|task| {
        let mut space = [0; 2048];
        let mut buffer = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut *io).poll_read(task, &mut buffer)).ok();
        Poll::Ready(Some(Bytes::copy_from_slice(buffer.filled())).filter(|bytes| !bytes.is_empty()))
    });
    // Dropping a read that is pending loses nothing; the others hold no state worth keeping.
    tokio::select! {
        biased;
        bytes = read => bytes,
        () = context.drain.cancelled() => None,
        () = sleep(context.config.keep_alive_timeout) => None,
        () = context.room.notified() => None,
    }
}

impl Transport for Socket {
    fn abort(&mut self) {
        let stream = match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_mut().0,
        };
        // Fails only if the connection is gone already.
        let _ = stream.set_zero_linger();
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(task, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(task, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(task, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(task, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(task, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(task, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(task),
            Self::Tls(stream) => Pin::new(stream).poll_flush(task),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(task),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(task),
        }
    }
}
