//! One HTTP/1 connection: hyper while there is a request, nothing but the socket while there is
//! none.
//!
//! hyper holds 16 KiB and more for a connection that waits for its next request. So hyper is
//! dropped between requests: a connection alternates between *idle* (a socket, a timer) and *busy*
//! (hyper over a [`Wire`]). That also gives the wait for a request a timeout of its own, apart from
//! the one for the rest of a head.

mod exchange;
#[cfg(test)]
mod fuzz;
mod shared;
mod wire;

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context as Task, Poll},
};

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, Sleep, timeout};

use self::{
    exchange::Exchanges,
    shared::{Deadline, Shared},
    wire::Wire,
};
use crate::{
    context::{Context, Handler},
    io::{Io, first_bytes},
    metrics,
    places::Activity,
    refusal,
};

/// Maximum size of hyper's read buffer, and the bytes waiting for the socket at which hyper takes
/// no more of an answer's body. More does not transfer faster (measured); a slow peer costs so much
/// at most.
const BUFFER_SIZE: usize = 64 * 1024;

/// Serves requests until either side closes. `ahead` holds bytes that have been read already.
pub(crate) async fn serve<I: Io, S: Handler>(
    io: I,
    ahead: Bytes,
    context: Arc<Context>,
    handler: S,
) {
    let shared = Arc::new(Shared::new(&context.config));
    let mut wire = Wire::new(io, ahead, Arc::clone(&shared));
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .max_headers(context.config.max_head_fields)
        .max_header_size(context.max_head_size())
        .max_buf_size(BUFFER_SIZE.max(context.max_head_size() + 8 * 1024));
    loop {
        if !wire.has_ahead() {
            context.place.set_activity(Activity::Idle);
            match first_bytes(&mut wire, &context).await {
                Some(bytes) => wire.put_ahead(bytes),
                None => return close(wire, Linger::No, &context).await,
            }
        }
        context.place.set_activity(Activity::Unserved);
        // Boxed, so that an idle connection's task is small.
        match Box::pin(busy(&builder, wire, Arc::clone(&context), handler.clone())).await {
            Outcome::Idle(idle) => wire = idle,
            Outcome::Close(wire, linger) => return close(wire, linger, &context).await,
            Outcome::Broken => return context.place.close(),
        }
    }
}

/// The outcome of [`busy`].
enum Outcome<I: Io> {
    /// The connection waits for the next request.
    Idle(Wire<I>),
    /// The last answer is written.
    Close(Wire<I>, Linger),
    /// The connection failed or was cut off; dropping the wire has closed or reset it.
    Broken,
}

/// The choice to read on for a while before closing.
enum Linger {
    Yes,
    /// The peer is not sending anything.
    No,
}

/// The state of the connection when the server began to drain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drained {
    Idle,
    Busy,
}

/// Runs hyper until the connection has nothing to do.
async fn busy<I: Io, S: Handler>(
    builder: &http1::Builder,
    mut wire: Wire<I>,
    context: Arc<Context>,
    handler: S,
) -> Outcome<I> {
    let shared = wire.shared();
    shared.quiet_from(Instant::now());
    let mut timer = pin!(tokio::time::sleep(context.shed_after));
    let mut draining = pin!(context.drain.cancelled());
    let mut leaving = pin!(context.place.evicted());
    let mut drained = None;
    let mut last_head = pin!(tokio::time::sleep(context.config.linger_timeout));
    loop {
        let exchanges = Exchanges::new(Arc::clone(&shared), Arc::clone(&context), handler.clone());
        let mut connection = builder.serve_connection(TokioIo::new(wire), exchanges);
        let mut asked_to_close = false;
        let event = poll_fn(|task| {
            shared.interim_queue.register(task.waker());
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(task) {
                return Poll::Ready(Event::Ended(result));
            }
            // After the first poll: before it, hyper would close without parsing the bytes that
            // were read ahead.
            if !asked_to_close && (drained.is_some() || draining.as_mut().poll(task).is_ready()) {
                asked_to_close = true;
                drained.get_or_insert(if shared.in_flight() {
                    Drained::Busy
                } else {
                    Drained::Idle
                });
                last_head
                    .as_mut()
                    .reset(Instant::now() + context.config.linger_timeout);
                Pin::new(&mut connection).graceful_shutdown();
                task.waker().wake_by_ref();
            }
            // hyper would wait for the rest of a first head.
            if asked_to_close && !shared.in_flight() && last_head.as_mut().poll(task).is_ready() {
                return Poll::Ready(Event::Leave);
            }
            shared.poll_unread(task);
            if shared.is_cut() {
                return Poll::Ready(Event::Expired(Deadline::Cut));
            }
            if leaving.as_mut().poll(task).is_ready() {
                return Poll::Ready(Event::Leave);
            }
            poll_deadline(&shared, &context, timer.as_mut(), task).map(Event::Expired)
        })
        .await;
        match event {
            Event::Ended(result) => {
                let wire = connection.into_parts().io.into_inner();
                return end(result, wire, drained, &context);
            }
            Event::Leave => {
                tracing::debug!(peer = %context.peer.address, "connection closed to make room, or at shutdown");
                return Outcome::Broken;
            }
            Event::Expired(deadline) => {
                let parts = connection.into_parts();
                wire = parts.io.into_inner();
                wire.put_ahead(parts.read_buf);
                // hyper goes on with the part of a head that has arrived.
                if deadline == Deadline::Shed && wire.has_ahead() {
                    context.place.set_activity(Activity::Unserved);
                    shared.expect_head();
                } else {
                    return expire(deadline, wire, &context).await;
                }
            }
        }
    }
}

