//! The memory that connections hold for their peers.
//!
//! Bounds of what a peer can make the server hold:
//!
//! - an unread answer (the chunk that was read from the store, and the bytes that wait for the
//!   socket): [`CHUNK`] a connection, then its part of the budget
//! - streams beyond a few, with the heads of their requests, and interim responses that wait for the
//!   socket: [`SMALL`] a connection, then its part of the budget
//! - bodies of requests that arrive ahead of their handlers:
//!   [`Http2Config::window`](crate::Http2Config::window), twice a connection; the growth of a window
//!   is taken from the budget
//! - buffers of HTTP/1 and HTTP/2 themselves: 64 KiB a connection, each way
//! - bytes in the kernel that are not on their way yet:
//!   [`Config::max_unsent`](crate::Config::max_unsent) a connection
//!
//! A connection has its own part whatever others hold. So a healthy connection gets on when
//! attackers hold all the rest: one chunk at a time, with fewer streams. A store is asked for a
//! chunk only when there are both a window and memory for it.
//!
//! All connections together hold half of the budget at most: unread answers leave the rest to
//! uploads and packs. When little is left ([`Budget::is_scarce`]), peers that take their answers
//! too slowly are cut ([`Stall`](crate::stall::Stall)).

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll, ready},
};

use axum::body::Body;
use budget::{Budget, Held};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::{Http2Config, context::Context, metrics};

/// Maximum number of bytes read from an answer's body at a time, as far as the body's pieces allow.
pub(crate) const CHUNK: u64 = 64 * 1024;

/// Memory that the streams and interim responses of one connection take before they need the
/// budget.
const SMALL: u64 = 128 * 1024;

/// The memory of all connections of one [`serve`](crate::serve).
#[derive(Debug, Clone)]
pub struct Memory {
    /// The half of the whole that connections may hold.
    connections: Budget,
    per_connection: u64,
    whole: Budget,
}

impl Memory {
    /// Lets connections hold half of `whole`, and each no more than the configuration says.
    #[must_use]
    pub fn new(whole: &Budget, config: &budget::Config) -> Self {
        Self {
            connections: whole.part(whole.limit() / 2),
            per_connection: config.per_connection.as_u64(),
            whole: whole.clone(),
        }
    }

    /// Returns the budget for the growth of all connections' windows.
    pub(crate) fn windows(&self, config: &Http2Config) -> Budget {
        self.whole.part(config.window_growth.as_u64())
    }

    /// Returns the memory of a new connection.
    pub(crate) fn connection(&self) -> ConnectionMemory {
        ConnectionMemory {
            chunk: Budget::new(CHUNK),
            small: Budget::new(SMALL),
            part: self.connections.part(self.per_connection),
            connections: self.connections.clone(),
        }
    }

    /// Returns the number of bytes in use, by connections and others.
    pub(crate) fn held(&self) -> u64 {
        self.whole.held()
    }
}

impl Default for Memory {
    fn default() -> Self {
        let config = budget::Config::default();
        Self::new(&Budget::new(config.total.as_u64()), &config)
    }
}

/// The memory of one connection: a little of its own, then its part of the budget.
#[derive(Debug)]
pub(crate) struct ConnectionMemory {
    chunk: Budget,
    small: Budget,
    part: Budget,
    connections: Budget,
}

impl ConnectionMemory {
    /// Takes memory for a part of an answer, if it is available now.
    fn try_chunk(&self, bytes: u64) -> Option<Held> {
        let own = self.chunk.try_take(bytes);
        own.or_else(|| self.part.try_take(bytes))
    }

    /// Waits for memory for a part of an answer.
    async fn chunk(&self, bytes: u64) -> Held {
        metrics::waited();
        tokio::select! {
            held = self.chunk.take(bytes) => held,
            held = self.part.take(bytes) => held,
        }
    }

    /// Takes memory for a stream or an interim response, if it is available.
    pub(crate) fn try_small(&self, bytes: u64) -> Option<Held> {
        let own = self.small.try_take(bytes);
        own.or_else(|| self.part.try_take(bytes))
    }

    /// Returns true if memory is short, so that peers have to take their answers faster.
    pub(crate) fn is_scarce(&self) -> bool {
        self.connections.is_scarce()
    }
}

/// An answer's body that is read as far as there is memory. Its bytes count until they are dropped:
/// on the wire, or with their connection.
pub(crate) struct CountedBody {
    body: Body,
    context: Arc<Context>,
    /// Memory for the next piece.
    held: Option<Held>,
    taking: Option<Pin<Box<dyn Future<Output = Held> + Send>>>,
    /// A piece that needs more memory than was taken for it.
    large: Option<Bytes>,
    /// Dropped with the last of the bytes.
    alive: Option<mpsc::Sender<()>>,
}

struct CountedBytes {
    bytes: Bytes,
    _held: Held,
    _alive: Option<mpsc::Sender<()>>,
}

impl AsRef<[u8]> for CountedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl CountedBody {
    pub(crate) fn new(body: Body, context: Arc<Context>) -> Self {
        Self {
            body,
            context,
            held: None,
            taking: None,
            large: None,
            alive: None,
        }
    }

    /// Also returns a channel that closes once the body and all of its bytes are dropped.
    pub(crate) fn watched(body: Body, context: Arc<Context>) -> (Self, mpsc::Receiver<()>) {
        let (alive, gone) = mpsc::channel(1);
        let counted = Self {
            alive: Some(alive),
            ..Self::new(body, context)
        };
        (counted, gone)
    }

    /// Returns the size of the next piece, as far as it is known.
    fn wanted(&self) -> u64 {
        match &self.large {
            Some(piece) => piece.len() as u64,
            None => self.body.size_hint().upper().unwrap_or(CHUNK).min(CHUNK),
        }
    }

    fn poll_held(&mut self, task: &mut Task<'_>) -> Poll<Held> {
        if let Some(held) = self.held.take() {
            return Poll::Ready(held);
        }
        if self.taking.is_none() {
            let wanted = self.wanted();
            if let Some(held) = self.context.memory.try_chunk(wanted) {
                return Poll::Ready(held);
            }
            let context = Arc::clone(&self.context);
            self.taking = Some(Box::pin(async move { context.memory.chunk(wanted).await }));
        }
        let taking = self.taking.as_mut().expect("set above");
        let held = ready!(taking.as_mut().poll(task));
        self.taking = None;
        Poll::Ready(held)
    }

    fn count(&self, bytes: Bytes, mut held: Held) -> Frame<Bytes> {
        held.keep(bytes.len() as u64);
        Frame::data(Bytes::from_owner(CountedBytes {
            bytes,
            _held: held,
            _alive: self.alive.clone(),
        }))
    }
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        loop {
            let held = ready!(this.poll_held(task));
            if let Some(piece) = this.large.take() {
                return Poll::Ready(Some(Ok(this.count(piece, held))));
            }
            let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(task) else {
                this.held = Some(held);
                return Poll::Pending;
            };
            let data = match frame {
                Some(Ok(frame)) => frame.into_data().map_err(Ok),
                Some(Err(error)) => Err(Err(error)),
                None => return Poll::Ready(None),
            };
            match data {
                Ok(data) if data.len() as u64 <= CHUNK => {
                    return Poll::Ready(Some(Ok(this.count(data, held))));
                }
                // Waits without holding memory, as everybody does.
                Ok(data) => this.large = Some(data),
                Err(other) => return Poll::Ready(Some(other)),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.large.is_none() && self.body.is_end_stream()
    }

    /// Only called before the first poll.
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
