//! One HTTP/2 connection, on the `h2` crate directly: hyper's own HTTP/2 hides interim responses.
//!
//! The connection's task reads, writes and accepts; each stream's handler runs in a task of its own.

mod meter;
mod stream;
mod window;
mod wire;

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context as Task, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server};
use http::Request;
use tokio::{
    task::JoinSet,
    time::{Instant, Sleep, sleep, timeout},
};

use self::{window::Window, wire::Wire};
use super::connection::{Context, Handler, PREFACE, Transport};
use crate::interim::h2::Backlog;

/// Most bytes of an answer that h2 holds for a stream beyond what the socket and the window take.
const MAX_SEND_BUFFER: usize = 256 * 1024;

type Connection<I> = server::Connection<Wire<I>, Bytes>;
type Stream = (Request<RecvStream>, server::SendResponse<Bytes>);

/// Serves streams until either side closes. `ahead` has been read already.
pub(super) async fn serve<I: Transport, S: Handler>(
    io: I,
    ahead: Bytes,
    context: Arc<Context>,
    handler: S,
) {
    let wire = Wire::new(io, ahead, PREFACE.len());
    let mut streams = JoinSet::new();
    let result = match handshake(&wire, &context).await {
        Ok(connection) => run(connection, &wire, &mut streams, &context, handler).await,
        Err(error) => Err(error),
    };
    drop(wire);
    if let Err(error) = result {
        tracing::debug!(peer = %context.peer.address, %error, "connection broke");
    }
    // Handlers whose request is unread learn of the end from its body; the others drop out.
    while streams.join_next().await.is_some() {}
}

async fn handshake<I: Transport>(wire: &Wire<I>, context: &Context) -> io::Result<Connection<I>> {
    let limits = &context.config.http2;
    let size = |size: bytesize::ByteSize| u32::try_from(size.as_u64()).unwrap_or(u32::MAX / 8);
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(size(limits.window))
        .initial_connection_window_size(size(limits.window) * 2)
        .max_frame_size(size(limits.max_frame_size))
        .max_concurrent_streams(limits.max_streams)
        // Streams that were reset before they were accepted are forgotten when they are.
        .max_pending_accept_reset_streams(limits.max_streams as usize)
        .max_header_list_size(size(context.config.max_head_size))
        .max_send_buffer_size(MAX_SEND_BUFFER);
    let mut handshake = pin!(builder.handshake::<_, Bytes>(wire.clone()));
    let begun = poll_fn(|task| {
        let connection = handshake.as_mut().poll(task);
        let _ = wire.poll_drain(task)?;
        connection.map_err(io::Error::other)
    });
    timeout(context.config.head_timeout, begun).await?
}

async fn run<I: Transport, S: Handler>(
    mut connection: Connection<I>,
    wire: &Wire<I>,
    streams: &mut JoinSet<()>,
    context: &Arc<Context>,
    handler: S,
) -> io::Result<()> {
    let pings = connection.ping_pong().expect("taken once");
    let mut window = Window::new(
        pings,
        &context.config.http2,
        Arc::clone(&context.window_growth),
    );
    let backlog = Arc::new(Backlog::default());
    let mut phase = Phase::Idle(Instant::now());
    let mut timer = pin!(sleep(context.config.keep_alive_timeout));
    let mut stall = pin!(sleep(context.config.write_stall_timeout));
    let mut drain = pin!(context.drain.cancelled());
    let mut draining = false;
    loop {
        if let Some(deadline) = phase.deadline(context) {
            timer.as_mut().reset(deadline);
        }
        // `next` keeps its state in the connection, `join_next` in the set; the others are only signals.
        tokio::select! {
            biased;
            next = poll_fn(|task| {
                match poll_next(&mut connection, wire, &backlog, &mut window, task) {
                    Ok(None) => poll_stall(wire, stall.as_mut(), context.config.write_stall_timeout, task).map(Ok),
                    Ok(Some(next)) => Poll::Ready(Ok(next)),
                    Err(error) => Poll::Ready(Err(error)),
                }
            }) => match next? {
                Next::Stream((request, responder)) => {
                    phase = phase.busy();
                    let serving = stream::serve(
                        request,
                        responder,
                        Arc::clone(&backlog),
                        Arc::clone(context),
                        handler.clone(),
                    );
                    streams.spawn(serving);
                }
                Next::Closed => return Ok(()),
                Next::Flood => {
                    tracing::info!(peer = %context.peer.address, "connection cut: too many frames that carry nothing");
                    return abort(connection, wire, Reason::ENHANCE_YOUR_CALM, context).await;
                }
                Next::Stall => {
                    wire.abort();
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read"));
                }
            },
            Some(ended) = streams.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(%error, "a handler panicked; its stream is reset");
                }
                if streams.is_empty() {
                    wire.release();
                    phase = phase.idle();
                }
            }
            () = drain.as_mut(), if !draining => {
                draining = true;
                connection.graceful_shutdown();
                phase = phase.closing(streams.is_empty());
            }
            () = context.room.notified(), if matches!(phase, Phase::Idle(_)) => {
                connection.graceful_shutdown();
                phase = phase.closing(true);
            }
            () = timer.as_mut(), if phase.deadline(context).is_some() => {
                if matches!(phase, Phase::Closing(_)) {
                    return Ok(());
                }
                connection.graceful_shutdown();
                phase = phase.closing(true);
            }
        }
    }
}

