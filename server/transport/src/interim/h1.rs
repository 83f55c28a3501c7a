//! Interim responses on HTTP/1.1: a small queue between handlers and the connection's writer.
//!
//! hyper knows nothing of them, so they are written beneath it, by the wrapper around the socket
//! (`h1::wire`). Why that is safe with hyper 1.12:
//!
//! 1. hyper flushes the wrapper only when its own write buffer is empty (three places in
//!    `proto/h1/io.rs`);
//! 2. it parses the next head only after the previous response is wholly encoded;
//! 3. until a handler has returned, the only bytes it may add are a complete `100 Continue`.
//!
//! So bytes written *from inside `poll_flush`, while the current exchange's response is not handed
//! to hyper*, stand exactly between two messages. [`InterimQueue::take`] is called from there and
//! nowhere else.
//!
//! hyper adds its `100 Continue` when the body is first asked for, and what hyper adds leaves
//! before what is queued here. Proxies exist that relay only the first interim response of an
//! exchange, and it is the 104 that a client cannot do without. So a body whose client waits for
//! the `100` is not asked for until the queue is taken ([`InterimQueue::poll_taken`]): what a
//! handler sent before it read the body leaves before the `100`. On HTTP/2 both go through one
//! queue.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use futures::task::AtomicWaker;
use http::{HeaderMap, StatusCode};

use super::InterimError;

/// Maximum number of bytes that may wait for one connection.
const MAX_QUEUED: usize = 16 * 1024;

/// One connection's queue of interim responses.
#[derive(Debug, Default)]
pub(crate) struct InterimQueue {
    queue: Mutex<Queue>,
    connection: AtomicWaker,
    /// The task of the body that waits for the queue to be taken.
    body: AtomicWaker,
}

#[derive(Debug, Default)]
struct Queue {
    /// Number of the current exchange; senders of earlier ones are refused.
    exchange: u64,
    gate: Gate,
    bytes: BytesMut,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// Nothing may be queued or written: there is no exchange, or hyper has its final response.
    #[default]
    Shut,
    /// The handler is running.
    Open,
    /// The handler has returned; its response waits until the queue is empty.
    Emptying,
}

/// A sender on behalf of one exchange.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    interim_queue: Arc<InterimQueue>,
    exchange: u64,
}

impl Sender {
    pub(crate) fn new(interim_queue: Arc<InterimQueue>, exchange: u64) -> Self {
        Self {
            interim_queue,
            exchange,
        }
    }

    pub(crate) fn send(&self, status: StatusCode, fields: &HeaderMap) -> Result<(), InterimError> {
        let response = encode(status, fields);
        {
            let mut queue = self.interim_queue.lock();
            if queue.exchange != self.exchange || queue.gate != Gate::Open {
                return Err(InterimError::Closed);
            }
            if queue.bytes.len() + response.len() > MAX_QUEUED {
                return Err(InterimError::Full);
            }
            queue.bytes.extend_from_slice(&response);
        }
        self.interim_queue.connection.wake();
        Ok(())
    }
}

impl InterimQueue {
    /// Starts the next exchange and returns its number. `allowed` tells if it may have interim
    /// responses.
    pub(crate) fn begin(&self, allowed: bool) -> u64 {
        let mut queue = self.lock();
        queue.exchange += 1;
        queue.gate = if allowed { Gate::Open } else { Gate::Shut };
        queue.bytes.clear();
        self.body.wake();
        queue.exchange
    }

    /// Closes the queue for the current exchange; returns true once all of it has been taken for
    /// writing.
    pub(crate) fn finish(&self) -> bool {
        let mut queue = self.lock();
        queue.gate = if queue.gate == Gate::Shut || queue.bytes.is_empty() {
            Gate::Shut
        } else {
            Gate::Emptying
        };
        queue.gate == Gate::Shut
    }

    /// Takes the bytes to write now. Only called inside the wrapper's `poll_flush`; see the module.
    pub(crate) fn take(&self) -> Option<Bytes> {
        let mut queue = self.lock();
        if queue.gate == Gate::Shut || queue.bytes.is_empty() {
            return None;
        }
        if queue.gate == Gate::Emptying {
            // The response that waits for these bytes is polled again after the flush.
            self.connection.wake();
        }
        self.body.wake();
        // Not `split`: an idle connection should not keep the buffer.
        Some(std::mem::take(&mut queue.bytes).freeze())
    }

