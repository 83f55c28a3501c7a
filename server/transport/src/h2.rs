//! One HTTP/2 connection, on the `h2` crate directly: hyper's own HTTP/2 hides interim responses.
//!
//! The connection's task reads, writes and accepts; the handler of each stream runs in a task of
//! its own.

mod meter;
mod stream;
mod window;
mod wire;

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context as Task, Poll},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server};
use http::Request;
use tokio::{
    task::{self, JoinSet},
    time::{Instant, Sleep, sleep, timeout},
};

use self::{window::Window, wire::Wire};
use crate::interim::h2::Backlog;
use crate::{
    context::{Context, Handler},
    io::Io,
    metrics,
    places::Activity,
};

/// The first bytes of every HTTP/2 connection (RFC 9113 §3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Maximum number of bytes of an answer that h2 holds for a stream while the socket is full: one
/// chunk being sent, and the next.
const MAX_SEND_BUFFER: usize = 128 * 1024;

/// Memory of a stream beside the head of its request: its task, its handler, and its state in h2.
/// 22 KiB were measured where the handler waits for PostgreSQL, 8 KiB where it does not wait.
const STREAM: usize = 24 * 1024;

/// Memory of a field, beside its name and value.
const FIELD: usize = 64;

type Connection<I> = server::Connection<Wire<I>, Bytes>;
type Stream = (Request<RecvStream>, server::SendResponse<Bytes>);

/// Serves streams until either side closes. `ahead` holds bytes that have been read already.
pub(crate) async fn serve<I: Io, S: Handler>(
    io: I,
    ahead: Bytes,
    context: Arc<Context>,
    handler: S,
) {
    let wire = Wire::new(io, ahead, PREFACE.len());
    let mut streams = Streams::default();
    let handshake = tokio::select! {
        biased;
        handshake = handshake(&wire, &context) => handshake,
        () = context.drain.cancelled() => return,
        () = context.place.evicted() => return,
    };
    let result = match handshake {
        Ok(connection) => run(connection, &wire, &mut streams, &context, handler).await,
        Err(error) => Err(error),
    };
    drop(wire);
    context.place.close();
    if let Err(error) = result {
        tracing::debug!(peer = %context.peer.address, %error, "connection broke");
    }
    // Handlers with an unread request learn of the end from its body; the others are dropped.
    while streams.tasks.join_next().await.is_some() {}
}

