//! The state of the current exchange, which hyper, the handler, the socket's wrapper and the
//! connection's task share.

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

use crate::{Config, interim::h1::InterimQueue, stall::Stall};

/// The shared state of one connection.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) interim_queue: Arc<InterimQueue>,
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
    /// Number of the current exchange; reports on earlier ones are ignored.
    exchange: u64,
    request: Request,
    /// Set if the request's body failed: its end will not arrive.
    failed: bool,
    response: Response,
    /// Set while hyper has something to flush.
    unflushed: bool,
    /// The time for which the socket has taken too little.
    stall: Stall,
    /// The end of the last exchange; of use while there is none.
    quiet: Instant,
    /// Set when part of a head has arrived.
    head: bool,
}

/// The progress of the request's body.
#[derive(Debug)]
enum Request {
    /// Read to its end.
    Done,
    /// In the hands of the handler.
    Open,
    /// Left by the handler, short enough to be read to its end.
    Unread { rest: Incoming, until: Instant },
    /// Left by the handler, too long to be read: the connection cannot be used again.
    Abandoned,
}

/// The progress of the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Response {
    /// hyper has all of it.
    Done,
    /// hyper has nothing or a part of it.
    Open,
    /// The body failed; the peer must not take it for whole.
    Broken,
    /// The exchange is to be cut without a response. Since then.
    Cut(Instant),
}

/// The events that a connection waits for, apart from those of its peer and its handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deadline {
    /// The connection is idle and should drop its buffers.
    Shed,
    /// The rest of a head did not arrive.
    Head,
    /// The exchange is to be cut now.
    Cut,
    /// The rest of a body that the handler left did not arrive.
    Unread,
    /// The peer does not read.
    Stall,
}

impl Shared {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            interim_queue: Arc::default(),
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

    /// Begins an exchange when its head has arrived, and returns its number.
    pub(super) fn begin(&self, interim: bool) -> u64 {
        let exchange = self.interim_queue.begin(interim);
        let mut state = self.lock();
        state.exchange = exchange;
        state.request = Request::Open;
        state.failed = false;
        state.response = Response::Open;
        state.head = false;
        exchange
    }

    /// Notes that the request's body was read to its end.
    pub(super) fn request_done(&self, exchange: u64) {
        self.change(exchange, |state| state.request = Request::Done);
    }

    /// Notes that the request's body failed, of which the handler knows.
    pub(super) fn request_failed(&self, exchange: u64) {
        self.change(exchange, |state| state.failed = true);
    }

    /// Returns true if the handler runs on a request whose end will not arrive.
    pub(super) fn has_failed(&self) -> bool {
        self.lock().failed
    }

    /// Takes the rest of a body that the handler left. It is read and discarded if it is `readable`
    /// and not too long.
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

    /// Returns true if the connection ends with this exchange because its request will not be read
    /// to the end.
    pub(super) fn is_abandoned(&self) -> bool {
        matches!(self.lock().request, Request::Abandoned)
    }

    /// Returns true if the handler has not read its request to the end, or is dealing with its
    /// failure.
    pub(super) fn is_reading(&self) -> bool {
        matches!(self.lock().request, Request::Open | Request::Abandoned)
    }

    /// Notes that hyper gets the response, which it will write and flush.
    pub(super) fn answering(&self) {
        self.lock().unflushed = true;
    }

    /// Notes that hyper has all of the response's body.
    pub(super) fn response_done(&self, exchange: u64) {
        self.change(exchange, |state| {
            if state.response == Response::Open {
                state.response = Response::Done;
            }
        });
    }

    /// Notes that the response's body failed.
    pub(super) fn response_broken(&self, exchange: u64) {
        self.change(exchange, |state| state.response = Response::Broken);
    }

    /// Notes that the handler wants the exchange cut.
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
            // The change may come from another task than the connection's.
            self.interim_queue.wake();
        }
    }

    // The socket.

    /// Notes the result of a write to the socket.
    pub(super) fn wrote(&self, result: &Poll<io::Result<usize>>) {
        let mut state = self.lock();
        state.unflushed = true;
        match result {
            Poll::Pending => state.stall.block(Instant::now()),
            Poll::Ready(Ok(written)) => state.stall.took(*written, Instant::now()),
            Poll::Ready(Err(_)) => {}
        }
    }

    /// Notes that the socket has all of hyper's bytes. Returns true if there were any.
    pub(super) fn flushed(&self) -> bool {
        let mut state = self.lock();
        state.stall.clear();
        std::mem::take(&mut state.unflushed)
    }

    /// Returns true if an exchange is unfinished, so that the peer must not take the connection's
    /// end for the answer's.
    pub(super) fn in_flight(&self) -> bool {
        self.lock().in_flight()
    }

    // The connection.

    /// Sets the time since which there is no exchange.
    pub(super) fn quiet_from(&self, now: Instant) {
        self.lock().quiet = now;
    }

    /// Notes that part of a head has arrived and the rest is due.
    pub(super) fn expect_head(&self) {
        self.lock().head = true;
    }

    /// Drops the current exchange, however far it got.
    pub(super) fn forget(&self) {
        let mut state = self.lock();
        state.exchange = 0;
        state.request = Request::Done;
        state.response = Response::Done;
        state.unflushed = false;
    }

    /// Returns true if the current exchange is to be cut, and everything before it has left.
    pub(super) fn is_cut(&self) -> bool {
        let due = {
            let state = self.lock();
            matches!(state.response, Response::Cut(_)) && !state.unflushed
        };
        due && self.interim_queue.finish()
    }

    /// Reads and discards the body that a handler left.
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

    /// Returns the next deadline; `scarce` tells if memory is short.
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
