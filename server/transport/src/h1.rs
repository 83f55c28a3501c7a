//! One HTTP/1 connection: hyper while there is something to do, nothing but the socket while there is not.
//!
//! hyper holds 16 KiB and more for a connection that waits for its next request. So between requests it is taken apart
//! again: a connection alternates between *idle* (a socket, a timer) and *busy* (hyper over a [`Wire`]). That also gives
//! the wait for a request its own timeout, apart from the one for the rest of a head.

mod exchange;
#[cfg(test)]
mod fuzz;
mod line;
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
    line::{Deadline, Line},
    wire::Wire,
};
use crate::{
    connection::{Transport, first_bytes},
    context::{Context, Handler},
    metrics,
    places::Standing,
    refusal,
};

/// hyper's read buffer grows to this, and it takes no more of an answer's body once this much waits for the socket.
/// More does not transfer faster (measured); a slow peer costs so much at most.
const BUFFER_SIZE: usize = 64 * 1024;

/// Serves requests until either side closes. `ahead` has been read already.
pub(crate) async fn serve<I: Transport, S: Handler>(
    io: I,
    ahead: Bytes,
    context: Arc<Context>,
    handler: S,
) {
    let line = Arc::new(Line::new(&context.config));
    let mut wire = Wire::new(io, ahead, Arc::clone(&line));
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .max_headers(context.config.max_head_fields)
        .max_header_size(context.max_head_size())
        .max_buf_size(BUFFER_SIZE.max(context.max_head_size() + 8 * 1024));
    loop {
        if !wire.has_ahead() {
            context.place.stand(Standing::Idle);
            match first_bytes(&mut wire, &context).await {
                Some(bytes) => wire.put_ahead(bytes),
                None => return close(wire, Linger::No, &context).await,
            }
        }
        context.place.stand(Standing::Unserved);
        // Boxed, so that an idle connection's task is small.
        match Box::pin(busy(&builder, wire, Arc::clone(&context), handler.clone())).await {
            Outcome::Idle(idle) => wire = idle,
            Outcome::Close(wire, linger) => return close(wire, linger, &context).await,
            Outcome::Broken => return context.place.gone(),
        }
    }
}

/// How a busy spell ended.
enum Outcome<I: Transport> {
    /// Waiting for the next request.
    Idle(Wire<I>),
    /// Everything to be said is said.
    Close(Wire<I>, Linger),
    /// The connection failed or was cut off; dropping the wire has closed or reset it.
    Broken,
}

/// Whether to read on for a while before closing.
enum Linger {
    Yes,
    /// The peer is not in the middle of anything.
    No,
}

/// What was going on when the server began to drain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drained {
    Idle,
    Busy,
}