/// Maps the end of hyper's connection to an outcome.
fn end<I: Io>(
    result: hyper::Result<()>,
    wire: Wire<I>,
    drained: Option<Drained>,
    context: &Context,
) -> Outcome<I> {
    match result {
        Ok(()) if drained == Some(Drained::Idle) => Outcome::Close(wire, Linger::No),
        Ok(()) => Outcome::Close(wire, Linger::Yes),
        Err(error) if error.is_parse() => Outcome::Close(wire, Linger::Yes),
        Err(error) => {
            tracing::debug!(peer = %context.peer.address, %error, "connection broke");
            Outcome::Broken
        }
    }
}

/// Acts on an expired deadline.
async fn expire<I: Io>(deadline: Deadline, mut wire: Wire<I>, context: &Context) -> Outcome<I> {
    match deadline {
        Deadline::Shed => Outcome::Idle(wire),
        Deadline::Head => {
            let timeout = refusal::raw(http::StatusCode::REQUEST_TIMEOUT);
            let _ = wire.write_all(&timeout).await;
            Outcome::Close(wire, Linger::Yes)
        }
        Deadline::Cut => {
            wire.shared().forget();
            Outcome::Close(wire, Linger::Yes)
        }
        Deadline::Unread | Deadline::Stall => {
            metrics::stalled();
            tracing::debug!(peer = %context.peer.address, "peer does not read its answer");
            Outcome::Broken
        }
    }
}

enum Event {
    Ended(hyper::Result<()>),
    Expired(Deadline),
    /// The connection is evicted, or the server shuts down and has waited for a request long
    /// enough.
    Leave,
}

/// Polls the one timer of a busy connection against the nearest deadline.
///
/// The timer may be set too early, never too late: most deadlines pass unused, and moving a timer
/// costs more than waking up for nothing now and then.
fn poll_deadline(
    shared: &Shared,
    context: &Context,
    mut timer: Pin<&mut Sleep>,
    task: &mut Task<'_>,
) -> Poll<Deadline> {
    loop {
        let scarce = context.memory.is_scarce();
        let Some((at, deadline)) = shared.deadline(context.shed_after, scarce) else {
            return Poll::Pending;
        };
        if at <= Instant::now() {
            if deadline != Deadline::Unread {
                return Poll::Ready(deadline);
            }
            shared.poll_unread(task);
            continue;
        }
        if at < timer.deadline() || timer.is_elapsed() {
            timer.as_mut().reset(at);
        }
        if timer.as_mut().poll(task).is_pending() {
            return Poll::Pending;
        }
    }
}

/// Closes the connection so that the peer sees the answer: ends our side, then reads on for a
/// while, since closing a socket with unread bytes resets it and may destroy an answer on its way
/// (RFC 9112 §9.6).
async fn close<I: Io>(mut wire: Wire<I>, linger: Linger, context: &Context) {
    wire.disarm();
    context.place.set_activity(Activity::Unserved);
    let ending = async {
        let _ = timeout(context.config.linger_timeout, wire.shutdown()).await;
        if matches!(linger, Linger::Yes) {
            let discarding = discard(&mut wire, context.linger_size());
            let _ = timeout(context.config.linger_timeout, discarding).await;
        }
    };
    tokio::select! {
        biased;
        () = ending => {}
        () = context.place.evicted() => {}
    }
}

/// Reads and discards up to `max` bytes.
async fn discard<I: Io>(wire: &mut Wire<I>, max: u64) {
    let mut buffer = vec![0; 16 * 1024];
    let mut left = max;
    while let Ok(n @ 1..) = wire.read(&mut buffer).await {
        let Some(rest) = left.checked_sub(n as u64) else {
            return;
        };
        left = rest;
    }
}