/// What a connection is about.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// No streams. Since when.
    Idle(Instant),
    /// Streams; and whether to close when they have ended.
    Busy { last: bool },
    /// Told to close, without streams. Since when.
    Closing(Instant),
}

impl Phase {
    fn busy(self) -> Self {
        match self {
            Self::Idle(_) => Self::Busy { last: false },
            // A stream that crossed our GOAWAY.
            Self::Closing(_) => Self::Busy { last: true },
            Self::Busy { last } => Self::Busy { last },
        }
    }

    fn idle(self) -> Self {
        match self {
            Self::Busy { last: true } | Self::Closing(_) => Self::Closing(Instant::now()),
            Self::Busy { last: false } | Self::Idle(_) => Self::Idle(Instant::now()),
        }
    }

    fn closing(self, empty: bool) -> Self {
        if empty {
            Self::Closing(Instant::now())
        } else {
            Self::Busy { last: true }
        }
    }

    /// When the phase has lasted too long; a busy one has no end of its own.
    fn deadline(self, context: &Context) -> Option<Instant> {
        match self {
            Self::Idle(since) => Some(since + context.config.keep_alive_timeout),
            Self::Closing(since) => Some(since + context.config.linger_timeout),
            Self::Busy { .. } => None,
        }
    }
}

#[expect(clippy::large_enum_variant, reason = "made and taken apart at once")]
enum Next {
    Stream(Stream),
    /// Closed in an orderly manner.
    Closed,
    /// The peer sends too many frames.
    Flood,
    /// The peer reads nothing.
    Stall,
}

/// Lets h2 work, then puts everything that came of it on the wire.
fn poll_next<I: Transport>(
    connection: &mut Connection<I>,
    wire: &Wire<I>,
    backlog: &Backlog,
    window: &mut Window,
    task: &mut Task<'_>,
) -> io::Result<Option<Next>> {
    let waiting = backlog.waiting();
    let next = connection.poll_accept(task);
    window.poll(connection, wire.received(), task);
    if wire.poll_drain(task)?.is_ready() {
        backlog.sent(waiting);
    }
    if wire.is_flooded() {
        return Ok(Some(Next::Flood));
    }
    match next {
        Poll::Ready(Some(Ok(stream))) => Ok(Some(Next::Stream(stream))),
        Poll::Ready(Some(Err(error))) => Err(io::Error::other(error)),
        Poll::Ready(None) => Ok(Some(Next::Closed)),
        Poll::Pending => Ok(None),
    }
}

/// Ready when the peer has read nothing for `limit`.
fn poll_stall<I: Transport>(
    wire: &Wire<I>,
    mut timer: Pin<&mut Sleep>,
    limit: Duration,
    task: &mut Task<'_>,
) -> Poll<Next> {
    let Some(since) = wire.blocked() else {
        return Poll::Pending;
    };
    if timer.deadline() != since + limit {
        timer.as_mut().reset(since + limit);
    }
    timer.poll(task).map(|()| Next::Stall)
}

/// Ends the connection at once, with a reason that the peer gets if it reads.
async fn abort<I: Transport>(
    mut connection: Connection<I>,
    wire: &Wire<I>,
    reason: Reason,
    context: &Context,
) -> io::Result<()> {
    connection.abrupt_shutdown(reason);
    let closed = poll_fn(|task| {
        let closed = connection.poll_closed(task);
        let _ = wire.poll_drain(task)?;
        closed.map_err(io::Error::other)
    });
    timeout(context.config.linger_timeout, closed)
        .await
        .unwrap_or(Ok(()))
}
