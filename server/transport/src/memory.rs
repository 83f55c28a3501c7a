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

use budget::{Budget, Held};

use crate::{Http2Config, metrics};

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
    pub(crate) fn try_chunk(&self, bytes: u64) -> Option<Held> {
        let own = self.chunk.try_take(bytes);
        own.or_else(|| self.part.try_take(bytes))
    }

    /// Waits for memory for a part of an answer.
    pub(crate) async fn chunk(&self, bytes: u64) -> Held {
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
