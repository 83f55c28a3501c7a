//! What hyper, the handler, the socket's wrapper and the connection's task know together of the current exchange.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http_body::Body;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::{Config, interim::h1::Outlet, stall::Stall};

/// The shared state of one connection.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) outlet: Arc<Outlet>,
    state: Mutex<State>,
    limits: Limits,
}

#[derive(Debug)]
struct Limits {
    head: Duration,
    write_stall: Duration,
    linger: Duration,
    linger_size: u64,
}

#[derive(Debug)]
struct State {
    /// Number of the current exchange; news of earlier ones is ignored.
    exchange: u64,
    request: Request,
    /// The request's body failed: it will not come to its end.
    failed: bool,
    response: Response,
    /// hyper has something to flush.
    unflushed: bool,
    /// The socket takes nothing, or little.
    stall: Stall,
    /// Since when there has been no exchange; counts while there is none.
    quiet: Instant,
    /// Part of a head has come.
    head: bool,
}

/// How far the request's body is.
#[derive(Debug)]
enum Request {
    /// At its end.
    Done,
    /// With the handler.
    Open,
    /// Left by the handler, short enough to be read to its end.
    Unread { rest: Incoming, until: Instant },
    /// Left by the handler, too long to be read: the connection cannot be used again.
    Abandoned,
}

/// How far the response is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Response {
    /// Wholly with hyper.
    Done,
    /// Not yet, or in part.
    Open,
    /// Its body failed; the peer must not take it for whole.
    Broken,
    /// There shall be none. Since when.
    Cut(Instant),
}

/// What a connection waits for, apart from its peer and its handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deadline {
    /// The connection is idle and should let go of its buffers.
    Shed,
    /// The rest of a head did not come.
    Head,
    /// The exchange is to be cut now.
    Cut,
    /// The rest of a body that the handler left did not come.
    Unread,
    /// The peer does not read.
    Stall,
}