async fn handshake<I: Io>(wire: &Wire<I>, context: &Context) -> io::Result<Connection<I>> {
    let limits = &context.config.http2;
    let size = |size: bytesize::ByteSize| u32::try_from(size.as_u64()).unwrap_or(u32::MAX / 8);
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(size(limits.window))
        .initial_connection_window_size(size(limits.window) * 2)
        .max_frame_size(size(limits.max_frame_size))
        .max_concurrent_streams(limits.max_streams)
        // Streams that were reset before they were accepted are dropped when they are.
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

async fn run<I: Io, S: Handler>(
    mut connection: Connection<I>,
    wire: &Wire<I>,
    streams: &mut Streams,
    context: &Arc<Context>,
    handler: S,
) -> io::Result<()> {
    let pings = connection.ping_pong().expect("taken once");
    let mut window = Window::new(pings, &context.config.http2, context.windows.clone());
    let backlog = Arc::new(Backlog::new(Arc::clone(context)));
    let mut phase = Phase::Idle(Instant::now());
    let mut timer = pin!(sleep(context.config.keep_alive_timeout));
    let mut stall = pin!(sleep(context.config.write_stall_timeout));
    let mut drain = pin!(context.drain.cancelled());
    let mut draining = false;
    let mut served = false;
    let max_streams = context.config.http2.max_streams as usize;
    loop {
        if served {
            context.place.set_activity(phase.activity());
        }
        // A handler whose stream was reset may run on, and counts until it ends.
        let is_throttled = context.place.is_throttled();
        let takes_more = streams.tasks.len() < max_streams && !is_throttled;
        if let Some(deadline) = phase.deadline(context) {
            timer.as_mut().reset(deadline);
        }
        // `next` keeps its state in the connection, `ended` in the set; the others are signals.
        tokio::select! {
            biased;
            next = poll_fn(|task| {
                let next = poll_next(&mut connection, takes_more, wire, &backlog, &mut window, task);
                match next.transpose() {
                    Some(next) => Poll::Ready(next),
                    None => poll_stall(wire, stall.as_mut(), context, task).map(Ok),
                }
            }) => match next? {
                Next::Stream(stream) => {
                    phase = phase.busy();
                    served = true;
                    if let Some(id) = streams.accept(stream, &backlog, context, &handler) {
                        wire.opened(id);
                    } else if streams.tasks.is_empty() {
                        phase = phase.idle();
                    }
                }
                Next::Closed => return Ok(()),
                Next::Flood => return calm(connection, wire, context).await,
                Next::Stall => {
                    metrics::stalled();
                    wire.abort();
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read"));
                }
            },
            Some((stream, answered)) = streams.ended() => {
                wire.closed(stream, answered);
                if streams.tasks.is_empty() {
                    wire.release();
                    phase = phase.idle();
                }
            }
            () = drain.as_mut(), if !draining => {
                draining = true;
                connection.graceful_shutdown();
                phase = phase.closing(streams.tasks.is_empty());
            }
            () = context.place.unthrottled(), if is_throttled => {}
            () = context.place.evicted() => {
                return leave(connection, wire, context).await;
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

/// Returns the memory of a stream and the head of its request.
fn size(request: &Request<RecvStream>) -> u64 {
    let fields = request.headers().iter();
    let fields: usize = fields
        .map(|(name, value)| FIELD + name.as_str().len() + value.len())
        .sum();
    let target = request
        .uri()
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    (STREAM + fields + target) as u64
}

/// The streams that are being served.
#[derive(Default)]
struct Streams {
    /// Each returns true if its request was answered.
    tasks: JoinSet<bool>,
    numbers: HashMap<task::Id, u32>,
}

impl Streams {
    /// Serves a stream and returns its number; `None` if there is no memory for it.
    fn accept<S: Handler>(
        &mut self,
        (request, mut responder): Stream,
        backlog: &Arc<Backlog>,
        context: &Arc<Context>,
        handler: &S,
    ) -> Option<u32> {
        let Some(held) = context.memory.try_small(size(&request)) else {
            metrics::refused();
            // Nothing was processed: the client may try again (RFC 9113 §8.7).
            responder.send_reset(Reason::REFUSED_STREAM);
            return None;
        };
        let number = responder.stream_id().into();
        let serving = stream::serve(
            request,
            responder,
            Arc::clone(backlog),
            Arc::clone(context),
            handler.clone(),
        );
        let task = self.tasks.spawn(async move {
            let _open = (metrics::Open::stream(), held);
            serving.await
        });
        self.numbers.insert(task.id(), number);
        Some(number)
    }

    /// Waits for the next stream that ends; returns its number, and true if it was answered.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    async fn ended(&mut self) -> Option<(u32, bool)> {
        let (task, answered) = match self.tasks.join_next_with_id().await? {
            Ok(ended) => ended,
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(%error, "a handler panicked; its stream is reset");
                }
                (error.id(), false)
            }
        };
        Some((self.numbers.remove(&task).unwrap_or_default(), answered))
    }
}

/// The phase of a connection.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// No streams, since then.
    Idle(Instant),
    /// Streams; `last` if the connection closes when they have ended.
    Busy { last: bool },
    /// Closing, without streams, since then.
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

    fn activity(self) -> Activity {
        match self {
            Self::Idle(_) => Activity::Idle,
            Self::Busy { .. } => Activity::Serving,
            Self::Closing(_) => Activity::Unserved,
        }
    }

    /// Returns the time at which the phase has lasted too long; a busy one has no end of its own.
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
    /// The connection closed in an orderly way.
    Closed,
    /// The peer sends too many frames.
    Flood,
    /// The peer reads nothing.
    Stall,
}

/// Lets h2 work, then writes the frames that it made. Streams that are not accepted wait in h2,
/// which bounds them.
fn poll_next<I: Io>(
    connection: &mut Connection<I>,
    takes_more: bool,
    wire: &Wire<I>,
    backlog: &Backlog,
    window: &mut Window,
    task: &mut Task<'_>,
) -> io::Result<Option<Next>> {
    let waiting = backlog.waiting();
    let next = match takes_more {
        true => connection.poll_accept(task),
        false => connection
            .poll_closed(task)
            .map(|closed| closed.err().map(Err)),
    };
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

/// Completes when the peer has read too little for too long.
fn poll_stall<I: Io>(
    wire: &Wire<I>,
    mut timer: Pin<&mut Sleep>,
    context: &Context,
    task: &mut Task<'_>,
) -> Poll<Next> {
    let limit = context.config.write_stall_timeout;
    let Some(deadline) = wire.deadline(limit, context.memory.is_scarce()) else {
        return Poll::Pending;
    };
    if timer.deadline() != deadline {
        timer.as_mut().reset(deadline);
    }
    timer.poll(task).map(|()| Next::Stall)
}

/// Closes the connection at once to make room. The peer gets the `GOAWAY` if there is room for it.
async fn leave<I: Io>(
    mut connection: Connection<I>,
    wire: &Wire<I>,
    context: &Context,
) -> io::Result<()> {
    tracing::debug!(peer = %context.peer.address, "connection closed: its place was needed");
    connection.abrupt_shutdown(Reason::NO_ERROR);
    poll_fn(|task| {
        let closed = connection.poll_closed(task);
        let _ = wire.poll_drain(task)?;
        match closed {
            Poll::Ready(Err(error)) => Poll::Ready(Err(io::Error::other(error))),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
        }
    })
    .await
}

/// Cuts the connection of a peer that sends too many frames. The peer gets the reason if it reads.
async fn calm<I: Io>(
    mut connection: Connection<I>,
    wire: &Wire<I>,
    context: &Context,
) -> io::Result<()> {
    metrics::flooded();
    tracing::info!(peer = %context.peer.address, "connection cut: too many frames that carry nothing");
    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
    let closed = poll_fn(|task| {
        let closed = connection.poll_closed(task);
        let _ = wire.poll_drain(task)?;
        closed.map_err(io::Error::other)
    });
    timeout(context.config.linger_timeout, closed)
        .await
        .unwrap_or(Ok(()))
}
