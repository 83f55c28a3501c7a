//! Receive windows that grow on paths whose delay needs it.
//!
//! One window a round trip is the most that an upload can carry. Small windows keep memory small,
//! so they start small; a `PING` measures the bytes that arrive in a round trip, and if those are
//! most of the window, the window grows to four times its size.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use budget::{Budget, Held};
use bytes::Bytes;
use h2::{Ping, PingPong, server::Connection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::Http2Config;

/// Minimum time between two measurements.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Window {
    pings: PingPong,
    /// The window of a stream, in bytes; a connection's is twice that.
    size: u32,
    max: u32,
    sample: Sample,
    /// The budget for the growth of all windows, and the part that this connection has taken.
    growth: Budget,
    grown: Vec<Held>,
}

enum Sample {
    /// No measurement since then, and the bytes received by then.
    Paused { since: Instant, received: u64 },
    /// A ping is on its way; the bytes received when it left.
    Pinged { received: u64 },
}

impl Window {
    pub(super) fn new(pings: PingPong, config: &Http2Config, growth: Budget) -> Self {
        let bytes = |size: bytesize::ByteSize| u32::try_from(size.as_u64()).unwrap_or(u32::MAX / 8);
        Self {
            pings,
            size: bytes(config.window),
            max: bytes(config.max_window),
            sample: Sample::Paused {
                since: Instant::now(),
                received: 0,
            },
            growth,
            grown: Vec::new(),
        }
    }

    /// Advances the measurement; `received` counts the bytes of content since the connection began.
    pub(super) fn poll<I>(
        &mut self,
        connection: &mut Connection<I, Bytes>,
        received: u64,
        task: &mut Context<'_>,
    ) where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        match self.sample {
            Sample::Paused {
                since,
                received: before,
            } => {
                let due = self.size < self.max && received > before && since.elapsed() >= PAUSE;
                if due && self.pings.send_ping(Ping::opaque()).is_ok() {
                    self.sample = Sample::Pinged { received };
                    // Registers the task, and makes h2 send the ping.
                    let _ = self.pings.poll_pong(task);
                    task.waker().wake_by_ref();
                }
            }
            Sample::Pinged { received: before } => {
                if let Poll::Ready(pong) = self.pings.poll_pong(task) {
                    if pong.is_ok() && received - before >= u64::from(self.size) / 3 * 2 {
                        self.grow(connection);
                        // h2 sends the update when it is polled next.
                        task.waker().wake_by_ref();
                    }
                    self.sample = Sample::Paused {
                        since: Instant::now(),
                        received,
                    };
                }
            }
        }
    }

    fn grow<I>(&mut self, connection: &mut Connection<I, Bytes>)
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let size = (self.size * 4).min(self.max);
        // The connection's window grows by twice as much as a stream's.
        let Some(held) = self.growth.try_take(u64::from(size - self.size) * 2) else {
            return;
        };
        // Refused while an earlier change is not acknowledged; then the next measurement tries
        // again.
        if connection.set_initial_window_size(size).is_ok() {
            connection.set_target_window_size(size * 2);
            self.size = size;
            self.grown.push(held);
        }
    }
}