    /// Waits until nothing that `exchange` sent is queued.
    pub(crate) fn poll_taken(&self, exchange: u64, task: &mut Context<'_>) -> Poll<()> {
        // Registered before the check, so that no wake-up falls between.
        self.body.register(task.waker());
        let queue = self.lock();
        if queue.exchange == exchange && queue.gate != Gate::Shut && !queue.bytes.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Closes the queue of a connection that is gone.
    pub(crate) fn close(&self) {
        let mut queue = self.lock();
        queue.gate = Gate::Shut;
        queue.bytes = BytesMut::new();
        self.body.wake();
    }

    /// Wakes the connection's task.
    pub(crate) fn wake(&self) {
        self.connection.wake();
    }

    /// Sets the task that [`wake`](Self::wake) wakes.
    pub(crate) fn register(&self, waker: &std::task::Waker) {
        self.connection.register(waker);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No code that can panic runs under the lock half way through a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Encodes an interim response. Field values cannot hold CR or LF, so nothing can be smuggled in.
fn encode(status: StatusCode, fields: &HeaderMap) -> Bytes {
    let mut bytes = BytesMut::with_capacity(256);
    bytes.put_slice(b"HTTP/1.1 ");
    bytes.put_slice(status.as_str().as_bytes());
    bytes.put_u8(b' ');
    bytes.put_slice(match status.as_u16() {
        104 => b"Upload Resumption Supported",
        _ => status
            .canonical_reason()
            .unwrap_or("Interim Response")
            .as_bytes(),
    });
    bytes.put_slice(b"\r\n");
    for (name, value) in fields {
        bytes.put_slice(name.as_str().as_bytes());
        bytes.put_slice(b": ");
        bytes.put_slice(value.as_bytes());
        bytes.put_slice(b"\r\n");
    }
    bytes.put_slice(b"\r\n");
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESUMPTION: StatusCode = match StatusCode::from_u16(104) {
        Ok(status) => status,
        Err(_) => panic!("104 is in range"),
    };

    #[test]
    fn the_reason_phrase_of_104_is_the_registered_one() {
        let fields =
            HeaderMap::from_iter([(http::header::LOCATION, "/uploads/1".parse().unwrap())]);
        assert_eq!(
            encode(RESUMPTION, &fields),
            "HTTP/1.1 104 Upload Resumption Supported\r\nlocation: /uploads/1\r\n\r\n"
        );
    }

    #[test]
    fn a_stale_sender_is_refused() {
        let interim_queue = Arc::new(InterimQueue::default());
        let stale = Sender::new(Arc::clone(&interim_queue), interim_queue.begin(true));
        interim_queue.begin(true);
        assert_eq!(
            stale.send(RESUMPTION, &HeaderMap::new()),
            Err(InterimError::Closed)
        );
        assert!(interim_queue.take().is_none());
    }

    #[test]
    fn a_peer_that_does_not_read_fills_the_queue() {
        let interim_queue = Arc::new(InterimQueue::default());
        let sender = Sender::new(Arc::clone(&interim_queue), interim_queue.begin(true));
        let sent = std::iter::repeat_with(|| sender.send(RESUMPTION, &HeaderMap::new()))
            .take_while(Result::is_ok)
            .take(MAX_QUEUED)
            .count();
        assert_eq!(
            sender.send(RESUMPTION, &HeaderMap::new()),
            Err(InterimError::Full)
        );
        let length = encode(RESUMPTION, &HeaderMap::new()).len();
        assert_eq!(sent, MAX_QUEUED / length);
        assert_eq!(interim_queue.take().unwrap().len(), sent * length);
    }

    #[test]
    fn a_body_waits_for_what_was_sent_before_it_is_asked_for() {
        let mut task = Context::from_waker(std::task::Waker::noop());
        let interim_queue = Arc::new(InterimQueue::default());
        let exchange = interim_queue.begin(true);
        assert!(interim_queue.poll_taken(exchange, &mut task).is_ready());
        let sender = Sender::new(Arc::clone(&interim_queue), exchange);
        sender.send(RESUMPTION, &HeaderMap::new()).unwrap();
        assert!(interim_queue.poll_taken(exchange, &mut task).is_pending());
        assert!(interim_queue.take().is_some());
        assert!(interim_queue.poll_taken(exchange, &mut task).is_ready());
        // A connection that is gone takes nothing, and its bodies have to learn of that.
        sender.send(RESUMPTION, &HeaderMap::new()).unwrap();
        interim_queue.close();
        assert!(interim_queue.poll_taken(exchange, &mut task).is_ready());
    }

    #[test]
    fn a_response_waits_for_what_is_queued() {
        let interim_queue = Arc::new(InterimQueue::default());
        let sender = Sender::new(Arc::clone(&interim_queue), interim_queue.begin(true));
        sender.send(RESUMPTION, &HeaderMap::new()).unwrap();
        assert!(!interim_queue.finish());
        assert_eq!(
            sender.send(RESUMPTION, &HeaderMap::new()),
            Err(InterimError::Closed)
        );
        assert!(interim_queue.take().is_some());
        assert!(interim_queue.finish());
        assert!(interim_queue.take().is_none());
    }
}