impl Line {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            outlet: Arc::default(),
            state: Mutex::new(State {
                exchange: 0,
                request: Request::Done,
                failed: false,
                response: Response::Done,
                unflushed: false,
                stall: Stall::default(),
                quiet: Instant::now(),
                head: false,
            }),
            limits: Limits {
                head: config.head_timeout,
                write_stall: config.write_stall_timeout,
                linger: config.linger_timeout,
                linger_size: config.linger_size.as_u64(),
            },
        }
    }

    // The exchange.

    /// A head has come. Returns the exchange's number.
    pub(super) fn begin(&self, interim: bool) -> u64 {
        let exchange = self.outlet.begin(interim);
        let mut state = self.lock();
        state.exchange = exchange;
        state.request = Request::Open;
        state.failed = false;
        state.response = Response::Open;
        state.head = false;
        exchange
    }

    /// The request's body is at its end.
    pub(super) fn request_done(&self, exchange: u64) {
        self.change(exchange, |state| state.request = Request::Done);
    }

    /// The request's body failed, and the handler is told so.
    pub(super) fn request_failed(&self, exchange: u64) {
        self.change(exchange, |state| state.failed = true);
    }

    /// Whether the handler works on a request that will not come to its end.
    pub(super) fn has_failed(&self) -> bool {
        self.lock().failed
    }

    /// The handler left the rest of the body. It is read and discarded if that is not too much, `readable` permitting.
    pub(super) fn request_unread(&self, exchange: u64, rest: Incoming, readable: bool) {
        let short = rest
            .size_hint()
            .upper()
            .is_some_and(|size| size <= self.limits.linger_size);
        let request = if readable && short {
            Request::Unread {
                rest,
                until: Instant::now() + self.limits.linger,
            }
        } else {
            Request::Abandoned
        };
        self.change(exchange, |state| state.request = request);
    }

    /// Whether the connection ends with this exchange because its request will not be read to the end.
    pub(super) fn is_abandoned(&self) -> bool {
        matches!(self.lock().request, Request::Abandoned)
    }

    /// Whether the handler has not come to the request's end, or is dealing with its failure.
    pub(super) fn is_reading(&self) -> bool {
        matches!(self.lock().request, Request::Open | Request::Abandoned)
    }

    /// The response goes to hyper, which will write and flush it.
    pub(super) fn answering(&self) {
        self.lock().unflushed = true;
    }

    /// The response's body is wholly with hyper.
    pub(super) fn response_done(&self, exchange: u64) {
        self.change(exchange, |state| {
            if state.response == Response::Open {
                state.response = Response::Done;
            }
        });
    }

    /// The response's body failed.
    pub(super) fn response_broken(&self, exchange: u64) {
        self.change(exchange, |state| state.response = Response::Broken);
    }

    /// The handler wants the exchange cut.
    pub(super) fn cut(&self, exchange: u64) {
        self.change(exchange, |state| {
            state.response = Response::Cut(Instant::now())
        });
    }

    fn change(&self, exchange: u64, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        if state.exchange == exchange {
            change(&mut state);
            if !state.in_flight() {
                state.quiet = Instant::now();
            }
            drop(state);
            // The news may come from another task than the connection's.
            self.outlet.wake();
        }
    }

    // The socket.

    /// Bytes were handed to the socket, or tried to.
    pub(super) fn wrote(&self, result: &Poll<io::Result<usize>>) {
        let mut state = self.lock();
        state.unflushed = true;
        match result {
            Poll::Pending => state.stall.block(Instant::now()),
            Poll::Ready(Ok(written)) => state.stall.took(*written, Instant::now()),
            Poll::Ready(Err(_)) => {}
        }
    }

    /// Everything hyper had is with the socket. Tells whether there was anything.
    pub(super) fn flushed(&self) -> bool {
        let mut state = self.lock();
        state.stall.clear();
        std::mem::take(&mut state.unflushed)
    }

    /// Whether an exchange is unfinished, so that the peer must not take the connection's end for the answer's.
    pub(super) fn in_flight(&self) -> bool {
        self.lock().in_flight()
    }

    // The connection.

    /// Nothing is going on, from now.
    pub(super) fn quiet_from(&self, now: Instant) {
        self.lock().quiet = now;
    }

    /// Part of a head has come: the rest is due.
    pub(super) fn expect_head(&self) {
        self.lock().head = true;
    }

    /// The current exchange is over, however far it got.
    pub(super) fn forget(&self) {
        let mut state = self.lock();
        state.exchange = 0;
        state.request = Request::Done;
        state.response = Response::Done;
        state.unflushed = false;
    }

    /// Whether the current exchange is to be cut, and everything before it has left.
    pub(super) fn is_cut(&self) -> bool {
        let due = {
            let state = self.lock();
            matches!(state.response, Response::Cut(_)) && !state.unflushed
        };
        due && self.outlet.finish()
    }

    /// Reads and discards what a handler left of its request's body.
    pub(super) fn poll_unread(&self, task: &mut Context<'_>) {
        let mut state = self.lock();
        let Request::Unread { rest, until } = &mut state.request else {
            return;
        };
        let end = loop {
            match Pin::new(&mut *rest).poll_frame(task) {
                // The size was checked, so this ends.
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(None) => break Request::Done,
                Poll::Ready(Some(Err(_))) => break Request::Abandoned,
                Poll::Pending if *until <= Instant::now() => break Request::Abandoned,
                Poll::Pending => return,
            }
        };
        state.request = end;
        state.quiet = Instant::now();
        drop(state);
        // hyper acts on the body's end when it is polled.
        task.waker().wake_by_ref();
    }

    /// What comes next if nothing else happens; `scarce` tells whether others need the memory.
    pub(super) fn deadline(
        &self,
        shed_after: Duration,
        scarce: bool,
    ) -> Option<(Instant, Deadline)> {
        let state = self.lock();
        let stall = state.stall.deadline(self.limits.write_stall, scarce);
        let stall = stall.map(|at| (at, Deadline::Stall));
        let own = match (&state.request, state.response) {
            // Interim responses before the cut are worth a short wait.
            (_, Response::Cut(since)) => Some((since + self.limits.linger, Deadline::Cut)),
            (Request::Unread { until, .. }, _) => Some((*until, Deadline::Unread)),
            (_, Response::Open | Response::Broken) => None,
            (Request::Open | Request::Abandoned, Response::Done) => None,
            (Request::Done, Response::Done) if state.unflushed => None,
            (Request::Done, Response::Done) if state.head => {
                Some((state.quiet + self.limits.head, Deadline::Head))
            }
            (Request::Done, Response::Done) => Some((state.quiet + shed_after, Deadline::Shed)),
        };
        [stall, own].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn in_flight(&self) -> bool {
        !matches!(self.request, Request::Done) || self.response != Response::Done || self.unflushed
    }
}