/// Runs hyper until the connection has nothing to do.
async fn busy<I: Transport, S: Handler>(
    builder: &http1::Builder,
    mut wire: Wire<I>,
    context: Arc<Context>,
    handler: S,
) -> Outcome<I> {
    let line = wire.line();
    line.quiet_from(Instant::now());
    let mut timer = pin!(tokio::time::sleep(context.shed_after));
    let mut draining = pin!(context.drain.cancelled());
    let mut leaving = pin!(context.place.asked_to_leave());
    let mut drained = None;
    let mut last_head = pin!(tokio::time::sleep(context.config.linger_timeout));
    loop {
        let exchanges = Exchanges::new(Arc::clone(&line), Arc::clone(&context), handler.clone());
        let mut connection = builder.serve_connection(TokioIo::new(wire), exchanges);
        let mut told = false;
        let event = poll_fn(|task| {
            line.outlet.register(task.waker());
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(task) {
                return Poll::Ready(Event::Ended(result));
            }
            // After the first poll: before it, hyper would close without a look at what was read ahead.
            if !told && (drained.is_some() || draining.as_mut().poll(task).is_ready()) {
                told = true;
                drained.get_or_insert(if line.in_flight() {
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
            if told && !line.in_flight() && last_head.as_mut().poll(task).is_ready() {
                return Poll::Ready(Event::Leave);
            }
            line.poll_unread(task);
            if line.is_cut() {
                return Poll::Ready(Event::Expired(Deadline::Cut));
            }
            if leaving.as_mut().poll(task).is_ready() {
                return Poll::Ready(Event::Leave);
            }
            poll_deadline(&line, &context, timer.as_mut(), task).map(Event::Expired)
        })
        .await;
        wire = match event {
            Event::Ended(result) => {
                let wire = connection.into_parts().io.into_inner();
                return match result {
                    Ok(()) if drained == Some(Drained::Idle) => Outcome::Close(wire, Linger::No),
                    Ok(()) => Outcome::Close(wire, Linger::Yes),
                    Err(error) if error.is_parse() => Outcome::Close(wire, Linger::Yes),
                    Err(error) => {
                        tracing::debug!(peer = %context.peer.address, %error, "connection broke");
                        Outcome::Broken
                    }
                };
            }
            Event::Leave => {
                tracing::debug!(peer = %context.peer.address, "connection closed to make room, or to end");
                return Outcome::Broken;
            }
            Event::Expired(deadline) => {
                let parts = connection.into_parts();
                let mut wire = parts.io.into_inner();
                wire.put_ahead(parts.read_buf);
                match deadline {
                    Deadline::Shed if !wire.has_ahead() => return Outcome::Idle(wire),
                    // Part of a head is there: hyper goes on with it.
                    Deadline::Shed => {
                        context.place.stand(Standing::Unserved);
                        line.expect_head();
                        wire
                    }
                    Deadline::Head => {
                        let _ = wire
                            .write_all(&refusal::raw(http::StatusCode::REQUEST_TIMEOUT))
                            .await;
                        return Outcome::Close(wire, Linger::Yes);
                    }
                    Deadline::Cut => {
                        line.forget();
                        return Outcome::Close(wire, Linger::Yes);
                    }
                    Deadline::Unread | Deadline::Stall => {
                        metrics::stalled();
                        tracing::debug!(peer = %context.peer.address, "peer does not read its answer");
                        return Outcome::Broken;
                    }
                }
            }
        };
    }
}

enum Event {
    Ended(hyper::Result<()>),
    Expired(Deadline),
    /// The connection's place is needed, or the server shuts down and has waited for a request long enough.
    Leave,
}

/// Polls the one timer of a busy connection against the nearest deadline.
///
/// The timer may be set too early, never too late: most deadlines pass unused, and moving a timer costs more than
/// being woken for nothing now and then.
fn poll_deadline(
    line: &Line,
    context: &Context,
    mut timer: Pin<&mut Sleep>,
    task: &mut Task<'_>,
) -> Poll<Deadline> {
    loop {
        let scarce = context.memory.is_scarce();
        let Some((at, deadline)) = line.deadline(context.shed_after, scarce) else {
            return Poll::Pending;
        };
        if at <= Instant::now() {
            if deadline != Deadline::Unread {
                return Poll::Ready(deadline);
            }
            line.poll_unread(task);
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

/// Closes so that the peer sees what was sent: no more bytes from us, then reading on for a while, since closing a
/// socket with unread bytes resets it and may destroy an answer on its way (RFC 9112 §9.6).
async fn close<I: Transport>(mut wire: Wire<I>, linger: Linger, context: &Context) {
    wire.disarm();
    context.place.stand(Standing::Unserved);
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
        () = context.place.asked_to_leave() => {}
    }
}

/// Reads up to `most` bytes, for nothing.
async fn discard<I: Transport>(wire: &mut Wire<I>, most: u64) {
    let mut buffer = vec![0; 16 * 1024];
    let mut left = most;
    while let Ok(n @ 1..) = wire.read(&mut buffer).await {
        let Some(rest) = left.checked_sub(n as u64) else {
            return;
        };
        left = rest;
    }
}
